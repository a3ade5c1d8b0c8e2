//! `Later`: what is to be begun a while from now, if somebody still wants it then. One task sleeps for all of it, and only for what is still wanted, so that what
//! is given up before, thousands of times a second, wakes nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use crate::store::spawn;

/// One for all clones of a client.
#[derive(Default)]
pub(crate) struct Later(Mutex<Queue>);

/// First what is due first. None: there is no task.
type Queue = Option<VecDeque<Due>>;

struct Due {
    at: Instant,
    /// Where it is wanted.
    runtime: Handle,
    begin: Box<dyn Begin>,
}

/// What is begun later.
pub(crate) trait Begin: Send + 'static {
    /// Whether somebody still wants it; once not, never again.
    fn is_wanted(&self) -> bool;

    fn begin(self: Box<Self>);
}

impl Later {
    /// Begins it after that time, which is the same for all, if it is wanted then and `runtime` has not ended.
    pub(crate) fn begin(self: &Arc<Self>, after: Duration, runtime: &Handle, begin: impl Begin) {
        let at = Instant::now() + after;
        let due = Due { at, runtime: runtime.clone(), begin: Box::new(begin) };
        let first = self.with(|queue| {
            let first = queue.is_none();
            queue.get_or_insert_default().push_back(due);
            first
        });
        if first {
            spawn(runtime, Task { later: self.clone(), queue: true }.run(at));
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Queue) -> R) -> R {
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
        let (at, _unwanted) = self.later.with(|queue| {
            let due = queue.get_or_insert_default();
            let count = due.iter().take_while(|due| !due.begin.is_wanted()).count();
            // To be dropped when the queue is free again.
            let unwanted: Vec<_> = due.drain(..count).collect();
            let at = due.front().map(|due| due.at);
            if at.is_none() {
                *queue = None;
            }
            (at, unwanted)
        });
        self.queue = at.is_some();
        at
    }

    fn due(&self, at: Instant) -> Vec<Due> {
        self.later.with(|queue| {
            let queue = queue.get_or_insert_default();
            let count = queue.iter().take_while(|due| due.at <= at).count();
            queue.drain(..count).collect()
        })
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.queue {
            return;
        }
        // Its runtime has ended before it: what is wanted in another one goes on there.
        for due in self.later.with(Option::take).into_iter().flatten() {
            let runtime = due.runtime.clone();
            spawn(&runtime, async move {
                sleep_until(due.at).await;
                due.begin();
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use tokio::runtime::Runtime;
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
        let (later, runtime) = (Arc::new(Later::default()), Handle::current());
        let asked = one().asked;
        for _ in 0..1000 {
            let one = one();
            let wanted = one.wanted.clone();
            later.begin(AFTER, &runtime, one);
            sleep(Duration::from_millis(1)).await;
            wanted.store(false, Ordering::SeqCst);
        }
        // Each once, and twice more for each time that the task wakes, which is ten times in a second.
        let asked = asked.load(Ordering::SeqCst);
        assert!(asked <= 1000 + 2 * 11, "{asked}");
        later.begin(AFTER, &runtime, one());
        sleep(AFTER * 2).await;
        assert_eq!(count.load(Ordering::SeqCst), 1, "the last one is wanted");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_at_once_over_and_over_is_of_one_task() {
        let (count, one) = counter();
        let (later, runtime) = (Arc::new(Later::default()), Handle::current());
        let before = runtime.metrics().num_alive_tasks();
        for _ in 0..1000 {
            let one = one();
            one.wanted.store(false, Ordering::SeqCst);
            later.begin(AFTER, &runtime, one);
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
        let (later, runtime) = (Arc::new(Later::default()), Handle::current());
        let tasks = || runtime.metrics().num_alive_tasks();
        let before = tasks();
        for _ in 0..10 {
            later.begin(AFTER, &runtime, one());
            later.begin(AFTER, &runtime, one());
            assert_eq!(tasks() - before, 1);
            sleep(AFTER / 5).await;
        }
        sleep(AFTER / 10).await;
        // The last ones are 30 ms old.
        assert_eq!(count.load(Ordering::SeqCst), 12);
        sleep(AFTER).await;
        assert_eq!((count.load(Ordering::SeqCst), tasks() - before), (20, 0));
        // And again.
        later.begin(AFTER, &runtime, one());
        sleep(AFTER * 2).await;
        assert_eq!((count.load(Ordering::SeqCst), tasks() - before), (21, 0));
    }

    #[test]
    fn the_end_of_a_runtime_does_not_keep_what_another_one_wants_from_beginning() {
        let (count, one) = counter();
        let later = Arc::new(Later::default());
        let (short, long) = (Runtime::new().unwrap(), Runtime::new().unwrap());
        later.begin(AFTER, short.handle(), one());
        later.begin(AFTER, long.handle(), one());
        drop(short);
        long.block_on(async {
            while count.load(Ordering::SeqCst) == 0 {
                sleep(AFTER / 10).await;
            }
            sleep(AFTER).await;
        });
        assert_eq!(count.load(Ordering::SeqCst), 1, "what the other one wanted");
        later.begin(AFTER, long.handle(), one());
        long.block_on(async {
            while count.load(Ordering::SeqCst) == 1 {
                sleep(AFTER / 10).await;
            }
        });
    }
}
