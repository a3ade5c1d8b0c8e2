//! `Token`: lets another process take over a guard, renew it or release it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::{Instant, sleep_until};

use super::member::Member;
use super::{Contender, ContenderQueue, Guard};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::lease::Lease;
use crate::retry::{Backoff, RetryPolicy, answer_until};
use crate::revision::{LeaseId, Revision};
use crate::runtime;
use crate::store::{Compare, Condition, Expiry, Op, Span, Txn};

/// A held lock or leadership as text, for another process, which [adopts](crate::NamedLock::adopt),
/// renews or releases it.
///
/// A token is not a secret: every client that may write the key can release the guard. It
/// identifies one guard, not the lock: after the guard is lost, the token is useless.
///
/// The text consists of the key, the fence and the lease in hexadecimal:
/// `/locks/migrate/2f1c8b@17#2f1c8b`. A key that is not UTF-8 (of another client) is written in
/// hexadecimal, and the text ends with `#hex`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    key: Key,
    fence: Revision,
    lease: LeaseId,
}

impl Token {
    pub(crate) fn new(key: Key, fence: Revision, lease: LeaseId) -> Self {
        Self { key, fence, lease }
    }

    /// The guard's key in the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The fencing token of the guard.
    #[must_use]
    pub fn fence(&self) -> Revision {
        self.fence
    }

    /// The lease that the key is attached to.
    #[must_use]
    pub fn lease_id(&self) -> LeaseId {
        self.lease
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, fence, lease } = self;
        if key.is_text() {
            return write!(f, "{key}@{fence}#{lease}");
        }
        key.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "@{fence}#{lease}{HEX}")
    }
}

/// The error for a text that is not a [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenError;

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token is a key, a fence and a lease: `/locks/migrate/2f1c8b@17#2f1c8b`")
    }
}

impl std::error::Error for TokenError {}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (text, hex) = text.strip_suffix(HEX).map_or((text, false), |text| (text, true));
        let (rest, lease) = text.rsplit_once('#').ok_or(TokenError)?;
        let (key, fence) = rest.rsplit_once('@').ok_or(TokenError)?;
        let lease = u64::from_str_radix(lease, 16).ok().and_then(|lease| LeaseId::from_signed(lease.cast_signed())).ok_or(TokenError)?;
        let fence = fence.parse().map(Revision::new).map_err(|_| TokenError)?;
        let key = if hex { bytes(key).ok_or(TokenError)? } else { key.as_bytes().to_vec() };
        // A key in a queue begins with the queue's name, which is not empty, and a slash.
        let in_a_queue = key.iter().skip(1).any(|byte| *byte == b'/');
        if in_a_queue { Ok(Self { key: Key::stored(&key), fence, lease }) } else { Err(TokenError) }
    }
}

/// The end of a token whose key is written in hexadecimal. A lease never ends like this.
const HEX: &str = "#hex";

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl ContenderQueue {
    /// Takes over a guard by attaching its key to a new lease, so that the previous holder loses
    /// it.
    pub(crate) async fn adopt(&self, token: &Token, value: Option<Bytes>) -> Result<Guard> {
        self.names(token)?;
        let adopt = async {
            // Takes a new lease and no spare one, which the server may have forgotten.
            let lease = self.lease_pool.grant(self.ttl).await.map_err(|error| error.at(&token.key))?;
            let clean = self.attach(token, &lease, value).await?;
            // A failure does no harm: no key is attached to the old lease any more, and it runs out
            // by itself.
            let _ = self.store().revoke(token.lease).await;
            Ok(Guard::new(self, token.key.clone(), token.fence, Member::new(lease), clean))
        };
        self.retry().one_call(adopt).await
    }

    /// Attaches a guard's key to a new lease with this time to live, and stops renewing it.
    pub(crate) async fn renew(&self, token: &Token, ttl: Duration) -> Result<Token> {
        self.names(token)?;
        let renew = async {
            let lease = self.lease_pool.grant(ttl).await.map_err(|error| error.at(&token.key))?;
            self.attach(token, &lease, None).await?;
            let _ = self.store().revoke(token.lease).await;
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
        let _ = self.store().revoke(token.lease).await;
        Ok(())
    }

    /// Attaches a guard's key to another lease; its creation revision stays. Returns whether no
    /// copy of the request can be applied later.
    async fn attach(&self, token: &Token, lease: &Lease, value: Option<Bytes>) -> Result<bool> {
        let mut attempts = Attempts::new(self.lease_pool.retry());
        loop {
            // The first contender stays the first as long as its key exists. A waiter has a token
            // too, but does not get a guard for it.
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
                // The value was written meanwhile, or the key changed; the next read shows which.
                Ok(_) => Error::new(ErrorKind::Conflict, "other clients kept changing the key at the same time"),
                Err(error) => error,
            };
            attempts.failed(error).await.map_err(|error| error.at(&token.key))?;
        }
    }

    /// The conditions that the key is as the token says, and was not written since it was read.
    fn as_left(&self, token: &Token, modified: Option<Revision>) -> Vec<Compare> {
        let modified = modified.map(Condition::Modified);
        let transactions = self.store().capabilities().transactions;
        // v2 does not know the leases of other processes.
        let lease = transactions.then_some(Condition::Lease(token.lease));
        let created = Condition::Created(token.fence);
        let conditions = [Some(created), lease, modified].into_iter().flatten();
        conditions.map(|condition| Compare::key(&token.key, condition)).collect()
    }

    /// # Errors
    ///
    /// `Invalid` for a token of something else.
    fn names(&self, token: &Token) -> Result<()> {
        if Span::Below(self.directory.clone()).contains(token.key.as_bytes()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Invalid, format!("the token is for {}", token.key)).at(&self.directory))
    }
}

/// Repeats a write after any failure. The write must be conditional on the state that it changes.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_text_keeps_every_key() {
        let keys = [
            &b"/locks/a/1"[..],
            b"/a//1",
            b"a/1",
            b"//1",
            b"dlock:x/1",
            b" /1",
            b"a@b#c/1",
            "ü/1".as_bytes(),
            b"a/b/c",
            b"q/\xff\xfe",
            b"q/\0",
        ];
        for key in keys {
            for lease in [17, -17] {
                let token = Token::new(Key::stored(key), Revision::new(3), LeaseId::from_signed(lease).unwrap());
                assert_eq!(token.to_string().parse(), Ok(token.clone()), "{token}");
            }
        }
    }

    #[test]
    fn malformed_token_is_refused() {
        for nonsense in [
            "",
            "/x",
            "/x/1@2",
            "/x/1#2",
            "x@1#2",
            "/x/1@#2",
            "/x/1@2#",
            "/x/1@2#0",
            "/x/1@two#2",
            "/x/1@2#xyz",
            "/x@1#2",
            "abc@1#2#hex",
            "zz@1#2#hex",
            "@1#2#hex",
        ] {
            assert_eq!(nonsense.parse::<Token>(), Err(TokenError), "{nonsense}");
        }
    }
}
