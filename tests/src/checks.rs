//! Checks of what clients saw. They are pure, so that tests can feed them what broken clients see (`tests/checks.rs`).

use std::collections::VecDeque;
use std::fmt;

/// A promise that was broken.
#[allow(missing_docs, reason = "the variants say what the numbers are")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A watch told a change after one of the same or a later revision.
    OutOfOrder { revision: u64, after: u64 },
    /// A watch told a change again.
    Doubled { value: u64, after: u64 },
    /// A watch did not tell the changes in between.
    Lost { value: u64, after: u64 },
    /// A watch told a part of a transaction.
    Torn { left: Option<u64>, right: Option<u64> },
    /// A watch told another value as the one before than it told before.
    WrongOld { old: Option<u64>, after: u64 },
    /// A watch told a resync though history was kept.
    Resynced { after: u64 },
    /// A watch ended before the last change, or told one that was never written.
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

/// A change of a counter, as a watch told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its revision.
    pub revision: u64,
    /// Whether values may have been skipped before it.
    pub resynced: bool,
    /// The value before it.
    pub old: Option<u64>,
    /// The value after it.
    pub new: Option<u64>,
}

/// Checks a watch of a counter. Each write of the counter adds one, so that a lost or a doubled change shows by its number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// The value told last. Zero stands for a counter that does not exist yet.
    pub last: u64,
    revision: u64,
    /// How many changes were told.
    pub told: u64,
    /// How many resyncs were told.
    pub resyncs: u64,
    may_resync: bool,
}

impl Counted {
    /// The watch begins when the counter has this value.
    #[must_use]
    pub fn from(value: u64) -> Self {
        Self { last: value, ..Self::default() }
    }

    /// History may be compacted, so that a resync may skip values.
    #[must_use]
    pub fn may_resync(self) -> Self {
        Self { may_resync: true, ..self }
    }

    /// The revision of the change told last.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// # Errors
    ///
    /// What the change breaks. The next change is checked against this one either way.
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

    /// # Errors
    ///
    /// If the last change that was told is not the last one that was written.
    pub fn end(&self, written: u64) -> Result<(), Violation> {
        if self.last == written { Ok(()) } else { Err(Violation::WrongEnd { value: self.last, written }) }
    }
}

/// # Errors
///
/// If the two halves of a transaction, which always have the same number, are told with different ones.
pub fn whole(left: Option<u64>, right: Option<u64>) -> Result<(), Violation> {
    if left == right { Ok(()) } else { Err(Violation::Torn { left, right }) }
}

/// Checks the holders of one lock. They may be told in any order, within the newest sixty-four.
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
    /// A guard said that it was held at both times, which are those of one clock for all holders. A guard may say so again later.
    ///
    /// # Errors
    ///
    /// If another one was held at the same time, or one with a larger fence before.
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

/// Checks what is written under one lock: each holder reads the count and writes one more, with its fence.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fenced {
    fence: u64,
    /// The count that was told last.
    pub count: u64,
}

impl Fenced {
    /// A watch told a write, after a resync or not.
    ///
    /// # Errors
    ///
    /// If a holder that had lost the lock wrote, or two counted the same.
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

/// Whether a leader of this version that was stopped, and is none any more, ends the leases whose time it saw pass (etcd issue 15247, mended in 3.4.31 and
/// 3.5.13), though their holders keep them alive elsewhere.
#[must_use]
pub fn has_faithless_leaders(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    let version = (number(), number(), number());
    version < (3, 4, 31) || ((3, 5, 0)..(3, 5, 13)).contains(&version)
}
