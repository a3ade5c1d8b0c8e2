//! The task of one watch stream: it moves messages between the connection, the machine and the readers' queues, and never waits for a reader.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, OptionFuture};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::client::Grpc;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::Command;
use super::machine::{Machine, Output, Token};
use super::queue::Queue;
use crate::store::WatchItem;
use crate::store::v3::call::{Core, LARGEST_ANSWER, Unsent, send, with_metadata};
use crate::store::v3::channel::{Lane, Slot, not_sent};
use crate::store::v3::status::{Failure, Row, classify};
use crate::store::v3::wire::{Answer, STATUS, StatusRequest, WATCH, WatchRequest, WatchResponse};

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
    token: Option<AsciiMetadataValue>,
    mut wishes: mpsc::UnboundedReceiver<Command>,
    count: Arc<AtomicUsize>,
    progress_interval: Duration,
) {
    let mut readers = Readers { readers: HashMap::new(), count };
    let mut machine = Machine::default();
    let slot = core.endpoints.pick();
    let end = match core.endpoints.channel(slot, Lane::Watches).await {
        Ok(channel) => serve(&core, slot, channel, token, &mut wishes, &mut readers, &mut machine, progress_interval).await,
        Err(status) => Err(Failure::of(&slot.name, status)),
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
        slot.forget(Lane::Watches);
    }
    for (_, reader) in readers.readers.drain() {
        reader.fail(failure.clone());
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one task, taken apart so that its caller can end them all in one place")]
async fn serve(
    core: &Core,
    slot: &Slot,
    channel: Channel,
    token: Option<AsciiMetadataValue>,
    wishes: &mut mpsc::UnboundedReceiver<Command>,
    readers: &mut Readers,
    machine: &mut Machine,
    progress_interval: Duration,
) -> Result<(), Failure> {
    let (requests, outgoing) = mpsc::unbounded_channel();
    let mut incoming = Incoming::Opening(open(channel.clone(), outgoing, token.clone()).boxed());
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
            message = incoming.next() => {
                let message = message.map_err(|status| Failure::of(&slot.name, status))?;
                core.endpoints.check(slot, message.header(), Row::ForeignCluster)?;
                machine.receive(message);
            }
            _ = ticks.tick() => {
                if version_is_known || version.is_some() {
                    machine.ask_progress();
                } else {
                    version = Some(progress_is_reliable(channel.clone(), token.clone()).boxed());
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
            act(output, readers, machine, &requests, slot)?;
        }
        if readers.readers.is_empty() {
            return Ok(());
        }
    }
}

fn act(
    output: Output,
    readers: &mut Readers,
    machine: &mut Machine,
    requests: &mpsc::UnboundedSender<WatchRequest>,
    slot: &Slot,
) -> Result<(), Failure> {
    match output {
        Output::Send(request) => {
            // The connection is gone when nobody takes it; reading from it says why.
            let _ = requests.send(request);
        }
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

/// The messages of the server.
enum Incoming {
    /// A server sends nothing at all, not even the headers of its answer, before the first watch is created.
    Opening(BoxFuture<'static, Result<Response<Streaming<WatchResponse>>, Status>>),
    Open(Box<Streaming<WatchResponse>>),
}

impl Incoming {
    /// The next message. Cancel-safe: what was begun goes on with the next call.
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            match self {
                Self::Opening(opening) => *self = Self::Open(Box::new(opening.await?.into_inner())),
                Self::Open(messages) => {
                    return messages.message().await?.ok_or_else(|| Status::unavailable("the server ended the watch stream"));
                }
            }
        }
    }
}

async fn open(
    channel: Channel,
    mut outgoing: mpsc::UnboundedReceiver<WatchRequest>,
    token: Option<AsciiMetadataValue>,
) -> Result<Response<Streaming<WatchResponse>>, Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(LARGEST_ANSWER);
    grpc.ready().await.map_err(|cause| not_sent(&cause.to_string()))?;
    let requests = futures_util::stream::poll_fn(move |context| outgoing.poll_recv(context));
    let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
    // A member without a leader would be silent for ever; so it ends the stream instead.
    grpc.streaming(with_metadata(requests, true, token.as_ref()), http::uri::PathAndQuery::from_static(WATCH), codec).await
}

/// Whether this server tells progress in order with the events: since 3.4.25 and 3.5.8 (etcd #15220).
async fn progress_is_reliable(channel: Channel, token: Option<AsciiMetadataValue>) -> bool {
    let limit = Instant::now() + STATUS_LIMIT;
    match send(channel, &STATUS, with_metadata(StatusRequest {}, false, token.as_ref()), limit, limit).await {
        Ok(answer) => is_reliable(&answer.version),
        // Only servers later than those refuse it to a user that is no administrator (since 3.4.42 and 3.5.28).
        Err(Unsent::Answered(status)) => classify(&status) == Row::PermissionDenied,
        Err(_) => false,
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
