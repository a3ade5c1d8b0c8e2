//! The derive macros of `etcd-typed`. That crate re-exports them, and documents them at the
//! re-exports.
//!
//! The modules form a pipeline. Attributes (`attr`, `serde_attrs`) and syntax (`parse`) become a
//! `model`, which is checked as a whole (`check`) and converted to tokens (`expand`). `ctxt`
//! collects mistakes on the way. If there are any, `fallback` prevents them from causing further
//! errors.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod attr;
mod case;
mod check;
mod ctxt;
mod expand;
mod fallback;
mod model;
mod parse;
mod serde_attrs;
#[cfg(test)]
mod tests;

use proc_macro2::TokenStream;
use syn::{DeriveInput, parse_macro_input};

use crate::ctxt::Ctxt;

/// Documented at `etcd_typed::EtcdSchema`.
#[proc_macro_derive(EtcdSchema, attributes(etcd, serde))]
pub fn derive_schema(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    schema(&input).into()
}

/// Documented at `etcd_typed::EtcdValue`.
#[proc_macro_derive(EtcdValue, attributes(etcd, serde))]
pub fn derive_value(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    value(&input).into()
}

fn schema(input: &DeriveInput) -> TokenStream {
    let ctxt = Ctxt::default();
    let mut model = parse::schema(&ctxt, input);
    check::schema(&ctxt, &mut model);
    match ctxt.finish() {
        Ok(()) => expand::schema(&model),
        Err(errors) => fallback::schema(&model, &errors),
    }
}

fn value(input: &DeriveInput) -> TokenStream {
    let ctxt = Ctxt::default();
    let model = parse::value(&ctxt, input);
    check::value(&ctxt, &model);
    match ctxt.finish() {
        Ok(()) => expand::value(&model),
        Err(errors) => fallback::value(&model, &errors),
    }
}
