//! The READMEs of Etcd.jl (Julia) and cetcd (Clojure), rewritten with this library. Each section of
//! a README is a test. The test runs on a real v2 server, and must give the results that the README
//! prints. It also runs on v3 and in memory. If these stores do not have the feature, the test
//! checks that the call is refused.
//!
//! Each file is a chapter of a README.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_names, reason = "`foo`, `bar` and `baz` are the READMEs' own keys")]

#[macro_use]
mod bed;

mod cetcd;
mod cluster;
mod deleting;
mod errors;
mod leading;
mod locking;
mod retrieving;
mod setting;
mod watching;
