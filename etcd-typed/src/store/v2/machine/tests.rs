//! Feeds the machine with answers recorded from a real server, original and mutated, and compares
//! it with a model of the stored keys.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::json::{self, Answer};
use bytes::Bytes;

use super::*;
use crate::store::WatchFrom;

/// The recorded answers to a watch of `/t/app`, from the server's history. They contain values,
/// directories, a hidden key, a key with a value that becomes a directory, expired keys and
/// directories, deleted ancestors, and deletes of `/t/ap` that match by text prefix.
const RECORDED: &str = include_str!("trace-3.4.23.jsonl");

fn key(path: &str) -> Key {
    Key::parse(path).expect("a key")
}

fn change(body: &str) -> Change {
    let answer = Answer {
        status: 200,
        index: Some(99),
        cluster: None,
        body: Bytes::copy_from_slice(body.as_bytes()),
        authenticated: false,
        server: None,
    };
    json::keys(&answer).expect("an answer").outcome.expect("an event")
}

fn machine(span: Span, after: u64) -> Machine {
    Machine::new(Watch { span, from: WatchFrom::Listed(Revision::new(after)) })
}

/// Returns an item in short form.
fn short(seen: &Seen) -> String {
    let Seen::Item(item) = seen else { return "stale".to_owned() };
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    match item {
        WatchItem::Batch(batch) => match batch.events.as_slice() {
            [Event::Put { kv, .. }] => format!("{} {}={}", batch.revision, text(&kv.key), text(&kv.value)),
            [Event::Delete { key, directory: false, .. }] => format!("{} -{}", batch.revision, text(key)),
            [Event::Delete { key, directory: true, .. }] => format!("{} -{}/", batch.revision, text(key)),
            other => format!("{other:?}"),
        },
        WatchItem::Progress(revision) => format!("{revision}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn recorded_answers_become_items() {
    let mut machine = machine(Span::Below(key("/t/app")), 4);
    let seen = RECORDED.lines().map(|line| short(&machine.event(change(line)))).collect::<Vec<_>>();
    assert_eq!(
        seen,
        [
            "5 /t/app/a=1",
            "6 /t/app/a=2",
            "7",
            "8 /t/app/dir/b=3",
            "9",
            "11",
            "12 /t/app/f=file",
            "13 -/t/app/f",
            "14 -/t/app/a",
            "15 -/t/app/dir/",
            "16 /t/app/e=e",
            "17 -/t/app/e",
            "18",
            "19 /t/app/g/x=e",
            "20 -/t/app/g/",
            "21 -/t/app/",
            "22 /t/app/a=9",
            "24",
            "25 -/t/",
        ]
    );
    assert_eq!(machine.yielded(), Revision::new(25));
}

#[test]
fn key_watch_sees_deletes_of_ancestors() {
    let mut machine = machine(Span::Key(key("/t/app/dir/b")), 4);
    let seen = RECORDED.lines().map(|line| short(&machine.event(change(line)))).filter(|seen| seen.contains('/')).collect::<Vec<_>>();
    assert_eq!(seen, ["8 /t/app/dir/b=3", "15 -/t/app/dir/", "21 -/t/app/", "25 -/t/"]);
}

#[test]
fn hidden_directory_can_be_watched() {
    let mut machine = machine(Span::Below(key("/t/app/_hidden")), 4);
    let seen = RECORDED.lines().map(|line| short(&machine.event(change(line)))).filter(|seen| seen.contains('=')).collect::<Vec<_>>();
    assert_eq!(seen, ["9 /t/app/_hidden/x=h"]);
}

#[test]
fn events_contain_previous_value() {
    let mut machine = machine(Span::Below(key("/t/app")), 4);
    for line in RECORDED.lines() {
        let Seen::Item(WatchItem::Batch(batch)) = machine.event(change(line)) else { continue };
        let had_value = line.split_once("prevNode").is_some_and(|(_, previous)| previous.contains("\"value\""));
        let previous = match &batch.events[0] {
            Event::Put { previous, .. } | Event::Delete { previous, .. } => previous.is_some(),
        };
        assert_eq!(previous, had_value, "{line}");
    }
}

#[test]
fn expired_directory_is_recognised_by_previous_node() {
    let mut machine = machine(Span::Below(key("/t")), 4);
    let event = r#"{"action":"expire","node":{"key":"/t/d","modifiedIndex":5,"createdIndex":4},"prevNode":{"key":"/t/d","dir":true,"modifiedIndex":4}}"#;
    assert_eq!(short(&machine.event(change(event))), "5 -/t/d/");
}

#[test]
fn answers_without_new_event_are_ignored() {
    let mut machine = machine(Span::Below(key("/t")), 4);
    for event in [
        r#"{"action":"get","node":{"key":"/t/a","value":"v","modifiedIndex":9,"createdIndex":9}}"#,
        r#"{"action":"set","node":{"key":"/t/a","value":"v","modifiedIndex":4,"createdIndex":4}}"#,
        r#"{"action":"set"}"#,
    ] {
        assert_eq!(machine.event(change(event)), Seen::Stale);
    }
    assert_eq!(machine.yielded(), Revision::new(4));
}

#[test]
fn polls_start_after_yielded_revision() {
    let mut below = machine(Span::Below(key("/t/a b")), 4);
    assert_eq!(below.poll_after(below.yielded()).unwrap(), "/v2/keys/t/a%20b?wait=true&waitIndex=5&recursive=true");
    assert_eq!(below.quiet(Revision::new(9)), Some(WatchItem::Progress(Revision::new(9))));
    assert_eq!(below.quiet(Revision::new(9)), None);
    assert_eq!(below.poll_after(Revision::new(3)).unwrap(), "/v2/keys/t/a%20b?wait=true&waitIndex=10&recursive=true");
    assert_eq!(below.poll_after(Revision::new(20)).unwrap(), "/v2/keys/t/a%20b?wait=true&waitIndex=21&recursive=true");
    let one = machine(Span::Key(key("/t")), 4);
    assert_eq!(one.poll_after(one.yielded()).unwrap(), "/v2/keys/t?wait=true&waitIndex=5");
    assert_eq!(one.probe().unwrap(), "/v2/keys/t?quorum=true");
    assert_eq!(below.probe().unwrap(), "/v2/keys/t/a%20b/_?quorum=true");
}

/// The keys below `/t/app`, as the events alone describe them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Model(BTreeMap<Bytes, Bytes>);

impl Model {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Put { kv, .. } => {
                self.0.insert(kv.key.clone(), kv.value.clone());
            }
            Event::Delete { key, directory, .. } => {
                let gone = key.clone();
                let below = [&gone[..], b"/"].concat();
                self.0.retain(|key, _| *key != gone && !(*directory && key.starts_with(&below)));
            }
        }
    }
}

/// How a sequence of answers is disturbed.
#[derive(Clone, Debug)]
enum Disturbance {
    /// The answer comes twice.
    Twice(usize),
    /// An earlier answer comes again later.
    Again { from: usize, at: usize },
}

fn disturbances() -> impl Strategy<Value = Vec<Disturbance>> {
    let one = prop_oneof![
        (0usize..19).prop_map(Disturbance::Twice),
        (0usize..19, 0usize..19).prop_map(|(from, at)| Disturbance::Again { from, at })
    ];
    proptest::collection::vec(one, 0..6)
}

proptest! {
    /// Repeated answers change nothing: the items and their order stay the same, and each revision
    /// comes once.
    #[test]
    fn repeated_answers_are_dropped(disturbances in disturbances()) {
        let lines = RECORDED.lines().collect::<Vec<_>>();
        let mut row = lines.iter().enumerate().map(|(at, line)| (at, *line)).collect::<Vec<_>>();
        for disturbance in disturbances {
            let (from, at) = match disturbance {
                Disturbance::Twice(at) => (at, at),
                Disturbance::Again { from, at } => (from.min(at), at),
            };
            // An answer is repeated only after it came for the first time.
            let place = row.iter().rposition(|(number, _)| *number == at).map_or(row.len(), |place| place + 1);
            row.insert(place, (from, lines[from]));
        }
        let mut plain = machine(Span::Below(key("/t/app")), 4);
        let expected = lines.iter().map(|line| plain.event(change(line))).collect::<Vec<_>>();
        let mut spoiled = machine(Span::Below(key("/t/app")), 4);
        let seen = row.iter().map(|(_, line)| spoiled.event(change(line))).filter(|seen| *seen != Seen::Stale).collect::<Vec<_>>();
        prop_assert_eq!(seen, expected);
    }

    /// A watch that is cut at any point and resumed sees the same keys as an uncut watch.
    #[test]
    fn resumed_watch_misses_no_change(cut in 0usize..19) {
        let lines = RECORDED.lines().collect::<Vec<_>>();
        let (mut whole, mut first) = (machine(Span::Below(key("/t/app")), 4), machine(Span::Below(key("/t/app")), 4));
        let (mut expected, mut model) = (Model::default(), Model::default());
        let take = |machine: &mut Machine, line: &str, model: &mut Model| {
            if let Seen::Item(WatchItem::Batch(batch)) = machine.event(change(line)) {
                batch.events.iter().for_each(|event| model.take(event));
            }
        };
        lines.iter().for_each(|line| take(&mut whole, line, &mut expected));
        lines[..cut].iter().for_each(|line| take(&mut first, line, &mut model));
        let mut second = machine(Span::Below(key("/t/app")), first.yielded().get());
        // The resumed watch gets all answers again, as from a server that ignores the index.
        lines.iter().for_each(|line| take(&mut second, line, &mut model));
        prop_assert_eq!(model, expected);
    }

    /// Mutated answers, as from a hostile server, never cause a panic and never move the watch
    /// back.
    #[test]
    fn mutated_answers_never_move_watch_back(
        mutations in proptest::collection::vec((0usize..19, 0usize..400, "[0-9a-z\"/_{}:,-]"), 1..8)
    ) {
        let mut lines = RECORDED.lines().map(str::to_owned).collect::<Vec<_>>();
        for (line, at, with) in mutations {
            let line = &mut lines[line];
            let at = at % line.len();
            line.replace_range(at..=at, &with);
        }
        let mut machine = machine(Span::Below(key("/t/app")), 4);
        for line in lines {
            let answer = Answer { status: 200, index: Some(9), cluster: None, body: line.into(), authenticated: false, server: None };
            let before = machine.yielded();
            if let Ok(Ok(change)) = json::keys(&answer).map(|reply| reply.outcome) {
                let seen = machine.event(change);
                prop_assert!((seen == Seen::Stale) == (machine.yielded() == before));
                prop_assert!(machine.yielded() >= before);
            }
        }
    }
}
