//! A clean build of a small application with its dependencies.

use std::collections::BTreeSet;

use super::{Alone, Crate, Place, ROUNDS, column, repository};
use crate::cases::{Goal, Table};
use crate::page::Row;
use crate::peers::{ETCD_CLIENT, OURS};
use crate::{Result, progress};

const PEERS: &[&str] = &[OURS, ETCD_CLIENT];

const TOKIO: &str = "tokio = { version = \"1\", features = [\"macros\", \"rt-multi-thread\"] }";

const OUR_SOURCE: &str = r#"
use etcd_typed::{Client, EtcdSchema};

#[derive(EtcdSchema)]
struct Settings {
    #[etcd(default = 100)]
    rate_limit: u32,
}

#[tokio::main]
async fn main() -> etcd_typed::Result<()> {
    let client = Client::connect("etcd://127.0.0.1:2379").await?;
    println!("{}", client.dir::<Settings>("/app")?.get().await?.rate_limit);
    Ok(())
}
"#;

const THEIR_SOURCE: &str = r#"
use etcd_client::{Client, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut client = Client::connect(["127.0.0.1:2379"], None).await?;
    let answer = client.get("/app/rate_limit", None).await?;
    let rate_limit = answer.kvs().first().and_then(|stored| stored.value_str().ok()?.parse::<u32>().ok());
    println!("{}", rate_limit.unwrap_or(100));
    Ok(())
}
"#;

pub(super) fn application() -> Alone {
    let table = Table {
        title: "build costs: clean build of an application".to_owned(),
        columns: ["check, CPU s", "release build, CPU s", "crates it depends on"].map(column).into(),
        baseline: ETCD_CLIENT,
        goals: vec![Goal::at_most(0.6, "check", ETCD_CLIENT), Goal::at_most(0.6, "release", ETCD_CLIENT), Goal::count(60.0, "crates")],
    };
    Alone { table, peers: PEERS, measure, long: true }
}

fn measure(rounds: usize) -> Result<Vec<Row>> {
    let (place, repository) = (Place::new("application")?, repository()?);
    let ours = format!("etcd-typed = {{ path = {:?} }}\n{TOKIO}", repository.join("etcd-typed"));
    let theirs = format!("etcd-client = \"0.21\"\n{TOKIO}");
    let crates = [
        place.generate("ours", &ours, "main.rs", OUR_SOURCE, &repository.join("Cargo.lock"))?,
        place.generate("theirs", &theirs, "main.rs", THEIR_SOURCE, &repository.join("tests/peers/Cargo.lock"))?,
    ];
    let mut rows: Vec<Row> = PEERS.iter().map(|peer| Row { peer, rounds: Vec::new() }).collect();
    for round in 0..rounds.min(ROUNDS) {
        let mut order: Vec<(&Crate, &mut Row)> = crates.iter().zip(&mut rows).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (made, row) in order {
            made.clean()?;
            let check = made.build(&["check"])?;
            made.clean()?;
            let release = made.build(&["build", "--release"])?;
            made.clean()?;
            progress(format_args!("application, round {}, {}: {:.1} {:.1}", round + 1, row.peer, check.seconds, release.seconds));
            row.rounds.push(vec![check.seconds, release.seconds, dependencies(&release.messages)?]);
        }
    }
    Ok(rows)
}

/// Returns the number of compiled packages, without the application itself.
fn dependencies(messages: &str) -> Result<f64> {
    let mut packages = BTreeSet::new();
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        if message["reason"] == "compiler-artifact" {
            packages.extend(message["package_id"].as_str().map(str::to_owned));
        }
    }
    packages.len().checked_sub(1).map(|count| count as f64).ok_or_else(|| "nothing was built".into())
}
