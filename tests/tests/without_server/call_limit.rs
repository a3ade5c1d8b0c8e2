//! The time limit applies to a whole call, however many requests the call sends. The tests use the
//! memory store with paused time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::async_yields_async, reason = "the preparation of a call returns the call")]

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use etcd_typed::store::memory::{Calls, Faults, MemoryStore};
use etcd_typed::{Client, ErrorKind, EtcdSchema, Result, RetryPolicy};
use tokio::time::Instant;

/// The time that each request takes. Two requests take longer than the time limit of a call.
const SLOW: Duration = Duration::from_secs(7);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Service {
    host: String,
    #[etcd(default = 1)]
    weight: u32,
    #[etcd(entries)]
    tags: BTreeMap<String, String>,
}

fn service(weight: u32) -> Service {
    Service { host: "a".to_owned(), weight, tags: BTreeMap::from([("zone".to_owned(), weight.to_string())]) }
}

/// A fault of the server.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// The server never answers.
    Hangs,
    /// The server answers so late that a call with two requests would take too long.
    IsSlow,
    /// The server is slow in the same way, and every answer is lost.
    LosesAnswers,
    /// The server is slow in the same way, and every request is lost.
    LosesRequests,
}

const TROUBLES: [Trouble; 4] = [Trouble::Hangs, Trouble::IsSlow, Trouble::LosesAnswers, Trouble::LosesRequests];

impl Trouble {
    fn begin(self, faults: &Faults) {
        match self {
            Self::Hangs => faults.delay(Calls::All, Duration::from_secs(3600)),
            Self::IsSlow => faults.delay(Calls::All, SLOW),
            Self::LosesAnswers => {
                faults.delay(Calls::All, SLOW);
                faults.lose_reply(Calls::All, 100);
            }
            Self::LosesRequests => {
                faults.delay(Calls::All, SLOW);
                faults.lose_request(Calls::All, 100);
            }
        }
    }
}

fn memory() -> (MemoryStore, Client) {
    let store = MemoryStore::new();
    (store.clone(), Client::with_store(store))
}

/// For each fault, prepares a call, starts the fault, and asserts that the call ends within the
/// time limit.
async fn keeps_limit<P, F>(name: &str, mut prepare: impl FnMut(Client) -> P)
where
    P: Future<Output = F>,
    F: Future<Output = Result<()>>,
{
    for trouble in TROUBLES {
        let (store, client) = memory();
        let call = prepare(client).await;
        trouble.begin(&store.faults());
        let begun = Instant::now();
        let outcome = call.await;
        let took = begun.elapsed();
        let limit = RetryPolicy::default().call_timeout;
        assert!(took <= limit + Duration::from_millis(1), "{name}, {trouble:?}: took {took:?} ({outcome:?})");
        if let (Trouble::Hangs, Err(error)) = (trouble, &outcome) {
            assert_eq!(error.kind(), ErrorKind::Timeout, "{name}: {error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn release_ends_within_call_limit() {
    keeps_limit("release", async |client: Client| {
        let lock = client.lock("/l").acquire().await.unwrap();
        async move { lock.release().await }
    })
    .await;
    keeps_limit("resign", async |client: Client| {
        let leader = client.election::<String>("/e").campaign(&"a".to_owned()).await.unwrap();
        async move { leader.resign().await }
    })
    .await;
    keeps_limit("release_token", async |client: Client| {
        let token = client.lock("/l").acquire().await.unwrap().into_token();
        async move { client.lock("/l").release_token(&token).await }
    })
    .await;
    keeps_limit("depose", async |client: Client| {
        let election = client.election::<String>("/e");
        let leader = election.campaign(&"a".to_owned()).await.unwrap();
        async move {
            let deposed = election.depose(&"a".to_owned()).await.map(drop);
            drop(leader);
            deposed
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn acquire_ends_within_call_limit() {
    for spare in [false, true] {
        let prepared = async move |client: Client| {
            if spare {
                client.lock("/other").acquire().await.unwrap().release().await.unwrap();
            }
            client
        };
        keeps_limit("try_acquire", async |client: Client| {
            let client = prepared(client).await;
            async move { client.lock("/l").try_acquire().await.map(drop) }
        })
        .await;
        keeps_limit("acquire", async |client: Client| {
            let client = prepared(client).await;
            async move { client.lock("/l").acquire().await.map(drop) }
        })
        .await;
        keeps_limit("campaign_within", async |client: Client| {
            let client = prepared(client).await;
            async move {
                let election = client.election::<String>("/e");
                election.campaign_within(&"a".to_owned(), Duration::from_secs(600)).await.map(drop)
            }
        })
        .await;
    }
    keeps_limit("try_acquire of a held lock", async |client: Client| {
        let held = client.lock("/l").acquire().await.unwrap();
        async move {
            let acquired = client.lock("/l").try_acquire().await.map(drop);
            drop(held);
            acquired
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn handover_ends_within_call_limit() {
    keeps_limit("adopt", async |client: Client| {
        let token = client.lock("/l").ttl(Duration::from_secs(60)).acquire().await.unwrap().into_token();
        async move { client.lock("/l").adopt(&token).await.map(drop) }
    })
    .await;
    keeps_limit("renew", async |client: Client| {
        let token = client.lock("/l").ttl(Duration::from_secs(60)).acquire().await.unwrap().into_token();
        async move { client.lock("/l").renew(&token, Duration::from_secs(60)).await.map(drop) }
    })
    .await;
    keeps_limit("proclaim", async |client: Client| {
        let leader = client.election::<String>("/e").campaign(&"a".to_owned()).await.unwrap();
        async move { leader.proclaim(&"b".to_owned()).await.map(drop) }
    })
    .await;
    keeps_limit("verify", async |client: Client| {
        let lock = client.lock("/l").ttl(Duration::from_secs(60)).acquire().await.unwrap();
        async move { lock.verify().await }
    })
    .await;
    keeps_limit("revoke", async |client: Client| {
        let lease = client.lease(Duration::from_secs(60)).await.unwrap();
        async move { lease.revoke().await }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn publish_ends_within_call_limit() {
    let value = || "a".to_owned();
    keeps_limit("publish", async |client: Client| async move { client.entry::<String>("/p")?.publish(&value()).await.map(drop) }).await;
    keeps_limit("set", async |client: Client| {
        let published = client.entry::<String>("/p").unwrap().publish(&value()).await.unwrap();
        async move { published.set(&"b".to_owned()).await.map(drop) }
    })
    .await;
    keeps_limit("withdraw", async |client: Client| {
        let published = client.entry::<String>("/p").unwrap().publish(&value()).await.unwrap();
        async move { published.withdraw().await }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn modify_ends_within_call_limit() {
    keeps_limit("modify", async |client: Client| {
        client.entry::<u32>("/n").unwrap().set(&1).await.unwrap();
        async move { client.entry::<u32>("/n")?.modify(|n| n.map(|n| n + 1)).await.map(drop) }
    })
    .await;
    keeps_limit("set of a field with a lease", async |client: Client| {
        let dir = client.dir::<Service>("/s").unwrap();
        dir.set(&service(1)).ttl(Duration::from_secs(600)).await.unwrap();
        async move { dir.weight.set(&2).await.map(drop) }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn struct_write_ends_within_call_limit() {
    let prepared = async |client: Client| {
        let dir = client.dir::<Service>("/s").unwrap();
        dir.set(&service(1)).await.unwrap();
        dir
    };
    keeps_limit("set", async |client: Client| {
        let dir = prepared(client).await;
        async move { dir.set(&service(2)).await.map(drop) }
    })
    .await;
    keeps_limit("update", async |client: Client| {
        let dir = prepared(client).await;
        async move { dir.update(|service| service.weight += 1).await.map(drop) }
    })
    .await;
    keeps_limit("delete", async |client: Client| {
        let dir = prepared(client).await;
        async move { dir.delete().await.map(drop) }
    })
    .await;
    keeps_limit("map.set", async |client: Client| {
        let map = client.entries::<String, u32>("/m").unwrap();
        map.set(&BTreeMap::from([("a".to_owned(), 1)])).await.unwrap();
        async move { map.set(&BTreeMap::from([("b".to_owned(), 1)])).await.map(drop) }
    })
    .await;
    keeps_limit("watch", async |client: Client| {
        let dir = prepared(client).await;
        async move { dir.watch().await.map(drop) }
    })
    .await;
}

/// A non-atomic write may take longer than the limit of a call, if each step stays within the
/// limit.
#[tokio::test(start_paused = true)]
async fn call_limit_applies_to_each_non_atomic_step() {
    let (store, client) = memory();
    let map = client.entries::<String, u32>("/m").unwrap();
    let many: BTreeMap<String, u32> = (0..1000).map(|n| (n.to_string(), n)).collect();
    store.faults().delay(Calls::All, SLOW);
    map.set(&many).non_atomic().await.unwrap();
    assert_eq!(map.get().await.unwrap().len(), 1000);
}
