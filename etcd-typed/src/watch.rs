//! The watch engine.
