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
        let is_own = |kv: &KeyValue| kv.key.as_ref() == own.as_str().as_bytes();
        let older: Vec<KeyValue> = reply.kvs.into_iter().filter(|kv| kv.created < fence && !is_own(kv)).collect();
        let last = older.iter().filter(|kv| is_contender(directory, kv, capabilities)).max_by_key(|kv| kv.created);
        match last.and_then(|kv| Some(Rank { key: directory.descend(directory.below(&kv.key)?), created: kv.created })) {
            Some(rank) => Self::Somebody { rank, as_of: reply.revision },
            None if older.is_empty() || !reply.more => Self::Nobody,
            None => Self::Unclear,
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
