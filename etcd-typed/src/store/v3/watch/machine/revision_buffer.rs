//! Collects the events of one revision until the revision is complete. Keys and values are copied
//! into a separate buffer. A slice of the message would keep the connection's read buffers in
//! memory until every queue, view and caller has dropped the event.

use bytes::BytesMut;

use crate::revision::LeaseId;
use crate::store::v3::kv::revision;
use crate::store::v3::wire::{self, EventType};
use crate::store::{Event, KeyValue};

#[derive(Debug)]
pub(super) struct RevisionBuffer {
    revision: i64,
    events: Vec<Fixed>,
    /// The key and value of each event, in order.
    bytes: BytesMut,
}

/// The parts of an event other than its key and value.
#[derive(Debug)]
struct Fixed {
    is_delete: bool,
    key: usize,
    value: usize,
    created: i64,
    version: i64,
    lease: i64,
}

impl RevisionBuffer {
    /// Reserves space for this event and for the following events of the same revision in the
    /// message.
    pub(super) fn begin(revision: i64, first: &wire::KeyValue, rest: &[wire::Event]) -> Self {
        let others = rest.iter().map_while(|event| event.kv.as_ref().filter(|kv| kv.mod_revision == revision));
        let (count, bytes) = others.fold((1, length(first)), |(count, bytes), kv| (count + 1, bytes + length(kv)));
        Self { revision, events: Vec::with_capacity(count), bytes: BytesMut::with_capacity(bytes) }
    }

    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn push(&mut self, kind: i32, kv: &wire::KeyValue) {
        self.bytes.extend_from_slice(&kv.key);
        self.bytes.extend_from_slice(&kv.value);
        self.events.push(Fixed {
            is_delete: kind == i32::from(EventType::Delete),
            key: kv.key.len(),
            value: kv.value.len(),
            created: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
        });
    }

    /// Returns an upper bound of the memory in bytes, now and after [`finish`](Self::finish).
    pub(super) fn size(&self) -> usize {
        self.bytes.capacity().saturating_add(self.events.capacity().saturating_mul(size_of::<Event>()))
    }

    pub(super) fn finish(self) -> Vec<Event> {
        let Self { revision: at, events, bytes } = self;
        let mut bytes = bytes.freeze();
        let event = |fixed: Fixed| {
            let (key, value) = (bytes.split_to(fixed.key), bytes.split_to(fixed.value));
            if fixed.is_delete {
                return Event::Delete { key, directory: false, previous: None };
            }
            let kv = KeyValue {
                key,
                value,
                created: revision(fixed.created),
                modified: revision(at),
                version: u64::try_from(fixed.version).ok(),
                lease: LeaseId::from_signed(fixed.lease),
                ttl: None,
            };
            Event::Put { kv, previous: None }
        };
        events.into_iter().map(event).collect()
    }
}

fn length(kv: &wire::KeyValue) -> usize {
    kv.key.len() + kv.value.len()
}
