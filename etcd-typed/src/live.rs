//! `Live<T>`: a value that is always current, always whole and never wrong. Where its states come from is `live/upstream.rs`, what makes one of a
//! tree is `live/view.rs`, and how they reach their readers is `live/cell.rs`.

mod cell;
#[cfg(feature = "snapshot")]
mod disk;
mod map;
mod status;
mod subscribe;
mod upstream;
mod view;
mod viewing;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

pub use self::map::{LiveMap, LiveMapIter};
pub use self::status::{Cause, LiveStatus, Rewound, SnapshotFailure};
pub use self::subscribe::{LiveStream, Part, Reader, Selected, Subscription};
pub(crate) use self::upstream::Upstreams;
pub(crate) use self::view::{DirsView, EntriesView, EntryView, StructView, View};
pub(crate) use self::viewing::Source;
pub use self::viewing::Viewing;

use self::cell::Cell;
use crate::error::Result;
use crate::revision::Revision;
use crate::version::Versioned;

/// A value that follows its directory: reading it costs nanoseconds, and what is read is whole and of one revision.
///
/// From `live()` of a [`Dir`](crate::Dir), an [`Entry`](crate::Entry), an [`EntryMap`](crate::EntryMap) or a [`DirMap`](crate::DirMap), which
/// gives one only when it has a good state. Clones are cheap and show the same; the watch behind it, one for each directory and client however
/// many views there are, ends with the last of them.
///
/// - **Whole.** All keys that were changed in one transaction appear together (on v2, which has none, each change by itself).
/// - **Never wrong.** What does not decode, misses a required field or fails its validation never replaces the last good state;
///   [`status`](Self::status) says so, and names each key, revision and reason. When the value is mended, the view goes on by itself.
/// - **Never ends.** It outlives restarts of servers, cut connections, compactions, and rights that are taken away and given back. It outlives the
///   runtime it was made on, too: see [`Client`](crate::Client). While it cannot
///   follow it shows the last good state and says `Degraded`. [`staleness`](Self::staleness) is the measure for an alarm.
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
/// // Read your own writes: what `set` returned can be awaited.
/// let written = limits.rate_limit.set(&250).await?;
/// assert_eq!(live.wait_for_revision(written).await?.rate_limit, 250);
///
/// // A value that is none changes nothing, and is reported until it is mended.
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
    /// The newest state that [`changed`](Self::changed) has told of.
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

    /// The state now. No lock, no allocation, never waits; some 10 ns, of which [`reader`](Self::reader) spares all but one.
    ///
    /// What it gives stays as it is while it is held, so that fields which are read from it belong together: take it once for each piece of
    /// work. It is meant to be short-lived; [`Snapshot::into_arc`] is for keeping.
    #[must_use]
    pub fn get(&self) -> Snapshot<T> {
        Snapshot(self.cell.load())
    }

    /// A reader for a hot loop, with a cached pointer of its own: about 1 ns while nothing changes. It wants `&mut`: one for each task or thread.
    #[must_use]
    pub fn reader(&self) -> Reader<T> {
        Reader::new(self.cell.clone())
    }

    /// The revision up to which [`get`](Self::get) has everything. It goes on with what happens elsewhere in the store too, as far as the server
    /// tells, so it may be above the revision of the state, and it stays where it is while what is stored is rejected.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cell.book().good()
    }

    /// Waits until the view has everything up to `revision` (what a write returned), and gives the state.
    ///
    /// # Errors
    ///
    /// `Invalid` when the state has not come so far because what is stored is rejected; [`Error::problems`](crate::Error::problems) lists why. `Unavailable` when no
    /// runtime keeps the view and this is not one either.
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing. It waits as long as no server can be reached: put a timeout around it.
    pub async fn wait_for_revision(&self, revision: impl Into<Revision>) -> Result<Snapshot<T>> {
        self.cell.reach(revision.into()).await.map(Snapshot::of)
    }

    /// The last few good states, the oldest first and the present one last. How many is said with [`Viewing::history`].
    #[must_use]
    pub fn history(&self) -> Vec<Arc<Versioned<T>>> {
        self.cell.book().history()
    }

    /// Whether the view follows, and what is wrong if not.
    #[must_use]
    pub fn status(&self) -> LiveStatus {
        self.cell.status()
    }

    /// The time since the last proof that the server had nothing which the view had not seen. The proof is a linearizable read. While all is well, the
    /// staleness stays below [`proof_period`](Self::proof_period) and a few seconds, so an alarm compares the two: `live.staleness() > 5 * live.proof_period()`.
    #[must_use]
    pub fn staleness(&self) -> Duration {
        self.cell.upstream().staleness()
    }

    /// Returns the time in which the view is proved again while all is well: 10 s, and 1 ms for each key of its directory. A directory of 100,000 keys is proved each 110 s.
    ///
    /// Every 10 s the server is asked how far it is. All views of a client share this read, and while nothing is written it proves all of them. A view that is behind the answer, because
    /// something was written elsewhere or because its watch is silent, asks what was modified in its directory and how many keys there are. The answer is small, but the server
    /// reads the directory for it, so a large one is read less often. On v3 the questions of many views about directories of up to 1000 keys share a request, but on the servers
    /// 3.5.0 to 3.5.6. etcd v2 has no such question: each directory that is behind is listed once in this time.
    ///
    /// A watch that tells less than the server has is found at the next proof and started again some seconds later. Until then the staleness grows.
    #[must_use]
    pub fn proof_period(&self) -> Duration {
        self.cell.upstream().proof_period()
    }

    /// The last time that the server came back with an older history than the view had seen (it was restored or emptied), if it ever did: then,
    /// and only then, revisions go back.
    #[must_use]
    pub fn rewound(&self) -> Option<Rewound> {
        self.cell.book().rewound()
    }

    /// Waits for a state that is newer than the one this was last called for (at first: than the one that was there when this `Live` was made or
    /// cloned), and gives the newest. A change between two calls is not missed, and of several the last is told.
    ///
    /// # Errors
    ///
    /// `Unavailable` when no runtime keeps the view and this is not one either; nothing else ends it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub async fn changed(&mut self) -> Result<Snapshot<T>> {
        let (generation, state) = self.cell.after(self.told).await?;
        self.told = generation;
        Ok(Snapshot::of(state))
    }

    /// The newest state, which counts as told.
    fn now(&mut self) -> Snapshot<T> {
        let book = self.cell.book();
        self.told = book.generation();
        Snapshot::of(book.newest().clone())
    }

    /// The state now and every newer one, as a stream. Whoever reads it slowly misses states in between and never the newest.
    pub fn stream(&self) -> LiveStream<T> {
        LiveStream::new(self.clone())
    }

    /// A part of the value, to be woken only when that part changes: `live.select(|c| &c.database)`. The part is borrowed from the value; where what matters
    /// is computed from it, compare that after [`changed`](Self::changed).
    pub fn select<P, F>(&self, part: F) -> Selected<T, P>
    where
        P: PartialEq + ?Sized,
        F: Fn(&T) -> &P + Send + Sync + 'static,
    {
        Selected::new(self, part)
    }

    /// Calls `f` with every newer state, in a task of its own, until the guard is dropped. If states come faster than `f` returns, it sees the newest
    /// and not each; nobody else waits for it. It must not block: for work that waits use [`stream`](Self::stream) in a task. If it
    /// panics, that call ends, an event tells it, and the next state is given to it again.
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

/// A state of a [`Live`] view; it derefs to [`Versioned<T>`] and through it to `T`.
///
/// Where a compare-and-swap wants what was read before, `&live.get()` will do.
pub struct Snapshot<T>(arc_swap::Guard<Arc<Versioned<T>>>);

impl<T> Snapshot<T> {
    fn of(state: Arc<Versioned<T>>) -> Self {
        Self(arc_swap::Guard::from_inner(state))
    }

    /// The state, to be kept.
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

impl<T: fmt::Debug> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
