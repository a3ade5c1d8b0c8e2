//! The main task in one file: write, read, swap and watch a config struct.
//!
//! ```text
//! cargo run --example quickstart                                 # the embedded store
//! cargo run --example quickstart -- etcd://127.0.0.1:2379        # etcd v3
//! cargo run --example quickstart -- etcd2://127.0.0.1:2379       # the v2 keys API
//! ```
//!
//! Apart from its first line, the output is the same on all three stores. The exit status is 0 only
//! if every step had the expected result. All keys are below `/etcd-typed/quickstart` and are
//! deleted at the end.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use etcd_typed::{Client, ErrorKind, EtcdSchema, EtcdValue, Expect};

/// The settings of a checkout service.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/etcd-typed/{example}")]
struct Checkout {
    /// Requests per second that one customer may send.
    #[etcd(default = 100)]
    rate_limit: u32,
    /// How long a payment may take.
    timeout: Duration,
    /// Shown to every customer, if it is set.
    banner: Option<String>,
    level: LogLevel,
    #[etcd(dir)]
    database: Database,
    /// Orders per day, for each customer.
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

#[derive(EtcdValue, Clone, Copy, Debug, PartialEq)]
enum LogLevel {
    Debug,
    Info,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Database {
    host: String,
    pool: u16,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    println!("store: {address}");
    let client = Client::connect(&address).await?;
    let cfg = CheckoutDir::open(&client, "quickstart")?;
    cfg.delete().non_atomic().await?;

    println!("\none key: get, set, compare-and-swap");
    step("nothing is there", cfg.rate_limit.get().await?.as_deref(), None)?;
    cfg.rate_limit.set(&250).await?;
    let seen = cfg.rate_limit.get().await?;
    step("set, then get", seen.as_deref(), Some(&250))?;
    cfg.rate_limit.compare_and_swap(&seen, &300).await?;
    let conflict = cfg.rate_limit.compare_and_swap(&seen, &350).await;
    let conflict = conflict.err().ok_or("a swap of an old value went through")?;
    step("a swap of what was read before", conflict.kind(), ErrorKind::Conflict)?;
    step("the conflict carries the value that is there", conflict.current::<u32>().map(|now| **now), Some(300))?;
    cfg.rate_limit.compare_and_swap(Expect::value(&300), &400).await?;
    step("a swap by value", cfg.rate_limit.get().await?.as_deref(), Some(&400))?;

    println!("\nthe whole struct: write and read");
    let settings = Checkout {
        rate_limit: 120,
        timeout: Duration::from_secs(90),
        banner: Some("Sale!".to_owned()),
        level: LogLevel::Info,
        database: Database { host: "db.example".to_owned(), pool: 8 },
        quotas: BTreeMap::from([("acme".to_owned(), 1000), ("a/b & co".to_owned(), 5)]),
    };
    // This is one transaction if the store has transactions. `.non_atomic()` allows v2 to write key
    // by key.
    cfg.set(&settings).non_atomic().await?;
    step("written and read", &*cfg.get().await?, &settings)?;
    let stored = client.entry::<String>("/etcd-typed/quickstart/timeout")?;
    step("a duration as a person would type it", stored.get().await?.as_deref().map(String::as_str), Some("1m30s"))?;

    println!("\nchanges as they arrive");
    let mut changes = cfg.watch().await?;
    step("the state at the start", &*changes.current()?, &settings)?;
    cfg.level.set(&LogLevel::Debug).await?;
    cfg.banner.delete().await?;
    cfg.database.pool.set(&16).await?;
    cfg.quotas.entry("acme")?.modify(|n| n.map(|n| n + 1)).await?;
    for _ in 0..4 {
        let update = tokio::time::timeout(Duration::from_secs(10), changes.next()).await?.ok_or("the stream ended")??;
        for change in update.changes {
            match change {
                CheckoutChange::Level(c) => step("level", (c.old, c.new), (Some(LogLevel::Info), Some(LogLevel::Debug)))?,
                CheckoutChange::Banner(c) => step("banner", (c.old, c.new), (Some("Sale!".to_owned()), None))?,
                CheckoutChange::Database(DatabaseChange::Pool(c)) => step("database/pool", (c.old, c.new), (Some(8), Some(16)))?,
                CheckoutChange::Quotas(q) => {
                    step("quotas", (q.key, q.change.old, q.change.new), ("acme".to_owned(), Some(1000), Some(1001)))?;
                }
                other => return Err(format!("a change that nobody made: {other:?}").into()),
            }
        }
    }
    step("the state after them", changes.current()?.database.pool, 16)?;

    cfg.delete().non_atomic().await?;
    step("\ndeleted; a key is there", cfg.exists().await?, false)?;
    Ok(())
}

/// Prints the result of a step, and returns an error if the result is not the expected one.
fn step<T: Debug + PartialEq>(what: &str, got: T, wanted: T) -> Result<(), Box<dyn Error>> {
    println!("{what}: {got:?}");
    if got == wanted { Ok(()) } else { Err(format!("{what}: wanted {wanted:?}").into()) }
}
