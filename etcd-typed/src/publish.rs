//! `Publication`: keeps a value at a key while its guard lives, and puts the value back whenever
//! the value is lost. Works on bytes; [`Published`] adds the type. The module of the handles
//! contains the builder of [`Entry::publish`](crate::Entry::publish).
//!
//! Each publication has one task, which owns the lease and makes the decisions. A watch event only
//! makes the task read the key: each decision needs a linearizable answer, so late or repeated
//! events do no harm. A value is ours if its key is attached to our lease, whose ID is random.
//! Values with the same time to live share leases, but two values with the same key never share
//! one. With a lease of the caller they may; the key then belongs to the newest value of this
//! client.

mod guard;
mod keeper;
mod status;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

pub use self::guard::Published;
use self::keeper::{Set, ValueKeeper};
pub use self::status::PublishedStatus;
use self::status::SharedStatus;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::lease::{BorrowedLease, KeyLease, LeasePool};
use crate::revision::Revision;
use crate::runtime::{Patience, Task, sleep_until};
use crate::store::{Expiry, Op, Store, Txn};
use crate::telemetry::Pattern;

/// Where a value is published, and how long the value stays after its publisher vanished.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) lease_pool: Arc<LeasePool>,
    pub(crate) key: Key,
    pub(crate) ttl: Duration,
    /// The lease that the caller keeps for the value. If it is `None`, the client chooses a lease.
    pub(crate) lease: Option<BorrowedLease>,
    /// The label for the key in metrics and events.
    pub(crate) pattern: Pattern,
}

impl Target {
    /// Puts the value, replacing whatever the key holds, and starts the task that keeps it.
    /// Dropping the future drops the share in the lease, so that no value stays.
    pub(crate) async fn publish(self, value: Bytes) -> Result<Publication> {
        // Dropping `lease` retires it, unless `leave` says that the value was not put.
        let lease = self.share().await?;
        let put = Txn { then: vec![self.put(&value, &lease)], ..Txn::default() };
        let committed = match self.store().commit(put).await {
            Ok(committed) => committed,
            Err(error) => {
                if !error.may_have_applied() {
                    lease.leave();
                }
                return Err(error.at(&self.key));
            }
        };

        let shared = Arc::new(SharedStatus::new(self.pattern, lease.validity()));
        let (sets, received) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let (key, lease_pool) = (self.key.clone(), self.lease_pool.clone());
        let keeper = ValueKeeper::new(self, shared.clone(), received, value, lease, committed.revision);
        let prepared = lease_pool.runtimes().prepare();
        let task = prepared.task();
        let (told, kept_by) = (Arc::downgrade(&shared), task.clone());
        prepared.observed(move || told.upgrade().iter().for_each(|shared| shared.task_moved(&kept_by))).start(keeper.run(ended));
        Ok(Publication { key, shared, sets, end: Some(end), task, lease_pool })
    }

    async fn share(&self) -> Result<KeyLease> {
        self.check()?;
        match &self.lease {
            Some(lease) => Ok(KeyLease::borrowed(&self.lease_pool, lease, &self.key)),
            None => self.lease_pool.share(self.ttl, &self.key).await.map(KeyLease::Shared).map_err(|error| error.at(&self.key)),
        }
    }

    /// Checks that the value can be put.
    ///
    /// # Errors
    ///
    /// The errors of a lease that the caller keeps.
    fn check(&self) -> Result<()> {
        let checked = self.lease.as_ref().map_or(Ok(()), |lease| lease.check(&**self.store()));
        checked.map_err(|error| error.at(&self.key))
    }

    /// Returns whether the value is lost for good, because the lease that the caller kept for it is
    /// lost.
    fn is_over(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| !lease.validity().is_held())
    }

    fn put(&self, value: &Bytes, lease: &KeyLease) -> Op {
        Op::Put { key: self.key.clone(), value: value.clone(), expiry: Expiry::With(lease.id()), previous: false }
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.lease_pool.roaming()
    }
}

/// The guard of a published value. Dropping it deletes the value in the background.
pub(crate) struct Publication {
    key: Key,
    shared: Arc<SharedStatus>,
    sets: mpsc::UnboundedSender<Set>,
    /// Ends the task when it is used or dropped. If a sender is sent here, the task sends the
    /// result of the withdrawal to it.
    end: Option<oneshot::Sender<oneshot::Sender<Result<()>>>>,
    task: Task,
    lease_pool: Arc<LeasePool>,
}

/// How long a publication's task may go without being polled. The task wakes for every message from
/// the guard. An attempt may last until all its requests are answered.
const PATIENCE: Patience = Patience { first: Duration::from_millis(500), then: Duration::from_secs(30) };

impl Publication {
    fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn status(&self) -> PublishedStatus {
        self.lease_pool.runtimes().note();
        // The receiver of this channel lives in the task, so a closed channel means that the task
        // has ended.
        self.shared.status(self.sets.is_closed())
    }

    /// Replaces the value: attempts to put the new value at once, and returns the result of that
    /// attempt.
    pub(crate) async fn set(&self, value: Bytes) -> Result<Revision> {
        let (answer, answered) = oneshot::channel();
        // If the task has ended, `answer` is dropped, here or while the message is queued.
        let _ = self.sets.send(Set { value, answer });
        match self.task.attend(PATIENCE, self.in_time(answered)).await {
            Some(answered) => answered?.unwrap_or_else(|_| Err(self.abandoned())),
            // The task puts the value when there is a runtime again.
            None => Err(self.abandoned().outcome_unknown()),
        }
    }

    /// Deletes the value if the key is still ours, and waits for the answer.
    pub(crate) async fn withdraw(mut self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        if let Some(end) = self.end.take() {
            let _ = end.send(answer);
        }
        match self.task.attend(PATIENCE, self.in_time(answered)).await {
            Some(answered) => answered?.unwrap_or_else(|_| Err(self.abandoned())),
            None => Err(self.abandoned()),
        }
    }

    /// Waits for the task's answer. The task first finishes an attempt that is under way.
    async fn in_time<T>(&self, answered: impl Future<Output = T>) -> Result<T> {
        let deadline = self.lease_pool.retry().deadline();
        tokio::select! {
            biased;
            answered = answered => Ok(answered),
            () = sleep_until(deadline) => {
                                let late = Error::new(ErrorKind::Timeout, "the task that keeps the value published did not finish in time, and continues");
                Err(late.at(&self.key).outcome_unknown())
            }
        }
    }

    fn abandoned(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "the runtime that kept the value published ended, and the client was not used on another one")
            .at(&self.key)
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        drop(self.end.take());
        if self.task.is_stranded() {
            // The task may wait for a runtime forever, and it owns the client.
            self.task.end();
        } else {
            self.task.come_here();
        }
    }
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication").field("key", &self.key).field("status", &self.status()).finish_non_exhaustive()
    }
}
