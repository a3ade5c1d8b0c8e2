use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(default = 3)]
    a: Option<u8>,
    #[etcd(default)]
    b: Option<u8>,
}

fn main() {}
