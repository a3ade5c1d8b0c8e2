//! `Election<T>`: leader election, in which each candidate has a value that every client can read.
//! `queue.rs` implements the queue of candidates; [`observe`] streams the leader.

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
use crate::lease::{BorrowedLease, Lease, Lost};
use crate::queue::{Contender, ContenderQueue, Guard, Token};
use crate::revision::{LeaseId, Revision};
use crate::telemetry;
use crate::value::{Codec, EtcdValue};

/// The name of an election in metrics and events.
pub(crate) const KIND: &str = "election";

/// The election with one name, from [`Client::election`](crate::Client::election). Use it to
/// campaign, or to read who leads. Cheap to clone.
///
/// The candidate that campaigned first leads. The others follow in the order in which they came;
/// when a candidate leaves, a watch event wakes the next one. Each candidate has a value, its
/// proposal, such as an address or a name. The value is stored unchanged; with
/// [`Json<T>`](crate::Json) it can have any serde type.
///
/// An election is not re-entrant: each campaign is a separate candidate. A second
/// [`campaign`](Self::campaign) in the same process waits until the first leadership ends, even
/// with the same client and the same value. A task that campaigns while it leads waits for itself
/// forever. In this case [`try_campaign`](Self::try_campaign) returns `None`, and
/// [`campaign_within`](Self::campaign_within) fails with `Timeout`.
///
/// # Which programs share the queue
///
/// On etcd v3, every client that uses the key layout of Go's package `concurrency` with the same
/// name: `Election` of that package, `etcdctl elect` (its `--listen` shows the values), the
/// election service of the server (`v3election`), and the elections of Node's `etcd3`, whose
/// `election('x')` is `election/x` here. They all lead in the order in which they came.
///
/// A key below the name that has no lease is not a candidate here. Go's and Node's clients wait for
/// such keys too. [`strays`](Self::strays) lists them, and an event reports that they exist
/// ([`telemetry`]).
///
/// # Errors
///
/// Every method fails with `InvalidKey` if the name is empty or, on etcd v2, not a path. Every
/// method can also fail with the errors of a store call: `Unavailable`, `Timeout`,
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
/// assert_eq!(leader.while_held(work).await?, 42); // dropped when the leadership is lost
/// leader.resign().await?; // or drop it
/// # Ok(()) }
/// ```
#[must_use = "an `Election` does nothing until you campaign"]
pub struct Election<T> {
    queue: Result<ContenderQueue, KeyError>,
    on_loss: Option<Arc<OnLoss>>,
    values: PhantomData<fn() -> T>,
}

type OnLoss = dyn Fn(&Lost) + Send + Sync;

impl<T> Clone for Election<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), on_loss: self.on_loss.clone(), values: PhantomData }
    }
}

impl<T> fmt::Debug for Election<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl<T: EtcdValue + Send + Sync + 'static> Election<T> {
    pub(crate) fn new(queue: Result<ContenderQueue, KeyError>) -> Self {
        Self { queue, on_loss: None, values: PhantomData }
    }

    /// Sets how long the leadership lasts after its leader vanished. Default: 15 s. The server
    /// raises a shorter time to its shortest lease (2 s with default flags), and fractions of a
    /// second are rounded up. The client renews the lease three times within this time.
    ///
    /// With a short time to live the next candidate leads soon after a crash, but a short outage
    /// ends the leadership: when the leader of the etcd cluster dies, the outage takes about 1 to 3
    /// s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        if let Ok(queue) = &mut self.queue {
            queue.ttl = ttl;
        }
        self
    }

    /// Attaches the keys of this client's candidates to a lease that the caller keeps. Without this
    /// call each campaign gets its own lease. The lease sets the time to live; [`ttl`](Self::ttl)
    /// has no effect. [`NamedLock::lease`](crate::NamedLock::lease) describes what else the lease
    /// can serve, and what happens when a guard or the lease ends.
    ///
    /// # Errors
    ///
    /// A campaign fails with `LeaseLost` if the lease has ended, and so does [`lead`](Self::lead).
    /// Both fail with `Unsupported` on v2, which has no leases that guards can share; use
    /// [`ttl`](Self::ttl) there. [`adopt`](Self::adopt) fails with `Unsupported`, since it always
    /// attaches the leadership to a new lease.
    pub fn lease(mut self, lease: &Lease) -> Self {
        if let Ok(queue) = &mut self.queue {
            queue.lease = Some(BorrowedLease::of(lease));
        }
        self
    }

    /// Sets a function that [`lead`](Self::lead) calls each time the leadership is lost. `lead`
    /// drops the work first, and passes the reason of the loss. The function must not block; a
    /// panic in it ends `lead`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// let election = client.election::<String>("/scheduler").on_loss(|lost| eprintln!("{lost}"));
    /// # let _ = election;
    /// # Ok(()) }
    /// ```
    pub fn on_loss(mut self, tell: impl Fn(&Lost) + Send + Sync + 'static) -> Self {
        self.on_loss = Some(Arc::new(tell));
        self
    }

    /// Campaigns with this value, and waits until this candidate leads.
    ///
    /// Waiting continues through outages. A candidate that loses its place while it waits (an
    /// outage longer than the time to live, a deleted key) starts again at the end of the queue.
    /// Before this method returns, a request checks that the key still exists and is the first: a
    /// candidate whose lease ran out never wins. If there is no leader and the client has a spare lease,
    /// a campaign costs one request (two on v2, which has no transactions).
    ///
    /// # Errors
    ///
    /// The errors of [all methods](Self); `Encode` for a value that has no stored form; `TooLarge`;
    /// `Unsupported` outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any point leaves the queue: the lease is revoked in the background,
    /// which deletes the key. With [`lease`](Self::lease) the key alone is deleted in the background.
    pub async fn campaign(&self, value: &T) -> Result<Leader<T>> {
        let (queue, value) = self.proposal(value)?;
        queue.acquire(value).await.map(Leader::of)
    }

    /// Becomes the leader if no leader and no other candidate exists. Otherwise returns `None`
    /// without waiting.
    ///
    /// # Errors
    ///
    /// The errors of [`campaign`](Self::campaign).
    ///
    /// # Cancel safety
    ///
    /// The same as for [`campaign`](Self::campaign).
    pub async fn try_campaign(&self, value: &T) -> Result<Option<Leader<T>>> {
        let (queue, value) = self.proposal(value)?;
        Ok(queue.try_acquire(value).await?.map(Leader::of))
    }

    /// Campaigns with this value, and waits at most this long to lead.
    ///
    /// # Errors
    ///
    /// The errors of [`campaign`](Self::campaign), and `Timeout` if this candidate did not lead in
    /// time; it then leaves the queue.
    ///
    /// # Cancel safety
    ///
    /// The same as for [`campaign`](Self::campaign).
    pub async fn campaign_within(&self, value: &T, time: Duration) -> Result<Leader<T>> {
        let (queue, value) = self.proposal(value)?;
        queue.acquire_within(value, time).await.map(Leader::of)
    }

    /// Campaigns, and calls `run` each time this candidate leads. When `run` returns and the
    /// candidate still leads, resigns and returns the output of `run`. Use this method in a program
    /// that always leads or waits to lead.
    ///
    /// When the leadership is lost, the future of `run` is dropped at its current await point. The
    /// candidate then campaigns again with the same value, at the end of the queue, after a delay
    /// set by the [`RetryPolicy`](crate::RetryPolicy). The delay grows each time the leadership is
    /// lost soon after it began. A campaign that fails because no server can be reached is also
    /// repeated, without limit. [`telemetry`] reports each failure, and each loss with its reason;
    /// see also [`on_loss`](Self::on_loss).
    ///
    /// `run` gets the leadership, for [`fence`](Guard::fence), [`proclaim`](Leader::proclaim) and
    /// writes that are [guarded by it](crate::EntryWrite::guarded_by). The leadership ends when the
    /// future ends, even if a clone of the `Arc` is kept. If `run` returns after the leadership was
    /// lost, the candidate campaigns again: the work may have ended because a guarded write was
    /// refused with `GuardLost`.
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
    /// The errors of [`campaign`](Self::campaign), except for `Unavailable`, `Timeout` and
    /// `Server`, after which the candidate campaigns again. While the candidate leads, any output
    /// of `run` ends the leadership, also an `Err` if `run` returns a `Result`. A failure to resign
    /// is not reported: the leadership then ends in the background, or when its time to live has
    /// passed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the future of `run`, and resigns in the background.
    pub async fn lead<R, F, Fut>(&self, value: &T, mut run: F) -> Result<R>
    where
        F: FnMut(Arc<Leader<T>>) -> Fut,
        Fut: Future<Output = R>,
    {
        let retry = self.valid_queue()?.retry();
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
                    // If `run` returned because a guarded write was refused, the leadership was
                    // lost, so the candidate must campaign again.
                    let lost = match output {
                        Ok(output) if leader.is_held() => {
                            // The work is done. If the release fails, the lease's task tries again,
                            // or the lease runs out.
                            let _ = leader.guard.release().await;
                            return Ok(output);
                        }
                        // The guard already knows why it is no longer held, so `lost` returns at
                        // once.
                        Ok(_) => leader.lost().await,
                        Err(lost) => lost,
                    };
                    telemetry::leadership_lost(KIND, lost.reason().cause(), lost.cause());
                    if let Some(tell) = &self.on_loss {
                        tell(&lost);
                    }
                    if begun.elapsed() >= retry.max_delay {
                        backoff.reset();
                    }
                }
                // A proxy reports `Server` while servers restart. A certificate that was valid
                // before will be renewed. A watch waits out the same errors.
                Err(error) if error.is_retryable() || error.kind() == ErrorKind::Server || (led && error.is_outage()) => {
                    telemetry::campaign_failed(KIND, &error);
                }
                Err(error) => return Err(error),
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Returns the leader, or `None` if there is no leader.
    ///
    /// # Errors
    ///
    /// The errors of [all methods](Self); `Decode`, with the leader's key, if its value is not a
    /// `T`.
    pub async fn leader(&self) -> Result<Option<Candidate<T>>> {
        self.valid_queue()?.first().await?.map(|first| Candidate::of(first).transpose()).transpose()
    }

    /// Returns all candidates in the order of the queue, the leader first, as of one revision. A
    /// candidate whose value is not a `T` (another program campaigns under the same name) is listed
    /// too: its value is an error of kind `Decode`.
    pub async fn candidates(&self) -> Result<Vec<Candidate<Result<T>>>> {
        Ok(self.valid_queue()?.contenders().await?.into_iter().map(Candidate::of).collect())
    }

    /// Returns the keys below the election's name that are not candidates because they have no
    /// lease. (On v2: keys whose name is not a lease ID, and keys without a time to live.) This
    /// library neither waits for these keys nor deletes them. Go's `concurrency` and `etcdctl
    /// elect` wait for every key that was created before their own. Since such a key never expires,
    /// they wait until somebody deletes it.
    pub async fn strays(&self) -> Result<Vec<Key>> {
        self.valid_queue()?.strays().await
    }

    /// Returns a stream that yields the current leader and then every change of the leader. The
    /// stream resumes by itself after interruptions.
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
    /// The errors of [all methods](Self), since opening the stream reads the current leader.
    pub async fn observe(&self) -> Result<LeaderChanges<T>> {
        let queue = self.valid_queue()?;
        queue.retry().one_call(LeaderChanges::open(queue)).await
    }

    /// Removes every candidate with exactly this value, the leader included, by deleting their
    /// keys. Returns the number of removed candidates.
    ///
    /// Use it for candidates whose value shows that they are gone or unwanted. A leader that is
    /// still running notices that it no longer leads. A removed candidate that is in
    /// [`campaign`](Self::campaign) or [`lead`](Self::lead) campaigns again, at the end of the
    /// queue. A candidate that changes its value during this call is not removed.
    ///
    /// # Errors
    ///
    /// The errors of [all methods](Self), and `Encode`. Some candidates may have been removed
    /// before the error.
    pub async fn depose(&self, value: &T) -> Result<usize> {
        let (queue, value) = self.proposal(value)?;
        let depose = async {
            let mut deposed = 0;
            // Deletes the last waiter first and the leader last, so that no waiter that will be
            // removed leads in between.
            for contender in queue.contenders().await?.iter().rev().filter(|contender| contender.value == value) {
                deposed += usize::from(queue.remove(contender).await?);
            }
            Ok(deposed)
        };
        queue.retry().one_call(depose).await
    }

    /// Takes over a leadership that another process handed over with [`Leader::into_token`]. The
    /// value stays, and the leadership gets the time to live that is set here. A guard that still
    /// exists, in this process or elsewhere, loses the leadership. Adopting does not join the
    /// queue, so it waits for no candidate.
    ///
    /// # Errors
    ///
    /// `GuardLost` if the leadership is no longer held, `Invalid` for a token of another election
    /// or a lock.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may lose the leadership: the request may already have attached the
    /// leadership to a lease of this process, which then ends.
    pub async fn adopt(&self, token: &Token) -> Result<Leader<T>> {
        self.valid_queue()?.adopt(token, None).await.map(Leader::of)
    }

    /// Sets the time to live of a leadership that no process keeps alive. The time to live starts
    /// anew now. Returns the token that replaces the old one.
    ///
    /// # Errors
    ///
    /// `GuardLost` if the leadership is no longer held, `Invalid` for a token of another election
    /// or a lock.
    pub async fn renew(&self, token: &Token, ttl: Duration) -> Result<Token> {
        self.valid_queue()?.renew(token, ttl).await
    }

    /// Ends a leadership or a candidacy by its token, whichever process campaigned.
    ///
    /// # Errors
    ///
    /// `GuardLost` if the candidate's key no longer exists or was taken over, `Invalid` for a token
    /// of another election or a lock.
    pub async fn release_token(&self, token: &Token) -> Result<()> {
        self.valid_queue()?.release_token(token).await
    }

    fn valid_queue(&self) -> Result<&ContenderQueue> {
        Ok(self.queue.as_ref().map_err(KeyError::clone)?)
    }

    fn proposal(&self, value: &T) -> Result<(&ContenderQueue, Bytes)> {
        let queue = self.valid_queue()?;
        Ok((queue, encode(value, &queue.directory)?))
    }
}

fn encode<T: EtcdValue>(value: &T, key: &Key) -> Result<Bytes> {
    Codec::value().encode(value).map_err(|reason| Error::new(ErrorKind::Encode, reason.to_string()).at(key))
}

/// The leadership while [`Election::lead`] runs the work. Dropping it ends the leadership even if
/// clones of the `Arc` still exist.
struct Term<T>(Arc<Leader<T>>);

impl<T> Drop for Term<T> {
    fn drop(&mut self) {
        self.0.guard.release_unseen();
    }
}

/// A held leadership. Dereferences to [`Guard`], which has more methods.
///
/// Dropping a `Leader` resigns in a background task. If that fails (no runtime is left, the server
/// does not answer), the next candidate leads when the time to live has passed.
/// [`resign`](Self::resign) waits for the answer and returns it.
#[must_use = "a leadership is resigned when its guard is dropped"]
pub struct Leader<T> {
    guard: Guard,
    values: PhantomData<fn(&T)>,
}

impl<T> Leader<T> {
    fn of(guard: Guard) -> Self {
        Self { guard, values: PhantomData }
    }

    /// Resigns with one request, and waits for the answer.
    ///
    /// # Errors
    ///
    /// `GuardLost` if the leadership was lost before; another candidate may already lead. After
    /// `Unavailable`, `Timeout` and other errors the client revokes the lease in the background, or
    /// deletes the key if the caller keeps the lease. If that fails too, the next candidate leads
    /// when the time to live has passed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resigns in the background.
    pub async fn resign(self) -> Result<()> {
        self.guard.release().await
    }

    /// Keeps the leadership but stops renewing its lease, so that the owner of the token can
    /// [adopt](Election::adopt), [renew](Election::renew) or [release](Election::release_token) it.
    /// The time to live starts again now, and the owner must act before it has passed. On a lease
    /// of [`Election::lease`], the leadership lasts until that lease ends.
    pub fn into_token(self) -> Token {
        self.guard.into_token()
    }
}

impl<T: EtcdValue> Leader<T> {
    /// Changes the leader's value. Returns the revision of the change. The leadership and its fence
    /// stay the same.
    ///
    /// # Errors
    ///
    /// `GuardLost` if this guard no longer leads; nothing was written then. `Encode`, `TooLarge`,
    /// and the errors of a store call.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may still change the value, since the request may be on its way.
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

/// The leader of an election, or a candidate that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate<T> {
    /// The value with which the candidate campaigns.
    pub value: T,
    /// The revision at which the candidate joined the queue. This is the fencing token once the
    /// candidate leads.
    pub fence: Revision,
    /// The candidate's key in the store.
    pub key: Key,
    /// The lease of the key. On v2 it is derived from the key's name, since v2 has no leases.
    pub lease: LeaseId,
}

impl<T> Candidate<T> {
    /// Returns a token with which any process can end or renew the candidacy. Make sure that the
    /// candidate's process no longer works as the leader.
    #[must_use]
    pub fn token(&self) -> Token {
        Token::new(self.key.clone(), self.fence, self.lease)
    }
}

impl<T> Candidate<Result<T>> {
    /// Returns the candidate with its decoded value, or the error of the value.
    ///
    /// # Errors
    ///
    /// `Decode` if the value is not a `T`.
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
