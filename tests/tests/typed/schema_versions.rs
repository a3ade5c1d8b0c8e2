//! Programs with two versions of a schema write and remove the same keys in random order, on every
//! store. Both programs can always read and write the keys, and their live views and streams stay
//! up to date.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed::{Changes, Client, EtcdSchema, Keyed, Live, LiveMap, Result, Revision};
use etcd_typed_tests::server;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(30);

mod old {
    use super::{BTreeMap, EtcdSchema};

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    pub(super) struct Shop {
        pub(super) name: String,
        #[etcd(dir)]
        pub(super) backup: Option<Db>,
        #[etcd(dir)]
        pub(super) regions: BTreeMap<String, Db>,
    }

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    pub(super) struct Db {
        pub(super) host: String,
    }
}

mod new {
    use super::{BTreeMap, EtcdSchema};

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    pub(super) struct Shop {
        pub(super) name: String,
        #[etcd(default = 7)]
        pub(super) limit: u8,
        #[etcd(dir)]
        pub(super) backup: Option<Db>,
        #[etcd(dir)]
        pub(super) regions: BTreeMap<String, Db>,
        #[etcd(dir)]
        pub(super) spare: Option<Node>,
    }

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    pub(super) struct Db {
        pub(super) host: String,
        #[etcd(default = true)]
        pub(super) tls: bool,
        pub(super) note: Option<String>,
        #[etcd(entries)]
        pub(super) tags: BTreeMap<String, u8>,
        #[etcd(dir)]
        pub(super) nodes: BTreeMap<String, Node>,
    }

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    pub(super) struct Node {
        pub(super) port: u8,
        #[etcd(default = 1)]
        pub(super) weight: u8,
    }
}

/// Returns the part of the shop that the older version knows.
fn older(shop: &new::Shop) -> old::Shop {
    let db = |db: &new::Db| old::Db { host: db.host.clone() };
    let regions = shop.regions.iter().map(|(name, region)| (name.clone(), db(region))).collect();
    old::Shop { name: shop.name.clone(), backup: shop.backup.as_ref().map(db), regions }
}

/// A call of a program of either version. The texts are names of regions.
#[derive(Clone, Debug)]
enum Call {
    OldSet(old::Shop),
    OldUpdate(old::Shop),
    OldUpdateFields(old::Shop),
    OldSwap(old::Shop),
    OldRegions(BTreeMap<String, old::Db>),
    OldRegionSet(&'static str, old::Db),
    OldRegionCreate(&'static str, old::Db),
    OldRegionDelete(&'static str),
    OldRegionDeleteSeen(&'static str),
    OldBackupDelete,
    NewSet(new::Shop),
    NewUpdate(new::Shop),
    NewUpdateFields(new::Shop),
    NewSwap(new::Shop),
    NewRegions(BTreeMap<String, new::Db>),
    NewRegionSet(&'static str, new::Db),
    NewRegionCreate(&'static str, new::Db),
    NewRegionUpdate(&'static str, new::Db),
    NewRegionDelete(&'static str),
    NewBackupSet(new::Db),
    NewBackupDelete,
    /// Writes a key that an older version of the library would have left behind.
    Leave(&'static str),
    /// Deletes the required key of a region or of the backup.
    DeleteRequired(&'static str),
}

fn call() -> impl Strategy<Value = Call> {
    let text = || prop_oneof![Just("x".to_owned()), Just("y".to_owned())];
    let name = || proptest::sample::select(&["eu", "us", "_a/b"][..]);
    let owned = move || name().prop_map(str::to_owned);
    let old_db = move || text().prop_map(|host| old::Db { host });
    let old_regions = move || btree_map(owned(), old_db(), 0..3);
    let old_shop = move || {
        (text(), proptest::option::of(old_db()), old_regions()).prop_map(|(name, backup, regions)| old::Shop { name, backup, regions })
    };
    let node = || (0..3_u8, 0..3_u8).prop_map(|(port, weight)| new::Node { port, weight });
    let new_db = move || {
        (text(), any::<bool>(), proptest::option::of(text()), btree_map("[ab]", 0..3_u8, 0..3), btree_map("[ab]", node(), 0..2))
            .prop_map(|(host, tls, note, tags, nodes)| new::Db { host, tls, note, tags, nodes })
    };
    let new_regions = move || btree_map(owned(), new_db(), 0..3);
    let new_shop = move || {
        (text(), 6..9_u8, proptest::option::of(new_db()), new_regions(), proptest::option::of(node()))
            .prop_map(|(name, limit, backup, regions, spare)| new::Shop { name, limit, backup, regions, spare })
    };
    let left = proptest::sample::select(
        &["regions/us/tls", "regions/us/tags/a", "regions/us/nodes/a/port", "regions/eu/nodes/b/weight", "backup/note", "spare/weight"][..],
    );
    let required = proptest::sample::select(&["regions/us", "regions/eu", "backup"][..]);
    prop_oneof![
        2 => old_shop().prop_map(Call::OldSet),
        2 => old_shop().prop_map(Call::OldUpdate),
        2 => old_shop().prop_map(Call::OldUpdateFields),
        2 => old_shop().prop_map(Call::OldSwap),
        1 => old_regions().prop_map(Call::OldRegions),
        1 => (name(), old_db()).prop_map(|(name, db)| Call::OldRegionSet(name, db)),
        1 => (name(), old_db()).prop_map(|(name, db)| Call::OldRegionCreate(name, db)),
        2 => name().prop_map(Call::OldRegionDelete),
        1 => name().prop_map(Call::OldRegionDeleteSeen),
        1 => Just(Call::OldBackupDelete),
        2 => new_shop().prop_map(Call::NewSet),
        3 => new_shop().prop_map(Call::NewUpdate),
        2 => new_shop().prop_map(Call::NewUpdateFields),
        2 => new_shop().prop_map(Call::NewSwap),
        1 => new_regions().prop_map(Call::NewRegions),
        1 => (name(), new_db()).prop_map(|(name, db)| Call::NewRegionSet(name, db)),
        1 => (name(), new_db()).prop_map(|(name, db)| Call::NewRegionCreate(name, db)),
        1 => (name(), new_db()).prop_map(|(name, db)| Call::NewRegionUpdate(name, db)),
        1 => name().prop_map(Call::NewRegionDelete),
        1 => new_db().prop_map(Call::NewBackupSet),
        1 => Just(Call::NewBackupDelete),
        2 => left.prop_map(Call::Leave),
        1 => required.prop_map(Call::DeleteRequired),
    ]
}

/// The regions of a program that knows only the changes of a stream.
#[derive(Default)]
struct Followed {
    hosts: BTreeMap<String, String>,
    tls: BTreeMap<String, bool>,
    notes: BTreeMap<String, String>,
    tags: BTreeMap<(String, String), u8>,
    ports: BTreeMap<(String, String), u8>,
    weights: BTreeMap<(String, String), u8>,
}

fn keep<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, now: Option<V>) {
    match now {
        Some(now) => drop(map.insert(key, now)),
        None => drop(map.remove(&key)),
    }
}

impl Followed {
    fn take(&mut self, Keyed { key, change }: Keyed<String, new::DbChange>) {
        match change {
            new::DbChange::Host(change) => keep(&mut self.hosts, key, change.new),
            new::DbChange::Tls(change) => keep(&mut self.tls, key, change.new),
            new::DbChange::Note(change) => keep(&mut self.notes, key, change.new),
            new::DbChange::Tags(tag) => keep(&mut self.tags, (key, tag.key), tag.change.new),
            new::DbChange::Nodes(Keyed { key: node, change: new::NodeChange::Port(change) }) => {
                keep(&mut self.ports, (key, node), change.new)
            }
            new::DbChange::Nodes(Keyed { key: node, change: new::NodeChange::Weight(change) }) => {
                keep(&mut self.weights, (key, node), change.new);
            }
        }
    }

    fn regions(&self) -> BTreeMap<String, new::Db> {
        let db = |(name, host): (&String, &String)| {
            let of_region = |map: &BTreeMap<(String, String), u8>| -> BTreeMap<String, u8> {
                map.iter().filter(|((region, _), _)| region == name).map(|((_, key), value)| (key.clone(), *value)).collect()
            };
            let weights = of_region(&self.weights);
            let node = |(key, port): (String, u8)| (key.clone(), new::Node { port, weight: weights.get(&key).copied().unwrap_or(1) });
            let db = new::Db {
                host: host.clone(),
                tls: self.tls.get(name).copied().unwrap_or(true),
                note: self.notes.get(name).cloned(),
                tags: of_region(&self.tags),
                nodes: of_region(&self.ports).into_iter().map(node).collect(),
            };
            (name.clone(), db)
        };
        self.hosts.iter().map(db).collect()
    }
}

struct World {
    client: Client,
    directory: String,
    old: old::ShopDir,
    new: new::ShopDir,
    old_live: Live<old::Shop>,
    new_live: Live<new::Shop>,
    old_map: Live<LiveMap<String, old::Db>>,
    new_map: Live<LiveMap<String, new::Db>>,
    changes: Changes<Keyed<String, new::DbChange>, BTreeMap<String, new::Db>>,
    followed: Followed,
    /// Whether a call wrote leftover keys.
    left: bool,
}

/// Writes with one transaction if `$atomic`, else with `non_atomic`.
macro_rules! write {
    ($atomic:expr, $write:expr) => {
        if $atomic { $write.await.map(drop) } else { $write.non_atomic().await.map(drop) }
    };
}

impl World {
    async fn new(client: &Client, directory: String) -> Self {
        let (old, new) = (client.dir::<old::Shop>(&directory).unwrap(), client.dir::<new::Shop>(&directory).unwrap());
        old.set(&old::Shop { name: "n".to_owned(), backup: None, regions: BTreeMap::new() }).non_atomic().await.unwrap();
        Self {
            old_live: old.live().await.unwrap(),
            new_live: new.live().await.unwrap(),
            old_map: old.regions.live().await.unwrap(),
            new_map: new.regions.live().await.unwrap(),
            changes: new.regions.watch().await.unwrap(),
            followed: Followed::default(),
            client: client.clone(),
            directory,
            old,
            new,
            left: false,
        }
    }

    /// Makes the call. The call must succeed, except for a create of an entry that exists.
    async fn call(&mut self, call: &Call, atomic: bool) -> Result<()> {
        let atomic = atomic && self.client.store().capabilities().transactions;
        let (old, new) = (&self.old, &self.new);
        let exists = |created: Result<()>| match created {
            Err(error) if error.kind() == etcd_typed::ErrorKind::AlreadyExists => Ok(()),
            created => created,
        };
        match call {
            Call::OldSet(shop) => write!(atomic, old.set(shop)),
            Call::OldUpdate(shop) => write!(atomic, old.update(|now| *now = shop.clone())),
            Call::OldUpdateFields(shop) => write!(atomic, old.update(|now| *now = shop.clone()).changed_fields_only()),
            Call::OldSwap(shop) => write!(atomic, old.compare_and_swap(&old.get().await?, shop)),
            Call::OldRegions(regions) => write!(atomic, old.regions.set(regions)),
            Call::OldRegionSet(name, db) => write!(atomic, old.regions.dir(*name)?.set(db)),
            Call::OldRegionCreate(name, db) => exists(write!(atomic, old.regions.dir(*name)?.create(db))),
            Call::OldRegionDelete(name) => write!(atomic, old.regions.dir(*name)?.delete()),
            Call::OldRegionDeleteSeen(name) => match old.regions.dir(*name)? {
                region if region.exists().await? => write!(atomic, region.compare_and_delete(&region.get().await?)),
                _ => Ok(()),
            },
            Call::OldBackupDelete => write!(atomic, old.backup.delete()),
            Call::NewSet(shop) => write!(atomic, new.set(shop)),
            Call::NewUpdate(shop) => write!(atomic, new.update(|now| *now = shop.clone())),
            Call::NewUpdateFields(shop) => write!(atomic, new.update(|now| *now = shop.clone()).changed_fields_only()),
            Call::NewSwap(shop) => write!(atomic, new.compare_and_swap(&new.get().await?, shop)),
            Call::NewRegions(regions) => write!(atomic, new.regions.set(regions)),
            Call::NewRegionSet(name, db) => write!(atomic, new.regions.dir(*name)?.set(db)),
            Call::NewRegionCreate(name, db) => exists(write!(atomic, new.regions.dir(*name)?.create(db))),
            Call::NewRegionUpdate(name, db) => match new.regions.dir(*name)? {
                region if region.exists().await? => write!(atomic, region.update(|now| *now = db.clone())),
                _ => Ok(()),
            },
            Call::NewRegionDelete(name) => write!(atomic, new.regions.dir(*name)?.delete()),
            Call::NewBackupSet(db) => write!(atomic, new.backup.set(db)),
            Call::NewBackupDelete => write!(atomic, new.backup.delete()),
            Call::Leave(path) => {
                self.left = true;
                let value = if path.ends_with("tls") { "false" } else { "2" };
                self.client.entry(&format!("{}/{path}", self.directory))?.set(&value.to_owned()).await.map(drop)
            }
            Call::DeleteRequired(directory) => {
                self.left = true;
                self.client.entry::<String>(&format!("{}/{directory}/host", self.directory))?.delete().await.map(drop)
            }
        }
    }

    /// Asserts that the program that made the call reads the written value.
    async fn check_written(&self, call: &Call) -> Result<(), TestCaseError> {
        match call {
            Call::OldSet(shop) | Call::OldUpdate(shop) | Call::OldUpdateFields(shop) | Call::OldSwap(shop) => {
                prop_assert_eq!(&*self.old.get().await.unwrap(), shop);
            }
            Call::NewSet(shop) | Call::NewUpdate(shop) | Call::NewUpdateFields(shop) | Call::NewSwap(shop) => {
                prop_assert_eq!(&*self.new.get().await.unwrap(), shop);
            }
            Call::OldRegions(regions) => prop_assert_eq!(&*self.old.regions.get().await.unwrap(), regions),
            Call::NewRegions(regions) => prop_assert_eq!(&*self.new.regions.get().await.unwrap(), regions),
            Call::NewRegionSet(name, db) => prop_assert_eq!(&self.new.regions.get().await.unwrap()[*name], db),
            Call::NewBackupSet(db) => prop_assert_eq!(&self.new.get().await.unwrap().backup.clone(), &Some(db.clone())),
            Call::OldRegionDelete(name) | Call::NewRegionDelete(name) => {
                let region = self.old.regions.dir(*name).unwrap();
                let left = self.client.directory(region.key().as_str()).unwrap().list_recursive().await.unwrap();
                prop_assert!(left.is_empty(), "{left:?}");
            }
            _ => {}
        }
        Ok(())
    }

    /// Asserts that both versions read the same state, and that their views and streams show this
    /// state.
    async fn check(&mut self) -> Result<(), TestCaseError> {
        let readable = |error: etcd_typed::Error| TestCaseError::fail(error.to_string());
        let new = self.new.get().await.map_err(readable)?;
        let old = self.old.get().await.map_err(readable)?;
        prop_assert_eq!(&older(&new), &*old);
        prop_assert_eq!(&*self.new.regions.get().await.map_err(readable)?, &new.regions);
        prop_assert_eq!(self.new.regions.keys().await.map_err(readable)?, new.regions.keys().cloned().collect::<Vec<_>>());
        self.new.update(|_| ()).await.map_err(readable)?;
        self.old.update(|_| ()).await.map_err(readable)?;
        let problems = self.new.check().await.unwrap().problems;
        prop_assert!(self.left || problems.is_empty(), "{problems:?}");

        let revision = self.client.status().await.unwrap().revision;
        self.follow(revision, &new, &old).await
    }

    async fn follow(&mut self, revision: Revision, new: &new::Shop, old: &old::Shop) -> Result<(), TestCaseError> {
        let views = async {
            let new_live = self.new_live.wait_for_revision(revision).await?.into_arc();
            let old_live = self.old_live.wait_for_revision(revision).await?.into_arc();
            let new_map = self.new_map.wait_for_revision(revision).await?.into_arc();
            let old_map = self.old_map.wait_for_revision(revision).await?.into_arc();
            Ok::<_, etcd_typed::Error>((new_live, old_live, new_map, old_map))
        };
        let views = timeout(LIMIT, views).await.map_err(|_| TestCaseError::fail("a view does not reach the revision"))?;
        let (new_live, old_live, new_map, old_map) = views.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&**new_live, new);
        prop_assert_eq!(&**old_live, old);
        prop_assert!(**new_map == new.regions, "{:?} and {:?}", new_map, new.regions);
        prop_assert!(**old_map == old.regions, "{:?} and {:?}", old_map, old.regions);
        for status in [self.new_live.status(), self.old_live.status(), self.new_map.status(), self.old_map.status()] {
            prop_assert!(status.problems().is_empty(), "{status:?}");
        }

        while self.followed.regions() != new.regions {
            let update = timeout(LIMIT, self.changes.next()).await;
            let Ok(update) = update else {
                return Err(TestCaseError::fail(format!("the changes give {:?}, stored are {:?}", self.followed.regions(), new.regions)));
            };
            let update = update.expect("the stream goes on").map_err(|error| TestCaseError::fail(error.to_string()))?;
            update.changes.into_iter().for_each(|change| self.followed.take(change));
        }
        Ok(())
    }
}

fn run(runtime: &Runtime, client: &Client, cases: u32) {
    let number = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() });
    let outcome = runner.run(&vec((call(), any::<bool>()), 1..20), |calls| {
        number.set(number.get() + 1);
        let directory = format!("/case-{}/shop", number.get());
        runtime.block_on(async {
            let mut world = World::new(client, directory).await;
            for (call, atomic) in &calls {
                world.call(call, *atomic).await.map_err(|error| TestCaseError::fail(format!("{call:?}: {error}")))?;
                world.check_written(call).await?;
                world.check().await?;
            }
            Ok(())
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn schema_versions_stay_readable_to_each_other_with_memory_store() {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let client = runtime.block_on(Client::connect("memory:")).unwrap();
    run(&runtime, &client, 300);
}

#[test]
fn schema_versions_stay_readable_to_each_other_on_v3() {
    let (runtime, _etcd, client) = server(Etcd::url_v3);
    run(&runtime, &client, 30);
}

#[test]
fn schema_versions_stay_readable_to_each_other_on_v2() {
    let (runtime, _etcd, client) = server(Etcd::url_v2);
    run(&runtime, &client, 20);
}
