//! Functions that derived code calls. They are not covered by semantic versioning; `etcd-derive` is
//! pinned to the same version.

use std::fmt::{self, Debug, Write as _};
use std::marker::PhantomData;

pub use bytes::Bytes;
use serde::de::DeserializeOwned;
pub use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::error::{Masked, Result};
use crate::handle::EtcdSchema;
pub use crate::handle::{Entries, Fields};
use crate::key::Key;
use crate::schema::{Change, Field, Keyed, Kind, Presence, Table};
pub use crate::schema::{Fallback, Leaf, LeafOpt, LeafOptOr, LeafTuple, OneLeaf, Tuple};
use crate::value::{Codec, EtcdValue, ValueError};
pub use crate::value::{from_text, present, to_text};

/// The defaults of a table row. Rows of directories and maps override some of them.
pub const FIELD: Field = Field {
    name: "",
    segment: "",
    aliases: &[],
    doc: "",
    kind: Kind::Leaf(""),
    presence: Presence::Required,
    secret: false,
    validated: false,
};

/// Fails the build if two fields of the struct, including the fields of flattened structs, have the
/// same segment. The derive sees only the struct's own fields.
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

/// Whether a field in `inner` has the segment of a field in `outer`, ignoring the field `except` of
/// `outer`.
const fn share_a_segment(inner: &Table, outer: &Table, except: usize) -> bool {
    let mut rest = inner.fields;
    while let Some((field, after)) = rest.split_first() {
        let shares = match field.kind {
            Kind::Flatten(inner) => share_a_segment(inner, outer, except),
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

const fn has_segment(table: &Table, except: usize, segment: &str) -> bool {
    let (mut at, mut rest) = (0, table.fields);
    while let Some((field, after)) = rest.split_first() {
        let has = match field.kind {
            _ if at == except => false,
            Kind::Flatten(inner) => has_segment(inner, usize::MAX, segment),
            _ => {
                let mut found = same(field.segment, segment);
                let mut aliases = field.aliases;
                while let Some((alias, others)) = aliases.split_first() {
                    found |= same(alias, segment);
                    aliases = others;
                }
                found
            }
        };
        if has {
            return true;
        }
        (at, rest) = (at + 1, after);
    }
    false
}

/// `==` for `const fn`.
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
    /// A segment built from literals and parameters. It is escaped as a whole.
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

/// [`Codec::json`] as a function, for the same reason.
pub const fn json<T: Serialize + DeserializeOwned>() -> Codec<T> {
    Codec::json()
}

/// Sets the function that compares the values of a `json` or `with` field with what is read back.
pub const fn compared<T>(codec: Codec<T>, equal: Option<fn(&T, &T) -> bool>) -> Codec<T> {
    codec.compared(equal)
}

/// `Comparable::<T>::EQUAL` is `Some` of `==` if `T` has it, and `None` otherwise: the inherent
/// constant takes precedence over that of the trait.
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

/// The bound of `#[etcd(json)]` on a generic type.
pub trait Serde: Serialize + DeserializeOwned {}

impl<T: Serialize + DeserializeOwned> Serde for T {}

/// Converts a static text to a stored value.
pub fn text(text: &'static str) -> Result<Bytes, ValueError> {
    Ok(Bytes::from_static(text.as_bytes()))
}

/// Reads a stored value as text, without surrounding white space.
pub fn trimmed(bytes: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(bytes).map(str::trim).map_err(|_| ValueError::new("not UTF-8 text"))
}

/// The error for a text that is not a value of the type.
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
