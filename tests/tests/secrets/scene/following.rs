//! Watches, views and their files, and a server that cannot be reached.

use super::*;

impl Scene {
    pub(super) async fn watches(&mut self) {
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

    pub(super) async fn views(&mut self) {
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

    pub(super) async fn files(&mut self) {
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
    pub(super) async fn out_of_reach(&mut self) {
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
        // This value is larger than a server accepts in one request.
        let long = Word(SECRET.repeat(3 << 20));
        self.said.error("a value that is too large", vault.leaf.set(&long).await, ErrorKind::TooLarge);
        self.said.error(
            "a condition that is too large",
            // Without `permanent`, the v2 store would first read the key's time to live, and the
            // client would compare the values itself.
            vault.leaf.compare_and_swap(Expect::value(&long), &word).permanent().await,
            ErrorKind::TooLarge,
        );
    }
}
