//! What a write of many keys comes to: which are put, which deleted, under which conditions. Deciding it is pure; `commit` sends it.

use std::time::Duration;

use bytes::Bytes;

use super::Context;
use super::expiry::Surroundings;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::schema::{Encoded, Table, Tree};
use crate::store::{Committed, Compare, Condition, Expiry, Op, Span, Txn};

/// Writes below one directory; keys are relative to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) puts: Vec<Put>,
    pub(super) deletes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) key: String,
    pub(super) value: Bytes,
    /// When it expires; none: with the struct around what is written.
    pub(super) expiry: Option<Expiry>,
}

impl Put {
    fn new((key, value): (String, Bytes)) -> Self {
        Self { key, value, expiry: None }
    }
}

/// Which keys below a directory a handle owns: those of a struct, or those of a map that fills the directory.
#[derive(Clone, Copy)]
pub(super) enum Owner {
    Struct(&'static Table),
    /// A map of structs.
    Dirs(&'static Table),
    /// A map of values.
    Entries {
        /// Whose values are not to be shown.
        secret: bool,
    },
}

impl Owner {
    pub(super) fn owns(self, relative: &str) -> bool {
        match (self, relative.split_once('/')) {
            (Self::Struct(table), _) => table.owns(relative),
            (Self::Entries { .. }, None) => crate::key::unescape(relative).is_some(),
            (Self::Dirs(table), Some((child, rest))) => crate::key::unescape(child).is_some() && table.owns(rest),
            (Self::Entries { .. }, Some(_)) | (Self::Dirs(_), None) => false,
        }
    }

    /// Whether the value of a key of the owner is not to be shown.
    pub(super) fn is_secret(self, relative: &str) -> bool {
        match self {
            Self::Struct(table) => table.is_secret(relative),
            Self::Dirs(table) => relative.split_once('/').is_some_and(|(_, rest)| table.is_secret(rest)),
            Self::Entries { secret } => secret,
        }
    }

    /// Whether which keys there are depends on what is stored.
    pub(super) fn has_maps(self) -> bool {
        match self {
            Self::Struct(table) => !table.map_directories().is_empty(),
            Self::Dirs(_) | Self::Entries { .. } => true,
        }
    }

    fn fixed_keys(self) -> Vec<String> {
        match self {
            Self::Struct(table) => table.fixed_keys(),
            Self::Dirs(_) | Self::Entries { .. } => Vec::new(),
        }
    }

    fn absent_keys(self, encoded: &Encoded) -> Vec<String> {
        match self {
            Self::Struct(table) => table.absent_keys(encoded),
            Self::Dirs(_) | Self::Entries { .. } => Vec::new(),
        }
    }

    fn map_directories(self, directory: &Key) -> Vec<Key> {
        match self {
            Self::Struct(table) => table.map_directories().iter().map(|relative| directory.descend(relative)).collect(),
            Self::Dirs(_) | Self::Entries { .. } => vec![directory.clone()],
        }
    }

    /// Everything of `encoded` is put and everything else of the owner's is deleted, whatever is stored. Only without maps.
    pub(super) fn overwrite(self, encoded: Encoded) -> Plan {
        Plan { deletes: self.absent_keys(&encoded), puts: encoded.into_iter().map(Put::new).collect() }
    }

    /// The same, where it is known what is stored: what a write with maps does, and what every write would do.
    pub(super) fn replace(self, tree: &Tree, encoded: Encoded) -> Plan {
        Plan { deletes: self.superseded(tree.keys(), &encoded), puts: encoded.into_iter().map(Put::new).collect() }
    }

    /// Only what differs: what is stored decodes to `old`.
    pub(super) fn difference<'k>(self, stored: impl Iterator<Item = &'k String>, old: &Encoded, new: &Encoded) -> Plan {
        let puts = new.iter().filter(|(key, bytes)| old.get(*key) != Some(bytes));
        let puts = puts.map(|(key, bytes)| Put::new((key.clone(), bytes.clone()))).collect();
        Plan { puts, deletes: self.superseded(stored, new) }
    }

    /// [`difference`](Self::difference) where only the keys that `old` was read from are known: of a field that has no value any more the aliases go
    /// too, of which one may be there unread.
    pub(super) fn difference_to_read(self, basis: &[(String, Revision)], old: &Encoded, new: &Encoded) -> Plan {
        let already_absent = self.absent_keys(old);
        let is_read = |key: &String| basis.iter().any(|(read, _)| read == key);
        let unread: Vec<String> = self.absent_keys(new).into_iter().filter(|key| !already_absent.contains(key) && !is_read(key)).collect();
        self.difference(basis.iter().map(|(key, _)| key).chain(&unread), old, new)
    }

    /// The keys of the owner that are stored and have no place beside `encoded`.
    fn superseded<'k>(self, stored: impl Iterator<Item = &'k String>, encoded: &Encoded) -> Vec<String> {
        let absent = self.absent_keys(encoded);
        let fixed = self.fixed_keys();
        let gone = |key: &String| if fixed.contains(key) { absent.contains(key) } else { !encoded.contains_key(key) };
        stored.filter(|key| self.owns(key) && gone(key)).cloned().collect()
    }

    /// That no key of the owner is there.
    pub(super) fn nothing_there(self, directory: &Key) -> Vec<Compare> {
        let fixed = self.fixed_keys();
        let keys = fixed.iter().map(|relative| Compare::key(&directory.descend(relative), Condition::Absent));
        let maps = self.map_directories(directory);
        keys.chain(maps.iter().map(|map| Compare::below(map, Condition::Absent))).collect()
    }
}

/// That nothing below the directory changed, appeared or vanished since `revision`, when these keys were there.
pub(super) fn unchanged(directory: &Key, revision: Revision, basis: &[(String, Revision)]) -> Vec<Compare> {
    let appeared_or_changed = Compare::below(directory, Condition::UnchangedSince(revision));
    // A range compare looks at the keys that are there: it does not see that one is gone.
    let vanished = basis.iter().map(|(relative, _)| Compare::key(&directory.descend(relative), Condition::Present));
    std::iter::once(appeared_or_changed).chain(vanished).collect()
}

/// What to do about a write that is too much for one transaction.
pub(super) const IN_SEVERAL: &str = "`.non_atomic()` writes in several";
pub(super) const IN_SEVERAL_OR_FEWER: &str = "`.non_atomic()` writes in several, `.changed_fields_only()` needs fewer conditions";

/// How a write of many keys is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Atomicity {
    /// In one transaction, or refused.
    Atomic,
    /// In as many as it takes.
    NonAtomic,
}

impl Plan {
    /// All of what was encoded.
    pub(super) fn whole(encoded: Encoded) -> Self {
        Self { puts: encoded.into_iter().map(Put::new).collect(), deletes: Vec::new() }
    }

    /// The same, but for what is put also where it does not differ: all of it is to expire together.
    pub(super) fn renewing(self, encoded: &Encoded) -> Self {
        Self { deletes: self.deletes, ..Self::whole(encoded.clone()) }
    }

    /// The same, with when each key expires, where that is not decided by what is around.
    pub(super) fn expiring(mut self, expiry: impl Fn(&str) -> Option<Expiry>) -> Self {
        for put in &mut self.puts {
            put.expiry = expiry(&put.key);
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }

    fn len(&self) -> usize {
        self.puts.len() + self.deletes.len()
    }

    /// All keys that are written.
    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.puts.iter().map(|put| &put.key).chain(&self.deletes)
    }

    /// Whether it is for `surroundings` to say when something expires.
    fn depends_on(&self, surroundings: &Surroundings) -> bool {
        !surroundings.is_empty() && self.puts.iter().any(|put| put.expiry.is_none())
    }

    pub(super) fn into_ops(self, directory: &Key, surroundings: &Surroundings) -> Vec<Op> {
        let put = |Put { key, value, expiry }| {
            let expiry = expiry.unwrap_or_else(|| surroundings.expiry());
            Op::Put { key: directory.descend(&key), value, expiry, previous: false }
        };
        let puts: Vec<Op> = self.puts.into_iter().map(put).collect();
        puts.into_iter().chain(self.deletes.iter().map(|relative| Op::delete(&directory.descend(relative)))).collect()
    }
}

impl Context {
    /// Refuses what the store could not do in one transaction, before anything is sent. `advice` says what the caller can do where it is too much.
    pub(super) fn check_atomic(&self, directory: &Key, compares: &[Compare], operations: usize, advice: &str) -> Result<()> {
        self.check_guards().map_err(|error| error.at(directory))?;
        let capabilities = self.store.capabilities();
        let single_key = operations <= 1 && compares.iter().all(|compare| matches!(compare.span, Span::Key(_)));
        if !capabilities.transactions && !single_key {
            let message =
                format!("{} has no transaction over several keys; `.non_atomic()` writes key by key, or use etcd v3", capabilities.name);
            return Err(Error::new(ErrorKind::Unsupported, message).at(directory));
        }
        let limit = capabilities.max_operations;
        let guards = self.guard_compares().len();
        let conditions = compares.len() + guards;
        let theirs = if guards == 0 { String::new() } else { format!(" ({guards} of them the guard's)") };
        if operations > limit || conditions > limit {
            let message = format!(
                "{operations} operations under {conditions} conditions{theirs}, and one transaction takes {limit} of each (server flag \
                 `--max-txn-ops`, `max_operations` on the client); {advice}",
            );
            return Err(Error::new(ErrorKind::TooManyOperations, message).at(directory));
        }
        Ok(())
    }

    /// Whether one transaction takes so many conditions, beside those of the guards.
    pub(super) fn has_room_for(&self, conditions: usize) -> bool {
        conditions + self.guard_compares().len() <= self.store.capabilities().max_operations
    }

    /// Sends a plan in one transaction. If it is refused, `surroundings` have learnt from the answer.
    pub(super) async fn commit_plan(
        &self,
        directory: &Key,
        plan: Plan,
        mut compares: Vec<Compare>,
        mut otherwise: Vec<Op>,
        surroundings: &mut Surroundings,
        advice: &str,
    ) -> Result<Committed> {
        self.check_atomic(directory, &compares, plan.len(), advice)?;
        let depends = plan.depends_on(surroundings);
        if depends && !self.store.capabilities().transactions {
            surroundings.read(self).await.map_err(|error| error.at(directory))?;
        } else if depends {
            compares.extend(surroundings.compares());
            otherwise.extend(surroundings.looks());
            self.check_atomic(directory, &compares, plan.len(), advice)?;
        }
        let txn = Txn { compares, then: plan.into_ops(directory, surroundings), otherwise };
        let committed = self.commit(txn).await.map_err(|error| error.at(directory))?;
        if depends && !committed.succeeded {
            surroundings.learn(&committed.results);
        }
        Ok(committed)
    }

    /// Sends a plan in as many transactions as it takes, each key under its own condition if it has one. The answer says at
    /// which revision each was written.
    ///
    /// # Errors
    ///
    /// Say which keys were written. `Conflict` when a condition does not hold.
    pub(super) async fn commit_non_atomic(
        &self,
        directory: &Key,
        plan: Plan,
        condition: impl Fn(&str) -> Option<Condition>,
        surroundings: &mut Surroundings,
    ) -> Result<Vec<(String, Revision)>> {
        self.check_guards().map_err(|error| error.at(directory))?;
        let depends = plan.depends_on(surroundings);
        let asks = depends && self.store.capabilities().transactions;
        if depends && !asks {
            surroundings.read(self).await.map_err(|error| error.at(directory))?;
        }
        let (around, looks) = if asks { (surroundings.compares(), surroundings.looks()) } else { (Vec::new(), Vec::new()) };
        let keys: Vec<String> = plan.keys().cloned().collect();
        let conditional = keys.iter().any(|relative| condition(relative).is_some());
        let follows: Vec<bool> = plan.puts.iter().map(|put| put.expiry.is_none()).collect();
        let mut ops = plan.into_ops(directory, surroundings);
        self.share_leases(&mut ops).await.map_err(|error| error.at(directory))?;
        let (mut around, mut written): (_, Vec<(String, Revision)>) = (around, Vec::new());
        while !ops.is_empty() {
            // Conditions are limited as operations are, and are not more than these where the keys have none.
            let beside = if conditional { &around[..] } else { &[] };
            let rest = ops.split_off(self.fitting(&ops, beside));
            let step = std::mem::replace(&mut ops, rest);
            let keys: Vec<&String> = keys.iter().skip(written.len()).take(step.len()).collect();
            let on = |relative: &&String| Some(Compare::key(&directory.descend(relative), condition(relative)?));
            let compares = keys.iter().filter_map(on).chain(around.clone()).collect();
            let txn = Txn { compares, then: step.clone(), otherwise: looks.clone() };
            let first = keys.first().map_or_else(|| directory.clone(), |relative| directory.descend(relative));
            let failure = match self.commit(txn).await {
                Ok(committed) if committed.succeeded => {
                    let keys: Vec<_> = keys.into_iter().map(|relative| (relative.clone(), committed.revision)).collect();
                    written.extend(keys);
                    continue;
                }
                // It expires, which the guess was that it does not.
                Ok(committed) if asks && surroundings.learn(&committed.results) => {
                    ops = step.into_iter().chain(std::mem::take(&mut ops)).collect();
                    for (op, follows) in ops.iter_mut().zip(follows.iter().skip(written.len())) {
                        if let (Op::Put { expiry, .. }, true) = (op, *follows) {
                            *expiry = surroundings.expiry();
                        }
                    }
                    around = surroundings.compares();
                    continue;
                }
                Ok(_) => Error::new(ErrorKind::Conflict, ""),
                Err(error) => error,
            };
            let written = written.iter().map(|(relative, _)| directory.descend(relative)).collect();
            return Err(failure.at(&first).after_writing(written));
        }
        Ok(written)
    }

    /// Puts that live equally long share a lease, as in one transaction, where they need several.
    async fn share_leases(&self, ops: &mut [Op]) -> Result<()> {
        if !self.store.capabilities().transactions || self.fitting(ops, &[]) == ops.len() {
            return Ok(());
        }
        let mut made: Vec<(Duration, LeaseId)> = Vec::new();
        for op in ops {
            let Op::Put { expiry, .. } = op else { continue };
            let Expiry::After(ttl) = *expiry else { continue };
            let id = match made.iter().find(|(other, _)| *other == ttl) {
                Some((_, id)) => *id,
                None => {
                    let id = LeaseId::random();
                    self.asked().grant(id, ttl).await?;
                    made.push((ttl, id));
                    id
                }
            };
            *expiry = Expiry::With(id);
        }
        Ok(())
    }

    /// How many of the operations, at least one, fit in one transaction by number and by size, beside these conditions and those of the guards.
    fn fitting(&self, ops: &[Op], conditions: &[Compare]) -> usize {
        // What a request holds for each operation beside key and value, its condition and the key in that: generously.
        const OVERHEAD: usize = 64;
        let capabilities = self.store.capabilities();
        let mut conditions = conditions.to_vec();
        conditions.extend(self.guard_compares());
        let most = if capabilities.transactions { capabilities.max_operations.saturating_sub(conditions.len()) } else { 1 };
        let mut size = OVERHEAD + conditions.iter().map(|compare| OVERHEAD + 2 * compare.span.key().as_str().len()).sum::<usize>();
        let fits = |op: &&Op| {
            size += OVERHEAD
                + match op {
                    Op::Put { key, value, .. } => 2 * key.as_str().len() + value.len(),
                    _ => 0,
                };
            size <= capabilities.max_value
        };
        ops.iter().take(most).take_while(fits).count().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Field, Kind, Presence};

    const fn leaf(name: &'static str, aliases: &'static [&'static str]) -> Field {
        Field {
            name,
            segment: name,
            aliases,
            doc: "",
            kind: Kind::Leaf("text"),
            presence: Presence::Optional,
            secret: false,
            validated: false,
        }
    }

    const TABLE: &Table = &Table {
        name: "App",
        doc: "",
        prefix: None,
        fields: &[
            leaf("a", &["old_a"]),
            leaf("b", &[]),
            Field { kind: Kind::Entries { key: "text", value: "text" }, ..leaf("quotas", &[]) },
        ],
    };

    fn encoded(pairs: &[(&str, &'static str)]) -> Encoded {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), Bytes::from_static(value.as_bytes()))).collect()
    }

    fn stored(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn only_what_differs_is_written_and_only_own_keys_are_deleted() {
        let stored = stored(&["a", "b", "quotas/x", "quotas/y", "foreign", "quotas/deeper/z", "old_a"]);
        let old = encoded(&[("a", "1"), ("b", "2"), ("quotas/x", "3"), ("quotas/y", "4")]);
        let new = encoded(&[("a", "1"), ("quotas/x", "5")]);
        let plan = Owner::Struct(TABLE).difference(stored.iter(), &old, &new);
        assert_eq!(plan.puts, [Put::new(("quotas/x".to_owned(), Bytes::from_static(b"5")))]);
        assert_eq!(plan.deletes, ["b", "quotas/y"]);
    }

    #[test]
    fn a_field_without_value_takes_its_aliases_with_it() {
        let plan = Owner::Struct(TABLE).overwrite(encoded(&[("b", "2")]));
        assert_eq!(plan.deletes, ["a", "old_a"]);
        let plan = Owner::Struct(TABLE).overwrite(encoded(&[("a", "1"), ("b", "2")]));
        assert_eq!(plan.deletes, [""; 0]);
    }

    #[test]
    fn a_map_owns_what_is_directly_below_it() {
        let entries = Owner::Entries { secret: false };
        assert!(entries.owns("x") && entries.owns("a%2Fb"));
        assert!(!entries.owns("x/y") && !entries.owns("_x") && !entries.owns("50%"));
        assert!(Owner::Dirs(TABLE).owns("eu/a") && Owner::Dirs(TABLE).owns("eu/old_a"));
        assert!(!Owner::Dirs(TABLE).owns("eu") && !Owner::Dirs(TABLE).owns("eu/foreign"));
    }
}
