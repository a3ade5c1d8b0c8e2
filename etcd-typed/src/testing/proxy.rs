//! `Proxy`: a TCP proxy that breaks connections on demand. It knows nothing of the protocol.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::clock::FAR;

/// The value of [`Links::budget`] if no budget is set; see [`Proxy::cut_after`].
const UNLIMITED: u64 = u64::MAX;

/// A TCP proxy on a loopback port in front of one address. Dropping it closes its connections and
/// frees the port.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    state: watch::Sender<State>,
    /// The last value of [`State::modes`] that the listener has applied.
    applied: watch::Sender<u64>,
    links: Arc<Links>,
    task: JoinHandle<()>,
}

/// How a [`Proxy`] treats connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All bytes pass.
    #[default]
    Pass,
    /// The port does not listen: new connections are refused. Open connections continue;
    /// [`Proxy::cut`] ends them.
    Refuse,
    /// Connections are accepted and stay open, but no bytes pass, as on a network that loses all
    /// packets.
    Stall,
    /// Requests pass, but answers do not.
    StallAnswers,
    /// Answers pass, but requests do not.
    StallRequests,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    mode: Mode,
    delay: Duration,
    /// The number of changes of the mode.
    modes: u64,
    /// The number of cuts. A connection ends when this number changes.
    cuts: u64,
    /// Connections with a lower number than this pass no requests; see [`Proxy::lose_requests`].
    deaf_before: u64,
    /// The number of the connection that is held; see [`Proxy::hold`].
    held: Option<u64>,
    /// Bytes per second, in each direction of each connection; see [`Proxy::limit`].
    limit: Option<NonZeroU32>,
    /// The number of half-closes in each direction. A connection half-closes when this number
    /// changes.
    ends: Directions<u64>,
}

/// One value for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Directions<T> {
    requests: T,
    answers: T,
}

#[derive(Debug)]
struct Links {
    target: String,
    accepted: AtomicU64,
    /// The number of further bytes of answers that may pass.
    budget: AtomicU64,
}

impl Proxy {
    /// Starts a proxy in front of an address, `127.0.0.1:PORT`, on which no server needs to listen
    /// yet. The proxy opens one connection to this address for each client connection.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port.
    pub async fn to(target: impl Into<String>) -> Self {
        let reserved = match reserve() {
            Ok(reserved) => reserved,
            Err(error) => panic!("a port for a proxy: {error}"),
        };
        let (state, _) = watch::channel(State::default());
        let links = Arc::new(Links { target: target.into(), accepted: AtomicU64::new(0), budget: AtomicU64::new(UNLIMITED) });
        let listener = match listen(reserved.1) {
            Ok(listener) => listener,
            Err(error) => panic!("a proxy on {}: {error}", reserved.1),
        };
        let (applied, _) = watch::channel(0);
        let task = tokio::spawn(serve(reserved.0, reserved.1, listener, state.clone(), applied.clone(), Arc::clone(&links)));
        Self { addr: reserved.1, state, applied, links, task }
    }

    /// Returns the address for clients.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the address for clients as text: `127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.addr.to_string()
    }

    /// Changes the mode, for open connections too. The mode is in effect when this method returns.
    pub async fn set(&self, mode: Mode) {
        let mut wanted = 0;
        self.state.send_modify(|state| {
            state.mode = mode;
            state.modes += 1;
            wanted = state.modes;
        });
        // An error means that the proxy's runtime is shutting down.
        let _ = self.applied.subscribe().wait_for(|applied| *applied >= wanted).await;
    }

    /// Delays every byte by this much from now on, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Resets all open connections now. The mode decides what happens to new connections.
    pub fn cut(&self) {
        self.links.budget.store(UNLIMITED, Ordering::SeqCst);
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Resets all open connections once, after this many more bytes of answers over all
    /// connections. So a test that knows the length of messages can cut in the middle of a message.
    pub fn cut_after(&self, bytes: u64) {
        self.links.budget.store(bytes, Ordering::SeqCst);
    }

    /// Drops all later requests on the connections that are open now. Answers to earlier requests
    /// still arrive. New connections pass all bytes.
    pub fn lose_requests(&self) {
        let accepted = self.accepted();
        self.state.send_modify(|state| state.deaf_before = accepted);
    }

    /// Half-closes all open connections: the server sees the end of the requests, and its answers
    /// still arrive. New connections are not affected.
    pub fn end_requests(&self) {
        self.state.send_modify(|state| state.ends.requests += 1);
    }

    /// Half-closes all open connections: clients see the end of the answers, and their requests
    /// still arrive. New connections are not affected.
    pub fn end_answers(&self) {
        self.state.send_modify(|state| state.ends.answers += 1);
    }

    /// Limits each direction of each connection to this many bytes per second from now on. `None`
    /// removes the limit.
    pub fn limit(&self, bytes_per_second: Option<NonZeroU32>) {
        self.state.send_modify(|state| state.limit = bytes_per_second);
    }

    /// Holds one connection: it stays open, but no bytes pass. A later call with another connection
    /// or with `None` releases it. Connections are numbered from 0 in the order in which they are
    /// accepted.
    pub fn hold(&self, connection: Option<u64>) {
        self.state.send_modify(|state| state.held = connection);
    }

    /// Returns the number of connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.links.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Binds a socket that holds a port without listening, so that no other program gets the port.
/// While the proxy does not listen either, connections to the port are refused. The proxy's
/// listener can be bound to the same port, since both sockets have SO_REUSEADDR.
fn reserve() -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let addr = socket.local_addr()?;
    Ok((socket, addr))
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(1024)
}

/// Accepts connections, unless the mode is [`Mode::Refuse`]. All connections end with this task.
async fn serve(
    _reserved: TcpSocket,
    addr: SocketAddr,
    listener: TcpListener,
    state: watch::Sender<State>,
    applied: watch::Sender<u64>,
    links: Arc<Links>,
) {
    let mut listener = Some(listener);
    let mut changes = state.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let State { mode, modes, .. } = *changes.borrow_and_update();
        if mode == Mode::Refuse {
            if listener.take().is_some() {
                until_refused(addr).await;
            }
        } else if listener.is_none() {
            listener = listen(addr).ok();
        }
        applied.send_replace(modes);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            accepted = accept(listener.as_ref()) => {
                if let Ok(client) = accepted {
                    let number = links.accepted.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(connection(client, number, state.clone(), Arc::clone(&links)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Waits until connections to the closed listener are refused. A child process that another thread
/// is just starting keeps a copy of the listener open until it executes its program.
async fn until_refused(addr: SocketAddr) {
    while TcpStream::connect(addr).await.is_ok() {
        sleep(Duration::from_millis(1)).await;
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _)| client),
        None => std::future::pending().await,
    }
}

/// Runs one connection until it is cut, it fails, or both directions have ended.
async fn connection(mut client: TcpStream, number: u64, state: watch::Sender<State>, links: Arc<Links>) {
    let mut cuts = state.subscribe();
    let seen = cuts.borrow().cuts;
    let cut = async { cuts.wait_for(|state| state.cuts != seen).await.is_ok() };
    let orderly = tokio::select! {
        _ = cut => false,
        passed = pass(&mut client, number, &state, &links) => passed.is_ok(),
    };
    if !orderly {
        // Reset the connection instead of closing it, as when a process dies.
        let _ = client.set_zero_linger();
    }
}

async fn pass(client: &mut TcpStream, number: u64, state: &watch::Sender<State>, links: &Links) -> io::Result<()> {
    until(&mut state.subscribe(), |state| state.mode != Mode::Stall && state.held != Some(number)).await;
    let mut server = TcpStream::connect(&links.target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let passed = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let stalls = |state: &State| state.mode == Mode::Stall || state.held == Some(number);
        let requests = Direction {
            opens: |state: &State| !stalls(state) && state.mode != Mode::StallRequests && number >= state.deaf_before,
            ends: |state: &State| state.ends.requests,
            counted: None,
        };
        let answers = Direction {
            opens: |state: &State| !stalls(state) && state.mode != Mode::StallAnswers,
            ends: |state: &State| state.ends.answers,
            counted: Some(links),
        };
        tokio::try_join!(requests.pump(client_read, server_write, state), answers.pump(server_read, client_write, state)).map(|_| ())
    };
    if passed.is_err() {
        let _ = server.set_zero_linger();
    }
    passed
}

/// One direction of a connection.
struct Direction<'l, O, E> {
    /// Returns whether bytes may pass.
    opens: O,
    /// Returns the number of half-closes of this direction.
    ends: E,
    /// The links whose byte budget limits this direction, if any.
    counted: Option<&'l Links>,
}

impl<O: Fn(&State) -> bool, E: Fn(&State) -> u64> Direction<'_, O, E> {
    /// Moves bytes: reads them, waits for the delay, waits until the mode lets them pass, and
    /// writes them.
    async fn pump(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        state: &watch::Sender<State>,
    ) -> io::Result<()> {
        // Continue reading while earlier bytes wait, so that a delay does not limit the throughput.
        let (sender, mut receiver) = mpsc::channel::<(Instant, Bytes)>(256);
        let read = async move {
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let read = from.read(&mut buffer).await?;
                let State { delay, limit, .. } = *state.borrow();
                let chunk = Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
                if read == 0 || sender.send((Instant::now() + delay.min(FAR), chunk)).await.is_err() {
                    return Ok(());
                }
                if let Some(limit) = limit {
                    sleep(Duration::from_secs_f64(read as f64 / f64::from(limit.get()))).await;
                }
            }
        };
        let write = async move {
            let (mut ends, mut changes) = (state.subscribe(), state.subscribe());
            let seen = (self.ends)(&ends.borrow());
            loop {
                let (due, chunk) = tokio::select! {
                    biased;
                    _ = ends.wait_for(|state| (self.ends)(state) != seen) => break,
                    received = receiver.recv() => match received {
                        Some(received) => received,
                        None => break,
                    },
                };
                sleep_until(due).await;
                until(&mut changes, &self.opens).await;
                self.write(chunk, &mut to, state).await?;
            }
            to.shutdown().await?;
            // Read and drop the bytes that arrive after a half-close.
            while receiver.recv().await.is_some() {}
            Ok(())
        };
        tokio::try_join!(read, write).map(|_| ())
    }

    async fn write(&self, mut chunk: Bytes, to: &mut (impl AsyncWrite + Unpin), state: &watch::Sender<State>) -> io::Result<()> {
        let allowed = self.counted.map_or(chunk.len(), |links| links.spend(chunk.len()));
        if allowed == chunk.len() {
            return to.write_all(&chunk).await;
        }
        chunk.truncate(allowed);
        to.write_all(&chunk).await?;
        to.flush().await?;
        state.send_modify(|state| state.cuts += 1);
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

/// Waits until the state matches. The wait cannot fail, since the sender is dropped only after the
/// connections.
async fn until(changes: &mut watch::Receiver<State>, open: impl Fn(&State) -> bool) {
    let _ = changes.wait_for(|state| open(state)).await;
}

impl Links {
    /// Takes this many bytes from the budget. Returns the number of bytes that may pass. If these
    /// are fewer than requested, the budget is used up and removed.
    fn spend(&self, bytes: usize) -> usize {
        let wanted = bytes as u64;
        let rest = |budget: u64| match budget {
            UNLIMITED => UNLIMITED,
            budget if budget >= wanted => budget - wanted,
            _ => UNLIMITED,
        };
        let before = self.budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |budget| Some(rest(budget)));
        let (Ok(before) | Err(before)) = before;
        usize::try_from(before).unwrap_or(usize::MAX).min(bytes)
    }
}
