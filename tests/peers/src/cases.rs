//! The cases. Each is a file below this module, with the parameters of the peers, their work, the
//! evaluation of their reports, and the goals.

mod directories;
mod election_hand_over;
mod holds;
mod idle;
mod live_apply;
mod load;
mod lock_hand_over;
mod lock_uncontended;
pub(crate) mod repeated;
mod requests;
mod v2;
mod watch_events;
mod watch_fan_out;
mod watch_latency;

use std::pin::Pin;

use serde::de::DeserializeOwned;

use crate::Result;
use crate::peers::{ETCD_CLIENT, OURS};
use crate::server::Counters;
use crate::work::Report;

/// The amount of work and the number of rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
}

impl Effort {
    pub(crate) const FULL: Self = Self { quick: false, rounds: 3 };
    pub(crate) const QUICK: Self = Self { quick: true, rounds: 2 };

    /// Returns the amount of work for this effort.
    pub(crate) fn of<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// Work that several peers do. In each round, every peer has its own process and its own server.
pub(crate) struct Case {
    /// The peers, in the order of the rows.
    pub(crate) peers: &'static [&'static str],
    /// The arguments of a peer: the case's name and its parameters.
    pub(crate) work: Vec<String>,
    pub(crate) server: Server,
    /// The stages of a process, which run one after the other. Each has its own report.
    pub(crate) stages: Vec<Stage>,
}

/// The server that a case needs.
#[derive(Default)]
pub(crate) struct Server {
    /// Whether the server also serves the v2 keys API.
    pub(crate) v2: bool,
    /// Whether all peers of a round share one server, because none of them changes anything.
    pub(crate) shared: bool,
    /// The function that writes the data that the case needs, before a peer's process starts.
    pub(crate) prepare: Option<Prepare>,
}

/// A function that gets the server's address.
pub(crate) type Prepare = Box<dyn Fn(String) -> Doing>;
pub(crate) type Doing = Pin<Box<dyn Future<Output = Result<()>>>>;

/// A part of a case with its own table.
pub(crate) struct Stage {
    pub(crate) table: Table,
    /// Work that another process does from the start signal on.
    pub(crate) meanwhile: Option<Prepare>,
    /// The function that computes the figures. Fails if the peer did not do the work.
    pub(crate) evaluate: Box<dyn Fn(&Observed) -> Result<Measured>>,
}

/// The observations of one stage of a trial.
pub(crate) struct Observed {
    pub(crate) report: Report,
    /// The server's counters, from the start signal until the report.
    pub(crate) counted: Counters,
    /// The peak memory of the peer's process during the stage, in MiB.
    pub(crate) peak_memory: f64,
    /// The peak memory minus the memory at the start signal, in MiB.
    pub(crate) memory_growth: f64,
}

impl Observed {
    /// Returns the peer's result, in the form that the case defines.
    pub(crate) fn found<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(serde_json::from_value(self.report.found.clone())?)
    }
}

/// The evaluation of a stage.
pub(crate) struct Measured {
    /// A figure for each of the stage's own columns.
    pub(crate) figures: Vec<f64>,
    /// The number of all operations, including those that the figures leave out. Costs are divided
    /// by this number.
    pub(crate) operations: f64,
}

impl Stage {
    /// Creates a stage with its own `columns`. Ratios are computed for the first of them. The
    /// columns with the costs of an operation are added at the end.
    pub(crate) fn new(
        title: impl Into<String>,
        operation: &str,
        columns: &[(&str, Better)],
        goals: Vec<Goal>,
        evaluate: impl Fn(&Observed) -> Result<Measured> + 'static,
    ) -> Self {
        let mut columns: Vec<Column> =
            columns.iter().map(|(title, better)| Column { title: (*title).to_owned(), better: *better }).collect();
        columns.extend(COSTS.map(|cost| Column { title: format!("{cost}/{operation}"), better: Better::Lower }));
        let table = Table { title: title.into(), columns, baseline: ETCD_CLIENT, goals };
        Self { table, meanwhile: None, evaluate: Box::new(evaluate) }
    }

    pub(crate) fn meanwhile(mut self, meanwhile: Prepare) -> Self {
        self.meanwhile = Some(meanwhile);
        self
    }

    /// Makes ratios relative to this peer instead of etcd-client.
    pub(crate) fn beside(mut self, baseline: &'static str) -> Self {
        self.table.baseline = baseline;
        self
    }
}

impl Observed {
    /// Returns the figures of all columns.
    pub(crate) fn outcome(&self, measured: Measured) -> Vec<f64> {
        let Measured { mut figures, operations } = measured;
        let costs = [self.report.processor.as_secs_f64() * 1e6, self.counted.processor_seconds * 1e6, self.counted.messages];
        figures.extend(costs.map(|cost| cost / operations));
        figures
    }
}

/// The costs: CPU time of the peer's process, CPU time of the server, and messages that the server
/// received, in the order of `Observed::outcome`.
const COSTS: [&str; 3] = [CLIENT, SERVER, "messages"];
pub(crate) const CLIENT: &str = "client CPU µs";
pub(crate) const SERVER: &str = "server CPU µs";

/// A table of the page without its figures. It has a row for each peer.
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) columns: Vec<Column>,
    /// The peer to which ratios are relative.
    pub(crate) baseline: &'static str,
    pub(crate) goals: Vec<Goal>,
}

pub(crate) struct Column {
    pub(crate) title: String,
    pub(crate) better: Better,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// A goal for one figure. `column` is the beginning of the column's title.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// The peer to whose figure the goal applies.
    pub(crate) who: &'static str,
    pub(crate) column: &'static str,
    pub(crate) bound: Bound,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// The figure must be at least this many times as good as the peer's.
    Times(f64, &'static str),
    /// The figure must be at most this many times the peer's.
    AtMost(f64, &'static str),
    /// The figure must be at most this, regardless of other peers.
    Count(f64),
}

impl Goal {
    pub(crate) fn times(times: f64, column: &'static str, peer: &'static str) -> Self {
        Self { who: OURS, column, bound: Bound::Times(times, peer) }
    }

    pub(crate) fn at_most(part: f64, column: &'static str, peer: &'static str) -> Self {
        Self { who: OURS, column, bound: Bound::AtMost(part, peer) }
    }

    pub(crate) fn count(count: f64, column: &'static str) -> Self {
        Self { who: OURS, column, bound: Bound::Count(count) }
    }
}

pub(crate) fn all(effort: &Effort) -> Vec<Case> {
    let mut cases = requests::cases(effort);
    cases.extend(load::cases(effort));
    cases.extend(directories::cases(effort));
    cases.extend(v2::cases(effort));
    cases.extend(lock_uncontended::cases(effort));
    cases.extend(lock_hand_over::cases(effort));
    cases.extend(election_hand_over::cases(effort));
    cases.extend(watch_latency::cases(effort));
    cases.extend(watch_events::cases(effort));
    cases.extend(watch_fan_out::cases(effort));
    cases.extend(live_apply::cases(effort));
    cases.extend(idle::cases(effort));
    cases
}

/// Does the work of a case as a peer in Rust.
pub(crate) async fn work(peer: &str, address: &str, case: &str, parameters: &[String]) -> Result<()> {
    match case {
        requests::GET | requests::PUT => requests::work(peer, address, case, parameters).await,
        load::NAME => load::work(peer, address, parameters).await,
        directories::NAME => directories::work(peer, address, parameters).await,
        v2::NAME => v2::work(peer, address, parameters).await,
        lock_uncontended::NAME => lock_uncontended::work(peer, address, parameters).await,
        lock_hand_over::NAME => lock_hand_over::work(peer, address, parameters).await,
        election_hand_over::NAME => election_hand_over::work(peer, address, parameters).await,
        watch_latency::NAME => watch_latency::work(peer, address, parameters).await,
        watch_events::LIVE | watch_events::OLD => watch_events::work(peer, address, case, parameters).await,
        live_apply::NAME => live_apply::work(peer, address, parameters).await,
        watch_fan_out::NAME => watch_fan_out::work(peer, address, parameters).await,
        idle::LOCKS | idle::PUBLISHED | idle::VIEWS => idle::work(peer, address, case, parameters).await,
        _ => Err(format!("unknown case {case}").into()),
    }
}

/// Returns this quantile, or NaN if nothing was measured.
pub(crate) fn quantile(mut measured: Vec<f64>, part: f64) -> f64 {
    measured.sort_by(f64::total_cmp);
    let at = (measured.len().saturating_sub(1)) as f64 * part;
    measured.get(at.round() as usize).copied().unwrap_or(f64::NAN)
}

/// Returns the figure in the middle, or the mean of the two in the middle.
pub(crate) fn median(measured: impl IntoIterator<Item = f64>) -> f64 {
    let mut measured: Vec<f64> = measured.into_iter().collect();
    measured.sort_by(f64::total_cmp);
    let middle = measured.len() / 2;
    match measured.get(middle.saturating_sub(1 - measured.len() % 2)..=middle) {
        Some(pair) => pair.iter().sum::<f64>() / pair.len() as f64,
        None => f64::NAN,
    }
}

#[cfg(test)]
impl Table {
    /// Checks that the table's goals refer to its columns and to these peers.
    pub(crate) fn check(&self, peers: &[&str]) {
        assert!(peers.contains(&self.baseline), "{}: {}", self.title, self.baseline);
        for Goal { who, column, bound } in &self.goals {
            assert!(self.columns.iter().any(|one| one.title.starts_with(column)), "{}: {column}", self.title);
            assert!(peers.contains(who), "{}: {who}", self.title);
            if let Bound::Times(_, peer) | Bound::AtMost(_, peer) = bound {
                assert!(peers.contains(peer), "{}: {peer}", self.title);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_middle_or_mean_of_both_middles() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([1.0]), 1.0);
        assert!(median([]).is_nan());
    }

    #[test]
    fn goals_refer_to_columns_and_peers_of_case() {
        for case in all(&Effort::QUICK) {
            case.stages.iter().for_each(|stage| stage.table.check(case.peers));
        }
    }
}
