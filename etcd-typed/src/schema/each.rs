//! Reads the entries of a map one by one. A bad entry is left out and does not make the read fail.

use std::collections::BTreeMap;

use tokio::task::yield_now;

use super::{
    AT_ONCE, MapPath, Schema, Stored, Table, Tree, decode, decode_in_steps, is_entry, is_replaced, split_levels, subtree, with_prefix,
};
use crate::error::{Problem, ProblemKind, Result};
use crate::key::Key;
use crate::revision::Revision;
use crate::value::Codec;
use crate::version::{Versioned, Versions};

/// The good entries that were read so far, and the problems of the others. The revisions are those
/// of all entries, good and bad.
struct Each<K, V> {
    entries: BTreeMap<K, V>,
    problems: Vec<Problem>,
    created: Option<Revision>,
    modified: Revision,
}

impl<K: MapPath, V> Each<K, V> {
    fn new() -> Self {
        Self { entries: BTreeMap::new(), problems: Vec::new(), created: None, modified: Revision::ZERO }
    }

    /// Includes the revisions of these stored values, and returns the revision of the newest.
    fn cover<'s>(&mut self, stored: impl Iterator<Item = &'s Stored>) -> Option<Revision> {
        let mut newest = None;
        for stored in stored {
            self.created = Some(self.created.map_or(stored.created, |oldest| oldest.min(stored.created)));
            self.modified = self.modified.max(stored.modified);
            newest = newest.max(Some(stored.modified));
        }
        newest
    }

    /// Adds an entry. `stored`: the values of its keys.
    fn add<'s>(&mut self, directory: &Key, path: &str, value: Result<V, Vec<Problem>>, stored: impl Iterator<Item = &'s Stored>) {
        let newest = self.cover(stored);
        let problem = |(kind, reason)| Problem { key: directory.descend(path), kind, reason, revision: None };
        match (K::of_path(path).map_err(problem), value) {
            (Ok(key), Ok(value)) => {
                self.entries.insert(key, value);
            }
            (key, value) => {
                let found = key.err().into_iter().chain(value.err().into_iter().flatten());
                self.problems.extend(found.map(|problem| Problem { revision: problem.revision.or(newest), ..problem }));
            }
        }
    }

    fn finish(self, revision: Revision) -> (Versioned<BTreeMap<K, V>>, Vec<Problem>) {
        let created = self.created.unwrap_or_default();
        let versions = Versions { revision, created, modified: self.modified, ..Versions::default() };
        (Versioned::new(self.entries, versions), self.problems)
    }
}

/// Reads a map of values.
pub(crate) fn each_entry<K: MapPath, V>(
    directory: &Key,
    tree: &Tree,
    revision: Revision,
    codec: &Codec<V>,
) -> (Versioned<BTreeMap<K, V>>, Vec<Problem>) {
    let mut each = Each::new();
    for (relative, stored) in tree.iter().filter(|(relative, _)| is_entry(relative, K::LEVELS)) {
        if is_replaced(relative, |own| tree.contains_key(own)) {
            each.cover(std::iter::once(stored));
            continue;
        }
        let value = codec.decode(&stored.value).map_err(|reason| {
            let (key, reason) = (directory.descend(relative), reason.to_string());
            vec![Problem { key, kind: ProblemKind::Undecodable, reason, revision: Some(stored.modified) }]
        });
        each.add(directory, relative, value, std::iter::once(stored));
    }
    each.finish(revision)
}

/// Reads a map of structs.
pub(crate) fn each_dir<K: MapPath, S: Schema>(
    directory: &Key,
    tree: &Tree,
    revision: Revision,
) -> (Versioned<BTreeMap<K, S>>, Vec<Problem>) {
    let mut each = Each::new();
    for child in children(tree, S::TABLE, K::LEVELS) {
        let below = subtree(tree, child);
        if is_replaced_dir(tree, child, S::TABLE) {
            each.cover(below.values());
            continue;
        }
        let value = decode::<S>(&directory.descend(child), &below, revision);
        each.add(directory, child, plain(value), below.values());
    }
    each.finish(revision)
}

/// Like [`each_dir`], but yields between groups of keys, so that a large directory does not block the
/// thread.
pub(crate) async fn each_dir_in_steps<K: MapPath, S: Schema>(
    directory: &Key,
    tree: &Tree,
    revision: Revision,
) -> (Versioned<BTreeMap<K, S>>, Vec<Problem>) {
    let mut each = Each::new();
    let mut read = 0;
    for child in children(tree, S::TABLE, K::LEVELS) {
        let below = subtree(tree, child);
        read += below.len();
        if read > AT_ONCE {
            read = 0;
            yield_now().await;
        }
        if is_replaced_dir(tree, child, S::TABLE) {
            each.cover(below.values());
            continue;
        }
        let value = decode_in_steps::<S>(&directory.descend(child), &below, revision).await;
        each.add(directory, child, plain(value), below.values());
    }
    each.finish(revision)
}

fn plain<S>(value: Result<Versioned<S>>) -> Result<S, Vec<Problem>> {
    value.map(Versioned::into_inner).map_err(|error| error.problems().to_vec())
}

/// Returns the subdirectories in which the struct exists.
fn children<'t>(tree: &'t Tree, table: &Table, levels: usize) -> Vec<&'t str> {
    let exists = |relative: &'t String| match split_levels(relative, levels) {
        Some((child, Some(rest))) if table.is_present_by(rest) => Some(child),
        _ => None,
    };
    let mut children: Vec<_> = tree.keys().filter_map(exists).collect();
    children.dedup();
    children
}

/// Whether the name of this subdirectory starts with an escaped `_`, and the same struct also
/// exists under the name with a plain `_`.
fn is_replaced_dir(tree: &Tree, child: &str, table: &Table) -> bool {
    is_replaced(child, |own| {
        let own = format!("{own}/");
        with_prefix(tree, &own).any(|(relative, _)| table.is_present_by(&relative[own.len()..]))
    })
}
