//! `EtcdValue` converts a type to and from bytes. `Codec` does so for one field, with the field's
//! own rules. The stored form is the text that a person would type, and reading it returns an equal
//! value.

mod duration;
mod json;
mod limits;
mod list;
mod module;
mod number;
mod plain;
mod pointer;
mod secret;
mod segment;
#[cfg(feature = "bytesize-2")]
mod size;
pub(crate) mod text_form;
mod time;
#[cfg(feature = "url")]
mod web;

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
pub use json::Json;
pub use limits::{Bounds, Length, Limits, LimitsOf, has_length, in_range, is_one_of};
pub use list::InList;
pub(crate) use list::form_survives;
pub use module::{from_text, present, to_text};
pub use secret::{Secret, serialize_masked};
use serde::Serialize;
use serde::de::DeserializeOwned;
pub use text_form::Text;

use crate::error::ProblemKind;

/// A type that is stored as the value of one key.
///
/// The stored form is the text that a person would type with a command-line client: `8080`,
/// `debug`, `1m30s`; never `"8080"`. Reading removes surrounding white space, unless white space
/// can be part of the type (a value written with `echo` ends with a newline).
///
/// A write stores a value only if a read would return an equal one; [`survives`](Self::survives)
/// explains how this is checked. All other values are refused with
/// [`Encode`](crate::ErrorKind::Encode) before anything is sent.
///
/// If a method panics, the call returns an error for that key, and nothing else stops: `Decode` or
/// `Invalid` for a read, `Encode` for a write. The program's panic hook still runs. With `panic =
/// "abort"` the program ends.
///
/// | type | stored form |
/// |---|---|
/// | `bool`, integers, `f32`, `f64`, `char`, IP and socket addresses, UUID | as `Display` writes it. A finite number that is too large for the type, such as `1e400`, is refused |
/// | `String`, `PathBuf`, `Bytes`, `Vec<u8>` | unchanged. etcd v2 stores text only |
/// | `Vec`, `BTreeSet`, `HashSet`, arrays and tuples of values | a JSON array: `["a","b"]`, `[80,443]`. Numbers, booleans and lists are written as JSON, all other elements as strings. A hash set is sorted |
/// | `Box<T>`, `Arc<T>`, [`Secret<T>`](Secret) | as `T` |
/// | `Box<str>`, `Arc<str>`, `Cow<'static, str>` | unchanged |
/// | `bytesize::ByteSize` (feature `bytesize-2`) | `64MiB`, in the largest unit without a fraction. Reading also accepts `1.5 GiB`, `64M` and plain numbers of bytes, and never rounds |
/// | `Duration`, `jiff::SignedDuration` | `1m30s`, with `h`, `m`, `s`, `ms`, `us`, `ns`, as Go's `time.ParseDuration` reads it. Reading also accepts `1m 30s`, `1.5h`, `90 seconds`, `2days`, `1week` and ISO 8601 (`PT1H30M`, `P1DT0.5S`; a day is 24 hours). Months and years are refused, since they differ in length. `M` is refused, since it may mean minutes |
/// | `jiff::Span` | like `Duration` if the span has no days or larger units, otherwise ISO 8601: `P1M2DT3H` |
/// | `SystemTime`, `chrono::DateTime`, `jiff::Timestamp` | RFC 3339 |
/// | dates, times of day, `jiff::civil::DateTime` | ISO 8601. A text with an offset, or with another part that the type cannot hold, is refused |
/// | `url::Url` | unchanged. A URL without `//` after the scheme is accepted only for schemes that have no host, such as `mailto:`, since `localhost:80` is a URL with the scheme `localhost` |
///
/// Derive `EtcdValue` for newtypes and for enums without data. For any type with `Display` and
/// `FromStr`, use `#[etcd(text)]` on the field, or [`Text`]. For any serde type, use
/// `#[etcd(json)]` on the field, or [`Json`]. For other types, implement `EtcdValue` by hand:
///
/// ```
/// use bytes::Bytes;
/// use etcd_typed::{EtcdValue, ValueError};
///
/// #[derive(Debug, PartialEq)]
/// struct Percent(u8);
///
/// impl EtcdValue for Percent {
///     const TYPE: &'static str = "percent";
///
///     fn encode(&self) -> Result<Bytes, ValueError> {
///         Ok(format!("{}%", self.0).into())
///     }
///
///     fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
///         let text = std::str::from_utf8(bytes).map_err(ValueError::new)?;
///         let number = text.trim().strip_suffix('%').ok_or_else(|| ValueError::new("a percentage ends with `%`"))?;
///         number.parse().map(Self).map_err(ValueError::new)
///     }
/// }
///
/// assert_eq!(Percent::decode(b"12%"), Ok(Percent(12)));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no stored form of its own",
    label = "not an `EtcdValue`",
    note = "for a serde type add `#[etcd(json)]` to the field",
    note = "for an enum without data, or a newtype, add `#[derive(EtcdValue)]` to the type",
    note = "for a struct of keys add `#[etcd(dir)]` to the field"
)]
pub trait EtcdValue: Sized {
    /// A description of the type for error messages: `integer`, `duration`, ``one of `debug`,
    /// `info` ``.
    const TYPE: &'static str;

    /// True if an error may quote a stored text that is not a value of the type, as in ``"loud" is
    /// not one of `debug`, `info` ``. Booleans, times, addresses, derived enums and out-of-range
    /// integers are quoted. The default is `false`, since a text of any other type may contain a
    /// password. A field with `#[etcd(secret)]` is never quoted.
    const QUOTABLE: bool = false;

    /// True if the values are secret: no output of this crate shows them, as for a field with
    /// `#[etcd(secret)]`. `true` for [`Secret`], and for lists and newtypes of a `Secret`.
    const SECRET: bool = false;

    /// How a value is written as an element of a list. The default is a JSON string. The stored
    /// forms of numbers, booleans and lists are JSON already.
    const IN_LIST: InList = InList::Text;

    /// Whether the type is `u8`: a `Vec<u8>` is stored as bytes, not as a list.
    #[doc(hidden)]
    const IS_BYTE: bool = false;

    /// Returns the slice as bytes if the type is `u8`.
    #[doc(hidden)]
    fn as_bytes(_: &[Self]) -> Option<&[u8]> {
        None
    }

    /// Returns the bytes as a vector if the type is `u8`.
    #[doc(hidden)]
    fn from_bytes(_: &[u8]) -> Option<Vec<Self>> {
        None
    }

    /// The number of path segments that a value takes as the key of a map. More than one for a
    /// tuple.
    #[doc(hidden)]
    const SEGMENTS: usize = 1;

    /// Describes the types of the path segments, for people.
    #[doc(hidden)]
    #[must_use]
    fn segment_types() -> String {
        Self::TYPE.to_owned()
    }

    /// Converts a map key to its path segments, each escaped separately.
    #[doc(hidden)]
    fn to_segments(&self) -> Result<String, ValueError> {
        segment::segment_of(self)
    }

    /// Reads a map key from a path of [`SEGMENTS`](Self::SEGMENTS) segments.
    #[doc(hidden)]
    fn from_segments(path: &str) -> Result<Self, (ProblemKind, String)> {
        segment::key_of_segment(path)
    }

    /// Converts the value to its stored form.
    ///
    /// # Errors
    ///
    /// [`ValueError`] for a value without a stored form (such as a path that is not UTF-8).
    fn encode(&self) -> Result<Bytes, ValueError>;

    /// Reads the stored form. Any program may have written the bytes, so they can be anything.
    ///
    /// # Errors
    ///
    /// [`ValueError`] for bytes that are not a value of the type.
    fn decode(bytes: &[u8]) -> Result<Self, ValueError>;

    /// Like [`decode`](Self::decode), but may keep a reference to `bytes` instead of a copy. Such a
    /// reference keeps the whole server message in memory, so the library calls this method only
    /// where a watch holds the message anyway.
    ///
    /// # Errors
    ///
    /// The errors of [`decode`](Self::decode).
    fn decode_shared(bytes: &Bytes) -> Result<Self, ValueError> {
        Self::decode(bytes)
    }

    /// Whether [`encode`](Self::encode) returns these bytes. The library calls this method for
    /// every key of a map, so a type may implement it without encoding the value again. An
    /// implementation must agree with `encode`. Otherwise a map returns a key that its handle
    /// cannot find again.
    #[must_use]
    fn is_stored_as(&self, bytes: &[u8]) -> bool {
        self.encode().is_ok_and(|stored| stored == bytes)
    }

    /// Checks that reading `stored`, the result of [`encode`](Self::encode) for this value, returns
    /// an equal value. The library calls this method before each write.
    ///
    /// The default decodes `stored`, encodes the result and compares the two stored forms. This
    /// comparison does not notice if `encode` rounds a value. A type that rounds should compare the
    /// values:
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use etcd_typed::{EtcdValue, ValueError};
    /// # #[derive(Debug, PartialEq)]
    /// struct Percent(f64); // written as `12%`
    /// # impl EtcdValue for Percent {
    /// # const TYPE: &'static str = "percent";
    /// # fn encode(&self) -> Result<Bytes, ValueError> { Ok(format!("{:.0}%", self.0).into()) }
    /// # fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
    /// #     let text = std::str::from_utf8(bytes).map_err(ValueError::new)?;
    /// #     text.trim_end_matches('%').parse().map(Self).map_err(ValueError::new)
    /// # }
    ///
    /// fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
    ///     if Self::decode(stored)? == *self { Ok(()) } else { Err(ValueError::new("a percentage is a whole number")) }
    /// }
    /// # }
    /// # for (percent, survives) in [(12.0, true), (12.3, false)] {
    /// #     let percent = Percent(percent);
    /// #     assert_eq!(percent.encode().and_then(|stored| percent.survives(&stored)).is_ok(), survives);
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ValueError`] if the values differ.
    fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
        let read = Self::decode(stored).map_err(unreadable)?;
        has_form_of(&read, self, stored, Self::encode)
    }
}

/// The reason why a value has no stored form, or why bytes are not a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError(String);

impl ValueError {
    /// Creates an error from a reason. The reason must not contain the value, since the field may
    /// be a secret. See [`EtcdValue::QUOTABLE`].
    pub fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ValueError {}

/// A function that checks whether a value may be written.
type Check<T> = fn(&T) -> Result<(), ValueError>;

type Equal<T> = fn(&T, &T) -> bool;

/// A function that checks whether reading the stored form returns an equal value.
type Survives<T> = fn(&T, &Bytes, &Codec<T>) -> Result<(), ValueError>;

/// Reads, writes and checks the values of one key. The derive creates a codec for each field from
/// the field's attributes. Without the derive, [`Client::entry`](crate::Client::entry) uses
/// [`Codec::value`], and [`Client::entry_with`](crate::Client::entry_with) takes any codec:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// use etcd_typed::bytes::Bytes;
/// use etcd_typed::{Client, Codec, ErrorKind, ValueError};
///
/// /// Seconds, stored as hexadecimal digits by another program.
/// const HEX: Codec<u32> = Codec::with(
///     |seconds| Ok(format!("{seconds:x}").into()),
///     |bytes: &[u8]| {
///         let text = std::str::from_utf8(bytes).map_err(ValueError::new)?;
///         u32::from_str_radix(text.trim(), 16).map_err(ValueError::new)
///     },
/// );
///
/// let client = Client::connect("memory:").await?;
/// let timeout = client.entry_with("/app/timeout", HEX)?;
/// timeout.set(&255).await?;
/// assert_eq!(client.entry::<Bytes>("/app/timeout")?.get().await?.as_deref(), Some(&Bytes::from("ff")));
///
/// // A validation, and any serde type as JSON.
/// let at_most_a_day = |seconds: &u32| if *seconds <= 86_400 { Ok(()) } else { Err(ValueError::new("more than a day")) };
/// let timeout = client.entry_with("/app/timeout", HEX.validated(at_most_a_day))?;
/// assert_eq!(timeout.set(&100_000).await.map_err(|error| error.kind()), Err(ErrorKind::Invalid));
/// let hosts = client.entries_with::<String, _>("/app/hosts", Codec::<Vec<String>>::json())?;
/// hosts.entry("web")?.set(&vec!["a".to_owned()]).await?;
///
/// // Keep a password out of every message.
/// let password = client.entry_with("/app/password", Codec::<String>::value().secret())?;
/// # password.set(&"hunter2".to_owned()).await?;
/// # Ok(()) }
/// ```
pub struct Codec<T> {
    pub(crate) type_name: &'static str,
    encode: fn(&T) -> Result<Bytes, ValueError>,
    decode: fn(&[u8]) -> Result<T, ValueError>,
    /// Set only for types that implement [`EtcdValue`].
    decode_shared: Option<fn(&Bytes) -> Result<T, ValueError>>,
    survives: Survives<T>,
    equal: Option<Equal<T>>,
    validate: Option<Check<T>>,
    /// The field's limits, checked before a write and after a read.
    pub(crate) limits: LimitsOf<T>,
    secret: bool,
    quotable: bool,
}

impl<T> Clone for Codec<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Codec<T> {}

impl<T> fmt::Debug for Codec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec").field("type_name", &self.type_name).field("secret", &self.secret).finish_non_exhaustive()
    }
}

impl<T: EtcdValue> Codec<T> {
    /// Returns the codec for the type's own stored form.
    #[must_use]
    pub const fn value() -> Self {
        let survives: Survives<T> = |value, stored, _| value.survives(stored);
        Self {
            type_name: T::TYPE,
            decode_shared: Some(T::decode_shared),
            survives,
            secret: T::SECRET,
            quotable: T::QUOTABLE && !T::SECRET,
            ..Self::with(T::encode, T::decode)
        }
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> {
    /// Returns a codec that stores any serde type as JSON; see [`Json`].
    #[must_use]
    pub const fn json() -> Self {
        let survives: Survives<T> = |value, stored, codec| json::survives(value, stored, codec.equal_to_itself(value));
        Self { type_name: json::JSON, survives, ..Self::with(json::encode, json::decode) }
    }
}

impl<T> Codec<T> {
    /// Creates a codec from two functions. A value is written only if decoding its encoded form
    /// returns an equal value. In a derived struct, the two values are compared with `==` if the
    /// type implements it. Otherwise their stored forms are compared.
    #[must_use]
    pub const fn with(encode: fn(&T) -> Result<Bytes, ValueError>, decode: fn(&[u8]) -> Result<T, ValueError>) -> Self {
        let survives: Survives<T> = |value, stored, codec| {
            let read = (codec.decode)(stored).map_err(unreadable)?;
            match codec.equal_to_itself(value) {
                Some(equal) if equal(value, &read) => Ok(()),
                Some(_) => Err(changed()),
                None => has_form_of(&read, value, stored, codec.encode),
            }
        };
        Self {
            type_name: "custom",
            encode,
            decode,
            decode_shared: None,
            survives,
            equal: None,
            validate: None,
            limits: LimitsOf::NONE,
            secret: false,
            quotable: false,
        }
    }

    /// Sets the function that compares a value with the result of reading it back.
    #[must_use]
    pub(crate) const fn compared(mut self, equal: Option<fn(&T, &T) -> bool>) -> Self {
        self.equal = equal;
        self
    }

    /// Adds a validation: a check of every value before it is written, and before a live view shows
    /// it.
    #[must_use]
    pub const fn validated(mut self, validate: fn(&T) -> Result<(), ValueError>) -> Self {
        self.validate = Some(validate);
        self
    }

    /// Sets the limits that every value is checked against before it is written and after it is
    /// read.
    #[must_use]
    pub(crate) const fn limited(mut self, limits: LimitsOf<T>) -> Self {
        self.limits = limits;
        self
    }

    /// Makes the values secret: errors contain neither the value nor the reason why it was refused.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Returns the name of the value type, for messages: [`EtcdValue::TYPE`], `JSON`, `text` or
    /// `custom`.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        self.type_name
    }

    /// Whether the values are secret and must not be shown.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        self.secret
    }

    /// Whether the codec has a validation.
    pub(crate) const fn is_validated(&self) -> bool {
        self.validate.is_some()
    }

    /// Returns the comparison function. `None` for a value that does not equal itself, such as NaN.
    fn equal_to_itself(&self, value: &T) -> Option<Equal<T>> {
        self.equal.filter(|equal| equal(value, value))
    }

    /// Encodes a value to be written, and checks that reading it back returns an equal value.
    pub(crate) fn encode(&self, value: &T) -> Result<Bytes, ValueError> {
        let stored = self.form(value)?;
        let survives = || if stored == LOST { Err(changed()) } else { (self.survives)(value, &stored, self) };
        contained("the check that the value can be read back", survives).map_err(|reason| self.masked(reason))?;
        Ok(stored)
    }

    /// Encodes a value without any check, for a value that was read.
    pub(crate) fn form(&self, value: &T) -> Result<Bytes, ValueError> {
        contained("the encoder", || (self.encode)(value)).map_err(|reason| self.masked(reason))
    }

    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<T, ValueError> {
        let read = || if bytes == LOST { Err(lost()) } else { (self.decode)(bytes) };
        self.read(bytes, read)
    }

    /// Runs a decoder, and checks the decoded value against the limits.
    fn read(&self, bytes: &[u8], decode: impl FnOnce() -> Result<T, ValueError>) -> Result<T, ValueError> {
        let read = contained("the decoder", decode).and_then(|value| self.limit(&value).map(|()| value));
        read.map_err(|reason| self.masked(self.refusal(reason, bytes)))
    }

    fn limit(&self, value: &T) -> Result<(), ValueError> {
        if self.limits.is_none() {
            return Ok(());
        }
        contained("the check of the limits", || self.limits.check(value))
    }

    /// Returns the error for stored bytes that are not a value. The error quotes the bytes if that
    /// is allowed.
    #[cold]
    fn refusal(&self, ValueError(reason): ValueError, bytes: &[u8]) -> ValueError {
        /// The longest text that is quoted, in bytes. People cannot read longer texts in an error.
        const LONGEST: usize = 64;
        if bytes == LOST {
            return ValueError(reason);
        }
        let cause = match bytes {
            [0xef, 0xbb, 0xbf, ..] => "; it begins with a byte order mark (the bytes EF BB BF): store it without",
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "; it begins with the byte order mark of UTF-16: store it as UTF-8 without one",
            _ => "",
        };
        // A number outside of the field's limits is quoted like a number outside of its type's
        // range.
        let is_number =
            |text: &str| !self.limits.is_none() && reason.starts_with("not ") && text.trim().parse::<f64>().is_ok_and(f64::is_finite);
        let quoted = std::str::from_utf8(bytes).ok().filter(|text| (self.quotable || is_number(text)) && text.len() <= LONGEST);
        ValueError(match quoted {
            Some(text) if reason.starts_with("not ") => format!("{:?} is {reason}{cause}", text.trim()),
            Some(text) => format!("{:?}: {reason}{cause}", text.trim()),
            None => reason + cause,
        })
    }

    /// See [`EtcdValue::decode_shared`].
    pub(crate) fn decode_shared(&self, bytes: &Bytes) -> Result<T, ValueError> {
        match self.decode_shared {
            Some(decode) if bytes != LOST => self.read(bytes, || decode(bytes)),
            _ => self.decode(bytes),
        }
    }

    /// Whether `stored` represents the same value as `ours`, which [`encode`](Self::encode)
    /// returned. The order of fields in a JSON object does not matter.
    pub(crate) fn is_same(&self, ours: &Bytes, stored: &Bytes) -> bool {
        if ours == stored {
            return true;
        }
        let Some(again) = self.decode(stored).ok().and_then(|value| self.form(&value).ok()) else { return false };
        let document = |bytes: &Bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok();
        again == *ours || self.type_name == json::JSON && document(&again).is_some_and(|again| document(ours) == Some(again))
    }

    /// Checks a value against the limits, and runs the validation.
    pub(crate) fn validate(&self, value: &T) -> Result<(), ValueError> {
        self.limit(value).map_err(|reason| match self.form(value) {
            Ok(stored) => self.masked(self.refusal(reason, &stored)),
            Err(_) => self.masked(reason),
        })?;
        let Some(validate) = self.validate else { return Ok(()) };
        contained("the validation", || validate(value)).map_err(|reason| self.masked(reason))
    }

    pub(crate) fn masked(&self, reason: ValueError) -> ValueError {
        if self.secret { ValueError::new("*** (a secret: the reason is not shown)") } else { reason }
    }
}

/// Runs a function that a user's type or codec provides. A panic becomes an error for this value
/// only, since a stored value must not end the task that reads it.
pub(crate) fn contained<T>(what: &str, run: impl FnOnce() -> Result<T, ValueError>) -> Result<T, ValueError> {
    // A panic may leave the function's data half changed, but nothing uses that data afterwards.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(panicked(what, &*panic)))
}

#[cold]
fn panicked(what: &str, panic: &(dyn Any + Send)) -> ValueError {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    match text {
        Some(text) => ValueError::new(format_args!("{what} panicked: {text}")),
        None => ValueError::new(format_args!("{what} panicked")),
    }
}

/// The placeholder that the v2 store returns for a value that is not UTF-8. A v2 server answers in
/// JSON, where it replaces the bytes that are not UTF-8. No codec decodes the placeholder.
pub(crate) const LOST: &[u8] = b"\xffetcd-typed: this value is not UTF-8, and etcd v2 does not return such values\xff";

fn lost() -> ValueError {
    ValueError::new("it is not UTF-8 text, and etcd v2 returned it with bytes replaced; write it as text, or use etcd v3")
}

fn unreadable(reason: ValueError) -> ValueError {
    ValueError::new(format_args!("its stored form cannot be read: {reason}"))
}

fn changed() -> ValueError {
    ValueError::new("reading its stored form returns another value")
}

/// Checks that `read` and `value` have the same stored form.
fn has_form_of<T>(read: &T, value: &T, stored: &Bytes, encode: fn(&T) -> Result<Bytes, ValueError>) -> Result<(), ValueError> {
    let again = encode(read).map_err(|_| changed())?;
    // A type with a `HashSet` may be encoded in a different order each time the set is built.
    // Encrypted data has a different stored form each time it is encoded.
    if again == stored || has_bytes_of(&again, stored) || encode(value)? != stored { Ok(()) } else { Err(changed()) }
}

/// Whether both slices contain the same bytes in any order.
fn has_bytes_of(one: &[u8], other: &[u8]) -> bool {
    let count = |bytes: &[u8]| {
        let mut counts = [0_usize; 256];
        bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        counts
    };
    one.len() == other.len() && count(one) == count(other)
}

/// Implements [`EtcdValue::survives`] for a type whose values can be compared with `==`.
fn unchanged<T: EtcdValue + PartialEq>(value: &T, stored: &Bytes) -> Result<(), ValueError> {
    if T::decode(stored).map_err(unreadable)? == *value { Ok(()) } else { Err(changed()) }
}

fn text(bytes: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(bytes).map_err(|_| ValueError::new("not UTF-8 text"))
}

/// Implements [`EtcdValue::survives`] for a type that encodes every value exactly.
macro_rules! exact {
    () => {
        fn survives(&self, _: &Bytes) -> Result<(), ValueError> {
            Ok(())
        }
    };
}
use exact;

/// Implements [`EtcdValue`] with `Display` and `FromStr`. With `not`, errors say what a value must
/// be, such as `an IP address`; otherwise they contain the error of `FromStr`.
macro_rules! text_values {
    ($name:literal: $($type:ty),+) => {
        $crate::value::text_values!(@ $name, |reason| $crate::value::ValueError::new(format_args!("not a value of type {}: {reason}", $name)) => $($type),+);
    };
    ($name:literal, not $not:literal: $($type:ty),+) => {
        $crate::value::text_values!(@ $name, |_| $crate::value::ValueError::new(concat!("not ", $not)) => $($type),+);
    };
    (@ $name:literal, $wrong:expr => $($type:ty),+) => {$(
        impl EtcdValue for $type {
            const TYPE: &'static str = $name;
            const QUOTABLE: bool = true;
            const IN_LIST: $crate::value::InList = $crate::value::list::of_name($name);

            fn encode(&self) -> Result<Bytes, ValueError> {
                Ok(self.to_string().into())
            }

            fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
                text(bytes)?.trim().parse().map_err($wrong)
            }

            fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
                crate::value::unchanged(self, stored)
            }
        }
    )+};
}
use text_values;

text_values!("boolean", not "`true` or `false`": bool);
text_values!("IP address", not "an IP address, as in `192.0.2.1` or `2001:db8::1`": IpAddr);
text_values!("IP address", not "an IPv4 address, as in `192.0.2.1`": Ipv4Addr);
text_values!("IP address", not "an IPv6 address, as in `2001:db8::1`": Ipv6Addr);
// The text form of an IPv6 socket address does not include the flow information.
text_values!("address:port", not "an IP address with a port, as in `192.0.2.1:80` or `[2001:db8::1]:80`": SocketAddr);
text_values!("address:port", not "an IPv4 address with a port, as in `192.0.2.1:80`": SocketAddrV4);
text_values!("address:port", not "an IPv6 address with a port, as in `[2001:db8::1]:80`": SocketAddrV6);
#[cfg(feature = "uuid")]
text_values!("UUID": uuid::Uuid);

#[cfg(test)]
mod tests;
