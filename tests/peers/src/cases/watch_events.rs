//! Many events: live, while another process writes them, one by one or a hundred in a transaction; or old ones, from a revision long past.

use std::time::Duration;

use crate::Result;
use crate::peers::watches::{Watcher, Watches, follow};
use crate::tally::{Tally, VALUE};
use crate::work::Meter;

/// Live: those who are to be told are there before the word to begin, and another process begins to write then.
async fn live<W: Watches>(address: &str, events: u64, in_each: u64) -> Result<(Meter, Duration)> {
    let client = W::connect(address).await?;
    let mut watcher = client.watch_directory(None).await?;
    let revision = client.put(&[0; VALUE]).await?;
    follow(&mut watcher, &mut Tally::after(revision - 1, 1), 1).await?;
    let meter = Meter::ready()?;
    follow(&mut watcher, &mut Tally::after(revision, in_each), events).await?;
    Ok((meter, meter.elapsed()))
}

/// Old: they have been written before, and the watch begins with the word.
async fn old<W: Watches>(address: &str, events: u64, since: u64) -> Result<(Meter, Duration)> {
    let client = W::connect(address).await?;
    client.connected().await?;
    let meter = Meter::ready()?;
    let mut watcher = client.watch_directory(Some(since)).await?;
    follow(&mut watcher, &mut Tally::after(since, 1), events).await?;
    Ok((meter, meter.elapsed()))
}
