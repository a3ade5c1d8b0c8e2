use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Parent {
    #[etcd(dir)]
    child: Box<Child>,
    name: String,
}

#[derive(EtcdSchema)]
struct Child {
    #[etcd(dir)]
    parent: Option<Box<Parent>>,
}

fn main() {}
