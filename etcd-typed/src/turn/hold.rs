//! `Hold`: whether a guard is held, which is for its lease to say and for itself: its key may be gone, or it was given up and the lease serves another.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::Error;
use crate::lease::{Life, LostReason};

/// Shared by a guard and all that depend on it.
#[derive(Clone)]
pub(super) struct Hold(Arc<Inner>);

struct Inner {
    life: Life,
    /// Why the guard is not held any more, beside the end of its lease.
    ended: watch::Sender<Option<LostReason>>,
    /// The error that is behind that.
    cause: OnceLock<Arc<Error>>,
}

impl Hold {
    pub(super) fn of(life: &Life) -> Self {
        Self(Arc::new(Inner { life: life.clone(), ended: watch::Sender::new(None), cause: OnceLock::new() }))
    }

    /// See [`Life::tend`].
    pub(super) fn tend(&self) {
        if self.0.ended.borrow().is_none() {
            self.0.life.tend();
        }
    }

    /// Why it is not held any more, if it is not.
    pub(super) fn reason(&self) -> Option<LostReason> {
        let ended = *self.0.ended.borrow();
        ended.or_else(|| self.0.life.reason())
    }

    /// For how long it is held without another word from the server.
    pub(super) fn remaining(&self) -> Duration {
        if self.0.ended.borrow().is_some() { Duration::ZERO } else { self.0.life.remaining() }
    }

    /// Waits until it is not held any more. It is known at the first look after that, however late this is polled.
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
            // The sender is in `self`, so that there is an end is all that can be told. What is borrowed with the answer is given back before the next look.
            () = async { let _ = ended.wait_for(Option::is_some).await; } => self.reason().unwrap_or(LostReason::Released),
            lost = self.0.life.lost() => lost.reason(),
        }
    }

    /// It is lost, and its lease, which is its own, with it.
    pub(super) fn lose(&self, why: LostReason) {
        if self.end(why) {
            self.0.life.lose(why);
        }
    }

    /// The same, because the server refuses this.
    pub(super) fn lose_by(&self, why: LostReason, error: Error) {
        // Nobody else sets it.
        let _ = self.0.cause.set(Arc::new(error));
        self.lose(why);
    }

    /// The error that is behind the reason, if one is.
    pub(super) fn cause(&self, reason: LostReason) -> Option<Arc<Error>> {
        let own = (reason == LostReason::Unverified).then(|| self.0.cause.get().cloned()).flatten();
        own.or_else(|| self.0.life.cause(reason))
    }

    /// It was given up. The lease goes its own way from now on.
    pub(super) fn release(&self) {
        self.end(LostReason::Released);
    }

    /// Whether it had not ended before.
    fn end(&self, why: LostReason) -> bool {
        self.0.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                // Its lease may have ended first, and be the reason for the rest.
                *ended = Some(self.0.life.reason().unwrap_or(why));
            }
            first
        })
    }
}
