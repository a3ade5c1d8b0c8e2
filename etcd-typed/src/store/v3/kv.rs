//! Translates requests of the store to etcd messages, and the answers back. The code here uses no
//! connection.

use std::time::Duration;

use bytes::Bytes;

use super::wire::{self, CompareResult, CompareTarget, RequestOp, ResponseOp, SortOrder, SortTarget, TargetUnion};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::store::{
    Committed, Compare, Condition, Expiry, KeyValue, Op, OpResult, Operand, Order, RangeReply, Relation, SortBy, Span, Txn,
};

/// Returns the bounds of a span as `key` and `range_end`: its first key, and the first key after
/// it. `range_end` is empty for a single key, and a zero byte for a span without an end.
///
/// The key `/app/` is not below `/app`, so the span begins right after `/app/`.
pub(super) fn bounds(span: &Span) -> (Bytes, Bytes) {
    match span {
        Span::Key(key) => (Bytes::copy_from_slice(key.as_bytes()), Bytes::new()),
        Span::Below(directory) => {
            let prefix = directory.prefix().into_bytes();
            // A prefix ends with `/`, so its last byte can be incremented without a carry.
            let mut end = prefix.clone();
            end.pop();
            end.push(b'/' + 1);
            (successor(&prefix), end.into())
        }
        Span::Between { start, end } => {
            let bytes = |key: &Key| Bytes::copy_from_slice(key.as_bytes());
            (bytes(start), end.as_ref().map_or(Bytes::from_static(ALL), bytes))
        }
    }
}

/// The `range_end` of a range without an end.
const ALL: &[u8] = &[0];

/// Returns the bounds of the part of a span that is after one key and up to another.
pub(super) fn bounds_within(span: &Span, after: Option<&Bytes>, until: Option<&Bytes>) -> (Bytes, Bytes) {
    let (start, end) = bounds(span);
    if after.is_none() && until.is_none() {
        return (start, end);
    }
    let end = if end.is_empty() { successor(&start) } else { end };
    let start = after.map_or(start.clone(), |after| start.max(successor(after)));
    let end = match until {
        Some(until) if end == ALL => successor(until),
        Some(until) => end.min(successor(until)),
        None if end == ALL => return (start, end),
        None => end,
    };
    // etcd could give an end before the start a special meaning, so the end is never before the
    // start.
    let end = end.max(start.clone());
    (start, end)
}

/// Returns the smallest key greater than this one.
pub(super) fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// Converts an order to etcd's numbers.
pub(super) fn sorted(order: Order) -> (i32, i32) {
    if order.is_natural() {
        return (0, 0);
    }
    let target = match order.by {
        SortBy::Key => SortTarget::Key,
        SortBy::Created => SortTarget::Create,
        SortBy::Modified => SortTarget::Mod,
        SortBy::Version => SortTarget::Version,
        SortBy::Value => SortTarget::Value,
    };
    (if order.descending { SortOrder::Descend } else { SortOrder::Ascend }.into(), target.into())
}

/// Converts a revision to etcd's number.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.get()).unwrap_or(i64::MAX)
}

/// Converts etcd's number to a revision. Negative numbers become zero.
pub(super) fn revision(number: i64) -> Revision {
    Revision::new(u64::try_from(number).unwrap_or(0))
}

/// Converts a lease id to etcd's number.
pub(super) fn lease_number(id: LeaseId) -> i64 {
    id.get().cast_signed()
}

pub(super) fn key_value(kv: wire::KeyValue) -> KeyValue {
    KeyValue {
        created: revision(kv.create_revision),
        modified: revision(kv.mod_revision),
        version: u64::try_from(kv.version).ok(),
        lease: LeaseId::from_signed(kv.lease),
        ttl: None,
        key: kv.key,
        value: kv.value,
    }
}

pub(super) fn header_revision(header: Option<&wire::ResponseHeader>) -> Revision {
    revision(header.map_or(0, |header| header.revision))
}

/// Converts a time to whole seconds, rounded up, at least one.
pub(super) fn seconds(ttl: Duration) -> i64 {
    let whole = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    i64::try_from(whole).unwrap_or(i64::MAX).max(1)
}

/// The cheapest request that performs a transaction.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    Range(wire::RangeRequest),
    Put(wire::PutRequest),
    Delete(wire::DeleteRangeRequest),
    Txn {
        request: wire::TxnRequest,
        /// True if neither list of the transaction changes anything.
        reads_only: bool,
    },
}

impl Request {
    /// Replaces the id of a planned lease by the id of a granted lease.
    pub(super) fn put_in_place(&mut self, planned: LeaseId, given: LeaseId) {
        let (planned, given) = (lease_number(planned), lease_number(given));
        let attach = |put: &mut wire::PutRequest| {
            if put.lease == planned {
                put.lease = given;
            }
        };
        match self {
            Self::Put(put) => attach(put),
            Self::Txn { request, .. } => {
                for op in request.success.iter_mut().chain(&mut request.failure) {
                    if let Some(wire::Request::Put(put)) = &mut op.request {
                        attach(put);
                    }
                }
            }
            Self::Range(_) | Self::Delete(_) => {}
        }
    }
}

/// A translated [`Txn`], and the leases to grant before it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RequestPlan {
    pub(super) request: Request,
    pub(super) leases: Vec<NewLease>,
}

/// A lease to grant for the puts with a time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewLease {
    pub(super) id: LeaseId,
    pub(super) seconds: i64,
    /// Whether the lease belongs to the operations that run if the compares hold.
    pub(super) then: bool,
}

/// Checks a transaction as far as this is possible without a server, and translates it.
pub(super) fn plan(txn: &Txn, max_operations: usize, max_value: usize) -> Result<RequestPlan> {
    for (what, count) in [("compares", txn.compares.len()), ("operations", txn.then.len().max(txn.otherwise.len()))] {
        if count > max_operations {
            return Err(Error::new(
                ErrorKind::TooManyOperations,
                format!(
                    "{count} {what}, and a transaction may have {max_operations}: divide it, or set `max_operations` on the client where the server's flag \
                 `--max-txn-ops` is higher"
                ),
            ));
        }
    }
    let mut leases = Vec::new();
    let compare = txn.compares.iter().map(translate_compare).collect::<Result<Vec<_>>>()?;
    let mut success = translate_ops(&txn.then, true, max_value, &mut leases)?;
    let failure = translate_ops(&txn.otherwise, false, max_value, &mut leases)?;
    // Without compares the second list is never performed. It is still sent, because the server
    // validates it.
    if compare.is_empty() && failure.is_empty() && success.len() == 1 {
        let request = match success.pop().and_then(|op| op.request) {
            Some(wire::Request::Range(range)) => Request::Range(range),
            Some(wire::Request::Put(put)) => Request::Put(put),
            Some(wire::Request::DeleteRange(delete)) => Request::Delete(delete),
            Some(wire::Request::Txn(_)) | None => return Err(Error::new(ErrorKind::Invalid, "an operation without content")),
        };
        return Ok(RequestPlan { request, leases });
    }
    let reads_only = success.iter().chain(&failure).all(|op| matches!(op.request, Some(wire::Request::Range(_))));
    Ok(RequestPlan { request: Request::Txn { request: wire::TxnRequest { compare, success, failure }, reads_only }, leases })
}

fn translate_compare(compare: &Compare) -> Result<wire::Compare> {
    use CompareResult::{Equal, Greater, Less};
    use CompareTarget as T;
    compare.span.check()?;
    if !matches!(compare.span, Span::Key(_)) && !compare.condition.is_of_many() {
        let message = "only Absent, UnchangedSince, NeverExpires and Compared can be asked of all keys of a directory or a range";
        return Err(Error::new(ErrorKind::Invalid, message).at(compare.span.key()));
    }
    let never = (Less, T::Version, TargetUnion::Version(0));
    let (result, target, union) = match &compare.condition {
        // In a compare, etcd treats a missing key, and a span without keys, like a key whose
        // numbers are all zero.
        Condition::Absent => (Equal, T::Create, TargetUnion::CreateRevision(0)),
        Condition::Present => (Greater, T::Version, TargetUnion::Version(0)),
        Condition::Created(Revision::ZERO) | Condition::Modified(Revision::ZERO) => never,
        Condition::Created(at) => (Equal, T::Create, TargetUnion::CreateRevision(number(*at))),
        Condition::Modified(at) => (Equal, T::Mod, TargetUnion::ModRevision(number(*at))),
        Condition::Value(value) => (Equal, T::Value, TargetUnion::Value(value.clone())),
        Condition::Lease(id) => (Equal, T::Lease, TargetUnion::Lease(lease_number(*id))),
        Condition::NeverExpires => (Equal, T::Lease, TargetUnion::Lease(0)),
        Condition::UnchangedSince(at) => (Less, T::Mod, TargetUnion::ModRevision(number(at.next()))),
        Condition::Compared(relation, operand) => {
            let (target, union) = match operand {
                Operand::Value(value) => (T::Value, TargetUnion::Value(value.clone())),
                Operand::Version(version) => (T::Version, TargetUnion::Version(i64::try_from(*version).unwrap_or(i64::MAX))),
                Operand::Created(at) => (T::Create, TargetUnion::CreateRevision(number(*at))),
                Operand::Modified(at) => (T::Mod, TargetUnion::ModRevision(number(*at))),
                Operand::Lease(id) => (T::Lease, TargetUnion::Lease(id.map_or(0, lease_number))),
            };
            let result = match relation {
                Relation::Equal => Equal,
                Relation::NotEqual => CompareResult::NotEqual,
                Relation::Less => Less,
                Relation::Greater => Greater,
            };
            (result, target, union)
        }
    };
    let (key, range_end) = bounds(&compare.span);
    Ok(wire::Compare { result: result.into(), target: target.into(), key, target_union: Some(union), range_end })
}

fn translate_ops(ops: &[Op], then: bool, max_value: usize, leases: &mut Vec<NewLease>) -> Result<Vec<RequestOp>> {
    ops.iter().map(|op| translate_op(op, then, max_value, leases)).collect()
}

fn translate_op(op: &Op, then: bool, max_value: usize, leases: &mut Vec<NewLease>) -> Result<RequestOp> {
    let request = match op {
        Op::Get(span) => {
            span.check()?;
            let (key, range_end) = bounds(span);
            wire::Request::Range(wire::RangeRequest { key, range_end, ..Default::default() })
        }
        Op::Page { span, limit, order } => {
            span.check()?;
            if *limit == 0 {
                return Err(Error::new(ErrorKind::Invalid, "a limit of zero keys for `Op::Page`").at(span.key()));
            }
            let (key, range_end) = bounds(span);
            let (sort_order, sort_target) = sorted(*order);
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            wire::Request::Range(wire::RangeRequest { key, range_end, limit, sort_order, sort_target, ..Default::default() })
        }
        Op::Newest { below, before, limit } => {
            if *limit == 0 {
                // For etcd, a limit of zero means no limit.
                return Err(Error::new(ErrorKind::Invalid, "a limit of zero keys for `Op::Newest`").at(below));
            }
            let (key, range_end) = bounds(&Span::Below(below.clone()));
            wire::Request::Range(wire::RangeRequest {
                key,
                range_end,
                limit: i64::try_from(*limit).unwrap_or(i64::MAX),
                sort_order: SortOrder::Descend.into(),
                sort_target: SortTarget::Create.into(),
                // Zero means no bound, so a bound is at least 1. Such a bound excludes every key,
                // since a store begins at revision 1 and no key was created before revision 2.
                max_create_revision: before.map_or(0, |before| number(before.previous()).max(1)),
                ..Default::default()
            })
        }
        Op::Put { key, value, expiry, previous } => {
            if value.len() > max_value {
                return Err(too_large(key, value.len(), max_value));
            }
            let lease = match expiry {
                Expiry::Never => 0,
                Expiry::With(id) => lease_number(*id),
                Expiry::After(ttl) => lease_number(lease_for(seconds(*ttl), then, leases)),
            };
            let (key, _) = bounds(&Span::Key(key.clone()));
            wire::Request::Put(wire::PutRequest { key, value: value.clone(), lease, prev_kv: *previous })
        }
        Op::Delete { span, previous } => {
            span.check()?;
            let (key, range_end) = bounds(span);
            wire::Request::DeleteRange(wire::DeleteRangeRequest { key, range_end, prev_kv: *previous })
        }
        Op::MakeDir { key, .. } | Op::UpdateDir { key, .. } | Op::RemoveDir { key } => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "etcd v3 has no directories of their own: a directory exists while it contains a key; write or delete its keys",
            )
            .at(key));
        }
    };
    Ok(RequestOp { request: Some(request) })
}

fn too_large(key: &Key, length: usize, limit: usize) -> Error {
    let message = format!(
        "a value of {length} bytes, and a request may have {limit}: divide it over several keys, or set `max_request_bytes` on the client where the server's \
         flag `--max-request-bytes` is higher"
    );
    Error::new(ErrorKind::TooLarge, message).at(key)
}

/// Returns the lease for a put. Puts of one list with the same time to live share a lease.
fn lease_for(seconds: i64, then: bool, leases: &mut Vec<NewLease>) -> LeaseId {
    if let Some(lease) = leases.iter().find(|lease| lease.seconds == seconds && lease.then == then) {
        return lease.id;
    }
    let id = LeaseId::random();
    leases.push(NewLease { id, seconds, then });
    id
}

pub(super) fn put_committed(answer: wire::PutResponse) -> Committed {
    Committed { revision: header_revision(answer.header.as_ref()), succeeded: true, results: vec![put_result(answer)] }
}

pub(super) fn delete_committed(answer: wire::DeleteRangeResponse) -> Committed {
    Committed { revision: header_revision(answer.header.as_ref()), succeeded: true, results: vec![delete_result(answer)] }
}

pub(super) fn range_committed(answer: wire::RangeResponse) -> Committed {
    let revision = header_revision(answer.header.as_ref());
    Committed { revision, succeeded: true, results: vec![OpResult::Get(range_reply(answer, revision))] }
}

/// Translates the answer to a [`Request::Txn`]. Fails if the answer does not fit the request.
pub(super) fn txn_committed(mut answer: wire::TxnResponse, request: &wire::TxnRequest) -> Result<Committed> {
    let revision = header_revision(answer.header.as_ref());
    let asked = if answer.succeeded { &request.success } else { &request.failure };
    // `read_only_txn.rs` may have added an empty transaction at the end of the list. Its response
    // is the last one.
    let sent_as_write = !answer.succeeded && answer.responses.len() > asked.len();
    answer.responses.pop_if(|last| sent_as_write && last.response.is_none());
    if asked.len() != answer.responses.len() {
        return Err(misfit());
    }
    let results = asked.iter().zip(answer.responses).map(|(op, result)| op_result(op, result, revision)).collect::<Result<_>>()?;
    Ok(Committed { revision, succeeded: answer.succeeded, results })
}

fn op_result(op: &RequestOp, result: ResponseOp, revision: Revision) -> Result<OpResult> {
    match (&op.request, result.response) {
        (Some(wire::Request::Range(_)), Some(wire::Response::Range(answer))) => {
            // A read before the first write of its transaction has the revision before the
            // transaction.
            let own = header_revision(answer.header.as_ref());
            let revision = if own == Revision::ZERO { revision } else { own };
            Ok(OpResult::Get(range_reply(answer, revision)))
        }
        (Some(wire::Request::Put(_)), Some(wire::Response::Put(answer))) => Ok(put_result(answer)),
        (Some(wire::Request::DeleteRange(_)), Some(wire::Response::DeleteRange(answer))) => Ok(delete_result(answer)),
        _ => Err(misfit()),
    }
}

/// Returns the error for a transaction that was performed, but whose answer does not fit the
/// request.
fn misfit() -> Error {
    Error::new(ErrorKind::Server, "the answer to a transaction does not fit its request").outcome_unknown()
}

fn put_result(answer: wire::PutResponse) -> OpResult {
    OpResult::Put(answer.prev_kv.map(key_value))
}

fn delete_result(answer: wire::DeleteRangeResponse) -> OpResult {
    OpResult::Delete { deleted: u64::try_from(answer.deleted).unwrap_or(0), previous: answer.prev_kvs.into_iter().map(key_value).collect() }
}

pub(super) fn range_reply(answer: wire::RangeResponse, revision: Revision) -> RangeReply {
    let wire::RangeResponse { kvs, more, compact, .. } = answer;
    RangeReply { revision, kvs: kvs.into_iter().map(key_value).collect(), more, compact, ..RangeReply::default() }
}

/// Returns the key of a transaction that concerns only one key, so that errors can contain the key.
pub(super) fn only_key(txn: &Txn) -> Option<&Key> {
    let spans = txn.compares.iter().map(|compare| compare.span.key());
    let ops = txn.then.iter().chain(&txn.otherwise).map(|op| match op {
        Op::Get(span) | Op::Page { span, .. } | Op::Delete { span, .. } => span.key(),
        Op::Newest { below: key, .. }
        | Op::Put { key, .. }
        | Op::MakeDir { key, .. }
        | Op::UpdateDir { key, .. }
        | Op::RemoveDir { key } => key,
    });
    let mut keys = spans.chain(ops);
    let first = keys.next()?;
    keys.all(|key| key == first).then_some(first)
}

#[cfg(test)]
mod tests;
