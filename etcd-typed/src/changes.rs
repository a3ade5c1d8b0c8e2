//! Typed changes.
// A placeholder so that the handles compile: the branch `watch` replaces this whole file.
//
// The interface that `handle/` (branch core, merging soon without its watch methods) will be finished against; whoever writes this file keeps
// it or changes the callers:
//
// pub(crate) struct Typed<C, T> { changes: Arc<dyn Fn(&mut Delta<'_>, &mut Vec<C>) + Send + Sync>, state: Arc<dyn Fn(&Key, &Tree, Revision) -> Result<Versioned<T>> + Send + Sync> }
// pub struct Watching<C, T>            // what `dir.watch()` returns: `.since(Revision)`, IntoFuture<Output = Result<Changes<C, T>>>, #[must_use]
//   Watching::new(store: Arc<dyn Store>, retry: RetryPolicy, directory: Key, typed: Typed<C, T>)
// pub struct Changes<C, T>             // `async next() -> Option<Result<Update<C>>>` (cancel-safe), `current() -> Result<Versioned<T>>`, Stream<Item = Result<Update<C>>>, Unpin + Send
// pub struct WatchingEntry<T>          // what `entry.watch()` returns: `.since(Revision)`, IntoFuture<Output = Result<EntryChanges<T>>>
//   WatchingEntry::new(store, retry, key: Key, codec: Codec<T>)
// pub struct EntryChanges<T>           // `next() -> Option<Result<Change<T>>>`, `current() -> Result<Option<Versioned<T>>>`, Stream

use crate::error::*;
use crate::key::Key;
use crate::retry::RetryPolicy;
use crate::revision::Revision;
use crate::schema::*;
use crate::store::{BoxFuture, Store};
use crate::value::Codec;
use crate::version::Versioned;
use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::sync::Arc;
pub(crate) struct Typed<C, T>(std::marker::PhantomData<fn() -> (C, T)>);
impl<C, T> Typed<C, T> {
    pub(crate) fn new(
        _c: impl Fn(&mut Delta<'_>, &mut Vec<C>) + Send + Sync + 'static,
        _s: impl Fn(&Key, &BTreeMap<String, Stored>, Revision) -> Result<Versioned<T>> + Send + Sync + 'static,
    ) -> Self {
        Self(std::marker::PhantomData)
    }
}
pub struct Watching<C, T>(Typed<C, T>);
impl<C, T> Watching<C, T> {
    pub(crate) fn new(_: Arc<dyn Store>, _: RetryPolicy, _: Key, typed: Typed<C, T>) -> Self {
        Self(typed)
    }
}
pub struct Changes<C, T>(Typed<C, T>);
impl<C, T> Changes<C, T> {
    pub async fn next(&mut self) -> Option<Result<Update<C>>> {
        None
    }
    pub fn current(&self) -> Result<Versioned<T>> {
        Err(Error::new(ErrorKind::Server, ""))
    }
}
impl<C: 'static, T: 'static> IntoFuture for Watching<C, T> {
    type Output = Result<Changes<C, T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(Changes(self.0)) })
    }
}
pub struct WatchingEntry<T>(Codec<T>);
impl<T> WatchingEntry<T> {
    pub(crate) fn new(_: Arc<dyn Store>, _: RetryPolicy, _: Key, codec: Codec<T>) -> Self {
        Self(codec)
    }
}
pub struct EntryChanges<T>(Codec<T>);
impl<T> EntryChanges<T> {
    pub async fn next(&mut self) -> Option<Result<Change<T>>> {
        None
    }
    pub fn current(&self) -> Result<Option<Versioned<T>>> {
        Err(Error::new(ErrorKind::Server, ""))
    }
}
impl<T: 'static> IntoFuture for WatchingEntry<T> {
    type Output = Result<EntryChanges<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(EntryChanges(self.0)) })
    }
}
