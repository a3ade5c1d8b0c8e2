//! Cases about real directories, which only v2 has. Other stores must refuse these operations.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bench::{Bench, keys};
use crate::error::ErrorKind;
use crate::key::Key;
use crate::store::{Event, Op, OpResult, Range, RangeReply, Span, Txn};

fn make(key: &Key, ttl: Option<Duration>) -> Op {
    Op::MakeDir { key: key.clone(), ttl }
}

fn update(key: &Key, ttl: Option<Duration>) -> Op {
    Op::UpdateDir { key: key.clone(), ttl }
}

fn remove(key: &Key) -> Op {
    Op::RemoveDir { key: key.clone() }
}

fn one(op: Op) -> Txn {
    Txn { then: vec![op], ..Txn::default() }
}

async fn below(bench: &Bench<'_>, key: &Key) -> RangeReply {
    bench.range(Range::of(Span::Below(key.clone()))).await
}

/// Returns whether the store has directories. Checks that a store without directories refuses the
/// operation.
async fn has_directories(bench: &Bench<'_>, op: Op) -> bool {
    let has = bench.capabilities().directories;
    if !has {
        bench.refused(one(op), ErrorKind::Unsupported).await;
        let reply = bench.list().await;
        assert!(reply.directory.is_none() && reply.directories.is_empty(), "{reply:?}");
    }
    has
}

pub(super) async fn key_below_a_key_works_or_is_refused(bench: &Bench<'_>) {
    let (key, inside) = (bench.key("a"), bench.key("a/b"));
    bench.put(&key, "above").await;
    let put = Op::put(&inside, "below".into());
    if bench.capabilities().directories {
        bench.refused(one(put), ErrorKind::NotADirectory).await;
        bench.range_refused(Range::of(Span::Below(key.clone())), ErrorKind::NotADirectory).await;
        assert_eq!(bench.value(&key).await, "above");
        return;
    }
    bench.perform(vec![put]).await;
    assert_eq!((bench.value(&key).await, bench.value(&inside).await), ("above".into(), "below".into()));
    assert_eq!(keys(&below(bench, &key).await), [inside.to_string()]);
    bench.delete(&key).await;
    assert_eq!(bench.value(&inside).await, "below", "they are two keys");
}

pub(super) async fn created_directory_is_listed(bench: &Bench<'_>) {
    let dir = bench.key("dir/empty");
    if !has_directories(bench, make(&dir, None)).await {
        return;
    }
    let committed = bench.perform(vec![make(&dir, None)]).await;
    assert_eq!(committed.results, [OpResult::Done]);
    let itself = below(bench, &dir).await;
    assert!(itself.kvs.is_empty() && itself.directories.is_empty());
    let node = itself.directory.unwrap_or_else(|| panic!("it is there"));
    assert_eq!((node.key.clone(), node.created, node.ttl), (dir.to_string().into(), committed.revision, None));
    let implied = bench.key("implied/x");
    bench.put(&implied, "v").await;
    let all = bench.list().await;
    let directories: Vec<_> = all.directories.iter().map(|node| String::from_utf8_lossy(&node.key).into_owned()).collect();
    assert_eq!(directories, ["dir", "dir/empty", "implied"].map(|path| bench.key(path).to_string()));
    assert_eq!(keys(&all), [implied.to_string()]);
    assert_eq!(all.directory.map(|node| node.key), Some(bench.dir().to_string().into()));
    assert!(below(bench, &bench.key("missing")).await.directory.is_none());
}

pub(super) async fn creating_existing_directory_is_refused(bench: &Bench<'_>) {
    let (dir, file) = (bench.key("dir"), bench.key("file"));
    if !has_directories(bench, make(&dir, None)).await {
        return;
    }
    bench.perform(vec![make(&dir, None)]).await;
    bench.put(&bench.key("dir/a"), "v").await;
    bench.put(&file, "v").await;
    bench.refused(one(make(&dir, None)), ErrorKind::AlreadyExists).await;
    bench.refused(one(make(&file, None)), ErrorKind::AlreadyExists).await;
    assert_eq!((bench.value(&bench.key("dir/a")).await, bench.value(&file).await), ("v".into(), "v".into()));
}

pub(super) async fn empty_directory_is_removed(bench: &Bench<'_>) {
    let (dir, inside) = (bench.key("dir"), bench.key("dir/a"));
    if !has_directories(bench, remove(&dir)).await {
        return;
    }
    bench.refused(one(remove(&dir)), ErrorKind::NotFound).await;
    bench.put(&inside, "v").await;
    bench.refused(one(remove(&dir)), ErrorKind::DirectoryNotEmpty).await;
    assert_eq!(bench.value(&inside).await, "v");
    bench.delete(&inside).await;
    bench.perform(vec![remove(&dir)]).await;
    assert!(below(bench, &dir).await.directory.is_none());
    bench.refused(one(remove(&dir)), ErrorKind::NotFound).await;
}

pub(super) async fn directory_expires_with_its_contents(bench: &Bench<'_>) {
    let (dir, inside) = (bench.key("dir"), bench.key("dir/a/b"));
    let ttl = Duration::from_secs(2);
    let sent = Instant::now();
    if !has_directories(bench, make(&dir, Some(ttl))).await {
        return;
    }
    bench.perform(vec![make(&dir, Some(ttl))]).await;
    bench.put(&inside, "v").await;
    assert!(below(bench, &dir).await.directory.is_some_and(|node| node.ttl.is_some()));
    let mut reader = bench.watch_all().await;
    let (_, event) = reader.event().await;
    assert!(sent.elapsed() >= ttl, "gone after {:?} of {ttl:?}", sent.elapsed());
    assert!(matches!(&event, Event::Delete { key, directory: true, .. } if key == dir.as_str()), "{event:?}");
    assert_eq!(bench.get(&inside).await, None);
}

pub(super) async fn directory_ttl_can_be_changed(bench: &Bench<'_>) {
    let (stays, goes) = (bench.key("stays"), bench.key("goes"));
    let (short, long) = (Some(Duration::from_secs(2)), Some(Duration::from_secs(600)));
    if !has_directories(bench, update(&stays, None)).await {
        return;
    }
    bench.refused(one(update(&stays, long)), ErrorKind::NotFound).await;
    bench.perform(vec![make(&stays, short)]).await;
    bench.put(&bench.key("stays/a"), "v").await;
    let status = bench.store().status().await.unwrap_or_else(|error| panic!("{error:?}"));
    if status.version.starts_with("3.5.") {
        bench.refused(one(update(&stays, long)), ErrorKind::Unsupported).await;
        assert!(below(bench, &stays).await.directory.is_some_and(|node| node.ttl.is_some()));
        return;
    }
    bench.perform(vec![update(&stays, long)]).await;
    assert!(below(bench, &stays).await.directory.is_some_and(|node| node.ttl > short));
    bench.perform(vec![update(&stays, None)]).await;
    assert!(below(bench, &stays).await.directory.is_some_and(|node| node.ttl.is_none()));
    // `goes` is created later, with the first time to live of `stays`. So when `goes` has expired,
    // `stays` would have expired too.
    bench.perform(vec![make(&goes, short)]).await;
    while below(bench, &goes).await.directory.is_some() {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(bench.value(&bench.key("stays/a")).await, "v");
}

pub(super) async fn directories_and_values_are_not_mixed(bench: &Bench<'_>) {
    let (dir, file) = (bench.key("dir"), bench.key("file"));
    if !has_directories(bench, make(&dir, None)).await {
        return;
    }
    bench.put(&bench.key("dir/a"), "v").await;
    bench.put(&file, "v").await;
    bench.refused(one(Op::put(&dir, "v".into())), ErrorKind::IsADirectory).await;
    bench.refused(one(Op::delete(&dir)), ErrorKind::IsADirectory).await;
    bench.range_refused(Range::of(Span::Key(dir.clone())), ErrorKind::IsADirectory).await;
    for op in [
        remove(&file),
        update(&file, None),
        Op::Delete { span: Span::Below(file.clone()), previous: false },
        make(&bench.key("file/x"), None),
    ] {
        bench.refused(one(op), ErrorKind::NotADirectory).await;
    }
    assert_eq!((bench.value(&bench.key("dir/a")).await, bench.value(&file).await), ("v".into(), "v".into()));
}
