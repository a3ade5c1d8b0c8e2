//! `Versioned<T>`: a value with its revision and other metadata. `Expect<T>`: the state that a
//! compare-and-swap expects.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Masked};
use crate::revision::{LeaseId, Revision};

/// A value with the metadata of the read that returned it. Dereferences to the value.
///
/// Two `Versioned` are equal if both value and metadata are equal. For a whole struct, `modified`
/// is the newest and `created` the oldest revision of its keys. If the value was read through the
/// handle of a `secret` field itself, `Debug` prints `***`.
///
/// `Serialize` writes an object with `value` and the metadata: `revision`, `created`, `modified`,
/// and, if they are known, `version`, `lease` (in hexadecimal) and `ttl` (in the stored form of a
/// duration: `1m30s`). The value of a `secret` field is serialized as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    value: T,
    pub(crate) versions: Versions,
}

/// The metadata of a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) revision: Revision,
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
    pub(crate) version: Option<u64>,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) basis: Basis,
    /// True if `Debug` hides the value.
    pub(crate) secret: bool,
}

/// For a struct or a map: each key that was read, relative to the directory, with its modification
/// revision. A write uses these revisions to check that no key below the directory has changed
/// since.
pub(crate) type Basis = Arc<[(String, Revision)]>;

impl<T> Versioned<T> {
    pub(crate) fn new(value: T, versions: Versions) -> Self {
        Self { value, versions }
    }

    /// Sets whether `Debug` hides the value.
    pub(crate) fn secret(mut self, secret: bool) -> Self {
        self.versions.secret = secret;
        self
    }

    pub(crate) fn is_secret(&self) -> bool {
        self.versions.secret
    }

    /// Returns the revision of the snapshot that the value was read from. All parts of the value
    /// are from this revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.versions.revision
    }

    /// Returns the revision at which the key was created.
    #[must_use]
    pub fn created(&self) -> Revision {
        self.versions.created
    }

    /// Returns the revision at which the value was last written. A compare-and-swap compares this
    /// revision.
    #[must_use]
    pub fn modified(&self) -> Revision {
        self.versions.modified
    }

    /// Returns the number of writes since the key was created, if the store counts them (v3 and
    /// memory; only for a single key).
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.versions.version
    }

    /// Returns the lease that the key is attached to, if there is one (v3, memory). For a struct,
    /// returns the lease that all its keys share.
    #[must_use]
    pub fn lease(&self) -> Option<LeaseId> {
        self.versions.lease
    }

    /// Returns the remaining time to live of the key when it was read, if the answer contains it
    /// (v2 only; on v3, query the lease).
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.versions.ttl
    }

    /// Returns the value without its metadata.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.value
    }

    /// Converts the value and keeps the metadata.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Versioned<U> {
        Versioned { value: f(self.value), versions: self.versions }
    }
}

impl<T: fmt::Debug> fmt::Debug for Versioned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value: &dyn fmt::Debug = if self.is_secret() { &Masked } else { &self.value };
        f.debug_struct("Versioned").field("value", value).field("versions", &self.versions).finish()
    }
}

impl<T> Deref for Versioned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Iterates over the contents of the value: `for node in directory.list().await? { … }`.
impl<T: IntoIterator> IntoIterator for Versioned<T> {
    type Item = T::Item;
    type IntoIter = T::IntoIter;

    fn into_iter(self) -> T::IntoIter {
        self.value.into_iter()
    }
}

/// The state of a key that a compare-and-swap expects.
///
/// A `&Versioned<T>` and a `&Option<Versioned<T>>` (the result of `get`) convert into an `Expect`:
/// the key must be unchanged since the read.
#[derive(Debug)]
#[non_exhaustive]
pub enum Expect<'a, T> {
    /// The key has no value.
    Absent,
    /// The key has a value.
    Present,
    /// The key has the value that was written at this revision.
    Revision(Revision),
    /// The key has this value, whenever it was written.
    Value(&'a T),
    /// The key has the value that was read. Includes the key's expiry, so that a write need not
    /// query it.
    #[doc(hidden)]
    Seen { modified: Revision, lease: Option<LeaseId>, ttl: Option<Duration> },
}

impl<'a, T> Expect<'a, T> {
    /// Expects the value that was written at this revision (on v2, its `modifiedIndex`).
    pub fn revision(revision: impl Into<Revision>) -> Self {
        Self::Revision(revision.into())
    }

    /// Expects a value equal to this one, in any stored form: `90s` and `1m30s` are the same
    /// duration.
    pub fn value(value: &'a T) -> Self {
        Self::Value(value)
    }
}

impl<T> Clone for Expect<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Expect<'_, T> {}

impl<T> From<&Versioned<T>> for Expect<'_, T> {
    /// If the read returned a default for a missing key
    /// ([`Entry::get_or_default`](crate::Entry::get_or_default)), expects that the key is still
    /// missing.
    fn from(seen: &Versioned<T>) -> Self {
        let Versions { modified, lease, ttl, .. } = seen.versions;
        if modified == Revision::ZERO { Self::Absent } else { Self::Seen { modified, lease, ttl } }
    }
}

impl<T> From<&Option<Versioned<T>>> for Expect<'_, T> {
    fn from(seen: &Option<Versioned<T>>) -> Self {
        seen.as_ref().map_or(Self::Absent, Self::from)
    }
}

impl Error {
    /// Returns the key's current value, which came with the same answer, for a
    /// [`Conflict`](ErrorKind::Conflict) or an [`AlreadyExists`](ErrorKind::AlreadyExists) at one
    /// key. `None` if the key has no value, if its value is not a `T`, and for every other error.
    #[must_use]
    pub fn current<T: 'static>(&self) -> Option<&Versioned<T>> {
        if self.kind() != ErrorKind::Conflict && self.kind() != ErrorKind::AlreadyExists {
            return None;
        }
        self.current_any()?.downcast_ref()
    }
}
