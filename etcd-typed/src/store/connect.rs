//! The options of a store on the network: endpoints, credentials, TLS and timeouts. `client.rs`
//! parses them from an address; `v2` and `v3` use them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::retry::{RetryPolicy, limit};

/// How to reach a cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// The members to ask, in order of preference; at least one. All must belong to one cluster.
    ///
    /// On v3, the first answer fixes the cluster. An endpoint of another cluster is refused with
    /// `Server`, and nothing is written there. If all endpoints that answer belong to the same
    /// other cluster, and they are more than half of the list, the cluster was restored or created
    /// anew. The client then moves on to it, watches and views start again from its state, and
    /// guards are lost.
    pub endpoints: Vec<Endpoint>,
    /// User and password, if the server requires them.
    pub credentials: Option<Credentials>,
    /// TLS. `None` connects in plain text.
    pub tls: Option<Tls>,
    /// How calls are retried and how long they may take.
    pub retry: RetryPolicy,
    /// The time limit for establishing a connection, and at most 95 % of
    /// [`RetryPolicy::read_attempt_timeout`]. Default: 2 s, of which the default policy allows 1.9 s.
    ///
    /// For this and every other duration here, zero is refused, and more than 30 years counts as 30
    /// years.
    pub connect_timeout: Duration,
    /// How long a connection must be silent before it is checked. Default: 5 s, the shortest
    /// interval that servers allow (server flag `--grpc-keepalive-min-time`).
    pub keep_alive_interval: Duration,
    /// How long the answer to this check may take before the connection counts as dead. Default: 2
    /// s.
    pub keep_alive_timeout: Duration,
    /// How long a watch must be silent before it asks the server for its current revision. The
    /// answer advances the revision from which the watch would resume. Default: 60 s.
    pub progress_interval: Duration,
    /// The maximum number of operations in one transaction (server flag `--max-txn-ops`). Default:
    /// 128. Zero is refused.
    pub max_operations: usize,
    /// The maximum size of one request in bytes (server flag `--max-request-bytes`). Default:
    /// 1,572,864, which is 1.5 MiB. The v2 API has limits of its own.
    pub max_request_bytes: usize,
}

impl ConnectOptions {
    /// Returns the default options for these endpoints.
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

    /// Returns the same options with every duration limited to 30 years.
    ///
    /// # Errors
    ///
    /// `Invalid` if an option is zero, since no call could succeed with it. The message contains
    /// the option's name.
    pub(crate) fn checked(&self) -> Result<Self> {
        if self.max_operations == 0 {
            return Err(Error::new(ErrorKind::Invalid, "`max_operations` is zero: a transaction needs at least one operation"));
        }
        let retry = self.retry.checked()?;
        // If both limits ended at the same time, it would be chance whether a read reports why it
        // has no connection.
        let longest = retry.read_attempt_timeout.mul_f64(0.95);
        Ok(Self {
            connect_timeout: limit("connect_timeout", self.connect_timeout)?.min(longest),
            retry,
            keep_alive_interval: limit("keep_alive interval", self.keep_alive_interval)?,
            keep_alive_timeout: limit("keep_alive timeout", self.keep_alive_timeout)?,
            progress_interval: limit("progress_interval", self.progress_interval)?,
            ..self.clone()
        })
    }
}

/// The address at which one member accepts clients. `Display` and `FromStr` use its text, such as
/// `10.0.0.7:2379` or `[::1]:2379`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A host name or an IP address. An IPv6 address has no brackets here.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// Returns the address in a normalised form: host names in lower case, IP addresses in their
    /// shortest notation.
    #[cfg(any(feature = "v2", feature = "v3"))]
    pub(crate) fn identity(&self) -> String {
        let host = self.host.parse::<std::net::IpAddr>().map_or_else(|_| self.host.to_ascii_lowercase(), |ip| ip.to_string());
        Self { host, port: self.port }.to_string()
    }

    /// Refuses an invalid host. The message does not quote the host, because it may be a password.
    pub(crate) fn check(&self) -> Result<()> {
        // A name resolver may accept these characters, but they would change the meaning of an
        // address.
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

/// Parses `host:port`.
///
/// # Errors
///
/// `InvalidUrl` if the host is not valid, or the port is missing or not a number. The message does
/// not quote the text, because it may contain a password.
impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        let (host, port) = parsed.ok_or_else(|| Error::new(ErrorKind::InvalidUrl, "an endpoint is a host and a port: `10.0.0.7:2379`"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains(':') {
            return Err(Error::new(ErrorKind::InvalidUrl, "an IPv6 address needs brackets: `[::1]:2379`"));
        }
        let endpoint = Self { host: bare.unwrap_or(host).to_owned(), port };
        endpoint.check()?;
        Ok(endpoint)
    }
}

/// User and password. `Debug` shows only the user.
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

/// TLS options, used with rustls. `Debug` shows no key.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    /// The trusted certificate authorities, as PEM. `None` trusts those of the system.
    pub ca: Option<Vec<u8>>,
    /// A file with the trusted certificate authorities, which replaces `ca`. It is read when the
    /// store is created and again for each connection.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate chain and its private key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Files with the client's certificate chain and its private key, which replace `identity`.
    /// They are read when the store is created and again for each connection.
    pub identity_files: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must be valid for. `None` is the host of the
    /// endpoint.
    pub server_name: Option<String>,
    /// A configuration of the caller, which replaces all other options. Only `server_name` may be
    /// set beside it, and only on v3.
    #[cfg(feature = "tls")]
    pub config: Option<RustlsConfig>,
}

/// A configuration of rustls. Two are equal if they are the same `Arc`.
#[cfg(feature = "tls")]
#[derive(Clone)]
pub struct RustlsConfig(pub std::sync::Arc<rustls::ClientConfig>);

#[cfg(feature = "tls")]
impl PartialEq for RustlsConfig {
    fn eq(&self, other: &Self) -> bool {
        std::sync::Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(feature = "tls")]
impl Eq for RustlsConfig {}

/// Shows nothing of the configuration, which may contain a key.
#[cfg(feature = "tls")]
impl fmt::Debug for RustlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RustlsConfig").finish_non_exhaustive()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.is_some())
            .field("ca_file", &self.ca_file)
            .field("identity", &self.identity.is_some())
            .field("identity_files", &self.identity_files)
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_parsed_as_printed() {
        for text in ["10.0.0.7:2379", "[::1]:1", "db.example:65535"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for nonsense in ["", "host", ":1", "::1:2379", "host:65536", "user:pw@host:1", "a b:1", "host:"] {
            assert_eq!(nonsense.parse::<Endpoint>().unwrap_err().kind(), ErrorKind::InvalidUrl, "{nonsense:?}");
        }
    }

    #[test]
    fn connection_attempt_ends_before_read_attempt() {
        let checked = |connect_timeout| {
            let options = ConnectOptions { connect_timeout, ..ConnectOptions::new(Vec::new()) };
            options.checked().unwrap().connect_timeout
        };
        assert_eq!(checked(Duration::from_millis(300)), Duration::from_millis(300));
        for longer in [Duration::from_secs(2), Duration::MAX] {
            assert_eq!(checked(longer), Duration::from_millis(1900));
        }
    }
}
