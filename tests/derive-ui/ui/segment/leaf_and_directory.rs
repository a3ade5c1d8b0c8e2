use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    database: String,
    #[etcd(dir, rename = "database")]
    settings: Inner,
    #[etcd(alias = "database")]
    url: String,
}

#[derive(EtcdSchema)]
struct Inner {
    a: u8,
}

fn main() {}
