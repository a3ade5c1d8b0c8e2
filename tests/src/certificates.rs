//! Certificates created on the spot, and the files from which servers read them.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key, in PEM format.
pub type Identity = (Vec<u8>, Vec<u8>);

impl Authority {
    /// Creates a new authority, which no program trusts yet.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Returns the authority's own certificate.
    #[must_use]
    pub fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// Creates a certificate for these names, valid for servers and for clients.
    #[must_use]
    pub fn sign(&self, names: &[&str]) -> Identity {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        self.finish(CertificateParams::new(names).unwrap())
    }

    /// Creates a certificate that expired long ago.
    #[must_use]
    pub fn sign_expired(&self, names: &[&str]) -> Identity {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        self.finish(params)
    }

    /// Creates a certificate that becomes valid in 2090.
    #[must_use]
    pub fn sign_future(&self, names: &[&str]) -> Identity {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
        self.finish(params)
    }

    /// Returns the authority's own certificate and private key.
    #[must_use]
    pub fn identity(&self) -> Identity {
        (self.pem(), self.0.key().serialize_pem().into_bytes())
    }

    fn finish(&self, mut params: CertificateParams) -> Identity {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns a self-signed certificate of X.509 version 1, and its key. Uses `openssl x509 -req`,
/// since `rcgen` creates version 3 only.
#[must_use]
pub fn version_1() -> Identity {
    (include_bytes!("certificates/version-1.pem").to_vec(), include_bytes!("certificates/version-1.key").to_vec())
}

/// Returns the private key of [`version_1`], encrypted with a passphrase: first as PKCS #8, then in
/// OpenSSL's older format.
#[must_use]
pub fn encrypted_keys() -> [Vec<u8>; 2] {
    [include_bytes!("certificates/encrypted.key").to_vec(), include_bytes!("certificates/encrypted-traditional.key").to_vec()]
}

/// A temporary directory. It is removed when this value is dropped.
pub struct Files(PathBuf);

impl Files {
    /// Creates an empty directory.
    #[must_use]
    pub fn new() -> Self {
        let unique = etcd_typed::LeaseId::random();
        let directory = std::env::temp_dir().join(format!("etcd-typed-certificates-{}-{unique}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    /// Writes a file in the directory, and returns the file's path.
    #[must_use]
    pub fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Default for Files {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
