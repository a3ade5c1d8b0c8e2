//! What a transaction may hold, and whether its compares hold. Pure. Performing it is `engine.rs`.

use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::store::{Compare, Condition, Op, Span, Txn};

use super::state::State;

/// Compares, and operations of either list (etcd's `--max-txn-ops`).
pub(super) const MAX_OPERATIONS: usize = 128;

/// Bytes of a whole request (etcd's `--max-request-bytes`).
pub(super) const MAX_REQUEST: usize = 3 << 19;

/// What an encoded request holds beside keys and values, roughly: etcd counts these bytes too.
const OVERHEAD_OF_REQUEST: usize = 64;
const OVERHEAD_OF_OPERATION: usize = 16;

/// Refuses what etcd refuses whatever is stored, in its order.
pub(super) fn check(txn: &Txn) -> Result<()> {
    let operations = txn.compares.len().max(txn.then.len()).max(txn.otherwise.len());
    if operations > MAX_OPERATIONS {
        let message = format!("{operations} in one transaction; memory takes {MAX_OPERATIONS}, as etcd does with default flags");
        return Err(Error::new(ErrorKind::TooManyOperations, message));
    }
    txn.compares.iter().try_for_each(check_compare)?;
    txn.then.iter().chain(&txn.otherwise).try_for_each(check_op)?;
    check_written_once(&txn.then)?;
    check_written_once(&txn.otherwise)?;
    let size = size(txn);
    if size > MAX_REQUEST {
        let error = Error::new(
            ErrorKind::TooLarge,
            format!("a request of {size} bytes; memory takes {MAX_REQUEST}, as etcd does with default flags"),
        );
        return Err(match txn.then.as_slice() {
            [Op::Put { key, .. }] => error.at(key),
            _ => error,
        });
    }
    Ok(())
}

/// Whether a compare holds now.
pub(super) fn holds(state: &State, compare: &Compare) -> bool {
    let key = || state.get(compare.span.key().as_str().as_bytes());
    match &compare.condition {
        Condition::Absent => state.modifications(&compare.span).next().is_none(),
        Condition::UnchangedSince(revision) => state.modifications(&compare.span).all(|modified| modified <= *revision),
        Condition::Present => key().is_some(),
        Condition::Created(revision) => key().is_some_and(|kv| kv.created == *revision),
        Condition::Modified(revision) => key().is_some_and(|kv| kv.modified == *revision),
        Condition::Value(value) => key().is_some_and(|kv| kv.value == value),
        Condition::Lease(lease) => key().is_some_and(|kv| kv.lease == Some(*lease)),
    }
}

fn check_compare(compare: &Compare) -> Result<()> {
    match (&compare.span, &compare.condition) {
        (Span::Key(_), _) | (Span::Below(_), Condition::Absent | Condition::UnchangedSince(_)) => Ok(()),
        (Span::Below(directory), condition) => {
            Err(Error::new(ErrorKind::Invalid, format!("the condition {} is about one key, not a directory", name(condition)))
                .at(directory))
        }
    }
}

/// A condition without the value that it may hold: no value is in an error's text.
fn name(condition: &Condition) -> &'static str {
    match condition {
        Condition::Absent => "Absent",
        Condition::Present => "Present",
        Condition::Created(_) => "Created",
        Condition::Modified(_) => "Modified",
        Condition::Value(_) => "Value",
        Condition::Lease(_) => "Lease",
        Condition::UnchangedSince(_) => "UnchangedSince",
    }
}

fn check_op(op: &Op) -> Result<()> {
    match op {
        Op::Get(_) | Op::Put { .. } | Op::Delete { .. } => Ok(()),
        Op::MakeDir { key, .. } | Op::UpdateDir { key, .. } | Op::RemoveDir { key } => {
            let message = "memory has no directories of their own, as etcd v3 has none: write or delete the keys below it";
            Err(Error::new(ErrorKind::Unsupported, message).at(key))
        }
    }
}

/// etcd's rule: no two puts of one key, and no put of a key that a delete covers, wherever they stand in the list.
fn check_written_once(ops: &[Op]) -> Result<()> {
    let mut written: Vec<&Key> = ops.iter().filter_map(|op| if let Op::Put { key, .. } = op { Some(key) } else { None }).collect();
    written.sort_unstable();
    let twice = written.windows(2).find_map(|pair| match pair {
        [first, second] if first == second => Some(*first),
        _ => None,
    });
    let deleted = ops.iter().find_map(|op| match op {
        Op::Delete { span, .. } => written.iter().find(|key| span.contains(key.as_str().as_bytes())).copied(),
        _ => None,
    });
    match twice.or(deleted) {
        Some(key) => Err(Error::new(ErrorKind::Invalid, "a list of operations writes this key twice").at(key)),
        None => Ok(()),
    }
}

fn size(txn: &Txn) -> usize {
    let compares = txn.compares.iter().map(|compare| {
        let value = if let Condition::Value(value) = &compare.condition { value.len() } else { 0 };
        OVERHEAD_OF_OPERATION + compare.span.key().as_str().len() + value
    });
    let ops = txn.then.iter().chain(&txn.otherwise).map(|op| {
        OVERHEAD_OF_OPERATION
            + match op {
                Op::Put { key, value, .. } => key.as_str().len() + value.len(),
                Op::Get(span) | Op::Delete { span, .. } => span.key().as_str().len(),
                Op::MakeDir { key, .. } | Op::UpdateDir { key, .. } | Op::RemoveDir { key } => key.as_str().len(),
            }
    });
    OVERHEAD_OF_REQUEST + compares.chain(ops).sum::<usize>()
}
