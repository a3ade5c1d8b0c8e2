//! Fault F19: users, passwords and tokens, on servers whose tokens expire after 3 s.

use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::connect::Credentials;
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Event, Range, Span, Store, Watch, WatchFrom, WatchItem};
use etcd_typed::testing::Etcd;
use etcd_typed::{Error, ErrorKind, LeaseId, Revision};
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::raw::Admin;
use super::{PATIENCE, key, metric_of, options, put, store, write};

/// Starts a server with users. Its simple tokens expire after 3 s without use.
async fn server() -> (Etcd, Admin) {
    let etcd = Etcd::builder().flag("--auth-token-ttl", "3").start().await;
    let admin = Admin::of(&etcd.endpoint());
    admin.enable_auth().await;
    (etcd, admin)
}

fn as_user(etcd: &Etcd, user: &str, password: &str) -> V3Store {
    let mut options = options([etcd.endpoint().as_str()]);
    options.credentials = Some(Credentials { user: user.to_owned(), password: password.to_owned() });
    V3Store::new(&options).unwrap()
}

fn anna(etcd: &Etcd) -> V3Store {
    as_user(etcd, "anna", "secret")
}

async fn logins(etcd: &Etcd) -> f64 {
    metric_of(
        etcd,
        r#"grpc_server_handled_total{grpc_code="OK",grpc_method="Authenticate",grpc_service="etcdserverpb.Auth",grpc_type="unary"}"#,
    )
    .await
}

/// Waits until a token with a lifetime of 3 s has expired. If the token were still valid, a test
/// would see too few `logins`.
async fn let_token_expire() {
    sleep(Duration::from_millis(4500)).await;
}

async fn refused(store: &V3Store, kind: ErrorKind) -> Error {
    let error = store.commit(put(&key("/anna/a"), "1")).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(!error.may_have_applied(), "{error}");
    error
}

#[tokio::test]
async fn expired_token_is_renewed_once() {
    let (etcd, _) = server().await;
    let store = anna(&etcd);
    let a = key("/anna/a");
    // The first calls of a client share one login, as do concurrent calls after a token has
    // expired.
    join_all((0..20).map(|_| store.range(Range::of(Span::Key(a.clone()))))).await.into_iter().for_each(|reply| assert!(reply.is_ok()));
    assert_eq!(logins(&etcd).await, 1.0);
    for round in 1..=2 {
        let_token_expire().await;
        let reads = join_all((0..20).map(|_| store.range(Range::of(Span::Key(a.clone())))));
        let writes = join_all((0..20).map(|_| store.commit(put(&a, "1"))));
        let (reads, writes) = tokio::join!(reads, writes);
        reads.into_iter().for_each(|reply| drop(reply.unwrap()));
        writes.into_iter().for_each(|reply| drop(reply.unwrap()));
        assert_eq!(logins(&etcd).await, 1.0 + f64::from(round));
    }
}

#[tokio::test]
async fn lease_calls_renew_expired_token() {
    let (etcd, _) = server().await;
    let store = anna(&etcd);
    let lease = LeaseId::random();
    store.grant(lease, Duration::from_secs(30)).await.unwrap();
    let_token_expire().await;
    store.keep_alive(lease).await.unwrap();
    assert!(store.time_to_live(lease).await.unwrap().is_some());
    store.revoke(lease).await.unwrap();
    assert_eq!(store.keep_alive(lease).await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

#[tokio::test]
async fn watches_survive_expired_token() {
    let (etcd, _) = server().await;
    let store = anna(&etcd);
    let a = key("/anna/a");
    let span = Span::Below(key("/anna"));
    let first = write(&store, &a, "0").await;
    let watch = |from| Watch::new(span.clone(), from);
    let mut old = store.watch(watch(WatchFrom::Listed(Revision::new(first)))).await.unwrap();
    let_token_expire().await;
    // Since then, no call has renewed the token.
    let mut new = store.watch(watch(WatchFrom::Listed(Revision::new(first)))).await.unwrap();
    write(&store, &a, "1").await;
    for stream in [&mut old, &mut new] {
        match timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap() {
            WatchItem::Batch(batch) => match &batch.events[..] {
                [Event::Put { kv, .. }] => assert_eq!(kv.value, Bytes::from("1")),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn call_without_permission_is_refused() {
    let (etcd, _) = server().await;
    let store = anna(&etcd);
    let theirs = key("/other/a");
    let error = store.commit(put(&theirs, "1")).await.unwrap_err();
    assert_eq!((error.kind(), error.key(), error.may_have_applied()), (ErrorKind::PermissionDenied, Some(&theirs), false));
    let error = store.range(Range::of(Span::Key(theirs.clone()))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let error = store.watch(Watch::new(Span::Below(key("/other")), WatchFrom::Listed(Revision::new(1)))).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    // Other calls of the client still succeed.
    write(&store, &key("/anna/a"), "1").await;
}

#[tokio::test]
async fn wrong_credentials_fail_at_once() {
    let (etcd, _) = server().await;
    refused(&as_user(&etcd, "anna", "wrong"), ErrorKind::Unauthenticated).await;
    refused(&as_user(&etcd, "nobody", "secret"), ErrorKind::Unauthenticated).await;
    let error = refused(&store(&etcd.endpoint()), ErrorKind::Unauthenticated).await;
    assert!(error.to_string().contains("give user and password"), "{error}");
    let error = refused(&as_user(&etcd, "anna", "gr8-wrong"), ErrorKind::Unauthenticated).await;
    assert!(!format!("{error} {error:?}").contains("gr8-wrong"), "G5: {error:?}");
    for credentials in [Some("wrong"), None] {
        let store = credentials.map_or_else(|| store(&etcd.endpoint()), |password| as_user(&etcd, "anna", password));
        let watch = Watch::new(Span::Key(key("/anna/a")), WatchFrom::Listed(Revision::new(1)));
        let error = store.watch(watch).await.err().unwrap();
        // Old servers report a missing token as a missing permission.
        assert!(matches!(error.kind(), ErrorKind::Unauthenticated | ErrorKind::PermissionDenied), "{error}");
    }
}

#[tokio::test]
async fn client_survives_disabling_and_enabling_authentication() {
    let (etcd, admin) = server().await;
    let store = anna(&etcd);
    let a = key("/anna/a");
    write(&store, &a, "1").await;
    admin.disable_auth().await;
    write(&store, &a, "2").await;
    admin.enable_auth_again().await;
    write(&store, &a, "3").await;
    // A client with credentials can also use a server without authentication.
    admin.disable_auth().await;
    write(&anna(&etcd), &a, "4").await;
}

#[tokio::test]
async fn old_password_fails_at_next_login() {
    let (etcd, admin) = server().await;
    let store = anna(&etcd);
    write(&store, &key("/anna/a"), "1").await;
    admin.as_root().await.pair("UserChangePassword", "anna", "other").await;
    let_token_expire().await;
    refused(&store, ErrorKind::Unauthenticated).await;
    admin.as_root().await.pair("UserChangePassword", "anna", "secret").await;
    write(&store, &key("/anna/a"), "2").await;
}
