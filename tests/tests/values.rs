//! Every type that is a value: what is written, that it is read back, and that no bytes make reading panic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

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

/// The value is written as this text, and the text is read as the value.
#[track_caller]
fn is_written<T: EtcdValue + PartialEq + Debug>(value: T, text: &str) {
    assert_eq!(value.encode().as_deref(), Ok(text.as_bytes()));
    assert_eq!(T::decode(text.as_bytes()), Ok(value));
}

/// The text is read as the value, though it would be written otherwise.
#[track_caller]
fn is_read<T: EtcdValue + PartialEq + Debug>(text: &str, value: T) {
    assert_eq!(T::decode(text.as_bytes()), Ok(value));
}

#[test]
fn bytes_can_be_shared_with_their_change_and_what_is_no_bytes_is_read_as_ever() {
    let bytes = Bytes::from(vec![7; 100]);
    assert_eq!(Bytes::decode_shared(&bytes).map(|shared| shared.as_ptr()), Ok(bytes.as_ptr()));
    assert_ne!(Bytes::decode(&bytes).map(|copied| copied.as_ptr()), Ok(bytes.as_ptr()));
    assert_eq!(u16::decode_shared(&Bytes::from("80")), Ok(80));
    assert_eq!(u16::decode_shared(&Bytes::from("eighty")), u16::decode(b"eighty"));
}

#[test]
fn what_is_written_is_what_a_person_would_type() {
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
fn white_space_around_is_read_where_it_means_nothing() {
    is_read(" 8080\n", 8080_u16);
    is_read("true\n", true);
    is_read("\t0.5 ", 0.5_f32);
    is_read("30s\n", Duration::from_secs(30));
    is_read("127.0.0.1\n", IpAddr::V4(Ipv4Addr::LOCALHOST));
    is_read("2024-05-06\n", jiff::civil::date(2024, 5, 6));
    is_read(" [1, 2]\n", Json(vec![1, 2]));
    is_read("00000000000000000000000000000001\n", uuid::Uuid::from_u128(1));
    assert!(char::decode(b"x\n").is_err(), "white space is a character");
}

#[test]
fn bytes_are_stored_as_they_are() {
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(all.encode().as_deref(), Ok(&all[..]));
    assert_eq!(Vec::<u8>::decode(&all), Ok(all.clone()));
    assert_eq!(Bytes::decode(&all), Ok(Bytes::from(all.clone())));
    assert_eq!(Bytes::from(all.clone()).encode(), Ok(Bytes::from(all)));
}

#[test]
fn what_is_no_value_says_of_which_type() {
    #[track_caller]
    fn refused<T: EtcdValue + Debug>(text: &str) {
        let error = T::decode(text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("not "), "{error}");
    }
    refused::<bool>("yes");
    refused::<u8>("256");
    refused::<NonZeroU8>("0");
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
fn a_value_without_stored_form_is_refused() {
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

/// The value comes back.
fn round_trip<T: EtcdValue + PartialEq + Debug>(value: T) -> Result<(), TestCaseError> {
    let bytes = value.encode().map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(T::decode(&bytes), Ok(value));
    Ok(())
}

/// Reading does not panic, and what was read can be written and read again.
fn survives<T: EtcdValue + PartialEq + Debug>(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(value) = T::decode(bytes) else { return Ok(()) };
    let Ok(written) = value.encode() else { return Ok(()) };
    let again = T::decode(&written);
    // NaN is not itself.
    if again.as_ref().is_ok_and(is_nan) {
        return Ok(());
    }
    prop_assert_eq!(again, Ok(value));
    Ok(())
}

#[expect(clippy::eq_op, reason = "that is what it asks")]
fn is_nan<T: PartialEq>(value: &T) -> bool {
    value != value
}

/// A test for each type that takes any value of it there and back.
macro_rules! come_back {
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

come_back! {
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
    f32s: any::<f32>().prop_filter("NaN is not itself", |f| !f.is_nan());
    f64s: any::<f64>().prop_filter("NaN is not itself", |f| !f.is_nan());
    chars: any::<char>();
    non_zeros: any::<i64>().prop_filter_map("0", NonZeroI64::new);
    durations: any::<Duration>();
    // What the stored form can say: 1970 to 9999.
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
    chrono_times: (-62_135_596_800..253_402_300_800_i64, 0..1_000_000_000_u32).prop_filter_map("", |(s, ns)| chrono::DateTime::from_timestamp(s, ns));
}

/// All types, read from the same bytes.
macro_rules! all_survive {
    ($bytes:expr; $($type:ty),+ $(,)?) => {
        $(survives::<$type>($bytes)?;)+
    };
}

fn all_survive(bytes: &[u8]) -> Result<(), TestCaseError> {
    all_survive!(bytes;
        String, bool, char, i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize, f32, f64,
        NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize,
        NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize,
        Duration, SystemTime, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, PathBuf, Bytes, Vec<u8>,
        Json<serde_json::Value>, uuid::Uuid, url::Url,
        jiff::Timestamp, jiff::civil::Date, jiff::civil::Time, jiff::civil::DateTime, jiff::SignedDuration,
        chrono::DateTime<chrono::Utc>, chrono::DateTime<chrono::FixedOffset>, chrono::NaiveDate, chrono::NaiveTime,
    );
    // It has no `==`: what is written is balanced, 1 s for 1000 ms.
    if let Ok(span) = jiff::Span::decode(bytes) {
        let again = span.encode().and_then(|bytes| jiff::Span::decode(&bytes));
        prop_assert!(again.is_ok(), "{:?}", again);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes(bytes in any::<Vec<u8>>()) {
        all_survive(&bytes)?;
    }

    #[test]
    fn any_text(text in "\\PC{0,40}") {
        all_survive(text.as_bytes())?;
    }

    // Near what the types read: numbers, units, dates.
    #[test]
    fn almost_values(text in "[-+]?[0-9]{1,20}(\\.[0-9]{1,12})?([eE][-+]?[0-9]{1,4})?|([0-9]{1,20}(ns|us|ms|s|m|min|h|d|w|month|y|years) ?){1,4}|\
        [-+]?[0-9]{2,6}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|[-+][0-9]{2}:[0-9]{2})?)?|\
        -?P([0-9]{1,19}[YMWD]){0,3}(T([0-9]{1,19}[HMS]){1,3})?|[0-9a-f:.]{2,40}|\\[[0-9a-f:]{2,20}(%[0-9]{1,11})?\\]:[0-9]{1,6}") {
        all_survive(text.as_bytes())?;
    }
}
