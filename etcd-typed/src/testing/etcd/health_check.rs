//! Checks whether a server answers, with a request to one of its ports. The server's log cannot be
//! used, since tests may set the log level.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::process::{Ports, Settings};

/// How long to wait for one answer. A server accepts connections before it answers requests.
/// Between two attempts, the caller checks that the server's process still runs.
const PATIENCE: Duration = Duration::from_secs(1);

/// The kind of the request, and its port.
#[derive(Clone, Copy)]
pub(super) enum HealthCheck {
    /// A request to the client port. etcd does not answer on this port before it serves clients, so
    /// any answer is enough, even the health "false" during an alarm.
    Client(u16),
    /// A request to the metrics port. etcd answers on this port before it serves clients, so the
    /// health must be good.
    Health(u16),
    /// An empty TLS handshake on the client port. The answer is a TLS alert.
    Tls(u16),
}

impl HealthCheck {
    pub(super) fn of(settings: &Settings, ports: &Ports) -> Self {
        match settings.tls {
            None => Self::Client(ports.client),
            Some(_) if settings.flags.iter().any(|flag| flag.starts_with("--listen-metrics-urls=")) => Self::Tls(ports.client),
            Some(_) => Self::Health(ports.health),
        }
    }

    /// Returns whether the server has answered. Uses a blocking thread, since tokio's clock may be
    /// paused.
    pub(super) async fn is_answered(self) -> bool {
        tokio::task::spawn_blocking(move || self.ask().unwrap_or(false)).await.unwrap_or(false)
    }

    fn ask(self) -> io::Result<bool> {
        let (port, request, expected): (_, &[u8], &[u8]) = match self {
            Self::Client(port) => (port, b"GET /health HTTP/1.0\r\n\r\n", b""),
            // During an alarm for a full disk or a corrupt member the server still answers.
            Self::Health(port) => (port, b"GET /health?exclude=NOSPACE&exclude=CORRUPT HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 "),
            // The beginning of an empty TLS handshake.
            Self::Tls(port) => (port, b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", b"\x15"),
        };
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request)?;
        let mut answer = vec![0; expected.len().max(1)];
        stream.read_exact(&mut answer)?;
        Ok(answer.starts_with(expected))
    }
}
