//! Replaces `tls.rs` when the feature `tls` is off.

use tokio::net::TcpStream;

use super::grpc::Status;
use crate::error::{Error, ErrorKind, Result};
use crate::store::connect::{self, Endpoint};

/// Returns no advice, because there are no TLS alerts.
pub(super) fn advice(_: &str) -> &'static str {
    ""
}

/// TLS settings, which cannot exist without the feature.
#[derive(Clone, Debug)]
pub(super) enum Tls {}

impl Tls {
    pub(super) fn new(_: &connect::Tls, _: &Endpoint) -> Result<Self> {
        Err(Error::new(ErrorKind::Unsupported, "TLS needs the feature `tls` of the crate etcd-typed"))
    }

    #[expect(clippy::unused_async, reason = "same signature as with the feature")]
    pub(super) async fn shake_hands(&self, _: TcpStream) -> Result<TcpStream, Status> {
        match *self {}
    }
}
