//! Typed configuration and coordination on etcd.
//!
//! ```
//! use etcd_typed::{Client, EtcdSchema};
//!
//! /// Limits of the checkout service.
//! #[derive(EtcdSchema, Debug, PartialEq)]
//! #[etcd(prefix = "/{env}/checkout")]
//! struct Checkout {
//!     /// Requests per second allowed for one customer.
//!     #[etcd(default = 100)]
//!     rate_limit: u32,
//!     banner: Option<String>,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
//! let client = Client::connect("memory:").await?; // or "etcd://127.0.0.1:2379", or "etcd2://…"
//! let cfg = CheckoutDir::open(&client, "prod")?;
//!
//! let mut changes = cfg.watch().await?;
//! cfg.rate_limit.set(&250).await?; // the key /prod/checkout/rate_limit, with the value 250
//! assert_eq!(cfg.get().await?.rate_limit, 250);
//!
//! let update = changes.next().await.expect("the stream does not end")?;
//! assert!(matches!(&update.changes[..], [CheckoutChange::RateLimit(limit)] if limit.new == Some(250)));
//! # Ok(()) }
//! ```
//!
//! # Guide
//!
//! | you want to | page |
//! |---|---|
//! | map a struct to keys, and check its values | [Define a config](guide::define_a_config) |
//! | connect, write the first values, check what is stored | [Deploy and seed it](guide::deploy_and_seed) |
//! | read the current config in a hot path, follow changes | [Read it live](guide::read_live) |
//! | set, compare-and-swap, update, let a value expire | [Change it safely](guide::change_safely) |
//! | add, rename and remove fields while old programs run | [Evolve it](guide::evolve) |
//! | let one program at a time do a job | [Lock](guide::lock) |
//! | let one of several programs lead | [Lead](guide::lead) |
//! | publish the address of a service, and find services | [Register a service](guide::register_a_service) |
//! | test with faults and paused time | [Test without a server](guide::test_without_a_server) |
//! | end a program so that others go on at once | [Shut down](guide::shut_down) |
//! | see logs, metrics and health | [Watch it work](guide::watch_it_work) |
//! | run the same program on etcd v2 | [Run on v2](guide::run_on_v2) |
//! | wrap a store, or add one | [Write a store](guide::write_a_store) |
//!
//! Reference: [what each store supports](guide::stores), [sharing locks with Go, `etcdctl`, Node
//! and Python](guide::other_clients), [migrating from another client](guide::coming_from), [the
//! cost of reads and changes](guide::costs), [how the library is tested](guide::tested).
//!
//! # The pieces
//!
//! - [`Client`]: a connection to a store. The address chooses the store: etcd v3 (`etcd://`, gRPC),
//!   the v2 keys API (`etcd2://`, HTTP) or the embedded one (`memory:`).
//! - [`#[derive(EtcdSchema)]`](derive@EtcdSchema): maps a struct to a directory, and a field to a
//!   key. It generates a handle with a public field for each field (`cfg.rate_limit`). The handle
//!   derefs to [`Dir`], which has the methods for the whole struct (`cfg.get()`).
//! - [`Entry`]: one key. [`EntryMap`] and [`DirMap`]: a key, or a directory, for each entry of a
//!   map. [`Directory`]: a directory without a schema.
//! - [`Versioned`]: a value with the revision at which it was read, which a compare-and-swap
//!   checks. [`Expect`]: other conditions.
//! - [`Changes`]: typed changes, grouped by revision. The stream survives restarts, dead members
//!   and cut connections. If the server has lost history, the next item is the difference from the
//!   last known state to the present state, marked `resynced`.
//! - [`Live`]: an always-current view of a struct, an entry or a map. Each state is valid and from
//!   one revision. A read takes nanoseconds.
//! - [`Client::transaction`]: conditions and writes on any handles in one commit. [`Lease`]: keys
//!   that disappear with their owner. [`Published`], from [`Entry::publish`]: a value that exists
//!   while its guard lives, and that is written again after any loss.
//! - [`Lock`] and [`Leader`], from [`Client::lock`] and [`Client::election`]: one holder at a time,
//!   in the queue that Go's `concurrency` and `etcdctl` use too. [`Guard`] documents what a guard
//!   promises, and what no lease can promise.
//! - [`Error`]: a [kind](ErrorKind), the key, and whether a write may have been applied.
//! - [`telemetry`]: what the library reports to metrics and `tracing`.
//!
//! # The layers
//!
//! Every module uses only modules in the rows below its own row. A test rejects an import that
//! points up, and checks this picture.
//!
#![doc = include_str!("guide/layers.svg")]
//!
//! The paths of a `set`, an event and an `acquire` through these layers:
//!
#![doc = include_str!("guide/ways.svg")]
//!
//! # One vocabulary
//!
//! | verb | [`Entry<T>`](Entry) | [`Dir<S>`](Dir) |
//! |---|---|---|
//! | `get` | `Option<Versioned<T>>` | `Versioned<S>`, all fields from one revision |
//! | `exists` | the key exists | a key of the schema exists |
//! | `set` | writes | makes every field equal to the value's field; writes only the fields that differ |
//! | `create` | only if absent | only if no key of the schema exists |
//! | `seed` | | creates the fields that are missing |
//! | `replace`, `swap` | only if present; and returns the previous value | |
//! | `compare_and_swap` | by revision, value or existence | only if no key below was changed, added or deleted |
//! | `delete`, `compare_and_delete` | returns the [previous](Previous) value | every key of the schema; for an entry of a map, everything below it |
//! | `modify`, `update` | `Fn(Option<T>) -> Option<T>` | `Fn(&mut S)`; writes only the fields that changed |
//! | `watch`, `wait_for` | [`Change<T>`](Change) | [`Update`] of the derived change enum |
//! | `live` | [`Live<Option<T>>`](Live) | [`Live<S>`](Live) |
//! | `diff` | | the keys that `set` would write and delete; writes nothing |
//! | `check` | | all problems of the stored values: missing, undecodable, rejected and unknown keys |
//!
//! A write happens when it is awaited. Options are set before that: `.ttl(…)`, `.lease(…)`,
//! `.permanent()`, `.non_atomic()`, [`.guarded_by(…)`](EntryWrite::guarded_by). A write of a
//! struct's field without an [expiry](Entry#expiry) option keeps the expiry of the key.
//!
//! # Questions
//!
//! - [How do I read configuration in a hot path?](Live#how-do-i-read-configuration-in-a-hot-path)
//! - [How do I learn that a value changed?](Live#how-do-i-learn-that-a-value-changed)
//! - [How do I react in one place?](Live#how-do-i-react-in-one-place)
//! - [What happens when somebody writes nonsense?](Live#what-happens-when-somebody-writes-nonsense)
//! - [How do I know that my config is stale?](Live#how-do-i-know-that-my-config-is-stale)
//! - [How do I read my own write?](Live#how-do-i-read-my-own-write)
//! - [How do I start when etcd is down?](Live#how-do-i-start-when-etcd-is-down)
//! - [How do I test what takes a `Live`?](Live#how-do-i-test-what-takes-a-live)
//!
//! # What it is not
//!
//! This crate is not a client for every call of etcd's API: it has no user management and no
//! maintenance calls. For keys that are not paths, and values without a type, see [`raw`]. If the
//! server compacts history while a watch is disconnected, intermediate values are skipped. Stores
//! differ: a store refuses an operation that it does not support, with an error that says what to
//! use instead ([`ErrorKind::Unsupported`]).
//!
//! # Features
//!
//! | feature | what it adds | default |
//! |---|---|---|
//! | `derive` | the derive macros | yes |
//! | `v3` | `etcd://` | yes |
//! | `v2` | `etcd2://` | |
//! | `ring` | `etcds://` and `etcd2s://`, through rustls with the crypto provider `ring` | |
//! | `aws-lc` | the same with the crypto provider `aws-lc-rs` | |
//! | `tls` | the same without a crypto provider: the program installs one, or gives a configuration of its own (`ClientBuilder::tls_config`) | |
//! | `testing` | real servers, a proxy that breaks connections, a store whose calls a test can hook, the conformance suite for stores | |
//! | `snapshot` | `live().or_snapshot(path)`: a live view starts from its last good state on disk while no server answers | |
//! | `metrics` | metrics through the facade of the crate `metrics`; see [`telemetry`] | |
//! | `bytesize-2`, `chrono`, `jiff`, `url`, `uuid` | values of these crates' types | |
//!
//! The embedded store and its faults ([`store::memory`]) are always included: test against them
//! with paused time.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod changes;
mod client;
mod clock;
mod election;
mod error;
#[cfg(feature = "derive")]
pub mod guide;
mod handle;
mod key;
mod lease;
mod live;
mod lock;
mod private;
mod publish;
mod queue;
pub mod raw;
mod retry;
mod revision;
mod runtime;
mod schema;
pub mod store;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod value;
mod version;
mod watch;

/// The addresses that [`Client::builder_for`] accepts.
pub mod addresses {
    pub use crate::client::{Addresses, List, Text};
}

/// The crate that defines [`Bytes`](bytes::Bytes), which signatures of this crate use.
pub use bytes;
pub use changes::{Changes, EntryChanges, Watching, WatchingEntry};
pub use client::{Client, ClientBuilder};
pub use election::{Candidate, Election, Leader, LeaderChanges};
pub use error::{Error, ErrorKind, Problem, ProblemKind, Result};
pub use handle::{
    AsValue, Check, Diff, Difference, Dir, DirDelete, DirMap, DirSeed, DirTryUpdate, DirUpdate, DirWrite, Directory, DirectoryDelete,
    DirectoryWrite, Entry, EntryDelete, EntryMap, EntryModify, EntryPages, EntryWrite, EtcdSchema, Listing, MapWrite, Node, PerEntry,
    Previous, Publish, Reads, Seeded, Shown, Transaction, TransactionReads, UpdateError,
};
pub use key::{Key, KeyError};
pub use lease::{AdoptLease, Lease, Lost, LostReason};
pub use live::{
    Cause, FieldSource, FieldStatus, Live, LiveMap, LiveMapIter, LiveStatus, LiveStream, Part, Reader, Rewound, Selected, Snapshot,
    SnapshotFailure, Subscription, Viewing,
};
pub use lock::{Holder, Lock, NamedLock, Process};
pub use publish::{Published, PublishedStatus};
pub use queue::{Guard, Token, TokenError};
pub use retry::{Backoff, RetryPolicy};
pub use revision::{LeaseId, LeaseIdError, Revision};
/// The crate that defines the configuration type of [`ClientBuilder::tls_config`].
#[cfg(feature = "tls")]
pub use rustls;
pub use schema::{Change, Decoder, Delta, Encoder, Field, Keyed, Kind, Map, MapKey, MapPath, Presence, Schema, Table, UnknownKeys, Update};
pub use store::StatsKind;
pub use value::{Bounds, Codec, EtcdValue, InList, Json, Length, Limits, Secret, Text, ValueError, serialize_masked};
pub use version::{Expect, Versioned};
pub use watch::Interruption;

/// Maps a struct to a directory: one key for each field. Generates the handle `…Dir` and the change
/// enum `…Change`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// use std::collections::BTreeMap;
/// use std::time::Duration;
///
/// use etcd_typed::{Client, EtcdSchema};
///
/// /// Limits and endpoints of the checkout service.
/// #[derive(EtcdSchema, Debug, PartialEq)]
/// #[etcd(prefix = "/{env}/checkout")]
/// struct Checkout {
///     /// Requests per second allowed for one customer.
///     #[etcd(default = 100)]
///     rate_limit: u32,
///     timeout: Duration,
///     banner: Option<String>,
///     #[etcd(dir)]
///     database: Database,
///     #[etcd(entries)]
///     quotas: BTreeMap<String, u64>,
/// }
///
/// #[derive(EtcdSchema, Debug, PartialEq)]
/// struct Database {
///     pool: u8,
/// }
///
/// let client = Client::connect("memory:").await?;
/// let cfg = CheckoutDir::open(&client, "prod")?;
///
/// cfg.timeout.set(&Duration::from_secs(90)).await?; // /prod/checkout/timeout is `1m30s`
/// cfg.database.pool.set(&16).await?; // /prod/checkout/database/pool is `16`
/// cfg.quotas.entry("acme")?.set(&7).await?; // /prod/checkout/quotas/acme is `7`
///
/// let expected = Checkout {
///     rate_limit: 100,
///     timeout: Duration::from_secs(90),
///     banner: None,
///     database: Database { pool: 16 },
///     quotas: [("acme".to_owned(), 7)].into(),
/// };
/// assert_eq!(*cfg.get().await?, expected);
/// # Ok(()) }
/// ```
///
/// A field is one key. The key's last segment is the name of the field, and its value is encoded by
/// the [`EtcdValue`](trait@EtcdValue) of the field's type. An `Option` is `None` if the key does
/// not exist. For every other field the key must exist, or the field must have a default.
/// Attributes change these rules.
///
/// # On the struct
///
/// ## `prefix = "/a/{parameter}/b"`
///
/// The path of the directory. Generates `…Dir::open(&client, parameter, …)`, with one argument for
/// each parameter, in the order of their first use, of any type that implements `Display`. A
/// parameter may be a part of a segment, as in `/app-{name}`. Its value is escaped, so that it stays
/// within its segment. Without a prefix, open the directory with [`Client::dir`] and a path.
///
/// ## `rename_all = "kebab-case"`
///
/// The case of the segments of all fields without a `rename`: `lowercase`, `UPPERCASE`,
/// `PascalCase`, `camelCase`, `snake_case`, `SCREAMING_SNAKE_CASE`, `kebab-case` or
/// `SCREAMING-KEBAB-CASE`.
///
/// ## `validate = path`
///
/// A function from `&Self` to `Result<(), E>` with any `E: Display`. It runs before the whole
/// struct is written, before a [live view](Dir::live) shows a new state, and in [`Dir::check`].
/// [`Dir::get`] does not run it. If the function fails, the problem has the key of the struct's
/// directory.
///
/// If the struct contains a `secret` at any depth, the message of the function is hidden, since it
/// may contain the secret. To see the message, move the fields that the function checks into a
/// separate struct without secrets, and include that struct with `flatten`.
///
/// ## `change(Clone, PartialEq)`
///
/// The traits that the change enum derives besides `Debug`. The types of all fields must implement
/// them.
///
/// ## `strict`
///
/// A key in the struct's directory that is not in the schema is an error: [`Dir::get`] and
/// [`Dir::update`] return `Invalid`, and a [live view](Dir::live) keeps its last good state.
/// Without the attribute, only [`Dir::check`] lists such keys. With the attribute, a new field
/// stops older programs as soon as a newer program writes it. The attribute applies to the struct's
/// own directory, not to the directories of nested structs. Keys with the reserved segment
/// `_etcd-typed` are ignored.
///
/// ## `crate = path`
///
/// The path of this crate. A macro of a crate that re-exports this crate needs it:
/// `crate = my_crate::etcd_typed`.
///
/// # On a field
///
/// ## `rename = "segment"`, `alias = "segment"`
///
/// `rename` sets the last segment of the key. Each `alias` (there may be several) is a segment that is
/// read if the field's own key does not exist. Writes go to the field's own key, and leave the keys of
/// the aliases for older programs. When the field no longer has a value, its aliases are deleted too.
///
/// ## `default`, `default = expression`
///
/// The value of the field if its key does not exist. A string literal is converted with `Into`. The
/// default is not written to the store: the [`Entry`] of the field still reports that the key does not
/// exist.
///
/// On a struct with `dir`, the default is the value of the whole struct if the struct does not exist;
/// see [`dir`](#dir). A struct that exists is read with the defaults of its own fields.
///
/// A string literal with `::` is refused, since the same literal in serde's attribute is the path
/// of a function. Write `default = Settings::title()` to call a function, or `default =
/// String::from("a::b")` for the text.
///
/// ## `json`
///
/// The value is JSON, for any type that implements serde's `Serialize` and `Deserialize`. A value that
/// would not be equal after decoding, such as NaN or `Some(None)`, is refused; see [`Json`].
///
/// ## `with = module`
///
/// The value is encoded by `module::encode(&T) -> Result<B, E>` and decoded by
/// `module::decode(&[u8]) -> Result<T, E>`, with any `B: Into<Bytes>` and `E: Display`. A write is
/// refused with [`Encode`](ErrorKind::Encode) if `decode` does not return the same value. The values
/// are compared with `==` if the type implements it, otherwise by their encoded bytes.
///
/// ```
/// # use etcd_typed::EtcdSchema;
/// mod hex {
///     pub fn encode(value: &u32) -> Result<String, std::fmt::Error> {
///         Ok(format!("{value:x}"))
///     }
///
///     pub fn decode(bytes: &[u8]) -> Result<u32, String> {
///         let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
///         u32::from_str_radix(text, 16).map_err(|error| error.to_string())
///     }
/// }
///
/// #[derive(EtcdSchema)]
/// struct Device {
///     #[etcd(with = hex)]
///     mask: u32,
/// }
/// ```
///
/// ## `text`
///
/// The value is stored as its `Display` writes it and read with its `FromStr`. This works for any
/// type that implements both, such as versions, networks, levels, URIs and regular expressions. The
/// error of `FromStr` must implement `Display`. A read tries the stored text first, and then the
/// text without surrounding white space. A write is refused with [`Encode`](ErrorKind::Encode) if
/// reading the text does not return the same value. The values are compared with `==` if the type
/// implements it, otherwise by their texts. For the keys of a map and the elements of a list, use
/// [`Text`].
///
/// ## `dir`
///
/// The field is a struct that derives `EtcdSchema`, or an `Option`, `Box` or `Arc` of such a
/// struct, stored in a directory with the field's name. The handle of a `Box` or `Arc` reads and
/// writes the struct itself. The field can also be a `BTreeMap` or `HashMap` of such structs. Each
/// struct has its own directory, with the map's key as its name.
///
/// If none of the struct's required keys exists, an `Option` is `None`, a struct with a `default`
/// has its default, and a map has no entry. A struct without required keys exists if any of its
/// keys exists. See [`Dir`](Dir#structs-that-may-be-absent).
///
/// ## `entries`
///
/// The field is a `BTreeMap` or `HashMap` of values. Each value has its own key in a directory with
/// the field's name. The attributes `json`, `with`, `text`, `secret`, `validate`, `range`, `length`
/// and `one_of` apply to each value.
///
/// ## `flatten`
///
/// The field is a struct that derives `EtcdSchema`. Its keys are in the same directory as the keys of
/// this struct.
///
/// ## `skip`
///
/// The field is not stored. A read sets it to its `Default`.
///
/// ## `validate = path`
///
/// A function from `&T` to `Result<(), E>` with any `E: Display`. It runs before a value is
/// written; for an `Option`, only if it is `Some`. If the function fails, nothing is written, and
/// the error lists all values that failed. Other programs can still write such values: [`Dir::get`]
/// returns them, a [live view](Dir::live) keeps its last good state, and [`Dir::check`] lists them.
///
/// ```
/// # use etcd_typed::{Client, EtcdSchema};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// #[derive(EtcdSchema, Debug)]
/// #[etcd(validate = in_order)]
/// struct Pool {
///     #[etcd(validate = not_zero)]
///     min: u32,
///     max: u32,
/// }
///
/// fn not_zero(n: &u32) -> Result<(), &'static str> {
///     if *n == 0 { Err("at least 1") } else { Ok(()) }
/// }
///
/// fn in_order(pool: &Pool) -> Result<(), String> {
///     if pool.min <= pool.max { Ok(()) } else { Err(format!("min {} is above max {}", pool.min, pool.max)) }
/// }
///
/// let client = Client::connect("memory:").await?;
/// let pool = client.dir::<Pool>("/pool")?;
/// let refused = pool.set(&Pool { min: 0, max: 4 }).await.unwrap_err();
/// assert_eq!(refused.problems()[0].to_string(), "/pool/min: at least 1");
///
/// // `diff` shows what a write would change; `check` lists what is wrong with the stored values.
/// pool.set(&Pool { min: 1, max: 4 }).await?;
/// assert_eq!(pool.diff(&Pool { min: 1, max: 8 }).await?.to_string(), "~ /pool/max: 4 -> 8\n");
/// client.entry::<u32>("/pool/min")?.set(&9).await?;
/// client.entry::<u32>("/pool/mox")?.set(&16).await?;
/// let check = pool.check().await?;
/// let reasons: Vec<_> = check.problems.iter().map(|problem| problem.reason.as_str()).collect();
/// assert_eq!(reasons, ["min 9 is above max 4", "not a key of the schema"]);
/// # Ok(()) }
/// ```
///
/// ## `range = 1..=65535`, `length = 1..=64`, `one_of = ["a", "b"]`
///
/// The limits of the values, which [`describe`](Schema::describe) shows to people and to tools.
/// `range` takes any range of values of the field's type, such as `0.0..1.0` or
/// `Duration::from_secs(1)..`. `length` takes a range of numbers and counts like [`Length`]: the
/// characters of a text, or the elements of a list. `one_of` takes the possible values; a string
/// literal is converted with `Into`.
///
/// A write of another value is refused with [`Invalid`](ErrorKind::Invalid), like a value that
/// fails `validate`. A stored value outside of the limits is treated like a value that does not
/// decode: [`Dir::get`] fails with [`Invalid`](ErrorKind::Invalid), [`Entry::get`] with
/// [`Decode`](ErrorKind::Decode), and a [live view](Dir::live) keeps its last good state.
/// [`Dir::update`] reads first and so fails too; to correct the value, write the field with
/// [`Entry::set`]. [`Dir::get`] does not check a default.
///
/// `range` and `one_of` need a field that is stored in its type's own form or with `text`. The
/// description of a secret's limits leaves out `range` and `one_of`.
///
/// ```
/// # use etcd_typed::{Client, EtcdSchema, Schema};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// #[derive(EtcdSchema)]
/// struct Server {
///     #[etcd(range = 1..=65535)]
///     port: u16,
///     #[etcd(length = 1..=64)]
///     name: String,
/// }
///
/// let client = Client::connect("memory:").await?;
/// let server = client.dir::<Server>("/server")?;
/// let refused = server.port.set(&0).await.unwrap_err();
/// assert_eq!(refused.problems()[0].to_string(), "/server/port: \"0\" is not in 1 … 65535");
/// let table = "Server\nport  unsigned integer, in 1 … 65535\nname  text, length 1 … 64\n";
/// assert_eq!(Server::describe().to_string(), table);
/// # Ok(()) }
/// ```
///
/// ## `secret`
///
/// A field of type [`Secret`] needs no attribute. For a field of another type:
///
/// The value is shown as `***` in all output of this crate: errors, [diffs](Dir::diff),
/// [checks](Dir::check), logs, and `Debug` of changes and of values read with the field's own handle.
/// The message of a decoder or a validation of the value is hidden too. The type need not implement
/// `Debug`.
///
/// A derived `Debug` of the struct itself does show the value, also within a [`Versioned`] of the
/// struct. So the compiler warns about a `secret` field if its type is not [`Secret`] and the
/// struct implements `Debug`. Change the type to [`Secret`]. If the `Debug` of the struct or of the
/// field's type masks the value, add `allow_debug` beside `secret`. The warning belongs to the lint
/// `deprecated`. A generic struct gets no warning, since its `Debug` may depend on its parameters.
///
/// The value is stored unencrypted: `secret` hides it from people who read output, and does not
/// restrict who may read the key.
///
/// ```
/// # use etcd_typed::{Client, EtcdSchema};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// #[derive(EtcdSchema)]
/// struct Login {
///     user: String,
///     #[etcd(secret)]
///     password: String,
/// }
///
/// let client = Client::connect("memory:").await?;
/// let login = client.dir::<Login>("/login")?;
/// login.set(&Login { user: "me".to_owned(), password: "hunter1".to_owned() }).await?;
/// let diff = login.diff(&Login { user: "you".to_owned(), password: "hunter2".to_owned() }).await?;
/// assert_eq!(diff.to_string(), "~ /login/password: *** -> ***\n~ /login/user: me -> you\n");
/// # Ok(()) }
/// ```
///
/// # On an enum
///
/// An enum with data is a directory: the value of one key, the tag, selects the variant, and the
/// fields of this variant are next to that key. In a field, in an `Option` and in a map, the enum
/// is used like a struct, with `dir` or `flatten`.
///
/// ```
/// # use etcd_typed::{Client, ErrorKind, EtcdSchema};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// #[derive(EtcdSchema, Debug, PartialEq)]
/// enum Storage {
///     Local { path: String },
///     S3(S3), // the keys of the struct are next to the tag
///     Memory,
/// }
///
/// #[derive(EtcdSchema, Debug, PartialEq)]
/// struct S3 {
///     bucket: String,
///     #[etcd(default = 4)]
///     connections: u16,
/// }
///
/// let client = Client::connect("memory:").await?;
/// let storage = client.dir::<Storage>("/storage")?;
/// storage.set(&Storage::Local { path: "/data".to_owned() }).await?; // kind = local, path = /data
/// storage.local.path.set("/mnt").await?;
///
/// // A switch is one transaction. It removes everything below the directory.
/// storage.set(&Storage::S3(S3 { bucket: "b".to_owned(), connections: 8 })).await?;
///
/// // The fields of a variant are written only while the enum has this variant.
/// let error = storage.local.path.set("/mnt").await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Conflict);
/// storage.s3.connections.set(&16).await?;
/// assert_eq!(*storage.get().await?, Storage::S3(S3 { bucket: "b".to_owned(), connections: 16 }));
/// # Ok(()) }
/// ```
///
/// A variant has named fields, one unnamed field that is a struct (or a tagged enum) with
/// `EtcdSchema`, or no data. The named fields take the attributes of a field.
///
/// **Reading.** Only the tag decides which variant is read. Keys that only other variants have are
/// ignored, and [`Dir::check`] lists them. If the tag selects a variant and the keys of its
/// required fields do not exist, the error lists these keys. The enum exists if its tag exists;
/// this also decides whether an `Option` or an entry of a map exists. A tag that selects no variant
/// is a problem of the read: a [live view](Dir::live) keeps its last good state.
///
/// **Writing.** A write of the enum that changes its variant deletes everything below the directory,
/// including keys that are not in the schema and names that begin with `_`, and writes the new variant.
/// This is one read and one transaction. A flattened enum shares its directory with a struct, so such a
/// write deletes only the keys of the enum's own variants. A write that keeps the variant leaves keys
/// that are not in the schema. [`Transaction::set_dir`] refuses structs that contain an enum, since the
/// keys to delete depend on what is stored.
///
/// **Writing one field.** Each variant with fields has handles: `storage.local.path`, `storage.s3`.
/// A write through these handles, also in a [`Transaction`], requires in the same request that the
/// tag selects the variant. Otherwise the write fails with [`Conflict`](ErrorKind::Conflict), and
/// nothing is written. A read through these handles ignores the tag, and returns the value at the
/// key. These handles refuse [`Entry::publish`].
///
/// **Changes.** `StorageChange::Variant` has the old and the new value of the tag. When the variant
/// changes, the same [`Update`] reports the fields of the old variant as deleted and the fields of
/// the new variant as created. If a variant is called `Variant`, the change of the tag is
/// `Variant_`.
///
/// **On etcd v2** a write of the whole enum needs `.non_atomic()`. It writes the fields of the new
/// variant, then the tag, and then deletes the other keys. A reader may see the old variant with a
/// new value of a field that both variants have. A write through the handle of one variant is
/// refused with [`Unsupported`](ErrorKind::Unsupported). On no store can two variants have a key
/// and a directory of the same name, since v2 cannot hold both.
///
/// ## `tag = "kind"`, `rename_all = "kebab-case"`, `rename_all_fields = "kebab-case"`
///
/// `tag` sets the name of the tag's key; the default is `kind`. `rename_all` is the case of the
/// tag's values, and `rename_all_fields` is the case of the fields of all variants. Without
/// `rename_all`, a tag value is the variant's name in `snake_case`, or with serde's `tag` the
/// unchanged name, as serde writes it. `prefix`, `validate`, `change` and `strict` have the same
/// meaning as on a struct. For `strict`, a key of any variant is a key of the schema.
///
/// ## On a variant: `rename = "text"`, `alias = "text"`, `rename_all = "kebab-case"`
///
/// `rename` sets the value of the tag. Each `alias` is another value that is read as this variant.
/// `rename_all` is the case of the variant's fields.
///
/// ## On a variant: `other`
///
/// Every tag value that selects no other variant is read as this variant, which has no data. So an
/// older program can read the enum that a newer program wrote. An [`update`](Dir::update) that does
/// not change the variant keeps the stored keys. Every other write of this variant is refused with
/// [`Invalid`](ErrorKind::Invalid), since it would destroy the tag and the fields that this program
/// does not know.
///
/// # Attributes of serde
///
/// The derive reads `#[serde(...)]`, so a struct that serde reads from a file needs no second set
/// of attributes. The crate `serde` need not be a dependency. An attribute in `#[etcd(...)]` takes
/// precedence over the same attribute of serde. Two attributes that exclude each other, such as
/// `#[serde(skip)]` and `#[etcd(secret)]`, are an error.
///
/// ```
/// # use etcd_typed::{Client, EtcdSchema};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, EtcdSchema, Clone, Debug, PartialEq)]
/// #[serde(rename_all = "kebab-case", default)]
/// struct Settings {
///     page_size: u32,
///     #[serde(alias = "heading")]
///     title: String,
///     #[serde(flatten)]
///     limits: Limits,
/// }
///
/// #[derive(Serialize, Deserialize, EtcdSchema, Clone, Debug, PartialEq)]
/// #[serde(rename_all = "kebab-case", default)]
/// struct Limits {
///     max_users: Option<u32>,
/// }
///
/// impl Default for Settings {
///     fn default() -> Self {
///         Self { page_size: 50, title: "Forum".to_owned(), limits: Limits::default() }
///     }
/// }
///
/// impl Default for Limits {
///     fn default() -> Self {
///         Self { max_users: Some(1000) }
///     }
/// }
///
/// let client = Client::connect("memory:").await?;
/// let cfg = client.dir::<Settings>("/forum")?;
/// assert_eq!(*cfg.get().await?, Settings::default());
/// cfg.page_size.set(&20).await?; // /forum/page-size
/// assert_eq!(cfg.get().await?.page_size, 20);
/// # Ok(()) }
/// ```
///
/// | attribute of serde | meaning here |
/// |---|---|
/// | `rename`, `rename_all` | as the attributes of the same name above. Different names for reading and writing are refused, since a key has one name |
/// | `alias` | as `alias`, on a field with one key |
/// | `default`, `default = "path"` on a field | the value of the field if its key does not exist. The text is always the path of a function. On an `Option`, the function may return `Some`: a read without a key returns this value, and a write of `None` is refused |
/// | `default`, `default = "path"` on the struct | every field without a key has the value from the struct's `Default`, or from the function. A field's own `default` takes precedence. The function is called once for each field without a key. This includes nested structs (`dir`) that do not exist, but not flattened ones; a map without keys is empty |
/// | `default`, `default = "path"` on a nested struct (`dir`) | the value of the struct if it does not exist. On an `Option`, the function may return `Some` |
/// | `flatten` | as `flatten`, for a struct that derives `EtcdSchema`. In serde, a flattened map takes the keys that no field takes, which a schema cannot do: leave the map out with `#[etcd(skip)]`, or store it in one key with `#[etcd(json)]` |
/// | `skip` | the field is not stored; a read gives its `default` |
/// | `skip_serializing_if` | ignored. An `Option` that is `None` has no key anyway. Every other field is always written, so that its key shows its value |
/// | `skip_serializing`, `skip_deserializing` | both together are `skip`. One alone is refused, since a key is written and read: `#[etcd(skip)]` leaves the field out, and any other attribute in `#[etcd(...)]`, such as `secret`, stores it. A [`Secret`] with `skip_serializing` is stored |
/// | `with`, `serialize_with`, `deserialize_with` | the functions write and read the stored value, as described below |
/// | `deny_unknown_fields` | a [live view](Dir::live) logs once that its directory has unknown keys; reads ignore them. `#[etcd(strict)]` refuses them |
/// | `tag`, `rename_all_fields`, `other` on an enum | as the attributes of the same name [above](#on-an-enum). `tag` on a struct is refused |
/// | `content`, `untagged` | refused on a schema: `#[etcd(json)]` on the field stores the enum in one key |
/// | `transparent` | refused on a schema: derive [`EtcdValue`](derive@EtcdValue) |
/// | `from`, `try_from`, `into` | refused, since they mean the fields of another type: derive `EtcdSchema` for that type, or use `#[etcd(json)]`. If the other type is a value, derive [`EtcdValue`](derive@EtcdValue) with `try_from` |
/// | `bound`, `borrow`, `crate`, `expecting`, `getter`, `remote` | ignored |
///
/// A field with a serde module (`with`) is stored in the form that the module writes. A string, a
/// number or a boolean is stored as its text; everything else is stored as JSON. A read passes the
/// stored text to the same module: as JSON if it begins like a number, a boolean, an array or an
/// object, and as a string if the module does not accept the JSON. A write is refused with
/// [`Encode`](ErrorKind::Encode) if the module does not read the same value back. If the field is
/// an `Option`, the module must be written for the `Option`, and the type must be `Clone`. A
/// `serialize_with` that hides a secret from people is not used for the stored value. This concerns
/// the `serialize_with` of a [`Secret`] without a `deserialize_with`, and [`serialize_masked`] on
/// any field. Such a field is stored in the form of its type.
///
/// # What is generated
///
/// For the struct above, the derive generates the following, besides implementations of [`Schema`] (a
/// static table, and three functions that iterate over it) and of [`EtcdSchema`](trait@EtcdSchema):
///
/// ```
/// # use std::{collections::BTreeMap, ops::Deref, time::Duration};
/// # use etcd_typed::{Change, Client, Dir, DirMap, Entry, EntryMap, EtcdSchema, Keyed, Result, Schema};
/// # mod derived {
/// #     use std::{collections::BTreeMap, time::Duration};
/// #     #[derive(etcd_typed::EtcdSchema)]
/// #     #[etcd(prefix = "/{env}/checkout")]
/// #     pub struct Checkout {
/// #         pub rate_limit: u32, pub timeout: Duration, pub banner: Option<String>,
/// #         #[etcd(dir)] pub database: Database,
/// #         #[etcd(entries)] pub quotas: BTreeMap<String, u64>,
/// #     }
/// #     #[derive(etcd_typed::EtcdSchema)] pub struct Database { pub pool: u8 }
/// # }
/// # use derived::{Checkout, Database};
/// /// Each field has the documentation comment of the struct's field.
/// struct CheckoutDir {
///     pub rate_limit: Entry<u32>,
///     pub timeout: Entry<Duration>,
///     pub banner: Entry<String>,
///     pub database: <Database as EtcdSchema>::Handle, // `DatabaseDir`
///     pub quotas: EntryMap<String, u64>,
///     // and a hidden field
/// #   dir: Dir<Checkout>,
/// }
///
/// impl CheckoutDir {
///     pub fn open(client: &Client, env: impl std::fmt::Display) -> Result<Self> {
///         // …
/// #       let made = derived::CheckoutDir::open(client, env)?;
/// #       let (rate_limit, timeout, banner) = (made.rate_limit.clone(), made.timeout.clone(), made.banner.clone());
/// #       let (database, quotas, dir) = (made.database.clone(), made.quotas.clone(), Dir::clone(&made));
/// #       Ok(Self { rate_limit, timeout, banner, database, quotas, dir })
///     }
/// }
///
/// impl Deref for CheckoutDir {
///     type Target = Dir<Checkout>; // `cfg.get()`, `cfg.update(…)`, `cfg.watch()`
/// #   fn deref(&self) -> &Dir<Checkout> { &self.dir }
/// }
///
/// #[derive(Debug)]
/// enum CheckoutChange {
///     RateLimit(Change<u32>),
///     Timeout(Change<Duration>),
///     Banner(Change<String>),
///     Database(<Database as Schema>::Change), // `DatabaseChange`
///     Quotas(Keyed<String, Change<u64>>),
/// }
/// ```
///
/// All these items have the visibility of the struct, and the fields of the handle have the
/// visibility of the struct's fields. If other crates see the struct but not all of its fields, the
/// change enum is `#[non_exhaustive]` and its documentation leaves out the hidden variants.
/// `#[deprecated]` and lint attributes of a field (`allow`, `warn`, `deny`, and `expect` as
/// `allow`) apply to the handle and the change enum too. If `#[cfg]` removes a field, neither of
/// them has it. The handle also implements `Clone` and `Debug`. A generic struct has a generic
/// handle, whose bounds follow from the fields.
///
/// For an enum, the handle and the change enum have a field and a variant for each variant with data. A
/// variant with named fields adds two types, such as `StorageLocalDir` (its handles) and
/// `StorageLocalChange`.
#[cfg(feature = "derive")]
pub use etcd_derive::EtcdSchema;
/// Implements [`EtcdValue`](trait@EtcdValue) for an enum without data or a newtype, so that it can be
/// the value of a key.
///
/// ```
/// use etcd_typed::EtcdValue;
///
/// #[derive(EtcdValue, Debug, PartialEq)]
/// enum Level {
///     Quiet,
///     #[etcd(alias = "loud")]
///     VeryLoud,
/// }
///
/// #[derive(EtcdValue, Debug, PartialEq)]
/// struct Port(u16);
///
/// assert_eq!(Level::VeryLoud.encode().as_deref(), Ok(&b"very_loud"[..]));
/// assert_eq!(Level::decode(b"loud\n"), Ok(Level::VeryLoud));
/// assert_eq!(Level::decode(b"shrill").unwrap_err().to_string(), "not one of `quiet`, `very_loud`");
///
/// assert_eq!(Port::decode(b"8080"), Ok(Port(8080)));
/// ```
///
/// A variant is stored as its name in `snake_case`. Decoding ignores white space around the name. A
/// newtype is stored like the value in it. With `text` or `try_from`, any struct or enum can be stored.
/// For other types, use `#[etcd(json)]` on the field that has the type, or implement the
/// [trait](trait@EtcdValue) by hand.
///
/// # On the type
///
/// ## `validate = path`
///
/// For structs. A function from `&Self` to `Result<(), E>` with any `E: Display`. A write refuses a
/// value that fails the function with [`Encode`](ErrorKind::Encode), and a read treats it like a
/// value that is not of the type. So the program never sees such a value.
///
/// ## `try_from`, `try_from = Type`
///
/// A read creates the value with `TryFrom`, from the value in the newtype or from a value of
/// another type that is an [`EtcdValue`](trait@EtcdValue). In the second case a write converts a
/// clone of the value with `Into<Type>`. The error of `TryFrom` must implement `Display`. This
/// error becomes the reason of the read's error, and must not quote the value if the value may be
/// secret. A write refuses a value that a read would refuse or change, with
/// [`Encode`](ErrorKind::Encode).
///
/// ```
/// use etcd_typed::EtcdValue;
///
/// #[derive(EtcdValue, Debug, PartialEq)]
/// #[etcd(try_from)]
/// struct Port(u16);
///
/// impl TryFrom<u16> for Port {
///     type Error = &'static str;
///
///     fn try_from(port: u16) -> Result<Self, Self::Error> {
///         if port == 0 { Err("a port is not 0") } else { Ok(Self(port)) }
///     }
/// }
///
/// assert_eq!(Port::decode(b"80"), Ok(Port(80)));
/// assert_eq!(Port::decode(b"0").unwrap_err().to_string(), "a port is not 0");
/// ```
///
/// ## `text`
///
/// The value is stored as `Display` writes it and read with `FromStr`. Both are those of the type
/// if it implements them, otherwise those of the value in the newtype. The error of `FromStr` must
/// implement `Display`. A write refuses a value if reading its text does not return the same value.
///
/// ## `transparent`
///
/// Makes a struct with one named field a newtype, as `#[serde(transparent)]` does. A tuple struct
/// with one field is a newtype without this attribute.
///
/// ## `rename_all = "kebab-case"`
///
/// For an enum, the case of all variants without a `rename`: `lowercase`, `UPPERCASE`, `PascalCase`, `camelCase`,
/// `snake_case`, `SCREAMING_SNAKE_CASE`, `kebab-case` or `SCREAMING-KEBAB-CASE`.
///
/// ## `crate = path`
///
/// The path of this crate, as for [`EtcdSchema`](derive@EtcdSchema).
///
/// # On a variant
///
/// ## `rename = "text"`, `alias = "text"`
///
/// `rename` sets the text that is stored for the variant. Each `alias` (there may be several) is
/// another text that is decoded to the variant.
///
/// # Attributes of serde
///
/// `rename_all` on the type, and `rename` and `alias` on a variant, are also read from
/// `#[serde(...)]`; `#[etcd(...)]` takes precedence. Without `rename_all` in either, a variant is
/// stored in `snake_case`, even if serde would write its name unchanged, as `VeryLoud`. A struct
/// with one named field is a newtype if it has `#[serde(transparent)]`.
///
/// Attributes with which serde writes another form are refused unless `#[etcd(...)]` chooses the
/// form with `text` or `try_from`. For `from`, `try_from` and `into`, write
/// `#[etcd(try_from = Type)]` with the same type. For `content` and `untagged`, remove the derive,
/// and put `#[etcd(json)]` on the fields of the type. An enum with `tag` can derive
/// [`EtcdSchema`](derive@EtcdSchema) instead.
///
/// # What is generated
///
/// An implementation of [`EtcdValue`](trait@EtcdValue). Its `TYPE` lists the texts that can be stored:
/// ``one of `quiet`, `very_loud` ``.
#[cfg(feature = "derive")]
pub use etcd_derive::EtcdValue;

#[doc(hidden)]
pub mod __private {
    pub use crate::private::*;
}
