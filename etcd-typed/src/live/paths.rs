//! The view of a directory without a schema.

use bytes::Bytes;

use super::map::LiveMap;
#[cfg(feature = "snapshot")]
use super::view::Keeping;
use super::view::{View, YieldCounter};
use crate::changes::Mirror;
use crate::error::Result;
use crate::revision::Revision;
use crate::schema::ChangedKeys;
#[cfg(feature = "snapshot")]
use crate::schema::{Look, NeededSecret};
use crate::store::BoxFuture;
use crate::version::{Versioned, Versions};

/// All values below a directory, by their stored paths.
pub(crate) struct PathsView {
    values: LiveMap<String, Bytes>,
    modified: Revision,
}

impl PathsView {
    pub(crate) fn new() -> Self {
        Self { values: LiveMap::new(), modified: Revision::ZERO }
    }

    fn take(&mut self, mirror: &Mirror, path: &str) {
        let stored = mirror.tree().get(path);
        self.modified = self.modified.max(stored.map_or_else(|| mirror.revision(), |stored| stored.modified));
        match stored {
            Some(stored) => self.values.insert(path.to_owned(), stored.value.clone()),
            None => self.values.remove(&path.to_owned()),
        }
    }

    fn state(&self, mirror: &Mirror) -> Versioned<LiveMap<String, Bytes>> {
        let versions = Versions { revision: mirror.revision(), modified: self.modified, ..Versions::default() };
        Versioned::new(self.values.clone(), versions)
    }
}

impl View for PathsView {
    type State = LiveMap<String, Bytes>;

    fn begin<'v>(&'v mut self, mirror: &'v Mirror) -> BoxFuture<'v, Result<Versioned<LiveMap<String, Bytes>>>> {
        Box::pin(async move {
            *self = Self::new();
            let mut counter = YieldCounter::default();
            for path in mirror.tree().keys() {
                counter.add(1).await;
                self.take(mirror, path);
            }
            Ok(self.state(mirror))
        })
    }

    fn touch<'v>(&'v mut self, mirror: &'v Mirror, changed: &'v ChangedKeys) -> BoxFuture<'v, Option<Result<Versioned<Self::State>>>> {
        Box::pin(async move {
            // The server may have returned with an older history than the view had seen. Then all
            // keys are read again.
            if self.modified > mirror.revision() {
                return Some(self.begin(mirror).await);
            }
            let mut counter = YieldCounter::default();
            for path in changed.keys() {
                counter.add(1).await;
                self.take(mirror, path);
            }
            (!changed.is_empty()).then(|| Ok(self.state(mirror)))
        })
    }

    #[cfg(feature = "snapshot")]
    fn anew(&self) -> Box<dyn View<State = LiveMap<String, Bytes>>> {
        Box::new(Self::new())
    }

    #[cfg(feature = "snapshot")]
    fn keeping(&self) -> Result<Keeping, NeededSecret> {
        let looks = vec![Look { keys: vec![String::new()], is_in_map: true }];
        Ok(Keeping { what: "a directory without a schema".to_owned(), keeps: Box::new(|_| true), looks })
    }
}
