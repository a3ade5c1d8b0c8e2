use etcd_typed::EtcdValue;

#[derive(EtcdValue)]
#[etcd(text, try_from)]
struct Both(u16);

#[derive(EtcdValue)]
#[etcd(validate = positive)]
struct Named {
    number: u16,
}

#[derive(EtcdValue)]
#[etcd(validate = positive, transparent)]
enum Choice {
    A,
}

#[derive(EtcdValue)]
#[etcd(try_from)]
struct Two(u16, u16);

#[derive(EtcdValue)]
#[etcd(try_from = "u16")]
struct Quoted(u16);

#[derive(EtcdValue)]
#[etcd(text, rename_all = "kebab-case")]
struct Renamed(u16);

fn main() {}
