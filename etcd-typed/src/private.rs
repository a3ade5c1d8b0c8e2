//! Functions that derived code calls. Semantic versioning does not cover them: `etcd-derive` is
//! pinned to the same version as this crate.

use std::fmt::{self, Debug, Write as _};
use std::marker::PhantomData;
use std::str::FromStr;

pub use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::client::Client;
use crate::error::{Masked, Result};
use crate::handle::EtcdSchema;
pub use crate::handle::{Entries, Fields};
use crate::key::Key;
use crate::schema::{Change, Field, Keyed, Kind, Presence, Table};
pub use crate::schema::{Fallback, Leaf, LeafOpt, LeafOptOr, LeafTuple, OneLeaf, Tuple};
use crate::value::{Bounds, Codec, EtcdValue, Limits, Secret, ValueError, text_form};
pub use crate::value::{LimitsOf, from_text, has_length, in_range, is_one_of, present, to_text};

/// The default values of a table row. Rows of directories and maps override some of these values.
pub const FIELD: Field = Field {
    name: "",
    segment: "",
    aliases: &[],
    doc: "",
    kind: Kind::Leaf(""),
    presence: Presence::Required,
    secret: false,
    validated: false,
    limits: Limits::NONE,
};

/// Fails the build if two fields of the struct, including the fields of flattened structs, have the
/// same segment. The derive macro cannot check this, since it sees only the struct's own fields.
pub const fn distinct(table: &Table) {
    let (mut at, mut rest) = (0, table.fields);
    while let Some((field, after)) = rest.split_first() {
        if let Kind::Flatten(inner) = field.kind
            && share_a_segment(inner, table, at)
        {
            panic!("a field of the flattened struct has the key of another field: rename one of them");
        }
        (at, rest) = (at + 1, after);
    }
}

/// Fails the build if a variant of the enum has a field with the segment of the tag, or if a segment
/// is a key in one variant and a directory in another one.
pub const fn distinct_variants(table: &Table) {
    let (mut rest, mut tag) = (table.fields, "");
    if let Some((first, variants)) = rest.split_first() {
        (tag, rest) = (first.segment, variants);
    }
    while let Some((field, after)) = rest.split_first() {
        if let Kind::Variant { table: one, .. } = field.kind {
            distinct(one);
            if has_segment(one, usize::MAX, tag) {
                panic!("a field of a variant has the key of the tag: rename one of them");
            }
            let mut others = after;
            while let Some((other, after)) = others.split_first() {
                if let Kind::Variant { table: other, .. } = other.kind
                    && is_key_and_directory(one, other)
                {
                    panic!(
                        "two variants would have a key and a directory of the same name, which etcd v2 cannot hold: rename one of the fields"
                    );
                }
                others = after;
            }
        }
        rest = after;
    }
}

/// Whether `one` has a key and `other` a directory with the same segment, or the other way round.
const fn is_key_and_directory(one: &Table, other: &Table) -> bool {
    let mut rest = one.fields;
    while let Some((field, after)) = rest.split_first() {
        let is = match field.kind {
            Kind::Flatten(inner) | Kind::Variant { table: inner, .. } => is_key_and_directory(inner, other),
            _ => {
                let is_key = matches!(field.kind, Kind::Leaf(_));
                let mut found = has_other_kind(other, field.segment, is_key);
                let mut aliases = field.aliases;
                while let Some((alias, others)) = aliases.split_first() {
                    found |= has_other_kind(other, alias, is_key);
                    aliases = others;
                }
                found
            }
        };
        if is {
            return true;
        }
        rest = after;
    }
    false
}

/// Whether a field has this segment and the other kind: a directory if `is_key`, and a key
/// otherwise.
const fn has_other_kind(table: &Table, segment: &str, is_key: bool) -> bool {
    let mut rest = table.fields;
    while let Some((field, after)) = rest.split_first() {
        let is = match field.kind {
            Kind::Flatten(inner) | Kind::Variant { table: inner, .. } => has_other_kind(inner, segment, is_key),
            Kind::Leaf(_) if is_key => false,
            Kind::Leaf(_) => is_stored_at(field, segment),
            _ => is_key && same(field.segment, segment),
        };
        if is {
            return true;
        }
        rest = after;
    }
    false
}

/// Whether a field in `inner` has the segment of a field in `outer`, ignoring the field `except` of
/// `outer`.
const fn share_a_segment(inner: &Table, outer: &Table, except: usize) -> bool {
    let mut rest = inner.fields;
    while let Some((field, after)) = rest.split_first() {
        let shares = match field.kind {
            Kind::Flatten(inner) | Kind::Variant { table: inner, .. } => share_a_segment(inner, outer, except),
            _ => {
                let mut found = has_segment(outer, except, field.segment);
                let mut aliases = field.aliases;
                while let Some((alias, others)) = aliases.split_first() {
                    found |= has_segment(outer, except, alias);
                    aliases = others;
                }
                found
            }
        };
        if shares {
            return true;
        }
        rest = after;
    }
    false
}

/// Whether this segment is the field's own or one of its aliases.
const fn is_stored_at(field: &Field, segment: &str) -> bool {
    let mut found = same(field.segment, segment);
    let mut aliases = field.aliases;
    while let Some((alias, others)) = aliases.split_first() {
        found |= same(alias, segment);
        aliases = others;
    }
    found
}

const fn has_segment(table: &Table, except: usize, segment: &str) -> bool {
    let (mut at, mut rest) = (0, table.fields);
    while let Some((field, after)) = rest.split_first() {
        let has = match field.kind {
            _ if at == except => false,
            Kind::Flatten(inner) | Kind::Variant { table: inner, .. } => has_segment(inner, usize::MAX, segment),
            _ => is_stored_at(field, segment),
        };
        if has {
            return true;
        }
        (at, rest) = (at + 1, after);
    }
    false
}

/// Compares two texts, as `==` does. A `const fn` cannot call `==`.
const fn same(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while let (Some((x, after_a)), Some((y, after_b))) = (a.split_first(), b.split_first()) {
        if *x != *y {
            return false;
        }
        (a, b) = (after_a, after_b);
    }
    a.is_empty() && b.is_empty()
}

/// One segment of a struct's prefix.
#[derive(Clone, Copy)]
pub enum Segment<'a> {
    /// A segment without parameters.
    Literal(&'static str),
    /// A segment that is built from literals and parameters, and then escaped as a whole.
    Of(&'a [&'a dyn fmt::Display]),
}

impl Debug for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::Of(pieces) => pieces.iter().try_for_each(|piece| write!(f, "{piece}")),
        }
    }
}

/// Opens the handle of a struct below the client's namespace.
pub fn open<S: EtcdSchema>(client: &Client, prefix: &[Segment<'_>]) -> Result<S::Handle> {
    let mut key: Key = client.namespace().clone();
    let mut older: Option<Key> = None;
    for segment in prefix {
        (key, older) = match segment {
            Segment::Literal(text) => (key.descend(text), older.map(|older| older.descend(text))),
            Segment::Of(pieces) => {
                let mut text = String::new();
                for piece in *pieces {
                    // If `Display` fails, the key contains the text that was written before the
                    // failure.
                    let _ = write!(text, "{piece}");
                }
                client.child(&key, older, &text)
            }
        };
    }
    Ok(client.dir_at::<S>(key, older))
}

/// Converts the result of `encode` in a `with = module`.
pub fn encoded<B: Into<Bytes>, E: fmt::Display>(result: std::result::Result<B, E>) -> std::result::Result<Bytes, ValueError> {
    result.map(Into::into).map_err(ValueError::new)
}

/// Calls `Serialize` of the type. Derived code calls this function instead of the trait, because
/// errors would show a public name of the trait.
pub fn serialize<T: Serialize, S: Serializer>(value: &T, to: S) -> std::result::Result<S::Ok, S::Error> {
    value.serialize(to)
}

/// Calls `Deserialize` of the type. It is a function for the same reason as [`serialize`].
pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> std::result::Result<T, D::Error> {
    T::deserialize(from)
}

/// A schema in field number `AT` of the struct `P`. The schema may contain `P` in turn. The derive
/// of `P` implements this trait without conditions, and the other code that it generates requires
/// the trait. So the compiler does not follow a cycle of structs when it looks for implementations,
/// but only when it evaluates the constant. There it detects the cycle, and the error shows the
/// name of the constant.
pub trait NestedIn<P, const AT: usize>: EtcdSchema {
    /// The table of the schema.
    const SCHEMAS_CANNOT_CONTAIN_EACH_OTHER: &'static Table = Self::TABLE;
}

/// Converts the result of `validate = path`.
pub fn verdict<V: Verdict>(verdict: V) -> std::result::Result<(), ValueError> {
    verdict.verdict()
}

/// The result of a validation.
#[diagnostic::on_unimplemented(
    message = "`validate` takes a function from `&T` to `Result<(), E>`, with any `E: Display`, and this returns `{Self}`",
    label = "returns `{Self}`"
)]
pub trait Verdict {
    /// Converts the result.
    fn verdict(self) -> std::result::Result<(), ValueError>;
}

impl<E: fmt::Display> Verdict for std::result::Result<(), E> {
    fn verdict(self) -> std::result::Result<(), ValueError> {
        self.map_err(ValueError::new)
    }
}

/// Converts the result of `decode` in a `with = module`.
pub fn checked<T, E: fmt::Display>(result: std::result::Result<T, E>) -> std::result::Result<T, ValueError> {
    result.map_err(ValueError::new)
}

/// [`Codec::value`] as a function, so that for a wrong type the compiler shows the diagnostics of
/// [`EtcdValue`].
pub const fn value<T: EtcdValue>() -> Codec<T> {
    Codec::value()
}

/// [`Codec::json`] as a function, for the same reason as [`value`].
pub const fn json<T: Serde>() -> Codec<T> {
    Codec::json()
}

/// [`Codec::text`] as a function, for the same reason as [`value`].
pub const fn text_form<T: HasText>() -> Codec<T> {
    Codec::text()
}

/// The bound of `#[etcd(text)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored as text",
    label = "`text` needs `Display` and `FromStr`, with an error that implements `Display`"
)]
pub trait HasText: fmt::Display + FromStr<Err: fmt::Display> {}

#[diagnostic::do_not_recommend]
impl<T: fmt::Display + FromStr<Err: fmt::Display>> HasText for T {}

/// Sets the limits of a field.
pub const fn limited<T>(codec: Codec<T>, limits: LimitsOf<T>) -> Codec<T> {
    codec.limited(limits)
}

/// Returns the limits of a field, from functions that read them from its codec.
pub const fn limits(
    range: Option<fn() -> Option<Bounds>>,
    length: Option<fn() -> Option<Bounds>>,
    one_of: Option<fn() -> Option<Vec<String>>>,
) -> Limits {
    Limits { range, length, one_of }
}

/// Returns the range of a map's values.
pub fn range_of<T>(codec: &Codec<T>) -> Option<Bounds> {
    codec.limits.range?(None).ok()?
}

/// Returns the length of a map's values.
pub fn length_of<T>(codec: &Codec<T>) -> Option<Bounds> {
    codec.limits.length?(None).ok()?
}

/// Returns the possible values of a map.
pub fn values_of<T>(codec: &Codec<T>) -> Option<Vec<String>> {
    codec.limits.one_of?(None).ok()?
}

/// Returns the limits of a map's values. If the values are secret, leaves out the limits that must
/// not be shown.
pub const fn shown<T>(codec: &Codec<T>, limits: Limits) -> Limits {
    if codec.is_secret() { limits.of_secret() } else { limits }
}

/// Returns the text that is stored for a value of a field with `text`.
pub fn display<T: fmt::Display>(value: &T) -> Result<Bytes, ValueError> {
    text_form::encode(value)
}

/// Checks that decoding `stored` returns a value that has the same stored form.
pub fn same_form<T: EtcdValue>(stored: &Bytes) -> Result<(), ValueError> {
    crate::value::form_survives::<T>(stored)
}

/// The functions that write a type as text and read it from text.
pub struct TextForm<T> {
    encode: fn(&T) -> Result<Bytes, ValueError>,
    decode: fn(&[u8]) -> Result<T, ValueError>,
}

impl<T> Debug for TextForm<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextForm").finish_non_exhaustive()
    }
}

impl<T> TextForm<T> {
    /// See [`EtcdValue::encode`].
    pub fn encode(&self, value: &T) -> Result<Bytes, ValueError> {
        (self.encode)(value)
    }

    /// See [`EtcdValue::decode`].
    pub fn decode(&self, bytes: &[u8]) -> Result<T, ValueError> {
        (self.decode)(bytes)
    }

    /// See [`EtcdValue::survives`]. Compares the values with `equal`, or their texts if `equal` is
    /// `None`.
    pub fn survives(&self, value: &T, stored: &Bytes, equal: Option<fn(&T, &T) -> bool>) -> Result<(), ValueError> {
        text_form::survives(value, stored, self.encode, self.decode, equal)
    }
}

/// Returns the text form of a type that implements `Display` and `FromStr`.
pub const fn own_text<T: HasText>() -> TextForm<T> {
    TextForm { encode: text_form::encode, decode: text_form::decode }
}

/// `TextOf::<T>::TEXT` is the text form of `T` if `T` implements `Display` and `FromStr`, and
/// otherwise the text form of the value in the newtype `T`. This works because an inherent constant
/// takes precedence over the constant of a trait.
#[derive(Debug)]
pub struct TextOf<T>(PhantomData<T>);

impl<T: fmt::Display + FromStr<Err: fmt::Display>> TextOf<T> {
    /// See [`TextOf`].
    pub const TEXT: TextForm<T> = own_text();
}

/// A newtype: a struct with one value in it.
pub trait Wraps: Sized {
    /// The type of the value in the newtype.
    type Inner;

    /// Makes the newtype from the value in it.
    fn wrap(inner: Self::Inner) -> Self;

    /// Returns the value in the newtype.
    fn inner(&self) -> &Self::Inner;
}

/// See [`TextOf`].
pub trait TextOfInner<T> {
    /// See [`TextOf`].
    const TEXT: TextForm<T>;
}

impl<T: Wraps<Inner: fmt::Display + FromStr<Err: fmt::Display>>> TextOfInner<T> for TextOf<T> {
    const TEXT: TextForm<T> =
        TextForm { encode: |value| text_form::encode(value.inner()), decode: |bytes| text_form::decode(bytes).map(T::wrap) };
}

/// `IsSecret::<T>::IS` is true if `T` is a [`Secret`]. This works because an inherent constant
/// takes precedence over the constant of a trait.
#[derive(Debug)]
pub struct IsSecret<T>(PhantomData<T>);

impl<T> IsSecret<Secret<T>> {
    /// See [`IsSecret`].
    pub const IS: bool = true;
}

/// See [`IsSecret`].
pub trait NotSecret {
    /// See [`IsSecret`].
    const IS: bool = false;
}

impl<T> NotSecret for IsSecret<T> {}

/// Marks the codec as secret if `is`, which is true for a field of type [`Secret`].
pub const fn secret_if<T>(codec: Codec<T>, is: bool) -> Codec<T> {
    if is { codec.secret() } else { codec }
}

/// Sets the function that compares a value of a `json` or `with` field with the value that is read
/// back.
pub const fn compared<T>(codec: Codec<T>, equal: Option<fn(&T, &T) -> bool>) -> Codec<T> {
    codec.compared(equal)
}

/// `Comparable::<T>::EQUAL` is the function `==` if `T` implements `PartialEq`, and `None`
/// otherwise. This works because an inherent constant takes precedence over the constant of a
/// trait.
#[derive(Debug)]
pub struct Comparable<T>(PhantomData<T>);

impl<T: PartialEq> Comparable<T> {
    /// See [`Comparable`].
    pub const EQUAL: Option<fn(&T, &T) -> bool> = Some(T::eq);
}

/// See [`Comparable`].
pub trait NotComparable<T> {
    /// See [`Comparable`].
    const EQUAL: Option<fn(&T, &T) -> bool> = None;
}

impl<T> NotComparable<T> for Comparable<T> {}

/// The bound of `#[etcd(json)]`. It combines both traits of serde, so that a type without them
/// causes one error instead of two.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored as JSON: derive serde's `Serialize` and `Deserialize` for it and for the types in it",
    label = "not `Serialize` and `Deserialize`"
)]
pub trait Serde: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Serde for T {}

/// Converts a static text to a stored value.
pub fn text(text: &'static str) -> Result<Bytes, ValueError> {
    Ok(Bytes::from_static(text.as_bytes()))
}

/// Reads a stored value as text, without surrounding white space.
pub fn trimmed(bytes: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(bytes).map(str::trim).map_err(|_| ValueError::new("not UTF-8 text"))
}

/// Returns the error for a text that is not a value of the type.
pub fn not_a(type_name: &str) -> ValueError {
    ValueError::new(format_args!("not {type_name}"))
}

/// Writes a variant of a change enum.
pub fn change(f: &mut fmt::Formatter<'_>, variant: &str, change: &dyn Debug) -> fmt::Result {
    f.debug_tuple(variant).field(change).finish()
}

/// Writes a variant of a change enum for a secret field, with its values hidden.
pub fn secret_change<T>(f: &mut fmt::Formatter<'_>, variant: &str, secret: &Change<T>) -> fmt::Result {
    change(f, variant, &masked(secret))
}

/// Writes a variant of a change enum for an entry of a secret map, with its values hidden.
pub fn secret_entry<K: Debug, T>(f: &mut fmt::Formatter<'_>, variant: &str, entry: &Keyed<K, Change<T>>) -> fmt::Result {
    change(f, variant, &Keyed { key: &entry.key, change: masked(&entry.change) })
}

fn masked<T>(change: &Change<T>) -> Change<Masked> {
    Change {
        key: change.key.clone(),
        old: change.old.as_ref().map(|_| Masked),
        new: change.new.as_ref().map(|_| Masked),
        revision: change.revision,
        resynced: change.resynced,
        secret: change.secret,
    }
}
