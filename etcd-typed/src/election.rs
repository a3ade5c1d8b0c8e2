//! `Election<T>`: one at a time who leads, with a value that all see. The queue is `turn.rs`; who leads as a stream is [`observe`].

mod observe;

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

pub use self::observe::LeaderChanges;
use crate::error::{Error, ErrorKind, Problem, ProblemKind, Result};
use crate::key::{Key, KeyError};
use crate::revision::{LeaseId, Revision};
use crate::telemetry;
use crate::turn::{Contender, Guard, Token, Turn};
use crate::value::{Codec, EtcdValue};

/// What an election is called in metrics and events.
pub(crate) const KIND: &str = "election";

/// The election of one name, from [`Client::election`](crate::Client::election): to stand in, or to look at from outside. Cheap to clone.
///
/// Who stands first leads, the others follow in the order in which they came; whoever is next is woken by an event when the one before is gone. Each has
/// a value, the proposal: an address, a name, for a serde type [`Json<T>`](crate::Json). It is stored as it is.
///
/// An election is not re-entrant: each campaign is a candidate of its own. A second
/// [`campaign`](Self::campaign) in the same process, with the same client and the same value, waits
/// until the first leadership ends; a task that holds the first one waits for itself.
/// [`try_campaign`](Self::try_campaign) returns none in this case, and
/// [`campaign_within`](Self::campaign_within) ends with `Timeout`.
///
/// # Who shares the queue
///
/// On etcd v3 every client that keeps the layout of Go's package `concurrency`, with the same name: `Election` of that package, `etcdctl elect` (its
/// `--listen` shows the values), the election service of the server (`v3election`), and the elections of Node's `etcd3`, whose `election('x')` is
/// `election/x` here. All of them follow each other in the order in which they came.
///
/// Keys below the name that have no lease are not in the queue here. Go's and Node's clients wait for them too; [`strays`](Self::strays) lists them, and an
/// event says that there are some ([`telemetry`]).
///
/// # Errors
///
/// Every method may answer `InvalidKey` for an empty name, and on etcd v2 for one that is no path; and what the calls of a store may: `Unavailable`, `Timeout`,
/// `Unauthenticated`, `PermissionDenied`, `NoSpace`, `Server`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// # let client = etcd_typed::Client::connect("memory:").await?;
/// let election = client.election::<String>("/scheduler");
/// let leader = election.campaign(&"10.0.0.7:80".to_owned()).await?;
/// assert_eq!(election.leader().await?.map(|leader| leader.value).as_deref(), Some("10.0.0.7:80"));
///
/// leader.proclaim(&"10.0.0.7:8080".to_owned()).await?;
/// let work = async { 42 };
/// assert_eq!(leader.while_held(work).await?, 42); // dropped where it waits when the leadership is lost
/// leader.resign().await?; // or drop it
/// # Ok(()) }
/// ```
#[must_use = "nobody stands in an election until they campaign"]
pub struct Election<T> {
    turn: Result<Turn, KeyError>,
    values: PhantomData<fn() -> T>,
}

impl<T> Clone for Election<T> {
    fn clone(&self) -> Self {
        Self { turn: self.turn.clone(), values: PhantomData }
    }
}

impl<T> fmt::Debug for Election<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election").field("turn", &self.turn).finish_non_exhaustive()
    }
}

impl<T: EtcdValue + Send + Sync + 'static> Election<T> {
    pub(crate) fn new(turn: Result<Turn, KeyError>) -> Self {
        Self { turn, values: PhantomData }
    }

    /// How long the leadership outlives a leader who vanished. Default: 15 s. At least the server's shortest lease (2 s with default flags); fractions of a
    /// second are rounded up. It is kept alive three times within that time.
    ///
    /// A short one lets the next lead soon after a crash, and is lost by a short outage: a leader of etcd that dies costs about 1 to 3 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        if let Ok(turn) = &mut self.turn {
            turn.ttl = ttl;
        }
        self
    }

    /// Stands with this value, and waits until we lead.
    ///
    /// Waiting goes on through outages. Whoever loses the place meanwhile (an outage longer than the time to live, a deleted key) begins anew at the end of
    /// the queue. That the key is still there and is the first is asked in one request before this answers: a candidate whose lease ran out never
    /// wins. One request where nobody leads and the client has a lease to spare (two on v2, where there are no transactions).
    ///
    /// # Errors
    ///
    /// As said for [all methods](Self); `Encode` for a value that has no stored form, `TooLarge`; `Unsupported` outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping it at any point gives the place up: its lease is revoked in the background, and the key goes with it.
    pub async fn campaign(&self, value: &T) -> Result<Leader<T>> {
        let (turn, value) = self.proposal(value)?;
        turn.take(value).await.map(Leader::of)
    }

    /// Leads if nobody does and nobody waits to; none if somebody does.
    ///
    /// # Errors
    ///
    /// As [`campaign`](Self::campaign).
    ///
    /// # Cancel safety
    ///
    /// As [`campaign`](Self::campaign).
    pub async fn try_campaign(&self, value: &T) -> Result<Option<Leader<T>>> {
        let (turn, value) = self.proposal(value)?;
        Ok(turn.try_take(value).await?.map(Leader::of))
    }

    /// Stands with this value and waits until we lead, but not for longer than this.
    ///
    /// # Errors
    ///
    /// As [`campaign`](Self::campaign), and `Timeout` when we did not lead in time; the place is given up then.
    ///
    /// # Cancel safety
    ///
    /// As [`campaign`](Self::campaign).
    pub async fn campaign_within(&self, value: &T, time: Duration) -> Result<Leader<T>> {
        let (turn, value) = self.proposal(value)?;
        turn.take_within(value, time).await.map(Leader::of)
    }

    /// Runs `run` whenever we lead, until it returns by itself; then resigns, and answers what it returned. It is for a program that leads or waits to for
    /// as long as it runs.
    ///
    /// When the leadership is lost the future of `run` is dropped where it waits, and we stand again with this value, at the end of the queue and
    /// after a wait by the [`RetryPolicy`](crate::RetryPolicy) that grows while it is lost again at once. Standing that fails because no server can be
    /// reached is repeated as well, for ever; [`telemetry`] tells of it.
    ///
    /// `run` gets the leadership, for [`fence`](Guard::fence), [`proclaim`](Leader::proclaim) and writes that are
    /// [guarded by it](crate::EntryWrite::guarded_by). To keep it beyond the future's end is of no use: it is given up with it. A return when the leadership is lost
    /// already is no end, but a loss like any other: the work may end with the `GuardLost` of a write that was refused, and is begun again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// let election = client.election::<String>("/scheduler");
    /// let scheduled = tokio::spawn(async move {
    ///     let me = "10.0.0.7:80".to_owned();
    ///     election.lead(&me, |leader| async move { format!("everything, as number {}", leader.fence()) }).await
    /// });
    /// # let scheduled = scheduled.await.expect("it does not panic");
    /// println!("{}", scheduled?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`campaign`](Self::campaign), but for `Unavailable`, `Timeout` and `Server`, which pass. What `run` returns is its own: let it return a
    /// `Result`, and a failure of the work ends the leadership. That resigning fails is no error: the leadership then ends in the background, or with its time to live.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the future of `run`, and resigns in the background.
    pub async fn lead<R, F, Fut>(&self, value: &T, mut run: F) -> Result<R>
    where
        F: FnMut(Arc<Leader<T>>) -> Fut,
        Fut: Future<Output = R>,
    {
        let retry = self.turn()?.retry();
        let mut backoff = retry.backoff();
        let mut led = false;
        loop {
            match self.campaign(value).await {
                Ok(leader) => {
                    led = true;
                    let term = Term(Arc::new(leader));
                    let begun = Instant::now();
                    let leader = &term.0;
                    let output = leader.while_held(run(leader.clone())).await;
                    // What returned because a guarded write was refused, say, has not ended by itself.
                    if let (Ok(output), true) = (output, leader.is_held()) {
                        // The work is done. If this fails the lease's task goes on with it, or it runs out.
                        let _ = leader.guard.release().await;
                        return Ok(output);
                    }
                    if begun.elapsed() >= retry.max_delay {
                        backoff.reset();
                    }
                }
                // As a watch does: a proxy says what is of kind `Server` while servers restart, and a certificate that was good will be renewed.
                Err(error) if error.is_retryable() || error.kind() == ErrorKind::Server || (led && error.is_outage()) => {
                    telemetry::turn_not_taken(KIND, &error);
                }
                Err(error) => return Err(error),
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Who leads now; none if nobody does.
    ///
    /// # Errors
    ///
    /// As said for [all methods](Self); `Decode`, with the leader's key, if its value is not a `T`.
    pub async fn leader(&self) -> Result<Option<Candidate<T>>> {
        self.turn()?.first().await?.map(|first| Candidate::of(first).transpose()).transpose()
    }

    /// Who leads and who waits to, in their order, as of one revision. A candidate whose value is not a `T` (somebody else's program stands with the same
    /// name) hides nobody: its value is the error, of kind `Decode`.
    pub async fn candidates(&self) -> Result<Vec<Candidate<Result<T>>>> {
        Ok(self.turn()?.queue().await?.into_iter().map(Candidate::of).collect())
    }

    /// The keys below the election's name that are not in its queue, because they have no lease (on v2: because they are not named by one, or have no time
    /// to live). Nothing here waits for them or deletes them. Go's `concurrency` and `etcdctl elect` wait for each that was created before their own key,
    /// and since nothing ends such a key, they wait until it is deleted.
    pub async fn strays(&self) -> Result<Vec<Key>> {
        self.turn()?.strays().await
    }

    /// Who leads, and every change of it, as a stream that mends itself. It begins with who leads now.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// let election = client.election::<String>("/scheduler");
    /// let mut changes = election.observe().await?;
    /// assert!(changes.next().await.expect("it goes on")?.is_none(), "nobody leads");
    ///
    /// let _leader = election.campaign(&"10.0.0.7:80".to_owned()).await?;
    /// let leader = changes.next().await.expect("it goes on")?.expect("somebody leads");
    /// assert_eq!(leader.value, "10.0.0.7:80");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As said for [all methods](Self): it begins with a read.
    pub async fn observe(&self) -> Result<LeaderChanges<T>> {
        let turn = self.turn()?;
        turn.retry().one_call(LeaderChanges::open(turn)).await
    }

    /// Takes everybody who stands with exactly this value out of the election, be it the leader or somebody who waits: deletes their keys. The
    /// answer is how many they were.
    ///
    /// It is for candidates that are known by their value to be gone or unwanted. A leader who is there notices that it does not lead any more, and
    /// one in [`campaign`](Self::campaign) or [`lead`](Self::lead) stands again, at the end of the queue. Somebody who changes the value meanwhile stays.
    ///
    /// # Errors
    ///
    /// As said for [all methods](Self), and `Encode`. Some may be out of it already then.
    pub async fn depose(&self, value: &T) -> Result<usize> {
        let (turn, value) = self.proposal(value)?;
        let depose = async {
            let mut deposed = 0;
            // From the last waiter to the leader, so that no waiter leads in between.
            for contender in turn.queue().await?.iter().rev().filter(|contender| contender.value == value) {
                deposed += usize::from(turn.remove(contender).await?);
            }
            Ok(deposed)
        };
        turn.retry().one_call(depose).await
    }

    /// Goes on with a leadership that another process has left to us by [`Leader::into_token`]. It
    /// keeps its value, and has this one's time to live from now on. A guard that is still alive
    /// elsewhere loses it, in this process too. It does not campaign, so it waits for no candidate.
    ///
    /// # Errors
    ///
    /// `GuardLost` when it is not held any more, `Invalid` for a token of something else.
    ///
    /// # Cancel safety
    ///
    /// The leadership may be lost: whether the other process or this one had it last is not known.
    pub async fn adopt(&self, token: &Token) -> Result<Leader<T>> {
        self.turn()?.adopt(token, None).await.map(Leader::of)
    }

    /// Gives a leadership that nobody keeps alive this time to live from now on. The answer is the token from now on.
    ///
    /// # Errors
    ///
    /// `GuardLost` when it is not held any more, `Invalid` for a token of something else.
    pub async fn renew(&self, token: &Token, ttl: Duration) -> Result<Token> {
        self.turn()?.renew(token, ttl).await
    }

    /// Ends a leadership, or a candidacy, by its token, wherever it is.
    ///
    /// # Errors
    ///
    /// `GuardLost` when it is not held any more, `Invalid` for a token of something else.
    pub async fn release_token(&self, token: &Token) -> Result<()> {
        self.turn()?.release_token(token).await
    }

    fn turn(&self) -> Result<&Turn> {
        Ok(self.turn.as_ref().map_err(KeyError::clone)?)
    }

    fn proposal(&self, value: &T) -> Result<(&Turn, Bytes)> {
        let turn = self.turn()?;
        Ok((turn, encode(value, &turn.directory)?))
    }
}

fn encode<T: EtcdValue>(value: &T, key: &Key) -> Result<Bytes> {
    Codec::value().encode(value).map_err(|reason| Error::new(ErrorKind::Encode, reason.to_string()).at(key))
}

/// The leadership while [`Election::lead`] runs the work. When it is dropped the leadership is given up, whoever else has a share in it.
struct Term<T>(Arc<Leader<T>>);

impl<T> Drop for Term<T> {
    fn drop(&mut self) {
        self.0.guard.release_unseen();
    }
}

/// The leadership, while it is ours: resigned when it is dropped. What it can do beside that is on [`Guard`], to which it derefs.
///
/// Dropping it resigns in the background, by the task that keeps its lease alive; if that cannot be done (no runtime is left, the server does not
/// answer) the next one leads when the time to live has passed. [`resign`](Self::resign) waits for the answer and tells it.
#[must_use = "a leadership is resigned when its guard is dropped"]
pub struct Leader<T> {
    guard: Guard,
    values: PhantomData<fn(&T)>,
}

impl<T> Leader<T> {
    fn of(guard: Guard) -> Self {
        Self { guard, values: PhantomData }
    }

    /// Resigns and waits for the answer. One request.
    ///
    /// # Errors
    ///
    /// `GuardLost` when it was lost before, so that somebody else may lead already. `Unavailable`, `Timeout`, …: the lease is revoked in the background, and
    /// if that cannot be done either the next one leads when the time to live has passed.
    ///
    /// # Cancel safety
    ///
    /// Dropping it resigns in the background.
    pub async fn resign(self) -> Result<()> {
        self.guard.release().await
    }

    /// Leaves the leadership held and not kept alive, for whoever has the token: to [adopt](Election::adopt), [renew](Election::renew) or
    /// [release](Election::release_token) it within its time to live, which starts again with this.
    pub fn into_token(self) -> Token {
        self.guard.into_token()
    }
}

impl<T: EtcdValue> Leader<T> {
    /// Changes our value. The answer is the revision at which it came to be so. It stays the same leadership, with the same fence.
    ///
    /// # Errors
    ///
    /// `GuardLost` when we do not lead any more; nothing was written then. `Encode`, `TooLarge`, and what the calls of a store may answer.
    ///
    /// # Cancel safety
    ///
    /// The value may have been changed.
    pub async fn proclaim(&self, value: &T) -> Result<Revision> {
        self.guard.write(encode(value, self.guard.key())?).await
    }
}

impl<T> Deref for Leader<T> {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}

impl<T> fmt::Debug for Leader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leader").field(&self.guard).finish()
    }
}

/// Somebody who leads or waits to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate<T> {
    /// What it stands with.
    pub value: T,
    /// When it came to stand in the queue: the fencing token once it leads.
    pub fence: Revision,
    /// The key that stands for it in the store.
    pub key: Key,
    /// The lease of the key; on v2 the name of it, which is all that is known there.
    pub lease: LeaseId,
}

impl<T> Candidate<T> {
    /// What ends or renews it from elsewhere. It is up to the caller to know that the candidate is not at work any more.
    #[must_use]
    pub fn token(&self) -> Token {
        Token::new(self.key.clone(), self.fence, self.lease)
    }
}

impl<T> Candidate<Result<T>> {
    /// The candidate with its value, or what is wrong with that.
    ///
    /// # Errors
    ///
    /// The value's: `Decode`.
    pub fn transpose(self) -> Result<Candidate<T>> {
        let Self { value, fence, key, lease } = self;
        Ok(Candidate { value: value?, fence, key, lease })
    }
}

impl<T: EtcdValue> Candidate<Result<T>> {
    fn of(contender: Contender) -> Self {
        let Contender { key, fence, modified, lease, value } = contender;
        let value = Codec::value().decode(&value).map_err(|reason| {
            let (reason, revision) = (reason.to_string(), Some(modified));
            Error::undecodable(Problem { key: key.clone(), kind: ProblemKind::Undecodable, reason, revision })
        });
        Self { value, fence, key, lease }
    }
}

#[cfg(test)]
mod tests;
