//! Decides when written keys expire. A write that does not set an expiry keeps the existing expiry
//! of the key. A new key gets the expiry of the enclosing struct. If nothing expires, this costs no
//! extra request.

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::Context;
use crate::error::Result;
use crate::key::{self, Key};
use crate::schema::{Stored, Table, Tree, Witnesses};
use crate::store::{self, Compare, Condition, Expiry, KeyValue, Op, OpResult, Range, Span, Txn};

/// The expiry that a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestedExpiry {
    /// Keep the existing expiry.
    Keep,
    /// Set this expiry for everything that is written.
    Named(Expiry),
}

impl RequestedExpiry {
    /// Returns the requested expiry, or `Never` if the write sets none, as for a standalone key.
    pub(super) fn or_never(self) -> Expiry {
        self.named().unwrap_or(Expiry::Never)
    }

    pub(super) fn is_named(self) -> bool {
        self != Self::Keep
    }

    pub(super) fn named(self) -> Option<Expiry> {
        match self {
            Self::Keep => None,
            Self::Named(expiry) => Some(expiry),
        }
    }
}

impl Stored {
    pub(super) fn expiry(&self) -> Expiry {
        store::expiry(self.lease, self.ttl)
    }
}

/// The struct that contains the field of a handle.
#[derive(Debug)]
pub(crate) struct EnclosingStruct {
    directory: Key,
    table: &'static Table,
    /// The struct that contains this struct, if there is one.
    outer: Option<Arc<Self>>,
}

impl EnclosingStruct {
    pub(super) fn new(directory: Key, table: &'static Table, outer: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { directory, table, outer })
    }
}

/// The expiry of the structs around a key or a nested struct. The first write assumes that they
/// never expire. If this assumption is wrong, the server refuses the write, and its answer shows
/// the expiry.
#[derive(Clone, Debug, Default)]
pub(super) struct EnclosingExpiry {
    /// The enclosing structs, from the innermost outwards.
    levels: Vec<Level>,
    known: Option<Known>,
}

/// One enclosing struct, with the keys that show when it expires.
#[derive(Clone, Debug)]
struct Level {
    keys: Vec<Key>,
    witnesses: Witnesses,
}

/// The expiry of the enclosing structs, and the conditions under which that expiry is still right.
#[derive(Clone, Debug)]
struct Known {
    expiry: Expiry,
    compares: Vec<Compare>,
}

impl EnclosingExpiry {
    /// Creates the expiry for `own`, a key or directory in the struct `enclosing`. `own` itself
    /// does not count as a key that shows when the struct expires.
    pub(super) fn of(enclosing: Option<&Arc<EnclosingStruct>>, own: &Key) -> Self {
        let structs = std::iter::successors(enclosing, |enclosing| enclosing.outer.as_ref());
        let levels = structs.map(|enclosing| {
            let except = enclosing.directory.below(own.as_str().as_bytes()).unwrap_or_default();
            let witnesses = enclosing.table.witnesses(except);
            let keys = witnesses.segments().iter().map(|segment| enclosing.directory.descend(segment)).collect();
            Level { keys, witnesses }
        });
        Self { levels: levels.collect(), known: None }
    }

    /// Like [`of`](Self::of), for a write with this requested expiry. Empty if the write sets an
    /// expiry, since the enclosing structs do not matter then.
    pub(super) fn around(enclosing: Option<&Arc<EnclosingStruct>>, own: &Key, requested: RequestedExpiry) -> Self {
        if requested.is_named() { Self::default() } else { Self::of(enclosing, own) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys().next().is_none()
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        self.levels.iter().flat_map(|level| &level.keys)
    }

    /// Returns the expiry of a new key.
    pub(super) fn expiry(&self) -> Expiry {
        self.known.as_ref().map_or(Expiry::Never, |known| known.expiry)
    }

    /// Returns the conditions under which [`expiry`](Self::expiry) is right.
    pub(super) fn compares(&self) -> Vec<Compare> {
        match &self.known {
            Some(known) => known.compares.clone(),
            None => self.keys().map(|key| Compare::key(key, Condition::NeverExpires)).collect(),
        }
    }

    /// Returns the reads that a write performs if its conditions fail. [`learn`](Self::learn) takes
    /// the answers.
    pub(super) fn looks(&self) -> Vec<Op> {
        self.keys().map(|key| Op::Get(Span::Key(key.clone()))).collect()
    }

    /// Takes the expiry from the answers to [`looks`](Self::looks). `results` may contain other
    /// answers too. Returns true if the write had wrongly assumed that nothing expires.
    pub(super) fn learn(&mut self, results: &[OpResult]) -> bool {
        let found: Vec<_> = self.keys().map(|key| found_in(results, key).cloned()).collect();
        let was_wrong = self.known.is_none() && found.iter().flatten().any(|kv| kv.expiry() != Expiry::Never);
        self.know(found);
        was_wrong
    }

    /// Forgets the expiry because it is out of date. The next write assumes again that nothing
    /// expires.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }

    /// Reads the expiry for a write that cannot check its assumption about the expiry: a write in
    /// several steps, or a write on a store where a transaction cannot have conditions on other
    /// keys.
    ///
    /// # Errors
    ///
    /// The errors of the reads and of the guards.
    pub(super) async fn read(&mut self, context: &Context) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        if context.is_guarded() {
            let committed = context.commit(Txn { then: self.looks(), ..Txn::default() }).await?;
            self.learn(&committed.results);
            return Ok(());
        }
        let ask = async |key: &Key| context.asked().range(Range::of(Span::Key(key.clone()))).await.map_err(|error| error.at(key));
        let mut found = Vec::new();
        for reply in try_join_all(self.keys().map(ask)).await? {
            found.push(reply.kvs.into_iter().next());
        }
        self.know(found);
        Ok(())
    }

    fn know(&mut self, found: Vec<Option<KeyValue>>) {
        let mut found = found.into_iter();
        let mut known = Known { expiry: Expiry::Never, compares: Vec::new() };
        for level in &self.levels {
            let of_level: Vec<_> = level.keys.iter().map(|_| found.next().flatten()).collect();
            let told = level.witnesses.tell(&of_level, |kv| (kv.lease, kv.ttl.is_some()));
            if let Some((at, kv)) = told.and_then(|at| Some((level.keys.get(at)?, of_level.get(at)?.as_ref()?))) {
                known = Known { expiry: kv.expiry(), compares: vec![same_expiry(at, kv)] };
                break;
            }
        }
        self.known = Some(known);
    }
}

/// Returns the value of a key from the answers to reads.
pub(super) fn found_in<'r>(results: &'r [OpResult], key: &Key) -> Option<&'r KeyValue> {
    results.iter().find_map(|result| match result {
        OpResult::Get(reply) => reply.kvs.iter().find(|kv| kv.key == key.as_str().as_bytes()),
        OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
    })
}

/// Returns the condition that a key still has the same expiry.
pub(super) fn same_expiry(key: &Key, kv: &KeyValue) -> Compare {
    let condition = match (kv.lease, kv.ttl) {
        (Some(lease), _) => Condition::Lease(lease),
        // A time to live without a lease (v2) starts again with every write.
        (None, Some(_)) => Condition::Modified(kv.modified),
        (None, None) => Condition::NeverExpires,
    };
    Compare::key(key, condition)
}

/// Returns the expiry of a struct's key after a write that keeps the expiry. `tree` contains the
/// stored keys. Returns `None` if the expiry depends on the structs around this one.
pub(super) fn kept(table: &'static Table, tree: &Tree, relative: &str) -> Option<Expiry> {
    if let Some(stored) = tree.get(relative) {
        return Some(keep_in_step(table, tree, relative, stored));
    }
    // The write moves a value from an alias, or from the key of an earlier version of this library,
    // to the field's own key. The value keeps its expiry.
    if let Some(stored) = key::with_escaped_underscores(relative).and_then(|older| tree.get(&older)) {
        return Some(stored.expiry());
    }
    let alias = table.aliases_of(relative).iter().find_map(|alias| tree.get(alias));
    alias.or_else(|| around(table, tree, relative).map(|(_, stored)| stored)).map(Stored::expiry)
}

/// Returns the key that shows when the struct around `relative` expires, and its stored value.
pub(super) fn around<'t>(table: &'static Table, tree: &'t Tree, relative: &str) -> Option<(String, &'t Stored)> {
    table.structs_around(relative).into_iter().rev().find_map(|(prefix, table)| {
        let witnesses = table.witnesses(relative.get(prefix.len()..).unwrap_or_default());
        let keys: Vec<_> = witnesses.segments().iter().map(|segment| [&prefix, *segment].concat()).collect();
        let stored: Vec<_> = keys.iter().map(|key| tree.get(key)).collect();
        let at = witnesses.tell(&stored, |stored| (stored.lease, stored.ttl.is_some()))?;
        Some((keys.into_iter().nth(at)?, stored.into_iter().nth(at)??))
    })
}

/// Returns the expiry of a stored key that a write keeps. If the time to live of the key differs
/// from that of its struct only by rounding to whole seconds, returns the time of the struct.
/// Otherwise repeated writes would let the two times drift apart.
fn keep_in_step(table: &'static Table, tree: &Tree, relative: &str, stored: &Stored) -> Expiry {
    if let (None, Some(own)) = (stored.lease, stored.ttl)
        && let Some((_, Stored { lease: None, ttl: Some(of_struct), .. })) = around(table, tree, relative)
        && own.abs_diff(*of_struct).as_secs() <= 2
    {
        return Expiry::After(*of_struct);
    }
    stored.expiry()
}

impl Witnesses {
    fn segments(&self) -> &[&'static str] {
        match self {
            Self::First(segments) | Self::Every(segments) => segments,
        }
    }

    /// Returns the index of the key that shows the expiry. `found` contains the stored value of
    /// each key, if the key exists.
    fn tell<T, E: PartialEq>(&self, found: &[Option<T>], expiry: impl Fn(&T) -> E) -> Option<usize> {
        match self {
            Self::First(_) => found.iter().position(Option::is_some),
            Self::Every(_) => {
                let mut all = found.iter().map(|found| found.as_ref().map(&expiry));
                let first = all.next()??;
                all.all(|other| other.as_ref() == Some(&first)).then_some(0)
            }
        }
    }
}
