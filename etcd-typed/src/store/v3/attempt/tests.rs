//! Tests against fake servers in this process, which send a cluster id in their answers or leave it
//! out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes};
use futures_util::future::join_all;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::*;
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::revision::LeaseId;
use crate::store::connect::Endpoint;
use crate::store::v3::V3Store;
use crate::store::v3::wire::{
    self, LEASE_GRANT, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, MEMBER_LIST, PUT,
    PutResponse, RANGE, RangeResponse, RequestOp, ResponseOp, StatusResponse, TxnRequest, TxnResponse, WatchResponse,
};
use crate::store::{Compare, Condition, Op, OpResult, Range, Span, Store, Txn};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server that answers each request with a header and little else.
struct Fake {
    endpoint: Endpoint,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// The id of the cluster. With 0 the server is down and closes each connection.
    cluster: AtomicU64,
    revision: AtomicU64,
    without_header: AtomicBool,
    requests: Mutex<HashMap<String, u64>>,
    version: Mutex<String>,
    /// The latest transaction.
    txn: Mutex<Option<TxnRequest>>,
    /// Counts the restarts of the server.
    life: watch::Sender<u64>,
}

impl Fake {
    async fn of(cluster: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        let state = Arc::new(State::default());
        state.cluster.store(cluster, Ordering::SeqCst);
        state.revision.store(1, Ordering::SeqCst);
        let serving = state.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let state = serving.clone();
                let mut life = state.life.subscribe();
                life.mark_unchanged();
                if state.cluster.load(Ordering::SeqCst) == 0 {
                    continue;
                }
                tokio::spawn(async move {
                    let serve = async {
                        let mut connection = server::handshake(tcp).await.unwrap();
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            let state = state.clone();
                            tokio::spawn(async move { state.answer(request, respond).await });
                        }
                    };
                    tokio::select! { biased; _ = life.changed() => {}, () = serve => {} }
                });
            }
        });
        Self { endpoint, state }
    }

    /// Ends all connections. The server comes back as a member of this cluster.
    fn restart_as(&self, cluster: u64) {
        self.state.cluster.store(cluster, Ordering::SeqCst);
        self.state.life.send_modify(|life| *life += 1);
    }

    fn got(&self, method: &str) -> u64 {
        self.state.requests.lock().unwrap().get(method).copied().unwrap_or(0)
    }
}

impl State {
    async fn answer(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (head, mut body) = request.into_parts();
        let method = head.uri.path().rsplit('/').next().unwrap();
        *self.requests.lock().unwrap().entry(method.to_owned()).or_default() += 1;
        let revision =
            if method == "Put" { self.revision.fetch_add(1, Ordering::SeqCst) + 1 } else { self.revision.load(Ordering::SeqCst) };
        let header = ResponseHeader { cluster_id: self.cluster.load(Ordering::SeqCst), member_id: 1, revision: revision as i64 };
        let header = (!self.without_header.load(Ordering::SeqCst)).then_some(header);
        let message = match method {
            "Put" => PutResponse { header, ..Default::default() }.encode_to_vec(),
            "Range" => RangeResponse { header, ..Default::default() }.encode_to_vec(),
            "Txn" => {
                let mut message = Vec::new();
                while let Some(Ok(chunk)) = body.data().await {
                    message.extend_from_slice(&chunk);
                }
                let txn = TxnRequest::decode(&message[5..]).unwrap();
                let responses = txn.failure.iter().map(of_op).collect();
                *self.txn.lock().unwrap() = Some(txn);
                TxnResponse { header, succeeded: false, responses }.encode_to_vec()
            }
            "Status" => StatusResponse { header, version: self.version.lock().unwrap().clone(), ..Default::default() }.encode_to_vec(),
            "LeaseGrant" => LeaseGrantResponse { header, ttl: 10, ..Default::default() }.encode_to_vec(),
            "LeaseRevoke" => LeaseRevokeResponse { header }.encode_to_vec(),
            "LeaseKeepAlive" => LeaseKeepAliveResponse { header, ttl: 10 }.encode_to_vec(),
            "LeaseTimeToLive" => LeaseTimeToLiveResponse { header, ttl: 10 }.encode_to_vec(),
            "Watch" => WatchResponse { header, created: true, ..Default::default() }.encode_to_vec(),
            other => panic!("{other} is not expected"),
        };
        let mut frame = vec![0];
        frame.put_u32(message.len() as u32);
        frame.extend(message);
        let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        // The send fails if the client has closed the connection.
        let Ok(mut body) = respond.send_response(response, false) else { return };
        let _ = body.send_data(frame.into(), false);
        if method != "Watch" {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = body.send_trailers(trailers);
        } else {
            // The stream stays open until the client cancels it.
            tokio::spawn(async move { std::future::poll_fn(|cx| body.poll_reset(cx)).await });
        }
    }
}

/// Answers one operation of a transaction. For an empty inner transaction the response is empty,
/// because the wire types here have no variant for it.
fn of_op(op: &RequestOp) -> ResponseOp {
    let response = match &op.request {
        Some(wire::Request::Range(_)) => Some(wire::Response::Range(RangeResponse::default())),
        _ => None,
    };
    ResponseOp { response }
}

fn store_of<const N: usize>(fakes: [&Fake; N]) -> V3Store {
    let mut options = ConnectOptions::new(fakes.map(|fake| fake.endpoint.clone()).to_vec());
    options.retry.call_timeout = Duration::from_secs(2);
    V3Store::new(&options).unwrap()
}

/// Writes, and repeats the write if its outcome is unknown because a connection ended.
async fn write(store: &V3Store) -> Result<u64, Error> {
    let txn = Txn { then: vec![Op::put(&Key::parse("/a").unwrap(), "1".into())], ..Txn::default() };
    let written = async {
        loop {
            match store.commit(txn.clone()).await {
                Err(error) if error.kind() == ErrorKind::Unavailable && error.may_have_applied() => yield_now().await,
                written => return written,
            }
        }
    };
    timeout(PATIENCE, written).await.expect("an answer").map(|committed| committed.revision.get())
}

async fn read(store: &V3Store) -> Result<u64, Error> {
    let range = Range::of(Span::Key(Key::parse("/a").unwrap()));
    timeout(PATIENCE, store.range(range)).await.expect("an answer").map(|reply| reply.revision.get())
}

#[tokio::test]
async fn client_moves_to_cluster_of_restored_server() {
    let fake = Fake::of(1).await;
    let store = store_of([&fake]);
    write(&store).await.unwrap();
    assert_eq!((fake.got("Watch"), store.history()), (0, 0), "the first connection of a client needs no check");
    // The client checks the cluster before the write, and the survey asks once more.
    fake.restart_as(2);
    write(&store).await.unwrap();
    assert_eq!((fake.got("Put"), fake.got("Watch"), store.history()), (2, 2, 1));
    // The answer to a read contains the cluster id, so no check is needed first. The same holds for
    // a grant.
    fake.restart_as(3);
    read(&store).await.unwrap();
    assert_eq!((fake.got("Watch"), store.history()), (3, 2));
    fake.restart_as(4);
    store.grant(LeaseId::random(), Duration::from_secs(10)).await.unwrap();
    assert_eq!((fake.got("Watch"), store.history()), (4, 3));
    // A restored backup may contain the lease, so the cluster is checked before a revocation.
    fake.restart_as(5);
    store.revoke(LeaseId::random()).await.unwrap();
    assert_eq!((fake.got("Watch"), store.history()), (6, 4));
}

#[tokio::test]
async fn writes_after_reconnect_share_one_check() {
    let fake = Fake::of(1).await;
    let store = store_of([&fake]);
    write(&store).await.unwrap();
    fake.restart_as(1);
    for written in join_all((0..20).map(|_| write(&store))).await {
        written.unwrap();
    }
    write(&store).await.unwrap();
    assert_eq!((fake.got("Watch"), fake.got("Put"), store.history()), (1, 22, 0));
}

#[tokio::test]
async fn write_is_not_sent_to_other_cluster() {
    let (first, second) = (Fake::of(1).await, Fake::of(2).await);
    let store = store_of([&first, &second]);
    write(&store).await.unwrap();
    // The first endpoint is down, and the second belongs to another cluster.
    first.restart_as(0);
    let error = write(&store).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Server, false), "{error}");
    assert!(error.to_string().contains("must be of one"), "{error}");
    assert_eq!(read(&store).await.unwrap_err().kind(), ErrorKind::Server);
    assert_eq!((second.got("Put"), store.history()), (0, 0));
    // Once the first endpoint is back, the client uses it as before.
    first.restart_as(1);
    write(&store).await.unwrap();
    assert_eq!((second.got("Put"), store.history()), (0, 0));
}

#[tokio::test]
async fn client_moves_after_last_member_is_restored() {
    let fakes = [Fake::of(1).await, Fake::of(1).await, Fake::of(1).await];
    let [one, two, three] = &fakes;
    let store = store_of([one, two, three]);
    write(&store).await.unwrap();
    for restored in [one, two] {
        restored.restart_as(2);
        for _ in 0..5 {
            write(&store).await.unwrap();
            read(&store).await.unwrap();
            sleep(Duration::from_millis(30)).await;
        }
        assert_eq!(store.history(), 0, "the client stays while an old member answers");
    }
    assert_eq!((one.got("Put"), two.got("Put")), (1, 5), "no write went to a member of the new cluster");
    three.restart_as(0);
    // The client moves only after a moment, because it pauses after a survey without agreement.
    let moved = async {
        while write(&store).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, moved).await.expect("the client moves on");
    assert_eq!(store.history(), 1);
    three.restart_as(2);
    write(&store).await.unwrap();
    assert_eq!(store.history(), 1);
}

#[tokio::test]
async fn client_keeps_cluster_while_endpoints_disagree() {
    let (first, second) = (Fake::of(1).await, Fake::of(2).await);
    let store = store_of([&first, &second]);
    for _ in 0..3 {
        write(&store).await.unwrap();
        // When a connection ends, the client tries the other endpoint and comes back.
        first.restart_as(1);
        read(&store).await.unwrap();
    }
    assert_eq!((second.got("Put"), store.history()), (0, 0));
}

#[tokio::test]
async fn answer_without_header_is_rejected() {
    let fake = Fake::of(1).await;
    let store = store_of([&fake]);
    write(&store).await.unwrap();
    fake.state.without_header.store(true, Ordering::SeqCst);
    let error = write(&store).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Server, true), "{error}");
    let error = read(&store).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Server, false), "{error}");
    let several =
        Txn { then: vec![Op::put(&Key::parse("/a").unwrap(), "1".into()), Op::delete(&Key::parse("/b").unwrap())], ..Txn::default() };
    let error = store.commit(several).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Server, true), "{error}");
    let lease = LeaseId::random();
    for answered in [
        store.grant(lease, Duration::from_secs(10)).await.map(drop),
        store.keep_alive(lease).await.map(drop),
        store.revoke(lease).await,
        store.time_to_live(lease).await.map(drop),
    ] {
        assert_eq!(answered.unwrap_err().kind(), ErrorKind::Server);
    }
    // If there is another endpoint, the read goes there.
    let good = Fake::of(1).await;
    let store = store_of([&fake, &good]);
    read(&store).await.unwrap();
    assert_eq!(good.got("Range"), 1);
}

#[test]
fn store_answer_without_revision_is_rejected() {
    let header = |cluster_id, revision| Some(ResponseHeader { cluster_id, member_id: 1, revision });
    for (header, of_the_store, of_a_lease) in [
        (None, false, false),
        (header(0, 5), false, false),
        (header(7, 0), false, true),
        (header(7, -1), false, true),
        (header(7, 1), true, true),
    ] {
        let header = header.as_ref();
        assert_eq!((PUT.header.is_met_by(header), RANGE.header.is_met_by(header)), (of_the_store, of_the_store), "{header:?}");
        assert_eq!(LEASE_GRANT.header.is_met_by(header), of_a_lease, "{header:?}");
        assert!(MEMBER_LIST.header.is_met_by(header), "{header:?}");
    }
}

/// The test sends a transaction that compares and reads, like a read under a guard.
#[tokio::test]
async fn servers_without_cancel_crash_get_unchanged_transactions() {
    let a = Key::parse("/a").unwrap();
    let get = Op::Get(Span::Key(a.clone()));
    let txn = Txn { compares: vec![Compare::key(&a, Condition::Present)], then: vec![get.clone(), get.clone()], otherwise: vec![get] };
    for (version, is_safe) in [("3.4.23", true), ("3.5.0", false), ("3.5.6", false), ("3.5.7", true), ("3.6.0", true), ("unknown", false)] {
        let fake = Fake::of(1).await;
        *fake.state.version.lock().unwrap() = version.to_owned();
        let store = store_of([&fake]);
        let commit = async || {
            let committed = timeout(PATIENCE, store.commit(txn.clone())).await.expect("an answer").unwrap();
            assert!(matches!(&committed.results[..], [OpResult::Get(_)]), "{committed:?}");
            let sent = fake.state.txn.lock().unwrap().take().unwrap();
            assert_eq!((sent.compare.len(), sent.success.len()), (1, 2));
            sent.failure.iter().map(|op| matches!(op.request, Some(wire::Request::Range(_)))).collect::<Vec<_>>()
        };
        assert_eq!(commit().await, [true, false], "the version is unknown yet");
        // The client asks for the version in parallel to the first transaction.
        let known = async { while fake.got("Status") == 0 || (is_safe && commit().await != [true]) {} };
        timeout(PATIENCE, known).await.expect("the version is known");
        for _ in 0..3 {
            assert_eq!(commit().await, if is_safe { vec![true] } else { vec![true, false] }, "{version}");
        }
        assert_eq!(fake.got("Status"), 1, "the version is asked for once");
    }
}
