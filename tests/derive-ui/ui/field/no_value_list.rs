use etcd_typed::EtcdSchema;

struct Server;

#[derive(EtcdSchema)]
struct Lists {
    servers: Vec<Server>,
}

fn main() {}
