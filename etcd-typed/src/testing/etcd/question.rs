//! Whether a server answers, asked at its ports. Its log does not tell: how much it says is a setting.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::process::{Ports, Settings};

/// How long an answer is waited for. A server takes connections before it serves them; whether its process still runs is looked at in between.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a server is asked, and where.
#[derive(Clone, Copy)]
pub(super) enum Question {
    /// At the port for clients. etcd answers nothing there before it serves clients, so that any answer will do: a health of "false" with an alarm, too.
    Client(u16),
    /// At the port for metrics, which serves earlier: the health has to be good.
    Health(u16),
    /// At the port for clients with TLS. The answer is an alert.
    Tls(u16),
}

impl Question {
    pub(super) fn of(settings: &Settings, ports: &Ports) -> Self {
        match settings.tls {
            None => Self::Client(ports.client),
            Some(_) if settings.flags.iter().any(|flag| flag.starts_with("--listen-metrics-urls=")) => Self::Tls(ports.client),
            Some(_) => Self::Health(ports.health),
        }
    }

    /// On a thread of its own, since tokio's clock may be stopped.
    pub(super) async fn is_answered(self) -> bool {
        tokio::task::spawn_blocking(move || self.ask().unwrap_or(false)).await.unwrap_or(false)
    }

    fn ask(self) -> io::Result<bool> {
        let (port, request, expected): (_, &[u8], &[u8]) = match self {
            Self::Client(port) => (port, b"GET /health HTTP/1.0\r\n\r\n", b""),
            // An alarm for a full disk or a corrupt member does not keep a server from answering.
            Self::Health(port) => (port, b"GET /health?exclude=NOSPACE&exclude=CORRUPT HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 "),
            // The beginning of a handshake with nothing in it.
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
