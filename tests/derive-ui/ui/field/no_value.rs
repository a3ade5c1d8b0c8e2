use etcd_typed::EtcdSchema;

struct Plain;

#[derive(EtcdSchema)]
struct Schema {
    a: Plain,
    b: Option<std::sync::Mutex<u8>>,
}

fn main() {}
