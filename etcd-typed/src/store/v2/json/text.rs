//! `Text`: a string in an answer. It shows whether the server replaced bytes that were not UTF-8.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

/// A string in an answer. If the server replaced bytes, the string is not valid UTF-8; see
/// [`with_losses`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store::v2) struct Text(pub(super) Bytes);

impl Text {
    pub(in crate::store::v2) fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    pub(in crate::store::v2) fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Returns the key of a node. For the root, the answer contains no key.
    pub(in crate::store::v2) fn or_root(self) -> Bytes {
        if self.0.is_empty() { Bytes::from_static(b"/") } else { self.0 }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Letters;

        impl Visitor<'_> for Letters {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(text.into())
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text(Bytes::copy_from_slice(bytes)))
            }
        }

        // The JSON parser accepts half of a surrogate pair only if it is asked for bytes.
        // `with_losses` inserts such halves, which no UTF-8 text contains.
        deserializer.deserialize_bytes(Letters)
    }
}

/// Returns the body with half of a surrogate pair wherever the server replaced a byte that was not
/// UTF-8. For such a byte, Go's JSON encoder writes the escape `\ufffd`. If the text itself
/// contains U+FFFD, the encoder writes the character unescaped (seen on 3.4.23 and 3.5).
pub(super) fn with_losses(body: &[u8]) -> Cow<'_, [u8]> {
    const REPLACED: &[u8] = b"\\ufffd";
    const HALF: &[u8] = b"\\ud800";
    let mut body = Cow::Borrowed(body);
    let mut from = 0;
    while let Some(at) = body.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == b'\\')) {
        let start = from + at;
        if let Some(escape) = body.get(start..start + REPLACED.len())
            && escape.eq_ignore_ascii_case(REPLACED)
        {
            body.to_mut().splice(start..start + REPLACED.len(), HALF.iter().copied());
        }
        // Skip the escaped character too, which may be a backslash.
        from = start + 2;
    }
    body
}
