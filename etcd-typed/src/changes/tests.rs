//! Tests of typed changes with the memory store and paused time.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use proptest::prelude::*;
use tokio::time::timeout;

use super::*;
use crate::schema::{self, Change, Fallback, Keyed};
use crate::store::memory::{Calls, MemoryStore};
use crate::store::{Op, Txn};
use crate::value::Codec;

/// A time that is longer than every delay between retries.
const LONG: Duration = Duration::from_secs(60);

type Numbers = Changes<Keyed<String, Change<u32>>, BTreeMap<String, u32>>;

fn key(path: &str) -> Key {
    Key::parse(path).unwrap()
}

fn put(path: &str, value: &str) -> Op {
    Op::put(&key(path), Bytes::copy_from_slice(value.as_bytes()))
}

async fn commit(store: &MemoryStore, then: Vec<Op>) -> Revision {
    store.commit(Txn { then, ..Txn::default() }).await.unwrap().revision
}

/// Watches the map of numbers in `/n`, as a map handle does.
fn watching(store: &MemoryStore) -> Watching<Keyed<String, Change<u32>>, BTreeMap<String, u32>> {
    let typed = Typed::new(
        "/n",
        |delta, out| delta.all_entries(Codec::value(), |change| change, out),
        |directory: &Key, tree: &Tree, revision| {
            schema::decode_map(directory, tree, revision, |decoder| decoder.all_entries(Codec::value()))
        },
    );
    Watching::new(Arc::new(store.clone()), RetryPolicy::default(), key("/n"), typed)
}

fn watching_one(store: &MemoryStore) -> WatchingEntry<u32> {
    WatchingEntry::new(Arc::new(store.clone()), RetryPolicy::default(), key("/n/one"), Codec::value())
}

async fn next(changes: &mut Numbers) -> Result<Update<Keyed<String, Change<u32>>>> {
    timeout(LONG, changes.next()).await.expect("an item").expect("no end")
}

async fn next_one(changes: &mut EntryChanges<u32>) -> Result<Change<u32>> {
    timeout(LONG, changes.next()).await.expect("an item").expect("no end")
}

/// Returns the map keys of an update with their old and new values.
fn told(update: &Update<Keyed<String, Change<u32>>>) -> Vec<(&str, Option<u32>, Option<u32>)> {
    for Keyed { key: name, change } in &update.changes {
        assert_eq!((change.revision, change.resynced), (update.revision, update.resynced));
        assert_eq!(change.key, key("/n").child(name));
    }
    update.changes.iter().map(|Keyed { key, change }| (key.as_str(), change.old, change.new)).collect()
}

fn current(changes: &Numbers) -> BTreeMap<String, u32> {
    changes.current().unwrap().into_inner()
}

fn map<const N: usize>(pairs: [(&str, u32); N]) -> BTreeMap<String, u32> {
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

#[tokio::test(start_paused = true)]
async fn changes_of_one_revision_are_one_item() {
    let store = MemoryStore::new();
    commit(&store, vec![put("/n/a", "1"), put("/n/b", "2")]).await;
    let mut changes = watching(&store).await.unwrap();
    let revision = commit(&store, vec![put("/n/c", "3"), Op::delete(&key("/n/a")), put("/n/b", "20")]).await;
    let update = next(&mut changes).await.unwrap();
    assert_eq!(told(&update), [("a", Some(1), None), ("b", Some(2), Some(20)), ("c", None, Some(3))]);
    assert_eq!((update.revision, update.resynced), (revision, false));
}

#[tokio::test(start_paused = true)]
async fn current_state_contains_only_delivered_changes() {
    let store = MemoryStore::new();
    let start = commit(&store, vec![put("/n/a", "1")]).await;
    let mut changes = watching(&store).await.unwrap();
    commit(&store, vec![put("/n/a", "2")]).await;
    let last = commit(&store, vec![put("/n/b", "3")]).await;
    let then = changes.current().unwrap();
    assert_eq!((then.revision(), then.into_inner()), (start, map([("a", 1)])));
    next(&mut changes).await.unwrap();
    assert_eq!(current(&changes), map([("a", 2)]));
    next(&mut changes).await.unwrap();
    let now = changes.current().unwrap();
    assert_eq!((now.revision(), now.into_inner()), (last, map([("a", 2), ("b", 3)])));
}

#[tokio::test(start_paused = true)]
async fn bad_value_follows_good_changes_of_its_revision() {
    let store = MemoryStore::new();
    commit(&store, vec![put("/n/b", "1")]).await;
    let mut changes = watching(&store).await.unwrap();
    let bad = commit(&store, vec![put("/n/a", "1"), put("/n/b", "many"), put("/n/c", "3")]).await;
    commit(&store, vec![put("/n/d", "4")]).await;
    commit(&store, vec![put("/n/b", "2")]).await;

    let update = next(&mut changes).await.unwrap();
    assert_eq!((update.revision, told(&update)), (bad, vec![("a", None, Some(1)), ("c", None, Some(3))]));
    let error = next(&mut changes).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Decode, Some(&key("/n/b"))));
    assert_eq!(error.problems().iter().map(|problem| problem.revision).collect::<Vec<_>>(), [Some(bad)]);
    assert!(error.to_string().contains(&format!("revision {bad}")) && !error.to_string().contains("many"), "{error}");
    // The stream has reported the bad value once. The state contains an error while the bad value
    // is stored.
    assert_eq!(changes.current().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(told(&next(&mut changes).await.unwrap()), [("d", None, Some(4))]);
    assert_eq!(told(&next(&mut changes).await.unwrap()), [("b", None, Some(2))]);
    assert_eq!(current(&changes), map([("a", 1), ("b", 2), ("c", 3), ("d", 4)]));
}

#[tokio::test(start_paused = true)]
async fn keys_outside_schema_yield_no_item() {
    let store = MemoryStore::new();
    let mut changes = watching(&store).await.unwrap();
    for foreign in ["/n/_etcd-typed", "/n/a/deeper", "/na", "/n"] {
        commit(&store, vec![put(foreign, "1")]).await;
    }
    let last = commit(&store, vec![put("/n/a", "1")]).await;
    assert_eq!(next(&mut changes).await.unwrap().revision, last);
}

#[tokio::test(start_paused = true)]
async fn lost_history_yields_resynced_update() {
    let store = MemoryStore::new();
    commit(&store, vec![put("/n/gone", "1"), put("/n/kept", "2"), put("/n/changed", "3")]).await;
    let mut changes = watching(&store).await.unwrap();
    commit(&store, vec![Op::delete(&key("/n/gone")), put("/n/changed", "30")]).await;
    commit(&store, vec![put("/n/between", "1")]).await;
    commit(&store, vec![Op::delete(&key("/n/between"))]).await;
    let last = commit(&store, vec![put("/n/new", "4"), put("/n/bad", "x")]).await;
    commit(&store, vec![put("/elsewhere", "")]).await;
    store.faults().compact();

    let update = next(&mut changes).await.unwrap();
    assert!(update.resynced && update.revision > last);
    assert_eq!(told(&update), [("changed", Some(3), Some(30)), ("gone", Some(1), None), ("new", None, Some(4))]);
    let error = next(&mut changes).await.unwrap_err();
    assert_eq!(error.problems().first().and_then(|problem| problem.revision), Some(last), "not where it was found");
    commit(&store, vec![put("/n/new", "5")]).await;
    let update = next(&mut changes).await.unwrap();
    assert_eq!((told(&update), update.resynced), (vec![("new", Some(4), Some(5))], false));
}

#[tokio::test(start_paused = true)]
async fn lost_history_without_changes_yields_update() {
    let store = MemoryStore::new();
    commit(&store, vec![put("/n/a", "1")]).await;
    let mut changes = watching(&store).await.unwrap();
    commit(&store, vec![put("/n/between", "1")]).await;
    let last = commit(&store, vec![Op::delete(&key("/n/between"))]).await;
    store.faults().compact();
    assert_eq!(next(&mut changes).await.unwrap(), Update { revision: last, changes: vec![], resynced: true });
    assert_eq!(current(&changes), map([("a", 1)]));
}

#[tokio::test(start_paused = true)]
async fn emptied_server_yields_resynced_update() {
    let store = MemoryStore::new();
    for value in 0..10 {
        commit(&store, vec![put("/n/a", &value.to_string())]).await;
    }
    let mut changes = watching(&store).await.unwrap();
    store.faults().wipe();
    let revision = commit(&store, vec![put("/n/b", "1")]).await;
    let update = next(&mut changes).await.unwrap();
    assert_eq!((update.revision, update.resynced), (revision, true));
    assert_eq!(told(&update), [("a", Some(9), None), ("b", None, Some(1))]);
}

#[tokio::test(start_paused = true)]
async fn watch_since_past_revision_starts_with_past_state() {
    let store = MemoryStore::new();
    let then = commit(&store, vec![put("/n/a", "1")]).await;
    commit(&store, vec![put("/n/a", "2")]).await;
    let mut changes = watching(&store).since(then).await.unwrap();
    assert_eq!(current(&changes), map([("a", 1)]));
    assert_eq!(told(&next(&mut changes).await.unwrap()), [("a", Some(1), Some(2))]);
}

#[tokio::test(start_paused = true)]
async fn watch_since_compacted_revision_starts_with_current_state() {
    let store = MemoryStore::new();
    let then = commit(&store, vec![put("/n/a", "1")]).await;
    let now = commit(&store, vec![put("/n/one", "2")]).await;
    store.faults().compact();

    let mut changes = watching(&store).since(then).await.unwrap();
    assert_eq!(changes.current().unwrap_err().kind(), ErrorKind::HistoryLost);
    let update = next(&mut changes).await.unwrap();
    assert_eq!((update.revision, update.resynced), (now, true));
    assert_eq!(told(&update), [("a", None, Some(1)), ("one", None, Some(2))]);
    assert_eq!(current(&changes), map([("a", 1), ("one", 2)]));

    let mut one = watching_one(&store).since(then).await.unwrap();
    assert_eq!(one.current().unwrap_err().kind(), ErrorKind::HistoryLost);
    let change = next_one(&mut one).await.unwrap();
    assert_eq!((change.old, change.new, change.revision, change.resynced), (None, Some(2), now, true));
    assert_eq!(one.current().unwrap().map(Versioned::into_inner), Some(2));
}

#[tokio::test(start_paused = true)]
async fn key_watch_reports_creation_change_and_deletion() {
    let store = MemoryStore::new();
    let mut changes = watching_one(&store).await.unwrap();
    assert_eq!(changes.current().unwrap(), None);

    let revision = commit(&store, vec![put("/n/one", "1"), put("/n/one/below", "x"), put("/n/on", "x")]).await;
    let change = next_one(&mut changes).await.unwrap();
    assert_eq!(change, Change { key: key("/n/one"), old: None, new: Some(1), revision, resynced: false, secret: false });
    assert!(change.is_created() && !change.is_modified() && !change.is_deleted());
    let now = changes.current().unwrap().unwrap();
    assert_eq!((*now, now.modified(), now.version()), (1, revision, Some(1)));

    // A write of the same value is a change too.
    commit(&store, vec![put("/n/one", "1")]).await;
    let change = next_one(&mut changes).await.unwrap();
    assert!(change.is_modified() && change.old == change.new);

    commit(&store, vec![put("/n/one", "much")]).await;
    let error = next_one(&mut changes).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Decode, Some(&key("/n/one"))));
    assert_eq!(changes.current().unwrap_err().kind(), ErrorKind::Decode);

    commit(&store, vec![put("/n/one", "2")]).await;
    let change = next_one(&mut changes).await.unwrap();
    assert_eq!((change.old, change.new), (None, Some(2)));

    commit(&store, vec![Op::delete(&key("/n/one"))]).await;
    let change = next_one(&mut changes).await.unwrap();
    assert!(change.is_deleted() && change.old == Some(2));
    assert_eq!(changes.current().unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn unchanged_key_yields_item_after_lost_history() {
    let store = MemoryStore::new();
    commit(&store, vec![put("/n/one", "1")]).await;
    let mut changes = watching_one(&store).await.unwrap();
    store.faults().drop_connections();
    let two = commit(&store, vec![put("/n/two", "1")]).await;
    store.faults().compact();
    let change = next_one(&mut changes).await.unwrap();
    assert_eq!((change.old, change.new, change.revision, change.resynced), (Some(1), Some(1), two, true));
    assert!(!change.is_created() && !change.is_deleted());
    let revision = commit(&store, vec![put("/n/one", "2")]).await;
    let change = next_one(&mut changes).await.unwrap();
    assert_eq!((change.old, change.new, change.revision, change.resynced), (Some(1), Some(2), revision, false));
}

/// A directory's change stream behaves in the same way; see
/// `lost_history_without_changes_yields_update`.
#[tokio::test(start_paused = true)]
async fn absent_key_yields_item_after_lost_history() {
    let store = MemoryStore::new();
    let mut changes = watching_one(&store).await.unwrap();
    let mut with_default = watching_one(&store).with_default(Fallback::Always(|| 5)).await.unwrap();
    store.faults().drop_connections();
    commit(&store, vec![put("/n/one", "1")]).await;
    let gone = commit(&store, vec![Op::delete(&key("/n/one"))]).await;
    store.faults().compact();
    let change = next_one(&mut changes).await.unwrap();
    assert_eq!((change.old, change.new, change.revision, change.resynced), (None, None, gone, true));
    let change = next_one(&mut with_default).await.unwrap();
    assert_eq!((change.old, change.new, change.resynced), (Some(5), Some(5), true));
}

#[tokio::test(start_paused = true)]
async fn watching_root_as_entry_is_refused() {
    let watching = WatchingEntry::<u32>::new(Arc::new(MemoryStore::new()), RetryPolicy::default(), Key::root(), Codec::value());
    assert_eq!(watching.await.unwrap_err().kind(), ErrorKind::InvalidKey);
}

#[tokio::test(start_paused = true)]
async fn lasting_refusal_ends_stream() {
    let store = MemoryStore::new();
    let mut changes = watching(&store).await.unwrap();
    store.faults().drop_connections();
    store.faults().fail(Calls::Watches, usize::MAX, ErrorKind::PermissionDenied);
    let error = next(&mut changes).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::PermissionDenied, Some(&key("/n"))));
    assert!(changes.next().await.is_none() && changes.next().await.is_none());

    store.faults().stop();
    assert_eq!(watching(&store).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn stream_shows_interruption_until_it_resumes() {
    let store = MemoryStore::new();
    let mut changes = watching(&store).await.unwrap();
    assert!(changes.interruption().is_none());
    store.faults().stop();
    assert!(timeout(LONG, changes.next()).await.is_err());
    assert_eq!(changes.interruption().map(|interruption| interruption.error.kind()), Some(ErrorKind::Unavailable));
    store.faults().start();
    commit(&store, vec![put("/n/a", "1")]).await;
    next(&mut changes).await.unwrap();
    assert!(changes.interruption().is_none());
}

#[tokio::test(start_paused = true)]
async fn change_streams_are_send() {
    fn check<S: Stream + Send + Unpin + 'static>(stream: S) -> S {
        stream
    }
    let store = MemoryStore::new();
    let mut changes = check(watching(&store).await.unwrap());
    let mut one = check(watching_one(&store).await.unwrap());
    commit(&store, vec![put("/n/one", "1")]).await;
    let update = timeout(LONG, StreamExt::next(&mut changes)).await.unwrap().unwrap().unwrap();
    let change = timeout(LONG, StreamExt::next(&mut one)).await.unwrap().unwrap().unwrap();
    assert_eq!(update.changes.first().map(|keyed| &keyed.change), Some(&change));
}

/// A random action of the store or of the watcher.
#[derive(Clone, Debug)]
enum Happening {
    Write(Vec<(u8, Option<u32>)>),
    Drop,
    Lag,
    Compact,
    Wipe,
    FailWatches(usize),
    LoseReply,
    /// The watcher takes an item, if there is one.
    Take,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => prop::collection::btree_map(0_u8..6, prop::option::weighted(0.7, any::<u32>()), 1..4)
            .prop_map(|writes| Happening::Write(writes.into_iter().collect())),
        2 => Just(Happening::Drop),
        1 => Just(Happening::Lag),
        2 => Just(Happening::Compact),
        1 => Just(Happening::Wipe),
        1 => (1_usize..4).prop_map(Happening::FailWatches),
        1 => Just(Happening::LoseReply),
        12 => Just(Happening::Take),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A map that starts as `current`, and to which all updates are applied, equals `current` after
    /// each update. At the end it equals the contents of the store.
    #[test]
    fn updates_add_up_to_stored_state_after_faults(happenings in prop::collection::vec(happening(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(follow_along(happenings));
    }
}

async fn follow_along(happenings: Vec<Happening>) {
    let store = MemoryStore::new();
    commit(&store, vec![put("/n/0", "0"), put("/n/1", "1")]).await;
    let mut changes = watching(&store).await.unwrap();
    let mut mine = current(&changes);
    // A client does not notice an emptied server if the new history is compacted before the client
    // reconnects. `anchor.rs` documents this limit.
    let mut emptied = false;
    for happening in happenings {
        match happening {
            Happening::Write(writes) => {
                let op = |(name, value): (u8, Option<u32>)| match value {
                    Some(value) => put(&format!("/n/{name}"), &value.to_string()),
                    None => Op::delete(&key(&format!("/n/{name}"))),
                };
                commit(&store, writes.into_iter().map(op).collect()).await;
            }
            Happening::Drop => store.faults().drop_connections(),
            Happening::Lag => store.faults().lag_watches(),
            Happening::Compact if emptied => {}
            Happening::Compact => store.faults().compact(),
            Happening::Wipe => {
                store.faults().wipe();
                emptied = true;
            }
            Happening::FailWatches(count) => store.faults().fail(Calls::Watches, count, ErrorKind::Unavailable),
            Happening::LoseReply => store.faults().lose_reply(Calls::Watches, 1),
            Happening::Take => {
                let taken = take(&mut changes, &mut mine, Duration::from_millis(20)).await;
                emptied &= !taken.is_some_and(|resynced| resynced);
            }
        }
    }
    while take(&mut changes, &mut mine, LONG).await.is_some() {}
    let now = watching(&store).await.unwrap();
    assert_eq!(mine, current(&now));
    assert!(changes.interruption().is_none());
}

/// Waits for an update and applies it to `mine`. Checks that the old values of the update are the
/// values in `mine`. Returns whether the update was resynced, or `None` if no update came in time.
async fn take(changes: &mut Numbers, mine: &mut BTreeMap<String, u32>, within: Duration) -> Option<bool> {
    let update = timeout(within, changes.next()).await.ok()?.expect("no end").expect("no error");
    for Keyed { key, change } in update.changes {
        let before = match change.new {
            Some(value) => mine.insert(key, value),
            None => mine.remove(&key),
        };
        assert_eq!(before, change.old);
    }
    assert_eq!(*mine, current(changes));
    Some(update.resynced)
}
