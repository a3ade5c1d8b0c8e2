//! `Anchor`: one fact about the past that a watch remembers, to detect that a server came back with
//! another history.
//!
//! A server that lost its data and was written to again may be at any revision, so its revision
//! alone proves nothing. etcd then accepts a watch from an old revision, with the same cluster ID
//! and without any sign (seen with 3.4.23 and 3.5.30, v3 and v2). So each resumption reads one key:
//! the newest key that the watch saw written must still exist unchanged.
//!
//! Two cases are not detected. On v2, which cannot read the past: the new history has passed the
//! seen index, and has written or left out that key. Where the past can be read: the watch saw the
//! key deleted, and the new history is compacted between that deletion and the current revision.

use bytes::Bytes;

use crate::key::Key;
use crate::revision::Revision;
use crate::store::{Batch, Event, KeyValue, Range, RangeReply, Span};

/// What must be true of the past of a server whose history we saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// Nothing is known yet. The result of the next check becomes the anchor.
    Unknown,
    /// The span was read and was empty, and nothing was written since.
    Empty,
    /// The newest key that was written. Boxed, since thousands of new watches have none yet.
    Written(Box<Written>),
}

/// A key that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    key: Key,
    mark: Mark,
    /// The last revision before the key was deleted, if it was.
    until: Option<Revision>,
}

/// A server's metadata of a key, with a hash of its value. A server that was set up anew by the
/// same script may have the same key with the same versions at the same revision. If the value is
/// the same too, nothing that matters at this key was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    created: Revision,
    modified: Revision,
    version: Option<u64>,
    value: u64,
}

impl Anchor {
    /// Returns the anchor for a list of the whole span: its newest key.
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
            // The most common batch of a watch of a single key.
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

    /// Returns the read that checks the anchor. `seen` is the revision up to which everything was
    /// yielded, if the store can read the past.
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

    /// Whether the answer to that read contradicts the history that we saw up to `seen`.
    ///
    /// An answer about the past (`pinned`) must match exactly. An answer about the present must
    /// only be possible: a key may have been written or deleted since, but it cannot be older than
    /// it was, and a key that did not exist must have been created later. (v2 changes
    /// `modifiedIndex` without an event when a TTL is refreshed, so no more can be concluded.)
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

    /// If nothing was known, the result of the check becomes the anchor.
    pub(crate) fn adopt(&mut self, reply: &RangeReply, seen: Revision, span: &Span) {
        if *self == Self::Unknown {
            let newest = reply.kvs.iter().filter(|kv| kv.modified <= seen && span.contains(&kv.key)).max_by_key(|kv| kv.modified);
            *self = newest.map_or(Self::Unknown, |kv| Self::listed(kv, span));
        }
    }

    /// As [`written`](Self::written), but reuses the key of a span that is a single key.
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

/// Different values almost certainly have different digests. Thousands of watches compute one for
/// each event. The standard hash would be slower, since each step waits for the previous eight
/// bytes. Here each block of 16 bytes and its place give an independent product, and the products
/// are added up.
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
    // The length separates trailing zeros from padding. Inverted, it differs from every place.
    sum.wrapping_add(product(!(value.len() as u64), last))
}

/// Whether the deletion of `deleted` also deletes `key`.
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
