//! Feeds the machine with encoded messages that no server sends. The machine may give up the
//! stream, but it never panics and never breaks its guarantees.

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::key::Key;
use crate::revision::Revision;
use crate::store::Span;

/// Generates numbers that matter to the machine, and arbitrary ones.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![4 => -1_i64..12, 1 => any::<i64>(), 1 => Just(i64::MAX), 1 => Just(i64::MIN)]
}

fn event() -> impl Strategy<Value = wire::Event> {
    let kv = ("[/abp]{0,4}", number(), number(), number()).prop_map(|(key, create_revision, mod_revision, lease)| wire::KeyValue {
        key: key.into(),
        create_revision,
        mod_revision,
        lease,
        ..wire::KeyValue::default()
    });
    (prop_oneof![4 => 0..2, 1 => any::<i32>()], proptest::option::weighted(0.9, kv)).prop_map(|(r#type, kv)| wire::Event { r#type, kv })
}

fn message() -> impl Strategy<Value = WatchResponse> {
    let flag = || proptest::bool::weighted(0.3);
    const REASONS: [&str; 4] = ["", "etcdserver: mvcc: required revision has been compacted", "etcdserver: permission denied", "?"];
    (
        proptest::option::weighted(0.9, number()),
        (number(), flag(), flag(), flag()),
        prop_oneof![3 => Just(0), 1 => number()],
        proptest::sample::select(&REASONS[..]),
        proptest::collection::vec(event(), 0..4),
    )
        .prop_map(|(revision, (watch_id, created, canceled, fragment), compact_revision, reason, events)| WatchResponse {
            header: revision.map(|revision| wire::ResponseHeader { cluster_id: 1, member_id: 1, revision }),
            watch_id,
            created,
            canceled,
            compact_revision,
            cancel_reason: reason.to_owned(),
            fragment,
            events,
        })
}

/// Generates the bytes of a message, with a few changes.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (message(), changes, proptest::option::weighted(0.1, any::<prop::sample::Index>())).prop_map(|(message, changes, cut)| {
        let mut bytes = message.encode_to_vec();
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        if let Some(cut) = cut.filter(|_| !bytes.is_empty()) {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_from_server_keep_watch_guarantees(
        messages in proptest::collection::vec(bytes(), 0..30),
        reliable in any::<bool>(),
        leaves in 0_usize..40,
    ) {
        const STARTS: [u64; 4] = [0, 3, 5, 4];
        let mut machine = Machine::default();
        machine.set_progress_is_reliable(reliable);
        let mut seen = STARTS.map(Revision::new);
        for (token, start) in (0..).zip(STARTS) {
            let from = match start {
                3 => WatchFrom::Resumed,
                4 => WatchFrom::Live,
                _ => WatchFrom::Listed,
            };
            let watch = Watch { span: Span::Below(Key::parse("/a").unwrap()), from: from(Revision::new(start)) };
            machine.add(token, &watch);
        }
        for (at, bytes) in messages.iter().enumerate() {
            if at == leaves {
                machine.remove(1);
            }
            machine.ask_progress();
            let Ok(message) = WatchResponse::decode(&bytes[..]) else { break };
            machine.receive(message);
            while let Some(output) = machine.next() {
                if let Output::Item(token, WatchItem::Batch(Batch { revision, .. }) | WatchItem::Progress(revision) | WatchItem::Skipped(revision)) = output {
                    let last = &mut seen[usize::try_from(token).unwrap()];
                    prop_assert!(revision > *last, "{revision} after {last}");
                    *last = revision;
                    prop_assert!(token != 1 || at < leaves, "an item for a reader that has gone");
                }
            }
        }
    }
}
