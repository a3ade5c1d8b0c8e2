//! Cases about large requests, and about values that a store may not be able to hold.

use bytes::Bytes;

use super::bench::Bench;
use crate::error::ErrorKind;
use crate::store::{Compare, Condition, Op, OpResult, Span, Txn};

pub(super) async fn too_many_operations_are_refused(bench: &Bench<'_>) {
    let too_many = bench.capabilities().max_operations + 1;
    let puts = || (0..too_many).map(|number| Op::put(&bench.key(&number.to_string()), "v".into())).collect::<Vec<_>>();
    let compares = || (0..too_many).map(|number| Compare::key(&bench.key(&number.to_string()), Condition::Absent)).collect::<Vec<_>>();
    let kind = if bench.capabilities().transactions { ErrorKind::TooManyOperations } else { ErrorKind::Unsupported };
    bench.refused(Txn { then: puts(), ..Txn::default() }, kind).await;
    bench.refused(Txn { otherwise: puts(), ..Txn::default() }, kind).await;
    bench.refused(Txn { compares: compares(), then: vec![Op::put(&bench.key("0"), "v".into())], otherwise: vec![] }, kind).await;
    assert!(bench.list().await.kvs.is_empty());
}

pub(super) async fn declared_number_of_operations_succeeds(bench: &Bench<'_>) {
    let max = bench.capabilities().max_operations;
    let key = |number: usize| bench.key(&format!("{number:04}"));
    let compares = (0..max).map(|number| Compare::key(&key(number), Condition::Absent)).collect();
    let then = (0..max).map(|number| Op::put(&key(number), "v".into())).collect();
    let otherwise = (0..max).map(|number| Op::Get(Span::Key(key(number)))).collect();
    let txn = Txn { compares, then, otherwise };
    let committed = bench.commit(txn.clone()).await;
    assert!(committed.succeeded);
    assert_eq!(committed.results, vec![OpResult::Put(None); max]);
    assert_eq!(bench.list().await.kvs.len(), max);
    let committed = bench.commit(txn).await;
    assert!(!committed.succeeded);
    let read = |result: &OpResult| matches!(result, OpResult::Get(reply) if reply.kvs.len() == 1);
    assert!(committed.results.len() == max && committed.results.iter().all(read), "{committed:?}");
}

pub(super) async fn too_large_value_is_refused(bench: &Bench<'_>) {
    let key = bench.key("a");
    let value = Bytes::from(vec![b'x'; bench.capabilities().max_value + 1]);
    bench.refused(Txn { then: vec![Op::put(&key, value.clone())], ..Txn::default() }, ErrorKind::TooLarge).await;
    assert_eq!(bench.get(&key).await, None);
    bench.put(&key, "small").await;
    let swap = Txn { compares: vec![Compare::key(&key, Condition::Present)], then: vec![Op::put(&key, value)], otherwise: vec![] };
    bench.refused(swap, ErrorKind::TooLarge).await;
    assert_eq!(bench.value(&key).await, "small");
}

/// The value has almost the largest size that the store declares. 4 KiB are left for the rest of
/// the request.
pub(super) async fn large_value_reads_back(bench: &Bench<'_>) {
    let key = bench.key("a");
    let mut reader = bench.watch_all().await;
    let value = "0123456789abcdef".repeat((bench.capabilities().max_value - 4096) / 16);
    let revision = bench.put(&key, value.clone()).await;
    assert!(bench.value(&key).await == value);
    reader.expect_put(revision, &key, &value).await;
    let delete = Op::Delete { span: Span::Key(key), previous: true };
    let committed = bench.perform(vec![delete]).await;
    let [OpResult::Delete { previous, .. }] = committed.results.as_slice() else { panic!("no delete") };
    assert!(previous.first().is_some_and(|kv| kv.value == value));
}

pub(super) async fn binary_value_reads_back_or_is_refused(bench: &Bench<'_>) {
    let key = bench.key("a");
    let every_byte = Bytes::from_iter(0..=u8::MAX);
    for value in [every_byte, Bytes::from_static(b"\xff"), Bytes::from_static(b"\xc3\x28"), Bytes::from_static(b"\xed\xa0\x80")] {
        if bench.capabilities().binary_values {
            bench.put(&key, value.clone()).await;
            assert_eq!(bench.value(&key).await, value);
            let swap = Txn {
                compares: vec![Compare::key(&key, Condition::Value(value))],
                then: vec![Op::put(&key, "swapped".into())],
                otherwise: vec![],
            };
            assert!(bench.commit(swap).await.succeeded);
        } else {
            bench.refused(Txn { then: vec![Op::put(&key, value.clone())], ..Txn::default() }, ErrorKind::Unsupported).await;
            assert_eq!(bench.get(&key).await, None);
        }
    }
}

pub(super) async fn empty_value_is_a_value(bench: &Bench<'_>) {
    let key = bench.key("a");
    let mut reader = bench.watch_all().await;
    let revision = bench.put(&key, "").await;
    assert_eq!(bench.value(&key).await, "");
    reader.expect_put(revision, &key, "").await;
    let swap = Txn {
        compares: vec![Compare::key(&key, Condition::Value(Bytes::new()))],
        then: vec![Op::put(&key, "swapped".into())],
        otherwise: vec![],
    };
    assert!(bench.commit(swap.clone()).await.succeeded);
    assert!(!bench.commit(swap).await.succeeded);
    assert_eq!(bench.value(&key).await, "swapped");
}
