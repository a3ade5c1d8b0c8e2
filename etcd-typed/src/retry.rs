//! The one retry and backoff policy. It decides how long to wait and how often; what may be repeated at all is decided where
//! the error is understood (the stores' mapping files). [`OptimisticRetry`] is the rule for loops that read, decide and write.

use std::cell::OnceCell;
use std::future::Future;
use std::time::Duration;

use tokio::task::futures::TaskLocalFuture;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::clock::FAR;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime;

tokio::task_local! {
    /// The call that the current future is a part of.
    static CALL: Call;
}

/// A call that may send several requests.
pub(crate) struct Call {
    call_timeout: Duration,
    /// The instant at which the call around this one ends.
    outer: Option<Instant>,
    /// None before its first request.
    ends: OnceCell<Instant>,
}

impl Call {
    fn ends(&self) -> Instant {
        *self.ends.get_or_init(|| earlier(self.outer, after(self.call_timeout)))
    }
}

/// How calls are repeated and how long they may take. The defaults suit a cluster in one data centre.
///
/// A duration above 30 years counts as 30 years, so [`Duration::MAX`] means "without a limit". A builder or a store that is given a zero `call_timeout` or
/// `read_attempt_timeout` refuses it with `Invalid`, because no call could succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How long one call may take with all its requests and attempts. A stream that has begun tries
    /// to go on for as long while the server refuses it. Default: 10 s.
    ///
    /// The limit starts again with each step of a call whose number of steps depends on the data: a
    /// write with `.non_atomic()`, and a listing that is read in pages. It does not limit a call
    /// that waits for something else than an answer, such as
    /// [`acquire`](crate::NamedLock::acquire), [`campaign`](crate::Election::campaign) and
    /// [`wait_for`](crate::Entry::wait_for).
    pub call_timeout: Duration,
    /// How long one attempt of a read waits for an answer before another endpoint is asked. Default: 2 s, two election
    /// timeouts of a server with default flags. Writes wait for `call_timeout`, since giving up early makes their outcome unknown.
    pub read_attempt_timeout: Duration,
    /// The wait before the first repetition. Default: 25 ms. Less than 1 ms counts as 1 ms.
    pub first_delay: Duration,
    /// The longest wait between two attempts. Default: 2 s. Less than 1 ms counts as 1 ms.
    pub max_delay: Duration,
    /// How often `modify`, `update` and a struct's `set` start again after a conflict. Each attempt works on a value that was just
    /// read, or that the conflict itself showed. After every fourth one they wait, with jitter, and no wait begins that would
    /// end more than `call_timeout` after the first conflict. Default: 32.
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

/// The shortest wait before a repetition: without one, a task would spin while a server is away.
const SHORTEST_DELAY: Duration = Duration::from_millis(1);

impl RetryPolicy {
    /// The waits of one call, or of one connection that is to be had again.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        let [first, max] = [self.first_delay, self.max_delay].map(|delay| delay.clamp(SHORTEST_DELAY, FAR));
        Backoff { first, max, next: first }
    }

    /// The same policy with no duration above [`FAR`], so that a deadline can be computed from each.
    ///
    /// # Errors
    ///
    /// `Invalid` for a limit of zero, which no call could keep.
    pub(crate) fn checked(&self) -> Result<Self> {
        Ok(Self {
            call_timeout: limit("call_timeout", self.call_timeout)?,
            read_attempt_timeout: limit("read_attempt_timeout", self.read_attempt_timeout)?,
            first_delay: self.first_delay.min(FAR),
            max_delay: self.max_delay.min(FAR),
            conflict_budget: self.conflict_budget,
        })
    }

    /// The instant at which a request that is sent now gives up: after
    /// [`call_timeout`](Self::call_timeout), or sooner where the request is a part of [one
    /// call](Self::one_call).
    pub(crate) fn deadline(&self) -> Instant {
        earlier(call_ends(), after(self.call_timeout))
    }

    /// Runs a call that sends several requests: all of them share one
    /// [`call_timeout`](Self::call_timeout), which begins with the first.
    ///
    /// A request that another task sends for the call is not limited.
    #[inline]
    pub(crate) fn one_call<F: Future>(&self, call: F) -> OneCall<F> {
        let (call_timeout, outer) = (self.call_timeout, call_ends());
        CALL.scope(Call { call_timeout, outer, ends: OnceCell::new() }, call)
    }
}

/// The time that an option allows, at most [`FAR`].
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

/// A call that sends several requests; from [`RetryPolicy::one_call`].
pub(crate) type OneCall<F> = TaskLocalFuture<Call, F>;

/// Runs a part of a call, which ends at this instant at the latest.
pub(crate) fn until<F: Future>(ends: Instant, part: F) -> OneCall<F> {
    let ends = earlier(call_ends(), ends);
    CALL.scope(Call { call_timeout: Duration::ZERO, outer: None, ends: OnceCell::from(ends) }, part)
}

/// The answer to a write that is a part of a call which ends at this instant.
///
/// # Errors
///
/// Those of the write. `Timeout`, outcome unknown, where a store does not keep to the time that is
/// left. `Unsupported` outside of a runtime, which has the timers.
pub(crate) async fn answer_until<T>(ends: Instant, write: impl Future<Output = Result<T>>) -> Result<T> {
    if !runtime::is_here() {
        return Err(Error::without_runtime());
    }
    // A store that keeps to it ends at the same instant, and says more.
    let late = |_| Error::new(ErrorKind::Timeout, "no answer in time").outcome_unknown();
    timeout_at(ends, until(ends, write)).await.map_err(late)?
}

/// The instant at which the call ends that the current future is a part of; none outside of a call.
pub(crate) fn call_ends() -> Option<Instant> {
    CALL.try_with(Call::ends).ok()
}

fn earlier(outer: Option<Instant>, ends: Instant) -> Instant {
    outer.map_or(ends, |outer| outer.min(ends))
}

/// The instant after this time from now, at most 30 years away.
fn after(time: Duration) -> Instant {
    Instant::now() + time.min(FAR)
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

/// The attempts of one read-modify-write.
///
/// A conflict shows the value that won. It is tried at once: it cannot be fresher. Waiting first would only make it stale, and
/// beside a steady writer every longer wait would make success less likely. Waits are for the case that many callers contend;
/// after one the value is read anew.
#[derive(Debug)]
pub(crate) struct OptimisticRetry {
    backoff: Backoff,
    /// How many more attempts there are.
    left: u32,
    /// How many of them are made without a wait.
    at_once: u32,
    /// No wait ends later. It counts from the first conflict.
    deadline: Option<Instant>,
    call_timeout: Duration,
}

/// What follows a conflict.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AfterConflict<T> {
    /// Try again with this, which is fresh.
    Retry(T),
    /// The budget or the time is used up. This is what the last conflict showed.
    GiveUp(Option<T>),
}

impl OptimisticRetry {
    /// Attempts after each read: the first, and these many more on what the conflicts showed.
    const AT_ONCE: u32 = 3;

    pub(crate) fn new(retry: &RetryPolicy) -> Self {
        let (backoff, left) = (retry.backoff(), retry.conflict_budget);
        Self { backoff, left, at_once: Self::AT_ONCE, deadline: None, call_timeout: retry.call_timeout }
    }

    /// As many as the time allows.
    #[cfg(feature = "v2")]
    pub(crate) fn without_budget(retry: &RetryPolicy) -> Self {
        Self { left: u32::MAX, ..Self::new(retry) }
    }

    /// Gives what the next attempt works on: what the conflict showed, or what `read` gives now.
    ///
    /// # Errors
    ///
    /// Those of `read`.
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

    /// Conflicts without end: what each attempt works on, and when it is made; and what was shown last.
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
    async fn shown_value_is_tried_at_once_and_read_anew_after_a_wait() {
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
    async fn value_that_no_conflict_shows_is_read_before_each_attempt() {
        let (attempts, last) = contended(&RetryPolicy::default(), None).await;
        assert_eq!((attempts.len(), last), (32, None));
        assert!(attempts.iter().all(|(value, _)| *value == "read"));
        assert_eq!(attempts[2].1, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_with_the_deadline_of_the_call() {
        let policy = RetryPolicy { conflict_budget: 10_000, ..RetryPolicy::default() };
        let (attempts, _) = contended(&policy, Some("shown")).await;
        let last = attempts.last().unwrap().1;
        assert!(last <= policy.call_timeout && last >= policy.call_timeout - policy.max_delay, "{last:?}");
        assert!(attempts.len() < 100);
    }

    #[tokio::test(start_paused = true)]
    async fn read_is_not_started_for_a_shown_value() {
        let (mut retry, polled) = (OptimisticRetry::new(&RetryPolicy::default()), Cell::new(false));
        let read = async {
            polled.set(true);
            Ok::<_, Infallible>(2)
        };
        assert_eq!(retry.after_conflict(Some(1), read).await, Ok(AfterConflict::Retry(1)));
        assert!(!polled.get());
    }

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
