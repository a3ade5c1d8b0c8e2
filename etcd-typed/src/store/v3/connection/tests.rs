//! Tests against servers that answer in ways that no etcd does.

use std::future::pending;
use std::io;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::*;
use crate::store::connect::{ConnectOptions, Endpoint};
use crate::store::v3::attempt::send;
use crate::store::v3::grpc::Code;
use crate::store::v3::status::{Failure, Row, classify};
use crate::store::v3::wire::{FIRST_OF_WATCH, PutRequest, WatchRequest};

const PATH: &str = "/test/Echo";
const PLAIN: Metadata<'static> = Metadata { leader: false, token: None };

/// Returns a connection to a server that runs `serve` on its side.
async fn connected<F: Future<Output = ()> + Send + 'static>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    keep_alive: Duration,
) -> Connection {
    opened(serve, keep_alive).await.unwrap()
}

/// Like [`connected`], but returns the error if there is one.
async fn opened<F: Future<Output = ()> + Send + 'static>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    keep_alive: Duration,
) -> Result<Connection, Status> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
    tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    let mut options = ConnectOptions::new(vec![endpoint.clone()]);
    (options.keep_alive_interval, options.keep_alive_timeout) = (keep_alive, keep_alive);
    Connection::open(&Target::new(&endpoint, &options).unwrap()).await
}

/// Returns a connection to a server that answers each call with `answer`.
async fn answered(answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) + Send + 'static) -> Connection {
    let serve = |tcp| async move {
        let mut connection = server::handshake(tcp).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            answer(request, respond);
        }
    };
    connected(serve, Duration::from_secs(5)).await
}

fn grpc() -> Response<()> {
    Response::builder().header("content-type", "application/grpc+proto").body(()).unwrap()
}

fn status(code: &'static str, words: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers.insert("grpc-message", HeaderValue::from_static(words));
    trailers
}

fn framed(message: &PutRequest) -> Vec<u8> {
    let mut frame = vec![0];
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).unwrap();
    frame
}

fn put(value: &[u8]) -> PutRequest {
    PutRequest { key: Bytes::from_static(b"k"), value: Bytes::copy_from_slice(value), ..PutRequest::default() }
}

/// Returns all messages of an answer.
async fn all(connection: &Connection) -> Result<Vec<PutRequest>, Status> {
    let mut connection = connection.clone();
    connection.ready().await?;
    let (mut requests, mut answers) = connection.begin(PATH, PLAIN)?;
    requests.send(&put(b"asked"), true);
    let mut messages = Vec::new();
    while let Some(message) = answers.next().await? {
        messages.push(message);
    }
    Ok(messages)
}

#[tokio::test]
async fn messages_are_read_from_any_chunks() {
    let messages = [put(b"first"), put(b""), put(&[7; 70_000]), put(&[8; 400_000]), put(b"last"), PutRequest::default()];
    let bytes: Vec<u8> = messages.iter().flat_map(framed).collect();
    for length in [1, 2, 5, 6, 7, 11, 1000, 16_384, bytes.len()] {
        let bytes = bytes.clone();
        let connection = answered(move |_, mut respond| {
            let mut body = respond.send_response(grpc(), false).unwrap();
            // Each chunk is sent in frames of its own, of at most 16 KiB. Only the first bytes are
            // sent in very small chunks, because all of them would be too many.
            let (some, rest) = bytes.split_at(if length < 1000 { 64 } else { 0 });
            for chunk in some.chunks(length).chain(rest.chunks(length.max(1000))) {
                body.send_data(Bytes::copy_from_slice(chunk), false).unwrap();
            }
            body.send_trailers(status("0", "")).unwrap();
        });
        assert_eq!(all(&connection.await).await.unwrap(), messages, "{length}");
    }
}

/// Callers that were answered together make their next calls together. Without a yield, the worker
/// thread would run the connection's task right after the first of these calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn concurrent_requests_share_one_write() {
    const CALLS: usize = 16;
    let (near, far) = tokio::io::duplex(1 << 20);
    // The server answers the first call alone, then all others together. It runs in a separate
    // thread, so it uses no time of the callers' runtime.
    std::thread::spawn(move || {
        let serve = async {
            let mut connection = server::handshake(far).await.unwrap();
            for together in [1, CALLS, usize::MAX] {
                let mut asked = Vec::new();
                while asked.len() < together
                    && let Some(Ok((_, respond))) = connection.accept().await
                {
                    asked.push(respond);
                }
                for mut respond in asked {
                    let mut body = respond.send_response(grpc(), false).unwrap();
                    body.send_data(framed(&put(b"done")).into(), false).unwrap();
                    body.send_trailers(status("0", "")).unwrap();
                }
            }
        };
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(serve);
    });
    let writes = Arc::new(AtomicUsize::new(0));
    let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port: 1 };
    let target = Target::new(&endpoint, &ConnectOptions::new(vec![endpoint.clone()])).unwrap();
    let connection = Connection::over(Io::of(Counted { bytes: near, writes: writes.clone() }), &target).await.unwrap();
    let call = |mut connection: Connection| async move {
        connection.ready().await.unwrap();
        let (mut requests, mut answers) = connection.begin(PATH, PLAIN).unwrap();
        // With vectored writes, `h2` would not copy a payload of this size next to its frame.
        requests.send(&put(&[1; 600]), true);
        while answers.next::<PutRequest>().await.unwrap().is_some() {}
    };
    tokio::spawn(call(connection.clone())).await.unwrap();
    let before = writes.load(Ordering::SeqCst);
    let all = tokio::spawn(async move {
        let calls: Vec<_> = (0..CALLS).map(|_| tokio::spawn(call(connection.clone()))).collect();
        for call in calls {
            call.await.unwrap();
        }
    });
    all.await.unwrap();
    let writes = writes.load(Ordering::SeqCst) - before;
    assert!(writes <= CALLS / 4, "{writes} writes for {CALLS} requests");
}

/// A byte stream that counts its writes.
struct Counted {
    bytes: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(cx, into)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.bytes).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.bytes).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn server_receives_headers_and_body() {
    let value = vec![3; 1_500_000];
    let (tell, told) = oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let connection = answered(move |request, mut respond| {
        let tell = tell.lock().unwrap().take().unwrap();
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut bytes = BytesMut::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.unwrap();
                body.flow_control().release_capacity(chunk.len()).unwrap();
                bytes.put(chunk);
            }
            respond.send_response(Response::builder().header("grpc-status", "0").body(()).unwrap(), true).unwrap();
            tell.send((head, bytes)).unwrap();
        });
    })
    .await;
    let token = HeaderValue::from_static("secret");
    let (mut requests, mut answers) = connection.clone().begin(PATH, Metadata { leader: true, token: Some(&token) }).unwrap();
    requests.send(&put(&value), true);
    // This answer has only a status.
    assert_eq!(answers.next::<PutRequest>().await.unwrap(), None);
    let (head, bytes) = told.await.unwrap();
    assert_eq!((head.method.as_str(), head.uri.path(), head.uri.scheme_str()), ("POST", PATH, Some("http")));
    let said = |name| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(
        ["te", "content-type", "hasleader", "token"].map(said).map(Option::unwrap),
        ["trailers", "application/grpc", "true", "secret"]
    );
    assert_eq!(bytes, framed(&put(&value)));
}

#[tokio::test]
async fn unusual_answers_are_classified() {
    type Answer = fn(SendResponse<Bytes>);
    let whole: Answer = |mut respond| {
        let headers = status("5", "etcdserver: requested lease not found");
        let mut response = grpc();
        response.headers_mut().extend(headers);
        respond.send_response(response, true).unwrap();
    };
    let at_the_end: Answer = |mut respond| {
        let mut body = respond.send_response(grpc(), false).unwrap();
        body.send_data(framed(&put(b"1")).into(), false).unwrap();
        body.send_trailers(status("14", "etcdserver: no leader")).unwrap();
    };
    let without_a_status: Answer = |mut respond| {
        let mut body = respond.send_response(grpc(), false).unwrap();
        body.send_data(framed(&put(b"1")).into(), true).unwrap();
    };
    let within_a_message: Answer = |mut respond| {
        let mut body = respond.send_response(grpc(), false).unwrap();
        body.send_data(Bytes::from_static(b"\0\0\0\0\x09half"), false).unwrap();
        body.send_trailers(status("0", "")).unwrap();
    };
    let compressed: Answer = |mut respond| {
        let mut body = respond.send_response(grpc(), false).unwrap();
        body.send_data(Bytes::from_static(b"\x01\0\0\0\x01x"), true).unwrap();
    };
    let endless: Answer = |mut respond| {
        let mut body = respond.send_response(grpc(), false).unwrap();
        body.send_data(Bytes::from_static(b"\0\xff\xff\xff\xffx"), true).unwrap();
    };
    let no_message: Answer = |mut respond| {
        let mut body = respond.send_response(grpc(), false).unwrap();
        body.send_data(Bytes::from_static(b"\0\0\0\0\x02\xff\xff"), true).unwrap();
    };
    let not_found: Answer = |mut respond| drop(respond.send_response(Response::builder().status(404).body(()).unwrap(), true).unwrap());
    let nobody: Answer = |mut respond| drop(respond.send_response(Response::builder().status(503).body(()).unwrap(), true).unwrap());
    let page: Answer =
        |mut respond| drop(respond.send_response(Response::builder().header("content-type", "text/html").body(()).unwrap(), true).unwrap());
    let refused: Answer = |mut respond| respond.send_reset(Reason::REFUSED_STREAM);
    let reset: Answer = |mut respond| respond.send_reset(Reason::INTERNAL_ERROR);
    for (name, answer, row) in [
        ("whole", whole, Row::LeaseNotFound),
        ("at the end", at_the_end, Row::NoLeader),
        ("without a status", without_a_status, Row::Severed),
        ("within a message", within_a_message, Row::Severed),
        ("compressed", compressed, Row::NotGrpc),
        ("endless", endless, Row::AnswerTooLarge),
        ("no message", no_message, Row::NotGrpc),
        ("not found", not_found, Row::NotGrpc),
        ("nobody", nobody, Row::Other(Code::Unavailable)),
        ("page", page, Row::NotGrpc),
        ("refused", refused, Row::NotSent),
        ("reset", reset, Row::Severed),
    ] {
        let mut connection = answered(move |_, respond| answer(respond)).await;
        let status = all(&connection).await.unwrap_err();
        assert_eq!(classify(&status), row, "{name}: {status:?}");
        // The connection is still usable.
        connection.ready().await.unwrap();
    }
}

/// No request is sent before the server has shown that it speaks HTTP/2, so a write to one of these
/// servers is known to be not applied.
#[tokio::test]
async fn other_protocols_are_detected_before_first_request() {
    // The flag says whether the first bytes show another protocol.
    let cases: [(&str, &'static [u8], bool); 7] = [
        ("HTTP/1", b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n400 Bad Request", true),
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", true),
        ("TLS", b"\x15\x03\x01\0\x02\x02\x28", true),
        ("Redis", b"-ERR unknown command 'PRI'\r\n", true),
        ("an answer without settings", b"\0\0\x01\x01\x04\0\0\0\x01\x88", true),
        ("an unknown frame alone", b"\0\0\x04\xff\0\0\0\0\0ABCD", false),
        ("nothing", b"", false),
    ];
    for (name, bytes, is_other_protocol) in cases {
        // The server waits for the client's preface, sends its bytes, and closes the connection.
        let serve = move |mut tcp: TcpStream| async move {
            let mut asked = Vec::new();
            while !asked.ends_with(b"SM\r\n\r\n") {
                asked.push(tcp.read_u8().await.unwrap());
            }
            tcp.write_all(bytes).await.unwrap();
            tcp.shutdown().await.unwrap();
            // The client has sent settings and window updates, but no frame with headers or data.
            let mut rest = Vec::new();
            let _ = tcp.read_to_end(&mut rest).await;
            let mut rest = &rest[..];
            while let [a, b, c, kind, ..] = *rest {
                assert!(kind > 1, "a frame of the type {kind}");
                rest = rest.get(9 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c))..).unwrap_or_default();
            }
        };
        let status = opened(serve, Duration::from_secs(5)).await.unwrap_err();
        let failure = Failure::of("here", status.clone()).before_sending();
        assert!(!failure.verdict().may_have_applied, "{name}");
        assert_eq!(failure.row == Row::NotGrpc, is_other_protocol, "{name}: {status:?}");
    }
}

#[tokio::test]
async fn closed_connection_refuses_calls() {
    let closed = |tcp| async move {
        let mut connection = server::handshake(tcp).await.unwrap();
        assert!(timeout(Duration::from_millis(20), connection.accept()).await.is_err());
    };
    let mut connection = connected(closed, Duration::from_secs(5)).await;
    connection.shared.end.wait().await;
    let status = connection.ready().await.unwrap_err();
    assert_eq!(classify(&status), Row::NotSent, "{status:?}");
}

#[tokio::test]
async fn calls_end_when_server_is_silent() {
    let silent = |tcp| async move {
        // The server accepts bytes but sends none.
        let _connection = server::handshake(tcp).await.unwrap();
        pending::<()>().await;
    };
    let keep_alive = Duration::from_millis(50);
    let mut connection = connected(silent, keep_alive).await;
    sleep(keep_alive * 6).await;
    assert_eq!(connection.shared.end.get(), None);
    let status = all(&connection).await.unwrap_err();
    assert_eq!(classify(&status), Row::Severed, "{status:?}");
    assert!(status.to_string().contains("no answer to a ping"), "{status:?}");
    connection.ready().await.unwrap_err();
}

/// Answers to one call do not show that the requests of other calls arrive.
#[tokio::test]
async fn lost_requests_are_detected_despite_other_answers() {
    // The server sends messages far more often than this, so that even a very slow machine does not
    // mistake them for silence.
    let keep_alive = Duration::from_secs(1);
    let serve = move |tcp| async move {
        let deaf = Arc::new(AtomicBool::new(false));
        let mut connection = server::handshake(Deaf { bytes: tcp, deaf: deaf.clone() }).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        deaf.store(true, Ordering::SeqCst);
        let mut body = respond.send_response(grpc(), false).unwrap();
        tokio::spawn(async move {
            let _request = request;
            while body.send_data(framed(&put(b"news")).into(), false).is_ok() {
                sleep(keep_alive / 100).await;
            }
        });
        while connection.accept().await.is_some() {}
    };
    let connection = connected(serve, keep_alive).await;
    let (mut requests, mut answers) = connection.clone().begin(PATH, PLAIN).unwrap();
    requests.send(&put(b"x"), false);
    assert_eq!(answers.next().await.unwrap(), Some(put(b"news")));
    let doubted = async {
        tokio::select! {
            () = connection.doubted() => {}
            () = async { while answers.next::<PutRequest>().await.unwrap().is_some() {} } => panic!("the call ended"),
        }
    };
    timeout(keep_alive * 30, doubted).await.expect("noticed");
    // The call continues.
    for _ in 0..20 {
        assert_eq!(answers.next().await.unwrap(), Some(put(b"news")));
    }
}

/// A byte stream that stops reading when `deaf` is set.
struct Deaf {
    bytes: TcpStream,
    deaf: Arc<AtomicBool>,
}

impl AsyncRead for Deaf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.deaf.load(Ordering::SeqCst) { Poll::Pending } else { Pin::new(&mut self.bytes).poll_read(cx, into) }
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }
}

/// A GOAWAY frame contains the number of the last stream that the server began. Streams with higher
/// numbers were never begun; the other streams are answered (RFC 9113, section 6.8).
#[tokio::test]
async fn closing_server_turns_away_later_calls() {
    let serve = |mut tcp: TcpStream| async move {
        let mut preface = [0; 24];
        tcp.read_exact(&mut preface).await.unwrap();
        let settings = [[0, 0, 0, 4, 0, 0, 0, 0, 0], [0, 0, 0, 4, 1, 0, 0, 0, 0]].concat();
        tcp.write_all(&settings).await.unwrap();
        let mut headers = 0;
        while headers < 4 {
            let mut head = [0; 9];
            tcp.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            tcp.read_exact(&mut payload).await.unwrap();
            headers += usize::from(head[3] == 1);
        }
        let go_away = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];
        tcp.write_all(&go_away).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        for stream in [1, 3] {
            // `:status` 200 and `grpc-status` 0.
            let answer = [&[0, 0, 16, 1, 5, 0, 0, 0, stream, 0x88, 0, 11], &b"grpc-status\x010"[..]].concat();
            tcp.write_all(&answer).await.unwrap();
        }
        pending::<()>().await;
    };
    let mut connection = connected(serve, Duration::from_secs(5)).await;
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let (mut requests, answers) = connection.clone().begin(PATH, PLAIN).unwrap();
            requests.send(&put(b"x"), true);
            answers
        })
        .collect();
    let mut ends = Vec::new();
    for mut answers in calls {
        ends.push(timeout(Duration::from_secs(5), answers.next::<PutRequest>()).await.expect("an end").map_err(|status| classify(&status)));
    }
    assert_eq!(ends, [Ok(None), Ok(None), Err(Row::TurnedAway), Err(Row::TurnedAway)]);
    // The connection accepts no more calls.
    assert!(!classify(&connection.ready().await.unwrap_err()).verdict().may_have_applied);
}

/// A long stream must not wait for the end of another long stream, which may never come.
#[tokio::test]
async fn lasting_calls_respect_stream_limit() {
    let serve = |tcp| async move {
        let mut connection: server::Connection<_, Bytes> = server::Builder::new().max_concurrent_streams(2).handshake(tcp).await.unwrap();
        let mut open = Vec::new();
        while let Some(Ok(stream)) = connection.accept().await {
            open.push(stream);
        }
    };
    let connection = connected(serve, Duration::from_secs(5)).await;
    let begin = || connection.clone().begin_lasting(PATH, PLAIN).unwrap();
    let (first, second) = (begin(), begin());
    assert!(first.is_some() && second.is_some());
    assert!(begin().is_none());
    drop(first);
    assert!(begin().is_some());
}

#[tokio::test]
async fn long_call_does_not_end_connection() {
    let keep_alive = Duration::from_millis(50);
    let serve = move |tcp| async move {
        let mut connection = server::handshake(tcp).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let mut body = respond.send_response(grpc(), false).unwrap();
                sleep(keep_alive * 8).await;
                body.send_trailers(status("0", "")).unwrap();
            });
        }
    };
    let connection = connected(serve, keep_alive).await;
    assert_eq!(all(&connection).await.unwrap(), []);
    assert!(!connection.is_doubted());
}

#[tokio::test]
async fn dropped_call_is_cancelled() {
    let (tell, told) = oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let connection = answered(move |request, mut respond| {
        let tell = tell.lock().unwrap().take().unwrap();
        tokio::spawn(async move {
            let reason = poll_fn(|cx| respond.poll_reset(cx)).await;
            tell.send(reason.unwrap()).unwrap();
            drop(request);
        });
    })
    .await;
    let (mut requests, mut answers) = connection.clone().begin(PATH, PLAIN).unwrap();
    requests.send(&put(b"x"), true);
    assert!(timeout(Duration::from_millis(20), answers.begun()).await.is_err());
    assert_eq!(connection.shared.calls.load(Ordering::Relaxed), 1);
    drop((requests, answers));
    assert_eq!(told.await.unwrap(), Reason::CANCEL);
    assert_eq!(connection.shared.calls.load(Ordering::Relaxed), 0);
}

/// Returns the beginning of a much longer message.
fn start_of_long_message() -> Bytes {
    let mut begun = framed(&put(&[7; 1_000_000]));
    begun.truncate(100_000);
    begun.into()
}

#[tokio::test]
async fn dropped_call_with_long_message_is_cancelled() {
    let (tell, told) = oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let connection = answered(move |request, mut respond| {
        let tell = tell.lock().unwrap().take().unwrap();
        tokio::spawn(async move {
            let mut body = respond.send_response(grpc(), false).unwrap();
            body.send_data(start_of_long_message(), false).unwrap();
            let reason = poll_fn(|cx| body.poll_reset(cx)).await;
            tell.send(reason.unwrap()).unwrap();
            drop(request);
        });
    })
    .await;
    let (mut requests, mut answers) = connection.clone().begin(PATH, PLAIN).unwrap();
    requests.send(&put(b"x"), true);
    assert!(timeout(Duration::from_millis(50), answers.next::<PutRequest>()).await.is_err());
    // The read is cancel-safe.
    assert!(timeout(Duration::from_millis(50), answers.next::<PutRequest>()).await.is_err());
    drop((requests, answers));
    assert_eq!(told.await.unwrap(), Reason::CANCEL);
}

#[tokio::test]
async fn broken_stream_fails_long_message() {
    let reset: fn(SendResponse<Bytes>) = |mut respond| {
        let mut body = respond.send_response(grpc(), false).unwrap();
        body.send_data(start_of_long_message(), false).unwrap();
        tokio::spawn(async move {
            sleep(Duration::from_millis(50)).await;
            body.send_reset(Reason::INTERNAL_ERROR);
        });
    };
    let ended: fn(SendResponse<Bytes>) = |mut respond| {
        let mut body = respond.send_response(grpc(), false).unwrap();
        body.send_data(start_of_long_message(), false).unwrap();
        body.send_trailers(status("0", "")).unwrap();
    };
    for answer in [reset, ended] {
        let status = all(&answered(move |_, respond| answer(respond)).await).await.unwrap_err();
        assert_eq!(classify(&status), Row::Severed, "{status:?}");
    }
    let closed = |tcp| async move {
        let mut connection = server::handshake(tcp).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut body = respond.send_response(grpc(), false).unwrap();
        body.send_data(start_of_long_message(), false).unwrap();
        assert!(timeout(Duration::from_millis(50), connection.accept()).await.is_err());
    };
    let status = all(&connected(closed, Duration::from_secs(5)).await).await.unwrap_err();
    assert_eq!(classify(&status), Row::Severed, "{status:?}");
}

/// A server keeps a watch stream open until the client cancels it, so the call must not wait for
/// the end of the stream after the first answer.
#[tokio::test(start_paused = true)]
async fn call_on_long_stream_ends_with_first_answer() {
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let mut connection = server::handshake(far).await.unwrap();
        let mut open = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let mut body = respond.send_response(grpc(), false).unwrap();
            body.send_data(Bytes::from_static(b"\0\0\0\0\0"), false).unwrap();
            open.push((request, body));
        }
    });
    let endpoint = Endpoint { host: "127.0.0.1".to_owned(), port: 1 };
    let target = Target::new(&endpoint, &ConnectOptions::new(vec![endpoint.clone()])).unwrap();
    let connection = Connection::over(Io::of(near), &target).await.unwrap();
    let begun = Instant::now();
    let limit = begun + Duration::from_secs(1);
    let answer = send(connection, &FIRST_OF_WATCH, &WatchRequest::of_one_key(), PLAIN, limit, limit).await;
    assert!(answer.is_ok());
    assert_eq!(begun.elapsed(), Duration::ZERO);
}
