//! Compares live views with reads. After any writes and faults, a view shows what a read returns.
//! If a read fails because of invalid values, the view shows the last valid state and reports the
//! same problems. Runs random programs on the embedded store, on v3 and on v2.
//!
//! Reads are the model: after each write, a client without faults reads everything, and the test
//! records the result with its revision. These records say what a view may show at each revision.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod model;
mod program;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use etcd_typed::store::BoxFuture;
use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::testing::{Etcd, Mode, Proxy};
use etcd_typed::{
    Check, Client, DirMap, Entry, EntryMap, Error, ErrorKind, EtcdSchema, Live, LiveMap, Problem, ProblemKind, Revision, Versioned, Viewing,
};
use futures_util::future::{LocalBoxFuture, join_all};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use self::model::{Situation, Track, dirs, entries, high, name, whole};
use self::program::{Kind, Program, Step, step};

/// The limit of every wait. It is longer than any backoff and than the interval at which a view
/// verifies that it is up to date. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(validate = in_order)]
struct Shop {
    #[etcd(default = 1)]
    low: u32,
    #[etcd(default = 10, validate = small)]
    high: u32,
    #[etcd(alias = "title")]
    name: String,
    note: Option<String>,
    #[etcd(dir)]
    database: Option<Database>,
    #[etcd(entries, validate = small)]
    quotas: BTreeMap<String, u32>,
    #[etcd(dir)]
    regions: BTreeMap<String, Database>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Database {
    host: String,
    #[etcd(default = 4, validate = small)]
    pool: u32,
    #[etcd(entries)]
    tags: BTreeMap<String, u32>,
}

fn in_order(shop: &Shop) -> Result<(), String> {
    if shop.low <= shop.high { Ok(()) } else { Err("low is above high".to_owned()) }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "validations take references")]
fn small(number: &u32) -> Result<(), String> {
    if *number < 100 { Ok(()) } else { Err("a hundred is too much".to_owned()) }
}

/// Returns the values that the server stores at the start and after each wipe. They differ each
/// time, so that the test notices a view that still shows the values from before a wipe.
fn seed(life: u32) -> Shop {
    let host = format!("seed {life}");
    let region = Database { host: host.clone(), pool: 30 + life, tags: BTreeMap::new() };
    Shop {
        low: 4,
        high: 30 + life,
        name: host,
        note: None,
        database: None,
        quotas: BTreeMap::from([("seed".to_owned(), life)]),
        regions: BTreeMap::from([("seed".to_owned(), region)]),
    }
}

/// The server, with the proxy through which the views reach it.
#[derive(Clone)]
enum Server {
    Memory(MemoryStore),
    Real(Arc<Etcd>, Arc<Proxy>),
}

struct World {
    server: Server,
    writer: Client,
    directory: String,
    views: Vec<Box<dyn Track>>,
    life: u32,
    away: bool,
    /// Whether history was lost since the views were opened. An up-to-date view may stay at a
    /// revision that has been compacted, if none of its keys was written since.
    lost: bool,
    eager: bool,
}

impl World {
    async fn new(server: Server, writer: &Client, viewer: &Client, directory: String, eager: bool) -> Result<Self, TestCaseError> {
        let (shop, read) = (viewer.dir::<Shop>(&directory).unwrap(), writer.dir::<Shop>(&directory).unwrap());
        read.set(&seed(0)).non_atomic().await.unwrap();
        let views = vec![
            whole(&shop, &read),
            entries(&shop.quotas, &read.quotas),
            dirs(&shop.regions, &read.regions),
            high(&shop, &read),
            name(&shop, &read),
        ];
        let writer = writer.clone();
        let mut world = Self { server, writer, directory, views, life: 0, away: false, lost: false, eager };
        world.observe().await;
        world.reopen().await?;
        Ok(world)
    }

    fn shop(&self) -> ShopDir {
        self.writer.dir::<Shop>(&self.directory).unwrap()
    }

    fn text(&self, path: &str) -> Entry<String> {
        self.writer.entry(&format!("{}/{path}", self.directory)).unwrap()
    }

    async fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        self.perform(step).await?;
        self.observe().await;
        let compares = matches!(step, Step::CatchUp) || self.eager;
        if compares && !self.away { self.catch_up().await } else { Ok(()) }
    }

    async fn perform(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Put(path, text) => drop(self.text(path).set(&(*text).to_owned()).await.unwrap()),
            Step::Delete(path) => drop(self.text(path).delete().await.unwrap()),
            Step::DeleteBelow(path) => {
                let deleted = self.writer.directory(&format!("{}/{path}", self.directory)).unwrap().delete_recursive().await;
                assert!(deleted.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::NotFound), "{deleted:?}");
            }
            Step::Change(changes) => {
                let transaction = changes.iter().fold(self.writer.transaction(), |transaction, (path, text)| match text {
                    Some(text) => transaction.write(self.text(path).set(&(*text).to_owned())),
                    None => transaction.delete(&self.text(path)),
                });
                transaction.await.unwrap();
            }
            Step::SetAll(shop) => drop(self.shop().set(shop).await.unwrap()),
            Step::SetQuotas(quotas) => {
                let quotas = quotas.iter().map(|(key, quota)| ((*key).to_owned(), *quota)).collect();
                self.shop().quotas.set(&quotas).await.unwrap();
            }
            Step::SetHigh(high) => drop(self.shop().high.set(high).await.unwrap()),
            Step::PutElsewhere => self.put_elsewhere().await,
            Step::Cut => self.cut(),
            Step::Away => self.leave().await,
            Step::Back => self.come_back().await,
            Step::Compact => {
                self.lost = true;
                match &self.server {
                    Server::Memory(store) => store.faults().compact(),
                    Server::Real(etcd, _) => drop(etcd.compact().await),
                }
            }
            Step::Restart => {
                if let Server::Memory(store) = &self.server {
                    store.faults().stop();
                    sleep(Duration::from_millis(300)).await;
                    store.faults().start();
                }
            }
            Step::Wipe => {
                if let Server::Memory(store) = &self.server {
                    store.faults().wipe();
                    (self.life, self.lost) = (self.life + 1, true);
                    self.shop().set(&seed(self.life)).await.unwrap();
                    // A view that has not noticed the wipe yet takes new revisions for revisions
                    // from before the wipe.
                    self.come_back().await;
                    self.observe().await;
                    for view in &mut self.views {
                        view.notice().await?;
                    }
                }
            }
            Step::Milliseconds(time) => sleep(Duration::from_millis(*time)).await,
            Step::CatchUp => {}
            Step::Reopen => {
                self.come_back().await;
                self.reopen().await?;
            }
        }
        Ok(())
    }

    async fn put_elsewhere(&self) {
        self.writer.entry::<u32>("/elsewhere").unwrap().set(&1).await.unwrap();
    }

    fn cut(&self) {
        match &self.server {
            Server::Memory(store) => store.faults().drop_connections(),
            Server::Real(_, proxy) => proxy.cut(),
        }
    }

    async fn leave(&mut self) {
        self.away = true;
        match &self.server {
            Server::Memory(store) => store.faults().fail(Calls::Watches, usize::MAX, ErrorKind::Unavailable),
            Server::Real(_, proxy) => proxy.set(Mode::Refuse).await,
        }
        self.cut();
    }

    async fn come_back(&mut self) {
        self.away = false;
        match &self.server {
            Server::Memory(store) => store.faults().clear(),
            Server::Real(_, proxy) => proxy.set(Mode::Pass).await,
        }
    }

    /// Reads everything with the client that has no faults.
    async fn observe(&mut self) {
        let revision = self.writer.status().await.unwrap().revision;
        for view in &mut self.views {
            view.observe(self.life, revision).await;
        }
    }

    async fn reopen(&mut self) -> Result<(), TestCaseError> {
        for view in &mut self.views {
            view.open().await?;
        }
        self.lost = false;
        Ok(())
    }

    async fn catch_up(&mut self) -> Result<(), TestCaseError> {
        let revision = self.writer.status().await.unwrap().revision;
        join_all(self.views.iter().map(|view| view.reach(revision))).await;
        for view in &mut self.views {
            view.compare(Situation { revision, exact: !self.lost }).await?;
        }
        Ok(())
    }
}

/// Runs random programs one after the other, each in its own directory.
fn run(kind: Kind, cases: u32, steps: Range<usize>, runtime: &Runtime, bed: impl Fn() -> (Server, Client, Client)) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() });
    let number = Cell::new(0);
    let programs = (proptest::bool::weighted(0.3), vec(step(kind), steps)).prop_map(|(eager, steps)| Program { eager, steps });
    let outcome = runner.run(&programs, |Program { eager, steps }| {
        number.set(number.get() + 1);
        let directory = format!("/case-{}/shop", number.get());
        runtime.block_on(async {
            let (server, writer, viewer) = bed();
            let mut world = World::new(server, &writer, &viewer, directory, eager).await?;
            for step in &steps {
                world.take(step).await?;
            }
            world.come_back().await;
            world.catch_up().await
        })
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn views_show_same_values_as_reads_in_memory() {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    run(Kind::Memory, 400, 1..40, &runtime, || {
        let store = MemoryStore::new();
        let client = Client::with_store(store.clone());
        (Server::Memory(store), client.clone(), client)
    });
}

/// Runs the cases on a server. The writer connects directly to the server, the views through a
/// proxy.
fn run_on_a_server(kind: Kind, cases: u32, scheme: &str) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (server, writer, viewer) = runtime.block_on(async {
        let etcd = Etcd::start().await;
        let proxy = Proxy::to(etcd.endpoint()).await;
        let writer = Client::connect(&format!("{scheme}://{}", etcd.endpoint())).await.unwrap();
        let viewer = Client::connect(&format!("{scheme}://{}", proxy.endpoint())).await.unwrap();
        (Server::Real(Arc::new(etcd), Arc::new(proxy)), writer, viewer)
    });
    run(kind, cases, 10..30, &runtime, || (server.clone(), writer.clone(), viewer.clone()));
}

#[test]
fn views_show_same_values_as_reads_on_v3() {
    run_on_a_server(Kind::V3, 30, "etcd");
}

#[test]
fn views_show_same_values_as_reads_on_v2() {
    run_on_a_server(Kind::V2, 20, "etcd2");
}
