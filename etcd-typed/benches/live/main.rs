//! What it costs to read a live view, beside other ways to share a value between threads; and what a change of one key costs a view, by the size of
//! what it shows.
//!
//! ```text
//! cargo bench -p etcd-typed --no-default-features --features derive --bench live
//! ```
//!
//! All are measured in turn, in several rounds; what is shown is the median of the rounds, and ratios within one run. Compare those: times are the
//! machine's. Nothing is asserted of times. What is asserted is counted: a read allocates nothing, and what a change of one key of a map allocates does
//! not grow with the map. `cargo test` runs it through for that, without measuring.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench shows what it measures and fails by panicking")]

mod apply;
mod read;

use std::time::Duration;

/// How much is measured.
struct Effort {
    rounds: usize,
    /// For which reads of one kind are measured in one round.
    reading: Duration,
    /// For which changes of one kind are measured in one round.
    applying: Duration,
    /// Of the maps.
    sizes: &'static [u32],
}

const MEASURE: Effort =
    Effort { rounds: 9, reading: Duration::from_millis(20), applying: Duration::from_millis(60), sizes: &[10, 1_000, 100_000] };
const RUN_THROUGH: Effort = Effort { rounds: 1, reading: Duration::ZERO, applying: Duration::ZERO, sizes: &[10, 1_000] };

fn main() {
    // Cargo says so to benches, and only when it is to measure.
    let measures = std::env::args().any(|argument| argument == "--bench");
    let effort = if measures { MEASURE } else { RUN_THROUGH };
    if !measures {
        println!("only run through: the times below mean nothing\n");
    }
    read::run(&effort);
    apply::run(&effort);
}

/// The one in the middle of those that could be measured; not a number if there is none.
fn median(mut measured: Vec<f64>) -> f64 {
    measured.retain(|one| !one.is_nan());
    measured.sort_by(f64::total_cmp);
    measured.get(measured.len() / 2).copied().unwrap_or(f64::NAN)
}
