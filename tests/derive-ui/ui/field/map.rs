use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    a: std::collections::BTreeMap<String, u8>,
    b: Option<u8>,
}

fn main() {}
