//! The v2 store against servers that are not etcd: proxies, other servers, and answers that break
//! off or never end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::connect::{ConnectOptions, Credentials, Endpoint};
use etcd_typed::store::v2::V2Store;
use etcd_typed::store::{Compare, Condition, Op, Range, Span, Store, Txn, Watch, WatchFrom};
use etcd_typed::{Error, ErrorKind, Key, Revision};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// A server that answers every request with the same bytes and closes the connection. Requests for
/// `/version` may get another answer.
struct Fake {
    port: u16,
    requests: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// The answers of a [`Fake`].
#[derive(Default)]
struct Script {
    answer: Vec<u8>,
    /// The answer to requests of `/version`, if it differs from `answer`.
    version: Option<Vec<u8>>,
    /// Bytes that are sent after `answer`, and how many times they are sent.
    filler: (Vec<u8>, usize),
}

impl Fake {
    async fn start(answer: impl Into<Vec<u8>>) -> Self {
        Self::play(Script { answer: answer.into(), ..Script::default() }).await
    }

    async fn play(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicU64::new(0));
        let seen = requests.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 64 << 10];
                if stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                    seen.fetch_add(1, Ordering::Relaxed);
                    let asks_for_version = request.starts_with(b"GET /version ");
                    let answer = script.version.as_ref().filter(|_| asks_for_version).unwrap_or(&script.answer);
                    // The client may close the connection before the end.
                    let _ = stream.write_all(answer).await;
                    for _ in 0..script.filler.1 {
                        if stream.write_all(&script.filler.0).await.is_err() {
                            break;
                        }
                    }
                    let _ = stream.shutdown().await;
                }
            }
        });
        Self { port, requests, task }
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn options(ports: &[u16]) -> ConnectOptions {
    let endpoint = |port: &u16| Endpoint { host: "127.0.0.1".to_owned(), port: *port };
    let mut options = ConnectOptions::new(ports.iter().map(endpoint).collect());
    options.retry.call_timeout = Duration::from_millis(400);
    options
}

fn store(ports: &[u16]) -> V2Store {
    V2Store::new(options(ports)).unwrap()
}

fn key() -> Key {
    Key::parse("/a").unwrap()
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

const NODE: &str = r#"{"action":"set","node":{"key":"/a","value":"v","modifiedIndex":7,"createdIndex":7}}"#;

async fn read(store: &V2Store) -> Result<Revision, Error> {
    Ok(timeout(LIMIT, store.range(Range::of(Span::Key(key())))).await.expect("an end")?.revision)
}

async fn put(store: &V2Store) -> Result<Revision, Error> {
    let txn = Txn::new(vec![Op::put(&key(), Bytes::from_static(b"v"))]);
    Ok(timeout(LIMIT, store.commit(txn)).await.expect("an end")?.revision)
}

async fn watch(store: &V2Store) -> Error {
    let watch = Watch::new(Span::Below(key()), WatchFrom::Listed(Revision::new(3)));
    match timeout(LIMIT, store.watch(watch)).await.expect("an end") {
        Err(error) => error,
        Ok(mut stream) => timeout(LIMIT, async {
            loop {
                if let Err(error) = stream.next().await.expect("no silent end") {
                    assert!(stream.next().await.is_none());
                    return error;
                }
            }
        })
        .await
        .expect("an end"),
    }
}

/// Checks which errors one answer causes: the kind of error of a read, of a write, and of a watch.
/// For the write, also checks whether the error says that the write may have been applied.
async fn row(answer: &str, on_read: ErrorKind, on_write: (ErrorKind, bool), on_watch: ErrorKind) {
    let fake = Fake::start(answer).await;
    let store = store(&[fake.port]);
    let error = read(&store).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (on_read, false), "{answer:?} {error:?}");
    let before = fake.requests();
    let error = put(&store).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), on_write, "{answer:?} {error:?}");
    assert_eq!(fake.requests(), before + 1, "a write is sent once: {answer:?}");
    assert_eq!(watch(&store).await.kind(), on_watch, "{answer:?}");
}

#[tokio::test]
async fn answer_of_other_server_determines_error_kind() {
    use ErrorKind::{PermissionDenied, Server, TooLarge, Unauthenticated, Unavailable};
    let html = "<html><body>hello</body></html>";
    let index = "X-Etcd-Index: 7\r\n";
    let cut = format!("HTTP/1.1 200 OK\r\n{index}Content-Length: 500\r\n\r\n{{\"action\":");
    let chunks = format!("HTTP/1.1 200 OK\r\n{index}Transfer-Encoding: chunked\r\n\r\nzzz\r\nnonsense");
    row("", Unavailable, (Unavailable, true), Unavailable).await;
    row("SSH-2.0-OpenSSH\r\n", Unavailable, (Unavailable, true), Unavailable).await;
    row(&cut, Unavailable, (Unavailable, true), Unavailable).await;
    row(&chunks, Unavailable, (Unavailable, true), Unavailable).await;
    row(&http("200 OK", index, ""), Server, (Server, true), Unavailable).await;
    row(&http("200 OK", index, html), Server, (Server, true), Unavailable).await;
    row(&http("200 OK", "", NODE), Server, (Server, true), Server).await;
    row(&http("502 Bad Gateway", "", html), Unavailable, (Unavailable, true), Unavailable).await;
    row(&http("500 Internal", "", r#"{"errorCode":300,"message":"x","index":1}"#), Unavailable, (Unavailable, true), Unavailable).await;
    row(&http("429 Slow Down", "", ""), Unavailable, (Unavailable, true), Unavailable).await;
    row(&http("401 Unauthorized", "", html), Unauthenticated, (Unauthenticated, false), Unauthenticated).await;
    row(&http("403 Forbidden", "", html), PermissionDenied, (PermissionDenied, false), PermissionDenied).await;
    row(&http("413 Too Large", "", ""), TooLarge, (TooLarge, false), TooLarge).await;
}

/// A 404 without etcd's index header does not say what is missing, so the store asks for the
/// server's version. The store asks once for each call, and only after such a 404.
#[tokio::test]
async fn not_found_error_describes_server() {
    use ErrorKind::{Server, Unsupported};
    let etcd = |version| http("200 OK", "", &format!(r#"{{"etcdserver":"{version}","etcdcluster":"3.0.0"}}"#));
    let html = "<html>no such page</html>";
    for (version, kind, words) in [
        (etcd("3.6.16"), Unsupported, &["3.6.16", "has no v2 API", "etcd://"][..]),
        (etcd("3.10.0-rc.1"), Unsupported, &["3.10.0-rc.1", "has no v2 API"]),
        (etcd("4.0.0"), Unsupported, &["4.0.0", "has no v2 API"]),
        (etcd("3.5.35"), Unsupported, &["3.5.35", "--enable-v2=true", "etcd://"]),
        (etcd("3.4.23"), Unsupported, &["3.4.23", "--enable-v2=true"]),
        (http("404 Not Found", "", html), Server, &["404", "does not look like an etcd"]),
        (http("200 OK", "", html), Server, &["does not look like an etcd"]),
        (http("200 OK", "", r#"{"version":"3.6.16"}"#), Server, &["does not look like an etcd"]),
        (http("200 OK", "", &format!(r#"{{"etcdserver":"{}"}}"#, "3".repeat(10_000))), Server, &["does not look like an etcd"]),
        (http("503 Busy", "", ""), Server, &["404", "did not say", "503"]),
        (String::new(), Server, &["404", "did not say"]),
    ] {
        let script = Script { answer: http("404 Not Found", "", html).into(), version: Some(version.clone().into()), ..Script::default() };
        let fake = Fake::play(script).await;
        let store = store(&[fake.port]);
        for error in [read(&store).await.unwrap_err(), put(&store).await.unwrap_err(), watch(&store).await] {
            assert_eq!((error.kind(), error.may_have_applied()), (kind, false), "{version} {error:?}");
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)) && text.len() < 400, "{version} {text}");
            assert_eq!(text.contains("--enable-v2"), words.contains(&"--enable-v2=true"), "{version} {text}");
        }
        assert_eq!(fake.requests(), 6, "each call asks once: {version}");
    }
    // A 404 for a missing key has etcd's index header, so the store does not ask for the version.
    let missing = r#"{"errorCode":100,"message":"Key not found","cause":"/a","index":7}"#;
    let fake = Fake::start(http("404 Not Found", "X-Etcd-Index: 7\r\n", missing)).await;
    assert_eq!(read(&store(&[fake.port])).await.unwrap(), Revision::new(7));
    assert_eq!(fake.requests(), 1);
}

/// The server refuses the write with a 404, and then never answers the request for its version. The
/// call fails at its time limit, but the write is known not to have been applied.
#[tokio::test]
async fn refused_write_has_known_outcome() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = silent.accept().await {
            let mut request = vec![0; 64 << 10];
            let length = stream.read(&mut request).await.unwrap_or(0);
            if !request[..length].starts_with(b"GET /version ") {
                let _ = stream.write_all(http("404 Not Found", "", "").as_bytes()).await;
            }
            open.push(stream);
        }
    });
    let error = put(&store(&[port])).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Server, false), "{error:?}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let target = Fake::start(http("200 OK", "X-Etcd-Index: 7\r\n", NODE)).await;
    for status in ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"] {
        let location = format!("Location: http://127.0.0.1:{}/v2/keys/a\r\n", target.port);
        row(&http(status, &location, ""), ErrorKind::Server, (ErrorKind::Server, false), ErrorKind::Server).await;
    }
    assert_eq!(target.requests(), 0);
    assert!(read(&store(&[target.port])).await.is_ok() && target.requests() == 1);
}

#[tokio::test]
async fn reads_skip_endpoints_that_are_not_etcd() {
    let good = Fake::start(http("200 OK", "X-Etcd-Index: 7\r\n", NODE)).await;
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"] {
        let bad = Fake::start(answer).await;
        let store = store(&[bad.port, good.port]);
        assert_eq!(read(&store).await.unwrap(), Revision::new(7));
        assert_eq!(put(&store).await.unwrap(), Revision::new(7));
        assert_eq!(bad.requests(), 1, "the endpoint that answered is kept");
    }
}

#[tokio::test]
async fn endless_answer_fails_with_too_large() {
    let head = "HTTP/1.1 200 OK\r\nX-Etcd-Index: 7\r\nContent-Length: 4000000000\r\n\r\n";
    let fake = Fake::play(Script { answer: head.into(), filler: (vec![b' '; 1 << 20], 4000), ..Script::default() }).await;
    let mut options = options(&[fake.port]);
    options.retry.call_timeout = LIMIT;
    options.retry.read_attempt_timeout = LIMIT;
    let error = read(&V2Store::new(options).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn errors_contain_no_value_or_password() {
    let fake = Fake::start("").await;
    let mut options = options(&[fake.port, 1]);
    options.credentials = Some(Credentials { user: "me".to_owned(), password: "open sesame".to_owned() });
    let store = V2Store::new(options).unwrap();
    let value = Bytes::from_static(b"top-secret");
    let txn = Txn::new(vec![Op::delete(&key())]).compares(vec![Compare::key(&key(), Condition::Value(value))]).otherwise(Vec::new());
    let error = store.commit(txn).await.unwrap_err();
    let mut shown = format!("{error} {error:?} {store:?}");
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        shown += &format!(" {error} {error:?}");
        cause = error.source();
    }
    assert!(!shown.contains("secret") && !shown.contains("sesame") && !shown.contains("b3BlbiBzZXNhbWU"), "{shown}");
}
