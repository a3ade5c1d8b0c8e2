//! The watches of a client by what they watch, so that whoever wants the same finds them. `feed.rs` decides who shares one; here are the locks.
//!
//! Locks are taken in this order: the list, an older watch, a younger one. Wakers are called when none is held.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use tokio::sync::oneshot;

use super::feed::{Join, ReaderId, Sharing, Standing};
use super::machine::Token;
use super::queue::Queue;
use super::{Command, Handle, Part};
use crate::error;
use crate::revision::Revision;
use crate::store::v3::status::Failure;
use crate::store::{Span, Watch, WatchItem};

/// The answer to who waits for a watch to stand; see [`Standing`].
pub(super) type Stands = oneshot::Receiver<Result<(), Option<Failure>>>;

/// All watches of a client that may be joined.
#[derive(Debug, Default)]
pub(super) struct Feeds(Mutex<HashMap<Span, Vec<Arc<Feed>>>>);

/// A server watch.
pub(super) struct Feed {
    token: Token,
    pub(super) watch: Watch,
    pub(super) stream: Handle,
    /// Of a long history: whoever reads it has watches side by side, and they stay so.
    is_section: bool,
    feeds: Weak<Feeds>,
    state: Mutex<State>,
}

struct State {
    sharing: Sharing,
    /// Where its readers are now, if it ended by giving them away.
    moved_to: Option<Arc<Feed>>,
}

impl Feeds {
    /// A reader for this, of a watch that is there or of the one that `create` makes. Whoever is `alone` joins nobody.
    pub(super) fn reader<E>(
        self: &Arc<Self>,
        watch: &Watch,
        reader: ReaderId,
        alone: bool,
        part: Part,
        create: impl FnOnce(NewFeed<'_>) -> Result<Arc<Feed>, E>,
    ) -> Result<(Following, Stands), E> {
        let queue = Arc::new(Queue::until(part.until()));
        let (mut standing, stands) = oneshot::channel();
        let mut wakers = Vec::new();
        let mut feeds = self.list();
        let joined = 'joined: {
            if !alone && let Some(feeds) = feeds.get(&watch.span) {
                for feed in feeds.iter().rev().filter(|feed| feed.stream.is_open()) {
                    match feed.state().sharing.join(watch.from, feed.stream.reached(), reader, &queue, standing, &mut wakers) {
                        Join::Reads | Join::Waits => break 'joined Arc::clone(feed),
                        Join::Refused(refused) => standing = refused,
                    }
                }
            }
            let new = NewFeed { watch, is_section: part != Part::All, feeds: self, reader, queue: &queue, standing };
            let created = create(new)?;
            feeds.entry(watch.span.clone()).or_default().push(Arc::clone(&created));
            created
        };
        drop(feeds);
        // The queue is new, so nobody waits at it yet.
        drop(wakers);
        Ok((Following { queue, feed: joined, reader }, stands))
    }

    /// Moves the readers of a watch that has just been created to an older one of the same stream, if there is one that serves them as well. True if so:
    /// this one is not needed then.
    pub(super) fn fold(&self, feed: &Arc<Feed>) -> bool {
        let mut wakers = Vec::new();
        let mut feeds = self.list();
        let older = feeds.get(&feed.watch.span).into_iter().flatten().find(|older| {
            if feed.is_section || older.token >= feed.token || !older.stream.is(&feed.stream) {
                return false;
            }
            let mut into = older.state();
            let mut from = feed.state();
            let folded = into.sharing.take_over(&mut from.sharing, &mut wakers);
            if folded {
                from.moved_to = Some(Arc::clone(older));
            }
            folded
        });
        let folded = older.is_some();
        if folded {
            remove(&mut feeds, feed);
        }
        drop(feeds);
        wakers.into_iter().for_each(Waker::wake);
        folded
    }

    fn list(&self) -> MutexGuard<'_, HashMap<Span, Vec<Arc<Feed>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove(feeds: &mut HashMap<Span, Vec<Arc<Feed>>>, feed: &Feed) {
    if let Some(of_span) = feeds.get_mut(&feed.watch.span) {
        of_span.retain(|other| other.token != feed.token);
        if of_span.is_empty() {
            feeds.remove(&feed.watch.span);
        }
    }
}

/// A watch that is about to be made.
pub(super) struct NewFeed<'f> {
    watch: &'f Watch,
    is_section: bool,
    feeds: &'f Arc<Feeds>,
    reader: ReaderId,
    queue: &'f Arc<Queue>,
    standing: Standing,
}

impl NewFeed<'_> {
    /// The watch, on this stream.
    pub(super) fn on(self, stream: Handle, token: Token) -> Arc<Feed> {
        let sharing = Sharing::new(self.watch.from, self.reader, Arc::clone(self.queue), self.standing);
        let state = Mutex::new(State { sharing, moved_to: None });
        Arc::new(Feed { token, watch: self.watch.clone(), stream, is_section: self.is_section, feeds: Arc::downgrade(self.feeds), state })
    }
}

impl Feed {
    pub(super) fn token(&self) -> Token {
        self.token
    }

    /// See [`Sharing::stand`].
    pub(super) fn stand(&self, created_at: Revision) -> bool {
        let goes_on = self.state().sharing.stand(created_at);
        if !goes_on {
            self.retire();
        }
        goes_on
    }

    /// Yields an item to all whom it concerns. False when nobody is left: the watch is over then.
    pub(super) fn deliver(&self, item: WatchItem, wakers: &mut Vec<Waker>) -> bool {
        let goes_on = self.state().sharing.deliver(item, wakers);
        wakers.drain(..).for_each(Waker::wake);
        if !goes_on {
            self.retire();
        }
        goes_on
    }

    /// The last word to all.
    pub(super) fn fail(&self, failure: &Failure) {
        let mut wakers = Vec::new();
        self.state().sharing.fail(failure, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        self.retire();
    }

    /// Its stream ended before it was created.
    pub(super) fn turn_away(&self) {
        self.state().sharing.turn_away();
        self.retire();
    }

    /// See [`Sharing::age`].
    pub(super) fn age(&self) {
        self.state().sharing.age();
    }

    fn leave(self: &Arc<Self>, reader: ReaderId) {
        let mut feed = Arc::clone(self);
        loop {
            let mut state = feed.state();
            let Some(moved_to) = &state.moved_to else {
                let was_last = state.sharing.leave(reader);
                drop(state);
                if was_last {
                    feed.retire();
                    // A task that has ended has no watches any more.
                    let _ = feed.stream.commands.send(Command::Remove(feed.token));
                }
                return;
            };
            let next = Arc::clone(moved_to);
            drop(state);
            feed = next;
        }
    }

    /// Nobody joins it any more.
    fn retire(&self) {
        if let Some(feeds) = self.feeds.upgrade() {
            remove(&mut feeds.list(), self);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("token", &self.token).field("watch", &self.watch).finish_non_exhaustive()
    }
}

/// A watch in a reader's hands. Dropping the last one ends it on the server.
pub(super) struct Following {
    queue: Arc<Queue>,
    pub(super) feed: Arc<Feed>,
    reader: ReaderId,
}

impl Following {
    /// Whether nobody else reads the same watch.
    pub(super) fn is_alone(&self) -> bool {
        self.feed.state().sharing.has_one_reader()
    }
}

impl Stream for Following {
    type Item = error::Result<WatchItem>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_next(context)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.feed.leave(self.reader);
    }
}
