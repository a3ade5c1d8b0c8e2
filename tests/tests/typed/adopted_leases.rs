//! Leases that another component granted.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, ErrorKind, LeaseId, LostReason};
use etcd_typed_tests::etcdctl;
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// The shortest time to live that servers grant with default flags.
const TTL: Duration = Duration::from_secs(2);

struct Bench {
    client: Client,
}

impl Bench {
    /// Grants a lease that no client keeps alive. Returns `None` on a store without leases, after a
    /// check that the store refuses the adoption.
    async fn granted(&self) -> Option<LeaseId> {
        self.granted_for(TTL).await
    }

    async fn granted_for(&self, ttl: Duration) -> Option<LeaseId> {
        let id = LeaseId::random();
        if !self.client.store().capabilities().transactions {
            let error = self.client.adopt_lease(id).await.unwrap_err();
            assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("time to live"), "{error}");
            return None;
        }
        self.client.store().grant(id, ttl).await.unwrap();
        Some(id)
    }
}

etcd_typed_tests::on_every_store! { "adopted":
    adopted_lease_is_kept_alive_and_not_revoked
    observed_lease_reports_its_end
    unknown_lease_is_refused
}

async fn adopted_lease_is_kept_alive_and_not_revoked(bench: Bench) {
    let Some(id) = bench.granted().await else { return };
    let key = bench.client.entry::<u32>("/key").unwrap();
    let lease = bench.client.adopt_lease(id).await.unwrap();
    key.set(&1).lease(&lease).await.unwrap();
    sleep(TTL * 3).await;
    assert!(lease.is_held() && lease.id() == id && key.exists().await.unwrap());
    drop(lease);
    assert!(bench.client.store().time_to_live(id).await.unwrap().is_some(), "the lease belongs to the other component");
    timeout(LIMIT, key.wait_for(|value| value.is_none())).await.unwrap().unwrap();

    let id = bench.granted().await.unwrap();
    let lease = bench.client.adopt_lease(id).await.unwrap();
    key.set(&2).lease(&lease).await.unwrap();
    lease.revoke().await.unwrap();
    assert!(!key.exists().await.unwrap());
}

async fn observed_lease_reports_its_end(bench: Bench) {
    let ttl = Duration::from_secs(9);
    let Some(id) = bench.granted_for(ttl).await else { return };
    let lease = bench.client.adopt_lease(id).kept_by_other().await.unwrap();
    // The other component renews the lease for a while.
    for _ in 0..6 {
        sleep(ttl / 4).await;
        bench.client.store().keep_alive(id).await.unwrap();
        assert!(lease.is_held());
    }
    let lost = timeout(LIMIT, lease.lost()).await.unwrap();
    assert!(matches!(lost.reason(), LostReason::Expired | LostReason::Revoked), "{lost}");
}

async fn unknown_lease_is_refused(bench: Bench) {
    if bench.granted().await.is_some() {
        assert_eq!(bench.client.adopt_lease(LeaseId::random()).await.unwrap_err().kind(), ErrorKind::LeaseLost);
        let observed = bench.client.adopt_lease(LeaseId::random()).kept_by_other().await;
        assert_eq!(observed.unwrap_err().kind(), ErrorKind::LeaseLost);
    }
}

#[tokio::test]
async fn lease_of_etcdctl_is_adopted() {
    let etcd = Etcd::start().await;
    let run = |arguments: &[&str]| {
        let output = etcdctl().args(["--endpoints", &etcd.endpoint()]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let granted = run(&["lease", "grant", "2"]);
    let id = granted.split_whitespace().nth(1).unwrap();
    let client = Client::connect(&etcd.url_v3()).await.unwrap();
    let lease = client.adopt_lease(LeaseId::new(u64::from_str_radix(id, 16).unwrap()).unwrap()).await.unwrap();
    run(&["put", "/theirs", "1", &format!("--lease={id}")]);
    client.entry::<u32>("/ours").unwrap().set(&2).lease(&lease).await.unwrap();
    sleep(TTL * 3).await;
    assert!(lease.is_held() && client.entry::<u32>("/theirs").unwrap().exists().await.unwrap());
    run(&["lease", "revoke", id]);
    assert_eq!(timeout(LIMIT, lease.lost()).await.unwrap().reason(), LostReason::Revoked);
    assert!(!client.entry::<u32>("/ours").unwrap().exists().await.unwrap());
}
