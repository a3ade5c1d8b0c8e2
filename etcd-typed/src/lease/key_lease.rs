//! `KeyLease`: the lease of a published value. Either the client shares it among several values, or
//! the caller keeps it.

use std::sync::Arc;

use tokio::sync::watch;

use super::borrowed::Ownership;
use super::{BorrowedLease, LeasePool, Share, Validity};
use crate::error::Result;
use crate::key::Key;
use crate::revision::LeaseId;

/// The lease that a published value is attached to.
pub(crate) enum KeyLease {
    Shared(Share),
    Borrowed(BorrowedLease, Ownership),
}

impl KeyLease {
    /// Returns the caller's lease for a value at this key. If other values of this client have the
    /// same key and lease, the key belongs to the new value from now on.
    pub(crate) fn borrowed(pool: &Arc<LeasePool>, lease: &BorrowedLease, key: &Key) -> Self {
        Self::Borrowed(lease.clone(), Ownership::new(pool, lease, key))
    }

    pub(crate) fn id(&self) -> LeaseId {
        match self {
            Self::Shared(share) => share.id(),
            Self::Borrowed(lease, _) => lease.id(),
        }
    }

    pub(crate) fn validity(&self) -> &Validity {
        match self {
            Self::Shared(share) => share.validity(),
            Self::Borrowed(lease, _) => lease.validity(),
        }
    }

    /// Returns a channel whose value becomes true when the value must be attached to another lease.
    /// Returns `None` for a lease of the caller, which is never replaced.
    pub(crate) fn retired(&self) -> Option<watch::Receiver<bool>> {
        match self {
            Self::Shared(share) => Some(share.retired()),
            Self::Borrowed(..) => None,
        }
    }

    /// Returns the entry of this value among the values with the same key, if the lease is one of
    /// the caller.
    pub(crate) fn ownership(&self) -> Option<&Ownership> {
        match self {
            Self::Shared(_) => None,
            Self::Borrowed(_, ownership) => Some(ownership),
        }
    }

    /// See [`Share::leave`].
    pub(crate) fn leave(self) {
        match self {
            Self::Shared(share) => share.leave(),
            Self::Borrowed(_, mut ownership) => ownership.leave(),
        }
    }

    /// Does what [`Share::end`] does. A lease of the caller stays; if a late write creates the key
    /// again, the key is deleted after this guard has ended.
    ///
    /// # Errors
    ///
    /// The errors of a revocation.
    pub(crate) async fn end(&mut self) -> Result<bool> {
        match self {
            Self::Shared(share) => share.end().await,
            Self::Borrowed(_, ownership) => {
                ownership.doubt();
                Ok(false)
            }
        }
    }

    /// See [`Share::stay`].
    pub(crate) fn stay(&mut self) {
        if let Self::Shared(share) = self {
            share.stay();
        }
    }

    /// See [`Share::is_sole`].
    pub(crate) fn is_sole(&self) -> bool {
        match self {
            Self::Shared(share) => share.is_sole(),
            Self::Borrowed(..) => false,
        }
    }
}
