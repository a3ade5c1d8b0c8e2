//! `client.raw()`: untyped operations on keys of arbitrary bytes, in memory and on v3. v2 refuses
//! them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod backend;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::raw::{Condition, Event, Expiry, KeyValue, Keys, OpResult, Operand, Order, Raw, Relation, SortBy};
use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, ErrorKind, Revision};
use etcd_typed_tests::etcdctl;

/// Namespaces under which every case runs. All of them are in one store.
const NAMESPACES: [&str; 5] = ["", "/prod", "v1", "dynamo:/", "\u{10ffff}"];

/// Keys that are not paths, in byte order.
const KEYS: [&[u8]; 8] = [b"\0", b"//x/", b"/a", b"__metasrv_election/1", b"dms.rpc/7587", b"v1/instances/7", b"\xc3\xbc", b"\xff\xff"];

struct Bench {
    raw: Raw,
    client: Client,
}

/// Turns each case into a test with the memory store and a test on v3.
macro_rules! on_byte_stores {
    ($($case:ident)*) => {
        mod memory {
            $(#[tokio::test] async fn $case() {
                let store = concat!("memory:raw-", stringify!($case));
                let _kept = etcd_typed::Client::connect(store).await.unwrap();
                crate::raw::in_every_namespace(store, super::$case).await;
            })*
        }
        mod v3 {
            $(#[tokio::test] async fn $case() {
                let etcd = etcd_typed::testing::Etcd::start().await;
                crate::raw::in_every_namespace(&etcd.url_v3(), super::$case).await;
            })*
        }
    };
}
use on_byte_stores;

async fn in_every_namespace(address: &str, case: impl AsyncFn(Bench)) {
    for namespace in NAMESPACES {
        let client = Client::builder(address).namespace(namespace).connect().await.unwrap();
        case(Bench { raw: client.raw(), client: client.clone() }).await;
        // The empty namespace contains the keys of all others.
        client.raw().delete_range(..).await.unwrap();
    }
}

impl Bench {
    async fn fill(&self) {
        for (number, key) in KEYS.iter().enumerate() {
            self.raw.put(key, vec![u8::try_from(number).unwrap()]).await.unwrap();
        }
    }
}

fn keys(kvs: &[KeyValue]) -> Vec<&[u8]> {
    kvs.iter().map(|kv| &kv.key[..]).collect()
}

on_byte_stores! {
    any_bytes_are_a_key
    ranges_take_any_bounds
    range_has_limit_order_past_and_count
    put_and_delete_return_previous_values
    transaction_compares_reads_and_writes
    lock_guards_raw_writes
    raw_and_typed_keys_are_the_same
    invalid_requests_are_refused
}

async fn any_bytes_are_a_key(bench: Bench) {
    let raw = &bench.raw;
    for key in KEYS {
        assert_eq!(raw.get(key).await.unwrap(), None);
        let written = raw.put(key, "1").await.unwrap();
        let again = raw.put(key, vec![0xff, 0]).await.unwrap();
        let found = raw.get(key).await.unwrap().unwrap();
        assert_eq!((&found.key[..], &found.value[..]), (key, &[0xff, 0][..]));
        assert_eq!((found.created, found.modified, found.version), (written.revision, again.revision, Some(2)));
    }
    assert_eq!(keys(&raw.range(..).await.unwrap().kvs), KEYS);
    for (left, key) in (0..KEYS.len()).rev().zip(KEYS) {
        assert_eq!(raw.delete(key).await.unwrap().deleted, 1);
        assert_eq!(raw.delete(key).await.unwrap().deleted, 0);
        assert_eq!(raw.range(..).count().await.unwrap(), left as u64);
    }
}

async fn ranges_take_any_bounds(bench: Bench) {
    bench.fill().await;
    let read = async |range: Keys| {
        let page = bench.raw.range(range.clone()).await.unwrap();
        assert_eq!(bench.raw.range(range).count().await.unwrap(), page.kvs.len() as u64);
        page.kvs.into_iter().map(|kv| kv.key).collect::<Vec<_>>()
    };
    for (from, start) in KEYS.iter().enumerate() {
        assert_eq!(read(Keys::from(start..)).await, KEYS[from..]);
        // No key is before the first key, so `..start` would be an empty range, which is refused.
        if from > 0 {
            assert_eq!(read(Keys::from(..start)).await, KEYS[..from]);
        }
        assert_eq!(read(Keys::key(start)).await, KEYS[from..=from]);
        for (to, end) in KEYS.iter().enumerate().skip(from) {
            assert_eq!(read(Keys::from(start..=end)).await, KEYS[from..=to]);
            if to > from {
                assert_eq!(read(Keys::from(start..end)).await, KEYS[from..to]);
            }
        }
    }
    assert_eq!(read(Keys::from(..)).await, KEYS);
    assert_eq!(read(Keys::prefix("")).await, KEYS);
    assert_eq!(read(Keys::prefix("/")).await, KEYS[1..3]);
    assert_eq!(read(Keys::prefix([0xff])).await, KEYS[7..]);
    assert_eq!(read(Keys::prefix("dms.rpc/")).await, KEYS[4..5]);
    assert!(read(Keys::prefix("dms.rpc/9")).await.is_empty());
    let deleted = bench.raw.delete_range(Keys::prefix("/")).previous().await.unwrap();
    assert_eq!((deleted.deleted, keys(&deleted.previous)), (2, KEYS[1..3].to_vec()));
    assert_eq!(bench.raw.delete_range(..).await.unwrap().deleted, 6);
}

async fn range_has_limit_order_past_and_count(bench: Bench) {
    bench.fill().await;
    let raw = &bench.raw;
    let at = raw.range(..).await.unwrap().revision;
    raw.delete(KEYS[0]).await.unwrap();
    let last = raw.put(KEYS[3], "now").await.unwrap().revision;
    // Reads all keys in pages, at one revision.
    let (mut found, mut next) = (Vec::new(), Keys::from(..));
    loop {
        let page = raw.range(next).limit(3).at(at).await.unwrap();
        assert_eq!(page.revision, at);
        found.extend(page.kvs);
        let after = [&found.last().unwrap().key[..], &[0]].concat();
        if !page.more {
            break;
        }
        next = Keys::from(after..);
    }
    assert_eq!(keys(&found), KEYS);
    assert_eq!(found.iter().map(|kv| kv.value[0]).collect::<Vec<_>>(), (0..8).collect::<Vec<u8>>());
    assert_eq!((raw.range(..).at(at).count().await.unwrap(), raw.range(..).limit(1).count().await.unwrap()), (8, 7));

    let newest = raw.range(..).order(Order::descending(SortBy::Modified)).limit(2).await.unwrap();
    assert_eq!((keys(&newest.kvs), newest.more), (vec![KEYS[3], KEYS[7]], true));
    let descending = raw.range(..).order(Order::descending(SortBy::Key)).await.unwrap();
    assert_eq!(keys(&descending.kvs), KEYS.into_iter().skip(1).rev().collect::<Vec<_>>());
    let names = raw.range(..).keys_only().await.unwrap();
    assert!(names.kvs.len() == 7 && names.kvs.iter().all(|kv| kv.value.is_empty()));
    let modified = raw.range(..).modified_after(at).await.unwrap();
    assert_eq!((keys(&modified.kvs), modified.kvs[0].modified), (vec![KEYS[3]], last));
    assert_eq!(bench.client.stale_reads().raw().range(..).at(last).await.unwrap().kvs.len(), 7);
}

async fn put_and_delete_return_previous_values(bench: Bench) {
    let raw = &bench.raw;
    assert_eq!(raw.put("k", "1").previous().await.unwrap().previous, None);
    let lease = bench.client.lease(Duration::from_secs(60)).await.unwrap();
    let written = raw.put("k", "2").lease(&lease).previous().await.unwrap();
    assert_eq!(written.previous.map(|kv| (kv.key, kv.value)), Some(("k".into(), "1".into())));
    assert_eq!(raw.get("k").await.unwrap().unwrap().lease, Some(lease.id()));
    let deleted = raw.delete("k").previous().await.unwrap();
    assert_eq!((deleted.deleted, deleted.previous.len(), deleted.previous[0].modified), (1, 1, written.revision));
    assert_eq!(raw.delete("k").previous().await.unwrap().deleted, 0);
    raw.put("k", "3").ttl(Duration::from_secs(60)).await.unwrap();
    assert!(raw.get("k").await.unwrap().unwrap().lease.is_some());
    raw.put("k", "4").await.unwrap();
    assert_eq!(raw.get("k").await.unwrap().unwrap().lease, None);
}

async fn transaction_compares_reads_and_writes(bench: Bench) {
    let raw = &bench.raw;
    let seen = raw.put("a", "1").await.unwrap().revision;
    raw.put("b", "2").await.unwrap();
    let transaction = || {
        raw.transaction()
            .when("a", Condition::Modified(seen))
            .when_all("b"..="b", Condition::Compared(Relation::Less, Operand::Value("3".into())))
            .when_all("c"..="d", Condition::Absent)
            .get("a")
            .put("a", "10")
            .previous()
            .put_with("c", "3", Expiry::Never)
            .range(..)
            .page("a".., 1, Order::descending(SortBy::Key))
            .delete_range("b"..="b")
            .previous()
            .otherwise()
            .range("a"..="b")
    };
    let done = transaction().await.unwrap();
    assert!(done.succeeded);
    let [
        OpResult::Get(a),
        OpResult::Put(Some(before)),
        OpResult::Put(None),
        OpResult::Get(all),
        OpResult::Get(last),
        OpResult::Delete { deleted, previous },
    ] = &done.results[..]
    else {
        panic!("{done:?}")
    };
    assert_eq!((&a.kvs[0].value, &before.value, &before.key), (&Bytes::from("1"), &Bytes::from("1"), &Bytes::from("a")));
    assert_eq!((keys(&all.kvs), keys(&last.kvs), last.more), (vec![&b"a"[..], b"b", b"c"], vec![&b"c"[..]], true));
    assert_eq!((*deleted, keys(previous)), (1, vec![&b"b"[..]]));
    let failed = transaction().await.unwrap();
    let [OpResult::Get(found)] = &failed.results[..] else { panic!("{failed:?}") };
    assert!(!failed.succeeded && failed.revision == done.revision);
    assert_eq!(found.kvs.iter().map(|kv| (&kv.key[..], &kv.value[..])).collect::<Vec<_>>(), [(&b"a"[..], &b"10"[..])]);
}

async fn lock_guards_raw_writes(bench: Bench) {
    let raw = &bench.raw;
    let lock = bench.client.lock("lock").acquire().await.unwrap();
    raw.put("k", "1").guarded_by(&lock).await.unwrap();
    assert!(raw.transaction().when("k", Condition::Value("1".into())).put("k", "2").guarded_by(&lock).await.unwrap().succeeded);
    assert!(!raw.transaction().when("k", Condition::Value("1".into())).put("k", "3").guarded_by(&lock).await.unwrap().succeeded);
    assert_eq!(raw.delete("k").guarded_by(&lock).await.unwrap().deleted, 1);
    // The lock's key consists of the namespace, the lock's name and the lease's ID.
    let key = format!("lock/{}", lock.lease_id());
    assert_eq!(raw.delete(&key).await.unwrap().deleted, 1, "{key}");
    assert_eq!(raw.put("k", "4").guarded_by(&lock).await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(raw.get("k").await.unwrap(), None);
}

async fn raw_and_typed_keys_are_the_same(bench: Bench) {
    let entry = bench.client.entry::<u8>("/dir/n").unwrap();
    bench.raw.put("/dir/n", "7").await.unwrap();
    assert_eq!(entry.get().await.unwrap().as_deref(), Some(&7));
    let revision = entry.set(&8).await.unwrap();
    let found = bench.raw.get("/dir/n").await.unwrap().unwrap();
    assert_eq!((&found.value[..], found.modified), (&b"8"[..], revision));
    assert_eq!(bench.client.directory("/dir").unwrap().list().await.unwrap().len(), 1);
}

/// A range without a start or an end contains all keys of the namespace, and no other key.
#[tokio::test]
async fn open_range_stays_in_namespace_memory() {
    let all = Client::connect("memory:raw-open").await.unwrap().raw();
    for key in ["v", "v1", "v1\0", "v1\u{10ffff}", "v2", "w"] {
        all.put(key, "").await.unwrap();
    }
    let raw = Client::builder("memory:raw-open").namespace("v1").connect().await.unwrap().raw();
    let own = [&b"\0"[..], "\u{10ffff}".as_bytes()];
    assert_eq!(keys(&raw.range(..).await.unwrap().kvs), own);
    assert_eq!(keys(&raw.range([0]..).await.unwrap().kvs), own);
    assert_eq!(raw.delete_range(..).await.unwrap().deleted, 2);
    assert_eq!(keys(&all.range(..).await.unwrap().kvs), ["v", "v1", "v2", "w"].map(str::as_bytes));
}

async fn invalid_requests_are_refused(bench: Bench) {
    let raw = &bench.raw;
    let kinds = [
        raw.get("").await.unwrap_err(),
        raw.put("", "v").await.unwrap_err(),
        raw.delete("").await.unwrap_err(),
        raw.transaction().when("", Condition::Absent).await.unwrap_err(),
        raw.transaction().put("", "v").await.unwrap_err(),
        raw.range("b".."a").await.unwrap_err(),
        raw.range("a".."a").count().await.unwrap_err(),
        raw.range(..[0]).await.unwrap_err(),
        raw.delete_range("b".."a").await.unwrap_err(),
        raw.transaction().range("b".."a").await.unwrap_err(),
        raw.watch("b".."a").await.unwrap_err(),
        raw.range("a".."b").limit(0).await.unwrap_err(),
        raw.transaction().put("a", "1").put("a", "2").await.unwrap_err(),
        raw.transaction().when_all("a".."b", Condition::Present).await.unwrap_err(),
    ]
    .map(|error| (error.kind(), error.may_have_applied()));
    assert_eq!(kinds[..5], [(ErrorKind::InvalidKey, false); 5]);
    assert_eq!(kinds[5..], [(ErrorKind::Invalid, false); 9]);
    let future = raw.range(..).at(Revision::new(u64::from(u32::MAX))).await.unwrap_err();
    assert_eq!(future.kind(), ErrorKind::HistoryLost);
    assert_eq!(raw.range(..).count().await.unwrap(), 0);
}

/// If the reply to a write is lost, the write is not sent again, and its outcome is reported as
/// unknown. A read is repeated.
#[tokio::test(start_paused = true)]
async fn lost_reply_of_write_is_reported_memory() {
    let store = MemoryStore::new();
    let raw = Client::with_store(store.clone()).raw();
    store.faults().lose_reply(etcd_typed::store::memory::Calls::Commits, 1);
    let error = raw.put("k", "1").await.unwrap_err();
    assert!(error.may_have_applied(), "{error}");
    assert_eq!(raw.get("k").await.unwrap().unwrap().version, Some(1));
}

#[tokio::test]
async fn etcdctl_reads_keys_written_by_raw() {
    let etcd = Etcd::start().await;
    for namespace in ["", "v1", "dynamo:/"] {
        let client = Client::builder(&etcd.url_v3()).namespace(namespace).connect().await.unwrap();
        client.raw().put("//ns/x", "value").await.unwrap();
        let arguments = [format!("--endpoints={}", etcd.endpoint()), "get".to_owned(), format!("{namespace}//ns/x")];
        let output = etcdctl().args(arguments).output().expect("an etcdctl");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{namespace}//ns/x\nvalue\n"));
    }
}

#[tokio::test]
async fn v2_refuses_raw_operations() {
    let etcd = Etcd::start().await;
    let client = Client::connect(&etcd.url_v2()).await.unwrap();
    let raw = client.raw();
    let errors = [
        raw.get("/a").await.unwrap_err(),
        raw.put("/a", "v").await.unwrap_err(),
        raw.delete("/a").await.unwrap_err(),
        raw.range(..).await.unwrap_err(),
        raw.range(..).count().await.unwrap_err(),
        raw.delete_range(..).await.unwrap_err(),
        raw.transaction().put("/a", "v").await.unwrap_err(),
        raw.watch(..).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Unsupported, false));
        assert!(error.to_string().contains("etcd v2 has no byte keys"), "{error}");
    }
    assert!(client.directory("/").unwrap().list().await.unwrap().is_empty());
}

/// Concurrent reads of single keys share requests.
#[tokio::test]
async fn concurrent_gets_return_their_own_keys() {
    let etcd = Etcd::start().await;
    let raw = Arc::new(Client::builder(&etcd.url_v3()).namespace("x").connect().await.unwrap().raw());
    for number in 0..100_u8 {
        raw.put([number], vec![number]).await.unwrap();
    }
    let gets = (0..100_u8).map(|number| {
        let raw = raw.clone();
        async move { (number, raw.get([number]).await.unwrap().unwrap()) }
    });
    for (number, kv) in futures_util::future::join_all(gets).await {
        assert_eq!((&kv.key[..], &kv.value[..]), (&[number][..], &[number][..]));
    }
}

/// Returns the key and the value of a put, or the key of a deletion.
fn told(event: &Event) -> (&[u8], Option<&[u8]>) {
    match event {
        Event::Put { kv, .. } => (&kv.key, Some(&kv.value)),
        Event::Delete { key, .. } => (key, None),
    }
}
