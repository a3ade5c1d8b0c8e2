//! Cases about [`Store::range`](crate::store::Store::range).

use bytes::Bytes;

use super::bench::{Bench, keys};
use crate::error::ErrorKind;
use crate::revision::Revision;
use crate::store::{Consistency, Range, Span};

pub(super) async fn missing_key_reads_as_empty(bench: &Bench<'_>) {
    let written = bench.put(&bench.key("other"), "x").await;
    assert_eq!(bench.get(&bench.key("missing")).await, None);
    let below = bench.range(Range::of(Span::Below(bench.key("missing")))).await;
    assert!(below.kvs.is_empty() && below.directories.is_empty() && below.directory.is_none() && !below.more, "{below:?}");
    assert!(below.revision >= written, "an empty answer is of a revision too: {below:?}");
}

pub(super) async fn value_reads_back_unchanged(bench: &Bench<'_>) {
    let key = bench.key("a");
    let revision = bench.put(&key, "value").await;
    let kv = bench.found(&key).await;
    assert_eq!(kv.value, "value");
    assert_eq!((kv.created, kv.modified), (revision, revision));
    assert_eq!((kv.lease, kv.ttl), (None, None));
    assert!(matches!(kv.version, None | Some(1)), "{kv:?}");
    let listed = bench.list().await;
    assert_eq!(listed.kvs, [kv], "a listing says the same as a read of the key");
    assert!(!listed.more);
}

pub(super) async fn read_sees_acknowledged_writes(bench: &Bench<'_>) {
    let key = bench.key("a");
    for round in 0..20 {
        let revision = bench.put(&key, round.to_string()).await;
        let reply = bench.list().await;
        assert!(reply.revision >= revision, "{reply:?} after a write at {revision}");
        assert_eq!(reply.kvs.first().map(|kv| (kv.value.clone(), kv.modified)), Some((round.to_string().into(), revision)));
    }
}

pub(super) async fn update_keeps_creation_revision(bench: &Bench<'_>) {
    let key = bench.key("a");
    let created = bench.put(&key, "1").await;
    let modified = bench.update(&key, "2", Default::default()).await;
    let kv = bench.found(&key).await;
    assert_eq!((kv.created, kv.modified), (created, modified));
    assert!(matches!(kv.version, None | Some(2)), "{kv:?}");
    // On stores with versions, an unconditional put also keeps the creation: the version is the
    // number of writes since the creation.
    let put = bench.put(&key, "3").await;
    let kv = bench.found(&key).await;
    assert_eq!((kv.created, kv.modified), (if kv.version.is_some() { created } else { put }, put));
    assert!(matches!(kv.version, None | Some(3)), "{kv:?}");
}

pub(super) async fn recreated_key_has_new_creation(bench: &Bench<'_>) {
    let key = bench.key("a");
    bench.put(&key, "1").await;
    let deleted = bench.delete(&key).await;
    assert_eq!(bench.get(&key).await, None);
    let again = bench.put(&key, "2").await;
    let kv = bench.found(&key).await;
    assert!(again > deleted && kv.created == again && kv.modified == again, "{kv:?}");
    assert!(matches!(kv.version, None | Some(1)), "{kv:?}");
}

pub(super) async fn listing_is_in_byte_order(bench: &Bench<'_>) {
    // In byte order `-` and `.` come before `/`, so other keys come between a directory's name and
    // the keys in the directory. `é` comes after all ASCII characters.
    let written = ["b/x", "a", "b-", "b.c", "b/a/deep", "B", "é", "z"];
    for path in written {
        bench.put(&bench.key(path), path).await;
    }
    let mut expected: Vec<String> = written.iter().map(|path| bench.key(path).to_string()).collect();
    expected.sort_unstable();
    assert_eq!(keys(&bench.list().await), expected);
}

pub(super) async fn listing_matches_whole_segments(bench: &Bench<'_>) {
    for path in ["app/a", "app/b/c", "apple/x", "app-x", "ap"] {
        bench.put(&bench.key(path), "v").await;
    }
    let below = bench.range(Range::of(Span::Below(bench.key("app")))).await;
    assert_eq!(keys(&below), [bench.key("app/a").to_string(), bench.key("app/b/c").to_string()]);
    assert_eq!(bench.get(&bench.key("appl")).await, None);
}

pub(super) async fn keys_only_read_has_no_values(bench: &Bench<'_>) {
    let revision = bench.put(&bench.key("a"), "value").await;
    let reply = bench.range(Range { keys_only: true, ..Range::of(Span::Below(bench.dir().clone())) }).await;
    let found: Vec<_> = reply.kvs.iter().map(|kv| (kv.key.clone(), kv.value.clone(), kv.modified)).collect();
    assert_eq!(found, [(Bytes::from(bench.key("a").to_string()), Bytes::new(), revision)]);
}

pub(super) async fn stale_read_is_answered(bench: &Bench<'_>) {
    let key = bench.key("a");
    bench.put(&key, "value").await;
    // A single server returns the newest value, but the contract allows the value of any past
    // revision.
    let stale = Range { consistency: Consistency::Stale, ..Range::of(Span::Key(key)) };
    let reply = bench.range(stale).await;
    assert!(reply.kvs.iter().all(|kv| kv.value == "value" && kv.modified <= reply.revision), "{reply:?}");
}

pub(super) async fn pages_share_one_revision(bench: &Bench<'_>) {
    for path in ["a", "b", "c", "d", "e"] {
        bench.put(&bench.key(path), path).await;
    }
    let all = Range::of(Span::Below(bench.dir().clone()));
    let first = Range { limit: Some(2), ..all.clone() };
    if !bench.capabilities().past_revisions {
        bench.range_refused(first, ErrorKind::Unsupported).await;
        let after = Some(Bytes::from(bench.key("a").to_string()));
        bench.range_refused(Range { after: after.clone(), ..all.clone() }, ErrorKind::Unsupported).await;
        bench.range_refused(Range { until: after, ..all }, ErrorKind::Unsupported).await;
        return;
    }
    bench.range_refused(Range { limit: Some(0), ..all.clone() }, ErrorKind::Invalid).await;
    let mut reply = bench.range(first).await;
    let revision = reply.revision;
    let mut pages = vec![keys(&reply)];
    while reply.more {
        // Between two pages, another client changes a key that was already read, and adds keys that
        // come later.
        bench.put(&bench.key("a"), "changed").await;
        bench.put(&bench.key(&format!("new-{}", pages.len())), "new").await;
        let after = reply.kvs.last().map(|kv| kv.key.clone());
        reply = bench.range(Range { limit: Some(2), after, revision: Some(revision), ..all.clone() }).await;
        assert_eq!(reply.revision, revision);
        assert!(reply.kvs.len() <= 2 && reply.kvs.iter().all(|kv| kv.value != "changed"), "{reply:?}");
        pages.push(keys(&reply));
    }
    assert_eq!(pages.concat(), ["a", "b", "c", "d", "e"].map(|path| bench.key(path).to_string()));
    assert!(pages.len() >= 3, "{pages:?}");
    // A range includes the key `until`. A range whose end is before its start is empty.
    for (after, until, expected) in [("a", "c", vec!["b", "c"]), ("b", "bb", vec![]), ("d", "b", vec![])] {
        let [after, until] = [after, until].map(|path| Some(Bytes::from(bench.key(path).to_string())));
        let reply = bench.range(Range { after, until, revision: Some(revision), ..all.clone() }).await;
        assert_eq!(keys(&reply), expected.iter().map(|path| bench.key(path).to_string()).collect::<Vec<_>>());
        assert!(!reply.more, "{reply:?}");
    }
}

pub(super) async fn modified_read_counts_all_keys(bench: &Bench<'_>) {
    for path in ["a", "b", "c", "d/e"] {
        bench.put(&bench.key(path), path).await;
    }
    let since = bench.put(&bench.key("b"), "before").await;
    let modified = |after: Revision| Range { modified_after: Some(after), ..Range::of(Span::Below(bench.dir().clone())) };
    if !bench.capabilities().past_revisions {
        bench.range_refused(modified(since), ErrorKind::Unsupported).await;
        return;
    }
    let found = async |range: Range| {
        let reply = bench.range(range).await;
        (keys(&reply), reply.count, reply.more)
    };
    let names = |paths: &[&str]| paths.iter().map(|path| bench.key(path).to_string()).collect::<Vec<_>>();
    assert_eq!(found(modified(since)).await, (names(&[]), Some(4), false), "nothing was modified since");
    assert_eq!(found(modified(since.previous())).await, (names(&["b"]), Some(4), false), "after a revision is not at it");
    assert_eq!(found(modified(Revision::ZERO)).await, (names(&["a", "b", "c", "d/e"]), Some(4), false));
    assert_eq!(found(modified(Revision::new(u64::MAX))).await, (names(&[]), Some(4), false));
    assert_eq!(bench.list().await.count, None, "the count was not asked for");
    bench.put(&bench.key("c"), "after").await;
    let put = bench.put(&bench.key("new"), "after").await;
    assert_eq!(found(modified(since)).await, (names(&["c", "new"]), Some(5), false));
    let first = Range { limit: Some(1), keys_only: true, ..modified(since) };
    assert_eq!(found(first.clone()).await, (names(&["c"]), Some(5), true), "the limit does not change the count");
    let deleted = bench.delete(&bench.key("a")).await;
    assert_eq!(found(modified(put)).await, (names(&[]), Some(4), false), "only the count shows a deleted key");
    // The filter also applies to a past revision and to a part of the range.
    assert_eq!(found(Range { revision: Some(put), ..modified(since) }).await, (names(&["c", "new"]), Some(5), false));
    let part = Range { after: Some(bench.key("b").to_string().into()), until: Some(bench.key("c").to_string().into()), ..modified(since) };
    assert_eq!(found(part).await, (names(&["c"]), Some(1), false));
    let one = |path: &str, after| Range { modified_after: Some(after), ..Range::of(Span::Key(bench.key(path))) };
    assert_eq!(found(one("c", since)).await, (names(&["c"]), Some(1), false));
    assert_eq!(found(one("c", deleted)).await, (names(&[]), Some(1), false));
    assert_eq!(found(one("a", since)).await, (names(&[]), Some(0), false));
}

pub(super) async fn past_revision_reads_unchanged(bench: &Bench<'_>) {
    let (a, b) = (bench.key("a"), bench.key("b"));
    let past = bench.put(&a, "old").await;
    bench.put(&a, "new").await;
    bench.put(&b, "new").await;
    let range = Range { revision: Some(past), ..Range::of(Span::Below(bench.dir().clone())) };
    if !bench.capabilities().past_revisions {
        bench.range_refused(range, ErrorKind::Unsupported).await;
        return;
    }
    let reply = bench.range(range.clone()).await;
    assert_eq!((keys(&reply), reply.revision), (vec![a.to_string()], past));
    assert!(reply.kvs.iter().all(|kv| kv.value == "old" && kv.modified == past && kv.version == Some(1)), "{reply:?}");
    bench.delete(&a).await;
    assert_eq!(bench.range(range).await, reply, "a past revision does not change");
}

pub(super) async fn future_revision_is_refused(bench: &Bench<'_>) {
    let now = bench.put(&bench.key("a"), "v").await;
    for never in [Revision::ZERO, Revision::new(now.get() + 1_000_000)] {
        let range = Range { revision: Some(never), ..Range::of(Span::Key(bench.key("a"))) };
        bench.range_refused(range, lost_or_unsupported(bench)).await;
    }
}

pub(super) async fn lost_revision_is_refused(bench: &Bench<'_>) {
    let key = bench.key("a");
    let past = bench.put(&key, "old").await;
    bench.put(&key, "new").await;
    bench.lose_history().await;
    let range = Range { revision: Some(past), ..Range::of(Span::Key(key.clone())) };
    bench.range_refused(range, lost_or_unsupported(bench)).await;
    assert_eq!(bench.value(&key).await, "new", "the stored values stay");
}

/// The answer has about 6 MB, more than the 4 MiB that a gRPC client accepts in one message by
/// default.
pub(super) async fn large_read_is_one_snapshot(bench: &Bench<'_>) {
    let value = "x".repeat(10_000);
    for number in 0..600 {
        bench.put(&bench.key(&format!("{number:03}")), value.clone()).await;
    }
    let reply = bench.list().await;
    let expected: Vec<_> = (0..600).map(|number| bench.key(&format!("{number:03}")).to_string()).collect();
    assert_eq!(keys(&reply), expected);
    assert!(!reply.more && reply.kvs.iter().all(|kv| kv.value == value && kv.modified <= reply.revision));
}

fn lost_or_unsupported(bench: &Bench<'_>) -> ErrorKind {
    if bench.capabilities().past_revisions { ErrorKind::HistoryLost } else { ErrorKind::Unsupported }
}
