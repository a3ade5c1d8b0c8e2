//! What the tests of several files need.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_debug_implementations,
    reason = "a test fails by panicking, and prints none of these"
)]

pub mod certificates;

/// The example of the README is compiled and run, so that it stays true.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub mod readme {}
