use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;

const MOMENT: Duration = Duration::from_millis(20);

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A task that counts ticks while it runs, and reports when its future is dropped.
struct Ticker {
    ticks: Arc<AtomicUsize>,
    task: Task,
    dropped: oneshot::Receiver<()>,
}

impl Ticker {
    fn start(runtimes: &Arc<Runtimes>) -> Self {
        let ticks = Arc::new(AtomicUsize::new(0));
        let (alive, dropped) = oneshot::channel();
        let counted = ticks.clone();
        let task = runtimes.spawn(async move {
            let _alive: oneshot::Sender<()> = alive;
            loop {
                counted.fetch_add(1, Ordering::SeqCst);
                sleep(MOMENT / 10).await;
            }
        });
        Self { ticks, task, dropped }
    }

    async fn ticks(&self) {
        let before = self.ticks.load(Ordering::SeqCst);
        while self.ticks.load(Ordering::SeqCst) < before + 2 {
            tokio::time::sleep(MOMENT / 10).await;
        }
    }

    fn is_dropped(&mut self) -> bool {
        !matches!(self.dropped.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }
}

#[test]
fn task_moves_when_its_runtime_ends() {
    for (first, second) in [(current_thread(), multi_thread()), (multi_thread(), current_thread()), (multi_thread(), multi_thread())] {
        let runtimes = Runtimes::new();
        let mut ticker = first.block_on(async { Ticker::start(&runtimes) });
        first.block_on(ticker.ticks());
        second.block_on(async { runtimes.note() });
        drop(first);
        second.block_on(ticker.ticks());
        assert!(!ticker.is_dropped() && !ticker.task.is_stranded());
    }
}

#[test]
fn task_moves_after_every_kind_of_shutdown() {
    let ends: [fn(Runtime); 3] = [Runtime::shutdown_background, |runtime| runtime.shutdown_timeout(MOMENT), drop];
    for end in ends {
        let (first, second, runtimes) = (multi_thread(), current_thread(), Runtimes::new());
        let ticker = first.block_on(async { Ticker::start(&runtimes) });
        second.block_on(async { runtimes.note() });
        end(first);
        second.block_on(ticker.ticks());
    }
}

#[test]
fn task_moves_several_times() {
    let runtimes = Runtimes::new();
    let mut now = current_thread();
    let ticker = now.block_on(async { Ticker::start(&runtimes) });
    for _ in 0..5 {
        let next = current_thread();
        next.block_on(async { runtimes.note() });
        drop(now);
        next.block_on(ticker.ticks());
        now = next;
    }
}

#[test]
fn task_without_runtime_waits_for_next_runtime() {
    let runtimes = Runtimes::new();
    let first = current_thread();
    let ticker = first.block_on(async { Ticker::start(&runtimes) });
    drop(first);
    assert!(ticker.task.is_stranded() && ticker.task.was_stranded());
    current_thread().block_on(async {
        runtimes.note();
        assert!(!ticker.task.is_stranded());
        ticker.ticks().await;
        ticker.task.settle();
        assert!(!ticker.task.was_stranded());
    });
}

#[test]
fn never_polled_task_moves_to_next_runtime() {
    let runtimes = Runtimes::new();
    let (first, second) = (current_thread(), current_thread());
    let ticker = {
        let _within = first.enter();
        Ticker::start(&runtimes)
    };
    second.block_on(async { runtimes.note() });
    drop(first);
    second.block_on(ticker.ticks());
}

#[test]
fn task_skips_undriven_runtime() {
    let runtimes = Runtimes::new();
    let (first, undriven, driven) = (current_thread(), current_thread(), current_thread());
    let ticker = first.block_on(async { Ticker::start(&runtimes) });
    for runtime in [&undriven, &driven] {
        runtime.block_on(async { runtimes.note() });
    }
    drop(first);
    driven.block_on(ticker.ticks());
    // Drive the other runtime again: it must not take the task back.
    undriven.block_on(async { tokio::time::sleep(MOMENT).await });
    driven.block_on(ticker.ticks());
}

#[test]
fn waiter_takes_task_from_undriven_runtime() {
    let runtimes = Runtimes::new();
    let (undriven, driven) = (current_thread(), multi_thread());
    let (command, commands) = oneshot::channel::<oneshot::Sender<u32>>();
    let task = undriven.block_on(async {
        runtimes.spawn(async move {
            if let Ok(answer) = commands.await {
                let _ = answer.send(7);
            }
        })
    });
    let patience = Patience { first: MOMENT, then: MOMENT };
    driven.block_on(async {
        let (answer, answered) = oneshot::channel();
        command.send(answer).unwrap();
        assert_eq!(task.attend(patience, answered).await.unwrap(), Ok(7));
    });
}

#[test]
fn waiter_does_not_move_task_from_driven_runtime() {
    let runtimes = Runtimes::new();
    let (other, here) = (multi_thread(), current_thread());
    let ticker = other.block_on(async { Ticker::start(&runtimes) });
    here.block_on(async {
        let patience = Patience { first: MOMENT, then: MOMENT };
        assert!(ticker.task.attend(patience, tokio::time::sleep(MOMENT * 5)).await.is_some());
        assert!(!ticker.task.is_here());
        ticker.task.come_here();
        ticker.ticks().await;
        assert!(ticker.task.is_here());
    });
}

/// A runtime that is ending refuses tasks. The waiter must not retry without a pause.
#[test]
fn waiter_on_ending_runtime_does_not_spin() {
    for _ in 0..20 {
        let runtimes = Runtimes::new();
        let own = multi_thread();
        let patience = Patience { first: MOMENT, then: MOMENT };
        own.block_on(async {
            let ticker = Ticker::start(&runtimes);
            for _ in 0..10 {
                let task = ticker.task.clone();
                let wakes = async {
                    for _ in 0..u64::MAX {
                        tokio::task::yield_now().await;
                    }
                };
                runtimes.spawn(async move {
                    let _ = task.attend(patience, wakes).await;
                });
            }
            ticker.ticks().await;
        });
        let (done, ends) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(own);
            let _ = done.send(());
        });
        ends.recv_timeout(Duration::from_secs(10)).expect("the runtime ends");
    }
}

#[test]
fn waiter_without_any_runtime_returns_none() {
    let runtimes = Runtimes::new();
    let first = current_thread();
    let ticker = first.block_on(async { Ticker::start(&runtimes) });
    let patience = Patience { first: MOMENT, then: MOMENT };
    let waits = std::thread::spawn({
        let task = ticker.task.clone();
        move || futures_util::FutureExt::now_or_never(async move { task.attend(patience, std::future::pending::<()>()).await })
    });
    assert!(waits.join().unwrap().is_none(), "it waits as long as there is a runtime");
    drop(first);
    let told = futures_util::FutureExt::now_or_never(ticker.task.attend(patience, std::future::pending::<()>()));
    assert!(told.unwrap().is_none());
}

#[test]
fn future_of_ended_task_is_dropped_on_any_runtime() {
    let runtimes = Runtimes::new();
    let (driven, undriven, ended) = (multi_thread(), current_thread(), current_thread());
    let mut tickers = [&driven, &undriven, &ended].map(|runtime| runtime.block_on(async { Ticker::start(&runtimes) }));
    drop(ended);
    driven.block_on(tickers[0].ticks());
    for ticker in &mut tickers {
        ticker.task.end();
        assert!(ticker.task.is_finished());
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !ticker.is_dropped() {
            assert!(std::time::Instant::now() < deadline, "its future is still there");
            std::thread::yield_now();
        }
    }
    undriven.block_on(async { tokio::time::sleep(MOMENT).await });
    for runtime in [&driven, &undriven] {
        assert_eq!(runtime.metrics().num_alive_tasks(), 0);
    }
}

#[test]
fn task_can_end_itself() {
    let runtimes = Runtimes::new();
    current_thread().block_on(async {
        let prepared = runtimes.prepare();
        let (task, own) = (prepared.task(), prepared.task());
        prepared.start(async move {
            own.end();
            std::future::pending::<()>().await;
        });
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn panicked_task_ends_and_does_not_move() {
    let runtimes = Runtimes::new();
    let (first, second) = (current_thread(), current_thread());
    second.block_on(async { runtimes.note() });
    let task = first.block_on(async {
        let task = runtimes.spawn(async { panic!("on purpose") });
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
        task
    });
    drop(first);
    second.block_on(async { tokio::time::sleep(MOMENT).await });
    assert!(task.is_finished() && !task.is_stranded());
}

#[test]
fn task_ends_when_client_and_runtime_are_dropped() {
    let runtimes = Runtimes::new();
    let first = current_thread();
    let mut ticker = first.block_on(async { Ticker::start(&runtimes) });
    drop(runtimes);
    first.block_on(ticker.ticks());
    drop(first);
    assert!(ticker.is_dropped());
}

#[test]
fn task_without_runtime_is_dropped_with_client() {
    let runtimes = Runtimes::new();
    let first = current_thread();
    let mut ticker = first.block_on(async { Ticker::start(&runtimes) });
    drop(first);
    assert!(!ticker.is_dropped());
    drop(runtimes);
    assert!(ticker.is_dropped());
}

#[test]
fn many_tasks_move_from_many_ending_runtimes() {
    let runtimes = Runtimes::new();
    let last = multi_thread();
    last.block_on(async { runtimes.note() });
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let runtimes = runtimes.clone();
            std::thread::spawn(move || {
                let runtime = current_thread();
                runtime.block_on(async {
                    let tickers: Vec<_> = (0..10).map(|_| Ticker::start(&runtimes)).collect();
                    tickers[0].ticks().await;
                    tickers
                })
            })
        })
        .collect();
    let tickers: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    last.block_on(async {
        for ticker in &tickers {
            ticker.ticks().await;
        }
    });
    assert_eq!(runtimes.inner().known.len(), 1, "runtimes that ended are forgotten");
}

#[test]
fn ended_runtimes_are_removed() {
    let (runtimes, own) = (Runtimes::new(), PerRuntime::<u32>::default());
    for number in 0..10 {
        let runtime = current_thread();
        let value = runtime.block_on(async {
            runtimes.note();
            own.here(|| number)
        });
        assert_eq!(*value, number);
        assert!(runtimes.inner().known.len() <= 2);
        assert!(format!("{own:?}").contains("runtimes: 1"), "{own:?}");
    }
}

#[test]
fn value_is_created_once_per_runtime() {
    let own = PerRuntime::<u32>::default();
    let (one, other) = (multi_thread(), current_thread());
    for _ in 0..3 {
        assert_eq!(*one.block_on(async { own.here(|| 1) }), 1);
        assert_eq!(*other.block_on(async { own.here(|| 2) }), 2);
        assert_eq!(*own.here(|| 3), 3, "outside of a runtime");
    }
    // `other` is not driven now, but still exists, so it keeps its value.
    drop(one);
    current_thread().block_on(async { own.here(|| 4) });
    assert_eq!(*other.block_on(async { own.here(|| 5) }), 2);
}

#[test]
fn timer_continues_on_another_runtime() {
    let (first, second) = (current_thread(), current_thread());
    let mut timer = Box::pin(sleep(MOMENT));
    let begun = Instant::now();
    let mut once = |runtime: &Runtime| runtime.block_on(async { futures_util::FutureExt::now_or_never(timer.as_mut()) });
    assert!(once(&first).is_none());
    drop(first);
    second.block_on(timer);
    assert!(begun.elapsed() >= MOMENT);
}
