//! `Place`: what to ask next, from what was answered. Pure; the model in the tests plays it against a queue in all orders of events.

#[cfg(test)]
mod model;

use super::is_contender;
use crate::key::Key;
use crate::lease::Rank;
use crate::revision::Revision;
use crate::store::{Capabilities, KeyValue, RangeReply};

/// Somebody's way to the front of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    state: State,
    /// Where keys of others are in the directory, the newest one before ours says nothing: the whole directory must be looked at.
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

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Make the key, unless it is there.
    Enter,
    /// Is the key still there, and attached to the lease? If so, who came to be before it? The answer must be as of one revision, and linearizable.
    Look { fence: Revision, whole: bool },
    /// Wait until this key may be gone. It was there at this revision; ours came to be at `fence`.
    Wait { fence: Revision, predecessor: Rank, since: Revision },
    /// It is the first, or there is nothing left to wait with.
    End(Outcome),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The key is the first; this is when it came to be.
    First(Revision),
    /// The key is gone or somebody else's.
    Gone,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The key came to be with this request. `before` where the same answer says it.
    Made { fence: Revision, before: Option<Before> },
    /// The key was there: of an earlier request of ours whose answer was lost.
    WasThere { fence: Revision },
    /// The key is there as it was made, behind these.
    Looked(Before),
    /// The key is there as it was made, and this one, which was verified to be the first, is not: as of one revision.
    Left(Rank),
    /// The one before may be gone, or time has passed.
    Stirred,
    /// The key, or its lease, is not there.
    Missing,
}

/// Who came to be before our key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nobody,
    /// This is the last one before us, as of this revision.
    Somebody {
        rank: Rank,
        as_of: Revision,
    },
    /// The last key before ours is no contender's; whoever is before that was not looked at.
    Unclear,
}

impl Before {
    /// From what was read of the directory as of one revision: the whole of it, or the newest keys up to ours.
    pub(super) fn of(directory: &Key, own: &Key, fence: Revision, reply: RangeReply, capabilities: &Capabilities) -> Self {
        // Of keys that one transaction created the one with the smaller name is before the other. Without that, each of two would be the first.
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

    /// What was wanted has been answered.
    pub(super) fn handle(&mut self, input: Input) {
        self.state = match (&self.state, input) {
            (_, Input::Missing) => State::Gone,
            (_, Input::Made { fence, before: Some(before) }) => self.behind(fence, before),
            (_, Input::Made { fence, before: None } | Input::WasThere { fence }) => State::Unknown { fence },
            (State::Unknown { fence }, Input::Looked(before)) => self.behind(*fence, before),
            // Nobody came to be between the two of us, nor can he later, since what is made is made last. And nobody was before the one who left, since he
            // was the first.
            (State::Behind { fence, predecessor, .. }, Input::Left(first)) if *predecessor == first => State::First { fence: *fence },
            // Whatever woke us: only what was read of our own key makes an owner.
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

    /// Who is before our own key, which was created at [`FENCE`] and is in the answer too.
    fn before(others: Vec<KeyValue>, more: bool) -> Before {
        let kvs = [vec![kv(OWN.as_bytes(), FENCE.get(), Some(5))], others].concat();
        let reply = RangeReply { revision: Revision::new(9), kvs, more, ..RangeReply::default() };
        Before::of(&Key::stored(b"/q"), &Key::stored(OWN.as_bytes()), FENCE, reply, &V3)
    }

    fn behind(key: &[u8], created: u64) -> Before {
        Before::Somebody { rank: Rank { key: Key::stored(key), created: Revision::new(created) }, as_of: Revision::new(9) }
    }

    #[test]
    fn leased_key_is_waited_for_whatever_its_name() {
        for name in [&b"123456"[..], b"4F", b"README", b"sub/4", b"/", b"4/", b"_4", b" ", "ü".as_bytes(), b"\xff\xfe", b"\0"] {
            let key = [b"/q/", name].concat();
            assert_eq!(before(vec![kv(&key, 4, Some(1))], false), behind(&key, 4), "{name:?}");
            assert_eq!(before(vec![kv(&key, 4, None)], false), Before::Nobody, "{name:?}");
            assert_eq!(before(vec![kv(&key, 4, None)], true), Before::Unclear, "{name:?}");
        }
    }

    #[test]
    fn one_of_two_keys_of_one_transaction_is_first() {
        // Ours is the larger: it waits.
        assert_eq!(before(vec![kv(b"/q/4", 5, Some(1))], false), behind(b"/q/4", 5));
        // Ours is the smaller, and the other one waits for ours, if it is of this library.
        assert_eq!(before(vec![kv(b"/q/6", 5, Some(1))], false), Before::Nobody);
        // The answer shows two of at least three: the third may be before ours.
        assert_eq!(before(vec![kv(b"/q/6", 5, Some(1))], true), Before::Unclear);
    }

    #[test]
    fn last_key_before_ours_is_the_predecessor() {
        let others = vec![kv(b"/q/1", 3, Some(1)), kv(b"/q/3", 4, Some(3)), kv(b"/q/2", 4, Some(2)), kv(b"/q/9", 6, Some(9))];
        assert_eq!(before(others, false), behind(b"/q/3", 4));
    }
}
