//! Opens the byte stream to a host and port: address lookup, TCP and TLS.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::uri::{Authority, Scheme};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep};

use super::delayed_ping_ack::DelayedPingAcks;
use crate::error::{Error, ErrorKind};
use crate::store::connect::{ConnectOptions, Endpoint};
use crate::store::diagnosis::{Diagnosis, Spoken};
use crate::store::v3::grpc::{Local, Status};
use crate::store::v3::tls::Tls;

/// The idle time after which the operating system checks the TCP connection.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long to wait for one of several addresses before trying the next one in parallel (RFC 8305,
/// section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// The address to connect to, and the settings.
#[derive(Debug)]
pub(in crate::store::v3) struct Target {
    endpoint: Endpoint,
    pub(super) authority: Authority,
    tls: Option<Tls>,
    diagnosis: Diagnosis,
    pub(super) keep_alive_interval: Duration,
    pub(super) keep_alive_timeout: Duration,
}

impl Target {
    pub(in crate::store::v3) fn new(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Self, Error> {
        let name = endpoint.to_string();
        let authority = Authority::try_from(name.as_str())
            .map_err(|cause| Error::new(ErrorKind::InvalidUrl, format!("`{name}` is not a valid host and port")).caused_by(cause))?;
        Ok(Self {
            endpoint: endpoint.clone(),
            authority,
            tls: options.tls.as_ref().map(|settings| Tls::new(settings, endpoint)).transpose()?,
            diagnosis: Diagnosis::default(),
            keep_alive_interval: options.keep_alive_interval,
            keep_alive_timeout: options.keep_alive_timeout,
        })
    }

    pub(super) fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }

    pub(super) async fn dial(&self) -> Result<Io, Status> {
        let Endpoint { host, port } = &self.endpoint;
        let tcp = async { connect(lookup_host((host.as_str(), *port)).await?).await };
        let tcp = tcp.await.map_err(|cause| Local::NotSent(cause.to_string()))?;
        Ok(match &self.tls {
            None => Io::of(tcp),
            Some(tls) => Io::of(tls.shake_hands(tcp).await?),
        })
    }
}

impl Target {
    /// Returns an error if the server speaks another protocol than the address says. Returns `None`
    /// if the protocol is right or cannot be determined.
    pub(in crate::store::v3) async fn contradiction(&self, limit: Duration) -> Option<Local> {
        self.diagnosis.of(&self.endpoint, limit, |spoken| self.contradiction_of(spoken)).await
    }

    fn contradiction_of(&self, spoken: Spoken) -> Option<Local> {
        Some(match (spoken, self.tls.is_some()) {
            (Spoken::Tls, false) => Local::TlsOnOneSide("the server speaks TLS: use the scheme `etcds://`"),
            (Spoken::Http2 | Spoken::Http1 { .. }, true) => Local::TlsOnOneSide("the server speaks without TLS: use the scheme `etcd://`"),
            (Spoken::Http1 { etcd: Some(version) }, false) if version.starts_with("2.") => {
                Local::NotGrpc(format!("the server is etcd {version}, which has no v3 API over gRPC: use the scheme `etcd2://`"))
            }
            (Spoken::Http1 { etcd: Some(version) }, false) => Local::NotGrpc(format!(
                "etcd {version} answers in HTTP/1.1 and not in HTTP/2: a proxy before the server must pass on HTTP/2"
            )),
            (Spoken::Http1 { etcd: None }, false) => Local::NotGrpc("the server speaks HTTP/1.1 and does not speak HTTP/2".to_owned()),
            (Spoken::Tls, true) | (Spoken::Http2, false) => return None,
        })
    }
}

/// Connects to the first address of the host that answers. An address that drops packets must not
/// delay the others.
async fn connect(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut addresses = addresses.peekable();
    let mut attempts = FuturesUnordered::new();
    let mut last = None;
    loop {
        match addresses.next() {
            Some(address) => attempts.push(TcpStream::connect(address)),
            None if attempts.is_empty() => {
                return Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address")));
            }
            None => {}
        }
        let others = addresses.peek().is_some();
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => return configured(stream),
                Err(error) => last = Some(error),
            },
            () = sleep(NEXT_ADDRESS), if others => {}
        }
    }
}

fn configured(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEP_ALIVE))?;
    Ok(stream)
}

/// The byte stream of a connection, over TCP or TLS.
pub(super) struct Io {
    bytes: Box<dyn Bytes>,
    read: LastRead,
    /// Whether `h2` has begun to read from the stream, which it does once the connection is set up.
    in_use: bool,
}

pub(super) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

impl Io {
    pub(super) fn of(bytes: impl Bytes + 'static) -> Self {
        Self { bytes: Box::new(DelayedPingAcks::of(bytes)), read: LastRead::begin(), in_use: false }
    }

    pub(super) fn last_read(&self) -> LastRead {
        self.read.clone()
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.in_use = true;
        let polled = Pin::new(&mut self.bytes).poll_read(cx, into);
        if polled.is_ready() {
            self.read.now();
        }
        polled
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write_vectored(cx, bytes)
    }

    /// Returns false until the connection is in use. While a connection is set up, `h2` asks once
    /// which payloads to copy next to their frames: without vectored writes, payloads of up to
    /// 1,024 bytes instead of 256. One write can then carry many small requests. Later `h2` asks
    /// before each write, and does not copy larger payloads.
    fn is_write_vectored(&self) -> bool {
        self.in_use && self.bytes.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }
}

/// The time of the last read.
#[derive(Clone, Debug)]
pub(super) struct LastRead {
    opened: Instant,
    /// Milliseconds from `opened` to the last read.
    after: Arc<AtomicU64>,
}

impl LastRead {
    fn begin() -> Self {
        Self { opened: Instant::now(), after: Arc::default() }
    }

    pub(super) fn at(&self) -> Instant {
        self.opened + Duration::from_millis(self.after.load(Ordering::Relaxed))
    }

    fn now(&self) {
        self.after.store(u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn unreachable_address_is_skipped() {
        let [dead, alive] = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let addresses = [dead.local_addr().unwrap(), alive.local_addr().unwrap()];
        drop(dead);
        let connected = connect(addresses.into_iter()).await.unwrap();
        assert_eq!(connected.peer_addr().unwrap(), addresses[1]);
        assert!(connected.nodelay().unwrap() && SockRef::from(&connected).keepalive().unwrap());
        drop(alive);
        assert_eq!(connect(addresses.into_iter()).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect(std::iter::empty()).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
