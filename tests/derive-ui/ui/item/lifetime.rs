use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema<'a> {
    #[etcd(json)]
    a: &'a str,
}

fn main() {}
