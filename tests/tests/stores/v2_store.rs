//! The v2 store: on real servers, over TLS, with faults, and against servers that are not etcd.
//!
//! All tests are in the module `v2`, so that `--skip v2` leaves them out where the servers have no
//! v2 API (etcd 3.6 and later).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod v2 {
    use etcd_typed::testing::{Builder, Cluster, Etcd};

    mod faults;
    mod hostile;
    mod keys;
    mod over;
    mod tls;
    mod watch;

    /// Starts a server. Panics with instructions if it has no v2 API.
    async fn launch(builder: Builder) -> Etcd {
        let etcd = builder.start().await;
        let _ = etcd.url_v2();
        etcd
    }

    /// Starts three members. Panics with instructions if they have no v2 API.
    async fn cluster() -> Cluster {
        let cluster = Etcd::cluster(3).await;
        let _ = cluster.url_v2();
        cluster
    }
}
