//! `Error`, `ErrorKind`, `Problem`: what went wrong, by meaning. Which answer of a server means what is decided in the store's
//! own mapping file, not here.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::key::{Key, KeyError};
use crate::revision::Revision;

/// The result of what talks to a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, at which key, and whether a write may have happened all the same.
///
/// Match on [`kind`](Self::kind). `Display` is one line that names the key; the cause below it is
/// [`source`](StdError::source). A text of it quotes a stored value only where that is not a value of its type, is not secret, and its type allows it
/// ([`EtcdValue::QUOTABLE`](crate::EtcdValue::QUOTABLE)); integers are quoted when they are out of range.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    key: Option<Key>,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    problems: Vec<Problem>,
    written: Vec<Key>,
    /// `Versioned<T>` of the key's type, put there by the handle that knows the type.
    current: Option<Box<dyn Any + Send + Sync>>,
    may_have_applied: bool,
}

/// What an [`Error`] means. Says of each whether trying again helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no value at the key, and the call needs one.
    NotFound,
    /// The key exists, and the call was to create it.
    AlreadyExists,
    /// The key is not as expected. [`Error::current`] is what it is now; read, decide, and swap again.
    Conflict,
    /// What is stored is not a value of the type. Repeating does not help; mend the value.
    Decode,
    /// The value cannot be stored: its type's own `encode` refused it, or a read of what it wrote would give another value. Nothing was sent.
    Encode,
    /// A whole struct is wrong: [`Error::problems`] lists every field that is missing, undecodable or fails its validation. Or the
    /// request is one that no store takes, such as two writes of one key in one transaction; the message says what.
    Invalid,
    /// A text is not a key, or a store cannot hold a key of that name.
    InvalidKey,
    /// An address is wrong; the message lists what is known.
    InvalidUrl,
    /// The path passes through a key that holds a value (v2).
    NotADirectory,
    /// The key is a directory, and the call was for a value (v2).
    IsADirectory,
    /// The directory has something in it; delete recursively, or delete that first.
    DirectoryNotEmpty,
    /// The lease is not there (any more).
    LeaseLost,
    /// The lock or the leadership is not held any more. What was to be done under it was not done; acquire it again.
    GuardLost,
    /// The server does not know these credentials, or wants some.
    Unauthenticated,
    /// The credentials are good and do not allow this.
    PermissionDenied,
    /// The value, or the whole request, is larger than the server takes.
    TooLarge,
    /// The transaction has more operations than the server takes in one.
    TooManyOperations,
    /// The server's space is used up: it takes deletes and reads, and no writes until somebody makes room.
    NoSpace,
    /// TLS could not be agreed on with any endpoint: a certificate that is not trusted, for another name, expired or missing, or TLS on one side only.
    /// Repeating does not help until the certificate or the TLS settings are mended. Streams, views and guards that have begun wait for that.
    Tls,
    /// No server could be reached or none could answer. Trying again later helps.
    Unavailable,
    /// No answer came in time. Trying again may help.
    Timeout,
    /// The history that was asked for is gone (compaction, or v2's window of 1000 events), or not there yet.
    HistoryLost,
    /// This store cannot do it; the message names the store and what to use instead. Or the call needs a tokio runtime and was made outside of one.
    Unsupported,
    /// The server answered something that this library does not expect; the message has its words.
    Server,
}

impl ErrorKind {
    /// One word or two for the message.
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

impl Error {
    /// An error of this kind; `message` says what to know beyond the kind (it may be empty) and quotes no value that may be secret.
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

    /// An [`Unsupported`](ErrorKind::Unsupported): what was called needs a tokio runtime, and there is none.
    pub(crate) fn without_runtime() -> Self {
        Self::new(ErrorKind::Unsupported, "there is no tokio runtime here: call it within a tokio runtime")
    }

    /// Names the key, unless one is named already (the innermost knows best).
    #[must_use]
    pub fn at(mut self, key: &Key) -> Self {
        self.0.key.get_or_insert_with(|| key.clone());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Says that the write's outcome is unknown: it may have been applied, or may still be.
    #[must_use]
    pub fn outcome_unknown(mut self) -> Self {
        self.0.may_have_applied = true;
        self
    }

    /// An [`Invalid`](ErrorKind::Invalid) that lists all problems of a struct; of a single undecodable or unencodable key the
    /// kind is that problem's own.
    pub(crate) fn from_problems(problems: Vec<Problem>) -> Self {
        let listed = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let mut error = Self::new(ErrorKind::Invalid, listed);
        error.0.problems = problems;
        error
    }

    /// A [`Decode`](ErrorKind::Decode): what is stored at one key is not a value of its type.
    pub(crate) fn undecodable(problem: Problem) -> Self {
        let revision = problem.revision.map(|revision| format!(" (revision {revision})")).unwrap_or_default();
        let mut error = Self::new(ErrorKind::Decode, format!("{}{revision}", problem.reason)).at(&problem.key);
        error.0.problems = vec![problem];
        error
    }

    /// Says which keys a write that is not atomic had written before it failed.
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

    /// The same once more, for another who waits for the same thing; without what only a write has.
    pub(crate) fn again(&self) -> Self {
        let Inner { kind, ref key, ref message, ref source, ref problems, .. } = *self.0;
        let mut error = Self::new(kind, message.clone());
        error.0.key = key.clone();
        error.0.source = source.clone();
        error.0.problems = problems.clone();
        error
    }

    /// The same, and this is to be known as well.
    #[cfg(any(feature = "snapshot", feature = "v2"))]
    #[must_use]
    pub(crate) fn noting(mut self, more: &str) -> Self {
        let message = &mut self.0.message;
        if !message.is_empty() {
            message.push_str("; ");
        }
        message.push_str(more);
        self
    }

    /// The same with another message.
    #[cfg(feature = "v3")]
    #[must_use]
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// What it means.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The key it is about, where it is about one.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.0.key.as_ref()
    }

    /// What is to be known beyond the kind. Unlike the whole error it has no key in front, so it may go where keys should not.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// Every field that is wrong, with key and reason; empty but for [`Invalid`](ErrorKind::Invalid) and
    /// [`Decode`](ErrorKind::Decode).
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0.problems
    }

    /// The keys that a `.non_atomic()` write had written when it failed, in order; empty for every other error.
    #[must_use]
    pub fn written(&self) -> &[Key] {
        &self.0.written
    }

    /// Whether the same call may succeed later with nothing mended: [`Unavailable`](ErrorKind::Unavailable) and
    /// [`Timeout`](ErrorKind::Timeout). For a write look at [`may_have_applied`](Self::may_have_applied) first.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unavailable | ErrorKind::Timeout)
    }

    /// Whether no server could be reached or none answered. Unlike [`is_retryable`](Self::is_retryable) this includes `Tls`: a task in the background
    /// also waits until a certificate is renewed.
    pub(crate) fn is_outage(&self) -> bool {
        self.is_retryable() || self.0.kind == ErrorKind::Tls
    }

    /// True exactly when a write's outcome is unknown: it may have been applied, and it may still be applied after this
    /// answer. False means that it was not applied and will not be.
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

/// One thing that is wrong with what is stored, or with what was to be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key it is at.
    pub key: Key,
    /// What kind of problem.
    pub kind: ProblemKind,
    /// Why, for a person; never holds the value of a secret.
    pub reason: String,
    /// The revision that the value was written at, of a whole struct the newest of its keys; none for a value that is missing or not stored yet.
    pub revision: Option<Revision>,
}

/// What kind of [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// A required field has no key.
    Missing,
    /// What is stored is not a value of the field's type.
    Undecodable,
    /// The value has no stored form, or a struct no key to be stored at.
    Unencodable,
    /// The value fails the validation that the schema asks for.
    Rejected,
    /// A key in a map is not written as this library writes it.
    ForeignKey,
    /// A key that no read looks at: the schema does not have it, or it is left over of a struct that does not exist. Only
    /// [`Dir::check`](crate::Dir::check) and its like look for them.
    Unknown,
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

/// What is shown of a secret.
pub(crate) struct Masked;

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
