//! The registry of a distributed inference system. Each instance is stored below a namespace, a
//! component and an id. All instances of a process have one lease.

use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, LiveStatus};

use self::layer::{Instance, Registry};
use super::{Old, until};

/// The layer in the code of the system.
mod layer {
    use std::time::Duration;

    use etcd_typed::{Client, EntryMap, Json, Lease, LiveMap, LiveStatus, Problem, Published, Result};
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Instance {
        pub(super) address: String,
        pub(super) slots: u32,
    }

    /// A namespace, a component and the id of an instance.
    type Path = (String, String, u64);

    pub(super) struct Registry {
        instances: EntryMap<Path, Json<Instance>>,
        lease: Lease,
    }

    impl Registry {
        pub(super) async fn open(client: &Client, ttl: Duration) -> Result<Self> {
            Ok(Self { instances: client.entries("/instances")?.named("instances"), lease: client.lease(ttl).await? })
        }

        /// Registers an instance, which stays until the guard or the process ends.
        pub(super) async fn register(&self, namespace: &str, component: &str, instance: Instance) -> Result<Published<Json<Instance>>> {
            let path = (namespace.to_owned(), component.to_owned(), self.lease.id().get());
            self.instances.entry(&path)?.publish(&Json(instance)).lease(&self.lease).await
        }

        /// Returns a view of the instances of all components.
        pub(super) async fn follow(&self) -> Result<Instances> {
            Ok(Instances(self.instances.live().per_entry().await?))
        }

        /// Waits until the lease of the process is lost. The process then ends or registers again.
        pub(super) async fn lost(&self) -> etcd_typed::Lost {
            self.lease.lost().await
        }

        /// Removes all instances of the process from the registry.
        pub(super) async fn close(self) -> Result<()> {
            self.lease.revoke().await
        }
    }

    pub(super) struct Instances(etcd_typed::Live<LiveMap<Path, Json<Instance>>>);

    impl Instances {
        /// Returns the addresses of a component's instances.
        pub(super) fn of(&self, namespace: &str, component: &str) -> Vec<String> {
            let all = self.0.get();
            let wanted = all.iter().filter(|((ns, name, _), _)| ns == namespace && name == component);
            wanted.map(|(_, Json(instance))| instance.address.clone()).collect()
        }

        pub(super) fn status(&self) -> LiveStatus {
            self.0.status()
        }

        pub(super) fn problems(&self) -> Vec<Problem> {
            self.0.status().problems().to_vec()
        }
    }
}

fn instance(address: &str) -> Instance {
    Instance { address: address.to_owned(), slots: 4 }
}

#[tokio::test]
async fn bad_entry_does_not_stop_inference_registry() {
    let etcd = Etcd::start().await;
    let old = Old(&etcd);
    let client = Client::builder(&etcd.url_v3()).namespace("v1").connect().await.unwrap();
    let ttl = Duration::from_secs(5);
    // Before this process starts, an entry of a newer version and a foreign key exist.
    old.run(&["put", "v1/instances/prod/decode/7", r#"{"addresses":["h:1"],"slots":4}"#]).await;
    old.run(&["put", "v1/instances/50%", "foreign"]).await;
    old.run(&["put", "v1/instances/prod/prefill/8", r#"{"address":"old:1","slots":1}"#]).await;
    let (registry, other) = (Registry::open(&client, ttl).await.unwrap(), Registry::open(&client, ttl).await.unwrap());
    let instances = registry.follow().await.unwrap();
    assert_eq!((instances.of("prod", "prefill"), instances.of("prod", "decode")), (vec!["old:1".to_owned()], vec![]));
    let bad: Vec<_> = instances.problems().into_iter().map(|problem| problem.key.to_string()).collect();
    assert!(matches!(instances.status(), LiveStatus::Partial { .. }) && bad.contains(&"v1/instances/prod/decode/7".to_owned()), "{bad:?}");

    // New instances appear, and the old version reads them.
    let prefill = registry.register("prod", "prefill", instance("a:1")).await.unwrap();
    let decode = registry.register("prod", "decode", instance("a:2")).await.unwrap();
    let _theirs = other.register("prod", "decode", instance("b:2")).await.unwrap();
    until(async || instances.of("prod", "decode").len() == 2 && instances.of("prod", "prefill").len() == 2).await;
    assert!(old.run(&["get", "--prefix", "v1/instances/prod/decode/"]).await.contains(r#"{"address":"b:2","slots":4}"#));
    let leases = old.run(&["lease", "list"]).await;
    assert_eq!(leases.lines().filter(|line| !line.starts_with("found")).count(), 2, "one lease for a process: {leases}");

    // A good entry becomes bad and keeps its last good value. Changes of other entries are still
    // reported.
    old.run(&["put", "v1/instances/prod/prefill/8", "null"]).await;
    prefill.withdraw().await.unwrap();
    until(async || instances.of("prod", "prefill") == ["old:1"]).await;
    // A process that closes its registry disappears from all components at once.
    other.close().await.unwrap();
    until(async || instances.of("prod", "decode") == ["a:2"]).await;
    // The bad entries are deleted or become good, so the view reports no problems.
    old.run(&["del", "v1/instances/50%"]).await;
    old.run(&["put", "v1/instances/prod/decode/7", r#"{"address":"new:1","slots":2}"#]).await;
    old.run(&["del", "v1/instances/prod/prefill/8"]).await;
    until(async || instances.problems().is_empty()).await;
    assert_eq!((instances.of("prod", "decode").len(), instances.of("prod", "prefill").len()), (2, 0));
    // The registry reports that the lease of its process was revoked.
    let id = decode.key().as_str().rsplit('/').next().unwrap().parse::<u64>().unwrap();
    old.run(&["lease", "revoke", &format!("{id:x}")]).await;
    let lost = registry.lost().await;
    assert!(lost.to_string().contains("no longer knows"), "{lost}");
    until(async || !decode.is_published()).await;
}
