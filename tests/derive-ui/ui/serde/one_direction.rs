use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    #[serde(skip_serializing)]
    a: u8,
    #[serde(skip_deserializing, default)]
    b: u8,
}

fn main() {}
