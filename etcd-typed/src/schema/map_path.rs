//! The key types of maps. A key is one segment of a path, or several.

use std::fmt;

use crate::error::ProblemKind;
use crate::key;
use crate::value::{EtcdValue, ValueError};

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
/// [`Client::dirs`](crate::Client::dirs): a [`MapKey`]. A tuple is one segment for each part; every
/// other key is one segment.
///
/// Each part is escaped by itself, so `("a/b", "c", 7)` is `/a%2Fb/c/7`. Keys with more or fewer
/// segments are not entries of the map.
pub trait MapPath: Ord + Clone + fmt::Debug + Send + Sync + 'static {
    /// The number of segments.
    #[doc(hidden)]
    const LEVELS: usize;

    /// Returns the name of the type, for people.
    #[doc(hidden)]
    fn type_name() -> String;

    /// Returns the stored path of this key, relative to the map.
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
    /// The reason why the path is not a key.
    #[doc(hidden)]
    fn of_path(path: &str) -> Result<Self, (ProblemKind, String)>;
}

impl<K: MapKey> MapPath for K {
    const LEVELS: usize = K::SEGMENTS;

    fn type_name() -> String {
        K::segment_types()
    }

    fn path(&self) -> Result<String, ValueError> {
        self.to_segments()
    }

    fn of_path(path: &str) -> Result<Self, (ProblemKind, String)> {
        if is_mixed(path) {
            let reason = "some segments of the key's name have an escaped `_`, and some a plain one".to_owned();
            return Err((ProblemKind::ForeignKey, reason));
        }
        K::from_segments(path)
    }
}

/// Splits a path after this many segments. Returns `None` if the path has fewer segments, or if one
/// of them is reserved. The second part is `None` if the path has no further segments.
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

/// Whether this path is the path of an entry in a map of values whose keys have this many segments.
pub(crate) fn is_entry(relative: &str, levels: usize) -> bool {
    matches!(split_levels(relative, levels), Some((_, None)))
}

/// Whether this library would write an entry at this path.
pub(crate) fn is_written(path: &str) -> bool {
    path.split('/').all(|segment| key::unescape(segment).is_some()) && !is_mixed(path)
}

/// Whether one segment starts with an escaped `_` and another one with a plain `_`. A store uses
/// the same form for all segments.
fn is_mixed(path: &str) -> bool {
    path.contains('/') && path.split('/').any(|segment| segment.starts_with('_')) && key::with_plain_underscores(path).is_some()
}

/// Returns the name with a plain `_`, if the name of this entry begins with an escaped `_`.
pub(crate) fn own_entry<K: MapPath>(path: &str) -> Option<String> {
    key::with_plain_underscores(path).filter(|_| is_entry(path, K::LEVELS))
}

/// True if an entry with this name is not read, because `exists` says that the entry is also stored
/// under the name with a plain `_`.
pub(crate) fn is_replaced(path: &str, exists: impl Fn(&str) -> bool) -> bool {
    key::with_plain_underscores(path).is_some_and(|own| exists(&own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuple_key_has_one_escaped_segment_per_part() {
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
    fn path_is_split_after_given_segments() {
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
