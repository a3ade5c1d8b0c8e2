//! From the answer of a store straight to the entries of a map of values: one pass over it, and no tree between. What a map inside of a struct is read by
//! is `decode.rs`; both read an entry alike.

use std::collections::BTreeMap;

use super::{MapKey, key_of_segment};
use crate::error::{Error, Problem, ProblemKind, Result};
use crate::key::{self, Key};
use crate::revision::Revision;
use crate::store::KeyValue;
use crate::value::Codec;
use crate::version::{Versioned, Versions};

/// The entries that were read so far, of answers of one revision.
#[derive(Debug)]
pub(crate) struct Entries<K, V> {
    pairs: Vec<(K, V)>,
    problems: Vec<Problem>,
    /// Of all that was read.
    created: Option<Revision>,
    modified: Revision,
}

impl<K: MapKey, V> Entries<K, V> {
    pub(crate) fn new() -> Self {
        Self { pairs: Vec::new(), problems: Vec::new(), created: None, modified: Revision::ZERO }
    }

    /// Reads a page. Its memory is free afterwards: the entries hold nothing of it.
    pub(crate) fn read(&mut self, directory: &Key, codec: &Codec<V>, page: Vec<KeyValue>) {
        self.pairs.reserve(page.len());
        for kv in page {
            match entry(directory, codec, &kv) {
                None => continue,
                Some(Ok(pair)) => self.pairs.push(pair),
                Some(Err(Wrong { first, second })) => self.problems.extend(std::iter::once(first).chain(second)),
            }
            self.created = Some(self.created.map_or(kv.created, |oldest| oldest.min(kv.created)));
            self.modified = self.modified.max(kv.modified);
        }
    }

    /// The map. It knows no basis: nothing compares a whole map of values with what is there.
    ///
    /// # Errors
    ///
    /// `Invalid`, with every entry that is undecodable or whose key's name is not one of ours.
    pub(crate) fn finish(self, directory: &Key, revision: Revision) -> Result<Versioned<BTreeMap<K, V>>> {
        if !self.problems.is_empty() {
            return Err(Error::from_problems(self.problems).at(directory));
        }
        let (created, modified) = (self.created.unwrap_or_default(), self.modified);
        let versions = Versions { revision, created, modified, ..Versions::default() };
        // What is in order already, as nearly every answer is, is not compared more than once.
        Ok(Versioned::new(self.pairs.into_iter().collect(), versions))
    }
}

/// All that is wrong with an entry: its key, its value, or both.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) first: Problem,
    pub(crate) second: Option<Problem>,
}

/// The entry that a key is; none where the key is none of the map's.
pub(crate) fn entry<K: MapKey, V>(directory: &Key, codec: &Codec<V>, kv: &KeyValue) -> Option<Result<(K, V), Wrong>> {
    let segment = directory.below(&kv.key).filter(|relative| !relative.contains('/') && !key::is_hidden(relative))?;
    let problem = |(kind, reason)| Problem { key: directory.descend(segment), kind, reason, revision: Some(kv.modified) };
    let key = key_of_segment(segment).map_err(problem);
    let value = codec.decode(&kv.value).map_err(|reason| problem((ProblemKind::Undecodable, reason.to_string())));
    Some(match (key, value) {
        (Ok(key), Ok(value)) => Ok((key, value)),
        (Err(first), value) => Err(Wrong { first, second: value.err() }),
        (Ok(_), Err(first)) => Err(Wrong { first, second: None }),
    })
}
