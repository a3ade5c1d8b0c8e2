//! Acquires and releases a lock repeatedly while no other contender wants it.

use std::time::Duration;

use super::repeated::{self, Caller};
use super::{Case, Effort, Goal, Server};
use crate::Result;
use crate::peers::{Clients, Contender, ETCD_CLIENT, EtcdClient, EtcdTyped, GO, OURS};

pub(super) const NAME: &str = "lock-uncontended";

pub(super) fn cases(effort: &Effort) -> Vec<Case> {
    let duration = effort.of(Duration::from_millis(300), Duration::from_millis(1500));
    // The lock costs one request to acquire it and one to release it.
    let goals = vec![Goal::at_most(0.7, "p50 µs", ETCD_CLIENT), Goal::at_most(1.0, "p50 µs", GO), Goal::count(2.0, "messages")];
    let stage = repeated::stage("lock, uncontended, acquire and release".to_owned(), "cycle", goals, |observed, cycles| {
        let (puts, deletes) = (observed.counted.puts, observed.counted.deletes);
        if puts == cycles && deletes == cycles {
            return Ok(());
        }
        Err(format!("{cycles} cycles were reported, but {puts} keys written and {deletes} deleted").into())
    });
    vec![Case {
        peers: &[OURS, ETCD_CLIENT, GO],
        work: vec![NAME.to_owned(), duration.as_millis().to_string()],
        server: Server::default(),
        stages: vec![stage],
    }]
}

pub(super) async fn work(peer: &str, address: &str, parameters: &[String]) -> Result<()> {
    let [milliseconds] = parameters else {
        return Err("expected one parameter: milliseconds".into());
    };
    let duration = Duration::from_millis(milliseconds.parse()?);
    match peer {
        OURS => cycle(EtcdTyped::lockers(address, "/lock", 1, Clients::Shared).await?, duration).await,
        ETCD_CLIENT => cycle(EtcdClient::lockers(address, "/lock", 1).await?, duration).await,
        _ => Err(format!("unknown peer {peer}").into()),
    }
}

async fn cycle<C: Contender>(contenders: Vec<C>, duration: Duration) -> Result<()> {
    repeated::measure(contenders.into_iter().map(Cycle).collect(), duration).await
}

struct Cycle<C>(C);

impl<C: Contender> Caller for Cycle<C> {
    async fn call(&mut self) -> Result<()> {
        let held = self.0.acquire().await?;
        self.0.release(held).await
    }
}
