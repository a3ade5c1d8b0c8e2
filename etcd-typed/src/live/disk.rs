//! `or_snapshot`: a view starts from its last good state on disk while no server is there. When that is, and when the file is written, is decided
//! here; what is in it is `disk/file.rs`.

mod file;

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use self::file::{Kept, KeptTree, StateFile};
use super::cell::Cell;
use super::upstream::Upstream;
use super::view::View;
use super::viewing::{Source, TypedFeed, Viewing};
use crate::changes::Mirror;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;
use crate::runtime::{Runtimes, sleep};
use crate::schema::Touched;
use crate::telemetry::{self, Pattern};

/// The time between two writes of a file.
const BETWEEN_WRITES: Duration = Duration::from_secs(1);

impl<T: Send + Sync + 'static> Viewing<T> {
    /// Keeps the last good state in this file, and starts from it if there is no server when the view is awaited: a program comes up during an outage with what it
    /// knew last.
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
    /// // … and a moment later the file is there. The program ends, and so does the server.
    /// # while !path.exists() { tokio::time::sleep(std::time::Duration::from_millis(1)).await; }
    /// drop(live);
    /// store.faults().stop();
    ///
    /// let mut live = limits.live().or_snapshot(&path).await?;
    /// assert_eq!(live.get().rate_limit, 250);
    /// assert_eq!(live.get().token, None); // A secret never gets there.
    /// assert!(matches!(live.status(), LiveStatus::Degraded { cause: Cause::Snapshot(_), .. }));
    ///
    /// // The server is there again: the view moves on by itself.
    /// store.faults().start();
    /// assert!(live.changed().await?.token.is_some());
    /// # std::fs::remove_file(&path).expect("it is there");
    /// # Ok(()) }
    /// ```
    ///
    /// # When the file is used
    ///
    /// - No server can be reached, or none answers in time (`Unavailable`, `Timeout`; a client gives up after
    ///   [`RetryPolicy::call_timeout`](crate::RetryPolicy::call_timeout)). A client from [`connect_lazy`](crate::ClientBuilder::connect_lazy) gets as far as
    ///   this without a server. The view is [`Degraded`](crate::LiveStatus::Degraded) with [`Cause::Snapshot`](crate::Cause::Snapshot), and its
    ///   [`staleness`](crate::Live::staleness) counts from the start: how old the state was is not known.
    /// - What is stored is not valid (`Invalid`, `Decode`). The cause then is [`Rejected`](crate::Cause::Rejected).
    /// - Never after any other error. Above all a refused login, a missing permission or an untrusted certificate is told as it is, and so is all
    ///   that only a change of the program or of its settings mends.
    ///
    /// It moves on as soon as there is a good state of the server's. That is of no earlier revision than the file's, unless the server has lost
    /// history: then it is shown too, and [`rewound`](crate::Live::rewound) says so. Keys that expired meanwhile are shown until then.
    ///
    /// A file that is missing, damaged, of another format, of another view or directory, or of a schema that wants more than is in it, is as if there
    /// were none: the error of the server is given, and says why the file was of no use.
    ///
    /// # What is in it, and when it is written
    ///
    /// The keys of the view and their values as they are stored, as JSON, and the directory and the revision that they are of. Each view has a file of
    /// its own; processes with the same view may share one. It is written after the first good state and after each newer one, but not more often than
    /// once in a second or so, and then with the newest. A program that ends sooner leaves the state before that. It is replaced at once as a whole (a
    /// crash leaves the old one or the new one, and maybe a file `.etcd-typed-….tmp` beside it), and on Unix nobody but its owner may read it. Its directory must be
    /// there. A write that fails is told by a warning and does no harm to the view.
    ///
    /// # Secrets
    ///
    /// The value of a `secret` field is never written. The field is none in a state from a file, or its default. So do not write such a state back
    /// with [`Dir::set`](crate::Dir::set), which would delete it; [`compare_and_swap`](crate::Dir::compare_and_swap) and [`update`](crate::Dir::update) do not.
    ///
    /// # Errors
    ///
    /// `Unsupported`, before anything is asked, where the view cannot be without a secret: a required field, or the values of a map.
    pub fn or_snapshot(mut self, path: impl Into<PathBuf>) -> Self {
        self.snapshot = Some(path.into());
        self
    }
}

/// A view's file, until the view has begun.
pub(super) struct Disk<T> {
    file: Arc<StateFile>,
    pattern: Pattern,
    runtimes: Weak<Runtimes>,
    /// For a start from the file; the first one is with the upstream.
    view: Box<dyn View<State = T>>,
}

impl<T: Send + Sync + 'static> Disk<T> {
    pub(super) fn new(path: PathBuf, source: &Source, view: &dyn View<State = T>) -> Result<Self> {
        let keeping = view.keeping().map_err(|place| {
            let message = format!(
                "`or_snapshot` writes no secret to the disk, and this view cannot be without `{place}`: make that an `Option`, give it a default, \
                 or do without the snapshot"
            );
            Error::new(ErrorKind::Unsupported, message).at(&source.directory)
        })?;
        // What a relative path is relative to may change while the view lives.
        let path = std::path::absolute(&path).unwrap_or(path);
        let (store, directory) = (source.store.capabilities().name, source.directory.clone());
        let file = Arc::new(StateFile { path, store, directory, keeping });
        let runtimes = Arc::downgrade(source.upstreams.runtimes());
        Ok(Self { file, pattern: source.pattern, runtimes, view: view.anew() })
    }

    /// What writes the file.
    pub(super) fn keeper(&self) -> Keeper {
        Keeper { file: self.file.clone(), pattern: self.pattern, runtimes: self.runtimes.clone(), tree: KeptTree::new_sync(), newest: None }
    }

    /// Starts from the file, if that is better than this error.
    pub(super) async fn begin(mut self, error: Error, upstream: Arc<Upstream>, history: usize) -> Result<Arc<Cell<T>>> {
        if !is_worse_than_old(&error) {
            return Err(error);
        }
        let file = self.file.clone();
        let read = match spawn_blocking(move || file.read()).await {
            Ok(read) => read.map_err(|unusable| unusable.to_string()),
            Err(_) => Err("the runtime ends".to_owned()),
        };
        let state = read.and_then(|mirror| self.view.begin(&mirror).map_err(|error| error.to_string()));
        let state = match state {
            Ok(state) => state,
            Err(reason) => {
                let path = self.file.path.display();
                return Err(error.noting(&format!("and there is nothing to start from in {path}: {reason}")));
            }
        };
        telemetry::view_from_disk(self.pattern, state.revision(), &error);
        let keeper = self.keeper();
        let cell = Cell::begin(Cell::from_disk(state, history, upstream.clone(), self.pattern, error));
        upstream.attach(Box::new(TypedFeed::begun(self.view, self.pattern, &cell, keeper)));
        Ok(cell)
    }
}

/// Whether the last good state is better than what this error says. The kinds are named so that a refusal is never among them.
fn is_worse_than_old(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Timeout => true,
        // What is stored was read, and is wrong.
        ErrorKind::Invalid | ErrorKind::Decode => !error.problems().is_empty(),
        _ => false,
    }
}

/// Writes a view's file. It follows the mirror with a tree of its own, which shares what does not change with the one that is being written: so an event
/// costs O(log n), and a write costs the view nothing.
pub(super) struct Keeper {
    file: Arc<StateFile>,
    pattern: Pattern,
    runtimes: Weak<Runtimes>,
    /// The mirror's keys that are kept. What is rejected is in it as well; only what is good is sent on.
    tree: KeptTree,
    /// The state that is to be written next. The task at the other end writes what is left when this is dropped, and ends.
    newest: Option<watch::Sender<Kept>>,
}

impl Keeper {
    /// The view looked at the whole mirror.
    pub(super) fn begin(&mut self, mirror: &Mirror, is_good: bool) {
        let kept = mirror.tree().iter().filter(|(relative, _)| (self.file.keeping.keeps)(relative));
        self.tree = kept.map(|(relative, stored)| (relative.clone(), stored.clone())).collect();
        self.take(mirror.revision(), is_good);
    }

    /// The view looked at what was touched.
    pub(super) fn touch(&mut self, mirror: &Mirror, touched: &Touched, is_good: bool) {
        for relative in touched.keys().filter(|relative| (self.file.keeping.keeps)(relative)) {
            match mirror.tree().get(relative) {
                Some(stored) => self.tree.insert_mut(relative.to_owned(), stored.clone()),
                None => {
                    self.tree.remove_mut(relative);
                }
            }
        }
        self.take(mirror.revision(), is_good);
    }

    fn take(&mut self, revision: Revision, is_good: bool) {
        if !is_good {
            return;
        }
        let kept = Kept { revision, tree: self.tree.clone() };
        if let Some(newest) = &self.newest {
            newest.send_replace(kept);
            return;
        }
        let (sender, mut receiver) = watch::channel(kept);
        receiver.mark_changed();
        if let Some(runtimes) = self.runtimes.upgrade() {
            runtimes.spawn(write_newest(self.file.clone(), self.pattern, receiver));
            self.newest = Some(sender);
        }
    }
}

/// Writes the newest state, one write at a time, until there will be no newer one.
async fn write_newest(file: Arc<StateFile>, pattern: Pattern, mut newest: watch::Receiver<Kept>) {
    // Of a sender that is gone the last state is still told.
    while newest.changed().await.is_ok() {
        let kept = newest.borrow_and_update().clone();
        let file = file.clone();
        match spawn_blocking(move || file.write(&kept).map_err(|error| (error, file))).await {
            Ok(Ok(())) => {}
            Ok(Err((error, file))) => telemetry::view_not_kept(pattern, &file.path, &error),
            // The runtime has ended before it was written. This task goes on on another one.
            Err(_) => newest.mark_changed(),
        }
        sleep(BETWEEN_WRITES).await;
    }
}
