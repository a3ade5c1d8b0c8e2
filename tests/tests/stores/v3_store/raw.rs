//! Direct gRPC calls of an administrator or a foreign client, which the library itself does not
//! make.

use prost::Message;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct Compaction {
    #[prost(int64, tag = "1")]
    revision: i64,
    #[prost(bool, tag = "2")]
    physical: bool,
}

/// Two strings, the arguments of most calls about users and roles.
#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(string, tag = "1")]
    first: String,
    #[prost(string, tag = "2")]
    second: String,
}

#[derive(Clone, PartialEq, Message)]
struct Grant {
    #[prost(string, tag = "1")]
    role: String,
    #[prost(message, optional, tag = "2")]
    permission: Option<Permission>,
}

#[derive(Clone, PartialEq, Message)]
struct Permission {
    /// 0 allows reads, 1 writes, 2 both.
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Authenticated {
    #[prost(string, tag = "2")]
    token: String,
}

/// A client of one server. Sends the token of a user, if it has one.
pub(crate) struct Admin {
    endpoint: String,
    token: Option<String>,
}

impl Admin {
    pub(crate) fn of(endpoint: &str) -> Self {
        Self { endpoint: endpoint.to_owned(), token: None }
    }

    pub(crate) async fn compact(&self, revision: u64) {
        let revision = i64::try_from(revision).unwrap();
        let _: Nothing = self.call("/etcdserverpb.KV/Compact", Compaction { revision, physical: true }).await.unwrap();
    }

    /// Adds the users `root` (password `root`) and `anna` (password `secret`), who may read and
    /// write below `/anna`. Then enables authentication.
    pub(crate) async fn enable_auth(&self) {
        for (user, password) in [("root", "root"), ("anna", "secret")] {
            self.pair("UserAdd", user, password).await;
            self.pair("RoleAdd", user, "").await;
            self.pair("UserGrantRole", user, user).await;
        }
        let permission = Permission { kind: 2, key: b"/anna/".to_vec(), range_end: b"/anna0".to_vec() };
        let grant = Grant { role: "anna".to_owned(), permission: Some(permission) };
        let _: Nothing = self.call("/etcdserverpb.Auth/RoleGrantPermission", grant).await.unwrap();
        let _: Nothing = self.call("/etcdserverpb.Auth/AuthEnable", Nothing {}).await.unwrap();
    }

    /// Allows a role to read a key and the keys below it.
    pub(crate) async fn let_read(&self, role: &str, directory: &str) {
        let permission = Permission { kind: 0, key: directory.into(), range_end: format!("{directory}0").into() };
        let grant = Grant { role: role.to_owned(), permission: Some(permission) };
        let _: Nothing = self.call("/etcdserverpb.Auth/RoleGrantPermission", grant).await.unwrap();
    }

    pub(crate) async fn disable_auth(&self) {
        let _: Nothing = self.as_root().await.call("/etcdserverpb.Auth/AuthDisable", Nothing {}).await.unwrap();
    }

    pub(crate) async fn enable_auth_again(&self) {
        let _: Nothing = self.call("/etcdserverpb.Auth/AuthEnable", Nothing {}).await.unwrap();
    }

    pub(crate) async fn as_root(&self) -> Self {
        let credentials = Pair { first: "root".to_owned(), second: "root".to_owned() };
        let answer: Authenticated = self.call("/etcdserverpb.Auth/Authenticate", credentials).await.unwrap();
        Self { endpoint: self.endpoint.clone(), token: Some(answer.token) }
    }

    pub(crate) async fn pair(&self, call: &'static str, first: &str, second: &str) {
        let path = format!("/etcdserverpb.Auth/{call}");
        let _: Nothing = self.call(&path, Pair { first: first.to_owned(), second: second.to_owned() }).await.unwrap();
    }

    async fn call<Q, A>(&self, path: &str, message: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let channel = Endpoint::from_shared(format!("http://{}", self.endpoint)).unwrap().connect_lazy();
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.unwrap();
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.parse().unwrap());
        }
        let answer = grpc.unary(request, path.parse().unwrap(), ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }
}
