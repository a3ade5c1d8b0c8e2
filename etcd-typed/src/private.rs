//! What derived code calls. Not covered by semantic versioning; `etcd-derive` is pinned to the same version.

use std::fmt::{self, Write as _};

use bytes::Bytes;

use crate::client::Client;
use crate::error::Result;
use crate::handle::EtcdSchema;
use crate::key::Key;
use crate::value::ValueError;

/// One segment of a struct's prefix.
#[derive(Clone, Copy)]
pub enum Segment<'a> {
    /// Written in the pattern, without parameters.
    Literal(&'static str),
    /// Put together from literals and parameters; escaped as a whole.
    Of(&'a [&'a dyn fmt::Display]),
}

impl fmt::Debug for Segment<'_> {
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
