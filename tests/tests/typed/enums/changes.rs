//! Typed changes of an enum say what became what.

use etcd_typed::{Client, EtcdSchema};

use super::{App, AppChange, Quota, Storage, StorageChange, StorageLocalChange, StorageS3Change, app, ftp, local, s3};

/// The change as one line, with the values of its innermost change.
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
async fn switch_is_reported_with_both_variants_on_memory() {
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
            // A field with a default always has a value.
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
    // The key of another variant is not read.
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

/// A field that both variants have is read by both, so it ends and begins with a switch.
#[tokio::test]
async fn shared_key_changes_with_the_variant_on_memory() {
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
    // The fields of the last known variant end, and the tag is an error.
    client.entry("/storage/kind").unwrap().set("azure").await.unwrap();
    let lines: Vec<_> = changes.next().await.unwrap().unwrap().changes.iter().map(line).collect();
    assert_eq!(lines, [r#"s3 path: Some("same") -> None"#, "s3 key", "s3 quota Bytes"]);
    let error = changes.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), etcd_typed::ErrorKind::Decode);
}

#[tokio::test]
async fn changes_of_nested_enums_lead_from_state_to_state_on_memory() {
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

/// Traits for the change of an enum are derived for the changes of its variants too.
#[test]
fn change_enums_derive_traits() {
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
    let change = etcd_typed::Change::new(key, None, Some("a".to_owned()), etcd_typed::Revision::new(1));
    assert!(is_tag(&EnumChange::Variant_(change)));
}
