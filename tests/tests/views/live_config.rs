//! Runs the example `live_config` as a user would. `etcdctl put` changes the limit of the running
//! server. Invalid values do not change the limit, and `/health` reports them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::process::Stdio;
use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed_tests::etcdctl;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// The running example.
struct Server {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    address: String,
}

impl Server {
    async fn start(store: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_live_config"));
        command.env("ETCD_URL", store).env("LISTEN", "127.0.0.1:0").stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = timeout(LIMIT, lines.next_line()).await.expect("the example starts").unwrap().expect("it prints its address");
        let address = first.strip_prefix("listening on http://").expect(&first).to_owned();
        Self { _process: process, lines, address }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path).await
    }

    async fn put(&self, path: &str) -> (u16, String) {
        self.request("PUT", path).await
    }

    /// Sends a request and returns the status and the body of the response.
    async fn request(&self, method: &str, path: &str) -> (u16, String) {
        let answer = async {
            let mut connection = TcpStream::connect(&self.address).await.unwrap();
            let request = format!("{method} {path} HTTP/1.0\r\n\r\n");
            connection.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            connection.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = timeout(LIMIT, answer).await.expect("the example responds");
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), text.to_owned())
    }

    async fn health(&self) -> Value {
        let (status, text) = self.get("/health").await;
        assert_eq!(status, 200, "a degraded server is healthy, too: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Waits until `/health` returns a value that `wanted` accepts.
    async fn healthy(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let so = async {
            loop {
                last = self.health().await;
                if wanted(&last) {
                    return last.clone();
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, so).await.unwrap_or_else(|_| panic!("the last health: {last}"))
    }

    /// Waits for the next line of output that starts with `start`.
    async fn says(&mut self, start: &str) -> String {
        let line = async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the example goes on");
                if line.starts_with(start) {
                    return line;
                }
            }
        };
        timeout(LIMIT, line).await.expect("the line is printed")
    }
}

/// A writer that uses `etcdctl`.
struct Etcdctl {
    endpoint: String,
    /// `put` for v3 and `set` for v2.
    verb: &'static str,
}

impl Etcdctl {
    async fn put(&self, key: &str, value: &str) {
        let endpoint = format!("--endpoints=http://{}", self.endpoint);
        let arguments = [&endpoint, self.verb, &format!("/demo/live_config/{key}"), value];
        let mut command = etcdctl();
        if self.verb == "set" {
            command.env("ETCDCTL_API", "2");
        }
        let run = Command::from(command).args(arguments).output();
        let output = timeout(LIMIT, run).await.expect("etcdctl exits").unwrap_or_else(|error| panic!("cannot run etcdctl: {error}"));
        assert!(output.status.success(), "{output:?}");
    }
}

#[tokio::test]
async fn etcdctl_changes_limit_on_v3() {
    let etcd = Etcd::start().await;
    let ctl = Etcdctl { endpoint: etcd.endpoint(), verb: "put" };
    etcdctl_changes_limit(&etcd.url_v3(), &ctl).await;
}

#[tokio::test]
async fn etcdctl_changes_limit_on_v2() {
    let etcd = Etcd::start().await;
    let ctl = Etcdctl { endpoint: etcd.endpoint(), verb: "set" };
    etcdctl_changes_limit(&etcd.url_v2(), &ctl).await;
}

async fn etcdctl_changes_limit(store: &str, ctl: &Etcdctl) {
    let mut server = Server::start(store).await;
    let health = server.health().await;
    assert_eq!((&health["status"], &health["limit"]["rate"]), (&"live".into(), &5.into()), "the defaults");
    assert_eq!(server.get("/").await, (200, "hello\n".to_owned()));

    // With rate 0 and burst 2 the bucket is never refilled, and holds enough for two requests.
    ctl.put("limit/rate", "0").await;
    ctl.put("limit/burst", "2").await;
    server.healthy(|health| health["limit"]["rate"] == 0 && health["limit"]["burst"] == 2).await;
    for _ in 0..2 {
        server.get("/").await;
    }
    assert_eq!(server.get("/").await.0, 429);
    assert_eq!(server.get("/").await.0, 429, "the bucket stays empty");

    ctl.put("limit/rate", "1000000").await;
    ctl.put("greeting", "good day").await;
    server.says("revision").await;
    let health = server.healthy(|health| health["limit"]["rate"] == 1_000_000).await;
    assert_eq!(health["status"], "live");
    let answered = async {
        while server.get("/").await != (200, "good day\n".to_owned()) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, answered).await.expect("the new limit and greeting apply");

    // Write values that do not decode or do not pass their validation.
    for (key, nonsense, mended, at, kind) in [
        ("limit/rate", "lots", "1000", "limit/rate", "undecodable"),
        ("limit/rate", "2000000", "2000", "limit/rate", "rejected"),
        ("limit/burst", "0", "20", "limit", "rejected"),
    ] {
        let before = server.health().await;
        ctl.put(key, nonsense).await;
        let health = server.healthy(|health| health["status"] == "degraded").await;
        assert_eq!(health["limit"], before["limit"], "the last good limit");
        let problem = &health["problems"][0];
        assert_eq!(
            (problem["key"].as_str(), problem["kind"].as_str()),
            (Some(&*format!("/demo/live_config/{at}")), Some(kind)),
            "{health}"
        );
        assert!(health["cause"] == "rejected" && problem["revision"].as_u64() > before["revision"].as_u64(), "{health}");
        assert_eq!(server.get("/").await.0, 200, "the service continues");
        ctl.put(key, mended).await;
        let field = key.trim_start_matches("limit/");
        let health = server.healthy(|health| health["status"] == "live").await;
        assert_eq!(health["limit"][field].to_string(), mended);
    }
}

#[tokio::test]
async fn own_write_applies_before_its_response_in_memory() {
    let server = Server::start("memory:").await;
    assert_eq!(server.put("/limit/rate/50").await.0, 200);
    assert_eq!(server.health().await["limit"]["rate"], 50);
    let (status, text) = server.put("/limit/rate/2000000").await;
    assert_eq!(status, 422);
    assert!(text.contains("/demo/live_config/limit/rate") && text.contains("more than a million"), "{text}");
    let health = server.health().await;
    assert_eq!((&health["status"], &health["limit"]["rate"]), (&"live".into(), &50.into()));
}
