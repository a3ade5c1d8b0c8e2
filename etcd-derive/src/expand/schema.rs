//! Generates `impl Schema`: the table, and three functions that have one statement for each part of
//! the struct.

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Index, Path};

use super::codecs::{LeafTuple, Part};
use super::{bounds, change_name, here, limits, local, stored};
use crate::model::{Codec, DirDefault, Field, Kind, Leaf, Presence, Schema, Unknown};

pub(super) fn schema(model: &Schema, parts: &[Part<'_>]) -> TokenStream {
    let krate = &model.item.krate;
    let ident = &model.item.ident;
    let generics = bounds::of_schema(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let change = change_name(model);
    let name = ident.to_string();
    let change_generics = super::change::generics(model);
    let (_, change_generics, _) = change_generics.split_for_impl();
    let table = table(model, &name, rows(model, parts));
    // The derive macro sees only the struct's own keys. The generated code makes the compiler
    // compare them with the keys of a flattened struct when it evaluates `TABLE`: always for a
    // struct without generic parameters, otherwise only where the generic struct is used.
    let distinct = stored(model)
        .find(|(_, field)| matches!(field.kind, Kind::Flatten(_)))
        .map(|(_, field)| quote_spanned!(here(&field.ty)=> #krate::__private::distinct(<#ident #ty_generics as #krate::Schema>::TABLE)));
    let is_generic = !generics.params.is_empty();
    let at_once = distinct.as_ref().filter(|_| !is_generic).map(|distinct| quote!(const _: () = #distinct;));
    let when_used = distinct.as_ref().filter(|_| is_generic).map(|distinct| quote!(const { #distinct };));
    let (decoder, encoder, delta, out) = (local("__decoder"), local("__encoder"), local("__delta"), local("__out"));
    let decode = decode(model, &quote!(Self), parts, &decoder);
    let encode = parts.iter().map(|part| encode(krate, part, &encoder, &|ident| quote!(&self.#ident)));
    let changes = parts.iter().map(|part| changes(&change, part, &delta, &out));
    let validate = validate(model);
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

            #[inline]
            fn encode(&self, #encoder: &mut #krate::Encoder<'_>) {
                #(#encode)*
            }

            #[inline]
            fn changes(#delta: &mut #krate::Delta<'_>, #out: &mut ::std::vec::Vec<Self::Change>) {
                #(#changes)*
            }

            #validate
        }

        #at_once
    }
}

/// Generates the validation of the struct or enum as a whole.
pub(super) fn validate(model: &Schema) -> Option<TokenStream> {
    let krate = &model.item.krate;
    model.validate.as_ref().map(|check| {
        let check = quote_spanned!(here(check)=> #krate::__private::verdict(#check(self)));
        quote! {
            fn validate(&self) -> ::core::result::Result<(), #krate::ValueError> {
                #check
            }
        }
    })
}

/// Generates the table from these rows.
pub(super) fn table(model: &Schema, name: &str, rows: Vec<TokenStream>) -> TokenStream {
    let krate = &model.item.krate;
    let doc = &model.doc;
    let prefix = match &model.prefix {
        Some(prefix) => {
            let text = &prefix.text;
            quote!(::core::option::Option::Some(#text))
        }
        None => quote!(::core::option::Option::None),
    };
    let unknown = match model.unknown {
        Unknown::Ignored => quote!(Ignored),
        Unknown::Reported => quote!(Reported),
        Unknown::Refused => quote!(Refused),
    };
    quote!(#krate::Table { name: #name, doc: #doc, prefix: #prefix, fields: &[#(#rows),*], unknown: #krate::UnknownKeys::#unknown })
}

/// Generates the rows of the table.
pub(super) fn rows(model: &Schema, parts: &[Part<'_>]) -> Vec<TokenStream> {
    let rows = parts.iter().flat_map(|part| match part {
        Part::LeafTuple(run) => leaves(&model.item.krate, run),
        Part::Dir(at, field) => vec![row(model, *at, field, None)],
        Part::Entries(at, field, codec) => vec![row(model, *at, field, Some(codec))],
    });
    rows.collect()
}

/// Generates the rows of adjacent leaves. Values that are part of a codec are read from the codec.
fn leaves(krate: &Path, run: &LeafTuple<'_>) -> Vec<TokenStream> {
    let row = |(at, (field, leaf)): (usize, &(&Field, &Leaf))| {
        let (name, segment, place, at) = (field.ident.to_string(), &field.segment.text, &run.place, Index::from(at));
        let row = quote!(#place.of.#at.row(#name, #segment));
        let mut more = doc(field);
        more.extend(default(krate, leaf, &quote!(#place.of.#at)));
        more.extend(limits::described(krate, &leaf.codec, &quote!(#place.of.#at.codec())));
        if !leaf.aliases.is_empty() {
            let aliases = leaf.aliases.iter().map(|alias| &alias.text);
            more.extend(quote!(aliases: &[#(#aliases),*],));
        }
        if more.is_empty() { row } else { quote!(#krate::Field { #more ..#row }) }
    };
    run.leaves.iter().enumerate().map(row).collect()
}

/// Generates the default of the leaf at `place`. The default of a secret is hidden.
fn default(krate: &Path, leaf: &Leaf, place: &TokenStream) -> TokenStream {
    match &leaf.presence {
        Presence::Required | Presence::Optional => TokenStream::new(),
        Presence::Default => {
            let text = format!("{}::default()", crate::parse::source(&leaf.ty));
            quote!(presence: #krate::Presence::Default(#text),)
        }
        Presence::DefaultOf(_, text) | Presence::OptionalOr(_, text) => quote!(presence: #place.presence(#text),),
    }
}

/// Generates the row of a directory or a map. The values that are not set here come from `FIELD`.
fn row(model: &Schema, at: usize, field: &Field, codec: Option<&TokenStream>) -> TokenStream {
    let krate = &model.item.krate;
    let table = bounds::table(model, at, field);
    let name = field.ident.to_string();
    let segment = &field.segment.text;
    let doc = doc(field);
    let presence = match &field.kind {
        Kind::Dir { optional, default: Some(default), .. } => {
            let text = &default.text;
            let kind = if *optional { quote!(OptionalOr) } else { quote!(Default) };
            Some(quote!(presence: #krate::Presence::#kind(#text),))
        }
        Kind::Dir { optional: true, .. } | Kind::DirMap(_) | Kind::Entries(..) => Some(quote!(presence: #krate::Presence::Optional,)),
        _ => None,
    };
    let mut flags = TokenStream::new();
    let kind = match &field.kind {
        Kind::Dir { ty, .. } => quote_spanned!(here(ty)=> Dir(#table)),
        Kind::DirMap(map) => {
            let key = &map.key;
            quote!(DirMap { key: <#key as #krate::EtcdValue>::TYPE, table: #table })
        }
        Kind::Entries(map, of) => {
            flags = self::flags(of);
            flags.extend(quote!(secret: #codec.is_secret(),));
            flags.extend(limits::described(krate, of, &quote!(&#codec)));
            let key = &map.key;
            quote!(Entries { key: <#key as #krate::EtcdValue>::TYPE, value: #codec.type_name() })
        }
        Kind::Flatten(ty) => quote_spanned!(here(ty)=> Flatten(#table)),
        Kind::Leaf(_) | Kind::Skip(_) => TokenStream::new(),
    };
    quote! {
        #krate::Field { name: #name, segment: #segment, #doc kind: #krate::Kind::#kind, #presence #flags ..#krate::__private::FIELD }
    }
}

fn doc(field: &Field) -> TokenStream {
    let doc = &field.doc;
    if doc.is_empty() { TokenStream::new() } else { quote!(doc: #doc,) }
}

fn flags(codec: &Codec) -> TokenStream {
    if codec.validate.is_some() { quote!(validated: true,) } else { TokenStream::new() }
}

/// Generates `decode`. The generated function reads every field before it checks the first result,
/// so that every problem is recorded. One `match` compiles faster than a `?` per part. `path` is
/// the path of the struct or the variant.
pub(super) fn decode(model: &Schema, path: &TokenStream, parts: &[Part<'_>], decoder: &Ident) -> TokenStream {
    let krate = &model.item.krate;
    let mut locals = (0..).map(|at| local(&format!("__{at}")));
    let (mut reads, mut patterns, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        let read = match part {
            Part::LeafTuple(run) => {
                let place = &run.place;
                quote!(#place.decode(#decoder))
            }
            Part::Dir(at, field) => read(krate, *at, field, decoder),
            Part::Entries(at, field, codec) => {
                let ty = &field.ty;
                quote!(#decoder.entries::<#ty>(#at, &#codec))
            }
        };
        let fields: Vec<&Field> = match part {
            Part::LeafTuple(run) => run.leaves.iter().map(|(field, _)| *field).collect(),
            Part::Dir(_, field) | Part::Entries(_, field, _) => vec![field],
        };
        let locals: Vec<_> = locals.by_ref().take(fields.len()).collect();
        values.extend(fields.iter().zip(&locals).map(|(field, local)| {
            let ident = &field.ident;
            quote!(#ident: #local)
        }));
        reads.push(read);
        patterns.push(match part {
            Part::LeafTuple(_) => quote!(::core::option::Option::Some((#(#locals,)*))),
            _ => quote!(::core::option::Option::Some(#(#locals)*)),
        });
    }
    let skipped = model.fields.iter().filter_map(|field| {
        let ident = &field.ident;
        match &field.kind {
            Kind::Skip(None) => Some(quote!(#ident: ::core::default::Default::default())),
            Kind::Skip(Some(default)) => Some(quote!(#ident: #default)),
            _ => None,
        }
    });
    let value = quote!(::core::option::Option::Some(#path { #(#values,)* #(#skipped),* }));
    let (read, pattern) = match (reads.as_slice(), patterns.as_slice()) {
        ([], _) => return value,
        ([read], [pattern]) => (quote!(#read), quote!(#pattern)),
        (reads, patterns) => (quote!((#(#reads,)*)), quote!((#(#patterns,)*))),
    };
    quote! {
        match #read {
            #pattern => #value,
            _ => ::core::option::Option::None,
        }
    }
}

/// Generates the name of the method that reads or writes a directory with a default, and the
/// expression of the default.
fn dir_default(krate: &Path, ty: &syn::Type, optional: bool, default: &DirDefault) -> (TokenStream, TokenStream) {
    let expr = &default.expr;
    match optional {
        false => (quote!(dir_or), quote_spanned!(here(ty)=> || -> #ty { #expr })),
        true => (quote!(dir_opt_or), quote!(#krate::__private::Fallback::Maybe(|| #expr))),
    }
}

/// Generates the expression that reads a directory or a map of structs.
fn read(krate: &Path, at: usize, field: &Field, decoder: &Ident) -> TokenStream {
    let read = match &field.kind {
        Kind::Dir { ty, optional, default: Some(default) } => {
            let (method, default) = dir_default(krate, ty, *optional, default);
            quote_spanned!(here(ty)=> #method::<#ty>(#at, #default))
        }
        Kind::Dir { ty, optional: false, .. } => quote_spanned!(here(ty)=> dir::<#ty>(#at)),
        Kind::Dir { ty, optional: true, .. } => quote_spanned!(here(ty)=> dir_opt::<#ty>(#at)),
        Kind::DirMap(_) => {
            let ty = &field.ty;
            quote!(dir_map::<#ty>(#at))
        }
        Kind::Flatten(ty) => quote_spanned!(here(ty)=> flatten::<#ty>()),
        Kind::Leaf(_) | Kind::Entries(..) | Kind::Skip(_) => TokenStream::new(),
    };
    quote!(#decoder.#read)
}

/// Generates the statement that writes a part of the struct. `value` returns the expression for a
/// reference to a field.
pub(super) fn encode(krate: &Path, part: &Part<'_>, encoder: &Ident, value: &dyn Fn(&Ident) -> TokenStream) -> TokenStream {
    let (at, field) = match part {
        Part::LeafTuple(run) => {
            let (place, values) = (&run.place, run.leaves.iter().map(|(field, _)| value(&field.ident)));
            return quote!(#place.encode(#encoder, (#(#values,)*)););
        }
        Part::Entries(at, field, codec) => {
            let value = value(&field.ident);
            return quote!(#encoder.entries(#at, #value, &#codec););
        }
        Part::Dir(at, field) => (at, field),
    };
    let value = value(&field.ident);
    match &field.kind {
        Kind::Dir { ty, optional, default: Some(default) } => {
            let (method, default) = dir_default(krate, ty, *optional, default);
            quote_spanned!(here(ty)=> #encoder.#method(#at, #value, #default);)
        }
        Kind::Dir { ty, optional: false, .. } => quote_spanned!(here(ty)=> #encoder.dir(#at, #value);),
        Kind::Dir { ty, optional: true, .. } => quote_spanned!(here(ty)=> #encoder.dir_opt(#at, #value);),
        Kind::DirMap(_) => quote!(#encoder.dir_map(#at, #value);),
        Kind::Flatten(_) => quote!(#encoder.flatten(#value);),
        Kind::Leaf(_) | Kind::Entries(..) | Kind::Skip(_) => TokenStream::new(),
    }
}

/// Generates the statement that adds the changes of a part of the struct. `change` is the name of
/// the change enum.
pub(super) fn changes(change: &Ident, part: &Part<'_>, delta: &Ident, out: &Ident) -> TokenStream {
    let (at, field) = match part {
        Part::LeafTuple(run) => {
            let (place, variants) = (&run.place, run.leaves.iter().map(|(field, _)| &field.variant));
            return quote!(#place.changes(#delta, (#(#change::#variants,)*), #out););
        }
        Part::Entries(at, field, codec) => {
            let variant = &field.variant;
            return quote!(#delta.entries(#at, &#codec, #change::#variant, #out););
        }
        Part::Dir(at, field) => (at, field),
    };
    let variant = &field.variant;
    match &field.kind {
        Kind::Dir { ty, .. } => quote_spanned!(here(ty)=> #delta.dir::<#ty, _>(#at, #change::#variant, #out);),
        Kind::DirMap(map) => {
            let (key, value) = (&map.key, &map.value);
            quote!(#delta.dir_map::<#key, #value, _>(#at, #change::#variant, #out);)
        }
        Kind::Flatten(ty) => quote!(#delta.flatten::<#ty, _>(#change::#variant, #out);),
        Kind::Leaf(_) | Kind::Entries(..) | Kind::Skip(_) => TokenStream::new(),
    }
}
