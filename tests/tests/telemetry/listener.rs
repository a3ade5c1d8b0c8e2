//! `Listener` records the metrics, spans and events of its own thread. A test on a single-threaded
//! runtime therefore records no output of other tests.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, LocalRecorderGuard, Metadata, Recorder, SharedString, Unit,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Subscriber};

use crate::listed;

/// The fields of a span or an event, by name.
pub(crate) type Fields = BTreeMap<String, String>;

/// An event, or a span at its creation.
#[derive(Clone, Debug)]
pub(crate) struct SpanOrEvent {
    pub(crate) target: String,
    pub(crate) level: String,
    /// The event's message, or the span's name.
    pub(crate) what: String,
    pub(crate) fields: Fields,
    /// The fields of the enclosing span, if there is one.
    pub(crate) within: Option<Fields>,
    pub(crate) is_span: bool,
}

/// A metric with one set of labels, and all values that it had.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) values: Arc<Mutex<Vec<f64>>>,
}

pub(crate) struct Listener {
    told: &'static Recorded,
    _metrics: LocalRecorderGuard<'static>,
    _tracing: DefaultGuard,
}

#[derive(Default)]
struct Recorded {
    series: Mutex<Vec<Series>>,
    described: Mutex<BTreeMap<String, (&'static str, Option<Unit>, String)>>,
    said: Mutex<Vec<SpanOrEvent>>,
    spans: Mutex<Vec<Fields>>,
    /// The IDs of the entered spans, the innermost last.
    entered: Mutex<Vec<u64>>,
}

impl Listener {
    pub(crate) fn new() -> Self {
        // The recorder and the subscriber must be `'static`. The leak does not matter, because a
        // test process ends soon.
        let told: &'static Recorded = Box::leak(Box::default());
        Self {
            told,
            _metrics: metrics::set_default_local_recorder(told),
            _tracing: tracing::subscriber::set_default(RecordingSubscriber(told)),
        }
    }

    /// Returns the current value of the metric with these labels. For a histogram, returns the
    /// number of its values.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let values = self.values(name, labels);
        if self.series().iter().any(|series| series.name == name && series.kind == "histogram") {
            return values.len() as f64;
        }
        values.last().copied().unwrap_or(0.0)
    }

    /// Returns all values that the metric had.
    pub(crate) fn values(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let is_it = |series: &Series| {
            let own: Vec<_> = series.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            series.name == name && own == labels
        };
        self.series().iter().find(|series| is_it(series)).map_or_else(Vec::new, |series| lock(&series.values).clone())
    }

    pub(crate) fn series(&self) -> Vec<Series> {
        lock(&self.told.series).clone()
    }

    /// Returns the descriptions of metrics by name: kind, unit and text.
    pub(crate) fn described(&self) -> BTreeMap<String, (&'static str, Option<Unit>, String)> {
        lock(&self.told.described).clone()
    }

    /// Returns the events with this message.
    pub(crate) fn events(&self, what: &str) -> Vec<SpanOrEvent> {
        self.said().into_iter().filter(|said| !said.is_span && said.what == what).collect()
    }

    /// Returns `op` and `pattern` of each operation, in the order in which the operations started.
    pub(crate) fn operations(&self) -> Vec<(String, String)> {
        let spans = self.said().into_iter().filter(|said| said.is_span && said.target == "etcd_typed::operation");
        spans.map(|mut span| (span.fields.remove("op").unwrap(), span.fields.remove("pattern").unwrap())).collect()
    }

    /// Returns the spans and events of the library, without those of other crates.
    fn said(&self) -> Vec<SpanOrEvent> {
        lock(&self.told.said).iter().filter(|said| said.target.starts_with("etcd_typed")).cloned().collect()
    }

    /// Checks that the documentation lists all recorded metrics, spans and events with these labels
    /// and fields, and that none of them contains a planted text.
    pub(crate) fn check(&self) {
        let (metrics, events) = (listed::metrics(), listed::events());
        for Series { kind, name, labels, .. } in self.series().iter().filter(|series| series.name.starts_with("etcd_typed")) {
            let names: Vec<_> = labels.iter().map(|(name, _)| name.clone()).collect();
            let found = metrics.iter().find(|row| row.name == *name).unwrap_or_else(|| panic!("`{name}` is not in the list"));
            assert_eq!((found.kind.as_str(), &found.labels), (*kind, &names), "{name}");
        }
        for said in self.said() {
            let row = events.iter().find(|row| row.target == said.target && row.message == said.what);
            let row = row.unwrap_or_else(|| panic!("{said:?} is not in the list"));
            let fields: Vec<_> = said.fields.keys().cloned().collect();
            let mut listed = row.fields.clone();
            listed.sort();
            assert_eq!((row.level.as_str(), listed, row.is_span), (said.level.as_str(), fields, said.is_span), "{said:?}");
        }
        for text in [format!("{:?}", self.series()), format!("{:?}", self.said())] {
            assert!(!text.contains("planted"), "a key or a value is shown: {text}");
        }
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe("counter", &name, unit, &description);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe("gauge", &name, unit, &description);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe("histogram", &name, unit, &description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.values("counter", key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.values("gauge", key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.values("histogram", key))
    }
}

impl Recorded {
    fn describe(&self, kind: &'static str, name: &KeyName, unit: Option<Unit>, description: &SharedString) {
        lock(&self.described).insert(name.as_str().to_owned(), (kind, unit, description.to_string()));
    }

    fn values(&self, kind: &'static str, key: &Key) -> Arc<Values> {
        let labels: Vec<_> = key.labels().map(|label| (label.key().to_owned(), label.value().to_owned())).collect();
        let mut series = lock(&self.series);
        if let Some(known) = series.iter().find(|series| series.kind == kind && series.name == key.name() && series.labels == labels) {
            return Arc::new(Values(known.values.clone()));
        }
        let new = Series { kind, name: key.name().to_owned(), labels, values: Arc::default() };
        let values = new.values.clone();
        series.push(new);
        Arc::new(Values(values))
    }
}

struct Values(Arc<Mutex<Vec<f64>>>);

impl Values {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut values = lock(&self.0);
        let last = values.last().copied().unwrap_or(0.0);
        values.push(change(last));
    }
}

impl CounterFn for Values {
    fn increment(&self, more: u64) {
        self.change(|last| last + more as f64);
    }

    fn absolute(&self, value: u64) {
        self.change(|_| value as f64);
    }
}

impl GaugeFn for Values {
    fn increment(&self, more: f64) {
        self.change(|last| last + more);
    }

    fn decrement(&self, less: f64) {
        self.change(|last| last - less);
    }

    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.change(|_| value);
    }
}

struct RecordingSubscriber(&'static Recorded);

impl RecordingSubscriber {
    fn within(&self) -> Option<Fields> {
        let span = *lock(&self.0.entered).last()?;
        lock(&self.0.spans).get(usize::try_from(span).ok()? - 1).cloned()
    }

    fn hear(&self, metadata: &tracing::Metadata<'_>, what: String, fields: Fields) {
        let (target, level) = (metadata.target().to_owned(), metadata.level().to_string().to_lowercase());
        let (within, is_span) = (self.within(), metadata.is_span());
        lock(&self.0.said).push(SpanOrEvent { target, level, what, fields, within, is_span });
    }
}

impl Subscriber for RecordingSubscriber {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Written::default();
        span.record(&mut fields);
        self.hear(span.metadata(), span.metadata().name().to_owned(), fields.0.clone());
        let mut spans = lock(&self.0.spans);
        spans.push(fields.0);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Written::default();
        event.record(&mut fields);
        let what = fields.0.remove("message").unwrap_or_default();
        self.hear(event.metadata(), what, fields.0);
    }

    fn enter(&self, span: &Id) {
        lock(&self.0.entered).push(span.into_u64());
    }

    fn exit(&self, span: &Id) {
        let mut entered = lock(&self.0.entered);
        if let Some(at) = entered.iter().rposition(|id| *id == span.into_u64()) {
            entered.remove(at);
        }
    }
}

#[derive(Default)]
struct Written(Fields);

impl Visit for Written {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
