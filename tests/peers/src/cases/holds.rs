//! What a peer reports where only one can have a thing at a time, a lock or the first place of an election; and the check that it was so.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Observed;
use crate::Result;
use crate::work::nanoseconds;

/// That somebody had it. Times are since the word to begin.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Hold {
    pub(super) who: usize,
    /// Taken after it was told that it has it.
    #[serde(with = "nanoseconds")]
    pub(super) from: Duration,
    /// Taken before it began to give it back.
    #[serde(with = "nanoseconds")]
    pub(super) until: Duration,
}

/// From one to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HandOver {
    /// When the other had it.
    pub(super) at: Duration,
    /// Since the one began to give it back.
    pub(super) took: Duration,
}

/// The hand-overs of a report.
///
/// Fails if the server has not seen what is reported, neither more nor less: a key is written for each hold, and deleted.
pub(super) fn reported(observed: &Observed) -> Result<Vec<HandOver>> {
    let holds: Vec<Hold> = observed.found()?;
    let (puts, deletes) = (observed.counted.puts, observed.counted.deletes);
    if puts != holds.len() as f64 || deletes != holds.len() as f64 {
        return Err(format!("it had it {} times, with {puts} keys written and {deletes} deleted", holds.len()).into());
    }
    hand_overs(holds)
}

/// In the order in which they happened. Who had it twice in a row has handed nothing over.
///
/// Fails if two had it at once.
fn hand_overs(mut holds: Vec<Hold>) -> Result<Vec<HandOver>> {
    holds.sort_by_key(|hold| (hold.from, hold.until));
    let mut found = Vec::new();
    for pair in holds.windows(2) {
        let [before, after] = pair else { continue };
        let Some(took) = after.from.checked_sub(before.until) else {
            return Err(format!("two have it at once: {before:?} and {after:?}").into());
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
    fn hand_overs_are_between_two() {
        let found = found(&[(1, 30, 40), (0, 0, 10), (0, 12, 20), (1, 41, 50)]).ok();
        assert_eq!(found, Some(vec![HandOver { at: Duration::from_nanos(30), took: Duration::from_nanos(10) }]));
    }

    #[test]
    fn two_at_once_are_seen() {
        assert!(found(&[(0, 0, 10), (1, 9, 20)]).is_err());
        assert!(found(&[(0, 0, 100), (1, 20, 30)]).is_err());
        assert!(found(&[(0, 0, 10), (1, 10, 20)]).is_ok());
    }
}
