use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(default = true)]
    a: u8,
}

fn main() {}
