//! Converts the model to tokens: names and calls, with absolute paths. The generated items are
//! described at `etcd_typed::EtcdSchema`.

pub(crate) mod bounds;
pub(crate) mod change;
pub(crate) mod codecs;
pub(crate) mod handle;
mod limits;
mod schema;
mod shown;
pub(crate) mod tagged;
mod value;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::spanned::Spanned;

use crate::model::{Field, Kind, Schema};

/// Generates all items of `#[derive(EtcdSchema)]`.
pub(crate) fn schema(model: &Schema) -> TokenStream {
    if let Some(choice) = &model.choice {
        return tagged::tagged(model, choice);
    }
    let parts = codecs::parts(model);
    let codecs = codecs::codecs(model, &parts);
    let schema = schema::schema(model, &parts);
    let handle = handle::handle(model, &parts);
    let change = change::change(model);
    let shown = shown::shown(model);
    quote! { #codecs #schema #handle #change #shown }
}

pub(crate) use value::value;

/// Returns the fields that have keys, each with its index in the table.
fn stored(model: &Schema) -> impl Iterator<Item = (usize, &Field)> {
    model.fields.iter().filter(|field| !matches!(field.kind, Kind::Skip(_))).enumerate()
}

/// Returns the name of the change enum, such as `CheckoutChange`.
fn change_name(model: &Schema) -> Ident {
    format_ident!("{}Change", model.item.ident)
}

/// Returns a local variable name that the user's expressions in the generated code cannot see.
fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

/// Returns the span that the compiler shows for errors in generated code: the tokens that the error
/// is about.
fn here(tokens: &impl Spanned) -> Span {
    tokens.span().resolved_at(Span::call_site())
}

/// Returns a `#[doc = "..."]` attribute, if the text is not empty.
fn doc(text: &str) -> Option<TokenStream> {
    (!text.is_empty()).then(|| quote!(#[doc = #text]))
}

/// Generates an attribute that disables lints on generated code, since the user cannot fix them
/// there.
fn allowed() -> impl ToTokens {
    quote!(#[allow(clippy::all, clippy::pedantic, dead_code, missing_docs, nonstandard_style, private_bounds, private_interfaces, unreachable_pub, unnameable_types, deprecated)])
}
