//! `How`: what kind of call is made: a read, a write, or a call about a lease.

use super::channel::Lane;

/// How a call is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) lane: Lane,
    /// Whether it changes something, so that its outcome may be unknown.
    pub(super) write: bool,
    /// Whether sending it twice is as good as sending it once.
    pub(super) repeatable: bool,
    /// Whether the connection must first be proven to lead to the client's own cluster.
    pub(super) proof: bool,
    /// Whether a member without a leader should refuse it at once.
    pub(super) leader: bool,
}

impl How {
    /// A read that sees every acknowledged write.
    pub(super) const READ: Self = Self { lane: Lane::Calls, write: false, repeatable: true, proof: false, leader: true };
    /// A read that any member answers from its local data.
    pub(super) const STALE: Self = Self { leader: false, ..Self::READ };
    /// A write, sent again only if it cannot have been applied.
    pub(super) const WRITE: Self = Self { lane: Lane::Calls, write: true, repeatable: false, proof: true, leader: true };
    /// Grants or renews a lease. The random id makes it safe to send again. In a foreign cluster
    /// the lease affects nobody, and the answer tells which cluster it was.
    pub(super) const LEASE: Self = Self { lane: Lane::Leases, write: true, repeatable: true, proof: false, leader: true };
    /// Revokes a lease. In a restored backup this could delete its keys, so the cluster must be
    /// proven first.
    pub(super) const REVOKE: Self = Self { proof: true, ..Self::LEASE };
}
