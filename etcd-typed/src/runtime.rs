//! Lets one client be used on several tokio runtimes. When the runtime that runs a [`Task`] ends,
//! the task continues on another runtime. [`Runtimes`] records the runtimes on which the client is
//! used. [`PerRuntime`] holds a separate value for each runtime, for things that cannot move, such
//! as connections.
//!
//! Moving a task does not change its future, so the future must not wait for anything that is bound
//! to a runtime. Timers use [`sleep`] and [`sleep_until`] in this module. Calls to a store use
//! [`roaming`](crate::store::roaming), which ends a call that began on another runtime.

#[cfg(any(test, feature = "v2", feature = "v3"))]
mod per_runtime;
mod task;
mod time;

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::{Handle, Id};

#[cfg(any(test, feature = "v2", feature = "v3"))]
pub(crate) use self::per_runtime::PerRuntime;
pub(crate) use self::task::{Patience, Task};
use self::task::{Prepared, Seat};
pub(crate) use self::time::{elapsed, now, sleep, sleep_until};

/// Returns the id of the current runtime. `None` outside of a runtime.
pub(crate) fn current() -> Option<Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

/// Whether the caller runs within a runtime. Outside of a runtime, tokio's timers panic.
pub(crate) fn is_here() -> bool {
    // Nearly every caller is a task. Unlike `current`, `try_id` changes no counter that threads
    // share.
    tokio::task::try_id().is_some() || current().is_some()
}

thread_local! {
    /// The `Runtimes` and the runtime of this thread's latest call of `note`. A repeated call with
    /// the same two then costs one comparison.
    static NOTED: Cell<Option<(u64, Id)>> = const { Cell::new(None) };
}

static LAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// The number of `Runtimes` of this process that have a waiting task. Nearly always zero.
static REGISTRIES_WITH_WAITING_TASKS: AtomicUsize = AtomicUsize::new(0);

/// Whether any task of the process waits for a runtime. A read of a live view calls this function
/// before it looks at the `Runtimes` of its client, which saves two loads.
#[inline]
pub(crate) fn some_task_waits() -> bool {
    REGISTRIES_WITH_WAITING_TASKS.load(Ordering::Relaxed) != 0
}

/// The runtimes on which one client is used, and the tasks that wait for a runtime.
pub(crate) struct Runtimes {
    /// A number that no other `Runtimes` of this process has.
    number: u64,
    /// True while a task waits for a runtime.
    waiting: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    known: Vec<KnownRuntime>,
    /// Tasks whose runtime has ended. A task stays in this list until the next `enter`, even if
    /// another runtime has polled the task in the meantime.
    waiting: Vec<Arc<Seat>>,
}

impl Drop for Runtimes {
    fn drop(&mut self) {
        self.set_waiting(false);
    }
}

impl Runtimes {
    pub(crate) fn new() -> Arc<Self> {
        let number = LAST_NUMBER.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, waiting: AtomicBool::new(false), inner: Mutex::default() })
    }

    /// Records that the client is used on the current runtime, if there is one. Tasks that wait for
    /// a runtime continue on it. Cheap if the runtime is known and no task waits.
    pub(crate) fn note(self: &Arc<Self>) {
        let Ok(here) = Handle::try_current() else { return };
        let known = NOTED.get() == Some((self.number, here.id()));
        if !known || self.waiting.load(Ordering::Acquire) {
            self.enter(here);
        }
    }

    /// Calls [`note`](Self::note) if a task waits for a runtime.
    #[cold]
    pub(crate) fn note_if_waiting(self: &Arc<Self>) {
        if self.waiting.load(Ordering::Relaxed) {
            self.note();
        }
    }

    fn set_waiting(&self, waiting: bool) {
        match (self.waiting.swap(waiting, Ordering::AcqRel), waiting) {
            (false, true) => REGISTRIES_WITH_WAITING_TASKS.fetch_add(1, Ordering::Release),
            (true, false) => REGISTRIES_WITH_WAITING_TASKS.fetch_sub(1, Ordering::Release),
            _ => return,
        };
    }

    fn enter(self: &Arc<Self>, here: Handle) {
        let id = here.id();
        let (waiting, others) = {
            let mut inner = self.inner();
            let mut others = Vec::new();
            if !inner.known.iter().any(|known| known.id == id) {
                others.clone_from(&inner.known);
                inner.known.push(KnownRuntime::of(here.clone()));
            }
            self.set_waiting(false);
            (std::mem::take(&mut inner.waiting), others)
        };
        NOTED.set(Some((self.number, id)));
        // A handle keeps the timers and file descriptors of its runtime, even after the runtime has
        // ended. This check runs only when a new runtime appears.
        for ended in others.iter().filter(|known| known.has_ended()) {
            self.forget(ended.id);
        }
        for seat in waiting {
            if seat.offer(&here) {
                self.list(seat);
            }
        }
    }

    /// Starts a task on the current runtime. If the caller is outside of a runtime, the task starts
    /// on any runtime that uses the client.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) -> Task {
        let prepared = self.prepare();
        let handle = prepared.task();
        prepared.start(task);
        handle
    }

    /// Creates a task that has no future yet. Use this if the future needs the handle of its own
    /// task.
    pub(crate) fn prepare(self: &Arc<Self>) -> Prepared {
        Prepared::new(self)
    }

    /// Offers a task that has lost its runtime to all known runtimes, and to runtimes that become
    /// known later, until a runtime polls the task. One offer is not enough: a runtime that is not
    /// driven accepts a task but never polls the task.
    fn wait(&self, seat: &Arc<Seat>) {
        for known in self.list(seat.clone()) {
            seat.offer(&known.handle);
        }
    }

    /// Adds the task to the waiting tasks, which each `enter` offers to its runtime. Returns the
    /// known runtimes.
    fn list(&self, seat: Arc<Seat>) -> Vec<KnownRuntime> {
        let mut inner = self.inner();
        if !inner.waiting.iter().any(|other| Arc::ptr_eq(other, &seat)) {
            inner.waiting.push(seat);
        }
        self.set_waiting(true);
        inner.known.clone()
    }

    /// Removes a runtime that refused or dropped a task, and so has ended.
    fn forget(&self, ended: Id) {
        // The handles are dropped after the lock is released.
        let _ended: Vec<KnownRuntime> = self.inner().known.extract_if(.., |known| known.id == ended).collect();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock, so the data behind a poisoned lock is consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Runtimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtimes").field("known", &self.inner().known.len()).finish_non_exhaustive()
    }
}

/// A runtime, and a probe that finds out whether the runtime still exists.
#[derive(Clone)]
struct KnownRuntime {
    id: Id,
    handle: Handle,
    probe: Arc<Mutex<Weak<AtomicBool>>>,
}

impl KnownRuntime {
    fn of(handle: Handle) -> Self {
        Self { id: handle.id(), handle, probe: Arc::default() }
    }

    /// Whether the runtime has ended. A runtime that has ended drops a new task before `spawn`
    /// returns.
    fn has_ended(&self) -> bool {
        let mut sent = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.strong_count() > 0 {
            // The last probe is still in the runtime's queue, so the runtime exists.
            return false;
        }
        let dropped = Arc::new(AtomicBool::new(false));
        let probe = Probe { dropped: dropped.clone(), ran: false };
        self.handle.spawn(async move { probe.run() });
        *sent = Arc::downgrade(&dropped);
        dropped.load(Ordering::Acquire)
    }
}

/// A task that reports whether it was dropped without having run.
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
