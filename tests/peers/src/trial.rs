//! A trial: one peer does the work of one case once, in its own process.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use etcd_typed::testing::Etcd;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::Result;
use crate::cases::{Case, Observed};
use crate::server::Counters;

/// The longest time that a trial may take. A peer that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs `program` as this peer. Returns the figures of each stage, in the order of its columns.
pub(crate) async fn run(program: &Path, peer: &str, case: &Case, etcd: &Etcd) -> Result<Vec<Vec<f64>>> {
    timeout(LIMIT, supervise(program, peer, case, &etcd.endpoint())).await.map_err(|_| format!("the peer did not end within {LIMIT:?}"))?
}

/// Starts the process, lets it warm up, and reads the server's counters around each stage of its
/// work.
async fn supervise(program: &Path, peer: &str, case: &Case, address: &str) -> Result<Vec<Vec<f64>>> {
    let mut process = Command::new(program)
        .args(["work", peer, address])
        .args(&case.work)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut input), Some(output), Some(id)) = (process.stdin.take(), process.stdout.take(), process.id()) else {
        return Err("the process has no pipes".into());
    };
    let mut lines = BufReader::new(output).lines();
    let mut outcomes = Vec::new();
    for stage in &case.stages {
        match lines.next_line().await? {
            Some(line) if line == "ready" => {}
            other => return Err(format!("expected `ready` from the peer, got {other:?}").into()),
        }
        let before = Counters::read(address).await?;
        forget_peak_memory(id)?;
        let memory_before = peak_memory(id)?;
        input.write_all(b"go\n").await?;
        let meanwhile = async {
            match &stage.meanwhile {
                Some(meanwhile) => meanwhile(address.to_owned()).await,
                None => Ok(()),
            }
        };
        let reported = async { Ok(lines.next_line().await?.ok_or("the peer ended without a report")?) };
        let ((), report) = tokio::try_join!(meanwhile, reported)?;
        let peak_memory = peak_memory(id)?;
        let observed = Observed {
            counted: Counters::read(address).await?.since(&before),
            peak_memory,
            memory_growth: peak_memory - memory_before,
            report: serde_json::from_str(&report)?,
        };
        let measured = (stage.evaluate)(&observed).map_err(|error| format!("{}: {error}", stage.table.title))?;
        outcomes.push(observed.outcome(measured));
        input.write_all(b"counted\n").await?;
    }
    let status = process.wait().await?;
    if !status.success() {
        return Err(format!("the peer ended with {status}").into());
    }
    Ok(outcomes)
}

/// Resets the peak memory of the process.
fn forget_peak_memory(process: u32) -> Result<()> {
    // See proc(5): writing 5 sets the peak to the current memory.
    Ok(fs::write(format!("/proc/{process}/clear_refs"), "5")?)
}

/// Returns the peak memory of the process, in MiB.
fn peak_memory(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")?.trim().parse::<f64>().ok());
    Ok(kibibytes.ok_or("the process has no VmHWM in /proc")? / 1024.0)
}
