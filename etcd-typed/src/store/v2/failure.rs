//! How requests fail on the way: what the errors of the HTTP client mean, and what a call ends with after several attempts.

use std::error::Error as StdError;
#[cfg(feature = "tls")]
use std::io::ErrorKind as Io;
use std::time::Duration;

use super::json::{Again, Fault, Origin};
use crate::error::Error;
#[cfg(feature = "tls")]
use crate::store::tls::words::{Whose, explain};

/// What the attempts of one call met.
///
/// A call ends with what only another endpoint can mend when all endpoints say so, one after the other: as long as one cannot be reached, that may be the one
/// that serves the call.
#[derive(Default)]
pub(super) struct Refusals {
    pub(super) in_a_row: usize,
    /// The last failure of another kind.
    outage: Option<Error>,
    /// The last failure that was not an attempt cut short by the end of the call's time.
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

    /// The error of a call that ends with `last`, of one that was sent to so many endpoints and had so much time.
    pub(super) fn end(self, last: Fault, endpoints: usize, time: Duration) -> Error {
        if self.in_a_row >= endpoints {
            return last.error;
        }
        let cut_short = last.origin == Origin::Clock;
        let error = if cut_short { self.met.unwrap_or(last.error) } else { self.outage.unwrap_or(last.error) };
        error.noting(&format!("gave up after {time:?} (`call_timeout`)"))
    }
}

/// What is wrong about TLS, if TLS failed: that does not heal by itself as a refused connection does.
#[cfg(feature = "tls")]
pub(super) fn tls_words(error: &reqwest::Error) -> Option<String> {
    tls_error(error).map(|error| explain(error, Whose::Server))
}

#[cfg(not(feature = "tls"))]
pub(super) fn tls_words(_: &reqwest::Error) -> Option<String> {
    None
}

/// Whether the server may speak TLS where the address says none, or none where it says TLS.
pub(super) fn may_be_wrong_scheme(error: &reqwest::Error, tls: bool) -> bool {
    if tls { is_no_tls(error) } else { error.is_request() && !error.is_connect() && !error.is_timeout() }
}

/// Whether a handshake met something that is not TLS, or an end without a word.
#[cfg(feature = "tls")]
fn is_no_tls(error: &reqwest::Error) -> bool {
    if let Some(error) = tls_error(error) {
        return matches!(error, rustls::Error::InvalidMessage(_));
    }
    let ends = |kind| matches!(kind, Io::UnexpectedEof | Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe);
    // A server that waits for the rest of a line is silent.
    let is_end = |cause: &(dyn StdError + 'static)| cause.downcast_ref::<std::io::Error>().is_some_and(|error| ends(error.kind()));
    error.is_connect() && (error.is_timeout() || causes(error).any(is_end))
}

#[cfg(not(feature = "tls"))]
fn is_no_tls(_: &reqwest::Error) -> bool {
    false
}

/// The words of the innermost cause: `Connection refused (os error 111)`.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn StdError = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

/// Whether the server ended the handshake because of our certificate. With TLS 1.3 it says so when the request is on its way already, which it
/// then has not read.
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

/// All causes, innermost last. What an I/O error wraps comes too; its own source is only the source of that.
#[cfg(feature = "tls")]
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |&cause| match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => cause.source(),
    })
}
