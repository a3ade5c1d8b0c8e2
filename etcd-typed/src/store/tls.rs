//! TLS through rustls: from PEM bytes to the configuration that both stores on the network take.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, ErrorKind, Result};
use crate::store::connect::Tls;

/// The configuration for these options; of none (plain text) one that trusts nobody, since v2's HTTP client asks for one all the same.
///
/// # Errors
///
/// `Tls` for what is no PEM, or no certificate or key.
pub(super) fn config(tls: Option<&Tls>) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("this build of rustls has no TLS version to offer").caused_by(error))?;
    let Some(tls) = tls else {
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    };
    let roots = Arc::new(roots(tls)?);
    let builder = match &tls.server_name {
        None => builder.with_root_certificates(roots),
        Some(name) => builder.dangerous().with_custom_certificate_verifier(Arc::new(Named::new(name, roots, provider)?)),
    };
    match &tls.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            let chain = certificates(chain, "the client's certificate chain")?;
            let key =
                PrivateKeyDer::from_pem_slice(key).map_err(|error| invalid("the client's key is no PEM private key").caused_by(error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| invalid("the client's certificate and key cannot be used").caused_by(error))
        }
    }
}

fn roots(tls: &Tls) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = &tls.ca {
        for certificate in certificates(ca, "the CA")? {
            roots.add(certificate).map_err(|error| invalid("the CA is no certificate").caused_by(error))?;
        }
    } else {
        // A system's store may hold some that do not parse; the others are good.
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
        .map_err(|error| invalid(format!("{what} is no PEM")).caused_by(error))?;
    if certificates.is_empty() {
        return Err(invalid(format!("{what} holds no PEM certificate")));
    }
    Ok(certificates)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Tls, message)
}

/// Checks the server's certificate, all of it, against a name that was given instead of the host that is connected to.
#[derive(Debug)]
struct Named {
    name: ServerName<'static>,
    inner: Arc<WebPkiServerVerifier>,
}

impl Named {
    fn new(name: &str, roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> Result<Self> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| invalid(format!("`{name}` is no name that a certificate can be for")).caused_by(error))?;
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
