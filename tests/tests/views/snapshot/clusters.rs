//! A view refuses a file that a view of another cluster saved, even for the same directory and
//! struct.

use etcd_typed::RetryPolicy;
use etcd_typed::testing::{CountingStore, Etcd};

use super::*;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Limits {
    rate: u32,
}

#[tokio::test(start_paused = true)]
async fn file_of_another_memory_store_is_refused() {
    let (one, other) = (Bench::new(), Bench::new());
    one.put(&[("rate", "1")]).await;
    keep::<Limits>(&one.client, &one.path()).await;
    other.store.faults().stop();
    let refused = refusal(view::<Limits>(&other.client, &one.path()).await);
    assert!(refused.contains("cluster"), "{refused}");

    // Another client of the same store, through a wrapper, may use the file.
    one.store.faults().stop();
    let wrapped = Client::with_store(CountingStore::new(one.client.store().clone()));
    assert_eq!(view::<Limits>(&wrapped, &one.path()).await.unwrap().get().rate, 1);

    // The other server answers, but stores an invalid value.
    other.store.faults().start();
    other.put(&[("rate", "many")]).await;
    let error = view::<Limits>(&other.client, &one.path()).await.map(drop).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("cluster"), "{error}");
}

fn client(url: &str) -> Client {
    let retry = RetryPolicy::new().call_timeout(Duration::from_millis(500));
    Client::builder(url).retry(retry).connect_lazy().unwrap()
}

/// Saves a file with one server and starts views from the file with other addresses, first while no
/// server answers, then with another server that answers.
async fn with_servers(scheme: &str) {
    let (mut one, other) = (Etcd::start().await, Etcd::start().await);
    let files = TempDir::new().unwrap();
    let path = files.path().join("view.json");
    let url = |endpoints: &[&str]| format!("{scheme}://{}", endpoints.join(","));
    let port = |etcd: &Etcd| etcd.endpoint().rsplit_once(':').unwrap().1.to_owned();
    let (here, there) = (one.endpoint(), other.endpoint());
    let dir = client(&url(&[&here])).dir::<Limits>("/app").unwrap();
    dir.set(&Limits { rate: 1 }).non_atomic().await.unwrap();
    keep::<Limits>(&client(&url(&[&here])), &path).await;
    one.terminate().await;

    // No server listens at this address.
    let refused = refusal(view::<Limits>(&client(&url(&["127.0.0.1:1"])), &path).await);
    assert!(refused.contains(&here) && refused.contains("127.0.0.1:1"), "{refused}");
    // The file contains the server's IP address. A host name that resolves to this address counts
    // as another server.
    refusal(view::<Limits>(&client(&url(&[&format!("localhost:{}", port(&one))])), &path).await);
    for known in [vec![here.as_str()], vec!["127.0.0.1:1", here.as_str()]] {
        assert_eq!(view::<Limits>(&client(&url(&known)), &path).await.unwrap().get().rate, 1, "{known:?}");
    }
    // User and password are not part of the comparison.
    let with_password = client(&format!("{scheme}://root:hunter2@{here}"));
    assert_eq!(view::<Limits>(&with_password, &path).await.unwrap().get().rate, 1);
    assert!(!fs::read_to_string(&path).unwrap().contains("hunter2"));

    // If a server answers, the cluster IDs are compared.
    let invalid = client(&url(&[&there])).entry::<String>("/app/rate").unwrap();
    invalid.set(&"many".to_owned()).await.unwrap();
    let error = view::<Limits>(&client(&url(&[&there, &here])), &path).await.map(drop).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("cluster"), "{error}");
}

#[tokio::test]
async fn file_of_another_v3_cluster_is_refused() {
    with_servers("etcd").await;
}

#[tokio::test]
async fn file_of_another_v2_cluster_is_refused() {
    with_servers("etcd2").await;
}
