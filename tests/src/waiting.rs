//! Waits with a limit, so that a test fails instead of hanging.

use std::time::Duration;

use etcd_typed::Live;
use tokio::time::{sleep, timeout};

/// The limit of every wait. It is longer than any backoff. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// The pause between two checks of a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits for a future.
///
/// # Panics
///
/// Panics if the future does not complete within a minute.
pub async fn soon<F: IntoFuture>(future: F) -> F::Output {
    timeout(LIMIT, future).await.expect("this happens in time")
}

/// Waits until the condition is true.
///
/// # Panics
///
/// Panics if the condition is still false after a minute.
pub async fn until(condition: impl Fn() -> bool) {
    eventually(async || condition()).await;
}

/// Waits until the condition is true. The condition may wait, for a server for example.
///
/// # Panics
///
/// Panics if the condition is still false after a minute.
pub async fn eventually(condition: impl AsyncFn() -> bool) {
    soon(async {
        while !condition().await {
            sleep(PAUSE).await;
        }
    })
    .await;
}

/// Waits until the view is live.
///
/// # Panics
///
/// Panics if the view is still degraded after a minute.
pub async fn until_live<T: Send + Sync + 'static>(live: &Live<T>) {
    until(|| live.status().is_live()).await;
}
