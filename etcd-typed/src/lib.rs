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
//! let update = changes.next().await.expect("the stream goes on")?;
//! assert!(matches!(&update.changes[..], [CheckoutChange::RateLimit(limit)] if limit.new == Some(250)));
//! # Ok(()) }
//! ```
//!
//! # The pieces
//!
//! - [`Client`]: a store and the way to everything in it. The address chooses the store: etcd v3 (`etcd://`, gRPC), the v2 keys API (`etcd2://`, HTTP)
//!   or the embedded one (`memory:`).
//! - [`#[derive(EtcdSchema)]`](derive@EtcdSchema): a struct is a directory, a field is a key. It makes a handle with a public field for each field
//!   (`cfg.rate_limit`), which derefs to [`Dir`] for what is done to the whole struct (`cfg.get()`).
//! - [`Entry`]: one key. [`EntryMap`] and [`DirMap`]: a key or a directory for each entry of a map. [`Directory`]: without a schema.
//! - [`Versioned`]: a value with the revision it was read at; it is what a compare-and-swap compares. [`Expect`] says other conditions.
//! - [`Changes`]: typed changes, all of one revision together, that go on through restarts, dead members and cut connections; where the server has lost
//!   the history, the difference, marked `resynced`.
//! - [`Client::transaction`]: conditions and writes over any handles in one commit. [`Lease`]: keys that vanish with their owner.
//! - [`Error`]: a [kind](ErrorKind), the key, and whether a write may have happened all the same.
//!
//! # One vocabulary
//!
//! | verb | [`Entry<T>`](Entry) | [`Dir<S>`](Dir) |
//! |---|---|---|
//! | `get` | `Option<Versioned<T>>` | `Versioned<S>`, all fields from one revision |
//! | `exists` | the key is there | a key of the schema is there |
//! | `set` | write | write all, and delete what the value no longer has |
//! | `create` | only if absent | only if no key of the schema is there |
//! | `replace`, `swap` | only if present; and get the previous value | |
//! | `compare_and_swap` | by revision, value or existence | nothing below changed, appeared or vanished |
//! | `delete`, `compare_and_delete` | get what was there | every key of the schema |
//! | `modify`, `update` | `Fn(Option<T>) -> Option<T>` | `Fn(&mut S)`, writes only what changed |
//! | `watch`, `wait_for` | [`Change<T>`](Change) | [`Update`] of the derived change enum |
//!
//! Writes happen when they are awaited, and take options before that: `.ttl(…)`, `.lease(…)`, `.non_atomic()`.
//!
//! # What it is not
//!
//! It is not a client for every call of etcd's API: no user management, no maintenance. A value that was overwritten while history was lost is not
//! seen. Stores differ: what one cannot do it refuses with an error that says what to use instead ([`ErrorKind::Unsupported`]).
//!
//! # Features
//!
//! | feature | what | default |
//! |---|---|---|
//! | `derive` | the derive macros | yes |
//! | `v3` | `etcd://` | yes |
//! | `v2` | `etcd2://` | |
//! | `tls` | `etcds://`, `etcd2s://`, through rustls | |
//! | `testing` | real servers, a proxy that breaks connections, the conformance suite for stores | |
//! | `chrono`, `jiff`, `url`, `uuid` | values of these crates' types | |
//!
//! The embedded store and its faults ([`store::memory`]) are always there: test against them with paused time.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking"))]

mod changes;
mod client;
mod error;
mod handle;
mod key;
mod lease;
mod private;
mod retry;
mod revision;
mod schema;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod value;
mod version;
mod watch;

pub use changes::{Changes, EntryChanges, Watching, WatchingEntry};
pub use client::{Client, ClientBuilder};
pub use error::{Error, ErrorKind, Problem, ProblemKind, Result};
pub use handle::{
    Dir, DirDelete, DirMap, DirTryUpdate, DirUpdate, DirWrite, Directory, DirectoryWrite, Entry, EntryMap, EntryModify, EntryPages,
    EntryWrite, EtcdSchema, MapWrite, Node, Transaction, UpdateError,
};
pub use key::{Key, KeyError};
pub use lease::Lease;
pub use retry::{Backoff, RetryPolicy};
pub use revision::{LeaseId, Revision};
pub use schema::{Change, Decoder, Delta, Encoder, Field, Keyed, Kind, Map, MapKey, Presence, Schema, Table, Update};
pub use store::StatsKind;
pub use value::{Codec, EtcdValue, Json, ValueError};
pub use version::{Expect, Versioned};
pub use watch::Interruption;

#[cfg(feature = "derive")]
pub use etcd_derive::{EtcdSchema, EtcdValue};

#[doc(hidden)]
pub mod __private {
    pub use crate::private::*;
}
