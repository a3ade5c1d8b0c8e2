//! Transactions that only read, on servers that do not bear one that is cut off.
//!
//! A server of 3.5.0 to 3.5.6 performs such a transaction with the context of its request, and panics when the request is cancelled at the wrong moment (etcd
//! issues 14110 and 14891). No client can promise that a request is not cancelled: a caller may give up, and a connection may break. A transaction
//! that writes is proposed to raft and applied with a context of its own. So a server that is not known to bear it gets one operation more: an empty
//! transaction, which is no read (`isTxnReadonly` in `v3_server.go`), changes nothing, makes no revision and needs no right.

use bytes::{BufMut, Bytes, BytesMut};

use super::call::How;
use super::channel::{Joining, Slot};
use super::connection::Sent;
use super::wire::{TXN, Untyped};

/// `RequestOp { request: Txn(TxnRequest {}) }` as one more element of `TxnRequest::failure`. A message that follows another one is merged into
/// it, so its bytes go behind those of any transaction. It is not in `success`, which may have as many operations as a server takes.
const EMPTY_TRANSACTION: [u8; 4] = [0x1a, 2, 0x22, 0];

/// Before a message on the wire: a flag, and its length.
const FLAG: usize = 1;
const PREFIX: usize = FLAG + size_of::<u32>();

/// A transaction that only reads, for a server that may not bear it.
pub(super) struct Careful<'r>(&'r dyn Sent);

/// What is to be sent of a request to this endpoint instead of the request itself.
pub(super) fn careful<'r>(slot: &Slot, method: &Untyped, how: How, request: &'r dyn Sent) -> Option<Careful<'r>> {
    let only_reads = !how.write && method.path == TXN.path;
    (only_reads && slot.joining() != Joining::Allowed).then_some(Careful(request))
}

impl Sent for Careful<'_> {
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
    fn empty_transaction_is_appended_to_what_is_done_otherwise() {
        let read =
            |key: &'static str| RequestOp { request: Some(Request::Range(RangeRequest { key: key.into(), ..RangeRequest::default() })) };
        for failure in [vec![], vec![read("/c")]] {
            let txn = TxnRequest { compare: vec![Compare::default()], success: vec![read("/a"), read("/b")], failure };
            let frame = Careful(&txn).frame();
            let (prefix, message) = frame.split_at(PREFIX);
            assert_eq!(prefix, [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat());
            let mut failure = txn.failure.clone();
            failure.push(RequestOp { request: Some(Request::Txn(TxnRequest::default())) });
            assert_eq!(TxnRequest::decode(message).unwrap(), TxnRequest { failure, ..txn });
        }
    }
}
