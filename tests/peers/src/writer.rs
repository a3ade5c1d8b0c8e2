//! The process that writes before or while a peer watches.
//!
//! The writer uses `etcd-client` for every peer, so all peers see the same writer. Its CPU time is
//! not counted.

use etcd_client::{Client, Txn, TxnOp};
use tokio::task::JoinSet;

use crate::Result;
use crate::peers::watches::{DIRECTORY, KEYS};
use crate::tally::VALUE;

/// The number of requests at a time.
const PUTS_IN_FLIGHT: usize = 32;
const TRANSACTIONS_IN_FLIGHT: usize = 4;

/// Writes this number of events, with `in_each` events in each revision. If `in_each` is one, sends
/// single puts, and otherwise transactions of that many puts.
pub(crate) async fn events(address: &str, events: u64, in_each: u64) -> Result<()> {
    let client = Client::connect([address], None).await?;
    let in_flight = if in_each == 1 { PUTS_IN_FLIGHT } else { TRANSACTIONS_IN_FLIGHT };
    let requests = usize::try_from(events / in_each)?;
    let in_each = usize::try_from(in_each)?;
    let mut writers = JoinSet::new();
    for writer in 0..in_flight {
        let client = client.clone();
        writers.spawn(async move {
            for request in (writer..requests).step_by(in_flight) {
                send(&client, request * in_each, in_each).await?;
            }
            Result::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(())
}

async fn send(client: &Client, first: usize, count: usize) -> Result<()> {
    let put = |number: usize| (format!("{DIRECTORY}/{:02}", number % KEYS), format!("{number:0VALUE$}"));
    if count == 1 {
        let (key, value) = put(first);
        client.kv_client().put(key, value, None).await?;
        return Ok(());
    }
    let puts: Vec<_> = (first..first + count).map(put).map(|(key, value)| TxnOp::put(key, value, None)).collect();
    client.kv_client().txn(Txn::new().and_then(puts)).await?;
    Ok(())
}

/// Returns the directory of the map with this number of entries.
pub(crate) fn map(size: u32) -> String {
    format!("/maps/{size}")
}

fn map_key(entry: u32) -> String {
    format!("customer-{entry:06}")
}

/// Returns the key of the entry that a change writes. Consecutive changes write different entries,
/// all over the map.
pub(crate) fn changed_key(size: u32, change: u32) -> String {
    // 7919 has no common divisor with the sizes, so every entry is reached.
    map_key((u64::from(change) * 7_919 % u64::from(size)) as u32)
}

/// Writes maps of these sizes, with a number as the value of each entry.
pub(crate) async fn maps(address: &str, sizes: &[u32]) -> Result<()> {
    let mut client = Client::connect([address], None).await?;
    for size in sizes {
        let entries: Vec<u32> = (0..*size).collect();
        // A server accepts 128 operations in a transaction.
        for some in entries.chunks(128) {
            let puts: Vec<_> =
                some.iter().map(|entry| TxnOp::put(format!("{}/{}", map(*size), map_key(*entry)), "1000000", None)).collect();
            client.txn(Txn::new().and_then(puts)).await?;
        }
    }
    Ok(())
}

/// Changes one entry after the other, each after the answer to the previous change. Change N writes
/// the number N.
pub(crate) async fn change_map(address: &str, size: u32, changes: u32) -> Result<()> {
    let mut client = Client::connect([address], None).await?;
    for change in 0..changes {
        client.put(format!("{}/{}", map(size), changed_key(size, change)), change.to_string(), None).await?;
    }
    Ok(())
}
