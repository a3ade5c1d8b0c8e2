use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[etcd]
struct NoParentheses {
    #[etcd = "json"]
    a: u8,
}

#[derive(EtcdSchema)]
#[etcd(prefix, rename_all = kebab, validate = "check", change = Clone)]
struct Schema {
    #[etcd(rename(b), alias = 1)]
    a: u8,
    #[etcd(json = true)]
    b: u8,
    #[etcd(rename =, with = "module")]
    c: u8,
    #[etcd(rename = "d" json)]
    d: u8,
    #[etcd("e")]
    e: u8,
    #[etcd(default = )]
    f: u8,
}

fn main() {}
