//! Every order of events that a queue of three can see, with the code that decides: who is granted what, when.
//!
//! The server does one thing at a time; between any two of its acts anything may happen: a request waits, its answer waits or is lost, a copy of it is
//! applied later, a lease runs out although its owner waits, somebody deletes a key, whoever waits gives up, whoever holds releases. What must hold in all states that can be reached is in
//! [`World::check`]. That the check sees what it should is shown by clients that are wrong on purpose.

#![allow(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{HashSet, VecDeque};
use std::sync::LazyLock;

use bytes::Bytes;

use super::*;
use crate::revision::LeaseId;

const CLIENTS: usize = 3;

/// How a client decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mind {
    /// By [`Place`].
    Ours,
    /// Whoever is woken takes what it waited for without a look: Go's election, and etcd's lock service before 3.5.
    TrustsTheEvent,
    /// Looks only whether anybody is before it, not whether it is there itself.
    ForgetsItself,
    /// Waits for changes after the moment at which it begins to wait, not after what it read.
    WatchesFromNow,
    /// Takes what one who waited says when he gives up for what one who had it says.
    TrustsWhoeverLeaves,
    /// Takes it when whoever had it says so, without having read whether its own key is there.
    TrustsTheRelease,
    /// Takes the word of whoever had it also where another one was read to be before it.
    TrustsAnyRelease,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Client {
    place: Place,
    /// A request that was sent and not done yet. Enter requests are copied when an answer is lost, so there may be one that nobody waits for.
    sent: Option<Request>,
    stray_enter: bool,
    /// An answer on its way.
    answer: Option<Answer>,
    /// What another one of its process has left for it.
    left: Option<Legacy>,
    /// The server has its lease.
    leased: bool,
    /// It gave up, or has released what it had.
    done: bool,
    /// When the watch that it waits with was made, if that is what counts.
    watching: Option<Revision>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Request {
    Enter,
    Look { fence: Revision, whole: bool },
}

/// What the answer to a release said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Legacy {
    /// Who had it.
    first: Rank,
    /// When the other key that was read came to be, if it was there.
    found: Option<Revision>,
    /// Whether that was the first then, which was not read.
    is_first: bool,
}

/// An [`Input`] that can be told from another.
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
    revision: Revision,
    /// Which key came to be when; a client's is `Some`, a foreign one's `None`.
    keys: Vec<(Option<usize>, Revision)>,
    /// Whether somebody will yet make a key of his own in the directory.
    foreign: bool,
    /// When a client's key was deleted last.
    deleted: [Revision; CLIENTS],
    clients: [Client; CLIENTS],
    /// The largest fence that was granted, as of the moment that the answer was made which granted it.
    granted: Revision,
    /// How often an answer may yet be lost, or a lease run out.
    misfortunes: u8,
    /// What should not have been granted.
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

    /// All worlds that may come next.
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
        // Not always, since most of the time goes into trying.
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

    /// The server does what was asked.
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

    /// This is the moment at which somebody becomes the holder, whenever he learns it.
    fn grant(&mut self, i: usize, fence: Revision) {
        self.judge(self.key_of(i) == Some(fence), !self.is_behind(fence) && fence >= self.granted);
        self.granted = fence;
    }

    fn judge(&mut self, is_there: bool, is_first: bool) {
        if !is_there {
            self.fault = Some("granted to somebody whose key is gone");
        } else if !is_first {
            self.fault = Some("granted before its turn");
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

    /// Somebody's answer comes.
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

    /// An answer is lost. A look is repeated; an enter too, and the first one may be applied again later.
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

    /// A copy that nobody waits for is applied.
    fn perform_stray(&mut self, i: usize) -> bool {
        if !std::mem::take(&mut self.clients[i].stray_enter) {
            return false;
        }
        self.enter(i);
        true
    }

    /// The watch tells that the predecessor is gone. There is no other reason to look in this model: no wake-up may be lost.
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

    /// The lease runs out, whatever its owner does and thinks.
    fn expire(&mut self, i: usize) -> bool {
        if !self.clients[i].leased || self.misfortunes == 0 {
            return false;
        }
        self.misfortunes -= 1;
        self.end_lease(i);
        true
    }

    /// Whoever waits is dropped, whoever holds releases: the lease goes.
    fn give_up(&mut self, i: usize) -> bool {
        if std::mem::replace(&mut self.clients[i].done, true) {
            return false;
        }
        self.end_lease(i);
        // What it sent does nothing any more: it is all the same what that was.
        let client = &mut self.clients[i];
        (client.place, client.sent, client.answer, client.left, client.watching) = (Place::new(), None, None, None, None);
        true
    }

    /// Whoever holds releases, and reads in the same request the key of another one of its process: one that waits for it, or one that is being made.
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
            // Nothing follows from that: it is as if he gave up.
            return false;
        }
        self.give_up(i);
        let is_first = found.is_some_and(|found| !self.is_behind(found));
        if let (true, Some(found)) = (is_first, found) {
            // Whenever it is heard of, this is the moment that counts. (If it never is, nobody who came earlier can be granted it either.)
            self.granted = self.granted.max(found);
        }
        self.clients[next].left = Some(Legacy { first, found, is_first });
        true
    }

    /// Whoever holds releases, and makes in the same request the key of another one of its process.
    fn take_along(&mut self, i: usize, other: usize) -> bool {
        let Some(_) = self.gives_up_first(i) else { return false };
        let client = &self.clients[other];
        // A request that fails as a whole does nothing.
        if client.sent != Some(Request::Enter) || !client.leased || self.key_of(other).is_some() {
            return false;
        }
        self.give_up(i);
        // One transaction has one revision.
        self.revision = self.deleted[i];
        self.keys.push((Some(other), self.revision));
        self.clients[other].sent = None;
        let made = Answer::Made(self.revision, self.before(other, self.revision, false));
        self.answer(other, made, Some(self.revision));
        true
    }

    /// What the request of whoever holds says that it gives up. The request is conditioned on the key, and does nothing if that is not as it was.
    fn gives_up_first(&self, i: usize) -> Option<Rank> {
        let client = &self.clients[i];
        let created = match client.place.want() {
            Want::End(Outcome::First(fence)) => fence,
            Want::Wait { fence, .. } if self.mind == Mind::TrustsWhoeverLeaves => fence,
            _ => return None,
        };
        (!client.done && self.key_of(i) == Some(created)).then(|| Rank { key: key(i), created })
    }

    /// Whoever waits finds what was left for it.
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
        if self.key_of(i).is_some() {
            self.revision = self.revision.next();
            self.deleted[i] = self.revision;
            self.keys.retain(|(owner, _)| *owner != Some(i));
        }
    }

    fn key_of(&self, i: usize) -> Option<Revision> {
        self.keys.iter().find(|(owner, _)| *owner == Some(i)).map(|(_, created)| *created)
    }

    /// What a server answers of the directory: all of it, or the two newest up to this one.
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

    /// What holds of every world.
    fn check(&self) -> Result<(), String> {
        if let Some(fault) = self.fault {
            return Err(fault.to_owned());
        }
        // Who believes to be the first, and is there to write under it.
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

/// What is asked for all the time is made once.
static DIRECTORY: LazyLock<Key> = LazyLock::new(|| Key::root().descend("lock"));

/// The names are those of leases, of which none is zero.
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

/// Goes through all worlds that can be reached; or the first that must not be.
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
fn l1_l4_in_every_order_of_events_one_at_a_time_is_granted_it_and_nobody_waits_for_ever() {
    for foreign in [false, true] {
        let worlds = explore(World::new(Mind::Ours, foreign, 2 - u8::from(foreign))).unwrap();
        assert!(worlds.len() > 10_000, "{} worlds are too few to be all", worlds.len());
        // Some are granted it by the release of who was before, some before they knew that they wait, and some with the key they made in that request.
        let some = |is: fn(&Client) -> bool| worlds.iter().any(|world| world.clients.iter().any(is));
        assert!(some(|client| client.left.is_some() && matches!(client.place.want(), Want::Wait { .. })));
        assert!(some(|client| client.left.is_some() && client.place.want() == Want::Enter));
        // A look at the newest key alone is not enough where it is a foreign one.
        assert_eq!(worlds.iter().any(|world| world.clients.iter().any(|client| client.place.whole)), foreign);
    }
}

#[test]
fn l4_a_client_that_trusts_the_event_is_granted_it_after_its_lease_ran_out() {
    let fault = explore(World::new(Mind::TrustsTheEvent, false, 2)).unwrap_err();
    assert!(fault.starts_with("granted"), "{fault}");
}

#[test]
fn l4_a_client_that_does_not_look_for_its_own_key_is_granted_it_after_its_lease_ran_out() {
    let fault = explore(World::new(Mind::ForgetsItself, false, 2)).unwrap_err();
    assert!(fault.starts_with("granted to somebody whose key is gone"), "{fault}");
}

#[test]
fn l5_a_client_that_watches_from_now_waits_for_ever() {
    let fault = explore(World::new(Mind::WatchesFromNow, false, 2)).unwrap_err();
    assert!(fault.contains("waits for ever"), "{fault}");
}

#[test]
fn l4_a_client_that_takes_the_word_of_one_who_was_not_the_first_is_granted_it_before_its_turn() {
    for mind in [Mind::TrustsWhoeverLeaves, Mind::TrustsAnyRelease] {
        let fault = explore(World::new(mind, false, 1)).unwrap_err();
        assert!(fault.starts_with("granted before its turn"), "{mind:?}: {fault}");
    }
}

#[test]
fn l4_a_client_that_was_not_read_with_the_release_is_granted_it_after_its_lease_ran_out() {
    let fault = explore(World::new(Mind::TrustsTheRelease, false, 1)).unwrap_err();
    assert!(fault.starts_with("granted to somebody whose key is gone"), "{fault}");
}
