//! Coalesces reads of single keys, and questions about small directories, into one request while
//! the connection is busy.
//!
//! One request with a hundred reads costs the server and the client a small part of a hundred
//! requests. So while a few reads are in flight, further reads wait until one of those ends, but
//! only for a moment. The waiting reads are then sent together as one read-only transaction. The
//! transaction is as linearizable as each read alone, because it is sent after all of its reads
//! were called. Reads of the same key become one read in the transaction; if no other key waits,
//! the request is that single read. A read that finds the connection idle is sent at once,
//! unchanged. While other reads are in flight, a task yields before it sends, so that other tasks
//! can add their reads.
//!
//! A question about a directory is a read that returns at most one key, without its value. It asks
//! which key was modified since a revision, and how many keys exist. The server may read the whole
//! directory to answer, so questions about large directories are sent alone.
//!
//! The transaction is sent once. If it fails, each reader sends its own request, and so gets its
//! own error within its own time limit.

mod solo_keys;

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, Timeout, sleep_until, timeout, timeout_at};

use super::NAME;
use super::attempt::Core;
use super::channel::{Coalescing, Lane, Slot};
use super::how::How;
use super::session::Auth;
use super::status::{Failure, Repeat, Row};
use super::wire::{self, RANGE, RangeRequest, RangeResponse, RequestOp, STATUS, StatusRequest, TXN, TxnRequest, TxnResponse};
use crate::telemetry;
use solo_keys::SoloKeys;

/// How many coalescible requests are in flight before further reads wait. With more in flight, the
/// transactions become too small to help.
const IN_FLIGHT: usize = 2;

/// The longest time that a read waits for one of these requests to end. A distant server answers
/// many requests as fast as one, and a hanging server must not delay later reads.
const LONGEST_WAIT: Duration = Duration::from_millis(1);

/// If a read returns a longer value than this, the next read of the key is sent alone. Such a value
/// costs more than a separate request, and would delay the other reads in the transaction.
const LONGEST_VALUE: usize = 16 * 1024;

/// If a read counts more keys in a directory than this, the next read of the directory is sent
/// alone. etcd reads a directory of this size in a millisecond.
const MOST_COUNTED: i64 = 1000;

/// The time limit for asking a server for its version.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// All reads of a client.
pub(super) struct CoalescedReads {
    core: Arc<Core>,
    /// The maximum number of reads in one transaction.
    most: usize,
    /// One permit for each request that may be in flight before further reads wait.
    places: Arc<Semaphore>,
    /// The waiting reads. While there are any, a task exists that will send them.
    waiting: Mutex<Waiting>,
    solo_keys: SoloKeys,
}

/// The waiting reads, grouped by request.
#[derive(Default)]
struct Waiting {
    groups: Vec<Group>,
    /// The position of each request in `groups`.
    places: HashMap<Wanted, usize>,
}

/// Everything in which coalescible requests differ: the keys, whether only keys are wanted, the
/// limit, and the revision since which keys were modified.
#[derive(PartialEq, Eq)]
struct Wanted {
    key: Bytes,
    range_end: Bytes,
    keys_only: bool,
    limit: i64,
    modified_since: i64,
}

impl Wanted {
    fn of(request: &RangeRequest) -> Self {
        let (key, range_end) = (request.key.clone(), request.range_end.clone());
        Self { key, range_end, keys_only: request.keys_only, limit: request.limit, modified_since: request.min_mod_revision }
    }
}

impl Hash for Wanted {
    /// Hashes only the key, because this must be fast when thousands of watches begin together, and
    /// requests with the same key seldom differ in anything else.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

/// The readers of one request. A reader that gives up drops its receiver.
struct Group {
    request: RangeRequest,
    outcomes: Vec<oneshot::Sender<Outcome>>,
}

/// The duty to send the waiting reads. If the task ends before it has sent them, dropping this
/// value drops the senders of their outcomes, which wakes the readers.
struct PendingSend {
    reads: Arc<CoalescedReads>,
    done: bool,
}

/// The outcome for one waiting reader.
enum Outcome {
    /// The answer, shared by all readers of the same request.
    Answered(Arc<RangeResponse>),
    /// The reader must send its own request. The reader inherits the permit of the shared request,
    /// if there was one.
    Alone(Alone, Option<OwnedSemaphorePermit>),
}

/// Why a read is not coalesced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alone {
    /// Coalescing was not needed or not possible.
    FromTheStart,
    /// The transaction would fail again: a key is too long or not permitted for this user, or the
    /// whole request was too large.
    Refused,
    /// The endpoint or the connection failed.
    Broken,
}

impl CoalescedReads {
    pub(super) fn new(core: Arc<Core>, most: usize) -> Self {
        Self { core, most, places: Arc::new(Semaphore::new(IN_FLIGHT)), waiting: Mutex::default(), solo_keys: SoloKeys::default() }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Performs a read, possibly coalesced with others.
    pub(super) fn range(
        self: Arc<Self>,
        how: How,
        request: RangeRequest,
    ) -> impl Future<Output = Result<RangeResponse, Failure>> + Send + use<> {
        let deadline = self.core.retry.deadline();
        // An async function would reserve space for the request twice.
        async move {
            let mut alone = Alone::FromTheStart;
            let mut solo = false;
            let (mut free, mut inherited) = (None, None);
            if is_coalescible(&request) {
                free = self.places.try_acquire().ok();
                if free.is_some() && self.places.available_permits() + 1 < IN_FLIGHT {
                    // Other requests are in flight. Readers that were answered together usually
                    // read again together, so let them run first.
                    yield_now().await;
                }
                let together = free.is_none() || self.is_awaited();
                solo = together && self.solo_keys.contain(&request.key);
                if together && !solo && self.may_coalesce() {
                    let began = Instant::now();
                    match self.coalesce(&request, free.take(), deadline).await {
                        Ok(Ok(Outcome::Answered(answer))) => return Ok(Arc::unwrap_or_clone(answer)),
                        Ok(Ok(Outcome::Alone(why, place))) => (alone, inherited) = (why, place),
                        // The sending task ended with its runtime, which is not this call's
                        // runtime.
                        Ok(Err(_)) => {}
                        Err(_) => return Err(self.core.out_of_time(began, "no answer to a request that was joined from several reads")),
                    }
                }
            }
            if alone == Alone::Broken {
                sleep_until(deadline.min(Instant::now() + self.core.retry.backoff().next_delay())).await;
            }
            let suspect = solo || alone == Alone::Refused;
            let key = (suspect || is_question(&request)).then(|| request.key.clone());
            // Boxed to keep this future small: thousands of reads may wait to be coalesced and
            // never send a separate request.
            let outcome = Box::pin(self.core.call_until(&RANGE, how, request, deadline)).await;
            drop((free, inherited));
            match (&outcome, &key) {
                (Ok(answer), _) => self.learn(key.as_deref(), suspect, answer),
                // Every transaction with this key would fail.
                (Err(failure), Some(key)) if suspect && failure.verdict().repeat == Repeat::Never => self.solo_keys.add(key),
                (Err(_), _) => {}
            }
            outcome
        }
    }

    /// Returns whether the current server may get coalesced reads. If that is unknown, asks the
    /// server for its version.
    fn may_coalesce(&self) -> bool {
        match self.core.endpoints.pick().coalescing() {
            Coalescing::Allowed => self.most > 1,
            // The reads are only collected now. The version may arrive before the reads are sent.
            Coalescing::Unknown => {
                self.ask_version();
                self.most > 1
            }
            Coalescing::Asked => self.most > 1,
            Coalescing::Refused => false,
        }
    }

    /// Asks the server for its version, unless the client knows already whether the server can take
    /// a read-only transaction unchanged. Called before such a transaction is sent; later
    /// transactions use the answer.
    pub(super) fn expect_read_txn(&self) {
        if self.core.endpoints.pick().coalescing() == Coalescing::Unknown {
            self.ask_version();
        }
    }

    fn ask_version(&self) {
        tokio::spawn(ask_version(Arc::clone(&self.core)));
    }

    /// Adds a read to the waiting ones and waits for the outcome.
    ///
    /// Releases the permit of this read, if it has one, for the sending task.
    fn coalesce(
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

    /// Sends the waiting reads as soon as a permit is free, or after a moment. A separate task does
    /// this, because a reader may give up.
    fn send_soon(self: &Arc<Self>) {
        let pending = PendingSend { reads: Arc::clone(self), done: false };
        tokio::spawn(async move {
            let reads = Arc::clone(&pending.reads);
            let place = timeout(LONGEST_WAIT, Arc::clone(&reads.places).acquire_owned()).await.ok().and_then(Result::ok);
            // The permit may come from a request that just ended. The readers that got its answer
            // are about to read again, so let them run first.
            yield_now().await;
            reads.send(pending.groups(), place).await;
        });
    }

    async fn send(&self, mut groups: Vec<Group>, place: Option<OwnedSemaphorePermit>) {
        groups.retain_mut(|group| {
            group.outcomes.retain(|outcome| !outcome.is_closed());
            !group.outcomes.is_empty()
        });
        if groups.iter().map(|group| group.outcomes.len()).sum::<usize>() <= 1 {
            if let Some(only) = groups.pop().and_then(|mut group| group.outcomes.pop()) {
                tell(only, Outcome::Alone(Alone::FromTheStart, place));
            }
            return;
        }
        let (requests, outcomes): (Vec<_>, Vec<_>) = groups.into_iter().map(|group| (group.request, group.outcomes)).unzip();
        let questions: Vec<_> = requests.iter().map(|request| is_question(request).then(|| request.key.clone())).collect();
        match self.together(requests).await {
            Ok(answers) => {
                for ((outcomes, mut answer), question) in outcomes.into_iter().zip(answers).zip(questions) {
                    self.learn(question.as_deref(), false, &answer);
                    if outcomes.len() > 1 {
                        compact(&mut answer);
                    }
                    let answer = Arc::new(answer);
                    outcomes.into_iter().for_each(|outcome| tell(outcome, Outcome::Answered(Arc::clone(&answer))));
                }
            }
            Err(why) => outcomes.into_iter().flatten().for_each(|outcome| tell(outcome, Outcome::Alone(why, None))),
        }
        drop(place);
    }

    /// Makes one attempt to answer these requests, as one transaction. A single request is sent
    /// unchanged if the server is not known to support read-only transactions.
    async fn together(&self, requests: Vec<RangeRequest>) -> Result<Vec<RangeResponse>, Alone> {
        let deadline = self.core.retry.deadline();
        let Ok(session) = Auth::session(&self.core, deadline).await else {
            return Err(Alone::FromTheStart);
        };
        let slot = self.core.endpoints.pick();
        // A new connection may lead to a server of another version.
        let connection = timeout_at(deadline, self.core.endpoints.connection(slot, Lane::Calls)).await;
        let count = requests.len();
        let takes_transactions = slot.coalescing() == Coalescing::Allowed;
        if !matches!(connection, Ok(Ok(_))) || (count > 1 && !takes_transactions) {
            return Err(Alone::FromTheStart);
        }
        let token = session.token.as_ref();
        let (name, answers) = if let [request] = requests.as_slice()
            && !takes_transactions
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
            Ok(answers) => return answers.ok_or(Alone::Refused),
            Err(failure) => failure,
        };
        let verdict = failure.verdict();
        slot.judge(verdict);
        self.core.endpoints.meet(&failure);
        if matches!(failure.row, Row::TooManyOperations | Row::UnknownCall) {
            slot.set_coalescing(Coalescing::Refused);
        }
        telemetry::repeated(NAME, name, verdict.kind, failure.words());
        Err(if matches!(verdict.repeat, Repeat::Never | Repeat::AfterLogin) { Alone::Refused } else { Alone::Broken })
    }

    /// Records whether the next request that begins at `key` should be sent alone. `suspect` says
    /// that `key` was marked to be read alone, or was refused in a shared request. `key` may be
    /// `None` for a read of a single key that was not suspect.
    fn learn(&self, key: Option<&[u8]>, suspect: bool, answer: &RangeResponse) {
        match (answer.kvs.as_slice(), key) {
            ([kv], _) if kv.value.len() > LONGEST_VALUE => self.solo_keys.add(&kv.key),
            (_, Some(key)) if answer.count > MOST_COUNTED => self.solo_keys.add(key),
            (_, Some(key)) if suspect => self.solo_keys.remove(key),
            (_, _) => {}
        }
    }

    /// Returns whether a read waits to be coalesced.
    fn is_awaited(&self) -> bool {
        !self.waiting().groups.is_empty()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Adds a reader. Returns true if none was waiting before.
    fn add(&mut self, request: &RangeRequest, outcome: oneshot::Sender<Outcome>) -> bool {
        let alone = self.groups.is_empty();
        let next = self.groups.len();
        let place = *self.places.entry(Wanted::of(request)).or_insert(next);
        match self.groups.get_mut(place) {
            Some(group) => group.outcomes.push(outcome),
            None => self.groups.push(Group { request: request.clone(), outcomes: vec![outcome] }),
        }
        alone
    }

    /// Takes the oldest groups, at most `most` of them.
    fn take(&mut self, most: usize) -> Vec<Group> {
        let rest = self.groups.split_off(self.groups.len().min(most));
        self.places = rest.iter().enumerate().map(|(place, group)| (Wanted::of(&group.request), place)).collect();
        mem::replace(&mut self.groups, rest)
    }
}

impl PendingSend {
    /// Takes the waiting reads, as many as a transaction may have. Another task sends the rest.
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

impl Drop for PendingSend {
    fn drop(&mut self) {
        if !self.done {
            let waiting = mem::take(&mut *self.reads.waiting());
            // Dropped without holding the lock, because this wakes the readers.
            drop(waiting);
        }
    }
}

impl fmt::Debug for CoalescedReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoalescedReads").field("waiting", &self.waiting().groups.len()).finish_non_exhaustive()
    }
}

fn tell(reader: oneshot::Sender<Outcome>, outcome: Outcome) {
    // An error means that the reader gave up.
    let _ = reader.send(outcome);
}

/// Returns whether the request is a linearizable read of the current value of one key, or a question
/// about a directory. Only those can share a transaction: a stale read is answered by one member
/// alone, and a past revision may be compacted.
fn is_coalescible(request: &RangeRequest) -> bool {
    let RangeRequest {
        key: _,
        keys_only,
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
    let is_small =
        if *keys_only { range_end.is_empty() || *limit == 1 } else { range_end.is_empty() && (*limit, *min_mod_revision) == (0, 0) };
    let plain = is_small && !serializable && !count_only;
    plain && [*revision, *max_create_revision, (*sort_order).into(), (*sort_target).into()] == [0; 4]
}

/// Returns whether a request is a question about a directory that can be coalesced, and not a read
/// of one key.
fn is_question(request: &RangeRequest) -> bool {
    !request.range_end.is_empty() && is_coalescible(request)
}

/// Copies the values of an answer that several readers share out of the received message. Otherwise
/// each reader that keeps a value, as a watch does, would copy it.
fn compact(answer: &mut RangeResponse) {
    for kv in &mut answer.kvs {
        kv.value = Bytes::copy_from_slice(&kv.value);
    }
    answer.compact = true;
}

/// Splits the answer to a transaction of `count` reads into one answer for each read.
fn ranges(answer: TxnResponse, count: usize) -> Option<Vec<RangeResponse>> {
    let header = answer.header;
    let range = |response: wire::ResponseOp| match response.response {
        // The transaction wrote nothing, so its revision applies to all reads.
        Some(wire::Response::Range(range)) => Some(RangeResponse { header: header.clone(), ..range }),
        _ => None,
    };
    if answer.responses.len() != count {
        return None;
    }
    answer.responses.into_iter().map(range).collect()
}

/// Marks an endpoint while the client asks for its version. Dropping this value resets the mark,
/// even if the task ends early with its runtime.
struct Asking<'s>(&'s Slot);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.move_coalescing(Coalescing::Asked, Coalescing::Unknown);
    }
}

/// Finds out whether reads may be coalesced at the current endpoint.
async fn ask_version(core: Arc<Core>) {
    let slot = core.endpoints.pick();
    if !slot.move_coalescing(Coalescing::Unknown, Coalescing::Asked) {
        return;
    }
    let _asking = Asking(slot);
    let deadline = Instant::now() + STATUS_LIMIT;
    let Ok(session) = Auth::session(&core, deadline).await else { return };
    let known = match core.attempt(slot, &STATUS, How::STALE, session.token.as_ref(), &StatusRequest {}, deadline).await {
        Ok(answer) if survives_cancelled_reads(&answer.version) => Coalescing::Allowed,
        Ok(_) => Coalescing::Refused,
        // Since 3.4.42, 3.5.28 and 3.6.9, `Status` needs a permission. All those versions are safe.
        Err(Failure { row: Row::PermissionDenied | Row::TokenRefused, .. }) => Coalescing::Allowed,
        Err(failure) if matches!(failure.verdict().repeat, Repeat::Never | Repeat::Elsewhere) => Coalescing::Refused,
        Err(_) => Coalescing::Unknown,
    };
    // Has no effect if the connection was replaced meanwhile, which reset the state.
    slot.move_coalescing(Coalescing::Asked, known);
}

/// Returns whether a server of this version survives the cancellation of a read-only transaction.
/// 3.5.0 to 3.5.4 panic (etcd issue 14110), and so do 3.5.5 and 3.5.6 at a slightly later moment
/// (issue 14891). 3.4 does not check for cancellation while it reads.
fn survives_cancelled_reads(version: &str) -> bool {
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
