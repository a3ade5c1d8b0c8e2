//! One test for each rule of the engine. Each test passes in the answers of a server and checks the
//! engine's steps and wants.

use bytes::Bytes;

use super::*;
use crate::key::Key;
use crate::store::{Event, KeyValue};

const PAST: bool = true;
const NO_PAST: bool = false;

/// An engine to which a test passes one input after the other.
struct Story {
    engine: Engine,
}

impl Story {
    fn new(past_revisions: bool, start: Start) -> Self {
        Self { engine: Engine::new(span(), "/a", past_revisions, start) }
    }

    /// Returns an engine with a watch that was opened at revision 10. `/a/x` was written at 7 and
    /// `/a/y` at 9.
    fn following(past_revisions: bool) -> Self {
        let mut story = Self::new(past_revisions, Start::Now);
        story.wants_read(None);
        story.quiet(Input::Read(Ok(list(10, &[("/a/x", 7), ("/a/y", 9)]))));
        story.wants(&Want::Open(WatchFrom::Listed(at(10))));
        let snapshot = story.reset(Input::Opened(Ok(())));
        assert_eq!((snapshot.revision, snapshot.reason, snapshot.known), (at(10), Reason::Start, true));
        story.wants(&Want::Item);
        story
    }

    /// Breaks the connection, lets the wait pass, and opens the watch again from `from`.
    fn reconnect(&mut self, from: u64) {
        self.quiet(broken());
        self.wants(&Want::Wait);
        self.quiet(Input::Waited);
        self.wants(&Want::Open(WatchFrom::Resumed(at(from))));
        self.quiet(Input::Opened(Ok(())));
    }

    fn wants(&self, want: &Want) {
        assert_eq!(&self.engine.want(), want);
    }

    /// Checks that the engine wants to read the whole span.
    fn wants_read(&self, revision: Option<u64>) {
        self.wants(&Want::Read(Range { revision: revision.map(at), ..Range::of(span()) }));
    }

    /// Checks that the engine wants to read one key, to check the history.
    fn wants_check(&self, key: &str, revision: Option<u64>) {
        let span = Span::Key(Key::parse(key).expect("a key"));
        self.wants(&Want::Check(Range { revision: revision.map(at), ..Range::of(span) }));
    }

    fn quiet(&mut self, input: Input) {
        let step = self.engine.handle(input);
        assert!(step.is_none(), "{step:?}");
    }

    fn step(&mut self, input: Input) -> Step {
        self.engine.handle(input).expect("a step").expect("no error")
    }

    fn reset(&mut self, input: Input) -> Snapshot {
        match self.step(input) {
            Step::Reset(snapshot) => snapshot,
            other => panic!("no reset: {other:?}"),
        }
    }

    /// Answers a later list, opens the watch from the list's revision, and returns the snapshot.
    fn listed_again(&mut self, reply: RangeReply) -> Snapshot {
        let revision = reply.revision;
        self.quiet(Input::Read(Ok(reply)));
        self.wants(&Want::Open(WatchFrom::Listed(revision)));
        self.reset(Input::Opened(Ok(())))
    }

    /// Passes in a batch, and checks that the engine yields it unchanged.
    fn yields(&mut self, revision: u64) {
        let batch = put("/a/x", revision);
        assert_eq!(self.step(item(WatchItem::Batch(batch.clone()))), Step::Batch(batch));
    }

    fn drops(&mut self, revision: u64) {
        self.quiet(item(WatchItem::Batch(put("/a/x", revision))));
    }
}

fn at(number: u64) -> Revision {
    Revision::new(number)
}

fn span() -> Span {
    Span::Below(Key::parse("/a").expect("a key"))
}

fn kv(key: &str, modified: u64) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::new(),
        created: at(modified.min(5)),
        modified: at(modified),
        version: Some(1),
        lease: None,
        ttl: None,
    }
}

fn list(revision: u64, keys: &[(&str, u64)]) -> RangeReply {
    RangeReply { revision: at(revision), kvs: keys.iter().map(|(key, modified)| kv(key, *modified)).collect(), ..RangeReply::default() }
}

fn put(key: &str, revision: u64) -> Batch {
    Batch { revision: at(revision), events: vec![Event::Put { kv: kv(key, revision), previous: None }] }
}

fn delete(key: &'static str, directory: bool, revision: u64) -> Batch {
    Batch { revision: at(revision), events: vec![Event::Delete { key: Bytes::from_static(key.as_bytes()), directory, previous: None }] }
}

fn item(item: WatchItem) -> Input {
    Input::Item(Some(Ok(item)))
}

fn broken() -> Input {
    Input::Item(Some(Err(unavailable())))
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "connection reset")
}

fn history_lost() -> Error {
    Error::new(ErrorKind::HistoryLost, "compacted")
}

#[test]
fn stream_continues_after_snapshot() {
    let mut story = Story::following(PAST);
    story.yields(11);
    story.yields(14);
}

#[test]
fn changes_before_snapshot_are_dropped() {
    let mut story = Story::following(PAST);
    story.drops(10);
    story.yields(11);
    story.drops(11);
    story.yields(12);
}

#[test]
fn replayed_history_is_dropped() {
    // etcd issue 15271: a member of 3.4.23 that caught up by snapshot sent revisions 3 and up again
    // on the open stream.
    let mut story = Story::following(PAST);
    for revision in 11..40 {
        story.yields(revision);
    }
    for revision in 3..40 {
        story.drops(revision);
    }
    story.yields(40);
}

#[test]
fn broken_watch_resumes_after_last_batch() {
    let mut story = Story::following(PAST);
    story.yields(12);
    story.reconnect(12);
    story.wants_check("/a/x", Some(12));
    story.quiet(Input::Read(Ok(list(12, &[("/a/x", 12)]))));
    story.wants(&Want::Item);
    story.drops(12);
    story.yields(13);
}

#[test]
fn failure_is_shown_until_reopened_watch_is_checked() {
    let mut story = Story::following(PAST);
    assert!(story.engine.trouble().is_none());
    story.quiet(broken());
    for _ in 0..100 {
        story.wants(&Want::Wait);
        assert_eq!(story.engine.trouble().map(Error::kind), Some(ErrorKind::Unavailable));
        story.quiet(Input::Waited);
        story.quiet(Input::Opened(Err(unavailable())));
    }
    story.quiet(Input::Waited);
    story.quiet(Input::Opened(Ok(())));
    assert!(story.engine.trouble().is_some(), "the check comes first");
    story.quiet(Input::Read(Err(Error::new(ErrorKind::Timeout, "no quorum"))));
    story.wants(&Want::Wait);
    story.quiet(Input::Waited);
    story.quiet(Input::Opened(Ok(())));
    story.quiet(Input::Read(Ok(list(10, &[("/a/y", 9)]))));
    assert!(story.engine.trouble().is_none());
    story.yields(11);
}

#[test]
fn ended_stream_is_resumed() {
    let mut story = Story::following(PAST);
    story.quiet(Input::Item(None));
    story.wants(&Want::Wait);
    assert_eq!(story.engine.trouble().map(Error::kind), Some(ErrorKind::Unavailable));
}

#[test]
fn snapshot_is_yielded_although_watch_fails_to_open() {
    let mut story = Story::new(PAST, Start::Now);
    story.quiet(Input::Read(Ok(list(10, &[]))));
    let snapshot = story.reset(Input::Opened(Err(unavailable())));
    assert_eq!(snapshot.revision, at(10));
    story.wants(&Want::Wait);
    story.quiet(Input::Waited);
    // Time has passed since the list, so the watch is no longer opened right after a list.
    story.wants(&Want::Open(WatchFrom::Resumed(at(10))));
}

#[test]
fn failed_first_read_ends_watch() {
    let mut story = Story::new(PAST, Start::Now);
    let error = story.engine.handle(Input::Read(Err(unavailable()))).expect("an answer").expect_err("an error");
    assert_eq!((error.kind(), error.key().map(Key::as_str)), (ErrorKind::Unavailable, Some("/a")));
    story.wants(&Want::Nothing);
}

/// Returns an engine whose watch broke and could not be reopened because of this error, and the
/// engine's answer to that error.
fn refused(kind: ErrorKind) -> (Story, Option<Result<Step, Error>>) {
    let mut story = Story::following(PAST);
    story.quiet(broken());
    story.quiet(Input::Waited);
    let answer = story.engine.handle(Input::Opened(Err(Error::new(kind, ""))));
    (story, answer)
}

#[test]
fn permanent_errors_end_watch() {
    for kind in [ErrorKind::NotADirectory, ErrorKind::IsADirectory, ErrorKind::InvalidKey, ErrorKind::InvalidUrl, ErrorKind::TooLarge] {
        let (mut story, answer) = refused(kind);
        assert_eq!(answer.expect("an answer").expect_err("an error").kind(), kind);
        story.wants(&Want::Nothing);
        story.quiet(Input::Waited);
        story.wants(&Want::Nothing);
    }
}

#[test]
fn refused_watch_retries_before_it_ends() {
    for kind in [ErrorKind::PermissionDenied, ErrorKind::Unauthenticated, ErrorKind::Unsupported] {
        let (mut story, answer) = refused(kind);
        assert!(answer.is_none() && story.engine.is_refused(), "{kind:?}: {answer:?}");
        story.wants(&Want::Wait);
        let error = story.engine.give_up().expect("an answer").expect_err("an error");
        assert_eq!((error.kind(), error.key().map(Key::as_str)), (kind, Some("/a")));
        story.wants(&Want::Nothing);
    }
}

#[test]
fn watch_waits_through_outages_and_bad_certificates() {
    for kind in [ErrorKind::Unavailable, ErrorKind::Timeout, ErrorKind::Server, ErrorKind::NoSpace, ErrorKind::NotFound, ErrorKind::Tls] {
        let mut story = Story::following(PAST);
        story.quiet(Input::Item(Some(Err(Error::new(kind, "")))));
        story.wants(&Want::Wait);
        assert!(!story.engine.is_refused());
        assert_eq!(story.engine.trouble().map(Error::kind), Some(kind));
    }
}

#[test]
fn refused_first_watch_ends_without_any_step() {
    for kind in [ErrorKind::PermissionDenied, ErrorKind::Unauthenticated, ErrorKind::Tls] {
        let mut story = Story::new(PAST, Start::Now);
        story.quiet(Input::Read(Ok(list(10, &[]))));
        let answer = story.engine.handle(Input::Opened(Err(Error::new(kind, ""))));
        assert!(matches!(answer, Some(Err(_))), "{answer:?}");
    }
}

#[test]
fn lost_history_causes_new_list_at_once() {
    let mut story = Story::following(PAST);
    story.yields(12);
    story.reconnect(12);
    story.quiet(Input::Read(Err(history_lost())));
    story.quiet(item(WatchItem::HistoryLost { oldest: Some(at(30)) }));
    story.wants_read(None);
    let snapshot = story.listed_again(list(40, &[("/a/x", 35)]));
    assert_eq!((snapshot.revision, snapshot.reason), (at(40), Reason::HistoryLost));
    story.drops(40);
    story.yields(41);
}

#[test]
fn history_lost_on_open_watch_causes_new_list() {
    // Seen on 3.4.23: a slow watcher was cancelled for compaction after 152 of 300 events.
    let mut story = Story::following(PAST);
    for revision in 11..163 {
        story.yields(revision);
    }
    story.quiet(Input::Item(Some(Err(history_lost()))));
    story.wants_read(None);
}

#[test]
fn watch_resumes_from_last_seen_revision() {
    // etcd issue 18089: on 3.4.23 and 3.5.1, a watch from the revision after the seen one loses a
    // deletion at the compacted revision itself. So the engine passes the seen revision to the
    // store, which then reports lost history.
    let mut story = Story::following(PAST);
    story.yields(19);
    story.quiet(broken());
    story.quiet(Input::Waited);
    story.wants(&Want::Open(WatchFrom::Resumed(at(19))));
    story.quiet(Input::Opened(Err(history_lost())));
    let snapshot = story.listed_again(list(20, &[("/a/y", 9)]));
    assert_eq!((snapshot.revision, snapshot.reason), (at(20), Reason::HistoryLost));
}

#[test]
fn skipped_changes_cause_new_list_without_busy_loop() {
    let mut story = Story::following(PAST);
    story.yields(12);
    story.quiet(item(WatchItem::Skipped(at(30))));
    story.wants_read(None);
    let snapshot = story.listed_again(list(40, &[("/a/x", 25)]));
    assert_eq!((snapshot.revision, snapshot.reason), (at(40), Reason::HistoryLost));
    // The store skips changes again, right after the list.
    story.quiet(item(WatchItem::Skipped(at(50))));
    story.wants(&Want::Wait);
}

#[test]
fn history_lost_right_after_list_waits_before_next_list() {
    let mut story = Story::following(PAST);
    story.quiet(item(WatchItem::HistoryLost { oldest: None }));
    story.wants(&Want::Wait);
    story.quiet(Input::Waited);
    story.wants_read(None);
}

#[test]
fn lists_after_first_are_retried_forever() {
    let mut story = Story::following(PAST);
    story.yields(12);
    story.quiet(item(WatchItem::HistoryLost { oldest: None }));
    for _ in 0..50 {
        story.wants_read(None);
        story.quiet(Input::Read(Err(unavailable())));
        story.wants(&Want::Wait);
        story.quiet(Input::Waited);
    }
    let snapshot = story.listed_again(list(40, &[]));
    assert_eq!(snapshot.reason, Reason::HistoryLost);
}

#[test]
fn progress_moves_resume_point_of_idle_watch() {
    let mut story = Story::following(PAST);
    assert_eq!(story.step(item(WatchItem::Progress(at(5000)))), Step::Progress(at(5000)));
    story.quiet(item(WatchItem::Progress(at(5000))));
    story.quiet(item(WatchItem::Progress(at(4000))));
    story.reconnect(5000);
    story.wants_check("/a/y", Some(5000));
}

#[test]
fn early_progress_loses_no_change() {
    // etcd issue 15220: the answer to a progress request came before the backlog, 1126 revisions
    // ahead.
    let mut story = Story::following(PAST);
    assert_eq!(story.step(item(WatchItem::Progress(at(1137)))), Step::Progress(at(1137)));
    story.yields(11);
    story.yields(12);
    story.drops(12);
    story.quiet(item(WatchItem::Progress(at(2000))));
    story.reconnect(12);
    story.wants_check("/a/x", Some(12));
}

#[test]
fn lagged_watch_resumes_at_once() {
    let mut story = Story::following(PAST);
    story.yields(12);
    story.quiet(item(WatchItem::Lagged));
    story.wants(&Want::Open(WatchFrom::Resumed(at(12))));
    story.quiet(Input::Opened(Ok(())));
    story.quiet(Input::Read(Ok(list(12, &[("/a/x", 12)]))));
    story.yields(13);
}

#[test]
fn watch_that_lags_at_once_waits_before_reopening() {
    let mut story = Story::following(PAST);
    story.quiet(item(WatchItem::Lagged));
    story.wants(&Want::Wait);
}

#[test]
fn lagging_member_causes_no_reset() {
    let mut story = Story::following(PAST);
    story.yields(12);
    story.reconnect(12);
    story.quiet(Input::Read(Ok(list(12, &[("/a/x", 12)]))));
    // The member that answers the watch lags behind, at revision 8.
    story.quiet(item(WatchItem::Behind(at(8))));
    story.wants(&Want::Read(Range { limit: Some(1), keys_only: true, ..Range::of(span()) }));
    story.quiet(Input::Read(Ok(list(15, &[("/a/x", 12)]))));
    story.wants(&Want::Wait);
    story.quiet(Input::Waited);
    story.wants(&Want::Open(WatchFrom::Resumed(at(12))));
}

#[test]
fn shorter_history_of_cluster_resets_watch() {
    let mut story = Story::following(PAST);
    story.yields(12);
    story.reconnect(12);
    // A read of a future revision fails like a read of a compacted revision, so the failed check
    // does not show whether the history was lost.
    story.quiet(Input::Read(Err(history_lost())));
    story.quiet(item(WatchItem::Behind(at(3))));
    story.quiet(Input::Read(Ok(list(3, &[]))));
    story.wants_read(None);
    let snapshot = story.listed_again(list(4, &[("/a/z", 4)]));
    assert_eq!((snapshot.revision, snapshot.reason), (at(4), Reason::Rewound));
    story.yields(5);
}

#[test]
fn list_at_lower_revision_is_reported_as_rewound() {
    let mut story = Story::following(PAST);
    story.yields(12);
    story.quiet(item(WatchItem::HistoryLost { oldest: None }));
    let snapshot = story.listed_again(list(2, &[]));
    assert_eq!(snapshot.reason, Reason::Rewound);
}

#[test]
fn watch_is_reopened_after_failed_confirmation() {
    let mut story = Story::following(PAST);
    story.quiet(item(WatchItem::Behind(at(3))));
    story.quiet(Input::Read(Err(unavailable())));
    story.wants(&Want::Wait);
    story.quiet(Input::Waited);
    story.wants(&Want::Open(WatchFrom::Resumed(at(10))));
}

#[test]
fn changed_newest_key_reveals_wiped_server() {
    let other = |kvs| RangeReply { revision: at(12), kvs, ..RangeReply::default() };
    let recreated = KeyValue { created: at(2), ..kv("/a/x", 12) };
    let provisioned_alike = KeyValue { value: Bytes::from_static(b"other"), ..kv("/a/x", 12) };
    for reply in [list(12, &[]), list(12, &[("/a/x", 11)]), other(vec![recreated]), other(vec![provisioned_alike])] {
        let mut story = Story::following(PAST);
        story.yields(12);
        story.reconnect(12);
        story.wants_check("/a/x", Some(12));
        story.quiet(Input::Read(Ok(reply)));
        story.wants_read(None);
        let snapshot = story.listed_again(list(90, &[("/a/z", 80)]));
        assert_eq!((snapshot.revision, snapshot.reason), (at(90), Reason::Rewound));
    }
}

/// A restored backup may contain the anchor's key unchanged, and be at a later revision than the
/// watch has seen. Then only the store notices that the history is another one.
#[test]
fn cluster_change_resets_watch_in_every_phase() {
    let opening = |story: &mut Story| {
        story.quiet(broken());
        story.quiet(Input::Waited);
        story.wants(&Want::Open(WatchFrom::Resumed(at(10))));
    };
    let phases: [&dyn Fn(&mut Story); 6] = [
        &|_| {},
        &|story| story.quiet(broken()),
        &opening,
        &|story| {
            opening(story);
            story.quiet(Input::Opened(Ok(())));
            story.wants_check("/a/y", Some(10));
        },
        &|story| story.quiet(item(WatchItem::Behind(at(3)))),
        &|story| story.quiet(item(WatchItem::HistoryLost { oldest: None })),
    ];
    for reach in phases {
        let mut story = Story::following(PAST);
        reach(&mut story);
        story.quiet(Input::Moved);
        story.wants_read(None);
        let snapshot = story.listed_again(list(90, &[("/a/x", 7), ("/a/y", 9), ("/a/z", 80)]));
        assert_eq!((snapshot.revision, snapshot.reason), (at(90), Reason::Rewound));
    }
    // No step was yielded yet, so the state of the new cluster is the first step.
    let mut story = Story::new(PAST, Start::Now);
    story.quiet(Input::Moved);
    story.wants_read(None);
    story.quiet(Input::Read(Ok(list(10, &[("/a/x", 7)]))));
    story.quiet(Input::Moved);
    assert_eq!(story.listed_again(list(12, &[("/a/x", 8)])).reason, Reason::Start);
}

#[test]
fn deleted_key_is_checked_at_revision_before_deletion() {
    let mut story = Story::following(PAST);
    story.yields(12);
    assert!(matches!(story.step(item(WatchItem::Batch(delete("/a/x", false, 20)))), Step::Batch(_)));
    assert!(matches!(story.step(item(WatchItem::Progress(at(30)))), Step::Progress(_)));
    story.reconnect(30);
    story.wants_check("/a/x", Some(19));
    story.quiet(Input::Read(Ok(list(19, &[("/a/x", 12)]))));
    story.wants(&Want::Item);
}

#[test]
fn key_deleted_with_directory_is_checked_at_earlier_revision() {
    for (deleted, until) in [("/a", Some(19)), ("/", Some(19)), ("/a/x", Some(19)), ("/a/xy", None), ("/ab", None)] {
        let mut story = Story::following(PAST);
        story.yields(12);
        story.step(item(WatchItem::Batch(delete(deleted, true, 20))));
        story.reconnect(20);
        story.wants_check("/a/x", Some(until.unwrap_or(20)));
    }
}

#[test]
fn key_in_formerly_empty_directory_reveals_wiped_server() {
    let mut story = Story::new(PAST, Start::Now);
    story.quiet(Input::Read(Ok(list(10, &[]))));
    story.reset(Input::Opened(Ok(())));
    story.reconnect(10);
    story.wants(&Want::Check(Range { revision: Some(at(10)), limit: Some(1), ..Range::of(span()) }));
    story.quiet(Input::Read(Ok(list(10, &[("/a/q", 6)]))));
    story.wants_read(None);
    assert_eq!(story.listed_again(list(11, &[("/a/q", 6)])).reason, Reason::Rewound);
}

#[test]
fn v2_history_check_reads_current_key() {
    // The watch has seen `/a/x` written at index 12. Each entry contains an answer to a quorum read
    // of the key: its `modifiedIndex`, and the index of the read. The last value is true if a
    // server with the same history can give this answer.
    let cases = [
        (Some(12), 20, true),
        // The key was written since, or its TTL was refreshed, which causes no event.
        (Some(15), 20, true),
        // The key was deleted since.
        (None, 20, true),
        // The key's modification is older than the one seen.
        (Some(11), 20, false),
        // The server's index is lower than the one seen.
        (Some(12), 11, false),
    ];
    for (found, index, possible) in cases {
        let mut story = Story::following(NO_PAST);
        story.yields(12);
        story.reconnect(12);
        story.wants_check("/a/x", None);
        let found = Vec::from_iter(found.map(|modified| ("/a/x", modified)));
        story.quiet(Input::Read(Ok(list(index, &found))));
        if possible {
            story.yields(13);
        } else {
            story.wants_read(None);
        }
    }
}

#[test]
fn key_that_became_directory_causes_no_reset() {
    let mut story = Story::following(NO_PAST);
    story.yields(12);
    story.reconnect(12);
    story.quiet(Input::Read(Err(Error::new(ErrorKind::IsADirectory, ""))));
    story.wants(&Want::Item);
}

#[test]
fn start_at_past_revision_yields_past_state() {
    let mut story = Story::new(PAST, Start::Since(at(6)));
    story.wants_read(Some(6));
    story.quiet(Input::Read(Ok(list(6, &[("/a/x", 5)]))));
    story.wants(&Want::Open(WatchFrom::Resumed(at(6))));
    let snapshot = story.reset(Input::Opened(Ok(())));
    assert_eq!((snapshot.revision, snapshot.reason, snapshot.kvs.len()), (at(6), Reason::Start, 1));
    story.yields(7);
}

#[test]
fn start_at_compacted_revision_yields_current_state() {
    let mut story = Story::new(PAST, Start::Since(at(6)));
    story.quiet(Input::Read(Err(history_lost())));
    story.wants_read(None);
    story.quiet(Input::Read(Ok(list(50, &[("/a/x", 40)]))));
    let snapshot = story.reset(Input::Opened(Ok(())));
    assert_eq!((snapshot.revision, snapshot.reason), (at(50), Reason::HistoryLost));
}

#[test]
fn start_at_future_revision_is_reported_as_rewound() {
    let mut story = Story::new(PAST, Start::Since(at(600)));
    story.quiet(Input::Read(Err(history_lost())));
    story.quiet(Input::Read(Ok(list(50, &[]))));
    let snapshot = story.reset(Input::Opened(Ok(())));
    assert_eq!((snapshot.revision, snapshot.reason), (at(50), Reason::Rewound));
}

#[test]
fn start_at_unreadable_revision_yields_only_changes() {
    let mut story = Story::new(NO_PAST, Start::Since(at(6)));
    story.wants(&Want::Open(WatchFrom::Resumed(at(6))));
    let snapshot = story.reset(Input::Opened(Ok(())));
    assert_eq!((snapshot.revision, snapshot.known, snapshot.kvs.len()), (at(6), false, 0));
    story.wants(&Want::Item);
    story.yields(7);
}

#[test]
fn watch_outside_v2_event_window_lists_again() {
    let mut story = Story::new(NO_PAST, Start::Since(at(6)));
    assert!(!story.reset(Input::Opened(Err(history_lost()))).known);
    story.wants_read(None);
    let snapshot = story.listed_again(list(2000, &[("/a/x", 1800)]));
    assert_eq!((snapshot.reason, snapshot.known), (Reason::HistoryLost, true));
}

#[test]
fn start_at_zero_yields_empty_state() {
    for past in [PAST, NO_PAST] {
        let mut story = Story::new(past, Start::Since(Revision::ZERO));
        story.wants(&Want::Open(WatchFrom::Resumed(Revision::ZERO)));
        let snapshot = story.reset(Input::Opened(Err(unavailable())));
        assert_eq!((snapshot.revision, snapshot.known), (Revision::ZERO, true));
        story.quiet(Input::Waited);
        story.quiet(Input::Opened(Ok(())));
        // The watch has seen no history, so it checks nothing.
        story.yields(2);
    }
}

#[test]
fn first_check_chooses_key_for_later_checks() {
    let mut story = Story::new(NO_PAST, Start::Since(at(6)));
    story.reset(Input::Opened(Ok(())));
    story.reconnect(6);
    story.quiet(Input::Read(Ok(list(9, &[("/a/x", 4), ("/a/y", 8)]))));
    story.reconnect(6);
    // `/a/y` cannot be the anchor, since changes after revision 6 are still to be yielded.
    story.wants_check("/a/x", None);
}

#[test]
fn history_can_be_checked_with_non_path_key() {
    for foreign in [&b"/a/\xff"[..], b"/a/z/", b"/a//z"] {
        let mut story = Story::following(PAST);
        let mut batch = put("/a/x", 20);
        if let Some(Event::Put { kv, .. }) = batch.events.first_mut() {
            kv.key = Bytes::copy_from_slice(foreign);
        }
        story.engine.anchor.follow(&batch);
        story.reconnect(10);
        story.wants(&Want::Check(Range { revision: Some(Revision::new(10)), ..Range::of(Span::Key(Key::stored(foreign))) }));
    }
}

#[test]
fn unexpected_input_is_ignored() {
    let mut story = Story::following(PAST);
    story.quiet(Input::Waited);
    story.quiet(Input::Opened(Ok(())));
    story.quiet(Input::Read(Ok(list(99, &[]))));
    story.yields(11);
}

#[test]
fn snapshot_of_one_key_does_not_keep_message_in_memory() {
    for compact in [false, true] {
        let message = Bytes::from(vec![b'm'; 100_000]);
        let mut reply = list(10, &[("/a", 7)]);
        reply.kvs[0].value = message.slice(10..20);
        reply.compact = compact;
        let key = Key::parse("/a").expect("a key");
        let mut story = Story { engine: Engine::new(Span::Key(key), "/a", PAST, Start::Now) };
        story.quiet(Input::Read(Ok(reply)));
        let snapshot = story.reset(Input::Opened(Ok(())));
        assert_eq!(snapshot.kvs[0].value, message.slice(10..20));
        // A reply that is marked as compact is not copied again.
        assert_eq!(message.is_unique(), !compact);
    }
}
