//! Waiting on a view: for a revision, for a change, or for a change of a part of the state.

use super::*;

#[tokio::test(start_paused = true)]
async fn wait_for_revision_covers_other_keys() {
    let bench = bench();
    let (_, live) = bench.open().await;
    let elsewhere = bench.put("/other", "x").await;
    bench.counting.take();
    assert_eq!(**soon(live.wait_for_revision(elsewhere)).await.unwrap(), limits());
    assert!(live.revision() >= elsewhere);
    let counts = bench.counting.take();
    assert!(counts.range <= 2 && counts.watch == 0, "one read for the store's revision, one for the keys: {counts:?}");
    // A change that the watch has reported needs no request.
    let own = bench.put("/app/low", "3").await;
    bench.counting.take();
    assert_eq!(soon(live.wait_for_revision(own)).await.unwrap().low, 3);
    assert_eq!(bench.counting.take().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn view_never_shows_states_before_awaited_revision() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    // A key is created and deleted while the watch is cut. Before the watch reports these two
    // changes, a read finds that the state is the same as before.
    bench.store.faults().fail(Calls::Watches, 5, ErrorKind::Unavailable);
    bench.store.faults().drop_connections();
    dir.pool.wait.set(&7).await.unwrap();
    dir.pool.wait.delete().await.unwrap();
    let last = bench.put("/other", "x").await;
    assert_eq!(**soon(live.wait_for_revision(last)).await.unwrap(), limits());
    assert!(!live.status().is_live());
    until_live(&live).await;
    assert!(timeout(LONG, live.changed()).await.is_err(), "{:?}", live.history());
    let written = dir.pool.wait.set(&8).await.unwrap();
    assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().pool.wait, Some(8));
}

#[tokio::test(start_paused = true)]
async fn new_view_is_no_older_than_its_call() {
    let bench = bench();
    let (dir, first) = bench.open().await;
    // The watch is cut and not resumed, so the first view misses a change and reports that it is
    // degraded.
    bench.store.faults().fail(Calls::Watches, 3, ErrorKind::Unavailable);
    bench.store.faults().drop_connections();
    dir.pool.size.set(&9).await.unwrap();
    let (cause, _) = until_degraded(&first).await;
    assert!(matches!(cause, Cause::Interrupted(_)), "{cause:?}");
    assert_eq!(first.get().pool.size, 4);
    assert_eq!(soon(dir.live()).await.unwrap().get().pool.size, 9);
    until_live(&first).await;
    assert_eq!(first.get().pool.size, 9);
}

#[tokio::test(start_paused = true)]
async fn changed_returns_newest_of_several_changes() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    for size in 10..20 {
        let written = dir.pool.size.set(&size).await.unwrap();
        soon(live.wait_for_revision(written)).await.unwrap();
    }
    assert_eq!(soon(live.changed()).await.unwrap().pool.size, 19);
    assert!(timeout(LONG, live.changed()).await.is_err(), "every change was returned");
    let mut late = live.clone();
    dir.pool.size.set(&20).await.unwrap();
    assert_eq!((soon(live.changed()).await.unwrap().pool.size, soon(late.changed()).await.unwrap().pool.size), (20, 20));
    let sizes: Vec<_> = live.history().iter().map(|state| state.pool.size).collect();
    assert_eq!(sizes, [12, 13, 14, 15, 16, 17, 18, 19, 20], "eight former states and the current one");
    assert!(live.history().is_sorted_by_key(|state| state.revision()));
    let short = soon(dir.live().history(1)).await.unwrap();
    for size in [21, 22, 23] {
        let written = dir.pool.size.set(&size).await.unwrap();
        soon(short.wait_for_revision(written)).await.unwrap();
    }
    assert_eq!(short.history().iter().map(|state| state.pool.size).collect::<Vec<_>>(), [22, 23]);
}

#[tokio::test(start_paused = true)]
async fn stream_yields_current_then_newest_state() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    let mut stream = live.stream();
    assert_eq!(soon(StreamExt::next(&mut stream)).await.unwrap().pool.size, 4);
    for size in 10..20 {
        let written = dir.pool.size.set(&size).await.unwrap();
        soon(live.wait_for_revision(written)).await.unwrap();
    }
    drop(live);
    assert_eq!(soon(stream.next()).await.unwrap().pool.size, 19, "states in between are skipped");
    dir.pool.size.set(&20).await.unwrap();
    assert_eq!(soon(stream.next()).await.unwrap().pool.size, 20, "the stream keeps the view");
}

#[tokio::test(start_paused = true)]
async fn selected_part_wakes_only_when_it_changes() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    let mut pool = live.select(|limits| &limits.pool);
    let mut name = live.select(|limits| limits.name.as_str());
    for low in 2..5 {
        let written = dir.low.set(&low).await.unwrap();
        soon(live.wait_for_revision(written)).await.unwrap();
    }
    assert!(timeout(LONG, pool.changed()).await.is_err());
    dir.pool.size.set(&9).await.unwrap();
    let part = soon(pool.changed()).await.unwrap();
    assert_eq!((part.size, part.whole().low), (9, 4));
    assert!(timeout(LONG, name.changed()).await.is_err());
    let written = dir.name.set(&"b".to_owned()).await.unwrap();
    soon(live.wait_for_revision(written)).await.unwrap();
    assert_eq!((&*name.get(), &*soon(name.changed()).await.unwrap()), ("b", "b"));
}

#[tokio::test(start_paused = true)]
async fn callback_runs_until_subscription_is_dropped() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::new(AtomicUsize::new(0));
    let sizes = seen.clone();
    let guard = live.on_change(move |limits| sizes.lock().unwrap().push(limits.pool.size));
    let panics = live.on_change(|_| panic!("a failing callback (this message is expected in the output)"));
    let count = calls.clone();
    let other = live.on_change(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    for size in [5, 6] {
        let written = dir.pool.size.set(&size).await.unwrap();
        soon(live.wait_for_revision(written)).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    drop(guard);
    let written = dir.pool.size.set(&7).await.unwrap();
    soon(live.wait_for_revision(written)).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!((seen.lock().unwrap().as_slice(), calls.load(Ordering::SeqCst)), ([5, 6].as_slice(), 3));
    drop((panics, other));
}

#[tokio::test(start_paused = true)]
async fn reader_returns_newest_state() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    let mut reader = live.reader();
    assert_eq!(reader.get().pool.size, 4);
    let written = dir.pool.size.set(&9).await.unwrap();
    let held = live.get();
    soon(live.wait_for_revision(written)).await.unwrap();
    assert_eq!((reader.get().pool.size, held.pool.size), (9, 4), "a held state does not change");
    assert_eq!(held.into_arc().pool.size, 4);
}

/// Counts how often a task was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn wait_for_revision_wakes_once_reached() {
    let bench = bench();
    let map = bench.client.entries::<String, u64>("/quotas").unwrap();
    let live = soon(map.live()).await.unwrap();
    let goal = live.revision().get() + 5;
    let (first, last) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    let mut waits_for_first = pin!(live.wait_for_revision(goal - 2));
    let mut waits_for_last = pin!(live.wait_for_revision(goal));
    let waker = Waker::from(first.clone());
    assert!(waits_for_first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let waker = Waker::from(last.clone());
    assert!(waits_for_last.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let count = |woken: &Woken| woken.0.load(Ordering::Relaxed);
    for written in 1..=5 {
        let revision = map.entry("k").unwrap().set(&written).await.unwrap();
        while live.revision() < revision {
            sleep(Duration::from_millis(1)).await;
        }
        if written == 3 {
            assert_eq!(soon(waits_for_first.as_mut()).await.unwrap().get("k"), Some(&3));
            // This step woke both tasks. The second task polls again.
            assert_eq!((count(&first), count(&last)), (1, 1));
            let waker = Waker::from(last.clone());
            assert!(waits_for_last.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
    }
    assert_eq!((count(&first), count(&last)), (1, 2));
    assert_eq!(soon(waits_for_last).await.unwrap().get("k"), Some(&5));
}
