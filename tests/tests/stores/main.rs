//! Tests of the stores and of the harness that starts their servers: the contract and faults.

mod bad_input;
mod conformance;
mod differential;
mod extremes;
mod harness;
mod mixed_cluster;
mod rotation;
mod v2_store;
mod v3_store;
mod watch_faults;
