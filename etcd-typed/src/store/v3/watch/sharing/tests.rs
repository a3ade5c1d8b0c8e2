//! Tests of sharing. The random test simulates a client with one span, on a member that may lag.
//! Whatever the order of writes, joins, deliveries, departures and breaks, each reader gets
//! everything after its start, once and in order.

use std::collections::BTreeMap;
use std::task::{Context, Poll};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::error::Result;
use crate::store::Event;

fn at(revision: u64) -> Revision {
    Revision::new(revision)
}

fn batch(revision: u64) -> Batch {
    let event = Event::Delete { key: Bytes::from_static(b"/a"), directory: false, previous: None };
    Batch { revision: at(revision), events: vec![event] }
}

fn listed(revision: u64) -> WatchFrom {
    WatchFrom::Listed(at(revision))
}

fn resumed(revision: u64) -> WatchFrom {
    WatchFrom::Resumed(at(revision))
}

fn live(revision: u64) -> WatchFrom {
    WatchFrom::Live(at(revision))
}

/// Returns the items that a reader received, and whether its queue has ended.
fn read(queue: &Queue) -> (Vec<Result<WatchItem>>, bool) {
    let context = Context::from_waker(Waker::noop());
    let mut items = Vec::new();
    loop {
        match queue.poll_next(&context) {
            Poll::Ready(Some(item)) => items.push(item),
            Poll::Ready(None) => return (items, true),
            Poll::Pending => return (items, false),
        }
    }
}

/// Returns the items in short form: `5`, `skipped 7`, `progress 9`, `lagged`, …
fn words(queue: &Queue) -> Vec<String> {
    let short = |item: Result<WatchItem>| match item {
        Ok(WatchItem::Batch(batch)) => batch.revision.to_string(),
        Ok(WatchItem::Progress(to)) => format!("progress {to}"),
        Ok(WatchItem::Skipped(to)) => format!("skipped {to}"),
        Ok(WatchItem::HistoryLost { .. }) => "lost".to_owned(),
        Ok(WatchItem::Behind(revision)) => format!("behind {revision}"),
        Ok(WatchItem::Lagged) => "lagged".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    read(queue).0.into_iter().map(short).collect()
}

/// A watch with its readers, by number.
struct Shared {
    sharing: Sharing,
    stands: BTreeMap<ReaderId, oneshot::Receiver<std::result::Result<(), Option<Failure>>>>,
    queues: BTreeMap<ReaderId, Arc<Queue>>,
}

impl Shared {
    fn new(from: WatchFrom) -> Self {
        let (established, stands) = oneshot::channel();
        let queue = Arc::<Queue>::default();
        let sharing = Sharing::new(from, 0, Arc::clone(&queue), established);
        Self { sharing, stands: BTreeMap::from([(0, stands)]), queues: BTreeMap::from([(0, queue)]) }
    }

    fn established(from: WatchFrom, created_at: u64) -> Self {
        let mut shared = Self::new(from);
        assert!(shared.sharing.stand(at(created_at)));
        shared
    }

    /// Returns whether the reader could join.
    fn join(&mut self, reader: ReaderId, from: WatchFrom, reached: u64) -> bool {
        let (established, stands) = oneshot::channel();
        let queue = Arc::<Queue>::default();
        let joined = self.sharing.join(from, at(reached), reader, &queue, established, &mut Vec::new());
        self.stands.insert(reader, stands);
        self.queues.insert(reader, queue);
        !matches!(joined, Join::Refused(_))
    }

    fn deliver(&mut self, item: WatchItem) -> bool {
        self.sharing.deliver(item, &mut Vec::new())
    }

    fn batches(&mut self, revisions: impl IntoIterator<Item = u64>) {
        for revision in revisions {
            self.deliver(WatchItem::Batch(batch(revision)));
        }
    }

    fn words(&self, reader: ReaderId) -> Vec<String> {
        words(&self.queues[&reader])
    }
}

#[test]
fn reader_of_shared_watch_gets_changes_after_its_start() {
    let mut shared = Shared::established(listed(5), 5);
    // The first reader that joins makes the watch keep its batches.
    assert!(shared.join(1, listed(5), 5));
    shared.batches([7, 9]);
    assert!(shared.join(2, listed(6), 9) && shared.join(3, resumed(8), 9) && shared.join(4, live(9), 9));
    // This reader is ahead of the watch.
    assert!(shared.join(5, listed(11), 12));
    shared.batches([10, 12]);
    assert_eq!(shared.words(0), ["7", "9", "10", "12"]);
    assert_eq!(shared.words(1), ["7", "9", "10", "12"]);
    assert_eq!(shared.words(2), ["7", "9", "10", "12"]);
    assert_eq!(shared.words(3), ["9", "10", "12"]);
    assert_eq!(shared.words(4), ["10", "12"]);
    assert_eq!(shared.words(5), ["12"]);
}

#[test]
fn reader_ahead_of_server_is_refused() {
    let mut shared = Shared::established(listed(5), 5);
    assert!(!shared.join(1, listed(6), 5) && !shared.join(2, resumed(6), 5) && !shared.join(3, live(6), 5));
    assert!(shared.join(4, listed(6), 6));
}

#[test]
fn shared_watch_refuses_reader_that_needs_older_changes() {
    let mut shared = Shared::established(listed(5), 5);
    shared.batches([6, 7]);
    assert!(!shared.join(1, listed(6), 9) && !shared.join(2, resumed(6), 9));
    assert!(shared.join(3, live(6), 9));
    shared.batches([8]);
    assert!(shared.join(4, listed(7), 9));
    assert_eq!(shared.words(3), ["skipped 7", "8"]);
    assert_eq!(shared.words(4), ["8"]);
}

#[test]
fn lagging_shared_watch_accepts_only_nearby_readers() {
    let mut shared = Shared::established(resumed(5), 4000);
    assert!(!shared.join(1, listed(10), 4000) && !shared.join(2, live(10), 4000) && !shared.join(3, resumed(1006), 4000));
    assert!(shared.join(4, resumed(1005), 4000));
    // The watch has reached the revision that the server was at when it created the watch.
    shared.batches([1000, 4000]);
    assert!(shared.join(5, listed(4000), 4000));
    assert_eq!(shared.words(4), ["4000"]);
}

#[test]
fn readers_do_not_move_to_watch_far_behind() {
    let mut behind = Shared::established(resumed(5), 4000);
    for (start, moved) in [(1006, false), (4000, false), (1005, true)] {
        let mut other = Shared::established(resumed(start), 4000);
        assert_eq!(behind.sharing.take_over(&mut other.sharing, &mut Vec::new()), moved, "from {start}");
    }
}

#[test]
fn reader_waits_until_shared_watch_is_created() {
    let mut shared = Shared::new(listed(5));
    assert!(shared.join(1, listed(5), 0) && shared.join(2, listed(7), 0) && shared.join(3, listed(9), 0));
    assert!(
        !shared.join(4, listed(4), 0) && !shared.join(5, resumed(5), 0) && !shared.join(6, live(5), 0) && !shared.join(7, listed(1006), 0)
    );
    assert!(shared.sharing.stand(at(8)));
    let mut told = |reader| shared.stands.get_mut(&reader).unwrap().try_recv().unwrap();
    assert!(told(0).is_ok() && told(1).is_ok() && told(2).is_ok());
    assert!(matches!(told(3), Err(None)), "it tries another watch");
    shared.batches([6, 8]);
    assert_eq!(shared.words(1), ["6", "8"]);
    assert_eq!(shared.words(2), ["8"]);
    assert!(shared.words(3).is_empty());
}

#[test]
fn refusal_reaches_all_waiting_readers() {
    let mut shared = Shared::new(listed(5));
    shared.join(1, listed(5), 0);
    shared.sharing.fail(&Failure::new(Row::PermissionDenied, "no"), &mut Vec::new());
    for reader in [0, 1] {
        let told = shared.stands.get_mut(&reader).unwrap().try_recv().unwrap();
        assert_eq!(told.unwrap_err().unwrap().row, Row::PermissionDenied);
    }
    assert!(!shared.join(2, listed(5), 5));
}

#[test]
fn skipped_revisions_reach_only_older_live_readers() {
    let mut shared = Shared::new(live(5));
    assert!(shared.join(1, live(8), 0));
    shared.sharing.stand(at(8));
    shared.deliver(WatchItem::Skipped(at(8)));
    shared.batches([9]);
    assert_eq!(shared.words(0), ["skipped 8", "9"]);
    assert_eq!(shared.words(1), ["9"]);
}

#[test]
fn failures_reach_affected_readers() {
    let mut shared = Shared::established(resumed(5), 20);
    shared.join(1, resumed(10), 20);
    assert!(!shared.deliver(WatchItem::HistoryLost { oldest: Some(at(8)) }));
    assert_eq!(shared.words(0), ["lost"]);
    // The server still has the changes that reader 1 needs, so that reader can try again.
    assert_eq!(shared.words(1), ["Unavailable"]);
    let mut shared = Shared::established(listed(5), 5);
    shared.join(1, listed(5), 5);
    shared.batches([6]);
    shared.sharing.fail(&Failure::new(Row::Severed, "cut"), &mut Vec::new());
    for reader in [0, 1] {
        assert_eq!(shared.words(reader), ["6", "Unavailable"]);
    }
    assert!(!shared.join(2, listed(6), 6));
}

#[test]
fn slow_reader_lags_alone() {
    let mut shared = Shared::established(listed(0), 0);
    assert!(shared.join(1, listed(0), 0));
    for revision in 1..=3000 {
        assert!(shared.deliver(WatchItem::Batch(batch(revision))));
        assert_eq!(shared.words(0), [revision.to_string()]);
    }
    let slow = shared.words(1);
    assert_eq!((slow.len(), slow.last().unwrap().as_str()), (1025, "lagged"));
    assert_eq!(shared.sharing.readers.len(), 1);
}

#[test]
fn kept_batches_are_bounded_and_expire() {
    let mut shared = Shared::established(listed(0), 0);
    shared.batches(1..=10);
    assert!(shared.sharing.recent.is_empty(), "nothing is kept for one reader");
    assert!(shared.join(1, listed(10), 10));
    shared.batches(11..=500);
    assert_eq!((shared.sharing.recent.len(), shared.sharing.floor), (MOST_RECENT, at(500 - 64)));
    let large =
        Event::Delete { key: Bytes::from(vec![b'k'; MOST_RECENT_BYTES / 2 - size_of::<Event>()]), directory: false, previous: None };
    for revision in 501..=503 {
        shared.deliver(WatchItem::Batch(Batch { revision: at(revision), events: vec![large.clone()] }));
    }
    assert!(shared.sharing.recent_bytes <= MOST_RECENT_BYTES && shared.sharing.recent.len() == 2);
    shared.sharing.age();
    shared.batches([504]);
    shared.sharing.age();
    assert_eq!((shared.sharing.recent.len(), shared.sharing.floor), (1, at(503)));
    shared.sharing.age();
    assert_eq!((shared.sharing.recent.len(), shared.sharing.recent_bytes), (0, 0));
    assert!(shared.join(2, listed(504), 504) && !shared.join(3, listed(503), 504));
    // The other readers have left, so the watch stops keeping batches, as if it had never been
    // shared.
    shared.sharing.leave(1);
    shared.sharing.leave(2);
    shared.sharing.age();
    shared.batches([505]);
    assert!(shared.sharing.recent.is_empty() && !shared.sharing.keeps);
}

// ---- Random histories
// ------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Happens {
    /// A write of the span (true) or of another key.
    Write(bool),
    /// The member that serves the watches learns of this many writes.
    CatchUp(u64),
    /// A reader starts this far before the newest revision.
    Join(u8, u64),
    /// The server answers the creation of a watch.
    Stand(prop::sample::Index),
    /// A watch yields this many of its next revisions.
    Yield(prop::sample::Index, usize),
    Progress(prop::sample::Index),
    Leave(prop::sample::Index),
    Age(prop::sample::Index),
    Break(prop::sample::Index),
}

fn happens() -> impl Strategy<Value = Happens> {
    let any = any::<prop::sample::Index>;
    prop_oneof![
        6 => any_bool().prop_map(Happens::Write),
        4 => (0..4_u64).prop_map(Happens::CatchUp),
        6 => (0..3_u8, 0..4_u64).prop_map(|(kind, back)| Happens::Join(kind, back)),
        4 => any().prop_map(Happens::Stand),
        5 => (any(), 1..4_usize).prop_map(|(which, count)| Happens::Yield(which, count)),
        1 => any().prop_map(Happens::Progress),
        1 => any().prop_map(Happens::Leave),
        1 => any().prop_map(Happens::Age),
        1 => any().prop_map(Happens::Break),
    ]
}

fn any_bool() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.7)
}

/// A server watch as the server sees it.
struct Watched {
    sharing: Sharing,
    from: WatchFrom,
    /// `None` until the watch is created. Then everything up to this revision was yielded.
    at: Option<u64>,
}

struct Read {
    from: WatchFrom,
    queue: Arc<Queue>,
    stands: oneshot::Receiver<std::result::Result<(), Option<Failure>>>,
    left: bool,
}

#[derive(Default)]
struct Client {
    /// The revisions from 1 to `newest` that changed the span.
    of_span: Vec<u64>,
    newest: u64,
    /// The member's revision. `reached` is the revision at which the client has seen it.
    member: u64,
    reached: u64,
    watches: Vec<Watched>,
    readers: BTreeMap<ReaderId, Read>,
    next_reader: ReaderId,
}

impl Client {
    fn join(&mut self, from: WatchFrom) {
        let reader = self.next_reader;
        self.next_reader += 1;
        let queue = Arc::<Queue>::default();
        let (mut established, stands) = oneshot::channel();
        let joined = 'joined: {
            for watch in self.watches.iter_mut().rev() {
                match watch.sharing.join(from, at(self.reached), reader, &queue, established, &mut Vec::new()) {
                    Join::Reads | Join::Waits => break 'joined None,
                    Join::Refused(refused) => established = refused,
                }
            }
            Some(established)
        };
        if let Some(established) = joined {
            let sharing = Sharing::new(from, reader, Arc::clone(&queue), established);
            self.watches.push(Watched { sharing, from, at: None });
        }
        self.readers.insert(reader, Read { from, queue, stands, left: false });
    }

    fn stand(&mut self, which: usize) {
        let (member, watch) = (self.member, &mut self.watches[which]);
        if watch.at.is_some() {
            return;
        }
        self.reached = self.reached.max(member);
        let start = watch.from.revision().get();
        watch.at = Some(start);
        let mut goes_on = watch.sharing.stand(at(member));
        if member < start {
            goes_on = watch.sharing.deliver(WatchItem::Behind(at(member)), &mut Vec::new());
        } else if matches!(watch.from, WatchFrom::Live(_)) && member > start {
            watch.at = Some(member);
            goes_on = watch.sharing.deliver(WatchItem::Skipped(at(member)), &mut Vec::new());
        }
        if !goes_on {
            self.watches.remove(which);
            return;
        }
        let (older, younger) = self.watches.split_at_mut(which);
        let folded = older.iter_mut().any(|older| older.sharing.take_over(&mut younger[0].sharing, &mut Vec::new()));
        if folded {
            self.watches.remove(which);
        }
    }

    fn yields(&mut self, which: usize, count: usize) {
        let (member, watch) = (self.member, &mut self.watches[which]);
        for _ in 0..count {
            let Some(last) = watch.at else { return };
            let Some(next) = self.of_span.iter().copied().find(|revision| *revision > last && *revision <= member) else { return };
            self.reached = self.reached.max(member);
            watch.at = Some(next);
            if !watch.sharing.deliver(WatchItem::Batch(batch(next)), &mut Vec::new()) {
                self.watches.remove(which);
                return;
            }
        }
    }

    fn progress(&mut self, which: usize) {
        let (member, watch) = (self.member, &mut self.watches[which]);
        let Some(last) = watch.at else { return };
        // Progress is sent only when no change is outstanding.
        if member > last && !self.of_span.iter().any(|revision| *revision > last && *revision <= member) {
            watch.at = Some(member);
            watch.sharing.deliver(WatchItem::Progress(at(member)), &mut Vec::new());
        }
    }

    fn leave(&mut self, which: &prop::sample::Index) {
        let all: Vec<ReaderId> = self.readers.keys().copied().collect();
        if all.is_empty() {
            return;
        }
        let reader = *which.get(&all);
        self.readers.get_mut(&reader).unwrap().left = true;
        self.watches.retain_mut(|watch| !watch.sharing.leave(reader));
    }

    /// Compares what a reader got with what it should have got. `all` says that the server has sent
    /// everything.
    fn check(&mut self, id: ReaderId, all: bool) -> std::result::Result<(), TestCaseError> {
        let newest = self.newest;
        let reader = self.readers.get_mut(&id).unwrap();
        let (items, _) = read(&reader.queue);
        let stands = reader.stands.try_recv();
        let start = reader.from.revision().get();
        let mut last = start;
        let mut whole = matches!(stands, Ok(Ok(()))) && !reader.left;
        for (place, item) in items.iter().enumerate() {
            match item {
                Ok(WatchItem::Batch(batch)) => {
                    let expected = self.of_span.iter().copied().find(|revision| *revision > last);
                    prop_assert_eq!(Some(batch.revision.get()), expected, "after {} from {:?}", last, reader.from);
                    last = batch.revision.get();
                }
                Ok(WatchItem::Progress(to)) => {
                    prop_assert!(to.get() > last && !self.of_span.iter().any(|revision| *revision > last && *revision <= to.get()));
                    last = to.get();
                }
                Ok(WatchItem::Skipped(to)) => {
                    prop_assert!(place == 0 && matches!(reader.from, WatchFrom::Live(_)) && to.get() > start);
                    last = to.get();
                }
                Ok(WatchItem::Behind(revision)) => {
                    prop_assert!(revision.get() < start && place + 1 == items.len() && place == 0);
                    whole = false;
                }
                Err(_) => {
                    prop_assert!(place + 1 == items.len());
                    whole = false;
                }
                Ok(other) => prop_assert!(false, "{other:?}"),
            }
        }
        if !matches!(stands, Ok(Ok(()))) {
            prop_assert!(items.is_empty(), "a reader that was turned away gets nothing: {items:?}");
        }
        if all && whole {
            let missing: Vec<u64> = self.of_span.iter().copied().filter(|revision| *revision > last && *revision <= newest).collect();
            prop_assert!(missing.is_empty(), "{:?} got no {missing:?}", reader.from);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_reader_gets_all_changes_in_order(happenings in prop::collection::vec(happens(), 0..120)) {
        let mut client = Client::default();
        for happening in &happenings {
            let watch = |which: &prop::sample::Index| (!client.watches.is_empty()).then(|| which.index(client.watches.len()));
            match happening {
                Happens::Write(of_span) => {
                    client.newest += 1;
                    if *of_span {
                        client.of_span.push(client.newest);
                    }
                }
                Happens::CatchUp(count) => client.member = client.newest.min(client.member + count),
                Happens::Join(kind, back) => {
                    let from = client.newest.saturating_sub(*back);
                    client.join(match kind {
                        0 => listed(from),
                        1 => resumed(from),
                        _ => live(from),
                    });
                }
                Happens::Stand(which) => if let Some(which) = watch(which) { client.stand(which) },
                Happens::Yield(which, count) => if let Some(which) = watch(which) { client.yields(which, *count) },
                Happens::Progress(which) => if let Some(which) = watch(which) { client.progress(which) },
                Happens::Leave(which) => client.leave(which),
                Happens::Age(which) => if let Some(which) = watch(which) { client.watches[which].sharing.age() },
                Happens::Break(which) => if let Some(which) = watch(which) {
                    client.watches.remove(which).sharing.fail(&Failure::new(Row::Severed, "cut"), &mut Vec::new());
                },
            }
        }
        // Finally the server sends everything.
        client.member = client.newest;
        for _ in 0..client.watches.len() {
            for which in (0..client.watches.len()).rev() {
                client.stand(which);
            }
        }
        for which in (0..client.watches.len()).rev() {
            client.yields(which, usize::MAX);
        }
        for reader in 0..client.next_reader {
            client.check(reader, true)?;
        }
    }
}
