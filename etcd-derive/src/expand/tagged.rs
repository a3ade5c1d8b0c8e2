//! Generates the same items for an enum. Its table has a row for the tag and a row for each
//! variant. Each variant has its own codecs, its own group of handles and its own change enum.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;

use super::codecs::{self, Part};
use super::{allowed, bounds, change, change_name, doc, handle, here, local, schema, shown};
use crate::model::{Field, Kind, Schema, Tagged, TaggedVariant, VariantShape};

/// A variant with its index in the table.
struct Numbered<'m> {
    at: usize,
    variant: &'m TaggedVariant,
    /// The name of the constant with the variant's codecs.
    codecs: Ident,
    parts: Vec<Part<'m>>,
}

fn numbered(choice: &Tagged) -> Vec<Numbered<'_>> {
    let numbered = (1..).zip(&choice.variants).map(|(at, variant)| {
        let codecs = format_ident!("__CODECS_{}", at);
        let parts = codecs::parts_in(&variant.fields, &codecs);
        Numbered { at, variant, codecs, parts }
    });
    numbered.collect()
}

/// Generates all items of `#[derive(EtcdSchema)]` for an enum.
pub(crate) fn tagged(model: &Schema, choice: &Tagged) -> TokenStream {
    let variants = numbered(choice);
    let items = items(model, choice);
    let schema = implementation(model, choice, &variants);
    let shown = choice.variants.iter().map(|variant| shown::shown(&variant.fields));
    quote! { #schema #items #(#shown)* }
}

/// Generates the codecs, the handles and the change enums of an enum.
pub(crate) fn items(model: &Schema, choice: &Tagged) -> TokenStream {
    let variants = numbered(choice);
    let codecs = variants.iter().map(|it| codecs::codecs_in(&it.variant.fields, &it.parts, &it.codecs));
    let groups = choice.variants.iter().filter(|variant| has_group(variant)).map(|variant| group(model, variant));
    let changes = choice.variants.iter().filter(|variant| has_group(variant)).map(|variant| {
        let (name, of) = (variant_change_name(model, variant), format!("{}::{}", model.item.ident, variant.ident));
        change::change_of(&variant.fields, &name, &format!("A change of one field of [`{of}`]."), &model.change_derives)
    });
    let handle = whole_handle(model, &variants);
    let change = whole_change(model, choice);
    quote! { #(#codecs)* #handle #(#groups)* #change #(#changes)* }
}

/// Whether the variant has named fields that are stored.
fn has_group(variant: &TaggedVariant) -> bool {
    variant.shape == VariantShape::Named && super::stored(&variant.fields).next().is_some()
}

fn implementation(model: &Schema, choice: &Tagged, variants: &[Numbered<'_>]) -> TokenStream {
    let krate = &model.item.krate;
    let ident = &model.item.ident;
    let generics = bounds::of_schema(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let change = change_name(model);
    let change_generics = change::generics(model);
    let (_, change_generics, _) = change_generics.split_for_impl();
    let table = schema::table(model, &ident.to_string(), rows(model, choice, variants));
    // The derive macro sees only the named fields. The generated code makes the compiler compare
    // them with the keys of the structs in other variants.
    let distinct = model.all_fields().find(|field| matches!(field.kind, Kind::Flatten(_))).map(
        |Field { ty, .. }| quote_spanned!(here(ty)=> #krate::__private::distinct_variants(<#ident #ty_generics as #krate::Schema>::TABLE)),
    );
    let is_generic = !generics.params.is_empty();
    let at_once = distinct.as_ref().filter(|_| !is_generic).map(|distinct| quote!(const _: () = #distinct;));
    let when_used = distinct.as_ref().filter(|_| is_generic).map(|distinct| quote!(const { #distinct };));
    let (decoder, encoder, delta, out) = (local("__decoder"), local("__encoder"), local("__delta"), local("__out"));
    let decode = variants.iter().map(|it| decode(model, it, &decoder));
    let encode = variants.iter().map(|it| encode(model, it, &encoder));
    let tag_variant = tag_variant(choice);
    let changes = variants.iter().filter_map(|it| changes(model, it, &delta, &out));
    let validate = schema::validate(model);
    quote! {
        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics #krate::Schema for #ident #ty_generics #where_clause {
            type Change = #change #change_generics;

            const TABLE: &'static #krate::Table = &#table;

            fn decode(#decoder: &mut #krate::Decoder<'_>) -> ::core::option::Option<Self> {
                #when_used
                match #decoder.tag() {
                    #(#decode)*
                    _ => ::core::option::Option::None,
                }
            }

            fn encode(&self, #encoder: &mut #krate::Encoder<'_>) {
                match self {
                    #(#encode)*
                }
            }

            fn changes(#delta: &mut #krate::Delta<'_>, #out: &mut ::std::vec::Vec<Self::Change>) {
                #delta.tag(#change::#tag_variant, #out);
                #(#changes)*
            }

            #validate
        }

        #at_once
    }
}

/// Generates the rows of the table: a row for the tag, and a row for each variant.
fn rows(model: &Schema, choice: &Tagged, variants: &[Numbered<'_>]) -> Vec<TokenStream> {
    let krate = &model.item.krate;
    let tag = &choice.tag.text;
    let texts: Vec<_> = choice.variants.iter().filter_map(|variant| variant.tags.first()).map(|text| format!("`{}`", text.text)).collect();
    let type_name = match texts.as_slice() {
        [one] => one.clone(),
        texts => format!("one of {}", texts.join(", ")),
    };
    let tag = quote!(#krate::Field { name: #tag, segment: #tag, kind: #krate::Kind::Leaf(#type_name), ..#krate::__private::FIELD });
    let rows = variants.iter().map(|Numbered { variant, parts, .. }| {
        let name = variant.ident.unraw().to_string();
        let (doc, other, tags) = (&variant.doc, variant.other, variant.tags.iter().map(|tag| &tag.text));
        let table = schema::table(&variant.fields, &name, schema::rows(&variant.fields, parts));
        quote! {
            #krate::Field {
                name: #name,
                doc: #doc,
                kind: #krate::Kind::Variant { tags: &[#(#tags),*], other: #other, table: &#table },
                presence: #krate::Presence::Optional,
                ..#krate::__private::FIELD
            }
        }
    });
    std::iter::once(tag).chain(rows).collect()
}

/// Generates the path of a variant. Patterns and expressions with braces work for every shape.
fn path(variant: &TaggedVariant) -> TokenStream {
    let ident = &variant.ident;
    quote!(Self::#ident)
}

/// Returns the struct of a variant with one unnamed field.
fn inner(variant: &TaggedVariant) -> Option<&Field> {
    variant.fields.fields.first().filter(|_| variant.shape == VariantShape::Newtype)
}

fn decode(model: &Schema, it: &Numbered<'_>, decoder: &Ident) -> TokenStream {
    let krate = &model.item.krate;
    let (at, path) = (it.at, path(it.variant));
    let read = match inner(it.variant) {
        Some(Field { ty, .. }) => quote_spanned!(here(ty)=> #decoder.flatten::<#ty>().map(#path)),
        None => schema::decode(&it.variant.fields, &path, &it.parts, decoder),
    };
    quote! {
        ::core::option::Option::Some(#at) => #decoder.variant(#at, |#decoder: &mut #krate::Decoder<'_>| #read),
    }
}

fn encode(model: &Schema, it: &Numbered<'_>, encoder: &Ident) -> TokenStream {
    let krate = &model.item.krate;
    let (at, path) = (it.at, path(it.variant));
    let bound = |ident: &Ident| local(&format!("__value_{}", ident.unraw()));
    let pattern = match inner(it.variant) {
        Some(field) => {
            let bound = bound(&field.ident);
            quote!(#path(#bound))
        }
        None => {
            let fields = it.variant.fields.fields.iter().map(|field| {
                let (ident, bound) = (&field.ident, bound(&field.ident));
                match field.kind {
                    Kind::Skip(_) => quote!(#ident: _),
                    _ => quote!(#ident: #bound),
                }
            });
            quote!(#path { #(#fields),* })
        }
    };
    let write = it.parts.iter().map(|part| schema::encode(&model.item.krate, part, encoder, &|ident| bound(ident).into_token_stream()));
    let name = if it.parts.is_empty() { quote!(_) } else { encoder.into_token_stream() };
    quote! {
        #pattern => #encoder.variant(#at, |#name: &mut #krate::Encoder<'_>| { #(#write)* }),
    }
}

fn changes(model: &Schema, it: &Numbered<'_>, delta: &Ident, out: &Ident) -> Option<TokenStream> {
    let krate = &model.item.krate;
    let ty = change_type(model, it.variant)?;
    let (at, ident, change) = (it.at, &it.variant.ident, change_name(model));
    let read: Vec<TokenStream> = match inner(it.variant) {
        Some(Field { ty, .. }) => vec![quote_spanned!(here(ty)=> #delta.flatten::<#ty, _>(|change| change, #out);)],
        None => {
            let name = variant_change_name(model, it.variant);
            it.parts.iter().map(|part| schema::changes(&name, part, delta, out)).collect()
        }
    };
    Some(quote! {
        #delta.variant(
            #at,
            |#delta: &mut #krate::Delta<'_>, #out: &mut ::std::vec::Vec<#ty>| { #(#read)* },
            #change::#ident,
            #out,
        );
    })
}

/// Returns the name of the change enum of a variant with named fields, such as `StorageS3Change`.
fn variant_change_name(model: &Schema, variant: &TaggedVariant) -> Ident {
    format_ident!("{}{}Change", model.item.ident, variant.ident.unraw())
}

/// Generates the type of a variant's changes. Returns `None` for a variant without fields.
pub(super) fn change_type(model: &Schema, variant: &TaggedVariant) -> Option<TokenStream> {
    if let Some(field) = inner(variant) {
        return Some(change::ty(model, field));
    }
    let name = variant_change_name(model, variant);
    let generics = change::generics(&variant.fields);
    let (_, ty_generics, _) = generics.split_for_impl();
    has_group(variant).then(|| quote!(#name #ty_generics))
}

/// Returns the name of the change variant for the tag: a name that no other variant has.
fn tag_variant(choice: &Tagged) -> Ident {
    let mut name = "Variant".to_owned();
    while choice.variants.iter().any(|variant| variant.ident.unraw() == name) {
        name.push('_');
    }
    format_ident!("{name}")
}

/// Generates `StorageChange`: a change of the variant, or of a field of one variant.
fn whole_change(model: &Schema, choice: &Tagged) -> TokenStream {
    let krate = &model.item.krate;
    let (vis, name, allowed) = (&model.item.vis, change_name(model), allowed());
    let intro = format!("A change of [`{}`]: of its variant, or of one field of a variant.", model.item.ident);
    let derives = change::derived(&model.change_derives);
    let generics = change::generics(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let tag = tag_variant(choice);
    let changed: Vec<_> = choice.variants.iter().filter_map(|variant| Some((variant, change_type(model, variant)?))).collect();
    let variants = changed.iter().map(|(variant, ty)| {
        let (ident, doc, attrs) = (&variant.ident, doc(&variant.doc), &variant.attrs);
        quote!(#doc #(#attrs)* #ident(#ty))
    });
    let formatter = local("__f");
    let idents = std::iter::once(&tag).chain(changed.iter().map(|(variant, _)| &variant.ident));
    let arms = idents.map(|ident| {
        let (text, change) = (ident.unraw().to_string(), local("__change"));
        quote!(Self::#ident(#change) => #krate::__private::change(#formatter, #text, #change),)
    });
    quote! {
        #[doc = #intro]
        #derives
        #allowed
        #vis enum #name #generics #where_clause {
            /// The variant: the values of the tag.
            #tag(#krate::Change<::std::string::String>),
            #(#variants),*
        }

        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics ::core::fmt::Debug for #name #ty_generics #where_clause {
            fn fmt(&self, #formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                match self { #(#arms)* }
            }
        }
    }
}

/// Generates `StorageDir`, with a handle for each variant that has fields.
fn whole_handle(model: &Schema, variants: &[Numbered<'_>]) -> TokenStream {
    let krate = &model.item.krate;
    let vis = &model.item.vis;
    let intro = format!(
        "A handle to the directory of [`{ident}`]: the handles of each variant's fields, and the methods of [`Dir`]({krate}::Dir).",
        ident = model.item.ident,
        krate = handle::path(krate)
    );
    let fields = local("__fields");
    let (mut declared, mut statements, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let mut locals = 0;
    for Numbered { at, variant, parts, .. } in variants {
        let (name, doc, attrs) = (&variant.handle, doc(&variant.doc), &variant.attrs);
        if let Some(field) = inner(variant) {
            let ty = handle::ty(model, field);
            declared.push(quote!(#doc #(#attrs)* #vis #name: #ty,));
            let ty = &field.ty;
            values.push(quote_spanned!(here(ty)=> #name: #fields.variant(#at).flatten::<#ty>(),));
        } else if has_group(variant) {
            let group = group_name(model, variant);
            let generics = group_generics(variant);
            let (_, ty_generics, _) = generics.split_for_impl();
            declared.push(quote!(#doc #(#attrs)* #vis #name: #group #ty_generics,));
            let of = local(&format!("__variant_{at}"));
            let (more, of_group) = handle::values(parts, &of, locals);
            locals += of_group.len();
            statements.push(quote!(let #of = #fields.variant(#at);));
            statements.extend(more);
            values.push(quote!(#name: #group { #(#of_group)* },));
        }
    }
    handle::item(model, &intro, &declared, &statements, &values)
}

/// Returns the name of the struct with the handles of a variant with named fields, such as
/// `StorageS3Dir`.
fn group_name(model: &Schema, variant: &TaggedVariant) -> Ident {
    format_ident!("{}{}Dir", model.item.ident, variant.ident.unraw())
}

fn group_generics(variant: &TaggedVariant) -> syn::Generics {
    let types: Vec<_> = super::stored(&variant.fields).map(|(_, field)| handle::ty(&variant.fields, field)).collect();
    bounds::only_used(&bounds::of_schema(&variant.fields), &types)
}

/// Generates the struct with the handles of a variant with named fields.
fn group(model: &Schema, variant: &TaggedVariant) -> TokenStream {
    let (vis, allowed, name) = (&model.item.vis, allowed(), group_name(model, variant));
    let text = name.to_string();
    let intro = format!(
        "The handles of the fields of [`{ident}::{variant}`]. A write is refused with `Conflict` if the stored variant is another one.",
        ident = model.item.ident,
        variant = variant.ident
    );
    let declared = handle::declared(&variant.fields);
    let generics = group_generics(variant);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let fields: Vec<_> = super::stored(&variant.fields).map(|(_, field)| &field.ident).collect();
    let names = fields.iter().map(|ident| ident.unraw().to_string());
    let formatter = local("__f");
    quote! {
        #[doc = #intro]
        #allowed
        #vis struct #name #generics #where_clause {
            #(#declared)*
        }

        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics ::core::clone::Clone for #name #ty_generics #where_clause {
            fn clone(&self) -> Self {
                Self { #(#fields: ::core::clone::Clone::clone(&self.#fields),)* }
            }
        }

        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics ::core::fmt::Debug for #name #ty_generics #where_clause {
            fn fmt(&self, #formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                #formatter.debug_struct(#text) #(.field(#names, &self.#fields))* .finish()
            }
        }
    }
}
