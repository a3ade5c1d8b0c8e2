//! Names of locks and elections: any text on v3 and in memory, and a path on v2.

use std::time::Duration;

use etcd_typed::{Client, Error, ErrorKind, Lock, NamedLock, Token};
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a test waits to see that something does not happen.
const WHILE: Duration = Duration::from_millis(200);

/// Names that belong to different locks. The prefix of a lock's queue is the name followed by a
/// slash.
pub(crate) const NAMES: [&str; 20] = [
    "/a",
    "/a/",
    "/a//",
    "a",
    "a/",
    "a/b",
    "/",
    "//",
    "dlock:x",
    " ",
    " a b ",
    "größe/ü",
    "🦀",
    "a@b#c",
    "_hidden",
    ".",
    "/a/../b",
    "%2F",
    "%",
    "a,b",
];
/// Names that cannot be an argument of a tool or one line of its output.
const UNPRINTABLE: [&str; 3] = ["\0", "a\nb", "\u{1b}[0m"];

async fn acquire(lock: &NamedLock) -> Lock {
    timeout(LIMIT, lock.acquire()).await.expect("in time").expect("the lock")
}

async fn any_text_is_a_valid_name(client: Client) {
    let namespace = client.namespace().to_string();
    let namespace = namespace.strip_suffix('/').unwrap_or(&namespace);
    for name in NAMES.into_iter().chain(UNPRINTABLE) {
        let named = client.lock(name);
        let lock = acquire(&named).await;
        assert_eq!(lock.key().as_str(), format!("{namespace}{name}/{}", lock.lease_id()));
        assert!(named.try_acquire().await.unwrap().is_none(), "{name:?}");
        assert_eq!(named.holder().await.unwrap().unwrap().key, *lock.key());
        lock.verify().await.unwrap();
        let entry = client.entry::<String>("/written/under/guard").unwrap();
        entry.set(&name.to_owned()).guarded_by(&lock).await.unwrap();

        // The lock is handed over by the text of its token.
        let fence = lock.fence();
        let token: Token = lock.into_token().to_string().parse().unwrap();
        let token = named.renew(&token, LIMIT).await.unwrap();
        let lock = named.adopt(&token).await.unwrap();
        assert_eq!((lock.fence(), lock.key()), (fence, token.key()));

        // The waiter sees the release by its watch, and checks the queue.
        let waiting = tokio::spawn({
            let named = named.clone();
            async move { acquire(&named).await }
        });
        while named.queue().await.unwrap().len() < 2 {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(!waiting.is_finished());
        named.release_token(&lock.into_token()).await.unwrap();
        let lock = waiting.await.unwrap();
        lock.verify().await.unwrap();
        // Waits until the guard watches its key. The watch must report no change.
        sleep(WHILE).await;
        assert!(lock.is_held());
        entry.set(&name.to_owned()).guarded_by(&lock).await.unwrap();
        lock.release().await.unwrap();
        assert_eq!((named.queue().await.unwrap(), named.strays().await.unwrap()), (vec![], vec![]), "{name:?}");

        // An election with the same name uses the same queue.
        let election = client.election::<String>(name);
        let mut changes = election.observe().await.unwrap();
        assert!(changes.next().await.unwrap().unwrap().is_none());
        let leader = election.campaign(&name.to_owned()).await.unwrap();
        let seen = timeout(LIMIT, changes.next()).await.expect("in time").unwrap().unwrap().unwrap();
        assert_eq!((seen.value.as_str(), &seen.key, seen.fence), (name, leader.key(), leader.fence()));
        assert_eq!(election.leader().await.unwrap().unwrap(), seen);
        assert!(named.try_acquire().await.unwrap().is_none());
        leader.resign().await.unwrap();
        assert!(timeout(LIMIT, changes.next()).await.expect("in time").unwrap().unwrap().is_none());
    }
    assert_eq!(client.lock("").acquire().await.unwrap_err().kind(), ErrorKind::InvalidKey);
}

/// As in Go's `concurrency` package, every key with a lease below the queue's prefix is in the
/// queue, at any depth.
async fn queue_includes_all_deeper_keys(client: Client) {
    for (outer, inner) in [("/a", "/a/"), ("/a", "/a//"), ("/a", "/a/b"), ("a", "a/b/c"), ("/", "//x")] {
        let below = acquire(&client.lock(inner)).await;
        assert!(client.lock(outer).try_acquire().await.unwrap().is_none(), "{outer:?} {inner:?}");
        let waiting = tokio::spawn({
            let outer = client.lock(outer);
            async move { acquire(&outer).await }
        });
        sleep(WHILE).await;
        assert!(!waiting.is_finished());
        below.release().await.unwrap();
        let above = waiting.await.unwrap();
        // The key of the outer lock is not below the prefix of the inner one.
        client.lock(inner).try_acquire().await.unwrap().expect("the inner lock is free").release().await.unwrap();
        above.verify().await.unwrap();
        above.release().await.unwrap();
    }
    for (one, other) in [("/a", "a"), ("/a", "/ab"), ("/", "/a"), ("a", "a "), ("/a/", "/a/b")] {
        let held = acquire(&client.lock(one)).await;
        client.lock(other).try_acquire().await.unwrap().expect("the names are different locks").release().await.unwrap();
        held.release().await.unwrap();
    }
}

mod memory {
    use etcd_typed::Client;

    #[tokio::test(start_paused = true)]
    async fn any_text_is_a_valid_name() {
        super::any_text_is_a_valid_name(Client::connect("memory:").await.unwrap()).await;
        super::any_text_is_a_valid_name(Client::builder("memory:").namespace("/prod").connect().await.unwrap()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn queue_includes_all_deeper_keys() {
        super::queue_includes_all_deeper_keys(Client::connect("memory:").await.unwrap()).await;
    }
}

mod v3 {
    use etcd_typed::Client;
    use etcd_typed::testing::Etcd;

    #[tokio::test]
    async fn any_text_is_a_valid_name() {
        let etcd = Etcd::start().await;
        super::any_text_is_a_valid_name(Client::connect(&etcd.url_v3()).await.unwrap()).await;
        super::any_text_is_a_valid_name(Client::builder(&etcd.url_v3()).namespace("/prod").connect().await.unwrap()).await;
    }

    #[tokio::test]
    async fn queue_includes_all_deeper_keys() {
        let etcd = Etcd::start().await;
        super::queue_includes_all_deeper_keys(Client::connect(&etcd.url_v3()).await.unwrap()).await;
    }
}

#[tokio::test]
async fn v2_refuses_names_that_are_not_paths() {
    let client = Client::connect(&etcd_typed_tests::shared("locks").await.url_v2()).await.unwrap();
    let token: Token = "/x/17@17#17".parse().unwrap();
    for name in ["", "x", "/", "//", "/x//", "/x//y", "/x/../y", "dlock:x", "/x\n"] {
        let lock = client.lock(name);
        let refused = |error: Error| {
            assert_eq!(error.kind(), ErrorKind::InvalidKey, "{name:?}: {error}");
            assert!(name.is_empty() || error.to_string().contains("name it by a path such as `/locks/migrate`, or use etcd v3"), "{error}");
        };
        refused(lock.acquire().await.unwrap_err());
        refused(lock.try_acquire().await.unwrap_err());
        refused(lock.acquire_within(LIMIT).await.unwrap_err());
        refused(lock.holder().await.unwrap_err());
        refused(lock.queue().await.unwrap_err());
        refused(lock.strays().await.unwrap_err());
        refused(lock.adopt(&token).await.unwrap_err());
        refused(lock.renew(&token, LIMIT).await.unwrap_err());
        refused(lock.release_token(&token).await.unwrap_err());
        refused(client.election::<String>(name).leader().await.unwrap_err());
    }
    // A path may end with a slash.
    let _lock = acquire(&client.lock("/paths/x/")).await;
    assert!(client.lock("/paths/x").try_acquire().await.unwrap().is_none());
}
