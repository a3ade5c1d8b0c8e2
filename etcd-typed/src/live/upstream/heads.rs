//! `Heads`: how far the store is. The views of one client read it together.
//!
//! The revision of a store is one number, whichever key it is read with. So one linearizable read answers the question for every view of the client. Views ask at common
//! times, the beats: the first one that wakes up reads, and the others wait for its answer. A view never depends on another one, though: if the answer does not come within
//! [`PATIENCE`], or the reading view is dropped or may not read its key, the next view reads.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::revision::Revision;
use crate::runtime::sleep;

/// The time between two beats.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// How long a view waits for the answer to the read of another one.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Shared by all views of one client.
pub(in crate::live) struct Heads(watch::Sender<State>);

struct State {
    /// A beat, from which the others are counted.
    first: Instant,
    head: Option<Head>,
    /// When the last read failed that would have failed for any view.
    failed: Option<Instant>,
    /// When the read was sent that is under way, and its number.
    reading: Option<(Instant, u64)>,
    last_number: u64,
}

/// The newest revision of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// When the read was sent. The store had reached the revision then or later, and nothing that it acknowledged before is missing in it.
    pub(super) asked: Instant,
    pub(super) revision: Revision,
}

/// What a view does that wants to know the head.
pub(super) enum Turn {
    /// It is known.
    Known(Head),
    /// The view reads it, and tells the others.
    Read(Reading),
    /// Another view reads it: the state will change.
    Wait,
    /// Another view could not read it, at this time.
    Failed(Instant),
    /// No view reads it, and this one is not to.
    Nobody,
}

/// The duty to read the head. Dropped without an answer, it passes to another view.
pub(super) struct Reading {
    heads: Arc<Heads>,
    asked: Instant,
    number: u64,
}

impl Heads {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(State { first: Instant::now(), head: None, failed: None, reading: None, last_number: 0 }))
    }

    /// Moves the beats so that one is now. For a client that had no view.
    pub(super) fn restart(&self) {
        self.0.send_modify(|state| state.first = Instant::now());
    }

    /// The first beat after this time.
    pub(super) fn beat_after(&self, time: Instant) -> Instant {
        let first = self.0.borrow().first;
        let beats = time.saturating_duration_since(first).as_nanos() / EVERY.as_nanos() + 1;
        u32::try_from(beats).ok().and_then(|beats| first.checked_add(EVERY.checked_mul(beats)?)).unwrap_or(time + EVERY)
    }

    /// The last whole second of the beats that is not after this time. Views that ask between the beats ask then, together.
    pub(super) fn second_before(&self, time: Instant) -> Instant {
        let first = self.0.borrow().first;
        first + Duration::from_secs(time.saturating_duration_since(first).as_secs())
    }

    /// Tells of every change after this call.
    pub(super) fn subscribe(&self) -> Changes {
        Changes(self.0.subscribe())
    }

    /// What to do for a head that was asked for at `since` or later.
    pub(super) fn turn(self: &Arc<Self>, since: Instant, may_read: bool) -> Turn {
        let mut turn = Turn::Nobody;
        self.0.send_if_modified(|state| {
            let now = Instant::now();
            turn = match *state {
                State { head: Some(head), .. } if head.asked >= since => Turn::Known(head),
                State { failed: Some(at), .. } if at >= since => Turn::Failed(at),
                State { reading: Some((asked, _)), .. } if asked >= since && now < asked + PATIENCE => Turn::Wait,
                _ if !may_read => Turn::Nobody,
                _ => {
                    state.last_number += 1;
                    let number = state.last_number;
                    state.reading = Some((now, number));
                    Turn::Read(Reading { heads: Arc::clone(self), asked: now, number })
                }
            };
            false
        });
        turn
    }
}

impl Reading {
    /// When the read was to be sent.
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

    /// The other views need not ask as well where the store itself does not answer. A refusal may be about the key of one view.
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

/// Of [`Heads`], as one view has seen them.
pub(super) struct Changes(watch::Receiver<State>);

impl Changes {
    /// Everything until now is known.
    pub(super) fn see(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits until something changes that was not seen, or a view has waited long enough for another one.
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

    fn revision(turn: Turn) -> u64 {
        let Turn::Known(head) = turn else { panic!("it is not known") };
        head.revision.get()
    }

    fn read(turn: Turn) -> Reading {
        let Turn::Read(reading) = turn else { panic!("it is not to be read") };
        reading
    }

    #[tokio::test(start_paused = true)]
    async fn one_view_reads_for_all() {
        let heads = Arc::new(Heads::new());
        let since = Instant::now();
        assert!(matches!(heads.turn(since, false), Turn::Nobody));
        let reading = read(heads.turn(since, true));
        assert!(matches!(heads.turn(since, true), Turn::Wait));
        let mut changes = heads.subscribe();
        reading.answered(Revision::new(7));
        assert!(tokio::time::timeout(Duration::ZERO, changes.wait()).await.is_ok());
        assert_eq!(revision(heads.turn(since, false)), 7);
        // It says nothing of later.
        advance(Duration::from_millis(1)).await;
        drop(read(heads.turn(Instant::now(), true)));
        assert_eq!(revision(heads.turn(since, true)), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn another_view_reads_if_one_does_not_answer() {
        let heads = Arc::new(Heads::new());
        let since = Instant::now();
        drop(read(heads.turn(since, true)));
        let silent = read(heads.turn(since, true));
        advance(PATIENCE).await;
        let other = read(heads.turn(since, true));
        silent.answered(Revision::new(3));
        assert_eq!(revision(heads.turn(since, true)), 3);
        other.answered(Revision::new(4));
        assert_eq!(revision(heads.turn(since, true)), 4, "the later answer counts");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_the_store_are_shared_and_refusals_are_not() {
        let heads = Arc::new(Heads::new());
        let since = Instant::now();
        read(heads.turn(since, true)).failed(&Error::new(ErrorKind::PermissionDenied, "not this key"));
        read(heads.turn(since, true)).failed(&Error::new(ErrorKind::Unavailable, "no server"));
        assert!(matches!(heads.turn(since, true), Turn::Failed(at) if at == since));
        advance(Duration::from_secs(1)).await;
        drop(read(heads.turn(Instant::now(), true)));
    }

    #[tokio::test]
    async fn beats_are_common() {
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
