//! Checks that a watch delivers every event once, and in the order of the revisions.

use crate::Result;

/// The size of every value that is written, in bytes.
pub(crate) const VALUE: usize = 256;

/// A count and a check of the events of one watch.
///
/// No other client writes to the server. So the revisions of the events have no gap, and each
/// revision has as many events as the request had keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    revision: u64,
    in_each: u64,
    left_in_this: u64,
    seen: u64,
}

impl Tally {
    /// Expects the revisions after this revision, with `in_each` events each.
    pub(crate) fn after(revision: u64, in_each: u64) -> Self {
        Self { revision, in_each, left_in_this: 0, seen: 0 }
    }

    pub(crate) fn see(&mut self, revision: u64, value: &[u8]) -> Result<()> {
        if self.left_in_this == 0 {
            self.revision += 1;
            self.left_in_this = self.in_each;
        }
        if revision != self.revision {
            return Err(format!("event {} is at revision {revision}, expected {}", self.seen + 1, self.revision).into());
        }
        if value.len() != VALUE {
            return Err(format!("event {} has a value of {} bytes, expected {VALUE}", self.seen + 1, value.len()).into());
        }
        self.left_in_this -= 1;
        self.seen += 1;
        Ok(())
    }

    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(in_each: u64, revisions: &[u64]) -> Option<u64> {
        let mut tally = Tally::after(4, in_each);
        revisions.iter().all(|revision| tally.see(*revision, &[0; VALUE]).is_ok()).then_some(tally.seen())
    }

    #[test]
    fn tally_counts_events_in_order() {
        assert_eq!(see(1, &[5, 6, 7]), Some(3));
        assert_eq!(see(2, &[5, 5, 6]), Some(3));
    }

    #[test]
    fn tally_refuses_gap_or_repeated_revision() {
        assert_eq!(see(1, &[5, 7]), None);
        assert_eq!(see(1, &[5, 5]), None);
        assert_eq!(see(2, &[5, 6]), None);
        assert_eq!(see(2, &[5, 5, 5]), None);
        assert_eq!(see(1, &[4]), None);
    }

    #[test]
    fn tally_refuses_wrong_value_size() {
        assert!(Tally::after(4, 1).see(5, b"short").is_err());
    }
}
