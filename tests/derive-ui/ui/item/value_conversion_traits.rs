use etcd_typed::EtcdValue;

struct Mute;

#[derive(EtcdValue)]
#[etcd(text)]
struct Wrapper(Mute);

#[derive(EtcdValue)]
#[etcd(text)]
struct Own {
    a: u16,
    b: u16,
}

#[derive(EtcdValue)]
#[etcd(try_from)]
struct Port(u16);

#[derive(EtcdValue)]
#[etcd(validate = wrong)]
struct Even(u16);

fn wrong(_: u16) -> Result<(), String> {
    Ok(())
}

fn main() {}
