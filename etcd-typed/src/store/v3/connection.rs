//! `Connection`: one HTTP/2 connection to a server, right on the crate `h2`. What a gRPC library puts between a call and that (a buffer and a task that
//! dispatches, for any kind of service) costs as much processor time as all the rest of a call; `tests/peers` shows what it is without.
//!
//! [`dial`] makes the connection below it, and [`exchange`] is one call on it.

mod dial;
mod exchange;
mod incoming;
mod pong;

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use http::uri::{Authority, Scheme};
use tokio::sync::SetOnce;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};

pub(super) use self::dial::Target;
use self::dial::{Io, LastRead};
use self::exchange::unsent;
pub(super) use self::exchange::{Answers, Metadata, Received, Requests, Sent};
use self::incoming::{Gathering, Long};
use super::cluster::Behind;
use super::grpc::{Local, Status};
use super::spawn;

/// How much a server may send on one stream before it is read: as much as a line of a gigabit carries in 30 ms.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;

/// The same of all streams of a connection.
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

/// The headers and trailers of an answer; the words of an error are in them.
const LONGEST_HEADERS: u32 = 64 * 1024;

/// The limit of streams at a server that has not told its own. No server can: on the wire it is a number of 32 bits, or there is none.
const UNTOLD: usize = usize::MAX - 1;

/// How long the end of a connection is waited for when a stream says that it ended: they are told one after the other.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A connection that stood when it was last looked at. Clones share it; it ends when the last one and all its calls have ended.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

/// What the calls of a connection and its task have in common.
#[derive(Debug)]
struct Shared {
    scheme: Scheme,
    authority: Authority,
    /// Calls under way.
    calls: AtomicUsize,
    /// Those of them that the server has not begun to answer.
    asked: AtomicUsize,
    /// Whether a call began since the connection's task has last written.
    begun: AtomicBool,
    /// What puts long messages together.
    long: Long,
    /// Which cluster answered.
    behind: Behind,
    /// Set when requests seem to be lost on it while answers arrive: calls under way go on, new ones belong on another connection.
    doubt: SetOnce<()>,
    /// Why the connection ended.
    end: SetOnce<String>,
}

impl Connection {
    /// Connects, waits until the server has shown that it speaks HTTP/2, and spawns the task that moves its frames. Before that no request is sent: what is no
    /// HTTP/2 server, a frozen one, or one that refuses our certificate leaves no write in doubt. It also tells the limit of streams.
    pub(super) async fn open(target: &Target) -> Result<Self, Status> {
        Self::over(target.dial().await?, target).await
    }

    async fn over(io: Io, target: &Target) -> Result<Self, Status> {
        let read = io.last_read();
        let mut builder = Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(LONGEST_HEADERS)
            .initial_max_send_streams(UNTOLD)
            .enable_push(false);
        let (sender, mut connection) = builder.handshake(io).await.map_err(|cause| Local::NotSent(cause.to_string()))?;
        // The first frame of a server is its SETTINGS (RFC 9113, section 3.4), and `h2` sets the limit by them.
        poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(end) => Poll::Ready(Err(without_settings(end.err()))),
            Poll::Pending if sender.current_max_send_streams() == UNTOLD => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await?;
        let (long, gathering) = Long::new();
        let shared = Shared {
            scheme: target.scheme(),
            authority: target.authority.clone(),
            calls: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            begun: AtomicBool::new(false),
            long,
            behind: Behind::default(),
            doubt: SetOnce::new(),
            end: SetOnce::new(),
        };
        let shared = Arc::new(shared);
        let drive = drive(
            connection,
            gathering,
            shared.clone(),
            KeepAlive { interval: target.keep_alive_interval, limit: target.keep_alive_timeout, read },
        );
        spawn(drive);
        Ok(Self { sender, shared })
    }

    /// Waits until it takes another call.
    ///
    /// # Errors
    ///
    /// It has ended, or the server said that it is about to. Nothing was sent.
    pub(super) async fn ready(&mut self) -> Result<(), Status> {
        poll_fn(|cx| self.sender.poll_ready(cx))
            .await
            .map_err(|cause| self.shared.end.get().cloned().map_or_else(|| unsent(&cause), |why| Local::NotSent(why).into()))
    }

    /// Waits until requests seem to be lost on it while answers arrive. New calls belong on another connection then.
    pub(super) async fn doubted(&self) {
        self.shared.doubt.wait().await;
    }

    pub(super) fn doubt(&self) {
        let _ = self.shared.doubt.set(());
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.shared.doubt.initialized()
    }

    /// Which cluster answered over it last.
    pub(super) fn behind(&self) -> Behind {
        self.shared.behind.clone()
    }

    /// Whether both are the same connection.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

/// Why a connection ended before the server's first frame.
fn without_settings(cause: Option<h2::Error>) -> Status {
    let local = match cause {
        None => Local::HungUp("the server closed the connection".to_owned()),
        Some(cause) if cause.is_library() => Local::NotGrpc(format!("the server does not speak HTTP/2 ({cause})")),
        // TLS may have refused our certificate, which only these words tell.
        Some(cause) if cause.is_io() => Local::Broken { end: Some(cause.to_string()), cause: Arc::new(cause) },
        Some(cause) => Local::NotSent(cause.to_string()),
    };
    local.into()
}

impl Shared {
    /// What became of a call: `cause` is what its stream was told.
    async fn broken(&self, cause: h2::Error) -> Status {
        // A stream is told of the end of its connection, but not of the reason.
        let ended = cause.is_io() || cause.is_go_away();
        let end = if ended { timeout(LAST_WORDS, self.end.wait()).await.ok().cloned() } else { None };
        Local::Broken { end, cause: Arc::new(cause) }.into()
    }
}

/// A call under way, until this is dropped.
#[derive(Debug)]
struct UnderWay {
    shared: Arc<Shared>,
    /// Whether the server has not begun to answer.
    asked: bool,
    /// How many calls were under way when it began, with itself.
    place: usize,
}

impl UnderWay {
    fn of(shared: &Arc<Shared>) -> Self {
        let place = shared.calls.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        shared.asked.fetch_add(1, Ordering::Relaxed);
        shared.begun.store(true, Ordering::Relaxed);
        Self { shared: shared.clone(), asked: true, place }
    }

    fn answered(&mut self) {
        if self.asked {
            self.asked = false;
            self.shared.asked.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.answered();
        self.shared.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When a connection is checked, and given up.
struct KeepAlive {
    interval: Duration,
    limit: Duration,
    read: LastRead,
}

/// The task of a connection.
async fn drive(mut connection: h2::client::Connection<Io, Bytes>, mut gathering: Gathering, shared: Arc<Shared>, keep_alive: KeepAlive) {
    let pings = connection.ping_pong();
    let end = tokio::select! {
        biased;
        end = move_frames(&mut connection, &mut gathering, &shared) => match end {
            Ok(()) => "the server closed the connection".to_owned(),
            Err(cause) => cause.to_string(),
        },
        () = keep_alive.is_dead(pings, &shared) => format!("no answer to a ping within {:?}", keep_alive.limit),
    };
    // Nobody else sets it.
    let _ = shared.end.set(end);
    // Only now those of its streams that are left are told that it ended.
    drop(connection);
    poll_fn(|cx| {
        gathering.poll(cx);
        Poll::Ready(())
    })
    .await;
}

/// Moves the frames of a connection until it ends.
///
/// Where a call begins while others are under way, whoever can run now does so first: those who were answered together ask again together, and one write
/// then has all their requests. A call that is alone is written at once.
async fn move_frames(
    connection: &mut h2::client::Connection<Io, Bytes>,
    gathering: &mut Gathering,
    shared: &Shared,
) -> Result<(), h2::Error> {
    let mut others = pin!(None);
    poll_fn(|cx| {
        if others.is_none() && shared.begun.load(Ordering::Relaxed) && shared.asked.load(Ordering::Relaxed) > 1 {
            others.set(Some(yield_now()));
        }
        if let Some(first) = others.as_mut().as_pin_mut() {
            ready!(first.poll(cx));
            others.set(None);
        }
        shared.begun.store(false, Ordering::Relaxed);
        let polled = Pin::new(&mut *connection).poll(cx);
        gathering.poll(cx);
        polled
    })
    .await
}

impl KeepAlive {
    /// Waits until the other side does not answer any more. Only an answered ping shows that requests arrive as well as answers: what is read may be answers to
    /// other streams. It is asked only while calls are under way: a server closes connections that ping without one (its `PermitWithoutStream` is false).
    async fn is_dead(&self, pings: Option<PingPong>, shared: &Shared) {
        let Some(mut pings) = pings else { return pending().await };
        loop {
            // From one answer to the next ping, so that a server never sees them closer together.
            sleep(self.interval).await;
            if shared.calls.load(Ordering::Relaxed) > 0 && !self.answers(&mut pings, shared).await {
                return;
            }
        }
    }

    async fn answers(&self, pings: &mut PingPong, shared: &Shared) -> bool {
        let mut asked = Instant::now();
        let mut answer = pin!(pings.ping(Ping::opaque()));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => match answer {
                    Ok(_) => return true,
                    // The connection has ended, and says why.
                    Err(_) => return pending().await,
                },
                () = sleep_until(asked + self.limit) => {
                    let read = self.read.at();
                    if read <= asked {
                        return false;
                    }
                    // Either the line is slow, and the answer stands behind what else is on its way, or the ping was lost, and so are requests. For the calls
                    // under way it makes no difference as long as something comes.
                    asked = read;
                    let _ = shared.doubt.set(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
