//! `Core`: one call from its request to its answer, with all attempts. What an error means is `status.rs`; here it is acted on.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::client::Grpc;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::auth::Auth;
use super::channel::{Endpoints, Lane, Slot, not_sent};
use super::status::{Failure, Repeat, Row};
use super::wire::{Answer, MEMBER_LIST, MemberListRequest, Method, Shape};
use crate::error::Result;
use crate::retry::RetryPolicy;
use crate::store::connect::ConnectOptions;
use crate::telemetry;

/// The store in metrics and events.
pub(super) const NAME: &str = "v3";

/// The largest answer that is decoded. A page of a range is made smaller when it does not fit; a watch is sent in fragments of 2 MiB, but not
/// what it held back until it was created.
pub(super) const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// What all calls of one client share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) endpoints: Endpoints,
    pub(super) auth: Auth,
    pub(super) retry: RetryPolicy,
    connect_timeout: Duration,
    /// Whether an endpoint is tried out before a write goes there: where there is another one to go to, and with TLS.
    probes: bool,
}

/// How a call is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    pub(super) lane: Lane,
    /// It changes something, so its outcome may be unknown.
    pub(super) write: bool,
    /// Happening twice is as good as happening once.
    pub(super) repeatable: bool,
    /// A member that knows no leader shall refuse it at once.
    pub(super) leader: bool,
}

impl How {
    /// A read that sees every acknowledged write.
    pub(super) const READ: Self = Self { lane: Lane::Calls, write: false, repeatable: true, leader: true };
    /// A read that any member answers from what it has.
    pub(super) const STALE: Self = Self { leader: false, ..Self::READ };
    /// A write, sent again only while it cannot have been applied.
    pub(super) const WRITE: Self = Self { lane: Lane::Calls, write: true, repeatable: false, leader: true };
    /// About a lease: its id makes it harmless to send it again.
    pub(super) const LEASE: Self = Self { lane: Lane::Leases, write: true, repeatable: true, leader: true };
}

impl Core {
    pub(super) fn new(options: &ConnectOptions) -> Result<Self> {
        Ok(Self {
            endpoints: Endpoints::new(options)?,
            auth: Auth::new(options.credentials.clone()),
            retry: options.retry.clone(),
            connect_timeout: options.connect_timeout,
            probes: options.endpoints.len() > 1 || options.tls.is_some(),
        })
    }

    /// A call with the token of the session; a token that is refused is renewed and the call made again, as long as there is time.
    pub(super) async fn call<Q, A>(self: &Arc<Self>, method: &Method<Q, A>, how: How, request: Q) -> Result<A, Failure>
    where
        Q: prost::Message + Clone + Default + 'static,
        A: prost::Message + Answer + Default + 'static,
    {
        let deadline = Instant::now() + self.retry.call_timeout;
        // A new token can be refused once more where users and roles are being changed; after that it is not the token.
        let mut logins = 0;
        loop {
            let session = Auth::session(self, deadline).await?;
            let failure = match self.attempts(method, how, session.token.as_ref(), &request, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if failure.row.verdict().repeat != Repeat::AfterLogin || logins >= 2 {
                return Err(failure);
            }
            logins += 1;
            if self.auth.has_credentials() {
                Auth::renew(self, &session, deadline).await?;
            } else if failure.row != Row::AuthChanged {
                return Err(failure);
            }
            telemetry::repeated(NAME, method.name(), failure.row.verdict().kind, failure.words());
        }
    }

    /// A call with this token, repeated as its errors allow, until `deadline`.
    pub(super) async fn attempts<Q, A>(
        &self,
        method: &Method<Q, A>,
        how: How,
        token: Option<&AsciiMetadataValue>,
        request: &Q,
        deadline: Instant,
    ) -> Result<A, Failure>
    where
        Q: prost::Message + Clone + Default + 'static,
        A: prost::Message + Answer + Default + 'static,
    {
        let mut backoff = self.retry.backoff();
        let mut may_have_applied = false;
        // How often an endpoint said what only another one can mend.
        let mut elsewhere = 0;
        loop {
            let slot = self.endpoints.pick();
            let mut failure = match self.attempt(slot, method, how, token, request, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let verdict = failure.verdict();
            if verdict.endpoint_failed {
                slot.failed();
            } else {
                slot.succeeded();
            }
            may_have_applied |= how.write && verdict.may_have_applied;
            let again = match verdict.repeat {
                Repeat::Always => true,
                Repeat::Harmless => how.repeatable,
                Repeat::Elsewhere => {
                    elsewhere += 1;
                    elsewhere < self.endpoints.count() && (how.repeatable || !verdict.may_have_applied)
                }
                Repeat::AfterLogin | Repeat::Never => false,
            };
            let next = Instant::now() + backoff.next_delay();
            if !again || next >= deadline {
                failure.may_have_applied = may_have_applied;
                return Err(failure);
            }
            telemetry::repeated(NAME, method.name(), verdict.kind, failure.words());
            sleep_until(next).await;
        }
    }

    async fn attempt<Q, A>(
        &self,
        slot: &Slot,
        method: &Method<Q, A>,
        how: How,
        token: Option<&AsciiMetadataValue>,
        request: &Q,
        deadline: Instant,
    ) -> Result<A, Failure>
    where
        Q: prost::Message + Clone + Default + 'static,
        A: prost::Message + Answer + Default + 'static,
    {
        let limit = if how.repeatable { deadline.min(Instant::now() + self.retry.read_attempt_timeout) } else { deadline };
        let channel = match timeout_at(limit, self.endpoints.channel(slot, how.lane)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(status)) => return Err(Failure::of(&slot.name, status)),
            Err(_) => return Err(Failure::of(&slot.name, not_sent("no connection yet"))),
        };
        if how.write && !how.repeatable && self.probes && !slot.is_proven() {
            self.probe(slot, &channel, token).await.map_err(Failure::before_sending)?;
        }
        let answer = send(channel, method, with_metadata(request.clone(), how.leader, token), limit, deadline).await;
        let answer = answer.map_err(|unsent| {
            if matches!(unsent, Unsent::NotReady(_)) {
                slot.forget(how.lane);
            }
            unsent.at(slot, method.path)
        })?;
        self.endpoints.check(slot, answer.header(), Row::ForeignCluster)?;
        slot.succeeded();
        Ok(answer)
    }

    /// Sees that an endpoint is alive and of our cluster before a write is entrusted to it: a write that hangs at a frozen server, or was
    /// done by a foreign cluster, cannot be taken back. Nor can one that a server with TLS may have refused together with our
    /// certificate, which it does only after the handshake.
    async fn probe(&self, slot: &Slot, channel: &Channel, token: Option<&AsciiMetadataValue>) -> Result<(), Failure> {
        let request = with_metadata(MemberListRequest { linearizable: false }, true, token);
        let limit = Instant::now() + self.connect_timeout;
        match send(channel.clone(), &MEMBER_LIST, request, limit, limit).await {
            Ok(answer) => self.endpoints.check(slot, answer.header(), Row::ForeignCluster)?,
            Err(unsent) => {
                let failure = unsent.at(slot, MEMBER_LIST.path);
                // Every other refusal is the word of a server that is alive.
                if failure.row.verdict().endpoint_failed {
                    return Err(failure);
                }
            }
        }
        slot.succeeded();
        Ok(())
    }
}

/// Why there is no answer.
pub(super) enum Unsent {
    /// The connection's own task is gone; nothing was sent.
    NotReady(Status),
    /// The server, or the stack on the way there and back, said so.
    Answered(Status),
    /// Neither in time.
    TimedOut,
}

impl Unsent {
    pub(super) fn at(self, slot: &Slot, path: &str) -> Failure {
        match self {
            Self::NotReady(status) | Self::Answered(status) => Failure::of(&slot.name, status),
            Self::TimedOut => Failure::new(Row::TimedOut, format!("{}: no answer to {path} in time", slot.name)),
        }
    }
}

/// Sends one request. The answer must begin before `first`, which it does when the server is done with it, and be here before `whole`: a
/// large one may take its time on a slow line.
pub(super) async fn send<Q, A>(
    channel: Channel,
    method: &Method<Q, A>,
    request: Request<Q>,
    first: Instant,
    whole: Instant,
) -> Result<A, Unsent>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel).max_decoding_message_size(LARGEST_ANSWER);
    grpc.ready().await.map_err(|cause| Unsent::NotReady(Status::from_error(Box::new(tonic::ConnectError(cause.into())))))?;
    let path = http::uri::PathAndQuery::from_static(method.path);
    let request = request.map(|message| futures_util::stream::iter([message]));
    let begun = timeout_at(first, grpc.streaming(request, path, ProstCodec::<Q, A>::default())).await;
    let mut answers = begun.map_err(|_| Unsent::TimedOut)?.map_err(Unsent::Answered)?.into_inner();
    let answer = async {
        let answer = answers.message().await?.ok_or_else(|| Status::unavailable("the stream ended without an answer"))?;
        if method.shape == Shape::Unary {
            // An error may still be there.
            answers.trailers().await?;
        }
        Ok(answer)
    };
    timeout_at(whole, answer).await.map_err(|_| Unsent::TimedOut)?.map_err(Unsent::Answered)
}

/// The request with what a server wants to know beside it.
pub(super) fn with_metadata<Q>(message: Q, leader: bool, token: Option<&AsciiMetadataValue>) -> Request<Q> {
    let mut request = Request::new(message);
    if leader {
        request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
    }
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.clone());
    }
    request
}
