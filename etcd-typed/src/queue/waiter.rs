//! `Waiter`: carries out the decisions of [`Place`], with one lease and one key.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::ContenderQueue;
use super::contender::{Rank, is_contender};
use super::guard::Guard;
use super::hand_over::Predecessor;
use super::member::{Member, Sent};
use super::place::{Before, Input, Outcome, Place, Want};
use super::release::Joined;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::retry::{Backoff, answer_until};
use crate::revision::Revision;
use crate::runtime;
use crate::store::{
    Committed, Compare, Condition, Expiry, KeyValue, Op, OpResult, Range, RangeReply, Span, Store, Txn, Watch, WatchFrom, WatchItem,
    WatchStream,
};
use crate::telemetry;

/// Whether to wait for other contenders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    Wait,
    None,
}

/// How an attempt ended.
pub(super) enum End {
    First(Box<Guard>),
    /// The queue is not empty, and this contender does not wait.
    Busy,
    /// The lease ran out during the attempt, or somebody deleted the key.
    Gone,
}

/// The age of a watch at which the waiter reads whether the predecessor still exists, because the
/// server may report the deletion late.
const DOUBT: Duration = Duration::from_millis(15);

/// A watch of the predecessor's key.
struct Following {
    key: Key,
    stream: WatchStream,
    /// When to read whether the predecessor still exists. `None` after that read, and on v2.
    doubt: Option<Instant>,
}

/// A contender that waits. Dropping it deletes the key.
pub(super) struct Waiter<'t> {
    queue: &'t ContenderQueue,
    member: Member,
    key: Key,
    place: Place,
    /// When the attempt to create the key ends.
    deadline: Instant,
    watch: Option<Following>,
    backoff: Backoff,
    /// The delays between watches. They grow while watches fail, even if reads succeed.
    rewatch: Backoff,
}

impl<'t> Waiter<'t> {
    pub(super) fn new(queue: &'t ContenderQueue, member: Member, deadline: Instant) -> Self {
        let key = queue.directory.descend(&member.name());
        let backoff = queue.lease_pool.retry().backoff();
        Self { queue, member, key, place: Place::new(), deadline, watch: None, rewatch: backoff.clone(), backoff }
    }

    pub(super) async fn run(mut self, value: &Bytes, patience: Patience) -> Result<End> {
        let validity = self.member.validity().clone();
        let outcome = tokio::select! {
            biased;
            // The key is lost with the lease, so requests under way are dropped.
            _ = validity.lost() => Some(Outcome::Gone),
            outcome = self.reach_the_front(value, patience) => outcome?,
        };
        Ok(match outcome {
            Some(Outcome::First(fence)) => End::First(Box::new(Guard::new(self.queue, self.key, fence, self.member))),
            Some(Outcome::Gone) => {
                telemetry::place_lost(self.queue.kind);
                End::Gone
            }
            None => {
                self.give_up().await;
                End::Busy
            }
        })
    }

    /// Deletes the key and waits for the answer. Otherwise the next attempt would find this key in
    /// the queue. If the deletion fails, it is repeated in the background, or the lease is revoked.
    async fn give_up(self) {
        let gone = Txn { then: vec![Op::delete(&self.key)], ..Txn::default() };
        let outside = self.place.want() == Want::Enter;
        if outside || self.store().commit(gone).await.is_ok() {
            self.member.put_back(&self.queue.lease_pool, &self.queue.hand_over, None);
        }
    }

    /// Sends requests and waits until the place in the queue is decided. Returns `None` if another
    /// contender is before this one and `patience` is `None`.
    async fn reach_the_front(&mut self, value: &Bytes, patience: Patience) -> Result<Option<Outcome>> {
        loop {
            let input = match self.place.want() {
                Want::Enter => match self.enter(value, patience).await? {
                    Some(input) => input,
                    None => return Ok(None),
                },
                Want::Look { fence, whole } => self.look(fence, whole, patience).await?,
                Want::Wait { .. } if patience == Patience::None => return Ok(None),
                Want::Wait { fence, predecessor, since } => self.wait(fence, predecessor, since).await,
                Want::End(outcome) => return Ok(Some(outcome)),
            };
            if let Input::Made { fence, .. } | Input::WasThere { fence } = &input {
                self.member.entered(*fence);
            }
            self.place.handle(input);
        }
    }

    /// Creates the key. The request may be repeated after any failure: each attempt uses the same
    /// key, so it exists at most once.
    ///
    /// Returns `None` if the queue is not empty and `patience` is `None`. On a store with
    /// transactions no key was created in this case.
    async fn enter(&mut self, value: &Bytes, patience: Patience) -> Result<Option<Input>> {
        let deadline = self.deadline;
        let put = Op::Put { key: self.key.clone(), value: value.clone(), expiry: Expiry::With(self.member.lease_id()), previous: false };
        let mut then = vec![put];
        if self.transactions() {
            // Reads our key and the key before it.
            then.push(Op::Newest { below: self.queue.directory.clone(), before: None, limit: 2 });
        }
        let (own, all) = (Span::Key(self.key.clone()), Span::Below(self.queue.directory.clone()));
        let only_if = |span: Span| {
            let compares = vec![Compare { span: span.clone(), condition: Condition::Absent }];
            Txn { compares, then: then.clone(), otherwise: vec![Op::Get(span)] }
        };
        let mut alone = patience == Patience::None && self.transactions();
        let mut txn = only_if(if alone { all } else { own.clone() });
        self.member.enter(&self.queue.hand_over, &self.queue.directory, &self.key);
        let mut joined = if patience == Patience::Wait && self.transactions() { self.join(&then).await } else { None };
        loop {
            let answer = match joined.take() {
                Some(answer) => answer,
                None => {
                    self.member.sending();
                    answer_until(deadline, self.store().commit(txn.clone())).await
                }
            };
            self.member.sent(Sent::of(&answer));
            let error = match answer {
                Ok(committed) => {
                    self.backoff.reset();
                    let revision = committed.revision;
                    let reply = committed.results.into_iter().find_map(|result| match result {
                        OpResult::Get(reply) => Some(reply),
                        OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
                    });
                    if committed.succeeded {
                        return Ok(Some(Input::Made { fence: revision, before: reply.map(|reply| self.before(revision, reply)) }));
                    }
                    let there = reply.map(|reply| reply.kvs).unwrap_or_default();
                    if let Some(ours) = there.iter().find(|kv| self.is_ours(kv)) {
                        return Ok(Some(Input::WasThere { fence: ours.created }));
                    }
                    if !alone {
                        return Ok(Some(Input::Missing));
                    }
                    if there.iter().any(|kv| is_contender(&self.queue.directory, kv, self.store().capabilities())) {
                        return Ok(None);
                    }
                    // The keys that were found do not belong to contenders, so the queue may still
                    // be empty.
                    alone = false;
                    txn = only_if(own.clone());
                    continue;
                }
                // The next attempt takes another lease, unless the caller keeps this one.
                Err(error) if error.kind() == ErrorKind::LeaseLost && !self.member.is_borrowed() => return Ok(Some(Input::Missing)),
                Err(error) => error,
            };
            let next = Instant::now() + self.backoff.next_delay();
            // With `NoSpace` the outcome is unknown too, but the server keeps refusing until an
            // operator frees space. If the key was created, it ends with the lease.
            let is_hopeless = error.kind() == ErrorKind::NoSpace || !(error.may_have_applied() || error.is_retryable());
            if is_hopeless || next >= deadline || !runtime::is_here() {
                return Err(error);
            }
            sleep_until(next).await;
        }
    }

    /// Lets a holder of this client create our key in its release request. Under contention a
    /// holder is often about to release.
    ///
    /// Returns `None` if no holder did so. In this case no request for our key was sent.
    async fn join(&mut self, make: &[Op]) -> Option<Result<Committed>> {
        let (hand_over, directory) = (&self.queue.hand_over, &self.queue.directory);
        let joined = hand_over.offer(directory, &self.key, make)?;
        self.member.sending();
        // Lets other tasks run first, since the holder may be about to release.
        yield_now().await;
        if hand_over.withdraw(directory, &self.key) {
            self.member.sent(Sent::NotCreated);
            return None;
        }
        // The holder may be on a runtime that is no longer driven.
        match timeout_at(self.deadline, joined).await {
            Ok(Ok(Joined::Made(committed))) => Some(Ok(committed)),
            Ok(Ok(Joined::Not)) => None,
            Ok(Err(_)) | Err(_) => {
                let unknown = "the key was to be made with a request whose outcome is unknown";
                Some(Err(Error::new(ErrorKind::Unavailable, unknown).outcome_unknown()))
            }
        }
    }

    /// Reads the place in the queue, and repeats the read through outages. If `patience` is `None`,
    /// returns the error when the time of the call is up.
    async fn look(&mut self, fence: Revision, whole: bool, patience: Patience) -> Result<Input> {
        loop {
            let looked = if self.transactions() { self.look_at_once(fence, whole).await } else { self.look_at_all(fence).await };
            match looked {
                Ok(input) => {
                    self.backoff.reset();
                    return Ok(input);
                }
                Err(error) if error.is_outage() => {
                    let next = Instant::now() + self.backoff.next_delay();
                    if patience == Patience::None && next >= self.deadline {
                        return Err(error);
                    }
                    sleep_until(next).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads our key and its predecessor, which are the two newest keys up to our fence.
    ///
    /// The store sends this one read without conditions as a range request, not as a transaction: a
    /// read-only transaction crashes a server of 3.5.0 to 3.5.6 when its caller cancels it (etcd
    /// issue 14110).
    async fn look_at_once(&mut self, fence: Revision, whole: bool) -> Result<Input> {
        let below = self.queue.directory.clone();
        let read = if whole { Op::Get(Span::Below(below)) } else { Op::Newest { below, before: Some(fence.next()), limit: 2 } };
        let committed = self.store().commit(Txn { then: vec![read], ..Txn::default() }).await?;
        Ok(match committed.results.into_iter().next() {
            Some(OpResult::Get(reply)) => self.looked(fence, reply),
            _ => Input::Missing,
        })
    }

    /// Reads the whole directory, on a store whose transactions cover only one key. Deletes the
    /// keys before ours whose time to live has passed.
    async fn look_at_all(&mut self, fence: Revision) -> Result<Input> {
        loop {
            let reply = self.store().range(Range::of(Span::Below(self.queue.directory.clone()))).await?;
            let is_before = |kv: &&KeyValue| kv.created < fence && kv.is_over();
            let over = reply.kvs.iter().filter(is_before).find(|kv| is_contender(&self.queue.directory, kv, self.store().capabilities()));
            let Some(over) = over.cloned() else { return Ok(self.looked(fence, reply)) };
            self.bury(&over).await?;
        }
    }

    /// Deletes a contender's key that the server still has although its time to live has passed,
    /// unless the key was refreshed since it was read. After the deletion no refresh can revive the
    /// key.
    async fn bury(&mut self, over: &KeyValue) -> Result<()> {
        let key = Key::stored(&over.key);
        let compares = vec![Compare::key(&key, Condition::Modified(over.modified))];
        let txn = Txn { compares, then: vec![Op::delete(&key)], otherwise: Vec::new() };
        self.store().commit(txn).await.map(drop)
    }

    fn looked(&self, fence: Revision, reply: RangeReply) -> Input {
        if self.is_there(fence, &reply) { Input::Looked(self.before(fence, reply)) } else { Input::Missing }
    }

    /// Waits until the predecessor is gone, a third of the lease's time to live has passed, or the
    /// watch of the predecessor fails.
    async fn wait(&mut self, fence: Revision, predecessor: Rank, since: Revision) -> Input {
        let look = Instant::now() + self.member.ttl() / 3;
        let stirred = async {
            match self.queue.hand_over.before(&self.queue.directory, &self.key, &predecessor) {
                Some(Predecessor::Released(handed)) => Some(handed),
                // A predecessor of this client needs no watch.
                Some(Predecessor::Waits(neighbour)) => neighbour.gone().await,
                None => {
                    self.follow(predecessor, since).await;
                    None
                }
            }
        };
        let handed = tokio::select! {
            handed = stirred => handed,
            // Limits the wait, since a watch may be stuck, or a server may lose an event (etcd
            // issues 18089, 17529).
            () = sleep_until(look) => None,
        };
        match handed {
            Some(handed) if self.is_there(fence, &handed.reply) => Input::Left(handed.left),
            _ => Input::Stirred,
        }
    }

    /// Watches the predecessor. A working watch is kept for the next wait for the same predecessor.
    async fn follow(&mut self, predecessor: Rank, since: Revision) {
        let Rank { key, created } = predecessor;
        if self.watch.as_ref().is_none_or(|watch| watch.key != key) {
            let watch = Watch { span: Span::Key(key.clone()), from: WatchFrom::Live(since) };
            let stream = self.store().watch(watch).await.ok();
            // A v3 server reads its revision first and registers the watch after that. If a write
            // happens in between, the server treats the watch as a slow one, which a loop serves
            // every 100 ms (`v3rpc/watch.go`, `watchable_store.go`). With a lock that changes hands
            // as fast as possible, this happens to one watch in a hundred.
            let doubt = self.transactions().then(|| Instant::now() + DOUBT);
            self.watch = stream.map(|stream| Following { key: key.clone(), stream, doubt });
        }
        while let Some(Following { stream, doubt, .. }) = &mut self.watch {
            let item = match *doubt {
                Some(at) => timeout_at(at, stream.next()).await,
                None => Ok(stream.next().await),
            };
            let Ok(item) = item else {
                *doubt = None;
                // Reading the predecessor's key is cheaper than reading the queue. If this read
                // fails, the caller reads the queue.
                let read = Txn { then: vec![Op::Get(Span::Key(key.clone()))], ..Txn::default() };
                let read = self.store().commit(read).await;
                let is_there =
                    |result: &OpResult| matches!(result, OpResult::Get(reply) if reply.kvs.iter().any(|kv| kv.created == created));
                if read.is_ok_and(|read| read.results.iter().any(is_there)) {
                    continue;
                }
                return;
            };
            match item {
                Some(Ok(WatchItem::Batch(batch))) if batch.events.iter().any(|event| event.deletes(key.as_bytes())) => return,
                Some(Ok(WatchItem::Skipped(_))) => return,
                Some(Ok(WatchItem::Batch(_) | WatchItem::Progress(_))) => self.rewatch.reset(),
                Some(Ok(WatchItem::HistoryLost { .. } | WatchItem::Behind(_) | WatchItem::Lagged) | Err(_)) | None => self.watch = None,
            }
        }
        sleep(self.rewatch.next_delay()).await;
    }

    fn before(&self, fence: Revision, reply: RangeReply) -> Before {
        self.queue.report_strays(&reply.kvs);
        Before::of(&self.queue.directory, &self.key, fence, reply, self.store().capabilities())
    }

    /// Returns whether our key exists unchanged in this reply.
    fn is_there(&self, fence: Revision, reply: &RangeReply) -> bool {
        reply.kvs.iter().any(|kv| kv.created == fence && self.is_ours(kv))
    }

    fn is_ours(&self, kv: &KeyValue) -> bool {
        // v2 shows no leases. On other stores a key without a lease was detached from ours.
        let attached = kv.lease.map_or(!self.transactions(), |lease| lease == self.member.lease_id());
        attached && kv.key.as_ref() == self.key.as_bytes()
    }

    fn transactions(&self) -> bool {
        self.store().capabilities().transactions
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.queue.lease_pool.store()
    }
}
