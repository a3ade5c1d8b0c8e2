//! `Standings`: which keys of this client stand in queues. Who waits for one of them needs no watch: the client knows itself when it gives it up.
//!
//! A word from here makes nobody an owner: the server says who is first. But it says so already in its answer to the last request of who was before,
//! which deletes the key and then reads who is first now; that answer is handed on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::Life;
use crate::key::Key;
use crate::revision::Revision;
use crate::store::{Committed, OpResult, RangeReply};

/// One for all clones of a client.
#[derive(Default)]
pub(crate) struct Standings(Mutex<HashMap<Key, Entry>>);

/// A key that this client has made and not given up.
struct Entry {
    created: Revision,
    life: Life,
    /// Dropped with the entry, which is what those who wait for the key are waiting for.
    here: watch::Sender<Option<Handed>>,
    /// When the key came to be that waits for this one.
    next: Option<Revision>,
}

/// What the server said when a key was given up: the newest of the queue up to the key that came to be at `next`, without the one that was deleted.
#[derive(Clone)]
pub(crate) struct Handed {
    pub(crate) next: Revision,
    pub(crate) reply: RangeReply,
}

impl Handed {
    /// From the answer to the request that gave a key up for the one that came to be at `next`.
    pub(crate) fn of(committed: Committed, next: Option<Revision>) -> Option<Self> {
        let next = next?;
        committed.results.into_iter().find_map(|result| match result {
            OpResult::Get(reply) => Some(Self { next, reply }),
            OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
        })
    }
}

impl Standings {
    /// A key came to be then, attached to this lease. It stands until what is returned is dropped.
    pub(super) fn stand(self: &Arc<Self>, key: &Key, created: Revision, life: &Life) -> Standing {
        let entry = Entry { created, life: life.clone(), here: watch::Sender::new(None), next: None };
        self.with(|entries| entries.insert(key.clone(), entry));
        Standing { standings: self.clone(), key: key.clone() }
    }

    /// The key, if it is one of this client that was there at this revision and may be there still, for the one behind it that came to be at `next`.
    pub(crate) fn neighbour(&self, key: &Key, as_of: Revision, next: Revision) -> Option<Neighbour> {
        self.with(|entries| {
            // The lease may serve again, and its key, which has its name, then stands further back: to wait for that one would be to wait for oneself.
            let entry = entries.get_mut(key).filter(|entry| entry.created <= as_of && entry.life.is_held())?;
            entry.next = Some(next);
            Some(Neighbour { life: entry.life.clone(), here: entry.here.subscribe() })
        })
    }

    /// When the key came to be that waits for this one, if one does.
    pub(crate) fn next(&self, key: &Key) -> Option<Revision> {
        self.with(|entries| entries.get(key)?.next)
    }

    fn with<R>(&self, f: impl FnOnce(&mut HashMap<Key, Entry>) -> R) -> R {
        // Nothing panics while it is held, so what a poisoned lock guards is whole.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// That a key stands in a queue; kept with its lease.
pub(super) struct Standing {
    standings: Arc<Standings>,
    key: Key,
}

impl Standing {
    /// Gives the place up, and says to whoever waits what the server said then.
    pub(super) fn hand_on(self, handed: Handed) {
        if let Some(entry) = self.standings.with(|entries| entries.remove(&self.key)) {
            entry.here.send_replace(Some(handed));
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        // Who is woken by it finds the lock given back.
        drop(self.standings.with(|entries| entries.remove(&self.key)));
    }
}

/// A key of this client, as seen by one who stands behind it.
pub(crate) struct Neighbour {
    life: Life,
    here: watch::Receiver<Option<Handed>>,
}

impl Neighbour {
    /// Waits until the client has given up the key, or it or its lease is known to be lost. What the server said then, if that was asked.
    pub(crate) async fn gone(mut self) -> Option<Handed> {
        tokio::select! {
            // At most once something is sent, and then it ends.
            _ = self.here.changed() => self.here.borrow().clone(),
            _ = self.life.lost() => None,
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

    #[tokio::test]
    async fn a_key_that_came_to_be_later_is_another() {
        let (client, _lock) = lock().await;
        let lease = client.lease(TTL).await.unwrap();
        let (standings, key) = (Arc::new(Standings::default()), Key::parse("/x/7").unwrap());
        let standing = standings.stand(&key, Revision::new(5), lease.life());
        assert!(standings.neighbour(&key, Revision::new(4), Revision::new(9)).is_none());
        assert!(standings.neighbour(&key, Revision::new(5), Revision::new(9)).is_some());
        drop(standing);
        assert!(standings.neighbour(&key, Revision::new(5), Revision::new(9)).is_none());
    }
}
