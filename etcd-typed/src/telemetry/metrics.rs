//! The list of metrics, and the functions that send them to the crate `metrics`.

#[cfg(feature = "metrics")]
pub(super) use self::facade::{add, count, observe, set};
#[cfg(not(feature = "metrics"))]
pub(super) use self::nothing::{add, count, observe, set};

/// All metrics of this crate, for tools that generate dashboards and alerts. They are a stable part
/// of the public interface.
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
    VIEW_BAD_ENTRIES,
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
    /// The name under which the metric is recorded.
    pub name: &'static str,
    /// How the metric changes over time.
    pub kind: MetricKind,
    /// The names of the metric's labels. Every recorded value has all labels.
    pub labels: &'static [&'static str],
    /// What the metric counts or measures.
    pub unit: MetricUnit,
    /// A description of the metric in one line.
    pub meaning: &'static str,
}

/// How a [`Metric`] changes over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricKind {
    /// The metric only grows.
    Counter,
    /// The metric has the value that was set last.
    Gauge,
    /// The metric is a distribution of observed values.
    Histogram,
}

/// What a [`Metric`] counts or measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricUnit {
    /// A count without a unit.
    Count,
    /// Seconds, with fractions.
    Seconds,
}

/// Describes every metric, with its unit, to the installed recorder.
///
/// ```standalone_crate
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

pub(super) const RETRIES: Metric = Metric {
    name: "etcd_typed_retries_total",
    kind: MetricKind::Counter,
    labels: &["store", "op", "cause"],
    unit: MetricUnit::Count,
    meaning: "requests that were sent again",
};

pub(super) const CONFLICTS: Metric = Metric {
    name: "etcd_typed_conflicts_total",
    kind: MetricKind::Counter,
    labels: &["pattern", "op"],
    unit: MetricUnit::Count,
    meaning: "times that an operation had to start again because another client wrote first",
};

pub(super) const WATCH_INTERRUPTIONS: Metric = Metric {
    name: "etcd_typed_watch_interruptions_total",
    kind: MetricKind::Counter,
    labels: &["pattern", "cause"],
    unit: MetricUnit::Count,
    meaning: "times that a watch broke or fell behind, and had to be resumed",
};

pub(super) const RESYNCS: Metric = Metric {
    name: "etcd_typed_resyncs_total",
    kind: MetricKind::Counter,
    labels: &["pattern", "cause"],
    unit: MetricUnit::Count,
    meaning: "times that a watch started again from the current state because its history was gone",
};

pub(super) const VIEWS: Metric = Metric {
    name: "etcd_typed_views",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "live views that exist",
};

pub(super) const VIEWS_DEGRADED: Metric = Metric {
    name: "etcd_typed_views_degraded",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "live views that may not show what is stored: it was rejected, or cannot be followed",
};

pub(super) const VIEW_REVISION: Metric = Metric {
    name: "etcd_typed_view_revision",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "revision up to which a live view has all changes",
};

pub(super) const VIEW_STALENESS: Metric = Metric {
    name: "etcd_typed_view_staleness_seconds",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Seconds,
    meaning: "time since the last proof that a live view has all changes, as of the latest attempt to get one",
};

pub(super) const VIEW_PROOF_PERIOD: Metric = Metric {
    name: "etcd_typed_view_proof_period_seconds",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Seconds,
    meaning: "time between two proofs of a live view without failures: 10 s, and 1 ms for each key of its directory",
};

pub(super) const VIEW_APPLIED: Metric = Metric {
    name: "etcd_typed_view_applied_total",
    kind: MetricKind::Counter,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "states that a live view applied",
};

pub(super) const VIEW_REJECTED: Metric = Metric {
    name: "etcd_typed_view_rejected_total",
    kind: MetricKind::Counter,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "states that a live view rejected because they do not decode or fail a validation",
};

pub(super) const VIEW_BAD_ENTRIES: Metric = Metric {
    name: "etcd_typed_view_bad_entries",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "entries that a live view per entry leaves out, or shows with an earlier value, because they do not decode or fail a validation",
};

pub(super) const LEASE_REMAINING: Metric = Metric {
    name: "etcd_typed_lease_remaining_seconds",
    kind: MetricKind::Histogram,
    labels: &[],
    unit: MetricUnit::Seconds,
    meaning: "remaining time of a lease at the end of each attempt to renew it",
};

pub(super) const LEASES_LOST: Metric = Metric {
    name: "etcd_typed_leases_lost_total",
    kind: MetricKind::Counter,
    labels: &["cause"],
    unit: MetricUnit::Count,
    meaning: "leases that were lost while they were in use, alone or with their guard",
};

pub(super) const LOCK_WAIT: Metric = Metric {
    name: "etcd_typed_lock_wait_seconds",
    kind: MetricKind::Histogram,
    labels: &["recipe"],
    unit: MetricUnit::Seconds,
    meaning: "time that it took to get a lock or the leadership",
};

pub(super) const PLACES_LOST: Metric = Metric {
    name: "etcd_typed_places_lost_total",
    kind: MetricKind::Counter,
    labels: &["recipe"],
    unit: MetricUnit::Count,
    meaning: "times that a waiter started again at the end of the queue because its lease ended or its key was deleted",
};

pub(super) const PUBLISHED: Metric = Metric {
    name: "etcd_typed_published",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "values to keep published",
};

pub(super) const PUBLISHED_MISSING: Metric = Metric {
    name: "etcd_typed_published_missing",
    kind: MetricKind::Gauge,
    labels: &["pattern"],
    unit: MetricUnit::Count,
    meaning: "values to keep published that are missing, or that no runtime keeps",
};

pub(super) const PUT_BACK: Metric = Metric {
    name: "etcd_typed_put_back_total",
    kind: MetricKind::Counter,
    labels: &["pattern", "cause"],
    unit: MetricUnit::Count,
    meaning: "times that a published value was lost and put back",
};

#[cfg(feature = "metrics")]
mod facade {
    use metrics::Label;

    use super::Metric;

    /// Adds one to a counter. `values` are the values of the metric's labels, in the same order.
    pub(in crate::telemetry) fn count(metric: &'static Metric, values: &[&'static str]) {
        metrics::counter!(metric.name, labels(metric, values)).increment(1);
    }

    pub(in crate::telemetry) fn set(metric: &'static Metric, values: &[&'static str], value: f64) {
        metrics::gauge!(metric.name, labels(metric, values)).set(value);
    }

    /// Adds a difference to a gauge.
    pub(in crate::telemetry) fn add(metric: &'static Metric, values: &[&'static str], difference: f64) {
        metrics::gauge!(metric.name, labels(metric, values)).increment(difference);
    }

    pub(in crate::telemetry) fn observe(metric: &'static Metric, values: &[&'static str], value: f64) {
        metrics::histogram!(metric.name, labels(metric, values)).record(value);
    }

    fn labels(metric: &'static Metric, values: &[&'static str]) -> Vec<Label> {
        metric.labels.iter().zip(values).map(|(name, value)| Label::from_static_parts(name, value)).collect()
    }
}

#[cfg(not(feature = "metrics"))]
mod nothing {
    use super::Metric;

    pub(in crate::telemetry) fn count(_: &'static Metric, _: &[&'static str]) {}

    pub(in crate::telemetry) fn set(_: &'static Metric, _: &[&'static str], _: f64) {}

    pub(in crate::telemetry) fn add(_: &'static Metric, _: &[&'static str], _: f64) {}

    pub(in crate::telemetry) fn observe(_: &'static Metric, _: &[&'static str], _: f64) {}
}
