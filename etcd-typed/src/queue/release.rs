//! `Release`: the request with which the holder of a queue releases it. The same request reads the
//! key of the next contender of this client, and creates the key of a contender of this client that
//! is about to join.

use tokio::sync::oneshot;

use super::contender::Rank;
use crate::error::Result;
use crate::key::Key;
use crate::store::{Committed, Compare, Condition, Op, OpResult, RangeReply, Span, Store, Txn};

/// The request that deletes a holder's key. The key was verified to be the first of its queue.
#[derive(Debug)]
pub(super) struct Release {
    pub(super) rank: Rank,
    /// The conditions of the deletion, which say that the key is unchanged.
    pub(super) compares: Vec<Compare>,
    /// The key of another contender of this client that is, or may become, the next in the queue.
    /// The request reads this key too.
    pub(super) next: Option<Key>,
    pub(super) joining: Option<Joining>,
}

/// A contender of this client that is about to create its key.
#[derive(Debug)]
pub(super) struct Joining {
    /// The key to create, on the condition that it does not exist.
    pub(super) key: Key,
    /// The operations that create the key and read its predecessor.
    pub(super) make: Vec<Op>,
    /// The sender for the result. If it is dropped without a result, the request may have been
    /// sent.
    pub(super) answer: oneshot::Sender<Joined>,
}

/// The result for a [`Joining`] contender.
#[derive(Debug)]
pub(super) enum Joined {
    /// The contender's operations were applied, with this answer.
    Made(Committed),
    /// The contender's operations were not and will not be applied. The contender must send its own
    /// request.
    Not,
}

/// The answer to a [`Release`].
#[derive(Debug)]
pub(super) struct Released {
    /// Whether the request deleted the key. If not, the key had changed.
    pub(super) succeeded: bool,
    pub(super) handed: Option<Handed>,
}

/// The part of an answer that shows that the first key of a queue was deleted. It contains a read
/// of another key of this client at the same revision.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) left: Rank,
    pub(super) next: Key,
    pub(super) reply: RangeReply,
}

impl Release {
    pub(super) async fn commit(self, store: &dyn Store) -> Result<Released> {
        let Self { rank, compares, next, joining } = self;
        let read = next.iter().map(|next| Op::Get(Span::Key(next.clone())));
        let then: Vec<Op> = [Op::delete(&rank.key)].into_iter().chain(read).collect();
        let left = |committed: Committed, next: Option<Key>| {
            let succeeded = committed.succeeded;
            let read = committed.results.into_iter().find_map(reply);
            let handed = next.zip(read).filter(|_| succeeded).map(|(next, reply)| Handed { left: rank.clone(), next, reply });
            Released { succeeded, handed }
        };
        if let Some(Joining { key, make, answer }) = joining {
            let absent = Compare::key(&key, Condition::Absent);
            let (compares, then) = ([&compares[..], &[absent]].concat(), [&then[..], &make].concat());
            let own = then.len() - make.len();
            match store.commit(Txn { compares, then, otherwise: Vec::new() }).await {
                Ok(mut committed) if committed.succeeded => {
                    let results = committed.results.split_off(own.min(committed.results.len()));
                    // If the contender no longer waits, it has dropped its `Member`, which deletes
                    // the key.
                    let _ = answer.send(Joined::Made(Committed { results, ..committed }));
                    return Ok(left(committed, next));
                }
                Err(error) if error.may_have_applied() || error.is_retryable() => {
                    if !error.may_have_applied() {
                        let _ = answer.send(Joined::Not);
                    }
                    return Err(error);
                }
                // Nothing was applied. The reason may concern the joining contender alone, so the
                // holder and the joining contender each send their own request.
                Ok(_) | Err(_) => drop(answer.send(Joined::Not)),
            }
        }
        store.commit(Txn { compares, then, otherwise: Vec::new() }).await.map(|committed| left(committed, next))
    }
}

fn reply(result: OpResult) -> Option<RangeReply> {
    match result {
        OpResult::Get(reply) => Some(reply),
        OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
    }
}
