//! `Schema`: how a struct lies in a directory, as a table and three small functions that the derive writes. The walks over the
//! table are here, once, and do no I/O. What a directory of a store can do with it is `handle/`.

mod decode;
mod delta;
mod describe;
mod encode;
mod entries;
mod gather;
mod kept;
mod leaves;
#[cfg(feature = "snapshot")]
mod looks;
mod presence;
mod touched;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::yield_now;

pub use decode::Decoder;
pub use delta::{Change, Delta, Keyed, Update};
pub(crate) use describe::Witnesses;
pub use describe::{Field, Kind, Presence, Table};
pub use encode::Encoder;
pub(crate) use entries::{Entries, entry};
use gather::Gathered;
pub(crate) use kept::Copies;
pub use leaves::{Leaf, LeafOpt, Leaves, OneLeaf, Tuple};
#[cfg(feature = "snapshot")]
pub(crate) use looks::{Look, NeededSecret};
pub(crate) use presence::{Removable, removable_in_map};
pub(crate) use touched::Touched;

use crate::error::{Problem, ProblemKind, Result};
use crate::key::{self, Key};
use crate::revision::{LeaseId, Revision};
use crate::store::KeyValue;
use crate::value::{Codec, EtcdValue, ValueError, contained};
use crate::version::{Versioned, Versions};

/// A struct that lies in a directory: one key for each field, deeper directories for nested structs and maps.
///
/// Derived by `#[derive(EtcdSchema)]`; nobody writes it by hand, and its methods are called by this crate. It is pure: a tree of relative
/// keys on one side, the struct on the other.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a schema",
    label = "not a schema",
    note = "for a directory with a key for each field add `#[derive(EtcdSchema)]` to the type",
    note = "for one key with all of it take `dir` off the field, and add `#[etcd(json)]` or derive `EtcdValue` for the type"
)]
pub trait Schema: Sized + Send + Sync + 'static {
    /// One change of one field; an enum with a variant for each.
    type Change: fmt::Debug + Send + 'static;

    /// The fields as data.
    const TABLE: &'static Table;

    /// The keys, types, documentation, defaults and flags of the struct, for people (`Display`) and tools (`Serialize`).
    #[must_use]
    fn describe() -> &'static Table {
        Self::TABLE
    }

    /// Reads the struct; none where a problem was noted.
    #[doc(hidden)]
    fn decode(decoder: &mut Decoder<'_>) -> Option<Self>;

    /// Writes the struct.
    #[doc(hidden)]
    fn encode(&self, encoder: &mut Encoder<'_>);

    /// Adds the typed changes of what was touched.
    #[doc(hidden)]
    fn changes(delta: &mut Delta<'_>, out: &mut Vec<Self::Change>);

    /// The check of the struct as a whole (`validate` on the struct). What it says goes through [`Table::masked`].
    #[doc(hidden)]
    fn validate(&self) -> Result<(), ValueError> {
        Ok(())
    }
}

/// Keys that are read before others get the thread. At 3 µs for each that is less than a millisecond.
pub(crate) const AT_ONCE: usize = if cfg!(test) { 3 } else { 256 };

/// What lies below one directory: keys relative to it, as stored.
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
    /// The key, and what is there.
    pub(crate) fn of(kv: KeyValue) -> (Bytes, Self) {
        let KeyValue { key, value, created, modified, version, lease, ttl } = kv;
        (key, Self { value, created, modified, version, lease, ttl })
    }

    /// The same for a value that is kept by itself: a copy.
    pub(crate) fn kept(kv: KeyValue) -> Self {
        let stored = Self::from(kv);
        Self { value: Bytes::copy_from_slice(&stored.value), ..stored }
    }

    /// The lease, where it is one that others know too. On v2 it is only a word of this process for a time to live.
    fn shared_lease(&self) -> Option<LeaseId> {
        self.lease.filter(|_| self.ttl.is_none())
    }

    /// The versions of this one key in a snapshot of `revision`.
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

/// The keys of an answer as a tree; foreign keys that are no path below the directory are left out.
pub(crate) fn tree(directory: &Key, kvs: Vec<KeyValue>) -> Tree {
    kvs.into_iter().filter_map(|kv| Some((directory.below(&kv.key)?.to_owned(), Stored::from(kv)))).collect()
}

/// The same for a tree that is kept: the values are copies, and keep nothing of the answer alive. Each key that is left out is given to `other`.
pub(crate) fn kept_tree(directory: &Key, kvs: Vec<KeyValue>, mut other: impl FnMut(&[u8])) -> Tree {
    kept(directory, kvs, &mut other).collect()
}

/// The same as [`kept_tree`], of however many keys, without keeping others from the thread.
pub(crate) async fn kept_tree_in_turns(directory: &Key, kvs: Vec<KeyValue>, mut other: impl FnMut(&[u8])) -> Tree {
    if kvs.len() <= AT_ONCE {
        return kept_tree(directory, kvs, other);
    }
    let mut entries = Vec::with_capacity(kvs.len());
    let mut kvs = kvs.into_iter();
    while kvs.len() > 0 {
        entries.extend(kept(directory, kvs.by_ref().take(AT_ONCE).collect(), &mut other));
        yield_now().await;
    }
    entries.into_iter().collect()
}

fn kept(directory: &Key, kvs: Vec<KeyValue>, other: &mut impl FnMut(&[u8])) -> impl Iterator<Item = (String, Stored)> {
    let mut copies = Copies::of(kvs.iter().map(|kv| kv.value.len()));
    kvs.into_iter().filter_map(move |kv| {
        let (key, mut stored) = Stored::of(kv);
        let Some(relative) = directory.below(&key).map(str::to_owned) else {
            other(&key);
            return None;
        };
        stored.value = copies.copy(&stored.value);
        Some((relative, stored))
    })
}

/// What lies below one segment of a tree.
pub(crate) fn subtree(tree: &Tree, segment: &str) -> Tree {
    let prefix = format!("{segment}/");
    with_prefix(tree, &prefix).filter_map(|(relative, stored)| Some((relative.strip_prefix(&prefix)?.to_owned(), stored.clone()))).collect()
}

/// The struct that lies in `directory`, as of `revision`. Keys that the schema does not know are passed over.
///
/// # Errors
///
/// `Invalid`, with every field that is missing or undecodable.
pub(crate) fn decode<S: Schema>(directory: &Key, tree: &Tree, revision: Revision) -> Result<Versioned<S>> {
    decode_with(directory, tree, revision, Validation::Skip, |decoder| decoder.whole())
}

/// The same as [`decode`], of however many keys, without keeping others from the thread.
pub(crate) async fn decode_in_turns<S: Schema>(directory: &Key, tree: &Tree, revision: Revision) -> Result<Versioned<S>> {
    read_in_turns(directory, tree, revision, Validation::Skip, |decoder| decoder.whole()).await
}

/// The same with every validation done, as before a write; for what is only taken if it is right.
///
/// # Errors
///
/// `Invalid`, also with every field and struct that fails its validation.
pub(crate) async fn decode_valid_in_turns<S: Schema>(directory: &Key, tree: &Tree, revision: Revision) -> Result<Versioned<S>> {
    read_in_turns(directory, tree, revision, Validation::Run, |decoder| decoder.whole()).await
}

/// The same as [`decode_map`], of however many keys, without keeping others from the thread.
pub(crate) async fn decode_map_in_turns<M, F>(directory: &Key, tree: &Tree, revision: Revision, read: F) -> Result<Versioned<M>>
where
    F: Fn(&mut Decoder<'_>) -> Option<M>,
{
    read_in_turns(directory, tree, revision, Validation::Skip, read).await
}

/// The same as [`tree`], of however many keys, without keeping others from the thread.
pub(crate) async fn tree_in_turns(directory: &Key, kvs: Vec<KeyValue>) -> Tree {
    if kvs.len() <= AT_ONCE {
        return tree(directory, kvs);
    }
    let mut entries = Vec::with_capacity(kvs.len());
    let mut kvs = kvs.into_iter();
    while kvs.len() > 0 {
        entries.extend(kvs.by_ref().take(AT_ONCE).filter_map(|kv| Some((directory.below(&kv.key)?.to_owned(), Stored::from(kv)))));
        yield_now().await;
    }
    // They are in order, so this compares each with the next and no more.
    entries.into_iter().collect()
}

/// A whole map that lies in `directory`: its keys are one level below it.
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

async fn read_in_turns<T>(
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

/// Whether the checks that a schema asks for are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Validation {
    Run,
    Skip,
}

/// Every problem of what lies in `directory`: what a read lists, what fails its validation, and keys that no read looks at. A struct's own validation
/// is run where all of the struct could be read. `owns` says which keys are in the schema, and `around` which directories around a key may be absent.
pub(crate) fn check<'t, T, F>(
    directory: &Key,
    tree: &'t Tree,
    owns: impl Fn(&str) -> bool,
    around: impl Fn(&'t str) -> Vec<Removable<'t>>,
    read: F,
) -> Vec<Problem>
where
    F: FnOnce(&mut Decoder<'_>) -> Option<T>,
{
    let mut decoder = Decoder::new(directory, tree, Validation::Run);
    read(&mut decoder);
    let (mut problems, basis) = decoder.into_found();
    // What was read was looked at, whatever it was. A key of the schema that was not read is an alias behind the field's own key, or left over.
    let was_read: HashSet<&str> = basis.iter().map(|(relative, _)| relative.as_str()).collect();
    problems.extend(tree.iter().filter_map(|(relative, stored)| {
        let is_hidden = relative.split('/').any(key::is_hidden);
        if is_hidden || was_read.contains(relative.as_str()) {
            return None;
        }
        let reason = if owns(relative) { presence::left_over(&around(relative), tree)? } else { "not a key of the schema".to_owned() };
        let (key, revision) = (directory.descend(relative), Some(stored.modified));
        Some(Problem { key, kind: ProblemKind::Unknown, reason, revision })
    }));
    problems
}

/// What a value looks like when it is stored: relative keys and their bytes.
pub(crate) type Encoded = BTreeMap<String, Bytes>;

/// The stored form of a struct, with every validation of it done.
///
/// # Errors
///
/// `Invalid`, with every field that has no stored form or fails its validation, and every entry or optional directory that would have no key.
pub(crate) fn encode<S: Schema>(directory: &Key, value: &S) -> Result<Encoded> {
    encode_with(directory, |encoder| encoder.whole(value))
}

/// The stored form of a struct that exists only if it has a key.
///
/// # Errors
///
/// As [`encode`], and if it has none.
pub(crate) fn encode_present<S: Schema>(directory: &Key, value: &S) -> Result<Encoded> {
    encode_with(directory, |encoder| encoder.present(value))
}

/// The stored form of a struct that was read: a validation that it fails is no reason not to mend it.
pub(crate) fn encode_unchecked<S: Schema>(directory: &Key, value: &S) -> Result<Encoded> {
    let mut encoder = Encoder::new(directory, Validation::Skip);
    encoder.whole(value);
    encoder.finish().map_err(|error| error.at(directory))
}

/// The stored form of what `write` writes, with every validation of it done.
pub(crate) fn encode_with(directory: &Key, write: impl FnOnce(&mut Encoder<'_>)) -> Result<Encoded> {
    let mut encoder = Encoder::new(directory, Validation::Run);
    write(&mut encoder);
    encoder.finish().map_err(|error| error.at(directory))
}

/// The validation of a struct as a whole.
fn validated<S: Schema>(value: &S) -> std::result::Result<(), ValueError> {
    contained("the validation", || value.validate())
}

/// The validation of one value at its own key.
pub(crate) fn validate_value<T>(key: &Key, value: &T, codec: &Codec<T>) -> Option<Problem> {
    let reason = codec.validate(value).err()?;
    Some(Problem { key: key.clone(), kind: ProblemKind::Rejected, reason: reason.to_string(), revision: None })
}

/// The types that a map field may have.
pub trait Map: Sized {
    /// What the segment below the map's directory stands for.
    type Key: MapKey;
    /// What is there.
    type Value: Send + 'static;

    /// The map of these.
    #[doc(hidden)]
    fn of(pairs: Vec<(Self::Key, Self::Value)>) -> Self;

    /// What is in it.
    #[doc(hidden)]
    fn pairs(&self) -> Vec<(&Self::Key, &Self::Value)>;
}

impl<K: MapKey, V: Send + 'static> Map for BTreeMap<K, V> {
    type Key = K;
    type Value = V;

    fn of(pairs: Vec<(K, V)>) -> Self {
        pairs.into_iter().collect()
    }

    fn pairs(&self) -> Vec<(&K, &V)> {
        self.iter().collect()
    }
}

impl<K: MapKey + Hash, V: Send + 'static, H: BuildHasher + Default> Map for HashMap<K, V, H> {
    type Key = K;
    type Value = V;

    fn of(pairs: Vec<(K, V)>) -> Self {
        pairs.into_iter().collect()
    }

    fn pairs(&self) -> Vec<(&K, &V)> {
        self.iter().collect()
    }
}

/// A type whose values are the keys of a map: its stored form is text, which becomes one segment, escaped where it must be.
/// Every [`EtcdValue`] that can be ordered is one.
pub trait MapKey: EtcdValue + Ord + Clone + fmt::Debug + Send + Sync + 'static {}

impl<T: EtcdValue + Ord + Clone + fmt::Debug + Send + Sync + 'static> MapKey for T {}

/// The segment that stands for a map key.
pub(crate) fn segment_of<K: MapKey>(key: &K) -> Result<String, ValueError> {
    let bytes = Codec::value().encode(key)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ValueError::new("a map key is text; this one's stored form is not UTF-8"))?;
    Ok(key::escape(text).into_owned())
}

/// The map key that a segment stands for. A segment that [`segment_of`] would not write is refused: handles could not address it.
pub(crate) fn key_of_segment<K: MapKey>(segment: &str) -> Result<K, (ProblemKind, String)> {
    let foreign = |reason: String| (ProblemKind::ForeignKey, reason);
    let text = key::unescape(segment).ok_or_else(|| foreign(unescaped(segment)))?;
    let value: K = Codec::value().decode(text.as_bytes()).map_err(|reason| foreign(format!("the key's name: {reason}")))?;
    let is_own = contained("the comparison", || Ok(value.is_stored_as(text.as_bytes())));
    if is_own.map_err(|reason| foreign(format!("the key's name: {reason}")))? {
        return Ok(value);
    }
    match segment_of(&value) {
        Ok(own) if own == segment => Ok(value),
        Ok(own) => Err(foreign(format!(
            "the key's name stands for the same as `{own}`: write that, or use `String` for the keys of the map, which takes every name"
        ))),
        Err(reason) => Err(foreign(format!("the key's name: {reason}"))),
    }
}

/// What to write instead of a name that [`segment_of`] would not write. The writer may have escaped it as in a URL, or may have meant it literally.
fn unescaped(segment: &str) -> String {
    let literally = key::escape(segment);
    let meant = percent_encoding::percent_decode_str(segment).decode_utf8().ok().filter(|meant| meant != segment);
    let advice = match meant.as_deref().map(|meant| (meant, key::escape(meant))) {
        Some((meant, own)) if meant == own => format!("write `{own}` if that is meant, or `{literally}` for the text `{segment}`"),
        Some((meant, own)) => format!("write `{own}` if {meant:?} is meant, or `{literally}` for the text `{segment}`"),
        None => format!("write `{literally}`"),
    };
    format!("the key's name is not escaped as this library does it: {advice}")
}

/// The first segment of a relative key and what is below it.
fn split_first(relative: &str) -> (&str, Option<&str>) {
    match relative.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (relative, None),
    }
}

/// The key of a segment where a walk is, or of no segment the directory that it is in.
fn place(directory: &Key, prefix: &str, segment: &str) -> Key {
    match format!("{prefix}{segment}").trim_end_matches('/') {
        "" => directory.clone(),
        relative => directory.descend(relative),
    }
}

/// The part of a tree whose keys start with `prefix`.
fn with_prefix<'t, 'p>(tree: &'t Tree, prefix: &'p str) -> impl Iterator<Item = (&'t str, &'t Stored)> + use<'t, 'p> {
    let from = tree.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    from.take_while(move |(key, _)| key.starts_with(prefix)).map(|(key, value)| (key.as_str(), value))
}

#[cfg(all(test, feature = "derive"))]
mod tests;
