//! `FaultPlan`: decides which fault a call gets. `mod.rs` applies it to the store.

use std::time::Duration;

use crate::error::{Error, ErrorKind};

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
    /// Returns whether the error of a lost call says that the outcome is unknown.
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
    /// Returns the delay of a call: the longest one that applies to it.
    pub(super) fn delay_of(&self, call: Call) -> Duration {
        self.delays.iter().filter(|(calls, _)| calls.contains(call)).map(|(_, delay)| *delay).max().unwrap_or_default()
    }

    /// Takes the oldest queued fault that applies to a call.
    pub(super) fn meet(&mut self, call: Call) -> Option<Effect> {
        self.rules.retain(|rule| rule.count > 0);
        let rule = self.rules.iter_mut().find(|rule| rule.calls.contains(call))?;
        rule.count -= 1;
        Some(rule.effect)
    }

    /// Adds a fault for the next `count` of these calls.
    pub(super) fn add(&mut self, calls: Calls, count: usize, effect: Effect) {
        self.rules.push(Rule { calls, count, effect });
    }

    /// Sets the delay of these calls. Zero removes it.
    pub(super) fn delay(&mut self, calls: Calls, delay: Duration) {
        self.delays.retain(|(others, _)| *others != calls);
        if !delay.is_zero() {
            self.delays.push((calls, delay));
        }
    }
}

/// Returns the error of a call that did not reach the store, or whose reply was lost.
pub(super) fn lost(call: Call, message: &'static str) -> Error {
    let error = Error::new(ErrorKind::Unavailable, message);
    if call.is_write() { error.outcome_unknown() } else { error }
}

/// Returns the error of a call whose delay exceeds the caller's remaining time.
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
        plan.add(Calls::Commits, 2, Effect::LoseReply);
        plan.add(Calls::All, 1, Effect::Fail(ErrorKind::Timeout));
        plan.add(Calls::KeepAlives, 0, Effect::LoseRequest);
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
