use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct WrongRange {
    #[etcd(range = 1..=5)]
    text: String,
}

#[derive(EtcdSchema)]
struct WrongLength {
    #[etcd(length = 1..=5)]
    number: u16,
}

#[derive(EtcdSchema)]
struct WrongValue {
    #[etcd(one_of = [true])]
    number: u16,
}

fn main() {}
