//! Several runtimes, one client. A task of a client does not end with the runtime that it was started on: [`Runtimes`] knows on which runtimes the client is
//! used, and [`Task`] is a task that goes on on another one of them. [`PerRuntime`] is for what cannot move, such as connections: each runtime has its own.
//!
//! A task that moves takes its future along as it is. So whatever the future waits for must not be bound to a runtime: timers are [`sleep`] and [`sleep_until`]
//! of this module, and calls of a store go through [`roaming`](crate::store::roaming), which ends a call that was begun on another runtime.

#[cfg(any(test, feature = "v2", feature = "v3"))]
mod local;
mod task;
mod time;

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::{Handle, Id};

#[cfg(any(test, feature = "v2", feature = "v3"))]
pub(crate) use self::local::PerRuntime;
pub(crate) use self::task::{Patience, Task};
use self::task::{Prepared, Seat};
pub(crate) use self::time::{elapsed, now, sleep, sleep_until};

/// The runtime that polls the caller; none outside of a runtime.
pub(crate) fn current() -> Option<Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

/// Whether the caller is polled by a runtime. Outside of one there are no timers, and tokio's panic.
pub(crate) fn is_here() -> bool {
    current().is_some()
}

thread_local! {
    /// The registry and the runtime that this thread noted last, so that noting them again costs a comparison.
    static NOTED: Cell<Option<(u64, Id)>> = const { Cell::new(None) };
}

static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// The runtimes on which one client is used, and the tasks that wait for one of them.
pub(crate) struct Runtimes {
    /// Tells the registries of a process apart.
    number: u64,
    /// Whether a task waits for a runtime.
    waiting: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    known: Vec<Place>,
    /// Tasks whose runtime ended and that no other runtime has polled yet. Some may have been taken by now.
    waiting: Vec<Arc<Seat>>,
}

impl Runtimes {
    pub(crate) fn new() -> Arc<Self> {
        let number = LAST_NUMBER.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, waiting: AtomicBool::new(false), inner: Mutex::default() })
    }

    /// Notes that the client is used on the current runtime, if there is one. Tasks that wait for a runtime go on there. Cheap when nothing is new.
    pub(crate) fn note(self: &Arc<Self>) {
        let Ok(here) = Handle::try_current() else { return };
        let known = NOTED.get() == Some((self.number, here.id()));
        if !known || self.waiting.load(Ordering::Acquire) {
            self.enter(here);
        }
    }

    /// The same for hot paths: only when a task waits for a runtime.
    #[inline]
    pub(crate) fn note_if_waiting(self: &Arc<Self>) {
        if self.waiting.load(Ordering::Relaxed) {
            self.note();
        }
    }

    fn enter(self: &Arc<Self>, here: Handle) {
        let id = here.id();
        let (waiting, others) = {
            let mut inner = self.inner();
            let mut others = Vec::new();
            if !inner.known.iter().any(|place| place.id == id) {
                others.clone_from(&inner.known);
                inner.known.push(Place::of(here.clone()));
            }
            self.waiting.store(false, Ordering::Release);
            (std::mem::take(&mut inner.waiting), others)
        };
        NOTED.set(Some((self.number, id)));
        // Their handles would keep timers and file descriptors of runtimes that ended. Looked for only when a runtime is new.
        for ended in others.iter().filter(|place| place.has_ended()) {
            self.forget(ended.id);
        }
        for seat in waiting {
            if seat.offer(&here) {
                self.list(seat);
            }
        }
    }

    /// Starts a task on the current runtime. Outside of a runtime, on any that the client is used on.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) -> Task {
        let prepared = self.prepare();
        let handle = prepared.task();
        prepared.start(task);
        handle
    }

    /// A task whose future is not made yet, for a future that wants to know its task.
    pub(crate) fn prepare(self: &Arc<Self>) -> Prepared {
        Prepared::new(self)
    }

    /// The task has lost its runtime, or never had one. It is offered to all runtimes, and to those that are noted later, until one polls it: a runtime that
    /// nobody drives takes a task and does nothing.
    fn wait(&self, seat: &Arc<Seat>) {
        for place in self.list(seat.clone()) {
            seat.offer(&place.handle);
        }
    }

    /// Keeps the task for the runtimes that are noted from now on. Returns those that are known.
    fn list(&self, seat: Arc<Seat>) -> Vec<Place> {
        let mut inner = self.inner();
        if !inner.waiting.iter().any(|other| Arc::ptr_eq(other, &seat)) {
            inner.waiting.push(seat);
        }
        self.waiting.store(true, Ordering::Release);
        inner.known.clone()
    }

    /// A runtime refused a task, or dropped it: it has ended.
    fn forget(&self, ended: Id) {
        // Dropped when the lock is given back.
        let _ended: Vec<Place> = self.inner().known.extract_if(.., |place| place.id == ended).collect();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held, so what a poisoned lock guards is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Runtimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtimes").field("known", &self.inner().known.len()).finish_non_exhaustive()
    }
}

/// A runtime, and whether it is still there.
#[derive(Clone)]
struct Place {
    id: Id,
    handle: Handle,
    probe: Arc<Mutex<Weak<AtomicBool>>>,
}

impl Place {
    fn of(handle: Handle) -> Self {
        Self { id: handle.id(), handle, probe: Arc::default() }
    }

    /// Whether the runtime refuses tasks. A runtime that ended drops a new task before `spawn` returns.
    fn has_ended(&self) -> bool {
        let mut sent = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.strong_count() > 0 {
            // The last one is still in the runtime's queue. So the runtime exists, and needs no second one.
            return false;
        }
        let dropped = Arc::new(AtomicBool::new(false));
        let probe = Probe { dropped: dropped.clone(), ran: false };
        self.handle.spawn(async move { probe.run() });
        *sent = Arc::downgrade(&dropped);
        dropped.load(Ordering::Acquire)
    }
}

/// Tells when it is dropped without having been run.
struct Probe {
    dropped: Arc<AtomicBool>,
    ran: bool,
}

impl Probe {
    fn run(mut self) {
        self.ran = true;
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.dropped.store(!self.ran, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
