//! Writes random structs with every kind of directory by every method, on every store. A struct
//! that a write accepts is read back equal, and a live view shows it. A write is refused if a part
//! of the struct would have no key.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, ErrorKind, EtcdSchema, ProblemKind, Result, Revision};
use etcd_typed_tests::server;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
struct Outer {
    count: Option<u8>,
    #[etcd(dir)]
    always: Soft,
    #[etcd(flatten)]
    beside: Beside,
    #[etcd(dir)]
    maybe: Option<Soft>,
    #[etcd(dir)]
    soft: BTreeMap<String, Soft>,
    #[etcd(dir)]
    hard: BTreeMap<String, Hard>,
}

#[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
struct Beside {
    #[etcd(alias = "text")]
    note: Option<String>,
    #[etcd(dir)]
    leaf: Option<Leaf>,
}

/// A struct that may have no key.
#[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
struct Soft {
    note: Option<String>,
    #[etcd(entries)]
    tags: BTreeMap<String, u8>,
    #[etcd(dir)]
    leaf: Option<Leaf>,
    #[etcd(dir)]
    leaves: BTreeMap<String, Leaf>,
    #[etcd(dir)]
    hard: Option<Hard>,
    #[etcd(flatten)]
    flat: Flat,
}

#[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
struct Flat {
    flat: Option<u8>,
    #[etcd(dir)]
    inner: Leaf,
}

#[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
struct Leaf {
    size: Option<u8>,
}

/// A struct that always has a key.
#[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
struct Hard {
    host: String,
    #[etcd(default = 3)]
    pool: u8,
    #[etcd(dir)]
    leaves: BTreeMap<String, Leaf>,
}

impl Leaf {
    fn has_key(&self) -> bool {
        self.size.is_some()
    }
}

impl Hard {
    fn is_stored(&self) -> bool {
        self.leaves.values().all(Leaf::has_key)
    }
}

impl Soft {
    fn has_key(&self) -> bool {
        let directories = self.leaf.is_some() || !self.leaves.is_empty() || self.hard.is_some();
        directories || self.note.is_some() || !self.tags.is_empty() || self.flat.flat.is_some() || self.flat.inner.has_key()
    }

    /// Returns whether every optional directory and map entry in this struct has a key.
    fn is_stored(&self) -> bool {
        self.leaf.iter().chain(self.leaves.values()).all(Leaf::has_key) && self.hard.iter().all(Hard::is_stored)
    }
}

impl Outer {
    fn has_key(&self) -> bool {
        let soft = self.maybe.is_some() || !self.soft.is_empty() || self.always.has_key();
        soft || self.count.is_some() || self.beside != Beside::default() || !self.hard.is_empty()
    }

    fn is_stored(&self) -> bool {
        let soft = self.maybe.iter().chain(self.soft.values()).all(|soft| soft.has_key() && soft.is_stored());
        soft && self.always.is_stored() && self.beside.leaf.iter().all(Leaf::has_key) && self.hard.values().all(Hard::is_stored)
    }
}

fn key() -> impl Strategy<Value = String> {
    proptest::sample::select(&["a", "b/c", "_d", "", ".."][..]).prop_map(str::to_owned)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("x".to_owned())]
}

fn leaf() -> impl Strategy<Value = Leaf> {
    option::weighted(0.85, 0..3_u8).prop_map(|size| Leaf { size })
}

fn hard() -> impl Strategy<Value = Hard> {
    (text(), 2..5_u8, btree_map(key(), leaf(), 0..2)).prop_map(|(host, pool, leaves)| Hard { host, pool, leaves })
}

fn soft() -> impl Strategy<Value = Soft> {
    let flat = (option::of(0..3_u8), leaf()).prop_map(|(flat, inner)| Flat { flat, inner });
    let maps = (btree_map(key(), 0..3_u8, 0..2), btree_map(key(), leaf(), 0..2));
    (option::of(text()), maps, option::of(leaf()), option::of(hard()), prop_oneof![Just(Flat::default()), flat])
        .prop_map(|(note, (tags, leaves), leaf, hard, flat)| Soft { note, tags, leaf, leaves, hard, flat })
}

fn outer() -> impl Strategy<Value = Outer> {
    let beside = (option::of(text()), option::of(leaf())).prop_map(|(note, leaf)| Beside { note, leaf });
    let parts = (option::of(0..3_u8), soft(), beside, option::of(soft()));
    prop_oneof![
        1 => Just(Outer::default()),
        15 => (parts, btree_map(key(), soft(), 0..2), btree_map(key(), hard(), 0..2)).prop_map(|((count, always, beside, maybe), soft, hard)| {
            Outer { count, always, beside, maybe, soft, hard }
        }),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Set,
    Create,
    Update,
    UpdateFields,
    Swap,
    Parts,
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![Just(Way::Set), Just(Way::Create), Just(Way::Update), Just(Way::UpdateFields), Just(Way::Swap), Just(Way::Parts)]
}

/// Writes with one transaction if `$atomic`, else with `non_atomic`.
macro_rules! write {
    ($atomic:expr, $write:expr) => {
        if $atomic { $write.await.map(drop) } else { $write.non_atomic().await.map(drop) }
    };
}

async fn write(dir: &OuterDir, way: Way, value: &Outer, atomic: bool) -> Result<()> {
    match way {
        Way::Set => write!(atomic, dir.set(value)),
        Way::Create => {
            dir.delete().non_atomic().await?;
            write!(atomic, dir.create(value))
        }
        Way::Update => write!(atomic, dir.update(|now| *now = value.clone())),
        Way::UpdateFields => write!(atomic, dir.update(|now| *now = value.clone()).changed_fields_only()),
        Way::Swap => write!(atomic, dir.compare_and_swap(&dir.get().await?, value)),
        // Writes each part through its own handle. An optional part that the value lacks is deleted.
        Way::Parts => {
            dir.set(&Outer { always: Soft::default(), maybe: None, soft: BTreeMap::new(), ..value.clone() }).non_atomic().await?;
            write!(atomic, dir.always.set(&value.always))?;
            match &value.maybe {
                Some(maybe) => write!(atomic, dir.maybe.set(maybe))?,
                None => write!(atomic, dir.maybe.delete())?,
            }
            for (name, soft) in &value.soft {
                write!(atomic, dir.soft.dir(name)?.create(soft))?;
            }
            Ok(())
        }
    }
}

fn run(runtime: &Runtime, client: &Client, cases: u32) {
    let number = Cell::new(0);
    let transactions = client.store().capabilities().transactions;
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() });
    let outcome = runner.run(&vec((way(), outer(), any::<bool>()), 1..8), |writes| {
        number.set(number.get() + 1);
        let directory = format!("/case-{}/outer", number.get());
        runtime.block_on(async {
            let dir = client.dir::<Outer>(&directory).unwrap();
            let live = dir.live().await.unwrap();
            for (way, value, atomic) in &writes {
                let before = dir.get().await.unwrap();
                let wrote = write(&dir, *way, value, transactions && *atomic).await;
                let fits = value.is_stored() && (*way != Way::Create || value.has_key());
                match wrote {
                    Ok(()) => {
                        prop_assert!(fits, "{way:?} accepts {value:?}");
                        prop_assert_eq!(&*dir.get().await.unwrap(), value, "{:?}", way);
                        let update = dir.update(|now| assert_eq!(now, value)).await;
                        prop_assert!(update.is_ok(), "{update:?}");
                        prop_assert!(dir.check().await.unwrap().is_empty());
                        let revision: Revision = client.status().await.unwrap().revision;
                        let shown = timeout(LIMIT, live.wait_for_revision(revision)).await.expect("the view follows").unwrap();
                        prop_assert_eq!(&**shown, value);
                    }
                    Err(error) => {
                        prop_assert!(!fits, "{way:?} refuses {value:?}: {error}");
                        prop_assert_eq!(error.kind(), ErrorKind::Invalid);
                        prop_assert!(error.problems().iter().all(|problem| problem.kind == ProblemKind::Unencodable), "{error}");
                        let is_several = matches!(way, Way::Create | Way::Parts);
                        prop_assert!(is_several || *dir.get().await.unwrap() == *before, "a refused write changes nothing");
                    }
                }
            }
            Ok(())
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn written_struct_reads_back_equal_with_memory_store() {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let client = runtime.block_on(Client::connect("memory:")).unwrap();
    run(&runtime, &client, 300);
}

#[test]
fn written_struct_reads_back_equal_on_v3() {
    let (runtime, _etcd, client) = server(Etcd::url_v3);
    run(&runtime, &client, 40);
}

#[test]
fn written_struct_reads_back_equal_on_v2() {
    let (runtime, _etcd, client) = server(Etcd::url_v2);
    run(&runtime, &client, 25);
}
