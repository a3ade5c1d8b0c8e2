//! `Viewing`: the future of a live view. And `Feed`: the connection between the upstream's mirror
//! and one view's cell.

use std::fmt;
use std::panic::AssertUnwindSafe;
#[cfg(feature = "snapshot")]
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::Live;
use super::cell::Cell;
#[cfg(feature = "snapshot")]
use super::disk::{Disk, SnapshotKeeper};
#[cfg(feature = "snapshot")]
use super::status::FileStatus;
use super::upstream::{Trouble, Upstream, Upstreams};
use super::view::View;
use crate::changes::{Mirror, StepChanges};
use crate::error::{Error, ErrorKind, Problem, ProblemKind, Result};
use crate::key::Key;
use crate::retry::RetryPolicy;
use crate::revision::Revision;
use crate::schema::ChangedKeys;
use crate::store::{BoxFuture, Span, Store};
use crate::telemetry::Pattern;
use crate::version::Versioned;

/// How many states before the current one are kept by default.
const HISTORY: usize = 8;

/// A live view that starts when it is awaited. Created by `live()` of a directory, a map or an
/// entry.
///
/// Awaiting it returns the view when it has a good state that is no older than the call.
///
/// # Errors
///
/// The errors of a read of the same values. `Invalid` lists everything that is wrong with the
/// stored values; there is no view until they are corrected. `Unavailable`, `Timeout`,
/// `PermissionDenied` and others if they cannot be read. `Unsupported` outside of a tokio runtime.
///
/// # Cancel safety
///
/// Dropping the future leaves nothing behind.
#[must_use = "a live view begins when it is awaited"]
pub struct Viewing<T> {
    source: Source,
    view: Box<dyn View<State = T>>,
    history: usize,
    #[cfg(feature = "snapshot")]
    pub(super) snapshot: Option<PathBuf>,
}

/// The span to watch, and the parts to watch it with.
pub(crate) struct Source {
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) retry: RetryPolicy,
    pub(crate) span: Span,
    /// The directory that the view's keys are relative to.
    pub(crate) directory: Key,
    /// The label for the directory in metrics and events.
    pub(crate) pattern: Pattern,
}

impl<T: Send + Sync + 'static> Viewing<T> {
    pub(crate) fn new(source: Source, view: impl View<State = T>) -> Self {
        Self {
            source,
            view: Box::new(view),
            history: HISTORY,
            #[cfg(feature = "snapshot")]
            snapshot: None,
        }
    }

    /// Sets how many states before the current one are kept for [`Live::history`]. Default: 8.
    pub fn history(mut self, states: usize) -> Self {
        self.history = states;
        self
    }
}

impl<T: Send + Sync + 'static> IntoFuture for Viewing<T> {
    type Output = Result<Live<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            #[cfg(feature = "snapshot")]
            let disk = self.snapshot.map(|path| Disk::new(path, &self.source, &*self.view)).transpose()?;
            let Self { source, view, history, .. } = self;
            let Source { ref upstreams, ref directory, pattern, .. } = source;
            let upstream = upstreams.open(&source)?;
            let (tell, told) = oneshot::channel();
            #[cfg(feature = "snapshot")]
            let check = disk.as_ref().map(Disk::check_path);
            #[cfg(feature = "snapshot")]
            let not_a_file = match check {
                Some(check) => check.await.err(),
                None => None,
            };
            let begin = Begin {
                tell,
                upstream: Arc::downgrade(&upstream),
                history,
                #[cfg(feature = "snapshot")]
                file: disk.as_ref().map(Disk::status).unwrap_or_default(),
            };
            upstream.attach(Box::new(TypedFeed {
                view,
                is_torn: false,
                pattern,
                out: Out::Waiting(begin),
                #[cfg(feature = "snapshot")]
                keeper: disk.as_ref().filter(|_| not_a_file.is_none()).map(Disk::keeper),
            }));
            let told = upstream.answers(told).await.and_then(|told| told.ok());
            let cell = told.ok_or_else(|| {
                Error::new(ErrorKind::Unavailable, "no runtime keeps the view, or a function of the schema panicked").at(directory)
            })?;
            #[cfg(feature = "snapshot")]
            let cell = match (cell, disk) {
                (Err(error), Some(disk)) => disk.begin(error, upstream, history).await,
                (Ok(cell), _) => not_a_file.map_or(Ok(cell), Err),
                (Err(error), None) => Err(error),
            };
            cell.map(Live::new)
        })
    }
}

impl<T> fmt::Debug for Viewing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Viewing").field("directory", &self.source.directory).field("history", &self.history).finish_non_exhaustive()
    }
}

/// A view as the upstream's task sees it, independent of its type.
pub(super) trait Feed: Send {
    /// Whether the view has no owner any more.
    fn is_gone(&self) -> bool;

    /// Takes the first state.
    fn begin<'f>(&'f mut self, mirror: &'f Mirror) -> BoxFuture<'f, ()>;

    /// A step changed keys in the directory.
    fn touch<'f>(&'f mut self, mirror: &'f Mirror, touch: &'f StepChanges) -> BoxFuture<'f, ()>;

    /// No key in the directory changed up to this revision.
    fn progress(&mut self, revision: Revision);

    /// Sets whether the watch is interrupted.
    fn interrupted(&mut self, trouble: Option<&Trouble>);

    /// There is no first state, or none from the server.
    fn failed(&mut self, error: &Arc<Error>);
}

pub(super) struct TypedFeed<T> {
    view: Box<dyn View<State = T>>,
    /// Whether a panic stopped the view in the middle of a change. Its data may be inconsistent, so
    /// it starts again from the mirror.
    is_torn: bool,
    pattern: Pattern,
    out: Out<T>,
    #[cfg(feature = "snapshot")]
    keeper: Option<SnapshotKeeper>,
}

enum Out<T> {
    /// There was no good state yet.
    Waiting(Begin<T>),
    Begun(Weak<Cell<T>>),
    Gone,
}

/// The caller that waits for the first state, and the parts of the cell.
struct Begin<T> {
    tell: oneshot::Sender<Result<Arc<Cell<T>>>>,
    /// The waiting caller owns it.
    upstream: Weak<Upstream>,
    history: usize,
    #[cfg(feature = "snapshot")]
    file: FileStatus,
}

impl<T: Send + Sync + 'static> TypedFeed<T> {
    /// Creates the feed of a view that already has a state.
    #[cfg(feature = "snapshot")]
    pub(super) fn begun(view: Box<dyn View<State = T>>, pattern: Pattern, cell: &Arc<Cell<T>>, keeper: SnapshotKeeper) -> Self {
        Self { view, is_torn: false, pattern, out: Out::Begun(Arc::downgrade(cell)), keeper: Some(keeper) }
    }

    fn seen(&self) -> Revision {
        match &self.out {
            Out::Begun(cell) => cell.upgrade().map_or(Revision::ZERO, |cell| cell.book().seen()),
            Out::Waiting(_) | Out::Gone => Revision::ZERO,
        }
    }

    /// Computes the next candidate from a change, or from everything if no change is given. If a
    /// function of the caller's types panics, such as an `Ord`, only this candidate is lost: the
    /// task also feeds other views.
    async fn candidate(&mut self, mirror: &Mirror, changed: Option<&ChangedKeys>) -> Option<Result<Versioned<T>>> {
        let changed = changed.filter(|_| !self.is_torn);
        let view = &mut self.view;
        let made = async {
            match changed {
                Some(changed) => view.touch(mirror, changed).await,
                None => Some(view.begin(mirror).await),
            }
        };
        // If the function of the view panics, its data may be inconsistent. `is_torn` records that
        // they must not be used again.
        self.is_torn = true;
        let made = AssertUnwindSafe(made).catch_unwind().await;
        self.is_torn = made.is_err();
        made.unwrap_or_else(|_| {
            let key = mirror.directory().clone();
            // The panic's message may quote a secret.
            let reason = "a function of the schema's types panicked".to_owned();
            let problem = Problem { key, kind: ProblemKind::Rejected, reason, revision: Some(mirror.revision()) };
            Some(Err(Error::from_problems(vec![problem]).at(mirror.directory())))
        })
    }

    fn take(&mut self, candidate: Result<Versioned<T>>, revision: Revision, resynced: bool) {
        match std::mem::replace(&mut self.out, Out::Gone) {
            Out::Waiting(begin) => self.out = begin.finish(candidate, self.pattern),
            Out::Begun(cell) => {
                if let Some(cell) = cell.upgrade() {
                    match candidate {
                        Ok(state) => cell.accept(state, resynced),
                        Err(error) => cell.reject(problems(&error, revision), revision, resynced),
                    }
                }
                self.out = Out::Begun(cell);
            }
            Out::Gone => {}
        }
    }
}

impl<T: Send + Sync + 'static> Begin<T> {
    fn finish(self, candidate: Result<Versioned<T>>, pattern: Pattern) -> Out<T> {
        let Some(upstream) = self.upstream.upgrade() else { return Out::Gone };
        match candidate {
            Ok(state) => {
                let cell = Cell::new(state, self.history, upstream, pattern);
                #[cfg(feature = "snapshot")]
                let cell = cell.with_file(self.file);
                let cell = Cell::begin(cell);
                let begun = Out::Begun(Arc::downgrade(&cell));
                // If the caller no longer waits, this drops the cell.
                let _ = self.tell.send(Ok(cell));
                begun
            }
            Err(error) => {
                let _ = self.tell.send(Err(error));
                Out::Gone
            }
        }
    }
}

/// Returns the problems of a candidate, each with a revision. A missing key has none of its own, so
/// it gets the candidate's.
fn problems(error: &Error, revision: Revision) -> Arc<[Problem]> {
    let found = |problem: &Problem| Problem { revision: problem.revision.or(Some(revision)), ..problem.clone() };
    error.problems().iter().map(found).collect()
}

impl<T: Send + Sync + 'static> Feed for TypedFeed<T> {
    fn is_gone(&self) -> bool {
        match &self.out {
            Out::Waiting(begin) => begin.tell.is_closed(),
            Out::Begun(cell) => cell.strong_count() == 0,
            Out::Gone => true,
        }
    }

    fn begin<'f>(&'f mut self, mirror: &'f Mirror) -> BoxFuture<'f, ()> {
        Box::pin(async move {
            let Some(candidate) = self.candidate(mirror, None).await else { return };
            #[cfg(feature = "snapshot")]
            if let Some(keeper) = &mut self.keeper {
                keeper.begin(mirror, candidate.is_ok());
            }
            self.take(candidate, mirror.revision(), true);
        })
    }

    fn touch<'f>(&'f mut self, mirror: &'f Mirror, touch: &'f StepChanges) -> BoxFuture<'f, ()> {
        Box::pin(async move {
            match self.candidate(mirror, Some(&touch.changed)).await {
                Some(candidate) => {
                    #[cfg(feature = "snapshot")]
                    if let Some(keeper) = &mut self.keeper {
                        keeper.touch(mirror, touch, candidate.is_ok());
                    }
                    self.take(candidate, mirror.revision(), touch.resynced);
                }
                // No key of the view changed, but the revisions went back.
                None if touch.resynced && self.seen() > mirror.revision() => self.begin(mirror).await,
                None => self.progress(mirror.revision()),
            }
        })
    }

    fn progress(&mut self, revision: Revision) {
        if let Out::Begun(cell) = &self.out
            && let Some(cell) = cell.upgrade()
        {
            cell.progress(revision);
        }
    }

    fn interrupted(&mut self, trouble: Option<&Trouble>) {
        if let Out::Begun(cell) = &self.out
            && let Some(cell) = cell.upgrade()
        {
            cell.interrupted(trouble);
        }
    }

    fn failed(&mut self, error: &Arc<Error>) {
        match std::mem::replace(&mut self.out, Out::Gone) {
            Out::Waiting(begin) => {
                let _ = begin.tell.send(Err(error.again()));
            }
            Out::Begun(cell) => {
                if let Some(cell) = cell.upgrade() {
                    cell.no_state(error);
                }
                self.out = Out::Begun(cell);
            }
            Out::Gone => {}
        }
    }
}

/// Tells the view's owner that the view is no longer fed.
impl<T> Drop for TypedFeed<T> {
    fn drop(&mut self) {
        if let Out::Begun(cell) = &self.out
            && let Some(cell) = cell.upgrade()
        {
            cell.end();
        }
    }
}
