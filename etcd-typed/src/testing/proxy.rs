//! `Proxy`: a TCP proxy that breaks connections on demand. It knows no protocol.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
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

/// No budget is set: see [`Proxy::cut_after`].
const UNLIMITED: u64 = u64::MAX;

/// A TCP proxy on a loopback port in front of one address. Dropping it closes its connections and frees the port.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    state: watch::Sender<State>,
    /// Which [`State::modes`] the listener is as of.
    applied: watch::Sender<u64>,
    links: Arc<Links>,
    task: JoinHandle<()>,
}

/// What a [`Proxy`] does with connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    #[default]
    Pass,
    /// Nothing listens: new connections are refused. Those that are open go on; [`Proxy::cut`] ends them.
    Refuse,
    /// Connections are accepted and stay open, and nothing moves: a network that swallows packets.
    Stall,
    /// What clients send arrives, the answers do not.
    StallAnswers,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    mode: Mode,
    delay: Duration,
    /// Counts the changes of the mode.
    modes: u64,
    /// Counts the cuts, so that a connection sees each once.
    cuts: u64,
    /// Of connections with a lower number no requests pass; see [`Proxy::lose_requests`].
    deaf_before: u64,
}

#[derive(Debug)]
struct Links {
    target: String,
    accepted: AtomicU64,
    /// How many more bytes of answers may pass.
    budget: AtomicU64,
}

impl Proxy {
    /// Starts a proxy to an address, `127.0.0.1:PORT`. Nobody needs to listen there yet; it is connected to once for each client.
    ///
    /// # Panics
    ///
    /// If there is no free port.
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

    /// Where clients reach it.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where clients reach it, as text: `127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.addr.to_string()
    }

    /// Does something else from now on, with open connections too. When it returns, [`Mode::Refuse`] refuses.
    pub async fn set(&self, mode: Mode) {
        let mut wanted = 0;
        self.state.send_modify(|state| {
            state.mode = mode;
            state.modes += 1;
            wanted = state.modes;
        });
        // An error means that the proxy's runtime is being shut down.
        let _ = self.applied.subscribe().wait_for(|applied| *applied >= wanted).await;
    }

    /// Every byte arrives so much later from now on, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Resets all open connections now. New ones are taken as the mode says.
    pub fn cut(&self) {
        self.links.budget.store(UNLIMITED, Ordering::SeqCst);
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Resets all open connections after so many more bytes of answers, counted over all connections: in the middle of a message, for
    /// a test that knows how long messages are. Once.
    pub fn cut_after(&self, bytes: u64) {
        self.links.budget.store(bytes, Ordering::SeqCst);
    }

    /// Loses what clients send from now on over the connections that are open now; answers to earlier requests arrive. New connections work.
    pub fn lose_requests(&self) {
        let accepted = self.accepted();
        self.state.send_modify(|state| state.deaf_before = accepted);
    }

    /// How many connections it has accepted so far.
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

/// A socket that holds a port and does not listen: while nothing else does, connections to the port are refused, and nobody else
/// gets the port. A listener can be bound beside it, since both have SO_REUSEADDR.
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

/// Listens unless the mode is to refuse. All connections end with this task.
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

/// A process that is just being started by another thread has the listener too, until it becomes its program.
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

/// One connection until one side ends it in both directions, fails, or it is cut.
async fn connection(mut client: TcpStream, number: u64, state: watch::Sender<State>, links: Arc<Links>) {
    let mut cuts = state.subscribe();
    let seen = cuts.borrow().cuts;
    let cut = async { cuts.wait_for(|state| state.cuts != seen).await.is_ok() };
    let orderly = tokio::select! {
        _ = cut => false,
        passed = pass(&mut client, number, &state, &links) => passed.is_ok(),
    };
    if !orderly {
        // A reset instead of an orderly end: that is what a process that died looks like.
        let _ = client.set_zero_linger();
    }
}

async fn pass(client: &mut TcpStream, number: u64, state: &watch::Sender<State>, links: &Links) -> io::Result<()> {
    until(&mut state.subscribe(), |state| state.mode != Mode::Stall).await;
    let mut server = TcpStream::connect(&links.target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let passed = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let passes_requests = |state: &State| state.mode != Mode::Stall && number >= state.deaf_before;
        let passes_answers = |state: &State| !matches!(state.mode, Mode::Stall | Mode::StallAnswers);
        let requests = pump(client_read, server_write, state, passes_requests, None);
        let answers = pump(server_read, client_write, state, passes_answers, Some(links));
        tokio::try_join!(requests, answers).map(|_| ())
    };
    if passed.is_err() {
        let _ = server.set_zero_linger();
    }
    passed
}

/// Moves bytes in one direction: read, wait out the delay, wait until the mode lets them pass, write.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: &watch::Sender<State>,
    open: impl Fn(&State) -> bool,
    counted: Option<&Links>,
) -> io::Result<()> {
    // Reading goes on while earlier bytes wait, so that a delay is one, and not a limit of the throughput.
    let (sender, mut receiver) = mpsc::channel::<(Instant, Bytes)>(256);
    let mut changes = state.subscribe();
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer).await?;
            let due = Instant::now() + state.borrow().delay.min(FAR);
            let chunk = Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
            if read == 0 || sender.send((due, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, mut chunk)) = receiver.recv().await {
            sleep_until(due).await;
            until(&mut changes, &open).await;
            if let Some(links) = counted {
                let allowed = links.spend(chunk.len());
                if allowed < chunk.len() {
                    chunk.truncate(allowed);
                    to.write_all(&chunk).await?;
                    to.flush().await?;
                    state.send_modify(|state| state.cuts += 1);
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// Waits until the state is one of these. The sender lives as long as the connections.
async fn until(changes: &mut watch::Receiver<State>, open: impl Fn(&State) -> bool) {
    let _ = changes.wait_for(|state| open(state)).await;
}

impl Links {
    /// How many of so many bytes may pass; where that is not all, the budget is used up and there is none from now on.
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
