//! Checks of the changes and holders that clients reported. The checks do no I/O, so that
//! `tests/tests/without_server/checks.rs` can apply them to the reports of broken clients.

use std::collections::VecDeque;
use std::fmt;

/// A promise of this library that a report breaks.
#[allow(missing_docs, reason = "the variants say what the numbers are")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A watch reported a change after one with the same or a later revision.
    OutOfOrder { revision: u64, after: u64 },
    /// A watch reported a change twice.
    Doubled { value: u64, after: u64 },
    /// A watch skipped changes.
    Lost { value: u64, after: u64 },
    /// A watch reported only a part of a transaction.
    Torn { left: Option<u64>, right: Option<u64> },
    /// The previous value in a change differs from the value of the change before.
    WrongOld { old: Option<u64>, after: u64 },
    /// A watch reported a resync although history was kept.
    Resynced { after: u64 },
    /// The last value that a watch reported is not the last value that was written.
    WrongEnd { value: u64, written: u64 },
    /// Two guards of one lock were held at the same time.
    HeldTwice { fences: [u64; 2], from: u64, until: u64 },
    /// A later holder or a later write has a smaller fence.
    FenceWentBack { fence: u64, after: u64 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A change of a counter, as a watch reported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The revision of the change.
    pub revision: u64,
    /// Whether the watch may have skipped values before this change.
    pub resynced: bool,
    /// The value before the change.
    pub old: Option<u64>,
    /// The value after the change.
    pub new: Option<u64>,
}

/// Checks what a watch of a counter reports. Each write adds one to the counter, so the reported
/// values reveal lost and repeated changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// The last reported value. Zero if the counter does not exist yet.
    pub last: u64,
    revision: u64,
    /// The number of reported changes.
    pub told: u64,
    /// The number of reported resyncs.
    pub resyncs: u64,
    may_resync: bool,
}

impl Counted {
    /// Creates a check for a watch that begins when the counter has this value.
    #[must_use]
    pub fn from(value: u64) -> Self {
        Self { last: value, ..Self::default() }
    }

    /// Accepts resyncs that skip values, since history may be compacted.
    #[must_use]
    pub fn may_resync(self) -> Self {
        Self { may_resync: true, ..self }
    }

    /// Returns the revision of the last reported change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Checks a reported change.
    ///
    /// # Errors
    ///
    /// Returns the promise that the change breaks. Even then, the next change is checked against
    /// this change.
    pub fn tell(&mut self, told: Told) -> Result<(), Violation> {
        let Self { last, revision, .. } = *self;
        let value = told.new.unwrap_or(0);
        (self.last, self.revision) = (value, told.revision);
        self.told += 1;
        if told.resynced {
            self.resyncs += 1;
        }
        if told.resynced && !self.may_resync {
            return Err(Violation::Resynced { after: last });
        }
        if value <= last {
            return Err(Violation::Doubled { value, after: last });
        }
        if told.revision <= revision {
            return Err(Violation::OutOfOrder { revision: told.revision, after: revision });
        }
        if value != last + 1 && !told.resynced {
            return Err(Violation::Lost { value, after: last });
        }
        if told.old.unwrap_or(0) != last {
            return Err(Violation::WrongOld { old: told.old, after: last });
        }
        Ok(())
    }

    /// Checks the end of a watch.
    ///
    /// # Errors
    ///
    /// If the last reported change is not the last written one.
    pub fn end(&self, written: u64) -> Result<(), Violation> {
        if self.last == written { Ok(()) } else { Err(Violation::WrongEnd { value: self.last, written }) }
    }
}

/// Checks that a watch reported both halves of a transaction. Each transaction writes the same
/// number to both.
///
/// # Errors
///
/// If the reported numbers differ.
pub fn whole(left: Option<u64>, right: Option<u64>) -> Result<(), Violation> {
    if left == right { Ok(()) } else { Err(Violation::Torn { left, right }) }
}

/// A check that a lock has one holder at a time. Holders may be reported in any order: each is
/// compared with the 64 holders that were reported last.
#[derive(Clone, Debug, Default)]
pub struct Tenures {
    newest: VecDeque<Tenure>,
}

#[derive(Clone, Copy, Debug)]
struct Tenure {
    fence: u64,
    from: u64,
    until: u64,
}

impl Tenures {
    /// Records that a guard was held at `from` and at `until`. All holders read these times from
    /// the same clock. The same guard may be reported again later.
    ///
    /// # Errors
    ///
    /// If another guard was held at the same time, or a guard with a larger fence was held earlier.
    pub fn held(&mut self, fence: u64, from: u64, until: u64) -> Result<(), Violation> {
        let mut tenure = Tenure { fence, from, until };
        if let Some(known) = self.newest.iter().position(|known| known.fence == fence).and_then(|index| self.newest.remove(index)) {
            tenure = Tenure { fence, from: from.min(known.from), until: until.max(known.until) };
        }
        let verdict = self.newest.iter().try_for_each(|other| other.agrees(&tenure));
        self.newest.push_back(tenure);
        if self.newest.len() > 64 {
            self.newest.pop_front();
        }
        verdict
    }
}

impl Tenure {
    fn agrees(&self, other: &Self) -> Result<(), Violation> {
        let (first, second) = if self.fence < other.fence { (self, other) } else { (other, self) };
        if second.until <= first.from {
            return Err(Violation::FenceWentBack { fence: first.fence, after: second.fence });
        }
        if second.from < first.until {
            let (from, until) = (first.from.max(second.from), first.until.min(second.until));
            return Err(Violation::HeldTwice { fences: [first.fence, second.fence], from, until });
        }
        Ok(())
    }
}

/// A check of the writes under one lock. Each holder reads the count, adds one, and writes the sum
/// together with the holder's fence.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fenced {
    fence: u64,
    /// The last reported count.
    pub count: u64,
}

impl Fenced {
    /// Records a write that a watch reported. After a resync, counts may have been skipped.
    ///
    /// # Errors
    ///
    /// If a holder wrote after it had lost the lock, two holders wrote the same count, or a count
    /// is missing.
    pub fn wrote(&mut self, fence: u64, count: u64, resynced: bool) -> Result<(), Violation> {
        let before = *self;
        *self = Self { fence, count };
        if fence < before.fence {
            return Err(Violation::FenceWentBack { fence, after: before.fence });
        }
        if count <= before.count {
            return Err(Violation::Doubled { value: count, after: before.count });
        }
        if count != before.count + 1 && !resynced {
            return Err(Violation::Lost { value: count, after: before.count });
        }
        Ok(())
    }
}

/// Returns true if this version of etcd can revoke leases that are still renewed. There, a former
/// leader that was paused revokes leases that expired by its own clock. It does so although their
/// holders renew the leases at the new leader (etcd issue 15247, fixed in 3.4.31 and 3.5.13).
#[must_use]
pub fn has_faithless_leaders(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    let version = (number(), number(), number());
    version < (3, 4, 31) || ((3, 5, 0)..(3, 5, 13)).contains(&version)
}
