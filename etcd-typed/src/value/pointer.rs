//! Pointers, stored like the value that they point to: `Box<T>`, `Arc<T>`, `Box<str>`, `Arc<str>`
//! and `Cow<str>`.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::{EtcdValue, InList, ValueError, exact, text};

macro_rules! pointers {
    ($($pointer:ident),+) => {$(
        #[diagnostic::do_not_recommend]
        impl<T: EtcdValue> EtcdValue for $pointer<T> {
            const TYPE: &'static str = T::TYPE;
            const QUOTABLE: bool = T::QUOTABLE;
            const SECRET: bool = T::SECRET;
            const IN_LIST: InList = T::IN_LIST;

            fn encode(&self) -> Result<Bytes, ValueError> {
                T::encode(self)
            }

            fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
                T::decode(bytes).map(Self::new)
            }

            fn decode_shared(bytes: &Bytes) -> Result<Self, ValueError> {
                T::decode_shared(bytes).map(Self::new)
            }

            fn is_stored_as(&self, bytes: &[u8]) -> bool {
                T::is_stored_as(self, bytes)
            }

            fn survives(&self, stored: &Bytes) -> Result<(), ValueError> {
                T::survives(self, stored)
            }
        }
    )+};
}

pointers!(Box, Arc);

macro_rules! texts {
    ($($type:ty),+) => {$(
        impl EtcdValue for $type {
            const TYPE: &'static str = "text";

            fn encode(&self) -> Result<Bytes, ValueError> {
                Ok(Bytes::copy_from_slice(self.as_bytes()))
            }

            fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
                text(bytes).map(|text| Self::from(text.to_owned()))
            }

            fn is_stored_as(&self, bytes: &[u8]) -> bool {
                self.as_bytes() == bytes
            }

            exact!();
        }
    )+};
}

texts!(Box<str>, Arc<str>, Cow<'static, str>);
