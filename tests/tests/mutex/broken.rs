//! Locks with defects that the checker must detect. They are built from store requests, so the
//! library needs no options that cause defects.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_typed::store::{Compare, Condition, Expiry, Op, OpResult, Range, RangeReply, Span, Store, Txn};
use etcd_typed::{ErrorKind, Key, LeaseId, Result, Revision};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::record::Behaviour;

const POLL: Duration = Duration::from_millis(10);

pub(crate) struct Guard {
    store: Arc<dyn Store>,
    key: Key,
    fence: Revision,
    lease: Lease,
}

/// A lease that is kept alive. The holder trusts the lease until the server says that the lease is
/// gone. With [`Behaviour::TrustsTooLong`], the holder stops trusting it one second too late.
struct Lease {
    id: LeaseId,
    believed: Arc<AtomicBool>,
    /// When the holder stops trusting the lease, with [`Behaviour::TrustsTooLong`].
    ends: Arc<Mutex<Option<Instant>>>,
    keeper: AbortHandle,
}

impl Guard {
    pub(crate) async fn acquire(store: &Arc<dyn Store>, directory: &Key, ttl: Duration, behaviour: Behaviour) -> Result<Self> {
        let lease = Lease::grant(store, ttl, behaviour).await?;
        let key = Key::parse(&format!("{directory}/{}", lease.id)).unwrap();
        let put = Op::Put { key: key.clone(), value: Default::default(), expiry: Expiry::With(lease.id), previous: false };
        let newest = Op::Newest { below: directory.clone(), before: None, limit: 2 };
        let made = store.commit(Txn::new(vec![put, newest])).await?;
        let guard = Self { store: store.clone(), key, fence: made.revision, lease };
        let mut before = made.results.into_iter().nth(1).map(reply).and_then(|reply| guard.predecessor(reply));
        while let Some(predecessor) = before {
            guard.gone(&predecessor, behaviour).await?;
            if behaviour == Behaviour::SkipsCheck {
                break;
            }
            let newest = Op::Newest { below: directory.clone(), before: Some(guard.fence), limit: 1 };
            let present = Compare::key(&guard.key, Condition::Created(guard.fence));
            let looked = store.commit(Txn::new(vec![newest]).compares(vec![present]).otherwise(Vec::new())).await?;
            if !looked.succeeded {
                return Err(etcd_typed::Error::new(ErrorKind::GuardLost, "the place is lost"));
            }
            before = looked.results.into_iter().next().map(reply).and_then(|reply| guard.predecessor(reply));
        }
        Ok(guard)
    }

    fn predecessor(&self, reply: RangeReply) -> Option<Key> {
        let before = reply.kvs.into_iter().find(|kv| kv.created < self.fence)?;
        Some(Key::parse(std::str::from_utf8(&before.key).unwrap()).unwrap())
    }

    async fn gone(&self, key: &Key, behaviour: Behaviour) -> Result<()> {
        while !self.store.range(Range::of(Span::Key(key.clone()))).await?.kvs.is_empty() {
            sleep(POLL).await;
        }
        if behaviour == Behaviour::NeverContinues {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn fence(&self) -> Revision {
        self.fence
    }

    pub(crate) fn lease(&self) -> LeaseId {
        self.lease.id
    }

    pub(crate) fn is_held(&self) -> bool {
        let in_time = self.lease.ends.lock().unwrap().is_none_or(|ends| Instant::now() < ends);
        self.lease.believed.load(Ordering::Relaxed) && in_time
    }

    pub(crate) async fn release(self) {
        let _ = self.store.revoke(self.lease.id).await;
    }
}

fn reply(result: OpResult) -> RangeReply {
    match result {
        OpResult::Get(reply) => reply,
        other => panic!("no answer to a read: {other:?}"),
    }
}

impl Lease {
    async fn grant(store: &Arc<dyn Store>, ttl: Duration, behaviour: Behaviour) -> Result<Self> {
        let id = LeaseId::random();
        let trust = move |sent: Instant, ttl| (behaviour == Behaviour::TrustsTooLong).then(|| sent + ttl + Duration::from_secs(1));
        let sent = Instant::now();
        let ttl = store.grant(id, ttl).await?;
        let (believed, ends) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(trust(sent, ttl))));
        let (store, told, later) = (store.clone(), believed.clone(), ends.clone());
        let keeper = tokio::spawn(async move {
            loop {
                sleep(ttl / 3).await;
                let sent = Instant::now();
                match store.keep_alive(id).await {
                    Ok(ttl) => *later.lock().unwrap() = trust(sent, ttl),
                    Err(error) if error.kind() == ErrorKind::LeaseLost => return told.store(false, Ordering::Relaxed),
                    Err(_) => {}
                }
            }
        });
        Ok(Self { id, believed, ends, keeper: keeper.abort_handle() })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}
