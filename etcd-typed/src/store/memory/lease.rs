//! The leases and their end times. No function reads a clock: the caller passes the time.
//! `engine.rs` deletes the keys of an ended lease.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::state::Moved;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::LeaseId;

/// The minimum time to live that a server with default flags grants: one and a half election
/// timeouts of one second, rounded up.
pub(super) const MIN_TTL: Duration = Duration::from_secs(2);

/// etcd's maximum time to live (`MaxLeaseTTL`).
const MAX_TTL: Duration = Duration::from_secs(9_000_000_000);

/// The leases, by id.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: BTreeMap<LeaseId, Lease>,
    /// The same leases, ordered by when they end.
    ends: BTreeSet<(Instant, LeaseId)>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    end: Instant,
    /// Sorted, because the events of a revocation come in key order.
    keys: BTreeSet<Bytes>,
}

impl Leases {
    /// Creates a lease and returns the granted time.
    pub(super) fn grant(&mut self, id: LeaseId, ttl: Duration, now: Instant) -> Result<Duration> {
        if self.leases.contains_key(&id) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("a lease {id} exists already")));
        }
        let ttl = granted(ttl)?;
        let end = end(now, ttl);
        self.leases.insert(id, Lease { ttl, end, keys: BTreeSet::new() });
        self.ends.insert((end, id));
        Ok(ttl)
    }

    /// Creates a lease with an unused id.
    pub(super) fn grant_unnamed(&mut self, ttl: Duration, now: Instant) -> Result<LeaseId> {
        let id = std::iter::repeat_with(LeaseId::random).find(|id| !self.leases.contains_key(id));
        let id = id.unwrap_or_else(LeaseId::random);
        self.grant(id, ttl, now).map(|_| id)
    }

    /// Renews a lease and returns its time to live.
    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Result<Duration> {
        let lease = self.leases.get_mut(&id).ok_or_else(|| lost(id))?;
        self.ends.remove(&(lease.end, id));
        lease.end = end(now, lease.ttl);
        self.ends.insert((lease.end, id));
        Ok(lease.ttl)
    }

    /// Renews all leases, as a server does after a restart.
    pub(super) fn keep_all_alive(&mut self, now: Instant) {
        self.ends.clear();
        for (id, lease) in &mut self.leases {
            lease.end = end(now, lease.ttl);
            self.ends.insert((lease.end, *id));
        }
    }

    /// Removes a lease and returns its keys.
    pub(super) fn remove(&mut self, id: LeaseId) -> Option<BTreeSet<Bytes>> {
        let lease = self.leases.remove(&id)?;
        self.ends.remove(&(lease.end, id));
        Some(lease.keys)
    }

    pub(super) fn time_to_live(&self, id: LeaseId, now: Instant) -> Option<Duration> {
        self.leases.get(&id).map(|lease| lease.end.saturating_duration_since(now))
    }

    /// Returns the lease that ends first, and when it ends.
    pub(super) fn first_end(&self) -> Option<(Instant, LeaseId)> {
        self.ends.first().copied()
    }

    /// Returns `LeaseLost` if no lease has this id.
    pub(super) fn check(&self, id: LeaseId) -> Result<()> {
        if self.leases.contains_key(&id) { Ok(()) } else { Err(lost(id)) }
    }

    /// Moves keys between leases, as a transaction or an expiry did.
    pub(super) fn moved(&mut self, moved: Vec<Moved>) {
        for Moved { key, from, to } in moved {
            if let Some(lease) = from.and_then(|id| self.leases.get_mut(&id)) {
                lease.keys.remove(&key);
            }
            if let Some(lease) = to.and_then(|id| self.leases.get_mut(&id)) {
                lease.keys.insert(key);
            }
        }
    }
}

/// Returns the time to live that an etcd server grants: whole seconds, rounded up, and at least the
/// minimum.
pub(super) fn granted(ttl: Duration) -> Result<Duration> {
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    let ttl = Duration::from_secs(seconds).max(MIN_TTL);
    if ttl > MAX_TTL {
        let message = format!("a time to live of {seconds} s; at most {} s are granted", MAX_TTL.as_secs());
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(ttl)
}

fn lost(id: LeaseId) -> Error {
    Error::new(ErrorKind::LeaseLost, format!("there is no lease {id}"))
}

/// Returns the time at which a lease ends. If the platform's clock cannot represent that time,
/// returns a time one year ahead instead; no store is expected to reach that either.
fn end(now: Instant, ttl: Duration) -> Instant {
    now.checked_add(ttl).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(number: u64) -> LeaseId {
        LeaseId::new(number).unwrap()
    }

    #[test]
    fn granted_time_is_rounded_up() {
        for (asked, given) in [(0, 2000), (1, 2000), (2000, 2000), (2001, 3000), (60_000, 60_000)] {
            assert_eq!(granted(Duration::from_millis(asked)).unwrap(), Duration::from_millis(given));
        }
        assert_eq!(granted(MAX_TTL).unwrap(), MAX_TTL);
        for too_long in [MAX_TTL + SECOND, Duration::MAX] {
            assert_eq!(granted(too_long).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn grant_refuses_existing_id() {
        let mut leases = Leases::default();
        let now = Instant::now();
        assert_eq!(leases.grant(id(1), 10 * SECOND, now).unwrap(), 10 * SECOND);
        assert_eq!(leases.grant(id(1), 10 * SECOND, now + SECOND).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(leases.time_to_live(id(1), now + SECOND), Some(9 * SECOND), "its time is unchanged");
    }

    #[test]
    fn earliest_lease_end_is_updated_by_every_change() {
        let mut leases = Leases::default();
        let now = Instant::now();
        leases.grant(id(1), 10 * SECOND, now).unwrap();
        leases.grant(id(2), 5 * SECOND, now).unwrap();
        assert_eq!(leases.first_end(), Some((now + 5 * SECOND, id(2))));
        assert_eq!(leases.keep_alive(id(2), now + 6 * SECOND).unwrap(), 5 * SECOND);
        assert_eq!(leases.first_end(), Some((now + 10 * SECOND, id(1))));
        leases.keep_all_alive(now + 7 * SECOND);
        assert_eq!(leases.first_end(), Some((now + 12 * SECOND, id(2))));
        leases.remove(id(2));
        assert_eq!(leases.first_end(), Some((now + 17 * SECOND, id(1))));
        leases.remove(id(1));
        assert_eq!(leases.first_end(), None);
    }

    #[test]
    fn unknown_lease_is_reported_as_lost() {
        let mut leases = Leases::default();
        assert_eq!(leases.keep_alive(id(1), Instant::now()).unwrap_err().kind(), ErrorKind::LeaseLost);
        assert_eq!(leases.check(id(1)).unwrap_err().kind(), ErrorKind::LeaseLost);
        assert_eq!(leases.time_to_live(id(1), Instant::now()), None);
        assert_eq!(leases.remove(id(1)), None);
    }
}
