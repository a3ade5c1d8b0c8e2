//! Tests of [`Follow`] with the in-memory store and paused time. `Follow` must carry out the
//! engine's decisions without losing a change.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::*;
use crate::error::ErrorKind;
use crate::key::Key;
use crate::store::memory::{Calls, MemoryStore};
use crate::store::{Event, Op, Range, Txn};

/// A time that is longer than every backoff. A step that has not come within this time will not
/// come.
const LONG: Duration = Duration::from_secs(60);

fn directory() -> Key {
    Key::parse("/a").unwrap()
}

async fn put(store: &MemoryStore, key: &str, value: &str) -> Revision {
    let op = Op::put(&Key::parse(key).unwrap(), Bytes::copy_from_slice(value.as_bytes()));
    store.commit(Txn { then: vec![op], ..Txn::default() }).await.unwrap().revision
}

async fn delete(store: &MemoryStore, key: &str) -> Revision {
    let op = Op::delete(&Key::parse(key).unwrap());
    store.commit(Txn { then: vec![op], ..Txn::default() }).await.unwrap().revision
}

fn follow(store: &MemoryStore, start: Start) -> Follow {
    Follow::new(Arc::new(store.clone()), &RetryPolicy::default(), Span::Below(directory()), "/a", start)
}

async fn snapshot(follow: &mut Follow) -> Snapshot {
    match step(follow).await {
        Step::Reset(snapshot) => snapshot,
        other => panic!("no reset: {other:?}"),
    }
}

async fn step(follow: &mut Follow) -> Step {
    loop {
        match timeout(LONG, follow.next()).await.expect("a step").expect("no end").expect("no error") {
            Step::Progress(_) => {}
            step => return step,
        }
    }
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn written(step: &Step) -> Vec<(String, String)> {
    let Step::Batch(batch) = step else { panic!("no batch: {step:?}") };
    let put = |event: &Event| match event {
        Event::Put { kv, .. } => (text(&kv.key), text(&kv.value)),
        Event::Delete { key, .. } => (text(key), "deleted".to_owned()),
    };
    batch.events.iter().map(put).collect()
}

fn tree(snapshot: &Snapshot) -> BTreeMap<String, String> {
    snapshot.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
}

#[tokio::test(start_paused = true)]
async fn snapshot_comes_before_changes() {
    let store = MemoryStore::new();
    put(&store, "/a/x", "1").await;
    put(&store, "/ab", "not below").await;
    let mut follow = follow(&store, Start::Now);
    let first = snapshot(&mut follow).await;
    assert_eq!(tree(&first), BTreeMap::from([("/a/x".to_owned(), "1".to_owned())]));
    put(&store, "/a/y", "2").await;
    assert_eq!(written(&step(&mut follow).await), [("/a/y".to_owned(), "2".to_owned())]);
    delete(&store, "/a/x").await;
    assert_eq!(written(&step(&mut follow).await), [("/a/x".to_owned(), "deleted".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn slow_watch_does_not_delay_first_step_beyond_timeout() {
    let store = MemoryStore::new();
    put(&store, "/a/x", "1").await;
    store.faults().delay(Calls::Reads, Duration::from_secs(4));
    store.faults().delay(Calls::Watches, Duration::from_secs(60));
    let begun = Instant::now();
    let mut follow = follow(&store, Start::Now);
    // A caller that drops the future and calls `next` again does not wait longer.
    timeout(Duration::from_secs(9), follow.next()).await.unwrap_err();
    assert_eq!(snapshot(&mut follow).await.kvs.len(), 1);
    assert_eq!(begun.elapsed(), RetryPolicy::default().call_timeout);
    assert_eq!(follow.interruption().unwrap().error.kind(), ErrorKind::Timeout);
    // The first step did not wait for the request to open the watch, which is still running.
    put(&store, "/a/y", "2").await;
    let step = timeout(Duration::from_secs(55), follow.next()).await.expect("in time").unwrap().unwrap();
    assert_eq!((written(&step), begun.elapsed().as_secs()), (vec![("/a/y".to_owned(), "2".to_owned())], 64));
    assert!(follow.interruption().is_none());
}

#[tokio::test(start_paused = true)]
async fn broken_connections_neither_lose_nor_repeat_changes() {
    let store = MemoryStore::new();
    let mut follow = follow(&store, Start::Now);
    assert_eq!(snapshot(&mut follow).await.reason, Reason::Start);
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let mut history = Vec::new();
            for round in 0..1000 {
                history.push((put(&store, &format!("/a/{}", round % 7), &round.to_string()).await, round.to_string()));
                match round % 10 {
                    3 if round % 20 == 3 => store.faults().drop_connections(),
                    7 if round % 40 == 7 => store.faults().lag_watches(),
                    9 => {
                        store.faults().drop_connections();
                        store.faults().lose_reply(Calls::Watches, 1);
                    }
                    _ => {}
                }
                sleep(Duration::from_millis(20)).await;
            }
            history
        }
    });
    let mut seen = Vec::new();
    while seen.len() < 1000 {
        match step(&mut follow).await {
            Step::Batch(batch) => {
                let [Event::Put { kv, .. }] = batch.events.as_slice() else { panic!("one put a revision: {batch:?}") };
                seen.push((batch.revision, text(&kv.value)));
            }
            other => panic!("the history was kept: {other:?}"),
        }
    }
    assert_eq!(seen, writer.await.unwrap());
    assert!(follow.interruption().is_none());
}

#[tokio::test(start_paused = true)]
async fn watch_waits_for_server_restart() {
    let store = MemoryStore::new();
    let mut follow = follow(&store, Start::Now);
    snapshot(&mut follow).await;
    put(&store, "/a/x", "1").await;
    assert!(matches!(step(&mut follow).await, Step::Batch(_)));
    store.faults().stop();
    // The server is down for an hour. A caller can drop the future and call `next` again.
    for _ in 0..60 {
        assert!(timeout(LONG, follow.next()).await.is_err(), "the server is down");
        let interruption = follow.interruption().expect("it is broken");
        assert_eq!(interruption.error.kind(), ErrorKind::Unavailable);
        assert_eq!(interruption.error.key(), Some(&directory()));
    }
    let since = follow.interruption().expect("it is broken").since;
    assert!(Instant::now().into_std().duration_since(since) >= LONG * 59, "since the beginning");
    store.faults().start();
    put(&store, "/a/x", "2").await;
    assert_eq!(written(&step(&mut follow).await), [("/a/x".to_owned(), "2".to_owned())]);
    assert!(follow.interruption().is_none());
}

#[tokio::test(start_paused = true)]
async fn reconnect_attempts_follow_backoff() {
    let store = MemoryStore::new();
    let mut follow = follow(&store, Start::Now);
    snapshot(&mut follow).await;
    store.faults().drop_connections();
    // The largest possible number of failures in an hour: after the first few failures, one each
    // second (half of `max_delay`).
    store.faults().fail(Calls::Watches, 3600 + 10, ErrorKind::Unavailable);
    put(&store, "/a/x", "1").await;
    assert!(timeout(Duration::from_secs(3600), follow.next()).await.is_err(), "it tried more often than the policy says");
    store.faults().clear();
    assert!(matches!(step(&mut follow).await, Step::Batch(_)));
}

#[tokio::test(start_paused = true)]
async fn compaction_while_disconnected_resets_watch() {
    let store = MemoryStore::new();
    for key in ["/a/gone", "/a/kept", "/a/changed"] {
        put(&store, key, "1").await;
    }
    let mut follow = follow(&store, Start::Now);
    snapshot(&mut follow).await;
    store.faults().drop_connections();
    delete(&store, "/a/gone").await;
    put(&store, "/a/changed", "2").await;
    let revision = put(&store, "/a/new", "1").await;
    store.faults().compact();
    let reset = snapshot(&mut follow).await;
    assert_eq!((reset.revision, reset.reason), (revision, Reason::HistoryLost));
    let expected = [("/a/changed", "2"), ("/a/kept", "1"), ("/a/new", "1")];
    assert_eq!(tree(&reset), expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    put(&store, "/a/new", "2").await;
    assert_eq!(written(&step(&mut follow).await), [("/a/new".to_owned(), "2".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn compaction_ahead_of_slow_reader_resets_watch() {
    let store = MemoryStore::new();
    let mut follow = follow(&store, Start::Now);
    snapshot(&mut follow).await;
    for round in 0..300 {
        put(&store, "/a/x", &round.to_string()).await;
    }
    for round in 0..152 {
        assert_eq!(written(&step(&mut follow).await), [("/a/x".to_owned(), round.to_string())]);
    }
    store.faults().compact();
    let reset = snapshot(&mut follow).await;
    assert_eq!((reset.reason, tree(&reset)), (Reason::HistoryLost, [("/a/x".to_owned(), "299".to_owned())].into()));
}

#[tokio::test(start_paused = true)]
async fn wiped_server_resets_watch_after_any_number_of_writes() {
    for writes in [0, 3, 500] {
        let store = MemoryStore::new();
        for round in 0..20 {
            put(&store, "/a/old", &round.to_string()).await;
        }
        let mut follow = follow(&store, Start::Now);
        let seen = snapshot(&mut follow).await.revision;
        // The watch catches up within this hour.
        let _ = timeout(Duration::from_secs(3600), follow.next()).await;
        store.faults().wipe();
        for round in 0..writes {
            put(&store, "/a/new", &round.to_string()).await;
        }
        let reset = snapshot(&mut follow).await;
        assert_eq!(reset.reason, Reason::Rewound, "after {writes} writes; {seen} was seen, {} is now", reset.revision);
        assert!(!tree(&reset).contains_key("/a/old"));
        put(&store, "/a/new", "again").await;
        assert_eq!(written(&step(&mut follow).await), [("/a/new".to_owned(), "again".to_owned())]);
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_next_future_loses_no_change() {
    let store = MemoryStore::new();
    store.faults().delay(Calls::Watches, Duration::from_millis(7));
    store.faults().delay(Calls::Reads, Duration::from_millis(3));
    let mut follow = follow(&store, Start::Now);
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            sleep(Duration::from_millis(100)).await;
            for round in 0..200 {
                put(&store, "/a/x", &round.to_string()).await;
                if round % 5 == 0 {
                    store.faults().drop_connections();
                }
                sleep(Duration::from_millis(11)).await;
            }
        }
    });
    let mut seen = Vec::new();
    while seen.len() < 200 {
        match timeout(Duration::from_millis(1), follow.next()).await {
            Ok(Some(Ok(step @ Step::Batch(_)))) => seen.extend(written(&step).into_iter().map(|(_, value)| value)),
            Ok(Some(Ok(Step::Reset(snapshot)))) => assert_eq!((snapshot.reason, seen.len()), (Reason::Start, 0)),
            Ok(Some(Ok(Step::Progress(_)))) | Err(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, (0..200).map(|round| round.to_string()).collect::<Vec<_>>());
    writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn watch_from_past_revision_yields_later_changes() {
    let store = MemoryStore::new();
    let then = put(&store, "/a/x", "1").await;
    put(&store, "/a/x", "2").await;
    put(&store, "/a/x", "3").await;
    let mut past = follow(&store, Start::Since(then));
    let first = snapshot(&mut past).await;
    assert_eq!((first.revision, tree(&first)), (then, [("/a/x".to_owned(), "1".to_owned())].into()));
    for value in ["2", "3"] {
        assert_eq!(written(&step(&mut past).await), [("/a/x".to_owned(), value.to_owned())]);
    }

    store.faults().compact();
    let lost = snapshot(&mut follow(&store, Start::Since(then))).await;
    assert_eq!((lost.reason, tree(&lost)), (Reason::HistoryLost, [("/a/x".to_owned(), "3".to_owned())].into()));
}

#[tokio::test(start_paused = true)]
async fn failed_first_read_ends_watch() {
    let store = MemoryStore::new();
    store.faults().stop();
    let mut follow = follow(&store, Start::Now);
    let error = timeout(LONG, follow.next()).await.expect("the call's time is limited").expect("an item").expect_err("an error");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(follow.next().await.is_none());
}

/// Returns a broken watch. Every attempt to reopen it fails with an error of this kind.
async fn cut_off(kind: ErrorKind) -> (MemoryStore, Follow) {
    let store = MemoryStore::new();
    let mut follow = follow(&store, Start::Now);
    snapshot(&mut follow).await;
    store.faults().drop_connections();
    store.faults().fail(Calls::Watches, usize::MAX, kind);
    (store, follow)
}

#[tokio::test(start_paused = true)]
async fn lasting_refusal_ends_watch() {
    let (_store, mut follow) = cut_off(ErrorKind::PermissionDenied).await;
    let begun = Instant::now();
    let error = timeout(LONG, follow.next()).await.expect("an end").expect("an item").expect_err("an error");
    assert_eq!((error.kind(), error.key()), (ErrorKind::PermissionDenied, Some(&directory())));
    assert!(begun.elapsed() >= RetryPolicy::default().call_timeout);
    assert!(follow.next().await.is_none());
    assert!(follow.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn short_refusal_loses_no_change() {
    for kind in [ErrorKind::PermissionDenied, ErrorKind::Unauthenticated, ErrorKind::Unsupported] {
        let (store, mut follow) = cut_off(kind).await;
        put(&store, "/a/x", "1").await;
        // The server refuses the watch twice, for 8 s each. The time of the first refusal must not
        // count towards the limit of the second refusal.
        for _ in 0..2 {
            assert!(timeout(Duration::from_secs(8), follow.next()).await.is_err(), "it waits");
            assert_eq!(follow.interruption().map(|interruption| interruption.error.kind()), Some(kind));
            store.faults().clear();
            assert_eq!(written(&step(&mut follow).await), [("/a/x".to_owned(), "1".to_owned())]);
            assert!(follow.interruption().is_none());
            store.faults().fail(Calls::Watches, usize::MAX, kind);
            store.faults().drop_connections();
            put(&store, "/a/x", "1").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn watch_waits_for_valid_certificate() {
    let (store, mut follow) = cut_off(ErrorKind::Tls).await;
    assert!(timeout(100 * LONG, follow.next()).await.is_err(), "it waits");
    assert_eq!(follow.interruption().map(|interruption| interruption.error.kind()), Some(ErrorKind::Tls));
    store.faults().clear();
    put(&store, "/a/x", "1").await;
    assert_eq!(written(&step(&mut follow).await), [("/a/x".to_owned(), "1".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn snapshot_and_changes_add_up_to_stored_state() {
    let store = MemoryStore::new();
    let mut follow = follow(&store, Start::Now);
    let mut tree = tree(&snapshot(&mut follow).await);
    for round in 0..50 {
        put(&store, &format!("/a/{}", round % 9), &round.to_string()).await;
        if round % 4 == 0 {
            delete(&store, &format!("/a/{}", (round * 5) % 9)).await;
        }
        if round % 10 == 0 {
            store.faults().drop_connections();
        }
    }
    let last = put(&store, "/a/end", "end").await;
    loop {
        let Step::Batch(batch) = step(&mut follow).await else { panic!("the history was kept") };
        for event in &batch.events {
            match event {
                Event::Put { kv, .. } => tree.insert(text(&kv.key), text(&kv.value)),
                Event::Delete { key, .. } => tree.remove(&text(key)),
            };
        }
        if batch.revision == last {
            break;
        }
    }
    let there = store.range(Range::of(Span::Below(directory()))).await.unwrap();
    assert_eq!(tree, there.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect());
}
