//! What is measured. A case is a file below: what a peer is told, what it does with it, what its report says, and the goal.

mod election_hand_over;
mod lock_hand_over;

use std::time::Duration;

use crate::Result;
use crate::report::Report;

/// How much is measured.
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// For how long those who want a lock contend for it.
    contention: Duration,
    /// How often an election's leader changes while the follower waited for 3 to 100 ms.
    short_waits: u32,
    /// The same after 250 ms.
    long_waits: u32,
}

impl Effort {
    pub(crate) const FULL: Self = Self { rounds: 5, contention: Duration::from_secs(5), short_waits: 100, long_waits: 30 };
    pub(crate) const QUICK: Self = Self { rounds: 3, contention: Duration::from_millis(1500), short_waits: 25, long_waits: 8 };
}

/// The same work for every peer.
pub(crate) struct Case {
    pub(crate) title: String,
    /// What a peer is told: the case's name, and its parameters.
    pub(crate) work: Vec<String>,
    pub(crate) operation: &'static str,
    /// Of the figures; ratios are of the first.
    pub(crate) columns: &'static [&'static str],
    pub(crate) better: Better,
    /// How many times as good as the baseline we want to be.
    pub(crate) goal: f64,
    pub(crate) evaluate: Box<dyn Fn(&Report) -> Result<Measured>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// What a report comes to.
pub(crate) struct Measured {
    pub(crate) figures: Vec<f64>,
    /// All that were done, also those that the figures leave out: costs are divided by it.
    pub(crate) operations: f64,
}

pub(crate) fn all(effort: &Effort) -> Vec<Case> {
    let mut cases = lock_hand_over::cases(effort);
    cases.extend(election_hand_over::cases(effort));
    cases
}

/// The side of a peer in Rust.
pub(crate) async fn work(peer: &str, address: &str, case: &str, parameters: &[String]) -> Result<Report> {
    match case {
        lock_hand_over::NAME => lock_hand_over::work(peer, address, parameters).await,
        election_hand_over::NAME => election_hand_over::work(peer, address, parameters).await,
        _ => Err(format!("no case {case}").into()),
    }
}

/// Not a number if there is none.
pub(crate) fn quantile(mut measured: Vec<f64>, part: f64) -> f64 {
    measured.sort_by(f64::total_cmp);
    let at = (measured.len().saturating_sub(1)) as f64 * part;
    measured.get(at.round() as usize).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(measured: impl IntoIterator<Item = f64>) -> f64 {
    quantile(measured.into_iter().collect(), 0.5)
}
