use etcd_typed::EtcdSchema;

#[derive(Debug)]
struct Plain;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(json)]
    a: Plain,
}

fn main() {}
