//! `Secret`: a value that is shown only by the method `expose`.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serializer};

use super::{EtcdValue, ValueError};

/// The name under which [`serialize_masked`] passes the mask to a serializer. The check of JSON
/// values recognises it, so that a mask is never stored instead of the secret.
pub(super) const MASK_NAME: &str = "$etcd_typed::Secret";

const MASK: &str = "***";

/// A value that is not shown by accident. `Debug` and `Display` write `***`. Only
/// [`expose`](Self::expose) returns the value.
///
/// In a struct that derives [`EtcdSchema`](derive@crate::EtcdSchema), a field of this type is secret
/// without `#[etcd(secret)]`, also inside of an `Option`, a list or a newtype. The struct can derive
/// `Debug`, which shows `***` for the field. The value is stored like `T`, unencrypted.
///
/// ```
/// use etcd_typed::{Client, EtcdSchema, Secret};
///
/// #[derive(EtcdSchema, Debug)]
/// struct Login {
///     user: String,
///     password: Secret<String>,
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// let client = Client::connect("memory:").await?;
/// let login = client.dir::<Login>("/login")?;
/// login.set(&Login { user: "me".to_owned(), password: "hunter2".into() }).await?;
/// let read = login.get().await?.into_inner();
/// assert_eq!(format!("{read:?}"), r#"Login { user: "me", password: *** }"#);
/// assert_eq!(read.password.expose(), "hunter2");
/// # Ok(()) }
/// ```
///
/// # Serde
///
/// `Secret` implements `Deserialize`, so that a config file or the environment can provide the
/// value. It does not implement `Serialize`. If it serialized the mask, a program that stores the
/// struct as JSON would lose the value; if it serialized the value, the value would leak. To show a
/// struct to people, use [`serialize_masked`], which writes `***`. A field of a struct that derives
/// [`EtcdSchema`](derive@crate::EtcdSchema) is stored as its value, even with this function or with
/// `#[serde(skip_serializing)]`.
///
/// `==` does not run in constant time: its duration depends on the values.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Hides a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the value.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl From<&str> for Secret<String> {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Reads the value as `T` does. The error does not contain the reason, since a reason may quote the
/// value.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for Secret<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self).map_err(|_| serde::de::Error::custom("*** (a secret: the reason is not shown)"))
    }
}

impl<T: EtcdValue> EtcdValue for Secret<T> {
    const TYPE: &'static str = T::TYPE;
    const SECRET: bool = true;
    const IN_LIST: super::InList = T::IN_LIST;

    fn encode(&self) -> Result<Bytes, ValueError> {
        self.0.encode().map_err(masked)
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        T::decode(bytes).map(Self).map_err(masked)
    }

    fn decode_shared(bytes: &Bytes) -> Result<Self, ValueError> {
        T::decode_shared(bytes).map(Self).map_err(masked)
    }

    fn is_stored_as(&self, bytes: &[u8]) -> bool {
        self.0.is_stored_as(bytes)
    }

    fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
        self.0.survives(stored).map_err(masked)
    }
}

pub(super) fn masked(_: ValueError) -> ValueError {
    ValueError::new("*** (a secret: the reason is not shown)")
}

/// Writes `***` instead of a value, for `#[serde(serialize_with = "etcd_typed::serialize_masked")]`
/// on a field of a struct that is shown to people.
///
/// If the struct derives [`EtcdSchema`](derive@crate::EtcdSchema), the field is stored as its value, not
/// as this mask.
///
/// A field with `#[etcd(json)]` whose value contains such a mask is not stored: the write fails
/// with [`Encode`](crate::ErrorKind::Encode).
///
/// ```
/// use etcd_typed::Secret;
///
/// #[derive(serde::Serialize)]
/// struct Login {
///     user: String,
///     #[serde(serialize_with = "etcd_typed::serialize_masked")]
///     password: Secret<String>,
/// }
///
/// let login = Login { user: "me".to_owned(), password: "hunter2".into() };
/// assert_eq!(serde_json::to_string(&login)?, r#"{"user":"me","password":"***"}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
///
/// The errors of the serializer.
pub fn serialize_masked<T, S: Serializer>(_: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_newtype_struct(MASK_NAME, MASK)
}
