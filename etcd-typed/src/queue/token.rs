//! `Token`: a guard as text, for another process. `take_over.rs` carries out the calls with a
//! token.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::key::Key;
use crate::revision::{LeaseId, Revision};

/// A held lock or leadership as text, for another process, which [adopts](crate::NamedLock::adopt),
/// renews or releases it.
///
/// A token is not a secret: every client that may write the key can release the guard. It
/// identifies one guard, not the lock: after the guard is lost, the token is useless.
///
/// The text consists of the key, the fence and the lease in hexadecimal:
/// `/locks/migrate/2f1c8b@17#2f1c8b`. A key that is not UTF-8 (of another client) is written in
/// hexadecimal, and the text ends with `#hex`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    pub(super) key: Key,
    pub(super) fence: Revision,
    pub(super) lease: LeaseId,
}

impl Token {
    pub(crate) fn new(key: Key, fence: Revision, lease: LeaseId) -> Self {
        Self { key, fence, lease }
    }

    /// The guard's key in the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The fencing token of the guard.
    #[must_use]
    pub fn fence(&self) -> Revision {
        self.fence
    }

    /// The lease that the key is attached to.
    #[must_use]
    pub fn lease_id(&self) -> LeaseId {
        self.lease
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, fence, lease } = self;
        if key.is_text() {
            return write!(f, "{key}@{fence}#{lease}");
        }
        key.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "@{fence}#{lease}{HEX}")
    }
}

/// The error for a text that is not a [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenError;

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token is a key, a fence and a lease: `/locks/migrate/2f1c8b@17#2f1c8b`")
    }
}

impl std::error::Error for TokenError {}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (text, hex) = text.strip_suffix(HEX).map_or((text, false), |text| (text, true));
        let (rest, lease) = text.rsplit_once('#').ok_or(TokenError)?;
        let (key, fence) = rest.rsplit_once('@').ok_or(TokenError)?;
        let lease = u64::from_str_radix(lease, 16).ok().and_then(|lease| LeaseId::from_signed(lease.cast_signed())).ok_or(TokenError)?;
        let fence = fence.parse().map(Revision::new).map_err(|_| TokenError)?;
        let key = if hex { bytes(key).ok_or(TokenError)? } else { key.as_bytes().to_vec() };
        // A key in a queue begins with the queue's name, which is not empty, and a slash.
        let in_a_queue = key.iter().skip(1).any(|byte| *byte == b'/');
        if in_a_queue { Ok(Self { key: Key::stored(&key), fence, lease }) } else { Err(TokenError) }
    }
}

/// The end of a token whose key is written in hexadecimal. A lease never ends like this.
const HEX: &str = "#hex";

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_text_keeps_every_key() {
        let keys = [
            &b"/locks/a/1"[..],
            b"/a//1",
            b"a/1",
            b"//1",
            b"dlock:x/1",
            b" /1",
            b"a@b#c/1",
            "ü/1".as_bytes(),
            b"a/b/c",
            b"q/\xff\xfe",
            b"q/\0",
        ];
        for key in keys {
            for lease in [17, -17] {
                let token = Token::new(Key::stored(key), Revision::new(3), LeaseId::from_signed(lease).unwrap());
                assert_eq!(token.to_string().parse(), Ok(token.clone()), "{token}");
            }
        }
    }

    #[test]
    fn malformed_token_is_refused() {
        for nonsense in [
            "",
            "/x",
            "/x/1@2",
            "/x/1#2",
            "x@1#2",
            "/x/1@#2",
            "/x/1@2#",
            "/x/1@2#0",
            "/x/1@two#2",
            "/x/1@2#xyz",
            "/x@1#2",
            "abc@1#2#hex",
            "zz@1#2#hex",
            "@1#2#hex",
        ] {
            assert_eq!(nonsense.parse::<Token>(), Err(TokenError), "{nonsense}");
        }
    }
}
