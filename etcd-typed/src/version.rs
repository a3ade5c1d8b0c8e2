//! `Versioned<T>`: a value with what the store knows of it, and `Expect<T>`: what a compare-and-swap expects.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Masked};
use crate::revision::{LeaseId, Revision};

/// A value as it was read: it derefs to the value and knows the revision it was read at.
///
/// Two of them are equal when value and versions are. For a whole struct `modified` is the newest and `created` the oldest
/// of its keys. Of a value that was read through the handle of a `secret` field itself `Debug` shows `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    value: T,
    pub(crate) versions: Versions,
}

/// All that is known of a value beside itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) revision: Revision,
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
    pub(crate) version: Option<u64>,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) basis: Basis,
    /// The value is not to be shown.
    pub(crate) secret: bool,
}

/// Of a struct or a map: each key it was read from, relative to its directory, and that key's modification. It is what
/// "nothing below changed since" is checked against.
pub(crate) type Basis = Arc<[(String, Revision)]>;

impl<T> Versioned<T> {
    pub(crate) fn new(value: T, versions: Versions) -> Self {
        Self { value, versions }
    }

    /// The same, and `Debug` does not show the value.
    pub(crate) fn secret(mut self, secret: bool) -> Self {
        self.versions.secret = secret;
        self
    }

    pub(crate) fn is_secret(&self) -> bool {
        self.versions.secret
    }

    /// The revision of the snapshot that this was read from: all of it is as of this revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.versions.revision
    }

    /// The revision at which the key came to be.
    #[must_use]
    pub fn created(&self) -> Revision {
        self.versions.created
    }

    /// The revision at which the value was last written; what a compare-and-swap compares.
    #[must_use]
    pub fn modified(&self) -> Revision {
        self.versions.modified
    }

    /// How often the key was written since it came to be, where the store counts (v3, memory; one key only).
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.versions.version
    }

    /// The lease that the key is attached to, where it is to one; of a struct the one that all its keys share (v3, memory).
    #[must_use]
    pub fn lease(&self) -> Option<LeaseId> {
        self.versions.lease
    }

    /// How long the key had left when it was read, where the answer says so (v2 only; on v3 ask for the lease).
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.versions.ttl
    }

    /// The value alone.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.value
    }

    /// The same versions around another value.
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

/// What is in it, one by one: `for node in directory.list().await? { … }`.
impl<T: IntoIterator> IntoIterator for Versioned<T> {
    type Item = T::Item;
    type IntoIter = T::IntoIter;

    fn into_iter(self) -> T::IntoIter {
        self.value.into_iter()
    }
}

/// What a compare-and-swap expects to find at one key.
///
/// A `&Versioned<T>` and a `&Option<Versioned<T>>` (what `get` gave) turn into one: the key is as it was read.
#[derive(Debug)]
#[non_exhaustive]
pub enum Expect<'a, T> {
    /// No value.
    Absent,
    /// Any value.
    Present,
    /// The value that was written at this revision, and no other since.
    Revision(Revision),
    /// This value, whenever it was written.
    Value(&'a T),
    /// The value that was read, and no other since: with what is known of when it expires, which a write then need not ask for.
    #[doc(hidden)]
    Seen { modified: Revision, lease: Option<LeaseId>, ttl: Option<Duration> },
}

impl<'a, T> Expect<'a, T> {
    /// The value that was written at this revision (on v2 its `modifiedIndex`).
    pub fn revision(revision: impl Into<Revision>) -> Self {
        Self::Revision(revision.into())
    }

    /// A value equal to this one, in whatever form it is stored: `90s` and `1m30s` are the same duration.
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
    /// A default that was read where no key is ([`Entry::get_or_default`](crate::Entry::get_or_default)) expects that there is still none.
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
    /// Of a [`Conflict`](ErrorKind::Conflict) at one key: what is there now, which came in the same answer. None when nothing is there,
    /// when what is there is not a `T`, and for every other error.
    #[must_use]
    pub fn current<T: 'static>(&self) -> Option<&Versioned<T>> {
        if self.kind() != ErrorKind::Conflict && self.kind() != ErrorKind::AlreadyExists {
            return None;
        }
        self.current_any()?.downcast_ref()
    }
}
