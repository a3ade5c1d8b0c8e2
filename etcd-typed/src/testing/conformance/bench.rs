//! `Bench`: a store under test, with a separate directory for each case and the functions that the
//! cases use. Each function fails the case if the store breaks the contract.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::StreamExt;

use super::TestStore;
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::store::{
    Batch, Capabilities, Committed, Compare, Condition, Event, Expiry, KeyValue, Op, OpResult, Range, RangeReply, Span, Store, Txn, Watch,
    WatchFrom, WatchItem, WatchStream,
};

/// A store under test, and the directory of one case.
pub(super) struct Bench<'s> {
    subject: &'s dyn TestStore,
    dir: Key,
}

impl<'s> Bench<'s> {
    pub(super) fn new(subject: &'s dyn TestStore, case: &str) -> Self {
        let root = parse("/conformance");
        Self { subject, dir: root.child(&format!("{case}-{:x}", fastrand::u64(..))) }
    }

    pub(super) fn store(&self) -> &'s dyn Store {
        self.subject.store()
    }

    pub(super) fn capabilities(&self) -> &'s Capabilities {
        self.store().capabilities()
    }

    /// Returns the case's directory, which contains all keys of the case.
    pub(super) fn dir(&self) -> &Key {
        &self.dir
    }

    /// Returns the key at this path below the case's directory. The path is not escaped.
    pub(super) fn key(&self, path: &str) -> Key {
        self.dir.join(&parse(&format!("/{path}")))
    }

    /// Returns the keys at these paths below the case's directory, as an answer has them.
    pub(super) fn paths<'p>(&self, paths: impl IntoIterator<Item = &'p &'p str>) -> Vec<String> {
        paths.into_iter().map(|path| self.key(path).to_string()).collect()
    }

    pub(super) async fn lose_history(&self) {
        self.subject.lose_history().await;
    }

    /// Commits a transaction that must succeed.
    pub(super) async fn commit(&self, txn: Txn) -> Committed {
        let said = format!("{txn:?}");
        match self.store().commit(txn).await {
            Ok(committed) => committed,
            Err(error) => panic!("{said} must succeed: {error:?}"),
        }
    }

    /// Performs operations without a condition, and returns their results.
    pub(super) async fn perform(&self, then: Vec<Op>) -> Committed {
        let count = then.len();
        let committed = self.commit(Txn { then, ..Txn::default() }).await;
        assert!(committed.succeeded, "a transaction without a condition succeeds");
        assert_eq!(committed.results.len(), count, "one result for each operation");
        committed
    }

    pub(super) async fn put(&self, key: &Key, value: impl Into<Bytes>) -> Revision {
        self.perform(vec![Op::put(key, value.into())]).await.revision
    }

    /// Overwrites an existing key, which keeps its creation revision on every store.
    pub(super) async fn update(&self, key: &Key, value: impl Into<Bytes>, expiry: Expiry) -> Revision {
        let put = Op::Put { key: key.clone(), value: value.into(), expiry, previous: false };
        let committed =
            self.commit(Txn { compares: vec![Compare::key(key, Condition::Present)], then: vec![put], otherwise: vec![] }).await;
        assert!(committed.succeeded, "{key} is there");
        committed.revision
    }

    pub(super) async fn put_with(&self, key: &Key, value: &'static str, expiry: Expiry) -> Revision {
        let put = Op::Put { key: key.clone(), value: Bytes::from_static(value.as_bytes()), expiry, previous: false };
        self.perform(vec![put]).await.revision
    }

    pub(super) async fn delete(&self, key: &Key) -> Revision {
        let committed = self.perform(vec![Op::delete(key)]).await;
        assert_eq!(committed.results, [OpResult::Delete { deleted: 1, previous: vec![] }], "{key} was there");
        committed.revision
    }

    /// Sends a read that must succeed.
    pub(super) async fn range(&self, range: Range) -> RangeReply {
        let said = format!("{range:?}");
        match self.store().range(range).await {
            Ok(reply) => reply,
            Err(error) => panic!("{said} must succeed: {error:?}"),
        }
    }

    pub(super) async fn list(&self) -> RangeReply {
        self.range(Range::of(Span::Below(self.dir.clone()))).await
    }

    /// Returns the newest revision.
    pub(super) async fn now(&self) -> Revision {
        self.list().await.revision
    }

    pub(super) async fn get(&self, key: &Key) -> Option<KeyValue> {
        let mut reply = self.range(Range::of(Span::Key(key.clone()))).await;
        assert!(reply.kvs.len() <= 1 && !reply.more && reply.directories.is_empty() && reply.directory.is_none(), "one key: {reply:?}");
        let kv = reply.kvs.pop();
        assert!(kv.iter().all(|kv| kv.key == key.as_bytes()), "{key}: {kv:?}");
        kv
    }

    /// Returns the value of a key, which must exist.
    pub(super) async fn value(&self, key: &Key) -> Bytes {
        self.found(key).await.value
    }

    pub(super) async fn found(&self, key: &Key) -> KeyValue {
        match self.get(key).await {
            Some(kv) => kv,
            None => panic!("{key} does not exist"),
        }
    }

    /// Checks that a read fails with an error of this kind.
    pub(super) async fn range_refused(&self, range: Range, kind: ErrorKind) {
        let (said, key) = (format!("{range:?}"), range.span.key().clone());
        match self.store().range(range).await {
            Ok(reply) => panic!("expected {kind:?}, got {reply:?}, from {said}"),
            Err(error) => self.check_refusal(&error, kind, Some(&key), &said),
        }
    }

    /// Checks that a transaction fails with an error of this kind, which must say that nothing was
    /// applied.
    pub(super) async fn refused(&self, txn: Txn, kind: ErrorKind) {
        let said = format!("{txn:?}").chars().take(400).collect::<String>();
        // If the transaction concerns a single key, the error must contain that key.
        let keys: HashSet<&Key> = txn.compares.iter().map(|compare| compare.span.key()).chain(txn.then.iter().map(key_of)).collect();
        let key = keys.iter().next().filter(|_| keys.len() == 1 && txn.then.len() == 1).copied().cloned();
        match self.store().commit(txn).await {
            Ok(committed) => panic!("expected {kind:?}, but it committed {committed:?}, for {said}"),
            Err(error) => {
                assert!(!error.may_have_applied(), "the error of a refused write must say that nothing was applied: {error:?}, for {said}");
                self.check_refusal(&error, kind, key.as_ref(), &said);
            }
        }
    }

    fn check_refusal(&self, error: &Error, kind: ErrorKind, key: Option<&Key>, said: &str) {
        assert_eq!(error.kind(), kind, "{error:?}, from {said}");
        if kind == ErrorKind::Unsupported {
            self.check_unsupported(error);
        }
        if let Some(key) = key {
            assert_eq!(error.key(), Some(key), "the error must name the key: {error:?}, from {said}");
        }
    }

    /// Checks an error of kind `Unsupported`. The message must contain the store's name, so that a
    /// person knows to which kind of store the URL points.
    pub(super) fn check_unsupported(&self, error: &Error) {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert!(!error.may_have_applied() && !error.is_retryable(), "{error:?}");
        let name = self.capabilities().name;
        assert!(error.to_string().contains(name), "the refusal names the store, `{name}`: {error}");
    }

    /// Grants a lease, and checks that it lasts at least this long.
    pub(super) async fn grant(&self, ttl: std::time::Duration) -> LeaseId {
        let id = LeaseId::random();
        match self.store().grant(id, ttl).await {
            Ok(granted) => assert!(granted >= ttl, "granted {granted:?}, asked {ttl:?}"),
            Err(error) => panic!("{error:?}"),
        }
        id
    }

    /// Opens a watch, which must succeed. The reader checks that each item follows the rules for
    /// all watches.
    pub(super) async fn watch(&self, span: Span, from: WatchFrom) -> Reader {
        match self.store().watch(Watch { span: span.clone(), from }).await {
            Ok(stream) => Reader { stream, span, seen: from.revision(), may_skip: matches!(from, WatchFrom::Live(_)), last: None },
            Err(error) => panic!("{error:?}, of a watch of {span:?} {from:?}"),
        }
    }

    /// Watches all keys of the case from now on.
    pub(super) async fn watch_all(&self) -> Reader {
        let revision = self.now().await;
        self.watch(Span::Below(self.dir.clone()), WatchFrom::Listed(revision)).await
    }
}

fn key_of(op: &Op) -> &Key {
    match op {
        Op::Get(span) | Op::Page { span, .. } | Op::Delete { span, .. } => span.key(),
        Op::Newest { below: key, .. }
        | Op::Put { key, .. }
        | Op::MakeDir { key, .. }
        | Op::UpdateDir { key, .. }
        | Op::RemoveDir { key } => key,
    }
}

pub(super) fn parse(path: &str) -> Key {
    match Key::parse(path) {
        Ok(key) => key,
        Err(error) => panic!("{error}"),
    }
}

/// Returns the keys of an answer, as text.
pub(super) fn keys(reply: &RangeReply) -> Vec<String> {
    reply.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

/// Reads a watch, and checks that each item follows the rules for all watches.
pub(super) struct Reader {
    stream: WatchStream,
    span: Span,
    /// The revision up to which all changes were yielded or came before the start.
    seen: Revision,
    /// True if the watch started with `WatchFrom::Live` and has yielded no item yet.
    may_skip: bool,
    /// The last item, if it has come.
    last: Option<WatchItem>,
}

impl Reader {
    /// Returns the next item, or `None` after the last one.
    async fn next(&mut self) -> Option<WatchItem> {
        let item = match (self.stream.next().await, &self.last) {
            (Some(Ok(item)), None) => item,
            (None, Some(_)) => return None,
            (None, None) => panic!("the watch of {:?} ended without a reason, after revision {}", self.span, self.seen),
            (Some(item), Some(last)) => panic!("{item:?} after the last item, {last:?}"),
            (Some(Err(error)), None) => panic!("the watch of {:?} failed after revision {}: {error:?}", self.span, self.seen),
        };
        match &item {
            WatchItem::Batch(batch) => self.check(batch),
            WatchItem::Progress(revision) => {
                assert!(*revision >= self.seen, "progress to {revision} after {}", self.seen);
                self.seen = *revision;
            }
            WatchItem::Skipped(revision) => {
                assert!(self.may_skip, "{item:?}, of a watch that is not live, or after another item");
                assert!(*revision > self.seen, "{item:?}, and everything up to {} was there already", self.seen);
                self.seen = *revision;
            }
            WatchItem::HistoryLost { .. } | WatchItem::Behind(_) | WatchItem::Lagged => self.last = Some(item.clone()),
        }
        self.may_skip = false;
        Some(item)
    }

    fn check(&mut self, batch: &Batch) {
        assert!(batch.revision > self.seen, "a batch of {} after everything up to {} was yielded: {batch:?}", batch.revision, self.seen);
        self.seen = batch.revision;
        assert!(!batch.events.is_empty(), "a batch has events");
        let mut keys = HashSet::new();
        for event in &batch.events {
            assert!(keys.insert(event.key()), "a key twice in one batch: {batch:?}");
            match event {
                Event::Put { kv, .. } => {
                    assert!(self.span.contains(&kv.key), "{:?} is not in {:?}", kv.key, self.span);
                    assert_eq!(kv.modified, batch.revision, "{batch:?}");
                    assert!(kv.created <= kv.modified, "{batch:?}");
                }
                Event::Delete { key, directory: false, .. } => {
                    assert!(self.span.contains(key), "{key:?} is not in {:?}", self.span);
                }
                // Deleting a directory also deletes the keys below it. So the directory must be in
                // the span, or the span in the directory.
                Event::Delete { key, directory: true, .. } => {
                    let mut inside = key.to_vec();
                    inside.push(b'/');
                    let span = self.span.key().as_str().as_bytes();
                    assert!(self.span.contains(key) || span == &key[..] || span.starts_with(&inside), "{key:?} and {:?}", self.span);
                }
            }
        }
    }

    /// Returns the next batch. Only progress may come before the batch.
    pub(super) async fn batch(&mut self) -> Batch {
        loop {
            match self.next().await {
                Some(WatchItem::Batch(batch)) => return batch,
                Some(WatchItem::Progress(_)) => {}
                other => panic!("expected a batch, got {other:?}"),
            }
        }
    }

    /// Returns the next batch, which must have one event.
    pub(super) async fn event(&mut self) -> (Revision, Event) {
        let Batch { revision, mut events } = self.batch().await;
        match (events.pop(), events.as_slice()) {
            (Some(event), []) => (revision, event),
            (last, rest) => panic!("expected one event, got {rest:?} and {last:?}"),
        }
    }

    /// Checks that the next event writes this value at this revision.
    pub(super) async fn expect_put(&mut self, at: Revision, key: &Key, value: &str) {
        let (revision, event) = self.event().await;
        match event {
            Event::Put { kv, .. } if kv.key == key.as_str() && kv.value == value.as_bytes() => assert_eq!(revision, at, "of {key}"),
            event => panic!("expected a put of {key}, got {event:?}"),
        }
    }

    /// Checks that the next event deletes this key, and returns the revision.
    pub(super) async fn expect_delete(&mut self, key: &Key) -> Revision {
        let (revision, event) = self.event().await;
        match event {
            Event::Delete { key: deleted, .. } if deleted == key.as_str() => revision,
            event => panic!("expected a delete of {key}, got {event:?}"),
        }
    }

    /// Returns the batches until the watch ends, and the item that ends the watch.
    pub(super) async fn rest(&mut self) -> (Vec<Batch>, WatchItem) {
        let mut batches = Vec::new();
        loop {
            match self.next().await {
                Some(WatchItem::Batch(batch)) => batches.push(batch),
                Some(WatchItem::Progress(_)) => {}
                Some(last) => {
                    assert!(self.next().await.is_none());
                    return (batches, last);
                }
                None => panic!("the watch has ended before"),
            }
        }
    }

    /// Returns the next item that is not progress.
    pub(super) async fn item(&mut self) -> WatchItem {
        loop {
            match self.next().await {
                Some(WatchItem::Progress(_)) => {}
                Some(item) => return item,
                None => panic!("the watch has ended before"),
            }
        }
    }
}
