//! What a store on the network is told: endpoints, credentials, TLS, times. Parsed from an address by `client.rs`, used by `v2` and `v3`.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::retry::{RetryPolicy, limit};

/// How to reach a cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// The members that are asked, in order of preference; at least one. All are of one cluster: on v3 an endpoint of another cluster than the first answer
    /// was of is refused (`Server`), and nothing is written there. When all endpoints that answer are of the same other cluster, and they are more than half of the list, the
    /// cluster was restored or made anew: the client moves on to it, watches and views start again from the state there, and guards are lost.
    pub endpoints: Vec<Endpoint>,
    /// User and password, where the server wants some.
    pub credentials: Option<Credentials>,
    /// TLS; none is plain text.
    pub tls: Option<Tls>,
    /// How calls are repeated and how long they may take.
    pub retry: RetryPolicy,
    /// How long a connection may take to be had. Default: 2 s.
    ///
    /// This and every other duration here: zero is refused, and more than 30 years counts as 30 years.
    pub connect_timeout: Duration,
    /// How often a silent connection is checked. Default: 5 s, the shortest that servers allow (server flag `--grpc-keepalive-min-time`).
    pub keep_alive_interval: Duration,
    /// How long the answer to such a check may take before the connection counts as dead. Default: 2 s.
    pub keep_alive_timeout: Duration,
    /// How often a watch that was silent for so long asks the server how far it is, so that its resume point moves along. Default: 60 s.
    pub progress_interval: Duration,
    /// Operations in one transaction (server flag `--max-txn-ops`). Default: 128. Zero is refused.
    pub max_operations: usize,
    /// Bytes of one request (server flag `--max-request-bytes`). Default: 1,572,864, which is 1.5 MiB. The v2 API has limits of its own.
    pub max_request_bytes: usize,
}

impl ConnectOptions {
    /// The defaults, for these endpoints.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            credentials: None,
            tls: None,
            retry: RetryPolicy::default(),
            connect_timeout: Duration::from_secs(2),
            keep_alive_interval: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(2),
            progress_interval: Duration::from_secs(60),
            max_operations: 128,
            max_request_bytes: 1_572_864,
        }
    }

    /// The same options with no duration above 30 years.
    ///
    /// # Errors
    ///
    /// `Invalid` names the option that is zero, with which no call could succeed.
    pub(crate) fn checked(&self) -> Result<Self> {
        if self.max_operations == 0 {
            return Err(Error::new(ErrorKind::Invalid, "`max_operations` is zero: a transaction needs at least one operation"));
        }
        Ok(Self {
            retry: self.retry.checked()?,
            connect_timeout: limit("connect_timeout", self.connect_timeout)?,
            keep_alive_interval: limit("keep_alive interval", self.keep_alive_interval)?,
            keep_alive_timeout: limit("keep_alive timeout", self.keep_alive_timeout)?,
            progress_interval: limit("progress_interval", self.progress_interval)?,
            ..self.clone()
        })
    }
}

/// One member's address for clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// The address in one form: names in small letters, IP addresses as they are shortest.
    #[cfg(any(feature = "v2", feature = "v3"))]
    pub(crate) fn identity(&self) -> String {
        let host = self.host.parse::<std::net::IpAddr>().map_or_else(|_| self.host.to_ascii_lowercase(), |ip| ip.to_string());
        Self { host, port: self.port }.to_string()
    }

    /// Refuses a host that is none. It is not quoted: it may be a password.
    pub(crate) fn check(&self) -> Result<()> {
        // Whatever else a name resolver takes or not, these would change the meaning of an address.
        let is_foreign = |c: char| c.is_whitespace() || c.is_control() || "\\%\"<>^`{|}/?#@[],".contains(c);
        if self.host.is_empty() || self.host.contains(is_foreign) {
            let message = "a host is neither a name nor an IP address; user and password go into the credentials";
            return Err(Error::new(ErrorKind::InvalidUrl, message));
        }
        Ok(())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

/// User and password. `Debug` shows the user alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).field("password", &"***").finish()
    }
}

/// TLS through rustls. `Debug` shows no key.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    /// The certificate authorities that are trusted, PEM; none: the system's.
    pub ca: Option<Vec<u8>>,
    /// The client's certificate chain and its private key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the server's certificate must be for; none: the host of the endpoint.
    pub server_name: Option<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}
