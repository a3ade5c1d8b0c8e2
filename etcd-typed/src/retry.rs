//! The retry and backoff policy that all modules share. It decides how long to wait and how often
//! to retry. Each store decides whether a request may be retried at all, where it maps the
//! request's error. [`OptimisticRetry`] controls loops that read, decide and write.

use std::cell::OnceCell;
use std::future::Future;
use std::time::Duration;

use tokio::task::futures::TaskLocalFuture;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::clock::FAR;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime;

tokio::task_local! {
    /// The call of which the current future is a part.
    static CALL: Call;
}

/// A call that may send several requests.
pub(crate) struct Call {
    call_timeout: Duration,
    /// The deadline of the enclosing call, if there is one.
    outer: Option<Instant>,
    /// The deadline of this call. Unset before its first request.
    ends: OnceCell<Instant>,
}

impl Call {
    fn ends(&self) -> Instant {
        *self.ends.get_or_init(|| earlier(self.outer, after(self.call_timeout)))
    }
}

/// Says how often calls are retried, and how long they may take. The defaults suit a cluster in one
/// data centre.
///
/// Durations above 30 years count as 30 years, so [`Duration::MAX`] means "no limit". A zero
/// `call_timeout` or `read_attempt_timeout` is refused with `Invalid`, because no call could
/// succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The longest time that one call may take, including all its requests and attempts. While the
    /// server refuses an open stream, the stream also keeps trying for this long. Default: 10 s.
    ///
    /// If the number of steps in a call depends on the data (a write with `.non_atomic()`, or a
    /// listing that is read in pages), the limit applies to each step. The limit does not apply to
    /// calls that wait for an event instead of an answer, such as
    /// [`acquire`](crate::NamedLock::acquire), [`campaign`](crate::Election::campaign) and
    /// [`wait_for`](crate::Entry::wait_for).
    pub call_timeout: Duration,
    /// How long one attempt of a read waits for an answer before the next endpoint is tried.
    /// Default: 2 s, which is two election timeouts of a server with default flags. Writes wait for
    /// `call_timeout`, since giving up early leaves their outcome unknown.
    pub read_attempt_timeout: Duration,
    /// The delay before the first retry. Default: 25 ms. Less than 1 ms counts as 1 ms.
    pub first_delay: Duration,
    /// The longest delay between two attempts. Default: 2 s. Less than 1 ms counts as 1 ms.
    pub max_delay: Duration,
    /// The number of attempts that `modify`, `update` and a struct's `set` make after the first
    /// conflict. Each attempt starts from a value that was just read or that the conflict returned.
    /// These methods wait before every fourth of these attempts, with jitter. No wait ends later
    /// than `call_timeout` after the first conflict. Default: 32.
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

/// The shortest delay before a retry. Without a delay, a task would spin while a server is
/// unreachable.
const SHORTEST_DELAY: Duration = Duration::from_millis(1);

impl RetryPolicy {
    /// Returns the default policy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`call_timeout`](Self::call_timeout).
    #[must_use]
    pub fn call_timeout(mut self, time: Duration) -> Self {
        self.call_timeout = time;
        self
    }

    /// Sets [`read_attempt_timeout`](Self::read_attempt_timeout).
    #[must_use]
    pub fn read_attempt_timeout(mut self, time: Duration) -> Self {
        self.read_attempt_timeout = time;
        self
    }

    /// Sets [`first_delay`](Self::first_delay).
    #[must_use]
    pub fn first_delay(mut self, time: Duration) -> Self {
        self.first_delay = time;
        self
    }

    /// Sets [`max_delay`](Self::max_delay).
    #[must_use]
    pub fn max_delay(mut self, time: Duration) -> Self {
        self.max_delay = time;
        self
    }

    /// Sets [`conflict_budget`](Self::conflict_budget).
    #[must_use]
    pub fn conflict_budget(mut self, attempts: u32) -> Self {
        self.conflict_budget = attempts;
        self
    }

    /// Returns the delays between the attempts of one call, or between attempts to reconnect.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        let [first, max] = [self.first_delay, self.max_delay].map(|delay| delay.clamp(SHORTEST_DELAY, FAR));
        Backoff { first, max, next: first }
    }

    /// Returns the same policy with every duration limited to [`FAR`], so that a deadline can be
    /// computed from each, and with delays that are long enough to double.
    ///
    /// # Errors
    ///
    /// `Invalid` for a timeout of zero, with which no call could succeed.
    pub(crate) fn checked(&self) -> Result<Self> {
        Ok(Self {
            call_timeout: limit("call_timeout", self.call_timeout)?,
            read_attempt_timeout: limit("read_attempt_timeout", self.read_attempt_timeout)?,
            first_delay: self.first_delay.clamp(SHORTEST_DELAY, FAR),
            max_delay: self.max_delay.clamp(SHORTEST_DELAY, FAR),
            conflict_budget: self.conflict_budget,
        })
    }

    /// Returns the deadline of a request that is sent now: [`call_timeout`](Self::call_timeout)
    /// from now, or earlier if the request is part of [one call](Self::one_call).
    pub(crate) fn deadline(&self) -> Instant {
        earlier(call_ends(), after(self.call_timeout))
    }

    /// Runs a call that sends several requests. The requests share one
    /// [`call_timeout`](Self::call_timeout), which starts with the first request.
    ///
    /// The limit does not apply to requests that another task sends for the call.
    #[inline]
    pub(crate) fn one_call<F: Future>(&self, call: F) -> OneCall<F> {
        let (call_timeout, outer) = (self.call_timeout, call_ends());
        CALL.scope(Call { call_timeout, outer, ends: OnceCell::new() }, call)
    }
}

/// Checks a timeout option and limits it to [`FAR`].
///
/// # Errors
///
/// `Invalid` for zero.
pub(crate) fn limit(option: &str, time: Duration) -> Result<Duration> {
    if time.is_zero() {
        return Err(Error::new(ErrorKind::Invalid, format!("`{option}` is zero: set a duration above zero")));
    }
    Ok(time.min(FAR))
}

/// The future of a call that sends several requests, from [`RetryPolicy::one_call`].
pub(crate) type OneCall<F> = TaskLocalFuture<Call, F>;

/// Runs a part of a call, with `ends` as its latest deadline.
pub(crate) fn until<F: Future>(ends: Instant, part: F) -> OneCall<F> {
    let ends = earlier(call_ends(), ends);
    CALL.scope(Call { call_timeout: Duration::ZERO, outer: None, ends: OnceCell::from(ends) }, part)
}

/// Waits for the answer to a write, at most until `ends`.
///
/// # Errors
///
/// The errors of the write. `Timeout` with an unknown outcome, if a store ignores the remaining
/// time. `Unsupported` outside of a runtime, since timers need a runtime.
pub(crate) async fn answer_until<T>(ends: Instant, write: impl Future<Output = Result<T>>) -> Result<T> {
    if !runtime::is_here() {
        return Err(Error::without_runtime());
    }
    // This error is only for stores that ignore the remaining time. A store that respects the
    // remaining time fails by itself at `ends`, with a more detailed error.
    let late = |_| Error::new(ErrorKind::Timeout, "no answer in time").outcome_unknown();
    timeout_at(ends, until(ends, write)).await.map_err(late)?
}

/// Returns the deadline of the call of which the current future is a part. `None` outside of a
/// call.
pub(crate) fn call_ends() -> Option<Instant> {
    CALL.try_with(Call::ends).ok()
}

fn earlier(outer: Option<Instant>, ends: Instant) -> Instant {
    outer.map_or(ends, |outer| outer.min(ends))
}

/// Returns the instant that is this duration from now, at most 30 years away.
fn after(time: Duration) -> Instant {
    Instant::now() + time.min(FAR)
}

/// A series of delays that double up to a limit. Each delay is a random time between half of its
/// step and the full step, so that many clients that were disconnected together do not reconnect
/// together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Returns the next delay.
    pub fn next_delay(&mut self) -> Duration {
        let step = self.next.min(self.max);
        self.next = step.saturating_mul(2).min(self.max);
        step.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Returns the longest delay of this series.
    pub(crate) fn longest(&self) -> Duration {
        self.max
    }

    /// Resets the series to the shortest delay, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// The attempts of one read-modify-write.
///
/// A conflict returns the current value. The next attempt uses that value at once, since no value
/// is fresher. A delay would only make it stale, and if another client writes steadily, a longer
/// delay would reduce the chance of success. Delays help when many callers compete. After a delay
/// the value is read again.
#[derive(Debug)]
pub(crate) struct OptimisticRetry {
    backoff: Backoff,
    /// The number of attempts left.
    left: u32,
    /// The number of attempts left before the next delay.
    at_once: u32,
    /// The time at which every delay must have ended. Set at the first conflict.
    deadline: Option<Instant>,
    call_timeout: Duration,
}

/// The caller's next action after a conflict.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AfterConflict<T> {
    /// Try again with this fresh value.
    Retry(T),
    /// Give up, since no attempt or no time is left. Contains the value that the last conflict
    /// returned.
    GiveUp(Option<T>),
}

impl OptimisticRetry {
    /// The number of attempts after each read that use a value from a conflict instead of a new
    /// read.
    const AT_ONCE: u32 = 3;

    pub(crate) fn new(retry: &RetryPolicy) -> Self {
        let (backoff, left) = (retry.backoff(), retry.conflict_budget);
        Self { backoff, left, at_once: Self::AT_ONCE, deadline: None, call_timeout: retry.call_timeout }
    }

    /// Limits the attempts by time only, not by number.
    #[cfg(feature = "v2")]
    pub(crate) fn without_budget(retry: &RetryPolicy) -> Self {
        Self { left: u32::MAX, ..Self::new(retry) }
    }

    /// Returns the value for the next attempt: `shown`, the value that the conflict returned, or a
    /// new value from `read`.
    ///
    /// # Errors
    ///
    /// The errors of `read`.
    pub(crate) async fn after_conflict<T, E>(
        &mut self,
        shown: Option<T>,
        read: impl Future<Output = Result<T, E>>,
    ) -> Result<AfterConflict<T>, E> {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert_with(|| earlier(call_ends(), after(self.call_timeout)));
        if self.left == 0 {
            return Ok(AfterConflict::GiveUp(shown));
        }
        self.left -= 1;
        if self.at_once > 0 {
            self.at_once -= 1;
            if let Some(shown) = shown {
                return Ok(AfterConflict::Retry(shown));
            }
        } else {
            let next = now + self.backoff.next_delay();
            if next >= deadline || !runtime::is_here() {
                return Ok(AfterConflict::GiveUp(shown));
            }
            sleep_until(next).await;
            self.at_once = Self::AT_ONCE;
        }
        read.await.map(AfterConflict::Retry)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    /// Simulates an operation whose attempts all conflict. Returns the value and the time of each
    /// attempt, and the value that the last conflict returned.
    async fn contended(policy: &RetryPolicy, shown: Option<&'static str>) -> (Vec<(&'static str, Duration)>, Option<&'static str>) {
        let (start, mut retry, mut attempts) = (Instant::now(), OptimisticRetry::new(policy), Vec::new());
        loop {
            let read = async { Ok::<_, Infallible>("read") };
            match retry.after_conflict(shown, read).await {
                Ok(AfterConflict::Retry(value)) => attempts.push((value, start.elapsed())),
                Ok(AfterConflict::GiveUp(last)) => return (attempts, last),
                Err(never) => match never {},
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retry_reads_again_only_after_delay() {
        let (attempts, last) = contended(&RetryPolicy::default(), Some("shown")).await;
        assert_eq!(attempts.len(), 32);
        assert_eq!(last, Some("shown"));
        let read: Vec<usize> = attempts.iter().enumerate().filter(|(_, (value, _))| *value == "read").map(|(at, _)| at).collect();
        assert_eq!(read, [3, 7, 11, 15, 19, 23, 27, 31]);
        for pair in attempts.windows(2) {
            assert_eq!(pair[1].0 == "read", pair[1].1 > pair[0].1, "a value is read after each wait and only then");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retry_reads_if_conflict_returns_no_value() {
        let (attempts, last) = contended(&RetryPolicy::default(), None).await;
        assert_eq!((attempts.len(), last), (32, None));
        assert!(attempts.iter().all(|(value, _)| *value == "read"));
        assert_eq!(attempts[2].1, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_at_call_deadline() {
        let policy = RetryPolicy { conflict_budget: 10_000, ..RetryPolicy::default() };
        let (attempts, _) = contended(&policy, Some("shown")).await;
        let last = attempts.last().unwrap().1;
        assert!(last <= policy.call_timeout && last >= policy.call_timeout - policy.max_delay, "{last:?}");
        assert!(attempts.len() < 100);
    }

    #[tokio::test(start_paused = true)]
    async fn retry_uses_value_that_conflict_returned() {
        let (mut retry, polled) = (OptimisticRetry::new(&RetryPolicy::default()), Cell::new(false));
        let read = async {
            polled.set(true);
            Ok::<_, Infallible>(2)
        };
        assert_eq!(retry.after_conflict(Some(1), read).await, Ok(AfterConflict::Retry(1)));
        assert!(!polled.get());
    }

    /// Some loops double the first delay themselves, and would spin with zero.
    #[test]
    fn checked_delays_are_at_least_one_millisecond() {
        let policy = RetryPolicy::default().first_delay(Duration::ZERO).max_delay(Duration::ZERO).checked().unwrap();
        assert_eq!((policy.first_delay, policy.max_delay), (SHORTEST_DELAY, SHORTEST_DELAY));
    }

    #[test]
    fn delays_double_up_to_limit_with_jitter() {
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
