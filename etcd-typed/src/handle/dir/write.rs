//! Writes and deletes a whole struct: the types that [`Dir::set`](super::Dir::set),
//! [`Dir::delete`](super::Dir::delete) and similar methods return.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use super::{Dir, looked, set};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::expiry::{self, EnclosingExpiry, RequestedExpiry};
use crate::handle::plan::{
    Atomicity, IN_SEVERAL, IN_SEVERAL_OR_UPDATE, Removal, WritePlan, is_rewound, last, newest, nothing_below, unchanged,
};
use crate::handle::previous::Previous;
use crate::queue::Guard;
use crate::retry::{AfterConflict, OptimisticRetry};
use crate::revision::{LeaseId, Revision};
use crate::schema::{self, Encoded, Schema, Tree};
use crate::store::{BoxFuture, Compare, Condition, Expiry};
use crate::telemetry::Operation;
use crate::version::Basis;

/// A write of a whole struct. The write runs when it is awaited, and returns its revision.
#[must_use = "a write does nothing until it is awaited"]
pub struct DirWrite<S> {
    pub(super) dir: Dir<S>,
    pub(super) job: Result<Job>,
    pub(super) op: &'static str,
    pub(super) requested: RequestedExpiry,
    pub(super) atomicity: Atomicity,
}

/// The values to write, and the kind of condition.
pub(super) enum Job {
    Set(Encoded),
    Create(Encoded),
    Swap(Swap),
}

/// The struct that was read, and the one to replace it.
pub(super) struct Swap {
    pub(super) revision: Revision,
    pub(super) basis: Basis,
    /// The lease that all keys of the struct were attached to when it was read.
    pub(super) lease: Option<LeaseId>,
    pub(super) old: Encoded,
    pub(super) new: Encoded,
}

impl<S> DirWrite<S> {
    /// Lets every key of the struct expire after this time. `compare_and_swap` then also writes the
    /// keys that do not differ.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::After(ttl));
        self
    }

    /// Attaches every key of the struct to this lease. `compare_and_swap` then also writes the keys
    /// that do not differ.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if the lease no longer exists.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::With(lease.into()));
        self
    }

    /// Stores the struct without expiry. `compare_and_swap` then also writes the keys that do not
    /// differ.
    pub fn permanent(mut self) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::Never);
        self
    }

    /// Allows several steps instead of one transaction, for stores without transactions (v2) and
    /// for structs with more keys than one transaction accepts. Other clients may see the struct
    /// half written, and a failure may leave the struct half written: [`Error::written`] lists the
    /// keys that were written. With `compare_and_swap` and `create`, each key has its own
    /// condition.
    pub fn non_atomic(mut self) -> Self {
        self.atomicity = Atomicity::NonAtomic;
        self
    }

    /// Applies the write only while this guard is held; see
    /// [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`: nothing was written, or with `.non_atomic()` only the keys in
    /// [`Error::written`].
    /// `Unsupported` on v2.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.dir.context = self.dir.context.guarded_by(guard);
        self
    }
}

impl<S: Schema> DirWrite<S> {
    async fn run(self) -> Result<Revision> {
        let operation = Dir::<S>::operation(self.op);
        let Self { dir, job, requested, atomicity, .. } = self;
        match job? {
            Job::Set(encoded) => {
                let Dir { context, key, enclosing, .. } = &dir;
                set(context, key, enclosing.as_ref(), dir.owner(), encoded, requested, atomicity, operation).await
            }
            Job::Create(encoded) => dir.create_whole(encoded, requested, atomicity, operation).await,
            Job::Swap(swap) => dir.swap(swap, requested, atomicity).await,
        }
    }
}

impl<S: Schema> Dir<S> {
    /// Plans the deletion of the struct. The plan for a map entry or an optional directory deletes
    /// everything below the directory. Other plans delete the keys of the schema, including the map
    /// entries and optional directories in the struct.
    fn deletion(&self, tree: &Tree) -> WritePlan {
        match tree.is_empty() {
            false if self.removable => WritePlan { removals: vec![Removal::of("")], ..WritePlan::default() },
            _ => self.owner().replace(tree, Encoded::new()),
        }
    }

    async fn create_whole(
        &self,
        encoded: Encoded,
        requested: RequestedExpiry,
        atomicity: Atomicity,
        operation: Operation,
    ) -> Result<Revision> {
        let exists = || Error::new(ErrorKind::AlreadyExists, "a key of the struct exists already").at(&self.key);
        let is_there = |tree: &Tree| tree.keys().any(|key| self.exists_by(key));
        let mut enclosing_expiry = EnclosingExpiry::around(self.enclosing.as_ref(), &self.key, requested);
        // Also deletes leftover keys, which the new value does not contain.
        let over = |tree: &Tree| self.owner().difference(tree.keys(), &Encoded::new(), &encoded).expiring(|_| requested.named());
        if atomicity == Atomicity::NonAtomic {
            let (tree, revision) = self.read_to_write().await?;
            if is_there(&tree) {
                return Err(exists());
            }
            let plan = over(&tree).in_steps(&tree, revision).tags_last(self.owner());
            let written = self.context.commit_non_atomic(&self.key, plan, |key| Some(as_found(&tree, key)), &mut enclosing_expiry).await?;
            return Ok(last(&written, revision));
        }
        let mut plan = WritePlan::whole(encoded.clone()).expiring(|_| requested.named());
        let mut retry = OptimisticRetry::new(&self.context.retry);
        // The last read below the directory. Keys may exist although the struct does not: a key in
        // the directory of a map need not be an entry.
        let mut known: Option<(Tree, Revision)> = None;
        loop {
            let compares = match &known {
                None => self.owner().nothing_there(&self.key),
                Some((tree, revision)) => unchanged(&self.key, *revision, &newest(tree)),
            };
            let asks = self.context.store.capabilities().transactions && !enclosing_expiry.is_empty();
            let look = if self.owner().depends_on_stored() || self.removable || asks { self.look() } else { Vec::new() };
            let committed =
                self.context.commit_plan(&self.key, plan.clone(), compares, look, &mut enclosing_expiry, IN_SEVERAL_OR_UPDATE).await?;
            if committed.succeeded {
                return Ok(committed.revision);
            }
            let shown = match looked(&self.key, committed) {
                Some((tree, revision)) if !is_there(&tree) => {
                    plan = over(&tree);
                    (tree, revision)
                }
                _ => return Err(exists()),
            };
            operation.conflict();
            // The next transaction checks again that the struct does not exist.
            match retry.after_conflict(Some(Some(shown)), async { Ok::<_, Error>(None) }).await? {
                AfterConflict::Retry(now) => known = now,
                AfterConflict::GiveUp(_) => return Err(self.worn_out()),
            }
        }
    }

    async fn swap(&self, swap: Swap, requested: RequestedExpiry, atomicity: Atomicity) -> Result<Revision> {
        let Swap { revision, basis, lease, old, new } = swap;
        let context = &self.context;
        let mut enclosing_expiry = EnclosingExpiry::around(self.enclosing.as_ref(), &self.key, requested);
        let renewing = |plan: WritePlan| if requested.is_named() { plan.renewing(&new) } else { plan };
        // The stored keys include those that the caller's read did not use (aliases and leftover
        // keys), and show when each key expires.
        let exactly = |tree: &Tree, known: Option<Expiry>| {
            let plan = renewing(self.owner().difference(tree.keys(), &old, &new));
            plan.expiring(|key| known.or_else(|| expiry::kept(S::TABLE, tree, key)))
        };
        if atomicity == Atomicity::NonAtomic {
            let (tree, now) = self.read_to_write().await?;
            self.still(revision, &basis, &tree, now)?;
            let plan = exactly(&tree, requested.named()).in_steps(&tree, now).tags_last(self.owner());
            let written = context.commit_non_atomic(&self.key, plan, |key| Some(as_found(&tree, key)), &mut enclosing_expiry).await?;
            return Ok(last(&written, now));
        }
        let plan = renewing(self.owner().difference_to_read(&basis, &old, &new));
        let compares = unchanged(&self.key, revision, &basis);
        // If the write adds a struct, `basis` does not show leftover keys in the struct's
        // directory. If the keys do not share a lease, their expiry is not known either. So the
        // first transaction assumes that no leftover keys exist and that nothing expires.
        let mut guesses: Vec<Compare> = self.owner().added(&old, &new).iter().map(|added| nothing_below(&self.key, added)).collect();
        let known = requested.named().or(lease.map(Expiry::With));
        if known.is_none() {
            guesses.push(Compare::below(&self.key, Condition::NeverExpires));
        }
        // If the variant of an enum changes, the keys to delete depend on the stored keys.
        let is_known = !self.owner().switches(&old, &new);
        let (tree, now) = if is_known && context.has_room_for(compares.len() + guesses.len()) {
            let plan = plan.expiring(|_| known);
            let guessed = compares.iter().chain(&guesses).cloned().collect();
            let committed = context.commit_plan(&self.key, plan, guessed, self.look(), &mut enclosing_expiry, IN_SEVERAL_OR_UPDATE).await?;
            if committed.succeeded {
                return Ok(committed.revision);
            }
            if guesses.is_empty() {
                return Err(self.conflict(committed));
            }
            looked(&self.key, committed).ok_or_else(|| self.worn_out())?
        } else {
            context.check_atomic(&self.key, &compares, plan.keys().count(), IN_SEVERAL_OR_UPDATE)?;
            self.read_to_write().await?
        };
        self.still(revision, &basis, &tree, now)?;
        let plan = exactly(&tree, known);
        let committed = context.commit_plan(&self.key, plan, compares, self.look(), &mut enclosing_expiry, IN_SEVERAL_OR_UPDATE).await?;
        if committed.succeeded { Ok(committed.revision) } else { Err(self.conflict(committed)) }
    }
}

/// Returns the condition that a key is unchanged since it was read in `tree`.
pub(super) fn as_found(tree: &Tree, key: &str) -> Condition {
    tree.get(key).map_or(Condition::Absent, |stored| Condition::Modified(stored.modified))
}

impl<S: Schema> IntoFuture for DirWrite<S> {
    type Output = Result<Revision>;
    type IntoFuture = BoxFuture<'static, Result<Revision>>;

    fn into_future(self) -> Self::IntoFuture {
        let (context, atomicity) = (self.dir.context.clone(), self.atomicity);
        Box::pin(Dir::<S>::operation(self.op).run(async move { context.limited(atomicity, self.run()).await }))
    }
}

impl<S: Schema> fmt::Debug for DirWrite<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirWrite").field("dir", &self.dir).field("atomicity", &self.atomicity).finish_non_exhaustive()
    }
}

/// A deletion of a whole struct. The deletion runs when it is awaited, and returns what existed.
#[must_use = "a deletion does nothing until it is awaited"]
pub struct DirDelete<S> {
    pub(super) dir: Dir<S>,
    /// The revision and the keys of an earlier read by the caller. The keys must be unchanged.
    pub(super) seen: Option<(Revision, Basis)>,
    pub(super) atomicity: Atomicity,
}

impl<S> DirDelete<S> {
    /// Allows several steps instead of one transaction, as [`DirWrite::non_atomic`]. With
    /// `compare_and_delete`, each key has its own condition.
    pub fn non_atomic(mut self) -> Self {
        self.atomicity = Atomicity::NonAtomic;
        self
    }

    /// Applies the deletion only while this guard is held; see
    /// [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`: nothing was deleted, or with `.non_atomic()` only the keys in
    /// [`Error::written`].
    /// `Unsupported` on v2.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.dir.context = self.dir.context.guarded_by(guard);
        self
    }
}

impl<S: Schema> DirDelete<S> {
    fn operation(&self) -> Operation {
        Dir::<S>::operation(if self.seen.is_some() { "compare_and_delete" } else { "delete" })
    }

    async fn run(self) -> Result<Previous<S>> {
        let operation = self.operation();
        let Self { dir, seen, atomicity } = self;
        let context = dir.context.clone();
        let (mut tree, mut revision) = dir.read_to_write().await?;
        let mut retry = OptimisticRetry::new(&context.retry);
        loop {
            let there: Vec<(String, Revision)> =
                tree.iter().filter(|(key, _)| S::TABLE.owns(key)).map(|(key, stored)| (key.clone(), stored.modified)).collect();
            let was = match schema::decode_in_steps::<S>(&dir.key, &tree, revision).await {
                _ if there.is_empty() => Previous::Nothing,
                decoded => decoded.into(),
            };
            let plan = dir.deletion(&tree);
            if atomicity == Atomicity::NonAtomic {
                let mut plan = plan;
                if let Some((seen, basis)) = &seen {
                    dir.still(*seen, basis, &tree, revision)?;
                    plan = plan.in_steps(&tree, revision);
                }
                let condition = |key: &str| seen.is_some().then(|| as_found(&tree, key));
                context.commit_non_atomic(&dir.key, plan, condition, &mut EnclosingExpiry::default()).await?;
                return Ok(was);
            }
            let compares = match &seen {
                Some((revision, basis)) => unchanged(&dir.key, *revision, basis),
                None if plan.is_empty() => return Ok(was),
                None => unchanged(&dir.key, revision, &there),
            };
            let mut nothing = EnclosingExpiry::default();
            let committed = context.commit_plan(&dir.key, plan, compares, dir.look(), &mut nothing, IN_SEVERAL).await?;
            let again = seen.is_none() && is_rewound(&committed, revision);
            if committed.succeeded && !again {
                return Ok(was);
            }
            if seen.is_some() {
                return Err(dir.conflict(committed));
            }
            operation.conflict();
            let shown = if again { None } else { looked(&dir.key, committed) };
            match retry.after_conflict(shown, dir.read_to_write()).await? {
                AfterConflict::Retry(now) => (tree, revision) = now,
                AfterConflict::GiveUp(_) => return Err(dir.worn_out()),
            }
        }
    }
}

impl<S: Schema> IntoFuture for DirDelete<S> {
    type Output = Result<Previous<S>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (context, atomicity) = (self.dir.context.clone(), self.atomicity);
        Box::pin(self.operation().run(async move {
            let older = self.dir.older.clone().filter(|_| self.seen.is_none());
            let older = older.map(|key| Self { dir: Dir { key, ..self.dir.clone() }, seen: None, atomicity });
            let was = context.limited(atomicity, self.run()).await?;
            match older {
                Some(older) => match (was, context.limited(atomicity, older.run()).await?) {
                    (Previous::Nothing, was) | (was, _) => Ok(was),
                },
                None => Ok(was),
            }
        }))
    }
}

impl<S: Schema> fmt::Debug for DirDelete<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirDelete").field("dir", &self.dir).finish_non_exhaustive()
    }
}
