//! `LiveMap`: the state of a live view of a map. Consecutive states share every part that did not
//! change between them.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeBounds;

use rpds::RedBlackTreeMapSync;
use serde::{Serialize, Serializer};

/// The contents of a map at one revision, in the order of its keys.
///
/// The map is persistent: two consecutive states of a map of 100,000 entries that differ in one
/// entry share all but about twenty nodes. So a change costs O(log n), and clones and old states
/// are cheap. The map is immutable. To change entries, collect them first: `map.iter().map(|(key,
/// value)| (key.clone(), value.clone())).collect::<BTreeMap<_, _>>()`.
///
/// A `LiveMap` equals a [`BTreeMap`] with the same entries, and can be collected, serialized and
/// iterated like one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// use std::collections::BTreeMap;
/// use std::ops::Bound;
///
/// use etcd_typed::Client;
///
/// let quotas = Client::connect("memory:").await?.entries::<String, u64>("/quotas")?;
/// let live = quotas.live().await?;
/// let written = quotas.set(&BTreeMap::from([("acme".to_owned(), 7), ("beta".to_owned(), 9)])).await?;
///
/// let now = live.wait_for_revision(written).await?;
/// assert_eq!(now.get("acme"), Some(&7));
/// for (customer, quota) in now.iter() {
///     println!("{customer}: {quota}");
/// }
/// let later = now.range::<str, _>((Bound::Excluded("acme"), Bound::Unbounded));
/// assert_eq!(later.map(|(_, quota)| quota).sum::<u64>(), 9);
/// # Ok(()) }
/// ```
pub struct LiveMap<K, V>(RedBlackTreeMapSync<K, V>)
where
    K: Ord;

impl<K: Ord, V> LiveMap<K, V> {
    pub(super) fn new() -> Self {
        Self(RedBlackTreeMapSync::new_sync())
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.0.insert_mut(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.0.remove_mut(key);
    }

    /// Returns the value at this key, in O(log n).
    #[must_use]
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.0.get(key)
    }

    /// Whether the map has a value at this key.
    #[must_use]
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.0.contains_key(key)
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.size()
    }

    /// Whether the map is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns all entries, in order.
    #[must_use]
    pub fn iter(&self) -> LiveMapIter<'_, K, V> {
        LiveMapIter(self.0.iter())
    }

    /// Returns the entry with the least key, in O(log n).
    #[must_use]
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.0.first()
    }

    /// Returns the entry with the greatest key, in O(log n).
    #[must_use]
    pub fn last_key_value(&self) -> Option<(&K, &V)> {
        self.0.last()
    }

    /// Returns all keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + ExactSizeIterator {
        self.iter().map(|(key, _)| key)
    }

    /// Returns all values, in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + ExactSizeIterator {
        self.iter().map(|(_, value)| value)
    }

    /// Returns the entries with these keys, in order. As with a `BTreeMap`, a range of text is a
    /// pair of [`Bound`](std::ops::Bound)s.
    pub fn range<Q, R>(&self, keys: R) -> impl DoubleEndedIterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
        R: RangeBounds<Q>,
    {
        self.0.range(keys)
    }
}

impl<K: Ord, V> Clone for LiveMap<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// An empty map.
impl<K: Ord, V> Default for LiveMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for LiveMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K: Ord, V: PartialEq> PartialEq for LiveMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<K: Ord, V: Eq> Eq for LiveMap<K, V> {}

impl<K: Ord, V: PartialEq> PartialEq<BTreeMap<K, V>> for LiveMap<K, V> {
    fn eq(&self, other: &BTreeMap<K, V>) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

/// Serializes as a map.
impl<K: Ord + Serialize, V: Serialize> Serialize for LiveMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for LiveMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'m, K: Ord, V> IntoIterator for &'m LiveMap<K, V> {
    type Item = (&'m K, &'m V);
    type IntoIter = LiveMapIter<'m, K, V>;

    fn into_iter(self) -> LiveMapIter<'m, K, V> {
        self.iter()
    }
}

/// An iterator over the entries of a [`LiveMap`], in order. Created by [`LiveMap::iter`].
pub struct LiveMapIter<'m, K: Ord, V>(<&'m RedBlackTreeMapSync<K, V> as IntoIterator>::IntoIter);

impl<'m, K: Ord, V> Iterator for LiveMapIter<'m, K, V> {
    type Item = (&'m K, &'m V);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<K: Ord, V> DoubleEndedIterator for LiveMapIter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back()
    }
}

impl<K: Ord, V> ExactSizeIterator for LiveMapIter<'_, K, V> {}

impl<K: Ord, V> fmt::Debug for LiveMapIter<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveMapIter").field("left", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_map_matches_btree_map() {
        let entries = [("b", 2), ("a", 1), ("c", 3)];
        let map: LiveMap<_, _> = entries.into_iter().collect();
        let same = BTreeMap::from(entries);
        assert_eq!(map, same);
        assert_ne!(map, BTreeMap::from([("a", 1), ("b", 2), ("c", 4)]));
        assert_ne!(map, BTreeMap::from([("a", 1), ("b", 2)]));
        assert_eq!(map.into_iter().rev().collect::<Vec<_>>(), [(&"c", &3), (&"b", &2), (&"a", &1)]);
        assert_eq!((map.iter().len(), map.keys().len(), map.values().len()), (3, 3, 3));
        assert_eq!((map.first_key_value(), map.last_key_value()), (Some((&"a", &1)), Some((&"c", &3))));
        assert_eq!(serde_json::to_string(&map).unwrap(), serde_json::to_string(&same).unwrap());
        assert_eq!(LiveMap::<String, u8>::default().first_key_value(), None);
    }

    #[test]
    fn iterator_debug_shows_remaining_entries() {
        let map: LiveMap<_, _> = (0..5).map(|n| (n, ())).collect();
        let mut iter = map.iter();
        iter.next();
        iter.next_back();
        assert_eq!((iter.len(), iter.size_hint()), (3, (3, Some(3))));
        assert_eq!(format!("{iter:?}"), "LiveMapIter { left: 3 }");
    }
}
