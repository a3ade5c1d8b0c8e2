//! Which right the user lacks. A server says only "permission denied", also of a transaction with a hundred keys.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::call::{Core, How};
use super::kv::bounds;
use super::status::{NOT_ALLOWED, Row};
use super::wire::{self, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TXN, TxnRequest};
use crate::error::{Error, ErrorKind};
use crate::store::{Op, Span, Txn};

/// How long the search for the right may take. The error is known already.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a transaction does to a span.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Access {
    span: Span,
    right: Right,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    Read,
    Write,
    Delete,
}

impl Access {
    fn read(span: &Span) -> Self {
        Self { span: span.clone(), right: Right::Read }
    }

    /// The error of a call that the user may not make because of this.
    fn refusal(&self, error: Error) -> Error {
        let what = match self.span {
            Span::Key(_) => "this key",
            Span::Below(_) => "the keys below this directory",
        };
        let (verb, right) = match self.right {
            Right::Read => ("read", "read"),
            Right::Write => ("write", "write"),
            Right::Delete => ("delete", "write"),
        };
        let words = format!("the user may not {verb} {what}; grant one of its roles `{right}` on it (`etcdctl role grant-permission`)");
        let message = error.message().replace(NOT_ALLOWED, &words);
        error.with_message(message).at(self.span.key())
    }

    /// An operation that needs this right.
    fn operation(&self) -> RequestOp {
        let (key, range_end) = bounds(&self.span);
        let request = match self.right {
            Right::Read => wire::Request::Range(RangeRequest { key, range_end, limit: 1, keys_only: true, ..RangeRequest::default() }),
            Right::Write => wire::Request::Put(PutRequest { key, ..PutRequest::default() }),
            Right::Delete => wire::Request::DeleteRange(DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() }),
        };
        RequestOp { request: Some(request) }
    }
}

/// What the transaction needs rights for, in the order in which the server looks.
fn accesses(txn: &Txn) -> Vec<Access> {
    let mut found: Vec<Access> = Vec::new();
    let mut add = |span: &Span, right| {
        let access = Access { span: span.clone(), right };
        if !found.contains(&access) {
            found.push(access);
        }
    };
    for compare in &txn.compares {
        add(&compare.span, Right::Read);
    }
    for op in txn.then.iter().chain(&txn.otherwise) {
        match op {
            Op::Get(span) => add(span, Right::Read),
            Op::Newest { below, .. } => add(&Span::Below(below.clone()), Right::Read),
            Op::Put { key, previous, .. } => {
                let span = Span::Key(key.clone());
                if *previous {
                    add(&span, Right::Read);
                }
                add(&span, Right::Write);
            }
            Op::Delete { span, previous } => {
                if *previous {
                    add(span, Right::Read);
                }
                add(span, Right::Delete);
            }
            // A v3 store refuses them before it asks a server.
            Op::MakeDir { .. } | Op::UpdateDir { .. } | Op::RemoveDir { .. } => {}
        }
    }
    found
}

/// The error of a read that the user may not make.
pub(super) fn unreadable(span: &Span, error: Error) -> Error {
    if error.kind() == ErrorKind::PermissionDenied { Access::read(span).refusal(error) } else { error.at(span.key()) }
}

/// The error of a transaction with the key and the right that the user lacks, if the transaction was refused for one.
///
/// They are found by halving: a server checks the rights for the operations of both lists of a transaction, and performs none of the second list where
/// there is no compare that could fail.
pub(super) async fn explained(core: &Arc<Core>, txn: &Txn, error: Error) -> Error {
    if error.kind() != ErrorKind::PermissionDenied {
        return error;
    }
    let all = accesses(txn);
    // Within the limit of the call that was refused.
    let deadline = core.retry.deadline().min(Instant::now() + PATIENCE);
    let mut suspects = all.as_slice();
    while suspects.len() > 1 {
        let (first, second) = suspects.split_at(suspects.len() / 2);
        suspects = match is_denied(core, first, deadline).await {
            Some(true) => first,
            // The last one is found by what is not refused, which also a lease or a change of rights may have been.
            Some(false) if second.len() == 1 && is_denied(core, second, deadline).await != Some(true) => &[],
            Some(false) => second,
            None => &[],
        };
    }
    match (suspects, all.first()) {
        ([lacking], _) => lacking.refusal(error),
        ([], Some(first)) => {
            let words = "the user may not read or write one of the keys of this transaction, or one that is attached to its lease; check the rights of its roles";
            let message = error.message().replace(NOT_ALLOWED, words);
            error.with_message(message).at(first.span.key())
        }
        _ => error,
    }
}

/// Whether the server refuses one of these. None if it did not say.
async fn is_denied(core: &Arc<Core>, accesses: &[Access], deadline: Instant) -> Option<bool> {
    let failure = accesses.iter().map(Access::operation).collect();
    let request = TxnRequest { failure, ..TxnRequest::default() };
    match core.call_until(&TXN, How::READ, request, deadline).await {
        Ok(_) => Some(false),
        Err(failure) if failure.row == Row::PermissionDenied => Some(true),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::store::{Compare, Condition};

    #[test]
    fn each_right_of_a_transaction_is_listed_once() {
        let key = |path| Key::parse(path).unwrap();
        let txn = Txn {
            compares: vec![Compare::key(&key("/a"), Condition::Absent), Compare::key(&key("/a"), Condition::Present)],
            then: vec![Op::put(&key("/b"), "1".into()), Op::delete(&key("/c"))],
            otherwise: vec![Op::Get(Span::Key(key("/a"))), Op::Get(Span::Below(key("/d")))],
        };
        let expected = [
            (Span::Key(key("/a")), Right::Read),
            (Span::Key(key("/b")), Right::Write),
            (Span::Key(key("/c")), Right::Delete),
            (Span::Below(key("/d")), Right::Read),
        ];
        assert_eq!(accesses(&txn), expected.map(|(span, right)| Access { span, right }));
    }
}
