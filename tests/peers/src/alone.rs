//! What is measured without a server: what it takes to read what is current, and to build. No process of a peer is started for it: the peers are
//! in this one, or are what cargo starts.

mod builds;
mod reads;

use crate::Result;
use crate::cases::Table;
use crate::page::{Filled, Row};

/// A table, and how it is filled.
pub(crate) struct Alone {
    pub(crate) table: Table,
    /// In the order of the rows.
    pub(crate) peers: &'static [&'static str],
    measure: fn(rounds: usize) -> Result<Vec<Row>>,
    /// Too long for a quick run.
    pub(crate) long: bool,
}

impl Alone {
    /// Blocks for as long as it takes.
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
    fn goals_name_columns_and_peers_of_their_table() {
        for Alone { table, peers, .. } in all() {
            table.check(peers);
        }
    }
}
