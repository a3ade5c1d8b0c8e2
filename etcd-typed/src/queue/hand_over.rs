//! `HandOver`: the keys of this client that are in queues, or are about to join one. A contender
//! that waits for a key of the same client needs no watch: the client knows when it deletes that
//! key.
//!
//! This module does not decide which contender is the holder; the server does. The holder's last
//! request deletes the holder's key and reads the next key, so its answer already shows that the
//! next contender is the first. This module passes that answer to the next contender. See
//! [`Place`](super::place::Place) for why the answer is enough.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::contender::Rank;
use super::release::{Handed, Joined, Joining};
use crate::key::Key;
use crate::lease::Validity;
use crate::revision::Revision;
use crate::store::Op;

/// Shared by all clones of a client.
#[derive(Default)]
pub(crate) struct HandOver(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// The entries, each by its key.
    entries: HashMap<Key, Entry>,
    /// The queues, by their directory. A queue without an entry is removed.
    queues: HashMap<Key, Queue>,
    /// The directories for which a report said that they contain keys that are not in the queue.
    reported: HashSet<Key>,
}

/// A key that this client is creating or has created, and has not released.
struct Entry {
    /// The queue's directory.
    directory: Key,
    /// The creation revision, or `None` until it is known.
    created: Option<Revision>,
    validity: Validity,
    /// True if the guard of this key was lost although its lease was not.
    lost: bool,
    /// The contender that waits for this key.
    next: Option<Next>,
    /// The answer to the predecessor's release, which read this key. Set if the answer arrived
    /// before the owner of this key began to wait.
    handed: Option<Handed>,
}

/// A contender that waits for its predecessor's key.
struct Next {
    key: Key,
    /// The creation revision of the predecessor's key, as this contender read it.
    seen: Revision,
    /// Wakes the contender with the server's answer. Dropped if the predecessor was released by a
    /// request that did not read the contender's key.
    wake: oneshot::Sender<Handed>,
}

#[derive(Default)]
struct Queue {
    entries: usize,
    /// The keys that are being created, in the order of their requests.
    entering: VecDeque<Key>,
    /// The contenders that offer their key to the next release, and have not sent a request yet.
    joining: VecDeque<Joining>,
}

impl HandOver {
    /// Registers a key that is about to be created below this directory, attached to this lease.
    /// The key stays registered until the returned value is dropped.
    pub(super) fn enter(self: &Arc<Self>, directory: &Key, key: &Key, validity: &Validity) -> Registration {
        let entry =
            Entry { directory: directory.clone(), created: None, validity: validity.clone(), lost: false, next: None, handed: None };
        self.with(|inner| {
            inner.entries.insert(key.clone(), entry);
            let queue = inner.queues.entry(directory.clone()).or_default();
            queue.entries += 1;
            queue.entering.push_back(key.clone());
        });
        Registration { hand_over: self.clone(), directory: directory.clone(), key: key.clone() }
    }

    /// Offers this key to the holder of the queue, whose release request may create the key.
    /// Returns `None` if no other contender of this client is in the queue.
    pub(super) fn offer(&self, directory: &Key, key: &Key, make: &[Op]) -> Option<oneshot::Receiver<Joined>> {
        self.with(|inner| {
            let queue = inner.queues.get_mut(directory).filter(|queue| queue.entries > 1)?;
            let (answer, joined) = oneshot::channel();
            queue.entering.retain(|entering| entering != key);
            queue.joining.push_back(Joining { key: key.clone(), make: make.to_vec(), answer });
            Some(joined)
        })
    }

    /// Takes the offer back. Returns false if a release has already accepted the offer.
    pub(super) fn withdraw(&self, directory: &Key, key: &Key) -> bool {
        self.with(|inner| {
            let Some(queue) = inner.queues.get_mut(directory) else { return false };
            let Some(at) = queue.joining.iter().position(|joining| joining.key == *key) else { return false };
            queue.joining.remove(at);
            queue.entering.push_back(key.clone());
            true
        })
    }

    /// Prepares the release of this key. Returns the other key that the release request must read,
    /// and the offered key that the request can create.
    pub(super) fn leaving(&self, directory: &Key, key: &Key) -> (Option<Key>, Option<Joining>) {
        self.with(|inner| {
            let known = inner.entries.get(key).and_then(|entry| Some(entry.next.as_ref()?.key.clone()));
            let queue = inner.queues.get_mut(directory);
            // If no contender waits for this key yet, a key that is being created may be the next.
            let entering = queue.as_ref().and_then(|queue| queue.entering.front().cloned());
            let joining = queue.and_then(|queue| {
                let joining = queue.joining.pop_front()?;
                queue.entering.push_back(joining.key.clone());
                Some(joining)
            });
            (known.or(entering), joining)
        })
    }

    /// Returns true at the first call for each directory, so that keys below the directory that are
    /// not in the queue are reported once.
    pub(super) fn is_first_report(&self, directory: &Key) -> bool {
        self.with(|inner| !inner.reported.contains(directory) && inner.reported.insert(directory.clone()))
    }

    /// Returns the state of the predecessor of the key `own`, if that predecessor is a key of this
    /// client that may still exist or was released just now.
    ///
    /// Returns `None` for a predecessor in another queue, whose directory is below this one: its
    /// release wakes only contenders of its own queue.
    pub(super) fn before(&self, directory: &Key, own: &Key, predecessor: &Rank) -> Option<Predecessor> {
        self.with(|inner| {
            if let Some(handed) = inner.entries.get_mut(own).and_then(|entry| entry.handed.take())
                && handed.left == *predecessor
            {
                return Some(Predecessor::Released(handed));
            }
            let entry = inner.entries.get_mut(&predecessor.key).filter(|entry| entry.directory == *directory)?;
            // A key is named by its lease. If the lease was reused, the key with this name is a
            // newer key, behind ours, and waiting for that key would never end. If its creation
            // revision is not known yet, `made` compares the revisions later.
            let same = entry.created.is_none_or(|created| created == predecessor.created);
            if !same || entry.lost || !entry.validity.is_held() {
                return None;
            }
            let (wake, here) = oneshot::channel();
            entry.next = Some(Next { key: own.clone(), seen: predecessor.created, wake });
            Some(Predecessor::Waits(Neighbour { validity: entry.validity.clone(), here }))
        })
    }

    /// Records that the guard of this key was lost although its lease was not. The contender that
    /// waits for the key wakes, and watches the key itself from now on.
    pub(super) fn lost(&self, key: &Key) {
        let next = self.with(|inner| {
            let entry = inner.entries.get_mut(key)?;
            entry.lost = true;
            entry.next.take()
        });
        // Dropping it wakes the waiter, which finds this lock released.
        drop(next);
    }

    /// Passes the server's answer to a release to the owner of the key that the request read. If
    /// that owner does not wait yet, the answer is stored in its entry.
    pub(super) fn hand_on(&self, registration: Option<Registration>, handed: Handed) {
        let next = self.with(|inner| {
            let next = registration.as_ref().and_then(|registration| inner.entries.get_mut(&registration.key)?.next.take());
            match next.filter(|next| next.key == handed.next) {
                Some(next) => Some((next, handed)),
                None => {
                    if let Some(entry) = inner.entries.get_mut(&handed.next) {
                        entry.handed = Some(handed);
                    }
                    None
                }
            }
        });
        // The woken contender finds this lock released, and the key gone.
        drop(registration);
        if let Some((next, handed)) = next {
            let _ = next.wake.send(handed);
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        // No code panics while it holds this lock, so the data of a poisoned lock is consistent.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandOver").finish_non_exhaustive()
    }
}

/// Keeps a key registered until it is dropped.
pub(super) struct Registration {
    hand_over: Arc<HandOver>,
    directory: Key,
    key: Key,
}

impl Registration {
    /// Records the creation revision of the key.
    pub(super) fn made(&self, created: Revision) {
        let mistaken = self.hand_over.with(|inner| {
            if let Some(queue) = inner.queues.get_mut(&self.directory) {
                queue.entering.retain(|entering| *entering != self.key);
            }
            let entry = inner.entries.get_mut(&self.key)?;
            entry.created = Some(created);
            entry.next.take_if(|next| next.seen != created)
        });
        // Dropping it wakes the waiter, which finds this lock released.
        drop(mistaken);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let gone = self.hand_over.with(|inner| {
            if let Some(queue) = inner.queues.get_mut(&self.directory) {
                queue.entries -= 1;
                queue.entering.retain(|entering| *entering != self.key);
                queue.joining.retain(|joining| joining.key != self.key);
                if queue.entries == 0 {
                    inner.queues.remove(&self.directory);
                }
            }
            inner.entries.remove(&self.key)
        });
        // Dropping it wakes the waiter, which finds this lock released.
        drop(gone);
    }
}

/// The state of a predecessor of the same client.
pub(super) enum Predecessor {
    Waits(Neighbour),
    Released(Handed),
}

/// A predecessor of the same client that has not been released.
pub(super) struct Neighbour {
    validity: Validity,
    here: oneshot::Receiver<Handed>,
}

impl Neighbour {
    /// Waits until this client has released the key, or the key or its lease is lost. Returns the
    /// server's answer to the release, if it read the waiter's key.
    pub(super) async fn gone(self) -> Option<Handed> {
        let Self { validity, here } = self;
        tokio::select! {
            handed = here => handed.ok(),
            _ = validity.lost() => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::{JoinHandle, yield_now};
    use tokio::time::Instant;

    use super::*;
    use crate::client::Client;
    use crate::lock::{Lock, NamedLock};
    use crate::store::{Op, Txn};
    #[cfg(feature = "testing")]
    use crate::testing::Counts;

    const TTL: Duration = Duration::from_secs(30);

    async fn lock() -> (Client, NamedLock) {
        let client = Client::connect("memory:").await.unwrap();
        let lock = client.lock("/x").ttl(TTL);
        (client, lock)
    }

    /// Starts a task that waits for the lock, and returns when it is number `number` in the queue.
    async fn waiting(lock: &NamedLock, number: usize) -> JoinHandle<Lock> {
        let waiter = lock.clone();
        let task = tokio::spawn(async move { waiter.acquire().await.unwrap() });
        while lock.queue().await.unwrap().len() < number {
            yield_now().await;
        }
        task
    }

    #[cfg(feature = "testing")]
    #[tokio::test(start_paused = true)]
    async fn waiter_behind_own_client_needs_no_watch() {
        let counting = crate::testing::CountingStore::new(Client::connect("memory:").await.unwrap().store().clone());
        let lock = Client::with_store(counting.clone()).lock("/x").ttl(TTL);
        // Two contenders at once leave two spare leases.
        let first = lock.acquire().await.unwrap();
        let second = waiting(&lock, 2).await;
        first.release().await.unwrap();
        second.await.unwrap().release().await.unwrap();

        let first = lock.acquire().await.unwrap();
        let second = waiting(&lock, 2).await;
        let before = counting.counts();
        first.release().await.unwrap();
        second.await.unwrap().release().await.unwrap();
        let after = counting.counts();
        // Each release is one request. Its answer shows that the next contender is the first.
        assert_eq!((after.commit - before.commit, after.range - before.range), (2, 0));
        assert_eq!((after.watch - before.watch, after.grant - before.grant), (0, 0));
    }

    /// Returns a lock of a client whose calls are counted. The client has this many spare leases.
    #[cfg(feature = "testing")]
    async fn counted(spares: usize) -> (crate::testing::CountingStore, NamedLock) {
        let counting = crate::testing::CountingStore::new(Client::connect("memory:").await.unwrap().store().clone());
        let lock = Client::with_store(counting.clone()).lock("/x").ttl(TTL);
        let mut held = vec![lock.acquire().await.unwrap()];
        let mut waiting_for_it = Vec::new();
        for number in 1..spares {
            waiting_for_it.push(waiting(&lock, number + 1).await);
        }
        for next in waiting_for_it {
            held.pop().unwrap().release().await.unwrap();
            held.push(next.await.unwrap());
        }
        held.pop().unwrap().release().await.unwrap();
        counting.take();
        (counting, lock)
    }

    #[cfg(feature = "testing")]
    #[tokio::test(start_paused = true)]
    async fn release_and_acquire_share_one_request() {
        let (counting, lock) = counted(2).await;
        let first = lock.acquire().await.unwrap();
        let fence = first.fence();
        counting.take();
        let (second, released) = tokio::join!(lock.acquire(), first.release());
        released.unwrap();
        let second = second.unwrap();
        // One request deletes the first key and creates the second, which is then the first.
        assert_eq!(counting.take(), Counts { commit: 1, ..Counts::default() });
        assert!(second.fence() > fence && second.is_held());
        second.verify().await.unwrap();
        second.release().await.unwrap();
    }

    #[cfg(feature = "testing")]
    #[tokio::test(start_paused = true)]
    async fn one_request_releases_lock_wakes_next_and_queues_third() {
        let (counting, lock) = counted(3).await;
        let first = lock.acquire().await.unwrap();
        let second = waiting(&lock, 2).await;
        counting.take();
        let mut third = Box::pin(lock.acquire());
        let (third_waits, released) = tokio::join!(tokio::time::timeout(Duration::from_millis(1), &mut third), first.release());
        released.unwrap();
        assert!(third_waits.is_err(), "the second contender comes first");
        let second = second.await.unwrap();
        assert_eq!(counting.take(), Counts { commit: 1, ..Counts::default() });
        let fence = second.fence();
        second.release().await.unwrap();
        let third = third.await.unwrap();
        assert_eq!(counting.take(), Counts { commit: 1, ..Counts::default() });
        assert!(third.fence() > fence);
        third.release().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn revoked_lease_of_next_waiter_does_not_fail_release() {
        let (client, lock) = lock().await;
        let two = ["/a", "/b"].map(|name| client.lock(name).ttl(TTL));
        let (a, b) = (two[0].acquire().await.unwrap(), two[1].acquire().await.unwrap());
        let (a_lease, b_lease) = (a.lease_id(), b.lease_id());
        a.release().await.unwrap();
        b.release().await.unwrap();
        let first = lock.acquire().await.unwrap();
        assert_eq!(first.lease_id(), b_lease, "the lease that was used last");
        // The second contender gets the other lease, and does not know that it was revoked.
        client.store().revoke(a_lease).await.unwrap();
        let (second, released) = tokio::join!(lock.acquire(), first.release());
        released.unwrap();
        let second = second.unwrap();
        assert_ne!(second.lease_id(), a_lease);
        second.verify().await.unwrap();
        second.release().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_waiter_is_skipped() {
        let (_client, lock) = lock().await;
        let begun = Instant::now();
        let first = lock.acquire().await.unwrap();
        let second = waiting(&lock, 2).await;
        let third = waiting(&lock, 3).await;
        second.abort();
        assert!(second.await.is_err());
        first.release().await.unwrap();
        third.await.unwrap().release().await.unwrap();
        assert!(begun.elapsed() < TTL / 3, "it waited for its periodic look: {:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn deleted_holder_key_wakes_waiter() {
        let (client, lock) = lock().await;
        let begun = Instant::now();
        let first = lock.acquire().await.unwrap();
        let second = waiting(&lock, 2).await;
        client.store().commit(Txn { then: vec![Op::delete(first.key())], ..Txn::default() }).await.unwrap();
        let second = second.await.unwrap();
        assert!(begun.elapsed() < TTL / 3, "it waited for its periodic look: {:?}", begun.elapsed());
        assert!(!first.is_held() && second.is_held());
    }

    /// The keys of the lock `/x/y` are below `/x`, so they are also in the queue of the lock `/x`.
    #[cfg(feature = "testing")]
    #[tokio::test(start_paused = true)]
    async fn nested_lock_waiters_do_not_wake_each_other() {
        let counting = crate::testing::CountingStore::new(Client::connect("memory:").await.unwrap().store().clone());
        let client = Client::with_store(counting.clone());
        let (outer, inner) = (client.lock("/x").ttl(TTL), client.lock("/x/y").ttl(TTL));
        let holder = inner.acquire().await.unwrap();
        let other = waiting(&inner, 2).await;
        let waiter = waiting(&outer, 3).await;
        counting.take();
        tokio::time::sleep(TTL / 6).await;
        let spent = counting.take();
        assert!(spent.commit + spent.range <= 2, "the two waiters keep waking each other: {spent:?}");
        holder.release().await.unwrap();
        let second = other.await.unwrap();
        tokio::time::sleep(TTL / 2).await;
        assert!(!waiter.is_finished(), "the second key below `/x/y` is before it too");
        second.release().await.unwrap();
        waiter.await.unwrap().verify().await.unwrap();
    }

    #[tokio::test]
    async fn recreated_key_is_not_the_predecessor() {
        let (client, _lock) = lock().await;
        let lease = client.lease(TTL).await.unwrap();
        let (hand_over, key) = (Arc::new(HandOver::default()), Key::parse("/x/7").unwrap());
        let own = Key::parse("/x/8").unwrap();
        let directory = Key::parse("/x").unwrap();
        let before = |created| hand_over.before(&directory, &own, &Rank { key: key.clone(), created: Revision::new(created) });
        let registration = hand_over.enter(&directory, &key, lease.validity());
        // The creation revision of the key is not known yet. As soon as it is known, a waiter that
        // expects another revision is woken.
        let Some(Predecessor::Waits(mistaken)) = before(4) else { panic!("it may be that key") };
        registration.made(Revision::new(5));
        assert!(mistaken.gone().await.is_none());
        assert!(before(4).is_none());
        assert!(before(5).is_some());
        drop(registration);
        assert!(before(5).is_none());
    }
}
