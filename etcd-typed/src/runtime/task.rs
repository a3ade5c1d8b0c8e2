//! `Task`: a future that can move from one runtime to another.
//!
//! A [`Seat`] holds the future. A runtime holds only a [`Carrier`], a small tokio task that polls
//! the future in the seat. If a runtime drops its carrier, the carrier offers the seat to the other
//! runtimes. A carrier ends when another carrier has taken over the seat. So a task moves by
//! starting another carrier, whether or not the old runtime is still driven.

use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;

use super::{Runtimes, current, sleep};

type Body = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A handle to a background task of a client. Dropping the handle does not end the task;
/// [`end`](Self::end) does. The task itself is owned by its runtime, or by [`Runtimes`] while it
/// has no runtime.
#[derive(Clone)]
pub(crate) struct Task(Weak<Seat>);

/// A task that has not started yet.
pub(crate) struct Prepared(Arc<Seat>);

/// How long a task may go without being polled before its runtime counts as not driven.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// The limit for the first wait, just after the caller has sent the task a command.
    pub(crate) first: Duration,
    /// The limit for later waits.
    pub(crate) then: Duration,
}

pub(super) struct Seat {
    state: Mutex<State>,
    /// The task's future. The carrier that polls the future holds the lock. A poisoned lock means
    /// that the future panicked.
    body: Mutex<Option<Body>>,
    /// Notified when the task has moved to another runtime, has lost its runtime, or has ended.
    moved: Notify,
    runtimes: Weak<Runtimes>,
    /// A function that is called when the task has lost its last runtime, and when a runtime has
    /// the task again.
    observer: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct State {
    /// The number of times that the task has moved. A [`Carrier`] that was spawned before the last
    /// move no longer polls the future.
    round: u64,
    /// The runtime whose [`Carrier`] polls the future. `None` until a carrier of the current round
    /// is polled.
    driver: Option<Id>,
    /// The runtimes on which a [`Carrier`] of the current round was spawned but not polled yet.
    candidates: Vec<Id>,
    ended: bool,
    /// True if no runtime had the task at some time since the last `settle`.
    was_stranded: bool,
    /// True if the observer's last call was for a task without a runtime.
    told_stranded: bool,
    /// The number of times that the future was polled.
    polls: u64,
    /// The waker of the [`Carrier`] that was polled most recently.
    waker: Option<Waker>,
}

impl State {
    /// True if no runtime has the task.
    fn is_stranded(&self) -> bool {
        !self.ended && self.driver.is_none() && self.candidates.is_empty()
    }
}

impl Prepared {
    pub(super) fn new(runtimes: &Arc<Runtimes>) -> Self {
        let (state, body, moved) = (Mutex::default(), Mutex::default(), Notify::new());
        Self(Arc::new(Seat { state, body, moved, runtimes: Arc::downgrade(runtimes), observer: OnceLock::new() }))
    }

    /// Sets a function that is called when the task has lost its last runtime, and when a runtime
    /// has the task again. [`Task::is_stranded`] says which of the two happened.
    pub(crate) fn observed(self, observer: impl Fn() + Send + Sync + 'static) -> Self {
        self.0.observer.get_or_init(|| Box::new(observer));
        self
    }

    pub(crate) fn task(&self) -> Task {
        Task(Arc::downgrade(&self.0))
    }

    pub(crate) fn start(self, task: impl Future<Output = ()> + Send + 'static) {
        let Self(seat) = self;
        *seat.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(task));
        let Some(runtimes) = seat.runtimes.upgrade() else { return };
        runtimes.note();
        match Handle::try_current() {
            Ok(here) => drop(seat.offer(&here)),
            Err(_) => {
                runtimes.wait(&seat);
                seat.tell();
            }
        }
    }
}

impl Task {
    /// Ends the task. Drops its future at once, or after the current poll has returned.
    pub(crate) fn end(&self) {
        let Some(seat) = self.0.upgrade() else { return };
        let waker = {
            let mut state = seat.state();
            state.ended = true;
            state.waker.take()
        };
        seat.clear();
        if let Some(waker) = waker {
            waker.wake();
        }
        seat.moved.notify_waiters();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.upgrade().is_none_or(|seat| seat.state().ended)
    }

    /// True if no runtime has the task. Such a task continues when the client is next used within a
    /// runtime.
    pub(crate) fn is_stranded(&self) -> bool {
        self.0.upgrade().is_some_and(|seat| seat.state().is_stranded())
    }

    /// True if the task was without a runtime at some time since the last [`settle`](Self::settle),
    /// or if the task was dropped.
    pub(crate) fn was_stranded(&self) -> bool {
        self.0.upgrade().is_none_or(|seat| seat.state().was_stranded)
    }

    pub(crate) fn settle(&self) {
        if let Some(seat) = self.0.upgrade() {
            seat.state().was_stranded = false;
        }
    }

    /// Whether the current runtime has the task.
    pub(crate) fn is_here(&self) -> bool {
        let here = current();
        here.is_some() && self.0.upgrade().is_some_and(|seat| seat.state().driver == here)
    }

    /// Moves the task to the current runtime. Does nothing outside of a runtime.
    pub(crate) fn come_here(&self) {
        let (Some(seat), Ok(here)) = (self.0.upgrade(), Handle::try_current()) else { return };
        let id = here.id();
        {
            let mut state = seat.state();
            if state.ended || state.driver == Some(id) || (state.driver.is_none() && state.candidates == [id]) {
                return;
            }
            state.round += 1;
            state.driver = None;
            state.candidates.clear();
        }
        if let Some(runtimes) = seat.runtimes.upgrade() {
            runtimes.note();
        }
        seat.offer(&here);
        seat.moved.notify_waiters();
    }

    /// Waits for an outcome that the task produces. If the task is not polled within `patience`,
    /// its runtime is not driven, and the task moves to the current runtime. Returns `None` if the
    /// caller is outside of a runtime and no runtime has the task.
    pub(crate) async fn attend<T>(&self, patience: Patience, outcome: impl Future<Output = T>) -> Option<T> {
        let mut outcome = pin!(outcome);
        let mut patience_now = patience.first;
        while let Some(seat) = self.0.upgrade() {
            if let Some(runtimes) = seat.runtimes.upgrade() {
                runtimes.note();
            }
            // Register for the notification only after `note`, which may offer the task to a
            // runtime that is just ending. That runtime refuses the task, which sends a
            // notification. Receiving it would make this loop offer the task again, endlessly.
            let moved = seat.moved.notified();
            let here = current();
            let (polls, is_elsewhere) = {
                let state = seat.state();
                if here.is_none() && state.is_stranded() {
                    return None;
                }
                (state.polls, here.is_some() && state.driver != here && !state.ended)
            };
            let idle = async { if is_elsewhere { sleep(patience_now).await } else { pending().await } };
            tokio::select! {
                biased;
                outcome = &mut outcome => return Some(outcome),
                () = moved => {}
                () = idle => {
                    patience_now = patience.then;
                    let is_idle = seat.state().polls == polls;
                    if is_idle {
                        self.come_here();
                    }
                }
            }
        }
        Some(outcome.await)
    }
}

impl Seat {
    /// Starts a carrier on a runtime. Returns true if no runtime has polled the task yet.
    pub(super) fn offer(self: &Arc<Self>, handle: &Handle) -> bool {
        let runtime = handle.id();
        let round = {
            let mut state = self.state();
            if state.ended || state.driver.is_some() {
                return false;
            }
            if state.candidates.contains(&runtime) {
                return true;
            }
            state.candidates.push(runtime);
            state.round
        };
        // Spawn without holding the lock: a runtime that has ended drops the carrier immediately,
        // and its destructor takes the lock.
        handle.spawn(Carrier { seat: self.clone(), runtime, round });
        let state = self.state();
        !state.ended && state.driver.is_none()
    }

    /// Drops the future, unless it is being polled.
    fn clear(&self) {
        // Drop the future after the lock is released, since its destructors may end other tasks, or
        // this one.
        let body = match self.body.try_lock() {
            Ok(mut body) => body.take(),
            Err(TryLockError::Poisoned(body)) => body.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        };
        drop(body);
    }

    /// Calls the observer if the task has lost its last runtime, or has a runtime again. The caller
    /// must not hold a lock, since the observer may end the task.
    fn tell(&self) {
        let Some(observer) = self.observer.get() else { return };
        let news = {
            let mut state = self.state();
            let is_stranded = state.is_stranded();
            std::mem::replace(&mut state.told_stranded, is_stranded) != is_stranded
        };
        if news {
            observer();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so the data behind a poisoned lock is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tokio task that polls a seat's future on one runtime.
struct Carrier {
    seat: Arc<Seat>,
    runtime: Id,
    round: u64,
}

impl Carrier {
    /// Claims the right to poll the future. Returns false if another carrier has claimed it or the
    /// task has ended.
    fn take(&self, waker: &Waker) -> bool {
        let mut state = self.seat.state();
        if state.ended || state.round != self.round || state.driver.is_some_and(|driver| driver != self.runtime) {
            return false;
        }
        state.driver = Some(self.runtime);
        state.candidates.clear();
        state.polls += 1;
        let told_stranded = state.told_stranded;
        let is_known = state.waker.as_ref().is_some_and(|known| known.will_wake(waker));
        let former = if is_known { None } else { state.waker.replace(waker.clone()) };
        drop(state);
        // Drop the waker without holding the lock: it may be the last waker of another carrier,
        // whose destructor takes the lock.
        drop(former);
        if told_stranded {
            self.seat.tell();
        }
        true
    }
}

impl Future for Carrier {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let seat = &self.seat;
        if !self.take(cx.waker()) {
            return Poll::Ready(());
        }
        let mut body = match seat.body.try_lock() {
            Ok(body) => body,
            // The previous carrier is still polling. It wakes this carrier when it has finished.
            Err(TryLockError::WouldBlock) => return Poll::Pending,
            // The future panicked and must not be polled again.
            Err(TryLockError::Poisoned(_)) => return Poll::Ready(()),
        };
        let polled = body.as_mut().map_or(Poll::Ready(()), |body| body.as_mut().poll(cx));
        drop(body);
        let mut state = seat.state();
        state.ended |= polled.is_ready();
        let (ended, moved) = (state.ended, state.round != self.round);
        let waker = if moved { state.waker.clone() } else { None };
        drop(state);
        if ended {
            seat.clear();
            seat.moved.notify_waiters();
        }
        if let Some(next) = waker {
            next.wake();
        }
        if ended || moved { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Handles a carrier that is dropped before the task ends: its runtime has ended, or the future
/// panicked.
impl Drop for Carrier {
    fn drop(&mut self) {
        let seat = &self.seat;
        let panicked = seat.body.is_poisoned();
        let runtimes = seat.runtimes.upgrade();
        {
            let mut state = seat.state();
            let is_over = state.ended || state.round != self.round || state.driver.is_some_and(|driver| driver != self.runtime);
            if is_over && !panicked {
                return;
            }
            // Without `Runtimes`, which the client owns, no other runtime can be found.
            state.ended |= panicked || runtimes.is_none();
            state.candidates.retain(|candidate| *candidate != self.runtime);
            if state.driver == Some(self.runtime) {
                state.driver = None;
                state.round += 1;
            }
        }
        match runtimes.filter(|_| !panicked) {
            Some(runtimes) => {
                runtimes.forget(self.runtime);
                runtimes.wait(seat);
                let mut state = seat.state();
                state.was_stranded |= state.is_stranded();
                drop(state);
                seat.tell();
            }
            None => seat.clear(),
        }
        seat.moved.notify_waiters();
    }
}
