//! Watches of ranges of keys of arbitrary bytes.

use std::time::Duration;

use etcd_typed::Client;
use etcd_typed::raw::{Keys, RawChanges, RawUpdate};
use etcd_typed::store::memory::MemoryStore;
use tokio::time::timeout;

use super::{Bench, keys, on_byte_stores, told};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

async fn next(changes: &mut RawChanges) -> RawUpdate {
    timeout(LIMIT, changes.next()).await.expect("in time").expect("the watch goes on").unwrap()
}

on_byte_stores! {
    watch_yields_changes_of_its_range
    watch_continues_after_past_revision
}

async fn watch_yields_changes_of_its_range(bench: Bench) {
    let raw = &bench.raw;
    raw.put(b"b\xff", "0").await.unwrap();
    let mut changes = raw.watch("b".."d").await.unwrap();
    assert_eq!(keys(&changes.take_state()), [&b"b\xff"[..]]);
    assert!(changes.take_state().is_empty());
    raw.put("a", "1").await.unwrap();
    let put = raw.put("b", "2").await.unwrap();
    raw.put("d", "3").await.unwrap();
    let both = raw.transaction().put("c", "4").delete("b").put("e", "5").await.unwrap();
    let update = next(&mut changes).await;
    assert_eq!((update.revision, update.resynced, told(&update.events[0])), (put.revision, false, (&b"b"[..], Some(&b"2"[..]))));
    let update = next(&mut changes).await;
    let events: Vec<_> = update.events.iter().map(told).collect();
    assert_eq!((update.revision, events), (both.revision, vec![(&b"c"[..], Some(&b"4"[..])), (b"b", None)]));
    assert_eq!(changes.revision(), both.revision);
    let deleted = raw.delete_range(..).await.unwrap();
    let update = next(&mut changes).await;
    assert_eq!((update.revision, update.events.len()), (deleted.revision, 2));
}

async fn watch_continues_after_past_revision(bench: Bench) {
    let raw = &bench.raw;
    let first = raw.put([0xff, 1], "1").await.unwrap().revision;
    let second = raw.put([0xff, 2], "2").await.unwrap().revision;
    let mut changes = raw.watch(Keys::prefix([0xff])).since(first).await.unwrap();
    assert_eq!(keys(&changes.take_state()), [&[0xff, 1][..]]);
    let update = next(&mut changes).await;
    assert_eq!((update.revision, told(&update.events[0])), (second, (&[0xff, 2][..], Some(&b"2"[..]))));
}

/// After lost history, the watch yields the difference from the last known state.
#[tokio::test(start_paused = true)]
async fn watch_yields_difference_after_lost_history_memory() {
    let store = MemoryStore::new();
    let raw = Client::with_store(store.clone()).raw();
    for key in ["gone", "kept", "written"] {
        raw.put(key, "1").await.unwrap();
    }
    let mut changes = raw.watch(..).await.unwrap();
    raw.put("seen", "1").await.unwrap();
    assert_eq!(next(&mut changes).await.events.len(), 1);
    raw.delete("gone").await.unwrap();
    raw.put("written", "2").await.unwrap();
    raw.put("new", "3").await.unwrap();
    store.faults().compact();
    store.faults().drop_connections();
    let update = next(&mut changes).await;
    assert!(update.resynced, "{update:?}");
    let events: Vec<_> = update.events.iter().map(told).collect();
    assert_eq!(events, [(&b"gone"[..], None), (b"new", Some(&b"3"[..])), (b"written", Some(&b"2"[..]))]);
    let last = raw.put("kept", "2").await.unwrap().revision;
    let update = next(&mut changes).await;
    assert_eq!((update.revision, update.resynced), (last, false));
}

/// A watch from a compacted revision first yields the whole state, marked as a resync.
#[tokio::test(start_paused = true)]
async fn compacted_start_yields_whole_state_memory() {
    let store = MemoryStore::new();
    let raw = Client::with_store(store.clone()).raw();
    let first = raw.put("a", "1").await.unwrap().revision;
    raw.put("a", "2").await.unwrap();
    raw.put("b", "1").await.unwrap();
    store.faults().compact();
    let mut changes = raw.watch(..).since(first).await.unwrap();
    assert!(changes.take_state().is_empty());
    let update = next(&mut changes).await;
    assert_eq!((update.resynced, update.events.len()), (true, 2));
}
