//! Stores values of serde types as JSON, and checks that reading the JSON returns the same value.

use std::hash::{DefaultHasher, Hasher};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::ser::{self, Serialize};

use super::secret::MASK_NAME;
use super::{Equal, EtcdValue, InList, ValueError, changed, unreadable};

pub(super) const JSON: &str = "JSON";

/// Stores any serde type as JSON in one key. Use `Json` where no field attribute can be set:
/// `client.entry::<Json<Features>>("/features")`.
///
/// A write is refused with [`Encode`](crate::ErrorKind::Encode) if a read would return another
/// value. For example, JSON has no NaN and no infinity, and cannot tell `None` from `Some(None)`.
/// This check does not notice data that a serde attribute skips or rounds. A field with
/// `#[etcd(json)]` whose type is `PartialEq` is compared with `==`, which does notice it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Json<T>(
    /// The value.
    pub T,
);

impl<T: Serialize + DeserializeOwned> EtcdValue for Json<T> {
    const TYPE: &'static str = JSON;
    const IN_LIST: InList = InList::Json;

    fn encode(&self) -> Result<Bytes, ValueError> {
        encode(&self.0)
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        decode(bytes).map(Self)
    }

    fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
        survives(&self.0, stored, None)
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Bytes, ValueError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(ValueError::new)
}

pub(super) fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, ValueError> {
    let value = serde_json::from_slice(bytes).map_err(ValueError::new)?;
    // serde reads the number 1e39 as an `f32` that is infinite, which `print` refuses.
    if has_large_number(bytes) {
        print(&value)?;
    }
    Ok(value)
}

/// Checks that reading `stored` returns the same value.
pub(super) fn survives<T: Serialize + DeserializeOwned>(value: &T, stored: &Bytes, equal: Option<Equal<T>>) -> Result<(), ValueError> {
    let written = print(value)?;
    let read: T = decode(stored).map_err(unreadable)?;
    let is_same = match equal {
        Some(equal) => equal(value, &read),
        None => print(&read)? == written,
    };
    if is_same { Ok(()) } else { Err(changed()) }
}

/// Whether `json` may contain a number that is too large for an `f32`: one with an exponent, or
/// with as many digits as `f32::MAX`.
fn has_large_number(json: &[u8]) -> bool {
    const DIGITS: usize = 39;
    let mut digits = 0;
    json.iter().any(|byte| {
        let was_digit = digits > 0;
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        digits >= DIGITS || was_digit && matches!(byte, b'e' | b'E')
    })
}

/// Hashes a value as it serializes itself. `Some(None)` and `None` have different hashes. The order
/// of sequences and maps does not matter, since a `HashSet` may have another order after it is
/// read.
///
/// # Errors
///
/// If a number is NaN or infinite, which JSON cannot represent.
fn print<T: Serialize + ?Sized>(value: &T) -> Result<u64, ValueError> {
    value.serialize(Printer)
}

struct Printer;

/// The kind of a part of a value. Each integer type has its own kind, so that two variants of an
/// untagged enum have different hashes.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    F32,
    F64,
    Char,
    Str,
    Bytes,
    None,
    Some,
    Unit,
    Entry,
    Ordered,
    Unordered,
    Variant,
}

fn token(kind: Kind, content: u64) -> Result<u64, ValueError> {
    Ok(mix(kind as u64, content))
}

/// Combines two hashes; their order matters. A weak hash suffices, since an attacker gains nothing
/// from a collision.
fn mix(one: u64, other: u64) -> u64 {
    // The constants are odd and have irregular bits.
    let product = u128::from(one ^ 0x9e37_79b9_7f4a_7c15) * u128::from(other.rotate_left(32) ^ 0xd1b5_4a32_d192_ed03);
    #[expect(clippy::cast_possible_truncation, reason = "the two casts take both halves")]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn finite(number: f64) -> Result<(), ValueError> {
    if number.is_finite() { Ok(()) } else { Err(ValueError::new("a number is NaN or infinite, which JSON does not have")) }
}

impl ser::Error for ValueError {
    fn custom<T: std::fmt::Display>(reason: T) -> Self {
        Self::new(reason)
    }
}

macro_rules! integers {
    ($($method:ident $type:ty => $kind:ident;)+) => {$(
        fn $method(self, number: $type) -> Result<u64, ValueError> {
            token(Kind::$kind, hash(&number.to_ne_bytes()))
        }
    )+};
}

impl ser::Serializer for Printer {
    type Ok = u64;
    type Error = ValueError;
    type SerializeSeq = Parts;
    type SerializeTuple = Parts;
    type SerializeTupleStruct = Parts;
    type SerializeTupleVariant = Parts;
    type SerializeMap = Parts;
    type SerializeStruct = Parts;
    type SerializeStructVariant = Parts;

    integers! {
        serialize_i8 i8 => I8;
        serialize_i16 i16 => I16;
        serialize_i32 i32 => I32;
        serialize_i64 i64 => I64;
        serialize_i128 i128 => I128;
        serialize_u8 u8 => U8;
        serialize_u16 u16 => U16;
        serialize_u32 u32 => U32;
        serialize_u64 u64 => U64;
        serialize_u128 u128 => U128;
    }

    fn serialize_bool(self, value: bool) -> Result<u64, ValueError> {
        token(Kind::Bool, value.into())
    }

    fn serialize_f32(self, value: f32) -> Result<u64, ValueError> {
        finite(value.into())?;
        token(Kind::F32, value.to_bits().into())
    }

    fn serialize_f64(self, value: f64) -> Result<u64, ValueError> {
        finite(value)?;
        token(Kind::F64, value.to_bits())
    }

    fn serialize_char(self, value: char) -> Result<u64, ValueError> {
        token(Kind::Char, u32::from(value).into())
    }

    fn serialize_str(self, value: &str) -> Result<u64, ValueError> {
        token(Kind::Str, hash(value.as_bytes()))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<u64, ValueError> {
        token(Kind::Bytes, hash(value))
    }

    fn serialize_none(self) -> Result<u64, ValueError> {
        token(Kind::None, 0)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<u64, ValueError> {
        token(Kind::Some, print(value)?)
    }

    fn serialize_unit(self) -> Result<u64, ValueError> {
        token(Kind::Unit, 0)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<u64, ValueError> {
        token(Kind::Unit, 0)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<u64, ValueError> {
        variant_of(variant, 0)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<u64, ValueError> {
        if name == MASK_NAME {
            return Err(ValueError::new(
                "`serialize_masked` would store the mask `***` instead of the value: take the field out of the JSON value",
            ));
        }
        print(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<u64, ValueError> {
        variant_of(variant, print(value)?)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts, ValueError> {
        Ok(Parts::UNORDERED)
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts, ValueError> {
        Ok(Parts::ORDERED)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts, ValueError> {
        Ok(Parts::ORDERED)
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Parts, ValueError> {
        Ok(Parts { variant: Some(variant), ..Parts::ORDERED })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts, ValueError> {
        Ok(Parts::UNORDERED)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts, ValueError> {
        Ok(Parts::UNORDERED)
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Parts, ValueError> {
        Ok(Parts { variant: Some(variant), ..Parts::UNORDERED })
    }
}

/// A compound value whose parts are being hashed: a sequence, a tuple, a map or a struct.
struct Parts {
    hash: u64,
    is_ordered: bool,
    /// The hash of the current map key, until its value arrives.
    key: u64,
    variant: Option<&'static str>,
}

impl Parts {
    const ORDERED: Self = Self { hash: 0, is_ordered: true, key: 0, variant: None };
    const UNORDERED: Self = Self { is_ordered: false, ..Self::ORDERED };

    fn part(&mut self, part: u64) {
        self.hash = if self.is_ordered { mix(self.hash, part) } else { self.hash.wrapping_add(part) };
    }

    fn finish(self) -> Result<u64, ValueError> {
        let all = token(if self.is_ordered { Kind::Ordered } else { Kind::Unordered }, self.hash)?;
        match self.variant {
            Some(variant) => variant_of(variant, all),
            None => Ok(all),
        }
    }
}

fn variant_of(variant: &str, content: u64) -> Result<u64, ValueError> {
    token(Kind::Variant, mix(hash(variant.as_bytes()), content))
}

/// Returns the hash of a map entry or of a field.
fn entry(key: u64, value: u64) -> Result<u64, ValueError> {
    token(Kind::Entry, mix(key, value))
}

macro_rules! parts {
    ($($trait:ident $method:ident;)+) => {$(
        impl ser::$trait for Parts {
            type Ok = u64;
            type Error = ValueError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
                self.part(print(value)?);
                Ok(())
            }

            fn end(self) -> Result<u64, ValueError> {
                self.finish()
            }
        }
    )+};
}

parts! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

macro_rules! named_parts {
    ($($trait:ident;)+) => {$(
        impl ser::$trait for Parts {
            type Ok = u64;
            type Error = ValueError;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), ValueError> {
                self.part(entry(hash(name.as_bytes()), print(value)?)?);
                Ok(())
            }

            fn end(self) -> Result<u64, ValueError> {
                self.finish()
            }
        }
    )+};
}

named_parts! {
    SerializeStruct;
    SerializeStructVariant;
}

impl ser::SerializeMap for Parts {
    type Ok = u64;
    type Error = ValueError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ValueError> {
        self.key = print(key)?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        self.part(entry(self.key, print(value)?)?);
        Ok(())
    }

    fn end(self) -> Result<u64, ValueError> {
        self.finish()
    }
}
