//! Three public programs have a layer of their own above another etcd client. The layers are
//! rewritten here with this library: a configuration store with history, an election with hooks,
//! and a registry with several levels. In each test `etcdctl` acts as the old version of the
//! program.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod configs;
mod election;
mod registry;

use std::process::Stdio;
use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed_tests::etcdctl;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// The old version of a program: runs `etcdctl`.
struct Old<'a>(&'a Etcd);

impl Old<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::from(etcdctl());
        command.arg(format!("--endpoints={}", self.0.endpoint())).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let output = timeout(LIMIT, self.command(arguments).output()).await.expect("etcdctl ends in time").expect("an etcdctl");
        assert!(output.status.success(), "etcdctl {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

async fn until(mut reached: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !reached().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, wait).await.expect("it is reached in time");
}
