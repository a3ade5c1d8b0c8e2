//! `Directory`: the handle of a directory without a schema, for tools and for contents that are not
//! a struct.

mod delete;
mod list;

use std::collections::BTreeMap;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;

pub use self::delete::DirectoryDelete;
pub(super) use self::delete::Sweep;
pub use self::list::Listing;
use super::SharedContext;
use super::entry::Entry;
use crate::changes::{Typed, Watching};
use crate::error::{ErrorKind, Result};
use crate::key::Key;
use crate::live::{LiveMap, PathsView, Viewing};
use crate::queue::Guard;
use crate::revision::Revision;
use crate::schema::{self, Change, Keyed, Stored};
use crate::store::{BoxFuture, Committed, Op, OpResult, RangeReply, Span, Txn};
use crate::telemetry::Operation;
use crate::value::{Codec, EtcdValue};
use crate::version::{Versioned, Versions};

/// A handle to a directory whose contents have no schema. Lists, creates, deletes and watches it.
///
/// On v2 a program can create a directory without keys, and a directory can expire. On v3 and in
/// memory a directory exists while it contains at least one key. Operations that need a real
/// directory return `Unsupported` on these stores.
///
/// A stored key that is not a valid path (it has an empty segment, or is not UTF-8) belongs to
/// another program. For example, a Go client that locks `/a/` keeps its queue below `/a//`. This
/// handle does not list, watch, count or delete such keys.
///
/// Errors and cancel safety are as for [`Entry`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// let client = etcd_typed::Client::connect("memory:").await?;
/// let app = client.directory("/app")?;
/// app.directory("database").entry::<u16>("pool").set(&8).await?;
/// let names: Vec<String> = app.list_recursive().await?.into_iter().map(|node| node.path).collect();
/// assert_eq!(names, ["database", "database/pool"]);
/// app.delete_recursive().await?;
/// assert!(!app.exists().await?);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Directory {
    context: SharedContext,
    key: Key,
}

/// A key or a directory in a [`Directory`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// The stored path, relative to the directory that was listed.
    pub path: String,
    /// The value. `None` for a directory.
    pub value: Option<Versioned<Bytes>>,
    /// The remaining time to live of an expiring directory (v2 only). For a value, see
    /// [`Versioned::ttl`].
    pub directory_ttl: Option<Duration>,
}

impl Node {
    /// Returns whether this node is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.value.is_none()
    }
}

impl Directory {
    pub(crate) fn new(context: SharedContext, key: Key) -> Self {
        Self { context, key }
    }

    /// Returns the key of the directory, from the root of the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Returns the handle of a key in this directory. The name can be any text and is escaped if
    /// necessary, as in an [`EntryMap`](crate::EntryMap).
    #[must_use]
    pub fn entry<T: EtcdValue + Send + Sync + 'static>(&self, name: &str) -> Entry<T> {
        let (key, older) = self.context.child(&self.key, name);
        Entry::new(self.context.clone(), key, Codec::value()).with_aliases(older.into_iter().collect())
    }

    /// Returns the handle of a subdirectory. The name can be any text and is escaped if necessary.
    #[must_use]
    pub fn directory(&self, name: &str) -> Self {
        Self::new(self.context.clone(), self.context.child(&self.key, name).0)
    }

    /// Lists the values and directories directly in this directory, in the order of their names.
    /// Returns an empty list if the directory does not exist. Methods of [`Listing`] limit the list
    /// to the first nodes or to the newest values.
    ///
    /// The [`revision`](Versioned::revision) of the result is the revision of the snapshot; a
    /// [`watch`](Self::watch) from that revision misses no change. On v2 the other metadata
    /// describes the directory itself. On other stores, `created` is the oldest and `modified` the
    /// newest revision of the keys below.
    ///
    /// # Errors
    ///
    /// `NotADirectory` (v2) if the key holds a value.
    pub fn list(&self) -> Listing {
        Listing::new(self, "list", |path| path.split_once('/').map_or(path, |(first, _)| first))
    }

    /// Lists everything below this directory, at any depth.
    ///
    /// # Errors
    ///
    /// The errors of [`list`](Self::list).
    pub fn list_recursive(&self) -> Listing {
        Listing::new(self, "list_recursive", |path| path)
    }

    /// Returns whether the directory exists. On v2 an empty directory exists too.
    pub async fn exists(&self) -> Result<bool> {
        match operation("exists").run(self.read(true)).await {
            Ok(reply) => Ok(reply.directory.is_some() || reply.kvs.iter().any(|kv| self.key.below(&kv.key).is_some())),
            Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Creates the directory and its parents (v2).
    ///
    /// # Errors
    ///
    /// `AlreadyExists`. `Unsupported` on v3 and in memory, where a directory exists as soon as it
    /// contains a key.
    pub fn create(&self) -> DirectoryWrite {
        DirectoryWrite { directory: self.clone(), ttl: None, op: "create", make: |key, ttl| Op::MakeDir { key, ttl } }
    }

    /// Sets the time to live of the directory from [`DirectoryWrite::ttl`], or removes it if none
    /// is given (v2). All contents expire with the directory.
    ///
    /// # Errors
    ///
    /// `NotFound`. `Unsupported` on v3 and in memory; attach the keys to a lease there.
    pub fn update(&self) -> DirectoryWrite {
        DirectoryWrite { directory: self.clone(), ttl: None, op: "update", make: |key, ttl| Op::UpdateDir { key, ttl } }
    }

    /// Deletes the directory if it is empty. Returns the revision of the deletion.
    ///
    /// On v3 and in memory no directory is empty, so the result is always an error.
    ///
    /// # Errors
    ///
    /// `DirectoryNotEmpty`, `NotFound`. `NotADirectory` (v2) if the key holds a value. Never
    /// `IsADirectory`.
    pub fn delete(&self) -> DirectoryDelete<Revision> {
        DirectoryDelete { directory: self.clone(), op: "delete", recursive: false, finish: |committed| committed.revision }
    }

    /// Deletes the directory and everything below it that [`list_recursive`](Self::list_recursive)
    /// shows. Returns the number of keys that existed. Except on v2, this reads the keys and
    /// deletes them in one transaction. If another client writes a key below the directory in
    /// between, the deletion starts again.
    ///
    /// On v2 the directory counts as one key, whatever it contains. Hidden keys in it (names that
    /// begin with `_`) are deleted too, although no listing shows them.
    ///
    /// # Errors
    ///
    /// `Conflict` when the retry budget of the policy is used up. `TooManyOperations` if many keys
    /// of other programs lie between those of the directory.
    pub fn delete_recursive(&self) -> DirectoryDelete<u64> {
        let finish = |committed: Committed| {
            let deleted = |result: &OpResult| if let OpResult::Delete { deleted, .. } = result { *deleted } else { 0 };
            committed.results.iter().map(deleted).sum()
        };
        DirectoryDelete { directory: self.clone(), op: "delete_recursive", recursive: true, finish }
    }

    /// Watches the changes of all keys below the directory from now on. Values are bytes, and keys
    /// are stored paths relative to the directory.
    pub fn watch(&self) -> Watching<Keyed<String, Change<Bytes>>, BTreeMap<String, Bytes>> {
        let typed = Typed::new(PATTERN, |delta, out| delta.all_keys(out), values);
        Watching::new(self.context.lease_pool.roaming().clone(), self.context.retry.clone(), self.key.clone(), typed)
    }

    /// Opens an always-current view of all values below the directory; see [`Live`](crate::Live).
    /// Values are bytes, and keys are stored paths relative to the directory. A change of one key
    /// costs O(log n). Every state is valid, since the values have no schema.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// let registry = client.directory("/registry")?;
    /// let mut live = registry.live().await?;
    /// client.entry::<String>("/registry/ns/component/7")?.set(&"10.0.0.1".to_owned()).await?;
    /// let state = live.changed().await?;
    /// assert_eq!(state.get("ns/component/7").map(|value| &value[..]), Some(&b"10.0.0.1"[..]));
    /// # Ok(()) }
    /// ```
    pub fn live(&self) -> Viewing<LiveMap<String, Bytes>> {
        self.context.view(Span::Below(self.key.clone()), &self.key, PATTERN, PathsView::new())
    }

    async fn nodes(&self, shown: fn(&str) -> &str) -> Result<Versioned<Vec<Node>>> {
        Ok(self.nodes_of(self.read(false).await?, shown))
    }

    /// Returns the nodes in the answer to a read. `shown` cuts a path to the part that the list
    /// shows: its first segment for [`list`](Self::list), the whole path for
    /// [`list_recursive`](Self::list_recursive).
    fn nodes_of(&self, reply: RangeReply, shown: fn(&str) -> &str) -> Versioned<Vec<Node>> {
        let versions = versions(&reply);
        let mut nodes = BTreeMap::new();
        let mut add_directory = |path: &str, ttl: Option<Duration>| {
            // On v3 a key and a directory can have the same name. Both are listed.
            let node = Node { path: path.to_owned(), value: None, directory_ttl: ttl };
            nodes.entry((path.to_owned(), true)).or_insert(node);
        };
        for directory in &reply.directories {
            if let Some(path) = self.key.below(&directory.key).filter(|path| shown(path) == *path) {
                add_directory(path, directory.ttl);
            }
        }
        for kv in &reply.kvs {
            let Some(path) = self.key.below(&kv.key) else { continue };
            let above = path.match_indices('/').filter_map(|(at, _)| path.get(..at));
            above.filter(|directory| shown(directory) == *directory).for_each(|directory| add_directory(directory, None));
        }
        for kv in reply.kvs {
            let Some(path) = self.key.below(&kv.key).filter(|path| shown(path) == *path) else { continue };
            let path = path.to_owned();
            let stored = Stored::from(kv);
            let versions = stored.versions(reply.revision);
            let value = Some(Versioned::new(stored.value, versions));
            nodes.insert((path.clone(), false), Node { path, value, directory_ttl: None });
        }
        Versioned::new(nodes.into_values().collect(), versions)
    }

    async fn read(&self, keys_only: bool) -> Result<RangeReply> {
        self.context.read(Span::Below(self.key.clone()), keys_only).await.map_err(|error| error.at(&self.key))
    }

    async fn commit(&self, op: Op) -> Result<Committed> {
        self.context.commit(Txn { then: vec![op], ..Txn::default() }).await.map_err(|error| error.at(&self.key))
    }
}

/// The name of a directory without a schema in metrics and events.
const PATTERN: &str = "directory";

fn operation(op: &'static str) -> Operation {
    Operation::new(op, PATTERN)
}

/// Returns the metadata of a directory from the answer to its read.
fn versions(reply: &RangeReply) -> Versions {
    let (created, modified, ttl) = match &reply.directory {
        Some(directory) => (directory.created, directory.modified, directory.ttl),
        None => {
            let created = reply.kvs.iter().map(|kv| kv.created).min().unwrap_or_default();
            let modified = reply.kvs.iter().map(|kv| kv.modified).max().unwrap_or_default();
            (created, modified, None)
        }
    };
    Versions { revision: reply.revision, created, modified, ttl, ..Versions::default() }
}

fn values(_: &Key, tree: &schema::Tree, revision: Revision) -> Result<Versioned<BTreeMap<String, Bytes>>> {
    let values = tree.iter().map(|(path, stored)| (path.clone(), stored.value.clone())).collect();
    Ok(Versioned::new(values, Versions { revision, ..Versions::default() }))
}

/// A write of a directory. The write runs when it is awaited, and returns its revision.
#[must_use = "a write does nothing until it is awaited"]
pub struct DirectoryWrite {
    directory: Directory,
    ttl: Option<Duration>,
    op: &'static str,
    make: fn(Key, Option<Duration>) -> Op,
}

impl DirectoryWrite {
    /// Lets the directory and all its contents expire after this time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Applies the write only while this guard is held. No built-in store supports this: stores
    /// with real directories have no transactions.
    ///
    /// # Errors
    ///
    /// `Unsupported`, before anything is sent, or `GuardLost`.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.directory.context = self.directory.context.guarded_by(guard);
        self
    }
}

impl IntoFuture for DirectoryWrite {
    type Output = Result<Revision>;
    type IntoFuture = BoxFuture<'static, Result<Revision>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(operation(self.op).run(async move {
            let op = (self.make)(self.directory.key.clone(), self.ttl);
            self.directory.commit(op).await.map(|committed| committed.revision)
        }))
    }
}

impl fmt::Debug for DirectoryWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryWrite").field("directory", &self.directory).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}
