use etcd_typed::EtcdSchema;

struct Plain;

#[derive(EtcdSchema)]
enum Unnamed {
    A(Plain),
    B(String),
}

#[derive(EtcdSchema)]
enum Named {
    A {
        #[etcd(dir)]
        plain: Plain,
    },
    B {
        other: Plain,
    },
}

fn main() {}
