//! Helpers that several test files use.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_debug_implementations,
    reason = "a test fails by panicking, and prints none of these"
)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use etcd_typed::Client;
use etcd_typed::testing::{Cluster, Etcd};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::OnceCell;

pub mod between;
pub mod certificates;
pub mod checks;
pub mod waiting;
pub mod yielding;

/// Returns the path in the environment variable `ETCD_NEXT_BIN`: an etcd program that is one minor
/// version newer than `ETCD_BIN`.
///
/// # Panics
///
/// Panics if `ETCD_NEXT_BIN` is not set.
#[must_use]
pub fn next_etcd() -> PathBuf {
    let path = std::env::var_os("ETCD_NEXT_BIN").filter(|path| !path.is_empty());
    path.map(PathBuf::from)
                .expect("ETCD_NEXT_BIN names an etcd of the minor version after that of ETCD_BIN: `tests/servers/build 3.7` builds one and prints its directory")
}

/// Returns a command that runs the etcd command-line client: the program in the environment
/// variable `ETCDCTL_BIN`, or else `etcdctl` on the `PATH`. The client uses v3, unless
/// `ETCDCTL_API=2` is set, which 3.4 and 3.5 support. The host's `ETCDCTL_*` variables are removed,
/// since the client fails if a variable contradicts a flag.
#[must_use]
pub fn etcdctl() -> Command {
    let path = std::env::var_os("ETCDCTL_BIN").filter(|path| !path.is_empty());
    let mut command = Command::new(path.unwrap_or_else(|| "etcdctl".into()));
    remove_variables(&mut command, "ETCDCTL_");
    command
}

/// Removes the environment variables with this prefix from a program's environment.
pub(crate) fn remove_variables(command: &mut Command, prefix: &str) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(prefix.as_bytes())) {
        command.env_remove(name);
    }
}

/// Starts a runtime, a server and a client of the server, for tests that are not async, such as
/// property tests. The runtime comes first in the tuple, so that it is dropped last.
///
/// # Panics
///
/// Panics if the server does not start.
#[must_use]
pub fn server(address: impl FnOnce(&Etcd) -> String) -> (Runtime, Etcd, Client) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (etcd, client) = runtime.block_on(async {
        let etcd = Etcd::start().await;
        let client = Client::connect(&address(&etcd)).await.unwrap();
        (etcd, client)
    });
    (runtime, etcd, client)
}

/// Returns the server that all tests of this process share under this name. The server ends with
/// the process. The v2 API keeps only the last 1000 events of a whole server, so tests that share a
/// server must know how many events they write together. Therefore each test file uses another
/// name.
///
/// # Panics
///
/// Panics if the server does not start.
pub async fn shared(name: &'static str) -> &'static Etcd {
    type Servers = HashMap<&'static str, Arc<OnceCell<&'static Etcd>>>;
    static SERVERS: Mutex<Option<Servers>> = Mutex::new(None);
    let server = Arc::clone(SERVERS.lock().unwrap().get_or_insert_default().entry(name).or_default());
    *server.get_or_init(async || &*Box::leak(Box::new(Etcd::start().await))).await
}

/// Starts a cluster in the middle of a rolling upgrade: its last member runs [`next_etcd`], the
/// others run `ETCD_BIN`.
///
/// # Panics
///
/// Panics if either program is missing or does not start, or if both have the same minor version.
pub async fn mixed_cluster(members: usize) -> Cluster {
    let mut cluster = Etcd::cluster(members).await;
    let last = cluster.member(members - 1);
    let line = |version: &str| version.rsplit_once('.').map(|(line, _)| line.to_owned());
    let before = line(last.version());
    last.upgrade(next_etcd()).await;
    assert_ne!(line(last.version()), before, "ETCD_BIN and ETCD_NEXT_BIN have the same minor version");
    cluster
}

/// Turns each case, an `async fn(Bench)`, into a test on each store: `on_every_store! { "typed":
/// case case }`. `Bench` is defined in the calling file, with a field `client`. The client uses an
/// in-memory store of its own, or the namespace `/typed-case` of the server that is [`shared`]
/// under the name `typed`.
#[macro_export]
macro_rules! on_every_store {
    ($namespace:literal: $($case:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $case() {
                let client = etcd_typed::Client::builder("memory:").namespace(concat!("/", $namespace)).connect().await.unwrap();
                super::$case(super::Bench { client }).await;
            })*
        }
        $crate::on_every_store! { @server v3 url_v3 $namespace: $($case)* }
        $crate::on_every_store! { @server v2 url_v2 $namespace: $($case)* }
    };
    (@server $store:ident $url:ident $namespace:literal: $($case:ident)*) => {
        mod $store {
            $(#[tokio::test]
            async fn $case() {
                let address = $crate::shared($namespace).await.$url();
                let namespace = concat!("/", $namespace, "-", stringify!($case));
                let client = etcd_typed::Client::builder(&address).namespace(namespace).connect().await.unwrap();
                super::$case(super::Bench { client }).await;
            })*
        }
    };
}

/// Compiles and runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub mod readme {}
