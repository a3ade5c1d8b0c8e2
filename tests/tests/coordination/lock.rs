//! `Lock`: one at a time, in the order in which they came, whatever happens to whom.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod cost;
mod etcdctl;
mod example;
mod faults;
mod foreign;
mod names;
mod processes;
mod stores;
