//! Reads the entries of a map one by one: a bad entry is left out, and does not fail the read.

use std::collections::BTreeMap;

use tokio::task::yield_now;

use super::{AT_ONCE, MapKey, Schema, Stored, Table, Tree, decode, decode_in_steps, key_of_segment, split_first, subtree};
use crate::error::{Problem, ProblemKind, Result};
use crate::key::{self, Key};
use crate::revision::Revision;
use crate::value::Codec;
use crate::version::{Versioned, Versions};

/// The good entries that were read so far, and the problems of the others. The revisions cover both.
struct Each<K, V> {
    entries: BTreeMap<K, V>,
    problems: Vec<Problem>,
    created: Option<Revision>,
    modified: Revision,
}

impl<K: MapKey, V> Each<K, V> {
    fn new() -> Self {
        Self { entries: BTreeMap::new(), problems: Vec::new(), created: None, modified: Revision::ZERO }
    }

    /// Adds an entry, whose keys have these stored values.
    fn add<'s>(&mut self, directory: &Key, segment: &str, value: Result<V, Vec<Problem>>, stored: impl Iterator<Item = &'s Stored>) {
        let mut newest = None;
        for stored in stored {
            self.created = Some(self.created.map_or(stored.created, |oldest| oldest.min(stored.created)));
            self.modified = self.modified.max(stored.modified);
            newest = newest.max(Some(stored.modified));
        }
        let problem = |(kind, reason)| Problem { key: directory.descend(segment), kind, reason, revision: None };
        match (key_of_segment::<K>(segment).map_err(problem), value) {
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
pub(crate) fn each_entry<K: MapKey, V>(
    directory: &Key,
    tree: &Tree,
    revision: Revision,
    codec: &Codec<V>,
) -> (Versioned<BTreeMap<K, V>>, Vec<Problem>) {
    let mut each = Each::new();
    for (relative, stored) in tree.iter().filter(|(relative, _)| !relative.contains('/') && !key::is_hidden(relative)) {
        let value = codec.decode(&stored.value).map_err(|reason| {
            let (key, reason) = (directory.descend(relative), reason.to_string());
            vec![Problem { key, kind: ProblemKind::Undecodable, reason, revision: Some(stored.modified) }]
        });
        each.add(directory, relative, value, std::iter::once(stored));
    }
    each.finish(revision)
}

/// Reads a map of structs.
pub(crate) fn each_dir<K: MapKey, S: Schema>(
    directory: &Key,
    tree: &Tree,
    revision: Revision,
) -> (Versioned<BTreeMap<K, S>>, Vec<Problem>) {
    let mut each = Each::new();
    for child in children(tree, S::TABLE) {
        let below = subtree(tree, child);
        let value = decode::<S>(&directory.descend(child), &below, revision);
        each.add(directory, child, plain(value), below.values());
    }
    each.finish(revision)
}

/// Like [`each_dir`], but yields between groups of keys, so that a large directory does not block the
/// thread.
pub(crate) async fn each_dir_in_steps<K: MapKey, S: Schema>(
    directory: &Key,
    tree: &Tree,
    revision: Revision,
) -> (Versioned<BTreeMap<K, S>>, Vec<Problem>) {
    let mut each = Each::new();
    let mut read = 0;
    for child in children(tree, S::TABLE) {
        let below = subtree(tree, child);
        read += below.len();
        if read > AT_ONCE {
            read = 0;
            yield_now().await;
        }
        let value = decode_in_steps::<S>(&directory.descend(child), &below, revision).await;
        each.add(directory, child, plain(value), below.values());
    }
    each.finish(revision)
}

fn plain<S>(value: Result<Versioned<S>>) -> Result<S, Vec<Problem>> {
    value.map(Versioned::into_inner).map_err(|error| error.problems().to_vec())
}

/// The subdirectories in which the struct exists.
fn children<'t>(tree: &'t Tree, table: &Table) -> Vec<&'t str> {
    let exists = |relative: &'t String| match split_first(relative) {
        (child, Some(rest)) if !key::is_hidden(child) && table.is_present_by(rest) => Some(child),
        _ => None,
    };
    let mut children: Vec<_> = tree.keys().filter_map(exists).collect();
    children.dedup();
    children
}
