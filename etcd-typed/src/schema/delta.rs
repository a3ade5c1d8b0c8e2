//! Converts changed keys to typed changes, and defines the types of these changes.

use std::fmt;

use bytes::Bytes;

use super::changed_keys::ChangedKey;
use super::{ChangedKeys, Fallback, MapPath, Presence, Schema, Stored, Table, Tree, is_entry, is_replaced, split_levels, with_prefix};
use crate::error::{Masked, Problem, ProblemKind};
use crate::key::{self, Key};
use crate::revision::Revision;
use crate::value::{Codec, ValueError};

/// A change of one value. `Debug` shows the values of a [secret](Self::secret) as `***`.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change<T> {
    /// The key.
    pub key: Key,
    /// The value before the change. `None` if there was no value, or if the value could not be
    /// decoded. For a field with a default, a missing key counts as the default, unless the earlier
    /// value is unknown or was not seen (`resynced`).
    pub old: Option<T>,
    /// The value after the change. `None` if the key was deleted or has expired; a field with a
    /// default then has its default.
    pub new: Option<T>,
    /// The revision of the change. If `resynced` is true, the revision of the snapshot that showed
    /// the change.
    pub revision: Revision,
    /// True if history was lost (compaction, the event window of v2, a restored server). The change
    /// is then the difference from the last known value, and values in between may have been
    /// missed.
    pub resynced: bool,
    /// Whether the field is marked `secret`.
    pub secret: bool,
}

impl<T> Change<T> {
    /// Creates a change, for tests of code that handles changes. The change is neither `resynced`
    /// nor `secret`.
    pub fn new(key: Key, old: Option<T>, new: Option<T>, revision: Revision) -> Self {
        Self { key, old, new, revision, resynced: false, secret: false }
    }

    /// True if the field had no value before and has one now. Never true for a field with a
    /// default, which always has a value.
    pub fn is_created(&self) -> bool {
        self.old.is_none() && self.new.is_some()
    }

    /// True if the field no longer has a value.
    pub fn is_deleted(&self) -> bool {
        self.new.is_none()
    }

    /// True if the field had a value before and has one now. The two values are equal if a client
    /// wrote the same value again.
    pub fn is_modified(&self) -> bool {
        self.old.is_some() && self.new.is_some()
    }
}

impl<T: fmt::Debug> fmt::Debug for Change<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mask = |value: &Option<T>| value.as_ref().filter(|_| self.secret).map(|_| Masked);
        let (old, new) = (mask(&self.old), mask(&self.new));
        f.debug_struct("Change")
            .field("key", &self.key)
            .field("old", if old.is_some() { &old } else { &self.old })
            .field("new", if new.is_some() { &new } else { &self.new })
            .field("revision", &self.revision)
            .field("resynced", &self.resynced)
            .finish()
    }
}

/// A change of one key of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed<K, C> {
    /// The map key.
    pub key: K,
    /// The change of its value.
    pub change: C,
}

/// All typed changes of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Update<C> {
    /// The revision at which the values changed.
    pub revision: Revision,
    /// The changes, in the order of the schema.
    pub changes: Vec<C>,
    /// Whether history was lost. The changes are then the difference from the last known state. See
    /// [`Change::resynced`].
    pub resynced: bool,
}

impl<C> Update<C> {
    /// Creates an update, for tests of code that handles updates. The update is not `resynced`.
    pub fn new(revision: Revision, changes: Vec<C>) -> Self {
        Self { revision, changes, resynced: false }
    }
}

/// The changed keys, as input of the `changes` function that the derive generates. That function
/// makes one call for each directory or map, with the index of the field in the table, and one call
/// for each group of adjacent leaves (fields with one value).
#[derive(Debug)]
pub struct Delta<'a> {
    directory: &'a Key,
    pub(super) table: &'static Table,
    /// The position of the struct in the tree: empty, or segments that each end with `/`. A method
    /// may extend it, but restores it before it returns.
    prefix: String,
    /// The tree after the changes.
    after: &'a Tree,
    /// Each changed relative key, with its earlier value.
    changed: &'a ChangedKeys,
    revision: Revision,
    resynced: bool,
    /// Whether the tree contains all keys of the directory.
    complete: bool,
    /// True if a missing earlier value means that the key did not exist. Otherwise the key may have
    /// existed without being seen.
    knows_before: bool,
    problems: &'a mut Vec<Problem>,
    /// A buffer to build keys in.
    scratch: String,
}

impl<'a> Delta<'a> {
    pub(crate) fn new(
        directory: &'a Key,
        after: &'a Tree,
        changed: &'a ChangedKeys,
        revision: Revision,
        resynced: bool,
        complete: bool,
        problems: &'a mut Vec<Problem>,
    ) -> Self {
        let (table, prefix, scratch, knows_before) = (Table::EMPTY, String::new(), String::new(), complete && !resynced);
        Self { directory, table, prefix, after, changed, revision, resynced, complete, knows_before, problems, scratch }
    }

    /// Returns the change of a field with one value.
    pub(super) fn leaf<T>(&mut self, field: usize, codec: &Codec<T>, default: Fallback<T>) -> Option<Change<T>> {
        let (segment, before, after) = self.leaf_changed(field)?;
        let change = self.change(segment, before, after, *codec)?;
        let old = if before.is_none() && self.knows_before { default.value() } else { change.old };
        let new = if after.is_none() { default.value() } else { change.new };
        Some(Change { old, new, ..change })
    }

    /// Returns the change of a field that `decode` reads.
    pub(super) fn leaf_with<T>(&mut self, field: usize, decode: impl Fn(&[u8]) -> Result<T, ValueError>) -> Option<Change<T>> {
        let (segment, before, after) = self.leaf_changed(field)?;
        self.changed_value(segment, before, after, false, |bytes| decode(bytes))
    }

    /// Returns the stored tag of the enum at this position, before and after the changes.
    pub(super) fn tags(&self) -> (Option<&'a [u8]>, Option<&'a [u8]>) {
        let tag = [self.prefix.as_str(), self.table.tag().map_or("", |tag| tag.segment)].concat();
        let (after, changed) = (self.after, self.changed);
        let now = after.get(&tag);
        let was = changed.get(&tag).map_or(now, Option::as_ref);
        (was.map(|stored| &*stored.value), now.map(|stored| &*stored.value))
    }

    /// True if the directory may have keys that the tree does not contain.
    pub(super) fn is_partial(&self) -> bool {
        !self.complete
    }

    /// Returns the segment of a changed field, its value before and its value now.
    fn leaf_changed(&self, field: usize) -> Option<(&'static str, Option<&'a Stored>, Option<&'a Stored>)> {
        let field = self.table.fields.get(field)?;
        let (tree, changed) = (self.after, self.changed);
        let mut before = None;
        let mut after = None;
        let mut is_changed = false;
        for segment in field.segments() {
            let at = format!("{}{segment}", self.prefix);
            let now = tree.get(&at).map(|stored| (segment, stored));
            let was = match changed.get(&at) {
                Some(was) => {
                    is_changed = true;
                    was.as_ref().map(|stored| (segment, stored))
                }
                None => now,
            };
            before = before.or(was);
            after = after.or(now);
        }
        // A change of an alias does not change the field while its own key exists.
        if !is_changed || before == after {
            return None;
        }
        let segment = after.or(before).map_or(field.segment, |(segment, _)| segment);
        Some((segment, before.map(|(_, stored)| stored), after.map(|(_, stored)| stored)))
    }

    /// Adds the changes of a nested struct, whether it is optional or not.
    pub fn dir<S: Schema, C>(&mut self, field: usize, make: fn(S::Change) -> C, out: &mut Vec<C>) {
        let Some(field) = self.table.fields.get(field) else { return };
        match field.presence {
            Presence::Required => self.below(field.segment, |delta| delta.whole::<S, C>(make, out)),
            _ => self.below(field.segment, |delta| delta.present::<S, C>(make, out)),
        }
    }

    /// Adds the changes of a struct whose keys are in this struct's own directory.
    pub fn flatten<S: Schema, C>(&mut self, make: fn(S::Change) -> C, out: &mut Vec<C>) {
        self.whole::<S, C>(make, out);
    }

    /// Adds the changes of a map of structs.
    pub fn dir_map<K: MapPath, S: Schema, C>(&mut self, field: usize, make: fn(Keyed<K, S::Change>) -> C, out: &mut Vec<C>) {
        let Some(field) = self.table.fields.get(field) else { return };
        self.below(field.segment, |delta| delta.all_dirs::<K, S, C>(make, out));
    }

    /// Adds the changes of a map of values.
    pub fn entries<K: MapPath, V, C>(&mut self, field: usize, codec: &Codec<V>, make: fn(Keyed<K, Change<V>>) -> C, out: &mut Vec<C>) {
        let Some(field) = self.table.fields.get(field) else { return };
        self.below(field.segment, |delta| delta.all_entries(*codec, make, out));
    }

    /// Adds the changes of a struct at this position.
    pub(crate) fn whole<S: Schema, C>(&mut self, make: fn(S::Change) -> C, out: &mut Vec<C>) {
        if self.changed.with_prefix(&self.prefix).next().is_none() {
            return;
        }
        let outer = std::mem::replace(&mut self.table, S::TABLE);
        let mut changes = Vec::new();
        S::changes(self, &mut changes);
        self.table = outer;
        out.extend(changes.into_iter().map(make));
    }

    /// Adds the changes of a struct that may be absent. While it is absent, changes of leftover
    /// keys are not reported. When it appears or disappears, all of its keys are reported as
    /// created or deleted, so that the changes lead from one state to the next.
    fn present<S: Schema, C>(&mut self, make: fn(S::Change) -> C, out: &mut Vec<C>) {
        if !self.complete || self.changed.with_prefix(&self.prefix).next().is_none() {
            return self.whole::<S, C>(make, out);
        }
        let (prefix, changed) = (self.prefix.clone(), self.changed);
        let makes_present = |name: &str| S::TABLE.is_present_by(name.get(prefix.len()..).unwrap_or_default());
        let stays = || with_prefix(self.after, &prefix).filter(|(name, _)| !changed.contains_key(name));
        let came = || with_prefix(self.after, &prefix).filter(|(name, _)| changed.contains_key(name));
        let went = || changed.with_prefix(&prefix).filter(|key| key.before.is_some());
        let always = stays().any(|(name, _)| makes_present(name));
        let was = always || went().any(|key| makes_present(key.name));
        let is = always || came().any(|(name, _)| makes_present(name));
        let has_left_over = || stays().next().is_some() || if is { went().next().is_some() } else { came().next().is_some() };
        if !was && !is {
            return;
        }
        if was == is || !has_left_over() {
            return self.whole::<S, C>(make, out);
        }
        self.between(was, is, |delta| delta.whole::<S, C>(make, out));
    }

    /// Reads the changes of a struct or variant that existed before if `was`, and exists now if
    /// `is`. If only one of the two is true, all of its keys are reported as created or deleted.
    pub(super) fn between(&mut self, was: bool, is: bool, read: impl FnOnce(&mut Delta<'_>)) {
        if was && is {
            return read(self);
        }
        if !was && !is {
            return;
        }
        let (prefix, changed) = (self.prefix.clone(), self.changed);
        let rest = with_prefix(self.after, &prefix).filter(|(name, _)| !changed.contains_key(name));
        let rest = rest.map(|(name, stored)| (name, was.then(|| stored.clone())));
        let after: Tree = with_prefix(self.after, &prefix).filter(|_| is).map(|(name, stored)| (name.to_owned(), stored.clone())).collect();
        let changed: ChangedKeys =
            changed.with_prefix(&prefix).map(|key| (key.name, key.before.filter(|_| was).cloned())).chain(rest).collect();
        let (complete, revision, resynced) = (self.complete, self.revision, self.resynced);
        let mut whole = Delta::new(self.directory, &after, &changed, revision, resynced, complete, self.problems);
        whole.prefix = prefix;
        read(&mut whole);
    }

    /// Adds the changes of this directory, which is a map of structs.
    pub(crate) fn all_dirs<K: MapPath, S: Schema, C>(&mut self, make: fn(Keyed<K, S::Change>) -> C, out: &mut Vec<C>) {
        let mut children: Vec<&'a str> = Vec::new();
        let changed = self.changed;
        for key in changed.with_prefix(&self.prefix) {
            if let Some((child, Some(rest))) = split_levels(&key.name[self.prefix.len()..], K::LEVELS)
                && children.last() != Some(&child)
                && S::TABLE.owns(rest)
                && !self.is_replaced(child, S::TABLE)
            {
                children.push(child);
            }
        }
        for child in children {
            if let Some(key) = self.map_key::<K>(child) {
                let mut changes = Vec::new();
                self.below(child, |delta| delta.present::<S, S::Change>(|change| change, &mut changes));
                out.extend(changes.into_iter().map(|change| make(Keyed { key: key.clone(), change })));
            }
        }
    }

    /// Whether the name of this map entry starts with an escaped `_`, as earlier versions wrote it,
    /// and the same struct also exists under the name with a plain `_`.
    fn is_replaced(&self, child: &str, table: &Table) -> bool {
        is_replaced(child, |own| {
            let own = format!("{}{own}/", self.prefix);
            with_prefix(self.after, &own).any(|(relative, _)| table.is_present_by(&relative[own.len()..]))
        })
    }

    /// Adds the changes of this directory, which is a map of values.
    pub(crate) fn all_entries<K: MapPath, V, C>(&mut self, codec: Codec<V>, make: fn(Keyed<K, Change<V>>) -> C, out: &mut Vec<C>) {
        let prefix = self.prefix.clone();
        let changed = self.changed;
        if prefix.is_empty() {
            // The map fills the whole directory, so all changed keys belong to it.
            out.reserve(changed.len());
        }
        for ChangedKey { name, before, now } in changed.with_prefix(&prefix) {
            let segment = &name[prefix.len()..];
            if !is_entry(segment, K::LEVELS) {
                continue;
            }
            let Some(key) = self.map_key::<K>(segment) else { continue };
            let (mut before, mut now) = (before, now.or_else(|| self.after.get(name)));
            if let Some(own) = key::with_plain_underscores(segment).map(|own| format!("{prefix}{own}")) {
                // The same entry also has a key with a plain `_`, which takes precedence. Its
                // change, if there is one, is reported at that key.
                if changed.contains_key(&own) || self.after.contains_key(&own) {
                    continue;
                }
            } else if let Some(older) = key::with_escaped_underscores(segment).map(|older| format!("{prefix}{older}")) {
                // Before or after this change, the entry may be read at the key that an earlier
                // version wrote.
                let stored = self.after.get(&older);
                before = before.or_else(|| changed.get(&older).map_or(stored, Option::as_ref));
                now = now.or(stored);
            }
            let change = self.change(segment, before, now, codec);
            out.extend(change.map(|change| make(Keyed { key, change })));
        }
    }

    /// Adds the changes of every key, as bytes.
    pub(crate) fn all_keys(&mut self, out: &mut Vec<Keyed<String, Change<Bytes>>>) {
        let changed = self.changed;
        for (relative, before) in changed.iter() {
            let change = self.change(relative, before.as_ref(), self.after.get(relative), Codec::<Bytes>::value());
            out.extend(change.map(|change| Keyed { key: relative.to_owned(), change }));
        }
    }

    /// Returns the change of one value. If the new value cannot be decoded, records a problem and
    /// returns `None`.
    pub(crate) fn change<T>(
        &mut self,
        segment: &str,
        before: Option<&Stored>,
        after: Option<&Stored>,
        codec: Codec<T>,
    ) -> Option<Change<T>> {
        self.changed_value(segment, before, after, codec.is_secret(), |bytes| codec.decode_shared(bytes))
    }

    fn changed_value<T>(
        &mut self,
        segment: &str,
        before: Option<&Stored>,
        after: Option<&Stored>,
        secret: bool,
        decode: impl Fn(&Bytes) -> Result<T, ValueError>,
    ) -> Option<Change<T>> {
        let new = match after.map(|stored| decode(&stored.value)) {
            None => None,
            Some(Ok(value)) => Some(value),
            Some(Err(reason)) => {
                // In a resync, `self.revision` is the revision of the snapshot, but the value was
                // written earlier.
                let written = after.map_or(self.revision, |stored| stored.modified);
                self.problem(segment, ProblemKind::Undecodable, reason.to_string(), written);
                return None;
            }
        };
        let old = before.and_then(|stored| decode(&stored.value).ok());
        let key = self.key(segment);
        Some(Change { key, old, new, revision: self.revision, resynced: self.resynced, secret })
    }

    /// Returns the full key of a segment of the current struct.
    fn key(&mut self, segment: &str) -> Key {
        if self.prefix.is_empty() {
            self.directory.descend_through(&mut self.scratch, segment)
        } else {
            self.directory.descend_through(&mut self.scratch, &[&self.prefix, segment].concat())
        }
    }

    fn map_key<K: MapPath>(&mut self, segment: &str) -> Option<K> {
        K::of_path(segment).map_err(|(kind, reason)| self.problem(segment, kind, reason, self.revision)).ok()
    }

    fn below(&mut self, segment: &str, read: impl FnOnce(&mut Self)) {
        let length = self.prefix.len();
        self.prefix.push_str(segment);
        self.prefix.push('/');
        read(self);
        self.prefix.truncate(length);
    }

    fn problem(&mut self, segment: &str, kind: ProblemKind, reason: String, revision: Revision) {
        let key = self.key(segment);
        self.problems.push(Problem { key, kind, reason, revision: Some(revision) });
    }
}
