//! Measures etcd-typed beside what else one would take: the same work on the same server, in alternating rounds of one run.
//!
//! `README.md` has the command and the method. Called as `work PEER ADDRESS CASE …` this program is one peer at work; the others are
//! what starts it so (`trial.rs`), and what makes a page of the reports (`page.rs`).

mod cases;
mod page;
mod peers;
mod report;
mod server;
mod trial;
mod work;

use std::process::ExitCode;

use crate::cases::{Case, Effort};
use crate::page::Row;
use crate::peers::Peer;

/// For what stops the whole run, and is only ever shown.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

const USAGE: &str = "usage: etcd-typed-peers [--quick] [--rounds N] [--only PART-OF-A-TITLE]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // A worker has the runtime that an application has by default; it is what is measured.
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let done = runtime.block_on(async {
        match arguments.split_first() {
            Some((first, rest)) if first == "work" => work::run(rest).await,
            _ => measure(&Options::parse(arguments)?).await,
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}

struct Options {
    effort: Effort,
    only: String,
}

impl Options {
    fn parse(arguments: Vec<String>) -> Result<Self> {
        let (mut effort, mut rounds, mut only) = (Effort::FULL, None, String::new());
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => effort = Effort::QUICK,
                "--rounds" => rounds = Some(arguments.next().ok_or(USAGE)?.parse()?),
                "--only" => only = arguments.next().ok_or(USAGE)?,
                _ => return Err(format!("{argument}? {USAGE}").into()),
            }
        }
        effort.rounds = rounds.unwrap_or(effort.rounds).max(1);
        Ok(Self { effort, only })
    }
}

async fn measure(options: &Options) -> Result<()> {
    let peers = peers::all()?;
    let cases: Vec<Case> = cases::all(&options.effort).into_iter().filter(|case| case.title.contains(&options.only)).collect();
    if cases.is_empty() {
        return Err(format!("no case has {:?} in its title", options.only).into());
    }
    let load = page::load();
    let mut tables = Vec::new();
    for case in &cases {
        tables.push(page::table(case, &alternate(case, &peers, options.effort.rounds).await?));
    }
    println!("{}", page::head(&peers, options.effort.rounds, &load).await?);
    println!("{}", tables.join("\n"));
    Ok(())
}

/// All peers in turn, round after round, every second one in the other order: what the machine does meanwhile strikes all alike.
async fn alternate(case: &Case, peers: &[Peer], rounds: usize) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = peers.iter().map(|peer| Row { peer: peer.name, rounds: Vec::new() }).collect();
    for round in 0..rounds {
        let mut order: Vec<(&Peer, &mut Row)> = peers.iter().zip(&mut rows).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (peer, row) in order {
            let outcome = trial::run(peer, case).await.map_err(|error| format!("{}, {}: {error}", case.title, peer.name))?;
            eprintln!("{}, round {}, {}: {:.2}", case.title, round + 1, peer.name, outcome.figures[0]);
            row.rounds.push(outcome);
        }
    }
    Ok(rows)
}
