//! The task of one watch stream. It moves messages between the connection, the state machine and
//! the readers' queues, and never waits for a reader.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, OptionFuture};
use http::HeaderValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::machine::{Machine, Output, Token};
use super::shared_watches::{SharedWatch, SharedWatches};
use super::{Command, Handle};
use crate::store::v3::attempt::Core;
use crate::store::v3::channel::{Lane, Slot};
use crate::store::v3::cluster::Origin;
use crate::store::v3::connection::{Answers, Connection, Metadata, Requests};
use crate::store::v3::grpc::{Local, Status};
use crate::store::v3::how::How;
use crate::store::v3::kv::header_revision;
use crate::store::v3::status::{Failure, Row};
use crate::store::v3::wire::{Answer, RANGE, RangeRequest, ResponseHeader, STATUS, StatusRequest, WATCH, WatchResponse};

/// The time limit for asking a server for its version.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// The watches of the stream.
pub(super) struct Watched {
    shared_watches: HashMap<Token, Arc<SharedWatch>>,
    /// The history that the watches belong to.
    origin: Origin,
    /// The number of watches. The caller that adds a watch increments the number, so that it is
    /// right even before this task runs.
    count: Arc<AtomicUsize>,
    /// The newest revision that the server has reported.
    reached: Arc<AtomicU64>,
    /// True if the stream accepts no new watches.
    retired: Arc<AtomicBool>,
    /// All watches of the client.
    all: Arc<SharedWatches>,
    /// The wakers of one batch. The allocation is reused for the next batch.
    wakers: Vec<Waker>,
}

/// Serves one stream until its last watch has ended or the stream breaks. If the stream breaks,
/// every reader gets the error.
pub(super) async fn run(
    core: Arc<Core>,
    token: Option<HeaderValue>,
    mut wishes: mpsc::UnboundedReceiver<Command>,
    mut watched: Watched,
    progress_interval: Duration,
) {
    let mut machine = Machine::default();
    let slot = core.endpoints.pick();
    let mut connection = None;
    let end = match open(&core, slot, token.as_ref()).await {
        Ok((opened, calls)) => {
            let connection = connection.insert(opened);
            serve(&core, slot, connection, calls, token, &mut wishes, &mut watched, &mut machine, progress_interval).await
        }
        Err(status) => Err(Failure::of(&slot.name, status)),
    };
    // Later watches look for another stream, and so do the watches that are turned away below. The
    // loop receives until the channel is empty and closed, so it also gets a command that is just
    // being sent. If it only looked at the queued commands, the sender of such a command could wait
    // for an answer forever.
    wishes.close();
    let mut failure = end.err();
    while let Some(wish) = wishes.recv().await {
        match wish {
            Command::Add(shared) if failure.is_some() => watched.add(shared),
            Command::Add(shared) => shared.turn_away(),
            Command::Remove(token) => watched.remove(token),
            Command::Doubt => {}
        }
    }
    let Some(failure) = &mut failure else {
        return;
    };
    if failure.row == Row::TurnedAway {
        // The server did not begin the stream, so it has no watches yet.
        return watched.turn_away();
    }
    if failure.row == Row::AnswerTooLarge {
        // Only one watch's message was too large. On another stream the message arrives in other
        // pieces, so every watch may try again.
        failure.row = Row::Severed;
    }
    if failure.row.verdict().endpoint_failed {
        core.endpoints.meet(failure);
        slot.failed();
        if let Some(connection) = &connection {
            slot.forget(Lane::Watches, connection);
        }
    }
    watched.fail(failure);
}

/// Opens the stream on a connection that has room for it. Watch streams stay open, so a stream that
/// waited for the end of another might wait forever.
async fn open(core: &Core, slot: &Slot, token: Option<&HeaderValue>) -> Result<(Connection, (Requests, Answers)), Status> {
    // Without `leader: true`, a member without a leader would stay silent. With it, such a member
    // ends the stream.
    let metadata = Metadata { leader: true, token };
    loop {
        let connection = core.endpoints.connection(slot, Lane::Watches).await?;
        match connection.clone().begin_lasting(WATCH, metadata)? {
            Some(calls) => return Ok((connection, calls)),
            None => slot.forget(Lane::Watches, &connection),
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one task, which its caller ends in one place")]
async fn serve(
    core: &Core,
    slot: &Slot,
    connection: &Connection,
    (mut requests, mut answers): (Requests, Answers),
    token: Option<HeaderValue>,
    wishes: &mut mpsc::UnboundedReceiver<Command>,
    watched: &mut Watched,
    machine: &mut Machine,
    progress_interval: Duration,
) -> Result<(), Failure> {
    let behind = connection.behind();
    let mut ticks = interval_at(Instant::now() + progress_interval, progress_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The server's version is asked for once, when it is first needed.
    let mut version: Option<BoxFuture<'_, bool>> = None;
    let mut version_is_known = false;
    let mut doubted = false;
    loop {
        tokio::select! {
            wish = wishes.recv() => match wish {
                Some(Command::Add(shared)) if doubted => {
                    // The command was sent before its sender saw that the stream is retired.
                    watched.add(Arc::clone(&shared));
                    watched.remove(shared.token());
                    shared.turn_away();
                }
                Some(Command::Add(shared)) => {
                    machine.add(shared.token(), &shared.watch);
                    watched.add(shared);
                }
                Some(Command::Remove(token)) => {
                    watched.remove(token);
                    machine.remove(token);
                }
                Some(Command::Doubt) => connection.doubt(),
                None => return Ok(()),
            },
            message = answers.next::<WatchResponse>() => {
                let ended = || Local::Ended("though watches were left on its stream").into();
                // Before the first watch is created, a server sends nothing at all, not even the
                // headers of its answer.
                let mut message = message.and_then(|message| message.ok_or_else(ended)).map_err(|status| Failure::of(&slot.name, status))?;
                core.recognize(slot, &behind, message.header()).await?;
                if !watched.origin.is_current() {
                    return Err(Failure::new(Row::ClusterReplaced, format!("{} is of another cluster now", slot.name)));
                }
                if message.created
                    && !message.canceled
                    && message.header().is_none_or(|header| header.cluster_id == 0)
                    && let Some(span) = machine.under_way()
                {
                    message.header = header_of(core, token.as_ref(), span).await?;
                }
                watched.reached.fetch_max(header_revision(message.header.as_ref()).get(), Ordering::Relaxed);
                machine.receive(message);
            }
            () = connection.doubted(), if !doubted => {
                doubted = true;
                // The connection may be broken. Watches that the server has not confirmed yet move
                // to another stream, and new watches start on another stream. Established watches
                // still get their events from this stream.
                watched.retired.store(true, Ordering::Relaxed);
                for token in machine.not_established() {
                    machine.remove(token);
                    if let Some(shared) = watched.take(token) {
                        shared.turn_away();
                    }
                }
            }
            _ = ticks.tick() => {
                watched.shared_watches.values().for_each(|shared| shared.age());
                if version_is_known || version.is_some() {
                    machine.ask_progress();
                } else {
                    version = Some(progress_is_reliable(core, slot, token.as_ref()).boxed());
                }
            }
            Some(reliable) = OptionFuture::from(version.as_mut()), if version.is_some() => {
                version = None;
                version_is_known = true;
                machine.set_progress_is_reliable(reliable);
                machine.ask_progress();
            }
        }
        while let Some(output) = machine.next() {
            act(output, watched, machine, &mut requests, slot)?;
        }
        if watched.shared_watches.is_empty() {
            return Ok(());
        }
    }
}

fn act(output: Output, watched: &mut Watched, machine: &mut Machine, requests: &mut Requests, slot: &Slot) -> Result<(), Failure> {
    match output {
        Output::Send(request) => requests.send(&request, false),
        Output::Established(token, at) => {
            slot.succeeded();
            if let Some(shared) = watched.shared_watches.get(&token)
                && (!shared.stand(at) || watched.all.fold(shared))
            {
                machine.remove(token);
                watched.remove(token);
            }
        }
        Output::Item(token, item) => {
            let Watched { shared_watches, wakers, .. } = watched;
            if !shared_watches.get(&token).is_some_and(|shared| shared.deliver(item, wakers)) {
                machine.remove(token);
                watched.remove(token);
            }
        }
        Output::Failed(token, failure) => {
            if let Some(shared) = watched.take(token) {
                shared.fail(&failure);
            }
        }
        Output::Break(failure) => return Err(failure),
    }
    Ok(())
}

impl Watched {
    /// Returns the empty set of watches of this stream.
    pub(super) fn new(all: &Arc<SharedWatches>, stream: &Handle) -> Self {
        let (count, reached, retired) = (Arc::clone(&stream.watches), Arc::clone(&stream.reached), Arc::clone(&stream.retired));
        Self {
            shared_watches: HashMap::new(),
            origin: stream.origin.clone(),
            count,
            reached,
            retired,
            all: Arc::clone(all),
            wakers: Vec::new(),
        }
    }

    fn add(&mut self, shared: Arc<SharedWatch>) {
        self.shared_watches.insert(shared.token(), shared);
    }

    fn take(&mut self, token: Token) -> Option<Arc<SharedWatch>> {
        let shared = self.shared_watches.remove(&token)?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(shared)
    }

    fn remove(&mut self, token: Token) {
        drop(self.take(token));
    }

    fn turn_away(&mut self) {
        for (_, shared) in self.shared_watches.drain() {
            shared.turn_away();
        }
    }

    fn fail(&mut self, failure: &Failure) {
        for (_, shared) in self.shared_watches.drain() {
            shared.fail(failure);
        }
    }
}

/// Fails the remaining watches, so that no reader waits forever if the runtime drops the task.
impl Drop for Watched {
    fn drop(&mut self) {
        self.fail(&Failure::new(Row::Severed, "the runtime of the watch has ended"));
    }
}

/// Returns the header that is missing in the answer to the creation of a watch. etcd's `grpc-proxy`
/// creates such an answer itself when it adds a watch to one that it already has on the server. The
/// answer then contains the requested revision and no cluster id.
async fn header_of(core: &Core, token: Option<&HeaderValue>, (key, range_end): (Bytes, Bytes)) -> Result<Option<ResponseHeader>, Failure> {
    let request = RangeRequest { key, range_end, count_only: true, ..RangeRequest::default() };
    let limit = Instant::now() + STATUS_LIMIT;
    let answer = core.attempts(&RANGE, How::READ, token, &request, limit).await;
    // Whatever the error is, it ends the stream for all its watches, and each watch is tried again.
    answer.map(|answer| answer.header).map_err(|failure| Failure::new(Row::Severed, failure.words()))
}

/// Returns whether this server sends progress in order with the events: since 3.4.25 and 3.5.8
/// (etcd #15220).
async fn progress_is_reliable(core: &Core, slot: &Slot, token: Option<&HeaderValue>) -> bool {
    let limit = Instant::now() + STATUS_LIMIT;
    match core.attempt(slot, &STATUS, How::STALE, token, &StatusRequest {}, limit).await {
        Ok(answer) => is_reliable(&answer.version),
        // Since 3.4.42 and 3.5.28, servers require a token for this request, and refuse it to users
        // who are not administrators. So a server that refuses the request has one of these
        // versions, or a later one.
        Err(failure) => matches!(failure.row, Row::PermissionDenied | Row::TokenRefused | Row::AuthChanged),
    }
}

fn is_reliable(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(3)), Some(Ok(4)), Some(Ok(patch))) => patch >= 25,
        (Some(Ok(3)), Some(Ok(5)), Some(Ok(patch))) => patch >= 8,
        (Some(Ok(3)), Some(Ok(minor)), _) => minor >= 6,
        (Some(Ok(major)), ..) => major > 3,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_unreliable_before_fixed_versions() {
        for version in ["3.4.25", "3.4.38", "3.5.8", "3.5.30", "3.6.0", "3.6.0-rc.1", "3.7.1", "4.0.0"] {
            assert!(is_reliable(version), "{version}");
        }
        for version in ["3.4.23", "3.4.24", "3.5.0", "3.5.7", "3.3.27", "2.3.8", "", "latest", "3.5", "3.4.x"] {
            assert!(!is_reliable(version), "{version}");
        }
    }
}
