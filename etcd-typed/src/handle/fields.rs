//! `Fields`: creates the fields of derived handles. `Fields` is not generic over the struct, so
//! that the code for an entry of `u32` is compiled once, not for each struct that has such a field.

use std::sync::Arc;

use super::SharedContext;
use super::dir::{Dir, EtcdSchema};
use super::entry::Entry;
use super::expiry::EnclosingStruct;
use super::guarded::TagClaim;
use super::map::{DirMap, EntryMap};
use crate::key::Key;
use crate::schema::{Fallback, Kind, LeafTuple, MapPath, OneLeaf, Presence, Schema, Table};
use crate::value::Codec;

/// Creates the handles of the fields in one struct's directory. The code that the derive generates
/// calls a method for each directory or map, with the index of the field in the table, and a method
/// for each group of adjacent leaves.
#[derive(Debug)]
pub struct Fields<'a> {
    context: SharedContext,
    directory: &'a Key,
    table: &'static Table,
    /// The struct that contains the fields.
    enclosing: Arc<EnclosingStruct>,
    /// The directory in which earlier versions of this library stored the struct.
    older: Option<&'a Key>,
}

impl<S: Schema> Dir<S> {
    /// Creates the fields. Used by the code that the derive generates.
    #[doc(hidden)]
    pub fn __fields(&self) -> Fields<'_> {
        Fields::new(self.context.clone(), &self.key, S::TABLE, self.enclosing.clone()).older(self.older.as_ref())
    }
}

impl<'a> Fields<'a> {
    /// Creates the fields of a struct. `outer` is the struct that contains this one, if there is
    /// one.
    fn new(context: SharedContext, directory: &'a Key, table: &'static Table, outer: Option<Arc<EnclosingStruct>>) -> Self {
        Self { context, directory, table, enclosing: EnclosingStruct::new(directory.clone(), table, outer), older: None }
    }

    /// Sets the directory that is read while a field does not exist in `directory`.
    fn older(mut self, older: Option<&'a Key>) -> Self {
        self.older = older;
        self
    }

    /// Creates the handle of a field with one value.
    fn entry<T: Send + Sync + 'static>(&self, field: usize, codec: &Codec<T>, default: Fallback<T>) -> Entry<T> {
        let (key, aliases) = self.keys(field);
        let entry = Entry::new(self.context.clone(), key, *codec);
        entry.with_aliases(aliases).with_default(default).within(Some(self.enclosing.clone()))
    }

    /// Creates the handle of a nested struct, optional or not.
    pub fn dir<N: EtcdSchema>(&self, field: usize) -> N::Handle {
        let optional = self.table.fields.get(field).is_some_and(|field| field.presence != Presence::Required);
        let older = self.older.zip(self.table.fields.get(field)).map(|(older, field)| older.descend(field.segment));
        N::handle(Dir::new(self.context.clone(), self.key(field)).older(older).within(Some(self.enclosing.clone())).removable(optional))
    }

    /// Returns the fields of one variant of an enum. Their writes require that the enum has this
    /// variant.
    pub fn variant(&self, field: usize) -> Self {
        let tag = TagClaim::new(self.directory, self.table, field);
        let table = match self.table.fields.get(field).map(|field| &field.kind) {
            Some(Kind::Variant { table, .. }) => table,
            _ => Table::EMPTY,
        };
        let (directory, enclosing, older) = (self.directory, self.enclosing.clone(), self.older);
        Self { context: self.context.within_variant(tag), directory, table, enclosing, older }
    }

    /// Creates the handle of a flattened struct, whose keys are in this struct's own directory.
    pub fn flatten<N: EtcdSchema>(&self) -> N::Handle {
        let dir = Dir::new(self.context.clone(), self.directory.clone()).older(self.older.cloned()).flattened();
        N::handle(dir.within(Some(self.enclosing.clone())))
    }

    /// Creates the handle of a map of structs.
    pub fn dir_map<K: MapPath, N: EtcdSchema>(&self, field: usize) -> DirMap<K, N> {
        const {
            assert!(
                K::LEVELS == 1,
                "a map that is a field of a struct cannot have a tuple as its key; use `Client::entries` or `Client::dirs`"
            )
        };
        DirMap::new(self.context.clone(), self.key(field)).within(self.enclosing.clone())
    }

    /// Creates the handle of a map of values.
    pub fn entries<K: MapPath, V: Send + Sync + 'static>(&self, field: usize, codec: &Codec<V>) -> EntryMap<K, V> {
        const {
            assert!(
                K::LEVELS == 1,
                "a map that is a field of a struct cannot have a tuple as its key; use `Client::entries` or `Client::dirs`"
            )
        };
        EntryMap::new(self.context.clone(), self.key(field), *codec).within(self.enclosing.clone())
    }

    fn key(&self, field: usize) -> Key {
        self.table.fields.get(field).map_or_else(|| self.directory.clone(), |field| self.directory.descend(field.segment))
    }

    /// Returns the key of a field, and its aliases.
    fn keys(&self, field: usize) -> (Key, Vec<Key>) {
        let Some(field) = self.table.fields.get(field) else { return (self.directory.clone(), Vec::new()) };
        let aliases = field.aliases.iter().map(|alias| self.directory.descend(alias));
        let older = self.older.into_iter().flat_map(|older| field.segments().map(|segment| older.descend(segment)));
        (self.directory.descend(field.segment), aliases.chain(older).collect())
    }
}

impl<L: Entries> LeafTuple<L> {
    /// Creates the handle of every field.
    pub fn entries(&self, fields: &Fields<'_>) -> L::Entries {
        self.of.entries(self.first, fields)
    }
}

/// A tuple of up to twelve adjacent leaves.
pub trait Entries {
    /// A tuple with one handle per leaf.
    type Entries;

    /// Creates the handles. `first` is the index of the first leaf in the table.
    fn entries(&self, first: usize, fields: &Fields<'_>) -> Self::Entries;
}

macro_rules! entries {
    ($($leaf:ident $at:tt),+) => {
        impl<$($leaf: OneLeaf<Stored: Send + Sync + 'static>),+> Entries for ($($leaf,)+) {
            type Entries = ($(Entry<$leaf::Stored>,)+);

            fn entries(&self, first: usize, fields: &Fields<'_>) -> Self::Entries {
                ($(fields.entry(first + $at, self.$at.codec(), self.$at.default()),)+)
            }
        }
    };
}

entries!(A 0);
entries!(A 0, B 1);
entries!(A 0, B 1, C 2);
entries!(A 0, B 1, C 2, D 3);
entries!(A 0, B 1, C 2, D 3, E 4);
entries!(A 0, B 1, C 2, D 3, E 4, F 5);
entries!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
entries!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
entries!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
entries!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
entries!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
entries!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);
