//! Every type that can be a value: the stored text of its values, and reading values back. No input
//! makes reading panic.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::{
    NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize, NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128,
    NonZeroUsize,
};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use etcd_typed::{EtcdValue, Json};
use proptest::prelude::*;

/// Asserts that the value is written as this text, and that the text is read as the value.
#[track_caller]
fn is_written<T: EtcdValue + PartialEq + Debug>(value: T, text: &str) {
    assert_eq!(value.encode().as_deref(), Ok(text.as_bytes()));
    assert_eq!(T::decode(text.as_bytes()), Ok(value));
}

/// Asserts that the text is read as the value, although the value is written in another form.
#[track_caller]
fn is_read<T: EtcdValue + PartialEq + Debug>(text: &str, value: T) {
    assert_eq!(T::decode(text.as_bytes()), Ok(value));
}

#[test]
fn decode_shared_copies_no_bytes() {
    let bytes = Bytes::from(vec![7; 100]);
    assert_eq!(Bytes::decode_shared(&bytes).map(|shared| shared.as_ptr()), Ok(bytes.as_ptr()));
    assert_ne!(Bytes::decode(&bytes).map(|copied| copied.as_ptr()), Ok(bytes.as_ptr()));
    assert_eq!(u16::decode_shared(&Bytes::from("80")), Ok(80));
    assert_eq!(u16::decode_shared(&Bytes::from("eighty")), u16::decode(b"eighty"));
}

#[test]
fn values_are_written_in_plain_text() {
    is_written("  text\n".to_owned(), "  text\n");
    is_written(true, "true");
    is_written(-5_i8, "-5");
    is_written(8080_u16, "8080");
    is_written(u128::MAX, "340282366920938463463374607431768211455");
    is_written(NonZeroU8::MAX, "255");
    is_written(0.1_f64, "0.1");
    is_written(f32::INFINITY, "inf");
    is_written('ß', "ß");
    is_written(' ', " ");
    is_written(Duration::from_secs(90), "1m30s");
    is_written(Duration::from_millis(1500), "1s500ms");
    is_written(Duration::ZERO, "0s");
    is_written(SystemTime::UNIX_EPOCH + Duration::from_millis(500), "1970-01-01T00:00:00.500000000Z");
    is_written("127.0.0.1:80".parse::<SocketAddr>().unwrap(), "127.0.0.1:80");
    is_written("::1".parse::<IpAddr>().unwrap(), "::1");
    is_written(PathBuf::from("/etc/app.conf"), "/etc/app.conf");
    is_written(Json(vec![1, 2]), "[1,2]");
    is_written(uuid::Uuid::from_u128(1), "00000000-0000-0000-0000-000000000001");
    is_written(url::Url::parse("https://a.example/b?c").unwrap(), "https://a.example/b?c");
    is_written("2024-05-06T07:08:09Z".parse::<jiff::Timestamp>().unwrap(), "2024-05-06T07:08:09Z");
    is_written(jiff::civil::date(2024, 5, 6), "2024-05-06");
    is_written(jiff::civil::time(7, 8, 9, 0), "07:08:09");
    is_written(jiff::civil::date(2024, 5, 6).at(7, 8, 9, 0), "2024-05-06T07:08:09");
    is_written(jiff::SignedDuration::from_secs(-90), "-1m30s");
    is_written("2024-05-06T07:08:09Z".parse::<chrono::DateTime<chrono::Utc>>().unwrap(), "2024-05-06T07:08:09Z");
    is_written(chrono::NaiveDate::from_ymd_opt(2024, 5, 6).unwrap(), "2024-05-06");
    is_written(chrono::NaiveTime::from_hms_opt(7, 8, 9).unwrap(), "07:08:09");
}

#[test]
fn surrounding_white_space_is_ignored() {
    is_read(" 8080\n", 8080_u16);
    is_read("true\n", true);
    is_read("\t0.5 ", 0.5_f32);
    is_read("30s\n", Duration::from_secs(30));
    is_read("127.0.0.1\n", IpAddr::V4(Ipv4Addr::LOCALHOST));
    is_read("2024-05-06\n", jiff::civil::date(2024, 5, 6));
    is_read(" [1, 2]\n", Json(vec![1, 2]));
    is_read("00000000000000000000000000000001\n", uuid::Uuid::from_u128(1));
    assert!(char::decode(b"x\n").is_err(), "white space is a character of its own");
}

#[test]
fn durations_are_written_in_go_form() {
    let nanos = Duration::from_nanos;
    for (duration, text) in [
        (nanos(5_400_000_000_000), "1h30m"),
        (nanos(86_400_000_000_000), "24h"),
        (nanos(2_629_584_000_000_000), "730h26m24s"),
        (nanos(1_001_001_001), "1s1ms1us1ns"),
        (nanos(60_000_000_000), "1m"),
        (Duration::MAX, "5124095576030431h15s999ms999us999ns"),
    ] {
        is_written(duration, text);
    }
    is_written(jiff::SignedDuration::from_millis(-1500), "-1s500ms");
    is_written(jiff::SignedDuration::ZERO, "0s");
    is_written(jiff::SignedDuration::MIN, "-2562047788015215h30m8s999ms999us999ns");
}

#[test]
fn common_ways_to_write_durations_are_read() {
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
    for (text, duration) in [
        ("1m 30s", 90 * second),
        ("90s", 90 * second),
        ("90 seconds", 90 * second),
        ("30s 1m", 90 * second),
        ("1h0m0s", 3600 * second),
        ("1.5h", 5400 * second),
        (".5s", second / 2),
        ("1.s", second),
        ("0.000000001s", Duration::from_nanos(1)),
        ("1.50000000000000000000000000s", 1500 * second / 1000),
        ("1day", day),
        ("2weeks", 14 * day),
        ("1 d 2 h", day + 7200 * second),
        ("1.5\u{b5}s", Duration::from_nanos(1500)),
        ("1\u{3bc}s", Duration::from_micros(1)),
        ("0", Duration::ZERO),
        ("2562047h47m16.854775807s", Duration::from_nanos(i64::MAX as u64)),
        ("18446744073709551615s 999999999ns", Duration::MAX),
        (" 30s\n", 30 * second),
    ] {
        is_read(text, duration);
    }
    is_read("-PT1M30S", jiff::SignedDuration::from_secs(-90));
    is_read("-1m 30s", jiff::SignedDuration::from_secs(-90));
    is_read("+2days", jiff::SignedDuration::from_hours(48));
    is_read("1 hour, 2 minutes", jiff::SignedDuration::from_mins(62));
    is_read("1:30:00", jiff::SignedDuration::from_mins(90));
}

/// Asserts that `Duration` and `SignedDuration` refuse the text, for this reason.
#[track_caller]
fn is_no_duration(text: &str, hint: &str) {
    let errors = [Duration::decode(text.as_bytes()).map(|_| ()), jiff::SignedDuration::decode(text.as_bytes()).map(|_| ())];
    for error in errors {
        let error = error.expect_err(text).to_string();
        assert!(error.contains(hint), "{text}: {error}");
    }
}

#[test]
fn ambiguous_durations_are_refused() {
    for (text, hint) in [
        ("1M", "`M` may mean months or minutes"),
        ("10 M", "`M` may mean months or minutes"),
        ("1h 5M", "`M` may mean months or minutes"),
        ("1month", "write days"),
        ("2 months", "write days"),
        ("1mo", "write days"),
        ("1y", "write days"),
        ("1.5 years", "write days"),
        ("30", "lacks its unit"),
        ("1m30", "lacks its unit"),
        ("1 0s", "lacks its unit"),
        ("1h 30", "lacks its unit"),
        ("m", "a number is expected"),
        ("1s-1s", "a number is expected"),
        ("1S", "unknown"),
        ("1H", "unknown"),
        ("1.2.3s", "one point"),
        (".s", "digits"),
        ("", "empty"),
        (" ", "empty"),
        ("0.5ns", "finer than a nanosecond"),
        ("0.0000000001s", "finer than a nanosecond"),
        ("18446744073709551616s", "too long"),
        // The parser of another crate panicked at this text.
        ("18446744073709551615s 1000000000ns", "too long"),
        ("99999999999999999999999999999999999999999999999999h", "too long"),
        ("340282366920938463463374607431768211455h", "too long"),
    ] {
        is_no_duration(text, hint);
    }
    assert!(Duration::decode(b"-30s").is_err());
    assert!(jiff::Span::decode(b"1M").is_err());
}

#[test]
fn spans_keep_their_units() {
    for (span, text) in [
        ("90s", "90s"),
        ("1m30s", "1m30s"),
        ("1500ms", "1500ms"),
        ("-1h2us", "-1h2us"),
        ("0s", "0s"),
        ("1 month 2 days 3h", "P1M2DT3H"),
        ("-1y", "-P1Y"),
        ("P1W", "P1W"),
    ] {
        let span: jiff::Span = span.parse().unwrap();
        assert_eq!(span.encode().as_deref(), Ok(text.as_bytes()));
        assert_eq!(jiff::Span::decode(text.as_bytes()).unwrap().fieldwise(), span.fieldwise(), "{text}");
    }
    let no_form: jiff::Span = "1 day 1500ms".parse().unwrap();
    assert!(no_form.survives(&no_form.encode().unwrap()).is_err());
}

#[test]
fn types_without_offset_refuse_offset() {
    let five = SystemTime::UNIX_EPOCH + Duration::from_secs(5 * 3600);
    for text in [
        "1970-01-01T05:00:00Z",
        "1970-01-01T05:00:00+00:00",
        "1970-01-01T07:00:00+02:00",
        "1969-12-31T23:30:00-05:30",
        " 1970-01-01T05:00:00Z\n",
    ] {
        is_read(text, chrono::DateTime::from_timestamp(5 * 3600, 0).unwrap());
        is_read(text, jiff::Timestamp::from_second(5 * 3600).unwrap());
        // `SystemTime` refuses years before 1970, whatever the offset.
        if !text.starts_with("1969") {
            is_read(text, five);
        }
    }
    for offset in ["Z", "+02:00", "-00:30", "+02", "[Europe/Berlin]", "+02:00[Europe/Berlin]", " +02:00"] {
        for time in ["2024-05-06T22:00:00", "2024-05-06 22:00:00.5", "20240506T220000"] {
            let text = format!("{time}{offset}");
            assert!(jiff::civil::DateTime::decode(text.as_bytes()).is_err(), "{text}");
            assert!(jiff::civil::Time::decode(text.as_bytes()).is_err(), "{text}");
            assert!(jiff::civil::Date::decode(text.as_bytes()).is_err(), "{text}");
        }
        for time in ["22:00:00", "T22:00", "220000"] {
            let text = format!("{time}{offset}");
            assert!(jiff::civil::Time::decode(text.as_bytes()).is_err(), "{text}");
            assert!(chrono::NaiveTime::decode(text.as_bytes()).is_err(), "{text}");
        }
        let text = format!("2024-05-06{offset}");
        assert!(jiff::civil::Date::decode(text.as_bytes()).is_err(), "{text}");
        assert!(chrono::NaiveDate::decode(text.as_bytes()).is_err(), "{text}");
    }
    for (text, error) in [("2024-05-06T22:00:00+02:00", "jiff::Timestamp"), ("2024-05-06T22:00:00[Asia/Tokyo]", "jiff::Timestamp")] {
        assert!(jiff::civil::DateTime::decode(text.as_bytes()).unwrap_err().to_string().contains(error));
    }
    // A type for a date alone or a time alone refuses a text with both.
    assert!(jiff::civil::Date::decode(b"2024-05-06T22:00:00").is_err());
    assert!(jiff::civil::Time::decode(b"2024-05-06T22:00:00").is_err());
    is_read("2024-05-06T22:00", jiff::civil::date(2024, 5, 6).at(22, 0, 0, 0));
    is_read("22:00", jiff::civil::time(22, 0, 0, 0));
}

#[test]
fn fixed_offset_is_written_as_rfc_3339() {
    let time = |text: &str| text.parse::<chrono::DateTime<chrono::FixedOffset>>().unwrap();
    for (text, written) in [
        ("2024-05-06 22:00:00 +02:00", "2024-05-06T22:00:00+02:00"),
        ("2024-05-06T22:00:00.5-09:30", "2024-05-06T22:00:00.500-09:30"),
        ("2024-05-06T22:00:00Z", "2024-05-06T22:00:00Z"),
    ] {
        is_written(time(text), written);
        is_read(text, time(written));
    }
    for no_form in ["+12024-05-06T22:00:00Z", "-0001-05-06T22:00:00Z"] {
        assert!(time(no_form).encode().is_err(), "{no_form}");
    }
    // RFC 3339 has no offsets with seconds.
    let seconds = chrono::FixedOffset::east_opt(3630).unwrap();
    let time = time("2024-05-06T22:00:00Z").with_timezone(&seconds);
    assert!(time.survives(&time.encode().unwrap()).is_err());
    for end in [chrono::DateTime::<chrono::Utc>::MAX_UTC, chrono::DateTime::<chrono::Utc>::MIN_UTC] {
        let hours = chrono::FixedOffset::east_opt(3600 * 23).unwrap();
        assert!(end.with_timezone(&hours).encode().is_err() && end.encode().is_err());
    }
}

#[test]
fn address_without_scheme_is_not_a_url() {
    for text in [
        "localhost:80",
        "LOCALHOST:80/path",
        "db.example:5432",
        "fe80::1%eth0",
        "user:password@host",
        "a:b",
        "C:\\dir",
        "http-proxy:3128",
        "x:",
        "foo:/bar",
    ] {
        let error = url::Url::decode(text.as_bytes()).expect_err(text).to_string();
        assert!(error.contains("http://localhost:80"), "{error}");
        let url: url::Url = text.parse().unwrap();
        assert!(url.encode().is_err(), "an unreadable value is not written: {text}");
    }
    for text in [
        "mailto:a@b.example",
        "data:,x",
        "file:///etc/hosts",
        "urn:isbn:0",
        "unix:/run/x.sock",
        "sqlite::memory:",
        "tel:110",
        "postgres:///db",
    ] {
        is_written(url::Url::parse(text).unwrap(), text);
    }
}

#[test]
fn too_large_float_is_refused() {
    for text in ["1e400", "-1e400", "1e9999999999", "179769313486231580793728971405301e300", "+1E309"] {
        assert!(f64::decode(text.as_bytes()).is_err(), "{text}");
        assert!(Json::<f64>::decode(text.trim_start_matches('+').as_bytes()).is_err(), "{text}");
    }
    let digits = "9".repeat(39);
    for text in ["1e39", "-3.5e38", "1E39", &digits, "0.1e40"] {
        assert!(f32::decode(text.as_bytes()).is_err(), "{text}");
        assert!(Json::<f32>::decode(text.as_bytes()).is_err(), "{text}");
        assert!(Json::<Vec<Option<f32>>>::decode(format!("[1, {text}]").as_bytes()).is_err(), "{text}");
        assert!(f64::decode(text.as_bytes()).is_ok(), "{text}");
    }
    for text in ["inf", "-inf", "infinity", "+Inf", "Infinity"] {
        assert!(f64::decode(text.as_bytes()).unwrap().is_infinite(), "{text}");
    }
    assert!(f64::decode(b"NaN").unwrap().is_nan());
    is_read("3.4028235e38", f32::MAX);
    is_read("[\"3e9\", \"x\"]", Json(vec!["3e9".to_owned(), "x".to_owned()]));
}

/// Encodes as a write does, which checks that the stored form is read as the same value.
fn written<T: EtcdValue>(value: &T) -> Result<Bytes, etcd_typed::ValueError> {
    let stored = value.encode()?;
    value.survives(&stored).map(|()| stored)
}

#[test]
fn json_that_reads_back_differently_is_refused() {
    use serde::{Deserialize, Serialize};
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Small(u8),
        Large(u16),
    }
    #[derive(Serialize, Deserialize)]
    struct WriteOnly {
        #[serde(skip_serializing)]
        _password: String,
    }
    #[derive(Serialize, Deserialize)]
    struct Deep {
        rates: std::collections::HashMap<String, Option<f32>>,
    }
    for nan in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(written(&Json(nan)).is_err());
        assert!(written(&Json(Some(nan))).is_err());
        assert!(written(&Json(vec![1.0, nan])).is_err());
        assert!(written(&Json((1, [nan]))).is_err());
        assert!(written(&Json(Deep { rates: [("a".to_owned(), Some(nan as f32))].into() })).is_err());
    }
    assert!(written(&Json(Some(None::<u8>))).is_err());
    assert!(written(&Json(vec![Some(())])).is_err());
    assert!(written(&Json(Untagged::Large(5))).is_err());
    assert!(written(&Json(Untagged::Large(500))).is_ok() && written(&Json(Untagged::Small(5))).is_ok());
    assert!(written(&Json(WriteOnly { _password: String::new() })).is_err());
    assert!(written(&Json(Deep { rates: [("a".to_owned(), Some(0.1)), ("b".to_owned(), None)].into() })).is_ok());
    let reason = written(&Json(f64::NAN)).unwrap_err().to_string();
    assert!(reason.contains("NaN"), "{reason}");
}

#[test]
fn json_sets_and_maps_may_change_order() {
    use std::collections::{HashMap, HashSet};
    let set: HashSet<String> = (0..50).map(|n| n.to_string()).collect();
    assert!(written(&Json(set.clone())).is_ok());
    assert!(written(&Json(set.into_iter().map(|n| (n, 1)).collect::<HashMap<_, _>>())).is_ok());
    assert!(written(&Json(serde_json::json!({"a": [1, 2.5, null, {"b": "c"}], "d": -1}))).is_ok());
}

#[test]
fn socket_address_with_flow_label_is_refused() {
    let flow = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 7, 0);
    assert!(written(&flow).is_err() && written(&SocketAddr::V6(flow)).is_err());
    assert!(written(&SocketAddrV6::new(Ipv6Addr::LOCALHOST, 80, 0, 7)).is_ok());
}

#[test]
fn bytes_are_stored_unchanged() {
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(all.encode().as_deref(), Ok(&all[..]));
    assert_eq!(Vec::<u8>::decode(&all), Ok(all.clone()));
    assert_eq!(Bytes::decode(&all), Ok(Bytes::from(all.clone())));
    assert_eq!(Bytes::from(all.clone()).encode(), Ok(Bytes::from(all)));
}

#[test]
fn number_out_of_range_names_number_and_range() {
    let refused = |decoded: Result<u8, _>| decoded.map_err(|error: etcd_typed::ValueError| error.to_string()).unwrap_err();
    assert_eq!(refused(u8::decode(b"256")), r#""256" is not in 0 … 255"#);
    assert_eq!(refused(NonZeroU8::decode(b"0").map(NonZeroU8::get)), r#""0" is not in 1 … 255"#);
}

#[test]
fn decode_error_names_expected_type() {
    #[track_caller]
    fn refused<T: EtcdValue + Debug>(text: &str) {
        let error = T::decode(text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("not "), "{error}");
    }
    refused::<bool>("yes");
    refused::<f64>("one");
    refused::<Duration>("30");
    refused::<SocketAddr>("localhost:80");
    refused::<SystemTime>("2024-13-01T00:00:00Z");
    refused::<char>("ab");
    refused::<uuid::Uuid>("1");
    refused::<url::Url>("a");
    refused::<jiff::Timestamp>("2024-05-06");
    refused::<chrono::DateTime<chrono::Utc>>("2024-05-06");
}

#[test]
fn value_without_stored_form_is_refused() {
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    let year_10000 = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
    for time in [before_1970, year_10000] {
        assert!(time.encode().is_err());
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        let path = PathBuf::from(std::ffi::OsString::from_vec(vec![0xff]));
        assert!(path.encode().is_err());
    }
}

/// Writes the value and reads it back.
fn round_trip<T: EtcdValue + PartialEq + Debug>(value: T) -> Result<(), TestCaseError> {
    let bytes = written(&value).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(T::decode(&bytes), Ok(value));
    Ok(())
}

/// Asserts that reading does not panic, and that a value that was read can be written and read
/// again.
fn reads_without_panic<T: EtcdValue + PartialEq + Debug>(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(value) = T::decode(bytes) else { return Ok(()) };
    let stored = written(&value).map_err(|error| TestCaseError::fail(format!("a value that was read cannot be written: {error}")))?;
    let again = T::decode(&stored);
    // NaN does not equal itself.
    if again.as_ref().is_ok_and(is_nan) {
        return Ok(());
    }
    prop_assert_eq!(again, Ok(value));
    Ok(())
}

#[expect(clippy::eq_op, reason = "only NaN differs from itself")]
fn is_nan<T: PartialEq>(value: &T) -> bool {
    value != value
}

/// Defines a property test for each type. It writes random values and reads them back.
macro_rules! round_trips {
    ($($name:ident: $strategy:expr;)+) => {
        proptest! {
            $(
                #[test]
                fn $name(value in $strategy) {
                    round_trip(value)?;
                }
            )+
        }
    };
}

round_trips! {
    strings: any::<String>();
    booleans: any::<bool>();
    i8s: any::<i8>();
    i16s: any::<i16>();
    i32s: any::<i32>();
    i64s: any::<i64>();
    i128s: any::<i128>();
    u64s: any::<u64>();
    u128s: any::<u128>();
    isizes: any::<isize>();
    u8s: any::<u8>();
    u16s: any::<u16>();
    u32s: any::<u32>();
    usizes: any::<usize>();
    f32s: any::<f32>().prop_filter("NaN does not equal itself", |f| !f.is_nan());
    f64s: any::<f64>().prop_filter("NaN does not equal itself", |f| !f.is_nan());
    chars: any::<char>();
    non_zeros: any::<i64>().prop_filter_map("0", NonZeroI64::new);
    durations: any::<Duration>();
    // The stored form covers the years 1970 to 9999.
    system_times: (0..253_402_300_800_u64, 0..1_000_000_000_u32).prop_map(|(s, ns)| SystemTime::UNIX_EPOCH + Duration::new(s, ns));
    addresses: any::<[u8; 16]>().prop_map(|octets| IpAddr::V6(octets.into()));
    socket_addresses: any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port)));
    paths: any::<String>().prop_map(PathBuf::from);
    bytes: any::<Vec<u8>>();
    json: any::<Vec<Option<String>>>().prop_map(Json);
    json_floats: any::<f64>().prop_filter("JSON has no others", |f| f.is_finite()).prop_map(Json);
    uuids: any::<u128>().prop_map(uuid::Uuid::from_u128);
    timestamps: (jiff::Timestamp::MIN.as_second()..jiff::Timestamp::MAX.as_second()).prop_filter_map("", |s| jiff::Timestamp::from_second(s).ok());
    signed_durations: any::<(i64, u32)>().prop_map(|(s, ns)| jiff::SignedDuration::new(s / 2, (ns % 1_000_000_000) as i32));
    fixed_offsets: (-62_135_510_400..253_402_214_400_i64, 0..1_000_000_000_u32, -1439..1440_i32).prop_filter_map("", |(s, ns, minutes)| {
        let offset = chrono::FixedOffset::east_opt(minutes * 60)?;
        chrono::DateTime::from_timestamp(s, ns).map(|time| time.with_timezone(&offset))
    });
    chrono_times: (-62_135_596_800..253_402_300_800_i64, 0..1_000_000_000_u32).prop_filter_map("", |(s, ns)| chrono::DateTime::from_timestamp(s, ns));
}

/// Reads the same bytes as values of each type.
macro_rules! all_read_without_panic {
    ($bytes:expr; $($type:ty),+ $(,)?) => {
        $(reads_without_panic::<$type>($bytes)?;)+
    };
}

fn all_read_without_panic(bytes: &[u8]) -> Result<(), TestCaseError> {
    all_read_without_panic!(bytes;
        String, bool, char, i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize, f32, f64,
        NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize,
        NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize,
        Duration, SystemTime, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, PathBuf, Bytes, Vec<u8>,
        Json<serde_json::Value>, uuid::Uuid, url::Url,
        jiff::Timestamp, jiff::civil::Date, jiff::civil::Time, jiff::civil::DateTime, jiff::SignedDuration,
        chrono::DateTime<chrono::Utc>, chrono::DateTime<chrono::FixedOffset>, chrono::NaiveDate, chrono::NaiveTime,
    );
    // `Span` has no `==`, and spans with days and milliseconds have no stored form.
    if let Ok(span) = jiff::Span::decode(bytes)
        && let Ok(stored) = written(&span)
    {
        prop_assert_eq!(jiff::Span::decode(&stored).map(jiff::Span::fieldwise), Ok(span.fieldwise()));
    }
    Ok(())
}

proptest! {
    #[test]
    fn spans_without_days_keep_each_field(negative: bool, [h, m, s, ms, us, ns] in [0..175_307_616_i64, 0..10_518_456_960, 0..631_107_417_600, 0..i64::MAX / 20_000, 0..i64::MAX / 20, 0..i64::MAX]) {
        let span = jiff::Span::new().hours(h).minutes(m).seconds(s).milliseconds(ms).microseconds(us).nanoseconds(ns);
        let span = if negative { -span } else { span };
        let stored = written(&span).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(jiff::Span::decode(&stored).map(jiff::Span::fieldwise), Ok(span.fieldwise()));
    }

    #[test]
    fn reading_any_bytes_never_panics(bytes in any::<Vec<u8>>()) {
        all_read_without_panic(&bytes)?;
    }

    #[test]
    fn reading_any_text_never_panics(text in "\\PC{0,40}") {
        all_read_without_panic(text.as_bytes())?;
    }

    // Texts that are nearly valid for some type: numbers, units, dates, addresses.
    #[test]
    fn reading_nearly_valid_values_never_panics(text in "[-+]?[0-9]{1,20}(\\.[0-9]{1,12})?([eE][-+]?[0-9]{1,4})?|([0-9]{1,20}(ns|us|ms|s|m|M|min|h|d|w|month|y|years) ?){1,4}|\
        [-+]?[0-9]{2,6}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|[-+][0-9]{2}:[0-9]{2})?)?|\
        -?P([0-9]{1,19}[YMWD]){0,3}(T([0-9]{1,19}[HMS]){1,3})?|[0-9a-f:.]{2,40}|\\[[0-9a-f:]{2,20}(%[0-9]{1,11})?\\]:[0-9]{1,6}") {
        all_read_without_panic(text.as_bytes())?;
    }
}
