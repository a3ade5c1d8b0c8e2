//! Plants a distinctive text in every place that can hold a secret, and searches every output of
//! the library for it: `Debug` and `Display` of everything that the library returns, errors with
//! their sources, and everything that any crate reports through `tracing` or `log` at the finest
//! level.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

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
    Changes, Client, Entry, EntryMap, Error, ErrorKind, EtcdSchema, EtcdValue, Expect, RetryPolicy, Schema, UpdateError, ValueError,
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// The text that must not appear in any output. No name of a key, a field or a function contains
/// it.
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

/// A struct with a secret in every place that can hold one. It has no `Debug`, since that output
/// would not be the library's.
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
    }
}

/// The keys whose values are of the type `Word`.
const WORDS: [&str; 8] = ["leaf", "maybe", "with_default", "custom", "nested/inner", "flat", "by_name/x/inner", "tokens/t"];

/// Whether a text contains the secret in any form that `Debug` gives to text and bytes, or in
/// base64.
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

/// All outputs, with the name of their source.
#[derive(Default)]
struct Outputs(Vec<(String, String)>);

impl Outputs {
    fn say(&mut self, what: &str, thing: &dyn Debug) {
        self.0.push((what.to_owned(), format!("{thing:?} {thing:#?}")));
    }

    fn print(&mut self, what: &str, thing: &dyn Display) {
        self.0.push((what.to_owned(), format!("{thing} {thing:#}")));
    }

    /// Asserts the kind of the error and records everything in it.
    fn error<T>(&mut self, what: &str, result: Result<T, Error>, kind: ErrorKind) -> Error {
        let Err(error) = result else { panic!("{what}: no error") };
        assert_eq!(error.kind(), kind, "{what}: {error}");
        self.all_of(what, &error);
        error
    }

    fn all_of(&mut self, what: &str, error: &Error) {
        self.say(what, error);
        self.print(what, error);
        self.say(what, &error.problems());
        error.problems().iter().for_each(|problem| self.print(what, problem));
        let mut source = error.source();
        while let Some(cause) = source {
            self.say(what, &cause);
            self.print(what, &cause);
            source = cause.source();
        }
    }

    fn has_no_secret(&self) {
        let shown: Vec<_> = self.0.iter().filter(|(_, text)| shows(text)).collect();
        assert!(shown.is_empty(), "{} of {}: {shown:#?}", shown.len(), self.0.len());
    }
}

/// Everything that the process reported through `tracing` and `log`.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let start = || {
            let log = Self::default();
            let subscriber = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::TRACE);
            subscriber.with_span_events(FmtSpan::FULL).with_ansi(false).with_writer(log.clone()).init();
            log
        };
        LOG.get_or_init(start).clone()
    }

    fn lines(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.0.lock().unwrap()).lines().map(str::to_owned).collect()
    }

    fn has_no_secret(&self) {
        let lines = self.lines();
        let shown: Vec<_> = lines.iter().filter(|line| shows(line)).take(20).collect();
        assert!(shown.is_empty(), "of {} lines: {shown:#?}", lines.len());
    }

    fn heard(&self, target: &str) {
        let lines = self.lines();
        assert!(lines.iter().any(|line| line.contains(target)), "no output of {target} in {} lines", lines.len());
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Log {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

/// A store that can lose its history while a client uses it.
enum Place {
    Memory(MemoryStore),
    Server { etcd: Box<Etcd>, proxy: Proxy },
}

/// A directory on disk that is deleted when this value is dropped.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("etcd-typed-secrets-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn texts(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        // A file that is being replaced may be missing.
        entries.filter_map(|entry| Some(String::from_utf8_lossy(&std::fs::read(entry.ok()?.path()).ok()?).into_owned())).collect()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A client behind a proxy, a client with a direct connection, and the server.
struct Scene {
    place: Place,
    client: Client,
    direct: Client,
    /// A client with a short call timeout.
    impatient: Client,
    said: Outputs,
}

impl Scene {
    async fn memory() -> Self {
        let store = MemoryStore::new();
        let client = Client::with_store(store.clone());
        Self { place: Place::Memory(store), direct: client.clone(), impatient: client.clone(), client, said: Outputs::default() }
    }

    async fn server(scheme: &str) -> Self {
        let etcd = Etcd::start().await;
        let proxy = Proxy::to(etcd.endpoint()).await;
        let direct = Client::connect(&format!("{scheme}://{}", etcd.endpoint())).await.unwrap();
        let address = format!("{scheme}://{}", proxy.endpoint());
        let client = Client::connect(&address).await.unwrap();
        let soon = RetryPolicy { call_timeout: Duration::from_millis(300), ..RetryPolicy::default() };
        let impatient = Client::builder(&address).retry(soon).connect_lazy().unwrap();
        Self { place: Place::Server { etcd: Box::new(etcd), proxy }, client, direct, impatient, said: Outputs::default() }
    }

    fn vault(&self) -> VaultDir {
        self.client.dir::<Vault>("/vault").unwrap()
    }

    /// Writes with the direct client, as any other program does.
    async fn put(&self, path: &str, value: &str) {
        self.direct.entry::<String>(&format!("/vault/{path}")).unwrap().set(&value.to_owned()).await.unwrap();
    }

    async fn fill(&self, word: &Word) {
        self.direct.dir::<Vault>("/vault").unwrap().set(&vault_of(word)).non_atomic().await.unwrap();
    }

    /// Disconnects the client's watches, changes the values, and makes the server lose the history
    /// in between.
    async fn lose_history(&self, changed: &Word) {
        match &self.place {
            Place::Memory(store) => {
                store.faults().drop_connections();
                self.fill(changed).await;
                store.faults().compact();
            }
            Place::Server { etcd, proxy } => {
                proxy.set(Mode::Refuse).await;
                proxy.cut();
                self.fill(changed).await;
                if self.direct.store().capabilities().past_revisions {
                    etcd.compact().await;
                } else {
                    // v2 keeps the last 1000 events of the whole store.
                    let other = self.direct.entry::<u32>("/other").unwrap();
                    for n in 0..1001 {
                        other.set(&n).await.unwrap();
                    }
                }
                proxy.set(Mode::Pass).await;
            }
        }
    }

    async fn run(mut self) {
        let log = Log::start();
        self.handles().await;
        self.writes().await;
        self.conflicts().await;
        self.guarded().await;
        self.what_is_refused().await;
        self.what_is_unreadable().await;
        self.dry_runs().await;
        self.watches().await;
        self.views().await;
        self.files().await;
        self.out_of_reach().await;
        self.said.has_no_secret();
        log.heard("etcd_typed::operation");
        log.has_no_secret();
    }

    async fn handles(&mut self) {
        let vault = self.vault();
        let (token, dir) = (vault.tokens.entry("t").unwrap(), vault.by_name.dir("x").unwrap());
        let things: [&dyn Debug; 14] = [
            &self.client,
            &vault,
            &vault.leaf,
            &vault.maybe,
            &vault.with_default,
            &vault.document,
            &vault.nested,
            &vault.beside,
            &vault.by_name,
            &vault.tokens,
            &token,
            &dir,
            &Vault::describe(),
            &vault.tokens.stream(),
        ];
        things.iter().for_each(|thing| self.said.say("a handle", thing));
        self.said.print("the table", Vault::describe());
        self.said.print("the table as JSON", &serde_json::to_string(Vault::describe()).unwrap());
    }

    async fn writes(&mut self) {
        let vault = self.vault();
        let (word, value) = (Word::good(), vault_of(&Word::good()));
        let map = BTreeMap::from([("t".to_owned(), word.clone())]);
        let dirs = BTreeMap::from([("x".to_owned(), Nested { inner: word.clone() })]);
        let things: [&dyn Debug; 9] = [
            &vault.set(&value),
            &vault.create(&value),
            &vault.update(|vault| vault.leaf = word.clone()),
            &vault.leaf.set(&word),
            &vault.leaf.compare_and_swap(Expect::value(&word), &word),
            &vault.leaf.modify(|_| Some(word.clone())),
            &vault.tokens.set(&map),
            &vault.by_name.set(&dirs),
            &self.client.transaction().set(&vault.leaf, &word).expect(&vault.leaf, Expect::value(&word)),
        ];
        things.iter().for_each(|thing| self.said.say("a write that is to be", thing));

        vault.set(&value).non_atomic().await.unwrap();
        vault.tokens.set(&map).non_atomic().await.unwrap();
        vault.by_name.set(&dirs).non_atomic().await.unwrap();
        assert!(vault.get().await.unwrap().into_inner() == value);
        // What the handle of a secret returns. (A struct's own `Debug` is not the library's.)
        let token = vault.tokens.entry("t").unwrap();
        for entry in [&vault.leaf, &vault.maybe, &vault.with_default, &vault.custom, &vault.nested.inner, &vault.beside.flat, &token] {
            let read = entry.get().await.unwrap();
            assert_eq!(read.as_deref(), Some(&word));
            self.said.say("a read", &read);
            self.said.say("a part of a read", &read.unwrap().map(|word| word.0));
            self.said.say("a swap", &entry.swap(&word).await.unwrap());
            self.said.say("an update", &entry.modify(|_| Some(Word::new("better"))).await.unwrap());
            self.said.say("an update of nothing", &entry.modify(|word| word).await.unwrap());
            self.said.say("a value that is waited for", &entry.wait_for(|word| word.is_some()).await.unwrap());
            self.said.say("a deletion", &entry.delete().await.unwrap());
            entry.create(&word).await.unwrap();
            self.said.say("a deletion with a condition", &entry.compare_and_delete(Expect::value(&word)).await.unwrap());
            entry.set(&word).await.unwrap();
        }
        self.said.say("a read of JSON", &vault.document.get().await.unwrap());
        self.said.say("a read of a map", &vault.tokens.get().await.unwrap());
        let mut pages = vault.tokens.stream();
        while let Some(page) = pages.next().await {
            self.said.say("a page", &page.unwrap());
        }
    }

    async fn conflicts(&mut self) {
        let vault = self.vault();
        self.fill(&Word::good()).await;
        let (old, new) = (vault.get().await.unwrap(), vault_of(&Word::new("new")));
        let leaf = vault.leaf.get().await.unwrap();
        vault.leaf.set(&Word::new("other")).await.unwrap();
        for expected in [Expect::from(&leaf), Expect::value(&Word::good()), Expect::Absent] {
            let error = self.said.error("a swap", vault.leaf.compare_and_swap(expected, &Word::new("new")).await, ErrorKind::Conflict);
            assert_eq!(error.current::<Word>().map(|word| &**word), Some(&Word::new("other")));
            self.said.say("what is there", &error.current::<Word>());
            self.said.error("a deletion", vault.leaf.compare_and_delete(expected).await, ErrorKind::Conflict);
        }
        let error = self.said.error("a creation", vault.leaf.create(&Word::new("new")).await, ErrorKind::AlreadyExists);
        self.said.say("what is there", &error.current::<Word>());
        self.said.error("a creation", vault.create(&new).non_atomic().await, ErrorKind::AlreadyExists);
        self.said.error("a swap", vault.compare_and_swap(&old, &new).non_atomic().await, ErrorKind::Conflict);
        self.said.error("a deletion", vault.compare_and_delete(&old).non_atomic().await, ErrorKind::Conflict);
        let transaction = self.client.transaction().expect(&vault.leaf, Expect::value(&Word::good())).set(&vault.leaf, &Word::good());
        self.said.error("a transaction", transaction.await, ErrorKind::Conflict);
        let refusal: Result<_, UpdateError<Word>> = vault.try_update(|_| Err(Word("no secret".to_owned()))).await;
        self.said.say("an update that is refused", &refusal.err());
    }

    /// A refused write under a guard also reads the guard's key, which another client may have
    /// changed.
    async fn guarded(&mut self) {
        let vault = self.vault();
        self.fill(&Word::good()).await;
        let (stale, new) = (vault.get().await.unwrap(), vault_of(&Word::new("new")));
        self.fill(&Word::good()).await;
        let transactions = self.client.store().capabilities().transactions;
        // v2 refuses every guard, so the guard may be of another store.
        let of = if transactions { self.direct.clone() } else { Client::connect("memory:").await.unwrap() };
        let lock = of.lock("/lock").info(SECRET).acquire().await.unwrap();
        let kinds = [ErrorKind::Conflict, ErrorKind::GuardLost].map(|kind| if transactions { kind } else { ErrorKind::Unsupported });
        for kind in kinds {
            let swap = vault.leaf.compare_and_swap(Expect::Absent, &Word::new("new")).guarded_by(&lock);
            self.said.say("a swap", &swap);
            self.said.error("a swap", swap.await, kind);
            let deletion = vault.leaf.compare_and_delete(Expect::value(&Word::new("new"))).guarded_by(&lock);
            self.said.say("a deletion", &deletion);
            self.said.error("a deletion", deletion.await, kind);
            let swap = vault.compare_and_swap(&stale, &new).guarded_by(&lock);
            self.said.say("a swap of a struct", &swap);
            self.said.error("a swap of a struct", swap.await, kind);
            let transaction =
                self.client.transaction().expect(&vault.leaf, Expect::Absent).set(&vault.leaf, &Word::good()).guarded_by(&lock);
            self.said.say("a transaction", &transaction);
            self.said.error("a transaction", transaction.await, kind);
            of.entry::<String>(lock.key().as_str()).unwrap().set(&SECRET.to_owned()).await.unwrap();
        }
        self.said.say("the guard", &lock);
    }

    /// Values that their encoding, their validation or the validation of the struct refuses.
    async fn what_is_refused(&mut self) {
        let vault = self.vault();
        for (word, kind) in [(Word::new("unstorable"), ErrorKind::Encode), (Word::new("refused"), ErrorKind::Invalid)] {
            let token = vault.tokens.entry("t").unwrap();
            for entry in [&vault.leaf, &vault.maybe, &vault.nested.inner, &vault.beside.flat, &token] {
                self.said.error("a field", entry.set(&word).await, kind);
                self.said.error("a field", entry.modify(|_| Some(word.clone())).await, kind);
            }
            let map = BTreeMap::from([("t".to_owned(), word.clone())]);
            self.said.error("a map", vault.tokens.set(&map).await, ErrorKind::Invalid);
            self.said.error("a diff of a map", vault.tokens.diff(&map).await, ErrorKind::Invalid);
            let error = self.said.error("a struct", vault.set(&vault_of(&word)).await, ErrorKind::Invalid);
            assert!(error.problems().len() >= 6, "{error}");
            self.said.error("an update", vault.update(|vault| *vault = vault_of(&word)).non_atomic().await, ErrorKind::Invalid);
            let transaction = self.client.transaction().set_dir(&vault.nested, &Nested { inner: word.clone() });
            self.said.error("a transaction", transaction.await, ErrorKind::Invalid);
        }
        self.said.error("a field of another form", vault.custom.set(&Word::new("unstorable")).await, ErrorKind::Encode);
        let told = Vault { user: "tell".to_owned(), ..vault_of(&Word::new("whole")) };
        let error = self.said.error("a whole struct", vault.set(&told).await, ErrorKind::Invalid);
        assert_eq!(error.problems().len(), 3, "the nested struct, the one in the map, and the whole struct");
        self.said.error("a diff", vault.diff(&told).await, ErrorKind::Invalid);
    }

    async fn what_is_unreadable(&mut self) {
        let vault = self.vault();
        for path in WORDS {
            self.put(path, &Word::new("unreadable").0).await;
        }
        self.put("document", &format!(r#"{{"number": "{SECRET}", "text": ""}}"#)).await;
        let error = self.said.error("a struct", vault.get().await.map(drop), ErrorKind::Invalid);
        assert_eq!(error.problems().len(), 9, "{error}");
        let token = vault.tokens.entry("t").unwrap();
        for entry in [&vault.leaf, &vault.maybe, &vault.with_default, &vault.custom, &vault.nested.inner, &vault.beside.flat, &token] {
            self.said.error("a field", entry.get().await, ErrorKind::Decode);
            self.said.error("a field", entry.modify(|word| word).await, ErrorKind::Decode);
            // A value that could not be read back is not written.
            self.said.error("a field", entry.swap(&Word::new("unreadable")).await, ErrorKind::Encode);
            // The result contains no value, and the log reports that an undecodable one was
            // replaced.
            assert_eq!(entry.swap(&Word::good()).await.unwrap(), None);
        }
        for path in WORDS {
            self.put(path, &Word::new("unreadable").0).await;
        }
        self.said.error("JSON", vault.document.get().await, ErrorKind::Decode);
        self.said.error("a map", vault.tokens.get().await, ErrorKind::Invalid);
        self.said.error("a map of structs", vault.by_name.get().await.map(drop), ErrorKind::Invalid);
        let mut pages = vault.tokens.stream();
        self.said.error("a page", pages.next().await.unwrap(), ErrorKind::Decode);
        let check = vault.check().await.unwrap();
        assert_eq!(check.problems.len(), 9);
        self.said.say("a check", &check);
        self.said.print("a check", &check);
        self.said.error("a swap", vault.leaf.compare_and_swap(Expect::Absent, &Word::good()).await, ErrorKind::Conflict);
    }

    async fn dry_runs(&mut self) {
        let vault = self.vault();
        // The document now has another form, and an alias will be deleted.
        self.put("old_maybe", &Word::good().0).await;
        let less = Vault { maybe: None, by_name: BTreeMap::new(), tokens: BTreeMap::new(), ..vault_of(&Word::new("new")) };
        for value in [&less, &vault_of(&Word::good())] {
            let diff = vault.diff(value).await.unwrap();
            assert!(diff.differences.len() >= 8, "{diff}");
            self.said.say("a diff", &diff);
            self.said.print("a diff", &diff);
        }
        let diff = vault.tokens.diff(&BTreeMap::from([("u".to_owned(), Word::good())])).await.unwrap();
        assert_eq!(diff.differences.len(), 2);
        self.said.print("a diff of a map", &diff);
        let diff = vault.by_name.diff(&BTreeMap::from([("y".to_owned(), Nested { inner: Word::good() })])).await.unwrap();
        assert_eq!(diff.differences.len(), 2);
        self.said.print("a diff of a map of structs", &diff);

        for kind in ["refused", "whole"] {
            self.fill(&Word::good()).await;
            for path in WORDS {
                self.put(path, &Word::new(kind).0).await;
            }
            self.put("user", "tell").await;
            let check = vault.check().await.unwrap();
            assert!(check.problems.len() >= 3, "{check}");
            self.said.print("a check", &check);
            self.said.print("a check of a map", &vault.tokens.check().await.unwrap());
            self.said.print("a check of a map of structs", &vault.by_name.check().await.unwrap());
        }
    }

    async fn watches(&mut self) {
        let vault = self.vault();
        self.fill(&Word::good()).await;
        let mut whole: Changes<VaultChange, Vault> = vault.watch().await.unwrap();
        let mut leaf = vault.leaf.watch().await.unwrap();
        let mut tokens = vault.tokens.watch().await.unwrap();
        let mut nested = vault.nested.watch().await.unwrap();
        for thing in [&vault.watch() as &dyn Debug, &vault.leaf.watch(), &whole, &leaf, &tokens] {
            self.said.say("a watch", thing);
        }
        for word in [Word::new("changed"), Word::new("unreadable"), Word::new("mended")] {
            for path in WORDS {
                self.put(path, &word.0).await;
            }
            for _ in WORDS {
                let item = timeout(LIMIT, whole.next()).await.expect("an item in time").unwrap();
                self.item("a change of the struct", item);
            }
            let item = timeout(LIMIT, leaf.next()).await.expect("in time").unwrap();
            self.item("a change of a field", item);
            let item = timeout(LIMIT, tokens.next()).await.expect("in time").unwrap();
            self.item("a change of a map", item);
            let item = timeout(LIMIT, nested.next()).await.expect("in time").unwrap();
            self.item("a change of a nested struct", item);
            if let Err(error) = whole.current() {
                self.said.all_of("the state", &error);
            }
            match leaf.current() {
                Ok(current) => self.said.say("the value", &current),
                Err(error) => self.said.all_of("the value", &error),
            }
            match tokens.current() {
                Ok(current) => self.said.say("the map", &current),
                Err(error) => self.said.all_of("the map", &error),
            }
        }
        self.lose_history(&Word::new("afterwards")).await;
        loop {
            let update = timeout(LIMIT, whole.next()).await.expect("in time").unwrap().unwrap();
            self.said.say("a resync", &update);
            self.said.say("an interruption", &whole.interruption());
            if update.resynced {
                break;
            }
        }
        loop {
            let change = timeout(LIMIT, leaf.next()).await.expect("in time").unwrap().unwrap();
            self.said.say("a resync of a field", &change);
            if change.new == Some(Word::new("afterwards")) {
                break;
            }
        }
    }

    fn item<T: Debug>(&mut self, what: &str, item: Result<T, Error>) {
        match item {
            Ok(item) => self.said.say(what, &item),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Decode, "{what}");
                self.said.all_of(what, &error);
            }
        }
    }

    async fn views(&mut self) {
        let vault = self.vault();
        self.fill(&Word::good()).await;
        let whole = vault.live().await.unwrap();
        let leaf = vault.leaf.live().await.unwrap();
        let tokens = vault.tokens.live().await.unwrap();
        let part = leaf.select(|word| word);
        for bad in ["unreadable", "refused", "whole"] {
            for path in WORDS {
                self.put(path, &Word::new(bad).0).await;
            }
            self.put("user", "tell").await;
            // The view has seen all writes once it reports two problems.
            while whole.status().problems().len() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for thing in [&whole as &dyn Debug, &leaf, &tokens, &whole.status(), &leaf.status(), &tokens.status(), &whole.rewound()] {
                self.said.say("a view", thing);
            }
            whole.status().problems().iter().for_each(|problem| self.said.print("a problem of a view", problem));
            for thing in [
                &leaf.get() as &dyn Debug,
                &leaf.reader(),
                &leaf.history(),
                &tokens.get(),
                &tokens.history(),
                &part,
                &part.get(),
                &leaf.stream(),
            ] {
                self.said.say("a state", thing);
            }
            let error = self.said.error("a new view", vault.live().await.map(drop), ErrorKind::Invalid);
            assert!(error.problems().len() >= 2, "{error}");
        }
        self.fill(&Word::new("mended")).await;
        self.put("user", "me").await;
        while !whole.status().is_live() || whole.get().leaf != Word::new("mended") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.lose_history(&Word::new("again")).await;
        while whole.get().tokens["t"] != Word::new("again") {
            self.said.say("a view", &whole);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn files(&mut self) {
        let files = Files::new();
        let path = files.0.join("view.json");
        self.said.error("a view that needs its secrets", self.vault().live().or_snapshot(&path).await.map(drop), ErrorKind::Unsupported);

        let word = Word::good();
        let account = Account { name: "mine".to_owned(), pin: Some(word.clone()) };
        let value = Dispensable {
            user: "me".to_owned(),
            maybe: Some(word.clone()),
            with_default: word.clone(),
            by_name: BTreeMap::from([("x".to_owned(), account)]),
        };
        self.direct.dir::<Dispensable>("/kept").unwrap().set(&value).non_atomic().await.unwrap();
        self.direct.entry::<Word>("/kept/by_name/x/old_pin").unwrap().set(&word).await.unwrap();
        let kept = self.client.dir::<Dispensable>("/kept").unwrap();
        self.said.say("a view that is to be", &kept.live().or_snapshot(&path));
        let live = kept.live().or_snapshot(&path).await.unwrap();
        assert!(**live.get() == value);
        // The file gets this name only when it is complete.
        while !std::fs::read_to_string(&path).is_ok_and(|text| text.contains("mine")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        files.texts().iter().for_each(|text| self.said.print("a file", text));
        drop(live);

        self.cut_off().await;
        let live = self.impatient.dir::<Dispensable>("/kept").unwrap().live().or_snapshot(&path).await.unwrap();
        assert_eq!((live.get().user.as_str(), &live.get().maybe), ("me", &None));
        self.said.say("a view from disk", &live);
        self.said.say("its status", &live.status());
        // The file is damaged at the place of a secret.
        std::fs::write(&path, format!("{{\"{SECRET}")).unwrap();
        match self.impatient.dir::<Account>("/kept/by_name/x").unwrap().live().or_snapshot(&path).await {
            Ok(_) => panic!("a view of nothing"),
            Err(error) => self.said.all_of("a file that is damaged", &error),
        }
        self.reconnect().await;
    }

    async fn cut_off(&self) {
        match &self.place {
            Place::Memory(store) => store.faults().stop(),
            Place::Server { proxy, .. } => {
                proxy.set(Mode::Refuse).await;
                proxy.cut();
            }
        }
    }

    async fn reconnect(&self) {
        match &self.place {
            Place::Memory(store) => store.faults().start(),
            Place::Server { proxy, .. } => proxy.set(Mode::Pass).await,
        }
    }

    /// Calls that fail because the server cannot be reached or refuses their size.
    async fn out_of_reach(&mut self) {
        let vault = self.impatient.dir::<Vault>("/vault").unwrap();
        let word = Word::good();
        self.cut_off().await;
        let errors = [
            vault.leaf.set(&word).await.unwrap_err(),
            vault.leaf.compare_and_swap(Expect::value(&word), &word).await.unwrap_err(),
            vault.leaf.compare_and_delete(Expect::value(&word)).await.map(drop).unwrap_err(),
            vault.leaf.get().await.map(drop).unwrap_err(),
            vault.set(&vault_of(&word)).non_atomic().await.unwrap_err(),
        ];
        for error in &errors {
            self.said.all_of("out of reach", error);
        }
        self.reconnect().await;
        let vault = self.vault();
        if let Place::Server { proxy, .. } = &self.place {
            // The connection is cut before the answer arrives.
            vault.leaf.set(&word).await.unwrap();
            proxy.cut_after(1);
            // The client may still find out that the write was applied.
            if let Err(error) = vault.leaf.compare_and_swap(Expect::value(&word), &word).await {
                self.said.all_of("cut off", &error);
            }
        }
        // Larger than a server accepts as one value, and as one request.
        let long = Word(SECRET.repeat(3 << 20));
        self.said.error("a value that is too large", vault.leaf.set(&long).await, ErrorKind::TooLarge);
        self.said.error(
            "a condition that is too large",
            // `permanent`, since otherwise v2 would read the key's time to live and compare here.
            vault.leaf.compare_and_swap(Expect::value(&long), &word).permanent().await,
            ErrorKind::TooLarge,
        );
    }
}

#[tokio::test]
async fn secrets_never_appear_on_memory() {
    Scene::memory().await.run().await;
}

#[tokio::test]
async fn secrets_never_appear_on_v3() {
    Scene::server("etcd").await.run().await;
    Log::start().heard("h2::");
}

#[tokio::test]
async fn secrets_never_appear_on_v2() {
    Scene::server("etcd2").await.run().await;
    Log::start().heard("hyper");
}

/// The values of secrets are readable for code that asks for them.
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
