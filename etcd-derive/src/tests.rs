//! Snapshot tests of the generated code. The crate `tests` checks what that code does.

use std::path::Path;

use proc_macro2::TokenStream;
use syn::{DeriveInput, parse_quote};

/// Compares with `snapshots/NAME.rs`. `UPDATE_SNAPSHOTS=1` rewrites the file.
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
fn schema_with_every_kind_of_field() {
    let input: DeriveInput = parse_quote! {
        /// Limits and endpoints of the checkout service.
        #[etcd(prefix = "/{env}/checkout", validate = check, change(Clone))]
        pub struct Checkout<T> {
            /// Requests per second.
            #[etcd(default = 100, alias = "limit")]
            rate_limit: u32,
            banner: Option<String>,
            #[etcd(json, secret)]
            features: T,
            #[etcd(with = hex, validate = odd)]
            mask: u32,
            #[etcd(dir)]
            database: Database,
            #[etcd(dir)]
            regions: BTreeMap<String, Region>,
            #[etcd(entries)]
            quotas: BTreeMap<String, u64>,
            #[etcd(flatten)]
            common: Common,
            #[etcd(skip)]
            cache: Cache,
        }
    };
    assert_snapshot("schema", crate::schema(&input));
}

#[test]
fn enum_and_newtype_values() {
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
fn items_are_generated_despite_a_mistake() {
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
