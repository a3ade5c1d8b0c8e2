//! Reads a long history with several server watches side by side.
//!
//! etcd serves watches that are behind from a loop that runs every 100 ms (`syncWatchers`). In each
//! round, the server reads everything from the oldest wanted revision up to now, and sends at most
//! 1000 revisions to each watch. So one watch alone gets at most 10,000 revisions a second, and the
//! server's work grows with the square of the watch's distance from now. The client therefore cuts
//! the history into sections. Each section has its own watch, and the sections are read one after
//! the other.
//!
//! This is correct because each of these watches is complete: it yields everything after its start,
//! in order. A section ends when its watch yields a change or progress at or beyond the end of the
//! section. Changes beyond the end belong to the next section. How a server groups its messages,
//! and how the revisions of the span are distributed, only affects the speed.

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

/// How many revisions a watch must be behind the server to be read in sections. A shorter history
/// arrives in two or three rounds of the loop.
pub(super) const FAR: u64 = 2000;

/// The number of new revisions that a server sends to a watch in one round: 1000, minus the start
/// revision of the watch, which is already known.
const ROUND: u64 = 999;

/// The number of open sections at first, and the maximum if the history turns out to be dense. A
/// server has room for 128 messages on a stream, and handles 512 watches a round.
const FIRST_WINDOW: usize = 32;
const LARGEST_WINDOW: usize = 64;

/// The maximum length of a section in revisions of the store.
const LONGEST_STRIDE: u64 = 1_000_000;

/// How many watches of a client may use sections at the same time, which limits the memory of their
/// queues. If thousands of watches resume at once, the others share one server watch.
const MOST_REPLAYS: usize = 2;

/// After this time without an item, the client assumes that no history is left to read. A server
/// that reads a million revisions takes some seconds before it sends the first one.
const SILENCE: Duration = Duration::from_secs(10);

/// A permit to read in sections. Dropping the permit gives it back.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicUsize>);

impl Permit {
    /// Returns a permit, or `None` if all are in use.
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

/// Opens the watches of the sections.
pub(super) trait Source: Send + Unpin + 'static {
    /// Returns the newest revision that the server has reported.
    fn newest(&self) -> Revision;

    /// Opens a watch of everything after `start`. The watch may end once it has yielded a change or
    /// progress at or beyond `until`.
    fn open(&self, start: Revision, until: Option<Revision>) -> BoxFuture<'static, Result<WatchStream>>;
}

/// A watch that reads a long history in sections and then continues.
pub(super) struct Replay<S> {
    source: S,
    /// The open sections; items are yielded from the first one. When the whole history is divided,
    /// the last section has no end.
    sections: VecDeque<Section>,
    /// All changes up to this revision were yielded.
    last: Revision,
    stride: u64,
    window: usize,
    /// The time limit for silence, valid while `is_silent`.
    silence: Pin<Box<Sleep>>,
    is_silent: bool,
    /// The permit to read in sections, held while there is more than one section.
    permit: Option<Permit>,
    ended: bool,
}

struct Section {
    start: Revision,
    until: Option<Revision>,
    /// Whether the watch of the section continues beyond `until`.
    endless: bool,
    /// The number of revisions of the span that were yielded so far.
    yielded: u64,
    stage: Stage,
}

enum Stage {
    Opening(BoxFuture<'static, Result<WatchStream>>),
    Open(WatchStream),
    /// The error to yield after the other items. `None` once it was yielded.
    Failed(Option<Error>),
}

impl<S: Source> Replay<S> {
    /// Returns a replay that begins with `first`, a watch of everything after `start`.
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
                // `fill` leaves at least one section.
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
                // The revisions are so large that several watches would need too much memory. The
                // items before `Lagged` have been read.
                self.sections.clear();
                self.open(self.last, None, cx);
                continue;
            }
            if let Some(item) = self.take(item) {
                return Poll::Ready(Ok(item));
            }
        }
    }

    /// Returns the item of the first section if it is new to the reader. Ends the section after its
    /// last item.
    fn take(&mut self, item: WatchItem) -> Option<WatchItem> {
        let to = match &item {
            WatchItem::Batch(batch) => batch.revision,
            WatchItem::Progress(to) => *to,
            // Each of these items is the last item of its watch, except `Skipped`. No section
            // yields `Skipped`, because the watch of a section is not a live watch.
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

    /// Returns ready after a long silence. Time during which the reader did not poll does not
    /// count.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_silent {
            self.is_silent = true;
            self.silence.as_mut().reset(Instant::now() + SILENCE);
        }
        self.silence.as_mut().poll(cx)
    }

    /// Opens the next sections.
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

    /// Starts to open a section. The section is polled again when it has become the first one.
    fn open(&mut self, start: Revision, until: Option<Revision>, cx: &mut Context<'_>) {
        let stage = Stage::Opening(self.source.open(start, until));
        let mut section = Section { start, until, endless: until.is_none(), yielded: 0, stage };
        section.poll_open(cx);
        self.sections.push_back(section);
    }

    /// Ends the first section. Later sections get about the length that the server sends in one
    /// round.
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

    /// Closes the sections and continues with a single watch: that of the first section if it is
    /// endless, else a new one.
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
