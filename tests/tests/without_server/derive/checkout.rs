//! The struct that the documentation shows, with every kind of field.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::{EtcdSchema, EtcdValue, Schema};
use serde::{Deserialize, Serialize};

use super::{keys, memory, problems, put, stored};

/// Limits and endpoints of the checkout service.
///
/// Owned by the payments team.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/checkout")]
struct Checkout {
    /// Requests per second allowed for one customer.
    #[etcd(default = 100)]
    rate_limit: u32,
    timeout: Duration,
    banner: Option<String>,
    level: LogLevel,
    #[etcd(json)]
    features: Features,
    #[etcd(dir)]
    database: Database,
    #[etcd(dir)]
    regions: BTreeMap<String, Region>,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

#[derive(EtcdValue, Clone, Copy, Debug, PartialEq)]
enum LogLevel {
    Debug,
    Info,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Features {
    new_basket: bool,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Database {
    /// Without password.
    url: String,
    #[etcd(default = 8)]
    pool: u32,
    #[etcd(secret, allow_debug)]
    password: Option<String>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Region {
    replicas: u8,
}

fn checkout() -> Checkout {
    Checkout {
        rate_limit: 250,
        timeout: Duration::from_secs(30),
        banner: Some("Sale".to_owned()),
        level: LogLevel::Debug,
        features: Features { new_basket: true },
        database: Database { url: "db.internal".to_owned(), pool: 16, password: None },
        regions: [("eu".to_owned(), Region { replicas: 3 }), ("..".to_owned(), Region { replicas: 1 })].into(),
        quotas: [("acme".to_owned(), 5), ("a/b".to_owned(), 7)].into(),
    }
}

#[tokio::test]
async fn struct_is_stored_as_readable_text() {
    let client = memory().await;
    let cfg = CheckoutDir::open(&client, "prod").unwrap();
    cfg.set(&checkout()).await.unwrap();
    let expected = keys(&[
        ("prod/checkout/banner", "Sale"),
        ("prod/checkout/database/pool", "16"),
        ("prod/checkout/database/url", "db.internal"),
        ("prod/checkout/features", r#"{"new_basket":true}"#),
        ("prod/checkout/level", "debug"),
        ("prod/checkout/quotas/a%2Fb", "7"),
        ("prod/checkout/quotas/acme", "5"),
        ("prod/checkout/rate_limit", "250"),
        ("prod/checkout/regions/%2E%2E/replicas", "1"),
        ("prod/checkout/regions/eu/replicas", "3"),
        ("prod/checkout/timeout", "30s"),
    ]);
    assert_eq!(stored(&client).await, expected);
    assert_eq!(*cfg.get().await.unwrap(), checkout());
}

#[tokio::test]
async fn hand_written_text_is_read() {
    let client = memory().await;
    for (key, value) in [
        ("/prod/checkout/timeout", "1m 30s\n"),
        ("/prod/checkout/level", "info\n"),
        ("/prod/checkout/features", "{ \"new_basket\": false }"),
        ("/prod/checkout/database/url", "db"),
        ("/prod/checkout/quotas/acme", " 12 "),
    ] {
        put(&client, key, value).await;
    }
    let cfg = client.dir::<Checkout>("/prod/checkout").unwrap();
    let expected = Checkout {
        rate_limit: 100,
        timeout: Duration::from_secs(90),
        banner: None,
        level: LogLevel::Info,
        features: Features { new_basket: false },
        database: Database { url: "db".to_owned(), pool: 8, password: None },
        regions: BTreeMap::new(),
        quotas: [("acme".to_owned(), 12)].into(),
    };
    assert_eq!(*cfg.get().await.unwrap(), expected);
}

#[tokio::test]
async fn one_error_lists_every_problem() {
    let client = memory().await;
    for (key, value) in [
        ("/prod/checkout/rate_limit", "many"),
        ("/prod/checkout/level", "loud"),
        ("/prod/checkout/regions/eu/replicas", "300"),
        ("/prod/checkout/quotas/acme", "-1"),
        ("/prod/checkout/database/password", "hunter2"),
    ] {
        put(&client, key, value).await;
    }
    let error = CheckoutDir::open(&client, "prod").unwrap().get().await.unwrap_err();
    let expected = [
        "/prod/checkout/rate_limit: not an integer in 0 … 4294967295: invalid digit found in string",
        "/prod/checkout/timeout: missing (duration, as in `1m30s`)",
        "/prod/checkout/level: \"loud\" is not one of `debug`, `info`",
        "/prod/checkout/features: missing (JSON)",
        "/prod/checkout/database/url: missing (text)",
        "/prod/checkout/regions/eu/replicas: \"300\" is not in 0 … 255",
        "/prod/checkout/quotas/acme: \"-1\" is not in 0 … 18446744073709551615: invalid digit found in string",
    ];
    assert_eq!(problems(&error), expected);
}

#[tokio::test]
async fn each_field_has_its_own_handle() {
    let client = memory().await;
    let cfg = CheckoutDir::open(&client, "prod").unwrap();
    cfg.rate_limit.set(&7).await.unwrap();
    cfg.banner.set(&"Hello".to_owned()).await.unwrap();
    cfg.features.set(&Features { new_basket: false }).await.unwrap();
    cfg.database.pool.set(&4).await.unwrap();
    cfg.regions.dir("eu").unwrap().replicas.set(&3).await.unwrap();
    cfg.quotas.entry("a b").unwrap().modify(|n| Some(n.unwrap_or(0) + 1)).await.unwrap();
    let expected = keys(&[
        ("prod/checkout/banner", "Hello"),
        ("prod/checkout/database/pool", "4"),
        ("prod/checkout/features", r#"{"new_basket":false}"#),
        ("prod/checkout/quotas/a b", "1"),
        ("prod/checkout/rate_limit", "7"),
        ("prod/checkout/regions/eu/replicas", "3"),
    ]);
    assert_eq!(stored(&client).await, expected);
    assert_eq!(cfg.rate_limit.get().await.unwrap().as_deref(), Some(&7));
    assert_eq!(cfg.clone().database.key().as_str(), "/prod/checkout/database");
    assert_eq!(format!("{cfg:?}"), "Dir { key: Key(/prod/checkout), schema: \"Checkout\", .. }");
}

#[test]
fn describe_prints_table_and_json() {
    let expected = "\
Checkout in /{env}/checkout
    Limits and endpoints of the checkout service.

    Owned by the payments team.
rate_limit  unsigned integer, default 100
    Requests per second allowed for one customer.
timeout  duration, as in `1m30s`
banner  text, optional
level  one of `debug`, `info`
features  JSON
database/  Database
database/url  text
    Without password.
database/pool  unsigned integer, default 8
database/password  text, optional, secret
regions/<text>/  Region, optional
regions/<text>/replicas  unsigned integer
quotas/<text>  unsigned integer, optional
";
    let table = Checkout::describe().to_string();
    let lines: Vec<_> = table.lines().map(str::trim_end).collect();
    assert_eq!(lines, expected.lines().collect::<Vec<_>>());
    let json = serde_json::to_value(Checkout::describe()).unwrap();
    assert_eq!(json["fields"][0]["doc"], "Requests per second allowed for one customer.");
    assert_eq!(json["fields"][0]["presence"], serde_json::json!({ "default": "100" }));
    assert_eq!(json["fields"][5]["kind"]["dir"]["fields"][2]["secret"], true);
}
