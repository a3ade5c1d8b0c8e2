use etcd_typed::EtcdValue;

#[derive(EtcdValue)]
enum Data {
    A(u8),
    B { c: u8 },
    C,
}

#[derive(EtcdValue)]
enum Nothing {}

#[derive(EtcdValue)]
struct Named {
    a: u8,
}

#[derive(EtcdValue)]
struct Pair(u8, u8);

#[derive(EtcdValue)]
struct Unit;

#[derive(EtcdValue)]
union Union {
    a: u8,
}

// The trait is still implemented.
fn f(data: Data) {
    let _ = etcd_typed::EtcdValue::encode(&data);
}

fn main() {}
