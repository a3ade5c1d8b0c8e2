use etcd_typed::{EtcdSchema, EtcdValue, Secret};

#[derive(EtcdSchema)]
struct Schema {
    #[serde(deserialize_with = "from_file")]
    only_read: Secret<String>,
    #[serde(serialize_with = "etcd_typed::serialize_masked", deserialize_with = "from_file")]
    #[etcd(secret)]
    read_and_masked: String,
    #[serde(skip_deserializing)]
    only_written: Secret<String>,
}

#[derive(EtcdValue)]
struct Newtype(#[serde(deserialize_with = "from_file")] Secret<String>);

fn main() {}
