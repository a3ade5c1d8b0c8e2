//! Watches that receive many events. The events are live, while another process writes them with
//! single puts or with transactions of a hundred puts, or they are replayed from an old revision.

use super::{Better, CLIENT, Case, Effort, Goal, Measured, Observed, Server, Stage};
use crate::Result;
use crate::peers::watches::{Watches, follow};
use crate::peers::{ETCD_CLIENT, EtcdClientWatches, EtcdTypedWatches, GO, OURS};
use crate::tally::{Tally, VALUE};
use crate::work::Meter;
use crate::writer;

pub(super) const LIVE: &str = "watch-live";
pub(super) const OLD: &str = "watch-old";

/// The number of puts in a transaction.
const BURST: u64 = 100;
/// The revision of a server that has just started and has no writes.
const FIRST_REVISION: u64 = 1;

pub(super) fn cases(effort: &Effort) -> Vec<Case> {
    let (single, bursts) = (effort.of(5_000, 20_000), effort.of(20_000, 100_000));
    let mut cases = vec![live(&[(single, 1), (bursts, BURST)]), old(5_000, 3.0)];
    if !effort.quick {
        cases.push(old(100_000, 15.0));
    }
    cases
}

/// Returns a case with one stage for each pair: the number of events, and the number of events that
/// a request writes.
fn live(amounts: &[(u64, u64)]) -> Case {
    let stages = amounts.iter().map(|(events, in_each)| {
        let (events, in_each) = (*events, *in_each);
        let title = match in_each {
            1 => "watch, live, puts by another process".to_owned(),
            _ => format!("watch, live, transactions of {in_each} puts by another process"),
        };
        let goals = match in_each {
            1 => vec![Goal::at_most(1.0, CLIENT, ETCD_CLIENT)],
            _ => vec![Goal::at_most(0.85, CLIENT, ETCD_CLIENT), Goal::at_most(0.4, CLIENT, GO)],
        };
        Stage::new(title, "event", &[("events/s", Better::Higher)], goals, move |observed| told(observed, events, events as f64))
            .meanwhile(Box::new(move |address| Box::pin(async move { writer::events(&address, events, in_each).await })))
    });
    let mut work = vec![LIVE.to_owned()];
    work.extend(amounts.iter().flat_map(|(events, in_each)| [events.to_string(), in_each.to_string()]));
    Case { peers: &[OURS, ETCD_CLIENT, GO], work, server: Server::default(), stages: stages.collect() }
}

/// Returns a case that replays this number of events. The goal is to be `times` times as fast as
/// the other peers.
fn old(events: u64, times: f64) -> Case {
    let title = format!("watch, replay of {events} old events");
    let goals = vec![Goal::times(times, "events/s", ETCD_CLIENT), Goal::times(times, "events/s", GO)];
    let stage = Stage::new(title, "event", &[("events/s", Better::Higher)], goals, move |observed| told(observed, events, 0.0));
    let prepare = Box::new(move |address: String| -> super::Doing { Box::pin(async move { writer::events(&address, events, 1).await }) });
    Case {
        peers: &[OURS, ETCD_CLIENT, GO],
        work: vec![OLD.to_owned(), events.to_string(), FIRST_REVISION.to_string()],
        server: Server { prepare: Some(prepare), ..Server::default() },
        stages: vec![stage],
    }
}

/// Evaluates the report, which is the number of events. The peer has checked that each event
/// arrived once and in order.
fn told(observed: &Observed, events: u64, written: f64) -> Result<Measured> {
    let seen: u64 = observed.found()?;
    if seen != events || observed.counted.puts != written {
        return Err(format!("{seen} events, expected {events}; {} keys were written, expected {written}", observed.counted.puts).into());
    }
    Ok(Measured { figures: vec![events as f64 / observed.report.elapsed.as_secs_f64()], operations: events as f64 })
}

pub(super) async fn work(peer: &str, address: &str, case: &str, parameters: &[String]) -> Result<()> {
    match (peer, case) {
        (OURS, LIVE) => follow_live::<EtcdTypedWatches>(address, parameters).await,
        (ETCD_CLIENT, LIVE) => follow_live::<EtcdClientWatches>(address, parameters).await,
        (OURS, OLD) => follow_old::<EtcdTypedWatches>(address, parameters).await,
        (ETCD_CLIENT, OLD) => follow_old::<EtcdClientWatches>(address, parameters).await,
        _ => Err(format!("unknown peer {peer}").into()),
    }
}

/// Creates the watch, and receives one event, before the start signal.
async fn follow_live<W: Watches>(address: &str, parameters: &[String]) -> Result<()> {
    let client = W::connect(address).await?;
    let mut watcher = client.watch_directory(None).await?;
    let mut revision = client.put(&[0; VALUE]).await?;
    follow(&mut watcher, &mut Tally::after(revision - 1, 1), 1).await?;
    for amount in parameters.chunks(2) {
        let [events, in_each] = amount else {
            return Err("expected pairs of parameters: the number of events, and of events in each request".into());
        };
        let (events, in_each): (u64, u64) = (events.parse()?, in_each.parse()?);
        let meter = Meter::ready()?;
        let mut tally = Tally::after(revision, in_each);
        follow(&mut watcher, &mut tally, events).await?;
        meter.report(|| Ok(tally.seen().into()))?;
        revision += events / in_each;
    }
    Ok(())
}

/// Creates the watch after the start signal. Only the connection exists before.
async fn follow_old<W: Watches>(address: &str, parameters: &[String]) -> Result<()> {
    let [events, since] = parameters else {
        return Err("expected two parameters: the number of events, and a revision".into());
    };
    let (events, since) = (events.parse()?, since.parse()?);
    let client = W::connect(address).await?;
    // Warms up the connection. This watch receives no event and is dropped.
    client.watch_key().await?;
    let meter = Meter::ready()?;
    let mut watcher = client.watch_directory(Some(since)).await?;
    let mut tally = Tally::after(since, 1);
    follow(&mut watcher, &mut tally, events).await?;
    meter.report(|| Ok(tally.seen().into()))
}
