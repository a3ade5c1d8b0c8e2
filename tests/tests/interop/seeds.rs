//! What the READMEs of Etcd.jl (Julia) and cetcd (Clojure) show, in our words: each section of theirs is a test here, run on a real v2 server
//! with the results that they print, and on v3 and in memory as far as the notion exists there; where it does not, the refusal is asserted.
//!
//! Files are the READMEs' chapters.

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
