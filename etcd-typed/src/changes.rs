//! Typed changes.
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
