//! `How`: the kind of a call, such as a read, a write, or the revocation of a lease.

use super::channel::Lane;

/// How a call is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) lane: Lane,
    /// Whether the call changes something, so that its outcome may be unknown.
    pub(super) write: bool,
    /// Whether sending the request twice has the same effect as sending it once.
    pub(super) repeatable: bool,
    /// Whether the client must first check that the connection leads to its own cluster.
    pub(super) proof: bool,
    /// Whether a member without a leader should refuse the call at once.
    pub(super) leader: bool,
}

impl How {
    /// A read that sees every acknowledged write.
    pub(super) const READ: Self = Self { lane: Lane::Calls, write: false, repeatable: true, proof: false, leader: true };
    /// A read that any member answers from its local data.
    pub(super) const STALE: Self = Self { leader: false, ..Self::READ };
    /// A write. It is sent again only if it cannot have been applied.
    pub(super) const WRITE: Self = Self { lane: Lane::Calls, write: true, repeatable: false, proof: true, leader: true };
    /// The grant or renewal of a lease. The random id makes it safe to send the request again. In
    /// another cluster no key has the lease, and the answer shows the cluster id.
    pub(super) const LEASE: Self = Self { lane: Lane::Leases, write: true, repeatable: true, proof: false, leader: true };
    /// The revocation of a lease. In a restored backup it could delete the keys of the lease, so
    /// the client checks the cluster first.
    pub(super) const REVOKE: Self = Self { proof: true, ..Self::LEASE };
}
