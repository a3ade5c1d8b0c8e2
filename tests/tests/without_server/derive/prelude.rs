//! Generated code uses absolute paths. So it compiles without the prelude, and in a module where
//! names such as `Result` have another meaning.

/// A module without any names in scope.
#[no_implicit_prelude]
mod nothing {
    #[derive(::etcd_typed::EtcdSchema, ::core::clone::Clone, ::core::fmt::Debug, ::core::cmp::PartialEq)]
    #[etcd(prefix = "/{env}/a", validate = super::fine, change(::core::clone::Clone))]
    pub(super) struct All {
        #[etcd(alias = "old", validate = super::fine, secret, allow_debug)]
        pub(super) required: ::core::primitive::u32,
        pub(super) optional: ::core::option::Option<::std::string::String>,
        #[etcd(default)]
        pub(super) default: ::core::primitive::u8,
        #[etcd(default = "text")]
        pub(super) text: ::std::string::String,
        #[etcd(json)]
        pub(super) json: ::std::vec::Vec<::core::primitive::u8>,
        #[etcd(with = super::raw)]
        pub(super) with: ::core::primitive::u8,
        #[etcd(dir)]
        pub(super) dir: Inner,
        #[etcd(dir)]
        pub(super) maybe: ::core::option::Option<Inner>,
        #[etcd(dir)]
        pub(super) map: ::std::collections::BTreeMap<::std::string::String, Inner>,
        #[etcd(entries, secret, allow_debug)]
        pub(super) entries: ::std::collections::HashMap<::std::string::String, ::core::primitive::u8>,
        #[etcd(flatten)]
        pub(super) flat: Inner,
        #[etcd(skip)]
        pub(super) skipped: ::core::primitive::u8,
        pub(super) choice: Choice,
        pub(super) newtype: Newtype,
    }

    #[derive(::etcd_typed::EtcdSchema, ::core::clone::Clone, ::core::fmt::Debug, ::core::cmp::PartialEq)]
    #[etcd(change(::core::clone::Clone))]
    pub(super) struct Inner {
        pub(super) inner: ::core::primitive::bool,
    }

    #[derive(::etcd_typed::EtcdValue, ::core::clone::Clone, ::core::fmt::Debug, ::core::cmp::PartialEq)]
    pub(super) enum Choice {
        This,
        #[etcd(rename = "that one", alias = "that")]
        That,
    }

    #[derive(::etcd_typed::EtcdValue, ::core::clone::Clone, ::core::fmt::Debug, ::core::cmp::PartialEq)]
    pub(super) struct Newtype(pub(super) ::core::primitive::u16);
}

fn fine<T>(_: &T) -> Result<(), String> {
    Ok(())
}

mod raw {
    pub(super) fn encode(value: &u8) -> Result<Vec<u8>, String> {
        Ok(vec![*value])
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<u8, String> {
        bytes.first().copied().ok_or_else(|| "empty".to_owned())
    }
}

#[tokio::test]
async fn derived_struct_compiles_without_prelude() {
    let client = super::memory().await;
    let cfg = nothing::AllDir::open(&client, "x").unwrap();
    let inner = || nothing::Inner { inner: true };
    let value = nothing::All {
        required: 1,
        optional: None,
        default: 2,
        text: "t".to_owned(),
        json: vec![1],
        with: 3,
        dir: inner(),
        maybe: Some(inner()),
        map: [("k".to_owned(), inner())].into(),
        entries: [("k".to_owned(), 1)].into(),
        flat: inner(),
        skipped: 0,
        choice: nothing::Choice::That,
        newtype: nothing::Newtype(9),
    };
    cfg.set(&value).await.unwrap();
    assert_eq!(*cfg.get().await.unwrap(), value);
}

/// A module in which names of the prelude have another meaning.
#[allow(dead_code, non_camel_case_types)]
mod others {
    pub struct Result;
    pub struct Some;
    pub struct None;
    pub struct Ok;
    pub struct Err;
    pub struct Vec;
    pub struct Option<T>(T);
    pub struct str;
    pub struct Codec;
    pub struct Dir;
    pub struct Entry;
    pub struct Change;
    pub struct Field;
    pub struct Table;
    pub struct Schema;
    pub mod core {}
    pub mod std {}
    pub mod bytes {}

    #[derive(etcd_typed::EtcdSchema)]
    #[etcd(prefix = "/{p}")]
    pub struct Shadowed {
        #[etcd(default, secret)]
        a: u64,
        #[etcd(json)]
        b: ::std::vec::Vec<u64>,
        c: Mode,
    }

    #[derive(etcd_typed::EtcdValue, Debug)]
    pub enum Mode {
        Some,
        None,
    }
}

#[tokio::test]
async fn derived_struct_compiles_with_shadowed_names() {
    let client = super::memory().await;
    let cfg = others::ShadowedDir::open(&client, 1).unwrap();
    super::put(&client, "/1/b", "[]").await;
    super::put(&client, "/1/c", "none").await;
    assert!(cfg.get().await.is_ok());
}
