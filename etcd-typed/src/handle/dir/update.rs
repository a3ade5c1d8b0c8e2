//! Reading a struct, changing it and writing what changed: what [`Dir::update`](super::Dir::update) returns.

use std::convert::Infallible;
use std::fmt;
use std::future::IntoFuture;

use super::write::last;
use super::{Dir, looked};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::plan::{Atomicity, unchanged};
use crate::revision::Revision;
use crate::schema::{self, Schema};
use crate::store::{BoxFuture, Compare, Condition, Expiry};
use crate::turn::Guard;
use crate::version::{Versioned, Versions};

/// A read-modify-write of a struct that happens when it is awaited. The answer is what is stored then.
#[must_use = "an update does nothing until it is awaited"]
pub struct DirUpdate<'f, S>(pub(super) DirTryUpdate<'f, S, Infallible>);

/// An [update](Dir::try_update) whose closure may refuse.
#[must_use = "an update does nothing until it is awaited"]
pub struct DirTryUpdate<'f, S, E> {
    pub(super) dir: Dir<S>,
    pub(super) f: Closure<'f, S, E>,
    pub(super) scope: UpdateScope,
    pub(super) atomicity: Atomicity,
}

type Closure<'f, S, E> = Box<dyn Fn(&mut S) -> Result<(), E> + Send + 'f>;

/// What must not have changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UpdateScope {
    /// Anything below the directory.
    Directory,
    /// The keys that are written.
    ChangedFields,
}

impl<S> DirUpdate<'_, S> {
    /// Lets others change other fields meanwhile: only the fields that are written must be as they were read. Use it where the new values do not
    /// depend on other fields.
    pub fn changed_fields_only(self) -> Self {
        Self(self.0.changed_fields_only())
    }

    /// Allows to write in several steps, as [`DirWrite::non_atomic`](crate::DirWrite::non_atomic); each key that is written must be as it was read.
    pub fn non_atomic(self) -> Self {
        Self(self.0.non_atomic())
    }

    /// Only while this guard is held; see [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`; nothing was written, or with `.non_atomic()` nothing but [`Error::written`]. `Unsupported` on v2.
    pub fn guarded_by(self, guard: &Guard) -> Self {
        Self(self.0.guarded_by(guard))
    }
}

impl<S, E> DirTryUpdate<'_, S, E> {
    /// Lets others change other fields meanwhile: only the fields that are written must be as they were read. Use it where the new values do not
    /// depend on other fields.
    pub fn changed_fields_only(mut self) -> Self {
        self.scope = UpdateScope::ChangedFields;
        self
    }

    /// Allows to write in several steps, as [`DirWrite::non_atomic`](crate::DirWrite::non_atomic); each key that is written must be as it was read.
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

impl<S: Schema, E> DirTryUpdate<'_, S, E> {
    async fn run(self) -> Result<Versioned<S>, UpdateError<E>> {
        let Self { dir, f, scope, atomicity } = self;
        let (context, operation) = (dir.context.clone(), Dir::<S>::operation("update"));
        let (mut tree, mut revision) = dir.read_to_write().await?;
        let mut backoff = context.retry.backoff();
        for _ in 0..=context.retry.conflict_budget {
            let read = schema::decode::<S>(&dir.key, &tree, revision)?;
            let old = schema::encode_unchecked(&dir.key, &*read)?;
            let basis = read.versions.basis.clone();
            let unwritten = read.versions.clone();
            let mut value = read.into_inner();
            f(&mut value).map_err(UpdateError::Refused)?;
            let new = schema::encode(&dir.key, &value)?;
            let plan = Dir::<S>::OWNER.difference(tree.keys(), &old, &new);
            if plan.is_empty() {
                return Ok(Versioned::new(value, unwritten));
            }
            let keys: Vec<String> = plan.keys().cloned().collect();
            let was = |key: &str| Some(tree.get(key).map_or(Condition::Absent, |stored| Condition::Modified(stored.modified)));
            if atomicity == Atomicity::NonAtomic {
                return match context.commit_non_atomic(&dir.key, plan, was, Expiry::Never).await {
                    Ok(written) => Ok(written_at(value, unwritten, &written, &new)),
                    Err(error) if error.kind() == ErrorKind::Conflict && error.written().is_empty() => {
                        operation.conflict();
                        (tree, revision) = dir.read_to_write().await?;
                        tokio::time::sleep(backoff.next_delay()).await;
                        continue;
                    }
                    Err(error) => Err(error.into()),
                };
            }
            let compares = match scope {
                UpdateScope::Directory => unchanged(&dir.key, revision, &basis),
                UpdateScope::ChangedFields => {
                    let on = |key: &String| Some(Compare::key(&dir.key.descend(key), was(key)?));
                    keys.iter().filter_map(on).collect()
                }
            };
            let transactions = context.store.capabilities().transactions;
            let look = if transactions { dir.look() } else { Vec::new() };
            let committed = context.commit_plan(&dir.key, plan, compares, look, Expiry::Never).await?;
            if committed.succeeded {
                let written: Vec<_> = keys.into_iter().map(|key| (key, committed.revision)).collect();
                return Ok(written_at(value, unwritten, &written, &new));
            }
            operation.conflict();
            (tree, revision) = match looked(&dir.key, committed) {
                Some(now) => now,
                None => dir.read_to_write().await?,
            };
            tokio::time::sleep(backoff.next_delay()).await;
        }
        Err(dir.worn_out().into())
    }
}

/// The struct after its update, without reading it again: these keys were written or deleted, each at its revision.
fn written_at<S>(value: S, mut versions: Versions, written: &[(String, Revision)], new: &schema::Encoded) -> Versioned<S> {
    let kept = versions.basis.iter().filter(|(key, _)| !written.iter().any(|(other, _)| other == key));
    let put = written.iter().filter(|(key, _)| new.contains_key(key));
    versions.basis = kept.chain(put).cloned().collect();
    versions.revision = last(written, versions.revision);
    versions.modified = last(&versions.basis, versions.revision);
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
            Dir::<S>::operation("update").run(self.0.run()).await.map_err(|error| match error {
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
        Box::pin(Dir::<S>::operation("update").run(self.run()))
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

/// Why a [`Dir::try_update`] did not happen.
#[derive(Debug)]
pub enum UpdateError<E> {
    /// The closure refused; nothing was written.
    Refused(E),
    /// The store, or what is stored.
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
