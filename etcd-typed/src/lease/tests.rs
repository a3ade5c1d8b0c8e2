use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::client::Client;
use crate::clock::tests::suspend;

const TTL: Duration = Duration::from_secs(10);

#[test]
fn without_a_runtime_there_is_no_lease() {
    let client = Client::connect("memory:").now_or_never().unwrap().unwrap();
    let error = client.lease(TTL).now_or_never().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("within a tokio runtime"), "{error}");
}

#[test]
fn whoever_waits_for_its_end_needs_no_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let lease = runtime.block_on(async { Client::connect("memory:").await.unwrap().lease(TTL).await.unwrap() });
    assert!(lease.lost().now_or_never().is_none());
    drop(runtime);
    assert!(!lease.is_held());
    assert_eq!(lease.lost().now_or_never().unwrap().reason(), LostReason::NotKeptAlive);
}
