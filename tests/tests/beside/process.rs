//! A contender that uses this library. It takes the same arguments and prints the same lines as the
//! contenders in other languages, see `tests/beside`.
//!
//! `contender ENDPOINT lock|elect NAME TTL [VALUE]` prints `holds KEY` when it holds the lock or
//! leads. When its standard input ends, it releases the lock or resigns, and prints `released`.
#![allow(clippy::print_stdout, reason = "what it prints is its result")]

use std::error::Error;
use std::io;
use std::time::Duration;

use etcd_typed::Client;
use tokio::task::spawn_blocking;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, command, name, ttl, rest @ ..] = arguments.as_slice() else {
        return Err("usage: contender ENDPOINT lock|elect NAME TTL [VALUE]".into());
    };
    let client = Client::connect(&format!("etcd://{endpoint}")).await?;
    let ttl = Duration::from_secs(ttl.parse()?);
    match command.as_str() {
        "lock" => {
            let lock = client.lock(name).ttl(ttl).acquire().await?;
            println!("holds {}", lock.key());
            spawn_blocking(wait_for_end).await??;
            lock.release().await?;
        }
        "elect" => {
            let value = rest.first().cloned().unwrap_or_default();
            let leader = client.election::<String>(name).ttl(ttl).campaign(&value).await?;
            println!("holds {}", leader.key());
            spawn_blocking(wait_for_end).await??;
            leader.resign().await?;
        }
        other => return Err(format!("{other:?} is neither lock nor elect").into()),
    }
    println!("released");
    Ok(())
}

fn wait_for_end() -> io::Result<u64> {
    io::copy(&mut io::stdin().lock(), &mut io::sink())
}
