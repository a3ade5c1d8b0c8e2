//! Reads a whole directory page by page. The keys after the first page are read in several parts at
//! the same time.
//!
//! If a client reads one page after the other, the server is idle while the client processes an
//! answer. For each page, the server also counts all remaining keys. Both costs disappear if the
//! client reads several parts at the same time, and each part ends at a given key. The client
//! estimates these keys from the first page, see [`split_points`]. If an estimate is wrong, one
//! more small request is needed.

mod split_points;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::TryStreamExt;
use futures_util::future::try_join;
use futures_util::stream::FuturesOrdered;
use tokio::task::yield_now;

use self::split_points::split_points;
use super::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;
use crate::schema::AT_ONCE;
use crate::store::{KeyValue, Range, RangeReply, Span};

/// The number of keys in the first page. Nearly all directories fit into it.
const FIRST_PAGE: usize = 10_000;

/// The limits of each page after the first, in keys and in approximate bytes. A page is held in
/// memory.
const LARGEST_PAGE: usize = 25_000;
const LARGEST_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// The number of parts that are read at the same time.
const PARTS: usize = 4;

/// The number of times that a read of several pages may start again.
const RESTARTS: u32 = 8;

/// The error that ended a read. Separates an error of the first page from an error of a later page.
enum Stopped {
    AtFirst(Error),
    BetweenPages(Error),
}

/// A page of the part that ends at `until`. For the last part `until` is `None`.
struct Page {
    reply: RangeReply,
    until: Option<Bytes>,
    limit: usize,
}

impl Context {
    /// Reads a whole span, and passes each page to `take` in the order of the keys while the next
    /// pages are read. `take` collects the pages in a value that `begin` creates. If the read
    /// starts again, the value is dropped and `begin` creates a new one.
    pub(super) async fn read_pages<T>(
        &self,
        span: &Span,
        begin: impl Fn() -> T,
        take: impl Fn(&mut T, Vec<KeyValue>),
    ) -> Result<(T, Revision)> {
        let mut restarts = 0;
        loop {
            match self.try_pages(span, begin(), &take).await {
                // The server compacted the revision of the first page while the others were read.
                Err(Stopped::BetweenPages(error)) if error.kind() == ErrorKind::HistoryLost && restarts < RESTARTS => restarts += 1,
                Err(Stopped::BetweenPages(error) | Stopped::AtFirst(error)) => return Err(error),
                Ok(read) => return Ok(read),
            }
        }
    }

    async fn try_pages<T>(&self, span: &Span, mut taken: T, take: impl Fn(&mut T, Vec<KeyValue>)) -> Result<(T, Revision), Stopped> {
        if !self.store.capabilities().past_revisions {
            let reply = self.read(span.clone(), false).await.map_err(Stopped::AtFirst)?;
            take_in_steps(&mut taken, reply.kvs, &take).await;
            return Ok((taken, reply.revision));
        }
        let read = |revision, after, until: Option<Bytes>, limit| async move {
            let range =
                Range { revision, after, until: until.clone(), limit: Some(limit), consistency: self.reads, ..Range::of(span.clone()) };
            Ok(Page { reply: self.asked().range(range).await?, until, limit })
        };
        let mut page = read(None, None, None, FIRST_PAGE).await.map_err(Stopped::AtFirst)?;
        let revision = page.reply.revision;
        let mut parts = PARTS;
        let mut under_way = FuturesOrdered::new();
        loop {
            let Page { reply, until, limit } = page;
            if until.is_some() && !reply.more && reply.kvs.len() < limit / 8 {
                // The part has far fewer keys than guessed. Read one part after the other from now
                // on.
                parts = 1;
            }
            if let Some(last) = reply.kvs.last().filter(|_| reply.more) {
                let mut after = last.key.clone();
                if until.is_some() {
                    under_way.push_front(read(Some(revision), Some(after), until, limit));
                } else {
                    let limit = limit_after(&reply.kvs);
                    // The estimate is not exact, so each part is planned smaller than a full page.
                    for split_point in split_points(span, &reply.kvs, limit - limit / 8, parts - 1) {
                        under_way.push_back(read(Some(revision), Some(after), Some(split_point.clone()), limit));
                        after = split_point;
                    }
                    under_way.push_back(read(Some(revision), Some(after), None, limit));
                }
            }
            let took = async {
                // Yield first, so that the next requests are sent before this page is processed.
                yield_now().await;
                take_in_steps(&mut taken, reply.kvs, &take).await;
            };
            let (next, ()) = try_join(under_way.try_next(), took.map(Ok)).await.map_err(Stopped::BetweenPages)?;
            match next {
                Some(next) => page = next,
                None => return Ok((taken, revision)),
            }
        }
    }
}

/// Passes a page to `take` in parts and yields between them, so that a large page does not block
/// the thread.
async fn take_in_steps<T>(taken: &mut T, page: Vec<KeyValue>, take: &impl Fn(&mut T, Vec<KeyValue>)) {
    if page.len() <= AT_ONCE {
        return take(taken, page);
    }
    let mut page = page.into_iter();
    while page.len() > 0 {
        take(taken, page.by_ref().take(AT_ONCE).collect());
        yield_now().await;
    }
}

/// Returns the number of keys for the following pages, on the assumption that their entries have
/// the average size of those in this page.
fn limit_after(page: &[KeyValue]) -> usize {
    let bytes: usize = page.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
    LARGEST_PAGE_BYTES.saturating_mul(page.len()).checked_div(bytes).unwrap_or(LARGEST_PAGE).clamp(1, LARGEST_PAGE)
}
