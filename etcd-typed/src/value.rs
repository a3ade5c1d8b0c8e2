//! `EtcdValue`: one value and its bytes; `Codec`: how one field does it. What is written is what a person would type.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::{
    NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize, NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128,
    NonZeroUsize,
};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A type that is stored as the value of one key.
///
/// The stored form is the text that a person would type with a command-line client: `8080`, `debug`, `1m 30s`; never `"8080"`.
/// Reading takes surrounding white space off where the type has none of its own (a value written with `echo` ends with a newline).
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

    /// The stored form.
    ///
    /// # Errors
    ///
    /// [`ValueError`] for a value that has none (a path that is not UTF-8).
    fn encode(&self) -> Result<Bytes, ValueError>;

    /// Reads the stored form. It is called with whatever anybody wrote there and never panics.
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
}

/// Why a value has no stored form, or bytes are no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError(String);

impl ValueError {
    /// Says why, without the value itself: the field may be a secret.
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

/// How the values of one key are read, written and checked. The derive makes one for each field from its attributes; without
/// derive, [`Codec::value`] is what [`Client::entry`](crate::Client::entry) uses.
pub struct Codec<T> {
    pub(crate) type_name: &'static str,
    encode: fn(&T) -> Result<Bytes, ValueError>,
    decode: fn(&[u8]) -> Result<T, ValueError>,
    /// Where the type has one.
    decode_shared: Option<fn(&Bytes) -> Result<T, ValueError>>,
    validate: Option<Check<T>>,
    secret: bool,
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
        Self {
            type_name: T::TYPE,
            encode: T::encode,
            decode: T::decode,
            decode_shared: Some(T::decode_shared),
            validate: None,
            secret: false,
        }
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> {
    /// JSON, for any serde type.
    #[must_use]
    pub const fn json() -> Self {
        Self { type_name: JSON, encode: encode_json, decode: decode_json, decode_shared: None, validate: None, secret: false }
    }
}

impl<T> Codec<T> {
    /// Two functions of the caller.
    #[must_use]
    pub const fn with(encode: fn(&T) -> Result<Bytes, ValueError>, decode: fn(&[u8]) -> Result<T, ValueError>) -> Self {
        Self { type_name: "custom", encode, decode, decode_shared: None, validate: None, secret: false }
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

    pub(crate) fn encode(&self, value: &T) -> Result<Bytes, ValueError> {
        (self.encode)(value).map_err(|reason| self.masked(reason))
    }

    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<T, ValueError> {
        (self.decode)(bytes).map_err(|reason| self.masked(reason))
    }

    /// See [`EtcdValue::decode_shared`].
    pub(crate) fn decode_shared(&self, bytes: &Bytes) -> Result<T, ValueError> {
        match self.decode_shared {
            Some(decode) => decode(bytes).map_err(|reason| self.masked(reason)),
            None => self.decode(bytes),
        }
    }

    pub(crate) fn validate(&self, value: &T) -> Result<(), ValueError> {
        self.validate.map_or(Ok(()), |validate| validate(value)).map_err(|reason| self.masked(reason))
    }

    fn masked(&self, reason: ValueError) -> ValueError {
        if self.secret { ValueError::new("*** (a secret: the reason is not shown)") } else { reason }
    }
}

const JSON: &str = "JSON";

fn encode_json<T: Serialize>(value: &T) -> Result<Bytes, ValueError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(ValueError::new)
}

fn decode_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ValueError> {
    serde_json::from_slice(bytes).map_err(ValueError::new)
}

/// Any serde type as JSON in one key, where no field attribute can say so: `client.entry::<Json<Features>>("/features")`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Json<T>(
    /// The value.
    pub T,
);

impl<T: Serialize + DeserializeOwned> EtcdValue for Json<T> {
    const TYPE: &'static str = JSON;

    fn encode(&self) -> Result<Bytes, ValueError> {
        encode_json(&self.0)
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode_json(bytes).map(Self)
    }
}

fn text(bytes: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(bytes).map_err(|_| ValueError::new("not UTF-8 text"))
}

/// `$type`s whose text is `Display` and `FromStr`.
macro_rules! text_values {
    ($name:literal: $($type:ty),+) => {$(
        impl EtcdValue for $type {
            const TYPE: &'static str = $name;

            fn encode(&self) -> Result<Bytes, ValueError> {
                Ok(self.to_string().into())
            }

            fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
                text(bytes)?.trim().parse().map_err(|reason| ValueError::new(format_args!("not a value of type {}: {reason}", $name)))
            }
        }
    )+};
}

text_values!("boolean": bool);
text_values!("integer": i8, i16, i32, i64, i128, isize);
text_values!("unsigned integer": u8, u16, u32, u64, u128, usize);
text_values!("integer, not 0": NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize);
text_values!("positive integer": NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize);
text_values!("number": f32, f64);
text_values!("IP address": IpAddr, Ipv4Addr, Ipv6Addr);
text_values!("address:port": SocketAddr, SocketAddrV4, SocketAddrV6);
#[cfg(feature = "chrono")]
text_values!("date and time with offset": chrono::DateTime<chrono::FixedOffset>);
#[cfg(feature = "chrono")]
text_values!("date": chrono::NaiveDate);
#[cfg(feature = "chrono")]
text_values!("time of day": chrono::NaiveTime);
#[cfg(feature = "jiff")]
text_values!("timestamp": jiff::Timestamp);
#[cfg(feature = "jiff")]
text_values!("date": jiff::civil::Date);
#[cfg(feature = "jiff")]
text_values!("time of day": jiff::civil::Time);
#[cfg(feature = "jiff")]
text_values!("date and time": jiff::civil::DateTime);
#[cfg(feature = "jiff")]
text_values!("duration": jiff::SignedDuration, jiff::Span);
#[cfg(feature = "url")]
text_values!("URL": url::Url);
#[cfg(feature = "uuid")]
text_values!("UUID": uuid::Uuid);

#[cfg(feature = "chrono")]
impl EtcdValue for chrono::DateTime<chrono::Utc> {
    const TYPE: &'static str = "date and time (RFC 3339)";

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(self.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true).into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        let time = chrono::DateTime::parse_from_rfc3339(text(bytes)?.trim());
        time.map(|time| time.to_utc()).map_err(|reason| ValueError::new(format_args!("not a date and time: {reason}")))
    }
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
}

impl EtcdValue for char {
    const TYPE: &'static str = "one character";

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(self.to_string().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        text(bytes)?.parse().map_err(|_| ValueError::new("not exactly one character"))
    }
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
}

impl EtcdValue for Vec<u8> {
    const TYPE: &'static str = "bytes";

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(Bytes::copy_from_slice(self))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        Ok(bytes.to_vec())
    }
}

impl EtcdValue for Duration {
    const TYPE: &'static str = "duration, as in `1m 30s`";

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(humantime::format_duration(*self).to_string().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        humantime::parse_duration(text(bytes)?.trim()).map_err(|reason| ValueError::new(format_args!("not a duration: {reason}")))
    }
}

impl EtcdValue for SystemTime {
    const TYPE: &'static str = "date and time (RFC 3339)";

    fn encode(&self) -> Result<Bytes, ValueError> {
        // The formatter panics outside of these.
        const FIRST_OF_YEAR_10000: Duration = Duration::from_secs(253_402_300_800);
        match self.duration_since(Self::UNIX_EPOCH) {
            Ok(since) if since < FIRST_OF_YEAR_10000 => Ok(humantime::format_rfc3339(*self).to_string().into()),
            _ => Err(ValueError::new("a time before 1970 or after 9999")),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        humantime::parse_rfc3339(text(bytes)?.trim()).map_err(|reason| ValueError::new(format_args!("not a date and time: {reason}")))
    }
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
}
