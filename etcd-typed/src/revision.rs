//! `Revision` identifies a state in a store's history, and `LeaseId` a lease.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A point in a store's history. Every transaction that changes a key gets a new revision, which is
/// larger than all earlier revisions.
///
/// On etcd v3 and in memory this is the `revision` of the response header and the `mod_revision` of
/// a key. On v2 it is the `X-Etcd-Index` and the `modifiedIndex`. Revision zero comes before all
/// changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Revision(u64);

impl Revision {
    /// The revision before all changes.
    pub const ZERO: Self = Self(0);

    /// Creates a revision from a number, as a server prints it.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the revision as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the revision before this one, or zero for zero.
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

/// Parses a number, as `Display` prints it.
impl FromStr for Revision {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

/// The id of a lease. Keys attached to a lease are deleted when it ends.
///
/// `Display` prints the id in hexadecimal, as etcd's own tools do. `FromStr` and `Serialize` use
/// the same text. This library and etcd servers choose only positive ids. etcd also accepts a
/// negative id from a client; `get` returns the two's complement of such an id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(u64);

impl LeaseId {
    /// Creates a lease id from a number. Returns `None` for zero and for numbers above `i64::MAX`.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number == 0 || number > i64::MAX as u64 { None } else { Some(Self(number)) }
    }

    /// Creates a random id. If the client chooses the id, it can safely repeat the request that
    /// grants the lease, because the second attempt cannot create a second lease.
    #[must_use]
    pub fn random() -> Self {
        // Use the operating system's generator: a fork, or a clone of a virtual machine, copies a
        // generator in process memory. Two processes would then draw the same ids, and each would
        // own the leases of the other. The fallback is never used, since every supported system has
        // a generator.
        let drawn = getrandom::u64().unwrap_or_else(|_| fastrand::u64(..));
        Self((drawn >> 1).max(1))
    }

    /// Creates a lease id from its number in etcd's messages. Returns `None` for zero, which means
    /// no lease.
    pub(crate) const fn from_signed(number: i64) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number.cast_unsigned())) }
    }

    /// Returns the id as a number.
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

/// The error for a text that is not a [`LeaseId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseIdError;

impl fmt::Display for LeaseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a lease id is a hexadecimal number of at most 16 digits that is not zero: `694d8fd2c4a5b01e`")
    }
}

impl std::error::Error for LeaseIdError {}

impl FromStr for LeaseId {
    type Err = LeaseIdError;

    fn from_str(text: &str) -> Result<Self, LeaseIdError> {
        // `from_str_radix` accepts a sign, which no tool prints.
        let digits = if text.starts_with('+') { "" } else { text };
        u64::from_str_radix(digits, 16).ok().and_then(|id| Self::from_signed(id.cast_signed())).ok_or(LeaseIdError)
    }
}

impl Serialize for LeaseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_revisions_and_lease_ids_parse_back() {
        for number in [0, 1, 17, u64::MAX] {
            assert_eq!(Revision::new(number).to_string().parse(), Ok(Revision::new(number)));
        }
        assert!("".parse::<Revision>().is_err() && "-1".parse::<Revision>().is_err());
        for number in [1, 0x694d_8fd2_c4a5_b01e, -17, i64::MAX] {
            let id = LeaseId::from_signed(number).unwrap();
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
        }
        for nonsense in ["", "0", "+1", "-1", "0x1", "g", "10000000000000000", " 1"] {
            assert_eq!(nonsense.parse::<LeaseId>(), Err(LeaseIdError), "{nonsense:?}");
        }
    }
}
