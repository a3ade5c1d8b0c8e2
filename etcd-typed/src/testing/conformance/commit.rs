//! Cases about the effects of operations in [`Store::commit`](crate::store::Store::commit). The
//! cases about conditions are in `compare.rs`.

use std::time::Duration;

use bytes::Bytes;

use super::bench::{Bench, keys};
use crate::error::ErrorKind;
use crate::revision::{LeaseId, Revision};
use crate::store::{Compare, Condition, Expiry, KeyValue, Op, OpResult, Range, Span, Txn};

pub(super) async fn failed_condition_performs_other_list(bench: &Bench<'_>) {
    let key = bench.key("a");
    bench.put(&key, "there").await;
    let txn =
        |otherwise| Txn { compares: vec![Compare::key(&key, Condition::Absent)], then: vec![Op::put(&key, "not this".into())], otherwise };
    let committed = bench.commit(txn(vec![Op::Get(Span::Key(key.clone()))])).await;
    assert!(!committed.succeeded);
    let [OpResult::Get(reply)] = committed.results.as_slice() else { panic!("{committed:?}") };
    assert_eq!(reply.kvs, [bench.found(&key).await]);
    assert_eq!(bench.value(&key).await, "there");
    let committed = bench.commit(txn(vec![])).await;
    assert!(!committed.succeeded && committed.results.is_empty(), "{committed:?}");
    let writes = txn(vec![Op::put(&bench.key("b"), "that".into())]);
    if bench.capabilities().transactions {
        let committed = bench.commit(writes).await;
        assert!(!committed.succeeded, "{committed:?}");
        assert_eq!(bench.found(&bench.key("b")).await.modified, committed.revision);
    } else {
        bench.refused(writes, ErrorKind::Unsupported).await;
        assert_eq!(bench.get(&bench.key("b")).await, None);
    }
}

pub(super) async fn transaction_has_one_revision(bench: &Bench<'_>) {
    let old = bench.key("old");
    bench.put(&old, "x").await;
    let then = vec![Op::put(&bench.key("b"), "1".into()), Op::put(&bench.key("a"), "2".into()), Op::delete(&old)];
    if !bench.capabilities().transactions {
        bench.refused(Txn { then, ..Txn::default() }, ErrorKind::Unsupported).await;
        assert_eq!(keys(&bench.list().await), [old.to_string()]);
        return;
    }
    let committed = bench.perform(then).await;
    let expected = [OpResult::Put(None), OpResult::Put(None), OpResult::Delete { deleted: 1, previous: vec![] }];
    assert_eq!(committed.results, expected);
    let reply = bench.list().await;
    assert_eq!(keys(&reply), [bench.key("a").to_string(), bench.key("b").to_string()]);
    assert!(reply.kvs.iter().all(|kv| kv.modified == committed.revision && kv.created == committed.revision), "{reply:?}");
}

pub(super) async fn transaction_is_all_or_nothing(bench: &Bench<'_>) {
    let with_no_lease = Op::Put { key: bench.key("b"), value: "2".into(), expiry: Expiry::With(LeaseId::random()), previous: false };
    let then = vec![Op::put(&bench.key("a"), "1".into()), with_no_lease, Op::put(&bench.key("c"), "3".into())];
    let kind = if bench.capabilities().transactions { ErrorKind::LeaseLost } else { ErrorKind::Unsupported };
    bench.refused(Txn { then, ..Txn::default() }, kind).await;
    assert!(bench.list().await.kvs.is_empty());
}

pub(super) async fn operations_see_earlier_operations(bench: &Bench<'_>) {
    let (a, b) = (bench.key("a"), bench.key("b"));
    bench.put(&a, "before").await;
    let all = || Op::Get(Span::Below(bench.dir().clone()));
    let then = vec![all(), Op::put(&b, "1".into()), all(), Op::delete(&a), all()];
    if !bench.capabilities().transactions {
        bench.refused(Txn { then, ..Txn::default() }, ErrorKind::Unsupported).await;
        return;
    }
    let committed = bench.perform(then).await;
    let seen: Vec<_> =
        committed.results.iter().filter_map(|result| if let OpResult::Get(reply) = result { Some(keys(reply)) } else { None }).collect();
    let (a, b) = (a.to_string(), b.to_string());
    assert_eq!(seen, [vec![a.clone()], vec![a, b.clone()], vec![b]]);
}

pub(super) async fn put_returns_previous_value_if_asked(bench: &Bench<'_>) {
    let key = bench.key("a");
    let put = |value: &'static str, previous| Op::Put { key: key.clone(), value: value.into(), expiry: Expiry::Never, previous };
    assert_eq!(bench.perform(vec![put("1", true)]).await.results, [OpResult::Put(None)]);
    let first = bench.found(&key).await;
    assert_eq!(bench.perform(vec![put("2", false)]).await.results, [OpResult::Put(None)]);
    let second = bench.found(&key).await;
    assert_eq!(bench.perform(vec![put("3", true)]).await.results, [OpResult::Put(Some(second.clone()))]);
    assert!(second.modified > first.modified && second.value == "2");
}

pub(super) async fn delete_returns_count_and_previous(bench: &Bench<'_>) {
    let key = bench.key("a");
    let delete = |previous| Op::Delete { span: Span::Key(key.clone()), previous };
    bench.put(&key, "1").await;
    let was = bench.found(&key).await;
    let committed = bench.perform(vec![delete(true)]).await;
    assert_eq!(committed.results, [OpResult::Delete { deleted: 1, previous: vec![was.clone()] }]);
    assert!(committed.revision > was.modified);
    assert_eq!(bench.get(&key).await, None);
    bench.put(&key, "2").await;
    assert_eq!(bench.perform(vec![delete(false)]).await.results, [OpResult::Delete { deleted: 1, previous: vec![] }]);
}

pub(super) async fn deleting_missing_key_changes_nothing(bench: &Bench<'_>) {
    let (key, missing) = (bench.key("a"), bench.key("missing"));
    bench.put(&key, "1").await;
    let mut reader = bench.watch_all().await;
    for span in [Span::Key(missing.clone()), Span::Below(missing)] {
        let committed = bench.perform(vec![Op::Delete { span, previous: true }]).await;
        assert_eq!(committed.results, [OpResult::Delete { deleted: 0, previous: vec![] }]);
    }
    let next = bench.put(&key, "2").await;
    reader.expect_put(next, &key, "2").await;
}

pub(super) async fn directory_delete_matches_whole_segments(bench: &Bench<'_>) {
    for path in ["app/a", "app/b/c", "apple/x", "app-x"] {
        bench.put(&bench.key(path), path).await;
    }
    let dir = Span::Below(bench.key("app"));
    let was = bench.range(Range::of(dir.clone())).await.kvs;
    let committed = bench.perform(vec![Op::Delete { span: dir.clone(), previous: true }]).await;
    // On a store with real directories, one operation deletes one directory.
    let deleted = if bench.capabilities().directories { 1 } else { 2 };
    assert_eq!(committed.results, [OpResult::Delete { deleted, previous: was }]);
    assert_eq!(keys(&bench.list().await), [bench.key("app-x").to_string(), bench.key("apple/x").to_string()]);
    assert!(bench.range(Range::of(dir)).await.directory.is_none());
}

/// Other cases may write at the same time, so later revisions may be larger, but never smaller.
pub(super) async fn no_change_returns_current_revision(bench: &Bench<'_>) {
    let key = bench.key("a");
    let written = bench.put(&key, "1").await;
    let read = bench.perform(vec![Op::Get(Span::Key(key.clone()))]).await.revision;
    let deleted = bench.perform(vec![Op::delete(&bench.key("missing"))]).await.revision;
    let nothing = bench.perform(vec![]).await.revision;
    let failed = Txn { compares: vec![Compare::key(&key, Condition::Absent)], then: vec![Op::put(&key, "2".into())], otherwise: vec![] };
    let failed = bench.commit(failed).await.revision;
    assert!(written <= read && read <= deleted && deleted <= nothing && nothing <= failed, "{written} {read} {deleted} {nothing} {failed}");
    assert!(bench.put(&key, "3").await > failed);
}

pub(super) async fn two_writes_of_one_key_are_refused(bench: &Bench<'_>) {
    let (a, b) = (bench.key("a"), bench.key("b"));
    let put = |key, value: &'static str| Op::put(key, value.into());
    let below = || Op::Delete { span: Span::Below(bench.dir().clone()), previous: false };
    for then in [
        vec![put(&a, "1"), put(&a, "1")],
        vec![put(&a, "1"), put(&b, "2"), Op::delete(&a)],
        vec![Op::delete(&a), put(&a, "1")],
        vec![below(), put(&a, "1")],
        vec![put(&a, "1"), below()],
    ] {
        bench.refused(Txn { then: then.clone(), ..Txn::default() }, ErrorKind::Invalid).await;
        // The store also checks the list that is not performed.
        let compares = vec![Compare::key(&a, Condition::Absent)];
        bench.refused(Txn { compares, then: vec![put(&b, "3")], otherwise: then }, ErrorKind::Invalid).await;
    }
    assert!(bench.list().await.kvs.is_empty());
    if !bench.capabilities().transactions {
        return;
    }
    bench.put(&a, "1").await;
    let deletes = bench.perform(vec![Op::delete(&a), below()]).await;
    let deleted = |deleted| OpResult::Delete { deleted, previous: vec![] };
    assert_eq!(deletes.results, [deleted(1), deleted(0)], "two deletes are no conflict");
    let one_in_each =
        Txn { compares: vec![Compare::key(&a, Condition::Absent)], then: vec![put(&a, "then")], otherwise: vec![put(&a, "otherwise")] };
    assert!(bench.commit(one_in_each).await.succeeded);
}

pub(super) async fn every_change_has_larger_revision(bench: &Bench<'_>) {
    let lease = bench.grant(Duration::from_secs(600)).await;
    let key = bench.key("a");
    let mut last = Revision::ZERO;
    for round in 0..10 {
        let value = Bytes::from(format!("{}", round / 2));
        let expiry = if round % 2 == 0 { Expiry::Never } else { Expiry::With(lease) };
        let put = Op::Put { key: key.clone(), value: value.clone(), expiry, previous: false };
        let put = bench.perform(vec![put]).await.revision;
        assert!(put > last, "a write of the same value is a change: {put} after {last}");
        let KeyValue { modified, .. } = bench.found(&key).await;
        assert_eq!(modified, put);
        last = put;
        if round == 5 {
            let deleted = bench.delete(&key).await;
            assert!(deleted > last);
            last = deleted;
        }
    }
}
