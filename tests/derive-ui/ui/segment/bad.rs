use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
struct Schema {
    #[etcd(rename = "")]
    a: u8,
    #[etcd(rename = "x/y")]
    b: u8,
    #[etcd(rename = ".")]
    c: u8,
    #[etcd(rename = "..")]
    d: u8,
    #[etcd(rename = "a\nb")]
    e: u8,
    #[etcd(rename = "_f")]
    f: u8,
    #[etcd(rename = "50%")]
    g: u8,
    #[etcd(alias = "_h", alias = "h/")]
    h: u8,
    _hidden: u8,
}

fn main() {}
