//! Names: raw identifiers, clashes with generated code, visibility, parameters in the prefix, and
//! another path to this crate.

use etcd_typed::{EtcdSchema, EtcdValue, Schema};

use super::{keys, memory, stored};

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Raw {
    r#type: u8,
    r#self_: u8,
    größe: u8,
}

#[tokio::test]
async fn raw_identifiers_are_unescaped() {
    let client = memory().await;
    let cfg = client.dir::<Raw>("/a").unwrap();
    cfg.set(&Raw { r#type: 1, self_: 2, größe: 3 }).await.unwrap();
    assert_eq!(stored(&client).await, keys(&[("a/größe", "3"), ("a/self_", "2"), ("a/type", "1")]));
    assert_eq!(cfg.r#type.get().await.unwrap().as_deref(), Some(&1));
    // The variants are `Type`, `Self_` and `Größe`.
    fn field(change: RawChange) -> u8 {
        match change {
            RawChange::Type(_) => 1,
            RawChange::Self_(_) => 2,
            RawChange::Größe(_) => 3,
        }
    }
    let _: fn(RawChange) -> u8 = field;
}

/// Fields with names that generated code uses itself, and with names of the handle's methods.
#[derive(EtcdSchema, Clone, Debug, PartialEq, Default)]
#[etcd(prefix = "/{__client}/{client}")]
struct Clashes {
    #[etcd(rename = "1")]
    __dir: u8,
    #[etcd(rename = "2")]
    __decoder: u8,
    #[etcd(rename = "3")]
    __encoder: u8,
    #[etcd(rename = "4")]
    __delta: u8,
    #[etcd(rename = "5")]
    __out: u8,
    #[etcd(rename = "6")]
    __0: u8,
    #[etcd(rename = "7")]
    __f: u8,
    get: u8,
    set: u8,
    open: u8,
    decode: u8,
    encode: u8,
    changes: u8,
    validate: u8,
    handle: u8,
    clone: u8,
    deref: u8,
    key: u8,
    value: u8,
}

#[tokio::test]
async fn fields_may_have_names_of_generated_code() {
    let client = memory().await;
    let cfg = ClashesDir::open(&client, "x", "y").unwrap();
    let value = Clashes { __dir: 1, __decoder: 2, __0: 3, get: 4, key: 5, ..Clashes::default() };
    cfg.set(&value).await.unwrap();
    assert_eq!(*cfg.get().await.unwrap(), value);
    assert_eq!(cfg.get.get().await.unwrap().as_deref(), Some(&4));
    assert_eq!(cfg.key.key().as_str(), "/x/y/key");
}

#[derive(EtcdSchema)]
#[etcd(prefix = "/env-{env}/{app}/{env}/{type}/fixed")]
struct Parameters {
    a: u8,
}

#[tokio::test]
async fn open_takes_one_argument_per_parameter() {
    let client = memory().await;
    let open = |env: &str| ParametersDir::open(&client, env, 7, 'x').unwrap().key().to_string();
    assert_eq!(open("prod"), "/env-prod/7/prod/x/fixed");
    assert_eq!(open("../b"), "/env-..%2Fb/7/..%2Fb/x/fixed");
    assert_eq!(open(".."), "/env-../7/%2E%2E/x/fixed");
    assert_eq!(open(""), "/env-/7/%/x/fixed");
    assert_eq!(open("_\0"), "/env-_%00/7/_%00/x/fixed");
    assert_eq!(Parameters::describe().prefix, Some("/env-{env}/{app}/{env}/{type}/fixed"));
}

#[derive(EtcdSchema)]
#[etcd(prefix = "/")]
struct Root {
    a: u8,
}

#[derive(EtcdSchema)]
#[etcd(prefix = "/fixed/50%")]
struct Fixed {
    a: u8,
}

#[tokio::test]
async fn prefix_may_have_no_parameters() {
    let client = memory().await;
    assert_eq!(RootDir::open(&client).unwrap().a.key().as_str(), "/a");
    assert_eq!(FixedDir::open(&client).unwrap().a.key().as_str(), "/fixed/50%/a");
    let other = etcd_typed::Client::builder("memory:").namespace("/ns").connect().await.unwrap();
    assert_eq!(FixedDir::open(&other).unwrap().key().as_str(), "/ns/fixed/50%");
}

mod elsewhere {
    use etcd_typed::EtcdSchema;

    mod private {
        #[derive(etcd_typed::EtcdSchema)]
        pub(in crate::derive::names) struct Inner {
            pub(in crate::derive::names) b: u8,
        }
    }

    #[derive(EtcdSchema)]
    #[etcd(prefix = "/a")]
    pub(super) struct Outer {
        /// The handle's field is as visible as this one.
        #[etcd(dir)]
        pub(super) a: private::Inner,
    }
}

#[tokio::test]
async fn handle_is_as_visible_as_struct() {
    let client = memory().await;
    let cfg = elsewhere::OuterDir::open(&client).unwrap();
    assert_eq!(cfg.a.b.key().as_str(), "/a/a/b");
    let _: fn(elsewhere::OuterChange) = |change| match change {
        elsewhere::OuterChange::A(_) => {}
    };
}

/// Compiles with lints that a strict crate denies, and with private types in public ones.
mod strict {
    #![deny(warnings, missing_docs, unreachable_pub, missing_debug_implementations, unnameable_types, unused_qualifications, clippy::all)]

    use etcd_typed::{EtcdSchema, EtcdValue};

    /// A public struct with private fields.
    #[derive(EtcdSchema, Debug)]
    #[etcd(prefix = "/{env}")]
    pub(crate) struct Public {
        no_doc: Level,
        #[deprecated]
        old: u8,
        #[etcd(dir)]
        private: Private,
    }

    #[derive(EtcdSchema, Debug)]
    struct Private {
        a: u8,
    }

    #[derive(EtcdValue, Debug)]
    enum Level {
        #[deprecated]
        Low,
        High,
    }

    #[test]
    fn enum_compiles_under_strict_lints() {
        use etcd_typed::EtcdValue as _;
        assert!(matches!(Level::decode(b"high"), Ok(Level::High)));
    }
}

/// A crate that re-exports this library under another name.
mod facade {
    pub(super) mod inner {
        pub(crate) use etcd_typed as typed;
    }
}

mod through {
    /// Shadows the name of this library, so that only the given path leads to it.
    mod etcd_typed {}

    use super::facade;
    use super::facade::inner::typed::{EtcdSchema, EtcdValue};

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    #[etcd(crate = facade::inner::typed, prefix = "/{p}")]
    pub(super) struct Through {
        pub(super) mode: Mode,
        #[etcd(json, secret, allow_debug)]
        pub(super) json: u8,
    }

    #[derive(EtcdValue, Clone, Debug, PartialEq)]
    #[etcd(crate = super::facade::inner::typed)]
    pub(super) enum Mode {
        On,
    }
}

#[tokio::test]
async fn crate_path_can_be_set() {
    let client = memory().await;
    let cfg = through::ThroughDir::open(&client, "p").unwrap();
    let value = through::Through { mode: through::Mode::On, json: 1 };
    cfg.set(&value).await.unwrap();
    assert_eq!(*cfg.get().await.unwrap(), value);
}

/// A macro that derives a schema from its own tokens and those of its caller.
macro_rules! make {
    ($name:ident { $($field:ident: $ty:ty = $default:expr),* $(,)? }) => {
        #[derive(EtcdSchema, Clone, Debug, PartialEq)]
        struct $name {
            fixed: Option<u8>,
            $(#[etcd(default = $default)] $field: $ty,)*
        }
    };
}

make!(Made { a: u8 = 3, b: Option2<String> = Option2(None) });

#[derive(Clone, Debug, PartialEq)]
struct Option2<T>(Option<T>);

impl EtcdValue for Option2<String> {
    const TYPE: &'static str = "text, or nothing";

    fn encode(&self) -> Result<bytes::Bytes, etcd_typed::ValueError> {
        Ok(self.0.clone().unwrap_or_default().into())
    }

    fn decode(bytes: &[u8]) -> Result<Self, etcd_typed::ValueError> {
        String::decode(bytes).map(|text| Self(Some(text).filter(|text| !text.is_empty())))
    }
}

#[tokio::test]
async fn struct_may_come_from_macro() {
    let client = memory().await;
    let cfg = client.dir::<Made>("/a").unwrap();
    assert_eq!(*cfg.get().await.unwrap(), Made { fixed: None, a: 3, b: Option2(None) });
    cfg.fixed.set(&1).await.unwrap();
    assert_eq!(cfg.get().await.unwrap().fixed, Some(1));
}
