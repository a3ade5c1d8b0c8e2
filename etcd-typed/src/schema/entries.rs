//! Reads a store's answer directly into the entries of a map of values, in one pass and without a
//! tree. `decode.rs` reads the maps inside of structs. Both modules read an entry in the same way.

use std::collections::BTreeMap;

use super::{MapPath, is_entry};
use crate::error::{Error, Problem, ProblemKind, Result};
use crate::key::{self, Key};
use crate::revision::Revision;
use crate::store::KeyValue;
use crate::value::Codec;
use crate::version::{Versioned, Versions};

/// The entries that were read so far, from answers at one revision.
#[derive(Debug)]
pub(crate) struct Entries<K, V> {
    pairs: Vec<(K, V)>,
    problems: Vec<Problem>,
    /// The entries whose names begin with an escaped `_`, by their names with a plain `_`. In key
    /// order, such an entry comes before the entry that replaces it.
    older: BTreeMap<String, Result<(K, V), Wrong>>,
    /// The oldest creation revision of the entries.
    created: Option<Revision>,
    modified: Revision,
}

impl<K: MapPath, V> Entries<K, V> {
    pub(crate) fn new() -> Self {
        Self { pairs: Vec::new(), problems: Vec::new(), older: BTreeMap::new(), created: None, modified: Revision::ZERO }
    }

    /// Reads a page. The entries keep no reference to it, so its memory can be freed.
    pub(crate) fn read(&mut self, directory: &Key, codec: &Codec<V>, page: Vec<KeyValue>) {
        self.pairs.reserve(page.len());
        for kv in page {
            let Some(entry) = entry(directory, codec, &kv) else { continue };
            match directory.below(&kv.key).and_then(key::with_plain_underscores) {
                Some(own) => drop(self.older.insert(own, entry)),
                None => {
                    if !self.older.is_empty() {
                        directory.below(&kv.key).and_then(|own| self.older.remove(own));
                    }
                    self.add(entry);
                }
            }
            self.created = Some(self.created.map_or(kv.created, |oldest| oldest.min(kv.created)));
            self.modified = self.modified.max(kv.modified);
        }
    }

    fn add(&mut self, entry: Result<(K, V), Wrong>) {
        match entry {
            Ok(pair) => self.pairs.push(pair),
            Err(Wrong { first, second }) => self.problems.extend(std::iter::once(first).chain(second)),
        }
    }

    /// Adds the entries whose names use the older, escaped form of `_`. If an entry with the plain
    /// form of the name exists, [`read`](Self::read) has already removed the older entry.
    fn add_older(&mut self) {
        if self.older.is_empty() {
            return;
        }
        for (_, entry) in std::mem::take(&mut self.older) {
            self.add(entry);
        }
        self.problems.sort_by(|a, b| a.key.as_bytes().cmp(b.key.as_bytes()));
    }

    /// Returns the entries without those that have a problem, and the problems. The metadata
    /// includes the revisions of both.
    pub(crate) fn finish_per_entry(mut self, revision: Revision) -> (Versioned<BTreeMap<K, V>>, Vec<Problem>) {
        self.add_older();
        let (created, modified) = (self.created.unwrap_or_default(), self.modified);
        let versions = Versions { revision, created, modified, ..Versions::default() };
        (Versioned::new(self.pairs.into_iter().collect(), versions), self.problems)
    }

    /// Returns the map. Its metadata has no basis, since no operation compares a whole map of
    /// values with the store.
    ///
    /// # Errors
    ///
    /// `Invalid`, with every entry that cannot be decoded or whose name is not valid.
    pub(crate) fn finish(mut self, directory: &Key, revision: Revision) -> Result<Versioned<BTreeMap<K, V>>> {
        self.add_older();
        if !self.problems.is_empty() {
            return Err(Error::from_problems(self.problems).at(directory));
        }
        let (created, modified) = (self.created.unwrap_or_default(), self.modified);
        let versions = Versions { revision, created, modified, ..Versions::default() };
        // Nearly every answer is already sorted. Building the map then compares each entry only
        // once.
        Ok(Versioned::new(self.pairs.into_iter().collect(), versions))
    }
}

/// The problems of an entry: of its key, its value, or both.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) first: Problem,
    pub(crate) second: Option<Problem>,
}

/// Reads the entry at a key. Returns `None` if the key does not belong to the map.
pub(crate) fn entry<K: MapPath, V>(directory: &Key, codec: &Codec<V>, kv: &KeyValue) -> Option<Result<(K, V), Wrong>> {
    let segment = directory.below(&kv.key).filter(|relative| is_entry(relative, K::LEVELS))?;
    let problem = |(kind, reason)| Problem { key: directory.descend(segment), kind, reason, revision: Some(kv.modified) };
    let key = K::of_path(segment).map_err(problem);
    let value = codec.decode(&kv.value).map_err(|reason| problem((ProblemKind::Undecodable, reason.to_string())));
    Some(match (key, value) {
        (Ok(key), Ok(value)) => Ok((key, value)),
        (Err(first), value) => Err(Wrong { first, second: value.err() }),
        (Ok(_), Err(first)) => Err(Wrong { first, second: None }),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::schema;

    /// Valid and invalid names, inside and outside of the directory.
    const KEYS: [&[u8]; 15] = [
        b"/d/1",
        b"/d/2",
        b"/d/03",
        b"/d/a%2Fb",
        b"/d/a%2fb",
        b"/d/_hidden",
        b"/d/%5Fhidden",
        b"/d/deep/er",
        b"/d/",
        b"/d",
        b"/dd/1",
        b"/d//x",
        b"/d/\xff",
        b"/d/%",
        "/d/\u{85}".as_bytes(),
    ];

    fn agree<K: MapPath>(kvs: Vec<KeyValue>, at: usize) {
        let (directory, revision) = (Key::parse("/d").unwrap(), Revision::new(99));
        let tree = schema::tree(&directory, kvs.clone());
        let walked = schema::decode_map::<BTreeMap<K, u8>, _>(&directory, &tree, revision, |decoder| decoder.all_entries(Codec::value()));
        let mut entries = Entries::new();
        let (first, second) = kvs.split_at(at.min(kvs.len()));
        for page in [first, second] {
            entries.read(&directory, &Codec::<u8>::value(), page.to_vec());
        }
        match (walked, entries.finish(&directory, revision)) {
            (Ok(walked), Ok(read)) => {
                assert_eq!((walked.created(), walked.modified(), walked.revision()), (read.created(), read.modified(), read.revision()));
                assert_eq!(walked.into_inner(), read.into_inner());
            }
            (Err(walked), Err(read)) => assert_eq!((walked.problems(), walked.key()), (read.problems(), read.key())),
            (walked, read) => panic!("{walked:?} and {read:?}"),
        }
    }

    proptest! {
        #[test]
        fn entries_match_decoded_tree(
            picked in proptest::sample::subsequence((0..KEYS.len()).collect::<Vec<_>>(), 0..=KEYS.len()),
            values in proptest::collection::vec(prop_oneof![Just("7"), Just("8"), Just("9"), Just("no")], KEYS.len()),
            at in 0..KEYS.len(),
        ) {
            let kv = |(n, value): (usize, &str)| KeyValue {
                key: Bytes::from_static(KEYS[n]),
                value: Bytes::copy_from_slice(value.as_bytes()),
                created: Revision::new(20 - n as u64),
                modified: Revision::new(30 + n as u64),
                version: None,
                lease: None,
                ttl: None,
            };
            let mut kvs: Vec<_> = picked.into_iter().zip(values).map(kv).collect();
            // Stores return sorted keys.
            kvs.sort_by(|a, b| a.key.cmp(&b.key));
            agree::<String>(kvs.clone(), at);
            agree::<u8>(kvs, at);
        }
    }
}
