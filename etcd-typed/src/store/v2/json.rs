//! Parses answers and defines what the server's error codes mean. No other file maps a code to an
//! [`ErrorKind`].

mod text;

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub(super) use self::text::Text;
use self::text::with_losses;
use crate::error::{Error, ErrorKind};
use crate::revision::Revision;
use crate::store::{DirectoryNode, KeyValue};
use crate::value::LOST;

/// A complete answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The index in the header `X-Etcd-Index`.
    pub(super) index: Option<u64>,
    /// The cluster id in the header `X-Etcd-Cluster-Id`.
    pub(super) cluster: Option<String>,
    pub(super) body: Bytes,
    /// Whether the request had credentials.
    pub(super) authenticated: bool,
    /// The kind of server. Set after a 404 that the keys API did not send.
    pub(super) server: Option<Server>,
}

/// The kind of a server that lacks the v2 API, according to its answer to `/version`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// An etcd of this version.
    Etcd(String),
    /// The server answers, but not like an etcd.
    Other,
    /// The server did not answer, for this reason.
    Unknown(String),
}

/// Parses an answer to `/version`. Every etcd answers `/version`, with or without the v2 API, even
/// to clients without credentials.
pub(super) fn server(status: u16, body: &[u8]) -> Server {
    match (status, serde_json::from_slice::<VersionBody>(body)) {
        (200, Ok(VersionBody { etcdserver })) if etcdserver.len() <= 64 && etcdserver.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Server::Etcd(etcdserver)
        }
        (200 | 404, _) => Server::Other,
        _ => Server::Unknown(format!("HTTP status {status}")),
    }
}

/// The body of an answer to `/version`.
#[derive(Deserialize)]
pub(super) struct VersionBody {
    pub(super) etcdserver: String,
}

/// A definite answer of the keys API: the request succeeded or was refused.
#[derive(Debug)]
pub(super) struct Reply {
    /// The store's revision at the time of the answer.
    pub(super) index: Revision,
    pub(super) outcome: Result<Change, Refusal>,
}

/// The result of a read or write.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) action: Action,
    pub(super) node: Node,
    pub(super) previous: Option<Node>,
}

/// The `action` of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Action {
    Get,
    Set,
    Create,
    Update,
    CompareAndSwap,
    Delete,
    CompareAndDelete,
    Expire,
}

impl Action {
    /// Returns whether the node no longer exists after this action.
    pub(super) fn removes(self) -> bool {
        matches!(self, Self::Delete | Self::CompareAndDelete | Self::Expire)
    }
}

/// A key with its value, or a directory. The root has neither key nor indexes.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Node {
    pub(super) key: Text,
    pub(super) value: Option<Text>,
    pub(super) dir: bool,
    /// The remaining time to live in seconds, rounded up. It is negative in events about the past.
    /// The server omits a zero, which occurs for half a second before the key vanishes.
    pub(super) ttl: Option<i64>,
    /// When the node expires, by the clock of a server. Only its presence is used.
    pub(super) expiration: Option<serde::de::IgnoredAny>,
    pub(super) nodes: Vec<Self>,
    pub(super) modified_index: u64,
    pub(super) created_index: u64,
}

impl Node {
    pub(super) fn into_kv(self) -> KeyValue {
        KeyValue {
            ttl: self.ttl(),
            key: self.key.0,
            value: match self.value {
                Some(value) if value.as_str().is_none() => Bytes::from_static(LOST),
                value => value.unwrap_or_default().0,
            },
            created: Revision::new(self.created_index),
            modified: Revision::new(self.modified_index),
            version: None,
            lease: None,
        }
    }

    pub(super) fn into_directory(self) -> DirectoryNode {
        DirectoryNode {
            ttl: self.ttl(),
            key: self.key.or_root(),
            created: Revision::new(self.created_index),
            modified: Revision::new(self.modified_index),
        }
    }

    fn ttl(&self) -> Option<Duration> {
        let seconds = self.ttl.or(self.expiration.map(|_| 0))?;
        Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }
}

/// The server understood the request and refused it. Nothing was changed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: u16,
    cause: String,
    authenticated: bool,
}

impl Refusal {
    pub(super) const NOT_FOUND: u16 = 100;
    pub(super) const COMPARE_FAILED: u16 = 101;
    pub(super) const EXISTS: u16 = 105;

    /// Returns whether the key, or a directory above it, does not exist.
    pub(super) fn is_not_found(&self) -> bool {
        self.code == Self::NOT_FOUND
    }

    /// Returns `Some` if the requested events are no longer available. The inner value is the
    /// oldest available revision, if the server reports it.
    pub(super) fn history_lost(&self) -> Option<Option<Revision>> {
        if !matches!(self.code, 400 | 401) {
            return None;
        }
        // The cause is "the requested history has been cleared [132/126]": the oldest revision and
        // the requested one.
        let oldest = self.cause.rsplit_once('[').and_then(|(_, pair)| pair.split_once('/')).and_then(|(oldest, _)| oldest.parse().ok());
        Some(oldest.map(Revision::new))
    }

    /// Returns whether a bug of etcd 3.5 caused this refusal. That version answers every update of
    /// a directory as if raft had failed, and changes nothing: "nodePath /1/d : Not a file ()".
    fn is_defect_of_3_5(&self) -> bool {
        self.code == 300 && self.cause.starts_with("nodePath ")
    }

    /// Converts to an error. The message shows the cause only for kinds where the cause is a path
    /// or the server's own text, because other causes quote values.
    pub(super) fn into_error(self) -> Error {
        let code = self.code;
        let (kind, message) = match code {
            100 => (ErrorKind::NotFound, String::new()),
            101 => (ErrorKind::Conflict, String::new()),
            102 => (ErrorKind::IsADirectory, self.cause),
            104 => (ErrorKind::NotADirectory, format!("{} holds a value", self.cause)),
            105 => (ErrorKind::AlreadyExists, self.cause),
            107 => (ErrorKind::InvalidKey, "the root of an etcd v2 store cannot be written or deleted".to_owned()),
            108 => (ErrorKind::DirectoryNotEmpty, "names that begin with `_` count, although listings leave them out".to_owned()),
            110 if self.authenticated => {
                (ErrorKind::PermissionDenied, "the password is wrong or the user may not do this; etcd v2 does not say which".to_owned())
            }
            110 => (ErrorKind::Unauthenticated, "the server requires a user and a password".to_owned()),
            210 if self.cause.contains("too large") => (ErrorKind::TooLarge, "the server accepts forms of at most 10 MiB".to_owned()),
            300 if self.is_defect_of_3_5() => {
                (ErrorKind::Unsupported, "etcd v2 of a 3.5 server cannot change the time to live of a directory; make it anew".to_owned())
            }
            300 | 301 => (ErrorKind::Unavailable, self.cause),
            400 | 401 => (ErrorKind::HistoryLost, self.cause),
            _ => (ErrorKind::Server, format!("the server refused the request with code {code}")),
        };
        Error::new(kind, message)
    }
}

/// The error of a request without a definite answer, and whether another attempt may help.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: Error,
    pub(super) again: Again,
    pub(super) origin: Origin,
}

/// How a fault was detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A server, a connection or the system reported the fault.
    Told,
    /// The server closed the connection before it answered, or its answer was not HTTP. The server
    /// may speak TLS although the address says `http`, or the reverse.
    Unclear,
    /// The client gave up waiting.
    Clock,
}

/// Whether to send the request again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// No: the request was understood, and the answer will not change. A write was not applied.
    Never,
    /// Yes: ask each other endpoint once.
    Elsewhere,
    /// Yes: ask again after a while, as often as time allows.
    Later,
}

impl Fault {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>, again: Again) -> Self {
        Self { error: Error::new(kind, message), again, origin: Origin::Told }
    }
}

/// Parses an answer of the keys API.
pub(super) fn keys(answer: &Answer) -> Result<Reply, Fault> {
    if matches!(answer.status, 200 | 201) {
        let body: ChangeBody = object(&with_losses(&answer.body))?;
        let index = answer.index.ok_or_else(|| {
            Fault::new(ErrorKind::Server, "an answer without `X-Etcd-Index`; is this an etcd v2 server?", Again::Elsewhere)
        })?;
        let change = Change { action: body.action, node: body.node, previous: body.prev_node };
        return Ok(Reply { index: Revision::new(index), outcome: Ok(change) });
    }
    let Ok(body) = serde_json::from_slice::<ErrorBody>(&answer.body) else {
        return Err(unexpected(answer));
    };
    let refusal = Refusal { code: body.error_code, cause: body.cause, authenticated: answer.authenticated };
    // After a raft error, a write may have been applied, or may be applied later.
    if (answer.status >= 500 || matches!(refusal.code, 300 | 301)) && !refusal.is_defect_of_3_5() {
        let error = refusal.into_error();
        return Err(Fault { error, again: Again::Later, origin: Origin::Told });
    }
    Ok(Reply { index: Revision::new(body.index), outcome: Err(refusal) })
}

/// Parses an answer that is not from the keys API.
pub(super) fn plain<T: DeserializeOwned>(answer: &Answer) -> Result<T, Fault> {
    if answer.status == 200 { object(&answer.body) } else { Err(unexpected(answer)) }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChangeBody {
    action: Action,
    #[serde(default)]
    node: Node,
    prev_node: Option<Node>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody {
    error_code: u16,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    index: u64,
}

fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    // The parser's error quotes at most the name of a field, so it cannot reveal a value.
    serde_json::from_slice(body).map_err(|error| Fault {
        error: Error::new(ErrorKind::Server, "the answer is not the JSON that an etcd v2 server gives").caused_by(error),
        again: Again::Elsewhere,
        origin: Origin::Told,
    })
}

/// What to do if only the server uses TLS.
pub(super) const USE_TLS: &str = "the server speaks TLS: use the scheme `etcd2s://`";

/// What to do if only the client uses TLS.
pub(super) const USE_NO_TLS: &str = "the server speaks without TLS: use the scheme `etcd2://`";

/// Explains an answer that is not from the keys API but from another server, a proxy, or another
/// part of etcd.
fn unexpected(answer: &Answer) -> Fault {
    let message = serde_json::from_slice::<MessageBody>(&answer.body).map(|body| body.message).unwrap_or_default();
    let status = answer.status;
    match status {
        // Servers written in Go, and nginx, answer with these words if they expect TLS.
        400 if answer.body.windows(12).any(|words| words == b"HTTPS server")
            || answer.body.windows(10).any(|words| words == b"HTTPS port") =>
        {
            Fault::new(ErrorKind::Tls, USE_TLS, Again::Never)
        }
        301 | 302 | 307 | 308 => Fault::new(
            ErrorKind::Server,
            "the server redirects to another address, which is not followed; name the right endpoint",
            Again::Never,
        ),
        401 => Fault::new(ErrorKind::Unauthenticated, message, Again::Never),
        403 if message.contains("not current leader") => {
            Fault::new(ErrorKind::Unavailable, "this member is not the leader; ask the leader", Again::Elsewhere)
        }
        403 => Fault::new(ErrorKind::PermissionDenied, message, Again::Never),
        404 => not_found(answer.server.as_ref()),
        413 => {
            let message =
                "HTTP status 413: a proxy before the server refuses requests of this size; raise its limit (nginx: `client_max_body_size`)";
            Fault::new(ErrorKind::TooLarge, message, Again::Never)
        }
        414 | 431 => {
            let message = format!(
                "HTTP status {status}: the server, or a proxy before it, refuses a request line or headers of this length (nginx: `large_client_header_buffers`)"
            );
            Fault::new(ErrorKind::TooLarge, message, Again::Never)
        }
        408 | 429 | 500.. => Fault::new(ErrorKind::Unavailable, format!("HTTP status {status} {message}").trim_end(), Again::Later),
        _ => Fault::new(ErrorKind::Server, format!("HTTP status {status} {message}").trim_end(), Again::Never),
    }
}

/// Explains a 404 that the keys API did not send: the server has no v2 API, or is not an etcd.
fn not_found(server: Option<&Server>) -> Fault {
    let (kind, message) = match server {
        Some(Server::Etcd(version)) if lost_v2(version) => {
            (ErrorKind::Unsupported, format!("the server is etcd {version}, which has no v2 API (3.6 removed it): use etcd:// for v3"))
        }
        Some(Server::Etcd(version)) => (
            ErrorKind::Unsupported,
            format!("the v2 API is off on this server (etcd {version}): start it with --enable-v2=true, or use etcd:// for v3"),
        ),
        Some(Server::Other) => (
            ErrorKind::Server,
            "HTTP status 404, and `/version` is not answered as etcd answers it: this does not look like an etcd; check the address"
                .to_owned(),
        ),
        Some(Server::Unknown(why)) => {
            (ErrorKind::Server, format!("HTTP status 404, and the server did not say whether it is an etcd with the v2 API ({why})"))
        }
        None => (ErrorKind::Server, "HTTP status 404".to_owned()),
    };
    Fault::new(kind, message, Again::Never)
}

/// Returns whether an etcd of this version has no v2 API at all, which holds from 3.6 on.
fn lost_v2(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let mut number = || numbers.next().unwrap_or(0);
    (number(), number()) >= (3, 6)
}

#[derive(Deserialize)]
struct MessageBody {
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, index: Some(9), cluster: None, body: Bytes::copy_from_slice(body.as_bytes()), authenticated: false, server: None }
    }

    fn refused(status: u16, code: u16, cause: &str) -> Refusal {
        let body = format!(r#"{{"errorCode":{code},"message":"m","cause":"{cause}","index":7}}"#);
        let reply = keys(&answer(status, &body)).expect("a definite answer");
        assert_eq!(reply.index, Revision::new(7));
        reply.outcome.expect_err("a refusal")
    }

    /// Generates one test for each of the server's error codes.
    macro_rules! codes {
        ($($name:ident: $status:literal $code:literal $cause:literal => $kind:ident;)*) => {$(
            #[test]
            fn $name() {
                let error = refused($status, $code, $cause).into_error();
                assert_eq!(error.kind(), ErrorKind::$kind);
                assert!(!error.may_have_applied() && !error.is_retryable());
            }
        )*};
    }

    codes! {
        code_100_key_not_found: 404 100 "/a" => NotFound;
        code_101_compare_failed: 412 101 "[secret != b]" => Conflict;
        code_102_not_a_file: 403 102 "/a" => IsADirectory;
        code_104_not_a_directory: 400 104 "/a" => NotADirectory;
        code_105_exists: 412 105 "/a" => AlreadyExists;
        code_107_root: 400 107 "/" => InvalidKey;
        code_108_not_empty: 403 108 "/a" => DirectoryNotEmpty;
        code_110_without_credentials: 401 110 "Insufficient credentials" => Unauthenticated;
        code_200_old: 400 200 "" => Server;
        code_201_prev_value: 400 201 "" => Server;
        code_202_ttl: 400 202 "" => Server;
        code_203_index: 400 203 "" => Server;
        code_209_field: 400 209 "" => Server;
        code_210_form: 400 210 "invalid URL escape" => Server;
        code_210_large: 400 210 "http: POST too large" => TooLarge;
        code_211_value_on_refresh: 400 211 "" => Server;
        code_212_refresh_without_ttl: 400 212 "" => Server;
        code_300_defect_of_3_5: 500 300 "nodePath /1/d : Not a file ()" => Unsupported;
        code_400_cleared: 400 400 "" => HistoryLost;
        code_401_cleared: 400 401 "the requested history has been cleared [132/126]" => HistoryLost;
        code_unknown: 400 999 "" => Server;
    }

    #[test]
    fn code_110_with_credentials_is_permission_denied() {
        let mut answer = answer(401, r#"{"errorCode":110,"message":"m","cause":"Insufficient credentials","index":0}"#);
        answer.authenticated = true;
        let error = keys(&answer).unwrap().outcome.unwrap_err().into_error();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn raft_errors_allow_retry() {
        for code in [300, 301] {
            let body = format!(r#"{{"errorCode":{code},"message":"m","cause":"etcdserver: request timed out","index":7}}"#);
            let fault = keys(&answer(500, &body)).unwrap_err();
            assert_eq!((fault.error.kind(), fault.again), (ErrorKind::Unavailable, Again::Later));
        }
    }

    #[test]
    fn refusals_never_show_values() {
        for (code, cause) in [(101, "[secret != b]"), (210, "secret"), (201, "secret"), (211, "secret")] {
            let error = refused(412, code, cause).into_error();
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
    }

    #[test]
    fn oldest_revision_is_parsed_from_cause() {
        let lost = |cause| refused(400, 401, cause).history_lost();
        assert_eq!(lost("the requested history has been cleared [132/126]"), Some(Some(Revision::new(132))));
        assert_eq!(lost("gone"), Some(None));
        assert_eq!(lost("[x/y]"), Some(None));
        assert_eq!(refused(404, 100, "/a").history_lost(), None);
    }

    #[test]
    fn answers_without_error_code_are_classified() {
        for (status, body, kind, again) in [
            (404, "404 page not found\n", ErrorKind::Server, Again::Never),
            (301, "", ErrorKind::Server, Again::Never),
            (307, "", ErrorKind::Server, Again::Never),
            (400, "400 Bad Request", ErrorKind::Server, Again::Never),
            (400, "Client sent an HTTP request to an HTTPS server.\n", ErrorKind::Tls, Again::Never),
            (405, "Method Not Allowed", ErrorKind::Server, Again::Never),
            (431, "", ErrorKind::TooLarge, Again::Never),
            (401, "<html>", ErrorKind::Unauthenticated, Again::Never),
            (403, "<html>", ErrorKind::PermissionDenied, Again::Never),
            (502, "<html>bad gateway</html>", ErrorKind::Unavailable, Again::Later),
            (503, r#"{"message":"During election"}"#, ErrorKind::Unavailable, Again::Later),
            (200, "", ErrorKind::Server, Again::Elsewhere),
            (200, "<html>", ErrorKind::Server, Again::Elsewhere),
            (200, "[]", ErrorKind::Server, Again::Elsewhere),
            (200, r#"{"action":"dance","node":{}}"#, ErrorKind::Server, Again::Elsewhere),
            (200, r#"{"action":"get","node":{"modifiedIndex":"x"}}"#, ErrorKind::Server, Again::Elsewhere),
        ] {
            let fault = keys(&answer(status, body)).unwrap_err();
            assert_eq!((fault.error.kind(), fault.again), (kind, again), "{status} {body}");
        }
        let fault = plain::<Node>(&answer(403, r#"{"message":"not current leader"}"#)).unwrap_err();
        assert_eq!((fault.error.kind(), fault.again), (ErrorKind::Unavailable, Again::Elsewhere));
    }

    #[test]
    fn answer_without_index_is_rejected() {
        let answer = Answer { index: None, ..answer(200, r#"{"action":"get","node":{"key":"/a","value":""}}"#) };
        assert_eq!(keys(&answer).unwrap_err().error.kind(), ErrorKind::Server);
    }

    #[test]
    fn incomplete_nodes_are_parsed() {
        let change = |body| keys(&answer(200, body)).unwrap().outcome.unwrap();
        let root = change(r#"{"action":"get","node":{"dir":true}}"#).node.into_directory();
        assert_eq!((root.key.as_ref(), root.modified), (&b"/"[..], Revision::ZERO));
        let expired = change(
            r#"{"action":"expire","node":{"key":"/a","modifiedIndex":5,"createdIndex":4},
                "prevNode":{"key":"/a","value":"\u003c","expiration":"2026-11-22T04:43:34.29939115Z","ttl":-2,"modifiedIndex":4,"createdIndex":4},"new":1}"#,
        );
        assert!(expired.action.removes());
        let previous = expired.previous.unwrap().into_kv();
        assert_eq!((previous.value.as_ref(), previous.ttl), (&b"<"[..], Some(Duration::ZERO)));
        let over = r#"{"key":"/a","value":"v","expiration":"2026-11-22T04:43:34.29939115Z","modifiedIndex":4,"createdIndex":4}"#;
        let over: Node = serde_json::from_str(over).unwrap();
        assert_eq!(over.into_kv().ttl, Some(Duration::ZERO), "an expired key is listed for a moment");
    }

    #[test]
    fn values_with_replaced_bytes_are_detected() {
        let kv = |node: &str| keys(&answer(200, &format!(r#"{{"action":"get","node":{node}}}"#))).unwrap().outcome.unwrap().node.into_kv();
        for replaced in [r"\ufffd", r"x\ufffdy", r"\\\ufffd", r"\ufffd\ufffd\ufffd", r"\u0000\ufffd", "\u{fffd}\\ufffd"] {
            assert_eq!(kv(&format!(r#"{{"key":"/a","value":"{replaced}"}}"#)).value, LOST, "{replaced}");
        }
        for (escaped, text) in [("\u{fffd}", "\u{fffd}"), (r"\\ufffd", r"\ufffd"), (r"\\\\ufffd\u0000", "\\\\ufffd\0"), ("", "")] {
            assert_eq!(kv(&format!(r#"{{"key":"/a","value":"{escaped}"}}"#)).value, text, "{escaped}");
        }
        let key = kv(r#"{"key":"/a/\ufffd","value":"v"}"#).key;
        assert!(std::str::from_utf8(&key).is_err(), "a changed key must not pass for another key");
    }

    #[test]
    fn deepest_allowed_key_can_be_listed() {
        let mut node = r#"{"key":"/x","value":"v"}"#.to_owned();
        for _ in 0..60 {
            node = format!(r#"{{"key":"/x","dir":true,"nodes":[{node}]}}"#);
        }
        assert!(keys(&answer(200, &format!(r#"{{"action":"get","node":{node}}}"#))).is_ok());
    }

    proptest! {
        #[test]
        fn parsing_any_body_never_panics(status in 200u16..600, body in "\\PC*|[{}\\[\\]\":,a-z0-9]{0,40}") {
            let answer = answer(status, &body);
            let _ = keys(&answer);
            let _ = plain::<Node>(&answer);
        }
    }
}
