use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Parent {
    #[etcd(dir)]
    child: Child,
}

#[derive(EtcdSchema)]
struct Child {
    #[etcd(dir)]
    parent: Option<Parent>,
}

fn main() {}
