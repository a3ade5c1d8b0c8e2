//! Views that start before their real server starts.

use super::*;

fn lazy(url: &str) -> Client {
    let retry = RetryPolicy::new().call_timeout(Duration::from_millis(500));
    Client::builder(url).retry(retry).connect_lazy().unwrap()
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Small {
    rate: u32,
    #[etcd(secret, allow_debug)]
    token: Option<String>,
}

/// A real server stops, a program starts without the server, and the server returns on the same
/// port. Later the server stops again and loses all data.
async fn view_starts_before_server(url: fn(&Etcd) -> String) {
    let mut etcd = Etcd::start().await;
    let files = TempDir::new().unwrap();
    let path = files.path().join("small.json");
    let client = lazy(&url(&etcd));
    let dir = client.dir::<Small>("/later").unwrap();
    dir.rate.set(&1).await.unwrap();
    dir.token.set(&SECRETS[0].to_owned()).await.unwrap();
    let live = dir.live().or_snapshot(&path).await.unwrap();
    let kept = live.get().revision();
    until_kept(&path, kept).await;
    drop((live, client));
    etcd.terminate().await;

    let client = lazy(&url(&etcd));
    let dir = client.dir::<Small>("/later").unwrap();
    let none = dir.live().or_snapshot(files.path().join("none")).await.unwrap_err();
    assert!(none.is_retryable() && none.to_string().contains("nothing to start from"), "{none}");
    let mut live = soon(dir.live().or_snapshot(&path)).await.unwrap();
    assert_eq!((live.get().rate, live.get().token.clone(), live.revision()), (1, None, kept));
    assert!(matches!(reported_error(&live), Some(ErrorKind::Unavailable | ErrorKind::Timeout)), "{:?}", live.status());

    etcd.restart().await;
    assert_eq!(soon(live.changed()).await.unwrap().token.as_deref(), Some(SECRETS[0]));
    until_live(&live).await;
    let written = dir.rate.set(&2).await.unwrap();
    assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().rate, 2);
    assert_eq!(live.rewound(), None);
    for _ in 0..20 {
        dir.rate.set(&3).await.unwrap();
    }
    let written = dir.rate.set(&4).await.unwrap();
    soon(live.wait_for_revision(written)).await.unwrap();
    until_kept(&path, written).await;
    drop((live, client));
    etcd.terminate().await;

    let client = lazy(&url(&etcd));
    let dir = client.dir::<Small>("/later").unwrap();
    let mut live = soon(dir.live().or_snapshot(&path)).await.unwrap();
    assert_eq!((live.get().rate, live.revision()), (4, written));
    etcd.wipe().await;
    let anew = dir.rate.set(&5).await.unwrap();
    assert_eq!(soon(live.changed()).await.unwrap().rate, 5);
    until_live(&live).await;
    let rewound = live.rewound().expect("the view reports that the revision went back");
    assert!(rewound.from == written && rewound.to <= anew && live.revision() < written, "{rewound:?}");
}

#[tokio::test]
async fn view_starts_before_v3_server() {
    view_starts_before_server(Etcd::url_v3).await;
}

#[tokio::test]
async fn view_starts_before_v2_server() {
    view_starts_before_server(Etcd::url_v2).await;
}

#[tokio::test]
async fn refused_login_never_falls_back_to_disk() {
    // A low bcrypt cost, because on a busy machine a login with the default cost takes longer than
    // these calls may.
    let mut etcd = Etcd::builder().flag("--bcrypt-cost", "4").start().await;
    let files = TempDir::new().unwrap();
    let path = files.path().join("small.json");
    {
        let dir = lazy(&etcd.url_v3()).dir::<Small>("/login").unwrap();
        dir.rate.set(&1).await.unwrap();
        let live = dir.live().or_snapshot(&path).await.unwrap();
        until_kept(&path, live.get().revision()).await;
    }
    for (call, body) in [
        ("user/add", r#"{"name": "root", "password": "root"}"#),
        ("role/add", r#"{"name": "root"}"#),
        ("user/grant", r#"{"user": "root", "role": "root"}"#),
        ("user/add", r#"{"name": "anna", "password": "secret"}"#),
        ("enable", "{}"),
    ] {
        let answer = etcd.call(&format!("/v3/auth/{call}"), body).await;
        assert!(answer.contains("header"), "{call}: {answer}");
    }
    let endpoint = etcd.endpoint();
    let view = |login: &str| lazy(&format!("etcd://{login}{endpoint}")).dir::<Small>("/login").unwrap().live().or_snapshot(&path);
    for (login, kinds) in [
        ("", &[ErrorKind::Unauthenticated, ErrorKind::PermissionDenied][..]),
        ("root:wrong@", &[ErrorKind::Unauthenticated]),
        ("nobody:root@", &[ErrorKind::Unauthenticated]),
        // This user can log in, but may read nothing.
        ("anna:secret@", &[ErrorKind::PermissionDenied]),
    ] {
        let error = soon(view(login)).await.unwrap_err();
        assert!(kinds.contains(&error.kind()), "{login}: {error}");
    }
    assert_eq!(soon(view("root:root@")).await.unwrap().get().rate, 1);

    // While the server is stopped, the view starts from disk. When the server is back and refuses
    // the login, the view reports the refusal.
    etcd.terminate().await;
    let live = soon(view("root:wrong@")).await.unwrap();
    assert!(matches!(reported_error(&live), Some(ErrorKind::Unavailable | ErrorKind::Timeout)), "{:?}", live.status());
    etcd.restart().await;
    soon(async {
        while reported_error(&live) != Some(ErrorKind::Unauthenticated) {
            sleep(TICK).await;
        }
    })
    .await;
    assert_eq!(live.get().rate, 1);
}

#[test]
fn example_starts_without_server() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_start_without_a_server")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = shown.lines().collect();
    let degraded = r#"without a server: Checkout { rate_limit: 250, banner: Some("Sale!"), token: None } (degraded)"#;
    let back = r#"the server is back: Checkout { rate_limit: 300, banner: Some("Sale!"), token: Some(***) } (live)"#;
    assert!(lines.contains(&degraded) && lines.contains(&back), "{shown}");
    assert!(lines.iter().any(|line| line.starts_with("a view without a file: /prod/checkout: unavailable")), "{shown}");
}
