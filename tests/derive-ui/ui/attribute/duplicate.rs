use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[etcd(prefix = "/a", prefix = "/b")]
struct Schema {
    #[etcd(rename = "b", json)]
    #[etcd(rename = "c", json, alias = "d", alias = "e")]
    a: u8,
}

fn main() {}
