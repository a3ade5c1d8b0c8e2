//! The examples in the section "Deleting keys" of the README of Etcd.jl.

use etcd_typed::{ErrorKind, Expect};
use serde_json::json;

use super::bed::{Bed, assert_refused, next};

on_every_store! {
    delete, delete_empty_dir, delete_dir_recursive, only_listed_keys_are_deleted, compare_and_delete_by_value, compare_and_delete_by_index
}

/// `delete(etcd, "/foo/boo")`.
async fn delete(bed: Bed) {
    let boo = bed.text("/foo/boo");
    let created = boo.create(&"Hello World".to_owned()).await.unwrap();
    let updated = boo.replace(&"Merhaba".to_owned()).await.unwrap();

    let previous = boo.delete().await.unwrap().unwrap();
    assert_eq!((previous.as_str(), previous.created(), previous.modified()), ("Merhaba", created, updated));
    assert_eq!(boo.get().await.unwrap(), None);
    let deleted = previous.revision();
    assert!(deleted > updated);
    let event = json!({
        "action": "delete",
        "prevNode": {"key": "/foo/boo", "value": "Merhaba", "createdIndex": created, "modifiedIndex": updated},
        "node": {"key": "/foo/boo", "createdIndex": created, "modifiedIndex": deleted},
    });
    bed.recorded(deleted, event).await;
    // errorCode 100: the key does not exist, which is not an error here.
    assert_eq!(boo.delete().await.unwrap(), None);
}

/// `delete_dir(etcd, "/foo/qux")`.
async fn delete_empty_dir(bed: Bed) {
    let qux = bed.client.directory("/foo/qux").unwrap();
    assert_eq!(qux.delete().await.unwrap_err().kind(), ErrorKind::NotFound);
    if bed.has_directories() {
        let created = qux.create().await.unwrap();
        let deleted = qux.delete().await.unwrap();
        assert!(!qux.exists().await.unwrap());
        let event = json!({
            "action": "delete",
            "prevNode": {"key": "/foo/qux", "dir": true, "createdIndex": created, "modifiedIndex": created},
            "node": {"key": "/foo/qux", "dir": true, "createdIndex": created, "modifiedIndex": deleted},
        });
        bed.recorded(deleted, event).await;
    } else {
        assert_refused(qux.create().await, &bed, "key");
    }
    // errorCode 108: a directory that is not empty is not deleted.
    let inside = qux.entry::<String>("inside");
    inside.set(&"x".to_owned()).await.unwrap();
    assert_eq!(qux.delete().await.unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    assert!(inside.exists().await.unwrap());
}

/// `delete_dir(etcd, "/foo", recursive=true)`.
async fn delete_dir_recursive(bed: Bed) {
    let foo = bed.client.directory("/foo").unwrap();
    let first = bed.text("/foo/bar").set(&"Hello World".to_owned()).await.unwrap();
    bed.text("/foo/baz/deep").set(&"Goodbye Cruel World".to_owned()).await.unwrap();
    let apart = bed.text("/foot");
    apart.set(&"not below /foo".to_owned()).await.unwrap();
    assert_eq!(foo.list_recursive().await.unwrap().len(), 3);

    let mut changes = foo.watch().await.unwrap();
    assert_eq!(foo.delete_recursive().await.unwrap(), if bed.has_directories() { 1 } else { 2 });
    // All keys are deleted at one revision.
    let update = next(&mut changes).await;
    assert!(update.changes.iter().all(|keyed| keyed.change.is_deleted()));
    assert_eq!(update.changes.iter().map(|keyed| keyed.key.as_str()).collect::<Vec<_>>(), ["bar", "baz/deep"]);
    let event = json!({
        "action": "delete",
        "prevNode": {"key": "/foo", "dir": true, "createdIndex": first, "modifiedIndex": first},
        "node": {"key": "/foo", "dir": true, "createdIndex": first, "modifiedIndex": update.revision},
    });
    bed.recorded(update.revision, event).await;
    // errorCode 100: deleting a missing directory deletes nothing.
    assert!(foo.list_recursive().await.unwrap().is_empty());
    assert!(!foo.exists().await.unwrap());
    assert_eq!(bed.text("/foo/bar").get().await.unwrap(), None);
    assert_eq!(foo.delete_recursive().await.unwrap(), 0);
    assert!(apart.exists().await.unwrap());
}

/// A key that is not a valid path belongs to another program. For example, Go's lock with the name
/// `/foo/` has its keys below `/foo//`.
async fn only_listed_keys_are_deleted(bed: Bed) {
    if bed.has_directories() {
        // On v2, every key is a valid path.
        return;
    }
    let foo = bed.client.directory("/foo").unwrap();
    let locks = ["/foo/", "/foo/a/", "/foo/b/c//"].map(|name| bed.client.lock(name));
    let mut held = Vec::new();
    for lock in &locks {
        held.push(lock.acquire().await.unwrap());
    }
    assert!(!foo.exists().await.unwrap());
    assert_eq!(foo.delete_recursive().await.unwrap(), 0);
    for path in ["/foo/x", "/foo/a", "/foo/a/y", "/foo/b/c/z", "/foo/b/d/e/f", "/foo/g/h"] {
        bed.text(path).set(&"v".to_owned()).await.unwrap();
    }
    let listed = foo.list_recursive().await.unwrap().iter().filter(|node| !node.is_directory()).count();
    assert_eq!((foo.delete_recursive().await.unwrap(), listed), (6, 6));
    assert!(!foo.exists().await.unwrap());
    assert_eq!(foo.delete().await.unwrap_err().kind(), ErrorKind::NotFound);
    for lock in held {
        lock.verify().await.unwrap();
    }
}

/// `compare_and_delete(etcd, "/foo/bar", prev_value="bar value")`.
async fn compare_and_delete_by_value(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let value = "bar value".to_owned();
    let created = bar.create(&value).await.unwrap();
    let conflict = bar.compare_and_delete(Expect::value(&"another".to_owned())).await.unwrap_err();
    assert_eq!(conflict.kind(), ErrorKind::Conflict);
    assert_eq!(conflict.current::<String>().map(|now| now.as_str()), Some("bar value"));

    let previous = bar.compare_and_delete(Expect::value(&value)).await.unwrap().unwrap();
    assert_eq!((previous.as_str(), previous.created(), previous.modified()), ("bar value", created, created));
    let deleted = previous.revision();
    let event = json!({
        "action": "compareAndDelete",
        "prevNode": {"key": "/foo/bar", "value": "bar value", "createdIndex": created, "modifiedIndex": created},
        "node": {"key": "/foo/bar", "createdIndex": created, "modifiedIndex": deleted},
    });
    bed.recorded(deleted, event).await;
    assert!(!bar.exists().await.unwrap());
}

/// `compare_and_delete(etcd, "/foo/bar", prev_index=1849)`.
async fn compare_and_delete_by_index(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let created = bar.create(&"Hello World".to_owned()).await.unwrap();
    for wrong in [0, created.get() - 1, created.get() + 1] {
        let conflict = bar.compare_and_delete(Expect::revision(wrong)).await.unwrap_err();
        assert_eq!(conflict.kind(), ErrorKind::Conflict);
        assert!(bar.exists().await.unwrap());
    }

    let previous = bar.compare_and_delete(Expect::revision(created)).await.unwrap().unwrap();
    assert_eq!((previous.as_str(), previous.created(), previous.modified()), ("Hello World", created, created));
    let deleted = previous.revision();
    let event = json!({
        "action": "compareAndDelete",
        "prevNode": {"key": "/foo/bar", "value": "Hello World", "createdIndex": created, "modifiedIndex": created},
        "node": {"key": "/foo/bar", "createdIndex": created, "modifiedIndex": deleted},
    });
    bed.recorded(deleted, event).await;
    assert!(!bar.exists().await.unwrap());
}
