//! Whom we measure. A peer in Rust is a file below that offers what the cases ask for; one of another language is a program that understands what
//! `work.rs` understands.

mod etcd_client;
mod etcd_typed;

use std::path::PathBuf;
use std::process::Command;

use crate::Result;

pub(crate) use etcd_client::EtcdClient;
pub(crate) use etcd_typed::{Clients, EtcdTyped};

/// A peer as the one who starts it sees it.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    /// What is run; the server's address and the work come after the arguments.
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
}

/// Us.
pub(crate) const OURS: &str = EtcdTyped::NAME;
pub(crate) const GO: &str = "Go clientv3";
/// Ratios are to this one.
pub(crate) const BASELINE: &str = EtcdClient::NAME;

/// Those that can be run here.
pub(crate) fn all() -> Result<Vec<Peer>> {
    let mut peers = vec![
        in_rust(EtcdTyped::NAME, tree())?,
        in_rust(EtcdTyped::CLIENT_EACH, "the same".to_owned())?,
        in_rust(EtcdClient::NAME, locked_version("etcd-client"))?,
    ];
    peers.extend(go()?);
    Ok(peers)
}

fn in_rust(name: &'static str, version: String) -> Result<Peer> {
    Ok(Peer { name, version, program: std::env::current_exe()?, arguments: vec!["work".to_owned(), name.to_owned()] })
}

/// Go's own client, where there is a Go to build it with. The script `run` builds it from `go/main.go` and says where it is.
fn go() -> Result<Option<Peer>> {
    let Some(program) = std::env::var_os("GO_PEER").filter(|program| !program.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    let version = Command::new(&program).arg("version").output()?.stdout;
    let version = String::from_utf8_lossy(&version).trim().to_owned();
    Ok(Some(Peer { name: GO, version, program, arguments: vec!["work".to_owned()] }))
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
