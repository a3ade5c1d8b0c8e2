//! Reads that are cancelled while they share a request.

use super::*;

#[tokio::test]
async fn cancelled_reads_do_not_affect_others() {
    let (etcd, store) = acquainted(64).await;
    let keys: Vec<Key> = (0..20).map(numbered).collect();
    let begin = |number: usize| Box::pin(read(&store, &keys[number]));
    for given_up in 0..8 {
        // The first two reads are in flight, and the others wait.
        let mut reads: Vec<_> = (0..20).map(begin).collect();
        for read in &mut reads {
            assert!(read.now_or_never().is_none());
        }
        drop(reads.remove(given_up));
        for (number, reply) in join_all(reads).await.into_iter().enumerate() {
            let number = if number < given_up { number } else { number + 1 };
            assert_eq!(reply.unwrap().kvs[0].value, number.to_string());
        }
    }
    // A read that was cancelled while it waited is not sent.
    let (ranges, txns) = reads_got(&etcd).await;
    let mut reads: Vec<_> = (0..20).map(begin).collect();
    for read in &mut reads {
        assert!(read.now_or_never().is_none());
    }
    drop(reads.split_off(2));
    assert!(join_all(reads).await.into_iter().all(|reply| reply.is_ok()));
    for _ in 0..5 {
        read_all(&store, 1).await;
    }
    if joins_reads(&etcd) {
        assert_eq!(reads_got(&etcd).await, (ranges + 7, txns));
    }
    // A read that is cancelled in flight makes room for a waiting read.
    for _ in 0..5 {
        let mut reads: Vec<_> = (0..20).map(begin).collect();
        for read in &mut reads {
            assert!(read.now_or_never().is_none());
        }
        tokio::task::yield_now().await;
    }
    read_all(&store, 1).await;
    let (ranges, txns) = reads_got(&etcd).await;
    read_all(&store, 2).await;
    assert_eq!(reads_got(&etcd).await, (ranges + 2, txns));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_cancelled_in_flight_do_not_affect_others() {
    let (etcd, direct) = acquainted(64).await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let store = Arc::new(store(&proxy.endpoint()));
    acquaint(&etcd, &store).await;
    proxy.delay(Duration::from_millis(20));
    for round in 0..6 {
        let reads: Vec<_> = (0..64)
            .map(|number| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { read(&store, &numbered(number)).await })
            })
            .collect();
        sleep(Duration::from_millis(8 * round)).await;
        reads.iter().step_by(2).for_each(|read| read.abort());
        for (number, read) in reads.into_iter().enumerate() {
            match read.await {
                Ok(reply) => assert_eq!(reply.unwrap().kvs[0].value, number.to_string()),
                Err(gone) => assert!(gone.is_cancelled() && number % 2 == 0),
            }
        }
    }
    assert!(etcd.log().lines().all(|line| !line.contains("panic")));
    read_all(&direct, 64).await;
}

/// etcd 3.5.0 to 3.5.6 panics when a client cancels a transaction that only reads while the server
/// performs it. The client sends no such transaction to these versions. Other versions do not
/// panic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_read_transaction_crashes_no_server() {
    const KEYS: usize = 20_000;
    let etcd = Etcd::start().await;
    let store = Arc::new(store(&etcd.endpoint()));
    fill(&store, KEYS).await;
    let all = Op::Get(Span::Below(key("/app")));
    let one = key("/app/000");
    let txn = Txn::new(vec![all.clone()]).compares(vec![Compare::key(&one, Condition::Present)]).otherwise(vec![all]);
    for round in 0..40 {
        let (store, txn) = (Arc::clone(&store), txn.clone());
        let read = tokio::spawn(async move { store.commit(txn).await });
        sleep(Duration::from_millis(round)).await;
        read.abort();
    }
    let answer = timeout(PATIENCE, store.commit(txn)).await.expect("an answer").unwrap();
    assert!(matches!(&answer.results[..], [OpResult::Get(reply)] if reply.kvs.len() == KEYS));
    assert!(etcd.log().lines().all(|line| !line.contains("panic")), "{}", etcd.log());
}
