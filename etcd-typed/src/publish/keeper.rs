//! `ValueKeeper`: the task that keeps one value published.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::Target;
use super::status::SharedStatus;
use crate::error::{Error, ErrorKind, Result};
use crate::lease::{KeyLease, LostReason, Ownership, Validity};
use crate::retry::Backoff;
use crate::revision::{LeaseId, Revision};
use crate::runtime::sleep_until;
use crate::store::{Committed, Compare, Condition, Event, KeyValue, Op, OpResult, Range, Span, Txn};
use crate::telemetry;
use crate::watch::{Follow, Start, Step};

/// A newer value, and the sender for the result.
pub(super) struct Set {
    pub(super) value: Bytes,
    pub(super) answer: oneshot::Sender<Result<Revision>>,
}

pub(super) struct ValueKeeper {
    target: Target,
    shared: Arc<SharedStatus>,
    sets: mpsc::UnboundedReceiver<Set>,
    /// The value to publish.
    value: Bytes,
    /// The value that the key holds with our lease, and the revision of its last write, if known.
    there: Option<(Bytes, Revision)>,
    /// The lease that our key is attached to. `None` after a loss, until the value is put again.
    /// Also `None` while the key holds another publisher's value, which may last long.
    lease: Option<KeyLease>,
    /// A retired lease that the key may still be attached to.
    left: Option<KeyLease>,
    /// Whether a request with an unknown outcome may still attach the key to `lease`.
    unsure: bool,
    /// The previous lease, which was lost. `None` once the key can no longer be attached to this
    /// lease.
    former: Option<LeaseId>,
    /// Whether this was the newest value of this client at its key and lease at the last report of
    /// the ownership.
    newest: bool,
    /// A revision at which the key held our value.
    seen: Revision,
    /// When the value was put or last put back.
    since: Instant,
    /// When to make the next attempt; `None` if no attempt is needed.
    due: Option<Instant>,
    backoff: Backoff,
    hints: Hints,
}

/// The result of an attempt.
enum Found {
    /// The key holds the value, with our lease.
    Ours(Revision),
    /// The key holds another publisher's value.
    Theirs,
    /// The key changed during the attempt.
    Changed,
}

impl ValueKeeper {
    /// Creates the keeper of a value that was just put with this lease, at the revision `seen`.
    pub(super) fn new(
        target: Target,
        shared: Arc<SharedStatus>,
        sets: mpsc::UnboundedReceiver<Set>,
        value: Bytes,
        lease: KeyLease,
        seen: Revision,
    ) -> Self {
        let backoff = target.lease_pool.retry().backoff();
        let hints = Hints::new(target.clone());
        let there = Some((value.clone(), seen));
        Self {
            target,
            shared,
            sets,
            value,
            there,
            lease: Some(lease),
            left: None,
            unsure: false,
            former: None,
            newest: true,
            seen,
            since: Instant::now(),
            due: None,
            backoff,
            hints,
        }
    }

    pub(super) async fn run(mut self, end: oneshot::Receiver<oneshot::Sender<Result<()>>>) {
        let mut abandoned = Abandoned { shared: self.shared.clone(), end };
        let answer = tokio::select! {
            biased;
            // If an attempt is under way, its future is dropped. If the server still applies the
            // write, the key is attached to a lease that is retired now.
            answer = &mut abandoned.end => answer.ok(),
            never = self.keep() => match never {},
        };
        let retry = self.target.lease_pool.retry().clone();
        let withdrawn = retry.one_call(self.withdraw()).await;
        if let Some(answer) = answer {
            let _ = answer.send(withdrawn);
        }
    }

    async fn keep(&mut self) -> Infallible {
        loop {
            let validity = self.lease.as_ref().map(|lease| lease.validity().clone());
            let retired = self.lease.as_ref().and_then(KeyLease::retired);
            let newest = self.lease.as_ref().and_then(KeyLease::ownership).map(Ownership::newest);
            let before = self.newest;
            let due = self.due;
            tokio::select! {
                biased;
                Some(set) = self.sets.recv() => self.set(set).await,
                reason = end_of(validity) => self.lose(reason),
                () = told(retired, true), if !self.unsure => self.move_on(),
                () = told(newest, !before) => {
                    self.newest = !before;
                    self.due = Some(Instant::now());
                }
                () = until(due) => {
                    let found = self.attempt().await;
                    self.conclude(&found);
                }
                hint = self.hints.next() => match hint {
                    Hint::Step(step) => self.hear(&step),
                    Hint::Refused => self.soon(),
                },
            }
        }
    }

    /// Returns the previous leases that the key may still be attached to.
    fn formers(&self) -> impl Iterator<Item = LeaseId> {
        self.former.into_iter().chain(self.left.as_ref().map(|left| left.id()))
    }

    async fn withdraw(self) -> Result<()> {
        let formers: Vec<_> = self.formers().collect();
        let Self { target, lease, left, unsure, .. } = self;
        let at = |error: Error| error.at(&target.key);
        let delete = async |lease: LeaseId| {
            let compares = vec![Compare::key(&target.key, Condition::Lease(lease))];
            let txn = Txn { compares, then: vec![Op::delete(&target.key)], otherwise: Vec::new() };
            target.store().commit(txn).await.map_err(at)
        };
        for former in formers {
            if target.store().capabilities().transactions {
                // Other owners may have keys with this lease.
                delete(former).await?;
            } else {
                target.store().revoke(former).await.map_err(at)?;
            }
        }
        if let Some(left) = left {
            left.leave();
        }
        let Some(mut lease) = lease else { return Ok(()) };
        if lease.is_sole() {
            return lease.end().await.map(drop).map_err(at);
        }
        if lease.ownership().is_some_and(|ownership| !ownership.is_newest()) {
            // The key belongs to a newer value of this client.
            if !unsure {
                lease.leave();
            }
            return Ok(());
        }
        delete(lease.id()).await?;
        // If a late write is possible, dropping `lease` retires it, and its end deletes the key.
        if !unsure {
            lease.leave();
        }
        Ok(())
    }

    async fn set(&mut self, set: Set) {
        let before = std::mem::replace(&mut self.value, set.value);
        let found = self.attempt().await;
        self.conclude(&found);
        let answer = match found {
            Ok(Found::Ours(revision)) => Ok(revision),
            Ok(Found::Theirs) => Err(self.taken()),
            Ok(Found::Changed) => Err(self.conflict("other clients write the key at the same time")),
            Err(error) => {
                // The store would refuse this value every time, so keep the previous one.
                if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Unsupported | ErrorKind::Invalid) {
                    self.value = before;
                }
                Err(error)
            }
        };
        let _ = set.answer.send(answer);
    }

    /// Makes one attempt to put the value.
    async fn attempt(&mut self) -> Result<Found> {
        if let Some(reason) = self.lease.as_ref().and_then(|lease| lease.validity().reason()) {
            self.lose(reason);
        }
        self.target.check()?;
        if self.lease.as_ref().and_then(KeyLease::ownership).is_some_and(|ownership| !ownership.is_newest()) {
            return Ok(Found::Theirs);
        }
        let mut found = self.try_to_put().await;
        if let (Err(error), Some(lease @ KeyLease::Shared(_))) = (&found, &self.lease)
            && error.kind() == ErrorKind::LeaseLost
        {
            // Only this answer showed that the lease was lost. Try once more with another lease.
            lease.validity().lose(LostReason::Revoked);
            self.lose(LostReason::Revoked);
            found = self.try_to_put().await;
        }
        found.map_err(|error| error.at(&self.target.key))
    }

    async fn try_to_put(&mut self) -> Result<Found> {
        let key = self.target.key.clone();
        let there = if self.lease.is_some() {
            match self.look_or_write().await? {
                Ok(found) => return Ok(found),
                Err(there) => there,
            }
        } else {
            let reply = self.target.store().range(Range::of(Span::Key(key.clone()))).await?;
            reply.kvs.into_iter().next()
        };
        let condition = match &there {
            None => Condition::Absent,
            Some(kv) => match kv.lease.filter(|lease| self.formers().any(|former| former == *lease)) {
                // The server has not ended the former lease yet. The write moves the key to the new
                // lease, so watchers never see the value vanish.
                Some(former) => Condition::Lease(former),
                // The other publisher's time to live has passed. A late refresh makes this write
                // fail.
                None if kv.is_over() => Condition::Modified(kv.modified),
                None => return Ok(Found::Theirs),
            },
        };
        if there.is_none() || self.left.is_none() {
            self.shared.lost(LostReason::KeyDeleted);
        }
        if self.unsure {
            // An older value must not be written after the one that is put now.
            if let Some(lease) = &mut self.lease
                && !lease.end().await?
            {
                // The caller's lease stays. If the older value appears, the watch reports it, and
                // the next attempt overwrites it.
                if let KeyLease::Shared(_) = lease {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        "an earlier write of the value may still be applied until the lease that it shares has ended",
                    ));
                }
            } else {
                self.lease = None;
            }
            self.unsure = false;
        }
        let lease = match self.lease.take() {
            Some(lease) => lease,
            None => self.target.share().await?,
        };
        // The lease is stored in `self` before the key is attached to it. So if this future is
        // dropped, the keeper still has the lease, whose end deletes the key.
        let lease = self.lease.insert(lease);
        let then = vec![self.target.put(&self.value, lease)];
        let txn = Txn { compares: vec![Compare::key(&key, condition)], then, otherwise: Vec::new() };
        // `unsure` stays set if this future is dropped while it waits.
        self.unsure = true;
        let committed = self.target.store().commit(txn).await.inspect_err(|error| self.unsure = error.may_have_applied())?;
        self.unsure = false;
        if !committed.succeeded {
            return Ok(Found::Changed);
        }
        self.there = Some((self.value.clone(), committed.revision));
        Ok(Found::Ours(committed.revision))
    }

    /// Writes the value if the key is ours. Otherwise returns what the key holds.
    ///
    /// Each write is conditional on the revision of the value that it replaces. So a delayed write
    /// never replaces a newer value.
    async fn look_or_write(&mut self) -> Result<Result<Found, Option<KeyValue>>> {
        let Self { target, value, there, lease: Some(lease), .. } = self else { return Ok(Err(None)) };
        let (key, store) = (&target.key, target.store());
        let ours = Compare::key(key, Condition::Lease(lease.id()));
        let look = || vec![Op::Get(Span::Key(key.clone()))];
        let found_in = |committed: Committed| {
            committed.results.into_iter().find_map(|result| match result {
                OpResult::Get(reply) => reply.kvs.into_iter().next(),
                OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
            })
        };
        // The answer to a refused write contains the current value, so the next write follows at
        // once.
        for _ in 0..4 {
            if let Some((before, modified)) = there.take_if(|(before, _)| before != value) {
                let unchanged = Compare::key(key, Condition::Modified(modified));
                // A store without transactions sends each condition in a separate request, so only
                // `unchanged` is used on such a store. This condition is sufficient, unless the
                // server was emptied.
                let compares = if store.capabilities().transactions { vec![ours.clone(), unchanged] } else { vec![unchanged] };
                let write = Txn { compares, then: vec![target.put(value, lease)], otherwise: look() };
                let refused = |error: &Error| *there = Some((before, modified)).filter(|_| !error.may_have_applied());
                let committed = store.commit(write).await.inspect_err(refused)?;
                if committed.succeeded {
                    *there = Some((value.clone(), committed.revision));
                    return Ok(Ok(Found::Ours(committed.revision)));
                }
                let revision = committed.revision;
                if let Some(kv) = found_in(committed).filter(|kv| kv.lease == Some(lease.id())) {
                    let is_wanted = kv.value == *value;
                    *there = Some((kv.value, kv.modified));
                    if is_wanted {
                        return Ok(Ok(Found::Ours(revision)));
                    }
                    continue;
                }
            }
            let committed = store.commit(Txn { compares: vec![ours.clone()], then: look(), otherwise: look() }).await?;
            let (revision, is_ours) = (committed.revision, committed.succeeded);
            *there = None;
            match found_in(committed) {
                Some(kv) if is_ours => {
                    let is_wanted = kv.value == *value;
                    *there = Some((kv.value, kv.modified));
                    if is_wanted {
                        return Ok(Ok(Found::Ours(revision)));
                    }
                }
                found => return Ok(Err(found)),
            }
        }
        Ok(Ok(Found::Changed))
    }

    fn conclude(&mut self, found: &Result<Found>) {
        self.due = None;
        match found {
            Ok(Found::Ours(revision)) => {
                (self.seen, self.former, self.unsure) = (*revision, None, false);
                self.forget_left();
                if let Some(lease) = &mut self.lease {
                    lease.stay();
                }
                let put_back = self.lease.as_ref().is_some_and(|lease| self.shared.found(lease.validity()));
                if put_back {
                    self.since = Instant::now();
                } else {
                    self.backoff.reset();
                }
            }
            // The watch reports when the other value is deleted.
            Ok(Found::Theirs) => {
                self.forget_left();
                // A late write of ours usually fails, since it was conditional on an absent key. If
                // it succeeds, the end of its lease deletes the key.
                match self.lease.take() {
                    // This value keeps its entry among those with the caller's lease. The ownership
                    // reports when it is the newest again.
                    Some(KeyLease::Borrowed(lease, ownership)) => {
                        if self.unsure {
                            ownership.doubt();
                        }
                        self.lease = Some(KeyLease::Borrowed(lease, ownership));
                    }
                    Some(lease) if !self.unsure => lease.leave(),
                    _ => {}
                }
                self.unsure = false;
                self.shared.taken(|| self.taken());
            }
            Ok(Found::Changed) => {
                // After a wait the known value is outdated.
                self.there = None;
                self.soon();
            }
            Err(error) => {
                let refused = matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unauthenticated);
                if refused && self.hints.blind {
                    // The server refuses both the watch and the read of the key.
                    self.shared.lost(LostReason::Unverified);
                }
                self.shared.failed(error);
                // The caller's lease has ended, and no other lease takes its place.
                if !self.target.is_over() {
                    self.soon();
                }
            }
        }
    }

    /// Gives up a retired lease. The value stays in the store until it is attached to another
    /// lease.
    fn move_on(&mut self) {
        self.left = self.lease.take();
        self.there = None;
        self.due = Some(Instant::now());
    }

    /// Leaves the retired lease, to which the key is no longer attached.
    fn forget_left(&mut self) {
        if let Some(left) = self.left.take() {
            left.leave();
        }
    }

    /// Records that the lease is lost, and the value with it.
    fn lose(&mut self, reason: LostReason) {
        self.former = self.lease.take().map(|lease| lease.id());
        self.there = None;
        self.miss(reason);
    }

    fn miss(&mut self, reason: LostReason) {
        if self.shared.lost(reason) && self.since.elapsed() >= self.target.lease_pool.retry().max_delay {
            // The value was in the store for long, so this loss is unrelated to the last one.
            self.backoff.reset();
        }
        self.soon();
    }

    /// Applies a step of the watch: schedules an attempt if the key may have changed. The attempt
    /// then reads what the key holds.
    fn hear(&mut self, step: &Step) {
        let modified = self.there.as_ref().map(|(_, modified)| *modified);
        match step {
            Step::Progress(_) => {}
            Step::Reset(snapshot) => match snapshot.kvs.first() {
                // Changes of another publisher's value do not matter.
                Some(_) if self.lease.is_none() => {}
                Some(kv) if Some(kv.modified) == modified => {}
                // After a reset the server may have been restored or replaced. Then its revisions
                // cannot be compared with earlier ones.
                _ => self.soon(),
            },
            Step::Batch(batch) => match batch.events.last() {
                Some(Event::Put { .. }) if modified.is_some_and(|modified| batch.revision > modified) => self.soon(),
                Some(Event::Delete { .. }) if batch.revision > self.seen => self.miss(LostReason::KeyDeleted),
                // The event may come from a server that was restored or replaced, so its revision
                // cannot be compared with `seen`.
                Some(Event::Delete { .. }) => self.soon(),
                Some(Event::Put { .. }) | None => {}
            },
        }
    }

    fn soon(&mut self) {
        let at = Instant::now() + self.backoff.next_delay();
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn taken(&self) -> Error {
        self.conflict("the key holds another publisher's value")
    }

    fn conflict(&self, message: &str) -> Error {
        Error::new(ErrorKind::Conflict, message).at(&self.target.key)
    }
}

/// Marks the value as lost when the task ends although the guard lives. The task panicked, or will
/// never have a runtime again.
struct Abandoned {
    shared: Arc<SharedStatus>,
    end: oneshot::Receiver<oneshot::Sender<Result<()>>>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if matches!(self.end.try_recv(), Err(TryRecvError::Empty)) {
            self.shared.lost(LostReason::NotKeptAlive);
        }
    }
}

/// Waits for the end of a lease, or forever if there is no lease.
async fn end_of(validity: Option<Validity>) -> LostReason {
    match validity {
        Some(validity) => validity.lost().await.reason(),
        None => pending().await,
    }
}

/// Waits until this channel has the value `wanted`. Waits forever if there is no channel or its
/// sender is gone.
async fn told(news: Option<watch::Receiver<bool>>, wanted: bool) {
    if let Some(mut news) = news
        && news.wait_for(|now| *now == wanted).await.is_ok()
    {
        return;
    }
    pending().await
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

/// A watch of the key that is restarted whenever it ends.
struct Hints {
    target: Target,
    follow: Follow,
    /// When to restart the watch after it ended.
    again: Option<Instant>,
    backoff: Backoff,
    /// True after the watch ended with an error, until the watch reports a change.
    refused: bool,
    /// True after the watch ended with an error, until the watch is restarted.
    blind: bool,
}

/// A reason to read the key.
enum Hint {
    Step(Step),
    /// The key cannot be watched.
    Refused,
}

impl Hints {
    fn new(target: Target) -> Self {
        let (follow, backoff) = (Self::follow(&target), target.lease_pool.retry().backoff());
        Self { target, follow, again: None, backoff, refused: false, blind: false }
    }

    fn follow(target: &Target) -> Follow {
        Follow::new(target.store().clone(), target.lease_pool.retry(), Span::Key(target.key.clone()), target.pattern, Start::Now)
    }

    /// Cancel-safe: dropping the future loses nothing.
    async fn next(&mut self) -> Hint {
        loop {
            if self.again.is_some() {
                until(self.again).await;
                self.again = None;
                self.follow = Self::follow(&self.target);
            }
            match self.follow.next().await {
                Some(Ok(step)) => {
                    self.blind = false;
                    // A successful restart alone does not show that the watch works.
                    if !matches!(step, Step::Reset(_)) {
                        self.refused = false;
                        self.backoff.reset();
                    }
                    return Hint::Step(step);
                }
                Some(Err(error)) => {
                    let first = !std::mem::replace(&mut self.refused, true);
                    telemetry::watch_refused(self.target.pattern, &error, first);
                    self.blind = true;
                    self.again = Some(Instant::now() + self.backoff.next_delay());
                    return Hint::Refused;
                }
                None => self.again = Some(Instant::now() + self.backoff.next_delay()),
            }
        }
    }
}
