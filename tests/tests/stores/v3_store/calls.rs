//! Ranges, transactions and leases of the v3 store on a real server. The conformance suite has the
//! tests that apply to all stores.

use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Compare, Condition, Consistency, Expiry, Op, OpResult, Range, Span, StatsKind, Store, Txn};
use etcd_typed::testing::Etcd;
use etcd_typed::{ErrorKind, LeaseId, Revision};
use tokio::time::sleep;

use super::raw::Admin;
use super::{PATIENCE, delete, key, metric_of, options, put, store, write};

async fn requests(etcd: &Etcd, method: &str) -> f64 {
    let name =
        format!(r#"grpc_server_handled_total{{grpc_code="OK",grpc_method="{method}",grpc_service="etcdserverpb.KV",grpc_type="unary"}}"#);
    metric_of(etcd, &name).await
}

async fn holds(store: &V3Store, compare: Compare) -> bool {
    store.commit(Txn::new(Vec::new()).compares(vec![compare])).await.unwrap().succeeded
}

#[tokio::test]
async fn long_range_has_one_revision() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let numbers: Vec<usize> = (0..25_000).collect();
    for chunk in numbers.chunks(100) {
        let then = chunk.iter().map(|number| Op::put(&key(&format!("/app/{number:05}")), Bytes::from("0"))).collect();
        store.commit(Txn::new(then)).await.unwrap();
    }
    let before = requests(&etcd, "Range").await;
    let writer = {
        let writing = super::store(&etcd.endpoint());
        tokio::spawn(async move {
            // Changes the first and the last key together while the reader runs.
            for round in 0.. {
                let value = Bytes::from(round.to_string());
                let then = vec![Op::put(&key("/app/00000"), value.clone()), Op::put(&key("/app/24999"), value)];
                writing.commit(Txn::new(then)).await.unwrap();
            }
        })
    };
    for _ in 0..10 {
        let reply = store.range(Range::of(Span::Below(key("/app")))).await.unwrap();
        assert_eq!((reply.kvs.len(), reply.more), (25_000, false));
        assert!(reply.kvs.windows(2).all(|pair| pair[0].key < pair[1].key));
        assert_eq!(reply.kvs[0].value, reply.kvs[24_999].value, "the range has one revision");
        assert!(reply.kvs.iter().all(|kv| kv.modified <= reply.revision));
    }
    writer.abort();
    assert_eq!(requests(&etcd, "Range").await - before, 30.0, "pages of 10 000 keys");

    // The caller can also request the pages one by one.
    let all = store.range(Range::of(Span::Below(key("/app")))).await.unwrap();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let range = Range::of(Span::Below(key("/app"))).revision(all.revision).limit(9_999).after(after);
        let page = store.range(range).await.unwrap();
        assert_eq!(page.revision, all.revision);
        after = page.kvs.last().map(|kv| kv.key.clone());
        seen.extend(page.kvs);
        if !page.more {
            break;
        }
    }
    assert!(seen == all.kvs);
}

#[tokio::test]
async fn short_range_is_one_request() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    write(&store, &key("/app/a"), "1").await;
    let before = requests(&etcd, "Range").await;
    store.range(Range::of(Span::Below(key("/app")))).await.unwrap();
    store.range(Range::of(Span::Key(key("/app/a")))).await.unwrap();
    assert_eq!(requests(&etcd, "Range").await - before, 2.0);
}

#[tokio::test]
async fn large_range_is_read_in_smaller_pages() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    // 75 MB, above the limit of 64 MiB for one answer.
    for number in 0..75 {
        write(&store, &key(&format!("/app/{number:02}")), vec![b'x'; 1_000_000]).await;
    }
    let reply = store.range(Range::of(Span::Below(key("/app")))).await.unwrap();
    assert_eq!((reply.kvs.len(), reply.more), (75, false));
    assert!(reply.kvs.iter().all(|kv| kv.value.len() == 1_000_000));
    let keys = store.range(Range::of(Span::Below(key("/app"))).keys_only(true)).await.unwrap();
    assert!(keys.kvs.len() == 75 && keys.kvs.iter().all(|kv| kv.value.is_empty()));
}

#[tokio::test]
async fn read_of_unavailable_revision_fails_as_history_lost() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let a = key("/a");
    let first = write(&store, &a, "1").await;
    let second = write(&store, &a, "2").await;
    let at = |revision: u64| Range::of(Span::Key(a.clone())).revision(Revision::new(revision));
    let past = store.range(at(first)).await.unwrap();
    assert_eq!((past.revision, past.kvs[0].value.clone()), (Revision::new(first), Bytes::from("1")));
    Admin::of(&etcd.endpoint()).compact(second).await;
    for revision in [0, first, second + 1, u64::MAX] {
        let error = store.range(at(revision)).await.unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::HistoryLost, Some(&a)), "{revision}: {error}");
    }
    let stale = at(second).consistency(Consistency::Stale);
    assert_eq!(store.range(stale).await.unwrap().kvs[0].value, Bytes::from("2"));
}

/// The store relies on how etcd compares missing keys and empty spans. The expected results come
/// from experiments with 3.4.23 and 3.5.1. The test checks the results on every server.
#[tokio::test]
async fn conditions_match_their_documentation() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let (a, none, dir, empty) = (key("/app/a"), key("/app/none"), key("/app"), key("/empty"));
    let lease = LeaseId::random();
    store.grant(lease, Duration::from_secs(60)).await.unwrap();
    let created = Revision::new(write(&store, &a, "0").await);
    let op = Op::Put { key: a.clone(), value: Bytes::from("1"), expiry: Expiry::With(lease), previous: false };
    let modified = store.commit(Txn::new(vec![op])).await.unwrap().revision;
    let value = |text: &'static str| Condition::Value(Bytes::from_static(text.as_bytes()));
    let of_a = [
        (Condition::Present, true),
        (Condition::Absent, false),
        (Condition::Created(created), true),
        (Condition::Created(modified), false),
        (Condition::Modified(modified), true),
        (Condition::Modified(created), false),
        (value("1"), true),
        (value("0"), false),
        (Condition::Lease(lease), true),
        (Condition::Lease(LeaseId::random()), false),
        (Condition::UnchangedSince(modified), true),
        (Condition::UnchangedSince(created), false),
    ];
    for (condition, expected) in of_a {
        assert_eq!(holds(&store, Compare::key(&a, condition.clone())).await, expected, "{condition:?}");
    }
    let of_none = [
        (Condition::Present, false),
        (Condition::Absent, true),
        (Condition::Created(Revision::ZERO), false),
        (Condition::Modified(Revision::ZERO), false),
        (value(""), false),
        (Condition::Lease(lease), false),
        (Condition::UnchangedSince(Revision::ZERO), true),
    ];
    for (condition, expected) in of_none {
        assert_eq!(holds(&store, Compare::key(&none, condition.clone())).await, expected, "{condition:?}");
    }
    for (directory, condition, expected) in [
        (&dir, Condition::Absent, false),
        (&empty, Condition::Absent, true),
        (&dir, Condition::UnchangedSince(modified), true),
        (&dir, Condition::UnchangedSince(created), false),
        (&empty, Condition::UnchangedSince(Revision::ZERO), true),
    ] {
        assert_eq!(holds(&store, Compare::below(directory, condition.clone())).await, expected, "{directory} {condition:?}");
    }
}

#[tokio::test]
async fn write_returns_previous_value() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let a = key("/a");
    let swap = |value: &'static str| Op::Put { key: a.clone(), value: Bytes::from(value), expiry: Expiry::Never, previous: true };
    let only = |op| Txn::new(vec![op]);
    assert_eq!(store.commit(only(swap("1"))).await.unwrap().results, [OpResult::Put(None)]);
    let before = store.range(Range::of(Span::Key(a.clone()))).await.unwrap().kvs.remove(0);
    assert_eq!(store.commit(only(swap("2"))).await.unwrap().results, [OpResult::Put(Some(before))]);
    let before = store.range(Range::of(Span::Key(a.clone()))).await.unwrap().kvs;
    let gone = only(Op::Delete { span: Span::Key(a.clone()), previous: true });
    assert_eq!(store.commit(gone.clone()).await.unwrap().results, [OpResult::Delete { deleted: 1, previous: before }]);
    // A delete that finds no key creates no revision.
    let revision = store.status().await.unwrap().revision;
    let nothing = store.commit(gone).await.unwrap();
    assert_eq!((nothing.revision, nothing.results), (revision, vec![OpResult::Delete { deleted: 0, previous: Vec::new() }]));
}

#[tokio::test]
async fn unused_ttl_lease_is_revoked() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let a = key("/a");
    let expiring = Op::Put { key: a.clone(), value: Bytes::from("1"), expiry: Expiry::After(Duration::from_millis(1500)), previous: false };
    let create = Txn::new(vec![expiring]).compares(vec![Compare::key(&a, Condition::Absent)]).otherwise(Vec::new());
    assert!(store.commit(create.clone()).await.unwrap().succeeded);
    let lease = store.range(Range::of(Span::Key(a.clone()))).await.unwrap().kvs[0].lease.expect("a lease");
    assert!(store.time_to_live(lease).await.unwrap().is_some());

    let granted = metric_of(&etcd, "etcd_debugging_lease_granted_total").await;
    let revoked = metric_of(&etcd, "etcd_debugging_lease_revoked_total").await;
    assert!(!store.commit(create).await.unwrap().succeeded);
    assert_eq!(metric_of(&etcd, "etcd_debugging_lease_granted_total").await, granted + 1.0);
    let given_back = async {
        while metric_of(&etcd, "etcd_debugging_lease_revoked_total").await < revoked + 1.0 {
            sleep(Duration::from_millis(20)).await;
        }
        // The key of the expired lease disappears a moment after the lease.
        while !store.range(Range::of(Span::Key(a.clone()))).await.unwrap().kvs.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, given_back).await.expect("in time");
}

#[tokio::test]
async fn lease_is_granted_kept_alive_and_revoked() {
    // The shortest lease that a server grants lasts one and a half election timeouts, in whole
    // seconds.
    let etcd = Etcd::builder().flag("--election-timeout", "1000").start().await;
    let store = store(&etcd.endpoint());
    let id = LeaseId::random();
    let ttl = Duration::from_secs(30);
    assert_eq!(store.grant(id, Duration::from_millis(29_001)).await.unwrap(), ttl);
    assert_eq!(store.grant(id, ttl).await.unwrap_err().kind(), ErrorKind::AlreadyExists, "the lease may belong to another client");
    assert_eq!(store.grant(id, Duration::from_secs(60)).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(store.keep_alive(id).await.unwrap(), ttl);
    assert!(store.time_to_live(id).await.unwrap().is_some_and(|left| left <= ttl));
    let op = Op::Put { key: key("/a"), value: Bytes::new(), expiry: Expiry::With(id), previous: false };
    store.commit(Txn::new(vec![op.clone()])).await.unwrap();
    store.revoke(id).await.unwrap();
    assert!(store.range(Range::of(Span::Key(key("/a")))).await.unwrap().kvs.is_empty(), "the keys are deleted with their lease");
    store.revoke(id).await.unwrap();
    assert_eq!(store.time_to_live(id).await.unwrap(), None);
    assert_eq!(store.keep_alive(id).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    let error = store.commit(Txn::new(vec![op])).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::LeaseLost, false));
    // The server replaces a shorter time to live by its minimum.
    assert_eq!(store.grant(LeaseId::random(), Duration::from_millis(1)).await.unwrap(), Duration::from_secs(2));
}

#[tokio::test]
async fn refused_write_is_not_applied() {
    let etcd = Etcd::builder().flag("--max-txn-ops", "4").start().await;
    let store = store(&etcd.endpoint());
    let a = key("/a");
    let txn = |then| Txn::new(then);
    let large = |path: &str| Op::put(&key(path), Bytes::from(vec![0; 1_400_000]));
    let cases = [
        (put(&a, vec![0; 1_572_864]), ErrorKind::TooLarge),
        (put(&a, vec![0; 1_572_865]), ErrorKind::TooLarge),
        (txn(vec![large("/a"), large("/b")]), ErrorKind::TooLarge),
        (txn(vec![Op::put(&a, Bytes::new()), Op::delete(&a)]), ErrorKind::Invalid),
        (txn((0..5).map(|number| Op::delete(&key(&format!("/{number}")))).collect()), ErrorKind::TooManyOperations),
        (txn((0..129).map(|number| Op::delete(&key(&format!("/{number}")))).collect()), ErrorKind::TooManyOperations),
        (txn(vec![Op::MakeDir { key: a.clone(), ttl: None }]), ErrorKind::Unsupported),
    ];
    for (txn, kind) in cases {
        let error = store.commit(txn).await.unwrap_err();
        assert_eq!((error.kind(), error.may_have_applied()), (kind, false), "{error}");
    }
    assert_eq!(store.status().await.unwrap().revision, Revision::new(1), "nothing was applied");
    // An option sets a smaller limit, for servers with a smaller `--max-txn-ops`.
    let mut options = options([etcd.endpoint().as_str()]);
    options.max_operations = 4;
    assert_eq!(V3Store::new(&options).unwrap().capabilities().max_operations, 4);
}

#[tokio::test]
async fn stats_are_unsupported_unlike_status_and_members() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let revision = write(&store, &key("/a"), "1").await;
    store.commit(delete(&key("/none"))).await.unwrap();
    let status = store.status().await.unwrap();
    assert_eq!((status.store, status.version.as_str(), status.revision.get()), ("etcd v3", etcd.version(), revision));
    assert!(status.cluster.is_some() && status.member == status.leader && status.database_size > Some(0), "{status:?}");
    let members = store.members().await.unwrap();
    assert_eq!(members.len(), 1);
    assert_eq!((Some(&members[0].id), &members[0].client_urls), (status.member.as_ref(), &vec![format!("http://{}", etcd.endpoint())]));
    let error = store.stats(StatsKind::Store).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("status()"), "{error}");
}
