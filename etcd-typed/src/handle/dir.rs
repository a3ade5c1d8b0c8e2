//! `Dir<S>`: the handle of a struct's directory.

mod seed;
mod set;
mod update;
mod write;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

pub use seed::{DirSeed, Seeded};
pub(super) use set::set;
pub use update::{DirTryUpdate, DirUpdate, UpdateError};
pub use write::{DirDelete, DirWrite};

use self::update::UpdateScope;
use self::write::{Job, Swap};
use super::SharedContext;
use super::dry_run::{Check, Diff};
use super::expiry::{EnclosingStruct, RequestedExpiry};
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

/// A schema with a typed handle. `#[derive(EtcdSchema)]` implements it together with [`Schema`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a schema: add `#[derive(EtcdSchema)]` to it",
    label = "not a schema",
    note = "to store all of it in one key, remove `dir` or `flatten` from the field, and add `#[etcd(json)]` or derive `EtcdValue` for the type"
)]
pub trait EtcdSchema: Schema {
    /// The derived handle: `CheckoutDir` for `Checkout`. The handle has a field for each field of
    /// the struct, with the same visibility, and dereferences to [`Dir<Self>`].
    type Handle: Clone + fmt::Debug + Send + Sync + 'static;

    /// Creates the handle of this directory.
    #[doc(hidden)]
    fn handle(dir: Dir<Self>) -> Self::Handle;
}

macro_rules! pointers {
    ($($pointer:ident),+) => {$(
        /// A pointer to `S` has the handle of `S`, which reads and writes `S` without the pointer.
        #[diagnostic::do_not_recommend]
        impl<S: EtcdSchema> EtcdSchema for $pointer<S> {
            type Handle = S::Handle;

            fn handle(dir: Dir<Self>) -> S::Handle {
                let Dir { context, key, enclosing, flattened, removable, older, .. } = dir;
                S::handle(Dir { context, key, enclosing, flattened, removable, older, schema: PhantomData })
            }
        }
    )+};
}

pointers!(Box, Arc);

/// A handle to the directory of a struct. A derived handle dereferences to it.
///
/// A read is one request, and all fields are from one revision. A write is one transaction; some
/// writes read first. Keys below the directory that are not in the schema are never read into the
/// struct and never written. They are deleted only together with a map entry or an optional
/// directory that is removed.
///
/// # Structs that may be absent
///
/// A struct that is an entry of a map, or an `Option` in its own directory, may be absent. So may a
/// struct in its own directory with a `default`; a read then returns the default.
///
/// - **When the struct exists.** The struct exists if one of its required keys exists. A field is
///   required if it has no default and is neither an `Option` nor a map. Required fields of a
///   required directory or a flattened struct inside the struct count too. A struct without
///   required keys exists if any of its keys exists. An enum exists if its tag exists.
/// - **Leftover keys** are keys of a struct that has none of its required keys. Reads ignore them.
///   A program with an older schema, or a program that deletes single keys, may leave such keys.
///   [`check`](Self::check) lists them. A write of the struct deletes or overwrites them, and so
///   does a [`set`](Self::set) of the enclosing struct. If only some of the required keys exist,
///   the struct is incomplete, and a read fails.
/// - **Removing the struct** deletes everything below its directory, including keys of other
///   versions of the schema and names that begin with `_`. On stores with transactions, the removal
///   is one operation. The writes that can remove the struct are `set`, `update`,
///   `compare_and_swap`, the `set` of its map, and [`delete`](Self::delete) through a handle from
///   [`DirMap::dir`](crate::DirMap::dir) or from the field of the optional struct.
/// - **The struct needs a key.** A `Some` or an entry whose fields are all none or empty would be
///   stored without any key, and a read would not find it. Such a write is refused as `Invalid`. So
///   is a `None`, or a struct without any key, in a directory whose `default` is another value.
/// - **A default is written as a whole.** If a struct was read as its default, an `update` or
///   `compare_and_swap` that changes the struct writes all of its keys. A write of one field
///   through the field's handle writes only that key. If the struct has required keys and that key
///   is not one of them, the struct stays absent.
///
/// A handle from [`Client::dir`](crate::Client::dir) or `open` is independent, even if its path is
/// that of a map entry. The `delete` of such a handle leaves keys that are not in the schema, as
/// does the `delete` of a required directory or a flattened struct.
///
/// On v2 one request removes a directory. A conditional removal (`update`, `compare_and_swap`,
/// `compare_and_delete`; all with `non_atomic`) first deletes the keys that were read, one by one.
/// It then lists the directory, and removes it if the listing shows no added key. A key that
/// another client adds between the listing and the removal is lost.
///
/// # Errors and cancel safety
///
/// Errors and cancel safety are as for [`Entry`](crate::Entry); each method lists its additional
/// errors. A store without transactions over several keys (v2) refuses a write of the whole struct
/// with `Unsupported` before anything is sent. [`DirWrite::non_atomic`] writes key by key instead.
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
/// // `seen` is out of date now: the conflict contains the current value.
/// let conflict = db.compare_and_swap(&seen, &Database { host: "b".to_owned(), pool: 1 }).await.unwrap_err();
/// assert_eq!(conflict.kind(), ErrorKind::Conflict);
/// assert_eq!(conflict.current::<Database>().unwrap().pool, 17);
///
/// // All problems are reported at once.
/// db.host.delete().await?;
/// client.entry::<String>("/app/database/pool")?.set(&"many".to_owned()).await?;
/// assert_eq!(db.get().await.unwrap_err().problems().len(), 2);
/// # Ok(()) }
/// ```
pub struct Dir<S> {
    pub(super) context: SharedContext,
    pub(super) key: Key,
    /// The enclosing struct, if there is one.
    pub(super) enclosing: Option<Arc<EnclosingStruct>>,
    /// True if the directory also contains keys of the enclosing struct.
    flattened: bool,
    /// True for a map entry and for an optional directory. Such a struct exists only if it has a
    /// key, and is removed as a whole.
    removable: bool,
    /// The directory in which earlier versions of this library stored the struct.
    pub(super) older: Option<Key>,
    schema: PhantomData<fn() -> S>,
}

impl<S> Clone for Dir<S> {
    fn clone(&self) -> Self {
        let Self { context, key, enclosing, flattened, removable, older, .. } = self;
        Self {
            context: context.clone(),
            key: key.clone(),
            enclosing: enclosing.clone(),
            flattened: *flattened,
            removable: *removable,
            older: older.clone(),
            schema: PhantomData,
        }
    }
}

impl<S: Schema> fmt::Debug for Dir<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dir").field("key", &self.key).field("schema", &S::TABLE.name).finish_non_exhaustive()
    }
}

impl<S: Schema> Dir<S> {
    pub(crate) fn new(context: SharedContext, key: Key) -> Self {
        Self { context, key, enclosing: None, flattened: false, removable: false, older: None, schema: PhantomData }
    }

    /// Sets the directory that is read while the struct does not exist in its current directory.
    pub(crate) fn older(mut self, older: Option<Key>) -> Self {
        self.older = older;
        self
    }

    /// Marks the handle as part of this struct.
    pub(super) fn within(mut self, enclosing: Option<Arc<EnclosingStruct>>) -> Self {
        self.enclosing = enclosing;
        self
    }

    /// Marks the handle as that of a flattened struct.
    pub(super) fn flattened(mut self) -> Self {
        self.flattened = true;
        self
    }

    /// Sets whether the handle belongs to a map entry or an optional directory.
    pub(super) fn removable(mut self, removable: bool) -> Self {
        self.removable = removable;
        self
    }

    /// Returns the key of the directory, from the root of the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Reads the struct in one request. All fields are from the same revision. The base value of a
    /// live view ([`over`](Viewing::over)) is ignored.
    ///
    /// # Errors
    ///
    /// `NotFound` if the schema has required keys and no key of the schema exists. `Invalid` for
    /// other problems: [`Error::problems`] lists every field that is missing without a default, or
    /// that cannot be decoded.
    // With the explicit `Send` bound, the compiler checks once here that the future is `Send`,
    // instead of at each call for each struct.
    #[allow(clippy::manual_async_fn)]
    pub fn get(&self) -> impl Future<Output = Result<Versioned<S>>> + Send {
        async { self.context.find_either("get", S::TABLE, &self.key, self.older.as_ref(), self.removable).await?.decode().await }
    }

    /// Returns whether any key of the schema exists. For a map entry or an optional struct, returns
    /// whether the struct exists as defined in [`Dir`](Dir#structs-that-may-be-absent).
    pub async fn exists(&self) -> Result<bool> {
        let work = async {
            for key in std::iter::once(&self.key).chain(&self.older) {
                let reply = self.context.read(Span::Below(key.clone()), true).await.map_err(|error| error.at(key))?;
                if reply.kvs.iter().any(|kv| key.below(&kv.key).is_some_and(|relative| self.exists_by(relative))) {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        Self::operation("exists").run(work).await
    }

    /// Writes every field, and deletes what the value does not contain: the keys of fields that are
    /// `None`, and the directories of optional structs that are `None` and of entries that are no
    /// longer in their map ([everything below them](Self#structs-that-may-be-absent)). If the
    /// variant of an enum changes, everything below the enum's directory is deleted.
    ///
    /// Keys that already have their value and expiry are not written, so that watchers see only
    /// what changes. `set` reads the directory first, and then sends one transaction with the
    /// differences, which requires that the other keys are unchanged since the read. If there are
    /// no differences, no transaction is sent, and the result is the revision of the read.
    ///
    /// In some cases, every key is written: with `.ttl()` or `.lease()`, after a conflict with
    /// another write, if the user may not read the directory, and if one transaction does not
    /// accept so many conditions.
    ///
    /// The write decides when the whole struct expires, with `.ttl()`, `.lease()` or
    /// `.permanent()`. Without these, the struct never expires. If it is part of another struct (a
    /// nested struct, or an entry of a map that is a field), it expires with that struct.
    ///
    /// # Errors
    ///
    /// `Invalid`, before anything is sent: the error lists every field that has no stored form or
    /// fails its validation, and every map entry and optional struct that would have no key.
    /// `TooManyOperations` for a value with more keys than one transaction accepts;
    /// [`update`](Self::update) writes only the changed keys. `TooLarge`, `NoSpace`.
    /// `Conflict` when the retry budget of the policy is used up.
    pub fn set(&self, value: &S) -> DirWrite<S> {
        self.write("set", self.encode(value).map(Job::Set))
    }

    /// Returns what [`set`](Self::set) of this value would write and delete now, without writing
    /// anything.
    ///
    /// `diff` applies the rules of `set` to the current state, which it reads with one request that
    /// is never stale. Fields that already have the same value are not in the diff, although `set`
    /// writes them in some cases, such as with a new expiry. Aliases of a field that has a value
    /// are not in the diff, since `set` leaves them. Keys that are not in the schema are in the
    /// diff only if `set` would remove them with a map entry or an optional struct. The values of
    /// secrets are shown as `***`. So are the values of keys that are not in the schema, since they
    /// may be secrets of another version of the schema.
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
    /// `Invalid` as for `set`. Only `set` reports limits of the store (no transactions on v2, too
    /// many operations).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is safe, since `diff` only reads.
    pub async fn diff(&self, value: &S) -> Result<Diff> {
        let read = Diff::read(&self.context, &self.key, self.owner(), self.encode(value)?);
        Self::operation("diff").run(read).await
    }

    /// Lists every problem in the stored struct: fields that are missing or cannot be decoded,
    /// values and structs that fail their validation, map keys that are not in the form that this
    /// library writes, and keys below the directory that are not in the schema (a misspelt name, a
    /// field of another version). Each [leftover key](Self#structs-that-may-be-absent) of a map
    /// entry or an optional struct is listed, with the missing required keys as its reason.
    ///
    /// The validation of a struct, at any depth, runs if the whole struct could be read. The
    /// validation of a field runs if the field could be read. If a default is used, the default is
    /// validated. An alias next to the field's own key is not a problem: reads ignore the alias,
    /// and `set` leaves it for older readers. Keys with the reserved segment `_etcd-typed` are not
    /// reported. On v2, neither are keys with a segment that starts with `_`, since v2 hides them.
    ///
    /// # Errors
    ///
    /// The errors of a read. The problems are the result, not an error.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is safe, since `check` only reads.
    pub async fn check(&self) -> Result<Check> {
        Self::operation("check").run(Check::read(&self.context, &self.key, self.owner(), |decoder| decoder.whole::<S>())).await
    }

    /// Writes every field if no key of the schema exists. A map entry or an optional struct is
    /// written if it does not [exist](Self#structs-that-may-be-absent); its leftover keys are
    /// deleted or overwritten.
    ///
    /// # Errors
    ///
    /// The errors of [`set`](Self::set), and `AlreadyExists`. `Invalid` for a value without any
    /// key, since a second `create` could not detect that the struct was created.
    pub fn create(&self, value: &S) -> DirWrite<S> {
        self.write("create", schema::encode_present(&self.key, value).map(|encoded| Job::Create(self.context.stored(encoded))))
    }

    /// Creates the fields that do not exist in the store, and leaves all other keys unchanged. So
    /// every instance of a program can call `seed` when it starts. Returns the keys that were
    /// written.
    ///
    /// A field with one value is created if neither its key nor one of its aliases exists. A map is
    /// created as a whole if it contains no key, so deleted entries do not come back while at least
    /// one entry is left. A field that is `None` is not created. The missing fields of an optional
    /// struct are created in the same way, even if another program created the struct.
    ///
    /// `seed` reads the directory, and sends one transaction if fields are missing. The transaction
    /// requires that the missing fields are still missing; otherwise the seed starts again with the
    /// current state. New keys are attached to the lease of the struct, as with
    /// [`update`](Self::update).
    ///
    /// The value is validated before anything is sent. Stored fields are not decoded, so they may
    /// be invalid, alone or together with the new fields; [`check`](Self::check) lists such
    /// problems.
    ///
    #[cfg_attr(feature = "derive", doc = "```")]
    #[cfg_attr(not(feature = "derive"), doc = "```text")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # use etcd_typed::{Client, EtcdSchema};
    /// # #[derive(EtcdSchema)] struct Database { host: String, pool: u16 }
    /// # let client = Client::connect("memory:").await?;
    /// let db = client.dir::<Database>("/app/database")?;
    /// db.pool.set(&16).await?; // by an operator
    ///
    /// let first = Database { host: "db-1".to_owned(), pool: 8 };
    /// assert_eq!(db.seed(&first).await?.written[0].as_str(), "/app/database/host");
    /// assert_eq!(db.get().await?.pool, 16);
    /// assert!(db.seed(&first).await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// `Invalid` as for [`set`](Self::set). `TooManyOperations` if more keys are missing than one
    /// transaction accepts. `Conflict` when the retry budget of the policy is used up.
    /// `Unsupported` on v2, where [`DirSeed::non_atomic`] creates key by key.
    pub fn seed(&self, value: &S) -> DirSeed<S> {
        DirSeed { dir: self.clone(), encoded: self.encode(value), requested: RequestedExpiry::Keep, atomicity: Atomicity::Atomic }
    }

    /// Replaces the struct with `value` if nothing below the directory was changed, added or
    /// deleted since `seen` was read. Writes only the fields that differ from `seen`.
    ///
    /// Keys that are written keep their lease. New keys are attached to the lease of the struct;
    /// see [`Entry`'s expiry](crate::Entry#expiry). A lease or a time to live that the write sets
    /// applies to every key of the struct.
    ///
    /// # Errors
    ///
    /// The errors of [`set`](Self::set). `Conflict`, with the current struct in [`Error::current`]
    /// if the struct can be decoded. The current struct is part of the server's answer.
    pub fn compare_and_swap(&self, seen: &Versioned<S>, value: &S) -> DirWrite<S> {
        let job = || -> Result<Job> {
            let old = self.context.stored(schema::encode_unchecked(&self.key, &**seen)?);
            let new = self.encode(value)?;
            let Versions { revision, lease, basis, .. } = seen.versions.clone();
            Ok(Job::Swap(Swap { revision, basis, lease, old, new }))
        };
        self.write("compare_and_swap", job())
    }

    /// Deletes every key of the schema. Map entries and optional structs in the struct are deleted
    /// with everything below them. Through the handle of a map entry or an optional field, deletes
    /// everything below the directory; see [`Dir`](Self#structs-that-may-be-absent).
    ///
    /// Returns what existed: nothing, the struct, or keys that could not be decoded as the struct.
    /// `delete` reads the directory and sends one transaction. If another write comes in between,
    /// `delete` starts again.
    ///
    /// # Errors
    ///
    /// `TooManyOperations`. `Conflict` when the retry budget of the policy is used up.
    pub fn delete(&self) -> DirDelete<S> {
        DirDelete { dir: self.clone(), seen: None, atomicity: Atomicity::Atomic }
    }

    /// [Deletes](Self::delete) the struct if nothing below the directory was changed, added or
    /// deleted since `seen` was read.
    ///
    /// # Errors
    ///
    /// `TooManyOperations`. `Conflict`, with the current struct in [`Error::current`] if the struct
    /// can be decoded.
    pub fn compare_and_delete(&self, seen: &Versioned<S>) -> DirDelete<S> {
        DirDelete { dir: self.clone(), seen: Some((seen.revision(), seen.versions.basis.clone())), atomicity: Atomicity::Atomic }
    }

    /// Reads the struct, lets `f` change it, and writes the changes in one transaction if nothing
    /// below the directory was changed, added or deleted in the meantime. Otherwise `update` starts
    /// again with the current struct. Returns the struct that is stored afterwards. The base value
    /// of a live view ([`over`](Viewing::over)) is ignored.
    ///
    /// Without a conflict this takes two requests, or one if `f` changes nothing. A field that `f`
    /// does not change is not written, even if this library would store it in another form. `f` may
    /// run several times; the stored result is always `f` of the struct that it replaces. The
    /// answer to a conflict contains the current struct, so the next attempt follows at once. After
    /// every fourth attempt `update` waits, with jitter, and reads the struct again.
    ///
    /// Keys that are written keep their lease. New keys are attached to the lease of the struct;
    /// see [`Entry`'s expiry](crate::Entry#expiry). A lease or a time to live that the update sets
    /// applies to every key of the struct, whether `f` changes it or not.
    ///
    /// # Errors
    ///
    /// The errors of [`get`](Self::get) and [`set`](Self::set). `Conflict` when the retry budget of
    /// the policy is used up. `TooManyOperations` when more keys are changed, or the maps have more
    /// keys, than one transaction accepts; [`changed_fields_only`](DirUpdate::changed_fields_only)
    /// needs fewer conditions.
    ///
    /// One transaction accepts a limited number of conditions (128 with default flags of the
    /// server). If a struct has more keys, not every key has its own condition. The update still
    /// detects every key that another client changes or adds in the meantime. It detects the
    /// deletion of a single key only if that key has a condition: the keys that `f` changes, the
    /// keys in maps, and as many other keys as fit, first those that are optional or have a
    /// default.
    pub fn update<'f>(&self, f: impl Fn(&mut S) + Send + 'f) -> DirUpdate<'f, S> {
        DirUpdate(self.try_update(move |value| {
            f(value);
            Ok(())
        }))
    }

    /// Like [`update`](Self::update), with a closure that can return an error. If the closure
    /// returns an error, nothing is written.
    ///
    /// # Errors
    ///
    /// [`UpdateError::Refused`] with the closure's error, or [`UpdateError::Store`].
    pub fn try_update<'f, E>(&self, f: impl Fn(&mut S) -> Result<(), E> + Send + 'f) -> DirTryUpdate<'f, S, E> {
        DirTryUpdate {
            dir: self.clone(),
            f: Box::new(f),
            scope: UpdateScope::Directory,
            atomicity: Atomicity::Atomic,
            requested: RequestedExpiry::Keep,
        }
    }

    /// Watches all changes below the directory from now on, as a stream that reconnects by itself
    /// and has one item per revision. Await the result, or first set where the watch starts.
    pub fn watch(&self) -> Watching<S::Change, S> {
        let typed = Typed::new(S::TABLE.pattern(), |delta, out| delta.whole::<S, S::Change>(|change| change, out), schema::decode::<S>);
        Watching::new(self.context.lease_pool.roaming().clone(), self.context.retry.clone(), self.key.clone(), typed)
    }

    /// Opens an always-current view of the struct. Reading it takes nanoseconds, and all fields are
    /// from the same revision. See [`Live`](crate::Live).
    pub fn live(&self) -> Viewing<S> {
        self.context.view(Span::Below(self.key.clone()), &self.key, S::TABLE.pattern(), StructView::new())
    }

    /// Waits until the struct satisfies `wanted`, and returns the struct. The current struct is
    /// checked first. A struct that cannot be decoded never satisfies `wanted`.
    ///
    /// # Errors
    ///
    /// The errors that end a [`watch`](Self::watch).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is safe.
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

    /// Validates `value` and encodes it into keys and values.
    pub(super) fn encode(&self, value: &S) -> Result<Encoded> {
        self.encode_over(None, value)
    }

    /// Like [`encode`](Self::encode), for a write that does not write keys whose value in `old` is
    /// the same.
    fn encode_over(&self, old: Option<&Encoded>, value: &S) -> Result<Encoded> {
        schema::encode_over(&self.key, old, value, self.removable).map(|encoded| self.context.stored(encoded))
    }

    /// Returns whether a stored key, relative to the directory, shows that the struct exists.
    fn exists_by(&self, relative: &str) -> bool {
        S::TABLE.exists_by(self.removable, relative)
    }

    pub(super) fn enclosing(&self) -> Option<&Arc<EnclosingStruct>> {
        self.enclosing.as_ref()
    }

    pub(super) fn owner(&self) -> Owner {
        if self.flattened { Owner::Flattened(S::TABLE) } else { Owner::Struct(S::TABLE) }
    }

    fn operation(op: &'static str) -> Operation {
        Operation::new(op, S::TABLE.pattern())
    }

    fn write(&self, op: &'static str, job: Result<Job>) -> DirWrite<S> {
        DirWrite { dir: self.clone(), job, op, requested: RequestedExpiry::Keep, atomicity: Atomicity::Atomic }
    }

    async fn read_to_write(&self) -> Result<(Tree, Revision)> {
        self.context.read_below(&self.key).await
    }

    /// Returns the read that a transaction performs if its conditions fail, so that the answer
    /// contains the current state.
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

    /// Checks that the keys in `basis`, read at the revision `seen`, are unchanged in `tree`.
    ///
    /// # Errors
    ///
    /// `Conflict`.
    fn still(&self, seen: Revision, basis: &[(String, Revision)], tree: &Tree, revision: Revision) -> Result<()> {
        let mut there = tree.iter().filter(|(key, _)| S::TABLE.owns(key)).map(|(key, stored)| (key, stored.modified));
        // `basis` lacks keys from which no field was read: unused aliases and leftover keys.
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
        Error::new(ErrorKind::Conflict, "other writers were faster on every attempt; try again later").at(&self.key)
    }
}

/// Returns the keys that a transaction read after its conditions failed, and the revision.
fn looked(directory: &Key, committed: Committed) -> Option<(Tree, Revision)> {
    match committed.results.into_iter().next()? {
        OpResult::Get(reply) => Some((schema::tree(directory, reply.kvs), committed.revision)),
        OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
    }
}
