//! The TLS handshake of a connection, and the meaning of its failures.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::grpc::{Local, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::store::connect::{self, Endpoint};
use crate::store::tls::config;
pub(super) use crate::store::tls::explain::advice;
use crate::store::tls::explain::{Whose, explain};

/// The name of HTTP/2 in ALPN.
const HTTP2: &[u8] = b"h2";

/// The TLS settings for one endpoint.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    /// The name that the server's certificate must be valid for.
    name: ServerName<'static>,
}

impl Tls {
    pub(super) fn new(settings: &connect::Tls, endpoint: &Endpoint) -> Result<Self> {
        // The handshake below gets the name, so the config does not need it.
        let mut config = config(Some(&connect::Tls { server_name: None, ..settings.clone() }))?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        let name = settings.server_name.as_ref().unwrap_or(&endpoint.host);
        let name = ServerName::try_from(name.clone())
            .map_err(|cause| Error::new(ErrorKind::Tls, format!("`{name}` is not a valid name for a certificate")).caused_by(cause))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    pub(super) async fn shake_hands(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, Status> {
        let stream = match self.connector.connect(self.name.clone(), tcp).await {
            Ok(stream) => stream,
            Err(cause) => {
                let error = cause.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
                let (words, is_tls) = match error {
                    Some(error) => (explain(error, Whose::Server), !matches!(error, rustls::Error::InvalidMessage(_))),
                    // An etcd without TLS closes the connection during the handshake, because it
                    // does not recognise the handshake as a request. A server that dies in the
                    // middle of the handshake does the same.
                    None => return Err(Local::HungUp(cause.to_string()).into()),
                };
                return Err(Local::Tls { words, cause: Arc::new(cause), is_tls }.into());
            }
        };
        if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
            Ok(stream)
        } else {
            Err(Local::NotGrpc("the server does not speak HTTP/2 within TLS".to_owned()).into())
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}
