use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(default = "Schema::title")]
    a: String,
    #[etcd(default = "five")]
    b: u8,
    #[etcd(default = five)]
    c: u8,
    #[etcd(default = Schema::five)]
    d: u8,
    #[etcd(default = || 5)]
    e: u8,
    #[etcd(default = u8::MAX)]
    f: u8,
    #[etcd(default = "5 s")]
    g: u64,
    #[etcd(default = "on")]
    h: bool,
}

fn five() -> u8 {
    5
}

impl Schema {
    fn five() -> u8 {
        5
    }

    fn title() -> String {
        String::new()
    }
}

fn main() {
    let _ = (five(), Schema::five(), Schema::title());
}
