//! Copies values that are kept for long. The bytes of an answer are a slice of the connection's
//! read buffer, or of a whole transaction. A view that kept ten such slices would keep all of these
//! buffers in memory.

use bytes::{Bytes, BytesMut};

/// Values shorter than this share an allocation with other values of the same answer.
const SHORT: usize = 128;

/// The largest shared allocation. One value keeps the whole allocation in memory, so the limit
/// bounds the waste.
const SHARED: usize = 512;

/// Copies the values of one answer or batch.
#[derive(Debug)]
pub(crate) struct Copies {
    room: BytesMut,
    /// The total length of the short values that are not yet copied.
    short: usize,
}

impl Copies {
    /// Prepares to copy values of these lengths.
    pub(crate) fn of(lengths: impl Iterator<Item = usize>) -> Self {
        Self { room: BytesMut::new(), short: lengths.filter(|length| *length < SHORT).sum() }
    }

    pub(crate) fn copy(&mut self, value: &[u8]) -> Bytes {
        if value.len() >= SHORT || value.len() >= self.short {
            self.short = self.short.saturating_sub(if value.len() < SHORT { value.len() } else { 0 });
            return Bytes::copy_from_slice(value);
        }
        if self.room.capacity() < value.len() {
            self.room = BytesMut::with_capacity(self.short.min(SHARED));
        }
        self.short -= value.len();
        self.room.extend_from_slice(value);
        self.room.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn copied_values_use_little_extra_memory(lengths in proptest::collection::vec(0..300_usize, 0..50)) {
            let value = |length: &usize| vec![u8::try_from(length % 251).unwrap(); *length];
            let values: Vec<_> = lengths.iter().map(value).collect();
            let mut copied = Vec::new();
            let allocated = allocation_counter::measure(|| {
                let mut copies = Copies::of(values.iter().map(Vec::len));
                copied = Vec::with_capacity(values.len());
                copied.extend(values.iter().map(|value| copies.copy(value)));
            });
            prop_assert!(copied.iter().zip(&values).all(|(copy, value)| copy == value) && copied.len() == values.len());
            let bytes: usize = lengths.iter().sum();
            let others = values.len() * size_of::<Bytes>();
            let kept = usize::try_from(allocated.bytes_current).unwrap();
            // Shared allocations have an unused rest, and each allocation has an overhead.
            prop_assert!(kept <= others + bytes + bytes / 2 + SHARED + 128, "{kept} for {bytes}");
        }

        #[test]
        fn copied_value_keeps_at_most_one_shared_allocation(lengths in proptest::collection::vec(0..300_usize, 1..50), kept in any::<prop::sample::Index>()) {
            let mut copies = Copies::of(lengths.iter().copied());
            let mut one = Bytes::new();
            let allocated = allocation_counter::measure(|| {
                let mut copied: Vec<_> = lengths.iter().map(|length| copies.copy(&vec![b'v'; *length])).collect();
                copies = Copies::of(std::iter::empty());
                one = copied.swap_remove(kept.index(copied.len()));
            });
            prop_assert!(allocated.bytes_current <= 600, "{} bytes for {}", allocated.bytes_current, one.len());
        }
    }
}
