//! The [`Store`] trait and the types of its requests and replies. This page is the contract that an
//! implementation of [`Store`] must meet. The rest of the crate is built on this trait.
//!
//! # What a store is
//!
//! A store maps keys to values and has one history. Every transaction that changes something gets
//! the next [`Revision`], and all its changes carry that revision. The trait is small and
//! object-safe. Only [`Store::history`], [`Store::unreachable_since`] and [`Store::identity`] have
//! default implementations, so a wrapper cannot forget any other method.
//!
//! # Rules that hold for every method
//!
//! - **Refuse before sending.** [`Store::capabilities`] says what the store can do. The store
//!   answers any other request with [`ErrorKind::Unsupported`]. The error's message contains the
//!   store's name and says what to use instead.
//! - **A write has three outcomes.** `Ok`: the write was committed. An error whose
//!   [`may_have_applied`](crate::Error::may_have_applied) is false: the write was not applied and
//!   never will be. An error whose `may_have_applied` is true: the write may have been applied, or
//!   may still be applied later. The first two outcomes are always certain.
//! - **The store retries.** It repeats a failed read, on another endpoint if there is one, until
//!   [`RetryPolicy::call_timeout`](crate::RetryPolicy::call_timeout). It repeats a write only when
//!   the write cannot have been applied. Callers of a store never repeat a call. [`Store::watch`]
//!   is the exception: the store makes one attempt, and `watch.rs` starts the watch again.
//! - **Calls can be cancelled.** Dropping a returned future ends the call. A dropped write may have
//!   been applied.
//! - **No panic outside a runtime.** A call that needs a tokio runtime returns
//!   [`Unsupported`](crate::ErrorKind::Unsupported) if there is none.
//! - **Errors contain the key** ([`Error::at`](crate::Error::at)) if the request was about one key.
//! - Keys and values are returned as stored. The layers above decode them.

pub mod connect;
#[cfg(any(feature = "v2", feature = "v3"))]
mod diagnosis;
pub mod memory;
mod roaming;
#[cfg(all(feature = "tls", any(feature = "v2", feature = "v3")))]
mod tls;
#[cfg(feature = "v2")]
pub mod v2;
#[cfg(feature = "v3")]
pub mod v3;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;

pub(crate) use self::roaming::roaming;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};

/// The future that a method of a [`Store`] returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Makes a call that needs a runtime, or refuses it if there is no runtime.
#[cfg(any(feature = "v2", feature = "v3"))]
#[inline]
fn within_runtime<'a, T: Send + 'a>(call: impl FnOnce() -> BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
    if crate::runtime::is_here() { call() } else { Box::pin(std::future::ready(Err(Error::without_runtime()))) }
}

/// The stream that [`Store::watch`] returns. It ends after an error and after an item that is
/// documented as the last one. Dropping it ends the watch on the server.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchItem>> + Send>>;

/// A server, or an implementation that behaves like one.
///
/// The [module page](self) lists the rules that hold for all methods.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Returns what this store can do. The answer never changes during the life of the value, and
    /// the call sends no request.
    fn capabilities(&self) -> &Capabilities;

    /// Reads keys at one revision, in byte order unless [`Range::order`] says otherwise.
    ///
    /// The read is at [`Range::revision`] if that is set, otherwise at the newest revision that the
    /// [`Consistency`] requires. [`RangeReply::revision`] is the revision of the read. To read the
    /// next page, request the same revision, with [`Range::after`] set to the last key. A page may
    /// be shorter than requested; [`RangeReply::more`] is true if more keys follow.
    ///
    /// # Errors
    ///
    /// - `HistoryLost` if the requested revision is compacted, zero or in the future.
    /// - `Invalid` for a page of zero keys, for a span whose end is not after its start, and for an
    ///   order by values together with [`Range::keys_only`].
    /// - `Unsupported` for [`Range::revision`], [`Range::limit`], [`Range::after`],
    ///   [`Range::modified_after`], [`Range::order`] or [`Range::count_only`] if the store lacks
    ///   [`Capabilities::past_revisions`].
    /// - On a store with [`Capabilities::directories`]: `NotADirectory` for the keys below a key
    ///   that holds a value, and `IsADirectory` for the value of a directory.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply>>;

    /// Checks all compares at one revision, then performs one of the two lists of operations, in
    /// order, all or nothing.
    ///
    /// A transaction that changes nothing has no revision of its own; [`Committed::revision`] is
    /// then the store's revision. A failed compare is not an error: [`Committed::succeeded`] is
    /// false, and [`Txn::otherwise`] was performed. Two writes in one list must not touch the same
    /// key, unless both are deletes. This is etcd's rule. A read ([`Op::Get`], [`Op::Page`],
    /// [`Op::Newest`]) or a delete sees the effects of the earlier operations of its list.
    ///
    /// Without [`Capabilities::transactions`], a list holds at most one write, all compares are
    /// about the key of that write, and `otherwise` holds at most one [`Op::Get`] of that key. The
    /// store maps this to its cheapest request.
    ///
    /// # Errors
    ///
    /// - `TooManyOperations`, before sending, for more compares or operations than
    ///   [`Capabilities::max_operations`].
    /// - `Invalid`, before sending or from the server, for two writes of one key in either list
    ///   (performed or not), for a [`Condition`] that cannot be used with its span, and for an
    ///   [`Op::Newest`] or an [`Op::Page`] with a limit of zero.
    /// - `TooLarge` for a request larger than the server accepts.
    /// - `LeaseLost` for a lease that does not exist.
    /// - `NoSpace`, `PermissionDenied` and others, as the server answers.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed>>;

    /// Watches the changes of a span after a revision. Returns once the watch is established, so
    /// that the watch sees every write that begins later. The stream yields items until the first
    /// error.
    ///
    /// - The stream yields every change after the start once, in order. If the caller allowed it,
    ///   the changes before [`Skipped`](WatchItem::Skipped) are left out. All changes of one
    ///   revision come in one [`WatchItem::Batch`].
    /// - [`WatchItem::Progress`]`(r)` says that the stream has yielded every change up to `r`. It
    ///   never comes before these changes.
    /// - [`WatchItem::HistoryLost`] and [`WatchItem::Behind`] are the last item, and so is an
    ///   error. A stream that ends without one of these is a defect of the store.
    /// - A slow reader costs bounded memory and delays no other watch. When its buffer is full, the
    ///   stream ends with [`WatchItem::Lagged`] after the buffered items. The caller starts a new
    ///   watch after the last batch that it received.
    /// - If the connection stops answering, the store detects this and yields an error.
    ///
    /// The store makes one attempt. The error says whether another attempt may help.
    ///
    /// # Errors
    ///
    /// `Invalid` for a span whose end is not after its start.
    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream>>;

    /// Creates a lease with this id. Returns the time to live that the server granted, which may be
    /// longer than requested but never shorter.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if a lease with this id exists and this call did not create it. If the
    /// answer to a first attempt is lost, the next attempt of the same call finds the lease of the
    /// first, and the call succeeds. Ids are random. A caller whose earlier call may have been
    /// applied can therefore assume that the existing lease comes from that call.
    fn grant(&self, id: LeaseId, ttl: Duration) -> BoxFuture<'_, Result<Duration>>;

    /// Renews a lease. Returns its time to live, counted from when the request was *sent*.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if the lease does not exist. A lost lease never returns, so callers do not retry
    /// the call.
    fn keep_alive(&self, id: LeaseId) -> BoxFuture<'_, Result<Duration>>;

    /// Ends a lease and deletes the keys attached to it. Succeeds if the lease does not exist.
    fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<()>>;

    /// Returns the remaining time to live of the lease, or `None` if it does not exist.
    fn time_to_live(&self, id: LeaseId) -> BoxFuture<'_, Result<Option<Duration>>>;

    /// Returns what one server reports about itself.
    fn status(&self) -> BoxFuture<'_, Result<Status>>;

    /// Returns the members of the cluster, as one member reports them.
    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>>>;

    /// Returns statistics, if the server keeps them (v2).
    fn stats(&self, which: StatsKind) -> BoxFuture<'_, Result<Stats>>;

    /// Returns the number of times that the store has moved to another cluster with an unrelated
    /// history. Revisions, leases and watches that were obtained at another number are void. The
    /// call sends no request.
    ///
    /// The default always returns the same number, which suits a store that cannot detect such a
    /// move. A wrapper should forward this method. Otherwise a watch can recognise a new history
    /// only by the data that it reads, for example after a server was emptied but kept its id.
    fn history(&self) -> u64 {
        0
    }

    /// Returns the last error if no server can be reached: every endpoint has failed after `began`,
    /// and none has answered since. The call sends no request.
    ///
    /// A live view with `or_snapshot` starts from its file as soon as this method returns an error,
    /// instead of waiting until the read gives up. The default always returns `None`, so the view
    /// waits. A wrapper should forward this method.
    fn unreachable_since(&self, began: std::time::Instant) -> Option<Error> {
        let _ = began;
        None
    }

    /// Returns what is known about the cluster behind the store. The call sends no request.
    ///
    /// The file of a live view with `or_snapshot` contains the cluster's identity, so that no view
    /// starts from a file of another cluster. The default is an unknown identity, with which no
    /// file is refused. A wrapper should forward this method.
    fn identity(&self) -> Identity {
        Identity::default()
    }
}

/// The known facts about the cluster behind a [`Store`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The id of the cluster. `None` before the first answer.
    pub cluster: Option<String>,
    /// The addresses that the store was given, as `host:port`. Empty for a store without addresses.
    pub endpoints: Vec<String>,
}

impl Identity {
    /// Returns an identity with these addresses, of a cluster whose id is not known.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self { cluster: None, endpoints }
    }
}

/// The capabilities of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The store's name in messages: `etcd v3`, `etcd v2` or `memory`.
    pub name: &'static str,
    /// Whether a transaction may touch several keys. If false, all parts of a transaction must use
    /// the same key; see [`Store::commit`].
    pub transactions: bool,
    /// The maximum number of compares in one transaction, and of operations in each of its lists.
    pub max_operations: usize,
    /// The largest value, in bytes, that the store sends.
    pub max_value: usize,
    /// Whether the store can read the past ([`Range::revision`]). If false, [`Range::limit`],
    /// [`Range::after`] and [`Range::modified_after`] are not available either, and one reply
    /// contains all keys.
    pub past_revisions: bool,
    /// Whether values may be any bytes. If false, values must be UTF-8 text.
    pub binary_values: bool,
    /// Whether directories exist as separate nodes, as created by [`Op::MakeDir`]. Such a store has
    /// the key rules of v2: keys are paths, and names that begin with `_` are hidden, so handles
    /// escape the `_` (`%5Fx`).
    pub directories: bool,
}

impl Capabilities {
    /// Returns the capabilities of an etcd v3 server with default flags. Change the fields that
    /// differ.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            transactions: true,
            max_operations: 128,
            max_value: 1_572_864,
            past_revisions: true,
            binary_values: true,
            directories: false,
        }
    }
}

/// The keys that a request is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// One key.
    Key(Key),
    /// All keys below this directory, at any depth: the keys that start with its
    /// [`prefix`](Key::prefix) and are longer.
    Below(Key),
    /// The keys from `start` (inclusive) to `end` (exclusive), in byte order. Every method refuses
    /// an end that is not after the start with `Invalid`. A store with
    /// [`Capabilities::directories`] refuses every such span with `Unsupported`.
    Between {
        /// The first key.
        start: Key,
        /// The first key after the span. `None` if the span contains all keys from `start` on.
        end: Option<Key>,
    },
}

impl Span {
    /// Returns the span of the keys from `start` (inclusive) to `end` (exclusive), compared by
    /// their bytes. An empty `start` is before every key.
    #[must_use]
    pub fn between(start: &[u8], end: Option<&[u8]>) -> Self {
        // No store has an empty key, so a zero byte is the first possible key.
        let or_first = |key: &[u8]| Key::stored(if key.is_empty() { &[0] } else { key });
        Self::Between { start: or_first(start), end: end.map(or_first) }
    }

    /// Returns the span's key, its directory, or its first key.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Key(key) | Self::Below(key) | Self::Between { start: key, .. } => key,
        }
    }

    /// Refuses a span whose end is not after its start.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Between { start, end: Some(end) } if end.as_bytes() <= start.as_bytes() => {
                Err(Error::new(ErrorKind::Invalid, "the end of a span is not after its start").at(start))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether a stored key is in the span.
    #[must_use]
    pub fn contains(&self, stored: &[u8]) -> bool {
        match self {
            Self::Key(key) => key.as_bytes() == stored,
            Self::Below(directory) => stored.strip_prefix(directory.prefix().as_bytes()).is_some_and(|name| !name.is_empty()),
            Self::Between { start, end } => start.as_bytes() <= stored && end.as_ref().is_none_or(|end| stored < end.as_bytes()),
        }
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// The read sees every write that was acknowledged before the read began (v3: not serializable;
    /// v2: `quorum=true`).
    #[default]
    Linearizable,
    /// Any member answers from its local data.
    Stale,
}

/// A request to read keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Range {
    /// The keys to read.
    pub span: Span,
    /// The revision to read at. `None` means the newest revision.
    pub revision: Option<Revision>,
    /// The maximum number of keys, at least one. `None` asks for all keys; the store then reads
    /// them in pages, at one revision, with as few requests as it can.
    pub limit: Option<usize>,
    /// Returns only keys greater than this one, in byte order.
    pub after: Option<Bytes>,
    /// Returns only keys less than or equal to this one, in byte order.
    pub until: Option<Bytes>,
    /// Leaves out the values. The reply may lack the leases too: since 3.7, etcd answers this
    /// request from its index, which has no leases (etcd issue 22209). A caller that decides by
    /// leases must ask for the values.
    pub keys_only: bool,
    /// Returns only keys modified after this revision. [`RangeReply::count`] then gives the number
    /// of all keys in the span. If the reply is empty and the count is unchanged, nothing has
    /// changed in the span. The server still reads the whole span. Requires
    /// [`Capabilities::past_revisions`].
    pub modified_after: Option<Revision>,
    /// How fresh the reply must be.
    pub consistency: Consistency,
    /// The order of the keys, which also decides which keys a limit cuts off. With a limit, and an
    /// order other than ascending keys, the server reads and sorts the whole span. The order of
    /// keys that compare as equal is unspecified. Any other order than the default requires
    /// [`Capabilities::past_revisions`].
    pub order: Order,
    /// Returns only the number of keys, in [`RangeReply::count`]. Requires
    /// [`Capabilities::past_revisions`].
    pub count_only: bool,
}

/// The order of the keys of a reply. The default is ascending keys, in byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Order {
    /// The property of the keys that is compared.
    pub by: SortBy,
    /// Whether the greatest key comes first.
    pub descending: bool,
}

impl Order {
    /// Returns the ascending order by this property.
    #[must_use]
    pub const fn ascending(by: SortBy) -> Self {
        Self { by, descending: false }
    }

    /// Returns the descending order by this property.
    #[must_use]
    pub const fn descending(by: SortBy) -> Self {
        Self { by, descending: true }
    }

    /// Whether this is the order in which stores keep keys: ascending, by key.
    pub(crate) fn is_natural(self) -> bool {
        self == Self::default()
    }

    /// Sorts keys, which are in byte order, into this order. Keys that compare as equal stay in
    /// byte order.
    pub(crate) fn sort(self, kvs: &mut [KeyValue]) {
        if self.is_natural() {
            return;
        }
        kvs.sort_by(|a, b| {
            let order = match self.by {
                SortBy::Key => a.key.cmp(&b.key),
                SortBy::Created => a.created.cmp(&b.created),
                SortBy::Modified => a.modified.cmp(&b.modified),
                SortBy::Version => a.version.cmp(&b.version),
                SortBy::Value => a.value.cmp(&b.value),
            };
            if self.descending { order.reverse() } else { order }
        });
    }
}

/// The property that decides the [`Order`] of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SortBy {
    /// The key.
    #[default]
    Key,
    /// [`KeyValue::created`].
    Created,
    /// [`KeyValue::modified`].
    Modified,
    /// [`KeyValue::version`].
    Version,
    /// [`KeyValue::value`]. Cannot be used with [`Range::keys_only`].
    Value,
}

impl Range {
    /// Returns a request for all keys of the span at the newest revision.
    #[must_use]
    pub fn of(span: Span) -> Self {
        Self {
            span,
            revision: None,
            limit: None,
            after: None,
            until: None,
            keys_only: false,
            modified_after: None,
            consistency: Consistency::Linearizable,
            order: Order::default(),
            count_only: false,
        }
    }

    /// Sets [`revision`](Self::revision).
    #[must_use]
    pub fn revision(mut self, revision: impl Into<Option<Revision>>) -> Self {
        self.revision = revision.into();
        self
    }

    /// Sets [`limit`](Self::limit).
    #[must_use]
    pub fn limit(mut self, keys: impl Into<Option<usize>>) -> Self {
        self.limit = keys.into();
        self
    }

    /// Sets [`after`](Self::after).
    #[must_use]
    pub fn after(mut self, key: impl Into<Option<Bytes>>) -> Self {
        self.after = key.into();
        self
    }

    /// Sets [`until`](Self::until).
    #[must_use]
    pub fn until(mut self, key: impl Into<Option<Bytes>>) -> Self {
        self.until = key.into();
        self
    }

    /// Sets [`keys_only`](Self::keys_only).
    #[must_use]
    pub fn keys_only(mut self, yes: bool) -> Self {
        self.keys_only = yes;
        self
    }

    /// Sets [`modified_after`](Self::modified_after).
    #[must_use]
    pub fn modified_after(mut self, revision: impl Into<Option<Revision>>) -> Self {
        self.modified_after = revision.into();
        self
    }

    /// Sets [`consistency`](Self::consistency).
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Refuses an invalid span, and an order by values that are not read.
    pub(crate) fn check(&self) -> Result<()> {
        self.span.check()?;
        if self.keys_only && self.order.by == SortBy::Value {
            return Err(Error::new(ErrorKind::Invalid, "keys cannot be sorted by values that are not read").at(self.span.key()));
        }
        Ok(())
    }
}

/// The reply to a [`Range`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RangeReply {
    /// The revision of the read. For a read of the past, this is that past revision, not the
    /// store's newest.
    pub revision: Revision,
    /// The keys in the requested order, which is byte order by default. For [`Op::Newest`], the
    /// newest key comes first.
    pub kvs: Vec<KeyValue>,
    /// The directories below the span, in byte order of their keys. Only on a store with
    /// [`Capabilities::directories`].
    pub directories: Vec<DirectoryNode>,
    /// The directory of a [`Span::Below`] itself, if it exists. Only on a store with
    /// [`Capabilities::directories`].
    pub directory: Option<DirectoryNode>,
    /// Whether more keys follow the last one.
    pub more: bool,
    /// The number of all keys in the span, modified or not, and without the limit. Only for a read
    /// with [`Range::modified_after`] or [`Range::count_only`].
    pub count: Option<u64>,
    /// True if each value keeps only its own bytes in memory. If false, a value may be part of a
    /// larger message, and the message stays in memory while any of its values does.
    pub compact: bool,
}

impl RangeReply {
    /// Returns a reply with these keys, which no further keys follow.
    #[must_use]
    pub fn new(revision: Revision, kvs: Vec<KeyValue>) -> Self {
        Self { revision, kvs, ..Self::default() }
    }

    /// Copies the values, unless they are already compact.
    pub(crate) fn make_compact(&mut self) {
        if !std::mem::replace(&mut self.compact, true) {
            self.kvs.iter_mut().for_each(|kv| kv.value = Bytes::copy_from_slice(&kv.value));
        }
    }
}

/// A key with its value, revisions, lease and time to live.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyValue {
    /// The stored key. Its bytes need not form a valid [`Key`].
    pub key: Bytes,
    /// The value. Empty if only keys were requested.
    pub value: Bytes,
    /// The revision at which the key was created. On v2, every put without a condition creates the
    /// key again.
    pub created: Revision,
    /// The revision at which the key was last written.
    pub modified: Revision,
    /// The number of writes since the key was created, if the store counts them.
    pub version: Option<u64>,
    /// The lease that the key is attached to, if the store reports leases. A reply to
    /// [`Range::keys_only`] may lack it. v2 has no leases: on v2 this process knows only its own
    /// leases, and only for keys that it read.
    pub lease: Option<LeaseId>,
    /// The remaining time to live, if the reply contains it.
    pub ttl: Option<Duration>,
}

impl KeyValue {
    /// Returns a key that was created at `revision` and never expires. Its number of writes is not
    /// known.
    #[must_use]
    pub fn new(key: Bytes, value: Bytes, revision: Revision) -> Self {
        Self { key, value, created: revision, modified: revision, version: None, lease: None, ttl: None }
    }

    /// Returns when the key expires, as far as the reply says. A put with this expiry preserves the
    /// expiry of the key.
    ///
    /// The v2 server rounds a time to live up to whole seconds, and each put rounds it up again. So
    /// this method subtracts one second in half of the calls. That is right on average, and a key
    /// that is written often still expires. For a key that this process wrote, the time is known
    /// exactly.
    pub(crate) fn expiry(&self) -> Expiry {
        expiry(self.lease, self.ttl)
    }

    /// Returns whether the key has expired although the server still lists it. v2 lists a key for
    /// up to half a second after it expired, and a refresh that arrives in that time revives the
    /// key.
    pub(crate) fn is_over(&self) -> bool {
        self.ttl == Some(Duration::ZERO)
    }
}

/// See [`KeyValue::expiry`].
pub(crate) fn expiry(lease: Option<LeaseId>, ttl: Option<Duration>) -> Expiry {
    match (lease, ttl) {
        (Some(lease), _) => Expiry::With(lease),
        (None, Some(ttl)) if ttl.subsec_nanos() == 0 => Expiry::After(ttl.saturating_sub(Duration::from_secs(fastrand::u64(0..2)))),
        (None, Some(ttl)) => Expiry::After(ttl),
        (None, None) => Expiry::Never,
    }
}

/// A directory, on a store with [`Capabilities::directories`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectoryNode {
    /// The key as stored.
    pub key: Bytes,
    /// The revision at which the directory was created.
    pub created: Revision,
    /// The revision at which the directory was last written.
    pub modified: Revision,
    /// The remaining time to live. `None` if the directory does not expire.
    pub ttl: Option<Duration>,
}

impl DirectoryNode {
    /// Returns a directory that was created at `revision` and never expires.
    #[must_use]
    pub fn new(key: Bytes, revision: Revision) -> Self {
        Self { key, created: revision, modified: revision, ttl: None }
    }
}

/// A transaction: compares, and the operations to perform if they hold or fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Txn {
    /// The compares. All must hold for [`then`](Self::then) to be performed.
    pub compares: Vec<Compare>,
    /// The operations to perform if all compares hold.
    pub then: Vec<Op>,
    /// The operations to perform if a compare fails.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// Returns a transaction without compares that performs these operations.
    #[must_use]
    pub fn new(then: Vec<Op>) -> Self {
        Self { then, ..Self::default() }
    }

    /// Sets [`then`](Self::then).
    #[must_use]
    pub fn then(mut self, operations: Vec<Op>) -> Self {
        self.then = operations;
        self
    }

    /// Sets [`compares`](Self::compares).
    #[must_use]
    pub fn compares(mut self, compares: Vec<Compare>) -> Self {
        self.compares = compares;
        self
    }

    /// Sets [`otherwise`](Self::otherwise).
    #[must_use]
    pub fn otherwise(mut self, operations: Vec<Op>) -> Self {
        self.otherwise = operations;
        self
    }
}

/// A condition on a span. For a key that does not exist, only [`Condition::Absent`],
/// [`Condition::UnchangedSince`] and [`Condition::NeverExpires`] hold. [`Condition::Compared`] can
/// hold too, as described there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compare {
    /// The keys that the condition is about. A span of several keys can be used only with
    /// [`Condition::Absent`], [`Condition::UnchangedSince`], [`Condition::NeverExpires`] and
    /// [`Condition::Compared`].
    pub span: Span,
    /// The condition that must hold.
    pub condition: Condition,
}

impl Compare {
    /// Returns a condition on a span.
    #[must_use]
    pub fn new(span: Span, condition: Condition) -> Self {
        Self { span, condition }
    }

    /// Returns a condition on one key.
    #[must_use]
    pub fn key(key: &Key, condition: Condition) -> Self {
        Self { span: Span::Key(key.clone()), condition }
    }

    /// Returns a condition on all keys below a directory.
    #[must_use]
    pub fn below(directory: &Key, condition: Condition) -> Self {
        Self { span: Span::Below(directory.clone()), condition }
    }
}

/// The condition of a [`Compare`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No key exists in the span.
    Absent,
    /// The key exists.
    Present,
    /// The key was created at this revision.
    Created(Revision),
    /// The key was last written at this revision.
    Modified(Revision),
    /// The value equals these bytes.
    Value(Bytes),
    /// The key is attached to this lease.
    Lease(LeaseId),
    /// Every key that exists was last written at or before this revision. The condition does not
    /// notice deleted keys.
    UnchangedSince(Revision),
    /// No key that exists is attached to a lease or has a time to live.
    NeverExpires,
    /// For each key that exists, the property that the operand selects is in this relation to the
    /// operand. If no key exists, the version and the revisions count as zero and the lease as
    /// none, and a comparison of the value does not hold. This is etcd's comparison. Requires
    /// [`Capabilities::transactions`].
    Compared(Relation, Operand),
}

impl Condition {
    /// Whether the condition can be used with a span of several keys.
    pub(crate) fn is_of_many(&self) -> bool {
        matches!(self, Self::Absent | Self::UnchangedSince(_) | Self::NeverExpires | Self::Compared(..))
    }
}

/// The relation of a key's property to the operand in [`Condition::Compared`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// The compared property of the key equals the operand.
    Equal,
    /// The compared property of the key differs from the operand.
    NotEqual,
    /// The compared property of the key is less than the operand.
    Less,
    /// The compared property of the key is greater than the operand.
    Greater,
}

/// The property of a key that [`Condition::Compared`] compares, and the operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The value, in byte order.
    Value(Bytes),
    /// [`KeyValue::version`].
    Version(u64),
    /// [`KeyValue::created`].
    Created(Revision),
    /// [`KeyValue::modified`].
    Modified(Revision),
    /// The lease, as a signed number. `None` counts as zero.
    Lease(Option<LeaseId>),
}

impl Operand {
    /// Whether the compared property of a key is in this relation to the operand.
    pub(crate) fn relates(&self, kv: Option<&KeyValue>, relation: Relation) -> bool {
        let number = |id: Option<LeaseId>| id.map_or(0, |id| id.get().cast_signed());
        let order = match (self, kv) {
            (Self::Value(_), None) => return false,
            (Self::Value(value), Some(kv)) => kv.value.cmp(value),
            (Self::Version(version), kv) => kv.and_then(|kv| kv.version).unwrap_or(0).cmp(version),
            (Self::Created(revision), kv) => kv.map_or(Revision::ZERO, |kv| kv.created).cmp(revision),
            (Self::Modified(revision), kv) => kv.map_or(Revision::ZERO, |kv| kv.modified).cmp(revision),
            (Self::Lease(lease), kv) => number(kv.and_then(|kv| kv.lease)).cmp(&number(*lease)),
        };
        match relation {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => order.is_ne(),
            Relation::Less => order.is_lt(),
            Relation::Greater => order.is_gt(),
        }
    }
}

/// One step of a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads the keys of a span. The reply has no page limit.
    Get(Span),
    /// Reads at most this many keys of a span, in this order. The result is an [`OpResult::Get`];
    /// [`RangeReply::more`] is true if the span has more keys. Requires
    /// [`Capabilities::transactions`].
    Page {
        /// The keys.
        span: Span,
        /// The maximum number of keys. Zero returns `Invalid`.
        limit: usize,
        /// The order, as in [`Range::order`].
        order: Order,
    },
    /// Reads the most recently created keys below a directory, newest first, with their values and
    /// leases. The result is an [`OpResult::Get`]; [`RangeReply::more`] is true if the directory
    /// has more keys than the limit. Like a get, this operation sees the effects of the earlier
    /// operations.
    ///
    /// The order of keys created by one transaction is unspecified, and it is unspecified which of
    /// them the limit cuts off. The memory store sorts them by their bytes. etcd's sort is not
    /// stable: 3.5.1 returns another order as soon as there are eleven keys.
    ///
    /// The server reads and sorts the whole directory, whatever the limit is. Use this only for
    /// small directories, such as queues. Requires [`Capabilities::transactions`]; on other stores,
    /// list the directory.
    Newest {
        /// The directory, as in [`Span::Below`].
        below: Key,
        /// Returns only keys created before this revision.
        before: Option<Revision>,
        /// The maximum number of keys. Zero returns `Invalid`.
        limit: usize,
    },
    /// Writes a value. A store with directories creates the missing parent directories.
    Put {
        /// The key.
        key: Key,
        /// The value.
        value: Bytes,
        /// The time at which the key expires. A put with [`Expiry::Never`] removes an expiry that
        /// the key had.
        expiry: Expiry,
        /// Whether to return the previous value.
        previous: bool,
    },
    /// Deletes every key of the span. On a store with directories, this deletes the directory with
    /// its contents. Succeeds if nothing exists.
    Delete {
        /// The keys to delete.
        span: Span,
        /// Whether to return the deleted values.
        previous: bool,
    },
    /// Creates a directory. Fails with `AlreadyExists` if the key or directory exists. Requires
    /// [`Capabilities::directories`].
    MakeDir {
        /// The directory.
        key: Key,
        /// The time after which the directory and its contents expire.
        ttl: Option<Duration>,
    },
    /// Replaces or removes the time to live of a directory. Fails with `NotFound` if the directory
    /// does not exist. Requires [`Capabilities::directories`]. Returns `Unsupported` if the server
    /// cannot do this: the v2 API of etcd 3.5 answers every such update with an error.
    UpdateDir {
        /// The directory.
        key: Key,
        /// The time after which the directory and its contents expire. `None` means never.
        ttl: Option<Duration>,
    },
    /// Deletes an empty directory. Fails with `DirectoryNotEmpty` if it has contents, and with
    /// `NotFound` if it does not exist. Requires [`Capabilities::directories`].
    RemoveDir {
        /// The directory.
        key: Key,
    },
}

impl Op {
    /// Returns a put without expiry.
    #[must_use]
    pub fn put(key: &Key, value: Bytes) -> Self {
        Self::Put { key: key.clone(), value, expiry: Expiry::Never, previous: false }
    }

    /// Returns a delete of one key.
    #[must_use]
    pub fn delete(key: &Key) -> Self {
        Self::Delete { span: Span::Key(key.clone()), previous: false }
    }
}

/// The time at which a key expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// The key never expires.
    #[default]
    Never,
    /// The key expires after this time or later. Fractions of a second are rounded up. On v2 a key
    /// with a time of zero expires at once. On v3 and in memory the key gets a lease with this
    /// time. The server raises a time that is below its shortest lease (2 s with default flags).
    ///
    /// On v3 the lease of such a write costs one more request. The lease stays on the server until
    /// its time is over, even if the key is written again. For a time below five minutes, each
    /// write gets its own lease. For five minutes or more, the client grants a lease that is 5 %
    /// longer. Until these 5 % have passed, other writes of the client with the same time share the
    /// lease, at most a thousand writes. A key on a shared lease expires up to 5 % later, together
    /// with the other keys of the lease. A program that writes a key often should attach the key to
    /// a lease that is kept alive ([`Client::lease`](crate::Client::lease)).
    After(Duration),
    /// The key expires with this lease.
    With(LeaseId),
}

/// The reply to a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// The revision of the changes. If the transaction changed nothing, the store's revision.
    pub revision: Revision,
    /// Whether all compares held.
    pub succeeded: bool,
    /// One result for each operation of the performed list, in order.
    pub results: Vec<OpResult>,
}

impl Committed {
    /// Returns the reply to a transaction.
    #[must_use]
    pub fn new(revision: Revision, succeeded: bool, results: Vec<OpResult>) -> Self {
        Self { revision, succeeded, results }
    }
}

/// The result of an [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// The result of [`Op::Get`], [`Op::Page`] and [`Op::Newest`].
    Get(RangeReply),
    /// The result of [`Op::Put`]: the previous value, if it was requested.
    Put(Option<KeyValue>),
    /// The result of [`Op::Delete`].
    Delete {
        /// The number of deleted keys. On v2, a directory with its contents counts as one.
        deleted: u64,
        /// The deleted values, if they were requested.
        previous: Vec<KeyValue>,
    },
    /// The result of the operations on directories.
    Done,
}

/// A request to watch a span.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Watch {
    /// The keys to watch.
    pub span: Span,
    /// The revision after which the watch starts.
    pub from: WatchFrom,
}

impl Watch {
    /// Returns a request to watch this span.
    #[must_use]
    pub fn new(span: Span, from: WatchFrom) -> Self {
        Self { span, from }
    }
}

/// The start of a [`Watch`]. The watch yields the changes *after* the revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// The caller has just read the span at this revision. The store can then start the watch in
    /// its fastest way.
    Listed(Revision),
    /// The caller resumes a broken watch that had yielded everything up to this revision, or asks
    /// for a revision of the past. If the store has not reached the revision, it does not wait: the
    /// watch yields [`WatchItem::Behind`] and ends.
    Resumed(Revision),
    /// Like `Listed`, but the caller prefers a fast start to a complete one. If the store would
    /// have to replay changes after this revision, it skips them and yields [`WatchItem::Skipped`].
    /// This is for callers that can read the skipped state again. On v3, a loop that runs every 100
    /// ms serves a watch that has to replay, while a watch at the current revision gets an event
    /// with the write. A store that replays without such a delay skips nothing.
    Live(Revision),
}

impl WatchFrom {
    /// Returns the revision.
    #[must_use]
    pub fn revision(self) -> Revision {
        match self {
            Self::Listed(revision) | Self::Resumed(revision) | Self::Live(revision) => revision,
        }
    }
}

/// An item that a watch yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// All changes of one revision to the span.
    Batch(Batch),
    /// The watch has yielded every change up to this revision.
    Progress(Revision),
    /// The store skipped the changes after the start and up to this revision. The caller must read
    /// the span at this revision or a later one. The watch yields every later change. Occurs only
    /// with [`WatchFrom::Live`], only as the first item, and only if the store's revision was past
    /// the start.
    Skipped(Revision),
    /// Some of the changes after the start were compacted. The caller must read the span again.
    /// This is the last item.
    HistoryLost {
        /// The oldest revision that is still available, if the server reports it.
        oldest: Option<Revision>,
    },
    /// The server that answered is at this revision, which is before the start. Either this server
    /// lags behind the others, or its history is not the history that the caller saw. A
    /// linearizable read shows which of the two is true. This is the last item.
    Behind(Revision),
    /// The reader was too slow. The watch has yielded every change up to the last batch. This is
    /// the last item.
    Lagged,
}

/// All changes of one revision to a watched span.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batch {
    /// The revision.
    pub revision: Revision,
    /// The changes, in the order of the transaction. No key occurs twice.
    pub events: Vec<Event>,
}

impl Batch {
    /// Returns the changes of one revision.
    #[must_use]
    pub fn new(revision: Revision, events: Vec<Event>) -> Self {
        Self { revision, events }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was written.
    Put {
        /// The key and its new value.
        kv: KeyValue,
        /// The key before the write, if the server reports it. Callers must work without it: on v3
        /// the client does not ask for it, because there are many events.
        previous: Option<Box<KeyValue>>,
    },
    /// The key, or a whole directory, was deleted or expired.
    Delete {
        /// The key as stored.
        key: Bytes,
        /// Whether the key is a directory (v2). If so, all keys below `key` are deleted too.
        directory: bool,
        /// The key before the deletion, if the server reports it. Callers must work without it: on
        /// v3 the client does not ask for it, because there are many events.
        previous: Option<Box<KeyValue>>,
    },
}

impl Event {
    /// Returns the key that changed.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { kv, .. } => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// Returns whether this event deletes a stored key, either the key itself or a directory above
    /// it.
    pub(crate) fn deletes(&self, stored: &[u8]) -> bool {
        match self {
            Self::Put { .. } => false,
            Self::Delete { key, directory: false, .. } => stored == key,
            Self::Delete { key, directory: true, .. } => {
                let directory = key.strip_suffix(b"/").unwrap_or(key);
                stored.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
            }
        }
    }
}

/// The status that one server reports about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The store's name, as in [`Capabilities::name`].
    pub store: &'static str,
    /// The server's version, such as `3.4.23`.
    pub version: String,
    /// The store's newest revision, as this server knows it.
    pub revision: Revision,
    /// The cluster's id in hexadecimal, if it has one.
    pub cluster: Option<String>,
    /// The id of the member that answered, in hexadecimal.
    pub member: Option<String>,
    /// The id of the leader, in hexadecimal.
    pub leader: Option<String>,
    /// The size of the database in bytes, if the server reports it.
    pub database_size: Option<u64>,
    /// The alarms and other errors that the server reports.
    pub errors: Vec<String>,
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Member {
    /// The member's id in hexadecimal.
    pub id: String,
    /// The member's name. Empty for a member that has not started yet.
    pub name: String,
    /// The URLs at which the other members reach this one.
    pub peer_urls: Vec<String>,
    /// The URLs at which clients reach this member.
    pub client_urls: Vec<String>,
    /// Whether the member is a learner, which does not vote (yet).
    pub learner: bool,
}

/// The kind of statistics to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StatsKind {
    /// Counts of operations, kept by one member.
    Store,
    /// Statistics about one member.
    Member,
    /// The leader's view of its followers.
    Leader,
}

/// Statistics as the server returned them. `Serialize` writes the JSON object of the reply.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[serde(transparent)]
#[non_exhaustive]
pub struct Stats {
    /// The JSON object of the reply.
    pub(crate) fields: serde_json::Map<String, serde_json::Value>,
}

impl Stats {
    /// Returns statistics from the JSON object of a reply.
    ///
    /// # Errors
    ///
    /// `Server` if the text is not a JSON object.
    pub fn from_json(text: &str) -> Result<Self> {
        match serde_json::from_str(text) {
            Ok(fields) => Ok(Self { fields }),
            Err(error) => Err(Error::new(ErrorKind::Server, "statistics are not a JSON object").caused_by(error)),
        }
    }

    /// Returns the value with this name in the server's reply, or `None` if there is no such value
    /// or it is not a `T`.
    #[must_use]
    pub fn get<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.fields.get(name)?.clone()).ok()
    }

    /// Returns the counter with this name in the server's reply, such as `setsSuccess`, or `None`
    /// if there is no such number.
    #[must_use]
    pub fn counter(&self, name: &str) -> Option<u64> {
        self.fields.get(name)?.as_u64()
    }
}
