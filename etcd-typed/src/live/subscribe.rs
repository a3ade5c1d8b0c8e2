//! The ways to receive new states: a cached reader, a stream, a selected part of the value, and a
//! callback.

use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::{ArcSwap, Cache};
use futures_util::{Stream, stream};

use super::cell::Cell;
use super::{Live, Snapshot};
use crate::error::{Masked, Result};
use crate::runtime::Task;
use crate::version::Versioned;

/// Reads a [`Live`] view in a hot loop. The reader caches the pointer to the state and only checks
/// whether the pointer is still current. Created by [`Live::reader`].
pub struct Reader<T>(Cache<Pointer<T>, Arc<Versioned<T>>>);

/// The source from which the cache loads the pointer.
struct Pointer<T>(Arc<Cell<T>>);

impl<T> Deref for Pointer<T> {
    type Target = ArcSwap<Versioned<T>>;

    fn deref(&self) -> &Self::Target {
        self.0.state()
    }
}

impl<T> Reader<T> {
    pub(super) fn new(cell: Arc<Cell<T>>) -> Self {
        Self(Cache::new(Pointer(cell)))
    }

    /// Returns the current state. Takes no lock, allocates nothing and never waits.
    ///
    /// A reader keeps the state that it returned last in memory, even if it is not called again.
    #[inline]
    pub fn get(&mut self) -> &Versioned<T> {
        self.0.load()
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

/// A stream of the states of a view: first the current state, then the newest state each time the
/// state changes. Created by [`Live::stream`].
///
/// The stream ends only if it is polled outside of a runtime while no runtime runs the view's task.
/// It keeps the view alive.
#[must_use = "a stream does nothing until it is polled"]
pub struct LiveStream<T>(Pin<Box<dyn Stream<Item = Snapshot<T>> + Send>>);

impl<T: Send + Sync + 'static> LiveStream<T> {
    pub(super) fn new(live: Live<T>) -> Self {
        let states = stream::unfold((live, true), |(mut live, first)| async move {
            let state = if first { live.now() } else { live.changed().await.ok()? };
            Some((state, (live, false)))
        });
        Self(Box::pin(states))
    }

    /// Returns the next state, or `None` at the end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Snapshot<T>> {
        stream::StreamExt::next(&mut self.0).await
    }
}

impl<T> Stream for LiveStream<T> {
    type Item = Snapshot<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Snapshot<T>>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl<T> fmt::Debug for LiveStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveStream").finish_non_exhaustive()
    }
}

/// A selected part of a view's value. Created by [`Live::select`]. Each clone waits for changes
/// independently.
pub struct Selected<T, P: ?Sized> {
    live: Live<T>,
    part: Arc<PartOf<T, P>>,
    /// The last state that this selection has processed.
    told: Arc<Versioned<T>>,
}

type PartOf<T, P> = dyn Fn(&T) -> &P + Send + Sync;

impl<T: Send + Sync + 'static, P: PartialEq + ?Sized> Selected<T, P> {
    pub(super) fn new(live: &Live<T>, part: impl Fn(&T) -> &P + Send + Sync + 'static) -> Self {
        let mut live = live.clone();
        let told = live.now().into_arc();
        Self { live, part: Arc::new(part), told }
    }

    /// Returns the part of the current state.
    #[must_use]
    pub fn get(&self) -> Part<T, P> {
        Part { state: self.live.get(), part: self.part.clone() }
    }

    /// Waits until the part differs from the part that was returned last, and returns the new part.
    /// Changes outside of the part do not end the wait.
    ///
    /// # Errors
    ///
    /// `Unavailable` if no runtime runs the view's task and this method is called outside of a
    /// runtime. Nothing else ends the wait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Result<Part<T, P>> {
        loop {
            let state = self.live.changed().await?;
            let differs = (self.part)(&state) != (self.part)(&self.told);
            self.told = state.clone().into_arc();
            if differs {
                return Ok(Part { state, part: self.part.clone() });
            }
        }
    }
}

impl<T, P: ?Sized> Clone for Selected<T, P> {
    fn clone(&self) -> Self {
        Self { live: self.live.clone(), part: self.part.clone(), told: self.told.clone() }
    }
}

impl<T, P: ?Sized> fmt::Debug for Selected<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selected").finish_non_exhaustive()
    }
}

/// The selected part of one state. It derefs to the part. Returned by [`Selected`].
pub struct Part<T, P: ?Sized> {
    state: Snapshot<T>,
    part: Arc<PartOf<T, P>>,
}

impl<T, P: ?Sized> Part<T, P> {
    /// Returns the whole state that contains the part.
    #[must_use]
    pub fn whole(&self) -> &Snapshot<T> {
        &self.state
    }
}

impl<T, P: ?Sized> Deref for Part<T, P> {
    type Target = P;

    fn deref(&self) -> &P {
        (self.part)(&self.state)
    }
}

impl<T, P: fmt::Debug + ?Sized> fmt::Debug for Part<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.state.is_secret() { Masked.fmt(f) } else { fmt::Debug::fmt(&**self, f) }
    }
}

/// Keeps a callback registered. Dropping the subscription ends the calls, but does not interrupt a
/// running call. Created by [`Live::on_change`]. A subscription keeps the view alive.
#[must_use = "dropping the `Subscription` ends the calls"]
pub struct Subscription(Task);

impl Subscription {
    pub(super) fn new<T: Send + Sync + 'static>(mut live: Live<T>, mut f: impl FnMut(&Versioned<T>) + Send + 'static) -> Self {
        let runtimes = live.cell.upstream().runtimes().clone();
        let calls = async move {
            while let Ok(state) = live.changed().await {
                // After a panic `f` is called again with the next state. `f` must cope with work
                // that the panic left unfinished.
                if catch_unwind(AssertUnwindSafe(|| f(&state))).is_err() {
                    live.cell.callback_panicked();
                }
            }
        };
        Self(runtimes.spawn(calls))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}
