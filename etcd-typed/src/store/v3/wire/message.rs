//! `message!` and `oneof!`: declare a message of `rpc.proto` as a struct that implements
//! [`prost::Message`]. prost's own derive does the same, but adds four crates to the build. Either
//! way, prost reads and writes the fields.

use bytes::{Buf, BufMut};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType};

/// Declares a struct. Each field has a type of `rpc.proto`, possibly `optional` or `repeated`, and
/// a number. A `oneof` has the numbers of its variants.
macro_rules! message {
    (
        $(#[$attribute:meta])*
        pub(super) struct $name:ident { $($field:ident: $ty:ty = $($form:ident)+ $first:literal $(..= $last:literal)?),* $(,)? }
    ) => {
        $(#[$attribute])*
        pub(super) struct $name { $(pub(super) $field: $ty),* }

        impl prost::Message for $name {
            #[allow(unused_variables)]
            fn encode_raw(&self, out: &mut impl bytes::BufMut) {
                $(field!(encode $($form)+, $first, &self.$field, out);)*
            }

            #[allow(unused_variables)]
            fn merge_field(
                &mut self,
                tag: u32,
                wire_type: prost::encoding::WireType,
                bytes: &mut impl bytes::Buf,
                context: prost::encoding::DecodeContext,
            ) -> Result<(), prost::DecodeError> {
                match tag {
                    $($first $(..= $last)? => field!(merge $($form)+, tag, &mut self.$field, wire_type, bytes, context).map_err(|mut error| {
                        error.push(stringify!($name), stringify!($field));
                        error
                    }),)*
                    _ => prost::encoding::skip_field(wire_type, tag, bytes, context),
                }
            }

            fn encoded_len(&self) -> usize {
                0 $(+ field!(encoded_len $($form)+, $first, &self.$field))*
            }

            fn clear(&mut self) {
                *self = Self::default();
            }
        }
    };
}

/// Declares an enum whose variants have a type of `rpc.proto` and a number.
macro_rules! oneof {
    (
        $(#[$attribute:meta])*
        pub(super) enum $name:ident { $($variant:ident($ty:ty) = $form:ident $tag:literal),+ $(,)? }
    ) => {
        $(#[$attribute])*
        pub(super) enum $name { $($variant($ty)),+ }

        impl $crate::store::v3::wire::message::Oneof for $name {
            fn encode(&self, out: &mut impl bytes::BufMut) {
                match self {
                    $(Self::$variant(value) => prost::encoding::$form::encode($tag, value, out),)+
                }
            }

            fn merge(
                one: &mut Option<Self>,
                tag: u32,
                wire_type: prost::encoding::WireType,
                bytes: &mut impl bytes::Buf,
                context: prost::encoding::DecodeContext,
            ) -> Result<(), prost::DecodeError> {
                match tag {
                    $($tag => {
                        // A message may arrive in parts, which are merged.
                        let mut value = match one.take() {
                            Some(Self::$variant(value)) => value,
                            _ => <$ty>::default(),
                        };
                        prost::encoding::$form::merge(wire_type, &mut value, bytes, context)?;
                        *one = Some(Self::$variant(value));
                        Ok(())
                    })+
                    _ => prost::encoding::skip_field(wire_type, tag, bytes, context),
                }
            }

            fn encoded_len(&self) -> usize {
                match self {
                    $(Self::$variant(value) => prost::encoding::$form::encoded_len($tag, value),)+
                }
            }
        }
    };
}

/// Encodes, decodes or measures one field, according to its form.
macro_rules! field {
    (encode optional message, $tag:literal, $field:expr, $out:ident) => {
        if let Some(message) = $field {
            prost::encoding::message::encode($tag, message, $out);
        }
    };
    (encode repeated $form:ident, $tag:literal, $field:expr, $out:ident) => {
        prost::encoding::$form::encode_repeated($tag, $field, $out)
    };
    (encode oneof, $first:literal, $field:expr, $out:ident) => {
        if let Some(one) = $field {
            $crate::store::v3::wire::message::Oneof::encode(one, $out);
        }
    };
    // Zero and empty values are not sent.
    (encode $form:ident, $tag:literal, $field:expr, $out:ident) => {
        if !$crate::store::v3::wire::message::is_zero($field) {
            prost::encoding::$form::encode($tag, $field, $out);
        }
    };
    (merge optional message, $tag:ident, $field:expr, $wire_type:ident, $bytes:ident, $context:ident) => {
        prost::encoding::message::merge($wire_type, $field.get_or_insert_default(), $bytes, $context)
    };
    (merge repeated $form:ident, $tag:ident, $field:expr, $wire_type:ident, $bytes:ident, $context:ident) => {
        prost::encoding::$form::merge_repeated($wire_type, $field, $bytes, $context)
    };
    (merge oneof, $tag:ident, $field:expr, $wire_type:ident, $bytes:ident, $context:ident) => {
        $crate::store::v3::wire::message::Oneof::merge($field, $tag, $wire_type, $bytes, $context)
    };
    (merge $form:ident, $tag:ident, $field:expr, $wire_type:ident, $bytes:ident, $context:ident) => {
        prost::encoding::$form::merge($wire_type, $field, $bytes, $context)
    };
    (encoded_len optional message, $tag:literal, $field:expr) => {
        $field.as_ref().map_or(0, |message| prost::encoding::message::encoded_len($tag, message))
    };
    (encoded_len repeated $form:ident, $tag:literal, $field:expr) => {
        prost::encoding::$form::encoded_len_repeated($tag, $field)
    };
    (encoded_len oneof, $first:literal, $field:expr) => {
        $field.as_ref().map_or(0, $crate::store::v3::wire::message::Oneof::encoded_len)
    };
    (encoded_len $form:ident, $tag:literal, $field:expr) => {
        if $crate::store::v3::wire::message::is_zero($field) { 0 } else { prost::encoding::$form::encoded_len($tag, $field) }
    };
}

/// Returns whether a field has the default value, which the receiver assumes for a missing field.
pub(super) fn is_zero<T: Default + PartialEq>(field: &T) -> bool {
    *field == T::default()
}

/// A set of alternative fields. [`oneof!`] implements this trait.
pub(super) trait Oneof: Sized {
    fn encode(&self, out: &mut impl BufMut);

    /// Decodes the variant with this number.
    fn merge(
        one: &mut Option<Self>,
        tag: u32,
        wire_type: WireType,
        bytes: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError>;

    fn encoded_len(&self) -> usize;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    message! {
        #[derive(Clone, Debug, Default, PartialEq)]
        pub(super) struct Ours {
            text: String = string 1,
            texts: Vec<String> = repeated string 2,
            bytes: Bytes = bytes 3,
            signed: i64 = int64 4,
            unsigned: u64 = uint64 5,
            number: i32 = int32 6,
            flag: bool = bool 7,
            inner: Option<OurInner> = optional message 8,
            inners: Vec<OurInner> = repeated message 9,
            one: Option<OurOne> = oneof 64 ..= 66,
        }
    }

    message! {
        #[derive(Clone, Debug, Default, PartialEq)]
        pub(super) struct OurInner {
            signed: i64 = int64 1,
            inner: Option<Box<OurInner>> = optional message 2,
        }
    }

    oneof! {
        #[derive(Clone, Debug, PartialEq)]
        pub(super) enum OurOne {
            Signed(i64) = int64 64,
            Bytes(Bytes) = bytes 65,
            Inner(OurInner) = message 66,
        }
    }

    #[derive(Clone, PartialEq, Message)]
    struct Derived {
        #[prost(string, tag = "1")]
        text: String,
        #[prost(string, repeated, tag = "2")]
        texts: Vec<String>,
        #[prost(bytes = "bytes", tag = "3")]
        bytes: Bytes,
        #[prost(int64, tag = "4")]
        signed: i64,
        #[prost(uint64, tag = "5")]
        unsigned: u64,
        #[prost(int32, tag = "6")]
        number: i32,
        #[prost(bool, tag = "7")]
        flag: bool,
        #[prost(message, optional, tag = "8")]
        inner: Option<DerivedInner>,
        #[prost(message, repeated, tag = "9")]
        inners: Vec<DerivedInner>,
        #[prost(oneof = "DerivedOne", tags = "64, 65, 66")]
        one: Option<DerivedOne>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct DerivedInner {
        #[prost(int64, tag = "1")]
        signed: i64,
        #[prost(message, optional, boxed, tag = "2")]
        inner: Option<Box<Self>>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    enum DerivedOne {
        #[prost(int64, tag = "64")]
        Signed(i64),
        #[prost(bytes = "bytes", tag = "65")]
        Bytes(Bytes),
        #[prost(message, tag = "66")]
        Inner(DerivedInner),
    }

    /// Generates well-formed fields with the numbers of `Ours` and with some others. A field may
    /// occur twice, and the order is arbitrary.
    fn fields() -> impl Strategy<Value = Vec<u8>> {
        let tag = prop_oneof![1..11_u32, 63..68_u32];
        let number = (tag.clone(), prop_oneof![0..3_u64, any::<u64>()]).prop_map(|(tag, number)| {
            let mut field = Vec::new();
            prost::encoding::uint64::encode(tag, &number, &mut field);
            field
        });
        let content =
            prop_oneof![Just(vec![]), Just(vec![0x08, 5]), Just(vec![0x12, 2, 0x08, 7]), "[a-z]{1,3}".prop_map(String::into_bytes)];
        let content = (tag, content).prop_map(|(tag, content)| {
            let mut field = Vec::new();
            prost::encoding::bytes::encode(tag, &content, &mut field);
            field
        });
        proptest::collection::vec(prop_oneof![number, content], 0..6).prop_map(|fields| fields.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn messages_decode_as_prost_does(message in fields(), cut in proptest::option::of(any::<prop::sample::Index>())) {
            let message = &message[..cut.map_or(message.len(), |cut| cut.index(message.len() + 1))];
            match (Ours::decode(message), Derived::decode(message)) {
                (Ok(ours), Ok(derived)) => {
                    let written = derived.encode_to_vec();
                    prop_assert_eq!(ours.encode_to_vec(), &*written);
                    prop_assert_eq!(ours.encoded_len(), written.len());
                }
                (Err(ours), Err(derived)) => {
                    let ours = ours.to_string().replace("OurInner.", "DerivedInner.").replace("Ours.", "Derived.");
                    prop_assert_eq!(ours, derived.to_string());
                }
                (ours, derived) => prop_assert!(false, "{ours:?} and {derived:?}"),
            }
        }
    }
}
