//! Takes over, renews or releases a guard of another process by its [`Token`].

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::ContenderQueue;
use super::contender::Contender;
use super::guard::Guard;
use super::member::{Member, is_on_borrowed_lease};
use super::token::Token;
use crate::error::{Error, ErrorKind, Result};
use crate::lease::Lease;
use crate::retry::{Backoff, RetryPolicy, answer_until};
use crate::revision::Revision;
use crate::runtime;
use crate::store::{Compare, Condition, Expiry, Op, Span, Txn};

impl ContenderQueue {
    /// Takes over a guard by attaching its key to a new lease, so that the previous holder loses
    /// the guard. If the key stayed on its lease, the previous guard would stay held.
    pub(crate) async fn adopt(&self, token: &Token, value: Option<Bytes>) -> Result<Guard> {
        self.names(token)?;
        if self.lease.is_some() {
            let message = format!("a {} that is taken over gets a lease of its own; leave out `.lease`", self.kind);
            return Err(Error::new(ErrorKind::Unsupported, message).at(&self.directory));
        }
        let adopt = async {
            // A spare lease is not used, since the server may have forgotten it.
            let lease = self.lease_pool.grant(self.ttl).await.map_err(|error| error.at(&token.key))?;
            let clean = self.attach(token, &lease, value).await?;
            self.end_lease(token).await;
            Ok(Guard::new(self, token.key.clone(), token.fence, Member::new(lease, clean)))
        };
        self.retry().one_call(adopt).await
    }

    /// Attaches a guard's key to a new lease with this time to live, and does not renew that lease.
    pub(crate) async fn renew(&self, token: &Token, ttl: Duration) -> Result<Token> {
        self.names(token)?;
        let renew = async {
            let lease = self.lease_pool.grant(ttl).await.map_err(|error| error.at(&token.key))?;
            self.attach(token, &lease, None).await?;
            self.end_lease(token).await;
            let renewed = Token { lease: lease.id(), ..token.clone() };
            lease.leave();
            Ok(renewed)
        };
        self.retry().one_call(renew).await
    }

    /// Releases a guard by its token.
    pub(crate) async fn release_token(&self, token: &Token) -> Result<()> {
        self.names(token)?;
        self.retry().one_call(self.release_left(token)).await
    }

    async fn release_left(&self, token: &Token) -> Result<()> {
        let txn = Txn { compares: self.as_left(token, None), then: vec![Op::delete(&token.key)], otherwise: Vec::new() };
        let mut attempts = Attempts::new(self.lease_pool.retry());
        loop {
            match answer_until(attempts.deadline, self.store().commit(txn.clone())).await {
                // If an earlier attempt had an unknown outcome, that attempt released the guard.
                Ok(committed) if committed.succeeded || attempts.unsure => break,
                Ok(_) => return Err(not_there(token)),
                Err(error) => attempts.failed(error).await.map_err(|error| error.at(&token.key))?,
            }
        }
        self.end_lease(token).await;
        Ok(())
    }

    /// Ends the lease that the token's key was attached to, unless other keys may be attached to
    /// it.
    async fn end_lease(&self, token: &Token) {
        if !is_on_borrowed_lease(&token.key) {
            // A failure does no harm: no key is attached to the lease any more, and it runs out by
            // itself.
            let _ = self.store().revoke(token.lease).await;
        }
    }

    /// Attaches a guard's key to another lease. The creation revision of the key stays. Returns
    /// true if all requests were answered, so that the server cannot apply one of them later.
    async fn attach(&self, token: &Token, lease: &Lease, value: Option<Bytes>) -> Result<bool> {
        let mut attempts = Attempts::new(self.lease_pool.retry());
        loop {
            // The first contender stays the first while its key exists. A waiter has a token too,
            // but the token does not give the waiter a guard.
            let first = self.contenders().await?.into_iter().next();
            let is_named = |first: &Contender| first.key == token.key && first.fence == token.fence;
            let Some(first) = first.filter(is_named) else { return Err(not_there(token)) };
            // v2 does not show which lease a key is attached to.
            if self.store().capabilities().transactions {
                if first.lease == lease.id() {
                    return Ok(!attempts.unsure);
                }
                if first.lease != token.lease {
                    return Err(not_there(token));
                }
            }
            let value = value.clone().unwrap_or(first.value);
            let put = Op::Put { key: token.key.clone(), value, expiry: Expiry::With(lease.id()), previous: false };
            let txn = Txn { compares: self.as_left(token, Some(first.modified)), then: vec![put], otherwise: Vec::new() };
            let error = match answer_until(attempts.deadline, self.store().commit(txn)).await {
                Ok(committed) if committed.succeeded => return Ok(!attempts.unsure),
                // Another client wrote the value, or the token's guard ended. The next read shows
                // which.
                Ok(_) => Error::new(ErrorKind::Conflict, "other clients kept changing the key at the same time"),
                Err(error) => error,
            };
            attempts.failed(error).await.map_err(|error| error.at(&token.key))?;
        }
    }

    /// Returns the conditions of a write by token: the key matches the token, and was last modified
    /// at `modified`, if that is set.
    fn as_left(&self, token: &Token, modified: Option<Revision>) -> Vec<Compare> {
        let modified = modified.map(Condition::Modified);
        let transactions = self.store().capabilities().transactions;
        // v2 does not know the leases of other processes.
        let lease = transactions.then_some(Condition::Lease(token.lease));
        let created = Condition::Created(token.fence);
        let conditions = [Some(created), lease, modified].into_iter().flatten();
        conditions.map(|condition| Compare::key(&token.key, condition)).collect()
    }

    /// Checks that the token is for a key in this queue.
    ///
    /// # Errors
    ///
    /// `Invalid` for a token of another queue.
    fn names(&self, token: &Token) -> Result<()> {
        if Span::Below(self.directory.clone()).contains(token.key.as_bytes()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Invalid, format!("the token is for {}", token.key)).at(&self.directory))
    }
}

/// The attempts of a write that is repeated even after an unknown outcome. The write must be
/// conditional on the state that it changes.
struct Attempts {
    deadline: Instant,
    backoff: Backoff,
    /// Whether an attempt had an unknown outcome.
    unsure: bool,
}

impl Attempts {
    fn new(retry: &RetryPolicy) -> Self {
        Self { deadline: retry.deadline(), backoff: retry.backoff(), unsure: false }
    }

    /// Waits before the next attempt. Returns the error if there is no next attempt.
    async fn failed(&mut self, error: Error) -> Result<()> {
        self.unsure |= error.may_have_applied();
        let next = Instant::now() + self.backoff.next_delay();
        // A server without space keeps refusing until an operator frees space.
        let again =
            (error.may_have_applied() && error.kind() != ErrorKind::NoSpace) || error.is_retryable() || error.kind() == ErrorKind::Conflict;
        if !again || next >= self.deadline || !runtime::is_here() {
            return Err(error);
        }
        sleep_until(next).await;
        Ok(())
    }
}

fn not_there(token: &Token) -> Error {
    Error::new(ErrorKind::GuardLost, "the lock or leadership of this token is no longer held").at(&token.key)
}
