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

#[derive(EtcdSchema)]
struct WithDirectory {
    #[etcd(dir)]
    shared: Inner,
}

#[derive(EtcdSchema)]
enum OfStructs {
    A {
        #[etcd(rename = "other", alias = "shared")]
        name: String,
    },
    B(WithDirectory),
}

fn main() {}
