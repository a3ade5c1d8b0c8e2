//! The reports of the lock and election cases: when each contender held the lock or led. The
//! evaluation fails if two contenders held the lock at the same time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Observed;
use crate::Result;
use crate::work::nanoseconds;

/// A time during which one contender held the lock or led. Times are relative to the start signal.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Hold {
    pub(super) who: usize,
    /// Measured after the acquisition returned.
    #[serde(with = "nanoseconds")]
    pub(super) from: Duration,
    /// Measured before the release was called.
    #[serde(with = "nanoseconds")]
    pub(super) until: Duration,
}

/// A hand-over from one contender to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HandOver {
    /// When the other contender got the lock or the leadership.
    pub(super) at: Duration,
    /// The time from the first contender's call of the release until `at`.
    pub(super) took: Duration,
}

/// Returns the hand-overs of a report.
///
/// Fails unless the server has written and deleted exactly one key for each reported hold.
pub(super) fn reported(observed: &Observed) -> Result<Vec<HandOver>> {
    let holds: Vec<Hold> = observed.found()?;
    let (puts, deletes) = (observed.counted.puts, observed.counted.deletes);
    if puts != holds.len() as f64 || deletes != holds.len() as f64 {
        return Err(format!("{} holds were reported, but {puts} keys written and {deletes} deleted", holds.len()).into());
    }
    hand_overs(holds)
}

/// Returns the hand-overs in the order in which they happened. If one contender holds the lock
/// twice in a row, that is no hand-over.
///
/// Fails if two contenders held the lock at the same time.
fn hand_overs(mut holds: Vec<Hold>) -> Result<Vec<HandOver>> {
    holds.sort_by_key(|hold| (hold.from, hold.until));
    let mut found = Vec::new();
    for pair in holds.windows(2) {
        let [before, after] = pair else { continue };
        let Some(took) = after.from.checked_sub(before.until) else {
            return Err(format!("two contenders held it at the same time: {before:?} and {after:?}").into());
        };
        if after.who != before.who {
            found.push(HandOver { at: after.from, took });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(holds: &[(usize, u64, u64)]) -> Result<Vec<HandOver>> {
        let hold = |(who, from, until): &(usize, u64, u64)| Hold {
            who: *who,
            from: Duration::from_nanos(*from),
            until: Duration::from_nanos(*until),
        };
        hand_overs(holds.iter().map(hold).collect())
    }

    #[test]
    fn hand_over_needs_two_contenders() {
        let found = found(&[(1, 30, 40), (0, 0, 10), (0, 12, 20), (1, 41, 50)]).ok();
        assert_eq!(found, Some(vec![HandOver { at: Duration::from_nanos(30), took: Duration::from_nanos(10) }]));
    }

    #[test]
    fn simultaneous_holders_are_reported() {
        assert!(found(&[(0, 0, 10), (1, 9, 20)]).is_err());
        assert!(found(&[(0, 0, 100), (1, 20, 30)]).is_err());
        assert!(found(&[(0, 0, 10), (1, 10, 20)]).is_ok());
    }
}
