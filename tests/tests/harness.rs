//! The harness itself: a killed server is gone, a dropped one leaves nothing behind, and the proxy breaks what it says.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use etcd_typed::testing::{Etcd, Mode, Proxy};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// Long enough that nothing which comes at all comes later; only a test that fails waits for it.
const LIMIT: Duration = Duration::from_secs(30);
/// Long enough to see that nothing comes; a busy machine makes it less certain and never wrong.
const SILENCE: Duration = Duration::from_millis(200);

/// One HTTP request on a connection of its own; the body of the answer.
async fn http(endpoint: &str, request: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(endpoint).await?;
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

async fn put(etcd: &Etcd, value: &str) {
    let answer = http(&etcd.endpoint(), "PUT /v2/keys/harness", &format!("value={value}")).await.expect("a put");
    assert!(answer.contains(value), "{answer}");
}

async fn get(etcd: &Etcd) -> String {
    http(&etcd.endpoint(), "GET /v2/keys/harness?quorum=true", "").await.expect("a get")
}

#[tokio::test]
async fn a_server_says_its_version_and_both_addresses() {
    let etcd = Etcd::start().await;
    let answer = http(&etcd.endpoint(), "GET /version", "").await.expect("the version");
    assert!(answer.contains(&format!("\"etcdserver\":\"{}\"", etcd.version())), "{answer}");
    assert_eq!(etcd.url_v3(), format!("etcd://127.0.0.1:{}", etcd.port()));
    assert_eq!(etcd.url_v2(), format!("etcd2://127.0.0.1:{}", etcd.port()));
}

#[tokio::test]
async fn a_killed_server_is_gone_and_comes_back_with_its_data() {
    let mut etcd = Etcd::builder().quick_election().start().await;
    put(&etcd, "before").await;
    etcd.kill().await;
    assert!(!etcd.is_running());
    let refused = TcpStream::connect(etcd.endpoint()).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    etcd.restart().await;
    assert!(get(&etcd).await.contains("before"));
    etcd.terminate().await;
    assert!(!etcd.is_running());
    etcd.restart().await;
    assert!(get(&etcd).await.contains("before"));
}

#[tokio::test]
async fn a_server_has_after_each_kill_what_it_acknowledged() {
    let mut etcd = Etcd::builder().quick_election().start().await;
    for round in 0..10 {
        put(&etcd, &format!("round-{round}")).await;
        etcd.kill().await;
        etcd.restart().await;
        assert!(get(&etcd).await.contains(&format!("round-{round}")));
    }
}

#[tokio::test]
async fn a_wiped_server_comes_back_empty() {
    let mut etcd = Etcd::start().await;
    put(&etcd, "before").await;
    etcd.wipe().await;
    assert!(get(&etcd).await.contains("\"errorCode\":100"));
}

#[tokio::test]
async fn a_paused_server_is_silent_until_it_is_resumed() {
    let etcd = Etcd::start().await;
    put(&etcd, "before").await;
    etcd.pause();
    timeout(SILENCE, get(&etcd)).await.expect_err("a frozen server does not answer");
    etcd.resume();
    assert!(timeout(LIMIT, get(&etcd)).await.expect("an answer").contains("before"));
}

#[tokio::test]
async fn a_dropped_server_is_gone_with_its_data() {
    let etcd = Etcd::start().await;
    let (endpoint, data) = (etcd.endpoint(), etcd.data_dir());
    let home = data.parent().expect("a directory of its own").to_owned();
    assert!(data.exists());
    drop(etcd);
    assert!(!home.exists());
    TcpStream::connect(&endpoint).await.expect_err("nobody listens");
}

/// What ends a server that nobody dropped: the end of its process, here a second run of this binary that is killed.
#[tokio::test]
async fn a_server_ends_with_its_process_however_that_ends() {
    let mut owner = tokio::process::Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "--ignored", "--nocapture", "owner_that_waits_to_be_killed"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("this binary again");
    let mut lines = BufReader::new(owner.stdout.take().expect("its output")).lines();
    let owned = loop {
        let line = timeout(LIMIT, lines.next_line()).await.expect("in time").expect("text").expect("it owns something");
        if let Some((_, owned)) = line.split_once("OWNS ") {
            break owned.to_owned();
        }
    };
    let (endpoint, home) = owned.split_once(' ').expect("an endpoint and a directory");
    TcpStream::connect(endpoint).await.expect("the server runs");
    owner.kill().await.expect("killed");
    timeout(LIMIT, async {
        while TcpStream::connect(endpoint).await.is_ok() || Path::new(home).exists() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the server and its data are gone");
}

#[tokio::test]
#[ignore = "no test of its own: a_server_ends_with_its_process_however_that_ends runs it"]
#[allow(clippy::print_stdout, reason = "it tells its parent what it owns")]
async fn owner_that_waits_to_be_killed() {
    let etcd = Etcd::start().await;
    println!("OWNS {} {}", etcd.endpoint(), etcd.data_dir().parent().expect("a directory").display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_cluster_has_members_that_know_each_other() {
    let mut cluster = Etcd::cluster(3).await;
    put(cluster.member(0), "one").await;
    assert!(get(cluster.member(2)).await.contains("one"));
    let members = http(&cluster.member(1).endpoint(), "GET /v2/members", "").await.expect("the members");
    for member in cluster.members() {
        assert!(members.contains(&member.endpoint()), "{members}");
    }
    cluster.member(0).terminate().await;
    cluster.member(0).restart().await;
    assert!(get(cluster.member(0)).await.contains("one"));
    assert_eq!(cluster.url_v3(), format!("etcd://{}", cluster.endpoints()));
}

/// Listens, and sends back what it gets.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = listener.local_addr().expect("its address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                // That it breaks is what some tests are about.
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
    timeout(LIMIT, both).await.expect("in time").expect("it passes");
    assert!(answer == message);
}

#[tokio::test]
async fn a_proxy_passes_everything_in_order_and_the_end_too() {
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
async fn a_cut_resets_what_is_open_and_nothing_else() {
    let (proxy, mut stream) = proxied().await;
    round_trip(&mut stream, b"before").await;
    proxy.cut();
    let error = timeout(LIMIT, stream.read_u8()).await.expect("in time").expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let mut next = TcpStream::connect(proxy.addr()).await.expect("a new connection");
    round_trip(&mut next, b"after").await;
}

#[tokio::test]
async fn a_cut_after_so_many_bytes_counts_them_once() {
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
async fn a_proxy_that_refuses_keeps_its_port_and_listens_again() {
    let (proxy, mut open) = proxied().await;
    round_trip(&mut open, b"open").await;
    proxy.set(Mode::Refuse).await;
    let refused = TcpStream::connect(proxy.addr()).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    round_trip(&mut open, b"still open").await;
    proxy.set(Mode::Pass).await;
    let mut next = TcpStream::connect(proxy.addr()).await.expect("it listens again");
    round_trip(&mut next, b"again").await;
}

#[tokio::test]
async fn a_stalled_proxy_moves_nothing_and_loses_nothing() {
    for mode in [Mode::Stall, Mode::StallAnswers] {
        let (proxy, mut stream) = proxied().await;
        round_trip(&mut stream, b"before").await;
        proxy.set(mode).await;
        stream.write_all(b"x").await.expect("it is taken");
        timeout(SILENCE, stream.read_u8()).await.expect_err("nothing comes");
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
    let mut request = Box::pin(http(&endpoint, "PUT /v2/keys/harness", "value=arrived"));
    timeout(SILENCE, &mut request).await.expect_err("no answer");
    timeout(LIMIT, async {
        while !get(&etcd).await.contains("arrived") {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the write was applied all the same");
    proxy.set(Mode::Pass).await;
    assert!(timeout(LIMIT, request).await.expect("in time").expect("the answer").contains("arrived"));
}

#[tokio::test]
async fn a_delay_is_on_both_directions() {
    let (proxy, mut stream) = proxied().await;
    round_trip(&mut stream, b"quick").await;
    let delay = Duration::from_millis(50);
    proxy.delay(delay);
    let began = Instant::now();
    round_trip(&mut stream, &[7; 400_000]).await;
    assert!(began.elapsed() >= 2 * delay, "{:?}", began.elapsed());
}
