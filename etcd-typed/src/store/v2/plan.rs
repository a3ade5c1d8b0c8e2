//! Translates a transaction into the single step that a v2 server can perform, or refuses it. Does
//! no I/O.

use std::time::Duration;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::store::{Compare, Condition, Expiry, KeyValue, Op, Span, Txn};

/// The maximum length of a value. The server accepts forms of 10 MiB, and escaping at most triples
/// a value. 1 MiB also fits the limit of v3.
pub(super) const MAX_VALUE: usize = 1 << 20;

/// The maximum time to live: 100 years. Slightly above that, the server's clock overflows and the
/// key never expires.
const MAX_TTL: u64 = 3_155_760_000;

/// The maximum length of a value in the condition of a delete, which is part of the URL. For a
/// longer value, this client reads the key and compares its value.
const MAX_VALUE_IN_TARGET: usize = 200;

/// A transaction that a v2 server can perform.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StepPlan {
    pub(super) key: Key,
    pub(super) conditions: Vec<Condition>,
    pub(super) step: Step,
    /// Whether to read the key if the conditions do not hold.
    pub(super) read_otherwise: bool,
}

/// The action to take if the conditions hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// No action; only the conditions are checked.
    Check,
    ReadBelow,
    Read,
    Put(Put),
    Delete {
        previous: bool,
    },
    DeleteBelow {
        previous: bool,
    },
    MakeDir {
        ttl: Option<Duration>,
    },
    UpdateDir {
        ttl: Option<Duration>,
    },
    RemoveDir,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) value: String,
    pub(super) expiry: Expiry,
    pub(super) previous: bool,
}

/// The condition that one request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    None,
    Absent,
    Present,
    Index(Revision),
    Value(Bytes),
}

/// How the conditions of a plan are checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// The server checks the conditions as part of the request.
    Server(Guard),
    /// The server checks the conditions as part of the request. The request requires the index that
    /// the key has while it is attached to this lease.
    Lease(LeaseId),
    /// This client checks the conditions on a read. The write then requires that the key has not
    /// changed since the read.
    Read,
}

impl StepPlan {
    /// Plans a transaction.
    ///
    /// # Errors
    ///
    /// `Invalid` for transactions that no store accepts. `Unsupported` for transactions that need
    /// more than one key or request, and for values that are not text. `TooLarge` for a value above
    /// [`MAX_VALUE`]. `InvalidKey` for a write to the root.
    pub(super) fn of(txn: Txn) -> Result<Self> {
        txn.compares.iter().try_for_each(check_compare)?;
        check_written_once(&txn.then)?;
        check_written_once(&txn.otherwise)?;
        let mut then = txn.then.into_iter();
        let mut otherwise = txn.otherwise.into_iter();
        let (first, read) = (then.next(), otherwise.next());
        if then.next().is_some() || otherwise.next().is_some() {
            return Err(no_transactions("more than one operation"));
        }
        let key = first
            .as_ref()
            .map(target)
            .or_else(|| txn.compares.first().map(|compare| compare.span.key()))
            // An empty transaction still returns the revision, from a read of this key. Its name is
            // unused and hidden from listings.
            .map_or_else(|| Key::root().descend("_"), Key::clone);
        let mut conditions = Vec::with_capacity(txn.compares.len());
        for compare in txn.compares {
            match compare.span {
                Span::Key(compared) if compared == key => conditions.push(compare.condition),
                Span::Key(_) => return Err(no_transactions("a condition on another key").at(&key)),
                Span::Below(_) => return Err(no_transactions("a condition on all keys of a directory").at(&key)),
                Span::Between { .. } => return Err(no_ranges().at(&key)),
            }
        }
        let read_otherwise = match read {
            None => false,
            Some(Op::Get(Span::Key(read))) if read == key => true,
            Some(_) => return Err(no_transactions("an operation for failed conditions that is not a read of the key").at(&key)),
        };
        let step = step(first).map_err(|error| error.at(&key))?;
        let about_a_value = matches!(step, Step::Check | Step::Read | Step::Put(_) | Step::Delete { .. });
        if !conditions.is_empty() && !about_a_value {
            return Err(no_transactions("a condition on an operation on a directory").at(&key));
        }
        if key.is_root() && !matches!(step, Step::Check | Step::Read | Step::ReadBelow) {
            return Err(Error::new(ErrorKind::InvalidKey, "the root of an etcd v2 store cannot be written or deleted").at(&key));
        }
        Ok(Self { key, conditions, step, read_otherwise })
    }

    /// Returns how to check the conditions with the fewest requests.
    pub(super) fn check(&self) -> Check {
        let writes = matches!(self.step, Step::Put(_) | Step::Delete { .. });
        let deletes = matches!(self.step, Step::Delete { .. });
        match self.conditions.as_slice() {
            [] if writes => Check::Server(Guard::None),
            [Condition::Absent] if writes && !deletes => Check::Server(Guard::Absent),
            [Condition::Present] if writes => Check::Server(Guard::Present),
            // The server treats an index of zero as no condition.
            [Condition::Modified(revision)] if writes && *revision != Revision::ZERO => Check::Server(Guard::Index(*revision)),
            // The server also ignores an empty value, and a value that is not text cannot be sent.
            [Condition::Value(value)] if writes && !value.is_empty() && std::str::from_utf8(value).is_ok() => {
                if deletes && value.len() > MAX_VALUE_IN_TARGET { Check::Read } else { Check::Server(Guard::Value(value.clone())) }
            }
            [Condition::Lease(id)] if writes => Check::Lease(*id),
            _ => Check::Read,
        }
    }
}

/// Returns whether a condition holds for a key that was just read. `Leases` checks the conditions
/// on a lease.
pub(super) fn holds(condition: &Condition, found: Option<&KeyValue>) -> bool {
    match (condition, found) {
        (Condition::Absent | Condition::UnchangedSince(_) | Condition::NeverExpires, None) => true,
        (_, None) | (Condition::Absent | Condition::Lease(_), Some(_)) => false,
        (Condition::Present, Some(_)) => true,
        (Condition::Created(revision), Some(kv)) => kv.created == *revision,
        (Condition::Modified(revision), Some(kv)) => kv.modified == *revision,
        (Condition::UnchangedSince(revision), Some(kv)) => kv.modified <= *revision,
        (Condition::Value(value), Some(kv)) => kv.value == *value,
        (Condition::NeverExpires, Some(kv)) => kv.ttl.is_none(),
        // `check_compare` refuses this condition.
        (Condition::Compared(..), Some(_)) => false,
    }
}

/// Returns a time to live in the server's unit: whole seconds, at least one.
pub(super) fn seconds(ttl: Duration) -> u64 {
    let rounded_up = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    rounded_up.clamp(1, MAX_TTL)
}

fn check_compare(compare: &Compare) -> Result<()> {
    match (&compare.span, &compare.condition) {
        (span, Condition::Compared(..)) => {
            Err(Error::new(ErrorKind::Unsupported, "etcd v2 compares only for equality: use another condition, or etcd v3").at(span.key()))
        }
        (Span::Between { start, .. }, _) => Err(no_ranges().at(start)),
        (Span::Key(_), _) | (Span::Below(_), Condition::Absent | Condition::UnchangedSince(_) | Condition::NeverExpires) => Ok(()),
        (Span::Below(directory), _) => {
            Err(Error::new(ErrorKind::Invalid, "a condition on a single key was used for a directory").at(directory))
        }
    }
}

/// Checks that no operation of a list puts a key that another one puts or deletes.
fn check_written_once(ops: &[Op]) -> Result<()> {
    let writes = |op: &Op, key: &Key| match op {
        Op::Put { key: written, .. } => written == key,
        Op::Delete { span, .. } => span.contains(key.as_bytes()),
        _ => false,
    };
    for (at, op) in ops.iter().enumerate() {
        if let Op::Put { key, .. } = op
            && ops.iter().enumerate().any(|(other, op)| other != at && writes(op, key))
        {
            return Err(Error::new(ErrorKind::Invalid, "a list of operations writes this key twice").at(key));
        }
    }
    Ok(())
}

/// Returns the error for a range of keys.
pub(super) fn no_ranges() -> Error {
    Error::new(ErrorKind::Unsupported, "etcd v2 has no ranges of keys: read or watch a directory, or use etcd v3")
}

fn target(op: &Op) -> &Key {
    match op {
        Op::Get(span) | Op::Page { span, .. } | Op::Delete { span, .. } => span.key(),
        Op::Newest { below: key, .. }
        | Op::Put { key, .. }
        | Op::MakeDir { key, .. }
        | Op::UpdateDir { key, .. }
        | Op::RemoveDir { key } => key,
    }
}

fn step(op: Option<Op>) -> Result<Step> {
    Ok(match op {
        None => Step::Check,
        Some(Op::Get(Span::Key(_))) => Step::Read,
        Some(Op::Get(Span::Below(_))) => Step::ReadBelow,
        Some(Op::Page { .. } | Op::Get(Span::Between { .. }) | Op::Delete { span: Span::Between { .. }, .. }) => return Err(no_ranges()),
        Some(Op::Newest { .. }) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "etcd v2 cannot select the newest keys of a directory: list the directory instead, and compare the creation revisions of its keys",
            ));
        }
        Some(Op::Put { value, expiry, previous, .. }) => Step::Put(Put { value: text(value)?, expiry, previous }),
        Some(Op::Delete { span: Span::Key(_), previous }) => Step::Delete { previous },
        Some(Op::Delete { span: Span::Below(_), previous }) => Step::DeleteBelow { previous },
        Some(Op::MakeDir { ttl, .. }) => Step::MakeDir { ttl },
        Some(Op::UpdateDir { ttl, .. }) => Step::UpdateDir { ttl },
        Some(Op::RemoveDir { .. }) => Step::RemoveDir,
    })
}

fn text(value: Bytes) -> Result<String> {
    if value.len() > MAX_VALUE {
        return Err(Error::new(ErrorKind::TooLarge, format!("the value has {} bytes, and at most {MAX_VALUE} are accepted", value.len())));
    }
    String::from_utf8(value.into()).map_err(|_| {
        // The server would store the bytes, but return them with every invalid byte replaced.
        Error::new(ErrorKind::Unsupported, "etcd v2 stores text only; encode binary values as text (base64, JSON) or use etcd v3")
    })
}

fn no_transactions(what: &str) -> Error {
    let message = format!(
        "etcd v2 has no transactions over several keys ({what}); write the keys one by one (a struct with `.non_atomic()`), or use etcd v3",
    );
    Error::new(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Key {
        Key::parse(path).expect("a key")
    }

    fn put(condition: Option<Condition>) -> Txn {
        let a = key("/a");
        Txn {
            compares: condition.into_iter().map(|condition| Compare::key(&a, condition)).collect(),
            then: vec![Op::put(&a, Bytes::from_static(b"v"))],
            otherwise: vec![Op::Get(Span::Key(a))],
        }
    }

    fn delete(condition: Condition) -> Txn {
        Txn { then: vec![Op::delete(&key("/a"))], ..put(Some(condition)) }
    }

    #[test]
    fn simple_conditions_are_checked_by_server() {
        let nine = Revision::new(9);
        let value = Bytes::from_static(b"w");
        let check = |txn| StepPlan::of(txn).unwrap().check();
        assert_eq!(check(put(None)), Check::Server(Guard::None));
        assert_eq!(check(put(Some(Condition::Absent))), Check::Server(Guard::Absent));
        assert_eq!(check(put(Some(Condition::Present))), Check::Server(Guard::Present));
        assert_eq!(check(put(Some(Condition::Modified(nine)))), Check::Server(Guard::Index(nine)));
        assert_eq!(check(put(Some(Condition::Value(value.clone())))), Check::Server(Guard::Value(value.clone())));
        assert_eq!(check(delete(Condition::Modified(nine))), Check::Server(Guard::Index(nine)));
        assert_eq!(check(delete(Condition::Value(value.clone()))), Check::Server(Guard::Value(value)));
        let lease = LeaseId::random();
        assert_eq!(check(put(Some(Condition::Lease(lease)))), Check::Lease(lease));
        assert_eq!(check(delete(Condition::Lease(lease))), Check::Lease(lease));
    }

    #[test]
    fn conditions_unknown_to_v2_are_checked_by_client() {
        let long = Bytes::from("x".repeat(4000));
        for txn in [
            put(Some(Condition::Modified(Revision::ZERO))),
            put(Some(Condition::Value(Bytes::new()))),
            put(Some(Condition::Value(Bytes::from_static(b"\xff")))),
            put(Some(Condition::Created(Revision::new(9)))),
            put(Some(Condition::UnchangedSince(Revision::new(9)))),
            delete(Condition::Absent),
            delete(Condition::Value(Bytes::new())),
            delete(Condition::Value(long)),
        ] {
            assert_eq!(StepPlan::of(txn.clone()).unwrap().check(), Check::Read, "{txn:?}");
        }
        let mut two = put(Some(Condition::Present));
        two.compares.push(Compare::key(&key("/a"), Condition::Created(Revision::new(1))));
        assert_eq!(StepPlan::of(two).unwrap().check(), Check::Read);
    }

    #[test]
    fn transactions_on_several_keys_are_refused() {
        let (a, b) = (key("/a"), key("/b"));
        let value = || Bytes::from_static(b"v");
        let with = |compares, then, otherwise| Txn { compares, then, otherwise };
        for txn in [
            with(vec![], vec![Op::put(&a, value()), Op::put(&b, value())], vec![]),
            with(vec![Compare::key(&b, Condition::Absent)], vec![Op::put(&a, value())], vec![]),
            with(vec![Compare::below(&a, Condition::Absent)], vec![Op::put(&a, value())], vec![]),
            with(vec![], vec![Op::put(&a, value())], vec![Op::Get(Span::Key(b))]),
            with(vec![], vec![Op::put(&a, value())], vec![Op::delete(&a)]),
            with(vec![Compare::key(&a, Condition::Present)], vec![Op::RemoveDir { key: a.clone() }], vec![]),
        ] {
            let error = StepPlan::of(txn).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(".non_atomic()") && error.to_string().contains("etcd v3"), "{error}");
        }
    }

    #[test]
    fn newest_operation_is_refused_with_advice() {
        let newest = || vec![Op::Newest { below: key("/q"), before: None, limit: 1 }];
        let refusal = |txn| {
            let error = StepPlan::of(txn).unwrap_err();
            (error.kind(), error.key().cloned(), error.to_string())
        };
        let (kind, at, text) = refusal(Txn { then: newest(), ..Txn::default() });
        assert_eq!((kind, at), (ErrorKind::Unsupported, Some(key("/q"))));
        assert!(text.contains("etcd v2") && text.contains("list the directory"), "{text}");
        assert_eq!(refusal(Txn { otherwise: newest(), ..put(None) }).0, ErrorKind::Unsupported);
    }

    #[test]
    fn invalid_transactions_are_refused() {
        let a = key("/a");
        let txn = |then| Txn { then, ..Txn::default() };
        let put = || Op::put(&a, Bytes::from_static(b"v"));
        let below = Compare::below(&a, Condition::Present);
        for txn in [txn(vec![put(), put()]), txn(vec![Op::delete(&a), put()]), Txn { compares: vec![below], ..txn(vec![put()]) }] {
            assert_eq!(StepPlan::of(txn).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn unusable_values_and_root_writes_are_refused() {
        let txn = |value: Bytes| Txn { then: vec![Op::put(&key("/a"), value)], ..Txn::default() };
        assert_eq!(StepPlan::of(txn(Bytes::from_static(b"\xff"))).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(StepPlan::of(txn(Bytes::from(vec![b'a'; MAX_VALUE + 1]))).unwrap_err().kind(), ErrorKind::TooLarge);
        assert!(StepPlan::of(txn(Bytes::from(vec![b'a'; MAX_VALUE]))).is_ok());
        let root = Txn { then: vec![Op::Delete { span: Span::Below(Key::root()), previous: false }], ..Txn::default() };
        assert_eq!(StepPlan::of(root).unwrap_err().kind(), ErrorKind::InvalidKey);
    }

    #[test]
    fn client_evaluates_every_condition() {
        let (one, two) = (Revision::new(1), Revision::new(2));
        let kv = KeyValue {
            key: Bytes::from_static(b"/a"),
            value: Bytes::new(),
            created: one,
            modified: two,
            version: None,
            lease: None,
            ttl: None,
        };
        let lease = LeaseId::new(7).unwrap();
        for (condition, present, absent) in [
            (Condition::Absent, false, true),
            (Condition::Present, true, false),
            (Condition::Created(one), true, false),
            (Condition::Created(two), false, false),
            (Condition::Modified(two), true, false),
            (Condition::Modified(Revision::ZERO), false, false),
            (Condition::Value(Bytes::new()), true, false),
            (Condition::Value(Bytes::from_static(b"x")), false, false),
            (Condition::UnchangedSince(two), true, true),
            (Condition::UnchangedSince(one), false, true),
            (Condition::Lease(lease), false, false),
            (Condition::NeverExpires, true, true),
        ] {
            assert_eq!(holds(&condition, Some(&kv)), present, "{condition:?}");
            assert_eq!(holds(&condition, None), absent, "{condition:?}");
        }
    }

    #[test]
    fn ttl_is_rounded_to_accepted_seconds() {
        assert_eq!(seconds(Duration::ZERO), 1);
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(60)), 60);
        assert_eq!(seconds(Duration::from_millis(60_001)), 61);
        assert_eq!(seconds(Duration::MAX), MAX_TTL);
    }
}
