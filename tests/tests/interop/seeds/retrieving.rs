//! The examples in the section "Retrieving key values" of the README of Etcd.jl.

use etcd_typed::Expect;

use super::bed::{Bed, Kind};

on_every_store! { get, get_recursive, list_one_level, exists }

/// `get(etcd, "/foo/bar")`.
async fn get(bed: Bed) {
    let bar = bed.text("/foo/bar");
    assert_eq!(bar.get().await.unwrap(), None);
    let written = bar.set(&"Hello World".to_owned()).await.unwrap();
    let now = bar.get().await.unwrap().unwrap();
    assert_eq!((now.as_str(), now.created(), now.modified()), ("Hello World", written, written));
    assert!(now.revision() >= written);
    // "in the local etcd node": a read that any member may answer from its own state.
    let local = bed.client.stale_reads().entry::<String>("/foo/bar").unwrap();
    assert_eq!(local.get().await.unwrap().unwrap().into_inner(), "Hello World");
}

/// `get(etcd, "/foo", recursive=true)`.
async fn get_recursive(bed: Bed) {
    let foo = bed.client.directory("/foo").unwrap();
    let (bar, baz, deep) = (bed.text("/foo/bar"), bed.text("/foo/baz"), bed.text("/foo/sub/deep"));
    let first = bar.set(&"Hello World".to_owned()).await.unwrap();
    let second = baz.set(&"Hello World".to_owned()).await.unwrap();
    let swapped = baz.compare_and_swap(Expect::revision(second), &"Goodbye Cruel World".to_owned()).await.unwrap();
    let last = deep.set(&"x".to_owned()).await.unwrap();
    bed.text("/foot").set(&"not below /foo".to_owned()).await.unwrap();

    let all = foo.list_recursive().await.unwrap();
    let paths: Vec<&str> = all.iter().map(|node| node.path.as_str()).collect();
    assert_eq!(paths, ["bar", "baz", "sub", "sub/deep"]);
    let seen = |path: &str| {
        let value = all.iter().find(|node| node.path == path)?.value.as_ref()?;
        Some((std::str::from_utf8(value).unwrap().to_owned(), value.created(), value.modified()))
    };
    assert_eq!(seen("bar"), Some(("Hello World".to_owned(), first, first)));
    assert_eq!(seen("baz"), Some(("Goodbye Cruel World".to_owned(), second, swapped)));
    assert_eq!(seen("sub/deep"), Some(("x".to_owned(), last, last)));
    assert!(seen("sub").is_none() && all.iter().any(|node| node.path == "sub" && node.is_directory()));
    // The directory was created with its first key. v2 keeps only that index. The other stores
    // report the newest key's revision as the modify revision.
    assert_eq!(all.created(), first);
    assert_eq!(all.modified(), if bed.kind == Kind::V2 { first } else { last });
    assert!(all.revision() >= last);
}

/// A `get` of a directory without `recursive` lists the keys and directories directly in the
/// directory.
async fn list_one_level(bed: Bed) {
    for path in ["/foo/bar", "/foo/sub/deep", "/foo/sub/deeper/still"] {
        bed.text(path).set(&"Hello World".to_owned()).await.unwrap();
    }
    let listed = bed.client.directory("/foo").unwrap().list().await.unwrap();
    let seen: Vec<(&str, bool)> = listed.iter().map(|node| (node.path.as_str(), node.is_directory())).collect();
    assert_eq!(seen, [("bar", false), ("sub", true)]);
    let root = bed.client.directory("/").unwrap().list().await.unwrap();
    assert_eq!(root.iter().map(|node| node.path.as_str()).collect::<Vec<_>>(), ["foo"]);
    // The list of a missing directory is empty, like that of an empty directory. `exists`
    // distinguishes the two.
    let missing = bed.client.directory("/missing").unwrap();
    assert!(missing.list().await.unwrap().is_empty() && missing.list_recursive().await.unwrap().is_empty());
    assert!(!missing.exists().await.unwrap());
}

/// `exists(etcd, "/foo/bar")`.
async fn exists(bed: Bed) {
    let bar = bed.text("/foo/bar");
    assert!(!bar.exists().await.unwrap());
    bar.set(&"Hello World".to_owned()).await.unwrap();
    assert!(bar.exists().await.unwrap());
    assert!(bed.client.directory("/foo").unwrap().exists().await.unwrap());
}
