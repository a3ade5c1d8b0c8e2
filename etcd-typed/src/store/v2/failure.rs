//! Classifies the errors of the HTTP client, and decides which error a call with several attempts
//! returns.

use std::error::Error as StdError;
#[cfg(feature = "tls")]
use std::io::ErrorKind as Io;
use std::time::Duration;

use super::json::{Again, Fault, Origin};
use crate::error::Error;
#[cfg(feature = "tls")]
use crate::store::tls::explain::{Whose, explain};

/// The failures of the attempts of one call.
///
/// If all endpoints refuse in a row, the call ends with the last refusal. While an endpoint cannot
/// be reached, the call goes on, because that endpoint might serve it.
#[derive(Default)]
pub(super) struct Refusals {
    pub(super) in_a_row: usize,
    /// The last failure that was not a refusal.
    outage: Option<Error>,
    /// The last failure that was not caused by the call's time limit.
    met: Option<Error>,
}

impl Refusals {
    pub(super) fn add(&mut self, fault: &Fault) {
        if fault.origin != Origin::Clock {
            self.met = Some(fault.error.again());
        }
        if fault.again == Again::Elsewhere {
            self.in_a_row += 1;
        } else {
            self.in_a_row = 0;
            if fault.origin != Origin::Clock || self.outage.is_none() {
                self.outage = Some(fault.error.again());
            }
        }
    }

    /// Returns the error of a call that ends with `last`, given the number of endpoints and the
    /// time limit of the call.
    pub(super) fn end(self, last: Fault, endpoints: usize, time: Duration) -> Error {
        if self.in_a_row >= endpoints {
            return last.error;
        }
        let cut_short = last.origin == Origin::Clock;
        let error = if cut_short { self.met.unwrap_or(last.error) } else { self.outage.unwrap_or(last.error) };
        error.noting(&format!("gave up after {time:?} (`call_timeout`)"))
    }
}

/// Explains an error that is a TLS failure. Unlike a refused connection, a TLS failure does not go
/// away by itself.
#[cfg(feature = "tls")]
pub(super) fn tls_words(error: &reqwest::Error) -> Option<String> {
    tls_error(error).map(|error| explain(error, Whose::Server))
}

#[cfg(not(feature = "tls"))]
pub(super) fn tls_words(_: &reqwest::Error) -> Option<String> {
    None
}

/// Returns whether the address may have the wrong scheme: the server may speak TLS although the
/// address says `http`, or the reverse.
pub(super) fn may_be_wrong_scheme(error: &reqwest::Error, tls: bool) -> bool {
    if tls { is_no_tls(error) } else { error.is_request() && !error.is_connect() && !error.is_timeout() }
}

/// Returns whether a TLS handshake got an answer that is not TLS, a closed connection, or no
/// answer.
#[cfg(feature = "tls")]
fn is_no_tls(error: &reqwest::Error) -> bool {
    if let Some(error) = tls_error(error) {
        return matches!(error, rustls::Error::InvalidMessage(_));
    }
    let ends = |kind| matches!(kind, Io::UnexpectedEof | Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe);
    // A server without TLS may wait for the rest of a request line, so that the handshake times
    // out.
    let is_end = |cause: &(dyn StdError + 'static)| cause.downcast_ref::<std::io::Error>().is_some_and(|error| ends(error.kind()));
    error.is_connect() && (error.is_timeout() || causes(error).any(is_end))
}

#[cfg(not(feature = "tls"))]
fn is_no_tls(_: &reqwest::Error) -> bool {
    false
}

/// Returns the message of the innermost cause, such as `Connection refused (os error 111)`.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn StdError = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

/// Returns whether the server ended the handshake because of the client's certificate. With TLS 1.3
/// the server reports this when the request is already on its way, but it has not read the request.
#[cfg(feature = "tls")]
pub(super) fn is_turned_away(error: &reqwest::Error) -> bool {
    use rustls::AlertDescription as Alert;
    matches!(
        tls_error(error),
        Some(rustls::Error::AlertReceived(
            Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::CertificateRequired
                | Alert::UnknownCA
                | Alert::AccessDenied
        ))
    )
}

#[cfg(not(feature = "tls"))]
pub(super) fn is_turned_away(_: &reqwest::Error) -> bool {
    false
}

#[cfg(feature = "tls")]
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Returns all causes, innermost last. This includes the error wrapped by an I/O error, which
/// `source` skips.
#[cfg(feature = "tls")]
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |&cause| match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => cause.source(),
    })
}
