use etcd_typed::EtcdSchema;
use std::collections::BTreeMap;

#[derive(EtcdSchema)]
enum Empty {}

#[derive(EtcdSchema)]
enum WithoutData {
    A,
    B,
}

#[derive(EtcdSchema)]
#[serde(tag = "kind", content = "data")]
enum Adjacent {
    A(u8),
}

#[derive(EtcdSchema)]
#[serde(untagged)]
enum Untagged {
    A { a: u8 },
}

#[derive(EtcdSchema)]
enum Shapes {
    Two(u8, u8),
    List(Vec<u8>),
    Map(BTreeMap<String, u8>),
    Itself(Box<Shapes>),
    Nested {
        #[etcd(dir)]
        itself: Option<Box<Shapes>>,
    },
}

// The derived items still exist.
fn f(_: EmptyDir, _: UntaggedDir, _: ShapesDir, _: ShapesChange) {}

fn main() {}
