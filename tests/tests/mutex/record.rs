//! The reports of contenders: a sequence of events, with the times of a clock that all processes of
//! a machine share.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};

/// The instructions for a process of contenders.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// The number of the process, unique in a campaign.
    pub(crate) process: usize,
    /// The address of the store.
    pub(crate) address: String,
    /// The file for the events of the process.
    pub(crate) log: String,
    pub(crate) seed: u64,
    /// The number of tasks for each lock.
    pub(crate) tasks: usize,
    /// The locks and their times to live.
    pub(crate) locks: BTreeMap<String, Duration>,
    pub(crate) behaviour: Behaviour,
}

/// How contenders use locks. Most behaviours are defects that the checker must detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Behaviour {
    /// Contenders use the library's locks, and guard their writes with them.
    Correct,
    /// Contenders use the library's locks, and write nothing, because the store has no guarded
    /// writes.
    LockOnly,
    /// Defect: contenders use the library's locks, but write without a guard.
    Unguarded,
    /// Defect: the holder trusts the lease until a keep-alive is refused.
    TrustsKeepAlive,
    /// Defect: the holder trusts a lease one second longer than the server confirmed.
    TrustsTooLong,
    /// Defect: when its predecessor is gone, the waiter takes the lock without another check.
    SkipsCheck,
    /// Defect: the waiter never continues after its predecessor is gone.
    NeverContinues,
    /// No defect: contenders acquire the library's locks and never release them.
    KeepsLock,
}

/// An event of a contender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The contender acquired a lock after waiting this long.
    Granted { lock: String, fence: u64, waited: Duration },
    /// The contender stopped waiting for a lock.
    Left { why: String },
    /// `is_held()` was true from `from` until `until`. A later event with the same fence may extend
    /// the period.
    Held { lock: String, fence: u64, from: u64, until: u64 },
    /// The contender lost a lock that it held.
    Lost { why: String },
    /// A waiter lost its key in the queue.
    PlaceLost,
    /// The contender wrote, or tried to write.
    Wrote { lock: String, mark: Mark, late: bool, outcome: Outcome },
    /// The contender has finished.
    Done,
}

/// The value that is written under a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The process that wrote the value.
    pub(crate) process: usize,
    pub(crate) fence: u64,
    /// The count that was read under the lock, plus one. Zero if the write counts nothing.
    pub(crate) count: u64,
    /// A number that no other write has.
    pub(crate) nonce: u64,
}

/// The outcome of a write, as the writer knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The write was committed at this revision.
    Committed(u64),
    /// The value was not written, and will not be.
    Refused(String),
    Unknown,
}

/// The sink to which events are written, and the clock for their times.
pub(crate) struct Log {
    sink: Mutex<Box<dyn Write + Send>>,
    clock: fn() -> u64,
}

impl Log {
    /// Creates a log. Each event is written to the sink at once, so that the reports of a killed
    /// process are complete up to the kill. The clock counts nanoseconds.
    pub(crate) fn new(sink: impl Write + Send + 'static, clock: fn() -> u64) -> Self {
        Self { sink: Mutex::new(Box::new(sink)), clock }
    }

    pub(crate) fn say(&self, event: &Event) {
        let mut line = serde_json::to_vec(event).unwrap();
        line.push(b'\n');
        self.sink.lock().unwrap().write_all(&line).unwrap();
    }

    pub(crate) fn now(&self) -> u64 {
        (self.clock)()
    }
}

/// Returns the time in nanoseconds. All processes of the machine share this clock, and it continues
/// while a process is stopped.
pub(crate) fn machine_time() -> u64 {
    let read = clock_gettime(ClockId::Boottime);
    nanoseconds(Duration::new(read.tv_sec.unsigned_abs(), u32::try_from(read.tv_nsec).unwrap()))
}

pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

/// Receives the library's log events about waiters that lost their key in the queue.
pub(crate) struct Places(pub(crate) Arc<Log>);

impl Subscriber for Places {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "etcd_typed::queue" && *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.say(&Event::PlaceLost);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
