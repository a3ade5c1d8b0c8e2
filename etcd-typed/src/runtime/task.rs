//! `Task`: a future that is polled by one runtime after the other.
//!
//! The future is in a [`Seat`]. On a runtime there is only a [`Carrier`], which polls the future where it is. A carrier that is dropped by its runtime offers the
//! seat to the other runtimes; a carrier whose seat was taken by another one ends. So a task is moved by starting another carrier, whether or not its runtime is
//! still driven.

use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;

use super::{Runtimes, current, sleep};

type Body = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task of a client. Dropping this does not end the task; [`end`](Self::end) does. The task itself belongs to its runtime, or to [`Runtimes`] while it has none.
#[derive(Clone)]
pub(crate) struct Task(Weak<Seat>);

/// A task before it runs.
pub(crate) struct Prepared(Arc<Seat>);

/// How long a task that is driven may go without being polled.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// From now on, when the task was just told something.
    pub(crate) first: Duration,
    /// Later on.
    pub(crate) then: Duration,
}

pub(super) struct Seat {
    state: Mutex<State>,
    /// Locked by the carrier that polls. Poisoned when the future panicked.
    body: Mutex<Option<Body>>,
    /// The task has another runtime, or none, or has ended.
    moved: Notify,
    runtimes: Weak<Runtimes>,
    /// Called when the last runtime has lost the task, and when a runtime has it again.
    observer: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct State {
    /// Counts moves. Carriers of an earlier round have nothing to do any more.
    round: u64,
    /// The runtime whose carrier polls; none until the first carrier of this round was polled.
    driver: Option<Id>,
    /// Runtimes that have a carrier of this round which was not polled yet.
    candidates: Vec<Id>,
    ended: bool,
    /// For a while no runtime had the task.
    was_stranded: bool,
    /// The observer was told that no runtime has the task.
    told_stranded: bool,
    /// How often the future was polled.
    polls: u64,
    /// Of the carrier that was polled last.
    waker: Option<Waker>,
}

impl State {
    /// No runtime has the task.
    fn is_stranded(&self) -> bool {
        !self.ended && self.driver.is_none() && self.candidates.is_empty()
    }
}

impl Prepared {
    pub(super) fn new(runtimes: &Arc<Runtimes>) -> Self {
        let (state, body, moved) = (Mutex::default(), Mutex::default(), Notify::new());
        Self(Arc::new(Seat { state, body, moved, runtimes: Arc::downgrade(runtimes), observer: OnceLock::new() }))
    }

    /// Calls this when the last runtime has lost the task, and when a runtime has it again; [`Task::is_stranded`] tells which.
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
    /// Ends the task where it waits. Its future is dropped at once, or when it returns from the poll it is in.
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

    /// Whether no runtime has the task. It goes on with the next use of the client within a runtime.
    pub(crate) fn is_stranded(&self) -> bool {
        self.0.upgrade().is_some_and(|seat| seat.state().is_stranded())
    }

    /// Whether no runtime had the task for a while, since [`settle`](Self::settle) was called. Also true for a task that has ended.
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

    /// Takes the task to the current runtime, if there is one and the task is on another one.
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

    /// Waits for something that the task brings about. A task that is not polled within the patience is on a runtime that nobody drives, and is taken to the
    /// current runtime. None: there is no runtime, here or anywhere else.
    pub(crate) async fn attend<T>(&self, patience: Patience, outcome: impl Future<Output = T>) -> Option<T> {
        let mut outcome = pin!(outcome);
        let mut patience_now = patience.first;
        while let Some(seat) = self.0.upgrade() {
            if let Some(runtimes) = seat.runtimes.upgrade() {
                runtimes.note();
            }
            // After it: a runtime that is just ending refuses what it is offered. To be woken by that would be to offer it again, without end.
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
    /// Gives a runtime a carrier. Whether the task still waits for a runtime that polls it.
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
        // Not under the lock: a runtime that has ended drops it at once.
        handle.spawn(Carrier { seat: self.clone(), runtime, round });
        let state = self.state();
        !state.ended && state.driver.is_none()
    }

    /// Drops the future, unless it is polled now.
    fn clear(&self) {
        // Dropped when the lock is given back: what is dropped with it may end other tasks, or this one.
        let body = match self.body.try_lock() {
            Ok(mut body) => body.take(),
            Err(TryLockError::Poisoned(body)) => body.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        };
        drop(body);
    }

    /// Tells the observer if the task has lost its last runtime, or has one again. Not under a lock: the observer may end the task.
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
        // Nothing panics while it is held, so what a poisoned lock guards is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Polls the future of a seat on one runtime.
struct Carrier {
    seat: Arc<Seat>,
    runtime: Id,
    round: u64,
}

impl Carrier {
    /// Whether this is the one that polls.
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
        // Not under the lock: it may be the last of a carrier.
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
            // The carrier before this one still polls, and wakes this one when it has done so.
            Err(TryLockError::WouldBlock) => return Poll::Pending,
            // The future panicked, and is not to be polled again.
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

/// Before its end, it is dropped by the end of its runtime, or because the future panicked.
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
            // Without the others, which are gone with the client, no runtime will ever be found.
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
