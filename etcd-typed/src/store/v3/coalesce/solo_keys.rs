//! `SoloKeys`: keys that are read alone, because coalescing them would cost the other reads more
//! than it saves.

use std::array;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

const WORDS: usize = 64;

/// A set of keys in half a kilobyte. It may report a key that was never added, if another key has
/// the same place. Such a key is then read alone for a while.
#[derive(Debug)]
pub(super) struct SoloKeys {
    places: [AtomicU64; WORDS],
    hasher: RandomState,
}

impl Default for SoloKeys {
    fn default() -> Self {
        Self { places: array::from_fn(|_| AtomicU64::new(0)), hasher: RandomState::new() }
    }
}

impl SoloKeys {
    pub(super) fn contain(&self, key: &[u8]) -> bool {
        let (word, bit) = self.place(key);
        word.load(Ordering::Relaxed) & bit != 0
    }

    pub(super) fn add(&self, key: &[u8]) {
        let (word, bit) = self.place(key);
        word.fetch_or(bit, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, key: &[u8]) {
        let (word, bit) = self.place(key);
        word.fetch_and(!bit, Ordering::Relaxed);
    }

    fn place(&self, key: &[u8]) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(key);
        // Six bits of the hash select the word, and six others the bit in it.
        let [word, bit, ..] = hash.to_le_bytes().map(|byte| byte % 64);
        #[expect(clippy::indexing_slicing, reason = "the index is below 64, which is the length")]
        let word = &self.places[usize::from(word)];
        (word, 1 << bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solo_keys_contain_added_keys_until_removal() {
        let solo_keys = SoloKeys::default();
        let key = |number: u32| format!("/app/{number}").into_bytes();
        assert!((0..1000).all(|number| !solo_keys.contain(&key(number))), "it is empty at first");
        for number in 0..40 {
            solo_keys.add(&key(number));
            assert!(solo_keys.contain(&key(number)));
        }
        assert!((0..40).all(|number| solo_keys.contain(&key(number))));
        // About one key in a hundred shares a place with these by chance. One in ten would be too
        // many.
        let others = (1000..2000).filter(|&number| solo_keys.contain(&key(number))).count();
        assert!(others < 100, "{others} of a thousand others");
        for number in 0..40 {
            solo_keys.remove(&key(number));
            assert!(!solo_keys.contain(&key(number)));
        }
        assert!((0..2000).all(|number| !solo_keys.contain(&key(number))));
    }
}
