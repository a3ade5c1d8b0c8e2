//! A struct with more keys than one transaction accepts.

use super::*;

#[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
struct Section {
    a: u32,
    b: u32,
    c: u32,
    d: u32,
    e: u32,
    f: u32,
    g: u32,
    h: u32,
    i: u32,
    j: u32,
    k: u32,
    l: Option<u32>,
}

/// 13 times 12 keys.
#[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
struct Large {
    #[etcd(dir)]
    s0: Section,
    #[etcd(dir)]
    s1: Section,
    #[etcd(dir)]
    s2: Section,
    #[etcd(dir)]
    s3: Section,
    #[etcd(dir)]
    s4: Section,
    #[etcd(dir)]
    s5: Section,
    #[etcd(dir)]
    s6: Section,
    #[etcd(dir)]
    s7: Section,
    #[etcd(dir)]
    s8: Section,
    #[etcd(dir)]
    s9: Section,
    #[etcd(dir)]
    t0: Section,
    #[etcd(dir)]
    t1: Section,
    #[etcd(dir)]
    t2: Section,
}

fn large() -> Large {
    let section = Section { l: Some(1), ..Section::default() };
    let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, t0, t1, t2] = std::array::from_fn(|_| section.clone());
    Large { s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, t0, t1, t2 }
}

etcd_typed_tests::on_every_store! { "large-structs":
    large_struct_is_read_and_updated
}

async fn large_struct_is_read_and_updated(bench: Bench) {
    let dir = bench.client.dir::<Large>("/large").unwrap();
    dir.set(&large()).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), large());
    assert!(dir.check().await.unwrap().is_empty());
    let live = dir.live().await.unwrap();
    let mut next = large();
    next.t2.a = 7;
    assert_eq!(dir.diff(&next).await.unwrap().to_string(), format!("~ {}/t2/a: 0 -> 7\n", dir.key()));
    let before = bench.keys("/large").await;
    assert_eq!(before.len(), 156);
    let updated = match bench.client.store().capabilities().transactions {
        true => dir.update(|large| large.t2.a = 7).await.unwrap(),
        false => dir.update(|large| large.t2.a = 7).non_atomic().await.unwrap(),
    };
    assert_eq!(*updated, next);
    assert_eq!(bench.changed("/large", &before).await, (vec!["t2/a".to_owned()], 0));
    assert_eq!(live.wait_for_revision(updated.modified()).await.unwrap().into_arc().as_ref().clone().into_inner(), *updated);

    // A `set` in several steps also writes only differences.
    let before = bench.keys("/large").await;
    next.s3.l = None;
    next.s4.b = 2;
    dir.set(&next).non_atomic().await.unwrap();
    assert_eq!(bench.changed("/large", &before).await, (vec!["s4/b".to_owned()], 1));
}

/// A write that has too many operations for a transaction is refused without a request. The error
/// says how many operations the write has, and which options allow it.
#[tokio::test]
async fn refused_large_write_lists_alternatives_with_memory_store() {
    let client = Client::connect("memory:").await.unwrap();
    let dir = client.dir::<Large>("/large").unwrap();
    dir.set(&large()).non_atomic().await.unwrap();
    let seen = dir.get().await.unwrap();
    for refused in [
        dir.set(&large()).await.unwrap_err(),
        dir.set(&large()).ttl(LONG).await.unwrap_err(),
        dir.create(&large()).await.unwrap_err(),
        dir.compare_and_swap(&seen, &Large::default()).await.unwrap_err(),
        dir.update(|large| *large = Large { s0: Section { a: 9, ..Section::default() }, ..Large::default() }).ttl(LONG).await.unwrap_err(),
    ] {
        assert_eq!(refused.kind(), ErrorKind::TooManyOperations);
        let text = refused.to_string();
        assert!(text.contains("156") || text.contains("157"), "{text}");
        for way in ["one transaction takes 128 of each", "`--max-txn-ops`", "`max_operations` on the client", ".non_atomic()"] {
            assert!(text.contains(way), "{text}");
        }
    }
    assert!(dir.set(&large()).await.unwrap_err().to_string().contains("`update` needs only the changed keys"));

    let wide = Client::with_store(MemoryStore::new().with_limits(200, 1_000_000)).dir::<Large>("/large").unwrap();
    wide.set(&large()).await.unwrap();
    wide.compare_and_swap(&wide.get().await.unwrap(), &Large::default()).await.unwrap();
    assert_eq!(*wide.get().await.unwrap(), Large::default());
}

/// An `update` of a large struct runs again if another client changes, adds or deletes a key.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn large_struct_update_detects_other_writers_with_memory_store() {
    let client = Client::connect("memory:").await.unwrap();
    let dir = client.dir::<Large>("/large").unwrap();
    for what in ["changed", "changed too", "deleted optional"] {
        dir.set(&large()).non_atomic().await.unwrap();
        dir.s1.l.delete().await.unwrap();
        let runs = std::sync::atomic::AtomicU32::new(0);
        let write = async || match what {
            "changed" => drop(dir.t1.k.set(&3).await.unwrap()),
            "changed too" => drop(dir.s1.l.set(&3).await.unwrap()),
            _ => drop(dir.t0.l.delete().await.unwrap()),
        };
        let updated = dir
            .update(|large| {
                if runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(write()));
                }
                large.s0.a = large.t1.k + large.s1.l.unwrap_or(0) + large.t0.l.unwrap_or(0);
            })
            .await
            .unwrap();
        let sum = match what {
            "deleted optional" => 0,
            _ => 4,
        };
        assert_eq!((updated.s0.a, runs.into_inner()), (sum, 2), "{what}");
        assert_eq!(*dir.get().await.unwrap(), *updated);
    }
}
