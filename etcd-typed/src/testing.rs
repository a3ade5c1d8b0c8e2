//! Test tools: real etcd servers, a proxy that breaks connections, stores that intercept or count
//! calls, and the conformance suite for stores.
//!
//! ```no_run
//! // Compiled and not run: it needs an etcd, which a machine that only builds the docs may not have.
//! # async fn example() {
//! use etcd_typed::testing::{Etcd, Proxy};
//!
//! let mut etcd = Etcd::start().await;
//! let proxy = Proxy::to(etcd.endpoint()).await;
//! let (direct, through_the_proxy) = (etcd.url_v3(), format!("etcd://{}", proxy.endpoint()));
//! proxy.cut();
//! etcd.kill().await;
//! etcd.restart().await;
//! # }
//! ```
//!
//! Every function of this module panics with the reason if it fails. A missing etcd program also
//! fails the test; the test is never skipped.

pub mod conformance;
mod counting;
mod etcd;
mod hooked;
mod proxy;

pub use counting::{CountingStore, Counts};
pub use etcd::{Builder, Cluster, Etcd, TlsFiles};
pub use hooked::{Call, HookedStore, Reply};
pub use proxy::{Mode, Proxy};
