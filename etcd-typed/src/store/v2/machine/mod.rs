//! Decides what the events of a v2 server mean for a watch, and where the next poll starts. Does no
//! I/O.
//!
//! A poll returns one event. The server's history and its live events treat hidden names
//! differently, and the history matches text prefixes: deleting `/pf` answers a watch of
//! `/pfoobar`. So this module checks every event again, by whole path segments.

use super::encode::{self, Parameters};
use super::json::{Action, Change, Node};
use crate::error::Result;
use crate::key::{Key, is_hidden_on_v2};
use crate::revision::Revision;
use crate::store::{Batch, Event, KeyValue, Span, Watch, WatchItem};

/// The state of one watch.
#[derive(Debug)]
pub(super) struct Machine {
    span: Span,
    /// Everything before this revision has been yielded.
    next: Revision,
}

/// The meaning of a server's answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Item(WatchItem),
    /// The answer has an event from before the start of the poll, or no event. Nothing is yielded,
    /// and another poll may get the same answer at once.
    Stale,
}

impl Machine {
    pub(super) fn new(watch: Watch) -> Self {
        Self { next: watch.from.revision().next(), span: watch.span }
    }

    /// Returns the revision up to which everything has been yielded.
    pub(super) fn yielded(&self) -> Revision {
        self.next.previous()
    }

    /// Returns the address of a poll for events after `revision`, or after the yielded revision if
    /// that is later.
    pub(super) fn poll_after(&self, revision: Revision) -> Result<String> {
        let parameters = Parameters::default().flag("wait").number("waitIndex", self.next.max(revision.next()).get());
        let parameters = match self.span {
            Span::Key(_) => parameters,
            // `open_watch` refuses ranges.
            Span::Below(_) | Span::Between { .. } => parameters.flag("recursive"),
        };
        Ok(parameters.behind(&encode::path(self.span.key())?))
    }

    /// Returns the address of a linearizable read with a short answer. Permission to watch the span
    /// suffices for this read.
    pub(super) fn probe(&self) -> Result<String> {
        let key = match &self.span {
            Span::Key(key) => key.clone(),
            Span::Below(directory) | Span::Between { start: directory, .. } => directory.descend("_"),
        };
        Ok(Parameters::default().flag("quorum").behind(&encode::path(&key)?))
    }

    /// Turns an event into an item of the watch.
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

    /// Records that no event up to `revision` is outstanding. Returns a progress item if that was
    /// not recorded yet.
    pub(super) fn quiet(&mut self, revision: Revision) -> Option<WatchItem> {
        (revision >= self.next).then(|| {
            self.next = revision.next();
            WatchItem::Progress(revision)
        })
    }

    fn understand(&self, change: Change) -> Option<Event> {
        let Change { action, node, previous } = change;
        // When a directory expires, some server versions omit `dir` from one of the two nodes.
        let was_directory = previous.as_ref().is_some_and(|previous| previous.dir);
        let is_directory = node.dir || (action.removes() && was_directory);
        // A key that is not UTF-8 arrives changed. Such a key does not belong to the span, as on
        // v3.
        let position = node.key.as_str().map_or(KeyPosition::Elsewhere, |key| self.position(key));
        match (position, action.removes(), is_directory) {
            (KeyPosition::Inside, false, false) => Some(Event::Put { kv: node.into_kv(), previous: value(previous) }),
            (KeyPosition::Inside, false, true) => {
                // A directory was created, or its time to live changed. Its keys have events of
                // their own, but the directory may have replaced a value.
                let previous = value(previous)?;
                Some(Event::Delete { key: node.key.into_bytes(), directory: false, previous: Some(previous) })
            }
            (KeyPosition::Inside, true, false) => {
                Some(Event::Delete { key: node.key.into_bytes(), directory: false, previous: value(previous) })
            }
            // The deletion of a directory is one event for all its contents.
            (KeyPosition::Inside | KeyPosition::Above, true, true) => {
                Some(Event::Delete { key: node.key.or_root(), directory: true, previous: None })
            }
            (KeyPosition::Above, ..) | (KeyPosition::Elsewhere, ..) => None,
        }
    }

    fn position(&self, key: &str) -> KeyPosition {
        let root = self.span.key();
        let above = |directory: &str| Key::parse(directory).is_ok_and(|directory| directory.below(root.as_str().as_bytes()).is_some());
        match &self.span {
            Span::Key(watched) if watched.as_str() == key => KeyPosition::Inside,
            Span::Key(_) if above(key) => KeyPosition::Above,
            Span::Below(_) => match root.below(key.as_bytes()) {
                Some(relative) if relative.split('/').any(is_hidden_on_v2) => KeyPosition::Elsewhere,
                Some(_) => KeyPosition::Inside,
                None if root.as_str() == key || above(key) => KeyPosition::Above,
                None => KeyPosition::Elsewhere,
            },
            Span::Key(_) | Span::Between { .. } => KeyPosition::Elsewhere,
        }
    }
}

/// The position of an event's key relative to the span.
#[derive(Debug, PartialEq, Eq)]
enum KeyPosition {
    /// The key is in the span.
    Inside,
    /// The key is a directory that contains the span.
    Above,
    /// The key is outside the span, or hidden from it.
    Elsewhere,
}

/// Returns the previous value, if there was one.
fn value(previous: Option<Node>) -> Option<Box<KeyValue>> {
    previous.filter(|node| !node.dir).map(|node| Box::new(node.into_kv()))
}

#[cfg(test)]
mod tests;
