//! Behaviour that is the same on every store.

use std::sync::Arc;

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, ErrorKind, Json, LostReason, Token};
use etcd_typed_tests::on_every_store;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::*;

on_every_store! { "election":
    candidates_lead_in_order_with_growing_fences
    candidate_without_key_never_wins
    dropped_leader_resigns
    abandoned_campaign_leaves_no_key
    only_current_leader_can_proclaim
    observers_see_every_leader
    values_are_stored_unchanged
    undecodable_value_hides_no_candidate
    depose_removes_all_candidates_with_value
    token_hands_leadership_over
    lead_campaigns_again_after_loss
}

struct Bench {
    client: Client,
}

impl Bench {
    fn election(&self) -> Election<String> {
        self.client.election("/e")
    }

    /// Returns the same election of another client. On v2, that client knows none of this client's
    /// leases.
    async fn elsewhere(&self) -> Election<String> {
        let namespace = self.client.namespace().to_string();
        let address = match self.client.store().capabilities().name {
            "etcd v2" => etcd_typed_tests::shared("election").await.url_v2(),
            "etcd v3" => etcd_typed_tests::shared("election").await.url_v3(),
            _ => return self.election(),
        };
        Client::builder(&address).namespace(namespace).connect().await.unwrap().election("/e")
    }
}

async fn candidates_lead_in_order_with_growing_fences(bench: Bench) {
    let (here, there) = (bench.election(), bench.elsewhere().await);
    let mut leader = campaign(&here, "0").await;
    let mut waiting = Vec::new();
    for (n, election) in [&there, &here, &there].into_iter().enumerate() {
        waiting.push(stand(election, &(n + 1).to_string()).await);
    }
    assert_eq!(values(&here).await, ["0", "1", "2", "3"]);
    assert!(here.try_campaign(&text("try")).await.unwrap().is_none());
    for (n, next) in waiting.into_iter().enumerate() {
        assert_eq!(there.leader().await.unwrap().unwrap().value, n.to_string());
        assert!(!next.is_finished());
        let fence = leader.fence();
        leader.resign().await.unwrap();
        leader = led(next).await;
        assert!(leader.fence() > fence && leader.is_held());
        leader.verify().await.unwrap();
    }
    leader.resign().await.unwrap();
    assert!(here.leader().await.unwrap().is_none());
    here.try_campaign(&text("try")).await.unwrap().expect("no candidate leads").resign().await.unwrap();
}

/// The key of the waiting candidate is deleted, as when its lease expires. Nothing notifies the
/// candidate.
async fn candidate_without_key_never_wins(bench: Bench) {
    let election = bench.election();
    let first = campaign(&election, "first").await;
    let waiting = stand(&election, "second").await;
    let [_, stood] = <[_; 2]>::try_from(election.candidates().await.unwrap()).unwrap();
    assert_eq!(bench.elsewhere().await.depose(&text("second")).await.unwrap(), 1);
    first.resign().await.unwrap();
    let second = led(waiting).await;
    assert!(second.fence() > stood.fence && second.lease_id() != stood.lease, "the candidate entered the queue again");
    second.verify().await.unwrap();
    assert_eq!(values(&election).await, ["second"]);
}

async fn dropped_leader_resigns(bench: Bench) {
    let election = bench.election();
    let leader = campaign(&election, "one").await;
    let waiting = stand(&election, "two").await;
    drop(leader);
    let two = led(waiting).await;
    assert_eq!(values(&election).await, ["two"]);
    drop(two);
    eventually(async || values(&election).await.is_empty()).await;
}

async fn abandoned_campaign_leaves_no_key(bench: Bench) {
    let election = bench.election();
    let leader = campaign(&election, "leader").await;
    let late = election.campaign_within(&text("late"), Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    stand(&election, "cancelled").await.abort();
    eventually(async || values(&election).await == ["leader"]).await;
    leader.resign().await.unwrap();
    assert!(values(&election).await.is_empty());
}

async fn only_current_leader_can_proclaim(bench: Bench) {
    let election = bench.election();
    let leader = campaign(&election, "one").await;
    for value in ["two", "two", ""] {
        leader.proclaim(&text(value)).await.unwrap();
        let seen = election.leader().await.unwrap().unwrap();
        assert_eq!((seen.value.as_str(), seen.fence, &seen.key, seen.lease), (value, leader.fence(), leader.key(), leader.lease_id()));
    }
    leader.verify().await.unwrap();
    assert_eq!(bench.elsewhere().await.depose(&text("")).await.unwrap(), 1);
    assert_eq!(leader.proclaim(&text("three")).await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert!(!leader.is_held() && values(&election).await.is_empty());
    let next = campaign(&election, "next").await;
    assert_eq!(leader.proclaim(&text("four")).await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(leader.resign().await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(values(&election).await, ["next"]);
    next.resign().await.unwrap();
}

async fn observers_see_every_leader(bench: Bench) {
    let election = bench.election();
    let mut changes = bench.elsewhere().await.observe().await.unwrap();
    assert_eq!(told(&mut changes).await, None);
    let one = campaign(&election, "same").await;
    assert_eq!(told(&mut changes).await, Some((text("same"), one.fence())));
    let waiting = stand(&election, "other").await;
    one.proclaim(&text("same")).await.unwrap();
    one.proclaim(&text("other")).await.unwrap();
    assert_eq!(told(&mut changes).await, Some((text("other"), one.fence())), "an unchanged value is not reported");
    one.resign().await.unwrap();
    let two = led(waiting).await;
    assert_eq!(told(&mut changes).await, Some((text("other"), two.fence())), "a new leader with the same value is reported");
    drop(two);
    assert_eq!(told(&mut changes).await, None);

    // An observer that starts later first sees the current leader.
    let three = campaign(&election, "three").await;
    let mut later = election.observe().await.unwrap();
    for changes in [&mut changes, &mut later] {
        assert_eq!(told(changes).await, Some((text("three"), three.fence())));
    }
    // Deletes all keys at once: v2 reports a removed directory as one event.
    bench.client.directory("/e").unwrap().delete_recursive().await.unwrap();
    assert_eq!(told(&mut changes).await, None);
    assert_eq!(timeout(LIMIT, three.lost()).await.unwrap().reason(), LostReason::KeyDeleted);
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Node {
    host: String,
    port: u16,
}

async fn values_are_stored_unchanged(bench: Bench) {
    let node = Json(Node { host: text("größe \"1\""), port: 80 });
    let election = bench.client.election::<Json<Node>>("/e");
    let leader = election.campaign(&node).await.unwrap();
    assert_eq!(election.leader().await.unwrap().unwrap().value, node);
    assert_eq!(values(&bench.election()).await, [r#"{"host":"größe \"1\"","port":80}"#]);
    assert_eq!(leader.key().as_str(), format!("{}/e/{:x}", bench.client.namespace(), leader.lease_id().get()));
    leader.resign().await.unwrap();
}

async fn undecodable_value_hides_no_candidate(bench: Bench) {
    let (election, numbers) = (bench.election(), bench.client.election::<u32>("/e"));
    let foreign = campaign(&election, "not a number").await;
    let _waiting = stand(&election, "7").await;
    let mut changes = numbers.observe().await.unwrap();
    let [first, second] = <[_; 2]>::try_from(numbers.candidates().await.unwrap()).unwrap();
    assert_eq!(second.transpose().unwrap().value, 7);
    for error in [numbers.leader().await.unwrap_err(), next(&mut changes).await.unwrap_err(), first.transpose().unwrap_err()] {
        assert_eq!((error.kind(), error.key()), (ErrorKind::Decode, Some(foreign.key())), "{error}");
    }
    foreign.resign().await.unwrap();
    assert_eq!(next(&mut changes).await.unwrap().unwrap().value, 7);
}

async fn depose_removes_all_candidates_with_value(bench: Bench) {
    let election = bench.election().ttl(Duration::from_secs(6));
    let leader = campaign(&election, "gone").await;
    let stays = stand(&election, "stays").await;
    let again = stand(&election, "gone").await;
    let elsewhere = bench.elsewhere().await;
    assert_eq!(elsewhere.depose(&text("nobody")).await.unwrap(), 0);
    assert_eq!(elsewhere.depose(&text("gone")).await.unwrap(), 2);
    let stays = led(stays).await;
    assert_eq!(timeout(LIMIT, leader.lost()).await.unwrap().reason(), LostReason::KeyDeleted);
    // The candidate notices the deletion at its next check. It checks three times within its time
    // to live.
    eventually(async || values(&election).await == ["stays", "gone"]).await;
    stays.resign().await.unwrap();
    led(again).await.verify().await.unwrap();
}

async fn token_hands_leadership_over(bench: Bench) {
    let (election, elsewhere) = (bench.election(), bench.elsewhere().await.ttl(Duration::from_secs(5)));
    let leader = campaign(&election, "me").await;
    let fence = leader.fence();
    let waiting = stand(&election, "next").await;
    let token: Token = leader.into_token().to_string().parse().unwrap();
    let renewed = elsewhere.renew(&token, Duration::from_secs(60)).await.unwrap();
    let adopted = bench.elsewhere().await.adopt(&renewed).await.unwrap();
    assert_eq!((adopted.fence(), values(&election).await), (fence, vec![text("me"), text("next")]));
    adopted.proclaim(&text("still me")).await.unwrap();
    adopted.verify().await.unwrap();
    let seen = election.leader().await.unwrap().unwrap();
    assert_eq!((seen.value.as_str(), seen.fence), ("still me", fence));
    assert!(!waiting.is_finished());

    election.release_token(&seen.token()).await.unwrap();
    assert_eq!(election.release_token(&seen.token()).await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(election.adopt(&seen.token()).await.unwrap_err().kind(), ErrorKind::GuardLost);
    timeout(LIMIT, adopted.lost()).await.unwrap();
    led(waiting).await.resign().await.unwrap();
}

async fn lead_campaigns_again_after_loss(bench: Bench) {
    let (election, elsewhere) = (bench.election(), bench.elsewhere().await);
    let (log, mut terms) = mpsc::unbounded_channel();
    let leading = tokio::spawn({
        let election = election.clone();
        let mut term = 0;
        async move {
            let work = |leader: Arc<Leader<String>>| {
                term += 1;
                // The test keeps this clone.
                log.send(leader.clone()).unwrap();
                async move {
                    if term < 2 {
                        std::future::pending::<()>().await;
                    }
                    leader.fence()
                }
            };
            election.lead(&text("me"), work).await
        }
    });
    let first = timeout(LIMIT, terms.recv()).await.unwrap().unwrap();
    assert!(first.is_held());
    assert_eq!(elsewhere.depose(&text("me")).await.unwrap(), 1);
    let fence = timeout(LIMIT, leading).await.unwrap().unwrap().unwrap();
    let second = terms.recv().await.unwrap();
    assert!(fence == second.fence() && fence > first.fence());
    assert!(!first.is_held() && !second.is_held() && values(&election).await.is_empty());
}

#[tokio::test]
async fn v3_leadership_survives_server_restart() {
    let etcd = Etcd::start().await;
    let url = etcd.url_v3();
    leadership_survives_server_restart(etcd, &url).await;
}

#[tokio::test]
async fn v2_leadership_survives_server_restart() {
    let etcd = Etcd::start().await;
    let url = etcd.url_v2();
    leadership_survives_server_restart(etcd, &url).await;
}

async fn leadership_survives_server_restart(mut etcd: Etcd, url: &str) {
    let election = Client::connect(url).await.unwrap().election("/e").ttl(Duration::from_secs(60));
    let mut changes = Client::connect(url).await.unwrap().election("/e").observe().await.unwrap();
    assert_eq!(told(&mut changes).await, None);
    let leader = campaign(&election, "one").await;
    assert_eq!(told(&mut changes).await, Some((text("one"), leader.fence())));
    let waiting = stand(&election, "two").await;

    etcd.terminate().await;
    assert!(leader.is_held(), "the lease cannot have expired yet");
    etcd.launch().await;
    etcd.ready().await;
    leader.verify().await.unwrap();
    leader.proclaim(&text("uno")).await.unwrap();
    assert_eq!(told(&mut changes).await, Some((text("uno"), leader.fence())));
    assert!(leader.is_held() && !waiting.is_finished());
    leader.resign().await.unwrap();
    let next = led(waiting).await;
    assert_eq!(told(&mut changes).await, Some((text("two"), next.fence())));
}
