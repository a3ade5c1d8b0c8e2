//! Error messages when a client cannot use a server: wrong protocols and certificates, timeouts,
//! exceeded limits, and full disks.

use std::time::Duration;

use etcd_typed::testing::{Etcd, TlsFiles};
use etcd_typed::{Client, ClientBuilder, Error, ErrorKind, RetryPolicy};
use etcd_typed_tests::certificates::{Authority, Files, Identity, encrypted_keys, version_1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::{PATIENCE, metric_of};

async fn server(files: &Files, (certificate, key): &Identity, clients: Option<&Authority>) -> Etcd {
    let client_ca = clients.map(|authority| files.put("client-ca", &authority.pem()));
    let files = TlsFiles { cert: files.put("cert", certificate), key: files.put("key", key), client_ca };
    Etcd::builder().tls(files).start().await
}

/// Returns the error of a read, and checks that the error arrives within half of the call's limit
/// of ten seconds.
async fn error_of(builder: ClientBuilder) -> Error {
    let client = builder.connect_lazy().unwrap();
    let began = Instant::now();
    let read = timeout(PATIENCE, client.entry::<u64>("/a").unwrap().get()).await.expect("an answer");
    let error = read.expect_err("an error");
    assert!(began.elapsed() < RetryPolicy::default().call_timeout / 2, "after {:?}: {error}", began.elapsed());
    error
}

/// Checks the kind of an error, that its message has these parts, and that no phrase occurs twice.
#[track_caller]
fn assert_says(error: &Error, kind: ErrorKind, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing: {text}");
    }
    let phrases: Vec<&str> = text.split(": ").collect();
    for (at, phrase) in phrases.iter().enumerate() {
        assert!(!phrases[at + 1..].contains(phrase), "`{phrase}` occurs twice: {text}");
    }
}

fn trusting(address: &str, authority: &Authority) -> ClientBuilder {
    Client::builder(address).ca_certificate(authority.pem())
}

/// Starts a server that sends these bytes on each connection, whatever it receives. If
/// `waits_for_line` is set, the server first waits for a line, as an HTTP/1.1 server does.
async fn answering(answer: &'static [u8], waits_for_line: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut seen).await {
                    let is_http = seen.starts_with(b"GET ") || seen.starts_with(b"PRI ");
                    if !waits_for_line || (is_http && seen.contains(&b'\n')) {
                        // The client may have closed the connection.
                        let _ = stream.write_all(answer).await;
                        return;
                    }
                }
            });
        }
    });
    endpoint
}

const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn error_suggests_correct_tls_scheme() {
    let (files, authority) = (Files::new(), Authority::new());
    let tls = server(&files, &authority.sign(&["127.0.0.1"]), None).await;
    let plain = Etcd::start().await;
    let error = error_of(Client::builder(&format!("etcd://{}", tls.endpoint()))).await;
    assert_says(&error, ErrorKind::Tls, &[&tls.endpoint(), "speaks TLS", "`etcds://`"]);
    let error = error_of(trusting(&format!("etcds://{}", plain.endpoint()), &authority)).await;
    assert_says(&error, ErrorKind::Tls, &[&plain.endpoint(), "without TLS", "`etcd://`"]);
    let error = error_of(Client::builder(&format!("etcd2://{}", tls.endpoint()))).await;
    assert_says(&error, ErrorKind::Tls, &[&tls.endpoint(), "speaks TLS", "`etcd2s://`"]);
    let error = error_of(trusting(&format!("etcd2s://{}", plain.endpoint()), &authority)).await;
    assert_says(&error, ErrorKind::Tls, &[&plain.endpoint(), "without TLS", "`etcd2://`"]);
    // The scheme `http` gives the same error, also if `connect` makes the first call.
    let error = Client::connect(&format!("http://{}", tls.endpoint())).await.expect_err("an error");
    assert_says(&error, ErrorKind::Tls, &["speaks TLS", "`etcds://`"]);
}

/// The first server answers a TLS handshake with HTTP. The second server waits for the end of a
/// line, which a TLS handshake does not contain.
#[tokio::test]
async fn error_suggests_plain_scheme_for_http_server() {
    for waits_for_line in [false, true] {
        let endpoint = answering(BAD_REQUEST, waits_for_line).await;
        for (scheme, right) in [("etcds", "`etcd://`"), ("etcd2s", "`etcd2://`")] {
            let error = error_of(trusting(&format!("{scheme}://{endpoint}"), &Authority::new())).await;
            assert_says(&error, ErrorKind::Tls, &[&endpoint, "without TLS", right]);
        }
    }
}

#[tokio::test]
async fn error_describes_server_without_http2() {
    let endpoint = answering(BAD_REQUEST, false).await;
    let error = error_of(Client::builder(&format!("etcd://{endpoint}"))).await;
    assert_says(&error, ErrorKind::Server, &[&endpoint, "HTTP/1.1", "is it an etcd v3 server"]);
    let old = b"HTTP/1.1 200 OK\r\nContent-Length: 48\r\nConnection: close\r\n\r\n{\"etcdserver\":\"2.3.8\",\"etcdcluster\":\"2.3.0\"}    ";
    let endpoint = answering(old, false).await;
    let error = error_of(Client::builder(&format!("etcd://{endpoint}"))).await;
    assert_says(&error, ErrorKind::Server, &[&endpoint, "etcd 2.3.8", "`etcd2://`"]);
}

#[tokio::test]
async fn certificate_error_explains_cause_and_remedy() {
    let authority = Authority::new();
    let refused = async |identity: &Identity, trusted: &Authority, name: Option<&str>| {
        let files = Files::new();
        let etcd = server(&files, identity, None).await;
        let mut texts = Vec::new();
        for scheme in ["etcds", "etcd2s"] {
            let mut builder = trusting(&format!("{scheme}://{}", etcd.endpoint()), trusted);
            if let Some(name) = name {
                builder = builder.server_name(name);
            }
            texts.push((error_of(builder).await, etcd.endpoint()));
        }
        texts
    };
    let cases: [(Identity, &Authority, Option<&str>, &[&str]); 6] = [
        (authority.sign_expired(&["127.0.0.1"]), &authority, None, &["expired", "2002-01-0", "renew"]),
        (authority.sign_future(&["127.0.0.1"]), &authority, None, &["not valid before", "2090-01-01", "clock"]),
        (authority.sign(&["other.test"]), &authority, None, &["127.0.0.1", "other.test", "server_name"]),
        (authority.sign(&["127.0.0.1"]), &authority, Some("x.test"), &["x.test", "127.0.0.1", "server_name"]),
        (authority.sign(&["127.0.0.1"]), &Authority::new(), None, &["authority", "ca_certificate"]),
        (authority.identity(), &authority, None, &["CA certificate", "sign"]),
    ];
    for (identity, trusted, server_name, parts) in cases {
        for (error, endpoint) in refused(&identity, trusted, server_name).await {
            assert_says(&error, ErrorKind::Tls, &[parts, &[&endpoint]].concat());
        }
    }
    for (error, _) in refused(&version_1(), &authority, None).await {
        assert_says(&error, ErrorKind::Tls, &["X.509 version 1", "version 3"]);
    }
}

/// The server closes the connections of the first attempts. The last attempt has no answer yet when
/// the call reaches its time limit.
#[tokio::test]
async fn timed_out_call_reports_last_failed_attempt() {
    let call_timeout = Duration::from_millis(800);
    for scheme in ["etcd", "etcd2"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (began, mut open) = (Instant::now(), Vec::new());
            while let Ok((stream, _)) = listener.accept().await {
                if began.elapsed() > call_timeout / 2 {
                    open.push(stream);
                }
            }
        });
        let retry = RetryPolicy::new().call_timeout(call_timeout).max_delay(Duration::from_millis(50));
        let client = Client::builder(&format!("{scheme}://{endpoint}")).retry(retry).connect_lazy().unwrap();
        let error = client.entry::<u64>("/a").unwrap().get().await.expect_err("an error");
        assert_says(&error, ErrorKind::Unavailable, &[&endpoint, "connection", "800ms"]);
        assert!(!error.to_string().contains("no answer from"), "{error}");
    }
}

#[tokio::test]
async fn timed_out_call_reports_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = listener.local_addr().unwrap().to_string();
    drop(listener);
    let retry = RetryPolicy::new().call_timeout(Duration::from_millis(600));
    for (address, cause) in [(refusing.as_str(), "Connection refused"), ("no-such-host.invalid:1", "lookup")] {
        for scheme in ["etcd", "etcd2"] {
            let client = Client::builder(&format!("{scheme}://{address}")).retry(retry.clone()).connect_lazy().unwrap();
            let error = client.entry::<u64>("/a").unwrap().get().await.expect_err("an error");
            assert_says(&error, ErrorKind::Unavailable, &[address, cause, "600ms"]);
            let error = client.entry::<u64>("/a").unwrap().set(&1).await.expect_err("an error");
            assert_says(&error, ErrorKind::Unavailable, &[address, cause, "600ms"]);
        }
    }
}

#[test]
fn error_explains_unusable_certificate_or_key() {
    let (authority, files) = (Authority::new(), Files::new());
    let (certificate, key) = authority.sign(&["client"]);
    let (_, other_key) = authority.sign(&["client"]);
    let (old, old_key) = version_1();
    let [encrypted, encrypted_too] = encrypted_keys();
    for scheme in ["etcds", "etcd2s"] {
        let error = |build: &dyn Fn(ClientBuilder) -> ClientBuilder| {
            build(trusting(&format!("{scheme}://127.0.0.1:1"), &authority)).connect_lazy().map(drop).expect_err("an error")
        };
        let identity = |certificate: &[u8], key: &[u8]| error(&|builder| builder.identity(certificate, key));
        for encrypted in [&encrypted, &encrypted_too] {
            assert_says(&identity(&old, encrypted), ErrorKind::Tls, &["is encrypted", "openssl pkey"]);
        }
        assert_says(&identity(&certificate, &other_key), ErrorKind::Tls, &["private key does not belong to the client's certificate"]);
        assert_says(&identity(&old, &old_key), ErrorKind::Tls, &["the client's certificate", "X.509 version 1"]);
        assert_says(&identity(&key, &certificate), ErrorKind::Tls, &["holds a private key", "swapped"]);
        assert_says(&identity(&certificate, &certificate), ErrorKind::Tls, &["private key", "holds a certificate"]);
        assert_says(&identity(&certificate, b""), ErrorKind::Tls, &["private key", "empty"]);
        assert_says(&error(&|builder| builder.ca_certificate(key.clone())), ErrorKind::Tls, &["CA certificate", "holds a private key"]);
        assert_says(&error(&|builder| builder.ca_certificate(b"\x30\x82\x01".to_vec())), ErrorKind::Tls, &["it is DER"]);
        let missing = files.put("x", b"").with_file_name("missing.pem");
        let path = missing.display().to_string();
        assert_says(&error(&|builder| builder.ca_certificate_file(&missing)), ErrorKind::Tls, &[&path, "No such file"]);
        assert_says(&error(&|builder| builder.identity_files(&missing, &missing)), ErrorKind::Tls, &[&path, "No such file"]);
        let directory = missing.parent().unwrap();
        assert_says(&error(&|builder| builder.ca_certificate_file(directory)), ErrorKind::Tls, &["Is a directory"]);
    }
}

async fn put_many(client: &Client, keys: usize) -> Result<(), Error> {
    let map = client.entries::<u32, u32>("/many").unwrap();
    let mut transaction = client.transaction();
    for key in 0..u32::try_from(keys).unwrap() {
        transaction = transaction.write(map.entry(&key).unwrap().set(&1));
    }
    transaction.await.map(drop)
}

/// Options set the client's limits. If a write exceeds a limit of the server, the error says which
/// flag of the server sets that limit.
#[tokio::test]
async fn client_limits_can_be_set_by_options() {
    let etcd = Etcd::builder().flag("--max-txn-ops", "200").flag("--max-request-bytes", "3000000").start().await;
    for address in [etcd.url_v3(), "memory:".to_owned()] {
        let with_defaults = Client::connect(&address).await.unwrap();
        let error = put_many(&with_defaults, 150).await.unwrap_err();
        assert_says(&error, ErrorKind::TooManyOperations, &["150", "128", "max_operations"]);
        let large = "x".repeat(2_000_000);
        let error = with_defaults.entry("/large").unwrap().set(&large).await.unwrap_err();
        assert_says(&error, ErrorKind::TooLarge, &["max_request_bytes", "/large"]);

        let raised = Client::builder(&address).max_operations(200).max_request_bytes(3_000_000).connect().await.unwrap();
        put_many(&raised, 150).await.unwrap();
        raised.entry("/large").unwrap().set(&large).await.unwrap();
        let lowered = Client::builder(&address).max_operations(3).max_request_bytes(1000).connect().await.unwrap();
        assert_says(&put_many(&lowered, 4).await.unwrap_err(), ErrorKind::TooManyOperations, &["3"]);
        put_many(&lowered, 3).await.unwrap();
        let error = lowered.entry("/large").unwrap().set(&"x".repeat(1001)).await.unwrap_err();
        assert_says(&error, ErrorKind::TooLarge, &["1000"]);
    }
    let too_high = Client::builder(&etcd.url_v3()).max_operations(1000).max_request_bytes(9_000_000).connect().await.unwrap();
    assert_says(&put_many(&too_high, 250).await.unwrap_err(), ErrorKind::TooManyOperations, &["`--max-txn-ops`", "`max_operations`"]);
    for size in [3_100_000, 8_000_000] {
        let error = too_high.entry("/large").unwrap().set(&"x".repeat(size)).await.unwrap_err();
        assert_says(&error, ErrorKind::TooLarge, &["`--max-request-bytes`", "`max_request_bytes`"]);
    }
}

/// `acquire` fails with the same error as the write of a value. The clients have spare leases, so
/// the first request that the server refuses is the one that creates the key.
#[tokio::test]
async fn acquire_fails_at_once_without_space() {
    let etcd = Etcd::builder().flag("--quota-backend-bytes", "400000").start().await;
    let (holder, waiter) = (Client::connect(&etcd.url_v3()).await.unwrap(), Client::connect(&etcd.url_v3()).await.unwrap());
    let lock = |client: &Client| client.lock("/lock");
    lock(&waiter).acquire().await.unwrap().release().await.unwrap();
    // Two locks at once, so that the client has a spare lease for a second waiter.
    let (first, second) = (holder.lock("/a").acquire().await.unwrap(), holder.lock("/b").acquire().await.unwrap());
    first.release().await.unwrap();
    second.release().await.unwrap();
    let held = lock(&holder).acquire().await.unwrap();
    let full = holder.entry("/full").unwrap();
    while full.set(&"x".repeat(50_000)).await.is_ok() {}
    assert_eq!(full.set(&"x".to_owned()).await.unwrap_err().kind(), ErrorKind::NoSpace);

    let transactions = r#"grpc_server_started_total{grpc_method="Txn",grpc_service="etcdserverpb.KV",grpc_type="unary"}"#;
    let before = metric_of(&etcd, transactions).await;
    assert_eq!(lock(&waiter).acquire().await.unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(lock(&holder).acquire().await.unwrap_err().kind(), ErrorKind::NoSpace);
    let election = waiter.election::<String>("/election").campaign(&"me".to_owned()).await;
    assert_eq!(election.unwrap_err().kind(), ErrorKind::NoSpace);
    let sent = metric_of(&etcd, transactions).await - before;
    assert!(sent <= 6.0, "{sent} transactions for three keys");
    // A failing waiter does not affect the holder.
    let again = lock(&holder);
    let (released, refused) = tokio::join!(held.release(), again.acquire());
    released.unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NoSpace);
}
