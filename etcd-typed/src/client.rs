//! The top layer: `Client`, its builder and its address. The client picks a store and opens
//! handles.

mod address;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use address::{Address, Network, Protocol};
pub use address::{Addresses, List, Text};

use crate::election::{self, Election};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::{Context, Dir, DirMap, Directory, Entry, EntryMap, EtcdSchema, SharedContext, Transaction};
use crate::key::{Key, KeyError};
use crate::lease::{AdoptLease, Lease, LeasePool};
use crate::live::Upstreams;
use crate::lock::NamedLock;
use crate::queue::{ContenderQueue, HandOver};
use crate::raw::Raw;
use crate::retry::RetryPolicy;
use crate::revision::LeaseId;
use crate::runtime::Runtimes;
use crate::schema::{MapPath, Schema};
#[cfg(feature = "tls")]
use crate::store::connect::RustlsConfig;
use crate::store::connect::{ConnectOptions, Credentials, Tls};
use crate::store::memory::MemoryStore;
use crate::store::{Consistency, Member, Stats, StatsKind, Status, Store};
use crate::value::{Codec, EtcdValue};

/// A client for a store. It opens typed handles to keys and directories. Cloning is cheap; all
/// clones share connections.
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
/// One client can be used on several tokio runtimes, at the same time or one after the other. For
/// example, all `#[tokio::test]`s of a program can use a client in a `static`. Each runtime has its
/// own connections and watches (three connections on v3), so a runtime that ends or is no longer
/// driven blocks no other runtime.
///
/// Guards, leases, published values and live views are kept by background tasks. Each task runs on
/// the runtime where its object was created. When that runtime ends, its tasks move to another
/// runtime on which the client has been used. If there is no such runtime, they wait until the
/// client, or one of these objects, is next used within a runtime. A lease that expires in the
/// meantime is lost ([`LostReason::NotKeptAlive`](crate::LostReason::NotKeptAlive)).
///
/// A call that needs a runtime returns `Unsupported` outside of a runtime; it never panics. Guards,
/// views and published values can be queried and dropped outside of a runtime. Calls to the memory
/// store need a runtime only when they wait.
///
/// A runtime that exists but is not driven (a current-thread runtime outside of `block_on`) runs no
/// tasks. If a call on another runtime waits for such a task, the task moves to the runtime of that
/// call.
#[derive(Clone, Debug)]
pub struct Client {
    context: SharedContext,
    /// The namespace: the text before every key of this client.
    namespace: Key,
    hand_over: Arc<HandOver>,
}

impl Client {
    /// Connects to the store at this address and checks that it answers.
    ///
    /// - `etcd://[user:password@]host[:2379][,host…][/namespace]`: etcd v3 over gRPC. `etcds://` is
    ///   the same over TLS. `http://` and `https://` are synonyms of these two. Each host may
    ///   repeat the scheme, as in `http://a:2379,http://b:2379`; all hosts must have the same one.
    ///   In the user and the password, `/`, `@`, `?`, `#` and `%` are percent-encoded (`%2F`, …).
    ///   In the namespace, `@` is percent-encoded. A namespace in an address is a path; for any
    ///   other text, see [`ClientBuilder::namespace`].
    /// - `etcd2://` and `etcd2s://`: the v2 keys API over HTTP.
    /// - `memory:`: a new embedded store. `memory:name`: an embedded store that every client in
    ///   this process with the same name shares.
    ///
    /// # Errors
    ///
    /// `InvalidUrl` for an invalid address; the message lists the known forms. `Unsupported` if the
    /// address needs a feature of this crate that is not enabled, or if an `etcd2://` address leads
    /// to a server without a v2 API; the message says what to do. `Unavailable`, `Timeout`, `Tls`,
    /// `Unauthenticated` or `Server` if no server answers as expected.
    pub async fn connect(address: &str) -> Result<Self> {
        Self::builder(address).connect().await
    }

    /// Connects to the address in the environment variable `ETCD_URL`.
    ///
    /// # Errors
    ///
    /// `InvalidUrl` if the variable is not set, so that no program uses an empty store by accident.
    /// Also the errors of [`connect`](Self::connect).
    pub async fn from_env() -> Result<Self> {
        let address = std::env::var("ETCD_URL");
        let address =
            address.map_err(|_| Error::new(ErrorKind::InvalidUrl, "the environment variable ETCD_URL is not set to an address"))?;
        Self::connect(&address).await
    }

    /// Returns a builder, to set options before connecting.
    pub fn builder(address: &str) -> ClientBuilder {
        Self::builder_of(Given::Address(address.to_owned()))
    }

    /// Returns a builder for the addresses of one cluster, in the forms that configurations use:
    /// one text with commas, or a list.
    ///
    /// Each address is a host with an optional port, and may have a scheme. All schemes must be the
    /// same. The scheme of one address also applies to addresses without a scheme; the default is
    /// `etcd://`. User, password and namespace are written as in [`Client::connect`], and apply to
    /// the whole cluster.
    ///
    /// ```
    /// # fn main() -> etcd_typed::Result<()> {
    /// use etcd_typed::Client;
    ///
    /// Client::builder_for("http://a:2379,http://b:2379");
    /// Client::builder_for("a:2379, b:2379, c:2379");
    /// Client::builder_for(["a:2379", "https://b:2379"]); // both over TLS
    /// Client::builder_for(std::env::args().skip(1));
    ///
    /// let mixed = Client::builder_for(["http://a", "https://b"]).connect_lazy();
    /// assert!(mixed.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// For an invalid list, the builder returns `InvalidUrl` when it
    /// [connects](ClientBuilder::connect).
    pub fn builder_for<Form>(addresses: impl Addresses<Form>) -> ClientBuilder {
        Self::builder_of(Given::List(addresses.texts()))
    }

    fn builder_of(address: Given) -> ClientBuilder {
        ClientBuilder {
            address,
            credentials: None,
            tls: Tls::default(),
            retry: RetryPolicy::default(),
            namespace: None,
            tune: Tuning::default(),
        }
    }

    /// Creates a client for a given store: a [`MemoryStore`] with injected faults, a wrapper, or a
    /// custom store.
    pub fn with_store(store: impl Store) -> Self {
        Self::of(Arc::new(store), RetryPolicy::default(), Key::root())
    }

    fn of(store: Arc<dyn Store>, retry: RetryPolicy, namespace: Key) -> Self {
        let runtimes = Runtimes::new();
        runtimes.note();
        let lease_pool = Arc::new(LeasePool::new(store.clone(), retry.clone(), runtimes.clone()));
        let context = Context {
            store,
            retry,
            reads: Consistency::Linearizable,
            upstreams: Arc::new(Upstreams::new(runtimes)),
            lease_pool,
            claims: Vec::new(),
            tags: Vec::new(),
            name: None,
        };
        Self { context: Arc::new(context), namespace, hand_over: Arc::default() }
    }

    /// Returns a client whose reads may be answered by any member from its local data. Such reads
    /// are cheaper and work without a quorum, but may return old values. Writes, and reads that a
    /// write depends on, stay linearizable.
    #[must_use]
    pub fn stale_reads(&self) -> Self {
        let context = Context { reads: Consistency::Stale, ..(*self.context).clone() };
        Self { context: Arc::new(context), ..self.clone() }
    }

    /// Returns untyped operations on keys of arbitrary bytes, for keys that are not paths and
    /// values without a type. The [module page](crate::raw) has the details.
    ///
    /// On v2 every operation returns `Unsupported`.
    #[must_use]
    pub fn raw(&self) -> Raw {
        Raw::new(self.context.clone(), self.namespace.clone())
    }

    /// Returns the store of this client, which sends each request directly. It is meant for tests
    /// and for wrappers of stores. Applications should use [`raw`](Self::raw) instead.
    ///
    /// The store ignores the namespace, [`stale_reads`](Self::stale_reads), the time limit of a
    /// whole operation, and the client's lease and watch tasks. Keys are the server's full keys, a
    /// watch ends at the first error, and the telemetry records no operations.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        self.context.asked()
    }

    /// Returns the [namespace](ClientBuilder::namespace): the text before every key of this client.
    /// The empty namespace is the [root](Key::root).
    #[must_use]
    pub fn namespace(&self) -> &Key {
        &self.namespace
    }

    /// Opens a handle to one key with values of type `T`. For a serde type that is not an
    /// [`EtcdValue`], use `entry::<Json<T>>`.
    ///
    /// # Errors
    ///
    /// `InvalidKey` for an invalid path (see [`Key::parse`]) and for the root, which is always a
    /// directory.
    pub fn entry<T: EtcdValue + Send + Sync + 'static>(&self, path: &str) -> Result<Entry<T>> {
        let below = Key::parse(path)?;
        if below.is_root() {
            return Err(Error::new(ErrorKind::InvalidKey, "the root is a directory and holds no value").at(&self.namespace));
        }
        Ok(Entry::new(self.context.clone(), self.namespace.join(&below), Codec::value()))
    }

    /// Opens a handle to one key whose values this codec reads and writes. A codec can store any
    /// serde type as JSON, use a custom stored form, validate values, or keep them secret.
    /// [`Codec`] has an example.
    ///
    /// # Errors
    ///
    /// The errors of [`entry`](Self::entry).
    pub fn entry_with<T: Send + Sync + 'static>(&self, path: &str, codec: Codec<T>) -> Result<Entry<T>> {
        Ok(Entry::new(self.context.clone(), self.entry::<String>(path)?.key().clone(), codec))
    }

    /// Opens a handle to the directory of a struct, at any path. If the struct declares its prefix,
    /// use `open` of the derived handle instead.
    ///
    /// # Errors
    ///
    /// `InvalidKey`; see [`Key::parse`].
    pub fn dir<S: EtcdSchema>(&self, path: &str) -> Result<S::Handle> {
        Ok(self.dir_at::<S>(self.key(path)?, None))
    }

    /// Opens a handle to the directory of a struct, without handles for its fields. A function that
    /// is generic over the schema needs only the bound `S: Schema`.
    ///
    /// # Errors
    ///
    /// The errors of [`dir`](Self::dir).
    pub fn whole_dir<S: Schema>(&self, path: &str) -> Result<Dir<S>> {
        Ok(Dir::new(self.context.clone(), self.key(path)?))
    }

    /// Opens a handle to a directory of values with one key each. A map key is one path segment, or
    /// several for a tuple; see [`MapPath`].
    ///
    /// # Errors
    ///
    /// `InvalidKey`; see [`Key::parse`].
    pub fn entries<K: MapPath, V: EtcdValue + Send + Sync + 'static>(&self, path: &str) -> Result<EntryMap<K, V>> {
        Ok(EntryMap::new(self.context.clone(), self.key(path)?, Codec::value()))
    }

    /// Opens a handle to a directory of values that this codec reads and writes; see
    /// [`entry_with`](Self::entry_with).
    ///
    /// # Errors
    ///
    /// `InvalidKey`; see [`Key::parse`].
    pub fn entries_with<K: MapPath, V: Send + Sync + 'static>(&self, path: &str, codec: Codec<V>) -> Result<EntryMap<K, V>> {
        Ok(EntryMap::new(self.context.clone(), self.key(path)?, codec))
    }

    /// Opens a handle to a directory of structs with one subdirectory each.
    ///
    /// # Errors
    ///
    /// `InvalidKey`; see [`Key::parse`].
    pub fn dirs<K: MapPath, S: EtcdSchema>(&self, path: &str) -> Result<DirMap<K, S>> {
        Ok(DirMap::new(self.context.clone(), self.key(path)?))
    }

    /// Opens a handle to a directory whose contents have no schema.
    ///
    /// # Errors
    ///
    /// `InvalidKey`; see [`Key::parse`].
    pub fn directory(&self, path: &str) -> Result<Directory> {
        Ok(Directory::new(self.context.clone(), self.key(path)?))
    }

    /// Starts a transaction: conditions and writes on any handles, committed atomically.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.context.clone())
    }

    /// Grants a lease and keeps it alive while the returned guard exists. The server raises a `ttl`
    /// below its minimum (2 s with default flags). Fractions of a second are rounded up.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, `NoSpace`, …: no lease was granted. `Unsupported` outside of a
    /// tokio runtime.
    pub async fn lease(&self, ttl: Duration) -> Result<Lease> {
        let lease_pool = &self.context.lease_pool;
        lease_pool.grant(ttl).await.map(|lease| lease.by_itself(lease_pool))
    }

    /// Takes over a lease that another component granted: a sidecar, an older part of the program,
    /// a program in another language. The returned guard keeps the lease alive, unless
    /// [`kept_by_other`](AdoptLease::kept_by_other) says that the other component does so. The
    /// guard reports the end of the lease, like the guard from [`lease`](Self::lease).
    ///
    /// Dropping the guard does not revoke the lease, which then expires unless the other component
    /// keeps it alive. To revoke the lease, call [`Lease::revoke`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # use std::time::Duration;
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// # let other = client.lease(Duration::from_secs(10)).await?;
    /// # let id = other.id().get();
    /// use etcd_typed::LeaseId;
    ///
    /// // `id` comes from the other component.
    /// let lease = client.adopt_lease(LeaseId::new(id).expect("a lease's id is not 0")).await?;
    /// client.entry::<String>("/nodes/a")?.set(&"10.0.0.7".to_owned()).lease(&lease).await?;
    /// assert!(lease.is_held());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// `LeaseLost` if the server does not know the lease. `Unsupported` on v2, which has no leases,
    /// and outside of a tokio runtime. `Unavailable`, `Timeout`, … as for any request.
    pub fn adopt_lease(&self, id: impl Into<LeaseId>) -> AdoptLease {
        AdoptLease::new(self.context.lease_pool.clone(), id.into())
    }

    /// Returns a handle to the lock with this name. Sends no request until the lock is acquired or
    /// inspected.
    ///
    /// Each client that wants the lock has a key below `NAME/`, where `NAME` is the namespace of
    /// this client followed by the name, byte for byte. Any text that is not empty is a valid name:
    /// `/a` and `/a/` are two different locks, as they are for `etcdctl lock`. As in Go's
    /// `concurrency` package, every key with a lease below `NAME/` is in the queue, so a client
    /// that wants `/a` also waits for the holder of `/a/b`. On etcd v2 a name is a path. A key
    /// directly in that directory is in the queue if its name is a lease id and it has a time to
    /// live.
    ///
    /// [`NamedLock`] says which other clients share the queue.
    pub fn lock(&self, name: &str) -> NamedLock {
        NamedLock::new(self.queue(name, "lock"))
    }

    /// Returns a handle to the election with this name, whose candidates have values of type `T`.
    /// For a serde type, use `election::<Json<T>>`. Sends no request until a candidate campaigns or
    /// the election is inspected.
    ///
    /// Each candidate has a key below `NAME/`, where `NAME` is the namespace of this client
    /// followed by the name, byte for byte. Any text that is not empty is a valid name: `/a` and
    /// `/a/` are two different elections, as they are for `etcdctl elect`. As in Go's `concurrency`
    /// package, every key with a lease below `NAME/` is a candidate, so a candidate for `/a` also
    /// waits for the leader of `/a/b`. On etcd v2 a name is a path. A key directly in that
    /// directory is a candidate if its name is a lease id and it has a time to live.
    ///
    /// [`Election`] says which other clients share the queue.
    pub fn election<T: EtcdValue + Send + Sync + 'static>(&self, name: &str) -> Election<T> {
        Election::new(self.queue(name, election::KIND))
    }

    fn queue(&self, name: &str, kind: &'static str) -> Result<ContenderQueue, KeyError> {
        ContenderQueue::named(self.context.lease_pool.clone(), self.hand_over.clone(), &self.namespace, name, kind)
    }

    /// Returns the status of one server: its version, its database size and so on.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if authentication is on and the user lacks the right to ask (etcd 3.5.28
    /// and later).
    pub async fn status(&self) -> Result<Status> {
        self.context.asked().status().await
    }

    /// Returns the members of the cluster, as one member lists them. etcd's `grpc-proxy` returns
    /// itself with the id 0 instead, unless it is started with an empty `--advertise-client-url`.
    ///
    /// # Errors
    ///
    /// `PermissionDenied`, as for [`status`](Self::status).
    pub async fn members(&self) -> Result<Vec<Member>> {
        self.context.asked().members().await
    }

    /// Returns statistics, which only v2 servers keep.
    ///
    /// # Errors
    ///
    /// `Unsupported` on v3 and in memory, where [`status`](Self::status) returns similar data.
    pub async fn stats(&self, which: StatsKind) -> Result<Stats> {
        self.context.asked().stats(which).await
    }

    pub(crate) fn dir_at<S: EtcdSchema>(&self, key: Key, older: Option<Key>) -> S::Handle {
        S::handle(Dir::new(self.context.clone(), key).older(older))
    }

    /// Returns the key below `directory` for the data `name`. Also returns the key at which earlier
    /// versions of this library stored that data, if it differs. `older` is the directory's key in
    /// those versions, if it differs.
    pub(crate) fn child(&self, directory: &Key, older: Option<Key>, name: &str) -> (Key, Option<Key>) {
        let (key, own) = self.context.child(directory, name);
        let older = older.map(|older| own.as_ref().map_or_else(|| older.child(name), |_| older.hidden_child(name)));
        (key, older.or(own))
    }

    fn key(&self, path: &str) -> Result<Key> {
        Ok(self.namespace.join(&Key::parse(path)?))
    }
}

/// Options of a [`Client`], created by [`Client::builder`]. `Debug` never shows the password or the
/// private key.
#[derive(Clone)]
#[must_use = "a builder does nothing until `connect` or `connect_lazy`"]
pub struct ClientBuilder {
    address: Given,
    credentials: Option<Credentials>,
    tls: Tls,
    retry: RetryPolicy,
    namespace: Option<String>,
    tune: Tuning,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, credentials, tls, retry, namespace, tune } = self;
        // An invalid address may contain anything, even a password, so show only the error kind.
        let address = address.parse().map_err(|error| error.kind());
        f.debug_struct("ClientBuilder")
            .field("address", &address)
            .field("credentials", credentials)
            .field("tls", tls)
            .field("retry", retry)
            .field("namespace", namespace)
            .field("tune", tune)
            .finish()
    }
}

/// The address as the caller gave it.
#[derive(Clone)]
enum Given {
    Address(String),
    List(Vec<String>),
}

impl Given {
    fn parse(&self) -> Result<Address> {
        match self {
            Self::Address(text) => Address::parse(text),
            Self::List(texts) => Address::parse_list(texts),
        }
    }
}

/// The options that the caller has set, which replace the defaults of [`ConnectOptions`].
#[derive(Clone, Debug, Default)]
struct Tuning {
    connect_timeout: Option<Duration>,
    keep_alive: Option<(Duration, Duration)>,
    max_operations: Option<usize>,
    max_request_bytes: Option<usize>,
}

impl ClientBuilder {
    /// Sets user and password, which replace those in the address.
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials { user: user.into(), password: password.into() });
        self
    }

    /// Sets the trusted certificate authorities, in PEM format. Default: those of the system.
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.ca = Some(pem.into());
        self
    }

    /// Like [`ca_certificate`](Self::ca_certificate), but reads the certificates from a file. The
    /// file is read when the client is created, and again for each new connection, so it can be
    /// replaced while the program runs. Open connections continue.
    ///
    /// If the file is later unreadable or unusable, for example in the middle of a replacement, new
    /// connections use its last usable content, and the event [`certificates not
    /// replaced`](crate::telemetry) reports the problem.
    pub fn ca_certificate_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.ca_file = Some(path.into());
        self
    }

    /// Sets the client's certificate chain and private key, in PEM format.
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.tls.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Like [`identity`](Self::identity), but reads certificate and key from files. The files are
    /// read when the client is created, and again for each new connection; see
    /// [`ca_certificate_file`](Self::ca_certificate_file). If only one of the two files was
    /// replaced yet, so that they do not match, the last matching pair stays in use.
    pub fn identity_files(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.identity_files = Some((certificate.into(), key.into()));
        self
    }

    /// Uses this configuration of rustls for each connection: with its own crypto provider,
    /// verifier, client certificates and protocol versions. Its ALPN protocols are ignored.
    ///
    /// This configuration replaces the other TLS options. If another TLS option is also set,
    /// creating the client fails with `Invalid`; only [`server_name`](Self::server_name) may also
    /// be set, and only on v3.
    #[cfg(feature = "tls")]
    pub fn tls_config(mut self, config: impl Into<Arc<rustls::ClientConfig>>) -> Self {
        self.tls.config = Some(RustlsConfig(config.into()));
        self
    }

    /// Sets the name that the server's certificate must contain, if it is not the host in the
    /// address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.server_name = Some(name.into());
        self
    }

    /// Sets how often calls are retried and how long they may take. [`RetryPolicy`] lists the
    /// allowed values.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Sets how long a connection attempt may take, at most 95 % of
    /// [`RetryPolicy::read_attempt_timeout`]. Default: 2 s, of which the default policy allows 1.9 s.
    /// Zero is refused.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.tune.connect_timeout = Some(timeout);
        self
    }

    /// Sets how often an idle connection is checked, and how long the answer may take. Default: 5 s
    /// and 2 s. Servers disconnect clients that check more often than every 5 s (server flag
    /// `--grpc-keepalive-min-time`). Zero is refused.
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.tune.keep_alive = Some((interval, timeout));
        self
    }

    /// Sets the maximum number of operations in a transaction (server flag `--max-txn-ops`).
    /// Default: 128. Zero is refused. Larger transactions fail with `TooManyOperations` before
    /// anything is sent. The limit applies to etcd v3 and to the memory store; on v2 a transaction
    /// always has one operation.
    pub fn max_operations(mut self, operations: usize) -> Self {
        self.tune.max_operations = Some(operations);
        self
    }

    /// Sets the maximum size of a request in bytes (server flag `--max-request-bytes`). Default:
    /// 1,572,864 (1.5 MiB), the default of the server. A larger request fails with `TooLarge`
    /// before anything is sent. The limit applies to etcd v3 and to the memory store.
    pub fn max_request_bytes(mut self, bytes: usize) -> Self {
        self.tune.max_request_bytes = Some(bytes);
        self
    }

    /// Sets the text that precedes every path and every name of a lock or an election. It replaces
    /// the namespace in the address.
    ///
    /// Any text is a namespace: `/prod`, `v1`, `dynamo:/`, `prod.`. The text and the path are
    /// joined byte for byte, so in the namespace `v1` the path `/instances/7` is the key
    /// `v1/instances/7`, and the lock `-migrate` has the queue `v1-migrate`, as in Go's
    /// `clientv3/namespace`. If the text starts with `/`, one trailing `/` is dropped: `/prod/` is
    /// the same as `/prod`, and `/` is the same as the empty text. The empty text puts nothing
    /// before a path or a name.
    ///
    /// Keys on v2 are paths, so a namespace on v2 must be a path too. Any other text is refused with
    /// `InvalidKey`.
    pub fn namespace(mut self, text: impl Into<String>) -> Self {
        self.namespace = Some(text.into());
        self
    }

    /// Creates the client and checks that a server answers.
    ///
    /// # Errors
    ///
    /// The errors of [`Client::connect`], and `Tls` for a file that cannot be read.
    pub async fn connect(self) -> Result<Client> {
        let client = self.connect_lazy()?;
        match client.status().await {
            Ok(_) => Ok(client),
            // This error shows that the server answers and accepts the credentials.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(client),
            Err(error) => Err(error),
        }
    }

    /// Creates the client without sending a request. The first call connects.
    ///
    /// # Errors
    ///
    /// `InvalidUrl` for an invalid address. `InvalidKey` for a namespace on v2 that is not a path.
    /// `Tls` for a certificate or a key that cannot be read. `Unsupported` if the address needs a
    /// feature of this crate that is not enabled. `Invalid` if an option is zero.
    pub fn connect_lazy(self) -> Result<Client> {
        let named = self.namespace.as_deref().map(Key::namespace);
        let address = self.address.parse()?;
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
                if network.protocol == Protocol::V2 && !namespace.is_path() {
                    let error = KeyError::new(namespace.as_str(), "a namespace on etcd v2 is a path, such as `/prod`");
                    return Err(error.advise("use etcd v3 for any other text").into());
                }
                let retry = options.retry.clone();
                let store = open(network.protocol, self.options(network, options)?)?;
                Ok(Client::of(store, retry, namespace))
            }
        }
    }

    /// Returns the options that apply to every kind of store, without endpoints.
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
            options.tls = Some(self.tls);
        } else if self.tls != Tls::default() {
            return Err(Error::new(ErrorKind::InvalidUrl, "certificates need an address with TLS: `etcds://` or `etcd2s://`"));
        }
        Ok(options)
    }
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
        fn debug_of_builder_never_shows_password(password in "XYZZY[ -~]{0,12}", key in "XYZZY[a-z]{0,9}", ns in "[ -~]{0,3}") {
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
    fn error_never_quotes_host_with_credentials() {
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
