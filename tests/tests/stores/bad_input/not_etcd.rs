//! Servers that are not etcd, or do not offer the API that the address asks for.

use super::*;

/// What a server that is not etcd does with every connection.
#[derive(Clone, Copy, Debug)]
enum NoEtcd {
    Refuses,
    HangsUp,
    IsSilent,
    Answers(&'static [u8]),
}

impl NoEtcd {
    /// Starts the server and returns its port.
    async fn start(self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        if matches!(self, Self::Refuses) {
            return port;
        }
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                match self {
                    Self::Refuses | Self::HangsUp => {}
                    Self::IsSilent => open.push(stream),
                    Self::Answers(answer) => {
                        tokio::spawn(async move {
                            let mut request = [0; 1024];
                            // The client may close the connection.
                            while matches!(stream.read(&mut request).await, Ok(1..)) && stream.write_all(answer).await.is_ok() {}
                        });
                    }
                }
            }
        });
        port
    }
}

#[tokio::test]
async fn calls_to_other_servers_fail_in_time() {
    let servers = [
        (NoEtcd::Refuses, &[ErrorKind::Unavailable][..]),
        (NoEtcd::HangsUp, &[ErrorKind::Unavailable]),
        (NoEtcd::IsSilent, &[ErrorKind::Unavailable, ErrorKind::Timeout]),
        (NoEtcd::Answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), &[ErrorKind::Server]),
        (NoEtcd::Answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), &[ErrorKind::Server, ErrorKind::Unsupported]),
        (NoEtcd::Answers(b"\x00\x01\x02\xff\xfe garbage \r\n\r\n"), &[ErrorKind::Server, ErrorKind::Unavailable, ErrorKind::Timeout]),
    ];
    for (server, expected) in servers {
        let port = server.start().await;
        for scheme in ["etcd", "etcd2"] {
            let retry = RetryPolicy::new().call_timeout(Duration::from_millis(600));
            let builder = Client::builder(&format!("{scheme}://127.0.0.1:{port}")).retry(retry).connect_timeout(Duration::from_millis(300));
            let connected = timeout(LIMIT, builder.clone().connect()).await.expect("an answer in time");
            let error = connected.expect_err("the server is not etcd");
            assert!(expected.contains(&error.kind()), "{scheme} {server:?}: {error}");
            if error.is_retryable() {
                assert!(error.to_string().contains(&port.to_string()), "the error names the endpoint: {error}");
            }
            let client = builder.connect_lazy().unwrap();
            let entry = client.entry::<u32>("/a").unwrap();
            let error = timeout(LIMIT, entry.get()).await.expect("an answer in time").expect_err("the server is not etcd");
            assert!(expected.contains(&error.kind()) && !error.may_have_applied(), "{scheme} {server:?}: {error}");
            let error = timeout(LIMIT, entry.set(&1).into_future()).await.expect("an answer in time").expect_err("the server is not etcd");
            assert!(expected.contains(&error.kind()), "{scheme} {server:?}: {error}");
            if matches!(server, NoEtcd::Refuses) {
                assert!(!error.may_have_applied(), "nothing was sent: {error}");
            }
        }
    }
}

/// The error mentions the flag that enables the v2 API only if the server has the flag. etcd 3.6
/// removed the API and the flag.
#[tokio::test]
async fn error_explains_missing_v2_api() {
    let etcd = Etcd::builder().v2(false).start().await;
    let address = format!("etcd2://{}", etcd.endpoint());
    let removed = etcd.is_at_least(3, 6);
    let client = Client::builder(&address).connect_lazy().unwrap();
    let entry = client.entry::<u32>("/a").unwrap();
    let errors = [
        Client::connect(&address).await.expect_err("a refusal"),
        entry.get().await.expect_err("a refusal"),
        entry.set(&1).await.expect_err("a refusal"),
        entry.watch().await.expect_err("a refusal"),
        client.members().await.expect_err("a refusal"),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Unsupported, false), "{error}");
        let text = error.to_string();
        assert!(text.contains(etcd.version()) && text.contains("etcd://"), "{text}");
        assert_eq!((text.contains("--enable-v2=true"), text.contains("3.6 removed it")), (!removed, removed), "{text}");
    }
    Client::connect(&etcd.url_v3()).await.expect("the v3 API works");
}
