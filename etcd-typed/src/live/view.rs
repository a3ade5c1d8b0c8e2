//! Computes the candidate for a view's next state from a tree. The code here does no I/O.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::marker::PhantomData;
use std::sync::Arc;

use tokio::task::yield_now;

use super::map::LiveMap;
use super::status::FieldStatus;
use crate::changes::Mirror;
use crate::error::{Error, Problem, ProblemKind, Result};
use crate::key::{self, Key};
use crate::revision::Revision;
use crate::schema::{self, AT_ONCE, Base, ChangedKeys, MapPath, Schema, Stored, Table};
#[cfg(feature = "snapshot")]
use crate::schema::{Look, NeededSecret};
use crate::store::BoxFuture;
use crate::telemetry;
use crate::value::Codec;
use crate::version::{Versioned, Versions};

/// Makes the states of a live view.
pub(crate) trait View: Send + 'static {
    /// The type of the value that the view shows.
    type State;

    /// Makes the first candidate. If there are many keys, yields to other tasks in between.
    fn begin<'v>(&'v mut self, mirror: &'v Mirror) -> BoxFuture<'v, Result<Versioned<Self::State>>>;

    /// Makes the next candidate after these keys changed, or returns `None` if none of them belongs
    /// to the view. If there are many keys, yields as [`begin`](Self::begin) does.
    fn touch<'v>(&'v mut self, mirror: &'v Mirror, changed: &'v ChangedKeys) -> BoxFuture<'v, Option<Result<Versioned<Self::State>>>>;

    /// Switches to judging each entry of a map separately: from now on, a bad entry does not make
    /// the view reject the state; see [`Viewing::per_entry`].
    fn per_entry(&mut self) {}

    /// From now on, takes the values of fields without a key from this base; see [`Viewing::over`].
    fn over(&mut self, base: Base) {
        let _ = base;
    }

    /// Returns the source of each field of the last candidate. Always empty before
    /// [`over`](Self::over).
    fn sources(&self) -> Sources {
        Sources::default()
    }

    /// Returns the entries that the last candidate leaves out, or shows with an earlier value.
    /// Always empty before [`per_entry`](Self::per_entry).
    fn bad(&self) -> Bad {
        Bad::default()
    }

    /// True if the entry with this key is bad, so that the last candidate does not show the stored
    /// value.
    #[cfg(feature = "snapshot")]
    fn is_bad(&self, relative: &str) -> bool {
        let _ = relative;
        false
    }

    /// Returns the same view in its initial state.
    #[cfg(feature = "snapshot")]
    fn anew(&self) -> Box<dyn View<State = Self::State>>;

    /// Returns the parts of the view that may be kept on disk.
    ///
    /// # Errors
    ///
    /// The secret that the view needs to start, since secrets are not kept on disk.
    #[cfg(feature = "snapshot")]
    fn keeping(&self) -> Result<Keeping, NeededSecret>;
}

/// The source of each field of a view.
pub(super) type Sources = Arc<[FieldStatus]>;

/// The bad entries of a map, in a view that judges each entry separately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bad {
    /// The number of bad entries. An entry may have several problems.
    pub(super) entries: usize,
    /// Every problem of every bad entry, in the order of the entries.
    pub(super) problems: Arc<[Problem]>,
}

/// The parts of a view that may be kept on disk.
#[cfg(feature = "snapshot")]
pub(crate) struct Keeping {
    /// A description of the part of the directory that the view shows. The file of a view with
    /// another description is refused.
    pub(super) what: String,
    /// Returns true if a key, relative to the mirror's directory, belongs to the view and its value
    /// is not secret.
    pub(super) keeps: Box<dyn Fn(&str) -> bool + Send + Sync>,
    /// The keys that a read of the view uses.
    pub(super) looks: Vec<Look>,
}

/// Reports unknown keys once, for structs with `#[serde(deny_unknown_fields)]`.
struct UnknownReport {
    table: &'static Table,
    /// True until the report is made.
    is_due: bool,
}

impl UnknownReport {
    fn new(table: &'static Table) -> Self {
        Self { table, is_due: table.has_reports() }
    }

    /// Reports the unknown keys among `keys`, if the report is still due. `within` removes the name
    /// of a map's entry from a key, or returns the key unchanged.
    fn make<'k>(&mut self, keys: impl Iterator<Item = &'k str>, within: fn(&str) -> Option<&str>) {
        if !self.is_due {
            return;
        }
        let unknown = keys.filter(|relative| within(relative).is_some_and(|relative| self.table.reports(relative))).count();
        if unknown > 0 {
            self.is_due = false;
            telemetry::view_has_unknown_keys(self.table.pattern(), unknown);
        }
    }
}

/// Returns the key unchanged: every key below the directory of a struct is relative to the struct.
#[expect(clippy::unnecessary_wraps, reason = "it stands beside `DirsView::without_entry`")]
fn of_struct(relative: &str) -> Option<&str> {
    Some(relative)
}

/// The view of a struct in its own directory.
pub(crate) struct StructView<S> {
    unknown: UnknownReport,
    base: Option<Arc<Base>>,
    pub(super) sources: Sources,
    of: PhantomData<fn() -> S>,
}

impl<S: Schema> StructView<S> {
    pub(crate) fn new() -> Self {
        Self { unknown: UnknownReport::new(S::TABLE), base: None, sources: Sources::default(), of: PhantomData }
    }

    /// Whether a change of the key may change the state.
    fn reads(relative: &str) -> bool {
        S::TABLE.reads(relative) || S::TABLE.refuses(relative)
    }
}

impl<S: Schema> View for StructView<S> {
    type State = S;

    fn begin<'v>(&'v mut self, mirror: &'v Mirror) -> BoxFuture<'v, Result<Versioned<S>>> {
        self.unknown.make(mirror.tree().keys().map(String::as_str), of_struct);
        match self.base.clone() {
            None => Box::pin(schema::decode_valid_in_steps(mirror.directory(), mirror.tree(), mirror.revision())),
            Some(base) => Box::pin(async move { self.completed(&base, mirror).await }),
        }
    }

    fn touch<'v>(&'v mut self, mirror: &'v Mirror, changed: &'v ChangedKeys) -> BoxFuture<'v, Option<Result<Versioned<S>>>> {
        self.unknown.make(changed.keys().filter(|relative| mirror.tree().contains_key(*relative)), of_struct);
        Box::pin(async move { if changed.keys().any(Self::reads) { Some(self.begin(mirror).await) } else { None } })
    }

    fn over(&mut self, base: Base) {
        self.base = Some(Arc::new(base));
    }

    fn sources(&self) -> Sources {
        self.sources.clone()
    }

    #[cfg(feature = "snapshot")]
    fn anew(&self) -> Box<dyn View<State = S>> {
        Box::new(Self { base: self.base.clone(), ..Self::new() })
    }

    #[cfg(feature = "snapshot")]
    fn keeping(&self) -> Result<Keeping, NeededSecret> {
        let keeps = |relative: &str| S::TABLE.owns(relative) && !S::TABLE.is_secret(relative);
        match S::TABLE.needed_secret() {
            Some(secret) => Err(secret),
            None => {
                let what = format!("the struct {}", S::TABLE.name);
                Ok(Keeping { what, keeps: Box::new(keeps), looks: S::TABLE.looks("", false) })
            }
        }
    }
}

/// The view of the value of one key, or of the first alias that exists if the key does not.
pub(crate) struct EntryView<T> {
    /// The key and its aliases, relative to the mirror's directory, in order of preference.
    keys: Vec<String>,
    codec: Codec<T>,
}

impl<T> EntryView<T> {
    pub(crate) fn new(keys: Vec<String>, codec: Codec<T>) -> Self {
        Self { keys, codec }
    }

    fn state(&self, mirror: &Mirror) -> Result<Versioned<Option<T>>> {
        let revision = mirror.revision();
        let Some((relative, stored)) = self.keys.iter().find_map(|relative| Some((relative, mirror.tree().get(relative)?))) else {
            return Ok(Versioned::new(None, Versions { revision, ..Versions::default() }));
        };
        match value(&mirror.directory().descend(relative), stored, &self.codec) {
            Ok(value) => Ok(Versioned::new(Some(value), stored.versions(revision)).secret(self.codec.is_secret())),
            Err(problem) if problem.kind == ProblemKind::Undecodable => Err(Error::undecodable(problem)),
            Err(problem) => Err(Error::from_problems(vec![problem])),
        }
    }
}

impl<T: Send + 'static> View for EntryView<T> {
    type State = Option<T>;

    fn begin<'v>(&'v mut self, mirror: &'v Mirror) -> BoxFuture<'v, Result<Versioned<Option<T>>>> {
        Box::pin(ready(self.state(mirror)))
    }

    fn touch<'v>(&'v mut self, mirror: &'v Mirror, changed: &'v ChangedKeys) -> BoxFuture<'v, Option<Result<Versioned<Option<T>>>>> {
        let any = self.keys.iter().any(|relative| changed.contains_key(relative));
        Box::pin(ready(any.then(|| self.state(mirror))))
    }

    #[cfg(feature = "snapshot")]
    fn anew(&self) -> Box<dyn View<State = Option<T>>> {
        Box::new(Self::new(self.keys.clone(), self.codec))
    }

    #[cfg(feature = "snapshot")]
    fn keeping(&self) -> Result<Keeping, NeededSecret> {
        let name = self.keys.first().map_or("", String::as_str);
        if self.codec.is_secret() {
            return Err(NeededSecret::at(name));
        }
        let keys = self.keys.clone();
        let keeps = move |relative: &str| keys.iter().any(|key| key == relative);
        let looks = vec![Look { keys: self.keys.clone(), is_in_map: false }];
        Ok(Keeping { what: format!("the value `{name}` ({})", self.codec.type_name), keeps: Box::new(keeps), looks })
    }
}

/// Decodes and validates one value.
fn value<T>(key: &Key, stored: &Stored, codec: &Codec<T>) -> Result<T, Problem> {
    let revision = Some(stored.modified);
    let undecodable = |reason: String| Problem { key: key.clone(), kind: ProblemKind::Undecodable, reason, revision };
    let value = codec.decode(&stored.value).map_err(|reason| undecodable(reason.to_string()))?;
    match schema::validate_value(key, &value, codec) {
        None => Ok(value),
        Some(problem) => Err(Problem { revision, ..problem }),
    }
}

/// Counts the keys that were read, and yields to other tasks after each group of keys.
#[derive(Default)]
pub(super) struct YieldCounter(usize);

impl YieldCounter {
    /// Adds `keys` to the count. If the count exceeds [`AT_ONCE`], yields to other tasks and starts
    /// a new count with `keys`.
    pub(super) async fn add(&mut self, keys: usize) {
        self.0 += keys;
        if self.0 > AT_ONCE {
            self.0 = keys;
            yield_now().await;
        }
    }
}

/// A map that is updated child by child, so that a change costs only as much as reading the changed
/// child.
struct Children<K: Ord, V> {
    /// All valid children. An invalid child keeps its last good value.
    good: LiveMap<K, V>,
    /// The problems of each invalid child. While a child is invalid, the view gets no new state,
    /// unless the view is per entry.
    bad: BTreeMap<String, Vec<Problem>>,
    modified: Revision,
    /// Set if the view is per entry.
    each: Option<Each<K, V>>,
}

/// The additional data of a view per entry.
struct Each<K: Ord, V> {
    /// The valid children at the time of the last candidate. If a child is invalid when all
    /// children are read again, the view keeps the child's value from this map.
    shown: LiveMap<K, V>,
    /// `Children::bad` as of the last candidate.
    bad: Bad,
    /// True if `Children::bad` has changed since the last candidate.
    is_changed: bool,
}

impl<K: Ord, V> Each<K, V> {
    fn new() -> Self {
        Self { shown: LiveMap::new(), bad: Bad::default(), is_changed: false }
    }
}

impl<K: MapPath, V> Children<K, V> {
    fn new() -> Self {
        Self { good: LiveMap::new(), bad: BTreeMap::new(), modified: Revision::ZERO, each: None }
    }

    fn per_entry(&mut self) {
        self.each.get_or_insert_with(Each::new);
    }

    /// Forgets all children, before they are read again. In a view per entry, each child that still
    /// exists keeps its last good value.
    fn begin(&mut self, exists: impl Fn(&str) -> bool) {
        let each = self.each.take();
        *self = Self::new();
        let Some(each) = each else { return };
        self.good = each.shown.clone();
        for key in each.shown.keys() {
            let is_stored = |child: String| exists(&child) || key::with_escaped_underscores(&child).is_some_and(|older| exists(&older));
            if !key.path().is_ok_and(is_stored) {
                self.good.remove(key);
            }
        }
        self.each = Some(Each { is_changed: true, ..each });
    }

    /// Whether a child is bad, under its own name or under a name that has its leading `_` escaped
    /// or unescaped.
    #[cfg(feature = "snapshot")]
    fn is_bad(&self, child: &str) -> bool {
        let is_bad = |name: Option<String>| name.is_some_and(|name| self.bad.contains_key(&name));
        self.each.is_some()
            && !self.bad.is_empty()
            && (self.bad.contains_key(child) || is_bad(key::with_plain_underscores(child)) || is_bad(key::with_escaped_underscores(child)))
    }

    /// Returns a description of the view for its file. The file of a view per entry lacks entries
    /// that were never good, so a view of the whole map must not start from that file.
    #[cfg(feature = "snapshot")]
    fn describe(&self, what: String) -> String {
        if self.each.is_some() { format!("{what}, per entry") } else { what }
    }

    fn bad(&self) -> Bad {
        self.each.as_ref().map(|each| each.bad.clone()).unwrap_or_default()
    }

    /// Whether the view knows a change that is newer than the mirror. Then the server has returned
    /// with an older history.
    fn is_of_the_future(&self, mirror: &Mirror) -> bool {
        self.modified > mirror.revision()
    }

    /// Updates a child. `now` is `None` if the child does not exist.
    fn set(&mut self, directory: &Key, child: &str, now: Option<Result<V, Vec<Problem>>>, revision: Revision) {
        self.modified = self.modified.max(revision);
        let was_bad = self.bad.remove(child).is_some();
        if let Some(each) = &mut self.each {
            each.is_changed |= was_bad;
        }
        let Some(now) = now else {
            if let Ok(key) = K::of_path(child) {
                self.good.remove(&key);
            }
            return;
        };
        let key = K::of_path(child)
            .map_err(|(kind, reason)| vec![Problem { key: directory.descend(child), kind, reason, revision: Some(revision) }]);
        match (key, now) {
            (Ok(key), Ok(value)) => self.good.insert(key, value),
            (key, now) => {
                let problems = key.err().into_iter().chain(now.err()).flatten().collect();
                self.bad.insert(child.to_owned(), problems);
                if let Some(each) = &mut self.each {
                    each.is_changed = true;
                }
            }
        }
    }

    /// Returns the name at which a child is read, and forgets the problems of its other name. A
    /// child whose name begins with `_` may be stored under its own name, and under the name with
    /// an escaped `_` that earlier versions and v2 use.
    fn one_of_two<'c>(&mut self, child: &'c str, exists: impl Fn(&str) -> bool) -> Cow<'c, str> {
        let own = key::with_plain_underscores(child).map_or(Cow::Borrowed(child), Cow::Owned);
        let Some(older) = key::with_escaped_underscores(&own) else { return Cow::Borrowed(child) };
        let (read, other) = if !exists(&own) && exists(&older) { (Cow::Owned(older), own) } else { (own, older.into()) };
        let was_bad = self.bad.remove(&*other).is_some();
        if let Some(each) = &mut self.each {
            each.is_changed |= was_bad;
        }
        read
    }

    fn candidate(&mut self, directory: &Key, revision: Revision) -> Result<Versioned<LiveMap<K, V>>> {
        if let Some(each) = &mut self.each {
            each.shown = self.good.clone();
            if std::mem::take(&mut each.is_changed) {
                // The problem of a missing key has no revision, so it gets the revision of the
                // candidate.
                let found = |problem: &Problem| Problem { revision: problem.revision.or(Some(revision)), ..problem.clone() };
                each.bad = Bad { entries: self.bad.len(), problems: self.bad.values().flatten().map(found).collect() };
            }
        } else if !self.bad.is_empty() {
            return Err(Error::from_problems(self.bad.values().flatten().cloned().collect()).at(directory));
        }
        let versions = Versions { revision, modified: self.modified, ..Versions::default() };
        Ok(Versioned::new(self.good.clone(), versions))
    }
}

/// The view of a map of values.
pub(crate) struct EntriesView<K: Ord, V> {
    codec: Codec<V>,
    children: Children<K, V>,
}

impl<K: MapPath, V: Send + Sync + 'static> EntriesView<K, V> {
    pub(crate) fn new(codec: Codec<V>) -> Self {
        Self { codec, children: Children::new() }
    }

    /// Whether the key is the key of an entry of the map.
    fn owns(relative: &str) -> bool {
        schema::is_entry(relative, K::LEVELS)
    }

    fn candidate(&mut self, mirror: &Mirror) -> Result<Versioned<LiveMap<K, V>>> {
        Ok(self.children.candidate(mirror.directory(), mirror.revision())?.secret(self.codec.is_secret()))
    }

    fn entry(&mut self, mirror: &Mirror, relative: &str) {
        let relative = &*self.children.one_of_two(relative, |name| mirror.tree().contains_key(name));
        let directory = mirror.directory();
        let stored = mirror.tree().get(relative);
        let now = stored.map(|stored| value(&directory.descend(relative), stored, &self.codec).map_err(|problem| vec![problem]));
        self.children.set(directory, relative, now, stored.map_or_else(|| mirror.revision(), |stored| stored.modified));
    }
}

impl<K: MapPath, V: Send + Sync + 'static> View for EntriesView<K, V> {
    type State = LiveMap<K, V>;

    fn begin<'v>(&'v mut self, mirror: &'v Mirror) -> BoxFuture<'v, Result<Versioned<LiveMap<K, V>>>> {
        Box::pin(async move {
            self.children.begin(|child| mirror.tree().contains_key(child));
            let mut yields = YieldCounter::default();
            for relative in mirror.tree().keys().filter(|relative| Self::owns(relative)) {
                yields.add(1).await;
                self.entry(mirror, relative);
            }
            self.candidate(mirror)
        })
    }

    fn touch<'v>(&'v mut self, mirror: &'v Mirror, changed: &'v ChangedKeys) -> BoxFuture<'v, Option<Result<Versioned<LiveMap<K, V>>>>> {
        Box::pin(async move {
            if self.children.is_of_the_future(mirror) {
                return Some(self.begin(mirror).await);
            }
            let (mut any, mut yields) = (false, YieldCounter::default());
            for relative in changed.keys().filter(|relative| Self::owns(relative)) {
                yields.add(1).await;
                self.entry(mirror, relative);
                any = true;
            }
            any.then(|| self.candidate(mirror))
        })
    }

    fn per_entry(&mut self) {
        self.children.per_entry();
    }

    fn bad(&self) -> Bad {
        self.children.bad()
    }

    #[cfg(feature = "snapshot")]
    fn is_bad(&self, relative: &str) -> bool {
        self.children.is_bad(relative)
    }

    #[cfg(feature = "snapshot")]
    fn anew(&self) -> Box<dyn View<State = LiveMap<K, V>>> {
        let mut view = Self::new(self.codec);
        view.children.each = self.children.each.as_ref().map(|_| Each::new());
        Box::new(view)
    }

    #[cfg(feature = "snapshot")]
    fn keeping(&self) -> Result<Keeping, NeededSecret> {
        if self.codec.is_secret() {
            return Err(NeededSecret::at(&format!("<{}>", K::type_name())));
        }
        let looks = vec![Look { keys: vec![String::new()], is_in_map: true }];
        let what = self.children.describe(format!("a map of values ({})", self.codec.type_name));
        Ok(Keeping { what, keeps: Box::new(Self::owns), looks })
    }
}

/// The view of a map of structs.
pub(crate) struct DirsView<K: Ord, S>(Children<K, S>, UnknownReport);

impl<K: MapPath, S: Schema> DirsView<K, S> {
    pub(crate) fn new() -> Self {
        Self(Children::new(), UnknownReport::new(S::TABLE))
    }

    /// Returns the part of a key below the directory of its entry.
    fn without_entry(relative: &str) -> Option<&str> {
        schema::split_levels(relative, K::LEVELS)?.1
    }

    /// Returns the children to which these keys belong.
    fn children<'k>(keys: impl Iterator<Item = &'k str>) -> BTreeSet<&'k str> {
        keys.filter_map(|relative| Self::child_and_key(relative)).map(|(child, _)| child).collect()
    }

    /// Splits a key into the name of its child and the key below that child. Returns `None` if a
    /// read does not use the key.
    fn child_and_key(relative: &str) -> Option<(&str, &str)> {
        let (child, rest) = schema::split_levels(relative, K::LEVELS)?;
        rest.filter(|rest| StructView::<S>::reads(rest)).map(|rest| (child, rest))
    }

    /// Updates a child from the mirror. Returns the number of keys that were read, at most
    /// [`AT_ONCE`].
    async fn child(&mut self, mirror: &Mirror, child: &str) -> usize {
        let exists = |child: &str| schema::subtree(mirror.tree(), child).keys().any(|relative| S::TABLE.is_present_by(relative));
        let child = &*self.0.one_of_two(child, exists);
        let directory = mirror.directory();
        let tree = schema::subtree(mirror.tree(), child);
        let modified = tree.values().map(|stored| stored.modified).max();
        let exists = tree.keys().any(|relative| S::TABLE.is_present_by(relative));
        let now = if exists {
            let state = schema::decode_valid_in_steps::<S>(&directory.descend(child), &tree, mirror.revision()).await;
            Some(state.map(Versioned::into_inner).map_err(|error| error.problems().to_vec()))
        } else {
            None
        };
        self.0.set(directory, child, now, modified.unwrap_or_else(|| mirror.revision()));
        tree.len().clamp(1, AT_ONCE)
    }
}

impl<K: MapPath, S: Schema> View for DirsView<K, S> {
    type State = LiveMap<K, S>;

    fn begin<'v>(&'v mut self, mirror: &'v Mirror) -> BoxFuture<'v, Result<Versioned<LiveMap<K, S>>>> {
        Box::pin(async move {
            let children = Self::children(mirror.tree().keys().map(String::as_str));
            self.0.begin(|child| children.contains(child));
            self.1.make(mirror.tree().keys().map(String::as_str), Self::without_entry);
            let mut yields = YieldCounter::default();
            for child in children {
                yields.add(self.child(mirror, child).await).await;
            }
            self.0.candidate(mirror.directory(), mirror.revision())
        })
    }

    fn touch<'v>(&'v mut self, mirror: &'v Mirror, changed: &'v ChangedKeys) -> BoxFuture<'v, Option<Result<Versioned<LiveMap<K, S>>>>> {
        Box::pin(async move {
            if self.0.is_of_the_future(mirror) {
                return Some(self.begin(mirror).await);
            }
            self.1.make(changed.keys().filter(|relative| mirror.tree().contains_key(*relative)), Self::without_entry);
            let children = Self::children(changed.keys());
            let mut yields = YieldCounter::default();
            for child in &children {
                yields.add(self.child(mirror, child).await).await;
            }
            (!children.is_empty()).then(|| self.0.candidate(mirror.directory(), mirror.revision()))
        })
    }

    fn per_entry(&mut self) {
        self.0.per_entry();
    }

    fn bad(&self) -> Bad {
        self.0.bad()
    }

    #[cfg(feature = "snapshot")]
    fn is_bad(&self, relative: &str) -> bool {
        Self::child_and_key(relative).is_some_and(|(child, _)| self.0.is_bad(child))
    }

    #[cfg(feature = "snapshot")]
    fn anew(&self) -> Box<dyn View<State = LiveMap<K, S>>> {
        let mut view = Self::new();
        view.0.each = self.0.each.as_ref().map(|_| Each::new());
        Box::new(view)
    }

    #[cfg(feature = "snapshot")]
    fn keeping(&self) -> Result<Keeping, NeededSecret> {
        let keeps = |relative: &str| Self::child_and_key(relative).is_some_and(|(_, rest)| !S::TABLE.is_secret(rest));
        match S::TABLE.entry_secret() {
            Some(secret) => Err(secret.below(&format!("<{}>", K::type_name()))),
            None => {
                let what = self.0.describe(format!("a map of structs {}", S::TABLE.name));
                Ok(Keeping { what, keeps: Box::new(keeps), looks: S::TABLE.looks("/", true) })
            }
        }
    }
}
