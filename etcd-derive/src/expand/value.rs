//! Generates `impl EtcdValue` for an enum without data, a newtype, or a type that is stored as its
//! text or as another type.

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Generics, Path, Type};

use super::{bounds, here, local};
use crate::model::{Inner, Shape, Value, Variant};

pub(crate) fn value(model: &Value) -> TokenStream {
    let krate = &model.item.krate;
    let ident = &model.item.ident;
    let generics = bounds::of_value(model);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let body = match &model.shape {
        Shape::Choice(variants) => choice(model, variants),
        Shape::Newtype(inner) => newtype(model, inner),
        Shape::Converted { stored, validate } => converted(model, stored, validate.as_ref()),
        Shape::Text { validate, .. } => text(model, validate.as_ref()),
        Shape::Unknown => TokenStream::new(),
    };
    let wraps = match &model.shape {
        Shape::Text { inner: Some(inner), .. } => Some(wraps(model, inner, &generics)),
        _ => None,
    };
    quote! {
        #wraps

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

fn newtype(model: &Value, inner: &Inner) -> TokenStream {
    let krate = &model.item.krate;
    let bytes = local("__bytes");
    let Inner { member, ty, try_from, validate } = inner;
    let constants = constants(krate, ty);
    let made = match (try_from, validate) {
        (false, None) => quote!(<#ty as #krate::EtcdValue>::decode(#bytes).map(|#bytes| Self { #member: #bytes })),
        _ => {
            let value = local("__value");
            let made = match try_from {
                true => {
                    quote_spanned!(here(ty)=> #krate::__private::checked(<Self as ::core::convert::TryFrom<#ty>>::try_from(<#ty as #krate::EtcdValue>::decode(#bytes)?))?)
                }
                false => quote!(Self { #member: <#ty as #krate::EtcdValue>::decode(#bytes)? }),
            };
            let check = check(krate, validate.as_ref(), Some(&value));
            quote! {
                let #value = #made;
                #check
                ::core::result::Result::Ok(#value)
            }
        }
    };
    let check = check(krate, validate.as_ref(), None);
    let again = try_from.then(|| quote!(?; #krate::__private::same_form::<Self>(#bytes)));
    quote! {
        #constants

        fn encode(&self) -> ::core::result::Result<#krate::__private::Bytes, #krate::ValueError> {
            #check
            <#ty as #krate::EtcdValue>::encode(&self.#member)
        }

        fn decode(#bytes: &[::core::primitive::u8]) -> ::core::result::Result<Self, #krate::ValueError> {
            #made
        }

        fn survives(&self, #bytes: &#krate::__private::Bytes) -> ::core::result::Result<(), #krate::ValueError> {
            <#ty as #krate::EtcdValue>::survives(&self.#member, #bytes) #again
        }
    }
}

/// Generates the constants of a type that is stored as `ty`.
fn constants(krate: &Path, ty: &Type) -> TokenStream {
    quote! {
        const TYPE: &'static ::core::primitive::str = <#ty as #krate::EtcdValue>::TYPE;
        const QUOTABLE: ::core::primitive::bool = <#ty as #krate::EtcdValue>::QUOTABLE;
        const SECRET: ::core::primitive::bool = <#ty as #krate::EtcdValue>::SECRET;
        const IN_LIST: #krate::InList = <#ty as #krate::EtcdValue>::IN_LIST;
    }
}

/// Generates the call of the function in `validate`, with `self` or with a local variable.
fn check(krate: &Path, validate: Option<&Path>, value: Option<&Ident>) -> Option<TokenStream> {
    let check = validate?;
    let value = match value {
        Some(value) => quote_spanned!(here(check)=> &#value),
        None => quote_spanned!(here(check)=> self),
    };
    Some(quote_spanned!(here(check)=> #krate::__private::verdict(#check(#value))?;))
}

/// Generates the methods of a type that is stored as another type.
fn converted(model: &Value, stored: &Type, validate: Option<&Path>) -> TokenStream {
    let krate = &model.item.krate;
    let (bytes, value) = (local("__bytes"), local("__value"));
    let constants = constants(krate, stored);
    let (on_write, on_read) = (check(krate, validate, None), check(krate, validate, Some(&value)));
    let form = quote_spanned!(here(stored)=> <Self as ::core::convert::Into<#stored>>::into(::core::clone::Clone::clone(self)));
    quote! {
        #constants

        fn encode(&self) -> ::core::result::Result<#krate::__private::Bytes, #krate::ValueError> {
            #on_write
            <#stored as #krate::EtcdValue>::encode(&#form)
        }

        fn decode(#bytes: &[::core::primitive::u8]) -> ::core::result::Result<Self, #krate::ValueError> {
            let #value = <#stored as #krate::EtcdValue>::decode(#bytes)?;
            let #value = #krate::__private::checked(<Self as ::core::convert::TryFrom<#stored>>::try_from(#value))?;
            #on_read
            ::core::result::Result::Ok(#value)
        }

        fn survives(&self, #bytes: &#krate::__private::Bytes) -> ::core::result::Result<(), #krate::ValueError> {
            <#stored as #krate::EtcdValue>::survives(&#form, #bytes)?;
            #krate::__private::same_form::<Self>(#bytes)
        }
    }
}

/// Generates the methods of a type that is stored as its text.
fn text(model: &Value, validate: Option<&Path>) -> TokenStream {
    let krate = &model.item.krate;
    let (bytes, value) = (local("__bytes"), local("__value"));
    let name = model.item.ident.to_string();
    let (on_write, on_read) = (check(krate, validate, None), check(krate, validate, Some(&value)));
    let text = match &model.shape {
        // The trait must be in scope, so that the constant exists for every newtype.
        Shape::Text { inner: Some(_), .. } => quote!({
            #[allow(unused_imports)]
            use #krate::__private::TextOfInner as _;
            #krate::__private::TextOf::<Self>::TEXT
        }),
        _ => quote!(#krate::__private::own_text::<Self>()),
    };
    quote! {
        const TYPE: &'static ::core::primitive::str = #name;

        fn encode(&self) -> ::core::result::Result<#krate::__private::Bytes, #krate::ValueError> {
            #on_write
            #text.encode(self)
        }

        fn decode(#bytes: &[::core::primitive::u8]) -> ::core::result::Result<Self, #krate::ValueError> {
            let #value = #text.decode(#bytes)?;
            #on_read
            ::core::result::Result::Ok(#value)
        }

        fn survives(&self, #bytes: &#krate::__private::Bytes) -> ::core::result::Result<(), #krate::ValueError> {
            #[allow(unused_imports)]
            use #krate::__private::NotComparable as _;
            #text.survives(self, #bytes, #krate::__private::Comparable::<Self>::EQUAL)
        }
    }
}

/// Generates the access to the value in a newtype, for a newtype that is stored as the text of this
/// value.
fn wraps(model: &Value, inner: &Inner, generics: &Generics) -> TokenStream {
    let krate = &model.item.krate;
    let ident = &model.item.ident;
    let Inner { member, ty, .. } = inner;
    let value = local("__value");
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    quote! {
        #[automatically_derived]
        impl #impl_generics #krate::__private::Wraps for #ident #ty_generics #where_clause {
            type Inner = #ty;

            fn wrap(#value: #ty) -> Self {
                Self { #member: #value }
            }

            fn inner(&self) -> &#ty {
                &self.#member
            }
        }
    }
}
