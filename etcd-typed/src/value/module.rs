//! Values that a user's module serializes and deserializes (`#[serde(with = "module")]`). A string,
//! a number or a boolean is stored as its text, and any other value as JSON.

use bytes::Bytes;
use serde_json::de::{Deserializer, StrRead};
use serde_json::ser::Serializer;

use super::{ValueError, text};

/// Converts a value to its stored form, with `write` as its serializer function.
///
/// # Errors
///
/// The error of `write`.
pub fn to_text(write: impl FnOnce(&mut Serializer<&mut Vec<u8>>) -> serde_json::Result<()>) -> Result<Bytes, ValueError> {
    let mut json = Vec::new();
    write(&mut Serializer::new(&mut json)).map_err(ValueError::new)?;
    match json.first() {
        Some(b'"') => serde_json::from_slice::<String>(&json).map(Bytes::from).map_err(ValueError::new),
        _ => Ok(json.into()),
    }
}

/// Reads a stored form that [`to_text`] or a person wrote. If the text looks like a JSON value
/// other than a string, it is read as JSON first. If that fails, or for any other text, the text is
/// read as a string.
///
/// # Errors
///
/// The error of `read` for the text as a string. If the text begins like an object or an array, the
/// error of `read` for the text as JSON.
pub fn from_text<T>(bytes: &[u8], read: impl Fn(&mut Deserializer<StrRead<'_>>) -> serde_json::Result<T>) -> Result<T, ValueError> {
    let text = text(bytes)?;
    let trimmed = text.trim();
    let whole = |json: &str| {
        let mut deserializer = Deserializer::from_str(json);
        let value = read(&mut deserializer)?;
        deserializer.end().map(|()| value)
    };
    let as_string = |text: &str| serde_json::to_string(text).and_then(|json| whole(&json));
    let as_json = may_be_json(trimmed).then(|| whole(trimmed));
    match as_json {
        Some(Ok(value)) => Ok(value),
        Some(Err(reason)) if trimmed.starts_with(['{', '[']) => as_string(text).map_err(|_| ValueError::new(reason)),
        // A value that was written with `echo` ends with a newline.
        _ => as_string(text).or_else(|reason| as_string(trimmed).map_err(|_| reason)).map_err(|reason| without_place(&reason)),
    }
}

/// Whether a text begins like a JSON value other than a string.
fn may_be_json(text: &str) -> bool {
    matches!(text, "true" | "false" | "null") || text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '-' | '{' | '['))
}

/// Returns the reason without the line and column, which mean nothing in a single word.
fn without_place(reason: &serde_json::Error) -> ValueError {
    let place = format!(" at line {} column {}", reason.line(), reason.column());
    let reason = reason.to_string();
    ValueError::new(reason.strip_suffix(&place).unwrap_or(&reason))
}

/// Returns the value of an `Option` field whose key exists.
///
/// # Errors
///
/// If the module read `None`: for such a field, `None` means that no key exists.
pub fn present<T>(value: Option<T>) -> Result<T, ValueError> {
    value.ok_or_else(|| ValueError::new("the field's module reads `None` from it: delete the key instead"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::*;

    fn stored<T: Serialize>(value: T) -> String {
        String::from_utf8(to_text(|to| value.serialize(to)).unwrap().to_vec()).unwrap()
    }

    fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
        from_text(text.as_bytes(), |from| T::deserialize(from)).map_err(|reason| reason.to_string())
    }

    #[test]
    fn strings_numbers_and_booleans_are_stored_as_text() {
        assert_eq!([stored("30s"), stored("a \"b\"\n"), stored(7), stored(1.5), stored(true)], ["30s", "a \"b\"\n", "7", "1.5", "true"]);
        assert_eq!([stored(1.1_f32), stored(u128::MAX)], ["1.1".to_owned(), u128::MAX.to_string()]);
    }

    #[test]
    fn other_values_are_stored_as_json() {
        let map: BTreeMap<_, _> = [("a", 1)].into();
        assert_eq!([stored(vec!["a", "b"]), stored(map), stored(())], ["[\"a\",\"b\"]", "{\"a\":1}", "null"]);
    }

    #[test]
    fn text_is_read_as_json_or_else_as_string() {
        assert_eq!(read::<u32>("7\n"), Ok(7));
        assert_eq!(read::<String>("7"), Ok("7".to_owned()));
        assert_eq!(read::<String>("1m30s"), Ok("1m30s".to_owned()));
        assert_eq!(read::<String>(" a\n"), Ok(" a\n".to_owned()), "white space is a part of a string");
        assert_eq!(read::<char>("a\n"), Ok('a'), "and not of other types");
        assert_eq!(read::<bool>("true"), Ok(true));
        assert_eq!(read::<String>("true"), Ok("true".to_owned()));
        assert_eq!(read::<String>("[1"), Ok("[1".to_owned()));
        assert_eq!(read::<Vec<u8>>("[1, 2]"), Ok(vec![1, 2]));
        assert_eq!(read::<Option<u8>>("null"), Ok(None));
    }

    #[test]
    fn error_for_single_word_has_no_column() {
        assert_eq!(read::<u8>("many"), Err("invalid type: string \"many\", expected u8".to_owned()));
        assert_eq!(read::<Vec<u8>>("[1, a]"), Err("expected value at line 1 column 5".to_owned()));
    }
}
