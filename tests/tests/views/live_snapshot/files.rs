//! A view's file: what is saved, when, and which files are refused.

use super::*;

#[tokio::test(start_paused = true)]
async fn rejected_state_is_never_saved() {
    let bench = bench();
    bench.dir().set(&limits()).await.unwrap();
    let live = bench.view_from_disk().await;
    until_kept(&bench.path(), live.get().revision()).await;
    // These writes come within the second after a save, in which the view does not save again.
    let good = bench.dir().rate.set(&101).await.unwrap();
    let bad = bench.put("/app/rate", "5000").await;
    soon(live.wait_for_revision(bad)).await.unwrap_err();
    until_kept(&bench.path(), good).await;
    sleep(LONG).await;
    assert_eq!(document(&bench.path()).unwrap()["entries"]["rate"]["value"], "101");
    let mended = bench.put("/app/rate", "102").await;
    until_kept(&bench.path(), mended).await;
}

#[tokio::test(start_paused = true)]
async fn unusable_file_fails_like_missing_file() {
    let bench = bench();
    bench.kept().await;
    let good = fs::read(bench.path()).unwrap();
    let mut files = vec![
        (Vec::new(), "damaged"),
        (b"hunter2".to_vec(), "damaged"),
        (b"[]".to_vec(), "damaged"),
        (br#"{"password": "hunter2"}"#.to_vec(), "damaged"),
        (br#"{"etcd_typed_snapshot": "hunter2"}"#.to_vec(), "damaged"),
        (vec![0xff; 4096], "damaged"),
        (vec![b'['; 100_000], "damaged"),
        (good.repeat(2), "damaged"),
    ];
    // The file is cut off at every length but the last, which lacks only the final newline.
    files.extend((0..good.len() - 1).map(|length| (good[..length].to_vec(), "damaged")));
    let edits: [(&str, Value, &str); 12] = [
        ("/etcd_typed_snapshot", json!(2), "its format is 2"),
        ("/etcd_typed_snapshot", json!(null), "damaged"),
        ("/store", json!("etcd v3"), "it belongs to the struct Limits in /app (etcd v3)"),
        ("/directory", json!("/apple"), "in /apple"),
        ("/view", json!("the struct Pool"), "the struct Pool in /app"),
        ("/revision", json!(-1), "damaged"),
        ("/revision", json!("hunter2"), "damaged"),
        ("/entries/rate", json!("hunter2"), "damaged"),
        ("/entries/rate/value", json!([256]), "damaged"),
        // Values that the schema does not accept.
        ("/entries/rate/value", json!("5000"), "a thousand is too much"),
        ("/entries/rate/value", json!("hunter2"), "invalid digit"),
        ("/entries", json!({}), "missing"),
    ];
    for (pointer, value, reason) in edits {
        let mut document: Value = serde_json::from_slice(&good).unwrap();
        *document.pointer_mut(pointer).expect("the file has this field") = value;
        files.push((document.to_string().into_bytes(), reason));
    }
    for (bytes, reason) in files {
        fs::write(bench.path(), &bytes).unwrap();
        let error = soon(bench.dir().live().or_snapshot(bench.path())).await.unwrap_err();
        let (text, shown) = (error.to_string(), String::from_utf8_lossy(&bytes).into_owned());
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{shown}");
        assert!(text.contains(reason) && text.contains("limits.json"), "{text}: {shown}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    fs::remove_file(bench.path()).unwrap();
    let error = soon(bench.dir().live().or_snapshot(bench.path())).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("No such file"), "{error}");
    fs::create_dir(bench.path()).unwrap();
    let error = soon(bench.dir().live().or_snapshot(bench.path())).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("directory"), "{error}");
    fs::remove_dir(bench.path()).unwrap();

    // A view of another struct in the same directory refuses the file.
    fs::write(bench.path(), &good).unwrap();
    let pool = bench.client.dir::<Pool>("/app").unwrap();
    let error = soon(pool.live().or_snapshot(bench.path())).await.unwrap_err();
    assert!(error.to_string().contains("not to the struct Pool in /app"), "{error}");
    assert_eq!(bench.view_from_disk().await.get().rate, 100, "the view of its own struct accepts the file");
}

#[tokio::test(start_paused = true)]
async fn file_of_another_value_is_refused() {
    let bench = bench();
    let (a, b) = (bench.client.entry::<u32>("/n/a").unwrap(), bench.client.entry::<u32>("/n/b").unwrap());
    let revision = a.set(&1).await.unwrap();
    let live = soon(a.live().or_snapshot(bench.path())).await.unwrap();
    until_kept(&bench.path(), revision).await;
    drop(live);
    bench.store.faults().stop();
    let error = soon(b.live().or_snapshot(bench.path())).await.unwrap_err();
    assert!(error.to_string().contains("the value `a`"), "{error}");
    let map = bench.client.entries::<String, u32>("/n").unwrap();
    soon(map.live().or_snapshot(bench.path())).await.unwrap_err();
    assert_eq!(**soon(a.live().or_snapshot(bench.path())).await.unwrap().get(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn secrets_are_never_saved() {
    let bench = bench();
    bench.put("/app/old_token", SECRETS[0]).await;
    bench.kept().await;
    for file in fs::read_dir(bench.files.path()).unwrap() {
        let text = String::from_utf8_lossy(&fs::read(file.unwrap().path()).unwrap()).into_owned();
        assert!(text.contains("\"quotas/acme\"") && !SECRETS.iter().any(|secret| text.contains(secret)), "{text}");
    }
    // A view ignores values in the file whose fields became secret after the file was written.
    let mut document = document(&bench.path()).unwrap();
    for key in ["token", "old_token", "pools/a%2Fb/password"] {
        document["entries"][key] = json!({"value": "hunter2", "created": 1, "modified": 1});
    }
    fs::write(bench.path(), document.to_string()).unwrap();
    let live = bench.view_from_disk().await;
    assert_eq!(**live.get(), limits_without_secrets());
}

#[tokio::test(start_paused = true)]
async fn snapshot_of_required_secret_is_refused() {
    #[derive(EtcdSchema)]
    #[allow(dead_code, reason = "only its table is used")]
    struct Required {
        name: String,
        #[etcd(secret, rename = "pass-word")]
        password: String,
    }
    #[derive(EtcdSchema)]
    #[allow(dead_code, reason = "only its table is used")]
    struct Nested {
        #[etcd(flatten)]
        limits: Pool,
        #[etcd(dir)]
        login: Option<Required>,
    }
    #[derive(EtcdSchema)]
    #[allow(dead_code, reason = "only its table is used")]
    struct Maps {
        #[etcd(dir)]
        logins: BTreeMap<String, Required>,
    }
    #[derive(EtcdSchema)]
    #[allow(dead_code, reason = "only its table is used")]
    struct Entries {
        #[etcd(entries, secret)]
        tokens: BTreeMap<String, String>,
    }
    #[derive(EtcdSchema)]
    #[allow(dead_code, reason = "only its table is used")]
    struct Flat {
        #[etcd(flatten)]
        tokens: Entries,
    }
    let bench = bench();
    let client = &bench.client;
    let path = || bench.files.path().join("refused");
    let required = client.dir::<Required>("/r").unwrap();
    required.set(&Required { name: "me".to_owned(), password: SECRETS[0].to_owned() }).await.unwrap();
    bench.counting.take();
    let tokens = client.dir::<Entries>("/e").unwrap().tokens.clone();
    let refusals = [
        (soon(required.live().or_snapshot(path())).await.err(), "`pass-word`"),
        (soon(client.dir::<Nested>("/n").unwrap().live().or_snapshot(path())).await.err(), "`login/pass-word`"),
        (soon(client.dir::<Maps>("/m").unwrap().live().or_snapshot(path())).await.err(), "`logins/<text>/pass-word`"),
        (soon(client.dir::<Entries>("/e").unwrap().live().or_snapshot(path())).await.err(), "`tokens/<text>`"),
        (soon(client.dir::<Flat>("/f").unwrap().live().or_snapshot(path())).await.err(), "`tokens/<text>`"),
        (soon(client.dirs::<String, Required>("/d").unwrap().live().or_snapshot(path())).await.err(), "`<text>/pass-word`"),
        (soon(required.password.live().or_snapshot(path())).await.err(), "`pass-word`"),
        (soon(bench.dir().login.token.live().or_snapshot(path())).await.err(), "`token`"),
        (soon(tokens.live().or_snapshot(path())).await.err(), "`<text>`"),
    ];
    for (error, place) in refusals {
        let error = error.expect("the view is refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(place) && error.to_string().contains("Option"), "{place}: {error}");
    }
    assert_eq!(bench.counting.take().total(), 0, "refused without any request");
    assert_eq!(soon(required.live()).await.unwrap().get().password, SECRETS[0], "without a snapshot the view works");
    assert!(!path().exists());
}

#[tokio::test(start_paused = true)]
async fn compare_and_swap_of_saved_state_keeps_secrets() {
    let bench = bench();
    bench.kept().await;
    let live = bench.view_from_disk().await;
    let seen = live.get().into_arc();
    bench.store.faults().start();
    let wanted = Limits { rate: 5, ..(**seen).clone() };
    bench.dir().compare_and_swap(&seen, &wanted).await.unwrap();
    let stored = bench.dir().get().await.unwrap();
    assert_eq!(*stored, Limits { rate: 5, ..limits() });
    assert_eq!(bench.dir().compare_and_swap(&seen, &wanted).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn file_is_saved_about_once_per_second() {
    let bench = bench();
    bench.dir().set(&limits()).await.unwrap();
    let live = bench.view_from_disk().await;
    until_kept(&bench.path(), live.get().revision()).await;
    let mut seen = BTreeSet::new();
    let mut last = Revision::ZERO;
    for rate in 0..300 {
        last = bench.dir().rate.set(&rate).await.unwrap();
        seen.extend(revision_of(&bench.path()));
        sleep(TICK).await;
    }
    assert!(seen.len() >= 3 && seen.len() <= 6, "saves within 3 seconds: {seen:?}");
    // The last state is saved even after the view was dropped.
    drop(live);
    until_kept(&bench.path(), last).await;
    assert_eq!(fs::read_dir(bench.files.path()).unwrap().count(), 1, "no temporary file is left");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(bench.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test(start_paused = true)]
async fn unwritable_file_does_not_stop_view() {
    let bench = bench();
    bench.dir().set(&limits()).await.unwrap();
    let directory = bench.files.path().join("later");
    let path = directory.join("limits.json");
    let live = soon(bench.dir().live().or_snapshot(&path)).await.unwrap();
    let written = bench.dir().rate.set(&1).await.unwrap();
    assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().rate, 1);
    sleep(LONG).await;
    assert!(live.status().is_live() && !directory.exists());
    fs::create_dir(&directory).unwrap();
    let written = bench.dir().rate.set(&2).await.unwrap();
    until_kept(&path, written).await;
}

#[tokio::test(start_paused = true)]
async fn concurrent_writers_keep_file_complete() {
    let bench = bench();
    bench.dir().set(&limits()).await.unwrap();
    let first = bench.view_from_disk().await;
    until_kept(&bench.path(), first.get().revision()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (path, stopped) = (bench.path(), stop.clone());
    let reader = std::thread::spawn(move || {
        let mut reads = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            assert!(document(&path).expect("the file always exists")["entries"]["rate"]["value"].is_string());
            reads += 1;
        }
        reads
    });
    let mut views = vec![first];
    for _ in 0..7 {
        views.push(bench.view_from_disk().await);
    }
    let mut last = Revision::ZERO;
    for rate in 0..30 {
        last = bench.dir().rate.set(&rate).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().expect("every read found a complete file") > 0);
    assert_eq!(revision_of(&bench.path()), Some(last.get()));
    assert_eq!(fs::read_dir(bench.files.path()).unwrap().count(), 1);
}
