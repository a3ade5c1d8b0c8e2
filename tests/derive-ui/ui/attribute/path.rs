use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[etcd(validate = |schema: &Schema| Ok::<(), String>(()))]
struct Schema {
    #[etcd(validate = |n: &u8| Ok::<(), String>(()))]
    a: u8,
    #[etcd(validate = check())]
    b: u8,
    #[etcd(with = |n| n)]
    c: u8,
    #[etcd(validate = 5)]
    d: u8,
}

fn main() {}
