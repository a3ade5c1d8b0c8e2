//! Generates `CheckoutChange`, with one variant per field.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Generics, Path, Visibility};

use super::{allowed, bounds, change_name, doc, here, local, stored, tagged};
use crate::model::{Codec, Field, Kind, Schema};

pub(crate) fn change(model: &Schema) -> TokenStream {
    let intro = format!("A change of one field of [`{}`].", model.item.ident);
    change_of(model, &change_name(model), &intro, &model.change_derives)
}

/// Generates a change enum with this name and documentation.
pub(crate) fn change_of(model: &Schema, name: &Ident, intro: &str, derives: &[Path]) -> TokenStream {
    let vis = &model.item.vis;
    let allowed = allowed();
    let derives = derived(derives);
    // If other crates do not see all fields of the struct, they must expect further changes.
    let words = |vis: &Visibility| vis.to_token_stream().to_string();
    let is_hidden = |field: &Field| !matches!(field.vis, Visibility::Public(_)) && words(&field.vis) != words(&model.item.vis);
    let non_exhaustive = stored(model).any(|(_, field)| is_hidden(field)).then(|| quote!(#[non_exhaustive]));
    let types = types(model);
    let generics = generics(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let variants = stored(model).zip(&types).map(|((_, field), ty)| {
        let (doc, Field { variant, attrs, .. }) = (doc(&field.doc), field);
        let hidden = is_hidden(field).then(|| quote!(#[doc(hidden)]));
        quote!(#doc #hidden #(#attrs)* #variant(#ty))
    });
    let formatter = local("__f");
    let debug = match types.is_empty() {
        true => quote!(match *self {}),
        false => {
            let arms = stored(model).map(|(_, field)| debug(model, field, &formatter));
            quote!(match self { #(#arms)* })
        }
    };
    quote! {
        #[doc = #intro]
        #derives
        #allowed
        #non_exhaustive
        #vis enum #name #generics #where_clause { #(#variants),* }

        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics ::core::fmt::Debug for #name #ty_generics #where_clause {
            #[inline]
            fn fmt(&self, #formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                #debug
            }
        }
    }
}

/// Generates the attribute that derives these traits, if there are any.
pub(super) fn derived(derives: &[Path]) -> Option<TokenStream> {
    (!derives.is_empty()).then(|| quote!(#[derive(#(#derives),*)]))
}

/// Returns the generics of the enum.
pub(crate) fn generics(model: &Schema) -> Generics {
    bounds::only_used(&bounds::of_schema(model), &types(model))
}

fn types(model: &Schema) -> Vec<TokenStream> {
    if let Some(choice) = &model.choice {
        return choice.variants.iter().filter_map(|variant| tagged::change_type(model, variant)).collect();
    }
    stored(model).map(|(_, field)| ty(model, field)).collect()
}

/// Generates the type of the value in a field's change variant.
pub(super) fn ty(model: &Schema, field: &Field) -> TokenStream {
    let krate = &model.item.krate;
    match &field.kind {
        Kind::Leaf(leaf) => {
            let ty = &leaf.ty;
            quote!(#krate::Change<#ty>)
        }
        Kind::Dir { ty, .. } | Kind::Flatten(ty) => quote_spanned!(here(ty)=> <#ty as #krate::Schema>::Change),
        Kind::DirMap(map) => {
            let (key, value) = (&map.key, &map.value);
            quote_spanned!(here(value)=> #krate::Keyed<#key, <#value as #krate::Schema>::Change>)
        }
        Kind::Entries(map, _) => {
            let (key, value) = (&map.key, &map.value);
            quote!(#krate::Keyed<#key, #krate::Change<#value>>)
        }
        Kind::Skip(_) => TokenStream::new(),
    }
}

fn debug(model: &Schema, field: &Field, formatter: &Ident) -> TokenStream {
    let krate = &model.item.krate;
    let variant = &field.variant;
    let text = variant.to_string();
    let (show, ty) = match &field.kind {
        Kind::Leaf(leaf) => (hidden_or(&leaf.codec, "secret_change"), &leaf.ty),
        Kind::Entries(map, codec) => (hidden_or(codec, "secret_entry"), &map.value),
        _ => ("change", &field.ty),
    };
    let show = Ident::new(show, here(ty));
    let change = Ident::new("__change", Span::mixed_site().located_at(here(ty)));
    quote_spanned!(here(ty)=> Self::#variant(#change) => #krate::__private::#show(#formatter, #text, #change),)
}

fn hidden_or(codec: &Codec, hidden: &'static str) -> &'static str {
    if codec.secret { hidden } else { "change" }
}
