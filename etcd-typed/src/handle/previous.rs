//! `Previous`: the value before a write, which a swap or deletion of an entry and a deletion of a
//! struct return.

use crate::error::{Error, Result};
use crate::version::Versioned;

/// The value that a write replaced or deleted. [`Entry::swap`](crate::Entry::swap),
/// [`Entry::delete`](crate::Entry::delete), [`Dir::delete`](crate::Dir::delete) and their
/// conditional forms return it. In every case the write was applied.
///
/// `Previous` has the most common methods of `Option`. They treat a value that cannot be decoded as
/// `None`; [`existed`](Self::existed) returns true for such a value.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// use etcd_typed::{Client, Previous};
///
/// let client = Client::connect("memory:").await?;
/// let limit = client.entry::<u32>("/limit")?;
/// assert!(matches!(limit.swap(&1).await?, Previous::Nothing));
/// assert_eq!(limit.swap(&2).await?.as_deref(), Some(&1));
///
/// client.entry::<String>("/limit")?.set(&"many".to_owned()).await?;
/// let Previous::Unreadable(error) = limit.delete().await? else { panic!("it was no number") };
/// assert!(error.to_string().starts_with("/limit: cannot be decoded"));
/// assert!(!limit.exists().await?);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub enum Previous<T> {
    /// The key did not exist. For a struct, none of its keys existed.
    Nothing,
    /// The value existed and could be decoded.
    Value(Versioned<T>),
    /// The stored value could not be decoded as a `T`. The error is the one that a read would
    /// return: [`Decode`](crate::ErrorKind::Decode) for an entry,
    /// [`Invalid`](crate::ErrorKind::Invalid) with every problem for a struct.
    Unreadable(Error),
}

impl<T> From<Result<Versioned<T>>> for Previous<T> {
    fn from(read: Result<Versioned<T>>) -> Self {
        match read {
            Ok(value) => Self::Value(value),
            Err(error) => Self::Unreadable(error),
        }
    }
}

impl<T> Previous<T> {
    /// Returns whether a key existed, even if its value could not be decoded.
    #[must_use]
    pub fn existed(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// Returns the value, if the key existed with a value that could be decoded.
    #[must_use]
    pub fn value(&self) -> Option<&Versioned<T>> {
        if let Self::Value(value) = self { Some(value) } else { None }
    }

    /// Returns the value, if the key existed with a value that could be decoded.
    #[must_use]
    pub fn into_value(self) -> Option<Versioned<T>> {
        if let Self::Value(value) = self { Some(value) } else { None }
    }

    /// Returns whether the key existed with a value that could be decoded.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.value().is_some()
    }

    /// Returns true if the key did not exist, or if its value could not be decoded.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.value().is_none()
    }

    /// Returns the value without its metadata, if the key existed with a value that could be
    /// decoded.
    #[must_use]
    pub fn as_deref(&self) -> Option<&T> {
        self.value().map(|value| &**value)
    }

    /// Applies a function to the value, if the key existed with a value that could be decoded.
    pub fn map<U>(self, f: impl FnOnce(Versioned<T>) -> U) -> Option<U> {
        self.into_value().map(f)
    }

    /// Returns the value.
    ///
    /// # Panics
    ///
    /// Panics if the key did not exist, or its value could not be decoded.
    #[must_use]
    #[track_caller]
    #[allow(clippy::unwrap_used, reason = "the caller accepts the panic, as with `Option::unwrap`")]
    pub fn unwrap(self) -> Versioned<T> {
        self.into_value().unwrap()
    }
}

/// Compares the decoded value. A value that could not be decoded equals `None`.
impl<T: PartialEq> PartialEq<Option<Versioned<T>>> for Previous<T> {
    fn eq(&self, other: &Option<Versioned<T>>) -> bool {
        self.value() == other.as_ref()
    }
}

/// Returns the value if it could be decoded.
impl<T> From<Previous<T>> for Option<Versioned<T>> {
    fn from(previous: Previous<T>) -> Self {
        previous.into_value()
    }
}
