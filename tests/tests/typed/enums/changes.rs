//! Typed changes of an enum: each change has the old and the new value of the tag or of a field.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::{Change, Client, EtcdSchema};
use proptest::prelude::*;
use tokio::time::timeout;

use super::{App, AppChange, Quota, Storage, StorageChange, StorageLocalChange, StorageS3Change, app, ftp, local, s3};

/// Formats a change as one line, with the values of its innermost change.
fn line(change: &StorageChange) -> String {
    use StorageChange as Of;
    macro_rules! shown {
        ($name:expr, $change:expr) => {
            format!("{}: {:?} -> {:?}", $name, $change.old, $change.new)
        };
    }
    match change {
        Of::Variant(change) => shown!("variant", change),
        Of::Local(StorageLocalChange::Path(change)) => shown!("local path", change),
        Of::Local(StorageLocalChange::Sync(change)) => shown!("local sync", change),
        Of::Local(StorageLocalChange::Quota(change)) => format!("local quota {change:?}"),
        Of::S3(StorageS3Change::Path(change)) => shown!("s3 path", change),
        Of::S3(StorageS3Change::Key(_)) => "s3 key".to_owned(),
        Of::S3(StorageS3Change::Region(change)) => shown!("s3 region", change),
        Of::S3(StorageS3Change::Labels(entry)) => shown!(format_args!("s3 label {}", entry.key), entry.change),
        Of::S3(StorageS3Change::Quota(change)) => {
            let text = format!("{change:?}");
            format!("s3 quota {}", text.split('(').next().unwrap_or_default())
        }
        Of::Ftp(_) => "ftp".to_owned(),
    }
}

#[tokio::test]
async fn variant_change_reports_both_variants_with_memory_store() {
    let client = Client::connect("memory:").await.unwrap();
    let storage = client.dir::<Storage>("/storage").unwrap();
    let mut changes = storage.watch().await.unwrap();
    let mut next = async || -> Vec<String> { changes.next().await.unwrap().unwrap().changes.iter().map(line).collect() };
    storage.set(&local("/x")).await.unwrap();
    assert_eq!(
        next().await,
        [
            r#"variant: None -> Some("local")"#,
            r#"local path: None -> Some("/x")"#,
            // A field with a default always has an old and a new value.
            "local sync: Some(true) -> Some(false)",
        ]
    );
    storage.set(&s3("p")).await.unwrap();
    assert_eq!(
        next().await,
        [
            r#"variant: Some("local") -> Some("s3")"#,
            r#"local path: Some("/x") -> None"#,
            "local sync: Some(false) -> Some(true)",
            r#"s3 path: None -> Some("p")"#,
            "s3 key",
            r#"s3 region: None -> Some("eu")"#,
            "s3 label a: None -> Some(1)",
            "s3 quota Bytes",
        ]
    );
    storage.s3.path.set("q").await.unwrap();
    assert_eq!(next().await, [r#"s3 path: Some("p") -> Some("q")"#]);
    // A key of another variant is not read, so its change is not reported.
    client.entry("/storage/sync").unwrap().set("true").await.unwrap();
    storage.s3.region.delete().await.unwrap();
    assert_eq!(next().await, [r#"s3 region: Some("eu") -> None"#]);
    storage.set(&ftp()).await.unwrap();
    let switched = next().await;
    assert_eq!(switched.first().map(String::as_str), Some(r#"variant: Some("s3") -> Some("ftp")"#));
    assert_eq!(switched.iter().filter(|line| *line == "ftp").count(), 3, "{switched:?}");
    storage.delete().await.unwrap();
    assert_eq!(next().await[0], r#"variant: Some("ftp") -> None"#);
}

/// Both variants read the same key. A change of the variant reports that the old variant's field
/// lost its value and that the new variant's field got one.
#[tokio::test]
async fn variant_change_reports_shared_key_twice_with_memory_store() {
    let client = Client::connect("memory:").await.unwrap();
    let storage = client.dir::<Storage>("/storage").unwrap();
    storage.set(&local("same")).await.unwrap();
    for (name, value) in [("key", "k"), ("quota/bytes", "1")] {
        client.entry(&format!("/storage/{name}")).unwrap().set(value).await.unwrap();
    }
    let mut changes = storage.watch().await.unwrap();
    client.entry("/storage/kind").unwrap().set("s3").await.unwrap();
    let lines: Vec<_> = changes.next().await.unwrap().unwrap().changes.iter().map(line).collect();
    assert!(lines.contains(&r#"local path: Some("same") -> None"#.to_owned()), "{lines:?}");
    assert!(lines.contains(&r#"s3 path: None -> Some("same")"#.to_owned()), "{lines:?}");
    assert!(lines.contains(&"s3 quota Bytes".to_owned()), "{lines:?}");
    // After an unknown tag, the fields of the last known variant lose their values, and the next
    // item is an error.
    client.entry("/storage/kind").unwrap().set("azure").await.unwrap();
    let lines: Vec<_> = changes.next().await.unwrap().unwrap().changes.iter().map(line).collect();
    assert_eq!(lines, [r#"s3 path: Some("same") -> None"#, "s3 key", "s3 quota Bytes"]);
    let error = changes.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), etcd_typed::ErrorKind::Decode);
}

#[tokio::test]
async fn changes_of_nested_enums_have_old_and_new_variant_with_memory_store() {
    let client = Client::connect("memory:").await.unwrap();
    let dir = client.dir::<App>("/app").unwrap();
    dir.set(&app()).await.unwrap();
    let mut changes = dir.watch().await.unwrap();
    dir.update(|app| {
        app.main = s3("m");
        app.backup = None;
        app.pools.insert("a".to_owned(), local("/a"));
        app.cache = super::Cache::Disk { folder: "f".to_owned(), disk: Quota { bytes: 1, files: None } };
    })
    .await
    .unwrap();
    let update = changes.next().await.unwrap().unwrap();
    let mut variants = Vec::new();
    for change in &update.changes {
        let (place, change) = match change {
            AppChange::Main(StorageChange::Variant(change)) => ("main".to_owned(), change),
            AppChange::Backup(StorageChange::Variant(change)) => ("backup".to_owned(), change),
            AppChange::Pools(entry) => match &entry.change {
                StorageChange::Variant(change) => (entry.key.clone(), change),
                _ => continue,
            },
            AppChange::Cache(super::CacheChange::Variant(change)) => ("cache".to_owned(), change),
            _ => continue,
        };
        variants.push(format!("{place}: {} -> {}", change.old.as_deref().unwrap_or("-"), change.new.as_deref().unwrap_or("-")));
    }
    assert_eq!(variants, ["main: local -> s3", "backup: s3 -> -", "a: ftp -> local", "cache: memory -> disk"]);
    assert!(!format!("{update:?}").contains("hunter2"), "{update:?}");
}

/// `#[etcd(change(…))]` on an enum derives the traits for its change type, and for the change types
/// of its variants.
#[test]
fn change_types_of_variants_derive_traits() {
    #[derive(EtcdSchema)]
    #[etcd(change(Clone, PartialEq))]
    #[allow(dead_code, reason = "only the change enums matter")]
    enum Enum {
        A { a: u8 },
        Variant { b: u8 },
    }

    fn has<T: Clone + PartialEq>() {}
    has::<EnumChange>();
    has::<EnumAChange>();
    let is_tag = |change: &EnumChange| matches!(change, EnumChange::Variant_(_));
    let key = etcd_typed::Key::parse("/a").unwrap();
    let change = Change::new(key, None, Some("a".to_owned()), etcd_typed::Revision::new(1));
    assert!(is_tag(&EnumChange::Variant_(change)));
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
enum Small {
    A { x: Option<u8>, both: u8 },
    B { both: u8, y: Option<u8> },
}

/// The state of a [`Small`] according to its changes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    variant: Option<String>,
    a: (Option<u8>, Option<u8>),
    b: (Option<u8>, Option<u8>),
}

impl Told {
    /// Applies a change. Its old value must equal the current state.
    fn apply(&mut self, change: SmallChange) {
        fn replace<T: PartialEq + std::fmt::Debug>(told: &mut Option<T>, change: Change<T>) {
            assert_eq!(*told, change.old, "{change:?}");
            *told = change.new;
        }
        match change {
            SmallChange::Variant(change) => replace(&mut self.variant, change),
            SmallChange::A(SmallAChange::X(change)) => replace(&mut self.a.0, change),
            SmallChange::A(SmallAChange::Both(change)) => replace(&mut self.a.1, change),
            SmallChange::B(SmallBChange::Both(change)) => replace(&mut self.b.0, change),
            SmallChange::B(SmallBChange::Y(change)) => replace(&mut self.b.1, change),
        }
    }

    /// Returns the state that is stored in the keys of a directory.
    fn of(keys: &BTreeMap<String, String>) -> Self {
        let number = |name: &str| keys.get(name).map(|text| text.parse().unwrap());
        let variant = keys.get("kind").cloned();
        let is = |name: &str| variant.as_deref() == Some(name);
        let a = if is("a") { (number("x"), number("both")) } else { (None, None) };
        let b = if is("b") { (number("both"), number("y")) } else { (None, None) };
        Self { variant, a, b }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(Small),
    Put(&'static str, u8),
    Delete(&'static str),
    Tag(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    let key = prop::sample::select(vec!["x", "both", "y", "kind"]);
    let number = || prop::sample::select(vec![None, Some(1_u8), Some(2)]);
    prop_oneof![
        (number(), 0..3_u8).prop_map(|(x, both)| Step::Set(Small::A { x, both })),
        (0..3_u8, number()).prop_map(|(both, y)| Step::Set(Small::B { both, y })),
        (prop::sample::select(vec!["x", "both", "y"]), 0..3_u8).prop_map(|(key, value)| Step::Put(key, value)),
        key.prop_map(Step::Delete),
        prop::sample::select(vec!["a", "b"]).prop_map(Step::Tag),
    ]
}

/// After each random write, applies the reported changes of the enum's own watch and of the watch
/// of its map, and compares the result with the stored keys.
#[test]
fn applied_changes_equal_stored_state_with_memory_store() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = proptest::test_runner::Config { cases: 300, failure_persistence: None, ..Default::default() };
    proptest::test_runner::TestRunner::new(config)
        .run(&prop::collection::vec(step(), 1..12), |steps| {
            runtime.block_on(async {
                let client = Client::connect("memory:").await.unwrap();
                let map = client.dirs::<String, Small>("/map").unwrap();
                let dir = map.dir("e").unwrap();
                let (mut of_dir, mut of_map) = (dir.watch().await.unwrap(), map.watch().await.unwrap());
                let (mut told, mut told_of_map) = (Told::default(), Told::default());
                let raw = |name: &str| client.entry::<String>(&format!("/map/e/{name}")).unwrap();
                for step in steps {
                    match &step {
                        Step::Set(value) => drop(dir.set(value).await.unwrap()),
                        Step::Put(name, value) => drop(raw(name).set(&value.to_string()).await.unwrap()),
                        Step::Delete(name) => drop(raw(name).delete().await.unwrap()),
                        Step::Tag(tag) => drop(raw("kind").set(*tag).await.unwrap()),
                    }
                    // The map's watch reports this write last, which marks the end of the step.
                    client.entry("/map/end/kind").unwrap().set("b").await.unwrap();
                    let nodes = client.directory("/map/e").unwrap().list_recursive().await.unwrap().into_inner();
                    let text = |node: etcd_typed::Node| Some((node.path, String::from_utf8(node.value?.to_vec()).unwrap()));
                    let expected = Told::of(&nodes.into_iter().filter_map(text).collect());
                    'map: loop {
                        for entry in of_map.next().await.unwrap().unwrap().changes {
                            match entry.key.as_str() {
                                "e" => told_of_map.apply(entry.change),
                                _ => break 'map,
                            }
                        }
                    }
                    assert_eq!(told_of_map, expected, "{step:?}");
                    while told != expected {
                        let next = timeout(Duration::from_secs(9), of_dir.next()).await;
                        let update = next.unwrap_or_else(|_| panic!("{told:?}, not {expected:?} after {step:?}"));
                        update.unwrap().unwrap().changes.into_iter().for_each(|change| told.apply(change));
                    }
                }
            });
            Ok(())
        })
        .unwrap();
}
