//! Maps that are read in several pages.

use super::*;

#[tokio::test]
async fn stream_pages_share_one_revision() {
    let bench = Bench::new();
    let quotas = &bench.app.quotas;
    let before: BTreeMap<String, u64> = (0..100).map(|n| (format!("q{n:03}"), n)).collect();
    quotas.set(&before).await.unwrap();
    let mut pages = quotas.stream_in_pages_of(7);
    let mut read = BTreeMap::new();
    while let Some(item) = pages.next().await {
        let (key, value) = item.unwrap();
        read.insert(key, *value);
        // Keys that the listing has not reached yet are changed, deleted and created.
        let at = read.len();
        quotas.entry(&format!("q{:03}", at + 10)).unwrap().set(&1000).await.unwrap();
        quotas.entry(&format!("q{:03}", at + 11)).unwrap().delete().await.unwrap();
        quotas.entry(&format!("q{:03}x", at + 12)).unwrap().set(&1000).await.unwrap();
    }
    assert_eq!(read, before);
    // If history is compacted between pages, the stream ends with an error.
    let mut pages = quotas.stream_in_pages_of(7);
    pages.next().await.unwrap().unwrap();
    bench.write("/app/limit", "1").await;
    bench.store.faults().compact();
    let mut rest = Vec::new();
    while let Some(item) = pages.next().await {
        rest.push(item.map_err(|error| error.kind()).map(drop));
    }
    assert_eq!(rest.len(), 7);
    assert_eq!(rest.last(), Some(&Err(ErrorKind::HistoryLost)));
}

const ENTRIES: u32 = 60_100;

/// Returns a store with these entries, its counting wrapper, and the map of the entries.
async fn map_of(names: impl Iterator<Item = String>) -> (MemoryStore, CountingStore, EntryMap<String, u32>) {
    let store = MemoryStore::new();
    let puts: Vec<_> = names.map(|name| Op::put(&Key::parse(&format!("/many/{name}")).unwrap(), "1".into())).collect();
    for then in puts.chunks(100) {
        store.commit(Txn::new(then.to_vec())).await.unwrap();
    }
    let counting = CountingStore::new(Arc::new(store.clone()));
    (store, counting.clone(), Client::with_store(counting).entries("/many").unwrap())
}

fn number(number: u32) -> String {
    format!("{number:05}")
}

/// Returns a map with more entries than one page of a read has. Each read takes 50 ms.
async fn map_of_many_pages() -> (MemoryStore, CountingStore, EntryMap<String, u32>) {
    let map = map_of((0..ENTRIES).map(number)).await;
    map.0.faults().delay(Calls::Reads, Duration::from_millis(50));
    map
}

/// Writes the first and the last entry in one transaction, at a time when a read that just started
/// waits for its second page.
async fn write_between_pages(store: &MemoryStore) {
    tokio::time::sleep(Duration::from_millis(75)).await;
    let then = [0, ENTRIES - 1].map(|last| Op::put(&Key::parse(&format!("/many/{}", number(last))).unwrap(), "2".into())).into();
    store.commit(Txn::new(then)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pages_of_map_share_one_revision() {
    let (store, counting, map) = map_of_many_pages().await;
    let begun = tokio::time::Instant::now();
    let (read, ()) = tokio::join!(map.get(), write_between_pages(&store));
    assert!(read.unwrap().into_inner() == (0..ENTRIES).map(|n| (number(n), 1)).collect());
    // One read gets the first page, and four concurrent reads get the others.
    assert_eq!((counting.counts().range, begun.elapsed().as_millis()), (1 + 4, 100));
}

#[tokio::test]
async fn map_with_uneven_names_is_read_completely() {
    let names = || (0..12_000).map(|n| format!("a{n:06}")).chain((0..60_000).map(|n| format!("zone-{n}")));
    let (_, counting, map) = map_of(names()).await;
    let read = map.get().await.unwrap();
    assert!(read.into_inner() == names().map(|name| (name, 1)).collect());
    // The reads: the first page, three bounded parts (two of them empty), and three pages of the
    // last part.
    assert_eq!(counting.counts().range, 1 + 4 + 2);
}

#[tokio::test(start_paused = true)]
async fn map_is_read_again_after_compaction() {
    let (store, counting, map) = map_of_many_pages().await;
    let compact = async {
        write_between_pages(&store).await;
        store.faults().compact();
    };
    let (read, ()) = tokio::join!(map.get(), compact);
    let value = |n| if n == 0 || n == ENTRIES - 1 { 2 } else { 1 };
    assert!(read.unwrap().into_inner() == (0..ENTRIES).map(|n| (number(n), value(n))).collect());
    assert_eq!(counting.counts().range, (1 + 4) + (1 + 4), "the first read's later pages are refused");
}
