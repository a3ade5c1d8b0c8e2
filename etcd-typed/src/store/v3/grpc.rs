//! How a gRPC call fails ("gRPC over HTTP/2" of the gRPC project): with a status from the server,
//! or with an error that the client detected.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName};
use percent_encoding::percent_decode;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why a call failed.
#[derive(Clone, Debug)]
pub(super) enum Status {
    /// The server sent this status.
    Said { code: Code, words: String },
    /// The client detected an error.
    Local(Local),
}

/// The gRPC code of a failed call. There is no variant for success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

/// An error that the client detected, as opposed to a status from a server.
#[derive(Clone, Debug)]
pub(super) enum Local {
    /// No connection is open, or the connection accepts no more calls.
    NotSent(String),
    /// The server closed a new connection before its protocol was known.
    HungUp(String),
    /// The server is closing the connection and did not begin the request.
    TurnedAway(String),
    /// The TLS handshake failed.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "built only with the feature `tls`, and by tests"))]
    Tls {
        /// The explanation of the failure for the user.
        words: String,
        cause: Arc<io::Error>,
        /// Whether the server answered in TLS.
        is_tls: bool,
    },
    /// Only one side uses TLS. The text says what to do.
    TlsOnOneSide(&'static str),
    /// The stream or its connection broke. `cause` is the stream's error, and `end` is why the
    /// connection ended, if it did.
    Broken {
        end: Option<String>,
        cause: Arc<h2::Error>,
    },
    /// The answer ended too early.
    Ended(&'static str),
    /// A proxy answered that it cannot reach a server.
    NobodyBehind(StatusCode),
    /// A proxy refuses requests of this size.
    RefusedByProxy(StatusCode),
    /// The peer speaks no HTTP/2 or no gRPC, or its answer is not from etcd.
    NotGrpc(String),
    AnswerTooLarge {
        length: usize,
        limit: usize,
    },
}

impl Local {
    /// Returns whether a new connection ended in a way that suggests another protocol than the
    /// address says.
    pub(super) fn may_be_wrong_scheme(&self) -> bool {
        match self {
            Self::HungUp(_) | Self::NotGrpc(_) | Self::Tls { is_tls: false, .. } => true,
            // A TLS alert shows that both sides use TLS.
            Self::Broken { end, .. } => !end.as_ref().is_some_and(|end| end.contains("fatal alert")),
            _ => false,
        }
    }
}

impl Status {
    /// Returns the status in the headers or trailers of an answer, or `None` if they have none.
    pub(super) fn said(headers: &HeaderMap) -> Option<Result<(), Self>> {
        let code = match Code::parse(headers.get(STATUS)?.as_bytes()) {
            None => return Some(Ok(())),
            Some(code) => code,
        };
        let words = headers.get(MESSAGE).map(|message| percent_decode(message.as_bytes()).decode_utf8_lossy().into_owned());
        Some(Err(Self::Said { code, words: words.unwrap_or_default() }))
    }
}

impl Code {
    /// All codes in the order of their numbers, starting at 1.
    pub(super) const ALL: [Self; 16] = [
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// Parses a code. Returns `None` for 0, which is success, and [`Unknown`](Self::Unknown) for
    /// anything that is not a code's number.
    fn parse(number: &[u8]) -> Option<Self> {
        let number = std::str::from_utf8(number).ok().and_then(|number| number.parse::<usize>().ok());
        match number {
            Some(0) => None,
            Some(number) => Some(Self::ALL.get(number - 1).copied().unwrap_or(Self::Unknown)),
            None => Some(Self::Unknown),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said { code, words } if words.is_empty() => write!(f, "{code:?}"),
            Self::Said { words, .. } => f.write_str(words),
            Self::Local(local) => local.fmt(f),
        }
    }
}

impl StdError for Status {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Said { .. } => None,
            Self::Local(local) => local.source(),
        }
    }
}

impl From<Local> for Status {
    fn from(local: Local) -> Self {
        Self::Local(local)
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(why) | Self::HungUp(why) => write!(f, "no connection: {why}"),
            Self::TurnedAway(why) => write!(f, "the server is closing the connection: {why}"),
            Self::Tls { words, .. } => f.write_str(words),
            Self::TlsOnOneSide(words) => f.write_str(words),
            Self::Broken { end: Some(end), .. } => write!(f, "the connection ended: {end}"),
            Self::Broken { end: None, .. } => f.write_str("the call was cut off"),
            Self::Ended(how) => write!(f, "the answer ended {how}"),
            Self::NobodyBehind(status) => write!(f, "a proxy cannot reach a server: HTTP status {status}"),
            Self::RefusedByProxy(status) => write!(
                f,
                "HTTP status {status}: a proxy before the server refuses requests of this size; raise its limit (nginx: `client_max_body_size`)"
            ),
            Self::NotGrpc(why) => write!(f, "this is not gRPC: {why}"),
            Self::AnswerTooLarge { length, limit } => write!(f, "the answer has {length} bytes, and this client accepts at most {limit}"),
        }
    }
}

impl StdError for Local {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Broken { cause, .. } => Some(&**cause),
            Self::Tls { cause, .. } => Some(&**cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn said(status: &'static [u8], message: Option<&'static [u8]>) -> Option<Result<(), (Code, String)>> {
        let mut headers = HeaderMap::new();
        headers.insert(STATUS, HeaderValue::from_bytes(status).unwrap());
        if let Some(message) = message {
            headers.insert(MESSAGE, HeaderValue::from_bytes(message).unwrap());
        }
        Some(Status::said(&headers)?.map_err(|status| match status {
            Status::Said { code, words } => (code, words),
            Status::Local(local) => panic!("{local}"),
        }))
    }

    #[test]
    fn server_status_is_parsed() {
        assert!(Status::said(&HeaderMap::new()).is_none());
        assert_eq!(said(b"0", Some(b"whatever")), Some(Ok(())));
        assert_eq!(said(b"14", Some(b"etcdserver: no leader")), Some(Err((Code::Unavailable, "etcdserver: no leader".to_owned()))));
        assert_eq!(said(b"1", None), Some(Err((Code::Cancelled, String::new()))));
        assert_eq!(said(b"16", Some(b"50%25 of %C3%A4")), Some(Err((Code::Unauthenticated, "50% of ä".to_owned()))));
    }

    /// A status that is not a known number counts as `Unknown`. The readable part of its message is
    /// kept.
    #[test]
    fn invalid_status_is_an_error() {
        for status in [&b"17"[..], b"-1", b"", b"00x", b"99999999999999999999999", b"\xff"] {
            assert_eq!(said(status, Some(b"%zz \xff %FF")), Some(Err((Code::Unknown, "%zz \u{fffd} \u{fffd}".to_owned()))), "{status:?}");
        }
    }
}
