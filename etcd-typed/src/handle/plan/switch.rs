//! Writes that change the variant of an enum: everything below the enum's directory is deleted with
//! the keys of the old variant, including keys that are not in the schema.

use bytes::Bytes;

use super::{Owner, Removal, WritePlan};
use crate::key::{self, Key};
use crate::revision::Revision;
use crate::schema::{Encoded, EnumAround, Tree, split_levels};
use crate::store::{Compare, Condition};

impl Owner {
    /// Returns the enums whose directories contain a key, from the outermost to the innermost.
    pub(in crate::handle) fn enums_around(self, relative: &str) -> Vec<EnumAround> {
        match self {
            Self::Struct(table) => table.enums_around(relative, 0, true),
            Self::Flattened(table) => table.enums_around(relative, 0, false),
            Self::Dirs { table, levels } => match split_levels(relative, levels) {
                Some((child, Some(_))) => table.enums_around(relative, child.len() + 1, true),
                _ => Vec::new(),
            },
            Self::Entries { .. } => Vec::new(),
        }
    }

    fn has_enums(self) -> bool {
        match self {
            Self::Struct(table) | Self::Flattened(table) | Self::Dirs { table, .. } => table.has_enums(),
            Self::Entries { .. } => false,
        }
    }

    /// For each enum whose variant changes, adds the deletion of the stored keys to the plan.
    /// Returns the stored keys that remain. `old` returns the value of a key before the write.
    pub(super) fn sweep<'k, 'b>(
        self,
        stored: impl Iterator<Item = &'k String>,
        old: impl Fn(&str) -> Option<&'b Bytes>,
        new: &Encoded,
        plan: &mut WritePlan,
    ) -> Vec<&'k String> {
        if !self.has_enums() {
            return stored.collect();
        }
        let is_swept = |of: &EnumAround, key: &str| (of.fills || self.owns(key)) && is_switched(*of, key, &old, new);
        let mut rest = Vec::new();
        for key in stored {
            let swept = self.enums_around(key).into_iter().find(|of| is_swept(of, key));
            match swept.filter(|_| !key.split('/').any(key::is_reserved)) {
                Some(_) if new.contains_key(key) || plan.removals.last().is_some_and(|removal| removal.has(key)) => {}
                Some(of) => {
                    // One operation deletes a directory below which the new value has no key.
                    let directories = key[of.start..].match_indices('/').map(|(at, _)| &key[..of.start + at]);
                    match directories.into_iter().find(|directory| !has_below(new, directory)) {
                        Some(directory) => plan.removals.push(Removal::of(directory)),
                        None => plan.deletes.push(key.clone()),
                    }
                }
                None => rest.push(key),
            }
        }
        rest
    }

    /// Returns whether an enum around a key exists before and after the write, and its new variant
    /// does not have the key.
    pub(super) fn is_of_other_variant(self, key: &str, old: &Encoded, new: &Encoded) -> bool {
        self.enums_around(key).iter().any(|of| {
            let tag = of.tag_at(key);
            old.contains_key(&tag) && new.get(&tag).is_some_and(|tag| !of.variant_has(of.table.variant(tag), key))
        })
    }

    /// Returns whether a write changes the variant of an enum.
    pub(in crate::handle) fn switches(self, old: &Encoded, new: &Encoded) -> bool {
        let is_changed = |key: &str| self.enums_around(key).iter().any(|of| is_switched(*of, key, |tag| old.get(tag), new));
        self.has_enums() && new.keys().any(|key| is_changed(key))
    }

    /// Returns whether a key is the tag of an enum.
    fn is_tag(self, key: &str) -> bool {
        self.enums_around(key).iter().any(|of| of.tag_at(key) == key)
    }

    /// Returns the conditions that the enums around the written keys have the same variants as in
    /// `tree`. If the write changes the variant of an enum, the conditions also require that
    /// nothing below the enum has changed since `revision`.
    pub(in crate::handle) fn same_variants(self, directory: &Key, plan: &WritePlan, tree: &Tree, revision: Revision) -> Vec<Compare> {
        let mut compares: Vec<Compare> = Vec::new();
        if !self.has_enums() {
            return compares;
        }
        let written: Vec<&String> = plan.own_keys().collect();
        // A range condition detects neither the deletion of a key that the switch leaves as it is, nor
        // a restored backup in which that key is older.
        let is_left_out = |key: &&String| !written.contains(key) && !plan.removals.iter().any(|removal| removal.has(key));
        let left_out = tree.iter().filter(|(key, _)| is_left_out(key)).map(|(key, stored)| (key.clone(), stored.modified));
        let left_out: Vec<_> = left_out.collect();
        // If a removed directory contains an enum, the enum is removed with the directory.
        let removed = plan.removals.iter().map(|removal| removal.directory.as_str());
        for key in plan.own_keys().map(String::as_str).chain(removed) {
            for of in self.enums_around(key) {
                let tag = of.tag_at(key);
                let below = tag.rfind('/').map_or("", |end| &tag[..end]);
                let more = match tree.get(&tag) {
                    _ if written.contains(&&tag) => Removal::of(below).unchanged(directory, revision, &left_out),
                    Some(stored) => vec![Compare::key(&directory.descend(&tag), Condition::Modified(stored.modified))],
                    None => vec![Compare::key(&directory.descend(&tag), Condition::Absent)],
                };
                compares.extend(more.into_iter().filter(|compare| !compares.contains(compare)).collect::<Vec<_>>());
            }
        }
        compares
    }
}

/// Returns whether the new value has a key below a directory.
fn has_below(new: &Encoded, directory: &str) -> bool {
    let below = format!("{directory}/");
    new.range(below.clone()..).next().is_some_and(|(key, _)| key.starts_with(&below))
}

/// Returns whether the variant of this enum, whose directory contains `key`, changes.
fn is_switched<'b>(of: EnumAround, key: &str, old: impl Fn(&str) -> Option<&'b Bytes>, new: &Encoded) -> bool {
    let tag = of.tag_at(key);
    match (old(&tag), new.get(&tag)) {
        (Some(old), Some(new)) => of.table.variant(old) != of.table.variant(new),
        _ => false,
    }
}

impl WritePlan {
    /// Moves the tags of enums after all other keys, for a plan that is sent in several steps. So
    /// readers see the new variant of an enum only after all fields of that variant were written.
    pub(in crate::handle) fn tags_last(mut self, owner: Owner) -> Self {
        if owner.has_enums() {
            self.puts.sort_by_key(|put| owner.is_tag(&put.key).then(|| std::cmp::Reverse(put.key.matches('/').count())));
        }
        self
    }
}
