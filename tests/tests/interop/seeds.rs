//! The READMEs of Etcd.jl (Julia) and cetcd (Clojure), rewritten with this library. Each of their
//! sections is a test here. It runs on a real v2 server with the results that the README prints,
//! and on v3 and in memory where those have the feature. Where they do not, the refusal is
//! asserted.
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
