//! The walk from a tree to a struct. It notes every problem instead of stopping at the first.

use super::{Map, MapKey, Schema, Stored, Table, Tree, key_of_segment, split_first, with_prefix};
use crate::error::{Problem, ProblemKind};
use crate::key::{self, Key};
use crate::revision::Revision;
use crate::value::Codec;

/// Reads the fields of one struct; the derive calls one method for each field, with the field's place in the table.
///
/// Every method gives none after it noted a problem.
#[derive(Debug)]
pub struct Decoder<'a> {
    directory: &'a Key,
    tree: &'a Tree,
    table: &'static Table,
    /// Where the struct lies in the tree: empty, or segments each with a `/` after it. Between two calls.
    prefix: String,
    problems: &'a mut Vec<Problem>,
    /// Each key that was read.
    basis: &'a mut Vec<(String, Revision)>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(
        directory: &'a Key,
        tree: &'a Tree,
        table: &'static Table,
        problems: &'a mut Vec<Problem>,
        basis: &'a mut Vec<(String, Revision)>,
    ) -> Self {
        Self { directory, tree, table, prefix: String::new(), problems, basis }
    }

    /// A field that must be there.
    pub fn leaf<T>(&mut self, field: usize, codec: &Codec<T>) -> Option<T> {
        match self.stored(field)? {
            Found::Value(at, stored) => self.value(at, stored, codec),
            Found::Nothing(segment) => {
                self.problem(segment, ProblemKind::Missing, format!("missing ({})", codec.type_name), None);
                None
            }
        }
    }

    /// A field with a default.
    pub fn leaf_or<T>(&mut self, field: usize, codec: &Codec<T>, default: fn() -> T) -> Option<T> {
        match self.stored(field)? {
            Found::Value(at, stored) => self.value(at, stored, codec),
            Found::Nothing(_) => Some(default()),
        }
    }

    /// An `Option` field.
    pub fn leaf_opt<T>(&mut self, field: usize, codec: &Codec<T>) -> Option<Option<T>> {
        match self.stored(field)? {
            Found::Value(at, stored) => self.value(at, stored, codec).map(Some),
            Found::Nothing(_) => Some(None),
        }
    }

    /// A nested struct.
    pub fn dir<S: Schema>(&mut self, field: usize) -> Option<S> {
        let segment = self.segment(field)?;
        self.below(segment, S::TABLE, S::decode)
    }

    /// A nested struct that is none when it has no key.
    pub fn dir_opt<S: Schema>(&mut self, field: usize) -> Option<Option<S>> {
        let segment = self.segment(field)?;
        if self.has_struct(segment, S::TABLE) { self.below(segment, S::TABLE, S::decode).map(Some) } else { Some(None) }
    }

    /// A struct whose keys lie beside this one's.
    pub fn flatten<S: Schema>(&mut self) -> Option<S> {
        self.within(S::TABLE, S::decode)
    }

    /// A map of structs.
    pub fn dir_map<M: Map<Value: Schema>>(&mut self, field: usize) -> Option<M> {
        let segment = self.segment(field)?;
        self.below(segment, Table::EMPTY, Self::all_dirs)
    }

    /// A map of values.
    pub fn entries<M: Map>(&mut self, field: usize, codec: &Codec<M::Value>) -> Option<M> {
        let segment = self.segment(field)?;
        self.below(segment, Table::EMPTY, |decoder| decoder.all_entries(*codec))
    }

    /// The map of structs that this directory is.
    pub(crate) fn all_dirs<M: Map<Value: Schema>>(&mut self) -> Option<M> {
        let mut pairs = Vec::new();
        let mut complete = true;
        for child in self.children(M::Value::TABLE) {
            let key = self.map_key::<M::Key>(child, None);
            let value = self.below(child, M::Value::TABLE, M::Value::decode);
            match (key, value) {
                (Some(key), Some(value)) => pairs.push((key, value)),
                _ => complete = false,
            }
        }
        complete.then(|| M::of(pairs))
    }

    /// The keys alone of the map of structs that this directory is.
    pub(crate) fn dir_keys<K: MapKey>(&mut self, table: &Table) -> Option<Vec<K>> {
        let children = self.children(table);
        let mut keys: Vec<K> = children.into_iter().filter_map(|child| self.map_key(child, None)).collect();
        keys.sort();
        Some(keys)
    }

    /// The directories here that have a key of the struct in them.
    fn children(&self, table: &Table) -> Vec<&'a str> {
        let mut children: Vec<&'a str> = Vec::new();
        for (relative, _) in with_prefix(self.tree, &self.prefix) {
            if let (child, Some(rest)) = split_first(&relative[self.prefix.len()..])
                && !key::is_hidden(child)
                && children.last() != Some(&child)
                && table.owns(rest)
            {
                children.push(child);
            }
        }
        children
    }

    /// The map of values that this directory is.
    pub(crate) fn all_entries<M: Map>(&mut self, codec: Codec<M::Value>) -> Option<M> {
        let mut pairs = Vec::new();
        let mut complete = true;
        let prefix = self.prefix.clone();
        for (relative, stored) in with_prefix(self.tree, &prefix) {
            let (segment, None) = split_first(&relative[prefix.len()..]) else { continue };
            if key::is_hidden(segment) {
                continue;
            }
            let key = self.map_key::<M::Key>(segment, Some(stored.modified));
            match (key, self.value(segment, stored, &codec)) {
                (Some(key), Some(value)) => pairs.push((key, value)),
                _ => complete = false,
            }
        }
        complete.then(|| M::of(pairs))
    }

    fn segment(&self, field: usize) -> Option<&'static str> {
        Some(self.table.fields.get(field)?.segment)
    }

    /// The value of a field: at its segment, or else at the first alias that is there.
    fn stored(&mut self, field: usize) -> Option<Found<'a>> {
        let field = self.table.fields.get(field)?;
        for segment in field.segments() {
            let length = self.prefix.len();
            self.prefix.push_str(segment);
            let stored = self.tree.get(&self.prefix);
            self.prefix.truncate(length);
            if let Some(stored) = stored {
                return Some(Found::Value(segment, stored));
            }
        }
        Some(Found::Nothing(field.segment))
    }

    fn value<T>(&mut self, segment: &str, stored: &Stored, codec: &Codec<T>) -> Option<T> {
        self.basis.push((format!("{}{segment}", self.prefix), stored.modified));
        match codec.decode(&stored.value) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.problem(segment, ProblemKind::Undecodable, reason.to_string(), Some(stored.modified));
                None
            }
        }
    }

    fn map_key<K: MapKey>(&mut self, segment: &str, revision: Option<Revision>) -> Option<K> {
        key_of_segment(segment).map_err(|(kind, reason)| self.problem(segment, kind, reason, revision)).ok()
    }

    fn has_struct(&self, segment: &str, table: &Table) -> bool {
        let prefix = format!("{}{segment}/", self.prefix);
        with_prefix(self.tree, &prefix).any(|(relative, _)| table.owns(&relative[prefix.len()..]))
    }

    fn below<T>(&mut self, segment: &str, table: &'static Table, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let length = self.prefix.len();
        self.prefix.push_str(segment);
        self.prefix.push('/');
        let value = self.within(table, read);
        self.prefix.truncate(length);
        value
    }

    fn within<T>(&mut self, table: &'static Table, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let outer = std::mem::replace(&mut self.table, table);
        let value = read(self);
        self.table = outer;
        value
    }

    fn problem(&mut self, segment: &str, kind: ProblemKind, reason: String, revision: Option<Revision>) {
        let key = self.directory.descend(&format!("{}{segment}", self.prefix));
        self.problems.push(Problem { key, kind, reason, revision });
    }
}

/// Where a field's value was looked for.
enum Found<'a> {
    Value(&'static str, &'a Stored),
    Nothing(&'static str),
}
