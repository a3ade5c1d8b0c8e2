//! `Lease`: a lease that is kept alive as long as its guard lives.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::error::{Error, ErrorKind, Result};
use crate::retry::RetryPolicy;
use crate::revision::LeaseId;
use crate::store::Store;
use crate::telemetry;

/// A lease. Keys that are written with it (`.lease(&lease)`) vanish when it ends: when the guard is dropped, or revoked, or when the server
/// could not be told in time that it is still wanted.
///
/// It is kept alive by a task of its own, three times within its time to live. Dropping the guard revokes it in the background as well as
/// possible; if that fails (or the runtime is gone) the keys vanish when the time to live has passed.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// # let client = etcd_typed::Client::connect("memory:").await?;
/// use std::time::Duration;
///
/// let lease = client.lease(Duration::from_secs(10)).await?;
/// let here = client.entry::<String>("/nodes/a")?;
/// here.set(&"10.0.0.7".to_owned()).lease(&lease).await?;
/// lease.revoke().await?;
/// assert!(!here.exists().await?);
/// # Ok(()) }
/// ```
#[must_use = "a lease ends when its guard is dropped"]
pub struct Lease {
    id: LeaseId,
    ttl: Duration,
    store: Arc<dyn Store>,
    state: watch::Receiver<State>,
    /// Of the task; also the clock of those who wait elsewhere.
    runtime: Handle,
    /// Dropping it tells the task to revoke and end.
    _alive: watch::Sender<()>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The server keeps it until then at least: reckoned from when the request was sent.
    Until(Instant),
    Lost,
}

impl Lease {
    pub(crate) async fn grant(store: Arc<dyn Store>, retry: RetryPolicy, ttl: Duration) -> Result<Self> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::Unsupported, "a lease is kept alive by a task: ask for it within a tokio runtime").caused_by(error)
        })?;
        let id = LeaseId::random();
        let sent = Instant::now();
        let ttl = store.grant(id, ttl).await?;
        let (report, state) = watch::channel(State::Until(sent + ttl));
        let (alive, ended) = watch::channel(());
        runtime.spawn(keep_alive(store.clone(), retry, id, ttl, report, ended));
        Ok(Self { id, ttl, store, state, runtime, _alive: alive })
    }

    /// Its name, for `.lease(&lease)` and for tools.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The time to live that the server granted.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How long the lease lasts without another word from the server; zero once it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        remaining(*self.state.borrow())
    }

    /// Waits until the lease is lost: the server says that it is gone, or its time passed without an answer. The error says which.
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn lost(&self) -> Error {
        let mut state = self.state.clone();
        loop {
            let deadline = match *state.borrow_and_update() {
                State::Until(deadline) => deadline,
                State::Lost => return Error::new(ErrorKind::LeaseLost, format!("the server does not know lease {} any more", self.id)),
            };
            let passed = {
                let _within = self.runtime.enter();
                sleep_until(deadline)
            };
            tokio::select! {
                // First the word that there is no task any more: the clock of a runtime that is gone must not be asked.
                biased;
                changed = state.changed() => if changed.is_err() {
                    return Error::new(ErrorKind::LeaseLost, format!("lease {} is not kept alive any more: the runtime is gone", self.id));
                },
                () = passed => {
                    return Error::new(ErrorKind::LeaseLost, format!("no answer for lease {} within its time to live", self.id));
                }
            }
        }
    }

    /// Ends the lease and waits for the answer; all its keys vanish.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, …: the keys then vanish when the time to live has passed.
    pub async fn revoke(self) -> Result<()> {
        self.store.revoke(self.id).await
    }
}

impl From<&Lease> for LeaseId {
    fn from(lease: &Lease) -> Self {
        lease.id
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).field("ttl", &self.ttl).field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}

fn remaining(state: State) -> Duration {
    match state {
        State::Until(deadline) => deadline.saturating_duration_since(Instant::now()),
        State::Lost => Duration::ZERO,
    }
}

/// Owned by the guard: it ends when the guard is dropped (`ended`), or when the lease is lost.
async fn keep_alive(
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    id: LeaseId,
    mut ttl: Duration,
    report: watch::Sender<State>,
    mut ended: watch::Receiver<()>,
) {
    let mut backoff = retry.backoff();
    let mut wait = ttl / 3;
    let mut expired = false;
    loop {
        tokio::select! {
            _ = ended.changed() => break,
            () = tokio::time::sleep(wait) => {}
        }
        let sent = Instant::now();
        let answer = tokio::select! {
            _ = ended.changed() => break,
            answer = store.keep_alive(id) => answer,
        };
        let remaining = remaining(*report.borrow());
        telemetry::lease_remaining(remaining);
        match answer {
            Ok(granted) => {
                expired = false;
                ttl = granted;
                report.send_replace(State::Until(sent + granted));
                backoff.reset();
                wait = ttl / 3;
            }
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                report.send_replace(State::Lost);
                if !expired {
                    telemetry::lease_lost(id, "gone");
                }
                return;
            }
            Err(error) => {
                telemetry::lease_attempt_failed(id, remaining, &error);
                if remaining.is_zero() && !std::mem::replace(&mut expired, true) {
                    telemetry::lease_lost(id, "expired");
                }
                wait = backoff.next_delay();
            }
        }
    }
    if let Err(error) = store.revoke(id).await {
        telemetry::lease_not_revoked(id, &error);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::client::Client;

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn without_a_runtime_there_is_no_lease() {
        let client = Client::connect("memory:").now_or_never().unwrap().unwrap();
        let error = client.lease(TTL).now_or_never().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("within a tokio runtime"), "{error}");
    }

    #[test]
    fn whoever_waits_for_its_end_needs_no_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let lease = runtime.block_on(async { Client::connect("memory:").await.unwrap().lease(TTL).await.unwrap() });
        assert!(lease.lost().now_or_never().is_none());
        drop(runtime);
        let error = lease.lost().now_or_never().unwrap();
        assert!(error.to_string().contains("the runtime is gone"), "{error}");
    }
}
