//! Parses the address of a store into endpoints, credentials and a namespace. Any part of a wrong
//! address may be a password, so no error quotes it.

mod list;
mod options;

pub use self::list::{Addresses, List, Text};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::store::connect::{Credentials, Endpoint};

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// `memory:` or `memory:name`.
    Memory(Option<String>),
    /// The location of a cluster.
    Network(Network),
}

/// The location of a cluster, and how to access it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) protocol: Protocol,
    pub(super) tls: bool,
    pub(super) credentials: Option<Credentials>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) namespace: Key,
}

/// The API version of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    V3,
    V2,
}

const DEFAULT_PORT: u16 = 2379;

const KNOWN: &str = "`etcd://`, `etcds://` (v3, with TLS), `http://`, `https://` (the same), `etcd2://`, `etcd2s://` (v2, with TLS), `memory:`, `memory:name`";

impl Address {
    /// Parses `etcd://[user:password@]host[:port][,host[:port]…][/namespace]` and the other forms
    /// in [`KNOWN`]. Each host may repeat the scheme.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if let Some(name) = text.strip_prefix("memory:") {
            return match name {
                "" => Ok(Self::Memory(None)),
                _ if name.contains(['/', '?', '#', '@']) => Err(invalid("a memory store's name has no `/`, `?`, `#` or `@`")),
                _ => Ok(Self::Memory(Some(name.to_owned()))),
            };
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(invalid(format!("no scheme; known are {KNOWN}; `Client::builder_for` accepts hosts without a scheme")));
        };
        let (protocol, tls) = parse_scheme(scheme)?;
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((userinfo, rest)) => (Some(parse_credentials(userinfo)?), rest),
            None => (None, rest),
        };
        if let Some((_, parameters)) = rest.split_once(['?', '#']) {
            return Err(invalid(options::advice(parameters)));
        }
        let (hosts, path) = split_hosts(rest, (protocol, tls))?;
        let endpoints = (1..).zip(hosts).map(|(at, text)| parse_endpoint(at, text)).collect::<Result<_>>()?;
        let namespace = match path {
            None | Some("") => Key::root(),
            Some(path) => Key::parse(&format!("/{}", percent_decoded(path)?))
                .map_err(|error| invalid(format!("the namespace is not a key: {}", error.reason())))?,
        };
        Ok(Self::Network(Network { protocol, tls, credentials, endpoints, namespace }))
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidUrl, message)
}

fn parse_scheme(scheme: &str) -> Result<(Protocol, bool)> {
    Ok(match scheme.to_ascii_lowercase().as_str() {
        "etcd" | "http" => (Protocol::V3, false),
        "etcds" | "https" => (Protocol::V3, true),
        "etcd2" => (Protocol::V2, false),
        "etcd2s" => (Protocol::V2, true),
        _ => return Err(invalid(format!("unknown scheme; known are {KNOWN}"))),
    })
}

/// Splits `a:1,b:2/namespace`, or `a:1,http://b:2/namespace`, into the hosts and the namespace.
/// `first` is the scheme of the first host.
fn split_hosts(rest: &str, first: (Protocol, bool)) -> Result<(Vec<&str>, Option<&str>)> {
    let mut hosts = Vec::new();
    let mut rest = rest;
    loop {
        let (host, after) = rest.split_at(rest.find([',', '/']).unwrap_or(rest.len()));
        if let (Some(scheme), Some(after)) = (host.strip_suffix(':'), after.strip_prefix("//"))
            && !hosts.is_empty()
        {
            if parse_scheme(scheme)? != first {
                return Err(invalid(format!(
                    "host {} has another scheme than host 1: all hosts of an address have one scheme",
                    hosts.len() + 1
                )));
            }
            let (host, after) = after.split_at(after.find([',', '/']).unwrap_or(after.len()));
            hosts.push(host);
            rest = after;
        } else {
            hosts.push(host);
            rest = after;
        }
        // In `http://a/,http://b`, the slash after `a` does not begin the namespace.
        let next = rest.strip_prefix("/,").filter(|next| next.split(['/', ',']).next().is_some_and(|scheme| scheme.ends_with(':')));
        match next.or_else(|| rest.strip_prefix(',')) {
            Some(next) => rest = next,
            None => return Ok((hosts, rest.strip_prefix('/'))),
        }
    }
}

/// Parses the text before the last `@` of the address. Refuses separators that are not
/// percent-encoded: otherwise a part of the password could be taken for a host, a port or the
/// namespace.
fn parse_credentials(userinfo: &str) -> Result<Credentials> {
    if userinfo.contains(['/', '@', '?', '#']) {
        return Err(invalid(
            "before the `@` is a `/`, `@`, `?` or `#`: if it is in the user or the password, percent-encode it (`%2F`, `%40`, `%3F`, `%23`); \
             an `@` in the namespace is written `%40`",
        ));
    }
    let Some((user, password)) = userinfo.split_once(':') else {
        return Err(invalid("user and password are written `user:password@`; percent-encode `:`, `@` and `/` in them"));
    };
    if user.is_empty() {
        return Err(invalid("the user's name is empty"));
    }
    Ok(Credentials { user: percent_decoded(user)?, password: percent_decoded(password)? })
}

/// Parses a host. `at` is its position in the list, counted from 1, for errors.
fn parse_endpoint(at: usize, text: &str) -> Result<Endpoint> {
    let invalid = |message: &str| invalid(format!("host {at}: {message}"));
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((host, port)) = rest.split_once(']') else {
                return Err(invalid("an IPv6 address ends with `]`"));
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(invalid("the text between `[` and `]` is not an IPv6 address"));
            }
            match (port, port.strip_prefix(':')) {
                ("", _) => (host, None),
                (_, Some(port)) => (host, Some(port)),
                _ => return Err(invalid("after `]` comes `:` and the port")),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(invalid("it is empty; hosts are separated by single commas"));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => match port.parse() {
            Ok(port) if port != 0 && !text.ends_with('+') => port,
            _ => return Err(invalid("after `:` comes a port, 1 to 65535; a user and a password come before an `@`")),
        },
    };
    let endpoint = Endpoint { host: host.to_owned(), port };
    endpoint.check()?;
    Ok(endpoint)
}

fn percent_decoded(text: &str) -> Result<String> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| invalid("a percent-encoded part is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(text: &str) -> Network {
        match Address::parse(text) {
            Ok(Address::Network(network)) => network,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn endpoint(host: &str, port: u16) -> Endpoint {
        Endpoint { host: host.to_owned(), port }
    }

    #[test]
    fn parse_reads_every_part() {
        let address = network("etcds://anna:p%40ss@a.example:1234,b.example,[::1]:5/prod/x");
        assert_eq!((address.protocol, address.tls), (Protocol::V3, true));
        assert_eq!(address.credentials, Some(Credentials { user: "anna".into(), password: "p@ss".into() }));
        assert_eq!(address.endpoints, [endpoint("a.example", 1234), endpoint("b.example", 2379), endpoint("::1", 5)]);
        assert_eq!(address.namespace.as_str(), "/prod/x");
    }

    #[test]
    fn scheme_determines_api_and_tls() {
        for (text, protocol, tls) in [
            ("etcd://h", Protocol::V3, false),
            ("http://h", Protocol::V3, false),
            ("https://h/", Protocol::V3, true),
            ("etcd2://h", Protocol::V2, false),
            ("etcd2s://h", Protocol::V2, true),
        ] {
            let address = network(text);
            assert_eq!((address.protocol, address.tls, address.namespace.is_root()), (protocol, tls, true), "{text}");
        }
        assert_eq!(Address::parse("memory:").ok(), Some(Address::Memory(None)));
        assert_eq!(Address::parse("memory:shared").ok(), Some(Address::Memory(Some("shared".into()))));
    }

    #[test]
    fn hosts_may_repeat_scheme() {
        for (text, namespace) in [
            ("http://a:1,http://b:2", "/"),
            ("http://a:1,b:2", "/"),
            ("etcd://a:1,http://b:2", "/"),
            ("http://a:1/,http://b:2/", "/"),
            ("http://u:p@a:1,HTTP://b:2/x,y", "/x,y"),
        ] {
            let address = network(text);
            assert_eq!(address.endpoints, [endpoint("a", 1), endpoint("b", 2)], "{text}");
            assert_eq!((address.protocol, address.tls, address.namespace.as_str()), (Protocol::V3, false, namespace), "{text}");
        }
        let three = network("etcd2s://[::1]:1,etcd2s://b,etcd2s://c:3/ns");
        assert_eq!(three.endpoints, [endpoint("::1", 1), endpoint("b", 2379), endpoint("c", 3)]);
        for (text, said) in [
            ("http://a:1,https://b:2", "host 2 has another scheme"),
            ("etcd://a,b,etcd2://c", "host 3 has another scheme"),
            ("http://a:1,ftp://b:2", "unknown scheme"),
            ("http://a:1,http://", "empty"),
            ("http://a:1,,http://b:2", "empty"),
            ("http://a:1,http://u:p@b:2", "before the `@`"),
        ] {
            let error = Address::parse(text).expect_err(text);
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn wrong_address_is_refused_with_reason() {
        for (text, said) in [
            ("localhost:2379", "known are"),
            ("redis://h", "known are"),
            ("etcd://h:0", "port"),
            ("etcd://h:x", "port"),
            ("etcd://h:99999", "port"),
            ("etcd://", "empty"),
            ("etcd://a,,b", "empty"),
            ("etcd://h?tls=1", "parameters"),
            ("etcd://anna@h", "user:password"),
            ("etcd://[::1", "IPv6"),
            ("etcd://h//x", "namespace"),
            ("memory:a/b", "name"),
        ] {
            let error = Address::parse(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{text}");
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn error_never_shows_password() {
        for text in [
            "etcd://anna:hunter2@h:x",
            "etcd://anna:hunter2@h/../",
            "redis://anna:hunter2@h",
            "etcd://anna:hunter2@h?x",
            // In these addresses, no `@` follows directly after `user:password`.
            "etcd://anna:hunter2",
            "etcd://hunter2 x",
            "etcd://[hunter2",
            "etcd://[::1]hunter2",
            "etcd://anna:hunter2/x@h",
            "hunter2:x@etcd://h",
            "anna:hunter2@h",
            "memory:anna:hunter2@h",
        ] {
            let error = Address::parse(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn password_with_separator_must_be_percent_encoded() {
        for password in ["hunter2/x", "12345/x", "12345,h2/x", "p@ss", "a?b", "a#b", "/", "@", "1/@", "/12345"] {
            for scheme in ["etcd", "etcds", "etcd2", "http"] {
                let error = Address::parse(&format!("{scheme}://root:{password}@h/ns")).expect_err(password);
                assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{password}");
                assert!(error.to_string().contains("percent-encode it"), "{password}: {error}");
            }
            let encoded = percent_encoding::utf8_percent_encode(password, percent_encoding::NON_ALPHANUMERIC);
            let address = network(&format!("etcd://root:{encoded}@h/ns"));
            assert_eq!(address.credentials, Some(Credentials { user: "root".into(), password: password.into() }));
            assert_eq!(address.endpoints, [endpoint("h", 2379)]);
        }
        assert!(Address::parse("etcd://h/name@space").is_err(), "it may be the end of a password");
        assert_eq!(network("etcd://h/name%40space").namespace.as_str(), "/name@space");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*|(etcd2?s?|http|memory):/?/?[a-z0-9:@,/%\\[\\]?.]*") {
            let _ = Address::parse(&text);
        }

        /// Any text after `user:` may be a part of the password.
        #[test]
        fn error_never_shows_random_password(
            password in "[!-~]{0,6}XYZZY[!-~]{0,6}",
            before in "(etcd2?s?|https?|redis|memory|)(://|:|)root:",
            after in "(@h|@h:x|@h/a|@\\[::1|@h//|@|)(/ns|\\?x|,,|)",
        ) {
            match Address::parse(&format!("{before}{password}{after}")) {
                Err(error) => prop_assert!(!format!("{error} {error:?}").contains("XYZZY"), "{}", error),
                // Without an `@` the text is not recognized as a password, so `Debug` may show it.
                Ok(address) if after.contains('@') => prop_assert!(!format!("{address:?}").contains("XYZZY"), "{:?}", address),
                Ok(_) => {}
            }
        }
    }
}
