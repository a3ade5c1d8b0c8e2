use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[allow(non_snake_case)]
struct Schema {
    a_b: u8,
    aB: u8,
}

// The enum still exists.
fn f(change: SchemaChange) -> u8 {
    match change {
        SchemaChange::AB(_) => 1,
    }
}

fn main() {}
