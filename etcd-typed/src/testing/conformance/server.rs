//! Cases about a store's reports about itself and its server.

use super::bench::Bench;
use crate::store::StatsKind;

pub(super) async fn capabilities_are_consistent(bench: &Bench<'_>) {
    let capabilities = bench.capabilities();
    assert!(!capabilities.name.is_empty());
    assert!(capabilities.max_operations >= 1 && capabilities.max_value >= 64 * 1024, "{capabilities:?}");
    assert_eq!(capabilities.transactions, capabilities.max_operations > 1, "{capabilities:?}");
    assert_eq!(capabilities, bench.capabilities(), "they do not change");
}

pub(super) async fn status_describes_this_store(bench: &Bench<'_>) {
    let written = bench.put(&bench.key("a"), "v").await;
    let status = bench.store().status().await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(status.store, bench.capabilities().name);
    assert!(status.version.starts_with(|c: char| c.is_ascii_digit()), "{status:?}");
    assert!(status.revision >= written, "{status:?}, after a write at {written}");
    assert!(status.errors.is_empty(), "{status:?}");
}

pub(super) async fn members_are_listed(bench: &Bench<'_>) {
    let members = bench.store().members().await.unwrap_or_else(|error| panic!("{error:?}"));
    assert!(!members.is_empty());
    for member in &members {
        let hexadecimal = member.id.chars().all(|c| c.is_ascii_hexdigit());
        assert!(!member.id.is_empty() && hexadecimal && !member.name.is_empty(), "{member:?}");
    }
    let status = bench.store().status().await.unwrap_or_else(|error| panic!("{error:?}"));
    // etcd's `grpc-proxy` reports itself instead of the members, as member 0.
    let is_proxied = members.iter().all(|member| member.id == "0");
    if let Some(id) = status.member.as_ref().filter(|_| !is_proxied) {
        assert!(members.iter().any(|member| member.id == *id), "{status:?} is of one of {members:?}");
    }
}

pub(super) async fn statistics_work_or_are_refused(bench: &Bench<'_>) {
    for which in [StatsKind::Store, StatsKind::Member, StatsKind::Leader] {
        match bench.store().stats(which).await {
            Ok(stats) => assert!(!stats.fields.is_empty(), "{which:?}"),
            Err(error) => bench.check_unsupported(&error),
        }
    }
}
