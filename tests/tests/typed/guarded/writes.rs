//! Every kind of write that can have a guard.

use super::*;

/// A kind of write, with or without a guard. The answer is dropped.
pub(super) type Write = for<'a> fn(&'a Bench, Option<&'a Guard>) -> BoxFuture<'a, Result<()>>;

macro_rules! writes {
    ($($name:literal: |$bench:ident| $write:expr;)*) => {
        &[$(($name, |$bench, guard| Box::pin(async move {
            let write = $write;
            match guard {
                Some(guard) => write.guarded_by(guard).await,
                None => write.await,
            }
            .map(drop)
            .map_err(IntoStoreError::into_store_error)
        }))),*]
    };
}

/// Converts the error of a write. If the closure of the write can refuse too, the store's error is
/// returned.
pub(super) trait IntoStoreError {
    fn into_store_error(self) -> Error;
}

impl IntoStoreError for Error {
    fn into_store_error(self) -> Error {
        self
    }
}

impl IntoStoreError for UpdateError<Error> {
    fn into_store_error(self) -> Error {
        match self {
            Self::Store(error) | Self::Refused(error) => error,
        }
    }
}

/// Every kind of write. Each changes something that [`Bench::fill`] wrote.
pub(super) const WRITES: &[(&str, Write)] = writes! {
    "entry set": |bench| bench.entry("there").set(&2);
    "entry set, new": |bench| bench.entry("new").set(&2);
    "entry set, with a time to live": |bench| bench.entry("there").set(&2).ttl(Duration::from_secs(60));
    "entry create": |bench| bench.entry("new").create(&2);
    "entry replace": |bench| bench.entry("there").replace(&2);
    "entry swap": |bench| bench.entry("there").swap(&2);
    "entry compare_and_swap": |bench| bench.entry("there").compare_and_swap(Expect::value(&1), &2);
    "entry delete": |bench| bench.entry("there").delete();
    "entry compare_and_delete": |bench| bench.entry("there").compare_and_delete(Expect::value(&1));
    "entry modify": |bench| bench.entry("there").modify(|n| n.map(|n| n + 1));
    "entry modify to nothing": |bench| bench.entry("there").modify(|_| None);
    "entry of a map": |bench| bench.mapped().quotas.entry("q000").unwrap().set(&9);
    "alias set": |bench| bench.moved().limit.set(&2);
    "alias delete": |bench| bench.moved().limit.delete();
    "alias modify": |bench| bench.moved().limit.modify(|n| n.map(|n| n + 1));
    "dir set": |bench| bench.plain().set(&Plain { limit: 2, note: None });
    "dir set, in steps": |bench| bench.plain().set(&Plain { limit: 2, note: None }).non_atomic();
    "dir set, with maps": |bench| bench.mapped().set(&mapped(2));
    "dir set, with maps, in steps": |bench| bench.mapped().set(&mapped(2)).non_atomic();
    "dir create": |bench| bench.client.dir::<Plain>(&bench.path("new")).unwrap().create(&plain());
    "dir create, in steps": |bench| bench.client.dir::<Plain>(&bench.path("new")).unwrap().create(&plain()).non_atomic();
    "dir create, with maps": |bench| bench.client.dir::<Mapped>(&bench.path("new")).unwrap().create(&mapped(2));
    "dir compare_and_swap": |bench| bench.plain().compare_and_swap(&seen(bench).await, &Plain { limit: 2, note: None });
    "dir compare_and_swap, in steps": |bench| bench.plain().compare_and_swap(&seen(bench).await, &Plain { limit: 2, note: None }).non_atomic();
    "dir delete": |bench| bench.plain().delete();
    "dir delete, in steps": |bench| bench.mapped().delete().non_atomic();
    "dir compare_and_delete": |bench| bench.plain().compare_and_delete(&seen(bench).await);
    "dir compare_and_delete, in steps": |bench| bench.plain().compare_and_delete(&seen(bench).await).non_atomic();
    "dir update": |bench| bench.mapped().update(|mapped| mapped.limit += 1);
    "dir update, changed fields": |bench| bench.mapped().update(|mapped| mapped.limit += 1).changed_fields_only();
    "dir update, in steps": |bench| bench.mapped().update(|mapped| mapped.limit += 1).non_atomic();
    "dir try_update": |bench| bench.mapped().try_update(|mapped| { mapped.limit += 1; Ok::<_, Error>(()) });
    "entries set": |bench| bench.mapped().quotas.set(&quotas(2));
    "entries set, in steps": |bench| bench.mapped().quotas.set(&quotas(2)).non_atomic();
    "dirs set": |bench| bench.client.dirs::<String, Plain>(&bench.path("plains")).unwrap().set(&BTreeMap::new());
    "dirs set, in steps": |bench| bench.client.dirs::<String, Plain>(&bench.path("plains")).unwrap().set(&BTreeMap::new()).non_atomic();
    "directory delete_recursive": |bench| bench.client.directory(&bench.path("mapped")).unwrap().delete_recursive();
    "transaction set": |bench| bench.client.transaction().write(bench.entry("there").set(&2));
    "transaction set_dir, delete": |bench| bench.client.transaction().set_dir(&bench.plain(), &plain()).delete(&bench.entry("there"));
    "transaction expect": |bench| bench.client.transaction().expect(&bench.entry("there"), Expect::Present).write(bench.entry("new").set(&2));
};

/// Writes that change nothing, because the stored state already equals the new one.
pub(super) const UNCHANGING_WRITES: &[(&str, Write)] = writes! {
    "entry modify": |bench| bench.entry("there").modify(|n| n);
    "entry modify of nothing": |bench| bench.entry("new").modify(|n| n);
    "entry delete": |bench| bench.entry("new").delete();
    "dir update": |bench| bench.mapped().update(|_| {});
    "dir update, in steps": |bench| bench.mapped().update(|_| {}).non_atomic();
    "dir delete": |bench| bench.client.dir::<Plain>(&bench.path("new")).unwrap().delete();
    "dir delete, in steps": |bench| bench.client.dir::<Plain>(&bench.path("new")).unwrap().delete().non_atomic();
    "entries set": |bench| bench.client.entries::<String, u64>(&bench.path("new")).unwrap().set(&BTreeMap::new());
    "entries set, in steps": |bench| bench.client.entries::<String, u64>(&bench.path("new")).unwrap().set(&BTreeMap::new()).non_atomic();
    "transaction": |bench| bench.client.transaction();
};

/// Reads the struct with a client whose requests are not counted.
pub(super) async fn seen(bench: &Bench) -> Versioned<Plain> {
    PlainDir::open(&bench.other, &bench.env).unwrap().get().await.unwrap()
}
