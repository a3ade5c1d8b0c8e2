//! Runs the long polls of a watch in a separate task.
//!
//! The client uses neither `stream=true`, which silently loses events, nor `quorum` with `wait`,
//! which does not wait. While a poll is open, the task probes its endpoint, because a poll does not
//! show that a server hangs or has lost contact with the other members. The task also moves the
//! start of the watch forward. The server keeps only the last 1000 events of the whole store, so a
//! watch that got no event for a long time could otherwise not resume after a cut.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::V2Store;
use super::http::{EndpointIndex, Http, Poll};
use super::json::{self, Again, Answer, Fault};
use super::machine::{Machine, Seen};
use super::plan::no_ranges;
use super::queue::{Queue, queue};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;
use crate::store::{Span, Watch, WatchItem, WatchStream};

/// A poll without an answer is replaced early once the store is this many events ahead of it. The
/// server keeps 1000 events.
const ROTATE_BEHIND: u64 = 250;

/// The pause after an answer without a new event, so that a server or proxy that repeats an answer
/// is not polled in a busy loop.
const STALE_DELAY: Duration = Duration::from_millis(50);

impl V2Store {
    pub(super) async fn open_watch(&self, watch: Watch) -> Result<WatchStream> {
        let key = watch.span.key().clone();
        if matches!(watch.span, Span::Between { .. }) {
            return Err(no_ranges().at(&key));
        }
        let start = watch.from.revision();
        let follower = Follower {
            http: self.http.clone(),
            at: self.http.current(),
            machine: Machine::new(watch),
            check_interval: self.check_interval,
            progress_interval: self.progress_interval,
        };
        let (queue, items) = queue();
        match follower.start(start).await.map_err(|error| error.at(&key))? {
            Opened::Poll(poll) => Ok(Box::pin(items(tokio::spawn(follower.run(poll, queue))))),
            Opened::Over(last) => {
                queue.finish(Ok(last));
                Ok(Box::pin(items(tokio::spawn(std::future::ready(())))))
            }
        }
    }
}

/// The task of one watch, which uses one endpoint.
struct Follower {
    http: Arc<Http>,
    at: EndpointIndex,
    machine: Machine,
    /// How often the endpoint is probed while a poll is open.
    check_interval: Duration,
    /// How often a poll without an answer is replaced.
    progress_interval: Duration,
}

/// The outcome of opening a poll.
#[expect(clippy::large_enum_variant, reason = "the value is short-lived")]
enum Opened {
    Poll(OpenPoll),
    /// The watch is over, with this last item.
    Over(WatchItem),
}

/// A registered poll.
struct OpenPoll {
    poll: Poll,
    /// The store's revision when the poll was registered. The server answers at once if there is a
    /// matching event up to this revision.
    index: Revision,
    opened: Instant,
}

/// What happened while a poll was open.
enum Happened {
    Answer(Answer),
    /// The poll has no event and the endpoint works. Another poll has replaced it.
    Replaced(OpenPoll),
    /// The poll has no event and the endpoint works.
    Idle {
        replaceable: bool,
    },
}

impl Follower {
    /// Opens the first poll. If the server's revision is below the start of the watch, reads it
    /// again with a linearizable read, because the server may lag behind.
    async fn start(&self, start: Revision) -> Result<Opened> {
        let opened = self.open(self.machine.yielded()).await?;
        if let Opened::Poll(OpenPoll { index, .. }) = &opened
            && *index < start
        {
            let index = self.http.probe(self.at, &self.machine.probe()?, Duration::ZERO).await.inspect_err(|_| self.http.leave(self.at))?;
            // An index of zero means that the server refused the read. Such an index says nothing
            // about the store.
            if index < start && index != Revision::ZERO {
                return Ok(Opened::Over(WatchItem::Behind(index)));
            }
        }
        Ok(opened)
    }

    async fn run(mut self, mut current: OpenPoll, queue: Queue) {
        let last = loop {
            match self.follow(&mut current, &queue).await {
                Ok(None) => {}
                Ok(Some(last)) => break Ok(last),
                Err(error) => {
                    self.http.leave(self.at);
                    break Err(error);
                }
            }
        };
        queue.finish(last);
    }

    /// Waits until a poll is answered or replaced. Returns the last item if the watch ends.
    async fn follow(&mut self, current: &mut OpenPoll, queue: &Queue) -> Result<Option<WatchItem>> {
        let mut replaceable = true;
        let mut next_check = current.opened + self.check_interval;
        loop {
            let index = current.index;
            let happened = tokio::select! {
                biased;
                answer = self.http.answer_of(&mut current.poll) => Happened::Answer(answer.map_err(cut)?),
                checked = self.check(next_check, current.opened, index, replaceable) => checked?,
            };
            match happened {
                Happened::Answer(answer) => return self.take(answer, current, queue).await,
                Happened::Replaced(next) => {
                    *current = next;
                    let progress = self.machine.quiet(index);
                    return Ok(progress.filter(|progress| !queue.push(progress.clone())).map(|_| WatchItem::Lagged));
                }
                Happened::Idle { replaceable: still } => {
                    replaceable = still;
                    next_check = Instant::now() + self.check_interval;
                }
            }
        }
    }

    /// Queues the event in the answer of a poll, and opens the next poll.
    async fn take(&mut self, answer: Answer, current: &mut OpenPoll, queue: &Queue) -> Result<Option<WatchItem>> {
        let change = match json::keys(&answer).map_err(cut)?.outcome {
            Ok(change) => change,
            Err(refusal) => match refusal.history_lost() {
                Some(oldest) => return Ok(Some(WatchItem::HistoryLost { oldest })),
                None => return Err(refusal.into_error()),
            },
        };
        match self.machine.event(change) {
            Seen::Item(item) => {
                if !queue.push(item) {
                    return Ok(Some(WatchItem::Lagged));
                }
            }
            Seen::Stale => sleep(STALE_DELAY).await,
        }
        match self.open(self.machine.yielded()).await? {
            Opened::Poll(next) => *current = next,
            Opened::Over(last) => return Ok(Some(last)),
        }
        Ok(None)
    }

    /// Waits until `when`, probes the endpoint, and replaces the poll if that is due.
    ///
    /// The new poll starts after the index at which the old one was registered. Matching events up
    /// to that index would have answered the old poll at once, but there was no answer although the
    /// server works. The new poll's own index cannot be used, because behind a load balancer it may
    /// come from another member.
    async fn check(&self, when: Instant, opened: Instant, index: Revision, replaceable: bool) -> Result<Happened> {
        sleep_until(when).await;
        let now_at = self.http.probe(self.at, &self.machine.probe()?, self.check_interval / 2).await?;
        let behind = now_at.get().saturating_sub(index.get());
        if !replaceable || (opened.elapsed() < self.progress_interval && behind < ROTATE_BEHIND) {
            return Ok(Happened::Idle { replaceable });
        }
        match self.open(index).await? {
            Opened::Poll(next) => Ok(Happened::Replaced(next)),
            // The server no longer keeps the events after `index`, so no new poll can start there.
            // The open poll still receives new events. The lost history matters only if that poll
            // is cut.
            Opened::Over(_) => Ok(Happened::Idle { replaceable: false }),
        }
    }

    /// Opens a poll for events after `revision`.
    async fn open(&self, revision: Revision) -> Result<Opened> {
        let target = self.machine.poll_after(revision)?;
        let left = |fault: Fault| {
            self.http.leave(self.at);
            cut(fault)
        };
        let mut poll = self.http.poll(self.at, &target).await.map_err(left)?;
        if poll.is_registered() {
            let index = poll
                .index()
                .map(Revision::new)
                .ok_or_else(|| Error::new(ErrorKind::Server, "an answer without `X-Etcd-Index`; is this an etcd v2 server?"))?;
            return Ok(Opened::Poll(OpenPoll { poll, index, opened: Instant::now() }));
        }
        let answer = self.http.answer_of(&mut poll).await.map_err(left)?;
        match json::keys(&answer).map_err(left)?.outcome {
            Err(refusal) => match refusal.history_lost() {
                Some(oldest) => Ok(Opened::Over(WatchItem::HistoryLost { oldest })),
                None => Err(refusal.into_error()),
            },
            Ok(_) => Err(Error::new(ErrorKind::Server, "the server answered a watch request with something other than an event")),
        }
    }
}

/// Returns the error of a broken poll. An incomplete body counts as broken too, whatever it
/// contains, because servers cut their polls when they stop.
fn cut(fault: Fault) -> Error {
    let Fault { error, again, origin: _ } = fault;
    if again == Again::Never || error.is_retryable() {
        return error;
    }
    Error::new(ErrorKind::Unavailable, "the watch was cut").caused_by(error)
}
