//! Writes the fields of a struct that do not exist in the store: the implementation of
//! [`Dir::seed`](super::Dir::seed).

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use serde::Serialize;

use super::update::{as_the_struct, is_conflict};
use super::{Dir, looked};
use crate::error::Result;
use crate::handle::expiry::{self, EnclosingExpiry, RequestedExpiry};
use crate::handle::plan::{Atomicity, IN_SEVERAL, WritePlan, is_below, last, newest, unchanged};
use crate::key::Key;
use crate::queue::Guard;
use crate::retry::{AfterConflict, OptimisticRetry};
use crate::revision::{LeaseId, Revision};
use crate::schema::{Encoded, FieldKeys, Schema, Tree};
use crate::store::{BoxFuture, Compare, Condition, Expiry};

/// A write of the fields that do not exist in the store. The write runs when it is awaited, and
/// returns the keys that were written.
#[must_use = "a seed does nothing until it is awaited"]
pub struct DirSeed<S> {
    pub(super) dir: Dir<S>,
    pub(super) encoded: Result<Encoded>,
    pub(super) requested: RequestedExpiry,
    pub(super) atomicity: Atomicity,
}

/// The result of a [`Dir::seed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Seeded {
    /// The revision of the write. If no field was missing, the revision of the read.
    pub revision: Revision,
    /// The keys that were written. Empty if no field was missing.
    pub written: Vec<Key>,
}

impl Seeded {
    /// Returns true if no field was missing, so that nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }
}

impl<S> DirSeed<S> {
    /// Lets the keys that are written expire after this time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::After(ttl));
        self
    }

    /// Attaches the keys that are written to this lease.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if the lease no longer exists.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::With(lease.into()));
        self
    }

    /// Writes the missing keys without expiry, even if the other keys of the struct are attached to
    /// a lease.
    pub fn permanent(mut self) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::Never);
        self
    }

    /// Allows several steps instead of one transaction, as
    /// [`DirWrite::non_atomic`](crate::DirWrite::non_atomic). Each key is created only if it does
    /// not exist. If several programs seed at the same time, each may create a part of the struct.
    /// The seed does not notice an alias or a map entry that another program creates between the
    /// read and the write.
    pub fn non_atomic(mut self) -> Self {
        self.atomicity = Atomicity::NonAtomic;
        self
    }

    /// Applies the seed only while this guard is held; see
    /// [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`: nothing was written, or with `.non_atomic()` only the keys in
    /// [`Error::written`](crate::Error::written).
    /// `Unsupported` on v2.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.dir.context = self.dir.context.guarded_by(guard);
        self
    }
}

impl<S: Schema> DirSeed<S> {
    async fn run(self) -> Result<Seeded> {
        let Self { dir, encoded, requested, atomicity } = self;
        let (encoded, context, operation) = (encoded?, dir.context.clone(), Dir::<S>::operation("seed"));
        let transactions = context.store.capabilities().transactions;
        if atomicity == Atomicity::Atomic && !transactions {
            context.check_atomic(&dir.key, &[], encoded.len(), IN_SEVERAL)?;
        }
        let fields = S::TABLE.field_keys();
        let mut enclosing_expiry = EnclosingExpiry::around(dir.enclosing.as_ref(), &dir.key, requested);
        let (mut tree, mut revision) = dir.read_to_write().await?;
        let mut retry = OptimisticRetry::new(&context.retry);
        let (mut written, mut is_first) = (Vec::new(), true);
        loop {
            let is_missing = |field: &&FieldKeys| {
                let is_given = field.of(&encoded).next().is_some() && field.fits(S::TABLE, &tree, |tag| encoded.get(tag));
                is_given && !field.is_in(S::TABLE, &tree)
            };
            let missing: Vec<&FieldKeys> = fields.iter().filter(is_missing).collect();
            if missing.is_empty() {
                return Ok(Seeded { revision, written });
            }
            let puts = missing.iter().flat_map(|field| field.of(&encoded)).map(|(key, value)| (key.clone(), value.clone()));
            let plan = WritePlan::whole(puts.collect());
            let plan = plan.expiring(|key| requested.named().or_else(|| expiry::kept(S::TABLE, &tree, key)));
            let keys: Vec<Key> = plan.own_keys().map(|relative| dir.key.descend(relative)).collect();
            let shown = if atomicity == Atomicity::NonAtomic {
                match context
                    .commit_non_atomic(&dir.key, plan.tags_last(dir.owner()), |_| Some(Condition::Absent), &mut enclosing_expiry)
                    .await
                {
                    Ok(done) => {
                        written.extend(keys);
                        return Ok(Seeded { revision: last(&done, revision), written });
                    }
                    Err(error) => {
                        written.extend_from_slice(error.written());
                        if !is_conflict(&error, requested) {
                            return Err(error.after_writing(written));
                        }
                        None
                    }
                }
            } else {
                let mut compares = vacant(&dir, &tree, revision, &missing, is_first);
                compares.extend(dir.owner().same_variants(&dir.key, &plan, &tree, revision));
                if transactions && !requested.is_named() {
                    compares.extend(as_the_struct(&dir, &tree, &plan));
                }
                if !context.has_room_for(compares.len() + enclosing_expiry.compares().len()) {
                    compares = unchanged(&dir.key, revision, &newest(&tree));
                }
                let look = if transactions { dir.look() } else { Vec::new() };
                match context.commit_plan(&dir.key, plan, compares, look, &mut enclosing_expiry, IN_SEVERAL).await {
                    Ok(committed) if committed.succeeded => return Ok(Seeded { revision: committed.revision, written: keys }),
                    Ok(committed) => looked(&dir.key, committed),
                    Err(error) if is_conflict(&error, requested) => None,
                    Err(error) => return Err(error),
                }
            };
            operation.conflict();
            is_first = false;
            let again = async {
                enclosing_expiry.forget();
                dir.read_to_write().await
            };
            match retry.after_conflict(shown, again).await.map_err(|error| error.after_writing(written.clone()))? {
                AfterConflict::Retry(now) => (tree, revision) = now,
                AfterConflict::GiveUp(_) => return Err(dir.worn_out().after_writing(written)),
            }
        }
    }
}

/// Returns the conditions that these fields are still missing.
///
/// A directory without valid keys may contain keys of other programs that are not valid paths. If
/// the first attempt fails, the next ones do not require that a whole directory is empty.
fn vacant<S: Schema>(dir: &Dir<S>, tree: &Tree, revision: Revision, missing: &[&FieldKeys], is_first: bool) -> Vec<Compare> {
    if tree.is_empty() && is_first && dir.context.store.capabilities().transactions {
        return vec![Compare::below(&dir.key, Condition::Absent)];
    }
    let (mut compares, mut older_keys) = (Vec::new(), false);
    for field in missing {
        let key = dir.key.descend(&field.key);
        if field.is_map {
            if is_first && !tree.keys().any(|relative| is_below(&field.key, relative)) {
                compares.push(Compare::below(&key, Condition::Absent));
            } else {
                compares.push(Compare::below(&key, Condition::UnchangedSince(revision)));
                older_keys = true;
            }
        } else {
            compares.push(Compare::key(&key, Condition::Absent));
            compares.extend(field.aliases.iter().map(|alias| Compare::key(&dir.key.descend(alias), Condition::Absent)));
        }
    }
    if older_keys {
        // In a restored backup, a map may have entries that are older than the read.
        let newest = newest(tree).into_iter();
        compares.extend(newest.map(|(key, modified)| Compare::key(&dir.key.descend(&key), Condition::Modified(modified))));
    }
    compares
}

impl<S: Schema> IntoFuture for DirSeed<S> {
    type Output = Result<Seeded>;
    type IntoFuture = BoxFuture<'static, Result<Seeded>>;

    fn into_future(self) -> Self::IntoFuture {
        let (context, atomicity) = (self.dir.context.clone(), self.atomicity);
        Box::pin(Dir::<S>::operation("seed").run(async move { context.limited(atomicity, self.run()).await }))
    }
}

impl<S: Schema> fmt::Debug for DirSeed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirSeed").field("dir", &self.dir).field("atomicity", &self.atomicity).finish_non_exhaustive()
    }
}
