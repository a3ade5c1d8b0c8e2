//! The endpoints of a cluster and their connections, and the choice of the next endpoint.
//! `attempt.rs` decides what to send and how often.
//!
//! The client does not balance calls over the endpoints. With balancing, a third of the calls fail
//! if one of two endpoints is dead, and hang if one is frozen (grpc-rust #2839). Instead, the
//! client uses one endpoint for all calls until that endpoint fails, then the next one in the list.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::{Instant, sleep};

use super::cluster::Cluster;
use super::connection::{Connection, Target};
use super::grpc::{Local, Status};
use super::status::{Failure, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::PerRuntime;
use crate::store::connect::{ConnectOptions, Endpoint};

/// The purpose of a connection. Each lane has its own connection, so that no lane waits for
/// another: a watch that is not read fills the window of its connection, and calls and keep-alives
/// on the same connection would hang (seen with 4 unread watches).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Calls,
    Watches,
    Leases,
}

/// The endpoints of one cluster.
#[derive(Debug)]
pub(super) struct Endpoints {
    /// The endpoints, at least one.
    slots: Vec<Slot>,
    /// The index of the endpoint in use, modulo the number of slots.
    current: AtomicUsize,
    pub(super) cluster: Cluster,
    connect_timeout: Duration,
    /// The last failure of an endpoint other than a timeout, and when it happened.
    met: Mutex<Option<(Instant, Failure)>>,
}

/// One endpoint with its connections.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: String,
    target: Arc<Target>,
    /// Each runtime has its own connections. The task of a connection runs on the runtime that
    /// opened it, and moves no frames while that runtime is not driven.
    lanes: PerRuntime<Lanes>,
    health: Mutex<Health>,
}

/// The connections of one runtime to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    calls: Mutex<Option<Connecting>>,
    watches: Mutex<Option<Connecting>>,
    leases: Mutex<Option<Connecting>>,
    /// The lock is held by the call that checks whether the endpoint may get writes. The value is
    /// the time and reason of the last failed check.
    pub(super) proof: tokio::sync::Mutex<Option<(Instant, Failure)>>,
}

impl Lanes {
    fn of(&self, lane: Lane) -> MutexGuard<'_, Option<Connecting>> {
        let place = match lane {
            Lane::Calls => &self.calls,
            Lane::Watches => &self.watches,
            Lane::Leases => &self.leases,
        };
        place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is open or being opened. All callers wait for the same attempt.
type Connecting = Shared<BoxFuture<'static, Result<Connection, Status>>>;

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    /// The number of failures since the endpoint last answered.
    failures: u32,
    /// The client prefers all other endpoints until this time.
    suspect_until: Option<Instant>,
    /// When the endpoint last failed, if it has not answered since.
    failed_at: Option<Instant>,
    /// Whether the endpoint has answered, from the right cluster, since it last failed.
    proven: bool,
    coalescing: Coalescing,
}

/// Whether several reads may be sent to the server behind a connection as one transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Coalescing {
    #[default]
    Unknown,
    /// The version is not known yet, and a request for it is under way.
    Asked,
    Allowed,
    Refused,
}

const FIRST_SUSPICION: Duration = Duration::from_millis(50);
const LONGEST_SUSPICION: Duration = Duration::from_secs(5);

impl Endpoints {
    /// Creates the endpoints without connecting.
    pub(super) fn new(options: &ConnectOptions) -> Result<Self> {
        options.endpoints.iter().try_for_each(Endpoint::check)?;
        let slots = options.endpoints.iter().map(|endpoint| Slot::new(endpoint, options)).collect::<Result<Vec<_>>>()?;
        if slots.is_empty() {
            return Err(Error::new(ErrorKind::InvalidUrl, "no endpoint is given"));
        }
        Ok(Self {
            slots,
            current: AtomicUsize::new(0),
            cluster: Cluster::default(),
            connect_timeout: options.connect_timeout,
            met: Mutex::default(),
        })
    }

    pub(super) fn count(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn all(&self) -> &[Slot] {
        &self.slots
    }

    /// Remembers why an attempt failed, unless it timed out. A call whose time ends during another
    /// attempt reports this reason.
    pub(super) fn meet(&self, failure: &Failure) {
        if failure.verdict().endpoint_failed && !failure.by_clock {
            *self.met.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), failure.clone()));
        }
    }

    /// Returns the failure that [`meet`](Self::meet) last remembered, if it happened after `began`.
    pub(super) fn met_since(&self, began: Instant) -> Option<Failure> {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, failure) = met.as_ref()?;
        (*when >= began).then(|| failure.clone())
    }

    /// Returns the last failure if all endpoints have failed after `began` and none has answered
    /// since.
    pub(super) fn unreachable_since(&self, began: Instant) -> Option<Failure> {
        let have_failed = self.slots.iter().all(|slot| slot.health().failed_at.is_some_and(|when| when >= began));
        if have_failed { self.met_since(began) } else { None }
    }

    /// Returns the endpoint to ask now: the current one, else the next one that is not suspect,
    /// else the one whose suspicion ends first.
    pub(super) fn pick(&self) -> &Slot {
        self.pick_but(&[])
    }

    /// Like [`pick`](Self::pick), but skips the endpoints in `refused` unless all are refused.
    pub(super) fn pick_but(&self, refused: &[&Slot]) -> &Slot {
        let current = self.current.load(Ordering::Relaxed);
        let is_refused =
            |&index: &usize| self.slots.get(index).is_some_and(|slot| refused.iter().any(|refused| std::ptr::eq(*refused, slot)));
        let all_refused = refused.len() >= self.slots.len();
        let order = (0..self.slots.len()).map(|step| current.wrapping_add(step) % self.slots.len());
        let mut order = order.filter(|index| all_refused || !is_refused(index));
        let chosen = order.clone().find(|&index| self.slots.get(index).is_some_and(|slot| slot.suspect_until().is_none()));
        let chosen =
            chosen.or_else(|| order.by_ref().min_by_key(|&index| self.slots.get(index).and_then(|slot| slot.suspect_until()))).unwrap_or(0);
        if chosen != current {
            // Another caller may have changed `current` meanwhile. Either choice is fine.
            self.current.store(chosen, Ordering::Relaxed);
        }
        #[expect(clippy::indexing_slicing, reason = "`new` refuses an empty list, and `chosen` is below its length")]
        &self.slots[chosen]
    }

    /// Returns the connection of this endpoint for this lane, ready for the next call. Opens a
    /// connection if the lane has none.
    pub(super) async fn connection(&self, slot: &Slot, lane: Lane) -> Result<Connection, Status> {
        let mut connection = self.connected(slot, lane).await?;
        if connection.ready().await.is_err() {
            // The connection ended while idle, which is not a failure of the endpoint.
            slot.forget(lane, &connection);
            connection = self.connected(slot, lane).await?;
            connection.ready().await?;
        }
        Ok(connection)
    }

    async fn connected(&self, slot: &Slot, lane: Lane) -> Result<Connection, Status> {
        let connecting = {
            let lanes = slot.lanes();
            let mut place = lanes.of(lane);
            match place.as_ref().map(|connecting| (connecting, connecting.peek())) {
                Some((_, Some(Ok(connection)))) if !connection.is_doubted() => return Ok(connection.clone()),
                Some((connecting, None)) => connecting.clone(),
                Some((_, Some(_))) | None => {
                    if lane == Lane::Calls {
                        // The new connection may lead to another server, or to a server of another
                        // version.
                        slot.set_coalescing(Coalescing::Unknown);
                    }
                    place.insert(connect(slot, self.connect_timeout)).clone()
                }
            }
        };
        connecting.await
    }
}

impl Slot {
    fn new(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Self> {
        Ok(Self {
            name: endpoint.to_string(),
            target: Arc::new(Target::new(endpoint, options)?),
            lanes: PerRuntime::default(),
            health: Mutex::default(),
        })
    }

    pub(super) fn lanes(&self) -> Arc<Lanes> {
        self.lanes.here(Lanes::default)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suspect_until(&self) -> Option<Instant> {
        self.health().suspect_until.filter(|&until| until > Instant::now())
    }

    /// Returns whether the endpoint has answered since it last failed.
    pub(super) fn is_proven(&self) -> bool {
        self.health().proven
    }

    /// Records whether a failed request was a failure of the endpoint or a refusal, which is an
    /// answer.
    pub(super) fn judge(&self, verdict: Verdict) {
        if verdict.endpoint_failed { self.failed() } else { self.succeeded() }
    }

    /// Records that the endpoint answered.
    pub(super) fn succeeded(&self) {
        let mut health = self.health();
        *health = Health { proven: true, coalescing: health.coalescing, ..Health::default() };
    }

    /// Records a failure. Other endpoints are preferred for a while, twice as long after each
    /// further failure.
    pub(super) fn failed(&self) {
        let mut health = self.health();
        let suspicion = FIRST_SUSPICION.saturating_mul(1 << health.failures.min(16)).min(LONGEST_SUSPICION);
        let (failures, now) = (health.failures.saturating_add(1), Instant::now());
        *health = Health { failures, suspect_until: Some(now + suspicion), failed_at: Some(now), ..Health::default() };
    }

    /// Returns whether reads may be coalesced at this endpoint. Each failure and each new
    /// connection for calls resets this to unknown.
    pub(super) fn coalescing(&self) -> Coalescing {
        self.health().coalescing
    }

    pub(super) fn set_coalescing(&self, coalescing: Coalescing) {
        self.health().coalescing = coalescing;
    }

    /// Changes the coalescing state from `from` to `to`. Returns false if the state is not `from`.
    pub(super) fn move_coalescing(&self, from: Coalescing, to: Coalescing) -> bool {
        let mut health = self.health();
        let moved = health.coalescing == from;
        if moved {
            health.coalescing = to;
        }
        moved
    }

    /// Opens a connection that belongs to no lane.
    pub(super) async fn another_connection(&self) -> Result<Connection, Status> {
        let mut connection = Connection::open(&self.target).await?;
        connection.ready().await?;
        Ok(connection)
    }

    /// Drops a broken connection from its lane, so that the next call opens another. Does nothing
    /// if another caller already replaced it.
    pub(super) fn forget(&self, lane: Lane, connection: &Connection) {
        let lanes = self.lanes();
        let mut place = lanes.of(lane);
        if place.as_ref().is_some_and(|made| matches!(made.peek(), Some(Ok(made)) if made.is(connection))) {
            *place = None;
        }
    }
}

/// Opens a connection in a separate task, so that the next caller can use the connection even if
/// this caller gives up.
fn connect(slot: &Slot, limit: Duration) -> Connecting {
    let target = slot.target.clone();
    let task = tokio::spawn(async move {
        // A silent server may speak another protocol and wait for the rest of a request line. So
        // after half the time, the client finds out which protocol the server speaks.
        let explained = async {
            sleep(limit / 2).await;
            match target.contradiction(limit / 4).await {
                Some(found) => found,
                None => pending().await,
            }
        };
        let opened = tokio::select! {
            biased;
            opened = Connection::open(&target) => opened,
            found = explained => return Err(found.into()),
            () = sleep(limit) => Err(Local::NotSent(format!("not established within {limit:?}")).into()),
        };
        match opened {
            Err(Status::Local(local)) if local.may_be_wrong_scheme() => Err(target.contradiction(limit / 2).await.unwrap_or(local).into()),
            opened => opened,
        }
    });
    async move { task.await.unwrap_or_else(|_| Err(Local::NotSent("the runtime is shutting down".to_owned()).into())) }.boxed().shared()
}
