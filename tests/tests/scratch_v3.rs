use bytes::Bytes;
use etcd_typed::store::connect::*;
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::*;
use etcd_typed::*;
use std::time::{Duration, Instant};

fn store() -> V3Store {
    let eps = std::env::var("EPS").unwrap();
    let eps = eps
        .split(',')
        .map(|e| {
            let (h, p) = e.rsplit_once(':').unwrap();
            Endpoint { host: h.into(), port: p.parse().unwrap() }
        })
        .collect();
    V3Store::new(&ConnectOptions::new(eps)).unwrap()
}
fn key(s: &str) -> Key {
    Key::parse(s).unwrap()
}

#[tokio::test]
async fn unary() {
    let s = store();
    println!("{:?}", s.status().await);
    println!("{:?}", s.members().await);
    let base = key(&format!("/t{}", fastrand_like()));
    let a = base.child("a");
    let put = Txn {
        then: vec![Op::Put { key: a.clone(), value: Bytes::from("1"), expiry: Expiry::Never, previous: true }],
        ..Default::default()
    };
    println!("{:?}", s.commit(put.clone()).await);
    println!("{:?}", s.commit(put).await);
    // below empty / not empty
    let empty = base.child("none");
    for (span, cond) in [
        (Span::Below(empty.clone()), Condition::Absent),
        (Span::Below(base.clone()), Condition::Absent),
        (Span::Below(empty.clone()), Condition::UnchangedSince(Revision::new(1))),
        (Span::Below(base.clone()), Condition::UnchangedSince(Revision::new(1))),
        (Span::Below(base.clone()), Condition::UnchangedSince(Revision::new(1_000_000))),
        (Span::Key(a.clone()), Condition::Absent),
        (Span::Key(empty.clone()), Condition::Absent),
        (Span::Key(a.clone()), Condition::Present),
        (Span::Key(empty.clone()), Condition::Present),
        (Span::Key(empty.clone()), Condition::Modified(Revision::ZERO)),
        (Span::Key(empty.clone()), Condition::Created(Revision::ZERO)),
        (Span::Key(a.clone()), Condition::Value(Bytes::from("1"))),
        (Span::Key(empty.clone()), Condition::Value(Bytes::new())),
        (Span::Key(empty.clone()), Condition::UnchangedSince(Revision::ZERO)),
    ] {
        let t = Txn {
            compares: vec![Compare { span: span.clone(), condition: cond.clone() }],
            then: vec![Op::Get(Span::Key(a.clone()))],
            otherwise: vec![],
        };
        println!("{span:?} {cond:?} -> {:?}", s.commit(t).await.map(|c| c.succeeded));
    }
    // paging
    let n = 25_000;
    let t0 = Instant::now();
    for chunk in (0..n).collect::<Vec<_>>().chunks(128) {
        let then = chunk.iter().map(|i| Op::put(&base.child(&format!("k{i:06}")), Bytes::from(vec![b'x'; 100]))).collect();
        s.commit(Txn { then, ..Default::default() }).await.unwrap();
    }
    println!("written {:?}", t0.elapsed());
    let t0 = Instant::now();
    let r = s.range(Range::of(Span::Below(base.clone()))).await.unwrap();
    println!("{} keys, more {}, at {} in {:?}", r.kvs.len(), r.more, r.revision, t0.elapsed());
    assert_eq!(r.kvs.len(), n + 1);
    assert!(r.kvs.windows(2).all(|w| w[0].key < w[1].key));
    let p = s.range(Range { limit: Some(10), after: Some(r.kvs[4].key.clone()), ..Range::of(Span::Below(base.clone())) }).await.unwrap();
    assert_eq!(p.kvs, r.kvs[5..15]);
    println!("past {:?}", s.range(Range { revision: Some(Revision::new(99999999)), ..Range::of(Span::Key(a.clone())) }).await);
    // big values: 80 x 1 MiB
    let big = base.child("big");
    for i in 0..80 {
        s.commit(Txn { then: vec![Op::put(&big.child(&i.to_string()), Bytes::from(vec![b'y'; 1 << 20]))], ..Default::default() })
            .await
            .unwrap();
    }
    let t0 = Instant::now();
    let r = s.range(Range::of(Span::Below(big.clone()))).await.unwrap();
    println!("big {} in {:?}", r.kvs.len(), t0.elapsed());
    assert_eq!(r.kvs.len(), 80);
    // leases
    let id = LeaseId::random();
    println!("grant {:?} again {:?}", s.grant(id, Duration::from_millis(4500)).await, s.grant(id, Duration::from_secs(5)).await);
    println!("more {:?}", s.grant(id, Duration::from_secs(50)).await);
    println!("ka {:?} ttl {:?}", s.keep_alive(id).await, s.time_to_live(id).await);
    println!("rv {:?} {:?} ttl {:?} ka {:?}", s.revoke(id).await, s.revoke(id).await, s.time_to_live(id).await, s.keep_alive(id).await);
    println!(
        "with lost {:?}",
        s.commit(Txn {
            then: vec![Op::Put { key: a.clone(), value: Bytes::new(), expiry: Expiry::With(id), previous: false }],
            ..Default::default()
        })
        .await
    );
    println!(
        "after {:?}",
        s.commit(Txn {
            then: vec![Op::Put { key: a.clone(), value: Bytes::new(), expiry: Expiry::After(Duration::from_secs(3)), previous: true }],
            ..Default::default()
        })
        .await
    );
    println!("{:?}", s.range(Range::of(Span::Key(a.clone()))).await);
    println!(
        "after, refused {:?}",
        s.commit(Txn {
            compares: vec![Compare::key(&a, Condition::Absent)],
            then: vec![Op::Put { key: a.clone(), value: Bytes::new(), expiry: Expiry::After(Duration::from_secs(3)), previous: true }],
            otherwise: vec![Op::Get(Span::Key(a.clone()))]
        })
        .await
    );
    println!(
        "del {:?}",
        s.commit(Txn { then: vec![Op::Delete { span: Span::Below(big), previous: false }], ..Default::default() })
            .await
            .map(|c| format!("{c:?}"))
    );
    println!("dup {:?}", s.commit(Txn { then: vec![Op::put(&a, Bytes::new()), Op::put(&a, Bytes::new())], ..Default::default() }).await);
    println!("129 {:?}", s.commit(Txn { then: (0..129).map(|_| Op::Get(Span::Key(a.clone()))).collect(), ..Default::default() }).await);
    println!("large {:?}", s.commit(Txn { then: vec![Op::put(&a, Bytes::from(vec![0; 1_572_864]))], ..Default::default() }).await);
    println!(
        "larger {:?}",
        s.commit(Txn {
            then: vec![Op::put(&a, Bytes::from(vec![0; 1_500_000])), Op::put(&base, Bytes::from(vec![0; 1_500_000]))],
            ..Default::default()
        })
        .await
    );
    println!("stats {:?}", s.stats(StatsKind::Store).await);
}
fn fastrand_like() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 % 1_000_000_000
}

#[tokio::test]
async fn bad() {
    let s = store();
    let t0 = Instant::now();
    println!("{:?}", s.range(Range::of(Span::Key(key("/a")))).await);
    println!("{:?}", t0.elapsed());
    println!("{}", s.commit(Txn { then: vec![Op::put(&key("/a"), Bytes::new())], ..Default::default() }).await.unwrap_err());
    println!("{:?}", t0.elapsed());
}
