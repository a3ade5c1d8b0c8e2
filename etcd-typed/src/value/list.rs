//! Lists, sets, arrays and tuples of values, stored as a JSON array in one key. A `Vec<u8>` is
//! stored as bytes.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::segment::{key_of_segment, segment_of};
use super::{Codec, EtcdValue, ValueError, changed, unreadable};
use crate::error::ProblemKind;

/// How a value is written as an element of a list; see [`EtcdValue::IN_LIST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InList {
    /// The stored form is written as a JSON string: `"debug"`.
    Text,
    /// The stored form is JSON itself and is written as it is: `8080`, `true`, `[1,2]`. A stored
    /// form that is not JSON, such as `NaN`, is written as a JSON string. A read also accepts a
    /// JSON string with the stored form in it: `"8080"`.
    Json,
}

/// Returns how a type that is stored as its `Display` text is written in a list. Only the text of a
/// boolean is JSON.
pub(super) const fn of_name(name: &str) -> InList {
    if matches!(name.as_bytes(), b"boolean") { InList::Json } else { InList::Text }
}

/// The longest type name of a list, in bytes.
const LONGEST: usize = 240;

/// A text that is joined at compile time, and its length. The length is 0 if the text is longer
/// than [`LONGEST`].
type Joined = ([u8; LONGEST], usize);

const fn join(parts: &[&str]) -> Joined {
    let mut joined = [0; LONGEST];
    let (mut length, mut rest) = (0, parts);
    while let Some((part, others)) = rest.split_first() {
        let mut bytes = part.as_bytes();
        while let Some((byte, after)) = bytes.split_first() {
            if length == LONGEST {
                return (joined, 0);
            }
            joined[length] = *byte;
            length += 1;
            bytes = after;
        }
        rest = others;
    }
    (joined, length)
}

const fn name<'n>((bytes, length): &'n Joined, otherwise: &'static str) -> &'n str {
    match std::str::from_utf8(bytes.split_at(*length).0) {
        Ok(name) if *length > 0 => name,
        _ => otherwise,
    }
}

/// Provides the type names of lists, sets and tuples with elements of type `T`.
struct Named<T>(PhantomData<T>);

impl<T: EtcdValue> Named<T> {
    const JOINED_LIST: Joined = join(&["list of ", T::TYPE]);
    const JOINED_SET: Joined = join(&["set of ", T::TYPE]);
    const LIST: &'static str = name(&Self::JOINED_LIST, "list");
    const SET: &'static str = name(&Self::JOINED_SET, "set");
}

fn at(position: usize, reason: &ValueError) -> ValueError {
    ValueError::new(format_args!("element {}: {reason}", position + 1))
}

/// Returns the JSON of one element.
fn element<T: EtcdValue>(position: usize, value: &T) -> Result<String, ValueError> {
    let stored = value.encode().map_err(|reason| at(position, &reason))?;
    let text = std::str::from_utf8(&stored)
        .map_err(|_| at(position, &ValueError::new("not UTF-8 text, and a list is stored as JSON, which holds only text")))?;
    match T::IN_LIST {
        InList::Json if serde_json::from_str::<&RawValue>(text).is_ok() => Ok(text.to_owned()),
        _ => serde_json::to_string(text).map_err(|reason| at(position, &ValueError::new(reason))),
    }
}

fn elements<'v, T: EtcdValue + 'v>(values: impl IntoIterator<Item = &'v T>) -> Result<Vec<String>, ValueError> {
    values.into_iter().enumerate().map(|(position, value)| element(position, value)).collect()
}

fn array(elements: &[String]) -> Bytes {
    format!("[{}]", elements.join(",")).into()
}

/// Returns the elements of a stored array. If the bytes are not an array, the error shows a valid
/// array: the result of `meant`, or else `example`. `meant` gets the texts between the commas, as a
/// person may have typed them.
fn parts<'j>(bytes: &'j [u8], example: &str, meant: impl FnOnce(&[&str]) -> Option<String>) -> Result<Vec<&'j RawValue>, ValueError> {
    let reason = match serde_json::from_slice(bytes) {
        Ok(parts) => return Ok(parts),
        Err(reason) => reason,
    };
    let text = std::str::from_utf8(bytes).map_err(|_| ValueError::new("not UTF-8 text"))?.trim();
    if text.is_empty() {
        return Err(ValueError::new(format_args!(
            "not a JSON array: it is empty; write `[]` for no elements, or an array such as `{example}`"
        )));
    }
    let inner = text.strip_prefix('[').unwrap_or(text);
    let inner = inner.strip_suffix(']').unwrap_or(inner);
    let is_mark = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`');
    let typed: Vec<&str> = inner.split([',', ';', '\n']).map(|part| part.trim_matches(is_mark)).filter(|part| !part.is_empty()).collect();
    let advice = match meant(&typed) {
        Some(meant) => format!("write `{meant}`"),
        None => format!("write it as in `{example}`"),
    };
    // Leave out serde's reason if the text does not begin as an array, since the reason would quote
    // the text.
    Err(match text.starts_with('[') {
        true => ValueError::new(format_args!("not a JSON array: {reason}; {advice}")),
        false => ValueError::new(format_args!("not a JSON array; {advice}")),
    })
}

/// Reads one element.
fn one<T: EtcdValue>(position: usize, part: &RawValue) -> Result<T, ValueError> {
    let raw = part.get();
    let codec = Codec::<T>::value();
    let text = |raw| serde_json::from_str::<String>(raw).map_err(|_| ValueError::new("not a valid text"));
    let read = match (T::IN_LIST, raw.as_bytes().first()) {
        (InList::Text, Some(b'"')) => text(raw).and_then(|text| codec.decode(text.as_bytes())),
        (InList::Text, first) => Err(ValueError::new(match first {
            Some(b'[') => "an array where a text in quotes is needed",
            Some(b'{') => "an object where a text in quotes is needed",
            Some(b't' | b'f') => "a boolean where a text is needed: put it in quotes",
            Some(b'n') => "null where a text is needed: leave the element out, or put it in quotes",
            _ => "a number where a text is needed: put it in quotes",
        })),
        (InList::Json, Some(b'"')) => codec.decode(raw.as_bytes()).or_else(|_| codec.decode(text(raw)?.as_bytes())),
        (InList::Json, _) => codec.decode(raw.as_bytes()),
    };
    read.map_err(|reason| at(position, &reason))
}

/// Returns an element for the valid array that an error shows.
fn sample<T: EtcdValue>(position: usize) -> &'static str {
    let second = position % 2 == 1;
    match (T::IN_LIST, T::TYPE) {
        (InList::Text, _) if second => "\"b\"",
        (InList::Text, _) => "\"a\"",
        (InList::Json, "boolean") if second => "false",
        (InList::Json, "boolean") => "true",
        (InList::Json, of) if of.starts_with("list of") || of.starts_with("set of") || of.starts_with('(') => "[…]",
        (InList::Json, _) if second => "2",
        (InList::Json, _) => "1",
    }
}

/// Converts the texts that a person typed to a valid array, if an error may quote them.
fn typed<T: EtcdValue>(texts: &[&str]) -> Option<String> {
    let is_shown = !T::SECRET && (T::QUOTABLE || T::IN_LIST == InList::Json);
    if !is_shown || texts.iter().map(|text| text.len()).sum::<usize>() > 64 {
        return None;
    }
    let values: Vec<T> = texts.iter().map(|text| Codec::value().decode(text.as_bytes()).ok()).collect::<Option<_>>()?;
    let meant = array(&elements(&values).ok()?);
    String::from_utf8(meant.to_vec()).ok()
}

fn read<T: EtcdValue>(bytes: &[u8]) -> Result<Vec<T>, ValueError> {
    let example = format!("[{},{}]", sample::<T>(0), sample::<T>(1));
    let parts = parts(bytes, &example, typed::<T>)?;
    parts.into_iter().enumerate().map(|(position, part)| one(position, part)).collect()
}

/// Checks that reading each element back returns an equal value.
fn elements_survive<'v, T: EtcdValue + 'v>(values: impl IntoIterator<Item = &'v T>) -> Result<(), ValueError> {
    let survives = |(position, value)| Codec::<T>::value().encode(value).map(drop).map_err(|reason| at(position, &reason));
    values.into_iter().enumerate().try_for_each(survives)
}

/// Checks that reading `stored` returns a value with the same stored form. Together with the check
/// of each element, this shows that the two values are equal.
pub(crate) fn form_survives<L: EtcdValue>(stored: &Bytes) -> Result<(), ValueError> {
    let again = L::decode(stored).map_err(unreadable)?;
    if again.encode()? == stored { Ok(()) } else { Err(changed()) }
}

fn wrong_length(needed: usize, found: usize) -> ValueError {
    ValueError::new(format_args!("it has {found} elements, and {needed} are needed"))
}

impl<T: EtcdValue> EtcdValue for Vec<T> {
    const TYPE: &'static str = if T::IS_BYTE { "bytes" } else { Named::<T>::LIST };
    const SECRET: bool = T::SECRET;
    const IN_LIST: InList = if T::IS_BYTE { InList::Text } else { InList::Json };

    fn encode(&self) -> Result<Bytes, ValueError> {
        match T::as_bytes(self) {
            Some(bytes) => Ok(Bytes::copy_from_slice(bytes)),
            None => Ok(array(&elements(self)?)),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        T::from_bytes(bytes).map_or_else(|| read(bytes), Ok)
    }

    fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
        if T::IS_BYTE {
            return Ok(());
        }
        elements_survive(self)?;
        form_survives::<Self>(stored)
    }
}

impl<T: EtcdValue, const N: usize> EtcdValue for [T; N] {
    const TYPE: &'static str = Named::<T>::LIST;
    const SECRET: bool = T::SECRET;
    const IN_LIST: InList = InList::Json;

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(array(&elements(self)?))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        Self::try_from(read(bytes)?).map_err(|values: Vec<T>| wrong_length(N, values.len()))
    }

    fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
        elements_survive(self)?;
        form_survives::<Self>(stored)
    }
}

impl<T: EtcdValue + Ord> EtcdValue for BTreeSet<T> {
    const TYPE: &'static str = Named::<T>::SET;
    const SECRET: bool = T::SECRET;
    const IN_LIST: InList = InList::Json;

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(array(&elements(self)?))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        Ok(read(bytes)?.into_iter().collect())
    }

    fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
        elements_survive(self)?;
        form_survives::<Self>(stored)
    }
}

impl<T: EtcdValue + Eq + Hash, H: BuildHasher + Default> EtcdValue for HashSet<T, H> {
    const TYPE: &'static str = Named::<T>::SET;
    const SECRET: bool = T::SECRET;
    const IN_LIST: InList = InList::Json;

    fn encode(&self) -> Result<Bytes, ValueError> {
        let mut elements = elements(self)?;
        elements.sort_by(|one, other| by_number_then_text(one, other));
        Ok(array(&elements))
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        Ok(read(bytes)?.into_iter().collect())
    }

    fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
        elements_survive(self)?;
        form_survives::<Self>(stored)
    }
}

/// Orders the elements of a hash set: integers by value, then all other elements by their JSON.
fn by_number_then_text(one: &str, other: &str) -> Ordering {
    /// Returns the sign and the digits of an integer.
    fn integer(text: &str) -> Option<(bool, &str)> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_integer.then_some((digits.len() < text.len(), digits))
    }
    let by_size = |one: &str, other: &str| (one.len(), one).cmp(&(other.len(), other));
    match (integer(one), integer(other)) {
        (Some((true, one)), Some((true, other))) => by_size(other, one),
        (Some((false, one)), Some((false, other))) => by_size(one, other),
        (Some((one, _)), Some((other, _))) => other.cmp(&one),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.cmp(other),
    }
}

macro_rules! tuples {
    ($($length:literal: $($of:ident $at:tt),+;)+) => {$(
        impl<$($of: EtcdValue),+> Named<($($of,)+)> {
            const JOINED_TUPLE: Joined = join(&["(", $(if $at == 0 { "" } else { ", " }, $of::TYPE),+, ")"]);
            const TUPLE: &'static str = name(&Self::JOINED_TUPLE, "(…)");
        }

        #[diagnostic::do_not_recommend]
        impl<$($of: EtcdValue),+> EtcdValue for ($($of,)+) {
            const TYPE: &'static str = Named::<Self>::TUPLE;
            const SECRET: bool = false $(|| $of::SECRET)+;
            const IN_LIST: InList = InList::Json;
            const SEGMENTS: usize = $length;

            fn segment_types() -> String {
                [$($of::TYPE),+].join("/")
            }

            fn to_segments(&self) -> Result<String, ValueError> {
                Ok([$(segment_of(&self.$at)?),+].join("/"))
            }

            fn from_segments(path: &str) -> Result<Self, (ProblemKind, String)> {
                let mut segments = path.split('/');
                Ok(($(key_of_segment::<$of>(segments.next().unwrap_or_default())?,)+))
            }

            fn encode(&self) -> Result<Bytes, ValueError> {
                Ok(array(&[$(element($at, &self.$at)?),+]))
            }

            fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
                let example = format!("[{}]", [$(sample::<$of>($at)),+].join(","));
                let parts = parts(bytes, &example, |_| None)?;
                if parts.len() != $length {
                    return Err(wrong_length($length, parts.len()));
                }
                Ok(($(one::<$of>($at, parts[$at])?,)+))
            }

            fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
                $(Codec::<$of>::value().encode(&self.$at).map_err(|reason| at($at, &reason))?;)+
                form_survives::<Self>(stored)
            }
        }
    )+};
}

tuples! {
    1: A 0;
    2: A 0, B 1;
    3: A 0, B 1, C 2;
    4: A 0, B 1, C 2, D 3;
    5: A 0, B 1, C 2, D 3, E 4;
    6: A 0, B 1, C 2, D 3, E 4, F 5;
    7: A 0, B 1, C 2, D 3, E 4, F 5, G 6;
    8: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7;
    9: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8;
    10: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9;
    11: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10;
    12: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11;
}

#[cfg(test)]
mod tests;
