//! Decides what a failed gRPC call means. Only this module turns a [`Status`] into an [`ErrorKind`]
//! and decides about retries.
//!
//! The gRPC code alone says too little: an answer that is too large and a compacted revision share
//! a code, and so do a stopping server and one that cannot be reached. So the first question is who
//! reported the error. An error that the client detected is a [`Local`]. For an error from a
//! server, the message decides; the code counts only if the message is unknown. Each [`Row`] is a
//! failure that was seen with etcd 3.4.23, 3.5.1 or 3.5.30, or that appears in etcd's sources
//! (`api/v3rpc/rpctypes/error.go`).

use std::error::Error as StdError;
use std::time::Duration;

use h2::Reason;

use super::grpc::{Code, Local, Status};
use super::tls::advice;
use crate::error::{Error, ErrorKind};

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// The request was never sent: there is no connection, or the server refused the stream before
    /// processing it.
    NotSent,
    /// The server is closing its connection gracefully and did not begin the request. Another
    /// connection accepts the request at once.
    TurnedAway,
    /// The TLS handshake failed, because of the server's certificate or because only one side uses
    /// TLS. A handshake that was merely cut off is [`Row::NotSent`].
    TlsRefused,
    /// The server refused the client's certificate, or requires one. The server says so only after
    /// the handshake.
    IdentityRefused,
    /// The peer does not speak HTTP/2 or gRPC.
    NotGrpc,
    /// The connection broke while the request was under way.
    Severed,
    /// A time limit of the client or of the server was reached.
    TimedOut,
    /// The answer exceeds the client's limit and was not read. The request was performed.
    AnswerTooLarge,
    /// The member knows no leader, or raft dropped the proposal (no leader, or leadership is being
    /// transferred). Nothing was appended to the log.
    NoLeader,
    /// The leader changed during a read.
    LeaderChanged,
    /// The member is stopping, lags or has lost its cluster. It may stop between a proposal and its
    /// answer, so a write may have been applied.
    Failing,
    /// This member cannot serve the request (it is a learner, or not the leader). Another member
    /// may be able to.
    NotThisMember,
    /// Too many requests wait to be applied. The server refused the request before proposing it.
    TooManyRequests,
    /// The space alarm is active. The server may report it for a write that was applied
    /// (quotaApplierV3).
    NoSpace,
    RequestTooLarge,
    TooManyOperations,
    /// The server considers the request invalid.
    InvalidRequest,
    /// The token is missing or has expired.
    TokenRefused,
    /// Users or roles changed while the request was under way. A user with a client certificate can
    /// retry without a login.
    AuthChanged,
    /// User or password is wrong.
    LoginRefused,
    /// Authentication is off, so the server refuses every login.
    AuthDisabled,
    PermissionDenied,
    Compacted,
    FutureRevision,
    LeaseNotFound,
    LeaseExists,
    CorruptCluster,
    /// The answer comes from another cluster than the client's.
    ForeignCluster,
    /// The client has moved to another cluster, and this call was meant for the former cluster.
    ClusterReplaced,
    /// The server does not know the method.
    UnknownCall,
    /// Neither the message nor the code is known.
    Other(Code),
}

/// Whether the same request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Any request may be sent again, even a write, because it was not applied.
    Always,
    /// Only a request that may safely happen twice may be sent again.
    Harmless,
    /// The request may be sent again to another endpoint. It would fail again at this one.
    Elsewhere,
    /// The request may be sent again after a login.
    AfterLogin,
    /// The request must not be sent again.
    Never,
}

/// The meaning of a [`Row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) kind: ErrorKind,
    pub(super) repeat: Repeat,
    /// Whether a write may have been applied, or may be applied later.
    pub(super) may_have_applied: bool,
    /// Whether another endpoint should be asked next.
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

/// Classifies the status of a failed call.
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

/// Classifies a broken stream or connection. `h2` reports TLS alerts only as text.
fn broken(end: &str, cause: &h2::Error) -> Row {
    let words = cause.to_string();
    let says = |text: &str| words.contains(text) || end.contains(text);
    if says("received fatal alert") {
        Row::IdentityRefused
    } else if cause.reason() == Some(Reason::REFUSED_STREAM) && !cause.is_go_away() {
        // The server did not begin the request (RFC 9113, section 8.7).
        Row::NotSent
    } else {
        Row::Severed
    }
}

/// Classifies the message of an answer, or the reason for which the server cancelled a watch.
pub(super) fn words_of_a_server(words: &str) -> Option<Row> {
    const TABLE: &[(&str, Row)] = &[
        ("trying to send message larger than max", Row::AnswerTooLarge),
        ("etcdserver: no leader", Row::NoLeader),
        // raft returns this error before it appends an entry; etcd passes the error on with the
        // code `Unknown`.
        ("raft proposal dropped", Row::NoLeader),
        ("leader changed", Row::LeaderChanged),
        ("request timed out", Row::TimedOut),
        ("deadline exceeded", Row::TimedOut),
        ("applied index took too long", Row::Failing),
        ("server stopped", Row::Failing),
        // raft returns this error to a request that waits until its proposal is accepted. The
        // proposal may have been accepted already (`raft/node.go`, `stepWithWaitOption`).
        ("raft: stopped", Row::Failing),
        // A stopping server or proxy cancels the requests that it is serving. A call that its own
        // caller cancelled is never classified.
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
        // The same error in the words of the auth store, which some versions (3.4.9 and 3.5.1, for
        // example) pass on unchanged.
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

/// A failed attempt or call. Several callers may get the same failure.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) row: Row,
    /// Whether a write may have been applied, by this attempt or an earlier one.
    pub(super) may_have_applied: bool,
    /// Whether the attempt failed before the request itself was sent.
    unsent: bool,
    /// Whether the client gave up waiting, without an error from the server or the connection.
    pub(super) by_clock: bool,
    words: String,
    cause: Option<Status>,
}

impl Failure {
    /// Returns the failure of a request to `endpoint`.
    pub(super) fn of(endpoint: &str, status: Status) -> Self {
        Self { cause: Some(status.clone()), ..Self::new(classify(&status), format!("{endpoint}: {}", words(&status))) }
    }

    /// Records that the request itself was not sent.
    pub(super) fn before_sending(self) -> Self {
        Self { unsent: true, ..self }
    }

    /// Records whether an earlier attempt of the call may have been applied.
    pub(super) fn after(mut self, may_have_applied: bool) -> Self {
        self.may_have_applied |= may_have_applied;
        self
    }

    /// Returns the meaning of this failure for the request.
    pub(super) fn verdict(&self) -> Verdict {
        let verdict = self.row.verdict();
        let repeat = if self.unsent && verdict.repeat == Repeat::Harmless { Repeat::Always } else { verdict.repeat };
        Verdict { repeat, may_have_applied: verdict.may_have_applied && !self.unsent, ..verdict }
    }

    /// Returns the message for a person.
    pub(super) fn words(&self) -> &str {
        &self.words
    }

    /// Returns the length of an answer that was too large, and the client's limit.
    pub(super) fn answer_length(&self) -> Option<(usize, usize)> {
        match self.cause.as_ref()? {
            Status::Local(Local::AnswerTooLarge { length, limit }) => Some((*length, *limit)),
            _ => None,
        }
    }

    /// Returns a failure that the client detected.
    pub(super) fn new(row: Row, words: impl Into<String>) -> Self {
        Self { row, may_have_applied: false, unsent: false, by_clock: false, words: words.into(), cause: None }
    }

    /// Returns a failure of a call that the client gave up because its time was over.
    pub(super) fn by_clock(row: Row, words: impl Into<String>) -> Self {
        Self { by_clock: true, ..Self::new(row, words) }
    }

    /// Appends to the message that the call gave up after `call_timeout`.
    pub(super) fn after_giving_up(self, call_timeout: Duration) -> Self {
        // A login that was part of the call may have appended this text already.
        if self.words.contains("; gave up after ") {
            return self;
        }
        Self { words: format!("{}; gave up after {call_timeout:?} (`call_timeout`)", self.words), ..self }
    }
}

/// A server's message for a missing right.
const DENIED: &str = "etcdserver: permission denied";

/// The client's replacement for [`DENIED`] if the missing right is unknown.
pub(super) const NOT_ALLOWED: &str = "the roles of the user do not allow it";

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let hint = match failure.row {
            Row::NotGrpc if failure.words.contains("use the scheme") => "",
            Row::NotGrpc => " (is it an etcd v3 server, and is the scheme right? v2 is etcd2://, TLS is etcds://)",
            Row::UnknownCall => " (it is not an etcd v3 server, or older than 3.4, which is needed)",
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
            // The kind already says "permission denied", so the server's message would repeat it.
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

/// Joins the message of a status with those of its causes, innermost last, without repetition.
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
