//! The v2 store over TLS: which certificates the store trusts, and its errors when the server's or
//! the client's certificate is not trusted.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::connect::{ConnectOptions, Endpoint, Tls};
use etcd_typed::store::v2::V2Store;
use etcd_typed::store::{Op, Range, Span, Store, Txn, Watch, WatchFrom};
use etcd_typed::testing::{Etcd, Mode, Proxy, TlsFiles};
use etcd_typed::{ErrorKind, Key, Result, Revision};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};

use super::launch;

/// A certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// Creates a certificate for these names. Returns the certificate and its private key.
    fn sign(&self, names: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

/// Temporary files that are deleted at the end of the test.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("etcd-typed-v2-tls-{}-{:x}", std::process::id(), rand()));
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn rand() -> u64 {
    etcd_typed::LeaseId::random().get()
}

fn store(etcd: &Etcd, tls: Option<Tls>) -> Result<V2Store> {
    let mut options = ConnectOptions::new(vec![Endpoint { host: "127.0.0.1".to_owned(), port: etcd.port() }]);
    options.tls = tls;
    // How long the store repeats requests to an unavailable server.
    options.retry.call_timeout = Duration::from_secs(1);
    V2Store::new(options)
}

fn trusting(ca: &Authority) -> Tls {
    let mut tls = Tls::default();
    tls.ca = Some(ca.pem());
    tls
}

async fn put(store: &V2Store) -> Result<Revision> {
    let key = Key::parse("/a").unwrap();
    let txn = Txn::new(vec![Op::put(&key, Bytes::from_static(b"v"))]);
    Ok(store.commit(txn).await?.revision)
}

/// Checks that a write and a read fail with the same kind of error, and that the write was not
/// sent. Returns the kind.
async fn refusal(store: Result<V2Store>) -> ErrorKind {
    let store = store.expect("a store");
    let error = put(&store).await.expect_err("no TLS");
    assert!(!error.may_have_applied(), "{error:?}");
    let read = store.range(Range::of(Span::Below(Key::root()))).await.expect_err("no TLS");
    assert_eq!(read.kind(), error.kind(), "{error:?} {read:?}");
    error.kind()
}

#[tokio::test]
async fn server_certificate_needs_trusted_authority_and_name() {
    let (files, authority) = (Files::new(), Authority::new());
    let (certificate, key) = authority.sign(&["127.0.0.1", "etcd.test"]);
    let server = TlsFiles { cert: files.put("cert", &certificate), key: files.put("key", &key), client_ca: None };
    let etcd = launch(Etcd::builder().tls(server)).await;

    let good = store(&etcd, Some(trusting(&authority))).unwrap();
    let start = put(&good).await.unwrap();
    let watched = Watch::new(Span::Below(Key::root()), WatchFrom::Listed(start));
    assert!(good.watch(watched).await.is_ok());
    let named = |name: &str| {
        let mut tls = trusting(&authority);
        tls.server_name = Some(name.to_owned());
        store(&etcd, Some(tls))
    };
    put(&named("etcd.test").unwrap()).await.unwrap();
    assert_eq!(refusal(named("other.test")).await, ErrorKind::Tls);
    assert_eq!(refusal(store(&etcd, Some(trusting(&Authority::new())))).await, ErrorKind::Tls);
    // The system does not trust the authority.
    assert_eq!(refusal(store(&etcd, Some(Tls::default()))).await, ErrorKind::Tls);
    // Only one side uses TLS. The server closes the connection as a failing server would, so the
    // store probes which protocol the server speaks.
    assert_eq!(put(&store(&etcd, None).unwrap()).await.unwrap_err().kind(), ErrorKind::Tls);
    let plain = launch(Etcd::builder()).await;
    assert_eq!(refusal(store(&plain, Some(trusting(&authority)))).await, ErrorKind::Tls);
}

#[tokio::test]
async fn client_certificate_is_sent() {
    let (files, authority) = (Files::new(), Authority::new());
    let (certificate, key) = authority.sign(&["127.0.0.1"]);
    let ca = files.put("ca", &authority.pem());
    let server = TlsFiles { cert: files.put("cert", &certificate), key: files.put("key", &key), client_ca: Some(ca) };
    let etcd = launch(Etcd::builder().tls(server)).await;

    let with = |identity| {
        let mut tls = trusting(&authority);
        tls.identity = identity;
        store(&etcd, Some(tls))
    };
    put(&with(Some(authority.sign(&["client"]))).unwrap()).await.unwrap();
    for foreign in [None, Some(Authority::new().sign(&["client"]))] {
        let error = put(&with(foreign).unwrap()).await.expect_err("no certificate that is trusted");
        assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Unavailable), "{error:?}");
    }
}

#[tokio::test]
async fn one_untrusted_endpoint_leaves_errors_retryable() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = async |files: &Files, authority: &Authority| {
        let (certificate, key) = authority.sign(&["127.0.0.1"]);
        let tls = TlsFiles { cert: files.put("cert", &certificate), key: files.put("key", &key), client_ca: None };
        Etcd::builder().tls(tls).start().await
    };
    let (files, other_files) = (Files::new(), Files::new());
    let (good, bad) = (server(&files, &authority).await, server(&other_files, &other).await);
    let proxy = Proxy::to(good.endpoint()).await;
    let endpoint = |port| Endpoint { host: "127.0.0.1".to_owned(), port };
    let mut options = ConnectOptions::new(vec![endpoint(proxy.addr().port()), endpoint(bad.port())]);
    options.tls = Some(trusting(&authority));
    options.retry.call_timeout = Duration::from_secs(3);
    put(&V2Store::new(options.clone()).unwrap()).await.unwrap();
    proxy.set(Mode::Refuse).await;
    assert_eq!(refusal(V2Store::new(options)).await, ErrorKind::Unavailable);
}

#[tokio::test]
async fn invalid_certificates_are_refused_at_once() {
    let etcd = launch(Etcd::builder()).await;
    let authority = Authority::new();
    let (certificate, key) = authority.sign(&["client"]);
    let no_pem = || b"-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----".to_vec();
    let with = |change: &dyn Fn(&mut Tls)| {
        let mut tls = trusting(&authority);
        change(&mut tls);
        store(&etcd, Some(tls)).map(|_| ()).unwrap_err().kind()
    };
    assert_eq!(with(&|tls| tls.ca = Some(Vec::new())), ErrorKind::Tls);
    assert_eq!(with(&|tls| tls.ca = Some(no_pem())), ErrorKind::Tls);
    assert_eq!(with(&|tls| tls.identity = Some((no_pem(), key.clone()))), ErrorKind::Tls);
    assert_eq!(with(&|tls| tls.identity = Some((certificate.clone(), certificate.clone()))), ErrorKind::Tls);
    assert_eq!(with(&|tls| tls.identity = Some((certificate.clone(), authority.sign(&["other"]).1))), ErrorKind::Tls);
    assert_eq!(with(&|tls| tls.server_name = Some("no name".to_owned())), ErrorKind::Tls);
}
