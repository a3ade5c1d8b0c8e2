//! The key-value backend of a database, with its own trait and types, implemented with
//! `client.raw()` in the module `store`. A program with this trait needs 514 lines to implement it
//! with `etcd-client`, including the conversions of requests and answers.

use etcd_typed::ErrorKind;

use super::{Bench, KEYS, on_byte_stores};
use store::RawBackend;

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pair {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A range of keys. Without an end it is one key. If the end is a zero byte, it contains all keys
/// from `key` on, and if both are zero bytes, all keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    key: Vec<u8>,
    range_end: Vec<u8>,
    /// Zero means no limit.
    limit: usize,
    keys_only: bool,
}

/// A step of a [`Batch`].
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Put(Pair),
    Get(Vec<u8>),
    Delete(Vec<u8>),
}

/// Conditions on values, and the steps to run if the conditions hold or fail. `None` requires that
/// the key does not exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    when: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    success: Vec<Step>,
    failure: Vec<Step>,
}

/// The result of a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Done {
    Put,
    Found(Vec<Pair>),
    Deleted(u64),
}

/// The operations that the database needs from a store.
pub(crate) trait Backend {
    type Error;

    async fn range(&self, selection: Selection) -> Result<(Vec<Pair>, bool), Self::Error>;
    async fn put(&self, pair: Pair, previous: bool) -> Result<Option<Pair>, Self::Error>;
    async fn batch_put(&self, pairs: Vec<Pair>, previous: bool) -> Result<Vec<Pair>, Self::Error>;
    async fn batch_get(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Pair>, Self::Error>;
    async fn batch_delete(&self, keys: Vec<Vec<u8>>, previous: bool) -> Result<Vec<Pair>, Self::Error>;
    /// Writes the value if the key has the expected value. Returns whether it was written, and the
    /// previous value.
    async fn compare_and_put(&self, key: Vec<u8>, expected: Option<Vec<u8>>, value: Vec<u8>) -> Result<(bool, Option<Pair>), Self::Error>;
    async fn delete_range(&self, selection: Selection, previous: bool) -> Result<(u64, Vec<Pair>), Self::Error>;
    /// Moves the value of a key to another key, if the first key exists, and returns the value.
    async fn move_value(&self, from: Vec<u8>, to: Vec<u8>) -> Result<Option<Pair>, Self::Error>;
    async fn txn(&self, batch: Batch) -> Result<(bool, Vec<Done>), Self::Error>;
}

mod store {
    use etcd_typed::raw::{Condition, KeyValue, Keys, OpResult, Raw, RawTransaction};
    use etcd_typed::{Error, Result};

    use super::{Backend, Batch, Done, Pair, Selection, Step};

    pub(crate) struct RawBackend {
        raw: Raw,
        /// How many operations one transaction of the server accepts.
        max_operations: usize,
    }

    impl RawBackend {
        pub(crate) fn new(raw: Raw, max_operations: usize) -> Self {
            Self { raw, max_operations }
        }

        /// Adds one operation for each item, in as many transactions as necessary.
        async fn each<T>(&self, items: &[T], add: impl Fn(RawTransaction, &T) -> RawTransaction) -> Result<Vec<Pair>> {
            let mut pairs = Vec::new();
            for part in items.chunks(self.max_operations) {
                let done = part.iter().fold(self.raw.transaction(), &add).await?;
                pairs.extend(done.results.into_iter().flat_map(found));
            }
            Ok(pairs)
        }
    }

    impl From<KeyValue> for Pair {
        fn from(kv: KeyValue) -> Self {
            Self { key: kv.key.into(), value: kv.value.into() }
        }
    }

    impl From<&Selection> for Keys {
        fn from(Selection { key, range_end, .. }: &Selection) -> Self {
            match (&key[..], &range_end[..]) {
                (key, []) => Self::key(key),
                ([0], [0]) => Self::from(..),
                (key, [0]) => Self::from(key..),
                (key, end) => Self::from(key..end),
            }
        }
    }

    fn pairs(kvs: Vec<KeyValue>) -> Vec<Pair> {
        kvs.into_iter().map(Pair::from).collect()
    }

    /// Returns the pairs in the result of an operation.
    fn found(result: OpResult) -> Vec<Pair> {
        match result {
            OpResult::Get(reply) => pairs(reply.kvs),
            OpResult::Put(previous) => previous.into_iter().map(Pair::from).collect(),
            OpResult::Delete { previous, .. } => pairs(previous),
            OpResult::Done => Vec::new(),
        }
    }

    fn expects(expected: Option<Vec<u8>>) -> Condition {
        expected.map_or(Condition::Absent, |value| Condition::Value(value.into()))
    }

    impl Backend for RawBackend {
        type Error = Error;

        async fn range(&self, selection: Selection) -> Result<(Vec<Pair>, bool)> {
            let mut range = self.raw.range(&selection);
            if selection.limit > 0 {
                range = range.limit(selection.limit);
            }
            if selection.keys_only {
                range = range.keys_only();
            }
            let page = range.await?;
            Ok((pairs(page.kvs), page.more))
        }

        async fn put(&self, pair: Pair, previous: bool) -> Result<Option<Pair>> {
            let put = self.raw.put(pair.key, pair.value);
            let written = if previous { put.previous().await? } else { put.await? };
            Ok(written.previous.map(Pair::from))
        }

        async fn batch_put(&self, pairs: Vec<Pair>, previous: bool) -> Result<Vec<Pair>> {
            let add = |txn: RawTransaction, pair: &Pair| {
                let txn = txn.put(&pair.key, pair.value.clone());
                if previous { txn.previous() } else { txn }
            };
            self.each(&pairs, add).await
        }

        async fn batch_get(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Pair>> {
            self.each(&keys, |txn, key| txn.get(key)).await
        }

        async fn batch_delete(&self, keys: Vec<Vec<u8>>, previous: bool) -> Result<Vec<Pair>> {
            self.each(&keys, |txn, key| if previous { txn.delete(key).previous() } else { txn.delete(key) }).await
        }

        async fn compare_and_put(&self, key: Vec<u8>, expected: Option<Vec<u8>>, value: Vec<u8>) -> Result<(bool, Option<Pair>)> {
            let txn = self.raw.transaction().when(&key, expects(expected)).put(&key, value).previous().otherwise().get(&key);
            let done = txn.await?;
            Ok((done.succeeded, done.results.into_iter().flat_map(found).next()))
        }

        async fn delete_range(&self, selection: Selection, previous: bool) -> Result<(u64, Vec<Pair>)> {
            let delete = self.raw.delete_range(&selection);
            let deleted = if previous { delete.previous().await? } else { delete.await? };
            Ok((deleted.deleted, pairs(deleted.previous)))
        }

        async fn move_value(&self, from: Vec<u8>, to: Vec<u8>) -> Result<Option<Pair>> {
            loop {
                let Some(kv) = self.raw.get(&from).await? else { return Ok(None) };
                let txn = self.raw.transaction().when(&from, Condition::Modified(kv.modified)).delete(&from);
                if txn.put(&to, kv.value.clone()).await?.succeeded {
                    return Ok(Some(kv.into()));
                }
            }
        }

        async fn txn(&self, batch: Batch) -> Result<(bool, Vec<Done>)> {
            let add = |txn: RawTransaction, step| match step {
                Step::Put(pair) => txn.put(pair.key, pair.value),
                Step::Get(key) => txn.get(key),
                Step::Delete(key) => txn.delete(key),
            };
            let txn = batch.when.into_iter().fold(self.raw.transaction(), |txn, (key, value)| txn.when(key, expects(value)));
            let txn = batch.failure.into_iter().fold(batch.success.into_iter().fold(txn, add).otherwise(), add);
            let done = txn.await?;
            let result = |result| match result {
                OpResult::Get(reply) => Done::Found(pairs(reply.kvs)),
                OpResult::Delete { deleted, .. } => Done::Deleted(deleted),
                OpResult::Put(_) | OpResult::Done => Done::Put,
            };
            Ok((done.succeeded, done.results.into_iter().map(result).collect()))
        }
    }
}

fn pair(key: &[u8], value: &str) -> Pair {
    Pair { key: key.to_vec(), value: value.into() }
}

fn all() -> Selection {
    Selection { key: vec![0], range_end: vec![0], ..Selection::default() }
}

on_byte_stores! {
    backend_puts_and_reads_ranges
    backend_writes_batches_of_any_size
    backend_compares_moves_and_deletes
    backend_runs_transactions
}

fn backend(bench: &Bench) -> RawBackend {
    RawBackend::new(bench.raw.clone(), 4)
}

async fn backend_puts_and_reads_ranges(bench: Bench) {
    let backend = backend(&bench);
    assert_eq!(backend.put(pair(KEYS[0], "0"), true).await.unwrap(), None);
    assert_eq!(backend.put(pair(KEYS[0], "1"), true).await.unwrap(), Some(pair(KEYS[0], "0")));
    assert_eq!(backend.put(pair(KEYS[0], "2"), false).await.unwrap(), None);
    for key in &KEYS[1..] {
        backend.put(pair(key, "v"), false).await.unwrap();
    }
    let (pairs, more) = backend.range(Selection { limit: 2, ..all() }).await.unwrap();
    assert_eq!((pairs, more), (vec![pair(KEYS[0], "2"), pair(KEYS[1], "v")], true));
    let (pairs, more) = backend.range(Selection { keys_only: true, ..all() }).await.unwrap();
    assert_eq!((pairs, more), (KEYS.map(|key| pair(key, "")).to_vec(), false));
    let one = Selection { key: KEYS[3].to_vec(), ..Selection::default() };
    assert_eq!(backend.range(one).await.unwrap().0, [pair(KEYS[3], "v")]);
    let some = Selection { key: KEYS[3].to_vec(), range_end: KEYS[5].to_vec(), ..Selection::default() };
    assert_eq!(backend.range(some).await.unwrap().0.len(), 2);
    let rest = Selection { key: KEYS[3].to_vec(), range_end: vec![0], ..Selection::default() };
    assert_eq!(backend.range(rest).await.unwrap().0.len(), 5);
}

async fn backend_writes_batches_of_any_size(bench: Bench) {
    let backend = backend(&bench);
    let pairs: Vec<Pair> = (0..11_u8).map(|number| pair(&[number], &number.to_string())).collect();
    assert_eq!(backend.batch_put(pairs.clone(), true).await.unwrap(), []);
    assert_eq!(backend.batch_put(pairs.clone(), true).await.unwrap(), pairs);
    let keys: Vec<Vec<u8>> = (0..13_u8).map(|number| vec![number]).collect();
    assert_eq!(backend.batch_get(keys.clone()).await.unwrap(), pairs);
    assert_eq!(backend.batch_delete(keys[..2].to_vec(), false).await.unwrap(), []);
    assert_eq!(backend.batch_delete(keys, true).await.unwrap(), pairs[2..]);
    assert_eq!(backend.range(all()).await.unwrap().0, []);
}

async fn backend_compares_moves_and_deletes(bench: Bench) {
    let backend = backend(&bench);
    let (a, b) = (b"a\xff".to_vec(), b"b/".to_vec());
    let swap = async |expected: Option<&str>, value: &str| {
        backend.compare_and_put(a.clone(), expected.map(|value| value.as_bytes().to_vec()), value.into()).await.unwrap()
    };
    assert_eq!(swap(None, "1").await, (true, None));
    assert_eq!(swap(None, "2").await, (false, Some(pair(&a, "1"))));
    assert_eq!(swap(Some("1"), "2").await, (true, Some(pair(&a, "1"))));
    assert_eq!(swap(Some("1"), "3").await, (false, Some(pair(&a, "2"))));
    assert_eq!(backend.move_value(a.clone(), b.clone()).await.unwrap(), Some(pair(&a, "2")));
    assert_eq!(backend.move_value(a.clone(), b.clone()).await.unwrap(), None);
    assert_eq!(backend.range(all()).await.unwrap().0, [pair(&b, "2")]);
    backend.put(pair(&a, "4"), false).await.unwrap();
    let both = vec![pair(&a, "4"), pair(&b, "2")];
    assert_eq!(backend.delete_range(all(), true).await.unwrap(), (2, both));
    assert_eq!(backend.delete_range(all(), false).await.unwrap(), (0, vec![]));
}

async fn backend_runs_transactions(bench: Bench) {
    let backend = backend(&bench);
    let batch = Batch {
        when: vec![(b"a".to_vec(), None), (b"b".to_vec(), Some(b"1".to_vec()))],
        success: vec![Step::Put(pair(b"a", "2")), Step::Get(b"a".to_vec()), Step::Delete(b"b".to_vec())],
        failure: vec![Step::Get(b"b".to_vec()), Step::Put(pair(b"b", "1"))],
    };
    assert_eq!(backend.txn(batch.clone()).await.unwrap(), (false, vec![Done::Found(vec![]), Done::Put]));
    assert_eq!(backend.txn(batch.clone()).await.unwrap(), (true, vec![Done::Put, Done::Found(vec![pair(b"a", "2")]), Done::Deleted(1)]));
    assert_eq!(backend.txn(batch).await.unwrap(), (false, vec![Done::Found(vec![]), Done::Put]));
    let many = Batch { success: (0..200_u8).map(|number| Step::Put(pair(&[number], ""))).collect(), ..Batch::default() };
    assert_eq!(backend.txn(many).await.unwrap_err().kind(), ErrorKind::TooManyOperations);
}
