//! Plans a write of many keys: which keys are put, which keys are deleted, and under which
//! conditions. `plan/commit.rs` sends the plan.

mod commit;
mod differences;
mod switch;

use bytes::Bytes;

pub(super) use self::commit::last;
pub(super) use self::differences::unchanged_keys;

use super::expiry::EnclosingExpiry;
use crate::key::{self, Key};
use crate::revision::Revision;
use crate::schema::{Encoded, Removable, Table, Tree, is_entry, is_written, removable_in_map, split_levels};
use crate::store::{Committed, Compare, Condition, Expiry, Op, Span};

/// The writes below one directory. Keys are relative to the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WritePlan {
    pub(super) puts: Vec<Put>,
    pub(super) deletes: Vec<String>,
    /// Directories that are deleted with everything below them. The plan has no put below them.
    pub(super) removals: Vec<Removal>,
}

/// A directory that is deleted with everything below it, including keys that are not in the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Removal {
    pub(super) directory: String,
    /// If set, the directory is deleted only if no key below it was written after this revision.
    /// Set when a plan is sent in several steps, where no other condition detects such a write.
    since: Option<Revision>,
}

impl Removal {
    pub(super) fn of(directory: &str) -> Self {
        Self { directory: directory.to_owned(), since: None }
    }

    /// Returns the keys of `tree` that this removal deletes.
    pub(super) fn keys<'t>(&self, tree: &'t Tree) -> impl Iterator<Item = &'t String> + use<'_, 't> {
        let from = if self.directory.is_empty() { String::new() } else { format!("{}/", self.directory) };
        tree.range(from..).map(|(key, _)| key).take_while(|key| self.has(key))
    }

    /// Returns the conditions that nothing below the removed directory was changed, added or
    /// deleted since `revision`, when `directory` contained `basis`. Keys are relative to
    /// `directory`.
    pub(super) fn unchanged(&self, directory: &Key, revision: Revision, basis: &[(String, Revision)]) -> Vec<Compare> {
        let below = basis.iter().filter(|(key, _)| self.has(key)).filter_map(|(key, modified)| {
            let relative = if self.directory.is_empty() { key } else { key.get(self.directory.len() + 1..)? };
            Some((relative.to_owned(), *modified))
        });
        unchanged(&place(directory, &self.directory), revision, &below.collect::<Vec<_>>())
    }

    /// Returns whether this removal deletes `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        is_below(&self.directory, key)
    }
}

/// Returns whether a key is below a directory, where both are paths relative to the same directory.
/// If `directory` is empty, every key is below it.
pub(super) fn is_below(directory: &str, key: &str) -> bool {
    directory.is_empty() || key.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) key: String,
    pub(super) value: Bytes,
    /// The expiry of the key. `None` if the key expires with the enclosing struct.
    pub(super) expiry: Option<Expiry>,
}

impl Put {
    fn new((key, value): (String, Bytes)) -> Self {
        Self { key, value, expiry: None }
    }
}

/// Decides which keys below a directory belong to a handle: the keys of a struct, or the keys of a
/// map that has the directory for itself.
#[derive(Clone, Copy)]
pub(super) enum Owner {
    Struct(&'static Table),
    /// A struct whose directory also contains keys of the enclosing struct.
    Flattened(&'static Table),
    /// A map of structs.
    Dirs {
        /// The schema of the struct in each entry.
        table: &'static Table,
        /// The number of segments of a map key.
        levels: usize,
    },
    /// A map of values.
    Entries {
        /// True if the values must not be shown.
        secret: bool,
        /// The number of segments of a map key.
        levels: usize,
    },
}

impl Owner {
    pub(super) fn owns(self, relative: &str) -> bool {
        match self {
            Self::Struct(table) | Self::Flattened(table) => table.owns(relative),
            Self::Entries { levels, .. } => is_entry(relative, levels) && is_written(relative),
            Self::Dirs { table, levels } => match split_levels(relative, levels) {
                Some((child, Some(rest))) => is_written(child) && table.owns(rest),
                _ => false,
            },
        }
    }

    /// Returns whether the value of a key must not be shown.
    pub(super) fn is_secret(self, relative: &str) -> bool {
        match self {
            Self::Struct(table) | Self::Flattened(table) => table.is_secret(relative),
            Self::Dirs { table, levels } => {
                split_levels(relative, levels).and_then(|(_, rest)| rest).is_some_and(|rest| table.is_secret(rest))
            }
            Self::Entries { secret, .. } => secret,
        }
    }

    /// Returns true if the keys to delete depend on the stored keys. They do for a struct with
    /// maps, because outdated entries are deleted, and for a struct with enums, because a change of
    /// the variant deletes everything below the enum.
    pub(super) fn depends_on_stored(self) -> bool {
        match self {
            Self::Struct(table) | Self::Flattened(table) => table.has_enums() || !table.map_directories().is_empty(),
            Self::Dirs { .. } | Self::Entries { .. } => true,
        }
    }

    fn fixed_keys(self) -> Vec<String> {
        match self {
            Self::Struct(table) | Self::Flattened(table) => table.fixed_keys(),
            Self::Dirs { .. } | Self::Entries { .. } => Vec::new(),
        }
    }

    fn absent_keys(self, encoded: &Encoded) -> Vec<String> {
        match self {
            Self::Struct(table) | Self::Flattened(table) => table.absent_keys(encoded),
            Self::Dirs { .. } | Self::Entries { .. } => Vec::new(),
        }
    }

    fn map_directories(self, directory: &Key) -> Vec<Key> {
        match self {
            Self::Struct(table) | Self::Flattened(table) => {
                table.map_directories().iter().map(|relative| directory.descend(relative)).collect()
            }
            Self::Dirs { .. } | Self::Entries { .. } => vec![directory.clone()],
        }
    }

    /// Returns the directories around a key that may be absent and are removed as a whole, from the
    /// outermost to the innermost.
    pub(super) fn removable_around(self, relative: &str) -> Vec<Removable<'_>> {
        match self {
            Self::Struct(table) | Self::Flattened(table) => table.removable_around(relative),
            Self::Dirs { table, levels } => removable_in_map(table, levels, relative),
            Self::Entries { .. } => Vec::new(),
        }
    }

    /// Plans a write that does not know the stored keys: puts everything in `encoded`, and deletes
    /// all other keys that belong to the handle. Used only if the keys to delete do not
    /// [depend](Self::depends_on_stored) on the stored keys.
    pub(super) fn overwrite(self, encoded: Encoded) -> WritePlan {
        let mut plan = WritePlan::default();
        for key in self.absent_keys(&encoded) {
            self.delete(&key, &encoded, &mut plan);
        }
        WritePlan { puts: encoded.into_iter().map(Put::new).collect(), ..plan.each_once() }
    }

    /// Like [`overwrite`](Self::overwrite), for a write that knows the stored keys. Writes with
    /// maps or enums use this plan, and `diff` predicts every write with it.
    pub(super) fn replace(self, tree: &Tree, encoded: Encoded) -> WritePlan {
        let outdated = self.outdated(tree, &encoded);
        WritePlan { puts: encoded.into_iter().map(Put::new).collect(), ..outdated }
    }

    /// Plans the deletions of [`replace`](Self::replace).
    fn outdated(self, tree: &Tree, encoded: &Encoded) -> WritePlan {
        let mut plan = WritePlan::default();
        let rest = self.sweep(tree.keys(), |key| tree.get(key).map(|stored| &stored.value), encoded, &mut plan);
        for key in self.superseded(rest.into_iter(), encoded) {
            self.delete(key, encoded, &mut plan);
        }
        // Removes the directory of an optional struct that the new value does not contain, even if
        // the directory contains only unknown keys. `overwrite` does the same, since it does not
        // know the stored keys.
        for key in tree.keys().filter(|key| !self.owns(key)) {
            let around = self.removable_around(key);
            if around.iter().find(|removable| !removable.is_encoded(encoded)).is_some_and(|removable| !removable.is_entry) {
                self.delete(key, encoded, &mut plan);
            }
        }
        plan.each_once()
    }

    /// Plans a write of only the differences between `old`, the state that was read, and `new`.
    ///
    /// Leftover keys of a struct that is absent before and after the write are kept, since another
    /// client may be writing that struct key by key. If the write adds the enclosing struct, the
    /// leftover keys are deleted. Keys of enum variants that are neither the old nor the new
    /// variant are kept too.
    pub(super) fn difference<'k>(self, stored: impl Iterator<Item = &'k String>, old: &Encoded, new: &Encoded) -> WritePlan {
        let stored: Vec<&String> = stored.collect();
        let mut puts: Encoded =
            new.iter().filter(|(key, bytes)| old.get(*key) != Some(bytes)).map(|(key, bytes)| (key.clone(), bytes.clone())).collect();
        self.complete_defaults(&stored, old, new, &mut puts);
        let mut plan = WritePlan::whole(puts);
        let rest = self.sweep(stored.into_iter(), |key| old.get(key), new, &mut plan);
        let superseded = self.superseded(rest.into_iter(), new);
        // If a value is stored at the key that earlier versions of this library used, that key is
        // deleted. So the value must be put at the current key.
        let renamed = superseded.iter().filter_map(|key| new.get_key_value(&key::with_plain_underscores(key)?));
        let renamed: Vec<Put> = renamed
            .filter(|(key, _)| !plan.puts.iter().any(|put| put.key == **key))
            .map(|(key, bytes)| Put::new((key.clone(), bytes.clone())))
            .collect();
        plan.puts.extend(renamed);
        for key in superseded {
            if !old.contains_key(key) && self.is_of_other_variant(key, old, new) {
                continue;
            }
            let around = self.removable_around(key);
            let (present, absent) = around.split_at(around.iter().take_while(|removable| removable.is_encoded(new)).count());
            let is_left_over = absent.first().is_some_and(|removable| !removable.is_encoded(old));
            if !is_left_over || present.iter().any(|removable| !removable.is_encoded(old)) {
                self.delete(key, new, &mut plan);
            }
        }
        plan.each_once()
    }

    /// Adds the deletion of a key to the plan. If the key is in a directory that will be absent,
    /// adds the removal of the outermost such directory instead.
    fn delete(self, key: &str, encoded: &Encoded, plan: &mut WritePlan) {
        // Keys of one directory mostly follow each other, so the last removal often deletes the key.
        if plan.removals.last().is_some_and(|removal| removal.has(key)) {
            return;
        }
        match self.removable_around(key).into_iter().find(|removable| !removable.is_encoded(encoded)) {
            Some(removable) => plan.removals.push(Removal::of(removable.directory)),
            None => plan.deletes.push(key.to_owned()),
        }
    }

    /// Returns the directories that are absent in `old` and present in `new`. Such a directory may
    /// contain leftover keys that the read did not return.
    pub(super) fn added(self, old: &Encoded, new: &Encoded) -> Vec<String> {
        let mut added: Vec<String> = Vec::new();
        for key in new.keys().filter(|key| !old.contains_key(*key)) {
            if added.last().is_some_and(|directory| is_below(directory, key)) {
                continue;
            }
            let around = self.removable_around(key);
            added.extend(around.iter().find(|removable| !removable.is_encoded(old)).map(|removable| removable.directory.to_owned()));
        }
        added
    }

    /// Like [`difference`](Self::difference), for a write that knows only the keys in `basis`. If a
    /// field no longer has a value, all its aliases are deleted too, since an alias that was not
    /// read may exist.
    pub(super) fn difference_to_read(self, basis: &[(String, Revision)], old: &Encoded, new: &Encoded) -> WritePlan {
        let already_absent = self.absent_keys(old);
        let is_read = |key: &String| basis.iter().any(|(read, _)| read == key);
        let unread: Vec<String> = self.absent_keys(new).into_iter().filter(|key| !already_absent.contains(key) && !is_read(key)).collect();
        self.difference(basis.iter().map(|(key, _)| key).chain(&unread), old, new)
    }

    /// Returns the stored keys that belong to the handle and are not in the new state `encoded`.
    fn superseded<'k>(self, stored: impl Iterator<Item = &'k String>, encoded: &Encoded) -> Vec<&'k String> {
        let mut superseded: Vec<&String> = stored.filter(|key| !encoded.contains_key(*key) && self.owns(key)).collect();
        if !superseded.is_empty() {
            let (absent, fixed) = (self.absent_keys(encoded), self.fixed_keys());
            // If a field has a value, its aliases stay.
            superseded.retain(|key| !fixed.contains(key) || absent.contains(key));
        }
        superseded
    }

    /// Returns the conditions that no key of the handle exists.
    pub(super) fn nothing_there(self, directory: &Key) -> Vec<Compare> {
        let fixed = self.fixed_keys();
        let keys = fixed.iter().map(|relative| Compare::key(&directory.descend(relative), Condition::Absent));
        let maps = self.map_directories(directory);
        keys.chain(maps.iter().map(|map| Compare::below(map, Condition::Absent))).collect()
    }
}

/// Returns the conditions that nothing below the directory was changed, added or deleted since
/// `revision`, when the directory contained `basis`.
///
/// Each key of `basis` costs one compare. A caller that need not detect deletions passes only the
/// [newest](newest) key. That key is always needed: on a server that was restored from a backup,
/// all keys may be older than `revision`, and only the compare of a known key fails.
pub(super) fn unchanged(directory: &Key, revision: Revision, basis: &[(String, Revision)]) -> Vec<Compare> {
    let appeared_or_changed = Compare::below(directory, Condition::UnchangedSince(revision));
    // A range compare checks only keys that exist, so it does not detect a deleted key.
    let known = basis.iter().map(|(relative, modified)| Compare::key(&directory.descend(relative), Condition::Modified(*modified)));
    std::iter::once(appeared_or_changed).chain(known).collect()
}

/// Returns the key that was written last, as the basis of [`unchanged`]. Empty if `tree` contains
/// no key.
pub(super) fn newest(tree: &Tree) -> Vec<(String, Revision)> {
    let newest = tree.iter().max_by_key(|(_, stored)| stored.modified);
    newest.map(|(key, stored)| (key.clone(), stored.modified)).into_iter().collect()
}

/// Returns whether a successful transaction shows that the server was restored from a backup after
/// the read at `revision`. Without a restore, a change has a higher revision than any read before
/// it.
///
/// The conditions of the transaction detect a restored backup in which a known key differs. This
/// check also detects a restored backup that differs only by additional keys.
pub(super) fn is_rewound(committed: &Committed, revision: Revision) -> bool {
    committed.succeeded && committed.revision <= revision
}

/// Returns the condition that no key exists below a directory.
pub(super) fn nothing_below(directory: &Key, relative: &str) -> Compare {
    Compare::below(&place(directory, relative), Condition::Absent)
}

/// Advice in the error of a write that is too large for one transaction.
pub(super) const IN_SEVERAL: &str = "`.non_atomic()` writes in several";
pub(super) const IN_SEVERAL_OR_UPDATE: &str = "`.non_atomic()` writes in several, `update` needs only the changed keys";
pub(super) const IN_SEVERAL_OR_FEWER: &str = "`.non_atomic()` writes in several, `.changed_fields_only()` needs fewer conditions";

/// Decides whether a write of many keys may be sent in several transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Atomicity {
    /// The write is sent in one transaction, or not at all.
    Atomic,
    /// The write is sent in as many transactions as necessary.
    NonAtomic,
}

impl WritePlan {
    /// Returns a plan that puts everything in `encoded` and deletes nothing.
    pub(super) fn whole(encoded: Encoded) -> Self {
        Self { puts: encoded.into_iter().map(Put::new).collect(), ..Self::default() }
    }

    /// Also puts the keys whose value does not differ, so that all keys get the same expiry.
    pub(super) fn renewing(self, encoded: &Encoded) -> Self {
        Self { puts: Self::whole(encoded.clone()).puts, ..self }
    }

    /// Sets when each key expires. `None` leaves the decision to the enclosing structs.
    pub(super) fn expiring(mut self, expiry: impl Fn(&str) -> Option<Expiry>) -> Self {
        for put in &mut self.puts {
            put.expiry = expiry(&put.key);
        }
        self
    }

    /// Removes duplicate removals.
    fn each_once(mut self) -> Self {
        self.removals.sort_unstable_by(|a, b| a.directory.cmp(&b.directory));
        self.removals.dedup();
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.puts.len() + self.deletes.len() + self.removals.len()
    }

    /// Returns all keys that are put or deleted, and the directories that are removed.
    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.own_keys().chain(self.removals.iter().map(|removal| &removal.directory))
    }

    /// Returns all keys that are put or deleted individually.
    pub(super) fn own_keys(&self) -> impl Iterator<Item = &String> {
        self.puts.iter().map(|put| &put.key).chain(&self.deletes)
    }

    /// Prepares the plan for several steps that each have their own condition. First, each key of
    /// `tree` below a removed directory is deleted individually. Then the directory is deleted,
    /// unless a key was written below it after `revision`.
    pub(super) fn in_steps(mut self, tree: &Tree, revision: Revision) -> Self {
        for removal in &mut self.removals {
            self.deletes.extend(removal.keys(tree).cloned());
            removal.since = Some(revision);
        }
        self
    }

    /// Returns whether the expiry of a put depends on the enclosing structs.
    fn depends_on(&self, enclosing_expiry: &EnclosingExpiry) -> bool {
        !enclosing_expiry.is_empty() && self.puts.iter().any(|put| put.expiry.is_none())
    }

    pub(super) fn into_ops(self, directory: &Key, enclosing_expiry: &EnclosingExpiry) -> Vec<Op> {
        let put = |Put { key, value, expiry }| {
            let expiry = expiry.unwrap_or_else(|| enclosing_expiry.expiry());
            Op::Put { key: directory.descend(&key), value, expiry, previous: false }
        };
        let delete = |span| Op::Delete { span, previous: false };
        let puts: Vec<Op> = self.puts.into_iter().map(put).collect();
        let deletes = self.deletes.iter().map(|relative| delete(Span::Key(directory.descend(relative))));
        let removals = self.removals.iter().map(|removal| delete(Span::Below(place(directory, &removal.directory))));
        puts.into_iter().chain(deletes).chain(removals).collect()
    }
}

/// Returns the key at `relative` below `directory`, or `directory` itself if `relative` is empty.
fn place(directory: &Key, relative: &str) -> Key {
    if relative.is_empty() { directory.clone() } else { directory.descend(relative) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Field, Kind, Presence, UnknownKeys};

    const fn leaf(name: &'static str, aliases: &'static [&'static str]) -> Field {
        Field {
            name,
            segment: name,
            aliases,
            doc: "",
            kind: Kind::Leaf("text"),
            presence: Presence::Optional,
            secret: false,
            validated: false,
            limits: crate::value::Limits::NONE,
        }
    }

    const TABLE: &Table = &Table {
        name: "App",
        doc: "",
        prefix: None,
        unknown: UnknownKeys::Ignored,
        fields: &[
            leaf("a", &["old_a"]),
            leaf("b", &[]),
            Field { kind: Kind::Entries { key: "text", value: "text" }, ..leaf("quotas", &[]) },
        ],
    };

    fn encoded(pairs: &[(&str, &'static str)]) -> Encoded {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), Bytes::from_static(value.as_bytes()))).collect()
    }

    fn stored(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn difference_deletes_only_keys_of_schema() {
        let stored = stored(&["a", "b", "quotas/x", "quotas/y", "foreign", "quotas/deeper/z", "old_a"]);
        let old = encoded(&[("a", "1"), ("b", "2"), ("quotas/x", "3"), ("quotas/y", "4")]);
        let new = encoded(&[("a", "1"), ("quotas/x", "5")]);
        let plan = Owner::Struct(TABLE).difference(stored.iter(), &old, &new);
        assert_eq!(plan.puts, [Put::new(("quotas/x".to_owned(), Bytes::from_static(b"5")))]);
        assert_eq!(plan.deletes, ["b", "quotas/y"]);
    }

    #[test]
    fn overwrite_deletes_aliases_of_absent_field() {
        let plan = Owner::Struct(TABLE).overwrite(encoded(&[("b", "2")]));
        assert_eq!(plan.deletes, ["a", "old_a"]);
        let plan = Owner::Struct(TABLE).overwrite(encoded(&[("a", "1"), ("b", "2")]));
        assert_eq!(plan.deletes, [""; 0]);
    }

    const ENTRY: &Table = &Table {
        name: "Db",
        doc: "",
        prefix: None,
        unknown: UnknownKeys::Ignored,
        fields: &[Field { presence: Presence::Required, ..leaf("host", &[]) }, leaf("note", &["n"])],
    };

    /// A struct with an optional directory, a required one, and a map of structs.
    const WITH_DIRECTORIES: &Table = &Table {
        name: "App",
        doc: "",
        prefix: None,
        unknown: UnknownKeys::Ignored,
        fields: &[
            leaf("a", &[]),
            Field { kind: Kind::Dir(ENTRY), ..leaf("backup", &[]) },
            Field { kind: Kind::Dir(ENTRY), presence: Presence::Required, ..leaf("main", &[]) },
            Field { kind: Kind::DirMap { key: "text", table: ENTRY }, ..leaf("regions", &[]) },
        ],
    };

    fn removed(plan: &WritePlan) -> Vec<&str> {
        plan.removals.iter().map(|removal| removal.directory.as_str()).collect()
    }

    #[test]
    fn absent_struct_is_removed_as_directory() {
        let owner = Owner::Struct(WITH_DIRECTORIES);
        let new = encoded(&[("main/host", "h"), ("regions/eu/host", "h")]);
        let stored =
            stored(&["backup/host", "backup/note", "main/note", "regions/eu/note", "regions/us/host", "regions/us/n", "regions/us/x"]);
        let old = encoded(&[("backup/host", "h"), ("main/host", "h"), ("main/note", "n"), ("regions/us/host", "h")]);
        let plan = owner.difference(stored.iter(), &old, &new);
        assert_eq!(
            (removed(&plan), &plan.deletes[..]),
            (vec!["backup", "regions/us"], &["main/note".to_owned(), "regions/eu/note".to_owned()][..])
        );

        // A write that does not know the stored keys deletes all keys that may exist.
        let plan = owner.overwrite(encoded(&[("main/host", "h")]));
        assert_eq!(
            (removed(&plan), &plan.deletes[..]),
            (vec!["backup"], &["a".to_owned(), "main/note".to_owned(), "main/n".to_owned()][..])
        );
        let basis: Vec<_> = ["regions/us/host", "backup/host", "regions/us/n"].map(|key| (key.to_owned(), Revision::ZERO)).into();
        let plan = owner.difference_to_read(&basis, &old, &new);
        assert_eq!(removed(&plan), ["backup", "regions/us"]);
    }

    #[test]
    fn leftover_keys_stay_unless_struct_is_added() {
        let owner = Owner::Struct(WITH_DIRECTORIES);
        let stored = stored(&["backup/note", "regions/eu/note", "regions/us/note"]);
        let old = encoded(&[("main/host", "h")]);
        let new = encoded(&[("main/host", "h"), ("regions/us/host", "h")]);
        let plan = owner.difference(stored.iter(), &old, &new);
        assert_eq!((removed(&plan), &plan.deletes[..]), (vec![], &["regions/us/note".to_owned()][..]));
        assert_eq!(owner.added(&old, &new), ["regions/us"]);
    }

    #[test]
    fn in_steps_deletes_keys_before_directory() {
        let stored = |key: &str| {
            let revision = Revision::new(3);
            let stored =
                crate::schema::Stored { value: Bytes::new(), created: revision, modified: revision, version: None, lease: None, ttl: None };
            (key.to_owned(), stored)
        };
        let tree: Tree = ["us-x/host", "us/_x", "us/deep/er", "us/host", "us0", "v/host"].map(stored).into();
        let plan = Owner::Dirs { table: ENTRY, levels: 1 }.replace(&tree, encoded(&[("v/host", "h")]));
        assert_eq!((removed(&plan), &plan.deletes[..]), (vec!["us", "us-x"], &[][..]));
        let plan = plan.in_steps(&tree, Revision::new(5));
        assert_eq!(plan.deletes, ["us/_x", "us/deep/er", "us/host", "us-x/host"]);
        assert!(plan.removals.iter().all(|removal| removal.since == Some(Revision::new(5))));
        let whole = WritePlan { removals: vec![Removal::of("")], ..WritePlan::default() };
        assert_eq!(whole.in_steps(&tree, Revision::new(5)).deletes.len(), tree.len());
    }

    #[test]
    fn map_owns_only_keys_of_its_entries() {
        let entries = Owner::Entries { secret: false, levels: 1 };
        assert!(entries.owns("x") && entries.owns("a%2Fb") && entries.owns("_x") && entries.owns("%5Fx"));
        assert!(!entries.owns("x/y") && !entries.owns("_etcd-typed") && !entries.owns("50%"));
        let dirs = Owner::Dirs { table: TABLE, levels: 1 };
        assert!(dirs.owns("eu/a") && dirs.owns("eu/old_a"));
        assert!(!dirs.owns("eu") && !dirs.owns("eu/foreign"));
        let entries = Owner::Entries { secret: false, levels: 2 };
        assert!(entries.owns("a/b%2Fc") && !entries.owns("a") && !entries.owns("a/50%") && !entries.owns("a/b/c"));
        let dirs = Owner::Dirs { table: TABLE, levels: 2 };
        assert!(dirs.owns("x/eu/a") && !dirs.owns("eu/a") && !dirs.owns("x/50%/a"));
    }
}
