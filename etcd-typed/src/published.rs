//! `Publication`: a value that is at a key as long as its guard lives, and that is put back whenever it is lost. Bytes only; the typed side is
//! [`Entry::publish`](crate::Entry::publish).
//!
//! One task for each has the lease and decides. What its watch tells is only a reason to look: each decision is taken from a linearizable answer, so an
//! event that comes late or twice does no harm. That the value is ours is that its key is attached to our lease, whose name is random.

mod keeper;
mod status;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::keeper::{Keeper, Set};
pub use self::status::PublishedStatus;
use self::status::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::lease::{Lease, Lessor};
use crate::revision::Revision;
use crate::store::{Expiry, Op, Store, Txn, spawn};
use crate::telemetry::Pattern;

/// Where something is published, and how long it outlives us.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) lessor: Arc<Lessor>,
    pub(crate) key: Key,
    pub(crate) ttl: Duration,
    /// What stands for the key where it should not be told.
    pub(crate) pattern: Pattern,
}

impl Target {
    /// Puts the value there, whatever is there, and keeps it there. Dropping the future drops the lease, so that nothing stays.
    pub(crate) async fn publish(self, value: Bytes) -> Result<Publication> {
        let lease = self.grant().await?;
        let put = Txn { then: vec![self.put(&value, &lease)], ..Txn::default() };
        let committed = self.store().commit(put).await.map_err(|error| error.at(&self.key))?;

        let runtime = lease.life().runtime().clone();
        let shared = Arc::new(Shared::new(self.pattern, lease.life()));
        let (sets, received) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let publication = Publication { key: self.key.clone(), shared: shared.clone(), sets, end };
        spawn(&runtime, Keeper::new(self, shared, received, value, lease, committed.revision).run(ended));
        Ok(publication)
    }

    async fn grant(&self) -> Result<Lease> {
        self.lessor.grant(self.ttl).await.map_err(|error| error.at(&self.key))
    }

    fn put(&self, value: &Bytes, lease: &Lease) -> Op {
        Op::Put { key: self.key.clone(), value: value.clone(), expiry: Expiry::With(lease.id()), previous: false }
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.lessor.store()
    }
}

/// The guard of a value that is kept where it is. Dropping it deletes the value in the background.
pub(crate) struct Publication {
    key: Key,
    shared: Arc<Shared>,
    sets: mpsc::UnboundedSender<Set>,
    /// The task ends when this is dropped, and answers if it is sent something to answer by.
    end: oneshot::Sender<oneshot::Sender<Result<()>>>,
}

impl Publication {
    pub(crate) fn status(&self) -> PublishedStatus {
        // Its task has the other side as long as it lives.
        self.shared.status(self.sets.is_closed())
    }

    /// From now on it is this value: attempts to have it there at once and gives the outcome of that.
    pub(crate) async fn set(&self, value: Bytes) -> Result<Revision> {
        let (answer, answered) = oneshot::channel();
        // If the task is gone the other side is dropped, here or while it waits.
        let _ = self.sets.send(Set { value, answer });
        answered.await.unwrap_or_else(|_| Err(self.abandoned()))
    }

    /// Deletes it if it is still ours, and waits for the answer.
    pub(crate) async fn withdraw(self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let abandoned = self.abandoned();
        let _ = self.end.send(answer);
        answered.await.unwrap_or(Err(abandoned))
    }

    fn abandoned(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "the runtime that kept it published is gone").at(&self.key)
    }
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication").field("key", &self.key).field("status", &self.status()).finish_non_exhaustive()
    }
}
