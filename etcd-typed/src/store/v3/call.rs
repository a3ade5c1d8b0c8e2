//! `Core`: one call from its request to its answer, with all attempts. What an error means is `status.rs`; here it is acted on.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::auth::Auth;
use super::channel::{Endpoints, Lane, Slot};
use super::connection::{Connection, Metadata, Sent};
use super::grpc::{Local, Status};
use super::status::{Failure, Repeat, Row};
use super::wire::{Answer, MEMBER_LIST, MemberListRequest, Method, Shape, Untyped};
use crate::error::Result;
use crate::retry::RetryPolicy;
use crate::store::connect::ConnectOptions;
use crate::telemetry;

/// The store in metrics and events.
pub(super) const NAME: &str = "v3";

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
        Q: prost::Message,
        A: Answer + Default,
    {
        self.call_until(method, how, request, Instant::now() + self.retry.call_timeout).await
    }

    /// The same, which ends at `deadline`.
    pub(super) async fn call_until<Q, A>(
        self: &Arc<Self>,
        method: &Method<Q, A>,
        how: How,
        request: Q,
        deadline: Instant,
    ) -> Result<A, Failure>
    where
        Q: prost::Message,
        A: Answer + Default,
    {
        let mut answer = A::default();
        self.call_into(&method.untyped(), how, &request, &mut answer, deadline).await?;
        Ok(answer)
    }

    /// As with [`attempts_into`](Self::attempts_into) and [`attempt_into`](Self::attempt_into), all is in it that is the same for all types, so that it is
    /// compiled once.
    async fn call_into(
        self: &Arc<Self>,
        method: &Untyped,
        how: How,
        request: &dyn Sent,
        answer: &mut dyn Answer,
        deadline: Instant,
    ) -> Result<(), Failure> {
        // A new token can be refused once more where users and roles are being changed; after that it is not the token.
        let mut logins = 0;
        let mut may_have_applied = false;
        loop {
            let session = Auth::session(self, deadline).await?;
            let mut failure = match self.attempts_into(method, how, session.token.as_ref(), request, answer, deadline).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            may_have_applied |= failure.may_have_applied;
            failure.may_have_applied = may_have_applied;
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
        token: Option<&HeaderValue>,
        request: &Q,
        deadline: Instant,
    ) -> Result<A, Failure>
    where
        Q: prost::Message,
        A: Answer + Default,
    {
        let mut answer = A::default();
        self.attempts_into(&method.untyped(), how, token, request, &mut answer, deadline).await?;
        Ok(answer)
    }

    async fn attempts_into(
        &self,
        method: &Untyped,
        how: How,
        token: Option<&HeaderValue>,
        request: &dyn Sent,
        answer: &mut dyn Answer,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut backoff = self.retry.backoff();
        let mut may_have_applied = false;
        // How often an endpoint said what only another one can mend.
        let mut elsewhere = 0;
        loop {
            let slot = self.endpoints.pick();
            let mut failure = match self.attempt_into(slot, method, how, token, request, answer, deadline).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let verdict = failure.verdict();
            slot.judge(verdict);
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

    /// One attempt at this endpoint.
    pub(super) async fn attempt<Q, A>(
        &self,
        slot: &Slot,
        method: &Method<Q, A>,
        how: How,
        token: Option<&HeaderValue>,
        request: &Q,
        deadline: Instant,
    ) -> Result<A, Failure>
    where
        Q: prost::Message,
        A: Answer + Default,
    {
        let mut answer = A::default();
        self.attempt_into(slot, &method.untyped(), how, token, request, &mut answer, deadline).await?;
        Ok(answer)
    }

    #[allow(clippy::too_many_arguments, reason = "they are those of `attempt`, and the answer")]
    async fn attempt_into(
        &self,
        slot: &Slot,
        method: &Untyped,
        how: How,
        token: Option<&HeaderValue>,
        request: &dyn Sent,
        answer: &mut dyn Answer,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let limit = if how.repeatable { deadline.min(Instant::now() + self.retry.read_attempt_timeout) } else { deadline };
        let connection = match timeout_at(limit, self.endpoints.connection(slot, how.lane)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(status)) => return Err(Failure::of(&slot.name, status)),
            Err(_) => return Err(Failure::of(&slot.name, Local::NotSent("none yet".to_owned()).into())),
        };
        let metadata = Metadata { leader: how.leader, token };
        if how.write && !how.repeatable && self.probes && !slot.is_proven() {
            self.probe(slot, &connection, token).await.map_err(Failure::before_sending)?;
        }
        let sent = send_into(connection, method, request, answer, metadata, limit, deadline);
        sent.await.map_err(|unanswered| unanswered.at(slot, method.path))?;
        self.endpoints.check(slot, answer.header(), Row::ForeignCluster)?;
        slot.succeeded();
        Ok(())
    }

    /// Sees that an endpoint is alive and of our cluster before a write is entrusted to it: a write that hangs at a frozen server, or was
    /// done by a foreign cluster, cannot be taken back. Nor can one that a server with TLS may have refused together with our
    /// certificate, which it does only after the handshake.
    async fn probe(&self, slot: &Slot, connection: &Connection, token: Option<&HeaderValue>) -> Result<(), Failure> {
        let (request, metadata) = (MemberListRequest { linearizable: false }, Metadata { leader: true, token });
        let limit = Instant::now() + self.connect_timeout;
        match send(connection.clone(), &MEMBER_LIST, &request, metadata, limit, limit).await {
            Ok(answer) => self.endpoints.check(slot, answer.header(), Row::ForeignCluster)?,
            Err(unanswered) => {
                let failure = unanswered.at(slot, MEMBER_LIST.path);
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
pub(super) enum Unanswered {
    /// The server, or the connection, said so.
    Refused(Status),
    /// Neither in time.
    TimedOut,
}

impl Unanswered {
    pub(super) fn at(self, slot: &Slot, path: &str) -> Failure {
        match self {
            Self::Refused(status) => Failure::of(&slot.name, status),
            Self::TimedOut => Failure::new(Row::TimedOut, format!("{}: no answer to {path} in time", slot.name)),
        }
    }
}

/// Sends one request on a connection that is ready. The answer must begin before `first`, which it does when the server is done with it, and be here before
/// `whole`: a large one may take its time on a slow line.
pub(super) async fn send<Q, A>(
    connection: Connection,
    method: &Method<Q, A>,
    request: &Q,
    metadata: Metadata<'_>,
    first: Instant,
    whole: Instant,
) -> Result<A, Unanswered>
where
    Q: prost::Message,
    A: Answer + Default,
{
    let mut answer = A::default();
    send_into(connection, &method.untyped(), request, &mut answer, metadata, first, whole).await?;
    Ok(answer)
}

async fn send_into(
    connection: Connection,
    method: &Untyped,
    request: &dyn Sent,
    answer: &mut dyn Answer,
    metadata: Metadata<'_>,
    first: Instant,
    whole: Instant,
) -> Result<(), Unanswered> {
    let (mut requests, mut answers) = connection.begin(method.path, metadata).map_err(Unanswered::Refused)?;
    requests.send(request, true);
    timeout_at(first, answers.begun()).await.map_err(|_| Unanswered::TimedOut)?.map_err(Unanswered::Refused)?;
    let answer = async {
        if !answers.next_into(answer).await? {
            return Err(Local::Ended("without a message").into());
        }
        if method.shape == Shape::Unary {
            // An error may still be there.
            answers.next_into(&mut ()).await?;
        }
        Ok(())
    };
    timeout_at(whole, answer).await.map_err(|_| Unanswered::TimedOut)?.map_err(Unanswered::Refused)
}
