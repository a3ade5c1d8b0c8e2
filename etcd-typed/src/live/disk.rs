//! `or_snapshot`: a view starts from its last good state on disk if no server can be reached. This
//! file decides when the snapshot is read and written; `disk/file.rs` defines its content.

mod file;
mod replace;
mod writer;

use std::collections::BTreeSet;
use std::future::pending;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;

use self::file::{Kept, KeptTree, StateFile};
use self::writer::Writer;
use super::cell::Cell;
use super::status::FileStatus;
use super::upstream::{Source, Upstream};
use super::view::View;
use crate::changes::{Mirror, StepChanges};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;
use crate::runtime::{self, Runtimes};
use crate::schema::NeededSecret;
use crate::store::{BoxFuture, Identity, Range};
use crate::telemetry::{self, Pattern};
use crate::version::Versioned;

/// The snapshot file of a view that has not started yet.
pub(super) struct Disk<T> {
    file: Arc<StateFile>,
    status: FileStatus,
    pattern: Pattern,
    runtimes: Weak<Runtimes>,
    /// A second instance of the view, which is used if the view starts from the file. The upstream
    /// owns the first instance.
    view: Box<dyn View<State = T>>,
}

impl<T: Send + Sync + 'static> Disk<T> {
    pub(super) fn new(path: PathBuf, source: &Source, view: &dyn View<State = T>) -> Result<Self> {
        let keeping = view.keeping().map_err(|secret| refusal(&secret).at(&source.directory))?;
        // The process may change its current directory while the view is in use.
        let path = std::path::absolute(&path).unwrap_or(path);
        let (store, directory) = (source.store.clone(), source.directory.clone());
        let file = Arc::new(StateFile { path, store, directory, keeping });
        let runtimes = Arc::downgrade(source.upstreams.runtimes());
        Ok(Self { file, status: FileStatus::default(), pattern: source.pattern, runtimes, view: view.anew() })
    }

    /// Returns the keeper that writes the file.
    pub(super) fn keeper(&self) -> SnapshotKeeper {
        SnapshotKeeper {
            file: self.file.clone(),
            status: self.status.clone(),
            pattern: self.pattern,
            runtimes: self.runtimes.clone(),
            origin: Arc::default(),
            tree: KeptTree::new_sync(),
            skipped: BTreeSet::new(),
            newest: None,
        }
    }

    /// Returns the status of the file.
    pub(super) fn status(&self) -> FileStatus {
        self.status.clone()
    }

    /// Refuses a path that is not a file.
    pub(super) fn check_path(&self) -> impl Future<Output = Result<()>> + use<T> {
        let file = self.file.clone();
        async move {
            let checked = file.clone();
            let Some(Err(unusable)) = blocking(move || checked.check_kind()).await else { return Ok(()) };
            let message = format!("`or_snapshot` keeps its state in a file, and {} cannot be one: {unusable}", file.path.display());
            Err(Error::new(ErrorKind::Unsupported, message).at(&file.directory))
        }
    }

    /// Starts the view from the file, if an old state is more useful to the caller than this error.
    pub(super) async fn begin(mut self, error: Error, upstream: Arc<Upstream>, history: usize) -> Result<Started<T>> {
        if !is_worse_than_old(&error) {
            return Err(error);
        }
        match self.load().await {
            Ok(loaded) => Ok(self.start(loaded, error, upstream, history)),
            Err(reason) => {
                let path = self.file.path.display();
                Err(error.noting(&format!("and there is nothing to start from in {path}: {reason}")))
            }
        }
    }

    /// Waits until it is clear that no server will answer soon, then loads the file. Never returns
    /// if a server answers, if it is not clear that no server can be reached, or if the file cannot
    /// be used.
    pub(super) async fn early(&mut self, source: &Source) -> (Error, Loaded<T>) {
        let error = unanswered(source).await;
        match self.load().await {
            Ok(loaded) => (error, loaded),
            Err(_) => pending().await,
        }
    }

    /// Reads the state from the file.
    async fn load(&mut self) -> Result<Loaded<T>, String> {
        let file = self.file.clone();
        let read = blocking(move || {
            file.tidy();
            file.read()
        });
        let read = match read.await {
            Some(read) => read.map_err(|unusable| unusable.to_string()),
            None => Err("the runtime ends".to_owned()),
        };
        let mirror = read?;
        let mut keeper = self.keeper();
        keeper.restore(&mirror);
        let mut view = self.view.anew();
        let state = view.begin(&mirror).await.map_err(|error| error.to_string())?;
        Ok(Loaded { state, view, keeper })
    }

    /// Starts the view with the state from the file. `error` says why the server gave no state.
    pub(super) fn start(&self, loaded: Loaded<T>, error: Error, upstream: Arc<Upstream>, history: usize) -> Started<T> {
        let Loaded { state, view, keeper } = loaded;
        telemetry::view_from_disk(self.pattern, state.revision(), &error);
        let cell = Cell::from_disk(state, history, upstream, self.pattern, error).with_sources(view.sources());
        let cell = Cell::begin(cell.with_file(self.status.clone()));
        (cell, view, keeper)
    }
}

/// A view's cell, and the parts of the feed that later updates the cell.
pub(super) type Started<T> = (Arc<Cell<T>>, Box<dyn View<State = T>>, SnapshotKeeper);

/// The contents of a file: the state, its view, and the keeper that continues to update the file.
pub(super) struct Loaded<T> {
    state: Versioned<T>,
    view: Box<dyn View<State = T>>,
    keeper: SnapshotKeeper,
}

/// The time that a server has to answer before a view starts from its file. A view may be large, so
/// its own read may take longer. So when half of the time has passed, a small read is sent, and the
/// server has the other half to answer it.
const LIMIT: Duration = Duration::from_secs(2);

/// The time between two checks of whether the store reports all its endpoints as unreachable.
const CHECK: Duration = Duration::from_millis(10);

/// Waits until no server can be reached, or no server has answered within [`LIMIT`]. Never returns
/// if a server answers, or if it refuses for a reason that an old state must not hide.
async fn unanswered(source: &Source) -> Error {
    if !runtime::is_here() {
        return pending().await;
    }
    let began = runtime::now();
    let refused = || source.store.unreachable_since(began);
    while runtime::elapsed(began) < LIMIT / 2 {
        if let Some(error) = refused().filter(is_outage) {
            return error;
        }
        sleep(CHECK).await;
    }
    // A store that ignores the limit of a read would send the whole directory, so it is asked for
    // its status.
    let mut answer: BoxFuture<'_, Result<()>> = if source.store.capabilities().past_revisions {
        let small = Range { limit: Some(1), keys_only: true, ..Range::of(source.span.clone()) };
        Box::pin(async { source.store.range(small).await.map(drop) })
    } else {
        Box::pin(async { source.store.status().await.map(drop) })
    };
    while runtime::elapsed(began) < LIMIT {
        tokio::select! {
            answer = &mut answer => match answer {
                Err(error) if is_outage(&error) => return error,
                _ => return pending().await,
            },
            () = sleep(CHECK) => {}
        }
        if let Some(error) = refused().filter(is_outage) {
            return error;
        }
    }
    match refused() {
        Some(error) if !is_outage(&error) => pending().await,
        Some(error) => error,
        None => Error::new(ErrorKind::Timeout, format!("no server answered within {LIMIT:?}")).at(&source.directory),
    }
}

fn is_outage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
}

/// Runs work that blocks on the disk. Returns `None` if the runtime ends before the work. Outside
/// of a runtime the work runs on this thread. A view may be awaited there if another view of its
/// directory exists.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await.ok(),
        Err(_) => Some(work()),
    }
}

/// Returns the error for a view that cannot start without a secret.
fn refusal(secret: &NeededSecret) -> Error {
    let NeededSecret { place, tells_existence } = secret;
    let reason = if *tells_existence {
        format!(
            "an entry or optional struct of this view may hold no other key than `{place}`, and would then be missing: add a required field \
             that is no secret"
        )
    } else {
        format!("this view cannot be without `{place}`: make that an `Option`, give it a default,")
    };
    Error::new(ErrorKind::Unsupported, format!("`or_snapshot` writes no secret to the disk, and {reason} or do without the snapshot"))
}

/// Whether the last good state is more useful to the caller than this error. The accepted kinds are
/// listed one by one, so that a refusal by the server is never among them.
fn is_worse_than_old(error: &Error) -> bool {
    match error.kind() {
        _ if is_outage(error) => true,
        // The server answered, but the stored state is invalid or absent.
        ErrorKind::Invalid | ErrorKind::Decode | ErrorKind::NotFound => !error.problems().is_empty(),
        _ => false,
    }
}

/// Passes the states of a view to the writer of its file. The keeper applies each change of the
/// mirror to its own tree, which shares unchanged parts with the tree that is being written. So an
/// event costs O(log n), and the view never waits for a write.
pub(super) struct SnapshotKeeper {
    file: Arc<StateFile>,
    status: FileStatus,
    pattern: Pattern,
    runtimes: Weak<Runtimes>,
    /// The cluster from which the mirror was read.
    origin: Arc<Identity>,
    /// The keys of the mirror that may be written to the file, including those of rejected states.
    /// Only good states are sent to the writer. In a view per entry, a bad entry has the keys of
    /// its last good value here.
    tree: KeptTree,
    /// The keys of bad entries whose changes in the mirror were not applied to `tree`.
    skipped: BTreeSet<String>,
    /// The next state to write. When this is dropped, the writer's task writes the last state and
    /// ends.
    newest: Option<watch::Sender<Kept>>,
}

impl SnapshotKeeper {
    /// Starts with the state that the view read from the file.
    fn restore(&mut self, mirror: &Mirror) {
        self.tree = mirror.tree().iter().map(|(relative, stored)| (relative.clone(), stored.clone())).collect();
    }

    /// Called after the view has processed the whole mirror. `is_bad` returns whether a key belongs
    /// to a bad entry, which keeps its last good value.
    pub(super) fn begin(&mut self, mirror: &Mirror, is_good: bool, is_bad: impl Fn(&str) -> bool) {
        let kept = mirror.tree().iter().filter(|(relative, _)| (self.file.keeping.keeps)(relative));
        let (skipped, kept): (Vec<_>, Vec<_>) = kept.partition(|(relative, _)| is_bad(relative));
        let held = self.tree.iter().filter(|(relative, _)| is_bad(relative));
        self.tree = held.chain(kept).map(|(relative, stored)| (relative.clone(), stored.clone())).collect();
        self.skipped = skipped.into_iter().map(|(relative, _)| relative.clone()).collect();
        self.origin = Arc::new(self.file.store.identity());
        self.take(mirror.revision(), is_good);
    }

    /// Called after the view has processed the changed keys. `is_bad` is the same as in
    /// [`begin`](Self::begin).
    pub(super) fn touch(&mut self, mirror: &Mirror, touch: &StepChanges, is_good: bool, is_bad: impl Fn(&str) -> bool) {
        // Keys that were skipped earlier are checked again, since their entries may be good again,
        // or deleted.
        let before = std::mem::take(&mut self.skipped);
        let changed = touch.changed.keys().filter(|relative| (self.file.keeping.keeps)(relative));
        for relative in before.iter().map(String::as_str).chain(changed) {
            if is_bad(relative) {
                self.skipped.insert(relative.to_owned());
                continue;
            }
            match mirror.tree().get(relative) {
                Some(stored) => self.tree.insert_mut(relative.to_owned(), stored.clone()),
                None => {
                    self.tree.remove_mut(relative);
                }
            }
        }
        // The cluster can change only when the watch starts again.
        if touch.resynced {
            self.origin = Arc::new(self.file.store.identity());
        }
        self.take(mirror.revision(), is_good);
    }

    fn take(&mut self, revision: Revision, is_good: bool) {
        if !is_good {
            return;
        }
        let kept = Kept { revision, tree: self.tree.clone(), origin: self.origin.clone() };
        if let Some(newest) = &self.newest {
            newest.send_replace(kept);
            return;
        }
        let (sender, mut receiver) = watch::channel(kept);
        receiver.mark_changed();
        if let Some(runtimes) = self.runtimes.upgrade() {
            runtimes.spawn(Writer::new(self.file.clone(), self.status.clone(), self.pattern, receiver).run());
            self.newest = Some(sender);
        }
    }
}
