//! `Core`: sends a request to an endpoint, and repeats the request as its errors allow. `status.rs`
//! decides what an error means; this file acts on that decision. `call.rs` adds the token of the
//! user.

use std::time::Duration;

use futures_util::future::join_all;
use http::HeaderValue;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::NAME;
use super::channel::{Endpoints, Slot};
use super::cluster::{Behind, SURVEY_PAUSE, agreed};
use super::connection::{Connection, Metadata, Sent};
use super::grpc::{Local, Status};
use super::how::How;
use super::read_only_txn::as_write;
use super::session::Auth;
use super::status::{Failure, Repeat, Row};
use super::wire::{Answer, FIRST_OF_WATCH, Method, ResponseHeader, Shape, Untyped, WatchRequest};
use crate::error::{ErrorKind, Result};
use crate::retry::RetryPolicy;
use crate::store::connect::ConnectOptions;
use crate::telemetry;

/// How long to wait for the end of a stream after its answer.
const GOODBYE: Duration = Duration::from_millis(100);

/// The state that all calls of one client share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) endpoints: Endpoints,
    pub(super) auth: Auth,
    pub(super) retry: RetryPolicy,
    connect_timeout: Duration,
    /// True if the client checks an endpoint before a write when the endpoint has not answered yet,
    /// or has not answered since its last failure. Set with TLS, and with several endpoints.
    probes: bool,
}

impl Core {
    pub(super) fn new(options: &ConnectOptions) -> Result<Self> {
        Ok(Self {
            endpoints: Endpoints::new(options)?,
            auth: Auth::new(options.credentials.clone(), &options.retry),
            retry: options.retry.clone(),
            connect_timeout: options.connect_timeout,
            probes: options.endpoints.len() > 1 || options.tls.is_some(),
        })
    }

    /// Makes a call with this token. Repeats the call as its errors allow, until `deadline`.
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

    /// Does the work of [`attempts`](Self::attempts). This function and
    /// [`attempt_into`](Self::attempt_into) do not depend on the message types, so that their code
    /// is compiled once.
    pub(super) async fn attempts_into(
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
        // The endpoints that refused the request for a reason that may not apply to other
        // endpoints. The call does not ask these endpoints again, and ends with such a refusal only
        // when all endpoints refuse.
        let mut refused = Vec::new();
        let mut foreign = None;
        let call_began = Instant::now();
        let mut began = call_began;
        // The failure of the last attempt that the end of the call did not cut short.
        let mut met = None;
        loop {
            let slot = self.endpoints.pick_but(&refused);
            let mut failure = match self.attempt_into(slot, method, how, token, request, answer, began, deadline).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let verdict = failure.verdict();
            slot.judge(verdict);
            self.endpoints.meet(&failure);
            may_have_applied |= how.write && verdict.may_have_applied;
            let again = match verdict.repeat {
                Repeat::Always => true,
                Repeat::Harmless => how.repeatable,
                Repeat::Elsewhere => {
                    refused.push(slot);
                    refused.len() < self.endpoints.count() && (how.repeatable || !verdict.may_have_applied)
                }
                Repeat::AfterLogin | Repeat::Never => false,
            };
            let next = Instant::now() + backoff.next_delay();
            let is_cut_short = failure.by_clock && deadline.saturating_duration_since(began) < self.retry.read_attempt_timeout;
            if !is_cut_short {
                met = Some(failure.clone());
            }
            if !again || next >= deadline {
                let ran_out = again || failure.by_clock;
                if is_cut_short {
                    failure = met.or_else(|| self.endpoints.met_since(call_began)).unwrap_or(failure);
                }
                // If the only endpoint that answers belongs to another cluster, that explains more
                // than the silence of the others.
                if matches!(verdict.kind, ErrorKind::Unavailable | ErrorKind::Timeout) {
                    failure = foreign.unwrap_or(failure);
                }
                if ran_out {
                    failure = failure.after_giving_up(self.retry.call_timeout);
                }
                failure.may_have_applied = may_have_applied;
                return Err(failure);
            }
            telemetry::repeated(NAME, method.name(), verdict.kind, failure.words());
            if failure.row == Row::ForeignCluster {
                foreign = Some(failure);
            }
            sleep_until(next).await;
            began = Instant::now();
        }
    }

    /// Returns the failure of a call whose time ended before its request was sent. The failure
    /// contains the reason of the last failed attempt since `began`, or `words` if no attempt
    /// failed.
    pub(super) fn out_of_time(&self, began: Instant, words: &str) -> Failure {
        let met = self.endpoints.met_since(began).map(Failure::before_sending);
        met.unwrap_or_else(|| Failure::by_clock(Row::TimedOut, words)).after_giving_up(self.retry.call_timeout)
    }

    /// Makes one attempt at this endpoint.
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
        self.attempt_into(slot, &method.untyped(), how, token, request, &mut answer, Instant::now(), deadline).await?;
        Ok(answer)
    }

    #[allow(clippy::too_many_arguments, reason = "the arguments of `attempt`, the answer, and the current time")]
    async fn attempt_into(
        &self,
        slot: &Slot,
        method: &Untyped,
        how: How,
        token: Option<&HeaderValue>,
        request: &dyn Sent,
        answer: &mut dyn Answer,
        began: Instant,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let limit = if how.repeatable { deadline.min(began + self.retry.read_attempt_timeout) } else { deadline };
        let connection = match timeout_at(limit, self.endpoints.connection(slot, how.lane)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(status)) => return Err(Failure::of(&slot.name, status).before_sending()),
            Err(_) => {
                let words = format!("{}: no connection within {:?}", slot.name, whole(began.elapsed()));
                return Err(Failure::by_clock(Row::NotSent, words));
            }
        };
        let metadata = Metadata { leader: how.leader, token };
        let behind = connection.behind();
        if how.proof && self.needs_proof(slot, &behind, how) {
            // Boxed, like the handling of an answer from another cluster: both futures are rarely
            // needed, and would enlarge the futures of thousands of waiting calls.
            Box::pin(self.prove(slot, &connection, how, token, limit)).await.map_err(Failure::before_sending)?;
        }
        let as_write = as_write(slot, method, how, request);
        let request = as_write.as_ref().map_or(request, |as_write| as_write);
        let sent = send_into(connection, method, request, answer, metadata, limit, deadline);
        sent.await.map_err(|unanswered| unanswered.at(slot, method.path))?;
        if !method.header.is_met_by(answer.header()) {
            let words = format!("{}: the answer to {} has no header, which every answer of etcd has", slot.name, method.path);
            return Err(Failure::new(Row::NotGrpc, words));
        }
        self.recognize(slot, &behind, answer.header()).await?;
        slot.succeeded();
        Ok(())
    }

    /// Returns whether the endpoint must answer another request before it gets a write. The
    /// connection may lead to another cluster. If the endpoint has not answered yet, or not since
    /// its last failure, the server may also be frozen, or may refuse the client's certificate,
    /// which it reports only after the handshake. The outcome of a write would then be unknown.
    fn needs_proof(&self, slot: &Slot, behind: &Behind, how: How) -> bool {
        // Before the first answer, the client belongs to no cluster, so any cluster is right.
        let known = self.endpoints.cluster.id();
        let unknown = known != 0 && behind.get() != known;
        unknown || (self.probes && !how.repeatable && !slot.is_proven())
    }

    /// Checks that an endpoint is alive and belongs to the client's cluster. One request serves all
    /// writes that wait for the check.
    async fn prove(
        &self,
        slot: &Slot,
        connection: &Connection,
        how: How,
        token: Option<&HeaderValue>,
        limit: Instant,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let behind = connection.behind();
        let lanes = slot.lanes();
        let mut last = lanes.proof.lock().await;
        if !self.needs_proof(slot, &behind, how) {
            return Ok(());
        }
        if let Some((failed, failure)) = &*last
            && *failed >= began
        {
            return Err(failure.clone());
        }
        let limit = limit.min(began + self.connect_timeout);
        let metadata = Metadata { leader: true, token };
        let answer = send(connection.clone(), &FIRST_OF_WATCH, &WatchRequest::of_one_key(), metadata, limit, limit).await;
        let proof = match answer {
            Ok(answer) => self.recognize(slot, &behind, answer.header()).await,
            Err(unanswered) => Err(unanswered.at(slot, FIRST_OF_WATCH.path)),
        };
        *last = proof.as_ref().err().map(|failure| (Instant::now(), failure.clone()));
        proof?;
        // etcd's `grpc-proxy` answers this request itself, without a cluster id.
        behind.set(self.endpoints.cluster.id());
        slot.succeeded();
        Ok(())
    }

    /// Accepts an answer if it comes from the client's cluster, or from a cluster that the client
    /// now moves to.
    pub(super) async fn recognize(&self, slot: &Slot, behind: &Behind, header: Option<&ResponseHeader>) -> Result<(), Failure> {
        let id = header.map_or(0, |header| header.cluster_id);
        if id == 0 {
            return Ok(());
        }
        behind.set(id);
        let cluster = &self.endpoints.cluster;
        if cluster.admits(id) {
            return Ok(());
        }
        Box::pin(self.survey()).await;
        if cluster.admits(id) {
            return Ok(());
        }
        let words = format!(
            "{} belongs to cluster {id:x}, but this client to cluster {:x}; all endpoints must be of one cluster (the client moves on once they all belong to another)",
            slot.name,
            cluster.id()
        );
        Err(Failure::new(Row::ForeignCluster, words))
    }

    /// Asks all endpoints for their cluster, and moves to another cluster if they agree on it.
    async fn survey(&self) {
        let cluster = &self.endpoints.cluster;
        let known = cluster.id();
        let survey = cluster.survey.here(tokio::sync::Mutex::default);
        let mut failed = survey.lock().await;
        if cluster.id() != known || failed.is_some_and(|failed| failed.elapsed() < SURVEY_PAUSE) {
            return;
        }
        let named = join_all(self.endpoints.all().iter().map(|slot| self.cluster_at(slot))).await;
        *failed = match agreed(known, &named) {
            Some(new) => {
                cluster.move_to(new);
                telemetry::cluster_replaced(NAME, known, new);
                None
            }
            None => Some(Instant::now()),
        };
    }

    /// Returns the cluster id that this endpoint sends over a new connection, or `None` if the
    /// endpoint does not answer. An existing connection may lead to a server that is gone.
    async fn cluster_at(&self, slot: &Slot) -> Option<u64> {
        let limit = Instant::now() + self.connect_timeout;
        let connection = timeout_at(limit, slot.another_connection()).await.ok()?.ok()?;
        // `leader: false` lets a member without a leader answer too.
        let metadata = Metadata { leader: false, token: None };
        let answer = send(connection, &FIRST_OF_WATCH, &WatchRequest::of_one_key(), metadata, limit, limit).await.ok()?;
        answer.header.map(|header| header.cluster_id).filter(|&id| id != 0)
    }
}

/// Why a request was not answered.
pub(super) enum Unanswered {
    /// The server or the connection reported an error.
    Refused(Status),
    /// There was no answer and no error within this time.
    TimedOut(Duration),
}

/// Rounds a measured time up to milliseconds for a message. Timers may fire late but never early.
fn whole(time: Duration) -> Duration {
    let milliseconds = time.as_micros().div_ceil(1000);
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX))
}

impl Unanswered {
    pub(super) fn at(self, slot: &Slot, path: &str) -> Failure {
        match self {
            Self::Refused(status) => Failure::of(&slot.name, status),
            Self::TimedOut(after) => {
                let words = format!("{}: no answer to {path} within {:?}", slot.name, whole(after));
                Failure::by_clock(Row::TimedOut, words)
            }
        }
    }
}

/// Sends one request on a connection that is ready. The answer must begin before `first`; a server
/// begins the answer once it has processed the request. The answer must be complete before `whole`,
/// which may be later, because a large answer may take long on a slow line.
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
    let began = Instant::now();
    let late = |_| Unanswered::TimedOut(began.elapsed());
    let (mut requests, mut answers) = connection.begin(method.path, metadata).map_err(Unanswered::Refused)?;
    // The request side stays open, because a proxy may forward a stream only while its request side
    // is open: etcd's `grpc-proxy` never answers a keep-alive whose request side has ended.
    requests.send(request, method.shape == Shape::Unary);
    timeout_at(first, answers.begun()).await.map_err(late)?.map_err(Unanswered::Refused)?;
    let answer = async {
        if !answers.next_into(answer).await? {
            return Err(Local::Ended("without a message").into());
        }
        if method.shape == Shape::Unary {
            // The trailers may still contain an error.
            answers.next_into(&mut ()).await?;
        }
        Ok(())
    };
    timeout_at(whole, answer).await.map_err(late)?.map_err(Unanswered::Refused)?;
    if method.shape == Shape::FirstOfStream {
        // The server then sees a stream that ended normally instead of a cancelled one. The outcome
        // of the call does not depend on that.
        requests.end();
        let _ = timeout(GOODBYE, answers.next_into(&mut ())).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
