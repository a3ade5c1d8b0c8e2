//! Loads a configuration of 20 fields repeatedly. Each field has its own key.

use std::time::Duration;

use super::repeated;
use super::{Case, Effort, Goal, Server};
use crate::Result;
use crate::payload;
use crate::peers::{ETCD_CLIENT, ETCD_CLIENT_JOINED, ETCD_CLIENT_ONE_BY_ONE, EtcdClient, EtcdTyped, GO, OURS, TONIC, Tonic};

pub(super) const NAME: &str = "load";

pub(super) fn cases(effort: &Effort) -> Vec<Case> {
    let duration = effort.of(Duration::from_millis(250), Duration::from_secs(1));
    let goals = vec![
        Goal::times(10.0, "p50 µs", ETCD_CLIENT_ONE_BY_ONE),
        Goal::times(5.0, "p50 µs", ETCD_CLIENT_JOINED),
        Goal::times(1.0, "p50 µs", ETCD_CLIENT),
        Goal::count(1.0, "messages"),
    ];
    let stage = repeated::stage("load of a struct of 20 fields".to_owned(), "load", goals, |_, _| Ok(()));
    vec![Case {
        peers: &[OURS, ETCD_CLIENT, ETCD_CLIENT_ONE_BY_ONE, ETCD_CLIENT_JOINED, GO, TONIC],
        work: vec![NAME.to_owned(), duration.as_millis().to_string()],
        server: Server { prepare: Some(payload::prepare(payload::fields)), shared: true, ..Server::default() },
        stages: vec![stage],
    }]
}

pub(super) async fn work(peer: &str, address: &str, parameters: &[String]) -> Result<()> {
    let [milliseconds] = parameters else {
        return Err("expected one parameter: milliseconds".into());
    };
    let duration = Duration::from_millis(milliseconds.parse()?);
    match peer {
        OURS => repeated::measure(vec![EtcdTyped::config(address).await?], duration).await,
        ETCD_CLIENT => repeated::measure(vec![EtcdClient::fields(address).await?], duration).await,
        ETCD_CLIENT_ONE_BY_ONE => repeated::measure(vec![EtcdClient::fields_one_by_one(address).await?], duration).await,
        ETCD_CLIENT_JOINED => repeated::measure(vec![EtcdClient::fields_joined(address).await?], duration).await,
        TONIC => repeated::measure(vec![Tonic::fields(address).await?], duration).await,
        _ => Err(format!("unknown peer {peer}").into()),
    }
}
