use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[serde(rename_all(serialize = "camelCase", deserialize = "kebab-case"))]
struct Schema {
    #[serde(rename(serialize = "a", deserialize = "b"))]
    a: u8,
    #[serde(rename(deserialize = "c"))]
    b: u8,
    #[serde(rename = "")]
    c: u8,
    #[serde(rename = "a/b", alias = "_old")]
    d: u8,
    #[serde(rename = 5)]
    e: u8,
}

fn main() {}
