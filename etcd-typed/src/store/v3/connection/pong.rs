//! A server's pings are answered a little later than they could be.
//!
//! The gRPC library of Go, and so etcd, pings with nearly every request, to learn how much a line holds (its `bdpEstimator`), but never while a ping is
//! unanswered. Answered at once, each request costs both sides a second write, a second read and a second wake-up, which is a quarter of a call's processor
//! time. An answer that comes later makes the line look as if it held more, so that the server lets more be on its way.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How late. A server that wants to know whether somebody is there waits for seconds.
const LATE: Duration = Duration::from_millis(10);

const LENGTH: usize = 17;

/// How the answer to a ping begins: 8 bytes of payload, of the type PING, with the flag ACK, on no stream (RFC 9113, section 6.7).
const BEGINNING: [u8; 9] = [0, 0, 8, 6, 1, 0, 0, 0, 0];

/// Bytes of a connection, of which the answers to pings are written late.
pub(super) struct LatePongs<B> {
    bytes: B,
    /// Whether what was written ends with the end of a frame: who writes flushes when all of its frames are written.
    at_end: bool,
    pong: Pong,
    /// When the last one was written. One that comes long after it is written at once: where there is little traffic a timer costs more than a write.
    last: Option<Instant>,
    late: Pin<Box<Sleep>>,
}

enum Pong {
    None,
    Held([u8; LENGTH]),
    /// It is time; so much of it is written. Then it is flushed.
    Due([u8; LENGTH], usize),
}

impl<B> LatePongs<B> {
    pub(super) fn of(bytes: B) -> Self {
        Self { bytes, at_end: false, pong: Pong::None, last: None, late: Box::pin(sleep(LATE)) }
    }

    /// Keeps the pong that these bytes begin with, if they do. One at a time. The task that writes is woken when it is time: nothing else may come
    /// on the connection by then.
    fn keeps(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> bool {
        let Some(pong) = bytes.first_chunk::<LENGTH>() else { return false };
        if !(self.at_end && matches!(self.pong, Pong::None) && pong.starts_with(&BEGINNING)) {
            return false;
        }
        let now = Instant::now();
        let keeps = self.last.is_some_and(|last| now - last < LATE);
        if keeps {
            self.pong = Pong::Held(*pong);
            self.late.as_mut().reset(now + LATE);
            // A timer wakes only a task that has polled it since it was set.
            if self.late.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        } else {
            self.last = Some(now);
        }
        keeps
    }
}

impl<B: AsyncWrite + Unpin> LatePongs<B> {
    /// Writes the pong that is due. Ready when nothing stands before other frames.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Pong::Due(pong, written) = &mut self.pong
            && (self.at_end || *written > 0)
        {
            let rest = pong.get(*written..).unwrap_or_default();
            if rest.is_empty() {
                // TLS may have kept it.
                ready!(Pin::new(&mut self.bytes).poll_flush(cx))?;
                self.pong = Pong::None;
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

impl<B: AsyncRead + AsyncWrite + Unpin> AsyncRead for LatePongs<B> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Pong::Held(pong) = this.pong
            && this.late.as_mut().poll(cx).is_ready()
        {
            this.pong = Pong::Due(pong, 0);
        }
        // Where it cannot be written now, it is before the next write.
        if let Poll::Ready(Err(error)) = this.poll_due(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut this.bytes).poll_read(cx, into)
    }
}

impl<B: AsyncWrite + Unpin> AsyncWrite for LatePongs<B> {
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

    /// Both ends, the near one after the first frames of a connection and a pong, which is written at once.
    async fn connected() -> (LatePongs<DuplexStream>, DuplexStream) {
        let (near, mut far) = duplex(1024);
        let mut near = LatePongs::of(near);
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

    /// As the task of a connection reads.
    async fn read_once(near: &mut LatePongs<DuplexStream>) {
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut *near).poll_read(cx, &mut ReadBuf::new(&mut [0; 8])))).await;
        assert!(polled.is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pong_lets_frames_pass_and_is_written_by_itself_when_it_is_time() {
        let (mut near, mut far) = connected().await;
        // As they stand in one write.
        near.write_all(&[&PONG[..], b"request"].concat()).await.unwrap();
        near.flush().await.unwrap();
        expect(&mut far, b"request").await;
        expect_nothing(&mut far).await;
        let asked = Instant::now();
        let reads = tokio::spawn(async move { near.read_u8().await.map(|_| near) });
        expect(&mut far, &PONG).await;
        assert!(asked.elapsed() <= LATE);
        // The next one is late again, but not one that comes long after.
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

    /// The task of a connection reads until nothing comes, then writes, and is not polled again before something wakes it.
    #[tokio::test(start_paused = true)]
    async fn delayed_pong_wakes_its_task() {
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
        // The far side sends nothing. Time stands still unless a timer is waited for, so that without one this waits as long as it may.
        let mut pong = [0; LENGTH];
        timeout(10 * LATE, far.read_exact(&mut pong)).await.expect("the pong comes by itself").unwrap();
        assert_eq!(pong, PONG);
        connection.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_pong_that_is_due_waits_for_the_end_of_a_frame() {
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
    async fn a_pong_that_is_written_in_parts_is_whole_before_anything_else() {
        let (near, mut far) = duplex(5);
        let mut near = LatePongs::of(near);
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
    async fn what_only_looks_like_a_pong_and_a_second_one_are_written_at_once() {
        let (mut near, mut far) = connected().await;
        // Of a value.
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
        for pong in [PONG, second] {
            near.write_all(&pong).await.unwrap();
            near.flush().await.unwrap();
        }
        expect(&mut far, &second).await;
        expect_nothing(&mut far).await;
    }
}
