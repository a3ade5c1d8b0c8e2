//! TLS through rustls: turns PEM bytes into the configuration that both network stores use.

pub(super) mod explain;
mod files;

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use self::explain::Whose;
use self::files::{Files, Reread};
use crate::error::{Error, ErrorKind, Result};
use crate::store::connect::Tls;

/// Returns the rustls configuration for these options. Without options (plain text) it trusts no
/// server; v2's HTTP client needs a configuration even then.
///
/// # Errors
///
/// `Tls` for invalid PEM, PEM without a certificate or key, or a file that cannot be read.
/// `Unsupported` without a crypto provider. `Invalid` if the caller passes a complete rustls
/// configuration together with other options.
pub(super) fn config(tls: Option<&Tls>) -> Result<ClientConfig> {
    if let Some((tls, own)) = tls.and_then(|tls| Some((tls, tls.config.as_ref()?))) {
        let Tls { ca, ca_file, identity, identity_files, server_name, .. } = tls;
        let others = [
            ("ca_certificate", ca.is_some() || ca_file.is_some()),
            ("identity", identity.is_some() || identity_files.is_some()),
            ("server_name", server_name.is_some()),
        ];
        if let Some((option, _)) = others.iter().find(|(_, is_set)| *is_set) {
            let message = format!("`tls_config` replaces `{option}`: make it a part of the configuration");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        // Each network store sets the ALPN protocol that it needs.
        let mut config = ClientConfig::clone(&own.0);
        config.alpn_protocols.clear();
        return Ok(config);
    }
    let provider = provider()?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("this build of rustls has no TLS version to offer").caused_by(error))?;
    let Some(tls) = tls else {
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    };
    if tls.ca_file.is_some() || tls.identity_files.is_some() {
        let name = tls.server_name.as_deref().map(server_name).transpose()?;
        let files = Files::new(tls, provider)?;
        let verifier = Arc::new(Reread { name, files: files.clone() });
        let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_client_cert_resolver(files);
        // A resumed session would keep using the certificates of the first handshake.
        config.resumption = Resumption::disabled();
        return Ok(config);
    }
    let roots = Arc::new(roots(tls.ca.as_deref())?);
    let builder = match &tls.server_name {
        None => builder.with_root_certificates(roots),
        Some(name) => builder.dangerous().with_custom_certificate_verifier(Arc::new(Named::new(name, roots, provider)?)),
    };
    match &tls.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            let chain = certificates(chain, "the client's certificate chain")?;
            builder
                .with_client_auth_cert(chain, private_key(key)?)
                .map_err(|error| invalid(explain::explain(&error, Whose::Client)).caused_by(error))
        }
    }
}

/// Returns the crypto provider that is installed for the process, or else the one of the enabled
/// feature. If both features are enabled, `ring` is used.
fn provider() -> Result<Arc<CryptoProvider>> {
    if let Some(provider) = CryptoProvider::get_default() {
        return Ok(provider.clone());
    }
    #[cfg(feature = "ring")]
    return Ok(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(all(feature = "aws-lc", not(feature = "ring")))]
    return Ok(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    #[cfg(not(any(feature = "aws-lc", feature = "ring")))]
    Err(Error::new(
        ErrorKind::Unsupported,
        "the feature `tls` needs a crypto provider: enable the feature `ring` or `aws-lc` of the crate etcd-typed, install one for the process \
         with `rustls::crypto::CryptoProvider::install_default`, or give `tls_config`",
    ))
}

fn server_name(name: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(name.to_owned())
        .map_err(|error| invalid(format!("`{name}` is not a valid name for a certificate")).caused_by(error))
}

/// Returns the trusted authorities. Without `ca`, these are the authorities that the system trusts.
fn roots(ca: Option<&[u8]>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca {
        for certificate in certificates(ca, "the CA certificate")? {
            roots.add(certificate).map_err(|error| invalid(explain::explain(&error, Whose::Authority)).caused_by(error))?;
        }
    } else {
        // The system's certificate store may contain certificates that do not parse. The others are
        // used.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(invalid("this system trusts no certificate authority; name the CA"));
        }
    }
    Ok(roots)
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| invalid(format!("{what} is damaged PEM: {error}")).caused_by(error))?;
    if certificates.is_empty() {
        let found = if pem.is_empty() {
            "it is empty"
        } else if has(pem, "PRIVATE KEY-----") {
            "it holds a private key; are certificate and key swapped?"
        } else if has(pem, "CERTIFICATE REQUEST-----") {
            "it holds a request for one, which an authority must sign first"
        } else if is_der(pem) {
            "it is DER; `openssl x509 -inform der` makes PEM of it"
        } else {
            "PEM begins with `-----BEGIN CERTIFICATE-----`"
        };
        return Err(invalid(format!("{what} holds no PEM certificate: {found}")));
    }
    Ok(certificates)
}

/// Returns the first private key. The error neither quotes the bytes nor has a source error that
/// might quote them.
fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>> {
    if has(pem, "-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(pem, "Proc-Type: 4,ENCRYPTED") {
        return Err(invalid(
            "the client's private key is encrypted, and no passphrase can be given: decrypt it, as by `openssl pkey -in KEY -out DECRYPTED`",
        ));
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        let found = if pem.is_empty() {
            "it is empty"
        } else if has(pem, "PRIVATE KEY-----") {
            "it is damaged"
        } else if has(pem, "-----BEGIN CERTIFICATE-----") {
            "it holds a certificate; are certificate and key swapped?"
        } else if is_der(pem) {
            "it is DER; `openssl pkey -inform der` makes PEM of it"
        } else {
            "PEM begins with `-----BEGIN PRIVATE KEY-----`"
        };
        invalid(format!("the client's private key is not a PEM private key: {found}"))
    })
}

fn has(pem: &[u8], text: &str) -> bool {
    pem.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Returns whether the bytes begin with a long ASN.1 sequence, as DER certificates and keys do.
fn is_der(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x81..=0x83, ..])
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Tls, message)
}

/// Verifies the server's certificate completely, but expects a given name instead of the host name
/// of the connection.
#[derive(Debug)]
struct Named {
    name: ServerName<'static>,
    inner: Arc<WebPkiServerVerifier>,
}

impl Named {
    fn new(name: &str, roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> Result<Self> {
        let name = server_name(name)?;
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| invalid("the CA cannot be used").caused_by(error))?;
        Ok(Self { name, inner })
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _host: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
