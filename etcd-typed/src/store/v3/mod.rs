//! etcd v3 over gRPC: `V3Store`. Needs etcd 3.4 or later.
//!
//! Modules without I/O: `wire` (the messages), `grpc` (how a call ends), `kv` and `status` (what
//! messages and statuses mean). `connection` is one connection, and `channel` holds the connections
//! of all endpoints. `cluster` decides which cluster's answers are accepted. `attempt` sends a
//! request and repeats it if needed, and `read_only_txn` changes a read-only transaction for
//! servers that may crash on it. `session` holds the token, `auth` logs in, and `call` makes a call
//! with the token. `coalesce` combines several reads into one call. `range`, `commit`, `lease` and
//! `watch` implement the methods of the store.

mod attempt;
mod auth;
mod call;
mod channel;
mod cluster;
mod coalesce;
mod commit;
mod connection;
mod grpc;
mod how;
mod kv;
mod lease;
mod range;
mod read_only_txn;
mod rights;
mod session;
mod status;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "without_tls.rs"]
mod tls;
mod ttl;
mod watch;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use attempt::Core;
use coalesce::CoalescedReads;
use how::How;
use ttl::TtlLeases;
use wire::{MEMBER_LIST, MemberListRequest, STATUS, StatusRequest};

use crate::error::{Error, ErrorKind, Result};
use crate::revision::LeaseId;
use crate::runtime::PerRuntime;
use crate::store::connect::{ConnectOptions, Endpoint};
use crate::store::{
    BoxFuture, Capabilities, Committed, Identity, Member, Range, RangeReply, Stats, StatsKind, Status, Store, Txn, Watch, WatchStream,
    within_runtime,
};

/// The name of this store in metrics and events.
const NAME: &str = "v3";

/// Spawns a task on the current runtime. The compiler generates tokio's task code twice for each
/// type of future, because tokio boxes large futures. Boxing every future here leaves one type.
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    let task: BoxFuture<'static, ()> = Box::pin(task);
    tokio::spawn(task);
}

/// An etcd cluster, reached through gRPC.
pub struct V3Store {
    core: Arc<Core>,
    own: PerRuntime<Own>,
    progress_interval: Duration,
    capabilities: Capabilities,
    /// The addresses of the endpoints.
    addresses: Vec<String>,
}

/// The state that only the callers on one runtime share. Its waiters depend on tasks of that
/// runtime, which make no progress while the runtime is not driven.
struct Own {
    reads: Arc<CoalescedReads>,
    ttls: TtlLeases,
    watches: Arc<watch::Watches>,
}

impl V3Store {
    /// Returns a store that connects at its first call. It must be used inside a tokio runtime, and
    /// each runtime has its own connections.
    ///
    /// # Errors
    ///
    /// `InvalidUrl` without an endpoint, or with an endpoint whose host is invalid. `Tls` for
    /// certificates that cannot be read. `Unsupported` for TLS without the crate's feature `tls`.
    /// `Invalid` if an option is zero; the message contains the option's name.
    pub fn new(options: &ConnectOptions) -> Result<Self> {
        let options = &options.checked()?;
        let core = Arc::new(Core::new(options)?);
        let capabilities = Capabilities {
            name: "etcd v3",
            transactions: true,
            max_operations: options.max_operations,
            max_value: options.max_request_bytes,
            past_revisions: true,
            binary_values: true,
            directories: false,
        };
        let addresses = options.endpoints.iter().map(Endpoint::identity).collect();
        Ok(Self { core, own: PerRuntime::default(), progress_interval: options.progress_interval, capabilities, addresses })
    }

    fn own(&self) -> Arc<Own> {
        self.own.here(|| Own {
            reads: Arc::new(CoalescedReads::new(Arc::clone(&self.core), self.capabilities.max_operations)),
            ttls: TtlLeases::default(),
            watches: Arc::new(watch::Watches::new(Arc::clone(&self.core), self.progress_interval)),
        })
    }
}

impl Store for V3Store {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply>> {
        within_runtime(|| range::range(self.own().reads.clone(), range))
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed>> {
        within_runtime(|| {
            let own = self.own();
            Box::pin(async move { commit::commit(&own.reads, &own.ttls, &self.capabilities, &txn).await })
        })
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream>> {
        within_runtime(|| Box::pin(self.own().watches.clone().watch(watch)))
    }

    fn grant(&self, id: LeaseId, ttl: Duration) -> BoxFuture<'_, Result<Duration>> {
        within_runtime(|| Box::pin(lease::grant(&self.core, id, ttl)))
    }

    fn keep_alive(&self, id: LeaseId) -> BoxFuture<'_, Result<Duration>> {
        within_runtime(|| Box::pin(lease::keep_alive(&self.core, id)))
    }

    fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<()>> {
        within_runtime(|| Box::pin(lease::revoke(&self.core, id)))
    }

    fn time_to_live(&self, id: LeaseId) -> BoxFuture<'_, Result<Option<Duration>>> {
        within_runtime(|| Box::pin(lease::time_to_live(&self.core, id)))
    }

    fn status(&self) -> BoxFuture<'_, Result<Status>> {
        within_runtime(|| {
            Box::pin(async move {
                // A member without a leader can still report its own status.
                let answer = self.core.call(&STATUS, How::STALE, StatusRequest {}).await?;
                let header = answer.header.as_ref();
                Ok(Status {
                    store: self.capabilities.name,
                    version: answer.version,
                    revision: kv::header_revision(header),
                    cluster: header.map(|header| hex(header.cluster_id)),
                    member: header.map(|header| hex(header.member_id)),
                    leader: (answer.leader != 0).then(|| hex(answer.leader)),
                    database_size: u64::try_from(answer.db_size).ok(),
                    errors: answer.errors,
                })
            })
        })
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>>> {
        within_runtime(|| {
            Box::pin(async move {
                let answer = self.core.call(&MEMBER_LIST, How::STALE, MemberListRequest { linearizable: false }).await?;
                let member = |member: wire::Member| Member {
                    id: hex(member.id),
                    name: member.name,
                    peer_urls: member.peer_urls,
                    client_urls: member.client_urls,
                    learner: member.is_learner,
                };
                Ok(answer.members.into_iter().map(member).collect())
            })
        })
    }

    fn history(&self) -> u64 {
        self.core.endpoints.cluster.history()
    }

    fn unreachable_since(&self, began: std::time::Instant) -> Option<Error> {
        self.core.endpoints.unreachable_since(began.into()).map(Error::from)
    }

    fn identity(&self) -> Identity {
        let cluster = self.core.endpoints.cluster.id();
        Identity { cluster: (cluster != 0).then(|| hex(cluster)), endpoints: self.addresses.clone() }
    }

    fn stats(&self, _: StatsKind) -> BoxFuture<'_, Result<Stats>> {
        Box::pin(async {
            Err(Error::new(
                ErrorKind::Unsupported,
                "etcd v3 keeps no statistics of this kind; status() has its size, revision and leader, and its /metrics the rest",
            ))
        })
    }
}

impl fmt::Debug for V3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("V3Store").field("core", &self.core).finish_non_exhaustive()
    }
}

fn hex(id: u64) -> String {
    format!("{id:x}")
}
