//! `Later`: what is to be begun a while from now, if somebody still wants it then. One task sleeps for all of it, and only for what is still wanted, so that what
//! is given up before, thousands of times a second, wakes nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Id;
use tokio::time::Instant;

use crate::runtime::{Runtimes, current, sleep_until};

/// One for all clones of a client.
#[derive(Default)]
pub(crate) struct Later(Mutex<Queues>);

/// Of each runtime, since one that is not driven must not hold up what is wanted on another. A queue that is not there has no task.
type Queues = HashMap<Option<Id>, VecDeque<Due>>;

struct Due {
    at: Instant,
    begin: Box<dyn Begin>,
}

/// What is begun later.
pub(crate) trait Begin: Send + 'static {
    /// Whether somebody still wants it; once not, never again.
    fn is_wanted(&self) -> bool;

    fn begin(self: Box<Self>);
}

impl Later {
    /// Begins it after that time, which is the same for all, if it is wanted then.
    pub(crate) fn begin(self: &Arc<Self>, after: Duration, runtimes: &Arc<Runtimes>, begin: impl Begin) {
        let at = Instant::now() + after;
        let due = Due { at, begin: Box::new(begin) };
        let runtime = current();
        let first = self.with(|queues| {
            let first = !queues.contains_key(&runtime);
            // First what is due first.
            queues.entry(runtime).or_default().push_back(due);
            first
        });
        if first {
            runtimes.spawn(Task { later: self.clone(), runtime, queue: true }.run(at));
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Queues) -> R) -> R {
        // Nothing panics while it is held, so what a poisoned lock guards is whole.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Due {
    fn begin(self) {
        if self.begin.is_wanted() {
            self.begin.begin();
        }
    }
}

/// What sleeps.
struct Task {
    later: Arc<Later>,
    /// Where it was started; it may be on another one by now.
    runtime: Option<Id>,
    /// Whether the queue is this task's.
    queue: bool,
}

impl Task {
    /// What is due first may be given up before this runs. It sleeps all the same: else there would be a task for each guard that is held for a moment.
    async fn run(mut self, first: Instant) {
        let mut next = Some(first);
        while let Some(at) = next {
            sleep_until(at).await;
            for due in self.due(at) {
                due.begin();
            }
            next = self.next();
        }
    }

    /// When something that is wanted is due. The queue is given up when there is nothing.
    fn next(&mut self) -> Option<Instant> {
        let (at, _unwanted) = self.later.with(|queues| {
            let due = queues.entry(self.runtime).or_default();
            let count = due.iter().take_while(|due| !due.begin.is_wanted()).count();
            // To be dropped when the queue is free again.
            let unwanted: Vec<_> = due.drain(..count).collect();
            let at = due.front().map(|due| due.at);
            if at.is_none() {
                queues.remove(&self.runtime);
            }
            (at, unwanted)
        });
        self.queue = at.is_some();
        at
    }

    fn due(&self, at: Instant) -> Vec<Due> {
        self.later.with(|queues| {
            let queue = queues.entry(self.runtime).or_default();
            let count = queue.iter().take_while(|due| due.at <= at).count();
            queue.drain(..count).collect()
        })
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.queue {
            // It ended before its time. What comes next is to have a task of its own.
            drop(self.later.with(|queues| queues.remove(&self.runtime)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use tokio::runtime::{Handle, Runtime};
    use tokio::time::sleep;

    use super::*;

    const AFTER: Duration = Duration::from_millis(100);

    /// Counts that it was begun.
    struct One {
        count: Arc<AtomicU32>,
        wanted: Arc<AtomicBool>,
        /// How often it was asked for whether it is wanted.
        asked: Arc<AtomicU32>,
    }

    impl Begin for One {
        fn is_wanted(&self) -> bool {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.wanted.load(Ordering::SeqCst)
        }

        fn begin(self: Box<Self>) {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn counter() -> (Arc<AtomicU32>, impl Fn() -> One) {
        let count = Arc::new(AtomicU32::new(0));
        let counted = count.clone();
        let asked = Arc::default();
        let one = move || One { count: count.clone(), wanted: Arc::new(AtomicBool::new(true)), asked: Arc::clone(&asked) };
        (counted, one)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_wanted_any_more_wakes_nobody() {
        let (count, one) = counter();
        let (later, runtimes) = (Arc::new(Later::default()), Runtimes::new());
        let asked = one().asked;
        for _ in 0..1000 {
            let one = one();
            let wanted = one.wanted.clone();
            later.begin(AFTER, &runtimes, one);
            sleep(Duration::from_millis(1)).await;
            wanted.store(false, Ordering::SeqCst);
        }
        // Each once, and twice more for each time that the task wakes, which is ten times in a second.
        let asked = asked.load(Ordering::SeqCst);
        assert!(asked <= 1000 + 2 * 11, "{asked}");
        later.begin(AFTER, &runtimes, one());
        sleep(AFTER * 2).await;
        assert_eq!(count.load(Ordering::SeqCst), 1, "the last one is wanted");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_at_once_over_and_over_is_of_one_task() {
        let (count, one) = counter();
        let (later, runtime, runtimes) = (Arc::new(Later::default()), Handle::current(), Runtimes::new());
        let before = runtime.metrics().num_alive_tasks();
        for _ in 0..1000 {
            let one = one();
            one.wanted.store(false, Ordering::SeqCst);
            later.begin(AFTER, &runtimes, one);
            // As the task would run, and end.
            tokio::task::yield_now().await;
            assert_eq!(runtime.metrics().num_alive_tasks() - before, 1);
        }
        sleep(AFTER * 2).await;
        assert_eq!((count.load(Ordering::SeqCst), runtime.metrics().num_alive_tasks() - before), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_begun_at_its_time_and_one_task_sleeps_for_it() {
        let (count, one) = counter();
        let (later, runtime, runtimes) = (Arc::new(Later::default()), Handle::current(), Runtimes::new());
        let tasks = || runtime.metrics().num_alive_tasks();
        let before = tasks();
        for _ in 0..10 {
            later.begin(AFTER, &runtimes, one());
            later.begin(AFTER, &runtimes, one());
            assert_eq!(tasks() - before, 1);
            sleep(AFTER / 5).await;
        }
        sleep(AFTER / 10).await;
        // The last ones are 30 ms old.
        assert_eq!(count.load(Ordering::SeqCst), 12);
        sleep(AFTER).await;
        assert_eq!((count.load(Ordering::SeqCst), tasks() - before), (20, 0));
        // And again.
        later.begin(AFTER, &runtimes, one());
        sleep(AFTER * 2).await;
        assert_eq!((count.load(Ordering::SeqCst), tasks() - before), (21, 0));
    }

    #[test]
    fn what_is_due_goes_on_when_its_runtime_ends() {
        let (count, one) = counter();
        let (later, runtimes) = (Arc::new(Later::default()), Runtimes::new());
        let (short, long) = (Runtime::new().unwrap(), Runtime::new().unwrap());
        short.block_on(async { later.begin(AFTER, &runtimes, one()) });
        long.block_on(async { later.begin(AFTER, &runtimes, one()) });
        drop(short);
        long.block_on(async {
            while count.load(Ordering::SeqCst) < 2 {
                sleep(AFTER / 10).await;
            }
            later.begin(AFTER, &runtimes, one());
            while count.load(Ordering::SeqCst) < 3 {
                sleep(AFTER / 10).await;
            }
        });
    }

    #[test]
    fn undriven_runtime_holds_up_nothing_on_another() {
        let (count, one) = counter();
        let (later, runtimes) = (Arc::new(Later::default()), Runtimes::new());
        let current_thread = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (undriven, driven) = (current_thread(), current_thread());
        undriven.block_on(async { later.begin(AFTER, &runtimes, one()) });
        driven.block_on(async {
            later.begin(AFTER, &runtimes, one());
            while count.load(Ordering::SeqCst) == 0 {
                sleep(AFTER / 10).await;
            }
        });
    }
}
