//! Which keys a write of differences leaves out, and which it has to add.

use bytes::Bytes;

use super::{Owner, Put, WritePlan, is_below, nothing_below};
use crate::key::Key;
use crate::revision::Revision;
use crate::schema::{Encoded, Tree};
use crate::store::{Compare, Condition, Expiry};

impl Owner {
    /// Like [`replace`](Self::replace), without the keys that already have their value and this expiry.
    pub(in crate::handle) fn replace_differences(self, tree: &Tree, encoded: &Encoded, expiry: Expiry) -> WritePlan {
        let different = encoded.iter().filter(|(key, value)| !is_so(tree, key, value, expiry));
        let puts = different.map(|(key, value)| Put::new((key.clone(), value.clone()))).collect();
        WritePlan { puts, ..self.outdated(tree, encoded) }
    }

    /// The conditions that a write may leave out these keys, and that no key exists which the value
    /// does not contain. Only for structs without maps.
    pub(in crate::handle) fn left_out(
        self,
        directory: &Key,
        tree: &Tree,
        encoded: &Encoded,
        plan: &WritePlan,
        left_out: &[(String, Revision)],
    ) -> Vec<Compare> {
        let unchanged = left_out.iter().map(|(key, modified)| Compare::key(&directory.descend(key), Condition::Modified(*modified)));
        let mut compares: Vec<Compare> = unchanged.collect();
        for key in self.absent_keys(encoded) {
            if tree.contains_key(&key) || plan.removals.iter().any(|removal| removal.has(&key)) {
                continue;
            }
            let absent = self.removable_around(&key).into_iter().find(|removable| !removable.is_encoded(encoded));
            let compare = match absent {
                Some(removable) => nothing_below(directory, removable.directory),
                None => Compare::key(&directory.descend(&key), Condition::Absent),
            };
            if compares.last() != Some(&compare) {
                compares.push(compare);
            }
        }
        compares
    }

    /// Adds the other keys of each directory that is about to get its first keys, although `old` has it:
    /// its default was read. With the changed keys alone it would be incomplete.
    pub(super) fn complete_defaults(self, stored: &[&String], old: &Encoded, new: &Encoded, puts: &mut Encoded) {
        let mut added: Vec<String> = Vec::new();
        for key in puts.keys().filter(|key| !added.iter().any(|directory| is_below(directory, key))).collect::<Vec<_>>() {
            let around = self.removable_around(key);
            let by_default = around.iter().find(|removable| removable.is_encoded(old) && !removable.is_among(stored));
            added.extend(by_default.map(|removable| removable.directory.to_owned()));
        }
        puts.extend(
            new.iter()
                .filter(|(key, _)| added.iter().any(|directory| is_below(directory, key)))
                .map(|(key, bytes)| (key.clone(), bytes.clone())),
        );
    }
}

/// Whether a key already has this value and this expiry.
fn is_so(tree: &Tree, key: &str, value: &Bytes, expiry: Expiry) -> bool {
    tree.get(key).is_some_and(|stored| stored.value == *value && stored.expiry() == expiry)
}

/// The keys that already have their value and this expiry, and when each was written.
pub(in crate::handle) fn unchanged_keys(tree: &Tree, encoded: &Encoded, expiry: Expiry) -> Vec<(String, Revision)> {
    let unchanged = encoded.iter().filter(|(key, value)| is_so(tree, key, value, expiry));
    unchanged.filter_map(|(key, _)| Some((key.clone(), tree.get(key)?.modified))).collect()
}
