//! 1, 8 or 64 callers read and write single keys of 256 bytes at the same time.

use std::time::Duration;

use super::repeated::{self, Caller};
use super::{Case, Effort, Goal, Server};
use crate::Result;
use crate::payload::{self, COUNT};
use crate::peers::{ETCD_CLIENT, EtcdClient, EtcdTyped, GO, KeyValue, OURS, TONIC, Tonic};

pub(super) const GET: &str = "get";
pub(super) const PUT: &str = "put";

const CALLERS: [usize; 3] = [1, 8, 64];

pub(super) fn cases(effort: &Effort) -> Vec<Case> {
    let duration = effort.of(Duration::from_millis(250), Duration::from_secs(1));
    vec![case(GET, duration), case(PUT, duration)]
}

fn case(name: &'static str, duration: Duration) -> Case {
    let stage = |callers: usize| {
        let title = format!("{name}, {callers} {}", if callers == 1 { "caller" } else { "callers" });
        repeated::stage(title, name, goals(name, callers), move |observed, operations| {
            // Reads cannot be counted on the server, because one request may contain several reads.
            let written = if name == PUT { operations } else { 0.0 };
            if observed.counted.puts == written {
                Ok(())
            } else {
                Err(format!("{} keys were written, expected {written}", observed.counted.puts).into())
            }
        })
    };
    Case {
        peers: &[OURS, ETCD_CLIENT, GO, TONIC],
        work: vec![name.to_owned(), duration.as_millis().to_string()],
        server: Server { prepare: Some(payload::prepare(payload::keys)), ..Server::default() },
        stages: CALLERS.map(stage).into(),
    }
}

fn goals(name: &str, callers: usize) -> Vec<Goal> {
    let client = |part| Goal::at_most(part, super::CLIENT, ETCD_CLIENT);
    match (name, callers) {
        (_, 1) => vec![client(0.5), Goal::at_most(0.85, "p50 µs", ETCD_CLIENT), Goal::count(1.0, "messages")],
        (GET, 8) => vec![Goal::times(1.4, "gets/s", ETCD_CLIENT), client(0.65)],
        (GET, _) => vec![Goal::times(3.0, "gets/s", ETCD_CLIENT), client(0.25)],
        _ => vec![Goal::times(1.0, "puts/s", ETCD_CLIENT), client(0.65)],
    }
}

pub(super) async fn work(peer: &str, address: &str, case: &str, parameters: &[String]) -> Result<()> {
    let [milliseconds] = parameters else {
        return Err("expected one parameter: milliseconds".into());
    };
    let duration = Duration::from_millis(milliseconds.parse()?);
    match peer {
        OURS => call(EtcdTyped::key_value(&format!("etcd://{address}")).await?, case, duration).await,
        ETCD_CLIENT => call(EtcdClient::key_value(address).await?, case, duration).await,
        TONIC => call(Tonic::connect(address).await?, case, duration).await,
        _ => Err(format!("unknown peer {peer}").into()),
    }
}

async fn call<K: KeyValue>(peer: K, case: &str, duration: Duration) -> Result<()> {
    for count in CALLERS {
        if case == GET {
            repeated::measure(getters(&peer, count), duration).await?;
        } else {
            repeated::measure(putters(&peer, count), duration).await?;
        }
    }
    Ok(())
}

/// Returns callers that read. Each caller begins at another key.
pub(super) fn getters<K: KeyValue>(peer: &K, count: usize) -> Vec<Getter<K>> {
    (0..count).map(|n| Getter { peer: peer.clone(), key: n * COUNT / count }).collect()
}

/// Returns callers that write. No two callers write the same key.
pub(super) fn putters<K: KeyValue>(peer: &K, count: usize) -> Vec<Putter<K>> {
    (0..count).map(|n| Putter { peer: peer.clone(), first: n, step: count, key: n, value: n }).collect()
}

pub(super) struct Getter<K> {
    peer: K,
    key: usize,
}

impl<K: KeyValue> Caller for Getter<K> {
    async fn call(&mut self) -> Result<()> {
        self.key = (self.key + 1) % COUNT;
        self.peer.get(self.key, self.key).await
    }
}

pub(super) struct Putter<K> {
    peer: K,
    first: usize,
    step: usize,
    /// The key that was written last.
    key: usize,
    /// The value that was written last.
    value: usize,
}

impl<K: KeyValue> Caller for Putter<K> {
    async fn call(&mut self) -> Result<()> {
        self.key += self.step;
        if self.key >= COUNT {
            self.key = self.first;
        }
        self.value = (self.value + 7) % COUNT;
        self.peer.put(self.key, self.value).await
    }

    async fn check(&mut self) -> Result<()> {
        self.peer.get(self.key, self.value).await
    }
}
