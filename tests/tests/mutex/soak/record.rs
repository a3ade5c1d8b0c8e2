//! The counts, the broken promises and the memory use of a soak test.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd_typed::{Error, ErrorKind};
use tokio::time::sleep;

/// Writes to standard error without the test harness, which would hide the output of a passing
/// test.
pub(crate) fn show(figures: fmt::Arguments<'_>) {
    let mut log = std::io::stderr();
    writeln!(log, "soak: {figures}").unwrap();
}

/// The counts and the broken promises of a run.
#[derive(Debug, Default)]
pub(crate) struct Record {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    violations: Mutex<Vec<String>>,
    /// Periods in which a server may have ended leases that it had confirmed, in times of
    /// [`Record::now`].
    faithless: Mutex<Vec<(u64, u64)>>,
    began: Began,
}

#[derive(Debug)]
struct Began(Instant);

impl Default for Began {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Record {
    pub(crate) fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    pub(crate) fn get(&self, what: &'static str) -> u64 {
        self.counts.lock().unwrap().get(what).copied().unwrap_or_default()
    }

    /// Records a violation. Keeps only the first fifty.
    pub(crate) fn violation(&self, what: String) {
        self.count("violations");
        let mut violations = self.violations.lock().unwrap();
        if violations.len() < 50 {
            violations.push(what);
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    /// Counts an error. Records a violation if the faults do not explain the error.
    pub(crate) fn error(&self, what: &'static str, error: &Error) {
        self.count("errors");
        let explained =
            error.is_retryable() || error.may_have_applied() || matches!(error.kind(), ErrorKind::GuardLost | ErrorKind::Conflict);
        if !explained {
            self.violation(format!("{what}: {:?}: {error}", error.kind()));
        }
    }

    /// Returns the nanoseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.0.elapsed().as_nanos()).unwrap()
    }

    pub(crate) fn faithless(&self, from: u64, until: u64) {
        self.faithless.lock().unwrap().push((from, until));
    }

    pub(crate) fn is_faithless(&self, at: u64) -> bool {
        self.faithless.lock().unwrap().iter().any(|(from, until)| (from..until).contains(&&at))
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts.lock().unwrap();
        let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(&counts.join(", "))
    }
}

/// The memory use of this process over time, in bytes. The process contains only the clients and
/// the proxies.
#[derive(Debug)]
pub(crate) struct Memory {
    samples: Vec<u64>,
    time: Duration,
}

impl Memory {
    /// Takes a hundred samples, and prints the counts ten times.
    pub(crate) async fn measure(record: Arc<Record>, time: Duration) -> Self {
        let mut samples = Vec::new();
        let (began, pause) = (Instant::now(), time.div_f64(100.0));
        while began.elapsed() < time {
            sleep(pause).await;
            samples.push(resident());
            if samples.len() % 10 == 0 {
                show(format_args!("{:.0?}: {} kB, {record}", began.elapsed(), samples.last().unwrap() / 1024));
            }
        }
        Self { samples, time }
    }

    fn mean(samples: &[u64]) -> u64 {
        samples.iter().sum::<u64>() / samples.len().max(1) as u64
    }

    /// Returns the mean of each quarter of the run.
    fn quarters(&self) -> Vec<u64> {
        self.samples.chunks(self.samples.len().div_ceil(4).max(1)).map(Self::mean).collect()
    }

    pub(crate) fn show(&self) {
        let quarters: Vec<String> = self.quarters().iter().map(|bytes| format!("{} kB", bytes / 1024)).collect();
        show(format_args!("memory, the means of four quarters: {}", quarters.join(", ")));
    }

    /// Returns true if the memory use is flat: from the second to the last quarter it may grow by 3
    /// MB, which the allocator's pools take. The first quarter is warm-up. A run of less than five
    /// minutes is all warm-up.
    pub(crate) fn is_flat(&self) -> bool {
        match self.quarters()[..] {
            [_, second, .., last] if self.time >= Duration::from_secs(300) => last < second + 3 * 1024 * 1024,
            _ => true,
        }
    }
}

/// Returns the resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
