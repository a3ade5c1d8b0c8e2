//! Checks the reports of the contenders and the history of the store against the promises of locks.
//! The check has no side effects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use etcd_typed::store::{Batch, Event as Change};

use super::contender::{COUNTERS, LOCKS, mark};
use super::record::{Event, Mark, Outcome};

/// What the contenders reported in a campaign, and what the store recorded.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// The reports of each process.
    pub(crate) said: BTreeMap<usize, Vec<Event>>,
    /// Processes that were killed. They may not have reported their last write.
    pub(crate) killed: BTreeSet<usize>,
    /// All changes of the locks and of the keys that they guard. `None` if the store keeps no such
    /// history. On such a store, the contenders write nothing under the locks.
    pub(crate) history: Option<Vec<Batch>>,
    /// Periods in which servers may have ended leases that they had just confirmed.
    pub(crate) faithless: Vec<(u64, u64)>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Violation {
    /// Two guards of one lock reported that they were held, both from `from` until `until`.
    HeldTwice { lock: String, fences: [u64; 2], from: u64, until: u64 },
    /// A later holder has a smaller or the same fence.
    FenceWentBack { lock: String, fence: u64, after: u64 },
    /// A lock was granted for a key that was never in the queue.
    NeverInTheQueue { lock: String, fence: u64 },
    /// A write was committed while another key was the first of the queue.
    NotTheFirst { lock: String, mark: Mark, revision: u64, first: Option<u64> },
    /// A count that was written under the lock is not the previous count plus one.
    Miscounted { lock: String, mark: Mark, revision: u64, before: u64 },
    /// The history differs from the report of a write: the write is missing, has another revision,
    /// or occurs twice.
    NotAsSaid { lock: String, mark: Mark, said: Outcome, revisions: Vec<u64> },
    /// The history contains a write that no process reported.
    Unsaid { lock: String, mark: Mark, revision: u64 },
    /// A waiter waits forever. `queue` lists the keys that are still in the lock's queue.
    Forgotten { lock: String, queue: Vec<String> },
}

/// How often each event happened in a campaign, and how long the contenders waited.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) grants: usize,
    pub(crate) committed: usize,
    pub(crate) late_refused: usize,
    refused: usize,
    unknown: usize,
    late_committed: usize,
    left: BTreeMap<String, usize>,
    lost: BTreeMap<String, usize>,
    places_lost: usize,
    /// Overlaps of two holders that the servers caused.
    pub(crate) faithless: usize,
    waits: Vec<Duration>,
}

pub(crate) fn check(evidence: &Evidence) -> (Figures, Vec<Violation>) {
    let mut violations = Vec::new();
    let faithless = one_at_a_time(evidence, &mut violations);
    if let Some(history) = &evidence.history {
        History::default().check(history, evidence, &mut violations);
    }
    (Figures { faithless, ..Figures::of(evidence) }, violations)
}

/// Checks that two guards are never held at once and that a later holder has a larger fence.
/// Returns how many overlaps the servers caused.
fn one_at_a_time(evidence: &Evidence, violations: &mut Vec<Violation>) -> usize {
    let mut tenures: BTreeMap<(&str, u64), (u64, u64)> = BTreeMap::new();
    for event in evidence.said.values().flatten() {
        if let Event::Held { lock, fence, from, until } = event {
            let tenure = tenures.entry((lock, *fence)).or_insert((*from, *until));
            *tenure = (tenure.0.min(*from), tenure.1.max(*until));
        }
    }
    let mut in_time: Vec<_> = tenures.into_iter().map(|((lock, fence), (from, until))| (lock, from, until, fence)).collect();
    in_time.sort_unstable();
    let mut faithless = 0;
    // The lock, the end and the fence of the tenure that ended last so far.
    let mut last: Option<(&str, u64, u64)> = None;
    for (lock, from, until, fence) in in_time {
        if let Some((_, last_until, last_fence)) = last.filter(|last| last.0 == lock) {
            if from < last_until {
                if evidence.faithless.iter().any(|(begin, end)| (begin..end).contains(&&from)) {
                    faithless += 1;
                } else {
                    let until = until.min(last_until);
                    violations.push(Violation::HeldTwice { lock: lock.to_owned(), fences: [last_fence, fence], from, until });
                }
            }
            if fence <= last_fence {
                violations.push(Violation::FenceWentBack { lock: lock.to_owned(), fence, after: last_fence });
            }
            if until <= last_until {
                continue;
            }
        }
        last = Some((lock, until, fence));
    }
    faithless
}

/// The changes of the store, grouped by lock.
#[derive(Default)]
struct History {
    /// The current keys of each queue by create revision.
    queues: BTreeMap<String, BTreeMap<u64, Vec<u8>>>,
    /// The create revisions of all keys that each queue ever had.
    made: BTreeMap<String, BTreeSet<u64>>,
    /// The last fence and the last count of each lock.
    guarded: BTreeMap<String, (u64, u64)>,
    /// The writes and the revisions at which each was committed, by nonce.
    written: BTreeMap<u64, (String, Mark, Vec<u64>)>,
}

impl History {
    fn check(mut self, history: &[Batch], evidence: &Evidence, violations: &mut Vec<Violation>) {
        for batch in history {
            for event in &batch.events {
                self.apply(batch.revision.get(), event, violations);
            }
        }
        self.compare(evidence, violations);
    }

    fn apply(&mut self, revision: u64, event: &Change, violations: &mut Vec<Violation>) {
        let key = std::str::from_utf8(event.key()).unwrap().to_owned();
        if let Some((lock, _)) = key.strip_prefix(LOCKS).and_then(|key| key.split_once('/')) {
            let queue = self.queues.entry(lock.to_owned()).or_default();
            match event {
                Change::Put { kv, .. } => {
                    queue.insert(kv.created.get(), kv.key.to_vec());
                    self.made.entry(lock.to_owned()).or_default().insert(kv.created.get());
                }
                Change::Delete { key, .. } => queue.retain(|_, queued| queued != key),
            }
        } else if let Some(lock) = key.strip_prefix(COUNTERS)
            && let Change::Put { kv, .. } = event
        {
            let lock = lock.trim_end_matches("/visits");
            self.written(lock, revision, mark(&kv.value), violations);
        }
    }

    fn written(&mut self, lock: &str, revision: u64, mark: Mark, violations: &mut Vec<Violation>) {
        let first = self.queues.get(lock).and_then(|queue| queue.keys().next()).copied();
        if first != Some(mark.fence) {
            violations.push(Violation::NotTheFirst { lock: lock.to_owned(), mark, revision, first });
        }
        let (fence, count) = self.guarded.entry(lock.to_owned()).or_default();
        if mark.fence < *fence {
            violations.push(Violation::FenceWentBack { lock: lock.to_owned(), fence: mark.fence, after: *fence });
        }
        *fence = (*fence).max(mark.fence);
        if mark.count > 0 {
            if mark.count != *count + 1 {
                violations.push(Violation::Miscounted { lock: lock.to_owned(), mark, revision, before: *count });
            }
            *count = mark.count;
        }
        self.written.entry(mark.nonce).or_insert_with(|| (lock.to_owned(), mark, Vec::new())).2.push(revision);
    }

    /// Compares the reported writes and grants with the history.
    fn compare(mut self, evidence: &Evidence, violations: &mut Vec<Violation>) {
        let mut granted = BTreeSet::new();
        for event in evidence.said.values().flatten() {
            match event {
                Event::Granted { lock, fence, .. } => {
                    if !self.made.get(lock).is_some_and(|made| made.contains(fence)) || !granted.insert((lock, fence)) {
                        violations.push(Violation::NeverInTheQueue { lock: lock.clone(), fence: *fence });
                    }
                }
                Event::Wrote { lock, mark, outcome, .. } => {
                    let revisions = self.written.remove(&mark.nonce).map(|(_, _, revisions)| revisions).unwrap_or_default();
                    let as_said = match outcome {
                        Outcome::Committed(revision) => revisions == [*revision],
                        Outcome::Refused(_) => revisions.is_empty(),
                        Outcome::Unknown => revisions.len() <= 1,
                    };
                    if !as_said {
                        violations.push(Violation::NotAsSaid { lock: lock.clone(), mark: *mark, said: outcome.clone(), revisions });
                    }
                }
                Event::Left { .. } | Event::Held { .. } | Event::Lost { .. } | Event::PlaceLost | Event::Done => {}
            }
        }
        for (lock, mark, revisions) in self.written.into_values() {
            if revisions.len() > 1 || !evidence.killed.contains(&mark.process) {
                violations.extend(revisions.into_iter().map(|revision| Violation::Unsaid { lock: lock.clone(), mark, revision }));
            }
        }
    }
}

impl Figures {
    fn of(evidence: &Evidence) -> Self {
        let mut figures = Self::default();
        for event in evidence.said.values().flatten() {
            figures.count(event);
        }
        figures.waits.sort_unstable();
        figures
    }

    fn count(&mut self, event: &Event) {
        match event {
            Event::Granted { waited, .. } => {
                self.grants += 1;
                self.waits.push(*waited);
            }
            Event::Left { why } => *self.left.entry(why.clone()).or_default() += 1,
            Event::Lost { why } => *self.lost.entry(why.clone()).or_default() += 1,
            Event::PlaceLost => self.places_lost += 1,
            Event::Wrote { late, outcome, .. } => {
                let counter = match (outcome, late) {
                    (Outcome::Committed(_), false) => &mut self.committed,
                    (Outcome::Committed(_), true) => &mut self.late_committed,
                    (Outcome::Refused(_), false) => &mut self.refused,
                    (Outcome::Refused(_), true) => &mut self.late_refused,
                    (Outcome::Unknown, _) => &mut self.unknown,
                };
                *counter += 1;
            }
            Event::Held { .. } | Event::Done => {}
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wait =
            |share: f64| self.waits.get((self.waits.len() as f64 * share) as usize).or(self.waits.last()).copied().unwrap_or_default();
        write!(
            f,
            "{} acquisitions (waited {:.1?} at the median, {:.1?} at most), lost {:?}, {} places lost, left {:?}; writes: {} committed, {} refused, \
             {} unknown; late ones: {} refused, {} by holders that still had the lock",
            self.grants,
            wait(0.5),
            wait(1.0),
            self.lost,
            self.places_lost,
            self.left,
            self.committed,
            self.refused,
            self.unknown,
            self.late_refused,
            self.late_committed,
        )?;
        if self.faithless > 0 {
            write!(f, "; {} overlaps because a server ended a lease that it had confirmed", self.faithless)?;
        }
        Ok(())
    }
}
