//! Secrets, limits and validated newtypes in a derived struct.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::{ErrorKind, EtcdSchema, EtcdValue, Schema, Secret};

use super::{keys, memory, put, reasons, stored};

#[derive(EtcdValue, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Level {
    Debug,
    VeryLoud,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Login {
    user: String,
    password: Secret<String>,
    #[etcd(default = "hunter0")]
    token: Secret<String>,
    pin: Option<Secret<u16>>,
    keys: Vec<Secret<String>>,
    wrapped: Wrap,
    #[etcd(entries)]
    by_name: BTreeMap<String, Secret<String>>,
    #[etcd(with = reversed)]
    odd: Secret<String>,
}

#[derive(EtcdValue, Clone, Debug, PartialEq)]
struct Wrap(Secret<String>);

mod reversed {
    use etcd_typed::Secret;

    pub fn encode(value: &Secret<String>) -> Result<String, String> {
        Ok(value.expose().chars().rev().collect())
    }

    pub fn decode(bytes: &[u8]) -> Result<Secret<String>, String> {
        let text = String::from_utf8_lossy(bytes).chars().rev().collect::<String>();
        if text.is_empty() { Err("hunter2".to_owned()) } else { Ok(Secret::new(text)) }
    }
}

#[tokio::test]
async fn secret_type_needs_no_attribute() {
    let client = memory().await;
    let dir = client.dir::<Login>("/login").unwrap();
    let value = Login {
        user: "me".to_owned(),
        password: "hunter2".into(),
        token: "hunter2".into(),
        pin: Some(1234.into()),
        keys: vec!["hunter2".into()],
        wrapped: Wrap("hunter2".into()),
        by_name: BTreeMap::from([("a".to_owned(), "hunter2".into())]),
        odd: "hunter2".into(),
    };
    let mut changes = dir.watch().await.unwrap();
    dir.set(&value).await.unwrap();
    let read = dir.get().await.unwrap();
    assert_eq!(*read, value);
    assert_eq!(stored(&client).await["login/password"], "hunter2");
    let table = Login::describe();
    let secrets: Vec<_> = table.fields.iter().filter(|field| field.secret).map(|field| field.name).collect();
    assert_eq!(secrets, ["password", "token", "pin", "keys", "wrapped", "by_name", "odd"]);
    let mut said = vec![format!("{value:?}{read:?}{table}{table:?}{}", serde_json::to_string(table).unwrap())];
    said.push(format!("{:?}", changes.next().await.unwrap().unwrap()));
    said.push(dir.diff(&Login { password: "hunter3".into(), odd: "hunter3".into(), ..value.clone() }).await.unwrap().to_string());
    put(&client, "/login/pin", "hunter2").await;
    put(&client, "/login/odd", "").await;
    said.push(format!("{:?}", dir.get().await.unwrap_err()));
    assert!(said.iter().all(|text| !text.contains("hunter") && !text.contains("1234")), "{said:#?}");
    assert!(said[0].contains("password: ***"), "{}", said[0]);
}

#[tokio::test]
async fn masked_secret_is_not_stored_as_json() {
    #[derive(serde::Serialize, serde::Deserialize, Debug)]
    struct Document {
        #[serde(serialize_with = "etcd_typed::serialize_masked")]
        password: Secret<String>,
    }
    #[derive(EtcdSchema)]
    struct Holder {
        #[etcd(json)]
        document: Document,
    }
    let document: Document = serde_json::from_str(r#"{"password":"hunter2"}"#).unwrap();
    assert_eq!(document.password.expose(), "hunter2");
    assert_eq!(serde_json::to_string(&document).unwrap(), r#"{"password":"***"}"#);
    let client = memory().await;
    let refused = client.dir::<Holder>("/h").unwrap().set(&Holder { document }).await.unwrap_err();
    assert!(reasons(&refused)[0].contains("instead of the value"), "{refused}");
    assert!(stored(&client).await.is_empty());
    let wrong = serde_json::from_str::<Secret<u8>>("\"hunter2\"").unwrap_err().to_string();
    assert!(!wrong.contains("hunter2"), "{wrong}");
}

mod hidden {
    use etcd_typed::Secret;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn stars<T, S: Serializer>(_: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str("*****")
    }

    pub(super) fn serialize<S: Serializer>(value: &Secret<String>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.expose().chars().rev().collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret<String>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() { Err(serde::de::Error::custom("hunter2")) } else { Ok(text.chars().rev().collect::<String>().into()) }
    }
}

/// A struct that a program shows to people through serde.
#[derive(EtcdSchema, serde::Serialize, serde::Deserialize, Clone, Debug, PartialEq)]
struct Shown {
    #[serde(serialize_with = "etcd_typed::serialize_masked")]
    password: Secret<String>,
    #[serde(serialize_with = "etcd_typed::serialize_masked")]
    pin: Option<Secret<u16>>,
    #[serde(serialize_with = "etcd_typed::serialize_masked")]
    #[etcd(secret, allow_debug)]
    token: String,
    #[serde(serialize_with = "hidden::stars")]
    keys: Vec<Secret<String>>,
    #[serde(skip_serializing, default)]
    salt: Secret<String>,
    #[serde(serialize_with = "etcd_typed::serialize_masked")]
    #[etcd(entries)]
    by_name: BTreeMap<String, Secret<String>>,
    #[serde(with = "hidden")]
    odd: Secret<String>,
    #[serde(serialize_with = "etcd_typed::serialize_masked", default = "hunter")]
    standard: Option<Secret<String>>,
    shown: Masked,
}

#[derive(EtcdValue, serde::Serialize, serde::Deserialize, Clone, Debug, PartialEq)]
struct Masked(#[serde(serialize_with = "etcd_typed::serialize_masked")] Secret<String>);

fn hunter() -> Option<Secret<String>> {
    Some("hunter0".into())
}

#[tokio::test]
async fn secret_is_stored_although_serde_masks_it() {
    let client = memory().await;
    let dir = client.dir::<Shown>("/").unwrap();
    let value = Shown {
        password: "hunter2".into(),
        pin: Some(1234.into()),
        token: "hunter2".to_owned(),
        keys: vec!["hunter2".into()],
        salt: "hunter2".into(),
        by_name: BTreeMap::from([("a".to_owned(), "hunter2".into())]),
        odd: "hunter2".into(),
        standard: Some("hunter2".into()),
        shown: Masked("hunter2".into()),
    };
    dir.set(&value).await.unwrap();
    assert_eq!(
        stored(&client).await,
        keys(&[
            ("password", "hunter2"),
            ("pin", "1234"),
            ("token", "hunter2"),
            ("keys", r#"["hunter2"]"#),
            ("salt", "hunter2"),
            ("by_name/a", "hunter2"),
            ("odd", "2retnuh"),
            ("standard", "hunter2"),
            ("shown", "hunter2"),
        ])
    );
    assert_eq!(*dir.get().await.unwrap(), value);
    let table = Shown::describe();
    assert!(table.fields.iter().all(|field| field.secret), "{table}");
    put(&client, "/odd", "").await;
    let said = format!("{table}{table:?}{:?}", dir.get().await.unwrap_err());
    assert!(!said.contains("hunter"), "{said}");
    assert_eq!(
        serde_json::to_value(&value).unwrap(),
        serde_json::json!({
            "password": "***", "pin": "***", "token": "***", "keys": "*****", "by_name": "***", "odd": "2retnuh", "standard": "***", "shown": "***"
        })
    );
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Limited {
    #[etcd(range = 1..=65535, default = 8080)]
    port: u16,
    #[etcd(length = 1..=8)]
    name: String,
    #[etcd(one_of = ["EUR", "USD"])]
    currency: Option<String>,
    #[etcd(range = 0.0..1.0)]
    share: f64,
    #[etcd(range = Duration::from_secs(1)..)]
    timeout: Duration,
    #[etcd(length = ..=2)]
    hosts: Vec<String>,
    #[etcd(one_of = [Level::Debug], validate = always)]
    level: Level,
    #[etcd(entries, range = ..100)]
    quotas: BTreeMap<String, u32>,
    #[etcd(length = 4.., one_of = ["hunter2", "hunter3"])]
    password: Option<Secret<String>>,
}

fn always(_: &Level) -> Result<(), String> {
    Ok(())
}

fn limited() -> Limited {
    Limited {
        port: 1,
        name: "ünïcödé8".to_owned(),
        currency: Some("EUR".to_owned()),
        share: 0.0,
        timeout: Duration::from_secs(1),
        hosts: vec![],
        level: Level::Debug,
        quotas: BTreeMap::from([("a".to_owned(), 99)]),
        password: Some("hunter2".into()),
    }
}

#[tokio::test]
async fn write_checks_limits() {
    let client = memory().await;
    let dir = client.dir::<Limited>("/l").unwrap();
    dir.set(&limited()).await.unwrap();
    let before = stored(&client).await;
    let wrong = Limited {
        port: 0,
        name: String::new(),
        currency: Some("GBP".to_owned()),
        share: 1.0,
        timeout: Duration::ZERO,
        hosts: vec![String::new(); 3],
        level: Level::VeryLoud,
        quotas: BTreeMap::from([("a".to_owned(), 100)]),
        password: Some("hunter9".into()),
    };
    let refused = dir.set(&wrong).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let expected = [
        "\"0\" is not in 1 … 65535",
        "its length of 0 characters is not in 1 … 8",
        "not one of `EUR`, `USD`",
        "\"1\" is not in 0 … below 1",
        "\"0s\" is not in 1s …",
        "its length of 3 elements is not in … 2",
        "\"very_loud\" is not one of `debug`",
        "\"100\" is not in … below 100",
        "*** (a secret: the reason is not shown)",
    ];
    assert_eq!(reasons(&refused), expected);
    let refused = dir.port.set(&0).await.unwrap_err();
    assert_eq!((refused.kind(), reasons(&refused)), (ErrorKind::Invalid, vec!["\"0\" is not in 1 … 65535".to_owned()]));
    assert!(dir.share.set(&f64::NAN).await.is_err());
    assert_eq!(stored(&client).await, before);
}

#[tokio::test]
async fn read_checks_limits() {
    let client = memory().await;
    let dir = client.dir::<Limited>("/l").unwrap();
    dir.set(&limited()).await.unwrap();
    put(&client, "/l/port", "0\n").await;
    put(&client, "/l/quotas/a", "100").await;
    put(&client, "/l/password", "hunter9").await;
    let refused = dir.get().await.unwrap_err();
    assert_eq!(
        reasons(&refused),
        ["\"0\" is not in 1 … 65535", "\"100\" is not in … below 100", "*** (a secret: the reason is not shown)"]
    );
    assert!(dir.port.get().await.is_err());
    assert!(!format!("{refused:?}").contains("hunter"));
    let check = dir.check().await.unwrap();
    assert_eq!(check.problems.len(), 3, "{check}");
    // One field can be corrected although the struct cannot be read.
    dir.port.set(&2).await.unwrap();
    assert_eq!(dir.port.get().await.unwrap().map(|port| *port), Some(2));
}

#[test]
fn limits_are_described_for_people_and_tools() {
    let table = Limited::describe();
    let text = table.to_string();
    for line in [
        "port  unsigned integer, default 8080, in 1 … 65535\n",
        "name  text, length 1 … 8\n",
        "currency  text, optional, one of `EUR`, `USD`\n",
        "timeout  duration, as in `1m30s`, in 1s …\n",
        "level  one of `debug`, `very_loud`, validated, one of `debug`\n",
        "quotas/<text>  unsigned integer, optional, in … below 100\n",
        "password  text, optional, secret, length 4 …\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("hunter"));
    let tools = serde_json::to_value(table).unwrap();
    let limits: Vec<_> = tools["fields"].as_array().unwrap().iter().map(|field| field["limits"].to_string()).collect();
    assert_eq!(
        limits,
        [
            r#"{"range":{"max":65535,"min":1}}"#,
            r#"{"length":{"max":8,"min":1}}"#,
            r#"{"one_of":["EUR","USD"]}"#,
            r#"{"range":{"below":1,"min":0}}"#,
            r#"{"range":{"min":"1s"}}"#,
            r#"{"length":{"max":2}}"#,
            r#"{"one_of":["debug"]}"#,
            r#"{"range":{"below":100}}"#,
            r#"{"length":{"min":4}}"#,
        ]
    );
}

/// A port that is not 0.
#[derive(EtcdValue, Clone, Debug, PartialEq)]
#[etcd(try_from)]
struct Port(u16);

impl TryFrom<u16> for Port {
    type Error = &'static str;

    fn try_from(port: u16) -> Result<Self, Self::Error> {
        if port == 0 { Err("a port is not 0") } else { Ok(Self(port)) }
    }
}

/// A name in lower case.
#[derive(EtcdValue, Clone, Debug, PartialEq)]
#[etcd(try_from = String)]
struct Name {
    name: String,
    length: usize,
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if name.is_empty() { Err("a name is not empty".to_owned()) } else { Ok(Self { length: name.len(), name: name.to_lowercase() }) }
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.name
    }
}

#[derive(EtcdValue, Clone, Debug, PartialEq)]
#[etcd(transparent, validate = even)]
struct Even {
    number: u32,
}

fn even(even: &Even) -> Result<(), String> {
    if even.number.is_multiple_of(2) { Ok(()) } else { Err("an odd number".to_owned()) }
}

#[derive(EtcdValue, Clone, Debug, PartialEq)]
#[etcd(text, validate = stable)]
struct Stable(f64);

fn stable(version: &Stable) -> Result<(), &'static str> {
    if version.0 >= 1.0 { Ok(()) } else { Err("0 is not stable") }
}

/// A grade, stored as 1 or 2. serde uses the same conversion.
#[derive(EtcdValue, serde::Serialize, serde::Deserialize, Clone, Debug, PartialEq)]
#[serde(try_from = "u8", into = "u8")]
#[etcd(try_from = u8)]
enum Grade {
    Low,
    High,
}

impl TryFrom<u8> for Grade {
    type Error = &'static str;

    fn try_from(grade: u8) -> Result<Self, Self::Error> {
        match grade {
            1 => Ok(Self::Low),
            2 => Ok(Self::High),
            _ => Err("a grade is 1 or 2"),
        }
    }
}

impl From<Grade> for u8 {
    fn from(grade: Grade) -> Self {
        match grade {
            Grade::Low => 1,
            Grade::High => 2,
        }
    }
}

#[test]
fn etcd_and_serde_may_both_use_try_from() {
    assert_eq!(Grade::High.encode().unwrap(), "2");
    assert_eq!(Grade::decode(b"1"), Ok(Grade::Low));
    assert_eq!(Grade::decode(b"3").unwrap_err().to_string(), "a grade is 1 or 2");
    assert_eq!(serde_json::to_string(&Grade::High).unwrap(), "2");
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Validated {
    port: Port,
    name: Name,
    even: Even,
    stable: Stable,
    ports: Vec<Port>,
}

fn validated() -> Validated {
    Validated {
        port: Port(1),
        name: Name { name: "n".to_owned(), length: 1 },
        even: Even { number: 2 },
        stable: Stable(1.5),
        ports: vec![Port(7)],
    }
}

#[tokio::test]
async fn newtypes_validate_on_write_and_read() {
    let client = memory().await;
    let dir = client.dir::<Validated>("/v").unwrap();
    dir.set(&validated()).await.unwrap();
    assert_eq!(stored(&client).await, keys(&[("v/even", "2"), ("v/name", "n"), ("v/port", "1"), ("v/ports", "[7]"), ("v/stable", "1.5")]));
    assert_eq!(*dir.get().await.unwrap(), validated());
    for (key, text) in [("even", "3"), ("name", ""), ("port", "0"), ("ports", "[7,0]"), ("stable", "0.1")] {
        put(&client, &format!("/v/{key}"), text).await;
    }
    let refused = dir.get().await.unwrap_err();
    assert_eq!(
        reasons(&refused),
        ["a port is not 0", "a name is not empty", "an odd number", "0 is not stable", "element 2: a port is not 0"]
    );
    for error in [
        dir.even.set(&Even { number: 1 }).await.unwrap_err(),
        dir.port.set(&Port(0)).await.unwrap_err(),
        dir.stable.set(&Stable(0.1)).await.unwrap_err(),
        // A value that would be read back as another value.
        dir.name.set(&Name { name: "Ä".to_owned(), length: 2 }).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Encode, "{error}");
    }
}
