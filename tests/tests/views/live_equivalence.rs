//! Compares live views with reads. After any writes and faults, a view shows what a read returns.
//! If a read fails because of invalid values, the view shows the last valid state and reports the
//! same problems. Runs random programs on the embedded store, on v3 and on v2.
//!
//! Reads are the model: after each write, everything is read by a client without faults and
//! recorded with its revision. This tells for each revision what a view may show at it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

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
    Check, Client, DirMap, Entry, EntryMap, ErrorKind, EtcdSchema, Live, LiveMap, Problem, ProblemKind, Revision, Versioned, Viewing,
};
use futures_util::future::{LocalBoxFuture, join_all};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

/// The limit of every wait. It is longer than any backoff and than the time between two proofs of a
/// view. Only a failing test waits this long.
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

/// What the server stores at the start and after each wipe. It differs each time, so that a view
/// cannot show one for another.
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

/// One step of a program. Paths are below the directory of the shop.
#[derive(Clone, Debug)]
enum Step {
    Put(&'static str, &'static str),
    Delete(&'static str),
    DeleteBelow(&'static str),
    /// All changes in one transaction.
    Change(BTreeMap<&'static str, Option<&'static str>>),
    SetAll(Shop),
    SetQuotas(BTreeMap<&'static str, u32>),
    SetHigh(u32),
    PutElsewhere,
    /// Cuts the connections of the views.
    Cut,
    /// Keeps the views from watching, until `Back`.
    Away,
    Back,
    Compact,
    /// Stops the server for a moment (only the embedded store).
    Restart,
    /// The server loses all data, and the seed is written again (only the embedded store).
    Wipe,
    Milliseconds(u64),
    /// Waits until the views have caught up, and compares everything.
    CatchUp,
    /// Drops all views and opens them again.
    Reopen,
}

/// The steps of one case. A failing program is printed with one line for each step.
#[derive(Clone)]
struct Program {
    /// Compares everything after each step, and not only at `CatchUp` and at the end.
    eager: bool,
    steps: Vec<Step>,
}

impl Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.eager { "compared after each step:" } else { "compared at `CatchUp` and at the end:" })?;
        self.steps.iter().try_for_each(|step| write!(f, "\n    {step:?}"))
    }
}

const PATHS: [&str; 27] = [
    "low",
    "high",
    "name",
    "title",
    "note",
    "unknown",
    "_hidden",
    "deeper/unknown",
    "database/host",
    "database/pool",
    "database/unknown",
    "quotas/a",
    "quotas/b%2Fc",
    "quotas/%61",
    "quotas/50%",
    "quotas/_x",
    "quotas/deeper/x",
    "regions/a/host",
    "regions/a/pool",
    "regions/a/unknown",
    "regions/b%2Fc/host",
    "regions/b%2Fc/pool",
    "regions/50%/host",
    "regions/leaf",
    "regions/a/tags/x",
    "regions/a/tags/50%",
    "regions/c/tags/50%",
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Memory,
    V3,
    V2,
}

fn step(kind: Kind) -> impl Strategy<Value = Step> {
    let path = || select(&PATHS[..]);
    let text = || select(&["0", "5", "7", "20", "200", "x", ""][..]);
    let optional = || proptest::option::weighted(0.7, text());
    let database = || ("[a-b]", select(&[3_u32, 4][..])).prop_map(|(host, pool)| Database { host, pool, tags: BTreeMap::new() });
    let key = || select(&["a", "b/c"][..]);
    let owned = move || key().prop_map(str::to_owned);
    let shop = (0_u32..4, 5_u32..9, "[a-b]", proptest::option::of("[a-b]"), proptest::option::of(database()))
        .prop_flat_map(move |fields| (Just(fields), btree_map(owned(), 0_u32..9, 0..3), btree_map(owned(), database(), 0..3)))
        .prop_map(|((low, high, name, note, database), quotas, regions)| Shop { low, high, name, note, database, quotas, regions });
    let single = prop_oneof![
        8 => (path(), text()).prop_map(|(path, text)| Step::Put(path, text)),
        5 => path().prop_map(Step::Delete),
        1 => select(&["quotas", "regions/a", "regions", "database", "quotas/deeper", "none"][..]).prop_map(Step::DeleteBelow),
        1 => (0_u32..20).prop_map(Step::SetHigh),
        1 => Just(Step::PutElsewhere),
    ];
    let several = prop_oneof![
        2 => btree_map(path(), optional(), 1..6).prop_map(Step::Change),
        2 => shop.prop_map(Step::SetAll),
        1 => btree_map(key(), 0_u32..9, 0..3).prop_map(Step::SetQuotas),
    ];
    let fault = prop_oneof![
        2 => Just(Step::Cut),
        2 => Just(Step::Away),
        3 => Just(Step::Back),
        2 => (0_u64..200).prop_map(Step::Milliseconds),
        2 => Just(Step::CatchUp),
        1 => Just(Step::Reopen),
    ];
    let of_server = match kind {
        Kind::Memory => prop_oneof![4 => Just(Step::Compact), 2 => Just(Step::Restart), 1 => Just(Step::Wipe)].boxed(),
        Kind::V3 => Just(Step::Compact).boxed(),
        Kind::V2 => Just(Step::Cut).boxed(),
    };
    // On v2 a write of several keys takes several revisions, and the model reads after each write.
    let write = if kind == Kind::V2 { single.boxed() } else { prop_oneof![2 => single, 1 => several].boxed() };
    prop_oneof![18 => write, 6 => fault, 2 => of_server]
}

/// What a read returns: the state, or the problems.
type Seen<S> = Result<Read<S>, Vec<Said>>;

/// A state, with the revisions of its oldest and its newest key.
type Read<S> = (S, Revision, Revision);

/// A problem's key, kind and reason, and its revision if it has one of its own.
type Said = (String, ProblemKind, String, Option<Revision>);

fn said(problem: &Problem) -> Said {
    (problem.key.to_string(), problem.kind, problem.reason.clone(), problem.revision)
}

/// What a read returned at a revision.
struct Moment<S> {
    /// How often the server was wiped before this read.
    life: u32,
    revision: Revision,
    seen: Seen<S>,
}

/// A view with its model.
struct Tracked<T, S> {
    name: &'static str,
    view: Box<dyn Fn() -> Viewing<T>>,
    read: Box<dyn Fn() -> BoxFuture<'static, Seen<S>>>,
    show: fn(&T) -> S,
    /// Whether states of the view have the revisions of their keys, as reads do.
    versions: bool,
    live: Option<Live<T>>,
    log: Vec<Moment<S>>,
    /// The state that the view showed at the last comparison, and the length of the log then.
    shown: Option<Read<S>>,
    compared: usize,
}

/// What decides how strict a comparison is.
#[derive(Clone, Copy)]
struct Situation {
    revision: Revision,
    /// Whether no history was lost. Then the state that a view shows while reads fail is certain.
    exact: bool,
}

trait Track {
    fn observe(&mut self, life: u32, revision: Revision) -> LocalBoxFuture<'_, ()>;
    fn open(&mut self) -> LocalBoxFuture<'_, Result<(), TestCaseError>>;
    /// Waits until the view has noticed that the server was wiped.
    fn notice(&mut self) -> LocalBoxFuture<'_, Result<(), TestCaseError>>;
    /// Waits until the view has everything up to this revision, or has found a problem there.
    fn reach(&self, revision: Revision) -> LocalBoxFuture<'_, ()>;
    fn compare(&mut self, situation: Situation) -> LocalBoxFuture<'_, Result<(), TestCaseError>>;
}

impl<T, S> Tracked<T, S>
where
    T: Send + Sync + 'static,
    S: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    fn boxed(
        name: &'static str,
        versions: bool,
        show: fn(&T) -> S,
        view: impl Fn() -> Viewing<T> + 'static,
        read: impl Fn() -> BoxFuture<'static, Seen<S>> + 'static,
    ) -> Box<dyn Track> {
        Box::new(Self {
            name,
            view: Box::new(view),
            read: Box::new(read),
            show,
            versions,
            live: None,
            log: Vec::new(),
            shown: None,
            compared: 0,
        })
    }

    fn shown(&self, state: &Versioned<T>) -> Read<S> {
        ((self.show)(state), state.created(), state.modified())
    }

    /// Whether a state of the view equals what a read returned.
    fn is(&self, shown: &Read<S>, read: &Read<S>) -> bool {
        shown.0 == read.0 && (!self.versions || shown == read)
    }

    fn now(&self) -> &Seen<S> {
        &self.log.last().expect("a first read was made").seen
    }

    /// Asserts that a read had returned each state in the view's history, at its revision.
    fn check_history(&self, live: &Live<T>) -> Result<(), TestCaseError> {
        for state in live.history() {
            let shown = self.shown(&state);
            let lives = self.log.last().map_or(0, |moment| moment.life);
            let was_there = (0..=lives).any(|life| {
                let at = self.log.iter().rfind(|moment| moment.life == life && moment.revision <= state.revision());
                at.is_some_and(|moment| moment.seen.as_ref().is_ok_and(|read| self.is(&shown, read)))
            });
            prop_assert!(was_there, "{}: {shown:?} was not stored at {:?}", self.name, state.revision());
            prop_assert!(state.modified() <= state.revision(), "{}: {shown:?} at {:?}", self.name, state.revision());
        }
        Ok(())
    }

    /// Asserts that the view shows what the last read returned.
    fn check_state(&self, live: &Live<T>, situation: Situation) -> Result<(), TestCaseError> {
        let shown = self.shown(&live.get());
        match self.now() {
            Ok(read) => {
                prop_assert!(self.is(&shown, read), "{} shows {shown:?}, a read returns {read:?}", self.name);
                prop_assert!(live.revision() >= situation.revision, "{} is at {:?}", self.name, live.revision());
                let status = live.status();
                prop_assert!(status.problems().is_empty(), "{} reports {status:?}, a read returns {read:?}", self.name);
            }
            Err(problems) => {
                let told: Vec<Said> = live.status().problems().iter().map(said).collect();
                prop_assert!(same(&told, problems), "{} reports {told:?}, a read {problems:?}", self.name);
                let newest = self.log.iter().rev().find_map(|moment| moment.seen.as_ref().ok());
                let shows_newest = newest.is_some_and(|read| self.is(&shown, read));
                let since = self.log.get(self.compared..).unwrap_or_default().iter().filter_map(|moment| moment.seen.as_ref().ok());
                let shows_one = shows_newest || !situation.exact && self.shown.iter().chain(since).any(|read| self.is(&shown, read));
                prop_assert!(shows_one, "{} shows {shown:?}, the last valid state was {:?}", self.name, newest);
            }
        }
        Ok(())
    }
}

/// Whether the problems are the same, in any order. For a missing key, a read reports no revision,
/// and a view the revision at which it found the key missing. The error of reading a single key is
/// one problem, whose reason is not compared.
fn same(told: &[Said], read: &[Said]) -> bool {
    let (mut told, mut read) = (told.to_vec(), read.to_vec());
    told.sort_by(|a, b| (&a.0, &a.2).cmp(&(&b.0, &b.2)));
    read.sort_by(|a, b| (&a.0, &a.2).cmp(&(&b.0, &b.2)));
    let fits = |(told, read): (&Said, &Said)| {
        let revision = told.3.is_some() && read.3.is_none_or(|revision| told.3 == Some(revision));
        let reason = told.2 == read.2 || read.2.is_empty();
        revision && reason && (&told.0, told.1) == (&read.0, read.1)
    };
    told.len() == read.len() && told.iter().zip(&read).all(fits)
}

impl<T, S> Track for Tracked<T, S>
where
    T: Send + Sync + 'static,
    S: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    fn observe(&mut self, life: u32, revision: Revision) -> LocalBoxFuture<'_, ()> {
        let read = (self.read)();
        Box::pin(async move {
            let seen = read.await;
            self.log.push(Moment { life, revision, seen });
        })
    }

    fn open(&mut self) -> LocalBoxFuture<'_, Result<(), TestCaseError>> {
        Box::pin(async move {
            self.live = None;
            let opened = timeout(LIMIT, (self.view)().history(10_000)).await;
            let Ok(opened) = opened else { return Err(TestCaseError::fail(format!("{} does not open", self.name))) };
            match (opened, self.now()) {
                (Ok(live), Ok(read)) => {
                    let shown = self.shown(&live.get());
                    prop_assert!(self.is(&shown, read), "{} starts with {shown:?}, a read returns {read:?}", self.name);
                    self.live = Some(live);
                    (self.shown, self.compared) = (Some(shown), self.log.len());
                }
                (Err(error), Err(problems)) => {
                    let told: Vec<Said> = error.problems().iter().map(said).collect();
                    let read: Vec<Said> = problems.iter().map(|problem| (problem.0.clone(), problem.1, problem.2.clone(), None)).collect();
                    let told: Vec<Said> = told.into_iter().map(|said| (said.0, said.1, said.2, Some(Revision::ZERO))).collect();
                    prop_assert!(same(&told, &read), "{} is refused for {told:?}, a read for {problems:?}", self.name);
                }
                (Ok(live), Err(problems)) => {
                    prop_assert!(false, "{} starts with {:?} despite {problems:?}", self.name, self.shown(&live.get()))
                }
                (Err(error), Ok(_)) => prop_assert!(false, "{} does not start: {error}", self.name),
            }
            Ok(())
        })
    }

    fn notice(&mut self) -> LocalBoxFuture<'_, Result<(), TestCaseError>> {
        Box::pin(async move {
            let Some(live) = &self.live else { return Ok(()) };
            let noticed = async {
                while self.now().as_ref().is_ok_and(|read| !self.is(&self.shown(&live.get()), read)) {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            prop_assert!(timeout(LIMIT, noticed).await.is_ok(), "{}: {live:?} does not notice that the server was wiped", self.name);
            Ok(())
        })
    }

    fn reach(&self, revision: Revision) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(live) = &self.live {
                let _ = timeout(LIMIT, live.wait_for_revision(revision)).await;
            }
        })
    }

    fn compare(&mut self, situation: Situation) -> LocalBoxFuture<'_, Result<(), TestCaseError>> {
        Box::pin(async move {
            let Some(live) = self.live.clone() else { return Ok(()) };
            let reached = timeout(LIMIT, live.wait_for_revision(situation.revision)).await;
            let Ok(reached) = reached else { return Err(TestCaseError::fail(format!("{}: {live:?} does not catch up", self.name))) };
            match (&reached, self.now()) {
                (Ok(state), Ok(read)) => {
                    let shown = self.shown(state);
                    prop_assert!(self.is(&shown, read), "{} has {shown:?} at {:?}, a read returns {read:?}", self.name, situation.revision);
                }
                (Err(error), Err(_)) => prop_assert_eq!(error.kind(), ErrorKind::Invalid),
                (reached, read) => {
                    prop_assert!(false, "{} has {:?}, a read returns {read:?}", self.name, reached.as_ref().map(|state| self.shown(state)))
                }
            }
            self.check_state(&live, situation)?;
            self.check_history(&live)?;
            if self.now().is_ok() {
                let followed = async {
                    while !live.status().is_live() {
                        sleep(Duration::from_millis(10)).await;
                    }
                };
                prop_assert!(timeout(LIMIT, followed).await.is_ok(), "{}: {live:?} is not live again", self.name);
                self.check_state(&live, situation)?;
            }
            (self.shown, self.compared) = (Some(self.shown(&live.get())), self.log.len());
            Ok(())
        })
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
    /// Whether history was lost since the views were opened. (An up-to-date view may stay at a
    /// revision that has been compacted, if none of its keys was written since.)
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
                    Some(text) => transaction.set(&self.text(path), &(*text).to_owned()),
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
                    // A view that has not noticed the wipe yet takes new revisions for those of the
                    // former history.
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

/// What a read and a check return. Problems take precedence, except those of unknown keys.
fn seen<T>(read: etcd_typed::Result<Versioned<T>>, check: etcd_typed::Result<Check>) -> Seen<T> {
    let problems = check.unwrap().problems;
    let wrong: Vec<Said> = problems.iter().filter(|problem| problem.kind != ProblemKind::Unknown).map(said).collect();
    match read {
        Ok(_) if !wrong.is_empty() => Err(wrong),
        Ok(read) => {
            let (created, modified) = (read.created(), read.modified());
            Ok((read.into_inner(), created, modified))
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.problems().iter().all(|problem| wrong.contains(&said(problem))), "{error} and {wrong:?}");
            Err(wrong)
        }
    }
}

fn whole(view: &ShopDir, read: &ShopDir) -> Box<dyn Track> {
    let (view, read) = (view.clone(), read.clone());
    Tracked::boxed(
        "the shop",
        true,
        Shop::clone,
        move || view.live(),
        move || {
            let read = read.clone();
            Box::pin(async move { seen(read.get().await, read.check().await) })
        },
    )
}

fn entries(view: &EntryMap<String, u32>, read: &EntryMap<String, u32>) -> Box<dyn Track> {
    let (view, read) = (view.clone(), read.clone());
    let show = |map: &LiveMap<String, u32>| map.iter().map(|(key, quota)| (key.clone(), *quota)).collect::<BTreeMap<_, _>>();
    Tracked::boxed(
        "the quotas",
        false,
        show,
        move || view.live(),
        move || {
            let read = read.clone();
            Box::pin(async move { seen(read.get().await, read.check().await) })
        },
    )
}

fn dirs(view: &DirMap<String, Database>, read: &DirMap<String, Database>) -> Box<dyn Track> {
    let (view, read) = (view.clone(), read.clone());
    let show = |map: &LiveMap<String, Database>| map.iter().map(|(key, region)| (key.clone(), region.clone())).collect::<BTreeMap<_, _>>();
    Tracked::boxed(
        "the regions",
        false,
        show,
        move || view.live(),
        move || {
            let read = read.clone();
            Box::pin(async move { seen(read.get().await, read.check().await) })
        },
    )
}

/// The view of an entry without an alias.
fn high(view: &ShopDir, read: &ShopDir) -> Box<dyn Track> {
    let (view, read) = (view.high.clone(), read.high.clone());
    Tracked::boxed(
        "the entry `high`",
        true,
        Option::<u32>::clone,
        move || view.live(),
        move || {
            let read = read.clone();
            Box::pin(async move {
                let now = read.get().await;
                if let Ok(Some(now)) = &now
                    && let Err(reason) = small(now)
                {
                    return Err(vec![(read.key().to_string(), ProblemKind::Rejected, reason, Some(now.modified()))]);
                }
                seen_entry(now)
            })
        },
    )
}

/// The view of an entry with an alias.
fn name(view: &ShopDir, read: &ShopDir) -> Box<dyn Track> {
    let (view, read) = (view.name.clone(), read.name.clone());
    Tracked::boxed(
        "the entry `name`",
        true,
        Option::<String>::clone,
        move || view.live(),
        move || {
            let read = read.clone();
            Box::pin(async move { seen_entry(read.get().await) })
        },
    )
}

/// What a read of an entry returns. A missing entry is a state, too.
fn seen_entry<T>(read: etcd_typed::Result<Option<Versioned<T>>>) -> Seen<Option<T>> {
    match read.transpose() {
        Some(Err(error)) if error.kind() == ErrorKind::Decode => {
            let key = error.key().expect("a decode error names the key").to_string();
            Err(vec![(key, ProblemKind::Undecodable, String::new(), None)])
        }
        Some(read) => {
            let read = read.unwrap();
            let (created, modified) = (read.created(), read.modified());
            Ok((Some(read.into_inner()), created, modified))
        }
        None => Ok((None, Revision::ZERO, Revision::ZERO)),
    }
}

/// Runs random programs one after the other, each in a directory of its own.
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
fn views_equal_reads_on_memory() {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    run(Kind::Memory, 400, 1..40, &runtime, || {
        let store = MemoryStore::new();
        let client = Client::with_store(store.clone());
        (Server::Memory(store), client.clone(), client)
    });
}

/// The writer connects directly to the server, the views through a proxy.
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
fn views_equal_reads_on_v3() {
    run_on_a_server(Kind::V3, 30, "etcd");
}

#[test]
fn views_equal_reads_on_v2() {
    run_on_a_server(Kind::V2, 20, "etcd2");
}
