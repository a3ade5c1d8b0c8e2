//! Keys that other clients put into a queue, with names that this library does not use. The tests
//! write these keys to a real v3 server through etcd's JSON API, without this library.

use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, LeaseId, Lock, NamedLock, Token};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a test waits to see that something does not happen.
const WHILE: Duration = Duration::from_millis(200);

struct Bench {
    etcd: &'static Etcd,
    client: Client,
    name: &'static str,
}

impl Bench {
    async fn of(name: &'static str) -> Self {
        let etcd = etcd_typed_tests::shared("locks").await;
        Self { etcd, client: Client::connect(&etcd.url_v3()).await.unwrap(), name }
    }

    fn lock(&self) -> NamedLock {
        self.client.lock(self.name)
    }

    fn key(&self, name: &[u8]) -> Vec<u8> {
        [self.name.as_bytes(), b"/", name].concat()
    }

    async fn call(&self, path: &str, body: &str) -> String {
        let answer = self.etcd.call(path, body).await;
        assert!(answer.contains("header"), "{path} {body}: {answer}");
        answer
    }

    async fn grant(&self, id: i64) -> i64 {
        self.call("/v3/lease/grant", &format!(r#"{{"ID": "{id}", "TTL": "600"}}"#)).await;
        id
    }

    async fn put(&self, name: &[u8], lease: i64) {
        self.call("/v3/kv/put", &format!(r#"{{"key": "{}", "value": "eA==", "lease": "{lease}"}}"#, base64(&self.key(name)))).await;
    }

    async fn delete(&self, name: &[u8]) {
        self.call("/v3/kv/deleterange", &format!(r#"{{"key": "{}"}}"#, base64(&self.key(name)))).await;
    }

    async fn waits(&self) -> JoinHandle<Lock> {
        let (lock, before) = (self.lock(), self.lock().queue().await.unwrap().len());
        let waiting = tokio::spawn(async move { timeout(LIMIT, lock.acquire()).await.expect("in time").unwrap() });
        while self.lock().queue().await.unwrap().len() == before {
            sleep(Duration::from_millis(5)).await;
        }
        sleep(WHILE).await;
        assert!(!waiting.is_finished(), "the waiter got the lock");
        waiting
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |word: u32, place: usize| char::from(DIGITS[(word >> (18 - 6 * place) & 63) as usize]);
    let of = |chunk: &[u8]| {
        let word = (0..3).fold(0, |word, at| word << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        (0..4).map(move |place| if place <= chunk.len() { digit(word, place) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(of).collect()
}

#[tokio::test]
async fn v3_leased_key_of_any_name_is_in_queue() {
    let bench = Bench::of("/foreign/names").await;
    let lease = bench.grant(7001).await;
    let names = [
        &b"3392796194549682947"[..],
        b"4F",
        b"not a number",
        b"sub/7001",
        b"/",
        b"/x",
        b"x/",
        b"_hidden",
        b"0",
        b"-1",
        b" ",
        "ü".as_bytes(),
        b"\0",
        b"\xff\xfe",
    ];
    for name in names {
        bench.put(name, lease).await;
        assert!(bench.lock().try_acquire().await.unwrap().is_none(), "{name:?}");
        let holder = bench.lock().holder().await.unwrap().unwrap();
        assert_eq!((holder.key.as_bytes(), holder.lease.get(), holder.info.as_str()), (&bench.key(name)[..], 7001, "x"), "{name:?}");
        assert_eq!(bench.lock().strays().await.unwrap(), []);
        let candidates = bench.client.election::<String>(bench.name).candidates().await.unwrap();
        assert_eq!(candidates[0].key.as_bytes(), bench.key(name));
        let waiting = bench.waits().await;
        bench.delete(name).await;
        waiting.await.unwrap().release().await.unwrap();

        // A foreign key that is written later does not hold the lock. Its token contains the key,
        // by which the test deletes it.
        let ours = bench.lock().try_acquire().await.unwrap().expect("the lock is free");
        bench.put(name, lease).await;
        ours.verify().await.unwrap();
        let theirs = bench.lock().queue().await.unwrap().pop().unwrap();
        assert_eq!(theirs.key.as_bytes(), bench.key(name));
        let token: Token = theirs.token().to_string().parse().unwrap();
        assert_eq!(token, theirs.token());
        bench.client.store().commit(delete(&token)).await.unwrap();
        assert_eq!(bench.lock().queue().await.unwrap().len(), 1, "{name:?}");
        ours.release().await.unwrap();
    }
}

fn delete(token: &Token) -> etcd_typed::store::Txn {
    etcd_typed::store::Txn::new(vec![etcd_typed::store::Op::delete(token.key())])
}

#[tokio::test]
async fn v3_foreign_key_is_released_by_its_token() {
    let bench = Bench::of("/foreign/tokens").await;
    for (name, lease) in [(&b"123"[..], 7002), (b"\xff", 7003), (b"sub/x", -7004)] {
        let lease = bench.grant(lease).await;
        bench.put(name, lease).await;
        let token: Token = bench.lock().holder().await.unwrap().unwrap().token().to_string().parse().unwrap();
        let waiting = bench.waits().await;
        bench.lock().release_token(&token).await.unwrap();
        waiting.await.unwrap().release().await.unwrap();
    }
}

/// etcd lets a client choose any number as a lease id.
#[tokio::test]
async fn v3_negative_lease_ids_are_accepted() {
    let bench = Bench::of("/foreign/negative").await;
    for id in [-1, i64::MIN, i64::MAX] {
        let lease = bench.grant(id).await;
        bench.put(b"x", lease).await;
        let holder = bench.lock().holder().await.unwrap().expect("the key has a lease");
        assert_eq!(holder.lease.get(), id.cast_unsigned());
        let waiting = bench.waits().await;
        bench.client.store().revoke(holder.lease).await.unwrap();
        waiting.await.unwrap().release().await.unwrap();
    }
}

/// Keys that one transaction creates have the same create revision. Go's client would consider each
/// of them the first in the queue.
#[tokio::test]
async fn v3_waiter_waits_for_all_keys_of_transaction() {
    let bench = Bench::of("/foreign/ties").await;
    let lease = bench.grant(7010).await;
    let put = |name: &str| format!(r#"{{"request_put": {{"key": "{}", "lease": "{lease}"}}}}"#, base64(&bench.key(name.as_bytes())));
    let names = ["b", "d", "a", "c"];
    bench.call("/v3/kv/txn", &format!(r#"{{"success": [{}]}}"#, names.map(put).join(", "))).await;
    let mut waiting = bench.waits().await;
    let queue = bench.lock().queue().await.unwrap();
    let keys: Vec<_> = queue.iter().map(|holder| holder.key.as_str().rsplit('/').next().unwrap()).collect();
    assert_eq!(keys[..4], ["a", "b", "c", "d"]);
    let leader = bench.client.election::<String>(bench.name).leader().await.unwrap().unwrap();
    assert_eq!(leader.key, queue[0].key);
    for name in ["d", "a", "c"] {
        bench.delete(name.as_bytes()).await;
        assert!(timeout(WHILE, &mut waiting).await.is_err(), "the waiter does not wait for the keys after {name}");
    }
    bench.delete(b"b").await;
    waiting.await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn v3_keys_without_lease_are_strays() {
    let bench = Bench::of("/foreign/strays").await;
    let names = [&b"README"[..], b"beef", b"sub/x", b"\xff"];
    for name in names {
        bench.put(name, 0).await;
    }
    let lock = timeout(LIMIT, bench.lock().acquire()).await.expect("in time").unwrap();
    let mut strays: Vec<_> = names.iter().map(|name| bench.key(name)).collect();
    strays.sort();
    let found: Vec<_> = bench.lock().strays().await.unwrap().iter().map(|key| key.as_bytes().to_vec()).collect();
    assert_eq!(found, strays);
    assert_eq!(bench.lock().queue().await.unwrap().len(), 1);
    lock.release().await.unwrap();
}

/// Calls the server's lock service with this lease. The call returns when it has acquired the lock.
/// The lock is released when the lease ends.
fn service(bench: &Bench, id: i64) -> JoinHandle<String> {
    let (etcd, name) = (bench.etcd, base64(bench.name.as_bytes()));
    tokio::spawn(async move { etcd.call("/v3/lock/lock", &format!(r#"{{"name": "{name}", "lease": "{id}"}}"#)).await })
}

#[tokio::test]
async fn v3_server_lock_service_shares_queue() {
    for name in ["/foreign/service", "/foreign/service/", "service"] {
        let bench = Bench::of(name).await;
        let lease = bench.grant(7020).await;
        timeout(LIMIT, service(&bench, lease)).await.expect("in time").unwrap();
        assert_eq!(bench.lock().holder().await.unwrap().unwrap().lease, LeaseId::new(7020).unwrap());
        let waiting = bench.waits().await;
        bench.call("/v3/lease/revoke", r#"{"ID": "7020"}"#).await;
        let ours = waiting.await.unwrap();

        let lease = bench.grant(7021).await;
        let theirs = service(&bench, lease);
        while bench.lock().queue().await.unwrap().len() < 2 {
            sleep(Duration::from_millis(5)).await;
        }
        sleep(WHILE).await;
        assert!(!theirs.is_finished(), "{name}");
        ours.release().await.unwrap();
        timeout(LIMIT, theirs).await.expect("in time").unwrap();
        bench.call("/v3/lease/revoke", r#"{"ID": "7021"}"#).await;
    }
}
