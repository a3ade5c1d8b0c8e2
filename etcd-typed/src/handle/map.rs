//! The handles of maps. `EntryMap<K, V>`: a map of values, with one key for each entry.
//! `DirMap<K, S>`: a map of structs, with one subdirectory for each entry.

mod per_entry;

use std::any::type_name;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;

use super::dir::{Dir, EtcdSchema, set};
use super::dry_run::{Check, Diff};
use super::entry::Entry;
use super::expiry::{EnclosingStruct, RequestedExpiry};
use super::plan::{Atomicity, Owner};
use super::{Context, SharedContext};
use crate::changes::{Typed, Watching};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::live::{DirsView, EntriesView, LiveMap, Viewing};
use crate::queue::Guard;
use crate::revision::{LeaseId, Revision};
use crate::schema::{self, Change, Encoded, Keyed, MapPath, Schema, Stored};
use crate::store::{BoxFuture, Expiry, KeyValue, Range, RangeReply, Span};
use crate::telemetry::Operation;
use crate::value::Codec;
use crate::version::Versioned;
pub use per_entry::PerEntry;

/// A handle to a directory with one key for each entry of a map.
///
/// A map key becomes one path segment, escaped if necessary. So any text can be a map key, and no
/// map key can lead out of the directory. A tuple becomes one segment for each part:
/// `(String, String, u64)` is `/ns/component/7`; see [`MapPath`]. Keys with the reserved name
/// `_etcd-typed` or with another number of segments are not entries; all methods leave them alone.
/// Errors and cancel safety are as for [`Entry`].
///
/// A map key that begins with `_` is stored unchanged, except on v2, which hides such names. There
/// the `_` is escaped (`%5Fx`). Earlier versions of this library escaped the `_` on all stores. An
/// entry with such an escaped name is read while the unescaped key does not exist. `set` replaces
/// the escaped key, and a deletion of the entry deletes both keys.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// use etcd_typed::Client;
///
/// let client = Client::connect("memory:").await?;
/// let quotas = client.entries::<String, u64>("/app/quotas")?;
/// quotas.entry("acme")?.set(&1000).await?;
/// quotas.entry("../evil")?.set(&1).await?; // any text can be a key, and none leaves the directory
/// assert_eq!(quotas.get().await?.len(), 2);
///
/// let mut entries = quotas.stream();
/// while let Some(entry) = entries.next().await {
///     let (customer, quota) = entry?;
///     println!("{customer}: {}", *quota);
/// }
/// # Ok(()) }
/// ```
pub struct EntryMap<K, V> {
    context: SharedContext,
    key: Key,
    codec: Codec<V>,
    /// The struct that contains the map, if there is one.
    enclosing: Option<Arc<EnclosingStruct>>,
    keys: PhantomData<fn() -> K>,
}

impl<K, V> Clone for EntryMap<K, V> {
    fn clone(&self) -> Self {
        let Self { context, key, codec, enclosing, .. } = self;
        Self { context: context.clone(), key: key.clone(), codec: *codec, enclosing: enclosing.clone(), keys: PhantomData }
    }
}

impl<K, V> fmt::Debug for EntryMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryMap").field("key", &self.key).field("type", &self.codec.type_name).finish_non_exhaustive()
    }
}

impl<K: MapPath, V: Send + Sync + 'static> EntryMap<K, V> {
    pub(crate) fn new(context: SharedContext, key: Key, codec: Codec<V>) -> Self {
        Self { context, key, codec, enclosing: None, keys: PhantomData }
    }

    /// Marks the handle as part of this struct.
    pub(super) fn within(mut self, enclosing: Arc<EnclosingStruct>) -> Self {
        self.enclosing = Some(enclosing);
        self
    }

    /// Returns the key of the directory, from the root of the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Sets the name of this map, its entries, watches and views in metrics and events. Without a
    /// name, all maps with values of one type have the same `pattern`, the name of that type.
    ///
    /// Views of one directory share a watch, which has the name of the first view.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.context = self.context.named(name);
        self
    }

    /// Returns the handle of the entry with this map key. Sends no request.
    ///
    /// # Errors
    ///
    /// `InvalidKey` if the stored form of the map key is not text.
    pub fn entry<Q>(&self, key: &Q) -> Result<Entry<V>>
    where
        Q: ToOwned<Owned = K> + ?Sized,
    {
        let (key, older) = child(&self.context, &self.key, &key.to_owned())?;
        let entry = Entry::new(self.context.clone(), key, self.codec).with_aliases(older.into_iter().collect());
        Ok(entry.within(self.enclosing.clone()))
    }

    /// Reads all entries from one revision.
    ///
    /// # Errors
    ///
    /// `Invalid`: [`Error::problems`] lists every entry that cannot be decoded or whose name is not
    /// valid.
    pub async fn get(&self) -> Result<Versioned<BTreeMap<K, V>>> {
        let work = async {
            let span = Span::Below(self.key.clone());
            let take = |entries: &mut schema::Entries<K, V>, page| entries.read(&self.key, &self.codec, page);
            let (entries, revision) =
                self.context.read_pages(&span, schema::Entries::new, take).await.map_err(|error| error.at(&self.key))?;
            Ok(entries.finish(&self.key, revision)?.secret(self.codec.is_secret()))
        };
        self.operation("get").run(work).await
    }

    /// Reads all entries from one revision. If an entry is not valid, the read does not fail: the
    /// entry is left out of the map and listed in [`PerEntry::problems`]. See
    /// [`Viewing::per_entry`] for a live view with the same rule.
    ///
    /// # Errors
    ///
    /// The errors of a read.
    pub async fn get_per_entry(&self) -> Result<Versioned<PerEntry<K, V>>> {
        let work = async {
            let span = Span::Below(self.key.clone());
            let take = |entries: &mut schema::Entries<K, V>, page| entries.read(&self.key, &self.codec, page);
            let (entries, revision) =
                self.context.read_pages(&span, schema::Entries::new, take).await.map_err(|error| error.at(&self.key))?;
            let (entries, problems) = entries.finish_per_entry(revision);
            Ok(entries.map(|entries| PerEntry { entries, problems }).secret(self.codec.is_secret()))
        };
        self.operation("get").run(work).await
    }

    /// Makes the directory contain exactly these entries. Like [`Dir::set`], this reads the
    /// directory and sends one transaction with the differences. If another write comes in between,
    /// `set` starts again.
    ///
    /// The write decides when all entries expire, with `.ttl()`, `.lease()` or `.permanent()`.
    /// Without these, the entries of a standalone map never expire, and the entries of a map in a
    /// struct expire with the struct.
    ///
    /// # Errors
    ///
    /// The errors of [`Dir::set`].
    pub fn set(&self, map: &BTreeMap<K, V>) -> MapWrite {
        let encoded = self.encode(map);
        MapWrite::new(&self.context, &self.key, self.enclosing.as_ref(), self.owner(), encoded, self.operation("set"))
    }

    /// Returns what [`set`](Self::set) of these entries would write and delete now, without writing
    /// anything; see [`Dir::diff`].
    ///
    /// # Errors
    ///
    /// `Invalid` as for `set`.
    pub async fn diff(&self, map: &BTreeMap<K, V>) -> Result<Diff> {
        let encoded = self.encode(map)?;
        self.operation("diff").run(Diff::read(&self.context, &self.key, self.owner(), encoded)).await
    }

    /// Lists every problem in the stored map; see [`Dir::check`]. Keys in subdirectories are listed
    /// as keys that are not in the schema.
    ///
    /// # Errors
    ///
    /// The errors of a read.
    pub async fn check(&self) -> Result<Check> {
        let read = Check::read(&self.context, &self.key, self.owner(), |decoder| decoder.all_entries::<BTreeMap<K, V>>(self.codec));
        self.operation("check").run(read).await
    }

    /// Watches the changes of the entries from now on; see [`Dir::watch`].
    pub fn watch(&self) -> Watching<Keyed<K, Change<V>>, BTreeMap<K, V>> {
        let (codec, map) = (self.codec, self.clone());
        let typed = Typed::new(
            self.context.pattern(type_name::<V>()),
            move |delta, out| delta.all_entries(codec, |change| change, out),
            move |_: &Key, tree: &schema::Tree, revision| map.decode(tree, revision),
        )
        .per_entry(move |directory, tree, revision| {
            let (entries, _) = schema::each_entry(directory, tree, revision, &codec);
            entries.secret(codec.is_secret())
        });
        Watching::new(self.context.lease_pool.roaming().clone(), self.context.retry.clone(), self.key.clone(), typed)
    }

    /// Opens an always-current view of the map. A change of one entry costs O(log n). See
    /// [`Live`](crate::Live).
    ///
    /// The map in the view is in the order of its keys. `created()` of a state returns zero, since
    /// the view does not know that revision.
    pub fn live(&self) -> Viewing<LiveMap<K, V>> {
        self.context.view(Span::Below(self.key.clone()), &self.key, self.context.pattern(type_name::<V>()), EntriesView::new(self.codec))
    }

    /// Reads the entries page by page from one revision, in the order of the stored form of their
    /// keys. Use this stream for directories that do not fit in memory. An entry that cannot be
    /// decoded is an item with an error, and does not end the stream.
    ///
    /// A store without past revisions (v2) sends the whole directory in one answer.
    ///
    /// # Errors
    ///
    /// `Decode` for an entry, with its key. `HistoryLost` ends the stream if the server compacts
    /// the revision while the stream reads.
    pub fn stream(&self) -> EntryPages<K, V> {
        self.stream_in_pages_of(10_000)
    }

    /// Like [`stream`](Self::stream), with at most `limit` keys per page (at least one).
    pub fn stream_in_pages_of(&self, limit: usize) -> EntryPages<K, V> {
        let paging = Paging { map: self.clone(), limit: limit.max(1), revision: None, after: None, page: VecDeque::new(), done: false };
        EntryPages { items: Box::pin(stream::unfold(paging, Paging::next)) }
    }

    fn encode(&self, map: &BTreeMap<K, V>) -> Result<Encoded> {
        let encoded = schema::encode_with(&self.key, |encoder| encoder.all_entries(map, self.codec))?;
        Ok(self.context.stored(encoded))
    }

    fn owner(&self) -> Owner {
        Owner::Entries { secret: self.codec.is_secret(), levels: K::LEVELS }
    }

    fn operation(&self, op: &'static str) -> Operation {
        Operation::new(op, self.context.pattern(type_name::<V>()))
    }

    fn decode(&self, tree: &schema::Tree, revision: Revision) -> Result<Versioned<BTreeMap<K, V>>> {
        let read = schema::decode_map::<BTreeMap<K, V>, _>(&self.key, tree, revision, |decoder| decoder.all_entries(self.codec))?;
        Ok(read.secret(self.codec.is_secret()))
    }
}

/// Returns the key of a map entry, and the key at which earlier versions of this library stored the
/// entry if they used another key.
fn child<K: MapPath>(context: &Context, directory: &Key, key: &K) -> Result<(Key, Option<Key>)> {
    let path = key.path().map_err(|reason| Error::new(ErrorKind::InvalidKey, reason.to_string()).at(directory))?;
    Ok(context.descend(directory, &path))
}

/// A write of a whole map. The write runs when it is awaited, and returns its revision.
#[must_use = "a write does nothing until it is awaited"]
pub struct MapWrite {
    context: SharedContext,
    key: Key,
    owner: Owner,
    encoded: Result<Encoded>,
    requested: RequestedExpiry,
    atomicity: Atomicity,
    operation: Operation,
    /// The struct that contains the map, if there is one.
    enclosing: Option<Arc<EnclosingStruct>>,
}

impl MapWrite {
    fn new(
        context: &SharedContext,
        key: &Key,
        enclosing: Option<&Arc<EnclosingStruct>>,
        owner: Owner,
        encoded: Result<Encoded>,
        operation: Operation,
    ) -> Self {
        let (requested, atomicity, enclosing) = (RequestedExpiry::Keep, Atomicity::Atomic, enclosing.cloned());
        Self { context: context.clone(), key: key.clone(), owner, encoded, requested, atomicity, operation, enclosing }
    }

    /// Lets every entry expire after this time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::After(ttl));
        self
    }

    /// Attaches every entry to this lease.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::With(lease.into()));
        self
    }

    /// Stores the entries without expiry, even if the map is part of a struct that expires.
    pub fn permanent(mut self) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::Never);
        self
    }

    /// Allows several steps instead of one transaction; see
    /// [`DirWrite::non_atomic`](crate::DirWrite::non_atomic).
    pub fn non_atomic(mut self) -> Self {
        self.atomicity = Atomicity::NonAtomic;
        self
    }

    /// Applies the write only while this guard is held; see
    /// [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`: nothing was written, or with `.non_atomic()` only the keys in
    /// [`Error::written`].
    /// `Unsupported` on v2.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.context = self.context.guarded_by(guard);
        self
    }
}

impl IntoFuture for MapWrite {
    type Output = Result<Revision>;
    type IntoFuture = BoxFuture<'static, Result<Revision>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { context, key, owner, encoded, requested, atomicity, operation, enclosing } = self;
        Box::pin(operation.run(async move {
            let write = set(&context, &key, enclosing.as_ref(), owner, encoded?, requested, atomicity, operation);
            context.limited(atomicity, write).await
        }))
    }
}

impl fmt::Debug for MapWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapWrite").field("key", &self.key).field("atomicity", &self.atomicity).finish_non_exhaustive()
    }
}

/// A stream that reads the entries of a map page by page; created by [`EntryMap::stream`].
pub struct EntryPages<K, V> {
    items: Pin<Box<dyn Stream<Item = PageItem<K, V>> + Send>>,
}

type PageItem<K, V> = Result<(K, Versioned<V>)>;

impl<K, V> EntryPages<K, V> {
    /// Returns the next entry, or `None` after the last.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no entry.
    pub async fn next(&mut self) -> Option<Result<(K, Versioned<V>)>> {
        stream::StreamExt::next(&mut self.items).await
    }
}

impl<K, V> Stream for EntryPages<K, V> {
    type Item = Result<(K, Versioned<V>)>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        self.items.as_mut().poll_next(context)
    }
}

impl<K, V> fmt::Debug for EntryPages<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryPages").finish_non_exhaustive()
    }
}

struct Paging<K, V> {
    map: EntryMap<K, V>,
    limit: usize,
    revision: Option<Revision>,
    after: Option<Bytes>,
    page: VecDeque<Result<(K, Versioned<V>)>>,
    done: bool,
}

impl<K: MapPath, V: Send + Sync + 'static> Paging<K, V> {
    async fn next(mut self) -> Option<(Result<(K, Versioned<V>)>, Self)> {
        loop {
            if let Some(item) = self.page.pop_front() {
                return Some((item, self));
            }
            if self.done {
                return None;
            }
            if let Err(error) = self.read_page().await {
                self.done = true;
                return Some((Err(error.at(&self.map.key)), self));
            }
        }
    }

    async fn read_page(&mut self) -> Result<()> {
        let map = &self.map;
        let paged = map.context.store.capabilities().past_revisions;
        let range = Range {
            revision: self.revision,
            limit: paged.then_some(self.limit),
            after: self.after.take(),
            consistency: map.context.reads,
            ..Range::of(Span::Below(map.key.clone()))
        };
        let reply = map.context.asked().range(range).await?;
        self.done = !reply.more;
        self.revision = Some(reply.revision);
        self.after = reply.kvs.last().map(|kv| kv.key.clone());
        let replaced = self.replaced(&reply).await?;
        let map = &self.map;
        for kv in reply.kvs.into_iter().filter(|kv| !replaced.contains(&kv.key)) {
            let item = match schema::entry(&map.key, &map.codec, &kv) {
                None => continue,
                Some(Ok((key, value))) => {
                    let versions = Stored::from(kv).versions(reply.revision);
                    Ok((key, Versioned::new(value, versions).secret(map.codec.is_secret())))
                }
                Some(Err(wrong)) => Err(Error::new(ErrorKind::Decode, wrong.first.reason).at(&wrong.first.key)),
            };
            self.page.push_back(item);
        }
        Ok(())
    }

    /// Returns the keys in the escaped form of earlier versions whose entry also has a key with a
    /// plain `_`. The plain key may be in a later page. So for each escaped key, this reads whether
    /// the plain key exists, unless it is in this page.
    async fn replaced(&self, reply: &RangeReply) -> Result<HashSet<Bytes>> {
        let map = &self.map;
        let own = |kv: &KeyValue| map.key.below(&kv.key).and_then(schema::own_entry::<K>);
        let older: Vec<_> = reply.kvs.iter().filter_map(|kv| Some((kv, map.key.descend(&own(kv)?)))).collect();
        let mut replaced = HashSet::new();
        if older.is_empty() {
            return Ok(replaced);
        }
        let keys: HashSet<&[u8]> = reply.kvs.iter().map(|kv| &kv.key[..]).collect();
        for (kv, own) in older {
            let mut exists = keys.contains(own.as_bytes());
            if !exists && reply.more {
                let (revision, consistency) = (Some(reply.revision), map.context.reads);
                let one = Range { revision, consistency, keys_only: true, ..Range::of(Span::Key(own)) };
                exists = !map.context.asked().range(one).await?.kvs.is_empty();
            }
            if exists {
                replaced.insert(kv.key.clone());
            }
        }
        Ok(replaced)
    }
}

/// A handle to a directory that contains one subdirectory with a struct for each entry of a map.
///
/// Map keys have the same form as in an [`EntryMap`]; see [`dir`](Self::dir) for directories of
/// earlier versions of this library. A subdirectory is an entry if it contains one of the struct's
/// required keys. If the struct has no required key, any of its keys is enough. An entry is removed
/// with everything below its directory. See [`Dir`](Dir#structs-that-may-be-absent).
pub struct DirMap<K, S> {
    context: SharedContext,
    key: Key,
    /// The struct that contains the map, if there is one.
    enclosing: Option<Arc<EnclosingStruct>>,
    types: PhantomData<fn() -> (K, S)>,
}

impl<K, S> Clone for DirMap<K, S> {
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), key: self.key.clone(), enclosing: self.enclosing.clone(), types: PhantomData }
    }
}

impl<K, S: Schema> fmt::Debug for DirMap<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirMap").field("key", &self.key).field("schema", &S::TABLE.name).finish_non_exhaustive()
    }
}

impl<K: MapPath, S: EtcdSchema> DirMap<K, S> {
    pub(crate) fn new(context: SharedContext, key: Key) -> Self {
        Self { context, key, enclosing: None, types: PhantomData }
    }

    /// Marks the handle as part of this struct.
    pub(super) fn within(mut self, enclosing: Arc<EnclosingStruct>) -> Self {
        self.enclosing = Some(enclosing);
        self
    }

    /// Returns the key of the directory, from the root of the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Sets the name of this map, its watches and views in metrics and events. Without a name, all
    /// maps with structs of one type have the same `pattern`, the pattern of that type.
    ///
    /// Views of one directory share a watch, which has the name of the first view.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.context = self.context.named(name);
        self
    }

    /// Returns the handle of the struct with this map key. Sends no request. The handle's `delete`
    /// removes the entry, with everything below its directory.
    ///
    /// For a map key that begins with `_`, earlier versions of this library stored the struct in a
    /// directory with an escaped name (`%5Fx`). `get` and `exists` of the struct and of its fields
    /// read the escaped directory while the unescaped directory does not contain the struct.
    /// `delete` deletes both. Other methods use the unescaped directory only. To move the struct,
    /// read it and `set` it, or `set` the whole map.
    ///
    /// # Errors
    ///
    /// `InvalidKey` if the stored form of the map key is not text.
    pub fn dir<Q>(&self, key: &Q) -> Result<S::Handle>
    where
        Q: ToOwned<Owned = K> + ?Sized,
    {
        let (key, older) = child(&self.context, &self.key, &key.to_owned())?;
        Ok(S::handle(Dir::new(self.context.clone(), key).older(older).within(self.enclosing.clone()).removable(true)))
    }

    /// Lists the map keys of the entries that exist, in order.
    ///
    /// # Errors
    ///
    /// `Invalid`: [`Error::problems`] lists every subdirectory whose name is not valid.
    pub async fn keys(&self) -> Result<Vec<K>> {
        let work = async {
            let reply = self.context.read(Span::Below(self.key.clone()), true).await.map_err(|error| error.at(&self.key))?;
            let tree = schema::tree_in_steps(&self.key, reply.kvs).await;
            schema::decode_map(&self.key, &tree, reply.revision, |decoder| decoder.dir_keys::<K>(S::TABLE)).map(Versioned::into_inner)
        };
        self.operation("keys").run(work).await
    }

    /// Reads all structs from one revision.
    ///
    /// # Errors
    ///
    /// `Invalid`: [`Error::problems`] lists every invalid or missing field of every struct.
    pub async fn get(&self) -> Result<Versioned<BTreeMap<K, S>>> {
        let work = async {
            let reply = self.context.read(Span::Below(self.key.clone()), false).await.map_err(|error| error.at(&self.key))?;
            let tree = schema::tree_in_steps(&self.key, reply.kvs).await;
            schema::decode_map_in_steps(&self.key, &tree, reply.revision, |decoder| decoder.all_dirs()).await
        };
        self.operation("get").run(work).await
    }

    /// Reads all structs from one revision. If a struct is not valid, the read does not fail: the
    /// struct is left out of the map and listed in [`PerEntry::problems`]. See
    /// [`Viewing::per_entry`] for a live view with the same rule.
    ///
    /// # Errors
    ///
    /// The errors of a read.
    pub async fn get_per_entry(&self) -> Result<Versioned<PerEntry<K, S>>> {
        let work = async {
            let reply = self.context.read(Span::Below(self.key.clone()), false).await.map_err(|error| error.at(&self.key))?;
            let tree = schema::tree_in_steps(&self.key, reply.kvs).await;
            let (entries, problems) = schema::each_dir_in_steps(&self.key, &tree, reply.revision).await;
            Ok(entries.map(|entries| PerEntry { entries, problems }))
        };
        self.operation("get").run(work).await
    }

    /// Makes the directory contain exactly these structs, as [`EntryMap::set`] does for values.
    /// Other entries are removed with everything below them.
    ///
    /// # Errors
    ///
    /// The errors of [`Dir::set`]. `Invalid` also if a struct would have no key.
    pub fn set(&self, map: &BTreeMap<K, S>) -> MapWrite {
        let encoded = self.encode(map);
        MapWrite::new(&self.context, &self.key, self.enclosing.as_ref(), Self::OWNER, encoded, self.operation("set"))
    }

    /// Returns what [`set`](Self::set) of these structs would write and delete now, without writing
    /// anything; see [`Dir::diff`].
    ///
    /// # Errors
    ///
    /// `Invalid` as for `set`.
    pub async fn diff(&self, map: &BTreeMap<K, S>) -> Result<Diff> {
        let encoded = self.encode(map)?;
        self.operation("diff").run(Diff::read(&self.context, &self.key, Self::OWNER, encoded)).await
    }

    /// Lists every problem in the stored map; see [`Dir::check`].
    ///
    /// # Errors
    ///
    /// The errors of a read.
    pub async fn check(&self) -> Result<Check> {
        let read = Check::read(&self.context, &self.key, Self::OWNER, |decoder| decoder.all_dirs::<BTreeMap<K, S>>());
        self.operation("check").run(read).await
    }

    /// Watches the changes of all structs from now on; see [`Dir::watch`].
    pub fn watch(&self) -> Watching<Keyed<K, S::Change>, BTreeMap<K, S>> {
        let typed = Typed::new(
            self.context.pattern(S::TABLE.pattern()),
            |delta, out| delta.all_dirs::<K, S, _>(|change| change, out),
            decode_dirs::<K, S>,
        )
        .per_entry(|directory, tree, revision| schema::each_dir(directory, tree, revision).0);
        Watching::new(self.context.lease_pool.roaming().clone(), self.context.retry.clone(), self.key.clone(), typed)
    }

    /// Opens an always-current view of the map, as [`EntryMap::live`] does for values. A change of
    /// one struct decodes that struct again, and costs O(log n) in the map.
    pub fn live(&self) -> Viewing<LiveMap<K, S>> {
        self.context.view(Span::Below(self.key.clone()), &self.key, self.context.pattern(S::TABLE.pattern()), DirsView::new())
    }

    fn encode(&self, map: &BTreeMap<K, S>) -> Result<Encoded> {
        Ok(self.context.stored(schema::encode_with(&self.key, |encoder| encoder.all_dirs(map))?))
    }

    const OWNER: Owner = Owner::Dirs { table: S::TABLE, levels: K::LEVELS };

    fn operation(&self, op: &'static str) -> Operation {
        Operation::new(op, self.context.pattern(S::TABLE.pattern()))
    }
}

fn decode_dirs<K: MapPath, S: Schema>(directory: &Key, tree: &schema::Tree, revision: Revision) -> Result<Versioned<BTreeMap<K, S>>> {
    schema::decode_map(directory, tree, revision, |decoder| decoder.all_dirs())
}
