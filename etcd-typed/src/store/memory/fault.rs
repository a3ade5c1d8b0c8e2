//! `Faults`: injects failures for tests. This file decides which fault a call gets; `mod.rs`
//! applies it to the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::shared::SharedState;
use crate::error::{Error, ErrorKind};
use crate::revision::{LeaseId, Revision};

/// The calls of a [`Store`](crate::store::Store) that a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Calls {
    /// All calls.
    All,
    /// [`range`](crate::store::Store::range).
    Reads,
    /// [`commit`](crate::store::Store::commit).
    Commits,
    /// [`watch`](crate::store::Store::watch): opening a watch. Open watches are not affected.
    Watches,
    /// [`grant`](crate::store::Store::grant), [`keep_alive`](crate::store::Store::keep_alive),
    /// [`revoke`](crate::store::Store::revoke) and [`time_to_live`](crate::store::Store::time_to_live).
    Leases,
    /// Only [`keep_alive`](crate::store::Store::keep_alive).
    KeepAlives,
}

/// Makes a [`MemoryStore`](super::MemoryStore) fail like a server or a network. Returned by
/// [`MemoryStore::faults`](super::MemoryStore::faults).
///
/// Each call to the store goes through these steps:
///
/// 1. It waits for the [`delay`](Self::delay) set for this kind of call.
/// 2. While the server is [stopped](Self::stop), it ends with `Unavailable`.
/// 3. It takes one fault off the queue: the oldest one, added by [`fail`](Self::fail),
///    [`lose_request`](Self::lose_request), [`lose_reply`](Self::lose_reply) or
///    [`apply_late`](Self::apply_late), that applies to this kind of call. If a test adds two lost
///    replies and then a refusal, the next three calls get them in this order.
///
/// A fault stands for the final result of a store that has already retried: the memory store itself
/// never retries. A delay is normally waited for in full. If the call shares the time limit of one
/// client call ([`RetryPolicy::call_timeout`](crate::RetryPolicy::call_timeout)) with others, the
/// limit cuts the delay short; the call then ends with `Timeout` and is not performed.
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
    pub(super) shared: Arc<SharedState>,
}

impl Faults {
    /// Makes the next `count` calls of any kind end with `Unavailable`, without performing them.
    /// This is [`fail`](Self::fail) for the common case.
    pub fn fail_next(&self, count: usize) {
        self.fail(Calls::All, count, ErrorKind::Unavailable);
    }

    /// Makes the next `count` of these calls end with an error of this kind, without performing
    /// them. The error of a write says that it was not applied.
    pub fn fail(&self, calls: Calls, count: usize, kind: ErrorKind) {
        self.add(calls, count, Effect::Fail(kind));
    }

    /// Makes the next `count` of these calls end with `Unavailable`, without performing them. The
    /// error of a write says that the outcome is unknown.
    pub fn lose_request(&self, calls: Calls, count: usize) {
        self.add(calls, count, Effect::LoseRequest);
    }

    /// Performs the next `count` of these calls, but makes them end with `Unavailable`. The error
    /// of a write says that the outcome is unknown. If the store refuses such a call, the caller
    /// gets the refusal. A watch whose reply is lost is not opened.
    pub fn lose_reply(&self, calls: Calls, count: usize) {
        self.add(calls, count, Effect::LoseReply);
    }

    /// Makes the next `count` commits end at once with `Unavailable`, outcome unknown, and applies
    /// them after this time. The compares are checked only then. A server that hung with the
    /// request in its log behaves like this.
    pub fn apply_late(&self, count: usize, after: Duration) {
        self.add(Calls::Commits, count, Effect::ApplyLate(after));
    }

    /// Makes these calls wait for this time before anything else, from now on. A later delay for
    /// the same `calls` replaces the earlier one, and zero removes it. If two delays apply to a
    /// call, it waits for the longer one. A call that is dropped while it waits is not performed.
    pub fn delay(&self, calls: Calls, delay: Duration) {
        self.shared.with(|inner, _| inner.plan.delay(calls, delay));
    }

    /// Sets whether replies to [`Range::keys_only`](crate::store::Range::keys_only) lack the
    /// leases, as on etcd since 3.7 (etcd issue 22209).
    pub fn hide_leases_of_keys_only(&self, hide: bool) {
        self.shared.with(|inner, _| inner.hides_leases = hide);
    }

    /// Removes all queued faults and all delays. Does not [start](Self::start) a stopped server.
    /// Commits that wait to be [applied late](Self::apply_late) are still applied.
    pub fn clear(&self) {
        self.shared.with(|inner, _| inner.plan = FaultPlan::default());
    }

    /// Compacts all history before the newest revision. Older revisions can no longer be read, and
    /// a watch that has not seen everything ends with
    /// [`HistoryLost`](crate::store::WatchItem::HistoryLost).
    pub fn compact(&self) {
        self.shared.with(|inner, _| inner.engine.state.compact(inner.engine.state.revision()));
    }

    /// Compacts the history before this revision, which itself can still be read. A future revision
    /// counts as the newest. Compacted history does not come back.
    pub fn compact_to(&self, revision: Revision) {
        self.shared.with(|inner, _| inner.engine.state.compact(revision));
    }

    /// Ends a lease now, as if it had expired: its keys vanish in one revision. Returns whether the
    /// lease existed.
    pub fn expire(&self, lease: LeaseId) -> bool {
        self.shared.with(|inner, _| {
            let there = inner.engine.leases.check(lease).is_ok();
            inner.engine.revoke(lease);
            there
        })
    }

    /// Cuts every open watch, which then yields only an `Unavailable` error. A watch that starts
    /// where a cut one stopped gets the changes that the cut one had not yielded.
    pub fn drop_connections(&self) {
        self.shared.with(|inner, _| inner.end_watches(End::Dropped));
    }

    /// Ends every open watch with [`Lagged`](crate::store::WatchItem::Lagged). A watch of this
    /// store never lags on its own.
    pub fn lag_watches(&self) {
        self.shared.with(|inner, _| inner.end_watches(End::Lagged));
    }

    /// Stops the server. Open watches are [cut](Self::drop_connections), and all calls end with
    /// `Unavailable`, not applied, until the server is [started](Self::start). No data is lost, and
    /// no lease expires meanwhile.
    pub fn stop(&self) {
        self.shared.with(|inner, _| inner.stop());
    }

    /// Starts the server again with all its data. Every lease has its whole time to live again, as
    /// after the restart of an etcd server.
    pub fn start(&self) {
        self.shared.with(|inner, now| inner.start(now));
    }

    /// Empties the store: it loses its keys, history, leases, and the commits that wait to be
    /// [applied late](Self::apply_late). The store is at revision 1 again but keeps its cluster id,
    /// like an etcd server whose data was removed. Open watches are [cut](Self::drop_connections).
    /// A new watch that starts above the new revision gets
    /// [`Behind`](crate::store::WatchItem::Behind).
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

/// A call to the store.
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
    /// Returns whether the content of the store is uncertain after this call is lost.
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

/// The queued faults and the delays.
#[derive(Debug, Default)]
pub(super) struct FaultPlan {
    rules: Vec<Rule>,
    delays: Vec<(Calls, Duration)>,
}

#[derive(Debug)]
struct Rule {
    calls: Calls,
    /// How many more calls this rule applies to. A rule that reaches zero is removed at the next
    /// call.
    count: usize,
    effect: Effect,
}

/// What a fault does to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Fail(ErrorKind),
    LoseRequest,
    LoseReply,
    ApplyLate(Duration),
}

/// How a fault ends the open watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Dropped,
    Lagged,
}

impl FaultPlan {
    /// Returns how long a call waits before anything else.
    pub(super) fn delay_of(&self, call: Call) -> Duration {
        self.delays.iter().filter(|(calls, _)| calls.contains(call)).map(|(_, delay)| *delay).max().unwrap_or_default()
    }

    /// Returns the fault that applies to a call, and uses it up.
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

/// The error for a call that did not reach the store, or whose reply was lost.
pub(super) fn lost(call: Call, message: &'static str) -> Error {
    let error = Error::new(ErrorKind::Unavailable, message);
    if call.is_write() { error.outcome_unknown() } else { error }
}

/// The error for a call whose delay exceeds the caller's remaining time.
pub(super) fn late(call: Call) -> Error {
    let error = Error::new(ErrorKind::Timeout, "no answer in time (a fault)");
    if call.is_write() { error.outcome_unknown() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_uses_oldest_matching_fault() {
        let mut plan = FaultPlan::default();
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
    fn longest_matching_delay_applies() {
        let mut plan = FaultPlan::default();
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
