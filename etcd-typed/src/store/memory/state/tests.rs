//! Tests the rules of the history, one test for each rule.

use super::*;
use crate::key::Key;

fn key(path: &str) -> Key {
    Key::parse(path).unwrap()
}

fn one(path: &str) -> Span {
    Span::Key(key(path))
}

fn below(path: &str) -> Span {
    Span::Below(key(path))
}

fn put(state: &mut State, path: &str, value: &'static str) -> Revision {
    let mut write = state.write();
    write.put(path.as_bytes(), value.into(), None);
    write.finish().0
}

fn delete(state: &mut State, span: &Span) -> Revision {
    let mut write = state.write();
    write.delete(span);
    write.finish().0
}

fn state() -> State {
    State::new(HistoryLimit::default())
}

fn listed(state: &State, range: &Range) -> Vec<String> {
    state.range(range).unwrap().kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

fn kind(result: Result<RangeReply>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn first_write_gets_revision_2() {
    let mut state = state();
    assert_eq!(state.revision().get(), 1);
    assert_eq!(put(&mut state, "/a", "1").get(), 2);
}

#[test]
fn version_counts_until_delete() {
    let mut state = state();
    put(&mut state, "/a", "1");
    put(&mut state, "/a", "1");
    let kv = state.get(b"/a").unwrap();
    assert_eq!((kv.created.get(), kv.modified.get(), kv.version), (2, 3, Some(2)));
    delete(&mut state, &one("/a"));
    assert_eq!(state.get(b"/a"), None);
    put(&mut state, "/a", "1");
    let kv = state.get(b"/a").unwrap();
    assert_eq!((kv.created.get(), kv.modified.get(), kv.version), (5, 5, Some(1)));
}

#[test]
fn transaction_without_changes_keeps_revision() {
    let mut state = state();
    put(&mut state, "/a", "1");
    assert_eq!(delete(&mut state, &one("/b")).get(), 2);
    assert_eq!(state.write().finish().0.get(), 2);
    assert_eq!(put(&mut state, "/a", "1").get(), 3);
}

#[test]
fn changes_of_transaction_share_revision() {
    let mut state = state();
    put(&mut state, "/d/old", "0");
    let mut write = state.write();
    assert_eq!(write.get(&below("/d")).revision.get(), 2);
    write.put(b"/d/b", "1".into(), None);
    write.put(b"/d/a", "2".into(), None);
    let seen = write.get(&below("/d"));
    assert_eq!((seen.revision.get(), seen.kvs.len()), (3, 3));
    assert_eq!(write.delete(&one("/d/old")).len(), 1);
    assert_eq!(write.delete(&one("/d/old")).len(), 0);
    assert_eq!(write.finish().0.get(), 3);
    let Next::Batch(batch) = state.next(&below("/d"), Revision::new(2), 1) else { panic!("no batch") };
    let keys: Vec<_> = batch.events.iter().map(|event| event.key().as_ref()).collect();
    assert_eq!(keys, [&b"/d/b"[..], b"/d/a", b"/d/old"], "in the order of the transaction");
    assert_eq!(batch.revision.get(), 3);
}

#[test]
fn past_revisions_can_be_read() {
    let mut state = state();
    put(&mut state, "/a", "1");
    put(&mut state, "/b", "2");
    delete(&mut state, &one("/a"));
    for (revision, keys) in [(1, vec![]), (2, vec!["/a"]), (3, vec!["/a", "/b"]), (4, vec!["/b"])] {
        let range = Range { revision: Some(Revision::new(revision)), ..Range::of(below("/")) };
        assert_eq!(listed(&state, &range), keys);
        assert_eq!(state.range(&range).unwrap().revision.get(), revision);
    }
}

#[test]
fn compacted_and_future_revisions_are_refused() {
    let mut state = state();
    for _ in 0..3 {
        put(&mut state, "/a", "1");
    }
    state.compact(Revision::new(3));
    let read = |revision| state.range(&Range { revision: Some(Revision::new(revision)), ..Range::of(one("/a")) });
    assert_eq!(kind(read(0)), ErrorKind::HistoryLost);
    assert_eq!(kind(read(2)), ErrorKind::HistoryLost);
    assert!(read(3).is_ok() && read(4).is_ok());
    assert_eq!(kind(read(5)), ErrorKind::HistoryLost);
    assert!(read(5).unwrap_err().to_string().contains("future"));
}

#[test]
fn directory_span_matches_whole_segments() {
    let mut state = state();
    for path in ["/app", "/app/a", "/app/b/c", "/app0", "/apple/x", "/ap"] {
        put(&mut state, path, "");
    }
    assert_eq!(listed(&state, &Range::of(below("/app"))), ["/app/a", "/app/b/c"]);
    assert_eq!(listed(&state, &Range::of(one("/app"))), ["/app"]);
    assert_eq!(listed(&state, &Range::of(below("/"))).len(), 6);
}

#[test]
fn pages_return_all_keys_once() {
    let mut state = state();
    for path in ["/d/a", "/d/b", "/d/c", "/e"] {
        put(&mut state, path, "value");
    }
    let page = |after: &'static str, limit| {
        let range = Range { limit: Some(limit), after: Some(after.into()), keys_only: true, ..Range::of(below("/d")) };
        let reply = state.range(&range).unwrap();
        assert!(reply.kvs.iter().all(|kv| kv.value.is_empty()));
        (listed(&state, &range), reply.more)
    };
    assert_eq!(page("", 2), (vec!["/d/a".to_owned(), "/d/b".to_owned()], true));
    assert_eq!(page("/d/b", 2), (vec!["/d/c".to_owned()], false));
    assert_eq!(page("/d/bb", 1), (vec!["/d/c".to_owned()], false));
    for past_the_end in ["/d/c", "/d0", "/e", "\u{10ffff}"] {
        assert_eq!(page(past_the_end, 2), (vec![], false));
    }
    let single = Range { after: Some("/d/a".into()), ..Range::of(one("/d/a")) };
    assert_eq!(listed(&state, &single), Vec::<String>::new());
}

#[test]
fn next_returns_one_revision_at_a_time() {
    let mut state = state();
    put(&mut state, "/a", "1");
    put(&mut state, "/b", "1");
    delete(&mut state, &one("/a"));
    let Next::Batch(first) = state.next(&one("/a"), Revision::ZERO, 100) else { panic!("no batch") };
    assert!(matches!(first.events.as_slice(), [Event::Put { kv, previous: None }] if kv.modified.get() == 2));
    let Next::Batch(second) = state.next(&one("/a"), first.revision, 100) else { panic!("no batch") };
    assert!(matches!(second.events.as_slice(), [Event::Delete { previous: Some(kv), directory: false, .. }] if kv.value == "1"));
    assert_eq!(second.revision.get(), 4);
    assert_eq!(state.next(&one("/b"), Revision::new(3), 100), Next::NothingUpTo(Revision::new(4)));
}

#[test]
fn history_search_stops_at_its_budget() {
    let mut state = state();
    for _ in 0..10 {
        put(&mut state, "/a", "1");
    }
    assert_eq!(state.next(&one("/b"), Revision::new(1), 3), Next::NothingUpTo(Revision::new(4)));
    assert_eq!(state.next(&one("/b"), Revision::new(4), 100), Next::NothingUpTo(Revision::new(11)));
}

#[test]
fn watch_from_compacted_revision_sees_later_changes() {
    let mut state = state();
    put(&mut state, "/a", "1");
    put(&mut state, "/a", "2");
    delete(&mut state, &one("/a"));
    state.compact(Revision::new(3));
    assert_eq!(state.next(&one("/a"), Revision::new(2), 100), Next::Lost);
    // Some etcd servers lose a deletion right after the compacted revision. The memory store does
    // not.
    let Next::Batch(batch) = state.next(&one("/a"), Revision::new(3), 100) else { panic!("no batch") };
    assert!(matches!(batch.events.as_slice(), [Event::Delete { previous: Some(kv), .. }] if kv.value == "2"));
}

#[test]
fn compaction_forgets_deleted_keys() {
    let mut state = state();
    for path in ["/a", "/b", "/b", "/c"] {
        put(&mut state, path, "1");
    }
    delete(&mut state, &one("/a"));
    state.compact(Revision::new(100));
    assert_eq!(state.compacted(), state.revision());
    assert!(!state.keys.contains_key(&b"/a"[..]), "a deleted key is forgotten");
    assert!(state.keys.values().all(|versions| versions.len() == 1));
    assert!(state.log.is_empty() && state.kept.changes == 0 && state.kept.bytes == 0);
    assert_eq!(listed(&state, &Range::of(below("/"))), ["/b", "/c"]);
    state.compact(Revision::new(2));
    assert_eq!(state.compacted(), state.revision(), "compacted history stays compacted");
}

#[test]
fn history_is_bounded_by_changes_and_bytes() {
    let mut state = State::new(HistoryLimit { changes: 10, bytes: 1000 });
    for _ in 0..100 {
        put(&mut state, "/a", "1");
    }
    assert_eq!((state.revision().get(), state.compacted().get()), (101, 91));
    state.write().finish();
    let mut write = state.write();
    write.put(b"/a", vec![0; 990].into(), None);
    write.finish();
    assert_eq!(state.log.len(), 3, "992 bytes, and two changes of three");
    state.set_limit(HistoryLimit { changes: 2, bytes: 1000 });
    assert_eq!(state.log.len(), 2);
}

#[test]
fn newest_revision_is_always_kept() {
    let mut state = State::new(HistoryLimit { changes: 1, bytes: usize::MAX });
    put(&mut state, "/x", "1");
    let mut write = state.write();
    for path in ["/a", "/b", "/c"] {
        write.put(path.as_bytes(), "1".into(), None);
    }
    write.finish();
    assert_eq!(state.compacted().get(), 2);
    assert!(matches!(state.next(&below("/"), Revision::new(2), 1), Next::Batch(batch) if batch.events.len() == 3));
}

#[test]
fn write_reports_lease_changes() {
    let mut state = state();
    let (old, new) = (LeaseId::new(1), LeaseId::new(2));
    let mut moves = |lease| {
        let mut write = state.write();
        write.put(b"/a", "1".into(), lease);
        write.finish().1
    };
    let key = Bytes::from("/a");
    assert_eq!(moves(old), [Moved { key: key.clone(), from: None, to: old }]);
    assert_eq!(moves(old), []);
    assert_eq!(moves(new), [Moved { key: key.clone(), from: old, to: new }]);
    assert_eq!(moves(None), [Moved { key, from: new, to: None }]);
}
