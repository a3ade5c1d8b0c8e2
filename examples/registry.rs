//! How do services find each other, and how do they notice at once that one has gone?
//!
//! ```text
//! cargo run --example registry                                   # three services in one program, on the embedded store
//! cargo run --example registry -- etcd://127.0.0.1:2379          # prints the list at each change
//! cargo run --example registry -- etcd://127.0.0.1:2379 anna     # registers as `anna`: run it in several terminals
//! cargo run --example registry -- etcd2://127.0.0.1:2379 anna    # the same on the v2 keys API
//! ```
//!
//! Press Ctrl-D to end a service: it deletes its entry at once. If a service is killed (with Ctrl-C
//! or `kill -9`), its entry disappears when the time to live has passed. If you delete the entry of
//! a running service (`etcdctl del /etcd-typed/registry/anna`), the service puts it back.
//!
//! The list is read per entry. An entry that cannot be decoded, perhaps from a newer version of a
//! service, is left out and printed with the reason. The list still shows the changes of all other
//! entries. Try `etcdctl put /etcd-typed/registry/new 'tcp:8080'`.
//!
//! An entry shows only that the service was alive within the time to live, not that it answers now.
//! So a client should try another service if a request fails. A service that cannot reach etcd for
//! longer than its time to live disappears from the list, although it may still answer requests.
//! The client decides what to do with an empty list.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::io::Read;
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::{Client, EntryMap, Json, Live, LiveMap, Published, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// The time for which an entry remains after its service has died. The time is short to make the
/// example quick. In a real program, choose a longer time: an outage of etcd that lasts longer than
/// this time removes services that still run.
const TTL: Duration = Duration::from_secs(3);

/// The data that a service publishes about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Endpoint {
    address: String,
    /// The number of requests in progress.
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
    // A program that registers a service prints the list too.
    let mut live = registry.live().per_entry().await?;
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

/// A service that is registered while it runs.
struct Service {
    endpoint: Endpoint,
    published: Published<Json<Endpoint>>,
}

impl Service {
    /// Registers the service. A service that restarts is registered at once, even if the entry of its
    /// previous process still exists.
    async fn start(registry: &Registry, name: &str, load: u32) -> Result<Self> {
        let endpoint = Endpoint { address: format!("{name}.example:8080"), load };
        let published = registry.entry(name)?.publish(&Json(endpoint.clone())).ttl(TTL).await?;
        Ok(Self { endpoint, published })
    }

    async fn work(&mut self, load: u32) -> Result<()> {
        self.endpoint.load = load;
        // A real service would log a failure and continue: the library writes the newest value as
        // soon as it can.
        self.published.set(&Json(self.endpoint.clone())).await?;
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.published.withdraw().await
    }
}

/// Prints the current list as a client of the services sees it. Reading the view sends no request.
fn show(live: &Live<LiveMap<String, Json<Endpoint>>>) {
    let services = live.get();
    let shown: Vec<_> = services.iter().map(|(name, Json(at))| format!("{name} at {} (load {})", at.address, at.load)).collect();
    println!("{}", if shown.is_empty() { "nobody".to_owned() } else { shown.join(", ") });
    show_problems(live);
    // The service that a client would choose.
    if let Some((name, _)) = services.iter().min_by_key(|(_, Json(at))| at.load) {
        println!("  the next request goes to {name}");
    }
}

/// Prints the bad entries, which keep their last good value or are left out.
fn show_problems(live: &Live<LiveMap<String, Json<Endpoint>>>) {
    for problem in live.status().problems() {
        println!("  not followed: {problem}");
    }
}

/// Starts and stops services one after the other, while a client watches the list.
async fn play() -> Result<(), Box<dyn Error>> {
    println!("store: memory:");
    let store = MemoryStore::new();
    let mut live = registry(&Client::with_store(store.clone()))?.live().per_entry().await?;
    show(&live);
    let registry = registry(&Client::with_store(store.clone()))?;
    let other = store.clone();

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
    // A live view may skip a state that lasts only briefly. A watch yields every change.
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

    println!("\na program with another form of entry comes: the list leaves it out, and keeps the others");
    let text = Client::with_store(other).entry::<String>("/etcd-typed/registry/newer")?;
    text.set(&"tcp:8080".to_owned()).await?;
    while live.status().problems().is_empty() {
        live.changed().await?;
    }
    show_problems(&live);
    text.delete().await?;

    println!("\nanna leaves");
    drop(anna);
    until(&mut live, |services| services.is_empty()).await?;
    Ok(())
}

/// Simulates a process that dies: the tasks that keep its entry alive end with this runtime.
fn carl(store: MemoryStore) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let service = runtime.block_on(async { Service::start(&registry(&Client::with_store(store))?, "carl", 0).await });
    drop(runtime);
    drop(service.map_err(std::io::Error::other)?);
    Ok(())
}

/// Waits until the list satisfies `wanted`, and prints the list.
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

/// Waits for the end of the input. A thread reads it, so that the example needs no further features of
/// tokio.
async fn end_of_input() {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        // Ignore the contents and errors: only the end of the input matters.
        let mut ignored = [0; 256];
        while std::io::stdin().read(&mut ignored).is_ok_and(|read| read > 0) {}
        let _ = ended.send(());
    });
    let _ = end.await;
}
