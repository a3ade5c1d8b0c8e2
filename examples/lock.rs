//! How does a job run only once, although every machine of a service starts it?
//!
//! ```text
//! cargo run --example lock                                  # the embedded store
//! cargo run --example lock -- etcd://127.0.0.1:2379         # etcd v3; run it in several terminals at once, or beside `etcdctl lock`
//! cargo run --example lock -- etcd2://127.0.0.1:2379        # the v2 keys API
//! ```
//!
//! Three workers want to do the same job. Each worker acquires the lock and checks whether the job
//! was done. If not, the worker does the job and records this.
//!
//! # What the lock guarantees, and what it cannot guarantee
//!
//! The store gives the lock to one worker at a time, in the order in which they asked. But a worker
//! may be paused between its last check of the lock and its next action (a suspended machine, a
//! swapped page, a stopped container). Its lease may expire meanwhile, and the worker then acts
//! although another worker holds the lock. No lock of this kind can prevent that. The system that
//! the worker changes can prevent it:
//!
//! - etcd: a write with `.guarded_by(&lock)` is committed only while the lock is held. The clocks
//!   do not matter. (v2 cannot do this, since it has no transactions.)
//! - Any other system: the worker sends the fence, a number that grows with each new holder. The
//!   system refuses a fence that is smaller than the largest fence it has seen.
//! - `while_held` drops the future of the work if the lock is lost. Then a worker rarely acts
//!   without the lock, but it remains possible.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Mutex;
use std::time::Duration;

use etcd_typed::{Client, ErrorKind, Result, Revision};
use tokio::time::sleep;

const LOCK: &str = "/etcd-typed/lock/nightly-report";
const DONE: &str = "/etcd-typed/lock/nightly-report-done";

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "memory:lock".to_owned());
    let client = Client::connect(&address).await?;
    let printer = Printer::default();

    tokio::try_join!(worker("anna", &client, &printer), worker("berta", &client, &printer), worker("clara", &client, &printer))?;
    too_late(&client, &printer).await
}

async fn worker(name: &str, client: &Client, printer: &Printer) -> Result<()> {
    // The time to live is the time that the other workers wait after this worker has crashed. They
    // see `.info` in `holder()` and `queue()`.
    let lock = client.lock(LOCK).ttl(Duration::from_secs(5)).info(name).acquire().await?;
    let done = client.entry::<String>(DONE)?;
    if let Some(by) = done.get().await? {
        println!("{name} finds it done by {}", *by);
        return lock.release().await;
    }
    println!("{name} does the job, fence {}", lock.fence());
    let work = async {
        sleep(Duration::from_millis(100)).await;
        printer.print(name, lock.fence());
    };
    // If the lock is lost, `while_held` returns an error with the reason.
    lock.while_held(work).await?;
    let written = done.create(&name.to_owned());
    if has_transactions(client) {
        written.guarded_by(&lock).await?;
    } else {
        written.await?;
    }
    lock.release().await
}

/// Acts as a former holder that has not noticed that it lost the lock: an operator has deleted its
/// key, and another worker holds the lock.
async fn too_late(client: &Client, printer: &Printer) -> Result<()> {
    let former = client.lock(LOCK).acquire().await?;
    client.entry::<String>(former.key().as_str())?.delete().await?;
    let present = client.lock(LOCK).acquire().await?;
    printer.print("the present holder", present.fence());

    if has_transactions(client) {
        let late = client.entry::<String>(DONE)?.set(&"the former holder".to_owned()).guarded_by(&former).await;
        match late {
            Err(error) if error.kind() == ErrorKind::GuardLost => println!("etcd refuses the former holder: guard lost"),
            other => println!("this must not be: {other:?}"),
        }
    } else {
        println!("etcd v2 cannot check a guard and write another key in one step: there it is the fence, or nothing");
    }
    printer.print("the former holder", former.fence());
    present.release().await
}

fn has_transactions(client: &Client) -> bool {
    client.store().capabilities().transactions
}

/// A system outside of etcd that the lock protects. It remembers the largest fence that it has
/// seen. A database would store the fence in the row that is written.
#[derive(Default)]
struct Printer {
    seen: Mutex<Option<Revision>>,
}

impl Printer {
    fn print(&self, by: &str, fence: Revision) {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *seen > Some(fence) {
            println!("the printer refuses {by}");
            return;
        }
        *seen = Some(fence);
        println!("the printer prints for {by}");
    }
}
