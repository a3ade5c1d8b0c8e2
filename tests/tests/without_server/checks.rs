//! Tests that the checks of the fault tests find defects: runs them on clients with deliberate
//! defects. (`mutex/broken.rs` does the same for locks.)

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::store::{Event, Op, Span, Store, Txn, Watch, WatchFrom, WatchItem};
use etcd_typed::{Key, Revision};
use etcd_typed_tests::checks::{Counted, Fenced, Tenures, Told, Violation, whole};
use futures_util::StreamExt;
use tokio::time::sleep;

/// How a client watches. Every client except for `Sound` has a defect that the checks must find.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Sound,
    DropsARevision,
    TellsARevisionTwice,
    SwapsTwoRevisions,
    ResumesOneRevisionLate,
    ResumesOneRevisionEarly,
    ResumesAtTheNewestRevision,
    ReadsAgainAfterEachBreak,
    StopsAtABreak,
}

const WRITES: u64 = 300;

fn key() -> Key {
    Key::parse("/counter").unwrap()
}

/// Writes increasing numbers, and sometimes cuts all connections, both between writes and during a
/// write.
async fn write(store: &MemoryStore) {
    for value in 1..=WRITES {
        let put = Op::put(&key(), value.to_string().into());
        store.commit(Txn::new(vec![put])).await.unwrap();
        if value % 10 == 0 {
            store.faults().drop_connections();
        }
        if value % 3 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Returns the changes, in the order in which this client reports them.
async fn watch(store: &MemoryStore, client: Client) -> Vec<Told> {
    let (mut told, mut last, mut from, mut seen) = (Vec::<Told>::new(), Revision::ZERO, Revision::ZERO, 0);
    loop {
        let watch = Watch::new(Span::Key(key()), WatchFrom::Resumed(from));
        let mut items = store.watch(watch).await.unwrap();
        while let Some(Ok(item)) = items.next().await {
            let batch = match item {
                WatchItem::Batch(batch) => batch,
                WatchItem::Progress(_) => continue,
                other => panic!("{other:?}"),
            };
            let [Event::Put { kv, .. }] = &batch.events[..] else { panic!("{batch:?}") };
            let value = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
            let old = told.last().and_then(|told| told.new);
            let change = Told { revision: batch.revision.get(), resynced: false, old, new: Some(value) };
            last = batch.revision;
            seen += 1;
            match client {
                Client::DropsARevision if seen == WRITES / 2 => {}
                Client::TellsARevisionTwice if seen == WRITES / 2 => told.extend([change, change]),
                Client::SwapsTwoRevisions if seen == WRITES / 2 => {
                    let at = told.len() - 1;
                    told.insert(at, change);
                }
                _ => told.push(change),
            }
            if value == WRITES {
                return told;
            }
        }
        // Some writes happen while the client is disconnected.
        sleep(Duration::from_millis(2)).await;
        from = match client {
            Client::ResumesOneRevisionLate => last.next(),
            Client::ResumesOneRevisionEarly => Revision::new(last.get().saturating_sub(1)),
            Client::ResumesAtTheNewestRevision => store.status().await.unwrap().revision,
            Client::StopsAtABreak => return told,
            _ => last,
        };
        if client == Client::ReadsAgainAfterEachBreak {
            let kv = store.range(etcd_typed::store::Range::of(Span::Key(key()))).await.unwrap().kvs.remove(0);
            let value = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
            let old = told.last().and_then(|told| told.new);
            (last, from) = (kv.modified, kv.modified);
            told.push(Told { revision: last.get(), resynced: true, old, new: Some(value) });
            if value == WRITES {
                return told;
            }
        }
    }
}

/// Returns the first violation that the check finds, as an error.
async fn verdict(client: Client, counted: Counted) -> Result<(), Violation> {
    let store = MemoryStore::new();
    let writer = tokio::spawn({
        let store = store.clone();
        async move { write(&store).await }
    });
    // A client that resumes too late and misses the last change would wait forever.
    let told = tokio::time::timeout(Duration::from_secs(60), watch(&store, client)).await;
    writer.await.unwrap();
    let told = told.unwrap_or_default();
    let mut counted = counted;
    for change in told {
        counted.tell(change)?;
    }
    counted.end(WRITES)
}

#[tokio::test(start_paused = true)]
async fn checker_accepts_sound_watch() {
    assert_eq!(verdict(Client::Sound, Counted::default()).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn checker_detects_dropped_revision() {
    let violation = verdict(Client::DropsARevision, Counted::default()).await.unwrap_err();
    assert_eq!(violation, Violation::Lost { value: WRITES / 2 + 1, after: WRITES / 2 - 1 });
}

#[tokio::test(start_paused = true)]
async fn checker_detects_doubled_revision() {
    let violation = verdict(Client::TellsARevisionTwice, Counted::default()).await.unwrap_err();
    assert_eq!(violation, Violation::Doubled { value: WRITES / 2, after: WRITES / 2 });
}

#[tokio::test(start_paused = true)]
async fn checker_detects_swapped_revisions() {
    let violation = verdict(Client::SwapsTwoRevisions, Counted::default()).await.unwrap_err();
    assert!(matches!(violation, Violation::Lost { .. }), "{violation}");
}

#[tokio::test(start_paused = true)]
async fn checker_detects_late_resume() {
    for client in [Client::ResumesOneRevisionLate, Client::ResumesAtTheNewestRevision] {
        let violation = verdict(client, Counted::default()).await.unwrap_err();
        assert!(matches!(violation, Violation::Lost { .. } | Violation::WrongEnd { .. }), "{client:?}: {violation}");
    }
}

#[tokio::test(start_paused = true)]
async fn checker_detects_early_resume() {
    let violation = verdict(Client::ResumesOneRevisionEarly, Counted::default()).await.unwrap_err();
    assert!(matches!(violation, Violation::Doubled { .. }), "{violation}");
}

#[tokio::test(start_paused = true)]
async fn checker_detects_early_end_of_watch() {
    let violation = verdict(Client::StopsAtABreak, Counted::default()).await.unwrap_err();
    assert!(matches!(violation, Violation::WrongEnd { .. }), "{violation}");
}

#[tokio::test(start_paused = true)]
async fn checker_detects_needless_resync() {
    let violation = verdict(Client::ReadsAgainAfterEachBreak, Counted::default()).await.unwrap_err();
    assert!(matches!(violation, Violation::Resynced { .. }), "{violation}");
}

#[test]
fn checker_detects_wrong_old_value_and_lower_revision() {
    let change = |revision, old, new| Told { revision, resynced: false, old: Some(old), new: Some(new) };
    let mut counted = Counted::from(4);
    assert_eq!(counted.tell(change(9, 4, 5)), Ok(()));
    assert_eq!(counted.tell(change(10, 4, 6)), Err(Violation::WrongOld { old: Some(4), after: 5 }));
    assert_eq!(counted.tell(change(10, 6, 7)), Err(Violation::OutOfOrder { revision: 10, after: 10 }));
    assert_eq!(counted.end(8), Err(Violation::WrongEnd { value: 7, written: 8 }));
}

#[test]
fn checker_accepts_skipped_values_only_if_allowed() {
    let resync = |new| Told { revision: new, resynced: true, old: Some(4), new: Some(new) };
    assert_eq!(Counted::from(4).tell(resync(9)), Err(Violation::Resynced { after: 4 }));
    assert_eq!(Counted::from(4).may_resync().tell(resync(9)), Ok(()));
    assert_eq!(Counted::from(4).may_resync().tell(resync(3)), Err(Violation::Doubled { value: 3, after: 4 }));
}

#[test]
fn checker_detects_torn_transaction() {
    assert_eq!(whole(Some(1), Some(1)), Ok(()));
    assert_eq!(whole(Some(2), Some(1)), Err(Violation::Torn { left: Some(2), right: Some(1) }));
}

#[test]
fn checker_detects_overlapping_holders() {
    let mut tenures = Tenures::default();
    assert_eq!(tenures.held(5, 100, 200), Ok(()));
    assert_eq!(tenures.held(5, 100, 300), Ok(()), "the same guard, later");
    assert_eq!(tenures.held(7, 300, 400), Ok(()));
    assert_eq!(tenures.held(9, 399, 500), Err(Violation::HeldTwice { fences: [7, 9], from: 399, until: 400 }));
    assert_eq!(tenures.held(8, 600, 700), Err(Violation::FenceWentBack { fence: 8, after: 9 }));
    let mut tenures = Tenures::default();
    assert_eq!(tenures.held(7, 300, 400), Ok(()));
    assert_eq!(tenures.held(5, 100, 300), Ok(()), "recorded late");
    assert_eq!(tenures.held(6, 299, 300), Err(Violation::HeldTwice { fences: [5, 6], from: 299, until: 300 }));
}

#[test]
fn checker_detects_unfenced_and_lost_writes() {
    let mut fenced = Fenced::default();
    assert_eq!(fenced.wrote(5, 1, false), Ok(()));
    assert_eq!(fenced.wrote(7, 2, false), Ok(()));
    assert_eq!(fenced.wrote(7, 2, false), Err(Violation::Doubled { value: 2, after: 2 }), "two writers read the same count");
    assert_eq!(fenced.wrote(5, 3, false), Err(Violation::FenceWentBack { fence: 5, after: 7 }));
    assert_eq!(fenced.wrote(9, 5, false), Err(Violation::Lost { value: 5, after: 3 }));
    assert_eq!(fenced.wrote(9, 8, true), Ok(()));
}
