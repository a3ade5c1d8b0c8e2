use etcd_typed::EtcdSchema;

#[derive(Debug)]
struct Mute;

#[derive(EtcdSchema)]
struct NoText {
    #[etcd(text)]
    mute: Mute,
}

#[derive(EtcdSchema)]
struct Both {
    #[etcd(text, json)]
    value: u16,
}

#[derive(EtcdSchema)]
struct Misplaced {
    #[etcd(allow_debug)]
    password: String,
}

fn main() {}
