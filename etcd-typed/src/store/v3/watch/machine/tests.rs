//! The machine fed with what servers were seen to send, and with what they should never send.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::revision::Revision;
use crate::store::v3::wire::EventType;
use crate::store::{Event, Span};

const A: &str = "/app/a";
const B: &str = "/app/b";

fn key(path: &str) -> Key {
    Key::parse(path).unwrap()
}

fn listed(at: u64) -> WatchFrom {
    WatchFrom::Listed(Revision::new(at))
}

fn resumed(at: u64) -> WatchFrom {
    WatchFrom::Resumed(Revision::new(at))
}

fn live(at: u64) -> WatchFrom {
    WatchFrom::Live(Revision::new(at))
}

fn below(from: WatchFrom) -> Watch {
    Watch { span: Span::Below(key("/app")), from }
}

fn header(revision: i64) -> Option<wire::ResponseHeader> {
    Some(wire::ResponseHeader { cluster_id: 1, member_id: 1, revision })
}

fn created(watch_id: i64, revision: i64) -> WatchResponse {
    WatchResponse { header: header(revision), watch_id, created: true, ..WatchResponse::default() }
}

fn refused(revision: i64, reason: &str) -> WatchResponse {
    WatchResponse { canceled: true, cancel_reason: reason.to_owned(), ..created(-1, revision) }
}

fn canceled(watch_id: i64) -> WatchResponse {
    WatchResponse { header: header(9), watch_id, canceled: true, ..WatchResponse::default() }
}

fn compacted(watch_id: i64, compact_revision: i64) -> WatchResponse {
    // The header of such a message has no revision.
    WatchResponse { header: header(0), watch_id, canceled: true, compact_revision, ..WatchResponse::default() }
}

fn put(revision: i64, path: &str) -> wire::Event {
    let kv = wire::KeyValue {
        key: Bytes::copy_from_slice(path.as_bytes()),
        value: Bytes::from(revision.to_string()),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: 0,
    };
    wire::Event { r#type: EventType::Put.into(), kv: Some(kv) }
}

fn delete(revision: i64, path: &str) -> wire::Event {
    let kv = wire::KeyValue { key: Bytes::copy_from_slice(path.as_bytes()), mod_revision: revision, ..wire::KeyValue::default() };
    wire::Event { r#type: EventType::Delete.into(), kv: Some(kv) }
}

fn events(watch_id: i64, revision: i64, events: impl IntoIterator<Item = wire::Event>) -> WatchResponse {
    WatchResponse { header: header(revision), watch_id, events: events.into_iter().collect(), ..WatchResponse::default() }
}

fn fragment(message: WatchResponse) -> WatchResponse {
    WatchResponse { fragment: true, ..message }
}

fn progress(watch_id: i64, revision: i64) -> WatchResponse {
    events(watch_id, revision, [])
}

/// What comes out, in short: `create 1 @6`, `cancel 1`, `progress?`, `7 stands`, `7: 6 /app/a`, `7 progress 9`, …
fn run(machine: &mut Machine) -> Vec<String> {
    std::iter::from_fn(|| machine.next()).map(|output| short(&output)).collect()
}

fn short(output: &Output) -> String {
    match output {
        Output::Send(WatchRequest { step: Some(WatchStep::Create(create)) }) => {
            format!("create {} @{}", create.watch_id, create.start_revision)
        }
        Output::Send(WatchRequest { step: Some(WatchStep::Cancel(cancel)) }) => format!("cancel {}", cancel.watch_id),
        Output::Send(WatchRequest { step: Some(WatchStep::Progress(_)) }) => "progress?".to_owned(),
        Output::Send(WatchRequest { step: None }) => "nothing".to_owned(),
        Output::Established(token, _) => format!("{token} stands"),
        Output::Item(token, WatchItem::Batch(batch)) => {
            let keys = batch.events.iter().map(|event| String::from_utf8_lossy(event.key()).into_owned()).collect::<Vec<_>>().join(" ");
            format!("{token}: {} {keys}", batch.revision)
        }
        Output::Item(token, WatchItem::Skipped(revision)) => format!("{token} skipped to {revision}"),
        Output::Item(token, WatchItem::Progress(revision)) => format!("{token} progress {revision}"),
        Output::Item(token, WatchItem::HistoryLost { oldest }) => format!("{token} lost, oldest {}", oldest.unwrap_or_default()),
        Output::Item(token, WatchItem::Behind(revision)) => format!("{token} behind {revision}"),
        Output::Item(token, WatchItem::Lagged) => format!("{token} lagged"),
        Output::Failed(token, failure) => format!("{token} failed {:?}", Error::from(failure.clone()).kind()),
        Output::Break(failure) => format!("break: {}", failure.words()),
    }
}

/// A machine with the watch 7 standing as id 1, after a resume at `last`.
fn standing(last: u64) -> Machine {
    let mut machine = Machine::default();
    machine.add(7, &below(resumed(last)));
    machine.receive(created(1, i64::try_from(last.max(1)).unwrap()));
    run(&mut machine);
    machine
}

fn after(mut machine: Machine, messages: impl IntoIterator<Item = WatchResponse>) -> Vec<String> {
    for message in messages {
        machine.receive(message);
    }
    run(&mut machine)
}

#[test]
fn a_request_names_its_id_and_asks_for_fragments_and_progress() {
    let mut machine = Machine::default();
    machine.add(7, &below(resumed(5)));
    let Some(Output::Send(WatchRequest { step: Some(WatchStep::Create(create)) })) = machine.next() else {
        panic!("no request");
    };
    let expected = WatchCreateRequest {
        key: Bytes::from_static(b"/app/\0"),
        range_end: Bytes::from_static(b"/app0"),
        start_revision: 5,
        progress_notify: true,
        watch_id: 1,
        fragment: true,
    };
    assert_eq!(create, expected);
}

#[test]
fn w6_right_after_a_list_it_starts_after_it() {
    let mut machine = Machine::default();
    machine.add(7, &below(listed(5)));
    machine.receive(created(1, 5));
    machine.receive(events(1, 6, [put(6, A)]));
    assert_eq!(run(&mut machine), ["create 1 @6", "7 stands", "7: 6 /app/a"]);
}

#[test]
fn w6_when_something_was_written_since_the_list_it_starts_again_at_the_list() {
    let mut machine = Machine::default();
    machine.add(7, &below(listed(5)));
    machine.receive(created(1, 8));
    assert_eq!(run(&mut machine), ["create 1 @6", "cancel 1", "create 2 @5"]);
    // Late events of the first attempt are for nobody.
    machine.receive(events(1, 8, [put(7, A)]));
    machine.receive(canceled(1));
    machine.receive(created(2, 9));
    machine.receive(events(2, 9, [put(5, A), put(7, A), put(9, B)]));
    assert_eq!(run(&mut machine), ["7 stands", "7: 7 /app/a", "7: 9 /app/b"]);
}

#[test]
fn a_live_watch_where_nothing_was_written_since_skips_nothing() {
    let mut machine = Machine::default();
    machine.add(7, &below(live(5)));
    machine.receive(created(1, 5));
    machine.receive(events(1, 6, [put(6, A)]));
    assert_eq!(run(&mut machine), ["create 1 @0", "7 stands", "7: 6 /app/a"]);
}

#[test]
fn a_live_watch_says_up_to_where_it_skipped_and_is_not_created_again() {
    for last in [0, 5] {
        let mut machine = Machine::default();
        machine.add(7, &below(live(last)));
        machine.receive(created(1, 8));
        assert_eq!(run(&mut machine), ["create 1 @0", "7 stands", "7 skipped to 8"]);
        // The server may be further when it enters the watch than when it looked where it is; what is not newer was skipped.
        machine.receive(events(1, 12, [put(8, A), put(9, A), put(9, B), put(12, A)]));
        assert_eq!(run(&mut machine), ["7: 9 /app/a /app/b", "7: 12 /app/a"]);
    }
}

#[test]
fn a_live_watch_waits_for_its_turn_as_others_do() {
    let mut machine = Machine::default();
    machine.add(7, &below(live(5)));
    machine.add(8, &below(live(5)));
    machine.receive(refused(6, "etcdserver: permission denied"));
    machine.receive(created(2, 6));
    machine.remove(8);
    assert_eq!(run(&mut machine), ["create 1 @0", "7 failed PermissionDenied", "create 2 @0", "8 stands", "8 skipped to 6", "cancel 2"]);
}

#[test]
fn w6_a_start_at_nothing_is_not_a_start_at_now() {
    for from in [resumed(0), listed(0)] {
        let mut machine = Machine::default();
        machine.add(7, &below(from));
        machine.receive(created(1, 3));
        let seen = run(&mut machine);
        if from == listed(0) {
            assert_eq!(seen, ["create 1 @1", "cancel 1", "create 2 @1"]);
            machine.receive(created(2, 3));
            assert_eq!(run(&mut machine), ["7 stands"]);
        } else {
            assert_eq!(seen, ["create 1 @1", "7 stands"]);
        }
    }
}

#[test]
fn f21_a_server_that_is_not_that_far_is_behind() {
    for from in [listed(8), resumed(8), live(8)] {
        let mut machine = Machine::default();
        machine.add(7, &below(from));
        run(&mut machine);
        machine.receive(created(1, 3));
        assert_eq!(run(&mut machine), ["cancel 1", "7 stands", "7 behind 3"], "{from:?}");
        machine.receive(events(1, 4, [put(4, A)]));
        assert_eq!(run(&mut machine), [""; 0]);
    }
}

#[test]
fn one_watch_is_created_at_a_time_and_a_refusal_is_for_that_one() {
    let mut machine = Machine::default();
    for token in [7, 8, 9] {
        machine.add(token, &below(resumed(5)));
    }
    assert_eq!(run(&mut machine), ["create 1 @5"]);
    machine.receive(created(1, 5));
    assert_eq!(run(&mut machine), ["7 stands", "create 2 @5"]);
    machine.receive(refused(5, "rpc error: code = PermissionDenied desc = etcdserver: permission denied"));
    assert_eq!(run(&mut machine), ["8 failed PermissionDenied", "create 3 @5"]);
    machine.receive(created(3, 5));
    assert_eq!(run(&mut machine), ["9 stands"]);
}

#[test]
fn each_reason_of_a_refusal_or_an_end_has_its_kind() {
    let reasons = [
        ("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token", "7 failed Unauthenticated"),
        ("etcdserver: user name is empty", "7 failed Unauthenticated"),
        ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", "7 failed PermissionDenied"),
        ("mvcc: watcher range is empty", "7 failed Invalid"),
        ("etcdserver: mvcc: required revision has been compacted", "7 lost, oldest 0"),
        ("", "7 failed Unavailable"),
        ("what no server says", "7 failed Unavailable"),
    ];
    for (reason, expected) in reasons {
        let mut machine = Machine::default();
        machine.add(7, &below(resumed(5)));
        run(&mut machine);
        machine.receive(refused(5, reason));
        assert_eq!(run(&mut machine).last().unwrap(), expected, "{reason}");
        let ended = WatchResponse { cancel_reason: reason.to_owned(), ..canceled(1) };
        assert_eq!(after(standing(5), [ended]), [expected], "{reason}");
    }
}

#[test]
fn f12_a_compaction_ends_a_watch_with_the_oldest_revision() {
    assert_eq!(after(standing(5), [events(1, 9, [put(6, A)]), compacted(1, 8)]), ["7: 6 /app/a", "7 lost, oldest 8"]);
}

#[test]
fn w3_the_changes_of_a_revision_are_one_batch_and_messages_may_hold_many() {
    let message = events(1, 12, [put(6, A), put(6, B), delete(7, A), put(12, A)]);
    assert_eq!(after(standing(5), [message]), ["7: 6 /app/a /app/b", "7: 7 /app/a", "7: 12 /app/a"]);
}

#[test]
fn w4_the_header_of_a_batch_of_old_events_does_not_move_the_watch() {
    // 3.4.23 and 3.5.30: each piece of a replay carries the revision of the store.
    let messages = [events(1, 110_017, [put(108_892, A), put(109_891, A)]), events(1, 110_017, [put(109_892, A), put(110_017, A)])];
    assert_eq!(after(standing(5), messages), ["7: 108892 /app/a", "7: 109891 /app/a", "7: 109892 /app/a", "7: 110017 /app/a"]);
}

#[test]
fn w2_history_replayed_in_the_middle_of_a_stream_is_dropped() {
    // 3.4.23 after its member caught up by a snapshot (#15271): from 7022 back to 3.
    let messages =
        [events(1, 7022, [put(7022, A)]), events(1, 7030, (3..23).map(|revision| put(revision, A))), events(1, 7030, [put(7030, B)])];
    assert_eq!(after(standing(5), messages), ["7: 7022 /app/a", "7: 7030 /app/b"]);
}

#[test]
fn w3_fragments_are_joined() {
    let messages = [
        fragment(events(1, 9, [put(6, A)])),
        fragment(events(1, 9, [put(6, B), put(7, A)])),
        fragment(events(1, 9, [put(7, B)])),
        events(1, 9, [put(9, A)]),
    ];
    assert_eq!(after(standing(5), messages), ["7: 6 /app/a /app/b", "7: 7 /app/a /app/b", "7: 9 /app/a"]);
}

#[test]
fn w3_what_a_broken_row_of_fragments_left_open_is_not_yielded() {
    let messages = [fragment(events(1, 9, [put(6, A), put(7, A)]))];
    assert_eq!(after(standing(5), messages), ["7: 6 /app/a"]);
}

/// Fragments of one revision that has no end: events with nothing in them, and events with large values.
#[test]
fn w8_endless_fragments_end_the_watch_alone() {
    const EVENTS: usize = 1000;
    for (value, most) in [(Bytes::new(), 1000), (Bytes::from(vec![b'v'; 10_000]), 7)] {
        let mut machine = standing(5);
        machine.add(8, &below(resumed(5)));
        machine.receive(created(2, 5));
        run(&mut machine);
        let mut messages = 0;
        let said = loop {
            messages += 1;
            assert!(messages <= most, "{messages} messages are held back");
            machine.receive(fragment(events(
                1,
                9,
                (0..EVENTS).map(|n| {
                    let mut event = put(6, &format!("/app/{messages}/{n}"));
                    event.kv.as_mut().unwrap().value = value.clone();
                    event
                }),
            )));
            let said = run(&mut machine);
            if !said.is_empty() {
                break said;
            }
        };
        assert_eq!(said, ["cancel 1", "7 lost, oldest 0"]);
        assert!(messages > 1);
        machine.receive(fragment(events(1, 9, [put(6, A)])));
        machine.receive(events(2, 9, [put(6, B)]));
        assert_eq!(run(&mut machine), ["8: 6 /app/b"]);
    }
}

#[test]
fn w8_fragments_of_many_watches_are_limited_together() {
    let mut machine = standing(5);
    for id in 2..=9 {
        machine.add(6 + id, &below(resumed(5)));
        machine.receive(created(i64::try_from(id).unwrap(), 5));
    }
    run(&mut machine);
    let large = |id: i64| {
        let mut event = put(6, A);
        event.kv.as_mut().unwrap().value = vec![b'v'; 10_000_000 + usize::try_from(id).unwrap()].into();
        fragment(events(id, 9, [event]))
    };
    (1..=6).for_each(|id| machine.receive(large(id)));
    assert_eq!(run(&mut machine), Vec::<String>::new());
    machine.receive(large(7));
    assert_eq!(run(&mut machine), ["cancel 7", "13 lost, oldest 0"], "the one that holds most");
}

#[test]
fn w8_events_do_not_keep_the_message_they_came_in() {
    let mut machine = standing(5);
    let message = Bytes::from(vec![b'm'; 100_000]);
    let mut event = put(6, A);
    event.kv.as_mut().unwrap().value = message.slice(10..20);
    machine.receive(events(1, 6, [event]));
    let Some(Output::Item(_, WatchItem::Batch(batch))) = machine.next() else { panic!("a batch") };
    assert!(message.is_unique(), "{batch:?}");
}

#[test]
fn fragments_of_different_watches_do_not_mix() {
    let mut machine = standing(5);
    machine.add(8, &Watch { span: Span::Key(key(B)), from: resumed(5) });
    machine.receive(created(2, 5));
    run(&mut machine);
    let messages = [fragment(events(1, 6, [put(6, A)])), events(2, 6, [put(6, B)]), events(1, 6, [put(6, B)])];
    assert_eq!(after(machine, messages), ["8: 6 /app/b", "7: 6 /app/a /app/b"]);
}

#[test]
fn w7_requested_progress_moves_nothing_on_servers_that_answer_it_too_early() {
    let mut machine = standing(5);
    machine.ask_progress();
    assert_eq!(run(&mut machine), [""; 0]);
    // #15220 on 3.4.23 and 3.5.1: the answer came before the backlog.
    assert_eq!(after(machine, [progress(-1, 1131), progress(1, 1131), events(1, 1131, [put(6, A)])]), ["7: 6 /app/a"]);
}

#[test]
fn requested_progress_is_for_those_that_stood_when_it_was_asked_for() {
    let mut machine = standing(5);
    machine.set_progress_is_reliable(true);
    machine.ask_progress();
    machine.add(8, &below(resumed(5)));
    // `created` may overtake the answer, which knows nothing of the second watch.
    machine.receive(created(2, 50));
    machine.receive(progress(-1, 50));
    assert_eq!(run(&mut machine), ["progress?", "create 2 @5", "8 stands", "7 progress 50"]);
    machine.receive(events(2, 50, [put(6, A)]));
    // An answer that nobody asked for says nothing.
    machine.receive(progress(-1, 60));
    assert_eq!(run(&mut machine), ["8: 6 /app/a"]);
    machine.ask_progress();
    machine.receive(progress(-1, 70));
    let mut answers = run(&mut machine);
    // The watches of one answer come in any order.
    answers.sort();
    assert_eq!(answers, ["7 progress 70", "8 progress 70", "progress?"]);
}

#[test]
fn an_unanswered_request_for_progress_keeps_later_watches_out_until_an_answer_came() {
    let mut machine = standing(5);
    machine.set_progress_is_reliable(true);
    machine.ask_progress();
    machine.add(8, &below(resumed(5)));
    machine.receive(created(2, 50));
    machine.ask_progress();
    machine.receive(progress(-1, 50));
    assert_eq!(run(&mut machine), ["progress?", "create 2 @5", "8 stands", "progress?", "7 progress 50"]);
}

#[test]
fn timed_progress_moves_a_watch_and_old_events_are_then_dropped() {
    let mut machine = standing(5);
    machine.set_progress_is_reliable(true);
    let messages = [progress(1, 9), progress(1, 8), events(1, 9, [put(9, A)]), events(1, 10, [put(10, A)])];
    assert_eq!(after(machine, messages), ["7 progress 9", "7: 10 /app/a"]);
}

#[test]
fn progress_in_the_middle_of_fragments_is_not_believed() {
    let mut machine = standing(5);
    machine.set_progress_is_reliable(true);
    let messages = [fragment(events(1, 9, [put(6, A)])), progress(1, 9), events(1, 9, [put(6, B)])];
    assert_eq!(after(machine, messages), ["7: 6 /app/a /app/b"]);
}

#[test]
fn w9_a_reader_that_goes_ends_its_watch_wherever_it_is() {
    let mut machine = Machine::default();
    for token in [7, 8, 9] {
        machine.add(token, &below(resumed(5)));
    }
    // One that was not sent yet, one that is being created, one that stands.
    machine.remove(9);
    machine.remove(7);
    assert_eq!(run(&mut machine), ["create 1 @5"]);
    machine.receive(created(1, 5));
    machine.receive(created(2, 5));
    assert_eq!(run(&mut machine), ["cancel 1", "create 2 @5", "8 stands"]);
    machine.remove(8);
    machine.remove(8);
    assert_eq!(run(&mut machine), ["cancel 2"]);
    machine.receive(events(2, 6, [put(6, A)]));
    machine.receive(canceled(2));
    machine.receive(canceled(1));
    assert_eq!(run(&mut machine), [""; 0]);
    assert!(
        machine.watches.is_empty() && machine.ids.is_empty() && machine.cancelled.is_empty() && machine.waiting.is_empty(),
        "{machine:?}"
    );
}

#[test]
fn a_reader_that_goes_while_its_watch_is_refused_hears_nothing() {
    let mut machine = Machine::default();
    machine.add(7, &below(resumed(5)));
    machine.remove(7);
    machine.receive(refused(5, "etcdserver: permission denied"));
    assert_eq!(run(&mut machine), ["create 1 @5"]);
    assert!(machine.watches.is_empty() && machine.ids.is_empty());
}

#[test]
fn a_stream_that_cannot_be_trusted_is_thrown_away() {
    let no_kv = wire::Event { r#type: 0, kv: None };
    let cases: [(&str, Vec<WatchResponse>); 8] = [
        ("created, unasked", vec![created(2, 5)]),
        ("ended, whichever", vec![canceled(-1)]),
        ("an event of nothing", vec![events(1, 6, [no_kv])]),
        ("backwards in a message", vec![events(1, 9, [put(8, A), put(7, A)])]),
        ("backwards over fragments", vec![fragment(events(1, 9, [put(8, A)])), events(1, 9, [put(7, A)])]),
        ("old news within fragments", vec![fragment(events(1, 9, [put(8, A)])), events(1, 9, [put(3, A)])]),
        ("a key twice", vec![events(1, 9, [put(8, A), put(8, A)])]),
        ("a fragment twice", vec![fragment(events(1, 9, [put(8, A)])), fragment(events(1, 9, [put(8, A)])), events(1, 9, [put(8, B)])]),
    ];
    for (what, messages) in cases {
        let outputs = after(standing(5), messages);
        assert!(outputs.last().is_some_and(|output| output.starts_with("break: ")), "{what}: {outputs:?}");
    }
    let mut early = Machine::default();
    early.add(7, &below(resumed(5)));
    run(&mut early);
    assert!(after(early, [events(1, 6, [put(6, A)])])[0].starts_with("break: "));
    // Under the id of a watch that stands, of one whose cancellation is not confirmed, and of none.
    for id in [1, 2, -1] {
        let mut machine = standing(5);
        machine.add(8, &Watch { span: Span::Key(key(B)), from: resumed(5) });
        machine.receive(created(2, 5));
        machine.remove(8);
        machine.add(9, &below(resumed(5)));
        run(&mut machine);
        assert!(after(machine, [created(id, 6)])[0].starts_with("break: "), "{id}");
    }
}

/// As etcd's `grpc-proxy` does, which counts from 0.
#[test]
fn watches_go_by_the_id_that_the_answer_names() {
    let mut machine = Machine::default();
    machine.add(7, &below(resumed(5)));
    machine.add(8, &Watch { span: Span::Key(key(B)), from: resumed(5) });
    for id in [0, 1] {
        machine.receive(created(id, 5));
    }
    assert_eq!(run(&mut machine), ["create 1 @5", "7 stands", "create 2 @5", "8 stands"]);
    machine.receive(events(1, 6, [put(6, B)]));
    machine.receive(events(0, 6, [put(6, B)]));
    assert_eq!(run(&mut machine), ["8: 6 /app/b", "7: 6 /app/b"]);
    machine.remove(7);
    machine.receive(canceled(0));
    assert_eq!(run(&mut machine), ["cancel 0"]);
    // A request has the id of a watch that stands, since the two count apart; and a refusal may name it (3.5.0 to 3.5.5).
    machine.add(9, &below(resumed(5)));
    machine.add(10, &below(resumed(5)));
    machine.receive(WatchResponse { watch_id: 1, ..refused(6, "etcdserver: permission denied") });
    machine.receive(created(2, 6));
    machine.receive(events(1, 7, [put(7, B)]));
    machine.receive(events(2, 7, [put(7, B)]));
    assert_eq!(run(&mut machine), ["create 3 @5", "9 failed PermissionDenied", "create 4 @5", "10 stands", "8: 7 /app/b", "10: 7 /app/b"]);
}

/// `grpc-proxy` ignores the request (3.5 and later), or ends with a panic (3.4).
#[test]
fn proxies_are_not_asked_for_progress() {
    let mut machine = Machine::default();
    machine.set_progress_is_reliable(true);
    machine.add(7, &below(resumed(5)));
    machine.receive(created(0, 5));
    machine.ask_progress();
    assert_eq!(run(&mut machine), ["create 1 @5", "7 stands"]);
    // What it tells by itself counts.
    assert_eq!(after(machine, [progress(0, 9)]), ["7 progress 9"]);
}

/// `grpc-proxy` keeps a watch that has ended until it is cancelled, and lets later watches of the same keys wait beside it for nothing.
#[test]
fn watches_that_a_proxy_ended_are_cancelled() {
    let mut machine = Machine::default();
    machine.add(7, &below(resumed(5)));
    machine.receive(created(0, 9));
    machine.receive(compacted(0, 8));
    assert_eq!(run(&mut machine), ["create 1 @5", "7 stands", "cancel 0", "7 lost, oldest 8"]);
    machine.receive(canceled(0));
    assert!(machine.cancelled.is_empty());
    // A server has forgotten it.
    assert_eq!(after(standing(5), [compacted(1, 8)]), ["7 lost, oldest 8"]);
}

#[test]
fn a_break_is_an_error_that_another_attempt_may_mend() {
    let mut machine = standing(5);
    machine.receive(canceled(-1));
    let Some(Output::Break(failure)) = machine.next() else { panic!("no break") };
    assert_eq!(Error::from(failure).kind(), ErrorKind::Unavailable);
}

// ---- Random histories over a server that cuts, doubles and replays -------------------------------------------------------------------

/// A change of a revision: which of a few keys, and whether it is deleted.
type Change = (u8, bool);

fn path(key: u8) -> String {
    format!("/app/{}", char::from(b'a' + key))
}

/// What happens to the messages of one stream.
#[derive(Clone, Debug)]
enum Fate {
    Deliver,
    /// Sent twice.
    Double,
    /// An earlier message of the stream is sent again after it.
    Replay(prop::sample::Index),
    /// The stream ends before it.
    Cut,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => Just(Fate::Deliver),
        2 => Just(Fate::Double),
        2 => any::<prop::sample::Index>().prop_map(Fate::Replay),
        1 => Just(Fate::Cut),
    ]
}

/// Revisions 2 and up; each changes one to four different keys.
fn history() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let revision = prop::collection::btree_map(0..4_u8, any::<bool>(), 1..=4).prop_map(|changes| changes.into_iter().collect());
    prop::collection::vec(revision, 1..30)
}

/// The history as a watch of `span` must see it.
fn truth(history: &[Vec<Change>], span: &Span) -> Vec<(i64, Vec<String>)> {
    (2..)
        .zip(history)
        .map(|(revision, changes)| {
            let keys = changes.iter().map(|(key, _)| path(*key)).filter(|path| span.contains(path.as_bytes())).collect();
            (revision, keys)
        })
        .filter(|(_, keys): &(i64, Vec<String>)| !keys.is_empty())
        .collect()
}

/// The messages that a server sends for a watch: the events cut into pieces, each a message or a fragment. A revision is never divided over two messages
/// that are not fragments of one.
fn messages(history: &[Vec<Change>], span: &Span, id: i64, start: i64, cuts: &mut impl Iterator<Item = u8>) -> Vec<WatchResponse> {
    let newest = i64::try_from(history.len()).unwrap() + 1;
    let mut messages = Vec::new();
    let mut open = Vec::new();
    let mut of_watch = (2..)
        .zip(history)
        .filter(|(revision, _)| *revision >= start)
        .flat_map(|(revision, changes)| changes.iter().map(move |change| (revision, *change)))
        .filter(|(_, (key, _))| span.contains(path(*key).as_bytes()))
        .peekable();
    while let Some((revision, (key, deleted))) = of_watch.next() {
        open.push(if deleted { delete(revision, &path(key)) } else { put(revision, &path(key)) });
        let whole = of_watch.peek().is_none_or(|(next, _)| *next > revision);
        match cuts.next().unwrap_or(0) % 4 {
            0 if whole => messages.push(events(id, newest, open.drain(..))),
            1 if of_watch.peek().is_some() => messages.push(fragment(events(id, newest, open.drain(..)))),
            _ if of_watch.peek().is_none() => messages.push(events(id, newest, open.drain(..))),
            _ => {}
        }
    }
    messages
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Two watches, resumed over as many streams as it takes: each sees its history, whole, in order and once (W1 to W4).
    #[test]
    fn w1_w2_w3_w4_hold_over_cuts_doubled_and_replayed_messages(
        history in history(),
        cuts in prop::collection::vec(any::<u8>(), 0..200),
        fates in prop::collection::vec(fate(), 0..200),
        turns in prop::collection::vec(any::<bool>(), 0..200),
    ) {
        let spans = [Span::Below(key("/app")), Span::Key(key("/app/b"))];
        let newest = i64::try_from(history.len()).unwrap() + 1;
        let mut cuts = cuts.into_iter();
        let mut fates = fates.into_iter();
        let mut turns = turns.into_iter();
        let mut seen: [Vec<(i64, Vec<String>)>; 2] = [Vec::new(), Vec::new()];
        // Fates run out, so a stream that is not cut comes in the end.
        loop {
            let mut machine = Machine::default();
            let last = |seen: &[(i64, Vec<String>)]| seen.last().map_or(0, |(revision, _)| u64::try_from(*revision).unwrap());
            for (token, span) in (0..).zip(&spans) {
                let from = resumed(last(&seen[usize::try_from(token).unwrap()]));
                machine.add(token, &Watch { span: span.clone(), from });
                machine.receive(created(i64::try_from(token).unwrap() + 1, newest));
            }
            let mut ways = (1..).zip(&spans).zip(&seen).map(|((id, span), seen)| {
                let start = i64::try_from(last(seen)).unwrap().max(1);
                messages(&history, span, id, start, &mut cuts).into_iter()
            }).collect::<Vec<_>>();
            let mut sent: Vec<WatchResponse> = Vec::new();
            let whole = loop {
                let turn = usize::from(turns.next().unwrap_or(false));
                let Some(message) = ways[turn].next().or_else(|| ways[1 - turn].next()) else { break true };
                sent.push(message.clone());
                match fates.next().unwrap_or(Fate::Deliver) {
                    Fate::Deliver => machine.receive(message),
                    Fate::Double => {
                        machine.receive(message.clone());
                        machine.receive(message);
                    }
                    Fate::Replay(which) => {
                        machine.receive(message);
                        machine.receive(which.get(&sent).clone());
                    }
                    Fate::Cut => break false,
                }
            };
            let mut broken = !whole;
            while let Some(output) = machine.next() {
                match output {
                    Output::Item(token, WatchItem::Batch(batch)) => {
                        let keys = batch.events.iter().map(|event| String::from_utf8(event.key().to_vec()).unwrap()).collect();
                        seen[usize::try_from(token).unwrap()].push((number(batch.revision), keys));
                    }
                    Output::Break(_) => {
                        broken = true;
                        break;
                    }
                    Output::Send(_) | Output::Established(..) => {}
                    other => prop_assert!(false, "{}", short(&other)),
                }
            }
            if !broken {
                break;
            }
        }
        for (span, seen) in spans.iter().zip(&seen) {
            prop_assert_eq!(seen, &truth(&history, span));
        }
    }

    /// Messages that get lost are not noticed, since no server loses any; but order and uniqueness hold all the same, and nothing panics.
    #[test]
    fn g1_whatever_a_server_sends_revisions_rise_and_no_key_comes_twice(
        messages in prop::collection::vec(any_message(), 0..40),
        asks in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut machine = Machine::default();
        machine.set_progress_is_reliable(true);
        machine.add(1, &below(resumed(3)));
        machine.add(2, &below(listed(4)));
        let mut last: BTreeMap<Token, u64> = BTreeMap::from([(1, 3), (2, 4)]);
        for (message, ask) in messages.into_iter().zip(asks) {
            machine.receive(message);
            if ask {
                machine.ask_progress();
            }
            while let Some(output) = machine.next() {
                if let Output::Item(token, item) = &output {
                    let before = last.get_mut(token).unwrap();
                    match item {
                        WatchItem::Batch(batch) => {
                            prop_assert!(batch.revision.get() > *before, "{}", short(&output));
                            let keys: HashSet<_> = batch.events.iter().map(Event::key).collect();
                            prop_assert_eq!(keys.len(), batch.events.len());
                            *before = batch.revision.get();
                        }
                        WatchItem::Progress(revision) => {
                            prop_assert!(revision.get() > *before);
                            *before = revision.get();
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

prop_compose! {
    fn any_message()(
        watch_id in prop_oneof![4 => 1..4_i64, 1 => any::<i64>()],
        revision in prop_oneof![4 => 0..12_i64, 1 => any::<i64>()],
        flags in any::<(bool, bool)>(),
        created in prop::bool::weighted(0.3),
        canceled in prop::bool::weighted(0.1),
        compact_revision in prop_oneof![9 => Just(0), 1 => any::<i64>()],
        changes in prop::collection::vec((prop_oneof![8 => 0..12_i64, 1 => any::<i64>()], 0..3_u8, any::<bool>()), 0..5),
    ) -> WatchResponse {
        let event = |(revision, key, put_it): (i64, u8, bool)| if put_it { put(revision, &path(key)) } else { delete(revision, &path(key)) };
        WatchResponse {
            header: flags.1.then(|| header(revision)).flatten(),
            watch_id,
            created,
            canceled,
            compact_revision,
            cancel_reason: String::new(),
            fragment: flags.0,
            events: changes.into_iter().map(event).collect(),
        }
    }
}
