//! The errors that both READMEs show as `errorCode`, and the error kinds of this library.

use etcd_typed::{ErrorKind, Expect};

use super::bed::{Bed, Kind, next};

on_every_store! {
    code_100_key_not_found, code_101_compare_failed, code_102_not_a_file, code_104_not_a_directory, code_105_key_already_exists,
    code_107_root_is_read_only, code_108_directory_not_empty, code_401_event_index_cleared, error_names_key_but_not_value,
}

async fn code_100_key_not_found(bed: Bed) {
    let missing = bed.text("/foo/missing");
    let value = "x".to_owned();
    // A read of a missing key returns `None`. A change of a missing key is an error.
    assert_eq!(missing.get().await.unwrap(), None);
    assert!(!missing.exists().await.unwrap());
    assert_eq!(missing.delete().await.unwrap(), None);
    assert_eq!(missing.replace(&value).await.unwrap_err().kind(), ErrorKind::NotFound);
    for expected in [Expect::value(&value), Expect::revision(7), Expect::Present] {
        let swap = missing.compare_and_swap(expected, &value).await.unwrap_err();
        let delete = missing.compare_and_delete(expected).await.unwrap_err();
        for error in [swap, delete] {
            assert_eq!((error.kind(), error.current::<String>()), (ErrorKind::Conflict, None));
            assert!(!error.may_have_applied());
        }
    }
    assert!(!missing.exists().await.unwrap());
}

async fn code_101_compare_failed(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let (one, two) = ("1".to_owned(), "2".to_owned());
    let written = bar.set(&two).await.unwrap();
    let swap = bar.compare_and_swap(Expect::value(&one), &one).await.unwrap_err();
    let by_index = bar.compare_and_swap(Expect::revision(written.next()), &one).await.unwrap_err();
    let delete = bar.compare_and_delete(Expect::value(&one)).await.unwrap_err();
    for error in [swap, by_index, delete] {
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let current = error.current::<String>().expect("the current value");
        assert_eq!((current.as_str(), current.modified()), ("2", written));
    }
}

/// On v2, a call for a value fails if the path is a directory. On the other stores, a value and a
/// directory can have the same path.
async fn code_102_not_a_file(bed: Bed) {
    bed.text("/foo/bar").set(&"Hello World".to_owned()).await.unwrap();
    let foo = bed.text("/foo");
    let value = "x".to_owned();
    if bed.has_directories() {
        for error in [foo.set(&value).await.unwrap_err(), foo.delete().await.unwrap_err(), foo.get().await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::IsADirectory, "{error}");
        }
        return;
    }
    foo.set(&value).await.unwrap();
    assert_eq!(foo.get().await.unwrap().unwrap().into_inner(), value);
    assert_eq!(foo.delete().await.unwrap().unwrap().into_inner(), value);
    assert!(bed.text("/foo/bar").exists().await.unwrap());
}

/// On v2, a call fails if its path leads through a value. On the other stores, keys can exist below
/// a value.
async fn code_104_not_a_directory(bed: Bed) {
    let bar = bed.text("/foo/bar");
    bar.set(&"Hello World".to_owned()).await.unwrap();
    let below = bed.text("/foo/bar/below");
    let value = "x".to_owned();
    let directory = bed.client.directory("/foo/bar").unwrap();
    if bed.has_directories() {
        let errors =
            [below.set(&value).await.unwrap_err(), directory.list().await.unwrap_err(), directory.delete_recursive().await.unwrap_err()];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::NotADirectory, "{error}");
        }
    } else {
        below.set(&value).await.unwrap();
        assert_eq!(directory.delete_recursive().await.unwrap(), 1);
    }
    // A deletion of the keys below a value never deletes the value itself.
    assert!(bar.exists().await.unwrap());
}

async fn code_105_key_already_exists(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let written = bar.create(&"Hello World".to_owned()).await.unwrap();
    let exists = bar.create(&"Merhaba".to_owned()).await.unwrap_err();
    assert_eq!(exists.kind(), ErrorKind::AlreadyExists);
    assert_eq!(exists.current::<String>().map(|now| (now.as_str(), now.modified())), Some(("Hello World", written)));
}

/// The root is a directory on every store.
async fn code_107_root_is_read_only(bed: Bed) {
    let error = bed.client.entry::<String>("/").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidKey, "{error}");
    bed.text("/foo").set(&"x".to_owned()).await.unwrap();
    let root = bed.client.directory("/").unwrap();
    if bed.has_directories() {
        for error in [root.create().await.unwrap_err(), root.delete().await.unwrap_err(), root.delete_recursive().await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::InvalidKey, "{error}");
        }
        assert!(bed.text("/foo").exists().await.unwrap());
    } else {
        assert_eq!(root.delete_recursive().await.unwrap(), 1);
    }
}

async fn code_108_directory_not_empty(bed: Bed) {
    let bar = bed.text("/foo/bar");
    bar.set(&"Hello World".to_owned()).await.unwrap();
    let error = bed.client.directory("/foo").unwrap().delete().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DirectoryNotEmpty);
    assert!(bar.exists().await.unwrap());
}

/// A v2 server keeps its last 1000 events. A watch from an earlier index gets the current state,
/// marked as a resync. The other stores still have the history.
async fn code_401_event_index_cleared(bed: Bed) {
    let bar = bed.text("/foo/bar");
    let first = bar.set(&"0".to_owned()).await.unwrap();
    for n in 1..=1100 {
        bar.set(&n.to_string()).await.unwrap();
    }
    let mut changes = bar.watch().since(first).await.unwrap();
    let change = next(&mut changes).await;
    let seen = (change.old.as_deref(), change.new.as_deref(), change.resynced);
    assert_eq!(seen, if bed.kind == Kind::V2 { (None, Some("1100"), true) } else { (Some("0"), Some("1"), false) });
}

/// The server's own message for a failed compare contains the stored value. This library's error
/// contains the key instead.
async fn error_names_key_but_not_value(bed: Bed) {
    let bar = bed.text("/foo/bar");
    bar.set(&"hunter2".to_owned()).await.unwrap();
    let error = bar.compare_and_swap(Expect::value(&"1".to_owned()), &"2".to_owned()).await.unwrap_err();
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(text.contains("/foo/bar") && !text.contains("hunter2"), "{text}");
    }
}
