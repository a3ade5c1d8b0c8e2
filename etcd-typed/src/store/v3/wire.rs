//! The gRPC messages of etcd v3 that this client uses, and the methods that carry them. They are
//! written by hand, so that no `protoc` is needed and keys and values are `Bytes`. The field
//! numbers are those of `rpc.proto` and `kv.proto`. Fields that this client does not read are
//! omitted, and decoders skip them.

#[macro_use]
mod message;
mod range;
mod watch;

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
#[cfg(test)]
use prost::Message;

use super::connection::Received;

/// A gRPC method: its path, and the types of its request and answer.
pub(super) struct Method<Q, A> {
    pub(super) path: &'static str,
    pub(super) shape: Shape,
    pub(super) header: Header,
    types: PhantomData<fn(Q) -> A>,
}

/// What the header of an answer must contain. An answer without that content does not come from
/// etcd. A peer that sends an empty message must not pass for a server that performed the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// The cluster id, and the revision of the store, which is at least 1.
    Revision,
    /// The cluster id.
    Cluster,
    /// The header may be empty, because etcd's `grpc-proxy` gives this answer itself.
    Nothing,
}

/// A [`Method`] without its message types.
pub(super) type Untyped = Method<(), ()>;

/// How a [`Method`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The method has one request and one answer.
    Unary,
    /// A bidirectional stream, opened for one request and its first answer. The server ends the
    /// stream when the request side ends.
    FirstOfStream,
    /// Like `FirstOfStream`, but the server keeps the stream open until it is cancelled.
    FirstOfLastingStream,
}

impl<Q, A> Method<Q, A> {
    const fn unary(path: &'static str, header: Header) -> Self {
        Self { path, shape: Shape::Unary, header, types: PhantomData }
    }

    const fn first_of_stream(path: &'static str, shape: Shape, header: Header) -> Self {
        Self { path, shape, header, types: PhantomData }
    }

    /// Returns the method without its types.
    pub(super) const fn untyped(&self) -> Untyped {
        Method { path: self.path, shape: self.shape, header: self.header, types: PhantomData }
    }

    /// Returns the name without the service, such as `Range`. The metrics of a server call it
    /// `grpc_method`.
    pub(super) fn name(&self) -> &'static str {
        self.path.rsplit_once('/').map_or(self.path, |(_, name)| name)
    }
}

impl<Q, A> fmt::Debug for Method<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path)
    }
}

pub(super) const RANGE: Method<RangeRequest, RangeResponse> = Method::unary("/etcdserverpb.KV/Range", Header::Revision);
pub(super) const PUT: Method<PutRequest, PutResponse> = Method::unary("/etcdserverpb.KV/Put", Header::Revision);
pub(super) const DELETE_RANGE: Method<DeleteRangeRequest, DeleteRangeResponse> =
    Method::unary("/etcdserverpb.KV/DeleteRange", Header::Revision);
pub(super) const TXN: Method<TxnRequest, TxnResponse> = Method::unary("/etcdserverpb.KV/Txn", Header::Revision);
pub(super) const LEASE_GRANT: Method<LeaseGrantRequest, LeaseGrantResponse> =
    Method::unary("/etcdserverpb.Lease/LeaseGrant", Header::Cluster);
pub(super) const LEASE_REVOKE: Method<LeaseRevokeRequest, LeaseRevokeResponse> =
    Method::unary("/etcdserverpb.Lease/LeaseRevoke", Header::Cluster);
pub(super) const LEASE_KEEP_ALIVE: Method<LeaseKeepAliveRequest, LeaseKeepAliveResponse> =
    Method::first_of_stream("/etcdserverpb.Lease/LeaseKeepAlive", Shape::FirstOfStream, Header::Cluster);
pub(super) const LEASE_TIME_TO_LIVE: Method<LeaseTimeToLiveRequest, LeaseTimeToLiveResponse> =
    Method::unary("/etcdserverpb.Lease/LeaseTimeToLive", Header::Cluster);
pub(super) const MEMBER_LIST: Method<MemberListRequest, MemberListResponse> =
    Method::unary("/etcdserverpb.Cluster/MemberList", Header::Nothing);
pub(super) const STATUS: Method<StatusRequest, StatusResponse> = Method::unary("/etcdserverpb.Maintenance/Status", Header::Cluster);
pub(super) const AUTHENTICATE: Method<AuthenticateRequest, AuthenticateResponse> =
    Method::unary("/etcdserverpb.Auth/Authenticate", Header::Cluster);
/// A watch that is created only for its first answer, which contains the cluster id. Every server
/// sends this answer, even without a leader, and even to a user without permission to watch: the
/// server refuses the watch in an answer and not with a gRPC status.
pub(super) const FIRST_OF_WATCH: Method<WatchRequest, WatchResponse> =
    Method::first_of_stream(WATCH, Shape::FirstOfLastingStream, Header::Nothing);
/// The watch stream. It is no [`Method`], because it stays open.
pub(super) const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// An answer with a header, which contains the cluster id.
pub(super) trait Answer: Received {
    /// Returns the header, if the server sent one.
    fn header(&self) -> Option<&ResponseHeader>;
}

impl Header {
    /// Returns whether a header contains what it must.
    pub(super) fn is_met_by(self, header: Option<&ResponseHeader>) -> bool {
        match self {
            Self::Revision => header.is_some_and(|header| header.cluster_id != 0 && header.revision > 0),
            Self::Cluster => header.is_some_and(|header| header.cluster_id != 0),
            Self::Nothing => true,
        }
    }
}

macro_rules! answers {
    ($($message:ty),+ $(,)?) => {
        $(impl Answer for $message {
            fn header(&self) -> Option<&ResponseHeader> {
                self.header.as_ref()
            }
        })+
    };
}

answers!(
    RangeResponse,
    PutResponse,
    DeleteRangeResponse,
    TxnResponse,
    WatchResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseKeepAliveResponse,
    LeaseTimeToLiveResponse,
    MemberListResponse,
    StatusResponse,
    AuthenticateResponse,
);

/// Converts enums to the numbers that are sent.
macro_rules! numbers {
    ($($name:ident),+ $(,)?) => {
        $(impl From<$name> for i32 {
            fn from(one: $name) -> Self {
                one as Self
            }
        })+
    };
}

numbers!(SortOrder, SortTarget, CompareResult, CompareTarget, EventType);

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct ResponseHeader {
        cluster_id: u64 = uint64 1,
        member_id: u64 = uint64 2,
        revision: i64 = int64 3,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct KeyValue {
        key: Bytes = bytes 1,
        create_revision: i64 = int64 2,
        mod_revision: i64 = int64 3,
        version: i64 = int64 4,
        value: Bytes = bytes 5,
        lease: i64 = int64 6,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct RangeRequest {
        key: Bytes = bytes 1,
        range_end: Bytes = bytes 2,
        limit: i64 = int64 3,
        revision: i64 = int64 4,
        sort_order: i32 = int32 5,
        sort_target: i32 = int32 6,
        serializable: bool = bool 7,
        keys_only: bool = bool 8,
        count_only: bool = bool 9,
        min_mod_revision: i64 = int64 10,
        max_create_revision: i64 = int64 13,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum SortOrder {
    Ascend = 1,
    Descend = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum SortTarget {
    Key = 0,
    Version = 1,
    Create = 2,
    Mod = 3,
    Value = 4,
}

/// `Message` is implemented by hand in `wire/range.rs`, because answers may contain tens of
/// thousands of keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RangeResponse {
    pub(super) header: Option<ResponseHeader>,
    pub(super) kvs: Vec<KeyValue>,
    pub(super) more: bool,
    pub(super) count: i64,
    /// See [`RangeReply::compact`](crate::store::RangeReply::compact). Not part of the message.
    pub(super) compact: bool,
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct PutRequest {
        key: Bytes = bytes 1,
        value: Bytes = bytes 2,
        lease: i64 = int64 3,
        prev_kv: bool = bool 4,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct PutResponse {
        header: Option<ResponseHeader> = optional message 1,
        prev_kv: Option<KeyValue> = optional message 2,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct DeleteRangeRequest {
        key: Bytes = bytes 1,
        range_end: Bytes = bytes 2,
        prev_kv: bool = bool 3,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct DeleteRangeResponse {
        header: Option<ResponseHeader> = optional message 1,
        deleted: i64 = int64 2,
        prev_kvs: Vec<KeyValue> = repeated message 3,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct TxnRequest {
        compare: Vec<Compare> = repeated message 1,
        success: Vec<RequestOp> = repeated message 2,
        failure: Vec<RequestOp> = repeated message 3,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct TxnResponse {
        header: Option<ResponseHeader> = optional message 1,
        succeeded: bool = bool 2,
        responses: Vec<ResponseOp> = repeated message 3,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct Compare {
        result: i32 = int32 1,
        target: i32 = int32 2,
        key: Bytes = bytes 3,
        target_union: Option<TargetUnion> = oneof 4 ..= 8,
        range_end: Bytes = bytes 64,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum CompareResult {
    Equal = 0,
    Greater = 1,
    Less = 2,
    NotEqual = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum CompareTarget {
    Version = 0,
    Create = 1,
    Mod = 2,
    Value = 3,
    Lease = 4,
}

oneof! {
    #[derive(Clone, Debug, PartialEq)]
    pub(super) enum TargetUnion {
        Version(i64) = int64 4,
        CreateRevision(i64) = int64 5,
        ModRevision(i64) = int64 6,
        Value(Bytes) = bytes 7,
        Lease(i64) = int64 8,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct RequestOp {
        request: Option<Request> = oneof 1 ..= 4,
    }
}

oneof! {
    #[derive(Clone, Debug, PartialEq)]
    pub(super) enum Request {
        Range(RangeRequest) = message 1,
        Put(PutRequest) = message 2,
        DeleteRange(DeleteRangeRequest) = message 3,
        Txn(TxnRequest) = message 4,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct ResponseOp {
        response: Option<Response> = oneof 1 ..= 3,
    }
}

oneof! {
    #[derive(Clone, Debug, PartialEq)]
    pub(super) enum Response {
        Range(RangeResponse) = message 1,
        Put(PutResponse) = message 2,
        DeleteRange(DeleteRangeResponse) = message 3,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct WatchRequest {
        step: Option<WatchStep> = oneof 1 ..= 3,
    }
}

oneof! {
    #[derive(Clone, Debug, PartialEq)]
    pub(super) enum WatchStep {
        Create(WatchCreateRequest) = message 1,
        Cancel(WatchCancelRequest) = message 2,
        Progress(WatchProgressRequest) = message 3,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct WatchCreateRequest {
        key: Bytes = bytes 1,
        range_end: Bytes = bytes 2,
        start_revision: i64 = int64 3,
        progress_notify: bool = bool 4,
        watch_id: i64 = int64 7,
        fragment: bool = bool 8,
    }
}

impl WatchRequest {
    /// Returns a request to watch the smallest key from now on.
    pub(super) fn of_one_key() -> Self {
        Self { step: Some(WatchStep::Create(WatchCreateRequest { key: Bytes::from_static(&[0]), ..WatchCreateRequest::default() })) }
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct WatchCancelRequest {
        watch_id: i64 = int64 1,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct WatchProgressRequest {}
}

/// `Message` is implemented in `wire/watch.rs`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct WatchResponse {
    pub(super) header: Option<ResponseHeader>,
    pub(super) watch_id: i64,
    pub(super) created: bool,
    pub(super) canceled: bool,
    pub(super) compact_revision: i64,
    pub(super) cancel_reason: String,
    pub(super) fragment: bool,
    pub(super) events: Vec<Event>,
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct Event {
        r#type: i32 = int32 1,
        kv: Option<KeyValue> = optional message 2,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum EventType {
    #[allow(dead_code, reason = "unused: any event that is not a deletion is a put")]
    Put = 0,
    Delete = 1,
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct LeaseGrantRequest {
        ttl: i64 = int64 1,
        id: i64 = int64 2,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct LeaseGrantResponse {
        header: Option<ResponseHeader> = optional message 1,
        ttl: i64 = int64 3,
        error: String = string 4,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct LeaseRevokeRequest {
        id: i64 = int64 1,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct LeaseRevokeResponse {
        header: Option<ResponseHeader> = optional message 1,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct LeaseKeepAliveRequest {
        id: i64 = int64 1,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct LeaseKeepAliveResponse {
        header: Option<ResponseHeader> = optional message 1,
        ttl: i64 = int64 3,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct LeaseTimeToLiveRequest {
        id: i64 = int64 1,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct LeaseTimeToLiveResponse {
        header: Option<ResponseHeader> = optional message 1,
        ttl: i64 = int64 3,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct MemberListRequest {
        linearizable: bool = bool 1,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct MemberListResponse {
        header: Option<ResponseHeader> = optional message 1,
        members: Vec<Member> = repeated message 2,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct Member {
        id: u64 = uint64 1,
        name: String = string 2,
        peer_urls: Vec<String> = repeated string 3,
        client_urls: Vec<String> = repeated string 4,
        is_learner: bool = bool 5,
    }
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct StatusRequest {}
}

message! {
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(super) struct StatusResponse {
        header: Option<ResponseHeader> = optional message 1,
        version: String = string 2,
        db_size: i64 = int64 3,
        leader: u64 = uint64 4,
        errors: Vec<String> = repeated string 8,
    }
}

message! {
    /// `Debug` is implemented below, without the password.
    #[derive(Clone, Default, PartialEq)]
    pub(super) struct AuthenticateRequest {
        name: String = string 1,
        password: String = string 2,
    }
}

impl fmt::Debug for AuthenticateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticateRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

message! {
    #[derive(Clone, Default, PartialEq)]
    pub(super) struct AuthenticateResponse {
        header: Option<ResponseHeader> = optional message 1,
        token: String = string 2,
    }
}

impl fmt::Debug for AuthenticateResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticateResponse").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
