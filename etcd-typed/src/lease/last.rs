//! `Last`: the request that gives the first place of a queue up. It also asks for whoever of the same client comes next, and takes along whoever of the
//! same client is about to join the queue: all of that is one request.

use tokio::sync::oneshot;

use super::standing::Rank;
use crate::error::Result;
use crate::key::Key;
use crate::store::{Committed, Compare, Condition, Op, OpResult, RangeReply, Span, Store, Txn};

/// The request that makes an end of all that needs a lease: it deletes a key that was verified to be the first of its queue.
#[derive(Debug)]
pub(crate) struct Last {
    pub(crate) rank: Rank,
    /// That the key is as it was made.
    pub(crate) compares: Vec<Compare>,
    /// The key of this client that stands behind it, or is about to, which the request also reads.
    pub(crate) next: Option<Key>,
    pub(crate) joining: Option<Joining>,
}

/// Somebody of this client who is about to make his key.
#[derive(Debug)]
pub(crate) struct Joining {
    /// It must not be there.
    pub(super) key: Key,
    /// What makes it, and says who is before it.
    pub(super) make: Vec<Op>,
    /// Dropped without a word: it may have been sent.
    pub(super) answer: oneshot::Sender<Joined>,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Joined {
    /// It was done; this is the answer to it.
    Made(Committed),
    /// It was not done and will not be: he has to ask himself.
    Not,
}

/// What the server said to a [`Last`].
#[derive(Debug)]
pub(crate) struct Left {
    /// Whether the key was as it was made, until now.
    pub(crate) succeeded: bool,
    pub(crate) handed: Option<Handed>,
}

/// That a key which was the first is deleted, and what was at another one of this client then, as of the same revision.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) left: Rank,
    pub(crate) next: Key,
    pub(crate) reply: RangeReply,
}

impl Last {
    pub(crate) async fn commit(self, store: &dyn Store) -> Result<Left> {
        let Self { rank, compares, next, joining } = self;
        let read = next.iter().map(|next| Op::Get(Span::Key(next.clone())));
        let then: Vec<Op> = [Op::delete(&rank.key)].into_iter().chain(read).collect();
        let left = |committed: Committed, next: Option<Key>| {
            let succeeded = committed.succeeded;
            let read = committed.results.into_iter().find_map(reply);
            let handed = next.zip(read).filter(|_| succeeded).map(|(next, reply)| Handed { left: rank.clone(), next, reply });
            Left { succeeded, handed }
        };
        if let Some(Joining { key, make, answer }) = joining {
            let absent = Compare::key(&key, Condition::Absent);
            let (compares, then) = ([&compares[..], &[absent]].concat(), [&then[..], &make].concat());
            let own = then.len() - make.len();
            match store.commit(Txn { compares, then, otherwise: Vec::new() }).await {
                Ok(mut committed) if committed.succeeded => {
                    let results = committed.results.split_off(own.min(committed.results.len()));
                    // If he does not wait any more, his lease ends, and his key with it.
                    let _ = answer.send(Joined::Made(Committed { results, ..committed }));
                    return Ok(left(committed, next));
                }
                Err(error) if error.may_have_applied() || error.is_retryable() => {
                    if !error.may_have_applied() {
                        let _ = answer.send(Joined::Not);
                    }
                    return Err(error);
                }
                // Nothing was done, maybe for a reason that only the other one has. Each for himself, then.
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
