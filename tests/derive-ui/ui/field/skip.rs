use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(skip, rename = "x", json, secret)]
    a: u8,
    #[etcd(skip, dir)]
    b: u8,
}

fn main() {}
