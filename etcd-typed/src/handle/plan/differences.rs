//! Decides which keys a write of differences leaves out, and which keys it must add.

use bytes::Bytes;

use super::{Owner, Put, WritePlan, is_below, nothing_below};
use crate::key::Key;
use crate::revision::Revision;
use crate::schema::{Encoded, Tree};
use crate::store::{Compare, Condition, Expiry};

impl Owner {
    /// Like [`replace`](Self::replace), without puts of keys that already have their value and this
    /// expiry.
    pub(in crate::handle) fn replace_differences(self, tree: &Tree, encoded: &Encoded, expiry: Expiry) -> WritePlan {
        let different = encoded.iter().filter(|(key, value)| !is_so(tree, key, value, expiry));
        let puts = different.map(|(key, value)| Put::new((key.clone(), value.clone()))).collect();
        WritePlan { puts, ..self.outdated(tree, encoded) }
    }

    /// Returns the conditions that the keys in `left_out` are unchanged, and that no key of the
    /// schema exists that is neither in the value nor deleted by the plan. Only for structs without
    /// maps and enums.
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

    /// Completes structs that were read as their default: `old` contains such a struct, although no
    /// key of the struct is stored. If the write changes some of its fields, adds the other fields
    /// to `puts`. Otherwise the stored struct would be incomplete.
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

/// Returns whether a key already has this value and this expiry.
fn is_so(tree: &Tree, key: &str, value: &Bytes, expiry: Expiry) -> bool {
    tree.get(key).is_some_and(|stored| stored.value == *value && stored.expiry() == expiry)
}

/// Returns the keys that already have their value and this expiry, each with its modification
/// revision.
pub(in crate::handle) fn unchanged_keys(tree: &Tree, encoded: &Encoded, expiry: Expiry) -> Vec<(String, Revision)> {
    let unchanged = encoded.iter().filter(|(key, value)| is_so(tree, key, value, expiry));
    unchanged.filter_map(|(key, _)| Some((key.clone(), tree.get(key)?.modified))).collect()
}
