//! The peers. A peer in Rust is a file below this module that implements the traits of the cases. A
//! peer in another language is a program that follows the protocol of `work.rs`.

mod etcd_client;
mod etcd_typed;
mod reqwest;
mod tonic;
pub(crate) mod watches;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

pub(crate) use etcd_client::{EtcdClient, EtcdClientWatches, put_all, put_for};
pub(crate) use etcd_typed::{Clients, EtcdTyped, EtcdTypedWatches};
pub(crate) use reqwest::Reqwest;
pub(crate) use tonic::Tonic;

/// This library. In the name of a peer, the part after a comma says in which way the peer is used.
pub(crate) const OURS: &str = "etcd-typed";
pub(crate) const OURS_CLIENT_EACH: &str = "etcd-typed, a client per contender";
pub(crate) const OURS_STREAMED: &str = "etcd-typed, streamed";
pub(crate) const ETCD_CLIENT: &str = "etcd-client";
pub(crate) const ETCD_CLIENT_ONE_STREAM: &str = "etcd-client, one stream";
pub(crate) const ETCD_CLIENT_LOCKED_MAP: &str = "etcd-client, locked map";
pub(crate) const ETCD_CLIENT_COPIED_MAP: &str = "etcd-client, copied map";
pub(crate) const ETCD_CLIENT_ONE_BY_ONE: &str = "etcd-client, 20 sequential gets";
pub(crate) const ETCD_CLIENT_JOINED: &str = "etcd-client, 20 concurrent gets";
pub(crate) const ETCD_CLIENT_PAGES: &str = "etcd-client, pages of 10,000";
pub(crate) const GO: &str = "Go clientv3";
pub(crate) const TONIC: &str = "tonic";
pub(crate) const REQWEST: &str = "reqwest";

/// The programs of the peers.
pub(crate) struct Programs {
    rust: PathBuf,
    /// The peer with Go's client, if Go is installed.
    go: Option<PathBuf>,
}

impl Programs {
    /// Finds the programs. The script `run` builds the Go program and passes its path.
    pub(crate) fn find() -> Result<Self> {
        let go = std::env::var_os("GO_PEER").filter(|program| !program.is_empty()).map(PathBuf::from);
        Ok(Self { rust: std::env::current_exe()?, go })
    }

    /// Returns the program of a peer, or `None` if the peer cannot run here.
    pub(crate) fn of(&self, peer: &str) -> Option<&Path> {
        if package(peer) == GO { self.go.as_deref() } else { Some(&self.rust) }
    }

    /// Returns the name of a peer, without the part after a comma, and its version.
    pub(crate) fn version(&self, peer: &str) -> Result<String> {
        let version = match (package(peer), &self.go) {
            (OURS, _) => tree(),
            (GO, Some(program)) => String::from_utf8_lossy(&Command::new(program).arg("version").output()?.stdout).trim().to_owned(),
            (GO, None) => "left out, because Go with etcd's client is not installed".to_owned(),
            ("rustc" | "std", _) => "the version of the compiler".to_owned(),
            (name, _) => locked_version(name),
        };
        Ok(format!("{}: {version}", package(peer)))
    }
}

fn package(peer: &str) -> &str {
    peer.split(',').next().unwrap_or(peer)
}

/// Returns the measured commit of this repository, and whether files were changed since.
fn tree() -> String {
    let described = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]).output();
    let described = described.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    described.map_or_else(|error| format!("(git: {error})"), |commit| format!("commit {commit}"))
}

/// Returns the version of a package in the lock file.
fn locked_version(package: &str) -> String {
    let mut lines = include_str!("../Cargo.lock").lines().skip_while(|line| *line != format!("name = \"{package}\""));
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = "));
    version.unwrap_or("unknown version").trim_matches('"').to_owned()
}

/// A peer that reads and writes single keys. Clones share a connection. Keys and values are those
/// of `payload.rs`, by number.
pub(crate) trait KeyValue: Clone + Send + 'static {
    /// Fails unless the key has the value.
    fn get(&mut self, key: usize, value: usize) -> impl Future<Output = Result<()>> + Send;

    fn put(&mut self, key: usize, value: usize) -> impl Future<Output = Result<()>> + Send;
}

/// A peer that waits for changes of the first key.
pub(crate) trait Watcher: Send + 'static {
    /// Waits for the next change. Fails unless the change writes this value.
    fn next(&mut self, value: usize) -> impl Future<Output = Result<()>> + Send;
}

/// A contender for a lock or for the leadership of an election.
pub(crate) trait Contender: Send + Sized + 'static {
    type Held: Send + 'static;

    fn acquire(&mut self) -> impl Future<Output = Result<Self::Held>> + Send;

    fn release(&mut self, held: Self::Held) -> impl Future<Output = Result<()>> + Send;
}

/// Lets each contender acquire and release once, all at the same time. After that, connections,
/// streams and leases exist.
pub(crate) async fn warm_up<C: Contender>(contenders: Vec<C>) -> Result<Vec<C>> {
    let once = |mut contender: C| {
        tokio::spawn(async move {
            let held = contender.acquire().await?;
            contender.release(held).await?;
            Result::Ok(contender)
        })
    };
    let tasks: Vec<_> = contenders.into_iter().map(once).collect();
    let mut warm = Vec::new();
    for task in tasks {
        warm.push(task.await??);
    }
    Ok(warm)
}
