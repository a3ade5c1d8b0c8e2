//! Finds out which right the user lacks. The server only says "permission denied", even for a
//! transaction with a hundred keys.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::Core;
use super::how::How;
use super::kv::bounds;
use super::status::{NOT_ALLOWED, Row};
use super::wire::{self, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TXN, TxnRequest};
use crate::error::{Error, ErrorKind};
use crate::store::{Op, Span, Txn};

/// The time limit of this search. The caller's error is known already, so the search must not delay
/// it for long.
const PATIENCE: Duration = Duration::from_secs(2);

/// A right that a transaction needs on a span.
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

    /// Turns the error of a refused call into an error that names this right.
    fn refusal(&self, error: Error) -> Error {
        let what = match self.span {
            Span::Key(_) => "this key",
            Span::Below(_) => "the keys below this directory",
            Span::Between { .. } => "the keys of the range that begins here",
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

    /// Returns an operation that needs this right.
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

/// Returns the rights that a transaction needs, in the order in which the server checks them.
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
            Op::Get(span) | Op::Page { span, .. } => add(span, Right::Read),
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
            // The v3 store refuses these operations before it sends a request.
            Op::MakeDir { .. } | Op::UpdateDir { .. } | Op::RemoveDir { .. } => {}
        }
    }
    found
}

/// Returns the error of a read. If the user lacks the right, the error says so.
pub(super) fn unreadable(span: &Span, error: Error) -> Error {
    if error.kind() == ErrorKind::PermissionDenied { Access::read(span).refusal(error) } else { error.at(span.key()) }
}

/// Adds the key and the missing right to the error of a transaction that was refused for lack of
/// rights.
///
/// The right is found by bisection with transactions that perform nothing: the server checks the
/// rights for both lists, but it performs the second list only if a compare fails, and these
/// transactions have no compare.
pub(super) async fn explained(core: &Arc<Core>, txn: &Txn, error: Error) -> Error {
    if error.kind() != ErrorKind::PermissionDenied {
        return error;
    }
    let all = accesses(txn);
    // The search stays within the time limit of the refused call.
    let deadline = core.retry.deadline().min(Instant::now() + PATIENCE);
    let mut suspects = all.as_slice();
    while suspects.len() > 1 {
        let (first, second) = suspects.split_at(suspects.len() / 2);
        suspects = match is_denied(core, first, deadline).await {
            Some(true) => first,
            // The last suspect was only inferred. Ask about it too, since the refusal may have had
            // another cause: a lease, or rights that have changed since.
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

/// Returns whether the server refuses one of these accesses, or `None` if the server did not say.
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
    fn each_needed_right_is_listed_once() {
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
