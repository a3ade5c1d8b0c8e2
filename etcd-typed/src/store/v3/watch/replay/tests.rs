//! Tests that a long history is replayed in order, although it is read in sections: ranges of
//! revisions that each have their own watch. The result must not depend on how many changes a watch
//! yields at once.

use std::sync::Mutex;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use proptest::prelude::*;

use super::*;
use crate::store::{Batch, Event};

fn at(revision: u64) -> Revision {
    Revision::new(revision)
}

fn batch(revision: u64) -> WatchItem {
    let event = Event::Delete { key: Bytes::from_static(b"/a"), directory: false, previous: None };
    WatchItem::Batch(Batch { revision: at(revision), events: vec![event] })
}

/// A history of revisions, and a record of the sections that the replay has opened.
#[derive(Clone)]
struct History {
    of_span: Arc<Vec<u64>>,
    newest: u64,
    opened: Arc<Mutex<Vec<(u64, Option<u64>)>>>,
    /// The number of open watches.
    open: Arc<AtomicUsize>,
    most_open: Arc<AtomicUsize>,
    /// The index of the first section whose watch is refused.
    refused: Option<usize>,
    progress: bool,
    /// The number of batches that the watch of a section can buffer. With more batches, the watch
    /// yields `Lagged`.
    room: usize,
}

impl History {
    fn new(of_span: Vec<u64>, newest: u64) -> Self {
        let (opened, open, most_open) = (Arc::default(), Arc::default(), Arc::default());
        Self { of_span: Arc::new(of_span), newest, opened, open, most_open, refused: None, progress: false, room: usize::MAX }
    }

    /// Returns a watch of every change after `start`, even beyond `until`. After the changes the
    /// watch yields progress, or nothing if `progress` is false.
    fn watch(&self, start: u64, until: Option<Revision>) -> WatchStream {
        let open = Opened::of(&self.open, &self.most_open);
        let after: Vec<_> = self.of_span.iter().copied().filter(|revision| *revision > start).map(batch).collect();
        let progress = self.progress.then(|| WatchItem::Progress(at(self.newest)));
        let room = if until.is_some() { self.room } else { usize::MAX };
        let lagged = (after.len() > room).then_some(WatchItem::Lagged);
        let mut items = after.into_iter().take(room).chain(lagged).chain(progress);
        Box::pin(stream::poll_fn(move |_| {
            let _ = &open;
            items.next().map_or(Poll::Pending, |item| Poll::Ready(Some(Ok(item))))
        }))
    }

    fn replay(&self, start: u64) -> Replay<Self> {
        let permit = Permit::of(&Arc::default()).unwrap();
        Replay::new(self.clone(), at(start), self.watch(start, None), permit)
    }
}

struct Opened(Arc<AtomicUsize>);

impl Opened {
    fn of(open: &Arc<AtomicUsize>, most: &AtomicUsize) -> Self {
        most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self(Arc::clone(open))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Source for History {
    fn newest(&self) -> Revision {
        at(self.newest)
    }

    fn open(&self, start: Revision, until: Option<Revision>) -> BoxFuture<'static, Result<WatchStream>> {
        let mut opened = self.opened.lock().unwrap();
        opened.push((start.get(), until.map(Revision::get)));
        let refused = self.refused.is_some_and(|place| opened.len() > place);
        drop(opened);
        let history = self.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            if refused {
                return Err(Error::new(ErrorKind::Unavailable, "cut"));
            }
            Ok(history.watch(start.get(), until))
        })
    }
}

/// Returns the revisions that arrive before a long silence or an error, and the error.
async fn revisions(replay: &mut Replay<History>) -> (Vec<u64>, Option<Error>) {
    let mut seen = Vec::new();
    let mut last = 0;
    loop {
        match tokio::time::timeout(Duration::from_secs(60), replay.next()).await {
            Err(_) => return (seen, None),
            Ok(Some(Ok(WatchItem::Batch(batch)))) => {
                assert!(batch.revision.get() > last);
                last = batch.revision.get();
                seen.push(last);
            }
            Ok(Some(Ok(WatchItem::Progress(to)))) => {
                assert!(to.get() > last);
                last = to.get();
            }
            Ok(Some(Err(error))) => return (seen, Some(error)),
            Ok(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dense_history_is_read_in_order() {
    let history = History::new((1..=100_000).collect(), 100_000);
    let mut replay = history.replay(10);
    let (seen, error) = revisions(&mut replay).await;
    assert!(error.is_none());
    assert!(seen.into_iter().eq(11..=100_000));
    assert!(history.most_open.load(Ordering::SeqCst) <= LARGEST_WINDOW);
    // One watch is left for new changes, and the permit was given back.
    assert_eq!(history.open.load(Ordering::SeqCst), 1);
    assert!(replay.permit.is_none());
    let opened = history.opened.lock().unwrap();
    assert!((90..=100).contains(&opened.len()) && opened.last().unwrap().1.is_none(), "{opened:?}");
}

#[tokio::test(start_paused = true)]
async fn sparse_history_uses_long_sections() {
    let history = History::new((1..=1_000_000).step_by(500).collect(), 1_000_000);
    let (seen, error) = revisions(&mut history.replay(0)).await;
    assert!(error.is_none());
    assert!(seen.into_iter().eq((1..=1_000_000).step_by(500)));
    assert!(history.opened.lock().unwrap().len() < 100, "{:?}", history.opened.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn history_without_matching_events_leaves_one_watch() {
    let history = History::new(vec![5], 50_000);
    let mut replay = history.replay(10);
    assert_eq!(revisions(&mut replay).await.0, [0_u64; 0]);
    assert_eq!(history.open.load(Ordering::SeqCst), 1);
    assert!(replay.permit.is_none());
    // The second history goes silent after some sections.
    let history = History::new((1..=3500).collect(), 50_000);
    let mut replay = history.replay(0);
    assert!(revisions(&mut replay).await.0.into_iter().eq(1..=3500));
    assert_eq!(history.open.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn lagging_replay_falls_back_to_one_watch() {
    let history = History { room: 10, ..History::new((1..=50_000).collect(), 50_000) };
    let mut replay = history.replay(0);
    let (seen, error) = revisions(&mut replay).await;
    assert!(error.is_none());
    assert!(seen.into_iter().eq(1..=50_000));
    // The first watch has more room. The second lags after ten batches, and one watch reads the
    // rest.
    assert_eq!(history.opened.lock().unwrap().last(), Some(&(ROUND + 10, None)));
    assert_eq!(history.open.load(Ordering::SeqCst), 1);
    assert!(replay.permit.is_none());
}

#[tokio::test(start_paused = true)]
async fn replay_error_follows_earlier_items() {
    let history = History { refused: Some(3), ..History::new((1..=100_000).collect(), 100_000) };
    let mut replay = history.replay(0);
    let (seen, error) = revisions(&mut replay).await;
    assert!(seen.into_iter().eq(1..=4 * ROUND));
    assert_eq!(error.unwrap().kind(), ErrorKind::Unavailable);
    assert!(replay.next().await.is_none());
    assert_eq!(history.open.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn number_of_replays_is_limited() {
    let replays = Arc::default();
    let mut permits: Vec<_> = (0..MOST_REPLAYS).map(|_| Permit::of(&replays).unwrap()).collect();
    assert!(Permit::of(&replays).is_none());
    permits.pop();
    assert!(Permit::of(&replays).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_read_once_in_order(
        gaps in prop::collection::vec(prop_oneof![8 => 1..3_u64, 1 => 1..3000_u64], 0..6000),
        start in 0..2000_u64,
        behind in 0..5000_u64,
        progress in any::<bool>(),
    ) {
        let of_span: Vec<u64> = gaps.into_iter().scan(0, |last, gap| { *last += gap; Some(*last) }).collect();
        let newest = of_span.last().copied().unwrap_or_default() + behind;
        let expected: Vec<u64> = of_span.iter().copied().filter(|revision| *revision > start).collect();
        let history = History { progress, ..History::new(of_span, newest) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (seen, error) = runtime.block_on(async { revisions(&mut history.replay(start)).await });
        prop_assert!(error.is_none());
        prop_assert!(seen == expected, "{} of {}", seen.len(), expected.len());
    }
}
