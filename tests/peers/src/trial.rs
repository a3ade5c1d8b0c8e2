//! One peer does the work of one case once: a process of its own, on a server of its own.

use std::process::Stdio;
use std::time::Duration;

use etcd_typed::testing::Etcd;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::Result;
use crate::cases::Case;
use crate::peers::Peer;
use crate::report::Report;
use crate::server::Counters;

/// A peer that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// What a trial showed.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// One for each of the case's columns.
    pub(crate) figures: Vec<f64>,
    /// Microseconds of processor time of the peer's process for one operation.
    pub(crate) client: f64,
    /// The same of the server's.
    pub(crate) server: f64,
    /// Messages to the server for one operation.
    pub(crate) messages: f64,
}

pub(crate) async fn run(peer: &Peer, case: &Case) -> Result<Outcome> {
    let etcd = Etcd::start().await;
    let address = etcd.endpoint();
    let (report, counted) = timeout(LIMIT, supervise(peer, case, &address)).await.map_err(|_| format!("no end within {LIMIT:?}"))??;
    let measured = (case.evaluate)(&report)?;
    let holds = report.holds.len() as f64;
    // The server has seen what is reported, neither more nor less.
    if counted.puts != holds || counted.deletes != holds {
        let Counters { puts, deletes, .. } = counted;
        return Err(format!("it had it {holds} times, with {puts} keys written and {deletes} deleted").into());
    }
    Ok(Outcome {
        figures: measured.figures,
        client: report.processor.as_secs_f64() * 1e6 / measured.operations,
        server: counted.processor_seconds * 1e6 / measured.operations,
        messages: counted.messages / measured.operations,
    })
}

/// Starts the process, lets it warm up, and reads the server's counters around its work.
async fn supervise(peer: &Peer, case: &Case, address: &str) -> Result<(Report, Counters)> {
    let mut process = Command::new(&peer.program)
        .args(&peer.arguments)
        .arg(address)
        .args(&case.work)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
        return Err("a process without pipes".into());
    };
    let mut lines = BufReader::new(output).lines();
    match lines.next_line().await? {
        Some(line) if line == "ready" => {}
        other => return Err(format!("it is not ready, but says {other:?}").into()),
    }
    let before = Counters::read(address).await?;
    input.write_all(b"go\n").await?;
    let report = lines.next_line().await?.ok_or("it ended without a report")?;
    let counted = Counters::read(address).await?.since(&before);
    drop(input);
    let status = process.wait().await?;
    if !status.success() {
        return Err(format!("it ended with {status}").into());
    }
    Ok((serde_json::from_str(&report)?, counted))
}
