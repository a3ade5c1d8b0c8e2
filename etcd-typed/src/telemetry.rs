//! What the library reports about its work: metrics and `tracing` events. The names here are part
//! of the public interface.
//!
//! # Metrics
//!
//! The feature `metrics` sends the metrics through the facade crate
//! [`metrics`](https://docs.rs/metrics) to the recorder that the program installs. Install the
//! recorder before the first client is created, then call `describe`, which gives the recorder the
//! units and descriptions. Without the feature, the crate `metrics` is not compiled. [`METRICS`] is
//! the list below, for tools.
//!
//! | name | type | labels | unit | meaning |
//! |---|---|---|---|---|
//! | `etcd_typed_retries_total` | counter | `store`, `op`, `cause` | count | requests that were sent again |
//! | `etcd_typed_conflicts_total` | counter | `pattern`, `op` | count | times that an operation had to start again because another client wrote first |
//! | `etcd_typed_watch_interruptions_total` | counter | `pattern`, `cause` | count | times that a watch broke or fell behind, and had to be resumed |
//! | `etcd_typed_resyncs_total` | counter | `pattern`, `cause` | count | times that a watch started again from the current state because its history was gone |
//! | `etcd_typed_views` | gauge | `pattern` | count | live views that exist |
//! | `etcd_typed_views_degraded` | gauge | `pattern` | count | live views that may not show what is stored: it was rejected, or cannot be followed |
//! | `etcd_typed_view_revision` | gauge | `pattern` | count | revision up to which a live view has all changes |
//! | `etcd_typed_view_staleness_seconds` | gauge | `pattern` | seconds | time since the last proof that a live view has all changes, as of the latest attempt to get one |
//! | `etcd_typed_view_proof_period_seconds` | gauge | `pattern` | seconds | time between two proofs of a live view without failures: 10 s, and 1 ms for each key of its directory |
//! | `etcd_typed_view_applied_total` | counter | `pattern` | count | states that a live view applied |
//! | `etcd_typed_view_rejected_total` | counter | `pattern` | count | states that a live view rejected because they do not decode or fail a validation |
//! | `etcd_typed_view_bad_entries` | gauge | `pattern` | count | entries that a live view per entry leaves out, or shows with an earlier value, because they do not decode or fail a validation |
//! | `etcd_typed_lease_remaining_seconds` | histogram |  | seconds | remaining time of a lease at the end of each attempt to renew it |
//! | `etcd_typed_leases_lost_total` | counter | `cause` | count | leases that were lost while they were in use, alone or with their guard |
//! | `etcd_typed_lock_wait_seconds` | histogram | `recipe` | seconds | time that it took to get a lock or the leadership |
//! | `etcd_typed_places_lost_total` | counter | `recipe` | count | times that a waiter started again at the end of the queue because its lease ended or its key was deleted |
//! | `etcd_typed_published` | gauge | `pattern` | count | values to keep published |
//! | `etcd_typed_published_missing` | gauge | `pattern` | count | values to keep published that are missing, or that no runtime keeps |
//! | `etcd_typed_put_back_total` | counter | `pattern`, `cause` | count | times that a published value was lost and put back |
//!
//! Labels have few values, which are all known at compile time. No label contains a key or a value
//! of the store:
//!
//! | label | values |
//! |---|---|
//! | `pattern` | for a schema its prefix as written, `/{env}/checkout`, or its name if it has no prefix; for a map of values or a single key the name of the value's type; `directory` for a [`Directory`](crate::Directory), `raw` for [untyped operations](crate::raw), `transaction` for a [`Transaction`](crate::Transaction); `guard` for the watch of a guard's key, `election` for [`LeaderChanges`](crate::LeaderChanges) |
//! | `store` | `v3`, `v2`; the in-memory store never repeats a request |
//! | `op` of a retry | on v3 the name of the remote call, which is the `grpc_method` of the server's own metrics (`Range`, `Txn`, `LeaseKeepAlive`, …); on v2 the HTTP method |
//! | `op` of a conflict | the method of the handle: `modify`, `update`, `set`, `create`, `delete` |
//! | `cause` of a retry or an interruption | the [`ErrorKind`] in snake case: `unavailable`, `timeout`, `permission_denied`, …; `lagged` for a watch whose reader was too slow |
//! | `cause` of a resync | `history_lost`: the history was compacted, or is out of v2's window; `rewound`: the server came back with another history; `disproved`: the server had a change that the watch of a live view did not report |
//! | `cause` of a lost lease | `gone`: the server does not know the lease; `expired`: its time passed without an answer; `not_kept_alive`: its runtime ended, and the client was not used on another one in time; `key_deleted`, `taken_over`, `unverified`: the key of its guard was deleted, belongs to another client, or could not be read for a whole time to live |
//! | `cause` of a value that is put back | the causes of a lost lease, above |
//! | `recipe` | `lock`, `election` |
//!
//! An interruption is counted when a working watch breaks, not for each attempt to resume the
//! watch. Base an alert on live views on `etcd_typed_views_degraded`, which counts each view.
//! `etcd_typed_view_revision`, `etcd_typed_view_staleness_seconds` and
//! `etcd_typed_view_proof_period_seconds` show the latest report of any view with the same pattern.
//! A view is out of date when its staleness is several times its proof period. Dropping a view
//! removes it from the counts. The facade cannot remove a gauge, so these three gauges keep their
//! last values when no view is left. Ignore them while `etcd_typed_views` is zero. Base an alert on
//! services that are missing from their registry on `etcd_typed_published_missing`.
//!
//! When a runtime ends and no other runtime takes over its tasks, these tasks can no longer report
//! anything. So when the runtime ends, each of its views counts as degraded and each of its
//! published values as missing, although the server keeps a published value until its time to live
//! has passed. `etcd_typed_leases_lost_total` counts a lease of such a runtime when the client or
//! the guard is used again.
//!
//! # Spans and events
//!
//! `tracing` is always compiled in and costs next to nothing without a subscriber. Every typed
//! operation opens a span, which contains the operation's events. Watches, live views and leases
//! work in the background, outside of any span. To see everything, use the filter
//! `etcd_typed=debug`.
//!
//! | target | level | message | fields | when |
//! |---|---|---|---|---|
//! | `etcd_typed::operation` | debug | span `operation` | `op`, `pattern` | a method of a handle is awaited: `get`, `set`, `update`, … |
//! | `etcd_typed::operation` | debug | `conflict` | `op`, `pattern` | another client wrote first; the operation starts again if the policy allows another attempt |
//! | `etcd_typed::operation` | warn | `previous value undecodable` | `pattern` | a write succeeded, but the value that it replaced or deleted cannot be returned, since it does not decode |
//! | `etcd_typed::call` | debug | `sent again` | `store`, `op`, `cause`, `error` | a request failed and is repeated |
//! | `etcd_typed::call` | warn | `login refused` | `store`, `cause`, `error` | the server refused user and password; calls that need a token wait for the next login, after a pause |
//! | `etcd_typed::call` | warn | `cluster replaced` | `store`, `former`, `cluster` | the endpoints agree that they belong to another cluster: it was restored or created anew, with another history |
//! | `etcd_typed::call` | warn | `certificates not replaced` | `error` | a file with certificates or a key changed and cannot be used (damaged, unreadable, or a certificate without its key); new connections use the last usable ones. Reported once for each reason |
//! | `etcd_typed::watch` | info | `interrupted` | `pattern`, `cause`, `error` | a working watch broke, and will be resumed |
//! | `etcd_typed::watch` | info | `lagged` | `pattern` | the reader of a watch was too slow; the watch is resumed at once where it stopped, and no change is lost |
//! | `etcd_typed::watch` | debug | `not resumed yet` | `pattern`, `resume`, `cause`, `error` | an attempt to resume a watch failed; `resume` is the revision up to which all changes were seen |
//! | `etcd_typed::watch` | info | `resumed` | `pattern`, `interrupted` | the watch works again; `interrupted` is the length of the interruption |
//! | `etcd_typed::watch` | warn | `resynced` | `pattern`, `cause`, `revision`, `seen` | the history of a watch is gone: after `seen` it continues with the state at `revision` |
//! | `etcd_typed::watch` | warn | `refused` | `pattern`, `cause`, `error` | a read or watch was refused for a reason that does not pass by itself (a revoked right, refused credentials or certificates); it is tried again: without limit by live views, published values and guards, and as documented by streams |
//! | `etcd_typed::watch` | warn | `disproved` | `pattern` | the server has a change that the watch of live views did not report; the watch starts again from the current state |
//! | `etcd_typed::watch` | warn | `progress told too early` | `pattern`, `revision`, `progress` | a change came after the server had reported that all changes were sent (etcd issue 15220); no change is lost |
//! | `etcd_typed::watch` | trace | `seen before` | `pattern`, `revision` | changes came a second time and were dropped |
//! | `etcd_typed::view` | debug | `applied` | `pattern`, `revision` | a live view shows a new state |
//! | `etcd_typed::view` | warn | `rejected` | `pattern`, `revision`, `problems` | the stored values do not decode or fail a validation; `problems` is the number of keys; the last good state stays |
//! | `etcd_typed::view` | warn | `bad entries` | `pattern`, `revision`, `entries`, `problems` | entries of a live view [per entry](crate::Viewing::per_entry) became bad; `problems` lists up to 20 of them, each with its key and reason; `entries` is the number of all bad entries. An entry is listed again only after it was good or deleted |
//! | `etcd_typed::view` | info | `recovered` | `pattern` | the view is no longer degraded |
//! | `etcd_typed::view` | error | `callback panicked` | `pattern` | a function given to [`on_change`](crate::Live::on_change) panicked; it is called again for the next state |
//! | `etcd_typed::view` | warn | `started from disk` | `pattern`, `revision`, `cause`, `error` | the server gave no state: a live view starts with the state from its file (feature `snapshot`) |
//! | `etcd_typed::view` | warn | `not kept on disk` | `pattern`, `path`, `error` | a live view's file does not hold the view's state: a write failed and will be repeated, or the file now belongs to another view (feature `snapshot`) |
//! | `etcd_typed::view` | warn | `unknown keys` | `pattern`, `keys` | the directory of a struct with `#[serde(deny_unknown_fields)]` has keys that are not in the schema; `keys` is their number. Reported once for each live view. [`check`](crate::Dir::check) lists them |
//! | `etcd_typed::view` | debug | `not proved` | `pattern`, `cause`, `error` | the server's revision could not be read, so the view is not proved current; its staleness grows |
//! | `etcd_typed::lease` | warn | `not kept alive` | `lease`, `remaining`, `cause`, `error` | an attempt to renew a lease failed, and is repeated |
//! | `etcd_typed::lease` | error | `lost` | `lease`, `cause` | a lease was lost while it was in use |
//! | `etcd_typed::queue` | debug | `taken` | `recipe`, `waited` | a lock was acquired, or a leadership began; `waited` is how long it took |
//! | `etcd_typed::queue` | warn | `not taken` | `recipe`, `cause`, `error` | a campaign failed; [`lead`](crate::Election::lead) tries again |
//! | `etcd_typed::queue` | warn | `leadership lost` | `recipe`, `cause`, `error` | [`lead`](crate::Election::lead) lost the leadership, and campaigns again; `error` is the last refusal, if that is the reason |
//! | `etcd_typed::queue` | warn | `keys outside the queue` | `recipe`, `queue` | there are keys without a lease below the name of a lock or an election. This library does not wait for these keys; Go's `concurrency` and `etcdctl` do. Reported once for each client and name. [`NamedLock::strays`](crate::NamedLock::strays) and [`Election::strays`](crate::Election::strays) list them |
//! | `etcd_typed::queue` | warn | `place lost` | `recipe` | a waiter's lease ended or its key was deleted; it starts again at the end of the queue |
//! | `etcd_typed::publish` | warn | `missing` | `pattern`, `cause` | a published value is missing; it is put back |
//! | `etcd_typed::publish` | debug | `not put` | `pattern`, `cause`, `error` | an attempt to put a value back, or to write a newer value, failed, and is repeated |
//! | `etcd_typed::publish` | info | `put back` | `pattern`, `cause`, `missing` | a published value is back; `missing` is how long it was missing |
//! | `etcd_typed::lease` | debug | `not revoked` | `lease`, `cause`, `error` | a lease that is no longer in use could not be revoked; it runs out |
//!
//! `pattern`, `store`, `op` and `cause` have the values of the labels above. `error` is the message
//! of the server or the connection, with the endpoint. No field contains a key or a value of the
//! store, except `queue`, the name of a lock or an election with the client's namespace, and
//! `problems` of `bad entries`, which has keys and reasons. A reason may quote the stored value,
//! but never the value of a secret. To find the key, look at the [`Error`] of the call or at the
//! [`status`](crate::Live::status) of the live view.

mod metrics;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::instrument::Instrumented;
use tracing::{Instrument as _, Span};

#[cfg(any(feature = "v2", feature = "v3"))]
use self::metrics::RETRIES;
#[cfg(feature = "metrics")]
pub use self::metrics::describe;
use self::metrics::{
    CONFLICTS, LEASE_REMAINING, LEASES_LOST, LOCK_WAIT, PLACES_LOST, PUBLISHED, PUBLISHED_MISSING, PUT_BACK, RESYNCS, VIEW_APPLIED,
    VIEW_BAD_ENTRIES, VIEW_PROOF_PERIOD, VIEW_REJECTED, VIEW_REVISION, VIEW_STALENESS, VIEWS, VIEWS_DEGRADED, WATCH_INTERRUPTIONS, add,
    count, observe, set,
};
pub use self::metrics::{METRICS, Metric, MetricKind, MetricUnit};
use crate::error::{Error, ErrorKind, Problem};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};

/// The largest number of bad entries that one event lists.
const NAMED: usize = 20;

/// Reports on a live view from its first state on. Several views may have the same pattern: the
/// gauges count each of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct ViewTelemetry {
    pattern: Pattern,
    degraded: Mutex<bool>,
    /// The number of bad entries that the gauge counts for this view.
    bad_entries: Mutex<u32>,
}

impl ViewTelemetry {
    pub(crate) fn new(pattern: Pattern, revision: Revision) -> Self {
        add(&VIEWS, &[pattern], 1.0);
        let view = Self { pattern, degraded: Mutex::new(false), bad_entries: Mutex::new(0) };
        view.applied(revision);
        view
    }

    /// Reports that the view shows a new state.
    pub(crate) fn applied(&self, revision: Revision) {
        tracing::debug!(target: "etcd_typed::view", pattern = self.pattern, %revision, "applied");
        count(&VIEW_APPLIED, &[self.pattern]);
        self.progressed(revision);
    }

    /// Reports that the view's state is still current at this later revision.
    pub(crate) fn progressed(&self, revision: Revision) {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53; etcd at a million writes a second gets there in 285 years")]
        set(&VIEW_REVISION, &[self.pattern], revision.get() as f64);
    }

    /// Reports that the view rejected the state at this revision. `problems` is their number; only
    /// the view's status lists them, since reasons may quote values.
    pub(crate) fn rejected(&self, revision: Revision, problems: usize) {
        tracing::warn!(target: "etcd_typed::view", pattern = self.pattern, %revision, problems, "rejected");
        count(&VIEW_REJECTED, &[self.pattern]);
    }

    /// Reports the bad entries of the view's newest state. `known` lists those of the previous
    /// state. The event lists only entries that have become bad.
    pub(crate) fn bad_entries(&self, revision: Revision, known: &[Problem], now: &[Problem], entries: usize) {
        let count = u32::try_from(entries).unwrap_or(u32::MAX);
        let before = std::mem::replace(&mut *self.bad_entries.lock().unwrap_or_else(PoisonError::into_inner), count);
        if before != count {
            add(&VIEW_BAD_ENTRIES, &[self.pattern], f64::from(count) - f64::from(before));
        }
        let known: HashSet<_> = known.iter().map(|problem| &problem.key).collect();
        let news: Vec<_> = now.iter().filter(|problem| !known.contains(&problem.key)).collect();
        if news.is_empty() {
            return;
        }
        let mut problems: Vec<_> = news.iter().take(NAMED).map(ToString::to_string).collect();
        if news.len() > NAMED {
            problems.push(format!("and {} more", news.len() - NAMED));
        }
        let problems = problems.join("; ");
        tracing::warn!(target: "etcd_typed::view", pattern = self.pattern, %revision, entries, %problems, "bad entries");
    }

    /// Reports that a function given to [`on_change`](crate::Live::on_change) panicked. Only the
    /// panic hook gets the message, since it may quote values.
    pub(crate) fn callback_panicked(&self) {
        tracing::error!(target: "etcd_typed::view", pattern = self.pattern, "callback panicked");
    }

    /// Updates whether the view is degraded. The closure runs under a lock: if two threads report
    /// at the same time, the later answer counts.
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
        let bad = *self.bad_entries.get_mut().unwrap_or_else(PoisonError::into_inner);
        if bad > 0 {
            add(&VIEW_BAD_ENTRIES, &[self.pattern], -f64::from(bad));
        }
        if *self.degraded.get_mut().unwrap_or_else(PoisonError::into_inner) {
            add(&VIEWS_DEGRADED, &[self.pattern], -1.0);
        }
    }
}

/// Reports on a published value while its task or guard exists. The gauges count each of several
/// values with the same pattern.
#[derive(Debug)]
pub(crate) struct PublishedTelemetry {
    pattern: Pattern,
    absence: Mutex<Absence>,
}

/// The reasons why a published value counts as missing.
#[derive(Debug, Default)]
struct Absence {
    /// True if the value was found missing on the server.
    is_missing: bool,
    /// True if no runtime runs the task that keeps the value published.
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

    /// Reports that the value is missing.
    pub(crate) fn missing(&self, cause: &'static str) {
        tracing::warn!(target: "etcd_typed::publish", pattern = self.pattern, cause, "missing");
        self.count(|absence| absence.is_missing = true);
    }

    /// Updates whether the value's task has no runtime. The closure runs under a lock: if two
    /// threads report at the same time, the later answer counts.
    pub(crate) fn stranded(&self, is_stranded: impl FnOnce() -> bool) {
        self.count(|absence| absence.is_stranded = is_stranded());
    }

    /// Reports that an attempt to put the value failed.
    pub(crate) fn not_put(&self, error: &Error) {
        let cause = cause(error.kind());
        tracing::debug!(target: "etcd_typed::publish", pattern = self.pattern, cause, error = words(error), "not put");
    }

    /// Reports that the value is back after it was missing for this time.
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

/// Reports the time since the views of a directory were last known to have all changes.
///
/// `period` is the time from one such check to the next.
pub(crate) fn view_staleness(pattern: Pattern, staleness: Duration, period: Duration) {
    set(&VIEW_STALENESS, &[pattern], staleness.as_secs_f64());
    set(&VIEW_PROOF_PERIOD, &[pattern], period.as_secs_f64());
}

/// Reports that the server's revision could not be read, so the staleness of the views grows.
pub(crate) fn view_unproved(pattern: Pattern, error: &Error) {
    let cause = cause(error.kind());
    tracing::debug!(target: "etcd_typed::view", pattern, cause, error = words(error), "not proved");
}

/// Reports that a watch or read was refused and is tried again. `first` is true if the watch worked
/// until now and its interruption was not counted yet.
pub(crate) fn watch_refused(pattern: Pattern, error: &Error, first: bool) {
    let cause = cause(error.kind());
    tracing::warn!(target: "etcd_typed::watch", pattern, cause, error = words(error), "refused");
    if first {
        count(&WATCH_INTERRUPTIONS, &[pattern, cause]);
    }
}

/// Reports that a live view starts with the state from its file, since the server gave no state.
/// `revision` is the revision of that state.
#[cfg(feature = "snapshot")]
pub(crate) fn view_from_disk(pattern: Pattern, revision: Revision, error: &Error) {
    let cause = cause(error.kind());
    tracing::warn!(target: "etcd_typed::view", pattern, %revision, cause, error = words(error), "started from disk");
}

/// Reports that a live view has seen keys that are not in its schema.
pub(crate) fn view_has_unknown_keys(pattern: Pattern, keys: usize) {
    tracing::warn!(target: "etcd_typed::view", pattern, keys, "unknown keys");
}

/// Reports that a live view's file does not hold the view's state.
#[cfg(feature = "snapshot")]
pub(crate) fn view_not_kept(pattern: Pattern, path: &std::path::Path, error: &std::io::Error) {
    tracing::warn!(target: "etcd_typed::view", pattern, path = %path.display(), %error, "not kept on disk");
}

/// Reports that the watch of live views missed a change, or that the server was restored or
/// replaced. The watch starts again from the current state.
pub(crate) fn watch_disproved(pattern: Pattern) {
    tracing::warn!(target: "etcd_typed::watch", pattern, "disproved");
    count(&RESYNCS, &[pattern, "disproved"]);
}

/// The label for a directory or a key in metrics and events. Patterns are known at compile time, so
/// there are few, and none contains a key that a user chose.
pub(crate) type Pattern = &'static str;

/// Reports that a request failed and is sent again. `op` is the name of the call, never a URL,
/// which may contain a key. `error` contains the endpoint.
#[cfg(any(feature = "v2", feature = "v3"))]
pub(crate) fn repeated(store: &'static str, op: &'static str, kind: ErrorKind, error: &str) {
    let cause = cause(kind);
    tracing::debug!(target: "etcd_typed::call", store, op, cause, error, "sent again");
    count(&RETRIES, &[store, op, cause]);
}

/// Reports that the server refused a login.
#[cfg(feature = "v3")]
pub(crate) fn login_refused(store: &'static str, kind: ErrorKind, error: &str) {
    let cause = cause(kind);
    tracing::warn!(target: "etcd_typed::call", store, cause, error, "login refused");
}

/// Reports that the endpoints agree that they belong to a different cluster than before.
#[cfg(feature = "v3")]
pub(crate) fn cluster_replaced(store: &'static str, former: u64, cluster: u64) {
    let (former, cluster) = (format_args!("{former:x}"), format_args!("{cluster:x}"));
    tracing::warn!(target: "etcd_typed::call", store, %former, %cluster, "cluster replaced");
}

/// Reports that a certificate or key file changed and cannot be used.
#[cfg(all(feature = "tls", any(feature = "v2", feature = "v3")))]
pub(crate) fn certificates_not_replaced(error: &Error) {
    tracing::warn!(target: "etcd_typed::call", error = words(error), "certificates not replaced");
}

/// A typed operation, identified by the method and pattern of a handle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    op: &'static str,
    pattern: Pattern,
}

impl Operation {
    pub(crate) fn new(op: &'static str, pattern: Pattern) -> Self {
        Self { op, pattern }
    }

    /// Runs the operation's work in its span. Without a subscriber the cost is too small to
    /// measure.
    #[inline]
    pub(crate) fn run<F: Future>(self, work: F) -> Instrumented<F> {
        work.instrument(self.begin().0)
    }

    /// Opens the span of an operation that is not a single future.
    pub(crate) fn begin(self) -> Ongoing {
        let Self { op, pattern } = self;
        Ongoing(tracing::debug_span!(target: "etcd_typed::operation", "operation", op, pattern))
    }

    /// Reports that another client wrote first. The operation starts again if the policy allows
    /// another attempt.
    pub(crate) fn conflict(self) {
        let Self { op, pattern } = self;
        tracing::debug!(target: "etcd_typed::operation", op, pattern, "conflict");
        count(&CONFLICTS, &[pattern, op]);
    }
}

/// The span of an operation that has begun.
pub(crate) struct Ongoing(Span);

impl Ongoing {
    /// Runs a part of the operation in its span.
    pub(crate) fn run<F: Future>(&self, work: F) -> Instrumented<F> {
        work.instrument(self.0.clone())
    }
}

/// Reports that a write succeeded, but that the value that it replaced or deleted does not decode.
/// The event leaves out the reason, which may quote the value.
pub(crate) fn previous_undecodable(pattern: Pattern) {
    tracing::warn!(target: "etcd_typed::operation", pattern, "previous value undecodable");
}

/// Reports that a working watch broke, and will be resumed.
pub(crate) fn watch_interrupted(pattern: Pattern, error: &Error) {
    let cause = cause(error.kind());
    tracing::info!(target: "etcd_typed::watch", pattern, cause, error = words(error), "interrupted");
    count(&WATCH_INTERRUPTIONS, &[pattern, cause]);
}

/// Reports that the reader of a watch was so slow that the store ended the watch. The watch is
/// resumed at once, and no change is lost.
pub(crate) fn watch_lagged(pattern: Pattern) {
    tracing::info!(target: "etcd_typed::watch", pattern, "lagged");
    count(&WATCH_INTERRUPTIONS, &[pattern, "lagged"]);
}

/// Reports that an attempt to resume a watch failed.
pub(crate) fn watch_attempt_failed(pattern: Pattern, resume: Revision, error: &Error) {
    let cause = cause(error.kind());
    tracing::debug!(target: "etcd_typed::watch", pattern, %resume, cause, error = words(error), "not resumed yet");
}

/// Reports that a watch has resumed where it broke.
pub(crate) fn watch_resumed(pattern: Pattern, interrupted: Duration) {
    tracing::info!(target: "etcd_typed::watch", pattern, ?interrupted, "resumed");
}

/// Reports that a watch starts again from the state at `revision`, since the changes after `seen`
/// are not available.
pub(crate) fn resynced(pattern: Pattern, cause: &'static str, revision: Revision, seen: Revision) {
    tracing::warn!(target: "etcd_typed::watch", pattern, cause, %revision, %seen, "resynced");
    count(&RESYNCS, &[pattern, cause]);
}

/// Reports that the watch dropped a batch that it had seen before. Such a batch comes first on a
/// resumed watch, or is caused by etcd issue 15271.
pub(crate) fn batch_dropped(pattern: Pattern, revision: Revision) {
    tracing::trace!(target: "etcd_typed::watch", pattern, %revision, "seen before");
}

/// Reports that a server announced that all changes up to `progress` were sent, and then sent an
/// earlier change (etcd issue 15220).
pub(crate) fn progress_lied(pattern: Pattern, revision: Revision, progress: Revision) {
    tracing::warn!(target: "etcd_typed::watch", pattern, %revision, %progress, "progress told too early");
}

/// Reports the remaining time of a lease at the end of an attempt to renew it.
pub(crate) fn lease_remaining(remaining: Duration) {
    observe(&LEASE_REMAINING, &[], remaining.as_secs_f64());
}

/// Reports that an attempt to renew a lease failed. It is repeated while the lease may still exist.
pub(crate) fn lease_attempt_failed(lease: LeaseId, remaining: Duration, error: &Error) {
    let cause = cause(error.kind());
    tracing::warn!(target: "etcd_typed::lease", %lease, ?remaining, cause, error = words(error), "not kept alive");
}

/// Reports that a lease was lost while it was in use.
pub(crate) fn lease_lost(lease: LeaseId, cause: &'static str) {
    tracing::error!(target: "etcd_typed::lease", %lease, cause, "lost");
    count(&LEASES_LOST, &[cause]);
}

/// Reports that a lease that is no longer in use could not be revoked. The lease will expire.
pub(crate) fn lease_not_revoked(lease: LeaseId, error: &Error) {
    let cause = cause(error.kind());
    tracing::debug!(target: "etcd_typed::lease", %lease, cause, error = words(error), "not revoked");
}

/// Reports that a lock was acquired, or a leadership began, after a wait of this time.
pub(crate) fn queue_front_reached(recipe: &'static str, waited: Duration) {
    tracing::debug!(target: "etcd_typed::queue", recipe, ?waited, "taken");
    observe(&LOCK_WAIT, &[recipe], waited.as_secs_f64());
}

/// Reports that a campaign failed. [`Election::lead`](crate::Election::lead) tries again.
pub(crate) fn campaign_failed(recipe: &'static str, error: &Error) {
    let cause = cause(error.kind());
    tracing::warn!(target: "etcd_typed::queue", recipe, cause, error = words(error), "not taken");
}

/// Reports that [`Election::lead`](crate::Election::lead) lost the leadership.
pub(crate) fn leadership_lost(recipe: &'static str, cause: Option<&'static str>, error: Option<&Error>) {
    let (cause, error) = (cause.unwrap_or("released"), error.map_or("", words));
    tracing::warn!(target: "etcd_typed::queue", recipe, cause, error, "leadership lost");
}

/// Reports that there are keys below the name of a queue that are not in the queue.
pub(crate) fn strays_found(recipe: &'static str, queue: &Key) {
    tracing::warn!(target: "etcd_typed::queue", recipe, %queue, "keys outside the queue");
}

/// Reports that a waiter lost its place in the queue.
pub(crate) fn place_lost(recipe: &'static str) {
    tracing::warn!(target: "etcd_typed::queue", recipe, "place lost");
    count(&PLACES_LOST, &[recipe]);
}

/// Returns the error's message if it comes from a server or a connection. For all other kinds,
/// whose message may contain a key, returns an empty text.
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

/// Returns the label for an error kind.
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
