//! Lists with a limit, and transactions over directories and with reads.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::CountingStore;
use etcd_typed::{Client, ErrorKind, EtcdSchema, Node};

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Pool {
    size: u32,
    name: Option<String>,
}

struct Bench {
    client: Client,
}

impl Bench {
    fn transactions(&self) -> bool {
        self.client.store().capabilities().transactions
    }

    async fn put(&self, paths: &[&str]) {
        for path in paths {
            self.client.entry::<String>(path).unwrap().set(&(*path).to_owned()).await.unwrap();
        }
    }
}

fn paths(nodes: &[Node]) -> Vec<&str> {
    nodes.iter().map(|node| node.path.as_str()).collect()
}

etcd_typed_tests::on_every_store! { "lists":
    limited_list_has_first_nodes
    newest_list_has_last_created_values
    transaction_expects_empty_directory
    transaction_deletes_directory
    transaction_reads_at_its_revision
}

async fn limited_list_has_first_nodes(bench: Bench) {
    bench.put(&["/d/a", "/d/b/x", "/d/b/y", "/d/b/z/deep", "/d/c", "/d/e/f", "/d/g"]).await;
    let d = bench.client.directory("/d").unwrap();
    let all = d.list().await.unwrap();
    assert_eq!(paths(&all), ["a", "b", "c", "e", "g"]);
    for limit in 0..7 {
        assert_eq!(paths(&d.list().limit(limit).await.unwrap()), paths(&all)[..limit.min(5)], "{limit}");
    }
    let deep = d.list_recursive().await.unwrap();
    assert_eq!(paths(&deep), ["a", "b", "b/x", "b/y", "b/z", "b/z/deep", "c", "e", "e/f", "g"]);
    assert_eq!(paths(&d.list_recursive().limit(3).await.unwrap()), ["a", "b", "b/x"]);
    assert!(bench.client.directory("/none").unwrap().list().limit(3).await.unwrap().is_empty());
}

async fn newest_list_has_last_created_values(bench: Bench) {
    bench.put(&["/h/c", "/h/a", "/h/z/deep", "/h/b", "/h/d/deep"]).await;
    let h = bench.client.directory("/h").unwrap();
    assert_eq!(paths(&h.list().newest(2).await.unwrap()), ["b", "a"]);
    assert_eq!(paths(&h.list().newest(10).await.unwrap()), ["b", "a", "c"]);
    assert_eq!(paths(&h.list_recursive().newest(2).await.unwrap()), ["d/deep", "b"]);
    let newest = h.list().newest(1).await.unwrap();
    assert_eq!(newest[0].value.as_ref().unwrap().as_ref(), b"/h/b");
    assert!(h.list().newest(0).await.unwrap().is_empty());
    assert!(bench.client.directory("/none").unwrap().list().newest(3).await.unwrap().is_empty());
}

async fn transaction_expects_empty_directory(bench: Bench) {
    let (dir, owner) = (bench.client.directory("/slots").unwrap(), bench.client.entry::<u32>("/owner").unwrap());
    let claim = || bench.client.transaction().expect_empty(&dir).write(owner.set(&1));
    if !bench.transactions() {
        let error = claim().await.unwrap_err();
        assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("create"), "{error}");
        return;
    }
    claim().await.unwrap();
    bench.put(&["/slots/deep/er"]).await;
    let error = claim().await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Conflict, Some(dir.key())));
    assert!(error.to_string().contains("/slots/deep/er"), "{error}");
}

async fn transaction_deletes_directory(bench: Bench) {
    bench.put(&["/old/a", "/old/b/c", "/older"]).await;
    let (old, moved) = (bench.client.directory("/old").unwrap(), bench.client.entry::<u32>("/moved").unwrap());
    if !bench.transactions() {
        let error = bench.client.transaction().delete_recursive(&old).write(moved.set(&1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        bench.client.transaction().delete_recursive(&old).await.unwrap();
        assert!(!old.exists().await.unwrap());
        return;
    }
    let refused = bench.client.transaction().expect(&moved, etcd_typed::Expect::Present).delete_recursive(&old).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(old.exists().await.unwrap());
    let written = bench.client.transaction().write(moved.set(&1)).delete_recursive(&old).await.unwrap();
    assert!(!old.exists().await.unwrap() && bench.client.entry::<String>("/older").unwrap().exists().await.unwrap());
    assert_eq!(moved.get().await.unwrap().unwrap().modified(), written);
    // Deleting a directory without keys is not an error.
    bench.client.transaction().delete_recursive(&old).write(moved.set(&2)).await.unwrap();
}

async fn transaction_reads_at_its_revision(bench: Bench) {
    let (a, b) = (bench.client.entry::<u32>("/a").unwrap(), bench.client.entry::<u32>("/b").unwrap());
    let pool = bench.client.dir::<Pool>("/pool").unwrap();
    if !bench.transactions() {
        let error = bench.client.transaction().get(&a).get(&b).reads().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        return;
    }
    a.set(&1).await.unwrap();
    pool.set(&Pool { size: 4, name: None }).await.unwrap();
    let done = bench.client.transaction().get(&b).write(b.set(&2)).get(&a).get(&b).get_dir(&pool).reads().await.unwrap();
    assert_eq!((done.get(&a).unwrap().as_deref(), done.get(&b).unwrap().as_deref()), (Some(&1), Some(&2)));
    assert_eq!(*done.get_dir(&pool).unwrap(), Pool { size: 4, name: None });
    let read = done.get(&b).unwrap().unwrap();
    assert_eq!((read.modified(), read.revision()), (done.revision(), done.revision()));
    // The read value can be used in a compare-and-swap.
    b.compare_and_swap(&read, &3).await.unwrap();
    let other = bench.client.entry::<u32>("/other").unwrap();
    assert_eq!(done.get(&other).unwrap_err().kind(), ErrorKind::Invalid);
    // A transaction with reads alone. One value cannot be decoded.
    bench.put(&["/other"]).await;
    let reads = bench.client.transaction().get(&other).get(&a).reads().await.unwrap();
    assert_eq!(reads.get(&other).unwrap_err().kind(), ErrorKind::Decode);
    assert_eq!(reads.get(&a).unwrap().as_deref(), Some(&1));
}

#[tokio::test]
async fn limited_list_reads_only_its_part_in_memory() {
    let counting = CountingStore::new(Arc::new(MemoryStore::new()));
    let bench = Bench { client: Client::with_store(counting.clone()) };
    for n in 0..500 {
        bench.put(&[&format!("/d/a/{n:03}"), &format!("/d/b{n:03}")]).await;
    }
    let d = bench.client.directory("/d").unwrap();
    counting.take();
    assert_eq!(paths(&d.list().limit(3).await.unwrap()), ["a", "b000", "b001"]);
    assert_eq!(counting.take().total(), 2, "one before the subdirectory ends, and one after it");
    counting.take();
    assert_eq!(paths(&d.list_recursive().newest(2).await.unwrap()), ["b499", "a/499"]);
    assert_eq!(counting.take().total(), 1);
}
