//! etcd v2: the keys API over HTTP, by `reqwest`.
//!
//! What a v2 server can do is less than what [`Store`] asks for, and [`Capabilities`] says so: a transaction is about one key,
//! values are text, there is no reading of the past, and of the history the last 1000 events of the whole store are kept.
//! Revisions are etcd indexes: a key's `modifiedIndex` and the `X-Etcd-Index` of an answer.
//!
//! # Limits
//!
//! - A path of more than 3000 bytes in a request, or of more than 60 segments, is refused; a value may have 1 MiB.
//! - A value that another program wrote and that is not UTF-8 is not returned by the server as it is. A read of it through a handle is an error of its key
//!   (`Decode`); the [`Store`] returns a text that says this in place of the value.
//! - Names that begin with `_` are hidden by the server: their keys are read and written by name, and are left out of listings and
//!   watches of what is above them.
//! - Deleting a directory, changing its time to live and removing it read first whether it is one, since the server would do the same to a
//!   key with a value; a directory that becomes a key in between is not noticed. Deleting a directory deletes the hidden names in it.
//! - Leases are kept by this process: it remembers which keys it wrote with which lease, and a keep-alive gives each of them its time again.
//!   No other process sees them. A keep-alive moves the `modifiedIndex` of the keys, which compares of this process follow and those of others
//!   do not. When all keys of a lease were written or deleted by others, the lease is lost.
//! - Servers of 3.5 cannot change the time to live of a directory (a defect of theirs); the error says so.
//! - A server without the v2 API is refused with [`Unsupported`](crate::ErrorKind::Unsupported): etcd 3.6 removed it, and before that
//!   `--enable-v2=true` turns it on. Such a server answers with a plain 404; only then is it asked for its `/version`, which the message names. An
//!   address that answers with a 404 and is no etcd gives [`Server`](crate::ErrorKind::Server).
//! - The cluster behind an endpoint is known only from its answers, so a write may be the first request that reaches a server which was restored. An
//!   endpoint that comes back as another cluster is used all the same, and its history is a new one: watches and views start again from the present
//!   state, guards of before are lost. Endpoints of two clusters in one list are not noticed (v3 refuses the second).
//! - A server that does not let us in answers wrong passwords and missing permissions alike.

mod admin;
mod commit;
mod encode;
mod failure;
mod http;
mod json;
mod lease;
mod machine;
mod plan;
mod queue;
mod range;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use self::http::Http;
use self::lease::Leases;
use crate::error::{Error, ErrorKind, Result};
use crate::retry::RetryPolicy;
use crate::revision::LeaseId;
use crate::store::connect::ConnectOptions;
use crate::store::{
    BoxFuture, Capabilities, Committed, Identity, Member, Range, RangeReply, Stats, StatsKind, Status, Store, Txn, Watch, WatchStream,
    within_runtime,
};

/// A cluster that speaks the v2 keys API. See the [module page](self).
#[derive(Debug)]
pub struct V2Store {
    http: Arc<Http>,
    leases: Leases,
    retry: RetryPolicy,
    /// How often an idle watch checks its endpoint.
    check_interval: Duration,
    /// How often an idle watch moves its start on.
    progress_interval: Duration,
    capabilities: Capabilities,
}

impl V2Store {
    /// Prepares the store; the first call connects.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`](crate::ErrorKind::InvalidUrl) without an endpoint or for one that is no address;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for TLS where this crate is built without its feature `tls`;
    /// [`Tls`](crate::ErrorKind::Tls) for certificates or keys that cannot be read;
    /// [`Invalid`](crate::ErrorKind::Invalid) names an option that is zero.
    pub fn new(options: ConnectOptions) -> Result<Self> {
        let options = options.checked()?;
        Ok(Self {
            http: Arc::new(Http::new(&options)?),
            leases: Leases::default(),
            retry: options.retry,
            check_interval: options.keep_alive_interval,
            progress_interval: options.progress_interval,
            capabilities: Capabilities {
                name: "etcd v2",
                transactions: false,
                max_operations: 1,
                max_value: plan::MAX_VALUE,
                past_revisions: false,
                binary_values: false,
                directories: true,
            },
        })
    }
}

/// The error of a call, with what the user may not do.
fn refused_to(error: Error, what: &str) -> Error {
    if error.kind() == ErrorKind::PermissionDenied { error.noting(&format!("it refused {what}")) } else { error }
}

/// What the server is asked may take several requests, which share the limit of one call.
impl Store for V2Store {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply>> {
        within_runtime(|| {
            // Boxed at once, here and for a commit: the future is thousands of bytes long, and each wrapper would copy it.
            let read = self.retry.one_call(Box::pin(self.read_range(range)));
            Box::pin(read.map(|read| read.map_err(|error| refused_to(error, "a read"))))
        })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed>> {
        within_runtime(|| {
            let write = self.retry.one_call(Box::pin(self.commit_txn(txn)));
            Box::pin(write.map(|write| write.map_err(|error| refused_to(error, "a write, or the read before it"))))
        })
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream>> {
        within_runtime(|| Box::pin(self.retry.one_call(self.open_watch(watch))))
    }

    fn grant(&self, id: LeaseId, ttl: Duration) -> BoxFuture<'_, Result<Duration>> {
        within_runtime(|| Box::pin(self.grant_lease(id, ttl)))
    }

    fn keep_alive(&self, id: LeaseId) -> BoxFuture<'_, Result<Duration>> {
        within_runtime(|| Box::pin(self.keep_lease_alive(id)))
    }

    fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<()>> {
        within_runtime(|| Box::pin(self.revoke_lease(id)))
    }

    fn time_to_live(&self, id: LeaseId) -> BoxFuture<'_, Result<Option<Duration>>> {
        within_runtime(|| Box::pin(async move { Ok(self.lease_time_to_live(id).await) }))
    }

    fn status(&self) -> BoxFuture<'_, Result<Status>> {
        within_runtime(|| Box::pin(self.retry.one_call(self.read_status())))
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>>> {
        within_runtime(|| Box::pin(self.retry.one_call(self.read_members())))
    }

    fn stats(&self, which: StatsKind) -> BoxFuture<'_, Result<Stats>> {
        within_runtime(|| Box::pin(self.retry.one_call(self.read_stats(which))))
    }

    fn history(&self) -> u64 {
        self.http.history()
    }

    fn identity(&self) -> Identity {
        self.http.identity()
    }
}
