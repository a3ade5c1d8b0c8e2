//! Another process than the peer's: what is written while a peer watches, or before.
//!
//! It is `etcd-client` that writes. Whoever is measured, the writer is the same, and its processor time is nobody's.

use etcd_client::{Client, Txn, TxnOp};
use tokio::task::JoinSet;

use crate::Result;
use crate::peers::watches::{DIRECTORY, KEYS};
use crate::tally::VALUE;

/// Requests at a time.
const PUTS_IN_FLIGHT: usize = 32;
const TRANSACTIONS_IN_FLIGHT: usize = 4;

/// So many events: with one in a revision, a put for each; with more, a transaction of so many puts.
pub(crate) async fn write(address: &str, events: u64, in_each: u64) -> Result<()> {
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
