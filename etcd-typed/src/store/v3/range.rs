//! Reads a span in pages at one revision. The pages are as few and as large as possible.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::time::Instant;

use super::coalesce::CoalescedReads;
use super::how::How;
use super::kv::{bounds, bounds_within, header_revision, key_value, number, range_reply, sorted};
use super::rights;
use super::status::{Failure, Row};
use super::wire::RangeRequest;
use crate::error::Result;
use crate::store::{BoxFuture, Consistency, Range, RangeReply, Span};

/// The number of keys in the first page of a read without a limit. Smaller pages cost the server
/// far more, because it counts all remaining keys for each page (3 times as much at 1000 keys a
/// page).
const FIRST_PAGE: i64 = 10_000;

/// The maximum number of times that a read of several pages restarts because its revision was
/// compacted meanwhile.
const RESTARTS: u32 = 8;

/// Implements [`Store::range`](crate::store::Store::range).
pub(super) fn range(reads: Arc<CoalescedReads>, range: Range) -> BoxFuture<'static, Result<RangeReply>> {
    if let Err(error) = range.check() {
        return Box::pin(std::future::ready(Err(error)));
    }
    let whole =
        range.after.is_none() && range.until.is_none() && range.limit.is_none() && range.modified_after.is_none() && !range.count_only;
    if matches!(range.span, Span::Key(_)) && whole && range.revision.is_none() {
        return Box::pin(present(reads, &range));
    }
    Box::pin(async move {
        let deadline = reads.core().retry.deadline();
        let mut restarts = 0;
        loop {
            match pages(&reads, &range).await {
                Err(Stop::Restart(_)) if restarts < RESTARTS && Instant::now() < deadline => restarts += 1,
                Err(Stop::Restart(failure) | Stop::Failed(failure)) => return Err(rights::unreadable(&range.span, failure.into())),
                Ok(reply) => return Ok(reply),
            }
        }
    })
}

/// Reads the current value of one key, without pages. This future is small, which saves memory when
/// thousands of reads wait at once.
fn present(reads: Arc<CoalescedReads>, range: &Range) -> impl Future<Output = Result<RangeReply>> + Send + use<> {
    let how = how(range);
    let (key, range_end) = bounds(&range.span);
    let serializable = range.consistency == Consistency::Stale;
    let request = RangeRequest { key, range_end, serializable, keys_only: range.keys_only, ..RangeRequest::default() };
    let span = range.span.clone();
    // An async block would reserve space twice for the future that it awaits.
    reads.range(how, request).map(move |answer| {
        let answer = answer.map_err(|failure| rights::unreadable(&span, failure.into()))?;
        let revision = header_revision(answer.header.as_ref());
        Ok(range_reply(answer, revision))
    })
}

fn how(range: &Range) -> How {
    match range.consistency {
        Consistency::Linearizable => How::READ,
        Consistency::Stale => How::STALE,
    }
}

/// The reason why the read of the pages stopped.
enum Stop {
    Failed(Failure),
    /// A later page could not be read at the revision of the first page.
    Restart(Failure),
}

async fn pages(reads: &Arc<CoalescedReads>, range: &Range) -> Result<RangeReply, Stop> {
    let how = how(range);
    let asked = range.limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    if asked == Some(0) {
        // For etcd, a limit of zero means no limit.
        return Err(Stop::Failed(Failure::new(Row::InvalidRequest, "a page with a limit of zero keys")));
    }
    if range.revision.is_some_and(|at| at.get() == 0) {
        // For etcd, revision zero means the newest revision.
        return Err(Stop::Failed(Failure::new(Row::Compacted, "revision zero cannot be read: it is before the first one")));
    }
    let (sort_order, sort_target) = if asked.is_some() { sorted(range.order) } else { (0, 0) };
    let mut page = asked.unwrap_or(FIRST_PAGE);
    let mut reply = RangeReply { revision: range.revision.unwrap_or_default(), ..RangeReply::default() };
    let mut after = range.after.clone();
    let mut first = true;
    loop {
        let (key, range_end) = bounds_within(&range.span, after.as_ref(), range.until.as_ref());
        let single = range_end.is_empty();
        let request = RangeRequest {
            key,
            range_end,
            limit: if single { 0 } else { page },
            revision: number(reply.revision),
            serializable: range.consistency == Consistency::Stale,
            keys_only: range.keys_only,
            sort_order,
            sort_target,
            count_only: range.count_only,
            // Zero means no bound. A bound of 1 includes every key, since no key was modified
            // before revision 2.
            min_mod_revision: range.modified_after.map_or(0, |after| number(after.next())),
            ..RangeRequest::default()
        };
        let answer = match Arc::clone(reads).range(how, request).await {
            Ok(answer) => answer,
            Err(failure) if failure.row == Row::AnswerTooLarge && page > 1 && !single => {
                page = smaller(page, &failure);
                continue;
            }
            Err(failure) if !first && range.revision.is_none() && matches!(failure.row, Row::Compacted | Row::FutureRevision) => {
                return Err(Stop::Restart(failure));
            }
            Err(failure) => return Err(Stop::Failed(failure)),
        };
        if first && range.revision.is_none() {
            reply.revision = header_revision(answer.header.as_ref());
        }
        if first && (range.modified_after.is_some() || range.count_only) {
            // The server counts all keys of the range, including those that its filters and the
            // limit leave out.
            reply.count = u64::try_from(answer.count).ok();
        }
        first = false;
        let last = answer.kvs.last().map(|kv| kv.key.clone());
        reply.kvs.extend(answer.kvs.into_iter().map(key_value));
        reply.more = answer.more;
        // Without the check of `last`, a server that reports more keys but returns none would cause
        // an endless loop.
        if asked.is_some() || !answer.more || last.is_none() {
            if asked.is_none() {
                range.order.sort(&mut reply.kvs);
            }
            return Ok(reply);
        }
        after = last;
    }
}

/// Returns the size of a page whose answer should fit. The size is computed from the length of the
/// answer that did not fit. If that length is not known, returns half the size of the page.
fn smaller(page: i64, failure: &Failure) -> i64 {
    let fitting = failure.answer_length().and_then(|(length, limit)| {
        let (length, limit) = (i64::try_from(length).ok()?, i64::try_from(limit).ok()?);
        // Use half of the number of keys that would fit on average, because values differ in
        // length.
        page.checked_mul(limit)?.checked_div(length)?.checked_div(2)
    });
    fitting.unwrap_or(page).clamp(1, page / 2)
}
