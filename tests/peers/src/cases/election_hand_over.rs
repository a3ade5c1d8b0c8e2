//! A leader resigns while a follower waits, and the time until the follower leads is measured.
//! Short and long waits have separate tables, because a server serves a new watch differently from
//! a watch that has caught up.

use std::time::Duration;

use super::holds::{self, Hold};
use super::{Better, Case, Effort, Goal, Measured, Server, Stage, quantile};
use crate::Result;
use crate::peers::{Clients, Contender, ETCD_CLIENT, EtcdClient, EtcdTyped, GO, OURS, OURS_CLIENT_EACH, warm_up};
use crate::work::Meter;

pub(super) const NAME: &str = "election-hand-over";

pub(super) fn cases(effort: &Effort) -> Vec<Case> {
    let long = vec![Duration::from_millis(250); effort.of(4, 10)];
    vec![
        case("3 to 100 ms", vec![Goal::times(20.0, "p50 ms", ETCD_CLIENT), Goal::times(20.0, "p50 ms", GO)], spread(effort.of(12, 30))),
        case("250 ms", vec![Goal::at_most(0.9, "p50 ms", ETCD_CLIENT)], long),
    ]
}

/// Returns waits from 3 to 100 ms, evenly spread and in a mixed order. So the hand-overs are spread
/// evenly over the phases of the server's loop.
fn spread(count: u32) -> Vec<Duration> {
    let golden = |n: u32| (f64::from(n) * 0.618_033_988_75).fract();
    (0..count).map(|n| Duration::from_secs_f64(0.003 + 0.097 * golden(n))).collect()
}

fn case(waited: &str, goals: Vec<Goal>, waits: Vec<Duration>) -> Case {
    let microseconds: Vec<String> = waits.iter().map(|wait| wait.as_micros().to_string()).collect();
    let title = format!("election, hand-over to a follower that waited for {waited}");
    let columns = [("p50 ms", Better::Lower), ("p99 ms", Better::Lower)];
    let stage = Stage::new(title, "hand-over", &columns, goals, move |observed| {
        let all = holds::reported(observed)?;
        if all.len() != waits.len() {
            return Err(format!("{} hand-overs, expected {}", all.len(), waits.len()).into());
        }
        let each: Vec<f64> = all.iter().map(|hand_over| hand_over.took.as_secs_f64() * 1e3).collect();
        Ok(Measured { figures: vec![quantile(each.clone(), 0.5), quantile(each, 0.99)], operations: all.len() as f64 })
    });
    Case {
        peers: &[OURS, OURS_CLIENT_EACH, ETCD_CLIENT, GO],
        work: vec![NAME.to_owned(), microseconds.join(",")],
        server: Server::default(),
        stages: vec![stage],
    }
}

pub(super) async fn work(peer: &str, address: &str, parameters: &[String]) -> Result<()> {
    let [microseconds] = parameters else {
        return Err("expected one parameter: the waits in microseconds".into());
    };
    let waits = microseconds.split(',').map(|wait| Ok(Duration::from_micros(wait.parse()?))).collect::<Result<Vec<_>>>()?;
    match peer {
        OURS => alternate(EtcdTyped::candidates(address, "/election", 2, Clients::Shared).await?, &waits).await,
        OURS_CLIENT_EACH => alternate(EtcdTyped::candidates(address, "/election", 2, Clients::Each).await?, &waits).await,
        ETCD_CLIENT => alternate(EtcdClient::candidates(address, "/election", 2).await?, &waits).await,
        _ => Err(format!("unknown peer {peer}").into()),
    }
}

async fn alternate<C: Contender>(candidates: Vec<C>, waits: &[Duration]) -> Result<()> {
    let mut candidates = warm_up(candidates).await?.into_iter().enumerate();
    let (Some(mut leader), Some(mut follower)) = (candidates.next(), candidates.next()) else {
        return Err("an election needs two candidates".into());
    };
    let meter = Meter::ready()?;
    let mut holds = Vec::new();
    let mut held = leader.1.acquire().await?;
    let mut from = meter.elapsed();
    for wait in waits {
        let waiting = tokio::spawn(async move {
            let held = follower.1.acquire().await?;
            Result::Ok((follower, held, meter.elapsed()))
        });
        tokio::time::sleep(*wait).await;
        holds.push(Hold { who: leader.0, from, until: meter.elapsed() });
        leader.1.release(held).await?;
        follower = leader;
        (leader, held, from) = waiting.await??;
    }
    holds.push(Hold { who: leader.0, from, until: meter.elapsed() });
    leader.1.release(held).await?;
    meter.report(|| Ok(serde_json::to_value(holds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_cover_whole_range_evenly() {
        let mut waits = spread(25);
        waits.sort();
        let widest = waits.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest < Some(Duration::from_millis(8)), "{widest:?}");
        assert!(waits.iter().all(|wait| (3..100).contains(&wait.as_millis())), "{waits:?}");
    }
}
