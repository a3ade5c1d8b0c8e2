use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(dir)]
    children: std::collections::BTreeMap<String, Schema>,
    #[etcd(dir)]
    child: std::collections::HashMap<u8, Self>,
}

fn main() {}
