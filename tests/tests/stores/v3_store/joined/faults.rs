//! Shared reads while connections and servers fail.

use super::*;

/// A member that cannot reach the majority answers only reads that may be stale.
#[tokio::test]
async fn shared_reads_need_majority() {
    let cluster = Etcd::cluster(3).await;
    let [asked, others @ ..] = cluster.members() else { panic!("three members") };
    let direct = store(&asked.endpoint());
    fill(&direct, 20).await;
    let limited = |limit| {
        let mut options = options([asked.endpoint().as_str()]);
        options.retry.call_timeout = limit;
        V3Store::new(&options).unwrap()
    };
    let (reader, impatient) = (limited(Duration::from_millis(1500)), limited(Duration::from_millis(150)));
    let keys: Vec<Key> = (0..20).map(numbered).collect();
    let joined = async {
        loop {
            // While a majority of the members runs, all reads succeed.
            read_all(&direct, 20).await;
            acquaint(asked, &reader).await;
            let txns = got(asked, "Txn").await;
            others.iter().for_each(Etcd::pause);
            // A read of the impatient client times out soon after the other members have stopped.
            // The remaining member needs longer to notice that it has no leader, and only then
            // refuses reads.
            while read(&impatient, &numbered(0)).await.is_ok() {}
            for reply in join_all(keys.iter().map(|key| read(&reader, key))).await {
                let error = reply.unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{error}");
            }
            others.iter().for_each(Etcd::resume);
            if got(asked, "Txn").await > txns || !joins_reads(asked) {
                break;
            }
        }
    };
    timeout(PATIENCE, joined).await.expect("the reads are joined in time");
}

/// If an endpoint fails, reads that share a request get the same results as separate reads.
#[tokio::test]
async fn reads_behind_hanging_request_use_other_endpoint() {
    let (etcd, _direct) = acquainted(64).await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let mut options = options([proxy.endpoint().as_str(), etcd.endpoint().as_str()]);
    options.retry.read_attempt_timeout = Duration::from_millis(300);
    for mode in [Mode::Stall, Mode::StallAnswers, Mode::Refuse] {
        let store = V3Store::new(&options).unwrap();
        acquaint(&etcd, &store).await;
        proxy.set(mode).await;
        if mode == Mode::Refuse {
            proxy.cut();
        }
        // All reads succeed long before their deadline.
        read_all(&store, 64).await;
        // The client forgets the version of the failed endpoint, and learns the version of the
        // other endpoint.
        acquaint(&etcd, &store).await;
        let (ranges, _) = reads_got(&etcd).await;
        read_all(&store, 64).await;
        assert!(got(&etcd, "Range").await - ranges <= 8 || !joins_reads(&etcd));
        proxy.set(Mode::Pass).await;
    }
}

/// If the reads in flight get no answer, the reads that wait for them are sent after some time.
#[tokio::test]
async fn waiting_reads_are_sent_despite_missing_answers() {
    let (etcd, _direct) = acquainted(64).await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let mut options = options([proxy.endpoint().as_str()]);
    options.retry.call_timeout = 2 * PATIENCE;
    options.retry.read_attempt_timeout = 2 * PATIENCE;
    options.keep_alive_timeout = 2 * PATIENCE;
    let store = Arc::new(V3Store::new(&options).unwrap());
    acquaint(&etcd, &store).await;
    let (ranges, txns) = reads_got(&etcd).await;
    proxy.set(Mode::StallAnswers).await;
    let reads: Vec<_> = (0..20)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { read(&store, &numbered(number)).await })
        })
        .collect();
    let arrive = async {
        loop {
            let (ranges, txns) = (got(&etcd, "Range").await - ranges, got(&etcd, "Txn").await - txns);
            if ranges >= 20 || (ranges >= 1 && txns >= 1) {
                break;
            }
        }
    };
    timeout(PATIENCE / 2, arrive).await.expect("the reads behind the first are sent in time");
    assert!(reads.iter().all(|read| !read.is_finished()));
    proxy.set(Mode::Pass).await;
    for (number, read) in reads.into_iter().enumerate() {
        assert_eq!(read.await.unwrap().unwrap().kvs[0].value, number.to_string());
    }
}

#[tokio::test]
async fn shared_reads_of_hanging_server_time_out() {
    let (etcd, _direct) = acquainted(64).await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let mut options = options([proxy.endpoint().as_str()]);
    options.retry.call_timeout = Duration::from_millis(900);
    options.retry.read_attempt_timeout = Duration::from_millis(250);
    let store = V3Store::new(&options).unwrap();
    for mode in [Mode::Stall, Mode::StallAnswers, Mode::Refuse] {
        acquaint(&etcd, &store).await;
        proxy.set(mode).await;
        if mode == Mode::Refuse {
            proxy.cut();
        }
        let keys: Vec<Key> = (0..64).map(numbered).collect();
        let replies = join_all(keys.iter().map(|key| read(&store, key))).await;
        let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
        for (key, reply) in keys.iter().zip(replies) {
            let error: Error = reply.unwrap_err();
            assert_eq!(error.key(), Some(key));
            *kinds.entry(format!("{:?}", error.kind())).or_default() += 1;
        }
        let expected = if mode == Mode::Refuse { "Unavailable" } else { "Timeout" };
        assert_eq!(kinds.get(expected), Some(&64), "{mode:?}: {kinds:?}");
        // Reads succeed again when the server answers again.
        proxy.set(Mode::Pass).await;
        proxy.cut();
        read_all(&store, 64).await;
    }
}

/// If a shared request is lost, each of its reads is sent again. Writes and watches of the same
/// client are not affected.
#[tokio::test]
async fn cut_connection_fails_no_read() {
    let (etcd, _direct) = acquainted(64).await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let store = store(&proxy.endpoint());
    acquaint(&etcd, &store).await;
    for round in 0..10 {
        proxy.delay(Duration::from_millis(5));
        let (_, ()) = tokio::join!(read_all(&store, 64), async {
            sleep(Duration::from_millis(2 * round)).await;
            proxy.cut();
        });
    }
    proxy.delay(Duration::ZERO);
    // A write that was sent during the last cut is not repeated automatically.
    if let Err(error) = store.commit(put(&numbered(0), "0")).await {
        assert!(error.may_have_applied(), "{error:?}");
        store.commit(put(&numbered(0), "0")).await.unwrap();
    }
    acquaint(&etcd, &store).await;
    let (ranges, _) = reads_got(&etcd).await;
    read_all(&store, 64).await;
    assert!(got(&etcd, "Range").await - ranges <= 8 || !joins_reads(&etcd));
}
