use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(with = module, json)]
    a: u8,
    #[etcd(entries, json, with = module)]
    b: std::collections::BTreeMap<String, u8>,
}

fn main() {}
