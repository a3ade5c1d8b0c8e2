//! `OneKey`: the value of one key, with every change that a watch has reported.
//! [`Mirror`](super::Mirror) does the same for a directory. `OneKey` has no tree, since a program
//! may watch thousands of keys. Does no I/O.

use super::mirror::told;
use crate::key::Key;
use crate::revision::Revision;
use crate::schema::Stored;
use crate::store::Event;
use crate::watch::{Snapshot, Step};

/// The value of a key, updated with the steps of a watch.
#[derive(Debug)]
pub(super) struct OneKey {
    /// The current value. Boxed, so that it takes little memory until it is known: thousands of
    /// watches may start at once.
    now: Option<Box<Stored>>,
    revision: Revision,
    /// False while the watch started at a revision whose state could not be read, so that the value
    /// may be unknown.
    complete: bool,
}

/// A step that changed the key or reported lost history, with the value before the step. [`OneKey`]
/// has the value after the step.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OneKeyChange {
    pub(super) revision: Revision,
    pub(super) resynced: bool,
    /// True if the value before the step was known.
    pub(super) known: bool,
    pub(super) before: Option<Stored>,
}

impl OneKey {
    /// Creates a value with the state of a snapshot.
    pub(super) fn new(key: &Key, start: Snapshot) -> Self {
        Self { revision: start.revision, complete: start.known, now: find(key, start) }
    }

    /// Creates an unknown value at a revision whose state cannot be read.
    pub(super) fn unknown(revision: Revision) -> Self {
        Self { now: None, revision, complete: false }
    }

    pub(super) fn now(&self) -> Option<&Stored> {
        self.now.as_deref()
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether the current value is known.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Applies a step. Returns `None` if the step did not change the key. A step that reports lost
    /// history is returned even if the value is the same, since the watch did not see intermediate
    /// values.
    pub(super) fn apply(&mut self, key: &Key, step: Step) -> Option<OneKeyChange> {
        match step {
            Step::Reset(snapshot) => {
                let (revision, known) = (snapshot.revision, snapshot.known);
                let before = std::mem::replace(&mut self.now, find(key, snapshot)).map(|stored| *stored);
                let known_before = std::mem::replace(&mut self.complete, known);
                self.revision = revision;
                Some(OneKeyChange { revision, resynced: true, known: known_before, before })
            }
            Step::Progress(revision) => {
                self.revision = self.revision.max(revision);
                None
            }
            Step::Batch(batch) => {
                self.revision = self.revision.max(batch.revision);
                // If a step changes the key several times, the first change has the earlier value.
                let mut first = None;
                for event in batch.events {
                    let before = self.event(key, event);
                    first = first.or(before);
                }
                first.map(|before| OneKeyChange { revision: batch.revision, resynced: false, known: self.complete, before })
            }
        }
    }

    /// Applies an event. Returns the earlier value, or `None` if the event does not change the key.
    fn event(&mut self, key: &Key, event: Event) -> Option<Option<Stored>> {
        let complete = self.complete;
        match event {
            Event::Put { kv, previous } if is(key, &kv.key) => {
                // Keep the value without a copy: the batch contains no other event, and all watches
                // of the key share the value.
                let now = Stored::from(kv);
                let old = match &mut self.now {
                    Some(stored) => Some(std::mem::replace(&mut **stored, now)),
                    None => {
                        self.now = Some(Box::new(now));
                        None
                    }
                };
                Some(old.or_else(|| told(previous, complete)))
            }
            Event::Delete { key: deleted, directory: false, previous } if is(key, &deleted) => {
                let old = self.now.take().map(|stored| *stored);
                // If the key is known not to exist, its deletion is not a change.
                (old.is_some() || !complete).then(|| old.or_else(|| told(previous, complete)))
            }
            Event::Delete { key: deleted, directory: true, .. } if is_below(key, &deleted) => self.now.take().map(|stored| Some(*stored)),
            Event::Put { .. } | Event::Delete { .. } => None,
        }
    }
}

fn find(key: &Key, snapshot: Snapshot) -> Option<Box<Stored>> {
    snapshot.kvs.into_iter().find(|kv| is(key, &kv.key)).map(|kv| Box::new(Stored::from(kv)))
}

fn is(key: &Key, stored: &[u8]) -> bool {
    key.as_str().as_bytes() == stored
}

/// Whether the key is below the directory, at any depth.
fn is_below(key: &Key, directory: &[u8]) -> bool {
    let directory = directory.strip_suffix(b"/").unwrap_or(directory);
    key.as_str().as_bytes().strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::changes::Mirror;
    use crate::store::{Batch, KeyValue};
    use crate::watch::Reason;

    const KEYS: [&str; 8] = ["/a/b", "/a/bb", "/a", "/a/b/c", "/a/b/", "/a/", "/", "/x"];

    fn kv(key: usize, value: u8, revision: u64) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(KEYS[key].as_bytes()),
            value: Bytes::from(vec![value]),
            created: Revision::new(1),
            modified: Revision::new(revision),
            version: None,
            lease: None,
            ttl: None,
        }
    }

    fn event(revision: u64) -> impl Strategy<Value = Event> {
        let previous = move || prop::option::of((0..KEYS.len(), 0..3_u8).prop_map(|(key, value)| Box::new(kv(key, value, 1))));
        let put = (0..KEYS.len(), 0..3_u8, previous())
            .prop_map(move |(key, value, previous)| Event::Put { kv: kv(key, value, revision), previous });
        let delete = (0..KEYS.len(), any::<bool>(), previous()).prop_map(|(key, directory, previous)| Event::Delete {
            key: Bytes::from_static(KEYS[key].as_bytes()),
            directory,
            previous,
        });
        prop_oneof![put, delete]
    }

    fn snapshot(revision: u64) -> impl Strategy<Value = Snapshot> {
        (prop::option::of((0..3_u8, 0..4_u64)), any::<bool>()).prop_map(move |(value, known)| Snapshot {
            revision: Revision::new(revision),
            kvs: value.into_iter().map(|(value, modified)| kv(0, value, modified)).collect(),
            known,
            reason: Reason::HistoryLost,
        })
    }

    fn step(revision: u64) -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => prop::collection::vec(event(revision), 1..4)
                .prop_map(move |events| Step::Batch(Batch { revision: Revision::new(revision), events })),
            1 => snapshot(revision).prop_map(Step::Reset),
            1 => Just(Step::Progress(Revision::new(revision))),
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        (10..20_u64).prop_flat_map(|last| (10..last).map(step).collect::<Vec<_>>())
    }

    /// Removes events for other keys of the directory, so that the directory's mirror sees the same
    /// events as `OneKey`.
    fn of_the_key(step: Step) -> Step {
        let Step::Batch(Batch { revision, events }) = step else { return step };
        let concerns = |event: &Event| match event {
            Event::Put { kv, .. } => kv.key == KEYS[0],
            Event::Delete { directory: true, .. } => true,
            Event::Delete { key, .. } => key == KEYS[0],
        };
        Step::Batch(Batch { revision, events: events.into_iter().filter(concerns).collect() })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn one_key_reports_same_changes_as_mirror(start in prop::option::of(snapshot(9)), steps in steps()) {
            let (key, directory) = (Key::parse(KEYS[0]).unwrap(), Key::parse("/a").unwrap());
            let (mut one, mut mirror) = match start {
                Some(start) => (OneKey::new(&key, start.clone()), Mirror::new(directory, start)),
                None => (OneKey::unknown(Revision::new(9)), Mirror::unknown(directory, Revision::new(9))),
            };
            for step in steps {
                let told = one.apply(&key, step.clone());
                let (known, here) = (mirror.is_complete(), mirror.tree().get("b").cloned());
                let touch = mirror.apply(of_the_key(step)).and_then(|touch| {
                    let changed = touch.changed.get("b").cloned();
                    // A reset is reported even if it does not change the key.
                    let before = changed.or_else(|| touch.resynced.then_some(here))?;
                    Some(OneKeyChange { revision: touch.revision, resynced: touch.resynced, known, before })
                });
                prop_assert_eq!(told, touch);
                prop_assert_eq!(one.now(), mirror.tree().get("b"));
                prop_assert_eq!((one.revision(), one.is_complete()), (mirror.revision(), mirror.is_complete()));
            }
        }
    }
}
