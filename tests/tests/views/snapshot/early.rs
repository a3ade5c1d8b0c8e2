//! A view with a file does not wait until the read from the server times out. The clients of these
//! tests would wait for an hour.

use etcd_typed::testing::{Etcd, Mode, Proxy};
use etcd_typed::{Cause, LiveStatus, RetryPolicy};

use super::*;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Rate {
    rate: u32,
}

fn patient(address: &str) -> Client {
    let retry = RetryPolicy::new().call_timeout(Duration::from_secs(3600));
    Client::builder(address).retry(retry).connect_lazy().unwrap()
}

fn starts_from_file(live: &Live<Rate>) -> bool {
    matches!(live.status(), LiveStatus::Degraded { cause: Cause::Snapshot(_), .. })
}

async fn unreachable_server_does_not_delay_start(scheme: &str) {
    let etcd = Etcd::start().await;
    let files = TempDir::new().unwrap();
    let path = files.path().join("rate.json");
    let proxy = Proxy::to(etcd.endpoint()).await;
    let address = format!("{scheme}://{}", proxy.endpoint());
    let client = patient(&address);
    client.dir::<Rate>("/app").unwrap().set(&Rate { rate: 1 }).non_atomic().await.unwrap();
    keep::<Rate>(&client, &path).await;
    for mode in [Mode::Refuse, Mode::Stall] {
        proxy.set(mode).await;
        proxy.cut();
        let mut live = view::<Rate>(&patient(&address), &path).await.unwrap();
        assert!(starts_from_file(&live) && live.get().rate == 1, "{mode:?}: {}", live.status());
        // The view shows the server's state as soon as the server answers.
        proxy.set(Mode::Pass).await;
        proxy.cut();
        while starts_from_file(&live) {
            soon(live.changed()).await.unwrap();
        }
        // Without a usable file, the view waits for the server.
        proxy.set(mode).await;
        proxy.cut();
        let (client, none) = (patient(&address), files.path().join(format!("none-{mode:?}.json")));
        let waiting = tokio::spawn(async move { view::<Rate>(&client, &none).await });
        sleep(Duration::from_secs(4)).await;
        assert!(!waiting.is_finished());
        proxy.set(Mode::Pass).await;
        proxy.cut();
        assert_eq!(soon(waiting).await.unwrap().unwrap().get().rate, 1);
    }
}

#[tokio::test]
async fn unreachable_v3_server_does_not_delay_start() {
    unreachable_server_does_not_delay_start("etcd").await;
}

#[tokio::test]
async fn unreachable_v2_server_does_not_delay_start() {
    unreachable_server_does_not_delay_start("etcd2").await;
}
