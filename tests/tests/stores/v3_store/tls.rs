//! Fault F20: TLS, and the errors when the two sides do not trust each other.

use etcd_typed::store::connect::{ConnectOptions, Tls};
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Range, Span, Store, Watch, WatchFrom};
use etcd_typed::testing::{Etcd, Mode, Proxy, TlsFiles};
use etcd_typed::{Client, Entry, EntryChanges, ErrorKind, Key, LeaderChanges, LeaseId, Live, Lock, LostReason, Result};
use etcd_typed_tests::certificates::{Authority, Files, Identity};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::{PATIENCE, key, options, put};

/// Starts a server with this certificate. If `clients` is set, the server requires client
/// certificates signed by that authority.
async fn server(files: &Files, (certificate, key): &Identity, clients: Option<&Authority>) -> Etcd {
    let client_ca = clients.map(|authority| files.put("client-ca", &authority.pem()));
    let files = TlsFiles { cert: files.put("cert", certificate), key: files.put("key", key), client_ca };
    Etcd::builder().tls(files).start().await
}

fn trusting(authority: &Authority) -> Tls {
    let mut tls = Tls::default();
    tls.ca = Some(authority.pem());
    tls
}

fn store(etcd: &Etcd, tls: Option<Tls>) -> Result<V3Store> {
    let mut options = options([etcd.endpoint().as_str()]);
    options.tls = tls;
    V3Store::new(&options)
}

/// Checks that a read, a write, a watch and a lease fail with the same kind of error, and returns
/// that kind. Also checks that the write was not sent.
async fn refusal(store: &V3Store) -> ErrorKind {
    let error = store.commit(put(&key("/a"), "1")).await.unwrap_err();
    assert!(!error.may_have_applied(), "{error}");
    let read = store.range(Range::of(Span::Below(Key::root()))).await.unwrap_err();
    let watch = store.watch(Watch::new(Span::Below(Key::root()), WatchFrom::Listed(1.into()))).await.err().unwrap();
    let lease = store.grant(LeaseId::random(), Duration::from_secs(5)).await.unwrap_err();
    assert_eq!([read.kind(), watch.kind(), lease.kind()], [error.kind(); 3], "{error} {read} {watch} {lease}");
    error.kind()
}

async fn works(store: &V3Store) {
    let revision = store.commit(put(&key("/a"), "1")).await.unwrap().revision;
    assert!(store.watch(Watch::new(Span::Below(Key::root()), WatchFrom::Listed(revision))).await.is_ok());
    store.grant(LeaseId::random(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(store.range(Range::of(Span::Below(Key::root()))).await.unwrap().kvs.len(), 1);
}

#[tokio::test]
async fn server_certificate_needs_trusted_authority_and_name() {
    let (files, authority) = (Files::new(), Authority::new());
    let etcd = server(&files, &authority.sign(&["127.0.0.1", "etcd.test"]), None).await;
    works(&store(&etcd, Some(trusting(&authority))).unwrap()).await;
    let named = |name: &str| {
        let mut tls = trusting(&authority);
        tls.server_name = Some(name.to_owned());
        store(&etcd, Some(tls)).unwrap()
    };
    works(&named("etcd.test")).await;
    assert_eq!(refusal(&named("other.test")).await, ErrorKind::Tls);
    assert_eq!(refusal(&store(&etcd, Some(trusting(&Authority::new()))).unwrap()).await, ErrorKind::Tls);
}

#[tokio::test]
async fn expired_certificate_is_not_trusted() {
    let (files, authority) = (Files::new(), Authority::new());
    let etcd = server(&files, &authority.sign_expired(&["127.0.0.1"]), None).await;
    assert_eq!(refusal(&store(&etcd, Some(trusting(&authority))).unwrap()).await, ErrorKind::Tls);
}

#[tokio::test]
async fn client_certificate_is_sent() {
    let (files, authority, clients) = (Files::new(), Authority::new(), Authority::new());
    let etcd = server(&files, &authority.sign(&["127.0.0.1"]), Some(&clients)).await;
    let with = |identity| {
        let mut tls = trusting(&authority);
        tls.identity = identity;
        let mut options = options([etcd.endpoint().as_str()]);
        options.tls = Some(tls);
        // The server's TLS alert arrives when the connection ends. On a busy machine, the
        // connection may end before the request is sent, and then the client opens another
        // connection.
        options.retry.call_timeout = PATIENCE;
        options.retry.read_attempt_timeout = PATIENCE;
        V3Store::new(&options).unwrap()
    };
    works(&with(Some(clients.sign(&["client"])))).await;
    for refused in [None, Some(Authority::new().sign(&["client"]))] {
        // The server refuses the client only after the handshake, when the client could already
        // have sent the write. The client first sends a harmless request, so it does not send the
        // write.
        let store = with(refused);
        let error = store.commit(put(&key("/a"), "1")).await.unwrap_err();
        assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Tls, false), "{error}");
        assert_eq!(store.range(Range::of(Span::Key(key("/a")))).await.unwrap_err().kind(), ErrorKind::Tls);
    }
}

#[tokio::test]
async fn tls_on_one_side_fails_with_tls_error() {
    let (files, authority) = (Files::new(), Authority::new());
    let plain = Etcd::start().await;
    assert_eq!(refusal(&store(&plain, Some(trusting(&authority))).unwrap()).await, ErrorKind::Tls);
    let etcd = server(&files, &authority.sign(&["127.0.0.1"]), None).await;
    // The server closes the connection as a failing server would, so the store probes which
    // protocol the server speaks.
    let mut options = options([etcd.endpoint().as_str()]);
    options.retry.call_timeout = Duration::from_millis(500);
    let error = V3Store::new(&options).unwrap().range(Range::of(Span::Key(key("/a")))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
}

/// Starts a server that calls `serve` with each connection. Returns options for its address.
async fn strange<F: Future<Output = ()> + Send + 'static>(serve: fn(TcpStream) -> F) -> ConnectOptions {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = options([listener.local_addr().unwrap().to_string().as_str()]);
    options.tls = Some(trusting(&Authority::new()));
    options.retry.call_timeout = Duration::from_millis(500);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve(connection));
        }
    });
    options
}

/// Resets the connection by dropping it with unread data.
async fn reset(connection: TcpStream) {
    connection.readable().await.unwrap();
}

#[tokio::test]
async fn reset_handshake_of_plain_server_is_tls_error() {
    let options = strange(|mut connection| async move {
        let mut first = [0];
        connection.peek(&mut first).await.unwrap();
        if first != *b"P" {
            return reset(connection).await;
        }
        connection.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        // Wait until the client closes the connection.
        connection.read_to_end(&mut Vec::new()).await.unwrap();
    });
    assert_eq!(refusal(&V3Store::new(&options.await).unwrap()).await, ErrorKind::Tls);
}

/// A failing server, or a proxy whose server is down, closes the connection during the handshake.
/// Both may be temporary.
#[tokio::test]
async fn interrupted_handshake_fails_as_unavailable() {
    let closing = strange(|mut connection| async move {
        let mut hello = [0; 4096];
        assert!(connection.read(&mut hello).await.unwrap() > 0);
    });
    for options in [closing.await, strange(reset).await] {
        assert_eq!(refusal(&V3Store::new(&options).unwrap()).await, ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn invalid_certificates_are_refused_at_once() {
    let broken = |change: fn(&mut Tls)| {
        let mut tls = trusting(&Authority::new());
        change(&mut tls);
        let mut options = options(["127.0.0.1:1"]);
        options.tls = Some(tls);
        V3Store::new(&options).unwrap_err()
    };
    for error in [
        broken(|tls| tls.ca = Some(b"no certificate".to_vec())),
        broken(|tls| tls.identity = Some((b"no certificate".to_vec(), b"no key".to_vec()))),
        broken(|tls| tls.server_name = Some("no name at all".to_owned())),
    ] {
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    }
}

/// A watch, an election stream, a live view and a lock of one client, and the entry that the watch
/// and the view observe.
struct Watchers {
    entry: Entry<u64>,
    changes: EntryChanges<u64>,
    leaders: LeaderChanges<String>,
    live: Live<Option<u64>>,
    lock: Lock,
}

impl Watchers {
    async fn begin(client: &Client) -> Self {
        let entry = client.entry::<u64>("/entry").unwrap();
        entry.set(&0).await.unwrap();
        let mut leaders = client.election("/election").observe().await.unwrap();
        assert!(leaders.next().await.unwrap().unwrap().is_none());
        let (changes, live) = (entry.watch().await.unwrap(), entry.live().await.unwrap());
        let lock = client.lock("/lock").ttl(Duration::from_secs(60)).acquire().await.unwrap();
        // The guard starts its watch after a moment.
        sleep(Duration::from_secs(1)).await;
        Self { entry, changes, leaders, live, lock }
    }

    /// Checks that all watchers see changes that are made from now on.
    async fn go_on(mut self, client: &Client, value: u64) {
        let entry = self.entry.clone();
        // A call may still fail because its connection ends.
        timeout(PATIENCE, async { while entry.set(&value).await.is_err() {} }).await.unwrap();
        let change = timeout(PATIENCE, self.changes.next()).await.unwrap().expect("no end").expect("no error");
        assert_eq!(change.new, Some(value));
        let leader = client.election("/election").campaign(&"me".to_owned()).await.unwrap();
        let seen = timeout(PATIENCE, self.leaders.next()).await.unwrap().expect("no end").expect("no error").expect("a leader");
        assert_eq!(seen.fence, leader.fence());
        timeout(PATIENCE, async {
            while **self.live.get() != Some(value) {
                self.live.changed().await.unwrap();
            }
        })
        .await
        .unwrap();
        self.lock.verify().await.unwrap();
        client.directory("/lock").unwrap().delete_recursive().await.unwrap();
        assert_eq!(timeout(PATIENCE, self.lock.lost()).await.unwrap().reason(), LostReason::KeyDeleted);
    }
}

fn client(endpoints: &str, authority: &Authority) -> Client {
    Client::builder(&format!("etcds://{endpoints}")).ca_certificate(authority.pem()).connect_lazy().unwrap()
}

#[tokio::test]
async fn streams_skip_endpoint_with_bad_certificate() {
    let (files, authority) = (Files::new(), Authority::new());
    let good = server(&files, &authority.sign(&["127.0.0.1"]), None).await;
    let bad = [
        server(&Files::new(), &Authority::new().sign(&["127.0.0.1"]), None).await,
        server(&Files::new(), &authority.sign_expired(&["127.0.0.1"]), None).await,
        server(&Files::new(), &authority.sign(&["other.test"]), None).await,
        Etcd::start().await,
    ];
    for bad in bad {
        // Two proxies of the good server, with an untrusted endpoint between them.
        let (first, last) = (Proxy::to(good.endpoint()).await, Proxy::to(good.endpoint()).await);
        let client = client(&format!("{},{},{}", first.endpoint(), bad.endpoint(), last.endpoint()), &authority);
        client.directory("/").unwrap().delete_recursive().await.unwrap();
        let watchers = Watchers::begin(&client).await;
        first.set(Mode::Refuse).await;
        first.cut();
        watchers.go_on(&client, 1).await;
    }
}

#[tokio::test]
async fn streams_wait_for_good_certificate() {
    let (files, authority) = (Files::new(), Authority::new());
    let good = authority.sign(&["127.0.0.1"]);
    let mut etcd = server(&files, &good, None).await;
    let client = client(&etcd.endpoint(), &authority);
    let mut watchers = Watchers::begin(&client).await;
    restart_with(&mut etcd, &files, &Authority::new().sign(&["127.0.0.1"])).await;
    assert!(timeout(Duration::from_secs(12), watchers.changes.next()).await.is_err(), "the stream waits");
    let interruption = watchers.changes.interruption().expect("the stream reports the interruption");
    assert_eq!(interruption.error.kind(), ErrorKind::Tls, "{}", interruption.error);
    let degraded = watchers.live.status();
    assert!(degraded.to_string().contains("no TLS connection"), "{degraded}");
    assert_eq!(watchers.entry.get().await.unwrap_err().kind(), ErrorKind::Tls);
    assert!(watchers.lock.is_held());
    restart_with(&mut etcd, &files, &good).await;
    watchers.go_on(&client, 1).await;
}

/// Restarts the server with another certificate. A running server would resume the TLS session of a
/// known client without showing its certificate.
async fn restart_with(etcd: &mut Etcd, files: &Files, (certificate, key): &Identity) {
    etcd.terminate().await;
    for (name, content) in [("cert", certificate), ("key", key)] {
        assert!(files.put(name, content).exists());
    }
    etcd.restart().await;
}

#[tokio::test]
async fn one_untrusted_endpoint_leaves_errors_retryable() {
    let (files, authority) = (Files::new(), Authority::new());
    let good = server(&files, &authority.sign(&["127.0.0.1"]), None).await;
    let bad = server(&Files::new(), &Authority::new().sign(&["127.0.0.1"]), None).await;
    let proxy = Proxy::to(good.endpoint()).await;
    let client = client(&format!("{},{}", proxy.endpoint(), bad.endpoint()), &authority);
    let entry = client.entry::<u64>("/entry").unwrap();
    entry.set(&1).await.unwrap();
    proxy.set(Mode::Refuse).await;
    proxy.cut();
    // The good endpoint cannot be reached, which may be temporary. The call tries until its time
    // limit, and then reports that the endpoint is unavailable.
    assert_eq!(entry.get().await.unwrap_err().kind(), ErrorKind::Unavailable);
    let waiting = tokio::spawn(async move { entry.get().await });
    sleep(Duration::from_secs(4)).await;
    proxy.set(Mode::Pass).await;
    assert_eq!(waiting.await.unwrap().unwrap().as_deref(), Some(&1));
}

#[tokio::test]
async fn untrusted_endpoint_is_skipped() {
    let (files, authority) = (Files::new(), Authority::new());
    let good = server(&files, &authority.sign(&["127.0.0.1"]), None).await;
    let plain = Etcd::start().await;
    let mut options = options([plain.endpoint().as_str(), good.endpoint().as_str()]);
    options.tls = Some(trusting(&authority));
    let store = V3Store::new(&options).unwrap();
    store.commit(put(&key("/a"), "1")).await.unwrap();
    store.range(Range::of(Span::Key(key("/a")))).await.unwrap();
}

/// The server closes the connection as a crashing server would. The client sends no write before a
/// server has answered.
#[tokio::test]
async fn plain_write_to_tls_server_is_not_applied() {
    let (files, authority) = (Files::new(), Authority::new());
    let etcd = server(&files, &authority.sign(&["127.0.0.1"]), None).await;
    let mut options = options([etcd.endpoint().as_str()]);
    options.retry.call_timeout = Duration::from_secs(1);
    let error = V3Store::new(&options).unwrap().commit(put(&key("/a"), "1")).await.unwrap_err();
    assert!(!error.may_have_applied(), "{error}");
}
