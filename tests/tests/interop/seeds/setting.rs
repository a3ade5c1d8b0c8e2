//! The examples in the section "Setting Key Values" of the README of Etcd.jl.

use std::time::Duration;

use etcd_typed::{ErrorKind, Expect};
use serde_json::json;

use super::bed::{Bed, assert_refused};

on_every_store! {
    set, set_with_ttl, value_with_ttl_expires, every_write_takes_a_ttl, compare_and_swap_by_value, compare_and_swap_by_index, create,
    create_dir, update, update_dir,
}

const MINUTE: Duration = Duration::from_secs(60);

/// `set(etcd, "/foo/bar", "Hello World")`.
async fn set(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let written = bar.set(&"Hello World".to_owned()).await.unwrap();
    let now = bar.get().await.unwrap().unwrap();
    assert_eq!(*now, "Hello World");
    assert_eq!((now.created(), now.modified()), (written, written));
    let event =
        json!({"action": "set", "node": {"key": "/foo/bar", "value": "Hello World", "createdIndex": written, "modifiedIndex": written}});
    bed.recorded(written, event).await;
}

/// `set(etcd, "/foo/bar", "Hello World", ttl=60)`.
async fn set_with_ttl(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let written = bar.set(&"Hello World".to_owned()).ttl(MINUTE).await.unwrap();
    let now = bar.get().await.unwrap().unwrap();
    assert_eq!((now.created(), now.modified()), (written, written));
    let left = time_left(&bed, "/foo/bar").await.expect("the value expires");
    assert!(left > Duration::ZERO && left <= MINUTE, "{left:?}");
    // A set without ttl removes the ttl.
    bar.set(&"Hello World".to_owned()).await.unwrap();
    assert_eq!(time_left(&bed, "/foo/bar").await, None);
}

/// "with a value that expires".
async fn value_with_ttl_expires(bed: Bed) {
    let bar = bed.text("/foo/bar");
    bar.set(&"Hello World".to_owned()).ttl(Duration::from_secs(2)).await.unwrap();
    assert!(bar.exists().await.unwrap());
    while bar.exists().await.unwrap() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bar.get().await.unwrap(), None);
}

/// "Note that the ttl value can be set with all the following commands".
async fn every_write_takes_a_ttl(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let value = "Hello World".to_owned();
    bar.create(&value).ttl(MINUTE).await.unwrap();
    assert!(time_left(&bed, "/foo/bar").await.is_some());
    bar.replace(&value).await.unwrap();
    assert_eq!(time_left(&bed, "/foo/bar").await, None);
    bar.replace(&value).ttl(MINUTE).await.unwrap();
    assert!(time_left(&bed, "/foo/bar").await.is_some());
    bar.compare_and_swap(Expect::value(&value), &value).await.unwrap();
    assert_eq!(time_left(&bed, "/foo/bar").await, None);
    bar.compare_and_swap(Expect::value(&value), &value).ttl(MINUTE).await.unwrap();
    assert!(time_left(&bed, "/foo/bar").await.is_some());
    bar.swap(&value).ttl(MINUTE).await.unwrap();
    assert!(time_left(&bed, "/foo/bar").await.is_some());
}

/// `compare_and_swap(etcd, "/foo/bar", "Goodbye Cruel World", prev_value="Hello World")`, also
/// called `test_and_set`.
async fn compare_and_swap_by_value(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let (hello, goodbye) = ("Hello World".to_owned(), "Goodbye Cruel World".to_owned());
    let before = bar.set(&hello).await.unwrap();
    let swapped = bar.compare_and_swap(Expect::value(&hello), &goodbye).await.unwrap();
    let now = bar.get().await.unwrap().unwrap();
    assert_eq!(*now, goodbye);
    assert!(now.created() == before && now.modified() == swapped && swapped > before);
    let event = json!({
        "action": "compareAndSwap",
        "prevNode": {"key": "/foo/bar", "value": "Hello World", "createdIndex": before, "modifiedIndex": before},
        "node": {"key": "/foo/bar", "value": "Goodbye Cruel World", "createdIndex": before, "modifiedIndex": swapped},
    });
    bed.recorded(swapped, event).await;

    let conflict = bar.compare_and_swap(Expect::value(&hello), &goodbye).await.unwrap_err();
    assert_eq!(conflict.kind(), ErrorKind::Conflict);
    assert_eq!(conflict.current::<String>(), Some(&now));
}

/// `compare_and_swap(etcd, "/foo/bar", "Goodbye Cruel World", prev_index=1818)`.
async fn compare_and_swap_by_index(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let goodbye = "Goodbye Cruel World".to_owned();
    let before = bar.set(&"Hello World".to_owned()).await.unwrap();
    let swapped = bar.compare_and_swap(Expect::revision(before), &goodbye).await.unwrap();
    let now = bar.get().await.unwrap().unwrap();
    assert_eq!(*now, goodbye);
    assert!(now.created() == before && now.modified() == swapped && swapped > before);
    let event = json!({
        "action": "compareAndSwap",
        "prevNode": {"key": "/foo/bar", "value": "Hello World", "createdIndex": before, "modifiedIndex": before},
        "node": {"key": "/foo/bar", "value": "Goodbye Cruel World", "createdIndex": before, "modifiedIndex": swapped},
    });
    bed.recorded(swapped, event).await;

    // The plain number and a value that was read give the same condition.
    let conflict = bar.compare_and_swap(Expect::revision(before.get()), &goodbye).await.unwrap_err();
    assert_eq!((conflict.kind(), conflict.current::<String>()), (ErrorKind::Conflict, Some(&now)));
    bar.compare_and_swap(&now, &goodbye).await.unwrap();
    // A v2 server would ignore a condition on index 0.
    let conflict = bar.compare_and_swap(Expect::revision(0), &goodbye).await.unwrap_err();
    assert_eq!(conflict.kind(), ErrorKind::Conflict);
}

/// `create(etcd, "/foo/boo", "Hello World")`.
async fn create(bed: Bed) {
    let boo = bed.text("/foo/boo");
    let hello = "Hello World".to_owned();
    let created = boo.create(&hello).await.unwrap();
    let now = boo.get().await.unwrap().unwrap();
    assert_eq!((now.created(), now.modified(), now.as_str()), (created, created, "Hello World"));
    let event =
        json!({"action": "create", "node": {"key": "/foo/boo", "value": "Hello World", "createdIndex": created, "modifiedIndex": created}});
    bed.recorded(created, event).await;

    // "only if the key did not previously exist": otherwise errorCode 105.
    let exists = boo.create(&hello).await.unwrap_err();
    assert_eq!((exists.kind(), exists.current::<String>()), (ErrorKind::AlreadyExists, Some(&now)));
}

/// `create_dir(etcd, "/fooDir")`.
async fn create_dir(bed: Bed) {
    let directory = bed.client.directory("/fooDir").unwrap();
    if !bed.has_directories() {
        // On these stores a directory is created with the first key in it.
        assert_refused(directory.create().await, &bed, "key");
        assert_refused(directory.create().ttl(MINUTE).await, &bed, "key");
        assert!(!directory.exists().await.unwrap());
        directory.entry::<String>("bar").set(&"Hello World".to_owned()).await.unwrap();
        assert!(directory.exists().await.unwrap());
        return;
    }
    let created = directory.create().await.unwrap();
    let listed = directory.list().await.unwrap();
    assert_eq!((listed.len(), listed.created(), listed.modified(), listed.ttl()), (0, created, created, None));
    let event = json!({"action": "create", "node": {"key": "/fooDir", "dir": true, "createdIndex": created, "modifiedIndex": created}});
    bed.recorded(created, event).await;

    // "only if the directory did not previously exist": otherwise errorCode 105.
    assert_eq!(directory.create().await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let expiring = bed.client.directory("/fooDir/deeper").unwrap();
    expiring.create().ttl(MINUTE).await.unwrap();
    let left = expiring.list().await.unwrap().ttl().expect("the directory expires");
    assert!(left > Duration::ZERO && left <= MINUTE, "{left:?}");
}

/// `update(etcd, "/foo/boo", "Merhaba")`.
async fn update(bed: Bed) {
    let boo = bed.text("/foo/boo");
    let merhaba = "Merhaba".to_owned();
    // "only if the key already existed": otherwise errorCode 100.
    assert_eq!(boo.replace(&merhaba).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!boo.exists().await.unwrap());

    let created = boo.create(&"Hello World".to_owned()).await.unwrap();
    let updated = boo.replace(&merhaba).await.unwrap();
    let now = boo.get().await.unwrap().unwrap();
    assert!(*now == merhaba && now.created() == created && now.modified() == updated && updated > created);
    let event = json!({
        "action": "update",
        "prevNode": {"key": "/foo/boo", "value": "Hello World", "createdIndex": created, "modifiedIndex": created},
        "node": {"key": "/foo/boo", "value": "Merhaba", "createdIndex": created, "modifiedIndex": updated},
    });
    bed.recorded(updated, event).await;
}

/// "You can also Create (create_dir) or update (update_dir) a directory": only its time to live can
/// be updated.
async fn update_dir(bed: Bed) {
    let directory = bed.client.directory("/fooDir").unwrap();
    let inside = directory.entry::<String>("bar");
    if !bed.has_directories() {
        inside.set(&"Hello World".to_owned()).await.unwrap();
        assert_refused(directory.update().ttl(MINUTE).await, &bed, "key");
        return;
    }
    assert_eq!(directory.update().ttl(MINUTE).await.unwrap_err().kind(), ErrorKind::NotFound);
    let created = directory.create().await.unwrap();
    inside.set(&"Hello World".to_owned()).await.unwrap();
    if bed.is_of("3.5") {
        // etcd 3.5 has a defect: it refuses every update of a directory with an internal error.
        assert_refused(directory.update().ttl(MINUTE).await, &bed, "make it anew");
        assert_eq!(directory.list().await.unwrap().ttl(), None);
        return;
    }
    directory.update().ttl(MINUTE).await.unwrap();
    let listed = directory.list().await.unwrap();
    let left = listed.ttl().expect("the directory expires");
    assert!(left > Duration::ZERO && left <= MINUTE, "{left:?}");
    assert_eq!((listed.created(), listed.len()), (created, 1));

    let updated = directory.update().await.unwrap();
    assert_eq!(directory.list().await.unwrap().ttl(), None);
    let event = json!({
        "action": "update",
        "prevNode": {"key": "/fooDir", "dir": true, "createdIndex": created, "modifiedIndex": created},
        "node": {"key": "/fooDir", "dir": true, "createdIndex": created, "modifiedIndex": updated},
    });
    bed.recorded(updated, event).await;
}

/// Returns the remaining time to live of a value. v2 returns the time with the value. On the other
/// stores it is the remaining time of the value's lease.
async fn time_left(bed: &Bed, path: &str) -> Option<Duration> {
    let now = bed.text(path).get().await.unwrap().expect("a value");
    match now.lease() {
        Some(lease) => bed.client.store().time_to_live(lease).await.unwrap(),
        None => now.ttl(),
    }
}
