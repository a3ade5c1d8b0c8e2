//! Tests on the in-memory store, with paused time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use futures_util::{FutureExt as _, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::client::Client;
use crate::lease::LostReason;
use crate::store::memory::{Calls, MemoryStore};

/// A time limit that is longer than any wait in these tests. Time is paused.
const LONG: Duration = Duration::from_secs(600);

fn bench() -> (MemoryStore, Election<String>) {
    let store = MemoryStore::new();
    let election = Client::with_store(store.clone()).election("/e");
    (store, election)
}

fn text(text: &str) -> String {
    text.to_owned()
}

/// Starts a task in which another candidate campaigns. Returns when that candidate is in the queue.
async fn stand(election: &Election<String>, value: &str) -> JoinHandle<Leader<String>> {
    let before = last(election).await;
    let (standing, value) = (election.clone(), text(value));
    let waiting = tokio::spawn(async move { standing.campaign(&value).await.unwrap() });
    while last(election).await <= before {
        sleep(Duration::from_millis(1)).await;
    }
    waiting
}

/// Returns the fence of the last candidate in the queue.
async fn last(election: &Election<String>) -> Option<Revision> {
    election.candidates().await.unwrap().last().map(|candidate| candidate.fence)
}

async fn led(waiting: JoinHandle<Leader<String>>) -> Leader<String> {
    timeout(LONG, waiting).await.expect("it leads in the end").unwrap()
}

async fn values(election: &Election<String>) -> Vec<String> {
    election.candidates().await.unwrap().into_iter().map(|candidate| candidate.value.unwrap()).collect()
}

async fn next<T: EtcdValue>(changes: &mut LeaderChanges<T>) -> Result<Option<Candidate<T>>> {
    timeout(LONG, changes.next()).await.expect("it comes").expect("the stream goes on")
}

/// Returns the value and the fence of the leader in the next item.
async fn told(changes: &mut LeaderChanges<String>) -> Option<(String, Revision)> {
    next(changes).await.unwrap().map(|leader| (leader.value, leader.fence))
}

#[tokio::test(start_paused = true)]
async fn candidates_lead_in_order_with_growing_fences() {
    let (_store, election) = bench();
    let mut leader = election.campaign(&text("0")).await.unwrap();
    let mut waiting = Vec::new();
    for n in 1..5 {
        waiting.push(stand(&election, &n.to_string()).await);
    }
    assert_eq!(values(&election).await, ["0", "1", "2", "3", "4"]);
    for (n, next) in waiting.into_iter().enumerate() {
        assert_eq!(election.leader().await.unwrap().unwrap().value, n.to_string());
        let fence = leader.fence();
        leader.resign().await.unwrap();
        leader = led(next).await;
        assert!(leader.fence() > fence && leader.is_held());
    }
    drop(leader);
    let last = timeout(LONG, election.campaign(&text("last"))).await.unwrap().unwrap();
    assert_eq!(values(&election).await, ["last"], "dropping a leader resigns");
    last.resign().await.unwrap();
    assert!(election.leader().await.unwrap().is_none());
}

/// The lease of a waiting candidate ends. Go's `Election.Campaign` and the server's election
/// service do not notice this.
#[tokio::test(start_paused = true)]
async fn expired_candidate_never_wins() {
    let (store, election) = bench();
    let first = election.campaign(&text("first")).await.unwrap();
    let waiting = stand(&election, "second").await;
    let [_, stood] = <[_; 2]>::try_from(election.candidates().await.unwrap()).unwrap();
    assert!(store.faults().expire(stood.lease));
    first.resign().await.unwrap();

    let second = led(waiting).await;
    assert!(second.lease_id() != stood.lease && second.fence() > stood.fence, "it campaigned again");
    second.verify().await.unwrap();
    assert_eq!(values(&election).await, ["second"]);
}

#[tokio::test(start_paused = true)]
async fn cancelled_campaign_leaves_no_key() {
    let (_store, election) = bench();
    let leader = election.campaign(&text("leader")).await.unwrap();
    assert!(election.try_campaign(&text("try")).await.unwrap().is_none());
    let late = election.campaign_within(&text("late"), Duration::from_secs(40)).await.unwrap_err();
    assert_eq!((late.kind(), late.key().map(Key::as_str)), (ErrorKind::Timeout, Some("/e")));
    let cancelled = stand(&election, "cancelled").await;
    cancelled.abort();
    while values(&election).await.len() > 1 {
        sleep(Duration::from_millis(1)).await;
    }
    leader.resign().await.unwrap();
    let leader = election.try_campaign(&text("try")).await.unwrap().expect("nobody leads");
    assert_eq!(values(&election).await, ["try"]);
    leader.resign().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_current_leader_can_proclaim() {
    let (store, election) = bench();
    let leader = election.campaign(&text("one")).await.unwrap();
    let revision = leader.proclaim(&text("two")).await.unwrap();
    let seen = election.leader().await.unwrap().unwrap();
    assert_eq!((seen.value.as_str(), seen.fence, &seen.key, seen.lease), ("two", leader.fence(), leader.key(), leader.lease_id()));
    assert!(revision > seen.fence);

    // The guard has not noticed the loss before the refused `proclaim`.
    assert!(store.faults().expire(leader.lease_id()));
    let next = election.campaign(&text("next")).await.unwrap();
    assert_eq!(leader.proclaim(&text("three")).await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert!(!leader.is_held());
    assert_eq!(leader.proclaim(&text("three")).await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(leader.resign().await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(values(&election).await, ["next"]);
    next.verify().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn unencodable_value_is_refused() {
    let election = Client::with_store(MemoryStore::new()).election::<SystemTime>("/e");
    let never = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    let refused = election.campaign(&never).await.unwrap_err();
    assert_eq!((refused.kind(), refused.key().map(Key::as_str)), (ErrorKind::Encode, Some("/e")));
    let leader = election.campaign(&SystemTime::UNIX_EPOCH).await.unwrap();
    let refused = leader.proclaim(&never).await.unwrap_err();
    assert_eq!((refused.kind(), refused.key()), (ErrorKind::Encode, Some(leader.key())));
    assert_eq!(election.depose(&never).await.unwrap_err().kind(), ErrorKind::Encode);
}

#[tokio::test(start_paused = true)]
async fn every_call_refuses_an_empty_name() {
    let client = Client::with_store(MemoryStore::new());
    let election = client.election::<String>("").ttl(Duration::from_secs(3));
    let me = text("me");
    let errors = [
        election.campaign(&me).await.unwrap_err(),
        election.try_campaign(&me).await.unwrap_err(),
        election.campaign_within(&me, LONG).await.unwrap_err(),
        election.lead(&me, |_| async {}).await.unwrap_err(),
        election.leader().await.unwrap_err(),
        election.candidates().await.unwrap_err(),
        election.strays().await.unwrap_err(),
        election.observe().await.unwrap_err(),
        election.depose(&me).await.unwrap_err(),
        client.lock("").acquire().await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::InvalidKey, "{error}");
    }
}

/// etcd 3.7 omits the leases from answers without values.
#[tokio::test(start_paused = true)]
async fn candidate_waits_if_keys_only_response_omits_lease() {
    let store = MemoryStore::new();
    store.faults().hide_leases_of_keys_only(true);
    let client = Client::with_store(store);
    let election = client.election::<String>("/e");
    let leader = election.campaign(&text("one")).await.unwrap();
    assert!(election.try_campaign(&text("two")).await.unwrap().is_none());
    assert_eq!(election.campaign_within(&text("two"), LONG).await.unwrap_err().kind(), ErrorKind::Timeout);
    leader.verify().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn undecodable_value_does_not_hide_other_candidates() {
    let (store, election) = bench();
    let client = Client::with_store(store);
    let numbers = client.election::<u32>("/e");
    let foreign = election.campaign(&text("not a number")).await.unwrap();
    let mut changes = numbers.observe().await.unwrap();
    let waiting = tokio::spawn(async move { client.election::<u32>("/e").campaign(&7).await.unwrap() });
    while numbers.candidates().await.unwrap().len() < 2 {
        sleep(Duration::from_millis(1)).await;
    }

    let [first, second] = <[_; 2]>::try_from(numbers.candidates().await.unwrap()).unwrap();
    assert_eq!(second.transpose().unwrap().value, 7);
    for error in [numbers.leader().await.unwrap_err(), next(&mut changes).await.unwrap_err(), first.transpose().unwrap_err()] {
        assert_eq!((error.kind(), error.key()), (ErrorKind::Decode, Some(foreign.key())));
        assert_eq!(error.problems()[0].revision, Some(foreign.fence()));
    }
    foreign.proclaim(&text("8")).await.unwrap();
    assert_eq!(next(&mut changes).await.unwrap().unwrap().value, 8, "the stream goes on");
    foreign.resign().await.unwrap();
    assert_eq!(next(&mut changes).await.unwrap().unwrap().value, 7);
    drop(timeout(LONG, waiting).await.unwrap().unwrap());
    assert_eq!(next(&mut changes).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn observe_survives_every_watch_interruption() {
    let (store, election) = bench();
    let mut changes = election.observe().await.unwrap();
    assert_eq!(told(&mut changes).await, None);

    let one = election.campaign(&text("one")).await.unwrap();
    assert_eq!(told(&mut changes).await, Some((text("one"), one.fence())));
    let waiting = stand(&election, "one").await;
    one.proclaim(&text("one")).await.unwrap();
    store.faults().drop_connections();
    one.proclaim(&text("uno")).await.unwrap();
    assert_eq!(told(&mut changes).await, Some((text("uno"), one.fence())), "an unchanged value is not repeated");

    // Another leader with the same value, seen only after the history is compacted.
    one.proclaim(&text("one")).await.unwrap();
    assert_eq!(told(&mut changes).await, Some((text("one"), one.fence())));
    store.faults().drop_connections();
    store.faults().fail(Calls::Watches, 3, ErrorKind::Unavailable);
    one.resign().await.unwrap();
    let other = led(waiting).await;
    store.faults().compact();
    assert_eq!(told(&mut changes).await, Some((text("one"), other.fence())));
    assert!(changes.interruption().is_none());

    store.faults().lag_watches();
    drop(other);
    assert_eq!(told(&mut changes).await, None);
    assert!(changes.next().now_or_never().is_none(), "nothing more to tell");

    // When the server is emptied, the stream reports that nobody leads.
    let last = election.campaign(&text("last")).await.unwrap();
    assert_eq!(told(&mut changes).await, Some((text("last"), last.fence())));
    store.faults().wipe();
    assert_eq!(told(&mut changes).await, None);
    timeout(LONG, last.lost()).await.expect("the guard notices too");
    let again = election.campaign(&text("last")).await.unwrap();
    let item = timeout(LONG, StreamExt::next(&mut changes)).await.unwrap().unwrap().unwrap().unwrap();
    assert_eq!((item.fence, item.token().key()), (again.fence(), again.key()));
}

#[tokio::test(start_paused = true)]
async fn lasting_refusal_ends_observe_stream() {
    let (store, election) = bench();
    let mut changes = election.observe().await.unwrap();
    assert_eq!(told(&mut changes).await, None);
    store.faults().drop_connections();
    store.faults().fail(Calls::Watches, usize::MAX, ErrorKind::PermissionDenied);
    assert_eq!(next(&mut changes).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(changes.next().await.is_none());
    store.faults().clear();
    store.faults().fail(Calls::Reads, 1, ErrorKind::PermissionDenied);
    assert_eq!(election.observe().await.unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn short_refusal_does_not_end_observe_stream() {
    let (store, election) = bench();
    let mut changes = election.observe().await.unwrap();
    assert_eq!(told(&mut changes).await, None);
    store.faults().drop_connections();
    store.faults().fail(Calls::Watches, 3, ErrorKind::PermissionDenied);
    let leader = election.campaign(&text("me")).await.unwrap();
    assert_eq!(told(&mut changes).await, Some((text("me"), leader.fence())));
}

#[tokio::test(start_paused = true)]
async fn lead_retries_after_bad_certificate() {
    let (store, election) = bench();
    let mut terms = 0;
    let work = |leader: Arc<Leader<String>>| {
        terms += 1;
        let (store, term) = (store.clone(), terms);
        async move {
            if term == 1 {
                store.faults().fail(Calls::Leases, 5, ErrorKind::Tls);
                assert!(store.faults().expire(leader.lease_id()));
                leader.lost().await;
            }
            term
        }
    };
    assert_eq!(timeout(LONG, election.lead(&text("me"), work)).await.unwrap().unwrap(), 2);
    // An error in the first campaign is returned.
    store.faults().fail(Calls::Leases, 1, ErrorKind::Tls);
    store.faults().fail(Calls::Commits, 1, ErrorKind::Tls);
    assert_eq!(election.lead(&text("me"), |_| async {}).await.unwrap_err().kind(), ErrorKind::Tls);
}

#[tokio::test(start_paused = true)]
async fn depose_removes_all_candidates_with_value() {
    let (_store, election) = bench();
    let leader = election.campaign(&text("gone")).await.unwrap();
    let stays = stand(&election, "stays").await;
    let again = stand(&election, "gone").await;
    assert_eq!(election.depose(&text("nobody")).await.unwrap(), 0);
    assert_eq!(election.depose(&text("gone")).await.unwrap(), 2);
    assert_eq!(timeout(LONG, leader.lost()).await.unwrap().reason(), LostReason::KeyDeleted);
    let stays = led(stays).await;
    while values(&election).await.len() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(values(&election).await, ["stays", "gone"], "a removed waiter joins again, at the end");
    stays.resign().await.unwrap();
    led(again).await.verify().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn token_hands_leadership_over() {
    let (store, election) = bench();
    let mut changes = election.observe().await.unwrap();
    assert_eq!(told(&mut changes).await, None);
    let leader = election.campaign(&text("me")).await.unwrap();
    let fence = leader.fence();
    assert_eq!(told(&mut changes).await, Some((text("me"), fence)));
    let waiting = stand(&election, "next").await;
    let token = leader.into_token();
    let token: Token = token.to_string().parse().unwrap();

    let elsewhere = Client::with_store(store).election::<String>("/e").ttl(Duration::from_secs(5));
    let renewed = elsewhere.renew(&token, Duration::from_secs(60)).await.unwrap();
    assert_eq!(election.adopt(&token).await.unwrap_err().kind(), ErrorKind::GuardLost, "renewing replaced the token");
    let adopted = elsewhere.adopt(&renewed).await.unwrap();
    assert_eq!((adopted.fence(), values(&election).await), (fence, vec![text("me"), text("next")]));
    adopted.proclaim(&text("still me")).await.unwrap();
    while told(&mut changes).await != Some((text("still me"), fence)) {}

    let error = elsewhere.release_token(&Token::new(Key::parse("/other/1").unwrap(), fence, renewed.lease_id())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let token = election.leader().await.unwrap().unwrap().token();
    election.release_token(&token).await.unwrap();
    assert_eq!(election.release_token(&token).await.unwrap_err().kind(), ErrorKind::GuardLost);
    timeout(LONG, adopted.lost()).await.unwrap();
    led(waiting).await.resign().await.unwrap();
}

/// A value that counts its drops.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn lead_runs_again_after_each_loss() {
    let (store, election) = bench();
    let (log, mut terms) = mpsc::unbounded_channel();
    let dropped = Arc::new(AtomicUsize::new(0));
    let leading = tokio::spawn({
        let (election, dropped) = (election.clone(), dropped.clone());
        let mut term = 0;
        async move {
            let work = |leader: Arc<Leader<String>>| {
                term += 1;
                let (term, dropped) = (term, Dropped(dropped.clone()));
                // The test keeps this clone of the leadership beyond the work.
                log.send(leader.clone()).unwrap();
                async move {
                    let _dropped = dropped;
                    leader.proclaim(&format!("term {term}")).await.unwrap();
                    if term < 3 {
                        std::future::pending::<()>().await;
                    }
                    term
                }
            };
            election.lead(&text("me"), work).await
        }
    });
    let mut fence = Revision::ZERO;
    let mut leaked = Vec::new();
    for term in 1..3 {
        let leader = timeout(LONG, terms.recv()).await.unwrap().unwrap();
        assert!(leader.fence() > fence && dropped.load(Ordering::SeqCst) == term - 1);
        fence = leader.fence();
        while values(&election).await != [format!("term {term}")] {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(leader.is_held() && store.faults().expire(leader.lease_id()));
        timeout(LONG, leader.lost()).await.unwrap();
        leaked.push(leader);
    }
    assert_eq!(timeout(LONG, leading).await.unwrap().unwrap().unwrap(), 3);
    assert_eq!((dropped.load(Ordering::SeqCst), values(&election).await.len()), (3, 0), "it resigned");
    leaked.push(terms.recv().await.unwrap());
    assert!(leaked.iter().all(|leader| !leader.is_held()));
    assert_eq!(leaked[2].lost().await.reason(), LostReason::Released);
    assert_eq!(leaked[2].proclaim(&text("no")).await.unwrap_err().kind(), ErrorKind::GuardLost);

    // The next leadership reuses the lease. Dropping guards of past terms does not end it.
    let next = election.campaign(&text("next")).await.unwrap();
    drop(leaked);
    sleep(Duration::from_secs(60)).await;
    next.verify().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropped_lead_resigns_despite_clones() {
    let (_store, election) = bench();
    let (log, mut terms) = mpsc::unbounded_channel();
    let leading = tokio::spawn({
        let election = election.clone();
        async move {
            let work = |leader| {
                log.send(leader).unwrap();
                std::future::pending::<()>()
            };
            election.lead(&text("me"), work).await
        }
    });
    let leader = timeout(LONG, terms.recv()).await.unwrap().unwrap();
    let waiting = stand(&election, "next").await;
    leading.abort();
    led(waiting).await.verify().await.unwrap();
    assert!(!leader.is_held());
}

#[tokio::test(start_paused = true)]
async fn lead_waits_through_outage_but_reports_refusal() {
    let (store, election) = bench();
    store.faults().stop();
    let leading = tokio::spawn({
        let election = election.clone();
        async move { election.lead(&text("me"), |leader| async move { leader.fence() }).await }
    });
    sleep(Duration::from_secs(300)).await;
    assert!(!leading.is_finished());
    store.faults().start();
    assert!(timeout(LONG, leading).await.unwrap().unwrap().unwrap() > Revision::ZERO);

    for kind in [ErrorKind::PermissionDenied, ErrorKind::NoSpace, ErrorKind::Unauthenticated] {
        store.faults().fail(Calls::Commits, 1, kind);
        assert_eq!(election.lead(&text("me"), |_| async {}).await.unwrap_err().kind(), kind);
    }
}

#[tokio::test(start_paused = true)]
async fn lead_continues_after_refused_guarded_write() {
    let (store, election) = bench();
    let client = Client::with_store(store.clone());
    let count = client.entry::<u32>("/count").unwrap();
    let mut term = 0;
    let work = |leader: Arc<Leader<String>>| {
        term += 1;
        if term == 1 {
            // The guard has not noticed the loss yet.
            store.faults().expire(leader.lease_id());
        }
        let count = count.clone();
        async move { count.set(&term).guarded_by(&leader).await }
    };
    let written = timeout(LONG, election.lead(&text("me"), work)).await.unwrap().unwrap();
    assert!(written.is_ok(), "{written:?}");
    assert_eq!(count.get().await.unwrap().as_deref(), Some(&2));
}
