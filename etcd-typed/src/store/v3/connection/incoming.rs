//! Assembles the data of one stream into messages ("Length-Prefixed-Message" of gRPC over HTTP/2).
//!
//! A long message arrives in frames of 16 KiB. If each frame woke the reader, two threads would
//! wake each other for every frame and compete for the lock of `h2`. Reading a directory of 10,000
//! keys took 830 futex calls that way, and takes 112 now. The connection's task therefore assembles
//! long messages and wakes the reader once.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use tokio::sync::{mpsc, oneshot};

use crate::store::v3::grpc::{Local, Status};

/// The largest answer that is decoded. The pages of a range shrink when an answer does not fit. A
/// watch is sent in fragments of 2 MiB, except the events that were held back until the watch was
/// created.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// The bytes before each message: the compression flag and the length. Messages are never
/// compressed, because the client does not offer to accept compression.
pub(super) const PREFIX: usize = 5;

/// A message counts as long if more bytes than this are missing, so that more frames must follow.
const LONG: usize = 64 * 1024;

/// The receiving side of a stream.
pub(super) struct Incoming {
    body: RecvStream,
    unread: Chunks,
}

/// The outcome of a read.
pub(super) enum Read {
    More,
    End,
    Broken(h2::Error),
}

/// A stream whose long message is complete, or the reason why it never will be.
pub(super) type Gathered = (Incoming, Read);

impl Incoming {
    pub(super) fn of(body: RecvStream) -> Self {
        Self { body, unread: Chunks::default() }
    }

    /// Returns the next message if it has arrived completely.
    pub(super) fn message(&mut self) -> Result<Option<Chunks>, Status> {
        self.unread.message()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unread.length == 0
    }

    pub(super) fn is_long(&self) -> bool {
        self.unread.missing() > LONG
    }

    /// Waits for a chunk. This method is cancel-safe.
    pub(super) async fn read(&mut self) -> Read {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Returns the trailers. Called after the end of the data.
    pub(super) async fn trailers(&mut self) -> Result<Option<HeaderMap>, h2::Error> {
        self.body.trailers().await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        self.body.poll_data(cx).map(|data| match data {
            Some(Ok(chunk)) => {
                // Chunks are decoded soon, so the flow-control window is opened again at once. This
                // fails only for more bytes than were received.
                let _ = self.body.flow_control().release_capacity(chunk.len());
                self.unread.push(chunk);
                Read::More
            }
            Some(Err(cause)) => Read::Broken(cause),
            None => Read::End,
        })
    }
}

/// Sends streams with a long message to the connection's task.
pub(super) struct Long(mpsc::UnboundedSender<Job>);

/// The long messages that the task of a connection assembles.
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

    /// Passes the stream to the connection's task, which returns it once the message is complete.
    /// If the task has ended, the stream is lost, but no more data would have arrived on it.
    pub(super) fn gather(&self, incoming: Incoming) -> oneshot::Receiver<Gathered> {
        let (wanted, gathered) = oneshot::channel();
        let _ = self.0.send(Job { incoming, wanted });
        gathered
    }
}

impl Gathering {
    /// Reads the data that the connection has just received. The caller has polled the connection
    /// just before, and only that poll brings data, so these reads need no waker.
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
    /// Reads until the message is complete, or can never be.
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

/// Bytes in the chunks in which they were received. A message of many chunks is decoded in place,
/// because copying it together would touch all its bytes once more.
#[derive(Default)]
pub(in crate::store::v3) struct Chunks {
    /// The first chunk. It is empty only if `rest` is empty too.
    first: Bytes,
    rest: VecDeque<Bytes>,
    /// The length of all chunks together.
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

    /// Returns the next message if it has arrived completely.
    fn message(&mut self) -> Result<Option<Self>, Status> {
        let Some(length) = self.message_length()?.filter(|length| self.length - PREFIX >= *length) else { return Ok(None) };
        self.advance(PREFIX);
        Ok(Some(self.split_to(length)))
    }

    /// Returns how many bytes of the current message are missing. Zero if its length is unknown or
    /// invalid.
    fn missing(&self) -> usize {
        let whole = self.message_length().ok().flatten().map_or(0, |length| PREFIX + length);
        whole.saturating_sub(self.length)
    }

    /// Returns the length of the message that begins here, or `None` if too few bytes have arrived.
    fn message_length(&self) -> Result<Option<usize>, Status> {
        let mut bytes = self.first.iter().chain(self.rest.iter().flatten()).copied();
        let mut next = || bytes.next();
        let (Some(compressed), Some(a), Some(b), Some(c), Some(d)) = (next(), next(), next(), next(), next()) else { return Ok(None) };
        if compressed != 0 {
            return Err(Local::NotGrpc("a compressed message, which this client did not offer to accept".to_owned()).into());
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

    /// Takes up to `most` bytes from the first chunk.
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

    /// Copies only if the bytes span several chunks.
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
