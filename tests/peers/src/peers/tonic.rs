//! Bare calls: tonic's channel, and hand-written messages with only the needed fields.

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::KeyValue;
use crate::Result;
use crate::cases::repeated::Caller;
use crate::payload::{self, CONFIG, KEYS, VALUES};

#[derive(Clone)]
pub(crate) struct Tonic(Grpc<Channel>);

impl Tonic {
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?;
        // The answer for a large directory exceeds the default limit.
        Ok(Self(Grpc::new(channel).max_decoding_message_size(usize::MAX)))
    }

    pub(crate) async fn fields(address: &str) -> Result<Below> {
        Ok(Below { tonic: Self::connect(address).await?, directory: CONFIG.to_owned(), wanted: payload::fields() })
    }

    pub(crate) async fn directory(address: &str, count: usize) -> Result<Below> {
        let tonic = Self::connect(address).await?;
        Ok(Below { tonic, directory: payload::directory_name(count), wanted: payload::directory(count) })
    }

    async fn range(&mut self, key: &str, range_end: impl Into<Bytes>) -> Result<Vec<Pair>> {
        let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), range_end: range_end.into() };
        let reply: RangeResponse = self.call("/etcdserverpb.KV/Range", request).await?;
        Ok(reply.kvs)
    }

    async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        Ok(self.0.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
    }
}

impl KeyValue for Tonic {
    async fn get(&mut self, key: usize, value: usize) -> Result<()> {
        let found = self.range(&KEYS[key], Bytes::new()).await?;
        payload::check(found.first().map(|pair| pair.value.as_ref()), value)
    }

    async fn put(&mut self, key: usize, value: usize) -> Result<()> {
        let request = PutRequest { key: KEYS[key].as_str().into(), value: VALUES[value].as_str().into() };
        let _: PutResponse = self.call("/etcdserverpb.KV/Put", request).await?;
        Ok(())
    }
}

/// Reads all keys of a directory in one range.
pub(crate) struct Below {
    tonic: Tonic,
    directory: String,
    wanted: Vec<(String, String)>,
}

impl Caller for Below {
    async fn call(&mut self) -> Result<()> {
        // The directory's name ends with a slash. `0` is the character after it, so this is the end
        // of the range.
        let end = self.directory.trim_end_matches('/').to_owned() + "0";
        let found = self.tonic.range(&self.directory, end).await?;
        payload::check_all(&self.wanted, found.iter().map(|pair| (pair.key.as_ref(), pair.value.as_ref())))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    range_end: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<Pair>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pair {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}
