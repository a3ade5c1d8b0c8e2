//! Whom we measure. A peer in Rust is a file below that offers what the cases ask for; one of another language is a program that understands what
//! `work.rs` understands.

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

/// Us. What comes after a comma in a peer's name is another way to use the same.
pub(crate) const OURS: &str = "etcd-typed";
pub(crate) const OURS_CLIENT_EACH: &str = "etcd-typed, a client each";
pub(crate) const OURS_STREAMED: &str = "etcd-typed, streamed";
pub(crate) const ETCD_CLIENT: &str = "etcd-client";
pub(crate) const ETCD_CLIENT_ONE_STREAM: &str = "etcd-client, one stream";
pub(crate) const ETCD_CLIENT_LOCKED_MAP: &str = "etcd-client, map in a lock";
pub(crate) const ETCD_CLIENT_COPIED_MAP: &str = "etcd-client, map copied";
pub(crate) const ETCD_CLIENT_ONE_BY_ONE: &str = "etcd-client, 20 gets one by one";
pub(crate) const ETCD_CLIENT_JOINED: &str = "etcd-client, 20 gets joined";
pub(crate) const ETCD_CLIENT_PAGES: &str = "etcd-client, pages of 10,000";
pub(crate) const GO: &str = "Go clientv3";
pub(crate) const TONIC: &str = "tonic";
pub(crate) const REQWEST: &str = "reqwest";

/// The programs that the peers are run as.
pub(crate) struct Programs {
    rust: PathBuf,
    /// Go's own client, where there is a Go to build it with.
    go: Option<PathBuf>,
}

impl Programs {
    /// The script `run` builds the one in Go and says where it is.
    pub(crate) fn find() -> Result<Self> {
        let go = std::env::var_os("GO_PEER").filter(|program| !program.is_empty()).map(PathBuf::from);
        Ok(Self { rust: std::env::current_exe()?, go })
    }

    /// None if the peer cannot be run here.
    pub(crate) fn of(&self, peer: &str) -> Option<&Path> {
        if package(peer) == GO { self.go.as_deref() } else { Some(&self.rust) }
    }

    /// What a peer is, without the way it is used, and of what version.
    pub(crate) fn version(&self, peer: &str) -> Result<String> {
        let version = match (package(peer), &self.go) {
            (OURS, _) => tree(),
            (GO, Some(program)) => String::from_utf8_lossy(&Command::new(program).arg("version").output()?.stdout).trim().to_owned(),
            (GO, None) => "left out, since there is no Go here with etcd's client".to_owned(),
            ("rustc" | "std", _) => "that of the compiler".to_owned(),
            (name, _) => locked_version(name),
        };
        Ok(format!("{}: {version}", package(peer)))
    }
}

fn package(peer: &str) -> &str {
    peer.split(',').next().unwrap_or(peer)
}

/// What is measured of us: a commit, and whether something was changed since.
fn tree() -> String {
    let described = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]).output();
    let described = described.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    described.map_or_else(|error| format!("(git: {error})"), |commit| format!("commit {commit}"))
}

/// The version that the lock file has for a package.
fn locked_version(package: &str) -> String {
    let mut lines = include_str!("../Cargo.lock").lines().skip_while(|line| *line != format!("name = \"{package}\""));
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = "));
    version.unwrap_or("of an unknown version").trim_matches('"').to_owned()
}

/// One who reads and writes single keys; clones share a connection. Keys and values are those of `payload.rs`, by their numbers.
pub(crate) trait KeyValue: Clone + Send + 'static {
    /// Fails unless the key has the value.
    fn get(&mut self, key: usize, value: usize) -> impl Future<Output = Result<()>> + Send;

    fn put(&mut self, key: usize, value: usize) -> impl Future<Output = Result<()>> + Send;
}

/// Who waits for changes of the first key.
pub(crate) trait Watcher: Send + 'static {
    /// Fails unless the next change is to this value.
    fn next(&mut self, value: usize) -> impl Future<Output = Result<()>> + Send;
}

/// One of those who want a thing that only one can have at a time: a lock, or the first place of an election.
pub(crate) trait Contender: Send + Sized + 'static {
    type Held: Send + 'static;

    fn acquire(&mut self) -> impl Future<Output = Result<Self::Held>> + Send;

    fn release(&mut self, held: Self::Held) -> impl Future<Output = Result<()>> + Send;
}

/// Each has it once, all at the same time: then connections, streams and leases are there.
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
