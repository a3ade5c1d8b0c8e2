//! Runs the example `registry` as a user does.

use std::process::Stdio;

use etcd_typed::testing::Etcd;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::*;

#[tokio::test]
async fn registry_example_lists_services_in_memory() {
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

/// A running process of the example.
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

    /// Waits until the example prints a list of exactly these names, and returns the lines before
    /// the list.
    async fn shows(&mut self, names: &[&str]) -> Vec<String> {
        let mut before = Vec::new();
        soon(async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the example goes on");
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

async fn registry_example_runs(address: &str) {
    let mut watching = Terminal::run(&[address]);
    watching.shows(&[]).await;
    let mut anna = Terminal::run(&[address, "anna"]);
    watching.shows(&["anna"]).await;
    let mut bert = Terminal::run(&[address, "bert"]);
    watching.shows(&["anna", "bert"]).await;
    anna.shows(&["anna", "bert"]).await;

    // A killed service disappears when its lease expires, and the other service stays.
    bert.process.start_kill().unwrap();
    let before = watching.shows(&["anna"]).await;
    assert!(!before.iter().any(|line| line == "nobody"), "{before:?}");

    // A restarted service appears again.
    let mut bert = Terminal::run(&[address, "bert"]);
    watching.shows(&["anna", "bert"]).await;
    // A service withdraws itself at the end of its input.
    drop(anna.process.stdin.take());
    watching.shows(&["bert"]).await;
    assert!(soon(anna.process.wait()).await.unwrap().success());
    drop(bert.process.stdin.take());
    watching.shows(&[]).await;
    assert!(soon(bert.process.wait()).await.unwrap().success());
}

#[tokio::test]
async fn registry_example_runs_on_v3() {
    let etcd = Etcd::start().await;
    registry_example_runs(&etcd.url_v3()).await;
}

#[tokio::test]
async fn registry_example_runs_on_v2() {
    let etcd = Etcd::start().await;
    registry_example_runs(&etcd.url_v2()).await;
}
