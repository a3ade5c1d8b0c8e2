//! One client puts and watches the same key. The time from each put to its event is measured.

use std::time::{Duration, Instant};

use super::{Better, Case, Effort, Goal, Measured, Server, Stage, quantile};
use crate::Result;
use crate::peers::watches::{Watches, follow};
use crate::peers::{ETCD_CLIENT, EtcdClientWatches, EtcdTypedWatches, GO, OURS};
use crate::tally::{Tally, VALUE};
use crate::work::Meter;

pub(super) const NAME: &str = "watch-latency";

/// The number of puts before the start signal. `go/watch.go` has the same number.
const WARM: u64 = 50;

pub(super) fn cases(effort: &Effort) -> Vec<Case> {
    let count: u64 = effort.of(500, 2_000);
    let columns = [("p50 µs", Better::Lower), ("p99 µs", Better::Lower)];
    let goals = vec![Goal::at_most(1.0, "p50", ETCD_CLIENT), Goal::at_most(0.8, "p50", ETCD_CLIENT), Goal::at_most(1.0, "p50", GO)];
    let stage = Stage::new("watch, from a put to its event", "put", &columns, goals, move |observed| {
        let latencies: Vec<u64> = observed.found()?;
        if latencies.len() as u64 != count || observed.counted.puts != count as f64 {
            return Err(
                format!("{} latencies and {} keys written, expected {count} of each", latencies.len(), observed.counted.puts).into()
            );
        }
        let microseconds: Vec<f64> = latencies.into_iter().map(|nanoseconds| nanoseconds as f64 / 1e3).collect();
        Ok(Measured { figures: vec![quantile(microseconds.clone(), 0.5), quantile(microseconds, 0.99)], operations: count as f64 })
    });
    vec![Case {
        peers: &[OURS, ETCD_CLIENT, GO],
        work: vec![NAME.to_owned(), count.to_string()],
        server: Server::default(),
        stages: vec![stage],
    }]
}

pub(super) async fn work(peer: &str, address: &str, parameters: &[String]) -> Result<()> {
    let [count] = parameters else {
        return Err("expected one parameter: the number of puts".into());
    };
    let count = count.parse()?;
    match peer {
        OURS => measure::<EtcdTypedWatches>(address, count).await,
        ETCD_CLIENT => measure::<EtcdClientWatches>(address, count).await,
        _ => Err(format!("unknown peer {peer}").into()),
    }
}

async fn measure<W: Watches>(address: &str, count: u64) -> Result<()> {
    let client = W::connect(address).await?;
    let mut tally = Tally::after(client.put(&[0; VALUE]).await?, 1);
    let mut watcher = client.watch_key().await?;
    for _ in 0..WARM {
        once(&client, &mut watcher, &mut tally).await?;
    }
    let meter = Meter::ready()?;
    let mut latencies = Vec::new();
    for _ in 0..count {
        latencies.push(u64::try_from(once(&client, &mut watcher, &mut tally).await?.as_nanos())?);
    }
    meter.report(|| Ok(serde_json::to_value(latencies)?))
}

/// Returns the time from the call of the put to its event. Also waits for the answer to the put,
/// but does not measure the time of the answer.
async fn once<W: Watches>(client: &W, watcher: &mut W::Key, tally: &mut Tally) -> Result<Duration> {
    let began = Instant::now();
    let told = async {
        follow(watcher, tally, 1).await?;
        Ok(began.elapsed())
    };
    let (_, took) = tokio::try_join!(client.put(&[0; VALUE]), told)?;
    Ok(took)
}
