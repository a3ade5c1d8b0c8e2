//! Generates `impl EtcdValue` for an enum without data or a newtype.

use proc_macro2::{Ident, TokenStream};
use quote::quote;
use syn::Type;

use super::{bounds, local};
use crate::model::{Shape, Value, Variant};

pub(crate) fn value(model: &Value) -> TokenStream {
    let krate = &model.item.krate;
    let ident = &model.item.ident;
    let generics = bounds::of_value(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let body = match &model.shape {
        Shape::Choice(variants) => choice(model, variants),
        Shape::Newtype(ty, name) => newtype(model, ty, name.as_ref()),
        Shape::Unknown => TokenStream::new(),
    };
    quote! {
        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics #krate::EtcdValue for #ident #ty_generics #where_clause {
            #body
        }
    }
}

fn choice(model: &Value, variants: &[Variant]) -> TokenStream {
    let krate = &model.item.krate;
    let texts: Vec<_> = variants.iter().map(|variant| format!("`{}`", variant.text.text)).collect();
    let type_name = match texts.as_slice() {
        [one] => one.clone(),
        texts => format!("one of {}", texts.join(", ")),
    };
    let bytes = local("__bytes");
    let written = variants.iter().map(|variant| {
        let (ident, text) = (&variant.ident, &variant.text.text);
        quote!(Self::#ident => #text,)
    });
    let read = variants.iter().map(|variant| {
        let (ident, text) = (&variant.ident, &variant.text.text);
        let aliases = variant.aliases.iter().map(|alias| &alias.text);
        quote!(#text #(| #aliases)* => ::core::result::Result::Ok(Self::#ident),)
    });
    quote! {
        const TYPE: &'static ::core::primitive::str = #type_name;
        const QUOTABLE: ::core::primitive::bool = true;

        fn encode(&self) -> ::core::result::Result<#krate::__private::Bytes, #krate::ValueError> {
            #krate::__private::text(match self { #(#written)* })
        }

        fn decode(#bytes: &[::core::primitive::u8]) -> ::core::result::Result<Self, #krate::ValueError> {
            match #krate::__private::trimmed(#bytes)? {
                #(#read)*
                _ => ::core::result::Result::Err(#krate::__private::not_a(Self::TYPE)),
            }
        }

        fn survives(&self, _: &#krate::__private::Bytes) -> ::core::result::Result<(), #krate::ValueError> {
            ::core::result::Result::Ok(())
        }
    }
}

fn newtype(model: &Value, ty: &Type, name: Option<&Ident>) -> TokenStream {
    let inner = local("__inner");
    let (field, make) = match name {
        None => (quote!(0), quote!(Self)),
        Some(name) => (quote!(#name), quote!(|#inner| Self { #name: #inner })),
    };
    let krate = &model.item.krate;
    let bytes = local("__bytes");
    quote! {
        const TYPE: &'static ::core::primitive::str = <#ty as #krate::EtcdValue>::TYPE;
        const QUOTABLE: ::core::primitive::bool = <#ty as #krate::EtcdValue>::QUOTABLE;

        fn encode(&self) -> ::core::result::Result<#krate::__private::Bytes, #krate::ValueError> {
            <#ty as #krate::EtcdValue>::encode(&self.#field)
        }

        fn decode(#bytes: &[::core::primitive::u8]) -> ::core::result::Result<Self, #krate::ValueError> {
            <#ty as #krate::EtcdValue>::decode(#bytes).map(#make)
        }

        fn survives(&self, #bytes: &#krate::__private::Bytes) -> ::core::result::Result<(), #krate::ValueError> {
            <#ty as #krate::EtcdValue>::survives(&self.#field, #bytes)
        }
    }
}
