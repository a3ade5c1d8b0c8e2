//! `Ctxt` collects errors, so that all mistakes of a struct are reported at once. Nothing else in this crate stops at an error.

use std::cell::RefCell;
use std::fmt::Display;

use quote::ToTokens;

/// The errors found so far.
#[derive(Default)]
pub(crate) struct Ctxt {
    errors: RefCell<Vec<syn::Error>>,
}

impl Ctxt {
    /// An error on these tokens.
    pub(crate) fn error(&self, on: impl ToTokens, message: impl Display) {
        self.push(syn::Error::new_spanned(on, message));
    }

    pub(crate) fn push(&self, error: syn::Error) {
        self.errors.borrow_mut().push(error);
    }

    /// All errors as one, if there are any.
    pub(crate) fn finish(self) -> Result<(), syn::Error> {
        let all = self.errors.into_inner().into_iter().reduce(|mut all, error| {
            all.combine(error);
            all
        });
        all.map_or(Ok(()), Err)
    }
}
