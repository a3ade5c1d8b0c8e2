//! `Live<T>`: a value that follows the store and always shows a complete, valid state.
//! `live/upstream.rs` watches the store, `live/view.rs` computes each state from the watched keys,
//! and `live/cell.rs` passes the states to readers.

mod cell;
#[cfg(feature = "snapshot")]
mod disk;
mod map;
mod over;
mod paths;
mod status;
mod subscribe;
mod upstream;
mod view;
mod viewing;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

pub use self::map::{LiveMap, LiveMapIter};
pub(crate) use self::paths::PathsView;
pub use self::status::{Cause, FieldSource, FieldStatus, LiveStatus, Rewound, SnapshotFailure};
pub use self::subscribe::{LiveStream, Part, Reader, Selected, Subscription};
pub(crate) use self::upstream::{Source, Upstreams};
pub(crate) use self::view::{DirsView, EntriesView, EntryView, StructView, View};
pub use self::viewing::Viewing;

use self::cell::Cell;
use crate::error::Result;
use crate::revision::Revision;
use crate::version::{Versioned, Versions};

/// A value that follows its directory. Reading it takes nanoseconds, and each read returns one
/// complete state of one revision.
///
/// Created by `live()` of a [`Dir`](crate::Dir), an [`Entry`](crate::Entry), an
/// [`EntryMap`](crate::EntryMap), a [`DirMap`](crate::DirMap) or a [`Directory`](crate::Directory).
/// `live()` returns the view only if the stored state is valid. Clones are cheap and show the same
/// value. All views of a directory and client share one watch, which ends with the last view.
///
/// - **Complete.** All keys that were changed in one transaction appear together (on v2, which has
///   no transactions, each change appears alone).
/// - **Always valid.** A state that does not decode, lacks a required field or fails its validation
///   never replaces the last good state. [`status`](Self::status) reports it, with each key,
///   revision and reason. When the stored value is corrected, the view continues by itself. A map
///   whose entries have different writers can be viewed [per entry](Viewing::per_entry) instead.
/// - **Never ends.** The view survives server restarts, cut connections, compactions, permissions
///   that are revoked and granted again, and the end of the runtime on which it was created; see
///   [`Client`](crate::Client). While it cannot follow the server it shows the last good state, and
///   its status is `Degraded`. Base an alarm on [`staleness`](Self::staleness).
///
#[cfg_attr(feature = "derive", doc = "```")]
#[cfg_attr(not(feature = "derive"), doc = "```text")]
/// use etcd_typed::{Client, EtcdSchema, LiveStatus};
///
/// #[derive(EtcdSchema)]
/// struct Limits {
///     #[etcd(default = 100)]
///     rate_limit: u32,
///     banner: Option<String>,
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// let client = Client::connect("memory:").await?;
/// let limits = client.dir::<Limits>("/app/limits")?;
/// let live = limits.live().await?;
/// assert_eq!(live.get().rate_limit, 100);
///
/// // Read your own writes: wait for the revision that `set` returned.
/// let written = limits.rate_limit.set(&250).await?;
/// assert_eq!(live.wait_for_revision(written).await?.rate_limit, 250);
///
/// // An invalid value changes nothing, and is reported until it is corrected.
/// let written = client.entry::<String>("/app/limits/rate_limit")?.set(&"lots".to_owned()).await?;
/// assert!(live.wait_for_revision(written).await.is_err());
/// assert_eq!(live.get().rate_limit, 250);
/// assert!(matches!(live.status(), LiveStatus::Degraded { .. }));
/// # Ok(()) }
/// ```
///
#[cfg_attr(feature = "derive", doc = include_str!("live/questions.md"))]
pub struct Live<T> {
    cell: Arc<Cell<T>>,
    /// The number of the newest state that [`changed`](Self::changed) has returned.
    told: u64,
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self { cell: self.cell.clone(), told: self.told }
    }
}

impl<T: Send + Sync + 'static> Live<T> {
    fn new(cell: Arc<Cell<T>>) -> Self {
        let told = cell.book().generation();
        Self { cell, told }
    }

    /// Creates a view that always shows this value, to test code that takes a `Live` without a store
    /// and without a runtime.
    ///
    /// Its status is [`Live`](LiveStatus::Live), its staleness is zero, and its revision is
    /// [`Revision::ZERO`]. [`wait_for_revision`](Self::wait_for_revision) returns at once, and
    /// [`changed`](Self::changed) waits forever.
    ///
    /// ```
    /// use etcd_typed::Live;
    ///
    /// struct Limits { rate: u32 }
    ///
    /// /// Part of a handler.
    /// fn accepts(limits: &Live<Limits>, requests: u32) -> bool {
    ///     requests <= limits.get().rate
    /// }
    ///
    /// let limits = Live::fixed(Limits { rate: 100 });
    /// assert!(accepts(&limits, 100) && !accepts(&limits, 101));
    /// ```
    #[must_use]
    pub fn fixed(value: T) -> Self {
        Self::new(Arc::new(Cell::fixed(Versioned::new(value, Versions::default()))))
    }

    /// Returns the current state. Takes no lock, allocates nothing and never waits. It takes about
    /// 10 ns; with a [`reader`](Self::reader) about 1 ns.
    ///
    /// The returned state does not change while it is held, so the fields read from it belong
    /// together: call this once for each piece of work. Hold it only for a short time; use
    /// [`Snapshot::into_arc`] to keep it longer.
    #[must_use]
    pub fn get(&self) -> Snapshot<T> {
        Snapshot(self.cell.load())
    }

    /// Returns a reader for a hot loop, with its own cached pointer: about 1 ns while nothing
    /// changes. It needs `&mut`, so use one for each task or thread.
    #[must_use]
    pub fn reader(&self) -> Reader<T> {
        Reader::new(self.cell.clone())
    }

    /// Returns the revision up to which [`get`](Self::get) includes all changes. This revision also
    /// advances with changes of other keys in the store, as far as the server reports them, so it
    /// may be higher than the revision of the state. It does not advance while the stored state is
    /// rejected.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cell.book().good()
    }

    /// Waits until the view includes all changes up to `revision` (as returned by a write), and
    /// returns the state.
    ///
    /// # Errors
    ///
    /// `Invalid` if the state does not include `revision` because the stored state is rejected;
    /// [`Error::problems`](crate::Error::problems) lists the reasons. `Unavailable` if no runtime
    /// runs the view's task and this method is called outside of a runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect. The future waits while no server can be reached, so put a
    /// timeout around it.
    pub async fn wait_for_revision(&self, revision: impl Into<Revision>) -> Result<Snapshot<T>> {
        self.cell.reach(revision.into()).await.map(Snapshot::of)
    }

    /// Returns the last few good states, oldest first, up to the current one. [`Viewing::history`]
    /// sets their number.
    #[must_use]
    pub fn history(&self) -> Vec<Arc<Versioned<T>>> {
        self.cell.book().history()
    }

    /// Returns the status: whether the view follows the server, or the reason why it does not.
    #[must_use]
    pub fn status(&self) -> LiveStatus {
        self.cell.status()
    }

    /// Returns the source of each field of the current state, for a view [over a
    /// base](Viewing::over). The fields are in the order of their keys, and include those of nested
    /// structs; a map is one field. Empty for a view without a base.
    #[must_use]
    pub fn sources(&self) -> Arc<[FieldStatus]> {
        self.cell.book().sources()
    }

    /// Returns the time since the last proof that the view had every change that the server had.
    /// Such a proof is a linearizable read. Without failures the staleness stays below
    /// [`proof_period`](Self::proof_period) plus a few seconds, so compare the two in an alarm:
    /// `live.staleness() > 5 * live.proof_period()`.
    #[must_use]
    pub fn staleness(&self) -> Duration {
        self.cell.upstream().staleness()
    }

    /// Returns the longest time between two proofs that the view is current (see
    /// [`staleness`](Self::staleness)) while no request fails: 10 s, plus 1 ms for each key of the
    /// directory. For a directory of 100,000 keys the period is 110 s.
    ///
    /// The client asks the server for its revision every 10 s. All views of a client share this
    /// read, which proves that every view at this revision is current. A view may be behind the
    /// revision, because a key of another directory was written or because the view's watch is
    /// silent. Then the view asks which keys of its directory were modified and how many keys the
    /// directory has. The answer is small, but the server reads the whole directory for it, so a
    /// large directory is checked less often. On v3, such requests of many views of directories of
    /// up to 1000 keys are combined into one (not on etcd 3.5.0 to 3.5.6, where the combined
    /// request can crash the server). etcd v2 has no such request: once per period, the client
    /// lists each directory that is behind.
    ///
    /// This periodic check detects a watch that misses events. The watch is then started again some
    /// seconds later. Until then the staleness grows.
    #[must_use]
    pub fn proof_period(&self) -> Duration {
        self.cell.upstream().proof_period()
    }

    /// Returns when the server last came back with an older history than the view had seen, because
    /// it was restored or emptied. Returns `None` if this never happened. Revisions decrease only
    /// in this case.
    #[must_use]
    pub fn rewound(&self) -> Option<Rewound> {
        self.cell.book().rewound()
    }

    /// Waits for a state that is newer than the state at the last call, and returns the newest
    /// state. The first call compares with the state at which this `Live` was created or cloned. A
    /// change between two calls is not missed. If several changes happened, only the last state is
    /// returned.
    ///
    /// # Errors
    ///
    /// `Unavailable` if no runtime runs the view's task and this method is called outside of a
    /// runtime. Nothing else ends the wait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Result<Snapshot<T>> {
        let (generation, state) = self.cell.after(self.told).await?;
        self.told = generation;
        Ok(Snapshot::of(state))
    }

    /// Returns the newest state, and counts it as returned by [`changed`](Self::changed).
    fn now(&mut self) -> Snapshot<T> {
        let book = self.cell.book();
        self.told = book.generation();
        Snapshot::of(book.newest().clone())
    }

    /// Returns the current state and every newer one as a stream. A slow reader may skip states,
    /// but always gets the newest.
    pub fn stream(&self) -> LiveStream<T> {
        LiveStream::new(self.clone())
    }

    /// Selects a part of the value, to wait for changes of that part only: `live.select(|c|
    /// &c.database)`. The part is borrowed from the value. If you need a computed value, call
    /// [`changed`](Self::changed) and compare yourself.
    pub fn select<P, F>(&self, part: F) -> Selected<T, P>
    where
        P: PartialEq + ?Sized,
        F: Fn(&T) -> &P + Send + Sync + 'static,
    {
        Selected::new(self, part)
    }

    /// Calls `f` with every newer state, in a separate task, until the returned guard is dropped.
    /// If states arrive faster than `f` returns, `f` skips to the newest; other readers do not wait
    /// for `f`. `f` must not block: for work that waits, use [`stream`](Self::stream) in a task. If
    /// `f` panics, an event reports it, and `f` is called again with the next state.
    pub fn on_change(&self, f: impl FnMut(&Versioned<T>) + Send + 'static) -> Subscription {
        Subscription::new(self.clone(), f)
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let book = self.cell.book();
        f.debug_struct("Live")
            .field("directory", self.cell.upstream().directory())
            .field("revision", &book.good())
            .field("status", &self.cell.status())
            .finish_non_exhaustive()
    }
}

/// A state of a [`Live`] view. It derefs to [`Versioned<T>`], and through it to `T`.
///
/// A compare-and-swap accepts `&live.get()` as the expected value. A snapshot is serialized like
/// its [`Versioned`].
pub struct Snapshot<T>(arc_swap::Guard<Arc<Versioned<T>>>);

impl<T> Snapshot<T> {
    fn of(state: Arc<Versioned<T>>) -> Self {
        Self(arc_swap::Guard::from_inner(state))
    }

    /// Returns the state in an `Arc`, to keep it.
    #[must_use]
    pub fn into_arc(self) -> Arc<Versioned<T>> {
        arc_swap::Guard::into_inner(self.0)
    }
}

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.0))
    }
}

impl<T> Deref for Snapshot<T> {
    type Target = Versioned<T>;

    fn deref(&self) -> &Versioned<T> {
        &self.0
    }
}

impl<T: Serialize> Serialize for Snapshot<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<T: fmt::Debug> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
