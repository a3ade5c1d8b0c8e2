//! Names and paths of every kind.

use super::*;

on_every_store! {
    any_name_works_as_map_key
    any_name_works_as_parameter
    paths_are_refused_or_exact
}

const NAMES: [&str; 24] = [
    "..",
    ".",
    "/",
    "",
    "\0",
    "%",
    "%%",
    "%2F",
    "%2e%2e",
    "_x",
    "__",
    "a/b",
    "../../prod/app/limit",
    "🦀",
    "a\nb",
    "\u{202e}rtl",
    "a b",
    "#?&+;=",
    "\"'<>\\",
    "\u{1}\u{7f}",
    "é",
    "e\u{301}",
    "...",
    "日本語",
];

async fn any_name_works_as_map_key(bench: Bench) {
    let dir = bench.app();
    dir.set(&App { quotas: BTreeMap::new(), regions: BTreeMap::new(), ..app() }).non_atomic().await.unwrap();
    let before = bench.all().await;
    let mut quotas = BTreeMap::new();
    for (name, value) in NAMES.iter().zip(0..) {
        dir.quotas.entry(*name).unwrap().set(&value).await.unwrap();
        let region = dir.regions.dir(*name).unwrap();
        region.set(&Database { host: (*name).to_owned(), pool: 1 }).non_atomic().await.unwrap();
        quotas.insert((*name).to_owned(), value);
        assert_eq!(dir.quotas.entry(*name).unwrap().get().await.unwrap().as_deref(), Some(&value), "{name:?}");
        assert_eq!(region.get().await.unwrap().host, *name);
    }
    assert_eq!(*dir.quotas.get().await.unwrap(), quotas);
    assert_eq!(dir.regions.keys().await.unwrap(), quotas.keys().cloned().collect::<Vec<_>>());
    let mut streamed = BTreeMap::new();
    let mut pages = dir.quotas.stream();
    while let Some(item) = pages.next().await {
        let (key, value) = item.unwrap();
        streamed.insert(key, value.into_inner());
    }
    assert_eq!(streamed, quotas);
    // The map can also be written and deleted as a whole.
    dir.quotas.set(&BTreeMap::new()).non_atomic().await.unwrap();
    dir.quotas.set(&quotas).non_atomic().await.unwrap();
    assert_eq!(*dir.quotas.get().await.unwrap(), quotas);
    for name in NAMES {
        assert!(dir.quotas.entry(name).unwrap().delete().await.unwrap().is_some(), "{name:?}");
        assert!(dir.regions.dir(name).unwrap().delete().non_atomic().await.unwrap().is_some(), "{name:?}");
    }
    assert_eq!(bench.all().await, before, "no other key changed");
    very_long(&bench, dir.quotas.entry(&"x".repeat(5000)).unwrap().set(&1).await.map(drop)).await;
}

/// Checks the result of a write to a very long path. v2 refuses a path that is too long for a
/// request. The other stores accept the path.
async fn very_long(bench: &Bench, written: Result<(), Error>) {
    if bench.is("etcd v2") {
        assert_eq!(written.unwrap_err().kind(), ErrorKind::InvalidKey);
    } else {
        written.unwrap();
        assert!(bench.all().await.keys().any(|key| key.ends_with(&"x".repeat(5000))));
    }
}

async fn any_name_works_as_parameter(bench: Bench) {
    bench.app().set(&app()).non_atomic().await.unwrap();
    let before = bench.all().await;
    let keys = before.len();
    for (count, name) in NAMES.iter().enumerate() {
        let dir = AppDir::open(&bench.client, name).unwrap();
        let own = App { name: (*name).to_owned(), ..app() };
        dir.create(&own).non_atomic().await.unwrap();
        assert_eq!(*dir.get().await.unwrap(), own, "{name:?}");
        assert_eq!(bench.all().await.len(), keys * (count + 2), "{name:?} has its own directory");
    }
    for name in NAMES {
        AppDir::open(&bench.client, name).unwrap().delete().non_atomic().await.unwrap();
    }
    assert_eq!(bench.all().await, before, "no other key changed");
    very_long(
        &bench,
        AppDir::open(&bench.client, "x".repeat(5000)).unwrap().quotas.entry(&"x".repeat(5000)).unwrap().set(&1).await.map(drop),
    )
    .await;
}

async fn paths_are_refused_or_exact(bench: Bench) {
    for path in
        ["", "a", "/", "//", "/a//b", "/a//", "/..", "/../x", "/a/..", "/a/../b", "/.", "/./a", "/a/./b", "/\0", "/a\n", "/\u{7f}", "a/b"]
    {
        let refused = bench.client.entry::<String>(path).map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidKey, "{path:?}");
        if path != "/" {
            assert_eq!(bench.client.directory(path).map(drop).unwrap_err().kind(), ErrorKind::InvalidKey, "{path:?}");
        }
    }
    for path in [
        "/%2e%2e/x",
        "/..%2fx",
        "/%",
        "/%zz",
        "/🦀",
        "/a b",
        "/#frag",
        "/a?wait=true",
        "/a+b",
        "/\u{202e}x",
        "/é",
        "/...",
        "/a;b",
        "/:foo/bar",
        "/\"'<>\\",
    ] {
        let entry = bench.client.entry::<String>(path).unwrap();
        entry.create(&"v".to_owned()).await.unwrap();
        assert_eq!(entry.get().await.unwrap().as_deref().map(String::as_str), Some("v"), "{path:?}");
        assert_eq!(bench.all().await, BTreeMap::from([(path.to_owned(), "v".to_owned())]));
        entry.delete().await.unwrap();
        assert_eq!(bench.all().await, BTreeMap::new());
    }
    // On v2, listings of the directories above omit a hidden key. A read of the key itself finds
    // it.
    let hidden = bench.client.entry::<String>("/_hidden/x").unwrap();
    hidden.set(&"v".to_owned()).await.unwrap();
    assert!(hidden.exists().await.unwrap());
    hidden.delete().await.unwrap();
    very_long(&bench, bench.client.entry::<u8>(&format!("/{}", "x".repeat(5000))).unwrap().set(&1).await.map(drop)).await;
}
