//! Checks of what clients reported. They are pure, so that `tests/checks.rs` can feed them the
//! reports of broken clients.

use std::collections::VecDeque;
use std::fmt;

/// A promise that was broken.
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
    /// A watch ended before the last change, or reported one that was never written.
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
    /// Whether values may have been skipped before it.
    pub resynced: bool,
    /// The value before it.
    pub old: Option<u64>,
    /// The value after it.
    pub new: Option<u64>,
}

/// Checks a watch of a counter. Each write adds one to the counter, so the number shows lost and
/// repeated changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// The last reported value. Zero stands for a counter that does not exist yet.
    pub last: u64,
    revision: u64,
    /// The number of reported changes.
    pub told: u64,
    /// The number of reported resyncs.
    pub resyncs: u64,
    may_resync: bool,
}

impl Counted {
    /// The watch begins when the counter has this value.
    #[must_use]
    pub fn from(value: u64) -> Self {
        Self { last: value, ..Self::default() }
    }

    /// Accepts resyncs that skip values, since history may be compacted.
    #[must_use]
    pub fn may_resync(self) -> Self {
        Self { may_resync: true, ..self }
    }

    /// The revision of the last reported change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Checks a reported change.
    ///
    /// # Errors
    ///
    /// The promise that the change breaks. In any case the next change is checked against this one.
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

/// Checks the two halves of a transaction, which always have the same number.
///
/// # Errors
///
/// If they were reported with different numbers.
pub fn whole(left: Option<u64>, right: Option<u64>) -> Result<(), Violation> {
    if left == right { Ok(()) } else { Err(Violation::Torn { left, right }) }
}

/// Checks the holders of one lock. They may be reported in any order, within the newest sixty-four.
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
    /// Records that a guard reported to be held at both times, which are from one clock for all
    /// holders. A guard may report this again later.
    ///
    /// # Errors
    ///
    /// If another guard was held at the same time, or one with a larger fence was held before.
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

/// Checks the writes under one lock: each holder reads the count and writes the next one, with its
/// fence.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fenced {
    fence: u64,
    /// The last reported count.
    pub count: u64,
}

impl Fenced {
    /// Records that a watch reported a write, after a resync or not.
    ///
    /// # Errors
    ///
    /// If a holder that had lost the lock wrote, or two holders wrote the same count.
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

/// Whether a former leader of this version, after a pause, revokes leases that expired by its own
/// clock although their holders renew them at the new leader (etcd issue 15247, fixed in 3.4.31 and
/// 3.5.13).
#[must_use]
pub fn has_faithless_leaders(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    let version = (number(), number(), number());
    version < (3, 4, 31) || ((3, 5, 0)..(3, 5, 13)).contains(&version)
}
