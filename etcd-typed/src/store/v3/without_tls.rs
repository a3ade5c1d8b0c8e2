//! In place of `tls.rs`, without the feature.

use tokio::net::TcpStream;

use super::grpc::Status;
use crate::error::{Error, ErrorKind, Result};
use crate::store::connect::{self, Endpoint};

/// There are no alerts.
pub(super) fn advice(_: &str) -> &'static str {
    ""
}

/// There is none.
#[derive(Clone, Debug)]
pub(super) enum Tls {}

impl Tls {
    pub(super) fn new(_: &connect::Tls, _: &Endpoint) -> Result<Self> {
        Err(Error::new(ErrorKind::Unsupported, "TLS needs the feature `tls` of the crate etcd-typed"))
    }

    #[expect(clippy::unused_async, reason = "as the one that is not empty")]
    pub(super) async fn shake_hands(&self, _: TcpStream) -> Result<TcpStream, Status> {
        match *self {}
    }
}
