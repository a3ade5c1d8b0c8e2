//! Tests of the stores: their contract, and their behaviour under faults. Also tests the harness
//! that starts the servers.

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
