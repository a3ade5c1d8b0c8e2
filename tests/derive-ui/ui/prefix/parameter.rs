use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[etcd(prefix = "/{env/x}/y")]
struct Unclosed {}

#[derive(EtcdSchema)]
#[etcd(prefix = "/env}")]
struct Unopened {}

#[derive(EtcdSchema)]
#[etcd(prefix = "/{}/{a b}/{1}/{self}/{x:?}")]
struct NoIdentifier {}

fn main() {}
