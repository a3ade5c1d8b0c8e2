//! Measures etcd-typed and other clients doing the same work on the same server, in alternating
//! rounds of one run.
//!
//! `README.md` has the command and explains the method. With the arguments `work PEER ADDRESS CASE
//! …` this program is one peer (`work.rs`). Otherwise it starts the peers (`trial.rs`) and makes a
//! page of their reports (`page.rs`).

mod alone;
mod cases;
mod page;
mod payload;
mod peers;
mod server;
mod tally;
mod trial;
mod work;
mod writer;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Instant;

use crate::alone::Alone;
use crate::cases::{Case, Effort};
use crate::page::{Filled, Page, Row};
use crate::peers::Programs;

/// An error that ends the run. It is only printed.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// Hand-written comments on a page with all cases: which goals are missed, and where the time goes.
const NOTES: &str = include_str!("../NOTES.md");

const USAGE: &str = "usage: etcd-typed-peers [--quick] [--rounds N] [--only PART-OF-A-TITLE]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // A peer is measured on the runtime that an application has by default.
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

/// Prints a line of progress to standard error, with the seconds since the first line.
fn progress(said: fmt::Arguments<'_>) {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    eprintln!("{:7.1} s  {said}", BEGAN.elapsed().as_secs_f64());
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
                _ => return Err(format!("unknown argument {argument}; {USAGE}").into()),
            }
        }
        effort.rounds = rounds.unwrap_or(effort.rounds).max(1);
        Ok(Self { effort, only })
    }
}

async fn measure(options: &Options) -> Result<()> {
    progress(format_args!("{} rounds", options.effort.rounds));
    let programs = Programs::find()?;
    let wanted = |case: &Case| case.stages.iter().any(|stage| stage.table.title.contains(&options.only));
    let cases: Vec<Case> = cases::all(&options.effort).into_iter().filter(wanted).collect();
    let alone: Vec<Alone> = alone::all().into_iter().filter(|alone| alone.table.title.contains(&options.only)).collect();
    if cases.is_empty() && alone.is_empty() {
        return Err(format!("no case has {:?} in its title; `--only` takes a part of a title", options.only).into());
    }
    let mut page = Page::begin(&programs, options.effort.rounds);
    let mut failed = Vec::new();
    for case in cases {
        match alternate(&case, &programs, options.effort.rounds).await {
            Ok(rows) => {
                let tables = case.stages.into_iter().zip(rows).map(|(stage, rows)| Filled { table: stage.table, rows });
                page.add(case.peers, tables)?;
            }
            Err(error) => failed.push(error.to_string()),
        }
    }
    for alone in alone {
        if options.effort.quick && alone.long {
            page.omit(format!("{}, because it takes minutes", alone.table.title));
            continue;
        }
        let (title, peers, rounds) = (alone.table.title.clone(), alone.peers, options.effort.rounds);
        match tokio::task::spawn_blocking(move || alone.measure(rounds)).await? {
            Ok(filled) => page.add(peers, [filled])?,
            Err(error) => failed.push(format!("{title}: {error}")),
        }
    }
    // If one case fails, the page still shows the other results, which took long to measure. But
    // the page must say that it is not complete.
    failed.iter().for_each(|failure| page.omit(format!("**a case that failed**: {failure}")));
    println!("{}", page.end().await?);
    if options.only.is_empty() {
        println!("{}", NOTES.trim_end());
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
}

/// Runs all peers in each round, and reverses their order in every second round, so that other load
/// on the machine affects all peers alike. Returns the rows of each stage.
async fn alternate(case: &Case, programs: &Programs, rounds: usize) -> Result<Vec<Vec<Row>>> {
    let peers: Vec<(&'static str, &Path)> = case.peers.iter().filter_map(|peer| Some((*peer, programs.of(peer)?))).collect();
    let row = |(peer, _): &(&'static str, _)| Row { peer, rounds: Vec::new() };
    let mut rows: Vec<Vec<Row>> = case.stages.iter().map(|_| peers.iter().map(row).collect()).collect();
    for round in 0..rounds {
        let count = if case.server.shared { 1 } else { peers.len() };
        let mut servers = server::start(count, &case.server).await?;
        progress(format_args!("{}, round {}: {count} servers", case.work[0], round + 1));
        let mut order: Vec<usize> = (0..peers.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let (peer, program) = peers[at];
            let server = servers.last().ok_or("no server is left for this peer")?;
            let outcomes = trial::run(program, peer, case, server).await.map_err(|error| format!("{}, {peer}: {error}", case.work[0]))?;
            for ((figures, rows), stage) in outcomes.into_iter().zip(&mut rows).zip(&case.stages) {
                progress(format_args!("{}, round {}, {peer}: {:.2}", stage.table.title, round + 1, figures[0]));
                rows[at].rounds.push(figures);
            }
            if !case.server.shared {
                servers.pop();
            }
        }
    }
    Ok(rows)
}
