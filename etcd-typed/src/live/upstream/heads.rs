//! `Heads`: the current revision of the store (the head). All views of one client share the reads
//! of it.
//!
//! Every answer of a store contains the store's revision, whichever key was read. So one
//! linearizable read is enough to tell all views of the client the store's revision. The views ask
//! at common times, called beats: the first view that wakes up reads, and the others wait for its
//! answer. No view depends on another view, though. If the answer does not arrive within
//! [`PATIENCE`], if the reading view is dropped, or if it has no permission to read its key, the
//! next view reads.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::revision::Revision;
use crate::runtime::sleep;

/// The time between two beats.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// The time for which a view waits for the answer to another view's read.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The current revision of the store (the head), the reads of it, and the beats. All views of one
/// client share them.
pub(in crate::live) struct Heads(watch::Sender<State>);

struct State {
    /// The time of one beat. All other beats are a multiple of [`EVERY`] later.
    first: Instant,
    head: Option<Head>,
    /// The time at which the last read failed, if the error concerns every view.
    failed: Option<Instant>,
    /// The read in progress: the time at which it was sent, and its number.
    reading: Option<(Instant, u64)>,
    last_number: u64,
}

/// The newest known revision of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The time at which the read was sent. Every write that the store acknowledged before this
    /// time is part of `revision`.
    pub(super) asked: Instant,
    pub(super) revision: Revision,
}

/// The next step of a view that needs the head.
pub(super) enum HeadStep {
    /// The view uses this head, which is already known.
    Known(Head),
    /// The view reads the head, and passes the answer to the other views.
    Read(Reading),
    /// The view waits, because another view reads the head.
    Wait,
    /// The view tries again later, because another view's read failed at this time.
    Failed(Instant),
    /// The view does nothing: no view reads the head, and this view may not read it.
    Nobody,
}

/// The task of one view to read the head for all views. If this is dropped without an answer, the
/// next view that asks reads the head.
pub(super) struct Reading {
    heads: Arc<Heads>,
    asked: Instant,
    number: u64,
}

impl Heads {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(State { first: Instant::now(), head: None, failed: None, reading: None, last_number: 0 }))
    }

    /// Moves the beats so that one of them is now. Called only while the client has no view.
    pub(super) fn restart(&self) {
        self.0.send_modify(|state| state.first = Instant::now());
    }

    /// Returns the first beat after this time.
    pub(super) fn beat_after(&self, time: Instant) -> Instant {
        let first = self.0.borrow().first;
        let beats = time.saturating_duration_since(first).as_nanos() / EVERY.as_nanos() + 1;
        u32::try_from(beats).ok().and_then(|beats| first.checked_add(EVERY.checked_mul(beats)?)).unwrap_or(time + EVERY)
    }

    /// Rounds `time` down to a whole number of seconds after a beat. Views that ask between two
    /// beats use such times, so that they ask together.
    pub(super) fn second_before(&self, time: Instant) -> Instant {
        let first = self.0.borrow().first;
        first + Duration::from_secs(time.saturating_duration_since(first).as_secs())
    }

    /// Returns a receiver for all changes after this call.
    pub(super) fn subscribe(&self) -> Changes {
        Changes(self.0.subscribe())
    }

    /// Returns the next step of a view that needs a head whose read was sent at `since` or later.
    /// `may_read` says whether the view may read the head itself.
    pub(super) fn step(self: &Arc<Self>, since: Instant, may_read: bool) -> HeadStep {
        let mut step = HeadStep::Nobody;
        self.0.send_if_modified(|state| {
            let now = Instant::now();
            step = match *state {
                State { head: Some(head), .. } if head.asked >= since => HeadStep::Known(head),
                State { failed: Some(at), .. } if at >= since => HeadStep::Failed(at),
                State { reading: Some((asked, _)), .. } if asked >= since && now < asked + PATIENCE => HeadStep::Wait,
                _ if !may_read => HeadStep::Nobody,
                _ => {
                    state.last_number += 1;
                    let number = state.last_number;
                    state.reading = Some((now, number));
                    HeadStep::Read(Reading { heads: Arc::clone(self), asked: now, number })
                }
            };
            false
        });
        step
    }
}

impl Reading {
    /// Returns the time at which the view took the duty. The read is sent at this time or later.
    pub(super) fn asked(&self) -> Instant {
        self.asked
    }

    pub(super) fn answered(self, revision: Revision) {
        let asked = self.asked;
        self.heads.0.send_modify(|state| {
            if state.head.is_none_or(|head| head.asked < asked) {
                state.head = Some(Head { asked, revision });
            }
        });
    }

    /// Ends the duty after a failed read. If the store does not answer, the failure counts for all
    /// views, so that the others do not try too. Any other error may concern only the key of this
    /// view.
    pub(super) fn failed(self, error: &Error) {
        if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) {
            self.heads.0.send_modify(|state| state.failed = Some(Instant::now()));
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let number = self.number;
        self.heads.0.send_if_modified(|state| {
            let is_ours = state.reading.is_some_and(|(_, reading)| reading == number);
            if is_ours {
                state.reading = None;
            }
            is_ours
        });
    }
}

/// One view's receiver for changes of [`Heads`].
pub(super) struct Changes(watch::Receiver<State>);

impl Changes {
    /// Marks all changes until now as seen.
    pub(super) fn see(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits for a change that this view has not seen, but no longer than [`PATIENCE`].
    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.0.changed() => {}
            () = sleep(PATIENCE) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;

    fn revision(step: HeadStep) -> u64 {
        let HeadStep::Known(head) = step else { panic!("the head is not known") };
        head.revision.get()
    }

    fn read(step: HeadStep) -> Reading {
        let HeadStep::Read(reading) = step else { panic!("the view does not have to read") };
        reading
    }

    #[tokio::test(start_paused = true)]
    async fn one_view_reads_head_for_all_views() {
        let heads = Arc::new(Heads::new());
        let since = Instant::now();
        assert!(matches!(heads.step(since, false), HeadStep::Nobody));
        let reading = read(heads.step(since, true));
        assert!(matches!(heads.step(since, true), HeadStep::Wait));
        let mut changes = heads.subscribe();
        reading.answered(Revision::new(7));
        assert!(tokio::time::timeout(Duration::ZERO, changes.wait()).await.is_ok());
        assert_eq!(revision(heads.step(since, false)), 7);
        // The answer does not cover writes made after the server was read. So a caller that asks
        // about a later time needs another read.
        advance(Duration::from_millis(1)).await;
        drop(read(heads.step(Instant::now(), true)));
        assert_eq!(revision(heads.step(since, true)), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn another_view_reads_if_reader_gets_no_answer() {
        let heads = Arc::new(Heads::new());
        let since = Instant::now();
        drop(read(heads.step(since, true)));
        let silent = read(heads.step(since, true));
        advance(PATIENCE).await;
        let other = read(heads.step(since, true));
        silent.answered(Revision::new(3));
        assert_eq!(revision(heads.step(since, true)), 3);
        other.answered(Revision::new(4));
        assert_eq!(revision(heads.step(since, true)), 4, "the later read counts");
    }

    #[tokio::test(start_paused = true)]
    async fn views_share_store_failures_but_not_refusals() {
        let heads = Arc::new(Heads::new());
        let since = Instant::now();
        read(heads.step(since, true)).failed(&Error::new(ErrorKind::PermissionDenied, "not this key"));
        read(heads.step(since, true)).failed(&Error::new(ErrorKind::Unavailable, "no server"));
        assert!(matches!(heads.step(since, true), HeadStep::Failed(at) if at == since));
        advance(Duration::from_secs(1)).await;
        drop(read(heads.step(Instant::now(), true)));
    }

    #[tokio::test]
    async fn views_read_head_at_common_times() {
        pause();
        let heads = Heads::new();
        let first = Instant::now();
        let seconds = Duration::from_secs;
        for (time, beat) in [(0, 10), (9, 10), (10, 20), (25, 30)] {
            assert_eq!(heads.beat_after(first + seconds(time)), first + seconds(beat));
        }
        assert_eq!(heads.second_before(first + Duration::from_millis(12_345)), first + seconds(12));
        advance(seconds(4)).await;
        heads.restart();
        assert_eq!(heads.beat_after(Instant::now()), first + seconds(14));
    }
}
