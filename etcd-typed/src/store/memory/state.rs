//! All versions of all keys, and the keys that each revision changed. This file uses no clock and
//! no lock. It knows leases only by their ids (`lease.rs` holds the leases), and `txn.rs` checks
//! the transactions.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::store::{Batch, Event, KeyValue, Order, Range, RangeReply, Span};

/// How much history is kept before the oldest is compacted.
#[derive(Clone, Copy, Debug)]
pub(super) struct HistoryLimit {
    /// The number of changes. A transaction that writes three keys counts three.
    pub(super) changes: usize,
    /// The bytes of the keys and values of these changes.
    pub(super) bytes: usize,
}

impl Default for HistoryLimit {
    fn default() -> Self {
        Self { changes: 100_000, bytes: 256 << 20 }
    }
}

/// The content and history of a store.
///
/// Invariants:
///
/// - `log` has one entry for each revision from `compacted + 1` to `revision`, so the position of
///   an entry gives its revision.
/// - The versions of a key ascend. Each version has its own revision, since a transaction either
///   puts a key once or deletes it.
/// - Of the versions up to `compacted`, a key keeps only the newest. If the newest is a deletion,
///   the key keeps none of them.
#[derive(Debug)]
pub(super) struct State {
    keys: BTreeMap<Bytes, VecDeque<Version>>,
    log: VecDeque<Changed>,
    revision: Revision,
    compacted: Revision,
    /// The numbers of changes and bytes in `log`.
    kept: HistoryLimit,
    limit: HistoryLimit,
}

/// The state of a key from its revision `modified` until its next version.
#[derive(Debug)]
struct Version {
    modified: Revision,
    /// `None` if the key was deleted.
    stored: Option<Stored>,
}

#[derive(Clone, Debug)]
struct Stored {
    value: Bytes,
    created: Revision,
    version: u64,
    lease: Option<LeaseId>,
}

/// The keys that one revision changed.
#[derive(Debug, Default)]
struct Changed {
    /// The keys in the order of the transaction.
    keys: Vec<Bytes>,
    bytes: usize,
}

/// The result of a search for the next change of a span.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next revision that changed the span.
    Batch(Batch),
    /// The span has no change up to this revision. This is the newest revision, unless the search
    /// budget ran out.
    NothingUpTo(Revision),
    /// The store has compacted some of the changes after the start revision of the search.
    Lost,
}

/// A key that moved from one lease to another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) key: Bytes,
    pub(super) from: Option<LeaseId>,
    pub(super) to: Option<LeaseId>,
}

impl State {
    /// Returns an empty state. The revision of an empty store is 1, so the first write gets 2, as
    /// in etcd.
    pub(super) fn new(limit: HistoryLimit) -> Self {
        Self {
            keys: BTreeMap::new(),
            log: VecDeque::from([Changed::default()]),
            revision: Revision::new(1),
            compacted: Revision::ZERO,
            kept: HistoryLimit { changes: 0, bytes: 0 },
            limit,
        }
    }

    /// Returns the newest revision.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns the oldest revision that can be read.
    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(super) fn limit(&self) -> HistoryLimit {
        self.limit
    }

    pub(super) fn set_limit(&mut self, limit: HistoryLimit) {
        self.limit = limit;
        self.trim();
    }

    /// Reads keys. As in etcd, the compacted revision itself can still be read.
    pub(super) fn range(&self, range: &Range) -> Result<RangeReply> {
        range.check()?;
        if range.limit == Some(0) {
            return Err(Error::new(ErrorKind::Invalid, "a page with a limit of zero keys"));
        }
        let revision = range.revision.unwrap_or(self.revision);
        if revision < self.compacted || revision == Revision::ZERO {
            let message = format!("revision {revision} is compacted; the oldest that can be read is {}", self.compacted);
            return Err(Error::new(ErrorKind::HistoryLost, message));
        }
        if revision > self.revision {
            let message = format!("revision {revision} is a future revision; the newest is {}", self.revision);
            return Err(Error::new(ErrorKind::HistoryLost, message));
        }
        let present = || {
            let within = self.select(&range.span, range.after.as_deref());
            let within = within.take_while(|(key, _)| range.until.as_ref().is_none_or(|until| *key <= until));
            within.filter_map(|(key, versions)| Some((key, at(versions, revision).filter(|version| version.stored.is_some())?)))
        };
        let count = (range.modified_after.is_some() || range.count_only).then(|| present().count() as u64);
        if range.count_only {
            return Ok(RangeReply { revision, count, ..RangeReply::default() });
        }
        let modified = present().filter(|(_, version)| range.modified_after.is_none_or(|after| version.modified > after));
        let mut kvs = modified.filter_map(|(key, version)| version.key_value(key, range.keys_only));
        let limit = range.limit.unwrap_or(usize::MAX);
        let (page, more) = if range.order.is_natural() {
            (kvs.by_ref().take(limit).collect(), kvs.next().is_some())
        } else {
            first(kvs.collect(), limit, range.order)
        };
        Ok(RangeReply { revision, kvs: page, more, count, ..RangeReply::default() })
    }

    /// Returns the modification revision of each existing key of a span.
    pub(super) fn modifications(&self, span: &Span) -> impl Iterator<Item = Revision> {
        self.select(span, None).filter_map(|(_, versions)| versions.back().filter(|version| version.stored.is_some())).map(|it| it.modified)
    }

    /// Returns whether an existing key of a span is attached to a lease.
    pub(super) fn has_lease(&self, span: &Span) -> bool {
        self.select(span, None).any(|(_, versions)| versions.back().and_then(|it| it.stored.as_ref()).is_some_and(|it| it.lease.is_some()))
    }

    /// Returns the existing keys of a span.
    pub(super) fn existing(&self, span: &Span) -> impl Iterator<Item = KeyValue> {
        self.select(span, None).filter_map(|(key, versions)| versions.back()?.key_value(key, false))
    }

    /// Returns the current value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<KeyValue> {
        let (key, versions) = self.keys.get_key_value(key)?;
        versions.back()?.key_value(key, false)
    }

    /// Returns the first change of a span after the revision `after`. Looks at about `budget`
    /// changes, so that one call does not search a long history.
    pub(super) fn next(&self, span: &Span, after: Revision, budget: usize) -> Next {
        if after < self.compacted {
            return Next::Lost;
        }
        let mut revision = after;
        let mut looked_at = 0;
        for changed in self.log.iter().skip(distance(self.compacted, after)) {
            revision = revision.next();
            let events: Vec<_> = changed.keys.iter().filter(|key| span.contains(key)).filter_map(|key| self.event(key, revision)).collect();
            if !events.is_empty() {
                return Next::Batch(Batch { revision, events });
            }
            looked_at += changed.keys.len();
            if looked_at >= budget {
                break;
            }
        }
        Next::NothingUpTo(revision)
    }

    /// Starts the writes of a transaction. The transaction's own reads see each write at once;
    /// [`Write::finish`] adds the writes to the history as one revision.
    pub(super) fn write(&mut self) -> Write<'_> {
        Write { revision: self.revision.next(), state: self, changed: Changed::default(), moved: Vec::new() }
    }

    /// Compacts the history before `to`, which itself can still be read. Has no effect if that
    /// history is already compacted. A `to` above the newest revision counts as the newest.
    pub(super) fn compact(&mut self, to: Revision) {
        while self.compacted < to.min(self.revision) {
            self.compact_one();
        }
    }

    /// Compacts while the history exceeds the limit. The newest revision stays, so that even a
    /// transaction larger than the whole limit can be watched. Each change is pushed and popped
    /// once, so the cost is amortised over the writes.
    fn trim(&mut self) {
        while (self.kept.changes > self.limit.changes || self.kept.bytes > self.limit.bytes) && self.log.len() > 1 {
            self.compact_one();
        }
    }

    fn compact_one(&mut self) {
        let Some(changed) = self.log.pop_front() else { return };
        self.compacted = self.compacted.next();
        self.kept.changes -= changed.keys.len();
        self.kept.bytes -= changed.bytes;
        for key in changed.keys {
            let Some(versions) = self.keys.get_mut(&key) else { continue };
            while versions.get(1).is_some_and(|second| second.modified <= self.compacted) {
                versions.pop_front();
            }
            if versions.front().is_some_and(|first| first.modified <= self.compacted && first.stored.is_none()) {
                versions.pop_front();
            }
            if versions.is_empty() {
                self.keys.remove(&key);
            }
        }
    }

    /// Returns the keys of a span that follow `after`, deleted ones included, in order.
    fn select<'s>(&'s self, span: &Span, after: Option<&[u8]>) -> impl Iterator<Item = (&'s Bytes, &'s VecDeque<Version>)> + use<'s> {
        let (mut from, to) = bounds(span);
        if let Some(after) = after
            && after >= inner(&from)
        {
            from = Bound::Excluded(Bytes::copy_from_slice(after));
        }
        // `BTreeMap::range` panics if the start is not before the end. Such a span is empty.
        let empty = match (&from, &to) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (_, Bound::Unbounded) => false,
            (from, to) => inner(from) >= inner(to),
        };
        let range = (!empty).then(|| self.keys.range::<[u8], _>((from.as_ref().map(AsRef::as_ref), to.as_ref().map(AsRef::as_ref))));
        range.into_iter().flatten()
    }

    fn event(&self, key: &Bytes, revision: Revision) -> Option<Event> {
        let versions = self.keys.get(key)?;
        let index = versions.partition_point(|version| version.modified < revision);
        let previous =
            index.checked_sub(1).and_then(|before| versions.get(before)).and_then(|version| version.key_value(key, false)).map(Box::new);
        Some(match versions.get(index)?.key_value(key, false) {
            Some(kv) => Event::Put { kv, previous },
            None => Event::Delete { key: key.clone(), directory: false, previous },
        })
    }
}

impl Version {
    fn key_value(&self, key: &Bytes, keys_only: bool) -> Option<KeyValue> {
        let stored = self.stored.as_ref()?;
        Some(KeyValue {
            key: key.clone(),
            value: if keys_only { Bytes::new() } else { stored.value.clone() },
            created: stored.created,
            modified: self.modified,
            version: Some(stored.version),
            lease: stored.lease,
            // As in etcd v3, a reply contains the lease id, but not the remaining time.
            ttl: None,
        })
    }
}

/// The writes of one transaction, which share one revision.
#[derive(Debug)]
pub(super) struct Write<'s> {
    state: &'s mut State,
    /// The revision that the transaction gets if it changes something.
    revision: Revision,
    changed: Changed,
    moved: Vec<Moved>,
}

impl Write<'_> {
    /// Returns all keys of a span as the transaction sees them, with its own earlier writes.
    pub(super) fn get(&self, span: &Span) -> RangeReply {
        RangeReply { revision: self.as_of(), kvs: self.now(span).collect(), ..RangeReply::default() }
    }

    /// Returns the most recently created keys below a directory, newest first, as the transaction
    /// sees them.
    pub(super) fn newest(&self, below: &Key, before: Option<Revision>, limit: usize) -> RangeReply {
        let mut kvs: Vec<_> = self.now(&Span::Below(below.clone())).filter(|kv| before.is_none_or(|before| kv.created < before)).collect();
        // The sort is stable: keys created by one transaction stay in key order.
        kvs.sort_by_key(|kv| Reverse(kv.created));
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        RangeReply { revision: self.as_of(), kvs, more, ..RangeReply::default() }
    }

    /// Returns the first keys of a span in an order, as the transaction sees them.
    pub(super) fn page(&self, span: &Span, limit: usize, order: Order) -> RangeReply {
        let (kvs, more) = first(self.now(span).collect(), limit, order);
        RangeReply { revision: self.as_of(), kvs, more, ..RangeReply::default() }
    }

    /// Writes a value and returns the previous one.
    pub(super) fn put(&mut self, key: &[u8], value: Bytes, lease: Option<LeaseId>) -> Option<KeyValue> {
        let previous = self.state.get(key);
        let key = match self.state.keys.get_key_value(key) {
            Some((known, _)) => known.clone(),
            None => Bytes::copy_from_slice(key),
        };
        let (created, version) = previous.as_ref().map_or((self.revision, 1), |kv| (kv.created, kv.version.unwrap_or(0) + 1));
        self.push(&key, previous.as_ref().and_then(|kv| kv.lease), Some(Stored { value, created, version, lease }));
        previous
    }

    /// Deletes every key of a span and returns the deleted values.
    pub(super) fn delete(&mut self, span: &Span) -> Vec<KeyValue> {
        let previous = self.get(span).kvs;
        for kv in &previous {
            self.push(&kv.key, kv.lease, None);
        }
        previous
    }

    /// Deletes one key, if it exists.
    pub(super) fn delete_key(&mut self, key: &[u8]) {
        if let Some(kv) = self.state.get(key) {
            self.push(&kv.key, kv.lease, None);
        }
    }

    /// Ends the transaction. Returns its revision (or the store's newest, if nothing changed), and
    /// the keys whose lease changed.
    pub(super) fn finish(self) -> (Revision, Vec<Moved>) {
        let Self { state, revision, changed, moved } = self;
        if changed.keys.is_empty() {
            return (state.revision, moved);
        }
        state.revision = revision;
        state.kept.changes += changed.keys.len();
        state.kept.bytes += changed.bytes;
        state.log.push_back(changed);
        state.trim();
        (revision, moved)
    }

    /// Returns the existing keys of a span, including the transaction's writes so far.
    fn now(&self, span: &Span) -> impl Iterator<Item = KeyValue> {
        self.state.existing(span)
    }

    /// Returns the revision that a read in this transaction reports.
    fn as_of(&self) -> Revision {
        if self.changed.keys.is_empty() { self.state.revision } else { self.revision }
    }

    fn push(&mut self, key: &Bytes, from: Option<LeaseId>, stored: Option<Stored>) {
        let to = stored.as_ref().and_then(|stored| stored.lease);
        if from != to {
            self.moved.push(Moved { key: key.clone(), from, to });
        }
        self.changed.bytes += key.len() + stored.as_ref().map_or(0, |stored| stored.value.len());
        self.changed.keys.push(key.clone());
        self.state.keys.entry(key.clone()).or_default().push_back(Version { modified: self.revision, stored });
    }
}

/// Returns the first `limit` keys in this order, and whether there are more.
fn first(mut kvs: Vec<KeyValue>, limit: usize, order: Order) -> (Vec<KeyValue>, bool) {
    order.sort(&mut kvs);
    let more = kvs.len() > limit;
    kvs.truncate(limit);
    (kvs, more)
}

/// Returns the version that is valid at a revision.
fn at(versions: &VecDeque<Version>, revision: Revision) -> Option<&Version> {
    // Most reads ask for the newest revision.
    if let Some(newest) = versions.back().filter(|newest| newest.modified <= revision) {
        return Some(newest);
    }
    let later = versions.partition_point(|version| version.modified <= revision);
    versions.get(later.checked_sub(1)?)
}

/// Returns a span as a range of keys.
fn bounds(span: &Span) -> (Bound<Bytes>, Bound<Bytes>) {
    match span {
        Span::Key(key) => {
            let key = Bytes::copy_from_slice(key.as_bytes());
            (Bound::Included(key.clone()), Bound::Included(key))
        }
        Span::Between { start, end } => {
            let bytes = |key: &Key| Bytes::copy_from_slice(key.as_bytes());
            (Bound::Included(bytes(start)), end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(bytes(end))))
        }
        Span::Below(directory) => {
            let prefix = directory.prefix();
            // `0` is the byte after `/`: every key between `/app/` and `/app0` starts with `/app/`.
            let end = format!("{}0", prefix.strip_suffix('/').unwrap_or(&prefix));
            (Bound::Excluded(prefix.into()), Bound::Excluded(end.into()))
        }
    }
}

fn inner(bound: &Bound<Bytes>) -> &[u8] {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) => key,
        Bound::Unbounded => &[],
    }
}

/// Returns the number of revisions between two revisions.
fn distance(from: Revision, to: Revision) -> usize {
    usize::try_from(to.get().saturating_sub(from.get())).unwrap_or(usize::MAX)
}
