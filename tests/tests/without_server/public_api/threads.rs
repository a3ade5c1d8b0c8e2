//! Checks which public types may move to another thread (`Send`) and be shared by threads (`Sync`).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::marker::PhantomData;

use etcd_typed::raw::{
    Keys, Raw, RawChanges, RawDelete, RawDeleted, RawPage, RawPut, RawRange, RawTransaction, RawUpdate, RawWatching, RawWritten,
};
use etcd_typed::store::connect::{ConnectOptions, Credentials, Endpoint, RustlsConfig, Tls};
use etcd_typed::store::memory::{Calls, Faults, MemoryStore};
use etcd_typed::store::v2::V2Store;
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{
    Batch, Capabilities, Committed, Compare, Condition, Consistency, DirectoryNode, Event, Expiry, Identity, KeyValue, Member, Op,
    OpResult, Operand, Order, Range, RangeReply, Relation, SortBy, Span, Stats, Status, Txn, Watch, WatchFrom, WatchItem,
};
use etcd_typed::telemetry::{Metric, MetricKind, MetricUnit};
use etcd_typed::testing::conformance::Isolation;
use etcd_typed::testing::{Builder, Call, Cluster, CountingStore, Counts, Etcd, HookedStore, Mode, Proxy, Reply, TlsFiles};
use etcd_typed::*;

use super::library;

/// A schema like any other.
#[derive(EtcdSchema, Debug)]
struct Config {
    #[allow(dead_code, reason = "only the type is used")]
    limit: u32,
}

/// Shows whether a type is `Send` and `Sync`. For such a type, the constants of this struct's own
/// `impl` take precedence over those of the trait [`Not`].
struct Of<T>(PhantomData<T>);

#[allow(dead_code, reason = "every public type is `Send`")]
trait Not {
    const SEND: bool = false;
    const SYNC: bool = false;
}

impl<T> Not for Of<T> {}

impl<T: Send> Of<T> {
    const SEND: bool = true;
}

impl<T: Sync> Of<T> {
    const SYNC: bool = true;
}

/// Returns the name of each type, and whether it is `Send` and `Sync`.
macro_rules! threads {
    ($($ty:ty),* $(,)?) => { [$((stringify!($ty), (Of::<$ty>::SEND, Of::<$ty>::SYNC))),*] };
}

/// The types that only one thread at a time can use. All other types are `Sync`.
const SEND_ONLY: [&str; 14] = [
    "Changes",
    "Decoder",
    "DirTryUpdate",
    "DirUpdate",
    "EntryChanges",
    "EntryModify",
    "EntryPages",
    "LeaderChanges",
    "LiveStream",
    "RawChanges",
    "Reply",
    "Transaction",
    "TransactionReads",
    "Viewing",
];

fn name(ty: &str) -> String {
    ty.split('<').next().unwrap().trim().rsplit("::").next().unwrap().to_owned()
}

#[test]
fn public_types_are_send_and_sync() {
    let types = threads![
        Keys, Operand, Order, Raw, RawChanges, RawDelete, RawDeleted, RawPage, RawPut, RawRange, RawTransaction, RawUpdate, RawWatching,
        RawWritten, Relation, SortBy, Bounds, InList, Limits, Secret<String>, AdoptLease, Listing, PerEntry<String, u32>, Reads, TransactionReads, RustlsConfig, addresses::List, addresses::Text,
        Backoff, Batch, Builder, Call, Calls, Candidate<String>, Capabilities, Cause, Change<u32>, Changes<Change<u32>, u32>, Check, Client,
        ClientBuilder, Cluster, Codec<u32>, Committed, Compare, Condition, ConnectOptions, Consistency, CountingStore, Counts, Credentials,
        Decoder<'static>, Delta<'static>, Diff, Difference, Dir<Config>, DirDelete<Config>, DirMap<String, Config>, DirSeed<Config>,
        DirTryUpdate<'static, Config, Infallible>, DirUpdate<'static, Config>, DirWrite<Config>, Directory, DirectoryDelete<Revision>,
        DirectoryNode, DirectoryWrite, Election<String>, Encoder<'static>, Endpoint, Entry<u32>, EntryChanges<u32>, EntryDelete<u32>,
        EntryMap<String, u32>, EntryModify<'static, u32>, EntryPages<String, u32>, EntryWrite<u32, Revision>, Error, ErrorKind, Etcd, Event,
        Expect<'static, u32>, Expiry, Faults, Field, FieldSource, FieldStatus, Guard, Holder, HookedStore, Identity, Interruption<'static>, Isolation, Json<u32>, Key,
        KeyError, KeyValue, Keyed<String, u32>, Kind, Leader<String>, LeaderChanges<String>, Lease, LeaseId, LeaseIdError, Live<Config>,
        LiveMap<String, u32>, LiveMapIter<'static, String, u32>, LiveStatus, LiveStream<Config>, Lock, Lost, LostReason, MapWrite, Member,
        MemoryStore, Metric, MetricKind, MetricUnit, Mode, NamedLock, Node, Op, OpResult, Part<Config, u32>, Presence, Previous<u32>, Problem,
        ProblemKind, Process, Proxy, Publish<u32>, Published<u32>, PublishedStatus, Range, RangeReply, Reader<Config>, Reply, RetryPolicy,
        Revision, Rewound, Seeded, Selected<Config, u32>, Shown, Snapshot<Config>, SnapshotFailure, Span, Stats, StatsKind, Status, Subscription,
        Table, Tls, TlsFiles, Token, TokenError, Transaction, Txn, UnknownKeys, Update<u32>, UpdateError<Infallible>, V2Store, V3Store,
        ValueError, Versioned<u32>, Viewing<Config>, Watch, WatchFrom, WatchItem, Watching<Change<u32>, u32>, WatchingEntry<u32>,
    ];
    let only_send: BTreeSet<String> = types.iter().filter(|(_, marks)| *marks == (true, false)).map(|(ty, _)| name(ty)).collect();
    assert_eq!(only_send, SEND_ONLY.map(str::to_owned).into());
    let not_send: Vec<_> = types.iter().filter(|(_, (send, _))| !send).map(|(ty, _)| ty).collect();
    assert!(not_send.is_empty(), "{not_send:?}");
    let named: BTreeSet<String> = types.iter().map(|(ty, _)| name(ty)).collect();
    let missing: Vec<_> = library().public_types().difference(&named).cloned().collect();
    assert!(missing.is_empty(), "add these public types to the list: {missing:?}");
}
