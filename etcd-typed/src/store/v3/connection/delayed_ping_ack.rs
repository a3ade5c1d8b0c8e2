//! Delays the answers to a server's pings slightly.
//!
//! The gRPC library of Go, and so etcd, sends a ping with nearly every request to estimate the
//! bandwidth of the line (its `bdpEstimator`), but never while a ping is unanswered. If pings were
//! answered at once, each request would cost both sides a second write, a second read and a second
//! wake-up, which is a quarter of a call's processor time. A later answer makes the line look as if
//! it held more data, so the server allows more data in flight.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// The delay of an answer. A server that checks whether the client is alive waits for seconds.
const LATE: Duration = Duration::from_millis(10);

const LENGTH: usize = 17;

/// The first bytes of an answer to a ping: 8 bytes of payload, type PING, flag ACK, stream 0 (RFC
/// 9113, section 6.7).
const BEGINNING: [u8; 9] = [0, 0, 8, 6, 1, 0, 0, 0, 0];

/// A byte stream that delays the answers to pings ("acks").
pub(super) struct DelayedPingAcks<B> {
    bytes: B,
    /// Whether the written bytes end at a frame boundary. The writer flushes only after complete
    /// frames.
    at_end: bool,
    ack: Ack,
    /// When the last ack was written. An ack that comes long after it is written at once, because
    /// with little traffic a timer costs more than a write.
    last: Option<Instant>,
    late: Pin<Box<Sleep>>,
}

enum Ack {
    None,
    Held([u8; LENGTH]),
    /// The delay is over. The number says how many bytes are written already; a flush follows the
    /// last byte.
    Due([u8; LENGTH], usize),
}

impl<B> DelayedPingAcks<B> {
    pub(super) fn of(bytes: B) -> Self {
        Self { bytes, at_end: false, ack: Ack::None, last: None, late: Box::pin(sleep(LATE)) }
    }

    /// Returns true if these bytes start with an ack that is held back from now on. At most one ack
    /// is held. Sets a timer that wakes the writing task, because the connection may have no other
    /// activity until then.
    fn keeps(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> bool {
        let Some(ack) = bytes.first_chunk::<LENGTH>() else { return false };
        if !(self.at_end && matches!(self.ack, Ack::None) && ack.starts_with(&BEGINNING)) {
            return false;
        }
        let now = Instant::now();
        let keeps = self.last.is_some_and(|last| now - last < LATE);
        if keeps {
            self.ack = Ack::Held(*ack);
            self.late.as_mut().reset(now + LATE);
            // A timer only wakes a task that has polled it after it was set.
            if self.late.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        } else {
            self.last = Some(now);
        }
        keeps
    }
}

impl<B: AsyncWrite + Unpin> DelayedPingAcks<B> {
    /// Writes the ack that is due. Ready when other frames may be written.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Ack::Due(ack, written) = &mut self.ack
            && (self.at_end || *written > 0)
        {
            let rest = ack.get(*written..).unwrap_or_default();
            if rest.is_empty() {
                // TLS may have buffered the ack, so it must be flushed.
                ready!(Pin::new(&mut self.bytes).poll_flush(cx))?;
                self.ack = Ack::None;
                self.last = Some(Instant::now());
                break;
            }
            *written += match ready!(Pin::new(&mut self.bytes).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => more,
            };
        }
        Poll::Ready(Ok(()))
    }
}

impl<B: AsyncRead + AsyncWrite + Unpin> AsyncRead for DelayedPingAcks<B> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Ack::Held(ack) = this.ack
            && this.late.as_mut().poll(cx).is_ready()
        {
            this.ack = Ack::Due(ack, 0);
        }
        // If the ack cannot be written now, it is written before the next frame.
        if let Poll::Ready(Err(error)) = this.poll_due(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut this.bytes).poll_read(cx, into)
    }
}

impl<B: AsyncWrite + Unpin> AsyncWrite for DelayedPingAcks<B> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.keeps(cx, bytes) {
            return Poll::Ready(Ok(LENGTH));
        }
        ready!(this.poll_due(cx))?;
        this.at_end = false;
        Pin::new(&mut this.bytes).poll_write(cx, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.first().is_some_and(|first| this.keeps(cx, first)) {
            return Poll::Ready(Ok(LENGTH));
        }
        ready!(this.poll_due(cx))?;
        this.at_end = false;
        Pin::new(&mut this.bytes).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.bytes.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.at_end = true;
        ready!(this.poll_due(cx))?;
        Pin::new(&mut this.bytes).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().bytes).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    const PONG: [u8; LENGTH] = [0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

    /// Returns both ends of a connection. The near end has already written its first frames and an
    /// ack, which was not delayed.
    async fn connected() -> (DelayedPingAcks<DuplexStream>, DuplexStream) {
        let (near, mut far) = duplex(1024);
        let mut near = DelayedPingAcks::of(near);
        near.write_all(b"settings").await.unwrap();
        near.flush().await.unwrap();
        near.write_all(&PONG).await.unwrap();
        near.flush().await.unwrap();
        expect(&mut far, &[b"settings", &PONG[..]].concat()).await;
        (near, far)
    }

    async fn expect(far: &mut DuplexStream, bytes: &[u8]) {
        let mut read = vec![0; bytes.len()];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(read, bytes);
    }

    async fn expect_nothing(far: &mut DuplexStream) {
        timeout(Duration::from_millis(1), far.read_u8()).await.unwrap_err();
    }

    /// Polls a read once, as the task of a connection does.
    async fn read_once(near: &mut DelayedPingAcks<DuplexStream>) {
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut *near).poll_read(cx, &mut ReadBuf::new(&mut [0; 8])))).await;
        assert!(polled.is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn delayed_ack_follows_other_frames() {
        let (mut near, mut far) = connected().await;
        // The ack and a request are in one write.
        near.write_all(&[&PONG[..], b"request"].concat()).await.unwrap();
        near.flush().await.unwrap();
        expect(&mut far, b"request").await;
        expect_nothing(&mut far).await;
        let asked = Instant::now();
        let reads = tokio::spawn(async move { near.read_u8().await.map(|_| near) });
        expect(&mut far, &PONG).await;
        assert!(asked.elapsed() <= LATE);
        // The next ack is delayed too, but an ack that comes long after the last one is not.
        far.write_u8(1).await.unwrap();
        let mut near = reads.await.unwrap().unwrap();
        near.write_all(&PONG).await.unwrap();
        near.flush().await.unwrap();
        expect_nothing(&mut far).await;
        sleep(2 * LATE).await;
        read_once(&mut near).await;
        expect(&mut far, &PONG).await;
        sleep(2 * LATE).await;
        near.write_all(&PONG).await.unwrap();
        near.flush().await.unwrap();
        expect(&mut far, &PONG).await;
    }

    /// The task of a connection reads until no data is left, then writes, and is polled again only
    /// when something wakes it.
    #[tokio::test(start_paused = true)]
    async fn held_ack_wakes_task_when_due() {
        let (mut near, mut far) = connected().await;
        let connection = tokio::spawn(async move {
            let mut has_written = false;
            poll_fn(|cx| {
                let read = Pin::new(&mut near).poll_read(cx, &mut ReadBuf::new(&mut [0; 8]));
                if !has_written {
                    has_written = true;
                    assert!(Pin::new(&mut near).poll_write(cx, &PONG).is_ready());
                    assert!(Pin::new(&mut near).poll_flush(cx).is_ready());
                }
                read
            })
            .await
        });
        // The far side sends nothing. Paused time advances only to a timer, so without a timer for
        // the ack the read would time out.
        let mut ack = [0; LENGTH];
        timeout(10 * LATE, far.read_exact(&mut ack)).await.expect("the ack comes by itself").unwrap();
        assert_eq!(ack, PONG);
        connection.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn due_ack_waits_for_frame_end() {
        let (mut near, mut far) = connected().await;
        near.write_all(&PONG).await.unwrap();
        near.flush().await.unwrap();
        near.write_all(b"one half ").await.unwrap();
        sleep(2 * LATE).await;
        read_once(&mut near).await;
        near.write_all(b"and the other").await.unwrap();
        near.flush().await.unwrap();
        expect(&mut far, &[b"one half and the other", &PONG[..]].concat()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn partly_written_ack_is_finished_first() {
        let (near, mut far) = duplex(5);
        let mut near = DelayedPingAcks::of(near);
        near.flush().await.unwrap();
        tokio::join!(async { near.write_all(&PONG).await.unwrap() }, expect(&mut far, &PONG));
        near.flush().await.unwrap();
        near.write_all(&PONG).await.unwrap();
        sleep(2 * LATE).await;
        read_once(&mut near).await;
        let write = async {
            near.write_all(b"request").await.unwrap();
            near.flush().await.unwrap();
        };
        let whole = [&PONG[..], b"request"].concat();
        tokio::join!(write, expect(&mut far, &whole));
    }

    #[tokio::test(start_paused = true)]
    async fn only_ping_acks_are_delayed() {
        let (mut near, mut far) = connected().await;
        // These bytes are part of a value.
        near.write_all(b"frame of ").await.unwrap();
        near.write_all(&PONG).await.unwrap();
        near.flush().await.unwrap();
        expect(&mut far, &[b"frame of ", &PONG[..]].concat()).await;
        let mut ping = PONG;
        ping[4] = 0;
        near.write_all(&ping).await.unwrap();
        near.flush().await.unwrap();
        expect(&mut far, &ping).await;
        let mut second = PONG;
        second[16] = 9;
        for ack in [PONG, second] {
            near.write_all(&ack).await.unwrap();
            near.flush().await.unwrap();
        }
        expect(&mut far, &second).await;
        expect_nothing(&mut far).await;
    }
}
