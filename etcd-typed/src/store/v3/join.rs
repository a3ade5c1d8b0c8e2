//! Reads of single keys that go out together while the connection is busy.
//!
//! A request of a hundred reads costs the server, and us, a small part of a hundred requests. So while a few reads are in flight, further ones
//! wait for the first of those to end, or for a moment, and then go out as one transaction that only reads. It is as linearizable as each of
//! them would be: it is sent after all of them were called. Those that are of the same key are one read in it, and all that is left of it if
//! there is no other. A read that finds the connection idle goes out at once and as it is; one that does not first lets others run who may ask as well.
//!
//! The transaction is one attempt. What it does not answer each reader asks for himself, and so has his own error, in his own time.

mod loners;

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, Timeout, sleep_until, timeout, timeout_at};

use super::auth::Auth;
use super::call::{Core, How, NAME};
use super::channel::{Joining, Lane, Slot};
use super::status::{Failure, Repeat, Row};
use super::wire::{self, RANGE, RangeRequest, RangeResponse, RequestOp, STATUS, StatusRequest, TXN, TxnRequest, TxnResponse};
use crate::telemetry;
use loners::Loners;

/// Requests of joinable reads that are in flight before further reads wait. With more of them the transactions become small, and gain nothing.
const IN_FLIGHT: usize = 2;

/// How long a read waits at most for one of those to end. A server that is far away answers many requests as soon as one, and one that hangs shall
/// not hold up who asks later.
const LONGEST_WAIT: Duration = Duration::from_millis(1);

/// The longest value that is joined the next time. Of a longer one the bytes are the cost and not the request, and it would keep its neighbours
/// waiting.
const LONGEST_VALUE: usize = 16 * 1024;

/// How long a server may take to say its version.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// All reads of a client.
pub(super) struct Reads {
    core: Arc<Core>,
    /// Reads that one transaction may have.
    most: usize,
    /// One for each request that may be in flight before others wait.
    places: Arc<Semaphore>,
    /// As long as it is not empty, a task is on its way to send what is in it.
    waiting: Mutex<Waiting>,
    loners: Loners,
}

/// Who waits, by what he wants.
#[derive(Default)]
struct Waiting {
    groups: Vec<Group>,
    /// Where each is among them. In what may be joined, requests differ in their keys, and in whether values are wanted.
    places: HashMap<(Bytes, bool), usize>,
}

/// Those who want the same. A reader who gives up drops the other end.
struct Group {
    request: RangeRequest,
    outcomes: Vec<oneshot::Sender<Outcome>>,
}

/// To send those who wait. If its task ends before it has, they are told by being dropped.
struct Errand {
    reads: Arc<Reads>,
    done: bool,
}

/// What becomes of one who waited.
enum Outcome {
    /// As all who wanted the same are answered.
    Answered(Arc<RangeResponse>),
    /// He is to ask for himself, in the place that was had for it.
    Apart(Apart, Option<OwnedSemaphorePermit>),
}

/// Why a read is not joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Apart {
    /// There was no need, or no way to.
    FromTheStart,
    /// One of its keys is too long, or not for this user, or the whole was too much: the transaction would fail again.
    Refused,
    /// The endpoint or the connection failed it.
    Broken,
}

impl Reads {
    pub(super) fn new(core: Arc<Core>, most: usize) -> Self {
        Self { core, most, places: Arc::new(Semaphore::new(IN_FLIGHT)), waiting: Mutex::default(), loners: Loners::default() }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// What a `Range` answers to this request.
    pub(super) fn range(
        self: Arc<Self>,
        how: How,
        request: RangeRequest,
    ) -> impl Future<Output = Result<RangeResponse, Failure>> + Send + use<> {
        let deadline = self.core.retry.deadline();
        // Not an async function, which would keep room for the request twice.
        async move {
            let mut apart = Apart::FromTheStart;
            let mut loner = false;
            let (mut free, mut inherited) = (None, None);
            if is_joinable(&request) {
                free = self.places.try_acquire().ok();
                if free.is_some() && self.places.available_permits() + 1 < IN_FLIGHT {
                    // Others are in flight, and those who were answered together ask again together.
                    yield_now().await;
                }
                let together = free.is_none() || self.is_awaited();
                loner = together && self.loners.contain(&request.key);
                if together && !loner && self.may_join() {
                    let began = Instant::now();
                    match self.join(&request, free.take(), deadline).await {
                        Ok(Ok(Outcome::Answered(answer))) => return Ok(Arc::unwrap_or_clone(answer)),
                        Ok(Ok(Outcome::Apart(why, place))) => (apart, inherited) = (why, place),
                        // The task ended with its runtime, which is not ours.
                        Ok(Err(_)) => {}
                        Err(_) => return Err(self.core.out_of_time(began, "no answer to a request that was sent for several reads")),
                    }
                }
            }
            if apart == Apart::Broken {
                sleep_until(deadline.min(Instant::now() + self.core.retry.backoff().next_delay())).await;
            }
            let suspect = (loner || apart == Apart::Refused).then(|| request.key.clone());
            // Boxed, since thousands may wait to be joined, and need no room for a call of their own.
            let outcome = Box::pin(self.core.call_until(&RANGE, how, request, deadline)).await;
            drop((free, inherited));
            match (&outcome, &suspect) {
                (Ok(answer), _) => self.learn(suspect.as_deref(), answer),
                // Every transaction with this key would fail.
                (Err(failure), Some(key)) if failure.verdict().repeat == Repeat::Never => self.loners.add(key),
                (Err(_), _) => {}
            }
            outcome
        }
    }

    /// Whether the server that is asked now may take joined reads. If that is not known, it is found out.
    fn may_join(&self) -> bool {
        match self.core.endpoints.pick().joining() {
            Joining::Allowed => self.most > 1,
            // By the time they are sent it may be known.
            Joining::Unknown => {
                self.ask_version();
                self.most > 1
            }
            Joining::Asked => self.most > 1,
            Joining::Refused => false,
        }
    }

    /// A transaction that only reads is about to be sent: if it is not known whether the server bears it as it is, that is found out for the next one.
    pub(super) fn expect_read_txn(&self) {
        if self.core.endpoints.pick().joining() == Joining::Unknown {
            self.ask_version();
        }
    }

    fn ask_version(&self) {
        tokio::spawn(ask_version(Arc::clone(&self.core)));
    }

    /// Waits with others until they are sent together, and for what comes of it.
    ///
    /// The place of whoever has one is theirs.
    fn join(
        self: &Arc<Self>,
        request: &RangeRequest,
        place: Option<SemaphorePermit<'_>>,
        deadline: Instant,
    ) -> Timeout<oneshot::Receiver<Outcome>> {
        let (outcome, told) = oneshot::channel();
        if self.waiting().add(request, outcome) {
            self.send_soon();
        }
        drop(place);
        timeout_at(deadline, told)
    }

    /// Sends those who wait as soon as there is a place, or a moment has passed. In a task of its own, which none of them ends by giving up.
    fn send_soon(self: &Arc<Self>) {
        let errand = Errand { reads: Arc::clone(self), done: false };
        tokio::spawn(async move {
            let reads = Arc::clone(&errand.reads);
            let place = timeout(LONGEST_WAIT, Arc::clone(&reads.places).acquire_owned()).await.ok().and_then(Result::ok);
            // The end of another request may have made the place free, and whoever was answered by it is about to ask again.
            yield_now().await;
            reads.send(errand.groups(), place).await;
        });
    }

    async fn send(&self, mut groups: Vec<Group>, place: Option<OwnedSemaphorePermit>) {
        groups.retain_mut(|group| {
            group.outcomes.retain(|outcome| !outcome.is_closed());
            !group.outcomes.is_empty()
        });
        if groups.iter().map(|group| group.outcomes.len()).sum::<usize>() <= 1 {
            if let Some(only) = groups.pop().and_then(|mut group| group.outcomes.pop()) {
                tell(only, Outcome::Apart(Apart::FromTheStart, place));
            }
            return;
        }
        let (requests, outcomes): (Vec<_>, Vec<_>) = groups.into_iter().map(|group| (group.request, group.outcomes)).unzip();
        match self.together(requests).await {
            Ok(answers) => {
                for (outcomes, answer) in outcomes.into_iter().zip(answers) {
                    self.learn(None, &answer);
                    let answer = Arc::new(answer);
                    outcomes.into_iter().for_each(|outcome| tell(outcome, Outcome::Answered(Arc::clone(&answer))));
                }
            }
            Err(why) => outcomes.into_iter().flatten().for_each(|outcome| tell(outcome, Outcome::Apart(why, None))),
        }
        drop(place);
    }

    /// The answers to these requests, by one attempt: a transaction, or the only one as it is where the server is not known to bear that.
    async fn together(&self, requests: Vec<RangeRequest>) -> Result<Vec<RangeResponse>, Apart> {
        let deadline = self.core.retry.deadline();
        let Ok(session) = Auth::session(&self.core, deadline).await else {
            return Err(Apart::FromTheStart);
        };
        let slot = self.core.endpoints.pick();
        // A connection that has to be made anew may lead to a server of another version.
        let connection = timeout_at(deadline, self.core.endpoints.connection(slot, Lane::Calls)).await;
        let count = requests.len();
        let bears_transactions = slot.joining() == Joining::Allowed;
        if !matches!(connection, Ok(Ok(_))) || (count > 1 && !bears_transactions) {
            return Err(Apart::FromTheStart);
        }
        let token = session.token.as_ref();
        let (name, answers) = if let [request] = requests.as_slice()
            && !bears_transactions
        {
            let answer = self.core.attempt(slot, &RANGE, How::READ, token, request, deadline).await;
            (RANGE.name(), answer.map(|answer| Some(vec![answer])))
        } else {
            let success = requests.into_iter().map(|request| RequestOp { request: Some(wire::Request::Range(request)) }).collect();
            let request = TxnRequest { success, ..TxnRequest::default() };
            let answer = self.core.attempt(slot, &TXN, How::READ, token, &request, deadline).await;
            (TXN.name(), answer.map(|answer| ranges(answer, count)))
        };
        let failure = match answers {
            Ok(answers) => return answers.ok_or(Apart::Refused),
            Err(failure) => failure,
        };
        let verdict = failure.verdict();
        slot.judge(verdict);
        self.core.endpoints.meet(&failure);
        if matches!(failure.row, Row::TooManyOperations | Row::UnknownCall) {
            slot.set_joining(Joining::Refused);
        }
        telemetry::repeated(NAME, name, verdict.kind, failure.words());
        Err(if matches!(verdict.repeat, Repeat::Never | Repeat::AfterLogin) { Apart::Refused } else { Apart::Broken })
    }

    /// Keeps in mind that a key is better read alone, or that it is not any more. `suspect` is one that was thought of as such.
    fn learn(&self, suspect: Option<&[u8]>, answer: &RangeResponse) {
        match answer.kvs.as_slice() {
            [kv] if kv.value.len() > LONGEST_VALUE => self.loners.add(&kv.key),
            _ => suspect.into_iter().for_each(|key| self.loners.remove(key)),
        }
    }

    /// Whether somebody waits to be joined.
    fn is_awaited(&self) -> bool {
        !self.waiting().groups.is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// True when nobody waited before.
    fn add(&mut self, request: &RangeRequest, outcome: oneshot::Sender<Outcome>) -> bool {
        let alone = self.groups.is_empty();
        let next = self.groups.len();
        let place = *self.places.entry((request.key.clone(), request.keys_only)).or_insert(next);
        match self.groups.get_mut(place) {
            Some(group) => group.outcomes.push(outcome),
            None => self.groups.push(Group { request: request.clone(), outcomes: vec![outcome] }),
        }
        alone
    }

    /// Those who came first, and who want no more than so many things.
    fn take(&mut self, most: usize) -> Vec<Group> {
        let rest = self.groups.split_off(self.groups.len().min(most));
        self.places = rest.iter().enumerate().map(|(place, group)| ((group.request.key.clone(), group.request.keys_only), place)).collect();
        mem::replace(&mut self.groups, rest)
    }
}

impl Errand {
    /// Those who wait, as many as a transaction may have; who is left is sent by somebody else.
    fn groups(mut self) -> Vec<Group> {
        let (groups, left) = {
            let mut waiting = self.reads.waiting();
            let groups = waiting.take(self.reads.most);
            (groups, !waiting.groups.is_empty())
        };
        self.done = true;
        if left {
            self.reads.send_soon();
        }
        groups
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if !self.done {
            let waiting = mem::take(&mut *self.reads.waiting());
            // Not under the lock: this wakes them.
            drop(waiting);
        }
    }
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads").field("waiting", &self.waiting().groups.len()).finish_non_exhaustive()
    }
}

fn tell(reader: oneshot::Sender<Outcome>, outcome: Outcome) {
    // One who gave up meanwhile wants to know nothing.
    let _ = reader.send(outcome);
}

/// Whether it is a read of one key as it is now that sees every acknowledged write. Only those can share a transaction: a member answers what may be stale
/// without asking the others, and a past revision may be gone.
fn is_joinable(request: &RangeRequest) -> bool {
    let RangeRequest {
        key: _,
        keys_only: _,
        range_end,
        limit,
        revision,
        sort_order,
        sort_target,
        serializable,
        count_only,
        min_mod_revision,
        max_create_revision,
    } = request;
    let plain = range_end.is_empty() && !serializable && !count_only;
    plain && [*limit, *revision, *min_mod_revision, *max_create_revision, (*sort_order).into(), (*sort_target).into()] == [0; 6]
}

/// What a transaction of so many reads answers to each.
fn ranges(answer: TxnResponse, count: usize) -> Option<Vec<RangeResponse>> {
    let header = answer.header;
    let range = |response: wire::ResponseOp| match response.response {
        // Nothing was written, so all are as of the revision of the whole.
        Some(wire::Response::Range(range)) => Some(RangeResponse { header: header.clone(), ..range }),
        _ => None,
    };
    if answer.responses.len() != count {
        return None;
    }
    answer.responses.into_iter().map(range).collect()
}

/// That it is being found out. Dropped with the task, which its runtime may end before its time.
struct Asking<'s>(&'s Slot);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.move_joining(Joining::Asked, Joining::Unknown);
    }
}

/// Finds out whether reads may be joined at the endpoint in use.
async fn ask_version(core: Arc<Core>) {
    let slot = core.endpoints.pick();
    if !slot.move_joining(Joining::Unknown, Joining::Asked) {
        return;
    }
    let _asking = Asking(slot);
    let deadline = Instant::now() + STATUS_LIMIT;
    let Ok(session) = Auth::session(&core, deadline).await else { return };
    let known = match core.attempt(slot, &STATUS, How::STALE, session.token.as_ref(), &StatusRequest {}, deadline).await {
        Ok(answer) if bears_joined_reads(&answer.version) => Joining::Allowed,
        Ok(_) => Joining::Refused,
        // Only servers that bear it are later than that: since 3.4.42, 3.5.28 and 3.6.9 it is not for every user.
        Err(Failure { row: Row::PermissionDenied | Row::TokenRefused, .. }) => Joining::Allowed,
        Err(failure) if matches!(failure.verdict().repeat, Repeat::Never | Repeat::Elsewhere) => Joining::Refused,
        Err(_) => Joining::Unknown,
    };
    // What was found out of a connection that is gone does not count.
    slot.move_joining(Joining::Asked, known);
}

/// Whether a server of this version bears that a transaction that only reads is cut off in the middle. From 3.5.0 to 3.5.4 it panics then (etcd
/// issue 14110), and 3.5.5 and 3.5.6 do a moment later (issue 14891). 3.4 does not look at who still waits while it reads.
fn bears_joined_reads(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(3)), Some(Ok(4)), Some(Ok(_))) => true,
        (Some(Ok(3)), Some(Ok(5)), Some(Ok(patch))) => patch >= 7,
        (Some(Ok(3)), Some(Ok(minor)), Some(Ok(_))) => minor >= 6,
        (Some(Ok(major)), ..) => major > 3,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
