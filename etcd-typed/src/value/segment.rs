//! Converts map keys to path segments and back.

use super::{Codec, EtcdValue, ValueError, contained};
use crate::error::ProblemKind;
use crate::key;

/// Converts a map key to a path segment.
pub(super) fn segment_of<K: EtcdValue>(key: &K) -> Result<String, ValueError> {
    let bytes = Codec::value().encode(key)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ValueError::new("a map key is text; this one's stored form is not UTF-8"))?;
    Ok(key::escape(text).into_owned())
}

/// Converts a path segment to a map key. Refuses a segment that [`segment_of`] does not write,
/// since no handle can address it.
pub(super) fn key_of_segment<K: EtcdValue>(segment: &str) -> Result<K, (ProblemKind, String)> {
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

/// Returns advice for a segment that [`segment_of`] does not write. Its writer may have escaped the
/// name as in a URL, or may have meant it literally.
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
