//! The cases that need no server: reads of a current value, and builds. The peers run in this
//! process or are started by cargo.

mod builds;
mod reads;

use crate::Result;
use crate::cases::Table;
use crate::page::{Filled, Row};

/// A case without a server: its table, and the function that fills it.
pub(crate) struct Alone {
    pub(crate) table: Table,
    /// The peers, in the order of the rows.
    pub(crate) peers: &'static [&'static str],
    measure: fn(rounds: usize) -> Result<Vec<Row>>,
    /// Whether the case takes too long for a quick run.
    pub(crate) long: bool,
}

impl Alone {
    /// Measures all rounds. Blocks the thread meanwhile.
    pub(crate) fn measure(self, rounds: usize) -> Result<Filled> {
        Ok(Filled { table: self.table, rows: (self.measure)(rounds)? })
    }
}

pub(crate) fn all() -> Vec<Alone> {
    let mut all = vec![reads::reads()];
    all.extend(builds::builds());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_refer_to_columns_and_peers_of_table() {
        for Alone { table, peers, .. } in all() {
            table.check(peers);
        }
    }
}
