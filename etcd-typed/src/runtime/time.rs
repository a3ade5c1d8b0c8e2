//! Timers that are not bound to a runtime. A tokio timer belongs to the runtime on which it was
//! created: it panics if it is polled after that runtime has ended, and never fires while that
//! runtime is not driven.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::current;

/// Returns the time on tokio's clock, which tests can pause, as the type in the public API.
pub(crate) fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Returns the time since `since` on tokio's clock.
pub(crate) fn elapsed(since: std::time::Instant) -> Duration {
    Instant::from_std(since).elapsed()
}

/// Like [`tokio::time::sleep`], but may be polled on a runtime other than the one that created it.
pub(crate) async fn sleep(time: Duration) {
    let far = Duration::from_secs(86_400 * 365 * 30);
    let now = Instant::now();
    sleep_until(now.checked_add(time).unwrap_or_else(|| now + far)).await;
}

/// Like [`tokio::time::sleep_until`], but may be polled on a runtime other than the one that
/// created it. Outside of a runtime there are no timers, so the future completes only when it is
/// polled within a runtime.
pub(crate) async fn sleep_until(at: Instant) {
    let mut is_over = false;
    while !is_over {
        let runtime = poll_fn(|_| current().map_or(Poll::Pending, Poll::Ready)).await;
        let mut timer = pin!(tokio::time::sleep_until(at));
        is_over = poll_fn(|cx| if current() == Some(runtime) { timer.as_mut().poll(cx).map(|()| true) } else { Poll::Ready(false) }).await;
    }
}
