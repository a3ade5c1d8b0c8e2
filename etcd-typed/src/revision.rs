//! The two numbers that a store hands out: `Revision` and `LeaseId`.

use std::fmt;

/// A point in a store's history. Every committed transaction that changes something has its own, larger than all before.
///
/// On etcd v3 and in memory it is the `revision` of the response header and the `mod_revision` of a key; on v2 it is the
/// `X-Etcd-Index` and the `modifiedIndex`. Zero means "before everything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct Revision(u64);

impl Revision {
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// The revision of this number, as a server printed it.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The revision before this one; zero has none before it and stays.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl From<u64> for Revision {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a lease: keys attached to it vanish with it.
///
/// Written in hexadecimal, as etcd's own tools do. The leases of this library, and those that a server names, are positive. etcd also takes a
/// negative number from a client that names its own lease; its number here is the two's complement.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(u64);

impl LeaseId {
    /// The lease of this number; none for zero and for what a signed 64-bit number cannot hold.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number == 0 || number > i64::MAX as u64 { None } else { Some(Self(number)) }
    }

    /// A fresh name, so that asking for it twice is one lease and not two (a grant can then be repeated safely).
    #[must_use]
    pub fn random() -> Self {
        // A generator in this process is copied with it by a fork, and by a clone of the machine: two processes would then draw the same names, and each would
        // hold what the other one holds. No system that this runs on is without a generator.
        let drawn = getrandom::u64().unwrap_or_else(|_| fastrand::u64(..));
        Self((drawn >> 1).max(1))
    }

    /// The lease of this number on the wire; none for zero, which stands for no lease.
    pub(crate) const fn from_signed(number: i64) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number.cast_unsigned())) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({self})")
    }
}
