//! Finds the fields of a value that a directory does not contain. `seed` writes these fields, and a
//! live view takes them from its base.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::{Encoder, EnumAround, Schema, Stored, Table, Tree, Validation, with_prefix};
use crate::error::Result;
use crate::key::Key;
use crate::revision::Revision;

/// A field that may be missing in a directory: a field with one value, or a map.
#[derive(Debug)]
pub(crate) struct FieldKeys {
    /// The key to which the field is written, relative to the directory. For a map, the directory
    /// of the map.
    pub(crate) key: String,
    /// The keys of the field's aliases.
    pub(crate) aliases: Vec<String>,
    pub(crate) is_map: bool,
}

impl FieldKeys {
    /// Whether the directory has the field: one of its keys, or for a map any key of the schema
    /// below the map's directory.
    pub(crate) fn is_in(&self, table: &'static Table, tree: &Tree) -> bool {
        if self.is_map {
            return with_prefix(tree, &format!("{}/", self.key)).any(|(relative, _)| table.owns(relative));
        }
        tree.contains_key(&self.key) || self.aliases.iter().any(|alias| tree.contains_key(alias))
    }

    /// True if the directory may take this field from another value. False if the field is in an
    /// enum and the directory stores another variant than the value has. `tag` returns the tag of
    /// an enum in the value.
    pub(crate) fn fits<'v>(&self, table: &'static Table, tree: &Tree, tag: impl Fn(&str) -> Option<&'v Bytes>) -> bool {
        fits(table, &self.probe(), tree, tag)
    }

    /// True if, for each enum around the field, the field belongs to the variant that the directory
    /// stores.
    fn is_of_stored_variant(&self, table: &'static Table, tree: &Tree) -> bool {
        let variant = |of: &EnumAround| of.table.variant(&tree.get(&of.tag_at(&self.key))?.value);
        let probe = self.probe();
        table.enums_around(&probe, 0, true).iter().all(|of| of.variant_has(variant(of), &probe))
    }

    /// Returns a key of the field. For a map, returns the key of an entry with any name.
    fn probe(&self) -> String {
        if self.is_map { format!("{}/x", self.key) } else { self.key.clone() }
    }

    /// Returns the keys of a value that belong to this field.
    pub(crate) fn of<'k, V>(&self, value: &'k BTreeMap<String, V>) -> impl Iterator<Item = (&'k String, &'k V)> + use<'k, V> {
        let (first, is_map) = (if self.is_map { format!("{}/", self.key) } else { self.key.clone() }, self.is_map);
        value.range(first.clone()..).take_while(move |(key, _)| if is_map { key.starts_with(&first) } else { **key == first })
    }
}

/// Implements [`FieldKeys::fits`] for one key.
fn fits<'v>(table: &'static Table, key: &str, tree: &Tree, tag: impl Fn(&str) -> Option<&'v Bytes>) -> bool {
    table.enums_around(key, 0, true).iter().all(|of| match (tree.get(&of.tag_at(key)), tag(&of.tag_at(key))) {
        (Some(stored), Some(given)) => of.table.variant(&stored.value) == of.table.variant(given),
        (Some(_), None) => false,
        (None, _) => true,
    })
}

/// The value from which a live view takes the fields that the store does not have.
#[derive(Debug)]
pub(crate) struct Base {
    table: &'static Table,
    fields: Vec<FieldKeys>,
    /// The stored form of the value. `None` marks an `Option` that is `None` although it has a
    /// default, and a directory whose fields are all `None` although it has a default.
    keys: BTreeMap<String, Option<Bytes>>,
}

/// The contents of a directory, completed from a [`Base`].
pub(crate) struct Completed {
    pub(crate) tree: Tree,
    /// The fields that have no key, but do not have their default either.
    pub(crate) nones: Arc<BTreeSet<String>>,
    /// The fields that were taken from the base, since the store does not have them.
    pub(crate) from_base: BTreeSet<String>,
}

impl Base {
    /// Encodes the value.
    ///
    /// # Errors
    ///
    /// `Invalid`, with every field that has no stored form or fails its validation, and every map entry
    /// and optional struct that would have no key.
    pub(crate) fn new<S: Schema>(directory: &Key, value: &S) -> Result<Self> {
        let mut encoder = Encoder::new(directory, Validation::Run);
        encoder.note_nones();
        encoder.whole(value);
        let (encoded, nones) = encoder.finish_with_nones().map_err(|error| error.at(directory))?;
        let stored = encoded.into_iter().map(|(key, value)| (key, Some(value)));
        Ok(Self { table: S::TABLE, fields: S::TABLE.field_keys(), keys: stored.chain(nones.into_iter().map(|key| (key, None))).collect() })
    }

    /// Returns the fields of a completed directory, in the order of their keys. Leaves out the
    /// fields of variants that the directory does not store.
    pub(crate) fn fields<'a>(&'a self, completed: &'a Completed) -> impl Iterator<Item = &'a FieldKeys> {
        self.fields.iter().filter(|field| field.is_of_stored_variant(self.table, &completed.tree))
    }

    pub(crate) fn complete(&self, stored: &Tree) -> Completed {
        let (mut tree, mut nones, mut from_base) = (stored.clone(), BTreeSet::new(), BTreeSet::new());
        let tag = |key: &str| self.keys.get(key)?.as_ref();
        let fields = self.fields.iter().filter(|field| field.fits(self.table, stored, tag));
        let (present, missing): (Vec<&FieldKeys>, Vec<_>) = fields.partition(|field| field.is_in(self.table, stored));
        for field in missing {
            from_base.insert(field.key.clone());
            let values = field.of(&self.keys).filter_map(|(key, value)| Some((key, value.as_ref()?)));
            tree.extend(values.map(|(key, value)| (key.clone(), Stored::of_base(value.clone()))));
        }
        // A read uses every key that exists, even if the key is in `nones`.
        let of_store = |key: &String| present.iter().any(|field| field.is_map && field.of(&self.keys).any(|(of, _)| of == key));
        let is_none = |key: &String, value: &Option<Bytes>| value.is_none() && !of_store(key) && fits(self.table, key, stored, tag);
        nones.extend(self.keys.iter().filter(|(key, value)| is_none(key, value)).map(|(key, _)| key.clone()));
        Completed { tree, nones: Arc::new(nones), from_base }
    }
}

impl Stored {
    /// Creates a value that is not in the store.
    fn of_base(value: Bytes) -> Self {
        Self { value, created: Revision::ZERO, modified: Revision::ZERO, version: None, lease: None, ttl: None }
    }

    /// Returns the revision at which the value was written, or `None` for a value that is not in
    /// the store.
    pub(super) fn written(&self) -> Option<Revision> {
        Some(self.modified).filter(|modified| *modified != Revision::ZERO)
    }
}

impl Table {
    /// Returns every field with one value that is not in a map, and every map, in the order of
    /// their keys.
    pub(crate) fn field_keys(&self) -> Vec<FieldKeys> {
        let mut fields = Vec::new();
        self.each_leaf("", &mut |prefix, field| {
            let at = |segment: &str| format!("{prefix}{segment}");
            fields.push(FieldKeys {
                key: at(field.segment),
                aliases: field.aliases.iter().map(|alias| at(alias)).collect(),
                is_map: false,
            });
        });
        fields.extend(self.map_directories().into_iter().map(|key| FieldKeys { key, aliases: Vec::new(), is_map: true }));
        fields.sort_by(|a, b| a.key.cmp(&b.key));
        // Several variants of an enum may have the same key.
        fields.dedup_by(|next, first| {
            let is_same = next.key == first.key;
            if is_same {
                first.aliases.append(&mut next.aliases);
            }
            is_same
        });
        fields
    }
}
