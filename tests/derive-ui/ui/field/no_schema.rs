use etcd_typed::EtcdSchema;

#[derive(Debug)]
struct Plain;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(dir)]
    a: Plain,
}

fn main() {}
