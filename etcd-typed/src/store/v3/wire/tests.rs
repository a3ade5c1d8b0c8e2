//! Compares each message with its bytes, which were worked out by hand from the field numbers of
//! `rpc.proto`. A field is a byte `number << 3 | type`, then the content. Type 0 is a number, and
//! type 2 is bytes with their length.

use super::*;

fn b(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[track_caller]
fn assert_bytes(message: &impl Message, expected: &[u8]) {
    assert_eq!(message.encode_to_vec(), expected);
}

#[test]
fn range_messages_match_expected_bytes() {
    let request = RangeRequest {
        key: b("a"),
        range_end: b("b"),
        limit: 3,
        revision: 4,
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Create.into(),
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 6,
        max_create_revision: 5,
    };
    let bytes = [0x0a, 1, b'a', 0x12, 1, b'b', 0x18, 3, 0x20, 4, 0x28, 2, 0x30, 2, 0x38, 1, 0x40, 1, 0x48, 1, 0x50, 6, 0x68, 5];
    assert_bytes(&request, &bytes);
    // header {cluster_id 1, member_id 2, revision 3, raft_term 4}, kvs {all fields}, more, count
    let answer = [
        0x0a, 8, 0x08, 1, 0x10, 2, 0x18, 3, 0x20, 4, //
        0x12, 14, 0x0a, 1, b'k', 0x10, 5, 0x18, 6, 0x20, 7, 0x2a, 1, b'v', 0x30, 8, //
        0x18, 1, 0x20, 9,
    ];
    let expected = RangeResponse {
        header: Some(ResponseHeader { cluster_id: 1, member_id: 2, revision: 3 }),
        kvs: vec![KeyValue { key: b("k"), create_revision: 5, mod_revision: 6, version: 7, value: b("v"), lease: 8 }],
        more: true,
        count: 9,
        compact: false,
    };
    assert_eq!(RangeResponse::decode(&answer[..]), Ok(expected));
}

#[test]
fn put_messages_match_expected_bytes() {
    let request = PutRequest { key: b("a"), value: b("b"), lease: 3, prev_kv: true };
    assert_bytes(&request, &[0x0a, 1, b'a', 0x12, 1, b'b', 0x18, 3, 0x20, 1]);
    let answer = PutResponse::decode(&[0x12, 3, 0x0a, 1, b'k'][..]).unwrap();
    assert_eq!(answer.prev_kv.unwrap().key, b("k"));
}

#[test]
fn delete_range_messages_match_expected_bytes() {
    let request = DeleteRangeRequest { key: b("a"), range_end: b("b"), prev_kv: true };
    assert_bytes(&request, &[0x0a, 1, b'a', 0x12, 1, b'b', 0x18, 1]);
    let answer = DeleteRangeResponse::decode(&[0x10, 2, 0x1a, 3, 0x0a, 1, b'k'][..]).unwrap();
    assert_eq!((answer.deleted, answer.prev_kvs.len()), (2, 1));
}

#[test]
fn txn_messages_match_expected_bytes() {
    let compare = |result: CompareResult, target: CompareTarget, union: TargetUnion| Compare {
        result: result.into(),
        target: target.into(),
        key: b("k"),
        target_union: Some(union),
        range_end: b("l"),
    };
    use CompareResult::{Equal, Greater, Less, NotEqual};
    use CompareTarget as T;
    // result, target, key, the union, range_end = 64: the tag 514 as a varint is 0x82 0x04
    let end = [0x82, 0x04, 1, b'l'];
    let cases: [(Compare, Vec<u8>); 5] = [
        (compare(Equal, T::Version, TargetUnion::Version(5)), vec![0x1a, 1, b'k', 0x20, 5]),
        (compare(Greater, T::Create, TargetUnion::CreateRevision(5)), vec![0x08, 1, 0x10, 1, 0x1a, 1, b'k', 0x28, 5]),
        (compare(Less, T::Mod, TargetUnion::ModRevision(5)), vec![0x08, 2, 0x10, 2, 0x1a, 1, b'k', 0x30, 5]),
        (compare(NotEqual, T::Value, TargetUnion::Value(b("v"))), vec![0x08, 3, 0x10, 3, 0x1a, 1, b'k', 0x3a, 1, b'v']),
        (compare(Equal, T::Lease, TargetUnion::Lease(5)), vec![0x10, 4, 0x1a, 1, b'k', 0x40, 5]),
    ];
    for (message, bytes) in cases {
        assert_bytes(&message, &[bytes, end.to_vec()].concat());
    }
    // A union with the value zero must be sent too, because it says which number is compared.
    assert_bytes(
        &Compare { range_end: Bytes::new(), ..compare(Equal, T::Create, TargetUnion::CreateRevision(0)) },
        &[0x10, 1, 0x1a, 1, b'k', 0x28, 0],
    );

    let request = TxnRequest {
        compare: vec![Compare::default()],
        success: vec![
            RequestOp { request: Some(Request::Range(RangeRequest::default())) },
            RequestOp { request: Some(Request::Put(PutRequest::default())) },
        ],
        failure: vec![RequestOp { request: Some(Request::DeleteRange(DeleteRangeRequest::default())) }],
    };
    assert_bytes(&request, &[0x0a, 0, 0x12, 2, 0x0a, 0, 0x12, 2, 0x12, 0, 0x1a, 2, 0x1a, 0]);
    let answer = TxnResponse::decode(&[0x10, 1, 0x1a, 2, 0x0a, 0, 0x1a, 2, 0x12, 0, 0x1a, 2, 0x1a, 0][..]).unwrap();
    let kinds: Vec<_> = answer.responses.into_iter().map(|op| op.response.unwrap()).collect();
    assert!(answer.succeeded);
    assert!(matches!(kinds[..], [Response::Range(_), Response::Put(_), Response::DeleteRange(_)]), "{kinds:?}");
}

#[test]
fn watch_messages_match_expected_bytes() {
    let create =
        WatchCreateRequest { key: b("a"), range_end: b("b"), start_revision: 3, progress_notify: true, watch_id: 7, fragment: true };
    let step = |step| WatchRequest { step: Some(step) };
    assert_bytes(&step(WatchStep::Create(create)), &[0x0a, 14, 0x0a, 1, b'a', 0x12, 1, b'b', 0x18, 3, 0x20, 1, 0x38, 7, 0x40, 1]);
    assert_bytes(&step(WatchStep::Cancel(WatchCancelRequest { watch_id: 7 })), &[0x12, 2, 0x08, 7]);
    assert_bytes(&step(WatchStep::Progress(WatchProgressRequest {})), &[0x1a, 0]);

    let answer = [
        0x10, 7, 0x18, 1, 0x20, 1, 0x28, 9, 0x32, 1, b'r', 0x38, 1, // watch_id, created, canceled, compact_revision, reason, fragment
        0x5a, 7, 0x08, 1, 0x12, 3, 0x0a, 1, b'k', // events = 11: type DELETE, kv
        0x5a, 12, 0x12, 3, 0x0a, 1, b'k', 0x1a, 5, 0x0a, 1, b'k', 0x18, 2, // type PUT is left out, and a prev_kv is skipped
    ];
    let answer = WatchResponse::decode(&answer[..]).unwrap();
    assert_eq!((answer.watch_id, answer.created, answer.canceled, answer.compact_revision), (7, true, true, 9));
    assert_eq!((answer.cancel_reason.as_str(), answer.fragment, answer.events.len()), ("r", true, 2));
    assert_eq!(answer.events[0].r#type, i32::from(EventType::Delete));
    assert_eq!(answer.events[1].r#type, i32::from(EventType::Put));
    // -1 is a varint of ten bytes.
    let refused = WatchResponse::decode(&[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1][..]).unwrap();
    assert_eq!(refused.watch_id, -1);
}

#[test]
fn lease_messages_match_expected_bytes() {
    assert_bytes(&LeaseGrantRequest { ttl: 5, id: 6 }, &[0x08, 5, 0x10, 6]);
    let granted = LeaseGrantResponse::decode(&[0x10, 6, 0x18, 5, 0x22, 1, b'e'][..]).unwrap();
    assert_eq!((granted.ttl, granted.error.as_str()), (5, "e"));
    assert_bytes(&LeaseRevokeRequest { id: 6 }, &[0x08, 6]);
    assert_bytes(&LeaseKeepAliveRequest { id: 6 }, &[0x08, 6]);
    assert_eq!(LeaseKeepAliveResponse::decode(&[0x10, 6, 0x18, 5][..]).unwrap().ttl, 5);
    assert_bytes(&LeaseTimeToLiveRequest { id: 6 }, &[0x08, 6]);
    assert_eq!(LeaseTimeToLiveResponse::decode(&[0x10, 6, 0x18, 5, 0x20, 9][..]).unwrap().ttl, 5);
}

#[test]
fn admin_messages_match_expected_bytes() {
    assert_bytes(&MemberListRequest { linearizable: true }, &[0x08, 1]);
    let member = [0x12, 16, 0x08, 1, 0x12, 1, b'n', 0x1a, 1, b'p', 0x22, 1, b'c', 0x22, 1, b'd', 0x28, 1];
    let member = MemberListResponse::decode(&member[..]).unwrap().members.remove(0);
    assert_eq!((member.id, member.name.as_str(), member.is_learner), (1, "n", true));
    assert_eq!((member.peer_urls, member.client_urls), (vec!["p".to_owned()], vec!["c".to_owned(), "d".to_owned()]));

    let status = StatusResponse::decode(&[0x12, 1, b'v', 0x18, 3, 0x20, 4, 0x28, 5, 0x42, 1, b'e'][..]).unwrap();
    assert_eq!((status.version.as_str(), status.db_size, status.leader, status.errors), ("v", 3, 4, vec!["e".to_owned()]));

    let login = AuthenticateRequest { name: "n".to_owned(), password: "p".to_owned() };
    assert_bytes(&login, &[0x0a, 1, b'n', 0x12, 1, b'p']);
    assert!(!format!("{login:?}").contains("password: \"p\""), "{login:?}");
    let token = AuthenticateResponse::decode(&[0x12, 1, b't'][..]).unwrap();
    assert_eq!(token.token, "t");
    assert!(!format!("{token:?}").contains('"'), "{token:?}");
}
