//! The codecs of all fields, once: a constant that the other generated functions take them from. What is wrong with a field's type is said here,
//! and only here.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Index, Path, Type};

use super::{bounds, here, local, stored};
use crate::model::{Codec, Field, Form, Kind, Schema};

/// `Checkout::__CODECS`: a tuple with a codec for each leaf and each map of values.
pub(crate) fn codecs(model: &Schema) -> TokenStream {
    let krate = &model.item.krate;
    let ident = &model.item.ident;
    let generics = bounds::of_schema(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let of: Vec<_> = stored(model).filter_map(|(_, field)| of(field)).collect();
    let types = of.iter().map(|(ty, _)| quote!(#krate::Codec<#ty>));
    let codecs = of.iter().map(|(ty, of)| codec(krate, ty, of));
    if of.is_empty() {
        return TokenStream::new();
    }
    quote! {
        #[automatically_derived]
        impl #impl_generics #ident #ty_generics #where_clause {
            const __CODECS: &'static (#(#types,)*) = &(#(#codecs,)*);
        }
    }
}

/// The codec of the field at this place in the table, as a place within an impl of the struct.
pub(super) fn codec_of(model: &Schema, at: usize) -> TokenStream {
    let number = stored(model).take(at).filter(|(_, field)| of(field).is_some()).count();
    let index = Index::from(number);
    quote!(Self::__CODECS.#index)
}

/// The type of a field's values, and how they are stored; none of a directory.
fn of(field: &Field) -> Option<(&Type, &Codec)> {
    match &field.kind {
        Kind::Leaf(leaf) => Some((&leaf.ty, &leaf.codec)),
        Kind::Entries(map, codec) => Some((&map.value, codec)),
        Kind::Dir { .. } | Kind::DirMap(_) | Kind::Flatten(_) | Kind::Skip => None,
    }
}

/// How values of type `ty` are written, read, checked and shown.
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
