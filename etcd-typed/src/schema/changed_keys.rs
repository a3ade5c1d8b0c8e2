//! `ChangedKeys`: the keys that one step of a watch changed.

use std::cmp::Ordering;

use super::Stored;

/// Changed relative keys in order, each with its earlier value.
///
/// One step may change a hundred keys or a hundred thousand, and the list of changed keys is read
/// only once. So all names are stored in one string, and a sorted list replaces a tree.
#[derive(Debug, Default)]
pub(crate) struct ChangedKeys {
    names: String,
    keys: Vec<ChangedKeyRange>,
}

#[derive(Debug)]
struct ChangedKeyRange {
    /// The position in `names` at which the key's name starts.
    start: usize,
    end: usize,
    before: Option<Stored>,
    /// The new value, if it is known without a lookup in the tree.
    now: Option<Stored>,
}

/// One changed key.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChangedKey<'t> {
    pub(super) name: &'t str,
    pub(super) before: Option<&'t Stored>,
    /// The new value. `None` if it must be looked up in the tree.
    pub(super) now: Option<&'t Stored>,
}

impl ChangedKeyRange {
    fn name<'n>(&self, names: &'n str) -> &'n str {
        // The range of a key is always within the string, so the default is never used.
        names.get(self.start..self.end).unwrap_or_default()
    }
}

impl ChangedKeys {
    /// Adds a key. Call [`sort`](Self::sort) after the last one. A known new value (`now`) saves a
    /// lookup later.
    pub(crate) fn push(&mut self, name: &str, before: Option<Stored>, now: Option<Stored>) {
        let start = self.names.len();
        self.names.push_str(name);
        self.keys.push(ChangedKeyRange { start, end: self.names.len(), before, now });
    }

    /// Reserves space for more keys.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.keys.reserve(more);
    }

    /// Sorts the keys and keeps the first entry of each.
    pub(crate) fn sort(&mut self) {
        let Self { names, keys } = self;
        // The keys of most transactions are already sorted.
        if keys.is_sorted_by(|a, b| a.name(names) < b.name(names)) {
            return;
        }
        keys.sort_by(|a, b| a.name(names).cmp(b.name(names)));
        keys.dedup_by(|later, first| {
            let same = later.name(names) == first.name(names);
            if same {
                first.now = None;
            }
            same
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns the earlier value at this key, or `None` if the key did not change.
    pub(crate) fn get(&self, relative: &str) -> Option<&Option<Stored>> {
        let at = self.keys.binary_search_by(|key| key.name(&self.names).cmp(relative)).ok()?;
        self.keys.get(at).map(|key| &key.before)
    }

    pub(crate) fn contains_key(&self, relative: &str) -> bool {
        self.get(relative).is_some()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Option<Stored>)> {
        self.keys.iter().map(|key| (key.name(&self.names), &key.before))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    /// Returns the keys that start with `prefix`.
    pub(super) fn with_prefix<'t, 'p>(&'t self, prefix: &'p str) -> impl Iterator<Item = ChangedKey<'t>> + use<'t, 'p> {
        let from = self.keys.partition_point(|key| key.name(&self.names).cmp(prefix) == Ordering::Less);
        let one = |key: &'t ChangedKeyRange| ChangedKey { name: key.name(&self.names), before: key.before.as_ref(), now: key.now.as_ref() };
        self.keys.iter().skip(from).map(one).take_while(move |key| key.name.starts_with(prefix))
    }
}

impl PartialEq for ChangedKeys {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ChangedKeys {}

/// Builds the list from keys in any order. If a key occurs several times, its first entry
/// determines its earlier value.
impl<N: AsRef<str>> FromIterator<(N, Option<Stored>)> for ChangedKeys {
    fn from_iter<I: IntoIterator<Item = (N, Option<Stored>)>>(changed: I) -> Self {
        let mut made = Self::default();
        for (name, before) in changed {
            made.push(name.as_ref(), before, None);
        }
        made.sort();
        made
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::revision::Revision;

    fn stored(number: u64) -> Stored {
        let revision = Revision::new(number);
        Stored { value: Bytes::new(), created: revision, modified: revision, version: None, lease: None, ttl: None }
    }

    proptest! {
        #[test]
        fn changed_keys_keep_first_entry_of_each_key(pushed in proptest::collection::vec(("[ab/]{0,3}", proptest::option::of(0..9_u64)), 0..12)) {
            let pushed: Vec<_> = pushed.into_iter().map(|(name, before)| (name, before.map(stored))).collect();
            let mut expected = BTreeMap::new();
            for (name, before) in &pushed {
                expected.entry(name.clone()).or_insert_with(|| before.clone());
            }
            let changed: ChangedKeys = pushed.into_iter().collect();
            prop_assert_eq!(changed.len(), expected.len());
            prop_assert!(changed.iter().eq(expected.iter().map(|(name, before)| (name.as_str(), before))));
            for looked_for in ["", "a", "a/", "ab", "b/a", "/"] {
                prop_assert_eq!(changed.get(looked_for), expected.get(looked_for));
                let with_prefix = expected.keys().filter(|name| name.starts_with(looked_for));
                prop_assert!(changed.with_prefix(looked_for).map(|key| key.name).eq(with_prefix));
            }
        }
    }
}
