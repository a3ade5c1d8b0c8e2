//! The watch engine: from "list, then follow" to one endless row of [`Step`]s that survives everything a server does. The only place
//! that resumes. What the steps mean for typed values is `changes.rs`; how a server is watched is the stores' matter.
//!
//! The decisions are in [`engine`], which is pure; this file carries them out.

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

/// Where a watch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the state of now, and then every change after it.
    #[default]
    Now,
    /// With every change after this past revision. The state as of it comes first where the store can read the past.
    Since(Revision),
}

/// What a watch yields. Between two resets batches have ascending revisions and nothing is missing, nothing twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// This is the state now; whatever was known before is void. The first step is one, and only a lost history brings another.
    Reset(Snapshot),
    /// All changes of one revision.
    Batch(Batch),
    /// Everything up to this revision was yielded.
    Progress(Revision),
}

/// The state of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// What it is as of.
    pub(crate) revision: Revision,
    /// All keys of the span, in order.
    pub(crate) kvs: Vec<KeyValue>,
    /// False where the watch begins in a past that the store cannot read: then there is no state, only the changes that follow.
    pub(crate) known: bool,
    /// Why it came.
    pub(crate) reason: Reason,
}

/// Why a [`Snapshot`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is the first.
    Start,
    /// The changes since the last step were compacted, or left v2's window: they are not to be had any more.
    HistoryLost,
    /// The server came back with another history than the one that was watched: it was restored or emptied.
    Rewound,
}

impl Reason {
    /// As the cause of a resync.
    fn words(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::HistoryLost => "history_lost",
            Self::Rewound => "rewound",
        }
    }
}

/// A watch that is kept up. It works only while it is asked for the next step, so an idle one costs what its store keeps for it.
pub(crate) struct Follow {
    store: Arc<dyn Store>,
    engine: Engine,
    backoff: Backoff,
    /// What is under way for what the engine wants.
    call: Option<Call>,
    watch: Option<Open>,
    broken_since: Option<Instant>,
    /// Since when every attempt was refused.
    refused_since: Option<Instant>,
    /// For how long a watch that was followed goes on trying while it is refused, and how long the first step may take.
    patience: Duration,
    /// When it was asked for the first step.
    asked: Option<Instant>,
    /// The time after which the first step is given, although the watch is still being opened.
    overdue: Option<BoxFuture<'static, ()>>,
    /// [`Store::history`] when it was last looked at.
    history: u64,
}

/// A request under way, kept so that a caller who stops waiting and comes back waits for the same one.
enum Call {
    Read(BoxFuture<'static, Result<RangeReply>>),
    Open(BoxFuture<'static, Result<WatchStream>>),
    Wait(BoxFuture<'static, ()>),
}

struct Open {
    stream: WatchStream,
    since: Instant,
}

/// A watch that cannot follow at the moment. It goes on trying; this is for who wants to tell a person.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Interruption<'a> {
    /// When it began, on tokio's clock: see [`lasted`](Interruption::lasted).
    pub since: std::time::Instant,
    /// What the latest attempt met.
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

    /// The next step. After an error there is nothing more, except that a poll outside of a tokio runtime is `Unsupported` and changes nothing. The first one, once it was read, waits for the watch to be opened for no longer than
    /// [`RetryPolicy::call_timeout`] since it was asked for.
    ///
    /// # Errors
    ///
    /// Before the first step: whatever the first read met, and the refusals below and `Tls` of the first watch. Later
    /// `NotADirectory`, `IsADirectory`, `InvalidKey`, `InvalidUrl`, `TooLarge`; and `PermissionDenied`, `Unauthenticated`, `Unsupported` when every
    /// attempt was refused for [`RetryPolicy::call_timeout`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped: what was under way goes on with the next call.
    pub(crate) async fn next(&mut self) -> Option<Result<Step>> {
        poll_fn(|cx| self.poll_step(cx)).await
    }

    /// Whether the watch is followed at the moment, and if not why.
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
            // The call goes on after that: only it can tell what becomes of the watch.
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

    /// Keeps since when the watch cannot be followed.
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

    /// Does what is wanted.
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

    /// Ready when the first step is there, and the time that a call may take has passed before the watch was opened.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.engine.is_holding() {
            return Poll::Pending;
        }
        let left = self.patience.saturating_sub(self.asked.map_or(Duration::ZERO, |asked| asked.elapsed()));
        self.overdue.get_or_insert_with(|| Box::pin(sleep(left))).as_mut().poll(cx)
    }

    /// Ends the open watch. One that stood long and then broke is tried again at once, as if nothing had been before.
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
            // The last two need no call: `poll_input` and `poll_step` have dealt with them.
            Want::Wait | Want::Item | Want::Nothing => Self::Wait(Box::pin(sleep(backoff.next_delay()))),
        }
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("engine", &self.engine).finish_non_exhaustive()
    }
}
