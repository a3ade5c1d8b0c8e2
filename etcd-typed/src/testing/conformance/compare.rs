//! Cases about conditions: [`Compare`] and [`Condition`].

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::bench::Bench;
use crate::error::ErrorKind;
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::store::{Compare, Condition, Expiry, Op, OpResult, Span, Txn};

const LONG: Duration = Duration::from_secs(600);

/// A key that was created, then updated with a lease.
struct Subject {
    key: Key,
    created: Revision,
    modified: Revision,
}

async fn subject(bench: &Bench<'_>, name: &str, lease: LeaseId) -> Subject {
    let key = bench.key(name);
    let created = bench.put(&key, "first").await;
    let modified = bench.update(&key, "second", Expiry::With(lease)).await;
    Subject { key, created, modified }
}

/// Returns conditions, each with whether it holds for a [`Subject`] and whether it holds for a
/// missing key.
fn table(subject: &Subject, lease: LeaseId) -> Vec<(Condition, bool, bool)> {
    let Subject { created, modified, .. } = *subject;
    let value = |text: &'static str| Condition::Value(Bytes::from_static(text.as_bytes()));
    vec![
        (Condition::Absent, false, true),
        (Condition::Present, true, false),
        (Condition::Created(created), true, false),
        (Condition::Created(modified), false, false),
        (Condition::Created(Revision::ZERO), false, false),
        (Condition::Modified(modified), true, false),
        (Condition::Modified(created), false, false),
        (Condition::Modified(modified.next()), false, false),
        (Condition::Modified(Revision::ZERO), false, false),
        (value("second"), true, false),
        (value("first"), false, false),
        (value("secon"), false, false),
        (value(""), false, false),
        (Condition::Lease(lease), true, false),
        (Condition::Lease(LeaseId::random()), false, false),
        (Condition::UnchangedSince(modified), true, true),
        (Condition::UnchangedSince(modified.next()), true, true),
        (Condition::UnchangedSince(modified.previous()), false, true),
        (Condition::UnchangedSince(Revision::ZERO), false, true),
        (Condition::NeverExpires, false, true),
    ]
}

/// Tries every condition with every operation, since a store may send a different request for each
/// operation.
pub(super) async fn every_condition_holds_when_it_should(bench: &Bench<'_>) {
    let lease = bench.grant(LONG).await;
    let rows = table(&subject(bench, "count", lease).await, lease).len();
    for row in 0..rows {
        for operation in ["get", "put", "delete"] {
            let present = subject(bench, &format!("{row}-{operation}"), lease).await;
            let absent = bench.key(&format!("{row}-{operation}-absent"));
            let Some((condition, holds, holds_of_none)) = table(&present, lease).into_iter().nth(row) else {
                panic!("the table has {rows} rows")
            };
            check(bench, &present.key, &condition, operation, holds).await;
            check(bench, &absent, &condition, operation, holds_of_none).await;
        }
    }
}

async fn check(bench: &Bench<'_>, key: &Key, condition: &Condition, operation: &str, holds: bool) {
    let before = bench.get(key).await;
    let then = match operation {
        "get" => Op::Get(Span::Key(key.clone())),
        "put" => Op::put(key, Bytes::from_static(b"third")),
        _ => Op::delete(key),
    };
    let txn =
        Txn { compares: vec![Compare::key(key, condition.clone())], then: vec![then], otherwise: vec![Op::Get(Span::Key(key.clone()))] };
    let committed = bench.commit(txn).await;
    let case = format!("{condition:?} with a {operation} of {before:?}");
    assert_eq!(committed.succeeded, holds, "{case}");
    let after = bench.get(key).await;
    match (holds, operation) {
        (true, "put") => {
            let after = after.as_ref().map(|kv| (kv.value.clone(), kv.modified));
            assert_eq!(after, Some((Bytes::from_static(b"third"), committed.revision)), "{case}");
        }
        (true, "delete") => assert_eq!(after, None, "{case}"),
        _ => {
            assert_eq!(after, before, "nothing was written: {case}");
            let read = committed.results.first();
            let Some(OpResult::Get(reply)) = read else { panic!("{read:?}: {case}") };
            assert_eq!(reply.kvs.first(), before.as_ref(), "it says what is there: {case}");
        }
    }
}

pub(super) async fn all_conditions_must_hold(bench: &Bench<'_>) {
    let lease = bench.grant(LONG).await;
    let Subject { key, created, modified } = subject(bench, "a", lease).await;
    let good = [Condition::Created(created), Condition::Modified(modified), Condition::Value(Bytes::from_static(b"second"))];
    let bad = Condition::Value(Bytes::from_static(b"other"));
    for (conditions, holds) in [
        (vec![bad.clone(), good[0].clone()], false),
        (vec![good[0].clone(), bad.clone()], false),
        (vec![good[1].clone(), good[2].clone(), bad], false),
        (vec![Condition::Present, Condition::Absent], false),
        (good.to_vec(), true),
    ] {
        let compares: Vec<_> = conditions.iter().map(|condition| Compare::key(&key, condition.clone())).collect();
        let committed = bench.commit(Txn { compares, then: vec![Op::put(&key, "x".into())], otherwise: vec![] }).await;
        assert_eq!(committed.succeeded, holds, "{conditions:?}");
    }
    assert_eq!(bench.value(&key).await, "x");
}

pub(super) async fn condition_on_another_key_guards_write(bench: &Bench<'_>) {
    let (guard, key) = (bench.key("guard"), bench.key("key"));
    let revision = bench.put(&guard, "held").await;
    let txn = |condition| Txn {
        compares: vec![Compare::key(&guard, condition)],
        then: vec![Op::put(&key, "written".into())],
        otherwise: vec![Op::Get(Span::Key(guard.clone()))],
    };
    if !bench.capabilities().transactions {
        bench.refused(txn(Condition::Present), ErrorKind::Unsupported).await;
        assert_eq!(bench.get(&key).await, None);
        return;
    }
    let failed = bench.commit(txn(Condition::Modified(revision.previous()))).await;
    assert!(!failed.succeeded);
    assert_eq!(bench.get(&key).await, None);
    assert!(matches!(failed.results.as_slice(), [OpResult::Get(reply)] if reply.kvs.first().is_some_and(|kv| kv.value == "held")));
    assert!(bench.commit(txn(Condition::Modified(revision))).await.succeeded);
    assert_eq!(bench.value(&key).await, "written");
}

pub(super) async fn condition_on_directory_covers_all_keys(bench: &Bench<'_>) {
    let (dir, key) = (bench.key("app"), bench.key("written"));
    let txn = |condition| Txn { compares: vec![Compare::below(&dir, condition)], then: vec![Op::put(&key, "x".into())], otherwise: vec![] };
    if !bench.capabilities().transactions {
        bench.refused(txn(Condition::Absent), ErrorKind::Unsupported).await;
        bench.refused(txn(Condition::UnchangedSince(Revision::new(1))), ErrorKind::Unsupported).await;
        assert_eq!(bench.get(&key).await, None);
        return;
    }
    let succeeded = async |condition| bench.commit(txn(condition)).await.succeeded;
    assert!(succeeded(Condition::Absent).await, "the key does not exist");
    bench.put(&dir, "the key of that name is not below itself").await;
    bench.put(&bench.key("apple/x"), "nor is this").await;
    assert!(succeeded(Condition::Absent).await, "no key exists below");
    assert!(succeeded(Condition::UnchangedSince(Revision::ZERO)).await, "nothing was written below");
    bench.put(&bench.key("app/a"), "1").await;
    let listed = bench.put(&bench.key("app/b/c"), "1").await;
    assert!(!succeeded(Condition::Absent).await);
    assert!(succeeded(Condition::UnchangedSince(listed)).await);
    assert!(!succeeded(Condition::UnchangedSince(listed.previous())).await, "one of two is newer");
    bench.put(&bench.key("app/a"), "2").await;
    assert!(!succeeded(Condition::UnchangedSince(listed)).await, "one was written since");
    let created = bench.put(&bench.key("app/new"), "1").await;
    assert!(!succeeded(Condition::UnchangedSince(created.previous())).await, "one came to be since");
    assert!(succeeded(Condition::UnchangedSince(created)).await);
}

pub(super) async fn single_key_conditions_refuse_directories(bench: &Bench<'_>) {
    let one = Revision::new(1);
    let conditions = [
        Condition::Present,
        Condition::Created(one),
        Condition::Modified(one),
        Condition::Value("v".into()),
        Condition::Lease(LeaseId::random()),
    ];
    for condition in conditions {
        let compares = vec![Compare::below(bench.dir(), condition)];
        bench.refused(Txn { compares, then: vec![Op::put(&bench.key("a"), "v".into())], otherwise: vec![] }, ErrorKind::Invalid).await;
    }
    assert_eq!(bench.get(&bench.key("a")).await, None);
}

pub(super) async fn one_of_many_concurrent_creates_succeeds(bench: &Bench<'_>) {
    let key = bench.key("a");
    let create = |number: usize| Txn {
        compares: vec![Compare::key(&key, Condition::Absent)],
        then: vec![Op::put(&key, number.to_string().into())],
        otherwise: vec![Op::Get(Span::Key(key.clone()))],
    };
    let answers = join_all((0..16).map(|number| bench.commit(create(number)))).await;
    let winners: Vec<_> = answers.iter().enumerate().filter(|(_, answer)| answer.succeeded).map(|(number, _)| number).collect();
    let [winner] = winners[..] else { panic!("expected one creator, got {winners:?}") };
    let value = bench.value(&key).await;
    assert_eq!(value, winner.to_string());
    for answer in answers.iter().filter(|answer| !answer.succeeded) {
        let seen = matches!(answer.results.as_slice(), [OpResult::Get(reply)] if reply.kvs.first().is_some_and(|kv| kv.value == value));
        assert!(seen, "the losers see the winner: {answer:?}");
    }
}

pub(super) async fn one_of_many_concurrent_swaps_succeeds(bench: &Bench<'_>) {
    let key = bench.key("a");
    let mut expected = bench.put(&key, "0").await;
    for round in 0..5 {
        let swap = |number: usize| Txn {
            compares: vec![Compare::key(&key, Condition::Modified(expected))],
            then: vec![Op::put(&key, format!("{round}-{number}").into())],
            otherwise: vec![],
        };
        let answers = join_all((0..8).map(|number| bench.commit(swap(number)))).await;
        let winners: Vec<_> = answers.iter().filter(|answer| answer.succeeded).map(|answer| answer.revision).collect();
        let [winner] = winners[..] else { panic!("expected one swap to succeed, got {}", winners.len()) };
        assert_eq!(bench.found(&key).await.modified, winner);
        expected = winner;
    }
}
