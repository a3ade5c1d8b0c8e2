//! Limits of a field's values: a range, a length, and a list of allowed values. Tools can read the
//! limits as data.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::{Secret, Text, ValueError};

/// The limits of a field's values: `range`, `length` and `one_of`. `Display` prints them for people;
/// `Serialize` returns them for tools, with numbers as numbers: `{"range":{"min":1,"max":65535}}`.
///
/// The limits of a secret do not contain `range` and `one_of`, since these show possible values.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    pub(crate) range: Option<fn() -> Option<Bounds>>,
    pub(crate) length: Option<fn() -> Option<Bounds>>,
    pub(crate) one_of: Option<fn() -> Option<Vec<String>>>,
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self { range: None, length: None, one_of: None };

    /// Returns the smallest and the largest allowed value.
    #[must_use]
    pub fn range(&self) -> Option<Bounds> {
        self.range.and_then(|range| range())
    }

    /// Returns the smallest and the largest allowed length, in the unit of [`Length`].
    #[must_use]
    pub fn length(&self) -> Option<Bounds> {
        self.length.and_then(|length| length())
    }

    /// Returns the stored forms of the allowed values.
    #[must_use]
    pub fn one_of(&self) -> Option<Vec<String>> {
        self.one_of.and_then(|one_of| one_of())
    }

    /// Returns the limits that may be shown for a secret.
    pub(crate) const fn of_secret(self) -> Self {
        Self { range: None, one_of: None, ..self }
    }

    pub(crate) const fn is_none(&self) -> bool {
        self.range.is_none() && self.length.is_none() && self.one_of.is_none()
    }
}

/// Writes each limit after a comma: `, in 1 … 65535, length 1 … 64, one of "a", "b"`.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(range) = self.range() {
            write!(f, ", in {range}")?;
        }
        if let Some(length) = self.length() {
            write!(f, ", length {length}")?;
        }
        if let Some(values) = self.one_of() {
            write!(f, ", one of {}", listed(&values))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (range, length, one_of) = (self.range(), self.length(), self.one_of());
        f.debug_struct("Limits").field("range", &range).field("length", &length).field("one_of", &one_of).finish()
    }
}

impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(range) = self.range() {
            map.serialize_entry("range", &range)?;
        }
        if let Some(length) = self.length() {
            map.serialize_entry("length", &length)?;
        }
        if let Some(values) = self.one_of() {
            map.serialize_entry("one_of", &Stored(&values))?;
        }
        map.end()
    }
}

/// The bounds of a range, each as the stored form of a value. `Serialize` writes an object with
/// `min` or `above`, and `max` or `below`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bounds {
    /// The lower bound.
    pub from: Bound<String>,
    /// The upper bound.
    pub to: Bound<String>,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Bound::Included(min), Bound::Included(max)) if min == max => f.write_str(min),
            (Bound::Included(min), Bound::Included(max)) => write!(f, "{min} … {max}"),
            (Bound::Included(min), Bound::Excluded(max)) => write!(f, "{min} … below {max}"),
            (Bound::Excluded(min), Bound::Included(max)) => write!(f, "above {min} … {max}"),
            (Bound::Excluded(min), Bound::Excluded(max)) => write!(f, "above {min} … below {max}"),
            (Bound::Included(min), Bound::Unbounded) => write!(f, "{min} …"),
            (Bound::Excluded(min), Bound::Unbounded) => write!(f, "above {min} …"),
            (Bound::Unbounded, Bound::Included(max)) => write!(f, "… {max}"),
            (Bound::Unbounded, Bound::Excluded(max)) => write!(f, "… below {max}"),
            (Bound::Unbounded, Bound::Unbounded) => f.write_str("…"),
        }
    }
}

impl Serialize for Bounds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.from {
            Bound::Included(min) => map.serialize_entry("min", &number_or_text(min))?,
            Bound::Excluded(min) => map.serialize_entry("above", &number_or_text(min))?,
            Bound::Unbounded => {}
        }
        match &self.to {
            Bound::Included(max) => map.serialize_entry("max", &number_or_text(max))?,
            Bound::Excluded(max) => map.serialize_entry("below", &number_or_text(max))?,
            Bound::Unbounded => {}
        }
        map.end()
    }
}

struct Stored<'v>(&'v [String]);

impl Serialize for Stored<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.len()))?;
        self.0.iter().try_for_each(|value| seq.serialize_element(&number_or_text(value)))?;
        seq.end()
    }
}

/// Converts a stored form to a JSON number or boolean if it is one, and otherwise to a JSON string.
fn number_or_text(stored: &str) -> serde_json::Value {
    match serde_json::from_str(stored) {
        Ok(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)))
            if serde_json::to_string(&value).is_ok_and(|written| written == stored) =>
        {
            value
        }
        _ => stored.into(),
    }
}

fn listed(values: &[String]) -> String {
    let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
    values.join(", ")
}

/// A function that returns the stored form of a bound.
type Form<T> = fn(&T) -> Result<Bytes, ValueError>;

fn shown<T>(value: &T, form: Form<T>) -> String {
    form(value).map_or_else(|_| "?".to_owned(), |stored| String::from_utf8_lossy(&stored).into_owned())
}

fn bounds<T, R: RangeBounds<T>>(range: &R, form: Form<T>) -> Bounds {
    let text = |bound: Bound<&T>| match bound {
        Bound::Included(value) => Bound::Included(shown(value, form)),
        Bound::Excluded(value) => Bound::Excluded(shown(value, form)),
        Bound::Unbounded => Bound::Unbounded,
    };
    Bounds { from: text(range.start_bound()), to: text(range.end_bound()) }
}

/// A function that checks one limit of values of type `T`. Called without a value, the function
/// returns the limit as data. Called with a value that the limit allows, it returns `None`.
pub(crate) type Limit<T, D> = fn(Option<&T>) -> Result<Option<D>, ValueError>;

/// The limits of values of type `T`.
pub struct LimitsOf<T> {
    /// The limit `range`.
    pub range: Option<Limit<T, Bounds>>,
    /// The limit `length`.
    pub length: Option<Limit<T, Bounds>>,
    /// The limit `one_of`.
    pub one_of: Option<Limit<T, Vec<String>>>,
}

impl<T> Clone for LimitsOf<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for LimitsOf<T> {}

impl<T> fmt::Debug for LimitsOf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitsOf").finish_non_exhaustive()
    }
}

impl<T> LimitsOf<T> {
    /// No limits.
    pub const NONE: Self = Self { range: None, length: None, one_of: None };

    pub(super) const fn is_none(&self) -> bool {
        self.range.is_none() && self.length.is_none() && self.one_of.is_none()
    }

    pub(super) fn check(&self, value: &T) -> Result<(), ValueError> {
        self.range.map_or(Ok(None), |range| range(Some(value)))?;
        self.length.map_or(Ok(None), |length| length(Some(value)))?;
        self.one_of.map_or(Ok(None), |one_of| one_of(Some(value)))?;
        Ok(())
    }
}

/// Checks a value against the limit `range`. Without a value, returns the limit.
pub fn in_range<T: PartialOrd, R: RangeBounds<T>>(value: Option<&T>, range: &R, form: Form<T>) -> Result<Option<Bounds>, ValueError> {
    match value {
        None => Ok(Some(bounds(range, form))),
        Some(value) if range.contains(value) => Ok(None),
        Some(_) => Err(ValueError::new(format_args!("not in {}", bounds(range, form)))),
    }
}

/// Checks a value against the limit `length`. Without a value, returns the limit.
pub fn has_length<T: Length, R: RangeBounds<usize>>(value: Option<&T>, range: &R) -> Result<Option<Bounds>, ValueError> {
    let bounds = || bounds(range, |length| Ok(length.to_string().into()));
    match value.map(T::length) {
        None => Ok(Some(bounds())),
        Some(length) if range.contains(&length) => Ok(None),
        Some(length) => Err(ValueError::new(format_args!("its length of {length} {} is not in {}", T::UNIT, bounds()))),
    }
}

/// Checks a value against the limit `one_of`. Without a value, returns the limit.
pub fn is_one_of<T: PartialEq>(value: Option<&T>, values: &[T], form: Form<T>) -> Result<Option<Vec<String>>, ValueError> {
    let forms = || values.iter().map(|value| shown(value, form)).collect::<Vec<_>>();
    match value {
        None => Ok(Some(forms())),
        Some(value) if values.contains(value) => Ok(None),
        Some(_) => Err(ValueError::new(format_args!("not one of {}", listed(&forms())))),
    }
}

/// A type whose values have a length that `#[etcd(length = 1..=64)]` can limit.
///
/// A text is counted in characters (Unicode scalar values), a list, a set or a map in elements, and
/// `Bytes` in bytes. Implement `Length` for your own newtype to limit its length.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no length",
    label = "`length` needs a text, a list, a set or bytes",
    note = "to limit a number use `range`; for any other rule use `validate = path`",
    note = "for a type of your own implement `etcd_typed::Length`"
)]
pub trait Length {
    /// The unit of the length, for messages: `characters`, `elements`, `bytes`.
    const UNIT: &'static str;

    /// Returns the length of the value.
    fn length(&self) -> usize;
}

impl Length for str {
    const UNIT: &'static Self = "characters";

    fn length(&self) -> usize {
        self.chars().count()
    }
}

impl Length for String {
    const UNIT: &'static str = str::UNIT;

    fn length(&self) -> usize {
        self.as_str().length()
    }
}

impl Length for Path {
    const UNIT: &'static str = str::UNIT;

    fn length(&self) -> usize {
        str::length(&self.to_string_lossy())
    }
}

impl Length for PathBuf {
    const UNIT: &'static str = str::UNIT;

    fn length(&self) -> usize {
        self.as_path().length()
    }
}

impl Length for Bytes {
    const UNIT: &'static str = "bytes";

    fn length(&self) -> usize {
        self.len()
    }
}

macro_rules! elements {
    ($([$($generics:tt)+] $type:ty;)+) => {$(
        impl<$($generics)+> Length for $type {
            const UNIT: &'static str = "elements";

            fn length(&self) -> usize {
                self.len()
            }
        }
    )+};
}

elements! {
    [T] [T];
    [T] Vec<T>;
    [T, const N: usize] [T; N];
    [T] BTreeSet<T>;
    [T, H] HashSet<T, H>;
    [K, V] BTreeMap<K, V>;
    [K, V, H] HashMap<K, V, H>;
}

macro_rules! pointers {
    ($($pointer:ident),+) => {$(
        impl<T: Length + ?Sized> Length for $pointer<T> {
            const UNIT: &'static str = T::UNIT;

            fn length(&self) -> usize {
                T::length(self)
            }
        }
    )+};
}

pointers!(Box, Arc);

impl Length for Cow<'static, str> {
    const UNIT: &'static str = str::UNIT;

    fn length(&self) -> usize {
        str::length(self)
    }
}

impl<T: Length> Length for Text<T> {
    const UNIT: &'static str = T::UNIT;

    fn length(&self) -> usize {
        self.0.length()
    }
}

impl<T: Length> Length for Secret<T> {
    const UNIT: &'static str = T::UNIT;

    fn length(&self) -> usize {
        self.expose().length()
    }
}
