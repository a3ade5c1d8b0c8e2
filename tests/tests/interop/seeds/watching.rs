//! The examples in the section "Watching for changes" of the README of Etcd.jl.

use std::sync::{Arc, Mutex};

use etcd_typed::{Expect, Revision};

use super::bed::{Bed, Kind, next};

on_every_store! {
    watch_once, watch_with_a_callback, watch_recursive, watch_from_an_index, keep_watching, watch_until, wait_until_a_value, watch_sees_expiry,
    watch_sees_directory_deletion, watch_from_future_revision_resyncs,
}

/// `watch(etcd, "/foo/bar", ev -> …)`: the next change only.
async fn watch_once(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let created = bar.create(&"Hello World".to_owned()).await.unwrap();
    let mut changes = bar.watch().await.unwrap();
    let watchers = "Who's watching the watchers".to_owned();
    let updated = bar.replace(&watchers).await.unwrap();
    bed.text("/foo/barn").set(&"another key".to_owned()).await.unwrap();

    let change = next(&mut changes).await;
    assert!(change.is_modified() && updated > created);
    assert_eq!((change.old.as_deref(), change.new.as_ref(), change.revision), (Some("Hello World"), Some(&watchers), updated));
    let now = changes.current().unwrap().unwrap();
    assert_eq!((now.created(), now.modified()), (created, updated));
}

/// `watch` with a callback, which is a task here. The watch is established before the change is
/// made.
async fn watch_with_a_callback(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let mut changes = bar.watch().await.unwrap();
    let callback = tokio::spawn(async move { next(&mut changes).await.new.map(|value| format!("I'm watching you: {value}")) });
    bar.set(&"Hello World".to_owned()).await.unwrap();
    assert_eq!(callback.await.unwrap().as_deref(), Some("I'm watching you: Hello World"));
}

/// "`recursive=true` to watch the key and all it's children".
async fn watch_recursive(bed: Bed) {
    let mut changes = bed.client.directory("/foo").unwrap().watch().await.unwrap();
    let mut expected = Vec::new();
    for path in ["bar", "sub/deep", "sub/deeper/still"] {
        let revision = bed.text(&format!("/foo/{path}")).set(&path.to_uppercase()).await.unwrap();
        bed.text("/foot").set(&"not below /foo".to_owned()).await.unwrap();
        expected.push((path.to_owned(), path.to_uppercase(), revision));
    }
    for (path, value, revision) in expected {
        let update = next(&mut changes).await;
        let [keyed] = update.changes.as_slice() else { panic!("one change: {update:?}") };
        assert_eq!((keyed.key.as_str(), keyed.change.new.as_deref()), (path.as_str(), Some(value.as_bytes())));
        assert!(keyed.change.is_created() && update.revision == revision);
    }
}

/// "`wait_index` to watch starting with the provided index": that index is included, so the watch
/// gets all changes since the index before it.
async fn watch_from_an_index(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let values = ["one", "two", "three"].map(str::to_owned);
    let mut revisions = Vec::new();
    for value in &values {
        revisions.push(bar.set(value).await.unwrap());
    }
    let wait_index = revisions[1];
    let mut changes = bar.watch().since(wait_index.previous()).await.unwrap();
    for at in [1, 2] {
        let change = next(&mut changes).await;
        assert_eq!((change.new.as_ref(), change.revision, change.resynced), (Some(&values[at]), revisions[at], false));
        if at > 1 || bed.kind != Kind::V2 {
            // v2 does not know the value before that index.
            assert_eq!(change.old.as_ref(), Some(&values[at - 1]));
        }
    }
    // Now watch the directory from the same index.
    let mut changes = bed.client.directory("/foo").unwrap().watch().since(wait_index.get() - 1).await.unwrap();
    for at in [1, 2] {
        let update = next(&mut changes).await;
        assert_eq!((update.revision, update.changes.len(), update.resynced), (revisions[at], 1, false));
        assert_eq!(update.changes[0].change.new.as_deref(), Some(values[at].as_bytes()));
    }
    // The watch continues with new changes.
    let later = bar.set(&"four".to_owned()).await.unwrap();
    assert_eq!(next(&mut changes).await.revision, later);
}

/// `keep_watching(etcd, "/foo/bar", ev -> …)`: "The callback will keep getting called for every
/// change to the key".
async fn keep_watching(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let mut changes = bar.watch().await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let watching = tokio::spawn(async move {
        loop {
            let change = next(&mut changes).await;
            let last = change.new.as_deref() == Some("enough");
            log.lock().unwrap().push((change.old, change.new));
            if last {
                return;
            }
        }
    });
    let [one, two, three] = ["one", "two", "three"].map(str::to_owned);
    bar.set(&one).await.unwrap();
    bar.replace(&two).await.unwrap();
    bar.compare_and_swap(Expect::value(&two), &three).await.unwrap();
    bar.delete().await.unwrap();
    bar.create(&"enough".to_owned()).await.unwrap();
    watching.await.unwrap();

    let expected =
        [(None, Some("one")), (Some("one"), Some("two")), (Some("two"), Some("three")), (Some("three"), None), (None, Some("enough"))];
    let seen = seen.lock().unwrap();
    assert_eq!(seen.iter().map(|(old, new)| (old.as_deref(), new.as_deref())).collect::<Vec<_>>(), expected);
}

/// `watch_until(etcd, "/foo", ev -> …, predicate, recursive=true)`: the predicate of the README is
/// true at the third change.
async fn watch_until(bed: Bed) {
    let mut changes = bed.client.directory("/foo").unwrap().watch().await.unwrap();
    let watching = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.extend(next(&mut changes).await.changes.into_iter().map(|keyed| keyed.key));
        }
        seen
    });
    for path in ["/foo/a", "/foo/b", "/foo/c/d", "/foo/e"] {
        bed.text(path).set(&"x".to_owned()).await.unwrap();
    }
    assert_eq!(watching.await.unwrap(), ["a", "b", "c/d"]);
}

/// `watch_until` with a predicate on the value.
async fn wait_until_a_value(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let waiting = tokio::spawn({
        let bar = bar.clone();
        async move { bar.wait_for(|value| value.is_some_and(|value| value.starts_with("Goodbye"))).await.unwrap() }
    });
    bar.set(&"Hello World".to_owned()).await.unwrap();
    let written = bar.set(&"Goodbye Cruel World".to_owned()).await.unwrap();
    let found = waiting.await.unwrap().unwrap();
    assert_eq!((found.as_str(), found.modified()), ("Goodbye Cruel World", written));
    // `wait_for` returns at once if the value already matches.
    assert_eq!(bar.wait_for(|value| value.is_some()).await.unwrap().unwrap().modified(), written);
}

/// The expiry of a key is a change like any other.
async fn watch_sees_expiry(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let mut changes = bar.watch().await.unwrap();
    bar.set(&"Hello World".to_owned()).ttl(std::time::Duration::from_secs(1)).await.unwrap();
    assert!(next(&mut changes).await.is_created());
    let expired = next(&mut changes).await;
    assert_eq!((expired.old.as_deref(), expired.new), (Some("Hello World"), None));
}

/// The deletion of a key with its directory is a change too, although a v2 server reports only the
/// directory.
async fn watch_sees_directory_deletion(bed: Bed) {
    let bar = bed.text("/foo/sub/bar");
    bar.set(&"Hello World".to_owned()).await.unwrap();
    let mut changes = bar.watch().await.unwrap();
    bed.client.directory("/foo").unwrap().delete_recursive().await.unwrap();
    let gone = next(&mut changes).await;
    assert_eq!((gone.old.as_deref(), gone.new), (Some("Hello World"), None));
}

/// A revision that the store has not reached comes from another store, or from before this store
/// was restored. A watch from such a revision does not wait until the store reaches it. The watch
/// starts with the current state, marked as a resync.
async fn watch_from_future_revision_resyncs(bed: Bed) {
    for there in [false, true] {
        let bar = bed.text("/foo/bar");
        if there {
            bar.set(&"one".to_owned()).await.unwrap();
        }
        let now = bar.get().await.unwrap().map_or(Revision::new(1), |bar| bar.revision());
        let future = now.get() + 1000;
        let map = bed.client.entries::<String, String>("/foo").unwrap();
        let mut entry = bar.watch().since(future).await.unwrap();
        let mut entries = map.watch().since(future).await.unwrap();
        let mut keys = bed.client.directory("/foo").unwrap().watch().since(future).await.unwrap();
        let present = there.then(|| "one".to_owned());

        let change = next(&mut entry).await;
        assert_eq!((change.old, change.new.clone(), change.resynced), (None, present.clone(), true));
        let update = next(&mut entries).await;
        let told = update.changes.into_iter().map(|keyed| keyed.change.new).next().flatten();
        assert_eq!((told, update.resynced), (present.clone(), true));
        let update = next(&mut keys).await;
        assert_eq!((update.changes.len(), update.resynced), (usize::from(there), true));

        // The watches report new changes, although the store has not reached the revision.
        let written = bar.set(&"two".to_owned()).await.unwrap();
        assert!(written.get() < future);
        let change = next(&mut entry).await;
        assert_eq!((change.old, change.new.as_deref(), change.revision, change.resynced), (present, Some("two"), written, false));
        assert_eq!(next(&mut entries).await.revision, written);
        assert_eq!(next(&mut keys).await.revision, written);
    }
}
