//! The logic of one watch stream as a state machine. Messages from the server and commands from the
//! readers go in; requests and items come out. The machine contains no connection, no clock and no
//! task.
//!
//! For each watch the machine guarantees, whatever the server sends: revisions rise from item to
//! item, each revision comes once and as one batch, and only requested changes are yielded. As long
//! as the stream is intact, no change is missing. The rules, with their reasons:
//!
//! - A watch starts *at* the last known revision and drops everything up to that revision. Starting
//!   at the next revision would lose a delete at exactly the revision of a compaction (etcd #18089,
//!   in 3.4.23 and 3.5.1). A server may also replay old events in the middle of a stream (#15271).
//! - Right after a read at R, the watch starts at R + 1. A watch that starts at or below the
//!   store's revision would get its first event only from a loop that runs every 100 ms. If the
//!   server reports that it is at R, the watch has missed nothing. If the server reports a later
//!   revision, the watch is created again at R.
//! - A live watch is requested without a start revision. It begins after the revision in the
//!   server's answer, and the changes before that are skipped.
//! - The resume point is never taken from the header of a message with events, because that header
//!   contains the store's current revision even if the events are old.
//! - A revision is yielded when a later one begins, or when the message with all its fragments
//!   ends. Events held back until then are dropped with the stream. Their size is limited: a watch
//!   with a larger revision ends with `HistoryLost`, and its span is read again.
//! - One watch is created at a time, so an answer to a creation belongs to that watch, whatever id
//!   the answer contains. A refusal contains the id -1, or the requested id (3.5.0 to 3.5.5). A
//!   watch uses the id in the answer: a server takes the requested id, but etcd's `grpc-proxy`
//!   numbers watches itself, from 0.
//! - An answer to a progress request covers only the watches that were established when the request
//!   was made, because the message that a watch was created may overtake the answer. The answer
//!   counts only on servers that send it in order with the events (since 3.4.25 and 3.5.8: #15220).
//!   On other servers an idle watch keeps its resume point, and if it breaks after a compaction,
//!   its span is read again. `grpc-proxy` gets no progress requests: it ignores them (3.5 and
//!   later) or panics (3.4).

mod revision_buffer;

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;

use self::revision_buffer::RevisionBuffer;
use crate::revision::Revision;
use crate::store::v3::kv::{bounds, header_revision, number, revision};
use crate::store::v3::status::{Failure, Row, words_of_a_server};
use crate::store::v3::wire::{self, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, WatchStep};
use crate::store::{Batch, Watch, WatchFrom, WatchItem};

/// The number of a watch, which stays the same when the watch is created again.
pub(super) type Token = u64;

/// The most memory, in bytes, that one stream holds for incomplete revisions, events included. A
/// transaction is far smaller (`--max-request-bytes` is 1.5 MiB by default). The deletion of some
/// 400,000 keys is larger. Its span is then read again in pages.
const MOST_HELD: usize = 64 * 1024 * 1024;

/// An action for the task of the stream.
#[derive(Debug)]
pub(super) enum Output {
    /// Send this request.
    Send(WatchRequest),
    /// The watch is established: later writes will be seen. The server was at this revision.
    Established(Token, Revision),
    /// Yield this item to the reader. [`WatchItem::HistoryLost`] and [`WatchItem::Behind`] end the
    /// watch.
    Item(Token, WatchItem),
    /// The watch was refused or has ended, with this error.
    Failed(Token, Failure),
    /// The server violated the protocol: drop the stream with all its watches.
    Break(Failure),
}

/// The watches of one stream.
#[derive(Debug, Default)]
pub(super) struct Machine {
    outputs: VecDeque<Output>,
    /// The established watches by the server's id.
    watches: HashMap<i64, Followed>,
    ids: HashMap<Token, i64>,
    /// Watches whose creation was not requested yet.
    waiting: VecDeque<Followed>,
    /// The watch whose creation was requested but not answered.
    creating: Option<Creating>,
    /// Ids of watches that the client cancelled and whose end the server has not confirmed.
    /// Messages for these watches are late.
    cancelled: HashSet<i64>,
    last_id: i64,
    /// How many watches were ever established.
    established: u64,
    /// The value of `established` at the oldest unanswered progress request.
    asked: Option<u64>,
    progress_is_reliable: bool,
    /// True if an answer contained another id than the request, because the peer is a proxy that
    /// numbers watches itself.
    is_proxied: bool,
}

/// The watch whose creation was requested.
#[derive(Debug)]
struct Creating {
    requested: i64,
    watch: Followed,
    /// Whether the reader left before the server answered.
    abandoned: bool,
}

#[derive(Debug)]
struct Followed {
    token: Token,
    key: Bytes,
    range_end: Bytes,
    /// All changes up to this revision were yielded, or precede the watch.
    last: i64,
    start: Start,
    /// The last revision received, which may be incomplete.
    held: Option<RevisionBuffer>,
    /// The value of `established` after this watch was established. An answer to a progress request
    /// covers the watch only if this is at most `asked`.
    place: u64,
}

/// The start revision in the request that creates the watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// The revision `last` itself.
    AtLast,
    /// The revision after `last`. Correct only if nothing was written since `last`.
    AfterLast,
    /// No start revision, so the watch starts at the server's current revision.
    Now,
}

impl Machine {
    /// Returns the next action.
    pub(super) fn next(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Sets whether the server sends progress in order with the events.
    pub(super) fn set_progress_is_reliable(&mut self, yes: bool) {
        self.progress_is_reliable = yes;
    }

    /// Adds a watch for a reader.
    pub(super) fn add(&mut self, token: Token, watch: &Watch) {
        let (key, range_end) = bounds(&watch.span);
        let last = number(watch.from.revision());
        let start = match watch.from {
            WatchFrom::Listed(_) => Start::AfterLast,
            WatchFrom::Resumed(_) => Start::AtLast,
            WatchFrom::Live(_) => Start::Now,
        };
        self.want(Followed { token, key, range_end, last, start, held: None, place: 0 });
    }

    /// Removes the watch of a reader that left or is too slow.
    pub(super) fn remove(&mut self, token: Token) {
        if let Some(id) = self.ids.remove(&token) {
            self.cancel(id);
        } else if let Some(creating) = self.creating.as_mut().filter(|creating| creating.watch.token == token) {
            // A cancel request could reach the server before it has created the watch.
            creating.abandoned = true;
        } else {
            self.waiting.retain(|watch| watch.token != token);
        }
    }

    /// Asks the server for its revision, so that idle watches can advance.
    pub(super) fn ask_progress(&mut self) {
        if self.progress_is_reliable && !self.is_proxied && !self.watches.is_empty() {
            self.asked.get_or_insert(self.established);
            self.send(WatchStep::Progress(WatchProgressRequest {}));
        }
    }

    /// Returns the key and range end of the watch that is being created.
    pub(super) fn under_way(&self) -> Option<(Bytes, Bytes)> {
        self.creating.as_ref().map(|Creating { watch, .. }| (watch.key.clone(), watch.range_end.clone()))
    }

    /// Returns the watches that are not established yet.
    pub(super) fn not_established(&self) -> Vec<Token> {
        let creating = self.creating.as_ref().filter(|creating| !creating.abandoned).map(|creating| creating.watch.token);
        creating.into_iter().chain(self.waiting.iter().map(|watch| watch.token)).collect()
    }

    /// Updates the watches with a message from the server.
    pub(super) fn receive(&mut self, message: WatchResponse) {
        let header = message.header.as_ref().map_or(0, |header| header.revision);
        if message.created {
            self.answered(&message, header);
        } else if message.canceled {
            self.ended(&message);
        } else if message.events.is_empty() && !message.fragment {
            self.progress(message.watch_id, header);
        } else {
            self.events(message);
        }
    }

    fn want(&mut self, watch: Followed) {
        self.waiting.push_back(watch);
        self.create_next();
    }

    fn create_next(&mut self) {
        if self.creating.is_some() {
            return;
        }
        let Some(watch) = self.waiting.pop_front() else {
            return;
        };
        // An id is never requested twice on a stream. It is never 0, which would let the server
        // choose the id.
        self.last_id = self.last_id.saturating_add(1);
        let start_revision = match watch.start {
            // Zero would mean "now", and no revision is below 1.
            Start::AtLast => watch.last.max(1),
            Start::AfterLast => watch.last.saturating_add(1),
            Start::Now => 0,
        };
        let request = WatchCreateRequest {
            key: watch.key.clone(),
            range_end: watch.range_end.clone(),
            start_revision,
            progress_notify: true,
            watch_id: self.last_id,
            fragment: true,
        };
        self.creating = Some(Creating { requested: self.last_id, watch, abandoned: false });
        self.send(WatchStep::Create(request));
    }

    /// Processes the answer for the watch that is being created.
    fn answered(&mut self, message: &WatchResponse, header: i64) {
        let Some(Creating { requested, mut watch, abandoned }) = self.creating.take() else {
            return self.misbehaved("it created a watch that was not requested");
        };
        let (id, token) = (message.watch_id, watch.token);
        if message.canceled {
            if !abandoned {
                self.last_word(token, message);
            }
            return self.create_next();
        }
        if id < 0 || self.watches.contains_key(&id) || self.cancelled.contains(&id) {
            return self.misbehaved("it gave a new watch the id of another one");
        }
        self.is_proxied |= id != requested;
        if abandoned {
            self.cancel(id);
        } else if header < watch.last {
            self.cancel(id);
            self.outputs.push_back(Output::Established(token, revision(header)));
            self.outputs.push_back(Output::Item(token, WatchItem::Behind(revision(header))));
        } else if watch.start == Start::AfterLast && header > watch.last {
            // Something was written between the read and the watch.
            self.cancel(id);
            watch.start = Start::AtLast;
            self.want(watch);
        } else {
            self.outputs.push_back(Output::Established(token, revision(header)));
            if watch.start == Start::Now && header > watch.last {
                watch.last = header;
                self.outputs.push_back(Output::Item(token, WatchItem::Skipped(revision(header))));
            }
            self.established = self.established.saturating_add(1);
            watch.place = self.established;
            self.ids.insert(token, id);
            self.watches.insert(id, watch);
        }
        self.create_next();
    }

    /// Processes the message that the server has ended a watch.
    fn ended(&mut self, message: &WatchResponse) {
        let id = message.watch_id;
        if self.cancelled.remove(&id) {
            return;
        }
        let Some(watch) = self.watches.remove(&id) else {
            if id < 0 {
                self.misbehaved(&format!("it ended a watch without saying which: {}", message.cancel_reason));
            }
            return;
        };
        self.ids.remove(&watch.token);
        if self.is_proxied {
            // A proxy keeps an ended watch until the client cancels it, and lets later watches of
            // the same keys share it. Those watches would get no events.
            self.cancel(id);
        }
        self.last_word(watch.token, message);
    }

    /// Reports why a watch was refused or ended.
    fn last_word(&mut self, token: Token, message: &WatchResponse) {
        let row = words_of_a_server(&message.cancel_reason);
        if message.compact_revision > 0 || row == Some(Row::Compacted) {
            if message.created {
                self.outputs.push_back(Output::Established(token, header_revision(message.header.as_ref())));
            }
            let oldest = (message.compact_revision > 0).then(|| revision(message.compact_revision));
            self.outputs.push_back(Output::Item(token, WatchItem::HistoryLost { oldest }));
            return;
        }
        let reason = if message.cancel_reason.is_empty() { "the server ended the watch" } else { &message.cancel_reason };
        self.outputs.push_back(Output::Failed(token, Failure::new(row.unwrap_or(Row::Failing), reason)));
    }

    fn progress(&mut self, id: i64, header: i64) {
        if id < 0 {
            let Some(asked) = self.asked.take() else {
                return;
            };
            for watch in self.watches.values_mut() {
                if watch.place <= asked {
                    watch.progress(header, &mut self.outputs);
                }
            }
        } else if self.progress_is_reliable
            && let Some(watch) = self.watches.get_mut(&id)
        {
            watch.progress(header, &mut self.outputs);
        }
    }

    fn events(&mut self, message: WatchResponse) {
        let Some(watch) = self.watches.get_mut(&message.watch_id) else {
            // Either late events of a cancelled watch, or events of the watch that is being
            // created, whose id is unknown before its answer.
            if self.creating.is_some() && !self.cancelled.contains(&message.watch_id) {
                self.misbehaved("it sent events before the watch was created");
            }
            return;
        };
        let mut rest = message.events.as_slice();
        while let Some((event, after)) = rest.split_first() {
            if let Err(fault) = watch.event(event, after, &mut self.outputs) {
                return self.misbehaved(fault);
            }
            rest = after;
        }
        if !message.fragment
            && let Err(fault) = watch.flush(&mut self.outputs)
        {
            return self.misbehaved(fault);
        }
        if watch.held.is_some() {
            self.limit_held();
        }
    }

    /// Ends the watch that holds back the most, until the stream is within its limit.
    fn limit_held(&mut self) {
        let held = |watch: &Followed| watch.held.as_ref().map_or(0, RevisionBuffer::size);
        while self.watches.values().map(held).sum::<usize>() > MOST_HELD {
            let Some((&id, watch)) = self.watches.iter().max_by_key(|(_, watch)| held(watch)) else { return };
            let token = watch.token;
            self.ids.remove(&token);
            self.cancel(id);
            self.outputs.push_back(Output::Item(token, WatchItem::HistoryLost { oldest: None }));
        }
    }

    fn cancel(&mut self, id: i64) {
        self.watches.remove(&id);
        self.cancelled.insert(id);
        self.send(WatchStep::Cancel(WatchCancelRequest { watch_id: id }));
    }

    fn send(&mut self, step: WatchStep) {
        self.outputs.push_back(Output::Send(WatchRequest { step: Some(step) }));
    }

    fn misbehaved(&mut self, how: &str) {
        self.outputs.push_back(Output::Break(Failure::new(Row::Severed, format!("the watch stream cannot be trusted: {how}"))));
    }
}

impl Followed {
    /// Adds one event to the watch. `rest` has the events that follow it in the message.
    fn event(&mut self, event: &wire::Event, rest: &[wire::Event], outputs: &mut VecDeque<Output>) -> Result<(), &'static str> {
        let Some(kv) = &event.kv else {
            return Err("an event without a key");
        };
        let at = kv.mod_revision;
        match &self.held {
            Some(held) if at < held.revision() => return Err("its revisions went backwards"),
            Some(held) if at > held.revision() => self.flush(outputs)?,
            Some(_) => {}
            None if at <= self.last => return Ok(()),
            None => {}
        }
        self.held.get_or_insert_with(|| RevisionBuffer::begin(at, kv, rest)).push(event.r#type, kv);
        Ok(())
    }

    /// Yields the events that were held back. Their revision is complete.
    fn flush(&mut self, outputs: &mut VecDeque<Output>) -> Result<(), &'static str> {
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        let at = held.revision();
        let events = held.finish();
        // The keys of a transaction mostly ascend, which rules out duplicates.
        if !events.is_sorted_by(|one, next| one.key() < next.key()) {
            let mut keys = HashSet::with_capacity(events.len());
            if !events.iter().all(|event| keys.insert(event.key())) {
                return Err("a key came twice in one revision");
            }
        }
        self.last = at;
        outputs.push_back(Output::Item(self.token, WatchItem::Batch(Batch { revision: revision(at), events })));
        Ok(())
    }

    fn progress(&mut self, to: i64, outputs: &mut VecDeque<Output>) {
        if to > self.last && self.held.is_none() {
            self.last = to;
            outputs.push_back(Output::Item(self.token, WatchItem::Progress(revision(to))));
        }
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
