use etcd_typed::EtcdSchema;

mod human {
    pub fn serialize() {}
    pub fn deserialize() {}
}

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(with = human)]
    a: u8,
}

fn main() {
    human::serialize();
    human::deserialize();
}
