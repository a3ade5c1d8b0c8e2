//! Panics in the caller's code, such as decoders and validations. Only the key for which that code
//! was called gets an error; all other views and streams continue. The tests use the memory store
//! with paused time. The panics appear in the output.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::{Client, Election, ErrorKind, EtcdSchema, EtcdValue, ProblemKind, ValueError};
use etcd_typed_tests::waiting::soon;

/// A text type that panics for certain texts: for `panic` when the text is decoded, for `no
/// encoder` when it is encoded, for `no order` when it is compared, and for `no way back` when a
/// write decodes the text that it encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fragile(String);

impl EtcdValue for Fragile {
    const TYPE: &'static str = "fragile text";

    fn encode(&self) -> Result<Bytes, ValueError> {
        assert_ne!(self.0, "no encoder");
        Ok(self.0.clone().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        let text = String::decode(bytes)?;
        assert!(text != "panic" && text != "no way back", "it reads {text}");
        Ok(Self(text))
    }
}

impl PartialOrd for Fragile {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Fragile {
    fn cmp(&self, other: &Self) -> Ordering {
        assert!(self.0 != "no order" && other.0 != "no order");
        self.0.cmp(&other.0)
    }
}

mod custom {
    pub(super) fn encode(value: &u16) -> Result<String, String> {
        assert_ne!(*value, 13, "a panic in the custom encoder");
        Ok(value.to_string())
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<u16, std::num::ParseIntError> {
        assert_ne!(bytes, b"panic", "a panic in the custom decoder");
        std::str::from_utf8(bytes).unwrap_or_default().parse()
    }
}

fn not_unlucky(number: &u16) -> Result<(), String> {
    assert_ne!(*number, 13, "unlucky");
    Ok(())
}

fn not_both(all: &All) -> Result<(), String> {
    assert!(all.plain != 500 || all.custom != 500, "both");
    Ok(())
}

#[derive(Clone, Debug, PartialEq, EtcdSchema)]
#[etcd(validate = not_both)]
struct All {
    #[etcd(validate = not_unlucky)]
    plain: u16,
    #[etcd(with = custom)]
    custom: u16,
    own: Fragile,
    #[etcd(secret, allow_debug)]
    token: Fragile,
    #[etcd(entries)]
    map: BTreeMap<Fragile, Fragile>,
    timeout: Duration,
}

/// Another struct in the same directory.
#[derive(Clone, Debug, PartialEq, EtcdSchema)]
struct Beside {
    plain: u16,
}

fn all() -> All {
    let text = |text: &str| Fragile(text.to_owned());
    All {
        plain: 1,
        custom: 2,
        own: text("own"),
        token: text("token"),
        map: [(text("a"), text("b"))].into(),
        timeout: Duration::from_secs(1),
    }
}

/// For each key, a stored text that makes reading panic, and a part of the reported reason.
const BAD: [(&str, &str, &str); 7] = [
    ("custom", "panic", "the decoder panicked: assertion `left != right` failed: a panic in the custom decoder"),
    ("own", "panic", "the decoder panicked: it reads panic"),
    ("token", "panic", "***"),
    ("map/a", "panic", "the decoder panicked: it reads panic"),
    ("map/panic", "x", "the key's name: the decoder panicked"),
    // Another library panicked at these texts. They must be refused without a panic.
    ("timeout", "18446744073709551615s 1000000000ns", "not a duration"),
    ("timeout", "18446744073709551615s 999999999ns 1ns", "not a duration"),
];

async fn client() -> (Client, AllDir) {
    let client = Client::connect("memory:").await.unwrap();
    let dir = client.dir::<All>("/app").unwrap();
    dir.set(&all()).await.unwrap();
    (client, dir)
}

async fn put(client: &Client, key: &str, text: &str) {
    client.entry::<String>(&format!("/app/{key}")).unwrap().set(&text.to_owned()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn panic_in_decoder_is_reported_for_its_key() {
    for (key, text, said) in BAD {
        let (client, dir) = client().await;
        let mut changes = dir.watch().await.unwrap();
        put(&client, key, text).await;
        let error = dir.get().await.unwrap_err();
        let [problem] = error.problems() else { panic!("{key}: {error}") };
        assert_eq!((error.kind(), problem.key.as_str()), (ErrorKind::Invalid, format!("/app/{key}").as_str()));
        assert!(problem.reason.contains(said), "{key}: {problem}");
        assert_eq!(dir.check().await.unwrap().problems.len(), 1, "{key}");
        // The stream reports the error and continues.
        let told = soon(changes.next()).await.unwrap().unwrap_err();
        assert_eq!((told.kind(), told.key().unwrap().as_str()), (ErrorKind::Decode, format!("/app/{key}").as_str()));
        put(&client, "plain", "3").await;
        assert_eq!(soon(changes.next()).await.unwrap().unwrap().changes.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn panic_in_decoder_of_entry_is_decode_error() {
    let (client, dir) = client().await;
    put(&client, "own", "panic").await;
    let error = dir.own.get().await.unwrap_err();
    assert_eq!((error.kind(), error.key().unwrap().as_str()), (ErrorKind::Decode, "/app/own"));
    put(&client, "map/a", "panic").await;
    assert_eq!(dir.map.get().await.unwrap_err().problems().len(), 1);
    put(&client, "token", "panic").await;
    let error = dir.token.get().await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("reads"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn panic_in_decoder_leaves_other_views_alive() {
    for (key, text, said) in BAD {
        let (client, dir) = client().await;
        let view = dir.live().await.unwrap();
        let entry = dir.own.live().await.unwrap();
        let mut beside = client.dir::<Beside>("/app").unwrap().live().await.unwrap();
        put(&client, key, text).await;
        put(&client, "plain", "7").await;
        assert_eq!(soon(beside.changed()).await.unwrap().plain, 7);
        assert_eq!(view.get().plain, 1, "{key}: the last good state stays");
        let status = format!("{:?}", view.status());
        assert!(status.contains(&format!("/app/{key}")) && status.contains(said), "{status}");
        // The views continue when the value is corrected.
        client.entry::<String>("/app/map/panic").unwrap().delete().await.unwrap();
        let revision = dir.set(&All { plain: 8, ..all() }).await.unwrap();
        assert_eq!(soon(view.wait_for_revision(revision)).await.unwrap().plain, 8);
        soon(entry.wait_for_revision(revision)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn panic_in_key_comparison_leaves_other_views_alive() {
    let (client, dir) = client().await;
    let (whole, map) = (dir.live().await.unwrap(), dir.map.live().await.unwrap());
    let mut beside = client.dir::<Beside>("/app").unwrap().live().await.unwrap();
    put(&client, "map/no order", "x").await;
    put(&client, "plain", "7").await;
    assert_eq!(soon(beside.changed()).await.unwrap().plain, 7);
    for status in [format!("{:?}", whole.status()), format!("{:?}", map.status())] {
        assert!(status.contains("/app") && status.contains("panicked"), "{status}");
    }
    client.entry::<String>("/app/map/no order").unwrap().delete().await.unwrap();
    let revision = client.entry::<String>("/app/map/c").unwrap().set(&"x".to_owned()).await.unwrap();
    assert_eq!(soon(whole.wait_for_revision(revision)).await.unwrap().map.len(), 2);
    assert_eq!(soon(map.wait_for_revision(revision)).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn panic_in_validation_is_reported_for_its_key() {
    let (client, dir) = client().await;
    let error = dir.set(&All { plain: 13, ..all() }).await.unwrap_err();
    assert_eq!((error.kind(), error.problems()[0].kind), (ErrorKind::Invalid, ProblemKind::Rejected));
    assert_eq!(error.problems()[0].key.as_str(), "/app/plain");
    assert!(error.to_string().contains("the validation panicked") && error.to_string().contains("unlucky"), "{error}");
    assert_eq!(dir.plain.set(&13).await.unwrap_err().kind(), ErrorKind::Invalid);
    // The reason is not shown if the struct contains a secret.
    let error = dir.set(&All { plain: 500, custom: 500, ..all() }).await.unwrap_err();
    assert_eq!((error.kind(), error.problems()[0].key.as_str()), (ErrorKind::Invalid, "/app"));
    assert!(!error.to_string().contains("both"), "{error}");
    // The view keeps its state, and other views continue.
    let view = dir.live().await.unwrap();
    let mut beside = client.dir::<Beside>("/app").unwrap().live().await.unwrap();
    put(&client, "plain", "13").await;
    assert_eq!(soon(beside.changed()).await.unwrap().plain, 13);
    assert_eq!(view.get().plain, 1);
    let revision = dir.plain.set(&2).await.unwrap();
    assert_eq!(soon(view.wait_for_revision(revision)).await.unwrap().plain, 2);
}

#[tokio::test(start_paused = true)]
async fn panic_in_encoder_is_encode_error() {
    let (_, dir) = client().await;
    let text = |text: &str| Fragile(text.to_owned());
    for bad in ["no encoder", "no way back"] {
        let error = dir.own.set(&text(bad)).await.unwrap_err();
        assert_eq!((error.kind(), error.key().unwrap().as_str()), (ErrorKind::Encode, "/app/own"));
        assert!(error.to_string().contains("panicked"), "{error}");
        let error = dir.update(|all| all.own = text(bad)).await.unwrap_err();
        assert_eq!((error.problems()[0].kind, error.problems()[0].key.as_str()), (ProblemKind::Unencodable, "/app/own"));
        let error = dir.token.set(&text(bad)).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Encode && !error.to_string().contains(bad), "{error}");
        assert!(dir.map.entry(&text(bad)).is_err());
    }
    assert_eq!(dir.custom.set(&13).await.unwrap_err().kind(), ErrorKind::Encode);
    assert_eq!(dir.get().await.unwrap().into_inner(), all());
}

#[tokio::test(start_paused = true)]
async fn panic_in_default_is_reported_for_its_key() {
    #[derive(Clone, Debug, PartialEq, EtcdSchema)]
    struct Defaults {
        #[etcd(default = panic!("no default today"))]
        size: u16,
        name: String,
    }
    let client = Client::connect("memory:").await.unwrap();
    let dir = client.dir::<Defaults>("/app").unwrap();
    put(&client, "name", "x").await;
    let error = dir.get().await.unwrap_err();
    assert_eq!((error.kind(), error.problems()[0].key.as_str()), (ErrorKind::Invalid, "/app/size"));
    assert!(error.to_string().contains("no default today"), "{error}");
    for error in [dir.size.get_or_default().await.unwrap_err(), dir.size.modify(|size| size).await.unwrap_err()] {
        assert_eq!((error.kind(), error.key().unwrap().as_str()), (ErrorKind::Invalid, "/app/size"));
    }
    put(&client, "size", "5").await;
    assert_eq!(dir.get().await.unwrap().size, 5);
}

#[tokio::test(start_paused = true)]
async fn panic_in_callback_ends_only_that_call() {
    let (_, dir) = client().await;
    let live = dir.live().await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let subscription = live.on_change(move |all| {
        counted.fetch_add(1, Atomic::SeqCst);
        assert_ne!(all.plain, 2, "a panic in the callback");
    });
    for plain in [2, 3] {
        let revision = dir.plain.set(&plain).await.unwrap();
        soon(live.wait_for_revision(revision)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(calls.load(Atomic::SeqCst), 2);
    drop(subscription);
}

#[tokio::test(start_paused = true)]
async fn panic_in_candidate_value_is_an_error() {
    let client = Client::connect("memory:").await.unwrap();
    let election: Election<Fragile> = client.election("/who");
    let error = election.campaign(&Fragile("no encoder".to_owned())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    let leader = client.election::<String>("/who").campaign(&"panic".to_owned()).await.unwrap();
    let seen = election.leader().await.unwrap_err();
    assert_eq!((seen.kind(), seen.key()), (ErrorKind::Decode, Some(leader.key())));
}
