//! Random writes of a struct that has one lease. All its keys must keep that lease.

use std::cell::Cell;

use etcd_typed::Key;

use super::*;

/// Makes random writes of a struct that has one lease.
struct Writer<'b> {
    bench: &'b Bench,
    dir: ServiceDir,
    /// The lease that the struct is attached to; `None` if it is permanent or has a time to
    /// live.
    lease: Option<Lease>,
    ends: bool,
    count: Cell<u32>,
}

impl Writer<'_> {
    fn next(&self) -> u32 {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    fn value(&self) -> Service {
        let n = self.next();
        let limits = Limits { low: n, high: fastrand::bool().then_some(n) };
        Service {
            load: n,
            note: fastrand::bool().then(|| n.to_string()),
            limits: fastrand::bool().then(|| limits.clone()),
            tags: (0..fastrand::u32(0..3)).map(|tag| (tag.to_string(), n.to_string())).collect(),
            zones: (0..fastrand::u32(0..3)).map(|zone| (zone.to_string(), limits.clone())).collect(),
            ..service()
        }
    }

    /// Sets the whole struct: permanent, with a time to live, or with a lease.
    async fn begin(&mut self) {
        let value = self.value();
        let set = self.dir.set(&value).non_atomic();
        match fastrand::u8(0..4) {
            0 => {
                set.await.unwrap();
                (self.lease, self.ends) = (None, false);
            }
            1 => {
                set.ttl(LONG).await.unwrap();
                (self.lease, self.ends) = (None, true);
            }
            _ => {
                let lease = self.bench.client.lease(LONG).await.unwrap();
                set.lease(&lease).await.unwrap();
                (self.lease, self.ends) = (Some(lease), true);
            }
        }
    }

    /// Attaches the whole struct to another lease.
    async fn renew(&mut self) {
        let value = self.value();
        let lease = self.bench.client.lease(LONG).await.unwrap();
        if fastrand::bool() {
            let seen = self.dir.get().await.unwrap();
            self.dir.compare_and_swap(&seen, &value).lease(&lease).non_atomic().await.unwrap();
        } else {
            let change = fastrand::bool();
            let update = self.dir.update(|now| {
                if change {
                    *now = value.clone();
                }
            });
            update.lease(&lease).non_atomic().await.unwrap();
        }
        (self.lease, self.ends) = (Some(lease), true);
    }

    async fn write(&self) {
        let (dir, n) = (&self.dir, self.next());
        let text = n.to_string();
        let atomic = self.bench.transactions();
        match fastrand::u8(0..17) {
            0 => {
                let value = self.value();
                if atomic {
                    dir.update(|now| *now = value.clone()).await.map(drop)
                } else {
                    dir.update(|now| *now = value.clone()).non_atomic().await.map(drop)
                }
            }
            1 => dir.update(|now| now.load = n).changed_fields_only().await.map(drop),
            2 => {
                let (seen, value) = (dir.get().await.unwrap(), self.value());
                if atomic {
                    dir.compare_and_swap(&seen, &value).await.map(drop)
                } else {
                    dir.compare_and_swap(&seen, &value).non_atomic().await.map(drop)
                }
            }
            3 => dir.load.set(&n).await.map(drop),
            4 => dir.load.modify(|_| Some(n)).await.map(drop),
            5 => dir.note.modify(|note| note.is_none().then(|| text.clone())).await.map(drop),
            6 => dir.note.set(&text).await.map(drop),
            7 => {
                let seen = dir.note.get().await.unwrap();
                dir.note.compare_and_swap(&seen, &text).await.map(drop)
            }
            8 => dir.weight.swap(&n).await.map(drop),
            9 => dir.limits.set(&Limits { low: n, high: Some(n) }).non_atomic().await.map(drop),
            10 => dir.limits.delete().non_atomic().await.map(drop),
            11 => dir.tags.entry("x").unwrap().set(&text).await.map(drop),
            12 => dir.zones.dir("x").unwrap().high.set(&n).await.map(drop),
            13 => self.bench.client.transaction().write(dir.note.set(&text)).await.map(drop),
            14 => dir.load.compare_and_swap(Expect::Present, &n).await.map(drop),
            15 => {
                // Only the published field has the publisher's lease.
                let published = dir.note.publish(&text).await.unwrap();
                dir.load.set(&n).await.unwrap();
                dir.tags.entry("y").unwrap().set(&text).await.unwrap();
                self.check_but("a write beside a published field", Some(dir.note.key())).await;
                published.withdraw().await
            }
            _ => dir.tags.set(&BTreeMap::from([(text, "y".to_owned())])).non_atomic().await.map(drop),
        }
        .unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// Asserts that every stored key has the lease of the last set, if that had one.
    async fn check(&self, what: &str) {
        self.check_but(what, None).await;
    }

    async fn check_but(&self, what: &str, except: Option<&Key>) {
        let stored = self.bench.stored("/services/a").await;
        let ends: Vec<End> = stored.iter().filter(|kv| except.is_none_or(|key| key.as_bytes() != kv.key)).map(End::of).collect();
        let is_right = |end: &End| match &self.lease {
            Some(lease) => *end == End::With(lease.id()),
            None => end.expires() == self.ends && *end == ends[0],
        };
        assert!(!ends.is_empty() && ends.iter().all(is_right), "after {what}: {ends:?} of {:?}", self.bench.stored("/services/a").await);
    }
}

async fn play(bench: Bench, rounds: usize) {
    let dir = bench.service();
    // A view of all services, which continues when one service expires.
    let services = bench.client.dirs::<String, Service>("/services").unwrap();
    services.dir("b").unwrap().set(&service()).non_atomic().await.unwrap();
    let live = services.live().await.unwrap();
    let mut writer = Writer { bench: &bench, dir, lease: None, ends: false, count: Cell::new(0) };
    for _ in 0..rounds {
        writer.begin().await;
        writer.check("set").await;
        for _ in 0..fastrand::u32(1..10) {
            if fastrand::u8(0..6) == 0 {
                writer.renew().await;
                writer.check("a renewal").await;
            } else {
                writer.write().await;
                writer.check("a write").await;
            }
        }
        let now = services.get().await.unwrap();
        for _ in 0..1000 {
            if live.get().len() == now.len() && now.iter().all(|(name, service)| live.get().get(name) == Some(service)) {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert!(now.iter().all(|(name, service)| live.get().get(name) == Some(service)), "the view follows");
        if let Some(lease) = writer.lease.take() {
            lease.revoke().await.unwrap();
            assert_eq!(bench.stored("/services/a").await, [], "every key is gone");
            for _ in 0..1000 {
                if live.get().len() == 1 {
                    break;
                }
                sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(live.get().len(), 1, "the view follows");
        } else {
            writer.dir.delete().non_atomic().await.unwrap();
        }
    }
    assert!(live.status().is_live(), "{:?}", live.status());
}

#[tokio::test(start_paused = true)]
async fn random_writes_keep_one_lease_with_memory_store() {
    for seed in 0..60 {
        fastrand::seed(seed);
        play(Bench { client: Client::connect("memory:").await.unwrap() }, 5).await;
    }
}

#[tokio::test]
async fn random_writes_keep_one_lease_on_v3() {
    let etcd = Etcd::start().await;
    play(Bench { client: Client::connect(&etcd.url_v3()).await.unwrap() }, 30).await;
}

#[tokio::test]
async fn random_writes_keep_one_lease_on_v2() {
    let etcd = Etcd::start().await;
    play(Bench { client: Client::connect(&etcd.url_v2()).await.unwrap() }, 15).await;
}
