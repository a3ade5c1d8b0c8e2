//! `Hold`: whether a guard is still held. The guard ends with its lease. It also ends when its key
//! is gone, and when it is released, after which the lease may serve another guard. A lease that
//! the caller keeps does not end with the guard.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;

use super::hand_over::HandOver;
use crate::error::Error;
use crate::key::Key;
use crate::lease::{LostReason, Validity};

/// Shared by a guard and everything that depends on it.
#[derive(Clone)]
pub(super) struct Hold(Arc<Inner>);

struct Inner {
    validity: Validity,
    /// Why the guard ended. `None` while the guard is held, and if only its lease has ended.
    ended: watch::Sender<Option<LostReason>>,
    /// The error that ended the guard.
    cause: OnceLock<Arc<Error>>,
    /// The hand-over in which waiters of this client wait for the guard's key. Set only if the
    /// lease does not end with the guard.
    waiters: Option<(Arc<HandOver>, Key)>,
}

impl Hold {
    pub(super) fn of(validity: &Validity) -> Self {
        Self::new(validity, None)
    }

    /// Creates the hold of a guard whose lease the caller keeps.
    pub(super) fn within(validity: &Validity, hand_over: &Arc<HandOver>, key: &Key) -> Self {
        Self::new(validity, Some((hand_over.clone(), key.clone())))
    }

    fn new(validity: &Validity, waiters: Option<(Arc<HandOver>, Key)>) -> Self {
        Self(Arc::new(Inner { validity: validity.clone(), ended: watch::Sender::new(None), cause: OnceLock::new(), waiters }))
    }

    /// See [`Validity::tend`].
    pub(super) fn tend(&self) {
        if self.0.ended.borrow().is_none() {
            self.0.validity.tend();
        }
    }

    /// Returns why the guard is no longer held, or `None` while it is held.
    pub(super) fn reason(&self) -> Option<LostReason> {
        let ended = *self.0.ended.borrow();
        ended.or_else(|| self.0.validity.reason())
    }

    /// Returns how long the guard stays held without another answer from the server.
    pub(super) fn remaining(&self) -> Duration {
        if self.0.ended.borrow().is_some() { Duration::ZERO } else { self.0.validity.remaining() }
    }

    /// Waits until the guard is no longer held. Checks the clock on every poll, so a late poll sees
    /// the loss too.
    pub(super) async fn lost(&self) -> LostReason {
        let mut told = pin!(self.told());
        poll_fn(|cx| match self.reason() {
            Some(reason) => Poll::Ready(reason),
            None => told.as_mut().poll(cx),
        })
        .await
    }

    async fn told(&self) -> LostReason {
        let mut ended = self.0.ended.subscribe();
        tokio::select! {
            biased;
            // `wait_for` cannot fail, since `self` owns the sender. Its result borrows the value
            // and must be dropped before `reason` borrows it again.
            () = async { let _ = ended.wait_for(Option::is_some).await; } => self.reason().unwrap_or(LostReason::Released),
            lost = self.0.validity.lost() => lost.reason(),
        }
    }

    /// Ends the guard, and its lease too if the lease belongs to this guard.
    pub(super) fn lose(&self, why: LostReason) {
        if self.end(why) {
            match &self.0.waiters {
                None => self.0.validity.lose(why),
                Some((hand_over, key)) => hand_over.lost(key),
            }
        }
    }

    /// Does what [`lose`](Self::lose) does, with the server's error as the cause.
    pub(super) fn lose_by(&self, why: LostReason, error: Error) {
        // This is the only place that sets the cause.
        let _ = self.0.cause.set(Arc::new(error));
        self.lose(why);
    }

    /// Returns the error behind the reason, if there is one.
    pub(super) fn cause(&self, reason: LostReason) -> Option<Arc<Error>> {
        let own = (reason == LostReason::Unverified).then(|| self.0.cause.get().cloned()).flatten();
        own.or_else(|| self.0.validity.cause(reason))
    }

    /// Ends the guard after a release. The lease lives on.
    pub(super) fn release(&self) {
        self.end(LostReason::Released);
    }

    /// Ends the guard for this reason. Returns false if the guard had ended before.
    fn end(&self, why: LostReason) -> bool {
        self.0.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                // If the lease ended first, its end is the reason.
                *ended = Some(self.0.validity.reason().unwrap_or(why));
            }
            first
        })
    }
}
