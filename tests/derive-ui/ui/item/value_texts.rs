use etcd_typed::EtcdValue;

#[derive(EtcdValue)]
#[etcd(rename_all = "lowercase")]
enum Value {
    OnOff,
    Onoff,
    #[etcd(alias = "onoff")]
    Other,
    #[etcd(rename = " x", alias = "")]
    White,
}

fn main() {}
