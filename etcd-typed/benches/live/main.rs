//! Measures what it costs to read a live view, compared with other ways to share a value between
//! threads, and what a change of one key costs a live view, by the number of entries in the view.
//!
//! ```text
//! cargo bench -p etcd-typed --no-default-features --features derive --bench live
//! ```
//!
//! Each round measures all kinds in turn. The output shows the median of the rounds, and the ratios
//! within one run. Compare the ratios, since the times depend on the machine. No time is asserted, but
//! allocations are: a read allocates nothing, and the allocations of a change of one map key do not
//! grow with the map. `cargo test` runs the benchmark once for these assertions, without measuring.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench shows what it measures and fails by panicking")]

mod apply;
mod read;

use std::time::Duration;

/// How much the benchmark measures.
struct Effort {
    rounds: usize,
    /// How long each round measures each kind of read.
    reading: Duration,
    /// How long each round measures each kind of change.
    applying: Duration,
    /// The sizes of the measured maps, in entries.
    sizes: &'static [u32],
}

const MEASURE: Effort =
    Effort { rounds: 9, reading: Duration::from_millis(20), applying: Duration::from_millis(60), sizes: &[10, 1_000, 100_000] };
const RUN_THROUGH: Effort = Effort { rounds: 1, reading: Duration::ZERO, applying: Duration::ZERO, sizes: &[10, 1_000] };

fn main() {
    // `cargo bench` passes this argument, and `cargo test` does not.
    let measures = std::env::args().any(|argument| argument == "--bench");
    let effort = if measures { MEASURE } else { RUN_THROUGH };
    if !measures {
        println!("only run through: the times below mean nothing\n");
    }
    read::run(&effort);
    apply::run(&effort);
}

/// Returns the median of the values that are not NaN. If all values are NaN, returns NaN.
fn median(mut measured: Vec<f64>) -> f64 {
    measured.retain(|one| !one.is_nan());
    measured.sort_by(f64::total_cmp);
    measured.get(measured.len() / 2).copied().unwrap_or(f64::NAN)
}
