//! `Schema`: the layout of a struct in a directory, as a table and three small functions that the
//! derive generates. The code here traverses that table and does no I/O. Operations on stored
//! directories are in `handle/`.

mod changed_keys;
mod copies;
mod decode;
mod delta;
mod describe;
mod each;
mod encode;
mod entries;
mod fallback;
mod leaf_tuple;
mod map_path;
mod missing;
mod pointer;
mod presence;
#[cfg(feature = "snapshot")]
mod read_keys;
mod serialize;
mod tagged;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::yield_now;

pub(crate) use changed_keys::ChangedKeys;
pub(crate) use copies::Copies;
pub use decode::Decoder;
use decode::Gathered;
pub use delta::{Change, Delta, Keyed, Update};
pub(crate) use describe::Witnesses;
pub use describe::{Field, Kind, Presence, Table, UnknownKeys};
pub(crate) use each::{each_dir, each_dir_in_steps, each_entry};
pub use encode::Encoder;
pub(crate) use entries::{Entries, entry};
pub use fallback::Fallback;
pub use leaf_tuple::{Leaf, LeafOpt, LeafOptOr, LeafTuple, OneLeaf, Tuple};
pub use map_path::{MapKey, MapPath};
pub(crate) use map_path::{is_entry, is_replaced, is_written, own_entry, split_levels};
pub(crate) use missing::{Base, FieldKeys};
pub(crate) use presence::{Removable, removable_in_map};
#[cfg(feature = "snapshot")]
pub(crate) use read_keys::{Look, NeededSecret};
pub(crate) use tagged::EnumAround;

use crate::error::{Error, Problem, ProblemKind, Result};
use crate::key::{self, Key};
use crate::revision::{LeaseId, Revision};
use crate::store::KeyValue;
use crate::value::{Codec, ValueError, contained};
use crate::version::{Versioned, Versions};

/// A struct that is stored in a directory: one key for each field, and subdirectories for nested
/// structs and maps.
///
/// Use `#[derive(EtcdSchema)]` to implement it; do not implement it by hand. Only this crate calls
/// its methods. They are pure: they convert between the struct and a tree of relative keys.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a schema: add `#[derive(EtcdSchema)]` to it",
    label = "not a schema",
    note = "to store all of it in one key, remove `dir` or `flatten` from the field, and add `#[etcd(json)]` or derive `EtcdValue` for the type"
)]
pub trait Schema: Sized + Send + Sync + 'static {
    /// A change of one field: an enum with one variant per field.
    type Change: fmt::Debug + Send + 'static;

    /// The fields of the struct as data.
    const TABLE: &'static Table;

    /// Returns the keys, types, documentation, defaults and flags of the struct, for people
    /// (`Display`) and for tools (`Serialize`).
    #[must_use]
    fn describe() -> &'static Table {
        Self::TABLE
    }

    /// Reads the struct. Returns `None` if the decoder has recorded a problem.
    #[doc(hidden)]
    fn decode(decoder: &mut Decoder<'_>) -> Option<Self>;

    /// Writes the struct.
    #[doc(hidden)]
    fn encode(&self, encoder: &mut Encoder<'_>);

    /// Converts the changed keys to typed changes, and adds these to `out`.
    #[doc(hidden)]
    fn changes(delta: &mut Delta<'_>, out: &mut Vec<Self::Change>);

    /// Validates the struct as a whole (`validate` on the struct). [`Table::masked`] hides the
    /// reason if it may contain a secret.
    #[doc(hidden)]
    fn validate(&self) -> Result<(), ValueError> {
        Ok(())
    }
}

/// The number of keys that a task reads before it yields. At 3 µs per key, 256 keys take less than
/// a millisecond.
pub(crate) const AT_ONCE: usize = if cfg!(test) { 3 } else { 256 };

/// The contents of one directory: stored values by relative key.
pub(crate) type Tree = BTreeMap<String, Stored>;

/// A value in a [`Tree`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) value: Bytes,
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
    pub(crate) version: Option<u64>,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) ttl: Option<Duration>,
}

impl From<KeyValue> for Stored {
    fn from(kv: KeyValue) -> Self {
        Self::of(kv).1
    }
}

impl Stored {
    /// Splits a key-value pair into its key and the rest.
    pub(crate) fn of(kv: KeyValue) -> (Bytes, Self) {
        let KeyValue { key, value, created, modified, version, lease, ttl } = kv;
        (key, Self { value, created, modified, version, lease, ttl })
    }

    /// Returns the lease, if other clients can use its ID. On v2 a lease ID exists only within this
    /// process, where it represents a time to live.
    fn shared_lease(&self) -> Option<LeaseId> {
        self.lease.filter(|_| self.ttl.is_none())
    }

    /// Returns the metadata of this key in a snapshot at `revision`.
    pub(crate) fn versions(&self, revision: Revision) -> Versions {
        Versions {
            revision,
            created: self.created,
            modified: self.modified,
            version: self.version,
            lease: self.shared_lease(),
            ttl: self.ttl,
            basis: [].into(),
            secret: false,
        }
    }
}

/// Converts the keys of an answer to a tree. Skips keys that are not valid paths below the
/// directory.
pub(crate) fn tree(directory: &Key, kvs: Vec<KeyValue>) -> Tree {
    TreeBuilder::new(directory, false, |_| {}).build(kvs)
}

/// Like [`tree`], but yields between groups of keys, so that a large directory does not block the
/// thread.
pub(crate) async fn tree_in_steps(directory: &Key, kvs: Vec<KeyValue>) -> Tree {
    TreeBuilder::new(directory, false, |_| {}).build_in_steps(kvs).await
}

/// Like [`tree`], for a tree that is kept: the values are copies, so the tree does not keep the
/// answer alive. Calls `other` with each skipped key.
pub(crate) fn kept_tree(directory: &Key, kvs: Vec<KeyValue>, other: impl FnMut(&[u8])) -> Tree {
    TreeBuilder::new(directory, true, other).build(kvs)
}

/// Like [`kept_tree`], but yields between groups of keys.
pub(crate) async fn kept_tree_in_steps(directory: &Key, kvs: Vec<KeyValue>, other: impl FnMut(&[u8])) -> Tree {
    TreeBuilder::new(directory, true, other).build_in_steps(kvs).await
}

/// Builds a [`Tree`] from the keys of an answer.
struct TreeBuilder<'d, F> {
    directory: &'d Key,
    /// True to copy the values, so that the tree does not keep the answer in memory.
    copies: bool,
    /// Called with each key that is not a valid path below the directory.
    other: F,
    /// The entries in the order of the answer, which is sorted by key. If the entries are sorted,
    /// building the map compares each entry only with the next one.
    entries: Vec<(String, Stored)>,
}

impl<'d, F: FnMut(&[u8])> TreeBuilder<'d, F> {
    fn new(directory: &'d Key, copies: bool, other: F) -> Self {
        Self { directory, copies, other, entries: Vec::new() }
    }

    fn build(mut self, kvs: Vec<KeyValue>) -> Tree {
        self.entries.reserve(kvs.len());
        self.add(&mut kvs.into_iter(), usize::MAX);
        self.entries.into_iter().collect()
    }

    async fn build_in_steps(mut self, kvs: Vec<KeyValue>) -> Tree {
        if kvs.len() <= AT_ONCE {
            return self.build(kvs);
        }
        self.entries.reserve(kvs.len());
        let mut kvs = kvs.into_iter();
        while kvs.len() > 0 {
            self.add(&mut kvs, AT_ONCE);
            yield_now().await;
        }
        self.entries.into_iter().collect()
    }

    /// Takes up to `count` keys from `kvs` and adds them.
    fn add(&mut self, kvs: &mut std::vec::IntoIter<KeyValue>, count: usize) {
        let lengths = kvs.as_slice().iter().take(count).map(|kv| kv.value.len());
        let mut copies = self.copies.then(|| Copies::of(lengths));
        for kv in kvs.take(count) {
            let (key, mut stored) = Stored::of(kv);
            let Some(relative) = self.directory.below(&key) else {
                (self.other)(&key);
                continue;
            };
            if let Some(copies) = &mut copies {
                stored.value = copies.copy(&stored.value);
            }
            self.entries.push((relative.to_owned(), stored));
        }
    }
}

/// Returns the part of a tree below one segment. Its keys are relative to that segment.
pub(crate) fn subtree(tree: &Tree, segment: &str) -> Tree {
    let prefix = format!("{segment}/");
    with_prefix(tree, &prefix).filter_map(|(relative, stored)| Some((relative.strip_prefix(&prefix)?.to_owned(), stored.clone()))).collect()
}

/// Reads a struct in `directory` at `revision`. Ignores keys that are not in the schema.
///
/// # Errors
///
/// `Invalid`, with every field that is missing or cannot be decoded. `NotFound` if no key of the
/// schema exists and some are required.
pub(crate) fn decode<S: Schema>(directory: &Key, tree: &Tree, revision: Revision) -> Result<Versioned<S>> {
    let read = decode_with(directory, tree, revision, Validation::Skip, |decoder| decoder.whole());
    read.map_err(|error| or_not_found(error, S::TABLE, tree))
}

/// Converts the error of a read to `NotFound` if the directory does not contain the struct at all:
/// no key of the schema exists, and some are required.
#[inline(never)]
fn or_not_found(error: Error, table: &'static Table, tree: &Tree) -> Error {
    let is_absent = || !tree.keys().any(|relative| table.owns(relative));
    let is_unknown = |problem: &Problem| problem.kind == ProblemKind::Unknown;
    let problems = error.problems();
    match problems.iter().any(|problem| problem.kind == ProblemKind::Missing) && !problems.iter().any(is_unknown) && is_absent() {
        true => error.into_not_found(table.name),
        false => error,
    }
}

/// Like [`decode`], but yields between groups of keys, so that a large directory does not block the
/// thread.
pub(crate) async fn decode_in_steps<S: Schema>(directory: &Key, tree: &Tree, revision: Revision) -> Result<Versioned<S>> {
    let read = read_in_steps(directory, tree, revision, Validation::Skip, |decoder| decoder.whole()).await;
    read.map_err(|error| or_not_found(error, S::TABLE, tree))
}

/// Like [`decode_in_steps`], but also runs every validation, as before a write. Use this function
/// where an invalid value must not be accepted.
///
/// # Errors
///
/// `Invalid`, with every field that is missing or cannot be decoded, and every field and struct
/// that fails its validation.
pub(crate) async fn decode_valid_in_steps<S: Schema>(directory: &Key, tree: &Tree, revision: Revision) -> Result<Versioned<S>> {
    let read = read_in_steps(directory, tree, revision, Validation::Run, |decoder| decoder.whole()).await;
    read.map_err(|error| or_not_found(error, S::TABLE, tree))
}

/// Like [`decode_valid_in_steps`], for a tree in which the base of a live view fills in the missing
/// fields. The fields in `nones` are `None`, whatever their default.
pub(crate) async fn decode_completed_in_steps<S: Schema>(
    directory: &Key,
    tree: &Tree,
    nones: &Arc<BTreeSet<String>>,
    revision: Revision,
) -> Result<Versioned<S>> {
    read_in_steps(directory, tree, revision, Validation::Run, |decoder| decoder.with_nones(nones.clone()).whole()).await
}

/// Like [`decode_map`], but yields between groups of keys, so that a large directory does not block
/// the thread.
pub(crate) async fn decode_map_in_steps<M, F>(directory: &Key, tree: &Tree, revision: Revision, read: F) -> Result<Versioned<M>>
where
    F: Fn(&mut Decoder<'_>) -> Option<M>,
{
    read_in_steps(directory, tree, revision, Validation::Skip, read).await
}

/// Reads a map whose entries are directly below `directory`, and not below a field of a struct.
pub(crate) fn decode_map<M, F>(directory: &Key, tree: &Tree, revision: Revision, read: F) -> Result<Versioned<M>>
where
    F: FnOnce(&mut Decoder<'_>) -> Option<M>,
{
    decode_with(directory, tree, revision, Validation::Skip, read)
}

fn decode_with<T, F>(directory: &Key, tree: &Tree, revision: Revision, validation: Validation, read: F) -> Result<Versioned<T>>
where
    F: FnOnce(&mut Decoder<'_>) -> Option<T>,
{
    let mut decoder = Decoder::new(directory, tree, validation);
    let value = read(&mut decoder);
    decoder.finish(value, revision)
}

async fn read_in_steps<T>(
    directory: &Key,
    tree: &Tree,
    revision: Revision,
    validation: Validation,
    read: impl Fn(&mut Decoder<'_>) -> Option<T>,
) -> Result<Versioned<T>> {
    if tree.len() <= AT_ONCE {
        return decode_with(directory, tree, revision, validation, read);
    }
    let mut gathered = Gathered::default();
    while !gathered.more(directory, tree, validation, &read) {
        yield_now().await;
    }
    let mut decoder = Decoder::new(directory, tree, validation);
    decoder.take(gathered);
    let value = read(&mut decoder);
    decoder.finish(value, revision)
}

/// Whether the validations of the schema run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Validation {
    Run,
    Skip,
}

/// The reason that is reported for an unknown key.
const UNKNOWN: &str = "not a key of the schema";

/// Returns every problem in `directory`: those that a read would report, failed validations, and
/// keys that no read uses. The validation of a struct as a whole runs only if all its fields could
/// be read. `owns` decides whether a key is in the schema. `around` lists the directories around a
/// key that may be absent, and `enums` the enums around it.
pub(crate) fn check<'t, T, F>(
    directory: &Key,
    tree: &'t Tree,
    owns: impl Fn(&str) -> bool,
    around: impl Fn(&'t str) -> Vec<Removable<'t>>,
    enums: impl Fn(&str) -> Vec<EnumAround>,
    read: F,
) -> Vec<Problem>
where
    F: FnOnce(&mut Decoder<'_>) -> Option<T>,
{
    let mut decoder = Decoder::new(directory, tree, Validation::Run);
    read(&mut decoder);
    let (mut problems, basis): (Vec<Problem>, _) = decoder.into_found();
    // The read has already checked the keys that it used. A key of the schema that it did not use
    // is an unused alias, or is left over from a struct that no longer exists.
    let was_read: HashSet<&str> = basis.iter().map(|(relative, _)| relative.as_str()).collect();
    // The read of a strict struct has already listed its unknown keys. These problems are removed
    // here, since the code below lists the unknown keys of all structs.
    problems.retain(|problem: &Problem| problem.kind != ProblemKind::Unknown);
    problems.extend(tree.iter().filter_map(|(relative, stored)| {
        let is_reserved = relative.split('/').any(key::is_reserved);
        if is_reserved || was_read.contains(relative.as_str()) {
            return None;
        }
        let reason = match owns(relative) {
            true => presence::left_over(&around(relative), tree).or_else(|| tagged::of_other_variant(&enums(relative), relative, tree))?,
            false => UNKNOWN.to_owned(),
        };
        let (key, revision) = (directory.descend(relative), Some(stored.modified));
        Some(Problem { key, kind: ProblemKind::Unknown, reason, revision })
    }));
    problems
}

/// The stored form of a value: bytes by relative key.
pub(crate) type Encoded = BTreeMap<String, Bytes>;

/// Encodes a struct for a write that changes only the values that differ from `old`. `present`:
/// true if the struct exists only while it has at least one key.
///
/// # Errors
///
/// `Invalid`, with every field that has no stored form or fails its validation, and every map entry
/// or optional directory that would have no key. If `present`, also if the struct has no key.
pub(crate) fn encode_over<S: Schema>(directory: &Key, old: Option<&Encoded>, value: &S, present: bool) -> Result<Encoded> {
    let mut encoder = Encoder::new(directory, Validation::Run).keeping(old);
    if present {
        encoder.present(value)
    } else {
        encoder.whole(value)
    }
    encoder.finish().map_err(|error| error.at(directory))
}

/// Encodes a struct that exists only if it has at least one key.
///
/// # Errors
///
/// The errors of [`encode_over`].
pub(crate) fn encode_present<S: Schema>(directory: &Key, value: &S) -> Result<Encoded> {
    encode_over(directory, None, value, true)
}

/// Encodes a struct that was read, without validation. An invalid value in the store must not
/// prevent its correction.
pub(crate) fn encode_unchecked<S: Schema>(directory: &Key, value: &S) -> Result<Encoded> {
    let mut encoder = Encoder::new(directory, Validation::Skip);
    encoder.whole(value);
    encoder.finish().map_err(|error| error.at(directory))
}

/// Encodes the values that `write` writes, and runs every validation.
pub(crate) fn encode_with(directory: &Key, write: impl FnOnce(&mut Encoder<'_>)) -> Result<Encoded> {
    let mut encoder = Encoder::new(directory, Validation::Run);
    write(&mut encoder);
    encoder.finish().map_err(|error| error.at(directory))
}

/// Runs the validation of a struct as a whole.
fn validated<S: Schema>(value: &S) -> std::result::Result<(), ValueError> {
    contained("the validation", || value.validate())
}

/// Validates one value at its key.
pub(crate) fn validate_value<T>(key: &Key, value: &T, codec: &Codec<T>) -> Option<Problem> {
    let reason = codec.validate(value).err()?;
    Some(Problem { key: key.clone(), kind: ProblemKind::Rejected, reason: reason.to_string(), revision: None })
}

/// The map types that a field may have.
pub trait Map: Sized {
    /// The type of the map's keys. Each key becomes a path below the map's directory. In a map that
    /// is a field of a struct, this path is one segment.
    type Key: MapPath;
    /// The type of the map's values.
    type Value: Send + 'static;

    /// Builds the map from its entries.
    #[doc(hidden)]
    fn of(pairs: Vec<(Self::Key, Self::Value)>) -> Self;

    /// Returns the entries of the map.
    #[doc(hidden)]
    fn pairs(&self) -> Vec<(&Self::Key, &Self::Value)>;
}

impl<K: MapPath, V: Send + 'static> Map for BTreeMap<K, V> {
    type Key = K;
    type Value = V;

    fn of(pairs: Vec<(K, V)>) -> Self {
        pairs.into_iter().collect()
    }

    fn pairs(&self) -> Vec<(&K, &V)> {
        self.iter().collect()
    }
}

impl<K: MapPath + Hash, V: Send + 'static, H: BuildHasher + Default> Map for HashMap<K, V, H> {
    type Key = K;
    type Value = V;

    fn of(pairs: Vec<(K, V)>) -> Self {
        pairs.into_iter().collect()
    }

    fn pairs(&self) -> Vec<(&K, &V)> {
        self.iter().collect()
    }
}

/// Splits a relative key into its first segment and the rest.
fn split_first(relative: &str) -> (&str, Option<&str>) {
    match relative.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (relative, None),
    }
}

/// Returns the full key of `segment` below `prefix`. If both are empty, returns the directory.
fn place(directory: &Key, prefix: &str, segment: &str) -> Key {
    match format!("{prefix}{segment}").trim_end_matches('/') {
        "" => directory.clone(),
        relative => directory.descend(relative),
    }
}

/// Returns the keys of a tree that start with `prefix`.
fn with_prefix<'t, 'p>(tree: &'t Tree, prefix: &'p str) -> impl Iterator<Item = (&'t str, &'t Stored)> + use<'t, 'p> {
    let from = tree.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    from.take_while(move |(key, _)| key.starts_with(prefix)).map(|(key, value)| (key.as_str(), value))
}

#[cfg(all(test, feature = "derive"))]
mod tests;
