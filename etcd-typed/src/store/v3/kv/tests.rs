//! What a transaction translates to, and what its answer means.

use super::*;
use crate::store::{Compare, Condition};

fn key(path: &str) -> Key {
    Key::parse(path).unwrap()
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn planned(txn: &Txn) -> RequestPlan {
    plan(txn, 128, 1000).unwrap()
}

#[test]
fn span_bounds_cover_whole_segments() {
    let pair = |span: &Span| {
        let (start, end) = bounds(span);
        (text(&start), text(&end))
    };
    assert_eq!(pair(&Span::Key(key("/app/a"))), ("/app/a".to_owned(), String::new()));
    assert_eq!(pair(&Span::Below(key("/app"))), ("/app/\0".to_owned(), "/app0".to_owned()));
    assert_eq!(pair(&Span::Below(Key::root())), ("/\0".to_owned(), "0".to_owned()));
}

#[test]
fn range_bounds_match_span_contains() {
    let stored = ["/", "/app", "/app/", "/app/\0", "/app//", "/app/a", "/app/a/b", "/app/\u{ff}", "/app0", "/apple", "/b", "app", ""];
    for span in
        [Span::Key(key("/app")), Span::Key(key("/app/a")), Span::Below(key("/app")), Span::Below(key("/app/a")), Span::Below(Key::root())]
    {
        let (start, end) = bounds(&span);
        for stored in stored {
            let within =
                if end.is_empty() { stored.as_bytes() == start } else { stored.as_bytes() >= &start[..] && stored.as_bytes() < &end[..] };
            assert_eq!(within, span.contains(stored.as_bytes()), "{stored:?} in {span:?}");
        }
    }
}

#[test]
fn page_begins_after_last_key() {
    let (start, end) = bounds_within(&Span::Below(key("/app")), Some(&Bytes::from("/app/k")), None);
    assert_eq!((text(&start), text(&end)), ("/app/k\0".to_owned(), "/app0".to_owned()));
    // A key before the span does not widen it.
    let (start, _) = bounds_within(&Span::Below(key("/app")), Some(&Bytes::from("/a")), None);
    assert_eq!(text(&start), "/app/\0");
    // No key follows the single key, so the range is empty.
    let (start, end) = bounds_within(&Span::Key(key("/app")), Some(&Bytes::from("/app")), None);
    assert_eq!((text(&start), text(&end)), ("/app\0".to_owned(), "/app\0".to_owned()));
}

#[test]
fn until_sets_end_of_range() {
    let bounds = |after: Option<&str>, until: &str| {
        let (after, until) = (after.map(|after| Bytes::copy_from_slice(after.as_bytes())), Bytes::copy_from_slice(until.as_bytes()));
        let (start, end) = bounds_within(&Span::Below(key("/app")), after.as_ref(), Some(&until));
        (text(&start), text(&end))
    };
    assert_eq!(bounds(Some("/app/b"), "/app/k"), ("/app/b\0".to_owned(), "/app/k\0".to_owned()));
    assert_eq!(bounds(None, "/zoo"), ("/app/\0".to_owned(), "/app0".to_owned()));
    for (after, until) in [(None, ""), (None, "/app"), (Some("/app/k"), "/app/b")] {
        let (start, end) = bounds(after, until);
        assert_eq!(start, end, "{after:?} {until:?}");
    }
}

#[test]
fn unconditional_operation_uses_cheapest_request() {
    let a = key("/a");
    let only = |op: Op| planned(&Txn { then: vec![op], ..Txn::default() }).request;
    assert!(matches!(only(Op::Get(Span::Key(a.clone()))), Request::Range(_)));
    assert!(matches!(only(Op::put(&a, Bytes::new())), Request::Put(_)));
    assert!(matches!(only(Op::delete(&a)), Request::Delete(_)));
    // The second list is never performed, but the server must see it, because it may be invalid.
    let txn = Txn { then: vec![Op::delete(&a)], otherwise: vec![Op::put(&a, Bytes::new())], ..Txn::default() };
    assert!(matches!(planned(&txn).request, Request::Txn { .. }));
    let conditional = Txn { compares: vec![Compare::key(&a, Condition::Present)], then: vec![Op::delete(&a)], ..Txn::default() };
    assert!(matches!(planned(&conditional).request, Request::Txn { reads_only: false, .. }));
}

#[test]
fn newest_becomes_sorted_range() {
    let range = |before: Option<u64>, limit| {
        let newest = Op::Newest { below: key("/q"), before: before.map(Revision::new), limit };
        match planned(&Txn { then: vec![newest], ..Txn::default() }).request {
            Request::Range(range) => range,
            other => panic!("{other:?}"),
        }
    };
    let expected = wire::RangeRequest {
        key: Bytes::from_static(b"/q/\0"),
        range_end: Bytes::from_static(b"/q0"),
        limit: 2,
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Create.into(),
        ..wire::RangeRequest::default()
    };
    assert_eq!(range(None, 2), expected);
    assert_eq!(range(Some(9), 2), wire::RangeRequest { max_create_revision: 8, ..expected });
    // Zero would mean no bound at all, so every key would count as older than the first revision.
    for (before, bound) in [(0, 1), (1, 1), (2, 1), (3, 2), (u64::MAX, i64::MAX)] {
        assert_eq!(range(Some(before), 1).max_create_revision, bound, "before {before}");
    }
    assert_eq!(range(None, usize::MAX).limit, i64::MAX);
}

#[test]
fn newest_with_limit_zero_is_refused() {
    let newest = || vec![Op::Newest { below: key("/q"), before: None, limit: 0 }];
    for txn in [Txn { then: newest(), ..Txn::default() }, Txn { otherwise: newest(), ..Txn::default() }] {
        let error = plan(&txn, 128, 1000).unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::Invalid, Some(&key("/q"))));
    }
}

#[test]
fn read_only_transaction_is_recognised() {
    let get = Op::Get(Span::Key(key("/a")));
    let compares = vec![Compare::key(&key("/a"), Condition::Present)];
    let newest = Op::Newest { below: key("/a"), before: None, limit: 1 };
    let reads = Txn { compares: compares.clone(), then: vec![get.clone()], otherwise: vec![get.clone(), newest] };
    assert!(matches!(planned(&reads).request, Request::Txn { reads_only: true, .. }));
    let writes = Txn { compares, then: vec![get], otherwise: vec![Op::delete(&key("/a"))] };
    assert!(matches!(planned(&writes).request, Request::Txn { reads_only: false, .. }));
}

#[test]
fn revision_zero_conditions_never_hold() {
    for condition in [Condition::Created(Revision::ZERO), Condition::Modified(Revision::ZERO)] {
        let translated = translate_compare(&Compare::key(&key("/a"), condition)).unwrap();
        // The version is never below zero.
        assert_eq!(
            (translated.result, translated.target, translated.target_union),
            (i32::from(CompareResult::Less), i32::from(CompareTarget::Version), Some(TargetUnion::Version(0)))
        );
    }
}

#[test]
fn single_key_conditions_refuse_directories() {
    for condition in [Condition::Present, Condition::Value(Bytes::new()), Condition::Modified(Revision::new(1))] {
        let txn = Txn { compares: vec![Compare::below(&key("/a"), condition)], ..Txn::default() };
        assert_eq!(plan(&txn, 128, 1000).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn limits_are_checked_before_sending() {
    let ops = |count| vec![Op::Get(Span::Key(key("/a"))); count];
    let compares = |count| vec![Compare::key(&key("/a"), Condition::Present); count];
    assert!(plan(&Txn { compares: compares(128), then: ops(128), otherwise: ops(128) }, 128, 1000).is_ok());
    for txn in [
        Txn { compares: compares(129), ..Txn::default() },
        Txn { then: ops(129), ..Txn::default() },
        Txn { otherwise: ops(129), ..Txn::default() },
    ] {
        assert_eq!(plan(&txn, 128, 1000).unwrap_err().kind(), ErrorKind::TooManyOperations);
    }
    let value = |length| Txn { then: vec![Op::put(&key("/a"), Bytes::from(vec![0; length]))], ..Txn::default() };
    assert!(plan(&value(1000), 128, 1000).is_ok());
    let error = plan(&value(1001), 128, 1000).unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::TooLarge, Some(&key("/a"))));
}

#[test]
fn directory_operations_are_refused() {
    for op in [Op::MakeDir { key: key("/a"), ttl: None }, Op::UpdateDir { key: key("/a"), ttl: None }, Op::RemoveDir { key: key("/a") }] {
        let error = plan(&Txn { then: vec![op], ..Txn::default() }, 128, 1000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("etcd v3"), "{error}");
    }
}

#[test]
fn equal_ttls_in_operation_list_share_lease() {
    assert_eq!(seconds(Duration::ZERO), 1);
    assert_eq!(seconds(Duration::from_millis(1001)), 2);
    assert_eq!(seconds(Duration::from_secs(7)), 7);
    assert_eq!(seconds(Duration::MAX), i64::MAX);
    let put = |path: &str, millis| Op::Put {
        key: key(path),
        value: Bytes::new(),
        expiry: Expiry::After(Duration::from_millis(millis)),
        previous: false,
    };
    let compares = vec![Compare::key(&key("/a"), Condition::Absent)];
    let plan = planned(&Txn { compares, then: vec![put("/a", 2500), put("/b", 3000), put("/c", 9000)], otherwise: vec![put("/a", 3000)] });
    let made: Vec<(i64, bool)> = plan.leases.iter().map(|lease| (lease.seconds, lease.then)).collect();
    assert_eq!(made, [(3, true), (9, true), (3, false)]);
    let Request::Txn { request, .. } = plan.request else { panic!("{plan:?}") };
    let lease = |op: &RequestOp| match &op.request {
        Some(wire::Request::Put(put)) => put.lease,
        other => panic!("{other:?}"),
    };
    let numbers: Vec<i64> = plan.leases.iter().map(|made| lease_number(made.id)).collect();
    assert_eq!(request.success.iter().map(lease).collect::<Vec<_>>(), [numbers[0], numbers[0], numbers[1]]);
    assert_eq!(lease(&request.failure[0]), numbers[2]);
}

#[test]
fn answer_of_wrong_type_leaves_write_in_doubt() {
    let request = wire::TxnRequest {
        success: vec![RequestOp { request: Some(wire::Request::Put(wire::PutRequest::default())) }],
        ..Default::default()
    };
    let range = ResponseOp { response: Some(wire::Response::Range(wire::RangeResponse::default())) };
    for responses in [vec![], vec![range.clone()], vec![ResponseOp { response: None }], vec![range.clone(), range]] {
        let error = txn_committed(wire::TxnResponse { header: None, succeeded: true, responses }, &request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Server);
        assert!(error.may_have_applied());
    }
}

#[test]
fn negative_numbers_of_server_are_converted() {
    let kv = wire::KeyValue { create_revision: -1, mod_revision: i64::MIN, version: -3, lease: -4, ..wire::KeyValue::default() };
    let kv = key_value(kv);
    assert_eq!((kv.created, kv.modified, kv.version, kv.lease), (Revision::ZERO, Revision::ZERO, None, LeaseId::from_signed(-4)));
    assert_eq!(kv.lease.map(lease_number), Some(-4), "a client may choose a negative number for its lease");
    assert_eq!(number(Revision::new(u64::MAX)), i64::MAX);
}

#[test]
fn only_key_is_none_for_several_keys() {
    let (a, b) = (key("/a"), key("/b"));
    let txn = Txn { compares: vec![Compare::key(&a, Condition::Present)], then: vec![Op::delete(&a)], ..Txn::default() };
    assert_eq!(only_key(&txn), Some(&a));
    assert_eq!(only_key(&Txn { then: vec![Op::delete(&a), Op::delete(&b)], ..Txn::default() }), None);
    assert_eq!(only_key(&Txn::default()), None);
}

mod fuzz {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![2 => -1_i64..12, 1 => any::<i64>()]
    }

    fn kv() -> impl Strategy<Value = wire::KeyValue> {
        (any::<Vec<u8>>(), any::<Vec<u8>>(), (number(), number(), number(), number())).prop_map(
            |(key, value, (create_revision, mod_revision, version, lease))| wire::KeyValue {
                key: key.into(),
                value: value.into(),
                create_revision,
                mod_revision,
                version,
                lease,
            },
        )
    }

    fn header() -> impl Strategy<Value = Option<wire::ResponseHeader>> {
        proptest::option::of(number().prop_map(|revision| wire::ResponseHeader { revision, ..wire::ResponseHeader::default() }))
    }

    fn response() -> impl Strategy<Value = ResponseOp> {
        let kvs = || proptest::collection::vec(kv(), 0..3);
        let response = prop_oneof![
            (header(), kvs(), any::<bool>()).prop_map(|(header, kvs, more)| wire::Response::Range(wire::RangeResponse {
                header,
                kvs,
                more,
                ..Default::default()
            })),
            (header(), proptest::option::of(kv())).prop_map(|(header, prev_kv)| wire::Response::Put(wire::PutResponse { header, prev_kv })),
            (header(), number(), kvs()).prop_map(|(header, deleted, prev_kvs)| wire::Response::DeleteRange(wire::DeleteRangeResponse {
                header,
                deleted,
                prev_kvs
            })),
        ];
        proptest::option::weighted(0.9, response).prop_map(|response| ResponseOp { response })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// An answer that does not fit returns an error with an unknown outcome. Nothing panics.
        #[test]
        fn any_transaction_answer_never_panics(
            answer in (header(), any::<bool>(), proptest::collection::vec(response(), 0..4))
                .prop_map(|(header, succeeded, responses)| wire::TxnResponse { header, succeeded, responses }),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let a = key("/a");
            let ops = || vec![Op::Get(Span::Key(a.clone())), Op::put(&key("/b"), Bytes::new()), Op::delete(&a)];
            let txn = Txn { compares: vec![Compare::key(&a, Condition::Present)], then: ops(), otherwise: ops() };
            let Request::Txn { request, .. } = planned(&txn).request else { panic!("a transaction") };
            let mut bytes = answer.encode_to_vec();
            for (at, byte) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            if let Ok(answer) = wire::TxnResponse::decode(&bytes[..]) {
                match txn_committed(answer, &request) {
                    Ok(committed) => prop_assert_eq!(committed.results.len(), 3),
                    Err(error) => prop_assert!(error.may_have_applied()),
                }
            }
            if let Ok(answer) = wire::RangeResponse::decode(&bytes[..]) {
                prop_assert!(range_committed(answer).succeeded);
            }
        }
    }
}
