//! `Schema`.
