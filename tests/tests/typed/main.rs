//! Entries, structs and maps on every store: what each call does, and what it costs.

mod differential_typed;
mod dry_runs;
mod expiry;
mod guarded;
mod levels;
mod namespaces;
mod outside_runtime;
mod raw;
mod removals;
mod restored;
mod round_trips;
mod runtimes;
mod schema_versions;
mod stored_forms;
mod typed;
mod underscores;
mod written_structs;
