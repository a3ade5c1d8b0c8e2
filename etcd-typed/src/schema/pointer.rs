//! `Schema` for `Box<S>` and `Arc<S>`. Both are stored like the struct `S`.

use std::sync::Arc;

use super::{Decoder, Delta, Encoder, Schema, Table};
use crate::value::ValueError;

macro_rules! pointers {
    ($($pointer:ident),+) => {$(
        /// The schema of `S`.
        #[diagnostic::do_not_recommend]
        impl<S: Schema> Schema for $pointer<S> {
            type Change = S::Change;

            const TABLE: &'static Table = S::TABLE;

            fn decode(decoder: &mut Decoder<'_>) -> Option<Self> {
                S::decode(decoder).map(Self::new)
            }

            fn encode(&self, encoder: &mut Encoder<'_>) {
                S::encode(self, encoder);
            }

            fn changes(delta: &mut Delta<'_>, out: &mut Vec<Self::Change>) {
                S::changes(delta, out);
            }

            fn validate(&self) -> Result<(), ValueError> {
                S::validate(self)
            }
        }
    )+};
}

pointers!(Box, Arc);
