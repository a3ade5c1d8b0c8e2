//! Generates the same items if there are errors, so that code which uses these items causes no
//! further errors. The items contain the fields that could be read; their functions do nothing.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};

use crate::expand::{bounds, change, codecs, handle, tagged};
use crate::model::{Schema, Value};

/// Generates the compile errors, and the items of `expand::schema`.
pub(crate) fn schema(model: &Schema, errors: &syn::Error) -> TokenStream {
    let errors = errors.to_compile_error();
    let krate = &model.item.krate;
    let ident = &model.item.ident;
    let name = format_ident!("{ident}Change");
    let generics = bounds::of_schema(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let items = match &model.choice {
        Some(choice) => tagged::items(model, choice),
        None => {
            let parts = codecs::parts(model);
            let codecs = codecs::codecs(model, &parts);
            let handle = handle::handle(model, &parts);
            let change = change::change(model);
            quote! { #codecs #handle #change }
        }
    };
    let change_generics = change::generics(model);
    let (_, change_generics, _) = change_generics.split_for_impl();
    quote! {
        #errors
        #items

        impl #impl_generics #krate::Schema for #ident #ty_generics #where_clause {
            type Change = #name #change_generics;
            const TABLE: &'static #krate::Table = &#krate::Table { name: "", doc: "", prefix: ::core::option::Option::None, fields: &[], unknown: #krate::UnknownKeys::Ignored };
            fn decode(_: &mut #krate::Decoder<'_>) -> ::core::option::Option<Self> { ::core::option::Option::None }
            fn encode(&self, _: &mut #krate::Encoder<'_>) {}
            fn changes(_: &mut #krate::Delta<'_>, _: &mut ::std::vec::Vec<Self::Change>) {}
        }
    }
}

/// Generates the compile errors, and the items of `expand::value`.
pub(crate) fn value(model: &Value, errors: &syn::Error) -> TokenStream {
    let errors = errors.to_compile_error();
    let krate = &model.item.krate;
    let ident = &model.item.ident;
    let generics = bounds::of_value(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    quote! {
        #errors

        impl #impl_generics #krate::EtcdValue for #ident #ty_generics #where_clause {
            const TYPE: &'static ::core::primitive::str = "";
            fn encode(&self) -> ::core::result::Result<#krate::__private::Bytes, #krate::ValueError> { #krate::__private::text("") }
            fn decode(_: &[::core::primitive::u8]) -> ::core::result::Result<Self, #krate::ValueError> {
                ::core::result::Result::Err(#krate::__private::not_a(Self::TYPE))
            }
        }
    }
}
