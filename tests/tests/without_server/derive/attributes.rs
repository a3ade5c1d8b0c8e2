//! One test for each attribute.

use std::collections::{BTreeMap, HashMap};

use etcd_typed::{Client, EtcdSchema, Schema};

use super::{keys, memory, problems, put, stored};

/// Returns a client of a new store, and a handle of `/a` in it.
async fn open<S: EtcdSchema>() -> (Client, S::Handle) {
    let client = memory().await;
    let handle = client.dir::<S>("/a").unwrap();
    (client, handle)
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(rename_all = "SCREAMING-KEBAB-CASE")]
struct Renamed {
    max_size: u8,
    #[etcd(rename = "ttl.seconds", alias = "ttl", alias = "timeToLive")]
    time_to_live: u8,
}

#[tokio::test]
async fn rename_takes_precedence_over_aliases() {
    let (client, cfg) = open::<Renamed>().await;
    let value = Renamed { max_size: 1, time_to_live: 2 };
    cfg.set(&value).await.unwrap();
    assert_eq!(stored(&client).await, keys(&[("a/MAX-SIZE", "1"), ("a/ttl.seconds", "2")]));

    cfg.time_to_live.delete().await.unwrap();
    put(&client, "/a/timeToLive", "4").await;
    assert_eq!(cfg.get().await.unwrap().time_to_live, 4);
    put(&client, "/a/ttl", "3").await;
    assert_eq!(cfg.get().await.unwrap().time_to_live, 3, "the first alias takes precedence over the second");
    put(&client, "/a/ttl.seconds", "2").await;
    assert_eq!(cfg.get().await.unwrap().time_to_live, 2, "the name takes precedence over the aliases");
}

#[test]
fn rename_all_supports_every_case() {
    macro_rules! segment {
        ($case:literal) => {{
            #[derive(EtcdSchema)]
            #[etcd(rename_all = $case)]
            struct S {
                max_size: u8,
            }
            S::describe().fields[0].segment
        }};
    }
    let segments = [
        segment!("lowercase"),
        segment!("UPPERCASE"),
        segment!("PascalCase"),
        segment!("camelCase"),
        segment!("snake_case"),
        segment!("SCREAMING_SNAKE_CASE"),
        segment!("kebab-case"),
        segment!("SCREAMING-KEBAB-CASE"),
    ];
    assert_eq!(segments, ["max_size", "MAX_SIZE", "MaxSize", "maxSize", "max_size", "MAX_SIZE", "max-size", "MAX-SIZE"]);
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Defaults {
    #[etcd(default)]
    own: u32,
    #[etcd(default = 1 << 20)]
    expression: usize,
    #[etcd(default = "EUR")]
    text: String,
    #[etcd(default = std::time::Duration::from_secs(30))]
    call: std::time::Duration,
    #[etcd(json, default = vec![1, 2])]
    json: Vec<u8>,
}

#[tokio::test]
async fn default_replaces_missing_key() {
    let (client, cfg) = open::<Defaults>().await;
    let defaults =
        Defaults { own: 0, expression: 1 << 20, text: "EUR".to_owned(), call: std::time::Duration::from_secs(30), json: vec![1, 2] };
    assert_eq!(*cfg.get().await.unwrap(), defaults);
    assert_eq!(cfg.own.get().await.unwrap(), None, "the struct has the default, the key does not exist");
    assert_eq!(stored(&client).await, keys(&[]));
    let shown: Vec<_> = Defaults::describe().fields.iter().map(|field| &field.presence).collect();
    let texts = ["u32::default()", "1 << 20", "\"EUR\"", "std::time::Duration::from_secs(30)", "vec![1, 2]"];
    assert_eq!(shown, texts.each_ref().map(|text| &*Box::leak(Box::new(etcd_typed::Presence::Default(text)))));
}

mod hex {
    pub(super) fn encode(value: &u32) -> Result<String, std::fmt::Error> {
        Ok(format!("{value:#x}"))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<u32, String> {
        let digits = bytes.strip_prefix(b"0x").ok_or("hexadecimal starts with `0x`")?;
        let digits = std::str::from_utf8(digits).map_err(|error| error.to_string())?;
        u32::from_str_radix(digits, 16).map_err(|error| error.to_string())
    }
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Forms {
    #[etcd(with = hex)]
    mask: u32,
    #[etcd(with = hex)]
    other: Option<u32>,
    #[etcd(json)]
    pair: (u8, String),
    #[etcd(json)]
    map: BTreeMap<String, bool>,
    #[etcd(json)]
    maybe: Option<Vec<u8>>,
    #[etcd(entries, with = hex)]
    masks: BTreeMap<u8, u32>,
    #[etcd(entries, json)]
    lists: HashMap<String, Vec<u8>>,
}

#[tokio::test]
async fn json_and_with_attributes_define_stored_form() {
    let (client, cfg) = open::<Forms>().await;
    let value = Forms {
        mask: 255,
        other: None,
        pair: (1, "x".to_owned()),
        map: [("on".to_owned(), true)].into(),
        maybe: Some(vec![1]),
        masks: [(3, 16)].into(),
        lists: [("l".to_owned(), vec![1, 2])].into(),
    };
    cfg.set(&value).await.unwrap();
    let expected = keys(&[
        ("a/lists/l", "[1,2]"),
        ("a/map", r#"{"on":true}"#),
        ("a/mask", "0xff"),
        ("a/masks/3", "0x10"),
        ("a/maybe", "[1]"),
        ("a/pair", r#"[1,"x"]"#),
    ]);
    assert_eq!(stored(&client).await, expected);
    assert_eq!(*cfg.get().await.unwrap(), value);
    put(&client, "/a/mask", "ff").await;
    assert_eq!(problems(&cfg.get().await.unwrap_err()), ["/a/mask: hexadecimal starts with `0x`"]);
    let types: Vec<_> = Forms::describe().to_string().lines().skip(1).map(str::to_owned).collect();
    let expected = [
        "mask  custom",
        "other  custom, optional",
        "pair  JSON",
        "map  JSON",
        "maybe  JSON, optional",
        "masks/<unsigned integer>  custom, optional",
        "lists/<text>  JSON, optional",
    ];
    assert_eq!(types, expected);
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Tls {
    certificate: String,
    #[etcd(default = false)]
    required: bool,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Nested {
    #[etcd(dir, rename = "inner")]
    always: Tls,
    #[etcd(dir)]
    maybe: Option<Tls>,
    #[etcd(dir)]
    by_name: HashMap<String, Tls>,
    #[etcd(flatten)]
    beside: Tls,
}

#[tokio::test]
async fn dir_and_flatten_nest_structs() {
    let (client, cfg) = open::<Nested>().await;
    let tls = |name: &str| Tls { certificate: name.to_owned(), required: true };
    let value = Nested { always: tls("1"), maybe: None, by_name: [("x".to_owned(), tls("2"))].into(), beside: tls("3") };
    cfg.set(&value).await.unwrap();
    let expected = keys(&[
        ("a/by_name/x/certificate", "2"),
        ("a/by_name/x/required", "true"),
        ("a/certificate", "3"),
        ("a/inner/certificate", "1"),
        ("a/inner/required", "true"),
        ("a/required", "true"),
    ]);
    assert_eq!(stored(&client).await, expected);
    assert_eq!(*cfg.get().await.unwrap(), value);

    assert_eq!(cfg.beside.certificate.key().as_str(), "/a/certificate");
    assert_eq!(cfg.by_name.dir("x").unwrap().certificate.key().as_str(), "/a/by_name/x/certificate");
    cfg.maybe.required.set(&true).await.unwrap();
    assert_eq!(*cfg.get().await.unwrap(), value, "an optional directory without its required key does not exist");
    assert_eq!(problems(&cfg.maybe.get().await.unwrap_err()), ["/a/maybe/certificate: missing (text)"]);
    assert_eq!(cfg.check().await.unwrap().problems[0].key.as_str(), "/a/maybe/required");
    cfg.maybe.certificate.set(&"4".to_owned()).await.unwrap();
    assert_eq!(cfg.get().await.unwrap().maybe, Some(tls("4")));
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Skipped {
    a: u8,
    #[etcd(skip)]
    cache: Option<String>,
    b: u8,
}

#[tokio::test]
async fn skipped_field_is_not_stored() {
    let (client, cfg) = open::<Skipped>().await;
    cfg.set(&Skipped { a: 1, cache: Some("not stored".to_owned()), b: 2 }).await.unwrap();
    assert_eq!(stored(&client).await, keys(&[("a/a", "1"), ("a/b", "2")]));
    assert_eq!(*cfg.get().await.unwrap(), Skipped { a: 1, cache: None, b: 2 });
    assert_eq!(Skipped::describe().fields.iter().map(|field| field.name).collect::<Vec<_>>(), ["a", "b"]);
}

fn even(value: &u8) -> Result<(), String> {
    if value.is_multiple_of(2) { Ok(()) } else { Err(format!("{value} is odd")) }
}

fn not_empty(text: &str) -> Result<(), &'static str> {
    if text.is_empty() { Err("empty") } else { Ok(()) }
}

fn in_order(range: &Checked) -> Result<(), &'static str> {
    if range.low <= range.high { Ok(()) } else { Err("`low` is above `high`") }
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(validate = in_order)]
struct Checked {
    #[etcd(validate = even)]
    low: u8,
    high: u8,
    #[etcd(validate = not_empty)]
    name: Option<String>,
    #[etcd(entries, validate = even)]
    each: BTreeMap<String, u8>,
}

#[tokio::test]
async fn validate_refuses_invalid_values() {
    let (client, cfg) = open::<Checked>().await;
    let bad = Checked { low: 3, high: 2, name: Some(String::new()), each: [("x".to_owned(), 5), ("y".to_owned(), 6)].into() };
    let error = cfg.set(&bad).await.unwrap_err();
    assert_eq!(problems(&error), ["/a/low: 3 is odd", "/a/name: empty", "/a/each/x: 5 is odd", "/a: `low` is above `high`"]);
    assert_eq!(stored(&client).await, keys(&[]), "nothing is written");
    assert!(cfg.low.set(&3).await.unwrap_err().to_string().contains("3 is odd"));
    assert!(cfg.each.entry("x").unwrap().set(&5).await.unwrap_err().to_string().contains("5 is odd"));
    let good = Checked { low: 2, high: 2, name: None, each: BTreeMap::new() };
    cfg.set(&good).await.unwrap();
    assert_eq!(*cfg.get().await.unwrap(), good);
    let table = Checked::describe();
    assert_eq!(table.fields.iter().map(|field| field.validated).collect::<Vec<_>>(), [true, false, true, true]);
}

#[derive(EtcdSchema, Clone, PartialEq)]
struct Secrets {
    #[etcd(secret, validate = even)]
    pin: u8,
    #[etcd(entries, secret)]
    tokens: BTreeMap<String, u8>,
}

#[tokio::test]
async fn secret_is_masked_everywhere() {
    let (client, cfg) = open::<Secrets>().await;
    put(&client, "/a/pin", "hunter2").await;
    put(&client, "/a/tokens/t", "hunter2").await;
    let mask = "*** (a secret: the reason is not shown)";
    let errors = [
        cfg.get().await.map(drop).unwrap_err(),
        cfg.set(&Secrets { pin: 77, tokens: BTreeMap::new() }).await.unwrap_err(),
        cfg.pin.get().await.unwrap_err(),
        cfg.pin.set(&77).await.unwrap_err(),
        cfg.tokens.get().await.unwrap_err(),
    ];
    for error in errors {
        let all = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
        assert!(all.contains(mask) && !all.contains("hunter2") && !all.contains("77"), "{all}");
    }
    assert!(Secrets::describe().fields.iter().all(|field| field.secret));
}

#[derive(EtcdSchema)]
#[etcd(change(Clone, PartialEq))]
struct Derived {
    a: u8,
    #[etcd(dir)]
    tls: Plain,
}

#[derive(EtcdSchema)]
#[etcd(change(Clone, PartialEq))]
struct Plain {
    a: u8,
}

#[test]
fn change_enum_has_requested_derives() {
    fn is<T: Clone + PartialEq + std::fmt::Debug>() {}
    is::<DerivedChange>();
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Empty {}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Unit;

#[tokio::test]
async fn struct_without_fields_is_stored_empty() {
    let (_, cfg) = open::<Empty>().await;
    assert_eq!(*cfg.get().await.unwrap(), Empty {});
    let (_, cfg) = open::<Unit>().await;
    assert_eq!(*cfg.get().await.unwrap(), Unit);
    assert_eq!(size_of::<Option<EmptyChange>>(), 0, "the enum has no variants");
}
