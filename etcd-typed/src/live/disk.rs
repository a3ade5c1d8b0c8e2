//! `or_snapshot`: a view starts from its last good state on disk while no server is reachable. This
//! file decides when the snapshot is read and written; `disk/file.rs` defines its content.

mod file;
mod replace;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;
use tokio::sync::watch;

use self::file::{Kept, KeptTree, StateFile};
use self::writer::Writer;
use super::cell::Cell;
use super::status::FileStatus;
use super::upstream::Upstream;
use super::view::View;
use super::viewing::{Source, TypedFeed, Viewing};
use crate::changes::{Mirror, StepChanges};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;
use crate::runtime::Runtimes;
use crate::schema::NeededSecret;
use crate::store::Identity;
use crate::telemetry::{self, Pattern};

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
    /// - No server can be reached, or none answers in time (`Unavailable`, `Timeout`; a client
    ///   gives up after [`RetryPolicy::call_timeout`](crate::RetryPolicy::call_timeout)). A client
    ///   from [`connect_lazy`](crate::ClientBuilder::connect_lazy) gets this far without a server.
    ///   The view is then [`Degraded`](crate::LiveStatus::Degraded) with
    ///   [`Cause::Snapshot`](crate::Cause::Snapshot). Its [`staleness`](crate::Live::staleness)
    ///   counts from the start, since the age of the file's state is not known.
    /// - The stored state is not valid (`Invalid`, `Decode`). The cause is then
    ///   [`Rejected`](crate::Cause::Rejected).
    /// - Never after any other error. A refused login, a missing permission and an untrusted
    ///   certificate are returned as they are, and so is every error that only a change of the
    ///   program or its settings can fix.
    ///
    /// The view continues as soon as the server has a good state. Its revision is not lower than
    /// the file's, unless the server has lost history: then that state is shown too, and
    /// [`rewound`](crate::Live::rewound) reports it. Until then, keys that have expired since are
    /// still shown.
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
    ///   addresses can be compared: at least one endpoint of the client must be among those with
    ///   which the file was written. Two clusters at the same address (`etcd:2379`) can only be
    ///   told apart when the server answers;
    /// - if it does not contain a field of the schema. The file lists the keys that the writing
    ///   program looked for. A field that was added since, or that was a secret, has no value in
    ///   it, and its default would be a guess. The same applies to an alias, unless the field has a
    ///   value at a key that is read before the alias. The next state from a server is written with
    ///   all keys;
    /// - if the schema refuses its content, for example a value that does not parse as the field's
    ///   new type.
    ///   the alias. The next state from a server is written with all keys;
    /// - if the schema refuses what is in it, for example a value that another type cannot read.
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
    /// second, with the newest state. A program that ends sooner leaves the previous state. A
    /// failed write does not harm the view. It is repeated after 1 s to 30 s until the file holds
    /// the newest state. Meanwhile [`status`](crate::Live::status) shows since when it does not
    /// ([`LiveStatus::snapshot_failure`](crate::LiveStatus::snapshot_failure)), and each failed
    /// attempt logs a warning. Every 10 s the view checks that the file still exists, and writes it
    /// again if it was removed or damaged.
    ///
    /// # How the file is written
    ///
    /// A new file is written in the same directory (`.etcd-typed-….tmp`) and renamed, so that a
    /// crash leaves the old file or the new one. The first view that uses the directory removes
    /// such files of killed processes; on Windows they stay. The directory must exist. On Unix only
    /// its owner may read a new file; an existing file keeps its owner and permissions.
    ///
    /// A symbolic link is followed, even to a file that does not exist yet. If no file can be
    /// renamed to the path (a bind-mounted file, a read-only directory), the existing file is
    /// overwritten in place. A crash in the middle of that loses the state: the file has a
    /// checksum, and an incomplete file is refused.
    ///
    /// # Secrets
    ///
    /// The value of a `secret` field is never written. In a state from a file the field is `None`
    /// or has its default. So do not write such a state back with [`Dir::set`](crate::Dir::set),
    /// which would delete the secret; [`compare_and_swap`](crate::Dir::compare_and_swap) and
    /// [`update`](crate::Dir::update) do not.
    ///
    /// # Errors
    ///
    /// `Unsupported`, before any request, if the view needs a secret. This is the case for a
    /// required field, for the values of a map, and for a secret that may be the only stored key of
    /// a map entry or an optional struct, which would then be missing from the file. A required
    /// field that is not secret rules out the last case.
    ///
    /// `Unsupported` if a server has answered and the path is a directory, a FIFO, a socket or a
    /// device. Without an answer the server's error is returned, and its message names the path.
    pub fn or_snapshot(mut self, path: impl Into<PathBuf>) -> Self {
        self.snapshot = Some(path.into());
        self
    }
}

/// A view's file, until the view has started.
pub(super) struct Disk<T> {
    file: Arc<StateFile>,
    status: FileStatus,
    pattern: Pattern,
    runtimes: Weak<Runtimes>,
    /// A second instance of the view, for a start from the file. The upstream owns the first one.
    view: Box<dyn View<State = T>>,
}

impl<T: Send + Sync + 'static> Disk<T> {
    pub(super) fn new(path: PathBuf, source: &Source, view: &dyn View<State = T>) -> Result<Self> {
        let keeping = view.keeping().map_err(|secret| refusal(&secret).at(&source.directory))?;
        // The current directory may change while the view lives.
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

    /// Starts from the file, if an old state is better than this error.
    pub(super) async fn begin(mut self, error: Error, upstream: Arc<Upstream>, history: usize) -> Result<Arc<Cell<T>>> {
        if !is_worse_than_old(&error) {
            return Err(error);
        }
        let file = self.file.clone();
        let read = blocking(move || {
            file.tidy();
            file.read()
        });
        let read = match read.await {
            Some(read) => read.map_err(|unusable| unusable.to_string()),
            None => Err("the runtime ends".to_owned()),
        };
        let state = match read {
            Ok(mirror) => self.view.begin(&mirror).await.map_err(|error| error.to_string()),
            Err(reason) => Err(reason),
        };
        let state = match state {
            Ok(state) => state,
            Err(reason) => {
                let path = self.file.path.display();
                return Err(error.noting(&format!("and there is nothing to start from in {path}: {reason}")));
            }
        };
        telemetry::view_from_disk(self.pattern, state.revision(), &error);
        let keeper = self.keeper();
        let cell = Cell::begin(Cell::from_disk(state, history, upstream.clone(), self.pattern, error).with_file(self.status.clone()));
        upstream.attach(Box::new(TypedFeed::begun(self.view, self.pattern, &cell, keeper)));
        Ok(cell)
    }
}

/// Runs work on the disk. Returns `None` if the runtime ends meanwhile. Runs it directly outside of
/// a runtime, where a view may be awaited too, if another view of its directory exists.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await.ok(),
        Err(_) => Some(work()),
    }
}

/// The error for a view that needs a secret.
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

/// Whether the last good state is better than this error. The accepted kinds are listed, so that a
/// refusal is never among them.
fn is_worse_than_old(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Timeout => true,
        // The server answered, but the stored state is invalid.
        ErrorKind::Invalid | ErrorKind::Decode => !error.problems().is_empty(),
        _ => false,
    }
}

/// Passes the writer the state that a view's file must hold. It follows the mirror with its own
/// tree, which shares unchanged parts with the tree that is being written. So an event costs O(log
/// n), and a write costs the view nothing.
pub(super) struct SnapshotKeeper {
    file: Arc<StateFile>,
    status: FileStatus,
    pattern: Pattern,
    runtimes: Weak<Runtimes>,
    /// The cluster from which the mirror was read.
    origin: Arc<Identity>,
    /// The kept keys of the mirror, including rejected ones. Only good states are sent to the
    /// writer.
    tree: KeptTree,
    /// The next state to write. When this is dropped, the writer's task writes the last state and
    /// ends.
    newest: Option<watch::Sender<Kept>>,
}

impl SnapshotKeeper {
    /// The view processed the whole mirror.
    pub(super) fn begin(&mut self, mirror: &Mirror, is_good: bool) {
        let kept = mirror.tree().iter().filter(|(relative, _)| (self.file.keeping.keeps)(relative));
        self.tree = kept.map(|(relative, stored)| (relative.clone(), stored.clone())).collect();
        self.origin = Arc::new(self.file.store.identity());
        self.take(mirror.revision(), is_good);
    }

    /// The view processed the changed keys.
    pub(super) fn touch(&mut self, mirror: &Mirror, touch: &StepChanges, is_good: bool) {
        for relative in touch.changed.keys().filter(|relative| (self.file.keeping.keeps)(relative)) {
            match mirror.tree().get(relative) {
                Some(stored) => self.tree.insert_mut(relative.to_owned(), stored.clone()),
                None => {
                    self.tree.remove_mut(relative);
                }
            }
        }
        // The cluster can only have changed when the watch started again.
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
