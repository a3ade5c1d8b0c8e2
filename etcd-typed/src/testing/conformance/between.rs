//! Tests of [`Span::Between`], [`Order`], counts, [`Op::Page`] and [`Condition::Compared`], which
//! need a store with keys of arbitrary bytes. A store whose keys are paths (v2) must refuse all of
//! them.

use bytes::Bytes;

use super::bench::Bench;
use crate::error::ErrorKind;
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::store::{
    Compare, Condition, Expiry, Op, OpResult, Operand, Order, Range, RangeReply, Relation, SortBy, Span, Txn, Watch, WatchFrom,
};

/// Returns the key with these bytes after the case's directory.
fn stored(bench: &Bench<'_>, name: &[u8]) -> Key {
    Key::stored(&[bench.dir().as_bytes(), name].concat())
}

/// Returns a span of keys that begin with the case's directory. With an empty `end`, the span ends
/// after the last of these keys.
fn between(bench: &Bench<'_>, start: &[u8], end: &[u8]) -> Span {
    let at = |name: &[u8]| [bench.dir().as_bytes(), name].concat();
    Span::between(&at(start), Some(&at(if end.is_empty() { b"\xff\xff\xff" } else { end })))
}

/// Returns the keys of an answer, without the case's directory.
fn names(bench: &Bench<'_>, reply: &RangeReply) -> Vec<Bytes> {
    reply.kvs.iter().map(|kv| kv.key.slice(bench.dir().as_bytes().len()..)).collect()
}

/// Returns whether the store supports ranges of keys of arbitrary bytes. If not, checks that the
/// store refuses to read, count, sort, delete and watch ranges, and to compare with `Greater`.
async fn has_ranges(bench: &Bench<'_>) -> bool {
    if !bench.capabilities().directories {
        return true;
    }
    let span = between(bench, b"/a", b"/b");
    bench.range_refused(Range::of(span.clone()), ErrorKind::Unsupported).await;
    bench.range_refused(Range { count_only: true, ..Range::of(Span::Below(bench.dir().clone())) }, ErrorKind::Unsupported).await;
    let order = Order::descending(SortBy::Key);
    bench.range_refused(Range { order, ..Range::of(Span::Below(bench.dir().clone())) }, ErrorKind::Unsupported).await;
    let key = bench.key("a");
    for then in [
        vec![Op::Get(span.clone())],
        vec![Op::Delete { span: span.clone(), previous: false }],
        vec![Op::Page { span: Span::Key(key.clone()), limit: 1, order }],
    ] {
        bench.refused(Txn { then, ..Txn::default() }, ErrorKind::Unsupported).await;
    }
    let compared = Condition::Compared(Relation::Greater, Operand::Version(0));
    let compares = vec![Compare::key(&key, compared)];
    bench.refused(Txn { compares, then: vec![Op::put(&key, "v".into())], ..Txn::default() }, ErrorKind::Unsupported).await;
    match bench.store().watch(Watch { span, from: WatchFrom::Listed(bench.now().await) }).await {
        Ok(_) => panic!("a watch of a range must be refused"),
        Err(error) => bench.check_unsupported(&error),
    }
    false
}

pub(super) async fn range_contains_keys_from_start_to_before_end(bench: &Bench<'_>) {
    if !has_ranges(bench).await {
        return;
    }
    let all: [&[u8]; 9] = [b"\0", b"/", b"/a", b"/a/", b"/a/x", b"/b", b"b", b"\xc3\xbc", b"\xfe\xff"];
    for name in all {
        bench.put(&stored(bench, name), "v").await;
    }
    let read = async |range: Range| names(bench, &bench.range(range).await);
    for (from, start) in all.into_iter().enumerate() {
        for (to, end) in all.into_iter().enumerate().skip(from + 1) {
            assert_eq!(read(Range::of(between(bench, start, end))).await, all[from..to], "{start:?} to {end:?}");
        }
        assert_eq!(read(Range::of(between(bench, start, b""))).await, all[from..], "from {start:?}");
    }
    // A span without an end contains the case's keys from the start on, and all later keys of the
    // store.
    let open = Span::Between { start: stored(bench, b"/b"), end: None };
    let reply = bench.range(Range::of(open.clone())).await;
    let own: Vec<Bytes> =
        reply.kvs.iter().filter_map(|kv| kv.key.strip_prefix(bench.dir().as_bytes())).map(Bytes::copy_from_slice).collect();
    assert!(own.starts_with(&[Bytes::from_static(b"/b"), Bytes::from_static(b"b")]) && reply.kvs.iter().all(|kv| open.contains(&kv.key)));
    let whole = between(bench, b"", b"");
    let page = |after: &[u8], until: &[u8]| Range {
        after: Some(stored(bench, after).as_bytes().to_vec().into()),
        until: Some(stored(bench, until).as_bytes().to_vec().into()),
        ..Range::of(whole.clone())
    };
    assert_eq!(read(page(b"/", b"/b")).await, all[2..6]);
    let until = Range { until: Some(stored(bench, b"/b").as_bytes().to_vec().into()), ..Range::of(open) };
    assert_eq!(read(until).await, all[5..6], "a span without an end may have a last key");
    assert_eq!(read(Range { limit: Some(2), ..Range::of(whole) }).await, all[..2]);
}

pub(super) async fn empty_span_is_refused(bench: &Bench<'_>) {
    if !has_ranges(bench).await {
        return;
    }
    for span in [between(bench, b"/b", b"/a"), between(bench, b"/a", b"/a")] {
        bench.range_refused(Range::of(span.clone()), ErrorKind::Invalid).await;
        bench.refused(Txn { then: vec![Op::Get(span.clone())], ..Txn::default() }, ErrorKind::Invalid).await;
        bench.refused(Txn { then: vec![Op::Delete { span: span.clone(), previous: false }], ..Txn::default() }, ErrorKind::Invalid).await;
        let compares = vec![Compare { span: span.clone(), condition: Condition::Absent }];
        bench.refused(Txn { compares, then: vec![Op::Get(Span::Key(bench.key("a")))], ..Txn::default() }, ErrorKind::Invalid).await;
        let opened = bench.store().watch(Watch { span, from: WatchFrom::Listed(bench.now().await) }).await;
        assert_eq!(opened.err().map(|error| error.kind()), Some(ErrorKind::Invalid));
    }
    let values = Range { keys_only: true, order: Order::ascending(SortBy::Value), ..Range::of(between(bench, b"/a", b"/b")) };
    bench.range_refused(values, ErrorKind::Invalid).await;
    let page = Op::Page { span: between(bench, b"/a", b"/b"), limit: 0, order: Order::default() };
    bench.refused(Txn { then: vec![page], ..Txn::default() }, ErrorKind::Invalid).await;
}

pub(super) async fn order_decides_which_keys_limit_cuts_off(bench: &Bench<'_>) {
    if !has_ranges(bench).await {
        return;
    }
    // The writes give the keys different values, versions and revisions, so that each order is
    // well-defined.
    for (name, value) in [("/c", "3"), ("/a", "4"), ("/d", "1"), ("/b", "2")] {
        bench.put(&stored(bench, name.as_bytes()), value).await;
    }
    for name in ["/b", "/b", "/b", "/c", "/c", "/d"] {
        let key = stored(bench, name.as_bytes());
        let value = bench.value(&key).await;
        bench.put(&key, value).await;
    }
    let span = between(bench, b"/a", b"/e");
    for (by, ascending) in [
        (SortBy::Key, ["/a", "/b", "/c", "/d"]),
        (SortBy::Created, ["/c", "/a", "/d", "/b"]),
        (SortBy::Modified, ["/a", "/b", "/c", "/d"]),
        (SortBy::Version, ["/a", "/d", "/c", "/b"]),
        (SortBy::Value, ["/d", "/b", "/c", "/a"]),
    ] {
        for descending in [false, true] {
            let mut expected = ascending;
            if descending {
                expected.reverse();
            }
            let order = Order { by, descending };
            for limit in [None, Some(1), Some(3), Some(4), Some(9)] {
                let reply = bench.range(Range { order, limit, ..Range::of(span.clone()) }).await;
                let shown = limit.unwrap_or(9).min(4);
                assert_eq!(names(bench, &reply), expected[..shown], "{order:?} {limit:?}");
                assert_eq!(reply.more, shown < 4, "{order:?} {limit:?}");
                if let Some(limit) = limit {
                    let committed = bench.perform(vec![Op::Page { span: span.clone(), limit, order }]).await;
                    assert!(matches!(&committed.results[..], [OpResult::Get(page)] if page.kvs == reply.kvs && page.more == reply.more));
                }
            }
        }
    }
    // The order also applies below a directory and at a past revision.
    let before = bench.now().await;
    bench.put(&stored(bench, b"/z"), "0").await;
    let last = Range {
        order: Order::descending(SortBy::Key),
        limit: Some(1),
        revision: Some(before),
        ..Range::of(Span::Below(bench.dir().clone()))
    };
    assert_eq!(names(bench, &bench.range(last).await), ["/d"]);
}

pub(super) async fn count_ignores_limit(bench: &Bench<'_>) {
    if !has_ranges(bench).await {
        return;
    }
    let count = async |range: Range| {
        let reply = bench.range(Range { count_only: true, ..range }).await;
        assert!(reply.kvs.is_empty() && !reply.revision.eq(&Revision::ZERO), "{reply:?}");
        reply.count
    };
    let all = || Range::of(between(bench, b"/", b""));
    assert_eq!(count(all()).await, Some(0));
    for number in 0..5 {
        bench.put(&bench.key(&format!("k{number}")), "v").await;
    }
    let before = bench.now().await;
    bench.delete(&bench.key("k3")).await;
    assert_eq!(count(all()).await, Some(4));
    assert_eq!(count(Range { limit: Some(1), ..all() }).await, Some(4));
    assert_eq!(count(Range { revision: Some(before), ..all() }).await, Some(5));
    assert_eq!(count(Range::of(Span::Below(bench.dir().clone()))).await, Some(4));
    assert_eq!(count(Range::of(Span::Key(bench.key("k0")))).await, Some(1));
    assert_eq!(count(Range::of(between(bench, b"/k1", b"/k4"))).await, Some(2));
}

pub(super) async fn page_sees_earlier_operations(bench: &Bench<'_>) {
    if !has_ranges(bench).await {
        return;
    }
    for path in ["a", "b", "c"] {
        bench.put(&bench.key(path), path).await;
    }
    let span = between(bench, b"/", b"");
    let page = |limit| Op::Page { span: span.clone(), limit, order: Order::descending(SortBy::Key) };
    let then = vec![page(2), Op::put(&bench.key("d"), "d".into()), page(2), Op::delete(&bench.key("c")), page(9)];
    let committed = bench.perform(then).await;
    let read = |at: usize| match &committed.results[at] {
        OpResult::Get(reply) => (names(bench, reply), reply.more),
        other => panic!("{other:?}"),
    };
    let paths = |paths: &[&'static str]| paths.iter().map(|path| Bytes::from_static(path.as_bytes())).collect::<Vec<_>>();
    assert_eq!(read(0), (paths(&["/c", "/b"]), true));
    assert_eq!(read(2), (paths(&["/d", "/c"]), true));
    assert_eq!(read(4), (paths(&["/d", "/b", "/a"]), false));
}

pub(super) async fn comparisons_follow_order_of_operands(bench: &Bench<'_>) {
    if !has_ranges(bench).await {
        return;
    }
    let lease = bench.grant(std::time::Duration::from_secs(600)).await;
    let key = bench.key("k");
    let created = bench.put(&key, "0").await;
    let modified = bench.put_with(&key, "m", Expiry::With(lease)).await;
    let absent = bench.key("absent");
    let revisions = |at: Revision| [at.previous(), at, at.next()];
    let number = lease.get().cast_signed();
    let beside = |number: i64| LeaseId::new(number.cast_unsigned());
    let values = ["a", "m", "z"].map(|value| Operand::Value(value.into()));
    for (less, equal, greater) in [
        values.into(),
        [1, 2, 3].map(Operand::Version).into(),
        revisions(created).map(Operand::Created).into(),
        revisions(modified).map(Operand::Modified).into(),
        [number - 1, number, number + 1].map(|number| Operand::Lease(beside(number))).into(),
    ] {
        // For each operand, `order` says whether the stored property is less than, equal to or
        // greater than the operand.
        for (operand, order) in [(less, [false, false, true]), (equal, [false, true, false]), (greater, [true, false, false])] {
            let [is_less, is_equal, is_greater] = order;
            for (relation, holds) in
                [(Relation::Less, is_less), (Relation::Equal, is_equal), (Relation::Greater, is_greater), (Relation::NotEqual, !is_equal)]
            {
                let condition = Condition::Compared(relation, operand.clone());
                let asked = async |span: Span| {
                    let compares = vec![Compare { span, condition: condition.clone() }];
                    bench.commit(Txn { compares, then: vec![Op::Get(Span::Key(key.clone()))], ..Txn::default() }).await.succeeded
                };
                assert_eq!(asked(Span::Key(key.clone())).await, holds, "{condition:?}");
                assert_eq!(asked(between(bench, b"/k", b"/l")).await, holds, "{condition:?} of a range");
                assert_eq!(asked(Span::Below(bench.dir().clone())).await, holds, "{condition:?} of a directory");
                // The numbers of a missing key count as zero. A missing key has no value, so a
                // comparison with a value fails.
                let of_zero = match relation {
                    _ if matches!(operand, Operand::Value(_)) => false,
                    Relation::Less => !matches!(operand, Operand::Lease(id) if id.is_none_or(|id| id.get().cast_signed() < 0)),
                    Relation::Equal => false,
                    Relation::Greater => matches!(operand, Operand::Lease(Some(id)) if id.get().cast_signed() < 0),
                    Relation::NotEqual => true,
                };
                assert_eq!(asked(Span::Key(absent.clone())).await, of_zero, "{condition:?} of a missing key");
                assert_eq!(asked(between(bench, b"/x", b"/y")).await, of_zero, "{condition:?} of an empty range");
            }
        }
    }
    // A comparison of a range holds only if it holds for every key.
    bench.put(&bench.key("l"), "0").await;
    let compares =
        |operand| vec![Compare { span: between(bench, b"/k", b"/m"), condition: Condition::Compared(Relation::Greater, operand) }];
    let first = Txn { compares: compares(Operand::Version(0)), then: vec![Op::delete(&bench.key("none"))], ..Txn::default() };
    assert!(bench.commit(first.clone()).await.succeeded);
    assert!(!bench.commit(Txn { compares: compares(Operand::Version(1)), ..first }).await.succeeded);
    let present = vec![Compare { span: between(bench, b"/k", b"/m"), condition: Condition::Present }];
    bench.refused(Txn { compares: present, then: vec![Op::Get(Span::Key(key))], ..Txn::default() }, ErrorKind::Invalid).await;
}

pub(super) async fn range_is_guarded_deleted_and_watched_as_a_whole(bench: &Bench<'_>) {
    if !has_ranges(bench).await {
        return;
    }
    let span = between(bench, b"/b", b"/d");
    let start = bench.now().await;
    let mut reader = bench.watch(span.clone(), WatchFrom::Listed(start)).await;
    let (a, b, c, d) = (bench.key("a"), bench.key("b"), stored(bench, b"/c/\xff"), bench.key("d"));
    for key in [&a, &b, &d, &c] {
        bench.put(key, "v").await;
    }
    let (at_b, event) = reader.event().await;
    assert_eq!(event.key(), b.as_bytes());
    let (at_c, event) = reader.event().await;
    assert!(event.key() == c.as_bytes() && at_c > at_b);
    let on = |condition| vec![Compare { span: span.clone(), condition }];
    let delete = || vec![Op::Delete { span: span.clone(), previous: true }];
    for condition in [Condition::Absent, Condition::UnchangedSince(at_b)] {
        assert!(!bench.commit(Txn { compares: on(condition), then: delete(), ..Txn::default() }).await.succeeded);
    }
    let committed = bench.commit(Txn { compares: on(Condition::UnchangedSince(at_c)), then: delete(), ..Txn::default() }).await;
    let [OpResult::Delete { deleted: 2, previous }] = &committed.results[..] else { panic!("{committed:?}") };
    assert_eq!(previous.iter().map(|kv| &kv.key[..]).collect::<Vec<_>>(), [b.as_bytes(), c.as_bytes()]);
    let batch = reader.batch().await;
    assert_eq!((batch.revision, batch.events.len()), (committed.revision, 2), "the deletion is one batch: {batch:?}");
    assert!(bench.get(&a).await.is_some() && bench.get(&d).await.is_some());
    // A transaction that deletes the range and puts a key in it is refused, like two writes of a
    // single key.
    bench.refused(Txn { then: [delete(), vec![Op::put(&b, "v".into())]].concat(), ..Txn::default() }, ErrorKind::Invalid).await;
}
