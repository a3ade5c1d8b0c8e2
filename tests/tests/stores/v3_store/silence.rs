//! Promise G3: every call has a time limit, and the future of a wait may be dropped at any time.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use etcd_typed::store::StatsKind;
use etcd_typed::testing::{Etcd, Mode, Proxy};
use etcd_typed::{Cause, Client, Error, ErrorKind, EtcdSchema, Expect, LiveStatus, Result, RetryPolicy};
use etcd_typed_tests::checks::{Counted, Told};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::PATIENCE;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Settings {
    #[etcd(default = 1)]
    limit: u64,
}

type Call<'c> = Pin<Box<dyn Future<Output = (&'static str, Option<Error>)> + 'c>>;

fn call<'c, T>(name: &'static str, work: impl Future<Output = Result<T>> + 'c) -> Call<'c> {
    Box::pin(async move { (name, work.await.err()) })
}

/// The server accepts all requests and answers none. The test leaves out calls that wait for
/// something that may never happen: `acquire`, `campaign`, `lead`, `wait_for`, and the streams.
#[tokio::test]
async fn every_call_ends_when_server_is_silent() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let retry = RetryPolicy::new().call_timeout(Duration::from_secs(1));
    let client = Client::builder(&format!("etcd://{}", proxy.endpoint())).retry(retry).connect().await.unwrap();
    let seconds = Duration::from_secs(60);
    let locks = |name: &str| client.lock(name).ttl(seconds);
    let election = client.election::<u64>("/election").ttl(seconds);
    let token = locks("/token").acquire().await.unwrap().into_token();
    let (held, verified) = (locks("/held").acquire().await.unwrap(), locks("/verified").acquire().await.unwrap());
    let candidacy = client.election::<u64>("/candidacy").campaign(&1).await.unwrap().into_token();
    let (leader, proclaimer) = (election.campaign(&1).await.unwrap(), client.election::<u64>("/other").campaign(&1).await.unwrap());
    let lease = client.lease(seconds).await.unwrap();
    let published = client.entry::<u64>("/service").unwrap().publish(&1).ttl(seconds).await.unwrap();
    let changed = client.entry::<u64>("/changed").unwrap().publish(&1).ttl(seconds).await.unwrap();
    let dir = client.dir::<Settings>("/settings").unwrap();
    dir.set(&Settings { limit: 2 }).await.unwrap();
    let seen = dir.get().await.unwrap();

    proxy.set(Mode::Stall).await;
    let entry = client.entry::<u64>("/entry").unwrap();
    let (map, dirs) = (client.entries::<String, u64>("/map").unwrap(), client.dirs::<String, Settings>("/dirs").unwrap());
    let directory = client.directory("/directory").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let no_snapshot = folder.path().join("settings");
    let one = |value: u64| BTreeMap::from([("a".to_owned(), value)]);
    let one_dir = BTreeMap::from([("a".to_owned(), Settings { limit: 1 })]);
    macro_rules! calls {
        ($($name:literal: $call:expr;)*) => {
            [$(call($name, async { $call })),*]
        };
    }
    let calls = calls! {
        "status": client.status().await;
        "members": client.members().await;
        "lease": client.lease(seconds).await;
        "revoke": lease.revoke().await;
        "get": entry.get().await;
        "get_or_default": entry.get_or_default().await;
        "exists": entry.exists().await;
        "set": entry.set(&1).await;
        "set with ttl": entry.set(&1).ttl(seconds).await;
        "create": entry.create(&1).await;
        "replace": entry.replace(&1).await;
        "swap": entry.swap(&1).await;
        "compare_and_swap": entry.compare_and_swap(Expect::value(&1), &2).await;
        "delete": entry.delete().await;
        "compare_and_delete": entry.compare_and_delete(Expect::value(&1)).await;
        "modify": entry.modify(|value| value).await;
        "watch": entry.watch().await;
        "publish": entry.publish(&1).await;
        "withdraw": published.withdraw().await;
        "set of a published value": changed.set(&2).await;
        "transaction": client.transaction().write(entry.set(&1)).await;
        "get of a struct": dir.get().await;
        "exists of a struct": dir.exists().await;
        "set of a struct": dir.set(&Settings { limit: 3 }).await;
        "create of a struct": dir.create(&Settings { limit: 3 }).await;
        "compare_and_swap of a struct": dir.compare_and_swap(&seen, &Settings { limit: 3 }).await;
        "delete of a struct": dir.delete().await;
        "compare_and_delete of a struct": dir.compare_and_delete(&seen).await;
        "update of a struct": dir.update(|settings| settings.limit += 1).await;
        "diff of a struct": dir.diff(&Settings { limit: 3 }).await;
        "check of a struct": dir.check().await;
        "watch of a struct": dir.watch().await;
        "get of a map": map.get().await;
        "set of a map": map.set(&one(1)).await;
        "diff of a map": map.diff(&one(1)).await;
        "check of a map": map.check().await;
        "watch of a map": map.watch().await;
        "pages of a map": map.stream().next().await.transpose();
        "keys of a map of structs": dirs.keys().await;
        "get of a map of structs": dirs.get().await;
        "set of a map of structs": dirs.set(&one_dir).await;
        "list": directory.list().await;
        "list_recursive": directory.list_recursive().await;
        "exists of a directory": directory.exists().await;
        "delete_recursive": directory.delete_recursive().await;
        "watch of a directory": directory.watch().await;
        "try_acquire": client.lock("/try").try_acquire().await;
        "acquire_within": client.lock("/within").acquire_within(Duration::from_secs(1)).await;
        "holder": client.lock("/held").holder().await;
        "queue": client.lock("/held").queue().await;
        "strays": client.lock("/held").strays().await;
        "adopt": client.lock("/token").adopt(&token).await;
        "renew": client.lock("/token").renew(&token, seconds).await;
        "release_token": client.lock("/token").release_token(&token).await;
        "release": held.release().await;
        "verify": verified.verify().await;
        "try_campaign": client.election::<u64>("/try").try_campaign(&1).await;
        "campaign_within": client.election::<u64>("/within").campaign_within(&1, Duration::from_secs(1)).await;
        "leader": election.leader().await;
        "candidates": election.candidates().await;
        "observe": election.observe().await;
        "live": entry.live().await;
        "live of a struct": dir.live().await;
        "live of a struct with a file": dir.live().or_snapshot(&no_snapshot).await;
        "live of a map": map.live().await;
        "live of a map of structs": dirs.live().await;
        "adopt of a candidacy": client.election::<u64>("/candidacy").adopt(&candidacy).await;
        "renew of a candidacy": client.election::<u64>("/candidacy").renew(&candidacy, seconds).await;
        "release_token of a candidacy": client.election::<u64>("/candidacy").release_token(&candidacy).await;
        "strays of an election": election.strays().await;
        "depose": client.election::<u64>("/deposed").depose(&1).await;
        "resign": leader.resign().await;
        "proclaim": proclaimer.proclaim(&2).await;
    };
    // This call is refused without a request.
    assert_eq!(client.stats(StatsKind::Store).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let count = calls.len();
    let ends = join_all(calls.into_iter().map(|call| timeout(PATIENCE, call))).await;
    let mut told = 0;
    for end in ends {
        let (name, error) = end.expect("every call ends in time");
        let error = error.unwrap_or_else(|| panic!("{name} succeeded"));
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{name}: {:?}: {error}", error.kind());
        told += 1;
    }
    assert_eq!(told, count);
}

/// A live view starts with a read and does not wait for its watch. Here, only the connection for
/// watches is silent.
#[tokio::test]
async fn view_starts_while_its_watch_is_silent() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let retry = RetryPolicy::new().call_timeout(Duration::from_secs(1));
    let client = Client::builder(&format!("etcd://{}", proxy.endpoint())).retry(retry).connect().await.unwrap();
    let entry = client.entry::<u64>("/entry").unwrap();
    entry.set(&1).await.unwrap();
    // The client opens its next connection for watches.
    proxy.hold(Some(proxy.accepted()));
    let view = timeout(PATIENCE, entry.live()).await.expect("the view starts in time").unwrap();
    assert_eq!(**view.get(), Some(1));
    let LiveStatus::Degraded { cause: Cause::Interrupted(error), .. } = view.status() else { panic!("{:?}", view.status()) };
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    proxy.hold(None);
    let written = entry.set(&2).await.unwrap();
    assert_eq!(**timeout(PATIENCE, view.wait_for_revision(written)).await.expect("the view follows in time").unwrap(), Some(2));
    let live = async {
        while !view.status().is_live() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, live).await.expect("the watch is created");
}

/// A wait that is dropped after any time loses no change.
#[tokio::test]
async fn dropped_waits_lose_no_change() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let direct = Client::connect(&etcd.url_v3()).await.unwrap().entry::<u64>("/counter").unwrap();
    let watching = Client::connect(&format!("etcd://{}", proxy.endpoint())).await.unwrap();
    let entry = watching.entry::<u64>("/counter").unwrap();
    let (mut changes, mut view) = (entry.watch().await.unwrap(), entry.live().await.unwrap());
    const WRITES: u64 = 500;
    let writer = tokio::spawn(async move {
        for value in 1..=WRITES {
            direct.set(&value).await.unwrap();
            if value % 100 == 0 {
                proxy.cut();
            }
        }
        proxy
    });
    let (mut counted, mut given_up) = (Counted::default(), 0);
    while counted.last < WRITES {
        match timeout(Duration::from_micros(fastrand::u64(..1500)), changes.next()).await {
            Ok(change) => {
                let change = change.unwrap().unwrap();
                let told = Told { revision: change.revision.get(), resynced: change.resynced, old: change.old, new: change.new };
                counted.tell(told).unwrap();
            }
            Err(_) => given_up += 1,
        }
    }
    while **view.get() != Some(WRITES) {
        // Dropping the wait does not skip the newest state.
        let _ = timeout(Duration::from_micros(fastrand::u64(..1500)), view.changed()).await;
    }
    let _proxy = writer.await.unwrap();
    println!("given up {given_up} times");
    assert!(given_up > 10);
}
