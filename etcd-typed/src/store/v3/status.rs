//! What an answer of gRPC means: the only place where a [`Status`] becomes an [`ErrorKind`] and a decision about repeating.
//!
//! The code alone says too little: an answer that is too large has the code of a compacted revision, a server that stops that of one that is not
//! there. So the first question is where the error came from. What was found on this side is a [`Local`]; what a server
//! answered has only its words, which decide, and the code only where they are not known.
//! Each [`Row`] names a case that was seen with etcd 3.4.23, 3.5.1 or 3.5.30 or is in etcd's sources (`api/v3rpc/rpctypes/error.go`).

use std::error::Error as StdError;
use std::time::Duration;

use h2::Reason;

use super::grpc::{Code, Local, Status};
use super::tls::advice;
use crate::error::{Error, ErrorKind};

/// A case that is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// The request was never sent: no connection, or the stream was refused before it was processed.
    NotSent,
    /// A server that closes its connection in good order did not begin with the request. Another connection takes it at once.
    TurnedAway,
    /// The TLS handshake failed: the server's certificate, or TLS on one side only. A handshake that was only cut off is [`Row::NotSent`].
    TlsRefused,
    /// The server refused our certificate, or the lack of one. It says so only after the handshake.
    IdentityRefused,
    /// What answers does not speak HTTP/2, or no gRPC.
    NotGrpc,
    /// The connection broke while the request was on its way.
    Severed,
    /// Our own time limit, or the server's.
    TimedOut,
    /// The answer is larger than we take, so it was not read. What was asked for has happened.
    AnswerTooLarge,
    /// The member knows no leader, or raft dropped the proposal (no leader, or leadership is being transferred). Nothing was appended to
    /// the log.
    NoLeader,
    /// The leader changed while a read was waiting.
    LeaderChanged,
    /// The member stops, lags or has lost its cluster. It may stop between a proposal and its answer, so a write may have been applied.
    Failing,
    /// This member does not do it (a learner, not the leader); another may.
    NotThisMember,
    /// Too much is waiting to be applied; refused before it was proposed.
    TooManyRequests,
    /// The alarm for space. It may be said of a write that was applied (quotaApplierV3).
    NoSpace,
    RequestTooLarge,
    TooManyOperations,
    /// The server finds the request wrong.
    InvalidRequest,
    /// The token is missing or expired.
    TokenRefused,
    /// Users or roles were changed while the request was on its way. A user by client certificate needs no login to ask again.
    AuthChanged,
    /// User and password are wrong.
    LoginRefused,
    /// There is nothing to log in to.
    AuthDisabled,
    PermissionDenied,
    Compacted,
    FutureRevision,
    LeaseNotFound,
    LeaseExists,
    CorruptCluster,
    /// The answer is of another cluster than the client belongs to.
    ForeignCluster,
    /// The client has moved on to another cluster; what was under way on the former one is void.
    ClusterReplaced,
    /// The server does not know the call.
    UnknownCall,
    /// Words and code that are not known here.
    Other(Code),
}

/// Whether the same request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Yes, a write too: it was not applied.
    Always,
    /// Only what changes nothing by happening twice.
    Harmless,
    /// At another endpoint; here it will fail again.
    Elsewhere,
    /// After a new token was had.
    AfterLogin,
    /// No.
    Never,
}

/// What a [`Row`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) kind: ErrorKind,
    pub(super) repeat: Repeat,
    /// A write may have been applied, or may still be.
    pub(super) may_have_applied: bool,
    /// Another endpoint should be asked next.
    pub(super) endpoint_failed: bool,
}

impl Row {
    pub(super) fn verdict(self) -> Verdict {
        use ErrorKind as K;
        use Repeat::{AfterLogin, Always, Elsewhere, Harmless, Never};
        let (kind, repeat, may_have_applied, endpoint_failed) = match self {
            Self::NotSent => (K::Unavailable, Always, false, true),
            Self::TurnedAway => (K::Unavailable, Always, false, false),
            Self::TlsRefused => (K::Tls, Elsewhere, false, true),
            Self::IdentityRefused => (K::Tls, Elsewhere, true, true),
            Self::NotGrpc => (K::Server, Elsewhere, true, true),
            Self::Severed => (K::Unavailable, Harmless, true, true),
            Self::TimedOut => (K::Timeout, Harmless, true, true),
            Self::AnswerTooLarge => (K::TooLarge, Never, true, false),
            Self::NoLeader => (K::Unavailable, Always, false, true),
            Self::LeaderChanged => (K::Unavailable, Harmless, true, false),
            Self::Failing => (K::Unavailable, Harmless, true, true),
            Self::NotThisMember => (K::Unavailable, Always, false, true),
            Self::TooManyRequests => (K::Unavailable, Always, false, false),
            Self::NoSpace => (K::NoSpace, Never, true, false),
            Self::RequestTooLarge => (K::TooLarge, Never, false, false),
            Self::TooManyOperations => (K::TooManyOperations, Never, false, false),
            Self::InvalidRequest => (K::Invalid, Never, false, false),
            Self::TokenRefused | Self::AuthChanged => (K::Unauthenticated, AfterLogin, false, false),
            Self::LoginRefused | Self::AuthDisabled => (K::Unauthenticated, Never, false, false),
            Self::PermissionDenied => (K::PermissionDenied, Never, false, false),
            Self::Compacted | Self::FutureRevision => (K::HistoryLost, Never, false, false),
            Self::LeaseNotFound => (K::LeaseLost, Never, false, false),
            Self::LeaseExists => (K::AlreadyExists, Never, false, false),
            Self::CorruptCluster => (K::Server, Never, true, false),
            Self::ForeignCluster => (K::Server, Elsewhere, true, true),
            Self::ClusterReplaced => (K::Unavailable, Harmless, true, false),
            Self::UnknownCall => (K::Unsupported, Elsewhere, false, true),
            Self::Other(code) => match code {
                Code::Unavailable => (K::Unavailable, Harmless, true, true),
                Code::Cancelled | Code::DeadlineExceeded => (K::Timeout, Harmless, true, true),
                Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::OutOfRange => {
                    (K::Server, Never, false, false)
                }
                _ => (K::Server, Never, true, false),
            },
        };
        Verdict { kind, repeat, may_have_applied, endpoint_failed }
    }
}

/// Which case it is.
pub(super) fn classify(status: &Status) -> Row {
    match status {
        Status::Local(local) => of_local(local),
        Status::Said { code, words } => words_of_a_server(words).unwrap_or_else(|| of_code(*code)),
    }
}

fn of_local(local: &Local) -> Row {
    match local {
        Local::NotSent(_) | Local::HungUp(_) => Row::NotSent,
        Local::TurnedAway(_) => Row::TurnedAway,
        Local::Tls { .. } | Local::TlsOnOneSide(_) => Row::TlsRefused,
        Local::Broken { end, cause } => broken(end.as_deref().unwrap_or_default(), cause),
        Local::Ended(_) => Row::Severed,
        Local::NobodyBehind(_) => Row::Other(Code::Unavailable),
        Local::RefusedByProxy(_) => Row::RequestTooLarge,
        Local::NotGrpc(_) => Row::NotGrpc,
        Local::AnswerTooLarge { .. } => Row::AnswerTooLarge,
    }
}

/// What TLS said is told by h2 only in words.
fn broken(end: &str, cause: &h2::Error) -> Row {
    let words = cause.to_string();
    let says = |text: &str| words.contains(text) || end.contains(text);
    if says("received fatal alert") {
        Row::IdentityRefused
    } else if cause.reason() == Some(Reason::REFUSED_STREAM) && !cause.is_go_away() {
        // The server did not begin with it (RFC 9113, section 8.7).
        Row::NotSent
    } else {
        Row::Severed
    }
}

/// The case by the words of a server: the message of an answer, or the reason that a watch was cancelled for.
pub(super) fn words_of_a_server(words: &str) -> Option<Row> {
    const TABLE: &[(&str, Row)] = &[
        ("trying to send message larger than max", Row::AnswerTooLarge),
        ("etcdserver: no leader", Row::NoLeader),
        // raft returns it before an entry is appended; etcd passes it on with the code `Unknown`.
        ("raft proposal dropped", Row::NoLeader),
        ("leader changed", Row::LeaderChanged),
        ("request timed out", Row::TimedOut),
        ("deadline exceeded", Row::TimedOut),
        ("applied index took too long", Row::Failing),
        ("server stopped", Row::Failing),
        // raft says so to a request that waits for the proposal to be taken, which may have happened (`raft/node.go`, `stepWithWaitOption`).
        ("raft: stopped", Row::Failing),
        // A server, or a proxy, that stops cancels the requests it is serving. The caller of this client never sees its own cancellation.
        ("request cancelled", Row::Failing),
        ("request canceled", Row::Failing),
        ("context canceled", Row::Failing),
        ("watch canceled", Row::Failing),
        ("connection is closing", Row::Failing),
        ("unhealthy cluster", Row::Failing),
        ("not a primary lessor", Row::NotThisMember),
        ("etcdserver: not leader", Row::NotThisMember),
        ("not supported for learner", Row::NotThisMember),
        ("not capable", Row::NotThisMember),
        ("too many requests", Row::TooManyRequests),
        ("database space exceeded", Row::NoSpace),
        ("received message larger than max", Row::RequestTooLarge),
        ("request is too large", Row::RequestTooLarge),
        ("too many operations in txn", Row::TooManyOperations),
        ("duplicate key given", Row::InvalidRequest),
        ("key is not provided", Row::InvalidRequest),
        ("key not found", Row::InvalidRequest),
        ("value is provided", Row::InvalidRequest),
        ("lease is provided", Row::InvalidRequest),
        ("too large lease ttl", Row::InvalidRequest),
        ("watcher range is empty", Row::InvalidRequest),
        ("duplicate watch id", Row::InvalidRequest),
        ("user name is empty", Row::TokenRefused),
        ("invalid auth token", Row::TokenRefused),
        ("revision of auth store is old", Row::AuthChanged),
        // The same in the words of the auth store: 3.4.9 and 3.5.1, for example, do not translate it.
        ("revision in header is old", Row::AuthChanged),
        ("authentication failed", Row::LoginRefused),
        ("authentication is not enabled", Row::AuthDisabled),
        ("permission denied", Row::PermissionDenied),
        ("has been compacted", Row::Compacted),
        ("future revision", Row::FutureRevision),
        ("requested lease not found", Row::LeaseNotFound),
        ("lease already exists", Row::LeaseExists),
        ("corrupt cluster", Row::CorruptCluster),
        ("unknown service", Row::UnknownCall),
        ("unknown method", Row::UnknownCall),
    ];
    let words = words.to_ascii_lowercase();
    TABLE.iter().find(|(text, _)| words.contains(text)).map(|(_, row)| *row)
}

fn of_code(code: Code) -> Row {
    match code {
        Code::PermissionDenied => Row::PermissionDenied,
        Code::Unauthenticated => Row::TokenRefused,
        Code::Unimplemented => Row::UnknownCall,
        Code::DataLoss => Row::CorruptCluster,
        code => Row::Other(code),
    }
}

/// An attempt, or a whole call, that failed. Several callers may get the same.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) row: Row,
    /// A write may have been applied, by this attempt or one before.
    pub(super) may_have_applied: bool,
    /// It happened before the request itself was sent.
    unsent: bool,
    /// This client gave up waiting; neither the server nor the connection said anything.
    pub(super) by_clock: bool,
    words: String,
    cause: Option<Status>,
}

impl Failure {
    /// What became of a request to `endpoint`.
    pub(super) fn of(endpoint: &str, status: Status) -> Self {
        Self { cause: Some(status.clone()), ..Self::new(classify(&status), format!("{endpoint}: {}", words(&status))) }
    }

    /// The same, found before the request itself was sent.
    pub(super) fn before_sending(self) -> Self {
        Self { unsent: true, ..self }
    }

    /// The same, as the end of a call of which earlier attempts may have been applied.
    pub(super) fn after(mut self, may_have_applied: bool) -> Self {
        self.may_have_applied |= may_have_applied;
        self
    }

    /// What it means for the request.
    pub(super) fn verdict(&self) -> Verdict {
        let verdict = self.row.verdict();
        let repeat = if self.unsent && verdict.repeat == Repeat::Harmless { Repeat::Always } else { verdict.repeat };
        Verdict { repeat, may_have_applied: verdict.may_have_applied && !self.unsent, ..verdict }
    }

    /// What was said, for a person.
    pub(super) fn words(&self) -> &str {
        &self.words
    }

    /// Of an answer that was larger than we take: its length and our limit.
    pub(super) fn answer_length(&self) -> Option<(usize, usize)> {
        match self.cause.as_ref()? {
            Status::Local(Local::AnswerTooLarge { length, limit }) => Some((*length, *limit)),
            _ => None,
        }
    }

    /// One that was found here.
    pub(super) fn new(row: Row, words: impl Into<String>) -> Self {
        Self { row, may_have_applied: false, unsent: false, by_clock: false, words: words.into(), cause: None }
    }

    /// This client gave up waiting.
    pub(super) fn by_clock(row: Row, words: impl Into<String>) -> Self {
        Self { by_clock: true, ..Self::new(row, words) }
    }

    /// The same, as the end of a call whose time is over.
    pub(super) fn after_giving_up(self, call_timeout: Duration) -> Self {
        // A login within the call may have said so.
        if self.words.contains("; gave up after ") {
            return self;
        }
        Self { words: format!("{}; gave up after {call_timeout:?} (`call_timeout`)", self.words), ..self }
    }
}

/// A refusal in the words of a server.
const DENIED: &str = "etcdserver: permission denied";

/// The same in ours, where it is not known what the user may not do.
pub(super) const NOT_ALLOWED: &str = "the roles of the user do not allow it";

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let hint = match failure.row {
            Row::NotGrpc if failure.words.contains("use the scheme") => "",
            Row::NotGrpc => " (is it an etcd v3 server, and is the scheme right? v2 is etcd2://, TLS is etcds://)",
            Row::UnknownCall => " (it is no etcd v3 server, or too old: 3.4 is needed)",
            Row::TooManyOperations => {
                " (the server's flag `--max-txn-ops` is lower than this client's `max_operations`: set both to the same number)"
            }
            Row::RequestTooLarge if failure.words.contains("etcdserver:") || failure.words.contains("grpc:") => {
                " (the server's flag `--max-request-bytes` limits it: divide the request, or raise the flag and this client's `max_request_bytes`)"
            }
            Row::TokenRefused => " (give user and password in the address)",
            _ => "",
        };
        let alert = if failure.row == Row::IdentityRefused { advice(&failure.words) } else { "" };
        let hint = if alert.is_empty() { hint.to_owned() } else { format!(": {alert}") };
        let words = match failure.row {
            // Where the kind says it, the server's words would say it once more.
            Row::PermissionDenied => failure.words.replace(DENIED, NOT_ALLOWED),
            _ => failure.words,
        };
        let mut error = Self::new(failure.row.verdict().kind, format!("{words}{hint}"));
        if let Some(status) = failure.cause {
            error = error.caused_by(status);
        }
        if failure.may_have_applied { error.outcome_unknown() } else { error }
    }
}

/// The words of a status with those of its causes, innermost last, each said once.
fn words(status: &Status) -> String {
    let mut words = status.to_string();
    let mut next = StdError::source(status);
    while let Some(error) = next {
        let text = error.to_string();
        if !text.is_empty() && !words.contains(&text) {
            if !words.is_empty() {
                words.push_str(": ");
            }
            words.push_str(&text);
        }
        next = error.source();
    }
    words
}

#[cfg(test)]
mod tests;
