//! Cases about [`Op::Newest`], which reads the most recently created keys of a directory.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::bench::{Bench, keys};
use crate::error::ErrorKind;
use crate::key::Key;
use crate::revision::Revision;
use crate::store::{Compare, Condition, Expiry, KeyValue, Op, OpResult, Range, RangeReply, Span, Txn};

pub(super) async fn newest_keys_come_newest_first(bench: &Bench<'_>) {
    let Some(queue) = Queue::of(bench).await else { return };
    let lease = bench.grant(std::time::Duration::from_secs(600)).await;
    // The keys are created in another order than that of their names.
    for name in ["q/b", "q/c/deeper", "q/a"] {
        bench.put_with(&bench.key(name), "a value", Expiry::With(lease)).await;
    }
    // The key with the directory's own name and keys with similar names are newer, but are not
    // below the directory.
    for name in ["q", "q-x", "qq/x"] {
        bench.put(&bench.key(name), "outside").await;
    }
    // An update does not change the creation revision.
    bench.put(&bench.key("q/b"), "updated").await;
    let order = ["q/a", "q/c/deeper", "q/b"];
    for (limit, more) in [(1, true), (2, true), (3, false), (4, false), (usize::MAX, false)] {
        let reply = queue.newest(None, limit).await;
        assert_eq!(keys(&reply), bench.paths(order.iter().take(limit)), "of {limit}");
        assert_eq!(reply.more, more, "of {limit}");
    }
    // The answer has all fields of each key, like the answer of a range.
    let mut listed = bench.range(Range::of(Span::Below(queue.dir.clone()))).await.kvs;
    listed.sort_by_key(|kv| std::cmp::Reverse(kv.created));
    let newest = queue.newest(None, 3).await.kvs;
    assert_eq!(newest, listed);
    assert!(newest.iter().all(|kv| !kv.value.is_empty() && kv.modified >= kv.created), "{newest:?}");
    let leases: Vec<_> = newest.iter().map(|kv| kv.lease).collect();
    assert_eq!(leases, [Some(lease), Some(lease), None], "the last put of the oldest had no lease");
    // A key that was deleted and created again becomes the newest key.
    bench.delete(&bench.key("q/b")).await;
    bench.put(&bench.key("q/b"), "again").await;
    assert_eq!(keys(&queue.newest(None, 3).await), bench.paths(&["q/b", "q/a", "q/c/deeper"]));
}

/// `Newest` must return the leases. In a queue, a waiter uses `Newest` to find the key before its
/// own key, and must ignore keys without a lease. So locks do not work on a store that leaves out
/// the leases. (A range with `keys_only` may leave them out, as etcd 3.7 does.)
pub(super) async fn newest_keys_show_their_leases(bench: &Bench<'_>) {
    let Some(queue) = Queue::of(bench).await else { return };
    let (first, second) = (bench.grant(std::time::Duration::from_secs(600)).await, bench.grant(std::time::Duration::from_secs(600)).await);
    bench.put_with(&bench.key("q/first"), "", Expiry::With(first)).await;
    bench.put(&bench.key("q/none"), "").await;
    let told = |kvs: &[KeyValue]| kvs.iter().map(|kv| kv.lease).collect::<Vec<_>>();
    // A waiter joins a queue with this transaction, which creates its key and reads the queue.
    let own = bench.key("q/second");
    let put = Op::Put { key: own.clone(), value: Bytes::new(), expiry: Expiry::With(second), previous: false };
    let then = vec![put, Op::Newest { below: queue.dir.clone(), before: None, limit: 3 }, Op::Get(Span::Below(queue.dir.clone()))];
    let compares = vec![Compare::key(&own, Condition::Absent)];
    let committed = bench.commit(Txn { compares, then, otherwise: vec![Op::Get(Span::Key(own))] }).await;
    let [_, OpResult::Get(newest), OpResult::Get(all)] = committed.results.as_slice() else { panic!("{committed:?}") };
    let in_order = [Some(second), None, Some(first)];
    assert_eq!(told(&newest.kvs), in_order);
    assert_eq!(told(&all.kvs), [Some(first), None, Some(second)]);
    // Later, a waiter reads the queue like this, without a write in the transaction.
    for limit in 1..=3 {
        assert_eq!(told(&queue.newest(Some(committed.revision.next()), limit).await.kvs), &in_order[..limit]);
    }
}

pub(super) async fn newest_before_revision_excludes_later_keys(bench: &Bench<'_>) {
    let Some(queue) = Queue::of(bench).await else { return };
    let mut created = Vec::new();
    for name in ["q/c", "q/b", "q/a"] {
        created.push(bench.put(&bench.key(name), "1").await);
    }
    let [first, second, third] = created[..] else { panic!("{created:?}") };
    // `q/c` is now the key that was written last, but keys are ordered by creation.
    bench.put(&bench.key("q/c"), "2").await;
    let all = ["q/a", "q/b", "q/c"];
    for (before, expected) in [
        (third.next(), &all[..]),
        (third, &all[1..]),
        (second.next(), &all[1..]),
        (second, &all[2..]),
        (first, &[]),
        // No key was created before the first revision. A store must not send the bound zero to the
        // server, where it may mean no bound.
        (Revision::new(2), &[]),
        (Revision::new(1), &[]),
        (Revision::ZERO, &[]),
        (Revision::new(u64::MAX), &all),
    ] {
        let reply = queue.newest(Some(before), 3).await;
        assert_eq!((keys(&reply), reply.more), (bench.paths(expected), false), "before {before}");
        let one = queue.newest(Some(before), 1).await;
        let more = expected.len() > 1;
        assert_eq!((keys(&one), one.more), (bench.paths(expected.iter().take(1)), more), "before {before}, one");
    }
}

pub(super) async fn newest_keys_include_earlier_operations(bench: &Bench<'_>) {
    let Some(queue) = Queue::of(bench).await else { return };
    let (old, new) = (bench.key("q/old"), bench.key("q/new"));
    let first = bench.put(&old, "1").await;
    // A waiter joins a queue with such a transaction, which puts its key and reads the keys before
    // it.
    let newest = |before| Op::Newest { below: queue.dir.clone(), before, limit: 2 };
    let then = vec![newest(None), Op::put(&new, "2".into()), newest(None), newest(Some(first.next())), Op::delete(&old), newest(None)];
    let txn = Txn { compares: vec![Compare::key(&new, Condition::Absent)], then, otherwise: vec![Op::Get(Span::Key(new.clone()))] };
    let committed = bench.commit(txn).await;
    assert!(committed.succeeded);
    let seen: Vec<_> =
        committed.results.iter().filter_map(|result| if let OpResult::Get(reply) = result { Some(reply) } else { None }).collect();
    let order: Vec<_> = seen.iter().map(|reply| keys(reply)).collect();
    let paths = |names: &[&str]| bench.paths(names);
    assert_eq!(order, [paths(&["q/old"]), paths(&["q/new", "q/old"]), paths(&["q/old"]), paths(&["q/new"])]);
    let created = |reply: &RangeReply| reply.kvs.first().map(|kv| (kv.created, kv.modified, kv.version));
    let new = Some((committed.revision, committed.revision, Some(1)));
    assert_eq!(
        seen.iter().copied().map(created).collect::<Vec<_>>(),
        [Some((first, first, Some(1))), new, Some((first, first, Some(1))), new]
    );
    // `Newest` also works in the list that is performed when a condition fails.
    let compares = vec![Compare::key(&bench.key("q/new"), Condition::Absent)];
    let committed = bench.commit(Txn { compares, then: vec![], otherwise: vec![newest(None)] }).await;
    let [OpResult::Get(reply)] = committed.results.as_slice() else { panic!("{committed:?}") };
    assert_eq!(keys(reply), paths(&["q/new"]));
}

/// The order of keys that the same transaction created is not specified. But no key may be missing,
/// and older keys come after these keys.
pub(super) async fn keys_of_one_transaction_are_equally_new(bench: &Bench<'_>) {
    let Some(queue) = Queue::of(bench).await else { return };
    let older = bench.put(&bench.key("q/older"), "1").await;
    let together: Vec<Key> = (0..40).map(|number| bench.key(&format!("q/{number:02}"))).collect();
    let committed = bench.perform(together.iter().map(|key| Op::put(key, "2".into())).collect()).await;
    let set = |kvs: &[KeyValue]| kvs.iter().map(|kv| kv.key.clone()).collect::<BTreeSet<_>>();
    let all: BTreeSet<_> = together.iter().map(|key| Bytes::copy_from_slice(key.as_str().as_bytes())).collect();
    for limit in [1, 13, 39, 40] {
        let reply = queue.newest(None, limit).await;
        assert!(reply.more && reply.kvs.len() == limit, "{limit}: {reply:?}");
        assert!(reply.kvs.iter().all(|kv| kv.created == committed.revision), "{limit}: {reply:?}");
        let found = set(&reply.kvs);
        assert!(found.len() == limit && found.is_subset(&all), "each key once: {reply:?}");
    }
    let reply = queue.newest(None, 41).await;
    let Some((last, others)) = reply.kvs.split_last() else { panic!("{reply:?}") };
    assert_eq!((last.created, set(others), reply.more), (older, all, false));
    assert_eq!(keys(&queue.newest(Some(committed.revision), 3).await), bench.paths(&["q/older"]));
}

pub(super) async fn newest_of_empty_directory_is_empty(bench: &Bench<'_>) {
    let Some(queue) = Queue::of(bench).await else { return };
    let revision = bench.put(&bench.key("elsewhere"), "1").await;
    for before in [None, Some(revision)] {
        let reply = queue.newest(before, 1).await;
        assert!(reply.kvs.is_empty() && !reply.more && reply.revision >= revision, "{reply:?}");
    }
}

pub(super) async fn newest_with_zero_limit_is_refused(bench: &Bench<'_>) {
    let none = || vec![Op::Newest { below: bench.key("q"), before: None, limit: 0 }];
    let kind = if bench.capabilities().transactions { ErrorKind::Invalid } else { ErrorKind::Unsupported };
    bench.refused(Txn { then: none(), ..Txn::default() }, kind).await;
    // The store also checks the list that is not performed.
    let compares = vec![Compare::key(&bench.key("q"), Condition::Absent)];
    bench.refused(Txn { compares, then: vec![Op::put(&bench.key("q"), "1".into())], otherwise: none() }, kind).await;
    assert!(bench.list().await.kvs.is_empty());
}

/// A directory on a store that supports [`Op::Newest`].
struct Queue<'b> {
    bench: &'b Bench<'b>,
    dir: Key,
}

impl<'b> Queue<'b> {
    /// Returns `None` if the store does not support [`Op::Newest`], after checking that the store
    /// refuses it.
    async fn of(bench: &'b Bench<'b>) -> Option<Self> {
        let queue = Self { bench, dir: bench.key("q") };
        if bench.capabilities().transactions {
            return Some(queue);
        }
        bench.put(&bench.key("q/a"), "1").await;
        let newest = Op::Newest { below: queue.dir, before: None, limit: 1 };
        bench.refused(Txn { then: vec![newest], ..Txn::default() }, ErrorKind::Unsupported).await;
        None
    }

    async fn newest(&self, before: Option<Revision>, limit: usize) -> RangeReply {
        let committed = self.bench.perform(vec![Op::Newest { below: self.dir.clone(), before, limit }]).await;
        match <[OpResult; 1]>::try_from(committed.results) {
            Ok([OpResult::Get(reply)]) => reply,
            other => panic!("{other:?}"),
        }
    }
}
