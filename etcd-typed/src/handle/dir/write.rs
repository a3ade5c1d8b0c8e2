//! Writing and deleting a whole struct: what [`Dir::set`](super::Dir::set) and its like return.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use super::{Dir, looked};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Context;
use crate::handle::plan::{Atomicity, Owner, Plan, unchanged};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::schema::{self, Schema, Tree};
use crate::store::{BoxFuture, Condition, Expiry, Op, Span};
use crate::telemetry::Operation;
use crate::turn::Guard;
use crate::version::{Basis, Versioned};

/// A write of a whole struct that happens when it is awaited. The answer is its revision.
#[must_use = "a write does nothing until it is awaited"]
pub struct DirWrite<S> {
    pub(super) dir: Dir<S>,
    pub(super) job: Job,
    pub(super) work: Result<Work>,
    pub(super) expiry: Expiry,
    pub(super) atomicity: Atomicity,
}

/// Under which condition.
pub(super) enum Job {
    Set,
    Create,
    Swap { revision: Revision, basis: Basis },
}

/// What is to be written.
pub(super) enum Work {
    Whole(schema::Encoded),
    Plan(Plan),
}

impl From<schema::Encoded> for Work {
    fn from(encoded: schema::Encoded) -> Self {
        Self::Whole(encoded)
    }
}

impl<S> DirWrite<S> {
    /// Every key that is written vanishes by itself after this time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Expiry::After(ttl);
        self
    }

    /// Every key that is written vanishes with this lease.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the lease is not there any more.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.expiry = Expiry::With(lease.into());
        self
    }

    /// Allows to write in several steps, for stores without transactions (v2) and for structs with more keys than one transaction takes. Others
    /// may see the struct half written, and a failure may leave it so: [`Error::written`] lists the keys that were. With `compare_and_swap` and `create`
    /// each key that is written is compared by itself.
    pub fn non_atomic(mut self) -> Self {
        self.atomicity = Atomicity::NonAtomic;
        self
    }

    /// Only while this guard is held; see [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`; nothing was written, or with `.non_atomic()` nothing but [`Error::written`]. `Unsupported` on v2.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.dir.context = self.dir.context.guarded_by(guard);
        self
    }
}

impl<S: Schema> DirWrite<S> {
    fn operation(&self) -> Operation {
        Dir::<S>::operation(match self.job {
            Job::Set => "set",
            Job::Create => "create",
            Job::Swap { .. } => "compare_and_swap",
        })
    }

    async fn run(self) -> Result<Revision> {
        let operation = self.operation();
        let Self { dir, job, work, expiry, atomicity } = self;
        let context = dir.context.clone();
        match (job, work?) {
            (Job::Swap { revision, basis }, Work::Plan(plan)) => {
                if atomicity == Atomicity::NonAtomic {
                    let (tree, revision) = dir.read_to_write().await?;
                    dir.still(&basis, &tree, revision)?;
                    // What is deleted and was not read is an alias of a field that was: whatever it holds, it goes.
                    let deletes = plan.deletes.clone();
                    let condition = |key: &str| match as_read(&basis, key) {
                        Condition::Absent if deletes.iter().any(|delete| delete == key) => None,
                        condition => Some(condition),
                    };
                    let written = context.commit_non_atomic(&dir.key, plan, condition, expiry).await?;
                    return Ok(last(&written, revision));
                }
                let compares = unchanged(&dir.key, revision, &basis);
                let committed = context.commit_plan(&dir.key, plan, compares, dir.look(), expiry).await?;
                if committed.succeeded { Ok(committed.revision) } else { Err(dir.conflict(committed)) }
            }
            (Job::Create, Work::Whole(encoded)) => {
                let plan = Plan { puts: encoded.into_iter().collect(), deletes: Vec::new() };
                let exists = || Error::new(ErrorKind::AlreadyExists, "a key of the struct is there").at(&dir.key);
                let is_there = |tree: &Tree| tree.keys().any(|key| S::TABLE.owns(key));
                if atomicity == Atomicity::NonAtomic {
                    let (tree, revision) = dir.read_to_write().await?;
                    if is_there(&tree) {
                        return Err(exists());
                    }
                    let written = context.commit_non_atomic(&dir.key, plan, |_| Some(Condition::Absent), expiry).await?;
                    return Ok(last(&written, revision));
                }
                let owner = Dir::<S>::OWNER;
                let mut compares = owner.nothing_there(&dir.key);
                let mut backoff = context.retry.backoff();
                for _ in 0..=context.retry.conflict_budget {
                    let look = if owner.has_maps() { dir.look() } else { Vec::new() };
                    let committed = context.commit_plan(&dir.key, plan.clone(), compares, look, expiry).await?;
                    if committed.succeeded {
                        return Ok(committed.revision);
                    }
                    // What is in a map's directory may be no entry of it.
                    match looked(&dir.key, committed) {
                        Some((tree, revision)) if !is_there(&tree) => compares = unchanged(&dir.key, revision, &[]),
                        _ => return Err(exists()),
                    }
                    operation.conflict();
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(dir.worn_out())
            }
            (_, Work::Whole(encoded)) => set(&context, &dir.key, Dir::<S>::OWNER, encoded, expiry, atomicity, operation).await,
            (_, Work::Plan(plan)) => {
                context.commit_plan(&dir.key, plan, Vec::new(), Vec::new(), expiry).await.map(|committed| committed.revision)
            }
        }
    }
}

/// Makes the owner's keys below a directory be exactly `encoded`.
pub(in crate::handle) async fn set(
    context: &Context,
    directory: &Key,
    owner: Owner,
    encoded: schema::Encoded,
    expiry: Expiry,
    atomicity: Atomicity,
    operation: Operation,
) -> Result<Revision> {
    if atomicity == Atomicity::Atomic {
        // With maps it will be on the condition that nothing changed below.
        let compares = if owner.has_maps() { unchanged(directory, Revision::ZERO, &[]) } else { Vec::new() };
        context.check_atomic(directory, &compares, encoded.len())?;
    }
    if !owner.has_maps() {
        let plan = owner.overwrite(encoded);
        return match atomicity {
            Atomicity::Atomic => {
                context.commit_plan(directory, plan, Vec::new(), Vec::new(), expiry).await.map(|committed| committed.revision)
            }
            Atomicity::NonAtomic => {
                let written = context.commit_non_atomic(directory, plan, |_| None, expiry).await?;
                Ok(last(&written, Revision::ZERO))
            }
        };
    }
    let reply = context.read_to_write(Span::Below(directory.clone())).await.map_err(|error| error.at(directory))?;
    let (mut tree, mut revision) = (schema::tree(directory, reply.kvs), reply.revision);
    if atomicity == Atomicity::NonAtomic {
        let written = context.commit_non_atomic(directory, owner.replace(&tree, encoded), |_| None, expiry).await?;
        return Ok(last(&written, revision));
    }
    let mut backoff = context.retry.backoff();
    for _ in 0..=context.retry.conflict_budget {
        let plan = owner.replace(&tree, encoded.clone());
        // Only what appears matters: a key that vanished is as good as deleted.
        let compares = unchanged(directory, revision, &[]);
        let look = vec![Op::Get(Span::Below(directory.clone()))];
        let committed = context.commit_plan(directory, plan, compares, look, expiry).await?;
        if committed.succeeded {
            return Ok(committed.revision);
        }
        operation.conflict();
        (tree, revision) = looked(directory, committed).unwrap_or_default();
        tokio::time::sleep(backoff.next_delay()).await;
    }
    Err(Error::new(ErrorKind::Conflict, "others wrote it faster, again and again").at(directory))
}

/// The revision of the last of several writes; of none, what is known without them.
pub(super) fn last(written: &[(String, Revision)], without: Revision) -> Revision {
    written.iter().map(|(_, revision)| *revision).max().unwrap_or(without)
}

/// The condition that one key is as it was read.
pub(super) fn as_read(basis: &[(String, Revision)], key: &str) -> Condition {
    let read = basis.iter().find(|(read, _)| read == key);
    read.map_or(Condition::Absent, |(_, modified)| Condition::Modified(*modified))
}

impl<S: Schema> IntoFuture for DirWrite<S> {
    type Output = Result<Revision>;
    type IntoFuture = BoxFuture<'static, Result<Revision>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.operation().run(self.run()))
    }
}

impl<S: Schema> fmt::Debug for DirWrite<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirWrite").field("dir", &self.dir).field("atomicity", &self.atomicity).finish_non_exhaustive()
    }
}

/// A deletion of a whole struct that happens when it is awaited. The answer is the struct that was there, if it could be read.
#[must_use = "a deletion does nothing until it is awaited"]
pub struct DirDelete<S> {
    pub(super) dir: Dir<S>,
    /// The revision and the keys of a read that must still hold.
    pub(super) seen: Option<(Revision, Basis)>,
    pub(super) atomicity: Atomicity,
}

impl<S> DirDelete<S> {
    /// Allows to delete in several steps, as [`DirWrite::non_atomic`]. With `compare_and_delete` each key is compared by itself.
    pub fn non_atomic(mut self) -> Self {
        self.atomicity = Atomicity::NonAtomic;
        self
    }

    /// Only while this guard is held; see [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`; nothing was deleted, or with `.non_atomic()` nothing but [`Error::written`]. `Unsupported` on v2.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.dir.context = self.dir.context.guarded_by(guard);
        self
    }
}

impl<S: Schema> DirDelete<S> {
    fn operation(&self) -> Operation {
        Dir::<S>::operation(if self.seen.is_some() { "compare_and_delete" } else { "delete" })
    }

    async fn run(self) -> Result<Option<Versioned<S>>> {
        let operation = self.operation();
        let Self { dir, seen, atomicity } = self;
        let context = dir.context.clone();
        let (mut tree, mut revision) = dir.read_to_write().await?;
        let mut backoff = context.retry.backoff();
        for _ in 0..=context.retry.conflict_budget {
            let there: Vec<(String, Revision)> =
                tree.iter().filter(|(key, _)| S::TABLE.owns(key)).map(|(key, stored)| (key.clone(), stored.modified)).collect();
            let was = schema::decode::<S>(&dir.key, &tree, revision).ok().filter(|_| !there.is_empty());
            let plan = Plan { puts: Vec::new(), deletes: there.iter().map(|(key, _)| key.clone()).collect() };
            if atomicity == Atomicity::NonAtomic {
                let expected = seen.as_ref().map(|(_, basis)| basis.clone());
                if let Some(basis) = &expected {
                    dir.still(basis, &tree, revision)?;
                }
                // What is there and was not read is an alias, as was just seen.
                let condition = |key: &str| Some(as_read(expected.as_ref()?, key)).filter(|condition| *condition != Condition::Absent);
                context.commit_non_atomic(&dir.key, plan, condition, Expiry::Never).await?;
                return Ok(was);
            }
            let compares = match &seen {
                Some((revision, basis)) => unchanged(&dir.key, *revision, basis),
                None if there.is_empty() => return Ok(None),
                None => unchanged(&dir.key, revision, &there),
            };
            let committed = context.commit_plan(&dir.key, plan, compares, dir.look(), Expiry::Never).await?;
            if committed.succeeded {
                return Ok(was);
            }
            if seen.is_some() {
                return Err(dir.conflict(committed));
            }
            operation.conflict();
            (tree, revision) = looked(&dir.key, committed).unwrap_or_default();
            tokio::time::sleep(backoff.next_delay()).await;
        }
        Err(dir.worn_out())
    }
}

impl<S: Schema> IntoFuture for DirDelete<S> {
    type Output = Result<Option<Versioned<S>>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.operation().run(self.run()))
    }
}

impl<S: Schema> fmt::Debug for DirDelete<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirDelete").field("dir", &self.dir).finish_non_exhaustive()
    }
}
