//! `Connection`: one HTTP/2 connection to a server, directly on the crate `h2`. A generic gRPC
//! library puts a buffer and a dispatching task between a call and `h2`. That costs as much
//! processor time as the rest of a call; `tests/peers` measures the difference.
//!
//! [`dial`] opens the connection, and [`exchange`] is one call on it.

mod delayed_ping_ack;
mod dial;
mod exchange;
mod incoming;

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

/// How many bytes a server may send on one stream before the client reads them: as many as a
/// gigabit line carries in 30 ms.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;

/// How many bytes a server may send on all streams of a connection together before the client reads
/// them.
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

/// The maximum size of the headers and trailers of an answer, which include the message of an
/// error.
const LONGEST_HEADERS: u32 = 64 * 1024;

/// The stream limit until the server has sent one. No server can send this value, because the limit
/// on the wire is a 32-bit number or absent.
const UNTOLD: usize = usize::MAX - 1;

/// How long a broken stream waits for the reason that its connection ended. `h2` reports the end of
/// the stream first.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A connection that was open when last used. Clones share the connection. It closes when the last
/// clone is dropped and all its calls have ended.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    shared: Arc<ConnectionState>,
}

/// The state shared by a connection's calls and its task.
#[derive(Debug)]
struct ConnectionState {
    scheme: Scheme,
    authority: Authority,
    /// The number of calls under way.
    calls: AtomicUsize,
    /// The number of calls that the server has not begun to answer.
    asked: AtomicUsize,
    /// Whether a call began since the connection's task last wrote.
    begun: AtomicBool,
    /// Passes streams with a long message to the connection's task, which assembles the message.
    long: Long,
    /// The id of the cluster that last answered.
    behind: Behind,
    /// Set when requests seem to be lost while answers still arrive. Calls under way continue, but
    /// new calls should use another connection.
    doubt: SetOnce<()>,
    /// Why the connection ended.
    end: SetOnce<String>,
}

impl Connection {
    /// Connects, waits until the server has shown that it speaks HTTP/2, and spawns the task that
    /// moves the frames. No request is sent before that. Otherwise the outcome of a write would be
    /// unknown if the peer does not speak HTTP/2, is frozen, or refuses the client's certificate.
    /// The server's first frame also contains its stream limit.
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
        // A server's first frame is SETTINGS (RFC 9113, section 3.4), from which `h2` takes the
        // stream limit.
        poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(end) => Poll::Ready(Err(without_settings(end.err()))),
            Poll::Pending if sender.current_max_send_streams() == UNTOLD => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await?;
        let (long, gathering) = Long::new();
        let shared = ConnectionState {
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

    /// Waits until the connection accepts another call.
    ///
    /// # Errors
    ///
    /// The connection has ended, or the server has announced that it is closing it. Nothing was
    /// sent.
    pub(super) async fn ready(&mut self) -> Result<(), Status> {
        poll_fn(|cx| self.sender.poll_ready(cx))
            .await
            .map_err(|cause| self.shared.end.get().cloned().map_or_else(|| unsent(&cause), |why| Local::NotSent(why).into()))
    }

    /// Waits until requests seem to be lost while answers still arrive. New calls should then use
    /// another connection.
    pub(super) async fn doubted(&self) {
        self.shared.doubt.wait().await;
    }

    pub(super) fn doubt(&self) {
        let _ = self.shared.doubt.set(());
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.shared.doubt.initialized()
    }

    /// Returns the cluster that last answered over this connection.
    pub(super) fn behind(&self) -> Behind {
        self.shared.behind.clone()
    }

    /// Returns whether both are the same connection.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

/// Returns why a connection ended before the server's first frame.
fn without_settings(cause: Option<h2::Error>) -> Status {
    let local = match cause {
        None => Local::HungUp("the server closed the connection".to_owned()),
        Some(cause) if cause.is_library() => Local::NotGrpc(format!("the server does not speak HTTP/2 ({cause})")),
        // The server may have refused the client's TLS certificate. Only this text says so.
        Some(cause) if cause.is_io() => Local::Broken { end: Some(cause.to_string()), cause: Arc::new(cause) },
        Some(cause) => Local::NotSent(cause.to_string()),
    };
    local.into()
}

impl ConnectionState {
    /// Returns the status of a call whose stream failed with `cause`.
    async fn broken(&self, cause: h2::Error) -> Status {
        // `h2` reports on a stream that the connection ended, but not why.
        let ended = cause.is_io() || cause.is_go_away();
        let end = if ended { timeout(LAST_WORDS, self.end.wait()).await.ok().cloned() } else { None };
        Local::Broken { end, cause: Arc::new(cause) }.into()
    }
}

/// A call under way. Dropping this value marks the end of the call.
#[derive(Debug)]
struct UnderWay {
    shared: Arc<ConnectionState>,
    /// True until the server begins to answer.
    asked: bool,
    /// The number of calls under way when this call began, including this call.
    place: usize,
}

impl UnderWay {
    fn of(shared: &Arc<ConnectionState>) -> Self {
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

/// When a connection is checked, and when it is given up.
struct KeepAlive {
    interval: Duration,
    limit: Duration,
    read: LastRead,
}

/// Runs the task of a connection.
async fn drive(
    mut connection: h2::client::Connection<Io, Bytes>,
    mut gathering: Gathering,
    shared: Arc<ConnectionState>,
    keep_alive: KeepAlive,
) {
    let pings = connection.ping_pong();
    let end = tokio::select! {
        biased;
        end = move_frames(&mut connection, &mut gathering, &shared) => match end {
            Ok(()) => "the server closed the connection".to_owned(),
            Err(cause) => cause.to_string(),
        },
        () = keep_alive.is_dead(pings, &shared) => format!("no answer to a ping within {:?}", keep_alive.limit),
    };
    // Setting the end cannot fail, since only this task sets it.
    let _ = shared.end.set(end);
    // Dropping the connection ends its remaining streams, which can now read the reason.
    drop(connection);
    poll_fn(|cx| {
        gathering.poll(cx);
        Poll::Ready(())
    })
    .await;
}

/// Moves the frames of a connection until it ends.
///
/// If a call begins while others are under way, other tasks run first: callers that were answered
/// together usually call again together, and one write then carries all their requests. A single
/// call is written at once.
async fn move_frames(
    connection: &mut h2::client::Connection<Io, Bytes>,
    gathering: &mut Gathering,
    shared: &ConnectionState,
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
    /// Waits until the peer no longer answers pings. Only an answered ping shows that requests
    /// still reach the server, because other data may answer earlier requests. Pings are sent only
    /// while calls are under way: a server closes a connection that sends pings without a call (its
    /// `PermitWithoutStream` is false).
    async fn is_dead(&self, pings: Option<PingPong>, shared: &ConnectionState) {
        let Some(mut pings) = pings else { return pending().await };
        loop {
            // The interval runs from an answer to the next ping, so that a server never sees pings
            // closer together.
            sleep(self.interval).await;
            if shared.calls.load(Ordering::Relaxed) > 0 && !self.answers(&mut pings, shared).await {
                return;
            }
        }
    }

    async fn answers(&self, pings: &mut PingPong, shared: &ConnectionState) -> bool {
        let mut asked = Instant::now();
        let mut answer = pin!(pings.ping(Ping::opaque()));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => match answer {
                    Ok(_) => return true,
                    // The connection has ended, and its own error says why.
                    Err(_) => return pending().await,
                },
                () = sleep_until(asked + self.limit) => {
                    let read = self.read.at();
                    if read <= asked {
                        return false;
                    }
                    // Either the line is slow and the answer is queued behind other data, or the
                    // ping was lost, and requests may be lost too. Calls under way may continue as
                    // long as data arrives.
                    asked = read;
                    let _ = shared.doubt.set(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
