//! Injects one fault at a time, and removes it before the next one.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_typed::Client;
use etcd_typed::testing::{Cluster, Mode, Proxy};
use etcd_typed_tests::checks::has_faithless_leaders;
use fastrand::Rng;
use tokio::time::{sleep, timeout};

use super::record::Record;

/// How long a server that was stopped and continues may still end leases, although another member
/// leads.
const FAITHLESS: Duration = Duration::from_secs(5);

/// Injects faults until `end`.
pub(crate) async fn trouble(cluster: &mut Cluster, proxies: &[Vec<Proxy>], record: &Arc<Record>, seed: u64, end: Instant) {
    let mut rng = Rng::with_seed(seed);
    while Instant::now() < end {
        sleep(Duration::from_millis(rng.u64(200..2000))).await;
        let victim = rng.usize(..cluster.members().len());
        let way = &proxies[rng.usize(..proxies.len())];
        let moment = Duration::from_millis(rng.u64(200..6000));
        match rng.u32(0..12) {
            0 => {
                record.count("members killed");
                cluster.member(victim).kill().await;
                sleep(moment).await;
                cluster.member(victim).restart().await;
            }
            1 => {
                record.count("members restarted");
                cluster.member(victim).terminate().await;
                cluster.member(victim).restart().await;
            }
            2 | 3 => {
                record.count("members stopped");
                cluster.member(victim).pause();
                sleep(moment).await;
                if has_faithless_leaders(cluster.member(victim).version()) {
                    let now = record.now();
                    record.faithless(now, now + u64::try_from(FAITHLESS.as_nanos()).unwrap());
                }
                cluster.member(victim).resume();
            }
            4 => {
                record.count("members cut off");
                for row in proxies {
                    row[victim].set(if rng.bool() { Mode::Refuse } else { Mode::Stall }).await;
                }
                sleep(moment).await;
                for row in proxies {
                    row[victim].set(Mode::Pass).await;
                }
            }
            5 | 6 => {
                record.count("clients cut off");
                let mode = [Mode::Stall, Mode::StallRequests, Mode::StallAnswers, Mode::Refuse][rng.usize(..4)];
                for proxy in way {
                    proxy.set(mode).await;
                    if mode == Mode::Refuse {
                        proxy.cut();
                    }
                }
                sleep(moment).await;
                // A compaction removes the changes that this client misses.
                if rng.bool() {
                    record.count("compactions");
                    compact(cluster, victim).await;
                }
                for proxy in way {
                    proxy.set(Mode::Pass).await;
                }
            }
            7 => {
                record.count("connections reset");
                let bytes = rng.u64(0..2000);
                way.iter().for_each(|proxy| if bytes < 1000 { proxy.cut() } else { proxy.cut_after(bytes) });
            }
            8 => {
                record.count("connections half-closed");
                way.iter().for_each(if rng.bool() { Proxy::end_answers } else { Proxy::end_requests });
            }
            9 => {
                record.count("slow lines");
                way.iter().for_each(|proxy| proxy.limit(NonZeroU32::new(20_000)));
                sleep(moment).await;
                way.iter().for_each(|proxy| proxy.limit(None));
            }
            10 => {
                record.count("dead connections");
                for proxy in way {
                    let newest = proxy.accepted();
                    proxy.hold(newest.checked_sub(rng.u64(1..4)));
                }
                sleep(moment).await;
                way.iter().for_each(|proxy| proxy.hold(None));
            }
            _ => {
                record.count("compactions");
                compact(cluster, victim).await;
            }
        }
        answers(cluster, record).await;
    }
}

async fn compact(cluster: &mut Cluster, member: usize) {
    let status = Client::connect(&cluster.url_v3()).await.unwrap().status().await;
    // Without a leader nothing can be compacted. A later fault tries again.
    if let Ok(status) = status {
        let body = format!(r#"{{"revision": {}}}"#, status.revision);
        cluster.member(member).call("/v3/kv/compaction", &body).await;
    }
}

/// Waits until the cluster answers again.
async fn answers(cluster: &Cluster, record: &Record) {
    let client = Client::connect(&cluster.url_v3()).await.unwrap();
    let asked = timeout(Duration::from_secs(60), async { while client.entry::<u64>("/soak/asked").unwrap().exists().await.is_err() {} });
    if asked.await.is_err() {
        record.violation("the cluster did not answer for a minute".to_owned());
    }
}
