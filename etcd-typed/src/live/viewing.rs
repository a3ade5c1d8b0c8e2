//! `Viewing`: the future of a live view, and `TypedFeed`, which passes changes from the upstream's
//! mirror to the cell of one view.

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
use super::disk::{Disk, SnapshotKeeper, Started};
use super::map::LiveMap;
#[cfg(feature = "snapshot")]
use super::status::FileStatus;
use super::upstream::{Feed, Source, Trouble, Upstream};
use super::view::View;
use crate::changes::{Mirror, StepChanges};
use crate::error::{Error, ErrorKind, Problem, ProblemKind, Result};
use crate::revision::Revision;
use crate::schema::ChangedKeys;
use crate::store::BoxFuture;
use crate::telemetry::Pattern;
use crate::version::Versioned;

/// The default number of states before the current one that are kept.
const HISTORY: usize = 8;

/// A live view that starts when it is awaited. Created by `live()` of a directory, a map or an
/// entry.
///
/// Awaiting it returns the view as soon as the view has a valid state that is not older than the
/// call.
///
/// # Errors
///
/// The errors of a read of the same values. `Invalid` lists everything that is wrong with the
/// stored values; there is no view until they are corrected. `NotFound` if no key of a struct
/// exists, and some are required; with [`over`](Viewing::over) a base supplies them. `Unavailable`,
/// `Timeout`, `PermissionDenied` and others if the values cannot be read. `Unsupported` outside of
/// a tokio runtime.
///
/// # Cancel safety
///
/// Dropping the future cancels the start of the view, and nothing of the view remains.
#[must_use = "a live view begins when it is awaited"]
pub struct Viewing<T> {
    pub(super) source: Source,
    pub(super) view: Box<dyn View<State = T>>,
    /// The error of the base, which is reported when the view is awaited.
    pub(super) refused: Option<Error>,
    history: usize,
    #[cfg(feature = "snapshot")]
    snapshot: Option<PathBuf>,
}

impl<T: Send + Sync + 'static> Viewing<T> {
    pub(crate) fn new(source: Source, view: impl View<State = T>) -> Self {
        Self {
            source,
            view: Box::new(view),
            refused: None,
            history: HISTORY,
            #[cfg(feature = "snapshot")]
            snapshot: None,
        }
    }

    /// Sets the name of this view in metrics and events, instead of the name of its type or handle.
    ///
    /// Views of one directory share a watch. The watch has the name of the first view.
    pub fn named(mut self, name: &'static str) -> Self {
        self.source.pattern = name;
        self
    }

    /// Sets the number of states before the current one that are kept for [`Live::history`].
    /// Default: 8.
    pub fn history(mut self, states: usize) -> Self {
        self.history = states;
        self
    }
}

#[cfg(feature = "snapshot")]
impl<T: Send + Sync + 'static> Viewing<T> {
    /// Keeps the last good state in this file, and starts from it if no server answers when the
    /// view is awaited. So a program can start during an outage, with the last state that it knew.
    ///
    #[cfg_attr(feature = "derive", doc = "```")]
    #[cfg_attr(not(feature = "derive"), doc = "```text")]
    /// use etcd_typed::store::memory::MemoryStore;
    /// use etcd_typed::{Cause, Client, EtcdSchema, LiveStatus};
    ///
    /// #[derive(EtcdSchema)]
    /// struct Limits {
    ///     #[etcd(default = 100)]
    ///     rate_limit: u32,
    ///     #[etcd(secret)]
    ///     token: Option<String>,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// let path = std::env::temp_dir().join(format!("limits-{}.json", std::process::id()));
    /// let store = MemoryStore::new();
    /// let limits = Client::with_store(store.clone()).dir::<Limits>("/app/limits")?;
    /// limits.set(&Limits { rate_limit: 250, token: Some("hunter2".to_owned()) }).await?;
    ///
    /// let live = limits.live().or_snapshot(&path).await?;
    /// // The file is written a moment later. Then the program ends, and so does the server.
    /// # while !path.exists() { tokio::time::sleep(std::time::Duration::from_millis(1)).await; }
    /// drop(live);
    /// store.faults().stop();
    ///
    /// let mut live = limits.live().or_snapshot(&path).await?;
    /// assert_eq!(live.get().rate_limit, 250);
    /// assert_eq!(live.get().token, None); // Secrets are never written to the file.
    /// assert!(matches!(live.status(), LiveStatus::Degraded { cause: Cause::Snapshot(_), .. }));
    ///
    /// // When the server is back, the view continues by itself.
    /// store.faults().start();
    /// assert!(live.changed().await?.token.is_some());
    /// # std::fs::remove_file(&path).expect("it is there");
    /// # Ok(()) }
    /// ```
    ///
    /// # When the file is used
    ///
    /// - No server can be reached, or none answers in time (`Unavailable`, `Timeout`). If every
    ///   endpoint refuses the connection, the view starts from the file at once; otherwise after
    ///   2 s without any answer. These limits do not apply if the file cannot be used: then the
    ///   view waits for the server as without a file, up to
    ///   [`RetryPolicy::call_timeout`](crate::RetryPolicy::call_timeout). A client from [`connect_lazy`](crate::ClientBuilder::connect_lazy) gets this far without a server.
    ///   The view is then [`Degraded`](crate::LiveStatus::Degraded) with
    ///   [`Cause::Snapshot`](crate::Cause::Snapshot). Its [`staleness`](crate::Live::staleness)
    ///   counts from the start, since the age of the file's state is not known.
    /// - The stored state is invalid or absent (`Invalid`, `Decode`, `NotFound`). The cause is then
    ///   [`Rejected`](crate::Cause::Rejected).
    /// - Never after any other error. A refused login, a missing permission and an untrusted
    ///   certificate are returned as they are, and so is every error that only a change of the
    ///   program or its settings can fix.
    ///
    /// The view continues as soon as the server has a valid state. Its revision is not lower than
    /// the file's, unless the server has lost history: then the view shows that older state too,
    /// and [`rewound`](crate::Live::rewound) reports it. Until the view continues, it still shows
    /// keys that have expired in the meantime.
    ///
    /// # When the file is refused
    ///
    /// If the file is refused, the program behaves as if the file did not exist: the error of the
    /// server is returned, and its message says why the file was refused. A file is refused
    ///
    /// - if it is missing, damaged, incomplete, or of another version of the format;
    /// - if it belongs to another view or directory;
    /// - if it belongs to another cluster. The file contains the ID of its cluster. Once a server
    ///   has answered this client, the IDs must be equal. Before the first answer only the
    ///   addresses can be compared: at least one endpoint of the client must be an endpoint with
    ///   which the file was written. Two clusters at the same address (`etcd:2379`) can be
    ///   distinguished only after the server has answered;
    /// - if it does not contain a field of the schema. The file lists the keys that the writing
    ///   program looked for. A field that was added since then, or that was a secret, has no value
    ///   in the file, and the server may have a value that differs from the field's default. The
    ///   same applies to an alias, unless the field has a value at a key that is read before the
    ///   alias. The next state from a server is written with all keys;
    /// - if the schema refuses its content, for example a value that does not parse as the field's
    ///   new type.
    ///
    /// Removed fields, changed defaults, and changed types that parse the same text do not matter.
    ///
    /// # What the file contains, and when it is written
    ///
    /// The file contains the keys of the view and their stored values as JSON, with their
    /// directory, revision and cluster. Each view needs its own file; processes with the same view
    /// may share one.
    ///
    /// It is written after the first good state and after each newer one, at most about once a
    /// second, with the newest state. If the program ends before the write, the file holds the
    /// previous state. A failed write does not harm the view. It is repeated after 1 s to 30 s
    /// until the file holds the newest state. Meanwhile [`status`](crate::Live::status) shows since
    /// when the file does not hold it
    /// ([`LiveStatus::snapshot_failure`](crate::LiveStatus::snapshot_failure)), and each failed
    /// attempt logs a warning. Every 10 s the view checks that the file still exists, and writes it
    /// again if it was removed or damaged.
    ///
    /// # How the file is written
    ///
    /// The view writes a new file in the same directory (`.etcd-typed-….tmp`) and renames it, so
    /// that a crash leaves the old file or the new file. The first view that uses the directory
    /// removes such files of killed processes; on Windows they remain. The directory must exist. On
    /// Unix only its owner may read a new file; an existing file keeps its owner and permissions.
    ///
    /// A symbolic link is followed, even to a file that does not exist yet. If no file can be
    /// renamed to the path (a bind-mounted file, a read-only directory), the existing file is
    /// overwritten in place. A crash during this write loses the state: the file has a checksum,
    /// and an incomplete file is refused.
    ///
    /// # Secrets
    ///
    /// The value of a `secret` field is never written. In a state from a file the field is `None`
    /// or has its default. So do not write such a state back with [`Dir::set`](crate::Dir::set),
    /// which would delete the secret; [`compare_and_swap`](crate::Dir::compare_and_swap) and
    /// [`update`](crate::Dir::update) do not delete it.
    ///
    /// # Errors
    ///
    /// `Unsupported`, before any request, if the view needs a secret. This is the case for a
    /// required field, for the values of a map, and for a secret that may be the only stored key of
    /// a map entry or an optional struct, which would then be missing from the file. A required
    /// field that is not secret rules out the last case.
    ///
    /// `Unsupported` if a server has answered and the path is a directory, a FIFO, a socket or a
    /// device. If no server answers, the server's error is returned, and its message contains the
    /// path.
    pub fn or_snapshot(mut self, path: impl Into<PathBuf>) -> Self {
        self.snapshot = Some(path.into());
        self
    }
}

impl<K: Ord + 'static, V: 'static> Viewing<LiveMap<K, V>> {
    /// Judges each entry of the map separately, instead of the map as a whole.
    ///
    /// Without `per_entry`, a single entry that does not decode or is not valid keeps the whole
    /// view at its last good state, and prevents the start of a view. Use `per_entry` for a map
    /// whose entries have different writers, such as a service registry.
    ///
    /// - A bad entry keeps its last good value. An entry that was never good since the view began
    ///   is left out. If the key is deleted, the entry disappears.
    /// - All other entries follow the store.
    /// - [`Live::status`] is [`LiveStatus::Partial`](crate::LiveStatus::Partial) while there are
    ///   bad entries, and lists each of them with its reason. An event (`bad entries`, level
    ///   `warn`) reports each entry once, when it becomes bad. [`check`](crate::EntryMap::check)
    ///   lists them too.
    /// - [`Live::wait_for_revision`] returns as soon as the view has seen the revision, even if the
    ///   entry that was written is bad.
    /// - With `or_snapshot`, the file contains the last good value of each entry. A view of the
    ///   whole map refuses this file, and a view per entry refuses the file of a view of the whole
    ///   map.
    ///
    /// While the view cannot follow the server, an entry may be deleted and created again with a bad
    /// value. If the server's history is gone when the view continues, the view does not see the
    /// deletion, and the entry keeps its last good value.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// use etcd_typed::{Client, LiveStatus};
    ///
    /// let client = Client::connect("memory:").await?;
    /// let ports = client.entries::<String, u16>("/services")?;
    /// let live = ports.live().per_entry().await?;
    ///
    /// // Another program writes a value of a newer form.
    /// client.entry::<String>("/services/new")?.set(&"tcp:8080".to_owned()).await?;
    /// let written = ports.entry("old")?.set(&80).await?;
    /// assert_eq!(live.wait_for_revision(written).await?.get("old"), Some(&80));
    /// assert!(matches!(live.status(), LiveStatus::Partial { .. }));
    /// assert_eq!(live.status().problems()[0].key.as_str(), "/services/new");
    /// # Ok(()) }
    /// ```
    pub fn per_entry(mut self) -> Self {
        self.view.per_entry();
        self
    }
}

impl<T: Send + Sync + 'static> IntoFuture for Viewing<T> {
    type Output = Result<Live<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            if let Some(refused) = self.refused {
                return Err(refused);
            }
            #[cfg(feature = "snapshot")]
            let mut disk = self.snapshot.map(|path| Disk::new(path, &self.source, &*self.view)).transpose()?;
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
            let told = upstream.answers(told);
            #[cfg(feature = "snapshot")]
            let told = {
                let mut told = std::pin::pin!(told);
                match disk {
                    None => told.await,
                    Some(ref mut disk) => tokio::select! {
                        biased;
                        told = &mut told => told,
                        (error, loaded) = disk.early(&source) => {
                            return Ok(Live::new(begun_from(disk.start(loaded, error, upstream.clone(), history), &upstream, pattern)));
                        }
                    },
                }
            };
            #[cfg(not(feature = "snapshot"))]
            let told = told.await;
            let told = told.and_then(|told| told.ok());
            let cell = told.ok_or_else(|| {
                Error::new(ErrorKind::Unavailable, "no runtime keeps the view, or a function of the schema panicked").at(directory)
            })?;
            #[cfg(feature = "snapshot")]
            let cell = match (cell, disk) {
                (Err(error), Some(disk)) => {
                    disk.begin(error, upstream.clone(), history).await.map(|started| begun_from(started, &upstream, pattern))
                }
                (Ok(cell), _) => not_a_file.map_or(Ok(cell), Err),
                (Err(error), None) => Err(error),
            };
            cell.map(Live::new)
        })
    }
}

/// Attaches the feed of a view that started from its file.
#[cfg(feature = "snapshot")]
fn begun_from<T: Send + Sync + 'static>((cell, view, keeper): Started<T>, upstream: &Arc<Upstream>, pattern: Pattern) -> Arc<Cell<T>> {
    upstream.attach(Box::new(TypedFeed::begun(view, pattern, &cell, keeper)));
    cell
}

impl<T> fmt::Debug for Viewing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Viewing").field("directory", &self.source.directory).field("history", &self.history).finish_non_exhaustive()
    }
}

pub(super) struct TypedFeed<T> {
    view: Box<dyn View<State = T>>,
    /// True if a panic stopped the view in the middle of a change. The view's data may then be
    /// inconsistent, so the view starts again from the mirror.
    is_torn: bool,
    pattern: Pattern,
    out: Out<T>,
    #[cfg(feature = "snapshot")]
    keeper: Option<SnapshotKeeper>,
}

enum Out<T> {
    /// The view has had no good state yet.
    Waiting(Begin<T>),
    Begun(Weak<Cell<T>>),
    Gone,
}

/// The caller that waits for the first state, and the values from which the view's cell is made.
struct Begin<T> {
    tell: oneshot::Sender<Result<Arc<Cell<T>>>>,
    /// The upstream, which the waiting caller owns.
    upstream: Weak<Upstream>,
    history: usize,
    #[cfg(feature = "snapshot")]
    file: FileStatus,
}

impl<T: Send + Sync + 'static> TypedFeed<T> {
    /// Creates the feed of a view that already has a state.
    #[cfg(feature = "snapshot")]
    fn begun(view: Box<dyn View<State = T>>, pattern: Pattern, cell: &Arc<Cell<T>>, keeper: SnapshotKeeper) -> Self {
        Self { view, is_torn: false, pattern, out: Out::Begun(Arc::downgrade(cell)), keeper: Some(keeper) }
    }

    fn seen(&self) -> Revision {
        match &self.out {
            Out::Begun(cell) => cell.upgrade().map_or(Revision::ZERO, |cell| cell.book().seen()),
            Out::Waiting(_) | Out::Gone => Revision::ZERO,
        }
    }

    /// Computes the next candidate from a change, or from the whole mirror if no change is given.
    /// If a function of the caller's types panics, such as an `Ord`, only this candidate is lost,
    /// since the task also feeds other views.
    async fn candidate(&mut self, mirror: &Mirror, changed: Option<&ChangedKeys>) -> Option<Result<Versioned<T>>> {
        let changed = changed.filter(|_| !self.is_torn);
        let view = &mut self.view;
        let made = async {
            match changed {
                Some(changed) => view.touch(mirror, changed).await,
                None => Some(view.begin(mirror).await),
            }
        };
        // If the view panics, its data may be inconsistent. `is_torn` records that the data must
        // not be used again.
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
            Out::Waiting(begin) => self.out = begin.finish(candidate, &*self.view, self.pattern),
            Out::Begun(cell) => {
                if let Some(cell) = cell.upgrade() {
                    match candidate {
                        Ok(state) => cell.accept(state, self.view.bad(), self.view.sources(), resynced),
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
    fn finish(self, candidate: Result<Versioned<T>>, view: &dyn View<State = T>, pattern: Pattern) -> Out<T> {
        let Some(upstream) = self.upstream.upgrade() else { return Out::Gone };
        match candidate {
            Ok(state) => {
                let cell = Cell::new(state, view.bad(), self.history, upstream, pattern).with_sources(view.sources());
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

/// Returns the problems of a candidate, each with a revision. The problem of a missing key has no
/// revision, so it gets the revision of the candidate.
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
                keeper.begin(mirror, candidate.is_ok(), |relative| self.view.is_bad(relative));
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
                        keeper.touch(mirror, touch, candidate.is_ok(), |relative| self.view.is_bad(relative));
                    }
                    self.take(candidate, mirror.revision(), touch.resynced);
                }
                // No key of the view changed, but the server has returned with an older history.
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

/// Marks the view as ended when its feed is dropped.
impl<T> Drop for TypedFeed<T> {
    fn drop(&mut self) {
        if let Out::Begun(cell) = &self.out
            && let Some(cell) = cell.upgrade()
        {
            cell.end();
        }
    }
}
