//! `Writer`: the task that keeps a view's file up to date with its state.

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

/// The minimum time between two writes of a file.
const BETWEEN_WRITES: Duration = Duration::from_secs(1);

/// The time between two checks of a file while there is nothing to write.
const LOOK: Duration = Duration::from_secs(10);

/// The longest wait before a failed write is repeated.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

pub(super) struct Writer {
    file: Arc<StateFile>,
    status: FileStatus,
    pattern: Pattern,
    newest: watch::Receiver<Kept>,
    /// The stamp of the file after the last write. Shows whether another process has replaced the
    /// file since.
    stamp: Option<Stamp>,
    backoff: Backoff,
}

/// The result of a file check.
enum Found {
    Held(Option<Stamp>),
    /// The file must be written again.
    Lost,
    /// The file now belongs to another view. If this view wrote the file again, the two writers
    /// would overwrite each other.
    Foreign(Unusable),
}

impl Writer {
    pub(super) fn new(file: Arc<StateFile>, status: FileStatus, pattern: Pattern, newest: watch::Receiver<Kept>) -> Self {
        let waits = RetryPolicy { first_delay: BETWEEN_WRITES, max_delay: LONGEST_WAIT, ..RetryPolicy::default() };
        Self { file, status, pattern, newest, stamp: None, backoff: waits.backoff() }
    }

    /// Writes the newest state, one write at a time, until the view is dropped and its last state
    /// is written. If a write fails after the drop, it is tried once more.
    pub(super) async fn run(mut self) {
        let file = self.file.clone();
        // If the runtime ends before this work, the unfinished files remain, which does no harm.
        let _ = spawn_blocking(move || file.tidy()).await;
        while let Some(since) = self.work().await {
            while !self.write(since).await {
                // An error means that the view was dropped, and that no newer state will come.
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

    /// Waits until the file does not hold the newest state, and returns the time since when this is
    /// so. Returns `None` when the view was dropped and its last state has been received.
    async fn work(&mut self) -> Option<Instant> {
        loop {
            tokio::select! {
                biased;
                // The last state is still received after the sender was dropped.
                changed = self.newest.changed() => return changed.is_ok().then(now),
                () = sleep(LOOK) => if self.is_lost().await {
                    return Some(now());
                },
            }
        }
    }

    /// Checks whether the file must be written again.
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
            // The runtime ended. This task continues on another runtime.
            Err(_) => false,
        }
    }

    /// Writes the newest state. Returns true if the write succeeded.
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
            // The runtime ended before the write. This task continues on another runtime.
            Err(_) => {
                self.newest.mark_changed();
                false
            }
        }
    }

    /// Records that the file has not held the state since `since`, or since the time of an earlier
    /// report.
    fn fail(&self, since: Instant, error: std::io::Error) {
        telemetry::view_not_kept(self.pattern, &self.file.path, &error);
        self.status.set(since, error);
    }
}
