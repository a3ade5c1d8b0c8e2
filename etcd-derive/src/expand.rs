//! From the model to tokens: names and calls, every path absolute. What is generated is described at `etcd_typed::EtcdSchema`.

pub(crate) mod bounds;
pub(crate) mod change;
pub(crate) mod handle;
mod schema;
mod value;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Path, Type};

use crate::model::{Codec, Field, Form, Kind, Schema};

/// Everything that `#[derive(EtcdSchema)]` adds.
pub(crate) fn schema(model: &Schema) -> TokenStream {
    let schema = schema::schema(model);
    let handle = handle::handle(model);
    let change = change::change(model);
    quote! { #schema #handle #change }
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

/// How values of type `ty` are written, read, checked and shown. It is spelled alike wherever it stands, so that what is wrong with the type is
/// reported once.
fn codec(krate: &Path, ty: &Type, codec: &Codec) -> TokenStream {
    let value = local("value");
    let new = match &codec.form {
        Form::Own => quote_spanned!(here(ty)=> #krate::__private::value::<#ty>()),
        Form::Json => quote_spanned!(here(ty)=> #krate::__private::json::<#ty>()),
        Form::With(module) => quote_spanned! {here(module)=>
            #krate::Codec::<#ty>::with(
                |#value: &#ty| #krate::__private::encoded(#module::encode(#value)),
                |#value: &[::core::primitive::u8]| #krate::__private::checked(#module::decode(#value)),
            )
        },
    };
    let validated = codec
        .validate
        .as_ref()
        .map(|check| quote_spanned!(here(check)=> .validated(|#value: &#ty| #krate::__private::checked(#check(#value)))));
    let secret = codec.secret.then(|| quote!(.secret()));
    quote!(#new #validated #secret)
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
