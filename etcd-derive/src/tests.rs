//! Snapshot tests of the generated code. The crate `tests` checks what that code does.

use std::path::Path;

use proc_macro2::TokenStream;
use syn::{DeriveInput, parse_quote};

/// Compares the tokens with `snapshots/NAME.rs`. `UPDATE_SNAPSHOTS=1` rewrites the file.
fn assert_snapshot(name: &str, tokens: TokenStream) {
    let expansion = prettyplease::unparse(&syn::parse2(tokens).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots").join(name).with_extension("rs");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &expansion).unwrap();
    }
    let snapshot = std::fs::read_to_string(&path).unwrap();
    assert!(
        expansion == snapshot,
        "{} is not what is written now; `UPDATE_SNAPSHOTS=1 cargo test -p etcd-derive` writes it, then read the difference:\n{expansion}",
        path.display()
    );
}

#[test]
fn schema_of_struct_matches_snapshot() {
    let input: DeriveInput = parse_quote! {
        /// Limits and endpoints of the checkout service.
        #[etcd(prefix = "/{env}/checkout", validate = check, change(Clone))]
        pub struct Checkout<T> {
            /// Requests per second.
            #[etcd(default = 100, alias = "limit")]
            #[deprecated]
            #[expect(non_snake_case, reason = "of another program")]
            pub rate_limit: u32,
            pub banner: Option<String>,
            #[etcd(json, secret)]
            pub features: T,
            #[etcd(with = hex, validate = odd)]
            mask: u32,
            #[etcd(dir)]
            pub database: Database,
            #[etcd(dir)]
            pub regions: BTreeMap<String, Region>,
            #[etcd(entries)]
            pub quotas: BTreeMap<String, u64>,
            #[etcd(flatten)]
            pub common: Common,
            #[etcd(skip)]
            pub cache: Cache,
        }
    };
    assert_snapshot("schema", crate::schema(&input));
}

#[test]
fn schema_of_enum_matches_snapshot() {
    let input: DeriveInput = parse_quote! {
        /// Where files are stored.
        #[etcd(prefix = "/{env}/storage", validate = check)]
        #[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
        pub enum Storage {
            /// A directory of this machine.
            LocalDisk {
                base_path: PathBuf,
                #[serde(skip)]
                cache: Cache,
            },
            #[serde(alias = "aws")]
            S3(S3Config),
            None,
            #[serde(other)]
            Unknown,
        }
    };
    assert_snapshot("enum", crate::schema(&input));
}

#[test]
fn values_of_enum_and_newtype_match_snapshot() {
    let level: DeriveInput = parse_quote! {
        #[etcd(rename_all = "kebab-case")]
        enum Level {
            #[etcd(alias = "v")]
            VeryLow,
            High,
        }
    };
    let port: DeriveInput = parse_quote! {
        struct Port(u16);
    };
    assert_snapshot("value", [level, port].iter().map(crate::value).collect());
}

#[test]
fn invalid_attribute_still_generates_impls() {
    let input: DeriveInput = parse_quote! {
        #[etcd(prefix = "/a/{env}")]
        struct Schema {
            good: u8,
            #[etcd(jsn)]
            typo: u8,
        }
    };
    assert_snapshot("fallback", crate::schema(&input));
}

#[test]
fn clap_attributes_do_not_change_schema() {
    let plain: DeriveInput = parse_quote! {
        struct Schema {
            /// The address.
            #[serde(default = "address")]
            address: String,
        }
    };
    let with_clap: DeriveInput = parse_quote! {
        #[command(version, about, rename_all = "camelCase")]
        struct Schema {
            /// The address.
            #[arg(long, short = 'a', env = "ADDRESS", default_value_t = address(), rename = "other")]
            #[clap(flatten, skip)]
            #[serde(default = "address")]
            address: String,
        }
    };
    assert_eq!(crate::schema(&with_clap).to_string(), crate::schema(&plain).to_string());
}

#[test]
fn serde_and_etcd_attributes_expand_alike() {
    let own: DeriveInput = parse_quote! {
        #[etcd(rename_all = "kebab-case")]
        struct Schema {
            #[etcd(rename = "x", alias = "y", alias = "z", default)]
            a: u32,
            #[etcd(default = five())]
            b_c: u32,
            #[etcd(flatten)]
            d: Inner,
            #[etcd(skip)]
            e: u32,
        }
    };
    let serde: DeriveInput = parse_quote! {
        #[serde(rename_all = "kebab-case", bound = "", crate = "other", expecting = "a struct")]
        struct Schema {
            #[serde(rename = "x", alias = "y", default)]
            #[serde(alias = "z")]
            a: u32,
            #[serde(default = "five")]
            b_c: u32,
            #[serde(flatten)]
            d: Inner,
            #[serde(skip, borrow, getter = "Other::get")]
            e: u32,
        }
    };
    assert_eq!(crate::schema(&serde).to_string(), crate::schema(&own).to_string());
}
