//! `Standings`: which keys of this client stand in queues, or are about to. Who waits for one of them needs no watch: the client knows itself when it gives
//! it up.
//!
//! A word from here makes nobody an owner: the server says who is first. But it says so already in its answer to the last request of who was before, which
//! deletes that key and then reads the next one; that answer is handed on. See [`Place`](crate::turn) for why it is enough.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::Life;
use super::last::{Handed, Joined, Joining};
use crate::key::Key;
use crate::revision::Revision;
use crate::store::Op;

/// A key, and when it came to be. Of two in one queue the one that came to be earlier is before the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rank {
    pub(crate) key: Key,
    pub(crate) created: Revision,
}

/// One for all clones of a client.
#[derive(Default)]
pub(crate) struct Standings(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// By their keys.
    entries: HashMap<Key, Entry>,
    /// By their directories; those without an entry are not here.
    queues: HashMap<Key, Queue>,
    /// The queues of which it was said that they have keys which are not in them.
    reported: HashSet<Key>,
}

/// A key that this client makes or has made, and has not given up.
struct Entry {
    /// Its queue's.
    directory: Key,
    /// None until that is known.
    created: Option<Revision>,
    life: Life,
    /// Who waits for it.
    next: Option<Next>,
    /// What was said of it before it was known that it waits.
    handed: Option<Handed>,
}

/// Somebody who waits for the key before his own.
struct Next {
    key: Key,
    /// When that one came to be, as he has read.
    seen: Revision,
    /// Dropped when the key is given up and nothing was read for him.
    wake: oneshot::Sender<Handed>,
}

#[derive(Default)]
struct Queue {
    entries: usize,
    /// Whose keys are being made, in the order in which they were asked for.
    entering: VecDeque<Key>,
    /// Those who have not asked yet.
    joining: VecDeque<Joining>,
}

impl Standings {
    /// A key below this directory, attached to this lease, is about to be made. It stands until what is returned is dropped.
    pub(super) fn enter(self: &Arc<Self>, directory: &Key, key: &Key, life: &Life) -> Standing {
        let entry = Entry { directory: directory.clone(), created: None, life: life.clone(), next: None, handed: None };
        self.with(|inner| {
            inner.entries.insert(key.clone(), entry);
            let queue = inner.queues.entry(directory.clone()).or_default();
            queue.entries += 1;
            queue.entering.push_back(key.clone());
        });
        Standing { standings: self.clone(), directory: directory.clone(), key: key.clone() }
    }

    /// Offers whoever gives the first place of the queue up to make this key with the same request. None if there is nobody of this client who could.
    pub(crate) fn offer(&self, directory: &Key, key: &Key, make: &[Op]) -> Option<oneshot::Receiver<Joined>> {
        self.with(|inner| {
            let queue = inner.queues.get_mut(directory).filter(|queue| queue.entries > 1)?;
            let (answer, joined) = oneshot::channel();
            queue.entering.retain(|entering| entering != key);
            queue.joining.push_back(Joining { key: key.clone(), make: make.to_vec(), answer });
            Some(joined)
        })
    }

    /// Takes the offer back. Whether nobody has taken it.
    pub(crate) fn withdraw(&self, directory: &Key, key: &Key) -> bool {
        self.with(|inner| {
            let Some(queue) = inner.queues.get_mut(directory) else { return false };
            let Some(at) = queue.joining.iter().position(|joining| joining.key == *key) else { return false };
            queue.joining.remove(at);
            queue.entering.push_back(key.clone());
            true
        })
    }

    /// This key is about to be given up: which other one is to be read then, and who is to be taken along.
    pub(crate) fn leaving(&self, directory: &Key, key: &Key) -> (Option<Key>, Option<Joining>) {
        self.with(|inner| {
            let known = inner.entries.get(key).and_then(|entry| Some(entry.next.as_ref()?.key.clone()));
            let queue = inner.queues.get_mut(directory);
            // Somebody whose key is being made may turn out to be the next.
            let entering = queue.as_ref().and_then(|queue| queue.entering.front().cloned());
            let joining = queue.and_then(|queue| {
                let joining = queue.joining.pop_front()?;
                queue.entering.push_back(joining.key.clone());
                Some(joining)
            });
            (known.or(entering), joining)
        })
    }

    /// Whether this is the first report of keys that are below the queue's directory and not in the queue.
    pub(crate) fn is_first_report(&self, directory: &Key) -> bool {
        self.with(|inner| !inner.reported.contains(directory) && inner.reported.insert(directory.clone()))
    }

    /// For the one who has this key: what became of the one before it, if that is one of this client and may be there still or has been given up just now.
    ///
    /// None for a predecessor that stands in another queue, whose directory is below this one's: it tells only one of its own queue that it leaves.
    pub(crate) fn before(&self, directory: &Key, own: &Key, predecessor: &Rank) -> Option<Before> {
        self.with(|inner| {
            if let Some(handed) = inner.entries.get_mut(own).and_then(|entry| entry.handed.take())
                && handed.left == *predecessor
            {
                return Some(Before::Left(handed));
            }
            let entry = inner.entries.get_mut(&predecessor.key).filter(|entry| entry.directory == *directory)?;
            // The lease may serve again, and its key, which has its name, then stands further back: to wait for that one would be to wait for oneself. Where
            // that is not known yet, `made` finds out.
            let same = entry.created.is_none_or(|created| created == predecessor.created);
            if !(same && entry.life.is_held()) {
                return None;
            }
            let (wake, here) = oneshot::channel();
            entry.next = Some(Next { key: own.clone(), seen: predecessor.created, wake });
            Some(Before::Stands(Neighbour { life: entry.life.clone(), here }))
        })
    }

    /// Says what the server said when a key was given up. The key that was read may not be known to wait yet.
    pub(super) fn hand_on(&self, standing: Option<Standing>, handed: Handed) {
        let next = self.with(|inner| {
            let next = standing.as_ref().and_then(|standing| inner.entries.get_mut(&standing.key)?.next.take());
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
        // Whoever is woken finds the lock given back, and the key gone.
        drop(standing);
        if let Some((next, handed)) = next {
            let _ = next.wake.send(handed);
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        // Nothing panics while it is held, so what a poisoned lock guards is whole.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// That a key stands in a queue or is about to; kept with its lease.
pub(super) struct Standing {
    standings: Arc<Standings>,
    directory: Key,
    key: Key,
}

impl Standing {
    /// The key came to be then.
    pub(super) fn made(&self, created: Revision) {
        let mistaken = self.standings.with(|inner| {
            if let Some(queue) = inner.queues.get_mut(&self.directory) {
                queue.entering.retain(|entering| *entering != self.key);
            }
            let entry = inner.entries.get_mut(&self.key)?;
            entry.created = Some(created);
            entry.next.take_if(|next| next.seen != created)
        });
        // Who is woken by it finds the lock given back.
        drop(mistaken);
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let gone = self.standings.with(|inner| {
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
        // Who is woken by it finds the lock given back.
        drop(gone);
    }
}

/// What became of a key of this client, as seen by the one who stands behind it.
pub(crate) enum Before {
    Stands(Neighbour),
    Left(Handed),
}

/// A key of this client, as seen by one who stands behind it.
pub(crate) struct Neighbour {
    life: Life,
    here: oneshot::Receiver<Handed>,
}

impl Neighbour {
    /// Waits until the client has given up the key, or it or its lease is known to be lost. What the server said then, if that was asked.
    pub(crate) async fn gone(self) -> Option<Handed> {
        let Self { life, here } = self;
        tokio::select! {
            handed = here => handed.ok(),
            _ = life.lost() => None,
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

    /// Somebody who waits for the lock, as the `number`th of those who stand there.
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
    async fn who_waits_for_one_of_the_same_client_watches_nothing() {
        let counting = crate::testing::CountingStore::new(Client::connect("memory:").await.unwrap().store().clone());
        let lock = Client::with_store(counting.clone()).lock("/x").ttl(TTL);
        // Two at once, so that there are two spare leases then.
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
        // It is deleted, and the answer says that the other one is first; that is deleted.
        assert_eq!((after.commit - before.commit, after.range - before.range), (2, 0));
        assert_eq!((after.watch - before.watch, after.grant - before.grant), (0, 0));
    }

    /// A lock of a client whose calls are counted, with that many spare leases.
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
    async fn who_comes_while_another_one_goes_is_taken_along() {
        let (counting, lock) = counted(2).await;
        let first = lock.acquire().await.unwrap();
        let fence = first.fence();
        counting.take();
        let (second, released) = tokio::join!(lock.acquire(), first.release());
        released.unwrap();
        let second = second.unwrap();
        // One key is deleted and the other one made, which is the first.
        assert_eq!(counting.take(), Counts { commit: 1, ..Counts::default() });
        assert!(second.fence() > fence && second.is_held());
        second.verify().await.unwrap();
        second.release().await.unwrap();
    }

    #[cfg(feature = "testing")]
    #[tokio::test(start_paused = true)]
    async fn one_request_gives_a_lock_up_says_who_has_it_then_and_makes_the_key_of_a_third() {
        let (counting, lock) = counted(3).await;
        let first = lock.acquire().await.unwrap();
        let second = waiting(&lock, 2).await;
        counting.take();
        let mut third = Box::pin(lock.acquire());
        let (third_waits, released) = tokio::join!(tokio::time::timeout(Duration::from_millis(1), &mut third), first.release());
        released.unwrap();
        assert!(third_waits.is_err(), "the second one comes first");
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
    async fn what_hinders_the_one_who_is_taken_along_does_not_hinder_the_one_who_goes() {
        let (client, lock) = lock().await;
        let two = ["/a", "/b"].map(|name| client.lock(name).ttl(TTL));
        let (a, b) = (two[0].acquire().await.unwrap(), two[1].acquire().await.unwrap());
        let (a_lease, b_lease) = (a.lease_id(), b.lease_id());
        a.release().await.unwrap();
        b.release().await.unwrap();
        let first = lock.acquire().await.unwrap();
        assert_eq!(first.lease_id(), b_lease, "the one that was used last");
        // The next one has that one, and does not know that it is gone.
        client.store().revoke(a_lease).await.unwrap();
        let (second, released) = tokio::join!(lock.acquire(), first.release());
        released.unwrap();
        let second = second.unwrap();
        assert_ne!(second.lease_id(), a_lease);
        second.verify().await.unwrap();
        second.release().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_in_the_middle_who_goes_is_not_waited_for() {
        let (_client, lock) = lock().await;
        let begun = Instant::now();
        let first = lock.acquire().await.unwrap();
        let second = waiting(&lock, 2).await;
        let third = waiting(&lock, 3).await;
        second.abort();
        assert!(second.await.is_err());
        first.release().await.unwrap();
        third.await.unwrap().release().await.unwrap();
        assert!(begun.elapsed() < TTL / 3, "it waited for its own look: {:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_has_lost_the_key_is_not_waited_for() {
        let (client, lock) = lock().await;
        let begun = Instant::now();
        let first = lock.acquire().await.unwrap();
        let second = waiting(&lock, 2).await;
        client.store().commit(Txn { then: vec![Op::delete(first.key())], ..Txn::default() }).await.unwrap();
        let second = second.await.unwrap();
        assert!(begun.elapsed() < TTL / 3, "it waited for its own look: {:?}", begun.elapsed());
        assert!(!first.is_held() && second.is_held());
    }

    /// The locks `/x` and `/x/y`: whoever holds the second stands in the queue of the first as well.
    #[cfg(feature = "testing")]
    #[tokio::test(start_paused = true)]
    async fn two_waiters_of_two_queues_may_wait_for_one_key() {
        let counting = crate::testing::CountingStore::new(Client::connect("memory:").await.unwrap().store().clone());
        let client = Client::with_store(counting.clone());
        let (outer, inner) = (client.lock("/x").ttl(TTL), client.lock("/x/y").ttl(TTL));
        let holder = inner.acquire().await.unwrap();
        let other = waiting(&inner, 2).await;
        let waiter = waiting(&outer, 3).await;
        counting.take();
        tokio::time::sleep(TTL / 6).await;
        let spent = counting.take();
        assert!(spent.commit + spent.range <= 2, "the two drive each other on: {spent:?}");
        holder.release().await.unwrap();
        let second = other.await.unwrap();
        tokio::time::sleep(TTL / 2).await;
        assert!(!waiter.is_finished(), "the second key below `/x/y` is before it too");
        second.release().await.unwrap();
        waiter.await.unwrap().verify().await.unwrap();
    }

    #[tokio::test]
    async fn a_key_that_came_to_be_later_is_another() {
        let (client, _lock) = lock().await;
        let lease = client.lease(TTL).await.unwrap();
        let (standings, key) = (Arc::new(Standings::default()), Key::parse("/x/7").unwrap());
        let own = Key::parse("/x/8").unwrap();
        let directory = Key::parse("/x").unwrap();
        let before = |created| standings.before(&directory, &own, &Rank { key: key.clone(), created: Revision::new(created) });
        let standing = standings.enter(&directory, &key, lease.life());
        // Not known yet which one it is; whoever waits for another one is told as soon as it is.
        let Some(Before::Stands(mistaken)) = before(4) else { panic!("it may be that one") };
        standing.made(Revision::new(5));
        assert!(mistaken.gone().await.is_none());
        assert!(before(4).is_none());
        assert!(before(5).is_some());
        drop(standing);
        assert!(before(5).is_none());
    }
}
