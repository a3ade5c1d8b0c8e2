//! Generates the checks of `range`, `length` and `one_of`, and their description in the table.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Expr, ExprArray, ExprLit, Lit, Path, Type};

use super::codecs::written;
use super::{here, local};
use crate::model::{Codec, Form};

/// Adds the field's limits to the codec.
pub(super) fn limited(krate: &Path, ty: &Type, codec: &Codec, new: TokenStream) -> TokenStream {
    if codec.limits.is_empty() {
        return new;
    }
    let value = local("value");
    let form = form(krate, ty, codec);
    let range = codec.limits.range.as_ref().map(|range| {
        quote_spanned!(here(range)=> range: ::core::option::Option::Some(|#value| #krate::__private::in_range::<#ty, _>(#value, &(#range), #form)),)
    });
    let length = codec.limits.length.as_ref().map(|length| {
        quote_spanned!(here(ty)=> length: ::core::option::Option::Some(|#value| #krate::__private::has_length::<#ty, _>(#value, &(#length))),)
    });
    let one_of = codec.limits.one_of.as_ref().map(|values| {
        let all = all(values);
        quote_spanned!(here(values)=> one_of: ::core::option::Option::Some(|#value| #krate::__private::is_one_of::<#ty>(#value, &#all, #form)),)
    });
    quote! {
        #krate::__private::limited::<#ty>(#new, #krate::__private::LimitsOf { #range #length #one_of ..#krate::__private::LimitsOf::NONE })
    }
}

/// Generates the limits for the table row of a field with this codec. `place` is an expression for
/// a reference to the codec. Returns `None` if the codec has no limits.
pub(super) fn described(krate: &Path, codec: &Codec, place: &TokenStream) -> Option<TokenStream> {
    let ask = |is_given: bool, ask: TokenStream| match is_given {
        true => quote!(::core::option::Option::Some(|| #krate::__private::#ask(#place))),
        false => quote!(::core::option::Option::None),
    };
    let limits = &codec.limits;
    let range = ask(limits.range.is_some(), quote!(range_of));
    let length = ask(limits.length.is_some(), quote!(length_of));
    let one_of = ask(limits.one_of.is_some(), quote!(values_of));
    (!limits.is_empty()).then(|| quote!(limits: #krate::__private::shown(#place, #krate::__private::limits(#range, #length, #one_of)),))
}

/// Generates the function that returns the stored form of a bound.
fn form(krate: &Path, ty: &Type, codec: &Codec) -> TokenStream {
    match &codec.form {
        Form::Text => quote!(#krate::__private::display::<#ty>),
        Form::Serde(module) => written(krate, ty, module),
        _ => quote!(<#ty as #krate::EtcdValue>::encode),
    }
}

/// Generates the array of the possible values. A string literal is converted to the type, as for a
/// default.
fn all(values: &ExprArray) -> TokenStream {
    let values = values.elems.iter().map(|value| match value {
        Expr::Lit(ExprLit { lit: Lit::Str(_), .. }) => quote!(::core::convert::Into::into(#value)),
        _ => quote!(#value),
    });
    quote!([#(#values),*])
}

/// Makes the codec secret if the type is a `Secret`. The trait must be in scope, so that the
/// constant exists for every type.
pub(super) fn secret_by_type(krate: &Path, ty: &Type, codec: &TokenStream) -> TokenStream {
    quote_spanned! {here(ty)=> {
        #[allow(unused_imports)]
        use #krate::__private::NotSecret as _;
        #krate::__private::secret_if(#codec, #krate::__private::IsSecret::<#ty>::IS)
    }}
}
