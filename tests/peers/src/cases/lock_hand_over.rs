//! Many contenders acquire and release one lock all the time, with an empty critical section. The
//! rate of hand-overs is measured.
//!
//! Waits are short here, so a waiter that learns of its turn from a polling loop is visibly slow.

use std::time::Duration;

use super::holds::{self, Hold};
use super::{Better, Case, Effort, Goal, Measured, Server, Stage, quantile};
use crate::Result;
use crate::peers::{Clients, Contender, ETCD_CLIENT, EtcdClient, EtcdTyped, GO, OURS, OURS_CLIENT_EACH, warm_up};
use crate::work::Meter;

pub(super) const NAME: &str = "lock-hand-over";

pub(super) fn cases(effort: &Effort) -> Vec<Case> {
    let contention = effort.of(Duration::from_millis(500), Duration::from_millis(1500));
    [(2, 50.0), (16, 10.0), (64, 2.5)].map(|(contenders, times)| case(contenders, times, contention)).into()
}

fn case(contenders: u32, times: f64, contention: Duration) -> Case {
    let title = format!("lock, hot hand-over, {contenders} contenders");
    let columns = [("hand-overs/s", Better::Higher), ("p50 ms", Better::Lower)];
    let goals = vec![Goal::times(times, "hand-overs/s", ETCD_CLIENT), Goal::times(times, "hand-overs/s", GO)];
    let stage = Stage::new(title, "hand-over", &columns, goals, move |observed| {
        let all = holds::reported(observed)?;
        // Only hand-overs during `contention` count. After that time the contenders stop one by
        // one.
        let hot: Vec<_> = all.iter().filter(|hand_over| hand_over.at <= contention).collect();
        let each = hot.iter().map(|hand_over| hand_over.took.as_secs_f64() * 1e3).collect();
        let figures = vec![hot.len() as f64 / contention.as_secs_f64(), quantile(each, 0.5)];
        Ok(Measured { figures, operations: all.len() as f64 })
    });
    Case {
        peers: &[OURS, OURS_CLIENT_EACH, ETCD_CLIENT, GO],
        work: vec![NAME.to_owned(), contenders.to_string(), contention.as_millis().to_string()],
        server: Server::default(),
        stages: vec![stage],
    }
}

pub(super) async fn work(peer: &str, address: &str, parameters: &[String]) -> Result<()> {
    let [contenders, milliseconds] = parameters else {
        return Err("expected two parameters: contenders and milliseconds".into());
    };
    let (count, contention) = (contenders.parse()?, Duration::from_millis(milliseconds.parse()?));
    match peer {
        OURS => contend(EtcdTyped::lockers(address, "/lock", count, Clients::Shared).await?, contention).await,
        OURS_CLIENT_EACH => contend(EtcdTyped::lockers(address, "/lock", count, Clients::Each).await?, contention).await,
        ETCD_CLIENT => contend(EtcdClient::lockers(address, "/lock", count).await?, contention).await,
        _ => Err(format!("unknown peer {peer}").into()),
    }
}

async fn contend<C: Contender>(contenders: Vec<C>, contention: Duration) -> Result<()> {
    let contenders = warm_up(contenders).await?;
    let meter = Meter::ready()?;
    let contend = |(who, contender)| tokio::spawn(again_and_again(who, contender, meter, contention));
    let tasks: Vec<_> = contenders.into_iter().enumerate().map(contend).collect();
    let mut holds = Vec::new();
    for task in tasks {
        holds.extend(task.await??);
    }
    meter.report(|| Ok(serde_json::to_value(holds)?))
}

async fn again_and_again<C: Contender>(who: usize, mut contender: C, meter: Meter, contention: Duration) -> Result<Vec<Hold>> {
    let mut holds = Vec::new();
    while meter.elapsed() < contention {
        let held = contender.acquire().await?;
        holds.push(Hold { who, from: meter.elapsed(), until: meter.elapsed() });
        contender.release(held).await?;
    }
    Ok(holds)
}
