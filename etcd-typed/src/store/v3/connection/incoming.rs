//! What a server sends on one stream: chunks as they come, put together to messages ("Length-Prefixed-Message" of gRPC over HTTP/2).
//!
//! A long message comes in frames of 16 KiB. Were each of them told to whoever waits for the message, two threads would wake one another for every frame, and
//! fight for the lock of `h2`: a directory of 10,000 keys took 830 futex calls, and takes 112. So the connection's task puts it together, and tells when it is
//! whole.

use std::collections::VecDeque;
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
    unread: Chunks,
}

/// What came of reading.
pub(super) enum Read {
    More,
    End,
    Broken(h2::Error),
}

/// A stream with a message that is whole, or the reason why it is not.
pub(super) type Gathered = (Incoming, Read);

impl Incoming {
    pub(super) fn of(body: RecvStream) -> Self {
        Self { body, unread: Chunks::default() }
    }

    /// The next message, if all of it is there.
    pub(super) fn message(&mut self) -> Result<Option<Chunks>, Status> {
        self.unread.message()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unread.length == 0
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
                self.unread.push(chunk);
                Read::More
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

/// Bytes as they were received. A message of many chunks is read where they lie: to copy it together would touch all of it once more.
#[derive(Default)]
pub(in crate::store::v3) struct Chunks {
    /// Not empty unless all is.
    first: Bytes,
    rest: VecDeque<Bytes>,
    /// Of all.
    length: usize,
}

impl Chunks {
    fn push(&mut self, chunk: Bytes) {
        self.length += chunk.len();
        if self.first.is_empty() {
            self.first = chunk;
        } else if !chunk.is_empty() {
            self.rest.push_back(chunk);
        }
    }

    /// The next message, if all of it is there.
    fn message(&mut self) -> Result<Option<Self>, Status> {
        let Some(length) = self.message_length()?.filter(|length| self.length - PREFIX >= *length) else { return Ok(None) };
        self.advance(PREFIX);
        Ok(Some(self.split_to(length)))
    }

    /// How much of the message that was begun is not there. None of one whose length is not there, or is none.
    fn missing(&self) -> usize {
        let whole = self.message_length().ok().flatten().map_or(0, |length| PREFIX + length);
        whole.saturating_sub(self.length)
    }

    /// The length of the message that begins here; none if too little is there to tell.
    fn message_length(&self) -> Result<Option<usize>, Status> {
        let mut bytes = self.first.iter().chain(self.rest.iter().flatten()).copied();
        let mut next = || bytes.next();
        let (Some(compressed), Some(a), Some(b), Some(c), Some(d)) = (next(), next(), next(), next(), next()) else { return Ok(None) };
        if compressed != 0 {
            return Err(Local::NotGrpc("a compressed message, which nobody asked for".to_owned()).into());
        }
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > LARGEST_ANSWER {
            return Err(Local::AnswerTooLarge { length, limit: LARGEST_ANSWER }.into());
        }
        Ok(Some(length))
    }

    fn split_to(&mut self, length: usize) -> Self {
        let mut part = Self::default();
        while part.length < length && self.length > 0 {
            part.push(self.piece(length - part.length));
        }
        part
    }

    /// So much of the first chunk, or all of it.
    fn piece(&mut self, most: usize) -> Bytes {
        let piece = self.first.split_to(most.min(self.first.len()));
        self.length -= piece.len();
        if self.first.is_empty() {
            self.first = self.rest.pop_front().unwrap_or_default();
        }
        piece
    }
}

impl Buf for Chunks {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        &self.first
    }

    fn advance(&mut self, count: usize) {
        if count < self.first.len() {
            self.first.advance(count);
            self.length -= count;
        } else {
            self.split_to(count);
        }
    }

    /// Copies only what is in several chunks.
    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        if count <= self.first.len() {
            return self.piece(count);
        }
        let mut together = BytesMut::with_capacity(count);
        let mut part = self.split_to(count);
        while part.length > 0 {
            together.put(part.piece(usize::MAX));
        }
        together.freeze()
    }
}

impl fmt::Debug for Long {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Long").finish_non_exhaustive()
    }
}
