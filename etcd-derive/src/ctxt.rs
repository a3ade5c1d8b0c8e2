//! `Ctxt` collects errors, so that all mistakes in a struct are reported at once. The rest of this
//! crate continues after an error.

use std::cell::RefCell;
use std::fmt::Display;

use quote::ToTokens;

/// The errors found so far.
#[derive(Default)]
pub(crate) struct Ctxt {
    errors: RefCell<Vec<syn::Error>>,
}

impl Ctxt {
    /// Records an error at these tokens.
    pub(crate) fn error(&self, on: impl ToTokens, message: impl Display) {
        self.push(syn::Error::new_spanned(on, message));
    }

    pub(crate) fn push(&self, error: syn::Error) {
        self.errors.borrow_mut().push(error);
    }

    /// Combines all errors into one, if there are any.
    pub(crate) fn finish(self) -> Result<(), syn::Error> {
        let all = self.errors.into_inner().into_iter().reduce(|mut all, error| {
            all.combine(error);
            all
        });
        all.map_or(Ok(()), Err)
    }
}
