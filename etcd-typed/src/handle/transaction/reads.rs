//! The results of the reads in a transaction.

use std::fmt;
use std::future::IntoFuture;

use super::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::dir::Dir;
use crate::handle::entry::Entry;
use crate::key::Key;
use crate::revision::Revision;
use crate::schema::{self, Schema};
use crate::store::{BoxFuture, Op, OpResult, RangeReply, Span};
use crate::telemetry::Operation;
use crate::version::Versioned;

/// A transaction that returns the results of its reads; created by [`Transaction::reads`]. The
/// transaction is sent when it is awaited.
#[must_use = "a transaction does nothing until it is awaited"]
#[derive(Debug)]
pub struct TransactionReads(pub(super) Transaction);

impl IntoFuture for TransactionReads {
    type Output = Result<Reads>;
    type IntoFuture = BoxFuture<'static, Result<Reads>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self(mut transaction) = self;
        let retry = transaction.context.retry.clone();
        let commit = async move {
            let committed = transaction.commit().await?;
            // The operations of the transaction come first, in their order.
            let found = transaction.ops.into_iter().zip(committed.results).filter_map(|(op, result)| match (op, result) {
                (Op::Get(span), OpResult::Get(reply)) => Some((span, reply)),
                _ => None,
            });
            Ok(Reads { revision: committed.revision, found: found.collect() })
        };
        Box::pin(Operation::new("commit", "transaction").run(async move { retry.one_call(commit).await }))
    }
}

/// The results of the reads in a [`Transaction`], all from the transaction's revision.
pub struct Reads {
    revision: Revision,
    /// The spans that the transaction read, each with the answer.
    found: Vec<(Span, RangeReply)>,
}

impl Reads {
    /// Returns the revision of the transaction. If the transaction wrote nothing, this is the
    /// revision that it read.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns the value of an entry that the transaction has read, or `None` if the key did not
    /// exist. If the transaction read the entry several times, returns the last result.
    ///
    /// # Errors
    ///
    /// `Decode` for a value that is not a `T`. `Invalid` if the transaction has not read the entry.
    pub fn get<T: Send + Sync + 'static>(&self, entry: &Entry<T>) -> Result<Option<Versioned<T>>> {
        let replies = entry.keys().map(|key| self.reply(&Span::Key(key.clone()), key)).collect::<Result<Vec<_>>>()?;
        let found = replies.into_iter().enumerate().find_map(|(at, reply)| Some((at, reply.kvs.first()?.clone())));
        found.map(|(at, kv)| entry.read_as(at, kv, self.revision)).transpose()
    }

    /// Returns the struct in a directory that the transaction has read.
    ///
    /// # Errors
    ///
    /// `NotFound` if the schema has required keys and no key of the schema exists. `Invalid` with
    /// every field that is missing or cannot be decoded. `Invalid` also if the transaction has not
    /// read the directory.
    pub fn get_dir<S: Schema>(&self, dir: &Dir<S>) -> Result<Versioned<S>> {
        let reply = self.reply(&Span::Below(dir.key().clone()), dir.key())?;
        schema::decode(dir.key(), &schema::tree(dir.key(), reply.kvs.clone()), self.revision)
    }

    fn reply(&self, span: &Span, key: &Key) -> Result<&RangeReply> {
        let last = self.found.iter().rev().find(|(read, _)| read == span).map(|(_, reply)| reply);
        last.ok_or_else(|| Error::new(ErrorKind::Invalid, "the transaction has not read this: add `get` or `get_dir` to it").at(key))
    }
}

/// Does not show the values, since they may be secrets.
impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads").field("revision", &self.revision).field("reads", &self.found.len()).finish_non_exhaustive()
    }
}
