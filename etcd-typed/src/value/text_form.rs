//! The stored form of types that are read with `FromStr` and written with `Display`.

use std::fmt::{self, Display};
use std::ops::{Deref, DerefMut};
use std::str::FromStr;

use bytes::Bytes;

use super::{Codec, Equal, EtcdValue, ValueError, changed, text, unreadable};

const TEXT: &str = "text";

/// Stores a type that implements `Display` and `FromStr` as its text. Use `Text` where no attribute
/// can be set: for map keys, list elements and single entries. On a field or a newtype,
/// `#[etcd(text)]` does the same.
///
/// A write is refused with [`Encode`](crate::ErrorKind::Encode) if reading the text does not return
/// an equal value. A read parses the stored text. If that fails, the read parses the text
/// without surrounding white space.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use etcd_typed::{Client, EtcdSchema, Text};
/// # use std::{fmt, str::FromStr};
/// # #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
/// # pub struct Version(u64, u64);
/// # impl fmt::Display for Version {
/// #     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}.{}", self.0, self.1) }
/// # }
/// # impl FromStr for Version {
/// #     type Err = std::num::ParseIntError;
/// #     fn from_str(text: &str) -> Result<Self, Self::Err> {
/// #         let (major, minor) = text.split_once('.').unwrap_or((text, ""));
/// #         Ok(Self(major.parse()?, minor.parse()?))
/// #     }
/// # }
///
/// #[derive(EtcdSchema)]
/// struct Releases {
///     #[etcd(text)]
///     oldest: Version,
///     #[etcd(entries)]
///     notes: BTreeMap<Text<Version>, String>,
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// let client = Client::connect("memory:").await?;
/// let releases = client.dir::<Releases>("/releases")?;
/// let notes = BTreeMap::from([(Text(Version(1, 4)), "faster".to_owned())]);
/// releases.set(&Releases { oldest: Version(1, 2), notes }).await?; // /releases/notes/1.4 is `faster`
/// assert_eq!(*client.entry::<String>("/releases/oldest")?.get().await?.expect("a value"), "1.2");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<T>(
    /// The value.
    pub T,
);

impl<T> Deref for Text<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Text<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> From<T> for Text<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: Display> Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Display + FromStr<Err: Display> + PartialEq> EtcdValue for Text<T> {
    const TYPE: &'static str = TEXT;

    fn encode(&self) -> Result<Bytes, ValueError> {
        encode(&self.0)
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode(bytes).map(Self)
    }

    fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
        survives(&self.0, stored, encode, decode, Some(T::eq))
    }
}

impl<T: Display + FromStr<Err: Display>> Codec<T> {
    /// Returns a codec that stores a type with `Display` and `FromStr` as its text; see [`Text`].
    #[must_use]
    pub const fn text() -> Self {
        let survives: super::Survives<T> = |value, stored, codec| survives(value, stored, encode, decode, codec.equal);
        Self { type_name: TEXT, survives, ..Self::with(encode, decode) }
    }
}

/// Writes the text of a value. Does not use `to_string`, which panics if `Display` fails.
pub(crate) fn encode<T: Display>(value: &T) -> Result<Bytes, ValueError> {
    use std::fmt::Write as _;
    let mut out = String::new();
    write!(out, "{value}").map_err(|_| ValueError::new("its `Display` fails"))?;
    Ok(out.into())
}

/// Parses the stored text. If that fails, parses the text without surrounding white space, since
/// most types do not accept the line break that `echo` adds.
pub(crate) fn decode<T: FromStr<Err: Display>>(bytes: &[u8]) -> Result<T, ValueError> {
    let text = text(bytes)?;
    text.parse().or_else(|_| text.trim().parse()).map_err(|reason: T::Err| ValueError::new(format_args!("not valid: {reason}")))
}

/// Checks that parsing the stored text returns the same value. Compares with `equal` if it is given
/// and the value equals itself, and otherwise compares the texts.
pub(crate) fn survives<T>(
    value: &T,
    stored: &Bytes,
    encode: fn(&T) -> Result<Bytes, ValueError>,
    decode: fn(&[u8]) -> Result<T, ValueError>,
    equal: Option<Equal<T>>,
) -> Result<(), ValueError> {
    let read = decode(stored).map_err(unreadable)?;
    let is_same = match equal.filter(|equal| equal(value, value)) {
        Some(equal) => equal(value, &read),
        None => encode(&read)? == *stored,
    };
    if is_same { Ok(()) } else { Err(changed()) }
}
