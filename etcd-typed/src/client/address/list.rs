//! Parses lists of addresses, in the forms that configurations use.

use super::{Address, Network, invalid, parse_scheme};
use crate::error::Result;

/// The addresses of one cluster: a text with commas, or an iterator of texts. See
/// [`Client::builder_for`](crate::Client::builder_for).
///
/// `Form` is [`Text`] or [`List`]; the compiler chooses it.
pub trait Addresses<Form> {
    /// Returns the addresses. Each text may contain several addresses, separated by commas.
    fn texts(self) -> Vec<String>;
}

/// Marks [`Addresses`] that are one text.
#[derive(Debug)]
pub enum Text {}

/// Marks [`Addresses`] that are a list of texts.
#[derive(Debug)]
pub enum List {}

impl Addresses<Text> for &str {
    fn texts(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl Addresses<Text> for &String {
    fn texts(self) -> Vec<String> {
        vec![self.clone()]
    }
}

impl Addresses<Text> for String {
    fn texts(self) -> Vec<String> {
        vec![self]
    }
}

impl<I: IntoIterator<Item: AsRef<str>>> Addresses<List> for I {
    fn texts(self) -> Vec<String> {
        self.into_iter().map(|text| text.as_ref().to_owned()).collect()
    }
}

impl Address {
    /// Parses the addresses of one cluster. All schemes must be the same; the scheme also applies
    /// to addresses without a scheme, and the default is `etcd://`. Any address may have the user,
    /// password and namespace. If several addresses have them, they must be equal.
    pub(in crate::client) fn parse_list(texts: &[String]) -> Result<Self> {
        let texts: Vec<String> = texts.iter().map(|text| without_spaces(text)).collect();
        if let [text] = texts.as_slice()
            && text.starts_with("memory:")
        {
            return Self::parse(text);
        }
        if texts.iter().any(|text| text.starts_with("memory:")) {
            return Err(invalid("a list of addresses has a memory store, which is no member of a cluster"));
        }
        let schemes = (1..).zip(&texts).filter_map(|(at, text)| Some((at, scheme(text)?)));
        let schemes = schemes.map(|(at, scheme)| Ok((at, scheme, parse_scheme(scheme).map_err(|error| error.noting(&place(at)))?)));
        let schemes = schemes.collect::<Result<Vec<_>>>()?;
        let first = schemes.first().map_or("etcd", |(_, scheme, _)| *scheme);
        if let Some((at, ..)) = schemes.iter().find(|(_, _, parsed)| Some(parsed) != schemes.first().map(|(_, _, parsed)| parsed)) {
            return Err(invalid(format!("address {at} has another scheme than one before it: all addresses of a list have one scheme")));
        }
        let mut whole: Option<Network> = None;
        for (at, text) in (1..).zip(&texts) {
            let text = if has_scheme(text) { text.clone() } else { format!("{first}://{text}") };
            let Self::Network(network) = Self::parse(&text).map_err(|error| error.noting(&place(at)))? else { continue };
            match &mut whole {
                None => whole = Some(network),
                Some(whole) => whole.add(at, network)?,
            }
        }
        whole.map(Self::Network).ok_or_else(|| invalid("the list of addresses is empty"))
    }
}

impl Network {
    /// Adds the endpoints of another address. `at` is its position in the list, counted from 1.
    fn add(&mut self, at: usize, other: Self) -> Result<()> {
        let differs = |what: &str| invalid(format!("address {at} has another {what} than one before it: a list has one for all"));
        match (&self.credentials, other.credentials) {
            (Some(known), Some(other)) if *known != other => return Err(differs("user or password")),
            (None, Some(other)) => self.credentials = Some(other),
            _ => {}
        }
        if !other.namespace.is_root() {
            if !self.namespace.is_root() && self.namespace != other.namespace {
                return Err(differs("namespace"));
            }
            self.namespace = other.namespace;
        }
        self.endpoints.extend(other.endpoints);
        Ok(())
    }
}

fn place(at: usize) -> String {
    format!("(address {at} of the list)")
}

/// Removes spaces around the address and around its commas. Keeps the spaces inside an address with
/// an `@`, since they may belong to a password.
fn without_spaces(text: &str) -> String {
    let text = text.trim();
    if text.contains('@') {
        return text.to_owned();
    }
    text.split(',').map(str::trim).collect::<Vec<_>>().join(",")
}

fn has_scheme(text: &str) -> bool {
    text.split_once("://").is_some_and(|(before, _)| !before.contains(','))
}

/// Returns the first scheme in the address. Hosts without a scheme may precede it:
/// `a:1,http://b:2`.
fn scheme(text: &str) -> Option<&str> {
    let (before, _) = text.split_once("://")?;
    before.rsplit(',').next()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Credentials, Endpoint, Protocol};
    use super::*;
    use crate::error::ErrorKind;

    fn parse<F>(list: impl Addresses<F>) -> Result<Address> {
        Address::parse_list(&list.texts())
    }

    fn network<F>(list: impl Addresses<F>) -> Network {
        match parse(list) {
            Ok(Address::Network(network)) => network,
            other => panic!("{other:?}"),
        }
    }

    fn hosts(network: &Network) -> Vec<String> {
        network.endpoints.iter().map(Endpoint::to_string).collect()
    }

    #[test]
    fn list_may_be_text_or_iterator() {
        let borrowed = ["http://a:1".to_owned(), "http://b:2".to_owned()];
        for list in [
            network("http://a:1,http://b:2"),
            network("http://a:1, http://b:2"),
            network("a:1,b:2"),
            network("a:1,http://b:2"),
            network("etcd://a:1,b:2"),
            network(["a:1", "b:2"]),
            network(["http://a:1/", "b:2"]),
            network(vec!["a:1".to_owned(), "http://b:2".to_owned()]),
            network(borrowed.iter()),
            network("a:1;b:2".split(';')),
            network(["a:1,b:2"]),
            network(" http://a:1 , b:2 ".to_owned()),
        ] {
            assert_eq!((hosts(&list), list.protocol, list.tls), (vec!["a:1".to_owned(), "b:2".to_owned()], Protocol::V3, false));
        }
        assert_eq!(hosts(&network(["a", "[::1]", "[::1]:5"])), ["a:2379", "[::1]:2379", "[::1]:5"]);
    }

    #[test]
    fn scheme_of_one_address_applies_to_all() {
        let list = network(["a:2379", "https://b:2379"]);
        assert_eq!((hosts(&list), list.tls), (vec!["a:2379".to_owned(), "b:2379".to_owned()], true));
        assert_eq!(network(["a", "etcd2://b"]).protocol, Protocol::V2);
        for mixed in
            [vec!["http://a", "https://b"], vec!["etcd://a", "etcd2://b"], vec!["a,http://b", "https://c"], vec!["http://a,https://b"]]
        {
            let error = parse(mixed.clone()).unwrap_err();
            assert!(error.kind() == ErrorKind::InvalidUrl && error.to_string().contains("another scheme"), "{mixed:?}: {error}");
        }
    }

    #[test]
    fn user_and_namespace_may_be_in_any_address() {
        let list = network(["a", "http://u:p@b/ns", "http://u:p@c/ns"]);
        assert_eq!(list.credentials, Some(Credentials { user: "u".into(), password: "p".into() }));
        assert_eq!((hosts(&list).len(), list.namespace.as_str()), (3, "/ns"));
        for (list, said) in [(["http://u:p@a", "http://u:q@b"], "user or password"), (["a/x", "b/y"], "namespace")] {
            let error = parse(list).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn wrong_list_is_refused_with_reason() {
        for (list, said) in [
            (vec![], "empty"),
            (vec![""], "empty"),
            (vec!["a", ""], "empty"),
            (vec!["a,,b"], "empty"),
            (vec!["a", "b:x"], "address 2"),
            (vec!["a", "redis://b"], "unknown scheme"),
            (vec!["a", "memory:"], "memory"),
            (vec!["a?dial_timeout=3s"], "connect_timeout"),
            (vec!["a", "http://b?ca=x"], "ca_certificate_file"),
        ] {
            let error = parse(list.clone()).unwrap_err();
            assert!(error.kind() == ErrorKind::InvalidUrl && error.to_string().contains(said), "{list:?}: {error}");
        }
        assert_eq!(parse("memory:x").ok(), Some(Address::Memory(Some("x".into()))));
    }

    proptest! {
        #[test]
        fn parsing_a_list_never_panics(texts in proptest::collection::vec("\\PC*|((etcd2?s?|http|memory):/?/?)?[a-z0-9:@,/%\\[\\]?. ]*", 0..4)) {
            let _ = Address::parse_list(&texts);
        }

        #[test]
        fn error_of_list_never_shows_password(password in "[!-~]{0,6}XYZZY[!-~]{0,6}", before in "(etcd://|http://|)", after in "(@h|@h:x|@h/a|@)(\\?x|,,|)") {
            let texts = ["a".to_owned(), format!("{before}root:{password}{after}")];
            match Address::parse_list(&texts) {
                Err(error) => prop_assert!(!format!("{error} {error:?}").contains("XYZZY"), "{}", error),
                Ok(address) => prop_assert!(!format!("{address:?}").contains("XYZZY"), "{:?}", address),
            }
        }
    }
}
