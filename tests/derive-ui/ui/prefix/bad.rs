use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[etcd(prefix = "a/b")]
struct NoSlash {}

#[derive(EtcdSchema)]
#[etcd(prefix = "/a//b/")]
struct Empty {}

#[derive(EtcdSchema)]
#[etcd(prefix = "/a/../b/./c")]
struct Dots {}

#[derive(EtcdSchema)]
#[etcd(prefix = "/a\0")]
struct Control {}

fn main() {}
