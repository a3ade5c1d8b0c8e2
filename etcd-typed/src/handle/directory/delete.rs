//! Deletes a directory: the type that [`Directory::delete`](super::Directory::delete) and
//! [`Directory::delete_recursive`](super::Directory::delete_recursive) return.

use std::collections::BTreeSet;
use std::fmt;
use std::future::IntoFuture;

use super::{Directory, operation};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::SharedContext;
use crate::handle::plan::is_rewound;
use crate::key::Key;
use crate::queue::Guard;
use crate::retry::{AfterConflict, OptimisticRetry};
use crate::store::{BoxFuture, Committed, Compare, Condition, KeyValue, Op, Range, RangeReply, Span, Txn};

/// A deletion of a directory. The deletion runs when it is awaited.
#[must_use = "a deletion does nothing until it is awaited"]
pub struct DirectoryDelete<O> {
    pub(super) directory: Directory,
    pub(super) op: &'static str,
    /// True if the contents are deleted too.
    pub(super) recursive: bool,
    pub(super) finish: fn(Committed) -> O,
}

impl<O> DirectoryDelete<O> {
    /// Applies the deletion only while this guard is held; see
    /// [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by). If the key of the guard is below
    /// the directory, the deletion ends the guard.
    ///
    /// # Errors
    ///
    /// `GuardLost`: nothing was deleted. `Unsupported` on v2.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.directory.context = self.directory.context.guarded_by(guard);
        self
    }

    async fn run(self) -> Result<O> {
        let Self { directory, recursive, finish, op } = self;
        let context = &directory.context;
        let committed = if recursive && context.store.capabilities().transactions {
            directory.delete_listed(op).await?
        } else if recursive {
            directory.commit(Op::Delete { span: Span::Below(directory.key.clone()), previous: false }).await?
        } else if context.store.capabilities().directories {
            directory.commit(Op::RemoveDir { key: directory.key.clone() }).await?
        } else {
            let reply = directory.keys_to_write().await?;
            let is_empty = reply.kvs.iter().all(|kv| directory.key.below(&kv.key).is_none());
            let kind = if is_empty { ErrorKind::NotFound } else { ErrorKind::DirectoryNotEmpty };
            return Err(Error::new(kind, "").at(&directory.key));
        };
        Ok(finish(committed))
    }
}

impl Directory {
    /// Deletes exactly the keys that a recursive listing shows, in one transaction.
    ///
    /// The range below the directory may contain keys of another program that are not valid paths.
    /// So the keys are read first. The transaction requires that no key was written in the
    /// meantime.
    async fn delete_listed(&self, op: &'static str) -> Result<Committed> {
        let mut retry = OptimisticRetry::new(&self.context.retry);
        let mut reply = self.keys_to_write().await?;
        loop {
            let then = deletes(&self.key, &reply.kvs);
            let limit = self.context.store.capabilities().max_operations;
            if then.len() > limit {
                let message = format!(
                    "keys of other programs lie between those of the directory: its deletion takes {} operations, and one \
                     transaction accepts {limit} (server flag `--max-txn-ops`); delete its subdirectories one by one",
                    then.len()
                );
                return Err(Error::new(ErrorKind::TooManyOperations, message).at(&self.key));
            }
            let mut compares = vec![Compare::below(&self.key, Condition::UnchangedSince(reply.revision))];
            // After the server was restored from a backup, all keys are older than the listing; see
            // `unchanged`.
            let own = reply.kvs.iter().filter_map(|kv| Some((kv.modified, self.key.below(&kv.key)?)));
            let newest = own.max();
            compares.extend(newest.map(|(modified, path)| Compare::key(&self.key.descend(path), Condition::Modified(modified))));
            let txn = Txn { compares, then, otherwise: Vec::new() };
            let committed = self.context.commit(txn).await.map_err(|error| error.at(&self.key))?;
            let again = newest.is_some() && is_rewound(&committed, reply.revision);
            if committed.succeeded && !again {
                return Ok(committed);
            }
            operation(op).conflict();
            match retry.after_conflict(None, self.keys_to_write()).await? {
                AfterConflict::Retry(now) => reply = now,
                AfterConflict::GiveUp(_) => {
                    return Err(Error::new(ErrorKind::Conflict, "other writers below it were faster on every attempt; try again later")
                        .at(&self.key));
                }
            }
        }
    }

    /// Reads all keys below the directory, for a write that depends on them.
    async fn keys_to_write(&self) -> Result<RangeReply> {
        let span = Span::Below(self.key.clone());
        let reply = if self.context.is_guarded() {
            self.context.read_to_write(span).await
        } else {
            self.context.asked().range(Range { keys_only: true, ..Range::of(span) }).await
        };
        reply.map_err(|error| error.at(&self.key))
    }
}

/// The recursive deletion of a directory as part of a transaction.
pub(in crate::handle) struct Sweep {
    directory: Directory,
    /// The keys below the directory. `None` until they are read, and on v2, which deletes a
    /// directory without reading its keys.
    listed: Option<RangeReply>,
}

impl Sweep {
    pub(in crate::handle) fn new(directory: &Directory) -> Self {
        Self { directory: directory.clone(), listed: None }
    }

    /// Reads the keys below the directory, while the guards of `context` are held.
    pub(in crate::handle) async fn read(&mut self, context: &SharedContext) -> Result<()> {
        if context.store.capabilities().transactions {
            self.directory.context = context.clone();
            self.listed = Some(self.directory.keys_to_write().await?);
        }
        Ok(())
    }

    pub(in crate::handle) fn deletes(&self) -> Vec<Op> {
        match &self.listed {
            Some(reply) => deletes(&self.directory.key, &reply.kvs),
            None => vec![Op::Delete { span: Span::Below(self.directory.key.clone()), previous: false }],
        }
    }

    /// Returns the condition that no key below the directory was written since the read.
    pub(in crate::handle) fn compares(&self) -> Option<Compare> {
        let reply = self.listed.as_ref()?;
        Some(Compare::below(&self.directory.key, Condition::UnchangedSince(reply.revision)))
    }
}

/// Returns the operations that delete each key with a valid path below the directory and leave all
/// other keys. Uses as few operations as possible.
fn deletes(directory: &Key, kvs: &[KeyValue]) -> Vec<Op> {
    if kvs.iter().all(|kv| directory.below(&kv.key).is_some()) {
        return vec![Op::Delete { span: Span::Below(directory.clone()), previous: false }];
    }
    // Groups the keys by the first segment of their paths.
    let mut children = BTreeSet::new();
    let mut ops = Vec::new();
    for kv in kvs {
        match directory.below(&kv.key).map(|path| path.split_once('/').map_or((path, false), |(first, _)| (first, true))) {
            Some((name, false)) => ops.push(Op::delete(&directory.descend(name))),
            Some((name, true)) => {
                children.insert(name);
            }
            None => {}
        }
    }
    for name in children {
        let child = directory.descend(name);
        let span = Span::Below(child.clone());
        let within: Vec<KeyValue> = kvs.iter().filter(|kv| span.contains(&kv.key)).cloned().collect();
        ops.extend(deletes(&child, &within));
    }
    ops
}

impl<O: 'static> IntoFuture for DirectoryDelete<O> {
    type Output = Result<O>;
    type IntoFuture = BoxFuture<'static, Result<O>>;

    fn into_future(self) -> Self::IntoFuture {
        let retry = self.directory.context.retry.clone();
        Box::pin(operation(self.op).run(retry.one_call(self.run())))
    }
}

impl<O> fmt::Debug for DirectoryDelete<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryDelete").field("directory", &self.directory).field("recursive", &self.recursive).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::revision::Revision;

    fn kv(key: &str) -> KeyValue {
        let at = Revision::new(1);
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::new());
        KeyValue { key, value, created: at, modified: at, version: None, lease: None, ttl: None }
    }

    #[test]
    fn valid_keys_are_deleted_as_one_range() {
        let directory = Key::parse("/a").unwrap();
        let ops = deletes(&directory, &["/a/b", "/a/b/c", "/a/d"].map(kv));
        assert_eq!(ops, [Op::Delete { span: Span::Below(directory), previous: false }]);
    }

    #[test]
    fn valid_subdirectory_is_deleted_as_one_range() {
        let ops = deletes(&Key::parse("/a").unwrap(), &["/a//odd", "/a/b", "/a/b/c", "/a/b/d/e"].map(kv));
        assert_eq!(ops.len(), 2, "{ops:?}");
    }

    proptest! {
        #[test]
        fn exactly_the_listed_keys_are_deleted(names in prop::collection::btree_set("(/|a|b){1,6}", 0..12)) {
            let directory = Key::parse("/a").unwrap();
            let kvs: Vec<KeyValue> = names.iter().map(|name| kv(&format!("/a/{name}"))).collect();
            let ops = deletes(&directory, &kvs);
            for kv in &kvs {
                let deleted = ops.iter().any(|op| matches!(op, Op::Delete { span, .. } if span.contains(&kv.key)));
                prop_assert_eq!(deleted, directory.below(&kv.key).is_some(), "{:?}", kv.key);
            }
        }
    }
}
