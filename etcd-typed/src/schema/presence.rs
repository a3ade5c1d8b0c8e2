//! Decides whether an optional struct exists, and which keys belong to it. Such a struct is an
//! entry of a map of structs, or an optional directory.

use super::{Encoded, Kind, Presence, Table, Tree, is_written, split_first, split_levels, with_prefix};
use crate::key;

/// A directory that may be absent and is removed as a whole: an entry of a map of structs, or an
/// optional directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Removable<'r> {
    /// The directory, relative to the directory in which the search began.
    pub(crate) directory: &'r str,
    /// The struct in the directory.
    table: &'static Table,
    pub(crate) is_entry: bool,
}

impl Removable<'_> {
    /// Whether the struct exists in this tree.
    fn is_in(&self, tree: &Tree) -> bool {
        let prefix = format!("{}/", self.directory);
        with_prefix(tree, &prefix).any(|(relative, _)| self.table.is_present_by(&relative[prefix.len()..]))
    }

    /// Whether these stored keys show that the struct exists, under its own name or under a name
    /// that has its leading `_` escaped or unescaped.
    pub(crate) fn is_among(&self, stored: &[&String]) -> bool {
        let is_in = |directory: &str| {
            let relative = |key: &'_ &&String| {
                key.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')).is_some_and(|rest| self.table.is_present_by(rest))
            };
            stored.iter().any(|key| relative(&key))
        };
        is_in(self.directory)
            || key::with_plain_underscores(self.directory).is_some_and(|own| is_in(&own))
            || key::with_escaped_underscores(self.directory).is_some_and(|older| is_in(&older))
    }

    /// Whether `encoded` contains a key below this directory.
    pub(crate) fn is_encoded(&self, encoded: &Encoded) -> bool {
        let is_in = |directory: &str| {
            let prefix = format!("{directory}/");
            encoded.range(prefix.clone()..).next().is_some_and(|(relative, _)| relative.starts_with(&prefix))
        };
        is_in(self.directory) || key::with_plain_underscores(self.directory).is_some_and(|own| is_in(&own))
    }
}

/// Returns the reason why no read uses this key of the schema, if it is left over from a struct
/// that no longer exists. `around` lists the directories around the key.
pub(crate) fn left_over(around: &[Removable<'_>], tree: &Tree) -> Option<String> {
    let absent = around.iter().find(|removable| removable.table.has_required() && !removable.is_in(tree))?;
    let mut required = Vec::new();
    absent.table.add_required("", &mut required);
    let names = required.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let (what, keys) = (if absent.is_entry { "entry" } else { "directory" }, if required.len() == 1 { "key" } else { "keys" });
    Some(format!(
        "left over and not read: the {what} `{}` lacks its required {keys} {names}; delete the {what}, or write the missing {keys}",
        absent.directory
    ))
}

/// Returns the directories around a key in a map of structs that are removed as a whole, from the
/// outermost to the innermost.
pub(crate) fn removable_in_map<'r>(table: &'static Table, levels: usize, relative: &'r str) -> Vec<Removable<'r>> {
    let mut found = Vec::new();
    table.add_entry(relative, 0, levels, &mut found);
    found
}

impl Table {
    /// Whether this key shows that the struct exists. `removable`: true if the struct is an entry
    /// of a map, or is optional. Only its tag shows that an enum exists.
    pub(crate) fn exists_by(&self, removable: bool, relative: &str) -> bool {
        if removable || self.tag().is_some() { self.is_present_by(relative) } else { self.owns(relative) }
    }

    /// Whether a stored key, relative to the struct's directory, shows that the struct exists.
    ///
    /// If the struct has required keys, only these count. An older program may have deleted only
    /// the required keys that it knows, and left other keys. If the struct has no required key,
    /// every key of the struct counts.
    pub(crate) fn is_present_by(&self, relative: &str) -> bool {
        self.makes_present(relative, self.has_required())
    }

    /// Implements [`is_present_by`](Self::is_present_by). `required`: true if only required keys
    /// count.
    fn makes_present(&self, relative: &str, required: bool) -> bool {
        let (first, rest) = split_first(relative);
        self.fields.iter().any(|field| match (&field.kind, rest) {
            (Kind::Flatten(table), _) => table.makes_present(relative, required),
            // Only the tag shows that an enum exists.
            (Kind::Variant { .. }, _) => false,
            (Kind::Leaf(_), None) => {
                (!required || field.presence == Presence::Required) && field.segments().any(|segment| segment == first)
            }
            (_, Some(rest)) if field.segment == first => match &field.kind {
                Kind::Dir(table) if field.presence == Presence::Required => table.makes_present(rest, required),
                Kind::Dir(table) => !required && table.is_present_by(rest),
                Kind::Entries { .. } => !required && !rest.contains('/') && key::unescape(rest).is_some(),
                Kind::DirMap { table, .. } => match split_first(rest) {
                    (child, Some(rest)) => !required && key::unescape(child).is_some() && table.is_present_by(rest),
                    (_, None) => false,
                },
                Kind::Leaf(_) | Kind::Flatten(_) | Kind::Variant { .. } => false,
            },
            _ => false,
        })
    }

    /// Whether the struct has a required key.
    fn has_required(&self) -> bool {
        self.fields.iter().any(|field| match &field.kind {
            Kind::Leaf(_) => field.presence == Presence::Required,
            Kind::Dir(table) => field.presence == Presence::Required && table.has_required(),
            Kind::Flatten(table) => table.has_required(),
            Kind::Variant { .. } | Kind::DirMap { .. } | Kind::Entries { .. } => false,
        })
    }

    pub(super) fn add_required(&self, prefix: &str, required: &mut Vec<String>) {
        for field in self.fields {
            match &field.kind {
                Kind::Flatten(table) => table.add_required(prefix, required),
                _ if field.presence != Presence::Required => {}
                Kind::Leaf(_) => required.push(format!("{prefix}{}", field.segment)),
                Kind::Dir(table) => table.add_required(&format!("{prefix}{}/", field.segment), required),
                Kind::Variant { .. } | Kind::DirMap { .. } | Kind::Entries { .. } => {}
            }
        }
    }

    /// Returns the directories around a key that are removed as a whole, relative to the struct's
    /// directory, from the outermost to the innermost.
    pub(crate) fn removable_around<'r>(&self, relative: &'r str) -> Vec<Removable<'r>> {
        let mut found = Vec::new();
        self.add_removable(relative, 0, &mut found);
        found
    }

    /// Adds the directories around the key. `start` is the offset in the key at which this struct's
    /// directory ends. Returns true if the key is in one of the struct's subdirectories.
    fn add_removable<'r>(&self, relative: &'r str, start: usize, found: &mut Vec<Removable<'r>>) -> bool {
        let (first, Some(_)) = split_first(&relative[start..]) else { return false };
        let end = start + first.len();
        self.fields.iter().any(|field| match &field.kind {
            Kind::Flatten(table) | Kind::Variant { table, .. } => table.add_removable(relative, start, found),
            _ if field.segment != first => false,
            Kind::Dir(table) => {
                if field.presence != Presence::Required {
                    found.push(Removable { directory: &relative[..end], table, is_entry: false });
                }
                table.add_removable(relative, end + 1, found);
                true
            }
            Kind::DirMap { table, .. } => {
                table.add_entry(relative, end + 1, 1, found);
                true
            }
            Kind::Leaf(_) | Kind::Entries { .. } => false,
        })
    }

    /// Adds the directory of a map entry and the directories below it. `start` is the offset in the
    /// key at which the map's directory ends. `self` is the struct in the map's entries.
    fn add_entry<'r>(&'static self, relative: &'r str, start: usize, levels: usize, found: &mut Vec<Removable<'r>>) {
        if let Some((child, Some(_))) = split_levels(&relative[start..], levels)
            && is_written(child)
        {
            let end = start + child.len();
            found.push(Removable { directory: &relative[..end], table: self, is_entry: true });
            self.add_removable(relative, end + 1, found);
        }
    }
}
