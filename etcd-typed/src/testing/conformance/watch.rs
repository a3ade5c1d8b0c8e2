//! Cases about [`Store::watch`](crate::store::Store::watch). In all cases the `Reader` checks every
//! item: revisions ascend, no revision comes twice, all keys are in the span, progress does not
//! come early, and no item follows the last item.

use std::time::Duration;

use futures_util::future::{join, join_all};

use super::bench::{Bench, Reader};
use crate::key::Key;
use crate::revision::Revision;
use crate::store::{Event, Expiry, Op, Span, Txn, WatchFrom, WatchItem};

fn below(key: &Key) -> Span {
    Span::Below(key.clone())
}

pub(super) async fn watch_after_list_yields_later_changes(bench: &Bench<'_>) {
    let (a, b) = (bench.key("a"), bench.key("b"));
    bench.put(&a, "before").await;
    let listed = bench.now().await;
    // The first write comes between the list and the watch, and the other writes after the watch
    // was opened.
    let first = bench.put(&a, "1").await;
    let mut reader = bench.watch(below(bench.dir()), WatchFrom::Listed(listed)).await;
    let second = bench.put(&b, "2").await;
    let third = bench.put(&a, "3").await;
    reader.expect_put(first, &a, "1").await;
    reader.expect_put(second, &b, "2").await;
    reader.expect_put(third, &a, "3").await;
}

pub(super) async fn watch_from_past_yields_changes_since(bench: &Bench<'_>) {
    let (a, b) = (bench.key("a"), bench.key("b"));
    let start = bench.put(&a, "0").await;
    let mut written = Vec::new();
    for round in 0..20 {
        let (key, value) = if round % 2 == 0 { (&a, format!("a{round}")) } else { (&b, format!("b{round}")) };
        written.push((bench.put(key, value.clone()).await, key, value));
    }
    let deleted = bench.delete(&a).await;
    let mut later = Vec::new();
    // Watches start at the beginning, in the middle, and after the last write.
    for skip in [0_usize, 7, 20] {
        let from = skip.checked_sub(1).and_then(|at| written.get(at)).map_or(start, |(revision, ..)| *revision);
        let mut reader = bench.watch(below(bench.dir()), WatchFrom::Resumed(from)).await;
        for (revision, key, value) in written.iter().skip(skip) {
            reader.expect_put(*revision, key, value).await;
        }
        assert_eq!(reader.expect_delete(&a).await, deleted);
        later.push(bench.put(&b, "live").await);
        for revision in &later {
            reader.expect_put(*revision, &b, "live").await;
        }
    }
}

pub(super) async fn watch_from_newest_yields_only_new_changes(bench: &Bench<'_>) {
    let key = bench.key("a");
    let mut last = bench.put(&key, "0").await;
    for round in 1..10 {
        let mut resumed = bench.watch(Span::Key(key.clone()), WatchFrom::Resumed(last)).await;
        let mut listed = bench.watch(Span::Key(key.clone()), WatchFrom::Listed(last)).await;
        let value = round.to_string();
        last = bench.put(&key, value.clone()).await;
        resumed.expect_put(last, &key, &value).await;
        listed.expect_put(last, &key, &value).await;
    }
}

pub(super) async fn key_watch_ignores_other_keys(bench: &Bench<'_>) {
    let key = bench.key("app");
    let revision = bench.now().await;
    let mut reader = bench.watch(Span::Key(key.clone()), WatchFrom::Listed(revision)).await;
    for path in ["apple", "ap", "app-x", "zap/app"] {
        bench.put(&bench.key(path), "x").await;
    }
    let put = bench.put(&key, "v").await;
    reader.expect_put(put, &key, "v").await;
    if !bench.capabilities().directories {
        bench.put(&bench.key("app/below"), "x").await;
    }
    let deleted = bench.delete(&key).await;
    assert_eq!(reader.expect_delete(&key).await, deleted);
}

pub(super) async fn directory_watch_matches_whole_segments(bench: &Bench<'_>) {
    let revision = bench.now().await;
    let mut live = bench.watch(below(&bench.key("app")), WatchFrom::Listed(revision)).await;
    for path in ["apple/x", "app-x", "ap", "apple"] {
        // On v2 `apple` is a directory at this point.
        if path != "apple" || !bench.capabilities().directories {
            bench.put(&bench.key(path), "x").await;
        }
    }
    let inside = bench.key("app/a/deep");
    let put = bench.put(&inside, "v").await;
    bench.perform(vec![Op::Delete { span: below(&bench.key("apple")), previous: false }]).await;
    let deleted = bench.delete(&inside).await;
    let mut past = bench.watch(below(&bench.key("app")), WatchFrom::Resumed(revision)).await;
    for reader in [&mut live, &mut past] {
        reader.expect_put(put, &inside, "v").await;
        assert_eq!(reader.expect_delete(&inside).await, deleted);
    }
}

pub(super) async fn transaction_is_one_ordered_batch(bench: &Bench<'_>) {
    let old = bench.key("in/old");
    let start = bench.put(&old, "x").await;
    let mut live = bench.watch(below(&bench.key("in")), WatchFrom::Resumed(start)).await;
    let (b, a) = (bench.key("in/b"), bench.key("in/a"));
    let all = vec![Op::put(&b, "1".into()), Op::put(&bench.key("out"), "2".into()), Op::delete(&old), Op::put(&a, "3".into())];
    if !bench.capabilities().transactions {
        // Without transactions, a single write gives a batch of one event.
        let revision = bench.put(&a, "3").await;
        live.expect_put(revision, &a, "3").await;
        return;
    }
    let revision = bench.perform(all).await.revision;
    let mut past = bench.watch(below(&bench.key("in")), WatchFrom::Resumed(start)).await;
    for reader in [&mut live, &mut past] {
        let batch = reader.batch().await;
        assert_eq!(batch.revision, revision);
        let events: Vec<_> = batch.events.iter().map(|event| (event.key().clone(), matches!(event, Event::Put { .. }))).collect();
        assert_eq!(events, [(&b, true), (&old, false), (&a, true)].map(|(key, put)| (key.to_string().into(), put)));
    }
}

/// The events of each transaction are larger than the largest watch message of a server.
pub(super) async fn large_transaction_is_one_batch(bench: &Bench<'_>) {
    let start = bench.now().await;
    let mut live = bench.watch(below(bench.dir()), WatchFrom::Listed(start)).await;
    let count = bench.capabilities().max_operations.min(100);
    let value = "x".repeat(12_000);
    for round in 0..3 {
        let then = (0..count).map(|number| Op::put(&bench.key(&format!("{number:03}")), format!("{round}{value}").into())).collect();
        bench.perform(then).await;
    }
    let mut past = bench.watch(below(bench.dir()), WatchFrom::Resumed(start)).await;
    for reader in [&mut live, &mut past] {
        for round in 0..3 {
            let batch = reader.batch().await;
            assert_eq!(batch.events.len(), count);
            let expected = format!("{round}{value}");
            assert!(batch.events.iter().all(|event| matches!(event, Event::Put { kv, .. } if kv.value == expected)));
        }
    }
}

pub(super) async fn delete_is_an_event(bench: &Bench<'_>) {
    let key = bench.key("a");
    let created = bench.put(&key, "1").await;
    let mut reader = bench.watch(Span::Key(key.clone()), WatchFrom::Listed(created)).await;
    for round in 0..3 {
        let deleted = bench.delete(&key).await;
        assert_eq!(reader.expect_delete(&key).await, deleted);
        let put = bench.put(&key, round.to_string()).await;
        let (revision, event) = reader.event().await;
        assert!(matches!(&event, Event::Put { kv, .. } if kv.created == put && revision == put), "it came to be anew: {event:?}");
    }
}

pub(super) async fn directory_delete_reaches_every_watch(bench: &Bench<'_>) {
    let (app, a, deep, twin) = (bench.key("app"), bench.key("app/a"), bench.key("app/b/c"), bench.key("apple/x"));
    for key in [&a, &deep, &twin] {
        bench.put(key, "v").await;
    }
    let start = bench.now().await;
    let spans = [below(bench.dir()), below(&app), Span::Key(a.clone()), below(&bench.key("app/b")), Span::Key(deep.clone())];
    let mut readers: Vec<(Span, Reader)> = Vec::new();
    for span in spans {
        for from in [WatchFrom::Listed(start), WatchFrom::Resumed(start)] {
            readers.push((span.clone(), bench.watch(span.clone(), from).await));
        }
    }
    let mut twins = bench.watch(below(&bench.key("apple")), WatchFrom::Resumed(start)).await;
    let revision = bench.perform(vec![Op::Delete { span: below(&app), previous: false }]).await.revision;
    let again = bench.put(&twin, "again").await;
    for (span, reader) in &mut readers {
        let batch = reader.batch().await;
        assert_eq!(batch.revision, revision);
        let mut gone: Vec<&Key> = Vec::new();
        for event in &batch.events {
            let Event::Delete { key, directory, .. } = event else { panic!("{event:?}") };
            gone.extend([&a, &deep].into_iter().filter(|lost| {
                let lost = lost.as_str().as_bytes();
                span.contains(lost) && (lost == &key[..] || *directory && lost.starts_with(key) && lost.get(key.len()) == Some(&b'/'))
            }));
        }
        let mut expected = vec![&a, &deep];
        expected.retain(|key| span.contains(key.as_str().as_bytes()));
        assert_eq!(gone, expected, "{span:?}: {batch:?}");
    }
    twins.expect_put(again, &twin, "again").await;
}

pub(super) async fn expired_key_is_a_delete_event(bench: &Bench<'_>) {
    let key = bench.key("a");
    let put = bench.put_with(&key, "v", Expiry::After(Duration::from_secs(1))).await;
    let mut reader = bench.watch(below(bench.dir()), WatchFrom::Resumed(put)).await;
    let gone = reader.expect_delete(&key).await;
    assert!(gone > put);
    assert_eq!(bench.get(&key).await, None);
    let mut past = bench.watch(below(bench.dir()), WatchFrom::Resumed(put)).await;
    assert_eq!(past.expect_delete(&key).await, gone);
}

pub(super) async fn put_of_same_value_is_an_event(bench: &Bench<'_>) {
    let key = bench.key("a");
    bench.put(&key, "same").await;
    let mut reader = bench.watch_all().await;
    for _ in 0..3 {
        let revision = bench.put(&key, "same").await;
        reader.expect_put(revision, &key, "same").await;
    }
}

pub(super) async fn every_watch_gets_all_changes(bench: &Bench<'_>) {
    let key = bench.key("a");
    let start = bench.put(&key, "start").await;
    let mut readers = Vec::new();
    for number in 0..20 {
        let span = if number % 2 == 0 { below(bench.dir()) } else { Span::Key(key.clone()) };
        readers.push(bench.watch(span, WatchFrom::Listed(start)).await);
    }
    let mut written = Vec::new();
    for number in 0..20 {
        let value = number.to_string();
        written.push((bench.put(&key, value.clone()).await, value));
    }
    join_all(readers.iter_mut().map(async |reader| {
        for (revision, value) in &written {
            reader.expect_put(*revision, &key, value).await;
        }
    }))
    .await;
}

pub(super) async fn dropped_watch_does_not_affect_others(bench: &Bench<'_>) {
    let key = bench.key("a");
    let mut stays = bench.watch_all().await;
    for round in 0..5 {
        let mut dropped = Vec::new();
        for _ in 0..20 {
            dropped.push(bench.watch_all().await);
        }
        // Some of the dropped watches have an unread event.
        dropped.truncate(10);
        let value = round.to_string();
        let revision = bench.put(&key, value.clone()).await;
        drop(dropped);
        stays.expect_put(revision, &key, &value).await;
    }
}

pub(super) async fn live_watch_yields_all_after_skip(bench: &Bench<'_>) {
    let (key, other) = (bench.key("a"), bench.key("b"));
    let start = bench.put(&key, "1").await;
    let since = bench.put(&other, "2").await;
    let mut reader = bench.watch(below(bench.dir()), WatchFrom::Live(start)).await;
    // Other cases use the store too, so the watch may skip even further.
    match reader.item().await {
        WatchItem::Skipped(to) => {
            assert!(to >= since, "skipped to {to}, and the store was at {since} already");
            let read = bench.now().await;
            assert!(read >= to, "what is read now is as of {read}, and not of {to} or later");
        }
        WatchItem::Batch(batch) => assert_eq!(batch.revision, since),
        item => panic!("{item:?}"),
    }
    let next = bench.put(&key, "3").await;
    reader.expect_put(next, &key, "3").await;
    let gone = bench.delete(&other).await;
    assert_eq!(reader.expect_delete(&other).await, gone);
}

pub(super) async fn live_watch_of_idle_store_skips_nothing(bench: &Bench<'_>) {
    let key = bench.key("a");
    let start = bench.put(&key, "1").await;
    let mut reader = bench.watch(below(bench.dir()), WatchFrom::Live(start)).await;
    let next = bench.put(&key, "2").await;
    reader.expect_put(next, &key, "2").await;
}

pub(super) async fn live_watch_has_no_gap_under_writes(bench: &Bench<'_>) {
    let (key, last) = (bench.key("a"), bench.key("last"));
    for _ in 0..10 {
        let start = bench.put(&key, "start").await;
        // The watch is opened while the writes run.
        let writes = async {
            let mut written = Vec::new();
            for number in 0..30 {
                written.push(bench.put(&key, number.to_string()).await);
            }
            written
        };
        let (mut reader, mut written) = join(bench.watch(below(bench.dir()), WatchFrom::Live(start)), writes).await;
        let end = bench.put(&last, "x").await;
        written.push(end);
        let mut from = start;
        let mut seen = Vec::new();
        while seen.last() != Some(&end) {
            match reader.item().await {
                WatchItem::Skipped(to) => from = to,
                WatchItem::Batch(batch) => seen.push(batch.revision),
                item => panic!("{item:?}"),
            }
        }
        written.retain(|revision| *revision > from);
        assert_eq!(seen, written, "after {from}");
    }
}

pub(super) async fn future_watch_reports_store_behind(bench: &Bench<'_>) {
    let now = bench.put(&bench.key("a"), "v").await;
    let future = Revision::new(now.get() + 1_000_000);
    for from in [WatchFrom::Listed(future), WatchFrom::Resumed(future), WatchFrom::Live(future)] {
        let (batches, last) = bench.watch(below(bench.dir()), from).await.rest().await;
        assert!(batches.is_empty(), "{batches:?}");
        assert!(matches!(last, WatchItem::Behind(revision) if revision >= now && revision < future), "{last:?} of {from:?}");
    }
}

/// A store must not send the start zero to the server, where it may mean "from now on".
pub(super) async fn watch_from_zero_yields_everything(bench: &Bench<'_>) {
    let key = bench.key("a");
    let first = bench.put(&key, "1").await;
    let second = bench.put(&key, "2").await;
    let mut reader = bench.watch(below(bench.dir()), WatchFrom::Resumed(Revision::ZERO)).await;
    reader.expect_put(first, &key, "1").await;
    reader.expect_put(second, &key, "2").await;
    let third = bench.put(&key, "3").await;
    reader.expect_put(third, &key, "3").await;
}

pub(super) async fn watch_of_lost_history_reports_it(bench: &Bench<'_>) {
    let key = bench.key("a");
    let start = bench.put(&key, "1").await;
    bench.put(&key, "2").await;
    bench.put(&key, "3").await;
    bench.lose_history().await;
    let (batches, last) = bench.watch(below(bench.dir()), WatchFrom::Resumed(start)).await.rest().await;
    assert!(batches.is_empty(), "what is left of a history is not to be taken for all of it: {batches:?}");
    let WatchItem::HistoryLost { oldest } = last else { panic!("{last:?}") };
    assert!(oldest.is_none_or(|oldest| oldest > start), "{oldest:?}");
    // A new watch from the current revision works.
    let mut reader = bench.watch_all().await;
    let revision = bench.put(&key, "4").await;
    reader.expect_put(revision, &key, "4").await;
}

/// For a watch that starts at the compacted revision, servers before 3.4.34 and 3.5.16 silently
/// drop a deletion at this revision.
pub(super) async fn delete_at_compaction_is_not_lost(bench: &Bench<'_>) {
    let key = bench.key("a");
    let start = bench.put(&key, "1").await;
    let deleted = bench.delete(&key).await;
    bench.lose_history().await;
    let mut reader = bench.watch(Span::Key(key.clone()), WatchFrom::Resumed(start)).await;
    match reader.item().await {
        WatchItem::HistoryLost { .. } => {}
        WatchItem::Batch(batch) => {
            assert!(batch.revision == deleted && matches!(batch.events.as_slice(), [Event::Delete { .. }]), "{batch:?}");
        }
        item => panic!("{item:?}"),
    }
}

pub(super) async fn idle_watch_survives_compaction(bench: &Bench<'_>) {
    let key = bench.key("a");
    let mut reader = bench.watch_all().await;
    bench.lose_history().await;
    let revision = bench.put(&key, "after").await;
    reader.expect_put(revision, &key, "after").await;
}

pub(super) async fn slow_reader_does_not_delay_others(bench: &Bench<'_>) {
    let key = bench.key("a");
    let mut slow = bench.watch_all().await;
    let mut quick = bench.watch_all().await;
    let padding = "x".repeat(8_000);
    let mut written = Vec::new();
    for number in 0..3_000 {
        let value = format!("{number} {padding}");
        let revision = bench.put(&key, value.clone()).await;
        quick.expect_put(revision, &key, &value).await;
        written.push(revision);
    }
    let mut seen = Vec::new();
    while seen.len() < written.len() {
        match slow.item().await {
            WatchItem::Batch(batch) => seen.push(batch.revision),
            WatchItem::Lagged | WatchItem::HistoryLost { .. } => break,
            item @ (WatchItem::Behind(_) | WatchItem::Skipped(_)) => panic!("{item:?}"),
            WatchItem::Progress(_) => {}
        }
    }
    assert_eq!(written.get(..seen.len()), Some(&seen[..]), "the batches before the end have no gap");
    // The store still works, whatever happened to the slow watch.
    let committed = bench.commit(Txn { then: vec![Op::delete(&key)], ..Txn::default() }).await;
    assert!(committed.succeeded);
}
