//! The typed handles: operations on one key, on a struct's directory, on a map, on a directory
//! without a schema, and transactions. `value.rs` and `schema.rs` convert bytes to values.
//! `store.rs` defines what a store does with a transaction.

mod dir;
mod directory;
mod dry_run;
mod entry;
mod expiry;
mod fields;
mod guarded;
mod map;
mod pages;
mod plan;
mod previous;
mod transaction;

use std::fmt;
use std::sync::Arc;

pub use dir::{Dir, DirDelete, DirSeed, DirTryUpdate, DirUpdate, DirWrite, EtcdSchema, Seeded, UpdateError};
pub use directory::{Directory, DirectoryDelete, DirectoryWrite, Listing, Node};
pub use dry_run::{Check, Diff, Difference, Shown};
pub use entry::{AsValue, Entry, EntryDelete, EntryModify, EntryWrite, Publish};
pub use fields::{Entries, Fields};
pub use map::{DirMap, EntryMap, EntryPages, MapWrite, PerEntry};
pub use previous::Previous;
pub use transaction::{Reads, Transaction, TransactionReads};

use self::guarded::TagClaim;
use crate::error::Result;
use crate::key::{self, Key};
use crate::lease::LeasePool;
use crate::live::{Source, Upstreams, View, Viewing};
use crate::queue::Claim;
use crate::retry::RetryPolicy;
use crate::revision::Revision;
use crate::schema::{self, Encoded, Schema, Table, Tree};
use crate::store::{Consistency, Range, RangeReply, Span, Store};
use crate::telemetry::{Ongoing, Operation, Pattern};
use crate::version::Versioned;

/// The state of the client that a handle uses, and the handle's own guards and name.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) retry: RetryPolicy,
    pub(crate) reads: Consistency,
    /// The watches that feed the client's live views.
    pub(crate) upstreams: Arc<Upstreams>,
    /// The source of the client's leases.
    pub(crate) lease_pool: Arc<LeasePool>,
    /// The guards that must be held for a write. Empty except in a builder with `guarded_by`.
    pub(crate) claims: Vec<Claim>,
    /// The enum variants around the field of this handle. The handle's writes require that each
    /// enum still has this variant.
    pub(crate) tags: Vec<TagClaim>,
    /// The name of the handle in metrics and events. If `None`, the name of its type is used.
    pub(crate) name: Option<Pattern>,
}

impl Context {
    /// Returns a copy for a handle with this name in metrics and events.
    fn named(&self, name: Pattern) -> SharedContext {
        Arc::new(Self { name: Some(name), ..self.clone() })
    }

    /// Returns the label of the handle in metrics and events: its name, or else `of_type`.
    fn pattern(&self, of_type: Pattern) -> Pattern {
        self.name.unwrap_or(of_type)
    }

    /// Returns the store for a request, and records that the client is used on the current runtime.
    pub(crate) fn asked(&self) -> &Arc<dyn Store> {
        self.lease_pool.runtimes().note();
        &self.store
    }

    /// Returns whether the store hides names that begin with `_` (v2). Handles escape the `_`
    /// there.
    fn hides_underscores(&self) -> bool {
        self.store.capabilities().directories
    }

    /// Returns `encoded` with its keys in the form that this store uses.
    fn stored(&self, encoded: Encoded) -> Encoded {
        if !self.hides_underscores() {
            return encoded;
        }
        let stored = |key: String| key::with_escaped_underscores(&key).unwrap_or(key);
        encoded.into_iter().map(|(key, value)| (stored(key), value)).collect()
    }

    /// Returns the key for `name` below `directory`. If earlier versions of this library used
    /// another key for the same name, returns that key too.
    pub(crate) fn child(&self, directory: &Key, name: &str) -> (Key, Option<Key>) {
        self.descend(directory, &key::escape(name))
    }

    /// Like [`child`](Self::child), for a path whose segments are escaped already.
    fn descend(&self, directory: &Key, path: &str) -> (Key, Option<Key>) {
        let escaped = key::with_escaped_underscores(path).map(|path| directory.descend(&path));
        match escaped {
            Some(escaped) if self.hides_underscores() => (escaped, None),
            escaped => (directory.descend(path), escaped),
        }
    }

    /// Reads the current state of a whole span.
    async fn read(&self, span: Span, keys_only: bool) -> Result<RangeReply> {
        self.asked().range(Range { keys_only, consistency: self.reads, ..Range::of(span) }).await
    }

    /// Reads the current state of a whole directory, for the operation `op` on a struct with this
    /// table. This part does not depend on the struct and is compiled once; [`Found::decode`] is
    /// compiled for each struct.
    async fn find<'k>(&self, op: &'static str, table: &Table, directory: &'k Key) -> Result<Found<'k>> {
        let ongoing = Operation::new(op, table.pattern()).begin();
        let read = ongoing.run(self.read(Span::Below(directory.clone()), false));
        let reply = read.await.map_err(|error| error.at(directory))?;
        Ok(Found { directory, tree: schema::tree_in_steps(directory, reply.kvs).await, revision: reply.revision, ongoing })
    }

    /// Like [`find`](Self::find). If the struct does not exist in `directory`, also reads `older`,
    /// the directory in which earlier versions of this library stored the struct, and returns its
    /// contents unless it is empty.
    async fn find_either<'k>(
        &self,
        op: &'static str,
        table: &Table,
        directory: &'k Key,
        older: Option<&'k Key>,
        removable: bool,
    ) -> Result<Found<'k>> {
        let found = self.find(op, table, directory).await?;
        match older {
            Some(older) if !found.tree.keys().any(|relative| table.exists_by(removable, relative)) => {
                let before = self.find(op, table, older).await?;
                Ok(if before.tree.is_empty() { found } else { before })
            }
            _ => Ok(found),
        }
    }

    /// Opens a live view of a directory, or of some keys in it.
    fn view<T>(&self, span: Span, directory: &Key, pattern: Pattern, view: impl View<State = T>) -> Viewing<T>
    where
        T: Send + Sync + 'static,
    {
        let (upstreams, store, retry) = (self.upstreams.clone(), self.lease_pool.roaming().clone(), self.retry.clone());
        Viewing::new(Source { upstreams, store, retry, span, directory: directory.clone(), pattern }, view)
    }
}

/// The contents of a directory.
struct Found<'k> {
    directory: &'k Key,
    tree: Tree,
    revision: Revision,
    /// The operation in metrics and events. It ends after the decoding.
    ongoing: Ongoing,
}

impl Found<'_> {
    async fn decode<S: Schema>(self) -> Result<Versioned<S>> {
        self.ongoing.run(schema::decode_in_steps(self.directory, &self.tree, self.revision)).await
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("store", &self.store).field("reads", &self.reads).finish_non_exhaustive()
    }
}

/// The context of a handle. It is shared, so that cloning a handle is cheap.
pub(crate) type SharedContext = Arc<Context>;
