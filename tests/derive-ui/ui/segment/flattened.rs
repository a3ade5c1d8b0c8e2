use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    name: String,
    #[etcd(flatten)]
    inner: Inner,
}

#[derive(EtcdSchema)]
struct Inner {
    #[etcd(alias = "name")]
    title: String,
}

fn main() {}
