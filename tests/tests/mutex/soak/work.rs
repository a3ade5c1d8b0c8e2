//! The work of the clients, and the checks during that work.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::{Compare, Condition, Op, OpResult, Span, Txn};
use etcd_typed::testing::{Cluster, Proxy};
use etcd_typed::{Client, Expect, Json, Key, Lock, Revision};
use etcd_typed_tests::checks::{Counted, Fenced, Tenures, Told, Violation};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::record::Record;

const TTL: Duration = Duration::from_secs(5);
const LOCKS: [&str; 2] = ["one", "two"];
const KEYS: u64 = 200;

/// The tasks of all clients.
pub(crate) struct Work {
    direct: Client,
    stop: Arc<AtomicBool>,
    /// The final number of the counter. Set when the tasks no longer increment the counter.
    total: Arc<AtomicU64>,
    busy: JoinSet<()>,
    /// Tasks that end when they have seen the final number.
    watching: JoinSet<()>,
    publishing: JoinSet<()>,
    over: Arc<AtomicBool>,
}

/// The data that a task needs for its work.
#[derive(Clone)]
struct Task {
    client: Client,
    record: Arc<Record>,
    stop: Arc<AtomicBool>,
    total: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Mark {
    fence: u64,
    count: u64,
}

fn guarded(lock: &str) -> String {
    format!("/soak/guarded/{lock}")
}

impl Work {
    pub(crate) async fn start(cluster: &Cluster, proxies: &[Vec<Proxy>], record: &Arc<Record>) -> Self {
        let direct = Client::connect(&cluster.url_v3()).await.unwrap();
        let (stop, total, over) = (Arc::default(), Arc::default(), Arc::default());
        let (mut busy, mut watching, mut publishing) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        let task = |client: &Client| {
            let (stop, total, over) = (Arc::clone(&stop), Arc::clone(&total), Arc::clone(&over));
            Task { client: client.clone(), record: Arc::clone(record), stop, total, over }
        };
        let tenures: Arc<BTreeMap<&str, Mutex<Tenures>>> = Arc::new(LOCKS.iter().map(|lock| (*lock, Mutex::default())).collect());
        busy.spawn(task(&direct).count());
        for lock in LOCKS {
            watching.spawn(task(&direct).watch_guarded(lock));
        }
        for (number, row) in proxies.iter().enumerate() {
            let endpoints: Vec<String> = row.iter().map(Proxy::endpoint).collect();
            let client = Client::connect(&format!("etcd://{}", endpoints.join(","))).await.unwrap();
            for lock in LOCKS {
                for _ in 0..2 {
                    busy.spawn(task(&client).lock(lock, Arc::clone(&tenures)));
                }
            }
            busy.spawn(task(&client).add());
            busy.spawn(task(&client).write_map());
            for _ in 0..3 {
                watching.spawn(task(&client).watch());
            }
            watching.spawn(task(&client).view());
            watching.spawn(task(&client).view_map());
            publishing.spawn(task(&client).publish(number as u64));
        }
        Self { direct, stop, total, busy, watching, publishing, over }
    }

    /// Ends all tasks in order, and checks the final state.
    pub(crate) async fn end(mut self, record: &Record) {
        self.stop.store(true, Ordering::Relaxed);
        ended(&mut self.busy).await;
        let total = self.direct.entry::<u64>("/soak/counter").unwrap().get().await.unwrap().map_or(0, |count| *count);
        self.total.store(total, Ordering::Relaxed);
        // One more change wakes every task that waits for a change.
        self.direct.entry::<u64>("/soak/counter").unwrap().set(&(total + 1)).await.unwrap();
        self.direct.entries::<String, u64>("/soak/map").unwrap().entry("last").unwrap().set(&1).await.unwrap();
        for lock in LOCKS {
            self.direct.entry::<Json<Mark>>(&guarded(lock)).unwrap().delete().await.unwrap();
        }
        ended(&mut self.watching).await;

        let sum = self.direct.entry::<u64>("/soak/sum").unwrap().get().await.unwrap().map_or(0, |sum| *sum);
        let (done, unknown) = (record.get("additions"), record.get("additions in doubt"));
        if !(done..=done + unknown).contains(&sum) {
            record.violation(format!("{done} additions and {unknown} in doubt make {sum}"));
        }
        let services = self.direct.entries::<u64, u64>("/soak/services").unwrap();
        while services.get().await.unwrap().len() < super::CLIENTS {
            sleep(Duration::from_millis(100)).await;
        }
        self.over.store(true, Ordering::Relaxed);
        ended(&mut self.publishing).await;
        let left = services.get().await.unwrap().into_inner();
        if !left.is_empty() {
            record.violation(format!("withdrawn values still exist: {left:?}"));
        }
        for key in ["/soak/counter", "/soak/sum"] {
            self.direct.entry::<u64>(key).unwrap().delete().await.unwrap();
        }
        for directory in ["/soak/map", "/soak/visits"] {
            self.direct.directory(directory).unwrap().delete_recursive().await.unwrap();
        }
    }
}

async fn ended(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

impl Task {
    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Returns true if a watch that reported this value must have reported the final number of the
    /// counter before.
    fn has_all(&self, value: u64) -> bool {
        let total = self.total.load(Ordering::Relaxed);
        total > 0 && value > total
    }

    fn check(&self, what: &str, verdict: Result<(), Violation>) {
        if let Err(violation) = verdict {
            self.record.violation(format!("{what}: {violation}"));
        }
    }

    /// Increments the counter, and writes each number once.
    async fn count(self) {
        let counter = self.client.entry::<u64>("/soak/counter").unwrap();
        let mut next = 1;
        while !self.stops() {
            let before = next - 1;
            let expected = if before == 0 { Expect::Absent } else { Expect::value(&before) };
            match counter.compare_and_swap(expected, &next).await {
                Ok(_) => next += 1,
                // An earlier attempt was applied.
                Err(error) if error.current::<u64>().is_some_and(|now| **now == next) => next += 1,
                Err(error) => {
                    self.record.error("count", &error);
                    continue;
                }
            }
            self.record.count("numbers written");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn watch(self) {
        let counter = self.client.entry::<u64>("/soak/counter").unwrap();
        let mut changes = loop {
            match counter.watch().await {
                Ok(changes) => break changes,
                Err(error) => self.record.error("watch", &error),
            }
        };
        let now = changes.current().map_or(0, |value| value.map_or(0, |value| *value));
        let mut counted = Counted::from(now).may_resync();
        while let Some(change) = changes.next().await {
            match change {
                Ok(change) => {
                    let told = Told { revision: change.revision.get(), resynced: change.resynced, old: change.old, new: change.new };
                    self.record.count(if change.resynced { "resyncs of watches" } else { "changes told" });
                    self.check("watch", counted.tell(told));
                }
                Err(error) => self.record.violation(format!("a watch of valid values failed: {error}")),
            }
            if self.has_all(counted.last) {
                return;
            }
        }
        self.record.violation("a watch ended".to_owned());
    }

    async fn view(self) {
        let counter = self.client.entry::<u64>("/soak/counter").unwrap();
        let mut view = loop {
            match counter.live().await {
                Ok(view) => break view,
                Err(error) => self.record.error("view", &error),
            }
        };
        let mut last = view.get().unwrap_or(0);
        while !self.has_all(last) {
            match view.changed().await {
                Ok(now) => {
                    self.record.count("states of views");
                    let value = now.unwrap_or(0);
                    if value < last {
                        self.record.violation(format!("a view went back from {last} to {value}"));
                    }
                    last = value;
                }
                Err(error) => return self.record.violation(format!("a view ended: {error}")),
            }
        }
    }

    /// Writes to the map that all clients view.
    async fn write_map(self) {
        let map = self.client.entries::<String, u64>("/soak/map").unwrap();
        while !self.stops() {
            let entry = map.entry(&fastrand::u64(..KEYS).to_string()).unwrap();
            let written = match fastrand::u32(..4) {
                0 => entry.delete().await.map(drop),
                _ => entry.set(&fastrand::u64(..)).await.map(drop),
            };
            match written {
                Ok(()) => self.record.count("map writes"),
                Err(error) => self.record.error("map", &error),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Opens a live view of the map, and checks at the end that the view equals the stored map.
    async fn view_map(self) {
        let map = self.client.entries::<String, u64>("/soak/map").unwrap();
        let mut view = loop {
            match map.live().await {
                Ok(view) => break view,
                Err(error) => self.record.error("map view", &error),
            }
        };
        while view.get().get("last").is_none() {
            if let Err(error) = view.changed().await {
                return self.record.violation(format!("a view of a map ended: {error}"));
            }
            self.record.count("states of map views");
        }
        let there = map.get().await.unwrap().into_inner();
        let shown: BTreeMap<String, u64> = view.get().iter().map(|(key, value)| (key.clone(), *value)).collect();
        if shown != there {
            self.record.violation(format!("a view shows {} entries, but the store has {}: {shown:?} {there:?}", shown.len(), there.len()));
        }
    }

    async fn add(self) {
        let sum = self.client.entry::<u64>("/soak/sum").unwrap();
        while !self.stops() {
            match sum.modify(|sum| Some(sum.unwrap_or(0) + 1)).await {
                Ok(_) => self.record.count("additions"),
                Err(error) => {
                    if error.may_have_applied() {
                        self.record.count("additions in doubt");
                    }
                    self.record.error("addition", &error);
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Publishes a value, withdraws it after a while, and starts again.
    async fn publish(self, number: u64) {
        let service = self.client.entry::<u64>(&format!("/soak/services/{number}")).unwrap();
        while !self.over.load(Ordering::Relaxed) {
            let published = match service.publish(&number).ttl(TTL).await {
                Ok(published) => published,
                Err(error) => {
                    self.record.error("publish", &error);
                    continue;
                }
            };
            self.record.count("publications");
            for _ in 0..fastrand::u32(20..200) {
                if !self.over.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(100)).await;
                }
            }
            if let Err(error) = published.withdraw().await {
                self.record.error("withdraw", &error);
            }
        }
    }

    async fn lock(self, name: &'static str, tenures: Arc<BTreeMap<&'static str, Mutex<Tenures>>>) {
        let lock = self.client.lock(&format!("/soak/locks/{name}")).ttl(TTL);
        while !self.stops() {
            let guard = match lock.acquire().await {
                Ok(guard) => guard,
                Err(error) => {
                    self.record.error("acquire", &error);
                    continue;
                }
            };
            self.record.count("locks acquired");
            let (mut from, mut until) = (None, 0);
            let mut look = || {
                let before = self.record.now();
                if guard.is_held() {
                    until = before;
                    from.get_or_insert_with(|| self.record.now());
                }
            };
            look();
            if let Some(before) = self.count_before(name, &guard).await {
                look();
                sleep(Duration::from_millis(fastrand::u64(..15))).await;
                look();
                let mark = Mark { fence: guard.fence().get(), count: before + 1 };
                let counter = self.client.entry::<Json<Mark>>(&guarded(name)).unwrap();
                match counter.set(&Json(mark)).guarded_by(&guard).await {
                    Ok(_) => self.record.count("guarded writes"),
                    Err(error) => self.record.error("guarded write", &error),
                }
            }
            look();
            if let Some(from) = from.filter(|from| *from <= until) {
                self.held(name, &tenures, guard.fence(), from, until);
            }
            if !guard.is_held() {
                self.record.count("locks lost");
            }
            if fastrand::bool() {
                drop(guard);
            } else if let Err(error) = guard.release().await {
                self.record.error("release", &error);
            }
        }
    }

    fn held(&self, name: &str, tenures: &BTreeMap<&str, Mutex<Tenures>>, fence: Revision, from: u64, until: u64) {
        let verdict = tenures[name].lock().unwrap().held(fence.get(), from, until);
        match verdict {
            Err(Violation::HeldTwice { from, .. }) if self.record.is_faithless(from) => {
                self.record.count("overlaps because a server ended a lease that it had confirmed");
            }
            verdict => self.check(name, verdict),
        }
    }

    /// Returns the last count. The count is read in the same transaction as a write, because a
    /// member of 3.4 that was stopped answers a plain read from its old state (etcd issue 20418).
    async fn count_before(&self, name: &str, guard: &Lock) -> Option<u64> {
        let conditions = [Condition::Created(guard.fence()), Condition::Lease(guard.lease_id())];
        let compares = conditions.map(|condition| Compare::key(guard.key(), condition)).into();
        let visit = Op::put(&Key::parse(&format!("/soak/visits/{name}")).unwrap(), Bytes::new());
        let read = Op::Get(Span::Key(Key::parse(&guarded(name)).unwrap()));
        let committed = self.client.store().commit(Txn::new(vec![visit, read]).compares(compares).otherwise(Vec::new())).await;
        match committed {
            Ok(committed) if committed.succeeded => match committed.results.into_iter().nth(1) {
                Some(OpResult::Get(reply)) => {
                    Some(reply.kvs.first().map_or(0, |kv| serde_json::from_slice::<Mark>(&kv.value).unwrap().count))
                }
                other => panic!("no answer to a read: {other:?}"),
            },
            Ok(_) => None,
            Err(error) => {
                self.record.error("visit", &error);
                None
            }
        }
    }

    /// Watches the key that is written under a lock, and checks its changes until it is deleted.
    async fn watch_guarded(self, name: &'static str) {
        let counter = self.client.entry::<Json<Mark>>(&guarded(name)).unwrap();
        let mut changes = counter.watch().await.unwrap();
        let mut fenced = Fenced::default();
        while let Some(change) = changes.next().await {
            let change = change.unwrap();
            let Some(Json(mark)) = change.new else { return };
            self.record.count("guarded writes seen");
            self.check(name, fenced.wrote(mark.fence, mark.count, change.resynced));
        }
    }
}
