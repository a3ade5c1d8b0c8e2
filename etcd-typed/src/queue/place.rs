//! `Place`: decides a contender's next request from the answers so far. It sends nothing itself;
//! the model in the tests runs it against a queue in all orders of events.

#[cfg(test)]
mod model;

use super::contender::{Rank, is_contender};
use crate::key::Key;
use crate::revision::Revision;
use crate::store::{Capabilities, KeyValue, RangeReply};

/// The state of one contender on its way to the front of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    state: State,
    /// True if the whole directory must be read, because the newest key before ours does not belong
    /// to a contender.
    whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Outside,
    Unknown { fence: Revision },
    Behind { fence: Revision, predecessor: Rank, since: Revision },
    First { fence: Revision },
    Gone,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Create the key, unless it exists.
    Enter,
    /// Check that our key still exists and is attached to the lease, and read which contender is
    /// before ours. The answer must be as of one revision, and linearizable.
    Look { fence: Revision, whole: bool },
    /// Wait until this predecessor's key may be gone. It existed at the revision `since`; our key
    /// was created at `fence`.
    Wait { fence: Revision, predecessor: Rank, since: Revision },
    /// The wait is over: our key is the first, or it is gone.
    End(Outcome),
}

/// How the wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Our key is the first. It was created at this revision.
    First(Revision),
    /// Our key is gone or belongs to another contender.
    Gone,
}

/// An answer or an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The request created our key. `before` is set if the same answer shows the predecessor.
    Made { fence: Revision, before: Option<Before> },
    /// Our key existed already: an earlier request, whose answer was lost, had created it.
    WasThere { fence: Revision },
    /// Our key exists unchanged. The value says which contender is before ours.
    Looked(Before),
    /// The predecessor, which was the verified holder, released the queue. Our key existed
    /// unchanged at the same revision.
    Left(Rank),
    /// The predecessor may be gone, or the time of the wait is over: check again.
    Stirred,
    /// Our key or its lease does not exist.
    Missing,
}

/// The contender before our key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nobody,
    /// This contender is the last one before our key, as of the revision `as_of`.
    Somebody {
        rank: Rank,
        as_of: Revision,
    },
    /// The last key before ours does not belong to a contender, and the keys before that key were
    /// not read.
    Unclear,
}

impl Before {
    /// Finds our predecessor in `reply`, which is a read as of one revision: either of the whole
    /// directory, or of the newest keys up to ours.
    pub(super) fn of(directory: &Key, own: &Key, fence: Revision, reply: RangeReply, capabilities: &Capabilities) -> Self {
        // If one transaction created several keys, the smallest name is the first. Without this
        // rule each contender would consider itself the first.
        let is_before = |kv: &KeyValue| (kv.created, &kv.key[..]) < (fence, own.as_bytes());
        let contenders = reply.kvs.iter().filter(|kv| is_before(kv) && is_contender(directory, kv, capabilities));
        match contenders.max_by(|one, other| (one.created, &one.key).cmp(&(other.created, &other.key))) {
            Some(kv) => Self::Somebody { rank: Rank { key: Key::stored(&kv.key), created: kv.created }, as_of: reply.revision },
            None if reply.more => Self::Unclear,
            None => Self::Nobody,
        }
    }
}

impl Place {
    pub(super) fn new() -> Self {
        Self { state: State::Outside, whole: false }
    }

    pub(super) fn want(&self) -> Want {
        match &self.state {
            State::Outside => Want::Enter,
            State::Unknown { fence } => Want::Look { fence: *fence, whole: self.whole },
            State::Behind { fence, predecessor, since } => Want::Wait { fence: *fence, predecessor: predecessor.clone(), since: *since },
            State::First { fence } => Want::End(Outcome::First(*fence)),
            State::Gone => Want::End(Outcome::Gone),
        }
    }

    /// Applies an answer or an event.
    pub(super) fn handle(&mut self, input: Input) {
        self.state = match (&self.state, input) {
            (_, Input::Missing) => State::Gone,
            (_, Input::Made { fence, before: Some(before) }) => self.behind(fence, before),
            (_, Input::Made { fence, before: None } | Input::WasThere { fence }) => State::Unknown { fence },
            (State::Unknown { fence }, Input::Looked(before)) => self.behind(*fence, before),
            // No key can come between ours and the predecessor's, since new keys are created last.
            // No key was before the predecessor's, since it was the first.
            (State::Behind { fence, predecessor, .. }, Input::Left(first)) if *predecessor == first => State::First { fence: *fence },
            // After any other event, only a read of our own key can make us the holder.
            (State::Behind { fence, .. }, Input::Stirred | Input::Left(_)) => State::Unknown { fence: *fence },
            (state, Input::Looked(_) | Input::Left(_) | Input::Stirred) => state.clone(),
        };
    }

    fn behind(&mut self, fence: Revision, before: Before) -> State {
        match before {
            Before::Nobody => State::First { fence },
            Before::Somebody { rank, as_of } => State::Behind { fence, predecessor: rank, since: as_of },
            Before::Unclear => {
                self.whole = true;
                State::Unknown { fence }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::revision::LeaseId;

    const V3: Capabilities = Capabilities {
        name: "like v3",
        transactions: true,
        max_operations: 128,
        max_value: 1 << 20,
        past_revisions: true,
        binary_values: true,
        directories: false,
    };

    const OWN: &str = "/q/5";
    const FENCE: Revision = Revision::new(5);

    fn kv(key: &[u8], created: u64, lease: Option<u64>) -> KeyValue {
        let (created, lease) = (Revision::new(created), lease.and_then(LeaseId::new));
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::new());
        KeyValue { key, value, created, modified: created, version: Some(1), lease, ttl: None }
    }

    /// Returns the contender before our key, as found in an answer with our key, which was created
    /// at [`FENCE`], and with `others`.
    fn before(others: Vec<KeyValue>, more: bool) -> Before {
        let kvs = [vec![kv(OWN.as_bytes(), FENCE.get(), Some(5))], others].concat();
        let reply = RangeReply { revision: Revision::new(9), kvs, more, ..RangeReply::default() };
        Before::of(&Key::stored(b"/q"), &Key::stored(OWN.as_bytes()), FENCE, reply, &V3)
    }

    fn behind(key: &[u8], created: u64) -> Before {
        Before::Somebody { rank: Rank { key: Key::stored(key), created: Revision::new(created) }, as_of: Revision::new(9) }
    }

    #[test]
    fn waiter_waits_for_every_leased_key() {
        for name in [&b"123456"[..], b"4F", b"README", b"sub/4", b"/", b"4/", b"_4", b" ", "ü".as_bytes(), b"\xff\xfe", b"\0"] {
            let key = [b"/q/", name].concat();
            assert_eq!(before(vec![kv(&key, 4, Some(1))], false), behind(&key, 4), "{name:?}");
            assert_eq!(before(vec![kv(&key, 4, None)], false), Before::Nobody, "{name:?}");
            assert_eq!(before(vec![kv(&key, 4, None)], true), Before::Unclear, "{name:?}");
        }
    }

    #[test]
    fn smallest_key_created_by_one_transaction_is_first() {
        // Our key is the larger one: it waits.
        assert_eq!(before(vec![kv(b"/q/4", 5, Some(1))], false), behind(b"/q/4", 5));
        // Our key is the smaller one. A contender of this library waits for it.
        assert_eq!(before(vec![kv(b"/q/6", 5, Some(1))], false), Before::Nobody);
        // The answer shows two of at least three keys: the third may be before ours.
        assert_eq!(before(vec![kv(b"/q/6", 5, Some(1))], true), Before::Unclear);
    }

    #[test]
    fn newest_earlier_key_is_the_predecessor() {
        let others = vec![kv(b"/q/1", 3, Some(1)), kv(b"/q/3", 4, Some(3)), kv(b"/q/2", 4, Some(2)), kv(b"/q/9", 6, Some(9))];
        assert_eq!(before(others, false), behind(b"/q/3", 4));
    }
}
