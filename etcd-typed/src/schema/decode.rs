//! The walk from a tree to a struct. It notes every problem instead of stopping at the first.

use super::{Map, MapKey, Schema, Stored, Table, Tree, Validation, key_of_segment, place, split_first, validated, with_prefix};
use crate::error::{Error, Problem, ProblemKind, Result};
use crate::key::{self, Key};
use crate::revision::{LeaseId, Revision};
use crate::value::{Codec, ValueError, contained};
use crate::version::{Versioned, Versions};

/// Reads the fields of one struct; the derive makes one call for each directory or map, with the field's place in the table, and one for all leaves that
/// follow one another.
///
/// Every method gives none after it noted a problem.
#[derive(Debug)]
pub struct Decoder<'a> {
    directory: &'a Key,
    tree: &'a Tree,
    table: &'static Table,
    /// Where the struct lies in the tree: empty, or segments each with a `/` after it. Between two calls.
    prefix: String,
    problems: Vec<Problem>,
    /// Each key that was read.
    basis: Vec<(String, Revision)>,
    /// Of those the oldest.
    created: Option<Revision>,
    /// The lease that those are attached to, as long as it is the same one.
    lease: Option<LeaseId>,
    validation: Validation,
}

impl<'a> Decoder<'a> {
    // It would be inlined into every reading of a struct.
    #[inline(never)]
    pub(super) fn new(directory: &'a Key, tree: &'a Tree, validation: Validation) -> Self {
        let (problems, basis) = (Vec::new(), Vec::new());
        Self { directory, tree, table: Table::EMPTY, prefix: String::new(), problems, basis, created: None, lease: None, validation }
    }

    /// What was read, if nothing is wrong with it. As in [`whole`](Self::whole), what does not need to know the type is in functions that are compiled once.
    pub(super) fn finish<T>(self, value: Option<T>, revision: Revision) -> Result<Versioned<T>> {
        let Some(value) = value else { return Err(self.invalid()) };
        let versions = self.versions(revision)?;
        Ok(Versioned::new(value, versions))
    }

    fn invalid(self) -> Error {
        Error::from_problems(self.problems).at(self.directory)
    }

    /// Of all that was read.
    fn versions(self, revision: Revision) -> Result<Versions> {
        if !self.problems.is_empty() {
            return Err(self.invalid());
        }
        let created = self.created.unwrap_or_default();
        let modified = self.basis.iter().map(|(_, modified)| *modified).max().unwrap_or_default();
        Ok(Versions { revision, created, modified, lease: self.lease, basis: self.basis.into(), ..Versions::default() })
    }

    /// Every problem, and each key that was read.
    pub(super) fn into_found(self) -> (Vec<Problem>, Vec<(String, Revision)>) {
        (self.problems, self.basis)
    }

    /// A field that must be there, or has a default.
    pub(super) fn leaf<T>(&mut self, field: usize, codec: &Codec<T>, default: Option<fn() -> T>) -> Option<T> {
        match (self.stored(field)?, default) {
            (Found::Value(at, stored), _) => self.value(at, stored, codec),
            (Found::Nothing(segment), Some(default)) => match contained("the default", || Ok(default())) {
                Ok(value) => {
                    self.check(segment, &value, codec, None);
                    Some(value)
                }
                Err(reason) => {
                    self.problem(segment, ProblemKind::Missing, format!("missing, and {}", codec.masked(reason)), None);
                    None
                }
            },
            (Found::Nothing(segment), None) => {
                self.problem(segment, ProblemKind::Missing, format!("missing ({})", codec.type_name), None);
                None
            }
        }
    }

    /// An `Option` field.
    pub(super) fn leaf_opt<T>(&mut self, field: usize, codec: &Codec<T>) -> Option<Option<T>> {
        match self.stored(field)? {
            Found::Value(at, stored) => self.value(at, stored, codec).map(Some),
            Found::Nothing(_) => Some(None),
        }
    }

    /// A nested struct.
    pub fn dir<S: Schema>(&mut self, field: usize) -> Option<S> {
        let segment = self.segment(field)?;
        self.below(segment, Self::whole)
    }

    /// A nested struct that may be absent.
    pub fn dir_opt<S: Schema>(&mut self, field: usize) -> Option<Option<S>> {
        let segment = self.segment(field)?;
        if self.has_struct(segment, S::TABLE) { self.below(segment, Self::whole).map(Some) } else { Some(None) }
    }

    /// A struct whose keys lie beside this one's.
    pub fn flatten<S: Schema>(&mut self) -> Option<S> {
        self.whole()
    }

    /// A map of structs.
    pub fn dir_map<M: Map<Value: Schema>>(&mut self, field: usize) -> Option<M> {
        let segment = self.segment(field)?;
        self.below(segment, Self::all_dirs)
    }

    /// A map of values.
    pub fn entries<M: Map>(&mut self, field: usize, codec: &Codec<M::Value>) -> Option<M> {
        let segment = self.segment(field)?;
        self.below(segment, |decoder| decoder.all_entries(*codec))
    }

    /// A struct at this place, with the validation of the whole if all of it could be read.
    pub(crate) fn whole<S: Schema>(&mut self) -> Option<S> {
        let outer = self.enter(S::TABLE);
        let value = S::decode(self);
        let verdict = match &value {
            Some(value) if self.validation == Validation::Run => validated(value),
            _ => Ok(()),
        };
        self.leave(outer, verdict);
        value
    }

    /// Begins with a struct at this place.
    fn enter(&mut self, table: &'static Table) -> Outer {
        Outer { table: std::mem::replace(&mut self.table, table), read: self.basis.len() }
    }

    /// It is read, and this is what its validation says.
    fn leave(&mut self, outer: Outer, verdict: std::result::Result<(), ValueError>) {
        let table = std::mem::replace(&mut self.table, outer.table);
        if let Err(reason) = verdict {
            let newest = self.basis.iter().skip(outer.read).map(|(_, modified)| *modified).max();
            self.problem("", ProblemKind::Rejected, table.masked(reason).to_string(), newest);
        }
    }

    /// The map of structs that this directory is.
    pub(crate) fn all_dirs<M: Map<Value: Schema>>(&mut self) -> Option<M> {
        let mut pairs = Vec::new();
        let mut complete = true;
        for child in self.children(M::Value::TABLE) {
            let key = self.map_key::<M::Key>(child, None);
            let value = self.below(child, Self::whole::<M::Value>);
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

    /// The directories here in which the struct exists.
    fn children(&self, table: &Table) -> Vec<&'a str> {
        let mut children: Vec<&'a str> = Vec::new();
        for (relative, _) in with_prefix(self.tree, &self.prefix) {
            if let (child, Some(rest)) = split_first(&relative[self.prefix.len()..])
                && !key::is_hidden(child)
                && children.last() != Some(&child)
                && table.is_present_by(rest)
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
        self.lease = stored.shared_lease().filter(|lease| self.basis.is_empty() || self.lease == Some(*lease));
        self.basis.push(([&self.prefix, segment].concat(), stored.modified));
        self.created = Some(self.created.map_or(stored.created, |oldest| oldest.min(stored.created)));
        match codec.decode(&stored.value) {
            Ok(value) => {
                self.check(segment, &value, codec, Some(stored.modified));
                Some(value)
            }
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
        with_prefix(self.tree, &prefix).any(|(relative, _)| table.is_present_by(&relative[prefix.len()..]))
    }

    fn below<T>(&mut self, segment: &str, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let length = self.prefix.len();
        self.prefix.push_str(segment);
        self.prefix.push('/');
        let value = read(self);
        self.prefix.truncate(length);
        value
    }

    /// A value that fails its validation is noted and still read: the struct that it is in may be wrong in another way.
    fn check<T>(&mut self, segment: &str, value: &T, codec: &Codec<T>, revision: Option<Revision>) {
        if self.validation == Validation::Run
            && let Err(reason) = codec.validate(value)
        {
            self.problem(segment, ProblemKind::Rejected, reason.to_string(), revision);
        }
    }

    fn problem(&mut self, segment: &str, kind: ProblemKind, reason: String, revision: Option<Revision>) {
        let key = place(self.directory, &self.prefix, segment);
        self.problems.push(Problem { key, kind, reason, revision });
    }
}

/// The struct around the one that is being read.
struct Outer {
    table: &'static Table,
    /// How many keys were read before.
    read: usize,
}

/// Where a field's value was looked for.
enum Found<'a> {
    Value(&'static str, &'a Stored),
    Nothing(&'static str),
}
