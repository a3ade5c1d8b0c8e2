//! What the events of a v2 server mean for a watch, and from where to ask for the next. No I/O.
//!
//! A poll gives one event. The server's history and its live events disagree on hidden names, and the history matches by prefix of text
//! (deleting `/pf` answers a watch of `/pfoobar`), so every event is checked here once more, by whole segments.

use super::encode::{self, Parameters};
use super::json::{Action, Change, Node};
use crate::error::Result;
use crate::key::{Key, is_hidden};
use crate::revision::Revision;
use crate::store::{Batch, Event, KeyValue, Span, Watch, WatchItem};

/// The state of one watch.
#[derive(Debug)]
pub(super) struct Machine {
    span: Span,
    /// Everything before it has been yielded.
    next: Revision,
}

/// What an answer was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Item(WatchItem),
    /// An event from before the start, or none: it is not yielded, and asking again at once may give the same.
    Stale,
}

impl Machine {
    pub(super) fn new(watch: Watch) -> Self {
        Self { next: watch.from.revision().next(), span: watch.span }
    }

    /// Everything up to here has been yielded.
    pub(super) fn yielded(&self) -> Revision {
        self.next.previous()
    }

    /// The address of a poll for what comes after `revision`, or after what has been yielded if that is later.
    pub(super) fn poll_after(&self, revision: Revision) -> Result<String> {
        let parameters = Parameters::default().flag("wait").number("waitIndex", self.next.max(revision.next()).get());
        let parameters = match self.span {
            Span::Key(_) => parameters,
            Span::Below(_) => parameters.flag("recursive"),
        };
        Ok(parameters.behind(&encode::path(self.span.key())?))
    }

    /// The address of a linearizable read that is short and that whoever may watch the span may do.
    pub(super) fn probe(&self) -> Result<String> {
        let key = match &self.span {
            Span::Key(key) => key.clone(),
            Span::Below(directory) => directory.descend("_"),
        };
        Ok(Parameters::default().flag("quorum").behind(&encode::path(&key)?))
    }

    /// Takes an event.
    pub(super) fn event(&mut self, change: Change) -> Seen {
        let revision = Revision::new(change.node.modified_index);
        if revision < self.next || change.action == Action::Get {
            return Seen::Stale;
        }
        self.next = revision.next();
        Seen::Item(match self.understand(change) {
            Some(event) => WatchItem::Batch(Batch { revision, events: vec![event] }),
            None => WatchItem::Progress(revision),
        })
    }

    /// Takes note that nothing up to `revision` is still to come.
    pub(super) fn quiet(&mut self, revision: Revision) -> Option<WatchItem> {
        (revision >= self.next).then(|| {
            self.next = revision.next();
            WatchItem::Progress(revision)
        })
    }

    fn understand(&self, change: Change) -> Option<Event> {
        let Change { action, node, previous } = change;
        // Servers of some versions leave `dir` out of one of the two when a directory expires.
        let was_directory = previous.as_ref().is_some_and(|previous| previous.dir);
        let is_directory = node.dir || (action.removes() && was_directory);
        // A name that the server could not give as it is is none of ours, as on v3.
        let place = node.key.as_str().map_or(Place::Elsewhere, |key| self.place(key));
        match (place, action.removes(), is_directory) {
            (Place::Inside, false, false) => Some(Event::Put { kv: node.into_kv(), previous: value(previous) }),
            (Place::Inside, false, true) => {
                // A directory comes to be, or its time changes: its keys tell for themselves. But it may have replaced a value.
                let previous = value(previous)?;
                Some(Event::Delete { key: node.key.into_bytes(), directory: false, previous: Some(previous) })
            }
            (Place::Inside, true, false) => Some(Event::Delete { key: node.key.into_bytes(), directory: false, previous: value(previous) }),
            // One event for all that was in it.
            (Place::Inside | Place::Above, true, true) => Some(Event::Delete { key: node.key.or_root(), directory: true, previous: None }),
            (Place::Above, ..) | (Place::Elsewhere, ..) => None,
        }
    }

    fn place(&self, key: &str) -> Place {
        let root = self.span.key();
        let above = |directory: &str| Key::parse(directory).is_ok_and(|directory| directory.below(root.as_str().as_bytes()).is_some());
        match &self.span {
            Span::Key(watched) if watched.as_str() == key => Place::Inside,
            Span::Key(_) if above(key) => Place::Above,
            Span::Below(_) => match root.below(key.as_bytes()) {
                Some(relative) if relative.split('/').any(is_hidden) => Place::Elsewhere,
                Some(_) => Place::Inside,
                None if root.as_str() == key || above(key) => Place::Above,
                None => Place::Elsewhere,
            },
            Span::Key(_) => Place::Elsewhere,
        }
    }
}

/// Where the key of an event is, seen from the span.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// In the span.
    Inside,
    /// A directory that holds the span.
    Above,
    /// Not in the span, or hidden from it.
    Elsewhere,
}

/// The value that was there, if there was one.
fn value(previous: Option<Node>) -> Option<Box<KeyValue>> {
    previous.filter(|node| !node.dir).map(|node| Box::new(node.into_kv()))
}

#[cfg(test)]
mod tests;
