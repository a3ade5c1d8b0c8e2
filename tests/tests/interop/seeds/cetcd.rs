//! The examples in the README of cetcd, a client in Clojure. Its keys are keywords such as `:a`.
//! Its values are numbers as text, and the README says that their conversion "is a job that's left
//! to the caller". In this library, the type of the entry converts the values.

use etcd_typed::{Entry, ErrorKind, Expect};
use serde_json::json;

use super::bed::{Bed, Kind, next};

on_every_store! {
    set_key, set_key_again, get_key, get_key_with_other_type, get_missing_key, get_key_of_directory, delete_key, compare_and_swap, compare_and_delete,
    wait_for_a_value, watch_with_a_callback, create_dir, unusual_keys,
}

fn number(bed: &Bed, path: &str) -> Entry<i64> {
    bed.client.entry(path).unwrap()
}

/// `(set-key! :a 1)`.
async fn set_key(bed: Bed) {
    let a = number(&bed, "/:a");
    let written = a.set(&1).await.unwrap();
    let event = json!({"action": "set", "node": {"key": "/:a", "value": "1", "createdIndex": written, "modifiedIndex": written}});
    bed.recorded(written, event).await;
    assert_eq!(*a.get().await.unwrap().unwrap(), 1);
}

/// `set-key!` of an existing key returns the replaced value.
async fn set_key_again(bed: Bed) {
    let a = number(&bed, "/:a");
    let first = a.set(&1).await.unwrap();
    let previous = a.swap(&3).await.unwrap().unwrap();
    assert_eq!((*previous, previous.created(), previous.modified()), (1, first, first));
    let now = a.get().await.unwrap().unwrap();
    // On v2 a set creates the key again. The other stores keep the create revision.
    assert_eq!(now.created(), if bed.kind == Kind::V2 { now.modified() } else { first });
    let event = json!({
        "action": "set",
        "prevNode": {"key": "/:a", "value": "1", "createdIndex": first, "modifiedIndex": first},
        "node": {"key": "/:a", "value": "3", "createdIndex": now.modified(), "modifiedIndex": now.modified()},
    });
    bed.recorded(now.modified(), event).await;
}

/// `(-> (get-key :a) :node :value)`.
async fn get_key(bed: Bed) {
    let a = number(&bed, "/:a");
    let written = a.set(&1).await.unwrap();
    let now = a.get().await.unwrap().unwrap();
    assert_eq!((*now, now.created(), now.modified()), (1, written, written));
}

/// "Notice that cetcd didn't preserve the type of the key's value."
async fn get_key_with_other_type(bed: Bed) {
    bed.text("/:clojure-key").set(&"one".to_owned()).await.unwrap();
    let error = number(&bed, "/:clojure-key").get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert_eq!(error.key().map(ToString::to_string).as_deref(), Some("/:clojure-key"));
    // The key exists whatever the type of its value.
    assert!(number(&bed, "/:clojure-key").exists().await.unwrap());
}

/// `(get-key :b)` fails with errorCode 100: "return nil if key doesn't exist".
async fn get_missing_key(bed: Bed) {
    assert_eq!(number(&bed, "/:b").get().await.unwrap(), None);
}

/// `(set-key! :foo/bar 1) (set-key! :foo/baz 2) (get-key :foo)`.
async fn get_key_of_directory(bed: Bed) {
    let bar = number(&bed, "/:foo/bar").set(&1).await.unwrap();
    let baz = number(&bed, "/:foo/baz").set(&2).await.unwrap();
    let foo = bed.client.directory("/:foo").unwrap().list().await.unwrap();
    let seen: Vec<_> = foo
        .iter()
        .map(|node| {
            let value = node.value.as_ref().expect("a value");
            (node.path.as_str(), std::str::from_utf8(value).unwrap(), value.created(), value.modified())
        })
        .collect();
    assert_eq!(seen, [("bar", "1", bar, bar), ("baz", "2", baz, baz)]);
    // The directory can also be read as a typed map.
    let map = bed.client.entries::<String, i64>("/:foo").unwrap().get().await.unwrap();
    assert_eq!(map.into_inner(), [("bar".to_owned(), 1), ("baz".to_owned(), 2)].into());
    if bed.has_directories() {
        // "directories require you to know about nodes": reading a directory as a value is an error
        // that says so.
        assert_eq!(number(&bed, "/:foo").get().await.unwrap_err().kind(), ErrorKind::IsADirectory);
    }
}

/// `(delete-key! :a)`.
async fn delete_key(bed: Bed) {
    let a = number(&bed, "/:a");
    let written = a.set(&1).await.unwrap();
    let previous = a.delete().await.unwrap().unwrap();
    assert_eq!((*previous, previous.created()), (1, written));
    assert_eq!(a.get().await.unwrap(), None);
    let event = json!({
        "action": "delete",
        "prevNode": {"key": "/:a", "value": "1", "createdIndex": written, "modifiedIndex": written},
        "node": {"key": "/:a", "createdIndex": written, "modifiedIndex": previous.revision()},
    });
    bed.recorded(previous.revision(), event).await;
}

/// `(compare-and-swap! :a 2 {:prevValue 1})` twice: the second call fails with errorCode 101.
async fn compare_and_swap(bed: Bed) {
    let a = number(&bed, "/:a");
    let created = a.set(&1).await.unwrap();
    let swapped = a.compare_and_swap(Expect::value(&1), &2).await.unwrap();
    let now = a.get().await.unwrap().unwrap();
    assert_eq!((*now, now.created(), now.modified()), (2, created, swapped));
    let event = json!({
        "action": "compareAndSwap",
        "prevNode": {"key": "/:a", "value": "1", "createdIndex": created, "modifiedIndex": created},
        "node": {"key": "/:a", "value": "2", "createdIndex": created, "modifiedIndex": swapped},
    });
    bed.recorded(swapped, event).await;

    let failed = a.compare_and_swap(Expect::value(&1), &2).await.unwrap_err();
    assert_eq!((failed.kind(), failed.current::<i64>()), (ErrorKind::Conflict, Some(&now)));
}

/// `(compare-and-delete! :cad-key {:prevValue 2})`. With a wrong value, the call fails with
/// errorCode 101.
async fn compare_and_delete(bed: Bed) {
    let key = number(&bed, "/:cad-key");
    let created = key.set(&2).await.unwrap();
    let previous = key.compare_and_delete(Expect::value(&2)).await.unwrap().unwrap();
    let event = json!({
        "action": "compareAndDelete",
        "prevNode": {"key": "/:cad-key", "value": "2", "createdIndex": created, "modifiedIndex": created},
        "node": {"key": "/:cad-key", "createdIndex": created, "modifiedIndex": previous.revision()},
    });
    bed.recorded(previous.revision(), event).await;
    assert!(!key.exists().await.unwrap());

    key.set(&2).await.unwrap();
    let failed = key.compare_and_delete(Expect::value(&1)).await.unwrap_err();
    assert_eq!((failed.kind(), failed.current::<i64>().map(|now| **now)), (ErrorKind::Conflict, Some(2)));
    assert!(key.exists().await.unwrap());
}

/// `(future (println "new value is:" (-> (watch-key :a) :node :value)))`, then `(set-key! :a 3)`.
async fn wait_for_a_value(bed: Bed) {
    let a = number(&bed, "/:a");
    a.set(&2).await.unwrap();
    let mut changes = a.watch().await.unwrap();
    let future = tokio::spawn(async move { next(&mut changes).await });
    let written = a.set(&3).await.unwrap();
    let change = future.await.unwrap();
    assert_eq!((change.old, change.new, change.revision), (Some(2), Some(3), written));
}

/// `(watch-key :a :callback (fn [resp] (reset! watchvalue resp)))` with "a place to store the
/// resp".
async fn watch_with_a_callback(bed: Bed) {
    let a = number(&bed, "/:a");
    a.set(&3).await.unwrap();
    let (watchvalue, mut stored) = tokio::sync::watch::channel(None);
    let mut changes = a.watch().await.unwrap();
    let callback = tokio::spawn(async move { watchvalue.send_replace(Some(next(&mut changes).await)) });
    let written = a.set(&4).await.unwrap();
    let change = stored.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!((change.old, change.new, change.revision), (Some(3), Some(4), written));
    callback.await.unwrap();
}

/// `(create-dir! "foo/bar/baz")`.
async fn create_dir(bed: Bed) {
    let baz = bed.client.directory("/foo/bar/baz").unwrap();
    if !bed.has_directories() {
        super::bed::assert_refused(baz.create().await, &bed, "key");
        return;
    }
    let created = baz.create().await.unwrap();
    let listed = baz.list().await.unwrap();
    assert_eq!((listed.created(), listed.modified(), listed.len()), (created, created, 0));
    // The parent directories are created with the directory.
    let above = bed.client.directory("/foo").unwrap().list_recursive().await.unwrap();
    let seen: Vec<_> = above.iter().map(|node| (node.path.as_str(), node.is_directory())).collect();
    assert_eq!(seen, [("bar", true), ("bar/baz", true)]);
}

/// "URL encode all keys": here each of these paths can be written, read, listed, watched and
/// deleted without encoding.
async fn unusual_keys(bed: Bed) {
    let names = [
        ":foo",
        "two words",
        "größe",
        "日本語",
        "🦀",
        "50%",
        "%41",
        "a+b",
        "a&b=c;d",
        "q?x#y",
        "\"quoted\"",
        "back\\slash",
        "it's",
        "a:b@c",
        "~tilde",
        "...",
        ".hidden",
        "{braces}",
        "[1]",
        "<tag>",
        "a,b",
        "\u{2028}",
    ];
    let directory = bed.client.directory("/:odd keys/ümlaut").unwrap();
    let mut changes = directory.watch().await.unwrap();
    for (at, name) in names.iter().enumerate() {
        let path = format!("/:odd keys/ümlaut/{name}");
        let entry = bed.text(&path);
        let written = entry.set(&format!("value of {name}")).await.unwrap();
        assert_eq!(entry.get().await.unwrap().map(|now| now.into_inner()), Some(format!("value of {name}")), "{path}");
        let event = json!({
            "action": "set",
            "node": {"key": &path, "value": format!("value of {name}"), "createdIndex": written, "modifiedIndex": written},
        });
        bed.recorded(written, event).await;
        let update = next(&mut changes).await;
        assert_eq!((update.changes[0].key.as_str(), update.revision), (*name, written));
        assert_eq!(directory.list().await.unwrap().len(), at + 1);
    }
    let mut listed: Vec<String> = directory.list().await.unwrap().iter().map(|node| node.path.clone()).collect();
    let mut expected = names.map(str::to_owned).to_vec();
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    for name in names {
        let entry = bed.text(&format!("/:odd keys/ümlaut/{name}"));
        assert!(entry.delete().await.unwrap().is_some(), "{name}");
        assert!(next(&mut changes).await.changes[0].change.is_deleted());
    }
}
