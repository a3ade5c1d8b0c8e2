//! `Client`, its builder and its address: the top. It picks a store and opens handles.

mod address;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use address::{Address, Network, Protocol};

use crate::election::{self, Election};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::{Context, Dir, DirMap, Directory, Entry, EntryMap, EtcdSchema, Shared, Transaction};
use crate::key::Key;
use crate::lease::{Lease, Lessor};
use crate::live::Upstreams;
use crate::lock::NamedLock;
use crate::retry::RetryPolicy;
use crate::runtime::Runtimes;
use crate::schema::MapKey;
use crate::store::connect::{ConnectOptions, Credentials, Tls};
use crate::store::memory::MemoryStore;
use crate::store::{Consistency, Member, Stats, StatsKind, Status, Store};
use crate::turn::Turn;
use crate::value::{Codec, EtcdValue};

/// A store, and the way to everything in it. Cheap to clone; all clones share connections.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// use etcd_typed::Client;
///
/// let client = Client::connect("memory:").await?; // or "etcd://127.0.0.1:2379", or "etcd2://…"
/// let greeting = client.entry::<String>("/app/greeting")?;
/// greeting.set(&"hello".to_owned()).await?;
/// assert_eq!(greeting.get().await?.as_deref().map(String::as_str), Some("hello"));
/// # Ok(()) }
/// ```
///
/// # Runtimes
///
/// One client may be used on several tokio runtimes, at the same time or one after the other; a client in a `static` serves all `#[tokio::test]`s of a program. Each
/// runtime has connections and watches of its own (on v3 three connections), so that a runtime which ends, or is not driven any more, holds up no other.
///
/// Guards, leases, published values and live views are kept by tasks in the background, each on the runtime where it was made. When that runtime ends, its tasks
/// go on on another runtime on which the client has been used. When there is none, they wait: the next use of the client, or of what they keep, within a runtime
/// takes them there. A lease whose time has passed before that is lost ([`LostReason::NotKeptAlive`](crate::LostReason::NotKeptAlive)).
///
/// A call outside of a runtime answers `Unsupported`, where it needs one; nothing panics. Guards, views and published values may be asked and dropped there. Calls of
/// the memory store need a runtime only to wait.
///
/// A runtime that exists but is not driven (a current-thread runtime outside of `block_on`) runs no tasks. A call on another runtime that waits for
/// such a task takes it there.
#[derive(Clone, Debug)]
pub struct Client {
    context: Shared,
    /// What every key is below.
    namespace: Key,
}

impl Client {
    /// Connects to the store of this address and sees that it answers.
    ///
    /// - `etcd://[user:password@]host[:2379][,host…][/namespace]`: etcd v3 over gRPC; `etcds://` the same over TLS. Each host may have the scheme before it,
    ///   as in `http://a:2379,http://b:2379`; all hosts have one scheme. `http://` and `https://` mean the same
    ///   two. In user and password `/`, `@`, `?`, `#` and `%` are percent-encoded (`%2F`, …), as is an `@` in the namespace.
    /// - `etcd2://` and `etcd2s://`: the v2 keys API over HTTP.
    /// - `memory:`: an embedded store of its own; `memory:name`: one that all in this process share who name it.
    ///
    /// # Errors
    ///
    /// `InvalidUrl` lists what is known. `Unsupported` names the feature of this crate that the address needs, or for an `etcd2://` address the version
    /// of a server that has no v2 API, and what to do. `Unavailable`, `Timeout`, `Tls`, `Unauthenticated`, `Server` when no server answers as it
    /// should.
    pub async fn connect(address: &str) -> Result<Self> {
        Self::builder(address).connect().await
    }

    /// Connects to the address in the environment variable `ETCD_URL`.
    ///
    /// # Errors
    ///
    /// `InvalidUrl` when it is not set: no program falls back to an empty store by accident. Then as [`connect`](Self::connect).
    pub async fn from_env() -> Result<Self> {
        let address = std::env::var("ETCD_URL");
        let address =
            address.map_err(|_| Error::new(ErrorKind::InvalidUrl, "the environment variable ETCD_URL is not set to an address"))?;
        Self::connect(&address).await
    }

    /// Starts a client with options.
    pub fn builder(address: &str) -> ClientBuilder {
        ClientBuilder {
            address: address.to_owned(),
            credentials: None,
            tls: Tls::default(),
            tls_files: TlsFiles::default(),
            retry: RetryPolicy::default(),
            namespace: None,
            tune: Tuning::default(),
        }
    }

    /// A client of a store that the caller made: a [`MemoryStore`] whose faults a test wants to inject, a wrapper, a store of one's own.
    pub fn with_store(store: impl Store) -> Self {
        Self::of(Arc::new(store), RetryPolicy::default(), Key::root())
    }

    fn of(store: Arc<dyn Store>, retry: RetryPolicy, namespace: Key) -> Self {
        let runtimes = Runtimes::new();
        runtimes.note();
        let lessor = Arc::new(Lessor::new(store.clone(), retry.clone(), runtimes.clone()));
        let context = Context {
            store,
            retry,
            reads: Consistency::Linearizable,
            upstreams: Arc::new(Upstreams::new(runtimes)),
            lessor,
            claims: Vec::new(),
        };
        Self { context: Arc::new(context), namespace }
    }

    /// The same client with reads that any member may answer from what it has. They are cheaper, work without a quorum, and may be old. Writes,
    /// and the reads that decide a write, are not touched by it.
    #[must_use]
    pub fn stale_reads(&self) -> Self {
        let context = Context { reads: Consistency::Stale, ..(*self.context).clone() };
        Self { context: Arc::new(context), namespace: self.namespace.clone() }
    }

    /// The store below, for what no handle does.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        self.context.asked()
    }

    /// The directory that every key of this client is below.
    #[must_use]
    pub fn namespace(&self) -> &Key {
        &self.namespace
    }

    /// One key with values of type `T`. For a serde type without a stored form of its own: `entry::<Json<T>>`.
    ///
    /// # Errors
    ///
    /// `InvalidKey`; see [`Key::parse`]. The root is a directory, and never an entry.
    pub fn entry<T: EtcdValue + Send + Sync + 'static>(&self, path: &str) -> Result<Entry<T>> {
        let below = Key::parse(path)?;
        if below.is_root() {
            return Err(Error::new(ErrorKind::InvalidKey, "the root is a directory and holds no value").at(&self.namespace));
        }
        Ok(Entry::new(self.context.clone(), self.namespace.join(&below), Codec::value()))
    }

    /// The directory of a struct, wherever it is; the derived handle's `open` is for structs that name their prefix.
    ///
    /// # Errors
    ///
    /// `InvalidKey`; see [`Key::parse`].
    pub fn dir<S: EtcdSchema>(&self, path: &str) -> Result<S::Handle> {
        Ok(self.dir_at::<S>(self.key(path)?))
    }

    /// A directory of values, one key for each.
    ///
    /// # Errors
    ///
    /// `InvalidKey`; see [`Key::parse`].
    pub fn entries<K: MapKey, V: EtcdValue + Send + Sync + 'static>(&self, path: &str) -> Result<EntryMap<K, V>> {
        Ok(EntryMap::new(self.context.clone(), self.key(path)?, Codec::value()))
    }

    /// A directory of structs, one directory for each.
    ///
    /// # Errors
    ///
    /// `InvalidKey`; see [`Key::parse`].
    pub fn dirs<K: MapKey, S: EtcdSchema>(&self, path: &str) -> Result<DirMap<K, S>> {
        Ok(DirMap::new(self.context.clone(), self.key(path)?))
    }

    /// A directory without a schema.
    ///
    /// # Errors
    ///
    /// `InvalidKey`; see [`Key::parse`].
    pub fn directory(&self, path: &str) -> Result<Directory> {
        Ok(Directory::new(self.context.clone(), self.key(path)?))
    }

    /// Conditions and writes over any handles, to be committed together.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.context.clone())
    }

    /// A lease that is kept alive as long as the guard lives. `ttl` is at least the server's shortest (2 s with default flags); fractions of a second are
    /// rounded up.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, `NoSpace`, …: no lease was had. `Unsupported` outside of a tokio runtime.
    pub async fn lease(&self, ttl: Duration) -> Result<Lease> {
        let lessor = &self.context.lessor;
        lessor.grant(ttl).await.map(|lease| lease.by_itself(lessor))
    }

    /// The lock of this name. Sends nothing until the lock is acquired or looked at.
    ///
    /// Each client that wants the lock has a key below `NAME/`, where `NAME` is this client's namespace and the name, byte for byte as they were given.
    /// Any text that is not empty is a name: `/a` and `/a/` are two locks, as they are for `etcdctl lock`. Every key there that has a lease is in the
    /// queue, as for Go's `concurrency`; so who wants `/a` also waits for the holder of `/a/b`. On etcd v2 a name is a path, and a key directly in that directory is
    /// in the queue if its name is that of a lease and it has a time to live.
    ///
    /// [`NamedLock`] says which other clients share the queue.
    pub fn lock(&self, name: &str) -> NamedLock {
        NamedLock::new(Turn::named(self.context.lessor.clone(), &self.namespace, name, "lock"))
    }

    /// The election of this name, with candidates' values of type `T` (for a serde type `election::<Json<T>>`). Sends nothing until somebody campaigns or
    /// looks.
    ///
    /// Each candidate has a key below `NAME/`, where `NAME` is this client's namespace and the name, byte for byte as they were given. Any text that is not
    /// empty is a name: `/a` and `/a/` are two elections, as they are for `etcdctl elect`. Every key there that has a lease is a candidate, as for Go's
    /// `concurrency`; so a candidate for `/a` also waits for the leader of `/a/b`. On etcd v2 a name is a path, and a key directly in that directory is a
    /// candidate if its name is that of a lease and it has a time to live.
    ///
    /// [`Election`] says which other clients share the queue.
    pub fn election<T: EtcdValue + Send + Sync + 'static>(&self, name: &str) -> Election<T> {
        Election::new(Turn::named(self.context.lessor.clone(), &self.namespace, name, election::KIND))
    }

    /// What one server says of itself.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` where the server wants more rights for it (with authentication on, from etcd 3.5.28 on).
    pub async fn status(&self) -> Result<Status> {
        self.context.asked().status().await
    }

    /// The members of the cluster, as one of them knows them. etcd's `grpc-proxy` names itself in their place, with the id 0, unless it is started with an empty
    /// `--advertise-client-url`.
    ///
    /// # Errors
    ///
    /// `PermissionDenied`, as for [`status`](Self::status).
    pub async fn members(&self) -> Result<Vec<Member>> {
        self.context.asked().members().await
    }

    /// Statistics, which only v2 servers keep.
    ///
    /// # Errors
    ///
    /// `Unsupported` on v3 and in memory; [`status`](Self::status) is what there is.
    pub async fn stats(&self, which: StatsKind) -> Result<Stats> {
        self.context.asked().stats(which).await
    }

    pub(crate) fn dir_at<S: EtcdSchema>(&self, key: Key) -> S::Handle {
        S::handle(Dir::new(self.context.clone(), key))
    }

    fn key(&self, path: &str) -> Result<Key> {
        Ok(self.namespace.join(&Key::parse(path)?))
    }
}

/// Options of a [`Client`]; from [`Client::builder`]. `Debug` shows neither the password nor the key, wherever they were given.
#[derive(Clone)]
#[must_use = "a builder does nothing until `connect` or `connect_lazy`"]
pub struct ClientBuilder {
    address: String,
    credentials: Option<Credentials>,
    tls: Tls,
    tls_files: TlsFiles,
    retry: RetryPolicy,
    namespace: Option<String>,
    tune: Tuning,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, credentials, tls, tls_files, retry, namespace, tune } = self;
        // What is no address may be anything.
        let address = Address::parse(address).map_err(|error| error.kind());
        f.debug_struct("ClientBuilder")
            .field("address", &address)
            .field("credentials", credentials)
            .field("tls", tls)
            .field("tls_files", tls_files)
            .field("retry", retry)
            .field("namespace", namespace)
            .field("tune", tune)
            .finish()
    }
}

/// Files that are read when the client is made.
#[derive(Clone, Debug, Default)]
struct TlsFiles {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

/// What replaces a default of [`ConnectOptions`].
#[derive(Clone, Debug, Default)]
struct Tuning {
    connect_timeout: Option<Duration>,
    keep_alive: Option<(Duration, Duration)>,
    max_operations: Option<usize>,
    max_request_bytes: Option<usize>,
}

impl ClientBuilder {
    /// User and password, where the address has none.
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials { user: user.into(), password: password.into() });
        self
    }

    /// The certificate authorities to trust, PEM. Without them: the system's.
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.ca = Some(pem.into());
        self
    }

    /// The same, from a file that is read when the client is made.
    pub fn ca_certificate_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls_files.ca = Some(path.into());
        self
    }

    /// The client's certificate chain and private key, PEM.
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.tls.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The same, from files that are read when the client is made.
    pub fn identity_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls_files.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The name that the server's certificate must be for, where it is not the host of the address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.server_name = Some(name.into());
        self
    }

    /// How calls are repeated and how long they may take. [`RetryPolicy`] says what its fields may be.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// How long a connection may take to be had. Default: 2 s. Zero is refused.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.tune.connect_timeout = Some(timeout);
        self
    }

    /// How often a silent connection is checked, and how long the answer may take. Default: 5 s and 2 s; servers cut off who checks more often
    /// than each 5 s (server flag `--grpc-keepalive-min-time`). Zero is refused.
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.tune.keep_alive = Some((interval, timeout));
        self
    }

    /// How many operations one transaction may have (server flag `--max-txn-ops`). Default: 128; zero is refused. It holds for etcd v3 and in memory; on v2 a
    /// transaction has one operation. Larger transactions fail with `TooManyOperations` before anything is sent.
    pub fn max_operations(mut self, operations: usize) -> Self {
        self.tune.max_operations = Some(operations);
        self
    }

    /// How many bytes one request may have (server flag `--max-request-bytes`). Default: 1,572,864 (1.5 MiB), which is the server's default. It holds for
    /// etcd v3 and in memory. A larger value fails with `TooLarge` before anything is sent.
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.tune.max_request_bytes = Some(bytes);
        self
    }

    /// The directory that every key is below. It replaces the one in the address.
    pub fn namespace(mut self, path: impl Into<String>) -> Self {
        self.namespace = Some(path.into());
        self
    }

    /// Makes the client and sees that a server answers.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`]; and `Tls` for a file that cannot be read.
    pub async fn connect(self) -> Result<Client> {
        let client = self.connect_lazy()?;
        match client.status().await {
            Ok(_) => Ok(client),
            // It answers, and knows who we are.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(client),
            Err(error) => Err(error),
        }
    }

    /// Makes the client without asking any server; the first call connects.
    ///
    /// # Errors
    ///
    /// `InvalidUrl`, `InvalidKey` (the namespace), `Unsupported` names the feature of this crate that the address needs; `Tls` for a certificate or a key that
    /// cannot be read. `Invalid` names an option that is zero, with which no call could succeed.
    pub fn connect_lazy(self) -> Result<Client> {
        let named = self.namespace.as_deref().map(Key::parse).transpose()?;
        let address = Address::parse(&self.address)?;
        let options = self.tuned()?;
        match address {
            Address::Memory(name) => {
                let store = name.map_or_else(MemoryStore::new, |name| MemoryStore::named(&name));
                let limits = store.capabilities();
                let max_operations = self.tune.max_operations.unwrap_or(limits.max_operations);
                let max_request_bytes = self.tune.max_request_bytes.unwrap_or(limits.max_value);
                let store = store.with_limits(max_operations, max_request_bytes);
                Ok(Client::of(Arc::new(store), options.retry, named.unwrap_or_else(Key::root)))
            }
            Address::Network(network) => {
                let namespace = named.unwrap_or_else(|| network.namespace.clone());
                let retry = options.retry.clone();
                let store = open(network.protocol, self.options(network, options)?)?;
                Ok(Client::of(store, retry, namespace))
            }
        }
    }

    /// The options that every store has, without an endpoint.
    fn tuned(&self) -> Result<ConnectOptions> {
        let mut options = ConnectOptions::new(Vec::new());
        options.retry = self.retry.clone();
        options.max_operations = self.tune.max_operations.unwrap_or(options.max_operations);
        options.max_request_bytes = self.tune.max_request_bytes.unwrap_or(options.max_request_bytes);
        options.connect_timeout = self.tune.connect_timeout.unwrap_or(options.connect_timeout);
        if let Some((interval, timeout)) = self.tune.keep_alive {
            (options.keep_alive_interval, options.keep_alive_timeout) = (interval, timeout);
        }
        options.checked()
    }

    fn options(self, network: Network, mut options: ConnectOptions) -> Result<ConnectOptions> {
        options.endpoints = network.endpoints;
        options.credentials = self.credentials.or(network.credentials);
        if network.tls {
            let mut tls = self.tls;
            if let Some(path) = self.tls_files.ca {
                tls.ca = Some(read(path)?);
            }
            if let Some((certificate, key)) = self.tls_files.identity {
                tls.identity = Some((read(certificate)?, read(key)?));
            }
            options.tls = Some(tls);
        } else if self.tls != Tls::default() || self.tls_files.ca.is_some() || self.tls_files.identity.is_some() {
            return Err(Error::new(ErrorKind::InvalidUrl, "certificates go with `etcds://` or `etcd2s://`; this address is without TLS"));
        }
        Ok(options)
    }
}

fn read(path: PathBuf) -> Result<Vec<u8>> {
    std::fs::read(&path).map_err(|error| Error::new(ErrorKind::Tls, format!("{} cannot be read: {error}", path.display())).caused_by(error))
}

fn open(protocol: Protocol, options: ConnectOptions) -> Result<Arc<dyn Store>> {
    match protocol {
        #[cfg(feature = "v3")]
        Protocol::V3 => Ok(Arc::new(crate::store::v3::V3Store::new(&options)?)),
        #[cfg(feature = "v2")]
        Protocol::V2 => Ok(Arc::new(crate::store::v2::V2Store::new(options)?)),
        #[cfg(not(all(feature = "v2", feature = "v3")))]
        _ => {
            let feature = if protocol == Protocol::V3 { "v3" } else { "v2" };
            let _ = options;
            let message = format!("this address needs the feature `{feature}` of the crate etcd-typed");
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn random_password_is_in_no_debug(password in "XYZZY[ -~]{0,12}", key in "XYZZY[a-z]{0,9}", ns in "[ -~]{0,3}") {
            let encoded = percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC);
            let builders = [
                Client::builder(&format!("etcd://root:{encoded}@h")),
                Client::builder(&format!("etcd2://root:{encoded}@h")),
                Client::builder(&format!("etcd://root:{password}@h/{ns}")),
                Client::builder(&format!("etcds://root:{encoded}@h/{ns}")).identity(key.clone(), key.clone()),
                Client::builder("etcd://h").credentials("root", password.clone()),
                Client::builder("etcd2://h").credentials("root", password.clone()),
                Client::builder("etcd2s://h").ca_certificate(key.clone()).identity(key.clone(), key),
                Client::builder(&password),
            ];
            for builder in builders {
                let shown = format!("{builder:?} {:?}", builder.clone().connect_lazy());
                prop_assert!(!shown.contains("XYZZY"), "{}", shown);
            }
        }
    }

    #[test]
    #[cfg(all(feature = "v2", feature = "v3"))]
    fn host_with_credentials_is_refused_unquoted() {
        for host in ["root:hunter2@h", "hunter2 x", "hunter2/x", "hunter2?"] {
            let endpoint = crate::store::connect::Endpoint { host: host.to_owned(), port: 2379 };
            for protocol in [Protocol::V3, Protocol::V2] {
                let error = open(protocol, ConnectOptions::new(vec![endpoint.clone()])).map(|_| ()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{host}");
                assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
            }
        }
    }
}
