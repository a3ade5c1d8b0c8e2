//! `Writer`: the task that keeps a view's file as new as its state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::file::{Kept, StateFile, Unusable};
use super::replace::Stamp;
use crate::live::status::FileStatus;
use crate::retry::{Backoff, RetryPolicy};
use crate::runtime::{now, sleep};
use crate::telemetry::{self, Pattern};

/// The time between two writes of a file.
const BETWEEN_WRITES: Duration = Duration::from_secs(1);

/// How often a file is looked at that needs no writing.
const LOOK: Duration = Duration::from_secs(10);

/// The longest wait before a write that failed is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

pub(super) struct Writer {
    file: Arc<StateFile>,
    status: FileStatus,
    pattern: Pattern,
    newest: watch::Receiver<Kept>,
    /// What tells whether the file is still the one that was written last.
    stamp: Option<Stamp>,
    backoff: Backoff,
}

/// What a look at the file found.
enum Found {
    Held(Option<Stamp>),
    /// The file must be written again.
    Lost,
    /// It has become the file of another view, whose writer would write it again.
    Foreign(Unusable),
}

impl Writer {
    pub(super) fn new(file: Arc<StateFile>, status: FileStatus, pattern: Pattern, newest: watch::Receiver<Kept>) -> Self {
        let waits = RetryPolicy { first_delay: BETWEEN_WRITES, max_delay: LONGEST_WAIT, ..RetryPolicy::default() };
        Self { file, status, pattern, newest, stamp: None, backoff: waits.backoff() }
    }

    /// Writes the newest state, one write at a time, until the view is gone and its last state is written. A view that is gone gets one more attempt.
    pub(super) async fn run(mut self) {
        let file = self.file.clone();
        // If the runtime ends first they stay.
        let _ = spawn_blocking(move || file.tidy()).await;
        while let Some(since) = self.work().await {
            while !self.write(since).await {
                // An error: the view is gone and has told its last state.
                let is_last = self.newest.has_changed().is_err();
                sleep(self.backoff.next_delay()).await;
                if is_last {
                    self.write(since).await;
                    return;
                }
            }
            self.backoff.reset();
            sleep(BETWEEN_WRITES).await;
        }
    }

    /// Waits until the file does not hold the newest state, and tells since when. None: the view is gone.
    async fn work(&mut self) -> Option<Instant> {
        loop {
            tokio::select! {
                biased;
                // Of a sender that is gone the last state is still told.
                changed = self.newest.changed() => return changed.is_ok().then(now),
                () = sleep(LOOK) => if self.is_lost().await {
                    return Some(now());
                },
            }
        }
    }

    /// Whether the file must be written again, by a look at it.
    async fn is_lost(&mut self) -> bool {
        let (file, kept, stamp) = (self.file.clone(), self.newest.borrow().clone(), self.stamp.clone());
        let look = spawn_blocking(move || {
            let found = file.stamp();
            if found.is_some() && found == stamp {
                return Found::Held(found);
            }
            match file.holds(&kept) {
                Ok(true) => Found::Held(found),
                Ok(false) => Found::Lost,
                Err(foreign) => Found::Foreign(foreign),
            }
        });
        match look.await {
            Ok(Found::Held(stamp)) => {
                self.stamp = stamp;
                self.status.clear();
                false
            }
            Ok(Found::Lost) => true,
            Ok(Found::Foreign(unusable)) => {
                self.fail(now(), std::io::Error::other(unusable.to_string()));
                false
            }
            // The runtime has ended; this task goes on on another one.
            Err(_) => false,
        }
    }

    /// Writes the newest state. Whether that went well.
    async fn write(&mut self, since: Instant) -> bool {
        let (file, kept) = (self.file.clone(), self.newest.borrow_and_update().clone());
        match spawn_blocking(move || file.write(&kept)).await {
            Ok(Ok(stamp)) => {
                self.stamp = Some(stamp);
                self.status.clear();
                true
            }
            Ok(Err(error)) => {
                self.fail(since, error);
                false
            }
            // The runtime has ended before it was written. This task goes on on another one.
            Err(_) => {
                self.newest.mark_changed();
                false
            }
        }
    }

    /// The file has not held the state since then, unless it was told before.
    fn fail(&self, since: Instant, error: std::io::Error) {
        telemetry::view_not_kept(self.pattern, &self.file.path, &error);
        self.status.set(since, error);
    }
}
