//! `Bed`: the empty store of one test, and the event that a v2 server recorded for a write.

use std::fmt::Debug;
use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, Entry, ErrorKind, Result, Revision};
use futures_util::{Stream, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// Makes each of these functions a test on each store: `v2::set`, `v3::set`, `memory::set`.
macro_rules! on_every_store {
    ($($name:ident),+ $(,)?) => {
        on_every_store! { @store v2: $($name),+ }
        on_every_store! { @store v3: $($name),+ }
        on_every_store! { @store memory: $($name),+ }
    };
    (@store $store:ident: $($name:ident),+) => {
        mod $store {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name($crate::seeds::bed::Bed::$store().await).await;
                }
            )+
        }
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    V2,
    V3,
    Memory,
}

pub(crate) struct Bed {
    pub(crate) client: Client,
    pub(crate) kind: Kind,
    /// The real server, unless the store is in memory.
    server: Option<Etcd>,
}

impl Bed {
    pub(crate) async fn v2() -> Self {
        let server = Etcd::start().await;
        let client = Client::connect(&server.url_v2()).await.unwrap();
        Self { client, kind: Kind::V2, server: Some(server) }
    }

    pub(crate) async fn v3() -> Self {
        let server = Etcd::start().await;
        let client = Client::connect(&server.url_v3()).await.unwrap();
        Self { client, kind: Kind::V3, server: Some(server) }
    }

    pub(crate) async fn memory() -> Self {
        Self { client: Client::connect("memory:").await.unwrap(), kind: Kind::Memory, server: None }
    }

    /// Returns the client address of the server, `127.0.0.1:PORT`.
    pub(crate) fn endpoint(&self) -> Option<String> {
        self.server.as_ref().map(Etcd::endpoint)
    }

    /// Returns true if the server's version begins with `line`, such as `3.5`.
    pub(crate) fn is_of(&self, line: &str) -> bool {
        self.server.as_ref().is_some_and(|server| server.version().starts_with(line))
    }

    /// Returns an entry whose value is text, like all values in the READMEs.
    pub(crate) fn text(&self, path: &str) -> Entry<String> {
        self.client.entry(path).unwrap()
    }

    /// Returns true if a directory can exist without keys in this store.
    pub(crate) fn has_directories(&self) -> bool {
        self.kind == Kind::V2
    }

    /// Checks on v2 that the server recorded exactly this event for the write of this revision, in
    /// the form that the READMEs show. The other stores keep no such record, so nothing is checked
    /// there.
    ///
    /// The comparison ignores `expiration` and `ttl`, which depend on the clock.
    pub(crate) async fn recorded(&self, revision: Revision, expected: Value) {
        let (Kind::V2, Some(endpoint)) = (self.kind, self.endpoint()) else { return };
        let key = expected["node"]["key"].as_str().expect("an event with a key");
        let path: String = key.bytes().map(|byte| if byte == b'/' { "/".to_owned() } else { format!("%{byte:02x}") }).collect();
        let answer = http(&endpoint, &format!("GET /v2/keys{path}?wait=true&waitIndex={revision}")).await;
        let mut event: Value = serde_json::from_str(&answer).unwrap();
        for node in ["node", "prevNode"] {
            if let Some(fields) = event.get_mut(node).and_then(Value::as_object_mut) {
                fields.retain(|name, _| name != "expiration" && name != "ttl");
            }
        }
        assert_eq!(event, expected);
    }
}

/// Checks that a store refuses a call that it does not support, and that the error says which store
/// refused and what to use instead.
#[track_caller]
pub(crate) fn assert_refused<T: Debug>(result: Result<T>, bed: &Bed, instead: &str) {
    let error = result.expect_err("a refusal");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let text = error.to_string();
    let store = bed.client.store().capabilities().name;
    assert!(text.contains(store) && text.contains(instead), "{text}");
}

/// Sends an HTTP request without a body and returns the body of the answer. With HTTP 1.0, the end
/// of the connection marks the end of the answer.
async fn http(endpoint: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(endpoint).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.0\r\nHost: {endpoint}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{answer}");
    body.to_owned()
}

/// Returns the next change of a stream.
pub(crate) async fn next<T>(changes: &mut (impl Stream<Item = Result<T>> + Unpin)) -> T {
    timeout(LIMIT, changes.next()).await.expect("a change in time").expect("the stream has not ended").expect("a good value")
}
