//! Runs the engine against a model server that imitates everything that was seen on real servers:
//! random histories, compaction, broken connections, lagging members, replayed history, progress
//! ahead of events, loss of all data. After each step the receiver's tree must equal the server's
//! tree at that revision. Between two resets, batches must be ordered, unique and complete.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;

use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::revision::Revision;
use crate::store::{Batch, Event, KeyValue, Range, RangeReply, Span, WatchFrom, WatchItem};
use crate::watch::engine::{Engine, Input, Want};
use crate::watch::{Reason, Start, Step};

type Tree = BTreeMap<Bytes, KeyValue>;

/// Keys below the watched directory, and one key outside of it, whose writes only advance the
/// revision.
const KEYS: [&str; 5] = ["/a/p", "/a/q", "/a/r/s", "/a/t", "/ab"];

#[derive(Clone, Debug)]
enum Action {
    /// A transaction commits: for each key, `true` is a put and `false` a deletion.
    Write(Vec<(usize, bool)>),
    /// The server compacts this fraction (from 0 to 1) of its history.
    Compact(f64),
    /// The server loses all data, and then gets this many writes before the watch resumes.
    Wipe(usize),
    /// The engine gets an answer to its current want.
    Answer(Manner),
}

/// How the model server answers a want.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Honest,
    /// The answer is a temporary error.
    Failed,
    /// The stream ends without an error.
    Silent,
    /// The server sends this fraction of the history again.
    Replayed(f64),
    /// The server reports progress before it sends all changes up to that revision.
    EarlyProgress,
    Lagged,
    /// A member that lags behind answers the watch.
    LaggingMember,
    /// The server cancels the watch for compaction, although the watch has caught up.
    Cancelled,
}

/// The history of the server between two wipes. It starts empty.
#[derive(Debug)]
struct Life {
    number: u64,
    log: Vec<Batch>,
    revision: Revision,
    compacted: Revision,
}

impl Life {
    fn new(number: u64) -> Self {
        Self { number, log: Vec::new(), revision: Revision::new(1), compacted: Revision::ZERO }
    }

    fn write(&mut self, changes: &[(usize, bool)], nonce: &mut u64) {
        let before = self.tree_at(self.revision);
        let revision = self.revision.next();
        let mut events = BTreeMap::new();
        for &(index, put) in changes {
            let Some(name) = KEYS.get(index) else { continue };
            let key = Bytes::from_static(name.as_bytes());
            let old = before.get(&key);
            if put {
                *nonce += 1;
                // Versions never match across two lives. On a real server they almost never match.
                let version = old.and_then(|kv| kv.version).map_or(self.number * 1_000_000, |version| version + 1);
                let kv = KeyValue {
                    key: key.clone(),
                    value: Bytes::from(nonce.to_string()),
                    created: old.map_or(revision, |kv| kv.created),
                    modified: revision,
                    version: Some(version),
                    lease: None,
                    ttl: None,
                };
                events.insert(key, Event::Put { kv, previous: None });
            } else if old.is_some() {
                events.insert(key.clone(), Event::Delete { key, directory: false, previous: None });
            }
        }
        if !events.is_empty() {
            self.revision = revision;
            self.log.push(Batch { revision, events: events.into_values().collect() });
        }
    }

    fn tree_at(&self, revision: Revision) -> Tree {
        let mut tree = Tree::new();
        for batch in self.log.iter().take_while(|batch| batch.revision <= revision) {
            apply(&mut tree, batch);
        }
        tree
    }

    /// Returns the batch that a watch of the span yields after `at`.
    fn next_after(&self, span: &Span, at: Revision) -> Option<Batch> {
        self.log.iter().filter(|batch| batch.revision > at).map(|batch| within(span, batch)).find(|batch| !batch.events.is_empty())
    }

    fn range(&self, range: &Range, past_revisions: bool) -> Result<RangeReply, Error> {
        assert!(past_revisions || (range.revision.is_none() && range.limit.is_none()), "{range:?} on a store without a past");
        let revision = range.revision.unwrap_or(self.revision);
        if revision < self.compacted || revision > self.revision {
            return Err(Error::new(ErrorKind::HistoryLost, ""));
        }
        let mut kvs = Vec::from_iter(self.tree_at(revision).into_values().filter(|kv| range.span.contains(&kv.key)));
        kvs.truncate(range.limit.unwrap_or(usize::MAX));
        if !past_revisions {
            kvs.iter_mut().for_each(|kv| kv.version = None);
        }
        Ok(RangeReply { revision, kvs, ..RangeReply::default() })
    }
}

fn within(span: &Span, batch: &Batch) -> Batch {
    let inside = |event: &&Event| match event {
        Event::Put { kv, .. } => span.contains(&kv.key),
        Event::Delete { key, .. } => span.contains(key),
    };
    Batch { revision: batch.revision, events: batch.events.iter().filter(inside).cloned().collect() }
}

fn apply(tree: &mut Tree, batch: &Batch) {
    for event in &batch.events {
        match event {
            Event::Put { kv, .. } => tree.insert(kv.key.clone(), kv.clone()),
            Event::Delete { key, .. } => tree.remove(key),
        };
    }
}

/// The server's side of an open watch.
#[derive(Debug)]
struct Served {
    life: u64,
    at: Revision,
    /// Items that are sent first.
    queue: VecDeque<WatchItem>,
}

struct World {
    past_revisions: bool,
    span: Span,
    engine: Engine,
    lives: Vec<Life>,
    nonce: u64,
    served: Option<Served>,
    /// The server begins a new life when it loses its data. `listed` is the number of the life that
    /// answered the last list, and `seen_life` the number of the life whose state the receiver has.
    listed: u64,
    seen_life: Option<u64>,
    tree: Tree,
    known: bool,
    last_batch: Revision,
    /// The revision up to which the receiver has all changes.
    told: Revision,
    resets: usize,
    batches: usize,
}

impl World {
    fn new(past_revisions: bool, start: Start) -> Self {
        let span = Span::Below(Key::parse("/a").expect("a key"));
        Self {
            past_revisions,
            engine: Engine::new(span.clone(), "/a", past_revisions, start),
            span,
            lives: vec![Life::new(0)],
            nonce: 0,
            served: None,
            listed: 0,
            seen_life: None,
            tree: Tree::new(),
            known: false,
            last_batch: Revision::ZERO,
            told: Revision::ZERO,
            resets: 0,
            batches: 0,
        }
    }

    fn life(&mut self) -> &mut Life {
        self.lives.last_mut().expect("a server has a life")
    }

    /// Whether the receiver has the state of the server's present life.
    fn in_touch(&mut self) -> bool {
        let number = self.life().number;
        self.seen_life.is_none_or(|seen| seen == number)
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Write(changes) => {
                let mut nonce = self.nonce;
                // Without past revisions only the index reveals a wiped server, so the model does
                // not let the new index pass the index that the receiver saw.
                let hidden = !self.past_revisions && !self.in_touch() && self.life().revision.next() >= self.told;
                if !hidden {
                    self.life().write(changes, &mut nonce);
                }
                self.nonce = nonce;
            }
            Action::Compact(share) => {
                // The engine does not notice a wipe if the new server gets writes and deletions and
                // is compacted before the watch resumes. `anchor.rs` states this limit.
                if self.in_touch() {
                    let life = self.life();
                    let revision = Revision::new((life.revision.get() as f64 * share) as u64);
                    life.compacted = life.compacted.max(revision);
                }
            }
            Action::Wipe(writes) => {
                // The engine does not check the history between a list and the watch that follows
                // at once.
                if self.seen_life.is_none() || matches!(self.engine.want(), Want::Open(WatchFrom::Listed(_))) {
                    return;
                }
                let number = self.life().number + 1;
                self.lives.push(Life::new(number));
                for write in 0..*writes {
                    self.act(&Action::Write(vec![(write % KEYS.len(), write % 3 != 2)]));
                }
            }
            Action::Answer(manner) => self.answer(*manner),
        }
    }

    fn answer(&mut self, manner: Manner) {
        let failed = || Error::new(ErrorKind::Unavailable, "");
        let input = match self.engine.want() {
            Want::Read(_) | Want::Check(_) if matches!(manner, Manner::Failed) && self.seen_life.is_some() => Input::Read(Err(failed())),
            Want::Read(range) => {
                self.served = None;
                self.listed = self.life().number;
                let past = self.past_revisions;
                Input::Read(self.life().range(&range, past))
            }
            Want::Check(range) => {
                let past = self.past_revisions;
                Input::Read(self.life().range(&range, past))
            }
            Want::Open(_) if matches!(manner, Manner::Failed) => Input::Opened(Err(failed())),
            Want::Open(from) => {
                let at = from.revision();
                let life = self.life();
                let mut queue = VecDeque::new();
                if at > life.revision || matches!(manner, Manner::LaggingMember) && at > Revision::ZERO {
                    queue.push_back(WatchItem::Behind(at.previous().min(life.revision)));
                } else if at < life.compacted {
                    queue.push_back(WatchItem::HistoryLost { oldest: Some(life.compacted) });
                }
                self.served = Some(Served { life: life.number, at, queue });
                Input::Opened(Ok(()))
            }
            Want::Item => Input::Item(self.next_item(manner)),
            Want::Wait => Input::Waited,
            Want::Nothing => panic!("nothing that happened ends a watch"),
        };
        if let Some(step) = self.engine.handle(input) {
            self.receive(step.expect("no error ends a watch"));
        }
    }

    fn next_item(&mut self, manner: Manner) -> Option<Result<WatchItem, Error>> {
        let life = self.lives.last().expect("a server has a life");
        let Some(served) = self.served.as_mut().filter(|served| served.life == life.number) else {
            // The server was wiped in between, which closes the stream.
            return Some(Err(Error::new(ErrorKind::Unavailable, "")));
        };
        if let Some(item) = served.queue.pop_front() {
            if let WatchItem::Batch(batch) = &item {
                served.at = served.at.max(batch.revision);
            }
            return Some(Ok(item));
        }
        match manner {
            Manner::Failed => return Some(Err(Error::new(ErrorKind::Unavailable, ""))),
            Manner::Silent => return None,
            Manner::Lagged => return Some(Ok(WatchItem::Lagged)),
            Manner::Cancelled => return Some(Ok(WatchItem::HistoryLost { oldest: None })),
            Manner::Replayed(share) => {
                let from = Revision::new((served.at.get() as f64 * share) as u64);
                let old = life.log.iter().filter(|batch| batch.revision > from && batch.revision <= served.at);
                let old = old.map(|batch| within(&self.span, batch)).filter(|batch| !batch.events.is_empty());
                served.queue.extend(old.map(WatchItem::Batch));
            }
            Manner::EarlyProgress => {
                served.queue.push_back(WatchItem::Progress(life.revision));
                // If the connection broke now, these changes would be lost without a sign, so the
                // model always sends them.
                let mut at = served.at;
                while let Some(batch) = life.next_after(&self.span, at) {
                    at = batch.revision;
                    served.queue.push_back(WatchItem::Batch(batch));
                }
            }
            Manner::Honest | Manner::LaggingMember => {}
        }
        let at = served.at;
        let item = served.queue.pop_front().or_else(|| life.next_after(&self.span, at).map(WatchItem::Batch));
        let item = item.unwrap_or(WatchItem::Progress(life.revision));
        if let WatchItem::Batch(batch) = &item {
            served.at = served.at.max(batch.revision);
        }
        Some(Ok(item))
    }

    /// Receives a step and checks it.
    fn receive(&mut self, step: Step) {
        match step {
            Step::Reset(snapshot) => {
                self.resets += 1;
                match snapshot.reason {
                    Reason::Start => assert_eq!(self.resets, 1),
                    Reason::HistoryLost | Reason::Rewound => assert!(snapshot.known),
                }
                self.seen_life = Some(if snapshot.known { self.listed } else { self.life().number });
                self.tree = snapshot.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
                self.known = snapshot.known;
                self.last_batch = snapshot.revision;
                self.told = snapshot.revision;
                self.same_as_at(snapshot.revision);
            }
            Step::Batch(batch) => {
                self.batches += 1;
                self.came_to_another_life();
                assert!(batch.revision > self.last_batch, "batch {} comes after {}", batch.revision, self.last_batch);
                let life = self.seen();
                assert_eq!(life.next_after(&self.span, self.last_batch).as_ref(), Some(&batch), "batches are complete, without a gap");
                self.last_batch = batch.revision;
                self.told = batch.revision;
                apply(&mut self.tree, &batch);
                self.same_as_at(batch.revision);
            }
            Step::Progress(revision) => {
                assert!(revision > self.last_batch);
                self.came_to_another_life();
                self.told = self.told.max(revision);
            }
        }
    }

    fn seen(&self) -> &Life {
        let number = self.seen_life.expect("a reset is the first step");
        self.lives.iter().find(|life| life.number == number).expect("lives are kept")
    }

    fn same_as_at(&self, revision: Revision) {
        if !self.known {
            return;
        }
        let strip = |kv: KeyValue| (kv.value, kv.modified);
        let there = self.seen().tree_at(revision).into_values().filter(|kv| self.span.contains(&kv.key)).map(strip);
        let here = self.tree.values().cloned().map(strip);
        assert!(here.eq(there), "the tree at {revision} is not the server's");
    }

    /// Checks that a wipe stays undetected only if it makes no difference: the state in the new
    /// history equals the state that the receiver saw.
    fn came_to_another_life(&mut self) {
        let life = self.served.as_ref().map(|served| served.life);
        if life != self.seen_life {
            self.seen_life = life;
            self.same_as_at(self.told);
        }
    }

    /// Gives only honest answers from now on, and checks that the receiver reaches the present
    /// state with an open watch.
    fn settle(&mut self) {
        for _ in 0..2000 {
            self.act(&Action::Answer(Manner::Honest));
            let life = self.lives.last().expect("a server has a life");
            let connected = self.served.as_ref().is_some_and(|served| served.life == life.number && served.queue.is_empty());
            let behind = life.next_after(&self.span, self.last_batch).is_some();
            if matches!(self.engine.want(), Want::Item) && connected && !behind && self.engine.trouble().is_none() {
                break;
            }
        }
        assert_eq!(self.engine.want(), Want::Item, "the engine does not settle");
        self.seen_life = Some(self.life().number);
        let now = self.life().revision;
        self.same_as_at(now);
    }
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        20 => Just(Manner::Honest),
        3 => Just(Manner::Failed),
        1 => Just(Manner::Silent),
        2 => (0.0..1.0).prop_map(Manner::Replayed),
        1 => Just(Manner::EarlyProgress),
        1 => Just(Manner::Lagged),
        1 => Just(Manner::LaggingMember),
        1 => Just(Manner::Cancelled),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => prop::collection::vec((0..KEYS.len(), prop::bool::weighted(0.7)), 1..4).prop_map(Action::Write),
        2 => (0.0..=1.0).prop_map(Action::Compact),
        1 => (0_usize..60).prop_map(Action::Wipe),
        30 => manner().prop_map(Action::Answer),
    ]
}

fn start() -> impl Strategy<Value = Start> {
    prop_oneof![3 => Just(Start::Now), 1 => (0_u64..20).prop_map(|number| Start::Since(Revision::new(number)))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn tree_matches_server_after_any_failure(
        start in start(),
        before in prop::collection::vec(prop::collection::vec((0..KEYS.len(), prop::bool::weighted(0.8)), 1..4), 0..12),
        actions in prop::collection::vec(action(), 0..150),
    ) {
        let mut world = World::new(true, start);
        before.iter().for_each(|changes| world.act(&Action::Write(changes.clone())));
        actions.iter().for_each(|action| world.act(action));
        world.settle();
    }

    #[test]
    fn tree_matches_server_without_past_revisions(
        before in prop::collection::vec(prop::collection::vec((0..KEYS.len(), prop::bool::weighted(0.8)), 1..4), 0..12),
        actions in prop::collection::vec(action(), 0..150),
    ) {
        let mut world = World::new(false, Start::Now);
        before.iter().for_each(|changes| world.act(&Action::Write(changes.clone())));
        actions.iter().for_each(|action| world.act(action));
        world.settle();
    }
}

/// While the server keeps its history, no number of broken connections causes a reset or loses a
/// change.
#[test]
fn broken_connections_cause_no_reset() {
    let mut world = World::new(true, Start::Now);
    world.act(&Action::Answer(Manner::Honest));
    world.act(&Action::Answer(Manner::Honest));
    for round in 0..1000 {
        world.act(&Action::Write(vec![(round % 4, true)]));
        let manner = [Manner::Honest, Manner::Failed, Manner::Silent, Manner::Lagged, Manner::LaggingMember, Manner::Replayed(0.5)];
        for _ in 0..=round % 3 {
            world.act(&Action::Answer(manner[round % manner.len()]));
        }
    }
    for _ in 0..5000 {
        world.act(&Action::Answer(Manner::Honest));
    }
    world.settle();
    assert_eq!((world.resets, world.batches), (1, 1000));
}
