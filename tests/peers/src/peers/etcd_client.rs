//! The crate `etcd-client`, used as in its examples. Locks and elections use a lease that is kept
//! alive, and the server's lock and election services.

mod watches;

use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, GetResponse, KvClient, LeaderKey, LockOptions, ResignOptions, Txn, TxnOp};
use futures_util::future::try_join_all;

pub(crate) use self::watches::EtcdClientWatches;
use super::{Contender, KeyValue};
use crate::Result;
use crate::cases::repeated::Caller;
use crate::payload::{self, CONFIG, KEYS, VALUES};
use crate::work::TTL;

pub(crate) struct EtcdClient;

impl EtcdClient {
    pub(crate) async fn key_value(address: &str) -> Result<Keys> {
        Ok(Keys(Client::connect([address], None).await?.kv_client()))
    }

    pub(crate) async fn fields(address: &str) -> Result<Below> {
        let client = Client::connect([address], None).await?.kv_client();
        Ok(Below { client, directory: CONFIG.to_owned(), page: None, wanted: payload::fields() })
    }

    pub(crate) async fn fields_one_by_one(address: &str) -> Result<OneByOne> {
        let client = Client::connect([address], None).await?.kv_client();
        Ok(OneByOne { client, wanted: payload::fields() })
    }

    pub(crate) async fn fields_joined(address: &str) -> Result<Joined> {
        Ok(Joined(Self::fields_one_by_one(address).await?))
    }

    /// Reads a directory in pages of this many keys, or with one range.
    pub(crate) async fn directory(address: &str, count: usize, page: Option<usize>) -> Result<Below> {
        let client = Client::connect([address], None).await?.kv_client();
        // The default limit for an answer is 4 MiB.
        let client = client.max_decoding_message_size(usize::MAX);
        Ok(Below { client, directory: payload::directory_name(count), page, wanted: payload::directory(count) })
    }

    /// Returns contenders for locks with different names.
    pub(crate) async fn own_locks(address: &str, count: usize, ttl: Duration) -> Result<Vec<Locker>> {
        let sessions = Session::open(address, count, ttl).await?;
        Ok(sessions.into_iter().enumerate().map(|(n, session)| Locker { session, name: format!("/locks/{n}") }).collect())
    }

    pub(crate) async fn lockers(address: &str, name: &str, count: usize) -> Result<Vec<Locker>> {
        let sessions = Session::open(address, count, TTL).await?;
        Ok(sessions.into_iter().map(|session| Locker { session, name: name.to_owned() }).collect())
    }

    pub(crate) async fn candidates(address: &str, name: &str, count: usize) -> Result<Vec<Candidate>> {
        let sessions = Session::open(address, count, TTL).await?;
        Ok(sessions.into_iter().map(|session| Candidate { session, name: name.to_owned() }).collect())
    }
}

/// Writes the pairs to the server, before the measurement.
pub(crate) async fn put_all(address: &str, pairs: Vec<(String, String)>) -> Result<()> {
    let mut client = Client::connect([address], None).await?;
    let mut puts = pairs.into_iter().map(|(key, value)| TxnOp::put(key, value, None)).peekable();
    while puts.peek().is_some() {
        // A server accepts 128 operations in a transaction.
        client.txn(Txn::new().and_then(puts.by_ref().take(128).collect::<Vec<_>>())).await?;
    }
    Ok(())
}

/// Puts a key twenty times a second for this time.
pub(crate) async fn put_for(address: String, time: Duration) -> Result<()> {
    let mut client = Client::connect([address], None).await?;
    let began = Instant::now();
    while began.elapsed() < time {
        client.put("/other", "x", None).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[derive(Clone)]
pub(crate) struct Keys(KvClient);

impl KeyValue for Keys {
    async fn get(&mut self, key: usize, value: usize) -> Result<()> {
        let found = self.0.get(KEYS[key].as_str(), None).await?;
        payload::check(found.kvs().first().map(|pair| pair.value()), value)
    }

    async fn put(&mut self, key: usize, value: usize) -> Result<()> {
        self.0.put(KEYS[key].as_str(), VALUES[value].as_str(), None).await?;
        Ok(())
    }
}

/// Reads all keys of a directory.
pub(crate) struct Below {
    client: KvClient,
    directory: String,
    page: Option<usize>,
    wanted: Vec<(String, String)>,
}

impl Caller for Below {
    async fn call(&mut self) -> Result<()> {
        let Some(page) = self.page else {
            let found = self.client.get(self.directory.as_str(), Some(GetOptions::new().with_prefix())).await?;
            return payload::check_all(&self.wanted, found.kvs().iter().map(|pair| (pair.key(), pair.value())));
        };
        // The directory's name ends with a slash. `0` is the character after it, so this is the end
        // of the range.
        let end = self.directory.trim_end_matches('/').to_owned() + "0";
        let (mut from, mut revision) = (self.directory.clone().into_bytes(), 0);
        for wanted in self.wanted.chunks(page) {
            let options = GetOptions::new().with_range(end.as_str()).with_limit(i64::try_from(page)?).with_revision(revision);
            let found = self.client.get(from, Some(options)).await?;
            payload::check_all(wanted, found.kvs().iter().map(|pair| (pair.key(), pair.value())))?;
            revision = found.header().map_or(0, |header| header.revision());
            from = found.kvs().last().map_or(Vec::new(), |last| [last.key(), b"\0"].concat());
        }
        Ok(())
    }
}

/// A reader that sends a request for each key, one after the other.
pub(crate) struct OneByOne {
    client: KvClient,
    wanted: Vec<(String, String)>,
}

impl Caller for OneByOne {
    async fn call(&mut self) -> Result<()> {
        let mut found = Vec::new();
        for (key, _) in &self.wanted {
            found.push(self.client.get(key.as_str(), None).await?);
        }
        check_each(&self.wanted, &found)
    }
}

fn check_each(wanted: &[(String, String)], found: &[GetResponse]) -> Result<()> {
    let pairs: Vec<_> = found.iter().flat_map(GetResponse::kvs).map(|pair| (pair.key(), pair.value())).collect();
    payload::check_all(wanted, pairs.into_iter())
}

/// A reader that sends a request for each key, all at once.
pub(crate) struct Joined(OneByOne);

impl Caller for Joined {
    async fn call(&mut self) -> Result<()> {
        let get = |(key, _): &(String, String)| {
            let (mut client, key) = (self.0.client.clone(), key.clone());
            async move { client.get(key, None).await }
        };
        let found = try_join_all(self.0.wanted.iter().map(get)).await?;
        check_each(&self.0.wanted, &found)
    }
}

/// A client and a lease, which a task keeps alive. All sessions share one connection, because with
/// a connection each, hand-overs are no faster and cost more.
struct Session {
    client: Client,
    lease: i64,
}

impl Session {
    async fn open(address: &str, count: usize, ttl: Duration) -> Result<Vec<Self>> {
        let mut client = Client::connect([address], None).await?;
        let mut sessions = Vec::new();
        for _ in 0..count {
            let lease = client.lease_grant(ttl.as_secs().cast_signed(), None).await?.id();
            tokio::spawn(keep_alive(client.clone(), lease, ttl));
            sessions.push(Self { client: client.clone(), lease });
        }
        Ok(sessions)
    }
}

async fn keep_alive(mut client: Client, lease: i64, ttl: Duration) -> Result<()> {
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
    loop {
        tokio::time::sleep(ttl / 3).await;
        keeper.keep_alive().await?;
        answers.message().await?;
    }
}

pub(crate) struct Locker {
    session: Session,
    name: String,
}

impl Contender for Locker {
    type Held = Vec<u8>;

    async fn acquire(&mut self) -> Result<Vec<u8>> {
        let options = LockOptions::new().with_lease(self.session.lease);
        Ok(self.session.client.lock(self.name.as_str(), Some(options)).await?.key().to_vec())
    }

    async fn release(&mut self, held: Vec<u8>) -> Result<()> {
        self.session.client.unlock(held).await?;
        Ok(())
    }
}

pub(crate) struct Candidate {
    session: Session,
    name: String,
}

impl Contender for Candidate {
    type Held = LeaderKey;

    async fn acquire(&mut self) -> Result<LeaderKey> {
        let mut answer = self.session.client.campaign(self.name.as_str(), "me", self.session.lease).await?;
        Ok(answer.take_leader().ok_or("the answer has no leader key")?)
    }

    async fn release(&mut self, held: LeaderKey) -> Result<()> {
        self.session.client.resign(Some(ResignOptions::new().with_leader(held))).await?;
        Ok(())
    }
}
