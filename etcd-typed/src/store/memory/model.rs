//! Compares the engine with a model that keeps a full copy of the keys for every revision, and so
//! is too simple to be wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::engine::Engine;
use super::state::{HistoryLimit, Next};
use crate::error::ErrorKind;
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::store::{Batch, Committed, Compare, Condition, Event, Expiry, KeyValue, Op, OpResult, Range, RangeReply, Span, Txn};

type Snapshot = BTreeMap<Bytes, KeyValue>;

/// The model. `snapshots[r]` and `events[r]` belong to revision `r`.
#[derive(Debug)]
struct Model {
    snapshots: Vec<Snapshot>,
    events: Vec<Vec<Event>>,
    compacted: u64,
    /// The time to live and the end of each lease.
    leases: BTreeMap<LeaseId, (Duration, Instant)>,
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Txn),
    Grant(LeaseId, Duration),
    KeepAlive(LeaseId),
    Revoke(LeaseId),
    Sleep(Duration),
    Compact(Revision),
}

impl Model {
    fn new() -> Self {
        Self { snapshots: vec![Snapshot::new(); 2], events: vec![Vec::new(); 2], compacted: 0, leases: BTreeMap::new() }
    }

    fn revision(&self) -> Revision {
        Revision::new(self.snapshots.len() as u64 - 1)
    }

    fn now(&self) -> &Snapshot {
        self.snapshots.last().unwrap()
    }

    /// Returns whether the snapshot of a revision can be read.
    fn readable(&self, revision: usize) -> bool {
        revision as u64 >= self.compacted && revision < self.snapshots.len()
    }

    fn advance(&mut self, now: Instant) {
        while let Some((id, _)) =
            self.leases.iter().map(|(id, (_, end))| (*id, *end)).filter(|(_, end)| *end <= now).min_by_key(|(id, end)| (*end, *id))
        {
            self.revoke(id);
        }
    }

    fn revoke(&mut self, id: LeaseId) {
        if self.leases.remove(&id).is_none() {
            return;
        }
        let attached: Vec<_> = self.now().values().filter(|kv| kv.lease == Some(id)).cloned().collect();
        let mut next = self.now().clone();
        let mut events = Vec::new();
        for kv in attached {
            next.remove(&kv.key);
            events.push(Event::Delete { key: kv.key.clone(), directory: false, previous: Some(Box::new(kv)) });
        }
        self.push(next, events);
    }

    fn push(&mut self, snapshot: Snapshot, events: Vec<Event>) {
        if !events.is_empty() {
            self.snapshots.push(snapshot);
            self.events.push(events);
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let keys: Vec<_> = self.now().values().filter(|kv| compare.span.contains(&kv.key)).collect();
        match &compare.condition {
            Condition::Absent => keys.is_empty(),
            Condition::UnchangedSince(revision) => keys.iter().all(|kv| kv.modified <= *revision),
            Condition::NeverExpires => keys.iter().all(|kv| kv.lease.is_none()),
            condition => {
                !keys.is_empty()
                    && keys.iter().all(|kv| match condition {
                        Condition::Created(revision) => kv.created == *revision,
                        Condition::Modified(revision) => kv.modified == *revision,
                        Condition::Value(value) => kv.value == *value,
                        Condition::Lease(lease) => kv.lease == Some(*lease),
                        _ => true,
                    })
            }
        }
    }

    fn commit(&mut self, txn: &Txn) -> Result<Committed, ErrorKind> {
        for ops in [&txn.then, &txn.otherwise] {
            for (index, op) in ops.iter().enumerate() {
                let Op::Put { key, .. } = op else { continue };
                let clash = ops.iter().enumerate().any(|(other, op)| match op {
                    Op::Put { key: written, .. } => other != index && written == key,
                    Op::Delete { span, .. } => span.contains(key.as_bytes()),
                    _ => false,
                });
                if clash {
                    return Err(ErrorKind::Invalid);
                }
            }
        }
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        if ops.iter().any(|op| matches!(op, Op::Put { expiry: Expiry::With(lease), .. } if !self.leases.contains_key(lease))) {
            return Err(ErrorKind::LeaseLost);
        }
        let revision = self.revision().next();
        let mut next = self.now().clone();
        let mut events = Vec::new();
        let mut results = Vec::new();
        for op in ops {
            results.push(match op {
                Op::Get(span) => {
                    let as_of = if events.is_empty() { self.revision() } else { revision };
                    let kvs = next.values().filter(|kv| span.contains(&kv.key)).cloned().collect();
                    OpResult::Get(RangeReply { revision: as_of, kvs, ..RangeReply::default() })
                }
                Op::Newest { below, before, limit } => {
                    let as_of = if events.is_empty() { self.revision() } else { revision };
                    let span = Span::Below(below.clone());
                    let asked = |kv: &&KeyValue| span.contains(&kv.key) && before.is_none_or(|before| kv.created < before);
                    let mut kvs: Vec<_> = next.values().filter(asked).cloned().collect();
                    kvs.sort_by(|a, b| (b.created, &a.key).cmp(&(a.created, &b.key)));
                    let more = kvs.len() > *limit;
                    kvs.truncate(*limit);
                    OpResult::Get(RangeReply { revision: as_of, kvs, more, ..RangeReply::default() })
                }
                Op::Put { key, value, expiry, previous } => {
                    let key = Bytes::copy_from_slice(key.as_bytes());
                    let before = next.get(&key).cloned();
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        created: before.as_ref().map_or(revision, |kv| kv.created),
                        modified: revision,
                        version: Some(before.as_ref().and_then(|kv| kv.version).unwrap_or(0) + 1),
                        lease: if let Expiry::With(lease) = expiry { Some(*lease) } else { None },
                        ttl: None,
                    };
                    next.insert(key, kv.clone());
                    events.push(Event::Put { kv, previous: before.clone().map(Box::new) });
                    OpResult::Put(before.filter(|_| *previous))
                }
                Op::Delete { span, previous } => {
                    let before: Vec<_> = next.values().filter(|kv| span.contains(&kv.key)).cloned().collect();
                    for kv in &before {
                        next.remove(&kv.key);
                        events.push(Event::Delete { key: kv.key.clone(), directory: false, previous: Some(Box::new(kv.clone())) });
                    }
                    OpResult::Delete { deleted: before.len() as u64, previous: if *previous { before } else { Vec::new() } }
                }
                _ => unreachable!("not generated"),
            });
        }
        self.push(next, events);
        Ok(Committed { revision: self.revision(), succeeded, results })
    }
}

/// The paths of all generated operations. They are few, so that operations often meet at one key,
/// and some are prefixes of others.
const PATHS: [&str; 6] = ["/a", "/a/b", "/a/b/c", "/a/d", "/ab", "/c"];

fn key() -> impl Strategy<Value = Key> {
    prop::sample::select(&PATHS[..]).prop_map(|path| Key::parse(path).unwrap())
}

fn span() -> impl Strategy<Value = Span> {
    prop_oneof![2 => key().prop_map(Span::Key), 1 => key().prop_map(Span::Below), 1 => Just(Span::Below(Key::root()))]
}

fn directory() -> impl Strategy<Value = Key> {
    prop_oneof![2 => key(), 1 => Just(Key::root())]
}

fn lease() -> impl Strategy<Value = LeaseId> {
    (1..4_u64).prop_map(|number| LeaseId::new(number).unwrap())
}

fn revision() -> impl Strategy<Value = Revision> {
    (0..30_u64).prop_map(Revision::new)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&["", "x", "y"][..]).prop_map(Bytes::from)
}

fn compare() -> impl Strategy<Value = Compare> {
    let one = prop_oneof![
        Just(Condition::Absent),
        Just(Condition::Present),
        revision().prop_map(Condition::Created),
        revision().prop_map(Condition::Modified),
        value().prop_map(Condition::Value),
        lease().prop_map(Condition::Lease),
        revision().prop_map(Condition::UnchangedSince),
        Just(Condition::NeverExpires),
    ];
    let many = prop_oneof![Just(Condition::Absent), revision().prop_map(Condition::UnchangedSince), Just(Condition::NeverExpires)];
    prop_oneof![
        (key(), one).prop_map(|(key, condition)| Compare::key(&key, condition)),
        (key(), many).prop_map(|(key, condition)| Compare::below(&key, condition)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let expiry = prop_oneof![3 => Just(Expiry::Never), 1 => lease().prop_map(Expiry::With)];
    prop_oneof![
        1 => span().prop_map(Op::Get),
        1 => (directory(), prop::option::of(revision()), 1..4_usize)
            .prop_map(|(below, before, limit)| Op::Newest { below, before, limit }),
        4 => (key(), value(), expiry, any::<bool>()).prop_map(|(key, value, expiry, previous)| Op::Put { key, value, expiry, previous }),
        2 => (span(), any::<bool>()).prop_map(|(span, previous)| Op::Delete { span, previous }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let seconds = |range: std::ops::Range<u64>| range.prop_map(Duration::from_secs);
    let txn = (vec(compare(), 0..2), vec(op(), 0..4), vec(op(), 0..3));
    prop_oneof![
        12 => txn.prop_map(|(compares, then, otherwise)| Step::Commit(Txn { compares, then, otherwise })),
        3 => (lease(), seconds(2..6)).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        1 => lease().prop_map(Step::KeepAlive),
        1 => lease().prop_map(Step::Revoke),
        2 => seconds(1..4).prop_map(Step::Sleep),
        1 => revision().prop_map(Step::Compact),
    ]
}

proptest! {
    #[test]
    fn engine_agrees_with_model(steps in vec(step(), 1..40)) {
        let mut engine = Engine::new(HistoryLimit::default());
        let mut model = Model::new();
        let mut now = Instant::now();
        for step in steps {
            engine.advance(now);
            model.advance(now);
            match step {
                Step::Commit(txn) => {
                    prop_assert_eq!(engine.commit(&txn, crate::store::memory::txn::Limits::DEFAULT, now).map_err(|error| error.kind()), model.commit(&txn));
                }
                Step::Grant(id, ttl) => {
                    let granted = engine.leases.grant(id, ttl, now).ok();
                    let expected = (!model.leases.contains_key(&id)).then_some(ttl);
                    prop_assert_eq!(granted, expected);
                    if let Some(ttl) = expected {
                        model.leases.insert(id, (ttl, now + ttl));
                    }
                }
                Step::KeepAlive(id) => {
                    let kept = engine.leases.keep_alive(id, now).ok();
                    prop_assert_eq!(kept, model.leases.get(&id).map(|(ttl, _)| *ttl));
                    if let Some((ttl, end)) = model.leases.get_mut(&id) {
                        *end = now + *ttl;
                    }
                }
                Step::Revoke(id) => {
                    engine.revoke(id);
                    model.revoke(id);
                }
                Step::Sleep(time) => now += time,
                Step::Compact(to) => {
                    engine.state.compact(to);
                    model.compacted = model.compacted.max(to.min(model.revision()).get());
                }
            }
            prop_assert_eq!(engine.state.revision(), model.revision());
        }
        every_revision_reads_the_same(&engine, &model)?;
        every_watch_sees_the_same(&engine, &model)?;
    }
}

fn spans() -> impl Iterator<Item = Span> {
    let keys = || PATHS.iter().map(|path| Key::parse(path).unwrap());
    keys().map(Span::Key).chain(keys().map(Span::Below)).chain([Span::Below(Key::root())])
}

fn every_revision_reads_the_same(engine: &Engine, model: &Model) -> Result<(), TestCaseError> {
    for revision in 0..model.snapshots.len() + 2 {
        for span in spans() {
            let asked = Range { revision: Some(Revision::new(revision as u64)), ..Range::of(span.clone()) };
            // A watch may start at revision zero, before all changes. A read may not: to an etcd
            // server, revision zero means the newest one.
            if revision == 0 || !model.readable(revision) {
                prop_assert_eq!(engine.state.range(&asked).map_err(|error| error.kind()), Err(ErrorKind::HistoryLost));
                continue;
            }
            let expected: Vec<_> = model.snapshots[revision].values().filter(|kv| span.contains(&kv.key)).cloned().collect();
            let reply = engine.state.range(&asked).unwrap();
            prop_assert_eq!((&reply.kvs, reply.more, reply.revision), (&expected, false, asked.revision.unwrap()));
            for after in PATHS {
                let asked = Range { after: Some(after.into()), limit: Some(2), ..asked.clone() };
                let rest: Vec<_> = expected.iter().filter(|kv| kv.key > after).cloned().collect();
                let page = engine.state.range(&asked).unwrap();
                prop_assert_eq!((page.kvs.as_slice(), page.more), (&rest[..rest.len().min(2)], rest.len() > 2));
                for until in PATHS {
                    let part: Vec<_> = rest.iter().filter(|kv| kv.key <= until).cloned().collect();
                    let asked = Range { until: Some(until.into()), ..asked.clone() };
                    let page = engine.state.range(&asked).unwrap();
                    prop_assert_eq!((page.kvs.as_slice(), page.more), (&part[..part.len().min(2)], part.len() > 2));
                }
            }
        }
    }
    Ok(())
}

fn every_watch_sees_the_same(engine: &Engine, model: &Model) -> Result<(), TestCaseError> {
    for span in spans() {
        for start in 0..model.snapshots.len() {
            let mut after = Revision::new(start as u64);
            if !model.readable(start) {
                prop_assert_eq!(engine.state.next(&span, after, 3), Next::Lost);
                continue;
            }
            let mut seen = Vec::new();
            while after < model.revision() {
                after = match engine.state.next(&span, after, 3) {
                    Next::Batch(batch) => {
                        let revision = batch.revision;
                        seen.push(batch);
                        revision
                    }
                    Next::NothingUpTo(revision) => {
                        prop_assert!(revision > after, "the search makes no progress");
                        revision
                    }
                    Next::Lost => return Err(TestCaseError::fail("lost although not compacted")),
                };
            }
            let expected: Vec<_> = (start + 1..model.events.len())
                .map(|revision| Batch {
                    revision: Revision::new(revision as u64),
                    events: model.events[revision].iter().filter(|event| span.contains(event.key())).cloned().collect(),
                })
                .filter(|batch| !batch.events.is_empty())
                .collect();
            prop_assert_eq!(seen, expected);
        }
    }
    Ok(())
}
