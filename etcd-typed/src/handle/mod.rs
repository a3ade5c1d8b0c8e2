//! The typed surface: what is done to one key, to a struct's directory, to a map, to a directory without a schema, and in one transaction.
//! How bytes become values is `value.rs` and `schema.rs`; what a store does with a transaction is `store.rs`.

mod dir;
mod directory;
mod dry;
mod entry;
mod fields;
mod guarded;
mod map;
mod plan;
mod transaction;

use std::fmt;
use std::sync::Arc;

pub use dir::{Dir, DirDelete, DirTryUpdate, DirUpdate, DirWrite, EtcdSchema, UpdateError};
pub use directory::{Directory, DirectoryDelete, DirectoryWrite, Node};
pub use dry::{Check, Diff, Difference, Shown};
pub use entry::{Entry, EntryDelete, EntryModify, EntryWrite, Publish, Published};
pub use fields::{Entries, Fields};
pub use map::{DirMap, EntryMap, EntryPages, MapWrite};
pub use transaction::Transaction;

use futures_util::FutureExt;
use futures_util::future::try_join;
use tokio::task::yield_now;
use tracing::Instrument as _;

use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::lease::Lessor;
use crate::live::{Source, Upstreams, View, Viewing};
use crate::retry::RetryPolicy;
use crate::revision::Revision;
use crate::schema::{self, Schema, Table, Tree};
use crate::store::{Consistency, KeyValue, Range, RangeReply, Span, Store};
use crate::telemetry::{Operation, Pattern};
use crate::turn::Claim;
use crate::version::Versioned;

/// Keys in the first page of a whole directory: what nearly all directories fit in.
const FIRST_PAGE: usize = 10_000;

/// Keys in the pages after it, and about how many bytes of them. Each page costs the server a look at all keys that are left, so few pages are cheaper;
/// and what is here of a page is memory.
const LARGEST_PAGE: usize = 50_000;
const LARGEST_PAGE_BYTES: usize = 16 * 1024 * 1024;

/// How often a read of several pages starts again.
const RESTARTS: u32 = 8;

/// What all handles of one client share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) retry: RetryPolicy,
    pub(crate) reads: Consistency,
    /// What its live views are fed by.
    pub(crate) upstreams: Arc<Upstreams>,
    /// Where its leases come from.
    pub(crate) lessor: Arc<Lessor>,
    /// The guards under which it writes; none but in a builder that was given some.
    pub(crate) claims: Vec<Claim>,
}

impl Context {
    /// Reads a whole span as of now.
    async fn read(&self, span: Span, keys_only: bool) -> Result<RangeReply> {
        self.store.range(Range { keys_only, consistency: self.reads, ..Range::of(span) }).await
    }

    /// Reads a whole directory as of now, for the operation `op` on a struct with this table. What does not need to know the struct is here and compiled
    /// once; [`Found::decode`] is for each struct.
    async fn find(&self, op: &'static str, table: &Table, directory: &Key) -> Result<Found> {
        let span = Operation::new(op, table.pattern()).span();
        let read = self.read(Span::Below(directory.clone()), false).instrument(span.clone());
        let reply = read.await.map_err(|error| error.at(directory))?;
        Ok(Found { tree: schema::tree(directory, reply.kvs), revision: reply.revision, span })
    }

    /// Reads a whole span as of now, page by page, and hands each page to `take`, while the server is at the next one. What it took is void where
    /// `begin` is called again.
    async fn read_pages<T>(&self, span: &Span, begin: impl Fn() -> T, take: impl Fn(&mut T, Vec<KeyValue>)) -> Result<(T, Revision)> {
        let mut restarts = 0;
        loop {
            match self.try_pages(span, begin(), &take).await {
                // The revision of the first page was compacted while the others were read.
                Err(Stopped::BetweenPages(error)) if error.kind() == ErrorKind::HistoryLost && restarts < RESTARTS => restarts += 1,
                Err(Stopped::BetweenPages(error) | Stopped::AtFirst(error)) => return Err(error),
                Ok(read) => return Ok(read),
            }
        }
    }

    async fn try_pages<T>(&self, span: &Span, mut taken: T, take: impl Fn(&mut T, Vec<KeyValue>)) -> Result<(T, Revision), Stopped> {
        let pages = self.store.capabilities().past_revisions;
        let page = |revision, after, limit| {
            let limit = pages.then_some(limit);
            self.store.range(Range { revision, after, limit, consistency: self.reads, ..Range::of(span.clone()) })
        };
        let mut reply = page(None, None, FIRST_PAGE).await.map_err(Stopped::AtFirst)?;
        let revision = reply.revision;
        while let Some(last) = reply.kvs.last().filter(|_| reply.more).map(|kv| kv.key.clone()) {
            let next = page(Some(revision), Some(last), limit_after(&reply.kvs));
            let took = async {
                // First the request has to be on its way.
                yield_now().await;
                take(&mut taken, reply.kvs);
            };
            (reply, ()) = try_join(next, took.map(Ok)).await.map_err(Stopped::BetweenPages)?;
        }
        take(&mut taken, reply.kvs);
        Ok((taken, revision))
    }

    /// A live view of what lies below a directory, or of keys in it.
    fn view<T>(&self, span: Span, directory: &Key, pattern: Pattern, view: impl View<State = T>) -> Viewing<T>
    where
        T: Send + Sync + 'static,
    {
        let (upstreams, store, retry) = (self.upstreams.clone(), self.store.clone(), self.retry.clone());
        Viewing::new(Source { upstreams, store, retry, span, directory: directory.clone(), pattern }, view)
    }
}

/// What lies in a directory.
struct Found {
    tree: Tree,
    revision: Revision,
    /// Of the operation: decoding is a part of it.
    span: tracing::Span,
}

impl Found {
    fn decode<S: Schema>(self, directory: &Key) -> Result<Versioned<S>> {
        let _within = self.span.entered();
        schema::decode(directory, &self.tree, self.revision)
    }
}

/// How many keys the page after this one may have, if they are as long on average.
fn limit_after(page: &[KeyValue]) -> usize {
    let bytes: usize = page.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
    LARGEST_PAGE_BYTES.saturating_mul(page.len()).checked_div(bytes).unwrap_or(LARGEST_PAGE).clamp(1, LARGEST_PAGE)
}

/// Why pages do not go on.
enum Stopped {
    AtFirst(Error),
    BetweenPages(Error),
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("store", &self.store).field("reads", &self.reads).finish_non_exhaustive()
    }
}

/// Handles hold it so that they are cheap to clone.
pub(crate) type Shared = Arc<Context>;
