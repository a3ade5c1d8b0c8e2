//! Converts a tree to a struct. Records every problem instead of stopping at the first.

mod gather;

use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) use self::gather::Gathered;
use super::{
    Encoder, Fallback, Map, MapPath, Schema, Stored, Table, Tree, UNKNOWN, UnknownKeys, Validation, is_entry, is_replaced, place,
    split_levels, validated, with_prefix,
};
use crate::error::{Error, Problem, ProblemKind, Result};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::value::{Codec, ValueError, contained};
use crate::version::{Versioned, Versions};

/// Reads the fields of one struct. The derive generates one call for each directory or map, with
/// the index of the field in the table, and one call for each group of adjacent leaves (fields with
/// one value).
///
/// Every method returns `None` after it has recorded a problem.
#[derive(Debug)]
pub struct Decoder<'a> {
    directory: &'a Key,
    pub(super) tree: &'a Tree,
    pub(super) table: &'static Table,
    /// The position of the struct in the tree: empty, or segments that each end with `/`. A method
    /// may extend it, but restores it before it returns.
    pub(super) prefix: String,
    pub(super) found: Found,
    validation: Validation,
    /// The maps that earlier calls have read.
    pub(super) gathered: Gathered<'a>,
    /// If set, the decoder reads only maps, and at most this many more of their keys.
    pub(super) left: Option<usize>,
    /// The fields that have no key, but do not have their default either: such a field is `None`,
    /// or a directory of a struct whose fields are all `None`.
    nones: Option<Arc<BTreeSet<String>>>,
}

/// The problems and the metadata that were found so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    problems: Vec<Problem>,
    /// Each key that was read, with its modification revision.
    basis: Vec<(String, Revision)>,
    /// The oldest creation revision of these keys.
    created: Option<Revision>,
    /// The lease of these keys, if they all have the same lease.
    lease: Option<LeaseId>,
}

impl Found {
    /// Appends the problems and the metadata of a later part.
    pub(super) fn append(&mut self, mut later: Self) {
        if !later.basis.is_empty() {
            self.lease = later.lease.filter(|lease| self.basis.is_empty() || self.lease == Some(*lease));
        }
        self.problems.append(&mut later.problems);
        self.basis.append(&mut later.basis);
        self.created = [self.created, later.created].into_iter().flatten().min();
    }
}

impl<'a> Decoder<'a> {
    // If inlining were allowed, the compiler would copy this function into the decoder of every
    // struct.
    #[inline(never)]
    pub(super) fn new(directory: &'a Key, tree: &'a Tree, validation: Validation) -> Self {
        let (found, gathered) = (Found::default(), Gathered::default());
        Self { directory, tree, table: Table::EMPTY, prefix: String::new(), found, validation, gathered, left: None, nones: None }
    }

    /// Makes each of these fields `None` if it has no key, whatever its default.
    pub(super) fn with_nones(&mut self, nones: Arc<BTreeSet<String>>) -> &mut Self {
        self.nones = Some(nones);
        self
    }

    /// Uses the maps that earlier calls have read, instead of reading them again.
    pub(super) fn take(&mut self, gathered: Gathered<'a>) {
        self.gathered = gathered;
    }

    /// Returns the value, or an error if a problem was recorded. Code that does not depend on the
    /// type is in separate functions, which are compiled only once.
    pub(super) fn finish<T>(self, value: Option<T>, revision: Revision) -> Result<Versioned<T>> {
        let Some(value) = value else { return Err(self.invalid()) };
        let versions = self.versions(revision)?;
        Ok(Versioned::new(value, versions))
    }

    fn invalid(self) -> Error {
        Error::from_problems(self.found.problems).at(self.directory)
    }

    /// Returns the metadata of all keys that were read.
    fn versions(self, revision: Revision) -> Result<Versions> {
        if !self.found.problems.is_empty() {
            return Err(self.invalid());
        }
        let Found { basis, created, lease, .. } = self.found;
        let created = created.unwrap_or_default();
        let modified = basis.iter().map(|(_, modified)| *modified).max().unwrap_or_default();
        Ok(Versions { revision, created, modified, lease, basis: basis.into(), ..Versions::default() })
    }

    /// Returns every problem, and each key that was read with its modification revision.
    pub(super) fn into_found(self) -> (Vec<Problem>, Vec<(String, Revision)>) {
        (self.found.problems, self.found.basis)
    }

    /// Reads the tag of an enum with `read`. The tag is also read if only maps are read, since it
    /// decides which maps the enum has.
    pub(super) fn tag_value<T>(&mut self, read: impl FnOnce(&Table, &[u8]) -> std::result::Result<T, ValueError>) -> Option<T> {
        let (table, segment) = (self.table, self.segment(0)?);
        let stored = self.tree.get(&[&self.prefix, segment].concat());
        if self.left.is_some() {
            return read(table, &stored?.value).ok();
        }
        let Some(stored) = stored else {
            self.problem(segment, ProblemKind::Missing, format!("missing ({})", table.tag_type()), None);
            return None;
        };
        self.note(segment, stored);
        let value = read(table, &stored.value);
        value.map_err(|reason| self.problem(segment, ProblemKind::Undecodable, reason.to_string(), Some(stored.modified))).ok()
    }

    /// Reads a required field, or a field with a default.
    pub(super) fn leaf<T>(&mut self, field: usize, codec: &Codec<T>, default: Fallback<T>) -> Option<T> {
        let segment = match self.stored(field)? {
            FieldLookup::Value(at, stored) => return self.value(at, stored, codec),
            FieldLookup::Nothing(segment) => segment,
        };
        let value = self.default(segment, codec, default)?;
        match &value {
            Some(value) => self.check(segment, value, codec, None),
            None => self.problem(segment, ProblemKind::Missing, format!("missing ({})", codec.type_name), None),
        }
        value
    }

    /// Reads an `Option` field.
    pub(super) fn leaf_opt<T>(&mut self, field: usize, codec: &Codec<T>) -> Option<Option<T>> {
        match self.stored(field)? {
            FieldLookup::Value(at, stored) => self.value(at, stored, codec).map(Some),
            FieldLookup::Nothing(_) => Some(None),
        }
    }

    /// Reads an `Option` field with a default.
    pub(super) fn leaf_opt_or<T>(&mut self, field: usize, codec: &Codec<T>, default: fn() -> Option<T>) -> Option<Option<T>> {
        match self.stored(field)? {
            FieldLookup::Value(at, stored) => self.value(at, stored, codec).map(Some),
            FieldLookup::Nothing(segment) => {
                if self.is_none(segment) {
                    return Some(None);
                }
                let value = self.default(segment, codec, Fallback::Maybe(default))?;
                if let Some(value) = &value {
                    self.check(segment, value, codec, None);
                }
                Some(value)
            }
        }
    }

    /// Returns the default of a field without a key, if it has one.
    fn default<T>(&mut self, segment: &str, codec: &Codec<T>, default: Fallback<T>) -> Option<Option<T>> {
        let value = contained("the default", || Ok(default.value()));
        value.map_err(|reason| self.problem(segment, ProblemKind::Missing, format!("missing, and {}", codec.masked(reason)), None)).ok()
    }

    /// Reads a nested struct.
    pub fn dir<S: Schema>(&mut self, field: usize) -> Option<S> {
        let segment = self.segment(field)?;
        self.below(segment, Self::whole)
    }

    /// Reads a nested struct that may be absent.
    pub fn dir_opt<S: Schema>(&mut self, field: usize) -> Option<Option<S>> {
        let segment = self.segment(field)?;
        if self.has_struct(segment, S::TABLE) { self.below(segment, Self::whole).map(Some) } else { Some(None) }
    }

    /// Reads a nested struct with a default. The default applies if the struct does not exist.
    /// Whether it exists is decided as for a struct that may be absent.
    pub fn dir_or<S: Schema>(&mut self, field: usize, default: fn() -> S) -> Option<S> {
        self.dir_opt_or(field, Fallback::Always(default))?
    }

    /// Reads a nested struct that may be absent, with a default.
    pub fn dir_opt_or<S: Schema>(&mut self, field: usize, default: Fallback<S>) -> Option<Option<S>> {
        let segment = self.segment(field)?;
        if self.has_struct(segment, S::TABLE) {
            return self.below(segment, Self::whole).map(Some);
        }
        if self.left.is_some() {
            return None;
        }
        if self.is_none(segment) {
            return match default {
                Fallback::Always(_) => self.below(segment, Self::whole).map(Some),
                Fallback::Maybe(_) | Fallback::None => Some(None),
            };
        }
        let value = contained("the default", || Ok(default.value()));
        let value = value
            .map_err(|reason| self.problem(segment, ProblemKind::Missing, format!("missing, and {}", S::TABLE.masked(reason)), None))
            .ok()?;
        if let (Some(value), Validation::Run) = (&value, self.validation) {
            let prefix = format!("{}{segment}/", self.prefix);
            self.found.problems.extend(Encoder::problems_of(self.directory, prefix, value));
        }
        Some(value)
    }

    /// Whether the base of a live view has `None` for this field, or a struct without any key for
    /// this directory.
    fn is_none(&self, segment: &str) -> bool {
        self.nones.as_ref().is_some_and(|nones| nones.contains(&[&self.prefix, segment].concat()))
    }

    /// Reads a struct whose keys are in this struct's own directory.
    pub fn flatten<S: Schema>(&mut self) -> Option<S> {
        self.fields(false)
    }

    /// Reads a map of structs.
    pub fn dir_map<M: Map<Value: Schema>>(&mut self, field: usize) -> Option<M> {
        let segment = self.segment(field)?;
        self.below(segment, Self::all_dirs)
    }

    /// Reads a map of values.
    pub fn entries<M: Map>(&mut self, field: usize, codec: &Codec<M::Value>) -> Option<M> {
        let segment = self.segment(field)?;
        self.below(segment, |decoder| decoder.all_entries(*codec))
    }

    /// Reads a struct at this position. Validates it as a whole if all its fields could be read.
    pub(crate) fn whole<S: Schema>(&mut self) -> Option<S> {
        self.fields(true)
    }

    /// Records a problem for each unknown key in this directory. Returns true if there is no
    /// unknown key.
    #[inline(never)]
    fn refuse_unknown_keys(&mut self, table: &'static Table) -> bool {
        if self.left.is_some() {
            return true;
        }
        let length = self.prefix.len();
        let unknown = with_prefix(self.tree, &self.prefix).filter(|(relative, _)| table.is_unknown_here(&relative[length..]));
        let before = self.found.problems.len();
        self.found.problems.extend(unknown.map(|(relative, stored)| Problem {
            key: self.directory.descend(relative),
            kind: ProblemKind::Unknown,
            reason: UNKNOWN.to_owned(),
            revision: Some(stored.modified),
        }));
        self.found.problems.len() == before
    }

    /// Reads the fields of a struct at this position. `is_whole`: true if all keys of the directory
    /// belong to the struct. This function is compiled for each struct, so all code that does not
    /// depend on the struct is in [`enter`](Self::enter) and [`leave`](Self::leave).
    fn fields<S: Schema>(&mut self, is_whole: bool) -> Option<S> {
        let outer = self.enter(S::TABLE);
        let value = S::decode(self);
        let verdict = match &value {
            Some(value) if self.validation == Validation::Run => validated(value),
            _ => Ok(()),
        };
        if self.leave(outer, verdict, is_whole) { value } else { None }
    }

    /// Starts reading a struct at this position.
    fn enter(&mut self, table: &'static Table) -> Outer {
        Outer { table: std::mem::replace(&mut self.table, table), read: self.found.basis.len() }
    }

    /// Ends reading a struct, and records a failed validation. Returns `false` if the struct
    /// refuses unknown keys and its directory has one.
    fn leave(&mut self, outer: Outer, verdict: std::result::Result<(), ValueError>, is_whole: bool) -> bool {
        let table = std::mem::replace(&mut self.table, outer.table);
        if let Err(reason) = verdict {
            let newest = self.found.basis.iter().skip(outer.read).map(|(_, modified)| *modified).max();
            self.problem("", ProblemKind::Rejected, table.masked(reason).to_string(), newest);
        }
        !is_whole || table.unknown != UnknownKeys::Refused || self.refuse_unknown_keys(table)
    }

    /// Reads this directory as a map of structs.
    pub(crate) fn all_dirs<M: Map<Value: Schema>>(&mut self) -> Option<M> {
        if self.left.is_some() {
            self.gather_dirs::<M>();
            return None;
        }
        if let Some((found, pairs)) = self.gathered.take_map::<M>(&self.prefix) {
            self.found.append(found);
            return pairs.map(M::of);
        }
        let mut pairs = Vec::new();
        let mut complete = true;
        for child in self.children(M::Value::TABLE, M::Key::LEVELS) {
            match self.one_dir(child) {
                Some(Some(pair)) => pairs.push(pair),
                Some(None) => complete = false,
                None => {}
            }
        }
        complete.then(|| M::of(pairs))
    }

    /// Reads this directory as a map of structs, and returns only the map's keys.
    pub(crate) fn dir_keys<K: MapPath>(&mut self, table: &Table) -> Option<Vec<K>> {
        let children = self.children(table, K::LEVELS);
        let read = children.into_iter().filter(|child| !self.is_replaced(child, table)).collect::<Vec<_>>();
        let mut keys: Vec<K> = read.into_iter().filter_map(|child| self.map_key(child, None)).collect();
        keys.sort();
        Some(keys)
    }

    /// Returns the subdirectories in which the struct exists.
    pub(super) fn children(&self, table: &Table, levels: usize) -> Vec<&'a str> {
        let mut children: Vec<&'a str> = Vec::new();
        for (relative, _) in with_prefix(self.tree, &self.prefix) {
            if let Some((child, Some(rest))) = split_levels(&relative[self.prefix.len()..], levels)
                && children.last() != Some(&child)
                && table.is_present_by(rest)
            {
                children.push(child);
            }
        }
        children
    }

    /// Reads this directory as a map of values.
    pub(crate) fn all_entries<M: Map>(&mut self, codec: Codec<M::Value>) -> Option<M> {
        if self.left.is_some() {
            self.gather_entries::<M>(codec);
            return None;
        }
        if let Some((found, pairs)) = self.gathered.take_map::<M>(&self.prefix) {
            self.found.append(found);
            return pairs.map(M::of);
        }
        let mut pairs = Vec::new();
        let mut complete = true;
        let prefix = self.prefix.clone();
        for (relative, stored) in with_prefix(self.tree, &prefix) {
            match self.one_entry(&relative[prefix.len()..], stored, &codec) {
                Some(Some(pair)) => pairs.push(pair),
                Some(None) => complete = false,
                None => {}
            }
        }
        complete.then(|| M::of(pairs))
    }

    /// Reads one entry of a map of values. Returns `None` if the key does not belong to the map,
    /// and `Some(None)` if the entry has a problem.
    pub(super) fn one_entry<K: MapPath, V>(&mut self, name: &str, stored: &Stored, codec: &Codec<V>) -> Option<Option<(K, V)>> {
        if !is_entry(name, K::LEVELS) {
            return None;
        }
        if is_replaced(name, |own| self.tree.contains_key(&[&self.prefix, own].concat())) {
            self.note(name, stored);
            return None;
        }
        let key = self.map_key::<K>(name, Some(stored.modified));
        Some(key.zip(self.value(name, stored, codec)))
    }

    /// Reads one struct of a map. Returns `None` if the entry is read under another name, and
    /// `Some(None)` if it has a problem.
    pub(super) fn one_dir<K: MapPath, S: Schema>(&mut self, child: &str) -> Option<Option<(K, S)>> {
        if self.is_replaced(child, S::TABLE) {
            self.below(child, |decoder| decoder.note_keys(S::TABLE));
            return None;
        }
        let key = self.map_key::<K>(child, None);
        Some(key.zip(self.below(child, Self::whole::<S>)))
    }

    /// Whether the name of this map entry starts with an escaped `_`, and the same struct also
    /// exists under the name with a plain `_`.
    pub(super) fn is_replaced(&self, child: &str, table: &Table) -> bool {
        is_replaced(child, |own| self.has_struct(own, table))
    }

    /// Adds the keys of a struct that is not read to the keys that were read. So a write that
    /// removes the entry also knows these keys.
    fn note_keys(&mut self, table: &'static Table) -> Option<()> {
        let (tree, length) = (self.tree, self.prefix.len());
        for (relative, stored) in with_prefix(tree, &self.prefix.clone()) {
            let rest = &relative[length..];
            if table.owns(rest) {
                self.note(rest, stored);
            }
        }
        Some(())
    }

    fn segment(&self, field: usize) -> Option<&'static str> {
        Some(self.table.fields.get(field)?.segment)
    }

    /// Finds the stored value of a field: at its own segment, or at the first alias that exists.
    fn stored(&mut self, field: usize) -> Option<FieldLookup<'a>> {
        if self.left.is_some() {
            return None;
        }
        let field = self.table.fields.get(field)?;
        for segment in field.segments() {
            let length = self.prefix.len();
            self.prefix.push_str(segment);
            let stored = self.tree.get(&self.prefix);
            self.prefix.truncate(length);
            if let Some(stored) = stored {
                return Some(FieldLookup::Value(segment, stored));
            }
        }
        Some(FieldLookup::Nothing(field.segment))
    }

    fn value<T>(&mut self, segment: &str, stored: &Stored, codec: &Codec<T>) -> Option<T> {
        self.note(segment, stored);
        match codec.decode(&stored.value) {
            Ok(value) => {
                self.check(segment, &value, codec, stored.written());
                Some(value)
            }
            Err(reason) => {
                self.problem(segment, ProblemKind::Undecodable, reason.to_string(), stored.written());
                None
            }
        }
    }

    /// Adds a key to the keys that were read. Skips a value that is not in the store, and so has no
    /// key there.
    fn note(&mut self, segment: &str, stored: &Stored) {
        if stored.written().is_none() {
            return;
        }
        let found = &mut self.found;
        found.lease = stored.shared_lease().filter(|lease| found.basis.is_empty() || found.lease == Some(*lease));
        found.basis.push(([&self.prefix, segment].concat(), stored.modified));
        found.created = Some(found.created.map_or(stored.created, |oldest| oldest.min(stored.created)));
    }

    fn map_key<K: MapPath>(&mut self, segment: &str, revision: Option<Revision>) -> Option<K> {
        K::of_path(segment).map_err(|(kind, reason)| self.problem(segment, kind, reason, revision)).ok()
    }

    fn has_struct(&self, segment: &str, table: &Table) -> bool {
        let prefix = format!("{}{segment}/", self.prefix);
        with_prefix(self.tree, &prefix).any(|(relative, _)| table.is_present_by(&relative[prefix.len()..]))
    }

    pub(super) fn below<T>(&mut self, segment: &str, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let length = self.prefix.len();
        self.prefix.push_str(segment);
        self.prefix.push('/');
        let value = read(self);
        self.prefix.truncate(length);
        value
    }

    /// Records a failed validation. The value is still used, so that further problems of its struct
    /// are found.
    fn check<T>(&mut self, segment: &str, value: &T, codec: &Codec<T>, revision: Option<Revision>) {
        if self.validation == Validation::Run
            && let Err(reason) = codec.validate(value)
        {
            self.problem(segment, ProblemKind::Rejected, reason.to_string(), revision);
        }
    }

    fn problem(&mut self, segment: &str, kind: ProblemKind, reason: String, revision: Option<Revision>) {
        let key = place(self.directory, &self.prefix, segment);
        self.found.problems.push(Problem { key, kind, reason, revision });
    }
}

/// The state of the enclosing struct, while a nested struct is read.
struct Outer {
    table: &'static Table,
    /// The number of keys that had been read before the nested struct.
    read: usize,
}

/// The segment where the value of a field was found or expected.
enum FieldLookup<'a> {
    Value(&'static str, &'a Stored),
    Nothing(&'static str),
}
