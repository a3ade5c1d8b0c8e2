//! Metrics and events that report faults, with the embedded store and paused time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::testing::CountingStore;
use etcd_typed::{Changes, Client, ErrorKind, Expect, Live, LostReason, Update};
use etcd_typed_tests::waiting::until;
use tokio::time::{sleep, timeout};

use crate::listener::Listener;
use crate::{CHECKOUT, Checkout, CheckoutChange, CheckoutDir, planted};

/// A time that is longer than any backoff. Time is paused.
const LONG: Duration = Duration::from_secs(120);

const INTERRUPTIONS: &str = "etcd_typed_watch_interruptions_total";
const RESYNCS: &str = "etcd_typed_resyncs_total";

struct Bench {
    listener: Listener,
    store: MemoryStore,
    client: Client,
    dir: CheckoutDir,
}

fn bench() -> Bench {
    let listener = Listener::new();
    let store = MemoryStore::new();
    let client = Client::with_store(store.clone());
    let dir = CheckoutDir::open(&client, "planted").unwrap();
    Bench { listener, store, client, dir }
}

async fn next(changes: &mut Changes<CheckoutChange, Checkout>) -> Update<CheckoutChange> {
    timeout(LONG, changes.next()).await.expect("a change in time").expect("the stream goes on").expect("no error")
}

/// Waits in real time, for a file that another thread writes.
async fn until_real(what: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !what() {
        assert!(began.elapsed() < LONG, "this happens in time");
        sleep(Duration::from_millis(1)).await;
        std::thread::yield_now();
    }
}

#[tokio::test(start_paused = true)]
async fn watch_interruption_is_counted_once() {
    let Bench { listener, store, dir, .. } = bench();
    let mut changes = dir.watch().await.unwrap();
    store.faults().fail(Calls::Watches, 3, ErrorKind::Unavailable);
    store.faults().drop_connections();
    dir.set(&planted()).await.unwrap();
    assert!(!next(&mut changes).await.resynced);

    assert_eq!(listener.value(INTERRUPTIONS, &[("pattern", CHECKOUT), ("cause", "unavailable")]), 1.0);
    assert_eq!((listener.events("interrupted").len(), listener.events("not resumed yet").len()), (1, 4));
    let resumed = listener.events("resumed");
    assert_eq!((resumed.len(), resumed[0].fields["pattern"].as_str()), (1, CHECKOUT));
    assert!(!listener.series().iter().any(|series| series.name == RESYNCS), "nothing was lost");
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn lagging_watch_is_counted_as_lagged() {
    let Bench { listener, store, dir, .. } = bench();
    let mut changes = dir.watch().await.unwrap();
    dir.rate_limit.set(&1).await.unwrap();
    next(&mut changes).await;
    store.faults().lag_watches();
    dir.rate_limit.set(&2).await.unwrap();
    next(&mut changes).await;

    assert_eq!(listener.value(INTERRUPTIONS, &[("pattern", CHECKOUT), ("cause", "lagged")]), 1.0);
    assert_eq!((listener.events("lagged").len(), listener.events("interrupted").len()), (1, 0));
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn resyncs_are_counted_by_cause() {
    let Bench { listener, store, dir, .. } = bench();
    let mut changes = dir.watch().await.unwrap();
    dir.set(&planted()).await.unwrap();
    next(&mut changes).await;

    store.faults().drop_connections();
    dir.rate_limit.set(&1).await.unwrap();
    store.faults().compact();
    assert!(next(&mut changes).await.resynced);
    let by_cause = |cause| listener.value(RESYNCS, &[("pattern", CHECKOUT), ("cause", cause)]);
    assert_eq!((by_cause("history_lost"), by_cause("rewound")), (1.0, 0.0));

    store.faults().wipe();
    assert!(next(&mut changes).await.resynced);
    assert_eq!((by_cause("history_lost"), by_cause("rewound")), (1.0, 1.0));
    let told = listener.events("resynced");
    assert_eq!((told[0].fields["cause"].as_str(), told[1].fields["cause"].as_str()), ("history_lost", "rewound"));
    assert_eq!((told[1].fields["revision"].as_str(), told[1].fields["seen"].as_str()), ("1", told[0].fields["revision"].as_str()));
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn view_counts_applied_and_rejected_states() {
    let Bench { listener, client, dir, .. } = bench();
    dir.set(&planted()).await.unwrap();
    let live: Live<Checkout> = dir.live().await.unwrap();
    let value = |name: &str| listener.value(&format!("etcd_typed_{name}"), &[("pattern", CHECKOUT)]);
    assert_eq!((value("views"), value("views_degraded"), value("view_applied_total")), (1.0, 0.0, 1.0));

    let written = dir.rate_limit.set(&7).await.unwrap();
    live.wait_for_revision(written).await.unwrap();
    assert_eq!((value("view_applied_total"), value("view_revision")), (2.0, written.get() as f64));

    // Two transactions, each with an invalid value: two states are rejected, and one view is
    // degraded.
    let text = "planted-number".to_owned();
    client.entry::<String>("/planted/checkout/rate_limit").unwrap().set(&text).await.unwrap();
    let bad = client.entry::<String>("/planted/checkout/quotas/planted-customer").unwrap().set(&text).await.unwrap();
    live.wait_for_revision(bad).await.unwrap_err();
    assert_eq!((value("view_applied_total"), value("view_rejected_total")), (2.0, 2.0));
    assert_eq!((value("view_revision"), value("views_degraded")), (written.get() as f64, 1.0), "the last good state is shown");
    let problems: Vec<_> = listener.events("rejected").iter().map(|event| event.fields["problems"].clone()).collect();
    assert_eq!(problems, ["1", "2"]);

    let mended = dir.set(&planted()).await.unwrap();
    live.wait_for_revision(mended).await.unwrap();
    assert_eq!((value("views_degraded"), value("view_revision")), (0.0, mended.get() as f64));
    assert_eq!(listener.events("recovered").len(), 1);

    // A write of another key also advances the view's revision.
    let elsewhere = client.entry::<u32>("/elsewhere").unwrap().set(&1).await.unwrap();
    live.wait_for_revision(elsewhere).await.unwrap();
    assert_eq!((value("view_applied_total"), value("view_revision")), (3.0, elsewhere.get() as f64));

    let another = dir.live().await.unwrap();
    assert_eq!(value("views"), 2.0);
    drop(live);
    until(|| value("views") == 1.0).await;
    drop(another);
    until(|| value("views") == 0.0).await;
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn bad_entry_is_reported_once() {
    let Bench { listener, client, .. } = bench();
    let ports = client.entries::<String, u16>("/ports").unwrap();
    let put =
        async |name: &str, text: &str| client.entry::<String>(&format!("/ports/{name}")).unwrap().set(&text.to_owned()).await.unwrap();
    put("a", "one").await;
    let live = ports.live().per_entry().await.unwrap();
    let value = |name: &str| listener.value(&format!("etcd_typed_{name}"), &[("pattern", "u16")]);
    assert_eq!((value("view_bad_entries"), value("views_degraded")), (1.0, 0.0));
    // The same entry gets another bad value, and a second entry becomes bad.
    put("a", "uno").await;
    let written = put("b", "two").await;
    live.wait_for_revision(written).await.unwrap();
    assert_eq!(value("view_bad_entries"), 2.0);
    let named = || listener.events("bad entries").iter().map(|event| event.fields["problems"].clone()).collect::<Vec<_>>();
    assert_eq!(named().len(), 2, "{:?}", named());
    assert!(
        named()[0].starts_with("/ports/a: ") && named()[1].starts_with("/ports/b: ") && !named()[1].contains("/ports/a"),
        "{:?}",
        named()
    );
    // An entry that was good in between is reported again.
    put("a", "1").await;
    let written = put("a", "one").await;
    live.wait_for_revision(written).await.unwrap();
    assert_eq!((named().len(), value("view_bad_entries")), (3, 2.0));
    assert_eq!(value("view_rejected_total"), 0.0);
    drop(live);
    until(|| value("view_bad_entries") == 0.0).await;
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn named_maps_have_separate_metric_series() {
    let Bench { listener, client, .. } = bench();
    let servers = client.entries::<String, String>("/servers").unwrap().named("servers");
    let users = client.entries::<String, String>("/users").unwrap().named("users");
    let (first, second) = (servers.live().await.unwrap(), users.live().await.unwrap());
    let third = users.live().named("other").await.unwrap();
    servers.entry("a").unwrap().set(&"1".to_owned()).await.unwrap();
    let published = servers.entry("b").unwrap().publish(&"2".to_owned()).await.unwrap();
    let value = |name: &str, pattern| listener.value(&format!("etcd_typed_{name}"), &[("pattern", pattern)]);
    assert_eq!([value("views", "servers"), value("views", "users"), value("views", "other")], [1.0; 3]);
    assert_eq!((value("published", "servers"), value("published", "users")), (1.0, 0.0));
    assert!(listener.series().iter().all(|series| series.labels.iter().all(|(_, label)| !label.contains("String"))));
    drop((first, second, third, published));
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn lead_reports_why_leadership_was_lost() {
    let Bench { listener, client, store, .. } = bench();
    let (sender, mut losses) = tokio::sync::mpsc::unbounded_channel();
    let election = client.election::<String>("/lost").on_loss(move |lost| sender.send(lost.reason()).unwrap());
    let (terms, mut term) = tokio::sync::mpsc::unbounded_channel();
    let leading = tokio::spawn(async move {
        election
            .lead(&"me".to_owned(), |leader| {
                terms.send(leader.key().clone()).unwrap();
                std::future::pending::<()>()
            })
            .await
    });
    let key = term.recv().await.unwrap();
    // The guard watches its key after a moment.
    sleep(Duration::from_secs(1)).await;
    client.entry::<String>(key.as_str()).unwrap().delete().await.unwrap();
    assert_eq!(losses.recv().await, Some(LostReason::KeyDeleted));
    term.recv().await.unwrap();
    store.faults().stop();
    assert_eq!(losses.recv().await, Some(LostReason::Expired));
    store.faults().start();
    term.recv().await.unwrap();
    let causes: Vec<_> = listener.events("leadership lost").iter().map(|event| event.fields["cause"].clone()).collect();
    assert_eq!(causes, ["key_deleted", "expired"]);
    leading.abort();
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn view_staleness_grows_without_server() {
    let Bench { listener, store, dir, .. } = bench();
    let live = dir.live().await.unwrap();
    let labels = [("pattern", CHECKOUT)];
    let stale = || listener.value("etcd_typed_view_staleness_seconds", &labels);
    let degraded = || listener.value("etcd_typed_views_degraded", &labels);
    sleep(LONG).await;
    assert!(stale() < 1.0, "{} s", stale());
    store.faults().stop();
    sleep(LONG).await;
    assert!(stale() > LONG.as_secs_f64() - 5.0, "{} s", stale());
    assert_eq!(degraded(), 1.0);
    assert!(!listener.events("not proved").is_empty());
    store.faults().start();
    until(|| stale() < 1.0 && degraded() == 0.0).await;
    assert_eq!(listener.value(INTERRUPTIONS, &[("pattern", CHECKOUT), ("cause", "unavailable")]), 1.0);
    // A degraded view that is dropped is no longer counted as degraded.
    store.faults().stop();
    until(|| degraded() == 1.0).await;
    drop(live);
    until(|| degraded() == 0.0).await;
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn view_from_disk_counts_as_degraded() {
    let Bench { listener, store, dir, .. } = bench();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("checkout");
    dir.set(&planted()).await.unwrap();
    let live = dir.live().or_snapshot(&file).await.unwrap();
    until_real(|| file.exists()).await;
    drop(live);
    store.faults().stop();
    let live = dir.live().or_snapshot(&file).await.unwrap();
    let value = |name: &str| listener.value(&format!("etcd_typed_{name}"), &[("pattern", CHECKOUT)]);
    let told = listener.events("started from disk");
    assert_eq!((told.len(), told[0].fields["cause"].as_str(), value("views_degraded")), (1, "unavailable", 1.0));
    assert_eq!(live.get().token, None, "secrets are not saved");
    store.faults().start();
    until(|| value("views_degraded") == 0.0).await;
    assert_eq!(listener.events("recovered").len(), 1);
    assert_eq!(**live.get(), planted());
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn refused_watch_is_counted_as_interruption() {
    let Bench { listener, store, dir, .. } = bench();
    let live = dir.live().await.unwrap();
    store.faults().fail(Calls::Watches, 3, ErrorKind::PermissionDenied);
    // A watch that lagged is restarted without a backoff, so that its first error is the refusal.
    dir.rate_limit.set(&1).await.unwrap();
    until(|| live.get().rate_limit == 1).await;
    store.faults().lag_watches();
    until(|| !listener.events("refused").is_empty()).await;
    until(|| live.status().is_live()).await;
    assert_eq!(listener.events("refused").len(), 3);
    assert_eq!(
        listener.value(INTERRUPTIONS, &[("pattern", CHECKOUT), ("cause", "permission_denied")]),
        1.0,
        "counted once, not per attempt"
    );
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn restart_of_silent_watch_is_counted_as_resync() {
    let listener = Listener::new();
    let store = MemoryStore::new();
    let client = Client::with_store(CountingStore::new(Arc::new(store.clone())));
    let dir = CheckoutDir::open(&client, "planted").unwrap();
    let live = dir.live().await.unwrap();
    store.faults().fail(Calls::Watches, usize::MAX, ErrorKind::Unavailable);
    store.faults().drop_connections();
    dir.rate_limit.set(&9).await.unwrap();
    until(|| live.get().rate_limit == 9).await;
    assert!(listener.value(RESYNCS, &[("pattern", CHECKOUT), ("cause", "disproved")]) >= 1.0);
    assert!(!listener.events("disproved").is_empty());
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn lease_reports_remaining_time_and_loss() {
    let Bench { listener, store, client, .. } = bench();
    let remaining = || listener.values("etcd_typed_lease_remaining_seconds", &[]);
    let lost = |cause| listener.value("etcd_typed_leases_lost_total", &[("cause", cause)]);
    let lease = client.lease(Duration::from_secs(9)).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    let healthy = remaining();
    // A lease counts as held for nine tenths of its time to live. A third has passed at each
    // keep-alive.
    assert!(healthy.len() == 3 && healthy.iter().all(|left| (*left - 5.1).abs() < 0.1), "{healthy:?}");

    store.faults().fail(Calls::KeepAlives, 2, ErrorKind::Unavailable);
    sleep(Duration::from_secs(3)).await;
    let failed = listener.events("not kept alive");
    assert_eq!((failed.len(), failed[0].fields["cause"].as_str(), failed[0].level.as_str()), (2, "unavailable", "warn"));
    assert!(lost("gone") == 0.0 && lost("expired") == 0.0);

    store.faults().expire(lease.id());
    lease.lost().await;
    assert_eq!((lost("gone"), lost("expired")), (1.0, 0.0));
    drop(lease);

    // A lease that no runtime keeps alive is counted as lost. A spare lease that ends is not.
    let unkept = std::thread::spawn({
        let store = store.clone();
        move || {
            let client = Client::with_store(store);
            let own = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            own.block_on(async {
                client.lock("/spare").acquire().await.unwrap().release().await.unwrap();
                client.lease(Duration::from_secs(9)).await.unwrap()
            })
        }
    });
    let unkept = unkept.join().unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(unkept.lost().await.reason(), LostReason::NotKeptAlive);
    assert_eq!((lost("gone"), lost("expired"), lost("not_kept_alive")), (1.0, 0.0, 1.0));

    let before = remaining().len();
    let lease = client.lease(Duration::from_secs(9)).await.unwrap();
    store.faults().stop();
    sleep(Duration::from_secs(60)).await;
    assert_eq!((lost("gone"), lost("expired")), (1.0, 1.0), "counted once, however many keep-alives fail");
    // Keep-alives are retried until the lease ends, with the backoff of a call.
    let left = remaining().split_off(before);
    assert!(left.is_sorted_by(|one, next| one >= next) && left.last().is_some_and(|last| *last < 2.0), "{left:?}");
    drop(lease);
    until(|| !listener.events("not revoked").is_empty()).await;
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn election_reports_wait_and_failed_campaigns() {
    let Bench { listener, store, client, .. } = bench();
    let election = client.election::<String>("/e");
    let leader = election.campaign(&"one".to_owned()).await.unwrap();
    let waiting = tokio::spawn({
        let election = election.clone();
        async move { election.campaign(&"two".to_owned()).await.unwrap() }
    });
    sleep(Duration::from_secs(50)).await;
    leader.resign().await.unwrap();
    waiting.await.unwrap().resign().await.unwrap();
    let waited = listener.values("etcd_typed_lock_wait_seconds", &[("recipe", "election")]);
    assert!(waited.len() == 2 && waited[0] < 1.0 && (50.0..51.0).contains(&waited[1]), "{waited:?}");
    assert_eq!(listener.events("taken").len(), 2);

    store.faults().stop();
    let leading = tokio::spawn(async move { election.lead(&"me".to_owned(), |_leader| async {}).await });
    sleep(Duration::from_secs(60)).await;
    let told = listener.events("not taken");
    let first = &told[0];
    assert!(told.len() > 20 && first.fields["recipe"] == "election" && first.fields["cause"] == "unavailable", "{first:?}");
    store.faults().start();
    leading.await.unwrap().unwrap();
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn queue_reports_keys_without_lease_once_per_name() {
    let Bench { listener, client, .. } = bench();
    let told = || {
        let events = listener.events("keys outside the queue").into_iter();
        events.map(|said| (said.level, said.fields["recipe"].clone(), said.fields["queue"].clone())).collect::<Vec<_>>()
    };
    client.lock("/jobs").acquire().await.unwrap().release().await.unwrap();
    assert_eq!(told(), []);
    for path in ["/jobs/README", "/leader/README"] {
        client.entry::<String>(path).unwrap().set(&"a note".to_owned()).await.unwrap();
    }
    let of = |recipe: &str, queue: &str| ("warn".to_owned(), recipe.to_owned(), queue.to_owned());
    for _ in 0..2 {
        client.lock("/jobs").acquire().await.unwrap().release().await.unwrap();
        assert_eq!(told(), [of("lock", "/jobs")]);
    }
    client.lock("/jobs").queue().await.unwrap();
    client.election::<String>("/leader").leader().await.unwrap();
    let _changes = client.election::<String>("/leader").observe().await.unwrap();
    assert_eq!(told(), [of("lock", "/jobs"), of("election", "/leader")]);
    listener.check();
}

#[derive(etcd_typed::EtcdSchema, Debug, Default)]
#[serde(default, deny_unknown_fields)]
struct Denies {
    known: u32,
    #[etcd(dir)]
    regions: BTreeMap<String, Region>,
}

#[derive(etcd_typed::EtcdSchema, Debug)]
struct Region {
    replicas: u32,
}

#[tokio::test(start_paused = true)]
async fn view_reports_unknown_keys_once() {
    let Bench { listener, client, .. } = bench();
    let told = || {
        let events = listener.events("unknown keys").into_iter();
        events.map(|said| (said.level, said.fields["pattern"].clone(), said.fields["keys"].clone())).collect::<Vec<_>>()
    };
    let put = |key: &'static str| client.entry::<u32>(key).unwrap();
    put("/denies/regions/eu/replicas").set(&1).await.unwrap();
    put("/denies/regions/eu/other").set(&1).await.unwrap();
    let live = client.dir::<Denies>("/denies").unwrap().live().await.unwrap();
    assert_eq!(told(), [], "a nested struct decides for itself");
    for key in ["/denies/typo", "/denies/other"] {
        put(key).set(&1).await.unwrap();
        until(|| !told().is_empty()).await;
    }
    put("/denies/known").set(&2).await.unwrap();
    until(|| live.get().known == 2).await;
    let once = ("warn".to_owned(), "Denies".to_owned(), "1".to_owned());
    assert_eq!(told(), std::slice::from_ref(&once));
    let _second = client.dir::<Denies>("/denies").unwrap().live().await.unwrap();
    assert_eq!(told(), [once, ("warn".to_owned(), "Denies".to_owned(), "2".to_owned())]);
    assert!(live.status().is_live());
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn metrics_show_lost_and_restored_published_value() {
    let Bench { listener, store, client, .. } = bench();
    let pattern = ("pattern", "u64");
    let gauges = || (listener.value("etcd_typed_published", &[pattern]), listener.value("etcd_typed_published_missing", &[pattern]));
    let put_back = |cause| listener.value("etcd_typed_put_back_total", &[pattern, ("cause", cause)]);
    let entry = client.entry::<u64>("/planted/service").unwrap();
    let published = entry.publish(&1).ttl(Duration::from_secs(9)).await.unwrap();
    let other = client.entry::<u64>("/planted/other").unwrap().publish(&1).await.unwrap();
    assert_eq!(gauges(), (2.0, 0.0));
    assert!(listener.operations().contains(&("publish".to_owned(), "u64".to_owned())));

    sleep(Duration::from_secs(1)).await;
    store.faults().fail(Calls::Commits, 3, ErrorKind::Unavailable);
    store.faults().expire(entry.get().await.unwrap().unwrap().lease().unwrap());
    until(|| gauges() == (2.0, 1.0)).await;
    until(|| gauges() == (2.0, 0.0)).await;
    let not_put: Vec<_> = listener.events("not put").into_iter().map(|event| event.fields["cause"].clone()).collect();
    assert_eq!(not_put, ["unavailable"; 3]);
    assert_eq!(put_back("key_deleted"), 1.0);

    sleep(Duration::from_secs(20)).await;
    store.faults().stop();
    until(|| gauges() == (2.0, 2.0)).await;
    store.faults().start();
    until(|| gauges() == (2.0, 0.0)).await;
    assert_eq!(put_back("expired"), 2.0);

    entry.set(&5).await.unwrap();
    until(|| gauges() == (2.0, 1.0)).await;
    entry.delete().await.unwrap();
    until(|| put_back("taken_over") == 1.0).await;
    assert_eq!(listener.events("missing").len(), listener.events("put back").len());

    published.set(&2).await.unwrap();
    published.withdraw().await.unwrap();
    // A missing value is counted until its guard is dropped.
    store.faults().stop();
    until(|| gauges() == (1.0, 1.0)).await;
    drop(other);
    until(|| gauges() == (0.0, 0.0)).await;
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn conflict_event_belongs_to_operation_span() {
    let Bench { listener, store, client, dir } = bench();
    dir.set(&planted()).await.unwrap();
    // The delay lets both calls read before the first one writes.
    store.faults().delay(Calls::Commits, Duration::from_millis(50));
    let quota = client.entry::<u64>("/planted/quota").unwrap();
    let more = || quota.modify(|now| Some(now.unwrap_or(0) + 1));
    let (one, other) = tokio::join!(more(), more());
    assert_eq!(one.unwrap().map(|value| *value).max(other.unwrap().map(|value| *value)), Some(2));
    let (one, other) = tokio::join!(dir.update(|c| c.rate_limit += 1), dir.update(|c| c.rate_limit += 1));
    assert_eq!(one.unwrap().rate_limit.max(other.unwrap().rate_limit), 102);

    let conflicts = |pattern, op| listener.value("etcd_typed_conflicts_total", &[("pattern", pattern), ("op", op)]);
    assert_eq!((conflicts("u64", "modify"), conflicts(CHECKOUT, "update")), (1.0, 1.0));
    let told = listener.events("conflict");
    assert_eq!(told.len(), 2);
    for event in &told {
        assert_eq!(event.within.as_ref(), Some(&event.fields), "the event is in the span of its operation");
    }
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn undecodable_previous_value_is_reported_without_text() {
    let Bench { listener, client, .. } = bench();
    client.entry::<String>("/planted/key").unwrap().set(&"planted-text".to_owned()).await.unwrap();
    assert_eq!(client.entry::<u32>("/planted/key").unwrap().swap(&1).await.unwrap(), None);
    let told = listener.events("previous value undecodable");
    assert_eq!((told.len(), told[0].fields["pattern"].as_str()), (1, "u32"));
    listener.check();
}

#[tokio::test(start_paused = true)]
async fn every_operation_is_a_span_with_pattern() {
    let Bench { listener, client, dir, .. } = bench();
    let mut before = 0;
    let mut said = |pattern: &str, expected: &[&str]| {
        let all = listener.operations();
        let expected: Vec<_> = expected.iter().map(|op| ((*op).to_owned(), pattern.to_owned())).collect();
        assert_eq!(all[before..], expected);
        before = all.len();
    };

    let banner = &dir.banner;
    let text = "planted-text".to_owned();
    banner.exists().await.unwrap();
    banner.create(&text).await.unwrap();
    banner.get().await.unwrap();
    banner.set(&text).await.unwrap();
    banner.replace(&text).await.unwrap();
    banner.swap(&text).await.unwrap();
    banner.compare_and_swap(Expect::Present, &text).await.unwrap();
    banner.modify(|_| None).await.unwrap();
    banner.compare_and_delete(Expect::Absent).await.unwrap();
    banner.delete().await.unwrap();
    let entry = ["exists", "create", "get", "set", "replace", "swap", "compare_and_swap", "modify", "compare_and_delete", "delete"];
    said("alloc::string::String", &entry);

    dir.create(&planted()).await.unwrap();
    dir.exists().await.unwrap();
    let seen = dir.get().await.unwrap();
    dir.compare_and_swap(&seen, &planted()).await.unwrap();
    dir.set(&planted()).await.unwrap();
    dir.update(|checkout| checkout.rate_limit += 1).await.unwrap();
    dir.try_update(|_| Ok::<_, ()>(())).await.unwrap();
    dir.diff(&planted()).await.unwrap();
    dir.check().await.unwrap();
    let seen = dir.get().await.unwrap();
    dir.compare_and_delete(&seen).await.unwrap();
    dir.delete().await.unwrap();
    let struct_ops = ["create", "exists", "get", "compare_and_swap", "set", "update", "update", "diff", "check", "get"];
    said(CHECKOUT, &[&struct_ops[..], &["compare_and_delete", "delete"]].concat());

    let quotas = BTreeMap::from([("planted-customer".to_owned(), 1)]);
    dir.quotas.set(&quotas).await.unwrap();
    dir.quotas.get().await.unwrap();
    dir.quotas.diff(&quotas).await.unwrap();
    dir.quotas.check().await.unwrap();
    said("u64", &["set", "get", "diff", "check"]);

    let shops = client.dirs::<String, Checkout>("/planted/shops").unwrap();
    let all = BTreeMap::from([("planted-shop".to_owned(), planted())]);
    shops.set(&all).await.unwrap();
    shops.get().await.unwrap();
    shops.keys().await.unwrap();
    shops.diff(&all).await.unwrap();
    shops.check().await.unwrap();
    said(CHECKOUT, &["set", "get", "keys", "diff", "check"]);

    let directory = client.directory("/planted").unwrap();
    directory.list().await.unwrap();
    directory.list_recursive().await.unwrap();
    directory.exists().await.unwrap();
    directory.create().await.unwrap_err();
    directory.update().await.unwrap_err();
    directory.delete().await.unwrap_err();
    directory.delete_recursive().await.unwrap();
    said("directory", &["list", "list_recursive", "exists", "create", "update", "delete", "delete_recursive"]);

    let published = banner.publish(&text).await.unwrap();
    published.set(&text).await.unwrap();
    published.withdraw().await.unwrap();
    said("alloc::string::String", &["publish", "set", "withdraw"]);

    client.transaction().write(dir.rate_limit.set(&1)).await.unwrap();
    said("transaction", &["commit"]);
    listener.check();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn published_value_without_runtime_counts_as_missing() {
    let Bench { listener, client, .. } = bench();
    let value = |name: &str| listener.value(&format!("etcd_typed_{name}"), &[("pattern", "u64")]);
    let own = runtime();
    let entry = client.entry::<u64>("/planted/a").unwrap();
    let publish = || own.block_on(entry.publish(&1).ttl(Duration::from_secs(10)).into_future()).unwrap();
    let (kept, dropped) = (publish(), publish());
    assert_eq!((value("published"), value("published_missing")), (2.0, 0.0));
    drop(own);
    assert_eq!((value("published"), value("published_missing")), (2.0, 2.0));
    drop(dropped);
    assert_eq!((value("published"), value("published_missing")), (1.0, 1.0));
    // Another runtime takes the value over before its time to live has passed.
    let other = runtime();
    other.block_on(async {
        assert!(kept.is_published());
        until(|| value("published_missing") == 0.0).await;
    });
    drop(other);
    assert_eq!(value("published_missing"), 1.0);
    drop(kept);
    assert_eq!((value("published"), value("published_missing")), (0.0, 0.0));
    listener.check();
}

#[test]
fn published_value_without_client_counts_as_missing() {
    let Bench { listener, client, dir, .. } = bench();
    let value = |name: &str| listener.value(&format!("etcd_typed_{name}"), &[("pattern", "u64")]);
    let own = runtime();
    let published = own.block_on(client.entry::<u64>("/planted/a").unwrap().publish(&1).into_future()).unwrap();
    drop((client, dir));
    drop(own);
    assert_eq!((value("published"), value("published_missing")), (1.0, 1.0));
    drop(published);
    assert_eq!((value("published"), value("published_missing")), (0.0, 0.0));
}

#[test]
fn view_without_runtime_counts_as_degraded() {
    let Bench { listener, client, dir, .. } = bench();
    let value = |name: &str| listener.value(&format!("etcd_typed_{name}"), &[("pattern", CHECKOUT)]);
    let own = runtime();
    let (first, second, other) = own.block_on(async {
        dir.set(&planted()).await.unwrap();
        let second = client.dir::<Checkout>("/planted/checkout").unwrap().live().await.unwrap();
        (dir.live().await.unwrap(), second, client.entry::<u64>("/planted/a").unwrap().live().await.unwrap())
    });
    assert_eq!((value("views"), value("views_degraded")), (2.0, 0.0));
    drop(own);
    assert_eq!((value("views"), value("views_degraded")), (2.0, 2.0));
    assert_eq!(listener.value("etcd_typed_views_degraded", &[("pattern", "u64")]), 1.0);
    assert!(!first.status().is_live());
    drop(second);
    assert_eq!((value("views"), value("views_degraded")), (1.0, 1.0));
    runtime().block_on(async {
        // A call of `status` within a runtime moves the view to that runtime.
        until(|| first.status().is_live()).await;
        until(|| value("views_degraded") == 0.0).await;
    });
    drop((first, other));
    assert_eq!((value("views"), value("views_degraded")), (0.0, 0.0));
    listener.check();
}
