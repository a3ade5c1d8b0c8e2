//! serde attributes have the same meaning for this library as for serde.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use etcd_typed::{Client, EtcdSchema, EtcdValue, Presence, Schema, UnknownKeys};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{keys, memory, problems, put, stored};

async fn open<S: EtcdSchema>() -> (Client, S::Handle) {
    let client = memory().await;
    let cfg = client.dir::<S>("/").unwrap();
    (client, cfg)
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", bound(serialize = ""), expecting = "a table")]
struct Names {
    max_size: u32,
    #[serde(rename = "min", alias = "minimum", alias = "least")]
    min_size: u32,
    #[serde(rename(serialize = "both", deserialize = "both"))]
    same: u32,
    #[serde(rename = "json")]
    #[etcd(rename = "own", alias = "least-own")]
    other: u32,
    r#type: u32,
    #[serde(rename(serialize = "w", deserialize = "r"))]
    #[etcd(rename = "one")]
    two: u32,
}

#[tokio::test]
async fn etcd_names_override_serde_names() {
    let (client, cfg) = open::<Names>().await;
    let value = Names { max_size: 1, min_size: 2, same: 3, other: 4, r#type: 5, two: 6 };
    cfg.set(&value).await.unwrap();
    assert_eq!(stored(&client).await, keys(&[("maxSize", "1"), ("min", "2"), ("both", "3"), ("own", "4"), ("type", "5"), ("one", "6")]));
    cfg.min_size.delete().await.unwrap();
    put(&client, "/least", "7").await;
    cfg.other.delete().await.unwrap();
    put(&client, "/least-own", "8").await;
    assert_eq!(*cfg.get().await.unwrap(), Names { min_size: 7, other: 8, ..value });
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Defaults {
    #[serde(default)]
    bare: u32,
    #[serde(default = "five")]
    path: u32,
    #[serde(default = "Defaults::title")]
    of_self: String,
    #[serde(default)]
    #[etcd(default = 9)]
    own: u32,
    #[serde(default)]
    optional: Option<u32>,
    #[serde(default = "some_seven")]
    some: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[etcd(json)]
    list: Vec<u32>,
    #[serde(default)]
    #[etcd(entries)]
    map: BTreeMap<String, u32>,
    #[serde(skip)]
    skipped: u32,
    #[serde(skip, default = "five")]
    skipped_to_five: u32,
    #[serde(skip_serializing, skip_deserializing, default = "five")]
    skipped_twice: u32,
}

impl Defaults {
    fn title() -> String {
        "untitled".to_owned()
    }
}

fn five() -> u32 {
    5
}

#[expect(clippy::unnecessary_wraps, reason = "serde calls it")]
fn some_seven() -> Option<u32> {
    Some(7)
}

fn defaults() -> Defaults {
    Defaults {
        bare: 0,
        path: 5,
        of_self: "untitled".to_owned(),
        own: 9,
        optional: None,
        some: Some(7),
        list: Vec::new(),
        map: BTreeMap::new(),
        skipped: 0,
        skipped_to_five: 5,
        skipped_twice: 5,
    }
}

#[tokio::test]
async fn serde_defaults_replace_missing_keys() {
    let (client, cfg) = open::<Defaults>().await;
    let read = cfg.get().await.unwrap().into_inner();
    assert_eq!(read, defaults());
    assert_eq!(Defaults { own: 0, ..read.clone() }, Defaults { own: 0, ..serde_json::from_value(json!({})).unwrap() });
    assert_eq!(**cfg.some.get_or_default().await.unwrap().as_ref().unwrap(), 7);
    cfg.set(&Defaults { some: Some(1), optional: Some(2), skipped: 3, ..read }).await.unwrap();
    let expected = [("bare", "0"), ("path", "5"), ("of_self", "untitled"), ("own", "9"), ("some", "1"), ("optional", "2"), ("list", "[]")];
    assert_eq!(stored(&client).await, keys(&expected));
    assert_eq!(*cfg.get().await.unwrap(), Defaults { some: Some(1), optional: Some(2), ..defaults() });
}

#[tokio::test]
async fn none_is_refused_where_default_is_some() {
    let (client, cfg) = open::<Defaults>().await;
    let refused = cfg.set(&Defaults { some: None, ..defaults() }).await.unwrap_err();
    assert_eq!(problems(&refused), ["/some: `None` cannot be stored, since a field without a key has its default; give the field a value"]);
    assert_eq!(stored(&client).await, keys(&[]));
    let refused = cfg.update(|value| value.some = None).await.unwrap_err();
    assert_eq!(problems(&refused).len(), 1);
}

#[tokio::test]
async fn change_contains_default_of_option() {
    let (_client, cfg) = open::<Defaults>().await;
    let mut changes = cfg.watch().await.unwrap();
    cfg.some.set(&1).await.unwrap();
    cfg.some.delete().await.unwrap();
    for expected in [(Some(7), Some(1)), (Some(1), Some(7))] {
        let update = changes.next().await.unwrap().unwrap();
        let [DefaultsChange::Some(change)] = update.changes.as_slice() else { panic!("{update:?}") };
        assert_eq!((change.old, change.new), expected);
    }
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default)]
struct Container {
    plain: u32,
    optional: Option<u32>,
    none: Option<u32>,
    #[serde(default)]
    bare: u32,
    #[serde(default = "five")]
    path: u32,
    #[etcd(default = 8)]
    own: u32,
    #[serde(skip)]
    skipped: u32,
    #[etcd(secret, allow_debug)]
    password: String,
    #[etcd(dir)]
    inner: Inner,
    #[serde(flatten)]
    flat: Flat,
}

impl Default for Container {
    fn default() -> Self {
        Self {
            plain: 1,
            optional: Some(2),
            none: None,
            bare: 3,
            path: 3,
            own: 3,
            skipped: 4,
            password: "none".to_owned(),
            inner: Inner::default(),
            flat: Flat::default(),
        }
    }
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default = "Inner::standard", rename_all = "kebab-case")]
struct Inner {
    inner_value: u32,
}

impl Inner {
    fn standard() -> Self {
        Self { inner_value: 6 }
    }
}

impl Default for Inner {
    fn default() -> Self {
        Self::standard()
    }
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[serde(default, rename_all = "UPPERCASE")]
struct Flat {
    flat_value: u32,
}

#[tokio::test]
async fn serde_default_of_struct_applies_to_fields() {
    let (client, cfg) = open::<Container>().await;
    let read = cfg.get().await.unwrap().into_inner();
    assert_eq!(read, Container { bare: 0, path: 5, own: 8, ..Container::default() });
    assert_eq!(Container { own: 8, ..serde_json::from_value(json!({})).unwrap() }, read);
    cfg.set(&read).await.unwrap();
    let names: Vec<_> = stored(&client).await.into_keys().collect();
    assert_eq!(names, ["FLAT_VALUE", "bare", "inner/inner-value", "optional", "own", "password", "path", "plain"]);
    let presences: Vec<_> = Container::describe().fields.iter().map(|field| &field.presence).collect();
    assert_eq!(*presences[0], Presence::Default("Container::default().plain"));
    assert_eq!(*presences[1], Presence::OptionalOr("Container::default().optional"));
    assert_eq!(*presences[3], Presence::Default("u32::default()"));
    assert!(Container::describe().to_string().contains("optional, default Container::default().optional\n"));
    assert!(Container::describe().to_string().contains("password  text, default ***, secret\n"));
}

#[derive(EtcdSchema, Serialize, Deserialize, Debug, PartialEq, Default)]
#[serde(default)]
struct Generic<T: Default> {
    value: T,
    #[serde(skip)]
    skipped: T,
}

#[tokio::test]
async fn serde_default_applies_to_generic_struct() {
    let (_client, cfg) = open::<Generic<u32>>().await;
    assert_eq!(*cfg.get().await.unwrap(), Generic::default());
}

#[derive(EtcdSchema, Serialize, Deserialize, Debug, PartialEq)]
struct CatchAll {
    known: u32,
    #[serde(flatten)]
    #[etcd(json, default)]
    extra: HashMap<String, serde_json::Value>,
    #[serde(flatten)]
    #[etcd(skip)]
    more: HashMap<String, serde_json::Value>,
    #[serde(flatten)]
    #[etcd(entries)]
    labels: BTreeMap<String, String>,
}

#[tokio::test]
async fn etcd_attribute_decides_storage_of_flattened_map() {
    let (client, cfg) = open::<CatchAll>().await;
    let extra = HashMap::from([("a".to_owned(), json!(1))]);
    let labels = BTreeMap::from([("x".to_owned(), "y".to_owned())]);
    cfg.set(&CatchAll { known: 1, extra, more: HashMap::new(), labels }).await.unwrap();
    assert_eq!(stored(&client).await, keys(&[("known", "1"), ("extra", "{\"a\":1}"), ("labels/x", "y")]));
}

/// A module like the crate `humantime_serde`, for a duration and for an `Option` of a duration.
mod human {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{}sec", value.as_secs()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        let number = text.trim().strip_suffix("sec").ok_or_else(|| D::Error::custom("a duration ends with `sec`"))?;
        number.parse().map(Duration::from_secs).map_err(D::Error::custom)
    }

    pub(super) mod option {
        use super::{Deserialize, Deserializer, Duration, Serializer};

        pub(in super::super) fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => super::serialize(value, to),
                None => to.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
            #[derive(Deserialize)]
            struct Wrap(#[serde(deserialize_with = "super::deserialize")] Duration);
            Ok(Option::<Wrap>::deserialize(from)?.map(|wrap| wrap.0))
        }
    }
}

fn as_number<S: serde::Serializer>(value: &bool, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u8((*value).into())
}

fn from_number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    u8::deserialize(from).map(|number| number != 0)
}

fn empty_is_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    String::deserialize(from).map(|text| Some(text).filter(|text| !text.is_empty()))
}

fn rounded<S: serde::Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(value.round())
}

#[derive(EtcdSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Modules {
    #[serde(with = "human")]
    timeout: Duration,
    #[serde(with = "human::option", default)]
    #[etcd(rename = "idle-timeout")]
    idle: Option<Duration>,
    #[serde(serialize_with = "as_number", deserialize_with = "from_number")]
    flag: bool,
    #[serde(deserialize_with = "empty_is_none", default)]
    note: Option<String>,
    #[serde(serialize_with = "rounded", default)]
    ratio: f64,
    #[serde(with = "human")]
    #[etcd(json)]
    json: Duration,
}

fn modules() -> Modules {
    let seconds = Duration::from_secs;
    Modules { timeout: seconds(30), idle: Some(seconds(5)), flag: true, note: Some("7".to_owned()), ratio: 2.0, json: seconds(1) }
}

#[tokio::test]
async fn serde_modules_define_stored_text() {
    let (client, cfg) = open::<Modules>().await;
    cfg.set(&modules()).await.unwrap();
    let json = "{\"secs\":1,\"nanos\":0}";
    let expected = [("timeout", "30sec"), ("idle-timeout", "5sec"), ("flag", "1"), ("note", "7"), ("ratio", "2.0"), ("json", json)];
    assert_eq!(stored(&client).await, keys(&expected));
    assert_eq!(*cfg.get().await.unwrap(), modules());
    cfg.set(&Modules { idle: None, note: None, ..modules() }).await.unwrap();
    assert_eq!(*cfg.get().await.unwrap(), Modules { idle: None, note: None, ..modules() });
    put(&client, "/timeout", "40sec\n").await;
    assert_eq!(**cfg.timeout.get().await.unwrap().as_ref().unwrap(), Duration::from_secs(40));
}

#[derive(EtcdSchema, Debug, PartialEq)]
struct LimitedModule {
    #[serde(with = "human")]
    #[etcd(range = Duration::from_secs(1)..=Duration::from_secs(60))]
    timeout: Duration,
    #[serde(with = "human::option")]
    #[etcd(one_of = [Duration::from_secs(5), Duration::from_secs(10)])]
    idle: Option<Duration>,
}

#[tokio::test]
async fn limits_are_described_in_text_of_serde_module() {
    let (client, cfg) = open::<LimitedModule>().await;
    let seconds = Duration::from_secs;
    cfg.set(&LimitedModule { timeout: seconds(60), idle: Some(seconds(5)) }).await.unwrap();
    assert_eq!(stored(&client).await, keys(&[("timeout", "60sec"), ("idle", "5sec")]));
    let refused = cfg.set(&LimitedModule { timeout: seconds(61), idle: Some(seconds(6)) }).await.unwrap_err();
    assert_eq!(problems(&refused), ["/timeout: not in 1sec … 60sec", "/idle: not one of `5sec`, `10sec`"]);
}

#[tokio::test]
async fn value_changed_by_serde_module_is_refused() {
    let (client, cfg) = open::<Modules>().await;
    let refused = cfg.set(&Modules { timeout: Duration::from_millis(1500), ratio: 2.5, ..modules() }).await.unwrap_err();
    let reason = "reading its stored form returns another value";
    assert_eq!(problems(&refused), [format!("/timeout: {reason}"), format!("/ratio: {reason}")]);
    put(&client, "/timeout", "soon").await;
    put(&client, "/flag", "1").await;
    put(&client, "/note", "").await;
    put(&client, "/json", "{\"secs\":1,\"nanos\":0}").await;
    let wrong = cfg.get().await.unwrap_err();
    let none = "the field's module reads `None` from it: delete the key instead";
    assert_eq!(problems(&wrong), ["/timeout: a duration ends with `sec`".to_owned(), format!("/note: {none}")]);
}

#[derive(EtcdSchema, Serialize, Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Denies {
    known: u32,
    #[etcd(dir)]
    inner: Option<Strict>,
}

#[derive(EtcdSchema, Serialize, Deserialize, Debug, PartialEq)]
#[etcd(strict)]
struct Strict {
    known: u32,
    #[etcd(dir)]
    #[serde(default)]
    lax: BTreeMap<String, Lax>,
    #[serde(flatten)]
    flat: StrictPart,
}

#[derive(EtcdSchema, Serialize, Deserialize, Debug, PartialEq)]
#[etcd(strict)]
struct StrictPart {
    #[serde(default)]
    part: u32,
}

#[derive(EtcdSchema, Serialize, Deserialize, Debug, PartialEq)]
struct Lax {
    known: u32,
}

#[tokio::test]
async fn strict_struct_refuses_unknown_keys() {
    let (client, cfg) = open::<Strict>().await;
    for (key, value) in [("/known", "1"), ("/part", "2"), ("/lax/a/known", "3"), ("/lax/a/other", "4"), ("/_etcd-typed/x", "5")] {
        put(&client, key, value).await;
    }
    cfg.get().await.unwrap();
    let live = cfg.live().await.unwrap();
    for (key, value) in [("/typo", "1"), ("/lax/b", "2"), ("/deep/er", "3"), ("/_hidden", "4")] {
        put(&client, key, value).await;
    }
    let wrong = cfg.get().await.unwrap_err();
    let unknown = "not a key of the schema";
    let all = ["/_hidden", "/deep/er", "/lax/b", "/typo"].map(|key| format!("{key}: {unknown}"));
    assert_eq!(problems(&wrong), all);
    while live.status().is_live() {
        tokio::task::yield_now().await;
    }
    let problems = cfg.check().await.unwrap().problems;
    let listed: Vec<_> = problems.iter().map(|problem| format!("{}: {}", problem.key, problem.reason)).collect();
    assert_eq!(listed, [all[0].clone(), all[1].clone(), format!("/lax/a/other: {unknown}"), all[2].clone(), all[3].clone()]);
    for key in ["/typo", "/lax/b", "/deep/er", "/_hidden"] {
        client.entry::<String>(key).unwrap().delete().await.unwrap();
    }
    while !live.status().is_live() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn struct_that_denies_unknown_keys_is_still_read() {
    let (client, cfg) = open::<Denies>().await;
    put(&client, "/known", "1").await;
    put(&client, "/typo", "2").await;
    assert_eq!(*cfg.get().await.unwrap(), Denies { known: 1, inner: None });
    assert_eq!(cfg.check().await.unwrap().problems.len(), 1);
    assert_eq!(
        [Denies::TABLE.unknown, Strict::TABLE.unknown, Lax::TABLE.unknown],
        [UnknownKeys::Reported, UnknownKeys::Refused, UnknownKeys::Ignored]
    );
    put(&client, "/inner/known", "1").await;
    put(&client, "/inner/typo", "2").await;
    assert_eq!(problems(&cfg.get().await.unwrap_err()), ["/inner/typo: not a key of the schema"]);
}

#[derive(EtcdValue, Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE", rename_all_fields = "camelCase")]
enum Level {
    VeryLow,
    #[serde(rename = "hi", alias = "high")]
    High,
    #[serde(rename = "json")]
    #[etcd(rename = "own")]
    Own,
    #[serde(skip)]
    #[etcd(rename = "hidden")]
    Hidden,
}

#[derive(EtcdValue, Serialize, Deserialize, Debug, PartialEq)]
#[serde(transparent)]
struct Port(u16);

#[derive(EtcdValue, Serialize, Deserialize, Debug, PartialEq)]
#[serde(transparent)]
struct Named {
    value: u16,
}

#[test]
fn variants_have_their_serde_names() {
    let written = [Level::VeryLow, Level::High, Level::Own, Level::Hidden].map(|level| level.encode().unwrap());
    assert_eq!(written, ["VERY-LOW", "hi", "own", "hidden"]);
    assert_eq!(Level::decode(b"high"), Ok(Level::High));
    assert_eq!(Port::decode(b"80"), Ok(Port(80)));
    assert_eq!(Named::decode(b"80"), Ok(Named { value: 80 }));
    assert_eq!(Named { value: 80 }.encode().unwrap(), "80");
}

/// A struct with serde attributes that does not derive serde's traits.
#[derive(EtcdSchema, Debug, PartialEq)]
struct WithoutSerde {
    #[serde(rename = "other", default)]
    name: u32,
}

#[tokio::test]
async fn serde_attributes_need_no_serde_derive() {
    let (client, cfg) = open::<WithoutSerde>().await;
    cfg.set(&WithoutSerde { name: 1 }).await.unwrap();
    assert_eq!(stored(&client).await, keys(&[("other", "1")]));
}

#[derive(EtcdSchema, Serialize, Deserialize, Debug, PartialEq)]
struct OneDirection {
    #[serde(skip_serializing)]
    #[etcd(secret, allow_debug)]
    password: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[tokio::test]
async fn field_that_serde_never_writes_can_be_stored() {
    let (client, cfg) = open::<OneDirection>().await;
    cfg.set(&OneDirection { password: "p".to_owned(), note: None }).await.unwrap();
    assert_eq!(stored(&client).await, keys(&[("password", "p")]));
}
