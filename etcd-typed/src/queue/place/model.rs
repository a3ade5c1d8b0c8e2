//! A model checker for the queue. Three clients decide with the real [`Place`]; the model explores
//! every order of events that they can see, and checks when each client is granted the queue.
//!
//! The server performs one request at a time. Between two requests anything may happen: a request
//! waits, its answer waits or is lost, the server applies a copy of the request later, a lease runs
//! out while its owner waits, a key is deleted, a waiter gives up, the holder releases.
//! [`World::check`] states what must hold in every reachable state. Clients that decide wrongly on
//! purpose ([`Mind`]) show that the check finds errors.

#![allow(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{HashSet, VecDeque};
use std::sync::LazyLock;

use bytes::Bytes;

use super::*;
use crate::revision::LeaseId;

const CLIENTS: usize = 3;

/// How a client decides that it is the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mind {
    /// The client decides as [`Place`] does.
    Ours,
    /// A client that is woken considers itself the holder without another read, as Go's election
    /// and etcd's lock service before 3.5 do.
    TrustsTheEvent,
    /// The client reads whether another key is before its own, but not whether its own key exists.
    ForgetsItself,
    /// The client watches from the moment at which it begins to wait, and not from the revision
    /// that it read.
    WatchesFromNow,
    /// The client treats a waiter that gives up like a holder that releases.
    TrustsWhoeverLeaves,
    /// The client trusts the release of the holder without having read whether its own key exists.
    TrustsTheRelease,
    /// The client trusts the release of a holder even if it has read that another key is before its
    /// own.
    TrustsAnyRelease,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Client {
    place: Place,
    /// A request that was sent but not performed yet.
    sent: Option<Request>,
    /// Whether the server may still perform a second copy of an enter request whose answer was
    /// lost. The client does not get an answer to that copy.
    stray_enter: bool,
    /// An answer that was not delivered yet.
    answer: Option<Answer>,
    /// A message that another client of its process left for this client.
    left: Option<Legacy>,
    /// Whether the server still has the lease of this client.
    leased: bool,
    /// Whether the client gave up or released the queue.
    done: bool,
    /// The revision at which the client's watch was created, for [`Mind::WatchesFromNow`].
    watching: Option<Revision>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Request {
    Enter,
    Look { fence: Revision, whole: bool },
}

/// The part of the answer to a release that is passed to the next client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Legacy {
    /// The holder that released.
    first: Rank,
    /// The creation revision of the other key that was read, if it existed.
    found: Option<Revision>,
    /// Whether the other key was the first after the release. Only the model knows this; the client
    /// cannot read it.
    is_first: bool,
}

/// An [`Input`] that implements `Hash`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Made(Revision, Told),
    WasThere(Revision),
    Looked(Told),
    Missing,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Told {
    Nobody,
    Somebody(Rank, Revision),
    Unclear,
}

impl From<Before> for Told {
    fn from(before: Before) -> Self {
        match before {
            Before::Nobody => Self::Nobody,
            Before::Somebody { rank, as_of } => Self::Somebody(rank, as_of),
            Before::Unclear => Self::Unclear,
        }
    }
}

impl From<Told> for Before {
    fn from(told: Told) -> Self {
        match told {
            Told::Nobody => Self::Nobody,
            Told::Somebody(rank, as_of) => Self::Somebody { rank, as_of },
            Told::Unclear => Self::Unclear,
        }
    }
}

impl From<Answer> for Input {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Made(fence, told) => Self::Made { fence, before: Some(told.into()) },
            Answer::WasThere(fence) => Self::WasThere { fence },
            Answer::Looked(told) => Self::Looked(told.into()),
            Answer::Missing => Self::Missing,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    mind: Mind,
    /// How many of the clients, counted from the first, share one lease that the caller keeps.
    sharing: usize,
    revision: Revision,
    /// The creation revision of each key. The owner is `None` for a foreign key.
    keys: Vec<(Option<usize>, Revision)>,
    /// Whether a foreign key may still be created in the directory.
    foreign: bool,
    /// The last revision at which each client's key was deleted.
    deleted: [Revision; CLIENTS],
    clients: [Client; CLIENTS],
    /// The largest fence that was granted. A grant counts when the server answers, not when the
    /// client receives the answer.
    granted: Revision,
    /// How many more times an answer may be lost or a lease may run out.
    misfortunes: u8,
    /// What was wrong with a grant that should not have happened.
    fault: Option<&'static str>,
}

impl World {
    fn new(mind: Mind, foreign: bool, misfortunes: u8) -> Self {
        let client = Client {
            place: Place::new(),
            sent: None,
            stray_enter: false,
            answer: None,
            left: None,
            leased: true,
            done: false,
            watching: None,
        };
        let clients = [client.clone(), client.clone(), client];
        let revision = Revision::new(1);
        Self {
            mind,
            sharing: 0,
            revision,
            keys: Vec::new(),
            foreign,
            deleted: [Revision::ZERO; CLIENTS],
            clients,
            granted: Revision::ZERO,
            misfortunes,
            fault: None,
        }
    }

    /// Returns all worlds that may come next.
    fn next(&self) -> Vec<Self> {
        let mut next: Vec<Self> = (0..CLIENTS).flat_map(|i| self.next_of(i)).collect();
        if self.foreign {
            let revision = self.revision.next();
            let keys = self.keys.iter().copied().chain([(None, revision)]).collect();
            next.push(Self { foreign: false, revision, keys, ..self.clone() });
        }
        next
    }

    fn next_of(&self, i: usize) -> Vec<Self> {
        let mut next = Vec::new();
        let mut step = |change: &dyn Fn(&mut Self) -> bool| {
            let mut world = self.clone();
            if change(&mut world) {
                next.push(world);
            }
        };
        step(&|world| world.send(i));
        step(&|world| world.perform(i));
        step(&|world| world.deliver(i));
        step(&|world| world.lose_answer(i));
        step(&|world| world.perform_stray(i));
        step(&|world| world.wake(i));
        step(&|world| world.expire(i));
        step(&|world| world.give_up(i));
        step(&|world| world.clean_up(i));
        // These steps take most of the time, so they are explored only if the client can release
        // the queue.
        let others = if self.gives_up_first(i).is_some() { 0..CLIENTS } else { 0..0 };
        for other in others.filter(|other| *other != i) {
            step(&|world| world.hand_on(i, other));
            step(&|world| world.take_along(i, other));
        }
        if self.clients[i].left.is_some() {
            step(&|world| world.hear_of_release(i));
        }
        next
    }

    fn send(&mut self, i: usize) -> bool {
        let client = &mut self.clients[i];
        if client.done || client.sent.is_some() || client.answer.is_some() {
            return false;
        }
        client.sent = match client.place.want() {
            Want::Enter => Some(Request::Enter),
            Want::Look { fence, whole } => Some(Request::Look { fence, whole }),
            Want::Wait { .. } if self.mind == Mind::WatchesFromNow && client.watching.is_none() => {
                client.watching = Some(self.revision);
                return true;
            }
            Want::Wait { .. } | Want::End(_) => return false,
        };
        true
    }

    /// The server performs the request.
    fn perform(&mut self, i: usize) -> bool {
        let Some(request) = self.clients[i].sent.take() else { return false };
        let (answer, fence) = match request {
            Request::Enter => (self.enter(i), self.key_of(i)),
            Request::Look { fence, whole } => (self.look(i, fence, whole), Some(fence)),
        };
        self.answer(i, answer, fence);
        true
    }

    fn look(&self, i: usize, fence: Revision, whole: bool) -> Answer {
        let there = self.key_of(i) == Some(fence) && self.clients[i].leased;
        if there || self.mind == Mind::ForgetsItself { Answer::Looked(self.before(i, fence, whole)) } else { Answer::Missing }
    }

    fn answer(&mut self, i: usize, answer: Answer, fence: Option<Revision>) {
        if let (Answer::Made(_, Told::Nobody) | Answer::Looked(Told::Nobody), Some(fence)) = (&answer, fence) {
            self.grant(i, fence);
        }
        if !self.clients[i].done {
            self.clients[i].answer = Some(answer);
        }
    }

    /// Makes the client the holder from now on, even if the client gets the answer later.
    fn grant(&mut self, i: usize, fence: Revision) {
        self.judge(self.key_of(i) == Some(fence), !self.is_behind(fence) && fence >= self.granted);
        self.granted = fence;
    }

    fn judge(&mut self, is_there: bool, is_first: bool) {
        if !is_there {
            self.fault = Some("granted to somebody whose key is gone");
        } else if !is_first {
            self.fault = Some("granted too early");
        }
    }

    fn is_behind(&self, fence: Revision) -> bool {
        self.keys.iter().any(|(owner, created)| owner.is_some() && *created < fence)
    }

    fn enter(&mut self, i: usize) -> Answer {
        if !self.clients[i].leased {
            return Answer::Missing;
        }
        if let Some(created) = self.key_of(i) {
            return Answer::WasThere(created);
        }
        self.revision = self.revision.next();
        self.keys.push((Some(i), self.revision));
        Answer::Made(self.revision, self.before(i, self.revision, false))
    }

    /// The client gets its answer.
    fn deliver(&mut self, i: usize) -> bool {
        let client = &mut self.clients[i];
        let Some(answer) = client.answer.take() else { return false };
        client.place.handle(answer.into());
        client.watching = None;
        let want = client.place.want();
        let follows = |left: &Legacy| matches!(&want, Want::Wait { predecessor, .. } if *predecessor == left.first);
        if self.mind != Mind::TrustsAnyRelease {
            client.left = client.left.take().filter(follows);
        }
        true
    }

    /// An answer is lost, so the client repeats its request. The server may apply the first copy of
    /// an enter request later.
    fn lose_answer(&mut self, i: usize) -> bool {
        let client = &mut self.clients[i];
        if client.answer.is_none() || self.misfortunes == 0 {
            return false;
        }
        self.misfortunes -= 1;
        client.stray_enter = client.place.want() == Want::Enter;
        client.answer = None;
        true
    }

    /// The server performs a late copy of an enter request. The client does not get the answer.
    fn perform_stray(&mut self, i: usize) -> bool {
        if !std::mem::take(&mut self.clients[i].stray_enter) {
            return false;
        }
        self.enter(i);
        true
    }

    /// The watch reports that the predecessor is gone. In this model a waiter never looks for
    /// another reason, so that a lost wake-up makes it wait forever.
    fn wake(&mut self, i: usize) -> bool {
        if !self.hears(i) {
            return false;
        }
        let client = &mut self.clients[i];
        if self.mind == Mind::TrustsTheEvent
            && let State::Behind { fence, .. } = client.place.state
        {
            client.place.state = State::First { fence };
            self.grant(i, fence);
            return true;
        }
        client.place.handle(Input::Stirred);
        true
    }

    fn hears(&self, i: usize) -> bool {
        let client = &self.clients[i];
        let Want::Wait { predecessor, since, .. } = client.place.want() else { return false };
        let from = match self.mind {
            Mind::WatchesFromNow => client.watching,
            _ => Some(since),
        };
        let gone = (0..CLIENTS)
            .find(|other| KEYS[*other] == predecessor.key)
            .is_some_and(|other| from.is_some_and(|from| self.deleted[other] > from));
        gone && !client.done
    }

    /// The client's lease runs out.
    fn expire(&mut self, i: usize) -> bool {
        if !self.clients[i].leased || self.misfortunes == 0 {
            return false;
        }
        self.misfortunes -= 1;
        if self.shares(i) {
            (0..self.sharing).for_each(|other| self.end_lease(other));
        } else {
            self.end_lease(i);
        }
        true
    }

    /// Returns whether the client shares its lease with others.
    fn shares(&self, i: usize) -> bool {
        i < self.sharing
    }

    /// A waiter is dropped, or the holder releases. If the client has its own lease, the lease
    /// ends. On a shared lease only the client's key is deleted, and a request that is on its way
    /// may still create the key.
    fn give_up(&mut self, i: usize) -> bool {
        if std::mem::replace(&mut self.clients[i].done, true) {
            return false;
        }
        if self.shares(i) {
            self.delete_key(i);
            let client = &mut self.clients[i];
            client.stray_enter |= client.leased && client.sent == Some(Request::Enter);
        } else {
            self.end_lease(i);
        }
        // The client's other requests have no effect any more, so they need no state.
        let client = &mut self.clients[i];
        (client.place, client.sent, client.answer, client.left, client.watching) = (Place::new(), None, None, None, None);
        true
    }

    /// The background task of a client on a shared lease deletes a key that was created after the
    /// client gave up.
    fn clean_up(&mut self, i: usize) -> bool {
        self.shares(i) && self.clients[i].done && self.delete_key(i)
    }

    /// The holder releases. The same request reads the key of another client of its process, which
    /// waits for the holder or is creating its key.
    fn hand_on(&mut self, i: usize, next: usize) -> bool {
        let Some(first) = self.gives_up_first(i) else { return false };
        let client = &self.clients[next];
        let entering = client.place.want() == Want::Enter && (client.sent.is_some() || client.answer.is_some());
        let waits = matches!(client.place.want(), Want::Wait { predecessor, .. } if predecessor.key == KEYS[i]);
        if client.done || client.left.is_some() || !(entering || waits) {
            return false;
        }
        let found = self.key_of(next);
        if found.is_none() && self.mind != Mind::TrustsTheRelease {
            // The answer would have no effect, so this step equals `give_up`.
            return false;
        }
        self.give_up(i);
        let is_first = found.is_some_and(|found| !self.is_behind(found));
        if let (true, Some(found)) = (is_first, found) {
            // The grant counts from now, even if the client learns of it later or never. No client
            // that came earlier can be granted the queue after this.
            self.granted = self.granted.max(found);
        }
        self.clients[next].left = Some(Legacy { first, found, is_first });
        true
    }

    /// The holder releases. The same request creates the key of another client of its process.
    fn take_along(&mut self, i: usize, other: usize) -> bool {
        let Some(_) = self.gives_up_first(i) else { return false };
        let client = &self.clients[other];
        // The request would fail as a whole and have no effect.
        if client.sent != Some(Request::Enter) || !client.leased || self.key_of(other).is_some() {
            return false;
        }
        self.give_up(i);
        // Both changes have the revision of the transaction.
        self.revision = self.deleted[i];
        self.keys.push((Some(other), self.revision));
        self.clients[other].sent = None;
        let made = Answer::Made(self.revision, self.before(other, self.revision, false));
        self.answer(other, made, Some(self.revision));
        true
    }

    /// Returns the key that the release deletes. The release is conditional on the key and has no
    /// effect if the key changed.
    fn gives_up_first(&self, i: usize) -> Option<Rank> {
        let client = &self.clients[i];
        let created = match client.place.want() {
            Want::End(Outcome::First(fence)) => fence,
            Want::Wait { fence, .. } if self.mind == Mind::TrustsWhoeverLeaves => fence,
            _ => return None,
        };
        (!client.done && self.key_of(i) == Some(created)).then(|| Rank { key: key(i), created })
    }

    /// The waiter gets the message that the releasing client left for it.
    fn hear_of_release(&mut self, i: usize) -> bool {
        let client = &mut self.clients[i];
        let Want::Wait { fence, predecessor, .. } = client.place.want() else { return false };
        let Some(Legacy { first, found, is_first }) = client.left.take() else { return false };
        let there = found == Some(fence) || self.mind == Mind::TrustsTheRelease;
        if self.mind == Mind::TrustsAnyRelease && there {
            client.place.state = State::First { fence };
        } else if predecessor == first {
            client.place.handle(if there { Input::Left(first) } else { Input::Stirred });
        }
        if client.place.want() == Want::End(Outcome::First(fence)) {
            self.judge(found == Some(fence), is_first);
        }
        true
    }

    fn end_lease(&mut self, i: usize) {
        self.clients[i].leased = false;
        self.clients[i].stray_enter = false;
        self.delete_key(i);
    }

    /// Returns whether the key existed.
    fn delete_key(&mut self, i: usize) -> bool {
        if self.key_of(i).is_none() {
            return false;
        }
        self.revision = self.revision.next();
        self.deleted[i] = self.revision;
        self.keys.retain(|(owner, _)| *owner != Some(i));
        true
    }

    fn key_of(&self, i: usize) -> Option<Revision> {
        self.keys.iter().find(|(owner, _)| *owner == Some(i)).map(|(_, created)| *created)
    }

    /// Returns the contender before this client's key, from a read of the whole directory or of the
    /// two newest keys up to `fence`.
    fn before(&self, i: usize, fence: Revision, whole: bool) -> Told {
        const LIMIT: usize = 2;
        let upto = |created: Revision| whole || created <= fence;
        let mut kvs: Vec<KeyValue> = self.keys.iter().filter(|(_, created)| upto(*created)).map(|key| stored(*key)).collect();
        kvs.sort_by_key(|kv| std::cmp::Reverse(kv.created));
        let more = !whole && kvs.len() > LIMIT;
        if !whole {
            kvs.truncate(LIMIT);
        }
        let reply = RangeReply { revision: self.revision, kvs, more, ..RangeReply::default() };
        Before::of(&DIRECTORY, &key(i), fence, reply, &capabilities()).into()
    }

    /// Checks the rules that must hold in every world. Returns the first broken rule as an error.
    fn check(&self) -> Result<(), String> {
        if let Some(fault) = self.fault {
            return Err(fault.to_owned());
        }
        // A client holds the queue if it considers itself the first and its key exists: it can then
        // write under the guard.
        let holds = |i: &usize| match self.clients[*i].place.want() {
            Want::End(Outcome::First(fence)) => !self.clients[*i].done && self.key_of(*i) == Some(fence),
            _ => false,
        };
        if (0..CLIENTS).filter(holds).count() > 1 {
            return Err("two hold it at once".to_owned());
        }
        for i in 0..CLIENTS {
            let client = &self.clients[i];
            if let (Want::Wait { predecessor, .. }, false) = (client.place.want(), client.done) {
                let waits_for_somebody = (0..CLIENTS).any(|other| KEYS[other] == predecessor.key && self.key_of(other).is_some());
                let will_watch = self.mind == Mind::WatchesFromNow && client.watching.is_none();
                if !waits_for_somebody && !will_watch && !self.hears(i) {
                    return Err(format!("{i} waits for ever"));
                }
            }
        }
        Ok(())
    }
}

/// Created once, since every step uses the keys.
static DIRECTORY: LazyLock<Key> = LazyLock::new(|| Key::root().descend("lock"));

/// The key of each client, named by its lease. The number of a lease is never zero.
static KEYS: LazyLock<[Key; CLIENTS]> = LazyLock::new(|| std::array::from_fn(|i| DIRECTORY.descend(&(i + 1).to_string())));

fn key(i: usize) -> Key {
    KEYS[i].clone()
}

fn stored((owner, created): (Option<usize>, Revision)) -> KeyValue {
    let key = owner.map_or_else(|| DIRECTORY.descend("README"), key);
    let lease = owner.and_then(|i| LeaseId::new(i as u64 + 1));
    let (value, version, ttl) = (Bytes::new(), None, None);
    KeyValue { key: Bytes::from(key.as_str().to_owned()), value, created, modified: created, version, lease, ttl }
}

fn capabilities() -> Capabilities {
    Capabilities {
        name: "model",
        transactions: true,
        max_operations: 128,
        max_value: 1 << 20,
        past_revisions: true,
        binary_values: true,
        directories: false,
    }
}

/// Explores all reachable worlds and returns them, or the first fault as an error.
fn explore(start: World) -> Result<HashSet<World>, String> {
    let mut seen = HashSet::from([start.clone()]);
    let mut open = VecDeque::from([start]);
    while let Some(world) = open.pop_front() {
        for next in world.next() {
            next.check().map_err(|fault| format!("{fault}: {next:#?}"))?;
            if seen.insert(next.clone()) {
                open.push_back(next);
            }
        }
    }
    Ok(seen)
}

#[test]
fn every_order_of_events_grants_one_holder() {
    for foreign in [false, true] {
        let worlds = explore(World::new(Mind::Ours, foreign, 2 - u8::from(foreign))).unwrap();
        assert!(worlds.len() > 10_000, "{} worlds are too few to be all", worlds.len());
        // The predecessor's release must reach clients that wait, and also clients that do not know
        // yet that they must wait.
        let some = |is: fn(&Client) -> bool| worlds.iter().any(|world| world.clients.iter().any(is));
        assert!(some(|client| client.left.is_some() && matches!(client.place.want(), Want::Wait { .. })));
        assert!(some(|client| client.left.is_some() && client.place.want() == Want::Enter));
        // Some client must read the whole directory if the newest key is a foreign one.
        assert_eq!(worlds.iter().any(|world| world.clients.iter().any(|client| client.place.whole)), foreign);
    }
}

/// Two of the three clients share a lease, whose end deletes both keys. A client that gives up
/// deletes only its own key.
#[test]
fn every_order_of_events_grants_one_holder_on_shared_lease() {
    let worlds = explore(World { sharing: 2, ..World::new(Mind::Ours, false, 1) }).unwrap();
    assert!(worlds.len() > 10_000, "{} worlds are too few to be all", worlds.len());
    // The worlds include a key that was created after its client gave up, and a client that holds
    // the queue after the other client with the same lease.
    assert!(worlds.iter().any(|world| (0..2).any(|i| world.clients[i].done && world.key_of(i).is_some())));
    let holds = |client: &Client| matches!(client.place.want(), Want::End(Outcome::First(_)));
    assert!(worlds.iter().any(|world| world.clients[0].done && world.clients[0].leased && holds(&world.clients[1])));
}

#[test]
fn model_catches_grant_without_another_read() {
    let fault = explore(World::new(Mind::TrustsTheEvent, false, 2)).unwrap_err();
    assert!(fault.starts_with("granted"), "{fault}");
}

#[test]
fn model_catches_missing_check_of_own_key() {
    let fault = explore(World::new(Mind::ForgetsItself, false, 2)).unwrap_err();
    assert!(fault.starts_with("granted to somebody whose key is gone"), "{fault}");
}

#[test]
fn model_catches_watch_that_starts_too_late() {
    let fault = explore(World::new(Mind::WatchesFromNow, false, 2)).unwrap_err();
    assert!(fault.contains("waits for ever"), "{fault}");
}

#[test]
fn model_catches_release_by_non_holder() {
    for mind in [Mind::TrustsWhoeverLeaves, Mind::TrustsAnyRelease] {
        let fault = explore(World::new(mind, false, 1)).unwrap_err();
        assert!(fault.starts_with("granted too early"), "{mind:?}: {fault}");
    }
}

#[test]
fn model_catches_hand_over_without_own_key() {
    let fault = explore(World::new(Mind::TrustsTheRelease, false, 1)).unwrap_err();
    assert!(fault.starts_with("granted to somebody whose key is gone"), "{fault}");
}
