//! `Faults`: what goes wrong when a test says so. Which fault a call meets is decided here; what it does to the store is in `mod.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use crate::error::{Error, ErrorKind};
use crate::revision::{LeaseId, Revision};

/// Which calls of a [`Store`](crate::store::Store) a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Calls {
    /// All of them.
    All,
    /// [`range`](crate::store::Store::range).
    Reads,
    /// [`commit`](crate::store::Store::commit).
    Commits,
    /// [`watch`](crate::store::Store::watch): having one, not those that are open.
    Watches,
    /// [`grant`](crate::store::Store::grant), [`keep_alive`](crate::store::Store::keep_alive),
    /// [`revoke`](crate::store::Store::revoke) and [`time_to_live`](crate::store::Store::time_to_live).
    Leases,
    /// [`keep_alive`](crate::store::Store::keep_alive) alone.
    KeepAlives,
}

/// Makes a [`MemoryStore`](super::MemoryStore) fail as a server and a network do. From [`MemoryStore::faults`](super::MemoryStore::faults).
///
/// A call to the store meets its faults in this order:
///
/// 1. it waits for the [`delay`](Self::delay) of calls of its kind;
/// 2. while the server is [stopped](Self::stop) it ends with `Unavailable`;
/// 3. of the faults that were asked for by [`fail`](Self::fail), [`lose_request`](Self::lose_request),
///    [`lose_reply`](Self::lose_reply) and [`apply_late`](Self::apply_late), it uses up one of the oldest that is for calls of its
///    kind. Faults so form a queue: two lost replies and then a refusal are the next three calls.
///
/// A fault is what is left when a store has tried all it could: the memory store repeats nothing by
/// itself. A delay is cut off only where the call is one of several that share the limit of one
/// call ([`RetryPolicy::call_timeout`](crate::RetryPolicy::call_timeout)); it then ends with
/// `Timeout` and is not performed.
///
/// ```
/// use etcd_typed::ErrorKind;
/// use etcd_typed::store::memory::{Calls, MemoryStore};
/// use etcd_typed::store::{Op, Range, Span, Store, Txn};
/// use etcd_typed::{Key, Result};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store = MemoryStore::new();
/// let key = Key::parse("/a")?;
///
/// store.faults().lose_reply(Calls::Commits, 1);
/// let write = Txn { then: vec![Op::put(&key, "1".into())], ..Txn::default() };
/// let error = store.commit(write).await.unwrap_err();
/// assert!(error.kind() == ErrorKind::Unavailable && error.may_have_applied());
///
/// let read = store.range(Range::of(Span::Key(key))).await?;
/// assert_eq!(read.kvs.len(), 1); // It was applied.
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Faults {
    pub(super) shared: Arc<Shared>,
}

impl Faults {
    /// The next `count` calls, of any kind, are not performed and end with `Unavailable`: [`fail`](Self::fail) for the common case.
    pub fn fail_next(&self, count: usize) {
        self.fail(Calls::All, count, ErrorKind::Unavailable);
    }

    /// The next `count` of these calls are not performed and end with an error of this kind. The error of a write says that it was not applied.
    pub fn fail(&self, calls: Calls, count: usize, kind: ErrorKind) {
        self.add(calls, count, Effect::Fail(kind));
    }

    /// The next `count` of these calls are not performed and end with `Unavailable`; of a write, the outcome is unknown to the caller.
    pub fn lose_request(&self, calls: Calls, count: usize) {
        self.add(calls, count, Effect::LoseRequest);
    }

    /// The next `count` of these calls are performed, and yet end with `Unavailable`; of a write, the outcome is unknown to the
    /// caller. A call that the store refuses by itself gives that refusal; a watch whose reply is lost was never open.
    pub fn lose_reply(&self, calls: Calls, count: usize) {
        self.add(calls, count, Effect::LoseReply);
    }

    /// The next `count` commits end with `Unavailable` at once, outcome unknown, and are applied when this time has passed,
    /// if they can be applied then: compares are checked at that time. So does a server that hung with the request in its log.
    pub fn apply_late(&self, count: usize, after: Duration) {
        self.add(Calls::Commits, count, Effect::ApplyLate(after));
    }

    /// From now on these calls wait so long before anything else. A later delay of the same calls takes the place of the earlier one,
    /// zero ends it; a call that two delays are for waits for the longer one. A call that is dropped while it waits is not performed.
    pub fn delay(&self, calls: Calls, delay: Duration) {
        self.shared.with(|inner, _| inner.plan.delay(calls, delay));
    }

    /// From now on an answer to [`Range::keys_only`](crate::store::Range::keys_only) has no leases, as on etcd since 3.7 (etcd issue 22209); or has them
    /// again.
    pub fn hide_leases_of_keys_only(&self, hide: bool) {
        self.shared.with(|inner, _| inner.hides_leases = hide);
    }

    /// Forgets all faults that are still to be met, and all delays. Does not [start](Self::start) a stopped server, and what is to be
    /// [applied late](Self::apply_late) still is.
    pub fn clear(&self) {
        self.shared.with(|inner, _| inner.plan = Plan::default());
    }

    /// Compacts all history up to now: nothing older than the newest revision can be read, and a watch that has not seen
    /// everything ends with [`HistoryLost`](crate::store::WatchItem::HistoryLost).
    pub fn compact(&self) {
        self.shared.with(|inner, _| inner.engine.state.compact(inner.engine.state.revision()));
    }

    /// Compacts the history before this revision, which itself can still be read. A revision of the future counts as the newest;
    /// what is compacted stays so.
    pub fn compact_to(&self, revision: Revision) {
        self.shared.with(|inner, _| inner.engine.state.compact(revision));
    }

    /// Ends a lease now, as if its time were up: its keys vanish in one revision. Whether there was such a lease.
    pub fn expire(&self, lease: LeaseId) -> bool {
        self.shared.with(|inner, _| {
            let there = inner.engine.leases.check(lease).is_ok();
            inner.engine.revoke(lease);
            there
        })
    }

    /// Cuts every open watch: it yields nothing more but an `Unavailable`. What it had not yielded yet is there for a watch that
    /// starts where it stopped.
    pub fn drop_connections(&self) {
        self.shared.with(|inner, _| inner.end_watches(End::Dropped));
    }

    /// Ends every open watch with [`Lagged`](crate::store::WatchItem::Lagged), which never happens to a watch of this store by itself.
    pub fn lag_watches(&self) {
        self.shared.with(|inner, _| inner.end_watches(End::Lagged));
    }

    /// Takes the server away: open watches are [cut](Self::drop_connections) and all calls end with `Unavailable`, not applied, until it is
    /// [started](Self::start). Nothing is lost, and no lease ends meanwhile.
    pub fn stop(&self) {
        self.shared.with(|inner, _| inner.stop());
    }

    /// Brings the server back with all it had. Every lease has its whole time to live again, as after the restart of an etcd server.
    pub fn start(&self) {
        self.shared.with(|inner, now| inner.start(now));
    }

    /// The store loses everything: keys, history, leases, and what was to be [applied late](Self::apply_late). It is at revision 1 again and says that it is the same cluster (an etcd server whose data
    /// was removed does so too). Open watches are [cut](Self::drop_connections); one that starts above the
    /// new revision is told [`Behind`](crate::store::WatchItem::Behind).
    pub fn wipe(&self) {
        self.shared.with(|inner, _| inner.wipe());
    }

    fn add(&self, calls: Calls, count: usize, effect: Effect) {
        self.shared.with(|inner, _| inner.plan.rules.push(Rule { calls, count, effect }));
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

/// One call of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Range,
    Commit,
    Watch,
    Grant,
    KeepAlive,
    Revoke,
    TimeToLive,
    Status,
    Members,
}

impl Call {
    /// Whether losing it leaves in doubt what the store holds.
    fn is_write(self) -> bool {
        matches!(self, Self::Commit | Self::Grant | Self::Revoke)
    }
}

impl Calls {
    fn contains(self, call: Call) -> bool {
        match self {
            Self::All => true,
            Self::Reads => call == Call::Range,
            Self::Commits => call == Call::Commit,
            Self::Watches => call == Call::Watch,
            Self::Leases => matches!(call, Call::Grant | Call::KeepAlive | Call::Revoke | Call::TimeToLive),
            Self::KeepAlives => call == Call::KeepAlive,
        }
    }
}

/// The faults that are still to be met.
#[derive(Debug, Default)]
pub(super) struct Plan {
    rules: Vec<Rule>,
    delays: Vec<(Calls, Duration)>,
}

#[derive(Debug)]
struct Rule {
    calls: Calls,
    /// How many calls it is still for; never zero but on its way out.
    count: usize,
    effect: Effect,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Fail(ErrorKind),
    LoseRequest,
    LoseReply,
    ApplyLate(Duration),
}

/// How open watches ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Dropped,
    Lagged,
}

impl Plan {
    /// How long a call waits first.
    pub(super) fn delay_of(&self, call: Call) -> Duration {
        self.delays.iter().filter(|(calls, _)| calls.contains(call)).map(|(_, delay)| *delay).max().unwrap_or_default()
    }

    /// What a call meets; used up by it.
    pub(super) fn meet(&mut self, call: Call) -> Option<Effect> {
        self.rules.retain(|rule| rule.count > 0);
        let rule = self.rules.iter_mut().find(|rule| rule.calls.contains(call))?;
        rule.count -= 1;
        Some(rule.effect)
    }

    fn delay(&mut self, calls: Calls, delay: Duration) {
        self.delays.retain(|(others, _)| *others != calls);
        if !delay.is_zero() {
            self.delays.push((calls, delay));
        }
    }
}

/// The answer to a call that did not reach the store, or whose own answer did not come back.
pub(super) fn lost(call: Call, message: &'static str) -> Error {
    let error = Error::new(ErrorKind::Unavailable, message);
    if call.is_write() { error.outcome_unknown() } else { error }
}

/// The answer to a call whose delay is longer than the time that the caller has left.
pub(super) fn late(call: Call) -> Error {
    let error = Error::new(ErrorKind::Timeout, "no answer in time (a fault)");
    if call.is_write() { error.outcome_unknown() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_met_in_the_order_they_were_asked_for_by_the_calls_they_are_for() {
        let mut plan = Plan::default();
        let rule = |calls, count, effect| Rule { calls, count, effect };
        plan.rules.push(rule(Calls::Commits, 2, Effect::LoseReply));
        plan.rules.push(rule(Calls::All, 1, Effect::Fail(ErrorKind::Timeout)));
        plan.rules.push(rule(Calls::KeepAlives, 0, Effect::LoseRequest));
        assert_eq!(plan.meet(Call::Commit), Some(Effect::LoseReply));
        assert_eq!(plan.meet(Call::Range), Some(Effect::Fail(ErrorKind::Timeout)));
        assert_eq!(plan.meet(Call::KeepAlive), None);
        assert_eq!(plan.meet(Call::Commit), Some(Effect::LoseReply));
        assert_eq!(plan.meet(Call::Commit), None);
    }

    #[test]
    fn the_longest_delay_of_a_call_counts_and_the_last_one_said() {
        let mut plan = Plan::default();
        let second = Duration::from_secs(1);
        plan.delay(Calls::All, second);
        plan.delay(Calls::Leases, 3 * second);
        assert_eq!((plan.delay_of(Call::Range), plan.delay_of(Call::Grant)), (second, 3 * second));
        plan.delay(Calls::Leases, second / 2);
        assert_eq!(plan.delay_of(Call::Grant), second);
        plan.delay(Calls::All, Duration::ZERO);
        assert_eq!((plan.delay_of(Call::Range), plan.delay_of(Call::Grant)), (Duration::ZERO, second / 2));
    }
}
