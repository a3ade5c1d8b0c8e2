//! The store through its trait: time, watches that wait, names, and one test for each fault.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::{Calls, MemoryStore};
use crate::error::{ErrorKind, Result};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::store::{
    Batch, Committed, Compare, Condition, Event, Expiry, KeyValue, Op, OpResult, Range, Span, StatsKind, Store, Txn, Watch, WatchFrom,
    WatchItem, WatchStream,
};

const SECOND: Duration = Duration::from_secs(1);

fn key(path: &str) -> Key {
    Key::parse(path).unwrap()
}

fn lease(number: u64) -> LeaseId {
    LeaseId::new(number).unwrap()
}

async fn write(store: &MemoryStore, path: &str, value: &'static str) -> Result<Committed> {
    write_until(store, path, value, Expiry::Never).await
}

async fn write_until(store: &MemoryStore, path: &str, value: &'static str, expiry: Expiry) -> Result<Committed> {
    let put = Op::Put { key: key(path), value: value.into(), expiry, previous: false };
    store.commit(Txn { then: vec![put], ..Txn::default() }).await
}

async fn read(store: &MemoryStore, path: &str) -> Option<KeyValue> {
    store.range(Range::of(Span::Key(key(path)))).await.unwrap().kvs.pop()
}

async fn value(store: &MemoryStore, path: &str) -> Option<Bytes> {
    read(store, path).await.map(|kv| kv.value)
}

async fn watch(store: &MemoryStore, path: &str, after: u64) -> WatchStream {
    let from = WatchFrom::Resumed(Revision::new(after));
    store.watch(Watch { span: Span::Below(key(path)), from }).await.unwrap()
}

/// The next batch, as revision, key and value; progress is passed over.
async fn change(stream: &mut WatchStream) -> (u64, String, Option<Bytes>) {
    loop {
        match stream.next().await.unwrap().unwrap() {
            WatchItem::Batch(Batch { revision, events }) => {
                let [event] = events.as_slice() else { panic!("{events:?}") };
                let key = String::from_utf8(event.key().to_vec()).unwrap();
                let value = if let Event::Put { kv, .. } = event { Some(kv.value.clone()) } else { None };
                return (revision.get(), key, value);
            }
            WatchItem::Progress(_) => {}
            last => panic!("{last:?}"),
        }
    }
}

fn put_event(revision: u64, key: &str, value: &'static str) -> (u64, String, Option<Bytes>) {
    (revision, key.to_owned(), Some(value.into()))
}

fn delete_event(revision: u64, key: &str) -> (u64, String, Option<Bytes>) {
    (revision, key.to_owned(), None)
}

/// The item that a watch ends with; it is checked that nothing comes after it.
async fn last_item(stream: &mut WatchStream) -> Result<WatchItem> {
    let last = stream.next().await.unwrap();
    assert!(stream.next().await.is_none(), "after its last item a watch has ended");
    last
}

/// Time passes only while everybody waits; this lets it pass for one who waits for something that must not come.
async fn nothing_for(time: Duration, future: impl Future) {
    assert!(timeout(time, future).await.is_err(), "something came");
}

#[tokio::test]
async fn a_store_needs_no_clock_and_its_handle_can_be_sent() {
    fn sendable<T: Send + Sync + Clone + 'static>(_: &T) {}
    let store = MemoryStore::new();
    sendable(&store);
    sendable(&store.faults());
    let object: Arc<dyn Store> = Arc::new(store);
    assert_eq!(object.status().await.unwrap().revision.get(), 1);
}

/// What is not awaited with a time needs no runtime at all.
#[test]
fn calls_are_answered_at_once_without_a_runtime() {
    let store = MemoryStore::new();
    write(&store, "/a", "1").now_or_never().unwrap().unwrap();
    store.grant(lease(1), SECOND).now_or_never().unwrap().unwrap();
    assert_eq!(value(&store, "/a").now_or_never().unwrap(), Some("1".into()));
    let mut stream = watch(&store, "/", 1).now_or_never().unwrap();
    assert_eq!(change(&mut stream).now_or_never().unwrap(), put_event(2, "/a", "1"));
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    let store = MemoryStore::new();
    let unknown = Expiry::With(lease(9));
    let then = vec![Op::put(&key("/a"), "1".into()), Op::Put { key: key("/b"), value: "1".into(), expiry: unknown, previous: false }];
    let error = store.commit(Txn { then, ..Txn::default() }).await.unwrap_err();
    assert_eq!((error.kind(), error.key(), error.may_have_applied()), (ErrorKind::LeaseLost, Some(&key("/b")), false));
    assert_eq!(read(&store, "/a").await, None);
    assert_eq!(store.status().await.unwrap().revision.get(), 1);
}

#[tokio::test]
async fn a_lease_is_asked_for_only_in_the_list_that_is_performed() {
    let store = MemoryStore::new();
    let unknown = Op::Put { key: key("/b"), value: "1".into(), expiry: Expiry::With(lease(9)), previous: false };
    let compares = vec![Compare::key(&key("/a"), Condition::Present)];
    let txn = Txn { compares, then: vec![unknown], otherwise: vec![Op::Get(Span::Key(key("/a")))] };
    let done = store.commit(txn).await.unwrap();
    assert!(!done.succeeded && matches!(done.results.as_slice(), [OpResult::Get(reply)] if reply.kvs.is_empty()));
}

#[tokio::test]
async fn an_error_of_a_read_names_the_key() {
    let store = MemoryStore::new();
    let past = Range { revision: Some(Revision::new(5)), ..Range::of(Span::Below(key("/d"))) };
    let error = store.range(past).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::HistoryLost, Some(&key("/d"))));
}

#[tokio::test]
async fn those_who_name_a_store_share_it_until_the_last_handle_is_gone() {
    let name = "those_who_name_a_store_share_it";
    let first = MemoryStore::named(name);
    write(&first, "/a", "1").await.unwrap();
    let second = MemoryStore::named(name);
    assert_eq!(value(&second, "/a").await, Some("1".into()));
    assert_eq!(value(&MemoryStore::named("another"), "/a").await, None);
    drop(first);
    assert_eq!(value(&MemoryStore::named(name), "/a").await, Some("1".into()));
    drop(second);
    assert_eq!(value(&MemoryStore::named(name), "/a").await, None);
}

#[tokio::test]
async fn a_store_says_what_it_is() {
    let store = MemoryStore::new();
    let status = store.status().await.unwrap();
    let members = store.members().await.unwrap();
    assert_eq!((status.store, members.len()), ("memory", 1));
    assert_eq!(status.member.as_ref(), members.first().map(|member| &member.id));
    assert_ne!(status.cluster, MemoryStore::new().status().await.unwrap().cluster);
    let error = store.stats(StatsKind::Store).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("status()"));
}

#[tokio::test]
async fn history_that_is_not_kept_is_lost() {
    let store = MemoryStore::new();
    store.keep_history(2);
    for _ in 0..5 {
        write(&store, "/a", "1").await.unwrap();
    }
    let read = |revision| store.range(Range { revision: Some(Revision::new(revision)), ..Range::of(Span::Key(key("/a"))) });
    assert!(read(4).await.is_ok());
    assert_eq!(read(3).await.unwrap_err().kind(), ErrorKind::HistoryLost);
}

// Leases.

#[tokio::test(start_paused = true)]
async fn a_lease_takes_all_its_keys_with_it_in_one_revision_and_a_watch_sees_it_by_waiting() {
    let store = MemoryStore::new();
    let begun = Instant::now();
    assert_eq!(store.grant(lease(1), 3600 * SECOND).await.unwrap(), 3600 * SECOND);
    for path in ["/d/b", "/d/a"] {
        write_until(&store, path, "1", Expiry::With(lease(1))).await.unwrap();
    }
    let mut stream = watch(&store, "/d", 3).await;
    // Nobody calls the store.
    let WatchItem::Batch(batch) = stream.next().await.unwrap().unwrap() else { panic!("no batch") };
    assert_eq!((batch.revision.get(), batch.events.len()), (4, 2));
    assert!(batch.events.iter().all(|event| matches!(event, Event::Delete { previous: Some(_), .. })));
    assert_eq!(begun.elapsed().as_secs(), 3600);
    assert_eq!(store.time_to_live(lease(1)).await.unwrap(), None);
    assert_eq!(store.keep_alive(lease(1)).await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_at_the_next_call_where_nobody_watches() {
    let store = MemoryStore::new();
    write_until(&store, "/a", "1", Expiry::After(Duration::from_millis(2500))).await.unwrap();
    let attached = read(&store, "/a").await.unwrap().lease.unwrap();
    assert_eq!(store.time_to_live(attached).await.unwrap(), Some(3 * SECOND), "rounded up");
    sleep(3 * SECOND - Duration::from_millis(1)).await;
    assert!(read(&store, "/a").await.is_some());
    sleep(Duration::from_millis(1)).await;
    assert_eq!(store.status().await.unwrap().revision.get(), 3);
    assert_eq!(read(&store, "/a").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_granted_while_a_watch_waits_ends_in_its_time() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 1).await;
    let waits = tokio::spawn(async move {
        let begun = Instant::now();
        change(&mut stream).await;
        (change(&mut stream).await, begun.elapsed().as_secs())
    });
    tokio::task::yield_now().await;
    write_until(&store, "/a", "1", Expiry::After(5 * SECOND)).await.unwrap();
    assert_eq!(waits.await.unwrap(), (delete_event(3, "/a"), 5));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_kept_alive_does_not_end() {
    let store = MemoryStore::new();
    store.grant(lease(1), SECOND).await.unwrap();
    write_until(&store, "/a", "1", Expiry::With(lease(1))).await.unwrap();
    for _ in 0..10 {
        sleep(SECOND).await;
        assert_eq!(store.keep_alive(lease(1)).await.unwrap(), 2 * SECOND, "the shortest that is granted");
    }
    assert!(read(&store, "/a").await.is_some());
    assert_eq!(store.time_to_live(lease(1)).await.unwrap(), Some(2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_written_anew_leaves_its_lease() {
    let store = MemoryStore::new();
    write_until(&store, "/a", "1", Expiry::After(2 * SECOND)).await.unwrap();
    write_until(&store, "/b", "1", Expiry::After(2 * SECOND)).await.unwrap();
    write(&store, "/a", "2").await.unwrap();
    write_until(&store, "/b", "2", Expiry::After(9 * SECOND)).await.unwrap();
    sleep(8 * SECOND).await;
    assert!(read(&store, "/a").await.is_some_and(|kv| kv.lease.is_none()));
    assert!(read(&store, "/b").await.is_some());
    assert_eq!(store.status().await.unwrap().revision.get(), 5, "a lease without keys makes no revision");
    sleep(SECOND).await;
    assert!(read(&store, "/b").await.is_none());
}

#[tokio::test]
async fn a_revoked_lease_is_gone_with_its_keys_and_can_be_revoked_again() {
    let store = MemoryStore::new();
    store.grant(lease(1), 60 * SECOND).await.unwrap();
    for path in ["/a", "/b"] {
        write_until(&store, path, "1", Expiry::With(lease(1))).await.unwrap();
    }
    store.revoke(lease(1)).await.unwrap();
    store.revoke(lease(1)).await.unwrap();
    let left = store.range(Range::of(Span::Below(Key::root()))).await.unwrap();
    assert_eq!((left.revision.get(), left.kvs.len()), (4, 0));
}

#[tokio::test]
async fn puts_of_one_transaction_with_the_same_time_share_a_lease() {
    let store = MemoryStore::new();
    let put = |path, ttl| Op::Put { key: key(path), value: "1".into(), expiry: Expiry::After(ttl), previous: false };
    let then = vec![put("/a", 60 * SECOND), put("/b", 60 * SECOND), put("/c", 90 * SECOND)];
    store.commit(Txn { then, ..Txn::default() }).await.unwrap();
    let of = async |path| read(&store, path).await.unwrap().lease.unwrap();
    assert_eq!(of("/a").await, of("/b").await);
    assert_ne!(of("/a").await, of("/c").await);
}

#[tokio::test]
async fn a_time_to_live_that_no_server_grants_is_refused() {
    let store = MemoryStore::new();
    let error = write_until(&store, "/a", "1", Expiry::After(Duration::MAX)).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Invalid, Some(&key("/a"))));
    assert_eq!(store.grant(lease(1), Duration::MAX).await.unwrap_err().kind(), ErrorKind::Invalid);
    // The longest one neither overflows nor ends.
    store.grant(lease(1), Duration::from_secs(9_000_000_000)).await.unwrap();
    assert!(store.time_to_live(lease(1)).await.unwrap().is_some());
}

// Watches.

#[tokio::test(start_paused = true)]
async fn a_watch_yields_the_past_and_then_what_comes() {
    let store = MemoryStore::new();
    write(&store, "/d/a", "1").await.unwrap();
    write(&store, "/d/a", "2").await.unwrap();
    let mut past = watch(&store, "/d", 0).await;
    let mut listed = store.watch(Watch { span: Span::Key(key("/d/a")), from: WatchFrom::Listed(Revision::new(3)) }).await.unwrap();
    assert_eq!(change(&mut past).await, put_event(2, "/d/a", "1"));
    assert_eq!(change(&mut past).await, put_event(3, "/d/a", "2"));
    nothing_for(SECOND, past.next()).await;
    nothing_for(SECOND, listed.next()).await;
    let waits = tokio::spawn(async move { (change(&mut past).await, change(&mut listed).await) });
    tokio::task::yield_now().await;
    write(&store, "/d/a", "3").await.unwrap();
    assert_eq!(waits.await.unwrap(), (put_event(4, "/d/a", "3"), put_event(4, "/d/a", "3")));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_loses_nothing_and_delays_nobody() {
    let store = MemoryStore::new();
    let mut slow = watch(&store, "/", 1).await;
    for _ in 0..10_000 {
        write(&store, "/a", "1").await.unwrap();
    }
    for revision in 2..10_002 {
        assert_eq!(change(&mut slow).await.0, revision);
    }
    nothing_for(SECOND, slow.next()).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_watch_is_told_how_far_it_is_at_a_bounded_rate() {
    let store = MemoryStore::new();
    let mut idle = watch(&store, "/idle", 1).await;
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            // More changes than are looked at in one go, all at once, and then one each tenth of a second.
            for _ in 0..9_000 {
                write(&store, "/busy", "1").await.unwrap();
            }
            for _ in 0..100 {
                write(&store, "/busy", "1").await.unwrap();
                sleep(SECOND / 10).await;
            }
        }
    });
    let mut told = Vec::new();
    while let Ok(Some(item)) = timeout(5 * SECOND, idle.next()).await {
        let Ok(WatchItem::Progress(revision)) = item else { panic!("{item:?}") };
        told.push(revision.get());
    }
    writer.await.unwrap();
    assert!(told.is_sorted() && told.last() == Some(&9_101), "{told:?}");
    assert!((9..=13).contains(&told.len()), "at most one in a second, of ten seconds: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_behind_a_long_history_of_others_comes_at_once() {
    let store = MemoryStore::new();
    for _ in 0..20_000 {
        write(&store, "/busy", "1").await.unwrap();
    }
    write(&store, "/d/a", "1").await.unwrap();
    let begun = Instant::now();
    assert_eq!(change(&mut watch(&store, "/d", 1).await).await.0, 20_002);
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_expiry_does_not_wait_for_a_report_that_is_due_later() {
    let store = MemoryStore::new();
    write_until(&store, "/d/a", "1", Expiry::After(2 * SECOND)).await.unwrap();
    let begun = Instant::now();
    let mut stream = watch(&store, "/d", 2).await;
    for (time, told) in [(1500, true), (1600, false)] {
        nothing_for(Duration::from_millis(time) - begun.elapsed(), stream.next()).await;
        write(&store, "/busy", "1").await.unwrap();
        assert_eq!(stream.next().now_or_never().is_some(), told, "the second report has to wait");
    }
    assert_eq!(change(&mut stream).await, delete_event(5, "/d/a"));
    assert_eq!(begun.elapsed(), 2 * SECOND);
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_told_so() {
    let store = MemoryStore::new();
    for _ in 0..5 {
        write(&store, "/a", "1").await.unwrap();
    }
    store.faults().compact_to(Revision::new(4));
    let mut early = watch(&store, "/", 3).await;
    assert_eq!(last_item(&mut early).await.unwrap(), WatchItem::HistoryLost { oldest: Some(Revision::new(4)) });
    let mut kept = watch(&store, "/", 4).await;
    assert_eq!(change(&mut kept).await.0, 5);
}

#[tokio::test]
async fn a_watch_from_the_future_is_told_that_the_store_is_behind() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 7).await;
    assert_eq!(last_item(&mut stream).await.unwrap(), WatchItem::Behind(Revision::new(1)));
}

/// Written before anybody reads it, and seen.
#[tokio::test]
async fn a_watch_is_established_when_it_returns() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 1).await;
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(change(&mut stream).await, put_event(2, "/a", "1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_miss_nothing_of_writers_on_other_threads() {
    const WRITERS: usize = 4;
    const WRITES: u64 = 500;
    let store = MemoryStore::new();
    let mut watchers = Vec::new();
    for _ in 0..4 {
        let mut stream = watch(&store, "/", 1).await;
        watchers.push(tokio::spawn(async move {
            for revision in 2..2 + WRITERS as u64 * WRITES {
                assert_eq!(change(&mut stream).await.0, revision);
            }
        }));
    }
    for writer in 0..WRITERS {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..WRITES {
                write(&store, &format!("/{writer}"), "1").await.unwrap();
                tokio::task::yield_now().await;
            }
        });
    }
    for watcher in watchers {
        timeout(60 * SECOND, watcher).await.expect("a watch that was not woken").unwrap();
    }
}

// Faults: one test for each.

#[tokio::test]
async fn fault_fail_next() {
    let store = MemoryStore::new();
    store.faults().fail_next(2);
    let error = write(&store, "/a", "1").await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Unavailable, false));
    assert_eq!(store.status().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(read(&store, "/a").await, None);
}

#[tokio::test]
async fn fault_fail_of_one_kind_of_calls() {
    let store = MemoryStore::new();
    let faults = store.faults();
    faults.fail(Calls::Commits, 1, ErrorKind::NoSpace);
    faults.fail(Calls::Watches, 1, ErrorKind::PermissionDenied);
    faults.fail(Calls::Leases, 1, ErrorKind::Timeout);
    faults.fail(Calls::Reads, 1, ErrorKind::Unauthenticated);
    assert!(store.members().await.is_ok());
    let asked = Watch { span: Span::Below(Key::root()), from: WatchFrom::Resumed(Revision::new(1)) };
    assert_eq!(store.watch(asked.clone()).await.err().map(|error| error.kind()), Some(ErrorKind::PermissionDenied));
    assert!(store.watch(asked).await.is_ok());
    let error = store.range(Range::of(Span::Key(key("/a")))).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Unauthenticated, Some(&key("/a"))));
    assert_eq!(store.time_to_live(lease(1)).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(write(&store, "/a", "1").await.unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(write(&store, "/a", "1").await.unwrap().revision.get(), 2);
}

#[tokio::test]
async fn fault_lose_request() {
    let store = MemoryStore::new();
    store.faults().lose_request(Calls::Commits, 1);
    let error = write(&store, "/a", "1").await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Unavailable, true));
    assert_eq!(read(&store, "/a").await, None);
}

#[tokio::test]
async fn fault_lose_reply() {
    let store = MemoryStore::new();
    store.faults().lose_reply(Calls::Commits, 1);
    let error = write(&store, "/a", "1").await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Unavailable, true));
    assert_eq!(value(&store, "/a").await, Some("1".into()));
    store.faults().lose_reply(Calls::KeepAlives, 1);
    store.faults().lose_reply(Calls::Leases, 2);
    assert!(store.grant(lease(1), 9 * SECOND).await.unwrap_err().may_have_applied());
    // The first rule that is for it is the other one.
    assert!(!store.keep_alive(lease(1)).await.unwrap_err().may_have_applied());
    assert!(store.revoke(lease(1)).await.is_err());
    assert_eq!(store.time_to_live(lease(1)).await.unwrap(), None, "it was revoked");
}

#[tokio::test]
async fn fault_lose_reply_of_a_refused_call_is_the_refusal() {
    let store = MemoryStore::new();
    store.faults().lose_reply(Calls::Commits, 1);
    let error = write_until(&store, "/a", "1", Expiry::With(lease(1))).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::LeaseLost, false));
}

#[tokio::test(start_paused = true)]
async fn fault_apply_late() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 1).await;
    store.faults().apply_late(2, 7 * SECOND);
    assert!(write_until(&store, "/a", "late", Expiry::After(3 * SECOND)).await.unwrap_err().may_have_applied());
    let guarded = Txn {
        compares: vec![Compare::key(&key("/b"), Condition::Absent)],
        then: vec![Op::put(&key("/b"), "late".into())],
        ..Txn::default()
    };
    assert!(store.commit(guarded).await.unwrap_err().may_have_applied());
    assert_eq!(read(&store, "/a").await, None);
    write(&store, "/b", "early").await.unwrap();
    let begun = Instant::now();
    assert_eq!(change(&mut stream).await, put_event(2, "/b", "early"));
    assert_eq!(change(&mut stream).await, put_event(3, "/a", "late"), "a watch sees it without a call");
    assert_eq!(begun.elapsed(), 7 * SECOND);
    assert_eq!(change(&mut stream).await, delete_event(4, "/a"), "its time began when it was applied");
    assert_eq!(begun.elapsed(), 10 * SECOND);
    assert_eq!(value(&store, "/b").await, Some("early".into()), "its compare failed then");
}

#[tokio::test(start_paused = true)]
async fn fault_apply_late_is_seen_by_a_watch_that_waits_already() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 1).await;
    let begun = Instant::now();
    let waits = tokio::spawn(async move { change(&mut stream).await });
    tokio::task::yield_now().await;
    store.faults().apply_late(1, 7 * SECOND);
    assert!(write(&store, "/a", "late").await.is_err());
    assert_eq!(waits.await.unwrap(), put_event(2, "/a", "late"));
    assert_eq!(begun.elapsed(), 7 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn fault_delay() {
    let store = MemoryStore::new();
    store.faults().delay(Calls::Commits, 5 * SECOND);
    let begun = Instant::now();
    nothing_for(3 * SECOND, write(&store, "/a", "1")).await;
    assert_eq!(read(&store, "/a").await, None, "a call that was dropped while it waited is not performed");
    assert_eq!(begun.elapsed(), 3 * SECOND, "reads are not delayed");
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(begun.elapsed(), 8 * SECOND);
    store.faults().delay(Calls::Commits, Duration::ZERO);
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(begun.elapsed(), 8 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn fault_clear() {
    let store = MemoryStore::new();
    store.faults().fail_next(usize::MAX);
    store.faults().delay(Calls::All, 60 * SECOND);
    store.faults().clear();
    let begun = Instant::now();
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn fault_compact() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 1).await;
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(change(&mut stream).await.0, 2);
    store.faults().compact();
    write(&store, "/a", "2").await.unwrap();
    assert_eq!(change(&mut stream).await.0, 3, "a watch that has seen everything goes on");
    write(&store, "/a", "3").await.unwrap();
    store.faults().compact();
    assert_eq!(last_item(&mut stream).await.unwrap(), WatchItem::HistoryLost { oldest: Some(Revision::new(4)) });
    let past = Range { revision: Some(Revision::new(3)), ..Range::of(Span::Key(key("/a"))) };
    assert_eq!(store.range(past).await.unwrap_err().kind(), ErrorKind::HistoryLost);
    assert_eq!(value(&store, "/a").await, Some("3".into()));
}

#[tokio::test]
async fn fault_compact_to() {
    let store = MemoryStore::new();
    for _ in 0..3 {
        write(&store, "/a", "1").await.unwrap();
    }
    let oldest = async || {
        let mut stream = watch(&store, "/", 0).await;
        let item = stream.next().await.unwrap().unwrap();
        if let WatchItem::HistoryLost { oldest } = item { oldest.map(Revision::get) } else { None }
    };
    assert_eq!(oldest().await, None);
    for (to, expected) in [(3, 3), (2, 3), (99, 4)] {
        store.faults().compact_to(Revision::new(to));
        assert_eq!(oldest().await, Some(expected));
    }
}

#[tokio::test]
async fn fault_expire() {
    let store = MemoryStore::new();
    store.grant(lease(1), 3600 * SECOND).await.unwrap();
    write_until(&store, "/a", "1", Expiry::With(lease(1))).await.unwrap();
    let mut stream = watch(&store, "/", 2).await;
    assert!(store.faults().expire(lease(1)));
    assert_eq!(change(&mut stream).await, delete_event(3, "/a"));
    assert!(!store.faults().expire(lease(1)));
    assert_eq!(store.keep_alive(lease(1)).await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

#[tokio::test]
async fn fault_drop_connections() {
    let store = MemoryStore::new();
    let mut waiting = watch(&store, "/", 1).await;
    let waiting = tokio::spawn(async move { last_item(&mut waiting).await });
    let mut unread = watch(&store, "/", 1).await;
    tokio::task::yield_now().await;
    store.faults().drop_connections();
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable, "one that waits is told by the fault itself");
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(last_item(&mut unread).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let mut resumed = watch(&store, "/", 1).await;
    assert_eq!(change(&mut resumed).await, put_event(2, "/a", "1"));
}

#[tokio::test]
async fn fault_lag_watches() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 1).await;
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(change(&mut stream).await.0, 2);
    write(&store, "/a", "2").await.unwrap();
    store.faults().lag_watches();
    assert_eq!(last_item(&mut stream).await.unwrap(), WatchItem::Lagged);
    let mut again = watch(&store, "/", 2).await;
    assert_eq!(change(&mut again).await, put_event(3, "/a", "2"));
}

#[tokio::test(start_paused = true)]
async fn fault_stop_and_start() {
    let store = MemoryStore::new();
    write_until(&store, "/a", "1", Expiry::After(10 * SECOND)).await.unwrap();
    let attached = read(&store, "/a").await.unwrap().lease.unwrap();
    let mut stream = watch(&store, "/", 2).await;
    sleep(9 * SECOND).await;
    store.faults().stop();
    assert_eq!(last_item(&mut stream).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let error = write(&store, "/b", "1").await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Unavailable, false));
    let asked = Watch { span: Span::Below(Key::root()), from: WatchFrom::Resumed(Revision::new(2)) };
    assert!(store.watch(asked).await.is_err() && store.keep_alive(attached).await.is_err() && store.status().await.is_err());
    sleep(3600 * SECOND).await;
    store.faults().start();
    store.faults().start();
    assert_eq!(store.time_to_live(attached).await.unwrap(), Some(10 * SECOND), "no lease ends meanwhile, and each begins anew");
    let begun = Instant::now();
    let mut stream = watch(&store, "/", 2).await;
    assert_eq!(change(&mut stream).await, delete_event(3, "/a"));
    assert_eq!(begun.elapsed(), 10 * SECOND);
}

#[tokio::test]
async fn fault_wipe() {
    let store = MemoryStore::new();
    let cluster = store.status().await.unwrap().cluster;
    store.keep_history(3);
    store.grant(lease(1), 60 * SECOND).await.unwrap();
    for _ in 0..5 {
        write_until(&store, "/a", "1", Expiry::With(lease(1))).await.unwrap();
    }
    let mut open = watch(&store, "/", 6).await;
    store.faults().wipe();
    assert_eq!(last_item(&mut open).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let mut resumed = watch(&store, "/", 6).await;
    assert_eq!(last_item(&mut resumed).await.unwrap(), WatchItem::Behind(Revision::new(1)));
    assert_eq!(store.keep_alive(lease(1)).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(read(&store, "/a").await, None);
    let status = store.status().await.unwrap();
    assert_eq!((status.revision.get(), status.cluster), (1, cluster));
    assert_eq!(write(&store, "/a", "1").await.unwrap().revision.get(), 2);
}

/// The rules of the page of `Faults`: the delay first, then a stopped server, which uses up no other fault, then the queue.
#[tokio::test(start_paused = true)]
async fn faults_compose() {
    let store = MemoryStore::new();
    let faults = store.faults();
    faults.delay(Calls::All, SECOND);
    faults.lose_reply(Calls::Commits, 1);
    faults.fail(Calls::Commits, 1, ErrorKind::NoSpace);
    let mut call = pin!(write(&store, "/a", "0"));
    nothing_for(SECOND / 2, &mut call).await;
    faults.stop();
    assert!(!call.await.unwrap_err().may_have_applied(), "stopped while it waited");
    faults.start();
    assert!(write(&store, "/a", "1").await.unwrap_err().may_have_applied());
    assert_eq!(write(&store, "/a", "2").await.unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(write(&store, "/a", "3").await.unwrap().revision.get(), 3);
}
