//! `Contender`: a key in a queue. This module decides which keys below a queue's prefix are in the
//! queue.

use bytes::Bytes;

use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::store::{Capabilities, KeyValue};

/// A key and its creation revision. Of two keys in one queue, the one that was created earlier is
/// first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rank {
    pub(super) key: Key,
    pub(super) created: Revision,
}

/// The holder or a waiter.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) key: Key,
    /// The revision at which the key was created.
    pub(crate) fence: Revision,
    /// The revision of the last write.
    pub(crate) modified: Revision,
    /// The lease that the key is attached to. If the store does not show leases, this is the lease
    /// in the key's name.
    pub(crate) lease: LeaseId,
    pub(crate) value: Bytes,
}

impl Contender {
    /// Parses a key below a queue's prefix. Returns `None` for a key that is not in the queue.
    pub(crate) fn of(directory: &Key, kv: KeyValue, capabilities: &Capabilities) -> Option<Self> {
        let lease = lease_of(directory, &kv, capabilities)?;
        Some(Self { key: Key::stored(&kv.key), fence: kv.created, modified: kv.modified, lease, value: Bytes::copy_from_slice(&kv.value) })
    }

    /// Returns the sort key. Keys that one transaction created have the same revision; their bytes
    /// then decide the order, so that every client of this library sees the same holder. (In Go's
    /// `concurrency` the owner of each such key considers itself the first.)
    pub(crate) fn order(&self) -> (Revision, &[u8]) {
        (self.fence, self.key.as_bytes())
    }

    /// Whether both are the same contender with the same value.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (&self.key, self.fence, self.lease, &self.value) == (&other.key, other.fence, other.lease, &other.value)
    }
}

/// Whether a key below a queue's prefix is in the queue.
pub(super) fn is_contender(directory: &Key, kv: &KeyValue, capabilities: &Capabilities) -> bool {
    lease_of(directory, kv, capabilities).is_some()
}

/// Returns the lease of a key in the queue, or `None` for a key that is not in the queue. A key
/// without a lease never expires, so contenders would wait for it forever. Such a key is not in the
/// queue, and is not deleted either.
fn lease_of(directory: &Key, kv: &KeyValue, capabilities: &Capabilities) -> Option<LeaseId> {
    if capabilities.transactions {
        return kv.lease;
    }
    // v2 shows no leases, only the remaining time to live. Only this library names keys by their
    // lease in this form.
    let name = directory.below(&kv.key)?;
    let lease = u64::from_str_radix(name, 16).ok().and_then(LeaseId::new)?;
    (lease.to_string() == name && kv.ttl.is_some()).then_some(lease)
}
