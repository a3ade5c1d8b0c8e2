//! A watch over etcd v2 yields exactly the writer's history while its server is killed and its
//! connections are cut.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_typed::testing::{Etcd, Mode, Proxy};
use etcd_typed::{Client, Entry, EtcdSchema, Expect};
use tokio::time::{sleep, timeout};

use super::launch;

const FAULTS: usize = 60;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(120);

/// Writes a value exactly once, as the only writer of this entry. An attempt may have an unknown
/// outcome or be applied late. Every attempt expects the previous value, so only one attempt is
/// applied.
async fn write_once(entry: &Entry<String>, before: Option<&String>, value: &String) {
    let expected = before.map_or(Expect::Absent, Expect::value);
    loop {
        match entry.compare_and_swap(expected, value).await {
            Ok(_) => return,
            Err(error) if error.current::<String>().is_some_and(|now| **now == *value) => return,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn watch_yields_whole_history_despite_kills() {
    watch_yields_whole_history(Some(4)).await;
}

#[tokio::test]
async fn watch_yields_whole_history_despite_cuts() {
    watch_yields_whole_history(None).await;
}

/// Checks that a watch yields the whole history. Every `kill`-th fault kills the server. All other
/// faults cut the connections.
async fn watch_yields_whole_history(kill: Option<usize>) {
    let mut etcd = launch(Etcd::builder()).await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let client = Client::connect(&format!("etcd2://{}", proxy.endpoint())).await.unwrap();
    let mut changes = client.directory("/app").unwrap().watch().await.unwrap();

    let direct = Client::connect(&etcd.url_v2()).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let finished = done.clone();
    let writer = tokio::spawn(async move {
        let entries: Vec<(String, Entry<String>)> =
            (0..7).map(|n| format!("k{n}")).map(|name| (name.clone(), direct.entry(&format!("/app/{name}")).unwrap())).collect();
        let mut written: Vec<(String, String)> = Vec::new();
        while !finished.load(Ordering::Relaxed) {
            let number = written.len();
            let (name, entry) = &entries[number % entries.len()];
            let before = number.checked_sub(entries.len()).map(|number| number.to_string());
            write_once(entry, before.as_ref(), &number.to_string()).await;
            written.push((name.clone(), number.to_string()));
            sleep(Duration::from_millis(1)).await;
        }
        write_once(&direct.entry("/app/end").unwrap(), None, &"end".to_owned()).await;
        written
    });
    let watcher = tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            let update = changes.next().await;
            let update = update.expect("no end").expect("no error");
            assert!(!update.resynced, "{update:?}");
            for keyed in update.changes {
                if keyed.key == "end" {
                    return seen;
                }
                seen.push((keyed.key, String::from_utf8(keyed.change.new.expect("a put").to_vec()).unwrap()));
            }
        }
    });

    let (mut cuts, mut kills) = (0, 0);
    for fault in 1..=FAULTS {
        sleep(Duration::from_millis(50)).await;
        if kill.is_some_and(|every| fault % every == 0) {
            etcd.kill().await;
            etcd.restart().await;
            kills += 1;
        } else {
            proxy.cut();
            cuts += 1;
        }
    }
    done.store(true, Ordering::Relaxed);
    let written = timeout(LIMIT, writer).await.expect("the writer ends").unwrap();
    let seen = timeout(LIMIT, watcher).await.expect("the watcher ends").unwrap();
    // Writes to standard error without the test harness, which would hide the output of a passing
    // test.
    let mut log = std::io::stderr();
    writeln!(log, "v2: {cuts} cuts, {kills} kills: {} writes, {} changes seen", written.len(), seen.len()).unwrap();
    assert_eq!(seen, written);
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Settings {
    #[etcd(default = 0)]
    limit: u64,
    note: Option<String>,
}

/// When the client reconnects, the revision of the new cluster is already larger than that of the
/// former cluster. A key may also have the value that the client saw last. Only the cluster's id
/// shows that the cluster is new.
#[tokio::test]
async fn clients_recover_in_new_cluster() {
    let mut etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let client = Client::connect(&format!("etcd2://{}", proxy.addr())).await.unwrap();
    let dir = client.dir::<Settings>("/app").unwrap();
    dir.note.set(&"former".to_owned()).await.unwrap();
    dir.limit.set(&1).await.unwrap();
    let mut changes = dir.watch().await.unwrap();
    let named = client.lock("/locks/a").ttl(Duration::from_secs(600));
    let held = named.acquire().await.unwrap();
    // Give the lock time to start watching its key.
    sleep(Duration::from_millis(300)).await;

    proxy.set(Mode::Refuse).await;
    proxy.cut();
    etcd.wipe_as("restored").await;
    let direct = Client::connect(&etcd.url_v2()).await.unwrap().dir::<Settings>("/app").unwrap();
    for limit in 0..100 {
        direct.limit.set(&limit).await.unwrap();
    }
    proxy.set(Mode::Pass).await;
    let resynced = async {
        loop {
            let update = changes.next().await.unwrap().unwrap();
            if update.resynced {
                return update;
            }
        }
    };
    let update = timeout(LIMIT, resynced).await.expect("the watch starts again from the state of the new cluster");
    assert_eq!(update.changes.len(), 2, "one value changed, and one was deleted: {update:?}");
    timeout(LIMIT, held.lost()).await.expect("the lock is lost");
    assert!(!held.is_held());
    timeout(LIMIT, named.acquire()).await.expect("in time").unwrap().release().await.unwrap();
}
