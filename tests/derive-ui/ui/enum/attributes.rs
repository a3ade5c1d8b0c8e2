use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[etcd(other, default)]
#[serde(tag = "kind", rename_all = "Snake")]
enum OnEnum {
    #[etcd(tag = "a", secret)]
    A { a: u8 },
}

#[derive(EtcdSchema)]
#[etcd(tag = "kind")]
struct OnStruct {
    a: u8,
}

#[derive(EtcdSchema)]
enum OnVariant {
    #[serde(skip)]
    A { a: u8 },
    #[serde(skip_deserializing)]
    B,
    #[serde(untagged)]
    C { a: u8 },
    #[serde(with = "module")]
    D { a: u8 },
    #[serde(rename(serialize = "e", deserialize = "f"))]
    E,
}

#[derive(EtcdSchema)]
struct Inner {
    a: u8,
}

#[derive(EtcdSchema)]
enum OnUnnamedField {
    A(#[etcd(json)] Inner),
    B(#[serde(flatten)] Inner),
}

#[derive(EtcdSchema)]
enum Other {
    A { a: u8 },
    #[etcd(other)]
    B,
    #[serde(other)]
    C,
    #[etcd(other)]
    D { d: u8 },
}

fn main() {}
