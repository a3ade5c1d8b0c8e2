//! Typed configuration and coordination on etcd.

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
pub use value::{Codec, EtcdValue, Json, ValueError};
pub use version::{Expect, Versioned};
pub use watch::Interruption;

#[cfg(feature = "derive")]
pub use etcd_derive::{EtcdSchema, EtcdValue};

#[doc(hidden)]
pub mod __private {
    pub use crate::private::*;
}
