use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[serde(tag = "kind", content = "data")]
enum Adjacent {
    A(u8),
}

#[derive(EtcdSchema)]
#[serde(untagged)]
enum Untagged {
    A { a: u8 },
}

#[derive(EtcdSchema)]
#[serde(tag = "type")]
struct Named {
    a: u8,
}

#[derive(EtcdSchema)]
#[serde(transparent)]
struct Transparent {
    a: u8,
}

#[derive(EtcdSchema)]
#[serde(try_from = "Raw", into = "Raw")]
struct Converted {
    a: u8,
}

fn main() {}
