//! Reads whole directories of 1,000, 10,000 and 100,000 keys of 256 bytes, and measures time and
//! memory.

use std::time::Duration;

use super::{Better, Case, Effort, Goal, Measured, Server, Stage, quantile, repeated};
use crate::Result;
use crate::payload;
use crate::peers::{ETCD_CLIENT, ETCD_CLIENT_PAGES, EtcdClient, EtcdTyped, GO, OURS, OURS_STREAMED, TONIC, Tonic};

pub(super) const NAME: &str = "directories";

/// The counts are in ascending order, so that memory that a process still holds from one directory
/// is not more than the next directory needs.
const COUNTS: [usize; 3] = [1_000, 10_000, 100_000];

pub(super) fn cases(effort: &Effort) -> Vec<Case> {
    let duration = effort.of(Duration::from_millis(100), Duration::from_millis(500));
    let prepare = || COUNTS.into_iter().flat_map(payload::directory).collect();
    vec![Case {
        peers: &[OURS, OURS_STREAMED, ETCD_CLIENT, ETCD_CLIENT_PAGES, GO, TONIC],
        work: vec![NAME.to_owned(), duration.as_millis().to_string()],
        server: Server { prepare: Some(payload::prepare(prepare)), shared: true, ..Server::default() },
        stages: COUNTS.map(stage).into(),
    }]
}

fn stage(count: usize) -> Stage {
    let title = format!("directory of {count} keys");
    let columns = [("keys/s", Better::Higher), ("p50 ms", Better::Lower), ("peak client MiB", Better::Lower)];
    let goals = if count < 100_000 {
        vec![Goal::times(1.0, "keys/s", ETCD_CLIENT)]
    } else {
        vec![
            Goal::times(1.25, "keys/s", ETCD_CLIENT),
            Goal::at_most(0.8, super::CLIENT, ETCD_CLIENT),
            Goal::at_most(1.0, "peak client MiB", ETCD_CLIENT),
        ]
    };
    Stage::new(title, "1,000 keys", &columns, goals, move |observed| {
        let took = repeated::took(observed)?;
        let keys = (took.len() * count) as f64;
        let figures = vec![keys / observed.report.elapsed.as_secs_f64(), quantile(took, 0.5) / 1e3, observed.peak_memory];
        Ok(Measured { figures, operations: keys / 1e3 })
    })
}

pub(super) async fn work(peer: &str, address: &str, parameters: &[String]) -> Result<()> {
    let [milliseconds] = parameters else {
        return Err("expected one parameter: milliseconds".into());
    };
    let duration = Duration::from_millis(milliseconds.parse()?);
    for count in COUNTS {
        match peer {
            OURS => repeated::measure(vec![EtcdTyped::map(address, count).await?], duration).await?,
            OURS_STREAMED => repeated::measure(vec![EtcdTyped::map_streamed(address, count).await?], duration).await?,
            ETCD_CLIENT => repeated::measure(vec![EtcdClient::directory(address, count, None).await?], duration).await?,
            ETCD_CLIENT_PAGES => repeated::measure(vec![EtcdClient::directory(address, count, Some(10_000)).await?], duration).await?,
            TONIC => repeated::measure(vec![Tonic::directory(address, count).await?], duration).await?,
            _ => return Err(format!("unknown peer {peer}").into()),
        }
    }
    Ok(())
}
