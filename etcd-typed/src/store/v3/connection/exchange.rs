//! One gRPC call on a connection: sends requests, receives answers, and reads the status at the end
//! ("gRPC over HTTP/2" of the gRPC project).

use std::{fmt, mem};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use prost::{DecodeError, Message};
use tokio::sync::oneshot;

use super::incoming::{Chunks, Gathered, Incoming, PREFIX, Read};
use super::{Connection, ConnectionState, UnderWay};
use crate::store::v3::grpc::{Local, Status};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("etcd-typed/", env!("CARGO_PKG_VERSION")));
const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");
const TOKEN: HeaderName = HeaderName::from_static("token");

/// The headers of a request that the server evaluates.
#[derive(Clone, Copy, Debug)]
pub(in crate::store::v3) struct Metadata<'t> {
    /// Whether a member without a leader should refuse the request at once.
    pub(in crate::store::v3) leader: bool,
    pub(in crate::store::v3) token: Option<&'t HeaderValue>,
}

/// The request side of a call. Sent messages are buffered without limit while the server does not
/// accept them.
pub(in crate::store::v3) struct Requests(SendStream<Bytes>);

/// The answer side of a call. Dropping this value early cancels the call on the server.
pub(in crate::store::v3) struct Answers {
    state: State,
    /// Marks the call as under way until it ends.
    call: UnderWay,
}

enum State {
    /// The server has not begun to answer.
    Asked(ResponseFuture),
    Answering(Incoming),
    /// The connection's task is assembling a long message.
    Gathering(oneshot::Receiver<Gathered>),
    Ended,
}

impl Connection {
    /// Begins a call. The connection must be [`ready`](Self::ready).
    pub(in crate::store::v3) fn begin(mut self, path: &'static str, metadata: Metadata<'_>) -> Result<(Requests, Answers), Status> {
        let request = self.request(path, metadata)?;
        let call = UnderWay::of(&self.shared);
        let (answer, requests) = self.sender.send_request(request, false).map_err(|cause| unsent(&cause))?;
        Ok((Requests(requests), Answers { state: State::Asked(answer), call }))
    }

    /// Begins a call that stays open. Returns `None` if the server's stream limit is reached,
    /// because the call would wait for the end of another call.
    pub(in crate::store::v3) fn begin_lasting(
        self,
        path: &'static str,
        metadata: Metadata<'_>,
    ) -> Result<Option<(Requests, Answers)>, Status> {
        let limit = self.sender.current_max_send_streams();
        let begun = self.begin(path, metadata)?;
        // If this is the only call on the connection, another connection would not have more room.
        let place = begun.1.call.place;
        Ok((place <= limit || place == 1).then_some(begun))
    }

    fn request(&self, path: &'static str, metadata: Metadata<'_>) -> Result<Request<()>, Status> {
        let uri = Uri::builder()
            .scheme(self.shared.scheme.clone())
            .authority(self.shared.authority.clone())
            .path_and_query(PathAndQuery::from_static(path))
            .build()
            .map_err(|cause| Local::NotSent(cause.to_string()))?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        headers.reserve(5);
        headers.insert(TE, TRAILERS);
        headers.insert(CONTENT_TYPE, GRPC);
        headers.insert(USER_AGENT, AGENT);
        if metadata.leader {
            headers.insert(HAS_LEADER, HeaderValue::from_static("true"));
        }
        if let Some(token) = metadata.token {
            headers.insert(TOKEN, token.clone());
        }
        Ok(request)
    }
}

impl Requests {
    /// Sends a message. Does nothing if the call has ended; its [`Answers`] say why.
    pub(in crate::store::v3) fn send(&mut self, message: &dyn Sent, last: bool) {
        let _ = self.0.send_data(message.frame(), last);
    }

    /// Ends the request side. Otherwise dropping the stream cancels the call.
    pub(in crate::store::v3) fn end(&mut self) {
        let _ = self.0.send_data(Bytes::new(), true);
    }
}

/// Any message to send. The trait object lets the code of a call be compiled once instead of once
/// for each method.
pub(in crate::store::v3) trait Sent: Sync {
    /// Returns the message with its length prefix.
    fn frame(&self) -> Bytes;
}

impl<M: Message> Sent for M {
    fn frame(&self) -> Bytes {
        let length = self.encoded_len();
        let mut frame = BytesMut::with_capacity(PREFIX + length);
        frame.put_u8(0);
        // A message too long for its length field is far above any server's limit, and the server
        // refuses it.
        frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        self.encode_raw(&mut frame);
        frame.freeze()
    }
}

/// Any message to receive.
pub(in crate::store::v3) trait Received: Send {
    /// Decodes a message into `self`.
    fn read(&mut self, message: Chunks) -> Result<(), DecodeError>;
}

impl<M: Message + Default> Received for M {
    fn read(&mut self, message: Chunks) -> Result<(), DecodeError> {
        *self = Self::decode(message)?;
        Ok(())
    }
}

impl Answers {
    /// Waits until the server begins to answer. This method is cancel-safe.
    pub(in crate::store::v3) async fn begun(&mut self) -> Result<(), Status> {
        let State::Asked(answer) = &mut self.state else { return Ok(()) };
        let response = answer.await;
        self.call.answered();
        let response = match response {
            Ok(response) => response,
            Err(cause) if is_turned_away(&cause) => return Err(unsent(&cause)),
            Err(cause) => return Err(self.shared().broken(cause).await),
        };
        self.state = State::Ended;
        self.state = opened(response)?.map_or(State::Ended, |body| State::Answering(Incoming::of(body)));
        Ok(())
    }

    /// Returns the next message, or `None` after the last one if the call succeeded. This method is
    /// cancel-safe: the next use continues a message that was begun.
    pub(in crate::store::v3) async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Status> {
        let mut message = A::default();
        Ok(self.next_into(&mut message).await?.then_some(message))
    }

    /// Like [`next`](Self::next), but decodes into `into` and returns whether there was a message.
    pub(in crate::store::v3) async fn next_into(&mut self, into: &mut dyn Received) -> Result<bool, Status> {
        self.begun().await?;
        loop {
            self.give_away_if_long();
            let read = match &mut self.state {
                State::Answering(incoming) => {
                    if let Some(message) = incoming.message()? {
                        into.read(message).map_err(|cause| Local::NotGrpc(format!("not a message of etcd: {cause}")))?;
                        return Ok(true);
                    }
                    incoming.read().await
                }
                State::Gathering(gathered) => {
                    let Ok((incoming, read)) = gathered.await else { return Err(Local::Ended("with its connection").into()) };
                    self.state = State::Answering(incoming);
                    read
                }
                State::Asked(_) | State::Ended => return Ok(false),
            };
            match read {
                Read::More => {}
                Read::End => return self.end().await.map(|()| false),
                Read::Broken(cause) => return Err(self.shared().broken(cause).await),
            }
        }
    }

    fn give_away_if_long(&mut self) {
        if matches!(&self.state, State::Answering(incoming) if incoming.is_long())
            && let State::Answering(incoming) = mem::replace(&mut self.state, State::Ended)
        {
            self.state = State::Gathering(self.shared().long.gather(incoming));
        }
    }

    /// Reads the status after the last message.
    async fn end(&mut self) -> Result<(), Status> {
        let State::Answering(incoming) = &mut self.state else { return Ok(()) };
        let (trailers, is_empty) = (incoming.trailers().await, incoming.is_empty());
        let trailers = match trailers {
            Ok(trailers) => trailers.unwrap_or_default(),
            Err(cause) => return Err(self.shared().broken(cause).await),
        };
        self.state = State::Ended;
        match Status::said(&trailers) {
            Some(Err(status)) => Err(status),
            _ if !is_empty => Err(Local::Ended("within a message").into()),
            Some(Ok(())) => Ok(()),
            None => Err(Local::Ended("without a status").into()),
        }
    }

    fn shared(&self) -> &ConnectionState {
        &self.call.shared
    }
}

/// Returns whether a closing server did not begin this request and never will. `h2` reports this
/// for streams with a higher number than the last one in the server's GOAWAY frame (RFC 9113,
/// section 6.8). The other streams continue and get no such error.
fn is_turned_away(cause: &h2::Error) -> bool {
    cause.is_go_away() && cause.is_remote()
}

/// Returns the status of a request that the server has not begun to process.
pub(super) fn unsent(cause: &h2::Error) -> Status {
    if is_turned_away(cause) { Local::TurnedAway(cause.to_string()).into() } else { Local::NotSent(cause.to_string()).into() }
}

/// Returns the body of an answer. Returns `None` if the answer has no body, only a status of
/// success.
fn opened(response: Response<RecvStream>) -> Result<Option<RecvStream>, Status> {
    let (head, body) = response.into_parts();
    match Status::said(&head.headers) {
        Some(said) => said.map(|()| None),
        None if head.status != StatusCode::OK => Err(of_http(head.status)),
        None if !is_grpc(&head.headers) => {
            Err(Local::NotGrpc("the content type of the answer is not `application/grpc`".to_owned()).into())
        }
        None => Ok(Some(body)),
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(GRPC.as_bytes()))
}

/// Returns the status of an answer that is not from a gRPC server, but from a proxy that cannot
/// reach a server, or from something unknown.
fn of_http(status: StatusCode) -> Status {
    match status.as_u16() {
        429 | 502..=504 => Local::NobodyBehind(status).into(),
        413 => Local::RefusedByProxy(status).into(),
        _ => Local::NotGrpc(format!("HTTP status {status}")).into(),
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}
