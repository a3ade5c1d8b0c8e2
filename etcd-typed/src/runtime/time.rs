//! Timers that are not bound to a runtime. A timer of tokio belongs to the runtime it was made on: it panics when it is polled after that runtime has ended, and
//! stays silent while nobody drives it.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::current;

/// Returns the time on tokio's clock, which tests can pause, in the type that the public API shows.
pub(crate) fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Returns how long ago `since` was on tokio's clock.
pub(crate) fn elapsed(since: std::time::Instant) -> Duration {
    Instant::from_std(since).elapsed()
}

/// [`tokio::time::sleep`], which goes on on the runtime that polls it.
pub(crate) async fn sleep(time: Duration) {
    let far = Duration::from_secs(86_400 * 365 * 30);
    let now = Instant::now();
    sleep_until(now.checked_add(time).unwrap_or_else(|| now + far)).await;
}

/// [`tokio::time::sleep_until`], which goes on on the runtime that polls it. Outside of a runtime there are no timers, and it is not over before it is polled within one.
pub(crate) async fn sleep_until(at: Instant) {
    let mut is_over = false;
    while !is_over {
        let runtime = poll_fn(|_| current().map_or(Poll::Pending, Poll::Ready)).await;
        let mut timer = pin!(tokio::time::sleep_until(at));
        is_over = poll_fn(|cx| if current() == Some(runtime) { timer.as_mut().poll(cx).map(|()| true) } else { Poll::Ready(false) }).await;
    }
}
