//! Tests that the conformance suite finds defects: each store here breaks one rule of the store
//! contract, and a case of the suite must fail on it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::store::{
    Batch, BoxFuture, Committed, Event, Expiry, Op, OpResult, Range, RangeReply, Span, Store, Txn, Watch, WatchFrom, WatchItem, WatchStream,
};
use etcd_typed::testing::conformance::{Isolation, TestStore, cases};
use etcd_typed::testing::{Call, HookedStore, Reply};
use etcd_typed::{Error, Result, Revision};
use futures_util::{StreamExt, stream};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    /// No defect, for comparison.
    None,
    ListsInNoOrder,
    ListsTwins,
    IgnoresThePast,
    IgnoresModifications,
    CountsOnlyTheModified,
    IgnoresConditions,
    PerformsOneByOne,
    WritesTwice,
    ForgetsExpiry,
    NewestOfAllTime,
    NewestByName,
    NewestFromBefore,
    NewestWithoutLeases,
    DropsKeysThatAreNoPaths,
    TakesLeasesThatAreNotThere,
    DoesNotSayThatItDidNothing,
    LosesDeletes,
    SplitsBatches,
    RepeatsBatches,
    SkipsTheFirst,
    EndsInSilence,
    IsAheadWithProgress,
    HidesThatHistoryIsLost,
    WatchesOnlyWhatIsNew,
    SkipsInSilence,
    SkipsOnAnyStart,
    SkipsAhead,
    SkipsAtRest,
}

/// The memory store with one defect.
#[derive(Debug)]
struct Broken {
    memory: MemoryStore,
    store: HookedStore,
}

impl Broken {
    fn new(defect: Defect) -> Self {
        let memory = MemoryStore::new();
        let store = HookedStore::new(Arc::new(memory.clone()), move |call, store| async move {
            match call {
                Call::Range(range) => defect.range(&*store, range).await.map(Reply::Range),
                Call::Commit(txn) => defect.commit(&*store, txn).await.map(Reply::Commit),
                Call::Watch(watch) => defect.watch(&*store, watch).await.map(Reply::Watch),
                call => call.send(&store).await,
            }
        });
        Self { memory, store }
    }
}

impl TestStore for Broken {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    fn lose_history(&self) -> BoxFuture<'_, ()> {
        self.memory.faults().compact();
        Box::pin(std::future::ready(()))
    }
}

impl Defect {
    async fn range(self, store: &dyn Store, mut range: Range) -> Result<RangeReply> {
        if self == Self::IgnoresThePast {
            range.revision = None;
        }
        let twins = match &range.span {
            Span::Below(dir) if self == Self::ListsTwins => Some(dir.clone()),
            _ => None,
        };
        if let Some(parent) = twins.as_ref().and_then(etcd_typed::Key::parent) {
            range.span = Span::Below(parent);
        }
        let (modified_after, is_one) = (range.modified_after, matches!(range.span, Span::Key(_)));
        if self == Self::IgnoresModifications && !is_one {
            range.modified_after = None;
        }
        let mut reply = store.range(range).await?;
        if self == Self::IgnoresModifications && modified_after.is_some() && !is_one {
            reply.count = Some(reply.kvs.len() as u64);
        }
        if self == Self::CountsOnlyTheModified && modified_after.is_some() {
            reply.count = Some(reply.kvs.len() as u64);
        }
        if let Some(dir) = twins {
            reply.kvs.retain(|kv| kv.key.starts_with(dir.as_str().as_bytes()));
        }
        if self == Self::ListsInNoOrder {
            reply.kvs.reverse();
        }
        if self == Self::DropsKeysThatAreNoPaths {
            reply.kvs.retain(|kv| std::str::from_utf8(&kv.key).is_ok_and(|key| etcd_typed::Key::parse(key).is_ok()));
        }
        Ok(reply)
    }

    async fn commit(self, store: &dyn Store, mut txn: Txn) -> Result<Committed> {
        let ops = txn.then.iter_mut();
        match self {
            Self::IgnoresConditions => txn.compares.clear(),
            Self::WritesTwice => drop(store.commit(txn.clone()).await),
            Self::ForgetsExpiry => ops.for_each(|op| {
                if let Op::Put { expiry, .. } = op {
                    *expiry = Expiry::Never;
                }
            }),
            Self::NewestOfAllTime => ops.for_each(|op| {
                if let Op::Newest { before, .. } = op {
                    *before = None;
                }
            }),
            Self::NewestFromBefore => {
                // Moves each `Newest` to the front, so that it does not see the effects of the
                // other operations.
                txn.then.sort_by_key(|op| !matches!(op, Op::Newest { .. }));
            }
            Self::TakesLeasesThatAreNotThere => {
                for op in ops {
                    if let Op::Put { expiry: Expiry::With(id), .. } = op {
                        drop(store.grant(*id, Duration::from_secs(600)).await);
                    }
                }
            }
            Self::PerformsOneByOne if txn.compares.is_empty() => {
                let mut all = Committed::new(Revision::ZERO, true, Vec::new());
                for op in txn.then {
                    let one = store.commit(Txn::new(vec![op])).await?;
                    all.revision = one.revision;
                    all.results.extend(one.results);
                }
                return Ok(all);
            }
            _ => {}
        }
        // Leaves out the leases if only keys are requested, as etcd 3.7 does.
        let newest: Vec<bool> = txn.then.iter().map(|op| matches!(op, Op::Newest { .. })).collect();
        let by_name = self == Self::NewestByName && matches!(txn.then[..], [Op::Newest { .. }]);
        let mut committed = store.commit(txn).await;
        if by_name && let Ok(Committed { results, .. }) = &mut committed {
            for result in results {
                if let OpResult::Get(reply) = result {
                    reply.kvs.sort_by(|a, b| a.key.cmp(&b.key));
                }
            }
        }
        if self == Self::NewestWithoutLeases
            && let Ok(Committed { results, .. }) = &mut committed
        {
            for (result, _) in results.iter_mut().zip(newest).filter(|(_, newest)| *newest) {
                if let OpResult::Get(reply) = result {
                    reply.kvs.iter_mut().for_each(|kv| kv.lease = None);
                }
            }
        }
        if self == Self::DoesNotSayThatItDidNothing { committed.map_err(Error::outcome_unknown) } else { committed }
    }

    async fn watch(self, store: &dyn Store, mut watch: Watch) -> Result<WatchStream> {
        match self {
            Self::SkipsInSilence if matches!(watch.from, WatchFrom::Live(_)) => {
                watch.from = WatchFrom::Listed(store.status().await?.revision);
            }
            Self::WatchesOnlyWhatIsNew => watch.from = WatchFrom::Listed(store.status().await?.revision),
            Self::SkipsTheFirst => watch.from = WatchFrom::Resumed(watch.from.revision().next()),
            _ => {}
        }
        let (span, from) = (watch.span.clone(), watch.from);
        let items = store.watch(watch).await?;
        Ok(match self {
            Self::LosesDeletes => items.filter_map(|item| std::future::ready(without_deletes(item))).boxed(),
            Self::SplitsBatches => items.flat_map(|item| stream::iter(split(item))).boxed(),
            Self::RepeatsBatches => items.flat_map(|item| stream::iter(twice(item))).boxed(),
            Self::EndsInSilence => items.take(1).boxed(),
            Self::IsAheadWithProgress => {
                let ahead = Revision::new(store.status().await?.revision.get() + 10);
                stream::iter([Ok(WatchItem::Progress(ahead))]).chain(items).boxed()
            }
            Self::SkipsOnAnyStart | Self::SkipsAhead | Self::SkipsAtRest => {
                let now = store.status().await?.revision;
                let to = match (self, from) {
                    (Self::SkipsOnAnyStart, _) => from.revision().next(),
                    (Self::SkipsAhead, WatchFrom::Live(_)) => now.next(),
                    (Self::SkipsAtRest, WatchFrom::Live(_)) => now,
                    _ => return Ok(items),
                };
                stream::iter([Ok(WatchItem::Skipped(to))]).chain(items).boxed()
            }
            Self::HidesThatHistoryIsLost => {
                let now = store.status().await?.revision;
                let again = store.watch(Watch::new(span, WatchFrom::Listed(now))).await?;
                items.take_while(|item| std::future::ready(!matches!(item, Ok(WatchItem::HistoryLost { .. })))).chain(again).boxed()
            }
            _ => items,
        })
    }
}

fn without_deletes(item: Result<WatchItem>) -> Option<Result<WatchItem>> {
    match item {
        Ok(WatchItem::Batch(Batch { revision, mut events, .. })) => {
            events.retain(|event| matches!(event, Event::Put { .. }));
            (!events.is_empty()).then_some(Ok(WatchItem::Batch(Batch::new(revision, events))))
        }
        other => Some(other),
    }
}

fn split(item: Result<WatchItem>) -> Vec<Result<WatchItem>> {
    match item {
        Ok(WatchItem::Batch(Batch { revision, events, .. })) => {
            events.into_iter().map(|event| Ok(WatchItem::Batch(Batch::new(revision, vec![event])))).collect()
        }
        other => vec![other],
    }
}

fn twice(item: Result<WatchItem>) -> Vec<Result<WatchItem>> {
    match item {
        Ok(WatchItem::Batch(batch)) => vec![Ok(WatchItem::Batch(batch.clone())), Ok(WatchItem::Batch(batch))],
        other => vec![other],
    }
}

/// A test for each defect: the case passes on the store without a defect and fails on the store
/// with it.
macro_rules! finds {
    ($($name:ident: $defect:ident by $case:ident;)*) => {
        $(
            #[test]
            fn $name() {
                let passes = |defect| {
                    catch_unwind(AssertUnwindSafe(|| {
                        cases::$case(async move |_: Isolation| {
                            // With paused time, a wait for a change that never comes ends at once.
                            tokio::time::pause();
                            Broken::new(defect)
                        });
                    }))
                    .is_ok()
                };
                assert!(passes(Defect::None), "the case passes on a sound store");
                assert!(!passes(Defect::$defect), "the case does not find {:?}", Defect::$defect);
            }
        )*
    };
}

finds! {
    unordered_listing_is_found: ListsInNoOrder by listing_is_in_byte_order;
    listing_of_sibling_prefix_is_found: ListsTwins by listing_matches_whole_segments;
    pages_of_several_revisions_are_found: IgnoresThePast by pages_share_one_revision;
    ignored_past_revision_is_found: IgnoresThePast by past_revision_reads_unchanged;
    unrequested_modifications_are_found: IgnoresModifications by modified_read_counts_all_keys;
    count_of_modified_keys_only_is_found: CountsOnlyTheModified by modified_read_counts_all_keys;
    unchecked_conditions_are_found: IgnoresConditions by every_condition_holds_when_it_should;
    create_race_with_several_winners_is_found: IgnoresConditions by one_of_many_concurrent_creates_succeeds;
    split_transaction_is_found: PerformsOneByOne by transaction_has_one_revision;
    half_applied_transaction_is_found: PerformsOneByOne by transaction_is_all_or_nothing;
    batches_of_split_transaction_are_found: PerformsOneByOne by transaction_is_one_ordered_batch;
    repeated_write_is_found: WritesTwice by value_reads_back_unchanged;
    repeated_delete_is_found: WritesTwice by delete_returns_count_and_previous;
    forgotten_lease_is_found: ForgetsExpiry by revoked_lease_deletes_its_keys;
    write_with_missing_lease_is_found: TakesLeasesThatAreNotThere by missing_lease_is_lost;
    refusal_with_unknown_outcome_is_found: DoesNotSayThatItDidNothing by two_writes_of_one_key_are_refused;
    missing_delete_event_is_found: LosesDeletes by delete_is_an_event;
    split_batch_is_found: SplitsBatches by transaction_is_one_ordered_batch;
    doubled_batch_is_found: RepeatsBatches by watch_after_list_yields_later_changes;
    skipped_first_change_is_found: SkipsTheFirst by watch_from_past_yields_changes_since;
    silent_end_of_watch_is_found: EndsInSilence by watch_after_list_yields_later_changes;
    progress_ahead_of_store_is_found: IsAheadWithProgress by watch_after_list_yields_later_changes;
    unreported_history_loss_is_found: HidesThatHistoryIsLost by watch_of_lost_history_reports_it;
    missing_past_changes_are_found: WatchesOnlyWhatIsNew by watch_from_past_yields_changes_since;
    too_new_keys_are_found: NewestOfAllTime by newest_before_revision_excludes_later_keys;
    newest_keys_in_name_order_are_found: NewestByName by newest_keys_come_newest_first;
    newest_keys_of_earlier_state_are_found: NewestFromBefore by newest_keys_include_earlier_operations;
    newest_keys_without_leases_are_found: NewestWithoutLeases by newest_keys_show_their_leases;
    dropped_non_path_keys_are_found: DropsKeysThatAreNoPaths by non_path_keys_are_kept_byte_for_byte;
    unreported_skip_is_found: SkipsInSilence by live_watch_yields_all_after_skip;
    skip_of_future_changes_is_found: SkipsAhead by live_watch_has_no_gap_under_writes;
    false_report_of_skip_is_found: SkipsAtRest by live_watch_of_idle_store_skips_nothing;
    forbidden_skip_is_found: SkipsOnAnyStart by watch_after_list_yields_later_changes;
    gap_between_list_and_watch_is_found: WatchesOnlyWhatIsNew by watch_after_list_yields_later_changes;
}
