use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[etcd(validate = of_another)]
struct Schema {
    #[etcd(validate = of_value)]
    a: u8,
    #[etcd(validate = of_bool)]
    b: u8,
    #[etcd(validate = of_nothing)]
    c: u8,
}

fn of_value(_: u8) -> Result<(), String> {
    Ok(())
}

fn of_bool(_: &u8) -> bool {
    true
}

fn of_nothing() {}

fn of_another(_: &str) -> Result<(), String> {
    Ok(())
}

fn main() {}
