//! `Dir<S>`: the directory of a struct.

mod update;
mod write;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

pub use update::{DirTryUpdate, DirUpdate, UpdateError};
pub(super) use write::set;
pub use write::{DirDelete, DirWrite};

use self::update::UpdateScope;
use self::write::{Job, Swap, read_below};
use super::Shared;
use super::dry::{Check, Diff};
use super::expiry::{Home, Wish};
use super::fields::Fields;
use super::plan::{Atomicity, Owner};
use crate::changes::{Changes, Typed, Watching};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::live::{StructView, Viewing};
use crate::revision::Revision;
use crate::schema::{self, Encoded, Schema, Tree};
use crate::store::{Committed, Op, OpResult, Span};
use crate::telemetry::Operation;
use crate::version::{Versioned, Versions};

/// A schema with a handle: what `#[derive(EtcdSchema)]` implements beside [`Schema`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a schema",
    label = "not a schema",
    note = "for a directory with a key for each field add `#[derive(EtcdSchema)]` to the type",
    note = "for one key with all of it take `dir` off the field, and add `#[etcd(json)]` or derive `EtcdValue` for the type"
)]
pub trait EtcdSchema: Schema {
    /// The derived handle, `CheckoutDir` for `Checkout`: a public field for each field of the struct, and it derefs to [`Dir<Self>`].
    type Handle: Send + Sync + 'static;

    /// The handle of this directory.
    #[doc(hidden)]
    fn handle(dir: Dir<Self>) -> Self::Handle;
}

/// The directory that a struct lies in; a derived handle derefs to it.
///
/// Reads are one request and one revision; writes are one transaction. Keys below the directory that the schema does not know are never read
/// into the struct and never written. They are deleted only with an entry of a map or an optional directory that is removed.
///
/// # Structs that may be absent
///
/// An entry of a map of structs, and an optional struct in its directory, may be absent.
///
/// - **It exists** if one of its required keys exists: a field without a default that is no `Option` and no map, also one in a required directory
///   or a flattened struct in it. If the struct has no required key, it exists if any of its keys exists.
/// - **What is left over** of it, keys without any required key, is not read and fails no read. A program with an older schema, or a program that deletes
///   single keys, may leave such keys. [`check`](Self::check) lists them. A write of the entry deletes them or writes over them, and so does a
///   [`set`](Self::set) of the whole. If some required keys exist and others do not, the struct is half written, and a read fails.
/// - **Removing it** deletes everything below its directory, in one operation where the store has transactions: keys of other versions of the
///   schema, and names that begin with `_`. Every write that removes it does so: `set`, `update`, `compare_and_swap`, the `set` of its map, and
///   [`delete`](Self::delete) through a handle from [`DirMap::dir`](crate::DirMap::dir) or from the field of the optional struct.
/// - **It has a key.** A `Some` or an entry that would be stored without any key, since all of its fields are none or empty, is refused as `Invalid`. A read
///   would find nothing.
///
/// A handle from [`Client::dir`](crate::Client::dir) or `open` stands for a directory of its own, even if its path is that of an entry. Its `delete` leaves keys that the
/// schema does not have, and so does that of a required directory or a flattened struct.
///
/// On v2 a directory is removed by one request. With a condition (`update`, `compare_and_swap`, `compare_and_delete`; all with `non_atomic`) the keys that were read
/// are deleted one by one, and then the directory, unless a listing shows a key that was added since. What is added between that listing and the
/// deletion is deleted.
///
/// # Errors and cancel safety
///
/// Errors and cancel safety are as for [`Entry`](crate::Entry); methods name what they add. A store without transactions over several keys (v2) refuses
/// a write of the whole with `Unsupported` before anything is sent; [`DirWrite::non_atomic`] writes key by key.
///
#[cfg_attr(feature = "derive", doc = "```")]
#[cfg_attr(not(feature = "derive"), doc = "```text")]
/// use etcd_typed::{Client, ErrorKind, EtcdSchema};
///
/// #[derive(EtcdSchema, Debug, PartialEq)]
/// struct Database {
///     host: String,
///     #[etcd(default = 8)]
///     pool: u16,
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// let client = Client::connect("memory:").await?;
/// let db = client.dir::<Database>("/app/database")?;
///
/// db.create(&Database { host: "a".to_owned(), pool: 16 }).await?;
/// let seen = db.get().await?;
/// db.update(|db| db.pool += 1).await?;
///
/// // What was read is out of date: the conflict carries what is there.
/// let conflict = db.compare_and_swap(&seen, &Database { host: "b".to_owned(), pool: 1 }).await.unwrap_err();
/// assert_eq!(conflict.kind(), ErrorKind::Conflict);
/// assert_eq!(conflict.current::<Database>().unwrap().pool, 17);
///
/// // Everything that is wrong is listed at once.
/// db.host.delete().await?;
/// client.entry::<String>("/app/database/pool")?.set(&"many".to_owned()).await?;
/// assert_eq!(db.get().await.unwrap_err().problems().len(), 2);
/// # Ok(()) }
/// ```
pub struct Dir<S> {
    context: Shared,
    key: Key,
    /// The struct that it is a part of.
    home: Option<Arc<Home>>,
    /// It is an entry of a map or an optional directory: it exists only if it has a key, and is removed as a whole.
    removable: bool,
    schema: PhantomData<fn() -> S>,
}

impl<S> Clone for Dir<S> {
    fn clone(&self) -> Self {
        let Self { context, key, home, removable, .. } = self;
        Self { context: context.clone(), key: key.clone(), home: home.clone(), removable: *removable, schema: PhantomData }
    }
}

impl<S: Schema> fmt::Debug for Dir<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dir").field("key", &self.key).field("schema", &S::TABLE.name).finish_non_exhaustive()
    }
}

impl<S: Schema> Dir<S> {
    pub(crate) fn new(context: Shared, key: Key) -> Self {
        Self { context, key, home: None, removable: false, schema: PhantomData }
    }

    /// As a part of this struct.
    pub(super) fn within(mut self, home: Option<Arc<Home>>) -> Self {
        self.home = home;
        self
    }

    /// As an entry of a map, or an optional directory.
    pub(super) fn removable(mut self, removable: bool) -> Self {
        self.removable = removable;
        self
    }

    /// The directory, from the root of the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The struct, all fields from one revision, in one request.
    ///
    /// # Errors
    ///
    /// `Invalid`; [`Error::problems`] lists every field that is missing without a default, or undecodable.
    // That it can be sent is said, so that the compiler proves it here and not anew where it is called, for each struct.
    #[allow(clippy::manual_async_fn)]
    pub fn get(&self) -> impl Future<Output = Result<Versioned<S>>> + Send {
        async { self.context.find("get", S::TABLE, &self.key).await?.decode(&self.key).await }
    }

    /// Whether any key of the schema exists. An entry of a map and an optional struct exist if a key exists that they cannot do
    /// without; see [`Dir`](Dir#structs-that-may-be-absent).
    pub async fn exists(&self) -> Result<bool> {
        let work = async {
            let reply = self.context.read(Span::Below(self.key.clone()), true).await.map_err(|error| error.at(&self.key))?;
            Ok(reply.kvs.iter().any(|kv| self.key.below(&kv.key).is_some_and(|relative| self.exists_by(relative))))
        };
        Self::operation("exists").run(work).await
    }

    /// Writes every field, and deletes what the value no longer has: a field that is none, and [with all below it](Self#structs-that-may-be-absent) an
    /// optional struct that is none or an entry that is no longer in its map. It is one transaction; with maps in the struct one read goes before it, and if something changed in between it starts again.
    ///
    /// The whole struct expires as the write says, and never if it says nothing. If the struct is a part of another one (a nested struct, or one in
    /// a map that is a field), it then expires with that one.
    ///
    /// # Errors
    ///
    /// `Invalid` lists every field whose validation fails or that has no stored form, and every entry and optional struct that would have no key, before
    /// anything is sent. `TooManyOperations` for more keys than one transaction takes. `TooLarge`, `NoSpace`. `Conflict` when the budget of the policy is used up.
    pub fn set(&self, value: &S) -> DirWrite<S> {
        self.write("set", self.encode(value).map(Job::Set))
    }

    /// What [`set`](Self::set) of this value would write and delete now, and nothing is written.
    ///
    /// It is decided as `set` decides it, by one read that is never stale. `set` writes every field, also those that are stored just so already: these are
    /// no differences, although their keys get a new revision by it and expire then as `set` says. Aliases of a
    /// field that has a value are not in it, as `set` leaves them alone. Keys that the schema does not have are in it if they are removed with an entry or an
    /// optional struct. The values of secrets are `***`, and so are those of keys that the schema does not have: they
    /// may be secrets of another version of it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # use std::collections::BTreeMap;
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// let quotas = client.entries::<String, u32>("/quotas")?;
    /// quotas.set(&BTreeMap::from([("acme".to_owned(), 5), ("old".to_owned(), 1)])).await?;
    ///
    /// let diff = quotas.diff(&BTreeMap::from([("acme".to_owned(), 7), ("new".to_owned(), 2)])).await?;
    /// assert_eq!(diff.to_string(), "~ /quotas/acme: 5 -> 7\n+ /quotas/new: 2\n- /quotas/old: 1\n");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// `Invalid` as for `set`. That the store has no transaction for it (v2), or not one that is large enough, is found by `set` alone.
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn diff(&self, value: &S) -> Result<Diff> {
        let read = Diff::read(&self.context, &self.key, Self::OWNER, self.encode(value)?);
        Self::operation("diff").run(read).await
    }

    /// Everything that is wrong with what is stored now: fields that are missing or undecodable, values and structs that fail their
    /// validation, keys in maps that are not written as this library writes them, and keys below the directory that
    /// the schema does not have (a misspelt name, a field of another version). Keys that are [left over](Self#structs-that-may-be-absent) of an entry or an
    /// optional struct are listed each by itself; the reason names the required keys that are missing.
    ///
    /// A struct's own validation is run where all of the struct could be read, at whatever depth; that of a field wherever the field could. A default that
    /// is used is validated too. An alias that lies behind the field's own key is no problem: it is not read, and `set` leaves it to older readers.
    /// Nor are keys with a segment that starts with `_`, which are hidden on v2 and left alone everywhere.
    ///
    /// # Errors
    ///
    /// Those of a read. Problems are not errors here.
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn check(&self) -> Result<Check> {
        Self::operation("check").run(Check::read(&self.context, &self.key, Self::OWNER, |decoder| decoder.whole::<S>())).await
    }

    /// Writes every field if no key of the schema exists. An entry of a map or an optional struct is created if it does not
    /// [exist](Self#structs-that-may-be-absent): what is left over of it is deleted or written over.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and `AlreadyExists`. `Invalid` for a value without any key to store: nothing would tell a second creation of the first.
    pub fn create(&self, value: &S) -> DirWrite<S> {
        self.write("create", schema::encode_present(&self.key, value).map(Job::Create))
    }

    /// Makes the directory hold `value` if nothing below it changed, appeared or vanished since `seen` was read; writes only what
    /// differs from it.
    ///
    /// Keys that are written stay attached to their lease, and keys that are added are attached to that of the struct; see [`Entry`'s
    /// expiry](crate::Entry#expiry). A lease or a time to live that the write names is given to every key of the struct.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and `Conflict`; then [`Error::current`] is the struct that is there, if it can be read, from the same round trip.
    pub fn compare_and_swap(&self, seen: &Versioned<S>, value: &S) -> DirWrite<S> {
        let job = || -> Result<Job> {
            let old = schema::encode_unchecked(&self.key, &**seen)?;
            let new = self.encode(value)?;
            let Versions { revision, lease, basis, .. } = seen.versions.clone();
            Ok(Job::Swap(Swap { revision, basis, lease, old, new }))
        };
        self.write("compare_and_swap", job())
    }

    /// Deletes every key of the schema, and with all below them the entries and optional structs in it. If the struct itself is an entry of a map or an
    /// optional struct, and the handle is that of the map or the field, everything below its directory is deleted; see
    /// [`Dir`](Self#structs-that-may-be-absent).
    ///
    /// The answer says what existed: nothing, the struct, or what could not be read as one. It is one read and one
    /// transaction, which starts again if something changed in between.
    ///
    /// # Errors
    ///
    /// `TooManyOperations`; `Conflict` when the budget of the policy is used up.
    pub fn delete(&self) -> DirDelete<S> {
        DirDelete { dir: self.clone(), seen: None, atomicity: Atomicity::Atomic }
    }

    /// [Deletes](Self::delete) the struct if nothing below the directory changed, appeared or vanished since `seen` was read.
    ///
    /// # Errors
    ///
    /// `TooManyOperations`; `Conflict`, and then [`Error::current`] is the struct that is there, if it can be read.
    pub fn compare_and_delete(&self, seen: &Versioned<S>) -> DirDelete<S> {
        DirDelete { dir: self.clone(), seen: Some((seen.revision(), seen.versions.basis.clone())), atomicity: Atomicity::Atomic }
    }

    /// Reads the struct, lets `f` change it, and writes what changed in one transaction if nothing below the directory changed, appeared or
    /// vanished meanwhile; else starts again with what is there now. The answer is what is stored then.
    ///
    /// Without conflict it is two requests, and one if `f` changes nothing: a field that `f` does
    /// not change is not written, whatever form its value is stored in. `f` may run several
    /// times; what is stored is `f` of what it replaced. What a conflict shows is tried at once;
    /// after every fourth attempt there is a wait, with jitter, and the struct is read anew.
    ///
    /// Keys that are written stay attached to their lease, and keys that are added are attached to that of the struct; see [`Entry`'s
    /// expiry](crate::Entry#expiry). A lease or a time to live that the update names is given to every key of the struct, whether `f` changes it or
    /// not.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get) and [`set`](Self::set); `Conflict` when the budget of the policy is used up; `TooManyOperations` when the struct
    /// has more keys than one transaction takes conditions: [`changed_fields_only`](DirUpdate::changed_fields_only) needs fewer.
    pub fn update<'f>(&self, f: impl Fn(&mut S) + Send + 'f) -> DirUpdate<'f, S> {
        DirUpdate(self.try_update(move |value| {
            f(value);
            Ok(())
        }))
    }

    /// [`update`](Self::update) with a closure that may refuse; then nothing is written.
    ///
    /// # Errors
    ///
    /// [`UpdateError::Refused`] with the closure's error, or [`UpdateError::Store`].
    pub fn try_update<'f, E>(&self, f: impl Fn(&mut S) -> Result<(), E> + Send + 'f) -> DirTryUpdate<'f, S, E> {
        DirTryUpdate { dir: self.clone(), f: Box::new(f), scope: UpdateScope::Directory, atomicity: Atomicity::Atomic, wish: Wish::Keep }
    }

    /// The changes below the directory from now on, as a stream that mends itself: one item for each revision. Await it, or set where it
    /// starts first.
    pub fn watch(&self) -> Watching<S::Change, S> {
        let typed = Typed::new(S::TABLE.pattern(), |delta, out| delta.whole::<S, S::Change>(|change| change, out), schema::decode::<S>);
        Watching::new(self.context.lessor.roaming().clone(), self.context.retry.clone(), self.key.clone(), typed)
    }

    /// The struct as an always-current view: reading it costs nanoseconds, and all fields are of one revision. See [`Live`](crate::Live).
    pub fn live(&self) -> Viewing<S> {
        self.context.view(Span::Below(self.key.clone()), &self.key, S::TABLE.pattern(), StructView::new())
    }

    /// Waits until the struct satisfies `wanted`, and gives it. It looks at what is there now first. A state that cannot be read satisfies nothing.
    ///
    /// # Errors
    ///
    /// Those that end a [`watch`](Self::watch).
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn wait_for(&self, wanted: impl Fn(&S) -> bool) -> Result<Versioned<S>> {
        let mut changes: Changes<S::Change, S> = self.watch().await?;
        loop {
            match changes.current() {
                Ok(current) if wanted(&current) => return Ok(current),
                _ => {}
            }
            match changes.next().await {
                Some(Err(error)) if error.kind() != ErrorKind::Decode => return Err(error),
                Some(_) => {}
                None => return Err(Error::new(ErrorKind::Unavailable, "the watch ended").at(&self.key)),
            }
        }
    }

    /// For the derive.
    #[doc(hidden)]
    pub fn __fields(&self) -> Fields<'_> {
        Fields::new(&self.context, &self.key, S::TABLE, self.home.clone())
    }

    /// The keys and values that store `value`.
    pub(super) fn encode(&self, value: &S) -> Result<Encoded> {
        if self.removable { schema::encode_present(&self.key, value) } else { schema::encode(&self.key, value) }
    }

    /// Whether this key of the directory says that the struct exists.
    fn exists_by(&self, relative: &str) -> bool {
        if self.removable { S::TABLE.is_present_by(relative) } else { S::TABLE.owns(relative) }
    }

    pub(super) fn home(&self) -> Option<&Arc<Home>> {
        self.home.as_ref()
    }

    const OWNER: Owner = Owner::Struct(S::TABLE);

    fn operation(op: &'static str) -> Operation {
        Operation::new(op, S::TABLE.pattern())
    }

    fn write(&self, op: &'static str, job: Result<Job>) -> DirWrite<S> {
        DirWrite { dir: self.clone(), job, op, wish: Wish::Keep, atomicity: Atomicity::Atomic }
    }

    async fn read_to_write(&self) -> Result<(Tree, Revision)> {
        read_below(&self.context, &self.key).await
    }

    /// What a refused transaction answers with: everything that is there.
    fn look(&self) -> Vec<Op> {
        vec![Op::Get(Span::Below(self.key.clone()))]
    }

    fn conflict(&self, committed: Committed) -> Error {
        let error = Error::new(ErrorKind::Conflict, "").at(&self.key);
        let now = looked(&self.key, committed).and_then(|(tree, revision)| schema::decode::<S>(&self.key, &tree, revision).ok());
        match now {
            Some(now) => error.with_current(now),
            None => error,
        }
    }

    /// Checks that the keys read at `seen` are still the keys in `tree`.
    ///
    /// # Errors
    ///
    /// `Conflict`.
    fn still(&self, seen: Revision, basis: &[(String, Revision)], tree: &Tree, revision: Revision) -> Result<()> {
        let mut there = tree.iter().filter(|(key, _)| S::TABLE.owns(key)).map(|(key, stored)| (key, stored.modified));
        // A key that no field is read from (an alias behind the field's own key, or one that is left over) is not in the basis.
        let same = there.all(|(key, modified)| basis.iter().any(|(read, at)| read == key && *at == modified) || modified <= seen);
        if same && basis.iter().all(|(key, at)| tree.get(key).is_some_and(|stored| stored.modified == *at)) {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Conflict, "").at(&self.key);
        Err(match schema::decode::<S>(&self.key, tree, revision) {
            Ok(current) => error.with_current(current),
            Err(_) => error,
        })
    }

    fn worn_out(&self) -> Error {
        Error::new(ErrorKind::Conflict, "others wrote it faster, again and again").at(&self.key)
    }
}

/// What a refused transaction found.
fn looked(directory: &Key, committed: Committed) -> Option<(Tree, Revision)> {
    match committed.results.into_iter().next()? {
        OpResult::Get(reply) => Some((schema::tree(directory, reply.kvs), committed.revision)),
        OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
    }
}
