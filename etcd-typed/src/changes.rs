//! Typed changes.
