use etcd_typed::EtcdValue;

#[derive(EtcdValue)]
#[serde(tag = "kind")]
enum Tagged {
    A,
}

#[derive(EtcdValue)]
#[serde(untagged)]
enum Untagged {
    A,
}

#[derive(EtcdValue)]
#[serde(rename_all = "lowercase")]
enum Variants {
    A,
    #[serde(rename = "a")]
    B,
    #[serde(skip)]
    C,
    #[serde(other)]
    D,
}

#[derive(EtcdValue)]
#[serde(try_from = "u8", into = "u8")]
struct Converted(u8);

#[derive(EtcdValue)]
struct With(#[serde(with = "module")] u8);

fn main() {}
