//! `LeaderChanges`: a stream of the current leader and its changes. `watch.rs` resumes the watch
//! when a server fails.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;

use super::{Candidate, KIND};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::queue::{Contender, ContenderQueue};
use crate::store::{Capabilities, Event, KeyValue, Span};
use crate::value::EtcdValue;
use crate::watch::{Follow, Interruption, Snapshot, Start, Step};

/// A stream that yields the current leader first, and then every change of the leader. It ends only
/// after an error that is the last item. Created by
/// [`Election::observe`](super::Election::observe).
///
/// A change is: a new leader (even with the same value), a new value of the leader, a new lease of
/// the leader (the leadership was handed over or renewed by a token), or the end of the last
/// leadership, after which there is no leader. No item equals the previous item. The stream resumes
/// by itself after server restarts, failed members and cut connections, and misses no leader while the
/// server keeps its history. If the history is gone (compaction, a server that was restored or
/// emptied), the next item is the current leader, unless the leader is the same as before.
///
/// An item reports the past and may be outdated. Only the leader itself can check, with its guard,
/// whether it leads.
///
/// # Items
///
/// - `Ok(Some(candidate))`: this candidate leads. `Ok(None)`: there is no leader.
/// - `Err` of kind [`Decode`](ErrorKind::Decode): the value of the leader, at [`Error::key`], is
///   not a `T`; the stream goes on.
/// - Any other `Err` is the last item, as in [`Changes`](crate::Changes#items): `PermissionDenied`,
///   `Unauthenticated` or `Unsupported`, when the server has refused every attempt to resume the
///   stream for [`RetryPolicy::call_timeout`](crate::RetryPolicy::call_timeout). The stream waits
///   until every other failure is over; meanwhile [`interruption`](Self::interruption) returns it.
///
/// A stream that is not polled sends no requests. It stores only the keys and values below the
/// election's name.
#[must_use = "a watch works only while it is polled"]
pub struct LeaderChanges<T> {
    follow: Follow,
    office: Office,
    /// The leader at the start. `None` once the first poll has returned it.
    first: Option<Option<Contender>>,
    values: PhantomData<fn() -> T>,
}

impl<T: EtcdValue> LeaderChanges<T> {
    pub(super) async fn open(queue: &ContenderQueue) -> Result<Self> {
        let (store, directory) = (queue.roaming(), &queue.directory);
        let mut follow = Follow::new(store.clone(), queue.retry(), Span::Below(directory.clone()), KIND, Start::Now);
        let snapshot = loop {
            match follow.next().await {
                Some(Ok(Step::Reset(snapshot))) => break snapshot,
                // A reset is the first step.
                Some(Ok(Step::Batch(_) | Step::Progress(_))) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(Error::new(ErrorKind::Unavailable, "the watch ended before it began").at(directory)),
            }
        };
        queue.report_strays(&snapshot.kvs);
        let office = Office::new(directory.clone(), store.capabilities().clone(), snapshot);
        let first = Some(office.leader.clone());
        Ok(Self { follow, office, first, values: PhantomData })
    }

    /// Returns the next item; see [the type](Self). Returns `None` only after the last item.
    ///
    /// # Errors
    ///
    /// `Decode` for a leader whose value is not a `T`; the stream goes on. Any other error is the
    /// last item. A call outside of a tokio runtime returns `Unsupported` and changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Option<Candidate<T>>>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Returns why the stream is interrupted, or `None` while it receives the server's changes. An
    /// interrupted stream keeps trying.
    #[must_use]
    pub fn interruption(&self) -> Option<Interruption<'_>> {
        self.follow.interruption()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Option<Candidate<T>>>>> {
        let leader = loop {
            if let Some(leader) = self.first.take() {
                break leader;
            }
            match ready!(self.follow.poll_step(cx)) {
                Some(Ok(step)) => {
                    if self.office.apply(step) {
                        break self.office.leader.clone();
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        };
        Poll::Ready(Some(leader.map(|leader| Candidate::of(leader).transpose()).transpose()))
    }
}

impl<T: EtcdValue> Stream for LeaderChanges<T> {
    type Item = Result<Option<Candidate<T>>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }
}

impl<T> fmt::Debug for LeaderChanges<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leader = self.office.leader.as_ref().map(|leader| &leader.key);
        f.debug_struct("LeaderChanges").field("election", &self.office.directory).field("leader", &leader).finish_non_exhaustive()
    }
}

/// Determines the leader from the steps of a watch. Sends no requests.
#[derive(Debug)]
struct Office {
    directory: Key,
    capabilities: Capabilities,
    /// The contenders, by their stored key.
    contenders: HashMap<Bytes, Contender>,
    leader: Option<Contender>,
}

impl Office {
    fn new(directory: Key, capabilities: Capabilities, start: Snapshot) -> Self {
        let mut office = Self { directory, capabilities, contenders: HashMap::new(), leader: None };
        office.apply(Step::Reset(start));
        office
    }

    /// Applies a step. Returns whether the leader, its value or its lease changed.
    fn apply(&mut self, step: Step) -> bool {
        match step {
            Step::Progress(_) => return false,
            Step::Reset(snapshot) => {
                self.contenders.clear();
                snapshot.kvs.into_iter().for_each(|kv| self.put(kv));
            }
            Step::Batch(batch) => {
                for event in batch.events {
                    match event {
                        Event::Put { kv, .. } => self.put(kv),
                        Event::Delete { directory: true, .. } => self.contenders.retain(|key, _| !event.deletes(key)),
                        Event::Delete { key, directory: false, .. } => drop(self.contenders.remove(&key)),
                    }
                }
            }
        }
        let leader = self.contenders.values().min_by(|one, other| one.order().cmp(&other.order())).cloned();
        let same = match (&self.leader, &leader) {
            (Some(before), Some(now)) => before.is(now),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.leader = leader;
        !same
    }

    fn put(&mut self, kv: KeyValue) {
        let key = Bytes::copy_from_slice(&kv.key);
        match Contender::of(&self.directory, kv, &self.capabilities) {
            Some(contender) => self.contenders.insert(key, contender),
            // The key may have belonged to a contender until its lease was detached.
            None => self.contenders.remove(&key),
        };
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::revision::{LeaseId, Revision};
    use crate::store::{Batch, Event, KeyValue};
    use crate::watch::Reason;

    const V3: Capabilities = Capabilities {
        name: "like v3",
        transactions: true,
        max_operations: 128,
        max_value: 1 << 20,
        past_revisions: true,
        binary_values: true,
        directories: false,
    };

    /// Returns a contender's key that is attached to this lease and has the lease's ID as its name.
    fn stands(lease: u64, created: u64, modified: u64, value: &str) -> KeyValue {
        KeyValue {
            key: Bytes::from(format!("/a/{lease:x}")),
            value: Bytes::copy_from_slice(value.as_bytes()),
            created: Revision::new(created),
            modified: Revision::new(modified),
            version: None,
            lease: LeaseId::new(lease),
            ttl: None,
        }
    }

    fn snapshot(revision: u64, kvs: Vec<KeyValue>) -> Snapshot {
        Snapshot { revision: Revision::new(revision), kvs, known: true, reason: Reason::Start }
    }

    fn office(kvs: Vec<KeyValue>) -> Office {
        Office::new(Key::parse("/a").unwrap(), V3, snapshot(10, kvs))
    }

    fn put(kv: KeyValue) -> Event {
        Event::Put { kv, previous: None }
    }

    fn delete(key: &str, directory: bool) -> Event {
        Event::Delete { key: Bytes::copy_from_slice(key.as_bytes()), directory, previous: None }
    }

    /// Applies the changes of one revision. Returns the leader's lease and value if the leader
    /// changed.
    fn told(office: &mut Office, revision: u64, events: Vec<Event>) -> Option<Option<(u64, String)>> {
        let changed = office.apply(Step::Batch(Batch { revision: Revision::new(revision), events }));
        changed.then(|| leader(office))
    }

    fn leader(office: &Office) -> Option<(u64, String)> {
        let leader = office.leader.as_ref()?;
        Some((leader.lease.get(), String::from_utf8(leader.value.to_vec()).unwrap()))
    }

    fn is(lease: u64, value: &str) -> Option<Option<(u64, String)>> {
        Some(Some((lease, value.to_owned())))
    }

    #[test]
    fn earliest_key_leads_whatever_its_name() {
        let office = office(vec![stands(0xa, 7, 7, "late"), stands(0xb, 5, 9, "early"), stands(0xc, 6, 6, "between")]);
        assert_eq!(leader(&office), Some((0xb, "early".to_owned())));
        assert_eq!(leader(&self::office(Vec::new())), None);
    }

    #[test]
    fn waiter_is_reported_once_it_leads() {
        let mut office = office(vec![stands(0xb, 5, 5, "x")]);
        assert_eq!(told(&mut office, 11, vec![put(stands(0xa, 11, 11, "y"))]), None);
        assert_eq!(told(&mut office, 12, vec![put(stands(0xa, 11, 12, "z"))]), None, "a waiter changed its value");
        assert_eq!(told(&mut office, 13, vec![delete("/a/b", false)]), is(0xa, "z"));
        assert_eq!(told(&mut office, 14, vec![delete("/a/a", false)]), Some(None));
        assert_eq!(told(&mut office, 15, vec![delete("/a/a", false)]), None);
    }

    #[test]
    fn only_a_changed_value_is_reported() {
        let mut office = office(vec![stands(0xb, 5, 5, "x")]);
        assert_eq!(told(&mut office, 11, vec![put(stands(0xb, 5, 11, "y"))]), is(0xb, "y"));
        assert_eq!(told(&mut office, 12, vec![put(stands(0xb, 5, 12, "y"))]), None);
    }

    #[test]
    fn new_leader_with_same_value_is_reported() {
        let mut office = office(vec![stands(0xb, 5, 5, "x"), stands(0xc, 6, 6, "x")]);
        assert_eq!(told(&mut office, 11, vec![delete("/a/b", false)]), is(0xc, "x"));
        // A key that was deleted and created again is a new leader; so is the same key with a new
        // lease.
        assert_eq!(told(&mut office, 12, vec![delete("/a/c", false), put(stands(0xc, 12, 12, "x"))]), is(0xc, "x"));
        let adopted = KeyValue { lease: LeaseId::new(0xd), ..stands(0xc, 12, 13, "x") };
        assert_eq!(told(&mut office, 13, vec![put(adopted)]), is(0xd, "x"));
    }

    #[test]
    fn changes_of_one_revision_make_one_item() {
        let mut office = office(vec![stands(0xb, 5, 5, "x"), stands(0xc, 6, 6, "y")]);
        let events = vec![delete("/a/b", false), delete("/a/c", false), put(stands(0xd, 11, 11, "z"))];
        assert_eq!(told(&mut office, 11, events), is(0xd, "z"));
    }

    #[test]
    fn key_without_lease_does_not_lead() {
        let unleased = |key: &str| KeyValue { key: Bytes::copy_from_slice(key.as_bytes()), lease: None, ..stands(1, 1, 1, "foreign") };
        let mut office = office(vec![unleased("/a/config"), unleased("/a/1"), stands(0xf, 8, 8, "x")]);
        assert_eq!(leader(&office), Some((0xf, "x".to_owned())));
        assert_eq!(told(&mut office, 11, vec![put(unleased("/a/config")), delete("/a/1", false)]), None);
        // A leader whose key loses its lease no longer leads.
        let detached = KeyValue { lease: None, ..stands(0xf, 8, 12, "x") };
        assert_eq!(told(&mut office, 12, vec![put(detached)]), Some(None));
    }

    #[test]
    fn leased_key_leads_whatever_its_name() {
        for name in ["1234567890", "A1", "config", "b/1", "/", "", "ü", "_hidden"] {
            let foreign = KeyValue { key: Bytes::from(format!("/a/{name}")), ..stands(1, 3, 3, "foreign") };
            let mut office = office(vec![foreign, stands(0xf, 8, 8, "x")]);
            assert_eq!(leader(&office), Some((1, "foreign".to_owned())), "{name:?}");
            assert_eq!(told(&mut office, 11, vec![delete(&format!("/a/{name}"), false)]), is(0xf, "x"));
        }
        let not_text = KeyValue { key: Bytes::from_static(b"/a/\xff"), ..stands(1, 3, 3, "foreign") };
        let office = office(vec![not_text, stands(0xf, 8, 8, "x")]);
        assert_eq!(office.leader.map(|leader| leader.key.as_bytes().to_vec()), Some(b"/a/\xff".to_vec()));
    }

    #[test]
    fn smallest_key_created_by_one_transaction_leads() {
        let mut office = office(vec![stands(0xc, 5, 5, "c"), stands(0xb, 5, 5, "b")]);
        assert_eq!(leader(&office), Some((0xb, "b".to_owned())));
        assert_eq!(told(&mut office, 11, vec![delete("/a/b", false)]), is(0xc, "c"));
    }

    #[test]
    fn v2_keys_lead_until_their_directory_is_deleted() {
        let expires = |lease: u64, created| KeyValue {
            lease: None,
            ttl: Some(std::time::Duration::from_secs(5)),
            ..stands(lease, created, created, "x")
        };
        let without_ttl = KeyValue { lease: None, ..stands(0xa, 1, 1, "foreign") };
        let capabilities = Capabilities { transactions: false, ..V3 };
        let kvs = vec![without_ttl, expires(0xb, 5), expires(0xc, 6)];
        let mut office = Office::new(Key::parse("/a").unwrap(), capabilities, snapshot(10, kvs));
        assert_eq!(leader(&office), Some((0xb, "x".to_owned())));
        assert_eq!(told(&mut office, 11, vec![delete("/", true)]), Some(None));
    }

    #[test]
    fn lost_history_reports_only_a_different_leader() {
        let mut office = office(vec![stands(0xb, 5, 5, "x")]);
        let mut reset = |revision, kvs| {
            let snapshot = Snapshot { reason: Reason::Rewound, ..snapshot(revision, kvs) };
            office.apply(Step::Reset(snapshot)).then(|| leader(&office))
        };
        assert_eq!(reset(20, vec![stands(0xb, 5, 5, "x"), stands(0xc, 19, 19, "y")]), None);
        assert_eq!(reset(3, vec![stands(0xd, 2, 2, "x")]), is(0xd, "x"));
        assert_eq!(reset(4, Vec::new()), Some(None));
        assert_eq!(reset(2, Vec::new()), None);
    }

    #[test]
    fn progress_yields_no_item() {
        assert!(!office(vec![stands(0xb, 5, 5, "x")]).apply(Step::Progress(Revision::new(30))));
    }
}
