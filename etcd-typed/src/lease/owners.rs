//! `Owners`: records the values that a client publishes with leases that the caller keeps.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::key::Key;
use crate::revision::LeaseId;

/// The values that a client publishes with borrowed leases, by lease and key. If several guards
/// publish at one key with one lease, the lease does not show which guard wrote the value. In this
/// case the key belongs to the newest guard.
#[derive(Default)]
pub(super) struct Owners(Mutex<HashMap<(LeaseId, Key), Owned>>);

#[derive(Default)]
pub(super) struct Owned {
    /// The number of each guard, the newest last, and a channel that reports to the guard whether
    /// it is the newest.
    pub(super) guards: Vec<(u64, watch::Sender<bool>)>,
    /// The number of the next guard.
    pub(super) next: u64,
    /// Whether a request with an unknown outcome may still write the key.
    pub(super) in_doubt: bool,
}

impl Owners {
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut HashMap<(LeaseId, Key), Owned>) -> R) -> R {
        // No code panics while it holds this lock, so the data of a poisoned lock is consistent.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
