//! `Lock`: one at a time.

use std::fmt;
use std::ops::Deref;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::key::{Key, KeyError};
use crate::revision::{LeaseId, Revision};
use crate::turn::{Contender, Guard, Token, Turn};

/// The lock of one name, from [`Client::lock`](crate::Client::lock): to be acquired, or looked at from outside. Cheap to clone.
///
/// It is fair (first come, first served), and a waiter is woken by an event when the
/// contender before it is gone.
///
/// It is not re-entrant: two acquisitions in one process exclude each other like any others. A task
/// that holds the lock and calls [`acquire`](Self::acquire) again waits for itself.
/// [`try_acquire`](Self::try_acquire) returns none in this case, and
/// [`acquire_within`](Self::acquire_within) ends with `Timeout`.
///
/// # Who shares the queue
///
/// On etcd v3 every client that keeps the layout of Go's package `concurrency`, with the same name: `Mutex` of that package, `etcdctl lock`, and the lock
/// service of the server (`v3lock`). All of them wait for each other in the order in which they came. Locks that are one single key share no queue with any
/// of these: `lock()` of Node's `etcd3` and `Lock` of Python's `etcd3`. A program that uses those excludes neither this library nor Go.
///
/// Keys below the name that have no lease are not in the queue here. Go's clients wait for them too; [`strays`](Self::strays) lists them, and an event says
/// that there are some ([`telemetry`](crate::telemetry)).
///
/// # On etcd v2
///
/// The queue is among clients of this library. The server lists a key for up to half a second after
/// its time is over; such a key has no holder any more, and the next waiter deletes it, so that a
/// refresh which arrives late does not revive it. The server knows no leases, so three things are
/// weaker: a [token](Lock::into_token) stays good as long as the lock is held, whoever adopted it
/// meanwhile; a create that the server applies seconds after its sender gave up stands in the queue
/// until its time to live is over; and [`is_held`](Guard::is_held) also relies on the clocks of the
/// members, which may differ by the margin at most.
///
/// # Errors
///
/// Every method may answer `InvalidKey` for an empty name, and on etcd v2 for one that is no path; and what the calls of a store may: `Unavailable`, `Timeout`,
/// `Unauthenticated`, `PermissionDenied`, `NoSpace`, `Server`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// # let client = etcd_typed::Client::connect("memory:").await?;
/// let lock = client.lock("/locks/migrate").acquire().await?;
/// assert!(lock.is_held());
/// assert!(client.lock("/locks/migrate").try_acquire().await?.is_none());
/// lock.release().await?; // or drop it
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is locked until it is acquired"]
pub struct NamedLock {
    turn: Result<Turn, KeyError>,
    info: Option<String>,
}

impl NamedLock {
    pub(crate) fn new(turn: Result<Turn, KeyError>) -> Self {
        Self { turn, info: None }
    }

    /// How long the lock outlives a holder who vanished. Default: 15 s. At least the server's shortest lease (2 s with default flags); fractions
    /// of a second are rounded up. It is kept alive three times within that time.
    ///
    /// A short one frees the lock soon after a crash, and is lost by a short outage: a leader of etcd that dies costs about 1 to 3 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        if let Ok(turn) = &mut self.turn {
            turn.ttl = ttl;
        }
        self
    }

    /// What [`holder`](Self::holder) and [`queue`](Self::queue) show of us, instead of host, process, program and time.
    pub fn info(mut self, text: impl Into<String>) -> Self {
        self.info = Some(text.into());
        self
    }

    /// Waits until the lock is ours.
    ///
    /// Waiting goes on through outages. Whoever loses the place meanwhile (an outage longer than the time to live, a deleted key) begins anew at the end of
    /// the queue. One request where nobody has it and the client has a lease to spare (two on v2, where there are no transactions).
    ///
    /// # Errors
    ///
    /// As said for [all methods](Self); `Unsupported` outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping it at any point gives the place up: its lease is revoked in the background, and the key goes with it.
    pub async fn acquire(&self) -> Result<Lock> {
        self.turn()?.take(self.value()).await.map(Lock)
    }

    /// Acquires the lock if nobody has it and nobody waits for it; none if somebody does. One request either way, if the client has a lease to spare (more on v2).
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Option<Lock>> {
        Ok(self.turn()?.try_take(self.value()).await?.map(Lock))
    }

    /// Waits until the lock is ours, but not for longer than this.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and `Timeout` when it was not ours in time; the place is given up then.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_within(&self, time: Duration) -> Result<Lock> {
        self.turn()?.take_within(self.value(), time).await.map(Lock)
    }

    /// Who has the lock now; none if nobody does.
    pub async fn holder(&self) -> Result<Option<Holder>> {
        Ok(self.turn()?.first().await?.map(Holder::of))
    }

    /// Who has the lock and who waits for it, in their order, as of one revision.
    pub async fn queue(&self) -> Result<Vec<Holder>> {
        Ok(self.turn()?.queue().await?.into_iter().map(Holder::of).collect())
    }

    /// The keys below the lock's name that are not in its queue, because they have no lease (on v2: because they are not named by one, or have no time to
    /// live). Nothing here waits for them or deletes them. Go's `concurrency` and `etcdctl lock` wait for each that was created before their own key, and
    /// since nothing ends such a key, they wait until it is deleted.
    pub async fn strays(&self) -> Result<Vec<Key>> {
        self.turn()?.strays().await
    }

    /// Goes on with a lock that another process has left to us by [`Lock::into_token`]. It has this
    /// one's time to live from now on, and shows this one's information. A guard that is still
    /// alive elsewhere loses it, in this process too. It does not enter the queue, so it waits for
    /// no other holder.
    ///
    /// # Errors
    ///
    /// `GuardLost` when it is not held any more, `Invalid` for a token of another lock.
    ///
    /// # Cancel safety
    ///
    /// The lock may be lost: whether the other process or this one had it last is not known.
    pub async fn adopt(&self, token: &Token) -> Result<Lock> {
        self.turn()?.adopt(token, Some(self.value())).await.map(Lock)
    }

    /// Gives a lock that nobody keeps alive this time to live from now on. The answer is the token from now on.
    ///
    /// # Errors
    ///
    /// `GuardLost` when it is not held any more, `Invalid` for a token of another lock.
    pub async fn renew(&self, token: &Token, ttl: Duration) -> Result<Token> {
        self.turn()?.renew(token, ttl).await
    }

    /// Releases a lock by its token, wherever it was acquired.
    ///
    /// # Errors
    ///
    /// `GuardLost` when it is not held any more, `Invalid` for a token of another lock.
    pub async fn release_token(&self, token: &Token) -> Result<()> {
        self.turn()?.release_token(token).await
    }

    fn turn(&self) -> Result<&Turn> {
        Ok(self.turn.as_ref().map_err(KeyError::clone)?)
    }

    fn value(&self) -> Bytes {
        match &self.info {
            Some(text) => Bytes::from(text.clone()),
            // A struct of texts and numbers has a JSON form.
            None => serde_json::to_vec(&Process::this()).unwrap_or_default().into(),
        }
    }
}

/// A lock that is held: released when it is dropped. What it can do beside that is on [`Guard`], to which it derefs.
///
/// Dropping it releases it in the background, by the task that keeps its lease alive; if that cannot be done (no runtime is left, the server does
/// not answer) the lock is free when the time to live has passed. [`release`](Self::release) waits for the answer and tells it.
#[derive(Debug)]
#[must_use = "a lock is released when its guard is dropped"]
pub struct Lock(Guard);

impl Lock {
    /// Releases the lock and waits for the answer. One request.
    ///
    /// # Errors
    ///
    /// `GuardLost` when it was lost before, so that somebody else may have had it meanwhile. `Unavailable`, `Timeout`, …: the lease is revoked in the
    /// background, and if that cannot be done either the lock is free when the time to live has passed.
    ///
    /// # Cancel safety
    ///
    /// Dropping it releases the lock in the background.
    pub async fn release(self) -> Result<()> {
        self.0.release().await
    }

    /// Leaves the lock held and not kept alive, for whoever has the token: to [adopt](NamedLock::adopt), [renew](NamedLock::renew) or
    /// [release](NamedLock::release_token) it within its time to live, which starts again with this.
    pub fn into_token(self) -> Token {
        self.0.into_token()
    }
}

impl Deref for Lock {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.0
    }
}

/// Somebody who has a lock or waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The key that stands for it in the store.
    pub key: Key,
    /// When it came to stand in the queue: the fencing token once it has the lock.
    pub fence: Revision,
    /// The lease of the key; on v2 the name of it, which is all that is known there.
    pub lease: LeaseId,
    /// What it says of itself, as it is stored. Holders that are not of this library say nothing: those of Go and `etcdctl` are empty.
    pub info: String,
    /// The same, if it is what this library says by default.
    pub process: Option<Process>,
}

impl Holder {
    fn of(contender: Contender) -> Self {
        let Contender { key, fence, lease, value, .. } = contender;
        let process = serde_json::from_slice(&value).ok();
        Self { key, fence, lease, info: String::from_utf8_lossy(&value).into_owned(), process }
    }

    /// What releases or renews it from elsewhere. It is up to the caller to know that the holder is not at work any more.
    #[must_use]
    pub fn token(&self) -> Token {
        Token::new(self.key.clone(), self.fence, self.lease)
    }
}

/// A process that has a lock or waits for it, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Process {
    /// The name of its machine.
    pub host: String,
    /// Its number there.
    pub pid: u32,
    /// The name of its program.
    pub name: String,
    /// When it asked for the lock, by its own clock, RFC 3339.
    pub since: String,
}

impl Process {
    fn this() -> Self {
        // What is always the same is asked once: a lock may be acquired thousands of times a second.
        static HOST: LazyLock<String> = LazyLock::new(host);
        static NAME: LazyLock<String> = LazyLock::new(program);
        Self {
            host: HOST.clone(),
            pid: std::process::id(),
            name: NAME.clone(),
            since: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {} on {}, since {})", self.name, self.pid, self.host, self.since)
    }
}

/// The name of this program, as far as the system tells.
fn program() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}
