//! Replaces certificate files while a client is under load, and connects clients that bring their
//! own rustls configuration.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use etcd_typed::rustls::pki_types::CertificateDer;
use etcd_typed::rustls::pki_types::pem::PemObject;
use etcd_typed::rustls::{self, ClientConfig, RootCertStore};
use etcd_typed::testing::{Etcd, Proxy, TlsFiles};
use etcd_typed::{Client, Entry, Error, ErrorKind};
use etcd_typed_tests::certificates::{Authority, Files, Identity};
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// Replaces a file atomically, as a careful deployment does.
fn replace(path: &Path, content: &[u8]) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, content).unwrap();
    std::fs::rename(beside, path).unwrap();
}

/// A task that reads and writes without a pause. It counts the successful reads, and collects all
/// errors except those of writes with an unknown outcome.
struct Load {
    reads: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<Error>>,
}

impl Load {
    fn begin(entry: Entry<u32>) -> Self {
        let (reads, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (reads.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut errors = Vec::new();
            for n in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                match entry.get().await {
                    Ok(_) => drop(counted.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => errors.push(error),
                }
                errors.extend(entry.set(&n).await.err().filter(|error| !error.may_have_applied()));
            }
            errors
        });
        Self { reads, stop, task }
    }

    /// Cuts all connections three times, and waits after each cut until reads succeed over new
    /// connections.
    async fn goes_on(&self, proxy: &Proxy) {
        for _ in 0..3 {
            proxy.cut();
            let before = self.reads.load(Ordering::Relaxed);
            timeout(LIMIT, async {
                while self.reads.load(Ordering::Relaxed) < before + 3 {
                    sleep(Duration::from_millis(5)).await;
                }
            })
            .await
            .expect("reads succeed over a new connection");
        }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let errors = timeout(LIMIT, self.task).await.unwrap().unwrap();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

fn both(one: &Authority, other: &Authority) -> Vec<u8> {
    [one.pem(), other.pem()].concat()
}

async fn certificates_are_replaced_under_load(scheme: &str) {
    let (files, own) = (Files::new(), Files::new());
    let [old, new, old_clients, new_clients] = [(); 4].map(|()| Authority::new());
    let names = &["127.0.0.1"][..];
    let (certificate, key) = old.sign(names);
    let server = TlsFiles {
        cert: files.put("cert", &certificate),
        key: files.put("key", &key),
        client_ca: Some(files.put("client-ca", &both(&old_clients, &new_clients))),
    };
    let mut etcd = Etcd::builder().tls(server).start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let (chain, key) = old_clients.sign(&["client"]);
    let (ca, chain, key) = (own.put("ca", &old.pem()), own.put("chain", &chain), own.put("key", &key));
    let address = format!("{scheme}://{}", proxy.endpoint());
    let client = Client::builder(&address).ca_certificate_file(&ca).identity_files(&chain, &key).connect().await.unwrap();
    let entry = client.entry::<u32>("/rotation").unwrap();
    entry.set(&0).await.unwrap();
    let mut live = entry.live().await.unwrap();
    let load = Load::begin(entry.clone());
    load.goes_on(&proxy).await;

    // Replace the server's authority. First the client trusts both authorities, then the server
    // presents its new certificate, and last the client trusts only the new authority.
    replace(&ca, &both(&old, &new));
    load.goes_on(&proxy).await;
    let (certificate, server_key) = new.sign(names);
    etcd.pause();
    let _ = (files.put("cert", &certificate), files.put("key", &server_key));
    etcd.resume();
    load.goes_on(&proxy).await;
    replace(&ca, &new.pem());
    load.goes_on(&proxy).await;

    // Replace the client's own certificate. While only one of its two files is new, the client
    // keeps using the old pair.
    let identity: Identity = new_clients.sign(&["client"]);
    replace(&chain, &identity.0);
    load.goes_on(&proxy).await;
    replace(&key, &identity.1);
    load.goes_on(&proxy).await;
    // The client ignores a damaged file.
    replace(&ca, b"-----BEGIN CERTIFICATE-----\nno\n");
    load.goes_on(&proxy).await;
    replace(&ca, &new.pem());
    load.end().await;

    // Now the server trusts only the authority of the new client certificate, and the client trusts
    // only the server's new authority.
    etcd.terminate().await;
    let _ = files.put("client-ca", &new_clients.pem());
    etcd.restart().await;
    timeout(LIMIT, async { while entry.get().await.is_err() {} }).await.unwrap();
    let written = timeout(LIMIT, async {
        loop {
            if let Ok(written) = entry.set(&4_000_000).await {
                return written;
            }
        }
    });
    timeout(LIMIT, live.wait_for_revision(written.await.unwrap())).await.unwrap().unwrap();
    assert_eq!(**live.changed().await.unwrap(), Some(4_000_000));
    let fixed = Client::builder(&address).ca_certificate(old.pem()).identity_files(&chain, &key).connect().await.unwrap_err();
    assert_eq!(fixed.kind(), ErrorKind::Tls, "{fixed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_certificates_are_replaced_under_load() {
    certificates_are_replaced_under_load("etcds").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v2_certificates_are_replaced_under_load() {
    certificates_are_replaced_under_load("etcd2s").await;
}

#[tokio::test]
async fn unreadable_file_is_refused_when_client_is_created() {
    for scheme in ["etcds", "etcd2s"] {
        let error = Client::builder(&format!("{scheme}://h")).ca_certificate_file("/does/not/exist").connect_lazy().unwrap_err();
        assert!(error.kind() == ErrorKind::Tls && error.to_string().contains("/does/not/exist"), "{error}");
    }
}

async fn own_configuration_is_used(scheme: &str) {
    let (files, authority) = (Files::new(), Authority::new());
    let (certificate, key) = authority.sign(&["127.0.0.1"]);
    let server = TlsFiles { cert: files.put("cert", &certificate), key: files.put("key", &key), client_ca: None };
    let etcd = Etcd::builder().tls(server).start().await;
    let config = |authority: &Authority| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&authority.pem()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"other".to_vec()];
        config
    };
    let builder = || Client::builder(&format!("{scheme}://{}", etcd.endpoint()));
    let client = builder().tls_config(config(&authority)).connect().await.unwrap();
    client.entry::<u32>("/own").unwrap().set(&1).await.unwrap();
    let error = builder().tls_config(config(&Authority::new())).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    let error = builder().tls_config(config(&authority)).ca_certificate(authority.pem()).connect_lazy().unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("`tls_config` replaces `ca_certificate`"), "{error}");
    let plain = Client::builder("etcd://h").tls_config(config(&authority)).connect_lazy().unwrap_err();
    assert_eq!(plain.kind(), ErrorKind::InvalidUrl);
}

#[tokio::test]
async fn v3_uses_given_tls_configuration() {
    own_configuration_is_used("etcds").await;
}

#[tokio::test]
async fn v2_uses_given_tls_configuration() {
    own_configuration_is_used("etcd2s").await;
}

/// The feature `tls` adds no crypto provider. The features `ring` and `aws-lc` each add only their
/// own provider.
#[test]
fn each_feature_has_at_most_one_crypto_provider() {
    let providers = |features: &str| {
        let arguments =
            ["tree", "--offline", "--locked", "--package", "etcd-typed", "--edges", "normal,build", "--prefix", "none", "--features"];
        let output = std::process::Command::new(env!("CARGO")).args(arguments).arg(features).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout).unwrap();
        assert!(tree.contains("rustls v"), "{tree}");
        ["ring", "aws-lc-rs", "openssl"]
            .into_iter()
            .filter(|name| tree.lines().any(|line| line.starts_with(&format!("{name} v"))))
            .collect::<Vec<_>>()
    };
    for apis in ["v2", "v3", "v2,v3"] {
        assert_eq!(providers(&format!("{apis},tls")), [""; 0]);
        assert_eq!(providers(&format!("{apis},ring")), ["ring"]);
        assert_eq!(providers(&format!("{apis},aws-lc")), ["aws-lc-rs"]);
    }
}
