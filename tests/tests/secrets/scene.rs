//! A client that uses every part of the library on values that hold a secret.

mod following;

use super::*;

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
pub(super) struct Scene {
    place: Place,
    client: Client,
    direct: Client,
    /// A client with a short call timeout.
    impatient: Client,
    said: Outputs,
}

impl Scene {
    pub(super) async fn memory() -> Self {
        let store = MemoryStore::new();
        let client = Client::with_store(store.clone());
        Self { place: Place::Memory(store), direct: client.clone(), impatient: client.clone(), client, said: Outputs::default() }
    }

    pub(super) async fn server(scheme: &str) -> Self {
        let etcd = Etcd::start().await;
        let proxy = Proxy::to(etcd.endpoint()).await;
        let direct = Client::connect(&format!("{scheme}://{}", etcd.endpoint())).await.unwrap();
        let address = format!("{scheme}://{}", proxy.endpoint());
        let client = Client::connect(&address).await.unwrap();
        let soon = RetryPolicy::new().call_timeout(Duration::from_millis(300));
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

    pub(super) async fn run(mut self) {
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
        let things: [&dyn Debug; 17] = [
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
            &vault.hidden,
            &vault.hidden_tokens,
            &vault.list,
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
            &self.client.transaction().write(vault.leaf.set(&word)).expect(&vault.leaf, Expect::value(&word)),
        ];
        things.iter().for_each(|thing| self.said.say("a write that is to be", thing));

        vault.set(&value).non_atomic().await.unwrap();
        vault.tokens.set(&map).non_atomic().await.unwrap();
        vault.by_name.set(&dirs).non_atomic().await.unwrap();
        assert!(vault.get().await.unwrap().into_inner() == value);
        // Record what the handles of secrets return. (A struct's own `Debug` does not come from the
        // library.)
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
        let transaction = self.client.transaction().expect(&vault.leaf, Expect::value(&Word::good())).write(vault.leaf.set(&Word::good()));
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
        self.fill(&Word::new("other")).await;
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
                self.client.transaction().expect(&vault.leaf, Expect::Absent).write(vault.leaf.set(&Word::good())).guarded_by(&lock);
            self.said.say("a transaction", &transaction);
            self.said.error("a transaction", transaction.await, kind);
            of.entry::<String>(lock.key().as_str()).unwrap().set(&SECRET.to_owned()).await.unwrap();
        }
        self.said.say("the guard", &lock);
    }

    /// Writes values that are refused by their encoding, their validation or the validation of the
    /// struct.
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
        assert_eq!(error.problems().len(), 17, "{error}");
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
        self.put("list", &format!("{SECRET}, {SECRET}")).await;
        self.put("one_of", &format!("three {SECRET}")).await;
        self.said.error("JSON", vault.document.get().await, ErrorKind::Decode);
        self.said.error("a list", vault.list.get().await, ErrorKind::Decode);
        self.said.error("a limit", vault.one_of.get().await, ErrorKind::Decode);
        self.said.error("a secret", vault.hidden.get().await, ErrorKind::Decode);
        self.said.error("a map of secrets", vault.hidden_tokens.get().await, ErrorKind::Invalid);
        self.said.error("a map", vault.tokens.get().await, ErrorKind::Invalid);
        self.said.error("a map of structs", vault.by_name.get().await.map(drop), ErrorKind::Invalid);
        let mut pages = vault.tokens.stream();
        self.said.error("a page", pages.next().await.unwrap(), ErrorKind::Decode);
        let check = vault.check().await.unwrap();
        assert_eq!(check.problems.len(), 19);
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
}
