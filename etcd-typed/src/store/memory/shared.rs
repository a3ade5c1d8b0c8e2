//! The state that all handles of one store share: the engine, the faults, and the lock and signal
//! around them. Only this file reads the clock.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::engine::Engine;
use super::fault_plan::{End, FaultPlan};
use super::state::HistoryLimit;
use crate::error::{Error, ErrorKind};

/// The shared state of one store.
#[derive(Debug)]
pub(super) struct SharedState {
    /// A random id, used for the cluster and for its only member.
    pub(super) id: u64,
    /// A std mutex, since no task awaits while it holds the lock.
    inner: Mutex<Inner>,
    /// Wakes waiting watches. The signal is sent after the lock is released.
    signal: watch::Sender<()>,
}

/// The state that the lock protects.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) engine: Engine,
    pub(super) plan: FaultPlan,
    /// Whether the replies to keys-only reads lack the leases too.
    pub(super) hides_leases: bool,
    /// False while the server is stopped.
    running: bool,
    /// The number of times that all watches were ended. A watch that started at another number has
    /// ended.
    connections: u64,
    end: End,
}

impl SharedState {
    pub(super) fn new() -> Self {
        Self {
            id: fastrand::u64(1..),
            inner: Mutex::new(Inner {
                engine: Engine::new(HistoryLimit::default()),
                plan: FaultPlan::default(),
                hides_leases: false,
                running: true,
                connections: 0,
                end: End::Dropped,
            }),
            signal: watch::Sender::new(()),
        }
    }

    /// Makes all changes that are due, then calls `act`. Wakes the watches if they may have
    /// something new to yield.
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

    /// Returns a receiver that changes when watches may have something new to yield.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.signal.subscribe()
    }

    /// Takes the lock, even if it is poisoned. No code panics while it holds the lock; if some code
    /// did, later calls should still be answered.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns `Unavailable` while the server is stopped.
    pub(super) fn check_running(&self) -> Result<(), Error> {
        if self.running { Ok(()) } else { Err(Error::new(ErrorKind::Unavailable, "the memory store is stopped (a fault)")) }
    }

    /// Returns the connection number for a watch that starts now.
    pub(super) fn connections(&self) -> u64 {
        self.connections
    }

    /// Returns how the watch with this connection number ended, or `None` while it is open.
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
