//! The server watches of a client by their span, so that equal watches share one server watch.
//! `sharing.rs` decides which readers share a watch; this file adds the locks.
//!
//! Locks are taken in this order: the list, an older watch, a younger one. Wakers are called while
//! no lock is held.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use tokio::sync::oneshot;

use super::machine::Token;
use super::queue::Queue;
use super::sharing::{EstablishedSender, Join, ReaderId, Sharing};
use super::{Command, Handle, Part};
use crate::error;
use crate::revision::Revision;
use crate::store::v3::status::Failure;
use crate::store::{Span, Watch, WatchItem};

/// Receives whether a watch is established; see [`EstablishedSender`].
pub(super) type Stands = oneshot::Receiver<Result<(), Option<Failure>>>;

/// All server watches of a client that readers may join.
#[derive(Debug, Default)]
pub(super) struct SharedWatches(Mutex<HashMap<Span, Vec<Arc<SharedWatch>>>>);

/// A server watch and its readers.
pub(super) struct SharedWatch {
    token: Token,
    pub(super) watch: Watch,
    pub(super) stream: Handle,
    /// True if the watch reads a section of a long history (see [`super::replay`]). Such watches
    /// run side by side for one reader and are never merged.
    is_section: bool,
    shared_watches: Weak<SharedWatches>,
    state: Mutex<State>,
}

struct State {
    sharing: Sharing,
    /// The watch that took over the readers, if this watch ended that way.
    moved_to: Option<Arc<SharedWatch>>,
}

impl SharedWatches {
    /// Returns a reader of an existing watch, or of the one that `create` makes. A reader that is
    /// `alone` joins no existing watch.
    pub(super) fn reader<E>(
        self: &Arc<Self>,
        watch: &Watch,
        reader: ReaderId,
        alone: bool,
        part: Part,
        create: impl FnOnce(NewSharedWatch<'_>) -> Result<Arc<SharedWatch>, E>,
    ) -> Result<(Following, Stands), E> {
        let queue = Arc::new(Queue::until(part.until()));
        let (mut established, stands) = oneshot::channel();
        let mut wakers = Vec::new();
        let mut shared_watches = self.list();
        let joined = 'joined: {
            if !alone && let Some(shared_watches) = shared_watches.get(&watch.span) {
                for shared in shared_watches.iter().rev().filter(|shared| shared.stream.is_open()) {
                    match shared.state().sharing.join(watch.from, shared.stream.reached(), reader, &queue, established, &mut wakers) {
                        Join::Reads | Join::Waits => break 'joined Arc::clone(shared),
                        Join::Refused(refused) => established = refused,
                    }
                }
            }
            let new = NewSharedWatch { watch, is_section: part != Part::All, shared_watches: self, reader, queue: &queue, established };
            let created = create(new)?;
            shared_watches.entry(watch.span.clone()).or_default().push(Arc::clone(&created));
            created
        };
        drop(shared_watches);
        // The queue is new, so no reader is waiting on it and there is nothing to wake.
        drop(wakers);
        Ok((Following { queue, shared: joined, reader }, stands))
    }

    /// Moves the readers of a newly created watch to an older watch of the same stream, if an older
    /// watch can serve them as well. Returns true if the readers moved; the new watch is then not
    /// needed.
    pub(super) fn fold(&self, shared: &Arc<SharedWatch>) -> bool {
        let mut wakers = Vec::new();
        let mut shared_watches = self.list();
        let older = shared_watches.get(&shared.watch.span).into_iter().flatten().find(|older| {
            if shared.is_section || older.token >= shared.token || !older.stream.is(&shared.stream) {
                return false;
            }
            let mut into = older.state();
            let mut from = shared.state();
            let folded = into.sharing.take_over(&mut from.sharing, &mut wakers);
            if folded {
                from.moved_to = Some(Arc::clone(older));
            }
            folded
        });
        let folded = older.is_some();
        if folded {
            remove(&mut shared_watches, shared);
        }
        drop(shared_watches);
        wakers.into_iter().for_each(Waker::wake);
        folded
    }

    fn list(&self) -> MutexGuard<'_, HashMap<Span, Vec<Arc<SharedWatch>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove(shared_watches: &mut HashMap<Span, Vec<Arc<SharedWatch>>>, shared: &SharedWatch) {
    if let Some(of_span) = shared_watches.get_mut(&shared.watch.span) {
        of_span.retain(|other| other.token != shared.token);
        if of_span.is_empty() {
            shared_watches.remove(&shared.watch.span);
        }
    }
}

/// A server watch that is about to be created.
pub(super) struct NewSharedWatch<'f> {
    watch: &'f Watch,
    is_section: bool,
    shared_watches: &'f Arc<SharedWatches>,
    reader: ReaderId,
    queue: &'f Arc<Queue>,
    established: EstablishedSender,
}

impl NewSharedWatch<'_> {
    /// Creates the watch on this stream.
    pub(super) fn on(self, stream: Handle, token: Token) -> Arc<SharedWatch> {
        let sharing = Sharing::new(self.watch.from, self.reader, Arc::clone(self.queue), self.established);
        let state = Mutex::new(State { sharing, moved_to: None });
        Arc::new(SharedWatch {
            token,
            watch: self.watch.clone(),
            stream,
            is_section: self.is_section,
            shared_watches: Arc::downgrade(self.shared_watches),
            state,
        })
    }
}

impl SharedWatch {
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

    /// Passes an item to all readers that need it. Returns false if no reader is left, which ends
    /// the watch.
    pub(super) fn deliver(&self, item: WatchItem, wakers: &mut Vec<Waker>) -> bool {
        let goes_on = self.state().sharing.deliver(item, wakers);
        wakers.drain(..).for_each(Waker::wake);
        if !goes_on {
            self.retire();
        }
        goes_on
    }

    /// Ends the watch with an error for all readers.
    pub(super) fn fail(&self, failure: &Failure) {
        let mut wakers = Vec::new();
        self.state().sharing.fail(failure, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        self.retire();
    }

    /// Ends a watch whose stream ended before the watch was created.
    pub(super) fn turn_away(&self) {
        self.state().sharing.turn_away();
        self.retire();
    }

    /// See [`Sharing::age`].
    pub(super) fn age(&self) {
        self.state().sharing.age();
    }

    fn leave(self: &Arc<Self>, reader: ReaderId) {
        let mut shared = Arc::clone(self);
        loop {
            let mut state = shared.state();
            let Some(moved_to) = &state.moved_to else {
                let was_last = state.sharing.leave(reader);
                drop(state);
                if was_last {
                    shared.retire();
                    // This fails only if the task of the stream has ended, and the watch with it.
                    let _ = shared.stream.commands.send(Command::Remove(shared.token));
                }
                return;
            };
            let next = Arc::clone(moved_to);
            drop(state);
            shared = next;
        }
    }

    /// Removes the watch from the list, so that no more readers join it.
    fn retire(&self) {
        if let Some(shared_watches) = self.shared_watches.upgrade() {
            remove(&mut shared_watches.list(), self);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedWatch").field("token", &self.token).field("watch", &self.watch).finish_non_exhaustive()
    }
}

/// A reader of a server watch. Dropping the last reader ends the watch on the server.
pub(super) struct Following {
    queue: Arc<Queue>,
    pub(super) shared: Arc<SharedWatch>,
    reader: ReaderId,
}

impl Following {
    /// Returns whether the watch has no other reader.
    pub(super) fn is_alone(&self) -> bool {
        self.shared.state().sharing.has_one_reader()
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
        self.shared.leave(self.reader);
    }
}
