//! etcd v2: the keys API over HTTP, through `reqwest`.
//!
//! A v2 server offers less than [`Store`] asks for, and [`Capabilities`] says so. A transaction is
//! about one key, values are text, and the past cannot be read. The server keeps only the last 1000
//! events of the whole store as history. Revisions are etcd indexes: a key's `modifiedIndex`, and
//! the `X-Etcd-Index` of an answer.
//!
//! # Limits
//!
//! - A path of more than 3000 bytes in a request, or of more than 60 segments, is refused. A value
//!   may have 1 MiB.
//! - If another program wrote a value that is not UTF-8, the server does not return it unchanged. A
//!   read through a handle then fails for this key (`Decode`). The [`Store`] itself returns a text
//!   in place of the value, which says so.
//! - The server hides names that begin with `_`. Their keys can be read and written by name, but
//!   listings and watches of the directories above leave them out.
//! - Before the store deletes or removes a directory, or changes its time to live, it reads whether
//!   the key is a directory, because the server would apply the same request to a key with a value.
//!   The store does not notice if a key with a value replaces the directory after that read.
//!   Deleting a directory also deletes the hidden names in it.
//! - This process keeps the leases: it remembers which keys it wrote with which lease, and a
//!   keep-alive renews each of these keys. No other process sees the leases. A keep-alive changes
//!   the `modifiedIndex` of the keys. Compares of this process allow for that; compares of other
//!   processes do not. When other clients have written or deleted all keys of a lease, the lease is
//!   lost.
//! - etcd 3.5 cannot change the time to live of a directory, because of a bug. The error says so.
//! - A server without the v2 API is refused with [`Unsupported`](crate::ErrorKind::Unsupported).
//!   etcd 3.6 removed the API, and earlier versions need `--enable-v2=true`. Such a server answers
//!   with a plain 404. Only then does the store ask for `/version`; the error contains the version.
//!   If an address answers with a 404 and is not an etcd, the error is
//!   [`Server`](crate::ErrorKind::Server).
//! - The cluster behind an endpoint is known only from its answers, so a write may be the first
//!   request that reaches a restored server. If an endpoint comes back with another cluster id, the
//!   store goes on using it and treats the history as new: watches and views start again from the
//!   current state, and earlier guards are lost. If the list contains endpoints of two clusters,
//!   the store does not notice (v3 refuses the second).
//! - A server reports wrong passwords and missing permissions with the same error.

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

/// A cluster that serves the v2 keys API. See the [module page](self).
#[derive(Debug)]
pub struct V2Store {
    http: Arc<Http>,
    leases: Leases,
    retry: RetryPolicy,
    /// How often an idle watch checks its endpoint.
    check_interval: Duration,
    /// How often an idle watch moves its start revision forward.
    progress_interval: Duration,
    capabilities: Capabilities,
}

impl V2Store {
    /// Prepares the store. The first call connects.
    ///
    /// # Errors
    ///
    /// - [`InvalidUrl`](crate::ErrorKind::InvalidUrl) without an endpoint, or for an invalid one.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) for TLS if this crate was built without its
    ///   feature `tls`.
    /// - [`Tls`](crate::ErrorKind::Tls) for certificates or keys that cannot be read.
    /// - [`Invalid`](crate::ErrorKind::Invalid) if an option is zero; the message contains the
    ///   option's name.
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

/// Adds to a permission error what the server refused.
fn refused_to(error: Error, what: &str) -> Error {
    if error.kind() == ErrorKind::PermissionDenied { error.noting(&format!("it refused {what}")) } else { error }
}

/// A method may need several requests, which share the time limit of one call.
impl Store for V2Store {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply>> {
        within_runtime(|| {
            // The future is boxed first, here and in `commit`, because it has thousands of bytes
            // and each wrapper would copy it.
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

    fn unreachable_since(&self, began: std::time::Instant) -> Option<Error> {
        self.http.unreachable_since(began)
    }

    fn identity(&self) -> Identity {
        self.http.identity()
    }
}
