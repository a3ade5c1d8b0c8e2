//! `Fallback`: the value of a field without a key.

/// The value of a field without a key.
#[derive(Debug)]
pub enum Fallback<T> {
    /// The field has no default.
    None,
    /// The default of the field.
    Always(fn() -> T),
    /// The default of an `Option` field.
    Maybe(fn() -> Option<T>),
}

impl<T> Clone for Fallback<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Fallback<T> {}

impl<T> Fallback<T> {
    /// Returns the default, if the field has one. A default is code of the caller, which may panic.
    pub(crate) fn value(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::Always(default) => Some(default()),
            Self::Maybe(default) => default(),
        }
    }
}
