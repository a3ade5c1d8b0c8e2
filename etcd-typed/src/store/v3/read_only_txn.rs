//! Protects some servers from read-only transactions that are cancelled.
//!
//! etcd 3.5.0 to 3.5.6 runs a read-only transaction with the context of its request, and panics if
//! the request is cancelled at the wrong moment (etcd issues 14110 and 14891). No client can rule
//! out cancellation: a caller may give up, and a connection may break. A transaction that writes is
//! proposed to raft and applied with a separate context, which the client cannot cancel. So unless
//! a server is known to be free of this bug, the client adds one more operation: an empty
//! transaction. This operation makes the request count as a write (`isTxnReadonly` in
//! `v3_server.go`), but changes nothing, makes no revision and needs no permission.

use bytes::{BufMut, Bytes, BytesMut};

use super::channel::{Coalescing, Slot};
use super::connection::Sent;
use super::how::How;
use super::wire::{TXN, Untyped};

/// `RequestOp { request: Txn(TxnRequest {}) }` as one more element of `TxnRequest::failure`.
/// protobuf merges concatenated messages, so these bytes can be appended to any transaction. The
/// element is not added to `success`, which may already hold as many operations as a server
/// accepts.
const EMPTY_TRANSACTION: [u8; 4] = [0x1a, 2, 0x22, 0];

/// The frame of a message starts with a flag and the length.
const FLAG: usize = 1;
const PREFIX: usize = FLAG + size_of::<u32>();

/// A read-only transaction for a server that might panic on it.
pub(super) struct AsWrite<'r>(&'r dyn Sent);

/// Returns the request to send to this endpoint instead of `request`, if the server needs
/// protection.
pub(super) fn as_write<'r>(slot: &Slot, method: &Untyped, how: How, request: &'r dyn Sent) -> Option<AsWrite<'r>> {
    let only_reads = !how.write && method.path == TXN.path;
    (only_reads && slot.coalescing() != Coalescing::Allowed).then_some(AsWrite(request))
}

impl Sent for AsWrite<'_> {
    fn frame(&self) -> Bytes {
        let plain = self.0.frame();
        let (prefix, message) = plain.split_at(PREFIX.min(plain.len()));
        let mut frame = BytesMut::with_capacity(plain.len() + EMPTY_TRANSACTION.len());
        frame.put_slice(prefix.get(..FLAG).unwrap_or_default());
        frame.put_u32(u32::try_from(message.len() + EMPTY_TRANSACTION.len()).unwrap_or(u32::MAX));
        frame.put_slice(message);
        frame.put_slice(&EMPTY_TRANSACTION);
        frame.freeze()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::store::v3::wire::{Compare, RangeRequest, Request, RequestOp, TxnRequest};

    #[test]
    fn empty_transaction_is_appended_to_failure_list() {
        let read =
            |key: &'static str| RequestOp { request: Some(Request::Range(RangeRequest { key: key.into(), ..RangeRequest::default() })) };
        for failure in [vec![], vec![read("/c")]] {
            let txn = TxnRequest { compare: vec![Compare::default()], success: vec![read("/a"), read("/b")], failure };
            let frame = AsWrite(&txn).frame();
            let (prefix, message) = frame.split_at(PREFIX);
            assert_eq!(prefix, [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat());
            let mut failure = txn.failure.clone();
            failure.push(RequestOp { request: Some(Request::Txn(TxnRequest::default())) });
            assert_eq!(TxnRequest::decode(message).unwrap(), TxnRequest { failure, ..txn });
        }
    }
}
