//! `EntryChanges`: the typed change stream of one key.

use std::any::type_name;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;

use super::one_key::{OneKey, OneKeyChange};
use super::{Begun, Steps, start_unknown};
use crate::error::{Error, ErrorKind, Problem, ProblemKind, Result};
use crate::key::Key;
use crate::retry::RetryPolicy;
use crate::revision::Revision;
use crate::schema::{Change, Fallback, Stored};
use crate::store::{BoxFuture, Span, Store};
use crate::telemetry::Pattern;
use crate::value::Codec;
use crate::version::{Versioned, Versions};
use crate::watch::{Interruption, Start};

/// A change stream of one key that is not started yet. Await it to start, after optionally choosing
/// an earlier [start](Self::since).
#[must_use = "a watch does nothing until it is awaited"]
pub struct WatchingEntry<T> {
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    key: Key,
    codec: Codec<T>,
    /// The default value, which counts if the key does not exist.
    default: Fallback<T>,
    start: Start,
    pattern: Pattern,
}

/// The changes of one key: an endless stream of [`Change`]s. The stream behaves like
/// [`Changes`](super::Changes) for a directory.
///
/// If the server compacts history that the stream has not read, intermediate values are skipped;
/// the next item has [`Change::resynced`] set. Its `old` and `new` are equal if the value is still
/// the last value that the stream saw.
#[must_use = "a watch makes progress only while it is polled"]
pub struct EntryChanges<T>(Box<Following<T>>);

/// The state of the stream, boxed once before the stream starts. A program may start thousands of
/// streams at the same time, and the futures that start them would each hold copies of an unboxed
/// state.
struct Following<T> {
    steps: Steps,
    one: OneKey,
    key: Key,
    codec: Codec<T>,
    default: Fallback<T>,
}

impl<T> WatchingEntry<T> {
    pub(crate) fn new(store: Arc<dyn Store>, retry: RetryPolicy, key: Key, codec: Codec<T>) -> Self {
        Self { store, retry, key, codec, default: Fallback::None, start: Start::Now, pattern: type_name::<T>() }
    }

    /// Sets the label of the watch in metrics and events.
    pub(crate) fn with_pattern(mut self, pattern: Pattern) -> Self {
        self.pattern = pattern;
        self
    }

    pub(crate) fn with_default(mut self, default: Fallback<T>) -> Self {
        self.default = default;
        self
    }

    /// Starts with the changes after this past revision, instead of now. If the store no longer has
    /// the history since that revision, the stream begins with the current value, if the key
    /// exists. This first [`Change`] has no old value, and [`Change::resynced`] is set.
    ///
    /// The same applies to a revision that the store has not reached yet. The stream does not wait
    /// for that revision. It yields all later changes, even if their revisions are not above the
    /// requested one. See [`Watching::since`](super::Watching::since) for the reason.
    pub fn since(mut self, revision: impl Into<Revision>) -> Self {
        self.start = Start::Since(revision.into());
        self
    }
}

impl<T: 'static> IntoFuture for WatchingEntry<T> {
    type Output = Result<EntryChanges<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { store, retry, key, codec, default, start, pattern } = self;
        let steps = Steps::new(store, &retry, Span::Key(key.clone()), pattern, start);
        let mut following = Box::new(Following { steps, one: OneKey::unknown(Revision::ZERO), key, codec, default });
        Box::pin(async move {
            if following.key.is_root() {
                return Err(Error::new(ErrorKind::InvalidKey, "the root has no value").at(&following.key));
            }
            let begun = retry.one_call(poll_fn(|cx| following.steps.poll_begun(cx))).await.map_err(|error| error.at(&following.key))?;
            following.one = match begun {
                Begun::At(snapshot) => OneKey::new(&following.key, snapshot),
                Begun::Unknown(revision) => OneKey::unknown(revision),
            };
            Ok(EntryChanges(following))
        })
    }
}

impl<T> fmt::Debug for WatchingEntry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchingEntry").field("key", &self.key).field("start", &self.start).finish_non_exhaustive()
    }
}

impl<T> EntryChanges<T> {
    /// Returns the next change. `None` only after the last item.
    ///
    /// # Errors
    ///
    /// `Decode` for a value that is not a `T`; the stream continues. Any other error is the last
    /// item. Outside of a tokio runtime the call returns `Unsupported` and changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Change<T>>> {
        poll_fn(|cx| self.0.poll(cx)).await
    }

    /// Returns the value after the last item, or before the first item the value at the stream's
    /// start. If the key does not exist, returns the field's default, or `None` without a default.
    ///
    /// # Errors
    ///
    /// `Decode` for a value that is not a `T`. `HistoryLost` while the value is unknown, because
    /// the stream started [since](WatchingEntry::since) a revision that can no longer be read.
    pub fn current(&self) -> Result<Option<Versioned<T>>> {
        let Following { one, key, codec, default, .. } = &*self.0;
        if !one.is_complete() {
            return Err(start_unknown(key));
        }
        let revision = one.revision();
        let now = match one.now() {
            Some(stored) => Some(Versioned::new(self.0.decode(stored)?, stored.versions(revision))),
            None => default.value().map(|value| Versioned::new(value, Versions { revision, ..Versions::default() })),
        };
        Ok(now.map(|now| now.secret(codec.is_secret())))
    }

    /// Returns why the stream cannot receive changes from the store at the moment. `None` while it
    /// can. An interrupted stream keeps trying.
    #[must_use]
    pub fn interruption(&self) -> Option<Interruption<'_>> {
        self.0.steps.interruption()
    }
}

impl<T> Following<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Change<T>>>> {
        loop {
            match ready!(self.steps.poll_step(cx)) {
                Some(Ok(step)) => {
                    if let Some(touch) = self.one.apply(&self.key, step) {
                        return Poll::Ready(Some(self.make(touch)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn make(&self, touch: OneKeyChange) -> Result<Change<T>> {
        let OneKeyChange { revision, resynced, known, before } = touch;
        let default = || self.default.value();
        let new = self.one.now().map(|stored| self.decode(stored)).transpose()?.or_else(default);
        let old = match before {
            Some(stored) => self.codec.decode_shared(&stored.value).ok(),
            // In a resync, a key that did not exist before has the default as `old` only if the key
            // does not exist now either. Otherwise another value may have been stored in between.
            None if known && (!resynced || self.one.now().is_none()) => default(),
            None => None,
        };
        Ok(Change { key: self.key.clone(), old, new, revision, resynced, secret: self.codec.is_secret() })
    }

    fn decode(&self, stored: &Stored) -> Result<T> {
        self.codec.decode_shared(&stored.value).map_err(|reason| {
            let (key, revision) = (self.key.clone(), Some(stored.modified));
            Error::undecodable(Problem { key, kind: ProblemKind::Undecodable, reason: reason.to_string(), revision })
        })
    }
}

impl<T> Stream for EntryChanges<T> {
    type Item = Result<Change<T>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().0.poll(cx)
    }
}

impl<T> fmt::Debug for EntryChanges<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryChanges").field("key", &self.0.key).field("revision", &self.0.one.revision()).finish_non_exhaustive()
    }
}
