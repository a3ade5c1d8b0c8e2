//! Estimates keys that split the unread rest of a directory into parts, from the names of the keys
//! that were read.
//!
//! Many names contain numbers: in decimal or hexadecimal digits, or in letters. The digits are the
//! bytes at positions where the names of the page differ. The estimate assumes that the numbers
//! after the page increase at the same rate. If they do not, the parts have different sizes, which
//! does no harm.

use bytes::Bytes;

use crate::store::{KeyValue, Span};

/// The number of keys that are examined for digits.
const SAMPLE: usize = 64;

/// The number may begin before the first position where the names differ, because a carry changes
/// earlier digits too. This is the maximum number of such earlier digits.
const CARRY: usize = 8;

/// The upper limit for numbers, so that a product of a number and a count of keys fits into `u128`.
const LARGEST: u128 = 1 << 96;

/// Estimates up to `count` keys after the page, in order, with about `each` keys between them.
/// Returns fewer keys, or none, if no estimate is possible.
pub(super) fn split_points(span: &Span, page: &[KeyValue], each: usize, count: usize) -> Vec<Bytes> {
    let (Span::Below(directory), [first, .., last]) = (span, page) else { return Vec::new() };
    let names = directory.prefix().len();
    let sample: Vec<&[u8]> = page.iter().step_by(page.len().div_ceil(SAMPLE)).chain([last]).filter_map(|kv| kv.key.get(names..)).collect();
    let same = first.key.iter().zip(&last.key).take_while(|(first, last)| first == last).count();
    let Some(digits) = Digits::of(&sample, same.saturating_sub(names)) else { return Vec::new() };
    let counted_up = last.key.get(names..same).unwrap_or_default().iter().rev().take(CARRY).take_while(|byte| digits.bytes.contains(byte));
    let begin = same - counted_up.count();
    let number = |kv: &KeyValue| digits.number(kv.key.get(begin..).unwrap_or_default());
    let (from, to) = (number(first), number(last));
    let step = to.saturating_sub(from).saturating_mul(each as u128) / page.len() as u128;
    let mut split_points: Vec<Bytes> = Vec::new();
    for number in (1..=count as u128).map_while(|nth| to.checked_add(step.checked_mul(nth)?)) {
        let (Some(begin), Some(name)) = (last.key.get(..begin), digits.name(number)) else { break };
        let split_point = Bytes::from([begin, &name].concat());
        if split_point > *split_points.last().unwrap_or(&last.key) {
            split_points.push(split_point);
        }
    }
    split_points
}

/// Bytes that serve as the digits of numbers, in an order that matches the names.
struct Digits {
    bytes: Vec<u8>,
    /// The number of digits of each number.
    length: usize,
    /// One more than the largest number with `length` digits.
    end: u128,
}

impl Digits {
    /// Takes as digits the bytes at each position, from `from` on, at which these names differ.
    /// Returns `None` if the names do not differ.
    fn of(names: &[&[u8]], from: usize) -> Option<Self> {
        let longest = names.iter().map(|name| name.len()).max()?;
        let mut bytes = Vec::new();
        for place in from..longest {
            let mut here: Vec<u8> = names.iter().filter_map(|name| name.get(place).copied()).collect();
            here.sort_unstable();
            here.dedup();
            if here.len() > 1 {
                bytes.append(&mut here);
            }
        }
        bytes.sort_unstable();
        bytes.dedup();
        let radix = bytes.len() as u128;
        if radix < 2 {
            return None;
        }
        let (mut length, mut end) = (0, 1_u128);
        while length < longest && end.saturating_mul(radix) <= LARGEST {
            end *= radix;
            length += 1;
        }
        Some(Self { bytes, length, end })
    }

    /// Reads a name as a number. Positions after the end of the name count as the smallest digit.
    fn number(&self, name: &[u8]) -> u128 {
        let digit = |byte: &u8| self.bytes.partition_point(|other| other < byte).min(self.bytes.len() - 1);
        let digits = name.iter().map(digit).chain(std::iter::repeat(0)).take(self.length);
        digits.fold(0, |number, digit| number * self.bytes.len() as u128 + digit as u128)
    }

    /// Writes a number as a name. Returns `None` if the number needs more than `length` digits.
    fn name(&self, mut number: u128) -> Option<Vec<u8>> {
        if number >= self.end {
            return None;
        }
        let radix = self.bytes.len() as u128;
        let mut name = Vec::with_capacity(self.length);
        for _ in 0..self.length {
            name.push(*self.bytes.get(usize::try_from(number % radix).ok()?)?);
            number /= radix;
        }
        name.reverse();
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::revision::Revision;

    fn kv(key: String) -> KeyValue {
        let at = Revision::new(1);
        KeyValue { key: key.into(), value: Bytes::new(), created: at, modified: at, version: None, lease: None, ttl: None }
    }

    /// Guesses split points in a directory with these names, whose first `page` keys were read.
    /// Returns the number of unread keys before the first split point, and between each split point
    /// and the next.
    fn parts(names: impl Iterator<Item = String>, page: usize, each: usize, count: usize) -> Vec<usize> {
        let mut all: Vec<_> = names.map(|name| kv(format!("/app/{name}"))).collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        let (read, rest) = all.split_at(page);
        let split_points = split_points(&Span::Below(Key::parse("/app").unwrap()), read, each, count);
        assert!(split_points.is_sorted() && split_points.first().is_none_or(|first| *first > read.last().unwrap().key));
        let place = |split_point: &Bytes| rest.partition_point(|kv| kv.key <= split_point);
        let places: Vec<_> = split_points.iter().map(place).collect();
        places.iter().scan(0, |before, place| Some(place - std::mem::replace(before, *place))).collect()
    }

    fn about(parts: &[usize], each: usize, count: usize) {
        assert!(parts.len() == count && parts.iter().all(|part| (each * 3 / 4..=each * 5 / 4).contains(part)), "{parts:?}");
    }

    #[test]
    fn split_points_follow_numeric_names() {
        about(&parts((0..100_000).map(|n| format!("{n:08}")), 10_000, 20_000, 3), 20_000, 3);
        about(&parts((0..100_000).map(|n| format!("user-{n:06}/name")), 10_000, 20_000, 3), 20_000, 3);
        about(&parts((0..60_000_u64).map(|n| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))), 6_000, 12_000, 3), 12_000, 3);
    }

    #[test]
    fn split_points_follow_alphabetic_names() {
        let word = |mut n: usize| {
            let letter = |_| {
                let letter = (b'a' + (n % 26) as u8) as char;
                n /= 26;
                letter
            };
            (0..4).map(letter).collect::<String>()
        };
        about(&parts((0..26 * 26 * 26 * 2).map(word), 5_000, 5_000, 3), 5_000, 3);
    }

    #[test]
    fn keys_without_pattern_have_no_split_points() {
        let none = Vec::<usize>::new();
        // The last name is the largest number with these digits, so no larger number can follow.
        assert_eq!(parts((0..1000).map(|n| format!("{n:03}")), 999, 500, 3), none);
        // No position has different bytes, so no byte counts as a digit.
        assert_eq!(parts(std::iter::once(String::from("a")), 1, 500, 3), none);
        assert_eq!(parts((1..10).map(|n| "a".repeat(n)), 5, 2, 0), none);
        assert_eq!(split_points(&Span::Below(Key::parse("/app").unwrap()), &[], 10, 3), Vec::<Bytes>::new());
    }

    proptest::proptest! {
        #[test]
        fn split_points_ascend_after_page(
            names in proptest::collection::btree_set(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40), 0..50),
            each in 0_usize..100_000,
        ) {
            let page: Vec<_> = names.into_iter().map(|name| KeyValue { key: [&b"/app/"[..], &name].concat().into(), ..kv(String::new()) }).collect();
            let split_points = split_points(&Span::Below(Key::parse("/app").unwrap()), &page, each, 5);
            proptest::prop_assert!(split_points.is_sorted_by(|a, b| a < b));
            if let (Some(last), Some(first)) = (page.last(), split_points.first()) {
                proptest::prop_assert!(*first > last.key && first.starts_with(b"/app/"));
            }
        }
    }
}
