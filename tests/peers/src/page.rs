//! The page of Markdown that is printed, with everything that a reader needs to judge the figures.

use std::fs;
use std::process::Command;
use std::time::Instant;

use etcd_typed::testing::Etcd;

use crate::Result;
use crate::cases::{Better, Bound, CLIENT, Goal, Table, median};
use crate::peers::{OURS, Programs};

/// The figures of one peer.
pub(crate) struct Row {
    pub(crate) peer: &'static str,
    /// For each round, a figure for each column.
    pub(crate) rounds: Vec<Vec<f64>>,
}

impl Row {
    fn of(&self, column: usize) -> Vec<f64> {
        self.rounds.iter().filter_map(|figures| figures.get(column)).copied().collect()
    }
}

/// A table with its figures.
pub(crate) struct Filled {
    pub(crate) table: Table,
    pub(crate) rows: Vec<Row>,
}

pub(crate) struct Page<'a> {
    programs: &'a Programs,
    rounds: usize,
    began: Instant,
    load: String,
    /// The versions of the peers, in the order in which they first took part.
    versions: Vec<String>,
    tables: Vec<Filled>,
    /// The cases that are not on the page, and why.
    omissions: Vec<String>,
}

impl<'a> Page<'a> {
    pub(crate) fn begin(programs: &'a Programs, rounds: usize) -> Self {
        Self { programs, rounds, began: Instant::now(), load: load(), versions: Vec::new(), tables: Vec::new(), omissions: Vec::new() }
    }

    pub(crate) fn add(&mut self, peers: &[&str], tables: impl IntoIterator<Item = Filled>) -> Result<()> {
        for peer in peers {
            let version = self.programs.version(peer)?;
            if !self.versions.contains(&version) {
                self.versions.push(version);
            }
        }
        self.tables.extend(tables);
        Ok(())
    }

    pub(crate) fn omit(&mut self, what: impl Into<String>) {
        self.omissions.push(what.into());
    }

    pub(crate) async fn end(&self) -> Result<String> {
        let tables = self.tables.iter().map(|filled| filled.markdown() + "\n").collect::<String>();
        Ok(format!("{}\n{tables}{}", self.head().await?, self.summary()))
    }

    /// Returns the head of the page: the command, the versions, the machine and its load.
    async fn head(&self) -> Result<String> {
        let command = std::env::args().skip(1).map(|argument| format!(" {argument}")).collect::<String>();
        let etcd = Etcd::start().await;
        let cores = std::thread::available_parallelism()?;
        let mut lines = vec![
            format!("`tests/peers/run{command}`, {}.\n", said_by("date", &["-u", "+%-d %B %Y, %H:%M UTC"])),
            format!(
                "- Server: etcd {}, one member, loopback, data in memory, without fsync; a new server for each peer and round, or for each round if no peer changes anything.",
                etcd.version()
            ),
        ];
        lines.extend(self.versions.iter().map(|version| format!("- {version}.")));
        lines.push(format!("- {}; {cores} cores, shared by the server and the peer.", said_by("rustc", &["--version"])));
        lines.push(format!("- Load of the machine over 1, 5 and 15 minutes: {} before, {} after.", self.load, load()));
        lines.push(format!(
            "- {} rounds in {} s. Each figure is the median of the rounds, with [minimum..maximum].",
            self.rounds,
            self.began.elapsed().as_secs()
        ));
        lines.extend(self.omissions.iter().map(|what| format!("- Left out: {what}.")));
        Ok(lines.join("\n") + "\n")
    }

    /// Returns a table of all goals.
    fn summary(&self) -> String {
        let mut lines = vec![
            "## All goals\n".to_owned(),
            format!("| case | best other peer | {OURS} is so many times as good | goal | result |"),
            "|---|---|---:|---|---|".to_owned(),
        ];
        for filled in &self.tables {
            for goal in &filled.table.goals {
                lines.extend(filled.verdict(goal).map(|verdict| verdict.summary));
            }
        }
        lines.join("\n") + "\n"
    }
}

/// The result of a goal.
struct Verdict {
    /// The line below the table of the case.
    below: String,
    /// The row in the table of all goals.
    summary: String,
}

impl Filled {
    fn row(&self, peer: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.peer == peer)
    }

    /// Returns the index of the column whose title begins with this text.
    fn column(&self, title: &str) -> Option<usize> {
        self.table.columns.iter().position(|column| column.title.starts_with(title))
    }

    /// Returns the figure of one row divided by the figure of the other row, for each round.
    fn quotients(column: usize, one: &Row, other: &Row) -> Vec<f64> {
        one.of(column).into_iter().zip(other.of(column)).map(|(one, other)| one / other).collect()
    }

    /// Returns how many times as good one row is as the other, for each round.
    fn times(&self, column: usize, one: &Row, other: &Row) -> Vec<f64> {
        match self.table.columns[column].better {
            Better::Higher => Self::quotients(column, one, other),
            Better::Lower => Self::quotients(column, other, one),
        }
    }

    fn markdown(&self) -> String {
        let Table { title, columns, baseline, goals } = &self.table;
        let client = self.column(CLIENT);
        let (mut heads, mut rules) = (String::new(), String::new());
        for (at, column) in columns.iter().enumerate() {
            heads += &format!(" {} |", column.title);
            rules += "---:|";
            if at == 0 {
                heads += &format!(" times as good as {baseline} |");
                rules += "---:|";
            } else if Some(at) == client {
                heads += &format!(" relative to {baseline} |");
                rules += "---:|";
            }
        }
        let mut lines = vec![format!("## {title}\n"), format!("| |{heads}"), format!("|---|{rules}")];
        for row in &self.rows {
            let mut line = format!("| {} |", row.peer);
            for at in 0..columns.len() {
                // Costs are shown without their range, because the table is wide enough.
                let figure = if Some(at) < client || client.is_none() { spread(row.of(at)) } else { rounded(median(row.of(at))) };
                line += &format!(" {figure} |");
                let baseline = self.row(baseline);
                if at == 0 {
                    line += &format!(" {} |", baseline.map_or_else(|| "-".to_owned(), |baseline| spread(self.times(at, row, baseline))));
                } else if Some(at) == client {
                    let quotient = |baseline| rounded(median(Self::quotients(at, row, baseline)));
                    line += &format!(" {} |", baseline.map_or_else(|| "-".to_owned(), quotient));
                }
            }
            lines.push(line);
        }
        let verdicts: Vec<String> = goals.iter().filter_map(|goal| self.verdict(goal)).map(|verdict| verdict.below).collect();
        if !verdicts.is_empty() {
            lines.push(String::new());
            lines.extend(verdicts);
        }
        lines.join("\n") + "\n"
    }

    /// Returns the result of a goal, or `None` if a peer of the goal was not measured.
    fn verdict(&self, goal: &Goal) -> Option<Verdict> {
        let column = self.column(goal.column)?;
        let who = self.row(goal.who)?;
        let (wanted, reached, is_reached) = match goal.bound {
            Bound::Times(times, peer) => {
                let reached = median(self.times(column, who, self.row(peer)?));
                (format!("at least {times} times as good as {peer}"), reached, reached >= times)
            }
            Bound::AtMost(part, peer) => {
                let reached = median(Self::quotients(column, who, self.row(peer)?));
                (format!("at most {part} times that of {peer}"), reached, reached <= part)
            }
            Bound::Count(count) => {
                let reached = median(who.of(column));
                (format!("at most {count}"), reached, reached <= count)
            }
        };
        let of = if goal.who == OURS { String::new() } else { format!(" ({})", goal.who) };
        let wanted = format!("{}{of} {wanted}", self.table.columns[column].title);
        let reached = rounded(reached);
        let (best, times) =
            self.best_other(column).map_or(("-", "-".to_owned()), |best| (best.peer, rounded(median(self.times(column, who, best)))));
        Some(Verdict {
            below: format!("- Goal: {wanted}. {}: {reached}.", if is_reached { "Reached" } else { "**Missed**" }),
            summary: format!(
                "| {} | {best} | {times} | {wanted} | {}: {reached} |",
                self.table.title,
                if is_reached { "reached" } else { "**missed**" }
            ),
        })
    }

    /// Returns the best row among the peers other than etcd-typed.
    fn best_other(&self, column: usize) -> Option<&Row> {
        let others = self.rows.iter().filter(|row| !row.peer.starts_with(OURS));
        let by_figure = |one: &&Row, other: &&Row| median(one.of(column)).total_cmp(&median(other.of(column)));
        match self.table.columns[column].better {
            Better::Higher => others.max_by(by_figure),
            Better::Lower => others.min_by(by_figure),
        }
    }
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|error| format!("({program}: {error})"), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Returns the median and the range, as text.
fn spread(measured: Vec<f64>) -> String {
    // The figure of a round in which nothing could be measured is NaN.
    let measured: Vec<f64> = measured.into_iter().filter(|one| !one.is_nan()).collect();
    if measured.is_empty() {
        return "not measured".to_owned();
    }
    let (least, most) = measured.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), one| (least.min(*one), most.max(*one)));
    format!("{} [{}..{}]", rounded(median(measured)), rounded(least), rounded(most))
}

/// Returns the figure with three digits, which is already more than its precision.
fn rounded(figure: f64) -> String {
    match figure.abs() {
        small if small < 10.0 => format!("{figure:.2}"),
        middling if middling < 100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}
