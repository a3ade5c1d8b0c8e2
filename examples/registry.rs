//! How do services find each other, and how do they notice at once that one is gone?
//!
//! ```text
//! cargo run --example registry                                   # three services come and go in one program, on the embedded store
//! cargo run --example registry -- etcd://127.0.0.1:2379          # shows who is there, whenever that changes
//! cargo run --example registry -- etcd://127.0.0.1:2379 anna     # takes part as `anna`: run it in several terminals
//! cargo run --example registry -- etcd2://127.0.0.1:2379 anna    # the same on the v2 keys API
//! ```
//!
//! A service that takes part leaves with the end of its input, Ctrl-D: its entry is deleted at once. Ended with Ctrl-C or `kill -9` it goes without a word, and
//! its entry when the time to live has passed. Delete the entry of one that is well (`etcdctl del /etcd-typed/registry/anna`): it is put back.
//!
//! That an entry is there says that the service was alive within its time to live, not that it answers now: a client still goes to the next one when a request
//! fails. And a service that cannot reach etcd for longer than that vanishes from the list though it may work well; what a client does with an empty list is
//! for it to decide.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io::Read;
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::{Client, EntryMap, Json, Live, LiveMap, Published, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// How long an entry outlives a service that died. So short only to be seen: it is also how long an outage may be before the list is wrong.
const TTL: Duration = Duration::from_secs(3);

/// What a service says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Endpoint {
    address: String,
    /// Requests that are under way.
    load: u32,
}

/// The key of an entry is the name of its service.
type Registry = EntryMap<String, Json<Endpoint>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(address) = arguments.next() else { return play().await };
    let client = Client::connect(&address).await?;
    let registry = registry(&client)?;
    // Who takes part sees the list as well.
    let mut live = registry.live().await?;
    let shown = async move {
        loop {
            show(&live);
            live.changed().await?;
        }
    };
    let Some(name) = arguments.next() else { return shown.await };
    let service = Service::start(&registry, &name, 0).await?;
    tokio::select! {
        ended = shown => return ended,
        () = end_of_input() => {}
    }
    service.stop().await?;
    println!("{name} has left");
    Ok(())
}

fn registry(client: &Client) -> Result<Registry> {
    client.entries("/etcd-typed/registry")
}

/// A service that is found as long as it runs.
struct Service {
    endpoint: Endpoint,
    published: Published<Json<Endpoint>>,
}

impl Service {
    /// A service that is started again is found at once, whatever is left of its former self.
    async fn start(registry: &Registry, name: &str, load: u32) -> Result<Self> {
        let endpoint = Endpoint { address: format!("{name}.example:8080"), load };
        let published = registry.entry(name)?.publish(&Json(endpoint.clone())).ttl(TTL).await?;
        Ok(Self { endpoint, published })
    }

    async fn work(&mut self, load: u32) -> Result<()> {
        self.endpoint.load = load;
        // In a service this is told at times, and a failure is for the log: the newest value is put there as soon as that can be done.
        self.published.set(&Json(self.endpoint.clone())).await?;
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.published.withdraw().await
    }
}

/// What every client of the services has: the list as it is now, which is read without asking anybody.
fn show(live: &Live<LiveMap<String, Json<Endpoint>>>) {
    let services = live.get();
    let shown: Vec<_> = services.iter().map(|(name, Json(at))| format!("{name} at {} (load {})", at.address, at.load)).collect();
    println!("{}", if shown.is_empty() { "nobody".to_owned() } else { shown.join(", ") });
    // Where a request would go.
    if let Some((name, _)) = services.iter().min_by_key(|(_, Json(at))| at.load) {
        println!("  the next request goes to {name}");
    }
}

/// Services come and go, each in its turn, and a client sees it.
async fn play() -> Result<(), Box<dyn Error>> {
    println!("store: memory:");
    let store = MemoryStore::new();
    let mut live = registry(&Client::with_store(store.clone()))?.live().await?;
    show(&live);
    let registry = registry(&Client::with_store(store.clone()))?;

    println!("\nanna and bert come");
    let mut anna = Service::start(&registry, "anna", 3).await?;
    until(&mut live, |services| services.len() == 1).await?;
    let bert = Service::start(&registry, "bert", 1).await?;
    until(&mut live, |services| services.len() == 2).await?;

    println!("\nanna has less to do");
    anna.work(0).await?;
    until(&mut live, |services| services.get("anna").is_some_and(|Json(at)| at.load == 0)).await?;

    println!("\nan operator deletes anna's entry: it comes back");
    let entry = registry.entry("anna")?;
    let mut changes = entry.watch().await?;
    entry.delete().await?;
    // A view shows the newest state and may skip one that lasts so short; a watch tells each.
    while !changes.next().await.ok_or("the watch ended")??.is_created() {}
    until(&mut live, |services| services.contains_key("anna")).await?;

    println!("\nbert leaves: his entry goes with him");
    bert.stop().await?;
    until(&mut live, |services| services.len() == 1).await?;

    println!("\ncarl comes, and dies without a word: his entry goes when its time to live has passed");
    let elsewhere = std::thread::spawn(move || carl(store));
    until(&mut live, |services| services.contains_key("carl")).await?;
    elsewhere.join().map_err(|_| "carl panicked")??;
    until(&mut live, |services| !services.contains_key("carl")).await?;

    println!("\nanna leaves");
    drop(anna);
    until(&mut live, |services| services.is_empty()).await?;
    Ok(())
}

/// A process of its own, as far as can be seen: with its runtime all that keeps its entry there is gone at once.
fn carl(store: MemoryStore) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let service = runtime.block_on(async { Service::start(&registry(&Client::with_store(store))?, "carl", 0).await });
    drop(runtime);
    drop(service.map_err(std::io::Error::other)?);
    Ok(())
}

/// Shows the list as it is when it has come to this.
async fn until(
    live: &mut Live<LiveMap<String, Json<Endpoint>>>,
    wanted: impl Fn(&LiveMap<String, Json<Endpoint>>) -> bool,
) -> Result<(), Box<dyn Error>> {
    let come_to_it = async {
        while !wanted(&live.get()) {
            live.changed().await?;
        }
        Ok::<_, etcd_typed::Error>(())
    };
    tokio::time::timeout(Duration::from_secs(30), come_to_it).await??;
    show(live);
    Ok(())
}

/// A thread reads it, since nothing else can wait for it without more of tokio.
async fn end_of_input() {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        // Nothing in it is of interest, nor is why it ends.
        let mut ignored = [0; 256];
        while std::io::stdin().read(&mut ignored).is_ok_and(|read| read > 0) {}
        let _ = ended.send(());
    });
    let _ = end.await;
}
