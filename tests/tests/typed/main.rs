//! Entries, structs and maps on every store: what each call does, and what it costs.

mod adopted_leases;
mod differential_typed;
mod dry_runs;
mod enums;
mod expiry;
mod guarded;
mod levels;
mod lists_and_transactions;
mod namespaces;
mod outside_runtime;
mod raw;
mod removals;
mod restored;
mod round_trips;
mod runtimes;
mod schema_versions;
mod section_defaults;
mod serde_configs;
mod serde_names;
mod stored_forms;
mod typed;
mod underscores;
mod whole_structs;
mod written_structs;
