//! `Keys`: a range of keys of arbitrary bytes in a client's namespace, and its translation to the
//! keys of the store.

use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo};

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::store::{Event, KeyValue, Span};

/// A range of keys of arbitrary bytes, in byte order.
///
/// Rust's ranges of bytes or text convert to `Keys`: `"a".."b"`, `"a"..="b"`, `"a"..`, `.."b"` and
/// `..` (all keys of the namespace). A range without an end stays within the client's namespace.
///
/// ```
/// use etcd_typed::raw::Keys;
///
/// assert_eq!(Keys::prefix("a/"), Keys::from("a/".."a0"));
/// assert_eq!(Keys::key("a"), Keys::from("a".."a\0"));
/// assert_eq!(Keys::prefix(""), Keys::from(..));
/// assert_eq!(Keys::prefix([0xff]), Keys::from([0xff]..)); // no key is after this prefix
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keys {
    start: Bytes,
    /// The first key after the range. `None` if the range has no end.
    end: Option<Bytes>,
}

impl Keys {
    /// Returns the range of the keys that start with these bytes.
    #[must_use]
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let start = Bytes::copy_from_slice(prefix.as_ref());
        Self { end: after_prefix(&start), start }
    }

    /// Returns the range that contains only this key.
    #[must_use]
    pub fn key(key: impl AsRef<[u8]>) -> Self {
        Self { start: Bytes::copy_from_slice(key.as_ref()), end: Some(after(key.as_ref())) }
    }

    fn new(start: &[u8], end: Option<Bytes>) -> Self {
        Self { start: Bytes::copy_from_slice(start), end }
    }

    /// Converts the range to a range of the store's keys.
    ///
    /// # Errors
    ///
    /// `Invalid` if the end is not after the start.
    pub(super) fn within(&self, namespace: &Key) -> Result<Span> {
        // Start after the empty key: no store has an empty key, and within a namespace the empty
        // key would be the namespace itself.
        let start: &[u8] = if self.start.is_empty() { &[0] } else { &self.start };
        if self.end.as_ref().is_some_and(|end| end <= start) {
            let message = "the end of a range of keys is not after its start";
            return Err(Error::new(ErrorKind::Invalid, message).at(&namespace.then_bytes(start)));
        }
        let before: &[u8] = if namespace.is_root() { &[] } else { namespace.as_bytes() };
        let end = match &self.end {
            Some(end) => Some([before, end].concat()),
            None => after_prefix(before).map(Into::into),
        };
        Ok(Span::between(&[before, start].concat(), end.as_deref()))
    }
}

/// Returns the smallest key after this one.
fn after(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// Returns the smallest key after all keys that start with these bytes. `None` if no such key
/// exists.
fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let length = prefix.iter().rposition(|byte| *byte != u8::MAX)? + 1;
    let mut end = prefix.get(..length)?.to_vec();
    let last = end.last_mut()?;
    *last += 1;
    Some(end.into())
}

impl<B: AsRef<[u8]>> From<Range<B>> for Keys {
    fn from(range: Range<B>) -> Self {
        Self::new(range.start.as_ref(), Some(Bytes::copy_from_slice(range.end.as_ref())))
    }
}

impl<B: AsRef<[u8]>> From<RangeInclusive<B>> for Keys {
    fn from(range: RangeInclusive<B>) -> Self {
        Self::new(range.start().as_ref(), Some(after(range.end().as_ref())))
    }
}

impl<B: AsRef<[u8]>> From<RangeFrom<B>> for Keys {
    fn from(range: RangeFrom<B>) -> Self {
        Self::new(range.start.as_ref(), None)
    }
}

impl<B: AsRef<[u8]>> From<RangeTo<B>> for Keys {
    fn from(range: RangeTo<B>) -> Self {
        Self::new(&[], Some(Bytes::copy_from_slice(range.end.as_ref())))
    }
}

impl From<RangeFull> for Keys {
    fn from(_: RangeFull) -> Self {
        Self::new(&[], None)
    }
}

/// Converts a key in a namespace to the store's key.
///
/// # Errors
///
/// `InvalidKey` for the empty key, which etcd does not store.
pub(super) fn stored(namespace: &Key, key: &[u8]) -> Result<Key> {
    if key.is_empty() {
        return Err(Error::new(ErrorKind::InvalidKey, "a key has at least one byte").at(namespace));
    }
    Ok(namespace.then_bytes(key))
}

/// Removes the namespace from stored keys. The number is the namespace's length in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outside(usize);

impl Outside {
    pub(super) fn of(namespace: &Key) -> Self {
        Self(if namespace.is_root() { 0 } else { namespace.as_bytes().len() })
    }

    pub(super) fn key(self, stored: &Bytes) -> Bytes {
        stored.slice(self.0.min(stored.len())..)
    }

    pub(super) fn kv(self, kv: KeyValue) -> KeyValue {
        KeyValue { key: self.key(&kv.key), ..kv }
    }

    pub(super) fn kvs(self, kvs: Vec<KeyValue>) -> Vec<KeyValue> {
        if self.0 == 0 { kvs } else { kvs.into_iter().map(|kv| self.kv(kv)).collect() }
    }

    pub(super) fn event(self, event: Event) -> Event {
        let outside = |kv: Option<Box<KeyValue>>| kv.map(|kv| Box::new(self.kv(*kv)));
        match event {
            Event::Put { kv, previous } => Event::Put { kv: self.kv(kv), previous: outside(previous) },
            Event::Delete { key, directory, previous } => Event::Delete { key: self.key(&key), directory, previous: outside(previous) },
        }
    }
}
