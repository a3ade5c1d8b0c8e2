//! The task of one watch stream: it moves messages between the connection, the machine and the readers' queues, and never waits for a reader.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, OptionFuture};
use http::HeaderValue;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::Command;
use super::machine::{Machine, Output, Token};
use super::queue::Queue;
use crate::store::WatchItem;
use crate::store::v3::call::{Core, Unanswered, send};
use crate::store::v3::channel::{Lane, Slot};
use crate::store::v3::connection::{Connection, Metadata, Requests};
use crate::store::v3::status::{Failure, Local, Row, classify};
use crate::store::v3::wire::{Answer, STATUS, StatusRequest, WATCH, WatchResponse};

/// How long a server may take to say its version.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// One watch of the stream.
struct Reader {
    queue: Arc<Queue>,
    /// Until the watch stands.
    standing: Option<oneshot::Sender<Result<(), Failure>>>,
}

/// The readers of the stream.
struct Readers {
    readers: HashMap<Token, Reader>,
    /// One for each, counted up by who sends it here, so that a stream with room is found before this task runs.
    count: Arc<AtomicUsize>,
}

/// Serves one stream from its first watch until its last one, or until it breaks; then every reader gets the error.
pub(super) async fn run(
    core: Arc<Core>,
    token: Option<HeaderValue>,
    mut wishes: mpsc::UnboundedReceiver<Command>,
    count: Arc<AtomicUsize>,
    progress_interval: Duration,
) {
    let mut readers = Readers { readers: HashMap::new(), count };
    let mut machine = Machine::default();
    let slot = core.endpoints.pick();
    let connection = core.endpoints.connection(slot, Lane::Watches).await;
    let end = match &connection {
        Ok(connection) => serve(&core, slot, connection, token, &mut wishes, &mut readers, &mut machine, progress_interval).await,
        Err(status) => Err(Failure::of(&slot.name, status.clone())),
    };
    // Those who come from here on look for another stream, and so do those whose command is dropped here. To wait for the end of the channel, and
    // not only to look what is in it, finds the command of somebody who is just sending it: its sender waits for the answer and keeps the
    // channel, so that nobody else would ever drop it.
    wishes.close();
    let mut failure = end.err();
    while let Some(wish) = wishes.recv().await {
        match wish {
            Command::Add { token, queue, standing, .. } if failure.is_some() => readers.add(token, queue, standing),
            Command::Add { .. } => {}
            Command::Remove(token) => readers.remove(token),
        }
    }
    let Some(failure) = &mut failure else {
        return;
    };
    if failure.row == Row::AnswerTooLarge {
        // One message for one watch; the others have nothing to do with it, and on another stream it comes in other pieces.
        failure.row = Row::Severed;
    }
    if failure.row.verdict().endpoint_failed {
        slot.failed();
        if let Ok(connection) = &connection {
            slot.forget(Lane::Watches, connection);
        }
    }
    for (_, reader) in readers.readers.drain() {
        reader.fail(failure.clone());
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one task, taken apart so that its caller can end them all in one place")]
async fn serve(
    core: &Core,
    slot: &Slot,
    connection: &Connection,
    token: Option<HeaderValue>,
    wishes: &mut mpsc::UnboundedReceiver<Command>,
    readers: &mut Readers,
    machine: &mut Machine,
    progress_interval: Duration,
) -> Result<(), Failure> {
    // A member without a leader would be silent for ever; so it ends the stream instead.
    let metadata = Metadata { leader: true, token: token.as_ref() };
    // A server sends nothing at all, not even the headers of its answer, before the first watch is created.
    let (mut requests, mut answers) = connection.clone().begin(WATCH, metadata).map_err(|status| Failure::of(&slot.name, status))?;
    let mut ticks = interval_at(Instant::now() + progress_interval, progress_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Asked once, when it first matters.
    let mut version: Option<BoxFuture<'static, bool>> = None;
    let mut version_is_known = false;
    loop {
        tokio::select! {
            wish = wishes.recv() => match wish {
                Some(Command::Add { token, watch, queue, standing }) => {
                    readers.add(token, queue, standing);
                    machine.add(token, &watch);
                }
                Some(Command::Remove(token)) => {
                    readers.remove(token);
                    machine.remove(token);
                }
                None => return Ok(()),
            },
            message = answers.next::<WatchResponse>() => {
                let ended = || Local::Ended("though watches were left on its stream").into();
                let message = message.and_then(|message| message.ok_or_else(ended)).map_err(|status| Failure::of(&slot.name, status))?;
                core.endpoints.check(slot, message.header(), Row::ForeignCluster)?;
                machine.receive(message);
            }
            _ = ticks.tick() => {
                if version_is_known || version.is_some() {
                    machine.ask_progress();
                } else {
                    version = Some(progress_is_reliable(connection.clone(), token.clone()).boxed());
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
            act(output, readers, machine, &mut requests, slot)?;
        }
        if readers.readers.is_empty() {
            return Ok(());
        }
    }
}

fn act(output: Output, readers: &mut Readers, machine: &mut Machine, requests: &mut Requests, slot: &Slot) -> Result<(), Failure> {
    match output {
        Output::Send(request) => requests.send(&request, false),
        Output::Established(token) => {
            slot.succeeded();
            if let Some(standing) = readers.readers.get_mut(&token).and_then(|reader| reader.standing.take()) {
                // A caller that gave up has dropped its watch, which is a command of its own.
                let _ = standing.send(Ok(()));
            }
        }
        Output::Item(token, item) => {
            let last = matches!(item, WatchItem::HistoryLost { .. } | WatchItem::Behind(_) | WatchItem::Lagged);
            let taken = readers.readers.get(&token).is_some_and(|reader| reader.queue.push(item));
            if last || !taken {
                machine.remove(token);
                readers.remove(token);
            }
        }
        Output::Failed(token, failure) => {
            if let Some(reader) = readers.take(token) {
                reader.fail(failure);
            }
        }
        Output::Break(failure) => return Err(failure),
    }
    Ok(())
}

impl Readers {
    fn add(&mut self, token: Token, queue: Arc<Queue>, standing: oneshot::Sender<Result<(), Failure>>) {
        self.readers.insert(token, Reader { queue, standing: Some(standing) });
    }

    fn take(&mut self, token: Token) -> Option<Reader> {
        let reader = self.readers.remove(&token)?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(reader)
    }

    fn remove(&mut self, token: Token) {
        drop(self.take(token));
    }
}

impl Reader {
    /// The caller of `watch` gets it while it waits, the reader otherwise.
    fn fail(self, failure: Failure) {
        match self.standing {
            Some(standing) => {
                // A caller that gave up wants to know nothing.
                let _ = standing.send(Err(failure));
            }
            None => self.queue.fail(failure.into()),
        }
    }
}

/// Whether this server tells progress in order with the events: since 3.4.25 and 3.5.8 (etcd #15220).
async fn progress_is_reliable(mut connection: Connection, token: Option<HeaderValue>) -> bool {
    let limit = Instant::now() + STATUS_LIMIT;
    if connection.ready().await.is_err() {
        return false;
    }
    match send(connection, &STATUS, &StatusRequest {}, Metadata { leader: false, token: token.as_ref() }, limit, limit).await {
        Ok(answer) => is_reliable(&answer.version),
        // Only servers later than those refuse it to a user that is no administrator (since 3.4.42 and 3.5.28).
        Err(Unanswered::Refused(status)) => classify(&status) == Row::PermissionDenied,
        Err(Unanswered::TimedOut) => false,
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
    fn progress_counts_only_where_it_comes_in_order() {
        for version in ["3.4.25", "3.4.38", "3.5.8", "3.5.30", "3.6.0", "3.6.0-rc.1", "3.7.1", "4.0.0"] {
            assert!(is_reliable(version), "{version}");
        }
        for version in ["3.4.23", "3.4.24", "3.5.0", "3.5.7", "3.3.27", "2.3.8", "", "latest", "3.5", "3.4.x"] {
            assert!(!is_reliable(version), "{version}");
        }
    }
}
