//! Tests of watches, live views with their snapshots, and published values on servers. The tests of
//! live views on the embedded store are in `without_server/live.rs`.

mod live_config;
mod live_equivalence;
mod live_fire;
mod live_servers;
mod live_snapshot;
mod per_entry;
mod per_entry_paths;
mod published;
mod snapshot;
mod watch_resync;
