//! One at a time, whatever happens: processes of contenders on real servers and in memory, while servers and processes are killed, stopped and cut off.
//!
//! Contenders (`contender.rs`) say what they do (`record.rs`); when all is over it is held against the store's own history (`check.rs`). What
//! goes wrong is in `ground.rs`. That the checker sees what it must is shown with locks that are broken (`broken.rs`).
//!
//! `MUTEX_SECONDS` makes the campaigns longer, `MUTEX_SEEDS` those in memory more, `MUTEX_SEED` sets the seed.

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
use self::record::Creed;

/// Campaigns disturb each other: one after the other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// The figures of a run: past the capture of a test that passes, so that they are in every log.
fn show(figures: std::fmt::Arguments<'_>) {
    let mut log = std::io::stderr();
    writeln!(log, "mutex: {figures}").unwrap();
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
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
        // For each of three locks: eighteen in each process.
        tasks: 6,
        locks: locks(&[("long", 5), ("middle", 3), ("short", 2)]),
        creed: Creed::Sound,
        servers: &[],
        clients: &[ClientFault::Killed, ClientFault::Stopped, ClientFault::CutOff, ClientFault::Deafened, ClientFault::Reset],
    }
}

async fn holds(members: usize, campaign: Campaign) -> Figures {
    let _alone = ALONE.lock().await;
    let cluster = Etcd::cluster(members).await;
    if campaign.scheme == "etcd2" {
        // Panics, and says what to do, where the servers have no v2 API.
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
async fn l1_l4_one_at_a_time_while_members_and_clients_are_killed_stopped_and_cut_off() {
    let figures = holds(3, Campaign { servers: KILLED_SERVERS, ..campaign("etcd", 20) }).await;
    assert!(figures.grants >= 200 && figures.committed >= 200 && figures.late_refused >= 20, "{figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_l4_one_at_a_time_while_members_and_clients_are_stopped_and_cut_off() {
    let figures = holds(3, Campaign { servers: SERVERS, ..campaign("etcd", 12) }).await;
    assert!(figures.grants >= 100 && figures.committed >= 100 && figures.late_refused >= 10, "{figures}");
}

/// In the middle of a rolling upgrade the members may answer differently.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs two etcd lines: ETCD_BIN names one and ETCD_NEXT_BIN the next"]
async fn mixed_cluster_one_at_a_time_while_members_and_clients_are_killed_stopped_and_cut_off() {
    let _alone = ALONE.lock().await;
    let cluster = mixed_cluster(3).await;
    let figures = holds_on(cluster, Campaign { servers: KILLED_SERVERS, ..campaign("etcd", 20) }).await;
    assert!(figures.grants >= 200 && figures.committed >= 200 && figures.late_refused >= 20, "{figures}");
}

/// The same ground and the same checks, and contenders that write without a guard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_sees_what_processes_do_without_a_guard() {
    let _alone = ALONE.lock().await;
    let mut cluster = Etcd::cluster(1).await;
    let campaign = Campaign { creed: Creed::Unguarded, time: Duration::from_secs(2), clients: &[], ..campaign("etcd", 0) };
    let ground = Ground::of(&cluster, campaign).await;
    let (evidence, forgotten) = ground.contend(&mut cluster).await;
    let (_, seen) = check(&evidence);
    assert!(forgotten.is_empty(), "{forgotten:?}");
    assert!(seen.iter().any(|violation| matches!(violation, Violation::NotTheFirst { .. })), "{seen:?}");
}

/// Without guarded writes, which v2 has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_l1_l4_one_at_a_time_while_the_server_and_clients_are_killed_stopped_and_cut_off() {
    let figures = holds(1, Campaign { servers: KILLED_SERVERS, creed: Creed::Unwritten, ..campaign("etcd2", 10) }).await;
    assert!(figures.grants >= 50, "{figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_l1_l4_one_at_a_time_while_the_server_and_clients_are_stopped_and_cut_off() {
    let figures = holds(1, Campaign { servers: SERVERS, creed: Creed::Unwritten, ..campaign("etcd2", 10) }).await;
    assert!(figures.grants >= 50, "{figures}");
}
