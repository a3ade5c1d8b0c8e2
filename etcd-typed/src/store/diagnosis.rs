//! Finds out which protocol a port speaks. A client whose calls find no usable server asks this, so
//! that the error can name the right scheme.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::connect::Endpoint;

/// How long to wait after a check without an explanation before the next one.
const PAUSE: Duration = Duration::from_secs(5);

/// The maximum length of an answer to `GET /version`. etcd's answer has about 200 bytes.
const LONGEST_ANSWER: usize = 4096;

/// The protocol of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Tls,
    /// HTTP/2 without TLS.
    Http2,
    /// HTTP/1.x without TLS or HTTP/2, with the server's version if it is an etcd.
    Http1 {
        etcd: Option<String>,
    },
}

/// Checks which protocol one endpoint speaks.
#[derive(Debug, Default)]
pub(super) struct Diagnosis {
    /// When the last check ended without an explanation.
    in_vain: Mutex<Option<Instant>>,
}

impl Diagnosis {
    /// Checks the endpoint and returns the explanation that `explain` gives for the result. Takes
    /// `limit` at most. After a check without an explanation, returns `None` for a while without
    /// another check.
    pub(super) async fn of<T>(&self, endpoint: &Endpoint, limit: Duration, explain: impl FnOnce(Spoken) -> Option<T>) -> Option<T> {
        let last = *self.in_vain();
        if last.is_some_and(|last| last.elapsed() < PAUSE) {
            return None;
        }
        let explanation = spoken(endpoint, limit).await.and_then(explain);
        *self.in_vain() = explanation.is_none().then(Instant::now);
        explanation
    }

    fn in_vain(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.in_vain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to the endpoint and determines its protocol within `limit`. `None` means that the
/// protocol is unknown: the server may be slow or about to stop.
async fn spoken(endpoint: &Endpoint, limit: Duration) -> Option<Spoken> {
    let tls = timeout(limit, speaks_tls(endpoint));
    let http2 = timeout(limit, speaks_http2(endpoint));
    let http1 = timeout(limit, speaks_http1(endpoint));
    let (tls, http2, http1) = tokio::join!(tls, http2, http1);
    // Go's servers and nginx answer plain HTTP with an error even on a TLS port, so TLS has
    // priority.
    if matches!(tls, Ok(Ok(true))) {
        return Some(Spoken::Tls);
    }
    if matches!(http2, Ok(Ok(true))) {
        return Some(Spoken::Http2);
    }
    http1.ok()?.ok()?
}

/// Returns whether the server answers a TLS handshake with a TLS record: its part of the handshake,
/// or an alert (RFC 8446, section 5.1).
async fn speaks_tls(endpoint: &Endpoint) -> io::Result<bool> {
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    let [kind, major, _minor] = first_bytes(endpoint, &client_hello()).await?;
    Ok(matches!(kind, ALERT | HANDSHAKE) && major == 3)
}

/// Returns the first message of a TLS 1.2 handshake, without a server name. The handshake is never
/// completed, so its random bytes need not be random.
fn client_hello() -> Vec<u8> {
    const HEAD: [u8; 11] = [22, 3, 1, 0, 0x59, 1, 0, 0, 0x55, 3, 3];
    const RANDOM: [u8; 32] = [0x5a; 32];
    // The following fields: no session, seven cipher suites, no compression.
    const SUITES: [u8; 19] = [0, 0, 14, 0xc0, 0x2f, 0xc0, 0x30, 0xc0, 0x2b, 0xc0, 0x2c, 0, 0x9c, 0, 0x2f, 0x13, 1, 1, 0];
    // Groups X25519 and P-256, uncompressed points, four signature schemes.
    const EXTENSIONS: [u8; 32] =
        [0, 30, 0, 10, 0, 6, 0, 4, 0, 0x1d, 0, 0x17, 0, 11, 0, 2, 1, 0, 0, 13, 0, 10, 0, 8, 4, 3, 8, 4, 4, 1, 5, 1];
    [&HEAD[..], &RANDOM, &SUITES, &EXTENSIONS].concat()
}

/// Returns whether the server starts like HTTP/2: with a SETTINGS frame on stream 0 (RFC 9113,
/// sections 3.4 and 4.1).
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

/// Asks for etcd's version. Returns `None` if the answer is not HTTP/1.x.
async fn speaks_http1(endpoint: &Endpoint) -> io::Result<Option<Spoken>> {
    let mut stream = connected(endpoint).await?;
    let request = format!("GET /version HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Data that arrived before the end or a reset of the connection counts.
    while !is_whole(&answer) && answer.len() < LONGEST_ANSWER && matches!(stream.read_buf(&mut answer).await, Ok(1..)) {}
    let is_http = answer.starts_with(b"HTTP/1.");
    Ok(is_http.then(|| Spoken::Http1 { etcd: etcd_version(&answer) }))
}

/// Returns whether an answer has the length that its head names. A server may keep the connection
/// open after it.
fn is_whole(answer: &[u8]) -> bool {
    let Some((head, body)) = std::str::from_utf8(answer).ok().and_then(|answer| answer.split_once("\r\n\r\n")) else { return false };
    let lengths = head.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.filter_map(|(_, length)| length.trim().parse::<usize>().ok()).any(|length| body.len() >= length)
}

/// Returns the version in an answer such as `{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}`.
fn etcd_version(answer: &[u8]) -> Option<String> {
    let answer = std::str::from_utf8(answer).ok()?;
    let (_, rest) = answer.split_once("\"etcdserver\"")?;
    let version = rest.trim_start_matches([':', ' ']).strip_prefix('"')?.split('"').next()?;
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
    fn tls_client_hello_has_correct_lengths() {
        let hello = client_hello();
        let number = |at: usize| usize::from(hello[at]) << 8 | usize::from(hello[at + 1]);
        assert_eq!(number(3), hello.len() - 5, "the record");
        assert_eq!(number(7), hello.len() - 9, "the message");
        assert_eq!(number(62), hello.len() - 64, "the extensions");
    }

    #[test]
    fn answer_is_complete_with_full_body() {
        for (answer, whole) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell", false),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\n\r\nhello", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", false),
        ] {
            assert_eq!(is_whole(answer.as_bytes()), whole, "{answer}");
        }
    }

    #[test]
    fn etcd_version_is_parsed() {
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
