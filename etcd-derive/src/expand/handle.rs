//! Generates `CheckoutDir`, with a public field for each field and with `open`, and `impl
//! EtcdSchema`.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;

use super::codecs::Part;
use super::{allowed, bounds, doc, here, local, stored};
use crate::model::{Field, Kind, Piece, Prefix, Schema};

pub(crate) fn handle(model: &Schema, parts: &[Part<'_>]) -> TokenStream {
    let krate = &model.item.krate;
    let ident = &model.item.ident;
    let intro = format!(
        "A handle to the directory of [`{ident}`]: one handle for each field, and the methods of [`Dir`]({krate}::Dir).",
        krate = path(krate)
    );
    let (leaves, values) = values(parts, &local("__fields"), 0);
    item(model, &intro, &declared(model), &leaves, &values)
}

/// Generates the fields of the handle.
pub(super) fn declared(model: &Schema) -> Vec<TokenStream> {
    let declared = stored(model).map(|(_, field)| {
        let (doc, Field { ident, vis, attrs, .. }, ty) = (doc(&field.doc), field, ty(model, field));
        quote!(#doc #(#attrs)* #vis #ident: #ty,)
    });
    declared.collect()
}

/// Generates the statements that make the handles of leaves, and the values of the fields. The
/// statements use local variables from the number `first` on.
pub(super) fn values(parts: &[Part<'_>], fields: &Ident, first: usize) -> (Vec<TokenStream>, Vec<TokenStream>) {
    let (mut leaves, mut values) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::LeafTuple(run) => {
                let names: Vec<_> = run.leaves.iter().map(|(field, _)| &field.ident).collect();
                let locals: Vec<_> = (0..names.len()).map(|at| local(&format!("__{}", first + values.len() + at))).collect();
                let place = &run.place;
                leaves.push(quote!(let (#(#locals,)*) = #place.entries(&#fields);));
                values.extend(names.iter().zip(&locals).map(|(name, local)| quote!(#name: #local,)));
            }
            Part::Dir(at, field) => {
                let (ident, value) = (&field.ident, value(*at, field));
                values.push(quote!(#ident: #fields.#value,));
            }
            Part::Entries(at, field, codec) => {
                let ident = &field.ident;
                values.push(quote!(#ident: #fields.entries(#at, &#codec),));
            }
        }
    }
    (leaves, values)
}

/// Generates the handle with these fields.
pub(super) fn item(model: &Schema, intro: &str, declared: &[TokenStream], leaves: &[TokenStream], values: &[TokenStream]) -> TokenStream {
    let krate = &model.item.krate;
    let (vis, ident) = (&model.item.vis, &model.item.ident);
    let name = format_ident!("{}Dir", ident);
    let hidden = hidden_field(model);
    let allowed = allowed();
    let generics = bounds::of_schema(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let nested = bounds::nested(model);
    let (dir, fields) = (local("__dir"), local("__fields"));
    let open = model.prefix.as_ref().map(|prefix| open(model, prefix));
    let formatter = local("__f");
    quote! {
        #[doc = #intro]
        #allowed
        #vis struct #name #generics #where_clause {
            #(#declared)*
            #hidden: #krate::Dir<#ident #ty_generics>,
        }

        #open

        #nested

        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics #krate::EtcdSchema for #ident #ty_generics #where_clause {
            type Handle = #name #ty_generics;

            #[inline]
            fn handle(#dir: #krate::Dir<Self>) -> Self::Handle {
                let #fields = #dir.__fields();
                #(#leaves)*
                #name { #(#values)* #hidden: #dir }
            }
        }

        #[automatically_derived]
        impl #impl_generics ::core::ops::Deref for #name #ty_generics #where_clause {
            type Target = #krate::Dir<#ident #ty_generics>;

            #[inline]
            fn deref(&self) -> &Self::Target {
                &self.#hidden
            }
        }

        #[automatically_derived]
        impl #impl_generics ::core::clone::Clone for #name #ty_generics #where_clause {
            #[inline]
            fn clone(&self) -> Self {
                #krate::EtcdSchema::handle(::core::clone::Clone::clone(&self.#hidden))
            }
        }

        #[automatically_derived]
        impl #impl_generics ::core::fmt::Debug for #name #ty_generics #where_clause {
            #[inline]
            fn fmt(&self, #formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Debug::fmt(&self.#hidden, #formatter)
            }
        }
    }
}

/// Returns a name that no field of the struct has.
fn hidden_field(model: &Schema) -> Ident {
    let mut name = "__dir".to_owned();
    let variants: Vec<_> = model.choice.iter().flat_map(|choice| &choice.variants).map(|variant| &variant.handle).collect();
    while model.fields.iter().map(|field| &field.ident).chain(variants.iter().copied()).any(|ident| ident.unraw() == name) {
        name.push('_');
    }
    format_ident!("{name}")
}

/// Generates the type of a field's handle.
pub(super) fn ty(model: &Schema, field: &Field) -> TokenStream {
    let krate = &model.item.krate;
    match &field.kind {
        Kind::Leaf(leaf) => {
            let ty = &leaf.ty;
            quote!(#krate::Entry<#ty>)
        }
        Kind::Dir { ty, .. } | Kind::Flatten(ty) => quote_spanned!(here(ty)=> <#ty as #krate::EtcdSchema>::Handle),
        Kind::DirMap(map) => {
            let (key, value) = (&map.key, &map.value);
            quote_spanned!(here(value)=> #krate::DirMap<#key, #value>)
        }
        Kind::Entries(map, _) => {
            let (key, value) = (&map.key, &map.value);
            quote!(#krate::EntryMap<#key, #value>)
        }
        Kind::Skip(_) => TokenStream::new(),
    }
}

/// Generates the expression for the handle of a directory or a map of structs.
fn value(at: usize, field: &Field) -> TokenStream {
    match &field.kind {
        Kind::Dir { ty, .. } => quote_spanned!(here(ty)=> dir::<#ty>(#at)),
        Kind::Flatten(ty) => quote_spanned!(here(ty)=> flatten::<#ty>()),
        Kind::DirMap(map) => {
            let (key, value) = (&map.key, &map.value);
            quote!(dir_map::<#key, #value>(#at))
        }
        Kind::Leaf(_) | Kind::Entries(..) | Kind::Skip(_) => TokenStream::new(),
    }
}

fn open(model: &Schema, prefix: &Prefix) -> TokenStream {
    let krate = &model.item.krate;
    let (vis, ident) = (&model.item.vis, &model.item.ident);
    let name = format_ident!("{}Dir", ident);
    let generics = bounds::of_schema(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let intro = format!("Opens the directory `{}`. Each parameter is escaped, so that it stays within its segment.", prefix.text);
    let client = local("__client");
    let parameters = &prefix.parameters;
    let segments = prefix.segments.iter().map(|pieces| match pieces.as_slice() {
        [Piece::Literal(literal)] => quote!(#krate::__private::Segment::Literal(#literal)),
        pieces => {
            let pieces = pieces.iter().map(|piece| match piece {
                Piece::Literal(literal) => quote!(&#literal),
                Piece::Parameter(parameter) => quote!(&#parameter),
            });
            quote!(#krate::__private::Segment::Of(&[#(#pieces),*]))
        }
    });
    quote! {
        impl #impl_generics #name #ty_generics #where_clause {
            #[doc = #intro]
            #[doc = "\n\n# Errors\n\nNone at present: characters that a key cannot contain are escaped."]
            #[allow(dead_code)]
            #vis fn open(
                #client: &#krate::Client,
                #(#parameters: impl ::core::fmt::Display),*
            ) -> #krate::Result<Self> {
                #krate::__private::open::<#ident #ty_generics>(#client, &[#(#segments),*])
            }
        }
    }
}

/// Returns a path as text for documentation.
pub(super) fn path(krate: &syn::Path) -> String {
    crate::parse::source(krate)
}
