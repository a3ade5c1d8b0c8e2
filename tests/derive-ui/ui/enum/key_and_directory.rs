use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Inner {
    a: u8,
}

#[derive(EtcdSchema)]
enum Enum {
    A {
        name: String,
    },
    B {
        #[etcd(dir)]
        name: Inner,
    },
}

fn main() {}
