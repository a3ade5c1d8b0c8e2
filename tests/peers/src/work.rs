//! The protocol of a peer, which is started with `work PEER ADDRESS CASE …`.
//!
//! The peer connects, warms up, prints `ready` and waits for a line, the start signal. Then it
//! works and prints its report in one line. It waits for another line, so that the server's
//! counters are read before it does anything else. It repeats this for each stage of the case.
//!
//! A peer in another language follows the same protocol.

use std::io::{Write, stdin, stdout};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::cases;

/// The time to live of every lease. It is far longer than a trial, as in an application.
pub(crate) const TTL: Duration = Duration::from_secs(60);

pub(crate) async fn run(arguments: &[String]) -> Result<()> {
    let [peer, address, case, parameters @ ..] = arguments else {
        return Err("usage: work PEER ADDRESS CASE …".into());
    };
    cases::work(peer, address, case, parameters).await
}

/// The report of a peer about one stage.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    /// The time from the start signal to the end of the work.
    #[serde(with = "nanoseconds")]
    pub(crate) elapsed: Duration,
    /// The CPU time of the peer's process during that time.
    #[serde(with = "nanoseconds")]
    pub(crate) processor: Duration,
    /// The result, in the form that the case defines.
    pub(crate) found: serde_json::Value,
}

/// A measurement of the time and the CPU time of this process since the start signal.
#[derive(Clone, Copy)]
pub(crate) struct Meter {
    began: Instant,
    processor: Duration,
}

impl Meter {
    /// Reports that the warm-up is done, and waits for the start signal.
    pub(crate) fn ready() -> Result<Self> {
        println!("ready");
        wait_for_a_line()?;
        Ok(Self { began: Instant::now(), processor: processor_time() })
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Prints the report. Call it when the work is done.
    pub(crate) fn report(&self, found: impl FnOnce() -> Result<serde_json::Value>) -> Result<()> {
        let (elapsed, processor) = (self.elapsed(), processor_time() - self.processor);
        println!("{}", serde_json::to_string(&Report { elapsed, processor, found: found()? })?);
        wait_for_a_line()
    }
}

/// Waits for a line on standard input. This blocks the thread, which has nothing else to do.
fn wait_for_a_line() -> Result<()> {
    stdout().flush()?;
    if stdin().read_line(&mut String::new())? == 0 {
        return Err("standard input was closed before the next signal".into());
    }
    Ok(())
}

/// Returns the user and system time of all threads of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Serializes times in reports as nanoseconds.
pub(crate) mod nanoseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(duration.as_nanos()).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_nanos)
    }
}
