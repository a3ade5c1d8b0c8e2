//! TLS of a connection: its handshake, and what it means when the server ends it without a word.

use std::fmt;
use std::io::{self, ErrorKind as Io};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::grpc::{Local, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::store::connect::{self, Endpoint};
use crate::store::tls::config;

/// What the protocol is called in a handshake.
const HTTP2: &[u8] = b"h2";

/// How long a server may take to show that it speaks without TLS.
const PLAIN_ANSWER: Duration = Duration::from_millis(500);

/// The settings, for one endpoint.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    /// What the server's certificate must be for.
    name: ServerName<'static>,
    endpoint: Endpoint,
}

impl Tls {
    pub(super) fn new(settings: &connect::Tls, endpoint: &Endpoint) -> Result<Self> {
        // The name goes into the handshake here, and so into the check of the certificate.
        let mut config = config(Some(&connect::Tls { server_name: None, ..settings.clone() }))?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        let name = settings.server_name.as_ref().unwrap_or(&endpoint.host);
        let name = ServerName::try_from(name.clone())
            .map_err(|cause| Error::new(ErrorKind::Tls, format!("`{name}` is no name that a certificate can be for")).caused_by(cause))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name, endpoint: endpoint.clone() })
    }

    pub(super) async fn shake_hands(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, Status> {
        let stream = match self.connector.connect(self.name.clone(), tcp).await {
            Ok(stream) => stream,
            Err(cause) if cause.get_ref().is_some_and(|cause| cause.is::<rustls::Error>()) => {
                return Err(Local::Tls(Arc::new(cause)).into());
            }
            Err(cause) if is_cut_off(&cause) && self.speaks_without().await => return Err(Local::WithoutTls.into()),
            Err(cause) => return Err(Local::NotSent(cause.to_string()).into()),
        };
        if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
            Ok(stream)
        } else {
            Err(Local::NotGrpc("the server does not speak HTTP/2 within TLS".to_owned()).into())
        }
    }

    /// Whether the server answers HTTP/2 without TLS. No answer proves nothing.
    async fn speaks_without(&self) -> bool {
        matches!(timeout(PLAIN_ANSWER, speaks_plain_http2(&self.endpoint)).await, Ok(Ok(true)))
    }
}

/// Whether the other side ended the connection while it was being made. An etcd without TLS does so with a handshake, which is no request that it
/// knows; so does one with TLS that dies in the middle of it, and a proxy that has no server behind it.
fn is_cut_off(cause: &io::Error) -> bool {
    matches!(cause.kind(), Io::UnexpectedEof | Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe)
}

/// Whether the server begins as HTTP/2 does: with a frame of settings, on the connection itself (RFC 9113, sections 3.4 and 4.1).
async fn speaks_plain_http2(endpoint: &Endpoint) -> io::Result<bool> {
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const SETTINGS: u8 = 4;
    let mut stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    stream.write_all(HELLO).await?;
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let [_, _, _, kind, _flags, on @ ..] = head;
    Ok(kind == SETTINGS && on == [0; 4])
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}
