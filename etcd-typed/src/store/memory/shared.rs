//! What all handles of one store share: the engine, the faults, and the lock and the signal around them. The only place that asks the clock.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::engine::Engine;
use super::fault::{End, Plan};
use super::state::HistoryLimit;
use crate::error::{Error, ErrorKind};

/// One store.
#[derive(Debug)]
pub(super) struct Shared {
    /// Random, for the cluster's and the member's id.
    pub(super) id: u64,
    /// A std mutex: it is never held while anything waits.
    inner: Mutex<Inner>,
    /// Wakes the watches that wait. Sent after the lock is given back.
    signal: watch::Sender<()>,
}

/// What is behind the lock.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) engine: Engine,
    pub(super) plan: Plan,
    /// Whether an answer without values has no leases either.
    pub(super) hides_leases: bool,
    /// False while the server is away.
    running: bool,
    /// Counted up whenever all watches are ended. A watch that knows another number has ended.
    connections: u64,
    end: End,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            id: fastrand::u64(1..),
            inner: Mutex::new(Inner {
                engine: Engine::new(HistoryLimit::default()),
                plan: Plan::default(),
                hides_leases: false,
                running: true,
                connections: 0,
                end: End::Dropped,
            }),
            signal: watch::Sender::new(()),
        }
    }

    /// Brings the store up to now, does something to it, and wakes the watches if there is something new for them.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Inner, Instant) -> T) -> T {
        let now = Instant::now();
        let mut inner = self.lock();
        let before = inner.mark();
        if inner.running {
            inner.engine.advance(now);
        }
        let result = act(&mut inner, now);
        let changed = inner.mark() != before;
        drop(inner);
        if changed {
            self.signal.send_replace(());
        }
        result
    }

    /// Changes when there may be something new for a watch.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.signal.subscribe()
    }

    /// Nothing panics under the lock; if it did all the same, each call after it would do better to answer than to panic too.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// `Unavailable` while the server is away.
    pub(super) fn check_running(&self) -> Result<(), Error> {
        if self.running { Ok(()) } else { Err(Error::new(ErrorKind::Unavailable, "the memory store is stopped (a fault)")) }
    }

    /// The number that a watch which begins now has to know.
    pub(super) fn connections(&self) -> u64 {
        self.connections
    }

    /// How the watch of this number has ended; none while it is open.
    pub(super) fn ended(&self, connections: u64) -> Option<End> {
        (self.connections != connections).then_some(self.end)
    }

    pub(super) fn end_watches(&mut self, end: End) {
        self.connections += 1;
        self.end = end;
    }

    pub(super) fn stop(&mut self) {
        self.running = false;
        self.end_watches(End::Dropped);
    }

    pub(super) fn start(&mut self, now: Instant) {
        if !self.running {
            self.running = true;
            self.engine.leases.keep_all_alive(now);
        }
    }

    pub(super) fn wipe(&mut self) {
        self.engine = Engine::new(self.engine.state.limit());
        self.end_watches(End::Dropped);
    }

    fn mark(&self) -> impl PartialEq + use<> {
        (self.engine.mark(), self.running, self.connections)
    }
}
