//! Checks that the documentation of `etcd_typed::telemetry` lists exactly the metrics in `METRICS`,
//! and exactly the spans and events in the module's code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use etcd_typed::telemetry::{self, METRICS, Metric, MetricKind, MetricUnit};

use crate::listener::Listener;

/// A row of the table of metrics.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MetricRow {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) labels: Vec<String>,
    unit: String,
    meaning: String,
}

/// A row of the table of spans and events.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventRow {
    pub(crate) target: String,
    pub(crate) level: String,
    /// The message of an event or the name of a span.
    pub(crate) message: String,
    pub(crate) fields: Vec<String>,
    pub(crate) is_span: bool,
}

/// Returns the documented metrics.
pub(crate) fn metrics() -> Vec<MetricRow> {
    let row = |cells: Vec<String>| {
        let [name, kind, labels, unit, meaning] = <[String; 5]>::try_from(cells).expect("five columns");
        MetricRow { name: plain(&name), kind, labels: names(&labels), unit, meaning }
    };
    table("| name |").into_iter().map(row).collect()
}

/// Returns the documented spans and events.
pub(crate) fn events() -> Vec<EventRow> {
    let row = |cells: Vec<String>| {
        let [target, level, message, fields, when] = <[String; 5]>::try_from(cells).expect("five columns");
        assert!(!when.is_empty(), "{message}");
        let is_span = message.starts_with("span ");
        let message = plain(message.strip_prefix("span ").unwrap_or(&message));
        EventRow { target: plain(&target), level, message, fields: names(&fields), is_span }
    };
    table("| target |").into_iter().map(row).collect()
}

#[test]
fn documented_metrics_match_list() {
    let row = |metric: &Metric| MetricRow {
        name: metric.name.to_owned(),
        kind: kind(metric.kind).to_owned(),
        labels: metric.labels.iter().map(ToString::to_string).collect(),
        unit: unit(metric.unit).to_owned(),
        meaning: metric.meaning.to_owned(),
    };
    assert_eq!(metrics(), METRICS.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn metric_names_follow_conventions() {
    let mut names = BTreeSet::new();
    for metric in METRICS {
        let Metric { name, kind, unit, .. } = *metric;
        assert!(names.insert(name), "{name} is listed twice");
        assert!(name.starts_with("etcd_typed_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert_eq!(name.ends_with("_total"), kind == MetricKind::Counter, "{name}");
        assert_eq!(name.ends_with("_seconds"), unit == MetricUnit::Seconds, "{name}");
    }
    assert!(names.len() >= 12, "{names:?}");
}

#[test]
fn describe_registers_every_metric() {
    let listener = Listener::new();
    telemetry::describe();
    let described = listener.described();
    assert_eq!(described.len(), METRICS.len());
    for metric in METRICS {
        let (own_kind, own_unit, meaning) = &described[metric.name];
        let own_unit = own_unit.as_ref().map(metrics::Unit::as_str);
        assert_eq!((*own_kind, own_unit, meaning.as_str()), (kind(metric.kind), Some(unit(metric.unit)), metric.meaning));
    }
}

#[test]
fn documented_events_match_code() {
    let (mut listed, mut written) = (events(), spans_and_events_in(&fs::read_to_string(page()).unwrap()));
    for row in listed.iter_mut().chain(&mut written) {
        row.fields.sort();
    }
    listed.sort();
    written.sort();
    assert_eq!(listed, written);
    assert!(listed.len() >= 20);
}

#[test]
fn only_telemetry_module_emits_metrics_and_events() {
    let mut open = vec![src()];
    let mut seen = 0;
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path != page()
                && path != src().join("telemetry/metrics.rs")
            {
                seen += 1;
                let text = fs::read_to_string(&path).unwrap();
                for told in ["tracing::", "metrics::"] {
                    assert!(!text.contains(told), "{} contains `{told}`, which belongs in telemetry.rs", path.display());
                }
            }
        }
    }
    assert!(seen > 80, "{seen} files are read");
}

#[test]
fn metrics_crate_needs_metrics_feature() {
    let tree = |features: &str| {
        let arguments = ["tree", "--offline", "--locked", "--package", "etcd-typed", "--edges", "normal", "--prefix", "none", "--features"];
        let output = Command::new(env!("CARGO")).args(arguments).arg(features).current_dir(src()).output().unwrap();
        let (tree, complaint) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success() && tree.contains("tracing v"), "{complaint}");
        tree.lines().any(|line| line.starts_with("metrics v"))
    };
    assert!(tree("metrics"));
    let others: Vec<_> = features().into_iter().filter(|feature| feature != "metrics").collect();
    assert!(others.len() > 8, "{others:?}");
    assert!(!tree(&others.join(",")));
}

/// Returns the features of the library, as its manifest lists them.
fn features() -> Vec<String> {
    let manifest = fs::read_to_string(src().join("../Cargo.toml")).unwrap();
    let lines = manifest.lines().skip_while(|line| *line != "[features]").skip(1).take_while(|line| !line.starts_with('['));
    lines.filter(|line| !line.starts_with('#')).filter_map(|line| Some(line.split_once(" = ")?.0.to_owned())).collect()
}

fn kind(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
        _ => panic!("{kind:?} is new"),
    }
}

fn unit(unit: MetricUnit) -> &'static str {
    match unit {
        MetricUnit::Count => "count",
        MetricUnit::Seconds => "seconds",
        _ => panic!("{unit:?} is new"),
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../etcd-typed/src")
}

fn page() -> PathBuf {
    src().join("telemetry.rs")
}

/// Returns the rows of the documentation table whose heading starts with `heading`.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(page()).unwrap();
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let rows: Vec<_> = lines.skip_while(|line| !line.starts_with(heading)).skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 5, "the documentation has a table `{heading}`");
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.into_iter().map(cells).collect()
}

fn plain(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

fn names(cell: &str) -> Vec<String> {
    cell.split(", ").filter(|name| !name.is_empty()).map(plain).collect()
}

/// Returns the spans and events that a source text creates, found by their macro calls.
fn spans_and_events_in(text: &str) -> Vec<EventRow> {
    let mut found = Vec::new();
    for (at, start) in text.match_indices("tracing::") {
        let rest = &text[at + start.len()..];
        let Some((name, rest)) = rest.split_once("!(").filter(|(name, _)| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')) else {
            continue;
        };
        let mut depth = 1;
        let end = rest.char_indices().find_map(|(at, c)| {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            (depth == 0).then_some(at)
        });
        let mut target = None;
        let mut message = None;
        let mut fields = Vec::new();
        for argument in rest[..end.unwrap()].split(',').map(str::trim).filter(|argument| !argument.is_empty()) {
            if let Some(text) = argument.strip_prefix("target: ") {
                target = Some(text.trim_matches('"').to_owned());
            } else if argument.starts_with('"') {
                message = Some(argument.trim_matches('"').to_owned());
            } else {
                let field = argument.split_once('=').map_or(argument, |(field, _)| field.trim());
                fields.push(field.trim_start_matches(['%', '?']).to_owned());
            }
        }
        let is_span = name.ends_with("_span");
        let level = name.trim_end_matches("_span").to_owned();
        found.push(EventRow { target: target.expect("a target"), level, message: message.expect("a message"), fields, is_span });
    }
    found
}
