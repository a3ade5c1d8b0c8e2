//! Many watches of one client on one key. The first stage measures the time and memory to set up
//! the watches. The second stage measures how fast a change reaches all of them.

use tokio::task::JoinSet;

use super::{Better, Case, Effort, Goal, Measured, Observed, Server, Stage};
use crate::Result;
use crate::peers::watches::{Watches, follow};
use crate::peers::{ETCD_CLIENT, ETCD_CLIENT_ONE_STREAM, EtcdClientWatches, EtcdTypedWatches, GO, OURS};
use crate::tally::{Tally, VALUE};
use crate::work::Meter;

pub(super) const NAME: &str = "watch-fan-out";

/// Returns a case for each pair: the number of watches, and the number of puts.
pub(super) fn cases(effort: &Effort) -> Vec<Case> {
    [(1, effort.of(200, 2_000)), (100, effort.of(100, 500)), (10_000, effort.of(5, 20))].map(|(watches, puts)| case(watches, puts)).into()
}

fn case(watches: u64, puts: u64) -> Case {
    let (mut set_up_goals, mut told_goals) = (Vec::new(), Vec::new());
    if watches == 10_000 {
        set_up_goals = vec![
            Goal::times(30.0, "set-up", ETCD_CLIENT),
            Goal::times(30.0, "set-up", GO),
            Goal::count(15.0, "client MiB"),
            Goal::count(1.0, "server MiB"),
        ];
        told_goals = vec![
            Goal::times(5.0, "events/s", ETCD_CLIENT_ONE_STREAM),
            Goal::times(5.0, "events/s", ETCD_CLIENT),
            Goal::times(10.0, "events/s", GO),
        ];
    }
    let who = if watches == 1 { "1 watch".to_owned() } else { format!("{watches} watches of one client on one key") };
    let set_up = Stage::new(
        format!("{who}: set-up"),
        "watch",
        &[("set-up ms", Better::Lower), ("client MiB", Better::Lower), ("server MiB", Better::Lower)],
        set_up_goals,
        move |observed| set_up(observed, watches),
    );
    let told = Stage::new(
        format!("{who}: delivery of {puts} puts to all"),
        "event",
        &[("events/s", Better::Higher), ("client MiB growth", Better::Lower), ("server MiB growth", Better::Lower)],
        told_goals,
        move |observed| told(observed, watches, puts),
    );
    Case {
        peers: &[OURS, ETCD_CLIENT, ETCD_CLIENT_ONE_STREAM, GO],
        work: vec![NAME.to_owned(), watches.to_string(), puts.to_string()],
        server: Server::default(),
        stages: vec![set_up, told],
    }
}

/// Evaluates the stage in which the watches are created. The memory figures say by how much the
/// memory has grown.
fn set_up(observed: &Observed, watches: u64) -> Result<Measured> {
    let there: u64 = observed.found()?;
    if there != watches {
        return Err(format!("{there} watches, expected {watches}").into());
    }
    let milliseconds = observed.report.elapsed.as_secs_f64() * 1e3;
    Ok(Measured { figures: vec![milliseconds, observed.memory_growth, observed.counted.memory], operations: watches as f64 })
}

/// Evaluates the delivery. The peer has checked that each watch received every put, in order.
fn told(observed: &Observed, watches: u64, puts: u64) -> Result<Measured> {
    let events: u64 = observed.found()?;
    if events != watches * puts || observed.counted.puts != puts as f64 {
        return Err(
            format!("{events} events, expected {puts} for each of {watches} watches; {} keys were written", observed.counted.puts).into()
        );
    }
    let each_second = events as f64 / observed.report.elapsed.as_secs_f64();
    Ok(Measured { figures: vec![each_second, observed.memory_growth, observed.counted.memory], operations: events as f64 })
}

pub(super) async fn work(peer: &str, address: &str, parameters: &[String]) -> Result<()> {
    let [watches, puts] = parameters else {
        return Err("expected two parameters: watches and puts".into());
    };
    let (watches, puts) = (watches.parse()?, puts.parse()?);
    match peer {
        OURS => a_task_each::<EtcdTypedWatches>(address, watches, puts).await,
        ETCD_CLIENT => a_task_each::<EtcdClientWatches>(address, watches, puts).await,
        ETCD_CLIENT_ONE_STREAM => on_one_stream(address, watches, puts).await,
        _ => Err(format!("unknown peer {peer}").into()),
    }
}

/// Runs each watch in its own task.
async fn a_task_each<W: Watches>(address: &str, watches: usize, puts: u64) -> Result<()> {
    let client = W::connect(address).await?;
    let tally = Tally::after(client.put(&[0; VALUE]).await?, 1);
    let meter = Meter::ready()?;
    let mut opening = JoinSet::new();
    for _ in 0..watches {
        let client = client.clone();
        opening.spawn(async move { client.watch_key().await });
    }
    let mut opened = Vec::new();
    while let Some(watcher) = opening.join_next().await {
        opened.push(watcher??);
    }
    meter.report(|| Ok(opened.len().into()))?;

    let meter = Meter::ready()?;
    let mut following = JoinSet::new();
    for mut watcher in opened {
        let mut tally = tally;
        following.spawn(async move {
            follow(&mut watcher, &mut tally, puts).await?;
            // The watch stays until all watches have received the puts.
            Result::Ok((watcher, tally.seen()))
        });
    }
    for _ in 0..puts {
        client.put(&[0; VALUE]).await?;
    }
    let (mut done, mut events) = (Vec::new(), 0);
    while let Some(followed) = following.join_next().await {
        let (watcher, seen) = followed??;
        done.push(watcher);
        events += seen;
    }
    meter.report(|| Ok(events.into()))
}

/// Reads the events of all watches in a single task.
async fn on_one_stream(address: &str, watches: usize, puts: u64) -> Result<()> {
    let client = EtcdClientWatches::connect(address).await?;
    let tally = Tally::after(client.put(&[0; VALUE]).await?, 1);
    let meter = Meter::ready()?;
    let stream = client.watch_key_often(watches).await?;
    meter.report(|| Ok(watches.into()))?;

    let meter = Meter::ready()?;
    let following = tokio::spawn(stream.follow(tally, puts));
    for _ in 0..puts {
        client.put(&[0; VALUE]).await?;
    }
    let events = following.await??;
    meter.report(|| Ok(events.into()))
}
