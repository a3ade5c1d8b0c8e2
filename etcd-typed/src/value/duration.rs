//! Durations as text: `1h30m`. Go's `time.ParseDuration` can read every text that this module
//! writes. Reading accepts further forms that people type.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;

use super::{EtcdValue, ValueError, exact, text};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The units of the stored form, with their length in nanoseconds, in the order in which they are
/// written.
const UNITS: [(&str, u128); 6] =
    [("h", 3600 * NANOS_PER_SECOND), ("m", 60 * NANOS_PER_SECOND), ("s", NANOS_PER_SECOND), ("ms", 1_000_000), ("us", 1000), ("ns", 1)];

impl EtcdValue for Duration {
    const TYPE: &'static str = "duration, as in `1m30s`";
    const QUOTABLE: bool = true;

    fn encode(&self) -> Result<Bytes, ValueError> {
        Ok(written(self.as_nanos()).into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        parsed(text(bytes)?.trim()).and_then(duration).map_err(not_a_duration)
    }

    exact!();
}

/// Writes the number of each unit that is not zero, the largest unit first. Returns `0s` for zero.
fn written(mut nanos: u128) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in UNITS {
        push(&mut out, nanos / size, unit);
        nanos %= size;
    }
    out
}

fn push(out: &mut String, number: u128, unit: &str) {
    if number > 0 {
        // Writing to a `String` does not fail.
        let _ = write!(out, "{number}{unit}");
    }
}

fn duration(nanos: u128) -> Result<Duration, String> {
    let seconds = u64::try_from(nanos / NANOS_PER_SECOND).map_err(|_| too_long())?;
    // The remainder is below a billion, so the cast loses nothing.
    Ok(Duration::new(seconds, (nanos % NANOS_PER_SECOND) as u32))
}

fn not_a_duration(reason: String) -> ValueError {
    ValueError::new(format_args!("not a duration: {reason}"))
}

fn too_long() -> String {
    "it is too long".to_owned()
}

/// Parses numbers with units into nanoseconds: `1m30s`, `1m 30s`, `1.5h`, `1 day 2 hours`. The
/// units may have any order.
fn parsed(text: &str) -> Result<u128, String> {
    // Go accepts zero without a unit.
    if text == "0" {
        return Ok(0);
    }
    if text.is_empty() {
        return Err("it is empty; write it as in `1m30s`".to_owned());
    }
    if text.starts_with('-') {
        return Err("it is negative; write it as in `1m30s`".to_owned());
    }
    if let Some(iso) = text.strip_prefix(['P', 'p']) {
        return of_iso_8601(iso);
    }
    let mut total = 0_u128;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len()));
        if number.is_empty() {
            return Err("a number is expected before each unit, as in `1m30s`".to_owned());
        }
        let after = after.trim_start();
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len()));
        total = total.checked_add(nanos(number, nanos_of(unit)?)?).ok_or_else(too_long)?;
        rest = after.trim_start();
    }
    Ok(total)
}

/// Parses the text after the `P` of an ISO 8601 duration: `1DT2H`, `T0.5S`. The units must be in
/// order. A day is 24 hours.
fn of_iso_8601(text: &str) -> Result<u128, String> {
    let wrong = || "ISO 8601 writes it as in `PT1H30M`, `PT0.5S` or `P1D`; `1h30m` is shorter".to_owned();
    let (days, time) = text.split_once(['T', 't']).map_or((text, None), |(days, time)| (days, Some(time)));
    if time.map_or(days, |time| time).is_empty() {
        return Err(wrong());
    }
    let mut total = 0_u128;
    for (part, units, is_time) in [(days, "YMWD", false), (time.unwrap_or_default(), "HMS", true)] {
        let (mut rest, mut units) = (part, units);
        while !rest.is_empty() {
            let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ',').unwrap_or(rest.len()));
            let unit = after.chars().next().map(|unit| unit.to_ascii_uppercase()).ok_or_else(wrong)?;
            let (_, later) = units.split_once(unit).ok_or_else(wrong)?;
            if number.is_empty() {
                return Err(wrong());
            }
            let unit = match (unit, is_time) {
                ('Y', _) => "years",
                ('M', false) => "months",
                ('W', _) => "w",
                ('D', _) => "d",
                ('H', _) => "h",
                ('M', true) => "m",
                _ => "s",
            };
            total = total.checked_add(nanos(&number.replace(',', "."), nanos_of(unit)?)?).ok_or_else(too_long)?;
            (rest, units) = (after.get(1..).unwrap_or_default(), later);
        }
    }
    Ok(total)
}

/// Multiplies a decimal number with the length of its unit in nanoseconds.
fn nanos(number: &str, unit: u128) -> Result<u128, String> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() && !number.contains(|c: char| c.is_ascii_digit()) || fraction.contains('.') {
        return Err("a number has digits and at most one point".to_owned());
    }
    let digits = |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<u128>().map_err(|_| too_long()) };
    let whole = digits(whole)?.checked_mul(unit).ok_or_else(too_long)?;
    let finer = || "it is finer than a nanosecond".to_owned();
    let scale = u32::try_from(fraction.len()).ok().and_then(|length| 10_u128.checked_pow(length)).ok_or_else(finer)?;
    let fraction = digits(fraction)?.checked_mul(unit).ok_or_else(finer)?;
    if fraction % scale != 0 {
        return Err(finer());
    }
    whole.checked_add(fraction / scale).ok_or_else(too_long)
}

/// Returns the length of a unit in nanoseconds.
fn nanos_of(unit: &str) -> Result<u128, String> {
    const HOUR: u128 = 3600 * NANOS_PER_SECOND;
    Ok(match unit {
        "ns" | "nsec" | "nsecs" | "nanos" | "nanosecond" | "nanoseconds" => 1,
        // `\u{b5}` is the micro sign, and `\u{3bc}` the Greek letter mu.
        "us" | "\u{b5}s" | "\u{3bc}s" | "usec" | "usecs" | "micros" | "microsecond" | "microseconds" => 1000,
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => NANOS_PER_SECOND,
        "m" | "min" | "mins" | "minute" | "minutes" => 60 * NANOS_PER_SECOND,
        "h" | "hr" | "hrs" | "hour" | "hours" => HOUR,
        "d" | "day" | "days" => 24 * HOUR,
        "w" | "wk" | "wks" | "week" | "weeks" => 7 * 24 * HOUR,
        "" => return Err("a number lacks its unit: write `30s`, `5m`, `2h`".to_owned()),
        "M" => return Err("`M` may mean months or minutes: write `m` for minutes, or days for months, such as `30d`".to_owned()),
        "mo" | "mos" | "month" | "months" => return Err("months differ in length: write days, such as `30d`".to_owned()),
        "y" | "yr" | "yrs" | "year" | "years" | "Y" => return Err("years differ in length: write days, such as `365d`".to_owned()),
        _ => return Err("a unit is unknown: there are `ns`, `us`, `ms`, `s`, `m`, `h`, `d`, `w`".to_owned()),
    })
}

#[cfg(feature = "jiff")]
mod of_jiff {
    use jiff::{SignedDuration, Span};

    use super::*;
    use crate::value::changed;

    impl EtcdValue for SignedDuration {
        const TYPE: &'static str = "duration, as in `-1m30s`";
        const QUOTABLE: bool = true;

        fn encode(&self) -> Result<Bytes, ValueError> {
            let sign = if self.is_negative() { "-" } else { "" };
            Ok(format!("{sign}{}", written(self.as_nanos().unsigned_abs())).into())
        }

        fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
            let text = text(bytes)?.trim();
            let (is_negative, unsigned) = sign(text);
            // Only jiff parses the formats `1 hour, 2 minutes`, `1:30:00` and `5m ago`.
            let is_iso = unsigned.starts_with(['P', 'p']);
            if !is_iso && unsigned.contains([',', ':']) || unsigned.ends_with("ago") {
                return text.parse().map_err(|reason: jiff::Error| not_a_duration(reason.to_string()));
            }
            let nanos = parsed(unsigned).map_err(not_a_duration)?;
            let nanos = i128::try_from(nanos).map_err(|_| not_a_duration(too_long()))?;
            let nanos = if is_negative { -nanos } else { nanos };
            let seconds = i64::try_from(nanos / NANOS).map_err(|_| not_a_duration(too_long()))?;
            // The remainder is below a billion, so the cast loses nothing.
            Ok(Self::new(seconds, (nanos % NANOS) as i32))
        }

        exact!();
    }

    const NANOS: i128 = NANOS_PER_SECOND as i128;

    /// A span without days or larger units is written like a duration, but keeps its own units: 90
    /// minutes stay `90m`. Other spans are written in ISO 8601: `P1M2DT3H`.
    impl EtcdValue for Span {
        const TYPE: &'static str = "span of time, as in `1m30s` or `P1M2D`";
        const QUOTABLE: bool = true;

        fn encode(&self) -> Result<Bytes, ValueError> {
            if self.get_years() != 0 || self.get_months() != 0 || self.get_weeks() != 0 || self.get_days() != 0 {
                return Ok(self.to_string().into());
            }
            let mut out = if self.is_negative() { "-".to_owned() } else { String::new() };
            for (number, unit) in [
                (i64::from(self.get_hours()), "h"),
                (self.get_minutes(), "m"),
                (self.get_seconds(), "s"),
                (self.get_milliseconds(), "ms"),
                (self.get_microseconds(), "us"),
                (self.get_nanoseconds(), "ns"),
            ] {
                push(&mut out, number.unsigned_abs().into(), unit);
            }
            Ok(if self.is_zero() { Bytes::from_static(b"0s") } else { out.into() })
        }

        fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
            text(bytes)?.trim().parse().map_err(|reason| ValueError::new(format_args!("not a span of time: {reason}")))
        }

        /// Compares each unit, since ISO 8601 cannot express milliseconds next to days: `1 d 1500
        /// ms` is read back as `1 d 1 s 500 ms`, a different span.
        fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
            if Self::decode(stored)?.fieldwise() == self.fieldwise() { Ok(()) } else { Err(changed()) }
        }
    }

    fn sign(text: &str) -> (bool, &str) {
        match text.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        }
    }
}
