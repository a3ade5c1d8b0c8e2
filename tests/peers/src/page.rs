//! What is printed: a page of Markdown with everything that one needs to know to judge it.

use std::fs;
use std::process::Command;

use etcd_typed::testing::Etcd;

use crate::Result;
use crate::cases::{Better, Case, median};
use crate::peers::{BASELINE, OURS, Peer};
use crate::trial::Outcome;

/// A peer's outcomes, one for each round.
pub(crate) struct Row {
    pub(crate) peer: &'static str,
    pub(crate) rounds: Vec<Outcome>,
}

impl Row {
    fn of(&self, figure: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.rounds.iter().map(figure).collect()
    }

    /// How many times as good as the other, round by round.
    fn ratios(&self, other: &Self, better: Better) -> Vec<f64> {
        let ratio = |(ours, theirs): (f64, f64)| if better == Better::Higher { ours / theirs } else { theirs / ours };
        self.of(first_figure).into_iter().zip(other.of(first_figure)).map(ratio).collect()
    }
}

fn first_figure(outcome: &Outcome) -> f64 {
    outcome.figures[0]
}

/// What was measured with what, where, and how busy the machine was.
pub(crate) async fn head(peers: &[Peer], rounds: usize, load_before: &str) -> Result<String> {
    let command = std::env::args().skip(1).map(|argument| format!(" {argument}")).collect::<String>();
    let mut lines = vec![
        format!("`tests/peers/run{command}`, {}.\n", said_by("date", &["-u", "+%-d %B %Y, %H:%M UTC"])),
        format!(
            "- Server: etcd {}, one member, loopback, data in memory, without fsync; a new one for each peer and round.",
            Etcd::start().await.version()
        ),
    ];
    lines.extend(peers.iter().map(|peer| format!("- {}: {}", peer.name, peer.version)));
    if !peers.iter().any(|peer| peer.name == crate::peers::GO) {
        lines.push(format!("- {}: left out, since there is no Go here with etcd's client.", crate::peers::GO));
    }
    let cores = std::thread::available_parallelism()?;
    lines.push(format!("- {}; {cores} cores, shared by the server and the peer.", said_by("rustc", &["--version"])));
    lines.push(format!("- Load of the machine over 1, 5 and 15 minutes: {load_before} before, {} after.", load()));
    lines.push(format!("- {rounds} rounds; medians over the rounds, and [least..most]."));
    Ok(lines.join("\n") + "\n")
}

pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|error| format!("({program}: {error})"), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(crate) fn table(case: &Case, rows: &[Row]) -> String {
    let baseline = rows.iter().find(|row| row.peer == BASELINE);
    let columns = case.columns.join(" | ");
    let costs = format!("client µs/{0} | server µs/{0} | messages/{0}", case.operation);
    let mut lines = vec![format!("## {}\n", case.title), format!("| | {columns} | times {BASELINE} | {costs} |")];
    lines.push(format!("|---|{}", "---:|".repeat(case.columns.len() + 4)));
    for row in rows {
        let figures = (0..case.columns.len()).map(|at| spread(row.of(|outcome| outcome.figures[at])));
        let ratio = baseline.map_or_else(|| "-".to_owned(), |baseline| spread(row.ratios(baseline, case.better)));
        let client = rounded(median(row.of(|outcome| outcome.client)));
        let server = rounded(median(row.of(|outcome| outcome.server)));
        let messages = rounded(median(row.of(|outcome| outcome.messages)));
        let figures = figures.collect::<Vec<_>>().join(" | ");
        lines.push(format!("| {} | {figures} | {ratio} | {client} | {server} | {messages} |", row.peer));
    }
    if let (Some(ours), Some(baseline)) = (rows.iter().find(|row| row.peer == OURS), baseline) {
        let reached = median(ours.ratios(baseline, case.better));
        let verdict = if reached >= case.goal { "reached" } else { "**missed**" };
        lines.push(format!("\nGoal: {} times {BASELINE}; {verdict} with {}.", case.goal, rounded(reached)));
    }
    lines.join("\n") + "\n"
}

/// The median and the range.
fn spread(measured: Vec<f64>) -> String {
    let (least, most) = measured.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), one| (least.min(*one), most.max(*one)));
    format!("{} [{}..{}]", rounded(median(measured)), rounded(least), rounded(most))
}

/// Three digits are more than such figures are good for.
fn rounded(figure: f64) -> String {
    match figure.abs() {
        small if small < 10.0 => format!("{figure:.2}"),
        middling if middling < 100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}
