//! From the model to tokens: names and calls, every path absolute. What is generated is described at `etcd_typed::EtcdSchema`.

pub(crate) mod bounds;
pub(crate) mod change;
pub(crate) mod codecs;
pub(crate) mod handle;
mod schema;
mod value;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::spanned::Spanned;

use crate::model::{Field, Kind, Schema};

/// Everything that `#[derive(EtcdSchema)]` adds.
pub(crate) fn schema(model: &Schema) -> TokenStream {
    let parts = codecs::parts(model);
    let codecs = codecs::codecs(model, &parts);
    let schema = schema::schema(model, &parts);
    let handle = handle::handle(model, &parts);
    let change = change::change(model);
    quote! { #codecs #schema #handle #change }
}

pub(crate) use value::value;

/// The fields that have keys, each with its place in the table.
fn stored(model: &Schema) -> impl Iterator<Item = (usize, &Field)> {
    model.fields.iter().filter(|field| !matches!(field.kind, Kind::Skip)).enumerate()
}

/// `CheckoutChange`.
fn change_name(model: &Schema) -> Ident {
    format_ident!("{}Change", model.item.ident)
}

/// A name of a local variable that code of the user's within ours does not see.
fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

/// Where an error in generated code is reported: on the tokens that it is about.
fn here(tokens: &impl Spanned) -> Span {
    tokens.span().resolved_at(Span::call_site())
}

/// `#[doc = "..."]`, if there is something to say.
fn doc(text: &str) -> Option<TokenStream> {
    (!text.is_empty()).then(|| quote!(#[doc = #text]))
}

/// What lints may not say of generated code: the user cannot change it there.
fn allowed() -> impl ToTokens {
    quote!(#[allow(dead_code, missing_docs, private_bounds, private_interfaces, unreachable_pub, unnameable_types, deprecated)])
}
