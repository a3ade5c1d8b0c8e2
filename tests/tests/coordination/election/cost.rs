//! What an election costs, in calls of the store. Each store is its own, so that nobody else moves its revision.

use etcd_typed::Client;
use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::{CountingStore, Counts, Etcd};

use super::*;

#[tokio::test]
async fn memory_resigning_is_one_request_and_one_more_makes_the_next_leader() {
    let store = Client::with_store(MemoryStore::new());
    cost(&store, &store, Counts { commit: 1, ..Counts::default() }).await;
}

#[tokio::test]
async fn v3_resigning_is_one_request_and_one_more_makes_the_next_leader() {
    let etcd = Etcd::start().await;
    let [here, there] = [Client::connect(&etcd.url_v3()).await.unwrap(), Client::connect(&etcd.url_v3()).await.unwrap()];
    cost(&here, &there, Counts { commit: 1, ..Counts::default() }).await;
}

/// There are no transactions: who is first is seen in a listing.
#[tokio::test]
async fn v2_resigning_is_one_request_and_one_more_makes_the_next_leader() {
    let etcd = Etcd::start().await;
    let [here, there] = [Client::connect(&etcd.url_v2()).await.unwrap(), Client::connect(&etcd.url_v2()).await.unwrap()];
    cost(&here, &there, Counts { range: 1, ..Counts::default() }).await;
}

/// `look` is what it takes to see who is first.
async fn cost(here: &Client, there: &Client, look: Counts) {
    let count = |client: &Client| {
        let counting = CountingStore::new(client.store().clone());
        let election = Client::with_store(counting.clone()).election::<String>("/e").ttl(Duration::from_secs(120));
        (counting, election)
    };
    let ((leading, leaders), (waiting, waiters)) = (count(here), count(there));
    // Where a transaction cannot say who is before, entering is followed by a look.
    let enter =
        if here.store().capabilities().transactions { Counts { commit: 1, ..Counts::default() } } else { Counts { commit: 1, ..look } };

    let leader = campaign(&leaders, "cold").await;
    assert_eq!(leading.take(), Counts { grant: 1, ..enter });
    leader.resign().await.unwrap();
    assert_eq!(leading.take(), Counts { commit: 1, ..Counts::default() });
    let leader = campaign(&leaders, "warm").await;
    assert_eq!(leading.take(), enter, "with the lease that was there");
    leader.proclaim(&text("other")).await.unwrap();
    assert_eq!(leading.take(), Counts { commit: 1, ..Counts::default() });

    let next = tokio::spawn(async move { waiters.campaign(&text("next")).await.unwrap() });
    // A moment after the watch began the waiter asks, where there are transactions, whether the
    // leader is still there. That is waited for, so that it is not counted below.
    let asks = u64::from(here.store().capabilities().transactions);
    let entered = Counts { grant: 1, watch: 1, commit: enter.commit + asks, ..enter };
    eventually(async || waiting.counts() == entered).await;
    waiting.take();
    leading.take();
    leader.resign().await.unwrap();
    let resigned = leading.take();
    // It may have been held for so long that its key is watched.
    assert_eq!((resigned.commit, resigned.total() - resigned.range - resigned.watch), (1, 1), "{resigned:?}");
    let next = led(next).await;
    let took = waiting.take();
    assert_eq!((took.commit, took.range, took.grant), (look.commit, look.range, 0), "{took:?}");
    drop(next);
}
