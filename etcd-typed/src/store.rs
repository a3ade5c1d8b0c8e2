//! `trait Store` and its words. This page is the contract for whoever writes a store; what is built on it is in the modules above.
//!
//! # What a store is
//!
//! A map from keys to values with one history. Every transaction that changes something gets the next [`Revision`]; all of its
//! changes carry that one. The trait is small, object-safe and (but for [`Store::history`] and [`Store::identity`]) without defaults, so
//! that a wrapper cannot forget a method.
//!
//! # Rules that hold for every method
//!
//! - **Refuse before sending.** What the store cannot do is said by [`Store::capabilities`] and answered by
//!   [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) with a message that names the store and what to use instead.
//! - **Three outcomes of a write.** `Ok` is committed, an error whose [`may_have_applied`](crate::Error::may_have_applied) is false
//!   was not applied and never will be, one where it is true may have been or may still be. The first two are never wrong.
//! - **Retry inside, by the policy.** A read that failed on the way is repeated (elsewhere, if there is an elsewhere) until
//!   [`RetryPolicy::call_timeout`](crate::RetryPolicy::call_timeout); a write only when it cannot have been applied. The callers above
//!   never repeat a call. [`Store::watch`] is the exception: it makes one attempt, and `watch.rs` resumes.
//! - **Cancel safety.** Dropping a returned future ends the call; a write that was dropped may have been applied.
//! - **No panic outside of a runtime.** A call that needs a tokio runtime and is made outside of one answers
//!   [`Unsupported`](crate::ErrorKind::Unsupported).
//! - **Errors name the key** ([`Error::at`](crate::Error::at)) where the request was about one.
//! - Values and keys that come back are as stored. What they mean is decided above.

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
#[cfg(any(feature = "v2", feature = "v3"))]
use crate::error::Error;
use crate::error::Result;
use crate::key::Key;
use crate::revision::{LeaseId, Revision};

/// What the methods of a [`Store`] return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A call that needs a runtime, or its refusal where there is none.
#[cfg(any(feature = "v2", feature = "v3"))]
#[inline]
fn within_runtime<'a, T: Send + 'a>(call: impl FnOnce() -> BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
    if crate::runtime::is_here() { call() } else { Box::pin(std::future::ready(Err(Error::without_runtime()))) }
}

/// What [`Store::watch`] yields. After an error or an item that says so it ends; dropping it ends the watch on the server.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchItem>> + Send>>;

/// A server, or something that behaves like one.
///
/// The [module page](self) has the rules for all methods.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// What this store can do. The same for the whole life of the value, and known without asking a server.
    fn capabilities(&self) -> &Capabilities;

    /// Reads keys, in the order of their bytes, as of one revision.
    ///
    /// With [`Range::revision`] the answer is as of that revision, else as of the newest that the
    /// [`Consistency`] asks for. Which revision it was is [`RangeReply::revision`]; the next page asks for that one and
    /// [`Range::after`] the last key. A page may be shorter than asked for; [`RangeReply::more`] says whether it was the last.
    ///
    /// # Errors
    ///
    /// `HistoryLost` when the revision asked for is compacted, zero or in the future. `Invalid` for a page of no keys. `Unsupported` for a past revision, a page,
    /// or what was modified after a revision, where the capabilities have none. `NotADirectory` for the keys below a key that holds a value, `IsADirectory` for the
    /// value of a directory, where directories are things of their own.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply>>;

    /// Checks every compare at one revision and then performs the operations of one of the two lists, in order, all or nothing.
    ///
    /// A transaction that changes nothing has no revision of its own; [`Committed::revision`] then is the store's.
    /// Compares that fail are no error: [`Committed::succeeded`] is false and [`Txn::otherwise`] was performed.
    /// No two writes of one list may touch the same key, but for two deletes (etcd's rule: an [`Op::Get`], an [`Op::Newest`] or a delete
    /// sees what the operations before it in the list did).
    ///
    /// Without [`Capabilities::transactions`] a list holds at most one write, the compares are about that same key, and
    /// `otherwise` holds at most one [`Op::Get`] of it. A store maps that to its cheapest request.
    ///
    /// # Errors
    ///
    /// `TooManyOperations` above [`Capabilities::max_operations`], before sending. `Invalid`, before sending or from the server, for two
    /// writes of one key in a list (in either list, performed or not), for a [`Condition`] that does not go with its span and for an
    /// [`Op::Newest`] of no keys. `TooLarge` for a request larger than the server
    /// takes. `LeaseLost` for a lease that is not there. `NoSpace`, `PermissionDenied`, … as the server says.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed>>;

    /// Follows the changes of a span from a revision on. Returns when the watch is established (so that a write that begins after
    /// it is seen), and yields items until the first error.
    ///
    /// - Every change after the start is yielded once, in order (after what was [`Skipped`](WatchItem::Skipped), if the caller allowed it); all changes of one revision are one [`WatchItem::Batch`], whole.
    /// - [`WatchItem::Progress`]`(r)`: everything up to `r` has been yielded. Never sent ahead of the changes it covers.
    /// - [`WatchItem::HistoryLost`] and [`WatchItem::Behind`] are the last item. So is an error. No silent end: a stream that just ends is a
    ///   defect of the store.
    /// - A reader that does not keep up costs bounded memory and delays nobody: the stream then ends with [`WatchItem::Lagged`]
    ///   after what was kept, and the caller starts again after the last batch it saw.
    /// - A connection that went silent is noticed and becomes an error.
    ///
    /// It makes one attempt; the error says whether another one may help.
    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream>>;

    /// Makes a lease of this name. The answer is the time to live that the server granted, which may be longer than asked for and never shorter.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when a lease of that name exists which this call has not made. (When the answer to a first attempt was lost, a later attempt of the same
    /// call finds the lease that it made, and that is a success.) Names are random, so a caller whose earlier call may have been applied can take it for that one's.
    fn grant(&self, id: LeaseId, ttl: Duration) -> BoxFuture<'_, Result<Duration>>;

    /// Starts the time of a lease again; the answer is the time it has from when the request was *sent*.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the lease is not there: final.
    fn keep_alive(&self, id: LeaseId) -> BoxFuture<'_, Result<Duration>>;

    /// Ends a lease; the keys attached to it vanish. Of a lease that is not there it is done already, and no error.
    fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<()>>;

    /// How long the lease has left; none when it is not there.
    fn time_to_live(&self, id: LeaseId) -> BoxFuture<'_, Result<Option<Duration>>>;

    /// What one server says of itself.
    fn status(&self) -> BoxFuture<'_, Result<Status>>;

    /// The members of the cluster as one of them knows them.
    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>>>;

    /// Statistics, where the server keeps them (v2).
    fn stats(&self, which: StatsKind) -> BoxFuture<'_, Result<Stats>>;

    /// How often the store has moved on to another cluster, whose history has nothing to do with the one before: revisions, leases and watches that
    /// were had at another number are void. No request is sent.
    ///
    /// It has a default, since a store that cannot know is right to answer always the same. A wrapper should pass it on: without it a watch finds
    /// a new history only by what it reads, as after a server was emptied under its old id.
    fn history(&self) -> u64 {
        0
    }

    /// Returns what is known of the cluster behind the store. No request is sent.
    ///
    /// The file of a live view's `or_snapshot` names it, so that no view starts from a file of another cluster. The default knows nothing, and then
    /// nothing is compared. A wrapper should pass it on.
    fn identity(&self) -> Identity {
        Identity::default()
    }
}

/// What is known of the cluster behind a [`Store`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The id of the cluster; none before the first answer.
    pub cluster: Option<String>,
    /// The addresses that the store was given, `host:port`; empty for a store that has none.
    pub endpoints: Vec<String>,
}

/// What a store can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The store's name in messages: `etcd v3`, `etcd v2`, `memory`.
    pub name: &'static str,
    /// Transactions over several keys. Without: one key in a transaction, see [`Store::commit`].
    pub transactions: bool,
    /// Compares, and operations in either list, that one transaction may have.
    pub max_operations: usize,
    /// The largest value in bytes that is sent.
    pub max_value: usize,
    /// Reading the past: [`Range::revision`]. Without it, [`Range::limit`], [`Range::after`] and [`Range::modified_after`] are not there either: one answer has all.
    pub past_revisions: bool,
    /// Values of any bytes. Without: text (UTF-8) only.
    pub binary_values: bool,
    /// Directories that exist by themselves: [`Op::MakeDir`] and the rest.
    pub directories: bool,
}

/// Which keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// This one key.
    Key(Key),
    /// All keys below this directory, at any depth: those that begin with its [`prefix`](Key::prefix) and go on after it.
    Below(Key),
}

impl Span {
    /// The key or directory.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Key(key) | Self::Below(key) => key,
        }
    }

    /// Whether a stored key is in the span.
    #[must_use]
    pub fn contains(&self, stored: &[u8]) -> bool {
        match self {
            Self::Key(key) => key.as_bytes() == stored,
            Self::Below(directory) => stored.strip_prefix(directory.prefix().as_bytes()).is_some_and(|name| !name.is_empty()),
        }
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// It sees every write that was acknowledged before it began (v3: not serializable; v2: `quorum=true`).
    #[default]
    Linearizable,
    /// Any member answers from what it has.
    Stale,
}

/// A read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Which keys.
    pub span: Span,
    /// As of which revision; none: the newest.
    pub revision: Option<Revision>,
    /// At most so many keys, at least one; none: all, in as few answers as the store takes (the store pages by itself, at one revision).
    pub limit: Option<usize>,
    /// Only keys after this one, byte for byte.
    pub after: Option<Bytes>,
    /// Only keys up to this one, byte for byte, and it itself.
    pub until: Option<Bytes>,
    /// Leaves out the values. The answer may also lack the leases: etcd since 3.7 answers it from its index, which has none (etcd issue
    /// 22209). A caller that decides by leases asks for the values too.
    pub keys_only: bool,
    /// Only keys that were modified after this revision. [`RangeReply::count`] then says how many keys there are in all, so that an empty answer with an unchanged
    /// count proves that nothing changed. The server still reads all of the span. Only with [`Capabilities::past_revisions`].
    pub modified_after: Option<Revision>,
    /// How fresh.
    pub consistency: Consistency,
}

impl Range {
    /// All of the span, as of now.
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
        }
    }
}

/// The answer to a [`Range`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// What it is as of. For a read of a past revision this is that revision, not the store's newest.
    pub revision: Revision,
    /// In the order of their keys; of an [`Op::Newest`] the newest first.
    pub kvs: Vec<KeyValue>,
    /// The directories below the span, where the store has [`Capabilities::directories`], in the order of their keys.
    pub directories: Vec<DirectoryNode>,
    /// Of [`Span::Below`] on such a store: the directory itself, where it exists.
    pub directory: Option<DirectoryNode>,
    /// There are keys after the last one.
    pub more: bool,
    /// Of a read with [`Range::modified_after`]: how many keys the range has, modified or not. The limit does not change it.
    pub count: Option<u64>,
}

/// A key with its value and versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// As stored; it may be no [`Key`] of ours.
    pub key: Bytes,
    /// Empty where only keys were asked for.
    pub value: Bytes,
    /// When the key came to be. On v2 a key comes to be anew with every put that has no condition.
    pub created: Revision,
    /// When it was last written.
    pub modified: Revision,
    /// How often since it came to be, where the store counts.
    pub version: Option<u64>,
    /// The lease it is attached to, where the store tells leases. An answer to [`Range::keys_only`] may not tell it. On v2, which has none, only
    /// leases of this process are known, and only of keys that were read.
    pub lease: Option<LeaseId>,
    /// How long it has left, where the answer says so.
    pub ttl: Option<Duration>,
}

impl KeyValue {
    /// When the key vanishes by itself, as far as the answer says it: a put with this expiry keeps what the key had.
    ///
    /// A time to live (v2) in whole seconds was rounded up by the server, and would be rounded up again by each put. One second less half of the
    /// time is right on average, so that a key that is written often does not live for ever. What this process wrote is known exactly.
    pub(crate) fn expiry(&self) -> Expiry {
        expiry(self.lease, self.ttl)
    }

    /// Whether its time is over by the clock of the server, which still has it: v2 lists a key for
    /// up to half a second after its end, and a refresh that arrives then gives it another life.
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

/// A directory, where the store has them as things of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryNode {
    /// As stored.
    pub key: Bytes,
    /// When it came to be.
    pub created: Revision,
    /// When it was last written.
    pub modified: Revision,
    /// How long it has left.
    pub ttl: Option<Duration>,
}

/// Compares and what to do then or otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Done when they hold.
    pub then: Vec<Op>,
    /// Done when one does not.
    pub otherwise: Vec<Op>,
}

/// A condition on a span. All are false of a key that is not there, but for [`Condition::Absent`], [`Condition::UnchangedSince`] and
/// [`Condition::NeverExpires`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Which keys. Only [`Condition::Absent`], [`Condition::UnchangedSince`] and [`Condition::NeverExpires`] go with [`Span::Below`].
    pub span: Span,
    /// What must hold.
    pub condition: Condition,
}

impl Compare {
    /// A condition on one key.
    #[must_use]
    pub fn key(key: &Key, condition: Condition) -> Self {
        Self { span: Span::Key(key.clone()), condition }
    }

    /// A condition on all keys below a directory.
    #[must_use]
    pub fn below(directory: &Key, condition: Condition) -> Self {
        Self { span: Span::Below(directory.clone()), condition }
    }
}

/// What a [`Compare`] asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no key in the span.
    Absent,
    /// The key exists.
    Present,
    /// The key came to be at this revision.
    Created(Revision),
    /// The key was last written at this revision.
    Modified(Revision),
    /// The value is this, byte for byte.
    Value(Bytes),
    /// The key is attached to this lease.
    Lease(LeaseId),
    /// Every key that is there now was last written at or before this revision. It does not see that a key vanished.
    UnchangedSince(Revision),
    /// No key that is there now is attached to a lease or has a time to live.
    NeverExpires,
}

/// One step of a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads. Its page is as long as it is.
    Get(Span),
    /// Reads which of the keys below a directory came to be last: the newest first, with their values and leases. The answer is an
    /// [`OpResult::Get`], and [`RangeReply::more`] says that there were more than asked for. Like a get it sees what the operations
    /// before it did.
    ///
    /// Keys that one transaction made are as new as each other: which of them comes first, and which the limit cuts off, is left open.
    /// In memory it is the order of their bytes; etcd's sort is not stable (3.5.1: with eleven keys it is another order).
    ///
    /// The server reads and sorts all of the directory, whatever the limit, so this is for small ones, such as queues. Only with
    /// [`Capabilities::transactions`]; elsewhere list the directory.
    Newest {
        /// The directory, as in [`Span::Below`].
        below: Key,
        /// Only keys that came to be before this revision.
        before: Option<Revision>,
        /// At most so many keys. At least one, else `Invalid`.
        limit: usize,
    },
    /// Writes a value. On a store with directories the directories above come to be.
    Put {
        /// The key.
        key: Key,
        /// The value.
        value: Bytes,
        /// When it expires. A put without expiry takes away the one that the key had.
        expiry: Expiry,
        /// Asks for the value that was there.
        previous: bool,
    },
    /// Deletes every key of the span; on a store with directories the directory and all in it. That there was none is no error.
    Delete {
        /// Which keys.
        span: Span,
        /// Asks for what was there.
        previous: bool,
    },
    /// Makes a directory; `AlreadyExists` if there is something. Only with [`Capabilities::directories`].
    MakeDir {
        /// The directory.
        key: Key,
        /// It and all in it expire then.
        ttl: Option<Duration>,
    },
    /// Gives a directory another time to live, or none; `NotFound` if there is none. Only with [`Capabilities::directories`], and
    /// `Unsupported` where the server cannot (the v2 API of etcd 3.5 answers every such update with an error).
    UpdateDir {
        /// The directory.
        key: Key,
        /// It and all in it expire then; none: never.
        ttl: Option<Duration>,
    },
    /// Deletes a directory with nothing in it; `DirectoryNotEmpty` otherwise, `NotFound` if there is none. Only with [`Capabilities::directories`].
    RemoveDir {
        /// The directory.
        key: Key,
    },
}

impl Op {
    /// Writes a value that does not expire.
    #[must_use]
    pub fn put(key: &Key, value: Bytes) -> Self {
        Self::Put { key: key.clone(), value, expiry: Expiry::Never, previous: false }
    }

    /// Deletes one key.
    #[must_use]
    pub fn delete(key: &Key) -> Self {
        Self::Delete { span: Span::Key(key.clone()), previous: false }
    }
}

/// When a key vanishes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    #[default]
    Never,
    /// After this time, at the earliest. v2 counts in whole seconds, and zero is at once; where leases carry it (v3, memory) it is at least
    /// the server's shortest lease (2 s with default flags). Fractions are rounded up.
    ///
    /// On v3 a write with it needs a lease, which costs a request and stays on the server for the
    /// whole time, also when the key is written again. From five minutes on the lease is made a
    /// twentieth longer, and writes of one client with the same time share it until that part is
    /// over (a thousand writes at most). A key so ends up to a twentieth later, together with
    /// others. Below five minutes each write makes a lease. A program that writes a key often
    /// attaches it to a lease that is kept alive instead ([`Client::lease`](crate::Client::lease)).
    After(Duration),
    /// With this lease.
    With(LeaseId),
}

/// The answer to a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The revision of the changes; of a transaction that changed nothing, the store's.
    pub revision: Revision,
    /// Whether all compares held.
    pub succeeded: bool,
    /// One for each operation of the list that was performed, in order.
    pub results: Vec<OpResult>,
}

/// What an [`Op`] gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// Of [`Op::Get`] and [`Op::Newest`].
    Get(RangeReply),
    /// Of [`Op::Put`]: what was there, if it was asked for.
    Put(Option<KeyValue>),
    /// Of [`Op::Delete`].
    Delete {
        /// How many keys there were (on v2: one for a directory with all in it).
        deleted: u64,
        /// What was there, if it was asked for.
        previous: Vec<KeyValue>,
    },
    /// Of the operations on directories.
    Done,
}

/// A watch to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Which keys.
    pub span: Span,
    /// From where.
    pub from: WatchFrom,
}

/// Where a [`Watch`] starts: changes *after* this revision are yielded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// The span was just read as of this revision. It is what lets a store choose its quickest start.
    Listed(Revision),
    /// A watch that had yielded everything up to this revision broke, or a caller names a revision
    /// of the past. A store that has not reached the revision does not wait for it: the watch
    /// yields [`WatchItem::Behind`] and ends.
    Resumed(Revision),
    /// As `Listed`, and rather at once than complete: where the store would have to go back for changes after this revision, it
    /// skips them and says so with [`WatchItem::Skipped`]. It is for a caller that can read again what matters to it: on v3 a watch that goes back
    /// gets its first event from a loop that runs every 100 ms, one that does not gets it with the write. A store that goes back as quickly skips nothing.
    Live(Revision),
}

impl WatchFrom {
    /// The revision.
    #[must_use]
    pub fn revision(self) -> Revision {
        match self {
            Self::Listed(revision) | Self::Resumed(revision) | Self::Live(revision) => revision,
        }
    }
}

/// What a watch yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// All changes of one revision to the span.
    Batch(Batch),
    /// Everything up to this revision has been yielded.
    Progress(Revision),
    /// The changes after the start and up to this revision were not looked for; the caller reads the span as of this revision or a later one.
    /// From here on every change is yielded. Only of [`WatchFrom::Live`], only as the first item, and only where the store had moved on.
    Skipped(Revision),
    /// The changes after the start are not all there any more; the span must be read anew. Last item.
    HistoryLost {
        /// The oldest revision that is still there, if the server says it.
        oldest: Option<Revision>,
    },
    /// The server that answered is at this revision, before the start: it lags, or its history is not the one we saw. The caller finds
    /// out with a linearizable read. Last item.
    Behind(Revision),
    /// The reader was too slow; everything up to the last batch was yielded. Last item.
    Lagged,
}

/// All changes of one revision to a watched span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The revision.
    pub revision: Revision,
    /// In the order of the transaction; no key twice.
    pub events: Vec<Event>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was written.
    Put {
        /// As it is now.
        kv: KeyValue,
        /// As it was, where the server says it; never needed to be right. v3 does not, and events are many.
        previous: Option<Box<KeyValue>>,
    },
    /// The key, or a whole directory, was deleted or expired.
    Delete {
        /// As stored.
        key: Bytes,
        /// A directory (v2): all keys below `key` are gone with it.
        directory: bool,
        /// As it was, where the server says it; never needed to be right. v3 does not, and events are many.
        previous: Option<Box<KeyValue>>,
    },
}

impl Event {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { kv, .. } => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// Whether this deletes a stored key, alone or with the directory that it is in.
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

/// What one server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Which store this is: [`Capabilities::name`].
    pub store: &'static str,
    /// The server's version, `3.4.23`.
    pub version: String,
    /// The store's newest revision, as that server knows it.
    pub revision: Revision,
    /// The cluster's id in hexadecimal, where there is one.
    pub cluster: Option<String>,
    /// The id of the member that answered, in hexadecimal.
    pub member: Option<String>,
    /// The id of the member that leads.
    pub leader: Option<String>,
    /// Bytes of the database, where the server says it.
    pub database_size: Option<u64>,
    /// Alarms and other errors that the server reports.
    pub errors: Vec<String>,
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Member {
    /// In hexadecimal.
    pub id: String,
    /// Empty for a member that has not started yet.
    pub name: String,
    /// Where the others reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// It does not vote (yet).
    pub learner: bool,
}

/// Which statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatsKind {
    /// Operations, counted by one member.
    Store,
    /// One member itself.
    Member,
    /// The leader's view of its followers.
    Leader,
}

/// Statistics as the server gave them.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// The JSON object of the answer.
    pub fields: serde_json::Map<String, serde_json::Value>,
}

impl Stats {
    /// A counter by the server's name, `setsSuccess`; none where there is no such number.
    #[must_use]
    pub fn counter(&self, name: &str) -> Option<u64> {
        self.fields.get(name)?.as_u64()
    }
}
