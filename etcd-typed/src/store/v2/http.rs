//! Sends requests, with connections, credentials, the choice of an endpoint, and retries. `json.rs`
//! decides what an answer means.
//!
//! A read is repeated, at other endpoints first, until the time limit of the call. A write is sent
//! once. It is sent to another endpoint only if no connection could be established, so that it
//! cannot have been applied.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Client, Method, Response};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::encode::MAX_TARGET;
use super::failure::{Refusals, is_turned_away, may_be_wrong_scheme, root_cause, tls_words};
use super::json::{self, Again, Answer, Fault, Origin, Reply, Server};
use crate::error::{Error, ErrorKind, Result};
use crate::retry::RetryPolicy;
use crate::revision::Revision;
use crate::runtime::PerRuntime;
use crate::store::connect::{ConnectOptions, Credentials, Endpoint};
use crate::store::diagnosis::{Diagnosis, Spoken};
use crate::store::{BoxFuture, Identity};
use crate::telemetry;

/// The name of this store in metrics and events.
pub(super) const NAME: &str = "v2";

/// The maximum length of an answer.
const MAX_BODY: usize = 64 << 20;

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// The endpoints of a cluster.
pub(super) struct Http {
    /// The state of each runtime. Each has its own connections, because the tasks of a connection
    /// run on one runtime and make no progress while that runtime is not driven.
    own: PerRuntime<Own>,
    /// The HTTP clients of the first runtime.
    first: Clients,
    first_is_used: AtomicBool,
    /// The options for the HTTP clients of other runtimes.
    options: ConnectOptions,
    /// The addresses as `http://host:port` or `https://host:port`. There is at least one.
    endpoints: Vec<String>,
    /// The last cluster id that each endpoint sent.
    clusters: Vec<Mutex<Option<String>>>,
    /// The last failure of each endpoint, if it has not answered since.
    failures: Vec<Mutex<Option<(Instant, Error)>>>,
    /// The protocol check of each endpoint.
    diagnoses: Vec<Diagnosis>,
    history: AtomicU64,
    /// The endpoint in use. It gets all requests until it fails.
    current: AtomicUsize,
    credentials: Option<Credentials>,
    retry: RetryPolicy,
    connect_timeout: Duration,
}

/// The state shared by the callers of one runtime.
struct Own {
    clients: Clients,
    /// The result of the last probe of each endpoint. The asynchronous lock is held during the
    /// request, so that only one of many waiting watches sends it.
    probes: Vec<tokio::sync::Mutex<Option<Probe>>>,
}

#[derive(Clone)]
struct Clients {
    calls: Client,
    /// The client for watches. It has a separate connection pool, so that a thousand watches do not
    /// delay the refresh of a lock.
    watches: Client,
}

impl Clients {
    fn new(options: &ConnectOptions) -> Result<Self> {
        Ok(Self { calls: client(options)?, watches: client(options)? })
    }
}

/// The result and time of a linearizable read through one endpoint.
#[derive(Clone, Copy)]
struct Probe {
    when: Instant,
    /// The store's revision. `None` if the read failed.
    found: Option<Revision>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("endpoints", &self.endpoints).field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

/// The index of an endpoint in the list.
pub(super) type EndpointIndex = usize;

impl Http {
    /// Prepares the HTTP clients without connecting.
    ///
    /// # Errors
    ///
    /// `InvalidUrl` without an endpoint or for an invalid one, `Unsupported` for TLS without the
    /// crate's feature, and `Tls` for certificates and keys that cannot be read.
    pub(super) fn new(options: &ConnectOptions) -> Result<Self> {
        if options.endpoints.is_empty() {
            return Err(Error::new(ErrorKind::InvalidUrl, "no endpoint is named"));
        }
        options.endpoints.iter().try_for_each(Endpoint::check)?;
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let endpoints = options.endpoints.iter().map(|endpoint| format!("{scheme}://{endpoint}")).collect::<Vec<_>>();
        for endpoint in &endpoints {
            reqwest::Url::parse(endpoint)
                .map_err(|error| Error::new(ErrorKind::InvalidUrl, format!("`{endpoint}` is not a valid address")).caused_by(error))?;
        }
        Ok(Self {
            own: PerRuntime::default(),
            first: Clients::new(options)?,
            first_is_used: AtomicBool::new(false),
            options: options.clone(),
            clusters: endpoints.iter().map(|_| Mutex::default()).collect(),
            failures: endpoints.iter().map(|_| Mutex::default()).collect(),
            diagnoses: endpoints.iter().map(|_| Diagnosis::default()).collect(),
            history: AtomicU64::new(0),
            endpoints,
            current: AtomicUsize::new(0),
            credentials: options.credentials.clone(),
            retry: options.retry.clone(),
            connect_timeout: options.connect_timeout,
        })
    }

    /// Returns the deadline of a call that begins now.
    pub(super) fn deadline(&self) -> Instant {
        self.retry.deadline()
    }

    /// Repeats a read until `understand` accepts an answer.
    pub(super) async fn read<T>(&self, target: &str, understand: impl Fn(&Answer) -> Result<T, Fault>) -> Result<T> {
        let deadline = self.deadline();
        let mut backoff = self.retry.backoff();
        let mut refusals = Refusals::default();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let at = self.current();
            let began = Instant::now();
            let fault = match self.ask(at, target, deadline).await.and_then(|answer| understand(&answer)) {
                Ok(answer) => return Ok(answer),
                // In the first round, ask the other endpoints before checking which protocol this
                // endpoint speaks.
                Err(fault) if attempt < self.endpoints.len() && fault.origin == Origin::Unclear => fault,
                Err(fault) => self.diagnosed(at, fault, began, deadline).await,
            };
            if fault.again == Again::Never {
                return Err(fault.error);
            }
            self.failed(at, &fault.error);
            self.leave(at);
            // Ask the other endpoints without a delay, and wait after each round.
            let delay = if attempt % self.endpoints.len() == 0 { backoff.next_delay() } else { Duration::ZERO };
            refusals.add(&fault);
            if refusals.in_a_row == self.endpoints.len() || Instant::now() + delay >= deadline {
                return Err(refusals.end(fault, self.endpoints.len(), self.retry.call_timeout));
            }
            telemetry::repeated(NAME, "GET", fault.error.kind(), fault.error.message());
            sleep(delay).await;
        }
    }

    /// Reads from the keys API.
    pub(super) async fn get(&self, target: &str) -> Result<Reply> {
        self.read(target, json::keys).await
    }

    /// Sends a write to the keys API, once.
    ///
    /// # Errors
    ///
    /// The error says that the outcome is unknown, unless no connection could be established or the
    /// server clearly refused the write.
    pub(super) async fn write(&self, method: Method, target: &str, form: Option<String>) -> Result<Reply> {
        self.write_within(self.retry.call_timeout, method, target, form).await
    }

    /// Like [`write`](Self::write), but gives up after `patience`. Meant for conditional writes,
    /// which the caller can repeat.
    pub(super) async fn write_within(&self, patience: Duration, method: Method, target: &str, form: Option<String>) -> Result<Reply> {
        if target.len() > MAX_TARGET {
            let message = format!("the request's first line takes {} bytes and may take {MAX_TARGET}", target.len());
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let deadline = self.deadline().min(Instant::now() + patience);
        let mut backoff = self.retry.backoff();
        let mut refusals = Refusals::default();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let at = self.current();
            let began = Instant::now();
            let sent = timeout_at(deadline, self.send_write(at, method.clone(), target, form.clone())).await;
            let unsent = match sent {
                Ok(Ok(mut incoming)) => {
                    let answer = self.answer(at, &mut incoming, deadline).await;
                    return json::keys(&answer).map_err(|fault| {
                        if fault.again == Again::Never {
                            return fault.error;
                        }
                        self.leave(at);
                        fault.error.outcome_unknown()
                    });
                }
                Ok(Err(Failure::Sent(fault))) => {
                    self.leave(at);
                    return Err(self.diagnosed(at, fault, began, deadline).await.error.outcome_unknown());
                }
                Err(_) => {
                    self.leave(at);
                    let fault = self.diagnosed(at, self.timed_out(at, began), began, deadline).await;
                    refusals.add(&fault);
                    return Err(refusals.end(fault, self.endpoints.len(), patience).outcome_unknown());
                }
                Ok(Err(Failure::Unsent(fault))) => self.diagnosed(at, fault, began, deadline).await,
            };
            if unsent.again == Again::Never {
                return Err(unsent.error);
            }
            self.leave(at);
            let delay = if attempt % self.endpoints.len() == 0 { backoff.next_delay() } else { Duration::ZERO };
            refusals.add(&unsent);
            // Stop if the deadline could pass while the next attempt connects. The error could then
            // not say that the write was not sent.
            if refusals.in_a_row == self.endpoints.len() || Instant::now() + delay + self.connect_timeout >= deadline {
                return Err(refusals.end(unsent, self.endpoints.len(), patience));
            }
            telemetry::repeated(NAME, name(&method), unsent.error.kind(), unsent.error.message());
            sleep(delay).await;
        }
    }

    /// Returns the endpoint to ask now.
    pub(super) fn current(&self) -> EndpointIndex {
        self.current.load(Ordering::Relaxed)
    }

    fn own(&self) -> Arc<Own> {
        self.own.here(|| {
            let first = !self.first_is_used.swap(true, Ordering::Relaxed);
            // This cannot fail: the same options worked for the first clients.
            let other = if first { None } else { Clients::new(&self.options).ok() };
            let clients = other.unwrap_or_else(|| self.first.clone());
            Own { clients, probes: self.endpoints.iter().map(|_| tokio::sync::Mutex::default()).collect() }
        })
    }

    /// Switches from a failed endpoint to the next one, unless another call has already switched.
    pub(super) fn leave(&self, at: EndpointIndex) {
        let next = (at + 1) % self.endpoints.len();
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn failed(&self, at: EndpointIndex, error: &Error) {
        if let Some(failure) = self.failures.get(at) {
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), error.again()));
        }
    }

    /// Returns the last error if all endpoints have failed after `began` and none has answered
    /// since.
    pub(super) fn unreachable_since(&self, began: std::time::Instant) -> Option<Error> {
        let after = |failure: &Mutex<Option<(Instant, Error)>>| {
            let failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.as_ref().filter(|(when, _)| when.into_std() >= began).map(|(when, error)| (*when, error.again()))
        };
        let failures = self.failures.iter().map(after).collect::<Option<Vec<_>>>()?;
        failures.into_iter().max_by_key(|(when, _)| *when).map(|(_, error)| error)
    }

    /// Sends one read to one endpoint and returns the answer.
    pub(super) async fn ask(&self, at: EndpointIndex, target: &str, deadline: Instant) -> Result<Answer, Fault> {
        let mut incoming = self.fetch(at, target, deadline).await?;
        Ok(self.answer(at, &mut incoming, deadline).await)
    }

    /// Sends one read to one endpoint and reads the whole response.
    async fn fetch(&self, at: EndpointIndex, target: &str, deadline: Instant) -> Result<Incoming, Fault> {
        let patience = || self.retry.read_attempt_timeout.min(deadline.saturating_duration_since(Instant::now()));
        let request = self.request(&self.own().clients.calls, at, Method::GET, target);
        let mut began = Instant::now();
        let response = match timeout(patience(), request.send()).await {
            Ok(response) => response.map_err(|error| self.broken(at, error))?,
            Err(_) => return Err(self.timed_out(at, began)),
        };
        let mut incoming = self.incoming(at, response);
        loop {
            began = Instant::now();
            match timeout(patience(), incoming.more()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Ok(incoming),
                Ok(Err(broken)) => return Err(self.broken_body(at, broken)),
                Err(_) => return Err(self.timed_out(at, began)),
            }
        }
    }

    /// Opens a long poll. When this method returns, the server has registered the watch or has sent
    /// another answer.
    pub(super) async fn poll(&self, at: EndpointIndex, target: &str) -> Result<Poll, Fault> {
        let patience = self.connect_timeout + self.retry.read_attempt_timeout;
        let request = self.request(&self.own().clients.watches, at, Method::GET, target);
        let began = Instant::now();
        match timeout(patience, request.send()).await {
            Ok(Ok(response)) => Ok(Poll { at, incoming: self.incoming(at, response) }),
            Ok(Err(error)) => Err(self.broken(at, error)),
            Err(_) => Err(self.timed_out(at, began)),
        }
    }

    /// Waits for the answer of a long poll, without a time limit.
    ///
    /// # Cancel safety
    ///
    /// Received data stays in `poll`.
    pub(super) async fn answer_of(&self, poll: &mut Poll) -> Result<Answer, Fault> {
        loop {
            match poll.incoming.more().await {
                Ok(true) => {}
                Ok(false) => return Ok(self.answer(poll.at, &mut poll.incoming, self.deadline()).await),
                Err(broken) => return Err(self.broken_body(poll.at, broken)),
            }
        }
    }

    /// Returns the store's revision from a linearizable read through one endpoint. Reuses the last
    /// result if it is younger than `age`. The read fails if the endpoint hangs or has lost contact
    /// with the other members. An open long poll shows neither.
    pub(super) async fn probe(&self, at: EndpointIndex, target: &str, age: Duration) -> Result<Revision> {
        let silent = || Error::new(ErrorKind::Unavailable, format!("{} answers no linearizable read", self.endpoint(at)));
        let own = self.own();
        let mut last = own.probes.get(at).ok_or_else(silent)?.lock().await;
        if let Some(Probe { when, found }) = *last
            && when.elapsed() < age
        {
            return found.ok_or_else(silent);
        }
        let asked = self.ask(at, target, self.deadline()).await.and_then(|answer| json::keys(&answer));
        let found = asked.as_ref().ok().map(|reply| reply.index);
        *last = Some(Probe { when: Instant::now(), found });
        asked.map(|reply| reply.index).map_err(|fault| silent().caused_by(fault.error))
    }

    async fn send_write(&self, at: EndpointIndex, method: Method, target: &str, form: Option<String>) -> Result<Incoming, Failure> {
        let mut request = self.request(&self.own().clients.calls, at, method, target);
        if let Some(form) = form {
            // With any other content type, the server ignores the body and writes an empty value.
            request = request.header("Content-Type", "application/x-www-form-urlencoded").body(form);
        }
        let response = request.send().await.map_err(|error| {
            let unsent = error.is_connect() || error.is_builder() || is_turned_away(&error);
            let fault = self.broken(at, error);
            if unsent { Failure::Unsent(fault) } else { Failure::Sent(fault) }
        })?;
        let mut incoming = self.incoming(at, response);
        while incoming.more().await.map_err(|broken| Failure::Sent(self.broken_body(at, broken)))? {}
        Ok(incoming)
    }

    fn request(&self, client: &Client, at: EndpointIndex, method: Method, target: &str) -> reqwest::RequestBuilder {
        // `current` and `leave` stay within the list, which has at least one endpoint.
        let endpoint = self.endpoints.get(at).map_or("", String::as_str);
        let request = client.request(method, format!("{endpoint}{target}"));
        match &self.credentials {
            None => request,
            Some(Credentials { user, password }) => request.basic_auth(user, Some(password)),
        }
    }

    /// Returns how often an endpoint came back with another cluster id.
    pub(super) fn history(&self) -> u64 {
        self.history.load(Ordering::Acquire)
    }

    /// Returns the addresses, and the cluster id if all endpoints that have answered sent the same
    /// one.
    pub(super) fn identity(&self) -> Identity {
        let named = |known: &Mutex<Option<String>>| known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut clusters = self.clusters.iter().filter_map(named);
        let cluster = clusters.next().filter(|first| clusters.all(|other| other == *first));
        Identity { cluster, endpoints: self.options.endpoints.iter().map(Endpoint::identity).collect() }
    }

    /// Starts reading a response whose headers have arrived, and records its cluster id.
    fn incoming(&self, at: EndpointIndex, response: Response) -> Incoming {
        let incoming = Incoming::new(response);
        if let Some(failure) = self.failures.get(at) {
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        if let (Some(cluster), Some(known)) = (&incoming.cluster, self.clusters.get(at)) {
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.as_ref() != Some(cluster) && known.replace(cluster.clone()).is_some() {
                self.history.fetch_add(1, Ordering::Release);
            }
        }
        incoming
    }

    /// Returns the complete response as an answer. After a 404 that the keys API did not send, asks
    /// the endpoint what kind of server it is.
    ///
    /// # Cancel safety
    ///
    /// The response stays in `incoming` until the answer is returned.
    async fn answer(&self, at: EndpointIndex, incoming: &mut Incoming, deadline: Instant) -> Answer {
        // The keys API sends the index with every answer.
        let server = if incoming.status == 404 && incoming.index.is_none() { Some(self.identify(at, deadline).await) } else { None };
        let incoming = std::mem::take(incoming);
        Answer {
            status: incoming.status,
            index: incoming.index,
            cluster: incoming.cluster,
            body: incoming.body.freeze(),
            authenticated: self.credentials.is_some(),
            server,
        }
    }

    /// Asks one endpoint for its version, once.
    async fn identify(&self, at: EndpointIndex, deadline: Instant) -> Server {
        match self.fetch(at, "/version", deadline).await {
            Ok(incoming) => json::server(incoming.status, &incoming.body),
            Err(fault) => Server::Unknown(fault.error.to_string()),
        }
    }

    fn broken_body(&self, at: EndpointIndex, broken: Broken) -> Fault {
        match broken {
            Broken::Connection(error) => self.broken(at, error),
            Broken::TooLong => Fault::new(ErrorKind::TooLarge, format!("the answer has more than {} MiB", MAX_BODY >> 20), Again::Never),
        }
    }

    fn broken(&self, at: EndpointIndex, error: reqwest::Error) -> Fault {
        let endpoint = self.endpoint(at);
        // The URL of a delete contains its condition, which may be a value.
        let error = error.without_url();
        let cause = root_cause(&error);
        let mut fault = if let Some(words) = tls_words(&error) {
            Fault::new(ErrorKind::Tls, format!("{endpoint}: {words}"), Again::Elsewhere)
        } else if error.is_builder() {
            Fault::new(ErrorKind::Server, "the request could not be built", Again::Never)
        } else if error.is_connect() {
            Fault::new(ErrorKind::Unavailable, format!("no connection to {endpoint}: {cause}"), Again::Later)
        } else {
            Fault::new(ErrorKind::Unavailable, format!("the connection to {endpoint} broke: {cause}"), Again::Later)
        };
        if may_be_wrong_scheme(&error, self.options.tls.is_some()) {
            fault.origin = Origin::Unclear;
        }
        fault.error = fault.error.caused_by(error);
        fault
    }

    fn timed_out(&self, at: EndpointIndex, began: Instant) -> Fault {
        let waited = Duration::from_millis(u64::try_from(began.elapsed().as_micros().div_ceil(1000)).unwrap_or(u64::MAX));
        let fault = Fault::new(ErrorKind::Timeout, format!("no answer from {} within {waited:?}", self.endpoint(at)), Again::Later);
        Fault { origin: Origin::Clock, ..fault }
    }

    /// Returns the fault of an attempt, or an explanation if the address has the wrong scheme. The
    /// origin of the fault stays [`Origin::Clock`] only if the time limit of the call cut the
    /// attempt short. Otherwise the origin becomes [`Origin::Told`].
    fn diagnosed(&self, at: EndpointIndex, mut fault: Fault, began: Instant, deadline: Instant) -> BoxFuture<'_, Fault> {
        // Boxed, because this code rarely runs and would enlarge the futures of all waiting calls.
        Box::pin(async move {
            match fault.origin {
                Origin::Told => {}
                Origin::Clock => {
                    if deadline.saturating_duration_since(began) >= self.retry.read_attempt_timeout {
                        fault.origin = Origin::Told;
                    }
                }
                Origin::Unclear => {
                    fault.origin = Origin::Told;
                    let (Some(endpoint), Some(diagnosis)) = (self.options.endpoints.get(at), self.diagnoses.get(at)) else { return fault };
                    let has_tls = self.options.tls.is_some();
                    let explain = |spoken| match (spoken, has_tls) {
                        (Spoken::Tls, false) => Some(json::USE_TLS),
                        (Spoken::Http1 { .. } | Spoken::Http2, true) => Some(json::USE_NO_TLS),
                        _ => None,
                    };
                    if let Some(words) = diagnosis.of(endpoint, self.connect_timeout / 2, explain).await {
                        fault = Fault::new(ErrorKind::Tls, format!("{}: {words}", self.endpoint(at)), Again::Elsewhere);
                    }
                }
            }
            fault
        })
    }

    fn endpoint(&self, at: EndpointIndex) -> &str {
        self.endpoints.get(at).map_or("", String::as_str)
    }
}

/// A long poll whose response headers have arrived.
#[derive(Debug)]
pub(super) struct Poll {
    at: EndpointIndex,
    incoming: Incoming,
}

impl Poll {
    /// Returns whether the server registered the watch. If not, the server's answer says why.
    pub(super) fn is_registered(&self) -> bool {
        self.incoming.status == 200
    }

    /// Returns the store's revision when the watch was registered.
    pub(super) fn index(&self) -> Option<u64> {
        self.incoming.index
    }
}

/// Returns the label of a write method.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// How a write failed without an answer.
enum Failure {
    /// No connection could be established.
    Unsent(Fault),
    /// The server may have received the write.
    Sent(Fault),
}

/// A response that is being read.
#[derive(Debug, Default)]
struct Incoming {
    status: u16,
    index: Option<u64>,
    cluster: Option<String>,
    body: BytesMut,
    /// `None` once the whole response was read.
    response: Option<Response>,
}

enum Broken {
    Connection(reqwest::Error),
    TooLong,
}

impl Incoming {
    fn new(response: Response) -> Self {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        Self {
            status: response.status().as_u16(),
            index: header("X-Etcd-Index").and_then(|index| index.parse().ok()),
            cluster: header("X-Etcd-Cluster-Id").map(str::to_owned),
            body: BytesMut::new(),
            response: Some(response),
        }
    }

    /// Reads the next part of the body. Returns false at the end. This method is cancel-safe.
    async fn more(&mut self) -> Result<bool, Broken> {
        let Some(response) = &mut self.response else {
            return Ok(false);
        };
        let Some(chunk) = response.chunk().await.map_err(Broken::Connection)? else {
            self.response = None;
            return Ok(false);
        };
        if self.body.len() + chunk.len() > MAX_BODY {
            return Err(Broken::TooLong);
        }
        if self.body.is_empty() {
            // A body of one chunk is not copied.
            self.body = chunk_into(chunk);
        } else {
            self.body.extend_from_slice(&chunk);
        }
        Ok(true)
    }
}

fn chunk_into(chunk: Bytes) -> BytesMut {
    chunk.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}

fn client(options: &ConnectOptions) -> Result<Client> {
    let builder = Client::builder()
        .http1_only()
        .no_proxy()
        // Redirects are not followed, because the client would repeat a write on another key.
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(options.connect_timeout)
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true)
        .tcp_keepalive(options.keep_alive_interval)
        .tcp_keepalive_interval(options.keep_alive_timeout)
        .tcp_keepalive_retries(2);
    with_tls(builder, options)?
        .build()
        .map_err(|error| Error::new(ErrorKind::Invalid, "the HTTP client cannot be built from these options").caused_by(error))
}

#[cfg(feature = "tls")]
fn with_tls(builder: reqwest::ClientBuilder, options: &ConnectOptions) -> Result<reqwest::ClientBuilder> {
    Ok(builder.tls_backend_preconfigured(crate::store::tls::config(options.tls.as_ref())?))
}

#[cfg(not(feature = "tls"))]
fn with_tls(builder: reqwest::ClientBuilder, options: &ConnectOptions) -> Result<reqwest::ClientBuilder> {
    match options.tls {
        None => Ok(builder),
        Some(_) => Err(Error::new(ErrorKind::Unsupported, "TLS to etcd v2 needs the feature `tls` of the crate `etcd-typed`")),
    }
}
