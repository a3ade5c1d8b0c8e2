//! Tests of the test harness: a killed server stops, a dropped server leaves no process or files
//! behind, and the proxy does what its modes say.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::ErrorKind;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use etcd_typed::testing::{Etcd, Mode, Proxy};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a test waits to see that nothing arrives. On a busy machine the check is weaker, but
/// never wrong.
const SILENCE: Duration = Duration::from_millis(200);

/// Sends one HTTP request on a new connection and returns the body of the answer.
async fn http(endpoint: &str, request: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(endpoint).await?;
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

const KEY: &str = "a2V5";

/// Returns the body of a put for the JSON form of the v3 API, which every etcd version has. That
/// form encodes keys and values in Base64. A value of four letters or digits is valid Base64, so
/// the answers contain the same four characters.
fn put_request(value: &str) -> String {
    format!(r#"{{"key": "{KEY}", "value": "{value}"}}"#)
}

async fn put(etcd: &Etcd, value: &str) {
    let answer = etcd.call("/v3/kv/put", &put_request(value)).await;
    assert!(answer.contains("revision"), "{answer}");
}

/// Reads the key linearizably and returns the answer.
async fn get(etcd: &Etcd) -> String {
    let answer = etcd.call("/v3/kv/range", &format!(r#"{{"key": "{KEY}"}}"#)).await;
    assert!(answer.contains("revision"), "{answer}");
    answer
}

#[tokio::test]
async fn server_reports_version_and_addresses() {
    let etcd = Etcd::shared().await;
    let answer = http(&etcd.endpoint(), "GET /version", "").await.expect("the version");
    assert!(answer.contains(&format!("\"etcdserver\":\"{}\"", etcd.version())), "{answer}");
    assert_eq!(etcd.url_v3(), format!("etcd://127.0.0.1:{}", etcd.port()));
    // A direct request: only a server with the v2 API knows this path.
    let keys = http(&etcd.endpoint(), "GET /v2/keys/", "").await.expect("an answer");
    assert_eq!(etcd.has_v2(), keys.contains("\"action\":\"get\""), "{keys}");
    let address = std::panic::catch_unwind(|| etcd.url_v2());
    assert_eq!(address.ok(), etcd.has_v2().then(|| format!("etcd2://127.0.0.1:{}", etcd.port())));
}

#[tokio::test]
async fn builder_can_disable_v2() {
    let etcd = Etcd::builder().v2(false).start().await;
    assert!(!etcd.has_v2());
    let keys = http(&etcd.endpoint(), "GET /v2/keys/", "").await.expect("an answer");
    assert!(keys.contains("404"), "{keys}");
}

#[tokio::test]
async fn every_server_version_accepts_experimental_flag() {
    let etcd = Etcd::builder().flag("--experimental-watch-progress-notify-interval", "1s").start().await;
    put(&etcd, "seen").await;
}

#[tokio::test]
async fn panic_message_includes_refused_flag() {
    let refused = tokio::spawn(Etcd::builder().flag("--no-such-flag", "1").start()).await;
    let panic = refused.expect_err("the server does not start").into_panic();
    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(message.contains("no-such-flag"), "{message}");
}

#[tokio::test]
async fn upgraded_server_keeps_data_and_address() {
    let mut etcd = Etcd::start().await;
    put(&etcd, "kept").await;
    let endpoint = etcd.endpoint();
    // This test upgrades to the same program. `mixed_cluster.rs` upgrades to the next minor
    // version.
    let program = etcd.binary().to_owned();
    etcd.upgrade(program).await;
    assert_eq!(etcd.endpoint(), endpoint);
    assert!(get(&etcd).await.contains("kept"));
    assert!(etcd.log().contains("ready to serve client requests"));
}

/// The shortest lease that a server grants lasts one and a half election timeouts, in whole
/// seconds. So the granted time shows the election timeout.
#[tokio::test]
async fn only_standalone_servers_default_to_quick_elections() {
    let lease = async |etcd: &Etcd| etcd.call("/v3/lease/grant", r#"{"TTL": 1}"#).await;
    let quick = Etcd::start().await;
    assert!(lease(&quick).await.contains(r#""TTL":"1""#));
    let flagged = Etcd::builder().flag("--election-timeout", "1000").start().await;
    assert!(lease(&flagged).await.contains(r#""TTL":"2""#));
    let flagged = Etcd::builder().flag("--heartbeat-interval", "100").start().await;
    assert!(lease(&flagged).await.contains(r#""TTL":"2""#));
    let mut cluster = Etcd::cluster(1).await;
    assert!(lease(cluster.member(0)).await.contains(r#""TTL":"2""#));
    let mut cluster = Etcd::builder().quick_election().cluster(1).await;
    assert!(lease(cluster.member(0)).await.contains(r#""TTL":"1""#));
}

#[tokio::test]
async fn killed_server_restarts_with_its_data() {
    let mut etcd = Etcd::start().await;
    put(&etcd, "kept").await;
    etcd.kill().await;
    assert!(!etcd.is_running());
    let refused = TcpStream::connect(etcd.endpoint()).await.expect_err("no server listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    etcd.restart().await;
    assert!(get(&etcd).await.contains("kept"));
    etcd.terminate().await;
    assert!(!etcd.is_running());
    etcd.restart().await;
    assert!(get(&etcd).await.contains("kept"));
}

#[tokio::test]
async fn acknowledged_writes_survive_kills() {
    let mut etcd = Etcd::start().await;
    for round in 0..10 {
        let value = format!("{round:04}");
        put(&etcd, &value).await;
        etcd.kill().await;
        etcd.restart().await;
        assert!(get(&etcd).await.contains(&format!("\"{value}\"")));
    }
}

#[tokio::test]
async fn wiped_server_is_empty() {
    let mut etcd = Etcd::start().await;
    put(&etcd, "kept").await;
    etcd.wipe().await;
    assert!(!get(&etcd).await.contains("kvs"));
}

#[tokio::test]
async fn paused_server_is_silent_until_resumed() {
    let etcd = Etcd::start().await;
    put(&etcd, "kept").await;
    etcd.pause();
    timeout(SILENCE, get(&etcd)).await.expect_err("a frozen server does not answer");
    etcd.resume();
    assert!(timeout(LIMIT, get(&etcd)).await.expect("an answer").contains("kept"));
}

#[tokio::test]
async fn dropped_server_removes_its_data() {
    let etcd = Etcd::start().await;
    let (endpoint, data) = (etcd.endpoint(), etcd.data_dir());
    let home = data.parent().expect("a directory of its own").to_owned();
    assert!(data.exists());
    drop(etcd);
    assert!(!home.exists());
    TcpStream::connect(&endpoint).await.expect_err("no server listens");
}

/// A second process of this test binary. It has its own process group, starts a server, and waits
/// to be killed.
struct Owner {
    process: tokio::process::Child,
    endpoint: String,
    home: PathBuf,
}

impl Owner {
    async fn start(variables: &[(&str, &str)]) -> Self {
        let mut process = tokio::process::Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "--ignored", "--nocapture", "harness::owner_process_runs_server_until_killed"])
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .expect("this binary again");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let owned = loop {
            let line = timeout(LIMIT, lines.next_line()).await.expect("in time").expect("text").expect("the owner has started its server");
            if let Some((_, owned)) = line.split_once("OWNS ") {
                break owned.to_owned();
            }
        };
        let (endpoint, home) = owned.split_once(' ').expect("an endpoint and a directory");
        TcpStream::connect(endpoint).await.expect("the server runs");
        Self { process, endpoint: endpoint.to_owned(), home: home.into() }
    }

    async fn kill(&mut self) {
        self.process.kill().await.expect("killed");
    }

    async fn until_nothing_is_left(&self) {
        timeout(LIMIT, async {
            while TcpStream::connect(&self.endpoint).await.is_ok() || self.home.exists() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the server and its data are gone");
    }

    /// Returns the processes whose arguments contain the server's folder: the server and its
    /// watchdog.
    fn helpers(&self) -> Vec<u32> {
        let home = self.home.to_str().expect("text").as_bytes();
        let names_home = |process: &u32| {
            let arguments = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            arguments.windows(home.len()).any(|part| part == home)
        };
        let processes = std::fs::read_dir("/proc").expect("Linux");
        processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(names_home).collect()
    }
}

fn kill(process: impl std::fmt::Display) {
    let killed = std::process::Command::new("sh").arg("-c").arg(format!("kill -KILL {process}")).status();
    assert!(killed.expect("a shell").success());
}

#[tokio::test]
async fn server_ends_with_process_that_started_it() {
    let mut owner = Owner::start(&[]).await;
    owner.kill().await;
    owner.until_nothing_is_left().await;
}

#[tokio::test]
async fn killed_process_group_leaves_no_server() {
    let mut owner = Owner::start(&[]).await;
    kill(format_args!("-{}", owner.process.id().expect("the owner runs")));
    owner.process.wait().await.expect("the owner ends");
    owner.until_nothing_is_left().await;
}

/// A container that ends leaves an abandoned folder if its volume is kept.
#[tokio::test]
async fn next_start_removes_only_abandoned_folders() {
    let mut dead = Owner::start(&[]).await;
    let live = Owner::start(&[]).await;
    let helpers = dead.helpers();
    assert_eq!(helpers.len(), 2, "the server and its watchdog");
    helpers.into_iter().for_each(kill);
    dead.kill().await;
    assert!(dead.home.exists(), "no process has removed the folder");
    let etcd = Etcd::start().await;
    assert!(!dead.home.exists());
    assert!(live.home.join("data").exists() && etcd.data_dir().exists());
    http(&live.endpoint, "GET /version", "").await.expect("the other server runs");
}

#[tokio::test]
async fn server_with_quiet_log_starts() {
    for level in ["warn", "error", "panic"] {
        let mut etcd = Etcd::builder().flag("--log-level", level).start().await;
        put(&etcd, "kept").await;
        etcd.terminate().await;
        etcd.restart().await;
        assert!(get(&etcd).await.contains("kept"), "{level}");
    }
}

/// The process that starts the server has these variables in its environment. If the server got
/// them, it would not start, for example because of `ETCD_NAME`.
#[tokio::test]
async fn host_variables_do_not_reach_server() {
    let variables = [("ETCD_LOG_LEVEL", "error"), ("ETCD_NAME", "other"), ("ETCD_MAX_TXN_OPS", "1"), ("ETCD_AUTH_TOKEN", "nonsense")];
    let owner = Owner::start(&variables).await;
    let put = |key: &str| format!(r#"{{"requestPut": {{"key": "{key}", "value": "{KEY}"}}}}"#);
    let two = format!(r#"{{"success": [{}, {}]}}"#, put("YQ=="), put("Yg=="));
    let answer = http(&owner.endpoint, "POST /v3/kv/txn", &two).await.expect("an answer");
    assert!(answer.contains("succeeded"), "{answer}");
}

#[tokio::test]
#[ignore = "not a test itself: an `Owner` runs it"]
#[allow(clippy::print_stdout, reason = "it tells its parent about its server")]
async fn owner_process_runs_server_until_killed() {
    let etcd = Etcd::start().await;
    println!("OWNS {} {}", etcd.endpoint(), etcd.data_dir().parent().expect("a directory").display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn cluster_members_know_each_other() {
    let mut cluster = Etcd::cluster(3).await;
    put(cluster.member(0), "once").await;
    assert!(get(cluster.member(2)).await.contains("once"));
    let members = cluster.member(1).call("/v3/cluster/member/list", "{}").await;
    for member in cluster.members() {
        assert!(members.contains(&member.endpoint()), "{members}");
    }
    cluster.member(0).terminate().await;
    cluster.member(0).restart().await;
    assert!(get(cluster.member(0)).await.contains("once"));
    assert_eq!(cluster.url_v3(), format!("etcd://{}", cluster.endpoints()));
}

/// Starts a listener that sends back what it receives, and returns its address.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = listener.local_addr().expect("its address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                // In some tests the connection breaks on purpose.
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    endpoint
}

async fn proxied() -> (Proxy, TcpStream) {
    let proxy = Proxy::to(echo().await).await;
    let stream = TcpStream::connect(proxy.addr()).await.expect("a connection");
    (proxy, stream)
}

async fn round_trip(stream: &mut TcpStream, message: &[u8]) {
    let (mut read, mut write) = stream.split();
    let mut answer = vec![0; message.len()];
    let both = async { tokio::try_join!(write.write_all(message), read.read_exact(&mut answer)) };
    timeout(LIMIT, both).await.expect("in time").expect("the message passes");
    assert!(answer == message);
}

#[tokio::test]
async fn proxy_passes_data_and_end_of_stream() {
    let (proxy, mut stream) = proxied().await;
    let message: Vec<u8> = (0..250_000_u32).flat_map(u32::to_le_bytes).collect();
    round_trip(&mut stream, &message).await;
    stream.shutdown().await.expect("no more from here");
    let mut rest = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("in time").expect("an orderly end");
    assert!(rest.is_empty());
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn cut_resets_only_open_connections() {
    let (proxy, mut stream) = proxied().await;
    round_trip(&mut stream, b"before").await;
    proxy.cut();
    let error = timeout(LIMIT, stream.read_u8()).await.expect("in time").expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let mut next = TcpStream::connect(proxy.addr()).await.expect("a new connection");
    round_trip(&mut next, b"after").await;
}

#[tokio::test]
async fn cut_after_bytes_happens_once() {
    let (proxy, mut stream) = proxied().await;
    proxy.cut_after(12);
    round_trip(&mut stream, b"0123456789").await;
    stream.write_all(b"0123456789").await.expect("sent");
    let mut answer = Vec::new();
    let error = timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("in time").expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(b"01".starts_with(&answer), "at most two of the second ten, a reset may swallow them: {answer:?}");
    let mut next = TcpStream::connect(proxy.addr()).await.expect("a new connection");
    round_trip(&mut next, b"0123456789").await;
}

#[tokio::test]
async fn refusing_proxy_keeps_its_port() {
    let (proxy, mut open) = proxied().await;
    round_trip(&mut open, b"open").await;
    proxy.set(Mode::Refuse).await;
    let refused = TcpStream::connect(proxy.addr()).await.expect_err("the proxy refuses");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    round_trip(&mut open, b"still open").await;
    proxy.set(Mode::Pass).await;
    let mut next = TcpStream::connect(proxy.addr()).await.expect("the proxy listens again");
    round_trip(&mut next, b"again").await;
}

#[tokio::test]
async fn stalled_proxy_loses_nothing() {
    for mode in [Mode::Stall, Mode::StallAnswers, Mode::StallRequests] {
        let (proxy, mut stream) = proxied().await;
        round_trip(&mut stream, b"before").await;
        proxy.set(mode).await;
        stream.write_all(b"x").await.expect("the byte is sent");
        timeout(SILENCE, stream.read_u8()).await.expect_err("no byte arrives");
        proxy.set(Mode::Pass).await;
        assert_eq!(timeout(LIMIT, stream.read_u8()).await.expect("in time").expect("a byte"), b'x');
    }
}

#[tokio::test]
async fn requests_arrive_while_answers_are_stalled() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    proxy.set(Mode::StallAnswers).await;
    let endpoint = proxy.endpoint();
    let body = put_request("sent");
    let mut request = Box::pin(http(&endpoint, "POST /v3/kv/put", &body));
    timeout(SILENCE, &mut request).await.expect_err("no answer");
    timeout(LIMIT, async {
        while !get(&etcd).await.contains("sent") {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the write is applied in time");
    proxy.set(Mode::Pass).await;
    assert!(timeout(LIMIT, request).await.expect("in time").expect("the answer").contains("revision"));
}

#[tokio::test]
async fn delay_applies_to_both_directions() {
    let (proxy, mut stream) = proxied().await;
    round_trip(&mut stream, b"quick").await;
    let delay = Duration::from_millis(50);
    proxy.delay(delay);
    let began = Instant::now();
    round_trip(&mut stream, &[7; 400_000]).await;
    assert!(began.elapsed() >= 2 * delay, "{:?}", began.elapsed());
}

/// Starts a listener that sends a greeting on each connection. When the other side stops sending,
/// the listener reports all bytes that it received.
async fn listener_that_sends(greeting: &'static [u8]) -> (String, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = listener.local_addr().expect("its address").to_string();
    let (sender, heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(greeting).await.expect("sent");
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut got = Vec::new();
                stream.read_to_end(&mut got).await.expect("an orderly end");
                // The test may have dropped the receiver.
                let _ = sender.send(got);
            });
        }
    });
    (endpoint, heard)
}

#[tokio::test]
async fn answers_arrive_while_requests_are_stalled() {
    let (endpoint, mut heard) = listener_that_sends(b"hello").await;
    let proxy = Proxy::to(endpoint).await;
    proxy.set(Mode::StallRequests).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.expect("a connection");
    stream.write_all(b"request").await.expect("the request is sent");
    stream.shutdown().await.expect("the end of the request");
    let mut answer = [0; 5];
    timeout(LIMIT, stream.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    timeout(SILENCE, heard.recv()).await.expect_err("no request");
    proxy.set(Mode::Pass).await;
    assert_eq!(timeout(LIMIT, heard.recv()).await.expect("in time").expect("a request"), b"request");
}

#[tokio::test]
async fn half_close_ends_one_direction_of_open_connections() {
    let (endpoint, mut heard) = listener_that_sends(b"hello").await;
    let proxy = Proxy::to(endpoint).await;
    let greeted = async || {
        let mut stream = TcpStream::connect(proxy.addr()).await.expect("a connection");
        timeout(LIMIT, stream.read_exact(&mut [0; 5])).await.expect("in time").expect("an answer");
        stream
    };
    let mut stream = greeted().await;
    proxy.end_answers();
    let ended = timeout(LIMIT, stream.read(&mut [0])).await.expect("in time").expect("an orderly end");
    assert_eq!(ended, 0);
    stream.write_all(b"still").await.expect("sent");
    stream.shutdown().await.expect("the end of the request");
    assert_eq!(timeout(LIMIT, heard.recv()).await.expect("in time").expect("a request"), b"still");

    let mut stream = greeted().await;
    stream.write_all(b"before").await.expect("sent");
    sleep(SILENCE).await;
    proxy.end_requests();
    assert_eq!(timeout(LIMIT, heard.recv()).await.expect("in time").expect("the end"), b"before");
    greeted().await;
}

#[tokio::test]
async fn limited_proxy_passes_bytes_at_its_rate() {
    let (proxy, mut stream) = proxied().await;
    round_trip(&mut stream, &[7; 400_000]).await;
    proxy.limit(NonZeroU32::new(200_000));
    let began = Instant::now();
    round_trip(&mut stream, &[7; 100_000]).await;
    // The proxy writes the last bytes of each direction before it pauses for them, so the least
    // time is shorter than bytes divided by rate.
    let least = Duration::from_millis(400);
    assert!(began.elapsed() >= least, "{:?}", began.elapsed());
    proxy.limit(None);
    round_trip(&mut stream, b"quick").await;
}

#[tokio::test]
async fn held_connection_does_not_block_others() {
    let (proxy, mut first) = proxied().await;
    round_trip(&mut first, b"first").await;
    let mut second = TcpStream::connect(proxy.addr()).await.expect("a connection");
    round_trip(&mut second, b"second").await;
    proxy.hold(Some(0));
    first.write_all(b"x").await.expect("the byte is sent");
    timeout(SILENCE, first.read_u8()).await.expect_err("no byte arrives");
    round_trip(&mut second, b"second").await;
    proxy.hold(Some(1));
    assert_eq!(timeout(LIMIT, first.read_u8()).await.expect("in time").expect("a byte"), b'x');
    proxy.hold(None);
    round_trip(&mut second, b"second").await;
}
