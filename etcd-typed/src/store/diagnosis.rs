//! What a port speaks. A client that meets no server of its own protocol asks this, so that the error can name the right scheme.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connect::Endpoint;

/// How long a server may take to show what it speaks where nothing else waits for it.
pub(super) const LONGEST: Duration = Duration::from_secs(1);

/// The longest answer to `GET /version` that is read. etcd's has about 200 bytes.
const LONGEST_ANSWER: u64 = 4096;

/// What a server speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Tls,
    /// HTTP/2 without TLS.
    Http2,
    /// HTTP/1.x without TLS, and no HTTP/2. The version of the server if it is an etcd.
    Http1 {
        etcd: Option<String>,
    },
}

/// Connects to the endpoint and finds out within `limit`. `None` proves nothing: the server may be slow, or about to stop.
pub(super) async fn spoken(endpoint: &Endpoint, limit: Duration) -> Option<Spoken> {
    let tls = timeout(limit, speaks_tls(endpoint));
    let http2 = timeout(limit, speaks_http2(endpoint));
    let http1 = timeout(limit, speaks_http1(endpoint));
    let (tls, http2, http1) = tokio::join!(tls, http2, http1);
    // Go's servers and nginx answer plain HTTP on a TLS port too, with an error. So TLS is looked at first.
    if matches!(tls, Ok(Ok(true))) {
        return Some(Spoken::Tls);
    }
    if matches!(http2, Ok(Ok(true))) {
        return Some(Spoken::Http2);
    }
    http1.ok()?.ok()?
}

/// Whether the server answers a TLS handshake with a record of TLS: its part of the handshake, or an alert (RFC 8446, section 5.1).
async fn speaks_tls(endpoint: &Endpoint) -> io::Result<bool> {
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    let [kind, major, _minor] = first_bytes(endpoint, &client_hello()).await?;
    Ok(matches!(kind, ALERT | HANDSHAKE) && major == 3)
}

/// The first message of a handshake for TLS 1.2, without a name. No handshake follows, so its random bytes need not be random.
fn client_hello() -> Vec<u8> {
    const HEAD: [u8; 11] = [22, 3, 1, 0, 0x59, 1, 0, 0, 0x55, 3, 3];
    const RANDOM: [u8; 32] = [0x5a; 32];
    // No session, seven cipher suites, no compression.
    const SUITES: [u8; 19] = [0, 0, 14, 0xc0, 0x2f, 0xc0, 0x30, 0xc0, 0x2b, 0xc0, 0x2c, 0, 0x9c, 0, 0x2f, 0x13, 1, 1, 0];
    // Groups X25519 and P-256, uncompressed points, four signature schemes.
    const EXTENSIONS: [u8; 32] =
        [0, 30, 0, 10, 0, 6, 0, 4, 0, 0x1d, 0, 0x17, 0, 11, 0, 2, 1, 0, 0, 13, 0, 10, 0, 8, 4, 3, 8, 4, 4, 1, 5, 1];
    [&HEAD[..], &RANDOM, &SUITES, &EXTENSIONS].concat()
}

/// Whether the server begins as HTTP/2 does: with a frame of settings, on the connection itself (RFC 9113, sections 3.4 and 4.1).
async fn speaks_http2(endpoint: &Endpoint) -> io::Result<bool> {
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const SETTINGS: u8 = 4;
    let [_, _, _, kind, _flags, on @ ..] = first_bytes::<9>(endpoint, HELLO).await?;
    Ok(kind == SETTINGS && on == [0; 4])
}

async fn first_bytes<const LENGTH: usize>(endpoint: &Endpoint, hello: &[u8]) -> io::Result<[u8; LENGTH]> {
    let mut stream = connected(endpoint).await?;
    stream.write_all(hello).await?;
    let mut first = [0; LENGTH];
    stream.read_exact(&mut first).await?;
    Ok(first)
}

/// Asks for etcd's version. None if the answer is not HTTP/1.x.
async fn speaks_http1(endpoint: &Endpoint) -> io::Result<Option<Spoken>> {
    let mut stream = connected(endpoint).await?;
    let request = format!("GET /version HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // What arrived before a reset counts.
    let ended = stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await;
    if !answer.starts_with(b"HTTP/1.") {
        return ended.map(|_| None);
    }
    Ok(Some(Spoken::Http1 { etcd: etcd_version(&answer) }))
}

/// The version in an answer such as `{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}`.
fn etcd_version(answer: &[u8]) -> Option<String> {
    let answer = std::str::from_utf8(answer).ok()?;
    let (_, rest) = answer.split_once("\"etcdserver\"")?;
    let version = rest.trim_start_matches([':', ' ', '"']).split('"').next()?;
    let is_version = (1..=64).contains(&version.len()) && version.bytes().all(|byte| byte.is_ascii_graphic());
    is_version.then(|| version.to_owned())
}

async fn connected(endpoint: &Endpoint) -> io::Result<TcpStream> {
    TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_hello_has_the_lengths_it_names() {
        let hello = client_hello();
        let number = |at: usize| usize::from(hello[at]) << 8 | usize::from(hello[at + 1]);
        assert_eq!(number(3), hello.len() - 5, "the record");
        assert_eq!(number(7), hello.len() - 9, "the message");
        assert_eq!(number(62), hello.len() - 64, "the extensions");
    }

    #[test]
    fn version_is_read_from_the_answer() {
        for (answer, version) in [
            ("HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\":\"3.4.23\",\"etcdcluster\":\"3.4.0\"}", Some("3.4.23")),
            ("HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\": \"2.3.8\"}", Some("2.3.8")),
            ("HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\":\"\"}", None),
            ("HTTP/1.1 200 OK\r\n\r\n{\"etcdserver\":\"3 4\"}", None),
            ("HTTP/1.1 404 Not Found\r\n\r\n", None),
        ] {
            assert_eq!(etcd_version(answer.as_bytes()).as_deref(), version, "{answer}");
        }
    }
}
