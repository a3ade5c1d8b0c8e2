use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Inner {
    kind: String,
}

#[derive(EtcdSchema)]
enum Enum {
    A(Inner),
}

#[derive(EtcdSchema)]
struct Outer {
    a: u8,
    #[etcd(flatten)]
    beside: Beside,
}

#[derive(EtcdSchema)]
enum Beside {
    A { a: u8 },
}

fn main() {}
