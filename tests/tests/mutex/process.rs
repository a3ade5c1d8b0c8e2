//! A process of contenders for the tests in `mutex`. The contenders run until the line `finish`
//! arrives on standard input. When the input ends, as it does when the test ends, the process exits
//! at once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod broken;
mod contender;
mod record;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, io, process, thread};

use etcd_typed::Client;

use self::contender::Contenders;
use self::record::{Log, Orders, Places, machine_time};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let orders = env::args().nth(1).expect("a test starts this process with its orders");
    let Orders { process, address, log, seed, tasks, locks, behaviour } = serde_json::from_str(&orders).unwrap();
    let log = Arc::new(Log::new(File::create(log).unwrap(), machine_time));
    tracing::subscriber::set_global_default(Places(log.clone())).unwrap();
    let client = Client::builder(&address).connect_lazy().unwrap();
    let finish = Arc::new(AtomicBool::new(false));
    let contenders = Contenders { process, client, log, locks: Arc::new(locks), behaviour, lease: None, finish: finish.clone() };
    thread::spawn(move || listen(&finish));
    contenders.run(tasks, seed).await;
}

fn listen(finish: &AtomicBool) {
    let mut line = String::new();
    while io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
        finish.store(true, Ordering::Relaxed);
    }
    process::exit(1);
}
