//! How a call of gRPC ends that does not go well ("gRPC over HTTP/2" of the gRPC project): with the word of a server, or with what was found on this side.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName};
use percent_encoding::percent_decode;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why a call did not go well.
#[derive(Clone, Debug)]
pub(super) enum Status {
    /// A server said so.
    Said { code: Code, words: String },
    /// It was found on this side.
    Local(Local),
}

/// The code in the word of a server; there is none for a call that went well.
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

/// What was found on this side, and not said by a server.
#[derive(Clone, Debug)]
pub(super) enum Local {
    /// There is no connection, or it takes no call any more.
    NotSent(String),
    /// The server closed a new connection before it had shown what it speaks.
    HungUp(String),
    /// The server is closing the connection, and did not begin with the request.
    TurnedAway(String),
    /// The TLS handshake failed.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "the code that makes it needs the feature; tests do without"))]
    Tls {
        /// What that means.
        words: String,
        cause: Arc<io::Error>,
        /// Whether the server's answer was TLS.
        is_tls: bool,
    },
    /// TLS is spoken on one side only; what to do about it.
    TlsOnOneSide(&'static str),
    /// The stream or its connection broke: what the stream was told, and why the connection ended, if it did.
    Broken {
        end: Option<String>,
        cause: Arc<h2::Error>,
    },
    /// The answer ended too soon.
    Ended(&'static str),
    /// A proxy that has no server to ask.
    NobodyBehind(StatusCode),
    /// A proxy does not pass on requests of this size.
    RefusedByProxy(StatusCode),
    /// No HTTP/2, no gRPC, or not of etcd.
    NotGrpc(String),
    AnswerTooLarge {
        length: usize,
        limit: usize,
    },
}

impl Local {
    /// Whether a new connection ended so that the server may speak something else than what its scheme says.
    pub(super) fn may_be_wrong_scheme(&self) -> bool {
        match self {
            Self::HungUp(_) | Self::NotGrpc(_) | Self::Tls { is_tls: false, .. } => true,
            // An alert tells that TLS is spoken on both sides.
            Self::Broken { end, .. } => !end.as_ref().is_some_and(|end| end.contains("fatal alert")),
            _ => false,
        }
    }
}

impl Status {
    /// The word of a server in the headers or the trailers of an answer; none if they have none.
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
    /// In the order of their numbers, from 1 on.
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

    /// None for the number 0: it went well. What is no number of a code is [`Unknown`](Self::Unknown).
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
            Self::Broken { end: None, .. } => f.write_str("the call was broken off"),
            Self::Ended(how) => write!(f, "the answer ended {how}"),
            Self::NobodyBehind(status) => write!(f, "a proxy has no server to ask: HTTP status {status}"),
            Self::RefusedByProxy(status) => write!(
                f,
                "HTTP status {status}: a proxy before the server refuses requests of this size; raise its limit (nginx: `client_max_body_size`)"
            ),
            Self::NotGrpc(why) => write!(f, "this is no gRPC: {why}"),
            Self::AnswerTooLarge { length, limit } => write!(f, "an answer of {length} bytes, and {limit} are taken"),
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
    fn the_word_of_a_server_is_read() {
        assert!(Status::said(&HeaderMap::new()).is_none());
        assert_eq!(said(b"0", Some(b"whatever")), Some(Ok(())));
        assert_eq!(said(b"14", Some(b"etcdserver: no leader")), Some(Err((Code::Unavailable, "etcdserver: no leader".to_owned()))));
        assert_eq!(said(b"1", None), Some(Err((Code::Cancelled, String::new()))));
        assert_eq!(said(b"16", Some(b"50%25 of %C3%A4")), Some(Err((Code::Unauthenticated, "50% of ä".to_owned()))));
    }

    /// Whatever else stands there is an error, and its words are kept as far as they can be read.
    #[test]
    fn a_word_that_is_none_of_the_protocol_is_an_error_too() {
        for status in [&b"17"[..], b"-1", b"", b"00x", b"99999999999999999999999", b"\xff"] {
            assert_eq!(said(status, Some(b"%zz \xff %FF")), Some(Err((Code::Unknown, "%zz \u{fffd} \u{fffd}".to_owned()))), "{status:?}");
        }
    }
}
