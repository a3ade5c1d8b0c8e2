//! Integers and floating-point numbers as text.

use std::fmt::Display;
use std::num::{
    IntErrorKind, NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize, NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64,
    NonZeroU128, NonZeroUsize, ParseIntError,
};

use bytes::Bytes;

use super::{EtcdValue, InList, ValueError, exact, text};

/// Returns the error for a text that is not an integer from `min` to `max`. `beside` is appended to
/// the range, such as `, without 0`. The error quotes only integers: any other text may be a
/// password that was stored at the wrong key.
fn not_in(text: &str, reason: &ParseIntError, min: &dyn Display, max: &dyn Display, beside: &str) -> ValueError {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match reason.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow | IntErrorKind::Zero => {
            ValueError::new(format_args!("{:?} is not in {min} … {max}{beside}", shortened(text)))
        }
        // An integer with a wrong sign, such as `-1` for an unsigned type, gives `InvalidDigit`.
        _ if is_integer => ValueError::new(format_args!("{:?} is not in {min} … {max}{beside}: {reason}", shortened(text))),
        _ => ValueError::new(format_args!("not an integer in {min} … {max}{beside}: {reason}")),
    }
}

/// Shortens a number for a message.
fn shortened(number: &str) -> String {
    const LONGEST: usize = 64;
    match number.get(..LONGEST) {
        Some(first) if number.len() > LONGEST => format!("{first}…"),
        _ => number.to_owned(),
    }
}

macro_rules! integers {
    ($name:literal, $beside:literal: $($type:ty $({ $($more:tt)+ })?),+) => {$(
        impl EtcdValue for $type {
            const TYPE: &'static str = $name;
            const IN_LIST: InList = InList::Json;
            $($($more)+)?

            fn encode(&self) -> Result<Bytes, ValueError> {
                Ok(self.to_string().into())
            }

            fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
                let text = text(bytes)?.trim();
                text.parse().map_err(|reason| not_in(text, &reason, &Self::MIN, &Self::MAX, $beside))
            }

            exact!();
        }
    )+};
}

integers!("integer", "": i8, i16, i32, i64, i128, isize);
integers!("unsigned integer", "": u8 {
    const IS_BYTE: bool = true;

    fn as_bytes(bytes: &[u8]) -> Option<&[u8]> {
        Some(bytes)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }
}, u16, u32, u64, u128, usize);
integers!("integer, not 0", ", without 0": NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize);
integers!("positive integer", "": NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize);

macro_rules! floats {
    ($($type:ty),+) => {$(
        impl EtcdValue for $type {
            const TYPE: &'static str = "number";
            const IN_LIST: InList = InList::Json;

            fn encode(&self) -> Result<Bytes, ValueError> {
                Ok(self.to_string().into())
            }

            fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
                let text = text(bytes)?.trim();
                let number: Self = text.parse().map_err(|_| ValueError::new("not a number, as in `2.5`, `-3` or `1e9`"))?;
                // The text `inf` is a valid infinity, but a text such as `1e400` is a number out of
                // range.
                if number.is_infinite() && text.contains(|c: char| c.is_ascii_digit()) {
                    let (number, range) = (shortened(text), concat!("the range of `", stringify!($type), "`"));
                    return Err(ValueError::new(format_args!("{number:?} is not in {:e} … {:e}, {range}", Self::MIN, Self::MAX)));
                }
                Ok(number)
            }

            exact!();
        }
    )+};
}

floats!(f32, f64);
