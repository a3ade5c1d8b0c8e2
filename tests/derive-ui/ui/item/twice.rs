use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    a: u8,
}

struct SchemaDir;

enum SchemaChange {
    A,
}

fn main() {}
