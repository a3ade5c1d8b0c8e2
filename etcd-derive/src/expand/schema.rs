//! `impl Schema`: the table, and a line for each field in each of three functions.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{Expr, ExprLit, Lit};

use super::codecs::codec_of;
use super::{bounds, change_name, here, local, stored};
use crate::model::{Codec, Field, Kind, Leaf, Presence, Schema};

pub(super) fn schema(model: &Schema) -> TokenStream {
    let krate = &model.item.krate;
    let ident = &model.item.ident;
    let generics = bounds::of_schema(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let change = change_name(model);
    let change_generics = super::change::generics(model);
    let (_, change_generics, _) = change_generics.split_for_impl();
    let table = table(model);
    // The derive sees the struct's own keys; those of a flattened struct are compared with them when the table is evaluated: at once, or of a generic
    // struct when it is used.
    let distinct = stored(model)
        .find(|(_, field)| matches!(field.kind, Kind::Flatten(_)))
        .map(|(_, field)| quote_spanned!(here(&field.ty)=> #krate::__private::distinct(<#ident #ty_generics as #krate::Schema>::TABLE)));
    let is_generic = !generics.params.is_empty();
    let at_once = distinct.as_ref().filter(|_| !is_generic).map(|distinct| quote!(const _: () = #distinct;));
    let when_used = distinct.as_ref().filter(|_| is_generic).map(|distinct| quote!(const { #distinct };));
    let (decoder, encoder, delta, out) = (local("__decoder"), local("__encoder"), local("__delta"), local("__out"));
    let decode = decode(model, &decoder);
    let encode = stored(model).map(|(at, field)| encode(model, at, field, &encoder));
    let changes = stored(model).map(|(at, field)| changes(model, at, field, &delta, &out));
    let validate = model.validate.as_ref().map(|check| {
        quote! {
            fn validate(&self) -> ::core::result::Result<(), #krate::ValueError> {
                #krate::__private::checked(#check(self))
            }
        }
    });
    quote! {
        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics #krate::Schema for #ident #ty_generics #where_clause {
            type Change = #change #change_generics;

            const TABLE: &'static #krate::Table = &#table;

            fn decode(#decoder: &mut #krate::Decoder<'_>) -> ::core::option::Option<Self> {
                #when_used
                #decode
            }

            fn encode(&self, #encoder: &mut #krate::Encoder<'_>) {
                #(#encode)*
            }

            fn changes(#delta: &mut #krate::Delta<'_>, #out: &mut ::std::vec::Vec<Self::Change>) {
                #(#changes)*
            }

            #validate
        }

        #at_once
    }
}

fn table(model: &Schema) -> TokenStream {
    let krate = &model.item.krate;
    let name = model.item.ident.to_string();
    let doc = &model.doc;
    let prefix = match &model.prefix {
        Some(prefix) => {
            let text = &prefix.text;
            quote!(::core::option::Option::Some(#text))
        }
        None => quote!(::core::option::Option::None),
    };
    let fields = stored(model).map(|(at, field)| row(model, at, field));
    quote!(#krate::Table { name: #name, doc: #doc, prefix: #prefix, fields: &[#(#fields),*] })
}

/// One field of the table; what is not said is as in `FIELD`.
fn row(model: &Schema, at: usize, field: &Field) -> TokenStream {
    let krate = &model.item.krate;
    let name = field.ident.to_string();
    let segment = &field.segment.text;
    let doc = (!field.doc.is_empty()).then(|| {
        let doc = &field.doc;
        quote!(doc: #doc,)
    });
    let mut presence = TokenStream::new();
    let mut flags = TokenStream::new();
    let kind = match &field.kind {
        Kind::Leaf(leaf) => {
            presence = self::presence(model, leaf);
            if !leaf.aliases.is_empty() {
                let aliases = leaf.aliases.iter().map(|alias| &alias.text);
                flags.extend(quote!(aliases: &[#(#aliases),*],));
            }
            flags.extend(self::flags(&leaf.codec));
            let codec = codec_of(model, at);
            quote!(Leaf(#codec.type_name()))
        }
        Kind::Dir { ty, optional } => {
            if *optional {
                presence = quote!(presence: #krate::Presence::Optional,);
            }
            quote_spanned!(here(ty)=> Dir(<#ty as #krate::Schema>::TABLE))
        }
        Kind::DirMap(map) => {
            presence = quote!(presence: #krate::Presence::Optional,);
            let (key, value) = (&map.key, &map.value);
            quote!(DirMap { key: <#key as #krate::EtcdValue>::TYPE, table: <#value as #krate::Schema>::TABLE })
        }
        Kind::Entries(map, of) => {
            presence = quote!(presence: #krate::Presence::Optional,);
            flags.extend(self::flags(of));
            let key = &map.key;
            let codec = codec_of(model, at);
            quote!(Entries { key: <#key as #krate::EtcdValue>::TYPE, value: #codec.type_name() })
        }
        Kind::Flatten(ty) => quote_spanned!(here(ty)=> Flatten(<#ty as #krate::Schema>::TABLE)),
        Kind::Skip => TokenStream::new(),
    };
    quote! {
        #krate::Field { name: #name, segment: #segment, #doc kind: #krate::Kind::#kind, #presence #flags ..#krate::__private::FIELD }
    }
}

fn presence(model: &Schema, leaf: &Leaf) -> TokenStream {
    let krate = &model.item.krate;
    match &leaf.presence {
        Presence::Required => TokenStream::new(),
        Presence::Optional => quote!(presence: #krate::Presence::Optional,),
        Presence::Default => {
            let text = format!("{}::default()", crate::parse::source(&leaf.ty));
            quote!(presence: #krate::Presence::Default(#text),)
        }
        // It is the value of everybody who sets none.
        Presence::DefaultOf(..) if leaf.codec.secret => quote!(presence: #krate::Presence::Default("***"),),
        Presence::DefaultOf(_, text) => quote!(presence: #krate::Presence::Default(#text),),
    }
}

fn flags(codec: &Codec) -> TokenStream {
    let secret = codec.secret.then(|| quote!(secret: true,));
    let validated = codec.validate.is_some().then(|| quote!(validated: true,));
    quote!(#secret #validated)
}

/// Every field is read before the first is looked at, so that every problem is noted. One `match` costs the compiler less than a `?` for each field.
fn decode(model: &Schema, decoder: &Ident) -> TokenStream {
    let mut locals = (0..).map(|at| local(&format!("__{at}")));
    let values = model.fields.iter().map(|field| {
        let ident = &field.ident;
        match field.kind {
            Kind::Skip => quote!(#ident: ::core::default::Default::default()),
            _ => {
                let local = locals.next();
                quote!(#ident: #local)
            }
        }
    });
    let value = quote!(::core::option::Option::Some(Self { #(#values),* }));
    let reads: Vec<_> = stored(model).map(|(at, field)| read(model, at, field)).collect();
    if reads.is_empty() {
        return value;
    }
    let locals = (0..reads.len()).map(|at| local(&format!("__{at}")));
    quote! {
        match (#(#decoder.#reads,)*) {
            (#(::core::option::Option::Some(#locals),)*) => #value,
            _ => ::core::option::Option::None,
        }
    }
}

fn read(model: &Schema, at: usize, field: &Field) -> TokenStream {
    match &field.kind {
        Kind::Leaf(leaf) => {
            let codec = codec_of(model, at);
            match &leaf.presence {
                Presence::Required => quote!(leaf(#at, &#codec)),
                Presence::Optional => quote!(leaf_opt(#at, &#codec)),
                Presence::Default => quote!(leaf_or(#at, &#codec, ::core::default::Default::default)),
                Presence::DefaultOf(expr, _) => {
                    let expr = default(expr);
                    quote!(leaf_or(#at, &#codec, || #expr))
                }
            }
        }
        Kind::Dir { ty, optional: false } => quote_spanned!(here(ty)=> dir::<#ty>(#at)),
        Kind::Dir { ty, optional: true } => quote_spanned!(here(ty)=> dir_opt::<#ty>(#at)),
        Kind::DirMap(_) => {
            let ty = &field.ty;
            quote!(dir_map::<#ty>(#at))
        }
        Kind::Entries(..) => {
            let ty = &field.ty;
            let codec = codec_of(model, at);
            quote!(entries::<#ty>(#at, &#codec))
        }
        Kind::Flatten(ty) => quote!(flatten::<#ty>()),
        Kind::Skip => TokenStream::new(),
    }
}

/// A text in quotes is a default for everything that can be made of it.
fn default(expr: &Expr) -> TokenStream {
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Str(_), .. }) => quote!(::core::convert::Into::into(#expr)),
        _ => expr.to_token_stream(),
    }
}

fn encode(model: &Schema, at: usize, field: &Field, encoder: &Ident) -> TokenStream {
    let ident = &field.ident;
    match &field.kind {
        Kind::Leaf(leaf) => {
            let codec = codec_of(model, at);
            let method = format_ident!("{}", if matches!(leaf.presence, Presence::Optional) { "leaf_opt" } else { "leaf" });
            quote!(#encoder.#method(#at, &self.#ident, &#codec);)
        }
        Kind::Dir { ty, optional: false } => quote_spanned!(here(ty)=> #encoder.dir(#at, &self.#ident);),
        Kind::Dir { ty, optional: true } => quote_spanned!(here(ty)=> #encoder.dir_opt(#at, &self.#ident);),
        Kind::DirMap(_) => quote!(#encoder.dir_map(#at, &self.#ident);),
        Kind::Entries(..) => {
            let codec = codec_of(model, at);
            quote!(#encoder.entries(#at, &self.#ident, &#codec);)
        }
        Kind::Flatten(_) => quote!(#encoder.flatten(&self.#ident);),
        Kind::Skip => TokenStream::new(),
    }
}

fn changes(model: &Schema, at: usize, field: &Field, delta: &Ident, out: &Ident) -> TokenStream {
    let change = change_name(model);
    let variant = &field.variant;
    match &field.kind {
        Kind::Leaf(_) => {
            let codec = codec_of(model, at);
            quote!(#delta.leaf(#at, &#codec, #change::#variant, #out);)
        }
        Kind::Dir { ty, .. } => quote_spanned!(here(ty)=> #delta.dir::<#ty, _>(#at, #change::#variant, #out);),
        Kind::DirMap(map) => {
            let (key, value) = (&map.key, &map.value);
            quote!(#delta.dir_map::<#key, #value, _>(#at, #change::#variant, #out);)
        }
        Kind::Entries(..) => {
            let codec = codec_of(model, at);
            quote!(#delta.entries(#at, &#codec, #change::#variant, #out);)
        }
        Kind::Flatten(ty) => quote!(#delta.flatten::<#ty, _>(#change::#variant, #out);),
        Kind::Skip => TokenStream::new(),
    }
}
