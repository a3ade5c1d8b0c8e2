//! Certificates from files that are read again for each connection, so that they can be replaced
//! while the program runs.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::explain::{self, Whose};
use super::{certificates, invalid, private_key, roots};
use crate::error::Result;
use crate::store::connect::Tls;
use crate::telemetry;

/// The files and their last usable contents. Each handshake reads the files, which takes about 50
/// µs. If the files cannot be used, for example because they are being replaced, the last usable
/// certificates stay in use.
#[derive(Debug)]
pub(super) struct Files {
    tls: Tls,
    provider: Arc<CryptoProvider>,
    held: Mutex<Held>,
}

/// The certificates in use.
#[derive(Debug)]
struct Held {
    read: Contents,
    certificates: Certificates,
    /// Says why the files could not be used at the last handshake. `None` if they could be used.
    failure: Option<String>,
}

/// The bytes of the CA certificate and of the client's identity, from files or from the options.
#[derive(PartialEq, Eq)]
struct Contents {
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Shows none of the bytes, which contain a private key.
impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct Certificates {
    verifier: Arc<WebPkiServerVerifier>,
    identity: Option<Arc<CertifiedKey>>,
}

impl Files {
    /// Reads the files for the first time.
    ///
    /// # Errors
    ///
    /// `Tls` if a file cannot be read or used.
    pub(super) fn new(tls: &Tls, provider: Arc<CryptoProvider>) -> Result<Arc<Self>> {
        let read = Contents::read(tls)?;
        let certificates = Certificates::of(&read, &provider)?;
        let held = Mutex::new(Held { read, certificates, failure: None });
        Ok(Arc::new(Self { tls: tls.clone(), provider, held }))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files again. Returns the certificates to use now.
    fn reread(&self) -> Certificates {
        let read = Contents::read(&self.tls);
        let mut held = self.held();
        let news = match read {
            Ok(read) if read == held.read => Ok(None),
            Ok(read) => Certificates::of(&read, &self.provider).map(|certificates| Some((read, certificates))),
            Err(error) => Err(error),
        };
        match news {
            Ok(news) => {
                held.failure = None;
                if let Some((read, certificates)) = news {
                    (held.read, held.certificates) = (read, certificates);
                }
            }
            Err(error) => {
                let failure = error.message().to_owned();
                if held.failure.as_ref() != Some(&failure) {
                    telemetry::certificates_not_replaced(&error);
                    held.failure = Some(failure);
                }
            }
        }
        held.certificates.clone()
    }
}

impl Contents {
    fn read(tls: &Tls) -> Result<Self> {
        let ca = match &tls.ca_file {
            Some(path) => Some(read(path)?),
            None => tls.ca.clone(),
        };
        let identity = match &tls.identity_files {
            Some((chain, key)) => Some((read(chain)?, read(key)?)),
            None => tls.identity.clone(),
        };
        Ok(Self { ca, identity })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| invalid(format!("{} cannot be read: {error}", path.display())).caused_by(error))
}

impl Certificates {
    fn of(contents: &Contents, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let roots = Arc::new(roots(contents.ca.as_deref())?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| invalid("the CA cannot be used").caused_by(error))?;
        let identity = match &contents.identity {
            None => None,
            Some((chain, key)) => {
                let chain = certificates(chain, "the client's certificate chain")?;
                let identity = CertifiedKey::from_der(chain, private_key(key)?, provider)
                    .map_err(|error| invalid(explain::explain(&error, Whose::Client)).caused_by(error))?;
                Some(Arc::new(identity))
            }
        };
        Ok(Self { verifier, identity })
    }
}

impl ResolvesClientCert for Files {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.reread().identity
    }

    fn has_certs(&self) -> bool {
        self.held().certificates.identity.is_some()
    }
}

/// Verifies the server's certificate with the CA certificates that the files contain now.
#[derive(Debug)]
pub(super) struct Reread {
    /// The name that the certificate must be valid for. `None` means the host name of the
    /// connection.
    pub(super) name: Option<ServerName<'static>>,
    pub(super) files: Arc<Files>,
}

impl Reread {
    fn held(&self) -> Arc<WebPkiServerVerifier> {
        self.files.held().certificates.verifier.clone()
    }
}

impl ServerCertVerifier for Reread {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = self.name.as_ref().unwrap_or(host);
        self.files.reread().verifier.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.held().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.held().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.held().supported_verify_schemes()
    }
}
