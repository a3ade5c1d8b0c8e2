//! Implements `Message` for `WatchResponse`. Like `RangeResponse`, it behaves like a derived
//! implementation, but reads each event in one pass over its bytes.

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

use super::range::{usual, varint};
use super::{Event, WatchResponse};

const HEADER: u32 = 1;
const WATCH_ID: u32 = 2;
const CREATED: u32 = 3;
const CANCELED: u32 = 4;
const COMPACT_REVISION: u32 = 5;
const CANCEL_REASON: u32 = 6;
const FRAGMENT: u32 = 7;
const EVENTS: u32 = 11;

/// The maximum number of events to reserve space for before they are read.
const MOST_AT_ONCE: usize = 1024;

impl Message for WatchResponse {
    fn encode_raw(&self, out: &mut impl BufMut) {
        if let Some(header) = &self.header {
            encoding::message::encode(HEADER, header, out);
        }
        for (tag, number) in self.numbers() {
            encoding::int64::encode(tag, &number, out);
        }
        for (tag, yes) in self.flags() {
            encoding::bool::encode(tag, &yes, out);
        }
        if !self.cancel_reason.is_empty() {
            encoding::string::encode(CANCEL_REASON, &self.cancel_reason, out);
        }
        encoding::message::encode_repeated(EVENTS, &self.events, out);
    }

    fn merge_field(&mut self, tag: u32, wire_type: WireType, bytes: &mut impl Buf, context: DecodeContext) -> Result<(), DecodeError> {
        match tag {
            HEADER => encoding::message::merge(wire_type, self.header.get_or_insert_default(), bytes, context),
            WATCH_ID => encoding::int64::merge(wire_type, &mut self.watch_id, bytes, context),
            CREATED => encoding::bool::merge(wire_type, &mut self.created, bytes, context),
            CANCELED => encoding::bool::merge(wire_type, &mut self.canceled, bytes, context),
            COMPACT_REVISION => encoding::int64::merge(wire_type, &mut self.compact_revision, bytes, context),
            CANCEL_REASON => encoding::string::merge(wire_type, &mut self.cancel_reason, bytes, context),
            FRAGMENT => encoding::bool::merge(wire_type, &mut self.fragment, bytes, context),
            EVENTS => {
                let mut one = Bytes::new();
                encoding::bytes::merge(wire_type, &mut one, bytes, context)?;
                if self.events.is_empty() {
                    // Events mostly have a similar size, and no other field follows them.
                    let alike = bytes.remaining().checked_div(one.len()).unwrap_or(0);
                    self.events.reserve_exact(alike.min(MOST_AT_ONCE).saturating_add(1));
                }
                self.events.push(event(one)?);
                Ok(())
            }
            _ => encoding::skip_field(wire_type, tag, bytes, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let header = self.header.as_ref().map_or(0, |header| encoding::message::encoded_len(HEADER, header));
        let numbers: usize = self.numbers().map(|(tag, number)| encoding::int64::encoded_len(tag, &number)).sum();
        let flags: usize = self.flags().map(|(tag, yes)| encoding::bool::encoded_len(tag, &yes)).sum();
        let reason = if self.cancel_reason.is_empty() { 0 } else { encoding::string::encoded_len(CANCEL_REASON, &self.cancel_reason) };
        header + numbers + flags + reason + encoding::message::encoded_len_repeated(EVENTS, &self.events)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl WatchResponse {
    /// Returns the numbers to send. Zeros are not sent.
    fn numbers(&self) -> impl Iterator<Item = (u32, i64)> {
        [(WATCH_ID, self.watch_id), (COMPACT_REVISION, self.compact_revision)].into_iter().filter(|(_, number)| *number != 0)
    }

    /// Returns the flags to send. Only true flags are sent.
    fn flags(&self) -> impl Iterator<Item = (u32, bool)> {
        [(CREATED, self.created), (CANCELED, self.canceled), (FRAGMENT, self.fragment)].into_iter().filter(|(_, yes)| *yes)
    }
}

fn event(message: Bytes) -> Result<Event, DecodeError> {
    match usual_event(&message) {
        Some(event) => Ok(event),
        // The general decoder reads unusual messages and reports invalid ones.
        None => Event::decode(message),
    }
}

/// Decodes an event with the usual fields: its type and its key-value.
fn usual_event(message: &Bytes) -> Option<Event> {
    let mut event = Event::default();
    let mut rest: &[u8] = message;
    while let Some((&field, after)) = rest.split_first() {
        rest = after;
        let number = varint(&mut rest)?;
        match field {
            0x08 => event.r#type = i32::try_from(number).ok()?,
            0x12 if event.kv.is_none() => {
                let (kv, after) = rest.split_at_checked(usize::try_from(number).ok()?)?;
                rest = after;
                event.kv = Some(usual(message, kv)?);
            }
            _ => return None,
        }
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{KeyValue, ResponseHeader};
    use super::*;

    /// The same message with an implementation that prost derives.
    #[derive(Clone, PartialEq, Message)]
    struct Derived {
        #[prost(message, optional, tag = "1")]
        header: Option<ResponseHeader>,
        #[prost(int64, tag = "2")]
        watch_id: i64,
        #[prost(bool, tag = "3")]
        created: bool,
        #[prost(bool, tag = "4")]
        canceled: bool,
        #[prost(int64, tag = "5")]
        compact_revision: i64,
        #[prost(string, tag = "6")]
        cancel_reason: String,
        #[prost(bool, tag = "7")]
        fragment: bool,
        #[prost(message, repeated, tag = "11")]
        events: Vec<Event>,
    }

    impl From<Derived> for WatchResponse {
        fn from(derived: Derived) -> Self {
            let Derived { header, watch_id, created, canceled, compact_revision, cancel_reason, fragment, events } = derived;
            Self { header, watch_id, created, canceled, compact_revision, cancel_reason, fragment, events }
        }
    }

    fn agree(message: &[u8]) {
        let message = Bytes::copy_from_slice(message);
        let derived = Derived::decode(message.clone()).map(WatchResponse::from);
        let ours = WatchResponse::decode(message);
        assert_eq!(derived.is_ok(), ours.is_ok(), "{derived:?} and {ours:?}");
        if let (Ok(derived), Ok(ours)) = (derived, ours) {
            assert_eq!(derived, ours);
        }
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
    }

    prop_compose! {
        fn an_event()(kind in 0..3_i32, has_key in any::<bool>(), key in bytes(), value in bytes(), numbers in any::<[i64; 4]>()) -> Event {
            let [create_revision, mod_revision, version, lease] = numbers;
            let kv = KeyValue { key, create_revision, mod_revision, version, value, lease };
            Event { r#type: kind, kv: has_key.then_some(kv) }
        }
    }

    proptest! {
        #[test]
        fn messages_decode_as_prost_does(
            revision in proptest::option::of(any::<i64>()),
            numbers in any::<[i64; 2]>(),
            flags in any::<[bool; 3]>(),
            cancel_reason in "[a-z]{0,8}",
            events in proptest::collection::vec(an_event(), 0..5),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in proptest::option::of(any::<prop::sample::Index>()),
        ) {
            let header = revision.map(|revision| ResponseHeader { revision, ..Default::default() });
            let ([watch_id, compact_revision], [created, canceled, fragment]) = (numbers, flags);
            let derived = Derived { header, watch_id, created, canceled, compact_revision, cancel_reason, fragment, events };
            let mut message = derived.encode_to_vec();
            agree(&message);
            let ours = WatchResponse::from(derived);
            prop_assert_eq!(ours.encoded_len(), message.len());
            // The order of the fields is irrelevant.
            prop_assert_eq!(WatchResponse::decode(Bytes::from(ours.encode_to_vec())), Ok(ours));
            if message.is_empty() {
                return Ok(());
            }
            for (at, byte) in damage {
                let at = at.index(message.len());
                message[at] = byte;
            }
            if let Some(cut) = cut {
                message.truncate(cut.index(message.len()));
            }
            agree(&message);
        }

        #[test]
        fn invalid_bytes_decode_as_prost_does(message in proptest::collection::vec(any::<u8>(), 0..40)) {
            agree(&message);
        }
    }
}
