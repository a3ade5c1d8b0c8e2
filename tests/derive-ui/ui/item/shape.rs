use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
enum Enum {
    A,
}

#[derive(EtcdSchema)]
union Union {
    a: u8,
}

#[derive(EtcdSchema)]
struct Tuple(u8, u8);

// The derived items still exist.
fn f(_: EnumDir, _: UnionDir, _: TupleDir) {}

fn main() {}
