//! The example `registry`, as a user runs it.

use std::process::Stdio;

use etcd_typed::testing::Etcd;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::*;

#[tokio::test]
async fn in_one_program_services_come_and_go() {
    let output = soon(Command::new(env!("CARGO_BIN_EXE_registry")).output()).await.unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    let lists: Vec<_> = shown.lines().filter(|line| *line == "nobody" || line.contains("(load")).collect();
    assert_eq!(
        lists,
        [
            "nobody",
            "anna at anna.example:8080 (load 3)",
            "anna at anna.example:8080 (load 3), bert at bert.example:8080 (load 1)",
            "anna at anna.example:8080 (load 0), bert at bert.example:8080 (load 1)",
            "anna at anna.example:8080 (load 0), bert at bert.example:8080 (load 1)",
            "anna at anna.example:8080 (load 0)",
            "anna at anna.example:8080 (load 0), carl at carl.example:8080 (load 0)",
            "anna at anna.example:8080 (load 0)",
            "nobody",
        ],
        "{shown}"
    );
}

/// A terminal.
struct Terminal {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Terminal {
    fn run(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_registry"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// Waits until it shows a list of just these, and the lists before it.
    async fn shows(&mut self, names: &[&str]) -> Vec<String> {
        let mut before = Vec::new();
        soon(async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("it goes on");
                let listed: Vec<_> = line.split(", ").filter_map(|one| one.split_once(" at ")).map(|(name, _)| name).collect();
                if listed == names && (line == "nobody" || !names.is_empty()) {
                    return;
                }
                before.push(line);
            }
        })
        .await;
        before
    }
}

async fn terminals_take_part(address: &str) {
    let mut watching = Terminal::run(&[address]);
    watching.shows(&[]).await;
    let mut anna = Terminal::run(&[address, "anna"]);
    watching.shows(&["anna"]).await;
    let mut bert = Terminal::run(&[address, "bert"]);
    watching.shows(&["anna", "bert"]).await;
    anna.shows(&["anna", "bert"]).await;

    // Killed, it vanishes by itself, and the one that is well stays.
    bert.process.start_kill().unwrap();
    let before = watching.shows(&["anna"]).await;
    assert!(!before.iter().any(|line| line == "nobody"), "{before:?}");

    // Started again, it is found.
    let mut bert = Terminal::run(&[address, "bert"]);
    watching.shows(&["anna", "bert"]).await;
    // At the end of its input it leaves.
    drop(anna.process.stdin.take());
    watching.shows(&["bert"]).await;
    assert!(soon(anna.process.wait()).await.unwrap().success());
    drop(bert.process.stdin.take());
    watching.shows(&[]).await;
    assert!(soon(bert.process.wait()).await.unwrap().success());
}

#[tokio::test]
async fn on_a_v3_server_terminals_take_part() {
    let etcd = Etcd::start().await;
    terminals_take_part(&etcd.url_v3()).await;
}

#[tokio::test]
async fn on_a_v2_server_terminals_take_part() {
    let etcd = Etcd::start().await;
    terminals_take_part(&etcd.url_v2()).await;
}
