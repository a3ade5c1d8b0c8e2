//! `Error`, `ErrorKind` and `Problem`: what went wrong, the same for all stores. Each store has a
//! file that maps the server's answers to kinds.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::key::{Key, KeyError};
use crate::revision::Revision;

/// The result of operations on a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what went wrong, at which key, and whether a write may have been applied anyway.
///
/// Match on [`kind`](Self::kind). `Display` prints one line that starts with the key.
/// [`source`](StdError::source) returns the cause. `Debug` prints the same line with all causes,
/// for a `main` that returns the error; `{:#?}` prints the fields. A message quotes a stored value
/// only if three things are true: the value does not decode as its type, it is not secret, and its
/// type allows quoting ([`EtcdValue::QUOTABLE`](crate::EtcdValue::QUOTABLE)). Integers are quoted
/// when they are out of range.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    key: Option<Key>,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    problems: Vec<Problem>,
    written: Vec<Key>,
    /// The key's current value, as a `Versioned<T>`. The handle sets it, since it knows `T`.
    current: Option<Box<dyn Any + Send + Sync>>,
    may_have_applied: bool,
}

/// The kind of an [`Error`]. The documentation of a variant says what to do, such as whether to try
/// again.
///
/// `Display` is the text that messages contain, such as `not found`. `Serialize` is the name in
/// snake case, such as `not_found`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call needs a value, but the key has none. Or no key of a struct exists, and some are
    /// required; [`Error::problems`] lists them.
    NotFound,
    /// The call creates a key, but the key already exists.
    AlreadyExists,
    /// The key is not in the expected state. [`Error::current`] returns its current value. Read,
    /// decide and swap again.
    Conflict,
    /// The stored value is not a value of the type. Retrying does not help; correct the value.
    Decode,
    /// The value cannot be stored: its type's `encode` refused it, or reading it back would return
    /// another value. No request was sent.
    Encode,
    /// A whole struct is wrong: [`Error::problems`] lists every field that is missing, cannot be
    /// decoded or fails its validation. Or no store accepts the request, such as a transaction with
    /// two writes to one key; the message says why.
    Invalid,
    /// A text is not a valid key, or the store does not accept a key with that name.
    InvalidKey,
    /// An address is not valid. The message lists the known forms.
    InvalidUrl,
    /// A parent of the key holds a value and so cannot be a directory (v2).
    NotADirectory,
    /// The call needs a value, but the key is a directory (v2).
    IsADirectory,
    /// The directory is not empty. Delete it recursively, or delete its contents first.
    DirectoryNotEmpty,
    /// The lease does not exist, or has expired or been revoked.
    LeaseLost,
    /// The client no longer holds the lock or the leadership. The write that depends on it was not
    /// applied. Acquire the lock or campaign again.
    GuardLost,
    /// The credentials are missing or not valid.
    Unauthenticated,
    /// The credentials are valid, but do not permit this operation.
    PermissionDenied,
    /// The value, or the whole request, is larger than the server accepts.
    TooLarge,
    /// The transaction has more operations than the server accepts.
    TooManyOperations,
    /// The database has reached the server's size limit. Reads and deletes still work; writes fail
    /// until an operator frees space.
    NoSpace,
    /// No endpoint completed a TLS handshake: a certificate is missing, expired, not trusted or for
    /// another name, or only one side uses TLS. Retrying does not help until the certificate or the
    /// TLS settings are corrected. Running streams, views and guards wait until then.
    Tls,
    /// No server could be reached, or no server could answer. Retrying later helps.
    Unavailable,
    /// No answer came in time. Retrying may help.
    Timeout,
    /// The server no longer has the requested history (compaction, or the v2 window of 1000
    /// events), or has not reached the requested revision yet.
    HistoryLost,
    /// The store does not support this operation; the message says which store, and suggests an
    /// alternative. Or the call needs a tokio runtime and ran outside of a runtime.
    Unsupported,
    /// The server sent an answer that this library does not expect. The message quotes it.
    Server,
}

impl ErrorKind {
    /// Returns the text of the kind in a message.
    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Conflict => "conflict",
            Self::Decode => "cannot be decoded",
            Self::Encode => "cannot be encoded",
            Self::Invalid => "invalid",
            Self::InvalidKey => "invalid key",
            Self::InvalidUrl => "invalid address",
            Self::NotADirectory => "not a directory",
            Self::IsADirectory => "is a directory",
            Self::DirectoryNotEmpty => "directory not empty",
            Self::LeaseLost => "lease lost",
            Self::GuardLost => "guard lost",
            Self::Unauthenticated => "not authenticated",
            Self::PermissionDenied => "permission denied",
            Self::TooLarge => "too large",
            Self::TooManyOperations => "too many operations",
            Self::NoSpace => "no space left on the server",
            Self::Tls => "no TLS connection",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timed out",
            Self::HistoryLost => "history lost",
            Self::Unsupported => "unsupported",
            Self::Server => "server error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.words())
    }
}

impl Error {
    /// Creates an error of this kind. `message` adds details to the kind and may be empty. It must
    /// not quote a value that may be secret.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            key: None,
            message: message.into(),
            source: None,
            problems: Vec::new(),
            written: Vec::new(),
            current: None,
            may_have_applied: false,
        }))
    }

    /// Creates an [`Unsupported`](ErrorKind::Unsupported) error for a call that needs a tokio
    /// runtime and ran outside of a runtime.
    pub(crate) fn without_runtime() -> Self {
        Self::new(ErrorKind::Unsupported, "there is no tokio runtime here: call it within a tokio runtime")
    }

    /// Sets the key, unless it is already set: the innermost call knows the exact key.
    #[must_use]
    pub fn at(mut self, key: &Key) -> Self {
        self.0.key.get_or_insert_with(|| key.clone());
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Marks the outcome of the write as unknown: it may have been applied, or may be applied
    /// later.
    #[must_use]
    pub fn outcome_unknown(mut self) -> Self {
        self.0.may_have_applied = true;
        self
    }

    /// Creates an [`Invalid`](ErrorKind::Invalid) error that lists all problems of a struct.
    pub(crate) fn from_problems(problems: Vec<Problem>) -> Self {
        let listed = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let mut error = Self::new(ErrorKind::Invalid, listed);
        error.0.problems = problems;
        error
    }

    /// Makes this a [`NotFound`](ErrorKind::NotFound) error: none of the keys of a struct exists. Keeps
    /// the problems, which list the keys that the struct needs.
    #[must_use]
    pub(crate) fn into_not_found(mut self, of: &str) -> Self {
        self.0.kind = ErrorKind::NotFound;
        self.0.message = format!("no key of `{of}` exists here, and it requires some: {}", self.0.message);
        self
    }

    /// Creates a [`Decode`](ErrorKind::Decode) error: the value stored at a key is not a value of
    /// the key's type.
    pub(crate) fn undecodable(problem: Problem) -> Self {
        let revision = problem.revision.map(|revision| format!(" (revision {revision})")).unwrap_or_default();
        let mut error = Self::new(ErrorKind::Decode, format!("{}{revision}", problem.reason)).at(&problem.key);
        error.0.problems = vec![problem];
        error
    }

    /// Records which keys a non-atomic write had written before it failed.
    #[must_use]
    pub(crate) fn after_writing(mut self, written: Vec<Key>) -> Self {
        self.0.written = written;
        self
    }

    pub(crate) fn with_current(mut self, current: impl Any + Send + Sync) -> Self {
        self.0.current = Some(Box::new(current));
        self
    }

    pub(crate) fn current_any(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.0.current.as_deref()
    }

    /// Returns a copy for another caller that waits for the same result. The copy lacks the fields
    /// that only writes use.
    pub(crate) fn again(&self) -> Self {
        let Inner { kind, ref key, ref message, ref source, ref problems, .. } = *self.0;
        let mut error = Self::new(kind, message.clone());
        error.0.key = key.clone();
        error.0.source = source.clone();
        error.0.problems = problems.clone();
        error
    }

    /// Appends a note to the message.
    #[must_use]
    pub(crate) fn noting(mut self, more: &str) -> Self {
        let message = &mut self.0.message;
        if !message.is_empty() {
            message.push_str("; ");
        }
        message.push_str(more);
        self
    }

    /// Replaces the message.
    #[cfg(feature = "v3")]
    #[must_use]
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// Returns the kind of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the key that this error is about, if there is one.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.0.key.as_ref()
    }

    /// Returns the message without the kind and the key, for output that must not show the key.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns every wrong field, with key and reason. Empty except for
    /// [`Invalid`](ErrorKind::Invalid), [`Decode`](ErrorKind::Decode), and
    /// [`NotFound`](ErrorKind::NotFound) of a struct.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0.problems
    }

    /// Returns the keys that a `.non_atomic()` write had written before it failed, in order. Empty
    /// for every other error.
    #[must_use]
    pub fn written(&self) -> &[Key] {
        &self.0.written
    }

    /// Whether the same call may succeed later without any change:
    /// [`Unavailable`](ErrorKind::Unavailable) and [`Timeout`](ErrorKind::Timeout). For a write,
    /// check [`may_have_applied`](Self::may_have_applied) first.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unavailable | ErrorKind::Timeout)
    }

    /// True if a background task should wait and try again, because no server could be reached or
    /// answered. Unlike [`is_retryable`](Self::is_retryable) this includes `Tls`, since background
    /// tasks also wait until a certificate is renewed.
    pub(crate) fn is_outage(&self) -> bool {
        self.is_retryable() || self.0.kind == ErrorKind::Tls
    }

    /// True if the outcome of a write is unknown: the write may have been applied, or may still be
    /// applied after this error is returned. False if the write was not applied and will not be.
    #[must_use]
    pub fn may_have_applied(&self) -> bool {
        self.0.may_have_applied
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = &self.0.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(self.0.kind.words())?;
        if !self.0.message.is_empty() {
            write!(f, ": {}", self.0.message)?;
        }
        if !self.0.written.is_empty() {
            let written = self.0.written.iter().map(Key::as_str).collect::<Vec<_>>().join(", ");
            write!(f, "; written before it: {written}")?;
        }
        if self.0.may_have_applied {
            f.write_str("; the write may have been applied")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            fmt::Display::fmt(self, f)?;
            // A message often quotes its cause already.
            let mut said = self.to_string();
            let mut source = self.source();
            while let Some(cause) = source {
                let text = cause.to_string();
                if !said.contains(&text) {
                    write!(f, "; caused by: {text}")?;
                    said.push_str(&text);
                }
                source = cause.source();
            }
            return Ok(());
        }
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("key", &self.0.key)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .field("may_have_applied", &self.0.may_have_applied)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        Self::new(ErrorKind::InvalidKey, error.to_string())
    }
}

/// A single problem with a stored value, or with a value that was about to be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// The key with the problem.
    pub key: Key,
    /// The kind of the problem.
    pub kind: ProblemKind,
    /// The reason, as text for people. Never contains the value of a secret.
    pub reason: String,
    /// The revision at which the value was written; for a whole struct, the newest revision of its
    /// keys. `None` for a value that is missing or not yet stored.
    pub revision: Option<Revision>,
}

/// The kind of a [`Problem`]. `Display` and `Serialize` are its name in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// A required field has no key.
    Missing,
    /// The stored value is not a value of the field's type.
    Undecodable,
    /// The value has no stored form, or a struct would be stored without any key.
    Unencodable,
    /// The value fails the validation of the schema.
    Rejected,
    /// A map has a key that is not in the form that this library writes.
    ForeignKey,
    /// A key that reads ignore: it is not in the schema, or it remains from a struct that no longer
    /// exists. Only [`Dir::check`](crate::Dir::check) and similar methods report such keys.
    Unknown,
}

impl Problem {
    /// Creates a problem without a revision, for a value that is missing or not yet stored.
    /// `reason` must not quote a value that may be secret.
    pub fn new(key: Key, kind: ProblemKind, reason: impl Into<String>) -> Self {
        Self { key, kind, reason: reason.into(), revision: None }
    }

    /// Sets the revision at which the value was written.
    #[must_use]
    pub fn at(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Missing => "missing",
            Self::Undecodable => "undecodable",
            Self::Unencodable => "unencodable",
            Self::Rejected => "rejected",
            Self::ForeignKey => "foreign_key",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.reason)?;
        match self.revision {
            Some(revision) => write!(f, " (revision {revision})"),
            None => Ok(()),
        }
    }
}

/// The mask that `Debug` shows in place of a secret.
pub(crate) struct Masked;

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> Error {
        let cause = Error::new(ErrorKind::Server, "code 14").caused_by(std::io::Error::other("connection refused"));
        Error::new(ErrorKind::Unavailable, "no endpoint answers").at(&Key::parse("/a").unwrap()).caused_by(cause)
    }

    #[test]
    fn debug_prints_one_line_with_causes() {
        let line = "/a: unavailable: no endpoint answers; caused by: server error: code 14; caused by: connection refused";
        assert_eq!(format!("{:?}", error()), line);
        let quoted = Error::new(ErrorKind::Server, "connection refused").caused_by(std::io::Error::other("connection refused"));
        assert_eq!(format!("{quoted:?}"), quoted.to_string());
        assert!(format!("{:#?}", error()).contains("may_have_applied: false"));
    }

    #[test]
    fn error_kinds_print_and_serialize() {
        assert_eq!(ErrorKind::NotFound.to_string(), "not found");
        assert_eq!(format!("{:>12}|", ErrorKind::Conflict), "    conflict|");
        assert_eq!(serde_json::to_string(&ErrorKind::TooManyOperations).unwrap(), r#""too_many_operations""#);
        for kind in [
            ProblemKind::Missing,
            ProblemKind::Undecodable,
            ProblemKind::Unencodable,
            ProblemKind::Rejected,
            ProblemKind::ForeignKey,
            ProblemKind::Unknown,
        ] {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }
}
