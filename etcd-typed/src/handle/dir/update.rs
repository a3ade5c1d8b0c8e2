//! Reads a struct, lets a closure change it, and writes the changes: the implementation of
//! [`Dir::update`](super::Dir::update).

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use super::write::as_found;
use super::{Dir, looked};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::expiry::{self, EnclosingExpiry, RequestedExpiry};
use crate::handle::plan::{Atomicity, IN_SEVERAL_OR_FEWER, WritePlan, is_below, last, unchanged};
use crate::queue::Guard;
use crate::retry::{AfterConflict, OptimisticRetry};
use crate::revision::{LeaseId, Revision};
use crate::schema::{self, Schema, Stored, Table, Tree};
use crate::store::{BoxFuture, Compare, Condition, Expiry};
use crate::version::{Versioned, Versions};

/// A read-modify-write of a struct. The update runs when it is awaited, and returns the struct that
/// is stored afterwards.
#[must_use = "an update does nothing until it is awaited"]
pub struct DirUpdate<'f, S>(pub(super) DirTryUpdate<'f, S, Infallible>);

/// An [update](Dir::try_update) whose closure can return an error.
#[must_use = "an update does nothing until it is awaited"]
pub struct DirTryUpdate<'f, S, E> {
    pub(super) dir: Dir<S>,
    pub(super) f: Closure<'f, S, E>,
    pub(super) scope: UpdateScope,
    pub(super) atomicity: Atomicity,
    pub(super) requested: RequestedExpiry,
}

type Closure<'f, S, E> = Box<dyn Fn(&mut S) -> Result<(), E> + Send + 'f>;

/// The keys that must not have changed since the read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UpdateScope {
    /// Everything below the directory.
    Directory,
    /// The keys that are written.
    ChangedFields,
}

impl<S> DirUpdate<'_, S> {
    /// Lets every key of the struct expire after this time, whether the closure changes it or not.
    pub fn ttl(self, ttl: Duration) -> Self {
        Self(self.0.ttl(ttl))
    }

    /// Attaches every key of the struct to this lease, whether the closure changes it or not.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if the lease no longer exists.
    pub fn lease(self, lease: impl Into<LeaseId>) -> Self {
        Self(self.0.lease(lease))
    }

    /// Stores the struct without expiry, even if its keys were attached to a lease.
    pub fn permanent(self) -> Self {
        Self(self.0.permanent())
    }

    /// Requires only that the written fields are unchanged since the read. Other clients may change
    /// other fields at the same time. Use this option if the new values do not depend on other
    /// fields.
    pub fn changed_fields_only(self) -> Self {
        Self(self.0.changed_fields_only())
    }

    /// Allows several steps instead of one transaction, as
    /// [`DirWrite::non_atomic`](crate::DirWrite::non_atomic). Each key is written only if it is
    /// unchanged since the read.
    pub fn non_atomic(self) -> Self {
        Self(self.0.non_atomic())
    }

    /// Applies the update only while this guard is held; see
    /// [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`: nothing was written, or with `.non_atomic()` only the keys in
    /// [`Error::written`].
    /// `Unsupported` on v2.
    pub fn guarded_by(self, guard: &Guard) -> Self {
        Self(self.0.guarded_by(guard))
    }
}

impl<S, E> DirTryUpdate<'_, S, E> {
    /// Lets every key of the struct expire after this time, whether the closure changes it or not.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::After(ttl));
        self
    }

    /// Attaches every key of the struct to this lease, whether the closure changes it or not.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if the lease no longer exists.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::With(lease.into()));
        self
    }

    /// Stores the struct without expiry, even if its keys were attached to a lease.
    pub fn permanent(mut self) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::Never);
        self
    }

    /// Requires only that the written fields are unchanged since the read. Other clients may change
    /// other fields at the same time. Use this option if the new values do not depend on other
    /// fields.
    pub fn changed_fields_only(mut self) -> Self {
        self.scope = UpdateScope::ChangedFields;
        self
    }

    /// Allows several steps instead of one transaction, as
    /// [`DirWrite::non_atomic`](crate::DirWrite::non_atomic). Each key is written only if it is
    /// unchanged since the read.
    pub fn non_atomic(mut self) -> Self {
        self.atomicity = Atomicity::NonAtomic;
        self
    }

    /// Applies the update only while this guard is held; see
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

impl<S: Schema, E> DirTryUpdate<'_, S, E> {
    async fn run(self) -> Result<Versioned<S>, UpdateError<E>> {
        let Self { dir, f, scope, atomicity, requested } = self;
        let (context, operation) = (dir.context.clone(), Dir::<S>::operation("update"));
        let transactions = context.store.capabilities().transactions;
        let mut enclosing_expiry = EnclosingExpiry::around(dir.enclosing.as_ref(), &dir.key, requested);
        let (mut tree, mut revision) = dir.read_to_write().await?;
        let mut retry = OptimisticRetry::new(&context.retry);
        loop {
            let read = schema::decode_in_steps::<S>(&dir.key, &tree, revision).await?;
            let old = dir.context.stored(schema::encode_unchecked(&dir.key, &*read)?);
            let basis = read.versions.basis.clone();
            let unwritten = read.versions.clone();
            let mut value = read.into_inner();
            f(&mut value).map_err(UpdateError::Refused)?;
            // If the update sets an expiry, every key is written, even if its value stays the same.
            let new = dir.encode_over((!requested.is_named()).then_some(&old), &value)?;
            let mut plan = dir.owner().difference(tree.keys(), &old, &new);
            if !is_so(requested, &tree, &new) {
                plan = plan.renewing(&new);
            }
            if plan.is_empty() {
                return Ok(Versioned::new(value, unwritten));
            }
            // If no stored key of the struct shows when the struct expires, new keys get the expiry
            // of the enclosing struct.
            let plan = plan.expiring(|key| requested.named().or_else(|| expiry::kept(S::TABLE, &tree, key)));

            let keys: Vec<String> = plan.keys().cloned().collect();
            let lease = lease_after(unwritten.lease, requested, &plan);
            let was = |key: &str| Some(as_found(&tree, key));
            let shown = if atomicity == Atomicity::NonAtomic {
                let plan = plan.in_steps(&tree, revision).tags_last(dir.owner());
                match context.commit_non_atomic(&dir.key, plan, was, &mut enclosing_expiry).await {
                    Ok(written) => return Ok(written_at(value, unwritten, &written, &new, lease)),
                    Err(error) if is_conflict(&error, requested) && error.written().is_empty() => None,
                    Err(error) => return Err(error.into()),
                }
            } else {
                let compares = match scope {
                    UpdateScope::Directory => {
                        let room = context.room_for_conditions().saturating_sub(enclosing_expiry.compares().len() + 1);
                        unchanged(&dir.key, revision, &named(S::TABLE, &basis, &plan, room))
                    }
                    UpdateScope::ChangedFields => {
                        let on = |key: &String| Some(Compare::key(&dir.key.descend(key), was(key)?));
                        let mut compares: Vec<Compare> = plan.own_keys().filter_map(on).collect();
                        let same = dir.owner().same_variants(&dir.key, &plan, &tree, revision);
                        compares.extend(same.into_iter().filter(|compare| !compares.contains(compare)).collect::<Vec<_>>());
                        compares.extend(plan.removals.iter().flat_map(|removal| removal.unchanged(&dir.key, revision, &basis)));
                        if transactions && !requested.is_named() {
                            compares.extend(as_the_struct(&dir, &tree, &plan));
                        }
                        compares
                    }
                };
                let look = if transactions { dir.look() } else { Vec::new() };
                match context.commit_plan(&dir.key, plan, compares, look, &mut enclosing_expiry, IN_SEVERAL_OR_FEWER).await {
                    Ok(committed) if committed.succeeded => {
                        let written: Vec<_> = keys.into_iter().map(|key| (key, committed.revision)).collect();
                        return Ok(written_at(value, unwritten, &written, &new, lease));
                    }
                    Ok(committed) => looked(&dir.key, committed),
                    Err(error) if is_conflict(&error, requested) => None,
                    Err(error) => return Err(error.into()),
                }
            };
            operation.conflict();
            let again = async {
                enclosing_expiry.forget();
                dir.read_to_write().await
            };
            match retry.after_conflict(shown, again).await? {
                AfterConflict::Retry(now) => (tree, revision) = now,
                AfterConflict::GiveUp(_) => return Err(dir.worn_out().into()),
            }
        }
    }
}

/// Returns whether a write must start again: another write came first, or a lease that the write
/// keeps has ended.
pub(super) fn is_conflict(error: &Error, requested: RequestedExpiry) -> bool {
    error.kind() == ErrorKind::Conflict || error.kind() == ErrorKind::LeaseLost && !requested.is_named()
}

/// Returns whether every key of the struct already has the expiry that the update asks for.
fn is_so(requested: RequestedExpiry, tree: &Tree, new: &schema::Encoded) -> bool {
    let all = |is: &dyn Fn(&Stored) -> bool| new.keys().all(|key| tree.get(key).is_some_and(is));
    match requested {
        RequestedExpiry::Keep => true,
        RequestedExpiry::Named(Expiry::Never) => all(&|stored| stored.lease.is_none() && stored.ttl.is_none()),
        RequestedExpiry::Named(Expiry::With(lease)) => all(&|stored| stored.lease == Some(lease)),
        // A time to live starts again with each write.
        RequestedExpiry::Named(Expiry::After(_)) => false,
    }
}

/// Returns the keys of `basis` for which an update has a separate condition.
///
/// These are all keys if one transaction accepts so many conditions. Otherwise they are the keys
/// that are written, all keys in maps, and as many other keys as fit. For the remaining keys, the
/// range condition detects changes, but no deletions. Required keys come last, since deleting one
/// of them leaves no valid struct.
fn named(table: &'static Table, basis: &[(String, Revision)], plan: &WritePlan, room: usize) -> Vec<(String, Revision)> {
    if basis.len() <= room {
        return basis.to_vec();
    }
    let fixed: HashSet<String> = table.fixed_keys().into_iter().collect();
    let is_written = |key: &String| plan.own_keys().any(|written| written == key) || plan.removals.iter().any(|removal| removal.has(key));
    let (needed, mut others): (Vec<_>, Vec<_>) = basis.iter().cloned().partition(|(key, _)| !fixed.contains(key) || is_written(key));
    if needed.len() > room {
        // One transaction cannot have the needed conditions. The error reports the number of all
        // keys.
        return basis.to_vec();
    }
    others.sort_by_key(|(key, _)| table.is_required(key));
    needed.into_iter().chain(others).take(room).collect()
}

/// If the plan adds keys to the struct, returns the conditions that the struct still has the same
/// expiry.
pub(super) fn as_the_struct<S: Schema>(dir: &Dir<S>, tree: &Tree, plan: &WritePlan) -> Vec<Compare> {
    let added = plan.puts.iter().filter(|put| !tree.contains_key(&put.key));
    let mut compares: Vec<Compare> = Vec::new();
    for (key, stored) in added.filter_map(|put| expiry::around(S::TABLE, tree, &put.key)) {
        let compare = Compare::key(&dir.key.descend(&key), stored.lease.map_or(Condition::NeverExpires, Condition::Lease));
        if !compares.contains(&compare) {
            compares.push(compare);
        }
    }
    compares
}

/// Returns the lease that all keys of the struct share after an update, if they share one.
fn lease_after(before: Option<LeaseId>, requested: RequestedExpiry, plan: &WritePlan) -> Option<LeaseId> {
    match requested {
        RequestedExpiry::Named(Expiry::With(lease)) => Some(lease),
        RequestedExpiry::Named(_) => None,
        RequestedExpiry::Keep => before.filter(|lease| plan.puts.iter().all(|put| put.expiry == Some(Expiry::With(*lease)))),
    }
}

/// Returns the struct with its metadata after an update, without another read. `written` contains
/// each key that was written or deleted, with its revision.
fn written_at<S>(
    value: S,
    mut versions: Versions,
    written: &[(String, Revision)],
    new: &schema::Encoded,
    lease: Option<LeaseId>,
) -> Versioned<S> {
    let kept = versions.basis.iter().filter(|(key, _)| !written.iter().any(|(other, _)| other == key || is_below(other, key)));
    let put = written.iter().filter(|(key, _)| new.contains_key(key));
    versions.basis = kept.chain(put).cloned().collect();
    versions.revision = last(written, versions.revision);
    versions.modified = last(&versions.basis, versions.revision);
    versions.lease = lease;
    if versions.created == Revision::ZERO {
        versions.created = versions.modified;
    }
    Versioned::new(value, versions)
}

impl<'f, S: Schema> IntoFuture for DirUpdate<'f, S> {
    type Output = Result<Versioned<S>>;
    type IntoFuture = BoxFuture<'f, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (context, atomicity) = (self.0.dir.context.clone(), self.0.atomicity);
            Dir::<S>::operation("update").run(context.limited(atomicity, self.0.run())).await.map_err(|error| match error {
                UpdateError::Store(error) => error,
                UpdateError::Refused(never) => match never {},
            })
        })
    }
}

impl<'f, S: Schema, E: Send + 'f> IntoFuture for DirTryUpdate<'f, S, E> {
    type Output = Result<Versioned<S>, UpdateError<E>>;
    type IntoFuture = BoxFuture<'f, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (context, atomicity) = (self.dir.context.clone(), self.atomicity);
        Box::pin(Dir::<S>::operation("update").run(async move { context.limited(atomicity, self.run()).await }))
    }
}

impl<S: Schema> fmt::Debug for DirUpdate<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirUpdate").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}

impl<S: Schema, E> fmt::Debug for DirTryUpdate<'_, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirTryUpdate").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The reason why a [`Dir::try_update`] failed.
#[derive(Debug)]
pub enum UpdateError<E> {
    /// The closure returned this error. Nothing was written.
    Refused(E),
    /// A request failed, or the stored struct cannot be read.
    Store(Error),
}

impl<E> From<Error> for UpdateError<E> {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl<E: fmt::Display> fmt::Display for UpdateError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for UpdateError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(error) => error.source(),
            Self::Store(error) => std::error::Error::source(error),
        }
    }
}
