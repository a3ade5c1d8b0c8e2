//! Generates a warning for each secret field whose value `Debug` of the struct shows.
//!
//! A macro cannot see whether the struct derives `Debug`. So the generated code uses a constant
//! that is deprecated if the struct implements `Debug`. An inherent constant with the bound `Debug`
//! is deprecated, and takes precedence over the constant of a trait, which is not deprecated.

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::Type;

use crate::model::{Codec, Kind, Schema};

/// Generates the warnings. A generic struct gets no warning, since its `Debug` may depend on its
/// parameters.
pub(super) fn shown(model: &Schema) -> TokenStream {
    if !model.item.generics.params.is_empty() {
        return TokenStream::new();
    }
    model.fields.iter().filter_map(|field| Some(warning(model, &field.ident, secret(&field.kind)?))).collect()
}

/// Returns the type of a secret value, if `Debug` of this type may show the value.
fn secret(kind: &Kind) -> Option<&Type> {
    let (ty, codec): (&Type, &Codec) = match kind {
        Kind::Leaf(leaf) => (&leaf.ty, &leaf.codec),
        Kind::Entries(map, codec) => (&map.value, codec),
        Kind::Dir { .. } | Kind::DirMap(_) | Kind::Flatten(_) | Kind::Skip(_) => return None,
    };
    (codec.secret && !codec.allow_debug && !crate::parse::is_secret(ty)).then_some(ty)
}

fn warning(model: &Schema, field: &Ident, ty: &Type) -> TokenStream {
    let ident = &model.item.ident;
    let note = format!(
        "`Debug` of `{ident}` shows the secret `{field}`: make its type `Secret<{ty}>`, or add `allow_debug` to its `secret` if `{ident}` or the \
         type of the field masks it",
        ty = crate::parse::source(ty).replace(" < ", "<").replace(" >", ">")
    );
    // The lint ignores tokens that a derive generates, so these tokens have the span of the user's
    // field.
    let named = quote_spanned!(field.span()=> __Shown::<#ident>::SECRET);
    quote! {
        const _: () = {
            #[allow(dead_code)]
            struct __Shown<T>(::core::marker::PhantomData<T>);

            #[allow(dead_code)]
            impl<T: ::core::fmt::Debug> __Shown<T> {
                #[deprecated(note = #note)]
                const SECRET: () = ();
            }

            #[allow(dead_code)]
            trait __Hidden {
                const SECRET: () = ();
            }

            impl<T> __Hidden for __Shown<T> {}

            #named
        };
    }
}
