//! A store that yields around each call, for tests that drop a future at each of its await points.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_typed::LeaseId;
use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::{Call, HookedStore, Reply};
use futures_util::StreamExt;
use tokio::task::yield_now;

/// The ids of the leases that a store was asked to grant.
#[derive(Clone, Debug, Default)]
pub struct Granted(Arc<Mutex<Vec<LeaseId>>>);

impl Granted {
    /// Returns the ids so far, in the order of the requests.
    ///
    /// # Panics
    ///
    /// Panics if another thread panicked while it added an id.
    #[must_use]
    pub fn ids(&self) -> Vec<LeaseId> {
        self.0.lock().unwrap().clone()
    }
}

/// Wraps a store. The wrapper yields once before and after each call, and before each item of a
/// watch. It also delays each item by `late`.
#[must_use]
pub fn yielding(memory: &MemoryStore, late: Duration) -> (HookedStore, Granted) {
    let granted = Granted::default();
    let leases = granted.clone();
    let store = HookedStore::new(Arc::new(memory.clone()), move |call, store| {
        if let Call::Grant { id, .. } = call {
            leases.0.lock().unwrap().push(id);
        }
        async move {
            yield_now().await;
            let reply = call.send(&store).await;
            yield_now().await;
            let Ok(Reply::Watch(items)) = reply else { return reply };
            let items = items.then(move |item| async move {
                yield_now().await;
                if !late.is_zero() {
                    tokio::time::sleep(late).await;
                }
                item
            });
            Ok(Reply::Watch(items.boxed()))
        }
    });
    (store, granted)
}
