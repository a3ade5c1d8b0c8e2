//! The one retry and backoff policy. It decides how long to wait and how often; what may be repeated at all is decided where
//! the error is understood (the stores' mapping files).

use std::time::Duration;

/// How calls are repeated and how long they may take. The defaults suit a cluster in one data centre.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How long one call may take with all its attempts; and for how long a stream that has begun tries to go on while the server refuses it. Default: 10 s.
    pub call_timeout: Duration,
    /// How long one attempt of a read waits for an answer before another endpoint is asked. Default: 2 s, two election
    /// timeouts of a server with default flags. Writes wait for `call_timeout`, since giving up early makes their outcome unknown.
    pub read_attempt_timeout: Duration,
    /// The wait before the first repetition. Default: 25 ms.
    pub first_delay: Duration,
    /// The longest wait between two attempts. Default: 2 s.
    pub max_delay: Duration,
    /// How often `modify`, `update` and a struct's `set` start again after a conflict. Default: 32.
    pub conflict_budget: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(10),
            read_attempt_timeout: Duration::from_secs(2),
            first_delay: Duration::from_millis(25),
            max_delay: Duration::from_secs(2),
            conflict_budget: 32,
        }
    }
}

impl RetryPolicy {
    /// The waits of one call, or of one connection that is to be had again.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        Backoff { first: self.first_delay, max: self.max_delay, next: self.first_delay }
    }
}

/// A row of waits that doubles up to a limit; each is drawn from the upper half of its step, so that many clients that were
/// cut off together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// How long to wait now.
    pub fn next_delay(&mut self) -> Duration {
        let step = self.next.min(self.max);
        self.next = step.saturating_mul(2).min(self.max);
        step.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// No wait is longer.
    pub(crate) fn longest(&self) -> Duration {
        self.max
    }

    /// Starts again from the shortest wait: something went well.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_are_jittered() {
        let policy = RetryPolicy { first_delay: Duration::from_millis(10), max_delay: Duration::from_millis(35), ..RetryPolicy::default() };
        let mut backoff = policy.backoff();
        for step in [10, 20, 35, 35, 35] {
            let delay = backoff.next_delay();
            assert!(delay >= Duration::from_millis(step) / 2 && delay <= Duration::from_millis(step), "{delay:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(10));
    }
}
