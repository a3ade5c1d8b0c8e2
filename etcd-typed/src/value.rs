//! `EtcdValue`: one value and its bytes; `Codec`: how one field does it. What is written is what a person would type, and is read back equal.

mod duration;
mod json;
mod number;
mod time;

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use bytes::Bytes;
pub use json::Json;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A type that is stored as the value of one key.
///
/// The stored form is the text that a person would type with a command-line client: `8080`, `debug`, `1m30s`; never `"8080"`.
/// Reading takes surrounding white space off where the type has none of its own (a value written with `echo` ends with a newline).
///
/// A write stores only what a read returns equal; [`survives`](Self::survives) says how this is known. Everything else is refused with
/// [`Encode`](crate::ErrorKind::Encode) before it is sent.
///
/// If a method panics, this is an error of the key that it was called for, and nothing else stops: `Decode` or `Invalid` for a read, `Encode` for a write.
/// The program's panic hook still runs. With `panic = "abort"` the program ends.
///
/// | type | stored form |
/// |---|---|
/// | `bool`, integers, `f32`, `f64`, `char`, IP and socket addresses, UUID | as `Display` writes it. A number that only infinity is near enough to, such as `1e400`, is refused |
/// | `String`, `PathBuf`, `Bytes`, `Vec<u8>` | as it is. etcd v2 stores text only |
/// | `Duration`, `jiff::SignedDuration` | `1m30s`, with `h`, `m`, `s`, `ms`, `us`, `ns`, as Go's `time.ParseDuration` reads it. `1m 30s`, `1.5h`, `90 seconds`, `2days`, `1week` and ISO 8601 (`PT1H30M`, `P1DT0.5S`; a day is 24 hours) are read too. Months and years are refused, since they differ in length, and `M`, which may mean minutes |
/// | `jiff::Span` | the same without days and what is longer, else ISO 8601: `P1M2DT3H` |
/// | `SystemTime`, `chrono::DateTime`, `jiff::Timestamp` | RFC 3339 |
/// | dates, times of day, `jiff::civil::DateTime` | ISO 8601. A text with an offset, or another part that the type does not have, is refused |
/// | `url::Url` | as it is. Without `//` after the scheme it needs one of the schemes that have no host, such as `mailto:`, since `localhost:80` is a URL with the scheme `localhost` |
///
/// Derive it for enums without data and for newtypes. For any serde type there is `#[etcd(json)]` on the field, or [`Json`].
/// Types of your own write it by hand:
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
    /// What a person is told that goes here: `integer`, `duration`, ``one of `debug`, `info` ``.
    const TYPE: &'static str;

    /// Whether an error quotes a stored text that is not a value of the type, as in ``"loud" is not one of `debug`, `info` ``. Booleans, times, addresses and
    /// derived enums are quoted, and so is an integer that is out of range. The default is `false`, since a text of any other type may hold a password. A
    /// field with `#[etcd(secret)]` is never quoted.
    const QUOTABLE: bool = false;

    /// The stored form.
    ///
    /// # Errors
    ///
    /// [`ValueError`] for a value that has none (a path that is not UTF-8).
    fn encode(&self) -> Result<Bytes, ValueError>;

    /// Reads the stored form. It is called with whatever bytes are stored, by any program.
    ///
    /// # Errors
    ///
    /// [`ValueError`] for bytes that are not a value of the type.
    fn decode(bytes: &[u8]) -> Result<Self, ValueError>;

    /// The same, of bytes that may be shared: a type that can hold on to them need not copy them. They keep the message in memory that they came in, so it is
    /// only asked where a watch holds on to it as well.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    fn decode_shared(bytes: &Bytes) -> Result<Self, ValueError> {
        Self::decode(bytes)
    }

    /// Whether [`encode`](Self::encode) gives these bytes. It is asked of every key of a map: a type that is such a key can tell without making its stored
    /// form anew. Whoever writes it must say what `encode` says; else a key that was read is not found again by its handle.
    #[must_use]
    fn is_stored_as(&self, bytes: &[u8]) -> bool {
        self.encode().is_ok_and(|stored| stored == bytes)
    }

    /// Says whether reading `stored`, which [`encode`](Self::encode) gave for this value, gives an equal value. It is asked before each write.
    ///
    /// The default reads `stored` and compares the stored form of what it read. It does not notice a type that rounds when it is written; such a type
    /// compares the values:
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
    /// [`ValueError`] where it does not.
    fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
        let read = Self::decode(stored).map_err(unreadable)?;
        has_form_of(&read, self, stored, Self::encode)
    }
}

/// Why a value has no stored form, or bytes are no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError(String);

impl ValueError {
    /// Says why, without the value itself: the field may be a secret. See [`EtcdValue::QUOTABLE`].
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

/// Whether a value may be written.
type Check<T> = fn(&T) -> Result<(), ValueError>;

/// `==`.
type Equal<T> = fn(&T, &T) -> bool;

/// Whether a value is read back equal from its stored form.
type Survives<T> = fn(&T, &Bytes, &Codec<T>) -> Result<(), ValueError>;

/// How the values of one key are read, written and checked. The derive makes one for each field from its attributes; without
/// derive, [`Codec::value`] is what [`Client::entry`](crate::Client::entry) uses.
pub struct Codec<T> {
    pub(crate) type_name: &'static str,
    encode: fn(&T) -> Result<Bytes, ValueError>,
    decode: fn(&[u8]) -> Result<T, ValueError>,
    /// Where the type has one.
    decode_shared: Option<fn(&Bytes) -> Result<T, ValueError>>,
    survives: Survives<T>,
    equal: Option<Equal<T>>,
    validate: Option<Check<T>>,
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
    /// The type's own stored form.
    #[must_use]
    pub const fn value() -> Self {
        let survives: Survives<T> = |value, stored, _| value.survives(stored);
        Self {
            type_name: T::TYPE,
            decode_shared: Some(T::decode_shared),
            survives,
            quotable: T::QUOTABLE,
            ..Self::with(T::encode, T::decode)
        }
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> {
    /// JSON, for any serde type; see [`Json`].
    #[must_use]
    pub const fn json() -> Self {
        let survives: Survives<T> = |value, stored, codec| json::survives(value, stored, codec.equal_to_itself(value));
        Self { type_name: json::JSON, survives, ..Self::with(json::encode, json::decode) }
    }
}

impl<T> Codec<T> {
    /// Two functions of the caller. A value that `decode` does not make of what `encode` makes of it is not written. It is compared by its stored form,
    /// in a derived struct by `==` where the type has it.
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
            secret: false,
            quotable: false,
        }
    }

    /// Compares with this what is read back.
    #[must_use]
    pub(crate) const fn compared(mut self, equal: Option<fn(&T, &T) -> bool>) -> Self {
        self.equal = equal;
        self
    }

    /// Runs this check on every value before it is written, and before a live view shows it.
    #[must_use]
    pub const fn validated(mut self, validate: fn(&T) -> Result<(), ValueError>) -> Self {
        self.validate = Some(validate);
        self
    }

    /// Keeps everything that is said of the value out of errors.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// The type of the values, for a person: [`EtcdValue::TYPE`], or `JSON`, or `custom`.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        self.type_name
    }

    /// Whether the values are not to be shown.
    pub(crate) const fn is_secret(&self) -> bool {
        self.secret
    }

    /// Whether values are checked.
    pub(crate) const fn is_validated(&self) -> bool {
        self.validate.is_some()
    }

    /// `==`, unless the value is not equal to itself, as NaN is not.
    fn equal_to_itself(&self, value: &T) -> Option<Equal<T>> {
        self.equal.filter(|equal| equal(value, value))
    }

    /// The stored form of a value that is to be written: a read of it gives an equal value.
    pub(crate) fn encode(&self, value: &T) -> Result<Bytes, ValueError> {
        let stored = self.form(value)?;
        let survives = || if stored == LOST { Err(changed()) } else { (self.survives)(value, &stored, self) };
        contained("the check that the value can be read back", survives).map_err(|reason| self.masked(reason))?;
        Ok(stored)
    }

    /// The stored form of a value that was read.
    pub(crate) fn form(&self, value: &T) -> Result<Bytes, ValueError> {
        contained("the encoder", || (self.encode)(value)).map_err(|reason| self.masked(reason))
    }

    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<T, ValueError> {
        contained("the decoder", || if bytes == LOST { Err(lost()) } else { (self.decode)(bytes) })
            .map_err(|reason| self.masked(self.refusal(reason, bytes)))
    }

    /// The error of stored bytes that are not a value, with the bytes where they may be shown.
    #[cold]
    fn refusal(&self, ValueError(reason): ValueError, bytes: &[u8]) -> ValueError {
        /// What a person can still take in.
        const LONGEST: usize = 64;
        if bytes == LOST {
            return ValueError(reason);
        }
        let cause = match bytes {
            [0xef, 0xbb, 0xbf, ..] => "; it begins with a byte order mark (the bytes EF BB BF): store it without",
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "; it begins with the byte order mark of UTF-16: store it as UTF-8 without one",
            _ => "",
        };
        let quoted = std::str::from_utf8(bytes).ok().filter(|text| self.quotable && text.len() <= LONGEST);
        ValueError(match quoted {
            Some(text) if reason.starts_with("not ") => format!("{:?} is {reason}{cause}", text.trim()),
            Some(text) => format!("{:?}: {reason}{cause}", text.trim()),
            None => reason + cause,
        })
    }

    /// See [`EtcdValue::decode_shared`].
    pub(crate) fn decode_shared(&self, bytes: &Bytes) -> Result<T, ValueError> {
        match self.decode_shared {
            Some(decode) if bytes != LOST => {
                contained("the decoder", || decode(bytes)).map_err(|reason| self.masked(self.refusal(reason, bytes)))
            }
            _ => self.decode(bytes),
        }
    }

    /// Whether what is stored stands for the same value as `ours`, which [`encode`](Self::encode) gave. A JSON object has no order.
    pub(crate) fn is_same(&self, ours: &Bytes, stored: &Bytes) -> bool {
        if ours == stored {
            return true;
        }
        let Some(again) = self.decode(stored).ok().and_then(|value| self.form(&value).ok()) else { return false };
        let document = |bytes: &Bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok();
        again == *ours || self.type_name == json::JSON && document(&again).is_some_and(|again| document(ours) == Some(again))
    }

    pub(crate) fn validate(&self, value: &T) -> Result<(), ValueError> {
        let Some(validate) = self.validate else { return Ok(()) };
        contained("the validation", || validate(value)).map_err(|reason| self.masked(reason))
    }

    pub(crate) fn masked(&self, reason: ValueError) -> ValueError {
        if self.secret { ValueError::new("*** (a secret: the reason is not shown)") } else { reason }
    }
}

/// Runs a function of the caller's types. If it panics, the value is refused and nothing else: a text in the store must not end the task that reads it.
pub(crate) fn contained<T>(what: &str, run: impl FnOnce() -> Result<T, ValueError>) -> Result<T, ValueError> {
    // What it leaves half done is its own, and is not used after a panic.
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

/// What the v2 store gives for a value that the server returned with bytes replaced, since v2 answers in JSON and those were not UTF-8. No codec reads it.
pub(crate) const LOST: &[u8] = b"\xffetcd-typed: this value is not UTF-8, and etcd v2 does not return such values\xff";

fn lost() -> ValueError {
    ValueError::new("it is not UTF-8 text, and etcd v2 returned it with bytes replaced; write it as text, or use etcd v3")
}

fn unreadable(reason: ValueError) -> ValueError {
    ValueError::new(format_args!("its stored form cannot be read: {reason}"))
}

fn changed() -> ValueError {
    ValueError::new("its stored form is read as another value")
}

/// Whether what was read is the value, as far as the stored forms can tell.
fn has_form_of<T>(read: &T, value: &T, stored: &Bytes, encode: fn(&T) -> Result<Bytes, ValueError>) -> Result<(), ValueError> {
    let again = encode(read).map_err(|_| changed())?;
    // A set comes in another order each time it is made, and what is encrypted has another form each time it is written.
    if again == stored || has_bytes_of(&again, stored) || encode(value)? != stored { Ok(()) } else { Err(changed()) }
}

/// Whether both consist of the same bytes, in any order.
fn has_bytes_of(one: &[u8], other: &[u8]) -> bool {
    let count = |bytes: &[u8]| {
        let mut counts = [0_usize; 256];
        bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        counts
    };
    one.len() == other.len() && count(one) == count(other)
}

/// [`EtcdValue::survives`] of a type whose `==` says whether a value is the same.
fn unchanged<T: EtcdValue + PartialEq>(value: &T, stored: &Bytes) -> Result<(), ValueError> {
    if T::decode(stored).map_err(unreadable)? == *value { Ok(()) } else { Err(changed()) }
}

fn text(bytes: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(bytes).map_err(|_| ValueError::new("not UTF-8 text"))
}

/// Of a type whose values all have a stored form of their own.
macro_rules! exact {
    () => {
        fn survives(&self, _: &Bytes) -> Result<(), ValueError> {
            Ok(())
        }
    };
}
use exact;

/// `$type`s whose text is `Display` and `FromStr`. With `not` this is said of a text that is none; else the reason that `FromStr` gives.
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
// The flow of an IPv6 address has no place in the text.
text_values!("address:port", not "an IP address with a port, as in `192.0.2.1:80` or `[2001:db8::1]:80`": SocketAddr);
text_values!("address:port", not "an IPv4 address with a port, as in `192.0.2.1:80`": SocketAddrV4);
text_values!("address:port", not "an IPv6 address with a port, as in `[2001:db8::1]:80`": SocketAddrV6);
#[cfg(feature = "uuid")]
text_values!("UUID": uuid::Uuid);

#[cfg(feature = "url")]
impl EtcdValue for url::Url {
    const TYPE: &'static str = "URL";

    fn encode(&self) -> Result<Bytes, ValueError> {
        with_scheme(self)?;
        Ok(Bytes::copy_from_slice(self.as_str().as_bytes()))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        let url = text(bytes)?.trim().parse().map_err(|reason| ValueError::new(format_args!("not a URL: {reason}")))?;
        with_scheme(&url)?;
        Ok(url)
    }

    fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
        unchanged(self, stored)
    }
}

/// Refuses `localhost:80` and `fe80::1`, which are URLs with the schemes `localhost` and `fe80`.
#[cfg(feature = "url")]
fn with_scheme(url: &url::Url) -> Result<(), ValueError> {
    /// They have no host.
    const WITHOUT_HOST: [&str; 14] =
        ["about", "blob", "data", "file", "geo", "magnet", "mailto", "news", "sip", "sips", "sqlite", "tel", "unix", "urn"];
    if url.has_authority() || WITHOUT_HOST.contains(&url.scheme()) {
        return Ok(());
    }
    Err(ValueError::new("not a URL: it has no `//` and no host after its scheme; write the scheme, as in `http://localhost:80`"))
}

impl EtcdValue for String {
    const TYPE: &'static str = "text";

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(Bytes::copy_from_slice(self.as_bytes()))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        text(bytes).map(str::to_owned)
    }

    fn is_stored_as(&self, bytes: &[u8]) -> bool {
        self.as_bytes() == bytes
    }

    exact!();
}

impl EtcdValue for char {
    const TYPE: &'static str = "one character";
    const QUOTABLE: bool = true;

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(self.to_string().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        text(bytes)?.parse().map_err(|_| ValueError::new("not exactly one character"))
    }

    exact!();
}

impl EtcdValue for Bytes {
    const TYPE: &'static str = "bytes";

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(self.clone())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        Ok(Self::copy_from_slice(bytes))
    }

    fn decode_shared(bytes: &Bytes) -> Result<Self, ValueError> {
        Ok(bytes.clone())
    }

    exact!();
}

impl EtcdValue for Vec<u8> {
    const TYPE: &'static str = "bytes";

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(Bytes::copy_from_slice(self))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        Ok(bytes.to_vec())
    }

    exact!();
}

impl EtcdValue for PathBuf {
    const TYPE: &'static str = "path";

    fn encode(&self) -> Result<Bytes, ValueError> {
        let path = self.to_str().ok_or_else(|| ValueError::new("a path that is not UTF-8"))?;
        Ok(Bytes::copy_from_slice(path.as_bytes()))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        text(bytes).map(Self::from)
    }

    exact!();
}

#[cfg(test)]
mod tests;
