//! The stored form of every supported type. On every store, a value that a write accepts is read
//! back equal. Programs in Go, Python and Node read the values that this library writes, and this
//! library reads theirs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::{Debug, Display};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::{NonZeroI64, NonZeroU8};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, ErrorKind, EtcdSchema, EtcdValue, Json, Secret, Text};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The number of random values of each type, in addition to the chosen ones.
const VALUES: usize = 8;

fn sample<S: Strategy>(strategy: S) -> Vec<S::Value> {
    let mut runner = TestRunner::deterministic();
    (0..VALUES).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// A client with counts of accepted and refused writes.
struct Bench {
    client: Client,
    /// Whether the store can keep values that are not UTF-8. v2 refuses them.
    keeps_bytes: bool,
    accepted: usize,
    refused: usize,
}

impl Bench {
    fn new(client: Client, keeps_bytes: bool) -> Self {
        Self { client, keeps_bytes, accepted: 0, refused: 0 }
    }

    async fn each<T: EtcdValue + PartialEq + Debug + Send + Sync + 'static>(&mut self, values: impl IntoIterator<Item = T>) {
        self.each_as(values, T::eq).await;
    }

    async fn each_as<T: EtcdValue + Debug + Send + Sync + 'static>(
        &mut self,
        values: impl IntoIterator<Item = T>,
        same: impl Fn(&T, &T) -> bool,
    ) {
        let entry = self.client.entry::<T>("/forms/value").unwrap();
        for value in values {
            match entry.set(&value).await {
                Ok(_) => {
                    let read = entry.get().await.unwrap_or_else(|error| panic!("{value:?} was written: {error}")).unwrap().into_inner();
                    assert!(same(&value, &read), "{value:?} was written, but {read:?} was read");
                    self.accepted += 1;
                }
                Err(error) if error.kind() == ErrorKind::Encode => self.refused += 1,
                Err(error) if error.kind() == ErrorKind::Unsupported && !self.keeps_bytes => self.refused += 1,
                Err(error) => panic!("{value:?}: {error}"),
            }
        }
    }

    async fn every_type(&mut self) {
        self.each([true, false]).await;
        self.each([i8::MIN, i8::MAX]).await;
        self.each([i64::MIN, i64::MAX, -1, 0]).await;
        self.each([u64::MAX, 0]).await;
        self.each([i128::MIN, i128::MAX]).await;
        self.each([u128::MAX]).await;
        self.each(NonZeroI64::new(-1)).await;
        self.each(NonZeroU8::new(255)).await;
        self.each([' ', '\0', '\u{fffd}', '\n', 'ß', '\u{10ffff}', '%', '"']).await;
        let bits = |a: &f64, b: &f64| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, 0.1];
        self.each_as(odd.into_iter().chain(sample(any::<f64>())), bits).await;
        self.each([f32::MAX, f32::MIN_POSITIVE, 1e-45, -0.0, f32::INFINITY]).await;
        let texts =
            ["", " ", "\n", "\0", "\u{fffd}", "x\u{fffd}y", "\\ufffd", "\\", "\"", "%ff", "a+b&c=d;e", "\u{feff}x", "\u{2028}", "日本"];
        self.each(texts.map(str::to_owned).into_iter().chain(sample(any::<String>()))).await;
        self.each(texts.map(PathBuf::from)).await;
        self.each(texts.map(Bytes::from)).await;
        self.each([vec![0xff], vec![0xed, 0xa0, 0x80], vec![b'x'; 100_000], "\u{fffd}".into()]).await;
        self.each([Bytes::from_static(b"\xffetcd-typed: this value is not UTF-8, and etcd v2 does not return such values\xff")]).await;
        self.each([Duration::ZERO, Duration::MAX, Duration::from_nanos(1)].into_iter().chain(sample(any::<Duration>()))).await;
        let epoch = SystemTime::UNIX_EPOCH;
        let times = [0, 1, 253_402_300_799, 253_402_300_800].map(|seconds| epoch + Duration::from_secs(seconds));
        self.each(times.into_iter().chain([epoch - Duration::from_nanos(1), epoch + Duration::from_nanos(1)])).await;
        self.each([IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST), "::ffff:1.2.3.4".parse().unwrap()]).await;
        let [plain, flow, scope] = [(0, 0), (7, 0), (0, 7)].map(|(flow, scope)| SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, flow, scope));
        self.each([plain, flow, scope]).await;
        self.each([SocketAddr::V6(flow), SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 65_535))]).await;
        self.each(sample(any::<u128>()).into_iter().map(uuid::Uuid::from_u128)).await;
        let urls = ["localhost:80", "mailto:a@b", "http://a/?b#c", "fe80::1%eth0", "web+demo:/.//not-a-host/", "a://", "data:,x  "];
        self.each(urls.map(|url| url::Url::parse(url).unwrap())).await;
        self.every_time().await;
        self.every_json().await;
        self.every_list().await;
    }

    async fn every_list(&mut self) {
        self.each([vec!["\u{fffd}".to_owned(), "\0\"\\,]".to_owned()], vec![]].into_iter().chain(sample(any::<Vec<String>>()))).await;
        self.each([BTreeSet::from([80_u16, 443]), BTreeSet::new()]).await;
        self.each([HashSet::from(["b".to_owned(), "a".to_owned()])]).await;
        self.each([[u128::MAX, 0], [1, 2]]).await;
        self.each(
            [("x".to_owned(), Duration::from_nanos(1), vec![true])].into_iter().chain(sample(any::<(String, Duration, Vec<bool>)>())),
        )
        .await;
        self.each([vec![vec![0xff_u8]], vec![b"text".to_vec()]]).await;
        self.each([vec![PathBuf::from("/a"), PathBuf::new()]]).await;
        self.each([vec![chrono::NaiveDate::MIN], vec![chrono::NaiveDate::MAX]]).await;
        self.each(["\u{fffd}", "a"].map(Box::<str>::from)).await;
        self.each(["\u{fffd}", "a"].map(Cow::<'static, str>::from)).await;
        self.each([Arc::new(Box::new(7_u8))]).await;
        self.each([Secret::new("hunter2".to_owned()), Secret::default()]).await;
        self.each([Text(0.1), Text(f64::INFINITY)]).await;
        self.each([0, 64 << 20, u64::MAX].into_iter().chain(sample(any::<u64>())).map(bytesize::ByteSize)).await;
    }

    async fn every_time(&mut self) {
        use jiff::civil::{Date, DateTime, Time};
        use jiff::{SignedDuration, Span, Timestamp};
        self.each([SignedDuration::MIN, SignedDuration::MAX, SignedDuration::ZERO, SignedDuration::from_nanos(-1)]).await;
        let spans = ["1500ms", "-90s", "1y 2mo", "1d 1500ms", "1w", "0s", "P1D", "631107417600s", "-9223372036854775807ns", "1 day 1ns"];
        self.each_as(spans.map(|span| span.parse::<Span>().unwrap()), |a, b| a.fieldwise() == b.fieldwise()).await;
        self.each([Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH, Timestamp::from_nanosecond(-1).unwrap()]).await;
        self.each([Date::MIN, Date::MAX, Date::ZERO]).await;
        self.each([Time::MIN, Time::MAX]).await;
        self.each([DateTime::MIN, DateTime::MAX, DateTime::ZERO]).await;

        use chrono::{FixedOffset, NaiveDate, NaiveTime, Utc};
        self.each([NaiveDate::MIN, NaiveDate::MAX]).await;
        let leap = NaiveTime::from_hms_nano_opt(23, 59, 59, 1_500_000_000).unwrap();
        self.each([NaiveTime::MIN, leap]).await;
        let mut times = vec![chrono::DateTime::<Utc>::MIN_UTC, chrono::DateTime::<Utc>::MAX_UTC, chrono::DateTime::UNIX_EPOCH];
        times.extend(
            ["9999-12-31T23:59:59.999999999Z", "0000-01-01T00:00:00Z", "2016-12-31T23:59:60Z"]
                .map(|time| time.parse::<chrono::DateTime<Utc>>().unwrap()),
        );
        self.each(times.clone()).await;
        for seconds in [0, 60, -60, 3600, 86_340, -86_340, 86_399, 1, 3630] {
            let offset = FixedOffset::east_opt(seconds).unwrap();
            let with_offset = times.iter().map(|time| time.with_timezone(&offset));
            self.each_as(with_offset, |a, b| a == b && a.offset() == b.offset()).await;
        }
    }

    async fn every_json(&mut self) {
        self.each([Json(f64::NAN), Json(f64::INFINITY), Json(-0.0), Json(0.1), Json(f64::MAX)]).await;
        self.each([Json(Some(f32::NAN)), Json(Some(f32::MAX)), Json(None)]).await;
        self.each([Json(Some(None)), Json(Some(Some(1))), Json(None)]).await;
        self.each([Json(BTreeMap::from([(1_u8, vec!["\u{fffd}\0"])].map(|(n, texts)| (n, texts.concat()))))]).await;
        self.each([Json(BTreeMap::from([((1, 2), 3)]))]).await;
        self.each([Json(u128::MAX), Json(1)]).await;
        self.each(sample(any::<Vec<Option<String>>>()).into_iter().map(Json)).await;
        self.each(sample(any::<(f64, f32, i128)>()).into_iter().map(Json)).await;
    }
}

#[tokio::test]
async fn memory_reads_back_accepted_values() {
    let mut bench = Bench::new(Client::connect("memory:").await.unwrap(), true);
    bench.every_type().await;
    assert!(bench.accepted > 200 && bench.refused > 25, "{} and {}", bench.accepted, bench.refused);
}

#[tokio::test]
async fn v3_reads_back_accepted_values() {
    let etcd = Etcd::start().await;
    let mut bench = Bench::new(Client::connect(&etcd.url_v3()).await.unwrap(), true);
    bench.every_type().await;
    assert!(bench.accepted > 200 && bench.refused > 25, "{} and {}", bench.accepted, bench.refused);
}

#[tokio::test]
async fn v2_reads_back_accepted_values() {
    let etcd = Etcd::start().await;
    let mut bench = Bench::new(Client::connect(&etcd.url_v2()).await.unwrap(), false);
    bench.every_type().await;
    assert!(bench.accepted > 200 && bench.refused > 28, "{} and {}", bench.accepted, bench.refused);
}

mod cents {
    //! A stored form that rounds to two decimals.
    pub(super) fn encode(value: &f64) -> Result<String, std::convert::Infallible> {
        Ok(format!("{value:.2}"))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<f64, String> {
        std::str::from_utf8(bytes).map_err(|error| error.to_string())?.parse().map_err(|_| "no number".to_owned())
    }
}

mod scrambled {
    //! Encodes to a different text each time, as encryption does.
    use std::sync::atomic::{AtomicU8, Ordering};

    pub(super) fn encode(value: &String) -> Result<String, std::convert::Infallible> {
        static SALT: AtomicU8 = AtomicU8::new(0);
        Ok(format!("{:03}{value}", SALT.fetch_add(1, Ordering::SeqCst)))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<String, String> {
        Ok(String::from_utf8_lossy(bytes.get(3..).ok_or("it lacks the salt")?).into_owned())
    }
}

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
struct Cached {
    name: String,
    #[serde(skip)]
    length: usize,
}

#[derive(Clone, Debug, PartialEq, EtcdSchema)]
struct Fields {
    #[etcd(with = cents)]
    price: f64,
    #[etcd(with = scrambled)]
    note: String,
    #[etcd(json)]
    cached: Cached,
    #[etcd(json)]
    rates: Vec<Option<f64>>,
}

#[tokio::test]
async fn field_that_would_read_back_differently_is_refused() {
    let client = Client::connect("memory:").await.unwrap();
    let dir = client.dir::<Fields>("/app").unwrap();
    let good =
        Fields { price: 1.25, note: "x".to_owned(), cached: Cached { name: "a".to_owned(), length: 0 }, rates: vec![Some(0.5), None] };
    dir.set(&good).await.unwrap();
    assert_eq!(dir.get().await.unwrap().into_inner(), good);
    let bad: [(&str, fn(&mut Fields)); 5] = [
        ("price", |fields| fields.price = 1.255),
        ("price", |fields| fields.price = f64::INFINITY),
        ("cached", |fields| fields.cached.length = 5),
        ("rates", |fields| fields.rates.push(Some(f64::NAN))),
        ("rates", |fields| fields.rates.push(Some(f64::INFINITY))),
    ];
    for (key, spoil) in bad {
        let mut fields = good.clone();
        spoil(&mut fields);
        if key == "price" && fields.price.is_infinite() {
            // Infinity is stored as `inf`, and is read back as infinity.
            dir.set(&fields).await.unwrap();
            assert_eq!(dir.get().await.unwrap().into_inner(), fields);
            continue;
        }
        for error in [dir.set(&fields).await.unwrap_err(), dir.update(spoil).await.unwrap_err()] {
            assert_eq!(error.problems().len(), 1, "{error}");
            assert_eq!(error.problems()[0].key.as_str(), format!("/app/{key}"));
        }
    }
    assert_eq!(dir.price.set(&1.005).await.unwrap_err().kind(), ErrorKind::Encode);
}

#[tokio::test]
async fn map_keys_with_equal_stored_form_are_refused() {
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct CaseLess(&'static str);

    impl EtcdValue for CaseLess {
        const TYPE: &'static str = "name";

        fn encode(&self) -> Result<Bytes, etcd_typed::ValueError> {
            Ok(self.0.to_lowercase().into())
        }

        fn decode(bytes: &[u8]) -> Result<Self, etcd_typed::ValueError> {
            Ok(if bytes == b"a" { Self("a") } else { Self("b") })
        }
    }

    let client = Client::connect("memory:").await.unwrap();
    let map = client.entries::<CaseLess, u8>("/map").unwrap();
    let both = BTreeMap::from([(CaseLess("a"), 1), (CaseLess("A"), 2)]);
    let error = map.set(&both).await.unwrap_err();
    assert_eq!((error.kind(), error.problems()[0].key.as_str()), (ErrorKind::Invalid, "/map/a"));
}

/// Writes raw bytes, URL-encoded in `form`, with a plain v2 request.
async fn put_bytes(etcd: &Etcd, key: &str, form: &str) {
    let mut stream = TcpStream::connect(etcd.endpoint()).await.unwrap();
    let (host, body) = (etcd.endpoint(), format!("value={form}"));
    let head = format!(
        "PUT /v2/keys{key} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
}

#[derive(Clone, Debug, PartialEq, EtcdSchema)]
struct Texts {
    text: String,
    bytes: Bytes,
    #[etcd(entries)]
    map: BTreeMap<String, String>,
}

#[tokio::test]
async fn v2_non_utf8_value_is_refused() {
    let etcd = Etcd::start().await;
    let client = Client::connect(&etcd.url_v2()).await.unwrap();
    let dir = client.dir::<Texts>("/texts").unwrap();
    let good = Texts { text: "\u{fffd}".to_owned(), bytes: "\\ufffd".into(), map: [("a".to_owned(), "x\u{fffd}".to_owned())].into() };
    dir.set(&good).non_atomic().await.unwrap();
    assert_eq!(dir.get().await.unwrap().into_inner(), good, "the character U+FFFD is valid text");
    let mut changes = dir.watch().await.unwrap();
    let live = dir.live().await.unwrap();
    for (key, form) in [("text", "%FF"), ("bytes", "x%C3"), ("map/a", "%ED%A0%80")] {
        put_bytes(&etcd, &format!("/texts/{key}"), form).await;
        let error = dir.get().await.unwrap_err();
        assert_eq!(error.problems().len(), 1, "{error}");
        assert_eq!(error.problems()[0].key.as_str(), format!("/texts/{key}"));
        assert!(error.to_string().contains("not UTF-8") && error.to_string().contains("v3"), "{error}");
        let told = changes.next().await.unwrap().unwrap_err();
        assert_eq!((told.kind(), told.key().unwrap().as_str()), (ErrorKind::Decode, format!("/texts/{key}").as_str()));
        put_bytes(&etcd, &format!("/texts/{key}"), "%EF%BF%BD").await;
        assert_eq!(changes.next().await.unwrap().unwrap().changes.len(), 1);
    }
    let now = dir.text.set(&"y".to_owned()).await.unwrap();
    assert_eq!(live.wait_for_revision(now).await.unwrap().text, "y");
    put_bytes(&etcd, "/one", "a%FFb").await;
    assert_eq!(client.entry::<String>("/one").unwrap().get().await.unwrap_err().kind(), ErrorKind::Decode);
    assert_eq!(client.entry::<Bytes>("/one").unwrap().get().await.unwrap_err().kind(), ErrorKind::Decode);
    assert_eq!(client.entry::<Vec<u8>>("/one").unwrap().get().await.unwrap_err().kind(), ErrorKind::Decode);
    assert_eq!(client.entry::<PathBuf>("/one").unwrap().get().await.unwrap_err().kind(), ErrorKind::Decode);
}

/// A stored value, its meaning, and a function that returns whether another text decodes to the
/// same value.
struct Form {
    kind: &'static str,
    stored: String,
    is: String,
    reads: Box<dyn Fn(&str) -> bool>,
}

fn form<T: EtcdValue + PartialEq + 'static>(kind: &'static str, value: T, is: impl Display) -> Form {
    let stored = String::from_utf8(value.encode().unwrap().to_vec()).unwrap();
    assert!(value.survives(&Bytes::from(stored.clone())).is_ok());
    Form { kind, stored, is: is.to_string(), reads: Box::new(move |text| T::decode(text.as_bytes()).is_ok_and(|read| read == value)) }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Features {
    names: Vec<String>,
    rate: f64,
}

fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    for nanos in [0, 1, 1_500, 90_000_000_000, 86_400_000_000_000, 2_629_584_000_000_000, 1_001_001_001, i64::MAX] {
        forms.push(form("duration", Duration::from_nanos(nanos.unsigned_abs()), nanos));
        forms.push(form("duration", jiff::SignedDuration::from_nanos(-nanos), -nanos));
    }
    forms.extend([i64::MIN, -1, 0, i64::MAX].map(|n| form("integer", n, n)));
    forms.push(form("integer", u128::MAX, u128::MAX));
    for number in [0.1, -0.0, 1e300, 5e-324, f64::MAX, 123_456_789.123, f64::INFINITY, f64::NEG_INFINITY, 1e21] {
        forms.push(form("number", number, format_args!("{:016x}", number.to_bits())));
    }
    forms.extend([true, false].map(|value| form("boolean", value, value)));
    for ip in ["127.0.0.1", "::1", "::", "2001:db8::1:0:0:1", "::ffff:1.2.3.4"].map(|ip| ip.parse::<IpAddr>().unwrap()) {
        let bytes = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let bytes: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        forms.push(form("ip", ip, &bytes));
        forms.push(form("address", SocketAddr::new(ip, 2379), format_args!("{bytes} 2379")));
    }
    for (url, is) in [("https://a.example/b?c#d", "https a.example"), ("http://[::1]:80/", "http ::1"), ("mailto:a@b.example", "mailto ")] {
        forms.push(form("url", url::Url::parse(url).unwrap(), is));
    }
    let id = uuid::Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    forms.push(form("uuid", id, id.simple()));
    // Times in Node have a resolution of milliseconds.
    for millis in [0, 1_714_979_289_500, 253_402_207_199_999] {
        let time = chrono::DateTime::from_timestamp_millis(millis).unwrap();
        forms.push(form("time", SystemTime::from(time), millis));
        forms.push(form("time", jiff::Timestamp::from_millisecond(millis).unwrap(), millis));
        forms.push(form("time", time, millis));
        for minutes in [0, 120, -570] {
            let offset = chrono::FixedOffset::east_opt(minutes * 60).unwrap();
            forms.push(form("time with offset", time.with_timezone(&offset), format_args!("{millis} {}", minutes * 60)));
        }
        let jiff = jiff::Timestamp::from_millisecond(millis).unwrap().to_zoned(jiff::tz::TimeZone::UTC).datetime();
        forms.push(form("date and time", jiff, millis));
        let (of_day, date) = (millis % 86_400_000, millis - millis % 86_400_000);
        forms.push(form("time of day", jiff.time(), of_day));
        forms.push(form("time of day", time.time(), of_day));
        forms.push(form("date", jiff.date(), date));
        forms.push(form("date", time.date_naive(), date));
    }
    let rate = 0.1;
    let features = Features { names: vec!["a b".to_owned(), "ß\u{fffd}".to_owned()], rate };
    forms.push(form("json", Json(features), format_args!("a b,ß\u{fffd} {:016x}", rate.to_bits())));
    forms
}

/// Runs a program that reads every form and writes it back. Asserts that the program read the right
/// values, and that this library reads the written forms.
fn program_reads_and_writes(command: &mut Command) {
    let forms = forms();
    let mut program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: String = forms.iter().map(|form| format!("{}\t{}\n", form.kind, form.stored)).collect();
    program.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = program.wait_with_output().unwrap();
    assert!(output.status.success());
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.lines().count(), forms.len());
    for (form, line) in forms.iter().zip(output.lines()) {
        let (is, own) = line.split_once('\t').unwrap();
        assert_eq!(is, form.is, "{} `{}`", form.kind, form.stored);
        assert!((form.reads)(own), "{} `{}` comes back as `{own}`", form.kind, form.stored);
    }
}

fn source(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "beside", "forms", name].iter().collect()
}

#[test]
#[ignore = "needs Go: cargo test -p etcd-typed-tests --test typed -- --include-ignored stored_forms::"]
fn go_program_reads_and_writes_every_form() {
    program_reads_and_writes(Command::new("go").arg("run").arg(source("forms.go")));
}

#[test]
#[ignore = "needs Python 3.11: cargo test -p etcd-typed-tests --test typed -- --include-ignored stored_forms::"]
fn python_program_reads_and_writes_every_form() {
    program_reads_and_writes(Command::new("python3").arg(source("forms.py")));
}

#[test]
#[ignore = "needs Node: cargo test -p etcd-typed-tests --test typed -- --include-ignored stored_forms::"]
fn nodejs_program_reads_and_writes_every_form() {
    program_reads_and_writes(Command::new("node").arg(source("forms.js")));
}
