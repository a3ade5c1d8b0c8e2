//! The keys of maps: one segment of a path, or several.

use std::fmt;

use super::contained;
use crate::error::ProblemKind;
use crate::key;
use crate::value::{Codec, EtcdValue, ValueError};

/// A type whose values can be the keys of a map that is a field of a struct. The stored form must
/// be text; it becomes one segment, escaped if necessary. Every [`EtcdValue`] that has an order
/// implements this.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a map: derive `EtcdValue`, `Ord`, `Clone` and `Debug` for it",
    label = "not a `MapKey`",
    note = "to store the whole map in one key, write `#[etcd(json)]`"
)]
pub trait MapKey: EtcdValue + Ord + Clone + fmt::Debug + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: EtcdValue + Ord + Clone + fmt::Debug + Send + Sync + 'static> MapKey for T {}

/// A type whose values can be the keys of a map from [`Client::entries`](crate::Client::entries) or
/// [`Client::dirs`](crate::Client::dirs): a [`MapKey`], which is one segment, or a tuple of two to
/// four of them, which is one segment for each part.
///
/// Each part is escaped by itself, so `("a/b", "c", 7)` is `/a%2Fb/c/7`. Keys with more or fewer
/// segments are not entries of the map.
pub trait MapPath: Ord + Clone + fmt::Debug + Send + Sync + 'static {
    /// The number of segments.
    #[doc(hidden)]
    const LEVELS: usize;

    /// The name of the type, for people.
    #[doc(hidden)]
    fn type_name() -> String;

    /// The stored path of this key, relative to the map.
    ///
    /// # Errors
    ///
    /// The stored form of a part is not text.
    #[doc(hidden)]
    fn path(&self) -> Result<String, ValueError>;

    /// Reads a stored path with [`LEVELS`](Self::LEVELS) segments. Refuses a path that
    /// [`path`](Self::path) would not return, since no handle could address it.
    ///
    /// # Errors
    ///
    /// Why the path is not a key.
    #[doc(hidden)]
    fn of_path(path: &str) -> Result<Self, (ProblemKind, String)>;
}

impl<K: MapKey> MapPath for K {
    const LEVELS: usize = 1;

    fn type_name() -> String {
        K::TYPE.to_owned()
    }

    fn path(&self) -> Result<String, ValueError> {
        segment_of(self)
    }

    fn of_path(path: &str) -> Result<Self, (ProblemKind, String)> {
        key_of_segment(path)
    }
}

macro_rules! tuple {
    ($levels:literal: $($part:ident $at:tt),+) => {
        impl<$($part: MapKey),+> MapPath for ($($part,)+) {
            const LEVELS: usize = $levels;

            fn type_name() -> String {
                [$($part::TYPE),+].join("/")
            }

            fn path(&self) -> Result<String, ValueError> {
                Ok([$(segment_of(&self.$at)?),+].join("/"))
            }

            fn of_path(path: &str) -> Result<Self, (ProblemKind, String)> {
                if is_mixed(path) {
                    let reason = "some segments of the key's name have an escaped `_`, and some a plain one".to_owned();
                    return Err((ProblemKind::ForeignKey, reason));
                }
                let mut segments = path.split('/');
                Ok(($(key_of_segment::<$part>(segments.next().unwrap_or_default())?,)+))
            }
        }
    };
}

tuple!(2: A 0, B 1);
tuple!(3: A 0, B 1, C 2);
tuple!(4: A 0, B 1, C 2, D 3);

/// Splits a path after this many segments. `None` if it has fewer, or if one of them is reserved.
/// The rest is `None` if the path has no more.
pub(crate) fn split_levels(relative: &str, levels: usize) -> Option<(&str, Option<&str>)> {
    let end = relative.match_indices('/').nth(levels.checked_sub(1)?).map(|(at, _)| at);
    let (path, rest) = match end {
        Some(at) => (relative.get(..at)?, relative.get(at + 1..)),
        None => (relative, None),
    };
    let mut segments = path.split('/');
    let is_own = segments.by_ref().take(levels).all(|segment| !key::is_reserved(segment));
    (is_own && path.split('/').count() == levels).then_some((path, rest))
}

/// Whether this path is that of an entry in a map of values with keys of this many segments.
pub(crate) fn is_entry(relative: &str, levels: usize) -> bool {
    matches!(split_levels(relative, levels), Some((_, None)))
}

/// Whether this path of an entry is one that this library writes.
pub(crate) fn is_written(path: &str) -> bool {
    path.split('/').all(|segment| key::unescape(segment).is_some()) && !is_mixed(path)
}

/// Whether a `_` at the start of one segment is escaped, and one at the start of another is not. A
/// store has one of the two forms for all segments.
fn is_mixed(path: &str) -> bool {
    path.contains('/') && path.split('/').any(|segment| segment.starts_with('_')) && key::with_plain_underscores(path).is_some()
}

/// The name with a plain `_` of an entry whose name begins with an escaped one.
pub(crate) fn own_entry<K: MapPath>(path: &str) -> Option<String> {
    key::with_plain_underscores(path).filter(|_| is_entry(path, K::LEVELS))
}

/// Whether an entry with this name is not read, because `exists` says that it is also stored under
/// the name with a plain `_`.
pub(crate) fn is_replaced(path: &str, exists: impl Fn(&str) -> bool) -> bool {
    key::with_plain_underscores(path).is_some_and(|own| exists(&own))
}

/// Converts a map key to its segment.
fn segment_of<K: MapKey>(key: &K) -> Result<String, ValueError> {
    let bytes = Codec::value().encode(key)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ValueError::new("a map key is text; this one's stored form is not UTF-8"))?;
    Ok(key::escape(text).into_owned())
}

/// Converts a segment to its map key. Refuses a segment that [`segment_of`] would not write, since
/// no handle could address it.
fn key_of_segment<K: MapKey>(segment: &str) -> Result<K, (ProblemKind, String)> {
    let foreign = |reason: String| (ProblemKind::ForeignKey, reason);
    let text = key::unescape(segment).ok_or_else(|| foreign(unescaped(segment)))?;
    let value: K = Codec::value().decode(text.as_bytes()).map_err(|reason| foreign(format!("the key's name: {reason}")))?;
    let is_own = contained("the comparison", || Ok(value.is_stored_as(text.as_bytes())));
    if is_own.map_err(|reason| foreign(format!("the key's name: {reason}")))? {
        return Ok(value);
    }
    match segment_of(&value) {
        Ok(own) if key::is_form_of(segment, &own) => Ok(value),
        Ok(own) => Err(foreign(format!(
            "the key's name stands for the same as `{own}`: write that, or use `String` for the keys of the map, which takes every name"
        ))),
        Err(reason) => Err(foreign(format!("the key's name: {reason}"))),
    }
}

/// Says what to write instead of a name that [`segment_of`] would not write. The writer may have
/// escaped the name as in a URL, or may have meant it literally.
fn unescaped(segment: &str) -> String {
    let literally = key::escape(segment);
    let meant = percent_encoding::percent_decode_str(segment).decode_utf8().ok().filter(|meant| meant != segment);
    let advice = match meant.as_deref().map(|meant| (meant, key::escape(meant))) {
        Some((meant, own)) if meant == own => format!("write `{own}` if that is meant, or `{literally}` for the text `{segment}`"),
        Some((meant, own)) => format!("write `{own}` if {meant:?} is meant, or `{literally}` for the text `{segment}`"),
        None => format!("write `{literally}`"),
    };
    format!("the key's name is not escaped as this library does it: {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuple_is_one_escaped_segment_per_part() {
        type Three = (String, String, u64);
        let key: Three = ("a/b".to_owned(), "_c".to_owned(), 7);
        assert_eq!(key.path().unwrap(), "a%2Fb/_c/7");
        assert_eq!(Three::of_path("a%2Fb/_c/7").unwrap(), key);
        assert_eq!(Three::of_path("a%2Fb/%5Fc/7").unwrap(), key, "the form of v2 and of earlier versions");
        assert_eq!(("..".to_owned(), String::new()).path().unwrap(), "%2E%2E/%");
        for foreign in ["a/b/07", "a/b/x", "50%/b/7", "%5Fa/_b/7"] {
            assert_eq!(Three::of_path(foreign).unwrap_err().0, ProblemKind::ForeignKey, "{foreign}");
        }
        assert_eq!((Three::LEVELS, Three::type_name()), (3, "text/text/unsigned integer".to_owned()));
    }

    #[test]
    fn path_is_split_after_its_levels() {
        assert_eq!(split_levels("a/b/c/d", 2), Some(("a/b", Some("c/d"))));
        assert_eq!(split_levels("a/b", 2), Some(("a/b", None)));
        assert_eq!(split_levels("a", 1), Some(("a", None)));
        for few in ["a", "a/_etcd-typed/c", "_etcd-typed/b"] {
            assert_eq!(split_levels(few, 2), None, "{few}");
        }
        assert_eq!(split_levels("a/b/_etcd-typed", 2), Some(("a/b", Some("_etcd-typed"))));
        assert!(is_entry("a/b", 2) && !is_entry("a/b/c", 2) && !is_entry("a", 2) && !is_entry("_etcd-typed", 1));
    }
}
