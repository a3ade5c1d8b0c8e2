//! While reads of a client are in flight, its further reads wait and then share requests. Each
//! caller still gets the result that a separate request would give.

mod cancelled;
mod faults;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::connect::Credentials;
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Compare, Condition, Consistency, Op, OpResult, Range, RangeReply, Span, Store, Txn};
use etcd_typed::testing::{Etcd, Mode, Proxy};
use etcd_typed::{Error, ErrorKind, Key, Result, Revision};
use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::raw::Admin;
use super::{PATIENCE, key, metric_of, options, put, store, write};

/// Returns how many requests of this method the server has received, including refused ones.
async fn got(etcd: &Etcd, method: &str) -> u64 {
    let service = if method == "Status" { "Maintenance" } else { "KV" };
    let name = format!(r#"grpc_server_started_total{{grpc_method="{method}",grpc_service="etcdserverpb.{service}",grpc_type="unary"}}"#);
    metric_of(etcd, &name).await as u64
}

async fn reads_got(etcd: &Etcd) -> (u64, u64) {
    (got(etcd, "Range").await, got(etcd, "Txn").await)
}

/// Returns true if it is safe for reads to share requests on this version of etcd (etcd issues
/// 14110 and 14891).
fn joins_reads(etcd: &Etcd) -> bool {
    !["3.5.0", "3.5.1", "3.5.2", "3.5.3", "3.5.4", "3.5.5", "3.5.6"].contains(&etcd.version())
}

fn numbered(number: usize) -> Key {
    key(&format!("/app/{number:03}"))
}

/// Writes `/app/000` and so on. The value of each key is its number.
async fn fill(store: &V3Store, count: usize) {
    for chunk in (0..count).collect::<Vec<_>>().chunks(100) {
        let then = chunk.iter().map(|&number| Op::put(&numbered(number), Bytes::from(number.to_string()))).collect();
        store.commit(Txn::new(then)).await.unwrap();
    }
}

async fn read(store: &V3Store, key: &Key) -> Result<RangeReply> {
    timeout(PATIENCE, store.range(Range::of(Span::Key(key.clone())))).await.expect("an answer")
}

/// Reads this many keys at once, and checks that each caller gets the value of its own key.
async fn read_all(store: &V3Store, count: usize) {
    for (number, reply) in
        join_all((0..count).map(|number| async move { read(store, &numbered(number)).await })).await.into_iter().enumerate()
    {
        let reply = reply.unwrap();
        assert_eq!((reply.kvs.len(), reply.more), (1, false));
        assert_eq!((&reply.kvs[0].key[..], &reply.kvs[0].value[..]), (numbered(number).as_str().as_bytes(), number.to_string().as_bytes()));
        assert!(reply.kvs[0].modified <= reply.revision);
    }
}

/// Reads until the client has learned whether reads may share requests on this server. Needs eight
/// numbered keys.
async fn acquaint(etcd: &Etcd, store: &V3Store) {
    let before = got(etcd, "Txn").await;
    let known = async {
        let mut rounds = 0;
        while got(etcd, "Txn").await == before && (joins_reads(etcd) || rounds < 20) {
            read_all(store, 8).await;
            rounds += 1;
        }
    };
    timeout(PATIENCE, known).await.expect("the client joins reads in time");
}

/// Starts a server with this many numbered keys, and a client that has learned the server's
/// version.
async fn acquainted(count: usize) -> (Etcd, V3Store) {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    fill(&store, count).await;
    acquaint(&etcd, &store).await;
    (etcd, store)
}

/// Waiting reads of the same key become one read, even if the server's version is unknown or the
/// server does not accept transactions that only read.
#[tokio::test]
async fn concurrent_reads_of_one_key_share_requests() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    fill(&store, 1).await;
    let (ranges, txns) = reads_got(&etcd).await;
    let same = numbered(0);
    for reply in join_all((0..1000).map(|_| read(&store, &same))).await {
        let reply = reply.unwrap();
        assert_eq!((reply.kvs.len(), &reply.kvs[0].value[..]), (1, &b"0"[..]));
    }
    let (more_ranges, more_txns) = reads_got(&etcd).await;
    let requests = more_ranges - ranges + more_txns - txns;
    assert!(requests < 50, "{requests} requests");
}

#[tokio::test]
async fn servers_without_cancel_crash_get_shared_reads() {
    let (etcd, store) = acquainted(300).await;
    let (ranges, txns) = reads_got(&etcd).await;
    for _ in 0..10 {
        read_all(&store, 64).await;
    }
    let (ranges, txns) = (got(&etcd, "Range").await - ranges, got(&etcd, "Txn").await - txns);
    if !joins_reads(&etcd) {
        assert_eq!((ranges, txns), (640, 0));
        return;
    }
    assert!(txns > 0 && ranges + txns <= 640 / 8, "{ranges} ranges and {txns} transactions for 640 reads");

    // These are more reads than one transaction may contain.
    let (ranges, txns) = reads_got(&etcd).await;
    read_all(&store, 300).await;
    let requests = (got(&etcd, "Range").await - ranges) + (got(&etcd, "Txn").await - txns);
    assert!((4..=300 / 8).contains(&requests), "{requests} requests for 300 reads");
    assert_eq!(got(&etcd, "Status").await, 1, "the version is asked for once");
}

/// Returns the read with which a live view checks whether its directory has changed.
fn modified_after(directory: &str, revision: Revision) -> Range {
    let below = Range::of(Span::Below(key(directory)));
    below.keys_only(true).limit(1).modified_after(revision)
}

#[tokio::test]
async fn change_checks_of_directories_share_requests() {
    let (etcd, store) = acquainted(10).await;
    const DIRECTORIES: usize = 200;
    let directory = |n: usize| format!("/dirs/{n}");
    for n in 0..DIRECTORIES {
        let keys = (0..n % 3).map(|k| Op::put(&key(&format!("{}/{k}", directory(n))), Bytes::from("1"))).collect();
        store.commit(Txn::new(keys)).await.unwrap();
    }
    let seen = read(&store, &numbered(0)).await.unwrap().revision;
    for n in (0..DIRECTORIES).step_by(5) {
        write(&store, &key(&format!("{}/new", directory(n))), "1").await;
    }
    let (ranges, txns) = reads_got(&etcd).await;
    let replies = join_all((0..DIRECTORIES).map(|n| store.range(modified_after(&directory(n), seen)))).await;
    for (n, reply) in replies.into_iter().enumerate() {
        let reply = reply.unwrap();
        let new = usize::from(n % 5 == 0);
        assert_eq!((reply.kvs.len(), reply.count), (new, Some((n % 3 + new) as u64)), "{n}");
        assert!(reply.revision >= seen && reply.kvs.iter().all(|kv| kv.key == format!("{}/new", directory(n)) && kv.value.is_empty()));
    }
    let (more_ranges, more_txns) = reads_got(&etcd).await;
    let requests = more_ranges - ranges + more_txns - txns;
    if joins_reads(&etcd) {
        assert!(requests <= 20, "{requests} requests");
    }
}

#[tokio::test]
async fn change_checks_of_large_directories_are_not_shared() {
    let (etcd, store) = acquainted(10).await;
    for chunk in 0..11 {
        let keys = (0..100).map(|k| Op::put(&key(&format!("/large/{chunk}-{k}")), Bytes::from("1"))).collect();
        store.commit(Txn::new(keys)).await.unwrap();
    }
    let seen = read(&store, &numbered(0)).await.unwrap().revision;
    let large = || store.range(modified_after("/large", seen));
    assert_eq!(large().await.unwrap().count, Some(1100));
    let before = got(&etcd, "Range").await;
    for reply in join_all((0..40).map(|_| large())).await {
        let reply = reply.unwrap();
        assert_eq!((reply.count, reply.kvs.len()), (Some(1100), 0));
    }
    assert_eq!(got(&etcd, "Range").await - before, 40);
}

#[tokio::test]
async fn single_read_is_sent_as_range_request() {
    let (etcd, store) = acquainted(10).await;
    let (ranges, txns) = reads_got(&etcd).await;
    for _ in 0..10 {
        read_all(&store, 1).await;
        read_all(&store, 2).await;
    }
    assert_eq!(reads_got(&etcd).await, (ranges + 30, txns));
    // A transaction with a single read is sent as a range request too, and shares requests with
    // others.
    let get = Txn::new(vec![Op::Get(Span::Key(numbered(1)))]);
    assert!(matches!(&store.commit(get.clone()).await.unwrap().results[..], [OpResult::Get(reply)] if reply.kvs[0].value == "1"));
    assert_eq!(reads_got(&etcd).await, (ranges + 31, txns));
    let (ranges, txns) = reads_got(&etcd).await;
    let read = join_all((0..40).map(|_| store.commit(get.clone()))).await;
    assert!(read.into_iter().all(|read| matches!(&read.unwrap().results[..], [OpResult::Get(reply)] if reply.kvs[0].value == "1")));
    let requests = (got(&etcd, "Range").await - ranges) + (got(&etcd, "Txn").await - txns);
    assert!(requests <= 10 || !joins_reads(&etcd), "{requests} requests for 40 reads");
}

#[tokio::test]
async fn past_stale_and_paged_reads_share_no_request() {
    let (etcd, store) = acquainted(10).await;
    let first = read(&store, &numbered(3)).await.unwrap();
    let written = write(&store, &numbered(3), "new").await;
    let (ranges, txns) = reads_got(&etcd).await;
    let of = |number| Range::of(Span::Key(numbered(number)));
    let others = [
        of(3).consistency(Consistency::Stale),
        of(3).revision(first.revision),
        Range::of(Span::Below(key("/app"))).limit(1),
        Range::of(Span::Below(key("/app"))).after(Bytes::from("/app/002")),
    ];
    let reads = others.iter().cycle().take(40).map(|range| store.range(range.clone()));
    let mut replies = join_all(reads).await.into_iter().map(Result::unwrap);
    while let Some(stale) = replies.next() {
        let (past, page, rest) = (replies.next().unwrap(), replies.next().unwrap(), replies.next().unwrap());
        assert_eq!((&stale.kvs[0].value[..], &past.kvs[0].value[..], past.revision), (&b"new"[..], &b"3"[..], first.revision));
        assert_eq!((page.kvs.len(), page.more, rest.kvs.len()), (1, true, 7));
    }
    assert_eq!(reads_got(&etcd).await, (ranges + 40, txns));

    // Reads without values and reads of missing keys share requests.
    let missing = key("/app/none");
    let reads = (0..40).map(|number| match number % 4 {
        0 => store.range(of(3).keys_only(true)),
        1 => store.range(Range::of(Span::Key(missing.clone()))),
        _ => store.range(of(3)),
    });
    for (number, reply) in join_all(reads).await.into_iter().enumerate() {
        let reply = reply.unwrap();
        assert!(reply.revision >= Revision::new(written));
        let values: Vec<&[u8]> = reply.kvs.iter().map(|kv| &kv.value[..]).collect();
        let expected: &[&[u8]] = match number % 4 {
            0 => &[b""],
            1 => &[],
            _ => &[b"new"],
        };
        assert_eq!(values, expected);
    }
    assert!(got(&etcd, "Range").await <= ranges + 50 || !joins_reads(&etcd));
}

#[tokio::test]
async fn forbidden_read_does_not_fail_others() {
    let etcd = Etcd::start().await;
    let (direct, admin) = (store(&etcd.endpoint()), Admin::of(&etcd.endpoint()));
    for number in 0..40 {
        write(&direct, &key(&format!("/anna/{number}")), number.to_string()).await;
    }
    admin.enable_auth().await;
    let as_user = |user: &str, password: &str| {
        let mut options = options([etcd.endpoint().as_str()]);
        options.credentials = Some(Credentials { user: user.to_owned(), password: password.to_owned() });
        V3Store::new(&options).unwrap()
    };
    let anna = as_user("anna", "secret");
    let round = async |forbidden: &[usize]| {
        let key = |number| if forbidden.contains(&number) { key("/other/a") } else { key(&format!("/anna/{number}")) };
        let keys: Vec<Key> = (0..40).map(key).collect();
        for (number, reply) in join_all(keys.iter().map(|key| read(&anna, key))).await.into_iter().enumerate() {
            if forbidden.contains(&number) {
                let error = reply.unwrap_err();
                assert_eq!((error.kind(), error.key()), (ErrorKind::PermissionDenied, Some(&keys[number])));
            } else {
                assert_eq!(reply.unwrap().kvs[0].value, number.to_string());
            }
        }
    };
    let known = async {
        let before = got(&etcd, "Txn").await;
        while got(&etcd, "Txn").await == before && joins_reads(&etcd) {
            round(&[]).await;
        }
    };
    timeout(PATIENCE, known).await.expect("the client joins reads in time");
    let (ranges, txns) = reads_got(&etcd).await;
    round(&[5, 39]).await;
    let (more_ranges, more_txns) = reads_got(&etcd).await;
    assert!(more_ranges - ranges >= 40 && (more_txns - txns == 1 || !joins_reads(&etcd)), "one transaction failed");
    // After the failure, the client sends reads of that key alone.
    for _ in 0..5 {
        round(&[5, 39]).await;
    }
    let (ranges, txns) = reads_got(&etcd).await;
    assert!(ranges - more_ranges <= 5 * 6 || !joins_reads(&etcd), "{} ranges, {} transactions", ranges - more_ranges, txns - more_txns);
}

#[tokio::test]
async fn keys_with_long_values_are_read_alone() {
    let (etcd, store) = acquainted(100).await;
    // 70 MB, above the limit of 64 MiB for one answer.
    for number in 0..70 {
        write(&store, &key(&format!("/long/{number}")), vec![b'x'; 1_000_000]).await;
    }
    let long = async || {
        let keys: Vec<Key> = (0..70).map(|number| key(&format!("/long/{number}"))).collect();
        let replies = join_all(keys.iter().map(|key| read(&store, key))).await;
        assert!(replies.into_iter().all(|reply| reply.unwrap().kvs[0].value.len() == 1_000_000));
    };
    long().await;
    let (ranges, txns) = reads_got(&etcd).await;
    long().await;
    assert_eq!(reads_got(&etcd).await, (ranges + 70, txns));
    // Reads of other keys share requests as before. The client remembers long keys by their hash. A
    // few other keys have the same hash as a long key, and the client then forgets the long key.
    read_all(&store, 100).await;
    let (ranges, _) = reads_got(&etcd).await;
    read_all(&store, 100).await;
    assert!(got(&etcd, "Range").await - ranges <= 10 || !joins_reads(&etcd));
    // When the values have become short, reads of their keys share requests again.
    for number in 0..70 {
        write(&store, &key(&format!("/long/{number}")), "short").await;
    }
    let short = async || {
        let keys: Vec<Key> = (0..70).map(|number| key(&format!("/long/{number}"))).collect();
        let replies = join_all(keys.iter().map(|key| read(&store, key))).await;
        assert!(replies.into_iter().all(|reply| reply.unwrap().kvs[0].value == "short"));
    };
    short().await;
    let (ranges, _) = reads_got(&etcd).await;
    short().await;
    assert!(got(&etcd, "Range").await - ranges <= 10 || !joins_reads(&etcd));
}

#[tokio::test]
async fn reads_respect_max_txn_ops_of_server() {
    let etcd = Etcd::builder().flag("--max-txn-ops", "4").start().await;
    let store = store(&etcd.endpoint());
    for number in 0..64 {
        write(&store, &numbered(number), number.to_string()).await;
    }
    acquaint(&etcd, &store).await;
    read_all(&store, 64).await;
    let (ranges, txns) = reads_got(&etcd).await;
    read_all(&store, 64).await;
    assert_eq!(reads_got(&etcd).await, (ranges + 64, txns));

    // A client whose options contain this limit sends transactions of that length.
    let mut options = options([etcd.endpoint().as_str()]);
    options.max_operations = 4;
    let told = V3Store::new(&options).unwrap();
    acquaint(&etcd, &told).await;
    let (ranges, txns) = reads_got(&etcd).await;
    read_all(&told, 64).await;
    let (ranges, txns) = (got(&etcd, "Range").await - ranges, got(&etcd, "Txn").await - txns);
    assert!((ranges <= 8 && (62_u64.div_ceil(4)..=30).contains(&txns)) || !joins_reads(&etcd), "{ranges} and {txns}");
}

/// A reader that starts after a write was acknowledged sees that write. The proxy delays the
/// readers, so that an earlier request is always in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_see_acknowledged_writes() {
    let (etcd, direct) = acquainted(8).await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    proxy.delay(Duration::from_millis(3));
    let store = Arc::new(store(&proxy.endpoint()));
    acquaint(&etcd, &store).await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let counter = key("/counter");
    write(&direct, &counter, "0").await;
    let txns = got(&etcd, "Txn").await;
    let readers: Vec<_> = (0..64)
        .map(|_| {
            let (store, acknowledged, counter) = (Arc::clone(&store), Arc::clone(&acknowledged), counter.clone());
            tokio::spawn(async move {
                let mut reads = 0;
                while acknowledged.load(Ordering::SeqCst) < 400 {
                    let before = acknowledged.load(Ordering::SeqCst);
                    let reply = read(&store, &counter).await.unwrap();
                    let seen: u64 = std::str::from_utf8(&reply.kvs[0].value).unwrap().parse().unwrap();
                    assert!(seen >= before, "{before} was acknowledged, but {seen} was read");
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for number in 1..=400 {
        write(&direct, &counter, number.to_string()).await;
        acknowledged.store(number, Ordering::SeqCst);
        sleep(Duration::from_millis(1)).await;
    }
    let mut reads = 0;
    for reader in readers {
        reads += reader.await.unwrap();
    }
    let txns = got(&etcd, "Txn").await - txns;
    assert!((txns > 20 && txns < reads / 4) || !joins_reads(&etcd), "{txns} transactions for {reads} reads");
}
