//! Lists, pointers, texts and byte sizes in a derived struct.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use etcd_typed::{Client, Error, ErrorKind, EtcdSchema, EtcdValue, Schema, Text};
use proptest::prelude::*;

use super::{keys, memory, put, reasons, stored};

#[derive(EtcdValue, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Level {
    Debug,
    VeryLoud,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Lists {
    hosts: Vec<String>,
    ports: BTreeSet<u16>,
    levels: HashSet<Level>,
    color: [u8; 3],
    pair: (String, Duration),
    raw: Vec<u8>,
    maybe: Option<Vec<bool>>,
    #[etcd(default)]
    empty: Vec<u32>,
    #[etcd(entries)]
    groups: BTreeMap<String, Vec<Level>>,
}

fn lists() -> Lists {
    Lists {
        hosts: vec!["a".to_owned(), "b,c".to_owned()],
        ports: BTreeSet::from([443, 80]),
        levels: HashSet::from([Level::VeryLoud, Level::Debug]),
        color: [255, 0, 10],
        pair: ("x".to_owned(), Duration::from_secs(90)),
        raw: b"raw".to_vec(),
        maybe: Some(vec![true]),
        empty: Vec::new(),
        groups: BTreeMap::from([("g".to_owned(), vec![Level::Debug])]),
    }
}

#[tokio::test]
async fn lists_are_json_arrays_in_one_key() {
    let client = memory().await;
    let dir = client.dir::<Lists>("/lists").unwrap();
    dir.set(&lists()).await.unwrap();
    assert_eq!(
        stored(&client).await,
        keys(&[
            ("lists/color", "[255,0,10]"),
            ("lists/empty", "[]"),
            ("lists/groups/g", r#"["debug"]"#),
            ("lists/hosts", r#"["a","b,c"]"#),
            ("lists/levels", r#"["debug","very_loud"]"#),
            ("lists/maybe", "[true]"),
            ("lists/pair", r#"["x","1m30s"]"#),
            ("lists/ports", "[80,443]"),
            ("lists/raw", "raw"),
        ])
    );
    assert_eq!(*dir.get().await.unwrap(), lists());
    assert!(Lists::describe().to_string().contains("levels  set of one of `debug`, `very_loud`\n"));
    put(&client, "/lists/levels", "debug, very_loud").await;
    let refused = dir.get().await.unwrap_err();
    assert_eq!(reasons(&refused), [r#"not a JSON array; write `["debug","very_loud"]`"#]);
    // An array with other white space is the same value, so nothing is written.
    put(&client, "/lists/levels", "[ \"very_loud\", \"debug\" ]").await;
    dir.update(|read| *read = lists()).await.unwrap();
    assert_eq!(stored(&client).await["lists/levels"], "[ \"very_loud\", \"debug\" ]");
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Pool {
    size: u16,
    #[etcd(default = "EUR")]
    name: Arc<str>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Pointers {
    boxed: Box<u16>,
    shared: Arc<Vec<String>>,
    text: Box<str>,
    #[etcd(default = "c")]
    cow: Cow<'static, str>,
    maybe: Option<Arc<str>>,
    #[etcd(dir)]
    pool: Box<Pool>,
    #[etcd(dir)]
    spare: Option<Box<Pool>>,
    #[etcd(dir)]
    by_name: BTreeMap<String, Arc<Pool>>,
    #[etcd(flatten)]
    beside: Box<Beside>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Beside {
    flat: u8,
}

#[tokio::test]
async fn pointers_are_stored_like_their_values() {
    let client = memory().await;
    let dir = client.dir::<Pointers>("/p").unwrap();
    let pool = |size| Pool { size, name: "n".into() };
    let value = Pointers {
        boxed: Box::new(1),
        shared: Arc::new(vec!["a".to_owned()]),
        text: "t".into(),
        cow: "c".into(),
        maybe: Some("m".into()),
        pool: Box::new(pool(2)),
        spare: Some(Box::new(pool(3))),
        by_name: BTreeMap::from([("x".to_owned(), Arc::new(pool(4)))]),
        beside: Box::new(Beside { flat: 5 }),
    };
    dir.set(&value).await.unwrap();
    assert_eq!(
        stored(&client).await,
        keys(&[
            ("p/boxed", "1"),
            ("p/by_name/x/name", "n"),
            ("p/by_name/x/size", "4"),
            ("p/cow", "c"),
            ("p/flat", "5"),
            ("p/maybe", "m"),
            ("p/pool/name", "n"),
            ("p/pool/size", "2"),
            ("p/shared", r#"["a"]"#),
            ("p/spare/name", "n"),
            ("p/spare/size", "3"),
            ("p/text", "t"),
        ])
    );
    assert_eq!(*dir.get().await.unwrap(), value);
    // The handle of a pointer to a struct is that of the struct.
    dir.pool.size.set(&7).await.unwrap();
    dir.by_name.dir("x").unwrap().set(&pool(8)).await.unwrap();
    let mut changes = dir.watch().await.unwrap();
    dir.spare.update(|pool| pool.size = 9).await.unwrap();
    let update = changes.next().await.unwrap().unwrap();
    assert!(matches!(&update.changes[..], [PointersChange::Spare(PoolChange::Size(size))] if size.new == Some(9)), "{update:?}");
    let read = dir.get().await.unwrap().into_inner();
    assert_eq!((read.pool.size, read.by_name["x"].size, read.spare.unwrap().size), (7, 8, 9));
}

/// A version such as `1.2`. Its `FromStr` accepts leading zeros, which its `Display` loses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (major, minor) = text.split_once('.').ok_or("a version has a dot")?;
        let number = |text: &str| text.parse().map_err(|_| "a version has two numbers".to_owned());
        Ok(Self(number(major)?, number(minor)?))
    }
}

/// A temperature whose text rounds. It has no `PartialEq`.
#[derive(Clone, Debug)]
struct Rounded(f64);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}", self.0)
    }
}

impl FromStr for Rounded {
    type Err = std::num::ParseFloatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<f64>().map(|number| Self(number * 2.0))
    }
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Texts {
    #[etcd(text)]
    version: Version,
    #[etcd(text, default = Version(1, 0))]
    oldest: Version,
    #[etcd(text)]
    maybe: Option<Version>,
    #[etcd(entries, text)]
    by_host: BTreeMap<String, Version>,
    #[etcd(entries)]
    notes: BTreeMap<Text<Version>, String>,
    list: Vec<Text<Version>>,
    wrapped: Wrapped,
    own: Own,
}

/// A newtype that uses the text of its inner type.
#[derive(EtcdValue, Clone, Debug, PartialEq)]
#[etcd(text)]
struct Wrapped(Version);

/// A newtype with its own text, which differs from that of its inner type.
#[derive(EtcdValue, Clone, Debug, PartialEq)]
#[etcd(text)]
struct Own(Version);

impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl FromStr for Own {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix('v').ok_or("it begins with `v`")?.parse().map(Self)
    }
}

#[tokio::test]
async fn text_uses_display_and_from_str() {
    let client = memory().await;
    let dir = client.dir::<Texts>("/t").unwrap();
    let value = Texts {
        version: Version(1, 2),
        oldest: Version(1, 0),
        maybe: Some(Version(3, 4)),
        by_host: BTreeMap::from([("a".to_owned(), Version(5, 6))]),
        notes: BTreeMap::from([(Text(Version(7, 8)), "n".to_owned())]),
        list: vec![Text(Version(9, 0))],
        wrapped: Wrapped(Version(1, 1)),
        own: Own(Version(2, 2)),
    };
    dir.set(&value).await.unwrap();
    assert_eq!(
        stored(&client).await,
        keys(&[
            ("t/by_host/a", "5.6"),
            ("t/list", r#"["9.0"]"#),
            ("t/maybe", "3.4"),
            ("t/notes/7.8", "n"),
            ("t/oldest", "1.0"),
            ("t/own", "v2.2"),
            ("t/version", "1.2"),
            ("t/wrapped", "1.1"),
        ])
    );
    assert_eq!(*dir.get().await.unwrap(), value);
    put(&client, "/t/version", " 1.3\n").await;
    assert_eq!(dir.get().await.unwrap().version, Version(1, 3));
    put(&client, "/t/version", "1").await;
    assert_eq!(reasons(&dir.get().await.unwrap_err()), ["not valid: a version has a dot"]);
}

#[derive(EtcdSchema, Clone, Debug)]
struct Lossy {
    #[etcd(text)]
    heat: Rounded,
    #[etcd(text)]
    factor: f64,
}

#[tokio::test]
async fn value_that_its_text_cannot_restore_is_refused() {
    let dir = memory().await.dir::<Lossy>("/l").unwrap();
    let refused = dir.heat.set(&Rounded(0.5)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Encode);
    dir.heat.set(&Rounded(0.0)).await.unwrap();
    dir.factor.set(&f64::NAN).await.unwrap();
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Sizes {
    #[etcd(default = ByteSize::mib(64), range = ByteSize::kib(1)..=ByteSize::gib(1))]
    cache: ByteSize,
}

#[tokio::test]
async fn byte_sizes_are_exact() {
    let client = memory().await;
    let dir = client.dir::<Sizes>("/s").unwrap();
    dir.cache.set(&ByteSize::mib(64)).await.unwrap();
    assert_eq!(stored(&client).await, keys(&[("s/cache", "64MiB")]));
    dir.cache.set(&ByteSize((64 << 20) + 1)).await.unwrap();
    assert_eq!(dir.get().await.unwrap().cache, ByteSize((64 << 20) + 1));
    put(&client, "/s/cache", "2GiB").await;
    assert_eq!(reasons(&dir.get().await.unwrap_err()), ["\"2GiB\" is not in 1KiB … 1GiB"]);
}

async fn round_trip<S: EtcdSchema + PartialEq + fmt::Debug>(write: impl AsyncFn(&Client) -> Result<S, Error>)
where
    S::Handle: std::ops::Deref<Target = etcd_typed::Dir<S>>,
{
    let client = memory().await;
    let written = write(&client).await.unwrap();
    assert_eq!(*client.dir::<S>("/r").unwrap().get().await.unwrap(), written);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn structs_of_these_types_round_trip(
        hosts: Vec<String>, ports: BTreeSet<u16>, loud: bool, color: [u8; 3], text: String, time: Duration, raw: Vec<u8>,
        maybe: Option<Vec<bool>>, empty: Vec<u32>, groups in proptest::collection::btree_map(".*", proptest::collection::vec(Just(Level::Debug), 0..3), 0..3),
        size in 1024..=1_u64 << 30,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let levels = if loud { HashSet::from([Level::VeryLoud]) } else { HashSet::new() };
            let lists = Lists { hosts, ports, levels, color, pair: (text, time), raw, maybe, empty, groups };
            round_trip(async |client| client.dir::<Lists>("/r")?.set(&lists).await.map(|_| lists.clone())).await;
            let sizes = Sizes { cache: ByteSize(size) };
            round_trip(async |client| client.dir::<Sizes>("/r")?.set(&sizes).await.map(|_| sizes.clone())).await;
        });
    }
}
