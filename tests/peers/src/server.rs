//! The servers, and their counters from `/metrics`.

use etcd_typed::testing::Etcd;
use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;
use crate::cases::Server;

/// Starts this number of servers at the same time, and writes the case's data to each.
pub(crate) async fn start(count: usize, wanted: &Server) -> Result<Vec<Etcd>> {
    let starting = |_| async {
        let builder = Etcd::builder().quick_election();
        let started = builder.v2(wanted.v2).start().await;
        if let Some(prepare) = &wanted.prepare {
            prepare(started.endpoint()).await?;
        }
        Ok(started)
    };
    try_join_all((0..count).map(starting)).await
}

/// The counters at one moment, or their difference between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    /// The server's CPU time, in steps of 10 ms.
    pub(crate) processor_seconds: f64,
    /// The server's memory, in MiB.
    pub(crate) memory: f64,
    /// The messages from clients: one for each request, and each message on a stream.
    pub(crate) messages: f64,
    /// The number of keys written.
    pub(crate) puts: f64,
    /// The number of keys deleted.
    pub(crate) deletes: f64,
    /// The number of range reads.
    pub(crate) ranges: f64,
}

impl Counters {
    pub(crate) async fn read(address: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        // With HTTP/1.0 the answer ends with the connection and is not chunked.
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
            memory: sum("process_resident_memory_bytes")? / f64::from(1 << 20),
            // This counter of the v2 keys API exists only after the first request.
            messages: sum("grpc_server_msg_received_total")? + sum("etcd_http_received_total").unwrap_or(0.0),
            puts: sum("etcd_mvcc_put_total")?,
            deletes: sum("etcd_mvcc_delete_total")?,
            ranges: sum("etcd_mvcc_range_total")?,
        })
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            processor_seconds: self.processor_seconds - before.processor_seconds,
            memory: self.memory - before.memory,
            messages: self.messages - before.messages,
            puts: self.puts - before.puts,
            deletes: self.deletes - before.deletes,
            ranges: self.ranges - before.ranges,
        }
    }
}
