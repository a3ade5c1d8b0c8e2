//! Watches that start far in the past: which changes they yield, in which order, and which watches
//! remain on the server afterwards.

use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Op, Span, Store, Txn, Watch, WatchFrom, WatchItem, WatchStream};
use etcd_typed::testing::{Etcd, Proxy};
use etcd_typed::{Client, ErrorKind, Revision};
use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use tokio::time::{sleep, timeout};

use super::raw::Admin;
use super::watches::{WATCHERS, until_metric};
use super::{PATIENCE, key, store, write};

/// Writes this many revisions, every `every`-th of them below the watched directory. Returns the
/// revisions below the watched directory.
async fn history(store: &V3Store, revisions: u64, every: u64) -> Vec<Revision> {
    let mut of_span = Vec::new();
    for round in 0..revisions / 100 {
        let writes = (0..100).map(|number| {
            let number = round * 100 + number;
            let path = if number.is_multiple_of(every) { format!("/app/{}", number % 7) } else { "/elsewhere".to_owned() };
            async move {
                let txn = Txn::new(vec![Op::put(&key(&path), Bytes::from(number.to_string()))]);
                (path.starts_with("/app"), store.commit(txn).await.unwrap().revision)
            }
        });
        of_span.extend(join_all(writes).await.into_iter().filter(|(of_span, _)| *of_span).map(|(_, revision)| revision));
    }
    of_span.sort_unstable();
    of_span
}

/// Compares two histories. On failure, shows where they differ.
fn assert_same(seen: &[Revision], written: &[Revision]) {
    let differ = seen.iter().zip(written).position(|(seen, written)| seen != written);
    assert!(
        differ.is_none() && seen.len() == written.len(),
        "{} of {}; first {differ:?}: {:?} for {:?}",
        seen.len(),
        written.len(),
        differ.map(|at| &seen[at.saturating_sub(2)..seen.len().min(at + 3)]),
        differ.map(|at| &written[at.saturating_sub(2)..written.len().min(at + 3)]),
    );
}

/// Reads this many revisions after `after`. Returns the revisions and the watch.
async fn replay(store: &V3Store, after: Revision, count: usize) -> (Vec<Revision>, WatchStream) {
    let watch = async |from| store.watch(Watch::new(Span::Below(key("/app")), WatchFrom::Resumed(from))).await.unwrap();
    let mut stream = watch(after).await;
    let mut seen = Vec::new();
    while seen.len() < count {
        match timeout(PATIENCE, stream.next()).await.expect("an item in time").expect("an item").expect("no error") {
            WatchItem::Batch(batch) => seen.push(batch.revision),
            WatchItem::Progress(_) => {}
            // A reader of a shared watch may be too slow. The test resumes after the last revision
            // that the reader saw.
            WatchItem::Lagged => stream = watch(seen.last().copied().unwrap_or(after)).await,
            other => panic!("{other:?} after {} items", seen.len()),
        }
    }
    (seen, stream)
}

/// Returns the revision of the next batch. Skips progress items, which the store may yield while it
/// replays a long history.
async fn next_batch(stream: &mut WatchStream) -> Revision {
    loop {
        match timeout(PATIENCE, stream.next()).await.expect("an item in time").expect("an item").expect("no error") {
            WatchItem::Batch(batch) => return batch.revision,
            WatchItem::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Checks that a watch replays a history in which every `every`-th revision is below the watched
/// directory.
async fn replays_whole_history(every: u64) {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let written = history(&store, 20_000, every).await;
    let (seen, mut stream) = replay(&store, Revision::new(1), written.len()).await;
    assert_same(&seen, &written);
    // The store reads the history in sections, each with its own watch. The last sections may
    // contain no watched key. After the sections, the watch continues with new changes.
    let next = async {
        until_metric(&etcd, WATCHERS, 1.0).await;
        write(&store, &key("/app/a"), "next").await
    };
    let (seen, next) = join(next_batch(&mut stream), next).await;
    assert_eq!(seen.get(), next);
    drop(stream);
    until_metric(&etcd, WATCHERS, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_history_is_replayed_in_order() {
    replays_whole_history(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sparse_history_is_replayed_in_order() {
    replays_whole_history(37).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_with_very_few_changes_is_replayed() {
    replays_whole_history(3_000).await;
}

/// The layers above the store resume where the connection broke: the typed stream yields each
/// change once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_stream_survives_cuts_during_replay() {
    let etcd = Etcd::start().await;
    let written = history(&store(&etcd.endpoint()), 20_000, 1).await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let client = Client::connect(&format!("etcd://{}", proxy.endpoint())).await.unwrap();
    let map = client.entries::<String, u64>("/app").unwrap();
    let read = async || {
        let mut changes = map.watch().since(Revision::new(1)).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < written.len() {
            let update = timeout(PATIENCE, changes.next()).await.expect("an item in time").expect("an item").expect("no error");
            assert!(!update.resynced && update.changes.len() == 1, "{update:?}");
            seen.push(update.revision);
        }
        seen
    };
    // The server sends a message every 100 ms. Some cuts happen before the first message, and some
    // between two messages.
    for cuts in [1, 3, 9] {
        let cut = async {
            for _ in 0..cuts {
                sleep(Duration::from_millis(40)).await;
                proxy.cut();
            }
        };
        let (seen, ()) = join(read(), cut).await;
        assert_same(&seen, &written);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_concurrent_replays_miss_nothing() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let written = history(&store, 5_000, 1).await;
    let all = join_all((0..20).map(|_| replay(&store, Revision::new(1), written.len()))).await;
    for (seen, _) in all {
        assert_same(&seen, &written);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_reports_compaction_after_earlier_batches() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let store = store(&proxy.endpoint());
    let written = history(&store, 20_000, 1).await;
    for compacts in [true, false] {
        let start = if compacts { Revision::new(1) } else { written[10_000] };
        let expected = written.iter().copied().filter(|revision| *revision > start);
        let (mut seen, mut stream) = replay(&store, start, 10).await;
        if compacts {
            Admin::of(&etcd.endpoint()).compact(written[9_000].get()).await;
        } else {
            proxy.cut();
        }
        // The server may already have sent all changes. The watch yields a prefix of the history
        // and then reports why it ended.
        loop {
            match timeout(Duration::from_secs(3), stream.next()).await {
                Ok(Some(Ok(WatchItem::Batch(batch)))) => seen.push(batch.revision),
                Ok(Some(Ok(WatchItem::Progress(_)))) => {}
                Ok(Some(Ok(WatchItem::HistoryLost { .. }))) => {
                    assert!(compacts);
                    break;
                }
                Ok(Some(Err(error))) => {
                    assert!(!compacts && error.kind() == ErrorKind::Unavailable, "{error}");
                    break;
                }
                Err(_) => {
                    assert!(compacts && seen.len() == written.len(), "{} of {}", seen.len(), written.len());
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        println!("{} of {} before the end", seen.len(), written.len());
        assert!(seen.iter().copied().eq(expected.take(seen.len())));
    }
}
