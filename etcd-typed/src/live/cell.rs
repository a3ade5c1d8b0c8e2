//! `Cell`: the place where the states of a view are stored and read. An atomic pointer holds the
//! current state. The `Book` holds everything that only waiters and status calls need, and wakes
//! the waiters.

use std::any::type_name;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::status::{Cause, FileStatus, LiveStatus, Rewound};
use super::upstream::{Audience, Upstream};
use super::view::{Bad, Sources};
use crate::error::{Error, ErrorKind, Problem, Result};
use crate::revision::Revision;
use crate::runtime::{now, some_task_waits};
use crate::telemetry::{Pattern, ViewTelemetry};
use crate::version::Versioned;

/// A revision that is never reached. It means that no caller waits.
const NOBODY: u64 = u64::MAX;

pub(super) struct Cell<T> {
    state: ArcSwap<Versioned<T>>,
    book: watch::Sender<Book<T>>,
    /// The smallest revision that a waiter waits for; `u64::MAX` without a waiter. Waiters lower it
    /// while they hold the book's read lock, and the code that wakes them reads it under the write
    /// lock, so no waiter is missed. A waiter that is woken too early sets it again.
    wanted: AtomicU64,
    /// Telemetry of the view. It is called only after the book was written and unlocked, because a
    /// telemetry subscriber may read the book.
    telemetry: ViewTelemetry,
    /// The upstream whose task sends changes to the view. When the last cell of an upstream is
    /// dropped, the watch ends.
    upstream: Arc<Upstream>,
    file: FileStatus,
}

pub(super) struct Book<T> {
    /// The number of states so far.
    generation: u64,
    newest: Arc<Versioned<T>>,
    /// The states before `newest`, the oldest first.
    older: VecDeque<Arc<Versioned<T>>>,
    /// The number of older states to keep.
    keep: usize,
    /// The revision up to which the view has processed all changes.
    seen: Revision,
    /// The revision up to which the newest state includes all changes.
    good: Revision,
    rejected: Option<(Instant, Arc<[Problem]>)>,
    /// The bad entries of the newest state, if the view is per entry.
    bad: Option<(Instant, Bad)>,
    /// The source of each field of the newest state, if the view has a base.
    sources: Sources,
    interrupted: Option<(Instant, Arc<Error>)>,
    /// Set while the state is from a file. The error says why the server has given no state.
    from_disk: Option<(Instant, Arc<Error>)>,
    ended: Option<Instant>,
    rewound: Option<Rewound>,
}

impl<T> Cell<T> {
    pub(super) fn new(state: Versioned<T>, bad: Bad, keep: usize, upstream: Arc<Upstream>, pattern: Pattern) -> Self {
        let state = Arc::new(state);
        let revision = state.revision();
        let book = Book {
            generation: 0,
            newest: state.clone(),
            older: VecDeque::new(),
            keep,
            seen: revision,
            good: revision,
            rejected: None,
            bad: (bad.entries > 0).then(|| (now(), bad.clone())),
            sources: Sources::default(),
            interrupted: None,
            from_disk: None,
            ended: None,
            rewound: None,
        };
        let telemetry = ViewTelemetry::new(pattern, revision);
        telemetry.bad_entries(revision, &[], &bad.problems, bad.entries);
        Self {
            state: ArcSwap::new(state),
            book: watch::Sender::new(book),
            wanted: AtomicU64::new(NOBODY),
            telemetry,
            upstream,
            file: FileStatus::default(),
        }
    }

    /// Creates a cell whose state never changes.
    pub(super) fn fixed(state: Versioned<T>) -> Self {
        let cell = Self::new(state, Bad::default(), 0, Arc::new(Upstream::none()), type_name::<T>());
        cell.book.send_modify(|book| book.seen = Revision::new(u64::MAX));
        cell
    }

    /// Sets the source of each field of the state.
    pub(super) fn with_sources(self, sources: Sources) -> Self {
        self.book.send_modify(|book| book.sources = sources);
        self
    }

    /// Sets the status of the file that keeps the state.
    #[cfg(feature = "snapshot")]
    pub(super) fn with_file(self, file: FileStatus) -> Self {
        Self { file, ..self }
    }

    /// Creates a cell with a state from a file. `error` says why the server gave no state.
    #[cfg(feature = "snapshot")]
    pub(super) fn from_disk(state: Versioned<T>, keep: usize, upstream: Arc<Upstream>, pattern: Pattern, error: Error) -> Self {
        let cell = Self::new(state, Bad::default(), keep, upstream, pattern);
        cell.book.send_modify(|book| {
            let now = now();
            match error.problems() {
                [] => book.from_disk = Some((now, Arc::new(error))),
                problems => book.rejected = Some((now, problems.into())),
            }
        });
        cell
    }

    /// Puts the cell into an `Arc`. From now on the cell is notified when a runtime takes over its
    /// upstream's task, or when the last runtime loses the task.
    pub(super) fn begin(self) -> Arc<Self>
    where
        T: Send + Sync + 'static,
    {
        let cell = Arc::new(self);
        let view: Weak<Self> = Arc::downgrade(&cell);
        cell.upstream.heed(view);
        cell.tell_health();
        cell
    }

    pub(super) fn state(&self) -> &ArcSwap<Versioned<T>> {
        &self.state
    }

    pub(super) fn load(&self) -> Guard<Arc<Versioned<T>>> {
        if some_task_waits() {
            self.upstream.runtimes().note_if_waiting();
        }
        self.state.load()
    }

    pub(super) fn book(&self) -> impl Deref<Target = Book<T>> + '_ {
        self.book.borrow()
    }

    /// Reports that a callback of the view panicked.
    pub(super) fn callback_panicked(&self) {
        self.telemetry.callback_panicked();
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    pub(super) fn status(&self) -> LiveStatus {
        self.upstream.runtimes().note();
        let book = self.book();
        if self.upstream.is_stranded() {
            let (since, last_good_revision) = (self.upstream.last_proof(), book.good());
            let snapshot_failure = self.file.failure();
            let bad_entries = book.bad.clone().map(|(_, bad)| bad.problems).unwrap_or_default();
            return LiveStatus::Degraded { since, cause: Cause::Ended, last_good_revision, bad_entries, snapshot_failure };
        }
        book.status().with_file(self.file.failure())
    }

    /// Waits for a state that is newer than the state with this number.
    pub(super) async fn after(&self, generation: u64) -> Result<(u64, Arc<Versioned<T>>)> {
        let mut book = self.book.subscribe();
        let is_it = |book: &Book<T>| book.generation > generation || book.ended.is_some() || self.wait(Revision::ZERO);
        let news = self.upstream.tells(book.wait_for(is_it)).await;
        let news = news.and_then(|news| news.ok()).filter(|book| book.generation > generation);
        news.map(|book| (book.generation, book.newest.clone())).ok_or_else(|| self.ended())
    }

    /// Waits until the view has processed all changes up to `revision`, and returns the newest
    /// state.
    pub(super) async fn reach(&self, revision: Revision) -> Result<Arc<Versioned<T>>> {
        let mut book = self.book.subscribe();
        if book.borrow().seen < revision {
            self.upstream.want(revision);
        }
        let is_it = |book: &Book<T>| book.seen >= revision || book.ended.is_some() || self.wait(revision);
        let news = self.upstream.answers(book.wait_for(is_it)).await;
        let Some(book) = news.and_then(|news| news.ok()).filter(|book| book.seen >= revision) else { return Err(self.ended()) };
        match &book.rejected {
            // A later rejection does not matter if the good state already includes this revision.
            Some((_, problems)) if book.good < revision => Err(Error::from_problems(problems.to_vec()).at(self.upstream.directory())),
            _ => Ok(book.newest.clone()),
        }
    }

    /// Registers that a waiter must be woken when this revision has been processed. Always returns
    /// false.
    fn wait(&self, revision: Revision) -> bool {
        self.wanted.fetch_min(revision.get(), Ordering::Relaxed);
        false
    }

    /// Returns true if a caller waits for the revision that was just written into the book.
    fn is_awaited(&self, book: &Book<T>) -> bool {
        let awaited = book.seen.get() >= self.wanted.load(Ordering::Relaxed);
        if awaited {
            self.wanted.store(NOBODY, Ordering::Relaxed);
        }
        awaited
    }

    fn ended(&self) -> Error {
        let message = "no runtime keeps this view any more, or a function of the schema panicked; make a new view";
        Error::new(ErrorKind::Unavailable, message).at(self.upstream.directory())
    }

    /// Stores a good state.
    pub(super) fn accept(&self, state: Versioned<T>, bad: Bad, sources: Sources, rewinds: bool) {
        let state = Arc::new(state);
        let revision = state.revision();
        self.state.store(state.clone());
        let mut known = Bad::default();
        let Bad { entries, problems } = bad.clone();
        self.book.send_if_modified(|book| {
            book.generation += 1;
            let before = std::mem::replace(&mut book.newest, state);
            book.older.push_back(before);
            while book.older.len() > book.keep {
                book.older.pop_front();
            }
            book.rejected = None;
            let since = book.bad.take().map(|(since, before)| {
                known = before;
                since
            });
            book.bad = (bad.entries > 0).then(|| (since.unwrap_or_else(now), bad));
            book.sources = sources;
            book.from_disk = None;
            book.good = revision;
            book.look(revision, rewinds);
            self.is_awaited(book)
        });
        self.telemetry.applied(revision);
        if !Arc::ptr_eq(&known.problems, &problems) {
            self.telemetry.bad_entries(revision, &known.problems, &problems, entries);
        }
        self.tell_health();
    }

    /// Records that the stored state at `revision` was rejected.
    pub(super) fn reject(&self, problems: Arc<[Problem]>, revision: Revision, rewinds: bool) {
        let count = problems.len();
        self.book.send_if_modified(|book| {
            let since = book.rejected.as_ref().map_or_else(now, |(since, _)| *since);
            book.rejected = Some((since, problems));
            book.from_disk = None;
            book.look(revision, rewinds);
            self.is_awaited(book)
        });
        self.telemetry.rejected(revision, count);
        self.tell_health();
    }

    /// Records that no key of the view changed up to `revision`.
    pub(super) fn progress(&self, revision: Revision) {
        let mut news = false;
        self.book.send_if_modified(|book| {
            news = revision > book.seen;
            if news {
                book.seen = revision;
                if book.rejected.is_none() {
                    book.good = revision;
                }
            }
            news && self.is_awaited(book)
        });
        if news {
            self.telemetry.progressed(self.book().good);
        }
    }

    pub(super) fn interrupted(&self, trouble: Option<&(Instant, Arc<Error>)>) {
        self.book.send_if_modified(|book| {
            let news = book.interrupted.is_some() || trouble.is_some();
            book.interrupted = trouble.cloned();
            news
        });
        self.tell_health();
    }

    /// Records the latest error while there is still no state from the server.
    pub(super) fn no_state(&self, error: &Arc<Error>) {
        self.book.send_if_modified(|book| match &mut book.from_disk {
            Some((_, known)) => {
                *known = error.clone();
                true
            }
            None => false,
        });
    }

    pub(super) fn end(&self) {
        self.book.send_modify(|book| book.ended = Some(now()));
        self.tell_health();
    }

    /// Reports to telemetry whether the view is degraded now.
    fn tell_health(&self) {
        self.telemetry.degraded(|| !self.book().is_live() || self.upstream.is_stranded());
    }
}

impl<T: Send + Sync> Audience for Cell<T> {
    fn task_moved(&self) {
        self.tell_health();
    }
}

impl<T> Book<T> {
    fn look(&mut self, revision: Revision, rewinds: bool) {
        if rewinds && revision < self.seen {
            self.rewound = Some(Rewound { at: now(), from: self.seen, to: revision });
        }
        self.seen = revision;
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn seen(&self) -> Revision {
        self.seen
    }

    pub(super) fn good(&self) -> Revision {
        self.good
    }

    pub(super) fn history(&self) -> Vec<Arc<Versioned<T>>> {
        self.older.iter().chain([&self.newest]).cloned().collect()
    }

    pub(super) fn newest(&self) -> &Arc<Versioned<T>> {
        &self.newest
    }

    pub(super) fn sources(&self) -> Sources {
        self.sources.clone()
    }

    pub(super) fn rewound(&self) -> Option<Rewound> {
        self.rewound
    }

    fn is_live(&self) -> bool {
        self.ended.is_none() && self.rejected.is_none() && self.from_disk.is_none() && self.interrupted.is_none()
    }

    pub(super) fn status(&self) -> LiveStatus {
        let ended = self.ended.map(|since| (since, Cause::Ended));
        let rejected = self.rejected.as_ref().map(|(since, problems)| (*since, Cause::Rejected(problems.clone())));
        let from_disk = self.from_disk.as_ref().map(|(since, error)| (*since, Cause::Snapshot(error.clone())));
        let interrupted = self.interrupted.as_ref().map(|(since, error)| (*since, Cause::Interrupted(error.clone())));
        let (bad_since, bad) = self.bad.clone().unzip();
        let bad_entries = bad.unwrap_or_default().problems;
        let wrong: Vec<_> = [ended, rejected, from_disk, interrupted].into_iter().flatten().collect();
        let since = wrong.iter().map(|(since, _)| *since).min();
        match (since, wrong.into_iter().next()) {
            (Some(since), Some((_, cause))) => {
                LiveStatus::Degraded { since, cause, last_good_revision: self.good, bad_entries, snapshot_failure: None }
            }
            _ => match bad_since {
                Some(since) => LiveStatus::Partial { since, problems: bad_entries, snapshot_failure: None },
                None => LiveStatus::Live,
            },
        }
    }
}
