//! What contenders say: one event after the other, with times of a clock that all processes of a machine read alike.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};

/// What a process of contenders is told when it is started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// Its number; no other process of a campaign has the same.
    pub(crate) process: usize,
    /// The store.
    pub(crate) address: String,
    /// The file for its events.
    pub(crate) log: String,
    pub(crate) seed: u64,
    /// How many contend for each lock.
    pub(crate) tasks: usize,
    /// The locks, with their times to live.
    pub(crate) locks: BTreeMap<String, Duration>,
    pub(crate) creed: Creed,
}

/// How contenders do it. Most are defects that the checker must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Creed {
    /// The library's locks, and writes that are guarded by them.
    Sound,
    /// The library's locks, where there are no guarded writes.
    Unwritten,
    /// The library's locks, and writes that trust in having the lock.
    Unguarded,
    /// A lock is held as long as no keep-alive was refused.
    Trusting,
    /// A lease is trusted for a second longer than the server confirmed it.
    Overlong,
    /// Whoever was before us is gone, so the lock is ours.
    Hasty,
    /// Who was before us is gone, and nobody told us to go on.
    Forgetful,
    /// No defect: the library's locks, and whoever has one keeps it.
    Keeping,
}

/// Something that happened to a contender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// It got a lock, after so long.
    Granted { lock: String, fence: u64, waited: Duration },
    /// It stopped waiting for one.
    Left { why: String },
    /// `is_held()` was true at both times, and so between them. A later event of the same fence may say more.
    Held { lock: String, fence: u64, from: u64, until: u64 },
    /// It lost a lock while it had it.
    Lost { why: String },
    /// A waiter lost its place.
    PlaceLost,
    /// It wrote, or tried to.
    Wrote { lock: String, mark: Mark, late: bool, outcome: Outcome },
    /// It has done what it was to do.
    Done,
}

/// What is written under a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// By which process.
    pub(crate) process: usize,
    pub(crate) fence: u64,
    /// What was read under the lock, and one more. Zero for what counts nothing.
    pub(crate) count: u64,
    /// No other write has it.
    pub(crate) nonce: u64,
}

/// What became of a write, as its writer was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// At this revision.
    Committed(u64),
    /// Not written, and never will be.
    Refused(String),
    Unknown,
}

/// Where events go, and what time it is.
pub(crate) struct Log {
    sink: Mutex<Box<dyn Write + Send>>,
    clock: fn() -> u64,
}

impl Log {
    /// Each event is written by itself, so that a process that is killed has said what it did. The clock counts nanoseconds.
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

/// In nanoseconds. The same for all processes of the machine, and goes on while one of them is stopped.
pub(crate) fn machine_time() -> u64 {
    let read = clock_gettime(ClockId::Boottime);
    nanoseconds(Duration::new(read.tv_sec.unsigned_abs(), u32::try_from(read.tv_nsec).unwrap()))
}

pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

/// Hears from the library of places that waiters lost.
pub(crate) struct Places(pub(crate) Arc<Log>);

impl Subscriber for Places {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "etcd_typed::turn" && *metadata.level() == Level::WARN
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
