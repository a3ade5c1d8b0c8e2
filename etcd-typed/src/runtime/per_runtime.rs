//! `PerRuntime`: one value per runtime.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use super::KnownRuntime;

/// Holds a value for each runtime, for values that runtimes cannot share. A connection is such a
/// value: data in a socket moves only while the socket's runtime is driven.
pub(crate) struct PerRuntime<T> {
    values: ArcSwap<Vec<Own<T>>>,
    /// Locked while a value is added.
    adding: Mutex<()>,
}

struct Own<T> {
    /// The runtime, or `None` for the value of callers outside of a runtime.
    known: Option<KnownRuntime>,
    value: Arc<T>,
}

impl<T> PerRuntime<T> {
    /// Returns the value of the current runtime, and creates the value if there is none yet.
    /// Creating a value also drops the values of ended runtimes.
    pub(crate) fn here(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let here = Handle::try_current().ok();
        if let Some(found) = self.find(here.as_ref()) {
            return found;
        }
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread of this runtime may have added the value in the meantime.
        if let Some(found) = self.find(here.as_ref()) {
            return found;
        }
        let value = Arc::new(make());
        let others = self.values.load();
        let alive = others.iter().filter(|own| own.known.as_ref().is_none_or(|known| !known.has_ended()));
        let own = Own { known: here.map(KnownRuntime::of), value: value.clone() };
        self.values.store(Arc::new(alive.cloned().chain([own]).collect()));
        value
    }

    fn find(&self, here: Option<&Handle>) -> Option<Arc<T>> {
        let here = here.map(Handle::id);
        let values = self.values.load();
        values.iter().find(|own| own.known.as_ref().map(|known| known.id) == here).map(|own| own.value.clone())
    }
}

impl<T> Clone for Own<T> {
    fn clone(&self) -> Self {
        Self { known: self.known.clone(), value: self.value.clone() }
    }
}

impl<T> Default for PerRuntime<T> {
    fn default() -> Self {
        Self { values: ArcSwap::default(), adding: Mutex::default() }
    }
}

impl<T> fmt::Debug for PerRuntime<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerRuntime").field("runtimes", &self.values.load().len()).finish_non_exhaustive()
    }
}
