//! `Lock`: a lock that one process holds at a time.

use std::fmt;
use std::ops::Deref;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::key::{Key, KeyError};
use crate::lease::{BorrowedLease, Lease};
use crate::queue::{Contender, ContenderQueue, Guard, Token};
use crate::revision::{LeaseId, Revision};

/// The lock with one name, from [`Client::lock`](crate::Client::lock). Use it to acquire the lock,
/// or to read who holds it. Cheap to clone.
///
/// The lock is fair (first come, first served). When a contender leaves the queue, a watch event
/// wakes the next one.
///
/// It is not re-entrant: two acquisitions in one process exclude each other like any others. A task
/// that holds the lock and calls [`acquire`](Self::acquire) again waits for itself forever. In this
/// case [`try_acquire`](Self::try_acquire) returns `None`, and
/// [`acquire_within`](Self::acquire_within) fails with `Timeout`.
///
/// # Which programs share the queue
///
/// On etcd v3, every client that uses the key layout of Go's package `concurrency` with the same
/// name: `Mutex` of that package, `etcdctl lock`, and the lock service of the server (`v3lock`).
/// They all get the lock in the order in which they came. Locks that consist of a single key do not
/// share the queue: `lock()` of Node's `etcd3` and `Lock` of Python's `etcd3`. A program that uses
/// these excludes neither this library nor Go.
///
/// A key below the name that has no lease is not in the queue here. Go's clients wait for such keys
/// too. [`strays`](Self::strays) lists them, and an event reports that they exist
/// ([`telemetry`](crate::telemetry)).
///
/// # On etcd v2
///
/// Only clients of this library share the queue. The server may list a key for up to half a second
/// after its time to live has passed. The owner of such a key no longer holds the lock; the next
/// waiter deletes the key, so that a late refresh cannot revive it. The v2 server has no leases,
/// which weakens three guarantees:
///
/// - A [token](Lock::into_token) stays valid while the lock is held, even if another process has
///   adopted the lock.
/// - The server may apply a create request seconds after its sender gave up. The key of such a
///   request stays in the queue until its time to live has passed.
/// - [`is_held`](Guard::is_held) also relies on the clocks of the members, which may differ by at
///   most the margin.
///
/// # Errors
///
/// Every method fails with `InvalidKey` if the name is empty or, on etcd v2, not a path. Every
/// method can also fail with the errors of a store call: `Unavailable`, `Timeout`,
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
    queue: Result<ContenderQueue, KeyError>,
    info: Option<String>,
}

impl NamedLock {
    pub(crate) fn new(queue: Result<ContenderQueue, KeyError>) -> Self {
        Self { queue, info: None }
    }

    /// Sets how long the lock stays held after its holder vanished. Default: 15 s. The server
    /// raises a shorter time to its shortest lease (2 s with default flags), and fractions of a
    /// second are rounded up. The client renews the lease three times within this time.
    ///
    /// A short time to live frees the lock soon after a crash, but a short outage loses the lock:
    /// when the leader of the etcd cluster dies, the outage takes about 1 to 3 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        if let Ok(queue) = &mut self.queue {
            queue.ttl = ttl;
        }
        self
    }

    /// Attaches the keys of this lock to a lease that the caller keeps. Without this call each
    /// acquisition gets its own lease. The lease sets the time to live; [`ttl`](Self::ttl) has no
    /// effect.
    ///
    /// One lease can serve any number of locks, candidacies and
    /// [published values](crate::Publish::lease). It can also serve several places in the queue of
    /// one lock: each acquisition has its own key, and the acquisitions exclude each other. All
    /// guards are lost when the lease ends, and a waiter gets `LeaseLost`. A guard that ends deletes
    /// its key and keeps the lease.
    ///
    /// If the answer to a request is lost, the server may create the key after its guard has ended.
    /// When each acquisition has its own lease, the end of that lease removes such a key. With the
    /// caller's lease, a task of the client deletes the key when it appears.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// use std::time::Duration;
    ///
    /// let lease = client.lease(Duration::from_secs(10)).await?;
    /// let migrate = client.lock("/locks/migrate").lease(&lease).acquire().await?;
    /// let leader = client.election::<String>("/scheduler").lease(&lease).campaign(&"a".to_owned()).await?;
    ///
    /// migrate.release().await?;
    /// assert!(lease.is_held() && leader.is_held());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Acquiring fails with `LeaseLost` if the lease has ended, and with `Unsupported` on v2, which
    /// has no leases that guards can share; use [`ttl`](Self::ttl) there. [`adopt`](Self::adopt) fails
    /// with `Unsupported`, since it always attaches the lock to a new lease.
    pub fn lease(mut self, lease: &Lease) -> Self {
        if let Ok(queue) = &mut self.queue {
            queue.lease = Some(BorrowedLease::of(lease));
        }
        self
    }

    /// Sets the text that [`holder`](Self::holder) and [`queue`](Self::queue) show for this
    /// process, instead of its host, process number, program and time.
    pub fn info(mut self, text: impl Into<String>) -> Self {
        self.info = Some(text.into());
        self
    }

    /// Waits until this caller holds the lock.
    ///
    /// Waiting continues through outages. A waiter that loses its place (an outage longer than the
    /// time to live, a deleted key) starts again at the end of the queue. If the lock is free and
    /// the client has a spare lease, acquiring costs one request (two on v2, which has no
    /// transactions).
    ///
    /// # Errors
    ///
    /// The errors of [all methods](Self); `Unsupported` outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any point leaves the queue: the lease is revoked in the background,
    /// which deletes the key. With [`lease`](Self::lease) the key alone is deleted in the background.
    pub async fn acquire(&self) -> Result<Lock> {
        self.valid_queue()?.acquire(self.value()).await.map(Lock)
    }

    /// Acquires the lock if it is free and has no waiters; otherwise returns `None`. The call costs
    /// one request if the client has a spare lease (more on v2).
    ///
    /// # Errors
    ///
    /// The errors of [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// The same as for [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Option<Lock>> {
        Ok(self.valid_queue()?.try_acquire(self.value()).await?.map(Lock))
    }

    /// Waits at most this long to acquire the lock.
    ///
    /// # Errors
    ///
    /// The errors of [`acquire`](Self::acquire), and `Timeout` if the lock was not acquired in
    /// time; the caller then leaves the queue.
    ///
    /// # Cancel safety
    ///
    /// The same as for [`acquire`](Self::acquire).
    pub async fn acquire_within(&self, time: Duration) -> Result<Lock> {
        self.valid_queue()?.acquire_within(self.value(), time).await.map(Lock)
    }

    /// Returns the holder of the lock, or `None` if the lock is free.
    pub async fn holder(&self) -> Result<Option<Holder>> {
        Ok(self.valid_queue()?.first().await?.map(Holder::of))
    }

    /// Returns the holder and all waiters in the order of the queue, as of one revision.
    pub async fn queue(&self) -> Result<Vec<Holder>> {
        Ok(self.valid_queue()?.contenders().await?.into_iter().map(Holder::of).collect())
    }

    /// Returns the keys below the lock's name that are not in its queue because they have no lease.
    /// (On v2: keys whose name is not a lease ID, and keys without a time to live.) This library
    /// neither waits for these keys nor deletes them. Go's `concurrency` and `etcdctl lock` wait
    /// for every key that was created before their own. Since such a key never expires, they wait
    /// until somebody deletes it.
    pub async fn strays(&self) -> Result<Vec<Key>> {
        self.valid_queue()?.strays().await
    }

    /// Takes over a lock that another process handed over with [`Lock::into_token`]. The lock gets
    /// the time to live and the information that are set here. A guard that still exists, in this
    /// process or elsewhere, loses the lock. Adopting does not join the queue, so it waits for no
    /// other contender.
    ///
    /// # Errors
    ///
    /// `GuardLost` if the lock is no longer held, `Invalid` for a token of another lock.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may lose the lock: the request may already have attached the lock to a
    /// lease of this process, which then ends.
    pub async fn adopt(&self, token: &Token) -> Result<Lock> {
        self.valid_queue()?.adopt(token, Some(self.value())).await.map(Lock)
    }

    /// Sets the time to live of a lock that no process keeps alive. The time to live starts anew
    /// now. Returns the token that replaces the old one.
    ///
    /// # Errors
    ///
    /// `GuardLost` if the lock is no longer held, `Invalid` for a token of another lock.
    pub async fn renew(&self, token: &Token, ttl: Duration) -> Result<Token> {
        self.valid_queue()?.renew(token, ttl).await
    }

    /// Releases a lock by its token, whichever process acquired it.
    ///
    /// # Errors
    ///
    /// `GuardLost` if the lock is no longer held, `Invalid` for a token of another lock.
    pub async fn release_token(&self, token: &Token) -> Result<()> {
        self.valid_queue()?.release_token(token).await
    }

    fn valid_queue(&self) -> Result<&ContenderQueue> {
        Ok(self.queue.as_ref().map_err(KeyError::clone)?)
    }

    fn value(&self) -> Bytes {
        match &self.info {
            Some(text) => Bytes::from(text.clone()),
            // Serializing a struct of texts and numbers does not fail.
            None => serde_json::to_vec(&Process::this()).unwrap_or_default().into(),
        }
    }
}

/// A held lock. Dereferences to [`Guard`], which has more methods.
///
/// Dropping a `Lock` releases the lock in a background task. If that fails (no runtime is left, the
/// server does not answer), the lock is free when the time to live has passed.
/// [`release`](Self::release) waits for the answer and returns it.
#[derive(Debug)]
#[must_use = "a lock is released when its guard is dropped"]
pub struct Lock(Guard);

impl Lock {
    /// Releases the lock with one request, and waits for the answer.
    ///
    /// # Errors
    ///
    /// `GuardLost` if the lock was lost before; another process may have held it since. After
    /// `Unavailable`, `Timeout` and other errors the client revokes the lease in the background, or
    /// deletes the key if the caller keeps the lease. If that fails too, the lock is free when the
    /// time to live has passed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future releases the lock in the background.
    pub async fn release(self) -> Result<()> {
        self.0.release().await
    }

    /// Keeps the lock held but stops renewing its lease, so that the owner of the token can
    /// [adopt](NamedLock::adopt), [renew](NamedLock::renew) or [release](NamedLock::release_token)
    /// it. The time to live starts again now, and the owner must act before it has passed. On a
    /// lease of [`NamedLock::lease`], the lock stays held until that lease ends.
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

/// A holder of a lock, or a waiter for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The holder's or waiter's key in the store.
    pub key: Key,
    /// The revision at which the key joined the queue. This is the fencing token once the key's
    /// owner holds the lock.
    pub fence: Revision,
    /// The lease of the key. On v2 it is derived from the key's name, since v2 has no leases.
    pub lease: LeaseId,
    /// The information that the holder or waiter stored in its key. Empty for Go's package and
    /// `etcdctl`, which store no information.
    pub info: String,
    /// The parsed information. `None` if the information is not in this library's default form.
    pub process: Option<Process>,
}

impl Holder {
    fn of(contender: Contender) -> Self {
        let Contender { key, fence, lease, value, .. } = contender;
        let process = serde_json::from_slice(&value).ok();
        Self { key, fence, lease, info: String::from_utf8_lossy(&value).into_owned(), process }
    }

    /// Returns a token with which any process can release or renew the lock. Make sure that the
    /// holder's process no longer works under the lock.
    #[must_use]
    pub fn token(&self) -> Token {
        Token::new(self.key.clone(), self.fence, self.lease)
    }
}

/// Information about a process that holds a lock or waits for it, written by that process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Process {
    /// The host name of the process's machine.
    pub host: String,
    /// The process number.
    pub pid: u32,
    /// The name of the program.
    pub name: String,
    /// The time at which the process asked for the lock, by its own clock, in RFC 3339 format.
    pub since: String,
}

impl Process {
    fn this() -> Self {
        // Host and program never change, so they are read once: a lock may be acquired thousands of
        // times a second.
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

/// Returns the name of this program, or an empty string if the system does not report the name.
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
