//! Generates the where clauses of the code for a generic struct: the struct's own clause, and the
//! bounds that its fields require.

use std::collections::BTreeSet;

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::{GenericParam, Generics, Type, WhereClause, WherePredicate, parse_quote};

use super::{here, stored};
use crate::model::{Codec, Field, Form, Inner, Item, Kind, Presence, Schema, Shape, Value};
use crate::parse::is_pointer;

/// Returns the generics of everything that is generated for this struct.
pub(crate) fn of_schema(model: &Schema) -> Generics {
    let mut bounds = Bounds::new(&model.item);
    for (at, field) in numbered(model) {
        bounds.nested(at, &field.kind);
    }
    if bounds.parameters.is_empty() {
        return bounds.generics;
    }
    for parameter in model.item.generics.type_params() {
        let ident = &parameter.ident;
        bounds.add(ident, quote!(::core::marker::Send + ::core::marker::Sync + 'static));
    }
    for lifetime in model.item.generics.lifetimes() {
        bounds.add(&lifetime.lifetime, quote!('static));
    }
    for field in model.all_fields() {
        match &field.kind {
            Kind::Leaf(leaf) => {
                bounds.value(&leaf.ty, &leaf.codec);
                if matches!(leaf.presence, Presence::Default) {
                    bounds.add(&leaf.ty, quote!(::core::default::Default));
                }
            }
            Kind::Dir { default: Some(default), .. } if default.is_of_type => {
                bounds.add(&field.ty, quote!(::core::default::Default));
            }
            Kind::Dir { .. } | Kind::Flatten(_) => {}
            Kind::DirMap(map) => bounds.map(&field.ty, &map.key, &map.value),
            Kind::Entries(map, codec) => {
                bounds.map(&field.ty, &map.key, &map.value);
                bounds.value(&map.value, codec);
            }
            Kind::Skip(None) => bounds.add(&field.ty, quote!(::core::default::Default)),
            Kind::Skip(Some(_)) => {}
        }
    }
    if model.has_default {
        let ident = &model.item.ident;
        let (_, ty_generics, _) = model.item.generics.split_for_impl();
        bounds.add(&quote!(#ident #ty_generics), quote!(::core::default::Default));
    }
    bounds.generics
}

/// Implements the bounds that [`of_schema`] adds for structs that may contain this struct.
pub(crate) fn nested(model: &Schema) -> TokenStream {
    let bounds = Bounds::new(&model.item);
    let (impl_generics, _, where_clause) = model.item.generics.split_for_impl();
    let one = |(at, field): (usize, &Field)| {
        let ty = bounds.containing(&field.kind)?;
        let bound = each_token(nested_in(&model.item, at), &|_| here(ty));
        Some(quote!(#[automatically_derived] impl #impl_generics #bound for #ty #where_clause {}))
    };
    numbered(model).filter_map(one).collect()
}

/// Returns the fields that have keys, including the fields of variants, each with its number.
fn numbered(model: &Schema) -> impl Iterator<Item = (usize, &Field)> {
    let variants = model.choice.iter().flat_map(|choice| &choice.variants).map(|variant| &variant.fields);
    std::iter::once(model).chain(variants).flat_map(|fields| stored(fields).map(|(at, field)| (fields.first + at, field)))
}

/// Returns the table of the struct in the field with this index.
pub(crate) fn table(model: &Schema, at: usize, field: &Field) -> TokenStream {
    let krate = &model.item.krate;
    let Some(ty) = nested_type(&field.kind) else { return TokenStream::new() };
    if Bounds::new(&model.item).containing(&field.kind).is_none() {
        return quote_spanned!(here(ty)=> <#ty as #krate::Schema>::TABLE);
    }
    let nested_in = nested_in(&model.item, model.first + at);
    quote_spanned!(here(ty)=> <#ty as #nested_in>::SCHEMAS_CANNOT_CONTAIN_EACH_OTHER)
}

/// Returns the type of the struct in a field, if the field contains one.
fn nested_type(kind: &Kind) -> Option<&Type> {
    match kind {
        Kind::Dir { ty, .. } | Kind::Flatten(ty) => Some(ty),
        Kind::DirMap(map) => Some(&map.value),
        Kind::Entries(..) | Kind::Leaf(_) | Kind::Skip(_) => None,
    }
}

/// Generates the bound `NestedIn` of the struct in field number `at`.
fn nested_in(item: &Item, at: usize) -> TokenStream {
    let (krate, ident) = (&item.krate, &item.ident);
    let (_, ty_generics, _) = item.generics.split_for_impl();
    quote!(#krate::__private::NestedIn<#ident #ty_generics, #at>)
}

/// Returns the generics of `impl EtcdValue`.
pub(crate) fn of_value(model: &Value) -> Generics {
    let mut bounds = Bounds::new(&model.item);
    if let Shape::Newtype(Inner { ty, .. }) | Shape::Converted { stored: ty, .. } = &model.shape {
        let krate = &model.item.krate;
        bounds.add(ty, quote!(#krate::EtcdValue));
    }
    if let Shape::Text { inner: Some(Inner { ty, .. }), .. } = &model.shape {
        bounds.add(ty, quote!(::core::fmt::Display + ::core::str::FromStr<Err: ::core::fmt::Display>));
    }
    bounds.generics
}

/// Keeps only the parameters that `types` use, and the bounds that mention no other parameters,
/// since an enum must not have unused parameters.
pub(crate) fn only_used(generics: &Generics, types: &[TokenStream]) -> Generics {
    let used: BTreeSet<String> = types.iter().flat_map(|ty| words(ty.clone())).collect();
    let (kept, left): (Vec<_>, Vec<_>) = generics.params.iter().cloned().partition(|parameter| used.contains(&name(parameter)));
    let left: BTreeSet<String> = left.iter().map(name).collect();
    let mut only = Generics { params: kept.into_iter().collect(), ..Generics::default() };
    let predicates = generics.where_clause.iter().flat_map(|clause| &clause.predicates);
    let kept: Vec<&WherePredicate> = predicates.filter(|predicate| words(predicate.to_token_stream()).is_disjoint(&left)).collect();
    if !kept.is_empty() {
        let clause: WhereClause = parse_quote!(where #(#kept),*);
        only.where_clause = Some(clause);
    }
    only
}

struct Bounds<'a> {
    item: &'a Item,
    /// The names of the struct's parameters.
    parameters: BTreeSet<String>,
    generics: Generics,
}

impl<'a> Bounds<'a> {
    fn new(item: &'a Item) -> Self {
        Self { item, parameters: item.generics.params.iter().map(name).collect(), generics: item.generics.clone() }
    }

    /// Adds the bounds for `ty` if it depends on a parameter. For any other type the compiler
    /// checks the bounds without this, and reports a better error.
    fn add(&mut self, ty: &impl ToTokens, bounds: TokenStream) {
        if self.depends(ty) {
            self.generics.make_where_clause().predicates.push(parse_quote!(#ty: #bounds));
        }
    }

    /// Whether `ty` depends on a parameter.
    fn depends(&self, ty: &impl ToTokens) -> bool {
        !words(ty.to_token_stream()).is_disjoint(&self.parameters)
    }

    /// Returns the type of the struct in a field, if that struct may in turn contain the struct
    /// that has the field. Such a cycle of structs contains a map or a pointer, since the compiler
    /// refuses all other cycles.
    fn containing<'k>(&self, kind: &'k Kind) -> Option<&'k Type> {
        let is_indirect = |ty: &&Type| matches!(kind, Kind::DirMap(_)) || is_pointer(ty);
        nested_type(kind).filter(is_indirect).filter(|ty| !self.depends(ty))
    }

    /// Adds the bounds for a nested struct and for the key of a map, even if they depend on no
    /// parameter. Each generated item has these bounds, so that the compiler assumes the
    /// implementation within the items. The compiler reports a missing implementation at the type,
    /// in the same words for each item, and therefore only once.
    fn nested(&mut self, at: usize, kind: &Kind) {
        let krate = &self.item.krate;
        let key = match kind {
            Kind::DirMap(map) | Kind::Entries(map, _) => Some(&map.key),
            Kind::Dir { .. } | Kind::Flatten(_) | Kind::Leaf(_) | Kind::Skip(_) => None,
        };
        let schema = match self.containing(kind) {
            Some(ty) => Some((ty, nested_in(self.item, at))),
            None => nested_type(kind).map(|ty| (ty, quote!(#krate::EtcdSchema))),
        };
        let key = key.map(|ty| (ty, quote!(#krate::MapKey)));
        for (ty, bound) in schema.into_iter().chain(key) {
            let bound = each_token(bound, &|_| here(ty));
            let ty = each_token(ty.to_token_stream(), &|span| span.resolved_at(Span::call_site()));
            let colon = quote_spanned!(here(&ty)=> :);
            self.generics.make_where_clause().predicates.push(parse_quote!(#ty #colon #bound));
        }
    }

    fn value(&mut self, ty: &Type, codec: &Codec) {
        let krate = &self.item.krate;
        let form = match codec.form {
            Form::Own => quote!(#krate::EtcdValue +),
            Form::Json => quote!(#krate::__private::Serde +),
            Form::With(_) | Form::Serde(_) => TokenStream::new(),
            Form::Text => quote!(::core::fmt::Display + ::core::str::FromStr<Err: ::core::fmt::Display> +),
        };
        self.add(ty, quote!(#form ::core::fmt::Debug));
    }

    fn map(&mut self, map: &Type, key: &Type, value: &Type) {
        let krate = &self.item.krate;
        self.add(map, quote!(#krate::Map<Key = #key, Value = #value>));
    }
}

/// Sets the span of each token. The compiler shows a predicate from its first to its last token.
fn each_token(tokens: TokenStream, span: &dyn Fn(Span) -> Span) -> TokenStream {
    let one = |token| match token {
        // The span of `$crate` identifies the crate, so it must not change.
        TokenTree::Ident(ident) if ident == "$crate" => TokenTree::Ident(ident),
        TokenTree::Group(group) => {
            let mut copy = Group::new(group.delimiter(), each_token(group.stream(), span));
            copy.set_span(span(group.span()));
            TokenTree::Group(copy)
        }
        mut token => {
            token.set_span(span(token.span()));
            token
        }
    };
    tokens.into_iter().map(one).collect()
}

fn name(parameter: &GenericParam) -> String {
    match parameter {
        GenericParam::Type(it) => it.ident.to_string(),
        GenericParam::Const(it) => it.ident.to_string(),
        GenericParam::Lifetime(it) => it.lifetime.ident.to_string(),
    }
}

/// Returns every identifier in these tokens. This may include identifiers that are not parameters;
/// the extra bounds are harmless.
fn words(tokens: TokenStream) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                words.insert(ident.to_string());
            }
            TokenTree::Group(group) => words.extend(self::words(group.stream())),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    words
}
