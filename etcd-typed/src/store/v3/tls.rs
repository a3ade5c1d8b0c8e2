//! TLS of a connection: its settings, and what it means when the server ends the handshake without a word.

use std::error::Error as StdError;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::transport::Endpoint as Target;

use super::status::WithoutTls;
use crate::error::{Error, ErrorKind, Result};
use crate::store::connect::Tls;

/// The target with these settings.
#[cfg(feature = "tls")]
pub(super) fn configured(target: Target, tls: &Tls) -> Result<Target> {
    use tonic::transport::{Certificate, ClientTlsConfig, Identity};

    let mut config = ClientTlsConfig::new();
    config = match &tls.ca {
        Some(pem) if !contains(pem, b"-----BEGIN CERTIFICATE-----") => {
            return Err(Error::new(ErrorKind::Tls, "the certificate authority holds no certificate in PEM form"));
        }
        Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
        None => config.with_native_roots(),
    };
    if let Some((certificate, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = &tls.server_name {
        config = config.domain_name(name);
    }
    target.tls_config(config).map_err(|cause| {
        let words = StdError::source(&cause).map(ToString::to_string).unwrap_or_default();
        Error::new(ErrorKind::Tls, format!("the TLS settings are not usable: {words}")).caused_by(cause)
    })
}

#[cfg(feature = "tls")]
fn contains(pem: &[u8], mark: &[u8]) -> bool {
    pem.windows(mark.len()).any(|window| window == mark)
}

#[cfg(not(feature = "tls"))]
pub(super) fn configured(_: Target, _: &Tls) -> Result<Target> {
    Err(Error::new(ErrorKind::Unsupported, "TLS needs the feature `tls` of the crate etcd-typed"))
}

/// Whether the other side ended the connection while it was being made. An etcd without TLS does so with a handshake, which is no request that it
/// knows; so does one with TLS that dies in the middle of it, and a proxy that has no server behind it.
pub(super) fn is_cut_off(error: &tonic::transport::Error) -> bool {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
            return matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe);
        }
        next = error.source();
    }
    false
}

/// Tells the first of these cases from the others: that server answers HTTP/2 without TLS.
pub(super) async fn why_cut_off(name: &str, cause: tonic::transport::Error, deadline: Instant) -> Status {
    match timeout_at(deadline, speaks_plain_http2(name)).await {
        Ok(Ok(true)) => Status::from_error(Box::new(WithoutTls)),
        // No answer proves nothing.
        Ok(Ok(false) | Err(_)) | Err(_) => Status::from_error(Box::new(cause)),
    }
}

/// Whether the server begins as HTTP/2 does: with a frame of settings, on the connection itself (RFC 9113, sections 3.4 and 4.1).
async fn speaks_plain_http2(name: &str) -> io::Result<bool> {
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const SETTINGS: u8 = 4;
    let mut stream = TcpStream::connect(name).await?;
    stream.write_all(HELLO).await?;
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let [_, _, _, kind, _flags, on @ ..] = head;
    Ok(kind == SETTINGS && on == [0; 4])
}
