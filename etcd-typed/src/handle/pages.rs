//! A whole directory, page by page: what does not fit into the first page is read in several parts side by side.
//!
//! One page after the other leaves the server idle while its answer is read, and makes it count all keys that are left for each of them. A part that ends at
//! a known key needs neither. Where such keys are is guessed, see [`borders`]; a bad guess costs a small request.

mod borders;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::TryStreamExt;
use futures_util::future::try_join;
use futures_util::stream::FuturesOrdered;
use tokio::task::yield_now;

use self::borders::borders;
use super::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;
use crate::schema::AT_ONCE;
use crate::store::{KeyValue, Range, RangeReply, Span};

/// Keys in the first page: what nearly all directories fit in.
const FIRST_PAGE: usize = 10_000;

/// Keys in the pages after it, and about how many bytes of them: what is here of a page is memory.
const LARGEST_PAGE: usize = 25_000;
const LARGEST_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Parts that are read side by side.
const PARTS: usize = 4;

/// How often a read of several pages starts again.
const RESTARTS: u32 = 8;

/// Why pages do not go on.
enum Stopped {
    AtFirst(Error),
    BetweenPages(Error),
}

/// A page of a part that ends with `until`, or of the last one.
struct Page {
    reply: RangeReply,
    until: Option<Bytes>,
    limit: usize,
}

impl Context {
    /// Reads a whole span as of now, and hands each page to `take`, in the order of their keys, while the server is at others. What it took is void where
    /// `begin` is called again.
    pub(super) async fn read_pages<T>(
        &self,
        span: &Span,
        begin: impl Fn() -> T,
        take: impl Fn(&mut T, Vec<KeyValue>),
    ) -> Result<(T, Revision)> {
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
        if !self.store.capabilities().past_revisions {
            let reply = self.read(span.clone(), false).await.map_err(Stopped::AtFirst)?;
            take_in_turns(&mut taken, reply.kvs, &take).await;
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
                // The keys are not where they were expected. One part after the other then.
                parts = 1;
            }
            if let Some(last) = reply.kvs.last().filter(|_| reply.more) {
                let mut after = last.key.clone();
                if until.is_some() {
                    under_way.push_front(read(Some(revision), Some(after), until, limit));
                } else {
                    let limit = limit_after(&reply.kvs);
                    // Of somewhat fewer keys than a page may have.
                    for border in borders(span, &reply.kvs, limit - limit / 8, parts - 1) {
                        under_way.push_back(read(Some(revision), Some(after), Some(border.clone()), limit));
                        after = border;
                    }
                    under_way.push_back(read(Some(revision), Some(after), None, limit));
                }
            }
            let took = async {
                // First the requests have to be on their way.
                yield_now().await;
                take_in_turns(&mut taken, reply.kvs, &take).await;
            };
            let (next, ()) = try_join(under_way.try_next(), took.map(Ok)).await.map_err(Stopped::BetweenPages)?;
            match next {
                Some(next) => page = next,
                None => return Ok((taken, revision)),
            }
        }
    }
}

/// Hands over a page in parts, without keeping others from the thread.
async fn take_in_turns<T>(taken: &mut T, page: Vec<KeyValue>, take: &impl Fn(&mut T, Vec<KeyValue>)) {
    if page.len() <= AT_ONCE {
        return take(taken, page);
    }
    let mut page = page.into_iter();
    while page.len() > 0 {
        take(taken, page.by_ref().take(AT_ONCE).collect());
        yield_now().await;
    }
}

/// How many keys the pages after this one may have, if they are as long on average.
fn limit_after(page: &[KeyValue]) -> usize {
    let bytes: usize = page.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
    LARGEST_PAGE_BYTES.saturating_mul(page.len()).checked_div(bytes).unwrap_or(LARGEST_PAGE).clamp(1, LARGEST_PAGE)
}
