//! `DelayedStarts`: starts work after a delay, if the work is still wanted. One task per runtime
//! sleeps for all work, and skips work that is no longer wanted. So work that is started and
//! cancelled thousands of times a second does not wake a task each time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Id;
use tokio::time::Instant;

use crate::runtime::{Runtimes, current, sleep_until};

/// Shared by all clones of a client.
#[derive(Default)]
pub(crate) struct DelayedStarts(Mutex<Queues>);

/// A queue for each runtime, since an undriven runtime must not delay the work of another runtime.
/// While a runtime has a queue, it also has the task that empties the queue.
type Queues = HashMap<Option<Id>, VecDeque<Due>>;

struct Due {
    at: Instant,
    begin: Box<dyn DelayedStart>,
}

/// Work that starts later.
pub(crate) trait DelayedStart: Send + 'static {
    /// Whether the work is still wanted. Once false, it stays false.
    fn is_wanted(&self) -> bool;

    fn begin(self: Box<Self>);
}

impl DelayedStarts {
    /// Starts the work after this delay if it is still wanted then. The delay is the same for all
    /// work.
    pub(crate) fn begin(self: &Arc<Self>, after: Duration, runtimes: &Arc<Runtimes>, begin: impl DelayedStart) {
        let at = Instant::now() + after;
        let due = Due { at, begin: Box::new(begin) };
        let runtime = current();
        let first = self.with(|queues| {
            let first = !queues.contains_key(&runtime);
            // Since all delays are equal, the queue is sorted by time.
            queues.entry(runtime).or_default().push_back(due);
            first
        });
        if first {
            runtimes.spawn(Sleeper { starts: self.clone(), runtime, queue: true }.run(at));
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Queues) -> R) -> R {
        // No code panics while it holds this lock, so the data of a poisoned lock is consistent.
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

/// The task that sleeps for a queue.
struct Sleeper {
    starts: Arc<DelayedStarts>,
    /// The runtime on which the task was started, which identifies the queue. The task may have
    /// moved since.
    runtime: Option<Id>,
    /// Whether this task still owns the queue.
    queue: bool,
}

impl Sleeper {
    /// Starts the work of the queue when it is due. Sleeps until `first` even if the first work is
    /// cancelled meanwhile. Otherwise each guard that is held for a moment would start a task.
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

    /// Returns when the next wanted work is due. Removes the queue if there is none.
    fn next(&mut self) -> Option<Instant> {
        let (at, _unwanted) = self.starts.with(|queues| {
            let due = queues.entry(self.runtime).or_default();
            let count = due.iter().take_while(|due| !due.begin.is_wanted()).count();
            // Returned from the closure, so that it is dropped after the lock is released.
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
        self.starts.with(|queues| {
            let queue = queues.entry(self.runtime).or_default();
            let count = queue.iter().take_while(|due| due.at <= at).count();
            queue.drain(..count).collect()
        })
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if self.queue {
            // The task was stopped. The next work starts a new task.
            drop(self.starts.with(|queues| queues.remove(&self.runtime)));
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

    /// Work that counts how often it was started.
    struct One {
        count: Arc<AtomicU32>,
        wanted: Arc<AtomicBool>,
        /// How often `is_wanted` was called.
        asked: Arc<AtomicU32>,
    }

    impl DelayedStart for One {
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
    async fn cancelled_work_rarely_wakes_task() {
        let (count, one) = counter();
        let (starts, runtimes) = (Arc::new(DelayedStarts::default()), Runtimes::new());
        let asked = one().asked;
        for _ in 0..1000 {
            let one = one();
            let wanted = one.wanted.clone();
            starts.begin(AFTER, &runtimes, one);
            sleep(Duration::from_millis(1)).await;
            wanted.store(false, Ordering::SeqCst);
        }
        // `is_wanted` is called once for each piece of work, and twice more for each wake-up of the
        // task. The task wakes ten times a second.
        let asked = asked.load(Ordering::SeqCst);
        assert!(asked <= 1000 + 2 * 11, "{asked}");
        starts.begin(AFTER, &runtimes, one());
        sleep(AFTER * 2).await;
        assert_eq!(count.load(Ordering::SeqCst), 1, "the last one is wanted");
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_work_shares_one_task() {
        let (count, one) = counter();
        let (starts, runtime, runtimes) = (Arc::new(DelayedStarts::default()), Handle::current(), Runtimes::new());
        let before = runtime.metrics().num_alive_tasks();
        for _ in 0..1000 {
            let one = one();
            one.wanted.store(false, Ordering::SeqCst);
            starts.begin(AFTER, &runtimes, one);
            // Yields, so that a task that ends too early would be seen.
            tokio::task::yield_now().await;
            assert_eq!(runtime.metrics().num_alive_tasks() - before, 1);
        }
        sleep(AFTER * 2).await;
        assert_eq!((count.load(Ordering::SeqCst), runtime.metrics().num_alive_tasks() - before), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_task_starts_all_work_on_time() {
        let (count, one) = counter();
        let (starts, runtime, runtimes) = (Arc::new(DelayedStarts::default()), Handle::current(), Runtimes::new());
        let tasks = || runtime.metrics().num_alive_tasks();
        let before = tasks();
        for _ in 0..10 {
            starts.begin(AFTER, &runtimes, one());
            starts.begin(AFTER, &runtimes, one());
            assert_eq!(tasks() - before, 1);
            sleep(AFTER / 5).await;
        }
        sleep(AFTER / 10).await;
        // The last two pieces of work were added 30 ms ago, so they are not due yet. The 12 that
        // were added first are.
        assert_eq!(count.load(Ordering::SeqCst), 12);
        sleep(AFTER).await;
        assert_eq!((count.load(Ordering::SeqCst), tasks() - before), (20, 0));
        // Work that is added after the task has ended starts a new task.
        starts.begin(AFTER, &runtimes, one());
        sleep(AFTER * 2).await;
        assert_eq!((count.load(Ordering::SeqCst), tasks() - before), (21, 0));
    }

    #[test]
    fn work_survives_end_of_its_runtime() {
        let (count, one) = counter();
        let (starts, runtimes) = (Arc::new(DelayedStarts::default()), Runtimes::new());
        let (short, long) = (Runtime::new().unwrap(), Runtime::new().unwrap());
        short.block_on(async { starts.begin(AFTER, &runtimes, one()) });
        long.block_on(async { starts.begin(AFTER, &runtimes, one()) });
        drop(short);
        long.block_on(async {
            while count.load(Ordering::SeqCst) < 2 {
                sleep(AFTER / 10).await;
            }
            starts.begin(AFTER, &runtimes, one());
            while count.load(Ordering::SeqCst) < 3 {
                sleep(AFTER / 10).await;
            }
        });
    }

    #[test]
    fn undriven_runtime_does_not_delay_other_runtime() {
        let (count, one) = counter();
        let (starts, runtimes) = (Arc::new(DelayedStarts::default()), Runtimes::new());
        let current_thread = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (undriven, driven) = (current_thread(), current_thread());
        undriven.block_on(async { starts.begin(AFTER, &runtimes, one()) });
        driven.block_on(async {
            starts.begin(AFTER, &runtimes, one());
            while count.load(Ordering::SeqCst) == 0 {
                sleep(AFTER / 10).await;
            }
        });
    }
}
