//! `KeyLease`: the lease of a published value, which the client shares among its values or the
//! caller keeps.

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
    /// The key belongs to this value from now on, among all values of this client with that lease.
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

    /// Becomes true when the value must be attached to another lease.
    pub(crate) fn retired(&self) -> Option<watch::Receiver<bool>> {
        match self {
            Self::Shared(share) => Some(share.retired()),
            Self::Borrowed(..) => None,
        }
    }

    /// For a lease of the caller: the entry of this value among those with the same key.
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

    /// See [`Share::end`]. The caller's lease stays, so a late write is deleted when this guard
    /// leaves the key.
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
