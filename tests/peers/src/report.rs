//! What a peer reports of its work, and the check that it is what was to be done.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Result;

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    /// Processor time of the peer's process, from the word to begin to the end of all work.
    #[serde(with = "nanoseconds")]
    pub(crate) processor: Duration,
    /// In any order.
    pub(crate) holds: Vec<Hold>,
}

/// That somebody had the thing that only one can have at a time. Times are since the word to begin.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Hold {
    pub(crate) who: usize,
    /// Taken after it was told that it has it.
    #[serde(with = "nanoseconds")]
    pub(crate) from: Duration,
    /// Taken before it began to give it back.
    #[serde(with = "nanoseconds")]
    pub(crate) until: Duration,
}

/// From one to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HandOver {
    /// When the other had it.
    pub(crate) at: Duration,
    /// Since the one began to give it back.
    pub(crate) took: Duration,
}

impl Report {
    /// The hand-overs in the order in which they happened. Who had it twice in a row has handed nothing over.
    ///
    /// Fails if two had it at once.
    pub(crate) fn hand_overs(&self) -> Result<Vec<HandOver>> {
        let mut holds = self.holds.clone();
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
}

mod nanoseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(duration.as_nanos()).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(holds: &[(usize, u64, u64)]) -> Report {
        let hold = |(who, from, until): &(usize, u64, u64)| Hold {
            who: *who,
            from: Duration::from_nanos(*from),
            until: Duration::from_nanos(*until),
        };
        Report { processor: Duration::ZERO, holds: holds.iter().map(hold).collect() }
    }

    #[test]
    fn hand_overs_are_between_two() {
        let found = report(&[(1, 30, 40), (0, 0, 10), (0, 12, 20), (1, 41, 50)]).hand_overs().ok();
        assert_eq!(found, Some(vec![HandOver { at: Duration::from_nanos(30), took: Duration::from_nanos(10) }]));
    }

    #[test]
    fn two_at_once_are_seen() {
        assert!(report(&[(0, 0, 10), (1, 9, 20)]).hand_overs().is_err());
        assert!(report(&[(0, 0, 100), (1, 20, 30)]).hand_overs().is_err());
        assert!(report(&[(0, 0, 10), (1, 10, 20)]).hand_overs().is_ok());
    }
}
