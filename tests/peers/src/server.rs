//! What the server says of itself: its counters, from `/metrics`.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;

/// The counters at one moment, or between two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    /// Processor time of the server, in steps of 10 ms.
    pub(crate) processor_seconds: f64,
    /// Messages from clients: one for each request, and each one on a stream.
    pub(crate) messages: f64,
    /// Keys that were written.
    pub(crate) puts: f64,
    /// Keys that were deleted.
    pub(crate) deletes: f64,
}

impl Counters {
    pub(crate) async fn read(address: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        // HTTP/1.0: the answer then ends with the connection, and is in one piece.
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let sum = |name: &str| {
            let named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
            let values = answer.lines().filter(named).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            let values: Vec<f64> = values.collect();
            if values.is_empty() { Err(format!("the server has no counter {name}")) } else { Ok(values.into_iter().sum::<f64>()) }
        };
        Ok(Self {
            processor_seconds: sum("process_cpu_seconds_total")?,
            messages: sum("grpc_server_msg_received_total")?,
            puts: sum("etcd_mvcc_put_total")?,
            deletes: sum("etcd_mvcc_delete_total")?,
        })
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            processor_seconds: self.processor_seconds - before.processor_seconds,
            messages: self.messages - before.messages,
            puts: self.puts - before.puts,
            deletes: self.deletes - before.deletes,
        }
    }
}
