//! `Listing`: lists all nodes of a directory, or some of them.

use std::fmt;
use std::future::IntoFuture;

use bytes::Bytes;

use super::{Directory, Node, operation};
use crate::error::Result;
use crate::store::{BoxFuture, KeyValue, Op, OpResult, Range, RangeReply, Span, Txn};
use crate::version::Versioned;

/// A list of the nodes in a directory; created by [`Directory::list`] and
/// [`Directory::list_recursive`]. The directory is read when the list is awaited.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// let client = etcd_typed::Client::connect("memory:").await?;
/// let history = client.directory("/history")?;
/// for name in ["b", "a", "c"] {
///     history.entry::<String>(name).set(&name.to_owned()).await?;
/// }
/// let names = |nodes: &[etcd_typed::Node]| nodes.iter().map(|node| node.path.clone()).collect::<Vec<_>>();
/// assert_eq!(names(&history.list().await?), ["a", "b", "c"]);
/// assert_eq!(names(&history.list().limit(2).await?), ["a", "b"]);
/// assert_eq!(names(&history.list().newest(2).await?), ["c", "a"]);
/// # Ok(()) }
/// ```
#[must_use = "nothing is listed until it is awaited"]
pub struct Listing {
    directory: Directory,
    op: &'static str,
    /// Cuts a path to the part that the list shows: its first segment, or the whole path.
    shown: fn(&str) -> &str,
    part: Part,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    All,
    /// The first nodes, at most this many.
    First(usize),
    /// The newest values, at most this many.
    Newest(usize),
}

impl Listing {
    pub(super) fn new(directory: &Directory, op: &'static str, shown: fn(&str) -> &str) -> Self {
        Self { directory: directory.clone(), op, shown, part: Part::All }
    }

    /// Lists at most this many nodes, in the byte order of their stored keys. On v3 and in memory,
    /// only these nodes are read; v2 sends the whole directory.
    ///
    /// Replaces [`newest`](Self::newest).
    pub fn limit(mut self, nodes: usize) -> Self {
        self.part = Part::First(nodes);
        self
    }

    /// Lists at most this many values, the most recently created ones, newest first. Directories
    /// are left out. On v2 every write creates a key anew, so the list contains the values that
    /// were written last.
    ///
    /// The server reads and sorts the whole directory. On v3 and in memory, the server sends only
    /// the values that are listed, unless the directory contains subdirectories and is not listed
    /// recursively.
    ///
    /// Replaces [`limit`](Self::limit).
    pub fn newest(mut self, values: usize) -> Self {
        self.part = Part::Newest(values);
        self
    }

    async fn run(self) -> Result<Versioned<Vec<Node>>> {
        let Self { directory, shown, part, .. } = self;
        match part {
            Part::All => directory.nodes(shown).await,
            Part::First(limit) => directory.first(limit, shown).await,
            Part::Newest(limit) => directory.newest(limit, shown).await,
        }
    }
}

impl Directory {
    async fn first(&self, limit: usize, shown: fn(&str) -> &str) -> Result<Versioned<Vec<Node>>> {
        let paged = self.context.store.capabilities().past_revisions;
        let mut whole = RangeReply::default();
        let mut after: Option<Bytes> = None;
        loop {
            let range = Range {
                revision: after.as_ref().map(|_| whole.revision),
                limit: paged.then(|| limit.clamp(1, PAGE)),
                after: after.take(),
                consistency: self.context.reads,
                ..Range::of(Span::Below(self.key.clone()))
            };
            let RangeReply { revision, kvs, directories, directory, more, .. } =
                self.context.asked().range(range).await.map_err(|error| error.at(&self.key))?;
            // If the list shows a subdirectory as one node, the other keys in it need not be read.
            after = kvs.last().map(|kv| self.end_of(kv, shown));
            whole.revision = revision;
            whole.kvs.extend(kvs);
            whole.directories.extend(directories);
            whole.directory = directory.or(whole.directory);
            let nodes = self.nodes_of(whole.clone(), shown);
            if !more || nodes.len() >= limit {
                return Ok(nodes.map(|mut nodes| {
                    nodes.truncate(limit);
                    nodes
                }));
            }
        }
    }

    /// Returns the key after which the node that follows `last` begins.
    fn end_of(&self, last: &KeyValue, shown: fn(&str) -> &str) -> Bytes {
        match self.key.below(&last.key) {
            Some(path) if shown(path) != path => {
                let mut end = self.key.descend(shown(path)).prefix().into_bytes();
                // No valid path contains this byte.
                end.push(0xff);
                end.into()
            }
            _ => last.key.clone(),
        }
    }

    async fn newest(&self, limit: usize, shown: fn(&str) -> &str) -> Result<Versioned<Vec<Node>>> {
        let is_shown = |kv: &KeyValue| self.key.below(&kv.key).is_some_and(|path| shown(path) == path);
        if self.context.store.capabilities().transactions && limit > 0 {
            let newest = Txn { then: vec![Op::Newest { below: self.key.clone(), before: None, limit }], ..Txn::default() };
            let committed = self.context.asked().commit(newest).await.map_err(|error| error.at(&self.key))?;
            if let Some(OpResult::Get(reply)) = committed.results.into_iter().next()
                && (!reply.more || reply.kvs.iter().all(is_shown))
            {
                return Ok(self.by_age(RangeReply { revision: committed.revision, ..reply }, limit, shown));
            }
        }
        Ok(self.by_age(self.read(false).await?, limit, shown))
    }

    /// Returns the values in an answer, newest first.
    fn by_age(&self, reply: RangeReply, limit: usize, shown: fn(&str) -> &str) -> Versioned<Vec<Node>> {
        self.nodes_of(reply, shown).map(|mut nodes| {
            nodes.retain(|node| !node.is_directory());
            nodes.sort_by_key(|node| std::cmp::Reverse(node.value.as_ref().map(Versioned::created)));
            nodes.truncate(limit);
            nodes
        })
    }
}

/// The maximum number of keys in one page of a limited list.
const PAGE: usize = 1_000;

impl IntoFuture for Listing {
    type Output = Result<Versioned<Vec<Node>>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(operation(self.op).run(self.run()))
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing").field("directory", &self.directory).field("part", &self.part).finish_non_exhaustive()
    }
}
