//! The side of the peer: `work PEER ADDRESS CASE …`. It connects and warms up, says `ready`, waits for a line, works, and prints its report in one line.
//! Then it waits for the end of its input, so that the server's counters are read before anything is torn down.
//!
//! A peer in another language does the same: `work ADDRESS CASE …`.

use std::io::{Read, Write, stdin, stdout};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::Result;
use crate::cases;
use crate::report::{Hold, Report};

/// Of every lease of every peer: far above what a trial takes, as it is in an application.
pub(crate) const TTL: Duration = Duration::from_secs(60);

pub(crate) async fn run(arguments: &[String]) -> Result<()> {
    let [peer, address, case, parameters @ ..] = arguments else {
        return Err("work PEER ADDRESS CASE …".into());
    };
    let report = cases::work(peer, address, case, parameters).await?;
    println!("{}", serde_json::to_string(&report)?);
    stdin().read_to_end(&mut Vec::new())?;
    Ok(())
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
        stdout().flush()?;
        // Blocks a thread while nothing is to do.
        if stdin().read_line(&mut String::new())? == 0 {
            return Err("nobody said to begin".into());
        }
        Ok(Self { began: Instant::now(), processor: processor_time() })
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn report(&self, holds: Vec<Hold>) -> Report {
        Report { processor: processor_time() - self.processor, holds }
    }
}

/// User and system time of all threads of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
