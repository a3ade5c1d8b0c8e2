//! `etcdctl elect` and its listening mode use the same queue as this library. These tests run on v3
//! only, because `etcdctl` has no elections on v2.
//!
//! The environment variable `ETCDCTL_BIN` is the path of the tool. If the variable is not set, the
//! tests run `etcdctl` from the `PATH`, and fail if it does not exist.

use std::process::Stdio;

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, Json};
use etcd_typed_tests::etcdctl;
use futures_util::FutureExt;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::*;

/// A running `etcdctl elect`.
struct Elect {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Elect {
    async fn start(arguments: &[&str]) -> Self {
        Self::at(etcd_typed_tests::shared("election").await, arguments).await
    }

    async fn at(etcd: &Etcd, arguments: &[&str]) -> Self {
        let mut command = Command::from(etcdctl());
        command.arg(format!("--endpoints={}", etcd.endpoint())).arg("elect").args(arguments);
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut process =
            command.spawn().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}; it is etcd's command-line client"));
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// Returns the key and the value of the next leader, which `etcdctl` prints on two lines.
    async fn shows(&mut self) -> (String, String) {
        let pair = async { (self.line().await, self.line().await) };
        timeout(LIMIT, pair).await.expect("etcdctl prints the leader in time")
    }

    async fn line(&mut self) -> String {
        self.lines.next_line().await.unwrap().expect("etcdctl has not ended")
    }

    fn is_silent(&mut self) -> bool {
        self.lines.next_line().now_or_never().is_none()
    }

    /// Interrupts the process as Ctrl-C does. The process then resigns and ends.
    async fn interrupt(mut self) {
        let id = self.process.id().expect("etcdctl runs");
        let sent = Command::new("sh").arg("-c").arg(format!("kill -INT {id}")).status().await.unwrap();
        assert!(sent.success());
        timeout(LIMIT, self.process.wait()).await.expect("etcdctl ends in time").unwrap();
    }
}

async fn election(name: &str) -> Election<String> {
    Client::connect(&etcd_typed_tests::shared("election").await.url_v3()).await.unwrap().election(name)
}

#[tokio::test]
async fn client_leads_after_etcdctl_resigns() {
    let name = "/etcdctl/theirs";
    let election = election(name).await;
    let mut changes = election.observe().await.unwrap();
    assert_eq!(told(&mut changes).await, None);
    let mut theirs = Elect::start(&[name, "their value"]).await;
    let (key, value) = theirs.shows().await;
    assert_eq!(value, "their value");
    let seen = next(&mut changes).await.unwrap().unwrap();
    assert_eq!((seen.value.as_str(), seen.key.as_str()), ("their value", key.as_str()));
    assert!(key.ends_with(&format!("/{:x}", seen.lease.get())));
    assert_eq!(election.leader().await.unwrap().as_ref(), Some(&seen));

    assert!(election.try_campaign(&text("try")).await.unwrap().is_none());
    let waiting = stand(&election, "ours").await;
    assert!(!waiting.is_finished());
    theirs.interrupt().await;
    let ours = led(waiting).await;
    assert_eq!(told(&mut changes).await, Some((text("ours"), ours.fence())));
    assert!(ours.fence() > seen.fence);
    ours.resign().await.unwrap();
}

#[tokio::test]
async fn etcdctl_leads_after_client_resigns() {
    let name = "/etcdctl/ours";
    let election = election(name).await;
    let ours = campaign(&election, "ours").await;
    let mut theirs = Elect::start(&[name, "theirs"]).await;
    eventually(async || values(&election).await == ["ours", "theirs"]).await;
    // Another candidate of this library waits behind `etcdctl`.
    let last = stand(&election, "last").await;
    let mut changes = election.observe().await.unwrap();
    assert_eq!(told(&mut changes).await, Some((text("ours"), ours.fence())));
    assert!(theirs.is_silent());
    ours.verify().await.unwrap();
    ours.resign().await.unwrap();

    let (key, value) = theirs.shows().await;
    let seen = next(&mut changes).await.unwrap().unwrap();
    assert_eq!((seen.value.as_str(), seen.key.as_str(), value.as_str()), ("theirs", key.as_str(), "theirs"));
    assert!(!last.is_finished());
    theirs.interrupt().await;
    let last = led(last).await;
    assert_eq!(told(&mut changes).await, Some((text("last"), last.fence())));
}

#[tokio::test]
async fn etcdctl_listener_shows_values_unchanged() {
    let name = "/etcdctl/listens";
    let election = Client::connect(&etcd_typed_tests::shared("election").await.url_v3()).await.unwrap().election::<Json<Vec<String>>>(name);
    let value = |n: u32| Json(vec![text("ü \"x\""), n.to_string()]);
    let leader = election.campaign(&value(0)).await.unwrap();
    let mut listener = Elect::start(&["--listen", name]).await;
    let key = leader.key().to_string();
    assert_eq!(listener.shows().await, (key.clone(), text(r#"["ü \"x\"","0"]"#)));
    for n in 1..4 {
        leader.proclaim(&value(n)).await.unwrap();
        assert_eq!(listener.shows().await, (key.clone(), format!(r#"["ü \"x\"","{n}"]"#)));
    }
    leader.resign().await.unwrap();
    let next = election.campaign(&value(9)).await.unwrap();
    assert_eq!(listener.shows().await, (next.key().to_string(), text(r#"["ü \"x\"","9"]"#)));
    next.resign().await.unwrap();
}

/// With each of these names, both clients take part in the same election, whichever campaigns
/// first.
#[tokio::test]
async fn etcdctl_shares_elections_of_any_name() {
    let etcd = Etcd::start().await;
    shares_elections(&etcd, &["/a", "/a/", "/a//", "a", "a/b", "/", "dlock:x", " a b ", "größe/ü"].map(|name| ("", name))).await;
}

/// The prefix of the queue is the namespace followed by the name, byte for byte.
#[tokio::test]
async fn etcdctl_shares_elections_of_any_namespace() {
    let etcd = Etcd::start().await;
    let names = ["v1", "dynamo:/", "prod.", "/prod", "a//b"].map(|namespace| (namespace, "/x"));
    shares_elections(&etcd, &[&names[..], &[("", "__metasrv_election"), ("__metasrv", "_election")]].concat()).await;
}

async fn shares_elections(etcd: &Etcd, names: &[(&str, &str)]) {
    for (namespace, own) in names {
        let client = Client::builder(&etcd.url_v3()).namespace(*namespace).connect().await.unwrap();
        let election = client.election::<String>(own);
        let name = &format!("{namespace}{own}");
        let mut changes = election.observe().await.unwrap();
        assert_eq!(told(&mut changes).await, None);
        let mut theirs = Elect::at(etcd, &[name, "theirs"]).await;
        let (key, value) = theirs.shows().await;
        assert!(key.starts_with(&format!("{name}/")), "{name:?}: {key}");
        let seen = next(&mut changes).await.unwrap().unwrap();
        assert_eq!((seen.value.as_str(), seen.key.as_str()), (value.as_str(), key.as_str()));
        assert!(election.try_campaign(&text("try")).await.unwrap().is_none(), "{name:?}: two candidates lead");
        let waiting = stand(&election, "ours").await;
        theirs.interrupt().await;
        let ours = led(waiting).await;
        assert_eq!(told(&mut changes).await, Some((text("ours"), ours.fence())));
        let mut theirs = Elect::at(etcd, &[name, "theirs"]).await;
        eventually(async || values(&election).await == ["ours", "theirs"]).await;
        assert!(timeout(Duration::from_millis(100), theirs.lines.next_line()).await.is_err(), "{name:?}: two candidates lead");
        ours.resign().await.unwrap();
        assert_eq!(theirs.shows().await.1, "theirs");
        theirs.interrupt().await;
        eventually(async || values(&election).await.is_empty()).await;
    }
}
