use etcd_typed::{EtcdSchema, Secret};

#[derive(EtcdSchema)]
struct Holder {
    #[etcd(json)]
    password: Secret<String>,
}

fn main() {}
