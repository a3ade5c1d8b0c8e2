//! The v2 keys API: reads and writes single keys of 256 bytes, and watches one key.

use std::time::Duration;

use super::repeated::{self, Caller};
use super::requests::{getters, putters};
use super::{Case, Effort, Goal, Server, Stage};
use crate::Result;
use crate::peers::{EtcdTyped, KeyValue, OURS, REQWEST, Reqwest, Watcher};

pub(super) const NAME: &str = "v2";

const CALLERS: [usize; 2] = [1, 64];

pub(super) fn cases(effort: &Effort) -> Vec<Case> {
    let duration = effort.of(Duration::from_millis(200), Duration::from_millis(500));
    let callers = |count| if count == 1 { "1 caller".to_owned() } else { format!("{count} callers") };
    let get = |count| stage(format!("v2, quorum get, {}", callers(count)), "get");
    let set = |count| stage(format!("v2, set, {}", callers(count)), "set");
    let watch = stage("v2, from a set to its event".to_owned(), "event");
    vec![Case {
        peers: &[OURS, REQWEST],
        work: vec![NAME.to_owned(), duration.as_millis().to_string()],
        server: Server { v2: true, prepare: Some(Box::new(|address| Box::pin(Reqwest::prepare(address)))), ..Server::default() },
        stages: CALLERS.map(get).into_iter().chain(CALLERS.map(set)).chain([watch]).collect(),
    }]
}

/// Returns a stage whose goals allow little more than the cost of the bare reqwest peer. On v2,
/// etcd-typed also sends its requests with reqwest, so the difference is the cost of types and
/// guarantees, which should be small.
fn stage(title: String, operation: &'static str) -> Stage {
    let goals = vec![Goal::at_most(1.1, "p50 µs", REQWEST), Goal::at_most(1.2, super::CLIENT, REQWEST)];
    let stage = repeated::stage(title, operation, goals, |observed, operations| {
        // The server does not count requests that wait for an event.
        let messages = observed.counted.messages;
        if messages == operations { Ok(()) } else { Err(format!("{messages} requests, expected {operations}").into()) }
    });
    stage.beside(REQWEST)
}

pub(super) async fn work(peer: &str, address: &str, parameters: &[String]) -> Result<()> {
    let [milliseconds] = parameters else {
        return Err("expected one parameter: milliseconds".into());
    };
    let duration = Duration::from_millis(milliseconds.parse()?);
    match peer {
        OURS => {
            let entries = EtcdTyped::key_value(&format!("etcd2://{address}")).await?;
            requests(&entries, duration).await?;
            let watcher = entries.watch_first().await?;
            repeated::measure(vec![Seen { peer: entries, watcher, value: 0 }], duration).await
        }
        REQWEST => {
            let peer = Reqwest::connect(address)?;
            requests(&peer, duration).await?;
            let watcher = peer.watch_first().await?;
            repeated::measure(vec![Seen { peer, watcher, value: 0 }], duration).await
        }
        _ => Err(format!("unknown peer {peer}").into()),
    }
}

async fn requests<K: KeyValue>(peer: &K, duration: Duration) -> Result<()> {
    for count in CALLERS {
        repeated::measure(getters(peer, count), duration).await?;
    }
    for count in CALLERS {
        repeated::measure(putters(peer, count), duration).await?;
    }
    Ok(())
}

/// A caller that writes the first key, and waits for the answer and the event.
struct Seen<K, W> {
    peer: K,
    watcher: W,
    value: usize,
}

impl<K: KeyValue, W: Watcher> Caller for Seen<K, W> {
    async fn call(&mut self) -> Result<()> {
        self.value = (self.value + 1) % crate::payload::COUNT;
        let (set, seen) = tokio::join!(self.peer.put(0, self.value), self.watcher.next(self.value));
        set?;
        seen
    }
}
