use etcd_typed::{EtcdSchema, EtcdValue};

#[derive(EtcdSchema)]
#[etcd(prefx = "/a", anything)]
struct Typos {
    #[etcd(renam = "b")]
    a: u8,
    #[etcd(jsno)]
    b: u8,
    #[etcd(skip_serializing)]
    c: u8,
}

#[derive(EtcdValue)]
#[etcd(rename_al = "lowercase")]
enum Value {
    #[etcd(aliass = "x")]
    A,
}

fn main() {}
