//! One test for each row of the table: a status and its classification.

use std::io;
use std::sync::Arc;

use http::StatusCode;

use super::*;

fn said(code: Code, words: &str) -> Status {
    Status::Said { code, words: words.to_owned() }
}

/// Returns the status of a stream that failed with `cause`, on a connection that ended because of
/// `end`.
fn broken(end: Option<&str>, cause: impl Into<h2::Error>) -> Status {
    Local::Broken { end: end.map(str::to_owned), cause: Arc::new(cause.into()) }.into()
}

#[track_caller]
fn assert_row(status: &Status, row: Row, kind: ErrorKind, repeat: Repeat, may_have_applied: bool) {
    assert_eq!(classify(status), row, "{status:?}");
    let verdict = row.verdict();
    assert_eq!((verdict.kind, verdict.repeat, verdict.may_have_applied), (kind, repeat, may_have_applied), "{status:?}");
}

#[test]
fn request_without_connection_is_not_sent() {
    let status = Local::NotSent("Connection refused (os error 111)".to_owned()).into();
    assert_row(&status, Row::NotSent, ErrorKind::Unavailable, Repeat::Always, false);
}

#[test]
fn untrusted_server_gives_tls_error() {
    let cause = Arc::new(io::Error::other("invalid peer certificate: UnknownIssuer"));
    let untrusted = Local::Tls { words: "the server's certificate is signed by nobody".to_owned(), cause, is_tls: true };
    for local in [untrusted, Local::TlsOnOneSide("the server speaks TLS")] {
        assert_row(&local.into(), Row::TlsRefused, ErrorKind::Tls, Repeat::Elsewhere, false);
    }
}

#[test]
fn refused_client_certificate_gives_tls_error() {
    let status = broken(Some("received fatal alert: CertificateRequired"), Reason::CANCEL);
    assert_row(&status, Row::IdentityRefused, ErrorKind::Tls, Repeat::Elsewhere, true);
}

#[test]
fn refused_http2_stream_means_request_was_not_sent() {
    assert_row(&broken(None, Reason::REFUSED_STREAM), Row::NotSent, ErrorKind::Unavailable, Repeat::Always, false);
}

#[test]
fn closing_server_turns_requests_away() {
    let status = Local::TurnedAway("connection error received: not a result of an error".to_owned()).into();
    assert_row(&status, Row::TurnedAway, ErrorKind::Unavailable, Repeat::Always, false);
    assert!(!Row::TurnedAway.verdict().endpoint_failed, "another connection to this endpoint accepts the request");
}

#[test]
fn broken_connection_leaves_outcome_unknown() {
    for status in [
        broken(Some("Connection reset by peer (os error 104)"), Reason::INTERNAL_ERROR),
        broken(Some("no answer to a ping within 2s"), Reason::INTERNAL_ERROR),
        broken(None, Reason::CANCEL),
        broken(None, Reason::NO_ERROR),
        Local::Ended("without a status").into(),
    ] {
        assert_row(&status, Row::Severed, ErrorKind::Unavailable, Repeat::Harmless, true);
    }
}

#[test]
fn timeout_leaves_outcome_unknown() {
    for status in [
        said(Code::Unknown, "context deadline exceeded"),
        said(Code::DeadlineExceeded, "context deadline exceeded"),
        said(Code::Unavailable, "etcdserver: request timed out"),
        said(Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"),
        said(Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost"),
    ] {
        assert_row(&status, Row::TimedOut, ErrorKind::Timeout, Repeat::Harmless, true);
    }
}

#[test]
fn too_large_answer_is_not_compaction() {
    let status: Status = Local::AnswerTooLarge { length: 80_000_000, limit: 67_108_864 }.into();
    assert_row(&status, Row::AnswerTooLarge, ErrorKind::TooLarge, Repeat::Never, true);
    assert_eq!(Failure::of("here", status).answer_length(), Some((80_000_000, 67_108_864)));
    let status = said(Code::ResourceExhausted, "grpc: trying to send message larger than max (3000000000 vs. 2147483647)");
    assert_row(&status, Row::AnswerTooLarge, ErrorKind::TooLarge, Repeat::Never, true);
    assert_eq!(Failure::of("here", status).answer_length(), None);
}

#[test]
fn request_without_leader_is_not_applied() {
    assert_row(&said(Code::Unavailable, "etcdserver: no leader"), Row::NoLeader, ErrorKind::Unavailable, Repeat::Always, false);
}

#[test]
fn reads_are_retried_after_leader_change() {
    assert_row(&said(Code::Unavailable, "etcdserver: leader changed"), Row::LeaderChanged, ErrorKind::Unavailable, Repeat::Harmless, true);
}

#[test]
fn failing_member_leaves_outcome_unknown() {
    for text in [
        "etcdserver: server stopped",
        "etcdserver: unhealthy cluster",
        "etcdserver: applied index took too long, waiting for the applied index took too long",
    ] {
        assert_row(&said(Code::Unavailable, text), Row::Failing, ErrorKind::Unavailable, Repeat::Harmless, true);
    }
}

/// etcd passes errors of raft and of cancelled contexts on with the code `Unknown` (3.4) or
/// `Canceled`. The caller caused none of them.
#[test]
fn stopping_server_leaves_outcome_unknown() {
    for (code, text) in [
        (Code::Unknown, "raft: stopped"),
        (Code::Unavailable, "etcdserver: server stopped"),
        (Code::Unknown, "etcdserver: request cancelled"),
        (Code::Cancelled, "etcdserver: request canceled"),
        (Code::Unknown, "context canceled"),
        (Code::Cancelled, "context canceled"),
        (Code::Cancelled, "etcdserver: watch canceled"),
        (Code::Cancelled, "grpc: the client connection is closing"),
    ] {
        let status = said(code, text);
        assert_row(&status, Row::Failing, ErrorKind::Unavailable, Repeat::Harmless, true);
        assert!(Row::Failing.verdict().endpoint_failed, "another member is asked next");
    }
}

/// raft drops a proposal before it appends an entry: as a follower or candidate without a leader,
/// and as a leader that hands over leadership.
#[test]
fn dropped_proposal_is_retried_elsewhere() {
    let status = said(Code::Unknown, "raft proposal dropped");
    assert_row(&status, Row::NoLeader, ErrorKind::Unavailable, Repeat::Always, false);
    assert!(Row::NoLeader.verdict().endpoint_failed, "another member is asked next");
}

#[test]
fn request_to_unsuitable_member_is_retried_elsewhere() {
    for status in [
        said(Code::Unknown, "etcdserver: not a primary lessor"),
        said(Code::FailedPrecondition, "etcdserver: not leader"),
        said(Code::FailedPrecondition, "etcdserver: rpc not supported for learner"),
        said(Code::Unavailable, "etcdserver: not capable"),
    ] {
        assert_row(&status, Row::NotThisMember, ErrorKind::Unavailable, Repeat::Always, false);
    }
}

#[test]
fn overloaded_server_does_not_apply_request() {
    let status = said(Code::ResourceExhausted, "etcdserver: too many requests");
    assert_row(&status, Row::TooManyRequests, ErrorKind::Unavailable, Repeat::Always, false);
}

#[test]
fn no_space_leaves_outcome_unknown() {
    let status = said(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
    assert_row(&status, Row::NoSpace, ErrorKind::NoSpace, Repeat::Never, true);
}

#[test]
fn too_large_request_is_not_applied() {
    for status in [
        said(Code::ResourceExhausted, "grpc: received message larger than max (3000052 vs. 2097152)"),
        said(Code::InvalidArgument, "etcdserver: request is too large"),
    ] {
        assert_row(&status, Row::RequestTooLarge, ErrorKind::TooLarge, Repeat::Never, false);
    }
}

#[test]
fn size_limit_of_proxy_is_explained() {
    let status: Status = Local::RefusedByProxy(StatusCode::PAYLOAD_TOO_LARGE).into();
    assert_row(&status, Row::RequestTooLarge, ErrorKind::TooLarge, Repeat::Never, false);
    let said = Error::from(Failure::of("127.0.0.1:80", status)).to_string();
    assert!(said.contains("proxy") && said.contains("client_max_body_size") && !said.contains("etcd v3 server"), "{said}");
}

#[test]
fn too_many_operations_are_not_applied() {
    let status = said(Code::InvalidArgument, "etcdserver: too many operations in txn request");
    assert_row(&status, Row::TooManyOperations, ErrorKind::TooManyOperations, Repeat::Never, false);
}

#[test]
fn invalid_request_is_not_applied() {
    for text in [
        "etcdserver: duplicate key given in txn request",
        "etcdserver: key is not provided",
        "etcdserver: key not found",
        "etcdserver: value is provided",
        "etcdserver: lease is provided",
        "etcdserver: too large lease TTL",
    ] {
        assert_row(&said(Code::InvalidArgument, text), Row::InvalidRequest, ErrorKind::Invalid, Repeat::Never, false);
    }
}

#[test]
fn refused_token_is_renewed() {
    for status in [
        said(Code::InvalidArgument, "etcdserver: user name is empty"),
        said(Code::Unauthenticated, "etcdserver: invalid auth token"),
        said(Code::Unauthenticated, "whatever a proxy says"),
    ] {
        assert_row(&status, Row::TokenRefused, ErrorKind::Unauthenticated, Repeat::AfterLogin, false);
    }
}

#[test]
fn change_of_users_requires_new_login() {
    for status in
        [said(Code::InvalidArgument, "etcdserver: revision of auth store is old"), said(Code::Unknown, "auth: revision in header is old")]
    {
        assert_row(&status, Row::AuthChanged, ErrorKind::Unauthenticated, Repeat::AfterLogin, false);
    }
}

#[test]
fn refused_login_is_not_retried() {
    let status = said(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");
    assert_row(&status, Row::LoginRefused, ErrorKind::Unauthenticated, Repeat::Never, false);
    let status = said(Code::FailedPrecondition, "etcdserver: authentication is not enabled");
    assert_row(&status, Row::AuthDisabled, ErrorKind::Unauthenticated, Repeat::Never, false);
}

#[test]
fn permission_denied_is_not_retried() {
    for status in [said(Code::PermissionDenied, "etcdserver: permission denied"), said(Code::PermissionDenied, "no")] {
        assert_row(&status, Row::PermissionDenied, ErrorKind::PermissionDenied, Repeat::Never, false);
    }
}

#[test]
fn compacted_and_future_revisions_are_history_lost() {
    let gone = said(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    assert_row(&gone, Row::Compacted, ErrorKind::HistoryLost, Repeat::Never, false);
    let future = said(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    assert_row(&future, Row::FutureRevision, ErrorKind::HistoryLost, Repeat::Never, false);
}

#[test]
fn lease_errors_are_classified() {
    for status in
        [said(Code::NotFound, "etcdserver: requested lease not found"), said(Code::Unknown, "etcdserver: requested lease not found")]
    {
        assert_row(&status, Row::LeaseNotFound, ErrorKind::LeaseLost, Repeat::Never, false);
    }
    let exists = said(Code::FailedPrecondition, "etcdserver: lease already exists");
    assert_row(&exists, Row::LeaseExists, ErrorKind::AlreadyExists, Repeat::Never, false);
}

#[test]
fn corrupt_cluster_error_is_not_retried() {
    for status in [said(Code::DataLoss, "etcdserver: corrupt cluster"), said(Code::DataLoss, "anything")] {
        assert_row(&status, Row::CorruptCluster, ErrorKind::Server, Repeat::Never, true);
    }
}

#[test]
fn unknown_method_gives_unsupported_error() {
    for text in ["unknown service etcdserverpb.KV", "unknown method AuthStatus for service etcdserverpb.Auth", ""] {
        assert_row(&said(Code::Unimplemented, text), Row::UnknownCall, ErrorKind::Unsupported, Repeat::Elsewhere, false);
    }
}

#[test]
fn error_explains_server_without_grpc() {
    let not_grpc: Status = Local::NotGrpc("HTTP status 404".to_owned()).into();
    assert_row(&not_grpc, Row::NotGrpc, ErrorKind::Server, Repeat::Elsewhere, true);
    // The next status comes from a proxy that cannot reach a server.
    let unavailable = Local::NobodyBehind(StatusCode::SERVICE_UNAVAILABLE).into();
    assert_row(&unavailable, Row::Other(Code::Unavailable), ErrorKind::Unavailable, Repeat::Harmless, true);
    let said = Error::from(Failure::of("127.0.0.1:80", not_grpc)).to_string();
    assert!(said.contains("127.0.0.1:80") && said.contains("is it an etcd v3 server"), "{said}");
}

#[test]
fn unknown_message_is_classified_by_code() {
    assert_row(&said(Code::Unavailable, "x"), Row::Other(Code::Unavailable), ErrorKind::Unavailable, Repeat::Harmless, true);
    assert_row(&said(Code::Cancelled, "x"), Row::Other(Code::Cancelled), ErrorKind::Timeout, Repeat::Harmless, true);
    assert_row(&said(Code::InvalidArgument, "x"), Row::Other(Code::InvalidArgument), ErrorKind::Server, Repeat::Never, false);
    for code in [Code::Unknown, Code::Internal, Code::Aborted, Code::ResourceExhausted] {
        assert_row(&said(code, "x"), Row::Other(code), ErrorKind::Server, Repeat::Never, true);
    }
}

/// A write is sent twice only if it was not applied.
#[test]
fn writes_with_unknown_outcome_are_not_retried() {
    let codes = Code::ALL.into_iter().map(Row::Other);
    let rows = [
        Row::NotSent,
        Row::TurnedAway,
        Row::TlsRefused,
        Row::IdentityRefused,
        Row::NotGrpc,
        Row::Severed,
        Row::TimedOut,
        Row::AnswerTooLarge,
        Row::NoLeader,
        Row::LeaderChanged,
        Row::Failing,
        Row::NotThisMember,
        Row::TooManyRequests,
        Row::NoSpace,
        Row::RequestTooLarge,
        Row::TooManyOperations,
        Row::InvalidRequest,
        Row::TokenRefused,
        Row::AuthChanged,
        Row::LoginRefused,
        Row::AuthDisabled,
        Row::PermissionDenied,
        Row::Compacted,
        Row::FutureRevision,
        Row::LeaseNotFound,
        Row::LeaseExists,
        Row::CorruptCluster,
        Row::ForeignCluster,
        Row::ClusterReplaced,
        Row::UnknownCall,
    ];
    for row in rows.into_iter().chain(codes) {
        let verdict = row.verdict();
        if matches!(verdict.repeat, Repeat::Always | Repeat::AfterLogin) {
            assert!(!verdict.may_have_applied, "{row:?}");
        }
    }
}

#[test]
fn error_names_endpoint_and_keeps_cause() {
    let error = Error::from(Failure::of("127.0.0.1:2379", Local::NotSent("Connection refused (os error 111)".to_owned()).into()));
    assert_eq!(error.to_string(), "unavailable: 127.0.0.1:2379: no connection: Connection refused (os error 111)");
    assert!(error.source().is_some());
}

#[test]
fn failure_before_sending_means_not_applied() {
    for row in [Row::Severed, Row::TimedOut, Row::Failing] {
        let verdict = Failure::new(row, "").before_sending().verdict();
        assert_eq!((verdict.repeat, verdict.may_have_applied), (Repeat::Always, false), "{row:?}");
    }
    for row in [Row::IdentityRefused, Row::NotGrpc] {
        let verdict = Failure::new(row, "").before_sending().verdict();
        assert_eq!((verdict.repeat, verdict.may_have_applied), (Repeat::Elsewhere, false), "{row:?}");
    }
}
