//! What the tests of several files need.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_debug_implementations,
    reason = "a test fails by panicking, and prints none of these"
)]

pub mod certificates;

/// Makes each case, an `async fn(Bench)`, a test on each store: `on_every_store! { "typed": case case }`. `Bench` is the file's own, with a field `client`: of a
/// store of its own in memory, else with the namespace `/typed-case` of a server that all tests of the file share.
#[macro_export]
macro_rules! on_every_store {
    ($namespace:literal: $($case:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $case() {
                let client = etcd_typed::Client::builder("memory:").namespace(concat!("/", $namespace)).connect().await.unwrap();
                super::$case(super::Bench { client }).await;
            })*
        }
        $crate::on_every_store! { @server v3 url_v3 $namespace: $($case)* }
        $crate::on_every_store! { @server v2 url_v2 $namespace: $($case)* }
    };
    (@server $store:ident $url:ident $namespace:literal: $($case:ident)*) => {
        mod $store {
            $(#[tokio::test]
            async fn $case() {
                let address = etcd_typed::testing::Etcd::shared().await.$url();
                let namespace = concat!("/", $namespace, "-", stringify!($case));
                let client = etcd_typed::Client::builder(&address).namespace(namespace).connect().await.unwrap();
                super::$case(super::Bench { client }).await;
            })*
        }
    };
}

/// The example of the README is compiled and run, so that it stays true.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub mod readme {}
