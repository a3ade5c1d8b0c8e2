//! Feeds the state machine with messages that servers were seen to send, and with messages that
//! they should never send.

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

/// Returns the outputs in short form: `create 1 @6`, `cancel 1`, `progress?`, `7 stands`
/// (established), `7: 6 /app/a`, `7 progress 9`, …
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

/// Returns a machine in which watch 7, resumed at `last`, is established with the id 1.
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
fn create_request_asks_for_fragments_and_progress() {
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
fn listed_watch_starts_after_read() {
    let mut machine = Machine::default();
    machine.add(7, &below(listed(5)));
    machine.receive(created(1, 5));
    machine.receive(events(1, 6, [put(6, A)]));
    assert_eq!(run(&mut machine), ["create 1 @6", "7 stands", "7: 6 /app/a"]);
}

#[test]
fn listed_watch_restarts_after_missed_write() {
    let mut machine = Machine::default();
    machine.add(7, &below(listed(5)));
    machine.receive(created(1, 8));
    assert_eq!(run(&mut machine), ["create 1 @6", "cancel 1", "create 2 @5"]);
    // Late events of the first attempt are dropped.
    machine.receive(events(1, 8, [put(7, A)]));
    machine.receive(canceled(1));
    machine.receive(created(2, 9));
    machine.receive(events(2, 9, [put(5, A), put(7, A), put(9, B)]));
    assert_eq!(run(&mut machine), ["7 stands", "7: 7 /app/a", "7: 9 /app/b"]);
}

#[test]
fn idle_live_watch_skips_no_change() {
    let mut machine = Machine::default();
    machine.add(7, &below(live(5)));
    machine.receive(created(1, 5));
    machine.receive(events(1, 6, [put(6, A)]));
    assert_eq!(run(&mut machine), ["create 1 @0", "7 stands", "7: 6 /app/a"]);
}

#[test]
fn live_watch_reports_skipped_revisions() {
    for last in [0, 5] {
        let mut machine = Machine::default();
        machine.add(7, &below(live(last)));
        machine.receive(created(1, 8));
        assert_eq!(run(&mut machine), ["create 1 @0", "7 stands", "7 skipped to 8"]);
        // The server may register the watch at a later revision than it reported. Events up to the
        // reported revision were skipped.
        machine.receive(events(1, 12, [put(8, A), put(9, A), put(9, B), put(12, A)]));
        assert_eq!(run(&mut machine), ["7: 9 /app/a /app/b", "7: 12 /app/a"]);
    }
}

#[test]
fn live_watches_are_created_in_order() {
    let mut machine = Machine::default();
    machine.add(7, &below(live(5)));
    machine.add(8, &below(live(5)));
    machine.receive(refused(6, "etcdserver: permission denied"));
    machine.receive(created(2, 6));
    machine.remove(8);
    assert_eq!(run(&mut machine), ["create 1 @0", "7 failed PermissionDenied", "create 2 @0", "8 stands", "8 skipped to 6", "cancel 2"]);
}

#[test]
fn watch_from_revision_zero_starts_at_one() {
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
fn server_behind_requested_revision_is_reported() {
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
fn watches_are_created_one_at_a_time() {
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
fn cancel_reasons_are_classified() {
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
fn compaction_ends_watch_with_oldest_revision() {
    assert_eq!(after(standing(5), [events(1, 9, [put(6, A)]), compacted(1, 8)]), ["7: 6 /app/a", "7 lost, oldest 8"]);
}

#[test]
fn each_revision_is_one_batch() {
    let message = events(1, 12, [put(6, A), put(6, B), delete(7, A), put(12, A)]);
    assert_eq!(after(standing(5), [message]), ["7: 6 /app/a /app/b", "7: 7 /app/a", "7: 12 /app/a"]);
}

#[test]
fn header_of_events_does_not_advance_watch() {
    // On 3.4.23 and 3.5.30, each part of a replay carries the store's current revision.
    let messages = [events(1, 110_017, [put(108_892, A), put(109_891, A)]), events(1, 110_017, [put(109_892, A), put(110_017, A)])];
    assert_eq!(after(standing(5), messages), ["7: 108892 /app/a", "7: 109891 /app/a", "7: 109892 /app/a", "7: 110017 /app/a"]);
}

#[test]
fn replayed_events_are_dropped() {
    // On 3.4.23, a watch went from revision 7022 back to 3 after its member had caught up by a
    // snapshot (#15271).
    let messages =
        [events(1, 7022, [put(7022, A)]), events(1, 7030, (3..23).map(|revision| put(revision, A))), events(1, 7030, [put(7030, B)])];
    assert_eq!(after(standing(5), messages), ["7: 7022 /app/a", "7: 7030 /app/b"]);
}

#[test]
fn fragments_are_joined() {
    let messages = [
        fragment(events(1, 9, [put(6, A)])),
        fragment(events(1, 9, [put(6, B), put(7, A)])),
        fragment(events(1, 9, [put(7, B)])),
        events(1, 9, [put(9, A)]),
    ];
    assert_eq!(after(standing(5), messages), ["7: 6 /app/a /app/b", "7: 7 /app/a /app/b", "7: 9 /app/a"]);
}

#[test]
fn incomplete_fragments_are_not_yielded() {
    let messages = [fragment(events(1, 9, [put(6, A), put(7, A)]))];
    assert_eq!(after(standing(5), messages), ["7: 6 /app/a"]);
}

/// The fragments belong to one revision that never ends. Their events are either empty or have
/// large values.
#[test]
fn endless_fragments_end_only_their_watch() {
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
fn fragments_of_all_watches_share_limit() {
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
    assert_eq!(run(&mut machine), ["cancel 7", "13 lost, oldest 0"], "the watch that holds the most ends");
}

#[test]
fn kept_events_do_not_keep_message_in_memory() {
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
fn requested_progress_is_ignored_on_unreliable_servers() {
    let mut machine = standing(5);
    machine.ask_progress();
    assert_eq!(run(&mut machine), [""; 0]);
    // #15220 on 3.4.23 and 3.5.1: the answer comes before the backlog of events.
    assert_eq!(after(machine, [progress(-1, 1131), progress(1, 1131), events(1, 1131, [put(6, A)])]), ["7: 6 /app/a"]);
}

#[test]
fn requested_progress_advances_only_older_watches() {
    let mut machine = standing(5);
    machine.set_progress_is_reliable(true);
    machine.ask_progress();
    machine.add(8, &below(resumed(5)));
    // The message that watch 8 was created overtakes the answer, which does not cover watch 8.
    machine.receive(created(2, 50));
    machine.receive(progress(-1, 50));
    assert_eq!(run(&mut machine), ["progress?", "create 2 @5", "8 stands", "7 progress 50"]);
    machine.receive(events(2, 50, [put(6, A)]));
    // An answer without a request is ignored.
    machine.receive(progress(-1, 60));
    assert_eq!(run(&mut machine), ["8: 6 /app/a"]);
    machine.ask_progress();
    machine.receive(progress(-1, 70));
    let mut answers = run(&mut machine);
    // The order of the watches within one answer is arbitrary.
    answers.sort();
    assert_eq!(answers, ["7 progress 70", "8 progress 70", "progress?"]);
}

#[test]
fn unanswered_progress_request_excludes_later_watches() {
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
fn periodic_progress_advances_watch() {
    let mut machine = standing(5);
    machine.set_progress_is_reliable(true);
    let messages = [progress(1, 9), progress(1, 8), events(1, 9, [put(9, A)]), events(1, 10, [put(10, A)])];
    assert_eq!(after(machine, messages), ["7 progress 9", "7: 10 /app/a"]);
}

#[test]
fn progress_between_fragments_is_ignored() {
    let mut machine = standing(5);
    machine.set_progress_is_reliable(true);
    let messages = [fragment(events(1, 9, [put(6, A)])), progress(1, 9), events(1, 9, [put(6, B)])];
    assert_eq!(after(machine, messages), ["7: 6 /app/a /app/b"]);
}

#[test]
fn removed_reader_ends_watch_at_any_stage() {
    let mut machine = Machine::default();
    for token in [7, 8, 9] {
        machine.add(token, &below(resumed(5)));
    }
    // Watch 9 was not requested yet, 7 is being created, and 8 is established later.
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
fn refusal_of_removed_watch_is_ignored() {
    let mut machine = Machine::default();
    machine.add(7, &below(resumed(5)));
    machine.remove(7);
    machine.receive(refused(5, "etcdserver: permission denied"));
    assert_eq!(run(&mut machine), ["create 1 @5"]);
    assert!(machine.watches.is_empty() && machine.ids.is_empty());
}

#[test]
fn protocol_violations_break_stream() {
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
    // The new watch gets the id of an established watch, of one whose cancellation is unconfirmed,
    // or an invalid id.
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

/// etcd's `grpc-proxy` numbers watches itself, from 0.
#[test]
fn watches_use_server_assigned_id() {
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
    // Both sides count separately, so the client requests an id that an established watch has. A
    // refusal may contain that id (3.5.0 to 3.5.5).
    machine.add(9, &below(resumed(5)));
    machine.add(10, &below(resumed(5)));
    machine.receive(WatchResponse { watch_id: 1, ..refused(6, "etcdserver: permission denied") });
    machine.receive(created(2, 6));
    machine.receive(events(1, 7, [put(7, B)]));
    machine.receive(events(2, 7, [put(7, B)]));
    assert_eq!(run(&mut machine), ["create 3 @5", "9 failed PermissionDenied", "create 4 @5", "10 stands", "8: 7 /app/b", "10: 7 /app/b"]);
}

/// `grpc-proxy` ignores a progress request (3.5 and later) or panics (3.4).
#[test]
fn proxies_are_not_asked_for_progress() {
    let mut machine = Machine::default();
    machine.set_progress_is_reliable(true);
    machine.add(7, &below(resumed(5)));
    machine.receive(created(0, 5));
    machine.ask_progress();
    assert_eq!(run(&mut machine), ["create 1 @5", "7 stands"]);
    // Progress that the proxy sends by itself counts.
    assert_eq!(after(machine, [progress(0, 9)]), ["7 progress 9"]);
}

/// `grpc-proxy` keeps an ended watch until the client cancels it, and lets later watches of the
/// same keys share it. Those watches would get no events.
#[test]
fn watches_ended_by_proxy_are_cancelled() {
    let mut machine = Machine::default();
    machine.add(7, &below(resumed(5)));
    machine.receive(created(0, 9));
    machine.receive(compacted(0, 8));
    assert_eq!(run(&mut machine), ["create 1 @5", "7 stands", "cancel 0", "7 lost, oldest 8"]);
    machine.receive(canceled(0));
    assert!(machine.cancelled.is_empty());
    // A server has already removed the watch, so no cancel request is sent.
    assert_eq!(after(standing(5), [compacted(1, 8)]), ["7 lost, oldest 8"]);
}

#[test]
fn broken_stream_gives_unavailable_error() {
    let mut machine = standing(5);
    machine.receive(canceled(-1));
    let Some(Output::Break(failure)) = machine.next() else { panic!("no break") };
    assert_eq!(Error::from(failure).kind(), ErrorKind::Unavailable);
}

// Random histories, over a server that cuts streams and repeats messages.

/// A change within a revision: the key's index, and whether it is deleted.
type Change = (u8, bool);

fn path(key: u8) -> String {
    format!("/app/{}", char::from(b'a' + key))
}

/// What happens to one message of a stream.
#[derive(Clone, Debug)]
enum Fate {
    Deliver,
    /// The message is sent twice.
    Double,
    /// An earlier message of the stream is sent again after this message.
    Replay(prop::sample::Index),
    /// The stream ends before this message.
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

/// Generates the revisions from 2 on. Each revision changes one to four different keys.
fn history() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let revision = prop::collection::btree_map(0..4_u8, any::<bool>(), 1..=4).prop_map(|changes| changes.into_iter().collect());
    prop::collection::vec(revision, 1..30)
}

/// Returns the history as a watch of `span` must see it.
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

/// Returns the messages that a server sends for a watch: the events cut into messages and
/// fragments. A revision is split only over fragments of one message.
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

    /// Two watches resume over as many streams as needed. Each sees its whole history, in order and
    /// once.
    #[test]
    fn resumed_watches_see_whole_history(
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
        // The fates run out, so eventually a stream is not cut.
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

    /// The generated messages may lack events, which the machine cannot detect. Even then,
    /// revisions rise, no key comes twice in one revision, and nothing panics.
    #[test]
    fn revisions_rise_with_any_messages(
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
