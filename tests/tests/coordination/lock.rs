//! `Lock`: one holder at a time, in order of arrival, under every fault.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod cost;
mod etcdctl;
mod example;
mod faults;
mod foreign;
mod names;
mod processes;
mod stores;
