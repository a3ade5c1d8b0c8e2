//! `Client`.
