//! Makes a directory contain exactly the keys of a struct or map: the implementation of
//! [`Dir::set`](super::Dir::set) and of the `set` of maps.

use std::sync::Arc;

use super::looked;
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Context;
use crate::handle::expiry::{EnclosingExpiry, EnclosingStruct, RequestedExpiry};
use crate::handle::plan::{Atomicity, IN_SEVERAL_OR_UPDATE, Owner, is_rewound, last, newest, unchanged, unchanged_keys};
use crate::key::Key;
use crate::retry::{AfterConflict, OptimisticRetry};
use crate::revision::Revision;
use crate::schema::{Encoded, Tree};
use crate::store::{Expiry, Op, Span};
use crate::telemetry::Operation;

/// Makes the keys that belong to `owner` below a directory equal to `encoded`.
///
/// First reads the keys and writes only the differences. If that write has a conflict, writes every
/// key.
#[allow(clippy::too_many_arguments, reason = "the parts of a handle and of a builder")]
pub(in crate::handle) async fn set(
    context: &Context,
    directory: &Key,
    enclosing: Option<&Arc<EnclosingStruct>>,
    owner: Owner,
    mut encoded: Encoded,
    requested: RequestedExpiry,
    atomicity: Atomicity,
    operation: Operation,
) -> Result<Revision> {
    if atomicity == Atomicity::Atomic {
        // With maps or enums, the transaction will require that nothing below the directory has
        // changed, with one condition on the newest key. That key is not known yet, so a
        // placeholder is counted here.
        let newest = [(String::new(), Revision::ZERO)];
        let compares = if owner.depends_on_stored() { unchanged(directory, Revision::ZERO, &newest) } else { Vec::new() };
        context.check_atomic(directory, &compares, encoded.len(), IN_SEVERAL_OR_UPDATE)?;
    }
    let mut enclosing_expiry = EnclosingExpiry::around(enclosing, directory, requested);
    let leaves_out = leaves_out(context, requested, atomicity);
    let mut read = match leaves_out || owner.depends_on_stored() {
        true => read_to_set(context, directory, owner).await?,
        false => None,
    };
    if leaves_out && let Some((tree, revision)) = &read {
        let differences = Differences { context, directory, owner, encoded: &encoded, tree, revision: *revision };
        match differences.write(requested, atomicity, &mut enclosing_expiry).await? {
            Outcome::Written(revision) => return Ok(revision),
            Outcome::TooManyConditions => {}
            Outcome::Conflict(shown) => {
                operation.conflict();
                read = match shown {
                    None if owner.depends_on_stored() => Some(context.read_below(directory).await?),
                    shown => shown,
                };
                enclosing_expiry.forget();
            }
        }
    }
    if !owner.depends_on_stored() {
        read = None;
    }
    let mut retry = OptimisticRetry::new(&context.retry);
    let worn_out = || Error::new(ErrorKind::Conflict, "other writers were faster on every attempt; try again later").at(directory);
    // A write without conditions has no second attempt, so it needs no copy of the values.
    let is_sole = read.is_none() && enclosing_expiry.is_empty();
    loop {
        let plan = match &read {
            Some((tree, _)) => owner.replace(tree, encoded.clone()),
            None if is_sole => owner.overwrite(std::mem::take(&mut encoded)),
            None => owner.overwrite(encoded.clone()),
        };
        let plan = plan.expiring(|_| requested.named());
        let is_change = !plan.is_empty();
        let revision = read.as_ref().map_or(Revision::ZERO, |(_, revision)| *revision);
        if atomicity == Atomicity::NonAtomic {
            let written = context.commit_non_atomic(directory, plan.tags_last(owner), |_| None, &mut enclosing_expiry).await?;
            return Ok(last(&written, revision));
        }
        let (mut compares, mut look) = (Vec::new(), Vec::new());
        if let Some((tree, _)) = &read {
            // These conditions detect added keys. A key that has disappeared needs no deletion.
            compares = unchanged(directory, revision, &newest(tree));
            look = vec![Op::Get(Span::Below(directory.clone()))];
        }
        let committed = context.commit_plan(directory, plan, compares, look, &mut enclosing_expiry, IN_SEVERAL_OR_UPDATE).await?;
        let again = is_change && is_rewound(&committed, revision);
        if committed.succeeded && !again {
            return Ok(committed.revision);
        }
        operation.conflict();
        if is_sole {
            return Err(worn_out());
        }
        let shown = match owner.depends_on_stored() {
            _ if again => None,
            true => looked(directory, committed).map(Some),
            false => Some(None),
        };
        let again = async {
            enclosing_expiry.forget();
            if owner.depends_on_stored() { context.read_below(directory).await.map(Some) } else { Ok(None) }
        };
        match retry.after_conflict(shown, again).await? {
            AfterConflict::Retry(now) => read = now,
            AfterConflict::GiveUp(_) => return Err(worn_out()),
        }
    }
}

/// Returns whether the write leaves out keys that already have their value.
///
/// A write that sets a time to live or a lease writes every key. A store without transactions
/// cannot require that other keys are unchanged, so an atomic write on such a store leaves out no
/// key.
fn leaves_out(context: &Context, requested: RequestedExpiry, atomicity: Atomicity) -> bool {
    let is_possible = atomicity == Atomicity::NonAtomic || context.store.capabilities().transactions;
    is_possible && matches!(requested, RequestedExpiry::Keep | RequestedExpiry::Named(Expiry::Never))
}

/// Reads the keys below the directory. Returns `None` if the user may not read the keys and the
/// write does not depend on them.
async fn read_to_set(context: &Context, directory: &Key, owner: Owner) -> Result<Option<(Tree, Revision)>> {
    match context.read_below(directory).await {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !owner.depends_on_stored() => Ok(None),
        read => read.map(Some),
    }
}

/// A write of only the keys that differ from the stored keys in `tree`.
struct Differences<'a> {
    context: &'a Context,
    directory: &'a Key,
    owner: Owner,
    encoded: &'a Encoded,
    tree: &'a Tree,
    revision: Revision,
}

enum Outcome {
    Written(Revision),
    /// One transaction does not accept the conditions on all keys that are left out.
    TooManyConditions,
    /// Another write came first. With maps or enums, contains the keys that exist now, if the
    /// answer shows them.
    Conflict(Option<(Tree, Revision)>),
}

impl Differences<'_> {
    async fn write(&self, requested: RequestedExpiry, atomicity: Atomicity, enclosing_expiry: &mut EnclosingExpiry) -> Result<Outcome> {
        let Self { context, directory, owner, encoded, tree, revision } = *self;
        let transactions = context.store.capabilities().transactions;
        let expires = || tree.iter().any(|(key, stored)| owner.owns(key) && stored.expiry() != Expiry::Never);
        if !enclosing_expiry.is_empty() && (!transactions || expires()) {
            // A key may stay unwritten only if it expires with the enclosing struct. If no stored
            // key expires, the first attempt assumes that the enclosing struct never expires
            // either.
            enclosing_expiry.read(context).await.map_err(|error| error.at(directory))?;
        }
        let expiry = requested.named().unwrap_or_else(|| enclosing_expiry.expiry());
        let plan = owner.replace_differences(tree, encoded, expiry);
        if atomicity == Atomicity::NonAtomic {
            // Each key is written independently. A key that is left out had its value at the time
            // of the read, as if it had been written at that time.
            if transactions && plan.puts.is_empty() {
                enclosing_expiry.read(context).await.map_err(|error| error.at(directory))?;
            }
            let writes_all = plan.puts.len() == encoded.len();
            let known = requested.named().or_else(|| (!transactions).then_some(expiry));
            let written =
                context.commit_non_atomic(directory, plan.expiring(|_| known).tags_last(owner), |_| None, enclosing_expiry).await?;
            let is_right = requested.is_named() || writes_all || enclosing_expiry.expiry() == expiry;
            return Ok(if is_right { Outcome::Written(last(&written, revision)) } else { Outcome::Conflict(None) });
        }
        let is_change = !plan.is_empty();
        if !is_change && enclosing_expiry.is_empty() {
            return Ok(Outcome::Written(revision));
        }
        let left_out = unchanged_keys(tree, encoded, expiry);
        let mut compares = match owner.depends_on_stored() {
            true => {
                let newest = newest(tree).into_iter().filter(|newest| !left_out.contains(newest));
                unchanged(directory, revision, &newest.chain(left_out.iter().cloned()).collect::<Vec<_>>())
            }
            false => owner.left_out(directory, tree, encoded, &plan, &left_out),
        };
        compares.extend(enclosing_expiry.compares());
        if !context.has_room_for(compares.len()) {
            return Ok(Outcome::TooManyConditions);
        }
        let look = if owner.depends_on_stored() { vec![Op::Get(Span::Below(directory.clone()))] } else { Vec::new() };
        // The conditions on the enclosing structs are in `compares`.
        let (plan, mut nothing) = (plan.expiring(|_| Some(expiry)), EnclosingExpiry::default());
        let committed = context.commit_plan(directory, plan, compares, look, &mut nothing, IN_SEVERAL_OR_UPDATE).await?;
        if is_change && is_rewound(&committed, revision) {
            return Ok(Outcome::Conflict(None));
        }
        Ok(if committed.succeeded { Outcome::Written(committed.revision) } else { Outcome::Conflict(looked(directory, committed)) })
    }
}
