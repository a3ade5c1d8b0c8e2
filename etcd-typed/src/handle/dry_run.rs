//! The results of [`Dir::diff`](crate::Dir::diff), which shows what a write would change, and of
//! [`Dir::check`](crate::Dir::check), which lists the problems of the stored data. Neither writes.
//! `plan.rs` decides what a write changes, and `schema.rs` finds the problems.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::Context;
use super::plan::{Owner, WritePlan};
use crate::error::{Problem, ProblemKind, Result};
use crate::key::Key;
use crate::revision::Revision;
use crate::schema::{self, Decoder, Encoded, Tree};
use crate::store::Span;

/// The changes that a write of a whole struct or map would make; returned by
/// [`Dir::diff`](crate::Dir::diff). `Display` prints one line per difference:
///
/// ```text
/// ~ /prod/app/rate_limit: 100 -> 250
/// + /prod/app/banner: Sale!
/// - /prod/app/quotas/acme: 1000
/// ~ /prod/app/password: *** -> ***
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Diff {
    /// The revision at which the stored state was read for the comparison.
    pub revision: Revision,
    /// The differences, in the order of the keys.
    pub differences: Vec<Difference>,
}

/// One key of a [`Diff`] that would be created, changed or deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// The key, from the root of the store.
    pub key: Key,
    /// The value that is stored now. `None` if the key does not exist.
    pub old: Option<Shown>,
    /// The value that would be stored. `None` if the key would be deleted.
    pub new: Option<Shown>,
}

/// A stored value in a form that may be shown.
///
/// `Display` prints a single line: control characters are escaped, and long values are cut. The
/// variants contain the whole value. `Serialize` writes the whole value as text. A value that is
/// not UTF-8 is written with escapes, as in `b"\\xff"`, and a secret as `***`.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shown {
    /// A UTF-8 value.
    Text(String),
    /// A value that is not UTF-8.
    Bytes(Bytes),
    /// The value of a secret field, or of a key that is not in the schema and may be a secret of
    /// another version of the schema. This variant does not contain the value. The value differs
    /// from the value on the other side of the [`Difference`].
    Secret,
}

/// The problems of the stored data; returned by [`Dir::check`](crate::Dir::check). `Display` prints
/// one line per problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// The revision at which the stored data was read.
    pub revision: Revision,
    /// The problems, in the order of the schema, followed by keys that are not in the schema. Empty
    /// if no problem was found.
    pub problems: Vec<Problem>,
}

impl Diff {
    /// Returns true if the write would change nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty()
    }

    /// Reads the current state and plans the write in the same way as the write itself.
    pub(super) async fn read(context: &Context, directory: &Key, owner: Owner, encoded: Encoded) -> Result<Self> {
        let reply = context.read_to_write(Span::Below(directory.clone())).await.map_err(|error| error.at(directory))?;
        let tree = schema::tree(directory, reply.kvs);
        let plan = owner.replace(&tree, encoded);
        Ok(Self { revision: reply.revision, differences: differences(directory, owner, &tree, plan) })
    }
}

fn differences(directory: &Key, owner: Owner, tree: &Tree, plan: WritePlan) -> Vec<Difference> {
    let puts = plan.puts.into_iter().map(|put| (put.key, Some(put.value)));
    let removed = plan.removals.iter().flat_map(|removal| removal.keys(tree).cloned());
    let deletes: Vec<String> = removed.chain(plan.deletes).collect();
    let deletes = deletes.into_iter().map(|relative| (relative, None));
    let mut differences: Vec<Difference> = puts
        .chain(deletes)
        .filter_map(|(relative, new)| {
            let old = tree.get(&relative).map(|stored| stored.value.clone());
            // A key that is not in the schema may be a secret of another version of the schema.
            let may_be_secret = owner.is_secret(&relative) || !owner.owns(&relative);
            let shown = |value: Bytes| if may_be_secret { Shown::Secret } else { Shown::of(value) };
            (old != new).then(|| Difference { key: directory.descend(&relative), old: old.map(shown), new: new.map(shown) })
        })
        .collect();
    differences.sort_by(|a, b| a.key.cmp(&b.key));
    differences
}

impl Difference {
    /// Returns whether the key would be created.
    pub fn is_created(&self) -> bool {
        self.old.is_none() && self.new.is_some()
    }

    /// Returns whether the value of an existing key would be changed.
    pub fn is_modified(&self) -> bool {
        self.old.is_some() && self.new.is_some()
    }

    /// Returns whether the key would be deleted.
    pub fn is_deleted(&self) -> bool {
        self.new.is_none()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.differences.iter().try_for_each(|difference| writeln!(f, "{difference}"))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(f, "~ {key}: {old} -> {new}"),
            (None, Some(new)) => write!(f, "+ {key}: {new}"),
            (Some(old), None) => write!(f, "- {key}: {old}"),
            (None, None) => write!(f, "  {key}"),
        }
    }
}

impl Shown {
    /// The number of characters after which `Display` cuts a value.
    const LINE: usize = 60;

    fn of(value: Bytes) -> Self {
        match std::str::from_utf8(&value) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(value),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self {
            Self::Secret => return f.write_str("***"),
            Self::Text(text) if is_plain(text) => Cow::Borrowed(text.as_str()),
            Self::Text(text) => Cow::Owned(format!("{text:?}")),
            Self::Bytes(bytes) => Cow::Owned(format!("b\"{}\"", bytes.escape_ascii())),
        };
        let mut rest = line.chars();
        rest.by_ref().take(Self::LINE).try_for_each(|c| f.write_char(c))?;
        if rest.next().is_some() { write!(f, "… ({} characters)", line.chars().count()) } else { Ok(()) }
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Secret => serializer.serialize_str("***"),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => serializer.collect_str(&format_args!("b\"{}\"", bytes.escape_ascii())),
        }
    }
}

/// Returns whether a text can be printed without quotes: the text is not empty, does not begin or
/// end with white space, and contains no control characters.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && text.chars().all(|c| matches!(c, '"' | '\'' | '\\') || c.escape_debug().count() == 1)
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Bytes(bytes) => write!(f, "{bytes:?}"),
            Self::Secret => f.write_str("***"),
        }
    }
}

impl Check {
    /// Returns true if no problem was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// Reads the directory and finds all problems.
    pub(super) async fn read<T>(
        context: &Context,
        directory: &Key,
        owner: Owner,
        read: impl FnOnce(&mut Decoder<'_>) -> Option<T>,
    ) -> Result<Self> {
        let reply = context.read(Span::Below(directory.clone()), false).await.map_err(|error| error.at(directory))?;
        // Other v3 clients may write keys that are not valid paths. No handle can address such
        // keys.
        let nameless: Vec<Problem> = reply
            .kvs
            .iter()
            .filter(|kv| directory.below(&kv.key).is_none())
            .map(|kv| Problem {
                key: directory.clone(),
                kind: ProblemKind::Unknown,
                reason: format!("a key below it is not a valid path: \"{}\"", kv.key.escape_ascii()),
                revision: Some(kv.modified),
            })
            .collect();
        let mut problems = schema::check(
            directory,
            &schema::tree(directory, reply.kvs),
            |relative| owner.owns(relative),
            |relative| owner.removable_around(relative),
            |relative| owner.enums_around(relative),
            read,
        );
        problems.extend(nameless);
        Ok(Self { revision: reply.revision, problems })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problems.iter().try_for_each(|problem| writeln!(f, "{problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_serialized_as_text() {
        let key = Key::parse("/a").unwrap();
        let difference = |old, new| serde_json::to_string(&Difference { key: key.clone(), old, new }).unwrap();
        let bytes = Shown::of(Bytes::from_static(b"a\xff"));
        assert_eq!(difference(Some(Shown::of("1".into())), Some(bytes)), r#"{"key":"/a","old":"1","new":"b\"a\\xff\""}"#);
        assert_eq!(difference(None, Some(Shown::Secret)), r#"{"key":"/a","old":null,"new":"***"}"#);
    }

    #[test]
    fn shown_value_fits_on_one_line() {
        let shown = |value: &[u8]| Shown::of(Bytes::copy_from_slice(value)).to_string();
        for plain in ["8080", "1m30s", r#"{"a":"it's","b":"\\"}"#, "grüße"] {
            assert_eq!(shown(plain.as_bytes()), plain);
        }
        assert_eq!(shown(b""), r#""""#);
        assert_eq!(shown(b" x"), r#"" x""#);
        assert_eq!(shown(b"a\nb\x1b[2J"), r#""a\nb\u{1b}[2J""#);
        assert_eq!(shown(b"\xff\0a"), r#"b"\xff\x00a""#);
        assert_eq!(shown(&[b'x'; 61]), format!("{}… (61 characters)", "x".repeat(60)));
        assert_eq!(shown("é".repeat(60).as_bytes()), "é".repeat(60));
    }
}
