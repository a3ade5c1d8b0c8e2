//! The side of the peer: `work PEER ADDRESS CASE …`. It connects and warms up, says `ready`, waits for a line, works, and prints its report in one line.
//! Then it waits for another line, so that the server's counters are read before anything else is done; and so on for each stage of the case.
//!
//! A peer in another language does the same.

use std::io::{Write, stdin, stdout};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::cases;

/// Of every lease of every peer: far above what a trial takes, as it is in an application.
pub(crate) const TTL: Duration = Duration::from_secs(60);

pub(crate) async fn run(arguments: &[String]) -> Result<()> {
    let [peer, address, case, parameters @ ..] = arguments else {
        return Err("work PEER ADDRESS CASE …".into());
    };
    cases::work(peer, address, case, parameters).await
}

/// What a peer says of one stage.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    /// From the word to begin to the end of the work.
    #[serde(with = "nanoseconds")]
    pub(crate) elapsed: Duration,
    /// Processor time of the peer's process in it.
    #[serde(with = "nanoseconds")]
    pub(crate) processor: Duration,
    /// In the case's own form.
    pub(crate) found: serde_json::Value,
}

/// Time, and processor time of this process, since the word to begin.
#[derive(Clone, Copy)]
pub(crate) struct Meter {
    began: Instant,
    processor: Duration,
}

impl Meter {
    /// To be called when everything is warm. It waits for the word to begin.
    pub(crate) fn ready() -> Result<Self> {
        println!("ready");
        wait_for_a_line()?;
        Ok(Self { began: Instant::now(), processor: processor_time() })
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// To be called when the work is done, to say how it went.
    pub(crate) fn report(&self, found: impl FnOnce() -> Result<serde_json::Value>) -> Result<()> {
        let (elapsed, processor) = (self.elapsed(), processor_time() - self.processor);
        println!("{}", serde_json::to_string(&Report { elapsed, processor, found: found()? })?);
        wait_for_a_line()
    }
}

/// Blocks a thread, while nothing is to do.
fn wait_for_a_line() -> Result<()> {
    stdout().flush()?;
    if stdin().read_line(&mut String::new())? == 0 {
        return Err("nobody is there who would say to go on".into());
    }
    Ok(())
}

/// User and system time of all threads of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// How times are written in reports.
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
