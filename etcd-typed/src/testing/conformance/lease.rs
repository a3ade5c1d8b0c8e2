//! Cases about keys that expire: [`Expiry`] and leases.
//!
//! The cases check that a key expires, and not before its time. They do not check how soon after
//! that time it expires.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bench::Bench;
use crate::error::ErrorKind;
use crate::key::Key;
use crate::revision::LeaseId;
use crate::store::{Event, Expiry, Op, Span, Txn};

const LONG: Duration = Duration::from_secs(600);
/// The shortest lease of a server with default flags.
const SHORT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

async fn until_gone(bench: &Bench<'_>, key: &Key) {
    while bench.get(key).await.is_some() {
        sleep(POLL).await;
    }
}

pub(super) async fn key_expires_not_before_its_time(bench: &Bench<'_>) {
    // A fraction of a second is rounded up, never down.
    for ttl in [Duration::from_millis(1500), SHORT] {
        let key = bench.key("a");
        let sent = Instant::now();
        bench.put_with(&key, "v", Expiry::After(ttl)).await;
        let kv = bench.found(&key).await;
        assert!(kv.lease.is_some() || kv.ttl.is_some(), "it says that it expires: {kv:?}");
        until_gone(bench, &key).await;
        assert!(sent.elapsed() >= ttl, "gone after {:?} of {ttl:?}", sent.elapsed());
    }
}

pub(super) async fn put_without_expiry_removes_expiry(bench: &Bench<'_>) {
    let (stays, goes) = (bench.key("stays"), bench.key("goes"));
    bench.put_with(&stays, "1", Expiry::After(SHORT)).await;
    bench.put(&stays, "2").await;
    let kv = bench.found(&stays).await;
    assert_eq!((kv.lease, kv.ttl), (None, None));
    // `goes` is written later, with the first time to live of `stays`. So when `goes` has expired,
    // `stays` would have expired too.
    bench.put_with(&goes, "1", Expiry::After(SHORT)).await;
    until_gone(bench, &goes).await;
    assert_eq!(bench.value(&stays).await, "2");
}

pub(super) async fn lease_grants_at_least_requested_time(bench: &Bench<'_>) {
    for ttl in [Duration::from_millis(1), Duration::from_millis(2500), LONG] {
        let id = LeaseId::random();
        let granted = bench.store().grant(id, ttl).await.unwrap_or_else(|error| panic!("{error:?}"));
        assert!(granted >= ttl, "{granted:?} of {ttl:?}");
        let left = bench.store().time_to_live(id).await.unwrap_or_else(|error| panic!("{error:?}"));
        assert!(left.is_some_and(|left| left <= granted), "{left:?} of {granted:?}");
        bench.store().revoke(id).await.unwrap_or_else(|error| panic!("{error:?}"));
    }
}

/// Two clients may choose the same random id if one machine is a clone of the other. If the second
/// grant succeeded, each client would take the other client's lease for its own.
pub(super) async fn granting_existing_lease_is_refused(bench: &Bench<'_>) {
    let id = bench.grant(Duration::from_secs(60)).await;
    let key = bench.key("a");
    bench.put_with(&key, "v", Expiry::With(id)).await;
    for ttl in [SHORT, Duration::from_secs(60), LONG] {
        match bench.store().grant(id, ttl).await {
            Ok(granted) => panic!("{granted:?} of a lease that exists"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}"),
        }
    }
    assert_eq!(bench.value(&key).await, "v", "the first lease is unchanged");
}

pub(super) async fn renewed_lease_keeps_its_keys(bench: &Bench<'_>) {
    let ttl = Duration::from_secs(3);
    let key = bench.key("a");
    // If the machine was suspended for longer than the time to live, the lease may have expired.
    // Then the test starts again.
    'again: loop {
        let began = Instant::now();
        let mut last = began;
        let id = bench.grant(ttl).await;
        let revision = bench.put_with(&key, "v", Expiry::With(id)).await;
        while began.elapsed() < ttl * 2 {
            sleep(ttl / 10).await;
            let sent = Instant::now();
            match bench.store().keep_alive(id).await {
                Ok(left) => assert!(left >= ttl, "{left:?}"),
                Err(_) if last.elapsed() >= ttl => continue 'again,
                Err(error) => panic!("{error:?}, {:?} after the last keep-alive", last.elapsed()),
            }
            last = sent;
        }
        let found = bench.get(&key).await;
        if found.is_none() && last.elapsed() >= ttl {
            continue;
        }
        let kv = found.unwrap_or_else(|| panic!("{key} does not exist"));
        assert!(kv.value == "v" && kv.created == revision, "{kv:?}");
        return;
    }
}

pub(super) async fn expired_lease_deletes_its_keys(bench: &Bench<'_>) {
    let sent = Instant::now();
    let id = bench.grant(SHORT).await;
    let mut keys = [bench.key("a"), bench.key("b")];
    for key in &keys {
        bench.put_with(key, "v", Expiry::With(id)).await;
    }
    let mut reader = bench.watch_all().await;
    let mut gone = Vec::new();
    let mut batches = 0;
    while gone.len() < keys.len() {
        let batch = reader.batch().await;
        batches += 1;
        for event in batch.events {
            assert!(matches!(event, Event::Delete { directory: false, .. }), "{event:?}");
            gone.push(event.key().clone());
        }
    }
    assert!(sent.elapsed() >= SHORT, "gone after {:?} of {SHORT:?}", sent.elapsed());
    gone.sort_unstable();
    keys.sort_unstable();
    assert_eq!(gone, keys.each_ref().map(|key| key.to_string()));
    assert!(batches == 1 || !bench.capabilities().transactions, "a lease ends at one revision");
    let left = bench.store().time_to_live(id).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(left, None);
    must_be_lost(bench, id).await;
}

pub(super) async fn revoked_lease_deletes_its_keys(bench: &Bench<'_>) {
    let id = bench.grant(LONG).await;
    let stays = bench.key("stays");
    bench.put(&stays, "v").await;
    for path in ["a", "b/c"] {
        bench.put_with(&bench.key(path), "v", Expiry::With(id)).await;
    }
    let kv = bench.found(&bench.key("a")).await;
    assert!(kv.lease == Some(id) || kv.lease.is_none() && kv.ttl.is_some(), "{kv:?}");
    bench.store().revoke(id).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(super::bench::keys(&bench.list().await), [stays.to_string()]);
    must_be_lost(bench, id).await;
    bench.store().revoke(id).await.unwrap_or_else(|error| panic!("a lease that is not there is revoked already: {error:?}"));
}

pub(super) async fn key_belongs_to_lease_of_last_write(bench: &Bench<'_>) {
    let (first, second) = (bench.grant(LONG).await, bench.grant(LONG).await);
    let (moved, freed) = (bench.key("moved"), bench.key("freed"));
    for key in [&moved, &freed] {
        bench.put_with(key, "1", Expiry::With(first)).await;
    }
    bench.put_with(&moved, "2", Expiry::With(second)).await;
    bench.put(&freed, "2").await;
    bench.store().revoke(first).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!((bench.value(&moved).await, bench.value(&freed).await), ("2".into(), "2".into()));
    bench.store().revoke(second).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(bench.get(&moved).await, None);
    assert_eq!(bench.value(&freed).await, "2");
}

pub(super) async fn missing_lease_is_lost(bench: &Bench<'_>) {
    let id = LeaseId::random();
    let left = bench.store().time_to_live(id).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(left, None);
    bench.store().revoke(id).await.unwrap_or_else(|error| panic!("{error:?}"));
    must_be_lost(bench, id).await;
}

/// Checks that a lost lease cannot be kept alive, and that no key can be written with it.
async fn must_be_lost(bench: &Bench<'_>, id: LeaseId) {
    match bench.store().keep_alive(id).await {
        Ok(left) => panic!("a missing lease has {left:?} left"),
        Err(error) => assert!(error.kind() == ErrorKind::LeaseLost && !error.is_retryable(), "{error:?}"),
    }
    let key = bench.key("with-a-lost-lease");
    let put = Op::Put { key: key.clone(), value: "v".into(), expiry: Expiry::With(id), previous: false };
    let txn = Txn { then: vec![put], otherwise: vec![Op::Get(Span::Key(key.clone()))], ..Txn::default() };
    bench.refused(txn, ErrorKind::LeaseLost).await;
    assert_eq!(bench.get(&key).await, None);
}
