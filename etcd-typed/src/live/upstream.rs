//! `Upstream`: one watch of a directory, which all live views of a client on this directory share,
//! the task that keeps the watch running, and the views that receive its changes. Views read the
//! store only through an upstream.
//!
//! A watch delivers events in order and without gaps. But if it is silent, it may be broken. So the
//! task asks the store for its revision from time to time, and whenever a caller needs to know the
//! revision: see [`Proof`].

mod heads;
mod proof;

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use self::heads::Heads;
use self::proof::{Outcome, Proof, period};
use crate::changes::{Mirror, StepChanges};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::retry::{Backoff, RetryPolicy};
use crate::revision::Revision;
use crate::runtime::{self, Patience, Runtimes, sleep};
use crate::store::{BoxFuture, Span, Store};
use crate::telemetry::{self, Pattern};
use crate::watch::{Follow, Start, Step};

/// All upstreams of one client, by the span that they watch.
pub(crate) struct Upstreams {
    open: Mutex<HashMap<Span, Weak<Upstream>>>,
    heads: Arc<Heads>,
    runtimes: Arc<Runtimes>,
}

impl Upstreams {
    pub(crate) fn new(runtimes: Arc<Runtimes>) -> Self {
        Self { open: Mutex::default(), heads: Arc::new(Heads::new()), runtimes }
    }

    #[cfg(feature = "snapshot")]
    pub(super) fn runtimes(&self) -> &Arc<Runtimes> {
        &self.runtimes
    }

    /// Returns the upstream that watches the span of this source. Starts an upstream if none is
    /// running.
    pub(super) fn open(&self, source: &Source) -> Result<Arc<Upstream>> {
        self.runtimes.note();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(upstream) = open.get(&source.span).and_then(Weak::upgrade)
            && !upstream.task.as_ref().is_none_or(runtime::Task::is_finished)
        {
            return Ok(upstream);
        }
        if !runtime::is_here() {
            return Err(Error::without_runtime().at(&source.directory));
        }
        open.retain(|_, upstream| upstream.strong_count() > 0);
        if open.is_empty() {
            self.heads.restart();
        }
        let upstream = Arc::new(Upstream::start(self.runtimes.clone(), self.heads.clone(), source));
        open.insert(source.span.clone(), Arc::downgrade(&upstream));
        Ok(upstream)
    }
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").finish_non_exhaustive()
    }
}

/// The span to watch, and everything that is needed to watch it.
pub(crate) struct Source {
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) retry: RetryPolicy,
    pub(crate) span: Span,
    /// The directory that the view's keys are relative to.
    pub(crate) directory: Key,
    /// The label for the directory in metrics and events.
    pub(crate) pattern: Pattern,
}

/// A handle to the task that watches a directory and passes its changes to the views. Dropping the
/// handle ends the watch.
pub(super) struct Upstream {
    directory: Key,
    commands: mpsc::UnboundedSender<Command>,
    proven: Arc<Mutex<Proven>>,
    runtimes: Arc<Runtimes>,
    /// `None` for a view that watches nothing.
    task: Option<runtime::Task>,
    audience: Arc<AudienceList>,
}

/// A view that is notified when a runtime takes over the task, or when the last runtime loses it.
pub(super) trait Audience: Send + Sync {
    fn task_moved(&self);
}

#[derive(Default)]
struct AudienceList(Mutex<Vec<Weak<dyn Audience>>>);

impl AudienceList {
    fn add(&self, view: Weak<dyn Audience>) {
        let mut views = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|view| view.strong_count() > 0);
        views.push(view);
    }

    fn task_moved(&self) {
        // Collects the views first, so that the lock is released: if one of these is the last
        // reference to its view, dropping it ends the task.
        let views: Vec<_> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        views.iter().for_each(|view| view.task_moved());
    }
}

/// A view of any type, in the form in which the upstream's task uses it.
pub(super) trait Feed: Send {
    /// Whether the view was dropped.
    fn is_gone(&self) -> bool;

    /// Called with the contents of the directory, from which the view makes its first state.
    fn begin<'f>(&'f mut self, mirror: &'f Mirror) -> BoxFuture<'f, ()>;

    /// Called after a step of the watch has changed keys in the directory.
    fn touch<'f>(&'f mut self, mirror: &'f Mirror, touch: &'f StepChanges) -> BoxFuture<'f, ()>;

    /// Called when it is known that no key in the directory changed up to this revision.
    fn progress(&mut self, revision: Revision);

    /// Called with an error when the watch is interrupted, and with `None` when it works again.
    fn interrupted(&mut self, trouble: Option<&Trouble>);

    /// Called if the server cannot give the first state. `error` says why.
    fn failed(&mut self, error: &Arc<Error>);
}

/// The time that may pass without a poll of the task before its runtime counts as stopped. The task
/// wakes at least every 10 s, to check that the mirror is current.
const PATIENCE: Duration = Duration::from_secs(25);

enum Command {
    Attach(Box<dyn Feed>),
    /// A caller waits until the view has processed this revision.
    Want(Revision),
}

impl Upstream {
    fn start(runtimes: Arc<Runtimes>, heads: Arc<Heads>, source: &Source) -> Self {
        let Source { store, retry, span, directory, pattern, .. } = source;
        let (commands, receiver) = mpsc::unbounded_channel();
        let proven = Arc::new(Mutex::new(Proven { asked: Instant::now(), period: period(0) }));
        let task = Task {
            backoff: retry.backoff(),
            retry: retry.clone(),
            span: span.clone(),
            directory: directory.clone(),
            pattern,
            commands: receiver,
            mirror: None,
            listed: Revision::ZERO,
            feeds: Vec::new(),
            trouble: None,
            proof: Proof::new(store.clone(), span.clone(), heads),
            proven: proven.clone(),
            store: store.clone(),
        };
        let audience = Arc::<AudienceList>::default();
        let told = Arc::downgrade(&audience);
        let prepared = runtimes.prepare().observed(move || told.upgrade().iter().for_each(|audience| audience.task_moved()));
        let handle = prepared.task();
        prepared.start(task.run());
        Self { directory: directory.clone(), commands, proven, runtimes, task: Some(handle), audience }
    }

    /// Returns an upstream without a task, for a view that watches nothing.
    pub(super) fn none() -> Self {
        Self {
            directory: Key::root(),
            commands: mpsc::unbounded_channel().0,
            proven: Arc::new(Mutex::new(Proven { asked: Instant::now(), period: period(0) })),
            runtimes: Runtimes::new(),
            task: None,
            audience: Arc::default(),
        }
    }

    /// From now on, notifies the view when a runtime takes over the task, or when the last runtime
    /// loses the task.
    pub(super) fn heed(&self, view: Weak<dyn Audience>) {
        self.audience.add(view);
    }

    pub(super) fn attach(&self, feed: Box<dyn Feed>) {
        // If the task has ended, this drops the feed, and the caller that waits for it gets an error.
        let _ = self.commands.send(Command::Attach(feed));
    }

    /// Tells the task that a caller waits for this revision. The watch alone may never reach it, since
    /// it does not report writes outside of its directory.
    pub(super) fn want(&self, revision: Revision) {
        let _ = self.commands.send(Command::Want(revision));
    }

    pub(super) fn directory(&self) -> &Key {
        &self.directory
    }

    /// Waits for the result of a command that was just sent. Returns `None` if no runtime runs the
    /// task.
    pub(super) async fn answers<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        self.attend(Patience { first: Duration::from_millis(500), then: PATIENCE }, answer).await
    }

    /// Waits for an event of the watch. Returns `None` if no runtime runs the task.
    pub(super) async fn tells<T>(&self, news: impl Future<Output = T>) -> Option<T> {
        self.attend(Patience { first: PATIENCE, then: PATIENCE }, news).await
    }

    async fn attend<T>(&self, patience: Patience, work: impl Future<Output = T>) -> Option<T> {
        match &self.task {
            Some(task) => task.attend(patience, work).await,
            None => Some(work.await),
        }
    }

    /// True while no runtime runs the task. The task continues when the client is used on a
    /// runtime.
    pub(super) fn is_stranded(&self) -> bool {
        self.task.as_ref().is_some_and(runtime::Task::is_stranded)
    }

    pub(super) fn runtimes(&self) -> &Arc<Runtimes> {
        &self.runtimes
    }

    pub(super) fn staleness(&self) -> Duration {
        if self.task.is_none() {
            return Duration::ZERO;
        }
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).asked.elapsed()
    }

    pub(super) fn proof_period(&self) -> Duration {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).period
    }

    pub(super) fn last_proof(&self) -> std::time::Instant {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).asked.into_std()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.iter().for_each(runtime::Task::end);
    }
}

/// The error that interrupts the watch, and the time since when the watch is interrupted.
pub(super) type Trouble = (std::time::Instant, Arc<Error>);

struct Task {
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    backoff: Backoff,
    span: Span,
    directory: Key,
    pattern: Pattern,
    commands: mpsc::UnboundedReceiver<Command>,
    /// The contents of the directory. `None` before the first read.
    mirror: Option<Mirror>,
    /// The revision of the last listing of the directory that was equal to the mirror. The mirror
    /// already has all events up to this revision, although the watch did not deliver them.
    listed: Revision,
    feeds: Vec<Attached>,
    trouble: Option<Trouble>,
    proof: Proof,
    proven: Arc<Mutex<Proven>>,
}

/// The last check that showed that the mirror had everything that the server had.
#[derive(Clone, Copy)]
struct Proven {
    /// The time at which the request of this check was sent.
    asked: Instant,
    /// The time from this check to the next one.
    period: Duration,
}

struct Attached {
    feed: Box<dyn Feed>,
    /// The time at which the feed was attached. Its first state must not be older.
    since: Instant,
    /// Whether the feed has received its first state.
    begun: bool,
}

/// The reason why the task stops using a watch.
enum Stop {
    /// The upstream was dropped.
    Closed,
    /// A new watch must start from the current state of the store.
    Restart,
    /// The watch ended with this error.
    Failed(Error),
}

/// A report of a watch.
enum News {
    Step(Option<Result<Step>>),
    /// The watch is interrupted, or works again (`None`).
    Trouble(Option<Trouble>),
}

impl Task {
    async fn run(mut self) {
        // The first view waits for a state that is not older than its call. The task reads the
        // directory only after this call, so no proof is needed.
        match self.commands.recv().await {
            None => return,
            Some(command) => self.command(command),
        }
        loop {
            match self.follow().await {
                Stop::Closed => return,
                Stop::Restart => {}
                Stop::Failed(error) => {
                    self.fail(error);
                    if !self.pause().await {
                        return;
                    }
                }
            }
        }
    }

    async fn follow(&mut self) -> Stop {
        let started = Instant::now();
        let mut first = true;
        let mut follow = Follow::new(self.store.clone(), &self.retry, self.span.clone(), self.pattern, Start::Now);
        loop {
            let stop = tokio::select! {
                // Commands come first. A busy watch must not delay a command, and an answer must
                // not be processed before the command that asked for it.
                biased;
                command = self.commands.recv() => match command {
                    None => Some(Stop::Closed),
                    Some(command) => {
                        self.command(command);
                        None
                    }
                },
                outcome = self.proof.next(self.mirror.as_ref()) => self.proof_outcome(outcome).await,
                news = poll_fn(|cx| poll_news(&mut follow, first, self.trouble.as_ref(), cx)) => match news {
                    News::Step(Some(Ok(step))) => {
                        self.step(step, std::mem::take(&mut first).then_some(started)).await;
                        None
                    }
                    News::Step(Some(Err(error))) => Some(Stop::Failed(error)),
                    News::Step(None) => Some(Stop::Restart),
                    News::Trouble(trouble) => {
                        self.set_trouble(trouble);
                        None
                    }
                },
            };
            self.feeds.retain(|attached| !attached.feed.is_gone());
            if let Some(stop) = stop {
                return stop;
            }
        }
    }

    /// Waits before the next attempt. A command ends the wait early, since the attempt for a new
    /// caller may succeed at once. Returns `false` if the upstream was dropped.
    async fn pause(&mut self) -> bool {
        let delay = sleep(self.backoff.next_delay());
        tokio::pin!(delay);
        tokio::select! {
            () = &mut delay => true,
            command = self.commands.recv() => match command {
                None => false,
                Some(command) => {
                    self.command(command);
                    true
                }
            },
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Attach(feed) => {
                self.feeds.push(Attached { feed, since: Instant::now(), begun: false });
                if self.mirror.is_some() {
                    self.proof.ask();
                }
            }
            Command::Want(revision) => self.proof.want(revision),
        }
    }

    async fn step(&mut self, step: Step, first: Option<Instant>) {
        let is_reset = matches!(step, Step::Reset(_));
        if is_reset {
            self.listed = Revision::ZERO;
            self.proof.believe();
        } else if let Step::Batch(batch) = &step
            && batch.revision <= self.listed
        {
            // The mirror already has this batch from a listing. If the batch were applied again,
            // the mirror would return to an old state. But the batch may also come from a server
            // that was restored after the listing, so the directory is listed again.
            self.proof.doubt();
            return;
        }
        let touch = match (&mut self.mirror, step) {
            (Some(mirror), step) => mirror.apply_in_steps(step).await,
            (none, Step::Reset(snapshot)) => {
                none.replace(Mirror::new_in_steps(self.directory.clone(), snapshot).await);
                None
            }
            // Never happens: the first step of a watch is a reset.
            (None, _) => None,
        };
        self.proof.moved();
        if !is_reset {
            self.backoff.reset();
        }
        let Some(mirror) = &self.mirror else { return };
        for attached in self.feeds.iter_mut().filter(|attached| attached.begun) {
            match &touch {
                Some(touch) => attached.feed.touch(mirror, touch).await,
                None if self.proof.doubts() => {}
                None => attached.feed.progress(mirror.revision()),
            }
        }
        match first {
            // The reset of a new watch was read after `started`, so it proves the mirror at that
            // time.
            Some(started) => {
                self.set_trouble(None);
                self.proved(started).await;
            }
            None => {
                let outcome = self.proof.seen(mirror.revision());
                // `seen` never returns `Disproved`, so the result is no `Stop`.
                self.proof_outcome(outcome).await;
                if is_reset {
                    self.proof.ask();
                }
            }
        }
    }

    async fn proof_outcome(&mut self, outcome: Outcome) -> Option<Stop> {
        match outcome {
            Outcome::Open => {
                self.tell_staleness();
                None
            }
            Outcome::Proved { asked, revision } => {
                if let Some(mirror) = &mut self.mirror {
                    if revision > mirror.revision() {
                        self.listed = revision;
                        mirror.advance(revision);
                        self.proof.moved();
                    }
                    for attached in self.feeds.iter_mut().filter(|attached| attached.begun) {
                        attached.feed.progress(mirror.revision());
                    }
                }
                self.proved(asked).await;
                None
            }
            Outcome::Disproved => {
                telemetry::watch_disproved(self.pattern);
                self.tell_staleness();
                Some(Stop::Restart)
            }
            Outcome::Failed(error) => {
                telemetry::view_unproved(self.pattern, &error);
                self.tell_staleness();
                let error = Arc::new(error);
                for attached in self.feeds.iter_mut().filter(|attached| !attached.begun) {
                    attached.feed.failed(&error);
                }
                None
            }
        }
    }

    /// Records that the mirror had everything that the server had at the time `asked`.
    async fn proved(&mut self, asked: Instant) {
        let period = period(self.mirror.as_ref().map_or(0, Mirror::count));
        *self.proven.lock().unwrap_or_else(PoisonError::into_inner) = Proven { asked, period };
        self.tell_staleness();
        let Some(mirror) = &self.mirror else { return };
        for attached in self.feeds.iter_mut().filter(|attached| !attached.begun) {
            if attached.since <= asked {
                attached.feed.begin(mirror).await;
                attached.feed.interrupted(self.trouble.as_ref());
                attached.begun = true;
            } else {
                self.proof.ask();
            }
        }
    }

    fn tell_staleness(&self) {
        let Proven { asked, period } = *self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        telemetry::view_staleness(self.pattern, asked.elapsed(), period);
    }

    fn set_trouble(&mut self, trouble: Option<Trouble>) {
        for attached in &mut self.feeds {
            attached.feed.interrupted(trouble.as_ref());
        }
        if self.trouble.is_some() && trouble.is_none() {
            self.proof.ask();
        }
        self.trouble = trouble;
    }

    /// Called after the watch ended with an error. A watch retries temporary errors itself. So the
    /// server has refused the watch, or the first read has failed.
    fn fail(&mut self, error: Error) {
        telemetry::watch_refused(self.pattern, &error, self.mirror.is_some() && self.trouble.is_none());
        self.tell_staleness();
        let since = self.trouble.as_ref().map_or_else(runtime::now, |(since, _)| *since);
        let error = Arc::new(error);
        for attached in self.feeds.iter_mut().filter(|attached| !attached.begun) {
            attached.feed.failed(&error);
        }
        self.set_trouble(Some((since, error)));
        self.feeds.retain(|attached| !attached.feed.is_gone());
    }
}

/// Polls for the next step of the watch, or for an interruption that differs from `known`. An
/// interruption of the previous watch lasts until the first step of this watch.
fn poll_news(follow: &mut Follow, first: bool, known: Option<&Trouble>, cx: &mut Context<'_>) -> Poll<News> {
    if let Poll::Ready(step) = follow.poll_step(cx) {
        return Poll::Ready(News::Step(step));
    }
    match (follow.interruption(), known) {
        (None, known) if first || known.is_none() => Poll::Pending,
        (Some(now), Some((since, error))) if now.since == *since && now.error.kind() == error.kind() => Poll::Pending,
        (now, _) => Poll::Ready(News::Trouble(now.map(|now| (now.since, Arc::new(now.error.again()))))),
    }
}
