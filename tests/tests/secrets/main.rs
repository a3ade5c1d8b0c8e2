//! Plants a distinctive text in every place that can hold a secret, and searches every output of
//! the library for that text: `Debug` and `Display` of everything that the library returns, errors
//! with their sources, and everything that any crate reports through `tracing` or `log` at the
//! finest level.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod outputs;
mod scene;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt::{Debug, Display};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::{Etcd, Mode, Proxy};
use etcd_typed::{
    Changes, Client, Entry, EntryMap, Error, ErrorKind, EtcdSchema, EtcdValue, Expect, Length, RetryPolicy, Schema, Secret, UpdateError,
    ValueError,
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

use self::outputs::{Log, Outputs};
use self::scene::Scene;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// The text that must not appear in any output. No name of a key, a field or a function contains
/// the text.
const SECRET: &str = "xyzzy";

/// A value that shows its text in every way that a type can: in `Debug` and in its own errors.
#[derive(Clone, Debug, PartialEq)]
struct Word(String);

impl Word {
    fn new(text: &str) -> Self {
        Self(format!("{text} {SECRET}"))
    }

    fn good() -> Self {
        Self::new("good")
    }
}

impl EtcdValue for Word {
    const TYPE: &'static str = "word";

    fn encode(&self) -> Result<Bytes, ValueError> {
        if self.0.starts_with("unstorable") {
            Err(ValueError::new(format!("not to be stored: {self:?}")))
        } else {
            Ok(self.0.clone().into())
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        let text = std::str::from_utf8(bytes).map_err(ValueError::new)?;
        if text.starts_with("unreadable") { Err(ValueError::new(format!("not to be read: {text}"))) } else { Ok(Self(text.to_owned())) }
    }
}

fn refused(word: &Word) -> Result<(), String> {
    if word.0.starts_with("refused") { Err(format!("refused: {word:?}")) } else { Ok(()) }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Document {
    number: u32,
    text: String,
}

/// A struct with a secret in every place that can hold one. The struct does not implement `Debug`,
/// because such output would not come from the library.
#[derive(EtcdSchema, Clone, PartialEq)]
#[etcd(validate = tells_all)]
struct Vault {
    user: String,
    #[etcd(secret, validate = refused)]
    leaf: Word,
    #[etcd(secret, alias = "old_maybe", validate = refused)]
    maybe: Option<Word>,
    #[etcd(secret, default = Word(String::from("default xyzzy")))]
    with_default: Word,
    #[etcd(secret, json)]
    document: Document,
    #[etcd(secret, with = custom)]
    custom: Word,
    #[etcd(dir)]
    nested: Nested,
    #[etcd(flatten)]
    beside: Beside,
    #[etcd(dir)]
    by_name: BTreeMap<String, Nested>,
    #[etcd(entries, secret, validate = refused)]
    tokens: BTreeMap<String, Word>,
    #[etcd(validate = refused_secret)]
    hidden: Secret<Word>,
    hidden_maybe: Option<Secret<Word>>,
    #[etcd(default = Secret::new(Word(String::from("default xyzzy"))))]
    hidden_default: Secret<Word>,
    #[etcd(with = custom_secret)]
    hidden_custom: Secret<Word>,
    hidden_new: Newtype,
    #[etcd(entries)]
    hidden_tokens: BTreeMap<String, Secret<Word>>,
    #[etcd(secret, text)]
    text: Word,
    #[etcd(secret, length = 3..)]
    limited: Word,
    #[etcd(default, one_of = ["", "one xyzzy", "two xyzzy"])]
    one_of: Secret<String>,
    #[etcd(default)]
    list: Vec<Secret<Word>>,
}

/// A newtype that quotes the value in its errors.
#[derive(EtcdValue, Clone, Debug, PartialEq)]
#[etcd(try_from)]
struct Newtype(Secret<Word>);

impl TryFrom<Secret<Word>> for Newtype {
    type Error = String;

    fn try_from(word: Secret<Word>) -> Result<Self, String> {
        if word.expose().0.starts_with("refused") { Err(format!("refused: {:?}", word.expose())) } else { Ok(Self(word)) }
    }
}

impl Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Word {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("unreadable") { Err(text.to_owned()) } else { Ok(Self(text.to_owned())) }
    }
}

impl Length for Word {
    const UNIT: &'static str = "letters";

    fn length(&self) -> usize {
        self.0.len()
    }
}

mod custom_secret {
    use super::{Secret, Word, custom};

    pub(super) fn encode(word: &Secret<Word>) -> Result<String, String> {
        custom::encode(word.expose())
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Secret<Word>, String> {
        custom::decode(bytes).map(Secret::new)
    }
}

fn refused_secret(word: &Secret<Word>) -> Result<(), String> {
    refused(word.expose())
}

#[derive(EtcdSchema, Clone, PartialEq)]
#[etcd(validate = tells_nested)]
struct Nested {
    #[etcd(secret, validate = refused)]
    inner: Word,
}

#[derive(EtcdSchema, Clone, PartialEq)]
struct Beside {
    #[etcd(secret, validate = refused)]
    flat: Word,
}

/// A struct whose secrets may be missing, so that a view can start from a file.
#[derive(EtcdSchema, Clone, PartialEq)]
struct Dispensable {
    user: String,
    #[etcd(secret)]
    maybe: Option<Word>,
    #[etcd(secret, default = Word(String::from("default xyzzy")))]
    with_default: Word,
    #[etcd(dir)]
    by_name: BTreeMap<String, Account>,
}

#[derive(EtcdSchema, Clone, PartialEq)]
struct Account {
    name: String,
    #[etcd(secret, alias = "old_pin")]
    pin: Option<Word>,
}

mod custom {
    use super::Word;

    pub(super) fn encode(word: &Word) -> Result<String, String> {
        if word.0.starts_with("unstorable") { Err(format!("{word:?}")) } else { Ok(word.0.clone()) }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Word, String> {
        let text = String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?;
        if text.starts_with("unreadable") { Err(text) } else { Ok(Word(text)) }
    }
}

fn tells_all(vault: &Vault) -> Result<(), String> {
    if vault.user == "tell" { Err(format!("{:?} {:?} {:?}", vault.leaf, vault.nested.inner, vault.tokens)) } else { Ok(()) }
}

fn tells_nested(nested: &Nested) -> Result<(), String> {
    if nested.inner.0.starts_with("whole") { Err(format!("{:?}", nested.inner)) } else { Ok(()) }
}

fn vault_of(word: &Word) -> Vault {
    Vault {
        user: "me".to_owned(),
        leaf: word.clone(),
        maybe: Some(word.clone()),
        with_default: word.clone(),
        document: Document { number: 1, text: word.0.clone() },
        custom: word.clone(),
        nested: Nested { inner: word.clone() },
        beside: Beside { flat: word.clone() },
        by_name: BTreeMap::from([("x".to_owned(), Nested { inner: word.clone() })]),
        tokens: BTreeMap::from([("t".to_owned(), word.clone())]),
        hidden: word.clone().into(),
        hidden_maybe: Some(word.clone().into()),
        hidden_default: word.clone().into(),
        hidden_custom: word.clone().into(),
        hidden_new: Newtype(word.clone().into()),
        hidden_tokens: BTreeMap::from([("t".to_owned(), word.clone().into())]),
        text: word.clone(),
        limited: word.clone(),
        one_of: Secret::default(),
        list: vec![word.clone().into()],
    }
}

/// The keys whose values are of the type `Word`.
const WORDS: [&str; 16] = [
    "leaf",
    "maybe",
    "with_default",
    "custom",
    "nested/inner",
    "flat",
    "by_name/x/inner",
    "tokens/t",
    "hidden",
    "hidden_maybe",
    "hidden_default",
    "hidden_custom",
    "hidden_new",
    "hidden_tokens/t",
    "text",
    "limited",
];

/// Returns true if a text contains the secret in any form that `Debug` gives to text and bytes, or
/// in base64.
fn shows(text: &str) -> bool {
    let bytes: Vec<_> = SECRET.bytes().map(|byte| byte.to_string()).collect();
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    // The base64 forms at the three possible offsets.
    let base64 = ["eHl6en", "h5enp5", "4eXp6e"];
    text.contains(SECRET) || text.contains(&bytes.join(", ")) || text.contains(&hex) || base64.iter().any(|form| text.contains(form))
}

#[test]
fn search_finds_secret_in_every_form() {
    assert!(shows(&format!("{:?}", Word::good())));
    assert!(shows(&format!("{:?}", Bytes::from_static(SECRET.as_bytes()))));
    assert!(shows(&format!("{:?}", SECRET.as_bytes())));
    assert!(shows("78797a7a79") && shows("eHl6enk=") && shows("YXh5enp5"));
    assert!(!shows("*** /vault/leaf"));
}

#[tokio::test]
async fn memory_output_contains_no_secrets() {
    Scene::memory().await.run().await;
}

#[tokio::test]
async fn v3_output_contains_no_secrets() {
    Scene::server("etcd").await.run().await;
    Log::start().heard("h2::");
}

#[tokio::test]
async fn v2_output_contains_no_secrets() {
    Scene::server("etcd2").await.run().await;
    Log::start().heard("hyper");
}

/// Code that reads a secret through its handle gets the value.
#[tokio::test]
async fn secret_is_readable_through_its_handle() {
    let client = Client::connect("memory:").await.unwrap();
    let vault = client.dir::<Vault>("/vault").unwrap();
    let leaf: &Entry<Word> = &vault.leaf;
    let tokens: &EntryMap<String, Word> = &vault.tokens;
    leaf.set(&Word::good()).await.unwrap();
    tokens.entry("t").unwrap().set(&Word::good()).await.unwrap();
    let read = leaf.get().await.unwrap().unwrap();
    assert_eq!((&*read, format!("{read:?}").contains("value: ***")), (&Word::good(), true));
    assert_eq!(tokens.get().await.unwrap()["t"], Word::good());
}
