use etcd_typed::EtcdSchema;

#[derive(EtcdSchema)]
#[etcd(prefix = "app/{env", rename_all = "kebap-case", unknown)]
struct Schema {
    #[etcd(renam = "x")]
    good_type: u8,
    #[etcd(default = 1, rename = "a/b")]
    optional: Option<u8>,
    #[etcd(entries)]
    list: Vec<u8>,
    #[etcd(dir, json)]
    inner: Inner,
    fine: String,
}

#[derive(EtcdSchema)]
struct Inner {
    a: u8,
}

// Code that uses the derived items causes no further errors.
async fn f(client: etcd_typed::Client) -> etcd_typed::Result<()> {
    let cfg = client.dir::<Schema>("/app")?;
    cfg.fine.set(&String::new()).await?;
    cfg.good_type.set(&1).await?;
    cfg.get().await?.fine.len();
    Ok(())
}

fn main() {}
