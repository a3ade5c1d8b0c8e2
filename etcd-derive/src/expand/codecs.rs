//! Generates a constant with the codecs of all fields, which the other generated functions use. So
//! the compiler reports an error in a field's type only once, here.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Expr, ExprLit, Index, Lit, Path, Type};

use super::{bounds, here, limits, local, stored};
use crate::model::{Codec, Field, Form, Kind, Leaf, Module, Presence, Schema};

/// The largest number of leaves in one tuple that `etcd-typed` supports.
const MOST_LEAVES: usize = 12;

/// A part of the struct that each generated function handles with one statement.
pub(crate) enum Part<'a> {
    /// Adjacent leaves.
    LeafTuple(LeafTuple<'a>),
    /// A directory or a map of structs, with its index in the table.
    Dir(usize, &'a Field),
    /// A map of values, with its index in the table and the codec of the values.
    Entries(usize, &'a Field, TokenStream),
}

pub(crate) struct LeafTuple<'a> {
    /// The index of the first leaf in the table.
    first: usize,
    /// The expression for these leaves, such as `Self::__CODECS.0`.
    pub(crate) place: TokenStream,
    pub(crate) leaves: Vec<(&'a Field, &'a Leaf)>,
}

/// Returns the parts of the struct, in the order of the table.
pub(crate) fn parts(model: &Schema) -> Vec<Part<'_>> {
    parts_in(model, &constant())
}

/// Returns the parts of a struct, or of one variant of an enum. `constant` is the name of the
/// constant with their codecs.
pub(crate) fn parts_in<'m>(model: &'m Schema, constant: &Ident) -> Vec<Part<'m>> {
    let mut parts = Vec::new();
    let mut places = (0..).map(|place| {
        let place = Index::from(place);
        quote!(Self::#constant.#place)
    });
    for (at, field) in stored(model) {
        match (&field.kind, parts.last_mut()) {
            (Kind::Leaf(leaf), Some(Part::LeafTuple(run))) if run.leaves.len() < MOST_LEAVES => run.leaves.push((field, leaf)),
            (Kind::Leaf(leaf), _) => {
                let place = places.next().unwrap_or_default();
                parts.push(Part::LeafTuple(LeafTuple { first: at, place, leaves: vec![(field, leaf)] }));
            }
            (Kind::Entries(..), _) => parts.push(Part::Entries(at, field, places.next().unwrap_or_default())),
            _ => parts.push(Part::Dir(at, field)),
        }
    }
    parts
}

/// Generates `Checkout::__CODECS`: a tuple with an element for each group of adjacent leaves and a
/// codec for each map of values.
pub(crate) fn codecs(model: &Schema, parts: &[Part<'_>]) -> TokenStream {
    codecs_in(model, parts, &constant())
}

/// Returns the name of the constant with a struct's codecs.
fn constant() -> Ident {
    Ident::new("__CODECS", Span::call_site())
}

/// Like [`codecs`], but with another name for the constant.
pub(crate) fn codecs_in(model: &Schema, parts: &[Part<'_>], constant: &Ident) -> TokenStream {
    let krate = &model.item.krate;
    let ident = &model.item.ident;
    let (mut types, mut values) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::LeafTuple(LeafTuple { first, leaves, .. }) => {
                let of = leaves.iter().map(|(_, leaf)| {
                    let ty = &leaf.ty;
                    match leaf.presence {
                        Presence::Optional => quote!(#krate::__private::LeafOpt<#ty>),
                        Presence::OptionalOr(..) => quote!(#krate::__private::LeafOptOr<#ty>),
                        _ => quote!(#krate::__private::Leaf<#ty>),
                    }
                });
                types.push(quote!(#krate::__private::LeafTuple<(#(#of,)*)>));
                let of = leaves.iter().map(|(_, leaf)| self::leaf(krate, leaf));
                values.push(quote!(#krate::__private::LeafTuple::new(#first, (#(#of,)*))));
            }
            Part::Entries(_, field, _) => {
                if let Kind::Entries(map, of) = &field.kind {
                    let ty = &map.value;
                    types.push(quote!(#krate::Codec<#ty>));
                    values.push(codec(krate, ty, of));
                }
            }
            Part::Dir(..) => {}
        }
    }
    if types.is_empty() {
        return TokenStream::new();
    }
    let generics = bounds::of_schema(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    quote! {
        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics #ident #ty_generics #where_clause {
            const #constant: &'static (#(#types,)*) = &(#(#values,)*);
        }
    }
}

/// Generates the expression for a leaf, with its default.
fn leaf(krate: &Path, leaf: &Leaf) -> TokenStream {
    let codec = codec(krate, &leaf.ty, &leaf.codec);
    match &leaf.presence {
        Presence::Required => quote!(#krate::__private::Leaf::new(#codec)),
        Presence::Optional => quote!(#krate::__private::LeafOpt::new(#codec)),
        Presence::Default => quote!(#krate::__private::Leaf::or(#codec, ::core::default::Default::default)),
        Presence::DefaultOf(expr, _) => {
            let expr = default(expr);
            quote!(#krate::__private::Leaf::or(#codec, || #expr))
        }
        Presence::OptionalOr(expr, _) => quote!(#krate::__private::LeafOptOr::new(#codec, || #expr)),
    }
}

/// Generates the value of a default. A string literal is converted to the type with `Into`.
fn default(expr: &Expr) -> TokenStream {
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Str(_), .. }) => quote!(::core::convert::Into::into(#expr)),
        _ => expr.to_token_stream(),
    }
}

/// Generates the expression for the codec of values of type `ty`.
fn codec(krate: &Path, ty: &Type, codec: &Codec) -> TokenStream {
    let value = local("value");
    let new = match &codec.form {
        Form::Own => quote_spanned!(here(ty)=> #krate::__private::value::<#ty>()),
        Form::Json => compared(krate, ty, &quote_spanned!(here(ty)=> #krate::__private::json::<#ty>())),
        Form::With(module) => {
            // If the module has neither function, this import causes one error about both.
            let with = quote_spanned! {here(module)=> {
                use #module::{decode as __decode, encode as __encode};
                #krate::Codec::<#ty>::with(
                    |#value: &#ty| #krate::__private::encoded(__encode(#value)),
                    |#value: &[::core::primitive::u8]| #krate::__private::checked(__decode(#value)),
                )
            }};
            limits::secret_by_type(krate, ty, &compared(krate, ty, &with))
        }
        Form::Serde(module) => limits::secret_by_type(krate, ty, &compared(krate, ty, &serde(krate, ty, module))),
        Form::Text => compared(krate, ty, &quote_spanned!(here(ty)=> #krate::__private::text_form::<#ty>())),
    };
    let new = limits::limited(krate, ty, codec, new);
    let validated = codec.validate.as_ref().map(|check| {
        let value = Ident::new("value", Span::mixed_site().located_at(here(check)));
        quote_spanned!(here(check)=> .validated(|#value: &#ty| #krate::__private::verdict(#check(#value))))
    });
    let secret = codec.secret.then(|| quote!(.secret()));
    quote!(#new #validated #secret)
}

/// Generates the function that converts a value with the `serialize` function of a serde module.
pub(super) fn written(krate: &Path, ty: &Type, module: &Module) -> TokenStream {
    let (value, to) = (local("value"), local("to"));
    let written = match (&module.serialize, module.optional) {
        (None, _) => quote_spanned!(here(ty)=> #krate::__private::serialize(#value, #to)),
        (Some(function), false) => quote_spanned!(here(function)=> #function(#value, #to)),
        (Some(function), true) => {
            quote_spanned!(here(function)=> #function(&::core::option::Option::Some(::core::clone::Clone::clone(#value)), #to))
        }
    };
    quote!(|#value: &#ty| #krate::__private::to_text(|#to| #written))
}

/// Generates the codec that stores a value in the form that a serde module writes.
fn serde(krate: &Path, ty: &Type, module: &Module) -> TokenStream {
    let (value, from) = (local("value"), local("from"));
    let written = written(krate, ty, module);
    let read = match (&module.deserialize, module.optional) {
        (None, _) => {
            quote_spanned!(here(ty)=> #krate::__private::from_text(#value, |#from| #krate::__private::deserialize(#from)))
        }
        (Some(function), false) => quote_spanned!(here(function)=> #krate::__private::from_text(#value, |#from| #function(#from))),
        (Some(function), true) => {
            quote_spanned!(here(function)=> #krate::__private::from_text(#value, |#from| #function(#from)).and_then(#krate::__private::present))
        }
    };
    quote! {
        #krate::Codec::<#ty>::with(
            #written,
            |#value: &[::core::primitive::u8]| #read,
        )
    }
}

/// Adds a comparison with `==` to the codec, if `ty` implements it. The trait must be in scope, so
/// that the constant exists for every type.
fn compared(krate: &Path, ty: &Type, codec: &TokenStream) -> TokenStream {
    quote_spanned! {here(ty)=> {
        #[allow(unused_imports)]
        use #krate::__private::NotComparable as _;
        #krate::__private::compared(#codec, #krate::__private::Comparable::<#ty>::EQUAL)
    }}
}
