//! Checks transactions and evaluates their compares. `engine.rs` performs the transactions.

use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::store::{Compare, Condition, Op, Operand, Span, Txn};

use super::state::State;

/// The size limits of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// The maximum number of compares, and of operations in each list (etcd's `--max-txn-ops`).
    pub(super) operations: usize,
    /// The maximum bytes of a whole request (etcd's `--max-request-bytes`).
    pub(super) request: usize,
}

impl Limits {
    /// The limits of an etcd server with default flags.
    pub(super) const DEFAULT: Self = Self { operations: 128, request: 3 << 19 };
    /// No limits, for a transaction that was already checked.
    pub(super) const NONE: Self = Self { operations: usize::MAX, request: usize::MAX };
}

/// The approximate size of an encoded request without its keys and values. etcd counts these bytes
/// too.
const OVERHEAD_OF_REQUEST: usize = 64;
const OVERHEAD_OF_OPERATION: usize = 16;

/// Refuses every transaction that etcd refuses regardless of the stored data, in etcd's order of
/// checks.
pub(super) fn check(txn: &Txn, limits: Limits) -> Result<()> {
    let operations = txn.compares.len().max(txn.then.len()).max(txn.otherwise.len());
    if operations > limits.operations {
        let message = format!(
            "{operations} in one transaction, and the limit is {} (etcd's is 128 with default flags; to raise it, set `max_operations` on the client)",
            limits.operations
        );
        return Err(Error::new(ErrorKind::TooManyOperations, message));
    }
    txn.compares.iter().try_for_each(check_compare)?;
    txn.then.iter().chain(&txn.otherwise).try_for_each(check_op)?;
    check_written_once(&txn.then)?;
    check_written_once(&txn.otherwise)?;
    let size = size(txn);
    if size > limits.request {
        let message = format!(
            "a request of {size} bytes, and the limit is {} (etcd's is 1.5 MiB with default flags; to raise it, set `max_request_bytes` on the client)",
            limits.request
        );
        let error = Error::new(ErrorKind::TooLarge, message);
        return Err(match txn.then.as_slice() {
            [Op::Put { key, .. }] => error.at(key),
            _ => error,
        });
    }
    Ok(())
}

/// Returns whether a compare holds now.
pub(super) fn holds(state: &State, compare: &Compare) -> bool {
    let key = || state.get(compare.span.key().as_bytes());
    match &compare.condition {
        Condition::Absent => state.modifications(&compare.span).next().is_none(),
        Condition::UnchangedSince(revision) => state.modifications(&compare.span).all(|modified| modified <= *revision),
        Condition::Present => key().is_some(),
        Condition::Created(revision) => key().is_some_and(|kv| kv.created == *revision),
        Condition::Modified(revision) => key().is_some_and(|kv| kv.modified == *revision),
        Condition::Value(value) => key().is_some_and(|kv| kv.value == value),
        Condition::Lease(lease) => key().is_some_and(|kv| kv.lease == Some(*lease)),
        Condition::NeverExpires => !state.has_lease(&compare.span),
        Condition::Compared(relation, operand) => {
            let mut found = state.existing(&compare.span).peekable();
            match found.peek() {
                None => operand.relates(None, *relation),
                Some(_) => found.all(|kv| operand.relates(Some(&kv), *relation)),
            }
        }
    }
}

fn check_compare(compare: &Compare) -> Result<()> {
    compare.span.check()?;
    if matches!(compare.span, Span::Key(_)) || compare.condition.is_of_many() {
        return Ok(());
    }
    let message = format!("the condition {} is about one key, not a directory or a range", name(&compare.condition));
    Err(Error::new(ErrorKind::Invalid, message).at(compare.span.key()))
}

/// Returns the name of a condition without its value, because an error message must not contain a
/// value.
fn name(condition: &Condition) -> &'static str {
    match condition {
        Condition::Absent => "Absent",
        Condition::Present => "Present",
        Condition::Created(_) => "Created",
        Condition::Modified(_) => "Modified",
        Condition::Value(_) => "Value",
        Condition::Lease(_) => "Lease",
        Condition::UnchangedSince(_) => "UnchangedSince",
        Condition::NeverExpires => "NeverExpires",
        Condition::Compared(..) => "Compared",
    }
}

fn check_op(op: &Op) -> Result<()> {
    match op {
        Op::Newest { below, limit: 0, .. } => Err(Error::new(ErrorKind::Invalid, "a limit of zero keys for `Op::Newest`").at(below)),
        Op::Page { span, limit: 0, .. } => Err(Error::new(ErrorKind::Invalid, "a limit of zero keys for `Op::Page`").at(span.key())),
        Op::Get(span) | Op::Page { span, .. } | Op::Delete { span, .. } => span.check(),
        Op::Newest { .. } | Op::Put { .. } => Ok(()),
        Op::MakeDir { key, .. } | Op::UpdateDir { key, .. } | Op::RemoveDir { key } => {
            let message = "memory has no directories of their own, as etcd v3 has none: write or delete the keys below it";
            Err(Error::new(ErrorKind::Unsupported, message).at(key))
        }
    }
}

/// Checks etcd's rule: a list has no two puts of one key, and no put of a key that one of its
/// deletes covers, in any order.
fn check_written_once(ops: &[Op]) -> Result<()> {
    let mut written: Vec<&Key> = ops.iter().filter_map(|op| if let Op::Put { key, .. } = op { Some(key) } else { None }).collect();
    written.sort_unstable();
    let twice = written.windows(2).find_map(|pair| match pair {
        [first, second] if first == second => Some(*first),
        _ => None,
    });
    let deleted = ops.iter().find_map(|op| match op {
        Op::Delete { span, .. } => written.iter().find(|key| span.contains(key.as_bytes())).copied(),
        _ => None,
    });
    match twice.or(deleted) {
        Some(key) => Err(Error::new(ErrorKind::Invalid, "a list of operations writes this key twice").at(key)),
        None => Ok(()),
    }
}

fn size(txn: &Txn) -> usize {
    let compares = txn.compares.iter().map(|compare| {
        let value = match &compare.condition {
            Condition::Value(value) | Condition::Compared(_, Operand::Value(value)) => value.len(),
            _ => 0,
        };
        OVERHEAD_OF_OPERATION + compare.span.key().as_str().len() + value
    });
    let ops = txn.then.iter().chain(&txn.otherwise).map(|op| {
        OVERHEAD_OF_OPERATION
            + match op {
                Op::Put { key, value, .. } => key.as_str().len() + value.len(),
                Op::Get(span) | Op::Page { span, .. } | Op::Delete { span, .. } => span.key().as_str().len(),
                Op::Newest { below: key, .. } | Op::MakeDir { key, .. } | Op::UpdateDir { key, .. } | Op::RemoveDir { key } => {
                    key.as_str().len()
                }
            }
    });
    OVERHEAD_OF_REQUEST + compares.chain(ops).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::state::HistoryLimit;
    use super::*;
    use crate::revision::{LeaseId, Revision};

    fn key(path: &str) -> Key {
        Key::parse(path).unwrap()
    }

    fn put(path: &str) -> Op {
        Op::put(&key(path), Bytes::new())
    }

    fn delete(span: Span) -> Op {
        Op::Delete { span, previous: false }
    }

    fn refusal(txn: &Txn) -> Option<ErrorKind> {
        check(txn, Limits::DEFAULT).err().map(|error| error.kind())
    }

    fn then(ops: Vec<Op>) -> Txn {
        Txn { then: ops, ..Txn::default() }
    }

    #[test]
    fn two_writes_of_one_key_are_refused() {
        let a = || key("/d/a");
        let twice = [
            vec![put("/d/a"), put("/b"), put("/d/a")],
            vec![put("/d/a"), Op::delete(&a())],
            vec![Op::delete(&a()), put("/d/a")],
            vec![delete(Span::Below(key("/d"))), put("/d/a")],
        ];
        for ops in twice {
            assert_eq!(refusal(&then(ops.clone())), Some(ErrorKind::Invalid), "{ops:?}");
            assert_eq!(refusal(&Txn { otherwise: ops, ..Txn::default() }), Some(ErrorKind::Invalid));
        }
        assert_eq!(check(&then(vec![put("/d/a"), put("/d/a")]), Limits::DEFAULT).unwrap_err().key(), Some(&a()));
    }

    #[test]
    fn repeated_reads_and_deletes_are_accepted() {
        let a = || Span::Key(key("/a"));
        assert_eq!(refusal(&then(vec![Op::Get(a()), put("/a"), Op::Get(a())])), None);
        assert_eq!(refusal(&then(vec![delete(a()), delete(Span::Below(Key::root()))])), None);
        assert_eq!(refusal(&Txn { then: vec![put("/a")], otherwise: vec![put("/a")], ..Txn::default() }), None);
        assert_eq!(refusal(&then(vec![delete(Span::Below(key("/a"))), put("/a"), put("/ab")])), None, "a directory's own key is not in it");
    }

    #[test]
    fn newest_with_limit_zero_is_refused() {
        let newest = |limit| vec![Op::Newest { below: key("/q"), before: None, limit }];
        assert_eq!(refusal(&then(newest(0))), Some(ErrorKind::Invalid));
        assert_eq!(refusal(&Txn { otherwise: newest(0), ..Txn::default() }), Some(ErrorKind::Invalid));
        assert_eq!(refusal(&then([newest(1), newest(usize::MAX)].concat())), None);
    }

    #[test]
    fn more_than_128_operations_are_refused() {
        let puts = |count| (0..count).map(|n| put(&format!("/{n}"))).collect::<Vec<_>>();
        let compares = |count| vec![Compare::key(&key("/a"), Condition::Absent); count];
        let full = Txn { compares: compares(128), then: puts(128), otherwise: puts(128) };
        assert_eq!(refusal(&full), None);
        for txn in
            [Txn { compares: compares(129), ..full.clone() }, Txn { then: puts(129), ..full.clone() }, Txn { otherwise: puts(129), ..full }]
        {
            assert_eq!(refusal(&txn), Some(ErrorKind::TooManyOperations));
        }
    }

    #[test]
    fn too_many_operations_is_reported_first() {
        let same = vec![put("/a"); 129];
        assert_eq!(refusal(&then(same)), Some(ErrorKind::TooManyOperations));
    }

    #[test]
    fn requests_above_default_limit_are_refused() {
        let sized = |length| then(vec![Op::put(&key("/a"), vec![0; length].into())]);
        // Real servers were seen to accept the first size and to refuse the second.
        assert_eq!(refusal(&sized(1_572_764)), None);
        assert_eq!(refusal(&sized(1_572_844)), Some(ErrorKind::TooLarge));
        assert_eq!(check(&sized(1 << 21), Limits::DEFAULT).unwrap_err().key(), Some(&key("/a")));
        let half = || vec![0; 800_000].into();
        let both = Txn { then: vec![Op::put(&key("/a"), half())], otherwise: vec![Op::put(&key("/b"), half())], ..Txn::default() };
        assert_eq!(refusal(&both), Some(ErrorKind::TooLarge));
        let compared = Txn { compares: vec![Compare::key(&key("/a"), Condition::Value(vec![0; 1 << 21].into()))], ..Txn::default() };
        assert_eq!(refusal(&compared), Some(ErrorKind::TooLarge));
    }

    #[test]
    fn directory_operations_are_refused() {
        for op in [Op::MakeDir { key: key("/a"), ttl: None }, Op::UpdateDir { key: key("/a"), ttl: None }, Op::RemoveDir { key: key("/a") }]
        {
            assert_eq!(refusal(&then(vec![op.clone()])), Some(ErrorKind::Unsupported));
            assert_eq!(refusal(&Txn { otherwise: vec![op], ..Txn::default() }), Some(ErrorKind::Unsupported));
        }
    }

    #[test]
    fn single_key_condition_on_directory_is_refused() {
        let asked = |condition| refusal(&Txn { compares: vec![Compare::below(&key("/a"), condition)], ..Txn::default() });
        assert_eq!(asked(Condition::Absent), None);
        assert_eq!(asked(Condition::UnchangedSince(Revision::ZERO)), None);
        assert_eq!(asked(Condition::NeverExpires), None);
        for condition in [
            Condition::Present,
            Condition::Created(Revision::ZERO),
            Condition::Modified(Revision::ZERO),
            Condition::Value(Bytes::from_static(b"secret")),
            Condition::Lease(LeaseId::random()),
        ] {
            assert_eq!(asked(condition), Some(ErrorKind::Invalid));
        }
        let error = check(
            &Txn { compares: vec![Compare::below(&key("/a"), Condition::Value("secret".into()))], ..Txn::default() },
            Limits::DEFAULT,
        );
        assert!(!error.unwrap_err().to_string().contains("secret"));
    }

    /// Returns a state in which `/a` was written at revisions 2 and 4, and `/d/x` at revision 3.
    fn state() -> State {
        let mut state = State::new(HistoryLimit::default());
        for (path, lease) in [("/a", None), ("/d/x", LeaseId::new(7)), ("/a", None)] {
            let mut write = state.write();
            write.put(path.as_bytes(), "v".into(), lease);
            write.finish();
        }
        state
    }

    #[test]
    fn conditions_on_existing_key_compare_its_properties() {
        let state = state();
        let asked = |condition| holds(&state, &Compare::key(&key("/a"), condition));
        let at = Revision::new;
        assert!(!asked(Condition::Absent) && asked(Condition::Present));
        assert!(asked(Condition::Created(at(2))) && !asked(Condition::Created(at(4))));
        assert!(asked(Condition::Modified(at(4))) && !asked(Condition::Modified(at(2))));
        assert!(asked(Condition::Value("v".into())) && !asked(Condition::Value("".into())));
        assert!(!asked(Condition::Lease(LeaseId::new(7).unwrap())));
        assert!(holds(&state, &Compare::key(&key("/d/x"), Condition::Lease(LeaseId::new(7).unwrap()))));
        assert!(asked(Condition::NeverExpires) && !holds(&state, &Compare::key(&key("/d/x"), Condition::NeverExpires)));
        assert!(asked(Condition::UnchangedSince(at(4))) && !asked(Condition::UnchangedSince(at(3))));
    }

    #[test]
    fn only_three_conditions_hold_for_missing_key() {
        let state = state();
        let asked = |condition| holds(&state, &Compare::key(&key("/d"), condition));
        assert!(asked(Condition::Absent) && asked(Condition::UnchangedSince(Revision::ZERO)));
        assert!(!asked(Condition::Present) && !asked(Condition::Value(Bytes::new())));
        assert!(!asked(Condition::Created(Revision::ZERO)) && !asked(Condition::Modified(Revision::ZERO)));
        assert!(!asked(Condition::Lease(LeaseId::new(7).unwrap())));
        assert!(asked(Condition::NeverExpires));
    }

    #[test]
    fn conditions_on_directory_apply_to_keys_below() {
        let state = state();
        let asked = |path, condition| holds(&state, &Compare::below(&key(path), condition));
        assert!(asked("/a", Condition::Absent) && !asked("/d", Condition::Absent));
        assert!(asked("/a", Condition::NeverExpires) && !asked("/d", Condition::NeverExpires));
        assert!(asked("/d", Condition::UnchangedSince(Revision::new(3))) && !asked("/d", Condition::UnchangedSince(Revision::new(2))));
        assert!(!asked("/", Condition::UnchangedSince(Revision::new(3))));
    }
}
