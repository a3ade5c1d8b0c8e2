//! Dates and times in RFC 3339. A type without a date, a time or an offset uses only the other
//! parts of the format. A text with a part that the type cannot hold is refused.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{EtcdValue, ValueError, exact, text};

impl EtcdValue for SystemTime {
    const TYPE: &'static str = "date and time (RFC 3339)";
    const QUOTABLE: bool = true;

    fn encode(&self) -> Result<Bytes, ValueError> {
        // `humantime` panics outside of this range.
        const FIRST_OF_YEAR_10000: Duration = Duration::from_secs(253_402_300_800);
        match self.duration_since(Self::UNIX_EPOCH) {
            Ok(since) if since < FIRST_OF_YEAR_10000 => Ok(humantime::format_rfc3339(*self).to_string().into()),
            _ => Err(ValueError::new("a time before 1970 or after 9999")),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        let text = in_capitals(text(bytes)?.trim());
        let time = match with_offset(&text) {
            None => humantime::parse_rfc3339(&text).ok(),
            Some((local, is_east, offset)) => humantime::parse_rfc3339(&format!("{local}Z")).ok().and_then(|local| {
                // East of Greenwich, local time is ahead of UTC.
                if is_east { local.checked_sub(offset) } else { local.checked_add(offset) }
            }),
        };
        let time = time.filter(|time| *time >= Self::UNIX_EPOCH);
        time.ok_or_else(|| {
            ValueError::new("not a date and time from 1970 on: write it as in `2024-05-06T07:08:09Z` or `2024-05-06T09:08:09+02:00`")
        })
    }

    exact!();
}

/// Normalizes a time to have a `T` between date and time, and a `Z` at the end. RFC 3339 also
/// allows lowercase letters and a space.
fn in_capitals(text: &str) -> String {
    let mut capitals = text.to_owned();
    let between = "2024-05-06".len();
    if matches!(capitals.get(between..=between), Some("t" | " ")) {
        capitals.replace_range(between..=between, "T");
    }
    if capitals.ends_with('z') {
        capitals.pop();
        capitals.push('Z');
    }
    capitals
}

/// Splits an offset such as `+02:00` from a time. Returns the local time, whether the offset is
/// east, and its size.
fn with_offset(text: &str) -> Option<(&str, bool, Duration)> {
    let (local, offset) = text.split_at_checked(text.len().checked_sub("+02:00".len())?)?;
    let (sign, offset) = offset.split_at_checked(1)?;
    let is_east = match sign {
        "+" => true,
        "-" => false,
        _ => return None,
    };
    let (hours, minutes) = offset.split_once(':')?;
    let number = |digits: &str| if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse::<u64>().ok() } else { None };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    // A date alone, such as `2024-05-06`, also ends with a sign and digits, but has no colon.
    (hours < 24 && minutes < 60).then(|| (local, is_east, Duration::from_secs(hours * 3600 + minutes * 60)))
}

#[cfg(feature = "chrono")]
mod of_chrono {
    use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, NaiveTime, SecondsFormat, TimeZone, Utc};

    use super::*;
    use crate::value::{changed, text_values, unchanged};

    text_values!("date": NaiveDate);
    text_values!("time of day": NaiveTime);

    const RFC_3339: &str = "date and time (RFC 3339)";

    impl EtcdValue for DateTime<Utc> {
        const TYPE: &'static str = RFC_3339;
        const QUOTABLE: bool = true;

        fn encode(&self) -> Result<Bytes, ValueError> {
            rfc_3339(self)
        }

        fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
            DateTime::parse_from_rfc3339(text(bytes)?.trim()).map(|time| time.to_utc()).map_err(not_a_time)
        }

        fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
            unchanged(self, stored)
        }
    }

    impl EtcdValue for DateTime<FixedOffset> {
        const TYPE: &'static str = RFC_3339;
        const QUOTABLE: bool = true;

        fn encode(&self) -> Result<Bytes, ValueError> {
            rfc_3339(self)
        }

        /// Also reads the format that older versions of this library wrote, with spaces:
        /// `2024-05-06 07:08:09 +02:00`.
        fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
            text(bytes)?.trim().parse().map_err(not_a_time)
        }

        /// Compares the offsets too, since `==` ignores them and RFC 3339 cannot express an offset
        /// with seconds.
        fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
            let read = Self::decode(stored)?;
            if read == *self && read.offset() == self.offset() { Ok(()) } else { Err(changed()) }
        }
    }

    fn rfc_3339<Z: TimeZone>(time: &DateTime<Z>) -> Result<Bytes, ValueError> {
        // `year` is the year in local time. Check it first, since the formatter panics near the
        // limits of chrono's range.
        if (0..=9999).contains(&time.year()) {
            Ok(time.to_rfc3339_opts(SecondsFormat::AutoSi, true).into())
        } else {
            Err(ValueError::new("RFC 3339 has the years 0 to 9999"))
        }
    }

    fn not_a_time(reason: chrono::ParseError) -> ValueError {
        ValueError::new(format_args!("not a date and time: {reason}"))
    }
}

#[cfg(feature = "jiff")]
mod of_jiff {
    use jiff::Timestamp;
    use jiff::civil::{Date, DateTime, Time};

    use super::*;
    use crate::value::{text_values, unchanged};

    text_values!("timestamp": Timestamp);

    /// Implements [`EtcdValue`] for types whose jiff parser drops parts of a text that the type
    /// cannot hold. Such a text is refused.
    macro_rules! civil {
        ($($type:ty, $name:literal, $is_all:ident, $hint:literal;)+) => {$(
            impl EtcdValue for $type {
                const TYPE: &'static str = $name;
                const QUOTABLE: bool = true;

                fn encode(&self) -> Result<Bytes, ValueError> {
                    Ok(self.to_string().into())
                }

                fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
                    let text = text(bytes)?.trim();
                    let value = text.parse().map_err(|reason| ValueError::new(format_args!(concat!("not a ", $name, ": {}"), reason)))?;
                    if $is_all(text) { Ok(value) } else { Err(ValueError::new(concat!("not a ", $name, ": ", $hint))) }
                }

                fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
                    unchanged(self, stored)
                }
            }
        )+};
    }

    civil! {
        Date, "date", is_date, "it has more than a date";
        Time, "time of day", is_time, "it has a date or an offset, which a time of day cannot keep";
        DateTime, "date and time", is_date_time, "it has an offset or a time zone, which would be lost; `jiff::Timestamp` is a moment in time";
    }

    fn is_date(text: &str) -> bool {
        text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+'))
    }

    fn is_time(text: &str) -> bool {
        text.strip_prefix(['T', 't']).unwrap_or(text).bytes().all(|b| b.is_ascii_digit() || matches!(b, b':' | b'.' | b','))
    }

    fn is_date_time(text: &str) -> bool {
        match text.split_once(['T', 't', ' ']) {
            Some((date, time)) => is_date(date) && is_time(time),
            None => is_date(text),
        }
    }
}
