use bytes::Bytes;

use super::*;
use crate::store::v3::wire::{KeyValue, ResponseHeader, ResponseOp};

#[test]
fn servers_with_cancel_crash_get_no_shared_requests() {
    for version in ["3.4.0", "3.4.23", "3.4.45", "3.5.7", "3.5.30", "3.5.31+git", "3.6.0", "3.6.0-rc.1", "3.7.1", "4.0.0"] {
        assert!(survives_cancelled_reads(version), "{version}");
    }
    for version in ["3.5.0", "3.5.0-rc.0", "3.5.1", "3.5.4", "3.5.5", "3.5.6", "3.3.27", "3.5", "3.5.x", "3.6", "3", "2.3.8", "", "latest"]
    {
        assert!(!survives_cancelled_reads(version), "{version}");
    }
}

#[test]
fn only_current_single_key_reads_share_requests() {
    let plain = RangeRequest { key: Bytes::from("/a"), ..RangeRequest::default() };
    assert!(is_coalescible(&plain));
    assert!(is_coalescible(&RangeRequest { keys_only: true, ..plain.clone() }));
    let others = [
        RangeRequest { range_end: Bytes::from("/b"), ..plain.clone() },
        RangeRequest { limit: 1, ..plain.clone() },
        RangeRequest { revision: 7, ..plain.clone() },
        RangeRequest { sort_order: 1, ..plain.clone() },
        RangeRequest { sort_target: 1, ..plain.clone() },
        RangeRequest { serializable: true, ..plain.clone() },
        RangeRequest { count_only: true, ..plain.clone() },
        RangeRequest { min_mod_revision: 7, ..plain.clone() },
        RangeRequest { max_create_revision: 7, ..plain },
    ];
    for other in others {
        assert!(!is_coalescible(&other), "{other:?}");
    }
}

#[test]
fn only_change_checks_of_directories_share_requests() {
    let keys = RangeRequest { key: Bytes::from("/a/\0"), range_end: Bytes::from("/a0"), keys_only: true, ..RangeRequest::default() };
    let question = RangeRequest { limit: 1, min_mod_revision: 7, ..keys.clone() };
    assert!(is_coalescible(&question) && is_question(&question));
    let of_one = RangeRequest { range_end: Bytes::new(), limit: 0, ..question.clone() };
    assert!(is_coalescible(&of_one) && !is_question(&of_one));
    for other in [
        keys,
        RangeRequest { limit: 2, ..question.clone() },
        RangeRequest { keys_only: false, ..question.clone() },
        RangeRequest { revision: 7, ..question.clone() },
        RangeRequest { serializable: true, ..question.clone() },
    ] {
        assert!(!is_coalescible(&other), "{other:?}");
    }
    // Different requests form different groups.
    let mut waiting = Waiting::default();
    let later = RangeRequest { min_mod_revision: 8, ..question.clone() };
    for request in [&question, &later, &question] {
        waiting.add(request, oneshot::channel().0);
    }
    assert_eq!(waiting.groups.iter().map(|group| group.outcomes.len()).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn shared_answer_is_split_into_answer_per_read() {
    let kv = |key: &'static str| KeyValue { key: Bytes::from(key), ..KeyValue::default() };
    let range =
        |kvs: Vec<KeyValue>| ResponseOp { response: Some(wire::Response::Range(RangeResponse { kvs, ..RangeResponse::default() })) };
    let header = Some(ResponseHeader { revision: 7, cluster_id: 1, member_id: 2 });
    let answer = |responses: &[ResponseOp]| TxnResponse { header: header.clone(), succeeded: true, responses: responses.to_vec() };
    let (a, none) = (range(vec![kv("/a")]), range(Vec::new()));
    let each = ranges(answer(&[a.clone(), none.clone()]), 2).expect("it fits");
    let expected = |kvs| RangeResponse { header: header.clone(), kvs, ..RangeResponse::default() };
    assert_eq!(each, [expected(vec![kv("/a")]), expected(Vec::new())]);
    let put = ResponseOp { response: Some(wire::Response::Put(wire::PutResponse::default())) };
    for wrong in
        [vec![], vec![a.clone()], vec![a.clone(), none.clone(), none], vec![a.clone(), put], vec![a, ResponseOp { response: None }]]
    {
        assert_eq!(ranges(answer(&wrong), 2), None);
    }
}

#[test]
fn equal_reads_are_grouped_in_arrival_order() {
    let request = |key: &'static str, keys_only| RangeRequest { key: Bytes::from(key), keys_only, ..RangeRequest::default() };
    let mut waiting = Waiting::default();
    let mut told = Vec::new();
    for (place, (key, keys_only)) in
        [("/a", false), ("/b", false), ("/a", false), ("/a", true), ("/c", false), ("/b", false)].into_iter().enumerate()
    {
        let (outcome, receiver) = oneshot::channel();
        assert_eq!(waiting.add(&request(key, keys_only), outcome), place == 0);
        told.push(receiver);
    }
    let words = |groups: &[Group]| -> Vec<_> {
        groups.iter().map(|group| (group.request.key.clone(), group.request.keys_only, group.outcomes.len())).collect()
    };
    let first = waiting.take(2);
    assert_eq!(words(&first), [(Bytes::from("/a"), false, 2), (Bytes::from("/b"), false, 2)]);
    // A new read cannot join a group that was taken. It joins a remaining group or forms a new one.
    for key in ["/c", "/a"] {
        assert!(!waiting.add(&request(key, false), oneshot::channel().0));
    }
    assert_eq!(words(&waiting.take(9)), [(Bytes::from("/a"), true, 1), (Bytes::from("/c"), false, 2), (Bytes::from("/a"), false, 1)]);
    assert!(waiting.take(9).is_empty());
    assert!(waiting.add(&request("/a", false), oneshot::channel().0));
}

#[test]
fn shared_answer_does_not_keep_message_in_memory() {
    let message = Bytes::from(vec![b'm'; 100_000]);
    let kv = KeyValue { value: message.slice(10..20), ..KeyValue::default() };
    let mut answer = RangeResponse { kvs: vec![kv], ..RangeResponse::default() };
    compact(&mut answer);
    assert!(message.is_unique() && answer.compact);
    assert_eq!(answer.kvs[0].value, message.slice(10..20));
}
