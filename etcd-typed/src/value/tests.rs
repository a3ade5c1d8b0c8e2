//! Tests of the error messages for stored bytes that are not a value of the type.

use std::num::{NonZeroI8, NonZeroU8};
use std::time::SystemTime;

use super::*;

fn refusal<T: EtcdValue>(bytes: impl AsRef<[u8]>) -> String {
    match Codec::<T>::value().decode(bytes.as_ref()) {
        Ok(_) => panic!("{} takes {:?}", T::TYPE, String::from_utf8_lossy(bytes.as_ref())),
        Err(reason) => reason.to_string(),
    }
}

#[test]
fn out_of_range_error_shows_value_and_range() {
    assert_eq!(refusal::<u16>("70000\n"), "\"70000\" is not in 0 … 65535");
    assert_eq!(refusal::<u16>("-1"), "\"-1\" is not in 0 … 65535: invalid digit found in string");
    assert_eq!(refusal::<i8>("128"), "\"128\" is not in -128 … 127");
    assert_eq!(
        refusal::<u8>("99999999999999999999999999999999999999999"),
        "\"99999999999999999999999999999999999999999\" is not in 0 … 255"
    );
    assert_eq!(refusal::<i64>("9223372036854775808"), "\"9223372036854775808\" is not in -9223372036854775808 … 9223372036854775807");
    assert_eq!(refusal::<NonZeroU8>("0"), "\"0\" is not in 1 … 255");
    assert_eq!(refusal::<NonZeroI8>("0"), "\"0\" is not in -128 … 127, without 0");
    assert_eq!(refusal::<u16>("many"), "not an integer in 0 … 65535: invalid digit found in string");
    assert_eq!(refusal::<u16>("3.5"), "not an integer in 0 … 65535: invalid digit found in string");
    assert_eq!(refusal::<u16>(" "), "not an integer in 0 … 65535: cannot parse integer from empty string");
    assert_eq!(refusal::<u128>("-1"), format!("\"-1\" is not in 0 … {}: invalid digit found in string", u128::MAX));
    assert_eq!(refusal::<f32>("1e39"), "\"1e39\" is not in -3.4028235e38 … 3.4028235e38, the range of `f32`");
    assert!(refusal::<f64>("fast").starts_with("not a number, as in"));
}

#[test]
fn error_shows_bad_value_and_valid_example() {
    assert_eq!(refusal::<bool>("yes"), "\"yes\" is not `true` or `false`");
    assert_eq!(refusal::<char>("ab"), "\"ab\" is not exactly one character");
    assert_eq!(refusal::<IpAddr>("localhost"), "\"localhost\" is not an IP address, as in `192.0.2.1` or `2001:db8::1`");
    assert!(refusal::<SocketAddr>("192.0.2.1").contains("`192.0.2.1:80`"));
    assert!(refusal::<std::time::Duration>("5 parsecs").starts_with("\"5 parsecs\" is not a duration: a unit is unknown"));
    assert!(refusal::<SystemTime>("yesterday").starts_with("\"yesterday\" is not a date and time"));
    assert!(refusal::<String>(b"\xff").contains("not UTF-8"));
    assert_eq!(refusal::<bool>("\u{1b}[2J"), "\"\\u{1b}[2J\" is not `true` or `false`");
    assert_eq!(refusal::<bool>("x".repeat(65)), "not `true` or `false`");
    assert_eq!(refusal::<u8>("9".repeat(65)), format!("\"{}…\" is not in 0 … 255", "9".repeat(64)));
}

#[test]
fn error_mentions_byte_order_mark() {
    for (bytes, cause) in [(&b"\xef\xbb\xbf7"[..], "EF BB BF"), (b"\xff\xfe7\0", "UTF-16"), (b"\xfe\xff\x007", "UTF-16")] {
        for text in [
            refusal::<u16>(bytes),
            refusal::<bool>(bytes),
            refusal::<std::time::Duration>(bytes),
            refusal::<Json<u16>>(bytes),
            Codec::<u16>::json().decode(bytes).unwrap_err().to_string(),
        ] {
            assert!(text.contains("byte order mark") && text.contains(cause), "{text}");
        }
    }
    assert_eq!(Codec::<String>::value().decode("\u{feff}x".as_bytes()).unwrap(), "\u{feff}x", "it may be part of a text");
}

#[test]
fn errors_do_not_quote_secrets_and_custom_types() {
    let secret = Codec::<u16>::value().secret();
    assert!(!secret.decode(b"70000").unwrap_err().to_string().contains("70000"));
    assert!(!secret.decode(b"\xef\xbb\xbf7").unwrap_err().to_string().contains('7'));
    #[derive(Debug)]
    struct Token;
    impl EtcdValue for Token {
        const TYPE: &'static str = "token";
        fn encode(&self) -> Result<Bytes, ValueError> {
            Ok(Bytes::new())
        }
        fn decode(_: &[u8]) -> Result<Self, ValueError> {
            Err(ValueError::new("not a token"))
        }
    }
    assert_eq!(refusal::<Token>("hunter2"), "not a token");
    #[cfg(feature = "url")]
    assert!(!refusal::<url::Url>("db:user:hunter2@host").contains("hunter2"));
}

#[test]
fn duration_can_be_read_from_iso_8601() {
    use std::time::Duration;
    for (text, millis) in [
        ("PT1H", 3_600_000),
        ("PT1H30M", 5_400_000),
        ("PT0.5S", 500),
        ("PT0,5S", 500),
        ("P1D", 86_400_000),
        ("P1W", 604_800_000),
        ("P1DT12H", 129_600_000),
        ("pt1m", 60_000),
        ("PT0S", 0),
    ] {
        assert_eq!(Duration::decode(text.as_bytes()), Ok(Duration::from_millis(millis)), "{text}");
    }
    for (text, said) in [
        ("P1M", "months differ in length"),
        ("P1Y", "years differ in length"),
        ("P1Y2M3DT4H", "years differ in length"),
        ("P", "`PT1H30M`"),
        ("PT", "`PT1H30M`"),
        ("P1DT", "`PT1H30M`"),
        ("PT1", "`PT1H30M`"),
        ("PTH", "`PT1H30M`"),
        ("P1H", "`PT1H30M`"),
        ("PT1M1H", "`PT1H30M`"),
        ("PT1H1H", "`PT1H30M`"),
        ("-PT1H", "it is negative"),
        ("-1h", "it is negative"),
        ("PTé", "`PT1H30M`"),
        ("PT99999999999999999999999999H", "too long"),
    ] {
        let refused = refusal::<Duration>(text);
        assert!(refused.contains(said), "{text}: {refused}");
    }
}

#[test]
fn time_can_be_read_from_all_rfc_3339_forms() {
    let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_714_979_289);
    for text in [
        "2024-05-06T07:08:09Z",
        "2024-05-06t07:08:09z",
        "2024-05-06 07:08:09Z",
        "2024-05-06T09:08:09+02:00",
        "2024-05-06 09:08:09.000+02:00",
        "2024-05-06T01:38:09-05:30",
        "2024-05-06T07:08:09-00:00",
    ] {
        assert_eq!(SystemTime::decode(text.as_bytes()), Ok(time), "{text}");
    }
    for text in ["2024-05-06T07:08:09", "2024-05-06", "2024-05-06T07:08:09+2", "2024-05-06T07:08:09+24:00", "1970-01-01T00:30:00+01:00"] {
        let refused = refusal::<SystemTime>(text);
        assert!(refused.contains("`2024-05-06T07:08:09Z`") && refused.contains("`2024-05-06T09:08:09+02:00`"), "{refused}");
    }
}
