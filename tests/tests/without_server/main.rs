//! Tests that start no server: of pure functions, of the memory store (mostly with paused time),
//! and of the library's source code.

mod call_limit;
mod checks;
mod conformance_sees;
mod cooperative;
mod derive;
mod idle;
mod instructions;
mod layering;
mod live;
mod panics;
mod promises;
mod public_api;
mod semantics;
mod unchanged;
mod usage;
mod values;
