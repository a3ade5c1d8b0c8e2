//! `Touched`: what one step of a watch touched.

use std::cmp::Ordering;

use super::Stored;

/// Relative keys in order, each with what was there before.
///
/// A step may touch a hundred keys or a hundred thousand, and is looked at once: the keys are one text, and in order without a tree.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    names: String,
    keys: Vec<TouchedKey>,
}

#[derive(Debug)]
struct TouchedKey {
    /// Where its name is.
    start: usize,
    end: usize,
    before: Option<Stored>,
    /// What is there now, where it is known without looking into the tree.
    now: Option<Stored>,
}

/// A key that was touched.
#[derive(Clone, Copy, Debug)]
pub(super) struct OneTouched<'t> {
    pub(super) name: &'t str,
    pub(super) before: Option<&'t Stored>,
    /// What is there now; none where one has to look.
    pub(super) now: Option<&'t Stored>,
}

impl TouchedKey {
    fn name<'n>(&self, names: &'n str) -> &'n str {
        // A key's own place in the text that it was put into.
        names.get(self.start..self.end).unwrap_or_default()
    }
}

impl Touched {
    /// Adds a key; when all are there they are to be [sorted](Self::sort). To give what is there now saves a search.
    pub(crate) fn push(&mut self, name: &str, before: Option<Stored>, now: Option<Stored>) {
        let start = self.names.len();
        self.names.push_str(name);
        self.keys.push(TouchedKey { start, end: self.names.len(), before, now });
    }

    /// For so many more keys.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.keys.reserve(more);
    }

    /// Brings the keys into their order, each once, as it was pushed first.
    pub(crate) fn sort(&mut self) {
        let Self { names, keys } = self;
        // As transactions mostly are.
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

    /// What was there before at this key; none where it was not touched.
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

    /// The keys that start with this.
    pub(super) fn with_prefix<'t, 'p>(&'t self, prefix: &'p str) -> impl Iterator<Item = OneTouched<'t>> + use<'t, 'p> {
        let from = self.keys.partition_point(|key| key.name(&self.names).cmp(prefix) == Ordering::Less);
        let one = |key: &'t TouchedKey| OneTouched { name: key.name(&self.names), before: key.before.as_ref(), now: key.now.as_ref() };
        self.keys.iter().skip(from).map(one).take_while(move |key| key.name.starts_with(prefix))
    }
}

impl PartialEq for Touched {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Touched {}

/// Of keys in any order. Of several changes of one key the first knows what was there before.
impl<N: AsRef<str>> FromIterator<(N, Option<Stored>)> for Touched {
    fn from_iter<I: IntoIterator<Item = (N, Option<Stored>)>>(touched: I) -> Self {
        let mut made = Self::default();
        for (name, before) in touched {
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
        fn it_is_the_map_of_the_first_of_each_key(pushed in proptest::collection::vec(("[ab/]{0,3}", proptest::option::of(0..9_u64)), 0..12)) {
            let pushed: Vec<_> = pushed.into_iter().map(|(name, before)| (name, before.map(stored))).collect();
            let mut expected = BTreeMap::new();
            for (name, before) in &pushed {
                expected.entry(name.clone()).or_insert_with(|| before.clone());
            }
            let touched: Touched = pushed.into_iter().collect();
            prop_assert_eq!(touched.len(), expected.len());
            prop_assert!(touched.iter().eq(expected.iter().map(|(name, before)| (name.as_str(), before))));
            for looked_for in ["", "a", "a/", "ab", "b/a", "/"] {
                prop_assert_eq!(touched.get(looked_for), expected.get(looked_for));
                let with_prefix = expected.keys().filter(|name| name.starts_with(looked_for));
                prop_assert!(touched.with_prefix(looked_for).map(|key| key.name).eq(with_prefix));
            }
        }
    }
}
