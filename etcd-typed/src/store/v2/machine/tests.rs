//! A row of answers recorded from a real server, as it is and mutated, against a model of what is stored.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::json::{self, Answer};
use bytes::Bytes;

use super::*;
use crate::store::WatchFrom;

/// A watch of `/t/app`, from the server's history: values, directories, a hidden key, a file that becomes a directory, expired
/// keys and directories, deleted ancestors, and deletes of `/t/ap` that match by the prefix of their text.
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

/// An item in short.
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
fn the_recorded_row_is_what_happened_below_the_directory() {
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
fn one_key_sees_its_own_changes_and_the_end_of_what_it_is_in() {
    let mut machine = machine(Span::Key(key("/t/app/dir/b")), 4);
    let seen = RECORDED.lines().map(|line| short(&machine.event(change(line)))).filter(|seen| seen.contains('/')).collect::<Vec<_>>();
    assert_eq!(seen, ["8 /t/app/dir/b=3", "15 -/t/app/dir/", "21 -/t/app/", "25 -/t/"]);
}

#[test]
fn a_hidden_directory_that_is_watched_itself_is_seen() {
    let mut machine = machine(Span::Below(key("/t/app/_hidden")), 4);
    let seen = RECORDED.lines().map(|line| short(&machine.event(change(line)))).filter(|seen| seen.contains('=')).collect::<Vec<_>>();
    assert_eq!(seen, ["9 /t/app/_hidden/x=h"]);
}

#[test]
fn what_was_there_comes_along_where_it_was_a_value() {
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
fn expired_directories_are_known_by_what_they_were() {
    let mut machine = machine(Span::Below(key("/t")), 4);
    let event = r#"{"action":"expire","node":{"key":"/t/d","modifiedIndex":5,"createdIndex":4},"prevNode":{"key":"/t/d","dir":true,"modifiedIndex":4}}"#;
    assert_eq!(short(&machine.event(change(event))), "5 -/t/d/");
}

#[test]
fn an_answer_that_is_no_event_moves_nothing() {
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
fn polls_begin_after_what_was_yielded_and_never_stream() {
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

/// What is stored below `/t/app` by the events alone.
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

/// How a row of answers is spoiled on its way.
#[derive(Clone, Debug)]
enum Spoil {
    /// The answer comes twice.
    Twice(usize),
    /// An old answer comes again later.
    Again { from: usize, at: usize },
}

fn spoils() -> impl Strategy<Value = Vec<Spoil>> {
    let one = prop_oneof![(0usize..19).prop_map(Spoil::Twice), (0usize..19, 0usize..19).prop_map(|(from, at)| Spoil::Again { from, at })];
    proptest::collection::vec(one, 0..6)
}

proptest! {
    /// Answers that come again change nothing: the same items in the same order, each revision once.
    #[test]
    fn repeated_answers_are_dropped(spoils in spoils()) {
        let lines = RECORDED.lines().collect::<Vec<_>>();
        let mut row = lines.iter().enumerate().map(|(at, line)| (at, *line)).collect::<Vec<_>>();
        for spoil in spoils {
            let (from, at) = match spoil {
                Spoil::Twice(at) => (at, at),
                Spoil::Again { from, at } => (from.min(at), at),
            };
            // An answer repeats only after it came.
            let place = row.iter().rposition(|(number, _)| *number == at).map_or(row.len(), |place| place + 1);
            row.insert(place, (from, lines[from]));
        }
        let mut plain = machine(Span::Below(key("/t/app")), 4);
        let expected = lines.iter().map(|line| plain.event(change(line))).collect::<Vec<_>>();
        let mut spoiled = machine(Span::Below(key("/t/app")), 4);
        let seen = row.iter().map(|(_, line)| spoiled.event(change(line))).filter(|seen| *seen != Seen::Stale).collect::<Vec<_>>();
        prop_assert_eq!(seen, expected);
    }

    /// A watch that is cut anywhere and resumed sees what one that was not cut sees.
    #[test]
    fn a_resumed_watch_goes_on_where_it_was(cut in 0usize..19) {
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
        // The new one is given everything again, as from a server that does not look at the index.
        lines.iter().for_each(|line| take(&mut second, line, &mut model));
        prop_assert_eq!(model, expected);
    }

    /// Bytes that are no event, or one of a hostile server, never panic and never move the watch back.
    #[test]
    fn mutated_answers_never_move_back(
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
