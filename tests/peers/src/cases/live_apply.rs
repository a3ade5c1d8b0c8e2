//! Another process changes the entries of a map one at a time, and the peer keeps its own map up to
//! date. The costs are measured for several sizes of the map.
//!
//! The live view of etcd-typed is compared with two maps written by hand on etcd-client. The first
//! map is copied for each change, so that readers need no lock. The second map is changed in place,
//! under a lock that readers share.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use etcd_client::{EventType, GetOptions, WatchOptions};
use etcd_typed::Client;

use super::{Better, CLIENT, Case, Effort, Goal, Measured, Server, Stage};
use crate::Result;
use crate::peers::{ETCD_CLIENT_COPIED_MAP, ETCD_CLIENT_LOCKED_MAP, OURS};
use crate::work::Meter;
use crate::writer::{self, changed_key};

pub(super) const NAME: &str = "live-apply";

const SIZES: [u32; 3] = [100, 10_000, 100_000];

pub(super) fn cases(effort: &Effort) -> Vec<Case> {
    let changes: u32 = effort.of(100, 500);
    let stage = |size: u32| {
        // The goal is relative to the copied map, whose readers do not wait for a lock either.
        let goals = if size == 100_000 { vec![Goal::times(10.0, CLIENT, ETCD_CLIENT_COPIED_MAP)] } else { Vec::new() };
        let columns = [("changes/s", Better::Higher)];
        let stage = Stage::new(format!("live view of a map of {size} entries: changes"), "change", &columns, goals, move |observed| {
            let wrong: u32 = observed.found()?;
            if wrong != 0 || observed.counted.puts != f64::from(changes) {
                return Err(format!(
                    "{wrong} entries differ from what was written; {} keys were written, expected {changes}",
                    observed.counted.puts
                )
                .into());
            }
            let each_second = f64::from(changes) / observed.report.elapsed.as_secs_f64();
            Ok(Measured { figures: vec![each_second], operations: f64::from(changes) })
        });
        let write = move |address: String| -> super::Doing { Box::pin(async move { writer::change_map(&address, size, changes).await }) };
        stage.beside(ETCD_CLIENT_LOCKED_MAP).meanwhile(Box::new(write))
    };
    let prepare = |address: String| -> super::Doing { Box::pin(async move { writer::maps(&address, &SIZES).await }) };
    vec![Case {
        peers: &[OURS, ETCD_CLIENT_LOCKED_MAP, ETCD_CLIENT_COPIED_MAP],
        work: vec![NAME.to_owned(), changes.to_string()],
        server: Server { prepare: Some(Box::new(prepare)), ..Server::default() },
        stages: SIZES.map(stage).into(),
    }]
}

pub(super) async fn work(peer: &str, address: &str, parameters: &[String]) -> Result<()> {
    let [changes] = parameters else {
        return Err("expected one parameter: the number of changes".into());
    };
    let changes = changes.parse()?;
    for size in SIZES {
        match peer {
            OURS => live_view(address, size, changes).await?,
            ETCD_CLIENT_LOCKED_MAP => by_hand(address, size, changes, RwLock::new(BTreeMap::new())).await?,
            ETCD_CLIENT_COPIED_MAP => by_hand(address, size, changes, ArcSwap::default()).await?,
            _ => return Err(format!("unknown peer {peer}").into()),
        }
    }
    Ok(())
}

async fn live_view(address: &str, size: u32, changes: u32) -> Result<()> {
    let client = Client::connect(&format!("etcd://{address}")).await?;
    let live = client.entries::<String, u64>(&writer::map(size))?.live().await?;
    if live.get().len() != size as usize {
        return Err(format!("found {} entries, expected {size}", live.get().len()).into());
    }
    let revision = live.get().revision().get();
    let meter = Meter::ready()?;
    let state = live.wait_for_revision(revision + u64::from(changes)).await?;
    meter.report(|| Ok(wrong(size, changes, |key| state.get(key).copied()).into()))
}

/// A map that is updated while other threads may read it.
trait Shared {
    /// Stores these entries.
    fn apply(&self, changed: Vec<(String, u64)>);

    fn get(&self, key: &str) -> Option<u64>;
}

impl Shared for RwLock<BTreeMap<String, u64>> {
    fn apply(&self, changed: Vec<(String, u64)>) {
        self.write().unwrap_or_else(PoisonError::into_inner).extend(changed);
    }

    fn get(&self, key: &str) -> Option<u64> {
        self.read().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }
}

impl Shared for ArcSwap<BTreeMap<String, u64>> {
    fn apply(&self, changed: Vec<(String, u64)>) {
        let mut map = BTreeMap::clone(&self.load());
        map.extend(changed);
        self.store(Arc::new(map));
    }

    fn get(&self, key: &str) -> Option<u64> {
        self.load().get(key).copied()
    }
}

/// Reads the directory, watches it from that revision on, and applies all events of an answer at
/// once.
async fn by_hand(address: &str, size: u32, changes: u32, map: impl Shared) -> Result<()> {
    let mut client = etcd_client::Client::connect([address], None).await?;
    // The largest directory exceeds the default limit of 4 MB for an answer.
    let mut keys = client.kv_client().max_decoding_message_size(64 << 20);
    let directory = writer::map(size) + "/";
    let stored = keys.get(directory.as_str(), Some(GetOptions::new().with_prefix())).await?;
    let mut entries = Vec::new();
    for kv in stored.kvs() {
        entries.push(entry(&directory, kv)?);
    }
    if entries.len() != size as usize {
        return Err(format!("found {} entries, expected {size}", entries.len()).into());
    }
    map.apply(entries);
    let revision = stored.header().ok_or("the answer has no header")?.revision();
    drop(stored);
    let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
    let mut stream = client.watch(directory.as_str(), Some(options)).await?;

    let meter = Meter::ready()?;
    let mut last = revision;
    while last < revision + i64::from(changes) {
        let answer = stream.message().await?.ok_or("the stream ended")?;
        let mut changed = Vec::new();
        for event in answer.events() {
            let kv = event.kv().filter(|_| event.event_type() == EventType::Put).ok_or("an event that is not a put")?;
            changed.push(entry(&directory, kv)?);
            last = kv.mod_revision();
        }
        if !changed.is_empty() {
            map.apply(changed);
        }
    }
    meter.report(|| Ok(wrong(size, changes, |key| map.get(key)).into()))
}

fn entry(directory: &str, kv: &etcd_client::KeyValue) -> Result<(String, u64)> {
    let name = kv.key_str()?.strip_prefix(directory).ok_or("a key outside of the directory")?;
    Ok((name.to_owned(), kv.value_str()?.parse()?))
}

/// Returns the number of entries that differ from what was written.
fn wrong(size: u32, changes: u32, get: impl Fn(&str) -> Option<u64>) -> u32 {
    let written: BTreeMap<String, u64> = (0..changes).map(|change| (changed_key(size, change), u64::from(change))).collect();
    let wrong = written.iter().filter(|(key, value)| get(key) != Some(**value)).count();
    u32::try_from(wrong).unwrap_or(u32::MAX)
}
