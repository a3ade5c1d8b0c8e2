//! One client puts and watches the same key: how long until it is told of what it wrote.

use std::time::{Duration, Instant};

use crate::Result;
use crate::peers::watches::{Watcher, Watches, follow};
use crate::tally::{Tally, VALUE};
use crate::work::Meter;

/// Puts before the word to begin.
const WARM: usize = 50;

async fn measure<W: Watches>(address: &str, count: usize) -> Result<(Meter, Vec<Duration>)> {
    let client = W::connect(address).await?;
    let mut tally = Tally::after(client.put(&[0; VALUE]).await?, 1);
    let mut watcher = client.watch_key().await?;
    for _ in 0..WARM {
        once(&client, &mut watcher, &mut tally).await?;
    }
    let meter = Meter::ready()?;
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        latencies.push(once(&client, &mut watcher, &mut tally).await?);
    }
    Ok((meter, latencies))
}

/// From the call to the event. The answer to the put is waited for too, as it is not what is measured.
async fn once<W: Watches>(client: &W, watcher: &mut W::Key, tally: &mut Tally) -> Result<Duration> {
    let began = Instant::now();
    let told = async {
        follow(watcher, tally, 1).await?;
        Ok(began.elapsed())
    };
    let (_, took) = tokio::try_join!(client.put(&[0; VALUE]), told)?;
    Ok(took)
}
