//! `Anchor`: one fact about the past that a watch remembers, to detect that a server now has
//! another history.
//!
//! A server that has lost its data and got new writes may be at any revision, so its revision alone
//! proves nothing. Such an etcd server accepts a watch from an old revision, with the same cluster
//! ID and without any sign (seen with 3.4.23 and 3.5.30, v3 and v2). So a watch that resumes reads
//! one key: the newest key that the watch saw written must still exist unchanged.
//!
//! Two cases are not detected. On v2, which cannot read the past: the new history has passed the
//! index that the watch saw, and either has written that key or does not contain it. On stores that
//! can read the past: the watch saw the key deleted, and the new history is compacted between that
//! deletion and the current revision.

use bytes::Bytes;

use crate::key::Key;
use crate::revision::Revision;
use crate::store::{Batch, Event, KeyValue, Range, RangeReply, Span};

/// A fact about the history that the watch has seen. If a server does not confirm this fact, the
/// server has another history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// No fact is known yet. The result of the next check becomes the anchor.
    Unknown,
    /// The span was empty when it was read, and no key was written since.
    Empty,
    /// The newest key that the watch saw written. Boxed, because a program may have thousands of
    /// watches that have seen no key yet.
    Written(Box<Written>),
}

/// The key of [`Anchor::Written`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    key: Key,
    mark: Mark,
    /// The last revision before the key was deleted. `None` if the key was not deleted.
    until: Option<Revision>,
}

/// A server's metadata of a key, with a hash of its value. If the same script set up a new server,
/// that server may have the same key with the same versions at the same revision. If the value is
/// also the same, the difference does not matter for this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    created: Revision,
    modified: Revision,
    version: Option<u64>,
    value: u64,
}

impl Anchor {
    /// Returns the anchor after a read of the whole span: the newest key.
    pub(crate) fn of(kvs: &[KeyValue], span: &Span) -> Self {
        if kvs.is_empty() {
            return Self::Empty;
        }
        let newest = kvs.iter().filter(|kv| span.contains(&kv.key)).max_by_key(|kv| kv.modified);
        newest.map_or(Self::Unknown, |kv| Self::listed(kv, span))
    }

    /// Updates the anchor with the changes of a batch.
    pub(crate) fn follow(&mut self, batch: &Batch) {
        if let (Self::Written(written), [Event::Put { kv, .. }]) = (&mut *self, batch.events.as_slice())
            && kv.key == written.key.as_bytes()
        {
            // Fast path for the most common batch when a watch watches a single key.
            (written.mark, written.until) = (Mark::of(kv), None);
            return;
        }
        let mut puts = batch.events.iter().filter_map(|event| if let Event::Put { kv, .. } = event { Some(kv) } else { None });
        if let Some(newest) = puts.next_back() {
            *self = Self::written(newest);
            return;
        }
        for event in &batch.events {
            if let Event::Delete { key: deleted, directory, .. } = event
                && let Self::Written(written) = self
                && written.until.is_none()
                && deletes(deleted, *directory, &written.key)
            {
                written.until = Some(batch.revision.previous());
            }
        }
    }

    /// Returns the read that checks the anchor. `seen` is the revision up to which all changes were
    /// yielded, or `None` if the store cannot read the past.
    pub(crate) fn range(&self, span: &Span, seen: Option<Revision>) -> Range {
        match self {
            Self::Written(written) => {
                let revision = seen.map(|seen| written.until.unwrap_or(seen));
                Range { revision, ..Range::of(Span::Key(written.key.clone())) }
            }
            Self::Empty | Self::Unknown => {
                let limit = seen.is_some().then_some(1);
                Range { revision: seen, limit, ..Range::of(span.clone()) }
            }
        }
    }

    /// Whether the answer to this read contradicts the history that the watch saw up to `seen`.
    ///
    /// With `pinned`, the answer shows the past and must match exactly. Otherwise it shows the
    /// present and must only be possible: a key may have been written or deleted since, but its
    /// modification cannot be older than the one seen, and a key that did not exist must have been
    /// created later. (v2 changes `modifiedIndex` without an event when a TTL is refreshed, so a
    /// newer modification proves nothing.)
    pub(crate) fn contradicts(&self, reply: &RangeReply, seen: Revision, pinned: bool) -> bool {
        if !pinned && reply.revision < seen {
            return true;
        }
        match self {
            Self::Unknown => false,
            Self::Empty => reply.kvs.iter().any(|kv| kv.created <= seen),
            Self::Written(written) => {
                let Written { key, mark, until } = &**written;
                let now = reply.kvs.iter().find(|kv| kv.key == key.as_bytes()).map(Mark::of);
                match now {
                    _ if pinned => now != Some(*mark),
                    Some(now) => {
                        let older = now.modified < mark.modified;
                        let other = now.modified == mark.modified && now.value != mark.value;
                        older || other || (until.is_some() && now.created <= seen)
                    }
                    None => false,
                }
            }
        }
    }

    /// Takes the result of the check as the anchor, if no fact was known.
    pub(crate) fn adopt(&mut self, reply: &RangeReply, seen: Revision, span: &Span) {
        if *self == Self::Unknown {
            let newest = reply.kvs.iter().filter(|kv| kv.modified <= seen && span.contains(&kv.key)).max_by_key(|kv| kv.modified);
            *self = newest.map_or(Self::Unknown, |kv| Self::listed(kv, span));
        }
    }

    /// Like [`written`](Self::written), but if the span is a single key, reuses the span's `Key`.
    fn listed(kv: &KeyValue, span: &Span) -> Self {
        match span {
            Span::Key(key) if key.as_bytes() == kv.key => {
                Self::Written(Box::new(Written { key: key.clone(), mark: Mark::of(kv), until: None }))
            }
            Span::Key(_) | Span::Below(_) | Span::Between { .. } => Self::written(kv),
        }
    }

    fn written(kv: &KeyValue) -> Self {
        Self::Written(Box::new(Written { key: Key::stored(&kv.key), mark: Mark::of(kv), until: None }))
    }
}

impl Mark {
    fn of(kv: &KeyValue) -> Self {
        Self { created: kv.created, modified: kv.modified, version: kv.version, value: digest(&kv.value) }
    }
}

/// Hashes a value. Different values almost certainly have different digests. The function must be
/// fast, since thousands of watches hash the value of each event. In the standard hash, each step
/// waits for the step for the previous eight bytes. Here each block of 16 bytes and its place give
/// an independent product, and the products are added up.
fn digest(value: &[u8]) -> u64 {
    const ODD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
    let halves = |number: u128| ((number & u128::from(u64::MAX)) as u64, (number >> 64) as u64);
    let product = |place: u64, bytes: [u8; 16]| {
        let (one, other) = halves(u128::from_le_bytes(bytes));
        let (low, high) = halves(u128::from(one ^ ODD[0].wrapping_mul(place)) * u128::from(other ^ ODD[1].wrapping_mul(place)));
        low ^ high
    };
    let (whole, rest) = value.as_chunks::<16>();
    let mut last = [0; 16];
    last.iter_mut().zip(rest).for_each(|(to, byte)| *to = *byte);
    let sum = (1..).zip(whole).fold(0_u64, |sum, (place, bytes)| sum.wrapping_add(product(place, *bytes)));
    // Including the length distinguishes trailing zeros from padding. The inverted length differs
    // from every place.
    sum.wrapping_add(product(!(value.len() as u64), last))
}

/// Whether deleting `deleted`, a key or a directory, also deletes `key`.
fn deletes(deleted: &Bytes, directory: bool, key: &Key) -> bool {
    let key = key.as_bytes();
    match key.strip_prefix(deleted.as_ref()) {
        Some([]) => true,
        Some([b'/', ..]) => directory,
        // The root is the only directory whose name ends with a slash.
        Some(_) => directory && deleted.as_ref() == b"/",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn different_values_have_different_digests() {
        let mut seen = HashSet::new();
        for length in 0..70 {
            let zeros = vec![0; length];
            assert!(seen.insert(digest(&zeros)), "{length} zeros");
            for (at, bit) in (0..length).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                let mut other = zeros.clone();
                other[at] ^= 1 << bit;
                assert!(seen.insert(digest(&other)), "{length} bytes, one of them {at}, {bit}");
            }
        }
        let (one, other) = ([1; 16], [2; 16]);
        assert_ne!(digest(&[one, other].concat()), digest(&[other, one].concat()), "the order counts");
    }
}
