//! Tests of the store through the `Store` trait, and helpers for the other test files. Leases,
//! watches and faults have files of their own.

mod faults;
mod leases;
mod watches;

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

/// Returns the next batch as revision, key and value. Skips progress items.
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

/// Returns the last item of a watch, and checks that nothing follows it.
async fn last_item(stream: &mut WatchStream) -> Result<WatchItem> {
    let last = stream.next().await.unwrap();
    assert!(stream.next().await.is_none(), "a watch ends after its last item");
    last
}

/// Lets the paused clock advance while `future` waits, and checks that `future` stays pending.
async fn nothing_for(time: Duration, future: impl Future) {
    assert!(timeout(time, future).await.is_err(), "something came");
}

#[tokio::test]
async fn handles_can_be_sent_between_threads() {
    fn sendable<T: Send + Sync + Clone + 'static>(_: &T) {}
    let store = MemoryStore::new();
    sendable(&store);
    sendable(&store.faults());
    let object: Arc<dyn Store> = Arc::new(store);
    assert_eq!(object.status().await.unwrap().revision.get(), 1);
}

/// Only a call that has to wait for a point in time needs a runtime.
#[test]
fn calls_need_no_runtime() {
    let store = MemoryStore::new();
    write(&store, "/a", "1").now_or_never().unwrap().unwrap();
    store.grant(lease(1), SECOND).now_or_never().unwrap().unwrap();
    assert_eq!(value(&store, "/a").now_or_never().unwrap(), Some("1".into()));
    let mut stream = watch(&store, "/", 1).now_or_never().unwrap();
    assert_eq!(change(&mut stream).now_or_never().unwrap(), put_event(2, "/a", "1"));
}

#[tokio::test]
async fn failed_transaction_writes_nothing() {
    let store = MemoryStore::new();
    let unknown = Expiry::With(lease(9));
    let then = vec![Op::put(&key("/a"), "1".into()), Op::Put { key: key("/b"), value: "1".into(), expiry: unknown, previous: false }];
    let error = store.commit(Txn { then, ..Txn::default() }).await.unwrap_err();
    assert_eq!((error.kind(), error.key(), error.may_have_applied()), (ErrorKind::LeaseLost, Some(&key("/b")), false));
    assert_eq!(read(&store, "/a").await, None);
    assert_eq!(store.status().await.unwrap().revision.get(), 1);
}

#[tokio::test]
async fn lease_of_unexecuted_put_need_not_exist() {
    let store = MemoryStore::new();
    let unknown = Op::Put { key: key("/b"), value: "1".into(), expiry: Expiry::With(lease(9)), previous: false };
    let compares = vec![Compare::key(&key("/a"), Condition::Present)];
    let txn = Txn { compares, then: vec![unknown], otherwise: vec![Op::Get(Span::Key(key("/a")))] };
    let done = store.commit(txn).await.unwrap();
    assert!(!done.succeeded && matches!(done.results.as_slice(), [OpResult::Get(reply)] if reply.kvs.is_empty()));
}

#[tokio::test]
async fn read_error_names_key() {
    let store = MemoryStore::new();
    let past = Range { revision: Some(Revision::new(5)), ..Range::of(Span::Below(key("/d"))) };
    let error = store.range(past).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::HistoryLost, Some(&key("/d"))));
}

#[tokio::test]
async fn named_store_is_shared_until_last_handle() {
    let name = "named_store_is_shared_until_last_handle";
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
async fn status_and_members_describe_store() {
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
async fn reads_before_oldest_kept_revision_fail() {
    let store = MemoryStore::new();
    store.keep_history(2);
    for _ in 0..5 {
        write(&store, "/a", "1").await.unwrap();
    }
    let read = |revision| store.range(Range { revision: Some(Revision::new(revision)), ..Range::of(Span::Key(key("/a"))) });
    assert!(read(4).await.is_ok());
    assert_eq!(read(3).await.unwrap_err().kind(), ErrorKind::HistoryLost);
}
