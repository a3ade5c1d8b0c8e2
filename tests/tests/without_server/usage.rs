//! Properties of the API that programs rely on: short calls, views without a store, generic
//! functions over any schema, and handles that keep the visibility and attributes of the struct's
//! fields.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod derived;

use std::time::Duration;

use etcd_typed::store::connect::Endpoint;
use etcd_typed::{Client, Dir, ErrorKind, EtcdSchema, Expect, Live, LiveStatus, Result, Revision, Schema};

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Config {
    limit: u32,
    name: String,
}

async fn memory() -> Client {
    Client::connect("memory:").await.unwrap()
}

#[tokio::test]
async fn text_entry_accepts_str() {
    let client = memory().await;
    let name = client.entry::<String>("/name").unwrap();
    name.create("a").await.unwrap();
    name.replace("b").await.unwrap();
    assert_eq!(name.swap("c").await.unwrap().as_deref().map(String::as_str), Some("b"));
    let seen = name.get().await.unwrap();
    name.compare_and_swap(&seen, "d").ttl(Duration::from_secs(60)).await.unwrap();
    name.set(&"e".to_owned()).await.unwrap();
    assert_eq!(name.get().await.unwrap().unwrap().as_str(), "e");
    let published = client.entry::<String>("/service").unwrap().publish("10.0.0.7:80").await.unwrap();
    published.withdraw().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn transaction_takes_any_write_of_an_entry() {
    let client = memory().await;
    let [owner, state, limit] = ["/owner", "/state", "/limit"].map(|path| client.entry::<String>(path).unwrap());
    let lease = client.lease(Duration::from_secs(30)).await.unwrap();
    let lock = client.lock("/lock").acquire().await.unwrap();
    let claim = || {
        let writes = client.transaction().write(owner.create("me").lease(&lease)).write(state.set("running").ttl(Duration::from_secs(60)));
        writes.write(limit.set("5").guarded_by(&lock))
    };
    claim().await.unwrap();
    assert_eq!(owner.get().await.unwrap().unwrap().lease(), Some(lease.id()));
    assert!(state.get().await.unwrap().unwrap().lease().is_some());

    let exists = claim().await.unwrap_err();
    assert_eq!((exists.kind(), exists.key().unwrap().as_str()), (ErrorKind::AlreadyExists, "/owner"));
    assert_eq!(exists.current::<String>().unwrap().as_str(), "me");

    let absent = client.entry::<String>("/absent").unwrap();
    let not_found = client.transaction().write(state.set("x")).write(absent.replace("y")).await.unwrap_err();
    assert_eq!((not_found.kind(), not_found.key().unwrap().as_str()), (ErrorKind::NotFound, "/absent"));

    let conflict = client.transaction().write(state.compare_and_swap(Expect::Revision(Revision::new(1)), "x")).await.unwrap_err();
    assert_eq!((conflict.kind(), conflict.current::<String>().unwrap().as_str()), (ErrorKind::Conflict, "running"));
    let value = "running".to_owned();
    client.transaction().write(state.compare_and_swap(Expect::value(&value), "done")).await.unwrap();

    lock.release().await.unwrap();
    let again = client.lock("/lock").acquire().await.unwrap();
    client.directory("/lock").unwrap().delete_recursive().await.unwrap();
    let lost = client.transaction().write(limit.set("6").guarded_by(&again)).await.unwrap_err();
    assert_eq!((lost.kind(), limit.get().await.unwrap().unwrap().as_str()), (ErrorKind::GuardLost, "5"));
}

/// The test runs without a runtime.
#[test]
fn fixed_view_needs_no_store() {
    let view = Live::fixed(Config { limit: 5, name: "x".to_owned() });
    assert_eq!((view.get().limit, view.reader().get().limit, view.clone().get().name.as_str()), (5, 5, "x"));
    assert!(matches!(view.status(), LiveStatus::Live) && view.rewound().is_none());
    assert_eq!((view.staleness(), view.revision(), view.history().len()), (Duration::ZERO, Revision::ZERO, 1));
    assert!(format!("{view:?}").contains("Live"));
}

#[tokio::test(start_paused = true)]
async fn fixed_view_never_changes() {
    let mut view = Live::fixed(7);
    assert_eq!(**view.wait_for_revision(Revision::new(1_000_000)).await.unwrap(), 7);
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, view.changed()).await.is_err());
    let mut stream = view.stream();
    assert_eq!(stream.next().await.map(|state| **state), Some(7));
    assert!(tokio::time::timeout(hour, stream.next()).await.is_err());
    let calls = view.on_change(|_| panic!("a fixed view changes"));
    tokio::time::sleep(hour).await;
    assert!(matches!(view.status(), LiveStatus::Live));
    assert_eq!(view.staleness(), Duration::ZERO);
    drop(calls);
}

/// Calls every method of a directory. The only bound on the type is `Schema`.
async fn copied<S: Schema>(from: &Client, to: &Client, path: &str) -> Result<u64> {
    let source: Dir<S> = from.whole_dir(path)?;
    let target: Dir<S> = to.whole_dir(path)?;
    let value = source.get().await?;
    let live = source.live().await?;
    let mut changes = source.watch().await?;
    target.set(&value).await?;
    let seen = target.get().await?;
    target.compare_and_swap(&seen, &live.get()).await?;
    target.update(|_| {}).await?;
    assert!(target.diff(&value).await?.is_empty() && target.check().await?.is_empty());
    target.delete().await?;
    target.create(&value).await?;
    to.transaction().expect_unchanged(&target, &target.get().await?).set_dir(&target, &value).await?;
    source.delete().await?;
    source.set(&value).await?;
    let update = changes.next().await.unwrap()?;
    let shown = format!("{:?} {target:?} {live:?}", update.changes);
    Ok(u64::try_from(shown.len()).unwrap())
}

/// Runs [`copied`] in a spawned task, as a generic service might. So its future must be `Send`.
async fn in_a_task<S: Schema>(client: Client, path: &'static str) -> Result<()> {
    let other = memory().await;
    tokio::spawn(async move { copied::<S>(&client, &other, path).await.map(drop) }).await.unwrap()
}

#[tokio::test]
async fn generic_function_needs_only_the_schema() {
    let client = memory().await;
    client.dir::<Config>("/a").unwrap().set(&Config { limit: 5, name: "x".to_owned() }).await.unwrap();
    in_a_task::<Config>(client, "/a").await.unwrap();
}

#[test]
fn public_types_parse_their_printed_text() {
    assert_eq!("17".parse(), Ok(Revision::new(17)));
    assert_eq!("10.0.0.7:2379".parse::<Endpoint>().unwrap().to_string(), "10.0.0.7:2379");
    assert_eq!(ErrorKind::LeaseLost.to_string(), "lease lost");
}

#[tokio::test]
async fn read_values_and_views_are_serialized() {
    let client = memory().await;
    let limit = client.entry::<u32>("/limit").unwrap();
    limit.set(&5).await.unwrap();
    let seen = limit.get().await.unwrap().unwrap();
    let revision = seen.revision();
    let expected = format!(r#"{{"value":5,"revision":{revision},"created":{revision},"modified":{revision},"version":1}}"#);
    assert_eq!(serde_json::to_string(&seen).unwrap(), expected);
    let live = limit.live().await.unwrap();
    assert_eq!(serde_json::to_string(&live.get()).unwrap(), expected);
}
