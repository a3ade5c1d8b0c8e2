//! What a server sends on one stream: chunks as they come, put together to messages ("Length-Prefixed-Message" of gRPC over HTTP/2).
//!
//! A long message comes in frames of 16 KiB. Were each of them told to whoever waits for the message, two threads would wake one another for every frame, and
//! fight for the lock of `h2`: half of the time of a directory of 10,000 keys. So the connection's task puts it together, and tells when it is whole.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use tokio::sync::{mpsc, oneshot};

use crate::store::v3::grpc::{Local, Status};

/// The largest answer that is decoded. A page of a range is made smaller when it does not fit; a watch is sent in fragments of 2 MiB, but not
/// what it held back until it was created.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// Before each message: whether it is compressed, which it never is since we do not say that we could read it, and its length.
pub(super) const PREFIX: usize = 5;

/// A message of which more than this is missing is a long one: there are frames to come.
const LONG: usize = 64 * 1024;

/// A stream that a server answers on.
pub(super) struct Incoming {
    body: RecvStream,
    unread: Unread,
}

/// What came of reading.
pub(super) enum Read {
    More,
    End,
    Broken(h2::Error),
    NotGrpc(Status),
}

/// A stream with a message that is whole, or the reason why it is not.
pub(super) type Gathered = (Incoming, Read);

impl Incoming {
    pub(super) fn of(body: RecvStream) -> Self {
        Self { body, unread: Unread::default() }
    }

    /// The next message, if all of it is there.
    pub(super) fn message(&mut self) -> Result<Option<Bytes>, Status> {
        self.unread.message()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    pub(super) fn is_long(&self) -> bool {
        self.unread.missing() > LONG
    }

    /// Waits for a chunk. Cancel-safe.
    pub(super) async fn read(&mut self) -> Read {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// After the end.
    pub(super) async fn trailers(&mut self) -> Result<Option<HeaderMap>, h2::Error> {
        self.body.trailers().await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        self.body.poll_data(cx).map(|data| match data {
            Some(Ok(chunk)) => {
                // It takes as much again; what is read here is decoded at once. It fails only for more than was received.
                let _ = self.body.flow_control().release_capacity(chunk.len());
                self.unread.push(chunk).map_or_else(Read::NotGrpc, |()| Read::More)
            }
            Some(Err(cause)) => Read::Broken(cause),
            None => Read::End,
        })
    }
}

/// Where streams with a long message go to.
pub(super) struct Long(mpsc::UnboundedSender<Job>);

/// The messages that the task of a connection puts together.
pub(super) struct Gathering {
    begun: mpsc::UnboundedReceiver<Job>,
    jobs: Vec<Job>,
}

struct Job {
    incoming: Incoming,
    wanted: oneshot::Sender<Gathered>,
}

impl Long {
    pub(super) fn new() -> (Self, Gathering) {
        let (long, begun) = mpsc::unbounded_channel();
        (Self(long), Gathering { begun, jobs: Vec::new() })
    }

    /// The stream comes back with its message. If the connection's task has ended it does not, and nothing more would have come on it.
    pub(super) fn gather(&self, incoming: Incoming) -> oneshot::Receiver<Gathered> {
        let (wanted, gathered) = oneshot::channel();
        let _ = self.0.send(Job { incoming, wanted });
        gathered
    }
}

impl Gathering {
    /// Reads what the connection has received, after it was polled: nothing comes in another way, so nobody needs to be woken for it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(job)) = self.begun.poll_recv(cx) {
            self.jobs.push(job);
        }
        let mut at = 0;
        while let Some(job) = self.jobs.get_mut(at) {
            let read = if job.wanted.poll_closed(cx).is_ready() { Poll::Ready(None) } else { job.poll().map(Some) };
            match read {
                Poll::Pending => at += 1,
                Poll::Ready(read) => {
                    let Job { incoming, wanted } = self.jobs.swap_remove(at);
                    if let Some(read) = read {
                        let _ = wanted.send((incoming, read));
                    }
                }
            }
        }
    }
}

impl Job {
    /// Ready when the message that was begun is whole, or will never be.
    fn poll(&mut self) -> Poll<Read> {
        let mut nobody = Context::from_waker(Waker::noop());
        loop {
            match ready!(self.incoming.poll_read(&mut nobody)) {
                Read::More if self.incoming.unread.missing() > 0 => {}
                read => return Poll::Ready(read),
            }
        }
    }
}

/// What was received and is no whole message yet.
#[derive(Default)]
struct Unread {
    /// The usual case: messages begin and end in one chunk, and are not copied.
    chunk: Bytes,
    /// A message that did not, as far as it is there, with what follows.
    parts: BytesMut,
}

impl Unread {
    fn push(&mut self, chunk: Bytes) -> Result<(), Status> {
        if self.is_empty() {
            self.chunk = chunk;
            return Ok(());
        }
        if self.parts.is_empty() {
            let whole = length(&self.chunk)?.map_or(PREFIX, |length| PREFIX + length);
            self.parts.reserve(whole.max(self.chunk.len() + chunk.len()));
            self.parts.put(std::mem::take(&mut self.chunk));
        }
        self.parts.put(chunk);
        Ok(())
    }

    /// The next message, if all of it is there.
    fn message(&mut self) -> Result<Option<Bytes>, Status> {
        let there = self.there();
        let Some(length) = length(there)?.filter(|length| there.len() - PREFIX >= *length) else { return Ok(None) };
        let mut message = if self.parts.is_empty() {
            self.chunk.split_to(PREFIX + length)
        } else {
            let message = self.parts.split_to(PREFIX + length).freeze();
            // What follows has come with the last chunk; it is little, or another message that is not whole.
            self.chunk = std::mem::take(&mut self.parts).freeze();
            message
        };
        message.advance(PREFIX);
        Ok(Some(message))
    }

    /// How much of the message that was begun is not there. None of one whose length is not there, or is none.
    fn missing(&self) -> usize {
        let there = self.there();
        let whole = length(there).ok().flatten().map_or(0, |length| PREFIX + length);
        whole.saturating_sub(there.len())
    }

    fn there(&self) -> &[u8] {
        if self.parts.is_empty() { &self.chunk } else { &self.parts }
    }

    fn is_empty(&self) -> bool {
        self.chunk.is_empty() && self.parts.is_empty()
    }
}

/// The length of the message that begins here; none if too little is there to tell.
fn length(mut bytes: &[u8]) -> Result<Option<usize>, Status> {
    if bytes.len() < PREFIX {
        return Ok(None);
    }
    if bytes.get_u8() != 0 {
        return Err(Local::NotGrpc("a compressed message, which nobody asked for".to_owned()).into());
    }
    let length = usize::try_from(bytes.get_u32()).unwrap_or(usize::MAX);
    if length > LARGEST_ANSWER {
        return Err(Local::AnswerTooLarge { length, limit: LARGEST_ANSWER }.into());
    }
    Ok(Some(length))
}

impl fmt::Debug for Long {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Long").finish_non_exhaustive()
    }
}
