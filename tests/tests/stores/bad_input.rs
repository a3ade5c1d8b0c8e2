//! Bad input on every store: values that cannot be decoded, foreign keys, names that would leave
//! their directory, sizes beyond limits, and servers that are not etcd. Each operation succeeds or
//! returns a typed error, and no other key changes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::{Range, Span};
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, Error, ErrorKind, EtcdSchema, EtcdValue, Json, Key, ProblemKind, RetryPolicy};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/app")]
struct App {
    limit: u32,
    name: String,
    note: Option<String>,
    #[etcd(dir)]
    database: Database,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
    #[etcd(dir)]
    regions: BTreeMap<String, Database>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Database {
    pool: u16,
    host: String,
}

fn database() -> Database {
    Database { pool: 4, host: "db".into() }
}

fn app() -> App {
    App {
        limit: 1,
        name: "n".into(),
        note: Some("x".into()),
        database: database(),
        quotas: BTreeMap::from([("acme".to_owned(), 5)]),
        regions: BTreeMap::from([("eu".to_owned(), database())]),
    }
}

/// A client whose namespace only this case uses.
struct Bench {
    client: Client,
}

impl Bench {
    async fn of(address: &str, case: &str) -> Self {
        Self { client: Client::builder(address).namespace(format!("/bad-{case}")).connect().await.expect("a client") }
    }

    fn is(&self, store: &str) -> bool {
        self.client.store().capabilities().name == store
    }

    fn app(&self) -> AppDir {
        AppDir::open(&self.client, "prod").unwrap()
    }

    /// Writes a key without a schema, as another program does.
    async fn foreign(&self, path: &str, value: &str) {
        self.client.entry::<String>(path).unwrap().set(&value.to_owned()).await.unwrap();
    }

    /// Returns all keys and values of the namespace, as stored.
    async fn all(&self) -> BTreeMap<String, String> {
        let reply = self.client.store().range(Range::of(Span::Below(self.client.namespace().clone()))).await.unwrap();
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let prefix = self.client.namespace().as_str().len();
        reply.kvs.iter().map(|kv| (text(&kv.key)[prefix..].to_owned(), text(&kv.value))).collect()
    }
}

macro_rules! on_every_store {
    ($($case:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Bench::of("memory:", stringify!($case)).await).await;
            })*
        }
        mod v3 {
            $(#[tokio::test]
            async fn $case() {
                let address = etcd_typed_tests::shared("bad").await.url_v3();
                super::$case(super::Bench::of(&address, stringify!($case)).await).await;
            })*
        }
        mod v2 {
            $(#[tokio::test]
            async fn $case() {
                let address = etcd_typed_tests::shared("bad").await.url_v2();
                super::$case(super::Bench::of(&address, stringify!($case)).await).await;
            })*
        }
    };
}

mod names;
mod not_etcd;

on_every_store! {
    decode_error_names_key_and_reason
    all_missing_fields_are_listed
    foreign_keys_are_not_changed
    foreign_map_name_is_reported
    oversized_value_is_too_large
    too_many_keys_need_non_atomic
    binary_values_are_stored_or_refused
    unencodable_value_is_refused_before_sending
}

async fn decode_error_names_key_and_reason(bench: Bench) {
    let dir = bench.app();
    dir.set(&app()).non_atomic().await.unwrap();
    for bad in ["", "many", "-1", "4294967296", "1 2", "1.0"] {
        bench.foreign("/prod/app/limit", bad).await;
        let error = dir.limit.get().await.unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::Decode, Some(dir.limit.key())), "{bad:?}");
        assert!(error.to_string().contains("/prod/app/limit: cannot be decoded"), "{error}");
    }
    bench.foreign("/prod/app/quotas/acme", "x").await;
    bench.foreign("/prod/app/regions/eu/pool", "x").await;
    let error = dir.get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let mut wrong: Vec<_> = error.problems().iter().map(|problem| (problem.key.clone(), problem.kind)).collect();
    wrong.sort_by(|a, b| a.0.cmp(&b.0));
    let at = |path: &str| (bench.client.namespace().join(&Key::parse(path).unwrap()), ProblemKind::Undecodable);
    assert_eq!(wrong, [at("/prod/app/limit"), at("/prod/app/quotas/acme"), at("/prod/app/regions/eu/pool")]);
    assert!(error.problems().iter().all(|problem| problem.revision.is_some()));
    // The bad value can be replaced.
    let seen = dir.limit.modify(|_| Some(1)).await.unwrap_err();
    assert_eq!(seen.kind(), ErrorKind::Decode);
    assert_eq!(dir.limit.swap(&1).await.unwrap(), None);
    dir.set(&app()).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), app());
}

async fn all_missing_fields_are_listed(bench: Bench) {
    let dir = bench.app();
    bench.foreign("/prod/app/regions/eu/pool", "1").await;
    let error = dir.get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let problems: Vec<_> =
        error.problems().iter().map(|problem| (problem.key.as_str().rsplit_once("/app/").unwrap().1, problem.kind)).collect();
    let missing = ["limit", "name", "database/pool", "database/host", "regions/eu/host"].map(|key| (key, ProblemKind::Missing));
    assert_eq!(problems, missing);
    for (key, _) in missing {
        assert!(error.to_string().contains(key), "{error}");
    }
    let refused = dir.update(|app| app.limit = 1).await.unwrap_err();
    assert_eq!((refused.kind(), refused.problems().len()), (ErrorKind::Invalid, 5));
}

/// Keys that do not belong to the schema: next to its keys, below them, and in directories whose
/// names start like the schema's directory.
const FOREIGN: [&str; 8] = [
    "/prod/app/unknown",
    "/prod/app/database/unknown",
    "/prod/app/deep/er/still",
    "/prod/app/quotas/acme.d/below",
    "/prod/app/regions/foreign/unknown",
    "/prod/apple/limit",
    "/prod/app2",
    "/produce/app/limit",
];

async fn foreign_keys_are_not_changed(bench: Bench) {
    let dir = bench.app();
    for path in FOREIGN {
        bench.foreign(path, "foreign").await;
    }
    let foreign: BTreeMap<_, _> = FOREIGN.iter().map(|path| ((*path).to_owned(), "foreign".to_owned())).collect();
    dir.create(&app()).non_atomic().await.expect("no key of the schema exists");
    assert_eq!(*dir.get().await.unwrap(), app());
    let smaller = App { note: None, quotas: BTreeMap::new(), regions: BTreeMap::new(), ..app() };
    dir.set(&smaller).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), smaller);
    dir.update(|all| *all = app()).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), app());
    let seen = dir.get().await.unwrap();
    dir.compare_and_swap(&seen, &smaller).non_atomic().await.unwrap();
    assert_eq!(dir.delete().non_atomic().await.unwrap().map(|was| was.into_inner()), Some(smaller));
    assert!(!dir.exists().await.unwrap());
    assert_eq!(bench.all().await, foreign);

    // Foreign keys below a map entry are kept while the entry exists, and are deleted with the
    // entry.
    let inside = "/prod/app/regions/eu/unknown";
    bench.foreign(inside, "foreign").await;
    dir.set(&app()).non_atomic().await.unwrap();
    dir.regions.set(&app().regions).non_atomic().await.unwrap();
    dir.regions.dir("eu").unwrap().update(|database| database.pool += 1).changed_fields_only().await.unwrap();
    assert!(bench.all().await.contains_key(inside));
    dir.delete().non_atomic().await.unwrap();
    assert_eq!(bench.all().await, foreign);
}

async fn foreign_map_name_is_reported(bench: Bench) {
    let dir = bench.app();
    dir.set(&app()).non_atomic().await.unwrap();
    bench.foreign("/prod/app/quotas/50%", "1").await;
    let error = dir.quotas.get().await.unwrap_err();
    let problem = error.problems().first().expect("a problem");
    assert_eq!(problem.kind, ProblemKind::ForeignKey);
    assert!(problem.reason.contains("50%25"), "{problem}");
    assert_eq!(dir.get().await.unwrap_err().problems(), error.problems());
    dir.quotas.entry("50%").unwrap().set(&1).await.unwrap();
    bench.client.entry::<String>("/prod/app/quotas/50%").unwrap().delete().await.unwrap();
    assert_eq!(dir.quotas.get().await.unwrap().get("50%"), Some(&1));
}

async fn oversized_value_is_too_large(bench: Bench) {
    let dir = bench.app();
    let large = "x".repeat(2 << 20);
    let refused = dir.name.set(&large).await.unwrap_err();
    assert_eq!((refused.kind(), refused.may_have_applied()), (ErrorKind::TooLarge, false));
    assert_eq!(refused.key(), Some(dir.name.key()));
    assert!(refused.to_string().len() < 1000, "the error does not contain the value");
    assert_eq!(bench.all().await, BTreeMap::new());
    // The steps before the failed one were written, and the error lists their keys.
    let refused = dir.set(&App { note: Some(large), ..app() }).non_atomic().await.unwrap_err();
    assert_eq!((refused.kind(), refused.may_have_applied()), (ErrorKind::TooLarge, false));
    let written: Vec<_> = refused.written().iter().map(|key| key.as_str()[bench.client.namespace().as_str().len()..].to_owned()).collect();
    assert_eq!(written, bench.all().await.into_keys().collect::<Vec<_>>());
    // The values fit one by one, but not in one transaction.
    let half = "x".repeat(1 << 20);
    let both = App { name: half.clone(), note: Some(half), ..app() };
    let refused = dir.set(&both).await.unwrap_err();
    let expected = if bench.is("etcd v2") { ErrorKind::Unsupported } else { ErrorKind::TooLarge };
    assert_eq!((refused.kind(), refused.may_have_applied()), (expected, false));
    dir.set(&both).non_atomic().await.unwrap();
    assert!(*dir.get().await.unwrap() == both);
}

async fn too_many_keys_need_non_atomic(bench: Bench) {
    let dir = bench.app();
    let many = App { quotas: (0..300).map(|n| (format!("q{n}"), n)).collect(), ..app() };
    let expected = if bench.is("etcd v2") { ErrorKind::Unsupported } else { ErrorKind::TooManyOperations };
    for refused in [dir.set(&many).await, dir.create(&many).await, dir.quotas.set(&many.quotas).await] {
        let refused = refused.unwrap_err();
        assert_eq!((refused.kind(), refused.may_have_applied()), (expected, false));
        assert!(refused.to_string().contains("non_atomic"), "{refused}");
    }
    assert_eq!(bench.all().await, BTreeMap::new());
    dir.create(&many).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), many);
    assert_eq!(dir.update(|app| app.limit += 1).await.unwrap_err().kind(), expected);
    dir.update(|app| app.limit += 1).changed_fields_only().await.expect("one field is one condition");
    assert_eq!(dir.delete().await.unwrap_err().kind(), expected);
    assert_eq!(dir.delete().non_atomic().await.unwrap().map(|was| was.limit), Some(2));
    assert_eq!(bench.all().await, BTreeMap::new());
}

async fn binary_values_are_stored_or_refused(bench: Bench) {
    let entry = bench.client.entry::<Bytes>("/binary").unwrap();
    for value in [&b"\xff\x00"[..], b"\xc3", b"\xed\xa0\x80", b"ok\xfe"] {
        let written = entry.set(&Bytes::from_static(value)).await;
        if bench.is("etcd v2") {
            let refused = written.unwrap_err();
            assert_eq!((refused.kind(), refused.may_have_applied()), (ErrorKind::Unsupported, false));
            assert!(refused.to_string().contains("etcd v3"), "the error names etcd v3: {refused}");
            assert!(!entry.exists().await.unwrap());
        } else {
            written.unwrap();
            assert_eq!(entry.get().await.unwrap().map(|read| read.into_inner()), Some(Bytes::from_static(value)));
            let error = bench.client.entry::<String>("/binary").unwrap().get().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode);
        }
    }
    // Text of every kind is stored unchanged on every store.
    for text in ["", " ", "\0", "a\r\nb", "\u{1f980}", "\u{feff}", "\u{2028}", "&+=%;#", "</script>"] {
        entry.set(&Bytes::copy_from_slice(text.as_bytes())).await.unwrap();
        let read = entry.get().await.unwrap().unwrap();
        assert_eq!(read.as_ref(), text.as_bytes());
        entry.compare_and_swap(&read, &Bytes::from_static(b"other")).await.unwrap();
    }
}

async fn unencodable_value_is_refused_before_sending(bench: Bench) {
    use std::os::unix::ffi::OsStringExt;
    let path = std::path::PathBuf::from(std::ffi::OsString::from_vec(vec![0xff]));
    let entry = bench.client.entry::<std::path::PathBuf>("/path").unwrap();
    for refused in [entry.set(&path).await.map(drop), entry.modify(|_| Some(path.clone())).await.map(drop)] {
        let refused = refused.unwrap_err();
        assert_eq!((refused.kind(), refused.key(), refused.may_have_applied()), (ErrorKind::Encode, Some(entry.key()), false));
    }
    assert!(!entry.exists().await.unwrap());
}

/// Encodes bytes as standard Base64, which etcd's JSON API expects.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |group: u32, at: u32| char::from(DIGITS[(group >> (18 - 6 * at)) as usize & 63]);
    let text = |chunk: &[u8]| {
        let group = chunk.iter().zip([16, 8, 0]).map(|(byte, shift)| u32::from(*byte) << shift).sum();
        let text: String = (0..4).map(|at| if at as usize <= chunk.len() { digit(group, at) } else { '=' }).collect();
        text
    };
    bytes.chunks(3).map(text).collect()
}

#[tokio::test]
async fn v3_keys_that_are_not_paths_are_ignored() {
    let etcd = etcd_typed_tests::shared("bad").await;
    let bench = Bench::of(&etcd.url_v3(), "raw").await;
    let dir = bench.app();
    dir.set(&app()).await.unwrap();
    let mut changes = dir.watch().await.unwrap();
    let raw: [&[u8]; 5] = [
        b"/bad-raw/prod/app/\xff",
        b"/bad-raw/prod/app/quotas/\xff\xfe",
        b"/bad-raw/prod/app/quotas//x",
        b"/bad-raw/prod/app/",
        b"/bad-raw/prod/app/regions/x/",
    ];
    for key in raw {
        let answer = etcd.call("/v3/kv/put", &format!(r#"{{"key": "{}", "value": "/w=="}}"#, base64(key))).await;
        assert!(answer.contains("revision"), "{answer}");
    }
    assert_eq!(*dir.get().await.unwrap(), app());
    assert_eq!(dir.quotas.get().await.unwrap().len(), 1);
    let listed = bench.client.directory("/prod/app").unwrap().list_recursive().await.unwrap();
    assert!(listed.iter().all(|node| !node.path.contains('\u{fffd}') && !node.path.ends_with('/')));
    // A field whose value is not valid UTF-8 yields an error with the field's key, and the stream
    // continues.
    let key = base64(b"/bad-raw/prod/app/name");
    etcd.call("/v3/kv/put", &format!(r#"{{"key": "{key}", "value": "/w=="}}"#)).await;
    let error = timeout(LIMIT, changes.next()).await.unwrap().expect("an item").expect_err("no text");
    assert_eq!((error.kind(), error.key()), (ErrorKind::Decode, Some(dir.name.key())));
    dir.name.set(&"mended".to_owned()).await.unwrap();
    let update = timeout(LIMIT, changes.next()).await.unwrap().expect("an item").expect("a change");
    assert_eq!(update.changes.len(), 1);
    assert_eq!(changes.current().unwrap().name, "mended");
    let smaller = App { quotas: BTreeMap::new(), name: "mended".into(), ..app() };
    dir.set(&smaller).await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), smaller);
    dir.delete().await.unwrap();
    let left = bench.client.store().range(Range::of(Span::Below(bench.client.namespace().clone()))).await.unwrap();
    assert_eq!(left.kvs.len(), raw.len(), "a foreign key was deleted");
}

#[tokio::test]
async fn v2_error_lists_keys_written_before_it() {
    let bench = Bench::of(&etcd_typed_tests::shared("bad").await.url_v2(), "in-the-way").await;
    let dir = bench.app();
    bench.client.directory("/prod/app/name").unwrap().create().await.unwrap();
    let refused = dir.set(&app()).non_atomic().await.unwrap_err();
    assert_eq!((refused.kind(), refused.key(), refused.may_have_applied()), (ErrorKind::IsADirectory, Some(dir.name.key()), false));
    assert_eq!(refused.written(), [dir.database.host.key().clone(), dir.database.pool.key().clone(), dir.limit.key().clone()]);
    assert!(refused.to_string().contains("written before it: /bad-in-the-way/prod/app/database/host, "), "{refused}");
    // Now a value exists at a path where the schema needs a directory.
    bench.foreign("/other/app", "x").await;
    let other = AppDir::open(&bench.client, "other").unwrap();
    assert_eq!(other.get().await.unwrap_err().kind(), ErrorKind::NotADirectory);
    let refused = other.set(&app()).non_atomic().await.unwrap_err();
    assert_eq!((refused.kind(), refused.written()), (ErrorKind::NotADirectory, &[][..]));
}

/// Checks that decoding these bytes does not panic, and that a decoded value keeps its encoding
/// when it is encoded and decoded again.
fn decodes<T: EtcdValue>(bytes: &[u8]) {
    if let Ok(value) = T::decode(bytes) {
        let stored = value.encode().unwrap_or_else(|error| panic!("{}: the value of {bytes:?} cannot be encoded: {error}", T::TYPE));
        let again = T::decode(&stored).unwrap_or_else(|error| panic!("{}: {stored:?} cannot be decoded again: {error}", T::TYPE));
        assert_eq!(again.encode().as_ref(), Ok(&stored), "{}", T::TYPE);
    }
}

fn decodes_each(bytes: &[u8]) {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::num::{NonZeroI64, NonZeroU8};
    decodes::<String>(bytes);
    decodes::<bool>(bytes);
    decodes::<u8>(bytes);
    decodes::<i64>(bytes);
    decodes::<u128>(bytes);
    decodes::<f32>(bytes);
    decodes::<f64>(bytes);
    decodes::<char>(bytes);
    decodes::<Duration>(bytes);
    decodes::<std::time::SystemTime>(bytes);
    decodes::<IpAddr>(bytes);
    decodes::<Ipv4Addr>(bytes);
    decodes::<Ipv6Addr>(bytes);
    decodes::<SocketAddr>(bytes);
    decodes::<std::path::PathBuf>(bytes);
    decodes::<NonZeroU8>(bytes);
    decodes::<NonZeroI64>(bytes);
    decodes::<Bytes>(bytes);
    decodes::<Vec<u8>>(bytes);
    decodes::<Json<Vec<String>>>(bytes);
    decodes::<Json<BTreeMap<String, i64>>>(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        decodes_each(&bytes);
    }

    #[test]
    fn decoding_plausible_text_never_panics(
        text in "[-+ ]?[0-9]{1,25}([.:eE/-][0-9]{1,5}){0,4}[a-zμ]{0,3}|([0-9]{1,12} ?(ns|us|ms|s|m|h|d|w|M|y|months|years) ?){1,4}|[0-9a-fA-F:.]{0,40}|\
                [0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|\\+00:00)?|nan|-?inf(inity)?|[\\[\\]{}\",:0-9a-z\\\\]{0,20}"
    ) {
        decodes_each(text.as_bytes());
    }
}
