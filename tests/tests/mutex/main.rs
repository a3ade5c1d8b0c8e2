//! Mutual exclusion under faults. Processes of contenders use the locks of real servers and of the
//! memory store, while servers and processes are killed, stopped and cut off.
//!
//! One such run is called a campaign. Contenders (`contender.rs`) report what they do
//! (`record.rs`). At the end `check.rs` compares the reports with the history of the store. The
//! faults are in `ground.rs`. Locks with defects (`broken.rs`) show that the checks detect broken
//! promises.
//!
//! `MUTEX_SECONDS` sets the length of a campaign, `MUTEX_SEEDS` the number of campaigns in memory,
//! and `MUTEX_SEED` the seed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod broken;
mod check;
mod contender;
mod deaths;
mod ground;
mod memory;
mod record;
mod soak;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use etcd_typed::testing::{Cluster, Etcd};
use etcd_typed_tests::mixed_cluster;
use tokio::sync::Mutex;

use self::check::{Figures, Violation, check};
use self::ground::{Campaign, ClientFault, Ground, ServerFault};
use self::record::Behaviour;

/// Runs campaigns one after the other, because they would disturb each other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Writes the figures of a run to standard error without the test harness, which would hide the
/// output of a passing test.
fn show(figures: std::fmt::Arguments<'_>) {
    let mut log = std::io::stderr();
    writeln!(log, "mutex: {figures}").unwrap();
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

fn locks(locks: &[(&str, u64)]) -> BTreeMap<String, Duration> {
    locks.iter().map(|(name, seconds)| ((*name).to_owned(), Duration::from_secs(*seconds))).collect()
}

fn campaign(scheme: &'static str, seconds: u64) -> Campaign {
    Campaign {
        scheme,
        seed: from_env("MUTEX_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000)),
        time: Duration::from_secs(from_env("MUTEX_SECONDS").unwrap_or(seconds)),
        processes: 3,
        // With three locks, each process has eighteen tasks.
        tasks: 6,
        locks: locks(&[("long", 5), ("middle", 3), ("short", 2)]),
        behaviour: Behaviour::Correct,
        servers: &[],
        clients: &[ClientFault::Killed, ClientFault::Stopped, ClientFault::CutOff, ClientFault::Deafened, ClientFault::Reset],
    }
}

async fn holds(members: usize, campaign: Campaign) -> Figures {
    let _alone = ALONE.lock().await;
    let cluster = Etcd::cluster(members).await;
    if campaign.scheme == "etcd2" {
        // Panics with instructions if the servers have no v2 API.
        let _ = cluster.url_v2();
    }
    holds_on(cluster, campaign).await
}

async fn holds_on(mut cluster: Cluster, campaign: Campaign) -> Figures {
    let ground = Ground::of(&cluster, campaign.clone()).await;
    let (evidence, mut violations) = ground.contend(&mut cluster).await;
    let (figures, seen) = check(&evidence);
    violations.extend(seen);
    let Campaign { scheme, seed, time, processes, .. } = campaign;
    let versions: Vec<&str> = cluster.members().iter().map(Etcd::version).collect();
    show(format_args!(
        "{scheme} {versions:?}, {processes} processes, {time:?}, seed {seed}: {figures}; faults: {:?}; {} violations",
        ground.faults(),
        violations.len()
    ));
    assert!(violations.is_empty(), "{:#?}", &violations[..violations.len().min(10)]);
    figures
}

const SERVERS: &[ServerFault] = &[ServerFault::Stopped, ServerFault::CutOff];
const KILLED_SERVERS: &[ServerFault] = &[ServerFault::Killed, ServerFault::Stopped, ServerFault::CutOff];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_mutual_exclusion_survives_killed_members() {
    let figures = holds(3, Campaign { servers: KILLED_SERVERS, ..campaign("etcd", 20) }).await;
    assert!(figures.grants >= 200 && figures.committed >= 200 && figures.late_refused >= 20, "{figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_mutual_exclusion_survives_stopped_members() {
    let figures = holds(3, Campaign { servers: SERVERS, ..campaign("etcd", 12) }).await;
    assert!(figures.grants >= 100 && figures.committed >= 100 && figures.late_refused >= 10, "{figures}");
}

/// During a rolling upgrade, members may answer differently.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs two etcd lines: ETCD_BIN names one and ETCD_NEXT_BIN the next"]
async fn mixed_cluster_mutual_exclusion_survives_killed_members() {
    let _alone = ALONE.lock().await;
    let cluster = mixed_cluster(3).await;
    let figures = holds_on(cluster, Campaign { servers: KILLED_SERVERS, ..campaign("etcd", 20) }).await;
    assert!(figures.grants >= 200 && figures.committed >= 200 && figures.late_refused >= 20, "{figures}");
}

/// Runs a campaign whose contenders write without a guard. The checks must detect that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checker_detects_unguarded_writes_of_processes() {
    let _alone = ALONE.lock().await;
    let mut cluster = Etcd::cluster(1).await;
    let campaign = Campaign { behaviour: Behaviour::Unguarded, time: Duration::from_secs(2), clients: &[], ..campaign("etcd", 0) };
    let ground = Ground::of(&cluster, campaign).await;
    let (evidence, forgotten) = ground.contend(&mut cluster).await;
    let (_, seen) = check(&evidence);
    assert!(forgotten.is_empty(), "{forgotten:?}");
    assert!(seen.iter().any(|violation| matches!(violation, Violation::NotTheFirst { .. })), "{seen:?}");
}

/// v2 has no guarded writes, so the contenders only hold locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_mutual_exclusion_survives_killed_server() {
    let figures = holds(1, Campaign { servers: KILLED_SERVERS, behaviour: Behaviour::LockOnly, ..campaign("etcd2", 10) }).await;
    assert!(figures.grants >= 50, "{figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_mutual_exclusion_survives_stopped_server() {
    let figures = holds(1, Campaign { servers: SERVERS, behaviour: Behaviour::LockOnly, ..campaign("etcd2", 10) }).await;
    assert!(figures.grants >= 50, "{figures}");
}
