//! `Directory`: a directory without a schema, for tools and for what is no struct.

mod delete;

use std::collections::BTreeMap;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;

pub use self::delete::DirectoryDelete;
use super::Shared;
use super::entry::Entry;
use crate::changes::{Typed, Watching};
use crate::error::{ErrorKind, Result};
use crate::key::Key;
use crate::revision::Revision;
use crate::schema::{self, Change, Keyed, Stored};
use crate::store::{BoxFuture, Committed, Op, OpResult, RangeReply, Span, Txn};
use crate::telemetry::Operation;
use crate::turn::Guard;
use crate::value::{Codec, EtcdValue};
use crate::version::{Versioned, Versions};

/// A directory, untyped: list, make, delete, watch.
///
/// On v2 directories are things of their own: they can be empty, be made and expire. On v3 and in memory a directory is there as long as a key is below
/// it; what cannot be done there is refused with `Unsupported`.
///
/// A stored key below the directory that is no path (one with an empty segment, or not UTF-8)
/// belongs to another program: the queue of a lock that Go's clients name `/a/` is below `/a//`.
/// Such a key is not listed, watched, counted or deleted here.
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
    context: Shared,
    key: Key,
}

/// A key or a directory in a [`Directory`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its path below the directory that was listed, as stored.
    pub path: String,
    /// The value; none of a directory.
    pub value: Option<Versioned<Bytes>>,
    /// How long a directory has left, where it expires (v2). Of a value it is [`Versioned::ttl`].
    pub directory_ttl: Option<Duration>,
}

impl Node {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.value.is_none()
    }
}

impl Directory {
    pub(crate) fn new(context: Shared, key: Key) -> Self {
        Self { context, key }
    }

    /// The directory, from the root of the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The key of this name in it; the name is data and is escaped.
    #[must_use]
    pub fn entry<T: EtcdValue + Send + Sync + 'static>(&self, name: &str) -> Entry<T> {
        Entry::new(self.context.clone(), self.key.child(name), Codec::value())
    }

    /// The directory of this name in it; the name is data and is escaped.
    #[must_use]
    pub fn directory(&self, name: &str) -> Self {
        Self::new(self.context.clone(), self.key.child(name))
    }

    /// What is directly in it, values and directories, in the order of their names; nothing where there is no directory. The answer knows the
    /// [`revision`](Versioned::revision) of the snapshot, from which a [`watch`](Self::watch) goes on without a gap. Its other versions are of the
    /// directory itself where directories are things of their own (v2); elsewhere `created` is the oldest and `modified` the newest of the keys below.
    ///
    /// # Errors
    ///
    /// `NotADirectory` (v2) where a value is.
    pub async fn list(&self) -> Result<Versioned<Vec<Node>>> {
        operation("list").run(self.nodes(|path| path.split_once('/').map_or(path, |(first, _)| first))).await
    }

    /// Everything below it, at any depth.
    ///
    /// # Errors
    ///
    /// As for [`list`](Self::list).
    pub async fn list_recursive(&self) -> Result<Versioned<Vec<Node>>> {
        operation("list_recursive").run(self.nodes(|path| path)).await
    }

    /// Whether it is there: a key is below it, or (v2) it exists with nothing in it.
    pub async fn exists(&self) -> Result<bool> {
        match operation("exists").run(self.read(true)).await {
            Ok(reply) => Ok(reply.directory.is_some() || reply.kvs.iter().any(|kv| self.key.below(&kv.key).is_some())),
            Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the directory, with those above it (v2).
    ///
    /// # Errors
    ///
    /// `AlreadyExists`. `Unsupported` on v3 and in memory, where it comes to be with the first key in it.
    pub fn create(&self) -> DirectoryWrite {
        DirectoryWrite { directory: self.clone(), ttl: None, op: "create", make: |key, ttl| Op::MakeDir { key, ttl } }
    }

    /// Gives the directory the time to live that [`DirectoryWrite::ttl`] says, or takes it away (v2). All in it expires with it.
    ///
    /// # Errors
    ///
    /// `NotFound`. `Unsupported` on v3 and in memory, where a lease on the keys does it.
    pub fn update(&self) -> DirectoryWrite {
        DirectoryWrite { directory: self.clone(), ttl: None, op: "update", make: |key, ttl| Op::UpdateDir { key, ttl } }
    }

    /// Deletes the directory if nothing is in it. The answer is the revision of that.
    ///
    /// # Errors
    ///
    /// `DirectoryNotEmpty`, `NotFound`; `IsADirectory` never, `NotADirectory` (v2) where a value is.
    pub fn delete(&self) -> DirectoryDelete<Revision> {
        DirectoryDelete { directory: self.clone(), op: "delete", recursive: false, finish: |committed| committed.revision }
    }

    /// Deletes the directory and everything below it that [`list_recursive`](Self::list_recursive)
    /// shows. The answer is how many keys there were. Except on v2 it is one read and one
    /// transaction, which starts again if a key below was written in between.
    ///
    /// On v2 the directory counts as one with all in it, and what is hidden there (names that begin
    /// with `_`) is deleted too: no listing shows it.
    ///
    /// # Errors
    ///
    /// `Conflict` when the budget of the policy is used up. `TooManyOperations` where many keys of
    /// other programs lie between those of the directory.
    pub fn delete_recursive(&self) -> DirectoryDelete<u64> {
        let finish = |committed: Committed| {
            let deleted = |result: &OpResult| if let OpResult::Delete { deleted, .. } = result { *deleted } else { 0 };
            committed.results.iter().map(deleted).sum()
        };
        DirectoryDelete { directory: self.clone(), op: "delete_recursive", recursive: true, finish }
    }

    /// The changes of all keys below it from now on, as bytes. Keys are paths below the directory, as stored.
    pub fn watch(&self) -> Watching<Keyed<String, Change<Bytes>>, BTreeMap<String, Bytes>> {
        let typed = Typed::new(PATTERN, |delta, out| delta.all_keys(out), values);
        Watching::new(self.context.lessor.roaming().clone(), self.context.retry.clone(), self.key.clone(), typed)
    }

    async fn nodes(&self, shown: fn(&str) -> &str) -> Result<Versioned<Vec<Node>>> {
        let reply = self.read(false).await?;
        let versions = versions(&reply);
        let mut nodes = BTreeMap::new();
        let mut add_directory = |path: &str, ttl: Option<Duration>| {
            // A key and a directory may have the same name on v3: both are there.
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
        Ok(Versioned::new(nodes.into_values().collect(), versions))
    }

    async fn read(&self, keys_only: bool) -> Result<RangeReply> {
        self.context.read(Span::Below(self.key.clone()), keys_only).await.map_err(|error| error.at(&self.key))
    }

    async fn commit(&self, op: Op) -> Result<Committed> {
        self.context.commit(Txn { then: vec![op], ..Txn::default() }).await.map_err(|error| error.at(&self.key))
    }
}

/// What stands for a directory without a schema in metrics and events.
const PATTERN: &str = "directory";

fn operation(op: &'static str) -> Operation {
    Operation::new(op, PATTERN)
}

/// The versions of the directory that was read.
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

/// A write of a directory itself that happens when it is awaited. The answer is its revision.
#[must_use = "a write does nothing until it is awaited"]
pub struct DirectoryWrite {
    directory: Directory,
    ttl: Option<Duration>,
    op: &'static str,
    make: fn(Key, Option<Duration>) -> Op,
}

impl DirectoryWrite {
    /// The directory, and all in it, vanishes by itself after this time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Only while this guard is held. No store of today can do that: those that have directories of their own have no transactions.
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
