//! How does a program start while etcd is down? It starts with its last good settings from its own
//! disk and reports this. When the server is back, it reads the settings from the server again.
//!
//! `cargo run --example start_without_a_server` simulates this with the embedded store. With an
//! address, the example is such a program, which prints its settings until it is stopped: `cargo
//! run --example start_without_a_server -- etcd://127.0.0.1:2379`. Start it again while that server
//! is stopped.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::{Cause, Client, EtcdSchema, Live, LiveStatus, Result, Secret};

/// The settings that the program needs to start.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/checkout")]
struct Checkout {
    #[etcd(default = 100)]
    rate_limit: u32,
    banner: Option<String>,
    /// Always `None` in a state from the disk, since a secret is never written to the disk.
    token: Option<Secret<String>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match std::env::args().nth(1) {
        // `connect_lazy` does not fail if no server answers, so the view can start from the file.
        Some(address) => follow(&Client::builder(&address).connect_lazy()?, Path::new("checkout.json")).await,
        None => play(&std::env::temp_dir().join(format!("checkout-{}.json", std::process::id()))).await,
    }
}

/// Runs the program, which prints its settings at each change.
async fn follow(client: &Client, path: &Path) -> Result<()> {
    let checkout = CheckoutDir::open(client, "prod")?;
    let mut live = checkout.live().or_snapshot(path).await?;
    loop {
        show("now", &live);
        live.changed().await?;
    }
}

async fn play(path: &Path) -> Result<()> {
    let server = MemoryStore::new();
    let checkout = CheckoutDir::open(&Client::with_store(server.clone()), "prod")?;
    checkout.set(&Checkout { rate_limit: 250, banner: Some("Sale!".to_owned()), token: Some("hunter2".into()) }).await?;

    let live = checkout.live().or_snapshot(path).await?;
    show("with a server", &live);
    // A background task writes the file a moment later.
    while !path.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    drop(live);

    server.faults().stop();
    match checkout.live().await {
        Ok(_) => println!("a view without a file: there is one"),
        Err(error) => println!("a view without a file: {error}"),
    }
    let mut live = checkout.live().or_snapshot(path).await?;
    show("without a server", &live);
    if let LiveStatus::Degraded { cause: Cause::Snapshot(error), last_good_revision, .. } = live.status() {
        println!("  from the disk, as of revision {last_good_revision}, since: {error}");
    }

    server.faults().start();
    live.changed().await?;
    checkout.rate_limit.set(&300).await?;
    live.changed().await?;
    show("the server is back", &live);
    // If this fails, a temporary file is left behind.
    let _ = std::fs::remove_file(path);
    Ok(())
}

fn show(when: &str, live: &Live<Checkout>) {
    let state = live.get();
    let health = if live.status().is_live() { "live" } else { "degraded" };
    println!("{when}: {:?} ({health})", **state);
}
