//! `Dir<S>`: the directory of a struct.

use std::convert::Infallible;
use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use super::fields::Fields;
use super::plan::{Atomicity, Owner, Plan, unchanged};
use super::{Context, Shared};
use crate::changes::{Changes, Typed, Watching};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::schema::{self, Schema, Tree};
use crate::store::{BoxFuture, Committed, Compare, Condition, Expiry, Op, OpResult, Span};
use crate::version::{Basis, Versioned, Versions};

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
/// into the struct and never written or deleted.
///
/// Errors and cancel safety are as for [`Entry`]; methods name what they add. A store without transactions over several keys (v2) refuses
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
    schema: PhantomData<fn() -> S>,
}

impl<S> Clone for Dir<S> {
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), key: self.key.clone(), schema: PhantomData }
    }
}

impl<S: Schema> fmt::Debug for Dir<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dir").field("key", &self.key).field("schema", &S::TABLE.name).finish_non_exhaustive()
    }
}

impl<S: Schema> Dir<S> {
    pub(crate) fn new(context: Shared, key: Key) -> Self {
        Self { context, key, schema: PhantomData }
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
    pub async fn get(&self) -> Result<Versioned<S>> {
        let (tree, revision) = self.read().await?;
        schema::decode(&self.key, &tree, revision)
    }

    /// Whether any key of the schema is there.
    pub async fn exists(&self) -> Result<bool> {
        let reply = self.context.read(Span::Below(self.key.clone()), true).await.map_err(|error| error.at(&self.key))?;
        Ok(reply.kvs.iter().any(|kv| self.key.below(&kv.key).is_some_and(|relative| S::TABLE.owns(relative))))
    }

    /// Writes every field, and deletes what the value no longer has: a field that is none, an entry that is no longer in its map. It is one
    /// transaction; with maps in the struct one read goes before it, and if something changed in between it starts again.
    ///
    /// # Errors
    ///
    /// `Invalid` lists every field whose validation fails or that has no stored form, before anything is sent. `TooManyOperations` for more
    /// keys than one transaction takes. `TooLarge`, `NoSpace`. `Conflict` when the budget of the policy is used up.
    pub fn set(&self, value: &S) -> DirWrite<S> {
        self.write(Job::Set, schema::encode(&self.key, value))
    }

    /// Writes every field if no key of the schema is there.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and `AlreadyExists`.
    pub fn create(&self, value: &S) -> DirWrite<S> {
        self.write(Job::Create, schema::encode(&self.key, value))
    }

    /// Makes the directory hold `value` if nothing below it changed, appeared or vanished since `seen` was read; writes only what
    /// differs from it.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and `Conflict`; then [`Error::current`] is the struct that is there, if it can be read, from the same round trip.
    pub fn compare_and_swap(&self, seen: &Versioned<S>, value: &S) -> DirWrite<S> {
        let plan = || -> Result<Plan> {
            let old = schema::encode_unchecked(&self.key, &**seen)?;
            let new = schema::encode(&self.key, value)?;
            Ok(Self::OWNER.difference_to_read(&seen.versions.basis, &old, &new))
        };
        let basis = seen.versions.clone();
        self.write(Job::Swap { revision: basis.revision, basis: basis.basis }, plan().map(Work::Plan))
    }

    /// Deletes every key of the schema and gives the struct that was there, if it could be read. It is one read and one transaction, which starts
    /// again if something changed in between.
    ///
    /// # Errors
    ///
    /// `TooManyOperations`; `Conflict` when the budget of the policy is used up.
    pub fn delete(&self) -> DirDelete<S> {
        DirDelete { dir: self.clone(), seen: None, atomicity: Atomicity::Atomic }
    }

    /// Deletes every key of the schema if nothing below the directory changed, appeared or vanished since `seen` was read.
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
    /// Without conflict it is two requests, and one if `f` changes nothing. `f` may run several times; what is stored is `f` of what it replaced.
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
        DirTryUpdate { dir: self.clone(), f: Box::new(f), scope: UpdateScope::Directory, atomicity: Atomicity::Atomic }
    }

    /// The changes below the directory from now on, as a stream that mends itself: one item for each revision. Await it, or set where it
    /// starts first.
    pub fn watch(&self) -> Watching<S::Change, S> {
        let typed = Typed::new(|delta, out| delta.whole::<S, S::Change>(|change| change, out), schema::decode::<S>);
        Watching::new(self.context.store.clone(), self.context.retry.clone(), self.key.clone(), typed)
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
        Fields::new(&self.context, &self.key, S::TABLE)
    }

    const OWNER: Owner = Owner::Struct(S::TABLE);

    fn write(&self, job: Job, work: Result<impl Into<Work>>) -> DirWrite<S> {
        DirWrite { dir: self.clone(), job, work: work.map(Into::into), expiry: Expiry::Never, atomicity: Atomicity::Atomic }
    }

    async fn read(&self) -> Result<(Tree, Revision)> {
        let reply = self.context.read(Span::Below(self.key.clone()), false).await.map_err(|error| error.at(&self.key))?;
        Ok((schema::tree(&self.key, reply.kvs), reply.revision))
    }

    async fn read_to_write(&self) -> Result<(Tree, Revision)> {
        let reply = self.context.read_to_write(Span::Below(self.key.clone())).await.map_err(|error| error.at(&self.key))?;
        Ok((schema::tree(&self.key, reply.kvs), reply.revision))
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

    /// That what was read is what is there, as far as reading it again can tell.
    fn still(&self, basis: &[(String, Revision)], tree: &Tree, revision: Revision) -> Result<()> {
        let mut there = tree.iter().filter(|(key, _)| S::TABLE.owns(key)).map(|(key, stored)| (key, stored.modified));
        // A key that no field is read from (an alias behind the field's own key) is not in the basis.
        let newest = last(basis, Revision::ZERO);
        let same = there.all(|(key, modified)| basis.iter().any(|(read, at)| read == key && *at == modified) || modified <= newest);
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

/// A write of a whole struct that happens when it is awaited. The answer is its revision.
#[must_use = "a write does nothing until it is awaited"]
pub struct DirWrite<S> {
    dir: Dir<S>,
    job: Job,
    work: Result<Work>,
    expiry: Expiry,
    atomicity: Atomicity,
}

/// Under which condition.
enum Job {
    Set,
    Create,
    Swap { revision: Revision, basis: Basis },
}

/// What is to be written.
enum Work {
    Whole(schema::Encoded),
    Plan(Plan),
}

impl From<schema::Encoded> for Work {
    fn from(encoded: schema::Encoded) -> Self {
        Self::Whole(encoded)
    }
}

impl<S> DirWrite<S> {
    /// Every key that is written vanishes by itself after this time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Expiry::After(ttl);
        self
    }

    /// Every key that is written vanishes with this lease.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the lease is not there any more.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.expiry = Expiry::With(lease.into());
        self
    }

    /// Allows to write in several steps, for stores without transactions (v2) and for structs with more keys than one transaction takes. Others
    /// may see the struct half written, and a failure may leave it so: [`Error::written`] lists the keys that were. With `compare_and_swap` and `create`
    /// each key that is written is compared by itself.
    pub fn non_atomic(mut self) -> Self {
        self.atomicity = Atomicity::NonAtomic;
        self
    }
}

impl<S: Schema> DirWrite<S> {
    async fn run(self) -> Result<Revision> {
        let Self { dir, job, work, expiry, atomicity } = self;
        let context = dir.context.clone();
        match (job, work?) {
            (Job::Swap { revision, basis }, Work::Plan(plan)) => {
                if atomicity == Atomicity::NonAtomic {
                    let (tree, revision) = dir.read_to_write().await?;
                    dir.still(&basis, &tree, revision)?;
                    // What is deleted and was not read is an alias of a field that was: whatever it holds, it goes.
                    let deletes = plan.deletes.clone();
                    let condition = |key: &str| match as_read(&basis, key) {
                        Condition::Absent if deletes.iter().any(|delete| delete == key) => None,
                        condition => Some(condition),
                    };
                    let written = context.commit_non_atomic(&dir.key, plan, condition, expiry).await?;
                    return Ok(last(&written, revision));
                }
                let compares = unchanged(&dir.key, revision, &basis);
                let committed = context.commit_plan(&dir.key, plan, compares, dir.look(), expiry).await?;
                if committed.succeeded { Ok(committed.revision) } else { Err(dir.conflict(committed)) }
            }
            (Job::Create, Work::Whole(encoded)) => {
                let plan = Plan { puts: encoded.into_iter().collect(), deletes: Vec::new() };
                let exists = || Error::new(ErrorKind::AlreadyExists, "a key of the struct is there").at(&dir.key);
                let is_there = |tree: &Tree| tree.keys().any(|key| S::TABLE.owns(key));
                if atomicity == Atomicity::NonAtomic {
                    let (tree, revision) = dir.read_to_write().await?;
                    if is_there(&tree) {
                        return Err(exists());
                    }
                    let written = context.commit_non_atomic(&dir.key, plan, |_| Some(Condition::Absent), expiry).await?;
                    return Ok(last(&written, revision));
                }
                let owner = Dir::<S>::OWNER;
                let mut compares = owner.nothing_there(&dir.key);
                let mut backoff = context.retry.backoff();
                for _ in 0..=context.retry.conflict_budget {
                    let look = if owner.has_maps() { dir.look() } else { Vec::new() };
                    let committed = context.commit_plan(&dir.key, plan.clone(), compares, look, expiry).await?;
                    if committed.succeeded {
                        return Ok(committed.revision);
                    }
                    // What is in a map's directory may be no entry of it.
                    match looked(&dir.key, committed) {
                        Some((tree, revision)) if !is_there(&tree) => compares = unchanged(&dir.key, revision, &[]),
                        _ => return Err(exists()),
                    }
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(dir.worn_out())
            }
            (_, Work::Whole(encoded)) => set(&context, &dir.key, Dir::<S>::OWNER, encoded, expiry, atomicity).await,
            (_, Work::Plan(plan)) => {
                context.commit_plan(&dir.key, plan, Vec::new(), Vec::new(), expiry).await.map(|committed| committed.revision)
            }
        }
    }
}

/// Makes the owner's keys below a directory be exactly `encoded`.
pub(super) async fn set(
    context: &Context,
    directory: &Key,
    owner: Owner,
    encoded: schema::Encoded,
    expiry: Expiry,
    atomicity: Atomicity,
) -> Result<Revision> {
    if atomicity == Atomicity::Atomic {
        // With maps it will be on the condition that nothing changed below.
        let compares = if owner.has_maps() { unchanged(directory, Revision::ZERO, &[]) } else { Vec::new() };
        context.check_atomic(directory, &compares, encoded.len())?;
    }
    if !owner.has_maps() {
        let plan = owner.overwrite(encoded);
        return match atomicity {
            Atomicity::Atomic => {
                context.commit_plan(directory, plan, Vec::new(), Vec::new(), expiry).await.map(|committed| committed.revision)
            }
            Atomicity::NonAtomic => {
                let written = context.commit_non_atomic(directory, plan, |_| None, expiry).await?;
                Ok(last(&written, Revision::ZERO))
            }
        };
    }
    let reply = context.read_to_write(Span::Below(directory.clone())).await.map_err(|error| error.at(directory))?;
    let (mut tree, mut revision) = (schema::tree(directory, reply.kvs), reply.revision);
    if atomicity == Atomicity::NonAtomic {
        let written = context.commit_non_atomic(directory, owner.replace(&tree, encoded), |_| None, expiry).await?;
        return Ok(last(&written, revision));
    }
    let mut backoff = context.retry.backoff();
    for _ in 0..=context.retry.conflict_budget {
        let plan = owner.replace(&tree, encoded.clone());
        // Only what appears matters: a key that vanished is as good as deleted.
        let compares = unchanged(directory, revision, &[]);
        let look = vec![Op::Get(Span::Below(directory.clone()))];
        let committed = context.commit_plan(directory, plan, compares, look, expiry).await?;
        if committed.succeeded {
            return Ok(committed.revision);
        }
        (tree, revision) = looked(directory, committed).unwrap_or_default();
        tokio::time::sleep(backoff.next_delay()).await;
    }
    Err(Error::new(ErrorKind::Conflict, "others wrote it faster, again and again").at(directory))
}

/// The revision of the last of several writes; of none, what is known without them.
fn last(written: &[(String, Revision)], without: Revision) -> Revision {
    written.iter().map(|(_, revision)| *revision).max().unwrap_or(without)
}

/// The condition that one key is as it was read.
fn as_read(basis: &[(String, Revision)], key: &str) -> Condition {
    let read = basis.iter().find(|(read, _)| read == key);
    read.map_or(Condition::Absent, |(_, modified)| Condition::Modified(*modified))
}

impl<S: Schema> IntoFuture for DirWrite<S> {
    type Output = Result<Revision>;
    type IntoFuture = BoxFuture<'static, Result<Revision>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<S: Schema> fmt::Debug for DirWrite<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirWrite").field("dir", &self.dir).field("atomicity", &self.atomicity).finish_non_exhaustive()
    }
}

/// A deletion of a whole struct that happens when it is awaited. The answer is the struct that was there, if it could be read.
#[must_use = "a deletion does nothing until it is awaited"]
pub struct DirDelete<S> {
    dir: Dir<S>,
    /// The revision and the keys of a read that must still hold.
    seen: Option<(Revision, Basis)>,
    atomicity: Atomicity,
}

impl<S> DirDelete<S> {
    /// Allows to delete in several steps, as [`DirWrite::non_atomic`]. With `compare_and_delete` each key is compared by itself.
    pub fn non_atomic(mut self) -> Self {
        self.atomicity = Atomicity::NonAtomic;
        self
    }
}

impl<S: Schema> DirDelete<S> {
    async fn run(self) -> Result<Option<Versioned<S>>> {
        let Self { dir, seen, atomicity } = self;
        let context = dir.context.clone();
        let (mut tree, mut revision) = dir.read_to_write().await?;
        let mut backoff = context.retry.backoff();
        for _ in 0..=context.retry.conflict_budget {
            let there: Vec<(String, Revision)> =
                tree.iter().filter(|(key, _)| S::TABLE.owns(key)).map(|(key, stored)| (key.clone(), stored.modified)).collect();
            let was = schema::decode::<S>(&dir.key, &tree, revision).ok().filter(|_| !there.is_empty());
            let plan = Plan { puts: Vec::new(), deletes: there.iter().map(|(key, _)| key.clone()).collect() };
            if atomicity == Atomicity::NonAtomic {
                let expected = seen.as_ref().map(|(_, basis)| basis.clone());
                if let Some(basis) = &expected {
                    dir.still(basis, &tree, revision)?;
                }
                // What is there and was not read is an alias, as was just seen.
                let condition = |key: &str| Some(as_read(expected.as_ref()?, key)).filter(|condition| *condition != Condition::Absent);
                context.commit_non_atomic(&dir.key, plan, condition, Expiry::Never).await?;
                return Ok(was);
            }
            let compares = match &seen {
                Some((revision, basis)) => unchanged(&dir.key, *revision, basis),
                None if there.is_empty() => return Ok(None),
                None => unchanged(&dir.key, revision, &there),
            };
            let committed = context.commit_plan(&dir.key, plan, compares, dir.look(), Expiry::Never).await?;
            if committed.succeeded {
                return Ok(was);
            }
            if seen.is_some() {
                return Err(dir.conflict(committed));
            }
            (tree, revision) = looked(&dir.key, committed).unwrap_or_default();
            tokio::time::sleep(backoff.next_delay()).await;
        }
        Err(dir.worn_out())
    }
}

impl<S: Schema> IntoFuture for DirDelete<S> {
    type Output = Result<Option<Versioned<S>>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<S: Schema> fmt::Debug for DirDelete<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirDelete").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A read-modify-write of a struct that happens when it is awaited. The answer is what is stored then.
#[must_use = "an update does nothing until it is awaited"]
pub struct DirUpdate<'f, S>(DirTryUpdate<'f, S, Infallible>);

/// An [update](Dir::try_update) whose closure may refuse.
#[must_use = "an update does nothing until it is awaited"]
pub struct DirTryUpdate<'f, S, E> {
    dir: Dir<S>,
    f: Closure<'f, S, E>,
    scope: UpdateScope,
    atomicity: Atomicity,
}

type Closure<'f, S, E> = Box<dyn Fn(&mut S) -> Result<(), E> + Send + 'f>;

/// What must not have changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UpdateScope {
    /// Anything below the directory.
    Directory,
    /// The keys that are written.
    ChangedFields,
}

impl<S> DirUpdate<'_, S> {
    /// Lets others change other fields meanwhile: only the fields that are written must be as they were read. Use it where the new values do not
    /// depend on other fields.
    pub fn changed_fields_only(self) -> Self {
        Self(self.0.changed_fields_only())
    }

    /// Allows to write in several steps, as [`DirWrite::non_atomic`]; each key that is written must be as it was read.
    pub fn non_atomic(self) -> Self {
        Self(self.0.non_atomic())
    }
}

impl<S, E> DirTryUpdate<'_, S, E> {
    /// Lets others change other fields meanwhile: only the fields that are written must be as they were read. Use it where the new values do not
    /// depend on other fields.
    pub fn changed_fields_only(mut self) -> Self {
        self.scope = UpdateScope::ChangedFields;
        self
    }

    /// Allows to write in several steps, as [`DirWrite::non_atomic`]; each key that is written must be as it was read.
    pub fn non_atomic(mut self) -> Self {
        self.atomicity = Atomicity::NonAtomic;
        self
    }
}

impl<S: Schema, E> DirTryUpdate<'_, S, E> {
    async fn run(self) -> Result<Versioned<S>, UpdateError<E>> {
        let Self { dir, f, scope, atomicity } = self;
        let context = dir.context.clone();
        let (mut tree, mut revision) = dir.read_to_write().await?;
        let mut backoff = context.retry.backoff();
        for _ in 0..=context.retry.conflict_budget {
            let read = schema::decode::<S>(&dir.key, &tree, revision)?;
            let old = schema::encode_unchecked(&dir.key, &*read)?;
            let basis = read.versions.basis.clone();
            let unwritten = read.versions.clone();
            let mut value = read.into_inner();
            f(&mut value).map_err(UpdateError::Refused)?;
            let new = schema::encode(&dir.key, &value)?;
            let plan = Dir::<S>::OWNER.difference(tree.keys(), &old, &new);
            if plan.is_empty() {
                return Ok(Versioned::new(value, unwritten));
            }
            let keys: Vec<String> = plan.keys().cloned().collect();
            let was = |key: &str| Some(tree.get(key).map_or(Condition::Absent, |stored| Condition::Modified(stored.modified)));
            if atomicity == Atomicity::NonAtomic {
                return match context.commit_non_atomic(&dir.key, plan, was, Expiry::Never).await {
                    Ok(written) => Ok(written_at(value, unwritten, &written, &new)),
                    Err(error) if error.kind() == ErrorKind::Conflict && error.written().is_empty() => {
                        (tree, revision) = dir.read_to_write().await?;
                        tokio::time::sleep(backoff.next_delay()).await;
                        continue;
                    }
                    Err(error) => Err(error.into()),
                };
            }
            let compares = match scope {
                UpdateScope::Directory => unchanged(&dir.key, revision, &basis),
                UpdateScope::ChangedFields => {
                    let on = |key: &String| Some(Compare::key(&dir.key.descend(key), was(key)?));
                    keys.iter().filter_map(on).collect()
                }
            };
            let transactions = context.store.capabilities().transactions;
            let look = if transactions { dir.look() } else { Vec::new() };
            let committed = context.commit_plan(&dir.key, plan, compares, look, Expiry::Never).await?;
            if committed.succeeded {
                let written: Vec<_> = keys.into_iter().map(|key| (key, committed.revision)).collect();
                return Ok(written_at(value, unwritten, &written, &new));
            }
            (tree, revision) = match looked(&dir.key, committed) {
                Some(now) => now,
                None => dir.read_to_write().await?,
            };
            tokio::time::sleep(backoff.next_delay()).await;
        }
        Err(dir.worn_out().into())
    }
}

/// The struct after its update, without reading it again: these keys were written or deleted, each at its revision.
fn written_at<S>(value: S, mut versions: Versions, written: &[(String, Revision)], new: &schema::Encoded) -> Versioned<S> {
    let kept = versions.basis.iter().filter(|(key, _)| !written.iter().any(|(other, _)| other == key));
    let put = written.iter().filter(|(key, _)| new.contains_key(key));
    versions.basis = kept.chain(put).cloned().collect();
    versions.revision = last(written, versions.revision);
    versions.modified = last(&versions.basis, versions.revision);
    if versions.created == Revision::ZERO {
        versions.created = versions.modified;
    }
    Versioned::new(value, versions)
}

impl<'f, S: Schema> IntoFuture for DirUpdate<'f, S> {
    type Output = Result<Versioned<S>>;
    type IntoFuture = BoxFuture<'f, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.0.run().await.map_err(|error| match error {
                UpdateError::Store(error) => error,
                UpdateError::Refused(never) => match never {},
            })
        })
    }
}

impl<'f, S: Schema, E: Send + 'f> IntoFuture for DirTryUpdate<'f, S, E> {
    type Output = Result<Versioned<S>, UpdateError<E>>;
    type IntoFuture = BoxFuture<'f, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<S: Schema> fmt::Debug for DirUpdate<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirUpdate").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}

impl<S: Schema, E> fmt::Debug for DirTryUpdate<'_, S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirTryUpdate").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Why a [`Dir::try_update`] did not happen.
#[derive(Debug)]
pub enum UpdateError<E> {
    /// The closure refused; nothing was written.
    Refused(E),
    /// The store, or what is stored.
    Store(Error),
}

impl<E> From<Error> for UpdateError<E> {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl<E: fmt::Display> fmt::Display for UpdateError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error> std::error::Error for UpdateError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(error) => error.source(),
            Self::Store(error) => std::error::Error::source(error),
        }
    }
}
