//! Structs whose fields are all optional: which keys make them exist.

use super::*;

etcd_typed_tests::on_every_store! { "removals":
    struct_without_any_key_is_refused
    struct_without_required_fields_needs_one_key
}

/// A struct that stores no key at all if no field has a value.
#[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
struct Soft {
    note: Option<String>,
    #[etcd(entries)]
    tags: BTreeMap<String, u8>,
    #[etcd(dir)]
    parts: BTreeMap<String, Part>,
    #[etcd(dir)]
    part: Option<Part>,
}

#[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
struct Part {
    size: Option<u8>,
    #[etcd(dir)]
    inner: Inner,
}

#[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
struct Inner {
    size: Option<u8>,
}

#[derive(EtcdSchema, Clone, Debug, Default, PartialEq)]
struct Holder {
    #[etcd(dir)]
    one: Option<Soft>,
    #[etcd(dir)]
    many: BTreeMap<String, Soft>,
    #[etcd(dir)]
    always: Part,
}

async fn struct_without_any_key_is_refused(bench: Bench) {
    let dir = bench.client.dir::<Holder>("/holder").unwrap();
    let one = |soft: Soft| Holder { one: Some(soft), ..Holder::default() };
    let many = |soft: Soft| Holder { many: BTreeMap::from([("a/b".to_owned(), soft)]), ..Holder::default() };
    let empty_part = || BTreeMap::from([("x".to_owned(), Part::default())]);
    let some_part = Part { size: Some(1), ..Part::default() };
    for (value, at) in [
        (one(Soft::default()), "one"),
        (one(Soft { part: Some(Part::default()), ..Soft::default() }), "one/part"),
        (one(Soft { note: Some("n".to_owned()), part: Some(Part::default()), ..Soft::default() }), "one/part"),
        (one(Soft { parts: empty_part(), ..Soft::default() }), "one/parts/x"),
        (many(Soft::default()), "many/a%2Fb"),
        (many(Soft { parts: empty_part(), part: Some(some_part.clone()), ..Soft::default() }), "many/a%2Fb/parts/x"),
    ] {
        let seen = dir.get().await.unwrap();
        for refused in [
            dir.set(&value).await.unwrap_err(),
            dir.set(&value).non_atomic().await.unwrap_err(),
            dir.create(&value).non_atomic().await.unwrap_err(),
            dir.compare_and_swap(&seen, &value).non_atomic().await.unwrap_err(),
            dir.update(|holder| *holder = value.clone()).non_atomic().await.unwrap_err(),
            dir.update(|holder| *holder = value.clone()).changed_fields_only().await.unwrap_err(),
            dir.diff(&value).await.unwrap_err(),
        ] {
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
            let key = dir.key().below(refused.problems()[0].key.as_bytes()).unwrap();
            assert_eq!((key, refused.problems()[0].kind), (at, ProblemKind::Unencodable), "{refused}");
            assert!(refused.to_string().contains("required field"), "{refused}");
        }
        assert!(!dir.exists().await.unwrap());
    }
    // A struct with at least one key is stored and read back.
    let with_keys = Holder {
        one: Some(Soft { part: Some(some_part.clone()), ..Soft::default() }),
        many: BTreeMap::from([("a".to_owned(), Soft { parts: BTreeMap::from([("x".to_owned(), some_part)]), ..Soft::default() })]),
        ..Holder::default()
    };
    dir.set(&with_keys).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), with_keys);

    // The handle of an entry or of an optional directory also refuses a struct without keys. A
    // struct that always exists may have no key.
    for refused in [
        dir.many.dir("a").unwrap().set(&Soft::default()).non_atomic().await.map(drop).unwrap_err(),
        dir.many.dir("a").unwrap().update(|soft| *soft = Soft::default()).non_atomic().await.map(drop).unwrap_err(),
        dir.one.set(&Soft::default()).non_atomic().await.map(drop).unwrap_err(),
        dir.many.set(&BTreeMap::from([("a".to_owned(), Soft::default())])).non_atomic().await.map(drop).unwrap_err(),
        bench.client.dirs::<u8, Soft>("/other").unwrap().dir(&1).unwrap().create(&Soft::default()).await.map(drop).unwrap_err(),
    ] {
        assert_eq!((refused.kind(), refused.problems()[0].kind), (ErrorKind::Invalid, ProblemKind::Unencodable), "{refused}");
    }
    dir.always.set(&Part::default()).non_atomic().await.unwrap();
    dir.set(&Holder::default()).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), Holder::default());
    // A value without keys cannot be created, since two concurrent creates would both succeed.
    for _ in 0..2 {
        let refused = dir.create(&Holder::default()).non_atomic().await.unwrap_err();
        assert_eq!((refused.kind(), refused.problems()[0].key.clone()), (ErrorKind::Invalid, dir.key().clone()));
        assert_eq!(dir.create(&Holder::default()).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

async fn struct_without_required_fields_needs_one_key(bench: Bench) {
    let map = bench.client.dirs::<String, Soft>("/soft").unwrap();
    for path in ["note", "tags/1", "parts/x/size", "parts/x/inner/size", "part/size", "part/inner/size"] {
        bench.put(&format!("/soft/{}/{path}", path.replace('/', ".")), "1").await;
    }
    for path in ["unknown", "tags/_etcd-typed", "parts/x/unknown", "part/unknown", "tags/x/deeper"] {
        bench.put(&format!("/soft/not-{}/{path}", path.replace('/', ".")), "1").await;
    }
    let all = map.get().await.unwrap();
    assert_eq!(all.len(), 6, "{all:?}");
    assert_eq!(map.keys().await.unwrap(), all.keys().cloned().collect::<Vec<_>>());
    map.set(&all).non_atomic().await.unwrap();
    assert_eq!(*map.get().await.unwrap(), *all, "a map that was read can be written");
    assert!(map.check().await.unwrap().problems.iter().all(|problem| problem.reason == "not a key of the schema"));
}
