//! The messages that a client sends while the program does nothing: first while it holds locks,
//! published values or live views, and then after it has released them.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Better, Case, Effort, Goal, Measured, Observed, Prepare, Server, Stage};
use crate::Result;
use crate::peers::{Contender, ETCD_CLIENT, EtcdClient, EtcdTyped, GO, OURS, put_for};
use crate::work::Meter;

pub(super) const LOCKS: &str = "idle-locks";
pub(super) const PUBLISHED: &str = "idle-published";
pub(super) const VIEWS: &str = "idle-views";

/// The time to live of the leases. It is short, so that each lease is kept alive during the
/// measurement. `go/coordination.go` has the same value.
const TTL: Duration = Duration::from_secs(6);
/// The time in which every client keeps a lease alive once.
const THIRD: Duration = Duration::from_secs(2);
/// The time after a release until the client has given up all leases that it does not keep as
/// spares.
const SETTLED: Duration = Duration::from_secs(3);
/// The time in which a live view verifies once that it is up to date.
const PROOF: Duration = Duration::from_secs(10);

pub(super) fn cases(effort: &Effort) -> Vec<Case> {
    let (things, leases, views) = (effort.of(500, 2_000), effort.of(1, 5), effort.of(1, 2));
    let held = |what: &str, goals| stage(format!("idle: {things} {what}"), things, goals);
    // A hundred published values share a lease, and a client keeps 16 spare leases for its next
    // locks.
    let each_second = |messages: f64| messages / THIRD.as_secs_f64();
    let published = each_second(1.5 * things as f64 / 100.0);
    // One read of the store's revision verifies all views while nothing is written. While another
    // client writes, the client sends one more request for each 128 views.
    let requests = |questions: f64| (1.5 + questions) / PROOF.as_secs_f64() * 1.5;
    let busy = requests(things as f64 / 100.0 + 2.0);
    let writing: Prepare = Box::new(move |address| Box::pin(put_for(address, PROOF * views)));
    vec![
        Case {
            peers: &[OURS, ETCD_CLIENT, GO],
            work: work_of(LOCKS, things, THIRD * leases),
            server: Server::default(),
            stages: vec![held("locks held", vec![]), held("locks released", vec![Goal::count(each_second(20.0), "requests/s")])],
        },
        Case {
            peers: &[OURS],
            work: work_of(PUBLISHED, things, THIRD * leases),
            server: Server::default(),
            stages: vec![
                held("values published", vec![Goal::count(published, "requests/s")]).beside(OURS),
                held("values withdrawn", vec![Goal::count(0.0, "requests/s")]).beside(OURS),
            ],
        },
        Case {
            peers: &[OURS],
            work: work_of(VIEWS, things, PROOF * views),
            server: Server::default(),
            stages: vec![
                held("live views of one key each", vec![Goal::count(requests(0.0), "requests/s")]).beside(OURS),
                held("live views of one key each, with a writer", vec![Goal::count(busy, "requests/s")]).beside(OURS).meanwhile(writing),
            ],
        },
    ]
}

fn work_of(case: &str, things: u64, time: Duration) -> Vec<String> {
    vec![case.to_owned(), things.to_string(), time.as_millis().to_string()]
}

/// Measures the messages to the server per second, without the puts of the writer.
fn stage(title: String, things: u64, goals: Vec<Goal>) -> Stage {
    Stage::new(title, "second", &[("requests/s", Better::Lower)], goals, move |observed: &Observed| {
        let there: u64 = observed.found()?;
        if there != things {
            return Err(format!("{there} held or released, expected {things}").into());
        }
        let seconds = observed.report.elapsed.as_secs_f64();
        Ok(Measured { figures: vec![(observed.counted.messages - observed.counted.puts) / seconds], operations: seconds })
    })
}

pub(super) async fn work(peer: &str, address: &str, case: &str, parameters: &[String]) -> Result<()> {
    let [things, milliseconds] = parameters else {
        return Err("expected two parameters: a number and milliseconds".into());
    };
    let (things, time) = (things.parse()?, Duration::from_millis(milliseconds.parse()?));
    match (case, peer) {
        (LOCKS, OURS) => locks(EtcdTyped::own_locks(address, things, TTL).await?, time).await,
        (LOCKS, ETCD_CLIENT) => locks(EtcdClient::own_locks(address, things, TTL).await?, time).await,
        (PUBLISHED, OURS) => {
            let published = EtcdTyped::publish(address, things, TTL).await?;
            idle(things, time).await?;
            for one in published {
                one.withdraw().await?;
            }
            sleep(SETTLED).await;
            idle(things, time).await
        }
        (VIEWS, OURS) => {
            let views = EtcdTyped::views(address, things).await?;
            sleep(PROOF).await;
            idle(views.len(), time).await?;
            // In the second stage requests overlap, so the client also asks once for the server's
            // version.
            idle(views.len(), time).await
        }
        _ => Err(format!("unknown peer {peer}").into()),
    }
}

/// Lets each contender hold its own lock, and then release the lock.
async fn locks<C: Contender>(contenders: Vec<C>, time: Duration) -> Result<()> {
    let mut acquiring = JoinSet::new();
    for mut contender in contenders {
        acquiring.spawn(async move {
            let held = contender.acquire().await?;
            Result::Ok((contender, held))
        });
    }
    let mut holders = Vec::new();
    while let Some(holder) = acquiring.join_next().await {
        holders.push(holder??);
    }
    idle(holders.len(), time).await?;
    let mut released = Vec::new();
    for (mut contender, held) in holders {
        contender.release(held).await?;
        released.push(contender);
    }
    sleep(SETTLED).await;
    idle(released.len(), time).await
}

async fn idle(things: usize, time: Duration) -> Result<()> {
    let meter = Meter::ready()?;
    sleep(time).await;
    meter.report(|| Ok(things.into()))
}
