//! Files that a program with another schema wrote. A file is refused if it does not contain all
//! that the new schema needs.

use std::collections::BTreeMap;
use std::ops::Deref;

use etcd_typed::Dir;

use super::*;

/// Defines a version of the struct `Limits` in a separate module.
macro_rules! version {
    ($module:ident { $($fields:tt)* }) => {
        mod $module {
            #[allow(unused_imports, reason = "some versions need it")]
            use super::*;

            #[derive(EtcdSchema, Clone, Debug, PartialEq)]
            pub(super) struct Limits { $($fields)* }
        }
    };
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Db {
    host: String,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct DbTls {
    host: String,
    #[etcd(default = true)]
    tls: bool,
}

/// Saves a state with the schema `Old`, and opens a view with `New` while the server is stopped.
async fn upgrade<Old: EtcdSchema, New: EtcdSchema>(stored: &[(&str, &str)]) -> Result<Live<New>, Error>
where
    Old::Handle: Deref<Target = Dir<Old>>,
    New::Handle: Deref<Target = Dir<New>>,
{
    let bench = Bench::new();
    bench.put(stored).await;
    keep::<Old>(&bench.client, &bench.path()).await;
    bench.store.faults().stop();
    view::<New>(&bench.client, &bench.path()).await
}

version!(only_a { pub(super) a: u32 });
version!(with_default { pub(super) a: u32, #[etcd(default = 7)] pub(super) b: u32 });
version!(with_option { pub(super) a: u32, pub(super) c: Option<u32> });
version!(with_secret { pub(super) a: u32, #[etcd(secret, allow_debug)] pub(super) b: Option<u32> });
version!(plain_option { pub(super) a: u32, pub(super) b: Option<u32> });
version!(wide { pub(super) a: u64, #[etcd(default = 8)] pub(super) b: u64 });
version!(flag { pub(super) a: bool });

#[tokio::test(start_paused = true)]
async fn file_without_added_field_is_refused() {
    let stored = [("a", "1"), ("b", "500"), ("c", "9")];
    let refused = refusal(upgrade::<only_a::Limits, with_default::Limits>(&stored).await);
    assert!(refused.contains("`b`") && refused.contains("view.json"), "{refused}");
    let refused = refusal(upgrade::<only_a::Limits, with_option::Limits>(&stored).await);
    assert!(refused.contains("`c`"), "{refused}");
    // The file is refused even if the key is not stored: the program that wrote the file could not
    // know the key.
    refusal(upgrade::<only_a::Limits, with_option::Limits>(&[("a", "1")]).await);
}

#[tokio::test(start_paused = true)]
async fn next_save_contains_added_field() {
    let bench = Bench::new();
    bench.put(&[("a", "1"), ("b", "500")]).await;
    keep::<only_a::Limits>(&bench.client, &bench.path()).await;
    let live = view::<with_default::Limits>(&bench.client, &bench.path()).await.unwrap();
    until(|| document(&bench.path()).unwrap()["keys"].as_array().unwrap().len() == 2).await;
    bench.store.faults().stop();
    drop(live);
    assert_eq!(view::<with_default::Limits>(&bench.client, &bench.path()).await.unwrap().get().b, 500);
}

#[tokio::test(start_paused = true)]
async fn file_is_refused_if_field_was_secret_when_saved() {
    let stored = [("a", "1"), ("b", "500")];
    let refused = refusal(upgrade::<with_secret::Limits, plain_option::Limits>(&stored).await);
    assert!(refused.contains("`b`") && !refused.contains("500"), "{refused}");
    refusal(upgrade::<with_secret::Limits, with_default::Limits>(&stored).await);
}

#[tokio::test(start_paused = true)]
async fn new_secret_is_none_in_saved_state() {
    let live = upgrade::<plain_option::Limits, with_secret::Limits>(&[("a", "1"), ("b", "500")]).await.unwrap();
    assert_eq!((live.get().a, live.get().b), (1, None));
}

#[tokio::test(start_paused = true)]
async fn file_allows_removed_field_and_wider_type() {
    let live = upgrade::<with_option::Limits, only_a::Limits>(&[("a", "1"), ("c", "9")]).await.unwrap();
    assert_eq!(live.get().a, 1);
    // The same text decodes as the wider type, and the new default applies to a key that is not
    // stored.
    let live = upgrade::<with_default::Limits, wide::Limits>(&[("a", "1")]).await.unwrap();
    assert_eq!((live.get().a, live.get().b), (1, 8));
    refusal(upgrade::<only_a::Limits, flag::Limits>(&[("a", "12")]).await);
}

version!(old_name { pub(super) old: Option<u32> });
version!(new_name { #[etcd(alias = "old")] pub(super) new: Option<u32> });
version!(with_alias { #[etcd(alias = "older")] pub(super) old: Option<u32> });

#[tokio::test(start_paused = true)]
async fn file_without_key_of_higher_precedence_is_refused() {
    // The file does not show whether the server also stores `new`.
    let refused = refusal(upgrade::<old_name::Limits, new_name::Limits>(&[("old", "1"), ("new", "2")]).await);
    assert!(refused.contains("`new`"), "{refused}");
    // An alias is not read if the field has a value.
    let live = upgrade::<old_name::Limits, with_alias::Limits>(&[("old", "1"), ("older", "2")]).await.unwrap();
    assert_eq!(live.get().old, Some(1));
    let refused = refusal(upgrade::<old_name::Limits, with_alias::Limits>(&[("older", "2")]).await);
    assert!(refused.contains("`old`") && refused.contains("`older`"), "{refused}");
    let live = upgrade::<with_alias::Limits, old_name::Limits>(&[("older", "2")]).await.unwrap();
    assert_eq!(live.get().old, None);
}

version!(nested { #[etcd(dir)] pub(super) db: Db });
version!(nested_more { #[etcd(dir)] pub(super) db: DbTls });
version!(nested_optional { #[etcd(dir)] pub(super) db: Option<DbTls> });
version!(flattened { #[etcd(flatten)] pub(super) db: DbTls });
version!(map { #[etcd(dir)] pub(super) db: BTreeMap<String, Db> });
version!(map_more { #[etcd(dir)] pub(super) db: BTreeMap<String, DbTls> });
version!(entries { #[etcd(entries)] pub(super) db: BTreeMap<String, String> });
version!(leaf { pub(super) db: Option<String> });

#[tokio::test(start_paused = true)]
async fn file_without_added_inner_key_is_refused() {
    let stored = [("db/host", "h"), ("db/tls", "false")];
    let refused = refusal(upgrade::<nested::Limits, nested_more::Limits>(&stored).await);
    assert!(refused.contains("`db/tls`"), "{refused}");
    refusal(upgrade::<nested::Limits, nested_optional::Limits>(&stored).await);
    refusal(upgrade::<nested::Limits, flattened::Limits>(&[("db/host", "h")]).await);
    let live = upgrade::<nested_more::Limits, nested_optional::Limits>(&stored).await.unwrap();
    assert_eq!(live.get().db, Some(DbTls { host: "h".to_owned(), tls: false }));
    let live = upgrade::<nested_more::Limits, nested::Limits>(&stored).await.unwrap();
    assert_eq!(live.get().db.host, "h");
}

#[tokio::test(start_paused = true)]
async fn file_without_added_entry_key_is_refused() {
    let stored = [("db/x/host", "h"), ("db/x/tls", "false")];
    let refused = refusal(upgrade::<map::Limits, map_more::Limits>(&stored).await);
    assert!(refused.contains("`db/*/tls`"), "{refused}");
    refusal(upgrade::<map::Limits, map_more::Limits>(&[]).await);
    let live = upgrade::<map_more::Limits, map::Limits>(&stored).await.unwrap();
    assert_eq!(live.get().db["x"].host, "h");
}

#[tokio::test(start_paused = true)]
async fn file_with_other_kind_of_field_is_refused() {
    refusal(upgrade::<leaf::Limits, entries::Limits>(&[]).await);
    refusal(upgrade::<entries::Limits, leaf::Limits>(&[]).await);
    refusal(upgrade::<entries::Limits, map::Limits>(&[("db/x", "h")]).await);
    refusal(upgrade::<map::Limits, entries::Limits>(&[("db/x/host", "h")]).await);
    refusal(upgrade::<leaf::Limits, nested_optional::Limits>(&[]).await);
}

#[tokio::test(start_paused = true)]
async fn map_and_value_views_refuse_files_with_unknown_keys() {
    mod older {
        use super::*;

        #[derive(EtcdSchema, Debug)]
        #[allow(dead_code, reason = "only its handles are used")]
        pub(super) struct Db {
            pub(super) host: Option<String>,
        }
    }
    mod newer {
        use super::*;

        #[derive(EtcdSchema, Debug)]
        #[allow(dead_code, reason = "only its handles are used")]
        pub(super) struct Db {
            #[etcd(alias = "address")]
            pub(super) host: Option<String>,
            pub(super) tls: Option<bool>,
        }
    }
    let bench = Bench::new();
    bench.put(&[("x/host", "h"), ("x/tls", "true"), ("y/address", "h")]).await;
    let (older, newer) = (bench.client.dirs::<String, older::Db>("/app").unwrap(), bench.client.dirs::<String, newer::Db>("/app").unwrap());
    let file = |name: &str| bench.files.path().join(name);
    let map = soon(older.live().or_snapshot(file("map"))).await.unwrap();
    let (x, y) = (older.dir("x").unwrap().host.clone(), older.dir("y").unwrap().host.clone());
    let x = soon(x.live().or_snapshot(file("x"))).await.unwrap();
    let y = soon(y.live().or_snapshot(file("y"))).await.unwrap();
    until(|| ["map", "x", "y"].iter().all(|name| holds(&file(name), map.get().revision()))).await;
    drop((map, x, y));
    bench.store.faults().stop();
    let refused = refusal(soon(newer.live().or_snapshot(file("map"))).await);
    assert!(refused.contains("`*/host`") && refused.contains("`*/address`"), "{refused}");
    let x = newer.dir("x").unwrap().host.clone();
    assert_eq!(soon(x.live().or_snapshot(file("x"))).await.unwrap().get().as_deref(), Some("h"));
    let y = newer.dir("y").unwrap().host.clone();
    let refused = refusal(soon(y.live().or_snapshot(file("y"))).await);
    assert!(refused.contains("`address`"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn secret_as_only_key_of_entry_is_refused() {
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    struct Account {
        #[etcd(default = 1)]
        size: u32,
        #[etcd(secret, allow_debug)]
        token: Option<String>,
    }
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    struct Named {
        #[etcd(dir)]
        db: Db,
        #[etcd(secret, allow_debug)]
        token: Option<String>,
    }
    #[derive(EtcdSchema)]
    #[allow(dead_code, reason = "only its table is used")]
    struct InMap {
        #[etcd(dir)]
        accounts: BTreeMap<String, Account>,
    }
    #[derive(EtcdSchema)]
    #[allow(dead_code, reason = "only its table is used")]
    struct Optional {
        #[etcd(dir)]
        account: Option<Account>,
    }
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    struct Always {
        #[etcd(dir)]
        account: Account,
        #[etcd(dir)]
        named: BTreeMap<String, Named>,
        #[etcd(dir)]
        one: Option<Named>,
    }
    let bench = Bench::new();
    bench.put(&[("accounts/x/token", "hunter2"), ("x/token", "hunter2"), ("account/token", "hunter2")]).await;
    let map = bench.client.dirs::<String, Account>("/app").unwrap();
    for (refused, place) in [
        (view::<InMap>(&bench.client, &bench.path()).await.map(drop), "`accounts/<text>/token`"),
        (view::<Optional>(&bench.client, &bench.path()).await.map(drop), "`account/token`"),
        (soon(map.live().or_snapshot(bench.path())).await.map(drop), "`<text>/token`"),
    ] {
        let error = refused.unwrap_err();
        assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains(place), "{error}");
        assert!(error.to_string().contains("required field"), "{error}");
    }
    // A struct that always exists, and optional structs with a required key, may have secrets.
    bench.put(&[("named/x/db/host", "h"), ("named/x/token", "hunter2"), ("one/db/host", "h")]).await;
    keep::<Always>(&bench.client, &bench.path()).await;
    bench.store.faults().stop();
    let live = view::<Always>(&bench.client, &bench.path()).await.unwrap();
    let named = Named { db: Db { host: "h".to_owned() }, token: None };
    let expected =
        Always { account: Account { size: 1, token: None }, named: BTreeMap::from([("x".to_owned(), named.clone())]), one: Some(named) };
    assert_eq!(**live.get(), expected);
}

#[tokio::test(start_paused = true)]
async fn file_of_former_format_is_refused() {
    let bench = Bench::new();
    let former = r#"{"etcd_typed_snapshot":1,"store":"memory","directory":"/app","view":"the struct Limits","revision":2,
        "entries":{"a":{"value":"1","created":2,"modified":2,"version":1}}}"#;
    fs::write(bench.path(), former).unwrap();
    bench.store.faults().stop();
    let refused = refusal(view::<only_a::Limits>(&bench.client, &bench.path()).await);
    assert!(refused.contains("its format is 1"), "{refused}");
}
