//! `Mirror`: the contents of a directory as far as a watch has reported them, and the keys that
//! each step changed. Does no I/O.

use std::collections::HashSet;
use std::collections::btree_map::RangeMut;
use std::ops::Bound;

use bytes::Bytes;

use crate::key::Key;
use crate::revision::Revision;
use crate::schema::{self, ChangedKeys, Copies, Stored, Tree};
use crate::store::{Event, KeyValue};
use crate::watch::{Snapshot, Step};

/// A copy of a directory, updated with the steps of a watch.
#[derive(Debug)]
pub(crate) struct Mirror {
    directory: Key,
    tree: Tree,
    /// Stored keys below the directory that are not valid paths, and so are not in the tree.
    others: HashSet<Bytes>,
    revision: Revision,
    /// False while the watch started at a revision whose state could not be read, so that the tree
    /// contains only later changes.
    complete: bool,
}

/// The keys that one step changed, each with its earlier value. The mirror has the new values.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StepChanges {
    pub(crate) revision: Revision,
    pub(crate) resynced: bool,
    pub(crate) changed: ChangedKeys,
}

impl Mirror {
    /// Creates a mirror with the state of a snapshot.
    #[cfg(any(test, feature = "snapshot"))]
    pub(crate) fn new(directory: Key, start: Snapshot) -> Self {
        let (tree, others) = split(&directory, start.kvs);
        Self { directory, tree, others, revision: start.revision, complete: start.known }
    }

    /// Like [`new`](Self::new), but yields between groups of keys, so that a large directory does
    /// not block the thread.
    pub(crate) async fn new_in_steps(directory: Key, start: Snapshot) -> Self {
        let (tree, others) = split_in_steps(&directory, start.kvs).await;
        Self { directory, tree, others, revision: start.revision, complete: start.known }
    }

    /// Creates an empty mirror at a revision whose state cannot be read.
    pub(crate) fn unknown(directory: Key, revision: Revision) -> Self {
        Self { directory, tree: Tree::new(), others: HashSet::new(), revision, complete: false }
    }

    pub(crate) fn directory(&self) -> &Key {
        &self.directory
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether the tree contains everything in the directory.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Returns the number of keys in the directory.
    pub(crate) fn count(&self) -> u64 {
        (self.tree.len() + self.others.len()) as u64
    }

    /// Whether a full listing of the directory matches this mirror. A key matches if it has the
    /// same modification revision in both. With `with_values`, a key also matches if it has the
    /// same creation revision and value: an etcd v2 server counts the refresh of a time to live as
    /// a modification, but does not report it to watches.
    pub(crate) fn agrees(&self, kvs: &[KeyValue], with_values: bool) -> bool {
        let is_here = |relative: &str, kv: &KeyValue| {
            self.tree.get(relative).is_some_and(|stored| {
                stored.modified == kv.modified || with_values && (stored.created, &stored.value) == (kv.created, &kv.value)
            })
        };
        let mut found = 0;
        let same = kvs.iter().filter_map(|kv| Some((self.directory.below(&kv.key)?, kv))).all(|(relative, kv)| {
            found += 1;
            is_here(relative, kv)
        });
        same && found == self.tree.len()
    }

    /// Records that the mirror has all changes up to this revision.
    pub(crate) fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// Applies a step. Returns `None` if the step changed no key of the mirror.
    pub(crate) fn apply(&mut self, step: Step) -> Option<StepChanges> {
        match step {
            Step::Reset(snapshot) => Some(self.reset(snapshot)),
            Step::Progress(revision) => {
                self.advance(revision);
                None
            }
            Step::Batch(batch) => {
                self.advance(batch.revision);
                let mut changed = ChangedKeys::default();
                changed.reserve(batch.events.len());
                self.take(batch.events, &mut changed);
                changed.sort();
                (!changed.is_empty()).then_some(StepChanges { revision: batch.revision, resynced: false, changed })
            }
        }
    }

    /// Like [`apply`](Self::apply), but yields between groups of keys while it replaces the state,
    /// so that a large directory does not block the thread.
    pub(crate) async fn apply_in_steps(&mut self, step: Step) -> Option<StepChanges> {
        match step {
            Step::Reset(Snapshot { revision, kvs, known, .. }) => {
                let (after, others) = split_in_steps(&self.directory, kvs).await;
                Some(self.reset_to(after, others, revision, known))
            }
            step => self.apply(step),
        }
    }

    /// Replaces the state. The changed keys are those that differ between the two states. Returns a
    /// step even if no key differs, since the watch did not see intermediate changes.
    fn reset(&mut self, snapshot: Snapshot) -> StepChanges {
        let Snapshot { revision, kvs, known, .. } = snapshot;
        let (after, others) = split(&self.directory, kvs);
        self.reset_to(after, others, revision, known)
    }

    fn reset_to(&mut self, after: Tree, others: HashSet<Bytes>, revision: Revision, known: bool) -> StepChanges {
        let before = std::mem::take(&mut self.tree);
        let came = after.keys().filter(|relative| !before.contains_key(*relative)).cloned().map(|relative| (relative, None));
        let came: Vec<_> = came.collect();
        let other = before.into_iter().filter(|(relative, old)| after.get(relative).is_none_or(|new| differs(old, new)));
        let changed = came.into_iter().chain(other.map(|(relative, old)| (relative, Some(old)))).collect();
        (self.tree, self.others, self.revision, self.complete) = (after, others, revision, known);
        StepChanges { revision, resynced: true, changed }
    }

    /// Applies the events of one revision.
    fn take(&mut self, events: Vec<Event>, changed: &mut ChangedKeys) {
        // The part of the tree after the last key. The keys of a transaction are mostly adjacent,
        // and are found in this part without a search.
        let mut following: Option<RangeMut<'_, String, Stored>> = None;
        let mut copies = Copies::of(events.iter().map(|event| if let Event::Put { kv, .. } = event { kv.value.len() } else { 0 }));
        for event in events {
            let (kv, previous) = match event {
                Event::Put { kv, previous } => (kv, previous),
                Event::Delete { key, directory, previous } => {
                    self.delete(&key, directory, previous, changed);
                    following = None;
                    continue;
                }
            };
            let (key, mut now) = Stored::of(kv);
            let Some(relative) = self.directory.below(&key) else {
                take_other(&self.directory, &key, &mut self.others);
                continue;
            };
            now.value = copies.copy(&now.value);
            let mut found = following.as_mut().and_then(RangeMut::next).filter(|(next, _)| *next == relative);
            if found.is_none() {
                let mut from_here = self.tree.range_mut::<str, _>((Bound::Included(relative), Bound::Unbounded));
                found = from_here.next().filter(|(next, _)| *next == relative);
                following = Some(from_here);
            }
            // Replace only the value of a key that exists, without allocating the key again. Most
            // changes are to existing keys.
            let old = match found {
                Some((_, stored)) => Some(std::mem::replace(stored, now.clone())),
                None => {
                    following = None;
                    self.tree.insert(relative.to_owned(), now.clone())
                }
            };
            changed.push(relative, old.or_else(|| told(previous, self.complete)), Some(now));
        }
    }

    fn delete(&mut self, deleted: &[u8], directory: bool, previous: Option<Box<KeyValue>>, changed: &mut ChangedKeys) {
        if directory {
            for relative in self.below(deleted) {
                changed.push(&relative, self.tree.remove(&relative), None);
            }
        } else if let Some(relative) = self.directory.below(deleted) {
            let old = self.tree.remove(relative);
            // A key that is not in a complete tree did not exist, so its deletion is not a change.
            if old.is_some() || !self.complete {
                changed.push(relative, old.or_else(|| told(previous, self.complete)), None);
            }
        } else {
            self.others.remove(deleted);
        }
    }

    /// Returns the known keys below a deleted directory. The deleted directory may be above, below
    /// or equal to the mirror's directory.
    fn below(&self, deleted: &[u8]) -> Vec<String> {
        let deleted = deleted.strip_suffix(b"/").unwrap_or(deleted);
        let is_below = |relative: &&String| {
            let key = self.directory.descend(relative);
            key.as_str().as_bytes().strip_prefix(deleted).is_some_and(|rest| rest.starts_with(b"/"))
        };
        self.tree.keys().filter(is_below).cloned().collect()
    }
}

/// Splits the contents of a directory into a tree and the keys that are not valid paths.
fn split(directory: &Key, kvs: Vec<KeyValue>) -> (Tree, HashSet<Bytes>) {
    let mut others = HashSet::new();
    let tree = schema::kept_tree(directory, kvs, |key| take_other(directory, key, &mut others));
    (tree, others)
}

/// Like [`split`], but yields between groups of keys.
async fn split_in_steps(directory: &Key, kvs: Vec<KeyValue>) -> (Tree, HashSet<Bytes>) {
    let mut others = HashSet::new();
    let tree = schema::kept_tree_in_steps(directory, kvs, |key| take_other(directory, key, &mut others)).await;
    (tree, others)
}

fn take_other(directory: &Key, key: &[u8], others: &mut HashSet<Bytes>) {
    if is_other(directory, key) {
        others.insert(Bytes::copy_from_slice(key));
    }
}

/// Whether a key that is not a valid path is below the directory.
fn is_other(directory: &Key, key: &[u8]) -> bool {
    key.strip_prefix(directory.prefix().as_bytes()).is_some_and(|name| !name.is_empty())
}

/// Returns the previous value that the server sent with an event. Returns `None` if the mirror is
/// complete, since the mirror then knows the previous value itself.
pub(super) fn told(previous: Option<Box<KeyValue>>, complete: bool) -> Option<Stored> {
    previous.filter(|_| !complete).map(|kv| Stored::from(*kv))
}

/// Whether two states of a key differ. The values are compared too: a server that was restored or
/// replaced may have another value at the same revision.
fn differs(old: &Stored, new: &Stored) -> bool {
    (old.created, old.modified, &old.value) != (new.created, new.modified, &new.value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::store::Batch;
    use crate::watch::Reason;

    fn kv(key: &str, value: &str, modified: u64) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            created: Revision::new(1),
            modified: Revision::new(modified),
            version: None,
            lease: None,
            ttl: None,
        }
    }

    fn snapshot(revision: u64, reason: Reason, kvs: Vec<KeyValue>) -> Snapshot {
        Snapshot { revision: Revision::new(revision), kvs, known: true, reason }
    }

    /// A mirror of `/a/b` with four keys, two of them in a subdirectory.
    fn mirror() -> Mirror {
        let kvs = vec![kv("/a/b/x", "1", 2), kv("/a/b/d/y", "1", 3), kv("/a/b/d/z", "1", 4), kv("/a/b/dd", "1", 5)];
        Mirror::new(Key::parse("/a/b").unwrap(), snapshot(10, Reason::Start, kvs))
    }

    fn batch(revision: u64, events: Vec<Event>) -> Step {
        Step::Batch(Batch { revision: Revision::new(revision), events })
    }

    fn put(key: &str, value: &str, revision: u64) -> Event {
        Event::Put { kv: kv(key, value, revision), previous: None }
    }

    fn delete(key: &str, directory: bool) -> Event {
        Event::Delete { key: Bytes::copy_from_slice(key.as_bytes()), directory, previous: None }
    }

    /// Returns the changed keys with their old and new values.
    fn told(mirror: &Mirror, touch: &StepChanges) -> Vec<(String, Option<String>, Option<String>)> {
        let text = |stored: &Stored| String::from_utf8(stored.value.to_vec()).unwrap();
        let one = |(key, old): (&str, &Option<Stored>)| (key.to_owned(), old.as_ref().map(text), mirror.tree.get(key).map(text));
        touch.changed.iter().map(one).collect()
    }

    fn line(key: &str, old: Option<&str>, new: Option<&str>) -> (String, Option<String>, Option<String>) {
        (key.to_owned(), old.map(str::to_owned), new.map(str::to_owned))
    }

    #[test]
    fn batch_reports_earlier_values() {
        let mut mirror = mirror();
        let touch = mirror.apply(batch(11, vec![put("/a/b/x", "2", 11), put("/a/b/new", "1", 11), delete("/a/b/dd", false)])).unwrap();
        assert_eq!(told(&mirror, &touch), [line("dd", Some("1"), None), line("new", None, Some("1")), line("x", Some("1"), Some("2"))]);
        assert_eq!((touch.revision, touch.resynced, mirror.revision()), (Revision::new(11), false, Revision::new(11)));
    }

    #[test]
    fn unrelated_events_change_nothing() {
        let mut mirror = mirror();
        for foreign in
            [put("/a/bb", "1", 11), put("/a/b", "1", 11), put("/a/b/x/", "1", 11), delete("/a/b/none", false), delete("/a/bb", true)]
        {
            assert_eq!(mirror.apply(batch(11, vec![foreign])), None);
        }
        assert_eq!((mirror.apply(Step::Progress(Revision::new(20))), mirror.revision()), (None, Revision::new(20)));
    }

    #[test]
    fn keys_with_invalid_paths_are_counted() {
        let kvs = vec![kv("/a/b/x", "1", 2), kv("/a/b//odd", "1", 3), kv("/a/bb", "1", 3)];
        let mut mirror = Mirror::new(Key::parse("/a/b").unwrap(), snapshot(10, Reason::Start, kvs));
        assert_eq!((mirror.tree.len(), mirror.count()), (1, 2));
        let events = vec![put("/a/b/y/", "1", 11), put("/a/b//odd", "2", 11), put("/a/b/", "1", 11), put("/a/b/z", "1", 11)];
        mirror.apply(batch(11, events));
        assert_eq!((mirror.tree.len(), mirror.count()), (2, 4));
        mirror.apply(batch(12, vec![delete("/a/b//odd", false), delete("/a/b/x", false), delete("/a/b//none", false)]));
        assert_eq!((mirror.tree.len(), mirror.count()), (1, 2));
        mirror.apply(Step::Reset(snapshot(40, Reason::HistoryLost, vec![kv("/a/b//odd", "1", 30)])));
        assert_eq!((mirror.tree.len(), mirror.count()), (0, 1));
    }

    #[test]
    fn deleting_directory_deletes_keys_below() {
        for (deleted, gone) in [("/a/b/d", 2), ("/a/b", 4), ("/a", 4), ("/", 4), ("/a/b/x", 0), ("/a/b/e", 0), ("/a/b/d/", 2)] {
            let mut mirror = mirror();
            let touch = mirror.apply(batch(11, vec![delete(deleted, true)]));
            assert_eq!((touch.map_or(0, |touch| touch.changed.len()), mirror.tree.len()), (gone, 4 - gone), "{deleted}");
        }
    }

    #[test]
    fn recreated_key_reports_value_before_deletion() {
        let mut mirror = mirror();
        let touch = mirror.apply(batch(11, vec![delete("/a/b/d", true), put("/a/b/d/y", "2", 11)])).unwrap();
        assert_eq!(told(&mirror, &touch), [line("d/y", Some("1"), Some("2")), line("d/z", Some("1"), None)]);
    }

    #[test]
    fn reset_reports_keys_that_differ() {
        let mut mirror = mirror();
        let kvs = vec![kv("/a/b/d/y", "1", 3), kv("/a/b/d/z", "2", 30), kv("/a/b/dd", "other life", 5), kv("/a/b/n", "1", 31)];
        let touch = mirror.apply(Step::Reset(snapshot(40, Reason::HistoryLost, kvs))).unwrap();
        let expected = [
            line("d/z", Some("1"), Some("2")),
            line("dd", Some("1"), Some("other life")),
            line("n", None, Some("1")),
            line("x", Some("1"), None),
        ];
        assert_eq!(told(&mirror, &touch), expected);
        assert_eq!((touch.revision, touch.resynced), (Revision::new(40), true));
    }

    #[test]
    fn listing_agrees_if_all_keys_match() {
        let all = || vec![kv("/a/b/x", "1", 2), kv("/a/b/d/y", "1", 3), kv("/a/b/d/z", "1", 4), kv("/a/b/dd", "1", 5)];
        let agrees = |change: fn(&mut Vec<KeyValue>), with_values| {
            let mut kvs = all();
            change(&mut kvs);
            mirror().agrees(&kvs, with_values)
        };
        for with_values in [false, true] {
            assert!(agrees(|_| {}, with_values));
            assert!(agrees(|kvs| kvs.push(kv("/a/bb", "1", 9)), with_values), "not below the directory");
            assert!(!agrees(|kvs| kvs.truncate(3), with_values));
            assert!(!agrees(|kvs| kvs.push(kv("/a/b/new", "1", 9)), with_values));
            assert!(!agrees(|kvs| kvs[0] = kv("/a/b/w", "1", 2), with_values));
            assert!(!agrees(|kvs| kvs[0] = kv("/a/b/x", "2", 9), with_values));
            assert_eq!(agrees(|kvs| kvs[0] = kv("/a/b/x", "1", 9), with_values), with_values, "refreshed");
            assert!(!agrees(|kvs| kvs[0] = KeyValue { created: Revision::new(9), ..kv("/a/b/x", "1", 9) }, with_values));
        }
    }

    proptest! {
        #[test]
        fn batch_may_have_keys_in_any_order(
            start in proptest::collection::btree_set(0..9_u8, 0..9),
            events in proptest::collection::vec((0..9_u8, any::<bool>()), 0..12),
        ) {
            let name = |key: u8| format!("/a/{key}");
            let kvs = start.iter().map(|&key| kv(&name(key), "before", 2)).collect();
            let mut mirror = Mirror::new(Key::parse("/a").unwrap(), snapshot(10, Reason::Start, kvs));
            let mut expected: BTreeMap<String, String> = start.iter().map(|key| (key.to_string(), "before".to_owned())).collect();
            let mut first = BTreeMap::new();
            for (place, (key, is_put)) in events.iter().enumerate() {
                let now = is_put.then(|| place.to_string());
                let old = match &now {
                    Some(now) => expected.insert(key.to_string(), now.clone()),
                    None => expected.remove(&key.to_string()),
                };
                if old.is_some() || now.is_some() {
                    first.entry(key.to_string()).or_insert(old);
                }
            }
            let event = |(place, &(key, is_put)): (usize, &(u8, bool))| {
                if is_put { put(&name(key), &place.to_string(), 11) } else { delete(&name(key), false) }
            };
            let touch = mirror.apply(batch(11, events.iter().enumerate().map(event).collect()));
            let told: Vec<_> = touch.iter().flat_map(|touch| told(&mirror, touch)).collect();
            let line = |(key, old): (String, Option<String>)| { let now = expected.get(&key).cloned(); (key, old, now) };
            prop_assert_eq!(told, first.into_iter().map(line).collect::<Vec<_>>());
            prop_assert!(mirror.tree().keys().eq(expected.keys()));
        }
    }

    #[test]
    fn unknown_start_uses_earlier_values_from_server() {
        let mut mirror = Mirror::unknown(Key::parse("/a/b").unwrap(), Revision::new(3));
        let previous = || Some(Box::new(kv("/a/b/x", "1", 2)));
        let written = Event::Put { kv: kv("/a/b/x", "2", 4), previous: previous() };
        let touch = mirror.apply(batch(4, vec![written])).unwrap();
        assert_eq!(told(&mirror, &touch), [line("x", Some("1"), Some("2"))]);
        let gone = Event::Delete { key: Bytes::from_static(b"/a/b/y"), directory: false, previous: previous() };
        let touch = mirror.apply(batch(5, vec![gone])).unwrap();
        assert_eq!(told(&mirror, &touch), [line("y", Some("1"), None)]);
        assert!(!mirror.is_complete());
        mirror.apply(Step::Reset(snapshot(40, Reason::HistoryLost, Vec::new())));
        assert!(mirror.is_complete());
    }
}
