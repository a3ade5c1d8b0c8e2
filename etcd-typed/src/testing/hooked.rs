//! `HookedStore`: runs a test's closure in place of each call to another store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::revision::LeaseId;
use crate::store::{
    BoxFuture, Capabilities, Committed, Identity, Member, Range, RangeReply, Stats, StatsKind, Status, Store, Txn, Watch, WatchStream,
};

/// Wraps a store and runs a closure, the hook, in place of each call.
///
/// The hook gets the [`Call`] and the wrapped store, and returns a future of the [`Reply`].
/// [`call.send(&store)`](Call::send) makes the call. The hook may inspect or change the request,
/// wait, make another client's transaction first, return an error instead, or change the reply. Use
/// it to put your code into situations that are rare on a real server: a conflict at the first
/// attempt, a write whose outcome is unknown, an old server. To simulate outages, delays and lost
/// replies of the memory store, [`Faults`](crate::store::memory::Faults) needs less code.
///
/// The hook runs only for methods that send requests. [`capabilities`](Store::capabilities),
/// [`history`](Store::history) and [`identity`](Store::identity) call the wrapped store directly.
/// Clones share the hook. A `HookedStore` can wrap another `HookedStore`; the hook of the outer
/// store runs first.
///
/// # Example
///
/// The code under test adds one to a number, and tries again if another client was faster. The hook
/// lets another client write before the first attempt arrives:
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// use etcd_typed::store::memory::MemoryStore;
/// use etcd_typed::testing::{Call, HookedStore};
/// use etcd_typed::{Client, Entry, ErrorKind};
///
/// async fn add_one(limit: &Entry<u32>) -> etcd_typed::Result<u32> {
///     loop {
///         let seen = limit.get().await?;
///         let next = seen.as_deref().copied().unwrap_or(0) + 1;
///         match limit.compare_and_swap(&seen, &next).await {
///             Ok(_) => return Ok(next),
///             Err(error) if error.kind() == ErrorKind::Conflict => {}
///             Err(error) => return Err(error),
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> etcd_typed::Result<()> {
/// let memory = MemoryStore::new();
/// let rival = Client::with_store(memory.clone()).entry::<u32>("/limit")?;
///
/// let raced = AtomicBool::new(false);
/// let store = HookedStore::new(Arc::new(memory), move |call, store| {
///     let first = matches!(call, Call::Commit(_)) && !raced.swap(true, Ordering::SeqCst);
///     let rival = rival.clone();
///     async move {
///         if first {
///             rival.set(&10).await?;
///         }
///         call.send(&store).await
///     }
/// });
///
/// let limit = Client::with_store(store).entry::<u32>("/limit")?;
/// assert_eq!(add_one(&limit).await?, 11);
/// # Ok(())
/// # }
/// ```
///
/// A hook can change replies. The [`Reply`] must be the variant with the same name as the [`Call`]:
///
/// ```
/// use std::sync::Arc;
///
/// use etcd_typed::store::memory::MemoryStore;
/// use etcd_typed::testing::{Call, HookedStore, Reply};
/// use etcd_typed::{Client, Error, ErrorKind};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> etcd_typed::Result<()> {
/// let store = HookedStore::new(Arc::new(MemoryStore::new()), |call, store| async move {
///     if matches!(call, Call::Stats(_) | Call::Members) {
///         return Err(Error::new(ErrorKind::PermissionDenied, "this user may not ask for members"));
///     }
///     match call.send(&store).await? {
///         Reply::Status(mut status) => {
///             status.version = "3.4.0".to_owned();
///             Ok(Reply::Status(status))
///         }
///         reply => Ok(reply),
///     }
/// });
/// let client = Client::with_store(store);
/// assert_eq!(client.status().await?.version, "3.4.0");
/// assert_eq!(client.members().await.unwrap_err().kind(), ErrorKind::PermissionDenied);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HookedStore {
    inner: Arc<dyn Store>,
    hook: Arc<Hook>,
}

type Hook = dyn Fn(Call, Arc<dyn Store>) -> BoxFuture<'static, Result<Reply>> + Send + Sync;

impl HookedStore {
    /// Wraps a store. A call of a store method calls the hook at once. The hook's future runs when
    /// the caller awaits the method, and is dropped with the caller's future.
    ///
    /// # Panics
    ///
    /// A call panics if the hook returns the [`Reply`] for another [`Call`].
    pub fn new<F, R>(inner: Arc<dyn Store>, hook: F) -> Self
    where
        F: Fn(Call, Arc<dyn Store>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Reply>> + Send + 'static,
    {
        Self { inner, hook: Arc::new(move |call, store| Box::pin(hook(call, store))) }
    }

    fn around(&self, call: Call) -> BoxFuture<'static, Result<Reply>> {
        (self.hook)(call, self.inner.clone())
    }
}

impl fmt::Debug for HookedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookedStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// A method call on a [`Store`], with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// A call of [`Store::range`].
    Range(Range),
    /// A call of [`Store::commit`].
    Commit(Txn),
    /// A call of [`Store::watch`].
    Watch(Watch),
    /// A call of [`Store::grant`].
    Grant {
        /// The id of the new lease.
        id: LeaseId,
        /// The requested time to live.
        ttl: Duration,
    },
    /// A call of [`Store::keep_alive`].
    KeepAlive(LeaseId),
    /// A call of [`Store::revoke`].
    Revoke(LeaseId),
    /// A call of [`Store::time_to_live`].
    TimeToLive(LeaseId),
    /// A call of [`Store::status`].
    Status,
    /// A call of [`Store::members`].
    Members,
    /// A call of [`Store::stats`].
    Stats(StatsKind),
}

impl Call {
    /// Makes this call on a store. The call begins when the future is first polled.
    ///
    /// # Errors
    ///
    /// Returns the error of the store.
    pub fn send(self, store: &Arc<dyn Store>) -> impl Future<Output = Result<Reply>> + Send + use<> {
        let store = store.clone();
        async move {
            Ok(match self {
                Self::Range(range) => Reply::Range(store.range(range).await?),
                Self::Commit(txn) => Reply::Commit(store.commit(txn).await?),
                Self::Watch(watch) => Reply::Watch(store.watch(watch).await?),
                Self::Grant { id, ttl } => Reply::Grant(store.grant(id, ttl).await?),
                Self::KeepAlive(id) => Reply::KeepAlive(store.keep_alive(id).await?),
                Self::Revoke(id) => Reply::Revoke(store.revoke(id).await?),
                Self::TimeToLive(id) => Reply::TimeToLive(store.time_to_live(id).await?),
                Self::Status => Reply::Status(store.status().await?),
                Self::Members => Reply::Members(store.members().await?),
                Self::Stats(which) => Reply::Stats(store.stats(which).await?),
            })
        }
    }
}

/// The reply to a [`Call`] of the same name.
#[non_exhaustive]
pub enum Reply {
    /// The keys that were read.
    Range(RangeReply),
    /// The result of the transaction.
    Commit(Committed),
    /// The items of the watch. A hook may wrap the stream, to delay or drop items.
    Watch(WatchStream),
    /// The time to live of the new lease.
    Grant(Duration),
    /// The new time to live of the lease.
    KeepAlive(Duration),
    /// The lease no longer exists.
    Revoke(()),
    /// The remaining time to live of the lease, or `None` if it does not exist.
    TimeToLive(Option<Duration>),
    /// The server's report about itself.
    Status(Status),
    /// The members of the cluster.
    Members(Vec<Member>),
    /// The statistics of the server.
    Stats(Stats),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, reply): (_, &dyn fmt::Debug) = match self {
            Self::Range(reply) => ("Range", reply),
            Self::Commit(committed) => ("Commit", committed),
            Self::Watch(_) => ("Watch", &".."),
            Self::Grant(ttl) => ("Grant", ttl),
            Self::KeepAlive(ttl) => ("KeepAlive", ttl),
            Self::Revoke(revoked) => ("Revoke", revoked),
            Self::TimeToLive(left) => ("TimeToLive", left),
            Self::Status(status) => ("Status", status),
            Self::Members(members) => ("Members", members),
            Self::Stats(stats) => ("Stats", stats),
        };
        f.debug_tuple(name).field(reply).finish()
    }
}

/// Implements [`Store`] for a wrapper with a field `inner`. The wrapper's method `around` gets each
/// call and returns the future of the reply.
macro_rules! store_around {
    ($wrapper:ty) => {
        #[deny(clippy::missing_trait_methods, reason = "a method that is not passed on would escape the wrapper")]
        impl Store for $wrapper {
            fn capabilities(&self) -> &Capabilities {
                self.inner.capabilities()
            }

            fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply>> {
                store_around!(@reply self, Range, Call::Range(range))
            }

            fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed>> {
                store_around!(@reply self, Commit, Call::Commit(txn))
            }

            fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream>> {
                store_around!(@reply self, Watch, Call::Watch(watch))
            }

            fn grant(&self, id: LeaseId, ttl: Duration) -> BoxFuture<'_, Result<Duration>> {
                store_around!(@reply self, Grant, Call::Grant { id, ttl })
            }

            fn keep_alive(&self, id: LeaseId) -> BoxFuture<'_, Result<Duration>> {
                store_around!(@reply self, KeepAlive, Call::KeepAlive(id))
            }

            fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<()>> {
                store_around!(@reply self, Revoke, Call::Revoke(id))
            }

            fn time_to_live(&self, id: LeaseId) -> BoxFuture<'_, Result<Option<Duration>>> {
                store_around!(@reply self, TimeToLive, Call::TimeToLive(id))
            }

            fn status(&self) -> BoxFuture<'_, Result<Status>> {
                store_around!(@reply self, Status, Call::Status)
            }

            fn members(&self) -> BoxFuture<'_, Result<Vec<Member>>> {
                store_around!(@reply self, Members, Call::Members)
            }

            fn stats(&self, which: StatsKind) -> BoxFuture<'_, Result<Stats>> {
                store_around!(@reply self, Stats, Call::Stats(which))
            }

            fn history(&self) -> u64 {
                self.inner.history()
            }

            fn unreachable_since(&self, began: std::time::Instant) -> Option<crate::Error> {
                self.inner.unreachable_since(began)
            }

            fn identity(&self) -> Identity {
                self.inner.identity()
            }
        }
    };
    (@reply $self:ident, $kind:ident, $call:expr) => {{
        let reply = $self.around($call);
        Box::pin(async move {
            match reply.await? {
                Reply::$kind(reply) => Ok(reply),
                other => panic!("the hook must reply to this call with `Reply::{}`, and not with {other:?}", stringify!($kind)),
            }
        })
    }};
}

pub(super) use store_around;

store_around!(HookedStore);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::FutureExt;

    use super::*;
    use crate::key::Key;
    use crate::store::memory::MemoryStore;
    use crate::store::{Op, Span, WatchFrom};

    #[tokio::test]
    async fn hook_sees_every_call() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let calls = seen.clone();
        let store = HookedStore::new(Arc::new(MemoryStore::new()), move |call, store| {
            calls.lock().unwrap().push(call.clone());
            call.send(&store)
        });
        let (id, ttl, key) = (LeaseId::random(), Duration::from_secs(60), Key::parse("/a").unwrap());
        let range = Range::of(Span::Key(key.clone()));
        let txn = Txn { then: vec![Op::put(&key, "1".into())], ..Txn::default() };
        assert_eq!(store.grant(id, ttl).await.unwrap(), ttl);
        assert_eq!(store.keep_alive(id).await.unwrap(), ttl);
        assert!(store.time_to_live(id).await.unwrap().is_some());
        store.revoke(id).await.unwrap();
        let revision = store.commit(txn.clone()).await.unwrap().revision;
        assert_eq!(store.range(range.clone()).await.unwrap().kvs[0].modified, revision);
        let watch = Watch { span: Span::Key(key), from: WatchFrom::Listed(revision) };
        drop(store.watch(watch.clone()).await.unwrap());
        assert_eq!(store.status().await.unwrap().revision, revision);
        drop((store.members().await, store.stats(StatsKind::Store).await));
        let (grant, keep_alive, left) = (Call::Grant { id, ttl }, Call::KeepAlive(id), Call::TimeToLive(id));
        let last = [Call::Status, Call::Members, Call::Stats(StatsKind::Store)];
        let calls = [grant, keep_alive, left, Call::Revoke(id), Call::Commit(txn), Call::Range(range), Call::Watch(watch)];
        assert_eq!(*seen.lock().unwrap(), [&calls[..], &last].concat());
    }

    #[test]
    fn identity_of_wrapped_store_is_returned() {
        let memory = MemoryStore::new();
        let store = HookedStore::new(Arc::new(memory.clone()), |_, _| async { panic!("no call is made") });
        assert_eq!((store.history(), store.identity()), (memory.history(), memory.identity()));
        assert_eq!(store.capabilities(), memory.capabilities());
    }

    #[tokio::test]
    async fn call_is_sent_only_when_awaited() {
        let memory = MemoryStore::new();
        let store = HookedStore::new(Arc::new(memory.clone()), |call, store| async move { call.send(&store).await });
        let put = store.commit(Txn { then: vec![Op::put(&Key::parse("/a").unwrap(), "1".into())], ..Txn::default() });
        let before = memory.status().now_or_never().unwrap().unwrap().revision;
        assert_eq!(put.await.unwrap().revision, before.next());
    }

    #[tokio::test]
    #[should_panic(expected = "must reply to this call with `Reply::Status`, and not with Members([])")]
    async fn reply_to_another_call_panics() {
        let store = HookedStore::new(Arc::new(MemoryStore::new()), |_, _| async { Ok(Reply::Members(Vec::new())) });
        drop(store.status().await);
    }
}
