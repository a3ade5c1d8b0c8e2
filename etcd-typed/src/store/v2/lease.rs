//! Emulates leases, which v2 lacks. This process remembers which keys it wrote with which lease,
//! and writes each key with the remaining time to live of the lease. `keep_alive` renews the time
//! to live of every key.
//!
//! The emulation has limits. No other process sees the lease or can attach keys to it. When this
//! process ends, the keys expire one by one within the lease's time. Each keep-alive changes the
//! keys' `modifiedIndex` (without an event). The conditions of this process allow for that; the
//! conditions of other processes cannot. A key that another client writes or deletes is no longer
//! attached. If a lease loses all its keys that way, the lease is lost too.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use tokio::time::{Instant, sleep, sleep_until};

use super::V2Store;
use super::encode::{self, Parameters};
use super::http::NAME;
use super::json::{Refusal, Reply};
use super::plan::{self, Guard};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::store::{Consistency, KeyValue, Span};
use crate::telemetry;

/// The leases of one store.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    /// Each lease has an asynchronous lock, which is held during requests. Otherwise a put and a
    /// keep-alive of the same lease would make each other's index stale.
    leases: HashMap<LeaseId, Arc<tokio::sync::Mutex<Lease>>>,
    /// The lease that each key was last written with.
    attached: HashMap<Key, LeaseId>,
    /// For each key that was written with a time to live: the index of that write, and the time at
    /// which the key expires. The server reports the remaining time only in whole seconds, rounded
    /// up.
    deadlines: HashMap<Key, (Revision, Instant)>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    /// All attached keys exist at least until this time.
    deadline: Instant,
    keys: BTreeMap<Key, Attached>,
}

/// What this process knows about a key that it wrote with a lease.
#[derive(Clone, Debug, Default)]
struct Attached {
    created: Revision,
    /// The index of the put. Between `written` and `modified` there were only refreshes, which keep
    /// the value.
    written: Revision,
    /// The index of this process's last put or refresh. `None` while the outcome of a put is
    /// unknown.
    modified: Option<Revision>,
    /// The values that this process may have written: the last known one, and those whose outcome
    /// is unknown.
    values: Vec<String>,
    /// True if a refresh with an unknown outcome was sent, which may have changed the index.
    unsure: bool,
}

impl Attached {
    /// Returns whether this process wrote `found`, the current value of the key.
    fn is(&self, found: &KeyValue) -> bool {
        let same_life = self.modified.is_none() || found.created == self.created;
        same_life && self.values.iter().any(|value| value.as_bytes() == found.value)
    }

    /// Returns whether this process wrote `found`, which was read earlier.
    fn was(&self, found: &KeyValue) -> bool {
        match self.index() {
            // A keep-alive may have changed the index after the read.
            Some(index) => (self.written..=index).contains(&found.modified),
            None => self.is(found),
        }
    }

    /// Returns the index of the key, unless a request of this process with an unknown outcome may
    /// have changed it.
    fn index(&self) -> Option<Revision> {
        self.modified.filter(|_| !self.unsure)
    }
}

impl Lease {
    fn left(&self) -> Option<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Ends the lease, also for a put that has already found the lease and waits for its lock.
    fn end(&mut self) {
        self.deadline = Instant::now();
    }
}

impl Leases {
    /// Detaches a key that this process wrote without a lease, or deleted.
    pub(super) async fn detach(&self, key: &Key) {
        let lease = {
            let mut book = self.book();
            let Some(id) = book.attached.remove(key) else { return };
            book.leases.get(&id).cloned()
        };
        if let Some(lease) = lease {
            lease.lock().await.keys.remove(key);
        }
    }

    /// Detaches all keys below a directory that this process deleted.
    pub(super) async fn detach_below(&self, directory: &Key) {
        let below = Span::Below(directory.clone());
        let attached: Vec<Key> = self.book().attached.keys().filter(|key| below.contains(key.as_bytes())).cloned().collect();
        for key in &attached {
            self.detach(key).await;
        }
    }

    /// Returns the `modifiedIndex` of a key that is attached to the lease, or `None` if the key is
    /// not attached or the index is unknown.
    pub(super) async fn attached_at(&self, id: LeaseId, key: &Key) -> Option<Revision> {
        let lease = self.find(id)?;
        let lease = lease.lock().await;
        lease.left()?;
        lease.keys.get(key)?.index()
    }

    /// Returns whether a key that was just read is attached to the lease.
    pub(super) async fn has(&self, id: LeaseId, key: &Key, found: &KeyValue) -> bool {
        let Some(lease) = self.find(id) else { return false };
        let lease = lease.lock().await;
        let Some(attached) = lease.left().and_then(|_| lease.keys.get(key)) else { return false };
        attached.was(found)
    }

    /// Records when a key expires. `None` means that it was written without a time to live.
    pub(super) fn ends(&self, key: &Key, written: Revision, deadline: Option<Instant>) {
        let mut book = self.book();
        match deadline {
            Some(deadline) => {
                if book.deadlines.len() == book.deadlines.capacity() {
                    let now = Instant::now();
                    book.deadlines.retain(|_, (_, deadline)| *deadline > now);
                }
                book.deadlines.insert(key.clone(), (written, deadline));
            }
            None => drop(book.deadlines.remove(key)),
        }
    }

    /// Adds the lease and the exact time to live to a key that was just read.
    pub(super) fn complete(&self, found: &mut KeyValue) {
        if found.ttl.is_none() {
            return;
        }
        found.lease = self.of(found);
        let book = self.book();
        if book.deadlines.is_empty() {
            return;
        }
        let key = std::str::from_utf8(&found.key).ok().and_then(|key| Key::parse(key).ok());
        if let Some((written, deadline)) = key.and_then(|key| book.deadlines.get(&key))
            && *written == found.modified
        {
            found.ttl = Some(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Returns the lease that a key that was just read is attached to. Does not wait: while a put
    /// or keep-alive holds the lock of the lease, returns the lease that is recorded for the key.
    fn of(&self, found: &KeyValue) -> Option<LeaseId> {
        let book = self.book();
        if book.attached.is_empty() {
            return None;
        }
        let key = Key::parse(std::str::from_utf8(&found.key).ok()?).ok()?;
        let id = *book.attached.get(&key)?;
        let lease = book.leases.get(&id)?;
        let is_ours = lease.try_lock().map_or(true, |lease| lease.left().is_some() && lease.keys.get(&key).is_some_and(|at| at.was(found)));
        is_ours.then_some(id)
    }

    /// Returns the current `modifiedIndex` of a key that was read with this index, if only
    /// keep-alives of this process have changed the index since. Otherwise returns the given index.
    pub(super) async fn follow(&self, key: &Key, revision: Revision) -> Revision {
        let owner = self.book().attached.get(key).copied();
        let Some(lease) = owner.and_then(|id| self.find(id)) else { return revision };
        let lease = lease.lock().await;
        match lease.keys.get(key) {
            Some(Attached { written, modified: Some(modified), .. }) if (written..=modified).contains(&&revision) => *modified,
            _ => revision,
        }
    }

    fn find(&self, id: LeaseId) -> Option<Arc<tokio::sync::Mutex<Lease>>> {
        self.book().leases.get(&id).cloned()
    }

    fn forget(&self, id: LeaseId) {
        let mut book = self.book();
        book.leases.remove(&id);
        book.attached.retain(|_, owner| *owner != id);
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        // No code panics while it holds the lock, so a poisoned lock still guards consistent data.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl V2Store {
    pub(super) async fn grant_lease(&self, id: LeaseId, ttl: Duration) -> Result<Duration> {
        let ttl = Duration::from_secs(plan::seconds(ttl));
        {
            let mut book = self.leases.book();
            let Book { leases, attached, .. } = &mut *book;
            // Remove expired leases and their keys. A lease whose lock is held counts as alive.
            leases.retain(|_, lease| lease.try_lock().map_or(true, |lease| lease.left().is_some()));
            attached.retain(|_, owner| leases.contains_key(owner));
            if leases.contains_key(&id) {
                return Err(Error::new(ErrorKind::AlreadyExists, format!("a lease {id} exists already")));
            }
            let lease = Lease { ttl, deadline: Instant::now() + ttl, keys: BTreeMap::new() };
            leases.insert(id, Arc::new(tokio::sync::Mutex::new(lease)));
        }
        Ok(ttl)
    }

    pub(super) async fn keep_lease_alive(&self, id: LeaseId) -> Result<Duration> {
        let shared = self.leases.find(id).ok_or_else(|| lost(id))?;
        let mut lease = shared.lock().await;
        if lease.left().is_none() {
            self.leases.forget(id);
            return Err(lost(id));
        }
        let sent = Instant::now();
        let ttl = lease.ttl;
        let keys = lease.keys.keys().cloned().collect::<Vec<_>>();
        for key in &keys {
            let Some(attached) = lease.keys.get_mut(key) else { continue };
            if !self.refresh(key, attached, ttl).await? {
                lease.keys.remove(key);
            }
        }
        if !keys.is_empty() && lease.keys.is_empty() {
            lease.end();
            self.leases.forget(id);
            return Err(lost(id));
        }
        lease.deadline = sent + ttl;
        Ok(ttl)
    }

    pub(super) async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        let Some(shared) = self.leases.find(id) else { return Ok(()) };
        let mut lease = shared.lock().await;
        while let Some((key, attached)) = lease.keys.first_key_value() {
            let (key, attached) = (key.clone(), attached.clone());
            self.delete_also_late(&key, &attached).await?;
            lease.keys.remove(&key);
        }
        lease.end();
        self.leases.forget(id);
        Ok(())
    }

    pub(super) async fn lease_time_to_live(&self, id: LeaseId) -> Option<Duration> {
        let lease = self.leases.find(id)?;
        let lease = lease.lock().await;
        lease.left()
    }

    pub(super) async fn put_with_lease(&self, id: LeaseId, key: &Key, value: &str, guard: &Guard) -> Result<Reply> {
        let shared = self.leases.find(id).ok_or_else(|| lost(id))?;
        let mut lease = shared.lock().await;
        let ttl = plan::seconds(lease.left().ok_or_else(|| lost(id))?);
        // The value is recorded before it is sent. If the future of this put is dropped, the server
        // may still apply the put, and this process must then refresh the key.
        let before = lease.keys.get(key).cloned();
        let mut unsure = before.clone().unwrap_or_default();
        unsure.values.push(value.to_owned());
        unsure.modified = None;
        lease.keys.insert(key.clone(), unsure);
        let sent = self.send_put(key, value, Some(ttl), guard).await;
        let refused = match &sent {
            Ok(reply) => reply.outcome.is_err(),
            Err(error) => !error.may_have_applied(),
        };
        if refused {
            match before {
                Some(before) => lease.keys.insert(key.clone(), before),
                None => lease.keys.remove(key),
            };
            return sent;
        }
        if let Ok(Reply { outcome: Ok(change), .. }) = &sent {
            let attached = Attached {
                created: Revision::new(change.node.created_index),
                written: Revision::new(change.node.modified_index),
                modified: Some(Revision::new(change.node.modified_index)),
                values: vec![value.to_owned()],
                unsure: false,
            };
            lease.keys.insert(key.clone(), attached);
        }
        drop(lease);
        // Remove the key from the lease that it was attached to before.
        let other = self.leases.book().attached.insert(key.clone(), id).filter(|other| *other != id);
        if let Some(other) = other.and_then(|other| self.leases.find(other)) {
            other.lock().await.keys.remove(key);
        }
        sent
    }

    /// Renews the time to live of a key. Returns false if the key is no longer attached.
    ///
    /// The request is conditional on the index, so it may be repeated while the outcome of an
    /// attempt is unknown: at most one attempt succeeds, and a read shows whether an earlier
    /// attempt did.
    async fn refresh(&self, key: &Key, attached: &mut Attached, ttl: Duration) -> Result<bool> {
        let path = &encode::path(key)?;
        self.insist(key, attached, "PUT", |modified| {
            let form = Parameters::default().flag("refresh").flag("prevExist").number("prevIndex", modified.get());
            let form = form.number("ttl", plan::seconds(ttl)).into_form();
            self.http.write_within(self.retry.read_attempt_timeout, Method::PUT, path, Some(form))
        })
        .await
    }

    /// Deletes a key if it is still attached. If the future of its put was dropped, the server may
    /// apply the put after the first look-up, and the key would then remain until its time to live
    /// ends. So the key is looked up repeatedly for the time of one attempt.
    async fn delete_also_late(&self, key: &Key, attached: &Attached) -> Result<()> {
        let deadline = Instant::now() + self.retry.read_attempt_timeout;
        let mut backoff = self.retry.backoff();
        while !self.delete_if_ours(key, &mut attached.clone()).await? && attached.modified.is_none() {
            let next = Instant::now() + backoff.next_delay();
            if next >= deadline {
                break;
            }
            sleep_until(next).await;
        }
        Ok(())
    }

    /// Deletes a key if it is still attached. Returns false if the key is no longer attached.
    async fn delete_if_ours(&self, key: &Key, attached: &mut Attached) -> Result<bool> {
        let path = &encode::path(key)?;
        self.insist(key, attached, "DELETE", |modified| {
            let target = Parameters::default().number("prevIndex", modified.get()).behind(path);
            async move { self.http.write_within(self.retry.read_attempt_timeout, Method::DELETE, &target, None).await }
        })
        .await
    }

    /// Repeats a write that is conditional on the index. Returns true when the write has succeeded,
    /// and false if the key is no longer attached.
    async fn insist<W, F>(&self, key: &Key, attached: &mut Attached, op: &'static str, write: W) -> Result<bool>
    where
        W: Fn(Revision) -> F,
        F: Future<Output = Result<Reply>>,
    {
        let deadline = self.http.deadline();
        let mut backoff = self.retry.backoff();
        loop {
            if let Some(modified) = attached.modified {
                // From here until the answer arrives, the write may have been applied, even if this
                // future is dropped.
                let unsure = std::mem::replace(&mut attached.unsure, true);
                match write(modified).await {
                    Ok(Reply { outcome: Ok(change), .. }) => {
                        attached.modified = Some(Revision::new(change.node.modified_index));
                        attached.unsure = false;
                        return Ok(true);
                    }
                    Ok(Reply { outcome: Err(refusal), .. }) if refusal.is_not_found() => return Ok(false),
                    // All earlier requests of this process were answered, so another client wrote
                    // the key, even if the value is the same.
                    Ok(Reply { outcome: Err(refusal), .. }) if refusal.code == Refusal::COMPARE_FAILED && !unsure => return Ok(false),
                    Ok(Reply { outcome: Err(refusal), .. }) if refusal.code == Refusal::COMPARE_FAILED => {}
                    Ok(Reply { outcome: Err(refusal), .. }) => return Err(refusal.into_error().at(key)),
                    Err(error) if !error.is_retryable() => return Err(error.at(key)),
                    Err(error) => {
                        let delay = backoff.next_delay();
                        if Instant::now() + delay >= deadline {
                            return Err(error.at(key));
                        }
                        telemetry::repeated(NAME, op, error.kind(), error.message());
                        sleep(delay).await;
                        continue;
                    }
                }
            }
            // The index may have been changed by another client, or by an earlier attempt whose
            // answer was lost.
            let found = match self.read_key(key, Consistency::Linearizable).await {
                Ok(found) => found,
                Err(error) if matches!(error.kind(), ErrorKind::IsADirectory | ErrorKind::NotADirectory) => return Ok(false),
                Err(error) => return Err(error.at(key)),
            };
            match found.kvs.first() {
                Some(kv) if attached.is(kv) => {
                    if attached.modified.is_none() {
                        attached.written = kv.modified;
                    }
                    attached.created = kv.created;
                    attached.modified = Some(kv.modified);
                    attached.unsure = false;
                }
                _ => return Ok(false),
            }
            if Instant::now() >= deadline {
                return Err(Error::new(ErrorKind::Timeout, "the key changes faster than it can be refreshed").at(key));
            }
        }
    }
}

fn lost(id: LeaseId) -> Error {
    Error::new(ErrorKind::LeaseLost, format!("lease {id} no longer exists"))
}
