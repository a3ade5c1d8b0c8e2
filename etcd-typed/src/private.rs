//! What derived code calls. Not covered by semantic versioning; `etcd-derive` is pinned to the same version.

use std::fmt::{self, Debug, Write as _};

pub use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::error::Result;
use crate::handle::EtcdSchema;
use crate::key::Key;
use crate::schema::{Change, Field, Keyed, Kind, Presence};
use crate::value::ValueError;

/// A field of which nothing was said; a row of a table names what it has.
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

/// One segment of a struct's prefix.
#[derive(Clone, Copy)]
pub enum Segment<'a> {
    /// Written in the pattern, without parameters.
    Literal(&'static str),
    /// Put together from literals and parameters; escaped as a whole.
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

/// The handle of a struct below the client's namespace.
pub fn open<S: EtcdSchema>(client: &Client, prefix: &[Segment<'_>]) -> Result<S::Handle> {
    let mut key: Key = client.namespace().clone();
    for segment in prefix {
        key = match segment {
            Segment::Literal(text) => key.descend(text),
            Segment::Of(pieces) => {
                let mut text = String::new();
                for piece in *pieces {
                    // A `Display` that fails has said all it had to say.
                    let _ = write!(text, "{piece}");
                }
                key.child(&text)
            }
        };
    }
    Ok(client.dir_at::<S>(key))
}

/// The result of a `with = module`'s `encode`.
pub fn encoded<B: Into<Bytes>, E: fmt::Display>(result: std::result::Result<B, E>) -> std::result::Result<Bytes, ValueError> {
    result.map(Into::into).map_err(ValueError::new)
}

/// The result of a `with = module`'s `decode`, or of a `validate = path`.
pub fn checked<T, E: fmt::Display>(result: std::result::Result<T, E>) -> std::result::Result<T, ValueError> {
    result.map_err(ValueError::new)
}

/// What `#[etcd(json)]` needs of a generic type.
pub trait Serde: Serialize + DeserializeOwned {}

impl<T: Serialize + DeserializeOwned> Serde for T {}

/// A text as a stored value.
pub fn text(text: &'static str) -> Result<Bytes, ValueError> {
    Ok(Bytes::from_static(text.as_bytes()))
}

/// A stored value as a text, without the white space around it.
pub fn trimmed(bytes: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(bytes).map(str::trim).map_err(|_| ValueError::new("not UTF-8 text"))
}

/// The error of a value that is none of its type.
pub fn not_a(type_name: &str) -> ValueError {
    ValueError::new(format_args!("not {type_name}"))
}

/// A variant of a change enum.
pub fn change(f: &mut fmt::Formatter<'_>, variant: &str, change: &dyn Debug) -> fmt::Result {
    f.debug_tuple(variant).field(change).finish()
}

/// A variant of a change enum, of a field whose values are not to be seen.
pub fn secret_change<T>(f: &mut fmt::Formatter<'_>, variant: &str, secret: &Change<T>) -> fmt::Result {
    change(f, variant, &masked(secret))
}

/// The same of a map's entry.
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
    }
}

/// What is shown of a secret.
struct Masked;

impl Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
