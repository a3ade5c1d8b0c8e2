//! The change stream of one key.

use std::any::type_name;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;

use super::one::{One, OneTouch};
use super::{Begun, Steps, start_unknown};
use crate::error::{Error, ErrorKind, Problem, ProblemKind, Result};
use crate::key::Key;
use crate::retry::RetryPolicy;
use crate::revision::Revision;
use crate::schema::{Change, Stored};
use crate::store::{BoxFuture, Span, Store};
use crate::value::Codec;
use crate::version::{Versioned, Versions};
use crate::watch::{Interruption, Start};

/// The change stream of one key, to be had: await it, or say first where it [starts](Self::since).
#[must_use = "a watch begins when it is awaited"]
pub struct WatchingEntry<T> {
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    key: Key,
    codec: Codec<T>,
    /// What the value is where no key is.
    default: Option<fn() -> T>,
    start: Start,
}

/// The changes of one key: an endless stream of [`Change`]s. In all it is what
/// [`Changes`](super::Changes) is for a directory.
///
/// If the server compacts history that the stream has not read, the next item has
/// [`Change::resynced`] set. Its `old` and `new` are equal if the value is the one seen last. Values
/// in between were not seen.
#[must_use = "a watch goes on only while it is polled"]
pub struct EntryChanges<T>(Box<Following<T>>);

/// The state of such a stream. It is made once, where it stays: programs have thousands, and what one takes while it begins all of them take at once.
struct Following<T> {
    steps: Steps,
    one: One,
    key: Key,
    codec: Codec<T>,
    default: Option<fn() -> T>,
}

impl<T> WatchingEntry<T> {
    pub(crate) fn new(store: Arc<dyn Store>, retry: RetryPolicy, key: Key, codec: Codec<T>) -> Self {
        Self { store, retry, key, codec, default: None, start: Start::Now }
    }

    pub(crate) fn with_default(mut self, default: Option<fn() -> T>) -> Self {
        self.default = default;
        self
    }

    /// Starts with the changes after this past revision, instead of now. Where the store has that revision no more, the first item is the value
    /// that is there now, if there is one, as a change from nothing, with [`Change::resynced`] set.
    ///
    /// The same holds for a revision that the store has not reached yet: the stream does not wait
    /// for it, and every later change follows, also at revisions that are not above the one asked
    /// for. See [`Watching::since`](super::Watching::since) for the reason.
    pub fn since(mut self, revision: impl Into<Revision>) -> Self {
        self.start = Start::Since(revision.into());
        self
    }
}

impl<T: 'static> IntoFuture for WatchingEntry<T> {
    type Output = Result<EntryChanges<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { store, retry, key, codec, default, start } = self;
        let steps = Steps::new(store, &retry, Span::Key(key.clone()), type_name::<T>(), start);
        let mut following = Box::new(Following { steps, one: One::unknown(Revision::ZERO), key, codec, default });
        Box::pin(async move {
            if following.key.is_root() {
                return Err(Error::new(ErrorKind::InvalidKey, "the root has no value").at(&following.key));
            }
            let begun = retry.one_call(poll_fn(|cx| following.steps.poll_begun(cx))).await.map_err(|error| error.at(&following.key))?;
            following.one = match begun {
                Begun::At(snapshot) => One::new(&following.key, snapshot),
                Begun::Unknown(revision) => One::unknown(revision),
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
    /// The next change. None only after the last item.
    ///
    /// # Errors
    ///
    /// `Decode` for a value that is not a `T`, and the stream goes on; any other is the last item. A call outside of a tokio runtime answers `Unsupported` and
    /// changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Option<Result<Change<T>>> {
        poll_fn(|cx| self.0.poll(cx)).await
    }

    /// The value after the last item; before the first one, the value that the stream started from. Where there is none it is the field's default,
    /// or none if it has no default.
    ///
    /// # Errors
    ///
    /// `Decode` for what is not a `T`. `HistoryLost` while the value is not known, because the stream started
    /// [since](WatchingEntry::since) a revision that could not be read any more.
    pub fn current(&self) -> Result<Option<Versioned<T>>> {
        let Following { one, key, codec, default, .. } = &*self.0;
        if !one.is_complete() {
            return Err(start_unknown(key));
        }
        let revision = one.revision();
        let now = match one.now() {
            Some(stored) => Some(Versioned::new(self.0.decode(stored)?, stored.versions(revision))),
            None => default.map(|default| Versioned::new(default(), Versions { revision, ..Versions::default() })),
        };
        Ok(now.map(|now| now.secret(codec.is_secret())))
    }

    /// What keeps the stream from following at the moment; none while it does. It goes on trying either way.
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

    fn make(&self, touch: OneTouch) -> Result<Change<T>> {
        let OneTouch { revision, resynced, known, before } = touch;
        let default = || self.default.map(|default| default());
        let new = self.one.now().map(|stored| self.decode(stored)).transpose()?.or_else(default);
        let old = match before {
            Some(stored) => self.codec.decode_shared(&stored.value).ok(),
            // Of a resync the value before is told only where a key or nothing was seen: a default
            // may have been another value meanwhile.
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
