//! Byte sizes of the crate `bytesize`, written and read exactly. The crate's `Display` would round
//! them.

use bytes::Bytes;
use bytesize::ByteSize;

use super::{EtcdValue, ValueError, exact, text};

/// The units' names and sizes in bytes. Binary units come first, so that they are preferred.
const UNITS: [(&str, u64); 13] = [
    ("EiB", 1 << 60),
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("EB", 1_000_000_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl EtcdValue for ByteSize {
    const TYPE: &'static str = "byte size";
    const QUOTABLE: bool = true;

    /// Uses the unit that gives the smallest whole number.
    fn encode(&self) -> Result<Bytes, ValueError> {
        let exact = UNITS.iter().filter(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        let (name, unit) = exact.min_by_key(|(_, unit)| self.0 / unit).unwrap_or(&("B", 1));
        Ok(format!("{}{name}", self.0 / unit).into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        parse(text(bytes)?.trim()).map(Self)
    }

    exact!();
}

fn parse(text: &str) -> Result<u64, ValueError> {
    const WRONG: &str = "not a byte size, as in `64MiB`, `1.5 GB` or `1048576`";
    let number = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number);
    let unit = unit_of(unit.trim()).ok_or_else(|| ValueError::new(WRONG))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(ValueError::new(WRONG));
    }
    let too_large = || ValueError::new(format_args!("not a byte size of at most {} bytes", u64::MAX));
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let whole = whole.checked_mul(unit).ok_or_else(too_large)?;
    let fraction = part_of(fraction.trim_end_matches('0'), unit)
        .ok_or_else(|| ValueError::new("not a whole number of bytes: use a smaller unit, as in `1536KiB` for `1.5MiB`"))?;
    whole.checked_add(fraction).ok_or_else(too_large)
}

/// Returns the size of a unit in bytes. As in the crate `bytesize`, `K`, `M` and so on are powers
/// of 1000, and `Ki`, `Mi` and so on are powers of 1024. The case does not matter.
fn unit_of(name: &str) -> Option<u64> {
    let is = |full: &str| {
        let short = full.strip_suffix(['B', 'b']).unwrap_or(full);
        name.eq_ignore_ascii_case(full) || name.eq_ignore_ascii_case(short)
    };
    UNITS.iter().find(|(full, _)| is(full)).map(|(_, unit)| *unit)
}

/// Returns the fraction `0.digits` of a unit in bytes. `None` if it is not a whole number of bytes.
/// The last digit must not be 0.
fn part_of(digits: &str, unit: u64) -> Option<u64> {
    // `digits * unit / 10^length` is whole only if `2^length` or `5^length` divides the unit, since
    // `digits` is not a multiple of ten. The largest such power is 2^60.
    const MOST: usize = 60;
    if digits.is_empty() {
        return Some(0);
    }
    if digits.len() > MOST {
        return None;
    }
    // Divide the unit by as many of the factors of `10^length` as possible, and the digits by the
    // remaining factors.
    let (mut unit, mut twos, mut fives) = (unit, digits.len(), digits.len());
    while twos > 0 && unit.is_multiple_of(2) {
        (unit, twos) = (unit / 2, twos - 1);
    }
    while fives > 0 && unit.is_multiple_of(5) {
        (unit, fives) = (unit / 5, fives - 1);
    }
    let mut number = digits.to_owned();
    for divisor in std::iter::repeat_n(2, twos).chain(std::iter::repeat_n(5, fives)) {
        number = divide(&number, divisor)?;
    }
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// Divides a decimal number by a small one. `None` if there is a remainder.
fn divide(number: &str, divisor: u8) -> Option<String> {
    let mut remainder = 0;
    let digits = number.bytes().map(|digit| {
        let value = remainder * 10 + (digit - b'0');
        remainder = value % divisor;
        char::from(b'0' + value / divisor)
    });
    let quotient: String = digits.collect();
    (remainder == 0).then_some(quotient)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(size: u64) -> String {
        String::from_utf8(ByteSize(size).encode().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn size_is_written_in_largest_exact_unit() {
        for (size, text) in [
            (0, "0B"),
            (1, "1B"),
            (64 << 20, "64MiB"),
            ((64 << 20) + 1, "67108865B"),
            (1_000_000, "1MB"),
            (1_500_000, "1500kB"),
            (1536 << 20, "1536MiB"),
            (1_024_000, "1000KiB"),
            (1 << 60, "1EiB"),
            (u64::MAX, "18446744073709551615B"),
        ] {
            assert_eq!(stored(size), text);
            assert_eq!(ByteSize::decode(text.as_bytes()), Ok(ByteSize(size)));
        }
    }

    #[test]
    fn common_ways_to_write_sizes_are_read() {
        for (text, size) in [
            ("64MiB\n", 64 << 20),
            ("64 mib", 64 << 20),
            ("64Mi", 64 << 20),
            ("64M", 64_000_000),
            ("64mb", 64_000_000),
            ("1.5GiB", 1536 << 20),
            ("1.50 GB", 1_500_000_000),
            ("0.5KiB", 512),
            ("1.0009765625KiB", 1025),
            ("1024", 1024),
            ("7 B", 7),
            ("0.000000000000000001EB", 1),
            ("9007199254740993", 9_007_199_254_740_993),
            ("8.00000000000000001EB", 8_000_000_000_000_000_010),
            ("1.000000000000000000867361737988403547205962240695953369140625EiB", (1 << 60) + 1),
        ] {
            assert_eq!(ByteSize::decode(text.as_bytes()), Ok(ByteSize(size)), "{text}");
        }
    }

    #[test]
    fn inexact_and_invalid_sizes_are_refused() {
        for (text, said) in [
            ("0.1KiB", "not a whole number of bytes"),
            ("0.5", "not a whole number of bytes"),
            ("16EiB", "at most 18446744073709551615 bytes"),
            ("99999999999999999999", "at most 18446744073709551615 bytes"),
            ("15.99999999999999999999EiB", "not a whole number of bytes"),
            ("", "`64MiB`"),
            ("MiB", "`64MiB`"),
            ("1.", "`64MiB`"),
            (".5KiB", "`64MiB`"),
            ("1.2.3KiB", "`64MiB`"),
            ("-1KiB", "`64MiB`"),
            ("64 parsecs", "`64MiB`"),
            ("1e3", "`64MiB`"),
        ] {
            let refused = ByteSize::decode(text.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn written_size_reads_back_equal(size in prop_oneof![any::<u64>(), (0..60_u32, 0..16_u64).prop_map(|(shift, n)| n << shift)]) {
            prop_assert_eq!(ByteSize::decode(stored(size).as_bytes()), Ok(ByteSize(size)));
        }

        #[test]
        fn parsing_any_size_never_panics(text in "\\PC*|[0-9.]{0,80}[kKMiBb ]{0,4}") {
            let _ = ByteSize::decode(text.as_bytes());
        }
    }
}
