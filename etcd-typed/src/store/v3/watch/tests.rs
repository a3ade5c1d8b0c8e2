//! Tests against a server in this process whose watches misbehave in ways that no etcd does.

use std::sync::atomic::AtomicUsize;

use bytes::{BufMut, Bytes};
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::client::Client;
use crate::error::ErrorKind;
use crate::live::LiveStatus;
use crate::store::connect::Endpoint;
use crate::store::v3::wire::{self, Event, RangeResponse, ResponseHeader, StatusResponse, WatchResponse};

/// The time limit of a call in these tests.
const CALL: Duration = Duration::from_millis(600);
/// The time limit of every wait. An operation that ends at all ends sooner.
const PATIENCE: Duration = Duration::from_secs(60);
/// The size of one fragment.
const FRAGMENT: usize = 2 << 20;

/// How the server treats a watch.
#[derive(Clone, Copy)]
enum Watching {
    /// The server never answers.
    Silent,
    /// The server sends fragments of one revision while the client reads them.
    Fragments,
}

/// A server with one key, `/a/x`.
struct Hostile {
    endpoint: Endpoint,
    reads: Arc<AtomicUsize>,
    /// How many bytes of fragments were sent.
    sent: Arc<AtomicUsize>,
}

impl Hostile {
    async fn start(watching: Watching) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        let (reads, sent) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (reading, sending) = (reads.clone(), sent.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (reads, sent) = (reading.clone(), sending.clone());
                tokio::spawn(async move {
                    let mut connection = server::handshake(tcp).await.unwrap();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(answer(watching, request, respond, reads.clone(), sent.clone()));
                    }
                });
            }
        });
        Self { endpoint, reads, sent }
    }

    fn client(&self) -> Client {
        let retry = RetryPolicy { call_timeout: CALL, ..RetryPolicy::default() };
        Client::builder(&format!("etcd://{}", self.endpoint)).retry(retry).connect_lazy().unwrap()
    }
}

async fn answer(
    watching: Watching,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    reads: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
) {
    let (head, mut requests) = request.into_parts();
    let header = Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: 5 });
    let mut body = respond.send_response(Response::builder().header("content-type", "application/grpc").body(()).unwrap(), false).unwrap();
    let message = match head.uri.path().rsplit('/').next().unwrap() {
        "Range" => {
            reads.fetch_add(1, Ordering::SeqCst);
            RangeResponse { header, kvs: vec![key("/a/x", 5, 1)], ..Default::default() }.encode_to_vec()
        }
        "Status" => StatusResponse { header, version: "3.5.30".to_owned(), ..Default::default() }.encode_to_vec(),
        "Watch" => {
            if let Watching::Fragments = watching {
                requests.data().await;
                let created = WatchResponse { header: header.clone(), watch_id: 1, created: true, ..Default::default() };
                body.send_data(frame(&created.encode_to_vec()), false).unwrap();
                let event = |_| Event { r#type: 0, kv: Some(key("/a/x", 6, 1000)) };
                let events = (0..FRAGMENT / 1000).map(event).collect();
                let fragment = WatchResponse { header, watch_id: 1, fragment: true, events, ..Default::default() };
                let fragment = frame(&fragment.encode_to_vec());
                let mut left = Bytes::new();
                loop {
                    if left.is_empty() {
                        left = fragment.clone();
                    }
                    body.reserve_capacity(left.len());
                    match std::future::poll_fn(|cx| body.poll_capacity(cx)).await {
                        Some(Ok(room)) => {
                            let part = left.split_to(room.min(left.len()));
                            sent.fetch_add(part.len(), Ordering::SeqCst);
                            if body.send_data(part, false).is_err() {
                                return;
                            }
                        }
                        _ => return,
                    }
                }
            }
            // The stream stays open until the client cancels it.
            return drop(std::future::poll_fn(|cx| body.poll_reset(cx)).await);
        }
        other => panic!("{other} is not expected"),
    };
    let _ = body.send_data(frame(&message), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let _ = body.send_trailers(trailers);
}

fn key(path: &str, revision: i64, length: usize) -> wire::KeyValue {
    wire::KeyValue {
        key: Bytes::copy_from_slice(path.as_bytes()),
        value: vec![b'7'; length].into(),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: 0,
    }
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.extend(message);
    frame.into()
}

#[tokio::test]
async fn views_and_streams_start_without_watch_answer() {
    let server = Hostile::start(Watching::Silent).await;
    let client = server.client();
    let (entry, map) = (client.entry::<u32>("/a/x").unwrap(), client.entries::<String, u32>("/a").unwrap());
    let live = timeout(PATIENCE, map.live().into_future()).await.expect("in time").unwrap();
    assert_eq!(live.get().get("x"), Some(&7));
    while matches!(live.status(), LiveStatus::Live) {
        tokio::task::yield_now().await;
    }
    let changes = timeout(PATIENCE, map.watch().into_future()).await.expect("in time").unwrap();
    assert_eq!(changes.interruption().unwrap().error.kind(), ErrorKind::Timeout);
    let changes = timeout(PATIENCE, entry.watch().into_future()).await.expect("in time").unwrap();
    assert_eq!(changes.interruption().unwrap().error.kind(), ErrorKind::Timeout);
    let leaders = timeout(PATIENCE, client.election::<u32>("/a").observe()).await.expect("in time").unwrap();
    assert_eq!(leaders.interruption().unwrap().error.kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn endless_fragments_make_view_read_again() {
    let server = Hostile::start(Watching::Fragments).await;
    let client = server.client();
    let map = client.entries::<String, u32>("/a").unwrap();
    let live = timeout(PATIENCE, map.live().into_future()).await.expect("in time").unwrap();
    let read_again = async {
        let before = server.reads.load(Ordering::SeqCst);
        while server.reads.load(Ordering::SeqCst) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, read_again).await.expect("the watch ends");
    let sent = server.sent.load(Ordering::SeqCst);
    assert!(sent < 128 << 20, "the client accepted {sent} bytes for one revision");
    assert_eq!(live.get().get("x"), Some(&7));
}
