//! This library, through its public API.

mod watches;

use std::sync::Arc;
use std::time::Duration;

use etcd_typed::{Client, Election, Entry, EntryChanges, EntryMap, EtcdSchema, Leader, Live, Lock, NamedLock, Published};
use futures_util::future::try_join_all;

pub(crate) use self::watches::EtcdTypedWatches;
use super::{Contender, KeyValue, Watcher};
use crate::Result;
use crate::cases::repeated::Caller;
use crate::payload::{self, CONFIG, KEYS, VALUES};
use crate::work::TTL;

pub(crate) struct EtcdTyped;

/// Says whether contenders share a client. Contenders that share a client act like tasks of one
/// process; contenders with separate clients act like separate processes.
#[derive(Clone, Copy)]
pub(crate) enum Clients {
    Shared,
    Each,
}

impl EtcdTyped {
    /// Connects to an address with the scheme of v3 or v2.
    pub(crate) async fn key_value(url: &str) -> Result<Entries> {
        let client = Client::connect(url).await?;
        let entries = KEYS.iter().map(|key| client.entry(key)).collect::<etcd_typed::Result<_>>()?;
        Ok(Entries(Arc::new(entries)))
    }

    pub(crate) async fn config(address: &str) -> Result<Loader> {
        let client = Client::connect(&format!("etcd://{address}")).await?;
        Ok(Loader { dir: client.dir::<Config>(CONFIG)?, wanted: Config::wanted() })
    }

    pub(crate) async fn map(address: &str, count: usize) -> Result<Map> {
        let client = Client::connect(&format!("etcd://{address}")).await?;
        let directory = payload::directory_name(count);
        let name = |(key, value): (String, String)| (key[directory.len()..].to_owned(), value);
        Ok(Map { entries: client.entries(&directory)?, wanted: payload::directory(count).into_iter().map(name).collect() })
    }

    pub(crate) async fn map_streamed(address: &str, count: usize) -> Result<MapStreamed> {
        Ok(MapStreamed(Self::map(address, count).await?))
    }

    pub(crate) async fn lockers(address: &str, name: &str, count: usize, clients: Clients) -> Result<Vec<Locker>> {
        let clients = connect(address, count, clients).await?;
        Ok(clients.into_iter().map(|client| Locker(client.lock(name).ttl(TTL))).collect())
    }

    /// Returns contenders for locks with different names.
    pub(crate) async fn own_locks(address: &str, count: usize, ttl: Duration) -> Result<Vec<Locker>> {
        let clients = connect(address, count, Clients::Shared).await?;
        Ok(clients.into_iter().enumerate().map(|(n, client)| Locker(client.lock(&format!("/locks/{n}")).ttl(ttl))).collect())
    }

    pub(crate) async fn publish(address: &str, count: usize, ttl: Duration) -> Result<Vec<Published<String>>> {
        let clients = connect(address, count, Clients::Shared).await?;
        let publish = |(n, client): (usize, Client)| async move {
            client.entry::<String>(&format!("/services/{n}"))?.publish(&n.to_string()).ttl(ttl).await
        };
        Ok(try_join_all(clients.into_iter().enumerate().map(publish)).await?)
    }

    pub(crate) async fn views(address: &str, count: usize) -> Result<Vec<Live<Option<String>>>> {
        let clients = connect(address, count, Clients::Shared).await?;
        let view = |(n, client): (usize, Client)| async move { client.entry::<String>(&format!("/views/{n}"))?.live().await };
        Ok(try_join_all(clients.into_iter().enumerate().map(view)).await?)
    }

    pub(crate) async fn candidates(address: &str, name: &str, count: usize, clients: Clients) -> Result<Vec<Candidate>> {
        let clients = connect(address, count, clients).await?;
        Ok(clients.into_iter().map(|client| Candidate(client.election(name).ttl(TTL))).collect())
    }
}

/// An entry for each key.
#[derive(Clone)]
pub(crate) struct Entries(Arc<Vec<Entry<String>>>);

impl KeyValue for Entries {
    async fn get(&mut self, key: usize, value: usize) -> Result<()> {
        let found = self.0[key].get().await?;
        payload::check(found.as_ref().map(|found| found.as_bytes()), value)
    }

    async fn put(&mut self, key: usize, value: usize) -> Result<()> {
        self.0[key].set(&VALUES[value]).await?;
        Ok(())
    }
}

impl Entries {
    /// Watches the first key from now on.
    pub(crate) async fn watch_first(&self) -> Result<EntryChanges<String>> {
        Ok(self.0[0].watch().await?)
    }
}

impl Watcher for EntryChanges<String> {
    async fn next(&mut self, value: usize) -> Result<()> {
        let change = Self::next(self).await.ok_or("the watch ended")??;
        payload::check(change.new.as_ref().map(String::as_bytes), value)
    }
}

#[derive(Debug, EtcdSchema, PartialEq)]
struct Config {
    number_0: u32,
    number_1: u32,
    number_2: u32,
    number_3: u32,
    number_4: u32,
    number_5: u32,
    number_6: u32,
    number_7: u32,
    number_8: u32,
    number_9: u32,
    text_0: String,
    text_1: String,
    text_2: String,
    text_3: String,
    text_4: String,
    text_5: String,
    text_6: String,
    text_7: String,
    text_8: String,
    text_9: String,
}

impl Config {
    fn wanted() -> Self {
        let text = |n| format!("text{n:04}");
        Self {
            number_0: 10_000_000,
            number_1: 10_000_001,
            number_2: 10_000_002,
            number_3: 10_000_003,
            number_4: 10_000_004,
            number_5: 10_000_005,
            number_6: 10_000_006,
            number_7: 10_000_007,
            number_8: 10_000_008,
            number_9: 10_000_009,
            text_0: text(0),
            text_1: text(1),
            text_2: text(2),
            text_3: text(3),
            text_4: text(4),
            text_5: text(5),
            text_6: text(6),
            text_7: text(7),
            text_8: text(8),
            text_9: text(9),
        }
    }
}

/// Reads the whole struct.
pub(crate) struct Loader {
    dir: ConfigDir,
    wanted: Config,
}

impl Caller for Loader {
    async fn call(&mut self) -> Result<()> {
        let found = self.dir.get().await?;
        if *found == self.wanted { Ok(()) } else { Err(format!("found {found:?}, expected {:?}", self.wanted).into()) }
    }
}

/// Reads a whole directory as a map.
pub(crate) struct Map {
    entries: EntryMap<String, String>,
    wanted: Vec<(String, String)>,
}

impl Caller for Map {
    async fn call(&mut self) -> Result<()> {
        let found = self.entries.get().await?;
        payload::check_all(&self.wanted, found.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }
}

/// Reads a whole directory as a stream, and drops each entry after checking it.
pub(crate) struct MapStreamed(Map);

impl Caller for MapStreamed {
    async fn call(&mut self) -> Result<()> {
        let mut entries = self.0.entries.stream();
        for (name, value) in &self.0.wanted {
            let (found_name, found) = entries.next().await.ok_or("the stream ended before the last entry")??;
            if found_name != *name || *found != *value {
                return Err(format!("the entry {found_name} differs from what was written").into());
            }
        }
        if entries.next().await.is_some() { Err("the stream has more entries than were written".into()) } else { Ok(()) }
    }
}

async fn connect(address: &str, count: usize, clients: Clients) -> Result<Vec<Client>> {
    let address = format!("etcd://{address}");
    let mut connected = vec![Client::connect(&address).await?; count];
    if let Clients::Each = clients {
        for client in &mut connected {
            *client = Client::connect(&address).await?;
        }
    }
    Ok(connected)
}

pub(crate) struct Locker(NamedLock);

impl Contender for Locker {
    type Held = Lock;

    async fn acquire(&mut self) -> Result<Lock> {
        Ok(self.0.acquire().await?)
    }

    async fn release(&mut self, held: Lock) -> Result<()> {
        Ok(held.release().await?)
    }
}

pub(crate) struct Candidate(Election<String>);

impl Contender for Candidate {
    type Held = Leader<String>;

    async fn acquire(&mut self) -> Result<Leader<String>> {
        Ok(self.0.campaign(&"me".to_owned()).await?)
    }

    async fn release(&mut self, held: Leader<String>) -> Result<()> {
        Ok(held.resign().await?)
    }
}
