//! Many watches of one client on one key: how long until they are there, what they take of memory, and how fast all are told of a change.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::Result;
use crate::peers::EtcdClientWatches;
use crate::peers::watches::{Watches, follow};
use crate::tally::{Tally, VALUE};
use crate::work::Meter;

/// A task for each watch.
async fn a_task_each<W: Watches>(address: &str, watches: usize, puts: u64) -> Result<()> {
    let client = W::connect(address).await?;
    let tally = Tally::after(client.put(&[0; VALUE]).await?, 1);
    let meter = Meter::ready()?;
    let mut opening = JoinSet::new();
    for _ in 0..watches {
        let client = client.clone();
        opening.spawn(async move { client.watch_key().await });
    }
    let mut opened = Vec::with_capacity(watches);
    while let Some(watcher) = opening.join_next().await {
        opened.push(watcher??);
    }
    let (took, spent) = (meter.elapsed(), meter.spent());
    let mut following = JoinSet::new();
    for mut watcher in opened {
        let mut tally = tally;
        following.spawn(async move { follow(&mut watcher, &mut tally, puts).await });
    }
    for _ in 0..puts {
        client.put(&[0; VALUE]).await?;
    }
    while let Some(done) = following.join_next().await {
        done??;
    }
    Ok(())
}

/// One task reads for all.
async fn on_one_stream(address: &str, watches: usize, puts: u64) -> Result<()> {
    let client = EtcdClientWatches::connect(address).await?;
    let tally = Tally::after(client.put(&[0; VALUE]).await?, 1);
    let meter = Meter::ready()?;
    let stream = client.watch_key_often(watches).await?;
    let (took, spent) = (meter.elapsed(), meter.spent());
    let following = tokio::spawn(stream.follow(tally, puts));
    for _ in 0..puts {
        client.put(&[0; VALUE]).await?;
    }
    following.await??;
    Ok(())
}
