//! Guards, streams and calls while users, roles and passwords change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_typed::testing::{Etcd, Proxy};
use etcd_typed::{Client, Election, Entry, EntryChanges, ErrorKind, LeaderChanges, Live, Lock, LostReason, Published};
use etcd_typed_tests::certificates::Files;
use etcd_typed_tests::waiting::soon;
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::metric_of;
use super::raw::Admin;

/// The kind of tokens that the server issues.
#[derive(Clone, Copy, Debug)]
enum Tokens {
    Simple,
    /// JSON Web Tokens. Each change of users or roles invalidates all of them.
    Jwt,
    /// JSON Web Tokens that expire after this time, whether they are used or not.
    JwtFor(Duration),
}

/// A server with the user `anna`, who may read and write below `/anna`.
struct Bench {
    etcd: Etcd,
    admin: Admin,
    _files: Files,
}

impl Bench {
    async fn new(tokens: Tokens) -> Self {
        let files = Files::new();
        // The tests only count logins, so a login may be cheap.
        let mut etcd = Etcd::builder().flag("--bcrypt-cost", "4");
        let ttl = match tokens {
            Tokens::Simple => None,
            Tokens::Jwt => Some(Duration::from_secs(600)),
            Tokens::JwtFor(ttl) => Some(ttl),
        };
        if let Some(ttl) = ttl {
            let key = files.put("key", b"known to the server alone");
            etcd = etcd.flag("--auth-token", &format!("jwt,priv-key={},sign-method=HS256,ttl={ttl:?}", key.display()));
        }
        let etcd = etcd.start().await;
        let admin = Admin::of(&etcd.endpoint());
        admin.enable_auth().await;
        Self { etcd, admin, _files: files }
    }

    async fn client(&self, endpoint: &str) -> Client {
        Client::connect(&format!("etcd://anna:secret@{endpoint}")).await.unwrap()
    }

    /// Changes a user or a role.
    async fn change(&self, call: &'static str, first: &str, second: &str) {
        self.admin.as_root().await.pair(call, first, second).await;
    }

    /// Returns the number of logins that clients have requested.
    async fn logins(&self) -> f64 {
        let name = r#"grpc_server_started_total{grpc_method="Authenticate",grpc_service="etcdserverpb.Auth",grpc_type="unary"}"#;
        metric_of(&self.etcd, name).await
    }
}

/// One object of each kind that watches keys.
struct Watchers {
    entry: Entry<u64>,
    changes: EntryChanges<u64>,
    live: Live<Option<u64>>,
    election: Election<String>,
    leaders: LeaderChanges<String>,
    published: Published<u64>,
    service: Entry<u64>,
    lock: Lock,
}

impl Watchers {
    /// Starts all watchers with the client `watching`. The client `acting` later makes the changes
    /// that the watchers must see.
    async fn begin(watching: &Client, acting: &Client) -> Self {
        let entry = |client: &Client, key| client.entry::<u64>(key).unwrap();
        let watched = entry(watching, "/anna/entry");
        watched.set(&0).await.unwrap();
        let mut leaders = watching.election("/anna/election").observe().await.unwrap();
        assert!(leaders.next().await.unwrap().unwrap().is_none());
        let watchers = Self {
            entry: entry(acting, "/anna/entry"),
            changes: watched.watch().await.unwrap(),
            live: watched.live().await.unwrap(),
            election: acting.election("/anna/election"),
            leaders,
            published: entry(watching, "/anna/service").publish(&1).await.unwrap(),
            service: entry(acting, "/anna/service"),
            lock: watching.lock("/anna/lock").acquire().await.unwrap(),
        };
        // The guard starts its watch after a moment.
        sleep(Duration::from_secs(1)).await;
        watchers
    }

    /// Checks that all watchers see changes that are made from now on.
    async fn go_on(mut self, acting: &Client) {
        self.entry.set(&2).await.unwrap();
        let change = soon(self.changes.next()).await.expect("no end").expect("no error");
        assert_eq!(change.new, Some(2));
        soon(async {
            while **self.live.get() != Some(2) {
                self.live.changed().await.unwrap();
            }
        })
        .await;

        let leader = self.election.campaign(&"me".to_owned()).await.unwrap();
        let seen = soon(self.leaders.next()).await.expect("no end").expect("no error").expect("a leader");
        assert_eq!(seen.fence, leader.fence());

        self.service.delete().await.unwrap();
        soon(self.service.wait_for(|value| value == Some(&1))).await.unwrap();
        soon(async {
            while !self.published.is_published() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;

        assert!(self.lock.is_held());
        acting.directory("/anna/lock").unwrap().delete_recursive().await.unwrap();
        let other = acting.lock("/anna/lock").acquire().await.unwrap();
        assert_eq!(soon(self.lock.lost()).await.reason(), LostReason::KeyDeleted);
        assert!(!self.lock.is_held() && other.is_held());
    }
}

#[tokio::test]
async fn guards_and_streams_survive_user_changes() {
    let bench = Bench::new(Tokens::Jwt).await;
    let proxy = Proxy::to(bench.etcd.endpoint()).await;
    let acting = bench.client(&bench.etcd.endpoint()).await;
    let watchers = Watchers::begin(&bench.client(&proxy.endpoint()).await, &acting).await;
    bench.change("UserAdd", "unrelated", "secret").await;
    proxy.cut();
    watchers.go_on(&acting).await;
}

/// Fault F19: a JWT expires at a fixed time, even while it is in use.
#[tokio::test]
async fn token_expiring_in_use_causes_no_error() {
    let ttl = Duration::from_secs(3);
    let bench = Bench::new(Tokens::JwtFor(ttl)).await;
    let (watching, acting) = (bench.client(&bench.etcd.endpoint()).await, bench.client(&bench.etcd.endpoint()).await);
    let watchers = Watchers::begin(&watching, &acting).await;
    let entry = acting.entry::<u64>("/anna/calls").unwrap();
    let (before, begun) = (bench.logins().await, Instant::now());
    let mut calls = 0;
    while begun.elapsed() < 3 * ttl {
        entry.set(&calls).await.unwrap();
        assert_eq!(entry.get().await.unwrap().as_deref(), Some(&calls));
        calls += 1;
        sleep(Duration::from_millis(10)).await;
    }
    let logins = bench.logins().await - before;
    println!("{calls} rounds of calls, {logins} logins of two clients in three lives of a token");
    // Each client logs in once in each token lifetime. It may log in once more for each of its
    // connections that finds the token expired at the same moment.
    assert!((2.0..=20.0).contains(&logins), "{logins}");
    watchers.go_on(&acting).await;
}

#[tokio::test]
async fn guards_and_streams_survive_temporarily_revoked_permission() {
    for tokens in [Tokens::Simple, Tokens::Jwt] {
        let bench = Bench::new(tokens).await;
        let proxy = Proxy::to(bench.etcd.endpoint()).await;
        let acting = bench.client(&bench.etcd.endpoint()).await;
        let watchers = Watchers::begin(&bench.client(&proxy.endpoint()).await, &acting).await;
        bench.change("UserRevokeRole", "anna", "anna").await;
        proxy.cut();
        sleep(Duration::from_secs(2)).await;
        assert_eq!(watchers.entry.get().await.unwrap_err().kind(), ErrorKind::PermissionDenied, "{tokens:?}: the right is revoked");
        bench.change("UserGrantRole", "anna", "anna").await;
        watchers.go_on(&acting).await;
    }
}

#[tokio::test]
async fn guards_and_streams_survive_temporarily_wrong_password() {
    let bench = Bench::new(Tokens::Simple).await;
    let proxy = Proxy::to(bench.etcd.endpoint()).await;
    let watching = bench.client(&proxy.endpoint()).await;
    let acting = bench.client(&bench.etcd.endpoint()).await;
    let watchers = Watchers::begin(&watching, &acting).await;
    bench.change("UserChangePassword", "anna", "other").await;
    proxy.cut();
    sleep(Duration::from_secs(2)).await;
    let read = watching.entry::<u64>("/anna/entry").unwrap().get().await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Unauthenticated, "the password is wrong");
    bench.change("UserChangePassword", "anna", "secret").await;
    watchers.go_on(&acting).await;
}

#[tokio::test]
async fn guard_without_permission_for_key_is_lost() {
    let bench = Bench::new(Tokens::Simple).await;
    let proxy = Proxy::to(bench.etcd.endpoint()).await;
    let client = bench.client(&proxy.endpoint()).await;
    let lock = client.lock("/anna/lock").ttl(Duration::from_secs(3)).acquire().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    bench.change("UserRevokeRole", "anna", "anna").await;
    proxy.cut();
    // Current servers also refuse to keep a lease alive if the user has no right to its keys.
    let reason = soon(lock.lost()).await.reason();
    assert!(matches!(reason, LostReason::Unverified | LostReason::Expired), "{reason}");
}

#[tokio::test]
async fn permission_error_includes_key_and_operation() {
    let bench = Bench::new(Tokens::Simple).await;
    bench.admin.as_root().await.let_read("anna", "/readable").await;
    let client = bench.client(&bench.etcd.endpoint()).await;
    let entry = |key: &str| client.entry::<u64>(key).unwrap();
    let (own, readable, other) = (entry("/anna/a"), entry("/readable/r"), entry("/other/o"));
    let root = Client::connect(&format!("etcd://root:root@{}", bench.etcd.endpoint())).await.unwrap();
    for key in ["/readable/r", "/other/o"] {
        root.entry::<u64>(key).unwrap().set(&1).await.unwrap();
    }
    let mut set_all = client.transaction().write(own.set(&1));
    for number in 0..40 {
        set_all = set_all.write(entry(&format!("/anna/{number}")).set(&1));
    }
    let condition = client.transaction().expect(&other, etcd_typed::Expect::Absent).write(own.set(&1));
    let cases = [
        (other.get().await.map(drop), "/other/o", "may not read this key"),
        (other.set(&1).await.map(drop), "/other/o", "may not write this key"),
        (readable.set(&1).await.map(drop), "/readable/r", "may not write this key"),
        (readable.compare_and_swap(etcd_typed::Expect::value(&1), &2).await.map(drop), "/readable/r", "may not write this key"),
        (readable.modify(|_| Some(3)).await.map(drop), "/readable/r", "may not write this key"),
        (readable.delete().await.map(drop), "/readable/r", "may not delete this key"),
        (set_all.write(readable.set(&1)).await.map(drop), "/readable/r", "may not write this key"),
        (condition.await.map(drop), "/other/o", "may not read this key"),
        (client.directory("/other").unwrap().list_recursive().await.map(drop), "/other", "may not read the keys below"),
        (client.directory("/readable").unwrap().delete_recursive().await.map(drop), "/readable", "may not delete"),
        (other.watch().await.map(drop), "/other/o", "may not read this key"),
        (client.entries::<u64, u64>("/other").unwrap().watch().await.map(drop), "/other", "may not read the keys below"),
        (client.lock("/readable/lock").acquire().await.map(drop), "/readable/lock", "may not write this key"),
    ];
    for (outcome, key, words) in cases {
        let error = outcome.expect_err(words);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.key().is_some_and(|named| named.as_str().starts_with(key)), "{key}: {error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.contains(&bench.etcd.endpoint()), "{words}: {text}");
        assert_eq!(text.matches("permission denied").count(), 1, "{text}");
    }
}

#[tokio::test]
async fn lost_lock_has_server_refusal_as_cause() {
    for (call, second, cause) in [
        ("UserChangePassword", "other", ErrorKind::Unauthenticated),
        ("UserDelete", "", ErrorKind::Unauthenticated),
        ("UserRevokeRole", "anna", ErrorKind::PermissionDenied),
    ] {
        let bench = Bench::new(Tokens::Simple).await;
        let proxy = Proxy::to(bench.etcd.endpoint()).await;
        let client = bench.client(&proxy.endpoint()).await;
        let lock = client.lock("/anna/lock").ttl(Duration::from_secs(3)).acquire().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        bench.change(call, "anna", second).await;
        proxy.cut();
        let lost = soon(lock.lost()).await;
        assert_eq!((lost.reason(), lost.cause().map(etcd_typed::Error::kind)), (LostReason::Unverified, Some(cause)), "{call}: {lost}");
        assert!(!lost.to_string().contains("no answer"), "{call}: {lost}");
    }
}

/// A task that adds roles again and again.
struct Churn {
    changes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Churn {
    fn of(endpoint: &str) -> Self {
        let changes = Arc::<AtomicU64>::default();
        let (endpoint, counted) = (endpoint.to_owned(), Arc::clone(&changes));
        let task = tokio::spawn(async move {
            for number in 0.. {
                // A token is valid only until the next change.
                Admin::of(&endpoint).as_root().await.pair("RoleAdd", &format!("role-{number}"), "").await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { changes, task }
    }

    fn end(self) -> u64 {
        self.task.abort();
        self.changes.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_succeed_while_users_keep_changing() {
    let bench = Bench::new(Tokens::Jwt).await;
    let client = bench.client(&bench.etcd.endpoint()).await;
    let churn = Churn::of(&bench.etcd.endpoint());
    let until = Instant::now() + Duration::from_secs(5);
    let callers = (0..8).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let entry = client.entry::<u64>(&format!("/anna/{number}")).unwrap();
            let mut calls = 0_u64;
            while Instant::now() < until {
                entry.set(&calls).await.unwrap();
                assert_eq!(entry.get().await.unwrap().as_deref(), Some(&calls));
                let mut changes = entry.watch().await.unwrap();
                entry.set(&(calls + 1)).await.unwrap();
                assert_eq!(soon(changes.next()).await.unwrap().unwrap().new, Some(calls + 1));
                calls += 1;
            }
            calls
        })
    });
    let calls: u64 = join_all(callers).await.into_iter().map(|calls| calls.expect("no call fails")).sum();
    let changes = churn.end();
    println!("{calls} rounds of calls, {changes} changes of users and roles");
    assert!(calls > 8 && changes > 20, "{calls} {changes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_waiting_calls_cause_few_logins() {
    let bench = Bench::new(Tokens::Simple).await;
    let client = bench.client(&bench.etcd.endpoint()).await;
    bench.change("UserChangePassword", "anna", "other").await;
    let before = bench.logins().await;
    let recovered = Arc::<AtomicU64>::default();
    let refused = Arc::<AtomicU64>::default();
    let callers = Vec::from_iter((0..64).map(|_| {
        let (client, recovered, refused) = (client.clone(), Arc::clone(&recovered), Arc::clone(&refused));
        tokio::spawn(async move {
            let entry = client.entry::<u64>("/anna/entry").unwrap();
            while let Err(error) = entry.get().await {
                assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
            recovered.fetch_add(1, Ordering::Relaxed);
        })
    }));
    sleep(Duration::from_secs(8)).await;
    let logins = bench.logins().await - before;
    let answers = refused.load(Ordering::Relaxed);
    println!("{logins} logins, {answers} answers to 64 callers in 8 s");
    assert_eq!(recovered.load(Ordering::Relaxed), 0);
    // The pauses between logins double: the first seven add up to 2 s, and each later pause is at
    // least a second.
    assert!((4.0..20.0).contains(&logins), "{logins}");
    assert!(answers >= 64, "every caller gets the refusal: {answers}");
    bench.change("UserChangePassword", "anna", "secret").await;
    soon(join_all(callers)).await.into_iter().for_each(|caller| caller.unwrap());
}
