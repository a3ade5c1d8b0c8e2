//! The v3 store on real servers: its contract, and what it does when servers, connections, tokens
//! and certificates fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test fails by panicking, and says what it counted")]

mod auth;
mod between;
mod calls;
mod clusters;
mod faults;
mod joined;
mod lines;
mod members;
mod messages;
mod queues;
mod raw;
mod replay;
mod rights;
mod sharing;
mod silence;
mod tls;
mod ttl;
mod watches;

use std::time::Duration;

use bytes::Bytes;
use etcd_typed::Key;
use etcd_typed::store::connect::{ConnectOptions, Endpoint};
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Op, Store, Txn};
use etcd_typed::testing::Etcd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Returns options for these addresses, each `HOST:PORT`.
fn options<'e>(endpoints: impl IntoIterator<Item = &'e str>) -> ConnectOptions {
    let endpoint = |address: &str| {
        let (host, port) = address.rsplit_once(':').unwrap();
        Endpoint { host: host.to_owned(), port: port.parse().unwrap() }
    };
    ConnectOptions::new(endpoints.into_iter().map(endpoint).collect())
}

fn store(endpoint: &str) -> V3Store {
    V3Store::new(&options([endpoint])).unwrap()
}

fn key(path: &str) -> Key {
    Key::parse(path).unwrap()
}

fn put(key: &Key, value: impl Into<Bytes>) -> Txn {
    Txn::new(vec![Op::put(key, value.into())])
}

fn delete(key: &Key) -> Txn {
    Txn::new(vec![Op::delete(key)])
}

/// Writes the key and returns the revision.
async fn write(store: &V3Store, key: &Key, value: impl Into<Bytes>) -> u64 {
    store.commit(put(key, value)).await.unwrap().revision.get()
}

/// The limit of every wait. Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the value of a metric that the server reports.
async fn metric_of(etcd: &Etcd, name: &str) -> f64 {
    let mut connection = TcpStream::connect(etcd.endpoint()).await.unwrap();
    connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    connection.read_to_string(&mut page).await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect("the server has this metric");
    line.parse().unwrap()
}
