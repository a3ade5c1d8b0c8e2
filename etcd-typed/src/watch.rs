//! The watch engine: lists the keys, watches them, and yields one endless sequence of [`Step`]s
//! that survives all server failures. Only this module resumes watches. `changes.rs` turns the
//! steps into typed values, and the stores send the watch requests.
//!
//! The module [`engine`] makes the decisions, without any I/O. This file carries them out.

mod anchor;
mod engine;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::retry::{Backoff, RetryPolicy};
use crate::revision::Revision;
use crate::runtime::{self, elapsed, sleep};
use crate::store::{Batch, BoxFuture, KeyValue, RangeReply, Span, Store, Watch, WatchStream};
use crate::telemetry::{self, Pattern};
use crate::watch::engine::{Engine, Input, Want};

/// The point in history at which a watch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Start {
    /// The watch begins with the current state, followed by every later change.
    #[default]
    Now,
    /// The watch yields every change after this past revision. If the store can read the past, the
    /// state at that revision comes first.
    Since(Revision),
}

/// An item of a watch. Between two resets the batches have ascending revisions, and no change is
/// missing or repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The current state, which replaces all earlier state. The first step is a reset. Later resets
    /// come only when history was lost.
    Reset(Snapshot),
    /// All changes of one revision.
    Batch(Batch),
    /// All changes up to this revision were yielded.
    Progress(Revision),
}

/// The state of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The revision of the state.
    pub(crate) revision: Revision,
    /// All keys of the span, in order. If the span is one key, the value is a copy that does not
    /// keep the whole server message in memory, since a program may watch thousands of keys.
    pub(crate) kvs: Vec<KeyValue>,
    /// False if the watch begins at a past revision whose state the store cannot read. `kvs` is
    /// then empty, and only the later changes are yielded.
    pub(crate) known: bool,
    /// The reason why the watch yielded the snapshot.
    pub(crate) reason: Reason,
}

/// The reason why a watch yielded a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The watch has just started.
    Start,
    /// The changes since the last step were compacted, or left v2's window, and are no longer
    /// available.
    HistoryLost,
    /// The server was restored or emptied, so it now has another history than the watch has seen.
    Rewound,
}

impl Reason {
    /// Returns the cause of a resync, as a label.
    fn words(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::HistoryLost => "history_lost",
            Self::Rewound => "rewound",
        }
    }
}

/// A watch that resumes itself. It has no task and makes progress only while it is polled.
pub(crate) struct Follow {
    store: Arc<dyn Store>,
    engine: Engine,
    backoff: Backoff,
    /// The running request for the engine's current want.
    call: Option<Call>,
    watch: Option<Open>,
    broken_since: Option<Instant>,
    /// The time since which the server has refused every attempt.
    refused_since: Option<Instant>,
    /// The longest time for which a watch that has worked keeps trying while the server refuses it,
    /// and the longest time that the first step may take.
    patience: Duration,
    /// The time of the first poll.
    asked: Option<Instant>,
    /// A timer, after which the first step is yielded even if the watch is still being opened.
    overdue: Option<BoxFuture<'static, ()>>,
    /// The value of [`Store::history`] when it was last checked.
    history: u64,
}

/// A running request. It is kept between polls: a caller that drops a future of `next` and calls
/// `next` again waits for the same request.
enum Call {
    Read(BoxFuture<'static, Result<RangeReply>>),
    Open(BoxFuture<'static, Result<WatchStream>>),
    Wait(BoxFuture<'static, ()>),
}

struct Open {
    stream: WatchStream,
    since: Instant,
}

/// The state of a stream that cannot receive changes from the server at the moment. The stream
/// keeps trying; this value is for people.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Interruption<'a> {
    /// The time at which the interruption began, on tokio's clock; see
    /// [`lasted`](Interruption::lasted).
    pub since: std::time::Instant,
    /// The error of the latest attempt.
    pub error: &'a Error,
}

impl Interruption<'_> {
    /// Returns how long the interruption has lasted on tokio's clock, which tests can pause.
    #[must_use]
    pub fn lasted(&self) -> Duration {
        elapsed(self.since)
    }
}

impl Follow {
    pub(crate) fn new(store: Arc<dyn Store>, retry: &RetryPolicy, span: Span, pattern: Pattern, start: Start) -> Self {
        let engine = Engine::new(span, pattern, store.capabilities().past_revisions, start);
        let history = store.history();
        Self {
            store,
            engine,
            backoff: retry.backoff(),
            call: None,
            watch: None,
            broken_since: None,
            refused_since: None,
            patience: retry.call_timeout,
            asked: None,
            overdue: None,
            history,
        }
    }

    /// Returns the next step. An error is the last item, except that a poll outside of a tokio
    /// runtime returns `Unsupported` and changes nothing. After the first state was read, the first
    /// step waits for the watch to be opened, at most until [`RetryPolicy::call_timeout`] after the
    /// first poll.
    ///
    /// # Errors
    ///
    /// Before the first step: any error of the first read, any error listed below when the first
    /// watch is opened, and `Tls`. Later: `NotADirectory`, `IsADirectory`, `InvalidKey`,
    /// `InvalidUrl`, `TooLarge`; and `PermissionDenied`, `Unauthenticated`, `Unsupported` if every
    /// attempt was refused for [`RetryPolicy::call_timeout`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next call continues the running request.
    pub(crate) async fn next(&mut self) -> Option<Result<Step>> {
        poll_fn(|cx| self.poll_step(cx)).await
    }

    /// Returns why the watch is interrupted, or `None` while it works.
    pub(crate) fn interruption(&self) -> Option<Interruption<'_>> {
        let since = self.broken_since?.into_std();
        self.engine.trouble().map(|error| Interruption { since, error })
    }

    pub(crate) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Step>>> {
        if !runtime::is_here() {
            return Poll::Ready(Some(Err(Error::without_runtime().at(self.engine.span().key()))));
        }
        self.asked.get_or_insert_with(Instant::now);
        loop {
            let input = match self.engine.want() {
                Want::Nothing => {
                    self.watch = None;
                    return Poll::Ready(None);
                }
                want => ready!(self.poll_input(want, cx)),
            };
            // After `Overdue`, the request to open the watch continues, since its answer is still
            // needed.
            if !matches!(input, Input::Overdue) {
                self.call = None;
            }
            self.overdue = None;
            let history = self.store.history();
            let input = if history == self.history { input } else { Input::Moved };
            self.history = history;
            let item = matches!(input, Input::Item(_));
            let step = self.engine.handle(input);
            if item && step.is_some() {
                self.backoff.reset();
            }
            self.note_trouble();
            if step.is_some() {
                return Poll::Ready(step);
            }
            if self.refused_since.is_some_and(|since| since.elapsed() >= self.patience) {
                return Poll::Ready(self.engine.give_up());
            }
        }
    }

    /// Records and reports the start and the end of interruptions and refusals.
    fn note_trouble(&mut self) {
        match (self.broken_since, self.engine.trouble()) {
            (None, Some(error)) => {
                telemetry::watch_interrupted(self.engine.pattern(), error);
                self.broken_since = Some(Instant::now());
            }
            (Some(since), None) => {
                telemetry::watch_resumed(self.engine.pattern(), since.elapsed());
                self.broken_since = None;
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.refused_since = self.engine.is_refused().then(|| self.refused_since.unwrap_or_else(Instant::now));
    }

    /// Sends the request that the engine wants, or continues it, and returns its answer.
    fn poll_input(&mut self, want: Want, cx: &mut Context<'_>) -> Poll<Input> {
        if !matches!(want, Want::Check(_) | Want::Item) {
            self.close();
        }
        if want == Want::Item {
            let item = match &mut self.watch {
                Some(open) => ready!(open.stream.as_mut().poll_next(cx)),
                None => None,
            };
            return Poll::Ready(Input::Item(item));
        }
        let call = match &mut self.call {
            Some(call) => call,
            none => none.insert(Call::begin(want, &self.store, self.engine.span(), &mut self.backoff)),
        };
        Poll::Ready(match call {
            Call::Read(read) => Input::Read(ready!(read.as_mut().poll(cx))),
            Call::Open(open) => match open.as_mut().poll(cx) {
                Poll::Ready(opened) => Input::Opened(opened.map(|stream| self.watch = Some(Open { stream, since: Instant::now() }))),
                Poll::Pending => {
                    ready!(self.poll_overdue(cx));
                    Input::Overdue
                }
            },
            Call::Wait(wait) => {
                ready!(wait.as_mut().poll(cx));
                Input::Waited
            }
        })
    }

    /// Becomes ready when the engine holds the first step back and the time for the first step has
    /// passed.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.engine.is_holding() {
            return Poll::Pending;
        }
        let left = self.patience.saturating_sub(self.asked.map_or(Duration::ZERO, |asked| asked.elapsed()));
        self.overdue.get_or_insert_with(|| Box::pin(sleep(left))).as_mut().poll(cx)
    }

    /// Closes the open watch. If the watch was open for long, the next attempt follows at once.
    fn close(&mut self) {
        if let Some(open) = self.watch.take()
            && open.since.elapsed() >= self.backoff.longest()
        {
            self.backoff.reset();
        }
    }
}

impl Call {
    fn begin(want: Want, store: &Arc<dyn Store>, span: &Span, backoff: &mut Backoff) -> Self {
        let store = Arc::clone(store);
        match want {
            Want::Read(range) | Want::Check(range) => Self::Read(Box::pin(async move { store.range(range).await })),
            Want::Open(from) => {
                let watch = Watch { span: span.clone(), from };
                Self::Open(Box::pin(async move { store.watch(watch).await }))
            }
            // Only `Wait` reaches this arm: `poll_input` and `poll_step` handle `Item` and
            // `Nothing`.
            Want::Wait | Want::Item | Want::Nothing => Self::Wait(Box::pin(sleep(backoff.next_delay()))),
        }
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("engine", &self.engine).finish_non_exhaustive()
    }
}
