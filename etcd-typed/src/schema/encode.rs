//! Converts a struct to its stored form. Records every problem instead of stopping at the first.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Encoded, Fallback, Map, MapPath, Schema, Table, Validation, place, validated};
use crate::error::{Error, Problem, ProblemKind, Result};
use crate::key::Key;
use crate::value::{Codec, ValueError, contained};

/// Writes the fields of one struct. The derive generates one call for each directory or map, with
/// the index of the field in the table, and one call for each group of adjacent leaves (fields with
/// one value).
#[derive(Debug)]
pub struct Encoder<'a> {
    directory: &'a Key,
    pub(super) table: &'static Table,
    /// The position of the struct: empty, or segments that each end with `/`. A method may extend
    /// it, but restores it before it returns.
    prefix: String,
    out: Encoded,
    validation: Validation,
    /// The stored form before the write, if the write changes only the values that differ from it.
    kept: Option<&'a Encoded>,
    problems: Vec<Problem>,
    /// If set, collects two kinds of fields that have a default, instead of recording a problem: an
    /// `Option` that is `None`, and a directory without any key.
    nones: Option<BTreeSet<String>>,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(directory: &'a Key, validation: Validation) -> Self {
        let (prefix, out, problems) = (String::new(), Encoded::new(), Vec::new());
        Self { directory, table: Table::EMPTY, prefix, out, validation, kept: None, problems, nones: None }
    }

    /// Declares that the write changes only the values that differ from `old`.
    pub(super) fn keeping(mut self, old: Option<&'a Encoded>) -> Self {
        self.kept = old;
        self
    }

    /// Collects the fields that are `None` although they have a default, instead of recording a
    /// problem for each.
    pub(super) fn note_nones(&mut self) {
        self.nones = Some(BTreeSet::new());
    }

    /// Returns the stored form, and the collected fields.
    pub(super) fn finish_with_nones(mut self) -> Result<(Encoded, BTreeSet<String>)> {
        let nones = self.nones.take().unwrap_or_default();
        self.finish().map(|encoded| (encoded, nones))
    }

    pub(super) fn finish(self) -> Result<Encoded> {
        if self.problems.is_empty() { Ok(self.out) } else { Err(Error::from_problems(self.problems)) }
    }

    /// Writes the tag of an enum. `other`: true if the variant stands for all variants that this
    /// program does not know. Then the stored tag has another value, which this write would
    /// overwrite.
    pub(super) fn tag(&mut self, tag: Bytes, other: bool) {
        let Some(segment) = self.segment(0) else { return };
        let key = [&self.prefix, segment].concat();
        let is_kept = self.kept.is_some_and(|old| old.get(&key) == Some(&tag));
        if other && self.validation == Validation::Run && !is_kept {
            let reason = "this variant stands for those that this program does not know, and cannot be written; an `update` that leaves it \
                          as it is keeps what is stored";
            self.problem(segment, ProblemKind::Unencodable, &ValueError::new(reason));
        }
        self.out.insert(key, tag);
    }

    /// Writes a field with one value.
    pub(super) fn leaf<T>(&mut self, field: usize, value: &T, codec: &Codec<T>) {
        if let Some(segment) = self.segment(field) {
            self.value(segment, value, codec);
        }
    }

    /// Writes an `Option` field that is `None` although it has a default. A read of a field without
    /// a key would return the default.
    pub(super) fn leaf_none<T>(&mut self, field: usize, codec: &Codec<T>, default: fn() -> Option<T>) {
        let Some(segment) = self.segment(field).filter(|_| self.validation == Validation::Run) else { return };
        if let Some(nones) = &mut self.nones {
            nones.insert([&self.prefix, segment].concat());
            return;
        }
        let reason = match contained("the default", || Ok(default().is_some())) {
            Ok(false) => return,
            Ok(true) => ValueError::new("`None` cannot be stored, since a field without a key has its default; give the field a value"),
            Err(reason) => codec.masked(reason),
        };
        self.problem(segment, ProblemKind::Unencodable, &reason);
    }

    /// Writes a nested struct.
    pub fn dir<S: Schema>(&mut self, field: usize, value: &S) {
        if let Some(segment) = self.segment(field) {
            self.below(segment, |encoder| encoder.whole(value));
        }
    }

    /// Writes a nested struct that may be `None`.
    pub fn dir_opt<S: Schema>(&mut self, field: usize, value: &Option<S>) {
        if let (Some(value), Some(segment)) = (value, self.segment(field)) {
            self.below(segment, |encoder| encoder.present(value));
        }
    }

    /// Writes a nested struct with a default.
    pub fn dir_or<S: Schema>(&mut self, field: usize, value: &S, default: fn() -> S) {
        let before = (self.out.len(), self.problems.len());
        self.dir(field, value);
        if (self.out.len(), self.problems.len()) == before {
            self.dir_none(field, Fallback::Always(default));
        }
    }

    /// Writes a nested struct that may be `None`, with a default.
    pub fn dir_opt_or<S: Schema>(&mut self, field: usize, value: &Option<S>, default: Fallback<S>) {
        match value {
            Some(_) => self.dir_opt(field, value),
            None => self.dir_none(field, default),
        }
    }

    /// Writes a directory that has no key, although it has a default. A read of a directory without
    /// a key returns the default, so the default must have no key either.
    fn dir_none<S: Schema>(&mut self, field: usize, default: Fallback<S>) {
        let Some(segment) = self.segment(field).filter(|_| self.validation == Validation::Run) else { return };
        if let Some(nones) = &mut self.nones {
            nones.insert([&self.prefix, segment].concat());
            return;
        }
        let form = contained("the default", || {
            let mut encoder = Encoder::new(self.directory, Validation::Skip);
            let value = default.value();
            value.iter().for_each(|value| encoder.whole(value));
            Ok((value.is_some() && matches!(default, Fallback::Maybe(_))) || !encoder.out.is_empty())
        });
        let reason = match form {
            Ok(false) => return,
            Ok(true) => {
                ValueError::new("this has no key to store, since a directory without a key has its default; give a field in it a value")
            }
            Err(reason) => S::TABLE.masked(reason),
        };
        self.problem(segment, ProblemKind::Unencodable, &reason);
    }

    /// Returns the problems of a value at this position.
    pub(super) fn problems_of<S: Schema>(directory: &'a Key, prefix: String, value: &S) -> Vec<Problem> {
        let mut encoder = Self { prefix, ..Self::new(directory, Validation::Run) };
        encoder.whole(value);
        encoder.problems
    }

    /// Writes a struct whose keys are in this struct's own directory.
    pub fn flatten<S: Schema>(&mut self, value: &S) {
        self.whole(value);
    }

    /// Writes a map of structs.
    pub fn dir_map<M: Map<Value: Schema>>(&mut self, field: usize, map: &M) {
        if let Some(segment) = self.segment(field) {
            self.below(segment, |encoder| encoder.all_dirs(map));
        }
    }

    /// Writes a map of values.
    pub fn entries<M: Map>(&mut self, field: usize, map: &M, codec: &Codec<M::Value>) {
        if let Some(segment) = self.segment(field) {
            self.below(segment, |encoder| encoder.all_entries(map, *codec));
        }
    }

    /// Writes a struct at this position, and validates it as a whole.
    pub(super) fn whole<S: Schema>(&mut self, value: &S) {
        let outer = std::mem::replace(&mut self.table, S::TABLE);
        value.encode(self);
        self.table = outer;
        if self.validation == Validation::Run
            && let Err(reason) = validated(value)
        {
            self.problem("", ProblemKind::Rejected, &S::TABLE.masked(reason));
        }
    }

    /// Writes a struct that exists only if it has a key. Records a problem if it has none, since a
    /// read would not find the struct.
    pub(super) fn present<S: Schema>(&mut self, value: &S) {
        let before = (self.out.len(), self.problems.len());
        self.whole(value);
        if self.validation == Validation::Run && (self.out.len(), self.problems.len()) == before {
            self.has_no_key(S::TABLE);
        }
    }

    fn has_no_key(&mut self, table: &Table) {
        let reason = format!(
            "this {} has no key to store: its fields are none or empty, and a read would find nothing here; give a field a value, or the struct \
             a required field",
            table.name
        );
        self.problem("", ProblemKind::Unencodable, &ValueError::new(reason));
    }

    /// Writes this directory as a map of structs.
    pub(crate) fn all_dirs<M: Map<Value: Schema>>(&mut self, map: &M) {
        for (key, value) in map.pairs() {
            if let Some(segment) = self.map_segment(key) {
                self.below(&segment, |encoder| encoder.present(value));
            }
        }
    }

    /// Writes this directory as a map of values.
    pub(crate) fn all_entries<M: Map>(&mut self, map: &M, codec: Codec<M::Value>) {
        for (key, value) in map.pairs() {
            if let Some(segment) = self.map_segment(key) {
                self.value(&segment, value, &codec);
            }
        }
    }

    fn segment(&self, field: usize) -> Option<&'static str> {
        Some(self.table.fields.get(field)?.segment)
    }

    fn map_segment<K: MapPath>(&mut self, key: &K) -> Option<String> {
        key.path().map_err(|reason| self.problem("", ProblemKind::Unencodable, &reason)).ok()
    }

    fn value<T>(&mut self, segment: &str, value: &T, codec: &Codec<T>) {
        let encoded = match self.validation {
            Validation::Run => {
                if let Err(reason) = codec.validate(value) {
                    self.problem(segment, ProblemKind::Rejected, &reason);
                }
                codec.encode(value)
            }
            Validation::Skip => codec.form(value),
        };
        let is_second = || ValueError::new("two keys of the map have this stored form");
        match encoded.map(|bytes| self.out.insert([&self.prefix, segment].concat(), bytes)) {
            Ok(None) => {}
            Ok(Some(_)) => self.problem(segment, ProblemKind::Unencodable, &is_second()),
            Err(reason) => self.problem(segment, ProblemKind::Unencodable, &reason),
        }
    }

    fn below(&mut self, segment: &str, write: impl FnOnce(&mut Self)) {
        let length = self.prefix.len();
        self.prefix.push_str(segment);
        self.prefix.push('/');
        write(self);
        self.prefix.truncate(length);
    }

    fn problem(&mut self, segment: &str, kind: ProblemKind, reason: &ValueError) {
        let key = place(self.directory, &self.prefix, segment);
        self.problems.push(Problem { key, kind, reason: reason.to_string(), revision: None });
    }
}
