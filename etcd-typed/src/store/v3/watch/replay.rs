//! A long history, read by several watches side by side.
//!
//! etcd serves watches that are behind from a loop that runs each 100 ms, sends each of them at most 1000 of its revisions, and reads everything from the
//! oldest wanted revision up to now for it (`syncWatchers`). One watch alone gets 10,000 revisions a second at best, and costs the server the square of
//! its distance. So the history is cut into sections; each has a watch of its own, and they are read one after the other.
//!
//! It is right because each of these watches is a whole one: from its start on it yields everything, in order. A section is over when its watch
//! yields something, or progress, at its end or beyond it; what is beyond is the next one's. Nothing depends on what a server sends together, or on how the
//! revisions of the span lie among those of the store: only how quick it is does.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use tokio::time::{Instant, Sleep, sleep};

use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;
use crate::store::{BoxFuture, WatchItem, WatchStream};

/// So far behind the server a watch must be. What is less comes in two or three rounds of the loop.
pub(super) const FAR: u64 = 2000;

/// Revisions that a server sends to a watch in one round are 1000, and the first of them may be the one that the watch starts at, which is known.
const ROUND: u64 = 999;

/// Watches at first, and once it is seen that the history is dense. A server has room for 128 messages on a stream, and looks at 512 watches a round.
const FIRST_WINDOW: usize = 32;
const LARGEST_WINDOW: usize = 64;

/// Sections of more revisions of the store than this are none.
const LONGEST_STRIDE: u64 = 1_000_000;

/// How many of a client's watches may do it at a time, which bounds what their queues may hold. Where thousands resume at once, the others share one.
const MOST_REPLAYS: usize = 2;

/// After so long without an item there is nothing left. A server that reads a million revisions takes some seconds before it sends the first.
const SILENCE: Duration = Duration::from_secs(10);

/// The permission to do it, given back by dropping it.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicUsize>);

impl Permit {
    /// None while as many as may be are under way.
    pub(super) fn of(replays: &Arc<AtomicUsize>) -> Option<Self> {
        let permit = Self(Arc::clone(replays));
        (permit.0.fetch_add(1, Ordering::Relaxed) < MOST_REPLAYS).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where sections come from.
pub(super) trait Source: Send + Unpin + 'static {
    /// The newest revision that the server told.
    fn newest(&self) -> Revision;

    /// A watch of what is after `start`. It may end after it has yielded something, or progress, at or beyond `until`.
    fn open(&self, start: Revision, until: Option<Revision>) -> BoxFuture<'static, Result<WatchStream>>;
}

/// A watch that reads a long history in sections, and goes on after it.
pub(super) struct Replay<S> {
    source: S,
    /// The first is read. The last one is without an end, once the history is cut up.
    sections: VecDeque<Section>,
    /// Everything up to here was yielded.
    last: Revision,
    stride: u64,
    window: usize,
    /// Since when nothing has come; it counts while `is_silent`.
    silence: Pin<Box<Sleep>>,
    is_silent: bool,
    /// While there is more than one section.
    permit: Option<Permit>,
    ended: bool,
}

struct Section {
    start: Revision,
    until: Option<Revision>,
    /// Its watch goes on beyond `until`.
    endless: bool,
    /// How many revisions of the span it has had.
    yielded: u64,
    stage: Stage,
}

enum Stage {
    Opening(BoxFuture<'static, Result<WatchStream>>),
    Open(WatchStream),
    /// None once it was told.
    Failed(Option<Error>),
}

impl<S: Source> Replay<S> {
    /// Goes on with this watch, which was opened after `start`.
    pub(super) fn new(source: S, start: Revision, first: WatchStream, permit: Permit) -> Self {
        let until = Some(Revision::new(start.get().saturating_add(ROUND)));
        let first = Section { start, until, endless: true, yielded: 0, stage: Stage::Open(first) };
        Self {
            source,
            sections: VecDeque::from([first]),
            last: start,
            stride: ROUND,
            window: FIRST_WINDOW,
            silence: Box::pin(sleep(SILENCE)),
            is_silent: false,
            permit: Some(permit),
            ended: false,
        }
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchItem>> {
        loop {
            self.fill(cx);
            let Some(first) = self.sections.front_mut() else {
                // `fill` leaves one at least.
                return Poll::Ready(Err(Error::new(ErrorKind::Unavailable, "a watch without a section")));
            };
            first.poll_open(cx);
            let polled = match &mut first.stage {
                Stage::Open(stream) => stream.as_mut().poll_next(cx),
                Stage::Failed(error) => Poll::Ready(error.take().map(Err)),
                Stage::Opening(_) => Poll::Pending,
            };
            let Poll::Ready(item) = polled else {
                if self.permit.is_some() && self.poll_silence(cx).is_ready() {
                    self.settle(cx);
                    continue;
                }
                return Poll::Pending;
            };
            self.is_silent = false;
            let item = item.unwrap_or_else(|| Err(Error::new(ErrorKind::Unavailable, "the watch ended without a reason")))?;
            if item == WatchItem::Lagged && self.permit.is_some() {
                // Its revisions are so large that watches side by side would need too much memory. What came of it has been read.
                self.sections.clear();
                self.open(self.last, None, cx);
                continue;
            }
            if let Some(item) = self.take(item) {
                return Poll::Ready(Ok(item));
            }
        }
    }

    /// What an item of the first section is for the reader.
    fn take(&mut self, item: WatchItem) -> Option<WatchItem> {
        let to = match &item {
            WatchItem::Batch(batch) => batch.revision,
            WatchItem::Progress(to) => *to,
            // The last item; and no section is a live watch.
            WatchItem::Skipped(_) | WatchItem::HistoryLost { .. } | WatchItem::Behind(_) | WatchItem::Lagged => return Some(item),
        };
        let section = self.sections.front_mut()?;
        let beyond = section.until.is_some_and(|until| to > until);
        let over = section.until.is_some_and(|until| to >= until);
        if !beyond {
            section.yielded += u64::from(matches!(item, WatchItem::Batch(_)));
        }
        let new = !beyond && to > self.last;
        if new {
            self.last = to;
        }
        if over {
            self.finish();
        }
        new.then_some(item)
    }

    /// Ready when nothing has come for long. A reader who was busy with something else does not count as silence.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_silent {
            self.is_silent = true;
            self.silence.as_mut().reset(Instant::now() + SILENCE);
        }
        self.silence.as_mut().poll(cx)
    }

    /// Opens the sections that are next.
    fn fill(&mut self, cx: &mut Context<'_>) {
        while self.sections.len() < self.window
            && let Some(start) = self.sections.back().map_or(Some(self.last), |section| section.until)
        {
            let left = self.source.newest().get().saturating_sub(start.get());
            let until = (left > self.stride).then(|| Revision::new(start.get().saturating_add(self.stride)));
            self.open(start, until, cx);
        }
        if self.sections.len() == 1 {
            self.permit = None;
        }
    }

    /// Sends a section on its way. Whether it is there is looked at again when it is the first one.
    fn open(&mut self, start: Revision, until: Option<Revision>, cx: &mut Context<'_>) {
        let stage = Stage::Opening(self.source.open(start, until));
        let mut section = Section { start, until, endless: until.is_none(), yielded: 0, stage };
        section.poll_open(cx);
        self.sections.push_back(section);
    }

    /// The first section is over. The next ones are as long as it should have been to be read in one round.
    fn finish(&mut self) {
        if let Some(Section { start, until: Some(until), yielded, .. }) = self.sections.pop_front() {
            let length = until.get().saturating_sub(start.get());
            let ideal = length.saturating_mul(ROUND).checked_div(yielded).unwrap_or(u64::MAX);
            self.stride = ideal.min(length.saturating_mul(8)).clamp(ROUND, LONGEST_STRIDE);
            if yielded >= ROUND / 2 {
                self.window = self.window.saturating_mul(2).min(LARGEST_WINDOW);
            }
            self.last = self.last.max(until);
        }
    }

    /// From now on there is one watch.
    fn settle(&mut self, cx: &mut Context<'_>) {
        self.sections.truncate(1);
        match self.sections.front_mut() {
            Some(section) if section.endless => section.until = None,
            _ => {
                self.sections.clear();
                self.open(self.last, None, cx);
            }
        }
    }
}

impl Section {
    fn poll_open(&mut self, cx: &mut Context<'_>) {
        if let Stage::Opening(opening) = &mut self.stage {
            match opening.as_mut().poll(cx) {
                Poll::Ready(Ok(stream)) => self.stage = Stage::Open(stream),
                Poll::Ready(Err(error)) => self.stage = Stage::Failed(Some(error)),
                Poll::Pending => {}
            }
        }
    }
}

impl<S: Source> Stream for Replay<S> {
    type Item = Result<WatchItem>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let replay = self.get_mut();
        if replay.ended {
            return Poll::Ready(None);
        }
        let item = ready!(replay.poll_item(cx));
        if !matches!(item, Ok(WatchItem::Batch(_) | WatchItem::Progress(_) | WatchItem::Skipped(_))) {
            replay.ended = true;
            replay.sections.clear();
            replay.permit = None;
        }
        Poll::Ready(Some(item))
    }
}

#[cfg(test)]
mod tests;
