//! What the library tells of itself while it works: metrics and `tracing` events. The names here are part of its interface.
//!
//! # Metrics
//!
//! With the feature `metrics` they go through the facade of the crate [`metrics`](https://docs.rs/metrics) to whatever recorder the program installs. Install
//! it before the first client is made, and call `describe` after that, so that it has the units and descriptions. Without the feature nothing of that
//! crate is compiled. [`METRICS`] is the same list for tools.
//!
//! | name | type | labels | unit | meaning |
//! |---|---|---|---|---|
//! | `etcd_typed_retries_total` | counter | `store`, `op`, `cause` | count | requests that were sent again |
//! | `etcd_typed_conflicts_total` | counter | `pattern`, `op` | count | times that somebody else wrote first, so that an operation had to start again |
//! | `etcd_typed_watch_interruptions_total` | counter | `pattern`, `cause` | count | times that a watch broke or fell behind, and had to be resumed |
//! | `etcd_typed_resyncs_total` | counter | `pattern`, `cause` | count | times that a watch started again from the present state, since its history was gone |
//! | `etcd_typed_views` | gauge | `pattern` | count | live views that there are |
//! | `etcd_typed_views_degraded` | gauge | `pattern` | count | live views that may not show what is stored: it is rejected, or cannot be followed |
//! | `etcd_typed_view_revision` | gauge | `pattern` | count | revision up to which a live view has everything |
//! | `etcd_typed_view_staleness_seconds` | gauge | `pattern` | seconds | time since the last proof that a live view has everything, at the latest attempt to have one |
//! | `etcd_typed_view_proof_period_seconds` | gauge | `pattern` | seconds | time in which a live view is proved again while all is well: 10 s, and 1 ms for each key of its directory |
//! | `etcd_typed_view_applied_total` | counter | `pattern` | count | states that a live view has taken |
//! | `etcd_typed_view_rejected_total` | counter | `pattern` | count | states that a live view did not take, since they do not decode or fail a validation |
//! | `etcd_typed_lease_remaining_seconds` | histogram |  | seconds | what was left of a lease's time each time that an attempt to keep it alive ended |
//! | `etcd_typed_leases_lost_total` | counter | `cause` | count | leases that ended while they were wanted, alone or with the guard that had them |
//! | `etcd_typed_lock_wait_seconds` | histogram | `recipe` | seconds | time that it took to have a lock or the leadership |
//! | `etcd_typed_places_lost_total` | counter | `recipe` | count | times that a waiter's lease ended or its key was deleted, so that it began anew at the end of the queue |
//! | `etcd_typed_published` | gauge | `pattern` | count | values that are to be published |
//! | `etcd_typed_published_missing` | gauge | `pattern` | count | values that are to be published and are not there, or that no runtime keeps there |
//! | `etcd_typed_put_back_total` | counter | `pattern`, `cause` | count | times that a published value was lost and is there again |
//!
//! Labels have few values, all known when the program is compiled; none is ever made of a key or a value:
//!
//! | label | values |
//! |---|---|
//! | `pattern` | of a schema its prefix as it is written, `/{env}/checkout`, or its name where it has none; of a map of values or a single key the name of the value's type; `directory` of a [`Directory`](crate::Directory), `transaction` of a [`Transaction`](crate::Transaction); of the watch of a guard's key `guard`, of [`LeaderChanges`](crate::LeaderChanges) `election` |
//! | `store` | `v3`, `v2`; the embedded one repeats nothing |
//! | `op` of a retry | on v3 the name of the remote call, which is the `grpc_method` of the server's own metrics (`Range`, `Txn`, `LeaseKeepAlive`, …); on v2 the HTTP method |
//! | `op` of a conflict | the method of the handle: `modify`, `update`, `set`, `create`, `delete` |
//! | `cause` of a retry or an interruption | the [`ErrorKind`] in small letters: `unavailable`, `timeout`, `permission_denied`, …; `lagged` of a watch whose reader was too slow |
//! | `cause` of a resync | `history_lost`: compacted, or out of v2's window; `rewound`: the server came back with another history; `disproved`: it had what the watch of a live view did not tell |
//! | `cause` of a lost lease | `gone`: the server does not know it; `expired`: its time passed without an answer; `not_kept_alive`: its runtime ended and the client was used on no other one in its time; `key_deleted`, `taken_over`, `unverified`: of a guard, whose key was deleted, is somebody else's, or was not shown for a whole time to live |
//! | `cause` of a value that is put back | the same |
//! | `recipe` | `lock`, `election` |
//!
//! An interruption is counted when a watch that was followed breaks, not for each attempt to resume it. An alert on live views is best made of
//! `etcd_typed_views_degraded`, which counts each view: of several with the same pattern `etcd_typed_view_revision`, `etcd_typed_view_staleness_seconds` and
//! `etcd_typed_view_proof_period_seconds` show what was last told of any. A view is out of date when its staleness is several times its proof period. A view that is dropped is counted no more; those three gauges stay as they are, since the
//! facade cannot take one back, and mean nothing while `etcd_typed_views` is zero. An alert on services that are not in their registry is made of
//! `etcd_typed_published_missing`.
//!
//! A runtime that ends while no other one takes over its tasks leaves nobody who could tell anything later. So at its end each of its views counts as degraded and each of
//! its published values as missing, although the server keeps a value until its time to live is over. `etcd_typed_leases_lost_total` counts a lease of such a
//! runtime when the client or the guard is used again.
//!
//! # Spans and events
//!
//! `tracing` is always there and costs next to nothing while nobody listens. Every typed operation is a span, and what happens meanwhile is in it; the
//! work of watches, live views and leases goes on in the background and is in none. To see them all: `etcd_typed=debug`.
//!
//! | target | level | message | fields | when |
//! |---|---|---|---|---|
//! | `etcd_typed::operation` | debug | span `operation` | `op`, `pattern` | a method of a handle is awaited: `get`, `set`, `update`, … |
//! | `etcd_typed::operation` | debug | `conflict` | `op`, `pattern` | somebody else wrote first; it starts again as long as the policy allows |
//! | `etcd_typed::operation` | warn | `previous value undecodable` | `pattern` | a write went well, and what it replaced or deleted cannot be given, since it is not of the type |
//! | `etcd_typed::call` | debug | `sent again` | `store`, `op`, `cause`, `error` | a request failed and is repeated |
//! | `etcd_typed::call` | warn | `login refused` | `store`, `cause`, `error` | the server refused user and password; the calls that need a token wait for the next login, after a pause |
//! | `etcd_typed::call` | warn | `cluster replaced` | `store`, `former`, `cluster` | the endpoints agree that they are of another cluster: it was restored or made anew, and its history is another |
//! | `etcd_typed::watch` | info | `interrupted` | `pattern`, `cause`, `error` | a watch that was followed broke, and will be resumed |
//! | `etcd_typed::watch` | info | `lagged` | `pattern` | its reader was too slow; it is resumed at once from where it was, and nothing is lost |
//! | `etcd_typed::watch` | debug | `not resumed yet` | `pattern`, `resume`, `cause`, `error` | an attempt to resume it failed; `resume` is the revision up to which all was seen |
//! | `etcd_typed::watch` | info | `resumed` | `pattern`, `interrupted` | it is followed again; `interrupted` is for how long it was not |
//! | `etcd_typed::watch` | warn | `resynced` | `pattern`, `cause`, `revision`, `seen` | its history is gone: after `seen` it goes on with the state of `revision` |
//! | `etcd_typed::watch` | warn | `refused` | `pattern`, `cause`, `error` | an attempt to read or watch met what time alone does not mend (a right that was revoked, credentials or certificates that are not taken); it is tried again: by watches of live views, published values and guards without end, by streams as their documentation says |
//! | `etcd_typed::watch` | warn | `disproved` | `pattern` | the server has what the watch of live views did not tell; it starts again from the present state |
//! | `etcd_typed::watch` | warn | `progress told too early` | `pattern`, `revision`, `progress` | a change came after the server had said that all was told (etcd issue 15220); nothing is lost |
//! | `etcd_typed::watch` | trace | `seen before` | `pattern`, `revision` | changes came again and were dropped |
//! | `etcd_typed::view` | debug | `applied` | `pattern`, `revision` | a live view shows a new state |
//! | `etcd_typed::view` | warn | `rejected` | `pattern`, `revision`, `problems` | what is stored does not decode or fails a validation, at so many keys; the last good state stays |
//! | `etcd_typed::view` | info | `recovered` | `pattern` | nothing is wrong with the view any more |
//! | `etcd_typed::view` | error | `callback panicked` | `pattern` | a function given to [`on_change`](crate::Live::on_change) panicked; it is called with the next state again |
//! | `etcd_typed::view` | warn | `started from disk` | `pattern`, `revision`, `cause`, `error` | there is no state of the server's: a live view begins with that of its file (feature `snapshot`) |
//! | `etcd_typed::view` | warn | `not kept on disk` | `pattern`, `path`, `error` | the file of a live view does not hold its state: an attempt to write it failed and will be repeated, or the file is another view's now (feature `snapshot`) |
//! | `etcd_typed::view` | debug | `not proved` | `pattern`, `cause`, `error` | how far the server is could not be read; the staleness grows |
//! | `etcd_typed::lease` | warn | `not kept alive` | `lease`, `remaining`, `cause`, `error` | an attempt failed; it is made again |
//! | `etcd_typed::lease` | error | `lost` | `lease`, `cause` | the lease ended while it was wanted |
//! | `etcd_typed::turn` | debug | `taken` | `recipe`, `waited` | a lock or the leadership is ours, after so long |
//! | `etcd_typed::turn` | warn | `not taken` | `recipe`, `cause`, `error` | the leadership could not be had; [`lead`](crate::Election::lead) tries again |
//! | `etcd_typed::turn` | warn | `keys outside the queue` | `recipe`, `queue` | below the name of a lock or an election are keys without a lease: they are not waited for here, and Go's `concurrency` and `etcdctl` wait for them; once for each client and name. [`NamedLock::strays`](crate::NamedLock::strays) and [`Election::strays`](crate::Election::strays) tell which |
//! | `etcd_typed::turn` | warn | `place lost` | `recipe` | a waiter's lease ended or its key was deleted; it begins anew at the end of the queue |
//! | `etcd_typed::publish` | warn | `missing` | `pattern`, `cause` | a published value is not there any more; it is put back |
//! | `etcd_typed::publish` | debug | `not put` | `pattern`, `cause`, `error` | an attempt to put it back, or to write a newer value, failed; it is made again |
//! | `etcd_typed::publish` | info | `put back` | `pattern`, `cause`, `missing` | it is there again; `missing` is for how long it was not |
//! | `etcd_typed::lease` | debug | `not revoked` | `lease`, `cause`, `error` | a lease that is not wanted any more could not be ended; it runs out |
//!
//! `pattern`, `store`, `op` and `cause` are those of the metrics. `error` is what a server or a connection said, with the endpoint. No field has a
//! value, or a key, but for `queue`: the name of a lock or an election, with the client's namespace before it. Which key it is about the [`Error`] tells,
//! and of a live view its [`status`](crate::Live::status).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::instrument::Instrumented;
use tracing::{Instrument as _, Span};

#[cfg(feature = "metrics")]
use self::facade::{add, count, observe, set};
#[cfg(not(feature = "metrics"))]
use self::nothing::{add, count, observe, set};
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};

/// All metrics of this crate: a contract, as the rest of its interface is. For tools that make dashboards and alerts.
pub const METRICS: &[Metric] = &[
    RETRIES,
    CONFLICTS,
    WATCH_INTERRUPTIONS,
    RESYNCS,
    VIEWS,
    VIEWS_DEGRADED,
    VIEW_REVISION,
    VIEW_STALENESS,
    VIEW_PROOF_PERIOD,
    VIEW_APPLIED,
    VIEW_REJECTED,
    LEASE_REMAINING,
    LEASES_LOST,
    LOCK_WAIT,
    PLACES_LOST,
    PUBLISHED,
    PUBLISHED_MISSING,
    PUT_BACK,
];

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// The name under which it is recorded.
    pub name: &'static str,
    /// What it does over time.
    pub kind: MetricKind,
    /// The names of its labels; each record has all of them.
    pub labels: &'static [&'static str],
    /// What it counts or measures.
    pub unit: MetricUnit,
    /// What it says, in one line.
    pub meaning: &'static str,
}

/// What a [`Metric`] does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It is what it was set to last.
    Gauge,
    /// It is a distribution of what was observed.
    Histogram,
}

/// What a [`Metric`] counts or measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricUnit {
    /// Things, one by one.
    Count,
    /// Seconds, with fractions.
    Seconds,
}

/// Tells the recorder that is installed the unit and the description of every metric.
///
/// ```
/// use etcd_typed::telemetry;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// metrics::set_global_recorder(metrics::NoopRecorder)?; // the program's own, such as an exporter for Prometheus
/// telemetry::describe();
/// # Ok(()) }
/// ```
#[cfg(feature = "metrics")]
pub fn describe() {
    for Metric { name, kind, unit, meaning, .. } in METRICS.iter().copied() {
        let unit = match unit {
            MetricUnit::Count => metrics::Unit::Count,
            MetricUnit::Seconds => metrics::Unit::Seconds,
        };
        match kind {
            MetricKind::Counter => metrics::describe_counter!(name, unit, meaning),
            MetricKind::Gauge => metrics::describe_gauge!(name, unit, meaning),
            MetricKind::Histogram => metrics::describe_histogram!(name, unit, meaning),
        }
    }
}

const RETRIES: Metric = Metric {
    name: "etcd_typed_retries_total",
    kind: MetricKind::Counter,
    labels: &["store", "op", "cause"],
    unit: MetricUnit::Count,
    meaning: "requests that were sent again",
};

const CONFLICTS: Metric = Metric {
    name: "etcd_typed_conflicts_total",
    kind: MetricKind::Counter,
    labels: &["pattern", "op"],
    unit: MetricUnit::Count,
    meaning: "times that somebody else wrote first, so that an operation had to start again",
};

const WATCH_INTERRUPTIONS: Metric = Metric {
    name: "etcd_typed_watch_interruptions_total",
    kind: MetricKind::Counter,
    labels: &["pattern", "cause"],
    unit: MetricUnit::Count,
    meaning: "times that a watch broke or fell behind, and had to be resumed",
};

const RESYNCS: Metric = Metric {
    name: "etcd_typed_resyncs_total",
    kind: MetricKind::Counter,
    labels: &["pattern", "cause"],
    unit: MetricUnit::Count,
    meaning: "times that a watch started again from the present state, since its history was gone",
};

const VIEWS: Metric = Metric {
    name: "etcd_typed_views",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "live views that there are",
};

const VIEWS_DEGRADED: Metric = Metric {
    name: "etcd_typed_views_degraded",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "live views that may not show what is stored: it is rejected, or cannot be followed",
};

const VIEW_REVISION: Metric = Metric {
    name: "etcd_typed_view_revision",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "revision up to which a live view has everything",
};

const VIEW_STALENESS: Metric = Metric {
    name: "etcd_typed_view_staleness_seconds",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Seconds,
    meaning: "time since the last proof that a live view has everything, at the latest attempt to have one",
};

const VIEW_PROOF_PERIOD: Metric = Metric {
    name: "etcd_typed_view_proof_period_seconds",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Seconds,
    meaning: "time in which a live view is proved again while all is well: 10 s, and 1 ms for each key of its directory",
};

const VIEW_APPLIED: Metric = Metric {
    name: "etcd_typed_view_applied_total",
    kind: MetricKind::Counter,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "states that a live view has taken",
};

const VIEW_REJECTED: Metric = Metric {
    name: "etcd_typed_view_rejected_total",
    kind: MetricKind::Counter,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "states that a live view did not take, since they do not decode or fail a validation",
};

const LEASE_REMAINING: Metric = Metric {
    name: "etcd_typed_lease_remaining_seconds",
    kind: MetricKind::Histogram,
    labels: &[],
    unit: MetricUnit::Seconds,
    meaning: "what was left of a lease's time each time that an attempt to keep it alive ended",
};

const LEASES_LOST: Metric = Metric {
    name: "etcd_typed_leases_lost_total",
    kind: MetricKind::Counter,
    labels: &["cause"],
    unit: MetricUnit::Count,
    meaning: "leases that ended while they were wanted, alone or with the guard that had them",
};

const LOCK_WAIT: Metric = Metric {
    name: "etcd_typed_lock_wait_seconds",
    kind: MetricKind::Histogram,
    labels: &["recipe"],
    unit: MetricUnit::Seconds,
    meaning: "time that it took to have a lock or the leadership",
};

const PLACES_LOST: Metric = Metric {
    name: "etcd_typed_places_lost_total",
    kind: MetricKind::Counter,
    labels: &["recipe"],
    unit: MetricUnit::Count,
    meaning: "times that a waiter's lease ended or its key was deleted, so that it began anew at the end of the queue",
};

const PUBLISHED: Metric = Metric {
    name: "etcd_typed_published",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "values that are to be published",
};

const PUBLISHED_MISSING: Metric = Metric {
    name: "etcd_typed_published_missing",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "values that are to be published and are not there, or that no runtime keeps there",
};

const PUT_BACK: Metric = Metric {
    name: "etcd_typed_put_back_total",
    kind: MetricKind::Counter,
    labels: &["pattern", "cause"],
    unit: MetricUnit::Count,
    meaning: "times that a published value was lost and is there again",
};

/// A live view, from its first state on. The gauges that count views are right for any number with one pattern, and forget it when it is dropped.
#[derive(Debug)]
pub(crate) struct ViewTelemetry {
    pattern: Pattern,
    degraded: Mutex<bool>,
}

impl ViewTelemetry {
    pub(crate) fn new(pattern: Pattern, revision: Revision) -> Self {
        add(&VIEWS, &[pattern], 1.0);
        let view = Self { pattern, degraded: Mutex::new(false) };
        view.applied(revision);
        view
    }

    /// It shows a new state.
    pub(crate) fn applied(&self, revision: Revision) {
        tracing::debug!(target: "etcd_typed::view", pattern = self.pattern, %revision, "applied");
        count(&VIEW_APPLIED, &[self.pattern]);
        self.progressed(revision);
    }

    /// Its state is that of a later revision.
    pub(crate) fn progressed(&self, revision: Revision) {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53; etcd at a million writes a second gets there in 285 years")]
        set(&VIEW_REVISION, &[self.pattern], revision.get() as f64);
    }

    /// It keeps its state, since the one of this revision has so many problems. Which they are is for its status to tell: reasons may quote values.
    pub(crate) fn rejected(&self, revision: Revision, problems: usize) {
        tracing::warn!(target: "etcd_typed::view", pattern = self.pattern, %revision, problems, "rejected");
        count(&VIEW_REJECTED, &[self.pattern]);
    }

    /// A function that was called with its state panicked. What it said is for the panic hook to tell: it may quote values.
    pub(crate) fn callback_panicked(&self) {
        tracing::error!(target: "etcd_typed::view", pattern = self.pattern, "callback panicked");
    }

    /// Takes whether anything is wrong with it now. It is asked under a lock, so that of two threads that tell at the same time the later one is right.
    pub(crate) fn degraded(&self, is_degraded: impl FnOnce() -> bool) {
        let now = {
            let mut degraded = self.degraded.lock().unwrap_or_else(PoisonError::into_inner);
            let now = is_degraded();
            if std::mem::replace(&mut *degraded, now) == now {
                return;
            }
            now
        };
        add(&VIEWS_DEGRADED, &[self.pattern], if now { 1.0 } else { -1.0 });
        if !now {
            tracing::info!(target: "etcd_typed::view", pattern = self.pattern, "recovered");
        }
    }
}

impl Drop for ViewTelemetry {
    fn drop(&mut self) {
        add(&VIEWS, &[self.pattern], -1.0);
        if *self.degraded.get_mut().unwrap_or_else(PoisonError::into_inner) {
            add(&VIEWS_DEGRADED, &[self.pattern], -1.0);
        }
    }
}

/// A published value, as long as anything is done for it. The gauges are right for any number with one pattern, as those of views are.
#[derive(Debug)]
pub(crate) struct PublishedTelemetry {
    pattern: Pattern,
    absence: Mutex<Absence>,
}

/// Why a published value counts as missing.
#[derive(Debug, Default)]
struct Absence {
    /// It was found missing.
    is_missing: bool,
    /// No runtime keeps it.
    is_stranded: bool,
}

impl Absence {
    fn counts(&self) -> bool {
        self.is_missing || self.is_stranded
    }
}

impl PublishedTelemetry {
    pub(crate) fn new(pattern: Pattern) -> Self {
        add(&PUBLISHED, &[pattern], 1.0);
        Self { pattern, absence: Mutex::default() }
    }

    /// It is not there any more.
    pub(crate) fn missing(&self, cause: &'static str) {
        tracing::warn!(target: "etcd_typed::publish", pattern = self.pattern, cause, "missing");
        self.count(|absence| absence.is_missing = true);
    }

    /// Takes whether no runtime keeps it. It is asked under a lock, so that of two threads that tell at the same time the later one is right.
    pub(crate) fn stranded(&self, is_stranded: impl FnOnce() -> bool) {
        self.count(|absence| absence.is_stranded = is_stranded());
    }

    /// An attempt to have it there, or a newer value, failed.
    pub(crate) fn not_put(&self, error: &Error) {
        let cause = cause(error.kind());
        tracing::debug!(target: "etcd_typed::publish", pattern = self.pattern, cause, error = words(error), "not put");
    }

    /// It is there again, after so long.
    pub(crate) fn put_back(&self, cause: &'static str, missing: Duration) {
        tracing::info!(target: "etcd_typed::publish", pattern = self.pattern, cause, ?missing, "put back");
        count(&PUT_BACK, &[self.pattern, cause]);
        self.count(|absence| absence.is_missing = false);
    }

    fn count(&self, change: impl FnOnce(&mut Absence)) {
        let (before, now) = {
            let mut absence = self.absence.lock().unwrap_or_else(PoisonError::into_inner);
            let before = absence.counts();
            change(&mut absence);
            (before, absence.counts())
        };
        if before != now {
            add(&PUBLISHED_MISSING, &[self.pattern], if now { 1.0 } else { -1.0 });
        }
    }
}

impl Drop for PublishedTelemetry {
    fn drop(&mut self) {
        self.count(|absence| *absence = Absence::default());
        add(&PUBLISHED, &[self.pattern], -1.0);
    }
}

/// So much time has passed since the last proof that the views of a directory have seen everything.
///
/// `period`: in which time the next proof is due.
pub(crate) fn view_staleness(pattern: Pattern, staleness: Duration, period: Duration) {
    set(&VIEW_STALENESS, &[pattern], staleness.as_secs_f64());
    set(&VIEW_PROOF_PERIOD, &[pattern], period.as_secs_f64());
}

/// How far the server is could not be asked: the staleness of the views grows.
pub(crate) fn view_unproved(pattern: Pattern, error: &Error) {
    let cause = cause(error.kind());
    tracing::debug!(target: "etcd_typed::view", pattern, cause, error = words(error), "not proved");
}

/// A watch was refused, or nothing can be read; it is tried again. `first`: until now it was followed, and nothing else counts the interruption.
pub(crate) fn watch_refused(pattern: Pattern, error: &Error, first: bool) {
    let cause = cause(error.kind());
    tracing::warn!(target: "etcd_typed::watch", pattern, cause, error = words(error), "refused");
    if first {
        count(&WATCH_INTERRUPTIONS, &[pattern, cause]);
    }
}

/// A live view begins with the state of a file, which is of `revision`, since there is none of the server's.
#[cfg(feature = "snapshot")]
pub(crate) fn view_from_disk(pattern: Pattern, revision: Revision, error: &Error) {
    let cause = cause(error.kind());
    tracing::warn!(target: "etcd_typed::view", pattern, %revision, cause, error = words(error), "started from disk");
}

/// The file of a live view does not hold its state.
#[cfg(feature = "snapshot")]
pub(crate) fn view_not_kept(pattern: Pattern, path: &std::path::Path, error: &std::io::Error) {
    tracing::warn!(target: "etcd_typed::view", pattern, path = %path.display(), %error, "not kept on disk");
}

/// The server has what the watch of live views did not tell, or another history than the one that is watched; it starts again from the present state.
pub(crate) fn watch_disproved(pattern: Pattern) {
    tracing::warn!(target: "etcd_typed::watch", pattern, "disproved");
    count(&RESYNCS, &[pattern, "disproved"]);
}

/// What stands for a directory or a key in metrics and events. It is known when the program is compiled, so there are few and none has a key in it that a
/// user made up.
pub(crate) type Pattern = &'static str;

/// A request failed and is sent again. `op` is the call's own name, never an address: that may have a key in it. `error` names the endpoint.
#[cfg(any(feature = "v2", feature = "v3"))]
pub(crate) fn repeated(store: &'static str, op: &'static str, kind: ErrorKind, error: &str) {
    let cause = cause(kind);
    tracing::debug!(target: "etcd_typed::call", store, op, cause, error, "sent again");
    count(&RETRIES, &[store, op, cause]);
}

/// The server refused a login.
#[cfg(feature = "v3")]
pub(crate) fn login_refused(store: &'static str, kind: ErrorKind, error: &str) {
    let cause = cause(kind);
    tracing::warn!(target: "etcd_typed::call", store, cause, error, "login refused");
}

/// The endpoints agree that they are of another cluster than before.
#[cfg(feature = "v3")]
pub(crate) fn cluster_replaced(store: &'static str, former: u64, cluster: u64) {
    let (former, cluster) = (format_args!("{former:x}"), format_args!("{cluster:x}"));
    tracing::warn!(target: "etcd_typed::call", store, %former, %cluster, "cluster replaced");
}

/// A typed operation: a method of a handle, and on what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    op: &'static str,
    pattern: Pattern,
}

impl Operation {
    pub(crate) fn new(op: &'static str, pattern: Pattern) -> Self {
        Self { op, pattern }
    }

    /// The work of the operation in its span, which costs nothing that can be measured while nobody listens.
    #[inline]
    pub(crate) fn run<F: Future>(self, work: F) -> Instrumented<F> {
        work.instrument(self.begin().0)
    }

    /// For an operation that is not one future.
    pub(crate) fn begin(self) -> Ongoing {
        let Self { op, pattern } = self;
        Ongoing(tracing::debug_span!(target: "etcd_typed::operation", "operation", op, pattern))
    }

    /// Somebody else wrote first; the operation starts again as long as the policy allows.
    pub(crate) fn conflict(self) {
        let Self { op, pattern } = self;
        tracing::debug!(target: "etcd_typed::operation", op, pattern, "conflict");
        count(&CONFLICTS, &[pattern, op]);
    }
}

/// An operation that has begun: its span.
pub(crate) struct Ongoing(Span);

impl Ongoing {
    /// A part of it that waits.
    pub(crate) fn run<F: Future>(&self, work: F) -> Instrumented<F> {
        work.instrument(self.0.clone())
    }
}

/// A write went well, and what it replaced or deleted is not a value of the type. Why is not told: the reason may quote it.
pub(crate) fn previous_undecodable(pattern: Pattern) {
    tracing::warn!(target: "etcd_typed::operation", pattern, "previous value undecodable");
}

/// A watch that was followed is not any more, and will be resumed.
pub(crate) fn watch_interrupted(pattern: Pattern, error: &Error) {
    let cause = cause(error.kind());
    tracing::info!(target: "etcd_typed::watch", pattern, cause, error = words(error), "interrupted");
    count(&WATCH_INTERRUPTIONS, &[pattern, cause]);
}

/// The reader of a watch was so slow that the store gave it up; it is resumed at once and nothing is lost.
pub(crate) fn watch_lagged(pattern: Pattern) {
    tracing::info!(target: "etcd_typed::watch", pattern, "lagged");
    count(&WATCH_INTERRUPTIONS, &[pattern, "lagged"]);
}

/// An attempt to resume a watch failed, the first or a later one.
pub(crate) fn watch_attempt_failed(pattern: Pattern, resume: Revision, error: &Error) {
    let cause = cause(error.kind());
    tracing::debug!(target: "etcd_typed::watch", pattern, %resume, cause, error = words(error), "not resumed yet");
}

/// A watch is followed again, from where it broke.
pub(crate) fn watch_resumed(pattern: Pattern, interrupted: Duration) {
    tracing::info!(target: "etcd_typed::watch", pattern, ?interrupted, "resumed");
}

/// A watch starts again from the state at `revision`, since what came after `seen` cannot be had.
pub(crate) fn resynced(pattern: Pattern, cause: &'static str, revision: Revision, seen: Revision) {
    tracing::warn!(target: "etcd_typed::watch", pattern, cause, %revision, %seen, "resynced");
    count(&RESYNCS, &[pattern, cause]);
}

/// A batch came that was seen before, as the first of a resumed watch is, or because of etcd issue 15271.
pub(crate) fn batch_dropped(pattern: Pattern, revision: Revision) {
    tracing::trace!(target: "etcd_typed::watch", pattern, %revision, "seen before");
}

/// A server said that a watch had everything up to `progress`, and then sent an earlier change (etcd issue 15220).
pub(crate) fn progress_lied(pattern: Pattern, revision: Revision, progress: Revision) {
    tracing::warn!(target: "etcd_typed::watch", pattern, %revision, %progress, "progress told too early");
}

/// An attempt to keep a lease alive ended, when it had so much left.
pub(crate) fn lease_remaining(remaining: Duration) {
    observe(&LEASE_REMAINING, &[], remaining.as_secs_f64());
}

/// An attempt to keep a lease alive failed; it is made again while the lease may be there.
pub(crate) fn lease_attempt_failed(lease: LeaseId, remaining: Duration, error: &Error) {
    let cause = cause(error.kind());
    tracing::warn!(target: "etcd_typed::lease", %lease, ?remaining, cause, error = words(error), "not kept alive");
}

/// A lease that was wanted ended.
pub(crate) fn lease_lost(lease: LeaseId, cause: &'static str) {
    tracing::error!(target: "etcd_typed::lease", %lease, cause, "lost");
    count(&LEASES_LOST, &[cause]);
}

/// A lease that is not wanted any more could not be ended; it runs out by itself.
pub(crate) fn lease_not_revoked(lease: LeaseId, error: &Error) {
    let cause = cause(error.kind());
    tracing::debug!(target: "etcd_typed::lease", %lease, cause, error = words(error), "not revoked");
}

/// A lock or the leadership was had, after so long.
pub(crate) fn turn_taken(recipe: &'static str, waited: Duration) {
    tracing::debug!(target: "etcd_typed::turn", recipe, ?waited, "taken");
    observe(&LOCK_WAIT, &[recipe], waited.as_secs_f64());
}

/// The leadership could not be had; somebody who is to lead whenever it can be tries again.
pub(crate) fn turn_not_taken(recipe: &'static str, error: &Error) {
    let cause = cause(error.kind());
    tracing::warn!(target: "etcd_typed::turn", recipe, cause, error = words(error), "not taken");
}

/// Keys below the name of a queue are not in the queue.
pub(crate) fn strays_found(recipe: &'static str, queue: &Key) {
    tracing::warn!(target: "etcd_typed::turn", recipe, %queue, "keys outside the queue");
}

/// A waiter has no place in the queue any more.
pub(crate) fn place_lost(recipe: &'static str) {
    tracing::warn!(target: "etcd_typed::turn", recipe, "place lost");
    count(&PLACES_LOST, &[recipe]);
}

/// What a server or a connection said. Of errors about a key it is left out: the words name it.
fn words(error: &Error) -> &str {
    match error.kind() {
        ErrorKind::HistoryLost
        | ErrorKind::LeaseLost
        | ErrorKind::NoSpace
        | ErrorKind::PermissionDenied
        | ErrorKind::Server
        | ErrorKind::Timeout
        | ErrorKind::Tls
        | ErrorKind::TooLarge
        | ErrorKind::Unauthenticated
        | ErrorKind::Unavailable => error.message(),
        _ => "",
    }
}

/// The name of a kind as a label.
fn cause(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not_found",
        ErrorKind::AlreadyExists => "already_exists",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Decode => "decode",
        ErrorKind::Encode => "encode",
        ErrorKind::Invalid => "invalid",
        ErrorKind::InvalidKey => "invalid_key",
        ErrorKind::InvalidUrl => "invalid_url",
        ErrorKind::NotADirectory => "not_a_directory",
        ErrorKind::IsADirectory => "is_a_directory",
        ErrorKind::DirectoryNotEmpty => "directory_not_empty",
        ErrorKind::LeaseLost => "lease_lost",
        ErrorKind::GuardLost => "guard_lost",
        ErrorKind::Unauthenticated => "unauthenticated",
        ErrorKind::PermissionDenied => "permission_denied",
        ErrorKind::TooLarge => "too_large",
        ErrorKind::TooManyOperations => "too_many_operations",
        ErrorKind::NoSpace => "no_space",
        ErrorKind::Tls => "tls",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Timeout => "timeout",
        ErrorKind::HistoryLost => "history_lost",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Server => "server",
    }
}

#[cfg(feature = "metrics")]
mod facade {
    use metrics::Label;

    use super::Metric;

    /// One more, for the metric's labels in their order.
    pub(super) fn count(metric: &'static Metric, values: &[&'static str]) {
        metrics::counter!(metric.name, labels(metric, values)).increment(1);
    }

    pub(super) fn set(metric: &'static Metric, values: &[&'static str], value: f64) {
        metrics::gauge!(metric.name, labels(metric, values)).set(value);
    }

    /// That much more of a gauge.
    pub(super) fn add(metric: &'static Metric, values: &[&'static str], difference: f64) {
        metrics::gauge!(metric.name, labels(metric, values)).increment(difference);
    }

    pub(super) fn observe(metric: &'static Metric, values: &[&'static str], value: f64) {
        metrics::histogram!(metric.name, labels(metric, values)).record(value);
    }

    fn labels(metric: &'static Metric, values: &[&'static str]) -> Vec<Label> {
        metric.labels.iter().zip(values).map(|(name, value)| Label::from_static_parts(name, value)).collect()
    }
}

#[cfg(not(feature = "metrics"))]
mod nothing {
    use super::Metric;

    pub(super) fn count(_: &'static Metric, _: &[&'static str]) {}

    pub(super) fn set(_: &'static Metric, _: &[&'static str], _: f64) {}

    pub(super) fn add(_: &'static Metric, _: &[&'static str], _: f64) {}

    pub(super) fn observe(_: &'static Metric, _: &[&'static str], _: f64) {}
}
