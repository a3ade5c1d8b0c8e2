//! How many store calls an election takes. Each test has its own store, so that no other client
//! changes the revision.

use etcd_typed::Client;
use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::{CountingStore, Counts, Etcd};

use super::*;

#[tokio::test]
async fn memory_handover_takes_two_requests() {
    let store = Client::with_store(MemoryStore::new());
    cost(&store, &store, Counts { commit: 1, ..Counts::default() }).await;
}

#[tokio::test]
async fn v3_handover_takes_two_requests() {
    let etcd = Etcd::start().await;
    let [here, there] = [Client::connect(&etcd.url_v3()).await.unwrap(), Client::connect(&etcd.url_v3()).await.unwrap()];
    cost(&here, &there, Counts { commit: 1, ..Counts::default() }).await;
}

/// v2 has no transactions: a candidate lists the queue to see which candidate is first.
#[tokio::test]
async fn v2_handover_takes_two_requests() {
    let etcd = Etcd::start().await;
    let [here, there] = [Client::connect(&etcd.url_v2()).await.unwrap(), Client::connect(&etcd.url_v2()).await.unwrap()];
    cost(&here, &there, Counts { range: 1, ..Counts::default() }).await;
}

/// Counts the store calls of an election. `look` contains the calls that a candidate makes to find
/// out which candidate is first.
async fn cost(here: &Client, there: &Client, look: Counts) {
    let count = |client: &Client| {
        let counting = CountingStore::new(client.store().clone());
        let election = Client::with_store(counting.clone()).election::<String>("/e").ttl(Duration::from_secs(120));
        (counting, election)
    };
    let ((leading, leaders), (waiting, waiters)) = (count(here), count(there));
    // Without transactions, a campaign creates its key and then lists the queue.
    let enter =
        if here.store().capabilities().transactions { Counts { commit: 1, ..Counts::default() } } else { Counts { commit: 1, ..look } };

    let leader = campaign(&leaders, "cold").await;
    assert_eq!(leading.take(), Counts { grant: 1, ..enter });
    leader.resign().await.unwrap();
    assert_eq!(leading.take(), Counts { commit: 1, ..Counts::default() });
    let leader = campaign(&leaders, "warm").await;
    assert_eq!(leading.take(), enter, "the campaign reuses the spare lease");
    leader.proclaim(&text("other")).await.unwrap();
    assert_eq!(leading.take(), Counts { commit: 1, ..Counts::default() });

    let next = tokio::spawn(async move { waiters.campaign(&text("next")).await.unwrap() });
    // On a store with transactions, the waiter checks a moment after its watch began whether the
    // leader's key still exists. The test waits for this check, so that the counts below do not
    // include it.
    let asks = u64::from(here.store().capabilities().transactions);
    let entered = Counts { grant: 1, watch: 1, commit: enter.commit + asks, ..enter };
    eventually(async || waiting.counts() == entered).await;
    waiting.take();
    leading.take();
    leader.resign().await.unwrap();
    let resigned = leading.take();
    // A leader that has led for long enough has also read and watched its key.
    assert_eq!((resigned.commit, resigned.total() - resigned.range - resigned.watch), (1, 1), "{resigned:?}");
    let next = led(next).await;
    let took = waiting.take();
    assert_eq!((took.commit, took.range, took.grant), (look.commit, look.range, 0), "{took:?}");
    drop(next);
}
